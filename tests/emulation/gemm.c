/* Stands for cuBLASLt: operands widened, products added up in f32 in the order of k, each element
 * of c rounded once. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/context.h"
#include "tests/emulation/emulated.h"

/* n elements, `step` apart, as f32. */
static void widen(enum dtype dtype, const void *x, int64_t step, int64_t n, float *out)
{
    const char *from = (const char *)x;
    const size_t size = dtype_size(dtype);
    if (step == 1) {
        dtype_to_real(dtype, from, n, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        dtype_to_real(dtype, from + (size_t)(i * step) * size, 1, &out[i]);
}

static const void *element(enum dtype dtype, const void *x, int64_t i)
{
    return (const char *)x + (size_t)i * dtype_size(dtype);
}

static void store(enum dtype dtype, const float *sum, int64_t n, void *c)
{
    if (dtype == DTYPE_F32) {
        memcpy(c, sum, (size_t)n * sizeof *sum);
        return;
    }
    uint16_t *to = (uint16_t *)c;
    for (int64_t j = 0; j < n; j++)
        to[j] = dtype_to_bf16(sum[j]);
}

/* b is op(b) widened, (k, n); a, sum and old a row each of op(a), op(a) op(b) and c. */
static void multiply(const struct backend *be, const struct gemm_args *g, const float *b, float *a,
                     float *sum, float *old)
{
    const enum dtype c_dtype = g->c_real ? DTYPE_F32 : be->act;
    for (int64_t i = 0; i < g->m; i++) {
        const int64_t first = g->trans_a ? i : i * g->lda;
        widen(be->act, element(be->act, g->a, first), g->trans_a ? g->lda : 1, g->k, a);
        memset(sum, 0, (size_t)g->n * sizeof *sum);
        for (int64_t l = 0; l < g->k; l++) {
            for (int64_t j = 0; j < g->n; j++)
                sum[j] += a[l] * b[l * g->n + j];
        }
        char *c = (char *)g->c + (size_t)(i * g->ldc) * dtype_size(c_dtype);
        if (g->beta != 0)
            widen(c_dtype, c, 1, g->n, old);
        for (int64_t j = 0; j < g->n; j++)
            sum[j] = g->alpha * sum[j] + (g->beta != 0 ? g->beta * old[j] : 0);
        store(c_dtype, sum, g->n, c);
    }
}

void cuda_gemm(struct backend *be, const struct gemm_args *g, void *scratch)
{
    (void)scratch;
    if (g->m == 0)
        return;
    float *b = malloc((size_t)(g->k * g->n + g->k + 2 * g->n) * sizeof *b);
    if (b == NULL) {
        cuda_fail(be, "gemm", "out of host memory");
        return;
    }
    float *a = b + g->k * g->n, *sum = a + g->k, *old = sum + g->n;
    emulated_unlock();
    for (int64_t l = 0; l < g->k; l++)
        widen(g->b_dtype, element(g->b_dtype, g->b, g->trans_b ? l : l * g->ldb),
              g->trans_b ? g->ldb : 1, g->n, b + l * g->n);
    multiply(be, g, b, a, sum, old);
    emulated_lock();
    free(b);
}
