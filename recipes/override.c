/* key=value and ~key of the command line, on the tree before it is read: every check that follows
 * treats them as if they stood in the file.
 *
 * "datasets.0.path=x" goes down mappings by key and lists by index; an index one past the end
 * appends. A value is taken as it is, unless it begins like a YAML list, mapping or quoted string.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recipes/load.h"
#include "recipes/yaml.h"

struct way {
    char *copy; /* the key's text, cut into segments */
    char *segment[NODE_MAX_DEPTH];
    int n;
};

static bool fail(struct load *load, const char *argument, const char *problem)
{
    char place[NODE_PLACE_SIZE];
    snprintf(place, sizeof place, "command line: %.200s", argument);
    report_error(load->report, ERR_USAGE, place, "%s; expected key=value or ~key", problem);
    return false;
}

static bool fail_at(struct load *load, const char *argument, const char *segment)
{
    char place[NODE_PLACE_SIZE];
    snprintf(place, sizeof place, "command line: %.200s", argument);
    report_error(load->report, ERR_USAGE, place,
                 "there is no '%.60s' to go to; expected a key, or an index of a list", segment);
    return false;
}

static bool is_index(const char *segment)
{
    const size_t n = strlen(segment);
    return n > 0 && n < 6 && strspn(segment, "0123456789") == n;
}

static bool split_way(struct load *load, const char *argument, const char *key, size_t n,
                      struct way *way)
{
    way->copy = text_copy_n(key, n);
    if (way->copy == NULL) {
        report_no_memory(load->report);
        return false;
    }
    char *at = way->copy;
    for (;;) {
        char *dot = strchr(at, '.');
        if (way->n == NODE_MAX_DEPTH - 1 || at == dot || *at == '\0')
            return fail(load, argument, "the key has an empty part, or too many");
        way->segment[way->n++] = at;
        if (dot == NULL)
            return true;
        *dot = '\0';
        at = dot + 1;
    }
}

/* The value as a tree whose every node knows the argument; NULL after an error. */
static void mark(struct node *node, const char *argument)
{
    node->override = argument;
    for (int64_t i = 0; i < node->n_child; i++)
        mark(node->child[i], argument);
}

static struct node *parse_value(struct load *load, const char *argument, const char *value)
{
    struct node *node = NULL;
    if (*value != '\0' && strchr("[{\"'", *value) != NULL) {
        char place[NODE_PLACE_SIZE];
        snprintf(place, sizeof place, "command line: %.200s", argument);
        const int64_t before = load->report->errors.n;
        node = yaml_parse_value(value, place, load->report);
        if (node == NULL && load->report->errors.n == before)
            report_no_memory(load->report);
    } else {
        node = node_new_scalar(value, false);
        if (node == NULL)
            report_no_memory(load->report);
    }
    if (node != NULL)
        mark(node, argument);
    return node;
}

/* The child at a segment: its index in *i, or -1 where it may be added; false where it cannot be.
 */
static bool find_child(const struct node *at, const char *segment, int64_t *i)
{
    *i = -1;
    if (at->kind == NODE_MAP) {
        *i = node_index(at, segment);
        return true;
    }
    if (at->kind != NODE_LIST || !is_index(segment))
        return false;
    const int64_t index = strtoll(segment, NULL, 10);
    if (index < at->n_child)
        *i = index;
    return index <= at->n_child;
}

/* Puts child (owned from here on) under `at`, in place of the one at index i unless that is -1. */
static bool put_child(struct load *load, struct node *at, const char *segment, int64_t i,
                      struct node *child)
{
    char *key = at->kind == NODE_MAP ? text_copy(segment) : NULL; /* segment may be child->key */
    const bool ok = at->kind != NODE_MAP || key != NULL;
    free(child->key);
    child->key = key;
    if (ok && i >= 0) {
        child->key_line = at->child[i]->key_line;
        child->key_column = at->child[i]->key_column;
        node_free(at->child[i]);
        at->child[i] = child;
        return true;
    }
    if (ok && node_add(at, child))
        return true;
    node_free(child);
    report_no_memory(load->report);
    return false;
}

/* Walks to the parent of the last segment, making what is missing (or, with `make` false, stopping
 * at NULL without an error). */
static struct node *walk(struct load *load, const char *argument, const struct way *way, bool make)
{
    struct node *at = load->root;
    for (int s = 0; s + 1 < way->n; s++) {
        int64_t i = -1;
        if (!find_child(at, way->segment[s], &i)) {
            fail_at(load, argument, way->segment[s]);
            return NULL;
        }
        if (i < 0 || at->child[i]->kind == NODE_NULL) {
            if (!make)
                return NULL;
            struct node *made = node_new(is_index(way->segment[s + 1]) ? NODE_LIST : NODE_MAP);
            if (made == NULL) {
                report_no_memory(load->report);
                return NULL;
            }
            made->override = argument;
            if (!put_child(load, at, way->segment[s], i, made))
                return NULL;
            at = made;
        } else {
            at = at->child[i];
        }
    }
    return at;
}

static void set_value(struct load *load, const char *argument, const struct way *way,
                      struct node *value)
{
    const char *last = way->segment[way->n - 1];
    struct node *at = walk(load, argument, way, true);
    int64_t i = -1;
    if (at != NULL && !find_child(at, last, &i)) {
        fail_at(load, argument, last);
        at = NULL;
    }
    if (at == NULL)
        node_free(value);
    else
        put_child(load, at, last, i, value);
}

/* False when there was nothing to remove. */
static bool remove_value(struct load *load, const char *argument, const struct way *way)
{
    struct node *at = walk(load, argument, way, false);
    int64_t i = -1;
    if (at == NULL || !find_child(at, way->segment[way->n - 1], &i) || i < 0)
        return false;
    node_remove(at, i);
    return true;
}

static bool is_known(const char *key)
{
    const struct field_alias *alias = NULL;
    return schema_find(&recipe_schema, key, &alias) != NULL ||
           schema_find_foreign(&recipe_schema, key) != NULL;
}

/* The first segment under its canonical name, the value as that name takes it: the work of
 * load_canonicalise on a mapping of this one entry. NULL after an error. */
static struct node *canonical_entry(struct load *load, const char *argument, const char *name,
                                    struct node *value)
{
    struct node *map = node_new(NODE_MAP);
    value->key = text_copy(name);
    value->override = argument;
    if (map == NULL || value->key == NULL || !node_add(map, value)) {
        node_free(value);
        node_free(map);
        report_no_memory(load->report);
        return NULL;
    }
    load_canonicalise(load, &recipe_schema, map, "");
    struct node *entry = map->n_child == 1 ? map->child[0] : NULL;
    map->n_child = 0;
    node_free(map);
    return entry;
}

/* way->copy holds the key; value is NULL for a removal. */
static void apply(struct load *load, const char *argument, const char *text, struct way *way)
{
    const bool removes = text == NULL;
    const bool is_whole = !removes && way->n == 1; /* the value belongs to the key itself */
    struct node *value = is_whole ? parse_value(load, argument, text) : node_new(NODE_NULL);
    if (value == NULL && !is_whole)
        report_no_memory(load->report);
    if (value == NULL)
        return;
    struct node *entry = canonical_entry(load, argument, way->segment[0], value);
    if (entry == NULL)
        return;
    way->segment[0] = entry->key;
    if (removes) {
        /* A key that is not in the recipe is as good as removed; a misspelled one is a mistake. */
        if (!remove_value(load, argument, way) && !is_known(entry->key))
            load_unknown_key(load, &recipe_schema, entry, "");
    } else if (is_whole) {
        set_value(load, argument, way, entry);
        return;
    } else {
        struct node *deep = parse_value(load, argument, text);
        if (deep != NULL)
            set_value(load, argument, way, deep);
    }
    node_free(entry);
}

void load_override(struct load *load, const char *argument)
{
    const bool removes = argument[0] == '~';
    const char *equals = strchr(argument, '=');
    if (!text_is_utf8(argument, strlen(argument), NULL)) {
        fail(load, argument, "not UTF-8");
        return;
    }
    if (!removes && equals == NULL) {
        fail(load, argument, "not an override");
        return;
    }
    struct way way = { 0 };
    const size_t n = removes ? strlen(argument + 1) : (size_t)(equals - argument);
    if (split_way(load, argument, argument + removes, n, &way))
        apply(load, argument, removes ? NULL : equals + 1, &way);
    free(way.copy);
}
