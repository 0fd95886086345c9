/* The training loop: steps of passes, AdamW, evaluation, files. Prints nothing: a watch is told.
 *
 *     struct trainer t = { 0 };
 *     ok = trainer_open(&t, &recipe, err) && trainer_run(&t, &watch, err);
 *     trainer_close(&t);
 */
#ifndef FINETUNE_TRAIN_LOOP_H
#define FINETUNE_TRAIN_LOOP_H

#include <signal.h>

#include "finetune/model/engine.h"
#include "finetune/train/data.h"
#include "finetune/train/metrics.h"
#include "finetune/train/schedule.h"
#include "recipes/recipe.h"

struct trainer {
    const struct recipe *recipe; /* borrowed */
    struct engine engine;
    struct train_data data;
    struct plan_shape shape;
    struct plan_bytes bytes;
    struct schedule schedule;
    struct metrics metrics;
    const struct lora_config *lora; /* the recipe's, or that of the adapter continued from */
    int64_t n_step;
    /* State. */
    int64_t step; /* steps taken, applied or not */
    int64_t n_applied, n_nonfinite;
    double best_loss, first_loss, last_loss; /* of evaluations */
    int64_t n_eval, best_step;
    int lock; /* of output_dir, while running */
};

struct train_watch {
    void *context;
    void (*on_step)(void *context, const struct train_step *step);
    void (*on_eval)(void *context, const struct train_eval *eval);
    const volatile sig_atomic_t *stop; /* raised by a signal; or NULL */
};

/* Everything but memory: base, adapter's choices, documents, number of steps, plan. What the plan
 * depends on is then in t->engine; what was read in t->data. Refuses a run that cannot fit. */
bool trainer_open(struct trainer *t, const struct recipe *recipe, struct err *err);

/* The same from config.json alone, for `plan`: step size as the recipe's bounds. */
bool trainer_open_shapes(struct trainer *t, const struct recipe *recipe, struct err *err);

/* Allocates, trains, writes output_dir. On a raised stop the adapter so far is written and the
 * error is ERR_STOPPED; after too many non-finite steps ERR_NUMERICS. */
bool trainer_run(struct trainer *t, const struct train_watch *watch, struct err *err);
void trainer_close(struct trainer *t);

/* What other programs will not honour of this adapter, a line each. */
void trainer_warnings(const struct trainer *t, struct text *out);

#endif
