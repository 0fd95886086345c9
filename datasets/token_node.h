/* Reading the nodes of tokenizer.json: objects with a "type" and settings.
 *
 * A node's place is its key path ("pre_tokenizer.pretokenizers[1]"); tokenizer_open puts the file's
 * name in front of every message.
 */
#ifndef DATASETS_TOKEN_NODE_H
#define DATASETS_TOKEN_NODE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/core/err.h"

enum { NODE_PLACE_SIZE = 256, NODE_MAX_DEPTH = 8, NODE_MAX = 64 };

/* The node's "type", or NULL and an error when node is not an object with one. */
const char *token_node_type(json_t *node, const char *place, struct err *err);

/* Refuses a key that is not in the NULL-terminated list: a setting we do not know may change the
 * result. */
bool token_node_check_keys(json_t *node, const char *const *keys, const char *place,
                           struct err *err);

/* A required string without NUL characters into *out (which points into the node), its bytes into
 * *n. */
bool token_node_get_string(json_t *node, const char *key, const char **out, size_t *n,
                           const char *place, struct err *err);

/* A required string of exactly one character. */
bool token_node_get_char(json_t *node, const char *key, const char **out, size_t *n,
                         const char *place, struct err *err);

/* The string of {"String": "..."} under "pattern"; *is_regex when it is {"Regex": "..."}. Never
 * empty. */
bool token_node_get_pattern(json_t *node, const char **out, size_t *n, bool *is_regex,
                            const char *place, struct err *err);

/* Whether the Metaspace node prefixes: "always" (also the default), "first" or "never"; its old
 * spelling add_prefix_space: false means never. */
enum metaspace_prefix { METASPACE_NEVER, METASPACE_FIRST, METASPACE_ALWAYS };

struct metaspace {
    const char *replacement; /* one character; points into the node */
    size_t replacement_n;
    enum metaspace_prefix prefix;
    bool split;
};

bool token_node_get_metaspace(json_t *node, struct metaspace *out, const char *place,
                              struct err *err);

/* Refuses the node: its type is none that `what` ("a normalizer") can have here. */
bool token_node_refuse(const char *type, const char *what, const char *known, const char *place,
                       struct err *err);

/* Calls `add` for the node itself, or when it is a Sequence for each member of its list `key`, in
 * order, however nested. */
typedef bool token_node_visit(void *into, json_t *node, const char *type, const char *place,
                              struct err *err);
bool token_node_each(json_t *node, const char *key, token_node_visit *add, void *into,
                     const char *place, struct err *err);

#endif
