/* Attention of every instruction set that this processor has, against plain loops in double: values
 * and gradients, in one chunk and in several, for heads narrower and wider than the registers.
 * (test_sequence.c holds the gradients to central differences.) */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* f32 throughout against double. */
static const double tolerance = REAL_IS_DOUBLE ? 1e-12 : 3e-6;

static const int lengths[] = { 1, 70, 3, 200, 1, 64, 31 };
enum { N_DOC = sizeof lengths / sizeof *lengths, N_TOK = 370 };

struct attention {
    int64_t n_head, n_kv, d_head, n_q, n_k; /* n_q, n_k: elements of q and of k */
    int32_t pos[N_TOK];
    real *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv;
    real *expected_o, *expected_dq, *expected_dk, *expected_dv;
};

static void attention_init(struct attention *s, int64_t n_head, int64_t n_kv, int64_t d_head)
{
    *s = (struct attention){ .n_head = n_head, .n_kv = n_kv, .d_head = d_head };
    assert_int_equal(test_positions(lengths, N_DOC, s->pos, NULL), N_TOK);
    s->n_q = N_TOK * n_head * d_head;
    s->n_k = N_TOK * n_kv * d_head;
    s->q = test_random(s->n_q, 1, 1);
    s->k = test_random(s->n_k, 2, 1);
    s->v = test_random(s->n_k, 3, 1);
    s->d_o = test_random(s->n_q, 4, 1);
    s->lse = test_zeros(N_TOK * n_head);
    real **queries[] = { &s->o, &s->dq, &s->expected_o, &s->expected_dq };
    real **keys[] = { &s->dk, &s->dv, &s->expected_dk, &s->expected_dv };
    for (int i = 0; i < 4; i++) {
        *queries[i] = test_zeros(s->n_q);
        *keys[i] = test_zeros(s->n_k);
    }
}

static void attention_free(struct attention *s)
{
    real *all[] = { s->q,           s->k,           s->v,          s->o,  s->lse,
                    s->d_o,         s->dq,          s->dk,         s->dv, s->expected_o,
                    s->expected_dq, s->expected_dk, s->expected_dv };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* ---- plain loops ---- */

static double product(const real *x, const real *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

static void add(double scale, const real *x, real *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = (real)((double)y[i] + scale * (double)x[i]);
}

static void plain_query(struct attention *s, int64_t t, int64_t head)
{
    const int64_t d = s->d_head, kv = head / (s->n_head / s->n_kv), first = t - s->pos[t];
    const int64_t at = (t * s->n_head + head) * d;
    const double scale = 1 / sqrt((double)d);
    double p[N_TOK], sum = 0, mean = 0;
    for (int64_t j = first; j <= t; j++)
        sum += p[j] = exp(scale * product(s->q + at, s->k + (j * s->n_kv + kv) * d, d));
    for (int64_t j = first; j <= t; j++) {
        p[j] /= sum;
        add(p[j], s->v + (j * s->n_kv + kv) * d, s->expected_o + at, d);
        mean += p[j] * product(s->d_o + at, s->v + (j * s->n_kv + kv) * d, d);
    }
    for (int64_t j = first; j <= t; j++) {
        const int64_t key = (j * s->n_kv + kv) * d;
        const double ds = scale * p[j] * (product(s->d_o + at, s->v + key, d) - mean);
        add(p[j], s->d_o + at, s->expected_dv + key, d);
        add(ds, s->q + at, s->expected_dk + key, d);
        add(ds, s->k + key, s->expected_dq + at, d);
    }
}

/* ---- the op ---- */

static struct attention_args chunk_of(const struct attention *s, int64_t from, int64_t to)
{
    const int64_t at = from * s->n_head * s->d_head;
    return (struct attention_args){ .q = acts_in(s->q + at),
                                    .k = acts_in(s->k),
                                    .v = acts_in(s->v),
                                    .pos = s->pos + from,
                                    .o = acts_of(s->o + at),
                                    .lse = s->lse + from * s->n_head,
                                    .d_o = acts_in(s->d_o + at),
                                    .dq = acts_of(s->dq + at),
                                    .dk = s->dk,
                                    .dv = s->dv,
                                    .n_tok = to - from,
                                    .t0 = from,
                                    .n_head = s->n_head,
                                    .n_kv = s->n_kv,
                                    .d_head = s->d_head };
}

static void run(struct attention *s, struct backend *be, int64_t chunk)
{
    memset(s->dk, 0, (size_t)s->n_k * sizeof(real));
    memset(s->dv, 0, (size_t)s->n_k * sizeof(real));
    for (int64_t from = 0; from < N_TOK; from += chunk) {
        const struct attention_args a =
            chunk_of(s, from, from + chunk < N_TOK ? from + chunk : N_TOK);
        op_attention_forward(be, &a);
    }
    for (int64_t from = (N_TOK - 1) / chunk * chunk; from >= 0; from -= chunk) {
        const struct attention_args a =
            chunk_of(s, from, from + chunk < N_TOK ? from + chunk : N_TOK);
        op_attention_backward(be, &a);
    }
}

static void expect_near(const struct attention *s, const char *variant, int64_t chunk)
{
    const struct {
        const char *name;
        const real *is, *expected;
        int64_t n;
    } pairs[] = { { "o", s->o, s->expected_o, s->n_q },
                  { "dq", s->dq, s->expected_dq, s->n_q },
                  { "dk", s->dk, s->expected_dk, s->n_k },
                  { "dv", s->dv, s->expected_dv, s->n_k } };
    for (int i = 0; i < 4; i++) {
        const double error = test_relative_error(pairs[i].is, pairs[i].expected, pairs[i].n, 1e-30);
        if (!(error < tolerance))
            fail_msg("%s, d_head %d, chunks of %d: %s has relative error %.3g", variant,
                     (int)s->d_head, (int)chunk, pairs[i].name, error);
    }
}

static void check(int64_t n_head, int64_t n_kv, int64_t d_head)
{
    static const char *const variants[] = { "baseline", "avx2", "avx512" };
    struct attention s;
    struct test_backend t;
    test_backend_init(&t, 2);
    attention_init(&s, n_head, n_kv, d_head);
    for (int64_t i = 0; i < N_TOK * n_head; i++)
        plain_query(&s, i / n_head, i % n_head);
    int compared = 0;
    for (int v = 0; v < 3; v++) {
        t.be.k = cpu_ops_by_name(variants[v]);
        static const int64_t chunks[] = { N_TOK, 100, 7 };
        for (int c = 0; c < 3 && t.be.k != NULL; c++, compared++) {
            run(&s, &t.be, chunks[c]);
            expect_near(&s, variants[v], chunks[c]);
        }
    }
    assert_true(compared >= 3);
    attention_free(&s);
    test_backend_free(&t);
}

static void equals_plain_loops(void **state)
{
    (void)state;
    check(1, 1, 5);
    check(4, 2, 16);
    check(2, 1, 40);
    check(3, 3, 64);
}

static void threads_change_no_bit_nor_do_chunks_one_of_o(void **state)
{
    (void)state;
    struct attention one, other;
    struct test_backend t;
    attention_init(&one, 4, 2, 24);
    attention_init(&other, 4, 2, 24);
    test_backend_init(&t, 1);
    run(&one, &t.be, 100);
    for (int n_thread = 2; n_thread <= 3; n_thread++) {
        t.be.n_thread = n_thread;
        run(&other, &t.be, 100);
        assert_memory_equal(other.o, one.o, (size_t)one.n_q * sizeof(real));
        assert_memory_equal(other.dq, one.dq, (size_t)one.n_q * sizeof(real));
        assert_memory_equal(other.dk, one.dk, (size_t)one.n_k * sizeof(real));
        assert_memory_equal(other.dv, one.dv, (size_t)one.n_k * sizeof(real));
    }
    run(&other, &t.be, 33);
    assert_memory_equal(other.o, one.o, (size_t)one.n_q * sizeof(real));
    attention_free(&one);
    attention_free(&other);
    test_backend_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_plain_loops),
        cmocka_unit_test(threads_change_no_bit_nor_do_chunks_one_of_o),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
