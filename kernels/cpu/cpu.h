/* The CPU backend. Every op is compiled once per instruction set (baseline, AVX2, AVX-512) under a
 * suffixed name; cpu_backend_init picks the best that the processor has.
 *
 *     struct backend be;
 *     cpu_backend_init(&be, &scratch, 0);    // 0: all processors
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/core/backend.h"

/* n_thread 0: as many as the process may use. */
void cpu_backend_init(struct backend *be, struct arena *scratch, int n_thread);

/* Whether GEMMs can round their operands to bfloat16 here (backend.gemm_bf16): AVX-512 BF16, float build. */
bool cpu_has_bf16(void);

/* By name ("baseline", "avx2", "avx512"); NULL when it is not built or the processor lacks it. */
const struct ops *cpu_ops_by_name(const char *isa);

/* The most floating-point operations a second that n_thread threads reach on registers alone, with
 * the instructions of the variant that cpu_backend_init picks: the best of some slices of
 * `seconds`. In reals, so f32 but in the double build. */
double cpu_peak_flops(int n_thread, double seconds);

#endif
