/* Causal depthwise convolution with SiLU, token-major; a task is a block of tokens over all
 * channels. Taps before the chunk come from the carry, taps before the document's start are zero.
 */
#include "kernels/cpu/variant.h"

enum { BLOCK_TOK = 16 };

/* The input row j tokens before t: in the chunk, or in the carry. */
static const real *input_row(const struct conv1d_args *a, int64_t t)
{
    return t >= 0 ? reals_in(a->x) + t * a->ldx
                  : reals_in(a->carry_in) + (a->d_conv - 1 + t) * a->d_inner;
}

/* v[t] = b + sum_j w[d_conv-1-j] x[t-j] */
static void convolve(const struct conv1d_args *a, int64_t t, real *restrict v)
{
    const int64_t n_tap = min_i64(a->d_conv, (int64_t)a->pos[t] + 1);
    memcpy(v, a->b, (size_t)a->d_inner * sizeof(real));
    for (int64_t j = n_tap - 1; j >= 0; j--) { /* oldest first, whatever the chunk */
        const real *restrict w = a->w + (a->d_conv - 1 - j) * a->d_inner;
        const real *restrict x = input_row(a, t - j);
#pragma omp simd
        for (int64_t d = 0; d < a->d_inner; d++)
            v[d] += w[d] * x[d];
    }
}

/* The last d_conv-1 inputs: shifted through when the chunk is shorter than that. */
static void carry_inputs(const struct conv1d_args *a)
{
    const int64_t n = a->d_conv - 1;
    const size_t row = (size_t)a->d_inner * sizeof(real);
    for (int64_t r = 0; r < n; r++) { /* ascending: carry_out may be carry_in */
        const int64_t t = a->n_tok - n + r;
        memmove(reals_of(a->carry_out) + r * a->d_inner, input_row(a, t), row);
    }
}

void CPU_OP(conv1d_forward)(struct backend *be, const struct conv1d_args *a, void *scratch)
{
    (void)scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t t0 = 0; t0 < a->n_tok; t0 += BLOCK_TOK) {
        const int64_t end = min_i64(t0 + BLOCK_TOK, a->n_tok);
        for (int64_t t = t0; t < end; t++) {
            real *y = reals_of(a->y) + t * a->d_inner;
            convolve(a, t, y);
#pragma omp simd
            for (int64_t d = 0; d < a->d_inner; d++)
                y[d] = y[d] * real_sigmoid(y[d]);
        }
    }
    if (a->carry_out != NULL)
        carry_inputs(a);
}

/* dx at chunk position t (negative: before it): sum_j w[d_conv-1-j] dv[t+j], over the tokens t+j of
 * this chunk that reach back j places within their document. */
static void gather_dx(const struct conv1d_args *a, const real *dv, int64_t t, real *restrict dx)
{
    for (int64_t j = t < 0 ? -t : 0; j < a->d_conv && t + j < a->n_tok; j++) {
        if (a->pos[t + j] < j)
            break; /* a document starts between: nothing further reaches back */
        const real *restrict w = a->w + (a->d_conv - 1 - j) * a->d_inner;
        const real *restrict g = dv + (t + j) * a->d_inner;
#pragma omp simd
        for (int64_t d = 0; d < a->d_inner; d++)
            dx[d] += w[d] * g[d];
    }
}

/* What the next chunk's taps asked of position t, or zeros. */
static void start_dx(const struct conv1d_args *a, int64_t t, real *dx)
{
    const int64_t r = t - (a->n_tok - (a->d_conv - 1)); /* row of dcarry_out */
    if (r >= 0 && a->dcarry_out != NULL)
        memmove(dx, a->dcarry_out + r * a->d_inner, (size_t)a->d_inner * sizeof(real));
    else
        memset(dx, 0, (size_t)a->d_inner * sizeof(real));
}

size_t CPU_OP(conv1d_backward_scratch)(const struct backend *be, const struct conv1d_args *a)
{
    (void)be;
    return (size_t)(a->n_tok * a->d_inner) * sizeof(real);
}

void CPU_OP(conv1d_backward)(struct backend *be, const struct conv1d_args *a, void *scratch)
{
    real *dv = scratch; /* (n_tok, d_inner): dy through the SiLU */
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t t = 0; t < a->n_tok; t++) {
        real *g = dv + t * a->d_inner;
        const real *dy = reals_in(a->dy) + t * a->d_inner;
        convolve(a, t, g);
#pragma omp simd
        for (int64_t d = 0; d < a->d_inner; d++) {
            const real v = g[d], s = real_sigmoid(v);
            g[d] = dy[d] * s * (1 + v * (1 - s));
        }
    }
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t t = 0; t < a->n_tok; t++) {
        real *dx = reals_of(a->dx) + t * a->lddx;
        start_dx(a, t, dx);
        gather_dx(a, dv, t, dx);
    }
    if (a->dcarry_in == NULL)
        return;
    const int64_t n = a->d_conv - 1;
    for (int64_t r = n - 1; r >= 0; r--) { /* descending: dcarry_in may be dcarry_out */
        real *dx = a->dcarry_in + r * a->d_inner;
        start_dx(a, r - n, dx);
        gather_dx(a, dv, r - n, dx);
    }
}
