/* The log of what changed a folder, for the simulation of power loss: records, each followed by
 * path, second path and data.
 *
 * A file is known by the path it was opened with and by a number that no other open has: a name may
 * change while it is open.
 */
#ifndef TESTS_FAULT_SHIM_LOG_H
#define TESTS_FAULT_SHIM_LOG_H

#include <stddef.h>
#include <stdint.h>

enum shim_change {
    SHIM_OPENED,   /* path, number, offset: 1 when it was created by this call */
    SHIM_WROTE,    /* number, offset, data */
    SHIM_CUT,      /* number, offset: the new length */
    SHIM_SYNCED,   /* number: a file's data, or a folder's names */
    SHIM_RENAMED,  /* path, to */
    SHIM_UNLINKED, /* path: a file or an empty folder */
    SHIM_MADE,     /* path: a folder */
};

struct shim_record {
    uint32_t change; /* enum shim_change */
    uint32_t path_bytes, to_bytes, pad;
    int64_t number, offset;
    uint64_t data_bytes;
};

/* The shim's side. Nothing without FAULT_LOG. */
void shim_log(enum shim_change change, const char *path, const char *to, int fd, int64_t offset,
              const void *data, size_t n);

#endif
