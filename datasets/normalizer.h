/* The "normalizer" of tokenizer.json, and text that remembers where each byte came from.
 *
 * Nodes: Prepend (a string in front of a text that is not empty) and Replace (of a literal string),
 * in sequence. Unicode normal forms and the like are refused by name.
 */
#ifndef DATASETS_NORMALIZER_H
#define DATASETS_NORMALIZER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

/* bytes[i] stands for the character at byte at[i] of the original text. */
struct aligned_view {
    const char *bytes;
    const int32_t *at;
    size_t n;
};

struct aligned_text {
    char *bytes;
    int32_t *at;
    size_t n, cap;
};

void aligned_free(struct aligned_text *t);
struct aligned_view aligned_view(const struct aligned_text *t, size_t begin, size_t end);

/* t becomes text[begin..end), each byte standing for its character. False: out of memory. */
bool aligned_set(struct aligned_text *t, const char *text, size_t begin, size_t end);

/* t becomes `in` with `prefix` in front of it, standing for the first character (in.n > 0). */
bool aligned_prepend(struct aligned_text *t, struct aligned_view in, const char *prefix,
                     size_t prefix_n);

/* t becomes `in` with every occurrence of the pattern replaced, leftmost first; what replaces it
 * stands for the last character of the occurrence. */
bool aligned_replace(struct aligned_text *t, struct aligned_view in, const char *pattern,
                     size_t pattern_n, const char *content, size_t content_n);

struct normalizer_node {
    char *pattern; /* NULL: Prepend */
    char *content;
    size_t pattern_n, content_n;
};

struct normalizer {
    struct normalizer_node *nodes;
    size_t n;
};

/* Reads the node (NULL or null: none). On failure free it as after success. */
bool normalizer_init(struct normalizer *norm, json_t *node, struct err *err);
void normalizer_free(struct normalizer *norm);

/* Normalises t->text in place; `spare` is room that it may swap with t. False: out of memory. */
bool normalizer_apply(const struct normalizer *norm, struct aligned_text *t,
                      struct aligned_text *spare);

#endif
