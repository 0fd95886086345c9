/* Recipe keys: unknown, doubled, aliased, exclusive, other trainers', and those of the command
 * line. */
#include "tests/recipes/axolotl.h"
#include "tests/recipes/scratch.h"

static void key_errors_name_the_line(void **state)
{
    (void)state;
    expect_errors(HEAD "lora_rnk: 8\n",
                  "x.yaml:3:1: unknown key 'lora_rnk'; did you mean 'lora_r'?");
    expect_errors(HEAD "learning_rat: 8\n",
                  "x.yaml:3:1: unknown key 'learning_rat'; did you mean 'learning_rate'?");
    expect_errors(HEAD "zzz: 8\n",
                  "x.yaml:3:1: unknown key 'zzz'; `jambatune explain` lists the keys");
    expect_errors(HEAD "\"a\\nb\\e\": 8\n",
                  "x.yaml:3:1: unknown key 'a?b?'; `jambatune explain` lists the keys");
    expect_errors(HEAD "lora_r: 8\nseed: 1\nlora_r: 16\n",
                  "x.yaml:5:1: key 'lora_r' appears twice (first at line 3); keep one");
    expect_errors("base_model: a/b\ndatasets: [{path: a.jsonl, path: b.jsonl}]\n",
                  "x.yaml:2:28: key 'path' appears twice (first at line 2); keep one");
    expect_errors("seed: 1\n",
                  "x.yaml: 'base_model' is missing; expected a folder, a hub name or "
                  "random:CONFIG.JSON\n"
                  "x.yaml: 'datasets' is missing; expected a list of mappings with 'path'");
    expect_errors(
        "base_model:\ndatasets: a.jsonl\n",
        "x.yaml: 'base_model' is missing; expected a folder, a hub name or random:CONFIG.JSON");
}

static void aliases_are_read_and_reported_once(void **state)
{
    (void)state;
    struct loaded l = load_good("model: a/b\ndata: d.jsonl\ncutoff_len: 32\nlora_rank: 2\n"
                                "per_device_train_batch_size: 3\nlr: 1e-3\nmask_prompt: true\n"
                                "disable_gradient_checkpointing: false\nbf16: false\niters: 9\n");
    expect_list(
        &l.report.notes,
        "x.yaml:1:1: 'model' is read as 'base_model'\n"
        "x.yaml:2:1: 'data' is read as 'datasets'\n"
        "x.yaml:3:1: 'cutoff_len' is read as 'sequence_len'\n"
        "x.yaml:4:1: 'lora_rank' is read as 'lora_r'\n"
        "x.yaml:5:1: 'per_device_train_batch_size' is read as 'micro_batch_size'\n"
        "x.yaml:6:1: 'lr' is read as 'learning_rate'\n"
        "x.yaml:7:1: 'mask_prompt' is read as 'train_on_inputs: false'\n"
        "x.yaml:8:1: 'disable_gradient_checkpointing' is read as 'gradient_checkpointing: true'\n"
        "x.yaml:9:1: 'bf16' is read as 'precision: fp32'\n"
        "x.yaml:10:1: 'iters' is read as 'max_steps'");
    assert_int_equal(l.recipe.lora.r, 2);
    assert_int_equal(l.recipe.data.sequence_len, 32);
    assert_false(l.recipe.data.train_on_inputs);
    assert_int_equal(l.recipe.gradient_checkpointing, CHECKPOINTING_LAYER);
    assert_int_equal(l.recipe.precision, PRECISION_FP32);
    assert_int_equal(l.recipe.max_steps, 9);
    unload(&l);
}

static void conversations_have_their_keys(void **state)
{
    (void)state;
    static const char *const overrides[] = { "chat_template_kwargs.depth=3",
                                             "chat_template_date=2024-05-06 07:08" };
    struct loaded l =
        load("base_model: a/b\n"
             "datasets:\n"
             "  - {path: a.jsonl, type: chat, field_messages: talk, field_tools: kit,\n"
             "     field_documents: notes, field_system: sys,\n"
             "     message_field_role: who, message_field_content: what,\n"
             "     message_field_training: learn, roles_to_train: [assistant],\n"
             "     train_on_eos: turn, chat_template: tokenizer_default}\n"
             "  - {path: b.jsonl, type: chat_template}\n"
             "  - {path: c.jsonl, type: sharegpt}\n"
             "  - {path: d.jsonl, type: alpaca, field_instruction: ask,\n"
             "     field_input: given, field_output: answer}\n"
             "chat_template: chatml\n"
             "train_on_last_turn_only: true\n"
             "train_on_reasoning: false\n"
             "chat_template_kwargs: {enable_thinking: false, knobs: {a: [1, 2.0, "
             "'3', null]}, mode: fast}\n",
             overrides, 2);
    expect_list(&l.report.errors, "");
    const struct data_config *d = &l.recipe.data;
    assert_int_equal(d->train[0].type, DATA_CHAT);
    assert_int_equal(d->train[1].type, DATA_CHAT);
    assert_int_equal(d->train[2].type, DATA_CHAT);
    assert_int_equal(d->train[3].type, DATA_ALPACA);
    assert_string_equal(d->train[0].field_messages, "talk");
    assert_string_equal(d->train[0].field_tools, "kit");
    assert_string_equal(d->train[0].field_documents, "notes");
    assert_string_equal(d->train[0].field_system, "sys");
    assert_string_equal(d->train[0].field_role, "who");
    assert_string_equal(d->train[0].field_content, "what");
    assert_string_equal(d->train[0].field_train, "learn");
    assert_string_equal(d->train[1].field_messages, "messages");
    assert_string_equal(d->train[3].field_instruction, "ask");
    assert_string_equal(d->train[3].field_input, "given");
    assert_string_equal(d->train[3].field_output, "answer");
    assert_string_equal(d->chat_template, "chatml");
    assert_string_equal(d->chat_template_date, "2024-05-06 07:08");
    assert_true(d->train_on_last_turn_only);
    assert_false(d->train_on_reasoning);
    json_t *expected = json_pack("{s:b, s:{s:[i, f, s, n]}, s:s, s:i}", "enable_thinking", 0,
                                 "knobs", "a", 1, 2.0, "3", "mode", "fast", "depth", 3);
    assert_true(json_equal(d->chat_template_kwargs, expected));
    json_decref(expected);
    unload(&l);
    l = load_good(HEAD "chat_template: own/x.jinja\n");
    assert_string_equal(l.recipe.data.chat_template, "own/x.jinja");
    assert_string_equal(l.recipe.data.chat_template_date, "2025-01-01");
    assert_true(l.recipe.data.train_on_reasoning);
    assert_null(l.recipe.data.chat_template_kwargs);
    unload(&l);
    l = load_good(HEAD "chat_template: tokenizer_default\neot_tokens: [x]\n");
    assert_null(l.recipe.data.chat_template);
    expect_list(&l.report.notes,
                "x.yaml:4:1: 'eot_tokens' is ignored: what ends a turn is found from the chat "
                "template");
    unload(&l);
}

static void alias_beside_its_key_is_an_error(void **state)
{
    (void)state;
    static const char message[] = "'lora_rank' and 'lora_r' are the same key; keep one";
    char expected[128];
    snprintf(expected, sizeof expected, "x.yaml:4:1: %s", message);
    expect_errors(HEAD "lora_r: 4\nlora_rank: 8\n", expected);
    snprintf(expected, sizeof expected, "x.yaml:3:1: %s", message);
    expect_errors(HEAD "lora_rank: 8\nlora_r: 4\n", expected);
    expect_errors(HEAD "precision: fp32\nbf16: true\n",
                  "x.yaml:4:1: 'bf16' and 'precision' are the same key; keep one");
}

static void keys_that_exclude_each_other(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *message;
    } table[] = {
        { "warmup_steps: 3\nwarmup_ratio: 0.1\n",
          "x.yaml:4:1: 'warmup_steps' and 'warmup_ratio' exclude each other; keep one, or set the "
          "other to "
          "0" },
        { "warmup_steps: 0\nwarmup_ratio: 0.1\n", "" },
        { "lr_scheduler: constant\nwarmup_ratio: 0.1\n",
          "x.yaml:4:1: 'warmup_ratio' has no effect with lr_scheduler 'constant'; use "
          "'constant_with_warmup', or remove the key" },
        { "lr_scheduler: constant\nwarmup_steps: 0\n", "" },
        { "self_check_steps: 10\ndeterministic: false\n",
          "x.yaml:4:1: 'self_check_steps' and 'deterministic' exclude each other; only steps that "
          "always come out the same can be compared: remove one" },
        { "self_check_steps: 0\ndeterministic: false\n", "" },
        { "eval_steps: 3\nevals_per_epoch: 1\n", "x.yaml:4:1: 'eval_steps' and 'evals_per_epoch' "
                                                 "exclude each other; keep one, or set the other "
                                                 "to 0" },
        { "test_datasets: v.jsonl\nval_set_size: 0.1\n",
          "x.yaml:3:1: 'val_set_size' and 'test_datasets' exclude each other; keep one, or set "
          "val_set_size to 0" },
        { "test_datasets: v.jsonl\nval_set_size: 0.0\n", "" },
        { "lora_target_modules: [q_proj]\nlora_target_linear: true\n",
          "x.yaml:4:1: 'lora_target_modules' and 'lora_target_linear' exclude each other; keep "
          "one" },
        { "lora_target_modules: [q_proj]\nlora_target_linear: false\n", "" },
        { "lora_target_modules:\nlora_target_linear: true\n", "" },
        { "train_on_inputs: true\ntrain_on_last_turn_only: true\n",
          "x.yaml:4:1: 'train_on_inputs' and 'train_on_last_turn_only' exclude each other; keep "
          "one" },
        { "train_on_inputs: false\nmask_history: true\n", "" },
        { "chat_template_jinja: x.jinja\n",
          "x.yaml:3:1: 'chat_template_jinja' is 'x.jinja'; give the template's file as "
          "'chat_template'" },
        { "default_system_message: Be brief.\n",
          "x.yaml:3:1: 'default_system_message' is 'Be brief.'; give the records their system "
          "message, or write it into the chat template" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[512];
        snprintf(text, sizeof text, HEAD "%s", table[i].lines);
        expect_errors(text, table[i].message);
    }
}

static void choosing_by_validation_loss_needs_validations(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *message;
    } table[] = {
        { "early_stopping_patience: 3\n",
          "x.yaml:3:1: 'early_stopping_patience' needs validation data; set 'val_set_size' or "
          "'test_datasets', or remove the key" },
        { "load_best: true\n", "x.yaml:3:1: 'load_best' needs validation data; set 'val_set_size' "
                               "or 'test_datasets', or remove the key" },
        { "early_stopping_patience: 3\nval_set_size: 0.1\n",
          "x.yaml:3:1: 'early_stopping_patience' needs validations during the run; set "
          "'eval_steps' or 'evals_per_epoch', or remove the key" },
        { "load_best: true\ntest_datasets: v.jsonl\n",
          "x.yaml:3:1: 'load_best' needs validations during the run; set 'eval_steps' or "
          "'evals_per_epoch', or remove the key" },
        { "early_stopping_patience: 0\nload_best: false\n", "" },
        { "early_stopping_patience:\nload_best:\n", "" },
        { "load_best: true\nearly_stopping_patience: 1\nval_set_size: 2\neval_steps: 0.1\n", "" },
        { "load_best: true\ntest_datasets: v.jsonl\nevals_per_epoch: 2\n", "" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[512];
        snprintf(text, sizeof text, HEAD "%s", table[i].lines);
        expect_errors(text, table[i].message);
    }
    /* who only asks for the model, is not asked for data */
    struct loaded l;
    write_text("x.yaml", "base_model: a/b\nload_best: true\n");
    assert_true(recipe_load("x.yaml", NULL, 0, RECIPE_NEED_MODEL, &l.recipe, &l.report));
    unload(&l);
}

static void saving_has_its_keys(void **state)
{
    (void)state;
    struct loaded l = load_good(HEAD);
    assert_true(l.recipe.save_steps.seconds == 600 && l.recipe.save_steps.steps == 0);
    assert_int_equal(l.recipe.save_total_limit, 2);
    assert_int_equal(l.recipe.self_check_steps, 0);
    assert_int_equal(l.recipe.early_stopping_patience, 0);
    assert_int_equal(l.recipe.n_sample_prompt, 0);
    assert_int_equal(l.recipe.sample_max_tokens, 64);
    assert_null(l.recipe.resume_from_checkpoint);
    assert_false(l.recipe.overwrite_output_dir || l.recipe.load_best);
    unload(&l);
    l = load_good(HEAD "save_every: 5\nsave_total_limit: 7\nself_check_steps: 100\n"
                       "overwrite_output_dir: true\nload_best_model_at_end: true\n"
                       "early_stopping_patience: 4\nval_set_size: 1\neval_steps: 2\n"
                       "sample_prompts: [\"a\\nb\", 'c, d', 7]\nsample_max_tokens: 65536\n");
    assert_true(l.recipe.save_steps.steps == 5 && l.recipe.save_steps.seconds == 0);
    assert_int_equal(l.recipe.save_total_limit, 7);
    assert_int_equal(l.recipe.self_check_steps, 100);
    assert_int_equal(l.recipe.early_stopping_patience, 4);
    assert_true(l.recipe.overwrite_output_dir && l.recipe.load_best);
    assert_int_equal(l.recipe.n_sample_prompt, 3);
    assert_string_equal(l.recipe.sample_prompts[0], "a\nb");
    assert_string_equal(l.recipe.sample_prompts[1], "c, d");
    assert_string_equal(l.recipe.sample_prompts[2], "7");
    assert_int_equal(l.recipe.sample_max_tokens, 65536);
    expect_list(&l.report.notes, "x.yaml:3:1: 'save_every' is read as 'save_steps'\n"
                                 "x.yaml:7:1: 'load_best_model_at_end' is read as 'load_best'");
    unload(&l);
    l = load_good(HEAD "save_total_limit:\nsave_steps: 0\nsample_prompts: one, text\n"
                       "val_set_size: 1\n");
    assert_int_equal(l.recipe.save_total_limit, 0);
    assert_true(l.recipe.save_steps.steps == 0 && l.recipe.save_steps.seconds == 0);
    assert_int_equal(l.recipe.n_sample_prompt, 1);
    assert_string_equal(l.recipe.sample_prompts[0], "one, text");
    unload(&l);
    l = load_good(HEAD "save_strategy: epoch\nsaves_per_epoch: 2\nsave_only_model: true\n"
                       "ignore_data_skip: true\nsample_prompts: []\n");
    expect_list(&l.report.notes,
                "x.yaml:3:1: 'save_strategy' is ignored: save_steps decides (steps, a share of "
                "them or a time; 0: only when a signal stops the run)\n"
                "x.yaml:4:1: 'saves_per_epoch' is ignored: save_steps decides (steps, a share of "
                "them or a time; 0: only when a signal stops the run)\n"
                "x.yaml:5:1: 'save_only_model' is ignored: a checkpoint is whole, or no run could "
                "go on from it\n"
                "x.yaml:6:1: 'ignore_data_skip' is ignored: a resumed run goes on at the record "
                "where it was");
    unload(&l);
}

static void save_steps_is_a_count_a_share_or_a_time(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        double steps, seconds;
    } good[] = {
        { "25", 25, 0 },    { "1e3", 1000, 0 },      { "0.25", 0.25, 0 }, { "0", 0, 0 },
        { "90s", 0, 90 },   { "10m", 0, 600 },       { "1.5h", 0, 5400 }, { "2d", 0, 172800 },
        { "'7m'", 0, 420 }, { "366d", 0, 31622400 },
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        char text[128];
        snprintf(text, sizeof text, HEAD "save_steps: %s\n", good[i].value);
        struct loaded l = load_good(text);
        assert_true(l.recipe.save_steps.steps == good[i].steps);
        assert_true(l.recipe.save_steps.seconds == good[i].seconds);
        unload(&l);
    }
    static const char *const bad[] = { "-1", "1.5", "10min", "m",    "0s",   "-5m",  "1.2.3h",
                                       ".s", "10M", "nan",   "1e3s", "10 m", "367d", "1e999" };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char text[128], expected[256];
        snprintf(text, sizeof text, HEAD "save_steps: %s\n", bad[i]);
        snprintf(expected, sizeof expected,
                 "x.yaml:3:13: 'save_steps' is '%s'; expected a whole number of steps, a share "
                 "below 1, or a time such as 90s, 10m or 2h",
                 bad[i]);
        expect_errors(text, expected);
    }
}

static void resume_is_auto_or_a_path(void **state)
{
    (void)state;
    static const struct {
        const char *line, *read; /* NULL: a new run */
    } table[] = {
        { "resume_from_checkpoint: auto", "auto" },
        { "resume_from_checkpoint: true", "auto" },
        { "resume_from_checkpoint: false", NULL },
        { "resume_from_checkpoint:", NULL },
        { "resume_from_checkpoint: out/checkpoint-5", "sub/out/checkpoint-5" },
        { "resume_from_checkpoint: ./auto", "sub/auto" },
        { "auto_resume_from_checkpoints: true", "auto" },
        { "auto_resume_from_checkpoints: false", NULL },
        { "auto_resume_from_checkpoints:", NULL },
    };
    struct err err = { 0 };
    assert_true(file_make_directory("sub", &err));
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[256];
        snprintf(text, sizeof text, HEAD "%s\n", table[i].line);
        write_text("sub/x.yaml", text);
        struct loaded l;
        assert_true(recipe_load("sub/x.yaml", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report));
        if (table[i].read == NULL)
            assert_null(l.recipe.resume_from_checkpoint);
        else
            assert_string_equal(l.recipe.resume_from_checkpoint, table[i].read);
        unload(&l);
    }
    expect_errors(HEAD "auto_resume_from_checkpoints: newest\n",
                  "x.yaml:3:31: 'auto_resume_from_checkpoints' is 'newest'; expected true or "
                  "false");
    expect_errors(HEAD "resume_from_checkpoint: [a]\n",
                  "x.yaml:3:25: 'resume_from_checkpoint' is a list; expected 'auto' or the path of "
                  "a checkpoint");
}

static void keys_without_effect_are_noted(void **state)
{
    (void)state;
    struct loaded l = load_good(HEAD "max_steps: 5\nnum_epochs: 2\nevals_per_epoch: 1\n"
                                     "loraplus_lr_embedding: 1e-5\noptimizer: adamw_bnb_8bit\n"
                                     "sample_prompts: [a]\n");
    expect_list(
        &l.report.notes,
        "x.yaml:7:1: optimizer 'adamw_bnb_8bit' runs as adamw with its state in 32 bits\n"
        "x.yaml:4:1: 'max_steps' is set and decides; 'num_epochs' has no effect\n"
        "x.yaml:6:1: 'loraplus_lr_embedding' has no effect without 'loraplus_lr_ratio'\n"
        "x.yaml:5:1: 'evals_per_epoch' has no effect without validation data (val_set_size or "
        "test_datasets)\n"
        "x.yaml:8:1: 'sample_prompts' has no effect without validation data (val_set_size or "
        "test_datasets): they are continued at validations");
    unload(&l);
}

static void every_error_is_reported_up_to_a_limit(void **state)
{
    (void)state;
    expect_errors("lora_r: 0\nbase_model: [a]\nseed: x\n",
                  "x.yaml:1:9: 'lora_r' is '0'; expected a whole number from 1 to 16384\n"
                  "x.yaml:2:13: 'base_model' is a list; expected a folder, a hub name or "
                  "random:CONFIG.JSON\n"
                  "x.yaml:3:7: 'seed' is 'x'; expected a whole number, 0 or more\n"
                  "x.yaml: 'datasets' is missing; expected a list of mappings with 'path'");
    struct text t = { 0 };
    for (int i = 0; i < 80; i++)
        text_printf(&t, "q%d: 1\n", i);
    struct loaded l = load(t.data, NULL, 0);
    text_free(&t);
    assert_int_equal(l.report.errors.n, RECIPE_MAX_ERRORS);
    assert_int_equal(l.report.n_more, 32); /* 80 keys and two missing ones */
    unload(&l);
}

static void axolotl_lora_recipe_runs(void **state)
{
    (void)state;
    struct loaded l = load_good(axolotl_lora);
    expect_list(&l.report.notes, axolotl_lora_notes);
    assert_true(l.recipe.lora.all_linear && l.recipe.lora.r == 8 && l.recipe.lora.alpha == 16);
    assert_int_equal(l.recipe.data.train[0].type, DATA_TEXT);
    assert_string_equal(l.recipe.data.train[0].field_text, "body");
    assert_int_equal(l.recipe.gradient_checkpointing, CHECKPOINTING_LAYER);
    assert_int_equal(l.recipe.precision, PRECISION_AUTO);
    unload(&l);
}

static void axolotl_qlora_recipes_are_refused_with_reasons(void **state)
{
    (void)state;
    expect_errors(axolotl_qlora, axolotl_qlora_errors);
    expect_errors(axolotl_fsdp, axolotl_fsdp_errors);
}

static void refused_keys_may_ask_for_nothing(void **state)
{
    (void)state;
    struct loaded l = load_good(
        HEAD "load_in_4bit: false\nload_in_8bit: no\nuse_dora: false\nlora_modules_to_save: []\n"
             "lora_bias: none\ndeepspeed: ''\nfsdp:\nfsdp_config: {a: }\nspecial_tokens: "
             "{pad_token: x}\n"
             "neftune_noise_alpha: 0.0\nearly_stopping_threshold: 0.0\nfp16: off\nplugins: []\n"
             "metric_for_best_model: eval_loss\ngreater_is_better: false\n");
    expect_list(&l.report.notes, "");
    unload(&l);
}

static void refused_keys_name_the_way_out(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } table[] = {
        { "use_dora: true", "'use_dora' is 'true'; DoRA is not supported: remove the key" },
        { "lora_modules_to_save: [lm_head]", "'lora_modules_to_save' is a list; only adapters are "
                                             "trained: remove the key, or name the module "
                                             "in lora_target_modules" },
        { "lora_bias: all", "'lora_bias' is 'all'; biases are not trained: remove the key" },
        { "ensure_weight_tying: true",
          "'ensure_weight_tying' is 'true'; one adapter for tied matrices is "
          "not supported: remove the key" },
        { "load_in_8bit: true",
          "'load_in_8bit' is 'true'; quantised base weights are not supported: remove "
          "the key, the base is used as stored" },
        { "special_tokens: {eos_token: x, pad_token: y}",
          "'special_tokens' is a mapping; only pad_token may be set (nothing is padded); the "
          "others are the "
          "tokenizer's own: change tokenizer_config.json instead" },
        { "fp16: true",
          "'fp16' is 'true'; Jamba's activations overflow it: use 'precision: bf16' or "
          "'fp32'" },
        { "rl: dpo", "'rl' is 'dpo'; only next-token loss is trained: remove the key" },
        { "early_stopping_threshold: 0.1",
          "'early_stopping_threshold' is '0.1'; any lower validation loss counts: remove the key" },
        { "metric_for_best_model: accuracy",
          "'metric_for_best_model' is 'accuracy'; the best adapter is the one of the lowest "
          "validation loss: remove the key" },
        { "greater_is_better: true", "'greater_is_better' is 'true'; the best adapter is the one "
                                     "of the lowest validation loss: remove the key" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[512], expected[512];
        snprintf(text, sizeof text, HEAD "%s\n", table[i].line);
        snprintf(expected, sizeof expected, "x.yaml:3:1: %s", table[i].message);
        expect_errors(text, expected);
    }
}

static void paths_are_relative_to_where_they_are_written(void **state)
{
    (void)state;
    struct err err = { 0 };
    assert_true(file_make_directory("sub/base", &err));
    write_text("sub/r.yaml", "base_model: base\ndatasets: [{path: d.jsonl}, {path: ./e.jsonl}]\n"
                             "lora_model_dir: ../adapter\noutput_dir: /abs\n");
    static const char *const overrides[] = { "datasets.1.path=here.jsonl", "output_dir=out" };
    struct loaded l;
    assert_true(recipe_load("sub/r.yaml", overrides, 2, RECIPE_NEED_TRAIN, &l.recipe, &l.report));
    assert_string_equal(l.recipe.base_model, "sub/base");
    assert_string_equal(l.recipe.data.train[0].path, "sub/d.jsonl");
    assert_string_equal(l.recipe.data.train[1].path, "here.jsonl");
    assert_string_equal(l.recipe.lora_model_dir, "sub/../adapter");
    assert_string_equal(l.recipe.output_dir, "out");
    unload(&l);

    static const struct {
        const char *written, *read;
    } table[] = {
        { "org/name", "org/name" },
        { "name", "name" },
        { "./name", "./sub/name" },
        { "../name", "./sub/../name" },
        { "/abs/name", "/abs/name" },
        { "random:c.json", "random:sub/c.json" },
        { "random:/c.json", "random:/c.json" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[256];
        snprintf(text, sizeof text, "base_model: %s\n", table[i].written);
        write_text("sub/r.yaml", text);
        assert_true(recipe_load("sub/r.yaml", NULL, 0, RECIPE_NEED_MODEL, &l.recipe, &l.report));
        assert_string_equal(l.recipe.base_model, table[i].read);
        assert_string_equal(l.recipe.output_dir, "sub/out");
        unload(&l);
    }
}

static void overrides_replace_add_and_remove(void **state)
{
    (void)state;
    static const char *const overrides[] = {
        "lora_rank=16",
        "datasets.0.type=text",
        "datasets.1={path: \"b c.jsonl\"}",
        "datasets.2.path=d.jsonl",
        "~deepspeed",
        "~lora_rnak",
        "~eval_steps",
        "~datasets.0.split",
        "lora_target_modules=[q_proj, v_proj]",
        "rank_pattern.q_proj=4",
        "mask_prompt=false",
        "warmup_steps=",
        "output_dir=a=b, #c: d",
        "seed=1",
        "seed=2",
    };
    struct loaded l = load("base_model: x/y\ndatasets: [{path: a.jsonl, split: test}]\nlora_r: 4\n"
                           "deepspeed: z.json\nlora_rnak: 3\nwarmup_steps: 7\n",
                           overrides, COUNT(overrides));
    expect_list(&l.report.errors, "");
    assert_int_equal(l.recipe.lora.r, 16);
    assert_int_equal(l.recipe.data.n_train, 3);
    assert_int_equal(l.recipe.data.train[0].type, DATA_TEXT);
    assert_string_equal(l.recipe.data.train[1].path, "b c.jsonl");
    assert_string_equal(l.recipe.data.train[2].path, "d.jsonl");
    assert_int_equal(l.recipe.lora.n_target, 2);
    assert_true(l.recipe.lora.rank_pattern[0].value == 4);
    assert_true(l.recipe.data.train_on_inputs);
    assert_int_equal(l.recipe.warmup_steps, 0);
    assert_string_equal(l.recipe.output_dir, "a=b, #c: d");
    assert_int_equal(l.recipe.seed, 2);
    assert_string_equal(recipe_origin(&l.recipe, "lora_r"), "command line: lora_rank=16");
    assert_string_equal(recipe_origin(&l.recipe, "datasets"),
                        "x.yaml:2:1, changed on the command line");
    assert_string_equal(recipe_origin(&l.recipe, "base_model"), "x.yaml:1:1");
    assert_null(recipe_origin(&l.recipe, "warmup_steps"));
    assert_null(recipe_origin(&l.recipe, "lora_alpha"));
    unload(&l);
}

/* What comes to light later, of a key of the recipe. */
static void a_message_of_a_key_is_given_its_place(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "lora_r: is too large", "x.yaml:1:1: lora_r: is too large" },
        { "lora_alpha: is too large", "command line: lora_alpha=3: lora_alpha: is too large" },
        { "seed: is too large", "seed: is too large" }, /* not set */
        { "no_key: is too large", "no_key: is too large" },
        { "something else went wrong", "something else went wrong" },
        { "", "" },
    };
    const char *const overrides[] = { "lora_alpha=3" };
    struct loaded l = load("lora_r: 4\n" HEAD, overrides, 1);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        err_set(&err, ERR_DATA, "%s", cases[i][0]);
        recipe_add_place(&l.recipe, &err);
        assert_string_equal(err.text, cases[i][1]);
    }
    struct err err = { 0 };
    err_set(&err, ERR_DATA, "%0200d: a place, but no key", 1);
    recipe_add_place(&l.recipe, &err);
    assert_true(text_starts_with(err.text, "0000"));
    unload(&l);
}

static void wrong_overrides_are_errors_of_the_command_line(void **state)
{
    (void)state;
    static const struct {
        const char *argument, *message; /* "command line: ARGUMENT: " goes in front */
    } table[] = {
        { "lora_r=0", "'lora_r' is '0'; expected a whole number from 1 to 16384" },
        { "lora_r", "not an override; expected key=value or ~key" },
        { "=1", "the key has an empty part, or too many; expected key=value or ~key" },
        { "~", "the key has an empty part, or too many; expected key=value or ~key" },
        { "a..b=1", "the key has an empty part, or too many; expected key=value or ~key" },
        { "lora_rnk=1", "unknown key 'lora_rnk'; did you mean 'lora_r'?" },
        { "~lora_rnk", "unknown key 'lora_rnk'; did you mean 'lora_r'?" },
        { "datasets.2.path=x", "there is no '2' to go to; expected a key, or an index of a list" },
        { "datasets.x.path=x", "there is no 'x' to go to; expected a key, or an index of a list" },
        { "datasets.9=x", "there is no '9' to go to; expected a key, or an index of a list" },
        { "base_model.a=1", "there is no 'a' to go to; expected a key, or an index of a list" },
        { "base_model.a.b=1", "there is no 'a' to go to; expected a key, or an index of a list" },
        { "lora_target_modules=[a", "not valid YAML: did not find expected ',' or ']'" },
        { "rank_pattern={a: 1, a: 2}", "key 'a' appears twice; keep one" },
        { "seed=\"1\"", "'seed' is '1' in quotes; expected a whole number, 0 or more" },
        { "use_dora=true", "'use_dora' is 'true'; DoRA is not supported: remove the key" },
        { "datasets.0.nme=x", "unknown key 'datasets.0.nme'; `jambatune explain` lists the keys" },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char expected[512];
        snprintf(expected, sizeof expected, "command line: %s: %s", table[i].argument,
                 table[i].message);
        struct loaded l = load(HEAD, &table[i].argument, 1);
        expect_list(&l.report.errors, expected);
        assert_int_equal(l.report.code, ERR_USAGE);
        unload(&l);
    }
    static const char *const bytes = "seed=\xFF\n";
    struct loaded l = load(HEAD, &bytes, 1);
    expect_list(&l.report.errors, "command line: seed=??: not UTF-8; expected key=value or ~key");
    unload(&l);
}

static void no_recipe_is_needed_for_a_model(void **state)
{
    (void)state;
    static const char *const model[] = { "base_model=dir" };
    struct loaded l;
    assert_true(recipe_load(NULL, model, 1, RECIPE_NEED_MODEL, &l.recipe, &l.report));
    assert_string_equal(l.recipe.base_model, "dir");
    assert_string_equal(l.recipe.output_dir, "out");
    unload(&l);
    assert_true(recipe_load(NULL, NULL, 0, RECIPE_NEED_NOTHING, &l.recipe, &l.report));
    assert_null(l.recipe.base_model);
    unload(&l);
    assert_false(recipe_load(NULL, NULL, 0, RECIPE_NEED_MODEL, &l.recipe, &l.report));
    expect_list(&l.report.errors,
                "command line: 'base_model' is missing; expected a folder, a hub name or "
                "random:CONFIG.JSON");
    assert_int_equal(l.report.code, ERR_USAGE);
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(key_errors_name_the_line),
        SCRATCH_TEST(aliases_are_read_and_reported_once),
        SCRATCH_TEST(conversations_have_their_keys),
        SCRATCH_TEST(alias_beside_its_key_is_an_error),
        SCRATCH_TEST(keys_that_exclude_each_other),
        SCRATCH_TEST(choosing_by_validation_loss_needs_validations),
        SCRATCH_TEST(saving_has_its_keys),
        SCRATCH_TEST(save_steps_is_a_count_a_share_or_a_time),
        SCRATCH_TEST(resume_is_auto_or_a_path),
        SCRATCH_TEST(keys_without_effect_are_noted),
        SCRATCH_TEST(every_error_is_reported_up_to_a_limit),
        SCRATCH_TEST(axolotl_lora_recipe_runs),
        SCRATCH_TEST(axolotl_qlora_recipes_are_refused_with_reasons),
        SCRATCH_TEST(refused_keys_may_ask_for_nothing),
        SCRATCH_TEST(refused_keys_name_the_way_out),
        SCRATCH_TEST(paths_are_relative_to_where_they_are_written),
        SCRATCH_TEST(overrides_replace_add_and_remove),
        SCRATCH_TEST(a_message_of_a_key_is_given_its_place),
        SCRATCH_TEST(wrong_overrides_are_errors_of_the_command_line),
        SCRATCH_TEST(no_recipe_is_needed_for_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
