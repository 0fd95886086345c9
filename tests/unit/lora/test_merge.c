/* W + scale B A: every bit against the definition, element by element, with each instruction set;
 * every half there is; overflow. */
#include "lora/merge.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/rng.h"
#include "kernels/cpu/cpu.h"
#include "tests/support/support.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const enum dtype types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };

/* ---- the definition, apart from the code under test ---- */

/* round(x) of the type by the distance of its neighbours there. */
static double nearest(enum dtype dtype, double x)
{
    const int digits = dtype == DTYPE_F32 ? 24 : dtype == DTYPE_BF16 ? 8 : 11;
    const int lowest = dtype == DTYPE_F16 ? -14 : -126;
    const double largest = dtype == DTYPE_F16    ? 65504
                           : dtype == DTYPE_BF16 ? 0x1.FEp127
                                                 : 0x1.FFFFFEp127;
    int exponent = 0;
    if (!isfinite(x) || x == 0)
        return x;
    frexp(x, &exponent); /* 0.5 <= |x| / 2^exponent < 1 */
    if (exponent - 1 < lowest)
        exponent = lowest + 1;
    const double y = ldexp(nearbyint(ldexp(x, digits - exponent)), exponent - digits);
    return fabs(y) > largest ? copysign((double)INFINITY, x) : y;
}

static double stored(enum dtype dtype, const void *data, int64_t i)
{
    real x = 0;
    dtype_to_real(dtype, (const char *)data + (size_t)i * dtype_size(dtype), 1, &x);
    return (double)x;
}

/* a b + sum, with one rounding or two. */
static real next_sum(bool fused, real a, real b, real sum)
{
    const volatile real product = a * b;
#if REAL_IS_DOUBLE
    return fused ? fma(a, b, sum) : product + sum;
#else
    return fused ? fmaf(a, b, sum) : product + sum;
#endif
}

/* Element (row, col) of the merged matrix. */
static double expected(bool fused, const struct lora_merge *m, int64_t row, int64_t col, double w)
{
    const struct lora_slot *s = m->slot;
    const bool embedding = s->module->kind == LORA_EMBED_TOKENS;
    const int64_t in = embedding ? row : col, out = embedding ? col : row;
    real sum = 0;
    for (int64_t k = 0; k < s->rank; k++)
        sum = next_sum(fused, s->b[out * s->rank + k], s->a[k * s->module->in + in], sum);
    const volatile real change = sum * s->scale;
    if (m->dtype == DTYPE_F32)
        return (double)(float)((real)w + change);
    const float delta = (float)change;
    const float once = embedding ? (float)nearest(m->dtype, (double)delta) : delta;
    return nearest(m->dtype, (double)((float)w + once));
}

/* ---- matrices ---- */

struct matrix {
    struct lora_module module;
    struct lora_slot slot;
    struct lora_merge merge;
    int64_t n_row, n_col;
    char *w, *out;
    struct arena scratch;
    struct backend be;
};

static void use(struct matrix *m, const char *isa)
{
    cpu_backend_init(&m->be, &m->scratch, 1);
    if (isa != NULL) {
        m->be.k = cpu_ops_by_name(isa);
        m->be.name = isa;
    }
    struct err err = { 0 };
    arena_free(&m->scratch);
    assert_true(arena_init(&m->scratch, "merge", lora_merge_scratch(&m->be, &m->merge), &err));
}

static real *reals(int64_t n, uint64_t seed, double size)
{
    real *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (real)(float)(size * (2 * rng_uniform(seed, RNG_INIT_WEIGHTS, 0, (uint64_t)i) - 1));
    return x;
}

/* A random element of the type, as it is stored. */
static void put(enum dtype dtype, char *to, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (dtype == DTYPE_F32) {
        memcpy(to, &x, sizeof x);
    } else if (dtype == DTYPE_BF16) {
        const uint16_t half = (uint16_t)(bits >> 16);
        memcpy(to, &half, sizeof half);
    } else { /* normal halves of that sign and fraction, 2^-6 .. 2^-3 */
        const uint16_t half =
            (uint16_t)((bits >> 16 & 0x8000u) | (0x2400u + (bits >> 13 & 0xFFFu)));
        memcpy(to, &half, sizeof half);
    }
}

static void open_matrix(struct matrix *m, enum lora_kind kind, enum dtype dtype, int64_t n_row,
                        int64_t n_col, int64_t rank)
{
    const bool embedding = kind == LORA_EMBED_TOKENS;
    *m = (struct matrix){ .n_row = n_row, .n_col = n_col };
    m->module = (struct lora_module){ .kind = kind,
                                      .in = embedding ? n_row : n_col,
                                      .out = embedding ? n_col : n_row };
    m->slot = (struct lora_slot){ .module = &m->module, .rank = rank, .scale = (real)1.7f };
    m->slot.a = reals(rank * m->module.in, 1, 0.3);
    m->slot.b = reals(rank * m->module.out, 2, 0.3);
    m->merge = (struct lora_merge){ .slot = &m->slot, .dtype = dtype };
    assert_int_equal(lora_merge_n_row(&m->merge), n_row);
    assert_int_equal(lora_merge_n_col(&m->merge), n_col);
    const size_t size = dtype_size(dtype), n = (size_t)(n_row * n_col);
    m->w = malloc(n * size);
    m->out = calloc(n + 1, size);
    assert_true(m->w != NULL && m->out != NULL);
    for (size_t i = 0; i < n; i++)
        put(dtype, m->w + i * size, (float)(rng_uniform(3, RNG_INIT_WEIGHTS, 0, i) - 0.5) / 8);
    use(m, NULL);
}

static void close_matrix(struct matrix *m)
{
    arena_free(&m->scratch);
    free(m->slot.a);
    free(m->slot.b);
    free(m->w);
    free(m->out);
}

static bool merge_all(struct matrix *m)
{
    return lora_merge_rows(&m->be, &m->merge, 0, m->n_row, m->w, m->out);
}

/* ---- tests ---- */

/* Whether the variant, as it was compiled (without optimization none does), multiplies and adds
 * with one rounding: (1 + e)^2 - (1 + 2 e) is then e^2, else 0. */
static bool is_fused(const char *isa)
{
    struct matrix m;
    open_matrix(&m, LORA_Q_PROJ, DTYPE_F32, 1, 1, 2);
    use(&m, isa);
    const real e = sizeof(real) == sizeof(float) ? (real)0x1p-12 : (real)0x1p-27;
    memset(m.w, 0, sizeof(float));
    m.slot.scale = 1;
    m.slot.b[0] = -(1 + 2 * e);
    m.slot.a[0] = 1;
    m.slot.b[1] = m.slot.a[1] = 1 + e;
    assert_true(merge_all(&m));
    const double rest = stored(DTYPE_F32, m.out, 0);
    close_matrix(&m);
    assert_true(rest == 0 || rest == (double)(e * e));
    return rest != 0;
}

static void check_bits(struct matrix *m, bool fused)
{
    assert_true(merge_all(m));
    for (int64_t i = 0; i < m->n_row * m->n_col; i++) {
        const double w = stored(m->merge.dtype, m->w, i);
        const double have = stored(m->merge.dtype, m->out, i);
        const double want = expected(fused, &m->merge, i / m->n_col, i % m->n_col, w);
        if (have != want)
            fail_msg("%s, %s: element %d is %.9g, expected %.9g", m->be.name,
                     dtype_name(m->merge.dtype), (int)i, have, want);
    }
}

static void every_bit_is_as_defined(void **state)
{
    (void)state;
    static const struct {
        int64_t n_row, n_col, rank;
    } shapes[] = { { 1, 1, 1 },    { 1, 24, 4 },   { 5, 24, 16 },    { 24, 3, 16 },  { 61, 17, 5 },
                   { 7, 600, 16 }, { 300, 40, 3 }, { 243, 515, 32 }, { 20, 30, 128 } };
    static const char *const isas[] = { "baseline", "avx2", "avx512" };
    int n_isa = 0;
    for (size_t i = 0; i < COUNT(isas); i++) {
        if (cpu_ops_by_name(isas[i]) == NULL)
            continue;
        n_isa++;
        const bool fused = is_fused(isas[i]);
        for (size_t t = 0; t < COUNT(types); t++) {
            for (size_t k = 0; k < 2 * COUNT(shapes); k++) {
                struct matrix m;
                open_matrix(&m, k % 2 == 0 ? LORA_DOWN_PROJ : LORA_EMBED_TOKENS, types[t],
                            shapes[k / 2].n_row, shapes[k / 2].n_col, shapes[k / 2].rank);
                use(&m, isas[i]);
                check_bits(&m, fused);
                close_matrix(&m);
            }
        }
    }
    assert_true(n_isa >= 1);
}

static void rows_are_the_same_in_any_pieces_and_place(void **state)
{
    (void)state;
    static const int64_t pieces[] = { 1, 7, 240, 241 };
    for (size_t t = 0; t < COUNT(types); t++) {
        for (size_t k = 0; k < 2 * COUNT(pieces); k++) {
            struct matrix m;
            open_matrix(&m, k % 2 == 0 ? LORA_UP_PROJ : LORA_EMBED_TOKENS, types[t], 250, 37, 4);
            assert_true(merge_all(&m));
            const size_t row = (size_t)m.n_col * dtype_size(types[t]), n = row * 250;
            char *odd = malloc(n + 1), *out = malloc(n);
            assert_true(odd != NULL && out != NULL);
            memcpy(odd + 1, m.w, n);
            for (int64_t i = 0; i < m.n_row; i += pieces[k / 2]) {
                const int64_t some = m.n_row - i < pieces[k / 2] ? m.n_row - i : pieces[k / 2];
                assert_true(lora_merge_rows(&m.be, &m.merge, i, some, odd + 1 + (size_t)i * row,
                                            out + (size_t)i * row));
            }
            assert_memory_equal(out, m.out, n);
            free(odd);
            free(out);
            close_matrix(&m);
        }
    }
}

/* A change of nothing: each value of the type stays, and none is lost. */
static void every_half_comes_back(void **state)
{
    (void)state;
    for (size_t k = 0; k < 4; k++) {
        struct matrix m;
        open_matrix(&m, k % 2 == 0 ? LORA_Q_PROJ : LORA_EMBED_TOKENS,
                    k < 2 ? DTYPE_BF16 : DTYPE_F16, 256, 256, 1);
        memset(m.slot.a, 0, (size_t)m.module.in * sizeof *m.slot.a);
        for (uint32_t i = 0; i < 65536; i++)
            memcpy(m.w + 2 * i, &(uint16_t){ (uint16_t)i }, 2);
        assert_true(merge_all(&m));
        for (int64_t i = 0; i < 65536; i++) {
            const double w = stored(m.merge.dtype, m.w, i), y = stored(m.merge.dtype, m.out, i);
            if (!(y == w || (isnan(y) && isnan(w))))
                fail_msg("%s %04x becomes %g", dtype_name(m.merge.dtype), (unsigned)i, y);
        }
        close_matrix(&m);
    }
}

/* One element W + 1 * b * 1. */
static double one(enum lora_kind kind, enum dtype dtype, double w, double b, bool *fits)
{
    struct matrix m;
    open_matrix(&m, kind, dtype, 1, 1, 1);
    m.slot.a[0] = 1;
    m.slot.b[0] = (real)b;
    m.slot.scale = 1;
    bool found = dtype == DTYPE_F32;
    if (found)
        memcpy(m.w, &(float){ (float)w }, 4);
    for (uint32_t i = 0; i < 65536 && !found; i++) {
        memcpy(m.w, &(uint16_t){ (uint16_t)i }, 2);
        found = stored(dtype, m.w, 0) == w;
    }
    assert_true(found);
    *fits = merge_all(&m);
    const double y = stored(dtype, m.out, 0);
    close_matrix(&m);
    return y;
}

static void ties_go_to_even_and_the_embedding_s_change_is_rounded_first(void **state)
{
    (void)state;
    const double more = 1 + 0x1p-9; /* just past halfway; nothing of it is left in BF16 */
    static const struct {
        enum dtype dtype;
        double w, step; /* of the type at 1 */
    } cases[] = { { DTYPE_BF16, 1, 0x1p-7 }, { DTYPE_F16, 1, 0x1p-10 } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const enum dtype dtype = cases[i].dtype;
        const double step = cases[i].step, past = dtype == DTYPE_BF16 ? more : 1 + 0x1p-12;
        bool fits = false;
        assert_true(one(LORA_Q_PROJ, dtype, 1, step / 2, &fits) == 1 && fits);
        assert_true(one(LORA_Q_PROJ, dtype, 1 + step, step / 2, &fits) == 1 + 2 * step && fits);
        assert_true(one(LORA_Q_PROJ, dtype, 1, step / 2 * past, &fits) == 1 + step && fits);
        assert_true(one(LORA_EMBED_TOKENS, dtype, 1, step / 2 * past, &fits) == 1 && fits);
        assert_true(one(LORA_EMBED_TOKENS, dtype, 1, step, &fits) == 1 + step && fits);
    }
}

static void what_does_not_fit_the_type_is_told(void **state)
{
    (void)state;
    static const struct {
        enum dtype dtype;
        double w, b, want;
        bool fits;
    } cases[] = {
        { DTYPE_F16, 65504, 15, 65504, true },
        { DTYPE_F16, 65504, 16, (double)INFINITY, false },
        { DTYPE_F16, -65504, -16, -(double)INFINITY, false },
        { DTYPE_F16, (double)INFINITY, 1, (double)INFINITY, true },
        { DTYPE_F16, 1, 0x1p30, (double)INFINITY, false },
        { DTYPE_BF16, 0x1.FEp127, 0x1p118, 0x1.FEp127, true },
        { DTYPE_BF16, 0x1.FEp127, 0x1p119, (double)INFINITY, false },
        { DTYPE_BF16, -(double)INFINITY, 1, -(double)INFINITY, true },
        { DTYPE_F32, 0x1.FFFFFEp127, 0x1p100, 0x1.FFFFFEp127, true },
        { DTYPE_F32, 0x1.FFFFFEp127, 0x1p104, (double)INFINITY, false },
        { DTYPE_F32, (double)INFINITY, 1, (double)INFINITY, true },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool fits = false;
        const double y = one(LORA_O_PROJ, cases[i].dtype, cases[i].w, cases[i].b, &fits);
        if (y != cases[i].want || fits != cases[i].fits)
            fail_msg("case %d: %g, %d", (int)i, y, fits);
    }
    bool fits = true; /* the change alone does not fit, and is rounded first */
    assert_true(isinf(one(LORA_EMBED_TOKENS, DTYPE_F16, -65504, 65536, &fits)) && !fits);
    assert_true(one(LORA_Q_PROJ, DTYPE_F16, -65504, 65536, &fits) == 32 && fits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bit_is_as_defined),
        cmocka_unit_test(rows_are_the_same_in_any_pieces_and_place),
        cmocka_unit_test(every_half_comes_back),
        cmocka_unit_test(ties_go_to_even_and_the_embedding_s_change_is_rounded_first),
        cmocka_unit_test(what_does_not_fit_the_type_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
