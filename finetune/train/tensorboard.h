/* Event files for TensorBoard, written without it: output_dir/runs/events.out.tfevents.*.
 *
 *     struct tensorboard tb = { 0 };
 *     ok = tensorboard_open(&tb, "out", -1, err) &&
 *          tensorboard_text(&tb, "recipe", 0, yaml, err);
 *     ok = tensorboard_scalar(&tb, "train/loss", step, loss, err);   // as often as there is one
 *     ok = tensorboard_close(&tb, err);
 *
 * What is written waits in memory until there is much of it or five seconds went by (seen at the
 * next call), or for tensorboard_flush, and dies with a process that is killed: flush before a
 * checkpoint of the step; after each step costs little. It goes to the end of the file in one
 * piece, so that a killed run leaves whole records, or one torn at the end, where readers stop.
 */
#ifndef FINETUNE_TRAIN_TENSORBOARD_H
#define FINETUNE_TRAIN_TENSORBOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "kernels/core/text.h"

struct tensorboard {
    char *path; /* of the file; NULL: closed */
    int fd;
    struct text out; /* records that wait */
    double flushed;  /* when, by a clock of its own */
};

/* A new file; no other is changed, and readers take it as the latest. What the folder's other files
 * hold of steps after resumed_step is no longer shown; -1 (a new run): nothing of them is. */
bool tensorboard_open(struct tensorboard *tb, const char *output_dir, int64_t resumed_step,
                      struct err *err);

/* Not a number and infinities are written as they are. */
bool tensorboard_scalar(struct tensorboard *tb, const char *tag, int64_t step, double value,
                        struct err *err);

/* Shown as it is: as a block of code, for the page reads Markdown. Of one tag and step the last
 * text alone is shown. */
bool tensorboard_text(struct tensorboard *tb, const char *tag, int64_t step, const char *text,
                      struct err *err);

/* Into the file. What could not be written stays and is tried again. */
bool tensorboard_flush(struct tensorboard *tb, struct err *err);

/* Flushes and closes; nothing when closed already. After an error it is closed all the same. */
bool tensorboard_close(struct tensorboard *tb, struct err *err);

#endif
