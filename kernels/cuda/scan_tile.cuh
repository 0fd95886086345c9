/* What the scan's two directions share: arithmetic, the lanes' places, tiles in shared memory and
 * their way there and back. */
#ifndef KERNELS_CUDA_SCAN_TILE_CUH
#define KERNELS_CUDA_SCAN_TILE_CUH

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/vector.cuh"

namespace
{

constexpr int TILE = SCAN_TILE;     /* tokens in shared memory at a time */
constexpr int GROUP = 8;            /* tokens of one unrolled piece of code */
constexpr int STATES = SCAN_STATES; /* states of a channel walked together */
constexpr int BC_ROW = 2 * STATES;  /* floats of a token's b and c in shared memory */
constexpr float LOG2E = 1.44269504f;
constexpr float LN2 = 0.693147181f;

/* struct scan_args with the activations' type, and the geometry. */
template <typename T> struct scan {
    const T *u, *dt, *z, *b, *c, *dy;
    T *y, *du, *ddt, *dz;
    const float *a, *d, *dt_bias, *h_in, *dh_out;
    float *h_out, *tile_states, *dh_in;
    float *parts; /* (blocks, state blocks, n_tok, BC_ROW): db and dc of each block's channels */
    const int32_t *pos;
    int64_t n_tok, d_inner, d_state, ldz, lddz;
    int n_channel; /* of a block */
    int n_round;   /* blocks of STATES states */
    bool aligned;  /* every row of channels begins at a multiple of 16 bytes */
    bool bc_aligned;
};

/* ---- arithmetic ---- */

/* 2^x in one instruction, relative error below 2^-22 (PTX ISA) and 1 at 0; below 2^-126 it is 0.
 * For a decay near 1 that is four roundings of a float, on top of its own: a state that remembers m
 * tokens is off by m 2^-22 at most, 2e-4 at the thousand tokens of Mamba's slowest initial decay.
 * (A decay in bfloat16 would be 1 there, and remember all.) */
__device__ __forceinline__ float exp2_fast(float x)
{
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/* 1 / x to 1 ulp; 0 from 2^126 on. */
__device__ __forceinline__ float reciprocal_fast(float x)
{
#ifdef __CUDA_ARCH__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

/* Relative error 2^-21 near 0, |x| 2^-24 more far from it: that of the product with log2 e. */
__device__ __forceinline__ float sigmoid_fast(float x)
{
    return reciprocal_fast(1.0f + exp2_fast(-LOG2E * x));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x|, with log(1 + e) = 2 atanh(s), s = e / (2 + e)
 * <= 1/3, as its series to s^13: 1.4e-8 of it is cut off, and small results (very negative x)
 * keep their digits. Past 20 the second term is below half an ulp of x: the threshold of 20 that
 * the reference has is the same function. */
__device__ __forceinline__ float softplus_fast(float x)
{
    const float e = exp2_fast(-LOG2E * fabsf(x));
    const float s = e * reciprocal_fast(2.0f + e), q = s * s;
    float p = 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    p = p * q + 1.0f;
    return fmaxf(x, 0.0f) + (s + s) * p;
}

/* Keeps the compiler from moving what two instances of a function begin with ahead of the branch
 * between them, where it overlaps with nothing. */
template <bool PATH> __device__ __forceinline__ void separate_paths()
{
#ifdef __CUDA_ARCH__
    if (PATH)
        asm volatile("// one path" ::: "memory");
    else
        asm volatile("// the other path" ::: "memory");
#endif
}

/* threadIdx.x as a value of its own: what is computed from it is not kept in registers for the next
 * use. */
__device__ __forceinline__ int fresh_thread()
{
    int thread = int(threadIdx.x);
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(thread));
#endif
    return thread;
}

/* ---- lanes ----
 *
 * SPLIT lanes share a channel, OWN states each. Bits 0-1 of the lane: channel; then the part of the
 * channel's states; then, with SPLIT 4, channel again. A group of tokens gives each of them GROUP
 * (token, channel) items to compute once: item i of a lane is token part + SPLIT i of the group. */
template <int SPLIT> struct lane_place {
    static constexpr int OWN = STATES / SPLIT, PER_WARP = 32 / SPLIT, ITEMS = GROUP / SPLIT;
    int lane, warp, part;
    int in_warp, channel; /* the channel, in the warp and in the block */

    __device__ __forceinline__ explicit lane_place(int thread)
    {
        lane = thread % 32;
        warp = thread / 32;
        part = lane / 4 % SPLIT;
        in_warp = lane / 4 / SPLIT * 4 + lane % 4;
        channel = warp * PER_WARP + in_warp;
    }
};

/* One step of a transpose-sum: of two sums that both lanes hold parts of, each keeps one. */
__device__ __forceinline__ float exchange(float low, float high, int lane, int bit)
{
    const bool upper = (lane & bit) != 0;
    const float keep = upper ? high : low, give = upper ? low : high;
    return keep + __shfl_xor_sync(FULL_WARP, give, bit);
}

/* The sums over a channel's lanes of a group's values, given from the last token to the first;
 * lanes get those of their items. Few values wait at a time. */
template <int SPLIT> struct part_sums {
    float odd = 0, pair = 0, four = 0;

    __device__ __forceinline__ void add(int t, float v, int lane, float (&sum)[GROUP / SPLIT])
    {
        if (t % 2 == 1) {
            odd = v;
            return;
        }
        const float two = exchange(v, odd, lane, 4);
        if (t % 4 == 2) {
            pair = two;
            return;
        }
        const float all = exchange(two, pair, lane, 8);
        if (t == 4)
            four = all;
        else if constexpr (SPLIT == 8)
            sum[0] = exchange(all, four, lane, 16);
        else
            sum[0] = all, sum[1] = four;
    }
};

/* ---- tiles of activations in shared memory ---- */

/* Elements from row to row: room for the most channels a block has (scan_cut), in an odd number of
 * 16-byte pieces, so that the rows of a group lie in different banks. */
template <typename T> struct tile_of {
    static constexpr int STRIDE = sizeof(T) == 2 ? 40 : 28;
    static constexpr int SIZE = TILE * STRIDE;
};

/* A piece to shared memory, and back. */
template <typename T>
__device__ __forceinline__ void load_piece(struct async_copy &copies, bool whole, T *to, const T *x)
{
    if (whole)
        copies.start(to, x);
    else
        *to = *x;
}

template <typename T> __device__ __forceinline__ void store_piece(bool whole, T *y, const T *from)
{
    if (whole)
        *reinterpret_cast<uint4 *>(y) = *reinterpret_cast<const uint4 *>(from);
    else
        *y = *from;
}

/* Where part p's states of b (and c) lie in a token's BC_ROW floats: side by side when both make
 * one access. */
template <int SPLIT> __device__ __forceinline__ int bc_place(int p, bool c)
{
    constexpr int OWN = STATES / SPLIT;
    return OWN == 2 ? 4 * p + (c ? 2 : 0) : OWN * p + (c ? STATES : 0);
}

/* b and c of a tile as floats; zeros past its n tokens and the ld states there are. */
template <typename T, int SPLIT>
__device__ __forceinline__ void widen_coefficients(float *bc, const T *b, const T *c, int64_t ld,
                                                   int64_t first, int n)
{
    constexpr int OWN = STATES / SPLIT;
    for (int i = fresh_thread(); i < TILE * SPLIT; i += int(blockDim.x)) {
        const int t = i / SPLIT, p = i % SPLIT;
        float *row = bc + t * BC_ROW;
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            const int64_t at = first + p * OWN + k;
            const bool there = t < n && at < ld;
            row[bc_place<SPLIT>(p, false) + k] = there ? to_float(b[t * ld + at]) : 0.0f;
            row[bc_place<SPLIT>(p, true) + k] = there ? to_float(c[t * ld + at]) : 0.0f;
        }
    }
}

template <int OWN>
__device__ __forceinline__ void load_b(const float *row, int part, float (&b)[OWN])
{
    load_floats(row + 4 * part, b);
}

template <int OWN>
__device__ __forceinline__ void load_bc(const float *row, int part, float (&b)[OWN],
                                        float (&c)[OWN])
{
    if constexpr (OWN == 2) {
        float v[4];
        load_floats(row + 4 * part, v);
        b[0] = v[0], b[1] = v[1], c[0] = v[2], c[1] = v[3];
    } else {
        load_floats(row + 4 * part, b);
        load_floats(row + STATES + 4 * part, c);
    }
}

/* Which of the 32 tokens begin a document, from each lane's position of a token. */
__device__ __forceinline__ unsigned first_tokens(int32_t pos)
{
    return __ballot_sync(FULL_WARP, pos == 0);
}

/* What is left of the tokens for a tile. */
__device__ __forceinline__ int tile_rows(int64_t n_tok, int tile)
{
    const int64_t left = n_tok - int64_t(tile) * TILE;
    return left < 0 ? 0 : left < TILE ? int(left) : TILE;
}

/* ---- a block's channels ---- */

/* Moves tiles between memory and shared memory, and states between memory and registers. A thread
 * moves the same pieces of every array and tile, in both directions: what it has stored it may
 * overwrite without a barrier. */
template <typename T, int SPLIT> struct block_channels {
    static constexpr int OWN = STATES / SPLIT;
    static constexpr int N = vector_of<T>::N, STRIDE = tile_of<T>::STRIDE;
    static constexpr int ROWS = SPLIT * N; /* that the block's threads move at a time */
    const struct scan<T> &s;
    int first, width;        /* channels: the block's first, and how many of n_channel there are */
    int row, column;         /* this thread's first piece of 16 bytes */
    int channel, part, lane; /* of this lane */
    bool inside;             /* whether there is such a channel */

    __device__ __forceinline__ block_channels(const struct scan<T> &s_, int thread, int piece)
        : s(s_), first(int(blockIdx.x) * s_.n_channel),
          width(min(int(s_.d_inner) - first, s_.n_channel)), row(piece >> 16),
          column(piece & 0xffff)
    {
        const lane_place<SPLIT> place(thread);
        channel = first + place.channel;
        part = place.part;
        lane = place.lane;
        inside = place.channel < width;
    }

    /* The thread's piece: row << 16 | column. */
    static __device__ __forceinline__ int piece_of(int thread, int n_channel)
    {
        return thread / (n_channel / N) << 16 | thread % (n_channel / N) * N;
    }

    __device__ __forceinline__ int rows(int tile) const
    {
        return tile_rows(s.n_tok, tile);
    }

    /* Calls move(whole, place, t, c) for each of the thread's pieces of the tile: 16 bytes (whole)
     * or one element, at `place` of an array's tile and channel c of token t. */
    template <typename F> __device__ __forceinline__ void pieces(int tile, F move) const
    {
        const int n = rows(tile);
        const int64_t t0 = int64_t(tile) * TILE;
        if (s.aligned) {
#pragma unroll
            for (int r = row; r < row + TILE; r += ROWS) {
                if (r < n && column < width)
                    move(true, r * STRIDE + column, t0 + r, first + column);
            }
        } else {
            for (int i = fresh_thread(); i < n * s.n_channel; i += int(blockDim.x)) {
                const int r = i / s.n_channel, c = i % s.n_channel;
                if (c < width)
                    move(false, r * STRIDE + c, t0 + r, first + c);
            }
        }
    }

    /* A tile of b and c as they are, d_state == STATES. */
    __device__ __forceinline__ void load_raw(struct async_copy &copies, T *raw, int tile) const
    {
        const int64_t at = int64_t(tile) * TILE * STATES;
        const int n = rows(tile) * STATES, step = s.bc_aligned ? N : 1;
        T *to = raw + (tile & 1) * 2 * TILE * STATES;
#pragma unroll 1
        for (int i = fresh_thread() * step; i < n; i += int(blockDim.x) * step) {
            if (s.bc_aligned) {
                copies.start(to + i, s.b + at + i);
                copies.start(to + TILE * STATES + i, s.c + at + i);
            } else {
                to[i] = s.b[at + i];
                to[TILE * STATES + i] = s.c[at + i];
            }
        }
    }

    __device__ __forceinline__ void widen_raw(float *bc, const T *raw, int tile) const
    {
        const T *from = raw + (tile & 1) * 2 * TILE * STATES;
        widen_coefficients<T, SPLIT>(bc, from, from + TILE * STATES, STATES, 0, rows(tile));
    }

    /* A round's b and c straight from memory. */
    __device__ __forceinline__ void widen_round(float *bc, int tile, int round) const
    {
        const int64_t at = int64_t(tile) * TILE * s.d_state;
        widen_coefficients<T, SPLIT>(bc, s.b + at, s.c + at, s.d_state, round * STATES, rows(tile));
    }

    /* The tile's token of this lane; 1 where there is none. */
    __device__ __forceinline__ int32_t position(int tile) const
    {
        const int64_t t = int64_t(tile) * TILE + lane;
        return t >= 0 && t < s.n_tok ? s.pos[t] : 1;
    }

    /* The lane's first state of a round in (d_state, d_inner) floats, and whether there is state k.
     */
    __device__ __forceinline__ int64_t state_at(int round) const
    {
        return (round * STATES + part * OWN) * s.d_inner + channel;
    }

    __device__ __forceinline__ bool there(int round, int k) const
    {
        return inside && round * STATES + part * OWN + k < s.d_state;
    }

    /* Of NULL: zeros. */
    __device__ __forceinline__ void load_states(const float *from, int round, float (&h)[OWN]) const
    {
        const int64_t at = state_at(round);
#pragma unroll
        for (int k = 0; k < OWN; k++)
            h[k] = there(round, k) && from != nullptr ? from[at + k * s.d_inner] : 0.0f;
    }

    /* The same into shared memory, as unpark() reads it. */
    __device__ __forceinline__ void copy_states(struct async_copy &copies, float *parked,
                                                const float *from, int round) const
    {
        const float *at = from + state_at(round);
        float *to = parked + fresh_thread();
#pragma unroll
        for (int k = 0; k < OWN; k++, at += s.d_inner, to += blockDim.x) {
            if (there(round, k))
                copies.start_float(to, at);
            else
                *to = 0;
        }
    }

    __device__ __forceinline__ void store_states(float *to, int round, const float (&h)[OWN]) const
    {
        const int64_t at = state_at(round);
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            if (there(round, k) && to != nullptr)
                to[at + k * s.d_inner] = h[k];
        }
    }

    __device__ __forceinline__ float *tile_states(int tile) const
    {
        return s.tile_states + int64_t(tile) * s.d_state * s.d_inner;
    }

    /* a log2 e, so that decays are powers of two. */
    __device__ __forceinline__ void load_a(int round, float (&a2)[OWN]) const
    {
        load_states(s.a, round, a2);
#pragma unroll
        for (int k = 0; k < OWN; k++)
            a2[k] *= LOG2E;
    }
};

/* A lane's states waiting in shared memory: (n_round, OWN, threads). */
template <int OWN>
__device__ __forceinline__ void park(float *parked, int round, const float (&h)[OWN])
{
#pragma unroll
    for (int k = 0; k < OWN; k++)
        parked[(round * OWN + k) * int(blockDim.x) + int(threadIdx.x)] = h[k];
}

template <int OWN>
__device__ __forceinline__ void unpark(const float *parked, int round, float (&h)[OWN])
{
#pragma unroll
    for (int k = 0; k < OWN; k++)
        h[k] = parked[(round * OWN + k) * int(blockDim.x) + fresh_thread()];
}

} // namespace

#endif
