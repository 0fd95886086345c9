/* The base in a device's memory: every tensor of the host's, matrices in the type of activations.
 *
 * One walk over the slots, over a measuring arena to add up the bytes and over a real one to fill
 * it. A stored type that differs is uploaded as it is, piece by piece through the backend's
 * scratch, and converted there; matrices of random weights are made in place.
 */
#include "finetune/model/slots.h"
#include "kernels/core/act.h"
#include "kernels/ops.h"

struct upload {
    struct weights *w;
    struct backend *be;
    struct arena *arena;
    uint64_t tensor; /* its index: what random weights are keyed by */
};

static int64_t size_of(const struct slot *slot)
{
    int64_t n = 1;
    for (int i = 0; i < slot->n_dim; i++)
        n *= slot->dims[i];
    return n;
}

static void upload_bytes(struct backend *be, const void *from, void *to, size_t bytes)
{
    op_to_device(be, &(struct copy_args){ .from = from, .to = to, .bytes = bytes });
}

/* n elements per call through scratch: `n` of the narrower type always fit. */
static int64_t piece_of(const struct backend *be, size_t bytes_per_element)
{
    enum { MOST = 1 << 25 };
    const size_t room = (be->scratch->cap - be->scratch->used) / bytes_per_element;
    return room < MOST ? (int64_t)room : MOST;
}

static void upload_converted(struct backend *be, struct weight from, char *to)
{
    const int64_t n = from.rows * from.cols;
    const size_t size = dtype_size(from.dtype);
    const size_t mark = arena_mark(be->scratch);
    const int64_t piece = piece_of(be, size) - (int64_t)(ARENA_ALIGN / size);
    void *stage = arena_push(be->scratch, (size_t)piece * size);
    for (int64_t at = 0; at < n; at += piece) {
        const int64_t m = n - at < piece ? n - at : piece;
        upload_bytes(be, (const char *)from.data + (size_t)at * size, stage, (size_t)m * size);
        op_cast(be, &(struct cast_args){ .from = stage,
                                         .from_dtype = from.dtype,
                                         .to = to + act_bytes(be, at),
                                         .to_dtype = be->act,
                                         .n = m });
    }
    arena_rewind(be->scratch, mark);
}

/* Values rounded to bfloat16, as a bfloat16 checkpoint's would be, though kept as f32. */
static void round_to_bf16(struct backend *be, float *x, int64_t n)
{
    const size_t mark = arena_mark(be->scratch);
    const int64_t piece = piece_of(be, sizeof(uint16_t)) - (int64_t)ARENA_ALIGN;
    void *stage = arena_push(be->scratch, (size_t)piece * sizeof(uint16_t));
    for (int64_t at = 0; at < n; at += piece) {
        struct cast_args narrow = { .from = x + at,
                                    .from_dtype = DTYPE_F32,
                                    .to = stage,
                                    .to_dtype = DTYPE_BF16,
                                    .n = n - at < piece ? n - at : piece };
        struct cast_args widen = { .from = stage,
                                   .from_dtype = DTYPE_BF16,
                                   .to = x + at,
                                   .to_dtype = DTYPE_F32,
                                   .n = narrow.n };
        op_cast(be, &narrow);
        op_cast(be, &widen);
    }
    arena_rewind(be->scratch, mark);
}

static void make_random(const struct upload *u, const struct slot *slot, void *to)
{
    const int64_t n = size_of(slot);
    op_random(u->be, &(struct random_args){ .y = to,
                                            .dtype = u->be->act,
                                            .n = n,
                                            .range = u->w->config.initializer_range,
                                            .seed = u->w->seed,
                                            .tensor = u->tensor });
    if (u->be->act == DTYPE_F32 && u->w->config.dtype != DTYPE_F32)
        round_to_bf16(u->be, to, n);
}

static void upload_matrix(const struct upload *u, const struct slot *slot)
{
    const struct weight from = *slot->matrix;
    void *to = arena_acts(u->be, u->arena, size_of(slot));
    if (u->arena->measuring)
        return;
    if (from.data == NULL)
        make_random(u, slot, to);
    else if (from.dtype == u->be->act)
        upload_bytes(u->be, from.data, to, act_bytes(u->be, size_of(slot)));
    else
        upload_converted(u->be, from, to);
    slot->matrix->data = to;
    slot->matrix->dtype = u->be->act;
}

static bool upload_slot(void *context, const struct slot *slot, struct err *err)
{
    (void)err;
    struct upload *u = context;
    if (slot->kind == SLOT_MATRIX) {
        upload_matrix(u, slot);
    } else {
        real *to = arena_reals(u->arena, size_of(slot));
        if (!u->arena->measuring) {
            upload_bytes(u->be, *slot->vector, to, (size_t)size_of(slot) * sizeof(real));
            *slot->vector = to;
        }
    }
    u->tensor++;
    return true;
}

static void upload_all(struct weights *w, struct backend *be, struct arena *arena)
{
    struct upload u = { .w = w, .be = be, .arena = arena };
    if (!w->config.mamba_conv_bias) {
        real *zeros = arena_reals(arena, w->config.d_inner);
        if (!arena->measuring) {
            op_zero(be, &(struct zero_args){ .y = zeros,
                                             .bytes = (size_t)w->config.d_inner * sizeof(real) });
            w->no_bias = zeros;
        }
    }
    slots_visit(w, upload_slot, &u, NULL);
}

size_t weights_device_bytes(struct weights *w, struct backend *be)
{
    struct arena measure;
    arena_init_measuring(&measure, "weights");
    upload_all(w, be, &measure);
    return measure.peak;
}

bool weights_to_device(struct weights *w, struct backend *be, struct arena *arena, struct err *err)
{
    upload_all(w, be, arena);
    return be->err.code == ERR_NONE || err_set(err, be->err.code, "%s", be->err.text);
}
