#define _GNU_SOURCE /* renameat2 */
#include "finetune/train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/core/file.h"
#include "kernels/core/manifest.h"

static const char prefix[] = "checkpoint-";
static const char temporary[] = ".tmp", replaced[] = ".replaced", damaged[] = ".damaged";

/* What a manifest names, no more and no less. */
static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "recipe.yaml",
                                     STATE_NAME };
enum { N_NAME = sizeof names / sizeof *names };

size_t checkpoint_bytes(int64_t n_param, int64_t n_slot)
{
    const size_t of_texts = 1 << 18, of_names = 512;
    return (size_t)n_param * (sizeof(float) + 3 * sizeof(real)) + (size_t)n_slot * of_names +
           of_texts;
}

char *checkpoint_path(const char *output_dir, int64_t step)
{
    char name[48];
    snprintf(name, sizeof name, "%s%" PRId64, prefix, step);
    return file_join(output_dir, name);
}

bool checkpoint_verify(const char *dir, struct err *err)
{
    return manifest_verify(dir, names, N_NAME, err);
}

/* ---- folders ---- */

static bool fail_remove(const char *path, struct err *err)
{
    return err_set(err, file_error(ERR_IO), "%s: cannot be removed: %s", path, strerror(errno));
}

/* All that lies in a folder, which is closed. Links are removed, never followed; what others put
 * there goes, too, up to a few folders deep. */
static bool empty_folder(int fd, const char *path, int depth, struct err *err)
{
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        close(fd);
        return fail_remove(path, err);
    }
    bool ok = true;
    const char *name;
    while (ok && (name = file_next_name(d, path, &ok, err)) != NULL) {
        const int sub = depth > 0 ? openat(fd, name, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        ok = sub < 0 || empty_folder(sub, path, depth - 1, err);
        if (ok && unlinkat(fd, name, sub >= 0 ? AT_REMOVEDIR : 0) != 0)
            ok = fail_remove(path, err);
    }
    closedir(d);
    return ok;
}

/* One that is not there is removed already; a file or a link of that name goes as such. */
static bool remove_folder(const char *path, struct err *err)
{
    enum { DEPTH = 8 };
    const int fd = open(path, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
        return unlink(path) == 0 || fail_remove(path, err);
    if (fd < 0)
        return errno == ENOENT || fail_remove(path, err);
    return empty_folder(fd, path, DEPTH, err) && (rmdir(path) == 0 || fail_remove(path, err));
}

/* A checkpoint goes by its new name first, so that a half-removed one is none. */
static bool remove_checkpoint(const char *path, struct err *err)
{
    char *gone = text_format("%s%s", path, temporary);
    bool ok = gone != NULL || err_no_memory(err, path);
    ok = ok && remove_folder(gone, err);
    if (ok && rename(path, gone) != 0 && errno != ENOENT)
        ok = err_set(err, ERR_IO, "%s: cannot be removed: %s", path, strerror(errno));
    ok = ok && remove_folder(gone, err);
    free(gone);
    return ok;
}

/* The N of "checkpoint-N" with `end` after it; -1 for another name. */
static int64_t step_of(const char *name, const char *end)
{
    const size_t n = sizeof prefix - 1;
    if (strncmp(name, prefix, n) != 0)
        return -1;
    const size_t n_digit = strspn(name + n, "0123456789");
    if (n_digit == 0 || n_digit > 18 || strcmp(name + n + n_digit, end) != 0 ||
        (name[n] == '0' && n_digit > 1))
        return -1;
    return strtoll(name + n, NULL, 10);
}

static int compare_newest(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static bool list_named(const char *output_dir, const char *end, struct checkpoint_list *list,
                       struct err *err)
{
    *list = (struct checkpoint_list){ 0 };
    DIR *d = opendir(output_dir);
    if (d == NULL && errno == ENOTDIR)
        return err_set(err, ERR_CANT_CREATE, "%s: is no folder; set another output_dir",
                       output_dir);
    if (d == NULL)
        return errno == ENOENT || err_set(err, file_error(ERR_NO_INPUT), "%s: cannot be read: %s",
                                          output_dir, strerror(errno));
    bool ok = true;
    const char *name;
    while (ok && (name = file_next_name(d, output_dir, &ok, err)) != NULL) {
        const int64_t step = step_of(name, end);
        if (step < 0)
            continue;
        int64_t *more = realloc(list->steps, ((size_t)list->n + 1) * sizeof *more);
        ok = more != NULL || err_no_memory(err, output_dir);
        if (ok) {
            list->steps = more;
            list->steps[list->n++] = step;
        }
    }
    closedir(d);
    if (list->n > 0)
        qsort(list->steps, (size_t)list->n, sizeof *list->steps, compare_newest);
    if (!ok)
        checkpoint_list_free(list);
    return ok;
}

bool checkpoint_list(const char *output_dir, struct checkpoint_list *list, struct err *err)
{
    return list_named(output_dir, "", list, err);
}

void checkpoint_list_free(struct checkpoint_list *list)
{
    free(list->steps);
    *list = (struct checkpoint_list){ 0 };
}

/* Whole, and of the step that its name says: names can be mixed up by hand. */
static bool verify_named(const char *path, int64_t step, struct err *err)
{
    struct train_counters c;
    struct plan_shape shape;
    json_t *identity = NULL;
    json_t *state = checkpoint_verify(path, err) ? state_read_json(path, err) : NULL;
    const bool ok =
        state != NULL && state_from_json(state, path, &c, &shape, &identity, err) &&
        (c.step == step ||
         err_set(err, ERR_DATA, "%s: is of step %" PRId64 ", not of the one it is named for", path,
                 c.step));
    json_decref(state);
    return ok;
}

bool checkpoint_find(const char *output_dir, char **dir, struct text *notes, struct err *err)
{
    *dir = NULL;
    struct checkpoint_list list;
    if (!checkpoint_list(output_dir, &list, err))
        return false;
    struct err why = { 0 };
    bool found = false, ok = true;
    for (int64_t i = 0; ok && i < list.n && !found; i++) {
        char *path = checkpoint_path(output_dir, list.steps[i]);
        why = (struct err){ 0 };
        found = path != NULL && verify_named(path, list.steps[i], &why);
        ok = path != NULL || err_no_memory(err, output_dir);
        /* What failed otherwise says nothing of the file. */
        if (ok && !found && why.code != ERR_DATA && why.code != ERR_NO_INPUT)
            ok = err_set(err, why.code, "%s", why.text);
        if (ok && !found)
            text_printf(notes, "%s; %s%" PRId64 " is passed over\n", why.text, prefix,
                        list.steps[i]);
        if (ok && found)
            *dir = path;
        else
            free(path);
    }
    if (ok && !found && list.n > 0)
        ok = err_set(err, ERR_DATA,
                     "%s: none of its %" PRId64
                     " checkpoints is whole; --overwrite begins anew. The oldest: %s",
                     output_dir, list.n, why.text);
    checkpoint_list_free(&list);
    return ok;
}

static bool remove_listed(const char *output_dir, const struct checkpoint_list *list, int64_t from,
                          int64_t but, struct err *err)
{
    bool ok = true;
    for (int64_t i = from; ok && i < list->n; i++) {
        if (list->steps[i] == but)
            continue;
        char *path = checkpoint_path(output_dir, list->steps[i]);
        ok = path != NULL ? remove_checkpoint(path, err) : err_no_memory(err, output_dir);
        free(path);
    }
    return ok;
}

/* The folders checkpoint-N with this end. */
static bool remove_ended(const char *output_dir, const char *end, struct err *err)
{
    struct checkpoint_list list;
    if (!list_named(output_dir, end, &list, err))
        return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < list.n; i++) {
        char *path = text_format("%s/%s%" PRId64 "%s", output_dir, prefix, list.steps[i], end);
        ok = path != NULL ? remove_folder(path, err) : err_no_memory(err, output_dir);
        free(path);
    }
    checkpoint_list_free(&list);
    return ok;
}

bool checkpoint_prune(const char *output_dir, int64_t keep, int64_t newest, struct err *err)
{
    struct checkpoint_list list;
    if (!checkpoint_list(output_dir, &list, err))
        return false;
    const bool ok = (keep <= 0 || remove_listed(output_dir, &list, keep, newest, err)) &&
                    remove_ended(output_dir, temporary, err);
    checkpoint_list_free(&list);
    return ok;
}

bool checkpoint_remove_all(const char *output_dir, struct err *err)
{
    struct checkpoint_list list;
    if (!checkpoint_list(output_dir, &list, err))
        return false;
    const bool ok =
        remove_listed(output_dir, &list, 0, -1, err) && remove_ended(output_dir, temporary, err) &&
        remove_ended(output_dir, replaced, err) && remove_ended(output_dir, damaged, err);
    checkpoint_list_free(&list);
    return ok;
}

/* ---- writing ---- */

static bool write_files(const char *dir, const struct checkpoint *c, struct err *err)
{
    char *recipe = file_join(dir, "recipe.yaml");
    const bool ok = (recipe != NULL || err_no_memory(err, dir)) &&
                    peft_write(dir, c->adapter, c->lora, &c->facts, err) &&
                    file_write(recipe, c->recipe, strlen(c->recipe), err) &&
                    state_write(dir, &c->blocks, c->state, err) &&
                    manifest_write(dir, names, N_NAME, err);
    free(recipe);
    return ok;
}

static bool sync_folder_of(const char *path, struct err *err)
{
    char *folder = file_folder(path);
    const bool ok = folder != NULL ? file_sync_folder(folder, err) : err_no_memory(err, path);
    free(folder);
    return ok;
}

/* One of this step is there when a run went on from an older one, or was told to change. They are
 * exchanged in one piece; where the file system cannot, the old one goes first. */
static bool replace(const char *partial, const char *path, struct err *err)
{
    if (!checkpoint_verify(partial, err))
        return false;
    if (renameat2(AT_FDCWD, partial, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return sync_folder_of(path, err) && remove_folder(partial, err);
    char *old = text_format("%s%s", path, replaced);
    bool ok = old != NULL || err_no_memory(err, path);
    ok = ok && remove_folder(old, err);
    if (ok && (rename(path, old) != 0 || rename(partial, path) != 0))
        ok = err_set(err, ERR_IO, "%s: cannot be replaced: %s", path, strerror(errno));
    ok = ok && sync_folder_of(path, err) && remove_folder(old, err);
    free(old);
    return ok;
}

static bool put_in_place(const char *partial, const char *path, struct err *err)
{
    if (file_exists(path))
        return replace(partial, path, err);
    return rename(partial, path) == 0 ||
           err_set(err, ERR_IO, "%s: cannot be renamed to %s: %s", partial, path, strerror(errno));
}

bool checkpoint_write(const char *output_dir, const struct checkpoint *c, struct err *err)
{
    char *path = checkpoint_path(output_dir, c->step);
    char *partial = path == NULL ? NULL : text_format("%s%s", path, temporary);
    const size_t bytes = checkpoint_bytes(c->blocks.n_param, c->adapter->n_slot);
    const bool ok = (partial != NULL || err_no_memory(err, output_dir)) &&
                    remove_folder(partial, err) && file_check_space(output_dir, bytes, err) &&
                    file_make_directory(partial, err) && write_files(partial, c, err) &&
                    file_sync_folder(partial, err) && put_in_place(partial, path, err) &&
                    file_sync_folder(output_dir, err);
    free(partial);
    free(path);
    return ok;
}

/* ---- a run that goes on ---- */

static bool settle_one(const char *output_dir, int64_t step, struct err *err)
{
    char *path = checkpoint_path(output_dir, step);
    char *old = path == NULL ? NULL : text_format("%s%s", path, replaced);
    struct err why = { 0 };
    bool ok = old != NULL || err_no_memory(err, output_dir);
    if (ok && file_exists(path)) {
        if (checkpoint_verify(path, &why)) /* else the old one is worth keeping */
            ok = remove_folder(old, err);
    } else if (ok && rename(old, path) != 0) {
        ok = err_set(err, ERR_IO, "%s: cannot be renamed: %s", old, strerror(errno));
    }
    free(old);
    free(path);
    return ok;
}

bool checkpoint_settle(const char *output_dir, struct err *err)
{
    struct checkpoint_list list;
    if (!list_named(output_dir, replaced, &list, err))
        return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < list.n; i++)
        ok = settle_one(output_dir, list.steps[i], err);
    checkpoint_list_free(&list);
    return ok;
}

bool checkpoint_set_aside(const char *output_dir, int64_t step, struct err *err)
{
    struct checkpoint_list list;
    if (!checkpoint_list(output_dir, &list, err))
        return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < list.n && list.steps[i] > step; i++) {
        char *path = checkpoint_path(output_dir, list.steps[i]);
        char *aside = path == NULL ? NULL : text_format("%s%s", path, damaged);
        ok = aside != NULL || err_no_memory(err, output_dir);
        struct err why = { 0 };
        const bool whole = ok && verify_named(path, list.steps[i], &why);
        if (ok && !whole && why.code != ERR_DATA && why.code != ERR_NO_INPUT)
            ok = err_set(err, why.code, "%s", why.text);
        if (whole)
            ok = err_set(err, ERR_CANT_CREATE,
                         "%s: is newer than the checkpoint to go on from; go on from this one, or "
                         "move it away",
                         path);
        ok = ok && remove_folder(aside, err);
        if (ok && rename(path, aside) != 0)
            ok = err_set(err, ERR_IO, "%s: cannot be renamed: %s", path, strerror(errno));
        free(aside);
        free(path);
    }
    checkpoint_list_free(&list);
    return ok;
}
