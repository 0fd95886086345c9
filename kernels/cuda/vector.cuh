/* Neighbouring elements in one access of up to 16 bytes, kept as they are stored until they are
 * needed: a thread can have many loads in flight in few registers, and convert as it goes.
 *
 *     packed<T, N> p = load_packed<N>(x + i);      x + i aligned to N elements
 *     float v[N];
 *     widen(p, v);
 *     store_packed(y + i, narrow<T>(v));
 *
 * And the geometry of ops that treat rows alike: a block takes ROW_TILE rows, one warp each, of
 * ROW_TILE_VECTORS vectors; every lane has ROW_TILE_VECTORS / 32 of them in flight.
 */
#ifndef KERNELS_CUDA_VECTOR_CUH
#define KERNELS_CUDA_VECTOR_CUH

#include "kernels/cuda/number.cuh"

__device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}

template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
    return __float2half(x);
}

/* What a word of 32 bits holds: one float or two of the others. */
template <typename T> struct word_of;
template <> struct word_of<float> {
    static __device__ __forceinline__ void widen(unsigned word, float *v)
    {
        v[0] = __uint_as_float(word);
    }
    static __device__ __forceinline__ unsigned narrow(const float *v)
    {
        return __float_as_uint(v[0]);
    }
};
template <> struct word_of<__nv_bfloat16> {
    static __device__ __forceinline__ void widen(unsigned word, float *v)
    {
        v[0] = __uint_as_float(word << 16);
        v[1] = __uint_as_float(word & 0xffff0000u);
    }
    static __device__ __forceinline__ unsigned narrow(const float *v)
    {
        union {
            __nv_bfloat162 pair;
            unsigned word;
        } u;
        u.pair = __floats2bfloat162_rn(v[0], v[1]);
        return u.word;
    }
};
template <> struct word_of<__half> {
    static __device__ __forceinline__ void widen(unsigned word, float *v)
    {
        v[0] = __half2float(__ushort_as_half((unsigned short)(word & 0xffffu)));
        v[1] = __half2float(__ushort_as_half((unsigned short)(word >> 16)));
    }
    static __device__ __forceinline__ unsigned narrow(const float *v)
    {
        union {
            __half2 pair;
            unsigned word;
        } u;
        u.pair = __floats2half2_rn(v[0], v[1]);
        return u.word;
    }
};

/* Words, not elements: of those the compiler would keep each in a register of its own. */
template <typename T, int N> struct alignas(sizeof(T) * N) packed {
    static constexpr int N_WORD = int(sizeof(T)) * N / 4;
    static_assert(sizeof(T) * N == 8 || sizeof(T) * N == 16, "one access");
    unsigned word[N_WORD];
};
template <typename T> struct packed<T, 1> {
    T v;
};

template <int N, typename T> __device__ __forceinline__ packed<T, N> load_packed(const T *x)
{
    packed<T, N> p;
    if constexpr (sizeof(p) == 16) {
        const uint4 raw = *reinterpret_cast<const uint4 *>(x);
        p.word[0] = raw.x, p.word[1] = raw.y, p.word[2] = raw.z, p.word[3] = raw.w;
    } else if constexpr (sizeof(p) == 8) {
        const uint2 raw = *reinterpret_cast<const uint2 *>(x);
        p.word[0] = raw.x, p.word[1] = raw.y;
    } else {
        p.v = *x;
    }
    return p;
}

/* Stores of 16 and 8 bytes. In PTX because nvcc (13.0) takes some of several such stores in a
 * kernel apart into words. */
__device__ __forceinline__ void store_words(void *y, const unsigned (&word)[4])
{
#ifdef __CUDA_ARCH__
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(y)), "r"(word[0]), "r"(word[1]), "r"(word[2]),
                   "r"(word[3])
                 : "memory");
#else
    *static_cast<uint4 *>(y) = make_uint4(word[0], word[1], word[2], word[3]);
#endif
}

__device__ __forceinline__ void store_words(void *y, const unsigned (&word)[2])
{
#ifdef __CUDA_ARCH__
    asm volatile("st.global.v2.u32 [%0], {%1, %2};"
                 :
                 : "l"(__cvta_generic_to_global(y)), "r"(word[0]), "r"(word[1])
                 : "memory");
#else
    *static_cast<uint2 *>(y) = make_uint2(word[0], word[1]);
#endif
}

template <typename T, int N>
__device__ __forceinline__ void store_packed(T *y, const packed<T, N> &p)
{
    if constexpr (N == 1)
        *y = p.v;
    else
        store_words(y, p.word);
}

template <typename T, int N>
__device__ __forceinline__ void widen(const packed<T, N> &p, float (&v)[N])
{
    constexpr int PER_WORD = 4 / int(sizeof(T));
#pragma unroll
    for (int k = 0; k < packed<T, N>::N_WORD; k++)
        word_of<T>::widen(p.word[k], v + k * PER_WORD);
}

template <typename T> __device__ __forceinline__ void widen(const packed<T, 1> &p, float (&v)[1])
{
    v[0] = to_float(p.v);
}

template <typename T, int N>
__device__ __forceinline__ void narrow_into(const float (&v)[N], packed<T, N> &p)
{
    constexpr int PER_WORD = 4 / int(sizeof(T));
#pragma unroll
    for (int k = 0; k < packed<T, N>::N_WORD; k++)
        p.word[k] = word_of<T>::narrow(v + k * PER_WORD);
}

template <typename T>
__device__ __forceinline__ void narrow_into(const float (&v)[1], packed<T, 1> &p)
{
    p.v = from_float<T>(v[0]);
}

template <typename T, int N> __device__ __forceinline__ packed<T, N> narrow(const float (&v)[N])
{
    packed<T, N> p;
    narrow_into(v, p);
    return p;
}

/* What threads without work carry. */
template <typename T, int N> __device__ __forceinline__ packed<T, N> packed_zero()
{
    const float zero[N] = {};
    return narrow<T>(zero);
}

/* N floats from a place aligned to 16 bytes, or to the N floats where that is less. */
template <int N> __device__ __forceinline__ void load_floats(const float *x, float (&v)[N])
{
    constexpr int STEP = N < 4 ? N : 4;
#pragma unroll
    for (int k = 0; k < N; k += STEP) {
        float part[STEP];
        widen(load_packed<STEP>(x + k), part);
#pragma unroll
        for (int l = 0; l < STEP; l++)
            v[k + l] = part[l];
    }
}

/* Elements of the one access that both types share: 16 bytes of the wider. */
template <typename T, typename S> struct vector_of_both {
    static constexpr int N = 16 / int(sizeof(T) > sizeof(S) ? sizeof(T) : sizeof(S));
};

template <typename T> static inline bool aligned_16(const T *x)
{
    return reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

static inline int64_t blocks_for(int64_t n, int64_t per_block)
{
    return (n + per_block - 1) / per_block;
}

enum { ROW_TILE = 8, ROW_TILE_VECTORS = 128, ROW_TILE_UNROLL = ROW_TILE_VECTORS / 32 };

static inline dim3 row_tile_grid(int64_t n_row, int64_t n_vector)
{
    return dim3(unsigned(blocks_for(n_row, ROW_TILE)),
                unsigned(blocks_for(n_vector, ROW_TILE_VECTORS)));
}

static inline dim3 row_tile_block()
{
    return dim3(32, ROW_TILE);
}

__device__ __forceinline__ int64_t row_tile_row()
{
    return int64_t(blockIdx.x) * ROW_TILE + threadIdx.y;
}

__device__ __forceinline__ int64_t row_tile_vector(int u)
{
    return int64_t(blockIdx.y) * ROW_TILE_VECTORS + 32 * u + threadIdx.x;
}

#endif
