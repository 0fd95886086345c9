/* The documents of one pass laid end to end: what the model walks.
 *
 * Row t is token ids[t] with target targets[t] (the label of the token behind it, or NO_TARGET);
 * document d is rows doc_start[d] .. doc_start[d + 1]. The buffers are the caller's, sized once by
 * the plan: filling a stream allocates nothing (datasets/batch.h: stream_fill).
 */
#ifndef DATASETS_STREAM_H
#define DATASETS_STREAM_H

#include <stdint.h>

struct stream {
    int64_t n_tok, n_doc;
    int64_t n_target;       /* targets other than NO_TARGET */
    int32_t *ids, *targets; /* (n_tok) */
    int64_t *doc_start;     /* (n_doc + 1) */
    /* Index in the step of the first token: keys of dropout masks count tokens of the step, so that
     * they do not depend on how it was cut into passes. */
    int64_t first_index;
    int64_t tok_cap, doc_cap; /* room: tok_cap ids and targets, doc_cap + 1 starts */
};

#endif
