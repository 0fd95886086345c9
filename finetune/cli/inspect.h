/* What `inspect` finds out, as an object that prints as JSON or as tables (cli_end_facts). */
#ifndef FINETUNE_CLI_INSPECT_H
#define FINETUNE_CLI_INSPECT_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/core/err.h"
#include "kernels/format/safetensors.h"

/* A checkpoint, by what base_model may be. NULL on failure. When only its tensors are at fault (one
 * is missing, say) the facts are returned all the same, and err is set. */
json_t *inspect_checkpoint(const char *base_model, struct err *err);

/* A PEFT adapter's folder. The same contract. */
json_t *inspect_adapter(const char *dir, struct err *err);

/* A .safetensors file: every tensor. */
json_t *inspect_tensors(const char *path, struct err *err);

/* What a set of tensors holds by type: {type, tensors, values, bytes} each. Started as { 0 }. */
struct inspect_types {
    int64_t n_tensor[DTYPE_COUNT], n_value[DTYPE_COUNT], n_byte[DTYPE_COUNT];
};

void inspect_add_tensor(struct inspect_types *types, const struct safetensors_tensor *tensor);
json_t *inspect_types_table(const struct inspect_types *types);

#endif
