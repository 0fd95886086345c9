/* Reads the BPE model of tokenizer.json. Every id, part and count is checked before it is used:
 * what loads here cannot fail later for the model's sake. */
#include "datasets/bpe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/token_node.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

void bpe_free(struct bpe *bpe)
{
    free(bpe->bytes);
    free(bpe->piece);
    piece_map_free(&bpe->ids);
    pair_map_free(&bpe->merges);
    pair_map_free(&bpe->joins);
    *bpe = (struct bpe){ 0 };
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool bpe_byte_piece(const char *piece, unsigned char *byte)
{
    if (strncmp(piece, "<0x", 3) != 0 || strlen(piece) != 6 || piece[5] != '>')
        return false;
    const int high = hex_digit(piece[3]), low = hex_digit(piece[4]);
    if (high < 0 || low < 0)
        return false;
    *byte = (unsigned char)(high * 16 + low);
    return true;
}

/* Settings under which the same text gives other tokens at each reading, or other symbols than
 * characters. */
static bool refuse_settings(json_t *model, struct err *err)
{
    double dropout = 0;
    if (!json_get_real(model, "dropout", false, &dropout, "model", err))
        return false;
    if (dropout < 0 || dropout > 0)
        return err_set(err, ERR_DATA,
                       "model: \"dropout\" is %g, which is not supported; expected null", dropout);
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    for (int i = 0; i < 2; i++) {
        const char *affix = "";
        if (!json_get_string(model, affixes[i], false, &affix, "model", err))
            return false;
        if (affix[0] != '\0')
            return err_set(err, ERR_DATA,
                           "model: \"%s\" is \"%s\", which is not supported; expected null",
                           affixes[i], affix);
    }
    return true;
}

/* Bytes of all pieces with their terminators, and the largest id. */
static bool measure_vocab(json_t *vocab, size_t *bytes, int64_t *n_id, struct err *err)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(vocab, key, value)
    {
        const json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= BPE_ID_LIMIT)
            return err_set(err, ERR_DATA, "model.vocab: \"%s\" has no id from 0 to %d", key,
                           BPE_ID_LIMIT - 1);
        *bytes += strlen(key) + 1;
        *n_id = id >= *n_id ? id + 1 : *n_id;
    }
    return true;
}

static bool load_vocab(struct bpe *bpe, json_t *vocab, struct err *err)
{
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return err_set(err, ERR_DATA,
                       "model: \"vocab\" is %s; expected an object of pieces and ids",
                       vocab == NULL           ? "missing"
                       : json_is_object(vocab) ? "empty"
                                               : json_type_name(vocab));
    size_t bytes = 0, used = 0;
    if (!measure_vocab(vocab, &bytes, &bpe->n_id, err))
        return false;
    bpe->bytes = malloc(bytes);
    bpe->piece = calloc((size_t)bpe->n_id, sizeof *bpe->piece);
    if (bpe->bytes == NULL || bpe->piece == NULL ||
        !piece_map_init(&bpe->ids, json_object_size(vocab)))
        return err_no_memory(err, "model.vocab");

    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(vocab, key, value)
    {
        const int32_t id = (int32_t)json_integer_value(value);
        const size_t n = strlen(key);
        if (bpe->piece[id] != NULL)
            return err_set(err, ERR_DATA,
                           "model.vocab: \"%s\" and \"%s\" have the same id %" PRId32,
                           bpe->piece[id], key, id);
        char *piece = bpe->bytes + used;
        memcpy(piece, key, n + 1);
        used += n + 1;
        bpe->piece[id] = piece;
        bpe->n_piece++;
        bpe->longest = n > bpe->longest ? n : bpe->longest;
        piece_map_add(&bpe->ids, piece, n, id);
    }
    for (int c = 0; c < 128; c++) {
        const char byte = (char)c;
        bpe->ascii_id[c] = piece_map_find(&bpe->ids, &byte, 1);
    }
    return true;
}

static bool load_bytes(struct bpe *bpe, struct err *err)
{
    static const char hex[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; b++) {
        const char piece[] = { '<', '0', 'x', hex[b / 16], hex[b % 16], '>', '\0' };
        bpe->byte_id[b] = piece_map_find(&bpe->ids, piece, 6);
        if (bpe->byte_id[b] < 0)
            return err_set(
                err, ERR_DATA,
                "model: \"byte_fallback\" is true but \"%s\" is not in the vocabulary; all 256 "
                "bytes must be",
                piece);
    }
    return true;
}

/* The unknown token matters only where characters can be unknown. */
static bool load_unknown(struct bpe *bpe, json_t *model, struct err *err)
{
    const char *unk = NULL;
    bpe->unk = -1;
    if (!json_get_string(model, "unk_token", false, &unk, "model", err))
        return false;
    if (unk == NULL)
        return true;
    bpe->unk = piece_map_find(&bpe->ids, unk, strlen(unk));
    if (bpe->unk < 0 && !bpe->byte_fallback)
        return err_set(err, ERR_DATA,
                       "model: \"unk_token\" is \"%s\", which is not in the vocabulary", unk);
    return true;
}

struct merge_parts {
    const char *left, *right;
    size_t left_n, right_n;
};

/* "a b", or ["a", "b"]. */
static bool read_merge(const json_t *merge, size_t i, struct merge_parts *p, struct err *err)
{
    *p = (struct merge_parts){ 0 };
    if (json_is_string(merge)) {
        const char *both = json_string_value(merge);
        const size_t n = json_string_length(merge);
        const char *space = memchr(both, ' ', n);
        if (space != NULL && memchr(space + 1, ' ', n - (size_t)(space - both) - 1) == NULL)
            *p = (struct merge_parts){ .left = both,
                                       .right = space + 1,
                                       .left_n = (size_t)(space - both),
                                       .right_n = n - (size_t)(space - both) - 1 };
    } else if (json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        *p = (struct merge_parts){ .left = json_string_value(left),
                                   .right = json_string_value(right),
                                   .left_n = json_string_length(left),
                                   .right_n = json_string_length(right) };
    }
    if (p->left_n > 0 && p->right_n > 0)
        return true;
    return err_set(err, ERR_DATA,
                   "model.merges[%zu]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]", i);
}

static bool not_in_vocab(size_t i, const char *piece, size_t n, struct err *err)
{
    return err_set(
        err, ERR_DATA,
        "model.merges[%zu]: \"%.*s\" is not in the vocabulary; both parts and what they make must "
        "be",
        i, n < 256 ? (int)n : 256, piece);
}

/* Whether symbols with this id can stand for something else than the characters of the piece. */
static bool stands_for_other(const struct bpe *bpe, int32_t id)
{
    unsigned char byte = 0;
    return id == bpe->unk || (bpe->byte_fallback && bpe_byte_piece(bpe->piece[id], &byte));
}

/* Records that a merge reaches from the last character of left to the first of right. Characters
 * that are no pieces never become symbols. */
static void add_join(struct bpe *bpe, const struct merge_parts *p)
{
    size_t last = p->left_n - 1;
    while (last > 0 && ((unsigned char)p->left[last] & 0xC0) == 0x80)
        last--;
    const int32_t x = piece_map_find(&bpe->ids, p->left + last, p->left_n - last);
    const int32_t y = piece_map_find(&bpe->ids, p->right, text_utf8_length(p->right));
    if (x >= 0 && y >= 0)
        pair_map_put(&bpe->joins, x, y, 0, 0);
}

static bool add_merge(struct bpe *bpe, size_t i, const struct merge_parts *p, struct text *both,
                      struct err *err)
{
    const int32_t left = piece_map_find(&bpe->ids, p->left, p->left_n);
    const int32_t right = piece_map_find(&bpe->ids, p->right, p->right_n);
    if (left < 0)
        return not_in_vocab(i, p->left, p->left_n, err);
    if (right < 0)
        return not_in_vocab(i, p->right, p->right_n, err);
    text_clear(both);
    text_append(both, p->left, p->left_n);
    text_append(both, p->right, p->right_n);
    if (both->failed)
        return err_no_memory(err, "model.merges");
    const int32_t id = piece_map_find(&bpe->ids, both->data, both->len);
    if (id < 0)
        return not_in_vocab(i, both->data, both->len, err);
    if (stands_for_other(bpe, left) || stands_for_other(bpe, right))
        bpe->joins_known = false;
    add_join(bpe, p);
    pair_map_put(&bpe->merges, left, right, (int32_t)i, id);
    return true;
}

static bool load_merges(struct bpe *bpe, json_t *merges, struct err *err)
{
    if (!json_is_array(merges))
        return err_set(err, ERR_DATA, "model: \"merges\" is %s; expected a list",
                       merges == NULL ? "missing" : json_type_name(merges));
    const size_t n = json_array_size(merges);
    if (n > INT32_MAX || !pair_map_init(&bpe->merges, n) || !pair_map_init(&bpe->joins, n))
        return err_no_memory(err, "model.merges");
    bpe->joins_known = true;
    struct text both = { 0 };
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        struct merge_parts p;
        ok = read_merge(json_array_get(merges, i), i, &p, err) && add_merge(bpe, i, &p, &both, err);
    }
    text_free(&both);
    return ok;
}

bool bpe_init(struct bpe *bpe, json_t *model, struct err *err)
{
    *bpe = (struct bpe){ 0 };
    static const char *const keys[] = { "type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL };
    const char *type = token_node_type(model, "model", err);
    if (type == NULL)
        return false;
    if (strcmp(type, "BPE") != 0)
        return token_node_refuse(type, "a model", "BPE", "model", err);
    return token_node_check_keys(model, keys, "model", err) && refuse_settings(model, err) &&
           json_get_bool(model, "byte_fallback", false, &bpe->byte_fallback, "model", err) &&
           json_get_bool(model, "fuse_unk", false, &bpe->fuse_unk, "model", err) &&
           json_get_bool(model, "ignore_merges", false, &bpe->ignore_merges, "model", err) &&
           load_vocab(bpe, json_object_get(model, "vocab"), err) &&
           (!bpe->byte_fallback || load_bytes(bpe, err)) && load_unknown(bpe, model, err) &&
           load_merges(bpe, json_object_get(model, "merges"), err);
}
