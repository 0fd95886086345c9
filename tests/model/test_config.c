/* config.json: Hugging Face's defaults, strict types, and a refusal by name of what would be
 * computed wrongly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "finetune/model/config.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int make_folder(void **state)
{
    *state = tiny_scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    tiny_scratch_remove(*state);
    return 0;
}

static bool read_text(const char *folder, const char *json, size_t n, struct jamba_config *config,
                      struct err *err)
{
    tiny_file_write(folder, "config.json", json, n);
    char *path = file_join(folder, "config.json");
    const bool ok = jamba_config_read(path, config, err);
    free(path);
    return ok;
}

/* {"model_type": "jamba", MEMBERS}. */
static struct jamba_config read_members(const char *folder, const char *members)
{
    struct jamba_config config = { 0 };
    struct err err = { 0 };
    char json[4096];
    const int n = snprintf(json, sizeof json, "{\"model_type\": \"jamba\"%s%s}",
                           members[0] != '\0' ? ", " : "", members);
    if (!read_text(folder, json, (size_t)n, &config, &err))
        fail_msg("%s: %s", members, err.text);
    return config;
}

static void missing_fields_have_hugging_face_defaults(void **state)
{
    const struct jamba_config c = read_members(*state, "");
    assert_int_equal(c.vocab_size, 65536);
    assert_int_equal(c.hidden_size, 4096);
    assert_int_equal(c.intermediate_size, 14336);
    assert_int_equal(c.num_hidden_layers, 32);
    assert_int_equal(c.num_attention_heads, 32);
    assert_int_equal(c.num_key_value_heads, 8);
    assert_int_equal(c.num_experts, 16);
    assert_int_equal(c.num_experts_per_tok, 2);
    assert_int_equal(c.expert_layer_period, 2);
    assert_int_equal(c.expert_layer_offset, 1);
    assert_int_equal(c.attn_layer_period, 8);
    assert_int_equal(c.attn_layer_offset, 4);
    assert_int_equal(c.mamba_d_state, 16);
    assert_int_equal(c.mamba_d_conv, 4);
    assert_int_equal(c.mamba_expand, 2);
    assert_int_equal(c.mamba_dt_rank, 256);
    assert_true(c.rms_norm_eps == 1e-6 && c.initializer_range == 0.02);
    assert_true(c.router_aux_loss_coef == 0.001 && c.attention_dropout == 0);
    assert_false(c.tie_word_embeddings);
    assert_true(c.mamba_conv_bias);
    assert_false(c.mamba_proj_bias);
    assert_int_equal(c.pad_token_id, 0);
    assert_int_equal(c.bos_token_id, 1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_token_id[0], 2);
    assert_int_equal(c.dtype, DTYPE_F32);
    assert_int_equal(c.d_inner, 8192);
    assert_int_equal(c.d_head, 128);
}

static void parameter_counts_are_the_published_ones(void **state)
{
    static const struct {
        const char *members;
        int64_t count;
    } cases[] = {
        { "", 51570323328 }, /* Jamba-v0.1 and the Minis */
        { "\"hidden_size\": 8192, \"intermediate_size\": 24576, \"num_hidden_layers\": 72, "
          "\"num_attention_heads\": 64, \"mamba_dt_rank\": 512",
          398555145696 }, /* the Larges */
        { "\"hidden_size\": 128, \"intermediate_size\": 14336, \"num_hidden_layers\": 8, "
          "\"attn_layer_period\": 4, "
          "\"attn_layer_offset\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
          "\"num_experts\": 4",
          127679344 }, /* Jamba-tiny-random */
        { "\"hidden_size\": 2560, \"intermediate_size\": 8192, \"num_hidden_layers\": 28, "
          "\"attn_layer_period\": 14, "
          "\"attn_layer_offset\": 7, \"num_attention_heads\": 20, \"num_key_value_heads\": 1, "
          "\"num_experts\": 1, "
          "\"tie_word_embeddings\": true",
          3029337472 }, /* Jamba-Reasoning-3B */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct jamba_config c = read_members(*state, cases[i].members);
        assert_int_equal(jamba_param_count(&c), cases[i].count);
    }
}

static void layer_kinds_follow_period_and_offset(void **state)
{
    const struct jamba_config c =
        read_members(*state, "\"num_hidden_layers\": 8, \"attn_layer_period\": 3, "
                             "\"attn_layer_offset\": 2, \"expert_layer_offset\": 0");
    static const char kinds[] = "mmAmmAmm", experts[] = "EdEdEdEd";
    for (int64_t l = 0; l < 8; l++) {
        assert_int_equal(jamba_is_attention(&c, l), kinds[l] == 'A');
        assert_int_equal(jamba_is_moe(&c, l), experts[l] == 'E');
    }
    const struct jamba_config dense = read_members(*state, "\"num_experts\": 1");
    for (int64_t l = 0; l < 8; l++)
        assert_false(jamba_is_moe(&dense, l));
}

static void null_kv_heads_means_as_many_as_heads(void **state)
{
    assert_int_equal(read_members(*state, "\"num_key_value_heads\": null").num_key_value_heads, 32);
}

static void dense_model_ignores_experts_per_token(void **state)
{
    const struct jamba_config c =
        read_members(*state, "\"num_experts\": 1, \"num_experts_per_tok\": 9");
    assert_int_equal(c.num_experts_per_tok, 1);
    assert_int_equal(
        read_members(*state, "\"num_experts\": 1, \"num_experts_per_tok\": null").num_experts, 1);
}

static void dt_rank_auto_rounds_up(void **state)
{
    static const char members[] =
        "\"hidden_size\": 40, \"num_attention_heads\": 8, \"mamba_dt_rank\": \"auto\"";
    assert_int_equal(read_members(*state, members).mamba_dt_rank, 3);
    assert_int_equal(read_members(*state, "\"mamba_dt_rank\": 7").mamba_dt_rank, 7);
}

static void any_conv_width_and_expansion_is_read(void **state)
{
    const struct jamba_config c = read_members(*state, "\"mamba_d_conv\": 1, \"mamba_expand\": 3");
    assert_int_equal(c.mamba_d_conv, 1);
    assert_int_equal(c.d_inner, 3 * 4096);
}

static void end_ids_may_be_one_several_or_none(void **state)
{
    struct jamba_config c = read_members(*state, "\"eos_token_id\": [2, 518]");
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_token_id[1], 518);
    c = read_members(*state, "\"eos_token_id\": 519");
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_token_id[0], 519);
    c = read_members(*state,
                     "\"eos_token_id\": null, \"bos_token_id\": null, \"pad_token_id\": null");
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.pad_token_id, -1);
    c = read_members(*state, "\"vocab_size\": 2"); /* a default id past a tiny vocabulary is none */
    assert_int_equal(c.bos_token_id, 1);
    assert_int_equal(c.n_eos, 0);
}

static void dtype_is_read_under_both_names(void **state)
{
    assert_int_equal(read_members(*state, "\"torch_dtype\": \"bfloat16\"").dtype, DTYPE_BF16);
    assert_int_equal(
        read_members(*state, "\"dtype\": \"float16\", \"torch_dtype\": \"float32\"").dtype,
        DTYPE_F16);
    assert_int_equal(read_members(*state, "\"dtype\": null, \"torch_dtype\": \"float32\"").dtype,
                     DTYPE_F32);
}

static void harmless_fields_are_ignored(void **state)
{
    read_members(
        *state,
        "\"sliding_window\": null, \"quantization_config\": null, \"mamba_inner_layernorms\": "
        "true, "
        "\"use_mamba_kernels\": true, \"max_position_embeddings\": 1, \"n_ctx\": [], "
        "\"transformers_version\": \"4.57.6\", \"head_dim\": 128, \"num_local_experts\": 16");
    assert_int_equal(read_members(*state, "\"num_local_experts\": 4").num_experts, 4);
    assert_int_equal(
        read_members(
            *state, "\"num_hidden_layers\": 3, \"attn_layer_period\": 3, \"attn_layer_offset\": 1, "
                    "\"layer_types\": [\"mamba\", \"full_attention\", \"mamba\"]")
            .num_hidden_layers,
        3);
}

static void config_that_would_be_computed_wrongly_is_refused(void **state)
{
    static const struct {
        const char *members, *expected;
    } cases[] = {
        /* another computation */
        { "\"sliding_window\": 4096", "\"sliding_window\" is an integer; attention over a window "
                                      "is not supported; expected null" },
        { "\"quantization_config\": {\"bits\": 4}",
          "\"quantization_config\" is an object; quantized checkpoints are not supported; use the "
          "unquantized one" },
        { "\"mamba_inner_layernorms\": false",
          "\"mamba_inner_layernorms\" is false; only Jambas with dt, B and C norms are supported" },
        { "\"hidden_act\": \"gelu\"", "\"hidden_act\" is \"gelu\"; only \"silu\" is supported" },
        { "\"num_experts_per_tok\": 17",
          "\"num_experts_per_tok\" is 17; expected at most \"num_experts\", 16" },
        { "\"num_local_experts\": 4, \"num_experts\": 8",
          "\"num_experts\" is 8, but \"num_local_experts\" is 4" },
        { "\"head_dim\": 64",
          "\"head_dim\" is 64; expected \"hidden_size\" / \"num_attention_heads\", 128" },
        { "\"num_hidden_layers\": 2, \"layer_types\": [\"mamba\"]",
          "\"layer_types\" is not a list of \"num_hidden_layers\", 2, kinds" },
        { "\"num_hidden_layers\": 2, \"layer_types\": [\"mamba\", \"full_attention\"]",
          "\"layer_types\"[1] is \"full_attention\"; \"attn_layer_period\" and "
          "\"attn_layer_offset\" make it \"mamba\"" },
        { "\"num_hidden_layers\": 2, \"layers_block_type\": [\"mamba\", 3]",
          "\"layers_block_type\"[1] is \"(no string)\"; \"attn_layer_period\" and "
          "\"attn_layer_offset\" make it "
          "\"mamba\"" },
        /* relations */
        { "\"attn_layer_offset\": 8",
          "\"attn_layer_offset\" is 8; expected less than \"attn_layer_period\", 8" },
        { "\"expert_layer_offset\": 2",
          "\"expert_layer_offset\" is 2; expected less than \"expert_layer_period\", 2" },
        { "\"hidden_size\": 100",
          "\"hidden_size\" is 100; expected a multiple of \"num_attention_heads\", 32" },
        { "\"num_attention_heads\": 4",
          "\"num_attention_heads\" is 4; expected a multiple of \"num_key_value_heads\", 8" },
        /* ranges */
        { "\"vocab_size\": 0", "\"vocab_size\" is 0; expected 1 to 16777216" },
        { "\"vocab_size\": 9223372036854775807",
          "\"vocab_size\" is 9223372036854775807; expected 1 to 16777216" },
        { "\"hidden_size\": -1", "\"hidden_size\" is -1; expected 1 to 131072" },
        { "\"intermediate_size\": 1048577",
          "\"intermediate_size\" is 1048577; expected 1 to 1048576" },
        { "\"num_hidden_layers\": 1025", "\"num_hidden_layers\" is 1025; expected 1 to 1024" },
        { "\"num_attention_heads\": 0", "\"num_attention_heads\" is 0; expected 1 to 4096" },
        { "\"num_key_value_heads\": 0", "\"num_key_value_heads\" is 0; expected 1 to 4096" },
        { "\"num_experts\": 0", "\"num_experts\" is 0; expected 1 to 1024" },
        { "\"num_experts_per_tok\": 0", "\"num_experts_per_tok\" is 0; expected 1 to 1024" },
        { "\"attn_layer_period\": 0", "\"attn_layer_period\" is 0; expected 1 to 1048576" },
        { "\"expert_layer_period\": 0", "\"expert_layer_period\" is 0; expected 1 to 1048576" },
        { "\"attn_layer_offset\": -1", "\"attn_layer_offset\" is -1; expected 0 to 1048576" },
        { "\"mamba_d_state\": 257", "\"mamba_d_state\" is 257; expected 1 to 256" },
        { "\"mamba_d_conv\": 0", "\"mamba_d_conv\" is 0; expected 1 to 256" },
        { "\"mamba_expand\": 65", "\"mamba_expand\" is 65; expected 1 to 64" },
        { "\"mamba_dt_rank\": 0", "\"mamba_dt_rank\" is 0; expected 1 to 131072" },
        { "\"rms_norm_eps\": -1e-6", "\"rms_norm_eps\" is -1e-06; expected 0 to 1" },
        { "\"initializer_range\": 1e9", "\"initializer_range\" is 1e+09; expected 0 to 1000" },
        { "\"attention_dropout\": 1.5", "\"attention_dropout\" is 1.5; expected 0 to 1" },
        /* types */
        { "\"hidden_size\": \"4096\"", "\"hidden_size\" is a string; expected an integer" },
        { "\"hidden_size\": 4096.0", "\"hidden_size\" is a number; expected an integer" },
        { "\"hidden_size\": null", "\"hidden_size\" is null; expected an integer" },
        { "\"num_hidden_layers\": true",
          "\"num_hidden_layers\" is true or false; expected an integer" },
        { "\"num_key_value_heads\": []", "\"num_key_value_heads\" is a list; expected an integer" },
        { "\"num_experts_per_tok\": null", "\"num_experts_per_tok\" is null; expected an integer" },
        { "\"mamba_dt_rank\": \"big\"",
          "\"mamba_dt_rank\" is another string; expected an integer or \"auto\"" },
        { "\"mamba_dt_rank\": 1.5",
          "\"mamba_dt_rank\" is a number; expected an integer or \"auto\"" },
        { "\"rms_norm_eps\": \"1e-6\"", "\"rms_norm_eps\" is a string; expected a number" },
        { "\"tie_word_embeddings\": 1",
          "\"tie_word_embeddings\" is an integer; expected true or false" },
        { "\"mamba_conv_bias\": null", "\"mamba_conv_bias\" is null; expected true or false" },
        { "\"hidden_act\": 1", "\"hidden_act\" is an integer; expected a string" },
        { "\"dtype\": \"int8\"",
          "\"dtype\" is \"int8\"; expected \"float32\", \"bfloat16\" or \"float16\"" },
        { "\"torch_dtype\": 16", "\"torch_dtype\" is an integer; expected a string" },
        /* ids */
        { "\"pad_token_id\": 65536",
          "\"pad_token_id\" is 65536; expected an id below \"vocab_size\", 65536" },
        { "\"bos_token_id\": -1",
          "\"bos_token_id\" is -1; expected an id below \"vocab_size\", 65536" },
        { "\"eos_token_id\": \"</s>\"", "\"eos_token_id\" is a string; expected a token id" },
        { "\"eos_token_id\": [2, true]", "\"eos_token_id\" is true or false; expected a token id" },
        { "\"eos_token_id\": [2, 65536]",
          "\"eos_token_id\" is 65536; expected an id below \"vocab_size\", 65536" },
        { "\"eos_token_id\": []", "\"eos_token_id\" has 0 ids; expected 1 to 16" },
        { "\"eos_token_id\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
          "\"eos_token_id\" has 17 ids; expected 1 to 16" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct jamba_config config = { 0 };
        struct err err = { 0 };
        char json[1024], expected[ERR_TEXT_SIZE], text[ERR_TEXT_SIZE];
        const int n =
            snprintf(json, sizeof json, "{\"model_type\": \"jamba\", %s}", cases[i].members);
        if (read_text(*state, json, (size_t)n, &config, &err))
            fail_msg("accepted: %s", cases[i].members);
        snprintf(expected, sizeof expected, "DIR/config.json: %s", cases[i].expected);
        tiny_message(text, &err, *state);
        assert_string_equal(text, expected);
        assert_int_equal(err.code, ERR_DATA);
    }
}

static void malformed_file_is_refused_with_the_reason(void **state)
{
    static const struct {
        const char *json;
        const char *expected;
    } cases[] = {
        { "", "not valid JSON: column 0: unexpected token near end of file" },
        { "[]", "is a list; expected an object" },
        { "{}", "\"model_type\" is missing" },
        { "{\"model_type\": null}", "\"model_type\" is missing" },
        { "{\"model_type\": \"mamba\"}",
          "\"model_type\" is \"mamba\"; only \"jamba\" is supported" },
        { "{\"model_type\": 1}", "\"model_type\" is an integer; expected a string" },
        { "{\"model_type\": \"jamba\",\n \"vocab_size\": 1,\n \"vocab_size\": 2}",
          "not valid JSON: line 3, column 13: duplicate object key near '\"vocab_size\"'" },
        { "{\"model_type\": \"jamba\"",
          "not valid JSON: column 22: '}' expected near end of file" },
        { "{\"model_type\": \"jamba\"} {}",
          "not valid JSON: column 25: end of file expected near '{'" },
        { "{\"model_type\": \"jam\xFF\"}",
          "not valid JSON: column 19: unable to decode byte 0xff near '\"jam'" },
        { "{\"model_type\": \"jamba\", \"rms_norm_eps\": 1e999}",
          "not valid JSON: column 45: real number overflow near '1e999'" },
        { "{\"model_type\": \"jamba\", \"rms_norm_eps\": NaN}",
          "not valid JSON: column 43: invalid token near 'NaN'" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct jamba_config config = { 0 };
        struct err err = { 0 };
        char expected[ERR_TEXT_SIZE], text[ERR_TEXT_SIZE];
        assert_false(read_text(*state, cases[i].json, strlen(cases[i].json), &config, &err));
        snprintf(expected, sizeof expected, "DIR/config.json: %s", cases[i].expected);
        tiny_message(text, &err, *state);
        assert_string_equal(text, expected);
    }
}

static void deep_or_huge_file_is_refused(void **state)
{
    struct jamba_config config = { 0 };
    struct err err = { 0 };
    char text[ERR_TEXT_SIZE];
    struct text t = { 0 };
    text_puts(&t, "{\"a\":");
    for (int i = 0; i < 5000; i++)
        text_puts(&t, "[");
    assert_false(read_text(*state, t.data, t.len, &config, &err));
    tiny_message(text, &err, *state);
    assert_string_equal(
        text,
        "DIR/config.json: not valid JSON: column 2053: maximum parsing depth reached near '['");
    while (t.len <= 1 << 20)
        text_puts(&t, "                                                                ");
    assert_false(read_text(*state, t.data, t.len, &config, &err));
    tiny_message(text, &err, *state);
    char expected[ERR_TEXT_SIZE];
    snprintf(expected, sizeof expected,
             "DIR/config.json: has %zu bytes; at most 1048576 are expected", t.len);
    assert_string_equal(text, expected);
    text_free(&t);
}

static void byte_order_mark_and_carriage_returns_are_tolerated(void **state)
{
    static const char json[] =
        "\xEF\xBB\xBF{\r\n \"model_type\": \"jamba\",\r\n \"vocab_size\": 99\r\n}\r\n";
    struct jamba_config config = { 0 };
    struct err err = { 0 };
    assert_true(read_text(*state, json, sizeof json - 1, &config, &err));
    assert_int_equal(config.vocab_size, 99);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_fields_have_hugging_face_defaults),
        cmocka_unit_test(parameter_counts_are_the_published_ones),
        cmocka_unit_test(layer_kinds_follow_period_and_offset),
        cmocka_unit_test(null_kv_heads_means_as_many_as_heads),
        cmocka_unit_test(dense_model_ignores_experts_per_token),
        cmocka_unit_test(dt_rank_auto_rounds_up),
        cmocka_unit_test(any_conv_width_and_expansion_is_read),
        cmocka_unit_test(end_ids_may_be_one_several_or_none),
        cmocka_unit_test(dtype_is_read_under_both_names),
        cmocka_unit_test(harmless_fields_are_ignored),
        cmocka_unit_test(config_that_would_be_computed_wrongly_is_refused),
        cmocka_unit_test(malformed_file_is_refused_with_the_reason),
        cmocka_unit_test(deep_or_huge_file_is_refused),
        cmocka_unit_test(byte_order_mark_and_carriage_returns_are_tolerated),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
