/* A run's folder, read back: run.json, metrics.jsonl, and whether the run is alive. For status,
 * report and sweeps; the run itself never reads it.
 *
 *     struct history h = { 0 };
 *     ok = history_read(&h, "out", err);
 *     ... h.steps[0 .. h.n_step) ...
 *     history_free(&h);
 *
 * The log of a killed run may end in half a line, which is left out; a line that is no object of
 * ours, or zeros at the end (a file system that lost power may leave some), is passed over and
 * counted, and is an error only where nothing else is there. A step that is there twice makes the
 * earlier one and all that came after it void: the run went back to before it. Steps and
 * evaluations are in ascending order.
 */
#ifndef FINETUNE_TRAIN_HISTORY_H
#define FINETUNE_TRAIN_HISTORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "kernels/core/profile.h"

/* Numbers that a line does not have are NaN. */
struct history_step {
    int64_t step;
    double epoch, loss, aux_loss, learning_rate, grad_norm;
    double tokens, trained_tokens, tokens_per_second, seconds, memory_bytes;
    double blocks[PROFILE_N]; /* seconds */
    bool applied;
};

struct history_eval {
    int64_t step;
    double epoch, loss, tokens, seconds;
};

struct history_sample {
    int64_t step;
    const char *prompt, *text, *end;
};

struct history_event {
    int64_t step;
    const char *event, *text, *time;
};

enum history_life {
    HISTORY_ALIVE,   /* its lock is held */
    HISTORY_DONE,    /* finished: all steps, or stopped early by its own rule */
    HISTORY_STOPPED, /* by a signal; a checkpoint is there */
    HISTORY_DEAD,    /* neither: it was killed, or failed */
};

struct history {
    char *dir;
    json_t *run; /* run.json, or NULL when there is none */
    struct history_step *steps;
    int64_t n_step;
    struct history_eval *evals;
    int64_t n_eval;
    struct history_sample *samples;
    int64_t n_sample;
    struct history_event *events;
    int64_t n_event;
    int64_t n_damaged;   /* lines that were passed over */
    struct err damage;   /* what is wrong with the first of them, and where */
    int64_t total_steps; /* of the run; 0: not known */
    int64_t best;        /* index of the lowest evaluation, -1: none */
    enum history_life life;
    int64_t pid;   /* of the holder of the lock, while alive; else 0 */
    char *host;    /* likewise, or NULL */
    json_t *lines; /* owns the texts above */
};

/* A folder that is no run's is an error that says what was looked for. *h need not be initialised;
 * after an error it is empty. */
bool history_read(struct history *h, const char *dir, struct err *err);
void history_free(struct history *h);

/* Whether a process holds the folder's run.lock: a run's, from before it has loaded anything, or a
 * sweep's. A folder without one is not held. */
bool history_is_held(const char *dir, bool *held, struct err *err);

const char *
history_life_name(enum history_life life); /* "running", "finished", "stopped", "dead" */

#endif
