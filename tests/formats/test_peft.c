/* Writing PEFT's adapter folder: what is written is what PEFT on transformers 4 and 5 was seen to
 * load (tests/reference/check_peft.py), and it reads back bit for bit. */
#include "lora/format_peft.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "kernels/core/file.h"
#include "kernels/format/safetensors.h"
#include "tests/formats/peft_fixture.h"

static void config_file_is_the_golden_text(void **state)
{
    (void)state;
    static const char golden[] = "{\n"
                                 "  \"alpha_pattern\": {\n"
                                 "    \"feed_forward.experts.gate_up_proj\": 16\n"
                                 "  },\n"
                                 "  \"auto_mapping\": null,\n"
                                 "  \"base_model_name_or_path\": \"some/base\",\n"
                                 "  \"bias\": \"none\",\n"
                                 "  \"exclude_modules\": null,\n"
                                 "  \"fan_in_fan_out\": false,\n"
                                 "  \"inference_mode\": true,\n"
                                 "  \"init_lora_weights\": true,\n"
                                 "  \"layer_replication\": null,\n"
                                 "  \"layers_pattern\": null,\n"
                                 "  \"layers_to_transform\": null,\n"
                                 "  \"loftq_config\": {},\n"
                                 "  \"lora_alpha\": 8,\n"
                                 "  \"lora_bias\": false,\n"
                                 "  \"lora_dropout\": 0.0,\n"
                                 "  \"megatron_config\": null,\n"
                                 "  \"megatron_core\": \"megatron.core\",\n"
                                 "  \"modules_to_save\": null,\n"
                                 "  \"peft_type\": \"LORA\",\n"
                                 "  \"r\": 4,\n"
                                 "  \"rank_pattern\": {\n"
                                 "    \"feed_forward.experts.gate_up_proj\": 8\n"
                                 "  },\n"
                                 "  \"revision\": null,\n"
                                 "  \"target_modules\": [\n"
                                 "    \"in_proj\",\n"
                                 "    \"x_proj\",\n"
                                 "    \"out_proj\",\n"
                                 "    \"gate_proj\",\n"
                                 "    \"up_proj\",\n"
                                 "    \"down_proj\",\n"
                                 "    \"q_proj\",\n"
                                 "    \"k_proj\",\n"
                                 "    \"v_proj\",\n"
                                 "    \"o_proj\"\n"
                                 "  ],\n"
                                 "  \"target_parameters\": [\n"
                                 "    \"feed_forward.experts.gate_up_proj\",\n"
                                 "    \"feed_forward.experts.down_proj\"\n"
                                 "  ],\n"
                                 "  \"task_type\": \"CAUSAL_LM\",\n"
                                 "  \"trainable_token_indices\": null,\n"
                                 "  \"use_dora\": false,\n"
                                 "  \"use_rslora\": false\n"
                                 "}";
    struct fixture f;
    open_fixture(&f, &(struct spec){ .dropout = 0.05 });
    struct err err = { 0 };
    assert_true(peft_write(f.dir, &f.adapter, &f.config, &f.facts, &err));
    char path[640], *text = NULL;
    size_t n = 0;
    path_in(f.dir, PEFT_CONFIG_NAME, path);
    assert_true(file_read(path, 1 << 20, &text, &n, &err));
    assert_string_equal(text, golden);
    free(text);
    close_fixture(&f);
}

/* One member of the config, compact. */
static char *member(const struct fixture *f, const char *key)
{
    char *text = peft_config_text(f->modules, f->n, f->choices, &f->config, &f->facts);
    assert_non_null(text);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    const json_t *value = json_object_get(root, key);
    char *out = value == NULL ? strdup("absent")
                              : json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY |
                                                      JSON_REAL_PRECISION(15));
    json_decref(root);
    free(text);
    return out;
}

static void expect_member(const struct fixture *f, const char *key, const char *expected)
{
    char *value = member(f, key);
    assert_non_null(value);
    assert_string_equal(value, expected == NULL ? "absent" : expected);
    free(value);
}

static void targets_and_patterns_are_spelled_exactly(void **state)
{
    (void)state;
    static const struct {
        struct spec spec;
        const char *targets, *parameters, *ranks, *alphas;
    } cases[] = {
        { { .list = { "in_proj", "embed_tokens", "lm_head" } },
          "[\"embed_tokens\",\"in_proj\",\"lm_head\"]",
          NULL,
          "{}",
          "{}" },
        /* dense MLPs but not the experts */
        { { .list = { "feed_forward.up_proj" } }, "[\"feed_forward.up_proj\"]", NULL, "{}", "{}" },
        /* experts but not the dense MLPs */
        { { .regex = ".*experts.*(gate|up)_proj" },
          "[\"experts.0.gate_proj\",\"experts.0.up_proj\",\"experts.1.gate_proj\",\"experts.1.up_"
          "proj\"]",
          "[\"" FUSED "\",\"" FUSED_DOWN "\"]",
          "{\"" FUSED "\":8}",
          "{\"" FUSED "\":16}" },
        { { .list = { "down_proj" } }, "[\"down_proj\"]", "[\"" FUSED_DOWN "\"]", "{}", "{}" },
        /* one layer: whole names, never layers_to_transform */
        { { .list = { "x_proj", "gate_proj", "up_proj" }, .layer = 3 },
          "[\"model.layers.3.mamba.x_proj\","
          "\"model.layers.3.feed_forward.experts.0.gate_proj\",\"model.layers.3.feed_forward."
          "experts.0.up_proj\","
          "\"model.layers.3.feed_forward.experts.1.gate_proj\",\"model.layers.3.feed_forward."
          "experts.1.up_proj\"]",
          "[\"model.layers.3." FUSED "\",\"model.layers.3." FUSED_DOWN "\"]",
          "{\"model.layers.3." FUSED "\":8}",
          "{\"model.layers.3." FUSED "\":16}" },
        /* a rank for a kind: one key; for some of a kind: whole names; for experts: one key a layer
         */
        { { .list = { "in_proj", "x_proj", "q_proj" },
            .ranks = { { "in_proj", 2 }, { "layers.1.mamba.x_proj", 3 } },
            .alphas = { { "q_proj", 1.5 } } },
          "[\"in_proj\",\"x_proj\",\"q_proj\"]",
          NULL,
          "{\"in_proj\":2,\"model.layers.1.mamba.x_proj\":3}",
          "{\"q_proj\":1.5}" },
        { { .list = { "gate_proj", "up_proj", "down_proj" },
            .ranks = { { "layers.1.*", 2 }, { "layers.0.*down_proj", 5 } },
            .alphas = { { "experts.*down_proj", 0.1 } } },
          "[\"gate_proj\",\"up_proj\",\"down_proj\"]",
          "[\"model.layers.1." FUSED "\",\"model.layers.1." FUSED_DOWN "\",\"model.layers.3." FUSED
          "\",\"model.layers.3." FUSED_DOWN "\"]",
          "{\"layers\\\\.1\\\\.feed_forward\\\\.experts\\\\.\\\\d+\\\\.down_proj\":2,"
          "\"layers\\\\.1\\\\.feed_forward\\\\.experts\\\\.\\\\d+\\\\.gate_proj\":2,"
          "\"layers\\\\.1\\\\.feed_forward\\\\.experts\\\\.\\\\d+\\\\.up_proj\":2,"
          "\"model.layers.0.feed_forward.down_proj\":5,"
          "\"model.layers.1." FUSED_DOWN "\":2,\"model.layers.1." FUSED
          "\":4,\"model.layers.3." FUSED "\":8}",
          "{\"experts\\\\.\\\\d+\\\\.down_proj\":0.1,\"model.layers.1." FUSED_DOWN "\":0.1,"
          "\"model.layers.1." FUSED "\":16,\"model.layers.3." FUSED_DOWN
          "\":0.1,\"model.layers.3." FUSED "\":16}" },
        { { .list = { "gate_proj", "up_proj", "down_proj" },
            .ranks = { { "(gate|up|down)_proj", 2 } } },
          "[\"gate_proj\",\"up_proj\",\"down_proj\"]",
          "[\"" FUSED "\",\"" FUSED_DOWN "\"]",
          "{\"experts\\\\.\\\\d+\\\\.down_proj\":2,\"experts\\\\.\\\\d+\\\\.gate_proj\":2,"
          "\"experts\\\\.\\\\d+\\\\.up_proj\":2,\"feed_forward.down_proj\":2,\"" FUSED_DOWN
          "\":2,\"" FUSED "\":4,\"feed_forward.gate_proj\":2,\"feed_forward.up_proj\":2}",
          "{\"" FUSED "\":16}" },
        /* what transformers 5 does not take: no entries for it */
        { { .list = { "gate_proj" } }, "[\"gate_proj\"]", NULL, "{}", "{}" },
        { { .list = { "gate_proj", "up_proj" }, .rslora = true },
          "[\"gate_proj\",\"up_proj\"]",
          NULL,
          "{}",
          "{}" },
        { { .list = { "experts.1.up_proj", "experts.1.gate_proj" } },
          "[\"experts.1.gate_proj\",\"experts.1.up_proj\"]",
          NULL,
          "{}",
          "{}" },
        { { .list = { "gate_proj", "up_proj" }, .ranks = { { "experts.1.*", 2 } } },
          "[\"gate_proj\",\"up_proj\"]",
          NULL,
          "{\"model.layers.1.feed_forward.experts.1.gate_proj\":2,"
          "\"model.layers.1.feed_forward.experts.1.up_proj\":2,"
          "\"model.layers.3.feed_forward.experts.1.gate_proj\":2,"
          "\"model.layers.3.feed_forward.experts.1.up_proj\":2}",
          "{}" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        open_fixture(&f, &cases[i].spec);
        expect_member(&f, "target_modules", cases[i].targets);
        expect_member(&f, "target_parameters", cases[i].parameters);
        expect_member(&f, "rank_pattern", cases[i].ranks);
        expect_member(&f, "alpha_pattern", cases[i].alphas);
        close_fixture(&f);
    }
}

static void dropout_is_kept_unless_experts_are_fused(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, &(struct spec){ .list = { "in_proj" }, .dropout = 0.05 });
    expect_member(&f, "lora_dropout", "0.05");
    close_fixture(&f);
    open_fixture(&f, &(struct spec){ .list = { "down_proj" }, .dropout = 0.05 });
    expect_member(&f, "lora_dropout", "0.0");
    close_fixture(&f);
}

static void tensors_have_pefts_names_and_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t dims[2];
    } expected[] = {
        { "base_model.model.lm_head.lora_A.weight", { 4, 8 } },
        { "base_model.model.lm_head.lora_B.weight", { 11, 4 } },
        { "base_model.model.model.embed_tokens.lora_embedding_A", { 4, 11 } },
        { "base_model.model.model.embed_tokens.lora_embedding_B", { 8, 4 } },
        { "base_model.model.model.layers.1.feed_forward.experts.1.down_proj.lora_A.weight",
          { 4, 12 } },
        { "base_model.model.model.layers.1.feed_forward.experts.1.down_proj.lora_B.weight",
          { 8, 4 } },
        { "base_model.model.model.layers.2.self_attn.k_proj.lora_A.weight", { 2, 8 } },
        { "base_model.model.model.layers.2.self_attn.k_proj.lora_B.weight", { 4, 2 } },
    };
    const int64_t n_expected = sizeof expected / sizeof *expected;
    struct fixture f;
    open_fixture(
        &f, &(struct spec){ .list = { "k_proj", "model.layers.1.feed_forward.experts.1.down_proj",
                                      "embed_tokens", "lm_head" },
                            .ranks = { { "k_proj", 2 } } });
    struct err err = { 0 };
    struct safetensors st = { 0 };
    char path[640];
    assert_true(peft_write(f.dir, &f.adapter, &f.config, &f.facts, &err));
    path_in(f.dir, PEFT_TENSORS_NAME, path);
    assert_true(safetensors_open(path, &st, &err));
    assert_int_equal(st.n_tensor, n_expected);
    for (int64_t i = 0; i < n_expected; i++) {
        assert_string_equal(st.tensors[i].name, expected[i].name);
        assert_int_equal(st.tensors[i].dtype, DTYPE_F32);
        assert_int_equal(st.tensors[i].n_dim, 2);
        assert_memory_equal(st.tensors[i].dims, expected[i].dims, sizeof expected[i].dims);
    }
    const struct lora_slot *head = lora_adapter_slot(&f.adapter, f.n - 1);
    float first = 0;
    memcpy(&first, safetensors_find(&st, expected[1].name)->data, sizeof first);
    assert_true((real)first == head->b[0]);
    safetensors_close(&st);
    close_fixture(&f);
}

static void writing_into_a_file_is_an_error(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, &(struct spec){ .list = { "q_proj" } });
    struct err err = { 0 };
    char path[640], expected[800];
    path_in(f.dir, PEFT_CONFIG_NAME, path);
    assert_true(file_write(path, "x", 1, &err));
    assert_false(peft_write(path, &f.adapter, &f.config, &f.facts, &err));
    snprintf(expected, sizeof expected, "%s: cannot be created: File exists", path);
    assert_string_equal(err.text, expected);
    assert_int_equal(err.code, ERR_CANT_CREATE);
    close_fixture(&f);
}

static void warnings_name_what_others_do_not_honour(void **state)
{
    (void)state;
    static const struct {
        struct spec spec;
        const char *text;
    } cases[] = {
        { { .list = { "in_proj" } }, NULL },
        { { .list = { NULL } }, NULL },
        { { .list = { "embed_tokens", "lm_head" } }, NULL },
        { { .list = { "router", "dt_proj" } },
          "router: transformers 5 refuses to load an adapter with a router target; `jambatune "
          "export "
          "--to peft --engine transformers5` names it as a parameter; transformers 4, vLLM and "
          "llama.cpp honour it\n"
          "dt_proj: transformers from 5.15 on ignores an adapter on dt_proj silently; `jambatune "
          "export --to merged`, or train without it; transformers 4, vLLM and llama.cpp honour "
          "it\n" },
        { { .list = { "gate_proj", "up_proj", "down_proj" }, .rslora = true },
          "experts with rsLoRA: transformers 5 drops the experts' adapters silently; `jambatune "
          "export --to peft --engine transformers5` folds the scale; transformers 4 honours it\n"
          "experts with rsLoRA: vLLM scales experts by alpha / r whatever use_rslora says; "
          "`jambatune export --to peft --engine vllm` folds the scale\n" },
        { { .list = { "gate_proj", "up_proj", "down_proj" },
            .ranks = { { "layers.3.*experts.1.up_proj", 2 } } },
          "experts of layer 3: transformers 5 cannot load this adapter, because it needs gate_proj "
          "and up_proj of all experts of a layer with one rank and alpha, and down_proj of all or "
          "none; `jambatune export --to peft --engine transformers5` makes them alike; "
          "transformers "
          "4 honours it\n"
          "ranks or alphas that differ between modules: vLLM ignores rank_pattern and "
          "alpha_pattern and scales every module by lora_alpha and r; `jambatune export --to peft "
          "--engine vllm` folds them into one\n" },
        { { .list = { "gate_proj", "up_proj" } },
          "experts of layer 1, 3: vLLM refuses an adapter on some of a layer's experts or on some "
          "of gate_proj, up_proj and down_proj; `jambatune export --to peft --engine vllm` fills "
          "in "
          "pairs that add nothing\n" },
        { { .list = { "embed_tokens", "lm_head" }, .tied = true },
          "embed_tokens of a tied model: the head keeps the base's matrix and is not adapted with "
          "it, and llama.cpp aborts on such an adapter; `jambatune export --to merged`, or train "
          "without it\n"
          "lm_head of a tied model: the embedding keeps the base's matrix and is not adapted with "
          "it, and llama.cpp, which has no head of its own there, refuses such an adapter; "
          "`jambatune export --to merged`, or train without it\n" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct text out = { 0 };
        open_fixture(&f, &cases[i].spec);
        peft_warnings(f.modules, f.n, f.choices, &f.config, &f.facts, &out);
        if (cases[i].text == NULL)
            assert_null(out.data);
        else
            assert_string_equal(out.data, cases[i].text);
        text_free(&out);
        close_fixture(&f);
    }
}

/* For transformers 5, where a router is no linear. */
static void routers_can_be_named_as_parameters(void **state)
{
    (void)state;
    static const struct {
        struct spec spec;
        const char *targets, *parameters, *ranks, *alphas;
    } cases[] = {
        { { .list = { "router", "q_proj" } },
          "[\"q_proj\"]",
          "[\"feed_forward.router.weight\"]",
          "{}",
          "{}" },
        { { .list = { "router", "q_proj" }, .layer = 3 },
          "[]",
          "[\"model.layers.3.feed_forward.router.weight\"]",
          "{}",
          "{}" },
        { { .list = { "router", "gate_proj", "up_proj" },
            .ranks = { { "router", 2 } },
            .alphas = { { "layers.1.*router", 3 } } },
          "[\"gate_proj\",\"up_proj\"]",
          "[\"" FUSED "\",\"" FUSED_DOWN "\",\"feed_forward.router.weight\"]",
          "{\"" FUSED "\":8,\"router.weight\":2}",
          "{\"" FUSED "\":16,\"model.layers.1.feed_forward.router.weight\":3}" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct err err = { 0 };
        struct lora_config config = { 0 };
        open_fixture(&f, &cases[i].spec);
        f.facts.router_parameter = true;
        f.config.dropout = 0.25; /* PEFT takes none on a parameter */
        expect_member(&f, "target_modules", cases[i].targets);
        expect_member(&f, "target_parameters", cases[i].parameters);
        expect_member(&f, "rank_pattern", cases[i].ranks);
        expect_member(&f, "alpha_pattern", cases[i].alphas);
        expect_member(&f, "lora_dropout", "0.0");
        assert_true(peft_write(f.dir, &f.adapter, &f.config, &f.facts, &err));
        struct lora_choice *choices = calloc((size_t)f.n, sizeof *choices);
        assert_non_null(choices);
        if (!peft_read_config(f.dir, &config, &err) ||
            !peft_choices_from_tensors(f.dir, f.modules, f.n, &config, choices, &err))
            fail_msg("%s", err.text);
        assert_memory_equal(choices, f.choices, (size_t)f.n * sizeof *choices);
        free(choices);
        lora_config_free(&config);
        close_fixture(&f);
    }
}

static void what_is_written_reads_back_bit_for_bit(void **state)
{
    (void)state;
    static const struct spec specs[] = {
        { .all_linear = true },
        { .regex = ".*", .rslora = true, .alphas = { { "experts.*", 0.3 } } },
        { .list = { "gate_proj", "up_proj", "down_proj", "lm_head" },
          .ranks = { { "layers.1.*", 2 }, { "experts.0.down_proj", 7 }, { "lm_head", 1 } } },
        { .list = { "gate_proj", "up_proj", "embed_tokens" }, .layer = 1 },
        { .list = { "embed_tokens" } },
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct fixture f;
        struct err err = { 0 };
        struct lora_config config = { 0 };
        struct lora_adapter adapter = { 0 };
        struct arena arena;
        open_fixture(&f, &specs[i]);
        struct lora_choice *choices = calloc((size_t)f.n, sizeof *choices);
        assert_non_null(choices);
        if (!peft_write(f.dir, &f.adapter, &f.config, &f.facts, &err) ||
            !peft_read_config(f.dir, &config, &err) ||
            !peft_choices_from_tensors(f.dir, f.modules, f.n, &config, choices, &err))
            fail_msg("%s", err.text);
        for (int64_t k = 0; k < f.n; k++) {
            assert_int_equal(choices[k].on, f.choices[k].on);
            assert_int_equal(choices[k].r, f.choices[k].r);
            assert_true(choices[k].alpha == f.choices[k].alpha &&
                        choices[k].scale == f.choices[k].scale);
        }
        open_adapter(&adapter, &arena, &f, choices);
        if (!peft_read_tensors(f.dir, &adapter, &err))
            fail_msg("%s", err.text);
        assert_int_equal(adapter.n_param, f.adapter.n_param);
        assert_memory_equal(adapter.params, f.adapter.params,
                            (size_t)adapter.n_param * sizeof(real));
        /* The entries for fused experts are gone again, and the targets say what was adapted. */
        for (int64_t k = 0; k < config.n_rank_pattern; k++)
            assert_null(strstr(config.rank_pattern[k].key, "experts.gate_up"));
        if (specs[i].layer == 0) {
            assert_true(lora_choose(&config, f.modules, f.n, choices, &err));
            for (int64_t k = 0; k < f.n; k++)
                assert_true(choices[k].on == f.choices[k].on && choices[k].r == f.choices[k].r);
        }
        lora_adapter_free(&adapter);
        arena_free(&arena);
        lora_config_free(&config);
        free(choices);
        close_fixture(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_file_is_the_golden_text),
        cmocka_unit_test(targets_and_patterns_are_spelled_exactly),
        cmocka_unit_test(dropout_is_kept_unless_experts_are_fused),
        cmocka_unit_test(tensors_have_pefts_names_and_shapes),
        cmocka_unit_test(writing_into_a_file_is_an_error),
        cmocka_unit_test(warnings_name_what_others_do_not_honour),
        cmocka_unit_test(routers_can_be_named_as_parameters),
        cmocka_unit_test(what_is_written_reads_back_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
