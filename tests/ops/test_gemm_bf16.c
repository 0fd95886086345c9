/* GEMM in bfloat16 against a plain loop over operands rounded first: the sums are f32, so only
 * their order differs. */
#include "tests/support/support.h"

#include <stdlib.h>

#include "kernels/cpu/cpu.h"

/* f32 sums of up to 1100 products in another order. */
static const double tolerance = 2e-6;

static real rounded(real x)
{
    return (real)dtype_from_bf16(dtype_to_bf16((float)x));
}

static real plain_element(const struct gemm_args *a, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t l = 0; l < a->k; l++) {
        const int64_t at = a->trans_b ? j * a->ldb + l : l * a->ldb + j;
        real b;
        dtype_to_real(a->b_dtype, (const char *)a->b + (size_t)at * dtype_size(a->b_dtype), 1, &b);
        sum += (double)rounded(reals_in(a->a)[a->trans_a ? l * a->lda + i : i * a->lda + l]) *
               (double)rounded(b);
    }
    return (real)sum;
}

static void check(struct test_backend *t, const int64_t shape[3], int form)
{
    const int64_t m = shape[0], n = shape[1], k = shape[2];
    struct gemm_args a = { .m = m,
                           .n = n,
                           .k = k,
                           .trans_a = form & 1,
                           .trans_b = form & 2,
                           .b_dtype = form & 4 ? DTYPE_BF16 : DTYPE_REAL,
                           .alpha = (real)0.5,
                           .beta = (real)(form % 3),
                           .ldc = n + 1 };
    a.lda = (a.trans_a ? m : k) + 2;
    a.ldb = (a.trans_b ? k : n) + 3;
    const int64_t n_a = a.lda * (a.trans_a ? k : m), n_b = a.ldb * (a.trans_b ? n : k);
    real *x = test_random(n_a, 1, 1), *b = test_random(n_b, 2, 1);
    real *c = test_random(a.ldc * m, 3, 1), *expected = test_random(a.ldc * m, 3, 1);
    uint16_t *stored = malloc((size_t)n_b * sizeof *stored);
    assert_non_null(stored);
    for (int64_t i = 0; i < n_b; i++)
        stored[i] = dtype_to_bf16((float)b[i]);
    a.a = acts_in(x);
    a.b = form & 4 ? (const void *)stored : b;
    a.c = c;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            real *e = &expected[i * a.ldc + j];
            *e = a.alpha * plain_element(&a, i, j) + (a.beta == 0 ? 0 : a.beta * *e);
        }
    }
    op_gemm(&t->be, &a);
    assert_true(test_relative_error(c, expected, a.ldc * m, 1e-30) < tolerance);
    free(stored);
    test_release(x);
    test_release(b);
    test_release(c);
    test_release(expected);
}

static void equals_a_plain_loop_on_rounded_operands(void **state)
{
    (void)state;
    if (!cpu_has_bf16()) {
        print_message("this processor, or this build, has no bfloat16 GEMM: nothing to compare\n");
        return;
    }
    struct test_backend t;
    test_backend_init(&t, 2);
    t.be.gemm_bf16 = true;
    /* Tails of rows, columns and pairs; more than one block each way. */
    static const int64_t shapes[][3] = { { 1, 1, 1 },    { 13, 33, 7 },   { 250, 40, 18 },
                                         { 8, 300, 64 }, { 30, 8, 1101 }, { 12, 32, 1024 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int form = 0; form < 8; form++)
            check(&t, shapes[s], form);
    }
    test_backend_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_a_plain_loop_on_rounded_operands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
