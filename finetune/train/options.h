/* What a recipe says about where its model computes. */
#ifndef FINETUNE_TRAIN_OPTIONS_H
#define FINETUNE_TRAIN_OPTIONS_H

#include "finetune/model/engine.h"
#include "recipes/recipe.h"

/* Borrows the recipe's strings. */
struct engine_options engine_options_of(const struct recipe *r);

#endif
