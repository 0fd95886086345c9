#include "finetune/bench/operands.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"

static size_t aligned(size_t bytes)
{
    return (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
}

static size_t bytes_of(const struct operand *o)
{
    return (size_t)o->n * dtype_size(o->dtype);
}

/* ---- the parts of a description ---- */

__attribute__((format(printf, 2, 3))) static void shape(struct operands *o, const char *format, ...)
{
    va_list list;
    const size_t used = strlen(o->shape);
    va_start(list, format);
    vsnprintf(o->shape + used, sizeof o->shape - used, format, list);
    va_end(list);
}

/* One pointer of the arguments; the operand added may still be changed. */
static struct operand *add(struct operands *o, void *field, enum operand_fill fill,
                           enum dtype dtype, int64_t n)
{
    assert(o->n < MAX_OPERAND);
    struct operand *operand = &o->list[o->n++];
    *operand = (struct operand){ .field = field, .fill = fill, .dtype = dtype, .n = n };
    return operand;
}

static bool is_null(const void *field)
{
    void *pointer;
    memcpy(&pointer, field, sizeof pointer);
    return pointer == NULL;
}

static void acts(struct operands *o, void *field, int64_t n)
{
    if (!is_null(field))
        add(o, field, FILL_RANDOM, o->be->act, n);
}

static void reals(struct operands *o, void *field, int64_t n)
{
    if (!is_null(field))
        add(o, field, FILL_RANDOM, DTYPE_REAL, n);
}

static void ints(struct operands *o, void *field, enum operand_fill fill, int64_t n, int64_t limit)
{
    if (!is_null(field))
        add(o, field, fill, DTYPE_I32, n)->limit = limit;
}

static int64_t or_dense(int64_t ld, int64_t dense)
{
    return ld != 0 ? ld : dense;
}

static int64_t documents(const struct operands *o, int64_t n_tok)
{
    return (n_tok + o->document - 1) / o->document;
}

/* The scan's a and the bias of its step: what keeps a state between 0 and what comes in. */
static void decays(struct operands *o, void *field, int64_t n)
{
    if (!is_null(field))
        add(o, field, FILL_DECAY, DTYPE_REAL, n);
}

/* ---- each kind of arguments ---- */

static void look_gemm_args(struct operands *o, struct gemm_args *a)
{
    const int64_t dense_a = a->trans_a ? a->m : a->k, dense_b = a->trans_b ? a->k : a->n;
    if (o->be->remote)
        a->b_dtype = o->be->act; /* weights are converted when they are copied there */
    acts(o, &a->a, a->lda * (a->trans_a ? a->k : a->m));
    add(o, &a->b, FILL_RANDOM, a->b_dtype, a->ldb * (a->trans_b ? a->n : a->k));
    add(o, &a->c, FILL_RANDOM, a->c_real ? DTYPE_REAL : o->be->act, a->ldc * a->m);
    shape(o, "%" PRId64 " x %" PRId64 " x %" PRId64 " %c%c%s%s", a->m, a->n, a->k,
          a->trans_a ? 't' : 'n', a->trans_b ? 't' : 'n', a->beta != 0 ? " +=" : "",
          a->c_real ? " real" : "");
    if (a->lda != dense_a || a->ldb != dense_b || a->ldc != a->n)
        shape(o, " ld %" PRId64 ",%" PRId64 ",%" PRId64, a->lda, a->ldb, a->ldc);
}

static void look_add_bias_args(struct operands *o, struct add_bias_args *a)
{
    acts(o, &a->y, a->n_row * a->ldy);
    reals(o, &a->bias, a->dim);
    shape(o, "%" PRId64 " x %" PRId64, a->n_row, a->dim);
}

static void look_rmsnorm_args(struct operands *o, struct rmsnorm_args *a)
{
    const int64_t ldx = or_dense(a->ldx, a->dim), ldy = or_dense(a->ldy, a->dim);
    acts(o, &a->x, a->n_row * ldx);
    reals(o, &a->w, a->dim);
    acts(o, &a->y, a->n_row * ldy);
    acts(o, &a->residual, a->n_row * a->dim);
    acts(o, &a->sum, a->n_row * a->dim);
    acts(o, &a->dy, a->n_row * ldy);
    acts(o, &a->dx, a->n_row * ldx);
    shape(o, "%" PRId64 " x %" PRId64 "%s", a->n_row, a->dim,
          a->residual != NULL ? " + residual" : "");
    if (ldx != a->dim)
        shape(o, " ld %" PRId64, ldx);
}

static void look_embed_args(struct operands *o, struct embed_args *a)
{
    if (o->be->remote)
        a->dtype = o->be->act;
    ints(o, &a->ids, FILL_BELOW, a->n_row, a->vocab);
    add(o, &a->table, FILL_RANDOM, a->dtype, a->vocab * a->dim);
    acts(o, &a->y, a->n_row * a->dim);
    shape(o, "%" PRId64 " of %" PRId64 " x %" PRId64, a->n_row, a->vocab, a->dim);
}

static void look_embed_lora_args(struct operands *o, struct embed_lora_args *a)
{
    ints(o, &a->ids, FILL_BELOW, a->n_row, a->vocab);
    acts(o, &a->a, a->rank * a->vocab);
    acts(o, &a->t, a->n_row * a->rank);
    acts(o, &a->dt, a->n_row * a->rank);
    reals(o, &a->da, a->rank * a->vocab);
    shape(o, "%" PRId64 " of %" PRId64 " x %" PRId64, a->n_row, a->vocab, a->rank);
}

static void look_conv1d_args(struct operands *o, struct conv1d_args *a)
{
    const int64_t n = a->n_tok * a->d_inner, n_carry = (a->d_conv - 1) * a->d_inner;
    acts(o, &a->x, a->n_tok * a->ldx);
    ints(o, &a->pos, FILL_POSITIONS, a->n_tok, o->document);
    reals(o, &a->w, a->d_conv * a->d_inner);
    reals(o, &a->b, a->d_inner);
    acts(o, &a->carry_in, n_carry);
    acts(o, &a->y, n);
    acts(o, &a->carry_out, n_carry);
    acts(o, &a->dy, n);
    acts(o, &a->dx, a->n_tok * a->lddx);
    reals(o, &a->dcarry_out, n_carry);
    reals(o, &a->dcarry_in, n_carry);
    shape(o, "%" PRId64 " x %" PRId64 "%s", a->n_tok, a->d_inner,
          a->carry_out != NULL || a->dy != NULL ? "" : ", no carry");
}

static void look_scan_args(struct operands *o, struct scan_args *a)
{
    const int64_t n = a->n_tok * a->d_inner, n_state = a->d_state * a->d_inner;
    const int64_t n_tile = (a->n_tok + SCAN_TILE - 1) / SCAN_TILE;
    acts(o, &a->u, n);
    acts(o, &a->dt, n);
    acts(o, &a->z, a->n_tok * a->ldz);
    acts(o, &a->b, a->n_tok * a->d_state);
    acts(o, &a->c, a->n_tok * a->d_state);
    decays(o, &a->a, n_state);
    reals(o, &a->d, a->d_inner);
    decays(o, &a->dt_bias, a->d_inner);
    ints(o, &a->pos, FILL_POSITIONS, a->n_tok, o->document);
    reals(o, &a->h_in, n_state);
    reals(o, &a->h_out, n_state);
    acts(o, &a->y, n);
    reals(o, &a->tile_states, n_tile * n_state);
    acts(o, &a->dy, n);
    acts(o, &a->du, n);
    acts(o, &a->ddt, n);
    acts(o, &a->dz, a->n_tok * a->lddz);
    acts(o, &a->db, a->n_tok * a->d_state);
    acts(o, &a->dc, a->n_tok * a->d_state);
    reals(o, &a->dh_out, n_state);
    reals(o, &a->dh_in, n_state);
    shape(o, "%" PRId64 " x %" PRId64 " x %" PRId64 "%s", a->n_tok, a->d_inner, a->d_state,
          a->h_out != NULL || a->dy != NULL ? "" : ", no carry");
}

static void look_attention_args(struct operands *o, struct attention_args *a)
{
    const int64_t n = a->n_tok * a->n_head * a->d_head, end = a->t0 + a->n_tok;
    const int64_t n_kv = end * a->n_kv * a->d_head, first = a->t0 / o->document;
    a->n_doc = documents(o, end) - first;
    a->longest = o->document;
    acts(o, &a->q, n);
    acts(o, &a->k, n_kv);
    acts(o, &a->v, n_kv);
    ints(o, &a->pos, FILL_POSITIONS, a->n_tok, o->document);
    o->list[o->n - 1].first = a->t0;
    struct operand *starts = add(o, &a->doc_start, FILL_STEPS, DTYPE_I64, a->n_doc + 1);
    starts->host = true;
    starts->limit = o->document;
    starts->first = first;
    starts->last = end;
    acts(o, &a->o, n);
    reals(o, &a->lse, a->n_tok * a->n_head);
    acts(o, &a->d_o, n);
    acts(o, &a->dq, n);
    reals(o, &a->dk, n_kv);
    reals(o, &a->dv, n_kv);
    shape(o, "%" PRId64 " x %" PRId64 "/%" PRId64 " x %" PRId64 ", ", a->n_tok, a->n_head, a->n_kv,
          a->d_head);
    if (o->document > a->n_tok)
        shape(o, "the last of %" PRId64, end);
    else
        shape(o, "documents of %" PRId64, o->document);
}

static void look_swiglu_args(struct operands *o, struct swiglu_args *a)
{
    acts(o, &a->gate, a->n);
    acts(o, &a->up, a->n);
    acts(o, &a->y, a->n);
    acts(o, &a->dy, a->n);
    acts(o, &a->dgate, a->n);
    acts(o, &a->dup, a->n);
    shape(o, "%" PRId64, a->n);
}

static void look_route_args(struct operands *o, struct route_args *a)
{
    const int64_t n = a->n_tok * a->n_expert, n_slot = a->n_tok * a->top_k;
    const int64_t n_doc = documents(o, a->n_tok);
    acts(o, &a->logits, n);
    reals(o, &a->p, n);
    ints(o, &a->expert, FILL_BELOW, n_slot, a->n_expert);
    reals(o, &a->weight, n_slot);
    ints(o, &a->slot, FILL_SHUFFLE, n_slot, 0);
    ints(o, &a->place, FILL_SHUFFLE, n_slot, 0);
    ints(o, &a->offset, FILL_STEPS, a->n_expert + 1, n_slot / a->n_expert);
    o->list[o->n - 1].last = n_slot;
    reals(o, &a->dot, n_slot);
    reals(o, &a->aux_f, n_doc * a->n_expert);
    reals(o, &a->aux_scale, n_doc);
    ints(o, &a->doc, FILL_DOCUMENTS, a->n_tok, o->document);
    acts(o, &a->dlogits, n);
    shape(o, "%" PRId64 " x %" PRId64 ", top %" PRId64 "%s", a->n_tok, a->n_expert, a->top_k,
          a->aux_f != NULL ? ", balanced" : "");
}

static void look_aux_sums_args(struct operands *o, struct aux_sums_args *a)
{
    const int64_t n_doc = documents(o, a->n_tok);
    reals(o, &a->p, a->n_tok * a->n_expert);
    ints(o, &a->expert, FILL_BELOW, a->n_tok * a->top_k, a->n_expert);
    ints(o, &a->doc, FILL_DOCUMENTS, a->n_tok, o->document);
    reals(o, &a->f, n_doc * a->n_expert);
    reals(o, &a->psum, n_doc * a->n_expert);
    shape(o, "%" PRId64 " x %" PRId64 ", top %" PRId64, a->n_tok, a->n_expert, a->top_k);
}

static void look_route_counts_args(struct operands *o, struct route_counts_args *a)
{
    ints(o, &a->offset, FILL_STEPS, a->n_expert + 1, a->n_tok * a->top_k / a->n_expert);
    o->list[o->n - 1].last = a->n_tok * a->top_k;
    add(o, &a->host, FILL_ZERO, DTYPE_I64, a->n_expert + 1)->host = true;
    shape(o, "%" PRId64, a->n_expert + 1);
}

static void look_gather_rows_args(struct operands *o, struct gather_rows_args *a)
{
    acts(o, &a->x, (a->n_row + a->per_row - 1) / a->per_row * a->dim);
    ints(o, &a->index, FILL_SHUFFLE, a->n_row, 0);
    reals(o, &a->scale, a->n_row);
    acts(o, &a->y, a->n_row * a->dim);
    shape(o, "%" PRId64 " x %" PRId64 ", %" PRId64 " of a row%s", a->n_row, a->dim, a->per_row,
          a->scale != NULL ? ", scaled" : "");
}

static void look_combine_args(struct operands *o, struct combine_args *a)
{
    const int64_t n_slot = a->n_tok * a->top_k;
    acts(o, &a->x, n_slot * a->dim);
    ints(o, &a->place, FILL_SHUFFLE, n_slot, 0);
    reals(o, &a->weight, n_slot);
    acts(o, &a->base, a->n_tok * a->dim);
    acts(o, &a->y, a->n_tok * a->dim);
    shape(o, "%" PRId64 " x %" PRId64 ", of %" PRId64 "%s%s", a->n_tok, a->dim, a->top_k,
          a->weight != NULL ? ", weighted" : "", a->base != NULL ? " + base" : "");
}

static void look_row_dot_args(struct operands *o, struct row_dot_args *a)
{
    acts(o, &a->x, a->n_row * a->dim);
    acts(o, &a->y, a->n_row * a->dim);
    ints(o, &a->index, FILL_SHUFFLE, a->n_row, 0);
    reals(o, &a->out, a->n_row);
    shape(o, "%" PRId64 " x %" PRId64, a->n_row, a->dim);
}

static void look_pick_rows_args(struct operands *o, struct pick_rows_args *a)
{
    acts(o, &a->x, a->n_row * a->dim);
    ints(o, &a->index, FILL_SHUFFLE, a->n_row, 0);
    acts(o, &a->y, a->n_row * a->dim);
    shape(o, "%" PRId64 " x %" PRId64, a->n_row, a->dim);
}

static void look_cross_entropy_args(struct operands *o, struct cross_entropy_args *a)
{
    acts(o, &a->logits, a->n_row * a->vocab);
    ints(o, &a->target, FILL_BELOW, a->n_row, a->vocab);
    reals(o, &a->logprob, a->n_row);
    shape(o, "%" PRId64 " x %" PRId64 "%s", a->n_row, a->vocab,
          a->grad_scale != 0 ? " + gradient" : "");
}

static void look_dropout_args(struct operands *o, struct dropout_args *a)
{
    acts(o, &a->x, a->n_row * or_dense(a->ldx, a->dim));
    acts(o, &a->y, a->n_row * or_dense(a->ldy, a->dim));
    ints(o, &a->slot, FILL_SHUFFLE, a->n_row, 0);
    shape(o, "%" PRId64 " x %" PRId64 "%s", a->n_row, a->dim, a->accumulate ? " +=" : "");
}

static void look_add_args(struct operands *o, struct add_args *a)
{
    acts(o, &a->a, a->n);
    acts(o, &a->b, a->n);
    acts(o, &a->y, a->n);
    shape(o, "%" PRId64, a->n);
}

static void look_zero_args(struct operands *o, struct zero_args *a)
{
    add(o, &a->y, FILL_ZERO, DTYPE_U8, (int64_t)a->bytes);
    shape(o, "%zu bytes", a->bytes);
}

static void look_cast_args(struct operands *o, struct cast_args *a)
{
    add(o, &a->from, FILL_RANDOM, a->from_dtype, a->n);
    add(o, &a->to, FILL_ZERO, a->to_dtype, a->n);
    shape(o, "%" PRId64 " %s to %s", a->n, dtype_name(a->from_dtype), dtype_name(a->to_dtype));
}

static void look_copy_args(struct operands *o, struct copy_args *a)
{
    /* Random numbers of the activations' type, then whole bytes of them. */
    const int64_t n = (int64_t)((a->bytes + dtype_size(o->be->act) - 1) / dtype_size(o->be->act));
    struct operand *from = add(o, &a->from, FILL_RANDOM, o->be->act, n);
    from->host = o->op == OP_to_device;
    struct operand *to = add(o, &a->to, FILL_ZERO, o->be->act, n);
    to->host = o->op == OP_to_host;
    shape(o, "%zu bytes", a->bytes);
}

static void look_sum_squares_args(struct operands *o, struct sum_squares_args *a)
{
    reals(o, &a->x, a->n);
    add(o, &a->sum, FILL_ZERO, DTYPE_F64, 1)->host = true;
    shape(o, "%" PRId64, a->n);
}

static void look_add_sum_args(struct operands *o, struct add_sum_args *a)
{
    reals(o, &a->x, a->n);
    add(o, &a->sum, FILL_ZERO, DTYPE_F64, 1);
    shape(o, "%" PRId64, a->n);
}

static void look_aux_loss_args(struct operands *o, struct aux_loss_args *a)
{
    reals(o, &a->f, a->n_doc * a->n_expert);
    reals(o, &a->psum, a->n_doc * a->n_expert);
    ints(o, &a->doc_start, FILL_STEPS, a->n_doc + 1, o->document);
    o->list[o->n - 1].last = a->n_doc * o->document;
    reals(o, &a->scale, a->n_doc);
    add(o, &a->sum, FILL_ZERO, DTYPE_F64, 1);
    shape(o, "%" PRId64 " x %" PRId64, a->n_doc, a->n_expert);
}

static void look_random_args(struct operands *o, struct random_args *a)
{
    add(o, &a->y, FILL_ZERO, a->dtype, a->n);
    shape(o, "%" PRId64 " %s", a->n, dtype_name(a->dtype));
}

static void look_adamw_args(struct operands *o, struct adamw_args *a)
{
    reals(o, &a->p, a->n);
    reals(o, &a->m, a->n);
    add(o, &a->v, FILL_ZERO, DTYPE_REAL, a->n); /* a square's mean: not negative */
    reals(o, &a->g, a->n);
    acts(o, &a->p_act, a->n);
    shape(o, "%" PRId64 "%s", a->n, a->p_act != NULL ? " + activations" : "");
}

void operands_of(const struct backend *be, enum op_id op, union op_args *args, int64_t document,
                 struct operands *out)
{
    *out = (struct operands){ .be = be, .op = op, .document = document };
    switch (op) {
#define LOOK(name, args_of)                                                                        \
    case OP_##name:                                                                                \
        look_##args_of(out, &args->name);                                                          \
        break;
        OPS(LOOK)
#undef LOOK
    case N_OP:
        break;
    }
    for (int i = 0; i < out->n; i++) {
        const struct operand *o = &out->list[i];
        *(o->host ? &out->host_bytes : &out->bytes) += aligned(bytes_of(o));
    }
}

/* ---- memory and values ---- */

void operands_bind(struct operands *o, void *memory, void *host)
{
    char *at = memory, *host_at = host;
    for (int i = 0; i < o->n; i++) {
        struct operand *operand = &o->list[i];
        char **from = operand->host ? &host_at : &at;
        operand->data = *from;
        memcpy(operand->field, &operand->data, sizeof operand->data);
        *from += aligned(bytes_of(operand));
    }
}

static int64_t number(const struct operand *o, uint64_t seed, int64_t i)
{
    int64_t at;
    switch (o->fill) {
    case FILL_POSITIONS:
        return (o->first + i) % o->limit;
    case FILL_DOCUMENTS:
        return i / o->limit;
    case FILL_STEPS:
        at = (o->first + i) * o->limit;
        return i + 1 == o->n || at > o->last ? o->last : at;
    case FILL_SHUFFLE:
        return (int64_t)rng_permute(seed, RNG_SAMPLE, 0, (uint64_t)o->n, (uint64_t)i);
    case FILL_BELOW:
        return (int64_t)(rng_bits(seed, RNG_SAMPLE, 1, (uint64_t)i) % (uint64_t)o->limit);
    default:
        return 0;
    }
}

static void upload(struct backend *be, const struct operand *o, const void *from)
{
    if (o->host)
        memcpy(o->data, from, bytes_of(o));
    else
        op_to_device(be, &(struct copy_args){ .from = from, .to = o->data, .bytes = bytes_of(o) });
}

static bool fill_numbers(struct backend *be, const struct operand *o, uint64_t seed,
                         struct err *err)
{
    void *values = malloc(bytes_of(o) + 1);
    if (values == NULL)
        return err_no_memory(err, "the operands of a benchmark");
    for (int64_t i = 0; i < o->n; i++) {
        const int64_t value = number(o, seed, i);
        if (o->dtype == DTYPE_I64)
            ((int64_t *)values)[i] = value;
        else
            ((int32_t *)values)[i] = (int32_t)value;
    }
    upload(be, o, values);
    free(values);
    return true;
}

static bool fill_decay(struct backend *be, const struct operand *o, struct err *err)
{
    real *values = malloc(bytes_of(o) + 1);
    if (values == NULL)
        return err_no_memory(err, "the operands of a benchmark");
    for (int64_t i = 0; i < o->n; i++)
        values[i] = -1;
    upload(be, o, values);
    free(values);
    return true;
}

/* Through f32 where op random does not make the type itself. */
static void fill_random(struct backend *be, const struct operand *o, uint64_t seed)
{
    enum { PIECE = 1 << 16 };
    struct random_args random = {
        .y = o->data, .dtype = o->dtype, .n = o->n, .range = 1, .seed = seed
    };
    if (o->dtype == DTYPE_F32 || o->dtype == DTYPE_BF16) {
        op_random(be, &random);
        return;
    }
    const size_t mark = arena_mark(be->scratch);
    random.dtype = DTYPE_F32;
    random.y = arena_push(be->scratch, PIECE * sizeof(float));
    for (int64_t at = 0; at < o->n; at += PIECE) {
        random.n = o->n - at < PIECE ? o->n - at : PIECE;
        random.tensor++;
        op_random(be, &random);
        op_cast(be, &(struct cast_args){ .from = random.y,
                                         .from_dtype = DTYPE_F32,
                                         .to = (char *)o->data + (size_t)at * dtype_size(o->dtype),
                                         .to_dtype = o->dtype,
                                         .n = random.n });
    }
    arena_rewind(be->scratch, mark);
}

/* What matters of it is that pages are there. */
static void fill_host_random(const struct operand *o, uint64_t seed)
{
    unsigned char *bytes = o->data;
    for (size_t i = 0; i < bytes_of(o); i++)
        bytes[i] = (unsigned char)((i * 2654435761u + seed) >> 13);
}

bool operands_fill(struct backend *be, const struct operands *o, uint64_t seed, struct err *err)
{
    bool ok = true;
    for (int i = 0; i < o->n && ok; i++) {
        const struct operand *operand = &o->list[i];
        const uint64_t own = seed * MAX_OPERAND + (uint64_t)i;
        if (operand->fill == FILL_ZERO && operand->host)
            memset(operand->data, 0, bytes_of(operand));
        else if (operand->fill == FILL_ZERO)
            op_zero(be, &(struct zero_args){ .y = operand->data, .bytes = bytes_of(operand) });
        else if (operand->fill == FILL_RANDOM && operand->host)
            fill_host_random(operand, own);
        else if (operand->fill == FILL_RANDOM)
            fill_random(be, operand, own);
        else if (operand->fill == FILL_DECAY)
            ok = fill_decay(be, operand, err);
        else
            ok = fill_numbers(be, operand, own, err);
    }
    return ok;
}
