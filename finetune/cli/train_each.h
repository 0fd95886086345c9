/* `jambatune train RECIPE key=a,b,c --each`: the runs of a sweep, one after another. */
#ifndef FINETUNE_CLI_TRAIN_EACH_H
#define FINETUNE_CLI_TRAIN_EACH_H

#include "finetune/cli/cli.h"
#include "finetune/cli/train_run.h"

/* Runs the product of all values that words->overrides list with commas, each in a folder of its
 * own under the recipe's output_dir; one that is finished there is passed over, one that was cut is
 * resumed. Ends with a table of them on stdout, best first (flags->json: as JSON), which
 * output_dir/sweep.json has after each run. Returns 0; the exit code of the first run that failed;
 * or ERR_STOPPED after a signal. */
int train_each(const char *recipe_path, const struct cli_words *words,
               const struct train_flags *flags);

#endif
