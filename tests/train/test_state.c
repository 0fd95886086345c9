/* A checkpoint's state: what is read back is what was written, and what no run can have written is
 * refused by name. tests/fixtures/checkpoint is of a run of two steps; its values are floats. */
#include "tests/train/runs.h"

#include "kernels/core/manifest.h"

#define SOUND "tests/fixtures/checkpoint"

static json_t *sound_state(void)
{
    struct err err = { 0 };
    json_t *state = state_read_json(SOUND, &err);
    if (state == NULL)
        fail_msg("%s", err.text);
    return state;
}

static bool read_members(json_t *state, struct err *err)
{
    struct train_counters counters;
    struct plan_shape shape = { 0 };
    json_t *identity = NULL;
    return state_from_json(state, "x", &counters, &shape, &identity, err);
}

/* ---- members ---- */

/* The value of a member that is put in place of the sound one (NULL: it is taken away), in the
 * object of that name ("": the state itself). */
static const struct {
    const char *object, *key, *value, *message;
} refused[] = {
    { "", "format", NULL, "x: \"format\" is missing" },
    { "", "format", "2", "x: has format 2; expected 1: it was written by another version" },
    { "", "counters", NULL, "x: \"counters\" is missing; expected an object" },
    { "", "counters", "[]", "x: \"counters\" is a list; expected an object" },
    { "", "walk", "1", "x: \"walk\" is an integer; expected an object" },
    { "", "identity", "null", "x: \"identity\" is null; expected an object" },
    { "counters", "step", NULL, "x: \"step\" is missing" },
    { "counters", "step", "-1", "x: \"step\" is -1; expected 0 to 9007199254740992" },
    { "counters", "step", "1.0", "x: \"step\" is a number; expected an integer" },
    { "counters", "applied_steps", "3", "x: \"applied_steps\" is 3; expected 0 to 2" },
    { "counters", "nonfinite_steps", "-1", "x: \"nonfinite_steps\" is -1; expected 0 to 2" },
    { "counters", "tokens", "9007199254740993",
      "x: \"tokens\" is 9007199254740993; expected 0 to 9007199254740992" },
    { "counters", "trained_tokens", "20", "x: \"trained_tokens\" is 20; expected 0 to 19" },
    { "counters", "evaluations", "-1", "x: \"evaluations\" is -1; expected 0 to 9007199254740992" },
    { "counters", "evaluated_step", "3", "x: \"evaluated_step\" is 3; expected -1 to 2" },
    { "counters", "evaluated_step", "-2", "x: \"evaluated_step\" is -2; expected -1 to 2" },
    { "counters", "samples", "-1", "x: \"samples\" is -1; expected 0 to 9007199254740992" },
    { "counters", "best_step", "3", "x: \"best_step\" is 3; expected 0 to 2" },
    { "counters", "evaluations_since_best", "4",
      "x: \"evaluations_since_best\" is 4; expected 0 to 3" },
    { "counters", "log_bytes", "-1", "x: \"log_bytes\" is -1; expected 0 to 9007199254740992" },
    { "counters", "seconds", "1", "x: \"seconds\" is an integer; expected a string" },
    { "counters", "seconds", "\"1s\"", "x: \"seconds\" is '1s'; expected a number" },
    { "counters", "seconds", "\"\"", "x: \"seconds\" is ''; expected a number" },
    { "counters", "seconds", "\"-1\"", "x: \"seconds\" is -1; expected no less than 0" },
    { "counters", "seconds", "\"inf\"", "x: \"seconds\" is inf; expected no less than 0" },
    { "counters", "best_loss", "\"nan\"", "x: \"best_loss\" is no number" },
    { "counters", "best_digest", NULL, "x: \"best_digest\" is missing" },
    { "counters", "best_digest", "\"00\"", "x: \"best_digest\" is '00'; expected a SHA-256" },
    { "counters", "best_digest",
      "\"000000000000000000000000000000000000000000000000000000000000000G\"",
      "x: \"best_digest\" is "
      "'000000000000000000000000000000000000000000000000000000000000000G'; expected a SHA-256" },
    { "counters", "stopped_early", "0",
      "x: \"stopped_early\" is an integer; expected true or false" },
    { "walk", "pass_tokens", "0", "x: \"pass_tokens\" is 0; expected 1 to 2147483647" },
    { "walk", "chunk_tokens", "15", "x: \"chunk_tokens\" is 15; expected 1 to 14" },
};

static void what_no_run_has_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err err = { 0 };
        json_t *sound = sound_state(), *object = sound;
        if (refused[i].object[0] != '\0')
            object = json_object_get(sound, refused[i].object);
        const char *value = refused[i].value;
        if (value == NULL)
            json_object_del(object, refused[i].key);
        else
            json_object_set_new(object, refused[i].key, json_loads(value, JSON_DECODE_ANY, NULL));
        assert_false(read_members(sound, &err));
        assert_string_equal(err.text, refused[i].message);
        assert_int_equal(err.code, ERR_DATA);
        json_decref(sound);
    }
}

static void losses_come_back_to_the_bit(void **state)
{
    (void)state;
    const struct train_counters written = { .step = 7,
                                            .evaluated = -1,
                                            .seconds = 1.0 / 3,
                                            .best_loss = (double)INFINITY,
                                            .first_loss = (double)NAN,
                                            .last_loss = -(double)INFINITY };
    const struct plan_shape shape = { .pass_tokens = 9, .chunk_tokens = 9 };
    json_t *identity = json_object(), *object = state_to_json(&written, &shape, identity);
    char *text = json_dumps(object, 0);
    json_t *again = json_loads(text, 0, NULL), *identity_again = NULL;
    struct train_counters read;
    struct plan_shape shape_again = { 0 };
    assert_true(state_from_json(again, "x", &read, &shape_again, &identity_again, NULL));
    assert_true(read.step == 7 && read.evaluated == -1 && read.best_digest[0] == '\0');
    assert_true(read.seconds == 1.0 / 3 && isinf(read.best_loss) && isnan(read.first_loss));
    assert_true(isinf(read.last_loss) && read.last_loss < 0);
    assert_true(shape_again.pass_tokens == 9 && shape_again.chunk_tokens == 9);
    json_decref(again);
    json_decref(object);
    json_decref(identity);
    free(text);
}

/* ---- the file ---- */

enum { N_PARAM = 2 };

/* A file of three tensors and a note of that key; `odd` is the one that differs, in the way that
 * its other arguments say. */
struct odd_file {
    const char *key, *text; /* of the note */
    const char *odd, *name; /* which tensor, and its name then */
    enum dtype dtype;
    int64_t n;
    real first;
};

static char *write_file(const struct odd_file *f)
{
    static const char *const names[3] = { "m", "params", "v" };
    real values[3][2 * N_PARAM] = { { 0 } };
    struct safetensors_tensor tensors[3];
    for (int i = 0; i < 3; i++) {
        const bool odd = f->odd != NULL && strcmp(f->odd, names[i]) == 0;
        const enum dtype dtype = odd ? f->dtype : DTYPE_REAL;
        const int64_t n = odd ? f->n : N_PARAM;
        values[i][0] = odd ? f->first : 1;
        tensors[i] = (struct safetensors_tensor){ .name = odd ? f->name : names[i],
                                                  .dtype = dtype,
                                                  .n_dim = 1,
                                                  .dims = { n },
                                                  .data = values[i],
                                                  .bytes = (size_t)n * dtype_size(dtype) };
    }
    char *folder = tiny_scratch_make(), *path = file_join(folder, STATE_NAME);
    const struct safetensors_note note = { f->key, f->text };
    struct err err = { 0 };
    if (!safetensors_write_notes(path, tensors, 3, &note, 1, &err))
        fail_msg("%s", err.text);
    free(path);
    return folder;
}

static void expect_message(const struct err *err, const char *folder, const char *message)
{
    char text[ERR_TEXT_SIZE];
    tiny_message(text, err, folder);
    assert_string_equal(text, message);
    assert_int_equal(err->code, ERR_DATA);
}

static void a_file_without_a_state_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key, *text, *message;
    } cases[] = {
        { "note", "{}",
          "DIR/" STATE_NAME ": has no \"state\" in its metadata; expected an object" },
        { "state", "[]",
          "DIR/" STATE_NAME ": has no \"state\" in its metadata; expected an object" },
        { "state", "{",
          "DIR/" STATE_NAME ": not valid JSON: column 1: string or '}' expected near "
          "end of file" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        char *folder = write_file(&(struct odd_file){ .key = cases[i].key, .text = cases[i].text });
        assert_null(state_read_json(folder, &err));
        expect_message(&err, folder, cases[i].message);
        tiny_scratch_remove(folder);
    }
}

static void blocks_are_of_the_runs_size_and_finite(void **state)
{
    (void)state;
    const char *real_name = dtype_name(DTYPE_REAL);
    const struct {
        struct odd_file file;
        const char *message; /* %s: the name of what we compute in */
    } cases[] = {
        { { .odd = "m", .name = "n", .dtype = DTYPE_REAL, .n = N_PARAM },
          "DIR/" STATE_NAME ": tensor 'm': is missing; expected %s (2,)" },
        { { .odd = "params", .name = "params", .dtype = DTYPE_BF16, .n = N_PARAM },
          "DIR/" STATE_NAME ": tensor 'params': is BF16 (2,); expected %s (2,)" },
        { { .odd = "v", .name = "v", .dtype = DTYPE_REAL, .n = N_PARAM - 1 },
          "DIR/" STATE_NAME ": tensor 'v': is %s (1,); expected %s (2,)" },
        { { .odd = "v", .name = "v", .dtype = DTYPE_REAL, .n = N_PARAM, .first = (real)NAN },
          "DIR/" STATE_NAME ": tensor 'v': has values that are not finite" },
        { { .odd = "m", .name = "m", .dtype = DTYPE_REAL, .n = N_PARAM, .first = (real)INFINITY },
          "DIR/" STATE_NAME ": tensor 'm': has values that are not finite" },
    };
    real values[3 * N_PARAM];
    const struct state_blocks blocks = { values, values + N_PARAM, values + 2 * N_PARAM, N_PARAM };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct odd_file file = cases[i].file;
        file.key = "state";
        file.text = "{}";
        struct err err = { 0 };
        char *folder = write_file(&file), message[256] = "";
        assert_false(state_read_blocks(folder, &blocks, &err));
        for (const char *at = cases[i].message; *at != '\0';) {
            const size_t used = strlen(message);
            const bool is_name = text_starts_with(at, "%s");
            snprintf(message + used, sizeof message - used, "%.*s", is_name ? 8 : 1,
                     is_name ? real_name : at);
            at += is_name ? 2 : 1;
        }
        expect_message(&err, folder, message);
        tiny_scratch_remove(folder);
    }
    char *sound = write_file(&(struct odd_file){ .key = "state", .text = "{}" });
    assert_true(state_read_blocks(sound, &blocks, NULL));
    assert_true(values[0] == 1 && values[N_PARAM] == 1 && values[N_PARAM + 1] == 0);
    tiny_scratch_remove(sound);
}

/* ---- a run ---- */

static struct state_blocks blocks_of(const char *checkpoint)
{
    char *path = file_join(checkpoint, STATE_NAME);
    struct safetensors st = { 0 };
    assert_true(safetensors_open(path, &st, NULL));
    const int64_t n = safetensors_find(&st, "m")->dims[0];
    safetensors_close(&st);
    free(path);
    real *values = calloc(3 * (size_t)n, sizeof *values);
    assert_non_null(values);
    const struct state_blocks blocks = { values, values + n, values + 2 * n, n };
    assert_true(state_read_blocks(checkpoint, &blocks, NULL));
    return blocks;
}

/* The checkpoint with another pass_tokens, whole by its manifest. */
static void set_pass_tokens(const char *checkpoint, int64_t n)
{
    static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "recipe.yaml",
                                         STATE_NAME };
    json_t *state = state_read_json(checkpoint, NULL);
    const struct state_blocks blocks = blocks_of(checkpoint);
    json_t *walk = json_object_get(state, "walk");
    assert_int_equal(json_object_set_new(walk, "pass_tokens", json_integer(n)), 0);
    assert_true(state_write(checkpoint, &blocks, state, NULL));
    assert_true(manifest_write(checkpoint, names, 4, NULL));
    free(blocks.params);
    json_decref(state);
}

/* A plan walks all of a pass, piece by piece. */
static void a_pass_is_planned_no_longer_than_the_documents_are(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied");
    const char *const *keys = KEYS("save_steps=3", "chunk_tokens=4");
    run_whole(folder, "straight", keys);
    run_whole(folder, "out", keys);
    char *newest = runs_path(folder, "out/checkpoint-6", MANIFEST_NAME);
    char *older = runs_path(folder, "out", "checkpoint-3");
    assert_int_equal(remove(newest), 0);
    set_pass_tokens(older, INT32_MAX);
    run_whole(folder, "out",
              KEYS("save_steps=3", "chunk_tokens=4", "overwrite_output_dir=false",
                   "resume_from_checkpoint=auto"));
    assert_true(runs_same_adapter(folder, "straight", "out"));
    free(newest);
    free(older);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_no_run_has_is_refused_by_name),
        cmocka_unit_test(losses_come_back_to_the_bit),
        cmocka_unit_test(a_file_without_a_state_is_refused),
        cmocka_unit_test(blocks_are_of_the_runs_size_and_finite),
        cmocka_unit_test(a_pass_is_planned_no_longer_than_the_documents_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
