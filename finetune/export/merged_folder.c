#include "finetune/export/merged_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "kernels/core/file.h"

/* The one folder inside a checkpoint's that transformers reads, too. */
static const char more_templates[] = "additional_chat_templates";

/* ---- names ---- */

static bool add_name(struct merged_names *list, char *name, struct err *err)
{
    if (name != NULL && list->n == list->cap) {
        const int64_t cap = 2 * list->cap + 16;
        char **names = realloc(list->names, (size_t)cap * sizeof *names);
        if (names != NULL) {
            list->names = names;
            list->cap = cap;
        }
    }
    if (name == NULL || list->n == list->cap) {
        free(name);
        return err_no_memory(err, "the list of files");
    }
    list->names[list->n++] = name;
    return true;
}

static void free_names(struct merged_names *list)
{
    for (int64_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list->names);
    *list = (struct merged_names){ 0 };
}

static bool ends_in_any(const char *name, const char *const *ends, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text_ends_with(name, ends[i]))
            return true;
    }
    return false;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool is_side(const char *name)
{
    static const char *const ends[] = { ".json", ".jinja", ".txt", ".model", ".tiktoken", ".py" };
    static const char *const others[] = { "config.json", "adapter_config.json" };
    if (name[0] == '.' || text_ends_with(name, ".index.json"))
        return false;
    for (size_t i = 0; i < COUNT(others); i++) {
        if (strcmp(name, others[i]) == 0)
            return false;
    }
    return ends_in_any(name, ends, COUNT(ends)) || text_starts_with(name, "LICENSE") ||
           text_starts_with(name, "NOTICE");
}

/* What would be taken for a part of this model, or be written over. */
static bool is_of_a_model(const char *name)
{
    static const char *const ends[] = { ".safetensors", ".bin",  ".pt",    ".pth",
                                        ".gguf",        ".json", ".jinja", ".model" };
    return name[0] != '.' && ends_in_any(name, ends, COUNT(ends));
}

/* ---- the base's folder ---- */

/* Regular files of base/inside (inside "": of base itself) that are to be copied. */
static bool list_sides(struct merged_folder *f, const char *inside, struct err *err)
{
    char *path = file_join(f->base, inside);
    DIR *dir = path != NULL ? opendir(path) : NULL;
    bool ok = path != NULL || err_no_memory(err, f->base);
    if (ok && dir == NULL && (*inside == '\0' || errno != ENOENT))
        ok = err_set(err, file_error(ERR_NO_INPUT), "%s: %s", f->base, strerror(errno));
    const char *entry;
    while (ok && dir != NULL && (entry = file_next_name(dir, f->base, &ok, err)) != NULL) {
        struct stat st;
        if (!is_side(entry))
            continue;
        char *name = *inside != '\0' ? file_join(inside, entry) : text_copy(entry);
        char *full = name != NULL ? file_join(f->base, name) : NULL;
        const bool wanted = full != NULL && stat(full, &st) == 0 && S_ISREG(st.st_mode);
        if (full == NULL)
            ok = err_no_memory(err, f->base);
        if (wanted) {
            f->side_bytes += (size_t)st.st_size;
            ok = add_name(&f->sides, name, err);
        } else {
            free(name);
        }
        free(full);
    }
    if (dir != NULL)
        closedir(dir);
    free(path);
    return ok;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* ---- the folder that is made ---- */

static bool is_same_folder(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool check_empty(const char *path, struct err *err)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return err_set(err, file_error(ERR_CANT_CREATE), "%s: %s", path, strerror(errno));
    bool ok = true;
    const char *entry;
    while (ok && (entry = file_next_name(dir, path, &ok, err)) != NULL) {
        if (is_of_a_model(entry))
            ok = err_set(err, ERR_CANT_CREATE,
                         "%s: has '%s' in it already; a merged checkpoint goes to a new or empty "
                         "folder",
                         path, entry);
    }
    closedir(dir);
    return ok;
}

bool merged_folder_open(struct merged_folder *f, const char *out, const struct export_source *s,
                        struct err *err)
{
    *f = (struct merged_folder){ .path = out, .base = s->base_dir };
    const char *const taken[] = { s->base_dir, s->adapter_dir };
    for (size_t i = 0; i < COUNT(taken); i++) {
        if (is_same_folder(out, taken[i]))
            return err_set(err, ERR_CANT_CREATE,
                           "%s: is the %s's own folder; a merged checkpoint goes to a new or empty "
                           "one",
                           out, i == 0 ? "base" : "adapter");
    }
    f->made = !file_exists(out);
    if (!f->made && !file_is_directory(out))
        return err_set(err, ERR_CANT_CREATE, "%s: is a file; expected a new or empty folder", out);
    if ((!f->made && !check_empty(out, err)) || !list_sides(f, "", err) ||
        !list_sides(f, more_templates, err)) {
        merged_folder_close(f, true);
        return false;
    }
    if (f->sides.n > 0)
        qsort(f->sides.names, (size_t)f->sides.n, sizeof *f->sides.names, compare_names);
    return true;
}

/* The free bytes of the disk that `path` is on, or its nearest folder that exists; SIZE_MAX where
 * the file system does not say. */
static bool free_bytes(const char *path, size_t *out, struct err *err)
{
    char *folder = text_copy(path);
    while (folder != NULL && !file_exists(folder)) {
        char *up = file_folder(folder);
        free(folder);
        folder = up;
    }
    struct statvfs v;
    bool ok = folder != NULL || err_no_memory(err, path);
    *out = SIZE_MAX;
    if (ok && statvfs(folder, &v) != 0)
        ok = err_set(err, ERR_IO, "%s: %s", folder, strerror(errno));
    else if (ok && v.f_blocks > 0 && !size_mul((size_t)v.f_bavail, (size_t)v.f_frsize, out))
        *out = SIZE_MAX;
    free(folder);
    return ok;
}

bool merged_folder_room(struct merged_folder *f, size_t bytes, struct err *err)
{
    enum { REST = 1 << 20 }; /* index, config, the folder itself */
    size_t room = 0, needed = 0;
    if (!free_bytes(f->path, &room, err))
        return false;
    if (!size_add(bytes, f->side_bytes + REST, &needed) || needed > room) {
        char need_text[32], room_text[32];
        text_bytes(need_text, (double)bytes + (double)f->side_bytes + REST);
        text_bytes(room_text, (double)room);
        return err_set(err, ERR_CANT_CREATE,
                       "%s: the merged checkpoint takes %s, and its disk has %s free; make room or "
                       "choose a folder on another disk",
                       f->path, need_text, room_text);
    }
    return file_make_directory(f->path, err);
}

bool merged_folder_add(struct merged_folder *f, const char *name, struct err *err)
{
    return add_name(&f->added, text_copy(name), err);
}

void merged_folder_close(struct merged_folder *f, bool keep)
{
    bool in_templates = false;
    for (int64_t i = 0; !keep && i < f->added.n; i++) {
        char *path = file_join(f->path, f->added.names[i]);
        in_templates = in_templates || strchr(f->added.names[i], '/') != NULL;
        if (path != NULL)
            unlink(path);
        free(path);
    }
    char *templates = in_templates ? file_join(f->path, more_templates) : NULL;
    if (templates != NULL)
        rmdir(templates);
    free(templates);
    if (!keep && f->made)
        rmdir(f->path); /* fails, and should, where something else is in it */
    free_names(&f->sides);
    free_names(&f->added);
    *f = (struct merged_folder){ 0 };
}

/* ---- the files beside the tensors ---- */

static bool write_file(struct merged_folder *f, const char *name, const void *bytes, size_t n,
                       struct err *err)
{
    char *path = file_join(f->path, name);
    const bool ok =
        path != NULL ? file_write(path, bytes, n, err) : err_no_memory(err, "a file's name");
    free(path);
    return ok && merged_folder_add(f, name, err);
}

static bool copy_side(struct merged_folder *f, const char *name, struct err *err)
{
    struct file_map map = { 0 };
    char *from = file_join(f->base, name);
    const bool ok = (from != NULL ? file_map_open(from, &map, err) : err_no_memory(err, f->base)) &&
                    write_file(f, name, map.data, map.size, err);
    file_map_close(&map);
    free(from);
    return ok;
}

bool merged_folder_copy_sides(struct merged_folder *f, struct err *err)
{
    bool ok = true;
    for (int64_t i = 0; ok && i < f->sides.n; i++) {
        const char *slash = strchr(f->sides.names[i], '/');
        if (slash != NULL) {
            char *folder = file_join(f->path, more_templates);
            ok = folder != NULL ? file_make_directory(folder, err) : err_no_memory(err, f->path);
            free(folder);
        }
        ok = ok && copy_side(f, f->sides.names[i], err);
    }
    return ok;
}
