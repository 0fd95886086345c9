#include "recipes/node.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

struct node *node_new(enum node_kind kind)
{
    struct node *node = calloc(1, sizeof *node);
    if (node != NULL)
        node->kind = kind;
    return node;
}

void node_free(struct node *node)
{
    if (node == NULL)
        return;
    for (int64_t i = 0; i < node->n_child; i++)
        node_free(node->child[i]);
    free(node->child);
    free(node->key);
    free(node->text);
    free(node);
}

static bool is_one_of(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(text, words[i]) == 0)
            return true;
    }
    return false;
}

struct node *node_new_scalar(const char *text, bool quoted)
{
    static const char *const nulls[] = { "", "~", "null", "Null", "NULL" };
    if (!quoted && is_one_of(text, nulls, sizeof nulls / sizeof *nulls))
        return node_new(NODE_NULL);
    struct node *node = node_new(NODE_SCALAR);
    if (node == NULL)
        return NULL;
    node->quoted = quoted;
    node->text = text_copy(text);
    if (node->text == NULL) {
        node_free(node);
        return NULL;
    }
    return node;
}

bool node_add(struct node *parent, struct node *child)
{
    if (parent->n_child == parent->cap) {
        const int64_t cap = 2 * parent->cap + 4;
        struct node **grown = realloc(parent->child, (size_t)cap * sizeof(struct node *));
        if (grown == NULL)
            return false;
        parent->child = grown;
        parent->cap = cap;
    }
    parent->child[parent->n_child++] = child;
    return true;
}

void node_remove(struct node *parent, int64_t i)
{
    node_free(parent->child[i]);
    parent->n_child--;
    memmove(parent->child + i, parent->child + i + 1,
            (size_t)(parent->n_child - i) * sizeof(struct node *));
}

int64_t node_index(const struct node *map, const char *key)
{
    for (int64_t i = 0; i < map->n_child; i++) {
        const char *have = map->child[i]->key;
        if (have != NULL && strcmp(have, key) == 0)
            return i;
    }
    return -1;
}

struct node *node_find(const struct node *map, const char *key)
{
    const int64_t i = node_index(map, key);
    return i < 0 ? NULL : map->child[i];
}

bool node_is_overridden(const struct node *node)
{
    bool any = node->override != NULL;
    for (int64_t i = 0; !any && i < node->n_child; i++)
        any = node_is_overridden(node->child[i]);
    return any;
}

void node_show(const struct node *node, char out[NODE_SHOW_SIZE])
{
    enum { CUT = 60 };
    if (node->kind != NODE_SCALAR) {
        snprintf(out, NODE_SHOW_SIZE, "%s",
                 node->kind == NODE_NULL   ? "an empty value"
                 : node->kind == NODE_LIST ? "a list"
                                           : "a mapping");
        return;
    }
    size_t n = strlen(node->text);
    const bool cut = n > CUT;
    if (cut) {
        for (n = CUT; n > 0 && ((unsigned char)node->text[n] & 0xC0) == 0x80;)
            n--; /* not inside a character */
    }
    snprintf(out, NODE_SHOW_SIZE, "'%.*s%s'", (int)n, node->text, cut ? "..." : "");
}

void node_place(const struct node *node, const char *path, bool of_key, char out[NODE_PLACE_SIZE])
{
    if (node->override != NULL || path == NULL) {
        snprintf(out, NODE_PLACE_SIZE, "command line: %.200s",
                 node->override != NULL ? node->override : "");
        return;
    }
    /* A long path loses its head, not the line and column. */
    const size_t n = strlen(path), keep = NODE_PLACE_SIZE - 64;
    const char *tail = n > keep ? path + n - keep : path;
    snprintf(out, NODE_PLACE_SIZE, "%s:%" PRId64 ":%" PRId64, tail,
             of_key ? node->key_line : node->line, of_key ? node->key_column : node->column);
}

bool node_bool(const struct node *node, bool *out)
{
    static const char *const yes[] = {
        "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"
    };
    static const char *const no[] = { "false", "False", "FALSE", "no", "No",
                                      "NO",    "off",   "Off",   "OFF" };
    if (node->kind != NODE_SCALAR || node->quoted)
        return false;
    *out = is_one_of(node->text, yes, sizeof yes / sizeof *yes);
    return *out || is_one_of(node->text, no, sizeof no / sizeof *no);
}

bool node_int(const struct node *node, int64_t *out)
{
    if (node->kind != NODE_SCALAR || node->quoted)
        return false;
    const char *s = node->text, *digits = s + (*s == '-' || *s == '+');
    const size_t n = strlen(digits);
    /* "010" is 8 in YAML 1.1 and 10 in 1.2: neither is read. */
    if (n == 0 || strspn(digits, "0123456789") != n || (n > 1 && digits[0] == '0'))
        return false;
    errno = 0;
    const long long v = strtoll(s, NULL, 10);
    *out = v;
    return errno == 0;
}

bool node_real(const struct node *node, double *out)
{
    if (node->kind != NODE_SCALAR || node->quoted)
        return false;
    const char *s = node->text;
    /* strtod alone would also take hexadecimal, inf and nan. */
    if (s[strspn(s, "0123456789+-.eE")] != '\0' || strpbrk(s, "0123456789") == NULL)
        return false;
    char *end = NULL;
    errno = 0;
    *out = strtod(s, &end);
    return errno == 0 && *end == '\0';
}
