/* What llama.cpp calls the tensors of a Jamba, and which Jambas it runs.
 *
 * Experts' matrices become one tensor of a layer, (n_expert, out, in), so all of a projection's
 * experts have the same name here. Nothing is permuted: Jamba has no rotary positions.
 */
#ifndef FINETUNE_EXPORT_GGUF_NAMES_H
#define FINETUNE_EXPORT_GGUF_NAMES_H

#include <stdbool.h>

#include "finetune/model/config.h"
#include "kernels/core/err.h"
#include "kernels/format/gguf.h"

#define GGUF_ARCHITECTURE "jamba"

/* The name of a checkpoint's tensor ("model.layers.1.feed_forward.experts.7.up_proj.weight" is
 * "blk.1.ffn_up_exps.weight"); false for one that llama.cpp has no place for. */
bool gguf_tensor_name(const char *name, char out[GGUF_NAME_SIZE]);

/* Refuses, by field, a Jamba that llama.cpp would abort on or compute wrongly; `place` starts the
 * message. */
bool gguf_check_config(const struct jamba_config *config, const char *place, struct err *err);

#endif
