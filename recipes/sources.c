/* datasets and test_datasets: lists of files and what their records hold. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "recipes/load.h"

/* "org/name" without an ending, and no such file: a data set of the hub. */
static bool looks_like_hub_name(const char *text)
{
    const char *slash = strchr(text, '/');
    return slash != NULL && slash != text && slash[1] != '\0' && strchr(slash + 1, '/') == NULL &&
           strchr(slash, '.') == NULL && text[0] != '.' && text[0] != '~';
}

static void check_path(struct load *load, const char *prefix, const struct node *path,
                       const struct data_source *source)
{
    if (source->path == NULL || path == NULL || path->kind != NODE_SCALAR)
        return;
    if (looks_like_hub_name(path->text) && !file_exists(source->path))
        load_error(load, path,
                   "'%spath' is '%.100s', which looks like a hub data set; data sets are files: "
                   "download it as JSONL and give that file",
                   prefix, path->text);
}

/* axolotl's completion is one text field, named by `field`; ours has a prompt in front. */
static void map_completion(struct load *load, const struct node *entry, bool has_field,
                           struct data_source *source)
{
    const struct node *type = node_find(entry, "type");
    if (!has_field || source->type != DATA_COMPLETION || type == NULL)
        return;
    source->type = DATA_TEXT;
    load_note_at_key(load, type,
                     "type 'completion' with 'field' is read as 'text', one text a record");
}

/* One entry; a plain string is a path. */
static void read_source(struct load *load, const char *prefix, struct node *entry,
                        struct data_source *source)
{
    load_defaults(load, &source_schema, source);
    if (entry->kind == NODE_SCALAR && entry->text[0] != '\0') {
        source->path = load_resolve(load, entry, entry->text);
        if (source->path == NULL)
            report_no_memory(load->report);
        check_path(load, prefix, entry, source);
        return;
    }
    if (entry->kind != NODE_MAP) {
        char show[NODE_SHOW_SIZE];
        node_show(entry, show);
        load_error(load, entry, "'%.*s' is %s; expected a mapping with 'path'",
                   (int)strlen(prefix) - 1, prefix, show);
        return;
    }
    const bool has_field = node_find(entry, "field") != NULL;
    load_canonicalise(load, &source_schema, entry, prefix);
    load_fields(load, &source_schema, entry, prefix, source);
    map_completion(load, entry, has_field, source);
    const struct node *path = node_find(entry, "path");
    if (path == NULL)
        load_error(load, entry, "'%spath' is missing; expected the path of a file", prefix);
    check_path(load, prefix, path, source);
}

bool load_sources(struct load *load, const struct field *field, const struct node *value,
                  struct data_config *data)
{
    const bool is_list = value->kind == NODE_LIST;
    const int64_t n = is_list ? value->n_child : 1;
    if (n == 0 || value->kind == NODE_MAP) {
        load_expected(load, field, field->name, value);
        return false;
    }
    struct data_source *list = calloc((size_t)n, sizeof *list);
    if (list == NULL) {
        report_no_memory(load->report);
        return false;
    }
    const bool is_train = field->kind == FIELD_TRAIN;
    *(is_train ? &data->train : &data->validation) = list;
    *(is_train ? &data->n_train : &data->n_validation) = n;
    for (int64_t i = 0; i < n; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%s.%" PRId64 ".", field->name, i);
        struct node single = *value; /* `datasets: file`: the value is its only entry */
        read_source(load, prefix, is_list ? value->child[i] : &single, &list[i]);
    }
    return true;
}
