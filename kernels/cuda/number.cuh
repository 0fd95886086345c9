/* Element types in device code: storage T (float or bfloat16) to float and back, rows of 16 bytes,
 * sums over lanes in fixed order.
 *
 *     float v[VECTOR<T>];
 *     load_vector(x + i, v);         x + i aligned to 16 bytes
 *     store_vector(y + i, v);
 */
#ifndef KERNELS_CUDA_NUMBER_CUH
#define KERNELS_CUDA_NUMBER_CUH

#include "kernels/cuda/launch.h"

static constexpr unsigned FULL_WARP = 0xffffffffu;

__device__ __forceinline__ float to_float(float x)
{
    return x;
}

__device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16(x);
}

/* Elements of 16 bytes. */
template <typename T> struct vector_of {
    static constexpr int N = 16 / int(sizeof(T));
};

__device__ __forceinline__ void load_vector(const float *x, float (&v)[4])
{
    const float4 raw = *reinterpret_cast<const float4 *>(x);
    v[0] = raw.x, v[1] = raw.y, v[2] = raw.z, v[3] = raw.w;
}

__device__ __forceinline__ void load_vector(const __nv_bfloat16 *x, float (&v)[8])
{
    const uint4 raw = *reinterpret_cast<const uint4 *>(x);
    const unsigned words[4] = { raw.x, raw.y, raw.z, raw.w };
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ void store_vector(float *y, const float (&v)[4])
{
    *reinterpret_cast<float4 *>(y) = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ __forceinline__ void store_vector(__nv_bfloat16 *y, const float (&v)[8])
{
    union {
        __nv_bfloat162 pair[4];
        uint4 raw;
    } u;
    for (int i = 0; i < 4; i++)
        u.pair[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
    *reinterpret_cast<uint4 *>(y) = u.raw;
}

/* Whether rows of `ld` elements from x on all begin at multiples of 16 bytes. */
template <typename T> static inline bool rows_aligned(const T *x, int64_t ld)
{
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && size_t(ld) * sizeof(T) % 16 == 0;
}

/* The sum over WIDTH neighbouring lanes, in each of them. */
template <int WIDTH> __device__ __forceinline__ float lanes_sum(float v)
{
    for (int offset = WIDTH / 2; offset > 0; offset /= 2)
        v += __shfl_xor_sync(FULL_WARP, v, offset, WIDTH);
    return v;
}

template <int WIDTH> __device__ __forceinline__ float lanes_max(float v)
{
    for (int offset = WIDTH / 2; offset > 0; offset /= 2)
        v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, offset, WIDTH));
    return v;
}

/* The softplus of PyTorch and of the reference kernels: x itself past 20. log1p keeps the digits of
 * very negative inputs. */
__device__ __forceinline__ float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float silu(float x)
{
    return x * sigmoid(x);
}

#endif
