#include "finetune/model/mamba.h"

#include "finetune/model/modules.h"
#include "kernels/ops.h"

/* Order of the mixer's modules in jamba_modules. */
enum { IN_PROJ, X_PROJ, DT_PROJ, OUT_PROJ };

struct dims {
    int64_t d_model, d_inner, d_state, d_conv, dt_rank, n_low; /* n_low: dt_rank + 2 d_state */
};

static struct dims dims_of(const struct block *b)
{
    const struct jamba_config *c = b->config;
    return (
        struct dims){ c->hidden_size,  c->d_inner,       c->mamba_d_state,
                      c->mamba_d_conv, c->mamba_dt_rank, c->mamba_dt_rank + 2 * c->mamba_d_state };
}

void mamba_keep_gemm(const struct block *b, struct mamba_keep *k, struct arena *arena)
{
    const struct dims d = dims_of(b);
    k->xz = arena_acts(b->be, arena, b->n_tok * 2 * d.d_inner);
    k->x_proj = arena_acts(b->be, arena, b->n_tok * d.n_low);
}

void mamba_keep_rest(const struct block *b, struct mamba_keep *k, struct arena *arena)
{
    const struct dims d = dims_of(b);
    const int64_t n = b->n_tok;
    k->h = arena_acts(b->be, arena, n * d.d_model);
    k->u = arena_acts(b->be, arena, n * d.d_inner);
    k->dt_low = arena_acts(b->be, arena, n * d.dt_rank);
    k->b = arena_acts(b->be, arena, n * d.d_state);
    k->c = arena_acts(b->be, arena, n * d.d_state);
    k->dt = arena_acts(b->be, arena, n * d.d_inner);
    k->y = arena_acts(b->be, arena, n * d.d_inner);
    k->tiles = b->states
                   ? arena_reals(arena, (n + SCAN_TILE - 1) / SCAN_TILE * d.d_state * d.d_inner)
                   : NULL;
}

static struct linear_args linear(const struct block *b, struct weight w, int64_t which)
{
    return block_linear(b, w, jamba_module_mixer(b->config, b->layer) + which);
}

static struct conv1d_args conv_args(const struct block *b, const struct mamba_keep *k,
                                    const struct mamba_edge *edge)
{
    const struct dims d = dims_of(b);
    return (struct conv1d_args){ .x = k->xz,
                                 .pos = b->pos,
                                 .w = b->w->mamba.conv_w,
                                 .b = b->w->mamba.conv_b,
                                 .carry_in = edge->conv_in,
                                 .n_tok = b->n_tok,
                                 .d_inner = d.d_inner,
                                 .d_conv = d.d_conv,
                                 .ldx = 2 * d.d_inner,
                                 .lddx = 2 * d.d_inner };
}

static struct scan_args scan_args(const struct block *b, const struct mamba_keep *k,
                                  const struct mamba_edge *edge)
{
    const struct dims d = dims_of(b);
    const struct mamba_weights *w = &b->w->mamba;
    return (struct scan_args){ .u = k->u,
                               .dt = k->dt,
                               .z = act_in(b->be, k->xz, d.d_inner),
                               .b = k->b,
                               .c = k->c,
                               .a = w->a,
                               .d = w->d,
                               .dt_bias = w->dt_bias,
                               .pos = b->pos,
                               .h_in = edge->h_in,
                               .y = k->y,
                               .tile_states = k->tiles,
                               .n_tok = b->n_tok,
                               .d_inner = d.d_inner,
                               .d_state = d.d_state,
                               .ldz = 2 * d.d_inner,
                               .lddz = 2 * d.d_inner };
}

/* The inner norms, as (input columns of x_proj, weight, output): dt, B, C. */
struct inner_norm {
    int64_t first, dim;
    const real *w;
    struct act *y;
};

static void inner_norms(const struct block *b, const struct mamba_keep *k, struct inner_norm out[3])
{
    const struct dims d = dims_of(b);
    const struct mamba_weights *w = &b->w->mamba;
    out[0] = (struct inner_norm){ 0, d.dt_rank, w->dt_norm, k->dt_low };
    out[1] = (struct inner_norm){ d.dt_rank, d.d_state, w->b_norm, k->b };
    out[2] = (struct inner_norm){ d.dt_rank + d.d_state, d.d_state, w->c_norm, k->c };
}

void mamba_forward(const struct block *b, struct mamba_keep *k, const struct mamba_edge *edge,
                   struct act *out, bool have_gemm)
{
    const struct dims d = dims_of(b);
    const struct mamba_weights *w = &b->w->mamba;
    if (!have_gemm) {
        struct linear_args in = linear(b, w->in_proj, IN_PROJ);
        in.bias = w->in_proj_bias;
        in.x = k->h;
        in.y = k->xz;
        linear_forward(b->be, &in);
    }
    struct conv1d_args conv = conv_args(b, k, edge);
    conv.y = k->u;
    conv.carry_out = edge->conv_out;
    op_conv1d_forward(b->be, &conv);
    if (!have_gemm) {
        struct linear_args low = linear(b, w->x_proj, X_PROJ);
        low.x = k->u;
        low.y = k->x_proj;
        linear_forward(b->be, &low);
    }
    struct inner_norm norms[3];
    inner_norms(b, k, norms);
    for (int i = 0; i < 3; i++)
        op_rmsnorm_forward(b->be,
                           &(struct rmsnorm_args){ .x = act_in(b->be, k->x_proj, norms[i].first),
                                                   .w = norms[i].w,
                                                   .y = norms[i].y,
                                                   .n_row = b->n_tok,
                                                   .dim = norms[i].dim,
                                                   .ldx = d.n_low,
                                                   .eps = b->config->rms_norm_eps });
    struct linear_args dt = linear(b, w->dt_proj, DT_PROJ);
    dt.x = k->dt_low;
    dt.y = k->dt;
    linear_forward(b->be, &dt);
    struct scan_args scan = scan_args(b, k, edge);
    scan.h_out = edge->h_out;
    op_scan_forward(b->be, &scan);
    if (out == NULL)
        return;
    struct linear_args o = linear(b, w->out_proj, OUT_PROJ);
    o.bias = w->out_proj_bias;
    o.x = k->y;
    o.y = out;
    linear_forward(b->be, &o);
}

/* dx_proj (n, n_low) through the three norms. */
static void norms_backward(const struct block *b, const struct mamba_keep *k,
                           struct act *const dy[3], struct act *dx_proj)
{
    const struct dims d = dims_of(b);
    struct inner_norm norms[3];
    inner_norms(b, k, norms);
    op_zero(b->be,
            &(struct zero_args){ .y = dx_proj, .bytes = act_bytes(b->be, b->n_tok * d.n_low) });
    for (int i = 0; i < 3; i++)
        op_rmsnorm_backward(b->be,
                            &(struct rmsnorm_args){ .x = act_in(b->be, k->x_proj, norms[i].first),
                                                    .w = norms[i].w,
                                                    .dy = dy[i],
                                                    .dx = act_at(b->be, dx_proj, norms[i].first),
                                                    .n_row = b->n_tok,
                                                    .dim = norms[i].dim,
                                                    .ldx = d.n_low,
                                                    .eps = b->config->rms_norm_eps });
}

void mamba_backward(const struct block *b, const struct mamba_keep *k,
                    const struct mamba_edge *edge, const struct mamba_dedge *dedge,
                    const struct act *dy, struct act *dh)
{
    const struct dims d = dims_of(b);
    const struct mamba_weights *w = &b->w->mamba;
    const int64_t n = b->n_tok;
    struct arena *scratch = b->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct act *dxz = arena_acts(b->be, scratch, n * 2 * d.d_inner),
               *du = arena_acts(b->be, scratch, n * d.d_inner);
    struct act *ddt = arena_acts(b->be, scratch, n * d.d_inner),
               *d_y = arena_acts(b->be, scratch, n * d.d_inner);
    struct act *dx_proj = arena_acts(b->be, scratch, n * d.n_low);
    struct act *d_norm[3] = { arena_acts(b->be, scratch, n * d.dt_rank),
                              arena_acts(b->be, scratch, n * d.d_state),
                              arena_acts(b->be, scratch, n * d.d_state) }; /* at normed dt, B, C */

    struct linear_args out = linear(b, w->out_proj, OUT_PROJ);
    out.x = k->y;
    out.dy = dy;
    out.dx = d_y;
    linear_backward(b->be, &out);

    struct scan_args scan = scan_args(b, k, edge);
    scan.dy = d_y;
    scan.du = du;
    scan.ddt = ddt;
    scan.dz = act_at(b->be, dxz, d.d_inner);
    scan.db = d_norm[1];
    scan.dc = d_norm[2];
    scan.dh_out = scan.dh_in = dedge->dstate;
    op_scan_backward(b->be, &scan);

    struct linear_args dt = linear(b, w->dt_proj, DT_PROJ);
    dt.x = k->dt_low;
    dt.dy = ddt;
    dt.dx = d_norm[0];
    linear_backward(b->be, &dt);
    norms_backward(b, k, d_norm, dx_proj);

    struct linear_args low = linear(b, w->x_proj, X_PROJ);
    low.x = k->u;
    low.dy = dx_proj;
    low.dx = du;
    low.add_dx = true;
    linear_backward(b->be, &low);

    struct conv1d_args conv = conv_args(b, k, edge);
    conv.dy = du;
    conv.dx = dxz;
    conv.dcarry_out = conv.dcarry_in = dedge->dconv;
    op_conv1d_backward(b->be, &conv);

    struct linear_args in = linear(b, w->in_proj, IN_PROJ);
    in.x = k->h;
    in.dy = dxz;
    in.dx = dh;
    linear_backward(b->be, &in);
    arena_rewind(scratch, mark);
}
