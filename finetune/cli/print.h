/* Tables that several commands print: what is adapted, and the plan. */
#ifndef FINETUNE_CLI_PRINT_H
#define FINETUNE_CLI_PRINT_H

#include <jansson.h>
#include <stdio.h>

#include "finetune/model/plan.h"
#include "lora/target.h"

/* Modules and parameters per block type. */
bool print_targets(FILE *out, const struct lora_module *modules, int64_t n,
                   const struct lora_choice *choices, struct err *err);

/* Bytes per arena, passes, chunk and policy; budget 0: not mentioned. */
void print_plan(FILE *out, const struct plan_shape *shape, const struct plan_bytes *bytes,
                size_t budget);

/* The same as JSON. */
json_t *json_plan(const struct plan_shape *shape, const struct plan_bytes *bytes, size_t budget);

#endif
