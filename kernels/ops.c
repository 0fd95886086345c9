/* The entry of every op: shape checks, scratch, then the backend's function. */
#include "kernels/ops.h"

#include <assert.h>

/* What must hold of every call of an op, beyond what its types say. */
#define CHECK_gemm(a) ((a)->m >= 0 && (a)->n > 0 && (a)->k > 0 && (a)->ldc >= (a)->n)
#define CHECK_add_bias(a) ((a)->ldy >= (a)->dim)
#define CHECK_rmsnorm_forward(a) ((a)->dim > 0 && (a)->eps > 0)
#define CHECK_rmsnorm_backward(a) ((a)->dim > 0 && (a)->eps > 0)
#define CHECK_embed_forward(a) ((a)->dim > 0 && (a)->vocab > 0)
#define CHECK_embed_lora_forward(a) ((a)->rank > 0 && (a)->vocab > 0)
#define CHECK_embed_lora_backward(a) ((a)->rank > 0 && (a)->vocab > 0)
#define CHECK_conv1d_forward(a) ((a)->d_conv > 0 && (a)->ldx >= (a)->d_inner)
#define CHECK_conv1d_backward(a) ((a)->d_conv > 0 && (a)->lddx >= (a)->d_inner)
#define CHECK_scan_forward(a) ((a)->d_state > 0 && (a)->d_state <= SCAN_MAX_STATE && (a)->ldz >= (a)->d_inner)
#define CHECK_scan_backward(a) ((a)->tile_states != NULL && (a)->lddz >= (a)->d_inner)
#define CHECK_attention_forward(a) ((a)->n_kv > 0 && (a)->n_head % (a)->n_kv == 0)
#define CHECK_attention_backward(a) ((a)->n_kv > 0 && (a)->n_head % (a)->n_kv == 0)
#define CHECK_swiglu_forward(a) ((a)->n >= 0)
#define CHECK_swiglu_backward(a) ((a)->n >= 0)
#define CHECK_route_forward(a) ((a)->top_k > 0 && (a)->top_k <= (a)->n_expert)
#define CHECK_route_backward(a) ((a)->top_k > 0 && (a)->top_k <= (a)->n_expert)
#define CHECK_route_counts(a) ((a)->n_expert > 0)
#define CHECK_aux_sums(a) ((a)->top_k > 0 && (a)->top_k <= (a)->n_expert)
#define CHECK_gather_rows(a) ((a)->per_row > 0)
#define CHECK_combine(a) ((a)->top_k > 0)
#define CHECK_row_dot(a) ((a)->dim > 0)
#define CHECK_pick_rows(a) ((a)->dim > 0)
#define CHECK_place_rows(a) ((a)->dim > 0)
#define CHECK_cross_entropy(a) ((a)->vocab > 0)
#define CHECK_dropout(a) ((a)->rate >= 0 && (a)->rate < 1)
#define CHECK_add(a) ((a)->n >= 0)
#define CHECK_zero(a) ((a)->bytes == 0 || (a)->y != NULL)
#define CHECK_cast(a) ((a)->n >= 0)
#define CHECK_to_device(a) ((a)->bytes == 0 || (a)->to != NULL)
#define CHECK_to_host(a) ((a)->bytes == 0 || (a)->to != NULL)
#define CHECK_copy(a) ((a)->bytes == 0 || (a)->to != NULL)
#define CHECK_add_sum(a) ((a)->n >= 0)
#define CHECK_aux_loss(a) ((a)->n_expert > 0 && (a)->n_layer > 0)
#define CHECK_random(a) ((a)->dtype == DTYPE_F32 || (a)->dtype == DTYPE_BF16)
#define CHECK_sum_squares(a) ((a)->n >= 0)
#define CHECK_adamw(a) ((a)->eps > 0 && (a)->bias_correction1 > 0 && (a)->bias_correction2 > 0)

#define OP_ENTRY(name, args)                                                                       \
    void op_##name(struct backend *be, const struct args *a)                                       \
    {                                                                                              \
        assert(CHECK_##name(a));                                                                   \
        const size_t mark = arena_mark(be->scratch);                                               \
        const size_t bytes = be->k->name##_scratch == NULL ? 0 : be->k->name##_scratch(be, a);     \
        void *scratch = bytes == 0 ? NULL : arena_push(be->scratch, bytes);                        \
        be->k->name(be, a, scratch);                                                               \
        arena_rewind(be->scratch, mark);                                                           \
    }
OPS(OP_ENTRY)
