/* Sums in double over a block, in fixed order. */
#ifndef KERNELS_CUDA_SUM_CUH
#define KERNELS_CUDA_SUM_CUH

#include "kernels/cuda/number.cuh"

/* The sum over the block in its first thread; once in a kernel. */
template <int N_THREAD> __device__ __forceinline__ double block_sum_double(double v)
{
    constexpr int N_WARP = N_THREAD / 32;
    SHARED_ARRAY(double, partial, [N_WARP]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(FULL_WARP, v, offset);
    if (lane == 0)
        partial[warp] = v;
    __syncthreads();
    for (int i = 1; threadIdx.x == 0 && i < N_WARP; i++)
        v += partial[i];
    return v;
}

#endif
