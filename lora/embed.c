#include "lora/embed.h"

#include "kernels/ops.h"

/* t[i] = A[:, id_i], (n_row, rank), in scratch. */
static struct embed_lora_args gather(struct backend *be, const struct embed_lookup *a)
{
    struct embed_lora_args g = {
        .ids = a->ids,
        .a = a->lora->act_a,
        .n_row = a->n_row,
        .rank = a->lora->rank,
        .vocab = a->w.rows,
        .pad_id = a->pad_id,
    };
    g.t = arena_acts(be, be->scratch, a->n_row * g.rank);
    op_embed_lora_forward(be, &g);
    return g;
}

void embed_lookup_forward(struct backend *be, const struct embed_lookup *a)
{
    op_embed_forward(be, &(struct embed_args){ .ids = a->ids,
                                               .table = a->w.data,
                                               .dtype = a->w.dtype,
                                               .y = a->y,
                                               .n_row = a->n_row,
                                               .dim = a->w.cols,
                                               .vocab = a->w.rows });
    if (a->lora == NULL)
        return;
    const size_t mark = arena_mark(be->scratch);
    const struct embed_lora_args g = gather(be, a);
    /* y += scale t B^T */
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = a->w.cols,
                                     .k = g.rank,
                                     .a = g.t,
                                     .lda = g.rank,
                                     .b = a->lora->act_b,
                                     .ldb = g.rank,
                                     .b_dtype = be->act,
                                     .trans_b = true,
                                     .c = a->y,
                                     .ldc = a->w.cols,
                                     .alpha = a->lora->scale,
                                     .beta = 1 });
    arena_rewind(be->scratch, mark);
}

void embed_lookup_backward(struct backend *be, const struct embed_lookup *a)
{
    const int64_t d_model = a->w.cols, rank = a->lora->rank;
    const size_t mark = arena_mark(be->scratch);
    struct embed_lora_args g = gather(be, a);
    /* dB += scale dy^T t, (d_model, rank) */
    op_gemm(be, &(struct gemm_args){ .m = d_model,
                                     .n = rank,
                                     .k = a->n_row,
                                     .a = a->dy,
                                     .lda = d_model,
                                     .trans_a = true,
                                     .b = g.t,
                                     .ldb = rank,
                                     .b_dtype = be->act,
                                     .c = a->lora->db,
                                     .c_real = true,
                                     .ldc = rank,
                                     .alpha = a->lora->scale,
                                     .beta = 1 });
    /* dt = scale dy B */
    struct act *dt = arena_acts(be, be->scratch, a->n_row * rank);
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = rank,
                                     .k = d_model,
                                     .a = a->dy,
                                     .lda = d_model,
                                     .b = a->lora->act_b,
                                     .ldb = rank,
                                     .b_dtype = be->act,
                                     .c = dt,
                                     .ldc = rank,
                                     .alpha = a->lora->scale });
    g.dt = dt;
    g.da = a->lora->da;
    op_embed_lora_backward(be, &g);
    arena_rewind(be->scratch, mark);
}
