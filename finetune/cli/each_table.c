#include "finetune/cli/each_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "finetune/cli/cli.h"
#include "finetune/train/base_digest.h"
#include "finetune/train/history.h"
#include "finetune/train/output.h"
#include "kernels/core/file.h"
#include "kernels/core/sha256.h"
#include "kernels/core/text.h"
#include "lora/format_peft.h"

/* ---- a run's folder ---- */

static void take_history(struct each_run *run, const struct history *h)
{
    run->validation = h->best >= 0 ? h->evals[h->best].loss : (double)NAN;
    run->best_step = h->best >= 0 ? h->evals[h->best].step : -1;
    run->loss = h->n_step > 0 ? h->steps[h->n_step - 1].loss : (double)NAN;
    run->step = h->n_step > 0 ? h->steps[h->n_step - 1].step : 0;
    run->seconds = 0;
    for (int64_t i = 0; i < h->n_step; i++)
        run->seconds += isfinite(h->steps[i].seconds) ? h->steps[i].seconds : 0;
}

static bool find_mark(const struct each_run *run, struct each_mark *mark, struct err *err)
{
    struct stat st;
    char *path = file_join(run->folder, OUTPUT_FACTS_NAME);
    *mark = (struct each_mark){ 0 };
    if (path == NULL)
        return err_no_memory(err, run->folder);
    if (stat(path, &st) == 0)
        *mark = (struct each_mark){ true, st.st_ino, st.st_mtim };
    free(path);
    return true;
}

bool each_run_mark(struct each_run *run, struct err *err)
{
    return find_mark(run, &run->mark, err);
}

/* Whether the run that was marked has begun since. */
static bool has_begun(const struct each_run *run, bool *begun, struct err *err)
{
    const struct each_mark *was = &run->mark;
    struct each_mark now;
    if (!find_mark(run, &now, err))
        return false;
    *begun = now.is_there && !(was->is_there && now.inode == was->inode &&
                               now.written.tv_sec == was->written.tv_sec &&
                               now.written.tv_nsec == was->written.tv_nsec);
    return true;
}

bool each_run_read(struct each_run *run, struct err *err)
{
    struct history h = { 0 };
    struct err why = { 0 };
    bool begun = false;
    if (!has_begun(run, &begun, err))
        return false;
    if (!begun && run->status != EACH_FINISHED)
        return true;
    const bool ok = history_read(&h, run->folder, &why);
    if (ok)
        take_history(run, &h);
    history_free(&h);
    /* One that failed may have left anything. */
    return ok || (run->status != EACH_FINISHED && why.code != ERR_NO_MEMORY) ||
           err_set(err, why.code, "%s", why.text);
}

/* Keys that a finished run may differ in: they say how it is run and watched, not what comes out.
 */
static bool is_free(const char *key)
{
    static const char *const keys[] = {
        "output_dir",     "resume_from_checkpoint", "overwrite_output_dir",   "save_steps",
        "logging_steps",  "save_total_limit",       "self_check_steps",       "threads",
        "sample_prompts", "sample_max_tokens",      "gradient_checkpointing", "chunk_tokens",
        "memory_budget",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(keys[i], key) == 0)
            return true;
    }
    return false;
}

static bool is_same_recipe(const struct each_run *run)
{
    struct recipe then = { 0 };
    struct recipe_report report = { 0 };
    char *path = file_join(run->folder, "recipe.yaml");
    bool same = path != NULL && file_exists(path) &&
                recipe_load(path, NULL, 0, RECIPE_NEED_TRAIN, &then, &report);
    for (int i = 0; same && i < recipe_n_key(); i++)
        same = is_free(recipe_key(i)) || recipe_same_value(&run->recipe, &then, i);
    recipe_free(&then);
    recipe_report_free(&report);
    free(path);
    return same;
}

/* Whether the base and the data files that the run was made from are what they were: with others it
 * is another run, which goes on, or is refused with what differs. */
static bool is_same_base(const struct each_run *run, const struct history *h)
{
    const char *was = json_string_value(json_object_get(h->run, "base_sha256"));
    char now[SHA256_HEX_SIZE];
    return was == NULL || (base_digest(run->recipe.base_model, now, NULL) && strcmp(now, was) == 0);
}

static bool is_same_data(const struct history *h)
{
    json_t *files = json_object_get(h->run, "files");
    bool same = true;
    for (size_t i = 0; same && i < json_array_size(files); i++) {
        char now[SHA256_HEX_SIZE];
        const json_t *file = json_array_get(files, i);
        const char *path = json_string_value(json_object_get(file, "path"));
        const char *was = json_string_value(json_object_get(file, "sha256"));
        same = path == NULL || was == NULL || !file_exists(path) ||
               (sha256_file(path, now, NULL, NULL) && strcmp(now, was) == 0);
    }
    return same;
}

static bool has_file(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    const bool has = path != NULL && file_exists(path);
    free(path);
    return has;
}

bool each_run_is_finished(struct each_run *run)
{
    struct history h = { 0 };
    struct err err = { 0 };
    const bool done = file_is_directory(run->folder) && history_read(&h, run->folder, &err) &&
                      h.life == HISTORY_DONE && has_file(run->folder, PEFT_CONFIG_NAME) &&
                      has_file(run->folder, PEFT_TENSORS_NAME) && is_same_recipe(run) &&
                      is_same_data(&h) && is_same_base(run, &h);
    if (done)
        take_history(run, &h);
    history_free(&h);
    return done;
}

void each_run_free(struct each_run *run)
{
    free(run->folder);
    free(run->messages);
    recipe_free(&run->recipe);
    *run = (struct each_run){ 0 };
}

/* ---- best first ---- */

/* Lower first, NaN last. */
static int compare_numbers(double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

static int compare_runs(const void *a, const void *b)
{
    static const int order[] = {
        [EACH_FINISHED] = 0, [EACH_STOPPED] = 1, [EACH_FAILED] = 2, [EACH_WAITING] = 3
    };
    const struct each_run *x = *(const struct each_run *const *)a;
    const struct each_run *y = *(const struct each_run *const *)b;
    if (x->status != y->status)
        return order[x->status] - order[y->status];
    const int by_validation = compare_numbers(x->validation, y->validation);
    const int by_loss = by_validation != 0 ? by_validation : compare_numbers(x->loss, y->loss);
    if (x->status == EACH_FINISHED && by_loss != 0)
        return by_loss;
    return (x > y) - (x < y); /* in the order of the sweep */
}

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *values_json(const struct sweep *sweep, const struct sweep_run *run)
{
    json_t *values = json_object();
    for (int i = 0; i < sweep->n_key; i++) {
        if (json_object_set_new(values, sweep->keys[i], cli_json_string(run->values[i])) != 0) {
            json_decref(values);
            return NULL;
        }
    }
    return values;
}

static json_t *run_json(const struct sweep *sweep, const struct each_run *run)
{
    static const char *const status[] = { [EACH_WAITING] = "waiting",
                                          [EACH_FINISHED] = "finished",
                                          [EACH_STOPPED] = "stopped",
                                          [EACH_FAILED] = "failed" };
    json_t *code = run->ran ? json_integer(run->code) : json_null();
    json_t *error = run->messages != NULL ? json_array() : json_null();
    const char *line = run->messages;
    for (size_t n = 0; line != NULL; line = line[n] != '\0' ? line + n + 1 : NULL) {
        n = strcspn(line, "\n");
        char *copy = text_copy_n(line, n);
        json_array_append_new(error, copy != NULL ? cli_json_string(copy) : NULL);
        free(copy);
    }
    return json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o}", "run", run->word->name, "status",
        status[run->status], "validation_loss", number(run->validation), "best_step",
        run->best_step >= 0 ? json_integer(run->best_step) : json_null(), "loss", number(run->loss),
        "steps", (json_int_t)run->step, "seconds", number(run->seconds), "exit_code", code, "error",
        error, "folder", cli_json_string(run->folder), "values", values_json(sweep, run->word));
}

json_t *each_json(const struct sweep *sweep, const struct each_run *runs, const char *recipe_path,
                  const char *output_dir)
{
    json_t *list = json_array(), *keys = json_array();
    const struct each_run **order = calloc((size_t)sweep->n_run, sizeof *order);
    bool ok = order != NULL;
    for (int i = 0; ok && i < sweep->n_key; i++)
        ok = json_array_append_new(keys, cli_json_string(sweep->keys[i])) == 0;
    for (int64_t i = 0; ok && i < sweep->n_run; i++)
        order[i] = &runs[i];
    if (ok)
        qsort(order, (size_t)sweep->n_run, sizeof *order, compare_runs);
    for (int64_t i = 0; ok && i < sweep->n_run; i++)
        ok = json_array_append_new(list, run_json(sweep, order[i])) == 0;
    free(order);
    if (ok)
        return json_pack("{s:i, s:o, s:o, s:o, s:o}", "format", 1, "recipe",
                         cli_json_string(recipe_path), "output_dir", cli_json_string(output_dir),
                         "keys", keys, "runs", list);
    json_decref(list);
    json_decref(keys);
    return NULL;
}

/* ---- for reading ---- */

static bool any_has(json_t *runs, const char *name)
{
    for (size_t i = 0; i < json_array_size(runs); i++) {
        json_t *value = json_object_get(json_array_get(runs, i), name);
        if (value != NULL && !json_is_null(value))
            return true;
    }
    return false;
}

static json_t *table_row(json_t *runs, json_t *run)
{
    static const struct {
        const char *name, *title;
    } columns[] = {
        { "run", "run" },         { "status", "status" },  { "validation_loss", "validation" },
        { "best_step", "best" },  { "loss", "loss" },      { "steps", "steps" },
        { "seconds", "seconds" }, { "exit_code", "code" }, { "error", "error" },
    };
    json_t *row = json_object();
    bool ok = row != NULL;
    for (size_t i = 0; ok && i < sizeof columns / sizeof *columns; i++) {
        json_t *value = json_object_get(run, columns[i].name);
        if (json_is_array(value))
            value = json_array_get(value, 0); /* the first of a failure's lines */
        if (!any_has(runs, columns[i].name))
            continue;
        if (strcmp(columns[i].name, "seconds") == 0 && json_is_real(value))
            ok = json_object_set_new(row, columns[i].title,
                                     json_real(round(json_real_value(value) * 100) / 100)) == 0;
        else
            ok = json_object_set(row, columns[i].title, value) == 0;
    }
    if (ok)
        return row;
    json_decref(row);
    return NULL;
}

json_t *each_table(json_t *all)
{
    json_t *runs = json_object_get(all, "runs"), *rows = json_array();
    for (size_t i = 0; i < json_array_size(runs); i++)
        json_array_append_new(rows, table_row(runs, json_array_get(runs, i)));
    if (json_array_size(rows) == json_array_size(runs))
        return json_pack("{s:O, s:o}", "output_dir", json_object_get(all, "output_dir"), "runs",
                         rows);
    json_decref(rows);
    return NULL;
}
