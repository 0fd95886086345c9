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
    struct act *gate, *up; /* (n_slot, d_ff)             GEMM */
    struct act *h;         /* (n_tok, d_model) */
    struct act *rows;      /* (n_slot, d_model): h of each row */
    struct act *m;         /* (n_slot, d_ff) */
};

void moe_keep_gemm(const struct block *b, struct moe_keep *k, struct arena *arena);
void moe_keep_rest(const struct block *b, struct moe_keep *k, struct arena *arena);

/* out = residual + MoE(k->h), k->h the normed input. With b->router and `count` the load-balancing
 * sums are added up (once per token: not when recomputing). */
void moe_forward(const struct block *b, struct moe_keep *k, const struct act *residual,
                 struct act *out, bool have_gemm, bool count);
void moe_backward(const struct block *b, const struct moe_keep *k, const struct act *dy,
                  struct act *dh);

#endif
