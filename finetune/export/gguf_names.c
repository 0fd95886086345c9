/* llama.cpp's src/models/jamba.cpp and gguf-py's tensor_mapping.py, as of 2026. */
#include "finetune/export/gguf_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/core/text.h"

/* llama.cpp's LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS: more are an assert there. */
enum { MAX_LAYER = 512, MAX_EXPERT = 512 };

struct name {
    const char *theirs, *ours;
};

static const struct name outside[] = {
    { "model.embed_tokens.weight", "token_embd.weight" },
    { "model.final_layernorm.weight", "output_norm.weight" },
    { "lm_head.weight", "output.weight" },
};

/* Behind "model.layers.N." and "blk.N.". */
static const struct name in_layer[] = {
    { "input_layernorm.weight", "attn_norm.weight" },
    { "self_attn.q_proj.weight", "attn_q.weight" },
    { "self_attn.k_proj.weight", "attn_k.weight" },
    { "self_attn.v_proj.weight", "attn_v.weight" },
    { "self_attn.o_proj.weight", "attn_output.weight" },
    { "mamba.in_proj.weight", "ssm_in.weight" },
    { "mamba.conv1d.weight", "ssm_conv1d.weight" },
    { "mamba.conv1d.bias", "ssm_conv1d.bias" },
    { "mamba.x_proj.weight", "ssm_x.weight" },
    { "mamba.dt_layernorm.weight", "ssm_dt_norm.weight" },
    { "mamba.b_layernorm.weight", "ssm_b_norm.weight" },
    { "mamba.c_layernorm.weight", "ssm_c_norm.weight" },
    { "mamba.dt_proj.weight", "ssm_dt.weight" },
    { "mamba.dt_proj.bias", "ssm_dt.bias" },
    { "mamba.A_log", "ssm_a" },
    { "mamba.D", "ssm_d" },
    { "mamba.out_proj.weight", "ssm_out.weight" },
    { "pre_ff_layernorm.weight", "ffn_norm.weight" },
    { "feed_forward.router.weight", "ffn_gate_inp.weight" },
    { "feed_forward.gate_proj.weight", "ffn_gate.weight" },
    { "feed_forward.up_proj.weight", "ffn_up.weight" },
    { "feed_forward.down_proj.weight", "ffn_down.weight" },
};

/* Behind "model.layers.N.feed_forward.experts.E.". */
static const struct name in_expert[] = {
    { "gate_proj.weight", "ffn_gate_exps.weight" },
    { "up_proj.weight", "ffn_up_exps.weight" },
    { "down_proj.weight", "ffn_down_exps.weight" },
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const char *look_up(const struct name *names, size_t n, const char *theirs)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i].theirs, theirs) == 0)
            return names[i].ours;
    }
    return NULL;
}

bool gguf_tensor_name(const char *name, char out[GGUF_NAME_SIZE])
{
    unsigned layer = 0, expert = 0;
    int rest = 0, expert_rest = 0;
    const char *found = NULL;
    if (sscanf(name, "model.layers.%5u.%n", &layer, &rest) < 1 || rest == 0) {
        found = look_up(outside, COUNT(outside), name);
        if (found != NULL)
            snprintf(out, GGUF_NAME_SIZE, "%s", found);
        return found != NULL;
    }
    const char *part = name + rest;
    if (sscanf(part, "feed_forward.experts.%5u.%n", &expert, &expert_rest) == 1 && expert_rest > 0)
        found = look_up(in_expert, COUNT(in_expert), part + expert_rest);
    else
        found = look_up(in_layer, COUNT(in_layer), part);
    if (found != NULL)
        snprintf(out, GGUF_NAME_SIZE, "blk.%u.%s", layer, found);
    return found != NULL;
}

bool gguf_check_config(const struct jamba_config *config, const char *place, struct err *err)
{
    if (config->mamba_expand != 2)
        return err_set(err, ERR_DATA,
                       "%s: \"mamba_expand\" is %" PRId64
                       "; llama.cpp runs Jambas with 2 only, and aborts on others",
                       place, config->mamba_expand);
    if (config->mamba_proj_bias)
        return err_set(err, ERR_DATA,
                       "%s: \"mamba_proj_bias\" is true; llama.cpp has no place for the biases of "
                       "in_proj and out_proj",
                       place);
    if (config->num_hidden_layers > MAX_LAYER)
        return err_set(err, ERR_DATA,
                       "%s: \"num_hidden_layers\" is %" PRId64 "; llama.cpp runs at most %d", place,
                       config->num_hidden_layers, MAX_LAYER);
    if (config->num_experts > MAX_EXPERT)
        return err_set(err, ERR_DATA,
                       "%s: \"num_experts\" is %" PRId64 "; llama.cpp runs at most %d", place,
                       config->num_experts, MAX_EXPERT);
    return true;
}
