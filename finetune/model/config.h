/* config.json of a Jamba (model_type "jamba"), with the spelling of its fields. */
#ifndef FINETUNE_MODEL_CONFIG_H
#define FINETUNE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/dtype.h"
#include "kernels/core/err.h"

enum { JAMBA_MAX_EOS = 16 };

struct jamba_config {
    int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers;
    int64_t num_attention_heads, num_key_value_heads;
    int64_t num_experts, num_experts_per_tok;
    int64_t expert_layer_period, expert_layer_offset, attn_layer_period, attn_layer_offset;
    int64_t mamba_d_state, mamba_d_conv, mamba_expand,
        mamba_dt_rank; /* "auto": ceil(hidden / 16) */
    double rms_norm_eps, initializer_range, router_aux_loss_coef, attention_dropout;
    bool tie_word_embeddings, mamba_conv_bias, mamba_proj_bias;
    int64_t pad_token_id, bos_token_id; /* -1: null */
    int64_t eos_token_id[JAMBA_MAX_EOS], n_eos;
    enum dtype dtype; /* of "dtype" or "torch_dtype"; F32 when the file has none */
    /* derived */
    int64_t d_inner; /* mamba_expand * hidden_size */
    int64_t d_head;  /* hidden_size / num_attention_heads */
};

/* Reads and checks the file; what would be computed wrongly is refused by name (another model_type,
 * sliding_window, mamba_inner_layernorms false, hidden_act other than silu, quantization_config,
 * more experts per token than experts, offset >= period, sizes out of range, ...). */
bool jamba_config_read(const char *path, struct jamba_config *config, struct err *err);

bool jamba_is_attention(const struct jamba_config *config, int64_t layer);
bool jamba_is_moe(const struct jamba_config *config, int64_t layer);

/* Parameters of the checkpoint: all of them; a tied head counts once. */
int64_t jamba_param_count(const struct jamba_config *config);

#endif
