/* The names are those of any transformers since 4.40; the shapes are (out, in). */
#include "finetune/model/slots.h"

#include <inttypes.h>
#include <stdio.h>

struct walk {
    struct weights *w;
    slot_visitor *visit;
    void *context;
    struct err *err;
    int64_t layer;  /* -1 outside the layers */
    int64_t expert; /* -1 outside the experts */
};

/* The full name of a tensor of the layer, or of the expert, that the walk is at. */
static void set_name(const struct walk *walk, const char *name, char out[SLOT_NAME_SIZE])
{
    if (walk->layer < 0)
        snprintf(out, SLOT_NAME_SIZE, "%s", name);
    else if (walk->expert < 0)
        snprintf(out, SLOT_NAME_SIZE, "model.layers.%" PRId64 ".%s", walk->layer, name);
    else
        snprintf(out, SLOT_NAME_SIZE,
                 "model.layers.%" PRId64 ".feed_forward.experts.%" PRId64 ".%s", walk->layer,
                 walk->expert, name);
}

static bool matrix(const struct walk *walk, const char *name, int64_t rows, int64_t cols,
                   struct weight *to)
{
    struct slot slot = {
        .kind = SLOT_MATRIX, .start = START_NORMAL, .n_dim = 2, .dims = { rows, cols }, .matrix = to
    };
    set_name(walk, name, slot.name);
    return walk->visit(walk->context, &slot, walk->err);
}

static bool vector(const struct walk *walk, const char *name, int64_t n, enum slot_start start,
                   const real **to)
{
    struct slot slot = {
        .kind = SLOT_VECTOR, .start = start, .n_dim = 1, .dims = { n }, .vector = to
    };
    set_name(walk, name, slot.name);
    return walk->visit(walk->context, &slot, walk->err);
}

static bool visit_attention(const struct walk *walk, struct attention_weights *a)
{
    const struct jamba_config *c = &walk->w->config;
    const int64_t h = c->hidden_size, q = c->num_attention_heads * c->d_head;
    const int64_t kv = c->num_key_value_heads * c->d_head;
    return matrix(walk, "self_attn.q_proj.weight", q, h, &a->q_proj) &&
           matrix(walk, "self_attn.k_proj.weight", kv, h, &a->k_proj) &&
           matrix(walk, "self_attn.v_proj.weight", kv, h, &a->v_proj) &&
           matrix(walk, "self_attn.o_proj.weight", h, q, &a->o_proj);
}

static bool visit_conv(const struct walk *walk, struct mamba_weights *m)
{
    const struct jamba_config *c = &walk->w->config;
    struct slot slot = { .kind = SLOT_CONV,
                         .start = START_CONV,
                         .n_dim = 3,
                         .dims = { c->d_inner, 1, c->mamba_d_conv },
                         .vector = &m->conv_w };
    set_name(walk, "mamba.conv1d.weight", slot.name);
    if (!walk->visit(walk->context, &slot, walk->err))
        return false;
    if (c->mamba_conv_bias)
        return vector(walk, "mamba.conv1d.bias", c->d_inner, START_CONV, &m->conv_b);
    m->conv_b = walk->w->no_bias;
    return true;
}

static bool visit_a(const struct walk *walk, struct mamba_weights *m)
{
    const struct jamba_config *c = &walk->w->config;
    struct slot slot = { .kind = SLOT_A_LOG,
                         .start = START_A_LOG,
                         .n_dim = 2,
                         .dims = { c->d_inner, c->mamba_d_state },
                         .vector = &m->a };
    set_name(walk, "mamba.A_log", slot.name);
    return walk->visit(walk->context, &slot, walk->err);
}

static bool visit_mamba(const struct walk *walk, struct mamba_weights *m)
{
    const struct jamba_config *c = &walk->w->config;
    const int64_t h = c->hidden_size, di = c->d_inner, n = c->mamba_d_state, r = c->mamba_dt_rank;
    if (c->mamba_proj_bias &&
        (!vector(walk, "mamba.in_proj.bias", 2 * di, START_ZERO, &m->in_proj_bias) ||
         !vector(walk, "mamba.out_proj.bias", h, START_ZERO, &m->out_proj_bias)))
        return false;
    return matrix(walk, "mamba.in_proj.weight", 2 * di, h, &m->in_proj) && visit_conv(walk, m) &&
           matrix(walk, "mamba.x_proj.weight", r + 2 * n, di, &m->x_proj) &&
           vector(walk, "mamba.dt_layernorm.weight", r, START_ONE, &m->dt_norm) &&
           vector(walk, "mamba.b_layernorm.weight", n, START_ONE, &m->b_norm) &&
           vector(walk, "mamba.c_layernorm.weight", n, START_ONE, &m->c_norm) &&
           matrix(walk, "mamba.dt_proj.weight", di, r, &m->dt_proj) &&
           vector(walk, "mamba.dt_proj.bias", di, START_DT_BIAS, &m->dt_bias) && visit_a(walk, m) &&
           vector(walk, "mamba.D", di, START_ONE, &m->d) &&
           matrix(walk, "mamba.out_proj.weight", h, di, &m->out_proj);
}

static bool visit_mlp(const struct walk *walk, const char *names[3], struct mlp_weights *mlp)
{
    const int64_t h = walk->w->config.hidden_size, i = walk->w->config.intermediate_size;
    return matrix(walk, names[0], i, h, &mlp->gate_proj) &&
           matrix(walk, names[1], i, h, &mlp->up_proj) &&
           matrix(walk, names[2], h, i, &mlp->down_proj);
}

static bool visit_feed_forward(struct walk *walk, struct layer_weights *lw,
                               struct mlp_weights *mlps)
{
    static const char *dense[] = { "feed_forward.gate_proj.weight", "feed_forward.up_proj.weight",
                                   "feed_forward.down_proj.weight" };
    static const char *expert[] = { "gate_proj.weight", "up_proj.weight", "down_proj.weight" };
    const struct jamba_config *c = &walk->w->config;
    if (!lw->is_moe)
        return visit_mlp(walk, dense, mlps);
    bool ok =
        matrix(walk, "feed_forward.router.weight", c->num_experts, c->hidden_size, &lw->router);
    for (int64_t e = 0; ok && e < c->num_experts; e++) {
        walk->expert = e;
        ok = visit_mlp(walk, expert, &mlps[e]);
    }
    walk->expert = -1;
    return ok;
}

bool slots_visit(struct weights *w, slot_visitor *visit, void *context, struct err *err)
{
    const struct jamba_config *c = &w->config;
    struct walk walk = {
        .w = w, .visit = visit, .context = context, .err = err, .layer = -1, .expert = -1
    };
    if (!matrix(&walk, "model.embed_tokens.weight", c->vocab_size, c->hidden_size, &w->embedding))
        return false;
    struct mlp_weights *mlps = w->mlps;
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        struct layer_weights *lw = &w->layers[l];
        walk.layer = l;
        lw->is_attention = jamba_is_attention(c, l);
        lw->is_moe = jamba_is_moe(c, l);
        lw->mlp = mlps;
        if (!vector(&walk, "input_layernorm.weight", c->hidden_size, START_ONE, &lw->input_norm) ||
            !(lw->is_attention ? visit_attention(&walk, &lw->attention)
                               : visit_mamba(&walk, &lw->mamba)) ||
            !vector(&walk, "pre_ff_layernorm.weight", c->hidden_size, START_ONE,
                    &lw->pre_ff_norm) ||
            !visit_feed_forward(&walk, lw, mlps))
            return false;
        mlps += lw->is_moe ? c->num_experts : 1;
    }
    walk.layer = -1;
    if (!vector(&walk, "model.final_layernorm.weight", c->hidden_size, START_ONE, &w->final_norm))
        return false;
    if (!c->tie_word_embeddings)
        return matrix(&walk, "lm_head.weight", c->vocab_size, c->hidden_size, &w->head);
    w->head = w->embedding;
    return true;
}
