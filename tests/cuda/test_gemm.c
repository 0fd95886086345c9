/* Products of the CUDA backend against the CPU's. On a device this is cuBLASLt; in emulation, what
 * stands for it (tests/emulation/gemm.c), and the contract of the op.
 */
#include "tests/cuda/parity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TRANS_A = 1, TRANS_B = 2, C_REAL = 4, ADD = 8, N_FORM = 16 };

struct product {
    struct gemm_args cpu, cuda;
    real *expected;
    int64_t n_c;
};

/* Rows are `pad` elements longer than they must be, operands begin `shift` elements from alignment.
 * Without ADD, c begins as NaN. */
static struct product product_of(struct parity *p, const int64_t shape[3], int form, int64_t pad,
                                 int64_t shift)
{
    const bool trans_a = form & TRANS_A, trans_b = form & TRANS_B;
    struct gemm_args g = { .m = shape[0],
                           .n = shape[1],
                           .k = shape[2],
                           .trans_a = trans_a,
                           .trans_b = trans_b,
                           .c_real = (form & C_REAL) != 0,
                           .alpha = 0.75f,
                           .beta = (form & ADD) != 0 ? 1.5f : 0.0f,
                           .ldc = shape[1] + pad };
    g.lda = (trans_a ? g.m : g.k) + pad;
    g.ldb = (trans_b ? g.k : g.n) + pad;
    const int64_t n_a = g.lda * (trans_a ? g.k : g.m) + shift;
    const int64_t n_b = g.ldb * (trans_b ? g.n : g.k) + shift;
    struct product q = { .cpu = g, .cuda = g, .n_c = g.ldc * g.m };
    real *a = parity_random(p, n_a, 1, 1), *b = parity_random(p, n_b, 2, 1);
    real *c = (form & ADD) != 0 ? parity_random(p, q.n_c + shift, 3, 1)
                                : parity_reals_out(p, q.n_c + shift);
    struct act *da = parity_act(p, a, n_a), *db = parity_act(p, b, n_b);
    q.cpu.a = acts_in(a + shift);
    q.cpu.b = b + shift;
    q.cpu.c = q.expected = c + shift;
    q.cpu.b_dtype = DTYPE_REAL;
    q.cuda.a = act_at(&p->cuda, da, shift);
    q.cuda.b = act_at(&p->cuda, db, shift);
    q.cuda.b_dtype = p->act;
    if (g.c_real)
        q.cuda.c = parity_reals(p, c, q.n_c + shift) + shift;
    else
        q.cuda.c = act_at(&p->cuda, parity_act(p, c, q.n_c + shift), shift);
    return q;
}

static void check(struct parity *p, const int64_t shape[3], int form, int64_t pad, int64_t shift)
{
    char name[128];
    struct product q = product_of(p, shape, form, pad, shift);
    op_gemm(&p->cpu, &q.cpu);
    op_gemm(&p->cuda, &q.cuda);
    snprintf(name, sizeof name, "m %d n %d k %d form %d pad %d shift %d", (int)shape[0],
             (int)shape[1], (int)shape[2], form, (int)pad, (int)shift);
    if (q.cuda.c_real)
        parity_check_reals(p, name, q.cuda.c, q.expected, q.n_c);
    else
        parity_check_act(p, name, q.cuda.c, q.expected, q.n_c);
}

static const enum dtype acts[] = { DTYPE_F32, DTYPE_BF16 };

static void all_forms(const int64_t shapes[][3], int n_shape, int64_t pad, int64_t shift)
{
    for (int t = 0; t < 2; t++) {
        for (int s = 0; s < n_shape; s++) {
            struct parity p;
            parity_open(&p, acts[t]);
            for (int form = 0; form < N_FORM; form++)
                check(&p, shapes[s], form, pad, shift);
            parity_close(&p);
        }
    }
}

/* Single rows, columns and products; odd ones; LoRA's ranks; a long k, which a library may split.
 */
static const int64_t shapes[][3] = { { 1, 1, 1 },    { 1, 33, 8 },   { 40, 1, 7 },
                                     { 5, 6, 1 },    { 13, 17, 31 }, { 64, 64, 64 },
                                     { 50, 16, 32 }, { 29, 8, 100 }, { 8, 40, 1500 },
                                     { 40, 8, 1500 } };
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static void every_form_equals_the_cpus(void **state)
{
    (void)state;
    all_forms(shapes, N_SHAPE, 0, 0);
}

/* A projection's slice of a wider row, 8 elements on: 16-byte accesses still serve. */
static void slices_of_wider_rows(void **state)
{
    (void)state;
    all_forms(shapes, N_SHAPE, 8, 8);
}

/* Every address and every row at any multiple of an element. */
static void operands_need_no_alignment(void **state)
{
    (void)state;
    all_forms(shapes, N_SHAPE, 3, 1);
    all_forms(shapes, 5, 1, 6);
}

static void no_rows_do_nothing(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        struct parity p;
        parity_open(&p, acts[t]);
        const struct gemm_args none = {
            .n = 4, .k = 4, .lda = 4, .ldb = 4, .ldc = 4, .alpha = 1, .b_dtype = acts[t]
        };
        op_gemm(&p.cuda, &none);
        parity_close(&p);
    }
}

static void a_nan_stays_in_its_row(void **state)
{
    (void)state;
    enum { M = 9, N = 12, K = 20, BAD = 4 };
    for (int t = 0; t < 2; t++) {
        struct parity p;
        parity_open(&p, acts[t]);
        real *a = parity_random(&p, M * K, 1, 1), *b = parity_random(&p, N * K, 2, 1);
        a[BAD * K + 3] = (real)NAN;
        struct gemm_args g = { .m = M,
                               .n = N,
                               .k = K,
                               .lda = K,
                               .ldb = K,
                               .ldc = N,
                               .trans_b = true,
                               .alpha = 1,
                               .b_dtype = acts[t],
                               .a = parity_act(&p, a, M * K),
                               .b = parity_act(&p, b, N * K),
                               .c = parity_act(&p, NULL, M * N) };
        op_gemm(&p.cuda, &g);
        const real *c = parity_read_act(&p, g.c, M * N);
        for (int i = 0; i < M * N; i++)
            assert_int_equal(isnan(c[i]) != 0, i / N == BAD);
        parity_close(&p);
    }
}

/* The same call, the same bits: whatever ran between. */
static void a_product_is_reproducible(void **state)
{
    (void)state;
    const int64_t shape[3] = { 16, 48, 3000 }, other[3] = { 37, 24, 96 };
    for (int t = 0; t < 2; t++) {
        struct parity p;
        parity_open(&p, acts[t]);
        struct product q = product_of(&p, shape, TRANS_A | C_REAL, 0, 0);
        op_gemm(&p.cuda, &q.cuda);
        const real *first = parity_read_reals(&p, q.cuda.c, q.n_c);
        check(&p, other, TRANS_B, 0, 0);
        op_gemm(&p.cuda, &q.cuda);
        const real *second = parity_read_reals(&p, q.cuda.c, q.n_c);
        assert_memory_equal(first, second, (size_t)q.n_c * sizeof *first);
        parity_close(&p);
    }
}

/* What a model runs: too much for the emulation. Each number of rows has an algorithm of its own,
 * or that of the next rounded one. */
static void shapes_of_a_model(void **state)
{
    (void)state;
    static const int64_t large[][3] = { { 1000, 2560, 1024 }, { 1021, 2560, 1024 },
                                        { 513, 192, 5120 },   { 700, 160, 2560 },
                                        { 16, 2560, 3001 },   { 64, 1024, 4096 } };
    for (int t = 0; t < 2; t++) {
        struct parity p;
        parity_open(&p, acts[t]);
        for (size_t s = 0; s < sizeof large / sizeof *large && !p.emulated; s++) {
            check(&p, large[s], TRANS_B, 0, 0);
            check(&p, large[s], ADD, 0, 0);
            check(&p, large[s], TRANS_A | C_REAL | ADD, 0, 0);
        }
        parity_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_equals_the_cpus), cmocka_unit_test(slices_of_wider_rows),
        cmocka_unit_test(operands_need_no_alignment), cmocka_unit_test(no_rows_do_nothing),
        cmocka_unit_test(a_nan_stays_in_its_row),     cmocka_unit_test(a_product_is_reproducible),
        cmocka_unit_test(shapes_of_a_model),
    };
    return cmocka_run_group_tests_name("cuda gemm", tests, NULL, NULL);
}
