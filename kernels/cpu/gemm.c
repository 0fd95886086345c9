/* GEMM on oneDNN's sgemm, cut into blocks of a fixed size.
 *
 * oneDNN splits long K over threads on small outputs, which makes the bits depend on the number of
 * threads. So the output is cut into blocks that depend on the shape alone, each computed by one
 * thread (a call inside a parallel region runs single-threaded). Weights stored in a narrower type
 * are widened block by block into a buffer of the thread, small enough to stay in its cache.
 *
 * In the double test build a plain loop stands in for oneDNN, which has no dgemm.
 */
#include "kernels/cpu/gemm_bf16.h"

#include <assert.h>
#include <omp.h>

#if !REAL_IS_DOUBLE
#include <dnnl.h>
#endif

enum {
    BLOCK_M = 128,
    BLOCK_M_WIDENED = 512,    /* taller: each row block widens the weights again */
    WIDEN_ELEMENTS = 1 << 17, /* of a thread's buffer: 512 KiB */
    MIN_TASKS = 8,
};

struct blocks {
    int64_t m, n;
    bool widen;
};

/* Depends on shape and types only, never on threads. */
static struct blocks choose_blocks(const struct gemm_args *a)
{
    struct blocks b = { .widen = a->b_dtype != DTYPE_REAL };
    b.m = min_i64(a->m, b.widen ? BLOCK_M_WIDENED : BLOCK_M);
    const int64_t n_row_block = a->m > 0 ? div_up(a->m, b.m) : 1;
    int64_t n = 4096;
    if (n_row_block < MIN_TASKS)
        n = div_up(div_up(a->n, div_up(MIN_TASKS, n_row_block)), 16) * 16;
    if (b.widen) {
        const int64_t fits = WIDEN_ELEMENTS / a->k / 16 * 16;
        n = min_i64(n, fits < 16 ? 16 : fits);
    }
    b.n = min_i64(n, a->n);
    return b;
}

static int64_t widen_elements(const struct gemm_args *a, const struct blocks *b)
{
    return b->widen ? div_up(b->n * a->k, 16) * 16 : 0;
}

size_t CPU_OP(gemm_scratch)(const struct backend *be, const struct gemm_args *a)
{
#if CPU_BUILDS_BF16
    if (be->gemm_bf16)
        return CPU_OP(gemm_bf16_scratch)(be, a);
#endif
    const struct blocks b = choose_blocks(a);
    return (size_t)be->n_thread * (size_t)widen_elements(a, &b) * sizeof(real);
}

/* Columns n0 .. n0+n of op(b) as reals: in place, or widened into buffer. */
static const real *block_of_b(const struct gemm_args *a, const struct blocks *b, int64_t n0,
                              int64_t n, real *buffer, int64_t *ld)
{
    const size_t size = dtype_size(a->b_dtype);
    const char *start = (const char *)a->b + (size_t)(a->trans_b ? n0 * a->ldb : n0) * size;
    if (!b->widen) {
        *ld = a->ldb;
        return (const real *)(const void *)start;
    }
    const int64_t n_row = a->trans_b ? n : a->k, n_col = a->trans_b ? a->k : n;
    for (int64_t i = 0; i < n_row; i++)
        dtype_to_real(a->b_dtype, start + (size_t)(i * a->ldb) * size, n_col, buffer + i * n_col);
    *ld = n_col;
    return buffer;
}

#if REAL_IS_DOUBLE

static void multiply(const struct gemm_args *a, int64_t m, int64_t n, const real *x, const real *b,
                     int64_t ldb, real *c)
{
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            real sum = 0;
            for (int64_t l = 0; l < a->k; l++)
                sum += (a->trans_a ? x[l * a->lda + i] : x[i * a->lda + l]) *
                       (a->trans_b ? b[j * ldb + l] : b[l * ldb + j]);
            real *out = &c[i * a->ldc + j];
            *out = a->alpha * sum + (a->beta == 0 ? 0 : a->beta * *out);
        }
    }
}

#else

static void multiply(const struct gemm_args *a, int64_t m, int64_t n, const real *x, const real *b,
                     int64_t ldb, real *c)
{
    const dnnl_status_t status = dnnl_sgemm(a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', m, n,
                                            a->k, a->alpha, x, a->lda, b, ldb, a->beta, c, a->ldc);
    assert(status == dnnl_success);
    (void)status;
}

#endif

void CPU_OP(gemm)(struct backend *be, const struct gemm_args *a, void *scratch)
{
    if (a->m == 0)
        return;
#if CPU_BUILDS_BF16
    if (be->gemm_bf16) {
        CPU_OP(gemm_bf16)(be, a, scratch);
        return;
    }
#endif
    const struct blocks b = choose_blocks(a);
    const int64_t rows = div_up(a->m, b.m), cols = div_up(a->n, b.n),
                  widened = widen_elements(a, &b);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(static)
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) {
            const int64_t m0 = i * b.m, n0 = j * b.n;
            const int64_t m = min_i64(b.m, a->m - m0), n = min_i64(b.n, a->n - n0);
            int64_t ldb = 0;
            real *buffer = b.widen ? (real *)scratch + omp_get_thread_num() * widened : NULL;
            const real *w = block_of_b(a, &b, n0, n, buffer, &ldb);
            multiply(a, m, n, a->a + (a->trans_a ? m0 : m0 * a->lda), w, ldb,
                     a->c + m0 * a->ldc + n0);
        }
    }
}
