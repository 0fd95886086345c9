/* The learning rate of every step, as transformers' get_scheduler gives it. */
#ifndef FINETUNE_TRAIN_SCHEDULE_H
#define FINETUNE_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "recipes/recipe.h"

struct schedule {
    enum recipe_scheduler kind;
    int64_t warmup, total; /* steps */
};

/* warmup_steps when above 0, else ceil(warmup_ratio * total): TrainingArguments.get_warmup_steps.
 */
struct schedule schedule_of(const struct recipe *recipe, int64_t total_steps);

/* What the rate of step `step` (from 0) is multiplied by. The first step of a warm-up has 0. */
double schedule_factor(const struct schedule *s, int64_t step);

#endif
