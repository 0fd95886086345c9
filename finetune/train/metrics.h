/* What a run logs: output_dir/metrics.jsonl, one object a line, and the same for TensorBoard.
 *
 * A line is appended by one write, and a run that goes on first cuts the log to the length that its
 * checkpoint knows: each step is there once.
 */
#ifndef FINETUNE_TRAIN_METRICS_H
#define FINETUNE_TRAIN_METRICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "finetune/train/tensorboard.h"
#include "kernels/core/err.h"
#include "kernels/core/profile.h"

#define METRICS_NAME "metrics.jsonl"

struct train_step {
    int64_t step, n_step; /* from 1; of the run */
    double epoch;         /* done after this step */
    double loss, aux_loss, learning_rate, grad_norm;
    int64_t tokens, trained_tokens, n_doc;
    double seconds, tokens_per_second;
    double blocks[PROFILE_N]; /* seconds, of `seconds` */
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

/* A text that the model went on with. */
struct train_sample {
    int64_t step, index, n_token;    /* index: of the prompt */
    const char *prompt, *text, *end; /* end: "eos", "length" */
};

struct metrics {
    char *path; /* NULL: closed */
    int fd;
    int64_t bytes; /* of the log */
    struct tensorboard tensorboard;
};

/* resumed_step -1: starts both anew; else the log goes on after its first `bytes` bytes. */
bool metrics_open(struct metrics *m, const char *output_dir, int64_t resumed_step, int64_t bytes,
                  struct err *err);
bool metrics_step(struct metrics *m, const struct train_step *s, struct err *err);
bool metrics_eval(struct metrics *m, const struct train_eval *e, struct err *err);
bool metrics_sample(struct metrics *m, const struct train_sample *s, struct err *err);

/* "started", "resumed", "stopped", "finished", "early_stop"; with the time. */
bool metrics_event(struct metrics *m, int64_t step, const char *event, const char *text,
                   struct err *err);

/* After an error, too, nothing is left open. */
bool metrics_close(struct metrics *m, struct err *err);

#endif
