/* Random matrices: element i is a pure function of (seed, tensor, i).
 *
 * The normal numbers are sums of four 16-bit uniforms, scaled to unit variance: integers alone, so
 * the same bits on every machine and five times as fast as Box-Muller; that their tails end at 3.46
 * sigma and their kurtosis is 2.7 does not matter for weights nobody trained.
 */
#include "kernels/core/rng.h"
#include "kernels/cpu/variant.h"

static double nearly_normal(uint64_t seed, uint64_t tensor, int64_t i)
{
    const uint64_t bits = rng_bits(seed, RNG_INIT_WEIGHTS, tensor, (uint64_t)i);
    const int64_t sum =
        (int64_t)((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48));
    /* mean 4 * 65535 / 2, variance 4 * (65536^2 - 1) / 12 */
    return (double)(sum - 131070) * (1.0 / 37837.22726);
}

void CPU_OP(random)(struct backend *be, const struct random_args *a, void *scratch)
{
    (void)scratch;
    float *as_f32 = a->y;
    uint16_t *as_bf16 = a->y;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n; i++) {
        const float x = (float)(a->range * nearly_normal(a->seed, a->tensor, i));
        if (a->dtype == DTYPE_F32)
            as_f32[i] = x;
        else
            as_bf16[i] = dtype_to_bf16(x);
    }
}
