/* The two JSON files of a merged checkpoint that are not plain copies. */
#include <stdlib.h>
#include <string.h>

#include "finetune/export/merged_folder.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"

enum { MAX_CONFIG = 1 << 24, MAX_INDEX = 1 << 26 };

static const char index_name[] = "model.safetensors.index.json", config_name[] = "config.json";
static const char tie_key[] = "tie_word_embeddings";

static bool write_text(struct merged_folder *f, const char *name, const char *bytes, size_t n,
                       struct err *err)
{
    char *path = file_join(f->path, name);
    const bool ok =
        path != NULL ? file_write(path, bytes, n, err) : err_no_memory(err, "a file's name");
    free(path);
    return ok && merged_folder_add(f, name, err);
}

/* ---- the index ---- */

/* Takes the values over; false when memory is out. */
static bool set_index(json_t *root, const struct merged_plan *plan)
{
    json_t *map = json_object(), *metadata = json_object_get(root, "metadata");
    size_t bytes = 0, n_param = 0;
    bool ok = map != NULL;
    for (int64_t f = 0; ok && f < plan->n_file; f++) {
        for (int64_t i = plan->files[f].first; ok && i < plan->files[f].first + plan->files[f].n;
             i++) {
            const struct safetensors_tensor *t = &plan->tensors[i];
            bytes += t->bytes;
            n_param += t->bytes / dtype_size(t->dtype);
            ok = json_object_set_new(map, t->name, json_string(plan->files[f].name)) == 0;
        }
    }
    if (!json_is_object(metadata)) {
        metadata = json_object();
        ok = json_object_set_new(root, "metadata", metadata) == 0 && ok;
    }
    ok = ok && json_object_set_new(metadata, "total_size", json_integer((json_int_t)bytes)) == 0;
    if (ok && json_object_get(metadata, "total_parameters") != NULL) /* transformers 5 */
        ok = json_object_set_new(metadata, "total_parameters", json_integer((json_int_t)n_param)) ==
             0;
    if (!ok) {
        json_decref(map);
        return false;
    }
    return json_object_set_new(root, "weight_map", map) == 0;
}

bool merged_write_index(struct merged_folder *f, const struct merged_plan *plan, struct err *err)
{
    char *path = file_join(f->base, index_name), *text = NULL;
    json_t *root = path != NULL ? json_load_object(path, MAX_INDEX, err) : NULL;
    bool ok = root != NULL || (path == NULL && err_no_memory(err, index_name));
    if (ok && (!set_index(root, plan) ||
               (text = json_to_text(root, JSON_INDENT(2) | JSON_SORT_KEYS)) == NULL))
        ok = err_no_memory(err, index_name);
    if (ok) {
        struct text t = { 0 };
        text_puts(&t, text);
        text_puts(&t, "\n");
        ok = !t.failed ? write_text(f, index_name, t.data, t.len, err)
                       : err_no_memory(err, index_name);
        text_free(&t);
    }
    free(text);
    json_decref(root);
    free(path);
    return ok;
}

/* ---- config.json ---- */

/* The end of the string whose opening quote is at i: past its closing one. */
static size_t string_end(const char *s, size_t n, size_t i)
{
    for (i++; i < n && s[i] != '"'; i++) {
        if (s[i] == '\\')
            i++;
    }
    return i < n ? i + 1 : n;
}

static size_t skip_blanks(const char *s, size_t n, size_t i)
{
    while (i < n && strchr(" \t\r\n", s[i]) != NULL && s[i] != '\0')
        i++;
    return i;
}

/* Where the value of the root's member is: begin and end, both 0 when there is none. The text is
 * known to be an object. */
static void find_member(const char *s, size_t n, const char *key, size_t *begin, size_t *end)
{
    const size_t key_n = strlen(key);
    int depth = 0;
    *begin = *end = 0;
    for (size_t i = 0; i < n;) {
        if (s[i] == '{' || s[i] == '[')
            depth++;
        else if (s[i] == '}' || s[i] == ']')
            depth--;
        if (s[i] != '"') {
            i++;
            continue;
        }
        const size_t past = string_end(s, n, i), colon = skip_blanks(s, n, past);
        const bool found = depth == 1 && past - i == key_n + 2 &&
                           memcmp(s + i + 1, key, key_n) == 0 && colon < n && s[colon] == ':';
        i = past;
        if (!found)
            continue;
        *begin = *end = skip_blanks(s, n, colon + 1);
        while (*end < n && strchr(",} \t\r\n", s[*end]) == NULL)
            (*end)++;
        return;
    }
}

/* Whether `now` is `before` with the one member changed. */
static bool is_untied(json_t *before, const struct text *now, const char *place)
{
    struct err ignored;
    json_t *root = json_parse(now->data, now->len, place, &ignored);
    const bool ok = root != NULL && json_is_false(json_object_get(root, tie_key)) &&
                    json_object_set_new(before, tie_key, json_false()) == 0 &&
                    json_equal(root, before) != 0;
    json_decref(root);
    return ok;
}

bool merged_untie_config(const char *bytes, size_t n, const char *place, struct text *out,
                         struct err *err)
{
    json_t *root = json_parse(bytes, n, place, err);
    size_t begin = 0, end = 0;
    if (root == NULL)
        return false;
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(err, ERR_DATA, "%s: is no object", place);
    }
    find_member(bytes, n, tie_key, &begin, &end);
    if (begin > 0) {
        text_append(out, bytes, begin);
        text_puts(out, "false");
        text_append(out, bytes + end, n - end);
    } else { /* not there, or spelt with escapes: set in what jansson makes of it */
        char *text = json_object_set_new(root, tie_key, json_false()) == 0
                         ? json_to_text(root, JSON_INDENT(2))
                         : NULL;
        out->failed = out->failed || text == NULL;
        text_puts(out, text != NULL ? text : "");
        text_puts(out, "\n");
        free(text);
    }
    bool ok = !out->failed || err_no_memory(err, place);
    if (ok && !is_untied(root, out, place))
        ok = err_set(err, ERR_INTERNAL, "%s: '%s' could not be changed", place, tie_key);
    json_decref(root);
    return ok;
}

bool merged_write_config(struct merged_folder *f, const struct merged_plan *plan, struct err *err)
{
    char *path = file_join(f->base, config_name), *bytes = NULL;
    struct text t = { 0 };
    size_t n = 0;
    bool ok = path != NULL ? file_read(path, MAX_CONFIG, &bytes, &n, err)
                           : err_no_memory(err, config_name);
    if (ok && plan->untied)
        ok = merged_untie_config(bytes, n, path, &t, err);
    ok = ok &&
         write_text(f, config_name, plan->untied ? t.data : bytes, plan->untied ? t.len : n, err);
    text_free(&t);
    free(bytes);
    free(path);
    return ok;
}
