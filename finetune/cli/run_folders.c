#include "finetune/cli/run_folders.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/history.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

enum { SWEEP_LIMIT = 64 * 1024 * 1024 };

const char *run_folder_state_name(enum run_folder_state state)
{
    static const char *const names[] = {
        [RUN_FOLDER_WAITING] = "waiting", [RUN_FOLDER_FAILED] = "failed", [RUN_FOLDER_GONE] = "gone"
    };
    assert(state != RUN_FOLDER_READ);
    return names[state];
}

/* Takes what the run holds over. */
static bool add(struct run_folders *f, struct run_folder run, struct err *err)
{
    struct run_folder *more =
        run.dir == NULL ? NULL : realloc(f->items, ((size_t)f->n + 1) * sizeof *more);
    if (more == NULL) {
        free(run.dir);
        free(run.error);
        return err_no_memory(err, "the runs' folders");
    }
    f->items = more;
    f->items[f->n++] = run;
    return true;
}

/* Whether a run has begun in the folder, into *has. */
static bool find_run(const char *dir, bool *has, struct err *err)
{
    static const char *const names[] = { "run.json", "metrics.jsonl" };
    *has = false;
    for (size_t i = 0; i < sizeof names / sizeof *names && !*has; i++) {
        char *path = file_join(dir, names[i]);
        if (path == NULL)
            return err_no_memory(err, dir);
        *has = file_exists(path);
        free(path);
    }
    return true;
}

/* What sweep.json says of a run that left nothing, or nothing any more. */
static bool find_state(json_t *said, const char *path, struct run_folder *run, struct err *err)
{
    const char *status = "";
    int64_t steps = 0;
    json_t *error = json_array_get(json_object_get(said, "error"), 0);
    if (!json_get_string(said, "status", false, &status, path, err) ||
        !json_get_int(said, "steps", false, 0, INT64_MAX, &steps, path, err))
        return false;
    run->state = steps > 0 || strcmp(status, "finished") == 0 ? RUN_FOLDER_GONE
                 : strcmp(status, "failed") == 0              ? RUN_FOLDER_FAILED
                                                              : RUN_FOLDER_WAITING;
    if (run->state != RUN_FOLDER_FAILED || !json_is_string(error))
        return true;
    run->error = text_copy(json_string_value(error));
    return run->error != NULL || err_no_memory(err, path);
}

/* A run's name is that of a folder in the sweep's. One whose lock is held is loading. */
static bool add_run(struct run_folders *f, const char *dir, json_t *said, const char *path,
                    struct err *err)
{
    const char *name = NULL;
    if (!json_get_string(said, "run", true, &name, path, err))
        return false;
    if (strchr(name, '/') != NULL || strcmp(name, "..") == 0 || *name == '\0')
        return err_set(err, ERR_DATA, "%s: \"run\" is '%.200s'; expected the name of a folder",
                       path, name);
    struct run_folder run = { .dir = file_join(dir, name) };
    bool told = false;
    bool ok = run.dir != NULL ? find_run(run.dir, &told, err) : err_no_memory(err, dir);
    if (ok && !told && file_is_directory(run.dir))
        ok = history_is_held(run.dir, &told, err);
    if (ok && !told)
        ok = find_state(said, path, &run, err);
    if (ok)
        return add(f, run, err);
    free(run.dir);
    return false;
}

/* The runs of a sweep.json of ours; NULL with *err: it is not. */
static json_t *sweep_runs(json_t *sweep, const char *path, struct err *err)
{
    json_t *runs = json_object_get(sweep, "runs");
    const bool is_empty = json_is_array(runs) && json_array_size(runs) == 0;
    if (is_empty ||
        (json_is_array(runs) && json_integer_value(json_object_get(sweep, "format")) == 1))
        return runs;
    err_set(err, ERR_DATA, "%s: is no sweep's table; expected \"format\": 1 and a list of \"runs\"",
            path);
    return NULL;
}

static bool add_sweep(struct run_folders *f, const char *dir, const char *path, bool in_run,
                      struct err *err)
{
    struct err why = { 0 };
    json_t *sweep = json_load_object(path, SWEEP_LIMIT, &why);
    json_t *runs = sweep != NULL ? sweep_runs(sweep, path, &why) : NULL;
    const size_t n = json_array_size(runs);
    bool held = false, ok = true;
    if (runs == NULL)
        ok = (in_run && why.code == ERR_DATA) || err_set(err, why.code, "%s", why.text);
    else if (n > 0)
        ok = history_is_held(dir, &held, err);
    else if (!in_run)
        ok = add(f, (struct run_folder){ .dir = text_copy(dir) }, err);
    f->sweep_alive = f->sweep_alive || held;
    for (size_t i = 0; ok && i < n; i++)
        ok = add_run(f, dir, json_array_get(runs, i), path, err);
    json_decref(sweep);
    return ok;
}

bool run_folders_add(struct run_folders *f, const char *dir, struct err *err)
{
    char *path = file_join(dir, SWEEP_FILE);
    if (path == NULL)
        return err_no_memory(err, dir);
    const bool has_sweep = file_exists(path) && !file_is_directory(path);
    bool in_run = false;
    bool ok = find_run(dir, &in_run, err);
    if (ok && (in_run || !has_sweep))
        ok = add(f, (struct run_folder){ .dir = text_copy(dir) }, err);
    if (ok && has_sweep)
        ok = add_sweep(f, dir, path, in_run, err);
    free(path);
    return ok;
}

void run_folders_free(struct run_folders *f)
{
    for (int64_t i = 0; i < f->n; i++) {
        free(f->items[i].dir);
        free(f->items[i].error);
    }
    free(f->items);
    *f = (struct run_folders){ 0 };
}
