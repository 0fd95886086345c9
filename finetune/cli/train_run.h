/* One run of `jambatune train`, as the command line asks for it. */
#ifndef FINETUNE_CLI_TRAIN_RUN_H
#define FINETUNE_CLI_TRAIN_RUN_H

#include <stdbool.h>

#include "recipes/recipe.h"

struct train_flags {
    bool resume;              /* --resume: resume_from_checkpoint=auto, in the recipe already */
    bool overwrite;           /* --overwrite: overwrite_output_dir=true, likewise */
    const char *allow_change; /* --allow-change LIST, or NULL */
    bool json;                /* --json: what the run came to, as JSON on stdout at the end */
};

/* Trains and says what there is to say. Returns the exit code. */
int train_run(const struct recipe *recipe, const struct train_flags *flags);

#endif
