/* Cross entropy in place, and the rows it is computed on, on the CUDA backend against the CPU's. */
#include <math.h>
#include <string.h>

#include "tests/cuda/parity.h"

static const enum dtype types[] = { DTYPE_F32, DTYPE_BF16 };
enum { N_TYPE = sizeof types / sizeof *types };

/* ---- cross entropy ---- */

struct head {
    int64_t n_row, vocab;
};

/* Rows of one logit, fewer than a block has threads, odd, whole vectors; more than the threads load
 * together, with and without a rest. */
static const struct head heads[] = { { 0, 8 },     { 3, 1 },    { 4, 2 },    { 5, 7 },
                                     { 3, 48 },    { 2, 513 },  { 2, 2051 }, { 2, 4128 },
                                     { 1, 16384 }, { 1, 20536 } };

static void check_cross_entropy(struct parity *p, const struct head *s, const real *logits,
                                const int32_t *target, real grad_scale)
{
    const int64_t n = s->n_row * s->vocab;
    real *dlogits = parity_reals_out(p, n), *logprob = parity_reals_out(p, s->n_row);
    memcpy(dlogits, logits, (size_t)n * sizeof *logits);
    struct cross_entropy_args cpu = { .logits = acts_of(dlogits),
                                      .target = target,
                                      .logprob = logprob,
                                      .n_row = s->n_row,
                                      .vocab = s->vocab,
                                      .grad_scale = grad_scale };
    struct cross_entropy_args cuda = cpu;
    cuda.logits = parity_act(p, logits, n);
    cuda.target = parity_ints(p, target, s->n_row);
    cuda.logprob = parity_reals(p, NULL, s->n_row);
    op_cross_entropy(&p->cpu, &cpu);
    op_cross_entropy(&p->cuda, &cuda);
    parity_check_reals(p, "logprob", cuda.logprob, logprob, s->n_row);
    if (grad_scale != 0)
        parity_check_act(p, "dlogits", cuda.logits, dlogits, n);
}

static void cross_entropy_agrees(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        for (int k = 0; k < N_TYPE; k++) {
            const struct head *s = &heads[i];
            int32_t target[8];
            for (int64_t r = 0; r < s->n_row; r++) /* the first, the last, and between */
                target[r] = (int32_t)(r == 0 ? 0 : r == 1 ? s->vocab - 1 : s->vocab * 2 / 3);
            struct parity p;
            parity_open(&p, types[k]);
            const real *logits = parity_random(&p, s->n_row * s->vocab, 1, 2);
            check_cross_entropy(&p, s, logits, target, (real)0.0625);
            check_cross_entropy(&p, s, logits, target, 0);
            parity_close(&p);
        }
    }
}

/* Logits far from each other and from zero, the largest one last: sums are carried over to every
 * new maximum. */
static void large_logits_agree(void **state)
{
    (void)state;
    const struct head s = { 3, 9000 };
    for (int k = 0; k < N_TYPE; k++) {
        struct parity p;
        parity_open(&p, types[k]);
        real *logits = parity_random(&p, s.n_row * s.vocab, 1, 1);
        for (int64_t i = 0; i < s.n_row * s.vocab; i++)
            logits[i] = parity_round(&p, logits[i] + (real)0.001 * (real)(i % s.vocab));
        logits[5] = -1024;
        logits[s.vocab + 8999] = 1024;
        for (int64_t j = 0; j < s.vocab; j++)
            logits[2 * s.vocab + j] = parity_round(&p, logits[2 * s.vocab + j] - 30000);
        check_cross_entropy(&p, &s, logits, (const int32_t[]){ 5, 17, 8000 }, 1);
        parity_close(&p);
    }
}

/* -inf is a logit like others; NaN, infinity, and -inf at the target or everywhere show in logprob
 * as they do on the CPU, and other rows do not see them. */
static void broken_logits_show(void **state)
{
    (void)state;
    enum { N_ROW = 7, VOCAB = 4500 };
    const struct head s = { N_ROW, VOCAB };
    const real inf = (real)INFINITY;
    for (int k = 0; k < N_TYPE; k++) {
        struct parity p;
        parity_open(&p, types[k]);
        real *logits = parity_random(&p, (int64_t)N_ROW * VOCAB, 1, 1);
        for (int j = 0; j < VOCAB; j++) {
            if (j % 512 < 300 && j != 1000) /* all that many threads see */
                logits[0 * VOCAB + j] = -inf;
            logits[5 * VOCAB + j] = -inf;
        }
        logits[1 * VOCAB + 4000] = (real)NAN;
        logits[2 * VOCAB + 1] = inf;
        logits[3 * VOCAB + 1000] = inf;
        logits[4 * VOCAB + 1000] = -inf;
        const int32_t target[N_ROW] = { 1000, 1000, 1000, 1000, 1000, 1000, 1000 };
        check_cross_entropy(&p, &s, logits, target, (real)0.5);
        parity_close(&p);
    }
}

/* ---- rows ---- */

enum { N_TABLE = 11 };

static void check_rows(struct parity *p, int64_t dim, int64_t n_row, int64_t shift, bool place)
{
    int32_t index[N_TABLE];
    for (int32_t i = 0; i < N_TABLE; i++)
        index[i] = i * 4 % N_TABLE;
    const int64_t n_x = (place ? n_row : N_TABLE) * dim, n_y = (place ? N_TABLE : n_row) * dim;
    real *x = parity_random(p, n_x + shift, 1, 1), *y = parity_random(p, n_y + shift, 2, 1);
    struct pick_rows_args cpu = {
        .x = acts_in(x + shift), .index = index, .y = acts_of(y + shift), .n_row = n_row, .dim = dim
    };
    struct pick_rows_args cuda = cpu;
    cuda.x = act_at(&p->cuda, parity_act(p, x, n_x + shift), shift);
    cuda.index = parity_ints(p, index, n_row);
    cuda.y = act_at(&p->cuda, parity_act(p, y, n_y + shift), shift);
    if (place) {
        op_place_rows(&p->cpu, &cpu);
        op_place_rows(&p->cuda, &cuda);
    } else {
        op_pick_rows(&p->cpu, &cpu);
        op_pick_rows(&p->cuda, &cuda);
    }
    /* Copies: no rounding. */
    parity_check_within(p, place ? "placed" : "picked", 0, parity_read_act(p, cuda.y, n_y),
                        y + shift, n_y);
}

static void rows_are_copied(void **state)
{
    (void)state;
    const int64_t dims[] = { 1, 7, 8, 64, 1032, 131 };
    for (size_t i = 0; i < N_TYPE * sizeof dims / sizeof *dims; i++) {
        struct parity p;
        parity_open(&p, types[i % N_TYPE]);
        for (int64_t n_row = 0; n_row <= N_TABLE; n_row += n_row == 0 ? 1 : 5) {
            for (int64_t shift = 0; shift < 2; shift++) {
                check_rows(&p, dims[i / N_TYPE], n_row, shift, false);
                check_rows(&p, dims[i / N_TYPE], n_row, shift, true);
            }
        }
        parity_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cross_entropy_agrees),
        cmocka_unit_test(large_logits_agree),
        cmocka_unit_test(broken_logits_show),
        cmocka_unit_test(rows_are_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
