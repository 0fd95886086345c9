#include "lora/linear.h"

#include "kernels/ops.h"

static int64_t or_dense(int64_t ld, int64_t dense)
{
    return ld != 0 ? ld : dense;
}

/* The mask's target: which module of the model this is. */
static struct dropout_args dropout_of(const struct linear_args *a)
{
    const struct lora_module *module = a->lora->module;
    return (struct dropout_args){
        .slot = a->slot,
        .n_row = a->n_row,
        .dim = a->w.cols,
        .first_token = a->first_token,
        .per_token = a->per_token,
        .rate = a->dropout->rate,
        .seed = a->dropout->seed,
        .step = a->dropout->step,
        .target = ((uint64_t)(module->layer + 1) * LORA_KIND_COUNT + module->kind) * 4096 +
                  (uint64_t)(module->expert + 1),
    };
}

static bool drops(const struct linear_args *a)
{
    return a->dropout != NULL && a->dropout->rate > 0;
}

/* drop(x) and t = drop(x) A^T, both in scratch; without dropout x itself. */
static const struct act *branch_input(struct backend *be, const struct linear_args *a, int64_t *ld,
                                      struct act **t)
{
    const struct act *x = a->x;
    *ld = or_dense(a->ldx, a->w.cols);
    if (drops(a)) {
        struct act *dropped = arena_acts(be, be->scratch, a->n_row * a->w.cols);
        struct dropout_args d = dropout_of(a);
        d.x = a->x;
        d.ldx = *ld;
        d.y = dropped;
        op_dropout(be, &d);
        x = dropped;
        *ld = a->w.cols;
    }
    *t = arena_acts(be, be->scratch, a->n_row * a->lora->rank);
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = a->lora->rank,
                                     .k = a->w.cols,
                                     .a = x,
                                     .lda = *ld,
                                     .b = a->lora->act_a,
                                     .ldb = a->w.cols,
                                     .b_dtype = be->act,
                                     .trans_b = true,
                                     .c = *t,
                                     .ldc = a->lora->rank,
                                     .alpha = 1 });
    return x;
}

/* y = scale t B^T: before the frozen product, which adds to it, so that the small product is the
 * one whose rounding counts twice and the large one, bound by arithmetic, reads y on the side. */
static void branch_forward(struct backend *be, const struct linear_args *a)
{
    const int64_t out = a->w.rows;
    const size_t mark = arena_mark(be->scratch);
    int64_t ld = 0;
    struct act *t = NULL;
    branch_input(be, a, &ld, &t);
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = out,
                                     .k = a->lora->rank,
                                     .a = t,
                                     .lda = a->lora->rank,
                                     .b = a->lora->act_b,
                                     .ldb = a->lora->rank,
                                     .b_dtype = be->act,
                                     .trans_b = true,
                                     .c = a->y,
                                     .ldc = or_dense(a->ldy, out),
                                     .alpha = a->lora->scale });
    arena_rewind(be->scratch, mark);
}

void linear_forward(struct backend *be, const struct linear_args *a)
{
    const int64_t in = a->w.cols, out = a->w.rows, ldy = or_dense(a->ldy, out);
    if (a->lora != NULL)
        branch_forward(be, a);
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = out,
                                     .k = in,
                                     .a = a->x,
                                     .lda = or_dense(a->ldx, in),
                                     .b = a->w.data,
                                     .ldb = in,
                                     .b_dtype = a->w.dtype,
                                     .trans_b = true,
                                     .c = a->y,
                                     .ldc = ldy,
                                     .alpha = 1,
                                     .beta = a->lora != NULL ? 1 : 0 });
    if (a->bias != NULL)
        op_add_bias(be,
                    &(struct add_bias_args){
                        .y = a->y, .bias = a->bias, .n_row = a->n_row, .dim = out, .ldy = ldy });
}

/* dx += dt A, through the mask when there is one. */
static void branch_dx(struct backend *be, const struct linear_args *a, const struct act *dt)
{
    const int64_t in = a->w.cols, rank = a->lora->rank, lddx = or_dense(a->lddx, in);
    struct act *out = drops(a) ? arena_acts(be, be->scratch, a->n_row * in) : a->dx;
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = in,
                                     .k = rank,
                                     .a = dt,
                                     .lda = rank,
                                     .b = a->lora->act_a,
                                     .ldb = in,
                                     .b_dtype = be->act,
                                     .c = out,
                                     .ldc = drops(a) ? in : lddx,
                                     .alpha = 1,
                                     .beta = drops(a) ? 0 : 1 });
    if (!drops(a))
        return;
    struct dropout_args d = dropout_of(a);
    d.x = out;
    d.ldx = in;
    d.y = a->dx;
    d.ldy = lddx;
    d.accumulate = true;
    op_dropout(be, &d);
}

static void branch_backward(struct backend *be, const struct linear_args *a)
{
    const int64_t in = a->w.cols, out = a->w.rows, rank = a->lora->rank;
    const int64_t ldy = or_dense(a->ldy, out);
    int64_t ld = 0;
    struct act *t = NULL;
    const struct act *x = branch_input(be, a, &ld, &t);
    struct act *dt = arena_acts(be, be->scratch, a->n_row * rank);
    /* dt = scale dy B */
    op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                     .n = rank,
                                     .k = out,
                                     .a = a->dy,
                                     .lda = ldy,
                                     .b = a->lora->act_b,
                                     .ldb = rank,
                                     .b_dtype = be->act,
                                     .c = dt,
                                     .ldc = rank,
                                     .alpha = a->lora->scale });
    /* dB += scale dy^T t, (out, rank) */
    if (a->n_row > 0)
        op_gemm(be, &(struct gemm_args){ .m = out,
                                         .n = rank,
                                         .k = a->n_row,
                                         .a = a->dy,
                                         .lda = ldy,
                                         .trans_a = true,
                                         .b = t,
                                         .ldb = rank,
                                         .b_dtype = be->act,
                                         .c = a->lora->db,
                                         .c_real = true,
                                         .ldc = rank,
                                         .alpha = a->lora->scale,
                                         .beta = 1 });
    /* dA += dt^T drop(x), (rank, in) */
    if (a->n_row > 0)
        op_gemm(be, &(struct gemm_args){ .m = rank,
                                         .n = in,
                                         .k = a->n_row,
                                         .a = dt,
                                         .lda = rank,
                                         .trans_a = true,
                                         .b = x,
                                         .ldb = ld,
                                         .b_dtype = be->act,
                                         .c = a->lora->da,
                                         .c_real = true,
                                         .ldc = in,
                                         .alpha = 1,
                                         .beta = 1 });
    if (a->dx != NULL)
        branch_dx(be, a, dt);
}

void linear_backward(struct backend *be, const struct linear_args *a)
{
    const int64_t in = a->w.cols, out = a->w.rows;
    if (a->dx != NULL)
        op_gemm(be, &(struct gemm_args){ .m = a->n_row,
                                         .n = in,
                                         .k = out,
                                         .a = a->dy,
                                         .lda = or_dense(a->ldy, out),
                                         .b = a->w.data,
                                         .ldb = in,
                                         .b_dtype = a->w.dtype,
                                         .c = a->dx,
                                         .ldc = or_dense(a->lddx, in),
                                         .alpha = 1,
                                         .beta = a->add_dx ? 1 : 0 });
    if (a->lora == NULL)
        return;
    const size_t mark = arena_mark(be->scratch);
    branch_backward(be, a);
    arena_rewind(be->scratch, mark);
}
