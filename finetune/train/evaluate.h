/* Loss of documents under a model, forward only. */
#ifndef FINETUNE_TRAIN_EVALUATE_H
#define FINETUNE_TRAIN_EVALUATE_H

#include <signal.h>

#include "datasets/document.h"
#include "finetune/model/engine.h"

struct evaluation {
    double loss_sum; /* of the targets' cross entropy */
    int64_t n_target, n_doc, n_tok;
    bool stopped; /* the stop flag was raised: the sums are partial */
};

/* Called for every document in the order given: the log-probabilities of its targets, in order. */
typedef void evaluate_document(void *context, const struct document_set *set, int64_t doc,
                               const real *logprob, int64_t n_target);

struct evaluate_args {
    const struct document_set *set;
    const int64_t *docs; /* NULL: all, in order */
    int64_t n_doc;
    evaluate_document *each; /* or NULL */
    void *context;
    const volatile sig_atomic_t *stop; /* or NULL: polled at every pass */
};

/* Passes are those of the engine's plan, which must hold the longest document. Documents without
 * tokens are reported, not run. */
struct evaluation evaluate(struct engine *e, const struct evaluate_args *args);

#endif
