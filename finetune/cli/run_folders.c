#include "finetune/cli/run_folders.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

enum { SWEEP_LIMIT = 64 * 1024 * 1024 };

/* Takes folder over. */
static bool add(struct run_folders *f, char *folder, struct err *err)
{
    char **more = folder == NULL ? NULL : realloc(f->items, ((size_t)f->n + 1) * sizeof *more);
    if (more == NULL) {
        free(folder);
        return err_no_memory(err, "the runs' folders");
    }
    f->items = more;
    f->items[f->n++] = folder;
    return true;
}

/* A run's name is that of a folder in the sweep's. */
static bool add_run(struct run_folders *f, const char *dir, json_t *run, const char *path,
                    struct err *err)
{
    const char *name = NULL;
    if (!json_get_string(run, "run", true, &name, path, err))
        return false;
    if (strchr(name, '/') != NULL || strcmp(name, "..") == 0 || *name == '\0')
        return err_set(err, ERR_DATA, "%s: \"run\" is '%.200s'; expected the name of a folder",
                       path, name);
    char *folder = file_join(dir, name);
    if (folder != NULL && !file_is_directory(folder)) {
        f->n_waiting++;
        free(folder);
        return true;
    }
    return add(f, folder, err);
}

static bool add_sweep(struct run_folders *f, const char *dir, const char *path, struct err *err)
{
    json_t *sweep = json_load_object(path, SWEEP_LIMIT, err);
    json_t *runs = json_object_get(sweep, "runs");
    bool ok = sweep != NULL &&
              (json_is_array(runs) || err_set(err, ERR_DATA, "%s: \"runs\" is no list", path));
    for (size_t i = 0; ok && i < json_array_size(runs); i++)
        ok = add_run(f, dir, json_array_get(runs, i), path, err);
    json_decref(sweep);
    return ok;
}

bool run_folders_add(struct run_folders *f, const char *dir, struct err *err)
{
    char *path = file_join(dir, SWEEP_FILE);
    if (path == NULL)
        return err_no_memory(err, dir);
    const bool ok = file_exists(path) ? add_sweep(f, dir, path, err) : add(f, text_copy(dir), err);
    free(path);
    return ok;
}

void run_folders_free(struct run_folders *f)
{
    for (int64_t i = 0; i < f->n; i++)
        free(f->items[i]);
    free(f->items);
    *f = (struct run_folders){ 0 };
}
