#include "datasets/pre_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/json.h"
#include "kernels/core/text.h"

/* What regular expressions may take for one text: steps of datasets/pattern.c. An expression as
 * tokenizers have them takes about ten a byte. */
enum { STEPS = 5000000, STEPS_PER_BYTE = 64 };

/* A stretch of a text; a match, or what is between matches. */
struct span {
    uint32_t begin, end;
    bool match;
};

struct pre_tokenizer_level {
    struct span *spans;
    size_t n, cap;
    struct aligned_text text, spare;
};

/* --- reading --- */

static bool read_behavior(json_t *json, enum split_behavior *out, const char *place,
                          struct err *err)
{
    static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious",
                                         "MergedWithNext", "Contiguous" };
    const char *name = NULL;
    if (!json_get_string(json, "behavior", true, &name, place, err))
        return false;
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum split_behavior)i;
            return true;
        }
    }
    return err_set(err, ERR_DATA,
                   "%s: \"behavior\" is \"%s\"; expected Removed, Isolated, MergedWithPrevious, "
                   "MergedWithNext or Contiguous",
                   place, name);
}

static bool read_split(struct pre_tokenizer_node *node, json_t *json, const char *place,
                       struct err *err)
{
    static const char *const keys[] = { "type", "pattern", "behavior", "invert", NULL };
    const char *pattern = NULL;
    size_t n = 0;
    bool is_regex = false;
    if (!token_node_check_keys(json, keys, place, err) ||
        !token_node_get_pattern(json, &pattern, &n, &is_regex, place, err) ||
        !read_behavior(json, &node->behavior, place, err) ||
        !json_get_bool(json, "invert", true, &node->invert, place, err))
        return false;
    return is_regex ? pattern_init_regex(&node->pattern, pattern, place, err)
                    : pattern_init_literal(&node->pattern, pattern, n, err);
}

static bool read_digits(struct pre_tokenizer_node *node, json_t *json, const char *place,
                        struct err *err)
{
    static const char *const keys[] = { "type", "individual_digits", NULL };
    bool individual = false;
    if (!token_node_check_keys(json, keys, place, err) ||
        !json_get_bool(json, "individual_digits", true, &individual, place, err))
        return false;
    node->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return pattern_init_class(&node->pattern, "\\p{N}", place, err);
}

static bool read_metaspace(struct pre_tokenizer_node *node, json_t *json, const char *place,
                           struct err *err)
{
    struct metaspace m;
    if (!token_node_get_metaspace(json, &m, place, err))
        return false;
    node->behavior = m.split ? SPLIT_MERGED_WITH_NEXT : SPLIT_NONE;
    node->prefix = m.prefix;
    node->replacement = text_copy_n(m.replacement, m.replacement_n);
    node->replacement_n = m.replacement_n;
    return node->replacement == NULL
               ? err_no_memory(err, place)
               : pattern_init_literal(&node->pattern, m.replacement, m.replacement_n, err);
}

static bool add_node(void *into, json_t *json, const char *type, const char *place, struct err *err)
{
    struct pre_tokenizer *pre = into;
    if (pre->n == NODE_MAX)
        return err_set(err, ERR_DATA, "%s: more than %d nodes", place, NODE_MAX);
    struct pre_tokenizer_node *node = &pre->nodes[pre->n++];
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(node, json, place, err);
    if (strcmp(type, "Split") == 0)
        return read_split(node, json, place, err);
    if (strcmp(type, "Digits") == 0)
        return read_digits(node, json, place, err);
    return token_node_refuse(type, "a pre-tokenizer", "Metaspace, Split, Digits or Sequence", place,
                             err);
}

bool pre_tokenizer_init(struct pre_tokenizer *pre, json_t *node, struct err *err)
{
    *pre = (struct pre_tokenizer){ 0 };
    pre->nodes = calloc(NODE_MAX, sizeof *pre->nodes);
    if (pre->nodes == NULL)
        return err_no_memory(err, "pre_tokenizer");
    return token_node_each(node, "pretokenizers", add_node, pre, "pre_tokenizer", err);
}

void pre_tokenizer_free(struct pre_tokenizer *pre)
{
    for (size_t i = 0; i < pre->n; i++) {
        pattern_free(&pre->nodes[i].pattern);
        free(pre->nodes[i].replacement);
    }
    free(pre->nodes);
    *pre = (struct pre_tokenizer){ 0 };
}

bool pre_tokenizer_scratch_init(struct pre_tokenizer_scratch *s, const struct pre_tokenizer *pre)
{
    s->levels = calloc(pre->n + 1, sizeof *s->levels);
    s->steps = STEPS;
    return s->levels != NULL;
}

void pre_tokenizer_scratch_free(struct pre_tokenizer_scratch *s, const struct pre_tokenizer *pre)
{
    for (size_t i = 0; s->levels != NULL && i < pre->n; i++) {
        free(s->levels[i].spans);
        aligned_free(&s->levels[i].text);
        aligned_free(&s->levels[i].spare);
    }
    free(s->levels);
    s->levels = NULL;
}

/* --- running --- */

static bool push_span(struct pre_tokenizer_level *level, size_t begin, size_t end, bool match)
{
    if (level->n == level->cap) {
        size_t cap = 0, bytes = 0;
        if (!size_add(level->cap, level->cap / 2 + 64, &cap) ||
            !size_mul(cap, sizeof *level->spans, &bytes))
            return false;
        struct span *spans = realloc(level->spans, bytes);
        if (spans == NULL)
            return false;
        level->spans = spans;
        level->cap = cap;
    }
    level->spans[level->n++] =
        (struct span){ .begin = (uint32_t)begin, .end = (uint32_t)end, .match = match };
    return true;
}

/* Cuts the text at every match: the spans cover it. */
static bool find_spans(const struct pre_tokenizer_node *node, struct aligned_view text,
                       struct pre_tokenizer_level *level, int64_t *steps, struct err *err)
{
    level->n = 0;
    bool ok = true;
    for (size_t from = 0; ok && from < text.n;) {
        struct pattern_match m = { .begin = text.n, .end = text.n };
        if (node->behavior != SPLIT_NONE &&
            !pattern_find(&node->pattern, text.bytes, text.n, from, steps, &m, err))
            return false;
        if (!m.found)
            m.begin = m.end = text.n;
        if (m.begin > from)
            ok = push_span(level, from, m.begin, node->invert);
        if (ok && m.found)
            ok = push_span(level, m.begin, m.end, !node->invert);
        from = m.end;
    }
    return ok || err_no_memory(err, "words");
}

/* Joins spans into words, in place: their matches are as the behaviour wants them, and `match` then
 * says which words to leave out. */
static void join_spans(enum split_behavior behavior, struct pre_tokenizer_level *level)
{
    struct span *spans = level->spans;
    size_t n = 0;
    bool previous = false; /* whether the span before was a match */
    for (size_t i = 0; i < level->n; i++) {
        const struct span s = spans[i];
        const bool join = n > 0 && (behavior == SPLIT_MERGED_WITH_PREVIOUS ? s.match && !previous
                                    : behavior == SPLIT_CONTIGUOUS         ? s.match == previous
                                                                           : false);
        if (join)
            spans[n - 1].end = s.end;
        else
            spans[n++] = (struct span){ s.begin, s.end, behavior == SPLIT_REMOVED && s.match };
        previous = s.match;
    }
    level->n = n;
}

/* A match begins the word that follows, unless that is a match too. From the back, as "-" of "--a"
 * does. */
static void join_with_next(struct pre_tokenizer_level *level)
{
    struct span *spans = level->spans;
    size_t first = level->n; /* the words so far are spans[first..n) */
    bool next = false;
    for (size_t i = level->n; i-- > 0;) {
        const struct span s = spans[i];
        if (s.match && !next && first < level->n)
            spans[first].begin = s.begin;
        else
            spans[--first] = (struct span){ s.begin, s.end, false };
        next = s.match;
    }
    level->n -= first;
    memmove(spans, spans + first, level->n * sizeof *spans);
}

/* Metaspace's own change of the text: spaces become the replacement, and one may come in front. */
static bool replace_spaces(const struct pre_tokenizer_node *node, struct aligned_view *text,
                           struct pre_tokenizer_level *level)
{
    if (!aligned_replace(&level->text, *text, " ", 1, node->replacement, node->replacement_n))
        return false;
    *text = aligned_view(&level->text, 0, level->text.n);
    const bool has = text->n >= node->replacement_n &&
                     memcmp(text->bytes, node->replacement, node->replacement_n) == 0;
    const bool wants =
        node->prefix == METASPACE_ALWAYS || (node->prefix == METASPACE_FIRST && text->at[0] == 0);
    if (has || !wants)
        return true;
    if (!aligned_prepend(&level->spare, *text, node->replacement, node->replacement_n))
        return false;
    *text = aligned_view(&level->spare, 0, level->spare.n);
    return true;
}

/* Runs the nodes from k on; the recursion is as deep as there are nodes. */
static bool apply_from(const struct pre_tokenizer_run *run, size_t k, struct aligned_view text,
                       struct err *err)
{
    if (text.n == 0)
        return true;
    if (k == run->pre->n)
        return run->word(run->into, text, err);
    const struct pre_tokenizer_node *node = &run->pre->nodes[k];
    struct pre_tokenizer_level *level = &run->scratch->levels[k];
    if (node->replacement != NULL && !replace_spaces(node, &text, level))
        return err_no_memory(err, "words");
    if (!find_spans(node, text, level, &run->scratch->steps, err))
        return false;
    if (node->behavior == SPLIT_MERGED_WITH_NEXT)
        join_with_next(level);
    else
        join_spans(node->behavior, level);
    for (size_t i = 0; i < level->n; i++) {
        const struct span s = level->spans[i];
        const struct aligned_view word = { text.bytes + s.begin, text.at + s.begin,
                                           s.end - s.begin };
        if (!s.match && !apply_from(run, k + 1, word, err))
            return false;
    }
    return true;
}

bool pre_tokenizer_apply(const struct pre_tokenizer_run *run, struct aligned_view text,
                         struct err *err)
{
    run->scratch->steps += (int64_t)text.n * STEPS_PER_BYTE;
    return apply_from(run, 0, text, err);
}
