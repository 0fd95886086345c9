#include "finetune/model/mlp.h"

#include "finetune/model/modules.h"
#include "kernels/ops.h"

/* Order of the feed-forward's modules in jamba_modules. */
enum { GATE_PROJ, UP_PROJ, DOWN_PROJ };

void mlp_keep_gemm(const struct block *b, struct mlp_keep *k, struct arena *arena)
{
    k->gate = arena_acts(b->be, arena, b->n_tok * b->config->intermediate_size);
    k->up = arena_acts(b->be, arena, b->n_tok * b->config->intermediate_size);
}

void mlp_keep_rest(const struct block *b, struct mlp_keep *k, struct arena *arena)
{
    k->h = arena_acts(b->be, arena, b->n_tok * b->config->hidden_size);
    k->m = arena_acts(b->be, arena, b->n_tok * b->config->intermediate_size);
}

static struct linear_args linear(const struct block *b, struct weight w, int64_t which)
{
    return block_linear(b, w, jamba_module_feed_forward(b->config, b->layer) + which);
}

void mlp_forward(const struct block *b, struct mlp_keep *k, struct act *out, bool have_gemm)
{
    const struct mlp_weights *w = b->w->mlp;
    if (!have_gemm) {
        struct linear_args gate = linear(b, w->gate_proj, GATE_PROJ);
        gate.x = k->h;
        gate.y = k->gate;
        linear_forward(b->be, &gate);
        struct linear_args up = linear(b, w->up_proj, UP_PROJ);
        up.x = k->h;
        up.y = k->up;
        linear_forward(b->be, &up);
    }
    op_swiglu_forward(b->be, &(struct swiglu_args){ .gate = k->gate,
                                                    .up = k->up,
                                                    .y = k->m,
                                                    .n = b->n_tok * b->config->intermediate_size });
    if (out == NULL)
        return;
    struct linear_args down = linear(b, w->down_proj, DOWN_PROJ);
    down.x = k->m;
    down.y = out;
    linear_forward(b->be, &down);
}

void mlp_backward(const struct block *b, const struct mlp_keep *k, const struct act *dy,
                  struct act *dh)
{
    const struct mlp_weights *w = b->w->mlp;
    const int64_t n = b->n_tok * b->config->intermediate_size;
    struct arena *scratch = b->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct act *dm = arena_acts(b->be, scratch, n), *dgate = arena_acts(b->be, scratch, n);
    struct linear_args down = linear(b, w->down_proj, DOWN_PROJ);
    down.x = k->m;
    down.dy = dy;
    down.dx = dm;
    linear_backward(b->be, &down);
    /* dm becomes the gradient at up. */
    op_swiglu_backward(
        b->be, &(struct swiglu_args){
                   .gate = k->gate, .up = k->up, .dy = dm, .dgate = dgate, .dup = dm, .n = n });
    struct linear_args gate = linear(b, w->gate_proj, GATE_PROJ);
    gate.x = k->h;
    gate.dy = dgate;
    gate.dx = dh;
    linear_backward(b->be, &gate);
    struct linear_args up = linear(b, w->up_proj, UP_PROJ);
    up.x = k->h;
    up.dy = dm;
    up.dx = dh;
    up.add_dx = true;
    linear_backward(b->be, &up);
    arena_rewind(scratch, mark);
}
