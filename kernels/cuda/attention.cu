/* Attention of our own: what cuDNN does not take (f32, odd head dims, small work; sdpa.c).
 *
 * As on the CPU (kernels/cpu/attention.c): tiles of queries against tiles of keys aligned to the
 * stream, oldest first, an online softmax, and a backward in two sweeps, one over queries for dq
 * and one over keys for dk and dv; every output has one owner and a fixed order.
 *
 * A block of 16 x 16 threads owns 64 queries of a head (backward: 64 queries, or 64 keys of a kv
 * head over all its query heads; 32 above d_head 128; less where a block may not have 163 KiB) and
 * walks tiles of the other side in shared memory, in f32. A thread owns 4 rows of a tile of scores,
 * every 16th column, and of a row of o, dq, dk or dv every 16th group of 4 elements: 64
 * multiply-adds for 8 loads of 16 bytes from shared memory (backward: 32 for 6). Rows of a tile of
 * P or dS are written and read by one half of a warp.
 *
 * Multiply-adds, a pair of query and key that sees it: forward 2 d_head, backward 7 d_head (scores
 * and dP are computed in both sweeps), on the f32 units; the loads from shared memory keep pace
 * with about half to all of what those could do. Memory: q and o once, k and v once for each block,
 * mostly from the L2. Not measured.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tile.cuh"

namespace
{

/* struct attention_args with the activations' type. */
template <typename T> struct attention {
    const T *q, *k, *v, *o, *d_o;
    T *out; /* o, or dq */
    float *lse, *dots, *dk, *dv;
    const int32_t *pos;
    int64_t n_tok, t0, n_head, n_kv;
    int64_t first_tile; /* of keys, in the sweep over keys */
    int d_head;
    float scale;
    bool aligned, aligned_keys; /* rows of activations, and of dk and dv, in 16 bytes */
};

__device__ __forceinline__ int64_t at_query(int64_t n_head, int64_t d_head, int64_t head,
                                            int64_t row)
{
    return (row * n_head + head) * d_head;
}

/* Tokens before it that a query sees; a row past the chunk sees none, not even itself. */
template <typename T> __device__ __forceinline__ int sight(const attention<T> &a, int64_t row)
{
    return row < a.n_tok ? a.pos[row] : -1;
}

/* Whether it sees the key `back` tokens before it. */
__device__ __forceinline__ bool sees(int pos, int back)
{
    return back >= 0 && back <= pos;
}

/* The block's tile of queries and its head: the last, which see the most keys, first; heads of one
 * tile side by side, since they share keys. */
template <typename T, int OWN> struct query_tile {
    int64_t row, head, kv;

    __device__ __forceinline__ explicit query_tile(const attention<T> &a)
    {
        const int64_t n_tile = (a.n_tok + OWN - 1) / OWN;
        row = (n_tile - 1 - blockIdx.x / a.n_head) * OWN;
        head = blockIdx.x % a.n_head;
        kv = head / (a.n_head / a.n_kv);
    }
};

/* ---- forward ---- */

template <typename T, typename Tiles>
__global__ void __launch_bounds__(N_THREAD) forward_kernel(attention<T> a)
{
    constexpr int R = Tiles::R, C = Tiles::C;
    SHARED_DYNAMIC(float, shared);
    float *const q = shared, *const keys = q + Tiles::OWN * Tiles::LD,
                 *const p = keys + Tiles::WALK * Tiles::LD;
    const query_tile<T, Tiles::OWN> tile(a);
    const int tx = int(threadIdx.x) % SIDE, ty = int(threadIdx.x) / SIDE, d = a.d_head;
    const int64_t ld_q = a.n_head * d, ld_k = a.n_kv * d;
    const int64_t rows = min(int64_t(Tiles::OWN), a.n_tok - tile.row);

    int pos[R];
    float top[R], sum[R], acc[R][Tiles::N][4];
    clear<Tiles>(acc);
    for (int i = 0; i < R; i++) {
        pos[i] = sight(a, tile.row + ty * R + i);
        top[i] = -INFINITY;
        sum[i] = 0;
    }
    load_rows<T, Tiles::OWN, Tiles::LD>(a.q + at_query(a.n_head, d, tile.head, tile.row), ld_q,
                                        rows, d, a.aligned, q);

    const int64_t end = a.t0 + tile.row + rows;
    const int64_t first = a.t0 + tile.row - a.pos[tile.row];
    for (int64_t k0 = first / Tiles::WALK * Tiles::WALK; k0 < end; k0 += Tiles::WALK) {
        const int64_t at = (k0 * a.n_kv + tile.kv) * d;
        __syncthreads(); /* the values of the tile before have been read */
        load_rows<T, Tiles::WALK, Tiles::LD>(a.k + at, ld_k, end - k0, d, a.aligned, keys);
        __syncthreads();
        float s[R][C];
        multiply<R, C, Tiles::LD>(q, keys, d, s);
        __syncthreads(); /* the keys have been read */
        load_rows<T, Tiles::WALK, Tiles::LD>(a.v + at, ld_k, end - k0, d, a.aligned, keys);
        const int back = int(a.t0 + tile.row - k0) + ty * R - tx;
        for (int i = 0; i < R; i++) {
            float highest = top[i];
            for (int j = 0; j < C; j++) {
                s[i][j] = sees(pos[i], back + i - SIDE * j) ? a.scale * s[i][j] : -INFINITY;
                highest = fmaxf(highest, s[i][j]);
            }
            highest = lanes_max<SIDE>(highest);
            /* Before its first key a row has no maximum, and -inf - -inf is no number. */
            const float rescale = top[i] == -INFINITY ? 0.0f : expf(top[i] - highest);
            float part = 0;
            for (int j = 0; j < C; j++) {
                const float e = s[i][j] == -INFINITY ? 0.0f : expf(s[i][j] - highest);
                p[(ty * R + i) * Tiles::LDS + tx + SIDE * j] = e;
                part += e;
            }
            sum[i] = sum[i] * rescale + lanes_sum<SIDE>(part);
            top[i] = highest;
            for (int c = 0; c < Tiles::N; c++) {
                for (int e = 0; e < 4; e++)
                    acc[i][c][e] *= rescale;
            }
        }
        __syncthreads();
        accumulate<Tiles>(p, keys, acc);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int64_t row = tile.row + ty * R + i;
        if (row >= a.n_tok)
            continue;
        store_row(a.out + at_query(a.n_head, d, tile.head, row), acc[i], 1.0f / sum[i], d,
                  a.aligned);
        if (tx == 0)
            a.lse[row * a.n_head + tile.head] = top[i] + logf(sum[i]);
    }
}

/* ---- backward ---- */

/* dots = rowsum(d_o o): a warp for each query of each head. */
template <typename T>
__global__ void __launch_bounds__(N_THREAD)
    dots_kernel(const T *__restrict__ d_o, const T *__restrict__ o, float *__restrict__ dots,
                int64_t n_row, int d)
{
    const int lane = int(threadIdx.x) % 32;
    const int64_t row = int64_t(blockIdx.x) * (N_THREAD / 32) + int64_t(threadIdx.x) / 32;
    float sum = 0;
    for (int i = lane; i < d && row < n_row; i += 32)
        sum += to_float(d_o[row * d + i]) * to_float(o[row * d + i]);
    sum = lanes_sum<32>(sum);
    if (lane == 0 && row < n_row)
        dots[row] = sum;
}

/* What the gradient of a query's scores needs: P = exp(scale s - lse), dS = scale P (dP - dot). */
struct query {
    int pos;
    float lse, dot;
};

template <typename T>
__device__ __forceinline__ query query_of(const attention<T> &a, int64_t head, int64_t row)
{
    query q = { sight(a, row), 0, 0 };
    if (row < a.n_tok) {
        q.lse = a.lse[row * a.n_head + head];
        q.dot = a.dots[row * a.n_head + head];
    }
    return q;
}

/* s becomes P, and dp dS; 0 where the query does not see the key. A first token sees itself alone:
 * P is 1 whatever q and k are, and dS is 0, not the rounding that dP - dot leaves. */
__device__ __forceinline__ void differentiate(const query &q, int back, float scale, float &s,
                                              float &dp)
{
    const bool on = sees(q.pos, back);
    s = on ? expf(scale * s - q.lse) : 0.0f;
    dp = on && q.pos > 0 ? scale * s * (dp - q.dot) : 0.0f;
}

template <typename T, typename Tiles>
__global__ void __launch_bounds__(N_THREAD, 1) backward_queries_kernel(attention<T> a)
{
    constexpr int R = Tiles::R, C = Tiles::C;
    SHARED_DYNAMIC(float, shared);
    float *const q = shared, *const d_o = q + Tiles::OWN * Tiles::LD,
                 *const k = d_o + Tiles::OWN * Tiles::LD, *const v = k + Tiles::WALK * Tiles::LD,
                 *const ds = v + Tiles::WALK * Tiles::LD;
    const query_tile<T, Tiles::OWN> tile(a);
    const int tx = int(threadIdx.x) % SIDE, ty = int(threadIdx.x) / SIDE, d = a.d_head;
    const int64_t ld_q = a.n_head * d, ld_k = a.n_kv * d;
    const int64_t rows = min(int64_t(Tiles::OWN), a.n_tok - tile.row);
    const int64_t at_q = at_query(a.n_head, d, tile.head, tile.row);

    query own[R];
    float acc[R][Tiles::N][4];
    clear<Tiles>(acc);
    for (int i = 0; i < R; i++)
        own[i] = query_of(a, tile.head, tile.row + ty * R + i);
    load_rows<T, Tiles::OWN, Tiles::LD>(a.q + at_q, ld_q, rows, d, a.aligned, q);
    load_rows<T, Tiles::OWN, Tiles::LD>(a.d_o + at_q, ld_q, rows, d, a.aligned, d_o);

    const int64_t end = a.t0 + tile.row + rows;
    const int64_t first = a.t0 + tile.row - a.pos[tile.row];
    for (int64_t k0 = first / Tiles::WALK * Tiles::WALK; k0 < end; k0 += Tiles::WALK) {
        const int64_t at = (k0 * a.n_kv + tile.kv) * d;
        __syncthreads(); /* the tile before has been read */
        load_rows<T, Tiles::WALK, Tiles::LD>(a.k + at, ld_k, end - k0, d, a.aligned, k);
        load_rows<T, Tiles::WALK, Tiles::LD>(a.v + at, ld_k, end - k0, d, a.aligned, v);
        __syncthreads();
        float s[R][C], dp[R][C];
        multiply<R, C, Tiles::LD>(q, k, d, s);
        multiply<R, C, Tiles::LD>(d_o, v, d, dp);
        const int back = int(a.t0 + tile.row - k0) + ty * R - tx;
        for (int i = 0; i < R; i++) {
            for (int j = 0; j < C; j++) {
                differentiate(own[i], back + i - SIDE * j, a.scale, s[i][j], dp[i][j]);
                ds[(ty * R + i) * Tiles::LDS + tx + SIDE * j] = dp[i][j];
            }
        }
        __syncwarp();
        accumulate<Tiles>(ds, k, acc);
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int64_t row = tile.row + ty * R + i;
        if (row < a.n_tok)
            store_row(a.out + at_query(a.n_head, d, tile.head, row), acc[i], 1.0f, d, a.aligned);
    }
}

/* The first row of the chunk whose document begins at or after `key`; n_tok when there is none.
 * Documents lie one behind the other: their beginnings only grow. */
template <typename T>
__device__ __forceinline__ int64_t first_row_from(const attention<T> &a, int64_t key)
{
    int64_t low = 0, high = a.n_tok;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (a.t0 + middle - a.pos[middle] >= key)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

template <typename T, typename Tiles>
__global__ void __launch_bounds__(N_THREAD, 1) backward_keys_kernel(attention<T> a)
{
    constexpr int R = Tiles::R, C = Tiles::C;
    SHARED_DYNAMIC(float, shared);
    float *const k = shared, *const v = k + Tiles::OWN * Tiles::LD,
                 *const q = v + Tiles::OWN * Tiles::LD, *const d_o = q + Tiles::WALK * Tiles::LD,
                 *const p = d_o + Tiles::WALK * Tiles::LD, *const ds = p + Tiles::OWN * Tiles::LDS;
    const int tx = int(threadIdx.x) % SIDE, ty = int(threadIdx.x) / SIDE, d = a.d_head;
    const int64_t ld_q = a.n_head * d, ld_k = a.n_kv * d, group = a.n_head / a.n_kv;
    const int64_t kv = blockIdx.x % a.n_kv;
    const int64_t k0 = (a.first_tile + blockIdx.x / a.n_kv) * Tiles::OWN;
    const int64_t keys = min(int64_t(Tiles::OWN), a.t0 + a.n_tok - k0);
    const int64_t at_k = (k0 * a.n_kv + kv) * d;

    float dk[R][Tiles::N][4], dv[R][Tiles::N][4];
    clear<Tiles>(dk);
    clear<Tiles>(dv);
    load_rows<T, Tiles::OWN, Tiles::LD>(a.k + at_k, ld_k, keys, d, a.aligned, k);
    load_rows<T, Tiles::OWN, Tiles::LD>(a.v + at_k, ld_k, keys, d, a.aligned, v);

    /* The queries that see one of the keys: those behind the first, of documents that begin before
     * the tile's end. */
    const int64_t from = k0 > a.t0 ? (k0 - a.t0) / Tiles::WALK * Tiles::WALK : 0;
    const int64_t to = first_row_from(a, k0 + Tiles::OWN);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
        for (int64_t row = from; row < to; row += Tiles::WALK) {
            const int64_t at_q = at_query(a.n_head, d, head, row);
            query column[C];
            for (int j = 0; j < C; j++)
                column[j] = query_of(a, head, row + tx + SIDE * j);
            __syncthreads(); /* the tile before has been read */
            load_rows<T, Tiles::WALK, Tiles::LD>(a.q + at_q, ld_q, a.n_tok - row, d, a.aligned, q);
            load_rows<T, Tiles::WALK, Tiles::LD>(a.d_o + at_q, ld_q, a.n_tok - row, d, a.aligned,
                                                 d_o);
            __syncthreads();
            float s[R][C], dp[R][C];
            multiply<R, C, Tiles::LD>(k, q, d, s);
            multiply<R, C, Tiles::LD>(v, d_o, d, dp);
            const int back = int(a.t0 + row - k0) + tx - ty * R;
            for (int i = 0; i < R; i++) {
                for (int j = 0; j < C; j++) {
                    const int at = (ty * R + i) * Tiles::LDS + tx + SIDE * j;
                    differentiate(column[j], back + SIDE * j - i, a.scale, s[i][j], dp[i][j]);
                    p[at] = s[i][j];
                    ds[at] = dp[i][j];
                }
            }
            __syncwarp();
            accumulate<Tiles>(p, d_o, dv);
            accumulate<Tiles>(ds, q, dk);
        }
    }

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int64_t key = k0 + ty * R + i;
        if (ty * R + i >= keys || from >= to)
            continue;
        add_row(a.dk + (key * a.n_kv + kv) * d, dk[i], d, a.aligned_keys);
        add_row(a.dv + (key * a.n_kv + kv) * d, dv[i], d, a.aligned_keys);
    }
}

/* ---- launches ---- */

template <typename T>
attention<T> arguments(const struct attention_args *a, struct act *out_rows, float *dots)
{
    attention<T> k = {};
    k.q = in<T>(a->q);
    k.k = in<T>(a->k);
    k.v = in<T>(a->v);
    k.o = in<T>(a->o);
    k.d_o = in<T>(a->d_o);
    k.out = out<T>(out_rows);
    k.lse = a->lse;
    k.dots = dots;
    k.dk = a->dk;
    k.dv = a->dv;
    k.pos = a->pos;
    k.n_tok = a->n_tok;
    k.t0 = a->t0;
    k.n_head = a->n_head;
    k.n_kv = a->n_kv;
    k.d_head = int(a->d_head);
    k.scale = float(1 / sqrt(double(a->d_head)));
    k.aligned = rows_aligned(k.q, a->d_head) && rows_aligned(k.k, a->d_head) &&
                rows_aligned(k.v, a->d_head) && rows_aligned(k.out, a->d_head);
    return k;
}

/* More than 48 KiB of shared memory must be asked for. */
template <typename T>
void launch(struct backend *be, const char *op, void (*kernel)(attention<T>), int64_t n_block,
            size_t n_float, const attention<T> &a)
{
    const dim3 grid{ unsigned(n_block) }, block(N_THREAD);
    const size_t smem_bytes = n_float * sizeof(float);
    const cudaError_t allowed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(smem_bytes));
    if (allowed != cudaSuccess) {
        cuda_fail(be, op, cudaGetErrorString(allowed));
        return;
    }
    LAUNCH(kernel, grid, block, smem_bytes, stream_of(be), a);
    CHECK_LAUNCH(be, op);
}

int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Floats of shared memory; the backward's, of n tiles of scores. */
template <typename Tiles> constexpr size_t forward_floats()
{
    return (Tiles::OWN + Tiles::WALK) * Tiles::LD + Tiles::OWN * Tiles::LDS;
}

template <typename Tiles> constexpr size_t backward_floats(int n)
{
    return 2 * (Tiles::OWN + Tiles::WALK) * Tiles::LD + n * Tiles::OWN * Tiles::LDS;
}

bool fits(const struct backend *be, size_t n_float)
{
    return n_float * sizeof(float) <= cuda_state_of(be)->shared_bytes;
}

template <typename T, typename Tiles> void launch_forward(struct backend *be, const attention<T> &a)
{
    launch(be, "attention_forward", forward_kernel<T, Tiles>,
           div_up(a.n_tok, Tiles::OWN) * a.n_head, forward_floats<Tiles>(), a);
}

template <typename T, typename Tiles>
void launch_backward(struct backend *be, attention<T> a, int64_t first_key)
{
    const char *const op = "attention_backward";
    launch(be, op, backward_queries_kernel<T, Tiles>, div_up(a.n_tok, Tiles::OWN) * a.n_head,
           backward_floats<Tiles>(1), a);
    a.first_tile = first_key / Tiles::OWN;
    const int64_t n_tile = div_up(a.t0 + a.n_tok, Tiles::OWN) - a.first_tile;
    launch(be, op, backward_keys_kernel<T, Tiles>, n_tile * a.n_kv, backward_floats<Tiles>(2), a);
}

/* The sums of the backward have the same order in tiles of any size. */
template <typename T, typename Tiles, typename Small>
void launch_backward(struct backend *be, const attention<T> &a, int64_t first_key)
{
    if (fits(be, backward_floats<Tiles>(2)))
        launch_backward<T, Tiles>(be, a, first_key);
    else
        launch_backward<T, Small>(be, a, first_key);
}

template <typename T>
void backward(struct backend *be, const struct attention_args *args, float *dots)
{
    attention<T> a = arguments<T>(args, args->dq, dots);
    a.aligned = a.aligned && rows_aligned(a.d_o, args->d_head);
    a.aligned_keys = rows_aligned(a.dk, args->d_head) && rows_aligned(a.dv, args->d_head);
    const int64_t n_row = a.n_tok * a.n_head;
    const int64_t first_key = args->doc_start == NULL ? 0 : args->doc_start[0];
    LAUNCH((dots_kernel<T>), dim3(unsigned(div_up(n_row, N_THREAD / 32))), dim3(N_THREAD), 0,
           stream_of(be), a.d_o, a.o, dots, n_row, a.d_head);
    CHECK_LAUNCH(be, "attention_backward");
    if (a.d_head <= 64)
        launch_backward<T, tiles<64, 4, 2>>(be, a, first_key);
    else if (a.d_head <= 128)
        launch_backward<T, tiles<128, 4, 2>, tiles<128, 2, 2>>(be, a, first_key);
    else
        launch_backward<T, tiles<256, 2, 2>, tiles<256, 1, 1>>(be, a, first_key);
}

template <typename T> void forward(struct backend *be, const struct attention_args *args)
{
    const attention<T> a = arguments<T>(args, args->o, NULL);
    if (a.d_head <= 64)
        launch_forward<T, tiles<64, 4, 4>>(be, a);
    else if (a.d_head <= 128)
        launch_forward<T, tiles<128, 4, 4>>(be, a);
    else if (fits(be, forward_floats<tiles<256, 4, 4>>()))
        launch_forward<T, tiles<256, 4, 4>>(be, a);
    else
        launch_forward<T, tiles<256, 2, 2>>(be, a);
}

bool refused(struct backend *be, const char *op, const struct attention_args *a)
{
    if (a->d_head <= ATTENTION_MOST_D_HEAD)
        return false;
    cuda_fail(be, op, "heads of more than 256 dims are not supported");
    return true;
}

} // namespace

extern "C" void cuda_attention_forward_plain(struct backend *be, const struct attention_args *a)
{
    if (!refused(be, "attention_forward", a))
        WITH_ACT(be, T, { forward<T>(be, a); });
}

extern "C" void cuda_attention_backward_plain(struct backend *be, const struct attention_args *a,
                                              void *scratch)
{
    if (!refused(be, "attention_backward", a))
        WITH_ACT(be, T, { backward<T>(be, a, static_cast<float *>(scratch)); });
}
