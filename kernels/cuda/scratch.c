/* The scratch of the CUDA ops: plain arithmetic on shapes, in the order of scratch.h. A plan made
 * for the most rows must hold for fewer, so no size falls when rows are added.
 */
#include "kernels/cuda/scratch.h"

#include "kernels/cuda/sdpa_sizes.h"
#include "kernels/cuda/sizes.h"

/* The same for every product: what an algorithm takes is known only to the library. */
size_t cuda_gemm_scratch(const struct backend *be, const struct gemm_args *a)
{
    (void)be;
    (void)a;
    return GEMM_WORKSPACE_BYTES;
}

static size_t div_up(int64_t a, int64_t b)
{
    return (size_t)((a + b - 1) / b);
}

/* The state's gradient between two ranges of tokens, and each block's part of db and dc of a range.
 */
size_t cuda_scan_backward_scratch(const struct backend *be, const struct scan_args *a)
{
    const struct scan_cut cut = scan_cut_of(a->d_inner, a->d_state, be->act == DTYPE_BF16);
    const int64_t n_tok = a->n_tok < cut.range ? a->n_tok : cut.range;
    const int64_t parts = cut.n_block * n_tok * 2 * cut.n_round * SCAN_STATES;
    return (size_t)(scan_carry_size(a->d_inner, a->d_state) + parts) * sizeof(float);
}

/* Attention by cuDNN, in bfloat16; our own kernels keep one number for each query in the backward,
 * which is less. Documents are not looked at: calls are cut to fit (sdpa_sizes.h). */
size_t cuda_attention_forward_scratch(const struct backend *be, const struct attention_args *a)
{
    const struct sdpa_shape whole = sdpa_whole(a->n_tok, a->t0, a->n_head, a->n_kv, a->d_head);
    return be->act == DTYPE_BF16 ? sdpa_forward_budget(&whole) : 0;
}

size_t cuda_attention_backward_scratch(const struct backend *be, const struct attention_args *a)
{
    struct sdpa_shape whole = sdpa_whole(a->n_tok, a->t0, a->n_head, a->n_kv, a->d_head);
    whole.backward = 1;
    whole.deterministic = !be->nondeterministic;
    const size_t own = (size_t)(a->n_tok * a->n_head) * sizeof(float);
    return be->act == DTYPE_BF16 ? sdpa_backward_budget(&whole) : own;
}

/* The choices of each tile, by expert. */
size_t cuda_route_forward_scratch(const struct backend *be, const struct route_args *a)
{
    (void)be;
    return div_up(a->n_tok, ROUTE_TILE) * (size_t)a->n_expert * sizeof(int32_t);
}

/* Two documents' parts of each tile, two sums each. */
size_t cuda_aux_sums_scratch(const struct backend *be, const struct aux_sums_args *a)
{
    (void)be;
    return 4 * div_up(a->n_tok, AUX_TILE) * (size_t)a->n_expert * sizeof(float);
}

size_t cuda_add_sum_scratch(const struct backend *be, const struct add_sum_args *a)
{
    (void)be;
    return div_up(a->n, SUM_BLOCK) * sizeof(double);
}

/* The sum before its parts. */
size_t cuda_sum_squares_scratch(const struct backend *be, const struct sum_squares_args *a)
{
    (void)be;
    return (1 + div_up(a->n, SUM_BLOCK)) * sizeof(double);
}
