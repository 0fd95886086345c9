/* How adapter_config.json spells a choice of modules and ranks so that PEFT wraps exactly those, on
 * transformers 4 and 5 alike. Used by format_peft. */
#ifndef LORA_PEFT_SPELLING_H
#define LORA_PEFT_SPELLING_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "lora/config.h"
#include "lora/module.h"
#include "lora/target.h"

struct peft_view {
    const struct lora_module *modules;
    int64_t n;
    const struct lora_choice *choices;
    const struct lora_config *config;
    bool router_parameter; /* name routers by their matrix, in target_parameters */
};

/* What a layer's experts have, as far as transformers 5 can take it. */
struct peft_experts {
    int64_t layer;
    bool any;   /* some expert's projection is adapted */
    bool fused; /* transformers 5 takes it: gate and up of all experts alike or none of them, and
                   down too */
    bool gate_up, down;        /* which are adapted, when fused */
    bool whole;                /* every projection of every expert is adapted */
    int64_t gate_up_r, down_r; /* of one projection: the fused gate_up has twice as much */
    double gate_up_alpha, down_alpha;
};

/* The experts of the layer whose modules start at modules[*at] (any module of a layer of experts),
 * moving *at past that layer. */
struct peft_experts peft_layer_experts(const struct peft_view *view, int64_t *at);

/* Whether target_parameters names fused experts: they are adapted in a way that transformers 5
 * takes. */
bool peft_has_fused_experts(const struct peft_view *view);

/* Whether target_parameters is written at all. PEFT then wants no dropout. */
bool peft_has_parameters(const struct peft_view *view);

/* Adds "target_modules", "rank_pattern", "alpha_pattern" and, for fused experts and routers named
 * so, "target_parameters" to the object; false when memory is out. */
bool peft_spell(const struct peft_view *view, json_t *object);

/* As an integer where it is one: other readers expect lora_alpha to be. */
json_t *peft_number(double v);

#endif
