#include "finetune/export/gguf_tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/added_tokens.h"
#include "datasets/bpe.h"
#include "datasets/normalizer.h"
#include "datasets/post_processor.h"
#include "datasets/pre_tokenizer.h"
#include "datasets/tokenizer.h"
#include "finetune/export/gguf_template.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"

enum { FILE_LIMIT = 256 << 20, CONFIG_LIMIT = 1 << 20, MAX_END = 3 };

/* llama.cpp's LLAMA_TOKEN_TYPE_*. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

static const char SPACE[] = "\xE2\x96\x81"; /* U+2581 */

struct vocabulary {
    struct bpe bpe;
    struct normalizer normalizer;
    struct pre_tokenizer pre;
    struct added_tokens added;
    struct post_processor post;
    const struct added_token **added_by_id; /* (n) */
    int64_t n;                              /* rows of the embedding */
    int64_t bos, eos;                       /* -1: none */
    int64_t end[MAX_END];
    int n_end, n_more_ends;
};

static void vocabulary_free(struct vocabulary *v)
{
    bpe_free(&v->bpe);
    normalizer_free(&v->normalizer);
    pre_tokenizer_free(&v->pre);
    added_free(&v->added);
    free(v->added_by_id);
}

/* ---- what llama.cpp can follow ---- */

static bool refuse(struct err *err, const char *place, const char *what)
{
    return err_set(err, ERR_DATA, "%s: %s; llama.cpp's tokenizers cannot do the same", place, what);
}

static bool is_space_escape(const struct normalizer_node *node)
{
    return node->pattern != NULL && strcmp(node->pattern, " ") == 0 &&
           strcmp(node->content, SPACE) == 0;
}

/* Spaces become U+2581 once, by a Replace or by a Metaspace; nothing else happens before the
 * merges. *splits: words begin at each. */
static bool check_steps(const struct vocabulary *v, bool *splits, struct err *err)
{
    bool escapes = false;
    *splits = false;
    for (size_t i = 0; i < v->normalizer.n; i++) {
        if (v->normalizer.nodes[i].pattern == NULL)
            return refuse(err, "normalizer", "puts a prefix in front of a text");
        if (!is_space_escape(&v->normalizer.nodes[i]))
            return refuse(err, "normalizer", "replaces something else than ' ' by U+2581");
        escapes = true;
    }
    for (size_t i = 0; i < v->pre.n; i++) {
        const struct pre_tokenizer_node *node = &v->pre.nodes[i];
        if (node->replacement == NULL)
            return refuse(err, "pre_tokenizer", "splits a text before the merges");
        if (strcmp(node->replacement, SPACE) != 0)
            return refuse(err, "pre_tokenizer", "has another \"replacement\" than U+2581");
        if (node->prefix != METASPACE_NEVER)
            return refuse(err, "pre_tokenizer", "puts a prefix in front of a text");
        escapes = true;
        *splits = *splits || node->behavior != SPLIT_NONE;
    }
    return escapes || refuse(err, "normalizer", "keeps spaces as they are");
}

static bool check_piece(const char *piece, bool splits, struct err *err)
{
    const size_t newlines = strspn(piece, "\n");
    if (strchr(piece, ' ') != NULL)
        return refuse(err, "model.merges", "has a piece with a space, which no text has by then");
    if (strchr(piece, '\n') != NULL && piece[newlines] != '\0')
        return refuse(err, "model.merges", "makes a piece of newlines and other characters");
    if (splits && strstr(piece + 1, SPACE) != NULL)
        return refuse(err, "pre_tokenizer", "splits pieces that the merges would make");
    return true;
}

static bool check_model(const struct vocabulary *v, bool splits, struct err *err)
{
    const struct bpe *bpe = &v->bpe;
    if (!bpe->byte_fallback)
        return refuse(err, "model", "has \"byte_fallback\" false");
    if (bpe->ignore_merges)
        return refuse(err, "model", "has \"ignore_merges\" true");
    if (!bpe->joins_known)
        return refuse(err, "model.merges", "merges a byte token or the unknown token");
    for (size_t i = 0; i <= bpe->merges.mask; i++) {
        const struct pair_slot *slot = &bpe->merges.slots[i];
        if (slot->key != PAIR_NONE && !check_piece(bpe->piece[slot->id], splits, err))
            return false;
    }
    return true;
}

static bool check_added_token(const struct vocabulary *v, const struct added_token *t,
                              struct err *err)
{
    char place[NODE_PLACE_SIZE];
    snprintf(place, sizeof place, "added_tokens: '%.64s'", t->content);
    if (t->lstrip || t->rstrip)
        return refuse(err, place, "takes in the spaces beside it (\"lstrip\", \"rstrip\")");
    if (t->single_word)
        return refuse(err, place, "counts as a whole word only (\"single_word\")");
    if (strstr(t->content, SPACE) != NULL || (t->normalized && strchr(t->content, ' ') != NULL))
        return refuse(err, place, "has spaces that are to be normalized");
    /* Plain text with that character: byte tokens here, the token itself there. */
    if (t->content_n == text_utf8_length(t->content) &&
        piece_map_find(&v->bpe.ids, t->content, t->content_n) < 0)
        return refuse(err, place, "is a single character outside the model's vocabulary");
    return true;
}

/* Where the end of one is the beginning of another, we take the first in the text, llama.cpp the
 * longest. */
static bool overlap(const struct added_token *a, const struct added_token *b)
{
    const size_t most = a->content_n < b->content_n ? a->content_n : b->content_n;
    for (size_t n = 1; n < most; n++) {
        if (memcmp(a->content + a->content_n - n, b->content, n) == 0)
            return true;
    }
    return false;
}

static void note_overlaps(const struct vocabulary *v, struct text *notes)
{
    for (size_t i = 0; i < v->added.n; i++) {
        for (size_t j = 0; j < v->added.n; j++) {
            if (!overlap(&v->added.tokens[i], &v->added.tokens[j]))
                continue;
            text_printf(notes,
                        "added tokens '%.64s' and '%.64s' can overlap; there llama.cpp may take "
                        "the other one\n",
                        v->added.tokens[i].content, v->added.tokens[j].content);
            return;
        }
    }
}

static bool check_ids(const struct vocabulary *v, struct err *err)
{
    if (v->bpe.n_id > v->n)
        return err_set(err, ERR_DATA,
                       "model.vocab: '%.64s' has id %" PRId64 "; the embedding has %" PRId64
                       " rows (vocab_size)",
                       v->bpe.piece[v->bpe.n_id - 1], v->bpe.n_id - 1, v->n);
    for (size_t i = 0; i < v->added.n; i++) {
        if (v->added.tokens[i].id >= v->n)
            return err_set(err, ERR_DATA,
                           "added_tokens: '%.64s' has id %" PRId32 "; the embedding has %" PRId64
                           " rows (vocab_size)",
                           v->added.tokens[i].content, v->added.tokens[i].id, v->n);
    }
    return true;
}

static bool check(const struct vocabulary *v, struct err *err)
{
    bool splits = false;
    if (!check_steps(v, &splits, err) || !check_model(v, splits, err) || !check_ids(v, err))
        return false;
    for (size_t i = 0; i < v->added.n; i++) {
        if (!check_added_token(v, &v->added.tokens[i], err))
            return false;
    }
    if (v->post.n_front > 1 || v->post.n_back > 1 ||
        (v->post.n_back == 1 && v->post.back[0] != v->eos))
        return refuse(err, "post_processor", "adds more than one token in front or the end token");
    return true;
}

/* ---- what ends a text ---- */

static void add_end(struct vocabulary *v, int64_t id)
{
    if (id < 0 || id >= v->n)
        return;
    for (int i = 0; i < v->n_end; i++) {
        if (v->end[i] == id)
            return;
    }
    if (v->n_end < MAX_END)
        v->end[v->n_end++] = id;
    else
        v->n_more_ends++;
}

/* An id or a list of them; finetune/generate says what is wrong with others. */
static void add_ends(struct vocabulary *v, const json_t *value)
{
    if (json_is_integer(value))
        add_end(v, json_integer_value(value));
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (json_is_integer(json_array_get(value, i)))
            add_end(v, json_integer_value(json_array_get(value, i)));
    }
}

static bool find_ends(struct vocabulary *v, const char *folder, const struct jamba_config *config,
                      struct err *err)
{
    char *path = file_join(folder, "generation_config.json");
    json_t *root = NULL;
    bool ok = path != NULL || err_no_memory(err, folder);
    add_end(v, v->eos);
    for (int64_t i = 0; i < config->n_eos; i++)
        add_end(v, config->eos_token_id[i]);
    if (ok && file_exists(path)) {
        root = json_load_object(path, CONFIG_LIMIT, err);
        ok = root != NULL;
        add_ends(v, json_object_get(root, "eos_token_id"));
    }
    json_decref(root);
    free(path);
    return ok;
}

/* ---- reading ---- */

static bool index_added(struct vocabulary *v, struct err *err)
{
    v->added_by_id = calloc((size_t)v->n, sizeof *v->added_by_id);
    if (v->added_by_id == NULL)
        return err_no_memory(err, "the vocabulary");
    for (size_t i = 0; i < v->added.n; i++)
        v->added_by_id[v->added.tokens[i].id] = &v->added.tokens[i];
    return true;
}

static bool read_nodes(struct vocabulary *v, json_t *root, struct err *err)
{
    return bpe_init(&v->bpe, json_object_get(root, "model"), err) &&
           normalizer_init(&v->normalizer, json_object_get(root, "normalizer"), err) &&
           pre_tokenizer_init(&v->pre, json_object_get(root, "pre_tokenizer"), err) &&
           added_init(&v->added, json_object_get(root, "added_tokens"), &v->bpe.ids, v->bpe.n_piece,
                      &v->normalizer, err) &&
           post_processor_init(&v->post, json_object_get(root, "post_processor"), err);
}

/* tok: the same file, whole and without contradictions. */
static bool read_vocabulary(struct vocabulary *v, const char *path, const struct tokenizer *tok,
                            const struct jamba_config *config, struct err *err)
{
    json_t *root = json_load_object(path, FILE_LIMIT, err);
    if (root == NULL)
        return false;
    bool ok = read_nodes(v, root, err);
    json_decref(root);
    if (ok) {
        v->bos = v->post.n_front > 0       ? v->post.front[0]
                 : tokenizer_bos(tok) >= 0 ? tokenizer_bos(tok)
                                           : config->bos_token_id;
        v->eos = tokenizer_eos(tok) >= 0 ? tokenizer_eos(tok)
                 : config->n_eos > 0     ? config->eos_token_id[0]
                                         : -1;
    }
    return (ok && check(v, err) && index_added(v, err)) || err_prefix(err, "%s", path);
}

/* ---- writing ---- */

static int32_t token_type(const struct vocabulary *v, int64_t id)
{
    const struct added_token *t = v->added_by_id[id];
    unsigned char byte = 0;
    if (t != NULL)
        return t->special ? TYPE_CONTROL : TYPE_USER_DEFINED;
    if (id >= v->bpe.n_id || v->bpe.piece[id] == NULL || v->bpe.piece[id][0] == '\0')
        return TYPE_UNUSED;
    if (bpe_byte_piece(v->bpe.piece[id], &byte))
        return TYPE_BYTE;
    return id == v->bpe.unk ? TYPE_UNKNOWN : TYPE_NORMAL;
}

static bool is_taken(const struct vocabulary *v, const char *name)
{
    return piece_map_find(&v->bpe.ids, name, strlen(name)) >= 0 ||
           piece_map_find(&v->added.ids, name, strlen(name)) >= 0;
}

/* An id without a piece has to have a name, and one of its own. */
static void put_filler(struct gguf_writer *w, const struct vocabulary *v, int64_t id)
{
    char name[64];
    snprintf(name, sizeof name, "[PAD%" PRId64 "]", id);
    for (int i = 0; is_taken(v, name) && i < 16; i++)
        snprintf(name, sizeof name, "[PAD%" PRId64 "_%d]", id, i);
    gguf_item_string(w, name, strlen(name));
}

static void put_tokens(struct gguf_writer *w, const struct vocabulary *v)
{
    gguf_put_array(w, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)v->n);
    for (int64_t id = 0; id < v->n; id++) {
        const struct added_token *t = v->added_by_id[id];
        if (token_type(v, id) == TYPE_UNUSED)
            put_filler(w, v, id);
        else if (t != NULL)
            gguf_item_string(w, t->content, t->content_n);
        else
            gguf_item_string(w, v->bpe.piece[id], strlen(v->bpe.piece[id]));
    }
    gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)v->n);
    for (int64_t id = 0; id < v->n; id++)
        gguf_item_i32(w, token_type(v, id));
}

static int compare_ranks(const void *a, const void *b)
{
    const struct pair_slot *x = a, *y = b;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* In the order of their ranks: that is all that llama.cpp has of them. */
static bool put_merges(struct gguf_writer *w, const struct vocabulary *v, struct err *err)
{
    const struct pair_map *map = &v->bpe.merges;
    struct pair_slot *merges = malloc((map->mask + 1) * sizeof *merges);
    struct text both = { 0 };
    size_t n = 0;
    if (merges == NULL)
        return err_no_memory(err, "the merges");
    for (size_t i = 0; i <= map->mask; i++) {
        if (map->slots[i].key != PAIR_NONE)
            merges[n++] = map->slots[i];
    }
    qsort(merges, n, sizeof *merges, compare_ranks);
    gguf_put_array(w, "tokenizer.ggml.merges", GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        text_clear(&both);
        text_puts(&both, v->bpe.piece[merges[i].key >> 32]);
        text_puts(&both, " ");
        text_puts(&both, v->bpe.piece[merges[i].key & UINT32_MAX]);
        if (!both.failed)
            gguf_item_string(w, both.data, both.len);
    }
    const bool ok = !both.failed || err_no_memory(err, "the merges");
    text_free(&both);
    free(merges);
    return ok;
}

static void put_id(struct gguf_writer *w, const char *key, int64_t id)
{
    if (id >= 0)
        gguf_put_u32(w, key, (uint32_t)id);
}

static void put_kind(struct gguf_writer *w)
{
    gguf_put_string(w, "tokenizer.ggml.model", "gpt2", 4);
    gguf_put_string(w, "tokenizer.ggml.pre", "sarvam-moe", 10);
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
}

static bool put_vocabulary(struct gguf_writer *w, const struct vocabulary *v,
                           const struct jamba_config *config, struct err *err)
{
    static const char *const ends[MAX_END] = { "tokenizer.ggml.eos_token_id",
                                               "tokenizer.ggml.eot_token_id",
                                               "tokenizer.ggml.eom_token_id" };
    put_kind(w);
    put_tokens(w, v);
    put_id(w, "tokenizer.ggml.bos_token_id", v->bos);
    for (int i = 0; i < v->n_end; i++)
        put_id(w, ends[i], v->end[i]);
    put_id(w, "tokenizer.ggml.unknown_token_id", v->bpe.unk);
    put_id(w, "tokenizer.ggml.padding_token_id", config->pad_token_id);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", v->post.n_front > 0);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", v->post.n_back > 0);
    return put_merges(w, v, err);
}

/* Token ids can be sent to a server, and come back; text cannot. */
static void put_placeholders(struct gguf_writer *w, const struct jamba_config *config)
{
    put_kind(w);
    gguf_put_array(w, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)config->vocab_size);
    for (int64_t id = 0; id < config->vocab_size; id++) {
        char name[32];
        const int n = snprintf(name, sizeof name, "[%" PRId64 "]", id);
        gguf_item_string(w, name, (size_t)n);
    }
    gguf_put_array(w, "tokenizer.ggml.merges", GGUF_STRING, 0);
    put_id(w, "tokenizer.ggml.bos_token_id", config->bos_token_id >= 0 ? config->bos_token_id : 0);
    put_id(w, "tokenizer.ggml.eos_token_id", config->n_eos > 0 ? config->eos_token_id[0] : 0);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
}

static bool put_from_file(struct gguf_writer *w, const char *folder, const char *path,
                          const struct jamba_config *config, struct text *notes, struct err *err)
{
    struct tokenizer *tok = tokenizer_open(folder, err);
    struct vocabulary v = { .n = config->vocab_size };
    bool ok = tok != NULL && read_vocabulary(&v, path, tok, config, err) &&
              find_ends(&v, folder, config, err);
    if (ok && v.n_end == 0)
        ok = err_set(err, ERR_DATA,
                     "%s: no token ends a text (\"eos_token\" of tokenizer_config.json, "
                     "\"eos_token_id\" of config.json); llama.cpp would take another for it",
                     folder);
    ok = ok && put_vocabulary(w, &v, config, err) && gguf_put_templates(w, folder, err);
    if (ok && v.n_more_ends > 0)
        text_printf(notes,
                    "%d more tokens end a text than the 3 that llama.cpp is told of; stop at them "
                    "by their text\n",
                    v.n_more_ends);
    if (ok) {
        note_overlaps(&v, notes);
        text_puts(notes, "its tokenizer needs llama.cpp b9094 (May 2026) or newer\n");
    }
    vocabulary_free(&v);
    tokenizer_free(tok);
    return ok;
}

bool gguf_put_tokenizer(struct gguf_writer *w, const char *folder,
                        const struct jamba_config *config, struct text *notes, struct err *err)
{
    char *path = file_join(folder, "tokenizer.json");
    bool ok = path != NULL || err_no_memory(err, folder);
    if (ok && file_exists(path)) {
        ok = put_from_file(w, folder, path, config, notes, err);
    } else if (ok) {
        put_placeholders(w, config);
        text_printf(notes,
                    "%s: has no tokenizer.json; the file takes and gives token ids only, no text\n",
                    folder);
    }
    free(path);
    return ok;
}
