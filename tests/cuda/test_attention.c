/* Attention on the CUDA backend against the CPU's: our own kernels and the calls of cuDNN, head
 * dims, groups of heads, documents of many lengths, a chunk anywhere in the stream, misaligned
 * rows. In emulation plain loops stand for cuDNN (tests/emulation/sdpa_graph.c).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/parity.h"

enum { MOST_DOCS = 32 };

struct shape {
    int64_t n_head, n_kv, d_head;
    int64_t from, n_tok; /* the chunk */
    int64_t shift;       /* elements that activations are off their alignment */
};

struct stream {
    int n_doc;
    int length[MOST_DOCS];
};

/* Longer than tiles; shorter ones of one, two and a prime number of tokens, and whole tiles. */
static const struct stream mixed = { 9, { 70, 1, 2, 131, 3, 64, 1, 31, 5 } };
static const struct stream tiny = { 17, { 1, 1, 2, 1, 1, 3, 1, 1, 1, 1, 2, 1, 1, 5, 1, 1, 1 } };
static const struct stream edge = { 3, { 60, 40, 28 } }; /* begins near the end of a tile */
static const struct stream one = { 1, { 230 } };
static const struct stream second = { 2, { 20, 230 } };

struct attention {
    struct parity p;
    struct shape s;
    int64_t n_stream, n_q, n_k, doc_start[MOST_DOCS + 1];
    int32_t *pos;
    real *q, *k, *v, *d_o, *dk, *dv; /* inputs; dk, dv: what is added to */
    real *o, *lse, *dq;              /* the CPU's results, of the chunk */
    struct attention_args cpu, cuda;
};

/* A device copy (NaN of NULL) that begins off its alignment by the shape's shift. */
static struct act *shifted(struct attention *t, const real *x, int64_t n)
{
    real *image = parity_reals_out(&t->p, n + t->s.shift);
    if (x != NULL)
        memcpy(image + t->s.shift, x, (size_t)n * sizeof *x);
    return act_at(&t->p.cuda, parity_act(&t->p, image, n + t->s.shift), t->s.shift);
}

static real *copy_of(struct attention *t, const real *x, int64_t n)
{
    real *y = parity_reals_out(&t->p, n);
    memcpy(y, x, (size_t)n * sizeof *x);
    return y;
}

static void lay_out(struct attention *t, const struct stream *stream)
{
    int32_t pos[4096];
    t->n_stream = test_positions(stream->length, stream->n_doc, pos, NULL);
    t->pos = malloc((size_t)t->n_stream * sizeof *pos);
    assert_non_null(t->pos);
    memcpy(t->pos, pos, (size_t)t->n_stream * sizeof *pos);
    t->doc_start[0] = 0;
    for (int i = 0; i < stream->n_doc; i++)
        t->doc_start[i + 1] = t->doc_start[i] + stream->length[i];
}

/* The documents that the chunk touches. */
static void find_documents(struct attention *t)
{
    const int64_t end = t->s.from + t->s.n_tok;
    int64_t first = 0, last;
    while (t->doc_start[first + 1] <= t->s.from && t->doc_start[first + 1] < t->n_stream)
        first++;
    for (last = first; t->doc_start[last] < end;)
        last++;
    t->cpu.doc_start = t->doc_start + first;
    t->cpu.n_doc = last - first;
}

/* Keys past the chunk are not known yet: NaN. */
static void forget(struct attention *t, real *keys)
{
    const int64_t row = t->s.n_kv * t->s.d_head;
    for (int64_t i = (t->s.from + t->s.n_tok) * row; i < t->n_k; i++)
        keys[i] = (real)NAN;
}

static void attention_open(struct attention *t, enum dtype act, const struct stream *stream,
                           const struct shape *s)
{
    *t = (struct attention){ .s = *s };
    parity_open(&t->p, act);
    lay_out(t, stream);
    t->n_q = s->n_tok * s->n_head * s->d_head;
    t->n_k = t->n_stream * s->n_kv * s->d_head;
    t->q = parity_random(&t->p, t->n_q, 1, 1);
    t->k = parity_random(&t->p, t->n_k, 2, 1);
    t->v = parity_random(&t->p, t->n_k, 3, 1);
    t->d_o = parity_random(&t->p, t->n_q, 4, 1);
    t->dk = parity_random(&t->p, t->n_k, 5, 1);
    t->dv = parity_random(&t->p, t->n_k, 6, 1);
    t->o = parity_reals_out(&t->p, t->n_q);
    t->dq = parity_reals_out(&t->p, t->n_q);
    t->lse = parity_reals_out(&t->p, s->n_tok * s->n_head);
    t->cpu = (struct attention_args){ .q = acts_in(t->q),
                                      .k = acts_in(t->k),
                                      .v = acts_in(t->v),
                                      .pos = t->pos + s->from,
                                      .o = acts_of(t->o),
                                      .lse = t->lse,
                                      .d_o = acts_in(t->d_o),
                                      .dq = acts_of(t->dq),
                                      .dk = copy_of(t, t->dk, t->n_k),
                                      .dv = copy_of(t, t->dv, t->n_k),
                                      .n_tok = s->n_tok,
                                      .t0 = s->from,
                                      .n_head = s->n_head,
                                      .n_kv = s->n_kv,
                                      .d_head = s->d_head };
    find_documents(t);
    op_attention_forward(&t->p.cpu, &t->cpu);
    /* o as the backward finds it: an activation. */
    for (int64_t i = 0; i < t->n_q; i++)
        t->o[i] = parity_round(&t->p, t->o[i]);
    op_attention_backward(&t->p.cpu, &t->cpu);
    forget(t, t->k);
    forget(t, t->v);
    t->cuda = t->cpu;
    t->cuda.q = shifted(t, t->q, t->n_q);
    t->cuda.k = shifted(t, t->k, t->n_k);
    t->cuda.v = shifted(t, t->v, t->n_k);
    t->cuda.d_o = shifted(t, t->d_o, t->n_q);
    t->cuda.o = shifted(t, NULL, t->n_q);
    t->cuda.dq = shifted(t, NULL, t->n_q);
    t->cuda.pos = parity_ints(&t->p, t->pos + s->from, s->n_tok);
    t->cuda.lse = parity_reals(&t->p, NULL, s->n_tok * s->n_head);
    t->cuda.dk = parity_reals(&t->p, t->dk, t->n_k);
    t->cuda.dv = parity_reals(&t->p, t->dv, t->n_k);
}

static void attention_close(struct attention *t)
{
    parity_close(&t->p);
    free(t->pos);
}

/* Reals are held to 1e-5, but for what passes through bf16 in cuDNN: its P and dS, of which dk and
 * dv are made, and a call's dk and dv themselves; its exponentials, in lse, are approximate. */
static void check_reals(struct attention *t, const char *name, double tolerance, const real *got,
                        const real *expected, int64_t n)
{
    parity_check_within(&t->p, name, tolerance, parity_read_reals(&t->p, got, n), expected, n);
}

static void check(struct attention *t, bool by_cudnn)
{
    const double keys = by_cudnn ? t->p.tolerance : 1e-5, lse = by_cudnn ? 1e-4 : 1e-5;
    op_attention_forward(&t->p.cuda, &t->cuda);
    parity_check_act(&t->p, "o", t->cuda.o, t->o, t->n_q);
    check_reals(t, "lse", lse, t->cuda.lse, t->lse, t->s.n_tok * t->s.n_head);
    op_attention_backward(&t->p.cuda, &t->cuda);
    parity_check_act(&t->p, "dq", t->cuda.dq, t->dq, t->n_q);
    check_reals(t, "dk", keys, t->cuda.dk, t->cpu.dk, t->n_k);
    check_reals(t, "dv", keys, t->cuda.dv, t->cpu.dv, t->n_k);
}

static void run(enum dtype act, const struct stream *stream, const struct shape *s, bool by_cudnn)
{
    struct attention t;
    attention_open(&t, act, stream, s);
    check(&t, by_cudnn);
    attention_close(&t);
}

/* ---- our own kernels ---- */

/* Head dims of each tile size: odd, of one element, whole, one less. Groups of 1, 2, 3 and all
 * heads. Chunks: all; in the middle of documents, on both sides; one token; none. */
static const struct shape own_shapes[] = {
    { 4, 2, 16, 0, 308, 0 },   { 3, 1, 5, 0, 308, 0 },    { 1, 1, 1, 60, 90, 0 },
    { 2, 2, 40, 100, 100, 0 }, { 2, 1, 63, 204, 104, 0 }, { 3, 3, 64, 70, 1, 0 },
    { 4, 1, 64, 71, 140, 1 },  { 2, 1, 128, 50, 100, 0 }, { 1, 1, 127, 130, 80, 0 },
    { 1, 1, 129, 0, 70, 0 },   { 2, 1, 256, 72, 90, 0 },  { 1, 1, 256, 72, 66, 3 },
    { 4, 2, 16, 80, 0, 0 },    { 2, 1, 8, 307, 1, 0 },
};

static void own_kernels_agree(enum dtype act)
{
    for (size_t i = 0; i < sizeof own_shapes / sizeof *own_shapes; i++) {
        if (!parity_small() || i % 3 == 0)
            run(act, &mixed, &own_shapes[i], false);
    }
    run(act, &edge, &(struct shape){ 2, 1, 20, 0, 128, 0 }, false);
    run(act, &one, &(struct shape){ 2, 1, 20, 0, 230, 0 }, false);
    run(act, &one, &(struct shape){ 2, 1, 20, 99, 100, 0 }, false);
    run(act, &tiny, &(struct shape){ 2, 1, 12, 0, 25, 0 }, false);
    run(act, &tiny, &(struct shape){ 2, 1, 12, 3, 17, 0 }, false);
}

static void own_kernels_agree_in_f32(void **state)
{
    (void)state;
    own_kernels_agree(DTYPE_F32);
}

static void own_kernels_agree_in_bf16(void **state)
{
    (void)state;
    own_kernels_agree(DTYPE_BF16);
}

/* A document's o, lse and dq do not depend on what chunk it is computed in, to the bit. */
static void chunks_change_no_bit(void **state)
{
    (void)state;
    struct attention whole, part;
    attention_open(&whole, DTYPE_F32, &mixed, &(struct shape){ 4, 2, 24, 0, 308, 0 });
    attention_open(&part, DTYPE_F32, &mixed, &(struct shape){ 4, 2, 24, 93, 150, 0 });
    const int64_t row = 4 * 24, from = 93 * row, n = 150 * row;
    const real *q = whole.q;
    check(&whole, false);
    struct attention_args a = part.cuda;
    a.q = parity_act(&part.p, q + from, n);
    a.d_o = parity_act(&part.p, whole.d_o + from, n);
    op_attention_forward(&part.p.cuda, &a);
    op_attention_backward(&part.p.cuda, &a);
    assert_memory_equal(parity_read_act(&part.p, a.o, n),
                        parity_read_act(&whole.p, whole.cuda.o, whole.n_q) + from,
                        (size_t)n * sizeof(real));
    assert_memory_equal(parity_read_act(&part.p, a.dq, n),
                        parity_read_act(&whole.p, whole.cuda.dq, whole.n_q) + from,
                        (size_t)n * sizeof(real));
    attention_close(&part);
    attention_close(&whole);
}

/* ---- cuDNN ---- */

struct case_of {
    const struct stream *stream;
    struct shape shape;
};

/* Groups of 1, 2, 3 and all heads. Chunks: all; a document that goes on from before and one that
 * goes on after; inside one document; one token. */
static const struct case_of cudnn_cases[] = {
    { &mixed, { 4, 2, 16, 0, 308, 0 } },  { &mixed, { 4, 1, 8, 60, 200, 0 } },
    { &mixed, { 2, 2, 16, 80, 100, 0 } }, { &mixed, { 3, 1, 8, 75, 60, 0 } },
    { &mixed, { 2, 1, 16, 70, 1, 0 } },   { &tiny, { 2, 1, 8, 3, 17, 0 } },
    { &second, { 2, 1, 8, 0, 250, 0 } },  { &second, { 2, 2, 8, 90, 160, 0 } },
    { &second, { 2, 1, 8, 100, 1, 0 } },
};
enum { N_CUDNN_CASE = sizeof cudnn_cases / sizeof *cudnn_cases };

/* In emulation plain loops stand for it only where they are asked for: they are slow. */
static void run_cudnn(const struct case_of *c, bool nondeterministic)
{
    struct attention t;
    setenv("CUDA_EMULATION_SDPA", "1", 1);
    attention_open(&t, DTYPE_BF16, c->stream, &c->shape);
    t.p.cuda.nondeterministic = nondeterministic;
    check(&t, true);
    attention_close(&t);
    unsetenv("CUDA_EMULATION_SDPA");
}

static void cudnn_calls_agree(void **state)
{
    (void)state;
    for (int i = 0; i < N_CUDNN_CASE; i++)
        run_cudnn(&cudnn_cases[i], false);
}

/* dq is added up in another buffer. */
static void nondeterministic_calls_agree(void **state)
{
    (void)state;
    for (int i = 1; i < N_CUDNN_CASE; i += 3)
        run_cudnn(&cudnn_cases[i], true);
}

/* With less scratch than they ask for, calls take fewer heads, documents and queries; with far too
 * little they are none, and our own kernels run. */
static void cut_calls_agree(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        int index;
    } cuts[] = {
        { "1500000", 0 }, { "1200000", 1 }, { "1150000", 6 }, { "1150000", 7 }, { "1000", 3 }
    };
    for (int i = 0; i < 5; i++) {
        setenv("CUDA_EMULATION_SDPA_SCRATCH", cuts[i].bytes, 1);
        run_cudnn(&cudnn_cases[cuts[i].index], false);
        unsetenv("CUDA_EMULATION_SDPA_SCRATCH");
    }
}

/* Big enough for cuDNN itself, where there is a device. */
static void a_devices_cudnn_agrees(void **state)
{
    (void)state;
    static const struct stream documents = { 7, { 900, 130, 2, 1, 700, 65, 250 } };
    static const struct shape shapes[] = { { 20, 1, 128, 0, 2048, 0 },
                                           { 32, 8, 128, 500, 1000, 0 },
                                           { 8, 8, 64, 1100, 948, 0 } };
    struct parity p;
    parity_open(&p, DTYPE_BF16);
    const bool emulated = p.emulated;
    parity_close(&p);
    for (int i = 0; i < 3 && !emulated; i++)
        run(DTYPE_BF16, &documents, &shapes[i], true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_kernels_agree_in_f32),     cmocka_unit_test(own_kernels_agree_in_bf16),
        cmocka_unit_test(chunks_change_no_bit),         cmocka_unit_test(cudnn_calls_agree),
        cmocka_unit_test(nondeterministic_calls_agree), cmocka_unit_test(cut_calls_agree),
        cmocka_unit_test(a_devices_cudnn_agrees),
    };
    return cmocka_run_group_tests_name("cuda attention", tests, NULL, NULL);
}
