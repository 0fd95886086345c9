/* Runs that meet numbers that are not finite, and runs that are stopped: nothing bad is applied,
 * nothing is hidden, and the adapter so far is whole. */
#include "tests/train/runs.h"

/* ---- checkpoints with something wrong in them ---- */

/* A fixture with one element of one tensor replaced. */
static char *poisoned_checkpoint(const char *model, const char *tensor, int64_t element,
                                 float value)
{
    char *folder = tiny_scratch_make();
    char path[512];
    struct safetensors st = { 0 };
    struct err err = { 0 };
    snprintf(path, sizeof path, "tests/fixtures/models/%s/model.safetensors", model);
    REQUIRE(safetensors_open(path, &st, &err));
    struct safetensors_tensor *t =
        (struct safetensors_tensor *)(uintptr_t)safetensors_find(&st, tensor);
    assert_non_null(t);
    assert_int_equal(t->dtype, DTYPE_F32);
    char *data = malloc(t->bytes);
    assert_non_null(data);
    memcpy(data, t->data, t->bytes);
    memcpy(data + element * (int64_t)sizeof value, &value, sizeof value);
    t->data = data;
    char *to = file_join(folder, "model.safetensors"), *config = NULL;
    REQUIRE(safetensors_write(to, st.tensors, st.n_tensor, &err));
    snprintf(path, sizeof path, "tests/fixtures/models/%s/config.json", model);
    size_t size = 0;
    REQUIRE(file_read(path, 1 << 20, &config, &size, &err));
    tiny_file_write(folder, "config.json", config, size);
    free(config);
    free(to);
    free(data);
    safetensors_close(&st);
    return folder;
}

/* Token RUNS_MARK embeds as NaN: the steps with the documents that hold it are lost, others are
 * not. */
static char *checkpoint_with_a_bad_token(void)
{
    enum { D_MODEL = 16 };
    return poisoned_checkpoint("moe_gqa_untied", "model.embed_tokens.weight",
                               RUNS_MARK * D_MODEL + 3, (float)NAN);
}

/* ---- watching ---- */

/* Parameters and moments as they were after the last step. */
struct watcher {
    const struct run *run;
    real *before; /* (3, n_param) */
    int n_applied, n_left_out;
    int64_t stop_at; /* raise the flag at the end of this step; -1: at the first evaluation */
    volatile sig_atomic_t stop;
};

static real *block(const struct lora_adapter *a, int i)
{
    real *const blocks[] = { a->params, a->m, a->v };
    return blocks[i];
}

static void remember(struct watcher *w)
{
    const struct lora_adapter *a = &w->run->t.engine.adapter;
    if (w->before == NULL)
        w->before = test_zeros(3 * a->n_param);
    for (int i = 0; i < 3; i++)
        memcpy(w->before + i * a->n_param, block(a, i), (size_t)a->n_param * sizeof(real));
}

static void check_step(void *context, const struct train_step *s)
{
    struct watcher *w = context;
    const struct lora_adapter *a = &w->run->t.engine.adapter;
    const size_t bytes = (size_t)a->n_param * sizeof(real);
    const bool finite = isfinite(s->loss) && isfinite(s->grad_norm);
    assert_int_equal(s->applied, finite);
    for (int i = 0; i < 3 && w->before != NULL; i++)
        assert_int_equal(memcmp(block(a, i), w->before + i * a->n_param, bytes) != 0, s->applied);
    w->n_applied += s->applied;
    w->n_left_out += !s->applied;
    if (s->step == w->stop_at)
        w->stop = 1;
    remember(w);
}

static void check_eval(void *context, const struct train_eval *e)
{
    struct watcher *w = context;
    (void)e;
    remember(w);
    if (w->stop_at < 0)
        w->stop = 1;
}

static struct train_watch watch_of(struct watcher *w)
{
    return (struct train_watch){
        .context = w, .on_step = check_step, .on_eval = check_eval, .stop = &w->stop
    };
}

/* The adapter in folder/name is the one in memory, whole. */
static void expect_whole_adapter(const struct run *r, const char *folder, const char *name)
{
    struct err err = { 0 };
    struct engine e = { 0 };
    const struct plan_shape shape = { 8, 8, RECOMPUTE_LAYER, 0 };
    struct engine_memory memory = { .shape = shape };
    char *out = runs_path(folder, name, "");
    const struct engine_options options = { .base_model = r->recipe.base_model,
                                            .compute = { .device = COMPUTE_CPU, .threads = 1 } };
    REQUIRE(engine_open(&e, &options, &err) && engine_choose_from(&e, out, &err));
    const struct plan_subject subject = engine_subject(&e, false);
    REQUIRE(plan_measure(&subject, &shape, &memory.bytes, &err));
    memory.adapter_dir = out;
    REQUIRE(engine_allocate(&e, &memory, &err));
    assert_int_equal(e.adapter.n_param, r->t.engine.adapter.n_param);
    for (int64_t i = 0; i < e.adapter.n_param; i++)
        assert_true((float)e.adapter.params[i] == (float)r->t.engine.adapter.params[i]);
    engine_close(&e);
    free(out);
}

/* ---- numbers that are not finite ---- */

static int count_marked(json_t *line)
{
    const char *documents = json_string_value(json_object_get(line, "documents"));
    assert_non_null(documents);
    int n = 0;
    char place[64];
    for (int d = RUNS_MARKED; d <= RUNS_MARKED + 1; d++) {
        snprintf(place, sizeof place, "train.jsonl:%d", d + 1);
        n += strstr(documents, place) != NULL;
    }
    return n;
}

/* One epoch of five documents a step: the two that are marked spoil their steps, and only those. */
static void a_step_with_a_bad_document_is_left_out_and_named(void **state)
{
    (void)state;
    char *checkpoint = checkpoint_with_a_bad_token(), *folder = runs_make(checkpoint);
    struct run r;
    struct watcher w = { .run = &r };
    const struct train_watch watch = watch_of(&w);
    run_open(&r, folder, "out",
             KEYS("val_set_size=0", "max_steps=8", "micro_batch_size=5", "shuffle=false",
                  "lr_scheduler=linear", "lora_dropout=0.1", "router_aux_loss_coef=0.01"));
    if (!run_go(&r, &watch))
        fail_msg("%s", r.err.text);
    json_t *lines = runs_metrics(folder, "out");
    assert_int_equal(json_array_size(lines), 8);
    for (int i = 0; i < 8; i++) {
        json_t *line = json_array_get(lines, (size_t)i),
               *applied = json_object_get(line, "applied");
        const bool bad = i % 4 == 1; /* documents 5 and 6 of 20, five a step */
        /* The schedule goes on in either case. */
        assert_true(fabs(runs_number(line, "learning_rate") - 0.01 * (8 - i) / 8) < 1e-10);
        if (!bad) {
            assert_true(applied == NULL && json_object_get(line, "documents") == NULL);
            assert_true(runs_number(line, "loss") > 0 && runs_number(line, "grad_norm") > 0);
            continue;
        }
        assert_true(json_is_false(applied));
        assert_string_equal(json_string_value(json_object_get(line, "loss")), "NaN");
        assert_string_equal(json_string_value(json_object_get(line, "grad_norm")), "NaN");
        assert_int_equal(count_marked(line), 2);
    }
    assert_true(w.n_applied == 6 && w.n_left_out == 2 && r.t.state.n_applied == 6 &&
                r.t.state.n_nonfinite == 2);
    expect_whole_adapter(&r, folder, "out");
    json_decref(lines);
    test_release(w.before);
    run_close(&r);
    tiny_scratch_remove(folder);
    tiny_scratch_remove(checkpoint);
}

/* A step left out is no step to the optimizer: the same updates follow as if its documents were not
 * there. */
static void steps_left_out_do_not_count_for_the_optimizer(void **state)
{
    (void)state;
    char *checkpoint = checkpoint_with_a_bad_token();
    char *folder = runs_make(checkpoint);
    struct text good = { 0 };
    for (int d = 0; d < RUNS_DOCS; d++) {
        if (d != RUNS_MARKED && d != RUNS_MARKED + 1)
            runs_write_document(&good, d);
    }
    tiny_file_write(folder, "good.jsonl", good.data, good.len);
    char key[512];
    snprintf(key, sizeof key, "datasets.0.path=%s/good.jsonl", folder);
    /* One document a step: 8 steps of which two are left out, and 6 without them. */
    run_whole(folder, "spoilt",
              KEYS("val_set_size=0", "max_steps=8", "micro_batch_size=1", "shuffle=false"));
    run_whole(folder, "clean",
              KEYS(key, "val_set_size=0", "max_steps=6", "micro_batch_size=1", "shuffle=false"));
    assert_true(runs_same_adapter(folder, "spoilt", "clean"));
    text_free(&good);
    tiny_scratch_remove(folder);
    tiny_scratch_remove(checkpoint);
}

/* What the final norm's weight is poisoned with, and which numbers the log then has. */
struct poison {
    float value;
    const char *alpha;
    bool finite_loss, finite_norm;
    bool float_only; /* a double holds it all */
};

static void check_numerics(const struct poison *p)
{
    char *checkpoint =
        poisoned_checkpoint("dense_mqa_tied", "model.final_layernorm.weight", 5, p->value);
    char *folder = runs_make(checkpoint), have[ERR_TEXT_SIZE];
    struct run r;
    struct watcher w = { .run = &r };
    const struct train_watch watch = watch_of(&w);
    run_open(&r, folder, "out", KEYS("max_steps=9", "max_nonfinite_steps=2", p->alpha));
    assert_false(run_go(&r, &watch));
    tiny_message(have, &r.err, folder);
    assert_int_equal(r.err.code, ERR_NUMERICS);
    assert_string_equal(
        have,
        "stopped after 2 steps with a non-finite loss or gradient (max_nonfinite_steps); none of "
        "them was applied. The steps and their documents are in DIR/out/metrics.jsonl; lower "
        "learning_rate, or look at those documents");
    assert_true(w.n_applied == 0 && w.n_left_out == 2 && r.t.state.step == 2);
    json_t *lines = runs_metrics(folder, "out");
    assert_int_equal(json_array_size(lines), 3);
    for (size_t i = 1; i < 3; i++) { /* after the first evaluation */
        json_t *line = json_array_get(lines, i);
        assert_int_equal(json_is_number(json_object_get(line, "loss")), p->finite_loss);
        assert_int_equal(json_is_number(json_object_get(line, "grad_norm")), p->finite_norm);
    }
    expect_whole_adapter(&r, folder, "out/checkpoint-2");
    json_decref(lines);
    test_release(w.before);
    run_close(&r);
    tiny_scratch_remove(folder);
    tiny_scratch_remove(checkpoint);
}

static void too_many_such_steps_stop_the_run(void **state)
{
    (void)state;
    static const struct poison poisons[] = {
        { .value = (float)NAN },
        { .value = (float)INFINITY },
        /* Logits so far apart that a loss overflows, but no gradient; and the other way round. */
        { .value = 6e37f, .finite_norm = true, .float_only = true },
        { .value = 3e37f, .alpha = "lora_alpha=1e9", .finite_loss = true, .float_only = true },
    };
    for (size_t i = 0; i < sizeof poisons / sizeof *poisons; i++) {
        if (!(poisons[i].float_only && REAL_IS_DOUBLE))
            check_numerics(&poisons[i]);
    }
}

/* An evaluation that is not finite is logged, and never the best. */
static void an_evaluation_that_is_not_finite_is_never_the_best(void **state)
{
    (void)state;
    char *checkpoint =
        poisoned_checkpoint("dense_mqa_tied", "model.final_layernorm.weight", 5, (float)NAN);
    char *folder = runs_make(checkpoint), *best = runs_path(folder, "out", "best");
    struct run r;
    run_open(&r, folder, "out", KEYS("max_steps=1", "max_nonfinite_steps=2"));
    assert_true(run_go(&r, NULL));
    json_t *lines = runs_metrics(folder, "out");
    assert_int_equal(json_array_size(lines), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(lines, 0), "eval_loss")),
                        "NaN");
    assert_false(file_is_directory(best));
    json_decref(lines);
    free(best);
    run_close(&r);
    tiny_scratch_remove(folder);
    tiny_scratch_remove(checkpoint);
}

/* A rate that throws the adapter out of all bounds shows in the next step's loss. */
static void a_huge_rate_ends_in_numerics_not_in_silence(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        return; /* which such a rate does not throw out */
    char *folder = runs_make("moe_gqa_untied");
    struct run r;
    struct watcher w = { .run = &r };
    const struct train_watch watch = watch_of(&w);
    run_open(&r, folder, "out",
             KEYS("learning_rate=1e30", "max_steps=9", "max_nonfinite_steps=2", "eval_steps=1"));
    assert_false(run_go(&r, &watch));
    assert_int_equal(r.err.code, ERR_NUMERICS);
    assert_true(w.n_applied == 1 && w.n_left_out == 2);
    json_t *lines = runs_metrics(folder, "out"),
           *last = json_array_get(lines, json_array_size(lines) - 1);
    assert_true(json_is_false(json_object_get(last, "applied")));
    assert_int_equal(r.t.state.best_step, 0);
    if (!REAL_IS_DOUBLE) /* 1e300 has no place in a file of floats */
        expect_whole_adapter(&r, folder, "out/checkpoint-3");
    json_decref(lines);
    test_release(w.before);
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* ---- being stopped ---- */

static void check_stopped(struct run *r, const char *folder, int64_t steps, int64_t of)
{
    char have[ERR_TEXT_SIZE], want[256], name[64];
    snprintf(want, sizeof want,
             "stopped by a signal after step %d of %d; DIR/out/checkpoint-%d is whole: --resume "
             "goes on from there",
             (int)steps, (int)of, (int)steps);
    snprintf(name, sizeof name, "out/checkpoint-%d", (int)steps);
    tiny_message(have, &r->err, folder);
    assert_int_equal(r->err.code, ERR_STOPPED);
    assert_string_equal(have, want);
    assert_int_equal(r->t.state.step, steps);
    expect_whole_adapter(r, folder, name);
}

static void a_stop_after_a_step_leaves_the_adapter_of_that_step(void **state)
{
    (void)state;
    char *folder = runs_make("moe_gqa_untied");
    struct run r;
    struct watcher w = { .run = &r, .stop_at = 3 };
    const struct train_watch watch = watch_of(&w);
    run_open(&r, folder, "out", KEYS("max_steps=50", "lora_dropout=0.1"));
    assert_false(run_go(&r, &watch));
    check_stopped(&r, folder, 3, 50);
    run_close(&r);
    test_release(w.before);
    json_t *lines = runs_metrics(folder, "out");
    assert_int_equal(json_array_size(lines), 4); /* the first evaluation and three steps */
    json_decref(lines);
    run_whole(folder, "three", KEYS("max_steps=3", "lora_dropout=0.1"));
    assert_true(runs_same_adapter(folder, "out/checkpoint-3", "three"));
    tiny_scratch_remove(folder);
}

static void a_stop_before_the_first_step_leaves_the_adapter_it_began_with(void **state)
{
    (void)state;
    static const int64_t stop_at[] = { 0, -1 }; /* before the first evaluation, and after it */
    char *folder = runs_make("dense_mqa_tied");
    for (int i = 0; i < 2; i++) {
        struct run r;
        struct watcher w = { .run = &r, .stop_at = stop_at[i], .stop = i == 0 };
        const struct train_watch watch = watch_of(&w);
        run_open(&r, folder, "out", KEYS("max_steps=50"));
        assert_false(run_go(&r, &watch));
        check_stopped(&r, folder, 0, 50);
        assert_int_equal(r.t.state.n_eval, i);
        run_close(&r);
        if (w.before != NULL)
            test_release(w.before);
    }
    tiny_scratch_remove(folder);
}

/* At the last step the evaluation that ends the run is what is cut short. */
static void a_stop_at_the_last_step_leaves_out_the_last_evaluation(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    struct run r;
    struct watcher w = { .run = &r, .stop_at = 2 };
    const struct train_watch watch = watch_of(&w);
    run_open(&r, folder, "out", KEYS("max_steps=2"));
    assert_false(run_go(&r, &watch));
    check_stopped(&r, folder, 2, 2);
    assert_int_equal(r.t.state.n_eval, 1);
    run_close(&r);
    test_release(w.before);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_with_a_bad_document_is_left_out_and_named),
        cmocka_unit_test(steps_left_out_do_not_count_for_the_optimizer),
        cmocka_unit_test(too_many_such_steps_stop_the_run),
        cmocka_unit_test(an_evaluation_that_is_not_finite_is_never_the_best),
        cmocka_unit_test(a_huge_rate_ends_in_numerics_not_in_silence),
        cmocka_unit_test(a_stop_after_a_step_leaves_the_adapter_of_that_step),
        cmocka_unit_test(a_stop_before_the_first_step_leaves_the_adapter_it_began_with),
        cmocka_unit_test(a_stop_at_the_last_step_leaves_out_the_last_evaluation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
