/* Recipe files: malformed bytes, and values of every kind, right and wrong. */
#include <time.h>

#include "tests/recipes/scratch.h"

#define BYTES(s) (s), sizeof(s) - 1

static void malformed_file_names_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *message;
    } table[] = {
        { BYTES(""),
          "x.yaml: the recipe is empty; expected keys such as 'base_model' and 'datasets'" },
        { BYTES("# only this\n"),
          "x.yaml: the recipe is empty; expected keys such as 'base_model' and 'datasets'" },
        { BYTES("---\n...\n"),
          "x.yaml: the recipe is empty; expected keys such as 'base_model' and 'datasets'" },
        { BYTES("just text\n"), "x.yaml: the recipe is 'just text'; expected 'key: value' lines" },
        { BYTES("- a\n"), "x.yaml: the recipe is a list; expected 'key: value' lines" },
        { BYTES("a: \xFF\n"), "x.yaml:1:4: a byte that is not UTF-8; save the recipe as UTF-8" },
        { BYTES("\xFF\xFE"
                "a\0:\0"),
          "x.yaml:1:1: a byte that is not UTF-8; save the recipe as UTF-8" },
        { BYTES("seed: 1\n# \xC3\xBC\n# \xC3\xBC\xED\xA0\x80\n"),
          "x.yaml:3:4: a byte that is not UTF-8; save the recipe as UTF-8" },
        { BYTES("seed: 1\0\n"), "x.yaml:1:1: not valid YAML: control characters are not allowed" },
        { BYTES("a: \x1B[0m\n"), "x.yaml:1:1: not valid YAML: control characters are not allowed" },
        { BYTES("datasets:\n\t- path: a\n"),
          "x.yaml:2:1: the line is indented with a tab; YAML takes spaces" },
        { BYTES("lora_r: [1, 2\n"), "x.yaml:2:1: not valid YAML: did not find expected ',' or ']' "
                                    "(while parsing a flow sequence "
                                    "that begins at line 1)" },
        { BYTES("a: 'x\n"),
          "x.yaml:2:1: not valid YAML: found unexpected end of stream (while scanning a "
          "quoted scalar that begins at line 1)" },
        { BYTES("a: 1\n b: 2\n"),
          "x.yaml:2:3: not valid YAML: mapping values are not allowed in this "
          "context" },
        { BYTES("%YAML 9.9\n---\na: 1\n"),
          "x.yaml:1:1: not valid YAML: found incompatible YAML document" },
        { BYTES("seed: 1\n---\nseed: 2\n"),
          "x.yaml:2:1: a second document begins; a recipe is one document" },
        { BYTES("a: &x 1\n"),
          "x.yaml:1:4: an anchor ('&'); a recipe has none: write the value out" },
        { BYTES("a: &x [*x]\n"),
          "x.yaml:1:4: an anchor ('&'); a recipe has none: write the value out" },
        { BYTES("a: *x\n"), "x.yaml:1:4: an alias ('*'); a recipe has none: write the value out" },
        { BYTES("<<: *x\n"), "x.yaml:1:5: an alias ('*'); a recipe has none: write the value out" },
        { BYTES("a: !!python/object:os.system x\n"),
          "x.yaml:1:4: a tag ('!'); a recipe has none: remove it" },
        { BYTES("a: !!map {}\n"), "x.yaml:1:4: a tag ('!'); a recipe has none: remove it" },
        { BYTES("a: ! 1\n"), "x.yaml:1:4: a tag ('!'); a recipe has none: remove it" },
        { BYTES("[a]: 1\n"), "x.yaml:1:1: a list or mapping stands where a key is expected" },
        { BYTES("? {a: b}\n: 1\n"),
          "x.yaml:1:3: a list or mapping stands where a key is expected" },
        { BYTES("\"a\\0b\": 1\n"), "x.yaml:1:1: a key holds a NUL character; expected a name" },
        { BYTES("seed: \"1\\0\"\n"), "x.yaml:1:7: a value holds a NUL character; expected text" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct loaded l;
        write_bytes("x.yaml", table[i].bytes, table[i].n);
        l.ok = recipe_load("x.yaml", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report);
        assert_false(l.ok);
        expect_list(&l.report.errors, table[i].message);
        assert_int_equal(l.report.code, ERR_RECIPE);
        unload(&l);
    }
}

static void missing_file_is_missing_input(void **state)
{
    (void)state;
    struct loaded l;
    assert_false(recipe_load("no.yaml", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report));
    expect_list(&l.report.errors, "no.yaml: No such file or directory");
    assert_int_equal(l.report.code, ERR_NO_INPUT);
    unload(&l);
    assert_false(recipe_load(".", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report));
    expect_list(&l.report.errors, ".: is a directory; expected a regular file");
    unload(&l);
}

/* libyaml 0.2.5 needs minutes for some of these when it is let to run. */
static void bombs_end_early(void **state)
{
    (void)state;
    static const struct {
        const char *head, *unit;
        size_t bytes;
        const char *message;
    } table[] = {
        { "", "[", 1 << 20, "x.yaml:1:33: nested more than 32 levels deep; a recipe needs three" },
        { "a: ", "[\n", 1 << 19,
          "x.yaml:32:1: nested more than 32 levels deep; a recipe needs three" },
        { "a: ", "{a: ", 1 << 19,
          "x.yaml:1:128: nested more than 32 levels deep; a recipe needs three" },
        { "a: ", "- ", 1 << 19,
          "x.yaml:1:4: not valid YAML: block sequence entries are not allowed in this context" },
        { "", "- ", 1 << 19, "x.yaml:1:65: nested more than 32 levels deep; a recipe needs three" },
        { "a: [1", ",1", 1 << 19, "x.yaml:1:19999: more than 10000 values; is this a recipe?" },
        { "", "#", (1 << 20) + 1, "x.yaml: has 1048577 bytes; at most 1048576 are expected" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct text t = { 0 };
        text_puts(&t, table[i].head);
        while (t.len < table[i].bytes)
            text_puts(&t, table[i].unit);
        write_text("x.yaml", t.data);
        text_free(&t);
        const clock_t begin = clock();
        struct loaded l;
        assert_false(recipe_load("x.yaml", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report));
        assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 2);
        expect_list(&l.report.errors, table[i].message);
        unload(&l);
    }
}

static void cut_or_flipped_file_is_read_or_refused(void **state)
{
    (void)state;
    char copy[sizeof every_kind];
    const size_t n = sizeof every_kind - 1;
    int64_t refused = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        memcpy(copy, every_kind, sizeof copy);
        if (i >= n)
            copy[i - n] = (char)(copy[i - n] ^ (1 << (i % 8)));
        write_bytes("x.yaml", copy, i < n ? i : n);
        struct loaded l;
        l.ok = recipe_load("x.yaml", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report);
        assert_int_equal(l.ok, l.report.errors.n == 0);
        refused += !l.ok;
        unload(&l);
    }
    assert_true(refused > (int64_t)n / 2);
}

static void wrong_value_names_key_value_and_expectation(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message; /* the message without "x.yaml:3:" */
    } table[] = {
        { "lora_r: 0", "9: 'lora_r' is '0'; expected a whole number from 1 to 16384" },
        { "lora_r: -4", "9: 'lora_r' is '-4'; expected a whole number from 1 to 16384" },
        { "lora_r: 8.0", "9: 'lora_r' is '8.0'; expected a whole number from 1 to 16384" },
        { "lora_r: 010", "9: 'lora_r' is '010'; expected a whole number from 1 to 16384" },
        { "lora_r: 0x8", "9: 'lora_r' is '0x8'; expected a whole number from 1 to 16384" },
        { "lora_r: \"8\"",
          "9: 'lora_r' is '8' in quotes; expected a whole number from 1 to 16384" },
        { "lora_r: [8]", "9: 'lora_r' is a list; expected a whole number from 1 to 16384" },
        { "lora_r: {a: 8}", "9: 'lora_r' is a mapping; expected a whole number from 1 to 16384" },
        { "lora_r: 99999999999999999999",
          "9: 'lora_r' is '99999999999999999999'; expected a whole number from 1 to 16384" },
        { "seed: -1", "7: 'seed' is '-1'; expected a whole number, 0 or more" },
        { "seed: 9007199254740993",
          "7: 'seed' is '9007199254740993'; expected a whole number, 0 or more" },
        { "max_steps: -2", "12: 'max_steps' is '-2'; expected '-1' or a whole number, 0 or more" },
        { "sequence_len: 1",
          "15: 'sequence_len' is '1'; expected a whole number from 2 to 16777216" },
        { "lora_dropout: 1", "15: 'lora_dropout' is '1'; expected a number from 0 to below 1" },
        { "learning_rate: 0", "16: 'learning_rate' is '0'; expected a number above 0" },
        { "learning_rate: nan", "16: 'learning_rate' is 'nan'; expected a number above 0" },
        { "learning_rate: .inf", "16: 'learning_rate' is '.inf'; expected a number above 0" },
        { "learning_rate: 1e999", "16: 'learning_rate' is '1e999'; expected a number above 0" },
        { "learning_rate: 1e", "16: 'learning_rate' is '1e'; expected a number above 0" },
        { "num_epochs: 0", "13: 'num_epochs' is '0'; expected a number above 0, at most 1000000" },
        { "warmup_steps: 0.03",
          "15: 'warmup_steps' is '0.03'; expected a whole number, 0 or more; a share "
          "of the steps is 'warmup_ratio'" },
        { "warmup_ratio: 1.5", "15: 'warmup_ratio' is '1.5'; expected a number from 0 to 1" },
        { "val_set_size: 1.5",
          "15: 'val_set_size' is '1.5'; expected a share from 0 to below 1, or a whole number" },
        { "eval_steps: -1",
          "13: 'eval_steps' is '-1'; expected a share from 0 to below 1, or a whole number" },
        { "shuffle: 1", "10: 'shuffle' is '1'; expected true or false" },
        { "shuffle: 'true'", "10: 'shuffle' is 'true' in quotes; expected true or false" },
        { "lr_scheduler: cosin", "15: 'lr_scheduler' is 'cosin'; expected one of 'constant', "
                                 "'constant_with_warmup', 'linear', 'cosine'" },
        { "lr_scheduler: polynomial", "15: 'lr_scheduler' is 'polynomial'; use 'constant', "
                                      "'constant_with_warmup', 'linear' or 'cosine'" },
        { "optimizer: sgd", "12: 'optimizer' is 'sgd'; only AdamW is available: use 'adamw'" },
        { "adapter: qlora",
          "10: 'adapter' is 'qlora'; 4-bit base weights are not supported: use 'lora'" },
        { "adapter:",
          "9: 'adapter' is an empty value; expected 'lora'; full fine-tuning, which an empty "
          "adapter means elsewhere, is not supported" },
        { "gradient_checkpointing: maybe", "25: 'gradient_checkpointing' is 'maybe'; expected one "
                                           "of 'auto', 'none', 'scan', 'layer'; true "
                                           "is layer, false is none" },
        { "precision: fp16",
          "12: 'precision' is 'fp16'; Jamba's activations overflow it: use 'bf16' or 'fp32'" },
        { "bf16: maybe", "7: 'bf16' is 'maybe'; expected one of 'true', 'full', 'auto', 'false'" },
        { "mask_prompt: 1", "14: 'mask_prompt' is '1'; expected true or false" },
        { "memory_budget: 12 parsecs",
          "16: 'memory_budget' is '12 parsecs'; expected 'auto' or bytes such as 24GiB, 500MB or "
          "1000000" },
        { "memory_budget: 0.5", "16: 'memory_budget' is '0.5'; expected 'auto' or bytes such as "
                                "24GiB, 500MB or 1000000" },
        { "memory_budget: 99999999999TiB", "16: 'memory_budget' is '99999999999TiB'; expected "
                                           "'auto' or bytes such as 24GiB, 500MB or "
                                           "1000000" },
        { "save_steps: '10'",
          "13: 'save_steps' is '10' in quotes; expected a whole number of steps, a share below 1, "
          "or a time such as 90s, 10m or 2h" },
        { "save_total_limit: -1",
          "19: 'save_total_limit' is '-1'; expected a whole number, 0 or more" },
        { "self_check_steps: 0.5",
          "19: 'self_check_steps' is '0.5'; expected a whole number, 0 or more" },
        { "early_stopping_patience: x",
          "26: 'early_stopping_patience' is 'x'; expected a whole number, 0 or more" },
        { "sample_max_tokens: 0",
          "20: 'sample_max_tokens' is '0'; expected a whole number from 1 to 65536" },
        { "sample_prompts: {a: b}", "17: 'sample_prompts' is a mapping; expected a list of texts" },
        { "sample_prompts: ''", "17: 'sample_prompts' is ''; expected a list of texts" },
        { "sample_prompts: [a, '']", "21: 'sample_prompts.1' is ''; expected text" },
        { "resume_from_checkpoint: ''",
          "25: 'resume_from_checkpoint' is ''; expected 'auto' or the path of a checkpoint" },
        { "threads: all",
          "10: 'threads' is 'all'; expected 'auto' or a whole number from 0 to 4096" },
        { "output_dir: ''", "13: 'output_dir' is ''; expected a path" },
        { "output_dir: [a]", "13: 'output_dir' is a list; expected a path" },
        { "lora_target_modules: []",
          "22: 'lora_target_modules' is an empty list; remove the key for the default" },
        { "lora_target_modules: [a, {b: c}]",
          "26: 'lora_target_modules.1' is a mapping; expected a module's name" },
        { "lora_target_modules: {a: b}",
          "22: 'lora_target_modules' is a mapping; expected a list of names, "
          "a regular expression or 'all-linear'" },
        { "lora_target_modules: q_proj,v_proj",
          "22: 'lora_target_modules' is 'q_proj,v_proj', which looks "
          "like a list; write [q_proj,v_proj]" },
        { "lora_layers_to_transform: [1, x]",
          "31: 'lora_layers_to_transform' has 'x'; expected a layer's number from 0" },
        { "lora_layers_to_transform: -1",
          "27: 'lora_layers_to_transform' has '-1'; expected a layer's number from 0" },
        { "rank_pattern: [a]",
          "15: 'rank_pattern' is a list; expected a mapping from names to ranks" },
        { "rank_pattern: {a: 1.5}",
          "19: 'rank_pattern.a' is '1.5'; expected a rank, a whole number from 1 to 16384" },
        { "alpha_pattern: {a: 0}", "20: 'alpha_pattern.a' is '0'; expected a number above 0" },
        { "test_datasets: []",
          "16: 'test_datasets' is a list; expected a list of mappings with 'path'" },
        { "test_datasets: [[a]]",
          "17: 'test_datasets.0' is a list; expected a mapping with 'path'" },
        { "test_datasets: [{type: text}]",
          "17: 'test_datasets.0.path' is missing; expected the path of a file" },
        { "test_datasets: [{path: a, typ: text}]",
          "27: unknown key 'test_datasets.0.typ'; did you mean 'test_datasets.0.type'?" },
        { "test_datasets: [{path: }]",
          "24: 'test_datasets.0.path' is an empty value; expected a path" },
        { "test_datasets: [{path: a, type: dpo}]",
          "33: 'test_datasets.0.type' is 'dpo'; expected one of 'auto', 'text', 'completion', "
          "'input_ids', 'chat', 'alpaca'; records of other kinds: write them as messages, or as "
          "prompt and completion" },
        { "test_datasets: [{path: a, chat_template: llama3}]",
          "27: 'test_datasets.0.chat_template' is 'llama3'; one template serves all data sets: set "
          "chat_template of the recipe" },
        { "test_datasets: [{path: a, roles_to_train: [user]}]",
          "27: 'test_datasets.0.roles_to_train' is a list; what the assistant must produce carries "
          "loss, the end of its turn included: remove the key, or give messages 'train: false'" },
        { "test_datasets: [{path: a, train_on_eos: all}]",
          "27: 'test_datasets.0.train_on_eos' is 'all'; what the assistant must produce carries "
          "loss, the end of its turn included: remove the key, or give messages 'train: false'" },
        { "test_datasets: [{path: a, roles: {user: [me]}}]",
          "27: 'test_datasets.0.roles' is a mapping; roles are system, user, assistant and tool, "
          "or "
          "ShareGPT's human, gpt, observation and function_call: rename others in the file" },
        { "chat_template_date: yesterday",
          "21: 'chat_template_date' is 'yesterday'; expected a date such as 2025-01-01 or "
          "2025-01-01 18:30:00" },
        { "chat_template_date: 2025-02-30",
          "21: 'chat_template_date' is '2025-02-30'; expected a date such as 2025-01-01 or "
          "2025-01-01 18:30:00" },
        { "chat_template_kwargs: [a]",
          "23: 'chat_template_kwargs' is a list; expected a mapping from names to values" },
        { "chat_template_kwargs: {messages: []}",
          "24: 'chat_template_kwargs.messages' cannot be set: it is what each record says" },
        { "chat_template: []", "16: 'chat_template' is a list; expected a path, 'jamba' or "
                               "'chatml'" },
        { "test_datasets: [{path: a, split: 'train[:5%]'}]",
          "27: 'test_datasets.0.split' is 'train[:5%]'; a file is one split: give each split as a "
          "file of "
          "its own" },
        { "test_datasets: [{path: org/name}]", "24: 'test_datasets.0.path' is 'org/name', which "
                                               "looks like a hub data set; data sets are files: "
                                               "download it as JSONL and give that file" },
        { "lora_r: 00000000000000000000000000000000000000000000000000000000000000000000000000001",
          "9: 'lora_r' is '000000000000000000000000000000000000000000000000000000000000...'; "
          "expected a "
          "whole number from 1 to 16384" },
        { "seed: \"\\e[31m\"",
          "7: 'seed' is '?[31m' in quotes; expected a whole number, 0 or more" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[512], expected[512];
        snprintf(text, sizeof text, HEAD "%s\n", table[i].line);
        snprintf(expected, sizeof expected, "x.yaml:3:%s", table[i].message);
        expect_errors(text, expected);
    }
}

static void every_kind_of_value_is_read(void **state)
{
    (void)state;
    struct loaded l = load_good(every_kind);
    const struct recipe *r = &l.recipe;
    assert_string_equal(r->base_model, "random:config.json");
    assert_int_equal(r->data.n_train, 2);
    assert_string_equal(r->data.train[0].path, "a.jsonl");
    assert_int_equal(r->data.train[0].type, DATA_COMPLETION);
    assert_string_equal(r->data.train[0].field_prompt, "pr\xC3\xBC"
                                                       "fung");
    assert_string_equal(r->data.train[0].field_completion, "completion");
    assert_string_equal(r->data.train[1].path, "b.jsonl.gz");
    assert_int_equal(r->data.train[1].type, DATA_AUTO);
    assert_string_equal(r->data.validation[0].path, "/v/c.json");
    assert_string_equal(r->data.validation[0].field_labels, "l");
    assert_int_equal(r->data.sequence_len, 77);
    assert_int_equal(r->data.excess, EXCESS_SPLIT);
    assert_true(r->data.train_on_inputs && r->data.sample_packing && !r->data.shuffle);
    assert_int_equal(r->lora.r, 3);
    assert_true(r->lora.alpha == 2.5 && r->lora.dropout == 0.1 && r->lora.use_rslora);
    assert_string_equal(r->lora.target_regex, ".*\\.(in_proj|q_proj)");
    assert_int_equal(r->lora.n_exclude, 2);
    assert_int_equal(r->lora.layers_to_transform[1], 3);
    assert_string_equal(r->lora.rank_pattern[0].key, "experts\\.\\d+\\.up_proj");
    assert_true(r->lora.rank_pattern[0].value == 4 && r->lora.alpha_pattern[0].value == 0.5);
    assert_int_equal(r->data.micro_batch_size * r->data.gradient_accumulation_steps, 6);
    assert_true(r->num_epochs == 0.5 && r->max_steps == 12);
    assert_true(r->learning_rate == 1e-30 && r->adam_epsilon == 5e300);
    assert_int_equal(r->lr_scheduler, SCHEDULER_CONSTANT_WITH_WARMUP);
    assert_true(r->seed == 9007199254740992u && r->data.seed == r->seed);
    assert_int_equal(r->device, DEVICE_CPU);
    assert_int_equal(r->precision, PRECISION_FP32);
    assert_int_equal(r->gradient_checkpointing, CHECKPOINTING_SCAN);
    assert_int_equal(r->memory_budget, 1610612736);
    assert_string_equal(r->lora_model_dir, "null");
    assert_true(r->save_steps.seconds == 7200);
    assert_int_equal(r->save_total_limit, 0);
    assert_string_equal(r->resume_from_checkpoint, "true/x");
    assert_int_equal(r->n_sample_prompt, 2);
    assert_string_equal(r->sample_prompts[1], "\t");
    unload(&l);
}

static void crlf_and_byte_order_mark_change_nothing(void **state)
{
    (void)state;
    struct loaded l = load_good("\xEF\xBB\xBF" HEAD "output_dir: o\r\nlora_r: 4\r\n");
    assert_string_equal(l.recipe.output_dir, "o");
    assert_int_equal(l.recipe.lora.r, 4);
    unload(&l);
    expect_errors("\xEF\xBB\xBFlora_r: 0\r\n" HEAD,
                  "x.yaml:1:9: 'lora_r' is '0'; expected a whole number from 1 to 16384");
}

static void units_of_memory(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } table[] = {
        { "auto", 0 },
        { "1000000", 1000000 },
        { "64B", 64 },
        { "2KiB", 2048 },
        { "2K", 2048 },
        { "2KB", 2000 },
        { "1.5 GiB", 1610612736 },
        { "24GB", 24000000000 },
        { "1TiB", 1099511627776 },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[256];
        snprintf(text, sizeof text, HEAD "memory_budget: %s\n", table[i].text);
        struct loaded l = load_good(text);
        assert_int_equal(l.recipe.memory_budget, table[i].bytes);
        unload(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(malformed_file_names_the_place),
        SCRATCH_TEST(missing_file_is_missing_input),
        SCRATCH_TEST(bombs_end_early),
        SCRATCH_TEST(cut_or_flipped_file_is_read_or_refused),
        SCRATCH_TEST(wrong_value_names_key_value_and_expectation),
        SCRATCH_TEST(every_kind_of_value_is_read),
        SCRATCH_TEST(crlf_and_byte_order_mark_change_nothing),
        SCRATCH_TEST(units_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
