/* Cross entropy in place on a block of logits, and the rows it is computed on. */
#include "kernels/cpu/variant.h"

void CPU_OP(cross_entropy)(struct backend *be, const struct cross_entropy_args *a, void *scratch)
{
    (void)scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++) {
        real *row = reals_of(a->logits) + i * a->vocab, top = row[0];
        for (int64_t j = 1; j < a->vocab; j++)
            top = row[j] > top ? row[j] : top;
        const real at_target = row[a->target[i]] - top;
        /* The sum in double: 65,536 terms would cost f32 its last digits. */
        double sum = 0;
        for (int64_t j0 = 0; j0 < a->vocab; j0 += 256) {
            const int64_t end = min_i64(j0 + 256, a->vocab);
            real part[LANES] = { 0 };
            int64_t j = j0;
            for (; j + LANES <= end; j += LANES) {
#pragma omp simd
                for (int l = 0; l < LANES; l++) {
                    row[j + l] = real_exp(row[j + l] - top);
                    part[l] += row[j + l];
                }
            }
            for (; j < end; j++) {
                row[j] = real_exp(row[j] - top);
                part[0] += row[j];
            }
            for (int l = 0; l < LANES; l++)
                sum += (double)part[l];
        }
        a->logprob[i] = (real)((double)at_target - log(sum));
        if (a->grad_scale == 0)
            continue;
        const real scale = (real)((double)a->grad_scale / sum);
#pragma omp simd
        for (int64_t j = 0; j < a->vocab; j++)
            row[j] *= scale;
        row[a->target[i]] -= a->grad_scale;
    }
}

void CPU_OP(pick_rows)(struct backend *be, const struct pick_rows_args *a, void *scratch)
{
    (void)scratch;
    const real *x = reals_in(a->x);
    real *y = reals_of(a->y);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++)
        memcpy(y + i * a->dim, x + a->index[i] * a->dim, (size_t)a->dim * sizeof(real));
}

void CPU_OP(place_rows)(struct backend *be, const struct pick_rows_args *a, void *scratch)
{
    (void)scratch;
    const real *x = reals_in(a->x);
    real *y = reals_of(a->y);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++)
        memcpy(y + a->index[i] * a->dim, x + i * a->dim, (size_t)a->dim * sizeof(real));
}
