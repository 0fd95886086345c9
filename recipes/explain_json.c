/* The keys explained to scripts: truth values, numbers and texts as JSON has them, everything else
 * as the YAML that a recipe would say. */
#include <stdlib.h>
#include <string.h>

#include "kernels/core/json_memory.h"
#include "recipes/recipe.h"
#include "recipes/schema.h"

/* Bytes that may not be UTF-8, or control a terminal; s NULL: null. */
static json_t *clean_string(const char *s)
{
    if (s == NULL)
        return json_null();
    char *copy = text_copy(s);
    if (copy != NULL)
        report_clean(copy);
    else
        json_memory_fail();
    json_t *string = copy != NULL ? json_string(copy) : NULL;
    free(copy);
    return string;
}

static json_t *yaml_value(const struct recipe *recipe, const struct field *field)
{
    struct text value = { 0 };
    recipe_value(recipe, (int)(field - recipe_schema.fields), &value);
    json_t *out = value.failed                      ? NULL
                  : value.data == NULL              ? json_null()
                  : strcmp(value.data, "null") == 0 ? json_null()
                                                    : clean_string(value.data);
    text_free(&value);
    return out;
}

static json_t *texts(char *const *list, int64_t n)
{
    json_t *out = json_array();
    for (int64_t i = 0; out != NULL && i < n; i++) {
        if (json_array_append_new(out, clean_string(list[i])) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *value_of(const struct recipe *recipe, const struct field *field)
{
    const char *base = (const char *)recipe;
    const void *slot = base + field->offset, *n_slot = base + field->n_offset;
    const int64_t *number = slot;
    switch (field->kind) {
    case FIELD_BOOL:
        return json_boolean(*(const bool *)slot);
    case FIELD_INT:
    case FIELD_BYTES:
        return field->zero != NULL && *number == 0 ? json_string(field->zero)
                                                   : json_integer(*number);
    case FIELD_REAL:
        return json_real(*(const double *)slot);
    case FIELD_STRING:
    case FIELD_PATH:
    case FIELD_MODEL:
    case FIELD_TEMPLATE:
    case FIELD_DATE:
    case FIELD_RESUME:
        return clean_string(*(char *const *)slot);
    case FIELD_STRINGS:
        return texts(*(char *const *const *)slot, *(const int64_t *)n_slot);
    default:
        return yaml_value(recipe, field);
    }
}

static json_t *aliases_of(const struct field *field)
{
    json_t *out = json_array();
    const struct field_alias *alias = field->aliases;
    for (; out != NULL && alias != NULL && alias->name != NULL; alias++) {
        if (json_array_append_new(out, json_string(alias->name)) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *field_json(const struct recipe *recipe, const struct field *field)
{
    const char *origin = recipe_origin(recipe, field->name);
    struct text takes = { 0 };
    field_expectation(field, &takes);
    if (takes.failed)
        json_memory_fail();
    json_t *out = json_pack("{s:s, s:o, s:o, s:s, s:s, s:o, s:o}", "key", field->name, "value",
                            value_of(recipe, field), "from",
                            clean_string(origin != NULL ? origin : "default"), "help", field->help,
                            "takes", takes.failed ? "" : takes.data, "default",
                            clean_string(field->initial), "aliases", aliases_of(field));
    text_free(&takes);
    return out;
}

static json_t *foreign_json(const char *key, const struct foreign *foreign)
{
    const bool refused = foreign->refusal != NULL;
    return json_pack("{s:o, s:s, s:o}", "key", clean_string(key), "other_trainers",
                     refused ? "refused when it is set" : "ignored", "why",
                     clean_string(refused ? foreign->refusal : foreign->reason));
}

static json_t *all_json(const struct recipe *recipe)
{
    json_t *out = json_array();
    for (int i = 0; out != NULL && i < recipe_schema.n_field; i++) {
        if (json_array_append_new(out, field_json(recipe, &recipe_schema.fields[i])) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

json_t *recipe_explain_json(const struct recipe *recipe, const char *key, struct err *err)
{
    const struct field_alias *alias = NULL;
    const struct field *field = key == NULL ? NULL : schema_find(&recipe_schema, key, &alias);
    const struct foreign *foreign =
        key == NULL || field != NULL ? NULL : schema_find_foreign(&recipe_schema, key);
    if (key != NULL && field == NULL && foreign == NULL) {
        struct text unused = { 0 };
        recipe_explain(recipe, key, &unused, err); /* says what is unknown */
        text_free(&unused);
        return NULL;
    }
    json_t *out = field != NULL     ? field_json(recipe, field)
                  : foreign != NULL ? foreign_json(key, foreign)
                                    : all_json(recipe);
    if (out == NULL)
        err_no_memory(err, "the explanation");
    return out;
}
