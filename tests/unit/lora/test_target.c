/* Choosing modules as PEFT does, and saying so when a name matches nothing. */
#include "lora/target.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/lora/tiny_jamba.h"

enum { MAX_LIST = 6 };

/* A config in test-table form; NULL ends a list. */
struct targets {
    const char *list[MAX_LIST];
    const char *regex;
    bool all_linear;
    const char *exclude[MAX_LIST];
    const char *exclude_regex;
    int64_t layers[MAX_LIST];
    int64_t n_layer;
    struct {
        const char *key;
        double value;
    } ranks[3], alphas[3];
    bool rslora;
    int64_t r; /* 0: 8 */
};

/* The lists below borrow from the table: nothing is freed. */
struct built {
    struct lora_config config;
    char *list[MAX_LIST], *exclude[MAX_LIST];
    int64_t layers[MAX_LIST];
    struct lora_pattern ranks[3], alphas[3];
};

static char *borrowed(const char *s)
{
    return (char *)(uintptr_t)s;
}

static int64_t fill(const char *const *from, char **to)
{
    int64_t n = 0;
    while (n < MAX_LIST && from[n] != NULL) {
        to[n] = borrowed(from[n]);
        n++;
    }
    return n;
}

static void build(const struct targets *t, struct built *b)
{
    *b = (struct built){ 0 };
    struct lora_config *c = &b->config;
    c->r = t->r == 0 ? 8 : t->r;
    c->alpha = 16;
    c->use_rslora = t->rslora;
    c->target_modules = b->list;
    c->n_target = fill(t->list, b->list);
    c->target_regex = borrowed(t->regex);
    c->all_linear = t->all_linear;
    c->exclude_modules = b->exclude;
    c->n_exclude = fill(t->exclude, b->exclude);
    c->exclude_regex = borrowed(t->exclude_regex);
    memcpy(b->layers, t->layers, sizeof b->layers);
    c->layers_to_transform = b->layers;
    c->n_layer_to_transform = t->n_layer;
    c->rank_pattern = b->ranks;
    c->alpha_pattern = b->alphas;
    for (int i = 0; i < 3; i++) {
        b->ranks[i] = (struct lora_pattern){ borrowed(t->ranks[i].key), t->ranks[i].value };
        b->alphas[i] = (struct lora_pattern){ borrowed(t->alphas[i].key), t->alphas[i].value };
        c->n_rank_pattern += t->ranks[i].key != NULL;
        c->n_alpha_pattern += t->alphas[i].key != NULL;
    }
}

struct model {
    struct lora_module *modules;
    struct lora_choice *choices;
    int64_t n;
};

static struct model open_model(void)
{
    const struct jamba_config config = tiny_jamba();
    struct model m = { 0 };
    m.n = jamba_modules(&config, &m.modules);
    assert_true(m.n > 0);
    m.choices = calloc((size_t)m.n, sizeof *m.choices);
    assert_non_null(m.choices);
    return m;
}

static void close_model(struct model *m)
{
    free(m->modules);
    free(m->choices);
}

static const struct lora_choice *choice_of(const struct model *m, const char *path)
{
    const int64_t i = module_index(m->modules, m->n, path);
    assert_true(i >= 0);
    return &m->choices[i];
}

/* The paths chosen, without "model." and "layers.", for comparing by eye. */
static void chosen_paths(const struct model *m, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (int64_t i = 0; i < m->n; i++) {
        if (!m->choices[i].on)
            continue;
        const char *path = m->modules[i].path;
        path += strncmp(path, "model.", 6) == 0 ? 6 : 0;
        path += strncmp(path, "layers.", 7) == 0 ? 7 : 0;
        const size_t k = strlen(path);
        assert_true(len + k + 2 < size);
        if (len > 0)
            out[len++] = ' ';
        memcpy(out + len, path, k + 1);
        len += k;
    }
}

static void chooses_what_peft_chooses(void **state)
{
    (void)state;
    static const struct {
        struct targets targets;
        const char *chosen;
    } cases[] = {
        { { .list = { "q_proj", "in_proj" } },
          "0.mamba.in_proj 1.mamba.in_proj 2.self_attn.q_proj 3.mamba.in_proj" },
        /* A suffix is whole segments: "proj" is none, and out_proj is Mamba's alone. */
        { { .list = { "out_proj" } }, "0.mamba.out_proj 1.mamba.out_proj 3.mamba.out_proj" },
        { { .list = { "o_proj" } }, "2.self_attn.o_proj" },
        /* gate_proj is in dense layers and in every expert. */
        { { .list = { "gate_proj" } },
          "0.feed_forward.gate_proj 1.feed_forward.experts.0.gate_proj "
          "1.feed_forward.experts.1.gate_proj "
          "2.feed_forward.gate_proj 3.feed_forward.experts.0.gate_proj "
          "3.feed_forward.experts.1.gate_proj" },
        { { .list = { "feed_forward.gate_proj" } },
          "0.feed_forward.gate_proj 2.feed_forward.gate_proj" },
        { { .list = { "experts.1.down_proj" } },
          "1.feed_forward.experts.1.down_proj 3.feed_forward.experts.1.down_proj" },
        { { .list = { "model.layers.1.mamba.dt_proj", "lm_head", "embed_tokens", "router" } },
          "embed_tokens 1.mamba.dt_proj 1.feed_forward.router 3.feed_forward.router lm_head" },
        { { .regex = "model\\.layers\\.[02]\\..*up_proj|lm_head" },
          "0.feed_forward.up_proj 2.feed_forward.up_proj lm_head" },
        { { .all_linear = true,
            .exclude = { "gate_proj", "up_proj", "down_proj" },
            .layers = { 1 },
            .n_layer = 1 },
          "1.mamba.in_proj 1.mamba.x_proj 1.mamba.dt_proj 1.mamba.out_proj 1.feed_forward.router" },
        { { .layers = { 2 }, .n_layer = 1 },
          "2.self_attn.q_proj 2.self_attn.k_proj 2.self_attn.v_proj 2.self_attn.o_proj "
          "2.feed_forward.gate_proj 2.feed_forward.up_proj 2.feed_forward.down_proj" },
        { { .exclude_regex = ".*(mamba|feed_forward).*" },
          "2.self_attn.q_proj 2.self_attn.k_proj 2.self_attn.v_proj 2.self_attn.o_proj" },
        /* The expert's number is no layer (PEFT 0.18 took it for one). */
        { { .list = { "down_proj" }, .layers = { 1 }, .n_layer = 1 },
          "1.feed_forward.experts.0.down_proj 1.feed_forward.experts.1.down_proj" },
        /* Embedding and head have no layer; a whole path does not need one. */
        { { .list = { "embed_tokens", "in_proj", "lm_head" }, .layers = { 0 }, .n_layer = 1 },
          "0.mamba.in_proj lm_head" },
        { { .list = { "k_proj", "v_proj" }, .exclude = { "v_proj" } }, "2.self_attn.k_proj" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = open_model();
        struct built b;
        struct err err = { 0 };
        build(&cases[i].targets, &b);
        if (!lora_choose(&b.config, m.modules, m.n, m.choices, &err))
            fail_msg("case %zu: %s", i, err.text);
        char chosen[2048];
        chosen_paths(&m, chosen, sizeof chosen);
        assert_string_equal(chosen, cases[i].chosen);
        close_model(&m);
    }
}

static void counts_of_the_wide_choices(void **state)
{
    (void)state;
    /* 3 Mamba layers, 1 attention, 2 dense MLPs, 2 layers of 2 experts with a router. */
    static const struct {
        struct targets targets;
        int64_t n_on;
    } cases[] = {
        { { .list = { NULL } }, 3 * 3 + 4 + 2 * 3 + 2 * 2 * 3 },
        { { .all_linear = true }, 3 * 4 + 4 + 2 * 3 + 2 * (1 + 2 * 3) },
        { { .regex = ".*" }, 2 + 3 * 4 + 4 + 2 * 3 + 2 * (1 + 2 * 3) },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = open_model();
        struct built b;
        struct err err = { 0 };
        struct lora_summary summary;
        build(&cases[i].targets, &b);
        assert_true(lora_choose(&b.config, m.modules, m.n, m.choices, &err));
        assert_true(lora_summarize(m.modules, m.n, m.choices, &summary, &err));
        assert_int_equal(summary.total.n_adapted, cases[i].n_on);
        assert_int_equal(summary.total.n_module, m.n);
        close_model(&m);
    }
}

static void rank_alpha_and_scale_follow_the_first_pattern(void **state)
{
    (void)state;
    const struct targets targets = {
        .list = { "in_proj", "gate_proj", "q_proj" },
        .ranks = { { "layers.1.mamba.in_proj", 4 },
                   { "in_proj", 2 },
                   { "experts\\.\\d+\\.gate_proj", 3 } },
        .alphas = { { "mamba.*", 5 }, { "q_proj|experts.0.gate_proj", 1.5 } },
    };
    static const struct {
        const char *path;
        int64_t r;
        double alpha;
    } expected[] = {
        { "model.layers.0.mamba.in_proj", 2, 5 },
        { "model.layers.1.mamba.in_proj", 4, 5 },
        { "model.layers.0.feed_forward.gate_proj", 8, 16 },
        { "model.layers.3.feed_forward.experts.0.gate_proj", 3, 1.5 },
        { "model.layers.3.feed_forward.experts.1.gate_proj", 3, 16 },
        { "model.layers.2.self_attn.q_proj", 8, 1.5 },
    };
    for (int rslora = 0; rslora < 2; rslora++) {
        struct model m = open_model();
        struct built b;
        struct err err = { 0 };
        build(&targets, &b);
        b.config.use_rslora = rslora != 0;
        assert_true(lora_choose(&b.config, m.modules, m.n, m.choices, &err));
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            const struct lora_choice *c = choice_of(&m, expected[i].path);
            assert_true(c->on);
            assert_int_equal(c->r, expected[i].r);
            const double r = (double)expected[i].r;
            assert_true(c->alpha == expected[i].alpha);
            assert_true(c->scale == expected[i].alpha / (rslora != 0 ? sqrt(r) : r));
        }
        close_model(&m);
    }
}

#define NO_ENGINE ", and no engine serves a LoRA on it"

static void what_matches_nothing_is_an_error_with_a_hint(void **state)
{
    (void)state;
    static const struct {
        struct targets targets;
        const char *message;
    } cases[] = {
        { { .list = { "q_porj" } },
          "lora_target_modules: 'q_porj' matches no module; did you mean 'q_proj'?" },
        { { .list = { "in_proj", "model.layers.0.mamba.in_prj" } },
          "lora_target_modules: 'model.layers.0.mamba.in_prj' matches no module; did you mean "
          "'model.layers.0.mamba.in_proj'?" },
        { { .list = { "c_attn" } },
          "lora_target_modules: 'c_attn' matches no module; this model has q_proj, k_proj, v_proj, "
          "o_proj, "
          "in_proj, x_proj, dt_proj, out_proj, gate_proj, up_proj, down_proj, router, "
          "embed_tokens, lm_head" },
        { { .list = { "" } },
          "lora_target_modules: '' matches no module; this model has q_proj, k_proj, v_proj, "
          "o_proj, "
          "in_proj, x_proj, dt_proj, out_proj, gate_proj, up_proj, down_proj, router, "
          "embed_tokens, lm_head" },
        { { .list = { "conv1d" } },
          "lora_target_modules: 'conv1d' cannot be adapted: the convolution's weight is used "
          "raw" NO_ENGINE },
        { { .list = { "model.layers.0.mamba.A_log" } },
          "lora_target_modules: 'model.layers.0.mamba.A_log' cannot be adapted: it is a parameter "
          "and not a "
          "linear" NO_ENGINE },
        { { .list = { "D" } },
          "lora_target_modules: 'D' cannot be adapted: it is a parameter and not a "
          "linear" NO_ENGINE },
        { { .list = { "final_layernorm" } },
          "lora_target_modules: 'final_layernorm' cannot be adapted: a norm is no "
          "linear" NO_ENGINE },
        { { .list = { "experts.gate_up_proj" } },
          "lora_target_modules: 'experts.gate_up_proj' cannot be adapted: it is transformers 5's "
          "name for an "
          "expert's gate_proj and up_proj; list those" },
        { { .list = { "q_proj.weight" } },
          "lora_target_modules: 'q_proj.weight' cannot be adapted: it names a tensor; an adapter "
          "sits on a "
          "module: leave the last part out" },
        { { .list = { "mamba" } },
          "lora_target_modules: 'mamba' cannot be adapted: it is a block, not a linear; list "
          "in_proj, x_proj "
          "and out_proj" },
        { { .regex = "in_proj" },
          "lora_target_modules: regex 'in_proj' matches no module; it must match the whole path, "
          "such as "
          "'model.layers.0.mamba.in_proj': write '.*\\.in_proj'" },
        { { .regex = "layers.*" },
          "lora_target_modules: regex 'layers.*' matches no module; it must match the whole path, "
          "such as "
          "'model.layers.0.mamba.in_proj'" },
        { { .regex = "(" },
          "lora_target_modules: regex '(': missing closing parenthesis (at character 2)" },
        { { .exclude = { "kproj" } },
          "lora_exclude_modules: 'kproj' matches no module; did you mean 'k_proj'?" },
        { { .exclude_regex = "x" },
          "lora_exclude_modules: regex 'x' matches no module; it must match the whole path, such "
          "as "
          "'model.layers.0.mamba.in_proj'" },
        { { .exclude_regex = "[" },
          "lora_exclude_modules: regex '[': missing terminating ] for character class (at "
          "character 2)" },
        { { .layers = { 1, 4 }, .n_layer = 2 },
          "lora_layers_to_transform: there is no layer 4; this model has layers 0 to 3" },
        { { .layers = { -1 }, .n_layer = 1 },
          "lora_layers_to_transform: there is no layer -1; this model has layers 0 to 3" },
        { { .list = { "in_proj" }, .layers = { 1, 2 }, .n_layer = 2 },
          "lora_layers_to_transform: layer 2 has no module that is a target" },
        { { .list = { "in_proj" }, .ranks = { { "dt_proj", 4 } } },
          "rank_pattern: 'dt_proj' matches no adapted module; a key is a regex for the end of "
          "a path" },
        { { .ranks = { { "a)(b", 4 } } },
          "rank_pattern: regex 'a)(b': unmatched closing parenthesis (at character 2)" },
        { { .ranks = { { "in_proj", 1.5 } } },
          "rank_pattern: 'in_proj' is 1.5; expected a whole number, 1 to 1048576" },
        { { .ranks = { { "in_proj", 0 } } },
          "rank_pattern: 'in_proj' is 0; expected a whole number, 1 to 1048576" },
        { { .alphas = { { "k_prj", 4 } } },
          "alpha_pattern: 'k_prj' matches no adapted module; a key is a regex for the end of "
          "a path" },
        { { .alphas = { { "k_proj", HUGE_VAL } } },
          "alpha_pattern: 'k_proj' is inf; expected a finite number" },
        { { .r = -1 }, "lora_r: is -1; expected 1 to 1048576" },
        { { .list = { "in_proj" }, .exclude = { "mamba.in_proj" } },
          "lora_target_modules: nothing is left to adapt; the targets are all excluded or outside "
          "lora_layers_to_transform" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = open_model();
        struct built b;
        struct err err = { 0 };
        build(&cases[i].targets, &b);
        if (lora_choose(&b.config, m.modules, m.n, m.choices, &err))
            fail_msg("case %zu was accepted", i);
        assert_string_equal(err.text, cases[i].message);
        assert_int_equal(err.code, ERR_RECIPE);
        close_model(&m);
    }
}

static void summary_counts_modules_and_parameters_by_block(void **state)
{
    (void)state;
    struct model m = open_model();
    struct built b;
    struct err err = { 0 };
    struct lora_summary s;
    const struct targets targets = { .list = { "q_proj", "x_proj", "down_proj", "embed_tokens",
                                               "lm_head" },
                                     .ranks = { { "x_proj", 2 }, { "experts.0.down_proj", 5 } } };
    build(&targets, &b);
    assert_true(lora_choose(&b.config, m.modules, m.n, m.choices, &err));
    assert_true(lora_summarize(m.modules, m.n, m.choices, &s, &err));
    static const struct {
        enum lora_block block;
        const char *name;
        struct lora_count count;
    } expected[] = {
        { LORA_BLOCK_ATTENTION, "attention", { 4, 1, 8 * (8 + 8), 8, 8 } },
        { LORA_BLOCK_MAMBA, "mamba", { 12, 3, 3 * 2 * (16 + 8), 2, 2 } },
        { LORA_BLOCK_MLP, "mlp", { 6, 2, 2 * 8 * (12 + 8), 8, 8 } },
        { LORA_BLOCK_EXPERTS, "experts", { 12, 4, 2 * (5 + 8) * (12 + 8), 5, 8 } },
        { LORA_BLOCK_ROUTER, "router", { 2, 0, 0, 0, 0 } },
        { LORA_BLOCK_EMBEDDING, "embedding", { 1, 1, 8 * (11 + 8), 8, 8 } },
        { LORA_BLOCK_HEAD, "head", { 1, 1, 8 * (8 + 11), 8, 8 } },
    };
    assert_int_equal(sizeof expected / sizeof *expected, LORA_BLOCK_COUNT);
    int64_t n_param = 0;
    for (size_t i = 0; i < LORA_BLOCK_COUNT; i++) {
        assert_string_equal(lora_block_name(expected[i].block), expected[i].name);
        assert_memory_equal(&s.block[expected[i].block], &expected[i].count,
                            sizeof expected[i].count);
        n_param += expected[i].count.n_param;
    }
    assert_int_equal(s.total.n_param, n_param);
    assert_int_equal(s.kind[LORA_BLOCK_EXPERTS][LORA_DOWN_PROJ].n_adapted, 4);
    assert_int_equal(s.kind[LORA_BLOCK_MLP][LORA_DOWN_PROJ].n_module, 2);
    m.modules[0].out = INT64_MAX / 4;
    assert_false(lora_summarize(m.modules, m.n, m.choices, &s, &err));
    assert_string_equal(err.text, "lora_r: the adapter has more parameters than can be counted");
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chooses_what_peft_chooses),
        cmocka_unit_test(counts_of_the_wide_choices),
        cmocka_unit_test(rank_alpha_and_scale_follow_the_first_pattern),
        cmocka_unit_test(what_matches_nothing_is_an_error_with_a_hint),
        cmocka_unit_test(summary_counts_modules_and_parameters_by_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
