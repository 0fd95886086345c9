#include "datasets/token_node.h"

#include <stdio.h>
#include <string.h>

#include "kernels/core/json.h"
#include "kernels/core/text.h"

const char *token_node_type(json_t *node, const char *place, struct err *err)
{
    if (!json_is_object(node)) {
        err_set(err, ERR_DATA, "%s: is %s; expected an object with a \"type\"", place,
                json_type_name(node));
        return NULL;
    }
    const char *type = NULL;
    return json_get_string(node, "type", true, &type, place, err) ? type : NULL;
}

bool token_node_check_keys(json_t *node, const char *const *keys, const char *place,
                           struct err *err)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(node, key, value)
    {
        const char *const *k = keys;
        while (*k != NULL && strcmp(*k, key) != 0)
            k++;
        if (*k == NULL)
            return err_set(err, ERR_DATA, "%s: \"%s\" is not a setting that is known here", place,
                           key);
    }
    return true;
}

bool token_node_get_string(json_t *node, const char *key, const char **out, size_t *n,
                           const char *place, struct err *err)
{
    if (!json_get_string(node, key, true, out, place, err))
        return false;
    *n = json_string_length(json_object_get(node, key));
    if (strlen(*out) != *n)
        return err_set(err, ERR_DATA, "%s: \"%s\" has a NUL character; none is expected", place,
                       key);
    return true;
}

bool token_node_get_char(json_t *node, const char *key, const char **out, size_t *n,
                         const char *place, struct err *err)
{
    if (!token_node_get_string(node, key, out, n, place, err))
        return false;
    if (*n == 0 || text_utf8_length(*out) != *n)
        return err_set(err, ERR_DATA, "%s: \"%s\" is \"%s\"; expected one character", place, key,
                       *out);
    return true;
}

bool token_node_get_pattern(json_t *node, const char **out, size_t *n, bool *is_regex,
                            const char *place, struct err *err)
{
    json_t *pattern = json_object_get(node, "pattern");
    const bool string = json_object_get(pattern, "String") != NULL;
    const bool regex = json_object_get(pattern, "Regex") != NULL;
    if (string == regex || json_object_size(pattern) != 1)
        return err_set(
            err, ERR_DATA,
            "%s: \"pattern\" is %s; expected {\"String\": \"...\"} or {\"Regex\": \"...\"}", place,
            pattern == NULL ? "missing" : "something else");
    char here[NODE_PLACE_SIZE];
    snprintf(here, sizeof here, "%s.pattern", place);
    if (!token_node_get_string(pattern, string ? "String" : "Regex", out, n, here, err))
        return false;
    if (*n == 0)
        return err_set(err, ERR_DATA, "%s: is empty; a pattern must match something", here);
    *is_regex = regex;
    return true;
}

static bool metaspace_prefix(json_t *node, enum metaspace_prefix *out, const char *place,
                             struct err *err)
{
    const char *scheme = NULL;
    bool add_prefix_space = true;
    if (!json_get_string(node, "prepend_scheme", false, &scheme, place, err) ||
        !json_get_bool(node, "add_prefix_space", false, &add_prefix_space, place, err))
        return false;
    static const char *const names[] = { "never", "first", "always" };
    *out = add_prefix_space ? METASPACE_ALWAYS : METASPACE_NEVER;
    if (scheme == NULL)
        return true;
    for (int i = 0; i < 3; i++) {
        if (strcmp(scheme, names[i]) != 0)
            continue;
        *out = (enum metaspace_prefix)i;
        if (!add_prefix_space && *out != METASPACE_NEVER)
            return err_set(err, ERR_DATA,
                           "%s: \"add_prefix_space\" is false but \"prepend_scheme\" is \"%s\"",
                           place, scheme);
        return true;
    }
    return err_set(err, ERR_DATA,
                   "%s: \"prepend_scheme\" is \"%s\"; expected \"never\", \"first\" or \"always\"",
                   place, scheme);
}

bool token_node_get_metaspace(json_t *node, struct metaspace *out, const char *place,
                              struct err *err)
{
    static const char *const keys[] = {
        "type", "replacement", "prepend_scheme", "add_prefix_space", "str_rep", "split", NULL
    };
    *out = (struct metaspace){ .split = true };
    return token_node_check_keys(node, keys, place, err) &&
           token_node_get_char(node, "replacement", &out->replacement, &out->replacement_n, place,
                               err) &&
           metaspace_prefix(node, &out->prefix, place, err) &&
           json_get_bool(node, "split", false, &out->split, place, err);
}

bool token_node_refuse(const char *type, const char *what, const char *known, const char *place,
                       struct err *err)
{
    return err_set(err, ERR_DATA,
                   "%s: \"type\" is \"%s\", which is not supported as %s; expected %s", place, type,
                   what, known);
}

static bool each(json_t *node, const char *key, token_node_visit *add, void *into,
                 const char *place, int depth, struct err *err)
{
    const char *type = token_node_type(node, place, err);
    if (type == NULL)
        return false;
    if (strcmp(type, "Sequence") != 0)
        return add(into, node, type, place, err);
    if (depth == NODE_MAX_DEPTH)
        return err_set(err, ERR_DATA, "%s: sequences are nested more than %d deep", place,
                       NODE_MAX_DEPTH);
    const char *const keys[] = { "type", key, NULL };
    if (!token_node_check_keys(node, keys, place, err))
        return false;
    json_t *members = json_object_get(node, key);
    if (!json_is_array(members))
        return err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected a list", place, key,
                       members == NULL ? "missing" : json_type_name(members));
    for (size_t i = 0; i < json_array_size(members); i++) {
        char here[NODE_PLACE_SIZE];
        /* A place too long for its buffer loses its tail, never the member. */
        snprintf(here, sizeof here, "%.200s.%s[%zu]", place, key, i);
        if (!each(json_array_get(members, i), key, add, into, here, depth + 1, err))
            return false;
    }
    return true;
}

bool token_node_each(json_t *node, const char *key, token_node_visit *add, void *into,
                     const char *place, struct err *err)
{
    if (node == NULL || json_is_null(node))
        return true;
    return each(node, key, add, into, place, 0, err);
}
