/* One run of a sweep in a process of its own, with signals passed on to it.
 *
 *     struct each_signals signals = EACH_SIGNALS_NONE;
 *     ok = each_signals_open(&signals, err);
 *     struct each_end end = { 0 };
 *     ok = each_child_run(&recipe, &flags, &signals, lock, &end, err);
 *     ... end.code, end.messages ...
 *     each_end_free(&end);
 *     each_signals_close(&signals);
 */
#ifndef FINETUNE_CLI_EACH_CHILD_H
#define FINETUNE_CLI_EACH_CHILD_H

#include <signal.h>
#include <stdbool.h>

#include "finetune/cli/train_run.h"
#include "kernels/core/err.h"

/* TERM, INT, HUP, USR1, USR2 and CHLD, blocked and read from a descriptor instead. */
struct each_signals {
    int fd; /* -1: closed */
    sigset_t before;
    bool stop; /* one came that asks to stop */
};
#define EACH_SIGNALS_NONE ((struct each_signals){ .fd = -1 })

bool each_signals_open(struct each_signals *s, struct err *err);
void each_signals_close(struct each_signals *s);

/* Takes what has come without waiting; true when it asks to stop. */
bool each_signals_stop(struct each_signals *s);

/* How a run ended. */
struct each_end {
    int code;       /* its exit code, 128 + n when signal n ended it */
    char *messages; /* of its failure, a line each; NULL: it succeeded, or said nothing */
};

/* Runs train_run in a child. What it prints goes on to our stderr. `close_fd` (-1: none) is closed
 * in the child. False when it could not be run at all. */
bool each_child_run(const struct recipe *recipe, const struct train_flags *flags,
                    struct each_signals *signals, int close_fd, struct each_end *end,
                    struct err *err);
void each_end_free(struct each_end *end);

#endif
