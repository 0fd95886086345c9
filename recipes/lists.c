/* The lists and mappings of struct lora_config, and lists of texts. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "recipes/load.h"

static void free_strings(char **list, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

/* A list of non-empty strings, each "a module's name"; NULL after an error. */
static char **read_strings(struct load *load, const struct field *field, const struct node *value,
                           const char *what)
{
    char **list = calloc((size_t)value->n_child, sizeof *list);
    bool ok = list != NULL;
    if (!ok)
        report_no_memory(load->report);
    for (int64_t i = 0; ok && i < value->n_child; i++) {
        const struct node *item = value->child[i];
        if (item->kind != NODE_SCALAR || item->text[0] == '\0') {
            char show[NODE_SHOW_SIZE];
            node_show(item, show);
            load_error(load, item, "'%s.%" PRId64 "' is %s; expected %s", field->name, i, show,
                       what);
            ok = false;
        } else if ((list[i] = text_copy(item->text)) == NULL) {
            report_no_memory(load->report);
            ok = false;
        }
    }
    if (ok)
        return list;
    free_strings(list, list == NULL ? 0 : value->n_child);
    return NULL;
}

/* A list of names into *list, or one regular expression into *regex. */
static bool read_names(struct load *load, const struct field *field, const struct node *value,
                       char ***list, int64_t *n, char **regex)
{
    if (value->kind == NODE_LIST && value->n_child > 0) {
        *list = read_strings(load, field, value, "a module's name");
        *n = *list == NULL ? 0 : value->n_child;
        return *list != NULL;
    }
    if (value->kind != NODE_SCALAR || value->text[0] == '\0') {
        if (value->kind == NODE_LIST)
            load_error(load, value, "'%s' is an empty list; remove the key for the default",
                       field->name);
        else
            load_expected(load, field, field->name, value);
        return false;
    }
    /* No module path has a comma, and as a regular expression this one would match nothing. */
    const char *s = value->text;
    if (strchr(s, ',') != NULL && strpbrk(s, "()[]{}|*+?^$\\") == NULL) {
        load_error(load, value, "'%s' is '%.60s', which looks like a list; write [%.60s]",
                   field->name, s, s);
        return false;
    }
    *regex = text_copy(s);
    if (*regex == NULL)
        report_no_memory(load->report);
    return *regex != NULL;
}

bool load_strings(struct load *load, const struct field *field, const struct node *value,
                  char ***list, int64_t *n)
{
    if (value->kind == NODE_LIST && value->n_child == 0)
        return true; /* none, as by default */
    const bool is_one = value->kind == NODE_SCALAR && value->text[0] != '\0';
    if (!is_one && value->kind != NODE_LIST) {
        load_expected(load, field, field->name, value);
        return false;
    }
    struct node single = *value; /* `sample_prompts: text`: the value is its only entry */
    struct node *entry[] = { &single };
    const struct node alone = { .kind = NODE_LIST, .child = entry, .n_child = 1 };
    const struct node *all = is_one ? &alone : value;
    *list = read_strings(load, field, all, "text");
    *n = *list == NULL ? 0 : all->n_child;
    return *list != NULL;
}

bool load_targets(struct load *load, const struct field *field, const struct node *value,
                  struct lora_config *lora)
{
    if (value->kind == NODE_SCALAR &&
        (strcmp(value->text, "all-linear") == 0 || strcmp(value->text, "all") == 0)) {
        lora->all_linear = true;
        return true;
    }
    return read_names(load, field, value, &lora->target_modules, &lora->n_target,
                      &lora->target_regex);
}

bool load_excludes(struct load *load, const struct field *field, const struct node *value,
                   struct lora_config *lora)
{
    return read_names(load, field, value, &lora->exclude_modules, &lora->n_exclude,
                      &lora->exclude_regex);
}

static bool read_layer(struct load *load, const struct field *field, const struct node *value,
                       int64_t *out)
{
    if (node_int(value, out) && (double)*out >= field->low && (double)*out <= field->high)
        return true;
    char show[NODE_SHOW_SIZE];
    node_show(value, show);
    load_error(load, value, "'%s' has %s; expected a layer's number from 0", field->name, show);
    return false;
}

bool load_layers(struct load *load, const struct field *field, const struct node *value,
                 struct lora_config *lora)
{
    const bool is_list = value->kind == NODE_LIST;
    const int64_t n = is_list ? value->n_child : 1;
    if (n == 0 || value->kind == NODE_MAP) {
        load_expected(load, field, field->name, value);
        return false;
    }
    int64_t *list = calloc((size_t)n, sizeof *list);
    bool ok = list != NULL;
    if (!ok)
        report_no_memory(load->report);
    for (int64_t i = 0; ok && i < n; i++)
        ok = read_layer(load, field, is_list ? value->child[i] : value, &list[i]);
    if (!ok) {
        free(list);
        return false;
    }
    lora->layers_to_transform = list;
    lora->n_layer_to_transform = n;
    return true;
}

static bool read_pattern(struct load *load, const struct field *field, const struct node *value,
                         struct lora_pattern *pattern)
{
    int64_t rank = 0;
    bool ok = false;
    if (field->kind == FIELD_RANKS) {
        ok = node_int(value, &rank);
        pattern->value = (double)rank;
    } else {
        ok = node_real(value, &pattern->value);
    }
    const double v = pattern->value;
    const bool above = field->rules & RULE_ABOVE_LOW ? v > field->low : v >= field->low;
    if (!ok || !above || v > field->high) {
        char show[NODE_SHOW_SIZE];
        node_show(value, show);
        load_error(load, value, "'%s.%.60s' is %s; expected %s", field->name, value->key, show,
                   field->kind == FIELD_RANKS ? "a rank, a whole number from 1 to 16384"
                                              : "a number above 0");
        return false;
    }
    pattern->key = text_copy(value->key);
    if (pattern->key == NULL)
        report_no_memory(load->report);
    return pattern->key != NULL;
}

bool load_patterns(struct load *load, const struct field *field, const struct node *value,
                   struct lora_config *lora)
{
    if (value->kind != NODE_MAP) {
        load_expected(load, field, field->name, value);
        return false;
    }
    const bool is_rank = field->kind == FIELD_RANKS;
    struct lora_pattern *list = calloc((size_t)value->n_child + 1, sizeof *list);
    if (list == NULL) {
        report_no_memory(load->report);
        return false;
    }
    *(is_rank ? &lora->rank_pattern : &lora->alpha_pattern) = list;
    *(is_rank ? &lora->n_rank_pattern : &lora->n_alpha_pattern) = value->n_child;
    bool ok = true;
    for (int64_t i = 0; i < value->n_child; i++)
        ok = read_pattern(load, field, value->child[i], &list[i]) && ok;
    return ok;
}
