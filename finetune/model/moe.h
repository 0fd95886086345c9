/* The sparse feed-forward: a router over all experts, the top k of them applied to each token,
 * their outputs weighted by the router's probabilities (not renormalised) and added.
 *
 * Rows are sorted by expert, without padding and without dropping any: each expert is a plain MLP
 * on its slice. The router's gradient needs <dy, E(x)>; since the down projection is linear in the
 * hidden m, that is <dm, m>, and no expert output has to be kept or computed again.
 */
#ifndef FINETUNE_MODEL_MOE_H
#define FINETUNE_MODEL_MOE_H

#include "finetune/model/block.h"

/* n_slot = n_tok * top_k rows, sorted by expert. */
struct moe_keep {
    real *p;         /* (n_tok, n_expert)          GEMM class: small, and decides the routing */
    real *weight;    /* (n_tok, top_k)             GEMM */
    int32_t *expert; /* (n_tok, top_k)             GEMM */
    int32_t *slot, *place; /* (n_slot)              GEMM */
    int32_t *offset;       /* (n_expert + 1)             GEMM */
    real *gate, *up;       /* (n_slot, d_ff)             GEMM */
    real *h;               /* (n_tok, d_model) */
    real *rows;            /* (n_slot, d_model): h of each row */
    real *m;               /* (n_slot, d_ff) */
};

void moe_keep_gemm(const struct block *b, struct moe_keep *k, struct arena *arena);
void moe_keep_rest(const struct block *b, struct moe_keep *k, struct arena *arena);

/* With b->router and `count` the load-balancing sums are added up (once per token: not when
 * recomputing). */
void moe_forward(const struct block *b, struct moe_keep *k, const real *x, real *out,
                 bool have_gemm, bool count);
void moe_backward(const struct block *b, const struct moe_keep *k, const real *dy, real *dh);

#endif
