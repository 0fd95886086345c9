/* Attention on the CUDA backend against the CPU's: our own kernels and the calls of cuDNN, head
 * dims, groups of heads, documents of many lengths, a chunk anywhere in the stream, misaligned
 * rows. In emulation plain loops stand for cuDNN (tests/emulation/sdpa_graph.c).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/load.h"
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

/* Where a block may not have as much shared memory, tiles are smaller; the backward's sums keep
 * their order. */
static void smaller_tiles_agree(void **state)
{
    (void)state;
    static const struct shape shapes[] = { { 2, 1, 128, 50, 100, 0 }, { 2, 1, 256, 72, 90, 0 } };
    for (int i = 0; i < (parity_small() ? 1 : 2); i++) {
        real *dq[2] = { NULL, NULL }, *dk[2] = { NULL, NULL };
        struct attention t[2];
        for (int small = 0; small < 2; small++) {
            struct attention *one_of = &t[small];
            if (small)
                setenv("CUDA_EMULATION_SHARED", "101376", 1);
            attention_open(one_of, DTYPE_F32, &mixed, &shapes[i]);
            check(one_of, false);
            dq[small] = parity_read_act(&one_of->p, one_of->cuda.dq, one_of->n_q);
            dk[small] = parity_read_reals(&one_of->p, one_of->cuda.dk, one_of->n_k);
            unsetenv("CUDA_EMULATION_SHARED");
        }
        if (i == 0) { /* at 256 dims the forward's tiles differ too, and with them its rounding */
            assert_memory_equal(dq[0], dq[1], (size_t)t[0].n_q * sizeof(real));
            assert_memory_equal(dk[0], dk[1], (size_t)t[0].n_k * sizeof(real));
        }
        attention_close(&t[1]);
        attention_close(&t[0]);
    }
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

static void expect_calls(struct attention *t, int64_t taken, int64_t refused, const char *why)
{
    struct cuda_attention_calls calls;
    char note[CUDA_NOTE_SIZE];
    cuda_backend_attention_calls(&t->p.cuda, &calls);
    if (calls.taken != taken || calls.refused != refused)
        fail_msg("cuDNN took %lld calls, refused %lld (%s); expected %lld and %lld",
                 (long long)calls.taken, (long long)calls.refused, calls.why, (long long)taken,
                 (long long)refused);
    assert_int_equal(cuda_attention_note(&t->p.cuda, note), refused > 0);
    assert_true(refused == 0 || strstr(note, why) != NULL);
    assert_false(cuda_attention_note(&t->p.cpu, note));
}

/* In emulation plain loops stand for it only where they are asked for: they are slow. Of the two
 * calls, forward and backward, so many are refused. */
static void run_cudnn_but(const struct case_of *c, bool nondeterministic, int64_t refused,
                          const char *why)
{
    struct attention t;
    if (getenv("CUDA_EMULATION_SDPA") == NULL)
        setenv("CUDA_EMULATION_SDPA", "91900", 1);
    attention_open(&t, DTYPE_BF16, c->stream, &c->shape);
    t.p.cuda.nondeterministic = nondeterministic;
    check(&t, true);
    if (t.p.emulated)
        expect_calls(&t, 2 - refused, refused, why);
    attention_close(&t);
    unsetenv("CUDA_EMULATION_SDPA");
}

static void run_cudnn(const struct case_of *c, bool nondeterministic)
{
    run_cudnn_but(c, nondeterministic, 0, "");
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
        run_cudnn_but(&cudnn_cases[cuts[i].index], false, i == 4 ? 1 : 0, "too little scratch");
        unsetenv("CUDA_EMULATION_SDPA_SCRATCH");
    }
}

/* Then our own kernels run, and the reason is told. */
static void refusals_are_told(void **state)
{
    (void)state;
    const struct case_of *whole = &cudnn_cases[5];
    struct case_of odd = *whole, shifted_rows = *whole;
    odd.shape.d_head = 12;
    shifted_rows.shape.shift = 4;
    setenv("CUDA_EMULATION_SDPA", "91800", 1);
    run_cudnn_but(whole, false, 2, "cuDNN 9.18.0 is older than 9.18.1");
    setenv("CUDA_EMULATION_SDPA_PLANS", "0", 1);
    run_cudnn_but(whole, false, 2, "no engine for the graph");
    unsetenv("CUDA_EMULATION_SDPA_PLANS");
    run_cudnn_but(&odd, false, 2, "multiple of 8 dims");
    run_cudnn_but(&shifted_rows, false, 2, "aligned to 16 bytes");
}

/* Chunks of documents of any lengths and numbers need one forward and one backward plan for each
 * power of two of lengths: 128 and 256 here. */
static void plans_are_few(void **state)
{
    (void)state;
    static const struct stream several[] = { { 2, { 200, 50 } },
                                             { 5, { 60, 20, 30, 90, 50 } },
                                             { 3, { 140, 70, 40 } },
                                             { 2, { 120, 130 } } };
    struct attention t;
    setenv("CUDA_EMULATION_SDPA", "91900", 1);
    setenv("CUDA_EMULATION_SDPA_PLANS", "4", 1);
    attention_open(&t, DTYPE_BF16, &several[0], &(struct shape){ 2, 1, 8, 0, 250, 0 });
    for (int i = 0; i < 4 && t.p.emulated; i++) {
        for (int k = 0; k < several[i].n_doc; k++)
            t.doc_start[k + 1] = t.doc_start[k] + several[i].length[k];
        t.cuda.n_doc = several[i].n_doc;
        op_attention_forward(&t.p.cuda, &t.cuda);
        op_attention_backward(&t.p.cuda, &t.cuda);
        expect_calls(&t, 2 * (i + 1), 0, "");
    }
    attention_close(&t);
    unsetenv("CUDA_EMULATION_SDPA_PLANS");
    unsetenv("CUDA_EMULATION_SDPA");
}

/* Whether there is a device; *is_hopper: one on which cuDNN must take all that it is asked for. */
static bool has_device(bool *is_hopper)
{
    struct parity p;
    struct cuda_facts facts = { 0 };
    struct err err = { 0 };
    parity_open(&p, DTYPE_BF16); /* skips without any */
    const bool emulated = p.emulated;
    parity_close(&p);
    assert_true(cuda_available(&facts, &err));
    *is_hopper = facts.major == 9 && facts.minor == 0 && facts.cudnn >= CUDA_OLDEST_CUDNN;
    return !emulated;
}

/* Big enough for cuDNN itself, where there is a device. */
static void a_devices_cudnn_agrees(void **state)
{
    (void)state;
    static const struct stream documents = { 7, { 900, 130, 2, 1, 700, 65, 250 } };
    static const struct shape shapes[] = { { 20, 1, 128, 0, 2048, 0 },
                                           { 32, 8, 128, 500, 1000, 0 },
                                           { 8, 8, 64, 1100, 948, 0 } };
    bool is_hopper;
    const bool real_device = has_device(&is_hopper);
    for (int i = 0; i < 6 && real_device; i++) {
        struct attention t;
        attention_open(&t, DTYPE_BF16, &documents, &shapes[i / 2]);
        t.p.cuda.nondeterministic = i % 2 == 1;
        check(&t, true);
        if (is_hopper)
            expect_calls(&t, 2, 0, "");
        attention_close(&t);
    }
}

struct results {
    const real *o, *lse, *dq, *dk, *dv;
};

static struct results results_of(struct parity *p, const struct attention_args *call, int64_t n_q,
                                 int64_t n_k)
{
    struct attention_args a = *call;
    a.dk = parity_reals(p, call->dk, n_k);
    a.dv = parity_reals(p, call->dv, n_k);
    op_attention_forward(&p->cuda, &a);
    op_attention_backward(&p->cuda, &a);
    return (struct results){ .o = parity_read_act(p, a.o, n_q),
                             .lse = parity_read_reals(p, a.lse, a.n_tok * a.n_head),
                             .dq = parity_read_act(p, a.dq, n_q),
                             .dk = parity_read_reals(p, a.dk, n_k),
                             .dv = parity_read_reals(p, a.dv, n_k) };
}

/* One document of a whole chunk, which cuDNN's backward must be cut for, against our own kernels
 * (it would take the CPU minutes): they do without being told the documents, cuDNN does not. */
static void long_documents_agree(int64_t n_tok, bool nondeterministic, bool must_take)
{
    const int64_t n_head = 20, d_head = 128, n_q = n_tok * n_head * d_head, n_k = n_tok * d_head;
    struct attention t = { 0 };
    struct parity *p = &t.p;
    parity_open(p, DTYPE_BF16);
    p->cuda.nondeterministic = nondeterministic;
    t.doc_start[1] = n_tok;
    t.pos = malloc((size_t)n_tok * sizeof *t.pos);
    assert_non_null(t.pos);
    for (int64_t i = 0; i < n_tok; i++)
        t.pos[i] = (int32_t)i;
    const real *zeros = parity_random(p, n_k, 5, 0);
    struct attention_args a = { .q = parity_act(p, parity_random(p, n_q, 1, 1), n_q),
                                .k = parity_act(p, parity_random(p, n_k, 2, 1), n_k),
                                .v = parity_act(p, parity_random(p, n_k, 3, 1), n_k),
                                .d_o = parity_act(p, parity_random(p, n_q, 4, 1), n_q),
                                .pos = parity_ints(p, t.pos, n_tok),
                                .o = parity_act(p, NULL, n_q),
                                .lse = parity_reals(p, NULL, n_tok * n_head),
                                .dq = parity_act(p, NULL, n_q),
                                .n_tok = n_tok,
                                .n_head = n_head,
                                .n_kv = 1,
                                .d_head = d_head };
    memcpy(&a.dk, &zeros, sizeof zeros);
    a.dv = a.dk;
    const struct results own = results_of(p, &a, n_q, n_k);
    expect_calls(&t, 0, 0, "");
    a.doc_start = t.doc_start;
    a.n_doc = 1;
    const struct results got = results_of(p, &a, n_q, n_k);
    if (must_take)
        expect_calls(&t, 2, 0, "");
    /* Both sides are rounded. */
    const double tolerance = 2 * p->tolerance;
    parity_check_within(p, "o", tolerance, got.o, own.o, n_q);
    parity_check_within(p, "lse", 1e-4, got.lse, own.lse, n_tok * n_head);
    parity_check_within(p, "dq", tolerance, got.dq, own.dq, n_q);
    parity_check_within(p, "dk", tolerance, got.dk, own.dk, n_k);
    parity_check_within(p, "dv", tolerance, got.dv, own.dv, n_k);
    attention_close(&t);
}

/* In emulation a short one, cut by force. */
static void a_cut_document_agrees(void **state)
{
    (void)state;
    bool is_hopper;
    const bool real_device = has_device(&is_hopper);
    setenv("CUDA_EMULATION_SDPA", "91900", 1);
    setenv("CUDA_EMULATION_SDPA_SCRATCH", "2000000", 1);
    for (int i = 0; i < 2 && !parity_small(); i++)
        long_documents_agree(real_device ? 16384 : 150, i == 1, is_hopper || !real_device);
    unsetenv("CUDA_EMULATION_SDPA_SCRATCH");
    unsetenv("CUDA_EMULATION_SDPA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_kernels_agree_in_f32),
        cmocka_unit_test(own_kernels_agree_in_bf16),
        cmocka_unit_test(chunks_change_no_bit),
        cmocka_unit_test(cudnn_calls_agree),
        cmocka_unit_test(nondeterministic_calls_agree),
        cmocka_unit_test(cut_calls_agree),
        cmocka_unit_test(smaller_tiles_agree),
        cmocka_unit_test(refusals_are_told),
        cmocka_unit_test(plans_are_few),
        cmocka_unit_test(a_devices_cudnn_agrees),
        cmocka_unit_test(a_cut_document_agrees),
    };
    return cmocka_run_group_tests_name("cuda attention", tests, NULL, NULL);
}
