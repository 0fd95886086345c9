/* How much scratch the CUDA ops take: plain arithmetic on shapes, the same in the module and in the
 * program, which plans without a device. */
#ifndef KERNELS_CUDA_SCRATCH_H
#define KERNELS_CUDA_SCRATCH_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The ops that need scratch; what depends on data is answered at its bound. */
#define CUDA_SCRATCH_OPS(X)                                                                        \
    X(gemm, gemm_args)                                                                             \
    X(scan_backward, scan_args)                                                                    \
    X(attention_forward, attention_args)                                                           \
    X(attention_backward, attention_args)                                                          \
    X(route_forward, route_args)                                                                   \
    X(aux_sums, aux_sums_args)                                                                     \
    X(add_sum, add_sum_args)                                                                       \
    X(sum_squares, sum_squares_args)

#define CUDA_SCRATCH_DECLARE(name, args)                                                           \
    size_t cuda_##name##_scratch(const struct backend *be, const struct args *a);
CUDA_SCRATCH_OPS(CUDA_SCRATCH_DECLARE)
#undef CUDA_SCRATCH_DECLARE

#ifdef __cplusplus
}
#endif

#endif
