#include "finetune/generate/sample.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/core/rng.h"

bool sampler_init(struct sampler *s, const struct sampling *how, int64_t vocab, struct err *err)
{
    assert(vocab > 0 && (how->greedy || (how->temperature > 0 && how->top_k >= 0)));
    assert(how->greedy || (how->top_p >= 0 && how->top_p <= 1));
    *s = (struct sampler){ .how = *how, .vocab = vocab };
    s->p = calloc((size_t)vocab, sizeof *s->p);
    s->order = calloc((size_t)vocab, sizeof *s->order);
    if (s->p != NULL && s->order != NULL)
        return true;
    sampler_free(s);
    return err_no_memory(err, "the sampler");
}

void sampler_free(struct sampler *s)
{
    free(s->p);
    free(s->order);
    s->p = NULL;
    s->order = NULL;
}

/* The largest logit's id: of equal ones the lowest. */
static bool find_largest(const struct sampler *s, const real *logits, int32_t *id, struct err *err)
{
    int64_t best = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        if (isnan(logits[i]) || logits[i] == (real)INFINITY)
            return err_set(err, ERR_NUMERICS,
                           "the model's logit of token id %" PRId64
                           " is %s; the weights may be damaged, "
                           "or too large for the precision",
                           i, isnan(logits[i]) ? "not a number" : "infinite");
        if (logits[i] > logits[best])
            best = i;
    }
    *id = (int32_t)best;
    return logits[best] != (real)-INFINITY ||
           err_set(err, ERR_NUMERICS, "the model's logits are all minus infinity");
}

/* Largest first; of equal ones the lower id. */
static int compare(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* How many of the largest the filters keep; sets s->order. s->p holds exp(logit - largest), not
 * normalised. */
static int64_t count_kept(struct sampler *s, const real *logits)
{
    struct candidate *order = s->order;
    for (int64_t i = 0; i < s->vocab; i++)
        order[i] = (struct candidate){ (double)logits[i], (int32_t)i };
    qsort(order, (size_t)s->vocab, sizeof *order, compare);
    int64_t n = s->vocab;
    if (s->how.top_k > 0 && s->how.top_k < n) {
        n = s->how.top_k;
        while (n < s->vocab && order[n].logit == order[s->how.top_k - 1].logit)
            n++; /* as many as are equal to the k-th */
    }
    if (s->how.top_p >= 1)
        return n;
    double total = 0, before = 0;
    for (int64_t i = 0; i < n; i++)
        total += s->p[order[i].id];
    int64_t kept = 0; /* while those before it do not reach p yet */
    while (kept < n && (kept == 0 || before < s->how.top_p * total))
        before += s->p[order[kept++].id];
    return kept;
}

bool sampler_distribution(struct sampler *s, const real *logits, struct err *err)
{
    int32_t largest = 0;
    if (!find_largest(s, logits, &largest, err))
        return false;
    for (int64_t i = 0; i < s->vocab; i++)
        s->p[i] = exp(((double)logits[i] - (double)logits[largest]) / s->how.temperature);
    if (s->how.top_k > 0 || s->how.top_p < 1) {
        for (int64_t i = count_kept(s, logits); i < s->vocab; i++)
            s->p[s->order[i].id] = 0;
    }
    double total = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        total += s->p[i];
    for (int64_t i = 0; i < s->vocab; i++)
        s->p[i] /= total;
    return true;
}

bool sampler_next(struct sampler *s, const real *logits, int32_t *id, struct err *err)
{
    if (s->how.greedy)
        return find_largest(s, logits, id, err);
    if (!sampler_distribution(s, logits, err))
        return false;
    /* The inverse of the distribution function, ids in order. Rounding may leave the sum below u at
     * the end: then it is the last id that can be drawn. */
    const double u = rng_uniform(s->how.seed, RNG_SAMPLE, 0, s->index++);
    double sum = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        if (s->p[i] == 0)
            continue;
        *id = (int32_t)i;
        sum += s->p[i];
        if (u < sum)
            break;
    }
    return true;
}
