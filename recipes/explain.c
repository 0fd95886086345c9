/* The table the other way round: values as YAML, with where they come from and what they mean. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "datasets/config.h"
#include "kernels/core/file.h"
#include "recipes/recipe.h"
#include "recipes/schema.h"

/* The fewest digits that read back as the same double. */
static void put_real(double v, struct text *out)
{
    char digits[32];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, v);
        if (strtod(digits, NULL) == v)
            break;
    }
    text_puts(out, digits);
}

/* Whether the text, unquoted, is read back as a string: letters that spell no other value. *failed
 * is set when memory is out. */
static bool is_plain(const char *s, bool *failed)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    static const char more[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789./-";
    if (s[0] != '/' && (s[0] == '\0' || strchr(letters, s[0]) == NULL))
        return false;
    if (s[strspn(s, more)] != '\0')
        return false;
    struct node *node = node_new_scalar(s, false);
    bool flag = false;
    const bool plain = node != NULL && node->kind == NODE_SCALAR && !node_bool(node, &flag);
    *failed = *failed || node == NULL;
    node_free(node);
    return plain;
}

/* The next character of a double-quoted YAML string, escaped where YAML would end a line, fold or
 * refuse it (controls, U+2028, U+2029). Returns the bytes it had. */
static size_t put_quoted_character(const char *s, struct text *out)
{
    const unsigned char c = (unsigned char)s[0], next = c == 0 ? 0 : (unsigned char)s[1];
    if (c == 0xC2 && next >= 0x80 && next < 0xA0) {
        text_printf(out, "\\x%02X", next);
        return 2;
    }
    if (c == 0xE2 && next == 0x80 && ((unsigned char)s[2] & 0xFE) == 0xA8) {
        text_printf(out, "\\u20%02X", (unsigned char)s[2] - 0x80);
        return 3;
    }
    if (c == '"' || c == '\\')
        text_printf(out, "\\%c", c);
    else if (c < 0x20 || c == 0x7F)
        text_printf(out, "\\x%02X", c);
    else
        text_append(out, s, 1);
    return 1;
}

static void put_string(const char *s, struct text *out)
{
    if (s == NULL) {
        text_puts(out, "null");
    } else if (is_plain(s, &out->failed)) {
        text_puts(out, s);
    } else {
        text_puts(out, "\"");
        while (*s != '\0')
            s += put_quoted_character(s, out);
        text_puts(out, "\"");
    }
}

static void put_strings(char *const *list, int64_t n, struct text *out)
{
    text_puts(out, "[");
    for (int64_t i = 0; i < n; i++) {
        text_puts(out, i > 0 ? ", " : "");
        put_string(list[i], out);
    }
    text_puts(out, "]");
}

static void put_patterns(const struct lora_pattern *list, int64_t n, struct text *out)
{
    text_puts(out, "{");
    for (int64_t i = 0; i < n; i++) {
        text_puts(out, i > 0 ? ", " : "");
        put_string(list[i].key, out);
        text_puts(out, ": ");
        put_real(list[i].value, out);
    }
    text_puts(out, "}");
}

static void put_layers(const struct lora_config *lora, struct text *out)
{
    for (int64_t i = 0; i < lora->n_layer_to_transform; i++)
        text_printf(out, "%s%" PRId64, i > 0 ? ", " : "[", lora->layers_to_transform[i]);
    text_puts(out, lora->n_layer_to_transform > 0 ? "]" : "null");
}

/* How the values are meant to be read. */
enum style {
    STYLE_SHORT, /* paths as they are opened */
    STYLE_DUMP,  /* paths absolute */
};

/* The path from anywhere; NULL when memory is out or the current folder is gone. */
static char *absolute(const char *path)
{
    char folder[4096];
    while (text_starts_with(path, "./"))
        path += 2;
    return getcwd(folder, sizeof folder) == NULL ? NULL : file_join(folder, path);
}

static void put_owned(char *string, struct text *out)
{
    if (string == NULL)
        out->failed = true;
    else
        put_string(string, out);
    free(string);
}

/* In the largest unit that leaves a whole number: "10m"; else in seconds. */
static void put_every(const struct recipe_every *every, struct text *out)
{
    static const struct {
        char letter;
        double seconds;
    } units[] = { { 'd', 86400 }, { 'h', 3600 }, { 'm', 60 }, { 's', 1 } };
    if (!(every->seconds > 0)) {
        put_real(every->steps, out);
        return;
    }
    size_t i = 0;
    while (i < 3 && fmod(every->seconds, units[i].seconds) != 0)
        i++;
    put_real(every->seconds / units[i].seconds, out);
    text_append(out, &units[i].letter, 1);
}

static void put_path(const char *path, enum style style, struct text *out)
{
    if (path == NULL || style == STYLE_SHORT)
        put_string(path, out);
    else
        put_owned(absolute(path), out);
}

static void put_model(const char *model, enum style style, struct text *out)
{
    static const char random[] = "random:";
    if (model != NULL && style == STYLE_DUMP && text_starts_with(model, random)) {
        char *file = absolute(model + sizeof random - 1);
        put_owned(file == NULL ? NULL : text_format("%s%s", random, file), out);
        free(file);
        return;
    }
    const bool is_folder = model != NULL && (model[0] == '.' || file_is_directory(model));
    put_path(model, is_folder ? style : STYLE_SHORT, out);
}

static void put_value(const struct field *field, const void *base, enum style style,
                      struct text *out);

/* As YAML in flow style, which is JSON but for the strings. */
static void put_json(json_t *value, struct text *out)
{
    const bool is_list = json_is_array(value);
    const char *key = NULL, *gap = "";
    json_t *item = NULL;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        text_puts(out, is_list ? "[" : "{");
        for (size_t i = 0; i < json_array_size(value); i++) {
            text_puts(out, i > 0 ? ", " : "");
            put_json(json_array_get(value, i), out);
        }
        json_object_foreach(value, key, item)
        {
            text_puts(out, gap);
            put_string(key, out);
            text_puts(out, ": ");
            put_json(item, out);
            gap = ", ";
        }
        text_puts(out, is_list ? "]" : "}");
        break;
    case JSON_STRING:
        put_string(json_string_value(value), out);
        break;
    case JSON_INTEGER:
        text_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL: /* with a point, or it would be read back as an integer */
        if (fabs(json_real_value(value)) < 1e15 &&
            json_real_value(value) == floor(json_real_value(value)))
            text_printf(out, "%.1f", json_real_value(value));
        else
            put_real(json_real_value(value), out);
        break;
    default:
        text_puts(out, json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
        break;
    }
}

static void put_variables(json_t *value, struct text *out)
{
    if (value == NULL)
        text_puts(out, "null");
    else
        put_json(value, out);
}

/* {path: x, type: text}: the other members only where they are not at their defaults. */
static void put_source(const struct data_source *source, enum style style, struct text *out)
{
    for (int i = 0; i < source_schema.n_field; i++) {
        const struct field *field = &source_schema.fields[i];
        struct text value = { 0 };
        put_value(field, source, style, &value);
        const bool is_default =
            field->initial != NULL && value.data != NULL && strcmp(value.data, field->initial) == 0;
        if (value.data != NULL && !is_default)
            text_printf(out, "%s%s: %s", i > 0 ? ", " : "{", field->name, value.data);
        out->failed = out->failed || value.failed;
        text_free(&value);
    }
    text_puts(out, "}");
}

static void put_sources(const struct data_source *list, int64_t n, enum style style,
                        struct text *out)
{
    for (int64_t i = 0; i < n; i++) {
        text_puts(out, i > 0 ? ", " : "[");
        put_source(&list[i], style, out);
    }
    text_puts(out, n > 0 ? "]" : "null");
}

static void put_lora(const struct field *field, const struct lora_config *lora, struct text *out)
{
    if (field->kind == FIELD_TARGETS && lora->n_target > 0)
        put_strings(lora->target_modules, lora->n_target, out);
    else if (field->kind == FIELD_TARGETS)
        put_string(lora->all_linear ? "all-linear" : lora->target_regex, out);
    else if (field->kind == FIELD_EXCLUDES && lora->n_exclude > 0)
        put_strings(lora->exclude_modules, lora->n_exclude, out);
    else if (field->kind == FIELD_EXCLUDES)
        put_string(lora->exclude_regex, out);
    else if (field->kind == FIELD_LAYERS)
        put_layers(lora, out);
    else if (field->kind == FIELD_RANKS)
        put_patterns(lora->rank_pattern, lora->n_rank_pattern, out);
    else
        put_patterns(lora->alpha_pattern, lora->n_alpha_pattern, out);
}

static void put_value(const struct field *field, const void *base, enum style style,
                      struct text *out)
{
    const void *slot = (const char *)base + field->offset;
    const struct data_config *data = slot;
    const int64_t *number = slot;
    char *const *string = slot;
    switch (field->kind) {
    case FIELD_BOOL:
        text_puts(out, *(const bool *)slot ? "true" : "false");
        break;
    case FIELD_INT:
    case FIELD_BYTES:
        if (field->zero != NULL && *number == 0)
            text_puts(out, field->zero);
        else
            text_printf(out, "%" PRId64, *number);
        break;
    case FIELD_REAL:
        put_real(*(const double *)slot, out);
        break;
    case FIELD_EVERY:
        put_every(slot, out);
        break;
    case FIELD_ENUM:
        text_puts(out, field_enum_name(field, *(const int *)slot));
        break;
    case FIELD_STRING:
    case FIELD_DATE:
        put_string(*string, out);
        break;
    case FIELD_PATH:
        put_path(*string, style, out);
        break;
    case FIELD_RESUME: /* auto is no path */
        put_path(*string, *string != NULL && strcmp(*string, "auto") == 0 ? STYLE_SHORT : style,
                 out);
        break;
    case FIELD_STRINGS:
        put_strings(*(char *const *const *)slot,
                    *(const int64_t *)(const void *)((const char *)base + field->n_offset), out);
        break;
    case FIELD_MODEL:
        put_model(*string, style, out);
        break;
    case FIELD_TEMPLATE:
        put_path(*string, *string != NULL && data_is_own_template(*string) ? STYLE_SHORT : style,
                 out);
        break;
    case FIELD_VARIABLES:
        put_variables(*(json_t *const *)slot, out);
        break;
    case FIELD_TRAIN:
        put_sources(data->train, data->n_train, style, out);
        break;
    case FIELD_VALIDATION:
        put_sources(data->validation, data->n_validation, style, out);
        break;
    default:
        put_lora(field, slot, out);
        break;
    }
}

/* lora_target_linear: true already says all-linear; both would clash on reading. */
static bool is_said_twice(const struct recipe *recipe, const struct field *field)
{
    return field->kind == FIELD_TARGETS && recipe->lora_target_linear;
}

static void put_recipe_value(const struct recipe *recipe, const struct field *field,
                             enum style style, struct text *out)
{
    if (is_said_twice(recipe, field))
        text_puts(out, "null");
    else
        put_value(field, recipe, style, out);
}

/* " (true is auto, false)": what an alias takes, and what that means under the key. */
static void put_map(const struct value_map *map, struct text *out)
{
    for (const struct value_map *m = map; m->from != NULL; m++) {
        text_printf(out, "%s%s", m == map ? " (" : ", ", m->from);
        if (strcmp(m->from, m->to) != 0)
            text_printf(out, " is %s", m->to);
    }
    text_puts(out, ")");
}

static void put_aliases(const struct field *field, const char *quote, struct text *out)
{
    const struct field_alias *alias = field->aliases;
    for (int i = 0; alias != NULL && alias[i].name != NULL; i++) {
        text_printf(out, "%s%s%s%s", i > 0 ? ", " : "", quote, alias[i].name, quote);
        if (alias[i].map == value_map_inverted)
            text_puts(out, " (the opposite)");
        else if (alias[i].map != NULL)
            put_map(alias[i].map, out);
    }
}

static void explain_field(const struct recipe *recipe, const struct field *field, struct text *out)
{
    const char *origin = recipe_origin(recipe, field->name);
    text_printf(out, "%s: ", field->name);
    put_recipe_value(recipe, field, STYLE_SHORT, out);
    text_printf(out, "\n    from: %s\n    %s\n    takes: ", origin == NULL ? "default" : origin,
                field->help);
    field_expectation(field, out);
    if (field->hint != NULL)
        text_printf(out, "; %s", field->hint);
    text_printf(out, "\n    default: %s\n", field->initial == NULL ? "not set" : field->initial);
    if (field->aliases != NULL) {
        text_puts(out, "    also read: ");
        put_aliases(field, "", out);
        text_puts(out, "\n");
    }
}

bool recipe_explain(const struct recipe *recipe, const char *key, struct text *out, struct err *err)
{
    if (key == NULL) {
        for (int i = 0; i < recipe_schema.n_field; i++) {
            text_puts(out, i > 0 ? "\n" : "");
            explain_field(recipe, &recipe_schema.fields[i], out);
        }
        return out->failed ? err_no_memory(err, "the explanation") : true;
    }
    const struct field_alias *alias = NULL;
    const struct field *field = schema_find(&recipe_schema, key, &alias);
    const struct foreign *foreign = schema_find_foreign(&recipe_schema, key);
    if (field != NULL) {
        explain_field(recipe, field, out);
    } else if (foreign != NULL && foreign->refusal != NULL) {
        text_printf(out, "%s: refused when it is set: %s\n", key, foreign->refusal);
    } else if (foreign != NULL) {
        text_printf(out, "%s: ignored%s%s\n", key, foreign->reason == NULL ? "" : ": ",
                    foreign->reason == NULL ? ", it cannot change the result here"
                                            : foreign->reason);
    } else {
        const char *nearest = schema_nearest(&recipe_schema, key);
        if (nearest != NULL)
            return err_set(err, ERR_USAGE, "command line: unknown key '%.60s'; did you mean '%s'?",
                           key, nearest);
        return err_set(err, ERR_USAGE,
                       "command line: unknown key '%.60s'; explain without a key lists them all",
                       key);
    }
    return out->failed ? err_no_memory(err, "the explanation") : true;
}

void recipe_dump(const struct recipe *recipe, struct text *out)
{
    text_puts(out, "# The resolved recipe: every key, and where its value comes from.\n");
    for (int i = 0; i < recipe_schema.n_field; i++) {
        const struct field *field = &recipe_schema.fields[i];
        const char *origin = recipe->origin == NULL ? NULL : recipe->origin[i];
        if (field->section != NULL)
            text_printf(out, "\n# %s\n", field->section);
        text_printf(out, "%s: ", field->name);
        put_recipe_value(recipe, field, STYLE_DUMP, out);
        text_printf(out, "  # %s\n", origin == NULL ? "default" : origin);
    }
}

int recipe_n_key(void)
{
    return recipe_schema.n_field;
}

const char *recipe_key(int i)
{
    return recipe_schema.fields[i].name;
}

void recipe_value(const struct recipe *recipe, int i, struct text *out)
{
    put_recipe_value(recipe, &recipe_schema.fields[i], STYLE_SHORT, out);
}

bool recipe_same_value(const struct recipe *a, const struct recipe *b, int i)
{
    struct text x = { 0 }, y = { 0 };
    put_recipe_value(a, &recipe_schema.fields[i], STYLE_DUMP, &x);
    put_recipe_value(b, &recipe_schema.fields[i], STYLE_DUMP, &y);
    const bool same = !x.failed && !y.failed && strcmp(x.data, y.data) == 0;
    text_free(&x);
    text_free(&y);
    return same;
}

static void put_foreign_list(bool refused, struct text *out)
{
    const char *gap = " ";
    for (const struct foreign *f = recipe_schema.foreign; f->name != NULL; f++) {
        if ((f->refusal != NULL) != refused)
            continue;
        text_printf(out, "%s`%s`", gap, f->name);
        gap = ", ";
    }
    text_puts(out, ".\n");
}

void recipe_option_table(struct text *out)
{
    for (int i = 0; i < recipe_schema.n_field; i++) {
        const struct field *field = &recipe_schema.fields[i];
        if (field->section != NULL)
            text_printf(out, "%s**%s**\n\n| key | takes | default | meaning |\n|---|---|---|---|\n",
                        i > 0 ? "\n" : "", field->section);
        text_printf(out, "| `%s` | ", field->name);
        field_expectation(field, out);
        text_printf(out, " | %s | %s", field->initial == NULL ? "not set" : field->initial,
                    field->help);
        if (field->aliases != NULL) {
            text_puts(out, " Also read: ");
            put_aliases(field, "`", out);
            text_puts(out, ".");
        }
        text_puts(out, " |\n");
    }
    text_puts(
        out,
        "\nKeys of other trainers that cannot change the result here are ignored, and listed:");
    put_foreign_list(false, out);
    text_puts(out, "\nKeys that are refused, with the way out, when they ask for something:");
    put_foreign_list(true, out);
}
