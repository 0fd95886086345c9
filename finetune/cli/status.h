/* Where a run stands, in numbers: what `jambatune status` shows of its history.
 *
 *     struct history h = { 0 };
 *     struct status s;
 *     ok = history_read(&h, dir, err) && status_of(&h, &s, err);
 *     ... s ...
 *     history_free(&h);
 */
#ifndef FINETUNE_CLI_STATUS_H
#define FINETUNE_CLI_STATUS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "finetune/train/history.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

/* Numbers that are not known are NaN. */
struct status {
    int64_t step, n_refused; /* done; not applied, for they were not finite */
    double percent, epoch, loss;
    double tokens_per_second, seconds_per_step; /* over the last STATUS_RECENT steps */
    double elapsed;                             /* seconds in steps and evaluations */
    double left;           /* of those that are to come, at the recent rate; 0: none are */
    double log_age;        /* seconds since the last line */
    int64_t checkpoint;    /* the newest, by its name; -1: none */
    double checkpoint_age; /* seconds */
};

enum { STATUS_RECENT = 20 };

bool status_of(const struct history *h, struct status *s, struct err *err);

/* As one JSON object; NULL: out of memory. */
json_t *status_json(const struct history *h, const struct status *s);

/* The losses of the last steps as a row of bars, at most `width` of them, each a mean of as many
 * steps as it takes to show the last ten times `width`; *n_step: of how many steps. A bar whose
 * losses are not finite is a '!'. utf8: eighths of a block, else letters. */
void status_sparkline(const struct history *h, int width, bool utf8, struct text *out,
                      int64_t *n_step);

#endif
