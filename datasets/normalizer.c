#include "datasets/normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/pattern.h"
#include "datasets/token_node.h"
#include "kernels/core/text.h"

void aligned_free(struct aligned_text *t)
{
    free(t->bytes);
    free(t->at);
    *t = (struct aligned_text){ 0 };
}

struct aligned_view aligned_view(const struct aligned_text *t, size_t begin, size_t end)
{
    if (t->n == 0)
        return (struct aligned_view){ .bytes = "" };
    return (
        struct aligned_view){ .bytes = t->bytes + begin, .at = t->at + begin, .n = end - begin };
}

static bool aligned_reserve(struct aligned_text *t, size_t more)
{
    if (t->cap - t->n >= more)
        return true;
    size_t cap = 0, bytes = 0;
    if (!size_add(t->n, more, &cap) || !size_add(cap, cap / 2, &cap) ||
        !size_mul(cap, sizeof *t->at, &bytes))
        return false;
    char *b = realloc(t->bytes, cap);
    if (b == NULL)
        return false;
    t->bytes = b;
    int32_t *at = realloc(t->at, bytes);
    if (at == NULL)
        return false;
    t->at = at;
    t->cap = cap;
    return true;
}

bool aligned_set(struct aligned_text *t, const char *text, size_t begin, size_t end)
{
    t->n = 0;
    if (!aligned_reserve(t, end - begin))
        return false;
    for (size_t i = begin; i < end;) {
        const size_t next = i + text_utf8_length(text + i);
        for (size_t k = i; k < next; k++) {
            t->bytes[t->n] = text[k];
            t->at[t->n++] = (int32_t)i;
        }
        i = next;
    }
    return true;
}

static bool append_view(struct aligned_text *t, const char *bytes, const int32_t *at, size_t n)
{
    if (n == 0)
        return true;
    if (!aligned_reserve(t, n))
        return false;
    memcpy(t->bytes + t->n, bytes, n);
    memcpy(t->at + t->n, at, n * sizeof *at);
    t->n += n;
    return true;
}

static bool append_at(struct aligned_text *t, const char *bytes, size_t n, int32_t at)
{
    if (n == 0)
        return true;
    if (!aligned_reserve(t, n))
        return false;
    memcpy(t->bytes + t->n, bytes, n);
    for (size_t i = 0; i < n; i++)
        t->at[t->n + i] = at;
    t->n += n;
    return true;
}

bool aligned_prepend(struct aligned_text *t, struct aligned_view in, const char *prefix,
                     size_t prefix_n)
{
    t->n = 0;
    return append_at(t, prefix, prefix_n, in.at[0]) && append_view(t, in.bytes, in.at, in.n);
}

bool aligned_replace(struct aligned_text *t, struct aligned_view in, const char *pattern,
                     size_t pattern_n, const char *content, size_t content_n)
{
    t->n = 0;
    size_t done = 0;
    for (;;) {
        const char *hit = pattern_find_bytes(in.bytes + done, in.n - done, pattern, pattern_n);
        const size_t stop = hit == NULL ? in.n : (size_t)(hit - in.bytes);
        if (!append_view(t, in.bytes + done, in.at == NULL ? NULL : in.at + done, stop - done))
            return false;
        if (hit == NULL)
            return true;
        done = stop + pattern_n;
        if (!append_at(t, content, content_n, in.at[done - 1]))
            return false;
    }
}

static bool add_node(void *into, json_t *json, const char *type, const char *place, struct err *err)
{
    struct normalizer *norm = into;
    static const char *const prepend_keys[] = { "type", "prepend", NULL };
    static const char *const replace_keys[] = { "type", "pattern", "content", NULL };
    const bool prepend = strcmp(type, "Prepend") == 0;
    if (!prepend && strcmp(type, "Replace") != 0)
        return token_node_refuse(type, "a normalizer", "Prepend, Replace or Sequence", place, err);
    if (!token_node_check_keys(json, prepend ? prepend_keys : replace_keys, place, err))
        return false;

    const char *pattern = NULL, *content = NULL;
    size_t pattern_n = 0, content_n = 0;
    bool is_regex = false;
    if (!prepend && !token_node_get_pattern(json, &pattern, &pattern_n, &is_regex, place, err))
        return false;
    if (is_regex)
        return err_set(
            err, ERR_DATA,
            "%s.pattern: is a regular expression, which a normalizer cannot have here; expected "
            "{\"String\": \"...\"}",
            place);
    if (!token_node_get_string(json, prepend ? "prepend" : "content", &content, &content_n, place,
                               err))
        return false;
    if (norm->n == NODE_MAX)
        return err_set(err, ERR_DATA, "%s: more than %d nodes", place, NODE_MAX);

    struct normalizer_node node = { .pattern_n = pattern_n, .content_n = content_n };
    node.content = text_copy(content);
    node.pattern = prepend ? NULL : text_copy(pattern);
    norm->nodes[norm->n++] = node;
    return (node.content != NULL && (prepend || node.pattern != NULL)) || err_no_memory(err, place);
}

bool normalizer_init(struct normalizer *norm, json_t *node, struct err *err)
{
    *norm = (struct normalizer){ 0 };
    norm->nodes = calloc(NODE_MAX, sizeof *norm->nodes);
    if (norm->nodes == NULL)
        return err_no_memory(err, "normalizer");
    return token_node_each(node, "normalizers", add_node, norm, "normalizer", err);
}

void normalizer_free(struct normalizer *norm)
{
    for (size_t i = 0; i < norm->n; i++) {
        free(norm->nodes[i].pattern);
        free(norm->nodes[i].content);
    }
    free(norm->nodes);
    *norm = (struct normalizer){ 0 };
}

bool normalizer_apply(const struct normalizer *norm, struct aligned_text *t,
                      struct aligned_text *spare)
{
    for (size_t i = 0; i < norm->n && t->n > 0; i++) {
        const struct normalizer_node *node = &norm->nodes[i];
        const struct aligned_view in = aligned_view(t, 0, t->n);
        const bool ok = node->pattern == NULL
                            ? aligned_prepend(spare, in, node->content, node->content_n)
                            : aligned_replace(spare, in, node->pattern, node->pattern_n,
                                              node->content, node->content_n);
        if (!ok)
            return false;
        const struct aligned_text swap = *t;
        *t = *spare;
        *spare = swap;
    }
    return true;
}
