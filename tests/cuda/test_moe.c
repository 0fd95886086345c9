/* Routing, the sort by expert, the load-balancing sums and the ways of the rows on the CUDA backend
 * against the CPU's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/parity.h"

static const enum dtype types[] = { DTYPE_F32, DTYPE_BF16 };
enum { N_TYPE = sizeof types / sizeof *types };

static int32_t *ints(int64_t n)
{
    int32_t *x = calloc((size_t)n + 1, sizeof *x);
    assert_non_null(x);
    return x;
}

/* ---- routing ---- */

struct routing {
    int64_t n_tok, n_expert, top_k;
};

/* Tiles of 64 tokens: less than one, exactly one, several; experts: fewer and more than a warp has
 * lanes, more than a block has threads; all of them chosen; nothing to route. */
static const struct routing routings[] = {
    { 0, 4, 2 },   { 1, 1, 1 },   { 1, 16, 2 },  { 5, 3, 3 },   { 63, 16, 2 },   { 64, 16, 2 },
    { 65, 16, 2 }, { 200, 4, 1 }, { 70, 33, 5 }, { 66, 64, 8 }, { 3, 256, 256 }, { 65, 300, 8 },
};

struct routed {
    real *p, *weight, *dlogits;
    int32_t *expert, *slot, *place, *offset;
    struct route_args cpu, cuda;
    struct act *cuda_dlogits;
};

static void route_both(struct parity *p, const struct routing *s, const real *logits,
                       struct routed *r)
{
    const int64_t n = s->n_tok * s->n_expert, n_slot = s->n_tok * s->top_k;
    r->p = parity_reals_out(p, n);
    r->weight = parity_reals_out(p, n_slot);
    r->expert = ints(n_slot);
    r->slot = ints(n_slot);
    r->place = ints(n_slot);
    r->offset = ints(s->n_expert + 1);
    r->cpu = (struct route_args){ .logits = acts_in(logits),
                                  .p = r->p,
                                  .expert = r->expert,
                                  .weight = r->weight,
                                  .slot = r->slot,
                                  .place = r->place,
                                  .offset = r->offset,
                                  .n_tok = s->n_tok,
                                  .n_expert = s->n_expert,
                                  .top_k = s->top_k };
    op_route_forward(&p->cpu, &r->cpu);
    r->cuda = r->cpu;
    r->cuda.logits = parity_act(p, logits, n);
    r->cuda.p = parity_reals(p, NULL, n);
    r->cuda.expert = parity_ints(p, NULL, n_slot);
    r->cuda.weight = parity_reals(p, NULL, n_slot);
    r->cuda.slot = parity_ints(p, NULL, n_slot);
    r->cuda.place = parity_ints(p, NULL, n_slot);
    r->cuda.offset = parity_ints(p, NULL, s->n_expert + 1);
    op_route_forward(&p->cuda, &r->cuda);
    parity_check_reals(p, "p", r->cuda.p, r->p, n);
    parity_check_ints(p, "expert", r->cuda.expert, r->expert, n_slot);
    parity_check_reals(p, "weight", r->cuda.weight, r->weight, n_slot);
    parity_check_ints(p, "slot", r->cuda.slot, r->slot, n_slot);
    parity_check_ints(p, "place", r->cuda.place, r->place, n_slot);
    parity_check_ints(p, "offset", r->cuda.offset, r->offset, s->n_expert + 1);
}

static void routed_free(struct routed *r)
{
    free(r->expert);
    free(r->slot);
    free(r->place);
    free(r->offset);
}

static void check_counts(struct parity *p, const struct routing *s, const struct routed *r)
{
    int64_t *host = malloc((size_t)(s->n_expert + 1) * sizeof *host);
    assert_non_null(host);
    op_route_counts(&p->cuda, &(struct route_counts_args){ .offset = r->cuda.offset,
                                                           .host = host,
                                                           .n_tok = s->n_tok,
                                                           .n_expert = s->n_expert,
                                                           .top_k = s->top_k });
    for (int64_t e = 0; e <= s->n_expert; e++)
        assert_int_equal(host[e], r->offset[e]);
    free(host);
}

static void check_route_backward(struct parity *p, const struct routing *s, struct routed *r,
                                 bool aux)
{
    enum { N_DOC = 7 };
    const int64_t n = s->n_tok * s->n_expert, n_slot = s->n_tok * s->top_k;
    real *dot = parity_random(p, n_slot, 2, 1), *dlogits = parity_reals_out(p, n);
    real *aux_f = parity_random(p, N_DOC * s->n_expert, 3, 1);
    real *scale = parity_random(p, N_DOC, 4, 1);
    int32_t *doc = ints(s->n_tok);
    for (int64_t t = 0; t < s->n_tok; t++)
        doc[t] = (int32_t)(1 + t * (N_DOC - 1) / s->n_tok);
    struct route_args cpu = r->cpu, cuda = r->cuda;
    cpu.dot = dot;
    cpu.dlogits = acts_of(dlogits);
    cuda.dot = parity_reals(p, dot, n_slot);
    cuda.dlogits = parity_act(p, NULL, n);
    if (aux) {
        cpu.aux_f = aux_f;
        cpu.aux_scale = scale;
        cpu.doc = doc;
        cuda.aux_f = parity_reals(p, aux_f, N_DOC * s->n_expert);
        cuda.aux_scale = parity_reals(p, scale, N_DOC);
        cuda.doc = parity_ints(p, doc, s->n_tok);
    }
    op_route_backward(&p->cpu, &cpu);
    op_route_backward(&p->cuda, &cuda);
    parity_check_act(p, aux ? "dlogits with aux" : "dlogits", cuda.dlogits, dlogits, n);
    free(doc);
}

static void routing_agrees(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof routings / sizeof *routings; i++) {
        for (int k = 0; k < N_TYPE; k++) {
            const struct routing *s = &routings[i];
            struct parity p;
            struct routed r;
            parity_open(&p, types[k]);
            route_both(&p, s, parity_random(&p, s->n_tok * s->n_expert, 1, 1), &r);
            check_counts(&p, s, &r);
            check_route_backward(&p, s, &r, false);
            check_route_backward(&p, s, &r, true);
            routed_free(&r);
            parity_close(&p);
        }
    }
}

/* Equal logits, in part and in all of a row: the lower expert first. */
static void ties_go_to_the_lower_expert(void **state)
{
    (void)state;
    const struct routing s = { 130, 40, 6 };
    struct parity p;
    struct routed r;
    parity_open(&p, DTYPE_F32);
    real *logits = parity_random(&p, s.n_tok * s.n_expert, 1, 1);
    for (int64_t i = 0; i < s.n_tok * s.n_expert; i++)
        logits[i] = i / s.n_expert % 3 == 0 ? (real)0.5 : (real)rint(2 * (double)logits[i]);
    route_both(&p, &s, logits, &r);
    for (int64_t j = 0; j < s.top_k; j++)
        assert_int_equal(r.expert[j], j);
    routed_free(&r);
    parity_close(&p);
}

/* All experts equally full, or one that has all tokens. */
static void uneven_experts_agree(void **state)
{
    (void)state;
    const struct routing s = { 150, 8, 2 };
    for (int even = 0; even < 2; even++) {
        struct parity p;
        struct routed r;
        parity_open(&p, DTYPE_BF16);
        real *logits = parity_random(&p, s.n_tok * s.n_expert, 1, 0.125);
        for (int64_t t = 0; t < s.n_tok; t++)
            logits[t * s.n_expert + (even ? t % s.n_expert : 5)] = 8;
        route_both(&p, &s, logits, &r);
        routed_free(&r);
        parity_close(&p);
    }
}

/* A row with NaN or infinity becomes NaN, gets the first experts, and leaves the others alone. */
static void broken_rows_get_the_first_experts(void **state)
{
    (void)state;
    const struct routing s = { 70, 37, 3 };
    struct parity p;
    struct routed r;
    parity_open(&p, DTYPE_F32);
    real *logits = parity_random(&p, s.n_tok * s.n_expert, 1, 1);
    logits[2 * s.n_expert] = (real)NAN;
    logits[3 * s.n_expert + 36] = (real)NAN;
    logits[66 * s.n_expert + 11] = (real)INFINITY;
    route_both(&p, &s, logits, &r);
    const int64_t broken[] = { 2, 3, 66 };
    for (int i = 0; i < 3; i++) {
        for (int64_t j = 0; j < s.top_k; j++)
            assert_int_equal(r.expert[broken[i] * s.top_k + j], j);
        assert_true(isnan(r.p[broken[i] * s.n_expert]));
    }
    assert_true(isfinite(r.p[4 * s.n_expert]));
    routed_free(&r);
    parity_close(&p);
}

/* ---- load balancing ---- */

/* Tiles of 64 tokens: documents within one, ending with one, filling one, crossing many. */
static const int lengths[] = { 1, 2, 61, 64, 3, 200, 5, 1, 55, 127, 128, 1 };
enum { N_DOC = sizeof lengths / sizeof *lengths, MAX_TOK = 700 };

static void aux_sums_agree(void **state)
{
    (void)state;
    const struct {
        int64_t from, n_tok, n_expert, top_k;
    } cases[] = { { 0, 648, 16, 2 }, { 0, 0, 16, 2 },   { 0, 1, 3, 1 },    { 30, 64, 5, 2 },
                  { 150, 70, 3, 3 }, { 64, 65, 40, 4 }, { 200, 300, 1, 1 } };
    int32_t pos[MAX_TOK], doc[MAX_TOK];
    assert_int_equal(test_positions(lengths, N_DOC, pos, doc), 648);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t n_tok = cases[i].n_tok, n_expert = cases[i].n_expert, k = cases[i].top_k;
        struct parity p;
        parity_open(&p, DTYPE_F32);
        real *prob = parity_random(&p, n_tok * n_expert, 1, 1);
        real *f = parity_random(&p, N_DOC * n_expert, 2, 1);
        real *psum = parity_random(&p, N_DOC * n_expert, 3, 1);
        int32_t *expert = ints(n_tok * k);
        for (int64_t s = 0; s < n_tok * k; s++)
            expert[s] = (int32_t)((s / k * 7 + s % k) % n_expert);
        struct aux_sums_args cpu = { .p = prob,
                                     .expert = expert,
                                     .doc = doc + cases[i].from,
                                     .f = f,
                                     .psum = psum,
                                     .n_tok = n_tok,
                                     .n_expert = n_expert,
                                     .top_k = k };
        struct aux_sums_args cuda = cpu;
        cuda.p = parity_reals(&p, prob, n_tok * n_expert);
        cuda.expert = parity_ints(&p, expert, n_tok * k);
        cuda.doc = parity_ints(&p, cpu.doc, n_tok);
        cuda.f = parity_reals(&p, f, N_DOC * n_expert);
        cuda.psum = parity_reals(&p, psum, N_DOC * n_expert);
        op_aux_sums(&p.cpu, &cpu);
        op_aux_sums(&p.cuda, &cuda);
        parity_check_reals(&p, "f", cuda.f, f, N_DOC * n_expert);
        parity_check_reals(&p, "psum", cuda.psum, psum, N_DOC * n_expert);
        free(expert);
        parity_close(&p);
    }
}

static void aux_loss_agrees(void **state)
{
    (void)state;
    for (int64_t n_doc = 0; n_doc <= 300; n_doc += 100) {
        enum { N_EXPERT = 5 };
        struct parity p;
        parity_open(&p, DTYPE_F32);
        int32_t *start = ints(n_doc + 1);
        for (int64_t d = 0; d < n_doc; d++)
            start[d + 1] = start[d] + (int32_t)(1 + d * d % 97);
        double sum = 0.5, got = 0;
        real *scale = parity_reals_out(&p, n_doc);
        struct aux_loss_args cpu = { .f = parity_random(&p, n_doc * N_EXPERT, 1, 1),
                                     .psum = parity_random(&p, n_doc * N_EXPERT, 2, 1),
                                     .doc_start = start,
                                     .scale = scale,
                                     .sum = &sum,
                                     .aux_scale = 0.125,
                                     .n_doc = n_doc,
                                     .n_expert = N_EXPERT,
                                     .n_layer = 3 };
        struct aux_loss_args cuda = cpu;
        cuda.f = parity_reals(&p, cpu.f, n_doc * N_EXPERT);
        cuda.psum = parity_reals(&p, cpu.psum, n_doc * N_EXPERT);
        cuda.doc_start = parity_ints(&p, start, n_doc + 1);
        cuda.scale = parity_reals(&p, NULL, n_doc);
        cuda.sum = parity_bytes(&p, &sum, sizeof sum);
        op_aux_loss(&p.cpu, &cpu);
        op_aux_loss(&p.cuda, &cuda);
        op_to_host(&p.cuda,
                   &(struct copy_args){ .from = cuda.sum, .to = &got, .bytes = sizeof got });
        /* Both add a few hundred doubles, in different orders. */
        assert_true(fabs(got - sum) <= 1e-12 * (1 + fabs(sum)));
        parity_check_reals(&p, "scale", cuda.scale, scale, n_doc);
        free(start);
        parity_close(&p);
    }
}

/* ---- rows ---- */

/* Widths: one element, odd, one vector, past what a warp takes at once; off their alignment. */
static const struct {
    int64_t dim, shift;
} widths[] = { { 1, 0 }, { 7, 0 }, { 8, 0 }, { 64, 0 }, { 64, 1 }, { 1032, 0 }, { 131, 0 } };
enum { N_WIDTH = sizeof widths / sizeof *widths };

/* A device copy (NaN of NULL) that begins `shift` elements off its alignment. */
static struct act *shifted(struct parity *p, const real *x, int64_t n, int64_t shift)
{
    real *image = parity_reals_out(p, n + shift);
    if (x != NULL)
        memcpy(image + shift, x, (size_t)n * sizeof *x);
    return act_at(&p->cuda, parity_act(p, image, n + shift), shift);
}

static void check_gather(struct parity *p, int64_t dim, int64_t shift, int64_t n_row,
                         int64_t per_row, bool scaled)
{
    enum { N_FROM = 9 };
    int32_t *index = ints(n_row);
    for (int64_t i = 0; i < n_row; i++)
        index[i] = (int32_t)(i * 5 % (N_FROM * per_row));
    const int64_t n = n_row * dim;
    const real *x = parity_random(p, N_FROM * dim, 1, 1);
    const real *scale = parity_random(p, N_FROM * per_row, 2, 1);
    real *y = parity_reals_out(p, n);
    struct gather_rows_args cpu = { .x = acts_in(x),
                                    .index = index,
                                    .scale = scaled ? scale : NULL,
                                    .y = acts_of(y),
                                    .n_row = n_row,
                                    .dim = dim,
                                    .per_row = per_row };
    struct gather_rows_args cuda = cpu;
    cuda.x = shifted(p, x, N_FROM * dim, shift);
    cuda.index = parity_ints(p, index, n_row);
    cuda.scale = scaled ? parity_reals(p, scale, N_FROM * per_row) : NULL;
    cuda.y = shifted(p, NULL, n, shift);
    op_gather_rows(&p->cpu, &cpu);
    op_gather_rows(&p->cuda, &cuda);
    parity_check_act(p, "gathered", cuda.y, y, n);
    free(index);
}

static void gathered_rows_agree(void **state)
{
    (void)state;
    for (int i = 0; i < N_WIDTH * N_TYPE; i++) {
        struct parity p;
        parity_open(&p, types[i % N_TYPE]);
        const int64_t dim = widths[i / N_TYPE].dim, shift = widths[i / N_TYPE].shift;
        check_gather(&p, dim, shift, 17, 2, true);
        check_gather(&p, dim, shift, 3, 1, false);
        check_gather(&p, dim, shift, 0, 2, false);
        parity_close(&p);
    }
}

enum base { NO_BASE, BASE, BASE_IS_Y, N_BASE };

static void check_combine(struct parity *p, int64_t dim, int64_t shift, int64_t n_tok,
                          int64_t top_k, enum base base, bool weighted)
{
    const int64_t n = n_tok * dim, n_slot = n_tok * top_k;
    int32_t *place = ints(n_slot);
    for (int64_t s = 0; s < n_slot; s++)
        place[s] = (int32_t)((s * 7 + 3) % n_slot);
    const real *x = parity_random(p, n_slot * dim, 1, 1), *weight = parity_random(p, n_slot, 2, 1);
    const real *from = parity_random(p, n, 3, 1);
    real *y = parity_reals_out(p, n);
    struct combine_args cpu = { .x = acts_in(x),
                                .place = place,
                                .weight = weighted ? weight : NULL,
                                .base = base == NO_BASE ? NULL : acts_in(from),
                                .y = acts_of(y),
                                .n_tok = n_tok,
                                .top_k = top_k,
                                .dim = dim };
    struct combine_args cuda = cpu;
    struct act *to = shifted(p, base == BASE_IS_Y ? from : NULL, n, shift);
    cuda.x = shifted(p, x, n_slot * dim, shift);
    cuda.place = parity_ints(p, place, n_slot);
    cuda.weight = weighted ? parity_reals(p, weight, n_slot) : NULL;
    cuda.base = base == NO_BASE ? NULL : base == BASE_IS_Y ? to : shifted(p, from, n, shift);
    cuda.y = to;
    op_combine(&p->cpu, &cpu);
    op_combine(&p->cuda, &cuda);
    parity_check_act(p, "combined", cuda.y, y, n);
    free(place);
}

static void combined_rows_agree(void **state)
{
    (void)state;
    for (int i = 0; i < N_WIDTH * N_TYPE; i++) {
        struct parity p;
        parity_open(&p, types[i % N_TYPE]);
        const int64_t dim = widths[i / N_TYPE].dim, shift = widths[i / N_TYPE].shift;
        for (enum base base = NO_BASE; base < N_BASE; base++) {
            check_combine(&p, dim, shift, 9, 2, base, true);
            check_combine(&p, dim, shift, 5, 3, base, false);
            check_combine(&p, dim, shift, 0, 2, base, true);
        }
        parity_close(&p);
    }
}

static void row_dots_agree(void **state)
{
    (void)state;
    for (int i = 0; i < N_WIDTH * N_TYPE; i++) {
        const int64_t dim = widths[i / N_TYPE].dim, shift = widths[i / N_TYPE].shift;
        for (int64_t n_row = 0; n_row <= 13; n_row += 13) {
            struct parity p;
            parity_open(&p, types[i % N_TYPE]);
            int32_t index[13];
            for (int32_t r = 0; r < 13; r++)
                index[r] = r * 5 % 13;
            const real *x = parity_random(&p, n_row * dim, 1, 1);
            const real *y = parity_random(&p, n_row * dim, 2, 1);
            real *dot = parity_reals_out(&p, n_row);
            struct row_dot_args cpu = { .x = acts_in(x),
                                        .y = acts_in(y),
                                        .index = index,
                                        .out = dot,
                                        .n_row = n_row,
                                        .dim = dim };
            struct row_dot_args cuda = cpu;
            cuda.x = shifted(&p, x, n_row * dim, shift);
            cuda.y = shifted(&p, y, n_row * dim, shift);
            cuda.index = parity_ints(&p, index, 13);
            cuda.out = parity_reals(&p, NULL, n_row);
            op_row_dot(&p.cpu, &cpu);
            op_row_dot(&p.cuda, &cuda);
            parity_check_reals(&p, "dot", cuda.out, dot, n_row);
            parity_close(&p);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routing_agrees),       cmocka_unit_test(ties_go_to_the_lower_expert),
        cmocka_unit_test(uneven_experts_agree), cmocka_unit_test(broken_rows_get_the_first_experts),
        cmocka_unit_test(aux_sums_agree),       cmocka_unit_test(aux_loss_agrees),
        cmocka_unit_test(gathered_rows_agree),  cmocka_unit_test(combined_rows_agree),
        cmocka_unit_test(row_dots_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
