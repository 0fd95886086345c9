/* Causal depthwise convolution with SiLU, token-major.
 *
 * With d_conv 4 a thread owns N channels (16 bytes of activations, or one channel where pointers
 * are not aligned) and walks a run of tokens with the last three input rows in registers; a block
 * owns CHANNEL_THREADS * N channels of one run. Taps before the chunk come from the carry, taps
 * before the document's start are left out. The backward walks three tokens past its run, so that
 * every row of dx is finished by one thread: the activation's gradient of those tokens is computed
 * twice, and nothing passes through memory.
 *
 * Bytes a token and channel in bfloat16: forward 2 read, 2 written; backward 4 read (x, dy), 2
 * written. On top, mostly from the L2, for a run of 32 tokens: three rows of x (backward nine of x
 * and dy together) and 20 bytes of weights a channel. Bound by memory: about 22 instructions an
 * element forward and 33 backward take 60 % of that time.
 *
 * Any other d_conv: a thread an element, every tap from memory; no model in use has one.
 *
 * carry_out may be carry_in and dcarry_in may be dcarry_out, which other blocks still read: they
 * are written by a kernel of their own, behind the first.
 */
#include "kernels/cuda/vector.cuh"

namespace
{

constexpr int CHANNEL_THREADS = 128;
constexpr int TAPS = 4; /* d_conv of the fast kernels, and the tokens they load together */

/* struct conv1d_args with the activations' type. */
template <typename T> struct conv {
    const T *x, *carry_in, *dy;
    T *y, *carry_out, *dx;
    const int32_t *pos;
    const float *w, *b, *dcarry_out;
    float *dcarry_in;
    int64_t n_tok, d_inner, d_conv, ldx, lddx;
    int64_t run, n_strip; /* tokens a thread walks; blocks side by side over the channels */
};

/* ---- d_conv 4 ----
 *
 * Rows of registers in use by turns: row (j + q) % TAPS is token j's tap q, the input TAPS-1-q
 * tokens back, for j = 0 .. TAPS-1. After TAPS tokens the turns begin anew, so that nothing is ever
 * moved. */

/* Row t of the input, t < 0 in the carry. */
template <typename T, int N>
__device__ __forceinline__ packed<T, N> load_input(const struct conv<T> &c, int64_t t, int64_t d)
{
    const T *row = t >= 0 ? c.x + t * c.ldx : c.carry_in + (TAPS - 1 + t) * c.d_inner;
    return load_packed<N>(row + d);
}

/* w[q] multiplies the input TAPS-1-q tokens back. */
template <int N> struct taps {
    float w[TAPS][N], b[N];
};

template <typename T, int N>
__device__ __forceinline__ void load_taps(const struct conv<T> &c, int64_t d, struct taps<N> &k)
{
    for (int q = 0; q < TAPS; q++)
        load_floats(c.w + q * c.d_inner + d, k.w[q]);
    load_floats(c.b + d, k.b);
}

/* The rows before token t0 that its document reaches back to; the others are never used. */
template <typename T, int N>
__device__ __forceinline__ void load_past(const struct conv<T> &c, int64_t t0, int64_t d,
                                          float (&rows)[TAPS][N])
{
    const int32_t pos = c.pos[t0];
    for (int q = 0; q < TAPS - 1; q++) {
        packed<T, N> raw = packed_zero<T, N>();
        if (TAPS - 1 - q <= pos)
            raw = load_input<T, N>(c, t0 - (TAPS - 1 - q), d);
        widen(raw, rows[q]);
    }
}

/* v = b + the sum of token j's taps, oldest first. */
template <int N>
__device__ __forceinline__ void convolve(const struct taps<N> &k, const float (&rows)[TAPS][N],
                                         int j, int32_t pos, float (&v)[N])
{
    for (int i = 0; i < N; i++)
        v[i] = k.b[i];
#pragma unroll
    for (int q = 0; q < TAPS; q++) {
        if (TAPS - 1 - q <= pos) {
            for (int i = 0; i < N; i++)
                v[i] += k.w[q][i] * rows[(j + q) % TAPS][i];
        }
    }
}

template <typename T, int N>
__global__ void __launch_bounds__(CHANNEL_THREADS) conv1d_forward_kernel(const struct conv<T> c)
{
    const int64_t strip = blockIdx.x % unsigned(c.n_strip), run = blockIdx.x / unsigned(c.n_strip);
    const int64_t d = (strip * CHANNEL_THREADS + int64_t(threadIdx.x)) * N;
    if (d >= c.d_inner)
        return;
    const int64_t t0 = run * c.run, end = min(t0 + c.run, c.n_tok);
    struct taps<N> k;
    load_taps<T, N>(c, d, k);
    float rows[TAPS][N];
    load_past<T, N>(c, t0, d, rows);
    for (int64_t t = t0; t < end; t += TAPS) {
        packed<T, N> x[TAPS];
        int32_t pos[TAPS];
#pragma unroll
        for (int j = 0; j < TAPS; j++) {
            if (t + j < end) {
                x[j] = load_input<T, N>(c, t + j, d);
                pos[j] = c.pos[t + j];
            }
        }
#pragma unroll
        for (int j = 0; j < TAPS; j++) {
            if (t + j < end) {
                float v[N];
                widen(x[j], rows[(j + TAPS - 1) % TAPS]);
                convolve<N>(k, rows, j, pos[j], v);
                for (int i = 0; i < N; i++)
                    v[i] = silu(v[i]);
                store_packed(c.y + (t + j) * c.d_inner + d, narrow<T>(v));
            }
        }
    }
}

/* v = dy silu'(v). */
template <int N> __device__ __forceinline__ void through_silu(const float (&dy)[N], float (&v)[N])
{
    for (int i = 0; i < N; i++) {
        const float s = sigmoid(v[i]);
        v[i] = dy[i] * s * (1.0f + v[i] * (1.0f - s));
    }
}

/* What the next chunk's taps asked of token t, or zeros. */
template <typename T, int N>
__device__ __forceinline__ void start_gradient(const struct conv<T> &c, int64_t t, int64_t d,
                                               float (&dx)[N])
{
    for (int i = 0; i < N; i++)
        dx[i] = 0;
    const int64_t row = t - (c.n_tok - (TAPS - 1));
    if (row >= 0 && t < c.n_tok && c.dcarry_out != nullptr)
        load_floats(c.dcarry_out + row * c.d_inner + d, dx);
}

/* dx[t] = sum over q of w[q] dv[t + TAPS-1-q]: sums wait in registers, in turns as rows do, until
 * the token that completes them has been read. */
template <typename T, int N>
__global__ void __launch_bounds__(CHANNEL_THREADS, 3) conv1d_backward_kernel(const struct conv<T> c)
{
    const int64_t strip = blockIdx.x % unsigned(c.n_strip), run = blockIdx.x / unsigned(c.n_strip);
    const int64_t d = (strip * CHANNEL_THREADS + int64_t(threadIdx.x)) * N;
    if (d >= c.d_inner)
        return;
    const int64_t t0 = run * c.run, end = min(t0 + c.run, c.n_tok);
    struct taps<N> k;
    load_taps<T, N>(c, d, k);
    float rows[TAPS][N], sums[TAPS][N] = {};
    load_past<T, N>(c, t0, d, rows);
    for (int64_t t = t0; t < end + TAPS - 1; t += TAPS) {
        packed<T, N> x[TAPS], dy[TAPS];
        int32_t pos[TAPS];
#pragma unroll
        for (int j = 0; j < TAPS; j++) {
            pos[j] = -1; /* past the chunk, or of no use to the run: no taps */
            if (t + j < min(end + TAPS - 1, c.n_tok)) {
                x[j] = load_input<T, N>(c, t + j, d);
                dy[j] = load_packed<N>(c.dy + (t + j) * c.d_inner + d);
                pos[j] = c.pos[t + j];
            }
        }
#pragma unroll
        for (int j = 0; j < TAPS; j++) {
            start_gradient<T, N>(c, t + j, d, sums[(j + TAPS - 1) % TAPS]);
            if (pos[j] >= 0) {
                float g[N], dv[N];
                widen(x[j], rows[(j + TAPS - 1) % TAPS]);
                widen(dy[j], g);
                convolve<N>(k, rows, j, pos[j], dv);
                through_silu<N>(g, dv);
#pragma unroll
                for (int q = 0; q < TAPS; q++) {
                    if (TAPS - 1 - q <= pos[j]) {
                        for (int i = 0; i < N; i++)
                            sums[(j + q) % TAPS][i] += k.w[q][i] * dv[i];
                    }
                }
            }
            const int64_t done = t + j - (TAPS - 1);
            if (done >= t0 && done < end)
                store_packed(c.dx + done * c.lddx + d, narrow<T>(sums[j]));
        }
    }
}

/* ---- any d_conv, an element a thread ---- */

template <typename T>
__device__ __forceinline__ float input_at(const struct conv<T> &c, int64_t t, int64_t d)
{
    return to_float(t >= 0 ? c.x[t * c.ldx + d] : c.carry_in[(c.d_conv - 1 + t) * c.d_inner + d]);
}

template <typename T>
__device__ __forceinline__ float activation_at(const struct conv<T> &c, int64_t t, int64_t d)
{
    float v = c.b[d];
    for (int64_t j = min(c.d_conv - 1, int64_t(c.pos[t])); j >= 0; j--)
        v += c.w[(c.d_conv - 1 - j) * c.d_inner + d] * input_at(c, t - j, d);
    return v;
}

/* The gradient at input t, in the chunk or (t < 0) before it. */
template <typename T> __device__ float gradient_at(const struct conv<T> &c, int64_t t, int64_t d)
{
    const int64_t row = t - (c.n_tok - (c.d_conv - 1));
    float dx = row >= 0 && c.dcarry_out != nullptr ? c.dcarry_out[row * c.d_inner + d] : 0.0f;
    for (int64_t j = t < 0 ? -t : 0; j < c.d_conv && t + j < c.n_tok; j++) {
        if (c.pos[t + j] < j)
            break; /* a document starts between: nothing further reaches back */
        const float v[1] = { to_float(c.dy[(t + j) * c.d_inner + d]) };
        float dv[1] = { activation_at(c, t + j, d) };
        through_silu<1>(v, dv);
        dx += c.w[(c.d_conv - 1 - j) * c.d_inner + d] * dv[0];
    }
    return dx;
}

template <typename T, bool BACKWARD>
__global__ void __launch_bounds__(CHANNEL_THREADS) conv1d_any_kernel(const struct conv<T> c)
{
    const int64_t d = int64_t(blockIdx.x % unsigned(c.n_strip)) * CHANNEL_THREADS + threadIdx.x;
    const int64_t t = blockIdx.x / unsigned(c.n_strip);
    if (d >= c.d_inner)
        return;
    if (BACKWARD)
        c.dx[t * c.lddx + d] = from_float<T>(gradient_at(c, t, d));
    else
        c.y[t * c.d_inner + d] = from_float<T>(silu(activation_at(c, t, d)));
}

/* The last d_conv-1 inputs; shifted through, ascending, when the chunk is shorter than that. */
template <typename T> __global__ void conv1d_carry_forward_kernel(const struct conv<T> c)
{
    const int64_t d = int64_t(blockIdx.x) * CHANNEL_THREADS + threadIdx.x;
    for (int64_t row = 0; row < c.d_conv - 1 && d < c.d_inner; row++) {
        const int64_t t = c.n_tok - (c.d_conv - 1) + row;
        c.carry_out[row * c.d_inner + d] =
            t >= 0 ? c.x[t * c.ldx + d] : c.carry_in[(c.d_conv - 1 + t) * c.d_inner + d];
    }
}

/* Descending: dcarry_in may be dcarry_out. */
template <typename T> __global__ void conv1d_carry_backward_kernel(const struct conv<T> c)
{
    const int64_t d = int64_t(blockIdx.x) * CHANNEL_THREADS + threadIdx.x;
    for (int64_t row = c.d_conv - 2; row >= 0 && d < c.d_inner; row--)
        c.dcarry_in[row * c.d_inner + d] = gradient_at(c, row - (c.d_conv - 1), d);
}

/* ---- launches ---- */

template <typename T> struct conv<T> conv_of(const struct conv1d_args *a) {
    struct conv<T> c = {
    };
    c.x = in<T>(a->x), c.carry_in = in<T>(a->carry_in), c.dy = in<T>(a->dy);
    c.y = out<T>(a->y), c.carry_out = out<T>(a->carry_out), c.dx = out<T>(a->dx);
    c.pos = a->pos;
    c.w = a->w, c.b = a->b, c.dcarry_out = a->dcarry_out;
    c.dcarry_in = a->dcarry_in;
    c.n_tok = a->n_tok, c.d_inner = a->d_inner, c.d_conv = a->d_conv;
    c.ldx = a->ldx, c.lddx = a->lddx;
    return c;
}

/* Tokens a thread walks: short runs where long ones would leave processors idle. No sum depends on
 * it. */
int64_t
run_length(int64_t n_tok, int64_t n_strip)
{
    return n_tok * n_strip >= 32 * 1024 ? 32 : 8;
}

template <typename T> bool may_load_vectors(const struct conv<T> &c, bool backward)
{
    const bool common = rows_aligned(c.x, c.ldx) && rows_aligned(c.carry_in, c.d_inner) &&
                        rows_aligned(c.w, c.d_inner) && rows_aligned(c.b, 0);
    return common && (backward ? rows_aligned(c.dy, c.d_inner) && rows_aligned(c.dx, c.lddx) &&
                                     rows_aligned(c.dcarry_out, c.d_inner)
                               : rows_aligned(c.y, c.d_inner));
}

/* A grid's size along x, for blocks of N channels a thread over all tokens. */
template <typename T> dim3 walk_grid(struct conv<T> &c, int n)
{
    c.n_strip = blocks_for(c.d_inner, int64_t(CHANNEL_THREADS) * n);
    c.run = run_length(c.n_tok, c.n_strip);
    return dim3(unsigned(blocks_for(c.n_tok, c.run) * c.n_strip));
}

template <typename T> dim3 element_grid(struct conv<T> &c)
{
    c.n_strip = blocks_for(c.d_inner, CHANNEL_THREADS);
    return dim3(unsigned(c.n_tok * c.n_strip));
}

template <typename T> void conv_forward(struct backend *be, const struct conv1d_args *a)
{
    constexpr int N = vector_of<T>::N;
    const dim3 block(CHANNEL_THREADS);
    struct conv<T> c = conv_of<T>(a);
    if (c.n_tok > 0) {
        if (c.d_conv == TAPS && may_load_vectors(c, false)) {
            const dim3 grid = walk_grid(c, N);
            LAUNCH((conv1d_forward_kernel<T, N>), grid, block, 0, stream_of(be), c);
        } else if (c.d_conv == TAPS) {
            const dim3 grid = walk_grid(c, 1);
            LAUNCH((conv1d_forward_kernel<T, 1>), grid, block, 0, stream_of(be), c);
        } else {
            const dim3 grid = element_grid(c);
            LAUNCH((conv1d_any_kernel<T, false>), grid, block, 0, stream_of(be), c);
        }
        CHECK_LAUNCH(be, "conv1d_forward");
    }
    if (c.carry_out != nullptr && c.d_conv > 1) {
        const dim3 grid(unsigned(blocks_for(c.d_inner, CHANNEL_THREADS)));
        LAUNCH(conv1d_carry_forward_kernel<T>, grid, block, 0, stream_of(be), c);
        CHECK_LAUNCH(be, "conv1d_forward");
    }
}

template <typename T> void conv_backward(struct backend *be, const struct conv1d_args *a)
{
    constexpr int N = vector_of<T>::N;
    const dim3 block(CHANNEL_THREADS);
    struct conv<T> c = conv_of<T>(a);
    if (c.n_tok > 0) {
        if (c.d_conv == TAPS && may_load_vectors(c, true)) {
            const dim3 grid = walk_grid(c, N);
            LAUNCH((conv1d_backward_kernel<T, N>), grid, block, 0, stream_of(be), c);
        } else if (c.d_conv == TAPS) {
            const dim3 grid = walk_grid(c, 1);
            LAUNCH((conv1d_backward_kernel<T, 1>), grid, block, 0, stream_of(be), c);
        } else {
            const dim3 grid = element_grid(c);
            LAUNCH((conv1d_any_kernel<T, true>), grid, block, 0, stream_of(be), c);
        }
        CHECK_LAUNCH(be, "conv1d_backward");
    }
    if (c.dcarry_in != nullptr && c.d_conv > 1) {
        const dim3 grid(unsigned(blocks_for(c.d_inner, CHANNEL_THREADS)));
        LAUNCH(conv1d_carry_backward_kernel<T>, grid, block, 0, stream_of(be), c);
        CHECK_LAUNCH(be, "conv1d_backward");
    }
}

} // namespace

extern "C" void cuda_conv1d_forward(struct backend *be, const struct conv1d_args *a, void *)
{
    WITH_ACT(be, T, { conv_forward<T>(be, a); });
}

extern "C" void cuda_conv1d_backward(struct backend *be, const struct conv1d_args *a, void *)
{
    WITH_ACT(be, T, { conv_backward<T>(be, a); });
}
