/* run.json: what runs in a folder, for people and scripts. */
#ifndef FINETUNE_TRAIN_FACTS_H
#define FINETUNE_TRAIN_FACTS_H

#include "finetune/train/loop.h"

/* NULL when memory is out. */
json_t *train_facts(const struct trainer *t);

#endif
