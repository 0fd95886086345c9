/* A frozen linear with an optional adapter: all the LoRA code there is for matrices.
 *
 *   y = x W^T + bias + scale * (drop(x) A^T) B^T
 *   dx = dy W + drop'(dt A),  dt = scale * dy B;   dB += scale * dy^T t,  dA += dt^T drop(x)
 * with t = drop(x) A^T (PEFT's Linear; reference: Hu et al., "LoRA", 2021). lora NULL: a plain
 * frozen linear. Nothing is stored between the two: t and the mask are computed again.
 */
#ifndef LORA_LINEAR_H
#define LORA_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/act.h"
#include "kernels/core/backend.h"
#include "kernels/core/weight.h"
#include "lora/adapter.h"

/* What the dropout masks of a step are keyed by; rate 0: none. */
struct lora_dropout {
    double rate;
    uint64_t seed, step;
};

struct linear_args {
    struct weight w;              /* (out, in) */
    const real *bias;             /* (out), or NULL */
    const struct lora_slot *lora; /* or NULL */
    const struct lora_dropout *dropout;
    const struct act *x;           /* (n_row, in), ldx */
    struct act *y;                 /* (n_row, out), ldy */
    const struct act *dy;          /* (n_row, out), ldy */
    struct act *dx;                /* (n_row, in), lddx; NULL: not wanted */
    int64_t n_row, ldx, ldy, lddx; /* 0: dense */
    bool add_dx;                   /* dx += instead of = */
    /* The index of each row's token within the step, for dropout: first_token + i, or for gathered
     * rows first_token + slot[i] / per_token. */
    int64_t first_token, per_token;
    const int32_t *slot;
};

void linear_forward(struct backend *be, const struct linear_args *a);
void linear_backward(struct backend *be, const struct linear_args *a);

#endif
