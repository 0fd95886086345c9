/* Where ops run: a table of functions, the memory they may use, and the first error of a device. */
#ifndef KERNELS_CORE_BACKEND_H
#define KERNELS_CORE_BACKEND_H

#include <stdbool.h>

#include "kernels/core/arena.h"
#include "kernels/core/err.h"

struct ops;

struct backend {
    const struct ops *k; /* kernels/ops.h */
    const char *name;    /* "cpu avx512", "plan", ... */
    int n_thread;
    bool gemm_bf16; /* round GEMM operands to bfloat16 (precision: bf16) */
    struct arena
        *scratch;   /* rewound after each op; the model pushes its own temporaries here too */
    struct err err; /* the first device error sticks */
};

#endif
