/* Continuing from an adapter: does the recipe say what the adapter is? */
#ifndef LORA_AGREE_H
#define LORA_AGREE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "lora/config.h"
#include "lora/module.h"
#include "lora/target.h"

/* Keys a recipe gave itself (as opposed to defaults), for lora_agrees. */
enum lora_given {
    LORA_GIVEN_R = 1 << 0,
    LORA_GIVEN_ALPHA = 1 << 1,
    LORA_GIVEN_RSLORA = 1 << 2,
    LORA_GIVEN_TARGETS = 1 << 3, /* the list, the regex or all-linear */
    LORA_GIVEN_EXCLUDE = 1 << 4,
    LORA_GIVEN_LAYERS = 1 << 5,
    LORA_GIVEN_RANK_PATTERN = 1 << 6,
    LORA_GIVEN_ALPHA_PATTERN = 1 << 7,
};

/* When training continues from an adapter: whether the keys that the recipe gives (a mask of
 * lora_given) say what the adapter is. r, alpha and rsLoRA are compared as written; what selects
 * modules is compared by its effect (together with the adapter's own values for keys that the
 * recipe leaves out), because an adapter's file may spell the same modules in another way. Dropout
 * is free: it is no part of an adapter. `have` is what the adapter's tensors say
 * (peft_choices_from_tensors). */
struct lora_agreement {
    const struct lora_config *adapter, *recipe;
    unsigned given;
    const struct lora_module *modules;
    int64_t n_module;
    const struct lora_choice *have;
};

bool lora_agrees(const struct lora_agreement *agreement, struct err *err);

/* The first part alone, which needs no tensors. */
bool lora_config_agrees(const struct lora_config *adapter, const struct lora_config *recipe,
                        unsigned given, struct err *err);

#endif
