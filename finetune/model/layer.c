#include "finetune/model/layer.h"

#include "kernels/ops.h"

void layer_keep_gemm(const struct block *b, struct block_keep *k, struct arena *arena)
{
    k->mid = arena_reals(arena, b->n_tok * b->config->hidden_size);
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

/* y += x, (n, d_model). */
static void add_residual(const struct block *b, const real *x, real *y)
{
    op_add(b->be,
           &(struct add_args){ .a = x, .b = y, .y = y, .n = b->n_tok * b->config->hidden_size });
}

/* How much of a forward is there already. */
struct have {
    bool gemm, attention;
};

/* k->mid = x + mixer(norm(x)). */
static void mixer_forward(const struct block *b, struct block_keep *k,
                          const struct layer_edge *edge, const real *x, struct have have)
{
    real *out = have.gemm ? NULL : k->mid;
    if (b->w->is_attention)
        attention_forward(b, &k->mixer.attention, &edge->attention, x, out, have.gemm,
                          have.attention);
    else
        mamba_forward(b, &k->mixer.mamba, &edge->mamba, x, out, have.gemm);
    if (out != NULL)
        add_residual(b, x, k->mid);
}

static void ff_forward(const struct block *b, struct block_keep *k, real *out, bool have_gemm,
                       bool count)
{
    if (b->w->is_moe)
        moe_forward(b, &k->ff.moe, k->mid, out, have_gemm, count);
    else
        mlp_forward(b, &k->ff.mlp, k->mid, out, have_gemm);
}

void layer_forward(const struct block *b, struct block_keep *k, const struct layer_edge *edge,
                   const real *x, real *out)
{
    mixer_forward(b, k, edge, x, (struct have){ 0 });
    ff_forward(b, k, out, false, true);
    add_residual(b, k->mid, out);
}

void layer_recompute(const struct block *b, struct block_keep *k, const struct layer_edge *edge,
                     const real *x, bool have_gemm)
{
    struct layer_edge no_output = *edge; /* the states after the chunk are there */
    no_output.mamba.conv_out = no_output.mamba.h_out = NULL;
    mixer_forward(b, k, &no_output, x, (struct have){ .gemm = have_gemm, .attention = true });
    ff_forward(b, k, NULL, have_gemm, false);
}

void layer_backward(const struct block *b, const struct block_keep *k,
                    const struct layer_edge *edge, const struct layer_dedge *dedge, const real *x,
                    real *dx)
{
    const size_t mark = arena_mark(b->be->scratch);
    real *dh = arena_reals(b->be->scratch, b->n_tok * b->config->hidden_size);
    if (b->w->is_moe)
        moe_backward(b, &k->ff.moe, dx, dh);
    else
        mlp_backward(b, &k->ff.mlp, dx, dh);
    block_norm_backward(b, k->mid, b->w->pre_ff_norm, dh, dx);
    if (b->w->is_attention)
        attention_backward(b, &k->mixer.attention, &edge->attention, dedge->dk, dedge->dv, dx, dh);
    else
        mamba_backward(b, &k->mixer.mamba, &edge->mamba, &dedge->mamba, dx, dh);
    block_norm_backward(b, x, b->w->input_norm, dh, dx);
    arena_rewind(b->be->scratch, mark);
}
