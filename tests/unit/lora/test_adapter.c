/* The flat block: layout, memory, initialisation, groups. */
#include "lora/adapter.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/unit/lora/tiny_jamba.h"

enum { SEED = 7 };

/* All that an adapter's layout asks of a backend. */
static const struct backend host = { .act = DTYPE_REAL };

struct fixture {
    struct lora_module *modules;
    struct lora_choice *choices;
    int64_t n;
    struct arena arena;
    struct lora_adapter adapter;
};

/* Adapts the modules of the given paths (NULL-ended), all of them when there are none; ranks 1, 2,
 * 3, .... */
static void open_fixture(struct fixture *f, const char *const *paths, bool with_training)
{
    const struct jamba_config config = tiny_jamba();
    *f = (struct fixture){ 0 };
    f->n = jamba_modules(&config, &f->modules);
    f->choices = calloc((size_t)f->n, sizeof *f->choices);
    assert_non_null(f->choices);
    for (int64_t i = 0; paths == NULL && i < f->n; i++)
        f->choices[i] = (struct lora_choice){ .on = true, .r = 2, .alpha = 4, .scale = 2 };
    for (int64_t k = 0; paths != NULL && paths[k] != NULL; k++) {
        const int64_t i = module_index(f->modules, f->n, paths[k]);
        assert_true(i >= 0);
        f->choices[i] = (struct lora_choice){ .on = true, .r = k + 1, .alpha = 3, .scale = 0.5 };
    }
    const struct lora_adapter_args measure = { .be = &host,
                                               .modules = f->modules,
                                               .n_module = f->n,
                                               .choices = f->choices,
                                               .arena = &f->arena,
                                               .with_training = with_training };
    struct err err = { 0 };
    arena_init_measuring(&f->arena, "adapter");
    assert_true(lora_adapter_init(&f->adapter, &measure, &err));
    lora_adapter_free(&f->adapter);
    const size_t need = f->arena.peak;
    arena_free(&f->arena);
    assert_true(arena_init(&f->arena, "adapter", need, &err));
    assert_true(lora_adapter_init(&f->adapter, &measure, &err));
    assert_int_equal(f->arena.peak, need);
}

static void close_fixture(struct fixture *f)
{
    lora_adapter_free(&f->adapter);
    arena_free(&f->arena);
    free(f->choices);
    free(f->modules);
}

static const char *const three[] = { "lm_head", "model.layers.0.mamba.x_proj", "model.embed_tokens",
                                     NULL };

static void slots_lie_in_module_order_a_then_b(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, three, true);
    const struct lora_adapter *a = &f.adapter;
    assert_int_equal(a->n_slot, 3);
    static const struct {
        const char *path;
        int64_t rank, at, n_a, n_b;
    } expected[] = {
        { "model.embed_tokens", 3, 0, 3 * 11, 8 * 3 },
        { "model.layers.0.mamba.x_proj", 2, 57, 2 * 16, 8 * 2 },
        { "lm_head", 1, 105, 8, 11 },
    };
    assert_int_equal(a->n_param, 124);
    for (int64_t i = 0; i < 3; i++) {
        const int64_t index = module_index(f.modules, f.n, expected[i].path);
        const struct lora_slot *slot = lora_adapter_slot(a, index);
        assert_ptr_equal(slot, &a->slots[i]);
        assert_ptr_equal(slot->module, &f.modules[index]);
        assert_int_equal(slot->rank, expected[i].rank);
        assert_true(slot->scale == (real)0.5 && slot->alpha == 3);
        assert_int_equal(slot->a - a->params, expected[i].at);
        assert_int_equal(slot->b - slot->a, expected[i].n_a);
        assert_int_equal(slot->da - a->grads, expected[i].at);
        assert_int_equal(slot->db - slot->da, expected[i].n_a);
        const int64_t end = i < 2 ? expected[i + 1].at : a->n_param;
        assert_int_equal(expected[i].at + expected[i].n_a + expected[i].n_b, end);
    }
    assert_null(lora_adapter_slot(a, module_index(f.modules, f.n, "model.layers.0.mamba.in_proj")));
    close_fixture(&f);
}

static void ranges_name_the_optimizer_groups(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, three, true);
    static const struct lora_range expected[] = {
        { 0, 57, LORA_GROUP_EMBEDDING }, { 57, 89, LORA_GROUP_A },   { 89, 105, LORA_GROUP_B },
        { 105, 113, LORA_GROUP_A },      { 113, 124, LORA_GROUP_B },
    };
    assert_int_equal(f.adapter.n_range, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(f.adapter.ranges[i].begin, expected[i].begin);
        assert_int_equal(f.adapter.ranges[i].end, expected[i].end);
        assert_int_equal(f.adapter.ranges[i].group, expected[i].group);
    }
    close_fixture(&f);
}

static void without_training_there_are_only_parameters(void **state)
{
    (void)state;
    struct fixture f, g;
    open_fixture(&f, NULL, false);
    open_fixture(&g, NULL, true);
    assert_null(f.adapter.grads);
    assert_null(f.adapter.m);
    assert_null(f.adapter.v);
    assert_null(f.adapter.slots[0].da);
    assert_int_equal(g.arena.peak, 4 * f.arena.peak);
    lora_adapter_reset(&f.adapter, SEED);
    struct arena scratch = { 0 };
    struct backend cpu;
    cpu_backend_init(&cpu, &scratch, 1);
    lora_adapter_push(&f.adapter, &cpu);
    close_fixture(&f);
    close_fixture(&g);
}

/* Checks one tensor: zero, uniform in +-bound, or standard normal, by moments. */
static void assert_moments(const real *x, int64_t n, double variance, double bound)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(fabs((double)x[i]) <= bound);
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    const double dn = (double)n;
    assert_true(fabs(sum / dn) <=
                4 * sqrt(variance / dn)); /* four standard errors; the seed is fixed */
    assert_true(fabs(squares / dn - variance) <= 4 * variance * sqrt(2 / dn));
}

static void starts_as_peft_does(void **state)
{
    (void)state;
    struct fixture f;
    const struct jamba_config wide = { .vocab_size = 300,
                                       .hidden_size = 64,
                                       .intermediate_size = 96,
                                       .num_hidden_layers = 1,
                                       .num_attention_heads = 1,
                                       .num_key_value_heads = 1,
                                       .num_experts = 1,
                                       .expert_layer_period = 1,
                                       .attn_layer_period = 2,
                                       .attn_layer_offset = 1,
                                       .mamba_d_state = 8,
                                       .mamba_dt_rank = 4,
                                       .d_inner = 128,
                                       .d_head = 64 };
    f = (struct fixture){ 0 };
    f.n = jamba_modules(&wide, &f.modules);
    f.choices = calloc((size_t)f.n, sizeof *f.choices);
    assert_non_null(f.choices);
    for (int64_t i = 0; i < f.n; i++)
        f.choices[i] = (struct lora_choice){ .on = true, .r = 16, .alpha = 16, .scale = 1 };
    struct err err = { 0 };
    assert_true(arena_init(&f.arena, "adapter", (size_t)1 << 22, &err));
    const struct lora_adapter_args args = { f.modules, f.n, f.choices, &host, &f.arena, true };
    assert_true(lora_adapter_init(&f.adapter, &args, &err));
    for (int64_t i = 0; i < f.adapter.n_param; i++)
        f.adapter.params[i] = f.adapter.grads[i] = f.adapter.m[i] = f.adapter.v[i] = 1;
    lora_adapter_reset(&f.adapter, SEED);
    struct arena scratch = { 0 };
    struct backend cpu;
    cpu_backend_init(&cpu, &scratch, 1);
    lora_adapter_push(&f.adapter, &cpu);
    for (int64_t s = 0; s < f.adapter.n_slot; s++) {
        const struct lora_slot *slot = &f.adapter.slots[s];
        const int64_t n_a = slot->rank * slot->module->in, n_b = slot->rank * slot->module->out;
        const double bound = 1 / sqrt((double)slot->module->in);
        if (slot->module->kind == LORA_EMBED_TOKENS) {
            assert_moments(slot->a, n_a, 0, 0);
            assert_moments(slot->b, n_b, 1, 6);
        } else {
            assert_moments(slot->a, n_a, bound * bound / 3, bound);
            assert_moments(slot->b, n_b, 0, 0);
        }
    }
    assert_moments(f.adapter.grads, f.adapter.n_param, 0, 0);
    assert_moments(f.adapter.m, f.adapter.n_param, 0, 0);
    assert_moments(f.adapter.v, f.adapter.n_param, 0, 0);
    close_fixture(&f);
}

static void values_do_not_depend_on_what_else_is_adapted(void **state)
{
    (void)state;
    struct fixture all, one;
    const char *const path = "model.layers.3.feed_forward.experts.1.down_proj";
    open_fixture(&all, NULL, true);
    open_fixture(&one, (const char *const[]){ "model.embed_tokens", path, NULL }, true);
    lora_adapter_reset(&all.adapter, SEED);
    lora_adapter_reset(&one.adapter, SEED);
    const int64_t i = module_index(all.modules, all.n, path);
    const struct lora_slot *a = lora_adapter_slot(&all.adapter, i),
                           *b = lora_adapter_slot(&one.adapter, i);
    assert_int_equal(a->rank, b->rank);
    assert_memory_equal(a->a, b->a, (size_t)(a->rank * a->module->in) * sizeof(real));
    /* ... but on the module and on the seed. */
    const struct lora_slot *c = lora_adapter_slot(&all.adapter, i - 3);
    assert_memory_not_equal(a->a, c->a, (size_t)(a->rank * a->module->in) * sizeof(real));
    lora_adapter_reset(&one.adapter, SEED + 1);
    assert_memory_not_equal(a->a, b->a, (size_t)(a->rank * a->module->in) * sizeof(real));
    close_fixture(&all);
    close_fixture(&one);
}

static void an_adapter_of_impossible_size_is_refused(void **state)
{
    (void)state;
    struct lora_module module = { .path = "lm_head", .in = INT64_MAX / 8, .out = 8, .layer = -1 };
    const struct lora_choice choice = { .on = true, .r = 4, .alpha = 4, .scale = 1 };
    struct arena arena;
    struct lora_adapter adapter;
    struct err err = { 0 };
    arena_init_measuring(&arena, "adapter");
    const struct lora_adapter_args args = { &module, 1, &choice, &host, &arena, true };
    assert_false(lora_adapter_init(&adapter, &args, &err));
    assert_int_equal(err.code, ERR_NO_MEMORY);
    assert_string_equal(err.text, "lora_r: the adapter does not fit in any memory");
    lora_adapter_free(&adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_lie_in_module_order_a_then_b),
        cmocka_unit_test(ranges_name_the_optimizer_groups),
        cmocka_unit_test(without_training_there_are_only_parameters),
        cmocka_unit_test(starts_as_peft_does),
        cmocka_unit_test(values_do_not_depend_on_what_else_is_adapted),
        cmocka_unit_test(an_adapter_of_impossible_size_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
