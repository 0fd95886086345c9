/* What the runs of a sweep came to. */
#ifndef FINETUNE_CLI_EACH_TABLE_H
#define FINETUNE_CLI_EACH_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "recipes/recipe.h"
#include "recipes/sweep.h"

enum each_status { EACH_WAITING, EACH_FINISHED, EACH_STOPPED, EACH_FAILED };

/* Which run.json is in a run's folder. Each run writes its own when it begins. */
struct each_mark {
    bool is_there;
    ino_t inode;
    struct timespec written;
};

struct each_run {
    const struct sweep_run *word; /* borrowed */
    char *folder;
    struct recipe recipe;
    enum each_status status;
    bool ran; /* in this process: it has a code */
    int code;
    char *messages; /* of its failure */
    struct each_mark mark;
    /* From its log; without one NaN, and steps -1 and 0. */
    double validation, loss, seconds;
    int64_t best_step, step;
};

/* Before the run: remembers what an earlier one has left in the folder. */
bool each_run_mark(struct each_run *run, struct err *err);

/* After it: fills in what the folder's log says. The log of a run that failed may be missing,
 * damaged, or an earlier run's where this one never began, which changes nothing. */
bool each_run_read(struct each_run *run, struct err *err);

/* Whether the folder has the whole run of this recipe: finished, its adapter there, and the base
 * and the data files are those that it was made from. */
bool each_run_is_finished(struct each_run *run);

void each_run_free(struct each_run *run);

/* All there is to say, best first: finished runs by validation loss, where there is none by the
 * last training loss; then stopped ones, failed ones, those that wait. NULL when memory is out. */
json_t *each_json(const struct sweep *sweep, const struct each_run *runs, const char *recipe_path,
                  const char *output_dir);

/* The same for reading: a slim table of what each_json returned. NULL likewise. */
json_t *each_table(json_t *all);

#endif
