/* AdamW against torch.optim.AdamW (tests/fixtures/adamw.json, written by
 * tests/reference/make_optim.py), the norm, clipping, and the groups of LoRA+. */
#include <math.h>
#include <string.h>

#include "finetune/train/optim.h"
#include "kernels/core/json.h"
#include "tests/support/support.h"

/* Of each value against the largest it has had: six steps of a handful of roundings each. The
 * goldens are float64; float keeps 6e-8 a rounding, and gradients from 1e-12 to 1e6 lie side by
 * side. */
static const double tolerance = REAL_IS_DOUBLE ? 1e-14 : 1e-6;

enum { N_CASE = 9, N_STEP = 6, N = 8 };

/* An adapter of one range: what optim_step sees. */
struct flat {
    struct lora_adapter adapter;
    struct lora_range range;
    real p[N], g[N], m[N], v[N];
    double most_p[N], most_m[N], most_v[N]; /* the largest sizes so far */
};

static void flat_init(struct flat *f)
{
    *f = (struct flat){ 0 };
    f->range = (struct lora_range){ .begin = 0, .end = N, .group = LORA_GROUP_A };
    f->adapter = (struct lora_adapter){ .ranges = &f->range,
                                        .n_range = 1,
                                        .n_param = N,
                                        .params = f->p,
                                        .master = f->p,
                                        .grads = f->g,
                                        .m = f->m,
                                        .v = f->v };
}

static void read_reals(json_t *list, real *out)
{
    assert_int_equal(json_array_size(list), N);
    for (size_t i = 0; i < N; i++)
        out[i] = (real)json_number_value(json_array_get(list, i));
}

static void expect_near(const char *where, json_t *list, const real *have, double *most)
{
    assert_int_equal(json_array_size(list), N);
    for (size_t i = 0; i < N; i++) {
        const double expected = json_number_value(json_array_get(list, i));
        most[i] = fmax(most[i], fabs(expected));
        if (!(fabs((double)have[i] - expected) <= tolerance * most[i]))
            fail_msg("%s, element %d: %.17g, expected %.17g", where, (int)i, (double)have[i],
                     expected);
    }
}

/* Step i of a case. The rate is twice the factor: a power of two, so that nothing is rounded on the
 * way. */
static void take_step(struct test_backend *t, struct flat *f, json_t *entry, size_t i)
{
    json_t *step = json_array_get(json_object_get(entry, "steps"), i);
    json_t *betas = json_object_get(entry, "betas");
    const struct recipe r = {
        .learning_rate = 2,
        .adam_beta1 = json_number_value(json_array_get(betas, 0)),
        .adam_beta2 = json_number_value(json_array_get(betas, 1)),
        .adam_epsilon = json_number_value(json_object_get(entry, "eps")),
        .weight_decay = json_number_value(json_object_get(entry, "weight_decay")),
    };
    const double rate = json_number_value(json_array_get(json_object_get(entry, "rates"), i));
    const char *name = json_string_value(json_object_get(entry, "name"));
    read_reals(json_object_get(step, "grad"), f->g);
    optim_step(&t->be, &f->adapter, &r, rate / 2, 1, (int64_t)i + 1);
    expect_near(name, json_object_get(step, "params"), f->p, f->most_p);
    expect_near(name, json_object_get(step, "exp_avg"), f->m, f->most_m);
    expect_near(name, json_object_get(step, "exp_avg_sq"), f->v, f->most_v);
}

static void every_step_equals_torch(void **state)
{
    (void)state;
    json_error_t error;
    json_t *cases = json_load_file("tests/fixtures/adamw.json", 0, &error), *entry;
    size_t c;
    assert_non_null(cases);
    assert_int_equal(json_array_size(cases), N_CASE);
    struct test_backend t;
    test_backend_init(&t, 1);
    json_array_foreach(cases, c, entry)
    {
        struct flat f;
        flat_init(&f);
        read_reals(json_object_get(entry, "start"), f.p);
        assert_int_equal(json_array_size(json_object_get(entry, "steps")), N_STEP);
        for (size_t i = 0; i < N_STEP; i++)
            take_step(&t, &f, entry, i);
    }
    test_backend_free(&t);
    json_decref(cases);
}

/* Scaling by the clip factor inside the update is scaling the gradients before it. */
static void the_clip_factor_scales_the_gradients(void **state)
{
    (void)state;
    struct test_backend t;
    test_backend_init(&t, 1);
    const struct recipe r = {
        .learning_rate = 0.01, .adam_beta1 = 0.9, .adam_beta2 = 0.99, .adam_epsilon = 0.1
    };
    struct flat a, b;
    flat_init(&a);
    flat_init(&b);
    for (int step = 1; step <= 3; step++) {
        for (int i = 0; i < N; i++) {
            a.g[i] = (real)(i - step);
            b.g[i] = a.g[i] / 4;
        }
        optim_step(&t.be, &a.adapter, &r, 1, 0.25, step);
        optim_step(&t.be, &b.adapter, &r, 1, 1, step);
    }
    assert_memory_equal(a.p, b.p, sizeof a.p);
    assert_memory_equal(a.m, b.m, sizeof a.m);
    assert_memory_equal(a.v, b.v, sizeof a.v);
    test_backend_free(&t);
}

static void a_rate_of_zero_changes_no_parameter(void **state)
{
    (void)state;
    struct test_backend t;
    test_backend_init(&t, 1);
    const struct recipe r = { .learning_rate = 0.1,
                              .adam_beta1 = 0.9,
                              .adam_beta2 = 0.99,
                              .adam_epsilon = 1e-8,
                              .weight_decay = 0.5 };
    struct flat f;
    flat_init(&f);
    for (int i = 0; i < N; i++)
        f.p[i] = f.g[i] = (real)(0.3 * i - 1);
    real before[N];
    memcpy(before, f.p, sizeof before);
    optim_step(&t.be, &f.adapter, &r, 0, 1, 1);
    assert_memory_equal(f.p, before, sizeof before);
    assert_true(f.m[0] != 0 && f.v[0] != 0); /* the moments take part */
    test_backend_free(&t);
}

/* An expert without tokens has no gradient from the first step on: 0 / (0 + epsilon) must be 0 for
 * every epsilon that a recipe may give. */
static void no_epsilon_is_too_small_for_idle_parameters(void **state)
{
    (void)state;
    static const double epsilons[] = { 1e-8, 1e-40, 1e-46, 1e-300, 5e-324 };
    struct test_backend t;
    test_backend_init(&t, 1);
    for (size_t e = 0; e < sizeof epsilons / sizeof *epsilons; e++) {
        const struct recipe r = {
            .learning_rate = 0.1, .adam_beta1 = 0.9, .adam_beta2 = 0.99, .adam_epsilon = epsilons[e]
        };
        struct flat f;
        flat_init(&f);
        f.p[0] = f.p[1] = 1;
        f.g[1] = 2;
        optim_step(&t.be, &f.adapter, &r, 1, 1, 1);
        if (!(f.p[0] == 1 && fabs((double)f.p[1] - 0.9) < 1e-6))
            fail_msg("epsilon %g: %g and %g", epsilons[e], (double)f.p[0], (double)f.p[1]);
    }
    test_backend_free(&t);
}

/* isfinite is a macro that warns inside cmocka's. */
static bool is_finite(double x)
{
    return isfinite(x);
}

static void the_norm_is_global_and_summed_in_double(void **state)
{
    (void)state;
    enum { MANY = 3 * 4096 + 5 };
    struct test_backend t;
    test_backend_init(&t, 2);
    real *g = test_zeros(MANY);
    struct lora_adapter adapter = { .n_param = 2, .grads = g };
    g[0] = 3;
    g[1] = -4;
    assert_true(optim_grad_norm(&t.be, &adapter) == 5);
    adapter.n_param = MANY;
    for (int64_t i = 0; i < MANY; i++)
        g[i] = (real)0.5;
    assert_true(fabs(optim_grad_norm(&t.be, &adapter) - 0.5 * sqrt(MANY)) < 1e-10);
    g[MANY - 1] = (real)1e30; /* its square is past float */
    assert_true(fabs(optim_grad_norm(&t.be, &adapter) / 1e30 - 1) < 1e-6);
    g[7] = (real)NAN;
    assert_false(is_finite(optim_grad_norm(&t.be, &adapter)));
    g[7] = (real)INFINITY;
    assert_false(is_finite(optim_grad_norm(&t.be, &adapter)));
    test_release(g);
    test_backend_free(&t);
}

/* By hand, from clip_grad_norm_: min(1, max_norm / (norm + 1e-6)). */
static void clipping_is_that_of_clip_grad_norm(void **state)
{
    (void)state;
    static const struct {
        double max_norm, norm, factor;
    } cases[] = {
        { 1, 0, 1 },
        { 1, 0.5, 1 },
        { 1, 0.999999, 1 },
        { 1, 1, 1 / 1.000001 },
        { 1, 4, 1 / 4.000001 },
        { 0.5, 4, 0.5 / 4.000001 },
        { 10, 4, 1 },
        { 0, 4, 1 },
        { 0, 1e30, 1 },
        { 1e-9, 1, 1e-9 / 1.000001 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_true(fabs(optim_clip(cases[i].max_norm, cases[i].norm) - cases[i].factor) <=
                    1e-15 * cases[i].factor);
}

/* ---- LoRA+ ---- */

/* With gradients of 1 the first update is the rate itself, but for epsilon. */
static void expect_moved(const real *p, int64_t n, double rate)
{
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)p[i] + rate) <= 1e-6 * rate))
            fail_msg("moved by %g, expected %g", -(double)p[i], rate);
    }
}

static void check_groups(const struct recipe *r, double rate_a, double rate_b,
                         double rate_embedding)
{
    static const struct lora_module modules[] = {
        { .path = "model.embed_tokens",
          .kind = LORA_EMBED_TOKENS,
          .in = 11,
          .out = 4,
          .layer = -1,
          .expert = -1 },
        { .path = "model.layers.0.mamba.in_proj",
          .kind = LORA_IN_PROJ,
          .in = 4,
          .out = 7,
          .expert = -1 },
        { .path = "model.layers.0.mamba.x_proj",
          .kind = LORA_X_PROJ,
          .in = 5,
          .out = 3,
          .expert = -1 },
        { .path = "lm_head", .kind = LORA_LM_HEAD, .in = 4, .out = 11, .layer = -1, .expert = -1 },
    };
    static const struct lora_choice choices[] = {
        { true, 2, 2, 1 }, { true, 3, 3, 1 }, { 0 }, { true, 1, 1, 1 }
    };
    struct test_backend t;
    struct arena arena;
    struct lora_adapter adapter = { 0 };
    struct err err = { 0 };
    test_backend_init(&t, 1);
    assert_true(arena_init(&arena, "adapter", 1 << 16, &err));
    assert_true(lora_adapter_init(
        &adapter, &(struct lora_adapter_args){ modules, 4, choices, &t.be, &arena, true }, &err));
    for (int64_t i = 0; i < adapter.n_param; i++)
        adapter.grads[i] = 1;
    optim_step(&t.be, &adapter, r, 0.5, 1, 1);
    assert_int_equal(adapter.n_slot, 3);
    for (int64_t i = 0; i < adapter.n_slot; i++) {
        const struct lora_slot *s = &adapter.slots[i];
        const bool embedding = s->module->kind == LORA_EMBED_TOKENS;
        expect_moved(s->a, s->rank * s->module->in, 0.5 * (embedding ? rate_embedding : rate_a));
        expect_moved(s->b, s->rank * s->module->out, 0.5 * (embedding ? rate_embedding : rate_b));
    }
    lora_adapter_free(&adapter);
    arena_free(&arena);
    test_backend_free(&t);
}

static void loraplus_gives_b_and_the_embedding_rates_of_their_own(void **state)
{
    (void)state;
    const struct recipe r = { .learning_rate = 1e-3,
                              .loraplus_lr_ratio = 16,
                              .loraplus_lr_embedding = 2e-6,
                              .adam_beta1 = 0.9,
                              .adam_beta2 = 0.999,
                              .adam_epsilon = 1e-12 };
    check_groups(&r, 1e-3, 16e-3, 2e-6);
}

static void without_a_ratio_all_take_the_one_rate(void **state)
{
    (void)state;
    const struct recipe r = { .learning_rate = 1e-3,
                              .loraplus_lr_ratio = 0,
                              .loraplus_lr_embedding = 2e-6,
                              .adam_beta1 = 0.9,
                              .adam_beta2 = 0.999,
                              .adam_epsilon = 1e-12 };
    check_groups(&r, 1e-3, 1e-3, 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_equals_torch),
        cmocka_unit_test(the_clip_factor_scales_the_gradients),
        cmocka_unit_test(a_rate_of_zero_changes_no_parameter),
        cmocka_unit_test(no_epsilon_is_too_small_for_idle_parameters),
        cmocka_unit_test(the_norm_is_global_and_summed_in_double),
        cmocka_unit_test(clipping_is_that_of_clip_grad_norm),
        cmocka_unit_test(loraplus_gives_b_and_the_embedding_rates_of_their_own),
        cmocka_unit_test(without_a_ratio_all_take_the_one_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
