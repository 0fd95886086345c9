/* What the tests of the training loop share: a scratch folder with a recipe and documents for one
 * of the tiny Jambas, runs of it with some keys changed, and what they left behind.
 *
 *     char *folder = runs_make("moe_gqa_untied");
 *     struct run r;
 *     run_open(&r, folder, "out", KEYS("max_steps=3", "lora_dropout=0.1"));
 *     assert_true(run_go(&r, NULL));
 *     ... folder/out ...
 *     run_close(&r);
 *     tiny_scratch_remove(folder);
 *
 * One thread each unless a key says otherwise: the suite runs several tests at a time.
 */
#ifndef TESTS_TRAIN_RUNS_H
#define TESTS_TRAIN_RUNS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "finetune/train/loop.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "kernels/format/safetensors.h"
#include "lora/format_peft.h"
#include "tests/support/support.h"
#include "tests/support/tiny_checkpoint.h"

#define KEYS(...) ((const char *const[]){ __VA_ARGS__, NULL })

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s", err.text);                                                              \
    } while (0)

enum {
    RUNS_DOCS = 20, /* of train.jsonl: 16 to train on, 4 to validate with */
    RUNS_MARK = 43, /* a token that only documents RUNS_MARKED and RUNS_MARKED + 1 hold */
    RUNS_MARKED = 5,
    RUNS_MAX_KEYS = 24,
};

/* ---- the folder ---- */

/* Document d: consecutive ids, so that there is something to learn; every third masks its first
 * labels. */
static inline void runs_write_document(struct text *t, int d)
{
    const int n = 3 + d * 7 % 14, masked = d % 3 == 0 ? n / 3 : 0;
    const bool marked = d == RUNS_MARKED || d == RUNS_MARKED + 1;
    text_puts(t, "{\"input_ids\": [");
    for (int i = 0; i < n; i++)
        text_printf(t, "%s%d", i > 0 ? ", " : "",
                    marked && i == 1 ? RUNS_MARK : 3 + (d * 11 + i) % 40);
    text_puts(t, "], \"labels\": [");
    for (int i = 0; i < n; i++)
        text_printf(t, "%s%d", i > 0 ? ", " : "",
                    i < masked         ? -100
                    : marked && i == 1 ? RUNS_MARK
                                       : 3 + (d * 11 + i) % 40);
    text_puts(t, "]}\n");
}

static inline void runs_write_documents(const char *folder, const char *name, int from, int to)
{
    struct text t = { 0 };
    for (int d = from; d < to; d++)
        runs_write_document(&t, d);
    assert_false(t.failed);
    tiny_file_write(folder, name, t.data, t.len);
    text_free(&t);
}

/* `model`: a name in tests/fixtures/models, or an absolute path. */
static inline char *runs_make(const char *model)
{
    char *folder = tiny_scratch_make();
    char here[512];
    struct text t = { 0 };
    assert_non_null(getcwd(here, sizeof here));
    text_puts(&t, "base_model: ");
    text_printf(&t, model[0] == '/' ? "%.0s%s" : "%s/tests/fixtures/models/%s", here, model);
    text_puts(&t, "\ndatasets:\n  - path: train.jsonl\n    type: input_ids\nval_set_size: 4\n"
                  "sequence_len: 32\nlora_r: 4\nlora_alpha: 8\nmicro_batch_size: 4\nmax_steps: 6\n"
                  "learning_rate: 0.01\nlr_scheduler: constant\nseed: 7\nthreads: 1\n");
    assert_false(t.failed);
    tiny_file_write(folder, "train.yaml", t.data, t.len);
    text_free(&t);
    runs_write_documents(folder, "train.jsonl", 0, RUNS_DOCS);
    return folder;
}

/* ---- a run ---- */

struct run {
    struct recipe recipe;
    struct recipe_report report;
    struct trainer t;
    struct err err;
};

/* The folder's recipe with output_dir folder/out and the keys; false when trainer_open refuses. */
static inline bool run_try_open(struct run *r, const char *folder, const char *out,
                                const char *const *keys)
{
    const char *overrides[RUNS_MAX_KEYS];
    char path[512], output[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/train.yaml", folder);
    snprintf(output, sizeof output, "output_dir=%s/%s", folder, out);
    overrides[n++] = output;
    overrides[n++] = "overwrite_output_dir=true"; /* unless a key of the test's says otherwise */
    for (; keys != NULL && *keys != NULL; keys++) {
        assert_true(n < RUNS_MAX_KEYS);
        overrides[n++] = *keys;
    }
    *r = (struct run){ 0 };
    if (!recipe_load(path, overrides, n, RECIPE_NEED_TRAIN, &r->recipe, &r->report))
        fail_msg("%s", r->report.errors.item[0]);
    return trainer_open(&r->t, &r->recipe, NULL, &r->err);
}

static inline void run_open(struct run *r, const char *folder, const char *out,
                            const char *const *keys)
{
    if (!run_try_open(r, folder, out, keys))
        fail_msg("%s", r->err.text);
}

static inline bool run_go(struct run *r, const struct train_watch *watch)
{
    return trainer_run(&r->t, watch != NULL ? watch : &(struct train_watch){ 0 }, &r->err);
}

static inline void run_close(struct run *r)
{
    trainer_close(&r->t);
    recipe_free(&r->recipe);
    recipe_report_free(&r->report);
}

/* All of it, for what it leaves behind. */
static inline void run_whole(const char *folder, const char *out, const char *const *keys)
{
    struct run r;
    run_open(&r, folder, out, keys);
    if (!run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    run_close(&r);
}

struct runs_stopper {
    int64_t at;
    volatile sig_atomic_t stop;
};

static inline void runs_stop_at(void *context, const struct train_step *s)
{
    struct runs_stopper *stopper = context;
    stopper->stop = s->step == stopper->at;
}

/* Trains to step `at` and stops there, or to the end with `at` above it. */
static inline bool run_until(struct run *r, int64_t at)
{
    struct runs_stopper s = { .at = at, .stop = at == 0 };
    const struct train_watch watch = { .context = &s, .on_step = runs_stop_at, .stop = &s.stop };
    return run_go(r, &watch);
}

static inline void stop_after(const char *folder, const char *out, int64_t at,
                              const char *const *keys)
{
    struct run r;
    run_open(&r, folder, out, keys);
    assert_false(run_until(&r, at));
    if (r.err.code != ERR_STOPPED)
        fail_msg("%s", r.err.text);
    assert_int_equal(r.t.state.step, at);
    run_close(&r);
}

/* ---- what it left ---- */

static inline char *runs_path(const char *folder, const char *out, const char *name)
{
    char *path = text_format("%s/%s/%s", folder, out, name);
    assert_non_null(path);
    return path;
}

/* metrics.jsonl as a list of objects, its events left out; caller json_decref()s. */
static inline json_t *runs_metrics(const char *folder, const char *out)
{
    struct err err = { 0 };
    char *path = runs_path(folder, out, "metrics.jsonl"), *data = NULL;
    size_t size = 0;
    json_t *list = json_array();
    REQUIRE(file_read(path, 1 << 20, &data, &size, &err));
    assert_true(size > 0 && data[size - 1] == '\n');
    for (char *line = data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        json_t *object = json_parse(line, (size_t)(end - line), path, &err);
        if (object == NULL)
            fail_msg("%s", err.text);
        if (json_object_get(object, "event") == NULL)
            json_array_append(list, object);
        json_decref(object);
    }
    free(data);
    free(path);
    return list;
}

static inline double runs_number(json_t *line, const char *key)
{
    json_t *value = json_object_get(line, key);
    if (!json_is_number(value))
        fail_msg("'%s' is no number", key);
    return json_number_value(value);
}

/* The same bytes of a file of two runs. */
static inline bool runs_same_file(const char *folder, const char *a, const char *b,
                                  const char *name)
{
    struct file_map x = { 0 }, y = { 0 };
    struct err err = { 0 };
    char *p = runs_path(folder, a, name), *q = runs_path(folder, b, name);
    REQUIRE(file_map_open(p, &x, &err) && file_map_open(q, &y, &err));
    const bool same = x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
    file_map_close(&x);
    file_map_close(&y);
    free(p);
    free(q);
    return same;
}

/* Whether the two runs' adapters are the same bytes. */
static inline bool runs_same_adapter(const char *folder, const char *a, const char *b)
{
    struct file_map maps[2];
    const char *const outs[] = { a, b };
    struct err err = { 0 };
    for (int i = 0; i < 2; i++) {
        char *path = runs_path(folder, outs[i], PEFT_TENSORS_NAME);
        REQUIRE(file_map_open(path, &maps[i], &err));
        free(path);
    }
    const bool same =
        maps[0].size == maps[1].size && memcmp(maps[0].data, maps[1].data, maps[0].size) == 0;
    file_map_close(&maps[0]);
    file_map_close(&maps[1]);
    return same;
}

/* ||a - b|| / ||b|| over all B, which began as zeros: the error of what was learnt. */
static inline double runs_adapter_error(const char *folder, const char *a, const char *b)
{
    struct safetensors st[2];
    const char *const outs[] = { a, b };
    struct err err = { 0 };
    double apart = 0, norm = 0;
    for (int i = 0; i < 2; i++) {
        char *path = runs_path(folder, outs[i], PEFT_TENSORS_NAME);
        REQUIRE(safetensors_open(path, &st[i], &err));
        free(path);
    }
    assert_int_equal(st[0].n_tensor, st[1].n_tensor);
    for (int64_t t = 0; t < st[0].n_tensor; t++) {
        const struct safetensors_tensor *x = &st[0].tensors[t], *y = &st[1].tensors[t];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->bytes, y->bytes);
        for (size_t i = 0; strstr(x->name, "lora_B") != NULL && i < x->bytes / sizeof(float); i++) {
            float p, q;
            memcpy(&p, (const char *)x->data + i * sizeof p, sizeof p);
            memcpy(&q, (const char *)y->data + i * sizeof q, sizeof q);
            apart += pow((double)p - (double)q, 2);
            norm += pow((double)q, 2);
        }
    }
    safetensors_close(&st[0]);
    safetensors_close(&st[1]);
    assert_true(norm > 0);
    return sqrt(apart / norm);
}

#endif
