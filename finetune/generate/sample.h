/* The next token from logits: greedy, or drawn after temperature, top-k and top-p.
 *
 *     struct sampler s = { 0 };
 *     const struct sampling how = { .temperature = 0.8, .top_p = 0.95, .seed = 1 };
 *     ok = sampler_init(&s, &how, vocab, err);
 *     while (...) ok = sampler_next(&s, logits, &id, err);
 *     sampler_free(&s);
 *
 * The filters are those of transformers (generation/logits_process.py), in its order: logits /
 * temperature; top-k keeps every logit not below the k-th largest; top-p keeps the fewest of the
 * largest whose probabilities, after top-k, reach p, and at least one. The draw is a function of
 * (seed, index) alone.
 */
#ifndef FINETUNE_GENERATE_SAMPLE_H
#define FINETUNE_GENERATE_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/dtype.h"
#include "kernels/core/err.h"

struct sampling {
    bool greedy; /* the largest logit; of equal ones the lowest id. The rest is not used then */
    double temperature; /* above 0 */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 0 to 1; 1: all */
    uint64_t seed;
};

struct candidate {
    double logit;
    int32_t id;
};

struct sampler {
    struct sampling how;
    int64_t vocab;
    uint64_t index;          /* of the next draw */
    double *p;               /* (vocab) */
    struct candidate *order; /* (vocab): largest first, when a filter needs it */
};

bool sampler_init(struct sampler *s, const struct sampling *how, int64_t vocab, struct err *err);
void sampler_free(struct sampler *s);

/* logits (vocab). A NaN or positive infinity, or no finite logit at all, is an error
 * (ERR_NUMERICS). */
bool sampler_next(struct sampler *s, const real *logits, int32_t *id, struct err *err);

/* What sampler_next draws from: s->p (vocab), zero where a filter says so; it sums to 1. */
bool sampler_distribution(struct sampler *s, const real *logits, struct err *err);

#endif
