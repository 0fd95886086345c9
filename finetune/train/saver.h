/* Writes checkpoints beside the training: a step ends, a thread copies parameters and moments while
 * the next step's forward and backward run (which do not touch them), and then writes the copy.
 *
 *     struct saver s = { 0 };
 *     ok = saver_open(&s, output_dir, keep, &adapter, err);
 *     ... after a step: ok = saver_start(&s, &what, err);
 *     ... before the next update of the parameters: saver_await_copy(&s);
 *     ... at the end: ok = saver_finish(&s, err);
 *     saver_close(&s);
 *
 * One checkpoint at a time: saver_start waits for the one before, and tells of its failure. Values
 * that are not finite are none to write (ERR_NUMERICS).
 */
#ifndef FINETUNE_TRAIN_SAVER_H
#define FINETUNE_TRAIN_SAVER_H

#include <pthread.h>

#include "finetune/train/checkpoint.h"
#include "kernels/core/backend.h"

enum saver_phase {
    SAVER_IDLE,
    SAVER_COPYING,
    SAVER_WRITING,
    SAVER_ENDING,
};

/* Owned by the saver from saver_start on. */
struct saver_job {
    int64_t step;
    json_t *state;
    char *recipe; /* text of recipe.yaml */
    int log;      /* the run's log, to be on the disk before a checkpoint that counts its bytes; -1: none */
    const struct lora_config *lora;
    struct peft_model_facts facts;
};

struct saver {
    const char *output_dir;
    int64_t keep; /* checkpoints; 0: all */
    const struct lora_adapter *adapter;
    struct lora_adapter copy; /* its params and slots are the saver's own */
    struct state_blocks blocks;
    struct saver_job job;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum saver_phase phase;
    bool is_open;
    int64_t saved;  /* step of the last whole one, -1: none */
    double seconds; /* that the last one took to write */
    struct err err, warning;
};

/* The adapter outlives it; memory for the copies is taken now. */
bool saver_open(struct saver *s, const char *output_dir, int64_t keep,
                const struct lora_adapter *adapter, struct err *err);

/* Where ops work in a device's memory the copy is made here, before it returns. */
bool saver_start(struct saver *s, struct backend *be, struct saver_job *job, struct err *err);
void saver_await_copy(struct saver *s);

/* Only the copy, now; the saver is idle (saver_finish). */
bool saver_keep(struct saver *s, struct backend *be, struct err *err);

/* Waits for the last one; false with the failure of any since the last call. */
bool saver_finish(struct saver *s, struct err *err);

/* An older checkpoint that could not be removed: true once, with what there is to say. */
bool saver_take_warning(struct saver *s, struct err *out);

/* Waits too, whatever became of it. */
void saver_close(struct saver *s);

/* Bytes of the copies. */
size_t saver_bytes(int64_t n_param);

#endif
