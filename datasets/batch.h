/* Which documents make a step: order, steps, epochs, passes.
 *
 *     struct batch_split split = { 0 };
 *     struct batcher b = { 0 };
 *     ok = batch_split_validation(&set, config, &split, err) &&
 *          batcher_init(&b, &set, split.train, split.n_train, config, err) &&
 *          batcher_total_steps(&b, num_epochs, max_steps, &n_step, err);
 *     for (int64_t s = 0; s < n_step; s++) {
 *         const struct batch_step step = batcher_step(&b, s);
 *         int64_t index = 0;
 *         for (int64_t from = 0, to; from < step.n_doc; from = to) {
 *             to = batch_pass_end(&set, step.docs, step.n_doc, from, max_tokens);
 *             stream_fill(&stream, &set, step.docs + from, to - from, index);
 *             index += stream.n_tok;
 *         }
 *     }
 *
 * The order of an epoch is a pure function of (seed, epoch, index), and a step of its number:
 * nothing is to be saved but that number. A step is micro_batch_size * gradient_accumulation_steps
 * documents, or with sample_packing as many documents, in order, as fit that many times
 * sequence_len tokens. It never spans epochs: the last step of one may be short.
 */
#ifndef DATASETS_BATCH_H
#define DATASETS_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "datasets/config.h"
#include "datasets/document.h"
#include "datasets/stream.h"
#include "kernels/core/err.h"

/* ---- training and validation ---- */

/* Indices of documents, each in the order of the files. */
struct batch_split {
    int64_t *train, *validation;
    int64_t n_train, n_validation;
};

/* A seeded choice of config->val_set_size (a share, rounded up, or a count) of the records: pieces
 * of one long record stay on one side. An error when it leaves nothing to train on. */
bool batch_split_validation(const struct document_set *set, const struct data_config *config,
                            struct batch_split *out, struct err *err);
void batch_split_free(struct batch_split *split);

/* ---- steps ---- */

struct batcher {
    const struct document_set *set;
    const int64_t *docs; /* to train on; borrowed */
    int64_t n_doc;
    bool packed, shuffle;
    uint64_t seed;
    int64_t step_docs;   /* documents of a step, when not packed */
    int64_t step_tokens; /* bound on a step's tokens, when packed */
    /* The epoch at hand. */
    int64_t epoch;      /* -1: none yet */
    int64_t first_step; /* number of its first step */
    int64_t n_step;
    int64_t *order;      /* (n_doc): documents in its order */
    int64_t *step_start; /* (n_step + 1; room for n_doc + 1): offsets in order */
};

struct batch_step {
    const int64_t *docs; /* until the next call with the batcher */
    int64_t n_doc, n_tok, n_target;
    int64_t epoch, index, n_step; /* step `index` of the n_step of its epoch */
};

/* `docs` and `set` must outlive the batcher. An error when there are none. */
bool batcher_init(struct batcher *b, const struct document_set *set, const int64_t *docs,
                  int64_t n_doc, const struct data_config *config, struct err *err);
void batcher_free(struct batcher *b);

/* Step `number` (from 0, any order; the next one is cheapest). */
struct batch_step batcher_step(struct batcher *b, int64_t number);

/* Steps of a run: max_steps when it is above 0, else those of num_epochs, the last part of an epoch
 * rounded up. Without packing that is Hugging Face's ceil(num_epochs * steps of an epoch). */
bool batcher_total_steps(struct batcher *b, double num_epochs, int64_t max_steps, int64_t *out,
                         struct err *err);

/* No step of any epoch has more tokens or documents than this, and no document is longer. */
struct batch_bounds {
    int64_t n_tok, n_doc, longest;
};

struct batch_bounds batcher_bounds(const struct batcher *b);

/* ---- passes ---- */

/* End of the pass that begins with docs[from]: whole documents of at most max_tokens tokens
 * together; one that is longer makes a pass of its own. */
int64_t batch_pass_end(const struct document_set *set, const int64_t *docs, int64_t n_doc,
                       int64_t from, int64_t max_tokens);

/* All passes of a step: pass p is docs[pass_start[p] .. pass_start[p + 1]). Returns their number;
 * pass_start has room for n_doc + 1, or is NULL. */
int64_t batch_split_passes(const struct document_set *set, const int64_t *docs, int64_t n_doc,
                           int64_t max_tokens, int64_t *pass_start);

/* Lays documents end to end in the stream's buffers, which must have room for them. */
void stream_fill(struct stream *s, const struct document_set *set, const int64_t *docs,
                 int64_t n_doc, int64_t first_index);

#endif
