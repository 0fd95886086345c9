/* Whether a written file of a merged checkpoint is what it should be. */
#ifndef FINETUNE_EXPORT_MERGED_PROOF_H
#define FINETUNE_EXPORT_MERGED_PROOF_H

#include <stdbool.h>

#include "finetune/export/merged_blocks.h"
#include "kernels/core/err.h"

/* Opens the file at `path` as any reader would and holds it against the plan: the same names, types
 * and shapes and no more; of each block that is the base's, its bytes; and of each that is merged,
 * the sum of the bytes that were computed, and a row against W + scale B A worked out in double
 * from the definition, within the roundings that the type allows. `place` starts a message
 * (ERR_INTERNAL). */
bool merged_prove(struct merged_team *team, struct merged_list *list,
                  const struct merged_file *file, const char *path, const char *place,
                  struct err *err);

#endif
