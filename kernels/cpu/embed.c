/* The embedding lookup and its adapter. */
#include "kernels/cpu/variant.h"

void CPU_OP(embed_forward)(struct backend *be, const struct embed_args *a, void *scratch)
{
    (void)scratch;
    const size_t row_bytes = (size_t)a->dim * dtype_size(a->dtype);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++) {
        const char *row = (const char *)a->table + (size_t)a->ids[i] * row_bytes;
        dtype_to_real(a->dtype, row, a->dim, reals_of(a->y) + i * a->dim);
    }
}

void CPU_OP(embed_lora_forward)(struct backend *be, const struct embed_lora_args *a, void *scratch)
{
    (void)scratch;
    const real *lora_a = reals_in(a->a);
    real *t = reals_of(a->t);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++) {
        for (int64_t j = 0; j < a->rank; j++)
            t[i * a->rank + j] = lora_a[j * a->vocab + a->ids[i]];
    }
}

/* One task owns one row of da, so every element is added up by one thread in the order of the
 * tokens. */
void CPU_OP(embed_lora_backward)(struct backend *be, const struct embed_lora_args *a, void *scratch)
{
    (void)scratch;
    const real *dt = reals_in(a->dt);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t j = 0; j < a->rank; j++) {
        real *da = a->da + j * a->vocab;
        for (int64_t i = 0; i < a->n_row; i++) {
            if (a->ids[i] != a->pad_id)
                da[a->ids[i]] += dt[i * a->rank + j];
        }
    }
}
