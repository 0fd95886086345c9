/* Where the time of a step goes, by the model's blocks.
 *
 *     struct profile p;
 *     profile_init(&p, be.device);
 *     be.profile = &p;                       // the model enters its blocks by itself
 *     ...
 *     const enum profile_block before = profile_enter(be.profile, PROFILE_OPTIMIZER);
 *     ... ops ...
 *     profile_leave(be.profile, before);
 *     ...
 *     profile_take(&p, seconds);             // of each block since the last time
 *
 * Every moment belongs to the innermost block entered, or to PROFILE_OTHER, so the blocks add up to
 * the time between two takes. A profile of NULL: nothing is measured. One thread only, the one that
 * calls the ops.
 *
 * Where ops are done when they return, the times are the host's clock at each switch from one block
 * to another. A device that only queues them has a clock of its own (kernels/core/device.h: mark):
 * there a switch is a mark in the queue, and profile_take waits for the last one.
 */
#ifndef KERNELS_CORE_PROFILE_H
#define KERNELS_CORE_PROFILE_H

#include <stdint.h>

struct device;

enum profile_block {
    PROFILE_OTHER,
    PROFILE_DATA, /* documents, batches, what goes to the device */
    PROFILE_NORM,
    PROFILE_MAMBA,
    PROFILE_ATTENTION,
    PROFILE_MOE,
    PROFILE_MLP,
    PROFILE_HEAD, /* embedding, head and loss */
    PROFILE_OPTIMIZER,
    PROFILE_N
};

struct profile {
    struct device *device; /* whose marks tell the time; NULL: the host's clock does */
    enum profile_block current;
    double since; /* when the current block was entered or last taken */
    double seconds[PROFILE_N];
    int64_t n_switch; /* from one block to another, ever */
};

/* From here on. device: the backend's, or NULL; borrowed. */
void profile_init(struct profile *p, struct device *device);

/* From here on it is this block's time; returns whose it was, for profile_leave. */
enum profile_block profile_enter(struct profile *p, enum profile_block block);
void profile_leave(struct profile *p, enum profile_block before);

/* Each block's seconds since profile_init or the last profile_take. After a failure of the device
 * they are zeros: the failure itself is told by its ops. */
void profile_take(struct profile *p, double seconds[PROFILE_N]);

/* "other", "data", "norm", ... */
const char *profile_name(enum profile_block block);

#endif
