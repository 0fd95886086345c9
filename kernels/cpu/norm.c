/* RMSNorm. One row is one task item; sums run in a fixed order, f32 sums are kept in LANES
 * partials. */
#include "kernels/cpu/variant.h"

/* Row i as the norm sees it: x, or its sum with the residual, which is written on the way. */
static const real *norm_row(const struct rmsnorm_args *a, int64_t i, int64_t ldx)
{
    const real *x = reals_in(a->x) + i * ldx;
    if (a->residual == NULL)
        return x;
    const real *residual = reals_in(a->residual) + i * a->dim;
    real *sum = reals_of(a->sum) + i * a->dim; /* may be x or residual */
#pragma omp simd
    for (int64_t j = 0; j < a->dim; j++)
        sum[j] = x[j] + residual[j];
    return sum;
}

static real inverse_rms(const real *x, int64_t dim, double eps)
{
    const double mean = (double)dot(x, x, dim) / (double)dim;
    return (real)(1 / sqrt(mean + eps));
}

void CPU_OP(rmsnorm_forward)(struct backend *be, const struct rmsnorm_args *a, void *scratch)
{
    (void)scratch;
    const int64_t ldx = a->ldx ? a->ldx : a->dim, ldy = a->ldy ? a->ldy : a->dim;
    const int64_t block = rows_per_task(a->dim);
#pragma omp parallel for num_threads(be->n_thread) schedule(static, block) if (a->n_row > block)
    for (int64_t i = 0; i < a->n_row; i++) {
        const real *x = norm_row(a, i, ldx);
        real *y = reals_of(a->y) + i * ldy;
        const real inv = inverse_rms(x, a->dim, a->eps);
#pragma omp simd
        for (int64_t j = 0; j < a->dim; j++)
            y[j] = x[j] * inv * a->w[j];
    }
}

void CPU_OP(rmsnorm_backward)(struct backend *be, const struct rmsnorm_args *a, void *scratch)
{
    (void)scratch;
    const int64_t ldx = a->ldx ? a->ldx : a->dim, ldy = a->ldy ? a->ldy : a->dim;
    const int64_t block = rows_per_task(a->dim);
#pragma omp parallel for num_threads(be->n_thread) schedule(static, block) if (a->n_row > block)
    for (int64_t i = 0; i < a->n_row; i++) {
        const real *x = reals_in(a->x) + i * ldx, *dy = reals_in(a->dy) + i * ldy;
        real *dx = reals_of(a->dx) + i * ldx;
        const real inv = inverse_rms(x, a->dim, a->eps);
        real part[LANES] = { 0 };
        int64_t j = 0;
        for (; j + LANES <= a->dim; j += LANES) {
#pragma omp simd
            for (int l = 0; l < LANES; l++)
                part[l] += dy[j + l] * a->w[j + l] * x[j + l];
        }
        real sum = 0;
        for (; j < a->dim; j++)
            sum += dy[j] * a->w[j] * x[j];
        for (int l = 0; l < LANES; l++)
            sum += part[l];
        /* mean(q * xhat) * xhat = inv^2 sum / dim * x */
        const real back = inv * inv * sum / (real)a->dim;
#pragma omp simd
        for (j = 0; j < a->dim; j++)
            dx[j] += inv * (dy[j] * a->w[j] - back * x[j]);
    }
}
