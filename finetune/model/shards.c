/* Files of a checkpoint: opening them, holding them against the index, and giving every tensor its
 * name of today. Names in index.json never leave the folder.
 */
#include "finetune/model/shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

static const char single_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";

enum {
    INDEX_MAX_BYTES = 1 << 26,
    NAME_GROWTH = 16, /* bytes that a translated name may be longer: "moe" -> "feed_forward" */
};

/* ---- names ---- */

/* "model.layers.17.rest": the layer and where the rest begins; false for any other name. */
static bool split_layer(const char *name, int64_t n_layer, int64_t *layer, const char **rest)
{
    static const char prefix[] = "model.layers.";
    if (!text_starts_with(name, prefix))
        return false;
    const char *p = name + sizeof prefix - 1;
    *layer = 0;
    int digits = 0;
    for (; *p >= '0' && *p <= '9' && digits < 6; p++, digits++)
        *layer = *layer * 10 + (*p - '0');
    *rest = p + 1;
    return digits > 0 && *p == '.' && *layer < n_layer;
}

/* Today's name of a tensor of the first Jamba's code, into out (strlen(name) + NAME_GROWTH bytes).
 */
static void translate_name(const struct jamba_config *config, const char *name, char *out)
{
    static const struct {
        const char *old, *now;
    } prefixes[] = {
        { "moe.", "feed_forward." },
        { "pre_moe_layernorm.", "pre_ff_layernorm." },
        { "mamba.B_layernorm.", "mamba.b_layernorm." },
        { "mamba.C_layernorm.", "mamba.c_layernorm." },
    };
    static const char only_expert[] = "feed_forward.experts.0.";
    int64_t layer = 0;
    const char *rest = NULL;
    const size_t room = strlen(name) + NAME_GROWTH;
    if (!split_layer(name, config->num_hidden_layers, &layer, &rest)) {
        snprintf(out, room, "%s", name);
        return;
    }
    const int head = (int)(rest - name);
    const char *now = "";
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (text_starts_with(rest, prefixes[i].old)) {
            now = prefixes[i].now;
            rest += strlen(prefixes[i].old);
            break;
        }
    }
    snprintf(out, room, "%.*s%s%s", head, name, now, rest);
    /* A dense layer was written as a block of one expert, without router. */
    if (!jamba_is_moe(config, layer) && text_starts_with(out + head, only_expert)) {
        const char *matrix = out + head + sizeof only_expert - 1;
        char *to = out + head + sizeof "feed_forward." - 1;
        memmove(to, matrix, strlen(matrix) + 1);
    }
}

static int compare_tensors(const void *a, const void *b)
{
    const struct shard_tensor *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    if (order == 0)
        order = strcmp(x->tensor->name, y->tensor->name);
    return order != 0 ? order : strcmp(x->path, y->path);
}

static bool check_unique(const struct shards *s, struct err *err)
{
    for (int64_t i = 1; i < s->n_tensor; i++) {
        const struct shard_tensor *x = &s->tensors[i - 1], *y = &s->tensors[i];
        if (strcmp(x->name, y->name) != 0)
            continue;
        if (strcmp(x->tensor->name, y->tensor->name) == 0)
            return err_set(err, ERR_DATA, "%s: tensor '%s' is in '%s' too; expected it once",
                           y->path, y->tensor->name, x->path);
        return err_set(err, ERR_DATA,
                       "%s: tensors '%s' and '%s' are one tensor under an old and a new name; "
                       "expected one of them",
                       y->path, x->tensor->name, y->tensor->name);
    }
    return true;
}

/* All tensors of all files, under today's names, sorted. */
static bool list_tensors(struct shards *s, const struct jamba_config *config, struct err *err)
{
    size_t n_tensor = 0, name_bytes = 1;
    for (int64_t f = 0; f < s->n_file; f++) {
        n_tensor += (size_t)s->files[f].n_tensor;
        for (int64_t i = 0; i < s->files[f].n_tensor; i++)
            name_bytes += strlen(s->files[f].tensors[i].name) + NAME_GROWTH;
    }
    s->tensors = calloc(n_tensor + 1, sizeof *s->tensors);
    s->names = malloc(name_bytes);
    if (s->tensors == NULL || s->names == NULL)
        return err_no_memory(err, "the tensor list");
    char *name = s->names;
    for (int64_t f = 0; f < s->n_file; f++) {
        for (int64_t i = 0; i < s->files[f].n_tensor; i++) {
            const struct safetensors_tensor *tensor = &s->files[f].tensors[i];
            translate_name(config, tensor->name, name);
            s->tensors[s->n_tensor++] =
                (struct shard_tensor){ .name = name, .tensor = tensor, .path = s->paths[f] };
            name += strlen(name) + 1;
        }
    }
    qsort(s->tensors, n_tensor, sizeof *s->tensors, compare_tensors);
    return check_unique(s, err);
}

/* ---- files ---- */

static bool open_files(struct shards *s, const char *folder, const char *const *names, int64_t n,
                       struct err *err)
{
    s->files = calloc((size_t)n + 1, sizeof *s->files);
    s->paths = calloc((size_t)n + 1, sizeof *s->paths);
    if (s->files == NULL || s->paths == NULL)
        return err_no_memory(err, folder);
    for (int64_t f = 0; f < n; f++) {
        s->paths[f] = file_join(folder, names[f]);
        if (s->paths[f] == NULL)
            return err_no_memory(err, folder);
        s->n_file = f + 1;
        if (!file_exists(s->paths[f]))
            return err_set(err, ERR_NO_INPUT, "%s: is missing; '%s' names it", s->paths[f],
                           index_file);
        if (!safetensors_open(s->paths[f], &s->files[f], err))
            return false;
    }
    return true;
}

/* A file name that stays in the folder and can be printed. */
static bool is_plain_name(const json_t *value)
{
    const char *name = json_string_value(value);
    const size_t n = json_string_length(value);
    if (n == 0 || n != strlen(name) || n > 255 || strchr(name, '/') != NULL ||
        strstr(name, "..") != NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F)
            return false;
    }
    return true;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of the map, sorted, into names (room for all values). */
static bool list_files(const char *path, json_t *map, const char **names, int64_t *n_name,
                       struct err *err)
{
    const char *tensor = NULL;
    json_t *value = NULL;
    size_t n = 0;
    json_object_foreach(map, tensor, value)
    {
        if (!json_is_string(value))
            return err_set(err, ERR_DATA,
                           "%s: \"weight_map\": tensor '%.200s' is %s; expected a file name", path,
                           tensor, json_type_name(value));
        if (!is_plain_name(value))
            return err_set(err, ERR_DATA,
                           "%s: \"weight_map\": tensor '%.200s' is in '%.200s'; expected the name "
                           "of a file in this "
                           "folder, without '/' or '..'",
                           path, tensor, json_string_value(value));
        names[n++] = json_string_value(value);
    }
    if (n == 0)
        return err_set(err, ERR_DATA,
                       "%s: \"weight_map\" is empty; expected a file name per tensor", path);
    qsort(names, n, sizeof *names, compare_strings);
    *n_name = 1;
    for (size_t i = 1; i < n; i++) {
        if (strcmp(names[i], names[*n_name - 1]) != 0)
            names[(*n_name)++] = names[i];
    }
    return true;
}

/* The index and its shards name the same tensors in the same files. */
static bool check_index(const struct shards *s, const char *path, json_t *map,
                        const char *const *names, struct err *err)
{
    const char *tensor = NULL;
    json_t *value = NULL;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        const char *const *file =
            bsearch(&name, names, (size_t)s->n_file, sizeof *names, compare_strings);
        if (file == NULL || safetensors_find(&s->files[file - names], tensor) == NULL)
            return err_set(err, ERR_DATA,
                           "%s: tensor '%.200s' is not in '%s', where the index has it", path,
                           tensor, name);
    }
    /* Now the shards have all that the index names, and no name twice: one more is one too many. */
    if ((size_t)s->n_tensor == json_object_size(map))
        return true;
    for (int64_t i = 0; i < s->n_tensor; i++) {
        if (json_object_get(map, s->tensors[i].tensor->name) == NULL)
            return err_set(err, ERR_DATA, "%s: tensor '%s' is not in the index, '%s'",
                           s->tensors[i].path, s->tensors[i].tensor->name, index_file);
    }
    return true;
}

static bool open_sharded(struct shards *s, const char *folder, const char *path,
                         const struct jamba_config *config, struct err *err)
{
    json_t *root = json_load_object(path, INDEX_MAX_BYTES, err);
    if (root == NULL)
        return false;
    bool ok = false;
    const char **names = NULL;
    int64_t n_name = 0;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        err_set(err, ERR_DATA, "%s: \"weight_map\" is %s; expected an object", path,
                map == NULL ? "missing" : json_type_name(map));
        goto out;
    }
    names = malloc(json_object_size(map) * sizeof *names + 1);
    if (names == NULL) {
        err_no_memory(err, path);
        goto out;
    }
    ok = list_files(path, map, names, &n_name, err) && open_files(s, folder, names, n_name, err) &&
         list_tensors(s, config, err) && check_index(s, path, map, names, err);
out:
    free(names);
    json_decref(root);
    return ok;
}

/* Nothing to open: say what is there instead. */
static bool no_weights(const char *folder, struct err *err)
{
    static const char *const pickled[] = { "pytorch_model.bin", "pytorch_model.bin.index.json" };
    for (size_t i = 0; i < sizeof pickled / sizeof pickled[0]; i++) {
        char *path = file_join(folder, pickled[i]);
        if (path == NULL)
            return err_no_memory(err, folder);
        const bool found = file_exists(path);
        free(path);
        if (found)
            return err_set(
                err, ERR_DATA,
                "%s: has its weights in '%s', a pickle; convert it to safetensors (load it with "
                "transformers, then save_pretrained)",
                folder, pickled[i]);
    }
    return err_set(err, ERR_NO_INPUT, "%s: has no weights; expected '%s' or '%s'", folder,
                   single_file, index_file);
}

bool shards_open(struct shards *s, const char *folder, const struct jamba_config *config,
                 struct err *err)
{
    *s = (struct shards){ 0 };
    char *single = file_join(folder, single_file), *index = file_join(folder, index_file);
    bool ok = false;
    if (single == NULL || index == NULL) {
        err_no_memory(err, folder);
    } else if (file_exists(single)) { /* before the index, as transformers does */
        const char *const name = single_file;
        ok = open_files(s, folder, &name, 1, err) && list_tensors(s, config, err);
    } else if (file_exists(index)) {
        ok = open_sharded(s, folder, index, config, err);
    } else {
        no_weights(folder, err);
    }
    free(single);
    free(index);
    if (!ok)
        shards_close(s);
    return ok;
}

void shards_close(struct shards *s)
{
    for (int64_t f = 0; f < s->n_file; f++) {
        safetensors_close(&s->files[f]);
        free(s->paths[f]);
    }
    free(s->files);
    free(s->paths);
    free(s->tensors);
    free(s->names);
    *s = (struct shards){ 0 };
}

const struct shard_tensor *shards_take(struct shards *s, const char *name)
{
    if (s->n_tensor == 0)
        return NULL;
    int64_t low = 0, high = s->n_tensor - 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (strcmp(s->tensors[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (strcmp(s->tensors[low].name, name) != 0)
        return NULL;
    s->tensors[low].taken = true;
    return &s->tensors[low];
}

bool shards_check_all_taken(const struct shards *s, const struct jamba_config *config,
                            struct err *err)
{
    for (int64_t i = 0; i < s->n_tensor; i++) {
        const struct shard_tensor *t = &s->tensors[i];
        if (t->taken || (config->tie_word_embeddings && strcmp(t->name, "lm_head.weight") == 0))
            continue;
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s' has no place in the model that config.json describes",
                       t->path, t->tensor->name);
    }
    return true;
}

size_t shards_mapped_bytes(const struct shards *s)
{
    size_t bytes = 0;
    for (int64_t f = 0; f < s->n_file; f++)
        bytes += s->files[f].map.size;
    return bytes;
}
