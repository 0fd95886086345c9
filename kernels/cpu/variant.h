/* Inside a variant of the CPU backend: names, and the few helpers all ops use.
 *
 * Ops are written as `void CPU_OP(rmsnorm_forward)(...)`; CPU_ISA (a compiler flag) makes that
 * cpu_rmsnorm_forward_avx2 and so on. Loops over elements carry `#pragma omp simd`; a fixed
 * summation order per build keeps results independent of threads.
 */
#ifndef KERNELS_CPU_VARIANT_H
#define KERNELS_CPU_VARIANT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/ops.h"

#define CPU_PASTE2(name, isa) cpu_##name##_##isa
#define CPU_PASTE(name, isa) CPU_PASTE2(name, isa)
#define CPU_OP(name) CPU_PASTE(name, CPU_ISA)

#define CPU_DECLARE(name, args)                                                                    \
    void CPU_OP(name)(struct backend * be, const struct args *a, void *scratch);
OPS(CPU_DECLARE)
#undef CPU_DECLARE

/* The ops that need scratch. */
#define CPU_SCRATCH_OPS(X)                                                                         \
    X(gemm, gemm_args)                                                                             \
    X(conv1d_backward, conv1d_args)                                                                \
    X(scan_forward, scan_args)                                                                     \
    X(scan_backward, scan_args)                                                                    \
    X(attention_forward, attention_args)                                                           \
    X(attention_backward, attention_args)                                                          \
    X(sum_squares, sum_squares_args)                                                               \
    X(add_sum, add_sum_args)
#define CPU_DECLARE(name, args)                                                                    \
    size_t CPU_OP(name##_scratch)(const struct backend *be, const struct args *a);
CPU_SCRATCH_OPS(CPU_DECLARE)
#undef CPU_DECLARE

enum { LANES = 16 }; /* channels worked on together: one AVX-512 register of f32 */

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Loop over row blocks: enough rows that a task outweighs its start. */
static inline int64_t rows_per_task(int64_t dim)
{
    return dim >= 4096 ? 1 : 1 + 4096 / (dim + 1);
}

/* sum of x[i] y[i] in LANES partial sums, added in order. */
static inline real dot(const real *restrict x, const real *restrict y, int64_t n)
{
    real part[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++)
            part[j] += x[i + j] * y[i + j];
    }
    real sum = 0;
    for (; i < n; i++)
        sum += x[i] * y[i];
    for (int j = 0; j < LANES; j++)
        sum += part[j];
    return sum;
}

#if REAL_IS_DOUBLE

static inline real real_exp(real x)
{
    return exp(x);
}

static inline real real_log1p_unit(real e)
{
    return log1p(e);
}

#else

/* e^x to 2 ulp, branch-free so that it vectorises. x = n ln2 + r, |r| <= ln2/2: 2^n times a
 * degree-6 polynomial in r (Cephes expf's coefficients). Saturates at 2^+-126; NaN stays NaN. */
static inline real real_exp(real x)
{
    x = x > 87.3f ? 87.3f : x;
    x = x < -87.3f ? -87.3f : x;
    const float shift =
        12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    const float t = x * 1.44269504f + shift;
    const float n = t - shift;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits << 23) + 0x3F800000u;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* log(1 + e) for e in [0, 1]: 2 atanh(s), s = e / (2 + e) <= 1/3, as its series to s^15: relative
 * error below 1e-7 everywhere, small e included (softplus of very negative inputs must not lose
 * digits). */
static inline real real_log1p_unit(real e)
{
    const float s = e / (2.0f + e), q = s * s;
    float p = 1.0f / 15;
    p = p * q + 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    p = p * q + 1.0f;
    return 2.0f * s * p;
}

#endif

static inline real real_sigmoid(real x)
{
    return 1 / (1 + real_exp(-x));
}

/* log(1 + e^x), and x itself past 20 (PyTorch's threshold; reference kernels share it). */
static inline real real_softplus(real x)
{
    const real ax = x < 0 ? -x : x;
    const real y = (x > 0 ? x : 0) + real_log1p_unit(real_exp(-ax));
    return x > 20 ? x : y;
}

#endif
