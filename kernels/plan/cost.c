#include "kernels/plan/cost.h"

static double act_size(const struct backend *be)
{
    return (double)dtype_size(be->act);
}

/* Bytes of n activations and m reals. */
static double bytes_of(const struct backend *be, double n_act, double n_real)
{
    return n_act * act_size(be) + n_real * (double)sizeof(real);
}

static struct op_cost moves(double bytes)
{
    return (struct op_cost){ .bytes = bytes };
}

struct op_cost op_cost_gemm(const struct backend *be, const struct gemm_args *a)
{
    const double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    const double c = m * n * (a->beta != 0 ? 2 : 1);
    return (struct op_cost){ .flops = 2 * m * n * k,
                             .bytes = bytes_of(be, m * k, 0) +
                                      n * k * (double)dtype_size(a->b_dtype) +
                                      (a->c_real ? bytes_of(be, 0, c) : bytes_of(be, c, 0)) };
}

struct op_cost op_cost_add_bias(const struct backend *be, const struct add_bias_args *a)
{
    return moves(bytes_of(be, 2 * (double)a->n_row * (double)a->dim, (double)a->dim));
}

struct op_cost op_cost_rmsnorm_forward(const struct backend *be, const struct rmsnorm_args *a)
{
    const double n = (double)a->n_row * (double)a->dim;
    return moves(bytes_of(be, (a->residual != NULL ? 4 : 2) * n, (double)a->dim));
}

/* x, dy and dx in, dx out. */
struct op_cost op_cost_rmsnorm_backward(const struct backend *be, const struct rmsnorm_args *a)
{
    return moves(bytes_of(be, 4 * (double)a->n_row * (double)a->dim, (double)a->dim));
}

struct op_cost op_cost_embed_forward(const struct backend *be, const struct embed_args *a)
{
    const double n = (double)a->n_row * (double)a->dim;
    return moves(bytes_of(be, n, 0) + n * (double)dtype_size(a->dtype));
}

struct op_cost op_cost_embed_lora_forward(const struct backend *be, const struct embed_lora_args *a)
{
    return moves(bytes_of(be, 2 * (double)a->n_row * (double)a->rank, 0));
}

struct op_cost op_cost_embed_lora_backward(const struct backend *be,
                                           const struct embed_lora_args *a)
{
    const double n = (double)a->n_row * (double)a->rank;
    return moves(bytes_of(be, n, 2 * n));
}

struct op_cost op_cost_conv1d_forward(const struct backend *be, const struct conv1d_args *a)
{
    const double n = (double)a->n_tok * (double)a->d_inner;
    return moves(bytes_of(be, 2 * n, (double)a->d_conv * (double)a->d_inner));
}

struct op_cost op_cost_conv1d_backward(const struct backend *be, const struct conv1d_args *a)
{
    const double n = (double)a->n_tok * (double)a->d_inner;
    return moves(bytes_of(be, 3 * n, (double)a->d_conv * (double)a->d_inner));
}

/* u, dt, z in, y out; B and C; a state per tile when they are kept. */
struct op_cost op_cost_scan_forward(const struct backend *be, const struct scan_args *a)
{
    const double n = (double)a->n_tok, d = (double)a->d_inner, s = (double)a->d_state;
    const double tiles = a->tile_states != NULL ? n / SCAN_TILE * d * s : 0;
    return (struct op_cost){ .bytes = bytes_of(be, 4 * n * d + 2 * n * s, tiles),
                             .scan_steps = n * d * s };
}

/* u, dt, z, dy in, du, ddt, dz out; B, C, dB, dC; the tiles' states. */
struct op_cost op_cost_scan_backward(const struct backend *be, const struct scan_args *a)
{
    const double n = (double)a->n_tok, d = (double)a->d_inner, s = (double)a->d_state;
    return (struct op_cost){ .bytes = bytes_of(be, 7 * n * d + 4 * n * s, n / SCAN_TILE * d * s),
                             .scan_steps = SCAN_BACKWARD_STEPS * n * d * s };
}

/* Pairs of query and key at the bound: each query over all keys up to it, in documents of the
 * longest length there may be. */
static double attention_pairs(const struct attention_args *a)
{
    const double n = (double)a->n_tok, longest = (double)a->longest;
    double keys = (double)a->t0 + (n + 1) / 2;
    if (a->longest > 0 && keys > (longest + 1) / 2)
        keys = (longest + 1) / 2;
    return n * keys * (double)a->n_head;
}

static double attention_rows(const struct attention_args *a)
{
    return (double)a->n_tok * (double)a->n_head * (double)a->d_head;
}

static double attention_keys(const struct attention_args *a)
{
    return (double)(a->t0 + a->n_tok) * (double)a->n_kv * (double)a->d_head;
}

/* Scores and their product with V. */
struct op_cost op_cost_attention_forward(const struct backend *be, const struct attention_args *a)
{
    return (struct op_cost){
        .flops = 4 * attention_pairs(a) * (double)a->d_head,
        .bytes = bytes_of(be, 2 * attention_rows(a) + 2 * attention_keys(a),
                          (double)a->n_tok * (double)a->n_head),
    };
}

/* Scores again, dV, dP, dQ, dK. */
struct op_cost op_cost_attention_backward(const struct backend *be, const struct attention_args *a)
{
    return (struct op_cost){
        .flops = 10 * attention_pairs(a) * (double)a->d_head,
        .bytes = bytes_of(be, 4 * attention_rows(a) + 2 * attention_keys(a), 4 * attention_keys(a)),
    };
}

struct op_cost op_cost_swiglu_forward(const struct backend *be, const struct swiglu_args *a)
{
    return moves(bytes_of(be, 3 * (double)a->n, 0));
}

struct op_cost op_cost_swiglu_backward(const struct backend *be, const struct swiglu_args *a)
{
    return moves(bytes_of(be, 5 * (double)a->n, 0));
}

struct op_cost op_cost_route_forward(const struct backend *be, const struct route_args *a)
{
    const double n = (double)a->n_tok * (double)a->n_expert;
    return moves(bytes_of(be, n, n + 4 * (double)a->n_tok * (double)a->top_k));
}

struct op_cost op_cost_route_backward(const struct backend *be, const struct route_args *a)
{
    const double n = (double)a->n_tok * (double)a->n_expert;
    return moves(bytes_of(be, n, n + 2 * (double)a->n_tok * (double)a->top_k));
}

struct op_cost op_cost_route_counts(const struct backend *be, const struct route_counts_args *a)
{
    return moves(bytes_of(be, 0, (double)a->n_expert));
}

struct op_cost op_cost_aux_sums(const struct backend *be, const struct aux_sums_args *a)
{
    return moves(bytes_of(be, 0, (double)a->n_tok * (double)(a->n_expert + a->top_k)));
}

struct op_cost op_cost_gather_rows(const struct backend *be, const struct gather_rows_args *a)
{
    return moves(bytes_of(be, 2 * (double)a->n_row * (double)a->dim, (double)a->n_row));
}

struct op_cost op_cost_combine(const struct backend *be, const struct combine_args *a)
{
    const double n = (double)a->n_tok * (double)a->dim;
    const double base = a->base != NULL ? n : 0;
    return moves(bytes_of(be, (double)a->top_k * n + n + base, 0));
}

struct op_cost op_cost_row_dot(const struct backend *be, const struct row_dot_args *a)
{
    return moves(bytes_of(be, 2 * (double)a->n_row * (double)a->dim, (double)a->n_row));
}

struct op_cost op_cost_pick_rows(const struct backend *be, const struct pick_rows_args *a)
{
    return moves(bytes_of(be, 2 * (double)a->n_row * (double)a->dim, (double)a->n_row));
}

struct op_cost op_cost_place_rows(const struct backend *be, const struct pick_rows_args *a)
{
    return op_cost_pick_rows(be, a);
}

/* Read for the sum, read again and written for the gradient. */
struct op_cost op_cost_cross_entropy(const struct backend *be, const struct cross_entropy_args *a)
{
    return moves(
        bytes_of(be, (a->grad_scale != 0 ? 3 : 1) * (double)a->n_row * (double)a->vocab, 0));
}

struct op_cost op_cost_dropout(const struct backend *be, const struct dropout_args *a)
{
    return moves(bytes_of(be, (a->accumulate ? 3 : 2) * (double)a->n_row * (double)a->dim, 0));
}

struct op_cost op_cost_add(const struct backend *be, const struct add_args *a)
{
    return moves(bytes_of(be, 3 * (double)a->n, 0));
}

struct op_cost op_cost_zero(const struct backend *be, const struct zero_args *a)
{
    (void)be;
    return moves((double)a->bytes);
}

struct op_cost op_cost_cast(const struct backend *be, const struct cast_args *a)
{
    (void)be;
    return moves((double)a->n * (double)(dtype_size(a->from_dtype) + dtype_size(a->to_dtype)));
}

struct op_cost op_cost_to_device(const struct backend *be, const struct copy_args *a)
{
    (void)be;
    return moves((double)a->bytes);
}

struct op_cost op_cost_to_host(const struct backend *be, const struct copy_args *a)
{
    return op_cost_to_device(be, a);
}

struct op_cost op_cost_copy(const struct backend *be, const struct copy_args *a)
{
    (void)be;
    return moves(2 * (double)a->bytes);
}

struct op_cost op_cost_sum_squares(const struct backend *be, const struct sum_squares_args *a)
{
    return moves(bytes_of(be, 0, (double)a->n));
}

struct op_cost op_cost_add_sum(const struct backend *be, const struct add_sum_args *a)
{
    return moves(bytes_of(be, 0, (double)a->n));
}

struct op_cost op_cost_aux_loss(const struct backend *be, const struct aux_loss_args *a)
{
    return moves(bytes_of(be, 0, 2 * (double)a->n_doc * (double)a->n_expert));
}

struct op_cost op_cost_random(const struct backend *be, const struct random_args *a)
{
    (void)be;
    return moves((double)a->n * (double)dtype_size(a->dtype));
}

/* p, m, v in and out, g in. */
struct op_cost op_cost_adamw(const struct backend *be, const struct adamw_args *a)
{
    return moves(bytes_of(be, a->p_act != NULL ? (double)a->n : 0, 7 * (double)a->n));
}

struct op_rates op_rates_of(const struct backend *be)
{
    if (be->remote) /* an H100 */
        return (struct op_rates){ .flops = be->act == DTYPE_BF16 ? 7e14 : 4e13,
                                  .bytes = 2.8e12,
                                  .scan_steps = 2e12,
                                  .start = 4e-6 };
    return (struct op_rates){ .flops = 1.5e11, .bytes = 2e10, .scan_steps = 6e9, .start = 2e-6 };
}

double op_seconds(struct op_cost cost, struct op_rates rates)
{
    const double parts[] = { cost.flops / rates.flops, cost.bytes / rates.bytes,
                             cost.scan_steps / rates.scan_steps };
    double most = 0;
    for (int i = 0; i < 3; i++)
        most = parts[i] > most ? parts[i] : most;
    return most + rates.start;
}
