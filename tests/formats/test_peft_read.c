/* Reading PEFT's adapter folder: what cannot be continued is refused by name. */
#include "lora/format_peft.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "kernels/format/safetensors.h"
#include "tests/formats/peft_fixture.h"

static void expect_config_error(const char *dir, const char *text, const char *message)
{
    char path[640];
    struct err err = { 0 };
    struct lora_config config;
    path_in(dir, PEFT_CONFIG_NAME, path);
    assert_true(file_write(path, text, strlen(text), &err));
    if (peft_read_config(dir, &config, &err))
        fail_msg("accepted: %s", text);
    lora_config_free(&config);
    assert_int_equal(err.code, ERR_DATA);
    assert_true(text_starts_with(err.text, path));
    assert_string_equal(err.text + strlen(path), message);
}

#define LORA_WITH(entry) "{\"peft_type\": \"LORA\", " entry "}"
#define MERGE "; merge that adapter into the base first"
#define CONVERT "; convert the adapter to plain LoRA first"

static void config_that_cannot_be_continued_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "", ": not valid JSON: column 0: unexpected token near end of file" },
        { "{\"peft_type\": \"LO",
          ": not valid JSON: column 17: premature end of input near '\"LO'" },
        { "[]", ": is a list; expected an object" },
        { "{}", ": \"peft_type\" is missing" },
        { "{\"peft_type\": 1}", ": \"peft_type\" is an integer; expected a string" },
        { "{\"peft_type\": \"IA3\"}",
          ": \"peft_type\" is \"IA3\"; only \"LORA\" can be continued" },
        { LORA_WITH("\"r\": 8, \"r\": 8"),
          ": not valid JSON: column 33: duplicate object key near '\"r\"'" },
        { LORA_WITH("\"r\": 0"), ": \"r\" is 0; expected 1 to 1048576" },
        { LORA_WITH("\"r\": 8.5"), ": \"r\" is a number; expected an integer" },
        { LORA_WITH("\"r\": 99999999999"), ": \"r\" is 99999999999; expected 1 to 1048576" },
        { LORA_WITH("\"lora_alpha\": \"8\""), ": \"lora_alpha\" is a string; expected a number" },
        { LORA_WITH("\"lora_dropout\": 1"), ": \"lora_dropout\" is 1; expected 0 to below 1" },
        { LORA_WITH("\"use_rslora\": 1"),
          ": \"use_rslora\" is an integer; expected true or false" },
        { LORA_WITH("\"use_dora\": true"), ": \"use_dora\" is true: DoRA is not supported" MERGE },
        { LORA_WITH("\"modules_to_save\": [\"lm_head\"]"),
          ": \"modules_to_save\" is [\"lm_head\"]: fully trained modules are not supported" MERGE },
        { LORA_WITH("\"bias\": \"all\""),
          ": \"bias\" is \"all\": trained biases are not supported" MERGE },
        { LORA_WITH("\"lora_bias\": true"),
          ": \"lora_bias\" is true: a bias on lora_B is not supported" MERGE },
        { LORA_WITH("\"fan_in_fan_out\": true"),
          ": \"fan_in_fan_out\" is true: transposed weights do not occur in Jamba" },
        { LORA_WITH("\"layer_replication\": [[0, 2], [1, 4]]"),
          ": \"layer_replication\" is [[0,2],[1,4]]: repeated layers are not supported" },
        { LORA_WITH("\"trainable_token_indices\": [3]"),
          ": \"trainable_token_indices\" is [3]: trained token rows are not supported" MERGE },
        { LORA_WITH("\"ensure_weight_tying\": true"),
          ": \"ensure_weight_tying\" is true: tied adapters are not supported" MERGE },
        { LORA_WITH("\"loftq_config\": {\"loftq_bits\": 4}"),
          ": \"loftq_config\" is {\"loftq_bits\":4}: LoftQ changes the base" CONVERT },
        { LORA_WITH("\"init_lora_weights\": \"pissa_niter_4\""),
          ": \"init_lora_weights\" is \"pissa_niter_4\": this initialisation changes the "
          "base" CONVERT },
        { LORA_WITH("\"init_lora_weights\": \"olora\""),
          ": \"init_lora_weights\" is \"olora\": this initialisation changes the base" CONVERT },
        { LORA_WITH("\"task_type\": \"SEQ_CLS\""),
          ": \"task_type\" is \"SEQ_CLS\": only causal language models can be continued" },
        { LORA_WITH("\"layers_pattern\": \"blocks\""),
          ": \"layers_pattern\" is \"blocks\": Jamba's layers are in 'layers'" },
        { LORA_WITH("\"use_newlora\": {\"k\": 1}"),
          ": \"use_newlora\" is {\"k\":1}: this key is unknown here and may change what the "
          "adapter computes" },
        { LORA_WITH("\"target_modules\": 3"),
          ": \"target_modules\" is an integer; expected a list of names or a string" },
        { LORA_WITH("\"target_modules\": [\"q_proj\", null]"),
          ": \"target_modules\" has null in it; expected strings" },
        { LORA_WITH("\"exclude_modules\": [\"q\\u0000\"]"),
          ": \"exclude_modules\" has a string with a NUL character in it" },
        { LORA_WITH("\"layers_to_transform\": [\"1\"]"),
          ": \"layers_to_transform\" has a string in it; expected integers" },
        { LORA_WITH("\"layers_to_transform\": \"1\""),
          ": \"layers_to_transform\" is a string; expected an integer or a list of integers" },
        { LORA_WITH("\"rank_pattern\": []"), ": \"rank_pattern\" is a list; expected an object" },
        { LORA_WITH("\"rank_pattern\": {\"q_proj\": 0}"),
          ": \"rank_pattern\": \"q_proj\" is no integer from 1 to 1048576" },
        { LORA_WITH("\"alpha_pattern\": {\"q_proj\": true}"),
          ": \"alpha_pattern\": \"q_proj\" is true or false; expected a number" },
        { LORA_WITH("\"target_parameters\": \"x\""),
          ": \"target_parameters\" is a string; expected a list of names" },
        { LORA_WITH("\"target_parameters\": [\"mamba.A_log\"]"),
          ": \"target_parameters\" has \"mamba.A_log\"; only '" FUSED "', '" FUSED_DOWN
          "' and the '.weight' of a module that can be adapted are understood" },
    };
    char dir[512];
    open_dir(dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_config_error(dir, cases[i].text, cases[i].message);
    close_dir(dir);
}

static void config_of_peft_itself_is_read(void **state)
{
    (void)state;
    /* As peft 0.21 saves it, variants and all. */
    static const char text[] =
        "{\"alora_invocation_tokens\": null, \"alpha_pattern\": {\"z\": 1.5, \"a\": 2}, "
        "\"arrow_config\": null, "
        "\"auto_mapping\": null, \"base_model_name_or_path\": \"x\", \"bias\": \"none\", "
        "\"corda_config\": null, "
        "\"ensure_weight_tying\": false, \"eva_config\": null, \"exclude_modules\": \".*router\", "
        "\"fan_in_fan_out\": false, \"inference_mode\": true, \"init_lora_weights\": \"gaussian\", "
        "\"layer_replication\": null, \"layers_pattern\": [\"layers\"], \"layers_to_transform\": "
        "3, "
        "\"loftq_config\": {}, \"lora_alpha\": 32, \"lora_bias\": false, \"lora_dropout\": 0.05, "
        "\"megatron_config\": null, \"megatron_core\": \"megatron.core\", \"modules_to_save\": "
        "null, "
        "\"peft_type\": \"LORA\", \"peft_version\": \"0.21.2\", \"qalora_group_size\": 16, \"r\": "
        "16, "
        "\"rank_pattern\": {\"model.layers.3." FUSED "\": 32, \"q_proj\": 4}, \"revision\": null, "
        "\"target_modules\": [\"q_proj\", \"v_proj\"], \"target_parameters\": "
        "[\"model.layers.3." FUSED "\"], "
        "\"task_type\": \"CAUSAL_LM\", \"trainable_token_indices\": null, \"use_dora\": false, "
        "\"use_qalora\": false, \"use_rslora\": true}";
    char dir[512], path[640];
    struct err err = { 0 };
    struct lora_config c = { 0 };
    open_dir(dir);
    path_in(dir, PEFT_CONFIG_NAME, path);
    assert_true(file_write(path, text, strlen(text), &err));
    if (!peft_read_config(dir, &c, &err))
        fail_msg("%s", err.text);
    assert_int_equal(c.r, 16);
    assert_true(c.alpha == 32 && c.dropout == 0.05 && c.use_rslora && !c.all_linear);
    assert_int_equal(c.n_target, 2);
    assert_string_equal(c.target_modules[1], "v_proj");
    assert_string_equal(c.exclude_regex, ".*router");
    assert_int_equal(c.n_layer_to_transform, 1);
    assert_int_equal(c.layers_to_transform[0], 3);
    assert_int_equal(c.n_rank_pattern, 1);
    assert_string_equal(c.rank_pattern[0].key, "q_proj");
    assert_int_equal(c.n_alpha_pattern, 2);
    assert_string_equal(c.alpha_pattern[0].key, "z"); /* the file's order, which decides */
    lora_config_free(&c);
    static const char all_linear[] =
        LORA_WITH("\"target_modules\": \"All-Linear\", \"rank_pattern\": null");
    assert_true(file_write(path, all_linear, strlen(all_linear), &err));
    assert_true(peft_read_config(dir, &c, &err));
    assert_true(c.all_linear && c.r == 8 && c.alpha == 8 && c.dropout == 0);
    lora_config_free(&c);
    close_dir(dir);
}

#define Q "base_model.model.model.layers.2.self_attn.q_proj."

struct entry {
    const char *name;
    enum dtype dtype;
    int64_t rows, cols;
    double value;
};

/* Writes a file of those tensors (ended by a NULL name), each filled with its value, or its bits.
 */
static void write_entries(const char *dir, const struct entry *entries)
{
    struct safetensors_tensor tensors[8];
    static float values[8][256];
    int64_t n = 0;
    for (; entries[n].name != NULL; n++) {
        const struct entry *e = &entries[n];
        const int64_t count = e->rows * e->cols;
        assert_true(count <= 256 && n < 8);
        for (int64_t i = 0; i < count; i++) {
            const uint16_t bits = dtype_to_bf16((float)e->value);
            if (dtype_size(e->dtype) == 2)
                memcpy((char *)values[n] + 2 * i, &bits, 2);
            else
                values[n][i] = (float)e->value;
        }
        tensors[n] = (struct safetensors_tensor){ .name = e->name,
                                                  .dtype = e->dtype,
                                                  .n_dim = 2,
                                                  .dims = { e->rows, e->cols },
                                                  .data = values[n],
                                                  .bytes = (size_t)count * dtype_size(e->dtype) };
    }
    char path[640];
    struct err err = { 0 };
    path_in(dir, PEFT_TENSORS_NAME, path);
    if (!safetensors_write(path, tensors, n, &err))
        fail_msg("%s", err.text);
}

static void expect_error(const struct fixture *f, const struct err *err, const char *message)
{
    char path[640];
    path_in(f->dir, PEFT_TENSORS_NAME, path);
    assert_true(text_starts_with(err->text, path));
    assert_string_equal(err->text + strlen(path), message);
}

static void tensors_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    /* The adapter here is q_proj (8 to 8) at rank 4. `choices`: refused already when the modules
     * are chosen. */
    static const struct {
        struct entry entries[4];
        bool choices;
        const char *message;
    } cases[] = {
        { { { Q "lora_A.weight", DTYPE_F32, 4, 8, 1 } },
          true,
          ": tensor '" Q "lora_B.weight' is missing; '" Q "lora_A.weight' is there" },
        { { { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 } },
          true,
          ": tensor '" Q "lora_A.weight' is missing; '" Q "lora_B.weight' is there" },
        { { { Q "lora_A.weight", DTYPE_F32, 4, 7, 1 }, { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 } },
          true,
          ": tensor '" Q "lora_A.weight': shape (4, 7), expected (4, 8)" },
        { { { Q "lora_A.weight", DTYPE_F32, 4, 8, 1 }, { Q "lora_B.weight", DTYPE_F32, 8, 3, 1 } },
          true,
          ": tensor '" Q "lora_B.weight': shape (8, 3), expected (8, 4)" },
        { { { Q "lora_A.weight", DTYPE_F32, 2, 8, 1 }, { Q "lora_B.weight", DTYPE_F32, 8, 2, 1 } },
          true,
          ": tensor '" Q
          "lora_A.weight': has rank 2, but adapter_config.json gives 4; the scale of the adapter "
          "would be a guess" },
        { { { Q "lora_A.weight", DTYPE_F32, 4, 8, 1 },
            { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 },
            { Q "lora_magnitude_vector", DTYPE_F32, 8, 1, 1 } },
          true,
          ": tensor '" Q "lora_magnitude_vector': DoRA is not supported" MERGE },
        { { { "base_model.model.lm_head.weight", DTYPE_F32, 11, 8, 1 } },
          true,
          ": tensor 'base_model.model.lm_head.weight': is no LoRA tensor; expected "
          "'base_model.model.', a module's "
          "path and '.lora_A.weight' or '.lora_B.weight'" },
        { { { "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", DTYPE_F32, 4, 8,
              1 } },
          true,
          ": tensor 'base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight': this model "
          "has no such "
          "module; the nearest is 'model.layers.2.self_attn.q_proj'" },
        { { { "base_model.model.model.embed_tokens.base_layer.weight", DTYPE_F32, 11, 8, 1 } },
          true,
          ": has no LoRA tensors" },
        { { { Q "lora_A.weight", DTYPE_F32, 4, 8, HUGE_VAL },
            { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 } },
          false,
          ": tensor '" Q "lora_A.weight': value 0 is inf; expected finite numbers" },
        { { { Q "lora_A.weight", DTYPE_F32, 4, 8, 1 },
            { Q "lora_B.weight", DTYPE_BF16, 8, 4, HUGE_VAL } },
          false,
          ": tensor '" Q "lora_B.weight': value 0 is inf; expected finite numbers" },
        { { { Q "lora_A.weight", DTYPE_I32, 4, 8, 1 }, { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 } },
          false,
          ": tensor '" Q "lora_A.weight': has type I32; expected F32, BF16 or F16" },
        { { { Q "lora_A.weight", DTYPE_F32, 4, 8, 1 },
            { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 },
            { "base_model.model.lm_head.lora_A.weight", DTYPE_F32, 4, 8, 1 } },
          false,
          ": tensor 'base_model.model.lm_head.lora_A.weight': 'lm_head' is not adapted here" },
        { { { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 } },
          false,
          ": tensor '" Q "lora_A.weight' is missing; '" Q "lora_B.weight' is there" },
        { { { "base_model.model.model.embed_tokens.base_layer.weight", DTYPE_F32, 11, 8, 1 } },
          false,
          ": tensor '" Q "lora_A.weight' is missing" },
        { { { Q "lora_A.weight", DTYPE_F32, 5, 8, 1 }, { Q "lora_B.weight", DTYPE_F32, 8, 4, 1 } },
          false,
          ": tensor '" Q "lora_B.weight': shape (8, 4), expected (8, 5)" },
        { { { Q "lora_A.weight", DTYPE_F32, 5, 8, 1 }, { Q "lora_B.weight", DTYPE_F32, 8, 5, 1 } },
          false,
          ": tensor '" Q "lora_A.weight': has rank 5, expected 4" },
    };
    struct fixture f;
    open_fixture(&f, &(struct spec){ .list = { "q_proj" } });
    struct lora_choice *choices = calloc((size_t)f.n, sizeof *choices);
    assert_non_null(choices);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        write_entries(f.dir, cases[i].entries);
        const bool ok = cases[i].choices ? peft_choices_from_tensors(f.dir, f.modules, f.n,
                                                                     &f.config, choices, &err)
                                         : peft_read_tensors(f.dir, &f.adapter, &err);
        if (ok)
            fail_msg("case %zu was accepted", i);
        expect_error(&f, &err, cases[i].message);
        assert_int_equal(err.code, ERR_DATA);
    }
    free(choices);
    close_fixture(&f);
}

static void half_precision_and_a_saved_base_matrix_are_accepted(void **state)
{
    (void)state;
    static const struct entry entries[] = {
        { Q "lora_A.weight", DTYPE_BF16, 4, 8, 1.5 },
        { Q "lora_B.weight", DTYPE_F16, 8, 4,
          1.5 }, /* bfloat16's bits of 1.5 are 1.9375 as a half */
        { "base_model.model.model.embed_tokens.base_layer.weight", DTYPE_F32, 11, 8, 1 },
        { NULL, DTYPE_F32, 0, 0, 0 },
    };
    struct fixture f;
    struct err err = { 0 };
    open_fixture(&f, &(struct spec){ .list = { "q_proj" } });
    struct lora_choice *choices = calloc((size_t)f.n, sizeof *choices);
    assert_non_null(choices);
    write_entries(f.dir, entries);
    assert_true(peft_choices_from_tensors(f.dir, f.modules, f.n, &f.config, choices, &err));
    assert_memory_equal(choices, f.choices, (size_t)f.n * sizeof *choices);
    if (!peft_read_tensors(f.dir, &f.adapter, &err))
        fail_msg("%s", err.text);
    assert_true(f.adapter.slots[0].a[31] == (real)1.5);
    assert_true(f.adapter.slots[0].b[31] == (real)1.9375);
    free(choices);
    close_fixture(&f);
}

static void a_missing_or_broken_file_is_named(void **state)
{
    (void)state;
    struct fixture f;
    char path[640];
    struct err err = { 0 };
    struct lora_config config;
    open_fixture(&f, &(struct spec){ .list = { "q_proj" } });
    assert_false(peft_read_tensors(f.dir, &f.adapter, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    expect_error(&f, &err, ": No such file or directory");
    path_in(f.dir, "adapter_model.bin", path);
    assert_true(file_write(path, "x", 1, &err));
    assert_false(peft_read_tensors(f.dir, &f.adapter, &err));
    expect_error(&f, &err,
                 ": is missing; adapter_model.bin beside it is a pickle, which is not read: load "
                 "the adapter with "
                 "peft and save it again");
    path_in(f.dir, PEFT_TENSORS_NAME, path);
    assert_true(file_write(path, "short", 5, &err));
    assert_false(peft_read_tensors(f.dir, &f.adapter, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_false(peft_read_config(f.dir, &config, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    lora_config_free(&config);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_that_cannot_be_continued_is_refused_by_name),
        cmocka_unit_test(config_of_peft_itself_is_read),
        cmocka_unit_test(tensors_that_do_not_fit_are_refused),
        cmocka_unit_test(half_precision_and_a_saved_base_matrix_are_accepted),
        cmocka_unit_test(a_missing_or_broken_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
