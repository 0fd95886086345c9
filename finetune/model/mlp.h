/* The dense feed-forward: down(silu(gate(h)) * up(h)). */
#ifndef FINETUNE_MODEL_MLP_H
#define FINETUNE_MODEL_MLP_H

#include "finetune/model/block.h"

struct mlp_keep {
    struct act *gate, *up; /* (n, d_ff)   GEMM */
    struct act *h;         /* (n, d_model) */
    struct act *m;         /* (n, d_ff): silu(gate) * up */
};

void mlp_keep_gemm(const struct block *b, struct mlp_keep *k, struct arena *arena);
void mlp_keep_rest(const struct block *b, struct mlp_keep *k, struct arena *arena);

/* k->h (the normed input) -> out (n, d_model); norm and residual are the layer's. */
void mlp_forward(const struct block *b, struct mlp_keep *k, struct act *out, bool have_gemm);
void mlp_backward(const struct block *b, const struct mlp_keep *k, const struct act *dy,
                  struct act *dh);

#endif
