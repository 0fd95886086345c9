#include "finetune/generate/end.h"

#include <stdlib.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"

enum { FILE_LIMIT = 1 << 20 };

bool end_tokens_has(const struct end_tokens *end, int32_t id)
{
    for (int64_t i = 0; i < end->n; i++) {
        if (end->id[i] == id)
            return true;
    }
    return false;
}

static void add(struct end_tokens *end, int64_t id)
{
    if (id >= 0 && !end_tokens_has(end, (int32_t)id))
        end->id[end->n++] = id;
}

static bool refuse(const char *path, const json_t *value, struct err *err)
{
    const char *what = json_is_integer(value) ? "an integer out of range" : json_type_name(value);
    return err_set(err, ERR_DATA,
                   "%s: \"eos_token_id\" has %s; expected a token id, a list of them, or null",
                   path, what);
}

static bool add_json(struct end_tokens *end, const json_t *value, const char *path, struct err *err)
{
    const json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || id > INT32_MAX)
        return refuse(path, value, err);
    add(end, id);
    return true;
}

static bool add_list(struct end_tokens *end, const json_t *list, const char *path, struct err *err)
{
    const size_t n = json_array_size(list);
    if (n > JAMBA_MAX_EOS)
        return err_set(err, ERR_DATA, "%s: \"eos_token_id\" lists %zu ids; expected at most %d",
                       path, n, JAMBA_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        if (!add_json(end, json_array_get(list, i), path, err))
            return false;
    }
    return true;
}

static bool read_generation_config(const char *path, struct end_tokens *end, struct err *err)
{
    json_t *root = json_load_object(path, FILE_LIMIT, err);
    if (root == NULL)
        return false;
    const json_t *value = json_object_get(root, "eos_token_id");
    bool ok = true;
    if (json_is_array(value))
        ok = add_list(end, value, path, err);
    else if (value != NULL && !json_is_null(value))
        ok = add_json(end, value, path, err);
    json_decref(root);
    return ok;
}

bool end_tokens_read(const char *folder, const struct jamba_config *config,
                     const struct tokenizer *tok, struct end_tokens *out, struct err *err)
{
    *out = (struct end_tokens){ 0 };
    for (int64_t i = 0; i < config->n_eos; i++)
        add(out, config->eos_token_id[i]);
    add(out, tokenizer_eos(tok));
    char *path = file_join(folder, "generation_config.json");
    if (path == NULL)
        return err_no_memory(err, folder);
    const bool ok = !file_exists(path) || read_generation_config(path, out, err);
    free(path);
    return ok;
}
