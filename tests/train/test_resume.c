/* Runs that are stopped and go on: the same bytes as without the stop, from any step; what has
 * changed is refused by name; what is damaged is named and passed over. */
#include "tests/train/runs.h"

#include <dirent.h>
#include <sys/stat.h>

#include "finetune/train/checkpoint.h"
#include "finetune/train/history.h"
#include "kernels/ops.h"

#ifdef __SANITIZE_ADDRESS__
enum { STEPS = 64, STRIDE = 9 }; /* a run takes ten times as long there */
#else
enum { STEPS = 64, STRIDE = 1 };
#endif

/* Attention, Mamba and experts; dropout, accumulation and packing on; evaluations with a best one.
 */
#define BUSY                                                                                       \
    "lora_dropout=0.1", "gradient_accumulation_steps=2", "micro_batch_size=2",                     \
        "sample_packing=true", "sequence_len=16", "excess_length_strategy=split",                  \
        "lr_scheduler=cosine", "router_aux_loss_coef=0.01", "eval_steps=9"

/* What a log says of the run, without what depends on the clock. */
static void expect_same_log(const char *folder, const char *a, const char *b)
{
    static const char *const keys[] = { "step",           "epoch",     "loss",   "aux_loss",
                                        "learning_rate",  "grad_norm", "tokens", "eval_loss",
                                        "trained_tokens", "sample" };
    json_t *x = runs_metrics(folder, a), *y = runs_metrics(folder, b);
    assert_int_equal(json_array_size(x), json_array_size(y));
    for (size_t i = 0; i < json_array_size(x); i++) {
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            json_t *p = json_object_get(json_array_get(x, i), keys[k]);
            json_t *q = json_object_get(json_array_get(y, i), keys[k]);
            assert_true((p == NULL && q == NULL) || json_equal(p, q));
        }
    }
    json_decref(x);
    json_decref(y);
}

/* ---- the same bytes ---- */

static void stopped_at_any_step_a_run_ends_in_the_same_bytes(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    run_whole(folder, "straight", KEYS(BUSY, "max_steps=64", "save_steps=0"));
    for (int64_t k = 0; k <= STEPS; k += STRIDE) {
        stop_after(folder, "out", k, KEYS(BUSY, "max_steps=64"));
        run_whole(folder, "out", KEYS(BUSY, "max_steps=64", "resume_from_checkpoint=auto"));
        if (!runs_same_adapter(folder, "straight", "out"))
            fail_msg("stopped after step %d", (int)k);
        assert_true(runs_same_file(folder, "straight", "out", "best/" PEFT_TENSORS_NAME));
        expect_same_log(folder, "straight", "out");
    }
    tiny_scratch_remove(folder);
}

/* A signal while the model writes its samples; raised at a product of matrices, of which each token
 * takes the same number. */
static struct {
    const struct ops *sound;
    struct ops ops;
    int64_t n_call, raise_at; /* counted from the evaluation on; 0: never */
    volatile sig_atomic_t stop;
} sampled;

static void counting_gemm(struct backend *be, const struct gemm_args *a, void *scratch)
{
    sampled.sound->gemm(be, a, scratch);
    if (++sampled.n_call == sampled.raise_at)
        sampled.stop = 1;
}

static void count_from_here(void *context, const struct train_eval *e)
{
    (void)context;
    if (e->step == 4)
        sampled.n_call = 0;
}

static bool run_counted(struct run *r, int64_t raise_at)
{
    const struct train_watch watch = { .on_eval = count_from_here, .stop = &sampled.stop };
    sampled.sound = r->t.engine.be.k;
    sampled.ops = *sampled.sound;
    sampled.ops.gemm = counting_gemm;
    sampled.n_call = INT64_MIN / 2;
    sampled.raise_at = raise_at;
    sampled.stop = 0;
    r->t.engine.be.k = &sampled.ops;
    return run_go(r, &watch);
}

static void stopped_among_its_samples_a_run_writes_the_others_later(void **state)
{
    (void)state;
    char here[400], *base, *folder;
    struct run r;
    assert_non_null(getcwd(here, sizeof here));
    base = file_join(here, "recipes/quickstart/base");
    folder = runs_make(base);
#define SAMPLED                                                                                    \
    "max_steps=4", "eval_steps=2", "sample_prompts=[one, two, three]", "sample_max_tokens=3"
    run_open(&r, folder, "straight", KEYS(SAMPLED));
    const bool went = run_counted(&r, 0);
    const int64_t n_call = sampled.n_call; /* of the last samples */
    run_close(&r);
    assert_true(went && n_call > 3);
    for (int i = 0; i <= 6; i++) {
        run_open(&r, folder, "out", KEYS(SAMPLED));
        assert_false(run_counted(&r, i == 0 ? 1 : n_call * i / 7));
        assert_int_equal(r.err.code, ERR_STOPPED);
        assert_int_equal(r.t.state.step, 4);
        assert_true(r.t.state.n_sampled < 3);
        run_close(&r);
        run_whole(folder, "out", KEYS(SAMPLED, "resume_from_checkpoint=auto"));
        assert_true(runs_same_adapter(folder, "straight", "out"));
        expect_same_log(folder, "straight", "out");
    }
    free(base);
    tiny_scratch_remove(folder);
}

static void many_stops_in_one_run_too(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    run_whole(folder, "straight", KEYS(BUSY, "max_steps=30"));
    stop_after(folder, "out", 0, KEYS(BUSY, "max_steps=30"));
    for (int64_t k = 1; k < 30; k += 2)
        stop_after(folder, "out", k, KEYS(BUSY, "max_steps=30", "resume_from_checkpoint=auto"));
    run_whole(folder, "out", KEYS(BUSY, "max_steps=30", "resume_from_checkpoint=auto"));
    assert_true(runs_same_adapter(folder, "straight", "out"));
    expect_same_log(folder, "straight", "out");
    tiny_scratch_remove(folder);
}

/* Saves, threads, recompute policy and the split of a step's documents are no part of the bytes. */
static void what_cannot_change_the_bytes_may_differ(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "save_steps=1",
        "save_steps=0.25",
        "threads=2",
        "threads=4",
        "gradient_checkpointing=none",
        "gradient_checkpointing=scan",
        "gradient_checkpointing=layer",
        "micro_batch_size=4",
        "self_check_steps=3",
        "logging_steps=5",
        "chunk_tokens=32",
    };
    char *folder = runs_make("moe_gqa_untied");
    run_whole(folder, "straight", KEYS(BUSY, "max_steps=20", "chunk_tokens=32"));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const bool four = strcmp(keys[i], "micro_batch_size=4") == 0;
        run_whole(folder, "out",
                  KEYS(BUSY, "max_steps=20", "chunk_tokens=32", keys[i],
                       four ? "gradient_accumulation_steps=1" : "seed=7"));
        if (!runs_same_adapter(folder, "straight", "out"))
            fail_msg("%s", keys[i]);
    }
    tiny_scratch_remove(folder);
}

/* Passes and chunks decide rounding: a run that goes on keeps those it had, whatever it is told. */
static void a_run_goes_on_in_the_chunks_it_had(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    run_whole(folder, "straight", KEYS(BUSY, "max_steps=20", "chunk_tokens=8"));
    stop_after(folder, "out", 9, KEYS(BUSY, "max_steps=20", "chunk_tokens=8"));
    run_whole(folder, "out",
              KEYS(BUSY, "max_steps=20", "chunk_tokens=16", "threads=2",
                   "gradient_checkpointing=layer", "micro_batch_size=1",
                   "gradient_accumulation_steps=4", "resume_from_checkpoint=auto"));
    assert_true(runs_same_adapter(folder, "straight", "out"));
    tiny_scratch_remove(folder);
}

/* ---- what is refused ---- */

/* Stops `out` after five steps, then expects the message of a run with these keys. */
static void expect_refusal(const char *folder, const char *const *keys, enum err_code code,
                           const char *message)
{
    char have[ERR_TEXT_SIZE];
    struct run r;
    assert_false(run_try_open(&r, folder, "out", keys));
    tiny_message(have, &r.err, folder);
    assert_int_equal(r.err.code, code);
    if (strstr(have, message) == NULL)
        fail_msg("'%s' is not in '%s'", message, have);
    run_close(&r);
}

#define AGAIN "max_steps=20", "resume_from_checkpoint=auto"

static void a_changed_recipe_is_refused_with_the_key(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    stop_after(folder, "out", 5, KEYS("max_steps=20"));
    static const struct {
        const char *key, *message;
    } cases[] = {
        { "learning_rate=0.02",
          "another value of 'learning_rate': '0.01' there, '0.02' now; set it back, or allow it: "
          "--allow-change learning_rate" },
        { "max_steps=21", "'max_steps': '20' there, '21' now" },
        { "logging_steps=3", "--allow-change logging_steps" },
        { "lora_r=8", "'lora_r': '4' there, '8' now; set it back, or begin a new run" },
        { "lora_dropout=0.5", "'lora_dropout'" },
        { "seed=8", "'seed'" },
        { "sequence_len=16", "'sequence_len'" },
        { "micro_batch_size=2",
          "another value of micro_batch_size * gradient_accumulation_steps: '4' there, '2' now" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refusal(folder, KEYS(AGAIN, cases[i].key), ERR_RECIPE, cases[i].message);
    tiny_scratch_remove(folder);
}

static void changed_data_and_another_base_are_refused(void **state)
{
    (void)state;
    struct run r;
    char *folder = runs_make("dense_mqa_tied"), base[512], here[400], other[512];
    char have[ERR_TEXT_SIZE];
    stop_after(folder, "out", 5, KEYS("max_steps=20"));
    runs_write_documents(folder, "train.jsonl", 1, RUNS_DOCS + 1);
    expect_refusal(folder, KEYS(AGAIN), ERR_RECIPE,
                   "DIR/train.jsonl: has changed: DIR/out/checkpoint-5: was made with another "
                   "value of the training documents: ");
    runs_write_documents(folder, "train.jsonl", 0, RUNS_DOCS);
    runs_write_documents(folder, "other.jsonl", 0, 3);
    snprintf(other, sizeof other, "test_datasets=[{path: %s/other.jsonl, type: input_ids}]",
             folder);
    stop_after(folder, "other", 5, KEYS("max_steps=20", "val_set_size=0", other));
    runs_write_documents(folder, "other.jsonl", 1, 4);
    assert_false(run_try_open(&r, folder, "other", KEYS(AGAIN, "val_set_size=0", other)));
    tiny_message(have, &r.err, folder);
    assert_true(text_starts_with(have, "DIR/other.jsonl: has changed: DIR/other/checkpoint-5: was "
                                       "made with another value of the validation documents: "));
    run_close(&r);
    assert_non_null(getcwd(here, sizeof here));
    snprintf(base, sizeof base, "base_model=%s/tests/fixtures/models/moe_gqa_untied", here);
    expect_refusal(folder, KEYS(AGAIN, base), ERR_RECIPE, "another value of the base model: ");
    tiny_scratch_remove(folder);
}

/* Only what is read as the base is the base: another file in its folder is none of ours. */
static void another_file_beside_the_base_is_no_change(void **state)
{
    (void)state;
    static const char *const files[] = { "config.json", "model.safetensors" };
    char *base = tiny_scratch_make(), *folder = NULL;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *data = NULL;
        size_t n = 0;
        struct err err = { 0 };
        char *path = text_format("tests/fixtures/models/dense_mqa_tied/%s", files[i]);
        REQUIRE(file_read(path, (size_t)1 << 24, &data, &n, &err));
        tiny_file_write(base, files[i], data, n);
        free(data);
        free(path);
    }
    folder = runs_make(base);
    stop_after(folder, "out", 5, KEYS("max_steps=8"));
    tiny_file_write(base, "adapter_model.safetensors", "x", 1);
    tiny_file_write(base, "notes.txt", "x", 1);
    run_whole(folder, "out", KEYS("max_steps=8", "resume_from_checkpoint=auto"));
    tiny_scratch_remove(base);
    tiny_scratch_remove(folder);
}

static void a_folder_that_is_no_checkpoint_is_told(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), key[600];
    stop_after(folder, "out", 2, KEYS("max_steps=4"));
    snprintf(key, sizeof key, "resume_from_checkpoint=%s/out", folder);
    expect_refusal(folder, KEYS("max_steps=4", key), ERR_NO_INPUT,
                   "resume_from_checkpoint: DIR/out: is no checkpoint, it has no manifest.json; "
                   "expected the folder checkpoint-N of a run, or 'auto' for the newest in "
                   "output_dir");
    tiny_scratch_remove(folder);
}

/* Without checkpoints there is nothing to go on from, nor to say that it is done. */
static void a_finished_run_without_checkpoints_is_not_begun_again(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    run_whole(folder, "out", KEYS("max_steps=2", "save_steps=0"));
    const char *const *keys = KEYS("max_steps=2", "save_steps=0", "resume_from_checkpoint=auto",
                                   "overwrite_output_dir=false");
    expect_refusal(folder, keys, ERR_CANT_CREATE,
                   "DIR/out: has the adapter of a finished run and no checkpoint to go on from; "
                   "--overwrite removes it and begins anew, or set another output_dir");
    run_whole(folder, "out", KEYS("max_steps=2", "save_steps=0", "resume_from_checkpoint=auto"));
    tiny_scratch_remove(folder);
}

/* Nothing would be run with what has changed, and the recipe beside the adapter would be untrue. */
static void a_change_after_the_last_step_is_refused(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), path[512], output[512], have[ERR_TEXT_SIZE];
    run_whole(folder, "out", KEYS("max_steps=4"));
    struct run r = { 0 };
    snprintf(path, sizeof path, "%s/train.yaml", folder);
    snprintf(output, sizeof output, "output_dir=%s/out", folder);
    const char *const keys[] = { output, "max_steps=4", "learning_rate=0.02",
                                 "resume_from_checkpoint=auto" };
    assert_true(recipe_load(path, keys, 4, RECIPE_NEED_TRAIN, &r.recipe, &r.report));
    assert_false(trainer_open(&r.t, &r.recipe, "learning_rate", &r.err));
    tiny_message(have, &r.err, folder);
    assert_string_equal(have,
                        "DIR/out/checkpoint-4: is of the last step: no step is left to be run "
                        "with learning_rate: 0.01 -> 0.02; set it back, or raise max_steps or "
                        "num_epochs");
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* An adapter is not written over by mistake, whether there are checkpoints or not. */
static void a_folder_with_an_adapter_is_not_begun_in_anew_by_mistake(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    const char *const *keys = KEYS("max_steps=2", "save_steps=0", "overwrite_output_dir=false");
    run_whole(folder, "out", KEYS("max_steps=2", "save_steps=0"));
    expect_refusal(folder, keys, ERR_CANT_CREATE,
                   "DIR/out: has the adapter of an earlier run; --overwrite removes it");
    char *adapter = runs_path(folder, "out", PEFT_TENSORS_NAME);
    assert_int_equal(unlink(adapter), 0);
    expect_refusal(folder, keys, ERR_CANT_CREATE,
                   "DIR/out: has the best adapter of an earlier run");
    run_whole(folder, "out", KEYS("max_steps=2", "save_steps=0"));
    assert_true(file_exists(adapter));
    free(adapter);
    tiny_scratch_remove(folder);
}

/* Allowed changes take effect, are told and logged. */
static void an_allowed_change_is_made_and_recorded(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), path[512], output[512];
    stop_after(folder, "out", 5, KEYS("max_steps=20"));
    struct run r = { 0 };
    snprintf(path, sizeof path, "%s/train.yaml", folder);
    snprintf(output, sizeof output, "output_dir=%s/out", folder);
    const char *const keys[] = { output, "max_steps=8", "logging_steps=2",
                                 "resume_from_checkpoint=auto" };
    assert_true(recipe_load(path, keys, 4, RECIPE_NEED_TRAIN, &r.recipe, &r.report));
    assert_false(trainer_open(&r.t, &r.recipe, "max_steps", &r.err));
    assert_non_null(strstr(r.err.text, "'logging_steps'"));
    trainer_close(&r.t);
    assert_false(trainer_open(&r.t, &r.recipe, "max_steps,lora_r", &r.err));
    assert_int_equal(r.err.code, ERR_USAGE);
    assert_non_null(strstr(r.err.text, "--allow-change: 'lora_r' may not differ; expected some of: "
                                       "max_steps, num_epochs, "));
    trainer_close(&r.t);
    if (!trainer_open(&r.t, &r.recipe, "max_steps,logging_steps", &r.err))
        fail_msg("%s", r.err.text);
    assert_string_equal(r.t.changes.data, "max_steps: 20 -> 8\nlogging_steps: 10 -> 2\n");
    if (!run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    assert_int_equal(r.t.state.step, 8);
    run_close(&r);
    struct history h;
    struct err err = { 0 };
    char *out = runs_path(folder, "out", "");
    REQUIRE(history_read(&h, out, &err));
    bool recorded = false;
    for (int64_t i = 0; i < h.n_event; i++)
        recorded |= strcmp(h.events[i].event, "resumed") == 0 &&
                    strstr(h.events[i].text, "max_steps: 20 -> 8") != NULL;
    assert_true(recorded);
    history_free(&h);
    free(out);
    tiny_scratch_remove(folder);
}

static void a_folder_with_checkpoints_is_not_begun_in_anew_by_mistake(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    stop_after(folder, "out", 5, KEYS("max_steps=20"));
    expect_refusal(
        folder, KEYS("max_steps=20", "overwrite_output_dir=false"), ERR_CANT_CREATE,
        "DIR/out: has checkpoints of an earlier run, the newest of step 5; --resume goes "
        "on with it, --overwrite removes them and begins anew, or set another "
        "output_dir");
    run_whole(folder, "out", KEYS("max_steps=3", "save_steps=0"));
    char *old = runs_path(folder, "out", "checkpoint-5");
    assert_false(file_exists(old));
    free(old);
    /* Nothing to go on from is no error: the same command works the first time. */
    run_whole(folder, "fresh", KEYS("max_steps=3", "resume_from_checkpoint=auto"));
    assert_true(runs_same_adapter(folder, "fresh", "out"));
    char key[600], *other = runs_path(folder, "none", "checkpoint-1");
    snprintf(key, sizeof key, "resume_from_checkpoint=%s", other);
    expect_refusal(folder, KEYS("max_steps=3", key), ERR_NO_INPUT,
                   "is no folder; expected a checkpoint-N, or 'auto'");
    free(other);
    tiny_scratch_remove(folder);
}

static void two_runs_cannot_share_a_folder(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    struct run first;
    struct err err = { 0 };
    char *out = runs_path(folder, "out", "");
    REQUIRE(file_make_directory(out, &err)); /* else the folder is locked when the run begins */
    free(out);
    run_open(&first, folder, "out", KEYS("max_steps=2"));
    char want[64];
    snprintf(want, sizeof want, "DIR/out: is in use by another run (process %ld on ",
             (long)getpid());
    expect_refusal(folder, KEYS("max_steps=2"), ERR_CANT_CREATE, want);
    run_close(&first);
    run_whole(folder, "out", KEYS("max_steps=2"));
    tiny_scratch_remove(folder);
}

/* A run that ended by its numbers ends so again, at once: nobody takes a retry for a success. */
static void too_many_steps_that_were_left_out_stop_the_next_start_too(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        return; /* which such a rate does not throw out */
    char *folder = runs_make("moe_gqa_untied");
    struct run r;
    for (int start = 0; start < 3; start++) {
        run_open(&r, folder, "out",
                 KEYS("learning_rate=1e30", "max_steps=5", "max_nonfinite_steps=2",
                      start == 0 ? "seed=7" : "resume_from_checkpoint=auto"));
        const bool went = run_go(&r, NULL);
        const enum err_code code = r.err.code;
        const int64_t step = r.t.state.step;
        run_close(&r);
        assert_false(went);
        assert_int_equal(code, ERR_NUMERICS);
        assert_int_equal(step, 3);
    }
    tiny_scratch_remove(folder);
}

static void patience_can_be_given_back(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), path[512], output[512];
    run_whole(
        folder, "out",
        KEYS("max_steps=30", "learning_rate=0.3", "eval_steps=1", "early_stopping_patience=2"));
    struct run r = { 0 };
    snprintf(path, sizeof path, "%s/train.yaml", folder);
    snprintf(output, sizeof output, "output_dir=%s/out", folder);
    const char *const keys[] = { output,
                                 "max_steps=30",
                                 "learning_rate=0.3",
                                 "eval_steps=1",
                                 "early_stopping_patience=1000",
                                 "resume_from_checkpoint=auto" };
    assert_true(recipe_load(path, keys, 6, RECIPE_NEED_TRAIN, &r.recipe, &r.report));
    if (!trainer_open(&r.t, &r.recipe, " early_stopping_patience,", &r.err) || !run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    assert_int_equal(r.t.state.step, 30);
    assert_false(r.t.state.stopped_early);
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* best/ is not in the checkpoint: where it is missing, the best of the evaluations to come is
 * taken, and the run does not fail at its end. */
/* What a run writes over cannot be what it begins with. */
static void an_adapter_to_begin_with_is_not_taken_from_the_output_folder(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), key[600];
    run_whole(folder, "out", KEYS("max_steps=3"));
    char *best = runs_path(folder, "out", "best");
    snprintf(key, sizeof key, "lora_model_dir=%s", best);
    expect_refusal(folder, KEYS("max_steps=3", key), ERR_RECIPE,
                   "lora_model_dir: is in output_dir, whose files the run writes over");
    assert_true(file_is_directory(best));
    free(best);
    tiny_scratch_remove(folder);
}

/* ---- a machine that cannot be trusted ---- */

/* A product in which one bit comes out wrong, once. */
static struct {
    const struct ops *sound;
    struct ops ops;
    int64_t n_call, wrong_at; /* counted over the run; 0: never */
} faulty;

static void faulty_gemm(struct backend *be, const struct gemm_args *a, void *scratch)
{
    faulty.sound->gemm(be, a, scratch);
    if (++faulty.n_call == faulty.wrong_at) {
        ((unsigned char *)a->c)[sizeof(real) - 2] ^= 1; /* not lost in the next rounding */
    }
}

static void faulty_adamw(struct backend *be, const struct adamw_args *a, void *scratch)
{
    faulty.sound->adamw(be, a, scratch);
    if (++faulty.n_call == faulty.wrong_at)
        ((unsigned char *)a->v)[0] ^= 1;
}

static void go_wrong_in_step_four(void *context, const struct train_step *s)
{
    const int64_t *calls = context;
    if (s->step == 3)
        faulty.wrong_at = faulty.n_call + *calls;
}

/* The call-th call of the kind that `fault` replaces goes wrong in step 4, which is checked. */
static void expect_caught(struct ops fault, int64_t call, const char *what)
{
    char *folder = runs_make("moe_gqa_untied");
    const char *const *keys = KEYS("max_steps=8", "self_check_steps=2", "save_steps=1");
    const struct train_watch watch = { .context = &call, .on_step = go_wrong_in_step_four };
    run_whole(folder, "straight", keys);
    struct run r;
    run_open(&r, folder, "out", keys);
    faulty.sound = r.t.engine.be.k;
    faulty.ops = *faulty.sound;
    if (fault.gemm != NULL)
        faulty.ops.gemm = fault.gemm;
    if (fault.adamw != NULL)
        faulty.ops.adamw = fault.adamw;
    faulty.n_call = faulty.wrong_at = 0;
    r.t.engine.be.k = &faulty.ops;
    const bool went = run_go(&r, &watch);
    const struct err why = r.err;
    const int64_t step = r.t.state.step;
    run_close(&r);
    assert_false(went);
    assert_int_equal(why.code, ERR_DEVICE);
    assert_true(text_starts_with(why.text, "step 4 was computed twice and came out different "));
    assert_non_null(strstr(why.text, what));
    assert_int_equal(step, 3);
    run_whole(
        folder, "out",
        KEYS("max_steps=8", "self_check_steps=2", "save_steps=1", "resume_from_checkpoint=auto"));
    assert_true(runs_same_adapter(folder, "straight", "out"));
    tiny_scratch_remove(folder);
}

static void a_step_that_comes_out_different_is_not_applied(void **state)
{
    (void)state;
    expect_caught((struct ops){ .gemm = faulty_gemm }, 5, "(gradients ");
}

static void an_update_that_comes_out_different_is_not_kept(void **state)
{
    (void)state;
    expect_caught((struct ops){ .adamw = faulty_adamw }, 1, "(values ");
    expect_caught((struct ops){ .adamw = faulty_adamw }, 2, "(values ");
}

/* ---- the end ---- */

static void early_stopping_ends_the_run_and_load_best_keeps_the_best(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    struct run r;
    run_open(&r, folder, "out",
             KEYS("max_steps=200", "learning_rate=0.3", "eval_steps=1", "early_stopping_patience=3",
                  "load_best=true"));
    if (!run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    const struct train_counters c = r.t.state;
    assert_true(c.stopped_early && c.step < 200 && c.step - c.best_step == 3 && c.n_worse == 3);
    run_close(&r);
    assert_true(runs_same_file(folder, "out", "out/best", PEFT_TENSORS_NAME));
    struct history h;
    struct err err = { 0 };
    char *out = runs_path(folder, "out", "");
    REQUIRE(history_read(&h, out, &err));
    assert_int_equal(h.life, HISTORY_DONE);
    history_free(&h);
    free(out);
    /* A finished run has nothing to go on with, and stays as it is. */
    run_whole(folder, "out",
              KEYS("max_steps=200", "learning_rate=0.3", "eval_steps=1",
                   "early_stopping_patience=3", "load_best=true", "resume_from_checkpoint=auto"));
    assert_true(runs_same_file(folder, "out", "out/best", PEFT_TENSORS_NAME));
    tiny_scratch_remove(folder);
}

static void the_newest_checkpoints_are_kept(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    run_whole(folder, "out", KEYS("max_steps=11", "save_steps=2", "save_total_limit=3"));
    struct checkpoint_list list;
    struct err err = { 0 };
    char *out = runs_path(folder, "out", "");
    REQUIRE(checkpoint_list(out, &list, &err));
    assert_int_equal(list.n, 3);
    assert_true(list.steps[0] == 11 && list.steps[1] == 10 && list.steps[2] == 8);
    checkpoint_list_free(&list);
    free(out);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stopped_at_any_step_a_run_ends_in_the_same_bytes),
        cmocka_unit_test(many_stops_in_one_run_too),
        cmocka_unit_test(stopped_among_its_samples_a_run_writes_the_others_later),
        cmocka_unit_test(what_cannot_change_the_bytes_may_differ),
        cmocka_unit_test(a_run_goes_on_in_the_chunks_it_had),
        cmocka_unit_test(a_changed_recipe_is_refused_with_the_key),
        cmocka_unit_test(changed_data_and_another_base_are_refused),
        cmocka_unit_test(another_file_beside_the_base_is_no_change),
        cmocka_unit_test(a_folder_that_is_no_checkpoint_is_told),
        cmocka_unit_test(a_finished_run_without_checkpoints_is_not_begun_again),
        cmocka_unit_test(an_allowed_change_is_made_and_recorded),
        cmocka_unit_test(a_change_after_the_last_step_is_refused),
        cmocka_unit_test(a_folder_with_an_adapter_is_not_begun_in_anew_by_mistake),
        cmocka_unit_test(a_folder_with_checkpoints_is_not_begun_in_anew_by_mistake),
        cmocka_unit_test(two_runs_cannot_share_a_folder),
        cmocka_unit_test(too_many_steps_that_were_left_out_stop_the_next_start_too),
        cmocka_unit_test(patience_can_be_given_back),
        cmocka_unit_test(an_adapter_to_begin_with_is_not_taken_from_the_output_folder),
        cmocka_unit_test(a_step_that_comes_out_different_is_not_applied),
        cmocka_unit_test(an_update_that_comes_out_different_is_not_kept),
        cmocka_unit_test(early_stopping_ends_the_run_and_load_best_keeps_the_best),
        cmocka_unit_test(the_newest_checkpoints_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
