/* The micro-kernel: ROWS x TILE_PANEL sums in registers, or ROWS_NARROW x one vector for a narrow
 * end; one element of a at a time is multiplied with a row of b's panel.
 */
#include "kernels/cpu/tile.h"

/* The sums, a row of b and an element of a must fit into the registers. */
#if defined(__AVX512F__)
enum { ROWS = 12, ROWS_NARROW = 12 }; /* of 32 */
#elif defined(__AVX__)
enum { ROWS = 6, ROWS_NARROW = 12 }; /* of 16 */
#else
enum { ROWS = 4, ROWS_NARROW = 6 };
#endif

VECTOR_INLINE void finish(real *c, vector sum, real alpha, real beta)
{
    sum = alpha * sum;
    if (beta != 0)
        sum += beta * vector_load(c);
    vector_store(c, sum);
}

VECTOR_INLINE void multiply_rows(const struct tile *t, const int rows, const int n_vector)
{
    vector sum[ROWS_NARROW][2];
    const real *a = t->a, *b = t->b;
    const int64_t row_step = t->row_step, k_step = t->k_step;
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = (vector){ 0 };
    for (int64_t l = 0; l < t->k; l++) {
        const vector b0 = vector_load(b);
        const vector b1 = n_vector > 1 ? vector_load(b + VECTOR_REALS) : b0;
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            const real x = a[i * row_step];
            sum[i][0] += x * b0;
            if (n_vector > 1)
                sum[i][1] += x * b1;
        }
        a += k_step;
        b += t->ldb;
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        finish(t->c + i * t->ldc, sum[i][0], t->alpha, t->beta);
        if (n_vector > 1)
            finish(t->c + i * t->ldc + VECTOR_REALS, sum[i][1], t->alpha, t->beta);
    }
}

/* Some of the rows: instances for a few numbers of them, so that the sums stay in registers.
 * Returns how many were done. */
static int64_t multiply_wide(const struct tile *t, int64_t rows)
{
    if (rows >= ROWS) {
        multiply_rows(t, ROWS, 2);
        return ROWS;
    }
#if defined(__AVX512F__)
    if (rows >= 8) {
        multiply_rows(t, 8, 2);
        return 8;
    }
#endif
    if (rows >= 4) {
        multiply_rows(t, 4, 2);
        return 4;
    }
    multiply_rows(t, 1, 2);
    return 1;
}

static int64_t multiply_narrow(const struct tile *t, int64_t rows)
{
    if (rows >= ROWS_NARROW) {
        multiply_rows(t, ROWS_NARROW, 1);
        return ROWS_NARROW;
    }
    if (rows >= 4) {
        multiply_rows(t, 4, 1);
        return 4;
    }
    multiply_rows(t, 1, 1);
    return 1;
}

/* n_row rows of a panel of c, from c on, to or from a dense copy. */
static void copy_in(const struct tile *t, const real *c, int64_t n_row, int64_t n_col, real *copy)
{
    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t j = 0; j < n_col; j++)
            copy[i * TILE_PANEL + j] = c[i * t->ldc + j * t->col_step];
    }
}

static void copy_out(const struct tile *t, real *c, int64_t n_row, int64_t n_col, const real *copy)
{
    for (int64_t j = 0; j < n_col; j++) {
        for (int64_t i = 0; i < n_row; i++)
            c[i * t->ldc + j * t->col_step] = copy[i * TILE_PANEL + j];
    }
}

/* All rows of one panel of c. The ragged end of c, and a transposed c, go through a copy. */
static void multiply_panel(const struct tile *t, int64_t n_row, int64_t n_col)
{
    const bool narrow = n_col <= VECTOR_REALS;
    const bool copied = t->col_step != 1 || (n_col != TILE_PANEL && n_col != VECTOR_REALS);
    real copy[ROWS_NARROW * TILE_PANEL] = { 0 };
    struct tile some = *t;
    real *c = t->c;
    if (copied) {
        some.c = copy;
        some.ldc = TILE_PANEL;
    }
    for (int64_t done; n_row > 0; n_row -= done) {
        if (copied && t->beta != 0)
            copy_in(t, c, min_i64(n_row, ROWS_NARROW), n_col, copy);
        done = narrow ? multiply_narrow(&some, n_row) : multiply_wide(&some, n_row);
        if (copied)
            copy_out(t, c, done, n_col, copy);
        else
            some.c += done * t->ldc;
        some.a += done * t->row_step;
        c += done * t->ldc;
    }
}

void CPU_OP(tile_multiply)(const struct tile *t, int64_t n_row, int64_t n_col)
{
    for (int64_t j = 0; j < n_col; j += TILE_PANEL) {
        struct tile panel = *t;
        panel.b += j;
        panel.c += j * t->col_step;
        multiply_panel(&panel, n_row, min_i64(TILE_PANEL, n_col - j));
    }
}

VECTOR_INLINE quad load_four(const real *x)
{
    return *(const quad_anywhere *)x;
}

/* Four rows of four. */
VECTOR_INLINE void transpose_four(const real *x, int64_t ld, real *out, int64_t ld_out)
{
    const quad a = load_four(x), b = load_four(x + ld);
    const quad c = load_four(x + 2 * ld), d = load_four(x + 3 * ld);
    const quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(quad_anywhere *)out = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    *(quad_anywhere *)(out + ld_out) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    *(quad_anywhere *)(out + 2 * ld_out) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    *(quad_anywhere *)(out + 3 * ld_out) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

void CPU_OP(tile_transpose)(const real *x, int64_t ld, int64_t n_row, int64_t n_col, real *out,
                            int64_t ld_out)
{
    const int64_t rows = n_row / 4 * 4, cols = n_col / 4 * 4;
    for (int64_t i = 0; i < rows; i += 4) {
        for (int64_t j = 0; j < cols; j += 4)
            transpose_four(x + i * ld + j, ld, out + j * ld_out + i, ld_out);
    }
    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t j = i < rows ? cols : 0; j < n_col; j++)
            out[j * ld_out + i] = x[i * ld + j];
    }
}
