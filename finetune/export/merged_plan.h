/* What a merged checkpoint consists of: the base's tensors, file by file, in the order in which
 * their data lie there, and the adapter's pair of each that changes.
 */
#ifndef FINETUNE_EXPORT_MERGED_PLAN_H
#define FINETUNE_EXPORT_MERGED_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "finetune/export/source.h"
#include "finetune/model/shards.h"
#include "kernels/core/err.h"
#include "kernels/format/safetensors.h"
#include "lora/adapter.h"

struct merged_file {
    const char *name; /* in its folder; the base's */
    int64_t first, n; /* of its tensors */
};

struct merged_plan {
    struct safetensors_tensor *tensors; /* as they are written; data: the base's values */
    const struct lora_slot **slots;     /* (n_tensor): what is added, or NULL */
    int64_t n_tensor;
    struct merged_file *files;
    int64_t n_file;
    bool head_added; /* the base's files have no lm_head.weight */
    bool untied;     /* the base's head is tied and this one is not */
};

/* Takes every tensor from shards, which must outlive the plan as the source must. Errors name the
 * tensor: missing, left over, another shape or type. */
bool merged_plan_make(const struct export_source *s, struct shards *shards,
                      struct merged_plan *plan, struct err *err);
void merged_plan_free(struct merged_plan *plan);

#endif
