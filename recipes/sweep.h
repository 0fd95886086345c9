/* key=a,b,c on the command line: the runs of a sweep, which are the product of all such lists.
 *
 *     struct sweep sweep = { 0 };
 *     ok = sweep_open(&sweep, overrides, n_override, err);
 *     for (i < sweep.n_run)
 *         ... recipe_load(path, sweep.runs[i].overrides, sweep.n_override, ...) ...
 *     sweep_close(&sweep);
 *
 * A comma inside brackets, braces or quotes belongs to the value, as in YAML:
 * lora_target_modules=[q_proj,v_proj],all-linear has two.
 */
#ifndef RECIPES_SWEEP_H
#define RECIPES_SWEEP_H

#include <stdint.h>

#include "kernels/core/err.h"

enum { SWEEP_MAX_RUNS = 1000 };

struct sweep_run {
    char *name;       /* "learning_rate=1e-4,lora_r=8": a folder's, no two alike */
    char **overrides; /* as sweep_open's, a list replaced by one of its values */
    char **values;    /* one for each of the sweep's keys, as written */
};

struct sweep {
    struct sweep_run *runs; /* in order: the last list's values change fastest */
    int64_t n_run;
    int n_override;
    char **keys; /* what is swept, by the keys' own names, sorted; they make up the name */
    int n_key;
};

/* Errors (ERR_USAGE): no list at all, an empty value, a value twice, a key given again beside its
 * list, output_dir, too many runs. The overrides are not checked otherwise. */
bool sweep_open(struct sweep *sweep, const char *const *overrides, int n_override, struct err *err);
void sweep_close(struct sweep *sweep);

#endif
