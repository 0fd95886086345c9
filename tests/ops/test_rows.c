/* The row-wise ops: gradients against finite differences, GEMM against a plain loop, threads change
 * no bit. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"

enum { N = 23, D = 37 };

static struct test_backend backend;

static double weighted(const real *y, const real *w, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)y[i] * (double)w[i];
    return sum;
}

/* ---- rmsnorm ---- */

static double norm_loss(void *context)
{
    const struct rmsnorm_args *a = context;
    op_rmsnorm_forward(&backend.be, a);
    return weighted(a->y, a->dy, N * D);
}

static void rmsnorm_gradient_adds_to_what_is_there(void **state)
{
    (void)state;
    real *x = test_random(N * D, 1, 1), *w = test_random(D, 2, 1), *y = test_zeros(N * D);
    real *dy = test_random(N * D, 3, 1), *dx = test_random(N * D, 4, 1),
         *was = test_random(N * D, 4, 1);
    struct rmsnorm_args a = {
        .x = x, .w = w, .y = y, .dy = dy, .dx = dx, .n_row = N, .dim = D, .eps = 1e-3
    };
    op_rmsnorm_backward(&backend.be, &a);
    for (int i = 0; i < N * D; i++)
        dx[i] -= was[i];
    test_check_gradients(norm_loss, &a, &(struct test_variable){ "x", x, dx, N * D }, 1);
    real *all[] = { x, w, y, dy, dx, was };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* ---- swiglu ---- */

static double swiglu_loss(void *context)
{
    const struct swiglu_args *a = context;
    op_swiglu_forward(&backend.be, a);
    return weighted(a->y, a->dy, a->n);
}

static void swiglu_gradient(void **state)
{
    (void)state;
    real *g = test_random(N * D, 1, 2), *u = test_random(N * D, 2, 1), *y = test_zeros(N * D);
    real *dy = test_random(N * D, 3, 1), *dg = test_zeros(N * D), *du = test_zeros(N * D);
    struct swiglu_args a = {
        .gate = g, .up = u, .y = y, .dy = dy, .dgate = dg, .dup = du, .n = N * D
    };
    op_swiglu_backward(&backend.be, &a);
    const struct test_variable v[] = { { "gate", g, dg, N * D }, { "up", u, du, N * D } };
    test_check_gradients(swiglu_loss, &a, v, 2);
    real *all[] = { g, u, y, dy, dg, du };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* ---- routing and combination, with the load-balancing term ---- */

enum { E = 5, K = 2, N_DOC = 3 };

struct moe {
    struct route_args r;
    real *x, *y, *dy; /* (N * K, D) sorted expert outputs; (N, D) */
    real *aux_weight; /* (N_DOC) */
    real *f, *psum;   /* (N_DOC, E) */
};

/* <y, dy> + sum over documents of weight * sum_e f_e psum_e, f held constant. */
static double moe_loss(void *context)
{
    struct moe *m = context;
    op_route_forward(&backend.be, &m->r);
    op_combine(&backend.be, &(struct combine_args){ .x = m->x,
                                                    .place = m->r.place,
                                                    .weight = m->r.weight,
                                                    .y = m->y,
                                                    .n_tok = N,
                                                    .top_k = K,
                                                    .dim = D });
    memset(m->f, 0, N_DOC * E * sizeof(real));
    memset(m->psum, 0, N_DOC * E * sizeof(real));
    op_aux_sums(&backend.be, &(struct aux_sums_args){ .p = m->r.p,
                                                      .expert = m->r.expert,
                                                      .doc = m->r.doc,
                                                      .f = m->f,
                                                      .psum = m->psum,
                                                      .n_tok = N,
                                                      .n_expert = E,
                                                      .top_k = K });
    double loss = weighted(m->y, m->dy, N * D);
    for (int d = 0; d < N_DOC; d++) {
        for (int e = 0; e < E; e++)
            loss += (double)m->aux_weight[d] * (double)m->f[d * E + e] * (double)m->psum[d * E + e];
    }
    return loss;
}

static void routing_gradient_reaches_every_expert(void **state)
{
    (void)state;
    static int32_t expert[N * K], slot[N * K], place[N * K], offset[E + 1], doc[N], pos[N];
    static const int lengths[N_DOC] = { 1, 10, 12 };
    test_positions(lengths, N_DOC, pos, doc);
    real *logits = test_random(N * E, 1, 2), *p = test_zeros(N * E), *weight = test_zeros(N * K);
    real *dlogits = test_zeros(N * E), *dots = test_zeros(N * K);
    struct moe m = { .x = test_random(N * K * D, 2, 1),
                     .y = test_zeros(N * D),
                     .dy = test_random(N * D, 3, 1),
                     .aux_weight = test_random(N_DOC, 4, 1),
                     .f = test_zeros(N_DOC * E),
                     .psum = test_zeros(N_DOC * E) };
    m.r = (struct route_args){ .logits = logits,
                               .p = p,
                               .expert = expert,
                               .weight = weight,
                               .slot = slot,
                               .place = place,
                               .offset = offset,
                               .dot = dots,
                               .aux_f = m.f,
                               .aux_scale = m.aux_weight,
                               .doc = doc,
                               .dlogits = dlogits,
                               .n_tok = N,
                               .n_expert = E,
                               .top_k = K };
    moe_loss(&m);
    for (int e = 0; e < E; e++) {
        for (int i = offset[e]; i < offset[e + 1]; i++) {
            assert_int_equal(expert[slot[i]], e);
            assert_int_equal(place[slot[i]], i);
            assert_true(i == offset[e] || slot[i] > slot[i - 1]);
        }
    }
    assert_int_equal(offset[E], N * K);
    /* p_e c_e of a slot: its output scaled by its weight, against the token's dy. */
    real *scaled = test_zeros(N * K * D), *dyg = test_zeros(N * K * D);
    op_gather_rows(&backend.be, &(struct gather_rows_args){ .x = m.dy,
                                                            .index = slot,
                                                            .scale = weight,
                                                            .y = dyg,
                                                            .n_row = N * K,
                                                            .dim = D,
                                                            .per_row = K });
    op_row_dot(&backend.be,
               &(struct row_dot_args){
                   .x = dyg, .y = m.x, .index = slot, .out = dots, .n_row = N * K, .dim = D });
    op_route_backward(&backend.be, &m.r);
    const struct test_variable v = { "router logits", logits, dlogits, N * E };
    real *all[] = { p, weight, dots, m.x, m.y, m.dy, m.aux_weight, m.f, m.psum, scaled, dyg };
    test_check_gradients(moe_loss, &m, &v, 1);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
    test_release(logits);
    test_release(dlogits);
}

/* ---- cross entropy ---- */

struct entropy {
    struct cross_entropy_args a;
    real *logits;
};

static double entropy_loss(void *context)
{
    struct entropy *c = context;
    memcpy(c->a.logits, c->logits, N * D * sizeof(real));
    struct cross_entropy_args a = c->a;
    a.grad_scale = 0;
    op_cross_entropy(&backend.be, &a);
    double loss = 0;
    for (int i = 0; i < N; i++)
        loss -= (double)a.logprob[i] * 0.25;
    return loss;
}

static void cross_entropy_gradient(void **state)
{
    (void)state;
    int32_t target[N];
    for (int i = 0; i < N; i++)
        target[i] = (i * 7) % D;
    real *logits = test_random(N * D, 1, 3), *work = test_random(N * D, 1, 3), *lp = test_zeros(N);
    struct entropy c = { { .logits = work,
                           .target = target,
                           .logprob = lp,
                           .n_row = N,
                           .vocab = D,
                           .grad_scale = (real)0.25 },
                         logits };
    op_cross_entropy(&backend.be, &c.a);
    real *d = test_zeros(N * D);
    memcpy(d, work, N * D * sizeof(real));
    test_check_gradients(entropy_loss, &c, &(struct test_variable){ "logits", logits, d, N * D },
                         1);
    real *all[] = { logits, work, lp, d };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* ---- GEMM ---- */

static real plain_element(const struct gemm_args *a, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t l = 0; l < a->k; l++) {
        const real x = a->trans_a ? a->a[l * a->lda + i] : a->a[i * a->lda + l];
        const int64_t at = a->trans_b ? j * a->ldb + l : l * a->ldb + j;
        real b;
        dtype_to_real(a->b_dtype, (const char *)a->b + (size_t)at * dtype_size(a->b_dtype), 1, &b);
        sum += (double)x * (double)b;
    }
    return (real)sum;
}

static void gemm_equals_a_plain_loop_in_every_form(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        { 1, 1, 1 }, { 130, 33, 17 }, { 5, 300, 64 }, { 600, 20, 9 }
    };
    /* f32 sums of 64 products; double sums of the same. */
    const double tolerance = REAL_IS_DOUBLE ? 1e-14 : 1e-6;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int form = 0; form < 12; form++) {
            const int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2], pad = 3;
            struct gemm_args a = { .m = m,
                                   .n = n,
                                   .k = k,
                                   .trans_a = form & 1,
                                   .trans_b = form & 2,
                                   .alpha = (real)0.5,
                                   .beta = (real)(s % 2 ? 2 : 0),
                                   .ldc = n + pad };
            a.lda = (a.trans_a ? m : k) + pad;
            a.ldb = (a.trans_b ? k : n) + pad;
            real *x = test_random(a.lda * (a.trans_a ? k : m), 1, 1);
            const int64_t n_b = a.ldb * (a.trans_b ? n : k);
            real *b = test_random(n_b, 2, 1), *c = test_random(a.ldc * m, 3, 1);
            real *expected = test_random(a.ldc * m, 3, 1);
            uint16_t *narrow = malloc((size_t)n_b * sizeof *narrow);
            assert_non_null(narrow);
            a.b_dtype = form < 4 ? DTYPE_REAL : form < 8 ? DTYPE_BF16 : DTYPE_F16;
            for (int64_t i = 0; i < n_b; i++) /* any bits that are finite in both types */
                narrow[i] = (uint16_t)(rng_bits(1, RNG_SAMPLE, 1, (uint64_t)i) & 0xBBFF);
            a.a = x;
            a.b = form < 4 ? (const void *)b : narrow;
            a.c = c;
            for (int64_t i = 0; i < m; i++) {
                for (int64_t j = 0; j < n; j++) {
                    real *e = &expected[i * a.ldc + j];
                    *e = a.alpha * plain_element(&a, i, j) + (a.beta == 0 ? 0 : a.beta * *e);
                }
            }
            op_gemm(&backend.be, &a);
            assert_true(test_relative_error(c, expected, a.ldc * m, 1e-30) < tolerance);
            free(narrow);
            real *all[] = { x, b, c, expected };
            for (size_t i = 0; i < 4; i++)
                test_release(all[i]);
        }
    }
}

static void threads_change_no_bit_of_a_gemm(void **state)
{
    (void)state;
    /* The shapes where a library's split of K shows: LoRA's. */
    static const int64_t shapes[][4] = {
        { 8, 768, 2048, 1 }, { 768, 8, 2048, 1 }, { 512, 8, 768, 0 }, { 512, 80, 1024, 0 }
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        struct gemm_args a = { .m = m,
                               .n = n,
                               .k = k,
                               .trans_a = shapes[s][3],
                               .trans_b = !shapes[s][3],
                               .b_dtype = DTYPE_REAL,
                               .alpha = 1,
                               .ldc = n };
        a.lda = a.trans_a ? m : k;
        a.ldb = a.trans_b ? k : n;
        real *x = test_random(m * k, 1, 1), *b = test_random(n * k, 2, 1);
        real *c = test_zeros(m * n), *one = test_zeros(m * n);
        a.a = x;
        a.b = b;
        a.c = one;
        backend.be.n_thread = 1;
        op_gemm(&backend.be, &a);
        a.c = c;
        for (int t = 2; t <= 4; t++) {
            backend.be.n_thread = t;
            op_gemm(&backend.be, &a);
            assert_memory_equal(c, one, (size_t)(m * n) * sizeof(real));
        }
        backend.be.n_thread = 2;
        real *all[] = { x, b, c, one };
        for (size_t i = 0; i < 4; i++)
            test_release(all[i]);
    }
}

/* ---- dropout ---- */

static void dropout_masks_depend_on_the_token_alone(void **state)
{
    (void)state;
    enum { ROWS = 400, DIM = 50 };
    real *x = test_zeros(ROWS * DIM), *y = test_zeros(ROWS * DIM), *tail = test_zeros(ROWS * DIM);
    for (int i = 0; i < ROWS * DIM; i++)
        x[i] = 1;
    struct dropout_args a = { .x = x,
                              .y = y,
                              .n_row = ROWS,
                              .dim = DIM,
                              .ldx = DIM,
                              .rate = 0.25,
                              .seed = 7,
                              .step = 3,
                              .target = 11 };
    op_dropout(&backend.be, &a);
    int dropped = 0;
    for (int i = 0; i < ROWS * DIM; i++) {
        dropped += y[i] == 0;
        assert_true(y[i] == 0 || fabs((double)y[i] - 1 / 0.75) < 1e-6);
    }
    /* 20,000 draws at 1/4: 5000 with a standard deviation of 61. */
    assert_in_range(dropped, 4700, 5300);
    a.first_token = 100;
    a.n_row = ROWS - 100;
    a.y = tail;
    op_dropout(&backend.be, &a);
    assert_memory_equal(tail, y + 100 * DIM, (ROWS - 100) * DIM * sizeof(real));
    a.step = 4;
    op_dropout(&backend.be, &a);
    assert_memory_not_equal(tail, y + 100 * DIM, (ROWS - 100) * DIM * sizeof(real));
    test_release(x);
    test_release(y);
    test_release(tail);
}

/* ---- AdamW ---- */

static void adamw_step_by_hand(void **state)
{
    (void)state;
    real p = 1, g = 2, m = (real)0.5, v = (real)0.25;
    const struct adamw_args a = { .p = &p,
                                  .g = &g,
                                  .m = &m,
                                  .v = &v,
                                  .n = 1,
                                  .lr = 0.1,
                                  .beta1 = 0.9,
                                  .beta2 = 0.99,
                                  .eps = 1e-8,
                                  .weight_decay = 0.5,
                                  .bias_correction1 = 0.19,
                                  .bias_correction2 = 0.0199,
                                  .grad_scale = 0.5 };
    op_adamw(&backend.be, &a);
    const double m1 = 0.9 * 0.5 + 0.1, v1 = 0.99 * 0.25 + 0.01;
    const double p1 = 0.95 - 0.1 / 0.19 * m1 / (sqrt(v1) / sqrt(0.0199) + 1e-8);
    assert_true(fabs((double)m - m1) < 1e-6 && fabs((double)v - v1) < 1e-6 &&
                fabs((double)p - p1) < 1e-6);
}

int main(void)
{
    test_backend_init(&backend, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_gradient_adds_to_what_is_there),
        cmocka_unit_test(swiglu_gradient),
        cmocka_unit_test(routing_gradient_reaches_every_expert),
        cmocka_unit_test(cross_entropy_gradient),
        cmocka_unit_test(gemm_equals_a_plain_loop_in_every_form),
        cmocka_unit_test(threads_change_no_bit_of_a_gemm),
        cmocka_unit_test(dropout_masks_depend_on_the_token_alone),
        cmocka_unit_test(adamw_step_by_hand),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_backend_free(&backend);
    return failed;
}
