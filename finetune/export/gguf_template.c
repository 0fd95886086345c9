#include "finetune/export/gguf_template.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

#define KEY "tokenizer.chat_template"

enum { FILE_LIMIT = 16 << 20, MAX_NAME = 64 };

static bool put_file(struct gguf_writer *w, const char *path, struct err *err)
{
    char *data = NULL;
    size_t n = 0, at = 0;
    if (!file_read(path, FILE_LIMIT, &data, &n, err))
        return false;
    const bool ok = text_is_utf8(data, n, &at);
    if (ok)
        gguf_put_string(w, KEY, data, n);
    else
        err_set(err, ERR_DATA, "%s: is not valid UTF-8 at byte %zu", path, at);
    free(data);
    return ok;
}

static bool bad_list(const char *path, struct err *err)
{
    return err_set(err, ERR_DATA,
                   "%s: \"chat_template\": expected a string, or a list of {\"name\": ..., "
                   "\"template\": ...} with a name each",
                   path);
}

/* A name becomes part of a key: plain, and there once. */
static bool is_name(const json_t *list, size_t i)
{
    const char *name = json_string_value(json_object_get(json_array_get(list, i), "name"));
    if (name == NULL || name[0] == '\0' || strlen(name) > MAX_NAME)
        return false;
    for (const char *c = name; *c != '\0'; c++) {
        if ((unsigned char)*c <= 0x20 || *c == 0x7F)
            return false;
    }
    for (size_t j = 0; j < i; j++) {
        if (strcmp(name, json_string_value(json_object_get(json_array_get(list, j), "name"))) == 0)
            return false;
    }
    return json_is_string(json_object_get(json_array_get(list, i), "template"));
}

static bool put_list(struct gguf_writer *w, const json_t *list, const char *path, struct err *err)
{
    const size_t n = json_array_size(list);
    size_t n_named = 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_name(list, i))
            return bad_list(path, err);
        const json_t *entry = json_array_get(list, i), *text = json_object_get(entry, "template");
        const char *name = json_string_value(json_object_get(entry, "name"));
        char key[sizeof KEY + MAX_NAME + 1] = KEY;
        if (strcmp(name, "default") != 0) {
            strcat(strcat(key, "."), name);
            n_named++;
        }
        gguf_put_string(w, key, json_string_value(text), json_string_length(text));
    }
    if (n_named == 0)
        return true;
    gguf_put_array(w, "tokenizer.chat_templates", GGUF_STRING, n_named);
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_object_get(json_array_get(list, i), "name"));
        if (strcmp(name, "default") != 0)
            gguf_item_string(w, name, strlen(name));
    }
    return true;
}

static bool put_config(struct gguf_writer *w, const char *path, struct err *err)
{
    json_t *root = json_load_object(path, FILE_LIMIT, err);
    const json_t *value = json_object_get(root, "chat_template");
    bool ok = root != NULL;
    if (json_is_string(value))
        gguf_put_string(w, KEY, json_string_value(value), json_string_length(value));
    else if (json_is_array(value))
        ok = put_list(w, value, path, err);
    else if (value != NULL && !json_is_null(value))
        ok = bad_list(path, err);
    json_decref(root);
    return ok;
}

bool gguf_put_templates(struct gguf_writer *w, const char *folder, struct err *err)
{
    char *own = file_join(folder, "chat_template.jinja");
    char *config = file_join(folder, "tokenizer_config.json");
    bool ok = (own != NULL && config != NULL) || err_no_memory(err, folder);
    if (ok && file_exists(own))
        ok = put_file(w, own, err);
    else if (ok && file_exists(config))
        ok = put_config(w, config, err);
    free(own);
    free(config);
    return ok;
}
