#include "finetune/generate/text.h"

#include <stdlib.h>

bool generate_finish_prompt(const struct tokenizer *tokenizer, const struct jamba_config *config,
                            const struct end_tokens *end, struct token_list *prompt,
                            struct err *err)
{
    const int32_t named = tokenizer_bos(tokenizer);
    const int64_t bos = named >= 0 ? named : config->bos_token_id;
    while (prompt->n > 0 && prompt->ids[prompt->n - 1] != bos &&
           end_tokens_has(end, prompt->ids[prompt->n - 1]))
        prompt->n--;
    if (prompt->n > 0)
        return true;
    if (bos < 0)
        return err_set(err, ERR_USAGE,
                       "the prompt is empty, and the model has no BOS token to begin with; give a "
                       "text");
    return token_list_add(prompt, (int32_t)bos, 0) || err_no_memory(err, "the prompt");
}

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

struct text_run {
    const struct generation *g;
    struct jamba_state *state;
    struct sampler sampler;
    struct token_list ids; /* of the sequence so far */
    int64_t n_fed;         /* the last written one may not have been fed */
    int64_t n_written;     /* by the last text_run_write */
    enum text_end end;     /* of it */
    struct writer writer;
    real *logits; /* (vocab) */
};

/* What came before goes through the decoder too: what follows depends on it (a space at the start
 * of a text is dropped, one in its middle is not). */
static bool writer_start(struct writer *w, const struct generation *g, const struct token_list *ids,
                         struct err *err)
{
    const bool skip = !g->keep_special;
    struct text shown = { 0 };
    *w = (struct writer){ .g = g };
    bool ok = tokenizer_decode(g->tokenizer, ids->ids, ids->n, skip, &shown, err) &&
              tokenizer_stream_init(&w->stream, g->tokenizer, skip, err);
    w->hidden = shown.len;
    text_free(&shown);
    for (int64_t i = 0; ok && i < ids->n; i++)
        ok = tokenizer_stream_push(&w->stream, ids->ids[i], &w->text, err);
    return ok && emit(w, err);
}

static void writer_free(struct writer *w)
{
    tokenizer_stream_free(&w->stream);
    text_free(&w->text);
    *w = (struct writer){ .g = NULL };
}

static bool push(struct writer *w, int32_t id, struct err *err)
{
    return tokenizer_stream_push(&w->stream, id, &w->text, err) && emit(w, err);
}

static bool finish(struct writer *w, struct err *err)
{
    return tokenizer_stream_finish(&w->stream, &w->text, err) && emit(w, err);
}

static struct jamba_state *new_state(const struct generation *g, struct err *err)
{
    const struct jamba *m = &g->engine->jamba;
    return g->state_tokens > 0 ? jamba_state_new_in(m, m->saved, g->state_tokens, err)
                               : jamba_state_new(m, err);
}

struct text_run *text_run_new(const struct generation *g, struct err *err)
{
    const int64_t vocab = g->engine->jamba.config->vocab_size;
    struct text_run *run = calloc(1, sizeof *run);
    if (run == NULL || (run->logits = calloc((size_t)vocab, sizeof *run->logits)) == NULL) {
        err_no_memory(err, "the logits");
        text_run_free(run);
        return NULL;
    }
    run->g = g;
    run->state = new_state(g, err);
    if (run->state == NULL || !sampler_init(&run->sampler, &g->sampling, vocab, err)) {
        text_run_free(run);
        return NULL;
    }
    return run;
}

void text_run_free(struct text_run *run)
{
    if (run == NULL)
        return;
    jamba_state_free(run->state);
    sampler_free(&run->sampler);
    token_list_free(&run->ids);
    writer_free(&run->writer);
    free(run->logits);
    free(run);
}

static bool feed_rest(struct text_run *run, struct err *err)
{
    const int32_t *ids = run->ids.ids + run->n_fed;
    const int64_t n = run->ids.n - run->n_fed;
    run->n_fed = run->ids.n;
    return jamba_feed(&run->g->engine->jamba, run->state, ids, n, run->logits, err);
}

bool text_run_feed(struct text_run *run, const int32_t *ids, int64_t n, struct err *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (!token_list_add(&run->ids, ids[i], 0))
            return err_no_memory(err, "the text");
    }
    return feed_rest(run, err);
}

static bool stopped(const struct generation *g)
{
    return (g->stop != NULL && *g->stop) || (g->interrupt != NULL && *g->interrupt);
}

static bool write_tokens(struct text_run *run, struct err *err)
{
    const struct generation *g = run->g;
    run->end = TEXT_END_LENGTH;
    run->n_written = 0;
    for (int64_t i = 0; i < g->max_new_tokens; i++) {
        int32_t id = 0;
        if (stopped(g)) {
            run->end = TEXT_END_STOPPED;
            break;
        }
        if ((i > 0 && !feed_rest(run, err)) || !sampler_next(&run->sampler, run->logits, &id, err))
            return false;
        if (end_tokens_has(g->end, id)) {
            run->end = TEXT_END_TOKEN;
            break;
        }
        if (!token_list_add(&run->ids, id, 0))
            return err_no_memory(err, "the text");
        run->n_written++;
        if (!push(&run->writer, id, err))
            return false;
    }
    return finish(&run->writer, err);
}

bool text_run_write(struct text_run *run, struct err *err)
{
    const bool ok = writer_start(&run->writer, run->g, &run->ids, err) && write_tokens(run, err);
    writer_free(&run->writer);
    return ok;
}

int64_t text_run_written(const struct text_run *run)
{
    return run->n_written;
}

enum text_end text_run_end(const struct text_run *run)
{
    return run->end;
}

bool generate_text(const struct generation *g, const int32_t *prompt, int64_t n, struct err *err)
{
    struct text_run *run = text_run_new(g, err);
    const bool ok = run != NULL && text_run_feed(run, prompt, n, err) && text_run_write(run, err);
    text_run_free(run);
    return ok;
}
