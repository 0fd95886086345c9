/* A small Jamba for tests of lora/: four layers, attention in layer 2, two experts in layers 1
 * and 3. Its modules are written out from the config by hand (config.json is another test's
 * subject). */
#ifndef TESTS_UNIT_LORA_TINY_JAMBA_H
#define TESTS_UNIT_LORA_TINY_JAMBA_H

#include <stdint.h>
#include <string.h>

#include "finetune/model/config.h"
#include "finetune/model/modules.h"

static inline struct jamba_config tiny_jamba(void)
{
    return (struct jamba_config){ .vocab_size = 11,
                                  .hidden_size = 8,
                                  .intermediate_size = 12,
                                  .num_hidden_layers = 4,
                                  .num_attention_heads = 2,
                                  .num_key_value_heads = 1,
                                  .num_experts = 2,
                                  .num_experts_per_tok = 1,
                                  .expert_layer_period = 2,
                                  .expert_layer_offset = 1,
                                  .attn_layer_period = 4,
                                  .attn_layer_offset = 2,
                                  .mamba_d_state = 3,
                                  .mamba_d_conv = 4,
                                  .mamba_expand = 2,
                                  .mamba_dt_rank = 2,
                                  .d_inner = 16,
                                  .d_head = 4 };
}

/* Index of the module of that path, -1 when there is none. */
static inline int64_t module_index(const struct lora_module *modules, int64_t n, const char *path)
{
    for (int64_t i = 0; i < n; i++) {
        if (strcmp(modules[i].path, path) == 0)
            return i;
    }
    return -1;
}

#endif
