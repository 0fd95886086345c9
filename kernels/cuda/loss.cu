/* Cross entropy in place on a block of logits, and the rows it is computed on.
 *
 * cross_entropy: a block owns a row. Bytes a logit in bfloat16: 2 read for the maximum and the sum
 * at once, with a gradient 2 more read and 2 written: 6, of which the second read comes from the L2
 * where the rows in flight (two blocks an SM, 128 KB each at a vocabulary of 65536) fit it. Bound
 * by memory: about 20 instructions a logit, two exponentials among them, take half of that time.
 * Not the row kept in shared memory instead: at 128 KB of it an SM would hold one block, with
 * nothing to hide its barriers behind.
 *
 * pick_rows, place_rows: a warp owns 128 vectors of one row. 4 bytes an element in
 * bfloat16, bound by memory.
 */
#include <float.h>

#include "kernels/cuda/vector.cuh"

namespace
{

/* ---- cross entropy ---- */

constexpr int ROW_THREADS = 512;
constexpr int ROW_UNROLL = 4; /* independent loads in flight */

/* A maximum and the sum of e^(x - top) below it. top begins at the lowest float, not at -inf: rows
 * may hold -inf, and -inf - -inf would make NaN of the sum. A NaN is ignored by the maximum and
 * stays in the sum. */
struct softmax_sum {
    float top, sum;
};

__device__ __forceinline__ struct softmax_sum joined(struct softmax_sum a, struct softmax_sum b)
{
    const float top = fmaxf(a.top, b.top);
    return { top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top) };
}

template <typename T, int N>
__device__ __forceinline__ void add_logits(struct softmax_sum &s, const packed<T, N> &logits)
{
    float v[N], top = s.top;
    widen(logits, v);
    for (int k = 0; k < N; k++)
        top = fmaxf(top, v[k]);
    if (top > s.top) {
        s.sum *= expf(s.top - top);
        s.top = top;
    }
    for (int k = 0; k < N; k++)
        s.sum += expf(v[k] - s.top);
}

/* What the threads have seen, joined in fixed order, in each thread. */
__device__ __forceinline__ struct softmax_sum block_joined(struct softmax_sum s)
{
    constexpr int N_WARP = ROW_THREADS / 32;
    SHARED_ARRAY(struct softmax_sum, partial, [N_WARP]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int offset = 16; offset > 0; offset /= 2)
        s = joined(s, { __shfl_xor_sync(FULL_WARP, s.top, offset),
                        __shfl_xor_sync(FULL_WARP, s.sum, offset) });
    if (lane == 0)
        partial[warp] = s;
    __syncthreads();
    s = partial[lane % N_WARP];
    for (int offset = N_WARP / 2; offset > 0; offset /= 2)
        s = joined(s, { __shfl_xor_sync(FULL_WARP, s.top, offset),
                        __shfl_xor_sync(FULL_WARP, s.sum, offset) });
    return s;
}

/* A thread's vectors of the row lie ROW_THREADS apart; ROW_UNROLL of them are in flight together.
 */
template <typename T, int N>
__device__ __forceinline__ struct softmax_sum read_row(const T *row, int64_t vocab)
{
    constexpr int64_t STEP = int64_t(ROW_THREADS) * N;
    struct softmax_sum s = { -FLT_MAX, 0.0f };
    int64_t j = int64_t(threadIdx.x) * N;
    for (; j + (ROW_UNROLL - 1) * STEP < vocab; j += ROW_UNROLL * STEP) {
        packed<T, N> raw[ROW_UNROLL];
#pragma unroll
        for (int u = 0; u < ROW_UNROLL; u++)
            raw[u] = load_packed<N>(row + j + u * STEP);
#pragma unroll
        for (int u = 0; u < ROW_UNROLL; u++)
            add_logits(s, raw[u]);
    }
    for (; j < vocab; j += STEP)
        add_logits(s, load_packed<N>(row + j));
    return s;
}

template <typename T, int N>
__device__ __forceinline__ packed<T, N> gradient(const packed<T, N> &logits, float top, float scale)
{
    float v[N];
    widen(logits, v);
    for (int k = 0; k < N; k++)
        v[k] = scale * expf(v[k] - top);
    return narrow<T>(v);
}

/* row = scale * e^(row - top). */
template <typename T, int N>
__device__ __forceinline__ void write_gradient(T *row, int64_t vocab, float top, float scale)
{
    constexpr int64_t STEP = int64_t(ROW_THREADS) * N;
    int64_t j = int64_t(threadIdx.x) * N;
    for (; j + (ROW_UNROLL - 1) * STEP < vocab; j += ROW_UNROLL * STEP) {
        packed<T, N> raw[ROW_UNROLL];
#pragma unroll
        for (int u = 0; u < ROW_UNROLL; u++)
            raw[u] = load_packed<N>(row + j + u * STEP);
#pragma unroll
        for (int u = 0; u < ROW_UNROLL; u++)
            store_packed(row + j + u * STEP, gradient(raw[u], top, scale));
    }
    for (; j < vocab; j += STEP)
        store_packed(row + j, gradient(load_packed<N>(row + j), top, scale));
}

template <typename T, int N>
__global__ void __launch_bounds__(ROW_THREADS, 2)
    cross_entropy_kernel(T *logits, const int32_t *__restrict__ target, float *__restrict__ logprob,
                         int64_t vocab, float grad_scale)
{
    const int64_t i = blockIdx.x;
    T *row = logits + i * vocab;
    const int32_t wanted = target[i];
    const float at_target = to_float(row[wanted]); /* before the gradient is written over it */
    const struct softmax_sum s = block_joined(read_row<T, N>(row, vocab));
    if (threadIdx.x == 0)
        logprob[i] = at_target - s.top - logf(s.sum);
    if (grad_scale != 0) {
        const float scale = grad_scale / s.sum;
        write_gradient<T, N>(row, vocab, s.top, scale);
        __syncthreads();
        if (threadIdx.x == 0) /* from the logit itself: one rounding */
            row[wanted] = from_float<T>(scale * expf(at_target - s.top) - grad_scale);
    }
}

/* ---- rows ---- */

template <typename T, int N, bool PLACE>
__global__ void copy_rows_kernel(const T *__restrict__ x, const int32_t *__restrict__ index,
                                 T *__restrict__ y, int64_t n_row, int64_t dim)
{
    const int64_t i = row_tile_row();
    if (i >= n_row)
        return;
    const T *from = x + (PLACE ? i : index[i]) * dim;
    T *to = y + (PLACE ? index[i] : i) * dim;
    packed<T, N> raw[ROW_TILE_UNROLL];
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        if (row_tile_vector(u) * N < dim)
            raw[u] = load_packed<N>(from + row_tile_vector(u) * N);
    }
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        if (row_tile_vector(u) * N < dim)
            store_packed(to + row_tile_vector(u) * N, raw[u]);
    }
}

template <typename T, int N, bool PLACE>
void copy_vectors(struct backend *be, const struct pick_rows_args *a)
{
    LAUNCH((copy_rows_kernel<T, N, PLACE>), row_tile_grid(a->n_row, blocks_for(a->dim, N)),
           row_tile_block(), 0, stream_of(be), in<T>(a->x), a->index, out<T>(a->y), a->n_row,
           a->dim);
}

template <bool PLACE>
void copy_rows(struct backend *be, const struct pick_rows_args *a, const char *op)
{
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, {
        if (rows_aligned(in<T>(a->x), a->dim) && rows_aligned(in<T>(a->y), a->dim))
            copy_vectors<T, vector_of<T>::N, PLACE>(be, a);
        else
            copy_vectors<T, 1, PLACE>(be, a);
    });
    CHECK_LAUNCH(be, op);
}

} // namespace

extern "C" void cuda_cross_entropy(struct backend *be, const struct cross_entropy_args *a, void *)
{
    if (a->n_row == 0)
        return;
    const dim3 grid(unsigned(a->n_row)), block(ROW_THREADS);
    WITH_ACT(be, T, {
        constexpr int N = vector_of<T>::N;
        T *logits = out<T>(a->logits);
        if (rows_aligned(logits, a->vocab))
            LAUNCH((cross_entropy_kernel<T, N>), grid, block, 0, stream_of(be), logits, a->target,
                   a->logprob, a->vocab, a->grad_scale);
        else
            LAUNCH((cross_entropy_kernel<T, 1>), grid, block, 0, stream_of(be), logits, a->target,
                   a->logprob, a->vocab, a->grad_scale);
    });
    CHECK_LAUNCH(be, "cross_entropy");
}

extern "C" void cuda_pick_rows(struct backend *be, const struct pick_rows_args *a, void *)
{
    copy_rows<false>(be, a, "pick_rows");
}

extern "C" void cuda_place_rows(struct backend *be, const struct pick_rows_args *a, void *)
{
    copy_rows<true>(be, a, "place_rows");
}
