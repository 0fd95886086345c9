/* The scan backward, by tiles from the last:
 *
 *   dy_t = dout_t silu(z_t)                 dz_t = dout_t y_t s (1 + z (1 - s)),  s = sigmoid(z_t)
 *   g_t = c_t dy_t + decay_{t+1} g_{t+1}    (0 across a document's start)
 *   du_t = d dy_t + delta_t sum_n g_t b_t   ddelta_t = sum_n g_t (b_t u_t + a decay_t h_{t-1})
 *   db_t = sum_channels g_t delta_t u_t     dc_t = sum_channels dy_t h_t
 *
 * db and dc are summed in three fixed levels: the four channels of a quad of lanes by the tensor
 * cores, a block's quads in shared memory, the blocks by scan_sum_kernel. */
#ifndef KERNELS_CUDA_SCAN_BACKWARD_CUH
#define KERNELS_CUDA_SCAN_BACKWARD_CUH

#include "kernels/cuda/scan_tile.cuh"

namespace
{

/* Sums over channels by the tensor cores: per token and pair of states, p = (db, db', dc, dc') of a
 * lane, summed over the four channels of lane bits 0-1 and added to `sum` of the lanes whose bits
 * 0-1 are `turn`; the other lanes add 0 p. So four tokens share four registers.
 *
 * As a product A B (m16n8k8): lane 4 g + q holds rows g and g + 8 of A at columns q (p's db) and
 * q + 4 (dc), and rows q and q + 4 of B at column g; B's column 2 turn has ones in rows 0-3, column
 * 2 turn + 1 in rows 4-7, so that columns 2 q and 2 q + 1 of the product, which lane 4 g + q holds,
 * are the sums when q is turn. Operands are tf32: the tensor core drops the low 13 bits, up to
 * 2^-10 of each product and 2^-11.5 in the mean, where a rounding to bfloat16 is up to 2^-9 of the
 * sum. With EXACT (activations are floats) what it drops is summed too: 2^-22 remain. */
__device__ __forceinline__ void add_product(float (&sum)[4], const float (&p)[4], int lane,
                                            int turn)
{
#ifdef __CUDA_ARCH__
    const unsigned one_db = lane / 4 == 2 * turn ? __float_as_uint(1.0f) : 0u;
    const unsigned one_dc = lane / 4 == 2 * turn + 1 ? __float_as_uint(1.0f) : 0u;
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(__float_as_uint(p[0])), "r"(__float_as_uint(p[1])),
                   "r"(__float_as_uint(p[2])), "r"(__float_as_uint(p[3])), "r"(one_db),
                   "r"(one_dc));
#else
    const int column[4] = { 0, 2, 1, 3 }; /* of p in sum: the product's columns alternate */
    for (int k = 0; k < 4; k++) {
        float v = __uint_as_float(__float_as_uint(p[k]) & 0xffffe000u);
        v += __shfl_xor_sync(FULL_WARP, v, 1);
        v += __shfl_xor_sync(FULL_WARP, v, 2);
        sum[column[k]] += lane % 4 == turn ? v : 0.0f * v;
    }
#endif
}

template <bool EXACT>
__device__ __forceinline__ void add_over_channels(float (&sum)[4], const float (&p)[4], int lane,
                                                  int turn)
{
    add_product(sum, p, lane, turn);
    if (EXACT) {
        float rest[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            rest[k] = p[k] - __uint_as_float(__float_as_uint(p[k]) & 0xffffe000u);
        add_product(sum, rest, lane, turn);
    }
}

/* What a token's lanes need of each channel, in arrays of TILE floats; dz is it without the factor
 * y. */
enum { DELTA, DELTA_U, DY, DZ, N_STEP };

/* Floats of a channel's steps; so long that channels lie in different banks. */
__host__ __device__ constexpr int step_row(int split)
{
    return N_STEP * TILE + (split == 8 ? 8 : 4);
}

struct backward_layout {
    int raw, bc, steps, parts, starts, totals, parked, bytes;
};

template <typename T, int SPLIT, bool MANY>
__host__ __device__ inline struct backward_layout backward_layout_of(int n_channel, int n_round)
{
    struct backward_layout l;
    l.raw = 2 * 4 * tile_of<T>::SIZE * int(sizeof(T));
    l.bc = l.raw + (MANY ? 0 : 2 * 2 * TILE * STATES * int(sizeof(T)));
    l.steps = l.bc + TILE * BC_ROW * 4;
    l.parts = l.steps + n_channel * step_row(SPLIT) * 4;
    l.starts = l.parts + n_channel / 4 * TILE * BC_ROW * 4;
    l.totals = l.starts + 2 * STATES * n_channel * 4;
    l.parked = l.totals + (MANY ? 3 * TILE * n_channel * 4 : 0);
    l.bytes = l.parked + (MANY ? n_round * STATES * n_channel * 4 : 0);
    return l;
}

/* A lane's walk through a tile: forward from the state at the tile's start, keeping the states in
 * registers, then backward. Decays are computed both times: in registers they would cost as many
 * again. */
template <typename T, int SPLIT> struct backward_lane : lane_place<SPLIT> {
    typedef lane_place<SPLIT> P;
    static constexpr int OWN = P::OWN, ITEMS = P::ITEMS;
    static constexpr int STRIDE = tile_of<T>::STRIDE, SIZE = tile_of<T>::SIZE;
    static constexpr int N_QUAD = OWN / 2;       /* registers of sums over channels, by fours */
    static constexpr int PART_ROW = N_QUAD * 32; /* floats of a token in a warp's parts */
    float a2[OWN], carry[OWN], d, bias;
    float state[TILE + 1][OWN]; /* before each token */
    float *steps;               /* the channel's: N_STEP arrays of TILE tokens */
    float *parts;               /* the warp's: (TILE, N_QUAD, 8, 4) */
    const float *bc;
    float *totals; /* with many rounds: (3, TILE, n_channel), the sums of finish() so far */

    __device__ __forceinline__ explicit backward_lane(int thread) : P(thread)
    {
    }

    __device__ __forceinline__ void begin(const block_channels<T, SPLIT> &block, float *block_steps,
                                          float *block_parts, const float *block_bc,
                                          float *block_totals)
    {
        d = block.inside ? block.s.d[block.channel] : 0.0f;
        bias = block.inside ? block.s.dt_bias[block.channel] : 0.0f;
        steps = block_steps + this->channel * step_row(SPLIT);
        parts = block_parts + this->warp * TILE * PART_ROW;
        bc = block_bc;
        totals = block_totals;
    }

    /* The steps of the lane's items of the tile, for all of the channel's lanes. */
    __device__ __forceinline__ void prepare(T *tile, int n)
    {
        if (n < TILE)
            clear_items(tile, n);
#pragma unroll 4
        for (int i = 0; i < TILE / SPLIT; i++) {
            const int t = this->part + SPLIT * i;
            const T *at = tile + t * STRIDE + this->channel;
            const float delta = softplus_fast(to_float(at[SIZE]) + bias);
            const float z = to_float(at[2 * SIZE]), dout = to_float(at[3 * SIZE]);
            const float s = sigmoid_fast(z), ds = dout * s;
            steps[DELTA * TILE + t] = delta;
            steps[DELTA_U * TILE + t] = delta * to_float(at[0]);
            steps[DY * TILE + t] = ds * z;
            steps[DZ * TILE + t] = ds * (1.0f + z * (1.0f - s));
        }
    }

    /* Tokens past the last one: nothing goes in, and no time goes by. */
    __device__ __forceinline__ void clear_items(T *tile, int n)
    {
        for (int t = this->part; t < TILE; t += SPLIT) {
            T *at = tile + t * STRIDE + this->channel;
            if (t >= n) {
                at[0] = at[2 * SIZE] = at[3 * SIZE] = from_float<T>(0.0f);
                at[SIZE] = from_float<T>(-INFINITY); /* delta = 0 */
            }
        }
    }

    /* Eight tokens from `row` of the tile. */
    template <bool RESET> __device__ __forceinline__ void advance(int row, unsigned firsts)
    {
        separate_paths<RESET>();
        float delta[GROUP], du[GROUP];
        load_floats(steps + DELTA * TILE + row, delta);
        load_floats(steps + DELTA_U * TILE + row, du);
#pragma unroll
        for (int t = 0; t < GROUP; t++) {
            float b[OWN];
            load_b(bc + (row + t) * BC_ROW, this->part, b);
            const bool first = RESET && (firsts >> (row + t) & 1) != 0;
#pragma unroll
            for (int k = 0; k < OWN; k++) {
                const float before = first ? 0.0f : state[row + t][k];
                state[row + t + 1][k] = exp2_fast(delta[t] * a2[k]) * before + du[t] * b[k];
            }
        }
    }

    /* The same eight tokens backward. */
    template <bool RESET, bool MANY>
    __device__ __forceinline__ void reverse(int row, unsigned firsts, T *tile, bool first_round,
                                            bool last_round)
    {
        separate_paths<RESET>();
        float sum[N_QUAD][4] = {}, y[ITEMS] = {}, along_b[ITEMS] = {}, along_a[ITEMS] = {};
        struct part_sums<SPLIT> sum_y, sum_b, sum_a;
#pragma unroll
        for (int four = row + GROUP - 4; four >= row; four -= 4) {
            float delta[4], du[4], dy[4];
            load_floats(steps + DELTA * TILE + four, delta);
            load_floats(steps + DELTA_U * TILE + four, du);
            load_floats(steps + DY * TILE + four, dy);
#pragma unroll
            for (int turn = 3; turn >= 0; turn--) {
                const int t = four + turn;
                float b[OWN], c[OWN], p[N_QUAD][4];
                load_bc(bc + t * BC_ROW, this->part, b, c);
                const bool first = RESET && (firsts >> t & 1) != 0;
                float v_y = 0, v_b = 0, v_a = 0;
#pragma unroll
                for (int k = 0; k < OWN; k++) {
                    const float h = state[t + 1][k];
                    const float g = carry[k] + c[k] * dy[turn];
                    v_y += c[k] * h;
                    v_b += g * b[k];
                    carry[k] = g * exp2_fast(delta[turn] * a2[k]);
                    float through = carry[k] * state[t][k];
                    if (first)
                        carry[k] = through = 0;
                    v_a += through * a2[k];
                    p[k / 2][k % 2] = g * du[turn];
                    p[k / 2][2 + k % 2] = dy[turn] * h;
                }
                sum_y.add(t % GROUP, v_y, this->lane, y);
                sum_b.add(t % GROUP, v_b, this->lane, along_b);
                sum_a.add(t % GROUP, v_a, this->lane, along_a);
                add_parts<RESET>(four, turn, p, sum);
            }
        }
        finish<MANY>(row, tile, y, along_b, along_a, first_round, last_round);
    }

    /* Four tokens' sums over channels go to shared memory together, each from its lanes. Where
     * documents meet a token's sums begin anew, because 0 p is not 0 when p is not finite. */
    template <bool RESET>
    __device__ __forceinline__ void add_parts(int row, int turn, const float (&p)[N_QUAD][4],
                                              float (&sum)[N_QUAD][4])
    {
#pragma unroll
        for (int m = 0; m < N_QUAD; m++) {
            float mine[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                mine[k] = RESET || turn == 3 ? 0.0f : sum[m][k];
            add_over_channels<sizeof(T) == 4>(mine, p[m], this->lane, turn);
#pragma unroll
            for (int k = 0; k < 4; k++)
                sum[m][k] = !RESET || this->lane % 4 == turn ? mine[k] : sum[m][k];
            if (turn == 0) {
                const int token = row + this->lane % 4, group = this->lane / 4;
                store_vector(parts + token * PART_ROW + m * 32 + part_place(token, group), sum[m]);
            }
        }
    }

    /* Where in a token's 32 floats those of lanes 4 group .. 4 group + 3 lie: what a quarter of a
     * warp stores falls into different banks. */
    static __device__ __forceinline__ int part_place(int token, int group)
    {
        return (group ^ (2 * (token & 3))) * 4;
    }

    /* Gradients of the lane's items: du, ddt and dz take the places of u, dt and z. Between rounds
     * the sums over states wait in totals. */
    template <bool MANY>
    __device__ __forceinline__ void
    finish(int row, T *tile, const float (&y)[ITEMS], const float (&along_b)[ITEMS],
           const float (&along_a)[ITEMS], bool first_round, bool last_round)
    {
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int token = row + this->part + SPLIT * i;
            float sum[3] = { y[i], along_b[i], along_a[i] };
            if (MANY) {
                const int n_channel = int(blockDim.x) / SPLIT;
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    float *total = totals + (k * TILE + token) * n_channel + this->channel;
                    sum[k] += first_round ? 0.0f : *total;
                    *total = sum[k];
                }
            }
            if (!MANY || last_round) {
                T *at = tile + token * STRIDE + this->channel;
                const float *step = steps + token;
                const float u = to_float(at[0]), dt = to_float(at[SIZE]) + bias;
                const float du = d * step[DY * TILE] + step[DELTA * TILE] * sum[1];
                const float ddt = (sum[1] * u + LN2 * sum[2]) * sigmoid_fast(dt);
                at[0] = from_float<T>(du);
                at[SIZE] = from_float<T>(ddt);
                at[2 * SIZE] = from_float<T>(step[DZ * TILE] * (sum[0] + d * u));
            }
        }
    }

    /* The whole tile from the state at its start. */
    template <bool MANY>
    __device__ __forceinline__ void walk(const float *start, unsigned firsts, T *tile,
                                         bool first_round, bool last_round)
    {
        unpark(start, 0, state[0]);
#pragma unroll
        for (int row = 0; row < TILE; row += GROUP) {
            if ((firsts >> row & 0xffu) != 0)
                advance<true>(row, firsts);
            else
                advance<false>(row, 0);
        }
#pragma unroll
        for (int row = TILE - GROUP; row >= 0; row -= GROUP) {
            if ((firsts >> row & 0xffu) != 0)
                reverse<true, MANY>(row, firsts, tile, first_round, last_round);
            else
                reverse<false, MANY>(row, 0, tile, first_round, last_round);
        }
    }
};

/* A tile's parts of db and dc, summed over the block's warps in order, to memory: quad q of a token
 * are the lanes' sums (add_parts) of part q % SPLIT. */
template <typename T, int SPLIT>
__device__ __forceinline__ void flush_parts(const float *parts, float *to, int n)
{
    typedef backward_lane<T, SPLIT> L;
    const int n_warp = int(blockDim.x) / 32;
    for (int i = fresh_thread(); i < n * 8; i += int(blockDim.x)) {
        const int t = i / 8, quad = i % 8;
        const float *at = parts + t * L::PART_ROW + quad / SPLIT * 32;
        const int place = L::part_place(t, quad % SPLIT);
        float sum[4] = {};
#pragma unroll 2
        for (int w = 0; w < n_warp; w++, at += TILE * L::PART_ROW) {
#pragma unroll
            for (int more = 0; more < 8; more += SPLIT) {
                float v[4];
                load_vector(at + (place ^ 4 * more), v); /* of the group `more` further on */
#pragma unroll
                for (int k = 0; k < 4; k++)
                    sum[k] += v[k];
            }
        }
        store_vector(to + i * 4, sum);
    }
}

/* Columns that no channel fills are zeros in every row, for good: their lanes are summed with the
 * others. */
template <typename T>
__device__ __forceinline__ void clear_tail(T *tiles, int n_tile, int width, int n_channel)
{
    for (int r = int(threadIdx.x); r < n_tile * TILE && width < n_channel; r += int(blockDim.x)) {
        for (int c = width; c < n_channel; c++)
            tiles[r * tile_of<T>::STRIDE + c] = from_float<T>(0.0f);
    }
}

/* A block walks the tiles from the last to the first with n_channel channels. Two buffers of u, dt,
 * z and dy: the tile in work and the next one, or the last one's gradients on their way out. */
template <typename T, int SPLIT, bool MANY>
__global__ void __launch_bounds__(SPLIT == 8 ? 320 : 128, SPLIT == 8 ? 1 : 2)
    scan_backward_kernel(const struct scan<T> s)
{
    SHARED_DYNAMIC(unsigned char, shared);
    const struct backward_layout l = backward_layout_of<T, SPLIT, MANY>(s.n_channel, s.n_round);
    T *raw = reinterpret_cast<T *>(shared + l.raw);
    float *bc = reinterpret_cast<float *>(shared + l.bc);
    float *parts = reinterpret_cast<float *>(shared + l.parts);
    float *starts = reinterpret_cast<float *>(shared + l.starts);
    float *parked = reinterpret_cast<float *>(shared + l.parked);

    typedef block_channels<T, SPLIT> channels;
    backward_lane<T, SPLIT> lane(int(threadIdx.x));
    constexpr int SIZE = tile_of<T>::SIZE;
    const int n_round = MANY ? s.n_round : 1, n_tile = int((s.n_tok + TILE - 1) / TILE);
    const int start_size = STATES * s.n_channel;
    const int piece = channels::piece_of(int(threadIdx.x), s.n_channel);
    T *now = reinterpret_cast<T *>(shared), *other = now + 4 * SIZE;
    struct async_copy copies;
    const auto load_tile = [&](const channels &block, T *to, int tile) {
        block.pieces(tile, [&](bool whole, int place, int64_t token, int c) {
            const int64_t at = token * s.d_inner + c;
            load_piece(copies, whole, to + place, s.u + at);
            load_piece(copies, whole, to + SIZE + place, s.dt + at);
            load_piece(copies, whole, to + 2 * SIZE + place, s.z + token * s.ldz + c);
            load_piece(copies, whole, to + 3 * SIZE + place, s.dy + at);
        });
        if (!MANY) {
            block.load_raw(copies, raw, tile);
            block.copy_states(copies, starts + (tile & 1) * start_size, block.tile_states(tile), 0);
        }
    };
    const auto store_tile = [&](const channels &block, const T *from, int tile) {
        block.pieces(tile, [&](bool whole, int place, int64_t token, int c) {
            const int64_t at = token * s.d_inner + c;
            store_piece(whole, s.du + at, from + place);
            store_piece(whole, s.ddt + at, from + SIZE + place);
            store_piece(whole, s.dz + token * s.lddz + c, from + 2 * SIZE + place);
        });
    };
    const auto flush = [&](int tile, int round) {
        const int64_t row =
            (int64_t(blockIdx.x) * n_round + round) * s.n_tok + int64_t(tile) * TILE;
        flush_parts<T, SPLIT>(parts, s.parts + row * BC_ROW, tile_rows(s.n_tok, tile));
    };

    int32_t pos_ahead;
    {
        const channels block(s, fresh_thread(), piece);
        lane.begin(block, reinterpret_cast<float *>(shared + l.steps), parts, bc,
                   reinterpret_cast<float *>(shared + l.totals));
        clear_tail(now, 2 * 4, block.width, s.n_channel);
        for (int round = 0; round < n_round; round++) {
            block.load_states(s.dh_out, round, lane.carry);
            if (MANY)
                park(parked, round, lane.carry);
        }
        block.load_a(0, lane.a2);
        pos_ahead = block.position(n_tile - 1);
        if (n_tile > 0)
            load_tile(block, now, n_tile - 1);
    }
    for (int tile = n_tile - 1; tile >= 0; tile--) {
        const unsigned firsts = first_tokens(pos_ahead);
        for (int round = 0; round < n_round; round++) {
            if (round == 0)
                copies.wait();
            __syncthreads(); /* the tile is there, the last one (or round) is finished */
            if (round > 0)
                flush(tile, round - 1);
            else if (tile < n_tile - 1)
                flush(tile + 1, n_round - 1);
            const channels block(s, fresh_thread(), piece);
            if (round == 0) {
                pos_ahead = block.position(tile - 1);
                if (tile < n_tile - 1)
                    store_tile(block, other, tile + 1);
                if (tile > 0)
                    load_tile(block, other, tile - 1);
                lane.prepare(now, tile_rows(s.n_tok, tile));
            }
            if (MANY) {
                block.widen_round(bc, tile, round);
                block.load_a(round, lane.a2);
                block.copy_states(copies, starts + (tile & 1) * start_size, block.tile_states(tile),
                                  round);
                copies.wait();
                unpark(parked, round, lane.carry);
            } else {
                block.widen_raw(bc, raw, tile);
            }
            __syncthreads(); /* steps, b and c are there, parts are free */
            lane.template walk<MANY>(starts + (tile & 1) * start_size, firsts, now, round == 0,
                                     round == n_round - 1);
            if (MANY)
                park(parked, round, lane.carry);
        }
        T *const free = now;
        now = other, other = free;
    }
    __syncthreads(); /* the first tile is finished */
    const channels block(s, fresh_thread(), piece);
    if (n_tile > 0) {
        flush(0, n_round - 1);
        store_tile(block, other, 0);
    }
    for (int round = 0; round < n_round; round++) {
        if (MANY)
            unpark(parked, round, lane.carry);
        block.store_states(s.dh_in, round, lane.carry);
    }
}

} // namespace

#endif
