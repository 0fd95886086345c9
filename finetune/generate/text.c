#include "finetune/generate/text.h"

#include <stdlib.h>

/* The decoder's text, of which the prompt's bytes are not shown. */
struct writer {
    const struct generation *g;
    struct token_stream stream;
    struct text text; /* decoded, not yet emitted */
    size_t hidden;    /* bytes of the prompt still to come */
};

/* Emits what is decoded and forgets it. A run of byte tokens that begins in the prompt may come out
 * longer than the prompt alone had it (as U+FFFD each): no character is cut. */
static bool emit(struct writer *w, struct err *err)
{
    struct text *t = &w->text;
    if (t->failed)
        return err_no_memory(err, "the text");
    size_t from = w->hidden < t->len ? w->hidden : t->len;
    w->hidden -= from;
    while (from < t->len && from > 0 && ((unsigned char)t->data[from] & 0xC0) == 0x80)
        from++;
    const bool ok = from == t->len || w->g->emit(w->g->context, t->data + from, t->len - from, err);
    text_clear(t);
    return ok;
}

/* The prompt goes through the decoder too: what follows depends on it (a space at the start of a
 * text is dropped, one in its middle is not). */
static bool start(struct writer *w, const int32_t *prompt, int64_t n, struct err *err)
{
    const struct tokenizer *tok = w->g->tokenizer;
    struct text shown = { 0 };
    bool ok = tokenizer_decode(tok, prompt, n, true, &shown, err) &&
              tokenizer_stream_init(&w->stream, tok, true, err);
    w->hidden = shown.len;
    text_free(&shown);
    for (int64_t i = 0; ok && i < n; i++)
        ok = tokenizer_stream_push(&w->stream, prompt[i], &w->text, err);
    return ok && emit(w, err);
}

static bool push(struct writer *w, int32_t id, struct err *err)
{
    return tokenizer_stream_push(&w->stream, id, &w->text, err) && emit(w, err);
}

static bool finish(struct writer *w, struct err *err)
{
    return tokenizer_stream_finish(&w->stream, &w->text, err) && emit(w, err);
}

struct run {
    struct jamba_state *state;
    struct sampler sampler;
    struct writer writer;
    real *logits; /* (vocab) */
};

static bool run_open(struct run *r, const struct generation *g, struct err *err)
{
    const int64_t vocab = g->engine->jamba.config->vocab_size;
    *r = (struct run){ .writer = { .g = g } };
    r->logits = calloc((size_t)vocab, sizeof *r->logits);
    if (r->logits == NULL)
        return err_no_memory(err, "the logits");
    r->state = jamba_state_new(&g->engine->jamba, err);
    return r->state != NULL && sampler_init(&r->sampler, &g->sampling, vocab, err);
}

static void run_close(struct run *r)
{
    jamba_state_free(r->state);
    sampler_free(&r->sampler);
    tokenizer_stream_free(&r->writer.stream);
    text_free(&r->writer.text);
    free(r->logits);
}

static bool run_tokens(struct run *r, const struct generation *g, struct err *err)
{
    for (int64_t i = 0; i < g->max_new_tokens; i++) {
        int32_t id = 0;
        if (!sampler_next(&r->sampler, r->logits, &id, err))
            return false;
        if (end_tokens_has(g->end, id))
            break;
        const bool last = i + 1 == g->max_new_tokens; /* its logits are not wanted */
        if (!push(&r->writer, id, err) ||
            (!last && !jamba_feed(&g->engine->jamba, r->state, &id, 1, r->logits, err)))
            return false;
    }
    return finish(&r->writer, err);
}

bool generate_text(const struct generation *g, const int32_t *prompt, int64_t n, struct err *err)
{
    struct run r;
    const bool ok = run_open(&r, g, err) && start(&r.writer, prompt, n, err) &&
                    jamba_feed(&g->engine->jamba, r.state, prompt, n, r.logits, err) &&
                    run_tokens(&r, g, err);
    run_close(&r);
    return ok;
}
