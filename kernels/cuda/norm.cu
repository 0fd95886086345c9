/* RMSNorm, with the residual add before it fused in; backward into dx += in one pass.
 *
 * A row belongs to `width` threads (a power of two, chosen from dim alone), each with up to four or
 * five vectors of 16 bytes that stay in registers: a row is read once. Up to 32 threads the row's
 * sums are shuffles and a block holds several rows (Mamba's inner norms: dims 16, 160 and 256 in
 * 1, 4 and 8 lanes); beyond, one barrier joins the warps' sums (dim 2560: 64 threads, two rows a
 * block; dim 4096: 128). A thread has 4 to 15 loads in flight before its first use.
 * Rows that are not aligned, or too long for the registers, take a plain two-pass kernel, a warp a
 * row.
 *
 * Bytes per element in bf16 (f32 twice that): forward 4, with the residual 8 (x, residual, sum, y);
 * backward 8 (x, dy, dx twice). w stays in L1. Bound: memory.
 */
#include "kernels/cuda/vector.cuh"

namespace
{

enum {
    NORM_THREADS = 128,
    NORM_MAX_WIDTH = 512,
    NORM_MAX_WARPS = NORM_MAX_WIDTH / 32,
};

template <typename T> struct norm_args {
    const T *x, *residual, *dy;
    const float *w;
    T *y, *sum, *dx;
    int64_t n_row, ldx, ldy;
    int dim, log_width; /* 2^log_width threads a row */
    float eps, inverse_dim;
};

/* Which row and which of its threads this one is. */
struct norm_place {
    int64_t row;
    int lane;
};

__device__ __forceinline__ norm_place place_of(int log_width)
{
    const int thread = int(threadIdx.x), n_row = int(blockDim.x) >> log_width;
    return { int64_t(blockIdx.x) * n_row + (thread >> log_width), thread & ((1 << log_width) - 1) };
}

/* The sums of v over the threads of a row, in each of them: within each warp, then over those. */
template <int N> __device__ __forceinline__ void row_sums(float (&v)[N], int log_width)
{
    SHARED_ARRAY(float, partial, [N][NORM_MAX_WARPS]);
    for (int offset = 1 << (log_width < 5 ? log_width : 5) >> 1; offset > 0; offset >>= 1) {
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] += __shfl_xor_sync(FULL_WARP, v[k], offset);
    }
    if (log_width <= 5) /* so for the whole block */
        return;
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int n_warp = 1 << (log_width - 5), first = warp & -n_warp;
#pragma unroll
    for (int k = 0; k < N; k++) {
        if (lane == 0)
            partial[k][warp] = v[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = partial[k][first + (lane & (n_warp - 1))];
    for (int offset = n_warp >> 1; offset > 0; offset >>= 1) {
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] += __shfl_xor_sync(FULL_WARP, v[k], offset);
    }
}

/* What follows loads and widens again: a row of floats held over the sums costs registers that more
 * loads in flight are worth more than. */
template <typename T, int N> __device__ __forceinline__ void stay_packed(packed<T, N> &p)
{
#ifdef __CUDA_ARCH__
    static_assert(sizeof(p) == 16, "four words");
    asm volatile(""
                 : "+r"(p.word[0]), "+r"(p.word[1]), "+r"(p.word[2]), "+r"(p.word[3])
                 :
                 : "memory");
#else
    (void)p;
#endif
}

/* V: vectors of a thread. */
template <typename T, int V, bool RESIDUAL>
__global__ void __launch_bounds__(NORM_MAX_WIDTH) rmsnorm_forward_kernel(norm_args<T> a)
{
    constexpr int N = vector_of<T>::N;
    const norm_place place = place_of(a.log_width);
    const int64_t row = place.row;
    packed<T, N> x[V], residual[V];
    bool have[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        const int j = (place.lane + (k << a.log_width)) * N;
        have[k] = row < a.n_row && j < a.dim;
        x[k] = have[k] ? load_packed<N>(a.x + row * a.ldx + j) : packed_zero<T, N>();
        if (RESIDUAL)
            residual[k] =
                have[k] ? load_packed<N>(a.residual + row * a.dim + j) : packed_zero<T, N>();
    }

    float squares[1] = { 0 };
#pragma unroll
    for (int k = 0; k < V; k++) {
        float v[N];
        widen(x[k], v);
        if (RESIDUAL) {
            float r[N];
            widen(residual[k], r);
#pragma unroll
            for (int l = 0; l < N; l++)
                v[l] += r[l];
            x[k] = narrow<T>(v);
            if (have[k])
                store_packed(a.sum + row * a.dim + (place.lane + (k << a.log_width)) * N, x[k]);
            widen(x[k], v); /* the norm is of the sum as it was rounded */
        }
#pragma unroll
        for (int l = 0; l < N; l++)
            squares[0] += v[l] * v[l];
    }
    row_sums(squares, a.log_width);
    const float inv = rsqrtf(squares[0] * a.inverse_dim + a.eps);

#pragma unroll
    for (int k = 0; k < V; k++) {
        if (!have[k])
            continue;
        const int j = (place.lane + (k << a.log_width)) * N;
        float v[N], w[N];
        widen(x[k], v);
        load_floats(a.w + j, w);
#pragma unroll
        for (int l = 0; l < N; l++)
            v[l] = v[l] * inv * w[l];
        store_packed(a.y + row * a.ldy + j, narrow<T>(v));
    }
}

/* With q = dy w and i the inverse root: dx += i (q - x i^2 mean(q x)). */
template <typename T, int V>
__global__ void __launch_bounds__(NORM_MAX_WIDTH) rmsnorm_backward_kernel(norm_args<T> a)
{
    constexpr int N = vector_of<T>::N;
    const norm_place place = place_of(a.log_width);
    const int64_t row = place.row;
    packed<T, N> x[V], dy[V], dx[V];
    bool have[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        const int j = (place.lane + (k << a.log_width)) * N;
        have[k] = row < a.n_row && j < a.dim;
        x[k] = have[k] ? load_packed<N>(a.x + row * a.ldx + j) : packed_zero<T, N>();
        dy[k] = have[k] ? load_packed<N>(a.dy + row * a.ldy + j) : packed_zero<T, N>();
        dx[k] = have[k] ? load_packed<N>(a.dx + row * a.ldx + j) : packed_zero<T, N>();
    }

    float sums[2] = { 0, 0 }; /* of x^2, of q x */
#pragma unroll
    for (int k = 0; k < V; k++) {
        if (!have[k])
            continue;
        float v[N], q[N], w[N];
        widen(x[k], v);
        widen(dy[k], q);
        load_floats(a.w + (place.lane + (k << a.log_width)) * N, w);
#pragma unroll
        for (int l = 0; l < N; l++) {
            sums[0] += v[l] * v[l];
            sums[1] += q[l] * w[l] * v[l];
        }
    }
    row_sums(sums, a.log_width);
    const float inv = rsqrtf(sums[0] * a.inverse_dim + a.eps);
    const float back = inv * inv * sums[1] * a.inverse_dim;

#pragma unroll
    for (int k = 0; k < V; k++) {
        if (!have[k])
            continue;
        const int j = (place.lane + (k << a.log_width)) * N;
        float v[N], q[N], w[N], sum[N];
        stay_packed(x[k]);
        stay_packed(dy[k]);
        widen(x[k], v);
        widen(dy[k], q);
        widen(dx[k], sum);
        load_floats(a.w + j, w);
#pragma unroll
        for (int l = 0; l < N; l++)
            sum[l] += inv * (q[l] * w[l] - back * v[l]);
        store_packed(a.dx + row * a.ldx + j, narrow<T>(sum));
    }
}

/* Any rows: a warp each, read twice. */
template <typename T>
__global__ void __launch_bounds__(NORM_THREADS) rmsnorm_forward_plain_kernel(norm_args<T> a)
{
    const int64_t row = int64_t(blockIdx.x) * (NORM_THREADS / 32) + threadIdx.x / 32;
    const int lane = int(threadIdx.x) % 32, dim = row < a.n_row ? a.dim : 0;
    const T *x = a.x + row * a.ldx;
    if (a.residual != nullptr) {
        for (int j = lane; j < dim; j += 32)
            a.sum[row * a.dim + j] =
                from_float<T>(to_float(x[j]) + to_float(a.residual[row * a.dim + j]));
        x = a.sum + row * a.dim; /* each lane reads what it wrote */
    }
    float squares = 0;
    for (int j = lane; j < dim; j += 32) {
        const float v = to_float(x[j]);
        squares += v * v;
    }
    const float inv = rsqrtf(lanes_sum<32>(squares) * a.inverse_dim + a.eps);
    for (int j = lane; j < dim; j += 32)
        a.y[row * a.ldy + j] = from_float<T>(to_float(x[j]) * inv * a.w[j]);
}

template <typename T>
__global__ void __launch_bounds__(NORM_THREADS) rmsnorm_backward_plain_kernel(norm_args<T> a)
{
    const int64_t row = int64_t(blockIdx.x) * (NORM_THREADS / 32) + threadIdx.x / 32;
    const int lane = int(threadIdx.x) % 32, dim = row < a.n_row ? a.dim : 0;
    const T *x = a.x + row * a.ldx, *dy = a.dy + row * a.ldy;
    float squares = 0, sum = 0;
    for (int j = lane; j < dim; j += 32) {
        const float v = to_float(x[j]);
        squares += v * v;
        sum += to_float(dy[j]) * a.w[j] * v;
    }
    const float inv = rsqrtf(lanes_sum<32>(squares) * a.inverse_dim + a.eps);
    const float back = inv * inv * lanes_sum<32>(sum) * a.inverse_dim;
    for (int j = lane; j < dim; j += 32) {
        T *dx = a.dx + row * a.ldx + j;
        *dx =
            from_float<T>(to_float(*dx) + inv * (to_float(dy[j]) * a.w[j] - back * to_float(x[j])));
    }
}

template <typename T> norm_args<T> norm_args_of(const struct rmsnorm_args *a)
{
    norm_args<T> n = {};
    n.x = in<T>(a->x);
    n.residual = in<T>(a->residual);
    n.dy = in<T>(a->dy);
    n.w = a->w;
    n.y = out<T>(a->y);
    n.sum = out<T>(a->sum);
    n.dx = out<T>(a->dx);
    n.n_row = a->n_row;
    n.ldx = a->ldx != 0 ? a->ldx : a->dim;
    n.ldy = a->ldy != 0 ? a->ldy : a->dim;
    n.dim = int(a->dim);
    n.eps = float(a->eps);
    n.inverse_dim = float(1 / double(a->dim));
    return n;
}

/* The fewest slots for the row's vectors: 4, 5, 8, 10, 16, 20, ... Returns a thread's vectors; 0:
 * the row does not fit in the registers of a block. */
template <typename T> int choose_width(norm_args<T> *a)
{
    const int n_vector = a->dim / vector_of<T>::N;
    for (a->log_width = 0; 1 << a->log_width <= NORM_MAX_WIDTH; a->log_width++) {
        for (int v = 4; v <= 5; v++) {
            if (v << a->log_width >= n_vector)
                return v;
        }
    }
    return 0;
}

template <typename T> bool in_vectors(const norm_args<T> &a)
{
    return a.dim % vector_of<T>::N == 0 && aligned_16(a.w) && rows_aligned(a.x, a.ldx);
}

template <typename T> dim3 block_of(const norm_args<T> &a)
{
    const unsigned width = 1u << a.log_width;
    return dim3(width > NORM_THREADS ? width : unsigned(NORM_THREADS));
}

template <typename T, int V, bool RESIDUAL>
void launch_forward(struct backend *be, const norm_args<T> &a)
{
    const dim3 block = block_of(a), grid(unsigned(blocks_for(a.n_row, block.x >> a.log_width)));
    LAUNCH((rmsnorm_forward_kernel<T, V, RESIDUAL>), grid, block, 0, stream_of(be), a);
}

template <typename T, int V> void launch_backward(struct backend *be, const norm_args<T> &a)
{
    const dim3 block = block_of(a), grid(unsigned(blocks_for(a.n_row, block.x >> a.log_width)));
    LAUNCH((rmsnorm_backward_kernel<T, V>), grid, block, 0, stream_of(be), a);
}

template <typename T> void forward(struct backend *be, norm_args<T> a)
{
    const bool residual = a.residual != nullptr;
    const bool vectors = in_vectors(a) && rows_aligned(a.y, a.ldy) &&
                         (!residual || (aligned_16(a.residual) && aligned_16(a.sum)));
    const int v = vectors ? choose_width(&a) : 0;
    if (v == 4 && residual) {
        launch_forward<T, 4, true>(be, a);
    } else if (v == 4) {
        launch_forward<T, 4, false>(be, a);
    } else if (v == 5 && residual) {
        launch_forward<T, 5, true>(be, a);
    } else if (v == 5) {
        launch_forward<T, 5, false>(be, a);
    } else {
        const dim3 grid(unsigned(blocks_for(a.n_row, NORM_THREADS / 32))), block(NORM_THREADS);
        LAUNCH((rmsnorm_forward_plain_kernel<T>), grid, block, 0, stream_of(be), a);
    }
}

template <typename T> void backward(struct backend *be, norm_args<T> a)
{
    const bool vectors = in_vectors(a) && rows_aligned(a.dy, a.ldy) && aligned_16(a.dx);
    const int v = vectors ? choose_width(&a) : 0;
    if (v == 4) {
        launch_backward<T, 4>(be, a);
    } else if (v == 5) {
        launch_backward<T, 5>(be, a);
    } else {
        const dim3 grid(unsigned(blocks_for(a.n_row, NORM_THREADS / 32))), block(NORM_THREADS);
        LAUNCH((rmsnorm_backward_plain_kernel<T>), grid, block, 0, stream_of(be), a);
    }
}

} // namespace

extern "C" void cuda_rmsnorm_forward(struct backend *be, const struct rmsnorm_args *a,
                                     void *scratch)
{
    (void)scratch;
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, { forward(be, norm_args_of<T>(a)); });
    CHECK_LAUNCH(be, "rmsnorm_forward");
}

extern "C" void cuda_rmsnorm_backward(struct backend *be, const struct rmsnorm_args *a,
                                      void *scratch)
{
    (void)scratch;
    if (a->n_row == 0)
        return;
    WITH_ACT(be, T, { backward(be, norm_args_of<T>(a)); });
    CHECK_LAUNCH(be, "rmsnorm_backward");
}
