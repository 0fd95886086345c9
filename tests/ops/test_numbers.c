/* Casts, copies, sums and random numbers: exact where they must be, and the same bits for any
 * number of threads. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREAD = 3 };

static struct test_backend backend;

/* ---- casts ---- */

static const enum dtype types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_REAL };
enum { N_TYPE = sizeof types / sizeof *types };

static void cast(enum dtype from_dtype, const void *from, enum dtype to_dtype, void *to, int64_t n)
{
    op_cast(&backend.be,
            &(struct cast_args){
                .from = from, .to = to, .n = n, .from_dtype = from_dtype, .to_dtype = to_dtype });
}

static double half_value(enum dtype dtype, uint16_t bits)
{
    return (double)(dtype == DTYPE_BF16 ? dtype_from_bf16(bits) : dtype_from_f16(bits));
}

/* A finite number of a 16-bit type, its neighbour away from zero, what lies in the middle, and the
 * two numbers beside that; signed. */
enum { AT_NUMBER, AT_MIDDLE, BELOW_MIDDLE, ABOVE_MIDDLE, N_PLACE };

struct places {
    double at[N_PLACE];
    uint16_t expected[N_PLACE];
};

static struct places places_of(enum dtype dtype, uint16_t bits, bool negative, bool as_float)
{
    const uint16_t sign = negative ? 0x8000u : 0, next = (uint16_t)(bits + 1);
    const double low = half_value(dtype, bits), high = half_value(dtype, next);
    /* Past the largest number lies infinity, where the next would be. */
    const double step = isinf(high) ? low - half_value(dtype, (uint16_t)(bits - 1)) : high - low;
    const double middle = low + step / 2;
    struct places p = { .expected = { bits, (uint16_t)(bits + (bits & 1)), bits, next } };
    p.at[AT_NUMBER] = low;
    p.at[AT_MIDDLE] = middle;
    p.at[BELOW_MIDDLE] = as_float ? (double)nextafterf((float)middle, 0) : nextafter(middle, 0);
    p.at[ABOVE_MIDDLE] =
        as_float ? (double)nextafterf((float)middle, INFINITY) : nextafter(middle, HUGE_VAL);
    for (int i = 0; i < N_PLACE; i++) {
        p.at[i] = negative ? -p.at[i] : p.at[i];
        p.expected[i] |= sign;
    }
    return p;
}

/* All numbers of a 16-bit type from F32 (from_dtype), or from the CPU's real. */
static void check_rounding(enum dtype from_dtype, enum dtype dtype)
{
    const uint16_t infinity = dtype == DTYPE_BF16 ? 0x7F80u : 0x7C00u;
    const int64_t n = (int64_t)infinity * 2 * N_PLACE;
    const bool is_real = from_dtype == DTYPE_REAL;
    real *as_real = test_malloc((size_t)n * sizeof *as_real);
    float *as_float = test_malloc((size_t)n * sizeof *as_float);
    uint16_t *expected = test_malloc((size_t)n * sizeof *expected);
    uint16_t *is = test_malloc((size_t)n * sizeof *is);
    for (int64_t i = 0; i < n; i += N_PLACE) {
        const uint16_t bits = (uint16_t)(i / N_PLACE / 2);
        const struct places p =
            places_of(dtype, bits, i / N_PLACE % 2, !is_real || sizeof(real) == sizeof(float));
        for (int j = 0; j < N_PLACE; j++) {
            as_real[i + j] = (real)p.at[j];
            as_float[i + j] = (float)p.at[j];
            expected[i + j] = p.expected[j];
        }
    }
    cast(from_dtype, is_real ? (const void *)as_real : as_float, dtype, is, n);
    for (int64_t i = 0; i < n; i++) {
        if (is[i] != expected[i])
            fail_msg("%a as %s is 0x%04X, expected 0x%04X",
                     is_real ? (double)as_real[i] : (double)as_float[i], dtype_name(dtype), is[i],
                     expected[i]);
    }
    test_free(as_real);
    test_free(as_float);
    test_free(expected);
    test_free(is);
}

static void every_half_and_what_lies_between_two_is_rounded_to_nearest_even(void **state)
{
    (void)state;
    check_rounding(DTYPE_F32, DTYPE_BF16);
    check_rounding(DTYPE_F32, DTYPE_F16);
    check_rounding(DTYPE_REAL, DTYPE_BF16);
    check_rounding(DTYPE_REAL, DTYPE_F16);
}

static void every_half_comes_back_as_it_was(void **state)
{
    (void)state;
    enum { ALL = 1 << 16 };
    static uint16_t all[ALL], back[ALL];
    static real wide[ALL];
    for (int i = 0; i < ALL; i++)
        all[i] = (uint16_t)i;
    for (int type = 1; type <= 2; type++) {
        cast(types[type], all, DTYPE_REAL, wide, ALL);
        cast(DTYPE_REAL, wide, types[type], back, ALL);
        for (int i = 0; i < ALL; i++) {
            const double value = half_value(types[type], all[i]);
            if (isnan(value))
                assert_true(isnan(wide[i]) && isnan(half_value(types[type], back[i])));
            else
                assert_true((double)wide[i] == value && back[i] == all[i]);
        }
    }
}

/* One rounding, so it may go by way of the CPU's real where the first step is exact. */
static void every_pair_of_types_rounds_once(void **state)
{
    (void)state;
    enum { SOME = 4097, GUARD = sizeof(double) };
    real *values = test_random(SOME, 1, 30), *wide = test_zeros(SOME);
    double from[SOME], to[SOME + 1], expected[SOME], one[1]; /* room for any type */
    for (int i = 0; i < N_TYPE * N_TYPE; i++) {
        const enum dtype a = types[i / N_TYPE], b = types[i % N_TYPE];
        const size_t bytes = SOME * dtype_size(b);
        cast(DTYPE_REAL, values, a, from, SOME);
        dtype_to_real(a, from, SOME, wide);
        cast(DTYPE_REAL, wide, b, expected, SOME);
        for (int n_thread = 1; n_thread <= MAX_THREAD; n_thread++) {
            backend.be.n_thread = n_thread;
            memset(to, 0xA5, sizeof to);
            cast(a, from, b, to, SOME);
            assert_memory_equal(to, expected, bytes);
            for (size_t g = 0; g < GUARD; g++)
                assert_int_equal(((const unsigned char *)to)[bytes + g], 0xA5);
        }
        cast(a, from, b, one, 1);
        assert_memory_equal(one, expected, dtype_size(b));
    }
    test_release(values);
    test_release(wide);
}

static void infinities_nans_and_zeros_keep_what_they_are(void **state)
{
    (void)state;
    static const double values[] = { HUGE_VAL, -HUGE_VAL, 0.0, -0.0, 1e30, -1e30 };
    enum { SOME = sizeof values / sizeof *values };
    for (int i = 0; i < N_TYPE * N_TYPE; i++) {
        const enum dtype a = types[i / N_TYPE], b = types[i % N_TYPE];
        real x[SOME], y[SOME];
        double from[SOME], to[SOME]; /* room for any type */
        for (int j = 0; j < SOME; j++)
            x[j] = (real)values[j];
        cast(DTYPE_REAL, x, a, from, SOME);
        cast(a, from, b, to, SOME);
        dtype_to_real(b, to, SOME, y);
        const bool half = a == DTYPE_F16 || b == DTYPE_F16;
        for (int j = 0; j < SOME; j++) {
            assert_true(!signbit(y[j]) == !signbit(values[j]));
            assert_true(j < 4 ? (double)y[j] == values[j] : !half == !isinf(y[j]));
        }
    }
    /* The NaN whose bits would all be shifted out. */
    const uint32_t bits[] = { 0x7F800001u, 0xFF800001u, 0x7FFFFFFFu };
    for (int i = 0; i < N_TYPE; i++) {
        real y[3];
        double to[3];
        cast(DTYPE_F32, bits, types[i], to, 3);
        dtype_to_real(types[i], to, 3, y);
        for (int j = 0; j < 3; j++)
            assert_true(isnan(y[j]) && !signbit(y[j]) == (j != 1));
    }
}

/* ---- copies ---- */

static void copies_and_zeros_are_of_bytes(void **state)
{
    (void)state;
    char from[40], to[40];
    for (int i = 0; i < 40; i++)
        from[i] = (char)(i + 1);
    const struct copy_args a = { .from = from + 1, .to = to + 3, .bytes = 29 };
    void (*const ops[])(struct backend *, const struct copy_args *) = { op_copy, op_to_device,
                                                                        op_to_host };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        memset(to, 77, sizeof to);
        ops[i](&backend.be, &a);
        assert_memory_equal(to + 3, from + 1, 29);
        assert_true(to[2] == 77 && to[32] == 77);
        ops[i](&backend.be, &(struct copy_args){ .bytes = 0 });
    }
    op_zero(&backend.be, &(struct zero_args){ .y = to + 5, .bytes = 7 });
    assert_true(to[4] == from[2] && to[5] == 0 && to[11] == 0 && to[12] == from[10]);
    op_zero(&backend.be, &(struct zero_args){ .bytes = 0 });
}

/* ---- sums ---- */

static void sums_are_those_of_a_plain_loop_for_any_number_of_threads(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 0, 1, 4095, 4096, 4097, 20011 };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int64_t n = sizes[s];
        real *x = test_random(n, 5, 1);
        double plain = 0, squares = 0, one[2] = { 0, 0 };
        for (int64_t i = 0; i < n; i++) {
            plain += (double)x[i];
            squares += (double)x[i] * (double)x[i];
        }
        for (int n_thread = 1; n_thread <= MAX_THREAD; n_thread++) {
            double sums[2] = { 1000, nan("") }; /* added to; written */
            backend.be.n_thread = n_thread;
            op_add_sum(&backend.be,
                       &(struct add_sum_args){ .x = x, .sum = &sums[0], .scale = -0.5, .n = n });
            op_sum_squares(&backend.be,
                           &(struct sum_squares_args){ .x = x, .sum = &sums[1], .n = n });
            /* Double sums in another order: 2e4 additions, each off by up to 2e-12. */
            assert_true(fabs(sums[0] - (1000 - 0.5 * plain)) < 1e-9);
            assert_true(fabs(sums[1] - squares) < 1e-9);
            if (n_thread == 1)
                memcpy(one, sums, sizeof one);
            assert_memory_equal(sums, one, sizeof one);
        }
        test_release(x);
    }
}

/* load_balancing_loss_func of one document alone: the shares of choices and of probability. */
static double plain_aux_loss(const real *f, const real *psum, int n_expert, double rows)
{
    double loss = 0;
    for (int e = 0; e < n_expert; e++)
        loss += (double)f[e] / rows * ((double)psum[e] / rows);
    return n_expert * loss;
}

static void load_balancing_loss_is_that_of_each_document_by_its_length(void **state)
{
    (void)state;
    enum { N_DOC = 4, E = 5, N_LAYER = 3 };
    static const int32_t doc_start[N_DOC + 1] = { 0, 1, 6, 8, 78 };
    const double aux_scale = 0.01, tolerance = REAL_IS_DOUBLE ? 1e-14 : 1e-6;
    real *f = test_random(N_DOC * E, 1, 1), *psum = test_random(N_DOC * E, 2, 1);
    real *scale = test_zeros(N_DOC);
    for (int i = 0; i < N_DOC * E; i++) {
        f[i] = (real)(int)(f[i] * f[i] * 10);
        psum[i] *= psum[i];
    }
    double sum = 7, expected = 7;
    op_aux_loss(&backend.be, &(struct aux_loss_args){ .f = f,
                                                      .psum = psum,
                                                      .doc_start = doc_start,
                                                      .scale = scale,
                                                      .sum = &sum,
                                                      .aux_scale = aux_scale,
                                                      .n_doc = N_DOC,
                                                      .n_expert = E,
                                                      .n_layer = N_LAYER });
    for (int d = 0; d < N_DOC; d++) {
        const double length = doc_start[d + 1] - doc_start[d], rows = N_LAYER * length;
        expected += length * plain_aux_loss(f + d * E, psum + d * E, E, rows);
        const double s = aux_scale * length * E / (rows * rows);
        assert_true(fabs((double)scale[d] - s) < tolerance * s);
    }
    assert_true(fabs(sum - expected) < 1e-12 * expected); /* double, in another order */
    test_release(f);
    test_release(psum);
    test_release(scale);
}

/* ---- random numbers ---- */

static void fill(void *y, enum dtype dtype, int64_t n, double range, uint64_t seed, uint64_t tensor)
{
    op_random(&backend.be,
              &(struct random_args){
                  .y = y, .dtype = dtype, .n = n, .range = range, .seed = seed, .tensor = tensor });
}

/* Seed 7, tensor 3, range 0.02, also computed by a program of its own in another language. */
static const struct {
    int64_t at;
    float f32;
    uint16_t bf16;
} known[] = { { 0, 0x1.09211cp-5f, 0x3D05 },     { 1, -0x1.277bcap-5f, 0xBD14 },
              { 2, -0x1.448d3ap-7f, 0xBC22 },    { 3, 0x1.84889cp-9f, 0x3B42 },
              { 4095, -0x1.4c1726p-5f, 0xBD26 }, { 1000003, -0x1.e21dc8p-6f, 0xBCF1 } };
enum { N_KNOWN = sizeof known / sizeof *known, N_RANDOM = 1000004 };

static void random_numbers_are_known_and_depend_on_no_thread(void **state)
{
    (void)state;
    float *f32 = test_malloc(N_RANDOM * sizeof *f32);
    uint16_t *bf16 = test_malloc(N_RANDOM * sizeof *bf16), *one = test_malloc(N_RANDOM * 2);
    for (int n_thread = 1; n_thread <= MAX_THREAD; n_thread++) {
        backend.be.n_thread = n_thread;
        fill(f32, DTYPE_F32, N_RANDOM, 0.02, 7, 3);
        fill(bf16, DTYPE_BF16, N_RANDOM, 0.02, 7, 3);
        for (int i = 0; i < N_KNOWN; i++) {
            assert_true(f32[known[i].at] == known[i].f32);
            assert_int_equal(bf16[known[i].at], known[i].bf16);
        }
        if (n_thread == 1)
            memcpy(one, bf16, N_RANDOM * sizeof *bf16);
        assert_memory_equal(bf16, one, N_RANDOM * sizeof *bf16);
    }
    test_free(f32);
    test_free(bf16);
    test_free(one);
}

static void random_numbers_are_nearly_normal_and_other_for_another_seed_or_tensor(void **state)
{
    (void)state;
    enum { SOME = 100000 };
    float *x = test_malloc(SOME * sizeof *x);
    for (int i = 0; i < 3; i++) {
        fill(x, DTYPE_F32, SOME, 0.02, i == 1 ? 8 : 7, i == 2 ? 4 : 3);
        assert_true((x[0] == known[0].f32) == (i == 0));
        double sum = 0, squares = 0;
        for (int j = 0; j < SOME; j++) {
            sum += (double)x[j] / 0.02;
            squares += (double)x[j] / 0.02 * ((double)x[j] / 0.02);
        }
        /* Standard deviations of the mean and of the variance: 0.003 and 0.004. */
        assert_true(fabs(sum / SOME) < 0.015 && fabs(squares / SOME - 1) < 0.02);
    }
    test_free(x);
}

int main(void)
{
    test_backend_init(&backend, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_and_what_lies_between_two_is_rounded_to_nearest_even),
        cmocka_unit_test(every_half_comes_back_as_it_was),
        cmocka_unit_test(every_pair_of_types_rounds_once),
        cmocka_unit_test(infinities_nans_and_zeros_keep_what_they_are),
        cmocka_unit_test(copies_and_zeros_are_of_bytes),
        cmocka_unit_test(sums_are_those_of_a_plain_loop_for_any_number_of_threads),
        cmocka_unit_test(load_balancing_loss_is_that_of_each_document_by_its_length),
        cmocka_unit_test(random_numbers_are_known_and_depend_on_no_thread),
        cmocka_unit_test(random_numbers_are_nearly_normal_and_other_for_another_seed_or_tensor),
    };
    const int failed = cmocka_run_group_tests_name("numbers", tests, NULL, NULL);
    test_backend_free(&backend);
    return failed;
}
