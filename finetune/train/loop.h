/* The training loop: steps of passes, AdamW, evaluation, checkpoints, files. Prints nothing: a
 * watch is told.
 *
 *     struct trainer t = { 0 };
 *     ok = trainer_open(&t, &recipe, NULL, err) && trainer_run(&t, &watch, err);
 *     trainer_close(&t);
 *
 * Opening (open.c) reads, chooses and compares; running (loop.c) allocates, trains and writes.
 */
#ifndef FINETUNE_TRAIN_LOOP_H
#define FINETUNE_TRAIN_LOOP_H

#include <signal.h>

#include "finetune/model/engine.h"
#include "finetune/train/data.h"
#include "finetune/train/metrics.h"
#include "finetune/train/output.h"
#include "finetune/train/samples.h"
#include "finetune/train/saver.h"
#include "finetune/train/schedule.h"
#include "finetune/train/state.h"
#include "kernels/core/profile.h"
#include "kernels/core/text.h"
#include "recipes/recipe.h"

struct trainer {
    const struct recipe *recipe; /* borrowed */
    struct engine engine;
    struct train_data data;
    struct plan_shape shape;
    struct plan_bytes bytes;
    struct schedule schedule;
    const struct lora_config *lora; /* the recipe's, or that of the adapter continued from */
    int64_t n_step;
    /* Where it goes on from. */
    json_t *identity;
    char *resumed;     /* the checkpoint's folder; NULL: a new run */
    bool resumed_here; /* that folder is in output_dir */
    char *best_from;   /* where its best adapter is to be copied from; NULL: it is here, or none */
    struct text notes; /* what there is to say of opening it, a line each */
    struct text changes; /* what differs from the checkpoint by leave, a line each */
    /* Running. */
    struct train_counters state;
    struct output output;
    struct metrics metrics;
    struct saver saver;
    struct profile profile;
    struct samples samples;
    int64_t saving;           /* step of the last checkpoint begun or gone on from, -1: none */
    int64_t saving_evaluated; /* its last evaluation */
    int64_t saving_sampled;   /* and how many samples of it there were */
    double saved_at;          /* when, by the monotonic clock */
    real *check;              /* (n_param), host: values of a device to compare; or NULL */
};

struct train_watch {
    void *context;
    void (*on_step)(void *context, const struct train_step *step);
    void (*on_eval)(void *context, const struct train_eval *eval);
    const volatile sig_atomic_t *stop; /* raised by a signal; or NULL */
    volatile sig_atomic_t *save;       /* likewise: a checkpoint is wanted; lowered again */
};

/* Everything but memory: base, adapter's choices, documents, number of steps, the checkpoint to go
 * on from, plan. What the plan depends on is then in t->engine; what was read in t->data. Refuses a
 * run that cannot fit, a folder that is in use or has another run's checkpoints, and a checkpoint
 * of something else: allow_change names what may differ (finetune/train/identity.h), or is NULL. */
bool trainer_open(struct trainer *t, const struct recipe *recipe, const char *allow_change,
                  struct err *err);

/* Memory alone, from config.json, for `plan`: step size as the recipe's bounds. */
bool trainer_open_shapes(struct trainer *t, const struct recipe *recipe, struct err *err);

/* Allocates, trains, writes output_dir. On a raised stop a checkpoint is written and the error is
 * ERR_STOPPED; after too many non-finite steps likewise, and ERR_NUMERICS. */
bool trainer_run(struct trainer *t, const struct train_watch *watch, struct err *err);
void trainer_close(struct trainer *t);

/* What other programs will not honour of this adapter, a line each. */
void trainer_warnings(const struct trainer *t, struct text *out);

/* Of this run's base, for PEFT's files. */
struct peft_model_facts trainer_model_facts(const struct trainer *t);

/* Bytes that the run takes at most, by now. */
size_t trainer_memory_peak(const struct trainer *t);

#endif
