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
    return weighted(reals_in(a->y), reals_in(a->dy), N * (a->ldy ? a->ldy : D));
}

/* Rows at distances ldx and ldy; 0: dense. */
static void check_rmsnorm(int64_t ldx, int64_t ldy)
{
    const int64_t n_x = N * (ldx ? ldx : D), n_y = N * (ldy ? ldy : D);
    real *x = test_random(n_x, 1, 1), *w = test_random(D, 2, 1), *y = test_zeros(n_y);
    real *dy = test_random(n_y, 3, 1), *dx = test_random(n_x, 4, 1), *was = test_random(n_x, 4, 1);
    struct rmsnorm_args a = { .x = acts_in(x),
                              .w = w,
                              .y = acts_of(y),
                              .dy = acts_in(dy),
                              .dx = acts_of(dx),
                              .n_row = N,
                              .dim = D,
                              .ldx = ldx,
                              .ldy = ldy,
                              .eps = 1e-3 };
    op_rmsnorm_backward(&backend.be, &a);
    for (int i = 0; i < n_x; i++)
        dx[i] -= was[i];
    test_check_gradients(norm_loss, &a, &(struct test_variable){ "x", x, dx, n_x }, 1);
    real *all[] = { x, w, y, dy, dx, was };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

static void rmsnorm_gradient_adds_to_what_is_there(void **state)
{
    (void)state;
    check_rmsnorm(0, 0);
    check_rmsnorm(D + 5, D + 2);
}

enum { LD = D + 3 };

/* y and sum of the fused op, sum where the caller says: of its own, in x, or in the residual. */
static void check_residual(const struct rmsnorm_args *expected, int place)
{
    real *x = test_random(N * D, 1, 1), *residual = test_random(N * D, 5, 1);
    real *own = test_zeros(N * D), *y = test_zeros(N * LD);
    real *sum = place == 0 ? own : place == 1 ? x : residual;
    struct rmsnorm_args a = *expected;
    a.x = acts_in(x);
    a.residual = acts_in(residual);
    a.sum = acts_of(sum);
    a.y = acts_of(y);
    a.ldy = LD;
    op_rmsnorm_forward(&backend.be, &a);
    assert_memory_equal(sum, reals_in(expected->x), N * D * sizeof(real));
    for (int i = 0; i < N; i++) {
        const real *row = y + i * LD;
        assert_memory_equal(row, reals_of(expected->y) + i * D, D * sizeof(real));
        assert_true(row[D] == 0 && row[LD - 1] == 0);
    }
    real *all[] = { x, residual, own, y };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

static void norm_with_a_residual_is_the_norm_of_the_sum_to_the_bit(void **state)
{
    (void)state;
    real *x = test_random(N * D, 1, 1), *residual = test_random(N * D, 5, 1);
    real *w = test_random(D, 2, 1), *y = test_zeros(N * D);
    op_add(&backend.be, &(struct add_args){
                            .a = acts_in(x), .b = acts_in(residual), .y = acts_of(x), .n = N * D });
    const struct rmsnorm_args expected = {
        .x = acts_in(x), .w = w, .y = acts_of(y), .n_row = N, .dim = D, .eps = 1e-3
    };
    op_rmsnorm_forward(&backend.be, &expected);
    for (int place = 0; place < 3; place++)
        check_residual(&expected, place);
    real *all[] = { x, residual, w, y };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* <y, dy> + <sum, was>: what flows past the norm is in dx before the backward. */
struct residual_norm {
    struct rmsnorm_args a;
    const real *was;
};

static double residual_norm_loss(void *context)
{
    const struct residual_norm *r = context;
    op_rmsnorm_forward(&backend.be, &r->a);
    return weighted(reals_in(r->a.y), reals_in(r->a.dy), N * D) +
           weighted(reals_in(r->a.sum), r->was, N * D);
}

static void gradient_of_a_norm_with_a_residual_is_that_of_both_terms(void **state)
{
    (void)state;
    real *x = test_random(N * D, 1, 1), *residual = test_random(N * D, 5, 1);
    real *w = test_random(D, 2, 1), *y = test_zeros(N * D), *sum = test_zeros(N * D);
    real *dy = test_random(N * D, 3, 1), *dx = test_random(N * D, 4, 1);
    real *was = test_random(N * D, 4, 1);
    struct residual_norm r = { { .x = acts_in(x),
                                 .residual = acts_in(residual),
                                 .sum = acts_of(sum),
                                 .w = w,
                                 .y = acts_of(y),
                                 .dy = acts_in(dy),
                                 .dx = acts_of(dx),
                                 .n_row = N,
                                 .dim = D,
                                 .eps = 1e-3 },
                               was };
    op_rmsnorm_forward(&backend.be, &r.a);
    struct rmsnorm_args back = r.a;
    back.x = acts_in(sum);
    back.residual = NULL;
    op_rmsnorm_backward(&backend.be, &back);
    const struct test_variable v[] = { { "x", x, dx, N * D }, { "residual", residual, dx, N * D } };
    test_check_gradients(residual_norm_loss, &r, v, 2);
    real *all[] = { x, residual, w, y, sum, dy, dx, was };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* ---- swiglu ---- */

static double swiglu_loss(void *context)
{
    const struct swiglu_args *a = context;
    op_swiglu_forward(&backend.be, a);
    return weighted(reals_in(a->y), reals_in(a->dy), a->n);
}

static void swiglu_gradient(void **state)
{
    (void)state;
    real *g = test_random(N * D, 1, 2), *u = test_random(N * D, 2, 1), *y = test_zeros(N * D);
    real *dy = test_random(N * D, 3, 1), *dg = test_zeros(N * D), *du = test_zeros(N * D);
    struct swiglu_args a = { .gate = acts_in(g),
                             .up = acts_in(u),
                             .y = acts_of(y),
                             .dy = acts_in(dy),
                             .dgate = acts_of(dg),
                             .dup = acts_of(du),
                             .n = N * D };
    op_swiglu_backward(&backend.be, &a);
    const struct test_variable v[] = { { "gate", g, dg, N * D }, { "up", u, du, N * D } };
    test_check_gradients(swiglu_loss, &a, v, 2);
    real *all[] = { g, u, y, dy, dg, du };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

static void swiglu_gradients_may_take_the_places_of_what_they_are_of(void **state)
{
    (void)state;
    real *dg = test_zeros(N * D), *du = test_zeros(N * D);
    for (int place = 0; place < 3; place++) {
        real *g = test_random(N * D, 1, 2), *u = test_random(N * D, 2, 1);
        real *dy = test_random(N * D, 3, 1);
        real *at_gate = place == 0 ? dg : g, *at_up = place == 0 ? du : place == 1 ? u : dy;
        op_swiglu_backward(&backend.be, &(struct swiglu_args){ .gate = acts_in(g),
                                                               .up = acts_in(u),
                                                               .dy = acts_in(dy),
                                                               .dgate = acts_of(at_gate),
                                                               .dup = acts_of(at_up),
                                                               .n = N * D });
        assert_memory_equal(at_gate, dg, N * D * sizeof(real));
        assert_memory_equal(at_up, du, N * D * sizeof(real));
        test_release(g);
        test_release(u);
        test_release(dy);
    }
    test_release(dg);
    test_release(du);
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
    op_combine(&backend.be, &(struct combine_args){ .x = acts_in(m->x),
                                                    .place = m->r.place,
                                                    .weight = m->r.weight,
                                                    .y = acts_of(m->y),
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
    m.r = (struct route_args){ .logits = acts_in(logits),
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
                               .dlogits = acts_of(dlogits),
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
    op_gather_rows(&backend.be, &(struct gather_rows_args){ .x = acts_in(m.dy),
                                                            .index = slot,
                                                            .scale = weight,
                                                            .y = acts_of(dyg),
                                                            .n_row = N * K,
                                                            .dim = D,
                                                            .per_row = K });
    op_row_dot(&backend.be, &(struct row_dot_args){ .x = acts_in(dyg),
                                                    .y = acts_in(m.x),
                                                    .index = slot,
                                                    .out = dots,
                                                    .n_row = N * K,
                                                    .dim = D });
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
    memcpy(reals_of(c->a.logits), c->logits, N * D * sizeof(real));
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
    struct entropy c = { { .logits = acts_of(work),
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
        const real x = reals_in(a->a)[a->trans_a ? l * a->lda + i : i * a->lda + l];
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
            a.a = acts_in(x);
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
        a.a = acts_in(x);
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
    struct dropout_args a = { .x = acts_in(x),
                              .y = acts_of(y),
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
    a.y = acts_of(tail);
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

/* p as the GEMMs want it: for the CPU p itself, or the same reals elsewhere. */
static void adamw_leaves_a_copy_for_the_gemms(void **state)
{
    (void)state;
    enum { SOME = 9001 };
    real *g = test_random(SOME, 1, 1), *first = test_zeros(SOME), *copy = test_zeros(SOME);
    for (int place = 0; place < 3; place++) { /* none, elsewhere, p itself */
        real *p = test_random(SOME, 2, 1), *m = test_zeros(SOME), *v = test_zeros(SOME);
        op_adamw(&backend.be, &(struct adamw_args){ .p = p,
                                                    .g = g,
                                                    .m = m,
                                                    .v = v,
                                                    .p_act = acts_of(place == 0   ? NULL
                                                                     : place == 1 ? copy
                                                                                  : p),
                                                    .n = SOME,
                                                    .lr = 0.1,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.99,
                                                    .eps = 1e-8,
                                                    .bias_correction1 = 0.1,
                                                    .bias_correction2 = 0.01,
                                                    .grad_scale = 1 });
        if (place == 0)
            memcpy(first, p, SOME * sizeof(real));
        assert_memory_equal(p, first, SOME * sizeof(real));
        real *all[] = { p, m, v };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            test_release(all[i]);
    }
    assert_memory_equal(copy, first, SOME * sizeof(real));
    test_release(g);
    test_release(first);
    test_release(copy);
}

int main(void)
{
    test_backend_init(&backend, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_gradient_adds_to_what_is_there),
        cmocka_unit_test(norm_with_a_residual_is_the_norm_of_the_sum_to_the_bit),
        cmocka_unit_test(gradient_of_a_norm_with_a_residual_is_that_of_both_terms),
        cmocka_unit_test(swiglu_gradient),
        cmocka_unit_test(swiglu_gradients_may_take_the_places_of_what_they_are_of),
        cmocka_unit_test(routing_gradient_reaches_every_expert),
        cmocka_unit_test(cross_entropy_gradient),
        cmocka_unit_test(gemm_equals_a_plain_loop_in_every_form),
        cmocka_unit_test(threads_change_no_bit_of_a_gemm),
        cmocka_unit_test(dropout_masks_depend_on_the_token_alone),
        cmocka_unit_test(adamw_step_by_hand),
        cmocka_unit_test(adamw_leaves_a_copy_for_the_gemms),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_backend_free(&backend);
    return failed;
}
