/* The best adapter of a run that goes on: it is the one that an undisturbed run would have had, or
 * what became of it is told. */
#include "tests/train/runs.h"

/* A rate at which the first evaluations are the best ones. */
#define WORSE "max_steps=12", "learning_rate=0.3", "eval_steps=2", "save_steps=2", "load_best=true"
#define AGAIN "resume_from_checkpoint=auto"

static void remove_best(const char *folder, const char *out)
{
    static const char *const files[] = { "best/" PEFT_CONFIG_NAME, "best/" PEFT_TENSORS_NAME };
    for (int i = 0; i < 2; i++) {
        char *path = runs_path(folder, out, files[i]);
        assert_int_equal(remove(path), 0);
        free(path);
    }
}

/* Opens the run again: the notes hold `text`, or (NULL) there are none. */
static void expect_notes(struct run *r, const char *folder, const char *out,
                         const char *const *keys, const char *text)
{
    run_open(r, folder, out, keys);
    if (text == NULL && r->t.notes.len > 0)
        fail_msg("%s", r->t.notes.data);
    if (text != NULL && (r->t.notes.data == NULL || strstr(r->t.notes.data, text) == NULL))
        fail_msg("'%s' is not in '%s'", text, r->t.notes.data != NULL ? r->t.notes.data : "");
}

static void finish(struct run *r)
{
    if (!run_go(r, NULL))
        fail_msg("%s", r->err.text);
    run_close(r);
}

static void the_best_before_the_stop_is_kept(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    struct run r;
    run_whole(folder, "straight", KEYS(WORSE));
    stop_after(folder, "out", 9, KEYS(WORSE));
    expect_notes(&r, folder, "out", KEYS(WORSE, AGAIN), NULL);
    assert_true(r.t.state.best_step < 6); /* else nothing is shown */
    finish(&r);
    assert_true(runs_same_adapter(folder, "straight", "out"));
    tiny_scratch_remove(folder);
}

static void a_run_goes_on_without_its_best_folder_and_says_so(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    struct run r;
    stop_after(folder, "out", 7, KEYS(WORSE));
    remove_best(folder, "out");
    expect_notes(&r, folder, "out", KEYS(WORSE, AGAIN),
                 ") is not gone on with: its folder, best, is gone; the best of the evaluations to "
                 "come is chosen");
    finish(&r);
    assert_true(runs_same_file(folder, "out", "out/best", PEFT_TENSORS_NAME));
    tiny_scratch_remove(folder);
}

/* Of a checkpoint in another folder the best one comes along. */
static void going_on_in_another_folder_takes_the_best_along(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), key[600];
    struct run r;
    run_whole(folder, "straight", KEYS(WORSE));
    stop_after(folder, "out", 9, KEYS(WORSE));
    snprintf(key, sizeof key, "resume_from_checkpoint=%s/out/checkpoint-9", folder);
    expect_notes(&r, folder, "elsewhere", KEYS(WORSE, key), NULL);
    finish(&r);
    assert_true(runs_same_adapter(folder, "straight", "elsewhere"));
    remove_best(folder, "out");
    expect_notes(&r, folder, "third", KEYS(WORSE, key), "its folder, best, is gone");
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* What was written as the best is not replaced by the last one. */
static void a_finished_run_without_its_best_folder_stays_as_it_is(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    struct run r;
    run_whole(folder, "straight", KEYS(WORSE));
    run_whole(folder, "out", KEYS(WORSE));
    remove_best(folder, "out");
    assert_false(run_try_open(&r, folder, "out", KEYS(WORSE, AGAIN)));
    assert_int_equal(r.err.code, ERR_DATA);
    assert_non_null(
        strstr(r.err.text, "/best: the best adapter of this run is not there any more"));
    run_close(&r);
    assert_true(runs_same_adapter(folder, "straight", "out"));
    tiny_scratch_remove(folder);
}

/* Stopped before its first step a run has a checkpoint in its own folder all the same. */
static void stopped_at_once_in_another_folder_it_has_a_checkpoint_there(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), key[600];
    run_whole(folder, "straight", KEYS(WORSE));
    stop_after(folder, "out", 9, KEYS(WORSE));
    snprintf(key, sizeof key, "resume_from_checkpoint=%s/out/checkpoint-9", folder);
    struct run r;
    run_open(&r, folder, "elsewhere", KEYS(WORSE, key));
    assert_false(run_until(&r, 0));
    assert_int_equal(r.err.code, ERR_STOPPED);
    run_close(&r);
    char *path = runs_path(folder, "elsewhere", "checkpoint-9");
    assert_true(file_is_directory(path));
    run_whole(folder, "elsewhere", KEYS(WORSE, AGAIN));
    assert_true(runs_same_adapter(folder, "straight", "elsewhere"));
    free(path);
    tiny_scratch_remove(folder);
}

static void copy_best(const char *folder, const char *from, const char *to)
{
    struct file_map map;
    struct err err = { 0 };
    char *a = runs_path(folder, from, "best/" PEFT_TENSORS_NAME);
    char *b = runs_path(folder, to, "best/" PEFT_TENSORS_NAME);
    REQUIRE(file_map_open(a, &map, &err) && file_write(b, map.data, map.size, &err));
    file_map_close(&map);
    free(a);
    free(b);
}

/* Another run's adapter in best/ is never the result. */
static void a_best_of_another_run_is_refused(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), have[ERR_TEXT_SIZE];
    struct run r;
    run_whole(folder, "other", KEYS(WORSE, "seed=8"));
    stop_after(folder, "out", 9, KEYS(WORSE));
    copy_best(folder, "other", "out");
    run_open(&r, folder, "out", KEYS(WORSE, AGAIN));
    assert_false(run_go(&r, NULL));
    assert_int_equal(r.err.code, ERR_DATA);
    tiny_message(have, &r.err, folder);
    assert_true(
        text_starts_with(have, "DIR/out/best: is not the adapter that was the best, of step "));
    run_close(&r);
    char *result = runs_path(folder, "out", PEFT_TENSORS_NAME);
    assert_false(file_exists(result));
    free(result);
    tiny_scratch_remove(folder);
}

/* Damage is found when the run opens, not hours later. */
static void a_damaged_best_is_told_at_once(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), *data = NULL;
    struct run r;
    struct err err = { 0 };
    size_t n = 0;
    stop_after(folder, "out", 9, KEYS(WORSE));
    char *path = runs_path(folder, "out", "best/" PEFT_TENSORS_NAME);
    REQUIRE(file_read(path, (size_t)1 << 24, &data, &n, &err));
    data[n - 1] ^= 1;
    REQUIRE(file_write(path, data, n, &err));
    expect_notes(&r, folder, "out", KEYS(WORSE, AGAIN), ") is not gone on with: ");
    finish(&r);
    free(data);
    free(path);
    tiny_scratch_remove(folder);
}

/* Losses of other documents are not compared with those of the first ones. */
static void other_validation_documents_make_the_best_anew(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), path[512], output[512], tests[600];
    runs_write_documents(folder, "a.jsonl", 0, 4);
    runs_write_documents(folder, "b.jsonl", 4, 8);
    snprintf(tests, sizeof tests, "test_datasets=[{path: %s/a.jsonl, type: input_ids}]", folder);
    stop_after(folder, "out", 9, KEYS(WORSE, "val_set_size=0", tests));
    struct run r = { 0 };
    snprintf(path, sizeof path, "%s/train.yaml", folder);
    snprintf(output, sizeof output, "output_dir=%s/out", folder);
    snprintf(tests, sizeof tests, "test_datasets=[{path: %s/b.jsonl, type: input_ids}]", folder);
    const char *const keys[] = { WORSE, "val_set_size=0", tests, output, AGAIN };
    assert_true(recipe_load(path, keys, sizeof keys / sizeof *keys, RECIPE_NEED_TRAIN, &r.recipe,
                            &r.report));
    if (!trainer_open(&r.t, &r.recipe, "validation", &r.err))
        fail_msg("%s", r.err.text);
    assert_non_null(strstr(r.t.notes.data, "the validation documents have changed"));
    assert_true(isinf(r.t.state.best_loss) && r.t.state.n_worse == 0);
    finish(&r);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_before_the_stop_is_kept),
        cmocka_unit_test(a_run_goes_on_without_its_best_folder_and_says_so),
        cmocka_unit_test(going_on_in_another_folder_takes_the_best_along),
        cmocka_unit_test(a_finished_run_without_its_best_folder_stays_as_it_is),
        cmocka_unit_test(stopped_at_once_in_another_folder_it_has_a_checkpoint_there),
        cmocka_unit_test(a_best_of_another_run_is_refused),
        cmocka_unit_test(a_damaged_best_is_told_at_once),
        cmocka_unit_test(other_validation_documents_make_the_best_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
