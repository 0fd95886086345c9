/* output_dir/metrics.jsonl: one object a step, one per evaluation. */
#ifndef FINETUNE_TRAIN_METRICS_H
#define FINETUNE_TRAIN_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/core/err.h"

struct train_step {
    int64_t step, n_step; /* from 1; of the run */
    double epoch;         /* done after this step */
    double loss, aux_loss, learning_rate, grad_norm;
    int64_t tokens, trained_tokens, n_doc;
    double seconds, tokens_per_second;
    size_t memory_bytes;
    bool balanced;      /* aux_loss is part of loss */
    bool applied;       /* false: a non-finite loss or gradient, the update was left out */
    const char *places; /* then: the documents of the step */
};

struct train_eval {
    int64_t step;
    double epoch, loss;
    int64_t tokens; /* targets */
    double seconds;
    bool best;
};

struct metrics {
    FILE *file;
    char *path;
};

/* Starts the file anew. */
bool metrics_open(struct metrics *m, const char *output_dir, struct err *err);
bool metrics_step(struct metrics *m, const struct train_step *s, struct err *err);
bool metrics_eval(struct metrics *m, const struct train_eval *e, struct err *err);
bool metrics_close(struct metrics *m, struct err *err);

#endif
