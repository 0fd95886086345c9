/* Memory of attention by cuDNN: what a call takes, how a chunk's work is cut until calls fit, and
 * what a plan must set aside without a device or documents to look at. C11; for sdpa.c and
 * scratch.c.
 *
 * What plans take inside was read off cuDNN 9.19's for sm_90 and sm_80 (tests/cuda/
 * test_sdpa_plans.c holds the formula to them): with grouped heads the full-head dK and dV in bf16;
 * in fixed order dS in bf16, 2 b h s_q s_kv, which decides everything; on Ampere one more f32 dQ.
 */
#ifndef KERNELS_CUDA_SDPA_SIZES_H
#define KERNELS_CUDA_SDPA_SIZES_H

#include <stddef.h>

#include "kernels/cuda/sdpa_nodes.h"

enum {
    SDPA_LEAST_TOKENS = 128, /* the smallest bound of a document's length */
    SDPA_ROWS = 128,         /* queries are cut in multiples of this: a tile of cuDNN's */
    /* Tiles of keys, over heads and documents, that fill a GPU twice over. The same on every
     * device: how work is cut shows in how dk and dv are rounded. */
    SDPA_FULL = 264,
    /* A backward call's scratch in units of MiB: enough for five heads of 8K tokens at once; it
     * grows with the keys, so that 8K queries of a head share a pass over dk and dv, up to what
     * that takes for 256K keys. */
    SDPA_LEAST_BUDGET = 1024,
    SDPA_MOST_BUDGET = 4352,
    SDPA_BUDGET_PER_KEY = 2 * 8192 + 1024,
    /* Of a plan beside its formula: what cuDNN 9.19 takes is under 64 KiB. */
    SDPA_SLACK = 1 << 20,
};

static inline size_t sdpa_align(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* The bound that plans are built for: the next power of two. */
static inline int64_t sdpa_tokens_bound(int64_t n)
{
    int64_t bound = SDPA_LEAST_TOKENS;
    while (bound < n)
        bound *= 2;
    return bound;
}

static inline size_t sdpa_stats_bytes(const struct sdpa_shape *s)
{
    return sdpa_align((size_t)(s->b * s->n_head * s->s_q) * sizeof(float));
}

/* Of bf16 dk, or dv. */
static inline size_t sdpa_dk_bytes(const struct sdpa_shape *s)
{
    return sdpa_align((size_t)(s->b * s->s_kv * s->n_kv * s->d_head) * 2);
}

static inline size_t sdpa_dq_sum_bytes(const struct sdpa_shape *s)
{
    return s->deterministic
               ? 0
               : sdpa_align((size_t)(s->b * s->n_head * s->s_q * s->d_head) * sizeof(float));
}

/* The most that a plan may take inside. */
static inline size_t sdpa_workspace_bytes(const struct sdpa_shape *s)
{
    size_t bytes = SDPA_SLACK;
    if (!s->backward)
        return bytes;
    if (s->n_head != s->n_kv)
        bytes += (size_t)(s->b * s->n_head * s->s_kv * s->d_head) * 4;
    if (s->deterministic)
        bytes += (size_t)(s->b * s->n_head * s->s_q * s->s_kv) * 2;
    return sdpa_align(bytes + sdpa_dq_sum_bytes(s));
}

/* The lists of a call's documents (struct sdpa_tables, kernels/cuda/attention.h). */
static inline size_t sdpa_tables_bytes(void)
{
    return 8192;
}

/* All scratch of a call. */
static inline size_t sdpa_bytes(const struct sdpa_shape *s)
{
    size_t bytes = sdpa_tables_bytes() + sdpa_stats_bytes(s) + sdpa_workspace_bytes(s);
    if (s->backward)
        bytes += sdpa_stats_bytes(s) + 2 * sdpa_dk_bytes(s) + sdpa_dq_sum_bytes(s);
    return bytes;
}

/* A chunk as one document of all tokens up to its end, all heads at once. */
static inline struct sdpa_shape sdpa_whole(int64_t n_tok, int64_t t0, int64_t n_head, int64_t n_kv,
                                           int64_t d_head)
{
    return (struct sdpa_shape){ .b = 1,
                                .s_q = sdpa_tokens_bound(n_tok),
                                .s_kv = sdpa_tokens_bound(t0 + n_tok),
                                .n_head = n_head,
                                .n_kv = n_kv,
                                .d_head = d_head,
                                .ld_q = n_head * d_head,
                                .ld_k = n_kv * d_head };
}

/* Documents that a call for those of s tokens each, or more than s / 2, has: of them a chunk holds
 * fewer than 2 n_tok / s, but of the smallest any number. The same for every chunk of as many
 * tokens, whatever its documents: plans are few. */
static inline int64_t sdpa_class_docs(int64_t n_tok, int64_t s)
{
    const int64_t most = (s == SDPA_LEAST_TOKENS ? 4 : 2) * sdpa_tokens_bound(n_tok) / s;
    int64_t n = 1;
    while (4 * n <= most && 4 * n <= SDPA_MOST_DOCS)
        n *= 4;
    return n;
}

/* What is set aside for the chunk: its documents are cut into calls that fit. */
static inline size_t sdpa_forward_budget(const struct sdpa_shape *whole)
{
    struct sdpa_shape s = *whole;
    s.b = 4;
    return sdpa_bytes(&s);
}

static inline size_t sdpa_backward_budget(const struct sdpa_shape *whole)
{
    const size_t bytes = sdpa_bytes(whole), least = (size_t)SDPA_LEAST_BUDGET << 20;
    const size_t most = (size_t)SDPA_MOST_BUDGET << 20;
    size_t budget = (size_t)whole->s_kv * SDPA_BUDGET_PER_KEY;
    budget = budget < least ? least : budget > most ? most : budget;
    return bytes < budget ? bytes : budget;
}

/* ---- cutting ---- */

/* The next smaller number of heads that calls can share all heads out by: whole groups of those
 * that share a kv head, or an even part of one group; 0 when there is none. */
static inline int64_t sdpa_fewer_heads(int64_t heads, int64_t n_head, int64_t n_kv)
{
    const int64_t group = n_head / n_kv;
    for (int64_t h = heads - 1; h > 0; h--) {
        if (h >= group ? h % group == 0 && n_kv % (h / group) == 0 : group % h == 0)
            return h;
    }
    return 0;
}

static inline void sdpa_set_heads(struct sdpa_shape *s, int64_t heads, int64_t group)
{
    s->n_head = heads;
    s->n_kv = heads > group ? heads / group : 1;
}

/* Queries of a call when a document of s of them is cut in pieces. */
static inline int64_t sdpa_rows(int64_t s, int64_t pieces)
{
    const int64_t rows = (s + pieces - 1) / pieces;
    return (rows + SDPA_ROWS - 1) / SDPA_ROWS * SDPA_ROWS;
}

/* Lowers a backward call's documents, heads and queries until it fits the budget: documents first,
 * of which some may be empty, then heads, as long as keys, documents and heads left fill the
 * device; then all documents but one; then queries, each piece of which makes a pass over dk and
 * dv; then heads again. False when nothing is left. */
static inline bool sdpa_cut(struct sdpa_shape *s, size_t budget)
{
    const int64_t n_head = s->n_head, n_kv = s->n_kv, group = n_head / n_kv, s_q = s->s_q;
    const int64_t few_rows = 512;
    int64_t pieces = 1;
    sdpa_set_heads(s, n_head, group);
    while (sdpa_bytes(s) > budget) {
        const int64_t fewer = sdpa_fewer_heads(s->n_head, n_head, n_kv);
        const int64_t tiles = s->b * (s->s_kv / SDPA_LEAST_TOKENS);
        if (s->b > 1 && s->n_head * tiles / 4 >= SDPA_FULL)
            s->b /= 4;
        else if (fewer > 0 && fewer * tiles >= SDPA_FULL)
            sdpa_set_heads(s, fewer, group);
        else if (s->b > 1)
            s->b /= 4;
        else if (s->s_q > few_rows || (fewer == 0 && s->s_q > SDPA_ROWS))
            s->s_q = sdpa_rows(s_q, ++pieces);
        else if (fewer > 0)
            sdpa_set_heads(s, fewer, group);
        else
            return false;
    }
    return true;
}

#endif
