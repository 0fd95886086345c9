/* Where a model computes, and in which precision.
 *
 *     struct compute compute = { .device = COMPUTE_AUTO };
 *     if (!compute_open(&be, &compute, err)) ...
 *     be.scratch = &scratch;
 *     ...
 *     compute_close(&be);
 */
#ifndef FINETUNE_MODEL_COMPUTE_H
#define FINETUNE_MODEL_COMPUTE_H

#include <stdbool.h>

#include "kernels/core/backend.h"

enum compute_device {
    COMPUTE_AUTO, /* the GPU when there is one that can be used */
    COMPUTE_CPU,
    COMPUTE_CUDA,
};

enum compute_precision {
    COMPUTE_PRECISION_AUTO, /* bf16 on a GPU, fp32 on the CPU */
    COMPUTE_FP32,
    COMPUTE_BF16, /* on the CPU: operands of GEMMs alone, where it has AVX-512 BF16 */
};

struct compute {
    enum compute_device device;
    enum compute_precision precision;
    int threads;            /* of the CPU; 0: all processors */
    bool nondeterministic;  /* a GPU may add in any order where that is faster */
    const char *algorithms; /* a file of bench --tune for a GPU, or NULL */
    bool plan_only;         /* nothing will run: a GPU is planned for without having one */
};

/* Whether this machine has what is asked for; plan_only does not count. */
bool compute_check(const struct compute *c, struct err *err);

/* The backend; messages begin with the recipe's key ("device: ...", "precision: ..."). */
bool compute_open(struct backend *be, const struct compute *c, struct err *err);
void compute_close(struct backend *be);

#endif
