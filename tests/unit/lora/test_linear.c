/* A linear with an adapter: gradients against central differences, and what a dropout mask is keyed
 * by. */
#include "tests/support/support.h"

#include <string.h>

#include "lora/embed.h"
#include "lora/linear.h"

static struct test_backend backend;

static double weighted(const real *y, const real *w, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)y[i] * (double)w[i];
    return sum;
}

/* ---- gradients ---- */

enum { ROWS = 9, IN = 13, OUT = 7, RANK = 3, LDX = IN + 2, LDY = OUT + 4, PER_TOKEN = 2 };

struct subject {
    struct linear_args a;
    const real *dy;
};

static double linear_loss(void *context)
{
    struct subject *s = context;
    linear_forward(&backend.be, &s->a);
    double sum = 0;
    for (int64_t i = 0; i < ROWS; i++)
        sum += weighted(reals_in(s->a.y) + i * LDY, s->dy + i * LDY, OUT);
    return sum;
}

/* dx, dA and dB add to what is there when add is set (dA and dB always do). */
static void check_linear(double rate, bool add)
{
    static const int32_t slot[ROWS] = { 0, 3, 4, 5, 8, 11, 12, 16, 17 };
    const struct lora_module module = {
        .kind = LORA_UP_PROJ, .in = IN, .out = OUT, .layer = 2, .expert = 1
    };
    const struct lora_dropout dropout = { .rate = rate, .seed = 3, .step = 4 };
    real *x = test_random(ROWS * LDX, 1, 1), *w = test_random(OUT * IN, 2, 1),
         *bias = test_random(OUT, 3, 1);
    real *y = test_zeros(ROWS * LDY), *dy = test_random(ROWS * LDY, 4, 1);
    real *dx = test_random(ROWS * LDX, 5, 1), *was = test_random(ROWS * LDX, 5, 1);
    struct lora_slot s = { .module = &module, .rank = RANK, .scale = (real)1.7 };
    s.a = test_random(RANK * IN, 6, 1);
    s.b = test_random(OUT * RANK, 7, 1);
    s.da = test_random(RANK * IN, 8, 1);
    s.db = test_random(OUT * RANK, 9, 1);
    s.act_a = acts_in(s.a);
    s.act_b = acts_in(s.b);
    real *was_a = test_random(RANK * IN, 8, 1), *was_b = test_random(OUT * RANK, 9, 1);
    struct subject subject = { .dy = dy };
    subject.a = (struct linear_args){ .w = { w, DTYPE_REAL, OUT, IN },
                                      .bias = bias,
                                      .lora = &s,
                                      .dropout = &dropout,
                                      .x = acts_in(x),
                                      .y = acts_of(y),
                                      .n_row = ROWS,
                                      .ldx = LDX,
                                      .ldy = LDY,
                                      .lddx = LDX,
                                      .per_token = PER_TOKEN,
                                      .slot = slot };
    struct linear_args back = subject.a;
    back.dy = acts_in(dy);
    back.dx = acts_of(dx);
    back.add_dx = add;
    linear_backward(&backend.be, &back);
    for (int i = 0; i < ROWS * LDX; i++) /* beyond a row's end nothing is written */
        dx[i] -= add || i % LDX >= IN ? was[i] : 0;
    for (int i = 0; i < RANK * IN; i++)
        s.da[i] -= was_a[i];
    for (int i = 0; i < OUT * RANK; i++)
        s.db[i] -= was_b[i];
    const struct test_variable v[] = { { "x", x, dx, ROWS * LDX },
                                       { "A", s.a, s.da, RANK * IN },
                                       { "B", s.b, s.db, OUT * RANK } };
    test_check_gradients(linear_loss, &subject, v, 3);
    real *all[] = { x, w, bias, y, dy, dx, was, s.a, s.b, s.da, s.db, was_a, was_b };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

static void gradients_agree_with_differences(void **state)
{
    (void)state;
    check_linear(0, false);
    check_linear(0, true);
    check_linear(0.3, false);
    check_linear(0.3, true);
}

/* ---- the embedding's sibling ---- */

enum { VOCAB = 11, PAD = 6 };

struct lookup {
    struct embed_lookup a;
    const real *dy;
};

static double lookup_loss(void *context)
{
    struct lookup *s = context;
    embed_lookup_forward(&backend.be, &s->a);
    return weighted(reals_in(s->a.y), s->dy, ROWS * OUT);
}

static void embedding_gradients_agree_but_for_the_pad_column(void **state)
{
    (void)state;
    static const int32_t ids[ROWS] = { 1, 4, 1, 0, 10, PAD, 4, 1, 9 };
    real *table = test_random(VOCAB * OUT, 1, 1), *y = test_zeros(ROWS * OUT);
    real *dy = test_random(ROWS * OUT, 2, 1);
    struct lora_slot s = { .rank = RANK, .scale = (real)0.6 };
    s.a = test_random(RANK * VOCAB, 3, 1);
    s.b = test_random(OUT * RANK, 4, 1);
    s.da = test_random(RANK * VOCAB, 5, 1);
    s.db = test_random(OUT * RANK, 6, 1);
    s.act_a = acts_in(s.a);
    s.act_b = acts_in(s.b);
    real *was_a = test_random(RANK * VOCAB, 5, 1), *was_b = test_random(OUT * RANK, 6, 1);
    struct lookup subject = { .dy = dy };
    subject.a = (struct embed_lookup){ .w = { table, DTYPE_REAL, VOCAB, OUT },
                                       .lora = &s,
                                       .ids = ids,
                                       .y = acts_of(y),
                                       .dy = acts_in(dy),
                                       .n_row = ROWS,
                                       .pad_id = PAD };
    embed_lookup_backward(&backend.be, &subject.a);
    for (int i = 0; i < RANK * VOCAB; i++)
        s.da[i] -= was_a[i];
    for (int i = 0; i < OUT * RANK; i++)
        s.db[i] -= was_b[i];
    for (int j = 0; j < RANK; j++) { /* frozen by definition, not by calculus */
        assert_true(s.da[j * VOCAB + PAD] == 0);
        real *at = &s.da[j * VOCAB + PAD];
        for (int o = 0; o < OUT; o++)
            *at += s.scale * dy[5 * OUT + o] * s.b[o * RANK + j];
    }
    const struct test_variable v[] = { { "A", s.a, s.da, RANK * VOCAB },
                                       { "B", s.b, s.db, OUT * RANK } };
    test_check_gradients(lookup_loss, &subject, v, 2);
    real *all[] = { table, y, dy, s.a, s.b, s.da, s.db, was_a, was_b };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        test_release(all[i]);
}

/* ---- masks ---- */

enum { N = 16 };

/* Which elements of N ones survive: y of a linear with W = 0 and A = B = 1, (N, N). */
static void mask_of(const struct lora_module *module, const struct lora_dropout *dropout,
                    int64_t first_token, unsigned char kept[N * N])
{
    static real zeros[N * N], one[N * N], x[N * N], y[N * N];
    for (int i = 0; i < N * N; i++) {
        one[i] = i / N == i % N ? 1 : 0;
        x[i] = 1;
    }
    const struct lora_slot slot = {
        .module = module, .rank = N, .scale = 1, .act_a = acts_in(one), .act_b = acts_in(one)
    };
    linear_forward(&backend.be, &(struct linear_args){ .w = { zeros, DTYPE_REAL, N, N },
                                                       .lora = &slot,
                                                       .dropout = dropout,
                                                       .x = acts_in(x),
                                                       .y = acts_of(y),
                                                       .n_row = N,
                                                       .first_token = first_token });
    for (int i = 0; i < N * N; i++)
        kept[i] = y[i] != 0;
}

static void every_part_of_the_key_changes_the_mask(void **state)
{
    (void)state;
    const struct lora_module module = { .kind = LORA_GATE_PROJ, .layer = 3, .expert = 2 };
    const struct lora_dropout dropout = { .rate = 0.5, .seed = 7, .step = 9 };
    struct lora_module modules[6] = { module, module, module, module, module, module };
    struct lora_dropout dropouts[6] = { dropout, dropout, dropout, dropout, dropout, dropout };
    modules[0].kind = LORA_UP_PROJ;
    modules[1].layer = 4;
    modules[2].expert = 3;
    dropouts[3].seed = 8;
    dropouts[4].seed = 7 | (uint64_t)1 << 32;
    dropouts[5].step = 10;
    unsigned char kept[N * N], again[N * N];
    mask_of(&module, &dropout, 40, kept);
    mask_of(&module, &dropout, 40, again);
    assert_memory_equal(again, kept, sizeof kept);
    mask_of(&module, &dropout, 41, again); /* the next token's rows: one further up */
    assert_memory_equal(again, kept + N, sizeof kept - N);
    int n_kept = 0;
    for (int i = 0; i < N * N; i++)
        n_kept += kept[i];
    assert_in_range(n_kept, 96, 160); /* 128 with a standard deviation of 8 */
    for (int i = 0; i < 6; i++) {
        int differ = 0;
        mask_of(&modules[i], &dropouts[i], 40, again);
        for (int j = 0; j < N * N; j++)
            differ += again[j] != kept[j];
        if (differ < 96 || differ > 160) /* independent masks at 1/2 differ in half the places */
            fail_msg("key %d: %d of %d elements differ", i, differ, N * N);
    }
    for (int row = 0; row < N; row++) { /* an element's place counts too */
        const int at = row * N;
        assert_memory_not_equal(kept + at, kept + (at + N) % (N * N), N);
        assert_memory_not_equal(kept + at, kept + at + N / 2, N / 2);
    }
}

int main(void)
{
    test_backend_init(&backend, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_differences),
        cmocka_unit_test(embedding_gradients_agree_but_for_the_pad_column),
        cmocka_unit_test(every_part_of_the_key_changes_the_mask),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_backend_free(&backend);
    return failed;
}
