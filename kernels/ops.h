/* The contract between the model and the backends: every op, its arguments, its shapes.
 *
 *     op_rmsnorm_forward(be, &(struct rmsnorm_args){ .x = x, .w = w, .y = y, .n_row = n, .dim = d,
 *                                                    .eps = eps });
 *
 * op_<name> takes the op's scratch from be->scratch, checks shapes (asserts: a wrong shape is our
 * bug) and calls the backend. Ops return nothing, never allocate, never synchronise; a device error
 * sticks in be->err. (Three wait for the device, and say so: route_counts, to_host, sum_squares.)
 * All matrices are row-major; `ld` is a row's distance in elements. Rows are tokens.
 *
 * Sequence ops take `pos`, each token's position in its document: 0 marks a first token, where the
 * conv taps, the SSM state and attention stop. A chunk that begins with pos > 0 continues a
 * document and reads the carried state.
 *
 * struct act is an activation, in the element type of the backend (kernels/core/act.h); real is
 * f32 but in the CPU's double build. Inside an op values are real; each activation is rounded once,
 * when it is written.
 */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/act.h"
#include "kernels/core/backend.h"
#include "kernels/core/dtype.h"

/* c = beta c + alpha op(a) op(b); c (m, n), op(a) (m, k), op(b) (k, n), accumulated in real. With
 * beta 0, c is not read. On the CPU b may be a stored weight of any floating type and c is real; on
 * a CUDA device a and b are activations or weights of their type, c an activation or real. */
struct gemm_args {
    int64_t m, n, k;
    const struct act *a; /* (m, k), or (k, m) when trans_a */
    const void *b;       /* (k, n), or (n, k) when trans_b */
    void *c;
    int64_t lda, ldb, ldc;
    enum dtype b_dtype;
    bool c_real; /* c is real, whatever activations are: gradients of the adapter */
    bool trans_a, trans_b;
    real alpha, beta;
};

/* y[i] += bias, every row. */
struct add_bias_args {
    struct act *y; /* (n_row, dim) */
    const real *bias;
    int64_t n_row, dim, ldy;
};

/* y = x * rsqrt(mean(x^2) + eps) * w (reference/jamba: JambaRMSNorm). With `residual`, x is first
 * summed with it: sum = x + residual (rounded as an activation), y the norm of sum; sum may be x or
 * residual. Backward adds into dx: dx += i * (q - xhat * mean(q * xhat)), q = dy * w, xhat = x * i;
 * where x is the residual stream, dx already holds what flows past the norm. */
struct rmsnorm_args {
    const struct act *x;        /* (n_row, dim) */
    const real *w;              /* (dim) */
    struct act *y;              /* (n_row, dim) */
    const struct act *residual; /* (n_row, dim) dense, or NULL */
    struct act *sum;            /* (n_row, dim) dense */
    const struct act *dy;
    struct act *dx;               /* += */
    int64_t n_row, dim, ldx, ldy; /* dx as x, dy as y; 0: dim */
    double eps;
};

/* y[i] = table[ids[i]]. */
struct embed_args {
    const int32_t *ids; /* (n_row) */
    const void *table;  /* (vocab, dim) */
    enum dtype dtype;
    struct act *y; /* (n_row, dim) */
    int64_t n_row, dim, vocab;
};

/* The embedding's adapter: t[i] = a[:, ids[i]]; backward da[:, id] += dt[i] in order of (id, i), so
 * that the sum does not depend on threads. pad_id's column is frozen (PEFT honours padding_idx): it
 * gets no gradient; -1: none. */
struct embed_lora_args {
    const int32_t *ids;   /* (n_row) */
    const struct act *a;  /* (rank, vocab) */
    struct act *t;        /* (n_row, rank) */
    const struct act *dt; /* (n_row, rank) */
    real *da;             /* (rank, vocab) += */
    int64_t n_row, rank, vocab, pad_id;
};

/* Causal depthwise convolution and SiLU: v[t] = b + sum_j w[d_conv-1-j] x[t-j], taps before the
 * document's start are zero; y = silu(v). The last tap multiplies the current token.
 * carry_in holds the d_conv-1 inputs before the chunk, carry_out those before the next one.
 * Backward: dy -> dx (written), with carry_out's gradient coming in and carry_in's going out. */
struct conv1d_args {
    const struct act *x;        /* (n_tok, d_inner), ldx */
    const int32_t *pos;         /* (n_tok) */
    const real *w;              /* (d_conv, d_inner) */
    const real *b;              /* (d_inner) */
    const struct act *carry_in; /* (d_conv-1, d_inner) */
    struct act *y;              /* (n_tok, d_inner) */
    struct act *carry_out;      /* (d_conv-1, d_inner); may be carry_in; NULL: not wanted */
    const struct act *dy;       /* (n_tok, d_inner) */
    struct act *dx;             /* (n_tok, d_inner), lddx */
    const real *dcarry_out;     /* (d_conv-1, d_inner) */
    real *dcarry_in;            /* (d_conv-1, d_inner); may be dcarry_out */
    int64_t n_tok, d_inner, d_conv, ldx, lddx;
};

/* Selective scan with gate: delta = softplus(dt + dt_bias) (threshold 20),
 *   h_t = exp(delta_t a) h_{t-1} + delta_t b_t u_t,   y_t = (c_t . h_t + d u_t) silu(z_t).
 * tile_states, when given, receives the state before each SCAN_TILE-th token; the backward replays
 * from there. Backward: dy -> du, ddt, dz, db, dc (all written); dh_out is the gradient at the
 * state after the chunk, dh_in the one before it. */
enum { SCAN_TILE = 32, SCAN_MAX_STATE = 256 };
struct scan_args {
    const struct act *u, *dt; /* (n_tok, d_inner) */
    const struct act *z;      /* (n_tok, d_inner), ldz */
    const struct act *b, *c;  /* (n_tok, d_state) */
    const real *a;            /* (d_state, d_inner) */
    const real *d, *dt_bias;  /* (d_inner) */
    const int32_t *pos;       /* (n_tok) */
    const real *h_in;         /* (d_state, d_inner) */
    real *h_out;              /* (d_state, d_inner); may be h_in; NULL: not wanted */
    struct act *y;            /* (n_tok, d_inner) */
    real *tile_states;        /* (ceil(n_tok / SCAN_TILE), d_state, d_inner), or NULL */
    const struct act *dy;     /* (n_tok, d_inner) */
    struct act *du, *ddt;     /* (n_tok, d_inner) */
    struct act *dz;           /* (n_tok, d_inner), lddz */
    struct act *db, *dc;      /* (n_tok, d_state) */
    const real *dh_out;       /* (d_state, d_inner) */
    real *dh_in;              /* (d_state, d_inner); may be dh_out */
    int64_t n_tok, d_inner, d_state, ldz, lddz;
};

/* Causal grouped-query attention of a chunk's queries over the stream's keys: token t0 + i attends
 * to tokens t0 + i - pos[i] .. t0 + i. Query head h reads kv head h / (n_head / n_kv). Keeps the
 * row log-sum-exp. Backward: dq written; dk, dv (whole stream) are added to. */
struct attention_args {
    const struct act *q;     /* (n_tok, n_head, d_head): the chunk */
    const struct act *k, *v; /* (n_stream, n_kv, d_head): the whole stream */
    const int32_t *pos;      /* (n_tok) */
    /* The same boundaries on the host, for backends that cut the work by document: starts of the
     * documents that the chunk touches, (n_doc + 1), the first at or before t0, the last entry at
     * or after t0 + n_tok. NULL in a measuring run: any documents. */
    const int64_t *doc_start;
    int64_t n_doc;
    int64_t longest;       /* no document that the chunk touches is longer; 0: nothing is known */
    struct act *o;         /* (n_tok, n_head, d_head) */
    real *lse;             /* (n_tok, n_head), natural logarithm */
    const struct act *d_o; /* (n_tok, n_head, d_head) */
    struct act *dq;        /* (n_tok, n_head, d_head) */
    real *dk, *dv;         /* (n_stream, n_kv, d_head) += */
    int64_t n_tok, t0, n_head, n_kv, d_head;
};

/* y = silu(gate) * up. Backward: dgate, dup from dy. */
struct swiglu_args {
    const struct act *gate, *up; /* (n) */
    struct act *y;
    const struct act *dy;
    struct act *dgate, *dup; /* dgate may be gate, dup may be up or dy */
    int64_t n;
};

/* Routing: p = softmax(logits) over all experts, the top_k of them (ties: the lower index), weights
 * not renormalised; and the sort of slots (token, choice) by expert, tokens in order within one.
 * Backward: dlogit_e = p_e c_e [e selected] - p_e sum_j p_j c_j, where dot[slot] = p_e c_e;
 * with aux_f also the load-balancing term aux_scale[doc] p_e (F_e - sum p F), F = aux_f[doc]. */
struct route_args {
    const struct act *logits; /* (n_tok, n_expert) */
    real *p;                  /* (n_tok, n_expert) */
    int32_t *expert;          /* (n_tok, top_k) */
    real *weight;             /* (n_tok, top_k) */
    int32_t *slot;            /* (n_tok * top_k): sorted place -> slot = token * top_k + choice */
    int32_t *place;           /* (n_tok * top_k): slot -> sorted place */
    int32_t *offset;          /* (n_expert + 1): first sorted place of each expert */
    const real *dot;          /* (n_tok, top_k) */
    const real *aux_f;        /* (n_doc, n_expert) or NULL */
    const real *aux_scale;    /* (n_doc) */
    const int32_t *doc;       /* (n_tok): the token's document in the stream */
    struct act *dlogits;      /* (n_tok, n_expert) */
    int64_t n_tok, n_expert, top_k;
};

/* Sums of the load-balancing loss: f[doc][e] += 1 per choice, psum[doc][e] += p[e], tokens in
 * order. */
struct aux_sums_args {
    const real *p;
    const int32_t *expert, *doc;
    real *f, *psum; /* (n_doc, n_expert) += */
    int64_t n_tok, n_expert, top_k;
};

/* The experts' first rows, to the host: offset (n_expert + 1). The one op that waits for a device.
 */
struct route_counts_args {
    const int32_t *offset;
    int64_t *host;
    int64_t n_tok, n_expert, top_k;
};

/* y[i] = x[index[i] / per_row] (* scale[index[i]] when given). */
struct gather_rows_args {
    const struct act *x;
    const int32_t *index; /* (n_row) */
    const real *scale;
    struct act *y; /* (n_row, dim) */
    int64_t n_row, dim, per_row;
};

/* y[t] = base[t] + sum_j weight[t][j] x[place[t][j]], j in order; base and weight may be NULL (0
 * and 1); y may be base. */
struct combine_args {
    const struct act *x;
    const int32_t *place; /* (n_tok, top_k) */
    const real *weight;   /* (n_tok, top_k) */
    const struct act *base;
    struct act *y; /* (n_tok, dim) */
    int64_t n_tok, top_k, dim;
};

/* out[index[i]] = <x[i], y[i]>. */
struct row_dot_args {
    const struct act *x, *y; /* (n_row, dim) */
    const int32_t *index;
    real *out;
    int64_t n_row, dim;
};

/* pick_rows: y[i] = x[index[i]]; place_rows, the way back: y[index[i]] = x[i], other rows
 * untouched. */
struct pick_rows_args {
    const struct act *x;
    const int32_t *index; /* (n_row), distinct */
    struct act *y;
    int64_t n_row, dim;
};

/* Cross entropy in place: logprob[i] = log softmax(logits[i])[target[i]]; when grad_scale is not
 * zero logits become grad_scale * (softmax - onehot). */
struct cross_entropy_args {
    struct act *logits; /* (n_row, vocab) */
    const int32_t *target;
    real *logprob; /* (n_row) */
    int64_t n_row, vocab;
    real grad_scale;
};

/* y = x * mask / (1 - rate) (y += when accumulate). The mask of element j of a row is a function of
 * (seed, step, target, the row's token, j): same bits for any chunks, passes and backends. The
 * row's token is first_token + i, or first_token + slot[i] / per_token for gathered rows. */
struct dropout_args {
    const struct act *x;
    struct act *y; /* (n_row, dim) */
    const int32_t *slot;
    int64_t n_row, dim, ldx, ldy, first_token, per_token; /* ldy 0: dim */
    double rate;
    uint64_t seed, step, target;
    bool accumulate;
};

/* y = a + b; y may be a or b. */
struct add_args {
    const struct act *a, *b;
    struct act *y;
    int64_t n;
};

/* Bytes of zero. */
struct zero_args {
    void *y;
    size_t bytes;
};

/* to[i] = from[i], n reals to activations or back: one rounding. */
struct cast_args {
    const void *from;
    void *to;
    int64_t n;
    enum dtype from_dtype, to_dtype; /* F32, BF16, F16, or the CPU's real */
};

/* Bytes from one side to the other: to_device from host memory into the backend's, to_host back
 * (and waits), copy within the backend's. What to_device reads may change once it has returned. */
struct copy_args {
    const void *from;
    void *to;
    size_t bytes;
};

/* *sum = sum of x^2, in fixed blocks, in double; sum is host memory: waits. */
struct sum_squares_args {
    const real *x;
    double *sum;
    int64_t n;
};

/* *sum += scale * (x[0] + x[1] + ...), in double, in fixed blocks; sum is the backend's memory. */
struct add_sum_args {
    const real *x;
    double *sum;
    double scale;
    int64_t n;
};

/* The load-balancing loss from aux_sums (load_balancing_loss_func of transformers, per document,
 * all its MoE layers together): with M = n_layer * length, loss = E / M^2 sum_e f_e psum_e; *sum +=
 * sum over documents of length * loss, scale[doc] = aux_scale * length * E / M^2. */
struct aux_loss_args {
    const real *f, *psum;     /* (n_doc, n_expert) */
    const int32_t *doc_start; /* (n_doc + 1) */
    real *scale;              /* (n_doc) */
    double *sum;              /* the backend's memory, += */
    double aux_scale;
    int64_t n_doc, n_expert, n_layer;
};

/* Element i of a random matrix (finetune/model/random_weights): range * nearly_normal(bits of
 * (seed, tensor, i)), rounded to dtype. The same bits on every backend. */
struct random_args {
    void *y;
    enum dtype dtype; /* F32 or BF16 */
    int64_t n;
    double range;
    uint64_t seed, tensor;
};

/* AdamW as torch.optim.AdamW: p -= lr wd p; m, v moments; p -= lr/bc1 m / (sqrt(v)/sqrt(bc2) +
 * eps), on g * grad_scale. bc = 1 - beta^step. */
struct adamw_args {
    real *p, *m, *v;
    const real *g;
    struct act *p_act; /* p rounded to activations, for the GEMMs; NULL: not wanted */
    int64_t n;
    double lr, beta1, beta2, eps, weight_decay, bias_correction1, bias_correction2, grad_scale;
};

#define OPS(X)                                                                                     \
    X(gemm, gemm_args)                                                                             \
    X(add_bias, add_bias_args)                                                                     \
    X(rmsnorm_forward, rmsnorm_args)                                                               \
    X(rmsnorm_backward, rmsnorm_args)                                                              \
    X(embed_forward, embed_args)                                                                   \
    X(embed_lora_forward, embed_lora_args)                                                         \
    X(embed_lora_backward, embed_lora_args)                                                        \
    X(conv1d_forward, conv1d_args)                                                                 \
    X(conv1d_backward, conv1d_args)                                                                \
    X(scan_forward, scan_args)                                                                     \
    X(scan_backward, scan_args)                                                                    \
    X(attention_forward, attention_args)                                                           \
    X(attention_backward, attention_args)                                                          \
    X(swiglu_forward, swiglu_args)                                                                 \
    X(swiglu_backward, swiglu_args)                                                                \
    X(route_forward, route_args)                                                                   \
    X(route_backward, route_args)                                                                  \
    X(route_counts, route_counts_args)                                                             \
    X(aux_sums, aux_sums_args)                                                                     \
    X(gather_rows, gather_rows_args)                                                               \
    X(combine, combine_args)                                                                       \
    X(row_dot, row_dot_args)                                                                       \
    X(pick_rows, pick_rows_args)                                                                   \
    X(place_rows, pick_rows_args)                                                                  \
    X(cross_entropy, cross_entropy_args)                                                           \
    X(dropout, dropout_args)                                                                       \
    X(add, add_args)                                                                               \
    X(zero, zero_args)                                                                             \
    X(cast, cast_args)                                                                             \
    X(to_device, copy_args)                                                                        \
    X(to_host, copy_args)                                                                          \
    X(copy, copy_args)                                                                             \
    X(sum_squares, sum_squares_args)                                                               \
    X(add_sum, add_sum_args)                                                                       \
    X(aux_loss, aux_loss_args)                                                                     \
    X(random, random_args)                                                                         \
    X(adamw, adamw_args)

enum op_id {
#define OP_ID(name, args) OP_##name,
    OPS(OP_ID)
#undef OP_ID
        N_OP,
};

/* A backend: each op, and the bytes of scratch it needs (NULL: none). */
struct ops {
#define OP_FIELDS(name, args)                                                                      \
    void (*name)(struct backend * be, const struct args *a, void *scratch);                        \
    size_t (*name##_scratch)(const struct backend *be, const struct args *a);
    OPS(OP_FIELDS)
#undef OP_FIELDS
};

#define OP_DECLARE(name, args) void op_##name(struct backend *be, const struct args *a);
OPS(OP_DECLARE)
#undef OP_DECLARE

#endif
