/* Attention as a small graph of operations: what cuDNN is asked for, without cuDNN.
 *
 *     struct sdpa_graph g;
 *     sdpa_graph_build(&(struct sdpa_shape){ .backward = true, .b = 4, ... }, &g);
 *
 * sdpa_graph.c hands the table to cuDNN, node by node; tests/emulation/sdpa_graph.c evaluates the
 * same table with plain loops, so that tests see what the graph means.
 *
 * Tensors are (b, heads, tokens, d), the innermost stride 1 (k and v also as (b, heads, d,
 * tokens)). The documents of a call are its batch. Those of q, k, v, o and their gradients lie in
 * the stream (cuDNN: ragged): document i begins at element at[i], its length comes from len; dims
 * and the batch stride are bounds that no address follows from. Everything else is dense, padded to
 * the bounds.
 */
#ifndef KERNELS_CUDA_SDPA_NODES_H
#define KERNELS_CUDA_SDPA_NODES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sdpa_type { SDPA_BF16, SDPA_F32, SDPA_I32, SDPA_I64, SDPA_BOOL };

/* The tensors that a caller binds to memory, by their index in the graph. */
enum sdpa_bound {
    SDPA_NONE,
    SDPA_LEN_Q, /* (b) int32: queries of each document */
    SDPA_LEN_K, /* (b) int32: keys */
    SDPA_AT_Q,  /* (b + 1) int64: where the documents begin, in elements, in q, o, d_o, dq */
    SDPA_AT_K,  /* in k and v */
    SDPA_AT_DK, /* in dk and dv */
    SDPA_Q,
    SDPA_K,
    SDPA_V,
    SDPA_O,
    SDPA_STATS, /* (b, n_head, s_q) f32: log-sum-exp of each row, natural */
    SDPA_D_O,
    SDPA_DQ,
    SDPA_DK, /* (tokens, n_kv, d_head) bf16, documents one behind the other */
    SDPA_DV,
    SDPA_SOFTMAX_SUM, /* (b, n_head, s_q) f32: rowsum(d_o o), written */
    SDPA_DQ_SUM,      /* (b, n_head, s_q, d_head) f32, when not deterministic: written */
    SDPA_N_BOUND,
};

enum { SDPA_MAX_TENSOR = 80, SDPA_MAX_NODE = 40, SDPA_MOST_DOCS = 64 /* of a call */ };

struct sdpa_tensor {
    enum sdpa_type type;
    int64_t dim[4], stride[4];
    int at, len;     /* ragged: the tensors of starts and lengths; else SDPA_NONE */
    bool is_virtual; /* never in memory */
    bool by_value;   /* one number */
    float value;
};

enum sdpa_op {
    SDPA_MATMUL, /* y = x b, of m rows, n columns, k inner ones */
    SDPA_ADD,
    SDPA_SUB,
    SDPA_MUL,
    SDPA_DIV,
    SDPA_EXP,
    SDPA_LOG,
    SDPA_COPY,
    SDPA_ROW,    /* y = the element's index on axis 2 */
    SDPA_COLUMN, /* on axis 3 */
    SDPA_LESS,
    SDPA_NOT_LESS,
    SDPA_AND,
    SDPA_SELECT, /* y = t ? x : b */
    SDPA_MAX,    /* over the axes along which y is shorter */
    SDPA_SUM,
    SDPA_TRANSPOSE, /* y = x with axes 2 and 3 swapped; nothing moves */
};

struct sdpa_node {
    enum sdpa_op op;
    int x, b, t, y;
    int m, n, k;            /* of a product: tensors with each document's, or SDPA_NONE */
    enum sdpa_type compute; /* what it is computed in */
    bool zero_padding;      /* of a product: rows and columns past m and n are 0 */
    bool broadcast_columns; /* b is one number a document */
};

struct sdpa_graph {
    struct sdpa_tensor tensor[SDPA_MAX_TENSOR];
    struct sdpa_node node[SDPA_MAX_NODE];
    int n_tensor, n_node;
};

/* What a plan is built for. 64-bit members only: shapes are compared as bytes. */
struct sdpa_shape {
    int64_t backward, deterministic;
    /* The last query of a document sees its last key, not query i key i. */
    int64_t bottom_right;
    int64_t b, s_q, s_kv;         /* documents, and bounds of their queries and keys */
    int64_t n_head, n_kv, d_head; /* heads of this call */
    int64_t ld_q, ld_k;           /* elements from token to token in q and k: of all heads */
};

void sdpa_graph_build(const struct sdpa_shape *s, struct sdpa_graph *g);

#ifdef __cplusplus
}
#endif

#endif
