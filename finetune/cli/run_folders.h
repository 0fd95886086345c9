/* The runs that folders on a command line stand for: a run's own folder, a sweep's, whose
 * sweep.json names its runs, or one that is both.
 *
 *     struct run_folders f = { 0 };
 *     ok = run_folders_add(&f, "sweep", err);
 *     ... f.items[0 .. f.n) ...
 *     run_folders_free(&f);
 */
#ifndef FINETUNE_CLI_RUN_FOLDERS_H
#define FINETUNE_CLI_RUN_FOLDERS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"

#define SWEEP_FILE "sweep.json"

/* A run of a sweep whose folder shows nothing of it is known by sweep.json alone. */
enum run_folder_state {
    RUN_FOLDER_READ,    /* the folder tells: see history.h */
    RUN_FOLDER_WAITING, /* the sweep is to begin it, or was stopped before it began */
    RUN_FOLDER_FAILED,  /* before it began */
    RUN_FOLDER_GONE,    /* it had begun; what it wrote is no longer there */
};

struct run_folder {
    char *dir;
    enum run_folder_state state;
    char *error; /* the first line of why it failed, or NULL */
};

struct run_folders {
    struct run_folder *items;
    int64_t n;
    bool sweep_alive; /* the process of a sweep among them goes on, whatever its runs do */
};

/* dir itself where it has a run's files, or no sweep; and the runs of the sweep in it, in its
 * order: by their names, wherever the sweep's folder is by now. A sweep.json that is no sweep's is
 * an error, but in a run's folder nothing to us; an empty one is no sweep. */
bool run_folders_add(struct run_folders *f, const char *dir, struct err *err);
void run_folders_free(struct run_folders *f);

/* "waiting", "failed", "gone"; not of RUN_FOLDER_READ. */
const char *run_folder_state_name(enum run_folder_state state);

#endif
