/* The self-check of a step: what was computed once is computed again and compared bit for bit.
 * Steps are deterministic, so a difference is a fault of the machine. The passes are compared by
 * their losses and gradients, the update by the values and moments that it leaves. What it cannot
 * see is what both computations share: a bit that fell over in the base or in the adapter before.
 *
 *     if (self_check_due(t)) ...
 *     self_check_passes(t, &losses, first);   then the passes again, and the same with `second`
 *     ok = self_check_same(t, "gradients", first, second, err);
 *     ok = self_check_begin(t, err);          keeps values and moments: before an update
 *     ... the update ...
 *     ok = self_check_again(t, first, err);   puts them back
 *     ... the update again ...
 *     ok = self_check_end(t, first, err);
 */
#ifndef FINETUNE_TRAIN_SELF_CHECK_H
#define FINETUNE_TRAIN_SELF_CHECK_H

#include "finetune/train/loop.h"

/* Whether the step to come is one to check (self_check_steps). */
bool self_check_due(const struct trainer *t);

/* SHA-256 over the losses and over the gradients' pieces, for comparing within a run. */
void self_check_passes(struct trainer *t, const struct jamba_losses *losses,
                       char hex[SHA256_HEX_SIZE]);

/* ERR_DEVICE where they differ: `what` was computed twice. */
bool self_check_same(const struct trainer *t, const char *what, const char *first,
                     const char *second, struct err *err);

/* The gradients' norm once more. */
bool self_check_norm(struct trainer *t, double first, struct err *err);

/* The update's. The copies are made in the saver's memory, which is waited for: false with a
 * failure of the checkpoint before, or of the device. */
bool self_check_begin(struct trainer *t, struct err *err);
bool self_check_again(struct trainer *t, char first[SHA256_HEX_SIZE], struct err *err);
bool self_check_end(struct trainer *t, const char *first, struct err *err);

#endif
