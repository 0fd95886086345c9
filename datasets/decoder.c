#include "datasets/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/bpe.h"
#include "datasets/pattern.h"
#include "datasets/token_node.h"
#include "kernels/core/json.h"

struct decoder_state {
    struct text
        held; /* Replace: what may begin an occurrence; ByteFallback: what may be a byte token */
    struct text run; /* ByteFallback: the bytes of the run so far */
    int64_t n_piece; /* pieces that have ended */
    int64_t n_cut;   /* Strip: characters cut at the start of this piece */
    int64_t n_tail;  /* Strip: characters held back that may be the end of the piece */
    bool inside;     /* Strip: past the start; ByteFallback: this piece is no byte token */
};

/* --- reading --- */

static bool read_replace(struct decoder_node *node, json_t *json, const char *place,
                         struct err *err)
{
    static const char *const keys[] = { "type", "pattern", "content", NULL };
    const char *pattern = NULL, *content = NULL;
    bool is_regex = false;
    if (!token_node_check_keys(json, keys, place, err) ||
        !token_node_get_pattern(json, &pattern, &node->pattern_n, &is_regex, place, err) ||
        !token_node_get_string(json, "content", &content, &node->content_n, place, err))
        return false;
    if (is_regex)
        return err_set(
            err, ERR_DATA,
            "%s.pattern: is a regular expression, which a decoder cannot have here; expected "
            "{\"String\": \"...\"}",
            place);
    node->kind = DECODER_REPLACE;
    node->pattern = text_copy(pattern);
    node->content = text_copy(content);
    return (node->pattern != NULL && node->content != NULL) || err_no_memory(err, place);
}

static bool read_strip(struct decoder_node *node, json_t *json, const char *place, struct err *err)
{
    static const char *const keys[] = { "type", "content", "start", "stop", NULL };
    const char *content = NULL;
    if (!token_node_check_keys(json, keys, place, err) ||
        !token_node_get_char(json, "content", &content, &node->pattern_n, place, err) ||
        !json_get_int(json, "start", true, 0, INT32_MAX, &node->start, place, err) ||
        !json_get_int(json, "stop", true, 0, INT32_MAX, &node->stop, place, err))
        return false;
    node->kind = DECODER_STRIP;
    node->pattern = text_copy(content);
    return node->pattern != NULL || err_no_memory(err, place);
}

static bool read_metaspace(struct decoder_node *node, json_t *json, const char *place,
                           struct err *err)
{
    struct metaspace m;
    if (!token_node_get_metaspace(json, &m, place, err))
        return false;
    node->kind = DECODER_METASPACE;
    node->drop_first = m.prefix != METASPACE_NEVER;
    node->pattern = text_copy_n(m.replacement, m.replacement_n);
    node->pattern_n = m.replacement_n;
    return node->pattern != NULL || err_no_memory(err, place);
}

static bool add_node(void *into, json_t *json, const char *type, const char *place, struct err *err)
{
    struct decoder *decoder = into;
    static const char *const keys[] = { "type", NULL };
    if (decoder->n == NODE_MAX)
        return err_set(err, ERR_DATA, "%s: more than %d nodes", place, NODE_MAX);
    struct decoder_node *node = &decoder->nodes[decoder->n++];
    if (strcmp(type, "Replace") == 0)
        return read_replace(node, json, place, err);
    if (strcmp(type, "Strip") == 0)
        return read_strip(node, json, place, err);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(node, json, place, err);
    if (strcmp(type, "Fuse") != 0 && strcmp(type, "ByteFallback") != 0)
        return token_node_refuse(type, "a decoder",
                                 "Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence", place,
                                 err);
    node->kind = type[0] == 'F' ? DECODER_FUSE : DECODER_BYTE_FALLBACK;
    return token_node_check_keys(json, keys, place, err);
}

bool decoder_init(struct decoder *decoder, json_t *node, struct err *err)
{
    *decoder = (struct decoder){ 0 };
    decoder->nodes = calloc(NODE_MAX, sizeof *decoder->nodes);
    if (decoder->nodes == NULL)
        return err_no_memory(err, "decoder");
    if (node != NULL && !json_is_null(node))
        return token_node_each(node, "decoders", add_node, decoder, "decoder", err);
    decoder->nodes[decoder->n++] = (struct decoder_node){ .kind = DECODER_JOIN };
    return true;
}

void decoder_free(struct decoder *decoder)
{
    for (size_t i = 0; i < decoder->n; i++) {
        free(decoder->nodes[i].pattern);
        free(decoder->nodes[i].content);
    }
    free(decoder->nodes);
    *decoder = (struct decoder){ 0 };
}

/* --- running: each stage is fed bytes and the ends of pieces, and feeds the stage after it --- */

struct run {
    const struct decoder *decoder;
    struct decoder_state *states;
    struct text *out;
};

static void feed(const struct run *run, size_t k, const char *bytes, size_t n);
static void end_piece(const struct run *run, size_t k);

/* The longest end of bytes[0..n) that begins the pattern without being all of it. */
static size_t partial_match(const char *bytes, size_t n, const char *pattern, size_t pattern_n)
{
    size_t m = pattern_n - 1 < n ? pattern_n - 1 : n;
    while (m > 0 && memcmp(bytes + n - m, pattern, m) != 0)
        m--;
    return m;
}

static void feed_replace(const struct run *run, size_t k, const char *bytes, size_t n)
{
    const struct decoder_node *node = &run->decoder->nodes[k];
    struct text *held = &run->states[k].held;
    text_append(held, bytes, n);
    if (held->failed)
        return;
    size_t done = 0;
    for (;;) {
        const char *hit =
            pattern_find_bytes(held->data + done, held->len - done, node->pattern, node->pattern_n);
        if (hit == NULL)
            break;
        feed(run, k + 1, held->data + done, (size_t)(hit - held->data) - done);
        feed(run, k + 1, node->content, node->content_n);
        done = (size_t)(hit - held->data) + node->pattern_n;
    }
    const size_t keep =
        partial_match(held->data + done, held->len - done, node->pattern, node->pattern_n);
    feed(run, k + 1, held->data + done, held->len - done - keep);
    memmove(held->data, held->data + held->len - keep, keep);
    held->len = keep;
}

static void flush_held(const struct run *run, size_t k)
{
    struct text *held = &run->states[k].held;
    if (held->len > 0)
        feed(run, k + 1, held->data, held->len);
    text_clear(held);
}

/* The run of byte tokens is over: its text, or U+FFFD for each byte when they are not UTF-8. */
static void flush_run(const struct run *run, size_t k)
{
    struct text *bytes = &run->states[k].run;
    if (bytes->len == 0)
        return;
    const bool valid = text_is_utf8(bytes->data, bytes->len, NULL);
    for (size_t i = 0; i < (valid ? 1 : bytes->len); i++) {
        feed(run, k + 1, valid ? bytes->data : "\uFFFD", valid ? bytes->len : 3);
        end_piece(run, k + 1);
    }
    text_clear(bytes);
}

static void feed_bytes(const struct run *run, size_t k, const char *bytes, size_t n)
{
    struct decoder_state *state = &run->states[k];
    if (!state->inside && state->held.len + n <= 6) {
        text_append(&state->held, bytes, n);
        return;
    }
    if (!state->inside)
        flush_run(run, k);
    state->inside = true;
    flush_held(run, k);
    feed(run, k + 1, bytes, n);
}

static void end_bytes(const struct run *run, size_t k)
{
    struct decoder_state *state = &run->states[k];
    unsigned char byte = 0;
    if (!state->inside && state->held.len == 6 && bpe_byte_piece(state->held.data, &byte)) {
        text_append(&state->run, (const char *)&byte, 1);
        text_clear(&state->held);
        return;
    }
    if (!state->inside)
        flush_run(run, k);
    flush_held(run, k);
    state->inside = false;
    end_piece(run, k + 1);
}

/* Characters that may be the end of the piece turned out not to be: all but the last `keep` of
 * them. */
static void feed_tail(const struct run *run, size_t k, int64_t keep)
{
    const struct decoder_node *node = &run->decoder->nodes[k];
    for (; run->states[k].n_tail > keep; run->states[k].n_tail--)
        feed(run, k + 1, node->pattern, node->pattern_n);
}

static void feed_strip(const struct run *run, size_t k, const char *bytes, size_t n)
{
    const struct decoder_node *node = &run->decoder->nodes[k];
    struct decoder_state *state = &run->states[k];
    for (size_t i = 0, len = 0; i < n; i += len) {
        len = text_utf8_length(bytes + i);
        const bool match = len == node->pattern_n && memcmp(bytes + i, node->pattern, len) == 0;
        state->inside = state->inside || !match || state->n_cut == node->start;
        if (!state->inside) {
            state->n_cut++;
        } else if (match) {
            state->n_tail++;
            feed_tail(run, k, node->stop);
        } else {
            feed_tail(run, k, 0);
            feed(run, k + 1, bytes + i, len);
        }
    }
}

static void feed_metaspace(const struct run *run, size_t k, const char *bytes, size_t n)
{
    const struct decoder_node *node = &run->decoder->nodes[k];
    const bool drop = node->drop_first && run->states[k].n_piece == 0;
    size_t done = 0;
    while (done < n) {
        const char *hit =
            pattern_find_bytes(bytes + done, n - done, node->pattern, node->pattern_n);
        const size_t stop = hit == NULL ? n : (size_t)(hit - bytes);
        feed(run, k + 1, bytes + done, stop - done);
        if (hit != NULL && !drop)
            feed(run, k + 1, " ", 1);
        done = hit == NULL ? n : stop + node->pattern_n;
    }
}

/* Bytes of a piece for stage k, whole characters. */
static void feed(const struct run *run, size_t k, const char *bytes, size_t n)
{
    if (n == 0)
        return;
    if (k == run->decoder->n) {
        text_append(run->out, bytes, n);
        return;
    }
    switch (run->decoder->nodes[k].kind) {
    case DECODER_REPLACE:
        feed_replace(run, k, bytes, n);
        break;
    case DECODER_BYTE_FALLBACK:
        feed_bytes(run, k, bytes, n);
        break;
    case DECODER_STRIP:
        feed_strip(run, k, bytes, n);
        break;
    case DECODER_METASPACE:
        feed_metaspace(run, k, bytes, n);
        break;
    case DECODER_FUSE:
    case DECODER_JOIN:
        feed(run, k + 1, bytes, n);
        break;
    }
}

/* The piece that stage k was fed is over. */
static void end_piece(const struct run *run, size_t k)
{
    if (k == run->decoder->n)
        return;
    struct decoder_state *state = &run->states[k];
    switch (run->decoder->nodes[k].kind) {
    case DECODER_FUSE:
        return; /* to this stage's successors all pieces are one */
    case DECODER_BYTE_FALLBACK:
        end_bytes(run, k);
        return;
    case DECODER_REPLACE:
        flush_held(run, k);
        break;
    case DECODER_STRIP:
        state->n_cut = state->n_tail = 0;
        state->inside = false;
        break;
    case DECODER_METASPACE:
    case DECODER_JOIN:
        state->n_piece++;
        break;
    }
    end_piece(run, k + 1);
}

static bool failed(const struct run *run)
{
    bool any = run->out->failed;
    for (size_t k = 0; k < run->decoder->n; k++)
        any = any || run->states[k].held.failed || run->states[k].run.failed;
    return any;
}

struct decoder_state *decoder_begin(const struct decoder *decoder)
{
    return calloc(decoder->n + 1, sizeof(struct decoder_state));
}

void decoder_end(const struct decoder *decoder, struct decoder_state *states)
{
    for (size_t k = 0; states != NULL && k < decoder->n; k++) {
        text_free(&states[k].held);
        text_free(&states[k].run);
    }
    free(states);
}

bool decoder_push(const struct decoder *decoder, struct decoder_state *states, const char *piece,
                  struct text *out)
{
    const struct run run = { decoder, states, out };
    if (decoder->n > 0 && decoder->nodes[0].kind == DECODER_JOIN && states[0].n_piece > 0)
        text_append(out, " ", 1);
    feed(&run, 0, piece, strlen(piece));
    end_piece(&run, 0);
    return !failed(&run);
}

bool decoder_finish(const struct decoder *decoder, struct decoder_state *states, struct text *out)
{
    const struct run run = { decoder, states, out };
    for (size_t k = 0; k < decoder->n; k++) {
        if (decoder->nodes[k].kind == DECODER_BYTE_FALLBACK)
            flush_run(&run, k);
        else if (decoder->nodes[k].kind == DECODER_FUSE)
            end_piece(&run, k + 1);
    }
    return !failed(&run);
}
