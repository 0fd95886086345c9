/* Products of small matrices in registers, what gemm.c and attention.c are made of.
 *
 *     const struct tile t = { .a = q, .row_step = ld_q, .k_step = 1, .b = kt, .ldb = 64, .k =
 * d_head, .c = s, .ldc = 64, .col_step = 1, .alpha = scale }; CPU_OP(tile_multiply)(&t, n_q, n_k);
 * // s = scale q kt
 *
 * An element of c is the same sum over k, in order, wherever c is cut.
 */
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include "kernels/cpu/variant.h"
#include "kernels/cpu/vector.h"

enum {
    TILE_PANEL = 2 * VECTOR_REALS, /* columns of c that are worked on together */
    /* Rows of c that are, a multiple of every number of rows the registers hold. */
    TILE_ROWS = 12,
};

/* c = beta c + alpha a b; with beta 0, c is not read. */
struct tile {
    const real *a; /* element (i, l) at i row_step + l k_step */
    int64_t row_step, k_step;
    const real *b; /* (k, n_col) at distance ldb, readable up to tile_width(n_col) */
    int64_t ldb, k;
    real *c; /* element (i, j) at i ldc + j col_step */
    int64_t ldc, col_step;
    real alpha, beta;
};

/* How many columns of b are read where n are used. */
static inline int64_t tile_width(int64_t n)
{
    const int64_t rest = n % TILE_PANEL;
    return n - rest + (rest == 0 ? 0 : rest <= VECTOR_REALS ? VECTOR_REALS : TILE_PANEL);
}

void CPU_OP(tile_multiply)(const struct tile *t, int64_t n_row, int64_t n_col);

/* out[j ld_out + i] = x[i ld + j], for i < n_row, j < n_col. */
void CPU_OP(tile_transpose)(const real *x, int64_t ld, int64_t n_row, int64_t n_col, real *out,
                            int64_t ld_out);

#endif
