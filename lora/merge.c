/* Tile by tile: the change of some rows and columns by the GEMM of the ops, then one pass over it
 * that widens W, adds and rounds. A tile stays in the second-level cache.
 *
 * Both operands lie along k's rows for the GEMM: its products of that form are one chain of sums
 * over k for every shape, where narrow ones of others are added lane by lane.
 */
#include "lora/merge.h"

#include <assert.h>
#include <string.h>

#include "kernels/ops.h"

enum {
    TILE_ROWS = 240, /* of a tile: 480 KiB of f32 */
    TILE_COLS = 512,
    RUN = 512, /* elements that are rounded at once */
};

static bool is_embedding(const struct lora_merge *m)
{
    return m->slot->module->kind == LORA_EMBED_TOKENS;
}

int64_t lora_merge_n_row(const struct lora_merge *m)
{
    return is_embedding(m) ? m->slot->module->in : m->slot->module->out;
}

int64_t lora_merge_n_col(const struct lora_merge *m)
{
    return is_embedding(m) ? m->slot->module->out : m->slot->module->in;
}

/* ---- rounding ----
 *
 * The loops have no branch and no call, so that they become vector code: the sum of a model of 6 GB
 * has to be as fast to round as to write. They are right for numbers; where one of a run is not, or
 * overflows, the run is done again element by element. */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#define SIZE_BITS 0x7FFFFFFF    /* of a float without its sign: as integers they are in order */
#define F32_INFINITE 0x7F800000 /* BF16's is its upper half */
#define F16_INFINITE 0x7C00
#define LARGEST_BF16 0x7F7F7FFF /* the largest floats that round to a number of the type */
#define LARGEST_F16 0x477FEFFF
#define F16_NORMAL 0x38800000  /* 2^-14, the smallest normal F16 */
#define F16_REBIAS (112 << 23) /* F32's exponents less F16's */

/* By masks: compilers do not make vectors of a choice with arithmetic on either side. */
static inline uint32_t choose(bool first, uint32_t x, uint32_t y)
{
    const uint32_t mask = 0u - (uint32_t)first;
    return (x & mask) | (y & ~mask);
}

/* A number that does not overflow. */
static inline uint32_t round_bf16(uint32_t bits)
{
    return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}

/* Likewise. A subnormal half is rounded by adding 0.5, next to which floats have F16's smallest
 * steps. */
static inline uint32_t round_f16(uint32_t bits)
{
    const uint32_t size = bits & SIZE_BITS, sign = bits >> 16 & 0x8000u;
    const uint32_t small = bits_of(float_of(size) + 0.5f) - 0x3F000000u;
    const uint32_t normal = (size + 0xFFFu + (size >> 13 & 1u) - F16_REBIAS) >> 13;
    return sign | choose((int32_t)size < F16_NORMAL, small, normal);
}

/* A half that is a number: normal ones by their exponent, others as fraction * 2^-24. */
static inline float widen_f16(uint32_t half)
{
    const uint32_t size = half & 0x7FFFu, sign = half << 16 & 0x80000000u;
    const uint32_t small = bits_of((float)(int32_t)size * 0x1p-24f);
    return float_of(sign | choose((int32_t)size < 0x400, small, (size << 13) + F16_REBIAS));
}

static bool exceeds(float x, int32_t largest)
{
    return (int32_t)(bits_of(x) & SIZE_BITS) > largest;
}

/* Any float, to the type and back, and as it is stored. */
static float rounded(enum dtype dtype, float x, uint16_t *stored)
{
    const uint32_t bits = bits_of(x);
    if (x != x)
        *stored = dtype == DTYPE_BF16 ? (uint16_t)(bits >> 16 | 0x40u) : 0x7E00;
    else if (exceeds(x, dtype == DTYPE_BF16 ? LARGEST_BF16 : LARGEST_F16))
        *stored = (uint16_t)((bits >> 16 & 0x8000u) |
                             (dtype == DTYPE_BF16 ? F32_INFINITE >> 16 : F16_INFINITE));
    else
        *stored = (uint16_t)(dtype == DTYPE_BF16 ? round_bf16(bits) : round_f16(bits));
    return dtype == DTYPE_BF16 ? dtype_from_bf16(*stored) : dtype_from_f16(*stored);
}

/* out = round(w + d), where `twice` is set of d rounded first. False when a finite w gave none. */
static bool add_one_by_one(enum dtype dtype, const uint16_t *w, const real *d, int64_t n,
                           bool twice, uint16_t *out)
{
    bool ok = true;
    for (int64_t i = 0; i < n; i++) {
        const float x = dtype == DTYPE_BF16 ? dtype_from_bf16(w[i]) : dtype_from_f16(w[i]);
        uint16_t change;
        const float delta = twice ? rounded(dtype, (float)d[i], &change) : (float)d[i];
        const float y = rounded(dtype, x + delta, &out[i]);
        ok = ok && !(exceeds(y, F32_INFINITE - 1) && !exceeds(x, F32_INFINITE - 1));
    }
    return ok;
}

/* Negative where the float's size exceeds the largest: many are gathered by |, without a branch. */
static inline int32_t room(uint32_t bits, int32_t largest)
{
    return largest - (int32_t)(bits & SIZE_BITS);
}

static inline bool add_bf16(const uint16_t *restrict w, const real *restrict d, int64_t n,
                            const bool twice, uint16_t *restrict out)
{
    int32_t rooms = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t change = bits_of((float)d[i]);
        const float delta = float_of(twice ? round_bf16(change) << 16 : change);
        const uint32_t y = bits_of(float_of((uint32_t)w[i] << 16) + delta);
        rooms |= room(y, LARGEST_BF16) | (twice ? room(change, LARGEST_BF16) : 0);
        out[i] = (uint16_t)round_bf16(y);
    }
    return rooms >= 0 || add_one_by_one(DTYPE_BF16, w, d, n, twice, out);
}

static inline bool add_f16(const uint16_t *restrict w, const real *restrict d, int64_t n,
                           const bool twice, uint16_t *restrict out)
{
    int32_t rooms = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t change = bits_of((float)d[i]), half = w[i];
        const float delta = twice ? widen_f16(round_f16(change)) : float_of(change);
        const uint32_t y = bits_of(widen_f16(half) + delta);
        rooms |= room(y, LARGEST_F16) | (twice ? room(change, LARGEST_F16) : 0) |
                 (F16_INFINITE - 1 - (int32_t)(half & 0x7FFFu));
        out[i] = (uint16_t)round_f16(y);
    }
    return rooms >= 0 || add_one_by_one(DTYPE_F16, w, d, n, twice, out);
}

static bool add_f32(const float *restrict w, const real *restrict d, int64_t n, float *restrict out)
{
    int32_t lost = 0;
    for (int64_t i = 0; i < n; i++) {
        const float y = (float)((real)w[i] + d[i]);
        lost |= room(bits_of(y), F32_INFINITE - 1) & ~room(bits_of(w[i]), F32_INFINITE - 1);
        out[i] = y;
    }
    return lost >= 0;
}

/* n <= RUN elements; w of any alignment. */
static bool add_run(const struct lora_merge *m, const char *w, const real *d, int64_t n, char *out)
{
    union {
        float f32[RUN];
        uint16_t half[RUN];
    } copy;
    const size_t size = dtype_size(m->dtype);
    const void *from = w;
    if ((uintptr_t)w % size != 0)
        from = memcpy(&copy, w, (size_t)n * size);
    if (m->dtype == DTYPE_F32)
        return add_f32(from, d, n, (float *)(void *)out);
    uint16_t *to = (uint16_t *)(void *)out;
    if (m->dtype == DTYPE_BF16)
        return is_embedding(m) ? add_bf16(from, d, n, true, to) : add_bf16(from, d, n, false, to);
    return is_embedding(m) ? add_f16(from, d, n, true, to) : add_f16(from, d, n, false, to);
}

/* ---- the product ---- */

struct tile {
    int64_t row, n_row, col, n_col;
};

/* B's rows of the tile, transposed: (rank, n_row). */
static void transpose_rows(const struct lora_slot *slot, const struct tile *t, real *out)
{
    for (int64_t i = 0; i < t->n_row; i++) {
        for (int64_t k = 0; k < slot->rank; k++)
            out[k * t->n_row + i] = slot->b[(t->row + i) * slot->rank + k];
    }
}

/* change (n_row, n_col) = scale B A of the tile; rows_of_b as transpose_rows leaves them. */
static void compute_change(struct backend *be, const struct lora_merge *m, const struct tile *t,
                           const real *rows_of_b, real *change)
{
    const struct lora_slot *slot = m->slot;
    struct gemm_args g = { .m = t->n_row,
                           .n = t->n_col,
                           .k = slot->rank,
                           .trans_a = true,
                           .b_dtype = DTYPE_REAL,
                           .c = change,
                           .ldc = t->n_col,
                           .c_real = true,
                           .alpha = slot->scale };
    if (is_embedding(m)) { /* A^T B^T: A's columns are tokens */
        g.a = acts_in(slot->a + t->row);
        g.lda = slot->module->in;
        g.b = slot->b + t->col * slot->rank;
        g.ldb = slot->rank;
        g.trans_b = true;
    } else {
        g.a = acts_in(rows_of_b);
        g.lda = t->n_row;
        g.b = slot->a + t->col;
        g.ldb = slot->module->in;
    }
    op_gemm(be, &g);
}

size_t lora_merge_scratch(const struct backend *be, const struct lora_merge *m)
{
    const struct gemm_args largest = {
        .m = TILE_ROWS, .n = TILE_COLS, .k = m->slot->rank, .b_dtype = DTYPE_REAL
    };
    const size_t of_gemm = be->k->gemm_scratch(be, &largest);
    const size_t tile = (size_t)TILE_ROWS * TILE_COLS * sizeof(real);
    const size_t rows_of_b = (size_t)TILE_ROWS * (size_t)m->slot->rank * sizeof(real);
    return of_gemm + tile + rows_of_b + 3 * (size_t)ARENA_ALIGN;
}

static bool merge_tile(struct backend *be, const struct lora_merge *m, const struct tile *t,
                       const real *rows_of_b, real *change, const char *w, char *out)
{
    const size_t size = dtype_size(m->dtype);
    const int64_t n_col = lora_merge_n_col(m);
    bool ok = true;
    compute_change(be, m, t, rows_of_b, change);
    for (int64_t i = 0; i < t->n_row; i++) {
        for (int64_t j = 0; j < t->n_col; j += RUN) {
            const size_t at = (size_t)(i * n_col + t->col + j) * size;
            const int64_t n = t->n_col - j < RUN ? t->n_col - j : RUN;
            ok = add_run(m, w + at, change + i * t->n_col + j, n, out + at) && ok;
        }
    }
    return ok;
}

bool lora_merge_rows(struct backend *be, const struct lora_merge *m, int64_t first, int64_t n,
                     const void *w, void *out)
{
    assert(m->dtype == DTYPE_F32 || m->dtype == DTYPE_BF16 || m->dtype == DTYPE_F16);
    assert((uintptr_t)out % dtype_size(m->dtype) == 0);
    assert(first >= 0 && n >= 0 && first + n <= lora_merge_n_row(m));
    const int64_t n_col = lora_merge_n_col(m);
    const size_t row_bytes = (size_t)n_col * dtype_size(m->dtype);
    const size_t mark = arena_mark(be->scratch);
    real *change = arena_reals(be->scratch, (int64_t)TILE_ROWS * TILE_COLS);
    real *rows_of_b = arena_reals(be->scratch, TILE_ROWS * m->slot->rank);
    bool ok = true;
    for (int64_t i = 0; i < n; i += TILE_ROWS) {
        struct tile t = { .row = first + i, .n_row = n - i < TILE_ROWS ? n - i : TILE_ROWS };
        if (!is_embedding(m))
            transpose_rows(m->slot, &t, rows_of_b);
        for (; t.col < n_col; t.col += TILE_COLS) {
            t.n_col = n_col - t.col < TILE_COLS ? n_col - t.col : TILE_COLS;
            ok = merge_tile(be, m, &t, rows_of_b, change, (const char *)w + (size_t)i * row_bytes,
                            (char *)out + (size_t)i * row_bytes) &&
                 ok;
        }
    }
    arena_rewind(be->scratch, mark);
    return ok;
}
