/* The sequence ops (conv, scan, attention): gradients of a stream of documents walked in chunks,
 * carries in both directions included, against finite differences; and chunked equals whole. */
#include "tests/support/support.h"

#include <string.h>

enum { MAX_TOK = 200, N_CUT = 4 };

/* Documents of all kinds: one token, shorter than the taps, across chunks, longer than a scan tile.
 */
static const int lengths[] = { 1, 5, 2, 70, 1, 1, 40, 3 };
enum { N_DOC = sizeof lengths / sizeof *lengths };

struct sequence {
    struct test_backend t;
    int32_t pos[MAX_TOK];
    int64_t n_tok;
    const int64_t *cuts; /* chunk starts, ending with n_tok */
};

/* Chunks: the whole; and cuts inside documents, some shorter than the conv's taps. */
static const int64_t whole[] = { 0, 123, -1 };
static const int64_t cut[] = { 0, 1, 2, 4, 9, 50, 77, 79, 122, 123, -1 };

static void sequence_init(struct sequence *s, const int64_t *cuts)
{
    test_backend_init(&s->t, 1); /* too little work for more */
    s->n_tok = test_positions(lengths, N_DOC, s->pos, NULL);
    assert_int_equal(s->n_tok, 123);
    s->cuts = cuts;
}

static double weighted(const real *y, const real *w, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)y[i] * (double)w[i];
    return sum;
}

/* ---- conv ---- */

struct conv {
    struct sequence s;
    int64_t d, k;
    real *x, *w, *b, *y, *dy, *dx, *carry, *dcarry;
};

static void conv_run(struct conv *c, bool backward)
{
    const int64_t n_carry = (c->k - 1) * c->d;
    struct conv1d_args a = {
        .w = c->w, .b = c->b, .d_inner = c->d, .d_conv = c->k, .ldx = 2 * c->d, .lddx = 2 * c->d
    };
    int64_t last = 0;
    memset(c->carry, 0, (size_t)n_carry * sizeof(real));
    for (int64_t i = 0; c->s.cuts[i + 1] >= 0; i++, last = i) {
        const int64_t t0 = c->s.cuts[i];
        a.n_tok = c->s.cuts[i + 1] - t0;
        a.x = acts_in(c->x + t0 * 2 * c->d);
        a.pos = c->s.pos + t0;
        a.y = acts_of(c->y + t0 * c->d);
        a.carry_in = acts_in(c->carry + i * n_carry);
        a.carry_out = acts_of(c->carry + (i + 1) * n_carry);
        op_conv1d_forward(&c->s.t.be, &a);
    }
    memset(c->dcarry, 0, (size_t)n_carry * sizeof(real));
    for (int64_t i = last - 1; backward && i >= 0; i--) {
        const int64_t t0 = c->s.cuts[i];
        a.n_tok = c->s.cuts[i + 1] - t0;
        a.x = acts_in(c->x + t0 * 2 * c->d);
        a.pos = c->s.pos + t0;
        a.carry_in = acts_in(c->carry + i * n_carry);
        a.dy = acts_in(c->dy + t0 * c->d);
        a.dx = acts_of(c->dx + t0 * 2 * c->d);
        a.dcarry_out = a.dcarry_in = c->dcarry;
        op_conv1d_backward(&c->s.t.be, &a);
    }
}

static double conv_loss(void *context)
{
    struct conv *c = context;
    conv_run(c, false);
    return weighted(c->y, c->dy, c->s.n_tok * c->d);
}

static void check_conv(const int64_t *cuts, int64_t d, int64_t k)
{
    struct conv c = { .d = d, .k = k };
    sequence_init(&c.s, cuts);
    const int64_t n = c.s.n_tok * d;
    c.x = test_random(2 * n, 1, 1);
    c.w = test_random(k * d, 2, 1);
    c.b = test_random(d, 3, 1);
    c.dy = test_random(n, 4, 1);
    c.y = test_zeros(n);
    c.dx = test_zeros(2 * n);
    c.carry = test_zeros(12 * (k - 1) * d + 1);
    c.dcarry = test_zeros((k - 1) * d + 1);
    conv_run(&c, true);
    for (int64_t t = 0; t < c.s.n_tok; t++) /* the other half of the rows is not the conv's */
        memset(c.x + t * 2 * d + d, 0, (size_t)d * sizeof(real));
    test_check_gradients(conv_loss, &c, &(struct test_variable){ "x", c.x, c.dx, 2 * n }, 1);
    real *all[] = { c.x, c.w, c.b, c.dy, c.y, c.dx, c.carry, c.dcarry };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
    test_backend_free(&c.s.t);
}

static void conv_gradient_over_chunks_and_documents(void **state)
{
    (void)state;
    check_conv(whole, 5, 4);
    check_conv(cut, 5, 4);
    check_conv(cut, 19, 3);
    check_conv(cut, 16, 7);
    check_conv(cut, 3, 1);
}

static void conv_leaves_no_carry_where_none_is_wanted(void **state)
{
    (void)state;
    enum { DIM = 19, TAPS = 4 };
    struct sequence s;
    sequence_init(&s, whole);
    const int64_t n = s.n_tok * DIM;
    real *x = test_random(n, 1, 1), *w = test_random(TAPS * DIM, 2, 1), *b = test_random(DIM, 3, 1);
    real *carry = test_random((TAPS - 1) * DIM, 4, 1), *y = test_zeros(n), *with = test_zeros(n);
    struct conv1d_args a = { .x = acts_in(x),
                             .pos = s.pos,
                             .w = w,
                             .b = b,
                             .carry_in = acts_in(carry),
                             .y = acts_of(y),
                             .n_tok = s.n_tok,
                             .d_inner = DIM,
                             .d_conv = TAPS,
                             .ldx = DIM };
    op_conv1d_forward(&s.t.be, &a);
    a.y = acts_of(with);
    a.carry_out = acts_of(carry);
    op_conv1d_forward(&s.t.be, &a);
    assert_memory_equal(y, with, (size_t)n * sizeof(real));
    assert_memory_equal(carry, x + n - (TAPS - 1) * DIM, (TAPS - 1) * DIM * sizeof(real));
    real *all[] = { x, w, b, carry, y, with };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
    test_backend_free(&s.t);
}

/* ---- scan ---- */

struct scan {
    struct sequence s;
    int64_t d, n;
    real *u, *dt, *z, *b, *c, *a, *dd, *bias, *h, *tiles, *y, *dy;
    real *du, *ddt, *dz, *db, *dc, *dh;
};

static struct scan_args scan_chunk(struct scan *s, int64_t i)
{
    const int64_t t0 = s->s.cuts[i], d = s->d, n = s->n;
    return (struct scan_args){ .u = acts_in(s->u + t0 * d),
                               .dt = acts_in(s->dt + t0 * d),
                               .z = acts_in(s->z + t0 * d),
                               .b = acts_in(s->b + t0 * n),
                               .c = acts_in(s->c + t0 * n),
                               .a = s->a,
                               .d = s->dd,
                               .dt_bias = s->bias,
                               .pos = s->s.pos + t0,
                               .h_in = s->h,
                               .h_out = s->h,
                               .y = acts_of(s->y + t0 * d),
                               .tile_states = s->tiles + i * 8 * n * d,
                               .dy = acts_in(s->dy + t0 * d),
                               .du = acts_of(s->du + t0 * d),
                               .ddt = acts_of(s->ddt + t0 * d),
                               .dz = acts_of(s->dz + t0 * d),
                               .db = acts_of(s->db + t0 * n),
                               .dc = acts_of(s->dc + t0 * n),
                               .dh_out = s->dh,
                               .dh_in = s->dh,
                               .n_tok = s->s.cuts[i + 1] - t0,
                               .d_inner = d,
                               .d_state = n,
                               .ldz = d,
                               .lddz = d };
}

static void scan_run(struct scan *s, bool backward)
{
    memset(s->h, 0, (size_t)(s->d * s->n) * sizeof(real));
    memset(s->dh, 0, (size_t)(s->d * s->n) * sizeof(real));
    int64_t last = 0;
    for (int64_t i = 0; s->s.cuts[i + 1] >= 0; i++, last = i) {
        const struct scan_args a = scan_chunk(s, i);
        op_scan_forward(&s->s.t.be, &a);
    }
    for (int64_t i = last - 1; backward && i >= 0; i--) {
        const struct scan_args a = scan_chunk(s, i);
        op_scan_backward(&s->s.t.be, &a);
    }
}

static double scan_loss(void *context)
{
    struct scan *s = context;
    scan_run(s, false);
    return weighted(s->y, s->dy, s->s.n_tok * s->d);
}

static void scan_init(struct scan *s, const int64_t *cuts, int64_t d, int64_t n)
{
    *s = (struct scan){ .d = d, .n = n };
    sequence_init(&s->s, cuts);
    const int64_t nd = s->s.n_tok * d, nn = s->s.n_tok * n;
    s->u = test_random(nd, 1, 1);
    s->dt = test_random(nd, 2, 1);
    s->dt[7 * d] = 25; /* past softplus' threshold */
    s->z = test_random(nd, 3, 1);
    s->b = test_random(nn, 4, 1);
    s->c = test_random(nn, 5, 1);
    s->a = test_random(n * d, 6, 1);
    for (int64_t i = 0; i < n * d; i++)
        s->a[i] = -(s->a[i] * s->a[i]) - (real)0.01;
    s->dd = test_random(d, 7, 1);
    s->bias = test_random(d, 8, 1);
    s->dy = test_random(nd, 9, 1);
    s->h = test_zeros(n * d);
    s->dh = test_zeros(n * d);
    s->tiles = test_zeros(8 * 12 * n * d);
    s->y = test_zeros(nd);
    s->du = test_zeros(nd);
    s->ddt = test_zeros(nd);
    s->dz = test_zeros(nd);
    s->db = test_zeros(nn);
    s->dc = test_zeros(nn);
}

static void scan_free(struct scan *s)
{
    real *all[] = { s->u,     s->dt, s->z,  s->b,  s->c,   s->a,  s->dd, s->bias, s->h,
                    s->tiles, s->y,  s->dy, s->du, s->ddt, s->dz, s->db, s->dc,   s->dh };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
    test_backend_free(&s->s.t);
}

static void check_scan(const int64_t *cuts, int64_t d, int64_t n)
{
    struct scan s;
    scan_init(&s, cuts, d, n);
    scan_run(&s, true);
    const int64_t nd = s.s.n_tok * d, nn = s.s.n_tok * n;
    const struct test_variable v[] = {
        { "u", s.u, s.du, nd }, { "dt", s.dt, s.ddt, nd }, { "z", s.z, s.dz, nd },
        { "b", s.b, s.db, nn }, { "c", s.c, s.dc, nn },
    };
    test_check_gradients(scan_loss, &s, v, 5);
    scan_free(&s);
}

static void scan_gradient_over_chunks_and_documents(void **state)
{
    (void)state;
    check_scan(whole, 5, 3);
    check_scan(cut, 5, 3);
    check_scan(cut, 70, 4); /* two groups, a tail of lanes */
    check_scan(cut, 16, 16);
}

/* The state at a first token is dropped: what came before must not matter. */
static void scan_ignores_the_document_before(void **state)
{
    (void)state;
    struct scan s;
    scan_init(&s, whole, 20, 4);
    scan_run(&s, false);
    const int64_t from = 78, n = (123 - from) * 20; /* the documents from the fourth on */
    assert_int_equal(s.s.pos[from + 1], 0);
    real *before = test_zeros(n);
    memcpy(before, s.y + (from + 1) * 20, (size_t)(n - 20) * sizeof(real));
    for (int64_t i = 0; i <= from * 20; i++)
        s.u[i] *= 3;
    scan_run(&s, false);
    assert_memory_equal(before, s.y + (from + 1) * 20, (size_t)(n - 20) * sizeof(real));
    test_release(before);
    scan_free(&s);
}

static void scan_leaves_no_state_where_none_is_wanted(void **state)
{
    (void)state;
    struct scan s;
    scan_init(&s, whole, 20, 4);
    struct scan_args a = scan_chunk(&s, 0);
    const int64_t n = s.s.n_tok * s.d;
    real *y = test_zeros(n), *was = test_random(s.n * s.d, 10, 1);
    memcpy(s.h, was, (size_t)(s.n * s.d) * sizeof(real));
    a.h_out = NULL;
    op_scan_forward(&s.s.t.be, &a);
    assert_memory_equal(s.h, was, (size_t)(s.n * s.d) * sizeof(real));
    a.y = acts_of(y);
    a.h_out = s.h;
    op_scan_forward(&s.s.t.be, &a);
    assert_memory_equal(y, s.y, (size_t)n * sizeof(real));
    assert_memory_not_equal(s.h, was, (size_t)(s.n * s.d) * sizeof(real));
    test_release(y);
    test_release(was);
    scan_free(&s);
}

/* ---- attention ---- */

struct attention {
    struct sequence s;
    int64_t n_head, n_kv, d;
    real *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv;
};

static void attention_run(struct attention *c, bool backward)
{
    const int64_t lq = c->n_head * c->d;
    int64_t last = 0;
    while (c->s.cuts[last + 1] >= 0)
        last++;
    for (int64_t step = 0; step < (backward ? 2 * last : last); step++) {
        const int64_t i = step < last ? step : 2 * last - 1 - step, t0 = c->s.cuts[i];
        const struct attention_args a = { .q = acts_in(c->q + t0 * lq),
                                          .k = acts_in(c->k),
                                          .v = acts_in(c->v),
                                          .pos = c->s.pos + t0,
                                          .o = acts_of(c->o + t0 * lq),
                                          .lse = c->lse + t0 * c->n_head,
                                          .d_o = acts_in(c->d_o + t0 * lq),
                                          .dq = acts_of(c->dq + t0 * lq),
                                          .dk = c->dk,
                                          .dv = c->dv,
                                          .n_tok = c->s.cuts[i + 1] - t0,
                                          .t0 = t0,
                                          .n_head = c->n_head,
                                          .n_kv = c->n_kv,
                                          .d_head = c->d };
        if (step < last)
            op_attention_forward(&c->s.t.be, &a);
        else
            op_attention_backward(&c->s.t.be, &a);
    }
}

static double attention_loss(void *context)
{
    struct attention *c = context;
    attention_run(c, false);
    return weighted(c->o, c->d_o, c->s.n_tok * c->n_head * c->d);
}

/* shape: n_head, n_kv, d_head. */
static void attention_init(struct attention *c, const int64_t *cuts, const int64_t shape[3])
{
    *c = (struct attention){ .n_head = shape[0], .n_kv = shape[1], .d = shape[2] };
    sequence_init(&c->s, cuts);
    const int64_t nq = c->s.n_tok * c->n_head * c->d, nk = c->s.n_tok * c->n_kv * c->d;
    c->q = test_random(nq, 1, 1.5);
    c->k = test_random(nk, 2, 1.5);
    c->v = test_random(nk, 3, 1);
    c->d_o = test_random(nq, 4, 1);
    c->o = test_zeros(nq);
    c->lse = test_zeros(c->s.n_tok * c->n_head);
    c->dq = test_zeros(nq);
    c->dk = test_zeros(nk);
    c->dv = test_zeros(nk);
}

static void attention_free(struct attention *c)
{
    real *all[] = { c->q, c->k, c->v, c->o, c->lse, c->d_o, c->dq, c->dk, c->dv };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
    test_backend_free(&c->s.t);
}

static void check_attention(const int64_t *cuts, const int64_t shape[3])
{
    struct attention c;
    attention_init(&c, cuts, shape);
    attention_run(&c, true);
    const int64_t nq = c.s.n_tok * c.n_head * c.d, nk = c.s.n_tok * c.n_kv * c.d;
    const struct test_variable v[] = { { "q", c.q, c.dq, nq },
                                       { "k", c.k, c.dk, nk },
                                       { "v", c.v, c.dv, nk } };
    test_check_gradients(attention_loss, &c, v, 3);
    attention_free(&c);
}

static void attention_gradient_over_chunks_and_documents(void **state)
{
    (void)state;
    check_attention(whole, (const int64_t[3]){ 2, 1, 5 });
    check_attention(cut, (const int64_t[3]){ 4, 2, 3 });
    check_attention(cut, (const int64_t[3]){ 3, 3, 8 });
}

/* Its softmax is 1 whatever q and k are: their gradients are zeros, not rounding. */
static void a_document_of_one_token_moves_no_query_and_no_key(void **state)
{
    (void)state;
    static const int64_t alone[] = { 0, 78, 79 };
    struct attention c;
    attention_init(&c, cut, (const int64_t[3]){ 6, 2, 19 });
    attention_run(&c, true);
    const int64_t nq = c.n_head * c.d, nk = c.n_kv * c.d;
    for (int i = 0; i < 3; i++) {
        const int64_t t = alone[i];
        assert_true(c.s.pos[t] == 0 && c.s.pos[t + 1] == 0);
        for (int64_t j = 0; j < nq; j++)
            assert_true(c.dq[t * nq + j] == 0);
        for (int64_t j = 0; j < nk; j++)
            assert_true(c.dk[t * nk + j] == 0 && c.dv[t * nk + j] != 0);
    }
    attention_free(&c);
}

/* ---- threads ---- */

/* Runs with one thread and with more; every output must keep its bits. */
static void compare_threads(struct test_backend *t, void (*run)(void *context), void *context,
                            real *const *outputs, const int64_t *sizes, int n_output)
{
    real *first[8] = { NULL };
    assert_in_range(n_output, 1, 8);
    for (int n_thread = 1; n_thread <= 4; n_thread++) {
        t->be.n_thread = n_thread;
        for (int i = 0; i < n_output; i++)
            memset(outputs[i], 0, (size_t)sizes[i] * sizeof(real));
        run(context);
        for (int i = 0; i < n_output; i++) {
            if (n_thread == 1) {
                first[i] = test_zeros(sizes[i]);
                memcpy(first[i], outputs[i], (size_t)sizes[i] * sizeof(real));
            }
            assert_memory_equal(outputs[i], first[i], (size_t)sizes[i] * sizeof(real));
        }
    }
    for (int i = 0; i < n_output; i++)
        test_release(first[i]);
}

static void scan_both_ways(void *context)
{
    scan_run(context, true);
}

static void threads_change_no_bit_of_a_scan(void **state)
{
    (void)state;
    struct scan s;
    scan_init(&s, cut, 150, 4); /* three groups of channels */
    const int64_t nd = s.s.n_tok * s.d, nn = s.s.n_tok * s.n;
    real *const outputs[] = { s.y, s.du, s.ddt, s.dz, s.db, s.dc, s.h, s.dh };
    const int64_t sizes[] = { nd, nd, nd, nd, nn, nn, s.n * s.d, s.n * s.d };
    compare_threads(&s.s.t, scan_both_ways, &s, outputs, sizes, 8);
    scan_free(&s);
}

static void attention_both_ways(void *context)
{
    attention_run(context, true);
}

static void threads_change_no_bit_of_attention(void **state)
{
    (void)state;
    struct attention c;
    attention_init(&c, cut, (const int64_t[3]){ 6, 2, 5 });
    const int64_t nq = c.s.n_tok * c.n_head * c.d, nk = c.s.n_tok * c.n_kv * c.d;
    real *const outputs[] = { c.o, c.lse, c.dq, c.dk, c.dv };
    const int64_t sizes[] = { nq, c.s.n_tok * c.n_head, nq, nk, nk };
    compare_threads(&c.s.t, attention_both_ways, &c, outputs, sizes, 5);
    attention_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv_gradient_over_chunks_and_documents),
        cmocka_unit_test(conv_leaves_no_carry_where_none_is_wanted),
        cmocka_unit_test(scan_gradient_over_chunks_and_documents),
        cmocka_unit_test(scan_ignores_the_document_before),
        cmocka_unit_test(scan_leaves_no_state_where_none_is_wanted),
        cmocka_unit_test(attention_gradient_over_chunks_and_documents),
        cmocka_unit_test(a_document_of_one_token_moves_no_query_and_no_key),
        cmocka_unit_test(threads_change_no_bit_of_a_scan),
        cmocka_unit_test(threads_change_no_bit_of_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
