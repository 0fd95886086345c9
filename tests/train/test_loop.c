/* Whole runs of the training loop: what they log, evaluate and write, and what they refuse. */
#include "tests/train/runs.h"

#include "finetune/train/evaluate.h"
#include "finetune/train/optim.h"

/* Numbers of metrics.jsonl have nine digits. */
static const double printed = 1e-8;

static void expect_near(double have, double expected)
{
    if (!(fabs(have - expected) <= printed * fabs(expected)))
        fail_msg("%.12g, expected %.12g", have, expected);
}

/* ---- metrics.jsonl ---- */

static void expect_keys(json_t *line, const char *const *keys)
{
    size_t n = 0;
    for (; keys[n] != NULL; n++) {
        if (json_object_get(line, keys[n]) == NULL)
            fail_msg("a line has no '%s'", keys[n]);
    }
    assert_int_equal(json_object_size(line), n);
}

struct seen {
    int n_step, n_eval;
    double loss[16], eval_loss[16];
};

static void see_step(void *context, const struct train_step *s)
{
    struct seen *seen = context;
    assert_true(s->applied && s->n_doc > 0 && s->n_step == 5);
    seen->loss[seen->n_step++] = s->loss;
    assert_int_equal(s->step, seen->n_step);
}

static void see_eval(void *context, const struct train_eval *e)
{
    struct seen *seen = context;
    seen->eval_loss[seen->n_eval++] = e->loss;
}

static void check_step_line(json_t *line, const struct run *r, int number)
{
    static const char *const keys[] = { "step",     "epoch",          "loss",
                                        "aux_loss", "learning_rate",  "grad_norm",
                                        "tokens",   "trained_tokens", "tokens_per_second",
                                        "seconds",  "memory_bytes",   "blocks",
                                        NULL };
    expect_keys(line, keys);
    assert_int_equal(json_integer_value(json_object_get(line, "step")), number);
    expect_near(runs_number(line, "epoch"), number / 4.0); /* 16 documents, four a step */
    expect_near(runs_number(line, "learning_rate"),
                0.01 * schedule_factor(&r->t.schedule, number - 1));
    assert_true(runs_number(line, "grad_norm") > 0);
    assert_true(runs_number(line, "aux_loss") > 0 &&
                runs_number(line, "aux_loss") < runs_number(line, "loss"));
    const double tokens = runs_number(line, "tokens"),
                 trained = runs_number(line, "trained_tokens");
    assert_true(trained > 0 && trained <= tokens - 4); /* a document's last token has no target */
    assert_true(
        fabs(runs_number(line, "tokens_per_second") * runs_number(line, "seconds") / tokens - 1) <
        1e-6);
    const double memory = runs_number(line, "memory_bytes");
    assert_true(memory <= (double)r->t.bytes.total);
    assert_true(memory >= (double)(r->t.bytes.weights + r->t.bytes.adapter));
}

static void a_run_logs_a_line_a_step_and_one_per_evaluation(void **state)
{
    (void)state;
    static const char order[] = "E0 S1 S2 E2 S3 S4 E4 S5 E5 ";
    static const char *const eval_keys[] = { "step",        "epoch",   "eval_loss",
                                             "eval_tokens", "seconds", NULL };
    char *folder = runs_make("moe_gqa_untied");
    struct run r;
    struct seen seen = { 0 };
    const struct train_watch watch = { .context = &seen, .on_step = see_step, .on_eval = see_eval };
    run_open(&r, folder, "out",
             KEYS("max_steps=5", "eval_steps=2", "router_aux_loss_coef=0.02", "lr_scheduler=cosine",
                  "warmup_steps=2", "lora_dropout=0.1"));
    assert_true(run_go(&r, &watch));
    json_t *lines = runs_metrics(folder, "out"), *line;
    struct text text = { 0 };
    size_t i;
    int n_step = 0, n_eval = 0;
    json_array_foreach(lines, i, line)
    {
        const bool is_eval = json_object_get(line, "eval_loss") != NULL;
        text_printf(&text, "%c%d ", is_eval ? 'E' : 'S', (int)runs_number(line, "step"));
        if (is_eval) {
            expect_keys(line, eval_keys);
            expect_near(runs_number(line, "eval_loss"), seen.eval_loss[n_eval++]);
            expect_near(runs_number(line, "epoch"), runs_number(line, "step") / 4);
        } else {
            expect_near(runs_number(line, "loss"), seen.loss[n_step++]);
            check_step_line(line, &r, n_step);
        }
    }
    assert_string_equal(text.data, order);
    assert_true(seen.n_step == 5 && seen.n_eval == 4);
    text_free(&text);
    json_decref(lines);
    run_close(&r);
    tiny_scratch_remove(folder);
}

static void without_a_balance_there_is_no_aux_loss(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    run_whole(folder, "out", KEYS("max_steps=1", "val_set_size=0"));
    json_t *lines = runs_metrics(folder, "out");
    assert_int_equal(json_array_size(lines),
                     1); /* nor an evaluation without validation documents */
    assert_null(json_object_get(json_array_get(lines, 0), "aux_loss"));
    json_decref(lines);
    tiny_scratch_remove(folder);
}

static void evaluations_come_first_on_schedule_and_last(void **state)
{
    (void)state;
    /* Six steps, four to the epoch. */
    static const struct {
        const char *key, *expected;
    } cases[] = {
        { "eval_steps=0", "0 6 " },
        { "eval_steps=4", "0 4 6 " },
        { "eval_steps=3", "0 3 6 " },
        { "eval_steps=0.4", "0 3 6 " },
        { "eval_steps=0.1", "0 1 2 3 4 5 6 " },
        { "eval_steps=100", "0 6 " },
        { "evals_per_epoch=1", "0 4 6 " },
        { "evals_per_epoch=2", "0 2 4 6 " },
        { "evals_per_epoch=3", "0 2 3 4 6 " },
        { "evals_per_epoch=9", "0 1 2 3 4 5 6 " },
        { "val_set_size=0", "" },
    };
    char *folder = runs_make("dense_mqa_tied");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        run_whole(folder, "out", KEYS(cases[c].key, "lora_target_modules=[q_proj]"));
        json_t *lines = runs_metrics(folder, "out"), *line;
        struct text text = { 0 };
        size_t i;
        text_puts(&text, "");
        json_array_foreach(lines, i, line)
        {
            if (json_object_get(line, "eval_loss") != NULL)
                text_printf(&text, "%d ", (int)runs_number(line, "step"));
        }
        assert_string_equal(text.data, cases[c].expected);
        text_free(&text);
        json_decref(lines);
    }
    tiny_scratch_remove(folder);
}

static void epochs_decide_the_steps_when_max_steps_does_not(void **state)
{
    (void)state;
    static const struct {
        const char *epochs, *size;
        int steps;
        double last_epoch;
    } cases[] = {
        { "num_epochs=2", "micro_batch_size=4", 8, 2 },
        { "num_epochs=1", "micro_batch_size=5", 4, 1 }, /* the last step of an epoch may be short */
        { "num_epochs=0.5", "micro_batch_size=4", 2, 0.5 },
    };
    char *folder = runs_make("dense_mqa_tied");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        run_whole(folder, "out",
                  KEYS("max_steps=-1", cases[c].epochs, cases[c].size,
                       "lora_target_modules=[q_proj]", "val_set_size=4"));
        json_t *lines = runs_metrics(folder, "out");
        const size_t n = json_array_size(lines);
        assert_int_equal(n, cases[c].steps + 2);
        expect_near(runs_number(json_array_get(lines, n - 2), "epoch"), cases[c].last_epoch);
        json_decref(lines);
    }
    tiny_scratch_remove(folder);
}

/* ---- losses ---- */

/* Mean loss of documents under an adapter folder (NULL: the base), by the pieces alone. */
static double loss_of(const struct run *r, const char *adapter_dir, const struct document_set *set,
                      const int64_t *docs, int64_t n_doc)
{
    struct engine e = { 0 };
    struct err err = { 0 };
    struct engine_memory memory = { .shape = { 32, 9, RECOMPUTE_LAYER, 0 },
                                    .adapter_dir = adapter_dir };
    REQUIRE(
        engine_open(&e,
                    &(struct engine_options){ .base_model = r->recipe.base_model,
                                              .compute = { .device = COMPUTE_CPU, .threads = 1 } },
                    &err));
    if (adapter_dir != NULL)
        REQUIRE(engine_choose_from(&e, adapter_dir, &err));
    const struct plan_subject subject = engine_subject(&e, false);
    REQUIRE(plan_measure(&subject, &memory.shape, &memory.bytes, &err));
    REQUIRE(engine_allocate(&e, &memory, &err));
    const struct evaluation v =
        evaluate(&e, &(struct evaluate_args){ .set = set, .docs = docs, .n_doc = n_doc });
    engine_close(&e);
    assert_int_equal(v.n_doc, n_doc);
    return v.loss_sum / (double)v.n_target;
}

static double validation_loss(const struct run *r, const char *adapter_dir)
{
    const struct train_data *d = &r->t.data;
    return loss_of(r, adapter_dir, d->validation, d->validation_docs, d->n_validation);
}

/* To float's rounding: other passes and chunks. */
static void expect_loss(double have, double expected)
{
    if (!(fabs(have - expected) <= 1e-5 * expected))
        fail_msg("loss %.9g, expected %.9g", have, expected);
}

static void the_first_losses_are_those_of_the_base(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    struct run r;
    run_open(&r, folder, "out", KEYS("micro_batch_size=16", "max_steps=1", "lora_dropout=0.2"));
    assert_true(run_go(&r, NULL));
    json_t *lines = runs_metrics(folder, "out");
    const struct train_data *d = &r.t.data;
    assert_int_equal(d->split.n_train, 16);
    expect_loss(runs_number(json_array_get(lines, 0), "eval_loss"), validation_loss(&r, NULL));
    expect_loss(runs_number(json_array_get(lines, 1), "loss"),
                loss_of(&r, NULL, &d->set, d->split.train, d->split.n_train));
    json_decref(lines);
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* The final adapter and the best one, read again, have the losses that were logged for them. */
static void check_adapters(const char *folder, const char *const *keys, bool improves)
{
    struct run r;
    run_open(&r, folder, "out", keys);
    assert_true(run_go(&r, NULL));
    char *out = runs_path(folder, "out", ""), *best = runs_path(folder, "out", "best");
    assert_int_equal(r.t.state.last_loss < r.t.state.first_loss, improves);
    assert_int_equal(r.t.state.best_step > 0, improves);
    assert_true(r.t.state.best_loss <= fmin(r.t.state.first_loss, r.t.state.last_loss));
    expect_loss(validation_loss(&r, out), r.t.state.last_loss);
    expect_loss(validation_loss(&r, best), r.t.state.best_loss);
    free(out);
    free(best);
    run_close(&r);
}

static void a_good_run_ends_in_a_better_adapter(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    check_adapters(folder, KEYS("max_steps=12", "eval_steps=2", "lora_dropout=0.1"), true);
    tiny_scratch_remove(folder);
}

/* Validation on tokens that training never sees, and learns never to say. */
static void a_bad_run_keeps_the_adapter_it_began_with_as_the_best(void **state)
{
    (void)state;
    static const char other[] =
        "{\"input_ids\": [50, 60, 51, 61, 52, 62]}\n{\"input_ids\": [70, 65, 70, 65]}\n";
    char *folder = runs_make("moe_gqa_untied");
    char key[512];
    tiny_file_write(folder, "other.jsonl", other, sizeof other - 1);
    snprintf(key, sizeof key, "test_datasets=[{path: %s/other.jsonl, type: input_ids}]", folder);
    check_adapters(folder, KEYS("val_set_size=0", key, "learning_rate=0.1", "eval_steps=2"), false);
    tiny_scratch_remove(folder);
}

/* Beside each adapter stands the recipe that made it, and it loads. */
static void the_recipe_stands_beside_the_adapters(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    run_whole(folder, "out", KEYS("lora_r=3", "max_steps=1"));
    static const char *const dirs[] = { "out", "out/best" };
    for (int i = 0; i < 2; i++) {
        struct recipe recipe;
        struct recipe_report report;
        char *path = runs_path(folder, dirs[i], "recipe.yaml");
        assert_true(recipe_load(path, NULL, 0, RECIPE_NEED_TRAIN, &recipe, &report));
        assert_int_equal(recipe.lora.r, 3);
        assert_int_equal(recipe.max_steps, 1);
        recipe_free(&recipe);
        recipe_report_free(&report);
        free(path);
    }
    tiny_scratch_remove(folder);
}

/* They may be longer than any step of the training: the plan has room for them. */
static void files_of_their_own_validate_all_their_documents(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    char key[512];
    struct text other = { 0 };
    for (int d = 30; d < 40; d++)
        runs_write_document(&other, d);
    text_puts(&other, "{\"input_ids\": [3");
    for (int i = 1; i < 31; i++)
        text_printf(&other, ", %d", 3 + i);
    text_puts(&other, "]}\n");
    tiny_file_write(folder, "other.jsonl", other.data, other.len);
    snprintf(key, sizeof key, "test_datasets=[{path: %s/other.jsonl, type: input_ids}]", folder);
    struct run r;
    run_open(&r, folder, "out", KEYS("val_set_size=0", key, "max_steps=1", "micro_batch_size=1"));
    assert_int_equal(r.t.data.split.n_train, RUNS_DOCS);
    assert_int_equal(r.t.data.n_validation, 11);
    assert_int_equal(r.t.shape.pass_tokens, 31);
    assert_true(run_go(&r, NULL));
    json_t *lines = runs_metrics(folder, "out");
    expect_loss(runs_number(json_array_get(lines, 0), "eval_loss"), validation_loss(&r, NULL));
    assert_int_equal(runs_number(json_array_get(lines, 0), "eval_tokens"),
                     r.t.data.own_report.n_target);
    json_decref(lines);
    text_free(&other);
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* ---- memory ---- */

/* Experts that are most of the model: dropout is what their backward needs most. */
#define PLAN_KEYS                                                                                  \
    "gradient_checkpointing=layer", "val_set_size=0", "micro_batch_size=20", "max_steps=1"

static void a_run_with_dropout_stays_within_its_plan(void **state)
{
    (void)state;
    char *checkpoint = tiny_scratch_make();
    struct jamba_config config = tiny_config();
    config.intermediate_size = 300;
    config.num_experts = 2; /* both chosen by every token */
    tiny_checkpoint_write(checkpoint, &config, &(struct tiny_options){ .dtype = DTYPE_BF16 });
    char *folder = runs_make(checkpoint);
    struct run r;
    run_open(&r, folder, "out", KEYS(PLAN_KEYS));
    const size_t without = r.t.bytes.scratch;
    run_close(&r);
    run_open(&r, folder, "out", KEYS(PLAN_KEYS, "lora_dropout=0.1"));
    assert_true(r.t.bytes.scratch > without);
    if (!run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    assert_true(r.t.engine.scratch.peak > without && r.t.engine.scratch.peak <= r.t.bytes.scratch);
    run_close(&r);
    tiny_scratch_remove(folder);
    tiny_scratch_remove(checkpoint);
}

/* ---- continuing from an adapter ---- */

/* The first step of a warm-up has rate 0: a run of one step gives back the tensors it was given. */
static void continuing_takes_choices_and_tensors_from_the_adapter(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    run_whole(folder, "first",
              KEYS("max_steps=2", "lora_r=3", "lora_target_modules=[in_proj, router, up_proj]",
                   "rank_pattern={up_proj: 2}"));
    char from[512];
    snprintf(from, sizeof from, "lora_model_dir=%s/first", folder);
    struct run r;
    run_open(&r, folder, "second",
             KEYS(from, "~lora_r", "~lora_alpha", "max_steps=1",
                  "lr_scheduler=constant_with_warmup", "warmup_steps=1", "lora_dropout=0.3"));
    for (int64_t i = 0; i < r.t.engine.n_module; i++) {
        const enum lora_kind kind = r.t.engine.modules[i].kind;
        const struct lora_choice *c = &r.t.engine.choices[i];
        assert_int_equal(c->on,
                         kind == LORA_IN_PROJ || kind == LORA_ROUTER || kind == LORA_UP_PROJ);
        assert_true(!c->on || c->r == (kind == LORA_UP_PROJ ? 2 : 3));
    }
    assert_true(r.t.lora->dropout == 0.3); /* no part of an adapter: the recipe's */
    assert_true(run_go(&r, NULL));
    assert_true(runs_same_adapter(folder, "first", "second"));
    run_close(&r);
    /* And with a rate it moves on from there. */
    run_whole(folder, "third", KEYS(from, "lora_r=3", "max_steps=1"));
    assert_false(runs_same_adapter(folder, "first", "third"));
    assert_true(runs_adapter_error(folder, "third", "first") < 1);
    tiny_scratch_remove(folder);
}

static void keys_that_contradict_the_adapter_are_errors(void **state)
{
    (void)state;
    static const struct {
        const char *key, *text;
    } cases[] = {
        { "lora_r=5", "command line: lora_r=5: lora_r: is 5, but the adapter in lora_model_dir has "
                      "r 4; leave the key out or train a "
                      "new adapter" },
        { "lora_alpha=3", "command line: lora_alpha=3: lora_alpha: is 3, but the adapter in "
                          "lora_model_dir has lora_alpha 8; leave the key "
                          "out or train a new adapter" },
        { "use_rslora=true", "command line: use_rslora=true: use_rslora: is true, but the "
                             "adapter in lora_model_dir has use_rslora false; "
                             "leave the key out or train a new adapter" },
    };
    char *folder = runs_make("dense_mqa_tied");
    char from[512];
    run_whole(folder, "first", KEYS("max_steps=1", "lora_target_modules=[q_proj, up_proj]"));
    snprintf(from, sizeof from, "lora_model_dir=%s/first", folder);
    struct run r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(run_try_open(&r, folder, "out", KEYS(from, cases[i].key)));
        assert_int_equal(r.err.code, ERR_RECIPE);
        assert_string_equal(r.err.text, cases[i].text);
        run_close(&r);
    }
    static const char *const selections[] = { "lora_target_modules=[q_proj]",
                                              "lora_target_linear=true",
                                              "lora_layers_to_transform=[0]",
                                              "lora_exclude_modules=[up_proj]" };
    for (size_t i = 0; i < sizeof selections / sizeof *selections; i++) {
        assert_false(run_try_open(&r, folder, "out", KEYS(from, selections[i])));
        assert_int_equal(r.err.code, ERR_RECIPE);
        assert_non_null(strstr(r.err.text, "lora_model_dir"));
        run_close(&r);
    }
    /* The same said again is no contradiction. */
    run_open(&r, folder, "out",
             KEYS(from, "lora_r=4", "lora_alpha=8", "lora_target_modules=[up_proj, q_proj]"));
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* ---- what is refused ---- */

static void expect_refused(const char *folder, const char *const *keys, enum err_code code,
                           const char *text)
{
    struct run r;
    char have[ERR_TEXT_SIZE];
    assert_false(run_try_open(&r, folder, "out", keys));
    tiny_message(have, &r.err, folder);
    assert_string_equal(have, text);
    assert_int_equal(r.err.code, code);
    run_close(&r);
}

static void what_cannot_be_trained_is_refused_before_it_begins(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    expect_refused(folder, KEYS("device=cuda"), ERR_RECIPE,
                   "command line: device=cuda: device: cuda cannot be used: CUDA is switched off "
                   "(JAMBATUNE_CUDA_MODULE=none); use cpu or auto");
    expect_refused(folder, KEYS("lora_target_modules=[q_porj]"), ERR_RECIPE,
                   "command line: lora_target_modules=[q_porj]: lora_target_modules: 'q_porj' "
                   "matches no module; did you mean 'q_proj'?");
    expect_refused(
        folder, KEYS("chat_template=gone.jinja"), ERR_RECIPE,
        "command line: chat_template=gone.jinja: chat_template: 'gone.jinja' is no file, "
        "and no template of ours; expected a path, 'jamba' or 'chatml'");
    expect_refused(folder, KEYS("val_set_size=20"), ERR_DATA,
                   "val_set_size: 20 of 20 records leaves none to train on; lower it");
    char key[512];
    snprintf(key, sizeof key, "datasets.0.path=%s/none.jsonl", folder);
    struct run r;
    assert_false(run_try_open(&r, folder, "out", KEYS(key)));
    assert_int_equal(r.err.code, ERR_NO_INPUT);
    run_close(&r);
    assert_false(run_try_open(&r, folder, "out", KEYS("memory_budget=1KiB")));
    assert_int_equal(r.err.code, ERR_NO_MEMORY);
    run_close(&r);
    char *out = runs_path(folder, "out", "");
    assert_false(file_exists(out)); /* nothing was written */
    free(out);
    tiny_scratch_remove(folder);
}

static void attention_dropout_is_refused_in_training(void **state)
{
    (void)state;
    char *checkpoint = tiny_scratch_make();
    const struct jamba_config config = tiny_config();
    tiny_checkpoint_write(
        checkpoint, &config,
        &(struct tiny_options){ .config_members = "\"attention_dropout\": 0.25" });
    char *folder = runs_make(checkpoint);
    expect_refused(
        folder, NULL, ERR_DATA,
        "config.json: \"attention_dropout\" is 0.25; training with attention dropout is not there, "
        "set it to 0 to train without");
    tiny_scratch_remove(folder);
    tiny_scratch_remove(checkpoint);
}

static void an_output_dir_that_cannot_be_made_stops_the_run(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    char have[ERR_TEXT_SIZE];
    struct run r;
    run_open(&r, folder, "train.jsonl/out", KEYS("max_steps=1"));
    assert_false(run_go(&r, NULL));
    tiny_message(have, &r.err, folder);
    assert_int_equal(r.err.code, ERR_CANT_CREATE);
    assert_string_equal(have, "DIR/train.jsonl: cannot be created: File exists");
    run_close(&r);
    tiny_scratch_remove(folder);
}

static void a_metrics_file_that_cannot_be_made_stops_the_run(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    char *in_the_way = runs_path(folder, "out", "metrics.jsonl");
    char have[ERR_TEXT_SIZE];
    struct err err = { 0 };
    struct run r;
    REQUIRE(file_make_directory(in_the_way, &err));
    run_open(&r, folder, "out", KEYS("max_steps=1"));
    assert_false(run_go(&r, NULL));
    tiny_message(have, &r.err, folder);
    assert_int_equal(r.err.code, ERR_CANT_CREATE);
    assert_string_equal(have, "DIR/out/metrics.jsonl: cannot be created: Is a directory");
    run_close(&r);
    free(in_the_way);
    tiny_scratch_remove(folder);
}

static void warnings_name_what_others_will_not_honour(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    struct run r;
    struct text text = { 0 };
    run_open(&r, folder, "out", KEYS("lora_target_modules=[router, dt_proj]"));
    trainer_warnings(&r.t, &text);
    assert_non_null(strstr(text.data, "router: "));
    assert_non_null(strstr(text.data, "dt_proj: "));
    text_free(&text);
    run_close(&r);
    run_open(&r, folder, "out", NULL);
    trainer_warnings(&r.t, &text);
    assert_int_equal(text.len, 0);
    text_free(&text);
    run_close(&r);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_logs_a_line_a_step_and_one_per_evaluation),
        cmocka_unit_test(without_a_balance_there_is_no_aux_loss),
        cmocka_unit_test(evaluations_come_first_on_schedule_and_last),
        cmocka_unit_test(epochs_decide_the_steps_when_max_steps_does_not),
        cmocka_unit_test(the_first_losses_are_those_of_the_base),
        cmocka_unit_test(a_good_run_ends_in_a_better_adapter),
        cmocka_unit_test(a_bad_run_keeps_the_adapter_it_began_with_as_the_best),
        cmocka_unit_test(the_recipe_stands_beside_the_adapters),
        cmocka_unit_test(files_of_their_own_validate_all_their_documents),
        cmocka_unit_test(a_run_with_dropout_stays_within_its_plan),
        cmocka_unit_test(continuing_takes_choices_and_tensors_from_the_adapter),
        cmocka_unit_test(keys_that_contradict_the_adapter_are_errors),
        cmocka_unit_test(what_cannot_be_trained_is_refused_before_it_begins),
        cmocka_unit_test(attention_dropout_is_refused_in_training),
        cmocka_unit_test(an_output_dir_that_cannot_be_made_stops_the_run),
        cmocka_unit_test(a_metrics_file_that_cannot_be_made_stops_the_run),
        cmocka_unit_test(warnings_name_what_others_will_not_honour),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
