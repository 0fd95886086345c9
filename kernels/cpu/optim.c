/* Sums in fixed blocks (the gradient's norm, the loss) and AdamW (Loshchilov and Hutter, "Decoupled
 * weight decay regularization", 2019). */
#include "kernels/cpu/variant.h"

enum { BLOCK = 4096 };

size_t CPU_OP(sum_squares_scratch)(const struct backend *be, const struct sum_squares_args *a)
{
    (void)be;
    return (size_t)div_up(a->n, BLOCK) * sizeof(double);
}

void CPU_OP(sum_squares)(struct backend *be, const struct sum_squares_args *a, void *scratch)
{
    double *parts = scratch;
    const int64_t n_block = div_up(a->n, BLOCK);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t b = 0; b < n_block; b++) {
        double part = 0;
        for (int64_t i = b * BLOCK; i < min_i64((b + 1) * BLOCK, a->n); i++)
            part += (double)a->x[i] * (double)a->x[i];
        parts[b] = part;
    }
    double sum = 0;
    for (int64_t b = 0; b < n_block; b++)
        sum += parts[b];
    *a->sum = sum;
}

size_t CPU_OP(add_sum_scratch)(const struct backend *be, const struct add_sum_args *a)
{
    (void)be;
    return (size_t)div_up(a->n, BLOCK) * sizeof(double);
}

void CPU_OP(add_sum)(struct backend *be, const struct add_sum_args *a, void *scratch)
{
    double *parts = scratch;
    const int64_t n_block = div_up(a->n, BLOCK);
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (n_block > 1)
    for (int64_t b = 0; b < n_block; b++) {
        double part = 0;
        for (int64_t i = b * BLOCK; i < min_i64((b + 1) * BLOCK, a->n); i++)
            part += (double)a->x[i];
        parts[b] = part;
    }
    double sum = 0;
    for (int64_t b = 0; b < n_block; b++)
        sum += parts[b];
    *a->sum += a->scale * sum;
}

void CPU_OP(adamw)(struct backend *be, const struct adamw_args *a, void *scratch)
{
    (void)scratch;
    const real decay = (real)(1 - a->lr * a->weight_decay), scale = (real)a->grad_scale;
    const real b1 = (real)a->beta1, b2 = (real)a->beta2;
    const real c1 = (real)(1 - a->beta1), c2 = (real)(1 - a->beta2);
    const real rate = (real)(a->lr / a->bias_correction1), eps = (real)a->eps;
    const real root = (real)(1 / sqrt(a->bias_correction2));
    real *p_act = reals_of(a->p_act) == a->p ? NULL : reals_of(a->p_act);
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n > BLOCK)
    for (int64_t i0 = 0; i0 < a->n; i0 += BLOCK) {
        const int64_t end = min_i64(i0 + BLOCK, a->n);
#pragma omp simd
        for (int64_t i = i0; i < end; i++) {
            const real g = a->g[i] * scale;
            const real m = b1 * a->m[i] + c1 * g, v = b2 * a->v[i] + c2 * g * g;
            a->m[i] = m;
            a->v[i] = v;
#if REAL_IS_DOUBLE
            const real denominator = sqrt(v) * root + eps;
#else
            const real denominator = sqrtf(v) * root + eps;
#endif
            a->p[i] = a->p[i] * decay - rate * m / denominator;
        }
        if (p_act != NULL)
            memcpy(p_act + i0, a->p + i0, (size_t)(end - i0) * sizeof(real));
    }
}
