#include "kernels/core/manifest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/sha256.h"

enum { FORMAT = 1, LIMIT = 1 << 16 };

/* ---- writing ---- */

static bool add_file(json_t *files, const char *dir, const char *name, struct err *err)
{
    char hex[SHA256_HEX_SIZE], *path = file_join(dir, name);
    uint64_t size = 0;
    bool ok = path != NULL || err_no_memory(err, dir);
    ok = ok && sha256_file(path, hex, &size, err);
    if (ok &&
        json_object_set_new(files, name,
                            json_pack("{s:I,s:s}", "bytes", (json_int_t)size, "sha256", hex)) != 0)
        ok = err_no_memory(err, dir);
    free(path);
    return ok;
}

bool manifest_write(const char *dir, const char *const *names, int n, struct err *err)
{
    json_t *files = json_object(), *root = json_object();
    bool ok = (files != NULL && root != NULL) || err_no_memory(err, dir);
    for (int i = 0; ok && i < n; i++)
        ok = add_file(files, dir, names[i], err);
    ok = ok && ((json_object_set_new(root, "format", json_integer(FORMAT)) == 0 &&
                 json_object_set(root, "files", files) == 0) ||
                err_no_memory(err, dir));
    char *text = ok ? json_to_text(root, JSON_INDENT(1)) : NULL;
    char *path = file_join(dir, MANIFEST_NAME);
    if (ok && (text == NULL || path == NULL))
        ok = err_no_memory(err, dir);
    ok = ok && file_write(path, text, strlen(text), err);
    free(path);
    free(text);
    json_decref(files);
    json_decref(root);
    return ok;
}

/* ---- verifying ---- */

static bool verify_file(const char *dir, const char *name, json_t *entry, const char *place,
                        struct err *err)
{
    char hex[SHA256_HEX_SIZE], *path = NULL;
    const char *want = NULL;
    int64_t bytes = 0;
    uint64_t size = 0;
    if (!json_is_object(entry))
        return err_set(err, ERR_DATA, "%s: '%s' is %s; expected an object", place, name,
                       entry == NULL ? "missing" : json_type_name(entry));
    if (!json_get_int(entry, "bytes", true, 0, INT64_MAX, &bytes, place, err) ||
        !json_get_string(entry, "sha256", true, &want, place, err))
        return false;
    path = file_join(dir, name);
    bool ok = path != NULL ? sha256_file(path, hex, &size, err) : err_no_memory(err, dir);
    if (ok && size != (uint64_t)bytes)
        ok = err_set(err, ERR_DATA,
                     "%s: is damaged: it has %" PRIu64 " bytes, the manifest says %" PRId64, path,
                     size, bytes);
    if (ok && strcmp(hex, want) != 0)
        ok = err_set(err, ERR_DATA,
                     "%s: is damaged: its SHA-256 is %.16s..., the manifest says %.16s...", path,
                     hex, want);
    free(path);
    return ok;
}

/* The "files" of a manifest, in *root, which the caller json_decref()s; NULL on failure. */
static json_t *read_files(const char *path, json_t **root, struct err *err)
{
    int64_t format = 0;
    *root = json_load_object(path, LIMIT, err);
    if (*root == NULL || !json_get_int(*root, "format", true, 1, INT32_MAX, &format, path, err))
        return NULL;
    json_t *files = json_object_get(*root, "files");
    if (format != FORMAT)
        err_set(err, ERR_DATA,
                "%s: has format %" PRId64 "; expected %d: it was written by another version", path,
                format, (int)FORMAT);
    else if (!json_is_object(files) || json_object_size(*root) != 2)
        err_set(err, ERR_DATA, "%s: is damaged: expected \"format\" and \"files\"", path);
    else
        return files;
    return NULL;
}

/* A name of a file in the folder itself. */
static bool is_plain(const char *name)
{
    return *name != '\0' && strchr(name, '/') == NULL && strcmp(name, "..") != 0 &&
           strcmp(name, ".") != 0;
}

bool manifest_verify(const char *dir, const char *const *names, int n, struct err *err)
{
    char *path = file_join(dir, MANIFEST_NAME);
    json_t *root = NULL;
    if (path == NULL)
        return err_no_memory(err, dir);
    json_t *files = read_files(path, &root, err);
    bool ok = files != NULL;
    if (ok && json_object_size(files) != (size_t)n)
        ok = err_set(err, ERR_DATA, "%s: is damaged: it has %zu files, expected %d", path,
                     json_object_size(files), n);
    for (int i = 0; ok && i < n; i++)
        ok = verify_file(dir, names[i], json_object_get(files, names[i]), path, err);
    json_decref(root);
    free(path);
    return ok;
}

bool manifest_check(const char *dir, struct err *err)
{
    char *path = file_join(dir, MANIFEST_NAME);
    json_t *root = NULL, *entry = NULL;
    const char *name = NULL;
    if (path == NULL)
        return err_no_memory(err, dir);
    const bool there = file_exists(path);
    json_t *files = there ? read_files(path, &root, err) : NULL;
    bool ok = files != NULL || !there;
    json_object_foreach(files, name, entry)
    {
        if (ok && !is_plain(name))
            ok = err_set(err, ERR_DATA, "%s: names '%.80s', which is no file of its folder", path,
                         name);
        ok = ok && verify_file(dir, name, entry, path, err);
    }
    json_decref(root);
    free(path);
    return ok;
}
