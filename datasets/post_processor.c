#include "datasets/post_processor.h"

#include <stdio.h>
#include <string.h>

#include "datasets/bpe.h"
#include "datasets/token_node.h"
#include "kernels/core/json.h"

/* The "ids" of special_tokens[name]; NULL and an error when the template cannot name it. */
static json_t *special_ids(json_t *json, const char *name, const char *place, struct err *err)
{
    json_t *ids =
        json_object_get(json_object_get(json_object_get(json, "special_tokens"), name), "ids");
    bool ok = json_is_array(ids);
    for (size_t i = 0; ok && i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        ok = json_is_integer(id) && json_integer_value(id) >= 0 &&
             json_integer_value(id) < BPE_ID_LIMIT;
    }
    if (!ok)
        err_set(err, ERR_DATA, "%s: \"%s\" has no list of ids in \"special_tokens\"", place, name);
    return ok ? ids : NULL;
}

static bool add_id(int32_t *ids, size_t *n, json_int_t id, const char *place, struct err *err)
{
    if (*n == POST_PROCESSOR_MAX)
        return err_set(err, ERR_DATA, "%s: adds more than %d tokens", place, POST_PROCESSOR_MAX);
    ids[(*n)++] = (int32_t)id;
    return true;
}

/* One item of the template: {"Sequence": {"id": "A"}} or {"SpecialToken": {"id": name}}. */
static bool read_item(json_t *json, json_t *item, bool *seen, struct post_processor *post,
                      const char *place, struct err *err)
{
    json_t *sequence = json_object_get(item, "Sequence"),
           *special = json_object_get(item, "SpecialToken");
    const char *name = NULL;
    if (json_object_size(item) != 1 || (sequence == NULL) == (special == NULL))
        return err_set(err, ERR_DATA,
                       "%s: is something else than {\"Sequence\": ...} or {\"SpecialToken\": ...}",
                       place);
    if (!json_get_string(sequence != NULL ? sequence : special, "id", true, &name, place, err))
        return false;
    if (sequence != NULL) {
        const bool first = !*seen;
        *seen = true;
        return (first && strcmp(name, "A") == 0) ||
               err_set(err, ERR_DATA,
                       "%s: a template for one text must have the sequence \"A\" once", place);
    }
    json_t *ids = special_ids(json, name, place, err);
    if (ids == NULL)
        return false;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!add_id(*seen ? post->back : post->front, *seen ? &post->n_back : &post->n_front, id,
                    place, err))
            return false;
    }
    return true;
}

/* What the node adds goes around what the nodes before it added. */
static bool wrap(struct post_processor *post, const struct post_processor *node, const char *place,
                 struct err *err)
{
    struct post_processor all = *node;
    for (size_t i = 0; i < post->n_front; i++) {
        if (!add_id(all.front, &all.n_front, post->front[i], place, err))
            return false;
    }
    for (size_t i = 0; i < node->n_back; i++) {
        if (!add_id(post->back, &post->n_back, node->back[i], place, err))
            return false;
    }
    memcpy(post->front, all.front, sizeof post->front);
    post->n_front = all.n_front;
    return true;
}

static bool add_node(void *into, json_t *json, const char *type, const char *place, struct err *err)
{
    static const char *const keys[] = { "type", "single", "pair", "special_tokens", NULL };
    if (strcmp(type, "TemplateProcessing") != 0)
        return token_node_refuse(type, "a post-processor", "TemplateProcessing or Sequence", place,
                                 err);
    if (!token_node_check_keys(json, keys, place, err))
        return false;
    json_t *single = json_object_get(json, "single");
    if (!json_is_array(single))
        return err_set(err, ERR_DATA, "%s: \"single\" is %s; expected a list", place,
                       single == NULL ? "missing" : json_type_name(single));
    struct post_processor node = { 0 };
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        char here[NODE_PLACE_SIZE];
        snprintf(here, sizeof here, "%s.single[%zu]", place, i);
        if (!read_item(json, json_array_get(single, i), &seen, &node, here, err))
            return false;
    }
    if (!seen)
        return err_set(err, ERR_DATA,
                       "%s.single: a template for one text must have the sequence \"A\" once",
                       place);
    return wrap(into, &node, place, err);
}

bool post_processor_init(struct post_processor *post, json_t *node, struct err *err)
{
    *post = (struct post_processor){ 0 };
    return token_node_each(node, "processors", add_node, post, "post_processor", err);
}
