/* Where ops run: a table of functions, the memory they may use, and the first error of a device. */
#ifndef KERNELS_CORE_BACKEND_H
#define KERNELS_CORE_BACKEND_H

#include <stdbool.h>

#include "kernels/core/arena.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"

struct ops;
struct device;
struct profile;

struct backend {
    const struct ops *k; /* kernels/ops.h */
    const char *name;    /* "cpu avx512", "cuda", "plan", ... */
    enum dtype act; /* element type of activations (kernels/core/act.h); DTYPE_REAL on the CPU */
    int n_thread;
    bool gemm_bf16;        /* round GEMM operands to bfloat16 (precision: bf16) */
    bool nondeterministic; /* sums may be taken in any order where that is faster (CUDA) */
    struct arena
        *scratch;   /* rewound after each op; the model pushes its own temporaries here too */
    struct err err; /* the first device error sticks */
    bool remote;    /* ops work in memory of their own: weights and adapters are copied there */
    size_t memory;  /* bytes of a device's memory, where that is known */
    struct device *device; /* whose memory ops work in (kernels/core/device.h); NULL: the host's */
    struct profile *profile; /* borrowed: what the model's blocks take is added up there; or NULL */
};

#endif
