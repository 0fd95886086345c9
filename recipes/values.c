/* One scalar of the tree into one member. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/config.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "recipes/load.h"

static bool in_range(const struct field *field, double v)
{
    const bool low = field->rules & RULE_ABOVE_LOW ? v > field->low : v >= field->low;
    const bool high = field->rules & RULE_BELOW_HIGH ? v < field->high : v <= field->high;
    const bool whole = !(field->rules & RULE_SHARE_OR_COUNT) || v < 1 || v == floor(v);
    return isfinite(v) && low && high && whole;
}

static bool is_zero_word(const struct field *field, const struct node *value)
{
    return field->zero != NULL && value->kind == NODE_SCALAR &&
           strcmp(value->text, field->zero) == 0;
}

static bool read_int(const struct field *field, const struct node *value, int64_t *out)
{
    int64_t v = 0;
    if (value->kind == NODE_NULL && field->rules & RULE_EMPTY_IS_ZERO) {
        *out = 0;
        return true;
    }
    /* Compared as integers: (double)v would round 2^53 + 1 into the range. */
    if (!is_zero_word(field, value) &&
        (!node_int(value, &v) || v < (int64_t)field->low || v > (int64_t)field->high))
        return false;
    *out = v;
    return true;
}

static bool read_real(const struct field *field, const struct node *value, double *out)
{
    double v = 0;
    if (!node_real(value, &v) || !in_range(field, v))
        return false;
    *out = v;
    return true;
}

/* "24GiB", "24G" (the same), "500MB" (powers of 1000), "1000000". */
static bool read_bytes(const struct field *field, const struct node *value, int64_t *out)
{
    if (is_zero_word(field, value)) {
        *out = 0;
        return true;
    }
    if (value->kind != NODE_SCALAR)
        return false;
    const char *s = value->text;
    const size_t n_digit = strspn(s, "0123456789.");
    if (n_digit == 0 || strlen(s) > 40)
        return false;
    char *end = NULL;
    double v = strtod(s, &end);
    if (end != s + n_digit)
        return false;
    end += strspn(end, " ");
    static const char units[] = "KMGT";
    const char *unit = *end == '\0' || *end == 'B' ? NULL : strchr(units, *end);
    if (unit != NULL) {
        const double base = strcmp(end + 1, "B") == 0 ? 1000 : 1024;
        v *= pow(base, (double)(unit - units + 1));
        end++;
        end += *end == 'i' && end[1] == 'B';
    }
    end += *end == 'B';
    if (*end != '\0' || v < 1 || !in_range(field, v))
        return false;
    *out = (int64_t)v;
    return true;
}

/* "90s", "10m", "1.5h", "2d"; else a number of steps, or a share of them. */
static bool read_every(const struct field *field, const struct node *value,
                       struct recipe_every *out)
{
    static const struct {
        char letter;
        double seconds;
    } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
    const double longest = 366 * 86400.0;
    struct recipe_every every = { 0 };
    const size_t n = value->kind == NODE_SCALAR ? strlen(value->text) : 0;
    const size_t n_digit = n == 0 ? 0 : strspn(value->text, "0123456789.");
    if (n_digit == 0 || n_digit + 1 != n) {
        if (!node_real(value, &every.steps) || !in_range(field, every.steps))
            return false;
        *out = every;
        return true;
    }
    char *end = NULL;
    const double v = strtod(value->text, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (*end == units[i].letter)
            every.seconds = v * units[i].seconds;
    }
    if (end != value->text + n_digit || !(every.seconds > 0 && every.seconds <= longest))
        return false;
    *out = every;
    return true;
}

static bool read_enum(struct load *load, const struct field *field, const char *name,
                      const struct node *value, int *out)
{
    if (value->kind != NODE_SCALAR) {
        load_expected(load, field, name, value);
        return false;
    }
    bool flag = false;
    const bool is_bool = node_bool(value, &flag); /* on, Yes, ...: one spelling for the table */
    const char *text = !is_bool ? value->text : flag ? "true" : "false";
    for (const struct enum_name *e = field->names; e->name != NULL; e++) {
        if (strcmp(e->name, text) != 0)
            continue;
        if (e->refusal != NULL) {
            load_error(load, value, "'%s' is '%s'; %s", name, text, e->refusal);
            return false;
        }
        if (e->note != NULL)
            load_note_at_key(load, value, "%s '%s' %s", name, text, e->note);
        *out = e->value;
        return true;
    }
    load_expected(load, field, name, value);
    return false;
}

/* Replaces the string in *slot by one we own (NULL: memory is out). */
static bool set_string(struct load *load, char **slot, char *string)
{
    if (string == NULL) {
        report_no_memory(load->report);
        return false;
    }
    free(*slot);
    *slot = string;
    return true;
}

char *load_resolve(const struct load *load, const struct node *value, const char *path)
{
    const bool from_file = value->override == NULL && load->folder != NULL;
    if (!from_file || strcmp(load->folder, ".") == 0)
        return text_copy(path);
    while (text_starts_with(path, "./"))
        path += 2;
    return file_join(load->folder, path);
}

/* A folder when it is there or says so; else a hub name, which stays as it is. */
static char *resolve_model(const struct load *load, const struct node *value)
{
    static const char random[] = "random:";
    const char *text = value->text;
    if (text_starts_with(text, random)) {
        char *file = load_resolve(load, value, text + sizeof random - 1);
        char *out = file == NULL ? NULL : text_format("%s%s", random, file);
        free(file);
        return out;
    }
    char *folder = load_resolve(load, value, text);
    const bool is_path = text[0] == '/' || text_starts_with(text, "./") ||
                         text_starts_with(text, "../") || strcmp(text, ".") == 0 ||
                         strcmp(text, "..") == 0;
    if (folder == NULL || file_is_directory(folder))
        return folder;
    /* A path that is not there (yet) keeps a head that no hub name has. */
    char *out = !is_path                               ? text_copy(text)
                : folder[0] == '/' || folder[0] == '.' ? text_copy(folder)
                                                       : text_format("./%s", folder);
    free(folder);
    return out;
}

/* auto or true; false for none; else a path. */
static bool read_resume(struct load *load, const struct field *field, const char *name,
                        const struct node *value, char **slot)
{
    bool flag = false;
    if (value->kind != NODE_SCALAR || value->text[0] == '\0') {
        load_expected(load, field, name, value);
        return false;
    }
    if (node_bool(value, &flag) && !flag) {
        free(*slot);
        *slot = NULL;
        return true;
    }
    if (flag || strcmp(value->text, "auto") == 0)
        return set_string(load, slot, text_copy("auto"));
    return set_string(load, slot, load_resolve(load, value, value->text));
}

static bool read_string(struct load *load, const struct field *field, const char *name,
                        const struct node *value, char **slot)
{
    if (value->kind != NODE_SCALAR || value->text[0] == '\0') {
        load_expected(load, field, name, value);
        return false;
    }
    struct tm date;
    if (field->kind == FIELD_DATE && !data_date_read(value->text, &date)) {
        load_expected(load, field, name, value);
        return false;
    }
    if (field->kind == FIELD_TEMPLATE && strcmp(value->text, "tokenizer_default") == 0)
        return true;
    if (field->kind == FIELD_STRING || field->kind == FIELD_DATE ||
        (field->kind == FIELD_TEMPLATE && data_is_own_template(value->text)))
        return set_string(load, slot, text_copy(value->text));
    if (field->kind == FIELD_MODEL)
        return set_string(load, slot, resolve_model(load, value));
    return set_string(load, slot, load_resolve(load, value, value->text));
}

bool load_value(struct load *load, const struct field *field, const char *name,
                const struct node *value, void *base)
{
    void *slot = (char *)base + field->offset;
    bool ok = true;
    switch (field->kind) {
    case FIELD_BOOL:
        ok = node_bool(value, slot);
        break;
    case FIELD_INT:
        ok = read_int(field, value, slot);
        break;
    case FIELD_REAL:
        ok = read_real(field, value, slot);
        break;
    case FIELD_BYTES:
        ok = read_bytes(field, value, slot);
        break;
    case FIELD_EVERY:
        ok = read_every(field, value, slot);
        break;
    case FIELD_ENUM:
        return read_enum(load, field, name, value, slot);
    case FIELD_STRING:
    case FIELD_PATH:
    case FIELD_MODEL:
    case FIELD_TEMPLATE:
    case FIELD_DATE:
        return read_string(load, field, name, value, slot);
    case FIELD_RESUME:
        return read_resume(load, field, name, value, slot);
    case FIELD_STRINGS:
        return load_strings(load, field, value, slot, (void *)((char *)base + field->n_offset));
    case FIELD_VARIABLES:
        return load_variables(load, field, name, value, slot);
    case FIELD_TARGETS:
        return load_targets(load, field, value, slot);
    case FIELD_EXCLUDES:
        return load_excludes(load, field, value, slot);
    case FIELD_LAYERS:
        return load_layers(load, field, value, slot);
    case FIELD_RANKS:
    case FIELD_ALPHAS:
        return load_patterns(load, field, value, slot);
    case FIELD_TRAIN:
    case FIELD_VALIDATION:
        return load_sources(load, field, value, slot);
    }
    if (!ok)
        load_expected(load, field, name, value);
    return ok;
}
