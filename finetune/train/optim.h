/* The optimizer's part of a step: norm, clipping, AdamW over the adapter's flat block. */
#ifndef FINETUNE_TRAIN_OPTIM_H
#define FINETUNE_TRAIN_OPTIM_H

#include "kernels/core/backend.h"
#include "lora/adapter.h"
#include "recipes/recipe.h"

/* The global norm of the gradients. */
double optim_grad_norm(struct backend *be, const struct lora_adapter *adapter);

/* What gradients are multiplied by: clip_grad_norm_'s max_norm / (norm + 1e-6), at most 1; max_norm
 * 0: 1. */
double optim_clip(double max_norm, double norm);

/* Update number `count` (from 1): AdamW as torch.optim.AdamW on gradients times grad_scale, with
 * the recipe's rates times factor. With loraplus_lr_ratio, B takes ratio times the rate and the
 * embedding loraplus_lr_embedding (PEFT's create_loraplus_optimizer). */
void optim_step(struct backend *be, struct lora_adapter *adapter, const struct recipe *recipe,
                double factor, double grad_scale, int64_t count);

#endif
