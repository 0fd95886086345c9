/* The self-check of a step: what was computed once is computed again and compared bit for bit.
 * Steps are deterministic, so a difference is a fault of the machine. The passes are compared by
 * their losses and gradients, the update by the values and moments that it leaves. What it cannot
 * see is what both computations share: a bit that fell over in the base or in the adapter before.
 *
 *     if (self_check_due(t)) ...
 *     first = self_check_passes(t, &losses);   then the passes again, and `second`
 *     ok = self_check_same(t, "gradients", first, second, err);
 *     ok = self_check_begin(t, err);          keeps values and moments: before an update
 *     ... the update ...
 *     ok = self_check_again(t, &first, err);  puts them back
 *     ... the update again ...
 *     ok = self_check_end(t, first, err);
 */
#ifndef FINETUNE_TRAIN_SELF_CHECK_H
#define FINETUNE_TRAIN_SELF_CHECK_H

#include "finetune/train/loop.h"

/* Whether the step to come is one to check (self_check_steps). */
bool self_check_due(const struct trainer *t);

/* A digest of the losses and gradients, for comparing within a run: at the speed of memory, and any
 * change within eight bytes changes it. */
uint64_t self_check_passes(struct trainer *t, const struct jamba_losses *losses);

/* ERR_DEVICE where they differ: `what` was computed twice. */
bool self_check_same(const struct trainer *t, const char *what, uint64_t first, uint64_t second,
                     struct err *err);

/* The gradients' norm once more. */
bool self_check_norm(struct trainer *t, double first, struct err *err);

/* The update's. The copies are made in the saver's memory, which is waited for: false with a
 * failure of the checkpoint before, or of the device. */
bool self_check_begin(struct trainer *t, struct err *err);
bool self_check_again(struct trainer *t, uint64_t *first, struct err *err);
bool self_check_end(struct trainer *t, uint64_t first, struct err *err);

#endif
