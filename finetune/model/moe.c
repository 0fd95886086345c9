#include "finetune/model/moe.h"

#include "finetune/model/modules.h"
#include "kernels/ops.h"

/* Order of an expert's modules in jamba_modules; the router comes before the first. */
enum { GATE_PROJ, UP_PROJ, DOWN_PROJ, N_PROJ };

static int64_t n_slot(const struct block *b)
{
    return b->n_tok * b->config->num_experts_per_tok;
}

static int32_t *push_ints(struct arena *arena, int64_t n)
{
    return arena_push(arena, (size_t)n * sizeof(int32_t));
}

void moe_keep_gemm(const struct block *b, struct moe_keep *k, struct arena *arena)
{
    const struct jamba_config *c = b->config;
    k->p = arena_reals(arena, b->n_tok * c->num_experts);
    k->weight = arena_reals(arena, n_slot(b));
    k->expert = push_ints(arena, n_slot(b));
    k->slot = push_ints(arena, n_slot(b));
    k->place = push_ints(arena, n_slot(b));
    k->offset = push_ints(arena, c->num_experts + 1);
    k->gate = arena_acts(b->be, arena, n_slot(b) * c->intermediate_size);
    k->up = arena_acts(b->be, arena, n_slot(b) * c->intermediate_size);
}

void moe_keep_rest(const struct block *b, struct moe_keep *k, struct arena *arena)
{
    const struct jamba_config *c = b->config;
    k->h = arena_acts(b->be, arena, b->n_tok * c->hidden_size);
    k->rows = arena_acts(b->be, arena, n_slot(b) * c->hidden_size);
    k->m = arena_acts(b->be, arena, n_slot(b) * c->intermediate_size);
}

static struct linear_args router(const struct block *b)
{
    return block_linear(b, b->w->router, jamba_module_feed_forward(b->config, b->layer));
}

/* A projection of expert e over its rows, from `first` on. */
static struct linear_args expert(const struct block *b, const struct moe_keep *k, int64_t e,
                                 int which)
{
    const struct mlp_weights *w = &b->w->mlp[e];
    const struct weight weights[N_PROJ] = { w->gate_proj, w->up_proj, w->down_proj };
    const int64_t module = jamba_module_feed_forward(b->config, b->layer) + 1 + e * N_PROJ + which;
    struct linear_args l = block_linear(b, weights[which], module);
    l.n_row = b->counts[e + 1] - b->counts[e];
    l.slot = k->slot + b->counts[e];
    l.per_token = b->config->num_experts_per_tok;
    return l;
}

static void read_counts(const struct block *b, const struct moe_keep *k)
{
    op_route_counts(b->be, &(struct route_counts_args){ .offset = k->offset,
                                                        .host = b->counts,
                                                        .n_tok = b->n_tok,
                                                        .n_expert = b->config->num_experts,
                                                        .top_k = b->config->num_experts_per_tok });
}

static struct route_args route_args(const struct block *b, const struct moe_keep *k)
{
    return (struct route_args){ .p = k->p,
                                .expert = k->expert,
                                .weight = k->weight,
                                .slot = k->slot,
                                .place = k->place,
                                .offset = k->offset,
                                .doc = b->doc,
                                .n_tok = b->n_tok,
                                .n_expert = b->config->num_experts,
                                .top_k = b->config->num_experts_per_tok };
}

static void route(const struct block *b, struct moe_keep *k, bool count)
{
    const size_t mark = arena_mark(b->be->scratch);
    struct act *logits = arena_acts(b->be, b->be->scratch, b->n_tok * b->config->num_experts);
    struct linear_args r = router(b);
    r.x = k->h;
    r.y = logits;
    linear_forward(b->be, &r);
    struct route_args a = route_args(b, k);
    a.logits = logits;
    op_route_forward(b->be, &a);
    arena_rewind(b->be->scratch, mark);
    if (count && b->router != NULL)
        op_aux_sums(b->be, &(struct aux_sums_args){ .p = k->p,
                                                    .expert = k->expert,
                                                    .doc = b->doc,
                                                    .f = b->router->f,
                                                    .psum = b->router->psum,
                                                    .n_tok = b->n_tok,
                                                    .n_expert = a.n_expert,
                                                    .top_k = a.top_k });
}

/* Each expert's down projection on its rows, then back to the tokens' residual. */
static void combine_experts(const struct block *b, const struct moe_keep *k,
                            const struct act *residual, struct act *out)
{
    const struct jamba_config *c = b->config;
    const size_t mark = arena_mark(b->be->scratch);
    struct act *y = arena_acts(b->be, b->be->scratch, n_slot(b) * c->hidden_size);
    for (int64_t e = 0; e < c->num_experts; e++) {
        struct linear_args down = expert(b, k, e, DOWN_PROJ);
        down.x = act_in(b->be, k->m, b->counts[e] * c->intermediate_size);
        down.y = act_at(b->be, y, b->counts[e] * c->hidden_size);
        linear_forward(b->be, &down);
    }
    op_combine(b->be, &(struct combine_args){ .x = y,
                                              .place = k->place,
                                              .weight = k->weight,
                                              .base = residual,
                                              .y = out,
                                              .n_tok = b->n_tok,
                                              .top_k = c->num_experts_per_tok,
                                              .dim = c->hidden_size });
    arena_rewind(b->be->scratch, mark);
}

void moe_forward(const struct block *b, struct moe_keep *k, const struct act *residual,
                 struct act *out, bool have_gemm, bool count)
{
    const struct jamba_config *c = b->config;
    if (!have_gemm)
        route(b, k, count);
    op_gather_rows(b->be, &(struct gather_rows_args){ .x = k->h,
                                                      .index = k->slot,
                                                      .y = k->rows,
                                                      .n_row = n_slot(b),
                                                      .dim = c->hidden_size,
                                                      .per_row = c->num_experts_per_tok });
    read_counts(b, k);
    for (int64_t e = 0; e < c->num_experts && !have_gemm; e++) {
        for (int which = GATE_PROJ; which <= UP_PROJ; which++) {
            struct linear_args l = expert(b, k, e, which);
            l.x = act_in(b->be, k->rows, b->counts[e] * c->hidden_size);
            l.y = act_at(b->be, which == GATE_PROJ ? k->gate : k->up,
                         b->counts[e] * c->intermediate_size);
            linear_forward(b->be, &l);
        }
    }
    op_swiglu_forward(b->be, &(struct swiglu_args){ .gate = k->gate,
                                                    .up = k->up,
                                                    .y = k->m,
                                                    .n = n_slot(b) * c->intermediate_size });
    if (out != NULL)
        combine_experts(b, k, residual, out);
}

/* dy of each row scaled by its weight -> gradients at gate and up; and p c = <dm, m> of each slot.
 */
static void hidden_backward(const struct block *b, const struct moe_keep *k, const struct act *dy,
                            struct act *dgate, struct act *dup, real *dots)
{
    const struct jamba_config *c = b->config;
    const size_t mark = arena_mark(b->be->scratch);
    struct act *dy_rows = arena_acts(b->be, b->be->scratch, n_slot(b) * c->hidden_size);
    op_gather_rows(b->be, &(struct gather_rows_args){ .x = dy,
                                                      .index = k->slot,
                                                      .scale = k->weight,
                                                      .y = dy_rows,
                                                      .n_row = n_slot(b),
                                                      .dim = c->hidden_size,
                                                      .per_row = c->num_experts_per_tok });
    for (int64_t e = 0; e < c->num_experts; e++) {
        struct linear_args down = expert(b, k, e, DOWN_PROJ);
        down.x = act_in(b->be, k->m, b->counts[e] * c->intermediate_size);
        down.dy = act_in(b->be, dy_rows, b->counts[e] * c->hidden_size);
        down.dx = act_at(b->be, dup, b->counts[e] * c->intermediate_size);
        linear_backward(b->be, &down);
    }
    op_row_dot(b->be, &(struct row_dot_args){ .x = dup,
                                              .y = k->m,
                                              .index = k->slot,
                                              .out = dots,
                                              .n_row = n_slot(b),
                                              .dim = c->intermediate_size });
    op_swiglu_backward(b->be, &(struct swiglu_args){ .gate = k->gate,
                                                     .up = k->up,
                                                     .dy = dup,
                                                     .dgate = dgate,
                                                     .dup = dup,
                                                     .n = n_slot(b) * c->intermediate_size });
    arena_rewind(b->be->scratch, mark);
}

/* Router logits' gradient, and through the router's weights to dh (written). */
static void router_backward(const struct block *b, const struct moe_keep *k, const real *dots,
                            struct act *dh)
{
    const size_t mark = arena_mark(b->be->scratch);
    struct act *dlogits = arena_acts(b->be, b->be->scratch, b->n_tok * b->config->num_experts);
    struct route_args a = route_args(b, k);
    a.dot = dots;
    a.dlogits = dlogits;
    if (b->router != NULL) {
        a.aux_f = b->router->f;
        a.aux_scale = b->router->scale;
    }
    op_route_backward(b->be, &a);
    struct linear_args r = router(b);
    r.x = k->h;
    r.dy = dlogits;
    r.dx = dh;
    linear_backward(b->be, &r);
    arena_rewind(b->be->scratch, mark);
}

void moe_backward(const struct block *b, const struct moe_keep *k, const struct act *dy,
                  struct act *dh)
{
    const struct jamba_config *c = b->config;
    struct arena *scratch = b->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct act *dgate = arena_acts(b->be, scratch, n_slot(b) * c->intermediate_size);
    struct act *dup = arena_acts(b->be, scratch, n_slot(b) * c->intermediate_size);
    struct act *drows = arena_acts(b->be, scratch, n_slot(b) * c->hidden_size);
    real *dots = arena_reals(scratch, n_slot(b));
    read_counts(b, k);
    hidden_backward(b, k, dy, dgate, dup, dots);
    for (int64_t e = 0; e < c->num_experts; e++) {
        for (int which = GATE_PROJ; which <= UP_PROJ; which++) {
            struct linear_args l = expert(b, k, e, which);
            l.x = act_in(b->be, k->rows, b->counts[e] * c->hidden_size);
            l.dy = act_in(b->be, which == GATE_PROJ ? dgate : dup,
                          b->counts[e] * c->intermediate_size);
            l.dx = act_at(b->be, drows, b->counts[e] * c->hidden_size);
            l.add_dx = which == UP_PROJ;
            linear_backward(b->be, &l);
        }
    }
    router_backward(b, k, dots, dh);
    op_combine(b->be, &(struct combine_args){ .x = drows,
                                              .place = k->place,
                                              .base = dh,
                                              .y = dh,
                                              .n_tok = b->n_tok,
                                              .top_k = c->num_experts_per_tok,
                                              .dim = c->hidden_size });
    arena_rewind(scratch, mark);
}
