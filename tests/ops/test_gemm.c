/* GEMM of every instruction set that this processor has, against a plain loop: all forms, stored
 * types, ragged ends, and the shapes that take ways of their own. (test_rows.c has the entry's
 * contract.) */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* f32 sums of up to 2100 products against double ones; in double only the order differs. */
static const double tolerance = REAL_IS_DOUBLE ? 1e-14 : 2e-6;

static const char *const variants[] = { "baseline", "avx2", "avx512" };
enum { N_VARIANT = 3, N_FORM = 4 };

struct product {
    struct gemm_args a;
    real *x, *b, *c, *expected;
    uint16_t *stored;
    int64_t n_c;
};

static double element_of_b(const struct gemm_args *a, int64_t l, int64_t j)
{
    const int64_t at = a->trans_b ? j * a->ldb + l : l * a->ldb + j;
    real value;
    dtype_to_real(a->b_dtype, (const char *)a->b + (size_t)at * dtype_size(a->b_dtype), 1, &value);
    return (double)value;
}

static void plain(const struct gemm_args *a, real *c)
{
    for (int64_t i = 0; i < a->m; i++) {
        for (int64_t j = 0; j < a->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < a->k; l++)
                sum += (double)reals_in(a->a)[a->trans_a ? l * a->lda + i : i * a->lda + l] *
                       element_of_b(a, l, j);
            real *e = &c[i * a->ldc + j];
            *e = (real)((double)a->alpha * sum + (a->beta == 0 ? 0 : (double)a->beta * (double)*e));
        }
    }
}

/* form: bit 0 transposes a, bit 1 b. pad: how much longer rows are than they must be. */
static void product_init(struct product *p, const int64_t shape[3], int form, int64_t pad,
                         enum dtype b_dtype)
{
    const int64_t m = shape[0], n = shape[1], k = shape[2];
    p->a = (struct gemm_args){ .m = m,
                               .n = n,
                               .k = k,
                               .trans_a = form & 1,
                               .trans_b = form & 2,
                               .b_dtype = b_dtype,
                               .alpha = (real)0.5,
                               .beta = (real)(form % 3),
                               .ldc = n + pad };
    p->a.lda = (p->a.trans_a ? m : k) + pad;
    p->a.ldb = (p->a.trans_b ? k : n) + pad;
    const int64_t n_b = p->a.ldb * (p->a.trans_b ? n : k);
    p->n_c = p->a.ldc * m;
    p->x = test_random(p->a.lda * (p->a.trans_a ? k : m), 1, 1);
    p->b = test_random(n_b, 2, 1);
    p->c = test_random(p->n_c, 3, 1);
    p->expected = test_random(p->n_c, 3, 1);
    p->stored = malloc((size_t)n_b * sizeof *p->stored);
    assert_non_null(p->stored);
    for (int64_t i = 0; i < n_b; i++)
        p->stored[i] = dtype_to_bf16((float)p->b[i]);
    p->a.a = acts_in(p->x);
    p->a.b = b_dtype == DTYPE_REAL ? (const void *)p->b : p->stored;
    p->a.c = p->c;
}

static void product_free(struct product *p)
{
    real *all[] = { p->x, p->b, p->c, p->expected };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
    free(p->stored);
}

static void check(struct test_backend *t, const int64_t shape[3], int form, int64_t pad,
                  enum dtype b_dtype)
{
    struct product p;
    product_init(&p, shape, form, pad, b_dtype);
    plain(&p.a, p.expected);
    op_gemm(&t->be, &p.a);
    const double error = test_relative_error(p.c, p.expected, p.n_c, 1e-30);
    if (!(error < tolerance))
        fail_msg("m %d n %d k %d, form %d, pad %d, type %s: relative error %.3g", (int)shape[0],
                 (int)shape[1], (int)shape[2], form, (int)pad, dtype_name(b_dtype), error);
    product_free(&p);
}

/* The ends of panels, tiles and blocks of every instruction set; single rows and few columns; the
 * two weight gradients of LoRA. */
static const int64_t shapes[][3] = {
    { 1, 1, 1 },     { 1, 40, 16 },   { 2, 33, 48 },    { 3, 70, 2080 }, { 5, 5, 5 },
    { 13, 17, 31 },  { 37, 8, 64 },   { 300, 8, 128 },  { 29, 7, 1040 }, { 50, 16, 32 },
    { 30, 12, 17 },  { 64, 64, 64 },  { 150, 130, 60 }, { 8, 130, 300 }, { 130, 8, 300 },
    { 24, 64, 257 }, { 25, 96, 513 }, { 64, 4, 7 },     { 31, 100, 4 },  { 97, 257, 9 },
};
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static void every_instruction_set_equals_a_plain_loop(void **state)
{
    (void)state;
    struct test_backend t;
    test_backend_init(&t, 2);
    int compared = 0;
    for (int v = 0; v < N_VARIANT; v++) {
        t.be.k = cpu_ops_by_name(variants[v]);
        for (int s = 0; s < N_SHAPE * N_FORM && t.be.k != NULL; s++) {
            check(&t, shapes[s / N_FORM], s % N_FORM, 0, DTYPE_REAL);
            check(&t, shapes[s / N_FORM], s % N_FORM, 3, DTYPE_REAL);
            check(&t, shapes[s / N_FORM], s % N_FORM, 1, DTYPE_BF16);
            compared++;
        }
    }
    assert_true(compared >= N_SHAPE * N_FORM);
    test_backend_free(&t);
}

static void expect_same_bits(const struct product *p, int n_thread)
{
    struct test_backend t;
    test_backend_init(&t, n_thread);
    struct gemm_args a = p->a;
    real *c = test_random(p->n_c, 3, 1);
    a.c = c;
    op_gemm(&t.be, &a);
    assert_memory_equal(c, p->c, (size_t)p->n_c * sizeof(real));
    test_release(c);
    test_backend_free(&t);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    struct test_backend t;
    test_backend_init(&t, 1);
    for (int s = 0; s < N_SHAPE * N_FORM; s++) {
        struct product p;
        product_init(&p, shapes[s / N_FORM], s % N_FORM, 1, DTYPE_REAL);
        op_gemm(&t.be, &p.a);
        for (int n_thread = 2; n_thread <= 5; n_thread += 3)
            expect_same_bits(&p, n_thread);
        product_free(&p);
    }
    test_backend_free(&t);
}

/* Chunks of tokens: the rows of a product are the same computed in parts. */
static void rows_do_not_depend_on_the_rows_beside_them(void **state)
{
    (void)state;
    static const int64_t cuts[][3] = { { 60, 70, 300 }, { 60, 8, 64 }, { 60, 40, 16 } };
    struct test_backend t;
    test_backend_init(&t, 2);
    for (size_t s = 0; s < sizeof cuts / sizeof *cuts; s++) {
        for (int form = 0; form < N_FORM; form += 2) {
            struct product p;
            product_init(&p, cuts[s], form, 0, DTYPE_REAL);
            op_gemm(&t.be, &p.a);
            struct gemm_args part = p.a;
            part.c = p.expected; /* begins as c did */
            part.m = 25;
            op_gemm(&t.be, &part);
            part.m = p.a.m - 25;
            part.a = act_in(&t.be, part.a, 25 * part.lda);
            part.c = p.expected + 25 * part.ldc;
            op_gemm(&t.be, &part);
            assert_memory_equal(p.expected, p.c, (size_t)p.n_c * sizeof(real));
            product_free(&p);
        }
    }
    test_backend_free(&t);
}

/* What beta 0 must not read, and what a product must not lose. */
static void only_what_is_asked_for_is_read(void **state)
{
    (void)state;
    struct test_backend t;
    test_backend_init(&t, 2);
    for (int s = 0; s < N_SHAPE; s++) {
        struct product p;
        product_init(&p, shapes[s], 0, 0, DTYPE_REAL);
        for (int64_t i = 0; i < p.n_c; i++)
            p.c[i] = (real)NAN;
        p.a.beta = 0;
        plain(&p.a, p.expected);
        op_gemm(&t.be, &p.a);
        assert_true(test_relative_error(p.c, p.expected, p.n_c, 1e-30) < tolerance);
        p.x[0] = (real)NAN;
        op_gemm(&t.be, &p.a);
        for (int64_t j = 0; j < p.a.n; j++)
            assert_true(isnan(p.c[j]));
        product_free(&p);
    }
    test_backend_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_equals_a_plain_loop),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(rows_do_not_depend_on_the_rows_beside_them),
        cmocka_unit_test(only_what_is_asked_for_is_read),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
