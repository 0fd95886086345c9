/* Mixture of experts: routing, the sort of rows by expert, and the ways there and back.
 *
 * route_forward: a warp owns a token at a time, a lane the experts 32 apart; a block owns
 *   ROUTE_TILE tokens and counts their choices by expert. The sort is a second kernel over the same
 *   tiles: every block adds up the counts of all tiles for itself (16 KB of them at 16384 tokens
 *   and 16 experts), so that nothing waits for the host or for another block; then a thread owns an
 *   expert and walks the tile's choices in order: stable by construction. Bound
 *   by latency: at 16 experts there is almost nothing to read.
 * route_backward: a warp owns a token.
 * aux_sums: a thread owns an expert in a tile of AUX_TILE tokens, walked in order; documents that
 *   cross tiles are joined by a second kernel, tiles in order.
 * gather_rows, combine: a warp owns 128 vectors of one row. Bytes an element in bfloat16: gather 2
 *   read and 2 written, combine 2 top_k read, 2 for base, 2 written. row_dot: a warp owns a row, 4
 *   bytes read. All three are bound by memory.
 */
#include <limits.h>
#include <string.h>

#include "kernels/cuda/sizes.h"
#include "kernels/cuda/sum.cuh"
#include "kernels/cuda/vector.cuh"

namespace
{

constexpr int N_WARP = 8, N_THREAD = 32 * N_WARP;

/* ---- routing ---- */

/* struct route_args as the kernels take it. */
struct routing {
    float *p, *weight;
    int32_t *expert, *slot, *place, *offset;
    int32_t *count; /* (n_tile, n_expert): choices of each tile */
    int64_t n_tok, n_slot, n_tile;
    int n_expert, top_k;
};

/* A candidate: greater probability first, then the lower expert. NaN counts as less than any, so
 * that with NaN everywhere the first experts are chosen and the loss shows the NaN. */
struct candidate {
    float p;
    int expert;
};

__device__ __forceinline__ bool comes_before(struct candidate a, struct candidate b)
{
    return a.p > b.p || (a.p == b.p && a.expert < b.expert);
}

/* The best expert behind `last` in that order, in each lane. */
__device__ __forceinline__ struct candidate next_choice(const float *p, int n_expert, int lane,
                                                        struct candidate last)
{
    struct candidate best = { -2.0f, INT_MAX };
    for (int e = lane; e < n_expert; e += 32) {
        const float v = p[e];
        const struct candidate c = { v == v ? v : -1.0f, e };
        if (comes_before(last, c) && comes_before(c, best))
            best = c;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        const struct candidate other = { __shfl_xor_sync(FULL_WARP, best.p, offset),
                                         __shfl_xor_sync(FULL_WARP, best.expert, offset) };
        if (comes_before(other, best))
            best = other;
    }
    return best;
}

/* p = softmax(logits); each lane reads back what it wrote itself. As on the CPU, one NaN or
 * infinity makes NaN of the whole row. */
template <typename T>
__device__ __forceinline__ void softmax_row(const T *logits, float *p, int n_expert, int lane)
{
    float top = -INFINITY, sum = 0;
    for (int e = lane; e < n_expert; e += 32)
        top = fmaxf(top, to_float(logits[e]));
    top = lanes_max<32>(top);
    for (int e = lane; e < n_expert; e += 32) {
        const float v = expf(to_float(logits[e]) - top);
        p[e] = v;
        sum += v;
    }
    sum = lanes_sum<32>(sum);
    for (int e = lane; e < n_expert; e += 32)
        p[e] /= sum;
}

template <typename T>
__global__ void route_forward_kernel(const T *__restrict__ logits, const struct routing r)
{
    SHARED_DYNAMIC(int, count); /* (n_expert) */
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int e = int(threadIdx.x); e < r.n_expert; e += N_THREAD)
        count[e] = 0;
    __syncthreads();
    for (int i = warp; i < ROUTE_TILE; i += N_WARP) {
        const int64_t t = int64_t(blockIdx.x) * ROUTE_TILE + i;
        if (t >= r.n_tok)
            break; /* the whole warp does */
        float *p = r.p + t * r.n_expert;
        softmax_row<T>(logits + t * r.n_expert, p, r.n_expert, lane);
        struct candidate c = { INFINITY, -1 };
        for (int j = 0; j < r.top_k; j++) {
            c = next_choice(p, r.n_expert, lane, c);
            if (c.expert % 32 == lane) {
                r.expert[t * r.top_k + j] = c.expert;
                r.weight[t * r.top_k + j] = p[c.expert];
                atomicAdd(&count[c.expert], 1);
            }
        }
    }
    __syncthreads();
    for (int e = int(threadIdx.x); e < r.n_expert; e += N_THREAD)
        r.count[int64_t(blockIdx.x) * r.n_expert + e] = count[e];
}

/* next[e] = slots of e in the tiles before this one, total[e] = in all of them. */
__device__ __forceinline__ void add_counts(const struct routing &r, int *next, int *total)
{
    for (int e = int(threadIdx.x); e < r.n_expert; e += N_THREAD)
        next[e] = total[e] = 0;
    __syncthreads();
    const unsigned n_expert = unsigned(r.n_expert), before = blockIdx.x * n_expert;
    for (unsigned i = threadIdx.x; i < unsigned(r.n_tile) * n_expert; i += N_THREAD) {
        const unsigned e = i % n_expert;
        const int n = r.count[i];
        atomicAdd(&total[e], n);
        if (i < before)
            atomicAdd(&next[e], n);
    }
    __syncthreads();
}

/* next[e] += where e's slots begin: the totals of the experts before it. One warp, a lane owning
 * neighbouring experts. */
__device__ __forceinline__ void add_offsets(const struct routing &r, int *next, const int *total)
{
    const int lane = int(threadIdx.x) % 32, own = (r.n_expert + 31) / 32;
    const int begin = min(lane * own, r.n_expert), end = min(begin + own, r.n_expert);
    int sum = 0;
    for (int e = begin; e < end; e++)
        sum += total[e];
    int before = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(FULL_WARP, before, unsigned(offset));
        before += lane >= offset ? other : 0;
    }
    before -= sum;
    for (int e = begin; e < end; e++) {
        next[e] += before;
        if (blockIdx.x == 0)
            r.offset[e] = before;
        before += total[e];
    }
    if (blockIdx.x == 0 && lane == 31)
        r.offset[r.n_expert] = before;
}

/* A tile's slots to their sorted places. */
__global__ void route_sort_kernel(const struct routing r)
{
    SHARED_DYNAMIC(int, next); /* (n_expert), then total (n_expert) */
    SHARED_ARRAY(int, chosen, [N_THREAD]);
    int *total = next + r.n_expert;
    add_counts(r, next, total);
    if (threadIdx.x < 32)
        add_offsets(r, next, total); /* read behind the barrier that follows chosen */
    const int64_t first = int64_t(blockIdx.x) * ROUTE_TILE * r.top_k;
    const int64_t end = min(first + int64_t(ROUTE_TILE) * r.top_k, r.n_slot);
    for (int64_t s0 = first; s0 < end; s0 += N_THREAD) {
        const int n = int(min(end - s0, int64_t(N_THREAD)));
        if (int(threadIdx.x) < n)
            chosen[threadIdx.x] = r.expert[s0 + threadIdx.x];
        __syncthreads();
        for (int e = int(threadIdx.x); e < r.n_expert; e += N_THREAD) {
            int place = next[e];
            for (int i = 0; i < n; i++) {
                if (chosen[i] == e) {
                    r.slot[place] = int32_t(s0 + i);
                    r.place[s0 + i] = place++;
                }
            }
            next[e] = place;
        }
        __syncthreads(); /* chosen is written again */
    }
}

template <typename T>
__global__ void route_backward_kernel(const struct route_args a, T *__restrict__ dlogits)
{
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int64_t t = int64_t(blockIdx.x) * N_WARP + warp;
    if (t >= a.n_tok)
        return; /* the whole warp does */
    const float *p = a.p + t * a.n_expert, *dot = a.dot + t * a.top_k;
    const int32_t *chosen = a.expert + t * a.top_k;
    float sum = 0, mean = 0, scale = 0;
    for (int64_t j = 0; j < a.top_k; j++)
        sum += dot[j];
    const float *f = nullptr;
    if (a.aux_f != nullptr) {
        f = a.aux_f + a.doc[t] * a.n_expert;
        scale = a.aux_scale[a.doc[t]];
        for (int64_t e = lane; e < a.n_expert; e += 32)
            mean += p[e] * f[e];
        mean = lanes_sum<32>(mean);
    }
    for (int64_t e = lane; e < a.n_expert; e += 32) {
        float d = -p[e] * sum;
        for (int64_t j = 0; j < a.top_k; j++)
            d += chosen[j] == e ? dot[j] : 0.0f;
        if (f != nullptr)
            d += scale * p[e] * (f[e] - mean);
        dlogits[t * a.n_expert + e] = from_float<T>(d);
    }
}

/* ---- sums of the load-balancing loss ---- */

/* Parts of documents that cross tiles, (n_tile, n_expert) each: the one that came into a tile, and
 * the one that begins in it and reaches its end. */
struct aux_parts {
    float *head_f, *head_p, *tail_f, *tail_p;
    int64_t n_tile;
};

__global__ void aux_tiles_kernel(const struct aux_sums_args a, const struct aux_parts part)
{
    const int64_t i = int64_t(blockIdx.x) * N_THREAD + threadIdx.x;
    const int64_t tile = i / a.n_expert, e = i % a.n_expert;
    if (tile >= part.n_tile)
        return;
    const int64_t first = tile * AUX_TILE, end = min(first + AUX_TILE, a.n_tok);
    bool continued = first > 0 && a.doc[first] == a.doc[first - 1];
    float f = 0, p = 0;
    for (int64_t t = first; t < end; t++) {
        for (int64_t j = 0; j < a.top_k; j++)
            f += a.expert[t * a.top_k + j] == e ? 1.0f : 0.0f;
        p += a.p[t * a.n_expert + e];
        const bool last = t + 1 == end;
        if (!last && a.doc[t + 1] == a.doc[t])
            continue;
        if (continued) {
            part.head_f[i] = f, part.head_p[i] = p;
        } else if (last) {
            part.tail_f[i] = f, part.tail_p[i] = p;
        } else {
            a.f[a.doc[t] * a.n_expert + e] += f;
            a.psum[a.doc[t] * a.n_expert + e] += p;
        }
        continued = false;
        f = p = 0;
    }
}

/* The tile behind the last one that begins within document d: by bisection, so that the sum's loads
 * do not wait for each other. */
__device__ __forceinline__ int64_t tile_behind(const struct aux_sums_args &a, int64_t tile,
                                               int64_t n_tile, int32_t d)
{
    int64_t low = tile + 1, high = n_tile;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (a.doc[middle * AUX_TILE] == d)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A thread owns an expert of the document that begins in a tile and reaches its end. */
__global__ void aux_join_kernel(const struct aux_sums_args a, const struct aux_parts part)
{
    const int64_t i = int64_t(blockIdx.x) * N_THREAD + threadIdx.x;
    const int64_t tile = i / a.n_expert, e = i % a.n_expert;
    if (tile >= part.n_tile)
        return;
    const int64_t first = tile * AUX_TILE, end = min(first + AUX_TILE, a.n_tok);
    const int32_t d = a.doc[end - 1];
    if (first > 0 && a.doc[first - 1] == d)
        return; /* it came into the tile */
    float f = part.tail_f[i], p = part.tail_p[i];
    const int64_t behind = tile_behind(a, tile, part.n_tile, d);
#pragma unroll 8
    for (int64_t k = tile + 1; k < behind; k++) {
        f += part.head_f[k * a.n_expert + e];
        p += part.head_p[k * a.n_expert + e];
    }
    a.f[d * a.n_expert + e] += f;
    a.psum[d * a.n_expert + e] += p;
}

/* A thread owns documents N_THREAD apart. */
__global__ void aux_loss_kernel(const struct aux_loss_args a)
{
    double total = 0;
    for (int64_t d = threadIdx.x; d < a.n_doc; d += N_THREAD) {
        const double length = double(a.doc_start[d + 1] - a.doc_start[d]);
        const double rows = length * double(a.n_layer);
        const double weight = length * double(a.n_expert) / (rows * rows);
        double sum = 0;
        for (int64_t i = d * a.n_expert; i < (d + 1) * a.n_expert; i++)
            sum += double(a.f[i]) * double(a.psum[i]);
        total += weight * sum;
        a.scale[d] = float(a.aux_scale * weight);
    }
    total = block_sum_double<N_THREAD>(total);
    if (threadIdx.x == 0)
        *a.sum += total;
}

/* ---- rows ---- */

template <typename T, int N>
__global__ void gather_rows_kernel(const T *__restrict__ x, const int32_t *__restrict__ index,
                                   const float *__restrict__ scale, T *__restrict__ y,
                                   int64_t n_row, int64_t dim, int per_row)
{
    const int64_t i = row_tile_row();
    if (i >= n_row)
        return;
    const int32_t from = index[i];
    const float by = scale == nullptr ? 1.0f : scale[from];
    const T *row = x + int64_t(from / per_row) * dim;
    packed<T, N> raw[ROW_TILE_UNROLL];
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        if (row_tile_vector(u) * N < dim)
            raw[u] = load_packed<N>(row + row_tile_vector(u) * N);
    }
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        if (row_tile_vector(u) * N < dim) {
            float v[N];
            widen(raw[u], v);
            for (int k = 0; k < N; k++)
                v[k] *= by;
            store_packed(y + i * dim + row_tile_vector(u) * N, narrow<T>(v));
        }
    }
}

/* base may be y: a thread reads what it writes, and no more. */
template <typename T, int N>
__global__ void combine_kernel(const T *__restrict__ x, const int32_t *__restrict__ place,
                               const float *__restrict__ weight, const T *base, T *y, int64_t n_tok,
                               int64_t dim, int top_k)
{
    const int64_t t = row_tile_row();
    if (t >= n_tok)
        return;
    float sum[ROW_TILE_UNROLL][N];
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        for (int k = 0; k < N; k++)
            sum[u][k] = 0;
        if (base != nullptr && row_tile_vector(u) * N < dim)
            widen(load_packed<N>(base + t * dim + row_tile_vector(u) * N), sum[u]);
    }
    for (int j = 0; j < top_k; j++) {
        const T *row = x + int64_t(place[t * top_k + j]) * dim;
        const float w = weight == nullptr ? 1.0f : weight[t * top_k + j];
#pragma unroll
        for (int u = 0; u < ROW_TILE_UNROLL; u++) {
            if (row_tile_vector(u) * N < dim) {
                float v[N];
                widen(load_packed<N>(row + row_tile_vector(u) * N), v);
                for (int k = 0; k < N; k++)
                    sum[u][k] += w * v[k];
            }
        }
    }
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        if (row_tile_vector(u) * N < dim)
            store_packed(y + t * dim + row_tile_vector(u) * N, narrow<T>(sum[u]));
    }
}

template <typename T, int N>
__global__ void row_dot_kernel(const T *__restrict__ x, const T *__restrict__ y,
                               const int32_t *__restrict__ index, float *__restrict__ dot,
                               int64_t n_row, int64_t dim)
{
    const int64_t i = row_tile_row();
    if (i >= n_row)
        return; /* the whole warp does */
    float sum = 0;
#pragma unroll 4
    for (int64_t d = int64_t(threadIdx.x) * N; d < dim; d += 32 * N) {
        float a[N], b[N];
        widen(load_packed<N>(x + i * dim + d), a);
        widen(load_packed<N>(y + i * dim + d), b);
        for (int k = 0; k < N; k++)
            sum += a[k] * b[k];
    }
    sum = lanes_sum<32>(sum);
    if (threadIdx.x == 0)
        dot[index[i]] = sum;
}

template <typename T, int N> void gather_rows(struct backend *be, const struct gather_rows_args *a)
{
    LAUNCH((gather_rows_kernel<T, N>), row_tile_grid(a->n_row, blocks_for(a->dim, N)),
           row_tile_block(), 0, stream_of(be), in<T>(a->x), a->index, a->scale, out<T>(a->y),
           a->n_row, a->dim, int(a->per_row));
}

template <typename T, int N> void combine(struct backend *be, const struct combine_args *a)
{
    LAUNCH((combine_kernel<T, N>), row_tile_grid(a->n_tok, blocks_for(a->dim, N)), row_tile_block(),
           0, stream_of(be), in<T>(a->x), a->place, a->weight, in<T>(a->base), out<T>(a->y),
           a->n_tok, a->dim, int(a->top_k));
}

template <typename T, int N> void row_dot(struct backend *be, const struct row_dot_args *a)
{
    LAUNCH((row_dot_kernel<T, N>), row_tile_grid(a->n_row, 1), row_tile_block(), 0, stream_of(be),
           in<T>(a->x), in<T>(a->y), a->index, a->out, a->n_row, a->dim);
}

struct routing routing_of(const struct route_args *a, void *scratch)
{
    struct routing r = {};
    r.p = a->p, r.weight = a->weight, r.expert = a->expert;
    r.slot = a->slot, r.place = a->place, r.offset = a->offset;
    r.count = static_cast<int32_t *>(scratch);
    r.n_tok = a->n_tok, r.n_slot = a->n_tok * a->top_k;
    r.n_tile = blocks_for(a->n_tok, ROUTE_TILE);
    r.n_expert = int(a->n_expert), r.top_k = int(a->top_k);
    return r;
}

} // namespace

extern "C" void cuda_route_forward(struct backend *be, const struct route_args *a, void *scratch)
{
    const struct routing r = routing_of(a, scratch);
    const size_t smem_bytes = size_t(a->n_expert) * sizeof(int);
    if (a->n_expert > ROUTE_MAX_EXPERT) {
        cuda_fail(be, "route_forward", "too many experts");
        return;
    }
    if (r.n_tile > 0) {
        WITH_ACT(be, T, {
            LAUNCH(route_forward_kernel<T>, dim3(unsigned(r.n_tile)), dim3(N_THREAD), smem_bytes,
                   stream_of(be), in<T>(a->logits), r);
        });
        CHECK_LAUNCH(be, "route_forward");
    }
    /* Without tokens one block still writes the offsets. */
    LAUNCH(route_sort_kernel, dim3(unsigned(max(r.n_tile, int64_t(1)))), dim3(N_THREAD),
           2 * smem_bytes, stream_of(be), r);
    CHECK_LAUNCH(be, "route_forward");
}

extern "C" void cuda_route_backward(struct backend *be, const struct route_args *a, void *)
{
    if (a->n_tok == 0)
        return;
    WITH_ACT(be, T, {
        LAUNCH(route_backward_kernel<T>, dim3(unsigned(blocks_for(a->n_tok, N_WARP))),
               dim3(N_THREAD), 0, stream_of(be), *a, out<T>(a->dlogits));
    });
    CHECK_LAUNCH(be, "route_backward");
}

/* The int32s come into the host's array and are widened there, the last first. */
extern "C" void cuda_route_counts(struct backend *be, const struct route_counts_args *a, void *)
{
    const char *narrow = reinterpret_cast<const char *>(a->host);
    cuda_read_back(be, "route_counts", a->offset, a->host,
                   size_t(a->n_expert + 1) * sizeof(int32_t));
    for (int64_t e = a->n_expert; e >= 0; e--) {
        int32_t first;
        memcpy(&first, narrow + size_t(e) * sizeof first, sizeof first);
        a->host[e] = first;
    }
}

/* Scratch: the four arrays of struct aux_parts. */
extern "C" void cuda_aux_sums(struct backend *be, const struct aux_sums_args *a, void *scratch)
{
    if (a->n_tok == 0)
        return;
    const int64_t n_tile = blocks_for(a->n_tok, AUX_TILE), n = n_tile * a->n_expert;
    float *at = static_cast<float *>(scratch);
    const struct aux_parts part = { at, at + n, at + 2 * n, at + 3 * n, n_tile };
    const dim3 grid(unsigned(blocks_for(n, N_THREAD))), block(N_THREAD);
    LAUNCH(aux_tiles_kernel, grid, block, 0, stream_of(be), *a, part);
    CHECK_LAUNCH(be, "aux_sums");
    LAUNCH(aux_join_kernel, grid, block, 0, stream_of(be), *a, part);
    CHECK_LAUNCH(be, "aux_sums");
}

extern "C" void cuda_aux_loss(struct backend *be, const struct aux_loss_args *a, void *)
{
    LAUNCH(aux_loss_kernel, dim3(1), dim3(N_THREAD), 0, stream_of(be), *a);
    CHECK_LAUNCH(be, "aux_loss");
}

extern "C" void cuda_gather_rows(struct backend *be, const struct gather_rows_args *a, void *)
{
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, {
        if (rows_aligned(in<T>(a->x), a->dim) && rows_aligned(in<T>(a->y), a->dim))
            gather_rows<T, vector_of<T>::N>(be, a);
        else
            gather_rows<T, 1>(be, a);
    });
    CHECK_LAUNCH(be, "gather_rows");
}

extern "C" void cuda_combine(struct backend *be, const struct combine_args *a, void *)
{
    if (a->n_tok == 0)
        return;
    WITH_ACT(be, T, {
        if (rows_aligned(in<T>(a->x), a->dim) && rows_aligned(in<T>(a->y), a->dim) &&
            rows_aligned(in<T>(a->base), a->dim))
            combine<T, vector_of<T>::N>(be, a);
        else
            combine<T, 1>(be, a);
    });
    CHECK_LAUNCH(be, "combine");
}

extern "C" void cuda_row_dot(struct backend *be, const struct row_dot_args *a, void *)
{
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, {
        if (rows_aligned(in<T>(a->x), a->dim) && rows_aligned(in<T>(a->y), a->dim))
            row_dot<T, vector_of<T>::N>(be, a);
        else
            row_dot<T, 1>(be, a);
    });
    CHECK_LAUNCH(be, "row_dot");
}
