/* A disk that loses power: rebuilt from the log of what a program did to a folder (shim_log.h), up
 * to any point, with all, some or none of what was not synced.
 *
 * The rules are POSIX's at their strictest. What is written to a file is on the disk after an fsync
 * of the file; a name that is made, changed or removed after an fsync of the folder it is in, and
 * not by one of the file. Before that, of each file any part may be there, of each folder the first
 * so many changes of names, whatever is there of the others. What is synced stays.
 */
#ifndef TESTS_FAULT_DISK_H
#define TESTS_FAULT_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/fault/tree.h"

struct disk_log {
    char *bytes;
    size_t size;
    const char **records; /* where each begins */
    int64_t n;
    char *root; /* the folder */
};

void disk_log_load(struct disk_log *log, const char *path, const char *root);
void disk_log_free(struct disk_log *log);

enum disk_fate {
    DISK_KEPT,    /* as if the power had stayed */
    DISK_DROPPED, /* nothing of what was not synced */
    DISK_ZEROED,  /* (data) the length, but not the bytes */
    DISK_TORN,    /* (data) as far as a block's edge; (names) the first so many */
    DISK_MIXED,   /* (data) some blocks of it, and zeros for the others */
    DISK_RANDOM,  /* each file, each folder another one */
};

struct disk_loss {
    int64_t prefix; /* records that were made */
    enum disk_fate data, names;
    int64_t block; /* bytes */
    uint64_t seed;
};

/* The folder as it would be found; tree is freed first. */
void disk_rebuild(const struct disk_log *log, const struct disk_loss *loss, struct tree *tree);

/* The step N of a record that renames checkpoint-N.tmp to checkpoint-N; else -1. */
int64_t disk_saved_step(const struct disk_log *log, int64_t record);

/* What the record writes; NULL: nothing. */
const char *disk_written(const struct disk_log *log, int64_t record, size_t *n);

/* Whether the record is an fsync of the folder of that name below the root. */
bool disk_is_sync_of(const struct disk_log *log, int64_t record, const char *folder);

/* The name below the root that the record renames a file or folder to; NULL: none. Caller frees. */
char *disk_renamed_to(const struct disk_log *log, int64_t record);

#endif
