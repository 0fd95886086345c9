#include "kernels/core/profile.h"

#include <assert.h>
#include <string.h>
#include <time.h>

#include "kernels/core/device.h"

static_assert((int)PROFILE_N <= (int)DEVICE_TAGS, "a device's marks have fewer tags than blocks");

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

void profile_init(struct profile *p, struct device *device)
{
    double none[DEVICE_TAGS];
    *p = (struct profile){ .device = device != NULL && device->mark != NULL ? device : NULL };
    if (p->device == NULL) {
        p->since = now();
        return;
    }
    p->device->mark(p->device, PROFILE_OTHER);
    p->device->marked(p->device, none); /* of an earlier profile */
}

/* What has passed goes to the current block. */
static void close_block(struct profile *p)
{
    const double t = now();
    p->seconds[p->current] += t - p->since;
    p->since = t;
}

static void switch_to(struct profile *p, enum profile_block block)
{
    if (block == p->current)
        return;
    p->n_switch++;
    if (p->device != NULL)
        p->device->mark(p->device, (int)block);
    else
        close_block(p);
    p->current = block;
}

enum profile_block profile_enter(struct profile *p, enum profile_block block)
{
    if (p == NULL)
        return PROFILE_OTHER;
    const enum profile_block before = p->current;
    switch_to(p, block);
    return before;
}

void profile_leave(struct profile *p, enum profile_block before)
{
    if (p != NULL)
        switch_to(p, before);
}

void profile_take(struct profile *p, double seconds[PROFILE_N])
{
    double marked[DEVICE_TAGS];
    if (p->device != NULL) {
        p->device->marked(p->device, marked);
        memcpy(seconds, marked, PROFILE_N * sizeof *seconds);
        return;
    }
    close_block(p);
    memcpy(seconds, p->seconds, sizeof p->seconds);
    memset(p->seconds, 0, sizeof p->seconds);
}

const char *profile_name(enum profile_block block)
{
    static const char *const names[] = {
        [PROFILE_OTHER] = "other",
        [PROFILE_DATA] = "data",
        [PROFILE_NORM] = "norm",
        [PROFILE_MAMBA] = "mamba",
        [PROFILE_ATTENTION] = "attention",
        [PROFILE_MOE] = "moe",
        [PROFILE_MLP] = "mlp",
        [PROFILE_HEAD] = "head",
        [PROFILE_OPTIMIZER] = "optimizer",
    };
    return names[block];
}
