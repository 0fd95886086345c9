/* The "pre_tokenizer" of tokenizer.json: cuts normalised text into the words that the model merges
 * within.
 *
 * Nodes: Metaspace (spaces become a visible character, and a word begins at each), Split (on a
 * pattern), Digits, and sequences of them. Each node works on each word of the node before it.
 */
#ifndef DATASETS_PRE_TOKENIZER_H
#define DATASETS_PRE_TOKENIZER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/normalizer.h"
#include "datasets/pattern.h"
#include "datasets/token_node.h"
#include "kernels/core/err.h"

/* What becomes of the text that matches: for "a-b" split on "-". */
enum split_behavior {
    SPLIT_REMOVED,              /* a, b */
    SPLIT_ISOLATED,             /* a, -, b */
    SPLIT_MERGED_WITH_PREVIOUS, /* a-, b */
    SPLIT_MERGED_WITH_NEXT,     /* a, -b */
    SPLIT_CONTIGUOUS,           /* as isolated, but neighbouring matches are one */
    SPLIT_NONE,                 /* one word: a Metaspace that does not split */
};

struct pre_tokenizer_node {
    struct pattern pattern;
    enum split_behavior behavior;
    bool invert;       /* what does not match counts as the match */
    char *replacement; /* Metaspace's character; NULL for the others */
    size_t replacement_n;
    enum metaspace_prefix prefix;
};

struct pre_tokenizer {
    struct pre_tokenizer_node *nodes;
    size_t n;
};

/* Reads the node (NULL or null: none). On failure free it as after success. */
bool pre_tokenizer_init(struct pre_tokenizer *pre, json_t *node, struct err *err);
void pre_tokenizer_free(struct pre_tokenizer *pre);

/* Room for one encode: buffers per node, kept between words. */
struct pre_tokenizer_scratch {
    struct pre_tokenizer_level *levels;
    int64_t steps; /* left for regular expressions */
};

bool pre_tokenizer_scratch_init(struct pre_tokenizer_scratch *s, const struct pre_tokenizer *pre);
void pre_tokenizer_scratch_free(struct pre_tokenizer_scratch *s, const struct pre_tokenizer *pre);

/* Calls `word` for each word of the text, in order; none is empty. */
typedef bool pre_tokenizer_word(void *into, struct aligned_view word, struct err *err);

struct pre_tokenizer_run {
    const struct pre_tokenizer *pre;
    struct pre_tokenizer_scratch *scratch;
    pre_tokenizer_word *word;
    void *into;
};

bool pre_tokenizer_apply(const struct pre_tokenizer_run *run, struct aligned_view text,
                         struct err *err);

#endif
