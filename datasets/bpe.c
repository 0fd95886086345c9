#include "datasets/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

/* A symbol of the word being merged; neighbours are indices, -1 at the ends. */
struct bpe_symbol {
    int32_t id; /* -1: merged into its left neighbour */
    int32_t prev, next;
    int32_t begin; /* in the original text */
};

/* A merge that was possible when it was pushed: order is rank, then position. */
struct bpe_candidate {
    uint64_t order; /* rank << 32 | position */
    int32_t id;     /* the result */
};

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){ 0 };
}

static bool grow(void **data, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return true;
    size_t more = 0, bytes = 0;
    if (!size_add(need, need / 2 + 64, &more) || !size_mul(more, size, &bytes))
        return false;
    void *grown = realloc(*data, bytes);
    if (grown == NULL)
        return false;
    *data = grown;
    *cap = more;
    return true;
}

static bool push_symbol(struct bpe_scratch *s, int32_t id, int32_t begin)
{
    void *data = s->symbols;
    const bool ok = grow(&data, &s->symbol_cap, s->n_symbol + 1, sizeof *s->symbols);
    s->symbols = data;
    if (!ok)
        return false;
    const int32_t i = (int32_t)s->n_symbol++;
    s->symbols[i] = (struct bpe_symbol){ .id = id, .prev = i - 1, .next = -1, .begin = begin };
    if (i > 0)
        s->symbols[i - 1].next = i;
    return true;
}

static void heap_sift_down(struct bpe_candidate *heap, size_t n, size_t i)
{
    const struct bpe_candidate x = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1].order < heap[child].order)
            child++;
        if (heap[child].order >= x.order)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = x;
}

static void heap_sift_up(struct bpe_candidate *heap, size_t i)
{
    const struct bpe_candidate x = heap[i];
    while (i > 0 && heap[(i - 1) / 2].order > x.order) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = x;
}

/* Appends the merge of the symbol at `pos` with its right neighbour, if the list has it; the caller
 * restores the heap order. */
static bool append_candidate(const struct bpe *bpe, struct bpe_scratch *s, int32_t pos, bool *added)
{
    *added = false;
    const int32_t next = s->symbols[pos].next;
    const struct pair_slot *merge =
        pair_map_find(&bpe->merges, s->symbols[pos].id, s->symbols[next].id);
    if (merge == NULL)
        return true;
    void *data = s->heap;
    const bool ok = grow(&data, &s->heap_cap, s->n_heap + 1, sizeof *s->heap);
    s->heap = data;
    if (!ok)
        return false;
    s->heap[s->n_heap++] =
        (struct bpe_candidate){ .order = (uint64_t)(uint32_t)merge->rank << 32 | (uint32_t)pos,
                                .id = merge->id };
    *added = true;
    return true;
}

static bool push_candidate(const struct bpe *bpe, struct bpe_scratch *s, int32_t pos)
{
    bool added = false;
    if (!append_candidate(bpe, s, pos, &added))
        return false;
    if (added)
        heap_sift_up(s->heap, s->n_heap - 1);
    return true;
}

/* Merges the symbols of the scratch until nothing is left to merge. */
static bool merge_symbols(const struct bpe *bpe, struct bpe_scratch *s)
{
    s->n_heap = 0;
    bool added = false;
    for (size_t i = 0; i + 1 < s->n_symbol; i++) {
        if (!append_candidate(bpe, s, (int32_t)i, &added))
            return false;
    }
    for (size_t i = s->n_heap / 2; i-- > 0;)
        heap_sift_down(s->heap, s->n_heap, i);

    while (s->n_heap > 0) {
        const struct bpe_candidate top = s->heap[0];
        s->heap[0] = s->heap[--s->n_heap];
        heap_sift_down(s->heap, s->n_heap, 0);

        const int32_t pos = (int32_t)(top.order & UINT32_MAX);
        struct bpe_symbol *left = &s->symbols[pos];
        if (left->id < 0 || left->next < 0)
            continue;
        struct bpe_symbol *right = &s->symbols[left->next];
        /* Out of date when the neighbours changed. Like the tokenizers library, a candidate whose
         * result is still the right one counts, even if other parts make it up by now. */
        const struct pair_slot *merge = pair_map_find(&bpe->merges, left->id, right->id);
        if (merge == NULL || merge->id != top.id)
            continue;
        left->id = top.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) {
            s->symbols[left->next].prev = pos;
            if (!push_candidate(bpe, s, pos))
                return false;
        }
        if (left->prev >= 0 && !push_candidate(bpe, s, left->prev))
            return false;
    }
    return true;
}

/* Merges the stretch that is in the scratch, appends its tokens and empties it. */
static bool flush(const struct bpe *bpe, struct bpe_scratch *s, struct token_list *out)
{
    if (s->n_symbol == 0)
        return true;
    if (s->n_symbol > 1 && !merge_symbols(bpe, s))
        return false;
    for (int32_t i = 0; i >= 0; i = s->symbols[i].next) {
        if (!token_list_add(out, s->symbols[i].id, s->symbols[i].begin))
            return false;
    }
    s->n_symbol = 0;
    return true;
}

/* Adds the symbol of a character, after flushing the stretch before it when no merge reaches
 * across. */
static bool add_symbol(const struct bpe *bpe, struct bpe_scratch *s, int32_t id, int32_t begin,
                       struct token_list *out)
{
    const bool cut = s->n_symbol > 0 && bpe->joins_known &&
                     pair_map_find(&bpe->joins, s->symbols[s->n_symbol - 1].id, id) == NULL;
    return (!cut || flush(bpe, s, out)) && push_symbol(s, id, begin);
}

static bool no_token(const char *c, size_t n, int32_t begin, struct err *err)
{
    return err_set(
        err, ERR_DATA,
        "byte %d: the tokenizer has no token for the character '%.*s', and neither byte fallback "
        "nor an \"unk_token\"",
        begin, (int)n, c);
}

static bool encode_symbols(const struct bpe *bpe, struct aligned_view word, struct bpe_scratch *s,
                           struct token_list *out, struct err *err)
{
    bool ok = true, after_unknown = false;
    s->n_symbol = 0;
    for (size_t i = 0, n = 0; ok && i < word.n; i += n) {
        const char *c = word.bytes + i;
        n = text_utf8_length(c);
        const int32_t id =
            n == 1 ? bpe->ascii_id[(unsigned char)*c] : piece_map_find(&bpe->ids, c, n);
        const bool unknown = id < 0 && !bpe->byte_fallback;
        if (id >= 0) {
            ok = add_symbol(bpe, s, id, word.at[i], out);
        } else if (!unknown) {
            for (size_t k = 0; ok && k < n; k++)
                ok = add_symbol(bpe, s, bpe->byte_id[(unsigned char)c[k]], word.at[i + k], out);
        } else if (bpe->unk < 0) {
            return no_token(c, n, word.at[i], err);
        } else if (!bpe->fuse_unk || !after_unknown) {
            ok = add_symbol(bpe, s, bpe->unk, word.at[i], out);
        }
        after_unknown = unknown;
    }
    ok = ok && flush(bpe, s, out);
    return ok || err_no_memory(err, "tokens");
}

bool bpe_encode(const struct bpe *bpe, struct aligned_view word, struct bpe_scratch *s,
                struct token_list *out, struct err *err)
{
    if (bpe->ignore_merges && word.n > 0 && word.n <= bpe->longest) {
        const int32_t id = piece_map_find(&bpe->ids, word.bytes, word.n);
        if (id >= 0)
            return token_list_add(out, id, word.at[0]) || err_no_memory(err, "tokens");
    }
    return encode_symbols(bpe, word, s, out, err);
}
