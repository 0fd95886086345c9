/* The memory that a backend's ops work in, where it is not the host's.
 *
 * struct backend.device is NULL where ops read and write host memory. Otherwise whatever ops are
 * given lies in memory from here (arena_init_in), and only op_to_device and op_to_host cross over.
 */
#ifndef KERNELS_CORE_DEVICE_H
#define KERNELS_CORE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/core/err.h"

enum { DEVICE_TAGS = 16 };

struct device {
    size_t memory; /* bytes there are in all, used or not */
    /* NULL with a message when there are no `bytes` left; free takes NULL too. */
    void *(*alloc)(struct device *d, size_t bytes, struct err *err);
    void (*free)(struct device *d, void *p);
    /* Waits for all that ops have queued; false with the first failure. */
    bool (*finish)(struct device *d, struct err *err);
    /* Bytes in use on the device now, by anyone. */
    size_t (*used)(struct device *d);
    void (*close)(struct device *d);
    /* Both NULL where ops are done when they return. From a mark on, what is queued is the tag's
     * (below DEVICE_TAGS) until the next one. marked puts one more, waits for it, and gives the
     * device's seconds of each tag since the last time; zeros after a failure, which the next op
     * finds. Neither allocates, but for the first mark. */
    void (*mark)(struct device *d, int tag);
    void (*marked)(struct device *d, double seconds[DEVICE_TAGS]);
};

#endif
