/* YAML -> tree -> canonical names -> overrides -> values -> checks -> struct recipe. Every stage
 * goes on after an error, so that all of them are reported at once. */
#include "recipes/recipe.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "recipes/load.h"
#include "recipes/yaml.h"

static void add_error(struct load *load, const struct node *at, bool of_key, const char *text)
{
    char place[NODE_PLACE_SIZE];
    node_place(at, load->path, of_key, place);
    report_error(load->report, at->override != NULL ? ERR_USAGE : ERR_RECIPE, place, "%s", text);
}

enum { MESSAGE_SIZE = 1024 };

void load_error(struct load *load, const struct node *at, const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add_error(load, at, false, text);
}

void load_error_at_key(struct load *load, const struct node *at, const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add_error(load, at, true, text);
}

void load_note_at_key(struct load *load, const struct node *at, const char *format, ...)
{
    char text[MESSAGE_SIZE], place[NODE_PLACE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    node_place(at, load->path, true, place);
    report_note(load->report, place, "%s", text);
}

void load_expected(struct load *load, const struct field *field, const char *name,
                   const struct node *value)
{
    char show[NODE_SHOW_SIZE];
    node_show(value, show);
    struct text expected = { 0 };
    field_expectation(field, &expected);
    if (field->hint != NULL)
        text_printf(&expected, "; %s", field->hint);
    /* "8" in quotes is a string: say so, or the message reads as if 8 were wrong. */
    const bool quoted = value->kind == NODE_SCALAR && value->quoted && field->kind < FIELD_ENUM;
    if (expected.failed)
        report_no_memory(load->report);
    else
        load_error(load, value, "'%s' is %s%s; expected %s", name, show, quoted ? " in quotes" : "",
                   expected.data);
    text_free(&expected);
}

/* The value an alias' value stands for; false after an error. */
static bool map_value(struct load *load, const struct field_alias *alias, struct node *value)
{
    bool flag = false;
    const char *text = value->kind == NODE_SCALAR ? value->text : "";
    if (node_bool(value, &flag))
        text = flag ? "true" : "false";
    for (const struct value_map *m = alias->map; m->from != NULL; m++) {
        if (strcmp(m->from, text) != 0)
            continue;
        char *copy = text_copy(m->to);
        if (copy == NULL) {
            report_no_memory(load->report);
            return false;
        }
        free(value->text);
        value->text = copy;
        return true;
    }
    char show[NODE_SHOW_SIZE];
    node_show(value, show);
    struct text takes = { 0 };
    for (const struct value_map *m = alias->map; m->from != NULL; m++)
        text_printf(&takes, "%s'%s'", m == alias->map ? "" : ", ", m->from);
    if (takes.failed)
        report_no_memory(load->report);
    else if (alias->map[2].from == NULL)
        load_error(load, value, "'%s' is %s; expected true or false", alias->name, show);
    else
        load_error(load, value, "'%s' is %s; expected one of %s", alias->name, show, takes.data);
    text_free(&takes);
    return false;
}

void load_unknown_key(struct load *load, const struct schema *schema, const struct node *entry,
                      const char *prefix)
{
    const char *nearest = schema_nearest(schema, entry->key);
    if (nearest != NULL)
        load_error_at_key(load, entry, "unknown key '%s%.60s'; did you mean '%s%s'?", prefix,
                          entry->key, prefix, nearest);
    else
        load_error_at_key(load, entry, "unknown key '%s%.60s'; `jambatune explain` lists the keys",
                          prefix, entry->key);
}

/* Gives the entry its canonical name; false (after an error) when it must go. */
static bool rename_entry(struct load *load, const struct schema *schema, const struct node *map,
                         struct node *entry, const char *prefix)
{
    const struct field_alias *alias = NULL;
    const struct field *field = schema_find(schema, entry->key, &alias);
    if (field == NULL || alias == NULL)
        return true;
    if (node_find(map, field->name) != NULL) {
        load_error_at_key(load, entry, "'%s%s' and '%s%s' are the same key; keep one", prefix,
                          alias->name, prefix, field->name);
        return false;
    }
    if (alias->map != NULL && entry->kind != NODE_NULL && !map_value(load, alias, entry))
        return false;
    char *name = text_copy(field->name);
    if (name == NULL) {
        report_no_memory(load->report);
        return false;
    }
    free(entry->key);
    entry->key = name;
    load_note_at_key(
        load, entry,
        alias->map == NULL ? "'%s%s' is read as '%s%s'" : "'%s%s' is read as '%s%s: %s'", prefix,
        alias->name, prefix, field->name, entry->kind == NODE_SCALAR ? entry->text : "");
    return true;
}

void load_canonicalise(struct load *load, const struct schema *schema, struct node *map,
                       const char *prefix)
{
    for (int64_t i = 0; i < map->n_child;) {
        if (rename_entry(load, schema, map, map->child[i], prefix))
            i++;
        else
            node_remove(map, i);
    }
}

void load_defaults(struct load *load, const struct schema *schema, void *base)
{
    for (int i = 0; i < schema->n_field; i++) {
        const struct field *field = &schema->fields[i];
        if (field->initial == NULL)
            continue;
        struct node *value = node_new_scalar(field->initial, false);
        if (value == NULL) {
            report_no_memory(load->report);
            return;
        }
        load_value(load, field, field->name, value, base);
        node_free(value);
    }
}

/* A key of another trainer: refused, or noted as ignored. */
static void read_foreign(struct load *load, const struct foreign *foreign, const struct node *entry,
                         const char *prefix)
{
    const bool is_off = foreign_is_off(foreign, entry);
    if (foreign->refusal != NULL && !is_off) {
        char show[NODE_SHOW_SIZE];
        node_show(entry, show);
        load_error_at_key(load, entry, "'%s%s' is %s; %s", prefix, entry->key, show,
                          foreign->refusal);
    } else if (foreign->refusal == NULL && foreign->reason != NULL && !is_off) {
        load_note_at_key(load, entry, "'%s%s' is ignored: %s", prefix, entry->key, foreign->reason);
    } else if (foreign->refusal == NULL) {
        text_printf(&load->ignored, "%s%s%.60s", load->ignored.len > 0 ? ", " : "", prefix,
                    entry->key);
    }
}

static void set_origin(struct load *load, const struct field *field, const struct node *value)
{
    char place[NODE_PLACE_SIZE];
    node_place(value, load->path, true, place);
    report_clean(place);
    const bool mixed = value->override == NULL && node_is_overridden(value);
    char **slot = &load->recipe->origin[field - recipe_schema.fields];
    *slot = text_format("%s%s", place, mixed ? ", changed on the command line" : "");
    if (*slot == NULL)
        report_no_memory(load->report);
}

void load_fields(struct load *load, const struct schema *schema, const struct node *map,
                 const char *prefix, void *base)
{
    for (int64_t i = 0; i < map->n_child; i++) {
        const struct node *entry = map->child[i];
        const struct field_alias *alias = NULL;
        const struct field *field = schema_find(schema, entry->key, &alias);
        if (field == NULL) {
            const struct foreign *foreign = schema_find_foreign(schema, entry->key);
            if (foreign == NULL)
                load_unknown_key(load, schema, entry, prefix);
            else
                read_foreign(load, foreign, entry, prefix);
            continue;
        }
        char name[96];
        snprintf(name, sizeof name, "%s%s", prefix, field->name);
        if (entry->kind == NODE_NULL) {
            if (field->rules & RULE_NOT_EMPTY)
                load_expected(load, field, name, entry);
            if (!(field->rules & RULE_EMPTY_IS_ZERO))
                continue; /* an empty value: the default */
        }
        if (load_value(load, field, name, entry, base) && schema == &recipe_schema)
            set_origin(load, field, entry);
    }
}

static bool prepare(struct load *load, const char *path)
{
    struct recipe *recipe = load->recipe;
    recipe->n_origin = recipe_schema.n_field;
    recipe->origin = calloc((size_t)recipe->n_origin, sizeof *recipe->origin);
    if (path != NULL) {
        load->folder = file_folder(path);
        recipe->path = text_copy(path);
    }
    if (recipe->origin == NULL ||
        (path != NULL && (load->folder == NULL || recipe->path == NULL))) {
        report_no_memory(load->report);
        return false;
    }
    load->root = path == NULL ? node_new(NODE_MAP) : yaml_load(path, load->report);
    if (load->root == NULL && load->report->code == ERR_NONE)
        report_no_memory(load->report);
    return load->root != NULL;
}

static void note_ignored(struct load *load)
{
    if (load->ignored.failed)
        report_no_memory(load->report);
    else if (load->ignored.len > 0)
        report_note(load->report, load->path == NULL ? "command line" : load->path,
                    "ignored, without effect here: %s", load->ignored.data);
}

bool recipe_load(const char *path, const char *const *overrides, int n_override,
                 enum recipe_need need, struct recipe *recipe, struct recipe_report *report)
{
    *recipe = (struct recipe){ 0 };
    *report = (struct recipe_report){ 0 };
    struct load load = { .path = path, .recipe = recipe, .report = report };
    if (prepare(&load, path)) {
        load_canonicalise(&load, &recipe_schema, load.root, "");
        for (int i = 0; i < n_override; i++)
            load_override(&load, overrides[i]);
        load_defaults(&load, &recipe_schema, recipe);
        load_fields(&load, &recipe_schema, load.root, "", recipe);
        load_check(&load, need);
        note_ignored(&load);
    }
    node_free(load.root);
    text_free(&load.ignored);
    free(load.folder);
    if (report->code == ERR_NONE)
        return true;
    recipe_free(recipe);
    return false;
}

void recipe_free(struct recipe *recipe)
{
    free(recipe->path);
    free(recipe->base_model);
    free(recipe->lora_model_dir);
    free(recipe->output_dir);
    free(recipe->gemm_algorithms);
    free(recipe->resume_from_checkpoint);
    for (int64_t i = 0; i < recipe->n_sample_prompt; i++)
        free(recipe->sample_prompts[i]);
    free(recipe->sample_prompts);
    lora_config_free(&recipe->lora);
    data_config_free(&recipe->data);
    for (int64_t i = 0; recipe->origin != NULL && i < recipe->n_origin; i++)
        free(recipe->origin[i]);
    free(recipe->origin);
    *recipe = (struct recipe){ 0 };
}

const char *recipe_origin(const struct recipe *recipe, const char *key)
{
    const struct field_alias *alias = NULL;
    const struct field *field = schema_find(&recipe_schema, key, &alias);
    if (field == NULL || recipe->origin == NULL)
        return NULL;
    return recipe->origin[field - recipe_schema.fields];
}

void recipe_add_place(const struct recipe *recipe, struct err *err)
{
    char key[64];
    const size_t n = strcspn(err->text, ":");
    if (n >= sizeof key)
        return;
    memcpy(key, err->text, n);
    key[n] = '\0';
    const char *origin = recipe_origin(recipe, key);
    if (origin != NULL)
        err_prefix(err, "%s", origin);
}
