#include "finetune/report/sections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double NONE = (double)NAN;

const char *summary_block_name(enum profile_block block)
{
    static const char *const names[PROFILE_N] = {
        [PROFILE_OTHER] = "other",
        [PROFILE_DATA] = "data",
        [PROFILE_NORM] = "norms",
        [PROFILE_MAMBA] = "Mamba",
        [PROFILE_ATTENTION] = "attention",
        [PROFILE_MOE] = "mixture of experts",
        [PROFILE_MLP] = "MLP",
        [PROFILE_HEAD] = "embedding, head and loss",
        [PROFILE_OPTIMIZER] = "optimizer",
    };
    return names[block];
}

/* Adds v where it is a number that makes sense in a sum. */
static void add(double *sum, double v)
{
    if (isfinite(v) && v >= 0)
        *sum = isnan(*sum) ? v : *sum + v;
}

static void add_blocks(struct summary *s, const struct history_step *step)
{
    bool any = false;
    for (int b = 0; b < PROFILE_N; b++) {
        any = any || isfinite(step->blocks[b]);
        if (isfinite(step->blocks[b]) && step->blocks[b] > 0)
            s->blocks[b] += step->blocks[b];
    }
    s->n_block_step += any;
}

struct summary summary_of(const struct history *h)
{
    struct summary s = { .seconds = NONE,
                         .tokens = NONE,
                         .trained_tokens = NONE,
                         .tokens_per_second = NONE,
                         .memory_bytes = NONE,
                         .loss = NONE,
                         .eval_loss = NONE,
                         .best_loss = NONE,
                         .eval_step = -1,
                         .best_step = -1 };
    for (int64_t i = 0; i < h->n_step; i++) {
        const struct history_step *step = &h->steps[i];
        add(&s.seconds, step->seconds);
        add(&s.tokens, step->tokens);
        add(&s.trained_tokens, step->trained_tokens);
        if (isfinite(step->memory_bytes))
            s.memory_bytes = fmax(s.memory_bytes, step->memory_bytes); /* of a NaN: the other */
        s.n_skipped += !step->applied;
        add_blocks(&s, step);
    }
    if (h->n_step > 0) {
        s.step = h->steps[h->n_step - 1].step;
        s.loss = h->steps[h->n_step - 1].loss;
        s.tokens_per_second =
            s.seconds > 0 ? s.tokens / s.seconds : h->steps[h->n_step - 1].tokens_per_second;
    }
    for (int64_t i = 0; i < h->n_eval; i++)
        add(&s.seconds, h->evals[i].seconds);
    if (h->n_eval > 0) {
        const struct history_eval *last = &h->evals[h->n_eval - 1];
        s.eval_loss = last->loss;
        s.eval_step = last->step;
        s.step = last->step > s.step ? last->step : s.step;
    }
    if (h->best >= 0 && h->best < h->n_eval) {
        s.best_loss = h->evals[h->best].loss;
        s.best_step = h->evals[h->best].step;
    }
    return s;
}

/* ---- several runs ---- */

struct rank {
    double best, last;
    int64_t run;
};

/* NaN behind everything. */
static int order_of(double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

static int compare_ranks(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    int order = order_of(x->best, y->best);
    if (order == 0)
        order = order_of(x->last, y->last);
    return order != 0 ? order : (x->run > y->run) - (x->run < y->run);
}

bool summary_sort(const struct report *r, struct report_run *sorted)
{
    struct rank *ranks = calloc((size_t)r->n_run, sizeof *ranks);
    for (int64_t i = 0; i < r->n_run && ranks != NULL; i++) {
        const struct summary s = summary_of(&r->runs[i].history);
        ranks[i] = (struct rank){ s.best_loss, s.loss, i };
    }
    if (ranks != NULL)
        qsort(ranks, (size_t)r->n_run, sizeof *ranks, compare_ranks);
    for (int64_t i = 0; i < r->n_run && ranks != NULL; i++)
        sorted[i] = r->runs[ranks[i].run];
    const bool ok = ranks != NULL;
    free(ranks);
    return ok;
}

static bool is_different(const struct report *r, const char *key)
{
    const char *first = NULL;
    bool any = false;
    for (int64_t i = 0; i < r->n_run; i++) {
        const struct settings *s = &r->runs[i].settings;
        if (s->n == 0)
            continue;
        const char *value = settings_value(s, key);
        if (any && (value == NULL) != (first == NULL))
            return true;
        if (any && value != NULL && strcmp(value, first) != 0)
            return true;
        first = value;
        any = true;
    }
    return false;
}

static bool has(const char *const *keys, int64_t n, const char *key)
{
    for (int64_t i = 0; i < n; i++) {
        if (strcmp(keys[i], key) == 0)
            return true;
    }
    return false;
}

const char **summary_different_keys(const struct report *r, int64_t *n)
{
    int64_t most = 1;
    *n = 0;
    for (int64_t i = 0; i < r->n_run; i++)
        most += r->runs[i].settings.n;
    const char **keys = malloc((size_t)most * sizeof *keys);
    for (int64_t i = 0; i < r->n_run && keys != NULL; i++) {
        for (int64_t k = 0; k < r->runs[i].settings.n; k++) {
            const char *key = r->runs[i].settings.items[k].key;
            if (strcmp(key, "output_dir") != 0 && !has(keys, *n, key) && is_different(r, key))
                keys[(*n)++] = key;
        }
    }
    return keys;
}
