/* GEMM as dot products along k: for a few columns of op(b), or a few rows of a, where sums over
 * columns would leave most lanes empty.
 */
#ifndef KERNELS_CPU_GEMM_DOT_H
#define KERNELS_CPU_GEMM_DOT_H

#include "kernels/cpu/variant.h"

/* Whether this product is better done so. Depends on the shape alone. */
bool CPU_OP(gemm_dot_suits)(const struct gemm_args *a);

/* scratch has room for scratch_reals of each thread. */
void CPU_OP(gemm_dot)(struct backend *be, const struct gemm_args *a, real *scratch,
                      int64_t scratch_reals);

#endif
