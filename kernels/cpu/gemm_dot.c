/* GEMM as dot products: x A^T and dy B of LoRA, whose n is the rank, and the products of single
 * tokens, whose m is 1.
 *
 * Lanes run along k, in rows of a and rows of op(b)^T: in place where b is transposed and real,
 * else turned and widened into a buffer. A tile of ROWS x COLS sums shares its loads; a sum's lanes
 * are added at the end of a block of k, always in the same order, so no bit depends on threads or
 * tiles.
 */
#include "kernels/cpu/gemm_dot.h"

#include <assert.h>
#include <omp.h>

#include "kernels/cpu/tile.h"

enum {
    ROWS = 3,
    COLS = 8, /* 24 sums; two instruction sets spill some of them and are still ahead */
    MOST_ROWS = 3,
    MOST_COLS = 16,
    BLOCK_K = 1024, /* of the buffer, COLS of them */
    TASK_ROWS = 240,
    TASK_COLS = 64,
    SMALL_PRODUCT = 1 << 22, /* multiply-adds that are not worth waking threads for */
};

bool CPU_OP(gemm_dot_suits)(const struct gemm_args *a)
{
    if (a->trans_a || a->k % VECTOR_REALS != 0)
        return false;
    return a->n <= MOST_COLS || (a->trans_b && a->m <= MOST_ROWS);
}

/* ---- the micro-kernel ---- */

/* c (rows, cols) = beta c + alpha a b^T over k. */
struct dot_tile {
    const real *a, *b; /* (rows, k) and (cols, k) */
    int64_t lda, ldb, k;
    real *c;
    int64_t ldc;
    real alpha, beta;
};

/* c[0..4) of a row from four sums; c[0] from one: the same additions in the same order. */
VECTOR_INLINE void finish_four(const struct dot_tile *t, const vector *sum, real *c)
{
    quad value = t->alpha * quad_sums(vector_fold(sum[0]), vector_fold(sum[1]), vector_fold(sum[2]),
                                      vector_fold(sum[3]));
    if (t->beta != 0)
        value += t->beta * *(const quad_anywhere *)c;
    *(quad_anywhere *)c = value;
}

VECTOR_INLINE void finish_one(const struct dot_tile *t, vector sum, real *c)
{
    const quad four = vector_fold(sum);
    const real value = t->alpha * quad_sums(four, four, four, four)[0];
    *c = t->beta == 0 ? value : value + t->beta * *c;
}

VECTOR_INLINE void multiply_tile(const struct dot_tile *t, const int rows, const int cols)
{
    vector sum[ROWS][COLS], x[ROWS];
#pragma GCC unroll 3
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < cols; j++)
            sum[i][j] = (vector){ 0 };
    }
    for (int64_t l = 0; l < t->k; l += VECTOR_REALS) {
#pragma GCC unroll 3
        for (int i = 0; i < rows; i++)
            x[i] = vector_load(t->a + i * t->lda + l);
#pragma GCC unroll 8
        for (int j = 0; j < cols; j++) {
            const vector y = vector_load(t->b + j * t->ldb + l);
#pragma GCC unroll 3
            for (int i = 0; i < rows; i++)
                sum[i][j] += x[i] * y;
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < rows; i++) {
        if (cols == 1)
            finish_one(t, sum[i][0], t->c + i * t->ldc);
#pragma GCC unroll 2
        for (int j = 0; j + 4 <= cols; j += 4)
            finish_four(t, sum[i] + j, t->c + i * t->ldc + j);
    }
}

/* All rows against cols columns. */
VECTOR_INLINE void multiply_columns(struct dot_tile t, int64_t n_row, const int cols)
{
    for (; n_row >= ROWS; n_row -= ROWS) {
        multiply_tile(&t, ROWS, cols);
        t.a += ROWS * t.lda;
        t.c += ROWS * t.ldc;
    }
    for (; n_row > 0; n_row--) {
        multiply_tile(&t, 1, cols);
        t.a += t.lda;
        t.c += t.ldc;
    }
}

/* ---- the product ---- */

static bool in_place(const struct gemm_args *a)
{
    return a->trans_b && a->b_dtype == DTYPE_REAL;
}

static int64_t block_k(const struct gemm_args *a)
{
    return in_place(a) ? a->k : min_i64(BLOCK_K, a->k);
}

/* Rows k0 .. k0+n_k of `cols` columns of op(b), from n0 on, as rows of out. */
static void turn_columns(const struct gemm_args *a, int64_t k0, int64_t n_k, int64_t n0, int cols,
                         real *restrict out)
{
    const size_t size = dtype_size(a->b_dtype);
    const char *b =
        (const char *)a->b + (size_t)(a->trans_b ? n0 * a->ldb + k0 : k0 * a->ldb + n0) * size;
    for (int64_t j = 0; j < cols && a->trans_b; j++)
        dtype_to_real(a->b_dtype, b + (size_t)(j * a->ldb) * size, n_k, out + j * n_k);
    if (!a->trans_b && a->b_dtype == DTYPE_REAL)
        CPU_OP(tile_transpose)((const real *)(const void *)b, a->ldb, n_k, cols, out, n_k);
    for (int64_t l = 0; l < n_k && !a->trans_b && a->b_dtype != DTYPE_REAL; l++) {
        real row[COLS];
        dtype_to_real(a->b_dtype, b + (size_t)(l * a->ldb) * size, cols, row);
        for (int j = 0; j < cols; j++)
            out[j * n_k + l] = row[j];
    }
}

/* Rows m0 .. m0+m of `cols` columns of c, from n0 on. */
static void multiply_some(const struct gemm_args *a, int64_t m0, int64_t m, int64_t n0, int cols,
                          real *buffer)
{
    const int64_t step = block_k(a);
    for (int64_t k0 = 0; k0 < a->k; k0 += step) {
        struct dot_tile t = { .a = reals_in(a->a) + m0 * a->lda + k0,
                              .b = buffer,
                              .lda = a->lda,
                              .ldb = min_i64(step, a->k - k0),
                              .k = min_i64(step, a->k - k0),
                              .c = (real *)a->c + m0 * a->ldc + n0,
                              .ldc = a->ldc,
                              .alpha = a->alpha,
                              .beta = k0 == 0 ? a->beta : 1 };
        if (in_place(a)) {
            t.b = (const real *)a->b + n0 * a->ldb;
            t.ldb = a->ldb;
        } else {
            turn_columns(a, k0, t.k, n0, cols, buffer);
        }
        if (cols == COLS)
            multiply_columns(t, m, COLS);
        else if (cols == 4)
            multiply_columns(t, m, 4);
        else
            multiply_columns(t, m, 1);
    }
}

void CPU_OP(gemm_dot)(struct backend *be, const struct gemm_args *a, real *scratch,
                      int64_t scratch_reals)
{
    const int64_t rows = div_up(a->m, TASK_ROWS), cols = div_up(a->n, TASK_COLS);
    const bool alone = rows * cols == 1 || a->m * a->n * a->k <= SMALL_PRODUCT;
    assert(in_place(a) || COLS * block_k(a) <= scratch_reals);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic) if (!alone)
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            real *buffer = scratch + omp_get_thread_num() * scratch_reals;
            const int64_t end = min_i64((j + 1) * TASK_COLS, a->n);
            const int64_t m = min_i64(TASK_ROWS, a->m - i * TASK_ROWS);
            for (int64_t n = j * TASK_COLS, some; n < end; n += some) {
                some = end - n >= COLS ? COLS : end - n >= 4 ? 4 : 1;
                multiply_some(a, i * TASK_ROWS, m, n, (int)some, buffer);
            }
        }
    }
}
