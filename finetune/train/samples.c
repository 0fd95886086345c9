#include "finetune/train/samples.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

/* Which prompt it was, the key first. */
static bool blame(int64_t prompt, struct err *err)
{
    err->code = ERR_RECIPE;
    return err_prefix(err, "sample_prompts: prompt %" PRId64, prompt + 1);
}

static bool check_prompt(const struct samples *s, int64_t i, struct err *err)
{
    const struct token_list *prompt = &s->prompts[i];
    const int64_t most = s->recipe->data.sequence_len;
    const int64_t vocab = weights_config(s->engine->weights)->vocab_size;
    if (prompt->n > most)
        return err_set(err, ERR_RECIPE,
                       "sample_prompts: prompt %" PRId64 " has %" PRId64
                       " tokens; expected at most sequence_len, %" PRId64
                       ". Shorten it, or raise sequence_len",
                       i + 1, prompt->n, most);
    for (int64_t t = 0; t < prompt->n; t++) {
        if (prompt->ids[t] >= vocab)
            return err_set(err, ERR_DATA,
                           "sample_prompts: prompt %" PRId64 ": the tokenizer's id %" PRId32
                           " is outside the model's vocabulary of %" PRId64
                           "; do tokenizer and config.json belong together?",
                           i + 1, prompt->ids[t], vocab);
    }
    return true;
}

static bool open_prompt(struct samples *s, int64_t i, struct err *err)
{
    const char *text = s->recipe->sample_prompts[i];
    const struct jamba_config *config = weights_config(s->engine->weights);
    struct token_list *prompt = &s->prompts[i];
    if (!tokenizer_encode(s->tokenizer, text, strlen(text), true, prompt, err) ||
        !generate_finish_prompt(s->tokenizer, config, &s->end, prompt, err))
        return blame(i, err);
    return check_prompt(s, i, err);
}

static bool read_end(struct samples *s, struct err *err)
{
    char *folder = NULL, *config_path = NULL;
    if (!weights_locate(s->recipe->base_model, &folder, &config_path, err))
        return false;
    const bool ok =
        end_tokens_read(folder, weights_config(s->engine->weights), s->tokenizer, &s->end, err);
    free(folder);
    free(config_path);
    return ok;
}

bool samples_open(struct samples *s, const struct recipe *r, struct engine *e,
                  const struct tokenizer *t, struct err *err)
{
    *s = (struct samples){ .engine = e, .tokenizer = t, .recipe = r };
    if (r->n_sample_prompt == 0)
        return true;
    if (t == NULL)
        return err_set(err, ERR_RECIPE,
                       "sample_prompts: base_model '%s' has no tokenizer, which texts need; leave "
                       "the key out, or name a checkpoint with a tokenizer.json",
                       r->base_model);
    s->prompts = calloc((size_t)r->n_sample_prompt, sizeof *s->prompts);
    if (s->prompts == NULL)
        return err_no_memory(err, "the sample prompts");
    s->n = r->n_sample_prompt;
    bool ok = read_end(s, err);
    for (int64_t i = 0; i < s->n && ok; i++)
        ok = open_prompt(s, i, err);
    return ok;
}

void samples_free(struct samples *s)
{
    for (int64_t i = 0; i < s->n; i++)
        token_list_free(&s->prompts[i]);
    free(s->prompts);
    *s = (struct samples){ 0 };
}

/* ---- the plan ---- */

int64_t samples_tokens(const struct samples *s)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < s->n; i++)
        longest = s->prompts[i].n > longest ? s->prompts[i].n : longest;
    return s->n == 0 ? 0 : longest + s->recipe->sample_max_tokens;
}

int64_t samples_bound(const struct recipe *r)
{
    return r->n_sample_prompt == 0 ? 0 : r->data.sequence_len + r->sample_max_tokens;
}

/* ---- a text ---- */

static bool collect(void *context, const char *bytes, size_t n, struct err *err)
{
    struct text *t = context;
    text_append(t, bytes, n);
    return !t->failed || err_no_memory(err, "a sample's text");
}

/* Logits that are no numbers end a text, not a run: the loss tells what there is to tell. */
static bool write_text(struct text_run *run, const struct token_list *prompt, struct sample *out,
                       struct err *err)
{
    struct err failure = { 0 };
    const bool ok =
        text_run_feed(run, prompt->ids, prompt->n, &failure) && text_run_write(run, &failure);
    if (!ok && failure.code != ERR_NUMERICS) {
        *err = failure;
        return false;
    }
    out->n_token = text_run_written(run);
    out->end = !ok ? "nonfinite" : text_run_end(run) == TEXT_END_TOKEN ? "eos" : "length";
    return true;
}

/* *stopped: on the way, and `each` was not called. */
static bool run_prompt(struct samples *s, int64_t i, const volatile sig_atomic_t *stop,
                       bool *stopped, samples_each *each, void *context, struct err *err)
{
    struct text text = { 0 };
    const struct generation g = {
        .engine = s->engine,
        .tokenizer = s->tokenizer,
        .end = &s->end,
        .sampling = { .greedy = true },
        .max_new_tokens = s->recipe->sample_max_tokens,
        .emit = collect,
        .context = &text,
        .interrupt = stop,
        .state_tokens = s->prompts[i].n + s->recipe->sample_max_tokens,
    };
    struct sample sample = { .prompt = s->recipe->sample_prompts[i] };
    struct text_run *run = text_run_new(&g, err);
    bool ok = run != NULL && write_text(run, &s->prompts[i], &sample, err);
    *stopped = ok && text_run_end(run) == TEXT_END_STOPPED;
    text_run_free(run);
    if (ok && !*stopped) {
        sample.text = text.data != NULL ? text.data : "";
        sample.n_byte = text.len;
        ok = each(context, &sample, err);
    }
    text_free(&text);
    return ok;
}

bool samples_run(struct samples *s, int64_t from, const volatile sig_atomic_t *stop,
                 samples_each *each, void *context, struct err *err)
{
    bool stopped = false;
    for (int64_t i = from; i < s->n && !stopped; i++) {
        if (stop != NULL && *stop)
            break;
        if (!run_prompt(s, i, stop, &stopped, each, context, err))
            return false;
    }
    return true;
}
