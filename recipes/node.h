/* A recipe between YAML and struct recipe: a tree of values, each knowing where it was written. */
#ifndef RECIPES_NODE_H
#define RECIPES_NODE_H

#include <stdbool.h>
#include <stdint.h>

enum { NODE_MAX_DEPTH = 32, NODE_PLACE_SIZE = 512, NODE_SHOW_SIZE = 80 };

enum node_kind { NODE_NULL, NODE_SCALAR, NODE_LIST, NODE_MAP };

struct node {
    enum node_kind kind;
    char *key;   /* in a mapping; NULL elsewhere */
    char *text;  /* of a scalar */
    bool quoted; /* a scalar in quotes or a block scalar: a string whatever it spells */
    const char
        *override; /* "key=value" of the command line (not owned); NULL: written in the file */
    int64_t key_line, key_column, line, column; /* from 1 */
    struct node **child;
    int64_t n_child, cap;
};

struct node *node_new(enum node_kind kind);
void node_free(struct node *node); /* NULL is fine */

/* A scalar holding a copy of text; or NODE_NULL when it is not quoted and spells null. */
struct node *node_new_scalar(const char *text, bool quoted);

/* Appends child, which the parent then owns; false (child not taken) when memory is out. */
bool node_add(struct node *parent, struct node *child);
void node_remove(struct node *parent, int64_t i);

/* The entry of a mapping, or NULL; its index, or -1. */
struct node *node_find(const struct node *map, const char *key);
int64_t node_index(const struct node *map, const char *key);

/* Whether any value in the tree came from the command line. */
bool node_is_overridden(const struct node *node);

/* "'text'", "an empty value", "a list" or "a mapping": for messages; long texts are cut. */
void node_show(const struct node *node, char out[NODE_SHOW_SIZE]);

/* "path:line:column" of the value (or of its key), or "command line: key=value". path NULL: no
 * file. */
void node_place(const struct node *node, const char *path, bool of_key, char out[NODE_PLACE_SIZE]);

/* YAML 1.1's spellings. Quoted scalars are strings: never a truth value or a number. */
bool node_bool(const struct node *node, bool *out);
bool node_int(const struct node *node, int64_t *out);
bool node_real(const struct node *node, double *out);

#endif
