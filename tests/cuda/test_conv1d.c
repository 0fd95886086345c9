/* The causal convolution on the CUDA backend against the CPU's: every d_conv, chunks cut anywhere,
 * carries both ways (aliased, or not wanted), strides, misaligned rows. */
#include <math.h>
#include <string.h>

#include "tests/cuda/parity.h"

enum { N_DOC = 11, N_STREAM = 96 };
static const int lengths[N_DOC] = { 1, 5, 2, 13, 1, 1, 37, 3, 8, 2, 23 };

struct shape {
    int64_t d_inner, d_conv;
    int64_t from, n_tok; /* the chunk */
    int64_t pad;         /* ldx - d_inner */
    int64_t shift;       /* elements that pointers are off their alignment */
    bool alias;          /* carry_out is carry_in, dcarry_in is dcarry_out */
};

/* Widths: one channel; odd; whole vectors; past a block of them. Chunks: all; single tokens;
 * shorter than the taps, in and across documents; ends inside a run of tokens; nothing. */
static const struct shape shapes[] = {
    { 1, 4, 0, N_STREAM, 0, 0, false }, { 7, 4, 0, N_STREAM, 3, 0, false },
    { 24, 4, 0, N_STREAM, 8, 0, true }, { 24, 4, 0, N_STREAM, 5, 0, false },
    { 16, 4, 0, N_STREAM, 0, 1, true }, { 1040, 4, 9, 21, 16, 0, true },
    { 131, 4, 40, 17, 0, 0, true },     { 16, 4, 30, 0, 0, 0, true },
    { 16, 4, 30, 0, 0, 0, false },      { 16, 4, 30, 1, 0, 0, true },
    { 16, 4, 30, 2, 8, 0, true },       { 16, 4, 30, 2, 0, 0, false },
    { 5, 4, 30, 2, 0, 0, true },        { 16, 4, 22, 3, 0, 0, true },
    { 16, 4, 22, 4, 0, 0, true },       { 16, 4, 23, 1, 0, 0, true },
    { 16, 4, 24, 2, 0, 0, true },       { 16, 4, 2, 3, 0, 0, false },
    { 16, 4, 31, 8, 0, 0, true },       { 16, 4, 31, 9, 0, 0, true },
    { 16, 4, 31, 7, 0, 0, false },      { 16, 1, 3, 50, 8, 0, true },
    { 9, 1, 0, 1, 0, 0, false },        { 16, 2, 0, N_STREAM, 0, 0, true },
    { 11, 3, 7, 60, 2, 0, false },      { 16, 5, 0, N_STREAM, 8, 0, true },
    { 16, 8, 26, 5, 0, 0, true },       { 130, 7, 26, 40, 0, 0, false },
};

struct conv {
    struct parity p;
    struct shape s;
    int64_t ld, n_carry;
    real *x, *dy, *w, *b, *carry, *dcarry; /* inputs */
    struct conv1d_args cpu, cuda;
};

/* A device copy (NaN of NULL) that begins off its alignment by the shape's shift. */
static struct act *shifted(struct conv *c, const real *x, int64_t n)
{
    real *image = parity_reals_out(&c->p, n + c->s.shift);
    if (x != NULL)
        memcpy(image + c->s.shift, x, (size_t)n * sizeof *x);
    return act_at(&c->p.cuda, parity_act(&c->p, image, n + c->s.shift), c->s.shift);
}

static void conv_open(struct conv *c, enum dtype act, const struct shape *s)
{
    static int32_t pos[N_STREAM];
    parity_open(&c->p, act);
    c->s = *s;
    c->ld = s->d_inner + s->pad;
    c->n_carry = (s->d_conv - 1) * s->d_inner;
    assert_int_equal(test_positions(lengths, N_DOC, pos, NULL), N_STREAM);
    c->x = parity_random(&c->p, s->n_tok * c->ld, 1, 1);
    c->dy = parity_random(&c->p, s->n_tok * s->d_inner, 2, 1);
    c->w = parity_random(&c->p, s->d_conv * s->d_inner, 3, 1);
    c->b = parity_random(&c->p, s->d_inner, 4, 1);
    c->carry = parity_random(&c->p, c->n_carry, 5, 1);
    c->dcarry = parity_random(&c->p, c->n_carry, 6, 1);
    c->cpu = (struct conv1d_args){ .x = acts_in(c->x),
                                   .pos = pos + s->from,
                                   .w = c->w,
                                   .b = c->b,
                                   .carry_in = acts_in(c->carry),
                                   .dy = acts_in(c->dy),
                                   .n_tok = s->n_tok,
                                   .d_inner = s->d_inner,
                                   .d_conv = s->d_conv,
                                   .ldx = c->ld,
                                   .lddx = c->ld };
    c->cuda = c->cpu;
    c->cuda.x = shifted(c, c->x, s->n_tok * c->ld);
    c->cuda.pos = parity_ints(&c->p, pos + s->from, s->n_tok);
    c->cuda.w = parity_reals(&c->p, c->w, s->d_conv * s->d_inner);
    c->cuda.b = parity_reals(&c->p, c->b, s->d_inner);
    c->cuda.carry_in = shifted(c, c->carry, c->n_carry);
    c->cuda.dy = shifted(c, c->dy, s->n_tok * s->d_inner);
}

static void check_forward(struct conv *c)
{
    const struct shape *s = &c->s;
    const int64_t n = s->n_tok * s->d_inner;
    real *y = parity_reals_out(&c->p, n), *carry = parity_reals_out(&c->p, c->n_carry);
    struct conv1d_args cpu = c->cpu, cuda = c->cuda;
    cpu.y = acts_of(y);
    cpu.carry_out = acts_of(carry);
    op_conv1d_forward(&c->p.cpu, &cpu);
    cuda.y = shifted(c, NULL, n);
    struct act *carry_in = shifted(c, c->carry, c->n_carry);
    cuda.carry_in = carry_in;
    cuda.carry_out = s->alias ? carry_in : shifted(c, NULL, c->n_carry);
    op_conv1d_forward(&c->p.cuda, &cuda);
    parity_check_act(&c->p, "y", cuda.y, y, n);
    parity_check_act(&c->p, "carry_out", cuda.carry_out, carry, c->n_carry);
    cuda.carry_in = c->cuda.carry_in;
    cuda.carry_out = NULL;
    cuda.y = shifted(c, NULL, n);
    op_conv1d_forward(&c->p.cuda, &cuda);
    parity_check_act(&c->p, "y without carry_out", cuda.y, y, n);
}

static void check_backward(struct conv *c, bool carries)
{
    const struct shape *s = &c->s;
    const int64_t n = s->n_tok * c->ld;
    real *dx = parity_reals_out(&c->p, n), *dcarry = parity_reals_out(&c->p, c->n_carry);
    struct conv1d_args cpu = c->cpu, cuda = c->cuda;
    cpu.dx = acts_of(dx);
    cpu.dcarry_out = carries ? c->dcarry : NULL;
    cpu.dcarry_in = carries ? dcarry : NULL;
    op_conv1d_backward(&c->p.cpu, &cpu);
    cuda.dx = shifted(c, NULL, n);
    if (carries) {
        real *out = parity_reals(&c->p, c->dcarry, c->n_carry);
        cuda.dcarry_out = out;
        cuda.dcarry_in = s->alias ? out : parity_reals(&c->p, NULL, c->n_carry);
    }
    op_conv1d_backward(&c->p.cuda, &cuda);
    parity_check_act(&c->p, "dx", cuda.dx, dx, n);
    if (carries)
        parity_check_reals(&c->p, "dcarry_in", cuda.dcarry_in, dcarry, c->n_carry);
}

static void check_shapes(enum dtype act)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct conv c;
        conv_open(&c, act, &shapes[i]);
        check_forward(&c);
        check_backward(&c, true);
        check_backward(&c, false);
        parity_close(&c.p);
    }
}

static void agrees_in_f32(void **state)
{
    (void)state;
    check_shapes(DTYPE_F32);
}

static void agrees_in_bf16(void **state)
{
    (void)state;
    check_shapes(DTYPE_BF16);
}

/* Enough tokens that threads walk long runs. */
static void long_runs_agree(void **state)
{
    (void)state;
    enum { N_TOK = 16384, D_INNER = 129 };
    struct parity p;
    parity_open(&p, DTYPE_F32);
    if (parity_small()) {
        parity_close(&p);
        skip();
    }
    static int32_t pos[N_TOK];
    for (int32_t t = 0; t < N_TOK; t++)
        pos[t] = t % 5003;
    const int64_t n = (int64_t)N_TOK * D_INNER;
    real *x = parity_random(&p, D_INNER, 1, 1), *wide = parity_reals_out(&p, n);
    real *y = parity_reals_out(&p, n), *dx = parity_reals_out(&p, n);
    real *w = parity_random(&p, 4 * D_INNER, 3, 1), *b = parity_random(&p, D_INNER, 4, 1);
    real *carry = parity_random(&p, 3 * D_INNER, 5, 1);
    for (int64_t i = 0; i < n; i++)
        wide[i] = x[i % D_INNER] * (real)(1 + i % 7);
    struct conv1d_args cpu = { .x = acts_in(wide),
                               .pos = pos,
                               .w = w,
                               .b = b,
                               .carry_in = acts_in(carry),
                               .y = acts_of(y),
                               .dy = acts_in(wide),
                               .dx = acts_of(dx),
                               .n_tok = N_TOK,
                               .d_inner = D_INNER,
                               .d_conv = 4,
                               .ldx = D_INNER,
                               .lddx = D_INNER };
    op_conv1d_forward(&p.cpu, &cpu);
    op_conv1d_backward(&p.cpu, &cpu);
    struct conv1d_args cuda = cpu;
    cuda.x = cuda.dy = parity_act(&p, wide, n);
    cuda.pos = parity_ints(&p, pos, N_TOK);
    cuda.w = parity_reals(&p, w, 4 * D_INNER);
    cuda.b = parity_reals(&p, b, D_INNER);
    cuda.carry_in = parity_act(&p, carry, 3 * D_INNER);
    cuda.y = parity_act(&p, NULL, n);
    cuda.dx = parity_act(&p, NULL, n);
    op_conv1d_forward(&p.cuda, &cuda);
    op_conv1d_backward(&p.cuda, &cuda);
    parity_check_act(&p, "y", cuda.y, y, n);
    parity_check_act(&p, "dx", cuda.dx, dx, n);
    parity_close(&p);
}

/* NaN in one document's input and gradient: as on the CPU, the others' results are untouched. */
static void nan_stays_in_its_document(void **state)
{
    (void)state;
    for (int64_t d_conv = 4; d_conv <= 5; d_conv++) {
        struct conv c;
        conv_open(&c, DTYPE_BF16, &(struct shape){ 16, d_conv, 0, N_STREAM, 0, 0, false });
        const int64_t first = 8, end = 21; /* the document of 13 tokens */
        for (int64_t i = first * 16; i < end * 16; i++)
            c.x[i] = c.dy[i] = (real)NAN;
        c.cuda.x = parity_act(&c.p, c.x, N_STREAM * 16);
        c.cuda.dy = parity_act(&c.p, c.dy, N_STREAM * 16);
        check_forward(&c);
        check_backward(&c, true);
        c.cuda.y = parity_act(&c.p, NULL, N_STREAM * 16);
        op_conv1d_forward(&c.p.cuda, &c.cuda);
        const real *y = parity_read_act(&c.p, c.cuda.y, N_STREAM * 16);
        for (int64_t i = 0; i < N_STREAM * 16; i++)
            assert_int_equal(isnan(y[i]), i >= first * 16 && i < end * 16);
        parity_close(&c.p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_in_f32),
        cmocka_unit_test(agrees_in_bf16),
        cmocka_unit_test(long_runs_agree),
        cmocka_unit_test(nan_stays_in_its_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
