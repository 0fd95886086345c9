/* config.json of a Jamba: what is accepted has sizes that fit together and can be counted. */
#include "finetune/model/config.h"
#include "tests/fuzz/fuzz.h"

bool fuzz_config(const uint8_t *bytes, size_t n, struct err *err)
{
    char path[FUZZ_PATH_SIZE];
    fuzz_write("config", "config.json", bytes, n, path);
    struct jamba_config c = { 0 };
    if (!jamba_config_read(path, &c, err))
        return false;
    FUZZ_CHECK(c.vocab_size > 0 && c.num_hidden_layers > 0 && c.intermediate_size > 0);
    FUZZ_CHECK(c.d_head > 0 && c.d_head * c.num_attention_heads == c.hidden_size);
    FUZZ_CHECK(c.num_key_value_heads > 0 && c.num_attention_heads % c.num_key_value_heads == 0);
    FUZZ_CHECK(c.d_inner == c.mamba_expand * c.hidden_size && c.mamba_dt_rank > 0);
    FUZZ_CHECK(c.num_experts_per_tok >= 1 && c.num_experts_per_tok <= c.num_experts);
    FUZZ_CHECK(c.n_eos >= 0 && c.n_eos <= JAMBA_MAX_EOS);
    for (int64_t i = 0; i < c.n_eos; i++)
        FUZZ_CHECK(c.eos_token_id[i] >= 0 && c.eos_token_id[i] < c.vocab_size);
    FUZZ_CHECK(jamba_param_count(&c) > 0);
    for (int64_t l = 0; l < c.num_hidden_layers; l++) {
        const bool attention = jamba_is_attention(&c, l), moe = jamba_is_moe(&c, l);
        FUZZ_CHECK(!moe || c.num_experts > 1);
        FUZZ_CHECK(!attention || l % c.attn_layer_period == c.attn_layer_offset);
    }
    return true;
}
