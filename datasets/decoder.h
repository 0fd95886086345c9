/* The "decoder" of tokenizer.json: pieces to text, as a pipeline of stages.
 *
 * The library hands a list of strings from node to node. Here each node is a stage that is fed the
 * pieces as they come and passes on what is certain, so that decoding a whole list and streaming a
 * generation are one implementation. Nodes: Replace (of a literal string), ByteFallback, Fuse,
 * Strip, Metaspace, sequences of them; without a decoder the pieces are joined by spaces.
 */
#ifndef DATASETS_DECODER_H
#define DATASETS_DECODER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "kernels/core/text.h"

enum decoder_kind {
    DECODER_REPLACE,
    DECODER_BYTE_FALLBACK,
    DECODER_FUSE,
    DECODER_STRIP,
    DECODER_METASPACE,
    DECODER_JOIN,
};

struct decoder_node {
    enum decoder_kind kind;
    char *pattern, *content; /* Replace; Strip and Metaspace: the character is the pattern */
    size_t pattern_n, content_n;
    int64_t start, stop; /* Strip: how many characters at each end at most */
    bool drop_first;     /* Metaspace: the first piece loses its replacements */
};

struct decoder {
    struct decoder_node *nodes;
    size_t n;
};

/* Reads the node (NULL or null: pieces joined by spaces). On failure free it as after success. */
bool decoder_init(struct decoder *decoder, json_t *node, struct err *err);
void decoder_free(struct decoder *decoder);

/* What one pass over a list of pieces remembers, per stage. */
struct decoder_state *decoder_begin(const struct decoder *decoder);
void decoder_end(const struct decoder *decoder, struct decoder_state *states);

/* Feeds a piece, or the end of the list; appends the text that is certain by now. Whole characters
 * in, whole characters out. False: out of memory. */
bool decoder_push(const struct decoder *decoder, struct decoder_state *states, const char *piece,
                  struct text *out);
bool decoder_finish(const struct decoder *decoder, struct decoder_state *states, struct text *out);

#endif
