#include "finetune/model/head.h"

#include "finetune/model/modules.h"
#include "kernels/ops.h"

int64_t head_block_rows(const struct backend *be, int64_t vocab, int64_t n_row)
{
    const int64_t rows = ((int64_t)1 << (be->remote ? 28 : 24)) / vocab;
    const int64_t at_least = rows < 16 ? 16 : rows;
    return at_least < n_row ? at_least : n_row;
}

/* The head is the last module of jamba_modules. */
static struct linear_args head_linear(const struct block *b, const struct head_args *a)
{
    const int64_t module = b->adapter == NULL ? 0 : b->adapter->n_module - 1;
    return block_linear(b, a->w, module);
}

static struct rmsnorm_args norm_of(const struct block *b, const struct head_args *a,
                                   const struct act *x, int64_t n)
{
    return (struct rmsnorm_args){ .x = x,
                                  .w = a->norm,
                                  .n_row = n,
                                  .dim = b->config->hidden_size,
                                  .eps = b->config->rms_norm_eps };
}

/* n rows from `first` on: x picked, h normed (both (block_rows, d_model)), logits. */
static void forward_rows(const struct block *b, const struct head_args *a, int64_t first, int64_t n,
                         struct act *x, struct act *h, struct act *logits)
{
    op_pick_rows(b->be, &(struct pick_rows_args){ .x = a->x,
                                                  .index = a->rows + first,
                                                  .y = x,
                                                  .n_row = n,
                                                  .dim = b->config->hidden_size });
    struct rmsnorm_args norm = norm_of(b, a, x, n);
    norm.y = h;
    norm_forward(b->be, &norm);
    struct linear_args head = head_linear(b, a);
    head.n_row = n;
    head.slot = a->rows + first;
    head.per_token = 1;
    head.x = h;
    head.y = logits;
    linear_forward(b->be, &head);
}

static void backward_rows(const struct block *b, const struct head_args *a, int64_t first,
                          int64_t n, const struct act *x, const struct act *h,
                          const struct act *dlogits)
{
    const int64_t d_model = b->config->hidden_size;
    const size_t mark = arena_mark(b->be->scratch);
    struct act *dh = arena_acts(b->be, b->be->scratch, n * d_model),
               *dx = arena_acts(b->be, b->be->scratch, n * d_model);
    struct linear_args head = head_linear(b, a);
    head.n_row = n;
    head.slot = a->rows + first;
    head.per_token = 1;
    head.x = h;
    head.dy = dlogits;
    head.dx = dh;
    linear_backward(b->be, &head);
    op_zero(b->be, &(struct zero_args){ .y = dx, .bytes = act_bytes(b->be, n * d_model) });
    struct rmsnorm_args norm = norm_of(b, a, x, n);
    norm.dy = dh;
    norm.dx = dx;
    norm_backward(b->be, &norm);
    op_place_rows(b->be,
                  &(struct pick_rows_args){
                      .x = dx, .index = a->rows + first, .y = a->dx, .n_row = n, .dim = d_model });
    arena_rewind(b->be->scratch, mark);
}

void head_run(const struct block *b, const struct head_args *a)
{
    const int64_t d_model = b->config->hidden_size, vocab = a->w.rows;
    struct arena *scratch = b->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct act *x = arena_acts(b->be, scratch, a->block_rows * d_model);
    struct act *h = arena_acts(b->be, scratch, a->block_rows * d_model);
    struct act *logits = arena_acts(b->be, scratch, a->block_rows * vocab);
    for (int64_t first = 0; first < a->n_row; first += a->block_rows) {
        const int64_t left = a->n_row - first, n = left < a->block_rows ? left : a->block_rows;
        forward_rows(b, a, first, n, x, h, logits);
        op_cross_entropy(b->be, &(struct cross_entropy_args){ .logits = logits,
                                                              .target = a->target + first,
                                                              .logprob = a->logprob + first,
                                                              .n_row = n,
                                                              .vocab = vocab,
                                                              .grad_scale = a->grad_scale });
        if (a->dx != NULL)
            backward_rows(b, a, first, n, x, h, logits);
    }
    arena_rewind(scratch, mark);
}

void head_logits(const struct block *b, const struct head_args *a, struct act *logits)
{
    const size_t mark = arena_mark(b->be->scratch);
    struct act *x = arena_acts(b->be, b->be->scratch, a->n_row * b->config->hidden_size);
    struct act *h = arena_acts(b->be, b->be->scratch, a->n_row * b->config->hidden_size);
    forward_rows(b, a, 0, a->n_row, x, h, logits);
    arena_rewind(b->be->scratch, mark);
}
