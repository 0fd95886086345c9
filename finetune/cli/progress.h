/* What a training run shows: one line rewritten on a terminal, plain lines elsewhere. All on
 * stderr, so that a closed or full stdout is no failure of a run. */
#ifndef FINETUNE_CLI_PROGRESS_H
#define FINETUNE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "finetune/train/metrics.h"

struct progress {
    bool terminal, line_open;
    int64_t logging_steps;
    double seconds; /* spent in steps so far */
};

void progress_init(struct progress *p, int64_t logging_steps);
void progress_step(void *progress, const struct train_step *s);
void progress_eval(void *progress, const struct train_eval *e);

/* Ends a line that is being rewritten. */
void progress_end(struct progress *p);

#endif
