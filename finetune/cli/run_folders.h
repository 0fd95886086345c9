/* The runs that folders on a command line stand for: a run's own folder, or a sweep's, whose
 * sweep.json names its runs.
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

struct run_folders {
    char **items;
    int64_t n;
    int64_t n_waiting; /* runs of sweeps that have no folder yet: not among the items */
};

/* dir, or the runs of the sweep in it, in its order: by their names, wherever the sweep's folder is
 * by now. */
bool run_folders_add(struct run_folders *f, const char *dir, struct err *err);
void run_folders_free(struct run_folders *f);

#endif
