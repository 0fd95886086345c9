/* Grouped-query attention without positions: q, k, v projections, causal attention within
 * documents, o. K, V, the output and its log-sum-exp are kept for the whole stream under every
 * policy, so attention is never computed twice. */
#ifndef FINETUNE_MODEL_ATTENTION_H
#define FINETUNE_MODEL_ATTENTION_H

#include "finetune/model/block.h"

/* Of the whole stream. */
struct attention_edge {
    struct act *k, *v; /* (n_stream, n_kv, d_head) */
    struct act *o;     /* (n_stream, n_head, d_head); row `o_first` of the stream comes first */
    real *lse;         /* (n_stream, n_head) */
    int64_t o_first;   /* 0; in generation, where only the chunk's rows exist, t0 */
};

struct attention_keep {
    struct act *q; /* (n, n_head, d_head)   GEMM */
    struct act *h; /* (n, d_model) */
};

void attention_keep_gemm(const struct block *b, struct attention_keep *k, struct arena *arena);
void attention_keep_rest(const struct block *b, struct attention_keep *k, struct arena *arena);

/* k->h (the normed input) -> out (n, d_model). have_attention: K, V, O, lse of these rows are there
 * already (any recomputation). */
void attention_forward(const struct block *b, struct attention_keep *k,
                       const struct attention_edge *edge, struct act *out, bool have_gemm,
                       bool have_attention);

/* dk, dv (n_stream, n_kv, d_head) gather over the stream's chunks, last to first.
 * dy -> dh, the gradient at the normed input. */
void attention_backward(const struct block *b, const struct attention_keep *k,
                        const struct attention_edge *edge, real *dk, real *dv, const struct act *dy,
                        struct act *dh);

#endif
