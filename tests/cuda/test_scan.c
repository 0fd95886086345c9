/* The selective scan on the CUDA backend against the CPU's: states in one round and in many, every
 * cut of the channels, documents of many lengths, chunks that begin inside one, carries both ways
 * (aliased, or not wanted), strides, misaligned rows, both ends of the softplus. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/parity.h"

/* Documents' lengths, over and over: shorter than a group of eight tokens, across groups, tiles and
 * chunks. */
static const int lengths[] = { 1, 2, 13, 1, 1, 37, 3, 8, 2, 71, 5, 32 };

struct shape {
    int64_t n_tok, d_inner, d_state;
    int64_t pad;  /* of z's rows */
    int64_t skew; /* elements between aligned memory and what the op is given */
    int64_t pos0; /* of the first token */
    bool one_document, alias;
};

static const struct shape shapes[] = {
    { 257, 40, 16, 8, 0, 3, false, false }, { 100, 130, 16, 0, 0, 0, false, true },
    { 33, 128, 16, 128, 0, 5, true, true }, { 32, 3, 16, 1, 0, 1, false, false },
    { 31, 40, 16, 0, 1, 0, false, false },  { 70, 16, 16, 8, 1, 9, true, true },
    { 1, 128, 16, 0, 0, 4, false, false },  { 1, 1, 1, 0, 0, 0, false, true },
    { 100, 3, 5, 2, 0, 7, false, true },    { 33, 130, 1, 0, 0, 2, true, false },
    { 65, 17, 17, 3, 0, 2, false, false },  { 40, 24, 64, 8, 0, 1, false, true },
    { 34, 9, 256, 0, 1, 1, true, false },
};

/* In bf16 the widest blocks, of ten warps, and the first cut into two waves, four lanes a channel;
 * that in f32, which comes with fewer channels, over two tiles. */
static const struct shape wide_bf16[] = {
    { 9, 5112, 16, 0, 0, 2, false, false },
    { 5, 5127, 16, 8, 0, 3, false, true },
};
static const struct shape wide_f32 = { 33, 3080, 16, 8, 0, 3, false, true };

struct scan {
    struct parity p;
    struct shape s;
    int64_t n, ldz, n_state, n_bc, n_tile; /* elements */
    real *u, *dt, *z, *b, *c, *a, *d, *dt_bias, *h_in, *dy, *dh_out;
    int32_t *pos;
    struct scan_args cpu, cuda; /* the inputs */
};

static struct act *shifted(struct scan *c, const real *x, int64_t n)
{
    const int64_t skew = c->s.skew;
    real *y = parity_reals_out(&c->p, n + skew);
    if (x != NULL)
        memcpy(y + skew, x, (size_t)n * sizeof(real));
    return act_at(&c->p.cuda, parity_act(&c->p, y, n + skew), skew);
}

static void fill_positions(struct scan *c)
{
    int64_t document = 0, pos = c->s.pos0;
    c->pos = malloc((size_t)c->s.n_tok * sizeof *c->pos);
    assert_non_null(c->pos);
    for (int64_t t = 0; t < c->s.n_tok; t++) {
        c->pos[t] = (int32_t)pos++;
        if (!c->s.one_document && pos >= lengths[document % 12]) {
            pos = 0;
            document++;
        }
    }
}

/* Decays from near 0 to 0.999; steps from e^-30 (the softplus of -30) to 30. */
static void fill_values(struct scan *c)
{
    const struct shape *s = &c->s;
    c->a = parity_random(&c->p, c->n_state, 6, 1.0);
    for (int64_t i = 0; i < c->n_state; i++)
        c->a[i] = -(real)exp(1.5 * (double)c->a[i]);
    for (int64_t i = 0; i < c->n; i += 11) {
        static const double extremes[] = { -30, 30, 19.5, -12, 21 };
        c->dt[i] = parity_round(&c->p, (real)extremes[i % 5]);
    }
    for (int64_t i = 0; i < s->n_tok * c->ldz; i += 7)
        c->z[i] = parity_round(&c->p, c->z[i] * 20);
}

static void scan_open(struct scan *c, enum dtype act, const struct shape *s)
{
    *c = (struct scan){ .s = *s, .n = s->n_tok * s->d_inner, .ldz = s->d_inner + s->pad };
    struct parity *p = &c->p;
    parity_open(p, act);
    c->n_state = s->d_state * s->d_inner;
    c->n_bc = s->n_tok * s->d_state;
    c->n_tile = (s->n_tok + SCAN_TILE - 1) / SCAN_TILE * c->n_state;
    c->u = parity_random(p, c->n, 1, 1.0);
    c->dt = parity_random(p, c->n, 2, 1.5);
    c->z = parity_random(p, s->n_tok * c->ldz, 3, 1.0);
    c->b = parity_random(p, c->n_bc, 4, 1.0);
    c->c = parity_random(p, c->n_bc, 5, 1.0);
    c->d = parity_random(p, s->d_inner, 7, 1.0);
    c->dt_bias = parity_random(p, s->d_inner, 8, 1.0);
    c->h_in = parity_random(p, c->n_state, 9, 1.0);
    c->dy = parity_random(p, c->n, 10, 1.0);
    c->dh_out = parity_random(p, c->n_state, 11, 1.0);
    fill_values(c);
    fill_positions(c);
    c->cpu = (struct scan_args){
        .u = acts_in(c->u),
        .dt = acts_in(c->dt),
        .z = acts_in(c->z),
        .b = acts_in(c->b),
        .c = acts_in(c->c),
        .a = c->a,
        .d = c->d,
        .dt_bias = c->dt_bias,
        .pos = c->pos,
        .h_in = c->h_in,
        .dy = acts_in(c->dy),
        .n_tok = s->n_tok,
        .d_inner = s->d_inner,
        .d_state = s->d_state,
        .ldz = c->ldz,
        .lddz = c->ldz,
    };
    c->cuda = c->cpu;
    c->cuda.u = shifted(c, c->u, c->n);
    c->cuda.dt = shifted(c, c->dt, c->n);
    c->cuda.z = shifted(c, c->z, s->n_tok * c->ldz);
    c->cuda.b = shifted(c, c->b, c->n_bc);
    c->cuda.c = shifted(c, c->c, c->n_bc);
    c->cuda.a = parity_reals(p, c->a, c->n_state);
    c->cuda.d = parity_reals(p, c->d, s->d_inner);
    c->cuda.dt_bias = parity_reals(p, c->dt_bias, s->d_inner);
    c->cuda.pos = parity_ints(p, c->pos, s->n_tok);
    c->cuda.h_in = parity_reals(p, c->h_in, c->n_state);
    c->cuda.dy = shifted(c, c->dy, c->n);
}

static void scan_close(struct scan *c)
{
    free(c->pos);
    parity_close(&c->p);
}

/* dz lies in rows of ldz, and what is between them stays. */
static void check_rows(struct scan *c, const char *name, const struct act *got,
                       const real *expected)
{
    const int64_t n = c->s.n_tok * c->ldz;
    real *read = parity_read_act(&c->p, got, n), *dense = parity_reals_out(&c->p, c->n);
    for (int64_t t = 0; t < c->s.n_tok; t++) {
        memcpy(dense + t * c->s.d_inner, read + t * c->ldz, (size_t)c->s.d_inner * sizeof(real));
        for (int64_t i = c->s.d_inner; i < c->ldz; i++)
            assert_true(isnan(read[t * c->ldz + i]));
    }
    parity_check_within(&c->p, name, c->p.tolerance, dense, expected, c->n);
}

static void check_forward(struct scan *c)
{
    struct parity *p = &c->p;
    struct scan_args cpu = c->cpu, cuda = c->cuda;
    real *y = parity_reals_out(p, c->n), *h = parity_reals_out(p, c->n_state);
    real *tiles = parity_reals_out(p, c->n_tile);
    cpu.y = acts_of(y);
    cpu.h_out = h;
    cpu.tile_states = tiles;
    op_scan_forward(&p->cpu, &cpu);
    real *h_in = parity_reals(p, c->h_in, c->n_state);
    cuda.y = shifted(c, NULL, c->n);
    cuda.h_in = h_in;
    cuda.h_out = c->s.alias ? h_in : parity_reals(p, NULL, c->n_state);
    cuda.tile_states = parity_reals(p, NULL, c->n_tile);
    op_scan_forward(&p->cuda, &cuda);
    parity_check_act(p, "y", cuda.y, y, c->n);
    parity_check_reals(p, "h_out", cuda.h_out, h, c->n_state);
    parity_check_reals(p, "tile_states", cuda.tile_states, tiles, c->n_tile);
    cuda.h_in = c->cuda.h_in;
    cuda.h_out = NULL;
    cuda.tile_states = NULL;
    cuda.y = shifted(c, NULL, c->n);
    op_scan_forward(&p->cuda, &cuda);
    parity_check_act(p, "y alone", cuda.y, y, c->n);
}

/* From the CPU's states at the tiles' starts, so that errors do not add up. */
static void check_backward(struct scan *c, bool carries)
{
    struct parity *p = &c->p;
    const int64_t n_z = c->s.n_tok * c->ldz;
    struct scan_args cpu = c->cpu, cuda = c->cuda;
    real *y = parity_reals_out(p, c->n), *tiles = parity_reals_out(p, c->n_tile);
    real *du = parity_reals_out(p, c->n), *ddt = parity_reals_out(p, c->n);
    real *dz = parity_reals_out(p, n_z), *dense = parity_reals_out(p, c->n);
    real *db = parity_reals_out(p, c->n_bc), *dc = parity_reals_out(p, c->n_bc);
    real *dh_in = parity_reals_out(p, c->n_state);
    cpu.y = acts_of(y);
    cpu.tile_states = tiles;
    op_scan_forward(&p->cpu, &cpu);
    cpu.du = acts_of(du);
    cpu.ddt = acts_of(ddt);
    cpu.dz = acts_of(dz);
    cpu.db = acts_of(db);
    cpu.dc = acts_of(dc);
    cpu.dh_out = carries ? c->dh_out : NULL;
    cpu.dh_in = carries ? dh_in : NULL;
    op_scan_backward(&p->cpu, &cpu);
    for (int64_t t = 0; t < c->s.n_tok; t++)
        memcpy(dense + t * c->s.d_inner, dz + t * c->ldz, (size_t)c->s.d_inner * sizeof(real));

    cuda.tile_states = parity_reals(p, tiles, c->n_tile);
    cuda.du = shifted(c, NULL, c->n);
    cuda.ddt = shifted(c, NULL, c->n);
    cuda.dz = shifted(c, NULL, n_z);
    cuda.db = shifted(c, NULL, c->n_bc);
    cuda.dc = shifted(c, NULL, c->n_bc);
    if (carries) {
        real *dh_out = parity_reals(p, c->dh_out, c->n_state);
        cuda.dh_out = dh_out;
        cuda.dh_in = c->s.alias ? dh_out : parity_reals(p, NULL, c->n_state);
    }
    op_scan_backward(&p->cuda, &cuda);
    parity_check_act(p, "du", cuda.du, du, c->n);
    parity_check_act(p, "ddt", cuda.ddt, ddt, c->n);
    check_rows(c, "dz", cuda.dz, dense);
    parity_check_act(p, "db", cuda.db, db, c->n_bc);
    parity_check_act(p, "dc", cuda.dc, dc, c->n_bc);
    if (carries)
        parity_check_reals(p, "dh_in", cuda.dh_in, dh_in, c->n_state);
}

static void check_shapes(enum dtype act, const struct shape *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct scan c;
        scan_open(&c, act, &s[i]);
        check_forward(&c);
        check_backward(&c, true);
        if (s[i].d_inner < 200)
            check_backward(&c, false);
        scan_close(&c);
    }
}

static void agrees_in_f32(void **state)
{
    (void)state;
    check_shapes(DTYPE_F32, shapes, sizeof shapes / sizeof *shapes);
}

static void agrees_in_bf16(void **state)
{
    (void)state;
    check_shapes(DTYPE_BF16, shapes, sizeof shapes / sizeof *shapes);
}

static void wide_rows_agree(void **state)
{
    (void)state;
    if (parity_small())
        skip();
    check_shapes(DTYPE_F32, &wide_f32, 1);
    check_shapes(DTYPE_BF16, wide_bf16, 2);
}

/* Positions in place of the values that fill_positions() gave. */
static void set_positions(struct scan *c, const int64_t *starts, int64_t n)
{
    for (int64_t t = 0, i = 0, start = 0; t < c->s.n_tok; t++) {
        if (i < n && starts[i] == t)
            start = starts[i++];
        c->pos[t] = (int32_t)(t - start);
    }
    c->cuda.pos = parity_ints(&c->p, c->pos, c->s.n_tok);
}

/* NaN and infinity in one document stay there, in every output: as its last token shares a group, a
 * tile and a sum over channels with the next one's first. */
static void nan_stays_in_its_document(void **state)
{
    (void)state;
    enum { N_TOK = 80, FIRST = 30, END = 61 };
    for (int64_t d_state = 16; d_state <= 17; d_state++) {
        struct scan c;
        scan_open(&c, d_state == 16 ? DTYPE_BF16 : DTYPE_F32,
                  &(struct shape){ N_TOK, 24, d_state, 0, 0, 0, false, false });
        struct parity *p = &c.p;
        set_positions(&c, (const int64_t[]){ 0, FIRST, END }, 3);
        real *clean_u = parity_reals_out(p, c.n), *clean_dy = parity_reals_out(p, c.n);
        memcpy(clean_u, c.u, (size_t)c.n * sizeof(real));
        memcpy(clean_dy, c.dy, (size_t)c.n * sizeof(real));
        real *got[2][6];
        for (int bad = 0; bad < 2; bad++) {
            for (int64_t i = FIRST * 24; i < END * 24 && bad; i++) {
                c.u[i] = i % 2 ? (real)INFINITY : (real)NAN;
                c.dy[i] = (real)NAN;
            }
            struct scan_args a = c.cuda;
            a.u = parity_act(p, c.u, c.n);
            a.dy = parity_act(p, c.dy, c.n);
            a.y = parity_act(p, NULL, c.n);
            a.tile_states = parity_reals(p, NULL, c.n_tile);
            op_scan_forward(&p->cuda, &a);
            a.du = parity_act(p, NULL, c.n);
            a.ddt = parity_act(p, NULL, c.n);
            a.dz = parity_act(p, NULL, c.n);
            a.db = parity_act(p, NULL, c.n_bc);
            a.dc = parity_act(p, NULL, c.n_bc);
            op_scan_backward(&p->cuda, &a);
            const struct act *outputs[6] = { a.y, a.du, a.ddt, a.dz, a.db, a.dc };
            for (int k = 0; k < 6; k++)
                got[bad][k] = parity_read_act(p, outputs[k], k < 4 ? c.n : c.n_bc);
        }
        for (int k = 0; k < 6; k++) {
            const int64_t dim = k < 4 ? 24 : d_state;
            for (int64_t i = 0; i < N_TOK * dim; i++) {
                if (i < FIRST * dim || i >= END * dim)
                    assert_true(got[0][k][i] == got[1][k][i]);
                else
                    assert_true(!isfinite(got[1][k][i]));
            }
        }
        scan_close(&c);
    }
}

/* A stream in chunks is the stream in one: carried states, and ranges of the backward. */
static void chunks_give_the_whole(void **state)
{
    (void)state;
    enum { D = 16, N = 16 };
    static const int64_t cuts[] = { 0, 1, 33, 97, 200, 288 };
    const int64_t n_tok = cuts[5];
    struct scan c;
    scan_open(&c, DTYPE_F32, &(struct shape){ n_tok, D, N, 0, 0, 0, false, false });
    struct parity *p = &c.p;
    set_positions(&c, (const int64_t[]){ 0, 5, 40, 47, 250 }, 5);
    struct scan_args whole = c.cuda;
    whole.h_in = parity_reals(p, c.h_in, c.n_state);
    whole.h_out = parity_reals(p, NULL, c.n_state);
    whole.y = parity_act(p, NULL, c.n);
    whole.tile_states = parity_reals(p, NULL, c.n_tile);
    op_scan_forward(&p->cuda, &whole);
    whole.du = parity_act(p, NULL, c.n);
    whole.ddt = parity_act(p, NULL, c.n);
    whole.dz = parity_act(p, NULL, c.n);
    whole.db = parity_act(p, NULL, c.n_bc);
    whole.dc = parity_act(p, NULL, c.n_bc);
    whole.dh_out = parity_reals(p, c.dh_out, c.n_state);
    whole.dh_in = parity_reals(p, NULL, c.n_state);
    op_scan_backward(&p->cuda, &whole);

    struct scan_args parts[5];
    real *h = parity_reals(p, c.h_in, c.n_state), *dh = parity_reals(p, c.dh_out, c.n_state);
    struct act *y = parity_act(p, NULL, c.n), *du = parity_act(p, NULL, c.n);
    struct act *ddt = parity_act(p, NULL, c.n), *dz = parity_act(p, NULL, c.n);
    struct act *db = parity_act(p, NULL, c.n_bc), *dc = parity_act(p, NULL, c.n_bc);
    const struct backend *be = &p->cuda;
    for (int i = 0; i < 5; i++) {
        struct scan_args *a = &parts[i];
        const int64_t at = cuts[i];
        *a = c.cuda;
        a->n_tok = cuts[i + 1] - at;
        a->u = act_in(be, a->u, at * D);
        a->dt = act_in(be, a->dt, at * D);
        a->z = act_in(be, a->z, at * D);
        a->b = act_in(be, a->b, at * N);
        a->c = act_in(be, a->c, at * N);
        a->dy = act_in(be, a->dy, at * D);
        a->pos += at;
        a->h_in = a->h_out = h;
        a->y = act_at(be, y, at * D);
        a->tile_states = parity_reals(p, NULL, (a->n_tok + SCAN_TILE - 1) / SCAN_TILE * c.n_state);
        op_scan_forward(&p->cuda, a);
    }
    for (int i = 4; i >= 0; i--) {
        struct scan_args *a = &parts[i];
        const int64_t at = cuts[i];
        a->du = act_at(be, du, at * D);
        a->ddt = act_at(be, ddt, at * D);
        a->dz = act_at(be, dz, at * D);
        a->db = act_at(be, db, at * N);
        a->dc = act_at(be, dc, at * N);
        a->dh_out = a->dh_in = dh;
        op_scan_backward(&p->cuda, a);
    }
    parity_check_act(p, "y", y, parity_read_act(p, whole.y, c.n), c.n);
    parity_check_act(p, "du", du, parity_read_act(p, whole.du, c.n), c.n);
    parity_check_act(p, "ddt", ddt, parity_read_act(p, whole.ddt, c.n), c.n);
    parity_check_act(p, "dz", dz, parity_read_act(p, whole.dz, c.n), c.n);
    parity_check_act(p, "db", db, parity_read_act(p, whole.db, c.n_bc), c.n_bc);
    parity_check_act(p, "dc", dc, parity_read_act(p, whole.dc, c.n_bc), c.n_bc);
    parity_check_reals(p, "h_out", h, parity_read_reals(p, whole.h_out, c.n_state), c.n_state);
    parity_check_reals(p, "dh_in", dh, parity_read_reals(p, whole.dh_in, c.n_state), c.n_state);
    scan_close(&c);
}

/* More tokens than the backward takes at a time (few with many states), and one more tile. */
static void ranges_are_joined(void **state)
{
    (void)state;
    check_shapes(DTYPE_F32, &(struct shape){ 162, 2, 256, 0, 0, 3, false, true },
                 parity_small() ? 0 : 1);
}

/* Decays of 0.999 to 0.98: what a state remembers is in the distance from 1. */
static void slow_decays_survive(void **state)
{
    (void)state;
    /* The device's 2^x is good to 2^-22 (scan_tile.cuh), and each token's decay may add one. */
    enum { N_TOK = 500 };
    const double tolerance = N_TOK * ldexp(1, -22);
    struct scan c;
    scan_open(&c, DTYPE_F32, &(struct shape){ N_TOK, 4, 16, 0, 0, 9, true, false });
    struct parity *p = &c.p;
    for (int64_t i = 0; i < c.n_state; i++)
        c.a[i] = (real) - (1 + i / 4);
    for (int64_t i = 0; i < c.n; i++)
        c.dt[i] = (real)(-7 + (double)(i % 5) / 8);
    memset(c.dt_bias, 0, 4 * sizeof(real));
    real *y = parity_reals_out(p, c.n), *h = parity_reals_out(p, c.n_state);
    c.cpu.y = acts_of(y);
    c.cpu.h_out = h;
    op_scan_forward(&p->cpu, &c.cpu);
    c.cuda.a = parity_reals(p, c.a, c.n_state);
    c.cuda.dt = parity_act(p, c.dt, c.n);
    c.cuda.dt_bias = parity_reals(p, c.dt_bias, 4);
    c.cuda.y = parity_act(p, NULL, c.n);
    c.cuda.h_out = parity_reals(p, NULL, c.n_state);
    op_scan_forward(&p->cuda, &c.cuda);
    parity_check_within(p, "y", tolerance, parity_read_act(p, c.cuda.y, c.n), y, c.n);
    parity_check_within(p, "h_out", tolerance, parity_read_reals(p, c.cuda.h_out, c.n_state), h,
                        c.n_state);
    scan_close(&c);
}

/* An empty chunk hands its carries on. */
static void no_tokens_hand_the_state_on(void **state)
{
    (void)state;
    struct scan c;
    scan_open(&c, DTYPE_F32, &(struct shape){ 1, 20, 16, 0, 0, 3, false, false });
    struct scan_args a = c.cuda;
    a.n_tok = 0;
    a.tile_states = parity_reals(&c.p, NULL, c.n_tile);
    a.h_out = parity_reals(&c.p, NULL, c.n_state);
    a.dh_out = parity_reals(&c.p, c.dh_out, c.n_state);
    a.dh_in = parity_reals(&c.p, NULL, c.n_state);
    op_scan_forward(&c.p.cuda, &a);
    op_scan_backward(&c.p.cuda, &a);
    parity_check_reals(&c.p, "h_out", a.h_out, c.h_in, c.n_state);
    parity_check_reals(&c.p, "dh_in", a.dh_in, c.dh_out, c.n_state);
    scan_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_in_f32),         cmocka_unit_test(agrees_in_bf16),
        cmocka_unit_test(wide_rows_agree),       cmocka_unit_test(nan_stays_in_its_document),
        cmocka_unit_test(chunks_give_the_whole), cmocka_unit_test(ranges_are_joined),
        cmocka_unit_test(slow_decays_survive),   cmocka_unit_test(no_tokens_hand_the_state_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
