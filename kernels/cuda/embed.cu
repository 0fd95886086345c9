/* The embedding lookup and its adapter.
 *
 * embed_forward: a warp owns 128 vectors of a row, four a lane, all loaded before the first is
 * stored. Bytes per element: those of the table's type and of the activation's. Bound: memory.
 *
 * embed_lora_forward: a thread owns one element of t; a block LORA_ROWS rows. Each reads a sector
 * of 32 bytes of a, which lies in L2 (2 MiB at rank 16 and vocab 65536).
 *
 * embed_lora_backward: columns of da, each summed by one thread in the order of the tokens, so the
 * sum has one order whatever the grid, and no scratch. A block owns LORA_IDS ids and 32 rows of da.
 * It walks the tokens in tiles: lists those with one of its ids, in order, in shared memory; then
 * each warp takes its ids one by one, lanes on the rows of da. Every block reads all ids (64 KiB at
 * 16384 tokens, from L2: 16 MiB in all at vocab 65536 and rank up to 32), dt is read once. Bound:
 * L2 and latency; a column that gets all 16384 tokens takes 2048 turns of eight loads.
 */
#include "kernels/cuda/vector.cuh"

namespace
{

enum {
    LORA_ROWS = 64,
    LORA_THREADS = 256,
    LORA_WARPS = LORA_THREADS / 32,
    LORA_IDS = 256,
    LORA_TOKENS = 8, /* ids of a tile that one thread looks at */
    LORA_TILE = LORA_THREADS * LORA_TOKENS,
    LORA_AHEAD = 8, /* loads of dt in flight */
};

template <typename S, typename T, int N>
__global__ void __launch_bounds__(32 * ROW_TILE)
    embed_forward_kernel(const int32_t *ids, const S *table, T *y, int64_t n_row, int64_t dim)
{
    const int64_t row = row_tile_row();
    const int64_t id = row < n_row ? ids[row] : 0;
    packed<S, N> raw[ROW_TILE_UNROLL];
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        const int64_t j = row_tile_vector(u) * N;
        if (row < n_row && j < dim)
            raw[u] = load_packed<N>(table + id * dim + j);
    }
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        const int64_t j = row_tile_vector(u) * N;
        if (row < n_row && j < dim) {
            float v[N];
            widen(raw[u], v);
            store_packed(y + row * dim + j, narrow<T>(v));
        }
    }
}

template <typename S, typename T> void launch_embed(struct backend *be, const struct embed_args *a)
{
    const S *table = static_cast<const S *>(a->table);
    T *y = out<T>(a->y);
    constexpr int N = vector_of_both<S, T>::N;
    const bool aligned = rows_aligned(table, a->dim) && rows_aligned(y, a->dim);
    const dim3 grid = row_tile_grid(a->n_row, aligned ? a->dim / N : a->dim);
    const dim3 block = row_tile_block();
    if (aligned)
        LAUNCH((embed_forward_kernel<S, T, N>), grid, block, 0, stream_of(be), a->ids, table, y,
               a->n_row, a->dim);
    else
        LAUNCH((embed_forward_kernel<S, T, 1>), grid, block, 0, stream_of(be), a->ids, table, y,
               a->n_row, a->dim);
}

template <typename T> void choose_embed(struct backend *be, const struct embed_args *a)
{
    switch (a->dtype) {
    case DTYPE_F32:
        launch_embed<float, T>(be, a);
        return;
    case DTYPE_BF16:
        launch_embed<__nv_bfloat16, T>(be, a);
        return;
    case DTYPE_F16:
        launch_embed<__half, T>(be, a);
        return;
    default:
        cuda_fail(be, "embed_forward", "not a type of a table");
    }
}

template <typename T>
__global__ void __launch_bounds__(LORA_THREADS)
    embed_lora_forward_kernel(const int32_t *ids, const T *a, T *t, int64_t n_row, int rank,
                              int64_t vocab)
{
    const int64_t first = int64_t(blockIdx.x) * LORA_ROWS;
    const int n = int(min(n_row - first, int64_t(LORA_ROWS)));
    for (int e = int(threadIdx.x); e < n * rank; e += LORA_THREADS)
        t[first * rank + e] = a[e % rank * vocab + ids[first + e / rank]];
}

template <typename T> struct embed_grad {
    const int32_t *ids;
    const T *dt;
    float *da;
    int64_t n_row, rank, vocab, pad_id;
};

/* Lists the tokens of the tile at `base` whose ids lie in [first_id, first_id + LORA_IDS), in
 * order; returns their number. The first barrier also ends the use of the lists before. */
template <typename T>
__device__ __forceinline__ int list_tokens(const embed_grad<T> &g, int64_t base, int first_id,
                                           short (&token)[LORA_TILE], short (&which)[LORA_TILE],
                                           int (&warp_count)[LORA_WARPS])
{
    const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
    int id[LORA_TOKENS], count = 0;
#pragma unroll
    for (int k = 0; k < LORA_TOKENS; k++) {
        const int64_t i = base + thread * LORA_TOKENS + k;
        id[k] = -1;
        if (i < g.n_row && g.ids[i] != g.pad_id)
            id[k] = g.ids[i] - first_id;
        count += unsigned(id[k]) < unsigned(LORA_IDS);
    }
    int before = count; /* and before this thread's, in the end */
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(FULL_WARP, before, unsigned(offset));
        if (lane >= offset)
            before += other;
    }
    if (lane == 31)
        warp_count[warp] = before;
    __syncthreads();
    int place = before - count, total = 0;
#pragma unroll
    for (int w = 0; w < LORA_WARPS; w++) {
        place += w < warp ? warp_count[w] : 0;
        total += warp_count[w];
    }
#pragma unroll
    for (int k = 0; k < LORA_TOKENS; k++) {
        if (unsigned(id[k]) < unsigned(LORA_IDS)) {
            token[place] = short(thread * LORA_TOKENS + k);
            which[place] = short(id[k]);
            place++;
        }
    }
    __syncthreads();
    return total;
}

/* sum += dt of the tokens in `hits` (bits of token[0 .. 32)), in order. */
template <typename T>
__device__ __forceinline__ float add_hits(const embed_grad<T> &g, int64_t base, const short *token,
                                          unsigned hits, int64_t j, float sum)
{
    while (hits != 0) {
        float v[LORA_AHEAD];
        const int n = __popc(hits);
#pragma unroll
        for (int k = 0; k < LORA_AHEAD; k++) {
            v[k] = 0;
            if (k < n && j < g.rank) {
                const int64_t i = base + token[__ffs(int(hits)) - 1];
                v[k] = to_float(g.dt[i * g.rank + j]);
            }
            hits &= hits - 1; /* 0 stays 0 */
        }
#pragma unroll
        for (int k = 0; k < LORA_AHEAD; k++) {
            if (k < n)
                sum += v[k];
        }
    }
    return sum;
}

template <typename T>
__global__ void __launch_bounds__(LORA_THREADS) embed_lora_backward_kernel(embed_grad<T> g)
{
    SHARED_ARRAY(short, token, [LORA_TILE]);
    SHARED_ARRAY(short, which, [LORA_TILE]);
    SHARED_ARRAY(int, warp_count, [LORA_WARPS]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int first_id = int(blockIdx.x) * LORA_IDS;
    const int64_t j = int64_t(blockIdx.y) * 32 + lane;
    for (int64_t base = 0; base < g.n_row; base += LORA_TILE) {
        const int n = list_tokens(g, base, first_id, token, which, warp_count);
        for (int id = warp; n > 0 && id < LORA_IDS; id += LORA_WARPS) {
            float *da = g.da + j * g.vocab + first_id + id, sum = 0;
            bool found = false; /* the same for the whole warp */
            for (int e = 0; e < n; e += 32) {
                const unsigned hits =
                    __ballot_sync(FULL_WARP, e + lane < n && which[e + lane] == id);
                if (hits == 0)
                    continue;
                if (!found)
                    sum = j < g.rank ? *da : 0.0f;
                found = true;
                sum = add_hits(g, base, token + e, hits, j, sum);
            }
            if (found && j < g.rank)
                *da = sum;
        }
    }
}

template <typename T> void launch_lora_backward(struct backend *be, const struct embed_lora_args *a)
{
    const embed_grad<T> g = { a->ids, in<T>(a->dt), a->da, a->n_row, a->rank, a->vocab, a->pad_id };
    const dim3 grid(unsigned(blocks_for(a->vocab, LORA_IDS)), unsigned(blocks_for(a->rank, 32)));
    const dim3 block(LORA_THREADS);
    LAUNCH((embed_lora_backward_kernel<T>), grid, block, 0, stream_of(be), g);
}

} // namespace

extern "C" void cuda_embed_forward(struct backend *be, const struct embed_args *a, void *scratch)
{
    (void)scratch;
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, { choose_embed<T>(be, a); });
    CHECK_LAUNCH(be, "embed_forward");
}

extern "C" void cuda_embed_lora_forward(struct backend *be, const struct embed_lora_args *a,
                                        void *scratch)
{
    (void)scratch;
    if (a->n_row == 0)
        return;
    const dim3 grid(unsigned(blocks_for(a->n_row, LORA_ROWS))), block(LORA_THREADS);
    WITH_ACT(be, T, {
        LAUNCH((embed_lora_forward_kernel<T>), grid, block, 0, stream_of(be), a->ids, in<T>(a->a),
               out<T>(a->t), a->n_row, int(a->rank), a->vocab);
    });
    CHECK_LAUNCH(be, "embed_lora_forward");
}

extern "C" void cuda_embed_lora_backward(struct backend *be, const struct embed_lora_args *a,
                                         void *scratch)
{
    (void)scratch;
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, { launch_lora_backward<T>(be, a); });
    CHECK_LAUNCH(be, "embed_lora_backward");
}
