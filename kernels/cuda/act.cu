/* Elementwise ops: SwiGLU, residual add, bias, dropout.
 *
 * swiglu and add: a thread owns two vectors of 16 bytes of every array, one block's stride apart,
 * and loads all of them (4 to 6) before it computes: outputs may be inputs. add_bias and dropout: a
 * warp owns 128 vectors of a row, four a lane.
 *
 * Bytes per element in bf16 (f32 twice that): swiglu forward 6 (gate, up, y), backward 10 (gate,
 * up, dy, dgate, dup), add 6, add_bias 4, dropout 4, 6 when it accumulates. Bound: memory. What an
 * H100 can issue in the time of an element's bytes (29.7e12 instructions a second, 3.35 TB/s), and
 * what sm_90's code issues at most: swiglu forward 53 and 29, backward 89 and 40, dropout 35 and 30
 * (ten rounds of Philox for four elements).
 */
#include "kernels/cuda/rng.cuh"
#include "kernels/cuda/vector.cuh"

namespace
{

enum { ELEMENT_THREADS = 256, ELEMENT_UNROLL = 2 };

/* The arrays of an elementwise op: F::N_IN read, F::N_OUT written. */
template <typename T, typename F> struct element_args {
    const T *in[F::N_IN];
    T *out[F::N_OUT];
    int64_t n;
};

struct add_element {
    static constexpr int N_IN = 2, N_OUT = 1;
    __device__ static __forceinline__ void at(const float (&x)[2], float (&y)[1])
    {
        y[0] = x[0] + x[1];
    }
};

/* 1 / (1 + e^-x), to about 4 ulp: __fdividef errs by 2 and takes no branch, so that the elements of
 * a vector overlap. It gives 0 where e^-x passes 2^126 (x < -87), and so does the true division
 * from 2^128 on. */
__device__ __forceinline__ float straight_sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + expf(-x));
}

struct swiglu_forward_element { /* gate, up -> y */
    static constexpr int N_IN = 2, N_OUT = 1;
    __device__ static __forceinline__ void at(const float (&x)[2], float (&y)[1])
    {
        y[0] = x[0] * straight_sigmoid(x[0]) * x[1];
    }
};

struct swiglu_backward_element { /* gate, up, dy -> dgate, dup */
    static constexpr int N_IN = 3, N_OUT = 2;
    __device__ static __forceinline__ void at(const float (&x)[3], float (&y)[2])
    {
        const float gate = x[0], up = x[1], dy = x[2], s = straight_sigmoid(gate);
        y[0] = dy * up * s * (1.0f + gate * (1.0f - s));
        y[1] = dy * gate * s;
    }
};

template <typename T, typename F>
__device__ __forceinline__ void one_element(const element_args<T, F> &a, int64_t i)
{
    float x[F::N_IN], y[F::N_OUT];
#pragma unroll
    for (int k = 0; k < F::N_IN; k++)
        x[k] = to_float(a.in[k][i]);
    F::at(x, y);
#pragma unroll
    for (int k = 0; k < F::N_OUT; k++)
        a.out[k][i] = from_float<T>(y[k]);
}

template <typename T, typename F, int N>
__device__ __forceinline__ void one_vector(const element_args<T, F> &a, int64_t i,
                                           const packed<T, N> (&raw)[F::N_IN])
{
    float x[F::N_IN][N], y[F::N_OUT][N];
#pragma unroll
    for (int k = 0; k < F::N_IN; k++)
        widen(raw[k], x[k]);
#pragma unroll
    for (int l = 0; l < N; l++) {
        float from[F::N_IN], to[F::N_OUT];
#pragma unroll
        for (int k = 0; k < F::N_IN; k++)
            from[k] = x[k][l];
        F::at(from, to);
#pragma unroll
        for (int k = 0; k < F::N_OUT; k++)
            y[k][l] = to[k];
    }
#pragma unroll
    for (int k = 0; k < F::N_OUT; k++)
        store_packed(a.out[k] + i, narrow<T>(y[k]));
}

/* N: elements of an access; 1 where the arrays are not aligned. */
template <typename T, typename F, int N>
__global__ void __launch_bounds__(ELEMENT_THREADS) element_kernel(element_args<T, F> a)
{
    packed<T, N> raw[ELEMENT_UNROLL][F::N_IN];
    int64_t first[ELEMENT_UNROLL];
#pragma unroll
    for (int u = 0; u < ELEMENT_UNROLL; u++) {
        const int64_t block = int64_t(blockIdx.x) * ELEMENT_UNROLL + u;
        first[u] = (block * ELEMENT_THREADS + threadIdx.x) * N;
        if (first[u] + N <= a.n) {
#pragma unroll
            for (int k = 0; k < F::N_IN; k++)
                raw[u][k] = load_packed<N>(a.in[k] + first[u]);
        }
    }
#pragma unroll
    for (int u = 0; u < ELEMENT_UNROLL; u++) {
        if (first[u] + N <= a.n) {
            one_vector<T, F, N>(a, first[u], raw[u]);
        } else {
#pragma unroll 1
            for (int l = 0; l < N; l++) { /* the last vector is not a whole one */
                if (first[u] + l < a.n)
                    one_element(a, first[u] + l);
            }
        }
    }
}

template <typename T, typename F>
void launch_elements(struct backend *be, const element_args<T, F> &a)
{
    bool aligned = true;
    for (int k = 0; k < F::N_IN; k++)
        aligned = aligned && aligned_16(a.in[k]);
    for (int k = 0; k < F::N_OUT; k++)
        aligned = aligned && aligned_16(a.out[k]);
    constexpr int N = vector_of<T>::N;
    const int64_t per_block = ELEMENT_THREADS * ELEMENT_UNROLL * (aligned ? N : 1);
    const dim3 grid(unsigned(blocks_for(a.n, per_block))), block(ELEMENT_THREADS);
    if (aligned)
        LAUNCH((element_kernel<T, F, N>), grid, block, 0, stream_of(be), a);
    else
        LAUNCH((element_kernel<T, F, 1>), grid, block, 0, stream_of(be), a);
}

template <typename T> struct bias_args {
    T *y;
    const float *bias;
    int64_t n_row, dim, ldy;
};

template <typename T, int N>
__global__ void __launch_bounds__(32 * ROW_TILE) add_bias_kernel(bias_args<T> a)
{
    const int64_t row = row_tile_row();
    packed<T, N> raw[ROW_TILE_UNROLL];
    bool have[ROW_TILE_UNROLL];
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        const int64_t j = row_tile_vector(u) * N;
        have[u] = row < a.n_row && j < a.dim;
        if (have[u])
            raw[u] = load_packed<N>(a.y + row * a.ldy + j);
    }
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        if (!have[u])
            continue;
        const int64_t j = row_tile_vector(u) * N;
        float y[N], bias[N];
        widen(raw[u], y);
        load_floats(a.bias + j, bias);
#pragma unroll
        for (int l = 0; l < N; l++)
            y[l] += bias[l];
        store_packed(a.y + row * a.ldy + j, narrow<T>(y));
    }
}

template <typename T> void launch_add_bias(struct backend *be, const bias_args<T> &a)
{
    constexpr int N = vector_of<T>::N;
    const bool aligned = a.dim % N == 0 && rows_aligned(a.y, a.ldy) && aligned_16(a.bias);
    const dim3 grid = row_tile_grid(a.n_row, aligned ? a.dim / N : a.dim), block = row_tile_block();
    if (aligned)
        LAUNCH((add_bias_kernel<T, N>), grid, block, 0, stream_of(be), a);
    else
        LAUNCH((add_bias_kernel<T, 1>), grid, block, 0, stream_of(be), a);
}

template <typename T> struct mask_args {
    const T *x;
    T *y;
    const int32_t *slot;
    int64_t n_row, dim, ldx, ldy, first_token;
    int32_t per_token;
    uint32_t below; /* an element is dropped when its 32 bits lie below */
    float keep;     /* what the others are multiplied by */
    uint64_t key, counter_high;
};

/* `left` elements of the row are left at x: whole vectors where rows are aligned. */
template <typename T, int N, bool ALIGNED>
__device__ __forceinline__ packed<T, N> load_row_part(const T *x, int64_t left)
{
    if constexpr (ALIGNED) {
        return load_packed<N>(x);
    } else {
        float v[N];
#pragma unroll
        for (int l = 0; l < N; l++)
            v[l] = l < left ? to_float(x[l]) : 0.0f;
        return narrow<T>(v);
    }
}

template <typename T, int N, bool ALIGNED>
__device__ __forceinline__ void store_row_part(T *y, int64_t left, const packed<T, N> &p)
{
    if constexpr (ALIGNED) {
        store_packed(y, p);
    } else {
        float v[N];
        widen(p, v);
#pragma unroll
        for (int l = 0; l < N; l++) {
            if (l < left)
                y[l] = from_float<T>(v[l]);
        }
    }
}

/* Elements j .. j + N of a row of `token`, j a multiple of four: one block of Philox each four. */
template <typename T, int N>
__device__ __forceinline__ packed<T, N> masked(const mask_args<T> &a, int64_t token, int64_t j,
                                               const packed<T, N> &x_raw, const packed<T, N> &y_raw,
                                               bool accumulate)
{
    float x[N], y[N];
    widen(x_raw, x);
    widen(y_raw, y);
#pragma unroll
    for (int l = 0; l < N; l += 4) {
        const struct rng_block r =
            philox(uint64_t((j + l) / 4) | uint64_t(token) << 24, a.counter_high, a.key);
#pragma unroll
        for (int m = 0; m < 4; m++) {
            const float v = r.v[m] < a.below ? 0.0f : x[l + m] * a.keep;
            y[l + m] = accumulate ? y[l + m] + v : v;
        }
    }
    return narrow<T>(y);
}

template <typename T, int N, bool ALIGNED, bool ACCUMULATE>
__global__ void __launch_bounds__(32 * ROW_TILE) dropout_kernel(mask_args<T> a)
{
    const int64_t row = row_tile_row();
    packed<T, N> x[ROW_TILE_UNROLL], y[ROW_TILE_UNROLL];
    bool have[ROW_TILE_UNROLL];
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        const int64_t j = row_tile_vector(u) * N;
        have[u] = row < a.n_row && j < a.dim;
        y[u] = packed_zero<T, N>();
        if (have[u]) {
            x[u] = load_row_part<T, N, ALIGNED>(a.x + row * a.ldx + j, a.dim - j);
            if (ACCUMULATE)
                y[u] = load_row_part<T, N, ALIGNED>(a.y + row * a.ldy + j, a.dim - j);
        }
    }
    int64_t token = a.first_token;
    if (row < a.n_row)
        token += a.slot == nullptr ? row : a.slot[row] / a.per_token;
#pragma unroll
    for (int u = 0; u < ROW_TILE_UNROLL; u++) {
        const int64_t j = row_tile_vector(u) * N;
        if (have[u])
            store_row_part<T, N, ALIGNED>(a.y + row * a.ldy + j, a.dim - j,
                                          masked(a, token, j, x[u], y[u], ACCUMULATE));
    }
}

template <typename T> mask_args<T> mask_args_of(const struct dropout_args *a)
{
    mask_args<T> m = {};
    m.x = in<T>(a->x);
    m.y = out<T>(a->y);
    m.slot = a->slot;
    m.n_row = a->n_row;
    m.dim = a->dim;
    m.ldx = a->ldx;
    m.ldy = a->ldy != 0 ? a->ldy : a->dim;
    m.first_token = a->first_token;
    m.per_token = int32_t(a->per_token);
    m.below = uint32_t(a->rate * 4294967296.0);
    m.keep = float(1 / (1 - a->rate));
    m.key = a->seed ^ uint64_t(RNG_DROPOUT) << 56;
    m.counter_high = uint64_t(uint32_t(a->step)) << 32 | uint32_t(a->target);
    return m;
}

template <typename T, int N, bool ALIGNED>
void launch_dropout(struct backend *be, const mask_args<T> &a, bool accumulate)
{
    const dim3 grid = row_tile_grid(a.n_row, blocks_for(a.dim, N)), block = row_tile_block();
    if (accumulate)
        LAUNCH((dropout_kernel<T, N, ALIGNED, true>), grid, block, 0, stream_of(be), a);
    else
        LAUNCH((dropout_kernel<T, N, ALIGNED, false>), grid, block, 0, stream_of(be), a);
}

template <typename T>
void choose_dropout(struct backend *be, const mask_args<T> &a, bool accumulate)
{
    constexpr int N = vector_of<T>::N;
    if (a.dim % N == 0 && rows_aligned(a.x, a.ldx) && rows_aligned(a.y, a.ldy))
        launch_dropout<T, N, true>(be, a, accumulate);
    else
        launch_dropout<T, 4, false>(be, a, accumulate);
}

} // namespace

extern "C" void cuda_swiglu_forward(struct backend *be, const struct swiglu_args *a, void *scratch)
{
    (void)scratch;
    if (a->n == 0)
        return;
    WITH_ACT(be, T, {
        launch_elements(be, element_args<T, swiglu_forward_element>{
                                { in<T>(a->gate), in<T>(a->up) }, { out<T>(a->y) }, a->n });
    });
    CHECK_LAUNCH(be, "swiglu_forward");
}

extern "C" void cuda_swiglu_backward(struct backend *be, const struct swiglu_args *a, void *scratch)
{
    (void)scratch;
    if (a->n == 0)
        return;
    WITH_ACT(be, T, {
        launch_elements(be, element_args<T, swiglu_backward_element>{
                                { in<T>(a->gate), in<T>(a->up), in<T>(a->dy) },
                                { out<T>(a->dgate), out<T>(a->dup) },
                                a->n });
    });
    CHECK_LAUNCH(be, "swiglu_backward");
}

extern "C" void cuda_add(struct backend *be, const struct add_args *a, void *scratch)
{
    (void)scratch;
    if (a->n == 0)
        return;
    WITH_ACT(be, T, {
        launch_elements(be, element_args<T, add_element>{
                                { in<T>(a->a), in<T>(a->b) }, { out<T>(a->y) }, a->n });
    });
    CHECK_LAUNCH(be, "add");
}

extern "C" void cuda_add_bias(struct backend *be, const struct add_bias_args *a, void *scratch)
{
    (void)scratch;
    if (a->n_row == 0 || a->dim == 0)
        return;
    WITH_ACT(be, T, {
        launch_add_bias(be, bias_args<T>{ out<T>(a->y), a->bias, a->n_row, a->dim, a->ldy });
    });
    CHECK_LAUNCH(be, "add_bias");
}

extern "C" void cuda_dropout(struct backend *be, const struct dropout_args *a, void *scratch)
{
    (void)scratch;
    if (a->n_row == 0 || a->dim == 0)
        return;
    WITH_ACT(be, T, { choose_dropout(be, mask_args_of<T>(a), a->accumulate); });
    CHECK_LAUNCH(be, "dropout");
}
