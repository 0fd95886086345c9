/* The operation lists of reference implementations of attention over cuDNN's graphs, which its
 * engines recognise by their order: nothing here may be moved for looks.
 *
 * Forward:   S = scale Q K^T;  masked: -inf where the row or the column is padding, then where the
 *            column is past the diagonal;  M = rowmax S;  E = exp(S - M);  L = rowsum E;
 *            stats = M + log L;  P = E / L in bf16;  O = P V.
 * Backward:  D = rowsum(dO O);  P = exp(masked(scale Q K^T - stats));  dV = P^T dO, summed over the
 *            group's heads;  dS = scale P (dO V^T - D);  dK = dS^T Q, summed likewise;  dQ = dS K.
 *
 * dQ is written by the product itself when the sum must have a fixed order (the engine then holds
 * dS in its workspace), and goes through an f32 sum that blocks add to in any order when not.
 * stats, D, that sum and the full-head dV and dK are dense: packed ones are not supported on
 * Ampere, and stats that are neither packed nor dense are read wrongly before 9.26.
 */
#include "kernels/cuda/sdpa_nodes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct builder {
    const struct sdpa_shape *s;
    struct sdpa_graph *g;
};

/* ---- tensors ---- */

static int new_tensor(struct sdpa_graph *g, const struct sdpa_tensor *t)
{
    assert(g->n_tensor < SDPA_MAX_TENSOR);
    g->tensor[g->n_tensor] = *t;
    return g->n_tensor++;
}

/* A tensor of the stream, (b, heads, tokens, d). */
static void bind_rows(struct builder *b, int id, int64_t heads, int64_t tokens, int64_t ld, int at,
                      int len)
{
    const int64_t d = b->s->d_head;
    b->g->tensor[id] = (struct sdpa_tensor){ .type = SDPA_BF16,
                                             .dim = { b->s->b, heads, tokens, d },
                                             .stride = { tokens * ld, d, ld, 1 },
                                             .at = at,
                                             .len = len };
}

static void transpose(struct sdpa_tensor *t)
{
    const int64_t dim = t->dim[2], stride = t->stride[2];
    t->dim[2] = t->dim[3];
    t->dim[3] = dim;
    t->stride[2] = t->stride[3];
    t->stride[3] = stride;
}

static void bind_list(struct builder *b, int id, enum sdpa_type type, int64_t n)
{
    b->g->tensor[id] =
        (struct sdpa_tensor){ .type = type, .dim = { n, 1, 1, 1 }, .stride = { 1, 1, 1, 1 } };
}

/* One f32 for each query of each head. */
static struct sdpa_tensor row_values(const struct builder *b)
{
    const int64_t h = b->s->n_head, s = b->s->s_q;
    return (struct sdpa_tensor){ .type = SDPA_F32,
                                 .dim = { b->s->b, h, s, 1 },
                                 .stride = { h * s, s, 1, 1 } };
}

static int virtual_row_values(struct builder *b)
{
    struct sdpa_tensor t = row_values(b);
    t.is_virtual = true;
    return new_tensor(b->g, &t);
}

/* (b, n_head, s_q, s_kv), virtual. */
static int scores(struct builder *b, enum sdpa_type type)
{
    const int64_t h = b->s->n_head, s = b->s->s_q, k = b->s->s_kv;
    return new_tensor(b->g, &(struct sdpa_tensor){ .type = type,
                                                   .dim = { b->s->b, h, s, k },
                                                   .stride = { h * s * k, s * k, k, 1 },
                                                   .is_virtual = true });
}

/* (b, n_head, tokens, d_head), dense. */
static struct sdpa_tensor dense_rows(const struct builder *b, enum sdpa_type type, int64_t tokens)
{
    const int64_t h = b->s->n_head, d = b->s->d_head;
    return (struct sdpa_tensor){ .type = type,
                                 .dim = { b->s->b, h, tokens, d },
                                 .stride = { h * tokens * d, tokens * d, d, 1 } };
}

static int scalar(struct builder *b, float value)
{
    return new_tensor(b->g, &(struct sdpa_tensor){ .type = SDPA_F32,
                                                   .dim = { 1, 1, 1, 1 },
                                                   .stride = { 1, 1, 1, 1 },
                                                   .by_value = true,
                                                   .value = value });
}

/* ---- nodes ---- */

static struct sdpa_node *new_node(struct builder *b, enum sdpa_op op, int x, int y)
{
    assert(b->g->n_node < SDPA_MAX_NODE);
    struct sdpa_node *n = &b->g->node[b->g->n_node++];
    *n = (struct sdpa_node){ .op = op, .x = x, .y = y, .compute = SDPA_F32 };
    return n;
}

static int unary(struct builder *b, enum sdpa_op op, int x, int y)
{
    new_node(b, op, x, y);
    return y;
}

static int binary(struct builder *b, enum sdpa_op op, int x, int other, int y)
{
    new_node(b, op, x, y)->b = other;
    return y;
}

static int compare(struct builder *b, enum sdpa_op op, int x, int other)
{
    const int y = scores(b, SDPA_BOOL);
    struct sdpa_node *n = new_node(b, op, x, y);
    n->b = other;
    n->compute = SDPA_BOOL;
    return y;
}

static int index_of(struct builder *b, enum sdpa_op axis, int x, enum sdpa_type compute)
{
    const int y = scores(b, SDPA_I32);
    new_node(b, axis, x, y)->compute = compute;
    return y;
}

static int product(struct builder *b, int x, int other, int y, int m, int n, int k)
{
    struct sdpa_node *node = new_node(b, SDPA_MATMUL, x, y);
    node->b = other;
    node->m = m;
    node->n = n;
    node->k = k;
    return y;
}

/* x where the mask holds, -inf elsewhere. */
static int keep_where(struct builder *b, int x, int mask)
{
    const int y = scores(b, SDPA_F32), infinity = scalar(b, -INFINITY);
    struct sdpa_node *n = new_node(b, SDPA_SELECT, x, y);
    n->b = infinity;
    n->t = mask;
    return y;
}

/* Rows past the document's queries and columns past its keys. */
static int mask_padding(struct builder *b, int x)
{
    const int row = index_of(b, SDPA_ROW, x, SDPA_I32);
    const int column = index_of(b, SDPA_COLUMN, x, SDPA_I32);
    const int rows = compare(b, SDPA_LESS, row, SDPA_LEN_Q);
    const int columns = compare(b, SDPA_LESS, column, SDPA_LEN_K);
    return keep_where(b, x, compare(b, SDPA_AND, rows, columns));
}

static int shift_rows(struct builder *b, enum sdpa_op op, int row, int len)
{
    const int y = scores(b, SDPA_I32);
    struct sdpa_node *n = new_node(b, op, row, y);
    n->b = len;
    n->compute = SDPA_I32;
    n->broadcast_columns = true;
    return y;
}

/* Columns past the diagonal: row >= column stays, or row + keys - queries >= column. */
static int mask_causal(struct builder *b, int x)
{
    int row = index_of(b, SDPA_ROW, x, SDPA_F32);
    const int column = index_of(b, SDPA_COLUMN, x, SDPA_F32);
    if (b->s->bottom_right) {
        row = shift_rows(b, SDPA_ADD, row, SDPA_LEN_K);
        row = shift_rows(b, SDPA_SUB, row, SDPA_LEN_Q);
    }
    return keep_where(b, x, compare(b, SDPA_NOT_LESS, row, column));
}

/* scale Q K^T. */
static int scaled_scores(struct builder *b, int scale, bool zero_padding)
{
    const int s = product(b, SDPA_Q, SDPA_K, scores(b, SDPA_F32), SDPA_LEN_Q, SDPA_LEN_K, 0);
    b->g->node[b->g->n_node - 1].zero_padding = zero_padding;
    return binary(b, SDPA_MUL, s, scale, scores(b, SDPA_F32));
}

/* ---- the two graphs ---- */

static void build_forward(struct builder *b)
{
    const int scale = scalar(b, (float)(1 / sqrt((double)b->s->d_head)));
    const int s = mask_causal(b, mask_padding(b, scaled_scores(b, scale, true)));
    const int top = unary(b, SDPA_MAX, s, virtual_row_values(b));
    const int e =
        unary(b, SDPA_EXP, binary(b, SDPA_SUB, s, top, scores(b, SDPA_F32)), scores(b, SDPA_F32));
    const int sum = unary(b, SDPA_SUM, e, virtual_row_values(b));
    const int log_sum = unary(b, SDPA_LOG, sum, virtual_row_values(b));
    binary(b, SDPA_ADD, top, log_sum, SDPA_STATS);
    const int p = binary(b, SDPA_DIV, e, sum, scores(b, SDPA_BF16));
    product(b, p, SDPA_V, SDPA_O, SDPA_LEN_Q, 0, SDPA_LEN_K);
}

/* y (keys) = s^T rows, over the queries; summed over the heads that share a kv head. */
static void to_keys(struct builder *b, int s, int rows, int y)
{
    struct sdpa_tensor turned = b->g->tensor[s];
    transpose(&turned);
    turned.type = SDPA_BF16;
    const int st = unary(b, SDPA_TRANSPOSE, s, new_tensor(b->g, &turned));
    if (b->s->n_head == b->s->n_kv) {
        product(b, st, rows, y, SDPA_LEN_K, 0, SDPA_LEN_Q);
        return;
    }
    struct sdpa_tensor all_heads = dense_rows(b, SDPA_BF16, b->s->s_kv);
    all_heads.is_virtual = true;
    const int full = new_tensor(b->g, &all_heads);
    product(b, st, rows, full, SDPA_LEN_K, 0, SDPA_LEN_Q);
    unary(b, SDPA_SUM, full, y);
}

/* dQ = dS K. */
static void to_queries(struct builder *b, int ds)
{
    struct sdpa_tensor k = b->g->tensor[SDPA_K];
    transpose(&k);
    k.is_virtual = true;
    const int rows = unary(b, SDPA_TRANSPOSE, SDPA_K, new_tensor(b->g, &k));
    if (b->s->deterministic) {
        product(b, ds, rows, SDPA_DQ, SDPA_LEN_Q, 0, SDPA_LEN_K);
        return;
    }
    product(b, ds, rows, SDPA_DQ_SUM, SDPA_LEN_Q, 0, SDPA_LEN_K);
    unary(b, SDPA_COPY, SDPA_DQ_SUM, SDPA_DQ);
}

static void build_backward(struct builder *b)
{
    const int64_t h = b->s->n_head, s_q = b->s->s_q, d = b->s->d_head;
    const int scale = scalar(b, (float)(1 / sqrt((double)d))), one = scalar(b, 1);

    /* D */
    const int weighted =
        new_tensor(b->g, &(struct sdpa_tensor){ .type = SDPA_F32,
                                                .dim = { b->s->b, h, s_q, d },
                                                .stride = { h * s_q * d, s_q * d, h * d, 1 },
                                                .is_virtual = true });
    binary(b, SDPA_MUL, SDPA_D_O, SDPA_O, weighted);
    const int dots = unary(b, SDPA_SUM, weighted, virtual_row_values(b));
    binary(b, SDPA_MUL, dots, one, SDPA_SOFTMAX_SUM);

    /* P, dV */
    const int centred =
        binary(b, SDPA_SUB, scaled_scores(b, scale, false), SDPA_STATS, scores(b, SDPA_F32));
    const int p = unary(b, SDPA_EXP, mask_causal(b, mask_padding(b, centred)), scores(b, SDPA_F32));
    to_keys(b, p, SDPA_D_O, SDPA_DV);

    /* dS, dK, dQ */
    int ds = product(b, SDPA_D_O, SDPA_V, scores(b, SDPA_F32), SDPA_LEN_Q, SDPA_LEN_K, 0);
    ds = binary(b, SDPA_SUB, ds, SDPA_SOFTMAX_SUM, scores(b, SDPA_F32));
    ds = binary(b, SDPA_MUL, ds, p, scores(b, SDPA_F32));
    ds = binary(b, SDPA_MUL, ds, scale, scores(b, SDPA_F32));
    to_keys(b, ds, SDPA_Q, SDPA_DK);
    to_queries(b, ds);
}

static void bind_backward(struct builder *b)
{
    const struct sdpa_shape *s = b->s;
    bind_list(b, SDPA_AT_DK, SDPA_I64, s->b + 1);
    bind_rows(b, SDPA_D_O, s->n_head, s->s_q, s->ld_q, SDPA_AT_Q, SDPA_LEN_Q);
    bind_rows(b, SDPA_DQ, s->n_head, s->s_q, s->ld_q, SDPA_AT_Q, SDPA_LEN_Q);
    bind_rows(b, SDPA_DK, s->n_kv, s->s_kv, s->n_kv * s->d_head, SDPA_AT_DK, SDPA_LEN_K);
    b->g->tensor[SDPA_DV] = b->g->tensor[SDPA_DK];
    b->g->tensor[SDPA_SOFTMAX_SUM] = row_values(b);
    if (!s->deterministic)
        b->g->tensor[SDPA_DQ_SUM] = dense_rows(b, SDPA_F32, s->s_q);
    transpose(&b->g->tensor[SDPA_V]);
}

void sdpa_graph_build(const struct sdpa_shape *s, struct sdpa_graph *g)
{
    struct builder b = { s, g };
    memset(g, 0, sizeof *g);
    g->n_tensor = SDPA_N_BOUND;
    bind_list(&b, SDPA_LEN_Q, SDPA_I32, s->b);
    bind_list(&b, SDPA_LEN_K, SDPA_I32, s->b);
    bind_list(&b, SDPA_AT_Q, SDPA_I64, s->b + 1);
    bind_list(&b, SDPA_AT_K, SDPA_I64, s->b + 1);
    bind_rows(&b, SDPA_Q, s->n_head, s->s_q, s->ld_q, SDPA_AT_Q, SDPA_LEN_Q);
    bind_rows(&b, SDPA_O, s->n_head, s->s_q, s->ld_q, SDPA_AT_Q, SDPA_LEN_Q);
    bind_rows(&b, SDPA_K, s->n_kv, s->s_kv, s->ld_k, SDPA_AT_K, SDPA_LEN_K);
    bind_rows(&b, SDPA_V, s->n_kv, s->s_kv, s->ld_k, SDPA_AT_K, SDPA_LEN_K);
    transpose(&g->tensor[SDPA_K]);
    g->tensor[SDPA_STATS] = row_values(&b);
    if (s->backward) {
        bind_backward(&b);
        build_backward(&b);
    } else {
        build_forward(&b);
    }
}
