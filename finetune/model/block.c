#include "finetune/model/block.h"

#include "kernels/core/profile.h"
#include "kernels/ops.h"

struct linear_args block_linear(const struct block *b, struct weight w, int64_t module)
{
    return (struct linear_args){
        .w = w,
        .lora = b->adapter == NULL ? NULL : lora_adapter_slot(b->adapter, module),
        .dropout = &b->dropout,
        .n_row = b->n_tok,
        .first_token = b->first_token,
    };
}

void norm_forward(struct backend *be, const struct rmsnorm_args *a)
{
    const enum profile_block before = profile_enter(be->profile, PROFILE_NORM);
    op_rmsnorm_forward(be, a);
    profile_leave(be->profile, before);
}

void norm_backward(struct backend *be, const struct rmsnorm_args *a)
{
    const enum profile_block before = profile_enter(be->profile, PROFILE_NORM);
    op_rmsnorm_backward(be, a);
    profile_leave(be->profile, before);
}

static struct rmsnorm_args norm_args(const struct block *b, const struct act *x, const real *w)
{
    return (struct rmsnorm_args){ .x = x,
                                  .w = w,
                                  .n_row = b->n_tok,
                                  .dim = b->config->hidden_size,
                                  .eps = b->config->rms_norm_eps };
}

void block_norm(const struct block *b, const struct act *x, const real *w, struct act *out)
{
    struct rmsnorm_args a = norm_args(b, x, w);
    a.y = out;
    norm_forward(b->be, &a);
}

void block_add_norm(const struct block *b, const struct act *residual, struct act *x, const real *w,
                    struct act *out)
{
    struct rmsnorm_args a = norm_args(b, x, w);
    a.residual = residual;
    a.sum = x;
    a.y = out;
    norm_forward(b->be, &a);
}

void block_norm_backward(const struct block *b, const struct act *x, const real *w,
                         const struct act *dy, struct act *dx)
{
    struct rmsnorm_args a = norm_args(b, x, w);
    a.dy = dy;
    a.dx = dx;
    norm_backward(b->be, &a);
}
