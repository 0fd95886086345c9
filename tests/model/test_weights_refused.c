/* Base models that are wrong, each refused by name, and the places where models are looked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "finetune/model/weights.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct tiny_options plain = { 0 };

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

/* ---- what is wrong is named ---- */

static void expect_refusal(const char *folder, const char *base_model, enum err_code code,
                           const char *expected)
{
    struct err err = { 0 };
    char text[ERR_TEXT_SIZE];
    struct weights *w = weights_open(base_model, 0, &err);
    if (w != NULL)
        fail_msg("opened; expected: %s", expected);
    tiny_message(text, &err, folder);
    assert_string_equal(text, expected);
    assert_int_equal(err.code, code);
}

static void tensor_that_does_not_fit_is_refused_by_name(void **state)
{
    const struct {
        struct tiny_options options;
        const char *expected;
    } cases[] = {
        { { .omit = "model.layers.2.mamba.A_log" },
          "DIR: tensor 'model.layers.2.mamba.A_log' is missing; config.json asks for it" },
        { { .omit = "lm_head.weight" },
          "DIR: tensor 'lm_head.weight' is missing; config.json asks for it" },
        { { .omit = "model.layers.3.feed_forward.experts.2.up_proj.weight" },
          "DIR: tensor 'model.layers.3.feed_forward.experts.2.up_proj.weight' is missing; "
          "config.json asks for it" },
        { { .omit = "model.layers.1.self_attn.q_proj.weight",
            .rename_to = "model.layers.1.self_attn.wq.weight" },
          "DIR: tensor 'model.layers.1.self_attn.q_proj.weight' is missing; config.json asks for "
          "it" },
        { { .misshape = "model.layers.0.mamba.conv1d.weight" },
          "DIR/model.safetensors: tensor 'model.layers.0.mamba.conv1d.weight': shape (49, 1, 4), "
          "expected (48, 1, 4)" },
        { { .misshape = "model.embed_tokens.weight" },
          "DIR/model.safetensors: tensor 'model.embed_tokens.weight': shape (62, 24), expected "
          "(61, 24)" },
        { { .misshape = "model.layers.0.mamba.dt_proj.bias" },
          "DIR/model.safetensors: tensor 'model.layers.0.mamba.dt_proj.bias': shape (49,), "
          "expected (48,)" },
        { { .mistype = "model.layers.0.mamba.D" },
          "DIR/model.safetensors: tensor 'model.layers.0.mamba.D': type I8, expected F32, BF16 or "
          "F16" },
        { { .config_members = "\"mamba_inner_layernorms\": false" },
          "DIR/config.json: \"mamba_inner_layernorms\" is false; only Jambas with dt, B and C "
          "norms are supported" },
    };
    const struct jamba_config c = tiny_config();
    for (size_t i = 0; i < COUNT(cases); i++) {
        tiny_checkpoint_write(*state, &c, &cases[i].options);
        expect_refusal(*state, *state, ERR_DATA, cases[i].expected);
    }
}

/* The checkpoint of one config under the config.json of another. */
static void extra_tensor_is_refused_by_name(void **state)
{
    struct jamba_config has = tiny_config(), says = has;
    has.mamba_proj_bias = true;
    char *other = tiny_scratch_make();
    tiny_checkpoint_write(other, &says, &plain);
    char *config = file_join(other, "config.json"), *bytes = NULL;
    size_t n = 0;
    assert_true(file_read(config, 1 << 20, &bytes, &n, NULL));
    tiny_checkpoint_write(*state, &has, &plain);
    tiny_file_write(*state, "config.json", bytes, n);
    expect_refusal(*state, *state, ERR_DATA,
                   "DIR/model.safetensors: tensor 'model.layers.0.mamba.in_proj.bias' has no place "
                   "in the model that "
                   "config.json describes");
    free(bytes);
    free(config);
    tiny_scratch_remove(other);
}

/* The same tensor under its old and its new name. */
static void both_names_of_a_tensor_are_refused(void **state)
{
    const struct jamba_config c = tiny_config();
    tiny_checkpoint_write(
        *state, &c,
        &(struct tiny_options){ .omit = "model.layers.0.mamba.b_layernorm.weight",
                                .rename_to = "model.layers.0.mamba.C_layernorm.weight" });
    expect_refusal(*state, *state, ERR_DATA,
                   "DIR/model.safetensors: tensors 'model.layers.0.mamba.C_layernorm.weight' and "
                   "'model.layers.0.mamba.c_layernorm.weight' are one tensor under an old and a "
                   "new name; expected "
                   "one of them");
}

static void index_and_shards_must_agree(void **state)
{
    const struct {
        struct tiny_options options;
        const char *expected;
    } cases[] = {
        { { .n_shard = 3, .repeat = "model.embed_tokens.weight" },
          "DIR/model-00003-of-00003.safetensors: tensor 'model.embed_tokens.weight' is in "
          "'DIR/model-00001-of-00003.safetensors' too; expected it once" },
        { { .n_shard = 3, .misplaced = "model.embed_tokens.weight" },
          "DIR/model.safetensors.index.json: tensor 'model.embed_tokens.weight' is not in "
          "'model-00002-of-00003.safetensors', where the index has it" },
        { { .n_shard = 3, .unlisted = "model.layers.0.mamba.D" },
          "DIR/model-00001-of-00003.safetensors: tensor 'model.layers.0.mamba.D' is not in the "
          "index, "
          "'model.safetensors.index.json'" },
    };
    const struct jamba_config c = tiny_config();
    for (size_t i = 0; i < COUNT(cases); i++) {
        tiny_checkpoint_write(*state, &c, &cases[i].options);
        expect_refusal(*state, *state, ERR_DATA, cases[i].expected);
    }
}

static void malformed_index_is_refused_with_the_reason(void **state)
{
    static const struct {
        const char *json, *expected;
    } cases[] = {
        { "", "index.json: not valid JSON: column 0: unexpected token near end of file" },
        { "[]", "index.json: is a list; expected an object" },
        { "{}", "index.json: \"weight_map\" is missing; expected an object" },
        { "{\"weight_map\": []}", "index.json: \"weight_map\" is a list; expected an object" },
        { "{\"weight_map\": {}}",
          "index.json: \"weight_map\" is empty; expected a file name per tensor" },
        { "{\"weight_map\": {\"a\": 1}}",
          "index.json: \"weight_map\": tensor 'a' is an integer; expected a file name" },
        { "{\"weight_map\": {\"a\": \"../x\"}}",
          "index.json: \"weight_map\": tensor 'a' is in '../x'; expected the name of a file in "
          "this folder, without "
          "'/' or '..'" },
        { "{\"weight_map\": {\"a\": \"/etc/passwd\"}}",
          "index.json: \"weight_map\": tensor 'a' is in '/etc/passwd'; expected the name of a file "
          "in this folder, "
          "without '/' or '..'" },
        { "{\"weight_map\": {\"a\": \"x\\u0000y\"}}",
          "index.json: \"weight_map\": tensor 'a' is in 'x'; expected the name of a file in this "
          "folder, without '/' "
          "or '..'" },
        { "{\"weight_map\": {\"a\": \"\"}}",
          "index.json: \"weight_map\": tensor 'a' is in ''; expected the name of a file in this "
          "folder, without '/' "
          "or '..'" },
        { "{\"weight_map\": {\"a\": \"x\", \"a\": \"x\"}}",
          "index.json: not valid JSON: column 29: duplicate object key near '\"a\"'" },
        { "{\"weight_map\": {\"a\": \"\xFF\"}}",
          "index.json: not valid JSON: column 22: unable to decode byte 0xff near '\"'" },
    };
    const struct jamba_config c = tiny_config();
    tiny_checkpoint_write(*state, &c, &(struct tiny_options){ .n_shard = 2 });
    for (size_t i = 0; i < COUNT(cases); i++) {
        char expected[ERR_TEXT_SIZE];
        tiny_file_write(*state, "model.safetensors.index.json", cases[i].json,
                        strlen(cases[i].json));
        snprintf(expected, sizeof expected, "DIR/model.safetensors.%s", cases[i].expected);
        expect_refusal(*state, *state, ERR_DATA, expected);
    }
}

static void shard_that_is_not_there_is_named(void **state)
{
    const struct jamba_config c = tiny_config();
    tiny_checkpoint_write(*state, &c, &(struct tiny_options){ .n_shard = 2 });
    char *path = file_join(*state, "model-00002-of-00002.safetensors");
    unlink(path);
    free(path);
    expect_refusal(*state, *state, ERR_NO_INPUT,
                   "DIR/model-00002-of-00002.safetensors: is missing; "
                   "'model.safetensors.index.json' names it");
}

static void cut_shard_is_refused(void **state)
{
    const struct jamba_config c = tiny_config();
    tiny_checkpoint_write(*state, &c, &plain);
    char *path = file_join(*state, "model.safetensors");
    assert_int_equal(truncate(path, 10), 0);
    free(path);
    struct err err = { 0 };
    assert_null(weights_open(*state, 0, &err));
    assert_non_null(strstr(err.text, "only 2 bytes follow it; is it cut short?"));
}

static void folder_without_a_checkpoint_says_what_is_expected(void **state)
{
    expect_refusal(*state, *state, ERR_NO_INPUT,
                   "DIR: has no 'config.json'; expected a checkpoint as transformers saves it");
    tiny_file_write(*state, "config.json", "{\"model_type\": \"jamba\"}", 23);
    expect_refusal(
        *state, *state, ERR_NO_INPUT,
        "DIR: has no weights; expected 'model.safetensors' or 'model.safetensors.index.json'");
    tiny_file_write(*state, "pytorch_model.bin", "x", 1);
    expect_refusal(*state, *state, ERR_DATA,
                   "DIR: has its weights in 'pytorch_model.bin', a pickle; convert it to "
                   "safetensors (load it with "
                   "transformers, then save_pretrained)");
}

/* ---- where a model is ---- */

static void make_in(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    struct err err = { 0 };
    if (!file_make_directory(path, &err))
        fail_msg("%s", err.text);
    free(path);
}

static void hub_name_is_found_in_the_cache(void **state)
{
    static const struct {
        const char *variable, *value; /* under the scratch folder */
        const char *hub;
    } cases[] = { { "HF_HUB_CACHE", "one", "one" },
                  { "HF_HOME", "two", "two/hub" },
                  { "XDG_CACHE_HOME", "three", "three/huggingface/hub" },
                  { "HOME", "four", "four/.cache/huggingface/hub" } };
    const struct jamba_config c = tiny_config();
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (size_t k = 0; k < COUNT(cases); k++)
            unsetenv(cases[k].variable);
        char *value = file_join(*state, cases[i].value);
        char *repo = text_format("%s/%s/models--ai--Jamba-x.1", (const char *)*state, cases[i].hub);
        setenv(cases[i].variable, value, 1);
        make_in(repo, "refs");
        make_in(repo, "snapshots/abc123");
        tiny_file_write(repo, "refs/main", "abc123\n", 7);
        char *snapshot = file_join(repo, "snapshots/abc123");
        tiny_checkpoint_write(snapshot, &c, &plain);
        char *folder = NULL, *config_path = NULL;
        struct err err = { 0 };
        if (!weights_locate("ai/Jamba-x.1", &folder, &config_path, &err))
            fail_msg("%s", err.text);
        assert_string_equal(folder, snapshot);
        assert_true(text_starts_with(config_path, snapshot) &&
                    text_ends_with(config_path, "/config.json"));
        struct weights *w = weights_open("ai/Jamba-x.1", 0, &err);
        assert_non_null(w);
        weights_close(w);
        free(folder);
        free(config_path);
        free(snapshot);
        free(repo);
        free(value);
    }
}

static void name_that_is_nowhere_says_how_to_fetch_it(void **state)
{
    static const char message[] =
        "'ai/Jamba': is neither a folder nor in the Hugging Face cache, 'DIR'; fetch it with 'hf "
        "download ai/Jamba' "
        "('huggingface-cli download ai/Jamba' before huggingface_hub 1.0)";
    static const char *const revisions[] = { "", "\n", "../../x", "..", "absent", "a/b", "a\nb" };
    setenv("HF_HUB_CACHE", *state, 1);
    expect_refusal(*state, "ai/Jamba", ERR_NO_INPUT, message);
    make_in(*state, "models--ai--Jamba/refs");
    make_in(*state, "models--ai--Jamba/snapshots");
    make_in(*state, "models--ai--Jamba/x");
    for (size_t i = 0; i < COUNT(revisions); i++) { /* a revision never leads out of the cache */
        tiny_file_write(*state, "models--ai--Jamba/refs/main", revisions[i], strlen(revisions[i]));
        expect_refusal(*state, "ai/Jamba", ERR_NO_INPUT, message);
    }
}

static void what_is_no_model_at_all_is_said_so(void **state)
{
    static const struct {
        const char *base_model, *expected;
    } cases[] = {
        { "", "'': there is no such folder" },
        { "nowhere", "'nowhere': there is no such folder" },
        { "./org/name", "'./org/name': there is no such folder" },
        { "a/b/c", "'a/b/c': there is no such folder" },
        { "../name", "'../name': there is no such folder" },
        { "org/", "'org/': there is no such folder" },
        { "/nowhere", "'/nowhere': there is no such folder" },
        { "org/na me", "'org/na me': there is no such folder" },
        { "/dev/null", "'/dev/null': is not a folder" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char expected[ERR_TEXT_SIZE];
        snprintf(
            expected, sizeof expected,
            "%s; base_model is a checkpoint's folder, a hub name (org/name) or random:CONFIG.JSON",
            cases[i].expected);
        expect_refusal(*state, cases[i].base_model, ERR_NO_INPUT, expected);
    }
}

static void random_without_a_config_is_an_error(void **state)
{
    char *base_model = text_format("random:%s/none.json", (const char *)*state);
    expect_refusal(*state, "random:", ERR_NO_INPUT,
                   "'random:': names no file; expected random:CONFIG.JSON");
    expect_refusal(*state, base_model, ERR_NO_INPUT, "DIR/none.json: No such file or directory");
    free(base_model);
}

#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(tensor_that_does_not_fit_is_refused_by_name),
        IN_A_FOLDER(extra_tensor_is_refused_by_name),
        IN_A_FOLDER(both_names_of_a_tensor_are_refused),
        IN_A_FOLDER(index_and_shards_must_agree),
        IN_A_FOLDER(malformed_index_is_refused_with_the_reason),
        IN_A_FOLDER(shard_that_is_not_there_is_named),
        IN_A_FOLDER(cut_shard_is_refused),
        IN_A_FOLDER(folder_without_a_checkpoint_says_what_is_expected),
        IN_A_FOLDER(hub_name_is_found_in_the_cache),
        IN_A_FOLDER(name_that_is_nowhere_says_how_to_fetch_it),
        IN_A_FOLDER(what_is_no_model_at_all_is_said_so),
        IN_A_FOLDER(random_without_a_config_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
