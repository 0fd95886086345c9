/* The Mamba mixer of Jamba (Gu and Dao, 2023, with Jamba's norms on dt, B and C):
 *   [u z] = W_in h;  u = silu(conv(u));  [dt B C] = W_x u, each through its RMSNorm;
 *   y = scan(u, softplus(W_dt dt + bias), B, C) silu(z);  out = W_out y
 */
#ifndef FINETUNE_MODEL_MAMBA_H
#define FINETUNE_MODEL_MAMBA_H

#include "finetune/model/block.h"

struct mamba_keep {
    struct act *xz;     /* (n, 2*d_inner): u, then z     GEMM */
    struct act *x_proj; /* (n, dt_rank + 2*d_state)      GEMM */
    struct act *h;      /* (n, d_model): normed input */
    struct act *u;      /* (n, d_inner): after conv and SiLU */
    struct act *dt_low; /* (n, dt_rank), b, c (n, d_state): normed */
    struct act *b, *c;
    struct act *dt; /* (n, d_inner): W_dt dt_low */
    struct act *y;  /* (n, d_inner): gated scan output */
    real *tiles; /* (ceil(n / SCAN_TILE), d_state, d_inner): states the backward replays from; NULL
                    without b->states */
};

/* The state at a chunk's edges. Out may be in (generation). */
struct mamba_edge {
    const struct act *conv_in; /* (d_conv-1, d_inner) */
    const real *h_in;          /* (d_state, d_inner) */
    struct act *conv_out;
    real *h_out;
};

void mamba_keep_gemm(const struct block *b, struct mamba_keep *k, struct arena *arena);
void mamba_keep_rest(const struct block *b, struct mamba_keep *k, struct arena *arena);

/* k->h (the normed input) -> out (n, d_model); norm and residual are the layer's. */
void mamba_forward(const struct block *b, struct mamba_keep *k, const struct mamba_edge *edge,
                   struct act *out, bool have_gemm);

/* dy (n, d_model) -> dh, the gradient at the normed input (NULL: not wanted). dconv and dh_state
 * are the gradients at the state after the chunk, and on return at the state before it. */
struct mamba_dedge {
    real *dconv, *dstate;
};
void mamba_backward(const struct block *b, const struct mamba_keep *k,
                    const struct mamba_edge *edge, const struct mamba_dedge *dedge,
                    const struct act *dy, struct act *dh);

#endif
