/* Folding ranks, alphas and rsLoRA: every module's change of its weight stays what it was. */
#include "lora/fold.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/formats/peft_fixture.h"

/* One rounding of B in F32 is 2^-24; the sum over a rank of at most 8 has no more of its own. */
static const double one_rounding = 0x1p-23;

/* Element (o, i) of s B A. */
static double change(const struct lora_slot *slot, double scale, int64_t o, int64_t i)
{
    double sum = 0;
    for (int64_t k = 0; slot != NULL && k < slot->rank; k++)
        sum += (double)slot->b[o * slot->rank + k] * (double)slot->a[k * slot->module->in + i];
    return scale * sum;
}

static double size_of(const struct lora_slot *slot, double scale, int64_t o, int64_t i)
{
    double sum = 0;
    for (int64_t k = 0; slot != NULL && k < slot->rank; k++)
        sum +=
            fabs((double)slot->b[o * slot->rank + k] * (double)slot->a[k * slot->module->in + i]);
    return fabs(scale) * sum;
}

static void expect_same_changes(const struct fixture *f, const struct lora_fold *fold)
{
    int64_t n_compared = 0;
    for (int64_t m = 0; m < f->n; m++) {
        const struct lora_slot *from = lora_adapter_slot(&f->adapter, m),
                               *to = lora_adapter_slot(&fold->adapter, m);
        if (from == NULL && to == NULL)
            continue;
        assert_non_null(to);
        for (int64_t o = 0; o < f->modules[m].out; o++) {
            for (int64_t i = 0; i < f->modules[m].in; i++) {
                const double x = change(from, f->choices[m].scale, o, i),
                             y = change(to, fold->choices[m].scale, o, i);
                assert_true(fabs(x - y) <= one_rounding * size_of(from, f->choices[m].scale, o, i));
                n_compared++;
            }
        }
    }
    assert_true(n_compared >= 64);
}

static void expect_uniform(const struct fixture *f, const struct lora_fold *fold, int64_t r,
                           double alpha)
{
    assert_int_equal(fold->config.r, r);
    assert_true(fold->config.alpha == alpha);
    assert_false(fold->config.use_rslora);
    assert_true(fold->config.dropout == 0);
    for (int64_t m = 0; m < f->n; m++) {
        if (fold->choices[m].on)
            assert_true(fold->choices[m].r == r && fold->choices[m].alpha == alpha &&
                        fold->choices[m].scale == alpha / (double)r);
    }
}

static void open_fold(struct fixture *f, const struct spec *spec, enum lora_fold_what what,
                      struct lora_fold *fold)
{
    struct err err = { 0 };
    open_fixture(f, spec);
    if (!lora_fold_open(fold, &f->adapter, f->choices, &f->config, what, &err))
        fail_msg("%s", err.text);
}

static void close_fold(struct fixture *f, struct lora_fold *fold)
{
    lora_fold_close(fold);
    close_fixture(f);
}

static void everything_gets_one_rank_and_alpha(void **state)
{
    (void)state;
    static const struct {
        struct spec spec; /* r 4, lora_alpha 8 */
        int64_t r;
        double alpha;
        int64_t n_padded, n_scaled, n_filled;
    } cases[] = {
        { { .list = { "in_proj", "q_proj" } }, 4, 8, 0, 0, 0 },
        { { .list = { "in_proj", "q_proj" }, .ranks = { { "q_proj", 7 } } }, 7, 14, 3, 1, 0 },
        { { .list = { "in_proj", "q_proj" }, .alphas = { { "q_proj", 3 } } }, 4, 8, 0, 1, 0 },
        { { .regex = ".*", .rslora = true }, 4, 16, 0, 0, 0 },
        { { .list = { "gate_proj", "up_proj" } }, 4, 8, 0, 0, 4 },
        { { .regex = ".*experts\\.1\\.down_proj", .layer = 3 }, 4, 8, 0, 0, 5 },
        { { .list = { "q_proj" }, .alphas = { { "q_proj", -2 } } }, 4, -2, 0, 0, 0 },
        { { .list = { "q_proj", "k_proj" }, .alphas = { { "q_proj", 0 } } }, 4, 8, 0, 1, 0 },
        { { .list = { "q_proj" }, .alphas = { { "q_proj", 0 } } }, 4, 4, 0, 1, 0 },
        { { .list = { "embed_tokens", "lm_head" }, .ranks = { { "lm_head", 6 } } }, 6, 8, 1, 1, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct lora_fold fold;
        open_fold(&f, &cases[i].spec, LORA_FOLD_ALL, &fold);
        expect_uniform(&f, &fold, cases[i].r, cases[i].alpha);
        assert_int_equal(fold.n_padded, cases[i].n_padded);
        assert_int_equal(fold.n_scaled, cases[i].n_scaled);
        assert_int_equal(fold.n_filled, cases[i].n_filled);
        expect_same_changes(&f, &fold);
        close_fold(&f, &fold);
    }
}

static void a_power_of_two_is_folded_without_a_rounding(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_fold fold;
    open_fold(&f, &(struct spec){ .list = { "in_proj", "q_proj" }, .alphas = { { "q_proj", 2 } } },
              LORA_FOLD_ALL, &fold);
    const int64_t q = module_index(f.modules, f.n, "model.layers.2.self_attn.q_proj");
    const struct lora_slot *from = lora_adapter_slot(&f.adapter, q),
                           *to = lora_adapter_slot(&fold.adapter, q);
    for (int64_t i = 0; i < 8 * 4; i++)
        assert_true(to->b[i] == from->b[i] / 4 && to->a[i] == from->a[i]);
    close_fold(&f, &fold);
}

static void the_scale_of_most_parameters_stays(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_fold fold;
    open_fold(&f, &(struct spec){ .list = { "in_proj", "k_proj" }, .alphas = { { "in_proj", 3 } } },
              LORA_FOLD_ALL, &fold);
    expect_uniform(&f, &fold, 4, 3);
    const int64_t in = module_index(f.modules, f.n, "model.layers.0.mamba.in_proj");
    assert_memory_equal(lora_adapter_slot(&fold.adapter, in)->b,
                        lora_adapter_slot(&f.adapter, in)->b, 32 * 4 * sizeof(real));
    close_fold(&f, &fold);
}

static void padding_is_zeros(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_fold fold;
    open_fold(&f, &(struct spec){ .list = { "q_proj", "k_proj" }, .ranks = { { "k_proj", 6 } } },
              LORA_FOLD_ALL, &fold);
    const struct lora_slot *to = lora_adapter_slot(
        &fold.adapter, module_index(f.modules, f.n, "model.layers.2.self_attn.q_proj"));
    for (int64_t k = 4; k < 6; k++) {
        for (int64_t i = 0; i < 8; i++)
            assert_true(to->a[k * 8 + i] == 0 && to->b[i * 6 + k] == 0);
    }
    assert_true(to->a[3 * 8] != 0 && to->b[3] != 0);
    close_fold(&f, &fold);
}

/* Transformers 5 needs experts alike; the rest keeps its ranks. */
static void experts_alone_can_be_folded(void **state)
{
    (void)state;
    static const struct spec spec = { .list = { "in_proj", "q_proj", "gate_proj", "down_proj" },
                                      .rslora = true,
                                      .ranks = { { "q_proj", 9 }, { "experts.0.gate_proj", 6 } } };
    struct fixture f;
    struct lora_fold fold;
    open_fold(&f, &spec, LORA_FOLD_EXPERTS, &fold);
    assert_false(fold.config.use_rslora);
    assert_int_equal(fold.config.r, 4);
    assert_true(fold.config.alpha == 16);
    for (int64_t m = 0; m < f.n; m++) {
        const struct lora_choice *c = &fold.choices[m];
        if (f.modules[m].expert >= 0)
            assert_true(c->on && c->r == 6 && c->scale == fold.choices[f.n - 2].scale);
        else if (c->on)
            assert_true(c->r == f.choices[m].r);
        assert_true(f.modules[m].expert >= 0 || c->on == f.choices[m].on);
    }
    assert_int_equal(fold.n_filled, 4); /* up_proj of two experts in two layers */
    expect_same_changes(&f, &fold);
    close_fold(&f, &fold);
}

static void nothing_is_a_copy(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_fold fold;
    open_fold(&f, &(struct spec){ .regex = ".*", .rslora = true, .ranks = { { "q_proj", 2 } } },
              LORA_FOLD_NOTHING, &fold);
    assert_true(fold.config.use_rslora);
    assert_memory_equal(fold.choices, f.choices, (size_t)f.n * sizeof *f.choices);
    assert_memory_equal(fold.adapter.params, f.adapter.params,
                        (size_t)f.adapter.n_param * sizeof(real));
    close_fold(&f, &fold);
}

static void a_scale_that_overflows_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_fold fold;
    struct err err = { 0 };
    open_fixture(
        &f, &(struct spec){ .list = { "in_proj", "q_proj" }, .alphas = { { "q_proj", 8e37 } } });
    lora_adapter_slot(&f.adapter, module_index(f.modules, f.n, "model.layers.2.self_attn.q_proj"))
        ->b[5] = (real)64;
    assert_false(lora_fold_open(&fold, &f.adapter, f.choices, &f.config, LORA_FOLD_ALL, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_string_equal(err.text,
                        "'model.layers.2.self_attn.q_proj': lora_B overflows when a scale "
                        "of 1e+37 is folded into it");
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_gets_one_rank_and_alpha),
        cmocka_unit_test(a_power_of_two_is_folded_without_a_rounding),
        cmocka_unit_test(the_scale_of_most_parameters_stays),
        cmocka_unit_test(padding_is_zeros),
        cmocka_unit_test(experts_alone_can_be_folded),
        cmocka_unit_test(nothing_is_a_copy),
        cmocka_unit_test(a_scale_that_overflows_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
