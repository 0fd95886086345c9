#include "finetune/model/layer.h"

#include "kernels/core/profile.h"
#include "kernels/ops.h"

void layer_keep_gemm(const struct block *b, struct block_keep *k, struct arena *arena)
{
    k->mid = arena_acts(b->be, arena, b->n_tok * b->config->hidden_size);
    if (b->w->is_attention)
        attention_keep_gemm(b, &k->mixer.attention, arena);
    else
        mamba_keep_gemm(b, &k->mixer.mamba, arena);
    if (b->w->is_moe)
        moe_keep_gemm(b, &k->ff.moe, arena);
    else
        mlp_keep_gemm(b, &k->ff.mlp, arena);
}

void layer_keep_rest(const struct block *b, struct block_keep *k, struct arena *arena)
{
    if (b->w->is_attention)
        attention_keep_rest(b, &k->mixer.attention, arena);
    else
        mamba_keep_rest(b, &k->mixer.mamba, arena);
    if (b->w->is_moe)
        moe_keep_rest(b, &k->ff.moe, arena);
    else
        mlp_keep_rest(b, &k->ff.mlp, arena);
}

/* ---- whose time it is ---- */

static enum profile_block enter_mixer(const struct block *b)
{
    return profile_enter(b->be->profile, b->w->is_attention ? PROFILE_ATTENTION : PROFILE_MAMBA);
}

static enum profile_block enter_ff(const struct block *b)
{
    return profile_enter(b->be->profile, b->w->is_moe ? PROFILE_MOE : PROFILE_MLP);
}

static void leave(const struct block *b, enum profile_block before)
{
    profile_leave(b->be->profile, before);
}

/* ---- the layer ---- */

/* How much of a forward is there already. */
struct have {
    bool gemm, attention;
};

/* k->mid = mixer(norm(x)): without its residual, which the next norm adds. */
static void mixer_forward(const struct block *b, struct block_keep *k,
                          const struct layer_edge *edge, const struct act *x, struct have have)
{
    struct act *out = have.gemm ? NULL : k->mid;
    const enum profile_block before = enter_mixer(b);
    if (b->w->is_attention) {
        block_norm(b, x, b->w->input_norm, k->mixer.attention.h);
        attention_forward(b, &k->mixer.attention, &edge->attention, out, have.gemm, have.attention);
    } else {
        block_norm(b, x, b->w->input_norm, k->mixer.mamba.h);
        mamba_forward(b, &k->mixer.mamba, &edge->mamba, out, have.gemm);
    }
    leave(b, before);
}

/* out = mid + mlp(h); nothing of it when out is NULL. */
static void mlp_add(const struct block *b, struct block_keep *k, struct act *out, bool have_gemm)
{
    mlp_forward(b, &k->ff.mlp, out, have_gemm);
    if (out != NULL)
        op_add(b->be,
               &(struct add_args){
                   .a = k->mid, .b = out, .y = out, .n = b->n_tok * b->config->hidden_size });
}

/* k->mid += x unless it is there with the residual, then out = mid + ff(norm(mid)). */
static void ff_forward(const struct block *b, struct block_keep *k, const struct act *x,
                       struct act *out, bool have_gemm, bool count)
{
    const enum profile_block before = enter_ff(b);
    struct act *h = b->w->is_moe ? k->ff.moe.h : k->ff.mlp.h;
    if (have_gemm)
        block_norm(b, k->mid, b->w->pre_ff_norm, h);
    else
        block_add_norm(b, x, k->mid, b->w->pre_ff_norm, h);
    if (b->w->is_moe)
        moe_forward(b, &k->ff.moe, k->mid, out, have_gemm, count);
    else
        mlp_add(b, k, out, have_gemm);
    leave(b, before);
}

void layer_forward(const struct block *b, struct block_keep *k, const struct layer_edge *edge,
                   const struct act *x, struct act *out)
{
    mixer_forward(b, k, edge, x, (struct have){ 0 });
    ff_forward(b, k, x, out, false, true);
}

void layer_recompute(const struct block *b, struct block_keep *k, const struct layer_edge *edge,
                     const struct act *x, bool have_gemm)
{
    struct layer_edge no_output = *edge; /* the states after the chunk are there */
    no_output.mamba.conv_out = NULL;
    no_output.mamba.h_out = NULL;
    mixer_forward(b, k, &no_output, x, (struct have){ .gemm = have_gemm, .attention = true });
    ff_forward(b, k, x, NULL, have_gemm, false);
}

void layer_backward(const struct block *b, const struct block_keep *k,
                    const struct layer_edge *edge, const struct layer_dedge *dedge,
                    const struct act *x, struct act *dx)
{
    const size_t mark = arena_mark(b->be->scratch);
    struct act *dh = arena_acts(b->be, b->be->scratch, b->n_tok * b->config->hidden_size);
    enum profile_block before = enter_ff(b);
    if (b->w->is_moe)
        moe_backward(b, &k->ff.moe, dx, dh);
    else
        mlp_backward(b, &k->ff.mlp, dx, dh);
    block_norm_backward(b, k->mid, b->w->pre_ff_norm, dh, dx);
    leave(b, before);
    before = enter_mixer(b);
    if (b->w->is_attention)
        attention_backward(b, &k->mixer.attention, &edge->attention, dedge->dk, dedge->dv, dx, dh);
    else
        mamba_backward(b, &k->mixer.mamba, &edge->mamba, &dedge->mamba, dx, dh);
    block_norm_backward(b, x, b->w->input_norm, dh, dx);
    leave(b, before);
    arena_rewind(b->be->scratch, mark);
}
