#include "finetune/model/modules.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/core/text.h"

enum { N_MIXER = 4, N_MLP = 3 };

/* Modules of a layer's feed-forward: gate, up, down; or the router and as many for every expert. */
static int64_t n_feed_forward(const struct jamba_config *config, int64_t layer)
{
    return jamba_is_moe(config, layer) ? 1 + N_MLP * config->num_experts : N_MLP;
}

int64_t jamba_module_mixer(const struct jamba_config *config, int64_t layer)
{
    int64_t index = 1; /* model.embed_tokens */
    for (int64_t l = 0; l < layer; l++)
        index += N_MIXER + n_feed_forward(config, l);
    return index;
}

int64_t jamba_module_feed_forward(const struct jamba_config *config, int64_t layer)
{
    return jamba_module_mixer(config, layer) + N_MIXER;
}

/* The next free entry, filled but for the path's end; layer -1: no layer. */
struct list {
    struct lora_module *modules;
    int64_t n;
};

static void add(struct list *list, const struct lora_module *module, const char *name)
{
    struct lora_module *m = &list->modules[list->n++];
    *m = *module;
    if (m->layer < 0)
        snprintf(m->path, sizeof m->path, "%s", name);
    else if (m->expert < 0)
        snprintf(m->path, sizeof m->path, "model.layers.%" PRId64 ".%s", m->layer, name);
    else
        snprintf(m->path, sizeof m->path,
                 "model.layers.%" PRId64 ".feed_forward.experts.%" PRId64 ".%s", m->layer,
                 m->expert, name);
}

static void add_linear(struct list *list, const struct lora_module *at, enum lora_kind kind,
                       const char *name, const int64_t shape[2])
{
    struct lora_module m = *at;
    m.kind = kind;
    m.out = shape[0];
    m.in = shape[1];
    add(list, &m, name);
}

/* (out, in) of every linear: reference names and shapes as in the checkpoint. */
static void add_attention(struct list *list, const struct jamba_config *c,
                          const struct lora_module *at)
{
    const int64_t d = c->hidden_size, q = c->num_attention_heads * c->d_head;
    const int64_t kv = c->num_key_value_heads * c->d_head;
    add_linear(list, at, LORA_Q_PROJ, "self_attn.q_proj", (int64_t[]){ q, d });
    add_linear(list, at, LORA_K_PROJ, "self_attn.k_proj", (int64_t[]){ kv, d });
    add_linear(list, at, LORA_V_PROJ, "self_attn.v_proj", (int64_t[]){ kv, d });
    add_linear(list, at, LORA_O_PROJ, "self_attn.o_proj", (int64_t[]){ d, q });
}

static void add_mamba(struct list *list, const struct jamba_config *c, const struct lora_module *at)
{
    const int64_t d = c->hidden_size, d_inner = c->d_inner, dt_rank = c->mamba_dt_rank;
    add_linear(list, at, LORA_IN_PROJ, "mamba.in_proj", (int64_t[]){ 2 * d_inner, d });
    add_linear(list, at, LORA_X_PROJ, "mamba.x_proj",
               (int64_t[]){ dt_rank + 2 * c->mamba_d_state, d_inner });
    add_linear(list, at, LORA_DT_PROJ, "mamba.dt_proj", (int64_t[]){ d_inner, dt_rank });
    add_linear(list, at, LORA_OUT_PROJ, "mamba.out_proj", (int64_t[]){ d, d_inner });
}

static void add_mlp(struct list *list, const struct jamba_config *c, const struct lora_module *at)
{
    const bool dense = at->expert < 0;
    const int64_t d = c->hidden_size, d_ff = c->intermediate_size;
    const int64_t up[] = { d_ff, d }, down[] = { d, d_ff };
    add_linear(list, at, LORA_GATE_PROJ, dense ? "feed_forward.gate_proj" : "gate_proj", up);
    add_linear(list, at, LORA_UP_PROJ, dense ? "feed_forward.up_proj" : "up_proj", up);
    add_linear(list, at, LORA_DOWN_PROJ, dense ? "feed_forward.down_proj" : "down_proj", down);
}

static void add_layer(struct list *list, const struct jamba_config *c, int64_t layer)
{
    const bool is_moe = jamba_is_moe(c, layer);
    struct lora_module at = { .layer = layer,
                              .expert = -1,
                              .n_expert = is_moe ? c->num_experts : 1 };
    if (jamba_is_attention(c, layer))
        add_attention(list, c, &at);
    else
        add_mamba(list, c, &at);
    if (!is_moe) {
        add_mlp(list, c, &at);
        return;
    }
    add_linear(list, &at, LORA_ROUTER, "feed_forward.router",
               (int64_t[]){ c->num_experts, c->hidden_size });
    for (at.expert = 0; at.expert < c->num_experts; at.expert++)
        add_mlp(list, c, &at);
}

int64_t jamba_modules(const struct jamba_config *config, struct lora_module **out)
{
    const int64_t n = jamba_module_mixer(config, config->num_hidden_layers) + 1;
    size_t bytes = 0;
    *out = NULL;
    if (!size_mul((size_t)n, sizeof **out, &bytes))
        return -1;
    struct list list = { .modules = malloc(bytes) };
    if (list.modules == NULL)
        return -1;
    const struct lora_module outside = { .layer = -1, .expert = -1, .n_expert = 1 };
    const int64_t vocab = config->vocab_size, d = config->hidden_size;
    add_linear(&list, &outside, LORA_EMBED_TOKENS, "model.embed_tokens", (int64_t[]){ d, vocab });
    for (int64_t l = 0; l < config->num_hidden_layers; l++)
        add_layer(&list, config, l);
    add_linear(&list, &outside, LORA_LM_HEAD, "lm_head", (int64_t[]){ vocab, d });
    assert(list.n == n);
    *out = list.modules;
    return n;
}
