/* What every block of the model is given: where it stands in the model and in the stream.
 *
 * A block's file (mamba.c, attention.c, mlp.c, moe.c) holds what it keeps, its forward and its
 * backward. What is kept comes in two classes: GEMM outputs   kept by the recompute policies `scan`
 * and `none` the rest       kept by `none` alone; cheap to redo, or huge `forward(..., have_gemm)`
 * computes what is missing: with have_gemm the GEMM outputs are already there (a recomputation
 * under `scan`). One forward serves all policies, so they agree to the bit. Its output is skipped
 * when out is NULL: a recomputation of the last step before a backward does not need it.
 */
#ifndef FINETUNE_MODEL_BLOCK_H
#define FINETUNE_MODEL_BLOCK_H

#include "finetune/model/config.h"
#include "finetune/model/weights.h"
#include "kernels/core/act.h"
#include "kernels/core/backend.h"
#include "lora/adapter.h"
#include "lora/linear.h"

struct rmsnorm_args; /* kernels/ops.h */

/* Sums of the load-balancing loss over the pass, by document. */
struct router_sums {
    real *f, *psum; /* (n_doc, n_expert): choices, probabilities, over all MoE layers */
    real *scale;    /* (n_doc): of the gradient in psum's logits */
};

struct block {
    struct backend *be;
    const struct jamba_config *config;
    const struct layer_weights *w;
    const struct lora_adapter *adapter; /* or NULL */
    struct lora_dropout dropout;
    int64_t layer;
    /* The chunk: rows t0 .. t0 + n_tok of the stream; first_token is row t0's index in the step. */
    int64_t n_tok, t0, first_token;
    const int32_t *pos, *doc; /* (n_tok): place in its document, and which document */
    const int64_t *doc_start; /* host: starts of the documents from the chunk's first on, and of
                                 what follows the last, (n_doc + 1); NULL in a measuring run */
    int64_t n_doc;            /* documents that the chunk touches */
    int64_t longest;          /* none of them is longer */
    const struct router_sums *router; /* NULL: no load-balancing loss */
    bool states; /* the scan's states at its tiles are wanted: a backward follows from this keep */
    int64_t *counts; /* (n_expert + 1): host memory for the experts' rows */
};

/* The linear of module index `module` over the chunk's rows, its pointers still to be set. */
struct linear_args block_linear(const struct block *b, struct weight w, int64_t module);

/* The ops, as the profile's norms. */
void norm_forward(struct backend *be, const struct rmsnorm_args *a);
void norm_backward(struct backend *be, const struct rmsnorm_args *a);

/* out = rmsnorm(x) w, rows of d_model; the same of x += residual; and dx += the norm's backward. */
void block_norm(const struct block *b, const struct act *x, const real *w, struct act *out);
void block_add_norm(const struct block *b, const struct act *residual, struct act *x, const real *w,
                    struct act *out);
void block_norm_backward(const struct block *b, const struct act *x, const real *w,
                         const struct act *dy, struct act *dx);

#endif
