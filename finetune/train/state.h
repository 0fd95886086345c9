/* What a run knows besides its adapter: counters, AdamW's moments, and what it was made of. One
 * file, training_state.safetensors: tensors "m" and "v" (n_param) and "params" (n_param) in the
 * adapter's own order, and everything else as JSON in the metadata's "state".
 *
 * Everything else is a pure function of the step's number: order of documents, dropout, schedule.
 */
#ifndef FINETUNE_TRAIN_STATE_H
#define FINETUNE_TRAIN_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "finetune/model/plan.h"
#include "kernels/core/err.h"
#include "kernels/core/sha256.h"
#include "kernels/format/safetensors.h"

#define STATE_NAME "training_state.safetensors"

struct train_counters {
    int64_t step; /* steps taken, applied or not */
    int64_t n_applied, n_nonfinite;
    int64_t tokens, trained_tokens; /* seen */
    double seconds;                 /* spent in steps */
    int64_t n_eval, evaluated;      /* evaluations, and the step of the last one (-1: none) */
    int64_t n_sampled;              /* prompts that were continued after it */
    int64_t best_step, n_worse;     /* of the lowest loss; evaluations since then */
    double best_loss, first_loss, last_loss;
    bool stopped_early;
    char best_digest[SHA256_HEX_SIZE]; /* of best/'s tensors, "": none */
    int64_t log_bytes;                 /* of metrics.jsonl */
};

struct train_counters train_counters_new(void);

/* A checkpoint's file as JSON: counters, shape, and the identity (finetune/train/identity.h), which
 * is copied. NULL when memory is out. */
json_t *state_to_json(const struct train_counters *c, const struct plan_shape *shape,
                      json_t *identity);

/* Checked member by member: counts that no run can have are refused. *identity points into state.
 * `place` starts messages. */
bool state_from_json(json_t *state, const char *place, struct train_counters *c,
                     struct plan_shape *shape, json_t **identity, struct err *err);

/* The three blocks of n_param reals each. */
struct state_blocks {
    real *params, *m, *v;
    int64_t n_param;
};

/* Writes dir/training_state.safetensors, then reads it back and compares. */
bool state_write(const char *dir, const struct state_blocks *blocks, json_t *state,
                 struct err *err);

/* The JSON of dir's file; caller json_decref()s. NULL on failure. */
json_t *state_read_json(const char *dir, struct err *err);

/* Its blocks, whose sizes must be those given, of finite values. */
bool state_read_blocks(const char *dir, const struct state_blocks *blocks, struct err *err);

#endif
