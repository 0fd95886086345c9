/* Keys of other trainers' recipes, so that those run unchanged or are refused with a reason. */
#ifndef RECIPES_FOREIGN_H
#define RECIPES_FOREIGN_H

#include "recipes/schema.h"

/* Both end with name NULL. */
extern const struct foreign foreign_recipe_keys[];
extern const struct foreign foreign_source_keys[];

#endif
