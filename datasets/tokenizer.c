#include "datasets/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/added_tokens.h"
#include "datasets/bpe.h"
#include "datasets/decoder.h"
#include "datasets/normalizer.h"
#include "datasets/post_processor.h"
#include "datasets/pre_tokenizer.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"

enum { FILE_LIMIT = 256 << 20, CONFIG_LIMIT = 16 << 20 };

struct tokenizer {
    struct normalizer normalizer;
    struct pre_tokenizer pre;
    struct bpe bpe;
    struct added_tokens added;
    struct post_processor post;
    struct decoder decoder;
    const char **piece; /* (n_id): of the model or added; NULL in a gap */
    bool *special;      /* (n_id) */
    int64_t n_id;
    int32_t bos, eos;
};

/* --- token lists --- */

bool token_list_add(struct token_list *list, int32_t id, int32_t begin)
{
    if (list->n == list->cap) {
        const int64_t cap = list->cap + list->cap / 2 + 64;
        size_t bytes = 0;
        if (!size_mul((size_t)cap, sizeof *list->ids, &bytes))
            return false;
        int32_t *ids = realloc(list->ids, bytes);
        if (ids == NULL)
            return false;
        list->ids = ids;
        int32_t *begins = realloc(list->begin, bytes);
        if (begins == NULL)
            return false;
        list->begin = begins;
        list->cap = cap;
    }
    list->ids[list->n] = id;
    list->begin[list->n++] = begin;
    return true;
}

void token_list_free(struct token_list *list)
{
    free(list->ids);
    free(list->begin);
    *list = (struct token_list){ 0 };
}

/* --- opening --- */

void tokenizer_free(struct tokenizer *tok)
{
    if (tok == NULL)
        return;
    normalizer_free(&tok->normalizer);
    pre_tokenizer_free(&tok->pre);
    bpe_free(&tok->bpe);
    added_free(&tok->added);
    decoder_free(&tok->decoder);
    free(tok->piece);
    free(tok->special);
    free(tok);
}

static bool check_version(json_t *root, struct err *err)
{
    const json_t *version = json_object_get(root, "version");
    if (version == NULL ||
        (json_is_string(version) && strcmp(json_string_value(version), "1.0") == 0))
        return true;
    return err_set(err, ERR_DATA, "\"version\" is %s; expected \"1.0\"",
                   json_is_string(version) ? json_string_value(version) : json_type_name(version));
}

/* One table of pieces by id, for the way back. */
static bool build_pieces(struct tokenizer *tok, struct err *err)
{
    tok->n_id = tok->bpe.n_id;
    for (size_t i = 0; i < tok->added.n; i++) {
        if (tok->added.tokens[i].id >= tok->n_id)
            tok->n_id = tok->added.tokens[i].id + 1;
    }
    tok->piece = calloc((size_t)tok->n_id, sizeof *tok->piece);
    tok->special = calloc((size_t)tok->n_id, sizeof *tok->special);
    if (tok->piece == NULL || tok->special == NULL)
        return err_no_memory(err, "the vocabulary");
    memcpy(tok->piece, tok->bpe.piece, (size_t)tok->bpe.n_id * sizeof *tok->piece);
    for (size_t i = 0; i < tok->added.n; i++) {
        const struct added_token *token = &tok->added.tokens[i];
        if (tok->piece[token->id] != NULL && strcmp(tok->piece[token->id], token->content) != 0)
            return err_set(err, ERR_DATA,
                           "added_tokens[%zu]: \"%s\" has id %" PRId32
                           ", which is already that of \"%s\"",
                           i, token->content, token->id, tok->piece[token->id]);
        tok->piece[token->id] = token->content;
        tok->special[token->id] = token->special;
    }
    return true;
}

static bool check_post(const struct tokenizer *tok, struct err *err)
{
    const struct post_processor *post = &tok->post;
    for (size_t i = 0; i < post->n_front + post->n_back; i++) {
        const int32_t id = i < post->n_front ? post->front[i] : post->back[i - post->n_front];
        if (tokenizer_piece(tok, id) == NULL)
            return err_set(err, ERR_DATA,
                           "post_processor: adds the id %" PRId32 ", which no piece has", id);
    }
    return true;
}

static bool read_nodes(struct tokenizer *tok, json_t *root, struct err *err)
{
    json_t *model = json_object_get(root, "model");
    if (model == NULL)
        return err_set(err, ERR_DATA, "\"model\" is missing; expected a BPE model");
    return check_version(root, err) && bpe_init(&tok->bpe, model, err) &&
           normalizer_init(&tok->normalizer, json_object_get(root, "normalizer"), err) &&
           pre_tokenizer_init(&tok->pre, json_object_get(root, "pre_tokenizer"), err) &&
           added_init(&tok->added, json_object_get(root, "added_tokens"), &tok->bpe.ids,
                      tok->bpe.n_piece, &tok->normalizer, err) &&
           post_processor_init(&tok->post, json_object_get(root, "post_processor"), err) &&
           decoder_init(&tok->decoder, json_object_get(root, "decoder"), err) &&
           build_pieces(tok, err) && check_post(tok, err);
}

static bool read_tokenizer(struct tokenizer *tok, const char *path, struct err *err)
{
    json_t *root = json_load_object(path, FILE_LIMIT, err);
    if (root == NULL)
        return false;
    const bool ok = read_nodes(tok, root, err);
    json_decref(root);
    return ok || err_prefix(err, "%s", path);
}

/* The id of a token that tokenizer_config.json names: a string, or an object with "content". */
static bool read_named(const struct tokenizer *tok, json_t *config, const char *key,
                       const char *path, int32_t *id, struct err *err)
{
    const json_t *value = json_object_get(config, key);
    const json_t *name = json_is_object(value) ? json_object_get(value, "content") : value;
    if (value == NULL || json_is_null(value))
        return true;
    if (!json_is_string(name))
        return err_set(err, ERR_DATA,
                       "%s: \"%s\" is %s; expected a string, or an object with \"content\"", path,
                       key, json_type_name(value));
    *id = tokenizer_find(tok, json_string_value(name));
    return *id >= 0 ||
           err_set(err, ERR_DATA, "%s: \"%s\" is \"%s\", which tokenizer.json does not have", path,
                   key, json_string_value(name));
}

static bool read_config(struct tokenizer *tok, const char *path, struct err *err)
{
    if (!file_exists(path))
        return true;
    json_t *config = json_load_object(path, CONFIG_LIMIT, err);
    if (config == NULL)
        return false;
    const bool ok = read_named(tok, config, "bos_token", path, &tok->bos, err) &&
                    read_named(tok, config, "eos_token", path, &tok->eos, err);
    json_decref(config);
    return ok;
}

/* A folder without tokenizer.json: says what else is there and what to do about it. */
static bool explain_missing(const char *model_dir, const char *path, struct err *err)
{
    char *model = file_join(model_dir, "tokenizer.model");
    const bool has_model = model != NULL && file_exists(model);
    free(model);
    if (has_model)
        return err_set(
            err, ERR_NO_INPUT,
            "%s: is not there, only tokenizer.model is; convert it once: python -c \"from "
            "transformers import AutoTokenizer as T; T.from_pretrained('%s').save_pretrained("
            "'%s')\"",
            path, model_dir, model_dir);
    return err_set(err, ERR_NO_INPUT, "%s: is not there; a checkpoint's folder must have it", path);
}

struct tokenizer *tokenizer_open(const char *model_dir, struct err *err)
{
    struct tokenizer *tok = calloc(1, sizeof *tok);
    char *path = file_join(model_dir, "tokenizer.json");
    char *config = file_join(model_dir, "tokenizer_config.json");
    bool ok = false;
    if (tok == NULL || path == NULL || config == NULL) {
        err_no_memory(err, model_dir);
    } else if (!file_exists(path)) {
        explain_missing(model_dir, path, err);
    } else {
        tok->bos = tok->eos = -1;
        ok = read_tokenizer(tok, path, err) && read_config(tok, config, err);
    }
    free(path);
    free(config);
    if (ok)
        return tok;
    tokenizer_free(tok);
    return NULL;
}

int64_t tokenizer_vocab_size(const struct tokenizer *tok)
{
    return tok->n_id;
}

int32_t tokenizer_find(const struct tokenizer *tok, const char *piece)
{
    const int32_t id = piece_map_find(&tok->added.ids, piece, strlen(piece));
    return id >= 0 ? id : piece_map_find(&tok->bpe.ids, piece, strlen(piece));
}

const char *tokenizer_piece(const struct tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->n_id ? tok->piece[id] : NULL;
}

int32_t tokenizer_eos(const struct tokenizer *tok)
{
    return tok->eos;
}

int32_t tokenizer_bos(const struct tokenizer *tok)
{
    return tok->bos;
}

/* --- encoding --- */

/* All that one encode changes. */
struct encoder {
    const struct tokenizer *tok;
    bool special;
    const struct range_list *plain_text; /* see struct added_scan */
    struct aligned_text text, spare;
    struct pre_tokenizer_scratch pre;
    struct bpe_scratch bpe;
    struct token_list *out;
};

static bool encode_word(void *into, struct aligned_view word, struct err *err)
{
    struct encoder *e = into;
    return bpe_encode(&e->tok->bpe, word, &e->bpe, e->out, err);
}

static bool add_token(struct encoder *e, const struct added_scan *scan, int32_t begin,
                      struct err *err)
{
    return scan->token == NULL || token_list_add(e->out, scan->token->id, begin) ||
           err_no_memory(err, "tokens");
}

/* Text without tokens in it: normalised, then searched for those that are matched normalised. */
static bool encode_plain(struct encoder *e, const char *text, size_t begin, size_t end,
                         struct err *err)
{
    const struct tokenizer *tok = e->tok;
    if (!aligned_set(&e->text, text, begin, end) ||
        !normalizer_apply(&tok->normalizer, &e->text, &e->spare))
        return err_no_memory(err, "tokens");
    const struct pre_tokenizer_run run = { &tok->pre, &e->pre, encode_word, e };
    struct added_scan scan = { .added = &tok->added,
                               .trie = &tok->added.normalized,
                               .special = e->special,
                               .plain_text = e->plain_text,
                               .bytes = e->text.bytes,
                               .at = e->text.at,
                               .n = e->text.n };
    while (added_scan_next(&scan)) {
        if (scan.plain < scan.begin &&
            !pre_tokenizer_apply(&run, aligned_view(&e->text, scan.plain, scan.begin), err))
            return false;
        if (scan.token != NULL && !add_token(e, &scan, e->text.at[scan.begin], err))
            return false;
    }
    return !scan.failed || err_no_memory(err, "tokens");
}

static bool encode_text(struct encoder *e, const char *text, size_t n, struct err *err)
{
    struct added_scan scan = { .added = &e->tok->added,
                               .trie = &e->tok->added.raw,
                               .special = e->special,
                               .plain_text = e->plain_text,
                               .bytes = text,
                               .n = n };
    while (added_scan_next(&scan)) {
        if (scan.plain < scan.begin && !encode_plain(e, text, scan.plain, scan.begin, err))
            return false;
        if (!add_token(e, &scan, (int32_t)scan.begin, err))
            return false;
    }
    return !scan.failed || err_no_memory(err, "tokens");
}

static bool add_all(struct token_list *out, const int32_t *ids, size_t n, int32_t begin,
                    struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!token_list_add(out, ids[i], begin))
            return err_no_memory(err, "tokens");
    }
    return true;
}

static bool check_text(const char *text, size_t n, struct err *err)
{
    size_t at = 0;
    if (n > INT32_MAX)
        return err_set(err, ERR_DATA, "a text has %zu bytes; at most %d can be one document", n,
                       INT32_MAX);
    return text_is_utf8(text, n, &at) || err_set(err, ERR_DATA, "byte %zu: is not UTF-8", at);
}

static bool encode(struct encoder *e, const char *text, size_t n, bool add_special, struct err *err)
{
    const struct post_processor *post = &e->tok->post;
    if (!check_text(text, n, err))
        return false;
    if (!pre_tokenizer_scratch_init(&e->pre, &e->tok->pre))
        return err_no_memory(err, "tokens");
    const int64_t n_before = e->out->n;
    const bool ok = (!add_special || add_all(e->out, post->front, post->n_front, 0, err)) &&
                    encode_text(e, text, n, err) &&
                    (!add_special || add_all(e->out, post->back, post->n_back, (int32_t)n, err));
    if (!ok)
        e->out->n = n_before;
    aligned_free(&e->text);
    aligned_free(&e->spare);
    pre_tokenizer_scratch_free(&e->pre, &e->tok->pre);
    bpe_scratch_free(&e->bpe);
    return ok;
}

bool tokenizer_encode(const struct tokenizer *tok, const char *text, size_t n, bool add_special,
                      struct token_list *out, struct err *err)
{
    struct encoder e = { .tok = tok, .special = false, .out = out };
    return encode(&e, text, n, add_special, err);
}

bool tokenizer_encode_special(const struct tokenizer *tok, const char *text, size_t n,
                              bool add_special, struct token_list *out, struct err *err)
{
    struct encoder e = { .tok = tok, .special = true, .out = out };
    return encode(&e, text, n, add_special, err);
}

bool tokenizer_encode_template(const struct tokenizer *tok, const char *text, size_t n,
                               const struct range_list *plain_text, struct token_list *out,
                               struct err *err)
{
    struct encoder e = { .tok = tok, .special = true, .plain_text = plain_text, .out = out };
    return encode(&e, text, n, false, err);
}

/* Those that are matched normalised are found by encoding: only that knows where they end up. */
static bool find_by_encoding(const struct tokenizer *tok, const char *text, size_t n,
                             struct range_list *out, struct err *err)
{
    struct token_list tokens = { 0 };
    bool ok = tokenizer_encode_special(tok, text, n, false, &tokens, err);
    for (int64_t t = 0; ok && t < tokens.n; t++) {
        const size_t begin = (size_t)tokens.begin[t];
        const size_t end = t + 1 < tokens.n ? (size_t)tokens.begin[t + 1] : n;
        if (tok->special[tokens.ids[t]] && end > begin)
            ok = range_list_add(out, begin, end) || err_no_memory(err, "special tokens");
    }
    token_list_free(&tokens);
    return ok;
}

bool tokenizer_find_special(const struct tokenizer *tok, const char *text, size_t n,
                            struct range_list *out, struct err *err)
{
    if (!check_text(text, n, err))
        return false;
    for (size_t i = 0; i < tok->added.n; i++) {
        if (tok->added.tokens[i].special && tok->added.tokens[i].normalized)
            return find_by_encoding(tok, text, n, out, err);
    }
    struct added_scan scan = {
        .added = &tok->added, .trie = &tok->added.raw, .special = true, .bytes = text, .n = n
    };
    while (added_scan_next(&scan)) {
        if (scan.token != NULL && scan.token->special && !range_list_add(out, scan.begin, scan.end))
            return err_no_memory(err, "special tokens");
    }
    return !scan.failed || err_no_memory(err, "special tokens");
}

void tokenizer_special_edges(const struct tokenizer *tok, const char *text, size_t n, size_t *head,
                             size_t *tail, bool *inside)
{
    const struct added_edges edges = added_special_edges(&tok->added, text, n);
    *head = edges.head;
    *tail = edges.tail;
    *inside = edges.inside;
}

/* --- decoding --- */

bool tokenizer_stream_init(struct token_stream *s, const struct tokenizer *tok, bool skip_special,
                           struct err *err)
{
    *s = (struct token_stream){ .tok = tok, .skip_special = skip_special };
    s->states = decoder_begin(&tok->decoder);
    return s->states != NULL || err_no_memory(err, "text");
}

bool tokenizer_stream_push(struct token_stream *s, int32_t id, struct text *out, struct err *err)
{
    if (id < 0)
        return err_set(err, ERR_DATA, "%" PRId32 " is not a token id; expected 0 or more", id);
    const char *piece = tokenizer_piece(s->tok, id);
    if (piece == NULL || (s->skip_special && s->tok->special[id]))
        return true;
    return decoder_push(&s->tok->decoder, s->states, piece, out) || err_no_memory(err, "text");
}

bool tokenizer_stream_finish(struct token_stream *s, struct text *out, struct err *err)
{
    return decoder_finish(&s->tok->decoder, s->states, out) || err_no_memory(err, "text");
}

void tokenizer_stream_free(struct token_stream *s)
{
    if (s->tok != NULL)
        decoder_end(&s->tok->decoder, s->states);
    *s = (struct token_stream){ 0 };
}

bool tokenizer_decode(const struct tokenizer *tok, const int32_t *ids, int64_t n, bool skip_special,
                      struct text *out, struct err *err)
{
    struct token_stream s = { 0 };
    bool ok = tokenizer_stream_init(&s, tok, skip_special, err);
    for (int64_t i = 0; ok && i < n; i++)
        ok = tokenizer_stream_push(&s, ids[i], out, err);
    ok = ok && tokenizer_stream_finish(&s, out, err);
    tokenizer_stream_free(&s);
    return ok;
}
