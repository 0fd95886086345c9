/* The list of a Jamba's linears, and the parameter counts that published recipes have on real
 * shapes. */
#include "finetune/model/modules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lora/target.h"
#include "tests/unit/lora/tiny_jamba.h"

static void lists_every_linear_in_order(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        enum lora_kind kind;
        int64_t in, out, layer, expert, n_expert;
    } expected[] = {
        { "model.embed_tokens", LORA_EMBED_TOKENS, 11, 8, -1, -1, 1 },
        { "model.layers.0.mamba.in_proj", LORA_IN_PROJ, 8, 32, 0, -1, 1 },
        { "model.layers.0.mamba.x_proj", LORA_X_PROJ, 16, 8, 0, -1, 1 },
        { "model.layers.0.mamba.dt_proj", LORA_DT_PROJ, 2, 16, 0, -1, 1 },
        { "model.layers.0.mamba.out_proj", LORA_OUT_PROJ, 16, 8, 0, -1, 1 },
        { "model.layers.0.feed_forward.gate_proj", LORA_GATE_PROJ, 8, 12, 0, -1, 1 },
        { "model.layers.0.feed_forward.up_proj", LORA_UP_PROJ, 8, 12, 0, -1, 1 },
        { "model.layers.0.feed_forward.down_proj", LORA_DOWN_PROJ, 12, 8, 0, -1, 1 },
        { "model.layers.1.mamba.in_proj", LORA_IN_PROJ, 8, 32, 1, -1, 2 },
        { "model.layers.1.mamba.x_proj", LORA_X_PROJ, 16, 8, 1, -1, 2 },
        { "model.layers.1.mamba.dt_proj", LORA_DT_PROJ, 2, 16, 1, -1, 2 },
        { "model.layers.1.mamba.out_proj", LORA_OUT_PROJ, 16, 8, 1, -1, 2 },
        { "model.layers.1.feed_forward.router", LORA_ROUTER, 8, 2, 1, -1, 2 },
        { "model.layers.1.feed_forward.experts.0.gate_proj", LORA_GATE_PROJ, 8, 12, 1, 0, 2 },
        { "model.layers.1.feed_forward.experts.0.up_proj", LORA_UP_PROJ, 8, 12, 1, 0, 2 },
        { "model.layers.1.feed_forward.experts.0.down_proj", LORA_DOWN_PROJ, 12, 8, 1, 0, 2 },
        { "model.layers.1.feed_forward.experts.1.gate_proj", LORA_GATE_PROJ, 8, 12, 1, 1, 2 },
        { "model.layers.1.feed_forward.experts.1.up_proj", LORA_UP_PROJ, 8, 12, 1, 1, 2 },
        { "model.layers.1.feed_forward.experts.1.down_proj", LORA_DOWN_PROJ, 12, 8, 1, 1, 2 },
        { "model.layers.2.self_attn.q_proj", LORA_Q_PROJ, 8, 8, 2, -1, 1 },
        { "model.layers.2.self_attn.k_proj", LORA_K_PROJ, 8, 4, 2, -1, 1 },
        { "model.layers.2.self_attn.v_proj", LORA_V_PROJ, 8, 4, 2, -1, 1 },
        { "model.layers.2.self_attn.o_proj", LORA_O_PROJ, 8, 8, 2, -1, 1 },
        { "model.layers.2.feed_forward.gate_proj", LORA_GATE_PROJ, 8, 12, 2, -1, 1 },
    };
    const struct jamba_config config = tiny_jamba();
    struct lora_module *m = NULL;
    const int64_t n = jamba_modules(&config, &m);
    assert_int_equal(n, 2 + 7 + 11 + 7 + 11);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_string_equal(m[i].path, expected[i].path);
        assert_int_equal(m[i].kind, expected[i].kind);
        assert_int_equal(m[i].in, expected[i].in);
        assert_int_equal(m[i].out, expected[i].out);
        assert_int_equal(m[i].layer, expected[i].layer);
        assert_int_equal(m[i].expert, expected[i].expert);
        assert_int_equal(m[i].n_expert, expected[i].n_expert);
    }
    assert_string_equal(m[n - 1].path, "lm_head");
    assert_int_equal(m[n - 1].in, 8);
    assert_int_equal(m[n - 1].out, 11);
    for (int64_t l = 0; l < config.num_hidden_layers; l++) {
        const int64_t mixer = jamba_module_mixer(&config, l),
                      ff = jamba_module_feed_forward(&config, l);
        assert_int_equal(m[mixer].layer, l);
        assert_int_equal(m[mixer].kind, l == 2 ? LORA_Q_PROJ : LORA_IN_PROJ);
        assert_int_equal(m[ff].layer, l);
        assert_int_equal(m[ff].kind, l % 2 == 1 ? LORA_ROUTER : LORA_GATE_PROJ);
    }
    free(m);
}

static void one_expert_means_plain_mlps(void **state)
{
    (void)state;
    struct jamba_config config = tiny_jamba();
    config.num_experts = 1;
    struct lora_module *m = NULL;
    const int64_t n = jamba_modules(&config, &m);
    assert_int_equal(n, 2 + 4 * 7);
    assert_true(module_index(m, n, "model.layers.1.feed_forward.gate_proj") >= 0);
    assert_int_equal(module_index(m, n, "model.layers.1.feed_forward.router"), -1);
    free(m);
}

static const struct jamba_config mini = {
    .vocab_size = 65536,
    .hidden_size = 4096,
    .intermediate_size = 14336,
    .num_hidden_layers = 32,
    .num_attention_heads = 32,
    .num_key_value_heads = 8,
    .num_experts = 16,
    .num_experts_per_tok = 2,
    .expert_layer_period = 2,
    .expert_layer_offset = 1,
    .attn_layer_period = 8,
    .attn_layer_offset = 4,
    .mamba_d_state = 16,
    .mamba_d_conv = 4,
    .mamba_expand = 2,
    .mamba_dt_rank = 256,
    .d_inner = 8192,
    .d_head = 128,
};
static const struct jamba_config three_b = {
    .vocab_size = 65536,
    .hidden_size = 2560,
    .intermediate_size = 8192,
    .num_hidden_layers = 28,
    .num_attention_heads = 20,
    .num_key_value_heads = 1,
    .num_experts = 1,
    .num_experts_per_tok = 1,
    .expert_layer_period = 2,
    .expert_layer_offset = 1,
    .attn_layer_period = 14,
    .attn_layer_offset = 7,
    .mamba_d_state = 16,
    .mamba_d_conv = 4,
    .mamba_expand = 2,
    .mamba_dt_rank = 160,
    .d_inner = 5120,
    .d_head = 128,
    .tie_word_embeddings = true,
};
static const struct jamba_config tiny_random = {
    .vocab_size = 65536,
    .hidden_size = 128,
    .intermediate_size = 14336,
    .num_hidden_layers = 8,
    .num_attention_heads = 2,
    .num_key_value_heads = 1,
    .num_experts = 4,
    .num_experts_per_tok = 2,
    .expert_layer_period = 2,
    .expert_layer_offset = 1,
    .attn_layer_period = 4,
    .attn_layer_offset = 2,
    .mamba_d_state = 16,
    .mamba_d_conv = 4,
    .mamba_expand = 2,
    .mamba_dt_rank = 8,
    .d_inner = 256,
    .d_head = 64,
};

/* The targets of the model cards of Jamba, r 8; the same without o_proj as widely copied; the first
 * card's; and the card's without the embedding and the experts. */
#define MAMBA "x_proj", "in_proj", "out_proj"
#define MLP "gate_proj", "up_proj", "down_proj"
#define QKV "q_proj", "k_proj", "v_proj"

static void published_recipes_train_the_published_counts(void **state)
{
    (void)state;
    static const struct {
        const struct jamba_config *config;
        const char *targets[12], *exclude;
        int64_t n_param;
    } cases[] = {
        { &mini, { "embed_tokens", MAMBA, MLP, QKV, "o_proj" }, NULL, 130972672 },
        { &mini, { "embed_tokens", MAMBA, MLP, QKV }, NULL, 130710528 },
        { &mini, { "embed_tokens", MAMBA }, NULL, 9796608 },
        { &mini, { MAMBA, MLP, QKV, "o_proj" }, ".*experts.*", 17169408 },
        { &mini, { MAMBA, MLP, QKV }, ".*experts.*", 16907264 },
        { &three_b, { "embed_tokens", MAMBA, MLP, QKV, "o_proj" }, NULL, 13384704 },
        { &three_b, { "embed_tokens", MAMBA, MLP, QKV }, NULL, 13302784 },
        { &three_b, { "embed_tokens", MAMBA }, NULL, 5909504 },
        { &tiny_random, { "embed_tokens", MAMBA, MLP, QKV, "o_proj" }, NULL, 7545728 },
        { &tiny_random, { "embed_tokens", MAMBA, MLP, QKV }, NULL, 7541632 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *targets[12];
        struct lora_config config = { .r = 8, .alpha = 8, .target_modules = targets };
        for (; cases[i].targets[config.n_target] != NULL; config.n_target++)
            targets[config.n_target] = (char *)(uintptr_t)cases[i].targets[config.n_target];
        config.exclude_regex = (char *)(uintptr_t)cases[i].exclude;
        struct lora_module *modules = NULL;
        const int64_t n = jamba_modules(cases[i].config, &modules);
        assert_true(n > 0);
        struct lora_choice *choices = calloc((size_t)n, sizeof *choices);
        assert_non_null(choices);
        struct lora_summary summary;
        struct err err = { 0 };
        assert_true(lora_choose(&config, modules, n, choices, &err));
        assert_true(lora_summarize(modules, n, choices, &summary, &err));
        assert_int_equal(summary.total.n_param, cases[i].n_param);
        if (i == 0) /* 16 layers of 16 experts */
            assert_int_equal(summary.block[LORA_BLOCK_EXPERTS].n_param,
                             16 * 16 * 3 * 8 * (int64_t)(4096 + 14336));
        free(choices);
        free(modules);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_every_linear_in_order),
        cmocka_unit_test(one_expert_means_plain_mlps),
        cmocka_unit_test(published_recipes_train_the_published_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
