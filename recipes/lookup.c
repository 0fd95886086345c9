/* Looking things up in the tables of schema.c and foreign.c. */
#include <stdio.h>
#include <string.h>

#include "recipes/schema.h"

static const struct field_alias *find_alias(const struct field *field, const char *name)
{
    const struct field_alias *alias = field->aliases;
    for (; alias != NULL && alias->name != NULL; alias++) {
        if (strcmp(alias->name, name) == 0)
            return alias;
    }
    return NULL;
}

const struct field *schema_find(const struct schema *schema, const char *name,
                                const struct field_alias **alias)
{
    for (int i = 0; i < schema->n_field; i++) {
        const struct field *field = &schema->fields[i];
        const bool is_name = strcmp(field->name, name) == 0;
        *alias = is_name ? NULL : find_alias(field, name);
        if (is_name || *alias != NULL)
            return field;
    }
    *alias = NULL;
    return NULL;
}

/* "wandb_*" matches every name that begins so. */
static bool foreign_matches(const char *pattern, const char *name)
{
    const size_t n = strlen(pattern);
    if (pattern[n - 1] == '*')
        return strncmp(pattern, name, n - 1) == 0;
    return strcmp(pattern, name) == 0;
}

const struct foreign *schema_find_foreign(const struct schema *schema, const char *name)
{
    for (const struct foreign *f = schema->foreign; f->name != NULL; f++) {
        if (foreign_matches(f->name, name))
            return f;
    }
    return NULL;
}

const char *schema_nearest(const struct schema *schema, const char *name)
{
    enum { MAX_NAMES = 256 };
    const char *spelled[MAX_NAMES], *key[MAX_NAMES];
    int n = 0;
    for (int i = 0; i < schema->n_field; i++) {
        const struct field *field = &schema->fields[i];
        spelled[n] = key[n] = field->name;
        n++;
        const struct field_alias *alias = field->aliases;
        for (; alias != NULL && alias->name != NULL && n < MAX_NAMES - 1; alias++) {
            spelled[n] = alias->name;
            key[n++] = field->name;
        }
    }
    const int nearest = text_nearest(name, spelled, n);
    return nearest < 0 ? NULL : key[nearest];
}

/* Whether word stands in the space-separated list (NULL: empty). */
static bool word_in_list(const char *word, const char *list)
{
    const size_t n = strlen(word);
    for (const char *at = list; at != NULL && n > 0; at = strchr(at, ' ')) {
        at += *at == ' ';
        if (strncmp(at, word, n) == 0 && (at[n] == ' ' || at[n] == '\0'))
            return true;
    }
    return false;
}

static bool scalar_is_off(const struct foreign *foreign, const struct node *value)
{
    bool flag = true;
    double number = 1;
    if (value->text[0] == '\0' || word_in_list(value->text, foreign->off))
        return true;
    if (node_bool(value, &flag))
        return !flag;
    return node_real(value, &number) && number == 0;
}

bool foreign_is_off(const struct foreign *foreign, const struct node *value)
{
    if (value->kind == NODE_NULL)
        return true;
    if (value->kind == NODE_SCALAR)
        return scalar_is_off(foreign, value);
    for (int64_t i = 0; i < value->n_child; i++) {
        const struct node *child = value->child[i];
        if (child->key != NULL && word_in_list(child->key, foreign->off))
            continue;
        if (value->kind == NODE_LIST && child->kind == NODE_SCALAR &&
            word_in_list(child->text, foreign->off))
            continue;
        if (value->kind == NODE_LIST || child->kind != NODE_NULL)
            return false;
    }
    return true;
}

const char *field_enum_name(const struct field *field, int value)
{
    const struct enum_name *name = field->names;
    while (name->name != NULL && (name->value != value || name->refusal != NULL))
        name++;
    return name->name == NULL ? "?" : name->name;
}

static void put_names(const struct field *field, struct text *out)
{
    const char *gap = "";
    for (const struct enum_name *name = field->names; name->name != NULL; name++) {
        /* The spellings we write; the others are accepted silently. */
        if (name->refusal != NULL || field_enum_name(field, name->value) != name->name)
            continue;
        text_printf(out, "%s'%s'", gap, name->name);
        gap = ", ";
    }
}

static void put_range(const struct field *field, struct text *out)
{
    const bool is_bounded = field->high <= 1e15, is_above = field->rules & RULE_ABOVE_LOW;
    if (is_above)
        text_printf(out, " above %.15g", field->low);
    else
        text_printf(out, is_bounded ? " from %.15g" : ", %.15g or more", field->low);
    if (is_bounded)
        text_printf(out, "%s %.15g",
                    is_above                         ? ", at most"
                    : field->rules & RULE_BELOW_HIGH ? " to below"
                                                     : " to",
                    field->high);
}

void field_expectation(const struct field *field, struct text *out)
{
    if (field->zero != NULL)
        text_printf(out, "'%s' or ", field->zero);
    switch (field->kind) {
    case FIELD_BOOL:
        text_puts(out, "true or false");
        break;
    case FIELD_INT:
        text_puts(out, "a whole number");
        put_range(field, out);
        break;
    case FIELD_REAL:
        if (field->rules & RULE_SHARE_OR_COUNT) {
            text_puts(out, "a share from 0 to below 1, or a whole number");
            break;
        }
        text_puts(out, "a number");
        put_range(field, out);
        break;
    case FIELD_BYTES:
        text_puts(out, "bytes such as 24GiB, 500MB or 1000000");
        break;
    case FIELD_EVERY:
        text_puts(out, "a whole number of steps, a share below 1, or a time such as 90s, 10m or "
                       "2h");
        break;
    case FIELD_ENUM:
        text_puts(out, field->names[1].refusal == NULL ? "one of " : "");
        put_names(field, out);
        break;
    case FIELD_STRING:
        text_puts(out, "text");
        break;
    case FIELD_PATH:
        text_puts(out, "a path");
        break;
    case FIELD_MODEL:
        text_puts(out, "a folder, a hub name or random:CONFIG.JSON");
        break;
    case FIELD_TEMPLATE:
        text_puts(out, "a path, 'jamba' or 'chatml'");
        break;
    case FIELD_DATE:
        text_puts(out, "a date such as 2025-01-01 or 2025-01-01 18:30:00");
        break;
    case FIELD_RESUME:
        text_puts(out, "'auto' or the path of a checkpoint");
        break;
    case FIELD_STRINGS:
        text_puts(out, "a list of texts");
        break;
    case FIELD_VARIABLES:
        text_puts(out, "a mapping from names to values");
        break;
    case FIELD_TARGETS:
        text_puts(out, "a list of names, a regular expression or 'all-linear'");
        break;
    case FIELD_EXCLUDES:
        text_puts(out, "a list of names or a regular expression");
        break;
    case FIELD_LAYERS:
        text_puts(out, "a layer or a list of layers");
        break;
    case FIELD_RANKS:
        text_puts(out, "a mapping from names to ranks");
        break;
    case FIELD_ALPHAS:
        text_puts(out, "a mapping from names to numbers above 0");
        break;
    case FIELD_TRAIN:
    case FIELD_VALIDATION:
        text_puts(out, "a list of mappings with 'path'");
        break;
    }
}
