/* GEMM with operands rounded to bfloat16 and sums in f32, by AVX-512 BF16's dot products. */
#ifndef KERNELS_CPU_GEMM_BF16_H
#define KERNELS_CPU_GEMM_BF16_H

#include "kernels/cpu/variant.h"

/* Only the AVX-512 variant of the float build has it; cpu_has_bf16 says whether the processor can
 * run it. */
#if defined(__AVX512F__) && !REAL_IS_DOUBLE
#define CPU_BUILDS_BF16 1
#else
#define CPU_BUILDS_BF16 0
#endif

#if CPU_BUILDS_BF16
size_t CPU_OP(gemm_bf16_scratch)(const struct backend *be, const struct gemm_args *a);
void CPU_OP(gemm_bf16)(struct backend *be, const struct gemm_args *a, void *scratch);
#endif

#endif
