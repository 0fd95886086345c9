/* The run's hold on its folder: a lock, room on the disk, and run.json, which tells people and
 * scripts what runs there.
 *
 *     struct output o = OUTPUT_NONE;
 *     ok = output_lock(&o, dir, err);
 *     output_unlock(&o);
 */
#ifndef FINETUNE_TRAIN_OUTPUT_H
#define FINETUNE_TRAIN_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/core/err.h"

#define OUTPUT_LOCK_NAME "run.lock"
#define OUTPUT_FACTS_NAME "run.json"

struct output {
    int lock;        /* -1: none */
    char *exclusive; /* the file that stands for the lock where the file system has none */
    int held;        /* that file, open, so that no other can have its inode; -1: none */
};
#define OUTPUT_NONE ((struct output){ .lock = -1, .held = -1 })

/* Makes the folder, and takes dir/run.lock, which the kernel frees with the process; where the file
 * system has no locks, dir/run.lock.exclusive, which names host, boot and process and gives way
 * when they are gone. ERR_CANT_CREATE when another run has it, with its process and host. */
bool output_lock(struct output *o, const char *dir, struct err *err);
void output_unlock(struct output *o);

/* Whether the folder is still this run's, before something is written: a lock's file that was
 * removed by hand is made again. ERR_CANT_CREATE when another run has taken the folder by then,
 * ERR_IO when the folder was moved or removed. */
bool output_check(struct output *o, const char *dir, struct err *err);

/* Removes what a killed run left of half-written files of its own, in dir and dir/best. */
bool output_clear_temporaries(const char *dir, struct err *err);

/* Whether dir/run.lock.exclusive names a run that may be alive; its text into *text (or NULL),
 * which the caller frees. */
bool output_exclusive_held(const char *dir, char **text);

/* dir/run.json, whole or as it was. Takes facts over. */
bool output_write_facts(const char *dir, json_t *facts, struct err *err);

/* "2026-11-22T17:00:00Z". */
enum { OUTPUT_TIME_SIZE = 32 };
void output_time(char out[OUTPUT_TIME_SIZE]);

/* The machine's name, "?" when it has none. */
enum { OUTPUT_HOST_SIZE = 256 };
void output_host(char out[OUTPUT_HOST_SIZE]);

#endif
