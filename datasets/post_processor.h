/* The "post_processor" of tokenizer.json: the tokens that go in front of a text and behind it.
 *
 * Nodes: TemplateProcessing (its "single" template; pairs of texts do not occur here) and sequences
 * of them, each of which wraps what the one before made.
 */
#ifndef DATASETS_POST_PROCESSOR_H
#define DATASETS_POST_PROCESSOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

enum { POST_PROCESSOR_MAX = 64 };

struct post_processor {
    int32_t front[POST_PROCESSOR_MAX], back[POST_PROCESSOR_MAX];
    size_t n_front, n_back;
};

/* Reads the node (NULL or null: nothing is added). Whether the ids exist is for the caller to
 * check. */
bool post_processor_init(struct post_processor *post, json_t *node, struct err *err);

#endif
