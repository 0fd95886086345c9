/* GEMM on vdpbf16ps, which multiplies pairs of bfloat16 neighbours along k and adds them in f32.
 *
 *   a   rounded once for the whole product, (m, k2) pairs, k padded to even
 *   b   packed per task, block by block: (k2 of the block, BLOCK_N) pairs, zero beyond its columns
 *   c   (BLOCK_M, BLOCK_N) of it belongs to a task; partial sums of the k blocks go through c
 * itself
 *
 * The micro-kernel keeps ROWS x 2 registers of sums. Blocks depend on the shape alone and each
 * element of c has one owner that walks k in order, so no bit depends on threads.
 */
#include "kernels/cpu/gemm_bf16.h"

#if CPU_BUILDS_BF16

#include <immintrin.h>
#include <omp.h>

enum {
    ROWS = 12,     /* of the micro-kernel: 24 sums + 2 of b + 1 broadcast in 32 registers */
    COLS = 32,     /* two registers of f32 */
    BLOCK_M = 504, /* tall: each task packs its block of b again */
    BLOCK_N = 128,
    BLOCK_K2 = 512, /* pairs: a packed block of b is 256 KiB */
};

#define BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

static int64_t pairs_of(int64_t k)
{
    return (k + 1) / 2;
}

static inline uint32_t pair(uint16_t low, uint16_t high)
{
    return (uint32_t)high << 16 | low;
}

/* Element `at` of a matrix as bfloat16, as stored or rounded: for edges, and for types not packed
 * faster. */
static uint16_t bits_at(enum dtype dtype, const void *data, int64_t at)
{
    uint16_t bits;
    if (dtype == DTYPE_BF16) {
        memcpy(&bits, (const char *)data + 2 * at, sizeof bits);
        return bits;
    }
    real x;
    dtype_to_real(dtype, (const char *)data + (size_t)at * dtype_size(dtype), 1, &x);
    return dtype_to_bf16(x);
}

/* ---- operands ----
 * Pairs lie along k. Where k runs along a row, a run of 16 pairs is one conversion of 32
 * neighbours; where it runs down the columns, 16 columns of two rows are interleaved. */

/* 16 pairs from 32 floats in a row. */
static inline BF16_TARGET __m512i pairs_along(const real *x)
{
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
}

/* 16 pairs, each of x[j] and y[j]. */
static inline BF16_TARGET __m512i pairs_down(const real *x, const real *y)
{
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(y)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

static inline BF16_TARGET __m512i stored_pairs_down(const char *x, const char *y)
{
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x));
    const __m512i high =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)y));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* Row i of op(a) as pairs: k along the row. */
static BF16_TARGET void round_row(const struct gemm_args *a, int64_t i, uint32_t *restrict out)
{
    const real *row = reals_in(a->a) + i * a->lda;
    int64_t p = 0;
    for (; 2 * p + 32 <= a->k; p += 16)
        _mm512_storeu_si512(out + p, pairs_along(row + 2 * p));
    for (; p < pairs_of(a->k); p++)
        out[p] =
            pair(dtype_to_bf16(row[2 * p]), 2 * p + 1 < a->k ? dtype_to_bf16(row[2 * p + 1]) : 0);
}

/* Rows i0 .. i0+n (n <= 16) of op(a) when k runs down: two rows of a at a time. */
static BF16_TARGET void round_columns(const struct gemm_args *a, int64_t i0, int64_t n,
                                      uint32_t *restrict out)
{
    const int64_t k2 = pairs_of(a->k);
    for (int64_t p = 0; p < k2; p++) {
        const real *x = reals_in(a->a) + 2 * p * a->lda + i0;
        uint32_t bits[16];
        if (n == 16 && 2 * p + 1 < a->k) {
            _mm512_storeu_si512(bits, pairs_down(x, x + a->lda));
        } else {
            for (int64_t i = 0; i < n; i++)
                bits[i] =
                    pair(dtype_to_bf16(x[i]), 2 * p + 1 < a->k ? dtype_to_bf16(x[a->lda + i]) : 0);
        }
        for (int64_t i = 0; i < n; i++)
            out[(i0 + i) * k2 + p] = bits[i];
    }
}

/* A block of op(b): pairs p0 .. p0+n_p, columns n0 .. n0+n, at out[p * BLOCK_N + j]. */
struct b_block {
    int64_t p0, n_p, n0, n;
};

/* b (n, k): k along its rows. */
static BF16_TARGET void pack_along(const struct gemm_args *a, const struct b_block *b,
                                   uint32_t *restrict out)
{
    for (int64_t j = 0; j < b->n; j++) {
        const int64_t row = (b->n0 + j) * a->ldb;
        for (int64_t p = 0; p < b->n_p; p += 16) {
            const int64_t k = 2 * (b->p0 + p), n = min_i64(16, b->n_p - p);
            uint32_t bits[16];
            if (k + 32 <= a->k && a->b_dtype == DTYPE_F32) {
                _mm512_storeu_si512(bits, pairs_along((const real *)a->b + row + k));
            } else if (k + 32 <= a->k && a->b_dtype == DTYPE_BF16) {
                memcpy(bits, (const char *)a->b + 2 * (row + k), sizeof bits);
            } else {
                for (int64_t i = 0; i < n; i++)
                    bits[i] = pair(
                        bits_at(a->b_dtype, a->b, row + k + 2 * i),
                        k + 2 * i + 1 < a->k ? bits_at(a->b_dtype, a->b, row + k + 2 * i + 1) : 0);
            }
            for (int64_t i = 0; i < n; i++)
                out[(p + i) * BLOCK_N + j] = bits[i];
        }
    }
}

/* b (k, n): k down its columns. */
static BF16_TARGET void pack_down(const struct gemm_args *a, const struct b_block *b,
                                  uint32_t *restrict out)
{
    const int64_t size = (int64_t)dtype_size(a->b_dtype);
    for (int64_t p = 0; p < b->n_p; p++) {
        const int64_t k = 2 * (b->p0 + p), at = k * a->ldb + b->n0;
        const char *x = (const char *)a->b + at * size, *y = x + a->ldb * size;
        uint32_t *to = out + p * BLOCK_N;
        int64_t j = 0;
        for (; k + 1 < a->k && j + 16 <= b->n && a->b_dtype == DTYPE_F32; j += 16)
            _mm512_storeu_si512(to + j, pairs_down((const real *)(const void *)x + j,
                                                   (const real *)(const void *)y + j));
        for (; k + 1 < a->k && j + 16 <= b->n && a->b_dtype == DTYPE_BF16; j += 16)
            _mm512_storeu_si512(to + j, stored_pairs_down(x + 2 * j, y + 2 * j));
        for (; j < b->n; j++)
            to[j] = pair(bits_at(a->b_dtype, a->b, at + j),
                         k + 1 < a->k ? bits_at(a->b_dtype, a->b, at + a->ldb + j) : 0);
    }
}

static void pack_b(const struct gemm_args *a, const struct b_block *b, uint32_t *out)
{
    if (a->trans_b)
        pack_along(a, b, out);
    else
        pack_down(a, b, out);
    for (int64_t p = 0; p < b->n_p && b->n < BLOCK_N; p++)
        memset(out + p * BLOCK_N + b->n, 0, (size_t)(BLOCK_N - b->n) * sizeof *out);
}

/* ---- the micro-kernel ---- */

/* c (rows, up to COLS) = beta c + alpha sum over n_p pairs. */
struct tile {
    const uint32_t *a; /* (rows, ld_a) pairs */
    int64_t ld_a, n_p;
    const uint32_t *b; /* (n_p, BLOCK_N) pairs */
    real *c;
    int64_t ldc, n_col;
    real alpha, beta;
};

static inline BF16_TARGET __attribute__((always_inline)) void
store_half(real *c, __m512 sum, int64_t n_col, real alpha, real beta)
{
    if (n_col <= 0)
        return;
    const __mmask16 mask = (__mmask16)(n_col >= 16 ? 0xFFFFu : (1u << n_col) - 1u);
    __m512 value = _mm512_mul_ps(_mm512_set1_ps(alpha), sum);
    if (beta != 0)
        value = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_maskz_loadu_ps(mask, c), value);
    _mm512_mask_storeu_ps(c, mask, value);
}

static inline BF16_TARGET __attribute__((always_inline)) void multiply_rows(const struct tile *t,
                                                                            const int rows)
{
    __m512 sum[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (int64_t p = 0; p < t->n_p; p++) {
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(t->b + p * BLOCK_N);
        const __m512bh b1 = (__m512bh)_mm512_loadu_si512(t->b + p * BLOCK_N + 16);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)t->a[i * t->ld_a + p]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        store_half(t->c + i * t->ldc, sum[i][0], t->n_col, t->alpha, t->beta);
        store_half(t->c + i * t->ldc + 16, sum[i][1], t->n_col - 16, t->alpha, t->beta);
    }
}

/* One instance per number of rows, so that the sums stay in registers. */
static BF16_TARGET void multiply_tile(const struct tile *t, int64_t rows)
{
    switch (rows) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        multiply_rows(t, n);                                                                       \
        return;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
#undef CASE
    default:
        multiply_rows(t, ROWS);
    }
}

/* ---- the product ---- */

static int64_t rounded_elements(const struct gemm_args *a)
{
    return div_up(a->m * pairs_of(a->k), 16) * 16;
}

size_t CPU_OP(gemm_bf16_scratch)(const struct backend *be, const struct gemm_args *a)
{
    return ((size_t)rounded_elements(a) + (size_t)be->n_thread * BLOCK_K2 * BLOCK_N) *
           sizeof(uint32_t);
}

/* The block of c at (m0, n0), over all of k. */
static void multiply_block(const struct gemm_args *a, const uint32_t *rounded, int64_t m0,
                           int64_t n0, uint32_t *packed)
{
    const int64_t k2 = pairs_of(a->k), m_end = min_i64(m0 + BLOCK_M, a->m);
    for (int64_t p0 = 0; p0 < k2; p0 += BLOCK_K2) {
        const struct b_block b = { p0, min_i64(BLOCK_K2, k2 - p0), n0,
                                   min_i64(BLOCK_N, a->n - n0) };
        pack_b(a, &b, packed);
        for (int64_t m = m0; m < m_end; m += ROWS) {
            for (int64_t j = 0; j < b.n; j += COLS) {
                const struct tile t = { .a = rounded + m * k2 + p0,
                                        .ld_a = k2,
                                        .n_p = b.n_p,
                                        .b = packed + j,
                                        .c = (real *)a->c + m * a->ldc + n0 + j,
                                        .ldc = a->ldc,
                                        .n_col = min_i64(COLS, b.n - j),
                                        .alpha = a->alpha,
                                        .beta = p0 == 0 ? a->beta : 1 };
                multiply_tile(&t, min_i64(ROWS, m_end - m));
            }
        }
    }
}

void CPU_OP(gemm_bf16)(struct backend *be, const struct gemm_args *a, void *scratch)
{
    uint32_t *rounded = scratch, *packed = rounded + rounded_elements(a);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t m = 0; m < a->m; m += 16) {
        const int64_t n = min_i64(16, a->m - m);
        if (a->trans_a)
            round_columns(a, m, n, rounded);
        for (int64_t i = m; i < m + n && !a->trans_a; i++)
            round_row(a, i, rounded + i * pairs_of(a->k));
    }
    const int64_t rows = div_up(a->m, BLOCK_M), cols = div_up(a->n, BLOCK_N);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(static)
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++)
            multiply_block(a, rounded, i * BLOCK_M, j * BLOCK_N,
                           packed + (int64_t)omp_get_thread_num() * BLOCK_K2 * BLOCK_N);
    }
}

#endif

/* An empty translation unit is not C. */
typedef int gemm_bf16_is_here;
