/* The scan forward: h = decay h + delta u b, y = (c h + d u) silu(z).
 *
 * Lanes walk a group of 8 tokens from shared memory: a float4 of b and c a token, delta and delta u
 * of 4 tokens at a time. Each has a share of every token's sum over states; three (or two)
 * exchanges leave it the sums of its own items (lane_place), which it gates. Meanwhile it computes
 * the step sizes of its items of the next group: once per token and channel, not per state. A group
 * in which a document begins takes a path of its own, where states are set to 0 (not multiplied by
 * it: NaN stays behind); the other path knows nothing of documents. */
#ifndef KERNELS_CUDA_SCAN_FORWARD_CUH
#define KERNELS_CUDA_SCAN_FORWARD_CUH

#include "kernels/cuda/scan_tile.cuh"

namespace
{

/* Bytes from the start of shared memory. */
struct forward_layout {
    int raw, bc, steps, totals, parked, bytes;
};

template <typename T, int SPLIT, bool MANY>
__host__ __device__ inline struct forward_layout forward_layout_of(int n_channel, int n_round)
{
    struct forward_layout l;
    l.raw = 3 * 3 * tile_of<T>::SIZE * int(sizeof(T));
    l.bc = l.raw + (MANY ? 0 : 2 * 2 * TILE * STATES * int(sizeof(T)));
    l.steps = l.bc + (MANY ? 1 : 2) * TILE * BC_ROW * 4;
    l.totals = l.steps + n_channel * 2 * (2 * GROUP + SPLIT) * 4;
    l.parked = l.totals + (MANY ? TILE * n_channel * 4 : 0);
    l.bytes = l.parked + (MANY ? n_round * STATES * n_channel * 4 : 0);
    return l;
}

/* A group of tokens in shared memory: the first one's rows. */
template <typename T> struct forward_group {
    const float *bc;
    T *z;          /* y on return */
    float *totals; /* with many rounds: y so far */
    unsigned firsts;
    bool first_round, last_round;
    const T *next; /* the next group's u */
    int n_next;    /* and its tokens, and those behind it */
};

template <typename T, int SPLIT> struct forward_lane : lane_place<SPLIT> {
    typedef lane_place<SPLIT> P;
    static constexpr int OWN = P::OWN, ITEMS = P::ITEMS;
    static constexpr int STRIDE = tile_of<T>::STRIDE;
    static constexpr int STEPS = 2 * GROUP + SPLIT; /* floats of a channel's group of steps */
    float a2[OWN], h[OWN], d, bias;
    float u[ITEMS]; /* of the group that is prepared */
    float *steps; /* the channel's, two groups by turns: (2, PER_WARP, STEPS), delta and delta u */
    int turn;

    __device__ __forceinline__ explicit forward_lane(int thread) : P(thread)
    {
    }

    __device__ __forceinline__ void begin(const block_channels<T, SPLIT> &block, float *block_steps)
    {
        d = block.inside ? block.s.d[block.channel] : 0.0f;
        bias = block.inside ? block.s.dt_bias[block.channel] : 0.0f;
        steps = block_steps + (this->warp * 2 * P::PER_WARP + this->in_warp) * STEPS;
        turn = 0;
    }

    /* The step sizes of the lane's items of a group, for all of the channel's lanes. */
    __device__ __forceinline__ void prepare(const T *tile_u, int n)
    {
        float *to = steps + turn * P::PER_WARP * STEPS;
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int token = this->part + SPLIT * i;
            const T *at = tile_u + token * STRIDE + this->channel;
            const bool there = token < n;
            u[i] = to_float(at[0]);
            const float delta = softplus_fast(to_float(at[TILE * STRIDE]) + bias);
            to[token] = there ? delta : 0.0f;
            to[GROUP + token] = there ? delta * u[i] : 0.0f;
        }
    }

    /* A group, while the next one is prepared. */
    template <bool RESET, bool MANY>
    __device__ __forceinline__ void group(const struct forward_group<T> &g)
    {
        separate_paths<RESET>();
        float delta[GROUP], du[GROUP], v[GROUP], now[ITEMS], y[ITEMS] = {};
        load_floats(steps + turn * P::PER_WARP * STEPS, delta);
        load_floats(steps + turn * P::PER_WARP * STEPS + GROUP, du);
#pragma unroll
        for (int i = 0; i < ITEMS; i++)
            now[i] = u[i];
        turn ^= 1;
        prepare(g.next, g.n_next);
#pragma unroll
        for (int t = 0; t < GROUP; t++) {
            float b[OWN], c[OWN];
            load_bc(g.bc + t * BC_ROW, this->part, b, c);
            const bool first = RESET && (g.firsts >> t & 1) != 0;
            v[t] = 0;
#pragma unroll
            for (int k = 0; k < OWN; k++) {
                const float before = first ? 0.0f : h[k];
                h[k] = exp2_fast(delta[t] * a2[k]) * before + du[t] * b[k];
                v[t] += c[k] * h[k];
            }
        }
        struct part_sums<SPLIT> sums;
#pragma unroll
        for (int t = GROUP - 1; t >= 0; t--)
            sums.add(t, v[t], this->lane, y);
        finish<MANY>(g, y, now);
        __syncwarp(); /* the next group's steps are there, this one's are free */
    }

    /* y = (sum over states + d u) silu(z) of the lane's items. */
    template <bool MANY>
    __device__ __forceinline__ void finish(const struct forward_group<T> &g, float (&y)[ITEMS],
                                           const float (&now)[ITEMS])
    {
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int token = this->part + SPLIT * i;
            float *total = g.totals + token * int(blockDim.x / SPLIT) + this->channel;
            if (MANY && !g.first_round)
                y[i] += *total;
            if (MANY && !g.last_round) {
                *total = y[i];
            } else {
                T *place = g.z + token * STRIDE + this->channel;
                const float z = to_float(*place);
                *place = from_float<T>((y[i] + d * now[i]) * z * sigmoid_fast(z));
            }
        }
    }
};

/* A block walks all tokens with n_channel channels. Three buffers of u, dt and z: the tile in work,
 * the next one (whose first step sizes the last group prepares), and one on its way; y takes z's
 * place. */
template <typename T, int SPLIT, bool MANY>
__global__ void __launch_bounds__(SPLIT == 8 ? 320 : 128, SPLIT == 8 ? 1 : 2)
    scan_forward_kernel(const struct scan<T> s)
{
    SHARED_DYNAMIC(unsigned char, shared);
    const struct forward_layout l = forward_layout_of<T, SPLIT, MANY>(s.n_channel, s.n_round);
    T *raw = reinterpret_cast<T *>(shared + l.raw);
    float *bc = reinterpret_cast<float *>(shared + l.bc);
    float *totals = reinterpret_cast<float *>(shared + l.totals);
    float *parked = reinterpret_cast<float *>(shared + l.parked);

    typedef block_channels<T, SPLIT> channels;
    constexpr int SIZE = tile_of<T>::SIZE, STRIDE = tile_of<T>::STRIDE;
    const int thread = int(threadIdx.x), n_tile = int((s.n_tok + TILE - 1) / TILE);
    const int n_round = MANY ? s.n_round : 1;
    forward_lane<T, SPLIT> lane(thread);
    const channels block(s, thread, channels::piece_of(thread, s.n_channel));
    lane.begin(block, reinterpret_cast<float *>(shared + l.steps));
    T *now = reinterpret_cast<T *>(shared), *ahead = now + 3 * SIZE, *behind = ahead + 3 * SIZE;
    struct async_copy copies;
    const auto load_tile = [&](T *to, int tile) {
        block.pieces(tile, [&](bool whole, int place, int64_t token, int c) {
            const int64_t at = token * s.d_inner + c;
            load_piece(copies, whole, to + place, s.u + at);
            load_piece(copies, whole, to + SIZE + place, s.dt + at);
            load_piece(copies, whole, to + 2 * SIZE + place, s.z + token * s.ldz + c);
        });
        if (!MANY)
            block.load_raw(copies, raw, tile);
    };
    const auto store_tile = [&](const T *from, int tile) {
        block.pieces(tile, [&](bool whole, int place, int64_t token, int c) {
            store_piece(whole, s.y + token * s.d_inner + c, from + 2 * SIZE + place);
        });
    };

    load_tile(now, 0);
    load_tile(ahead, 1);
    for (int round = 0; round < n_round; round++) {
        block.load_states(s.h_in, round, lane.h);
        if (MANY)
            park(parked, round, lane.h);
    }
    block.load_a(0, lane.a2);
    int32_t pos_ahead = block.position(0);
    copies.wait();
    __syncthreads(); /* the first tile is there, and the second */
    if (!MANY) {
        block.widen_raw(bc, raw, 0);
        lane.prepare(now, block.rows(0));
    }
    for (int tile = 0; tile < n_tile; tile++) {
        copies.wait();
        __syncthreads(); /* the next tile is there, the last one is finished */
        if (tile > 0)
            store_tile(behind, tile - 1);
        load_tile(behind, tile + 2);
        const float *tile_bc = bc;
        if (!MANY) {
            tile_bc += (tile & 1) * TILE * BC_ROW;
            block.widen_raw(bc + (~tile & 1) * TILE * BC_ROW, raw, tile + 1);
        }
        const unsigned firsts = first_tokens(pos_ahead);
        pos_ahead = block.position(tile + 1);
        const int n = block.rows(tile), n_ahead = block.rows(tile + 1);
        for (int round = 0; round < n_round; round++) {
            if (MANY) {
                block.load_a(round, lane.a2);
                unpark(parked, round, lane.h);
                lane.prepare(now, n);
                block.widen_round(bc, tile, round);
                __syncthreads(); /* b, c and the first group's steps are there */
            }
            if (s.tile_states != nullptr)
                block.store_states(block.tile_states(tile), round, lane.h);
#pragma unroll 1
            for (int row = 0; row < n; row += GROUP) {
                const bool last = row + GROUP >= n;
                const struct forward_group<T> g = {
                    tile_bc + row *BC_ROW, now + 2 * SIZE + row *STRIDE, totals + row *s.n_channel,
                        firsts >> row & 0xffu, round == 0, round == n_round - 1,
                        last ? ahead : now + (row + GROUP) * STRIDE,
                        last ? n_ahead : n - row - GROUP
                };
                if (g.firsts != 0)
                    lane.template group<true, MANY>(g);
                else
                    lane.template group<false, MANY>(g);
            }
            if (MANY) {
                park(parked, round, lane.h);
                __syncthreads(); /* bc is free */
            }
        }
        T *const free = behind;
        behind = now, now = ahead, ahead = free;
    }
    __syncthreads(); /* the last tile is finished */
    if (n_tile > 0)
        store_tile(behind, n_tile - 1);
    for (int round = 0; round < n_round; round++) {
        if (MANY)
            unpark(parked, round, lane.h);
        block.store_states(s.h_out, round, lane.h);
    }
}

} // namespace

#endif
