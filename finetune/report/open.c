/* Folders into runs, and their names. */
#include "finetune/report/report.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"

/* The folder's own name, wherever one stands: of "out/", "." or "../b" too. */
static char *own_name(const char *dir)
{
    char *whole = NULL;
    if (!file_resolve(dir, &whole, NULL))
        return NULL;
    const char *path = whole != NULL ? whole : dir, *slash = strrchr(path, '/');
    char *name = text_copy(whole != NULL && slash != NULL && slash[1] != '\0' ? slash + 1 : path);
    free(whole);
    return name;
}

/* Where two names are the same, the paths take their places. */
static bool tell_apart(struct report *r, const char *const *dirs)
{
    bool *twice = calloc((size_t)r->n_run, sizeof *twice), ok = twice != NULL;
    for (int64_t i = 0; i < r->n_run && ok; i++) {
        for (int64_t k = 0; k < r->n_run; k++)
            twice[i] = twice[i] || (i != k && strcmp(r->runs[i].name, r->runs[k].name) == 0);
    }
    for (int64_t i = 0; i < r->n_run && ok; i++) {
        char *path = twice[i] ? text_copy(dirs[i]) : NULL;
        ok = !twice[i] || path != NULL;
        if (path != NULL) {
            free(r->runs[i].name);
            r->runs[i].name = path;
        }
    }
    free(twice);
    return ok;
}

static bool open_run(struct report_run *run, const char *dir, struct err *err)
{
    char *recipe = file_join(dir, "recipe.yaml");
    run->name = own_name(dir);
    const bool ok = (recipe != NULL && run->name != NULL) || err_no_memory(err, dir);
    const bool read =
        ok && history_read(&run->history, dir, err) && settings_read(&run->settings, recipe, err);
    free(recipe);
    return read;
}

bool report_open(struct report *r, const char *const *dirs, int64_t n_dir, struct err *err)
{
    *r = (struct report){ .runs = calloc((size_t)n_dir, sizeof *r->runs) };
    bool ok = r->runs != NULL || err_no_memory(err, "the runs");
    while (ok && r->n_run < n_dir) {
        const int64_t i = r->n_run++;
        ok = open_run(&r->runs[i], dirs[i], err);
    }
    ok = ok && (tell_apart(r, dirs) || err_no_memory(err, "the runs' names"));
    if (!ok)
        report_close(r);
    return ok;
}

void report_close(struct report *r)
{
    for (int64_t i = 0; i < r->n_run; i++) {
        free(r->runs[i].name);
        history_free(&r->runs[i].history);
        settings_free(&r->runs[i].settings);
    }
    free(r->runs);
    *r = (struct report){ 0 };
}
