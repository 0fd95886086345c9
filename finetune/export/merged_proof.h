/* Whether a written file of a merged checkpoint is what it should be. */
#ifndef FINETUNE_EXPORT_MERGED_PROOF_H
#define FINETUNE_EXPORT_MERGED_PROOF_H

#include <stdbool.h>

#include "finetune/export/merged_blocks.h"
#include "kernels/core/err.h"

/* Opens the file at `path` as any reader would and holds it against the plan: the same names, types
 * and shapes and no more; the bytes of every tensor; and, of each block that is merged, a row
 * against W + scale B A computed in double from the definition, within the roundings that the type
 * allows. `place` starts a message (ERR_INTERNAL). */
bool merged_prove(struct merged_team *team, const struct merged_file *file, const char *path,
                  const char *place, struct err *err);

#endif
