/* The linears of a Jamba, by their paths in transformers 4.x, for lora/ to choose from.
 *
 *     struct lora_module *modules = NULL;
 *     const int64_t n = jamba_modules(&config, &modules);     // -1: out of memory
 *     ... free(modules);
 */
#ifndef FINETUNE_MODEL_MODULES_H
#define FINETUNE_MODEL_MODULES_H

#include <stdint.h>

#include "finetune/model/config.h"
#include "lora/module.h"

/* Lists model.embed_tokens, then per layer its mixer (q, k, v, o or in, x, dt, out) and its
 * feed-forward (gate, up, down, or router and gate, up, down of every expert), then lm_head, which
 * is there for a tied model too: it is a module of its own over the embedding's matrix. */
int64_t jamba_modules(const struct jamba_config *config, struct lora_module **out);

/* Where each layer's modules begin in that list: the mixer's first module, and the feed-forward's
 * (the router of a MoE layer). */
int64_t jamba_module_mixer(const struct jamba_config *config, int64_t layer);
int64_t jamba_module_feed_forward(const struct jamba_config *config, int64_t layer);

#endif
