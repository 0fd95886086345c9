/* What a trainer keeps of itself in its folder: the adapter, the best one, checkpoints; and how it
 * comes back from there. Used by loop.c. */
#ifndef FINETUNE_TRAIN_SAVE_H
#define FINETUNE_TRAIN_SAVE_H

#include "finetune/train/loop.h"

/* The first failure of the device, which makes all that follows worthless: nothing more is written.
 */
bool trainer_check_device(const struct trainer *t, struct err *err);

/* The adapter and the recipe that made it, read back and compared: as output_dir's own, or in
 * best/. ERR_NUMERICS when a value of it is not finite. */
bool trainer_save_adapter(struct trainer *t, struct err *err);
bool trainer_save_best(struct trainer *t, struct err *err);

/* Begins to write a checkpoint of the state as it is, unless there is one of this step. */
bool trainer_save_checkpoint(struct trainer *t, struct err *err);

/* Whether one is due now: by steps, by time. */
bool trainer_save_due(const struct trainer *t);

/* Bytes to be free before a run begins: one checkpoint more than are kept, and two adapters. */
bool trainer_check_space(const struct trainer *t, struct err *err);

/* Whether the best one so far is still there: in output_dir or, unless the checkpoint is `own`,
 * beside it. What is not gone on with is told in t->notes. */
bool trainer_find_best(struct trainer *t, bool own, struct err *err);

/* Parameters and moments of t->resumed, and its best one where that lies elsewhere; later damaged
 * checkpoints are set aside. */
bool trainer_restore(struct trainer *t, struct err *err);

/* Parameters and moments as the saver's copies hold them. */
bool trainer_put_back(struct trainer *t, struct err *err);

/* ERR_CANT_CREATE when the folder of a new run has checkpoints or an adapter that it may not
 * overwrite. */
bool trainer_check_empty(const struct trainer *t, struct err *err);

/* Likewise when a run is to go on, and there is a finished one's adapter without any checkpoint. */
bool trainer_check_unfinished(const struct trainer *t, struct err *err);

/* What an earlier run left in the folder of a new one: checkpoints and best/. */
bool trainer_clear_output(const struct trainer *t, struct err *err);

/* The adapter of best/ in place of the last one. */
bool trainer_load_best(struct trainer *t, struct err *err);

/* Seconds by the monotonic clock. */
double trainer_now(void);

#endif
