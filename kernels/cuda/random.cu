/* Random matrices: element i is a pure function of (seed, tensor, i), as in kernels/cpu/random.c.
 *
 * A thread owns four neighbouring elements, each with a block of Philox of its own (about 90
 * instructions), and writes them in one access. Bytes per element: 2 or 4. Bound: integer
 * instructions.
 */
#include "kernels/cuda/rng.cuh"
#include "kernels/cuda/vector.cuh"

namespace
{

enum { RANDOM_THREADS = 256, RANDOM_UNROLL = 4 };

/* The sum of four 16-bit uniforms, scaled to unit variance (4 (65536^2 - 1) / 12). */
__device__ __forceinline__ double nearly_normal(uint64_t bits)
{
    const int sum =
        int((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48));
    return double(sum - 131070) * (1.0 / 37837.22726);
}

template <typename T>
__global__ void __launch_bounds__(RANDOM_THREADS)
    random_kernel(T *y, int64_t n, double range, uint64_t seed, uint64_t tensor, bool aligned)
{
    const int64_t first =
        (int64_t(blockIdx.x) * RANDOM_THREADS + threadIdx.x) * int64_t(RANDOM_UNROLL);
    float v[RANDOM_UNROLL];
#pragma unroll
    for (int k = 0; k < RANDOM_UNROLL; k++) {
        const uint64_t bits = philox_bits(seed, RNG_INIT_WEIGHTS, tensor, uint64_t(first + k));
        v[k] = float(range * nearly_normal(bits));
    }
    if (aligned && first + RANDOM_UNROLL <= n) {
        store_packed(y + first, narrow<T>(v));
        return;
    }
#pragma unroll
    for (int k = 0; k < RANDOM_UNROLL; k++) {
        if (first + k < n)
            y[first + k] = from_float<T>(v[k]);
    }
}

template <typename T> void launch_random(struct backend *be, const struct random_args *a)
{
    T *y = static_cast<T *>(a->y);
    const dim3 grid(unsigned(blocks_for(a->n, RANDOM_THREADS * RANDOM_UNROLL)));
    const dim3 block(RANDOM_THREADS);
    LAUNCH((random_kernel<T>), grid, block, 0, stream_of(be), y, a->n, a->range, a->seed, a->tensor,
           aligned_16(y));
}

} // namespace

extern "C" void cuda_random(struct backend *be, const struct random_args *a, void *scratch)
{
    (void)scratch;
    if (a->n == 0)
        return;
    if (a->dtype == DTYPE_F32)
        launch_random<float>(be, a);
    else
        launch_random<__nv_bfloat16>(be, a);
    CHECK_LAUNCH(be, "random");
}
