/* Elementwise ops: SwiGLU, residual add, bias, dropout, copies. */
#include "kernels/cpu/variant.h"
#include "kernels/core/rng.h"

enum { BLOCK = 4096 }; /* elements of a task */

void CPU_OP(swiglu_forward)(struct backend *be, const struct swiglu_args *a, void *scratch)
{
    (void)scratch;
    const real *gate = reals_in(a->gate), *up = reals_in(a->up);
    real *y = reals_of(a->y);
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n > BLOCK)
    for (int64_t i0 = 0; i0 < a->n; i0 += BLOCK) {
        const int64_t end = min_i64(i0 + BLOCK, a->n);
#pragma omp simd
        for (int64_t i = i0; i < end; i++)
            y[i] = gate[i] * real_sigmoid(gate[i]) * up[i];
    }
}

void CPU_OP(swiglu_backward)(struct backend *be, const struct swiglu_args *a, void *scratch)
{
    (void)scratch;
    const real *gate = reals_in(a->gate), *up = reals_in(a->up), *dys = reals_in(a->dy);
    real *dgate = reals_of(a->dgate), *dup = reals_of(a->dup);
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n > BLOCK)
    for (int64_t i0 = 0; i0 < a->n; i0 += BLOCK) {
        const int64_t end = min_i64(i0 + BLOCK, a->n);
#pragma omp simd
        for (int64_t i = i0; i < end; i++) { /* reads come first: the outputs may be inputs */
            const real g = gate[i], u = up[i], dy = dys[i], s = real_sigmoid(g);
            dgate[i] = dy * u * s * (1 + g * (1 - s));
            dup[i] = dy * g * s;
        }
    }
}

void CPU_OP(add)(struct backend *be, const struct add_args *a, void *scratch)
{
    (void)scratch;
    const real *x = reals_in(a->a), *other = reals_in(a->b);
    real *y = reals_of(a->y);
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n > BLOCK)
    for (int64_t i0 = 0; i0 < a->n; i0 += BLOCK) {
        const int64_t end = min_i64(i0 + BLOCK, a->n);
#pragma omp simd
        for (int64_t i = i0; i < end; i++)
            y[i] = x[i] + other[i];
    }
}

void CPU_OP(add_bias)(struct backend *be, const struct add_bias_args *a, void *scratch)
{
    (void)scratch;
    const int64_t block = rows_per_task(a->dim);
#pragma omp parallel for num_threads(be->n_thread) schedule(static, block) if (a->n_row > block)
    for (int64_t i = 0; i < a->n_row; i++) {
        real *y = reals_of(a->y) + i * a->ldy;
#pragma omp simd
        for (int64_t j = 0; j < a->dim; j++)
            y[j] += a->bias[j];
    }
}

/* Whether element j of the row survives: one Philox block serves four neighbours. An element is
 * dropped when its 32 bits lie below rate * 2^32. */
static void dropout_row(const struct dropout_args *a, int64_t token, const real *x, real *y)
{
    const uint32_t below = (uint32_t)(a->rate * 4294967296.0);
    const real keep = (real)(1 / (1 - a->rate));
    for (int64_t j = 0; j < a->dim; j += 4) {
        const uint64_t word = (uint64_t)(j / 4) | (uint64_t)token << 24;
        const uint32_t counter[4] = { (uint32_t)word, (uint32_t)(word >> 32), (uint32_t)a->target,
                                      (uint32_t)a->step };
        const uint32_t key[2] = { (uint32_t)a->seed,
                                  (uint32_t)(a->seed >> 32) ^ RNG_DROPOUT << 24 };
        const struct rng_block r = rng_philox(counter, key);
        const int64_t n = min_i64(4, a->dim - j);
        for (int64_t l = 0; l < n; l++) {
            const real v = r.v[l] < below ? 0 : x[j + l] * keep;
            y[j + l] = a->accumulate ? y[j + l] + v : v;
        }
    }
}

void CPU_OP(dropout)(struct backend *be, const struct dropout_args *a, void *scratch)
{
    (void)scratch;
    const int64_t ldy = a->ldy ? a->ldy : a->dim;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++) {
        const int64_t token = a->first_token + (a->slot == NULL ? i : a->slot[i] / a->per_token);
        dropout_row(a, token, reals_in(a->x) + i * a->ldx, reals_of(a->y) + i * ldy);
    }
}

void CPU_OP(zero)(struct backend *be, const struct zero_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    if (a->bytes > 0)
        memset(a->y, 0, a->bytes);
}

void CPU_OP(to_device)(struct backend *be, const struct copy_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    if (a->bytes > 0)
        memcpy(a->to, a->from, a->bytes);
}

void CPU_OP(to_host)(struct backend *be, const struct copy_args *a, void *scratch)
{
    CPU_OP(to_device)(be, a, scratch); /* both sides are the host's */
}

void CPU_OP(copy)(struct backend *be, const struct copy_args *a, void *scratch)
{
    CPU_OP(to_device)(be, a, scratch);
}
