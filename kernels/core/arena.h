/* A named block of memory handed out in order and given back in reverse: no malloc in a training
 * step.
 *
 *     const size_t mark = arena_mark(&scratch);
 *     real *t = arena_push(&scratch, bytes);
 *     ...
 *     arena_rewind(&scratch, mark);
 *
 * A measuring arena (arena_init_measuring) hands out addresses that must not be touched and only
 * records the peak: the plan backend runs the real code over such arenas, so the plan is the
 * allocation. Running past the capacity is a bug of the plan: it asserts.
 */
#ifndef KERNELS_CORE_ARENA_H
#define KERNELS_CORE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/dtype.h"
#include "kernels/core/err.h"

struct device;

struct arena {
    const char *name;
    struct device *device; /* whose memory it is; NULL: the host's */
    char *base;
    size_t used, peak, cap;
    bool measuring;
    bool borrowed; /* a part of another arena */
};

enum { ARENA_ALIGN = 256 }; /* what cuBLASLt and cuDNN like best; a cache line and more */

bool arena_init(struct arena *a, const char *name, size_t cap, struct err *err);

/* The same in a device's memory (NULL: the host's): for ops only, never touched by the host. */
bool arena_init_in(struct arena *a, struct device *device, const char *name, size_t cap,
                   struct err *err);

/* `cap` bytes of `whole`, which must outlive it: several arenas in one allocation. */
void arena_init_part(struct arena *a, struct arena *whole, const char *name, size_t cap);
void arena_init_measuring(struct arena *a, const char *name);
void arena_free(struct arena *a);

/* `bytes` uninitialised bytes, aligned to ARENA_ALIGN. */
void *arena_push(struct arena *a, size_t bytes);

/* n reals; and n zeroed reals (a measuring arena writes nothing). */
real *arena_reals(struct arena *a, int64_t n);
real *arena_zeros(struct arena *a, int64_t n);

size_t arena_mark(const struct arena *a);
void arena_rewind(struct arena *a, size_t mark);

#endif
