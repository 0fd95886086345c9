/* Tiles of attention in shared memory, in f32: rows of activations, scores, and what a thread owns
 * of both (attention.cu).
 */
#ifndef KERNELS_CUDA_ATTENTION_TILE_CUH
#define KERNELS_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/number.cuh"

/* A block's threads; the backward's are told that one block on a multiprocessor is fine: with
 * registers for two they spill. */
static constexpr int SIDE = 16, N_THREAD = SIDE * SIDE;

/* Rows of tiles: R for each thread of what the block owns, C of what it walks, as d_head allows in
 * 163 KiB, or (Ampere's and Ada's smaller devices) in 99 KiB. A row in shared memory is 4 floats
 * longer than it need be: 16 rows side by side then lie in different banks. */
template <int D, int R_, int C_> struct tiles {
    static constexpr int R = R_, C = C_, OWN = SIDE * R, WALK = SIDE * C;
    static constexpr int LD = D + 4, LDS = WALK + 4; /* of rows; of scores */
    static constexpr int N = D / (4 * SIDE);         /* groups of 4 elements for each thread */
};

/* ROWS rows of d elements, `ld` apart, into shared memory; rows past n are 0, as are elements up to
 * the next multiple of 4. */
template <typename T, int ROWS, int LD>
__device__ void load_rows(const T *__restrict__ x, int64_t ld, int64_t n, int d, bool aligned,
                          float *tile)
{
    constexpr int V = vector_of<T>::N;
    if (aligned) {
        const int n_vector = d / V;
        for (int i = int(threadIdx.x); i < ROWS * n_vector; i += N_THREAD) {
            const int row = i / n_vector, at = i % n_vector * V;
            float v[V] = {};
            if (row < n)
                load_vector(x + row * ld + at, v);
            for (int e = 0; e < V; e += 4)
                *reinterpret_cast<float4 *>(tile + row * LD + at + e) =
                    make_float4(v[e], v[e + 1], v[e + 2], v[e + 3]);
        }
        return;
    }
    const int width = (d + 3) / 4 * 4;
    for (int i = int(threadIdx.x); i < ROWS * width; i += N_THREAD) {
        const int row = i / width, at = i % width;
        tile[row * LD + at] = row < n && at < d ? to_float(x[row * ld + at]) : 0.0f;
    }
}

/* s[i][j] = <row ty R + i of a, row tx + 16 j of b>. */
template <int R, int C, int LD>
__device__ __forceinline__ void multiply(const float *a, const float *b, int d, float (&s)[R][C])
{
    const int tx = int(threadIdx.x) % SIDE, ty = int(threadIdx.x) / SIDE;
    for (int i = 0; i < R; i++) {
        for (int j = 0; j < C; j++)
            s[i][j] = 0;
    }
#pragma unroll 2
    for (int k = 0; k < d; k += 4) {
        float4 x[R], y[C];
        for (int i = 0; i < R; i++)
            x[i] = *reinterpret_cast<const float4 *>(a + (ty * R + i) * LD + k);
        for (int j = 0; j < C; j++)
            y[j] = *reinterpret_cast<const float4 *>(b + (tx + SIDE * j) * LD + k);
        for (int i = 0; i < R; i++) {
            for (int j = 0; j < C; j++) {
                s[i][j] += x[i].x * y[j].x;
                s[i][j] += x[i].y * y[j].y;
                s[i][j] += x[i].z * y[j].z;
                s[i][j] += x[i].w * y[j].w;
            }
        }
    }
}

__device__ __forceinline__ float element(const float4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* sum[i] += the thread's elements of row ty R + i of p times the rows of a tile. */
template <typename Tiles>
__device__ __forceinline__ void accumulate(const float *p, const float *rows,
                                           float (&sum)[Tiles::R][Tiles::N][4])
{
    const int tx = int(threadIdx.x) % SIDE, ty = int(threadIdx.x) / SIDE;
    for (int k = 0; k < Tiles::WALK; k += 4) {
        float4 x[Tiles::R];
        for (int i = 0; i < Tiles::R; i++)
            x[i] = *reinterpret_cast<const float4 *>(p + (ty * Tiles::R + i) * Tiles::LDS + k);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            for (int c = 0; c < Tiles::N; c++) {
                const float4 y = *reinterpret_cast<const float4 *>(rows + (k + e) * Tiles::LD +
                                                                   (tx + SIDE * c) * 4);
                for (int i = 0; i < Tiles::R; i++) {
                    const float w = element(x[i], e);
                    sum[i][c][0] += w * y.x;
                    sum[i][c][1] += w * y.y;
                    sum[i][c][2] += w * y.z;
                    sum[i][c][3] += w * y.w;
                }
            }
        }
    }
}

template <typename Tiles> __device__ __forceinline__ void clear(float (&sum)[Tiles::R][Tiles::N][4])
{
    for (int i = 0; i < Tiles::R; i++) {
        for (int c = 0; c < Tiles::N; c++) {
            for (int e = 0; e < 4; e++)
                sum[i][c][e] = 0;
        }
    }
}

__device__ __forceinline__ void store_four(float *y, const float (&v)[4])
{
    store_vector(y, v);
}

__device__ __forceinline__ void store_four(__nv_bfloat16 *y, const float (&v)[4])
{
    union {
        __nv_bfloat162 pair[2];
        uint2 raw;
    } u;
    u.pair[0] = __floats2bfloat162_rn(v[0], v[1]);
    u.pair[1] = __floats2bfloat162_rn(v[2], v[3]);
    *reinterpret_cast<uint2 *>(y) = u.raw;
}

/* The thread's elements of a row, times scale. */
template <typename T, int N>
__device__ void store_row(T *y, const float (&v)[N][4], float scale, int d, bool aligned)
{
    const int tx = int(threadIdx.x) % SIDE;
#pragma unroll
    for (int c = 0; c < N; c++) {
        const int at = (tx + SIDE * c) * 4;
        float out[4];
        for (int e = 0; e < 4; e++)
            out[e] = v[c][e] * scale;
        if (aligned && at < d) {
            store_four(y + at, out);
            continue;
        }
        for (int e = 0; e < 4; e++) {
            if (at + e < d)
                y[at + e] = from_float<T>(out[e]);
        }
    }
}

template <int N> __device__ void add_row(float *y, const float (&v)[N][4], int d, bool aligned)
{
    const int tx = int(threadIdx.x) % SIDE;
#pragma unroll
    for (int c = 0; c < N; c++) {
        const int at = (tx + SIDE * c) * 4;
        if (aligned && at < d) {
            float sum[4];
            load_vector(y + at, sum);
            for (int e = 0; e < 4; e++)
                sum[e] += v[c][e];
            store_vector(y + at, sum);
            continue;
        }
        for (int e = 0; e < 4; e++) {
            if (at + e < d)
                y[at + e] += v[c][e];
        }
    }
}

#endif
