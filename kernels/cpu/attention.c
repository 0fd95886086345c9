/* Causal grouped-query attention over packed documents, in tiles, with an online softmax (as in
 * Dao, "FlashAttention-2", 2023): scores never exist beyond one (BLOCK_Q, BLOCK_K) tile.
 *
 * Keys are walked in blocks aligned to the stream, oldest first, so a row's sum does not depend on
 * the chunk it is computed in. The backward makes two sweeps, one over query blocks for dq and one
 * over key blocks for dk and dv: scores are computed twice, but every output has one owner and a
 * fixed order. P = exp(scale q k - lse), dP = dO V^T, D = rowsum(dO O), dS = P (dP - D),
 * dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO; dk, dv of a kv head sum over its query heads.
 *
 * Every product is a tile's (tile.h). Those of rows with keys want the block of keys transposed,
 * which pays when several blocks of queries share it: QUERIES of them, or in the second sweep all.
 */
#include <omp.h>

#include "kernels/cpu/tile.h"

enum { BLOCK_Q = 3 * TILE_ROWS, BLOCK_K = 64, QUERIES = 4 * BLOCK_Q };

static inline int64_t ld_q(const struct attention_args *a)
{
    return a->n_head * a->d_head;
}

static inline int64_t ld_k(const struct attention_args *a)
{
    return a->n_kv * a->d_head;
}

static inline int64_t at_query(const struct attention_args *a, int64_t head, int64_t q)
{
    return q * ld_q(a) + head * a->d_head;
}

static inline int64_t at_key(const struct attention_args *a, int64_t kv, int64_t key)
{
    return key * ld_k(a) + kv * a->d_head;
}

static inline int64_t kv_head(const struct attention_args *a, int64_t head)
{
    return head / (a->n_head / a->n_kv);
}

static inline real scale_of(const struct attention_args *a)
{
    return (real)(1 / sqrt((double)a->d_head));
}

/* ---- a tile of work ---- */

/* One head's queries q0 .. q0+n_q of the chunk against stream keys k0 .. k0+n_k. */
struct work {
    int64_t head, q0, n_q, k0, n_k;
};

/* The keys of the tile that a query sees: from .. to of its n_k. */
struct span {
    int64_t from, to;
};

static struct span keys_of(const struct attention_args *a, const struct work *w, int64_t i)
{
    const int64_t at = a->t0 + w->q0 + i, first = at - a->pos[w->q0 + i];
    struct span s = { first - w->k0, min_i64(at + 1 - w->k0, w->n_k) };
    s.from = s.from < 0 ? 0 : s.from;
    s.to = s.to < s.from ? s.from : s.to;
    return s;
}

/* The first key that any of the queries sees. */
static int64_t first_key(const struct attention_args *a, int64_t q0, int64_t n_q)
{
    int64_t first = a->t0 + q0;
    for (int64_t q = q0; q < q0 + n_q; q++)
        first = min_i64(first, a->t0 + q - a->pos[q]);
    return first;
}

/* The tile of these queries in the block of keys k0 .. k0+n_k, cut behind the last key that any of
 * them sees; n_k is 0 when they see none. */
static struct work work_at(const struct attention_args *a, int64_t head, int64_t q0, int64_t k0)
{
    struct work w = { head, q0, min_i64(BLOCK_Q, a->n_tok - q0), k0, 0 };
    const int64_t end = a->t0 + q0 + w.n_q;
    if (k0 < end && first_key(a, q0, w.n_q) < k0 + BLOCK_K)
        w.n_k = min_i64(BLOCK_K, end - k0);
    return w;
}

/* ---- products ---- */

/* out (n_q, n_k) = scale x yt: rows of q or d_o with a transposed block of keys or values. */
static void with_keys(const struct attention_args *a, const struct work *w, const real *x,
                      const real *yt, real scale, real *out)
{
    const struct tile t = { .a = x + at_query(a, w->head, w->q0),
                            .row_step = ld_q(a),
                            .k_step = 1,
                            .b = yt,
                            .ldb = BLOCK_K,
                            .k = a->d_head,
                            .c = out,
                            .ldc = BLOCK_K,
                            .col_step = 1,
                            .alpha = scale };
    CPU_OP(tile_multiply)(&t, w->n_q, w->n_k);
}

/* Rows of d_head as tile_multiply may read them: where they are, or copied to where reading past
 * their end is harmless. */
struct rows {
    const real *x;
    int64_t ld;
};

static struct rows readable(const real *x, int64_t ld, int64_t n, int64_t d_head, real *copy)
{
    const int64_t width = tile_width(d_head);
    if (width == d_head)
        return (struct rows){ x, ld };
    for (int64_t i = 0; i < n; i++)
        memcpy(copy + i * width, x + i * ld, (size_t)d_head * sizeof(real));
    return (struct rows){ copy, width };
}

/* y (n_q, d_head) += s rows, over the tile's keys: rows of o or dq. */
static void add_to_queries(const struct attention_args *a, const struct work *w, const real *s,
                           const struct rows *rows, real *y)
{
    const struct tile t = { .a = s,
                            .row_step = BLOCK_K,
                            .k_step = 1,
                            .b = rows->x,
                            .ldb = rows->ld,
                            .k = w->n_k,
                            .c = y + at_query(a, w->head, w->q0),
                            .ldc = ld_q(a),
                            .col_step = 1,
                            .alpha = 1,
                            .beta = 1 };
    CPU_OP(tile_multiply)(&t, w->n_q, a->d_head);
}

/* y (n_k, d_head) += s^T rows, over the tile's queries: rows of dk or dv. */
static void add_to_keys(const struct attention_args *a, const struct work *w, const real *s,
                        const struct rows *rows, real *y)
{
    const struct tile t = { .a = s,
                            .row_step = 1,
                            .k_step = BLOCK_K,
                            .b = rows->x,
                            .ldb = rows->ld,
                            .k = w->n_q,
                            .c = y + at_key(a, kv_head(a, w->head), w->k0),
                            .ldc = ld_k(a),
                            .col_step = 1,
                            .alpha = 1,
                            .beta = 1 };
    CPU_OP(tile_multiply)(&t, w->n_k, a->d_head);
}

/* x's block of keys k0 .. k0+BLOCK_K of one kv head as (d_head, BLOCK_K), zeros past the stream. */
static void transpose_keys(const struct attention_args *a, const real *x, int64_t kv, int64_t k0,
                           real *out)
{
    const int64_t n = min_i64(BLOCK_K, a->t0 + a->n_tok - k0);
    CPU_OP(tile_transpose)(x + at_key(a, kv, k0), ld_k(a), n, a->d_head, out, BLOCK_K);
    for (int64_t d = 0; d < a->d_head && n < BLOCK_K; d++)
        memset(out + d * BLOCK_K + n, 0, (size_t)(BLOCK_K - n) * sizeof(real));
}

static void zero_queries(const struct attention_args *a, int64_t head, int64_t q0, int64_t end,
                         real *y)
{
    for (int64_t q = q0; q < end; q++)
        memset(y + at_query(a, head, q), 0, (size_t)a->d_head * sizeof(real));
}

/* ---- forward ---- */

/* The running maximum and sum of each query's softmax. */
struct softmax {
    real top[QUERIES], sum[QUERIES];
};

/* Scores become P relative to the rows' new maxima; what o and the sums hold is scaled to them. */
static void softmax_tile(const struct attention_args *a, const struct work *w, real *scores,
                         real *top, real *sum)
{
    for (int64_t i = 0; i < w->n_q; i++) {
        const struct span keys = keys_of(a, w, i);
        real *restrict s = scores + i * BLOCK_K, *restrict o = reals_of(a->o) +
                                                               at_query(a, w->head, w->q0 + i);
        real highest = top[i];
#pragma omp simd reduction(max : highest)
        for (int64_t j = keys.from; j < keys.to; j++)
            highest = s[j] > highest ? s[j] : highest;
        const real rescale = sum[i] == 0 ? 0 : real_exp(top[i] - highest);
        for (int64_t d = 0; d < a->d_head && rescale != 1; d++)
            o[d] *= rescale;
#pragma omp simd
        for (int j = 0; j < BLOCK_K; j++) {
            const real p = real_exp(s[j] - highest);
            s[j] = j >= keys.from && j < keys.to ? p : 0;
        }
        real part[LANES] = { 0 }, total = 0;
        for (int j = 0; j < BLOCK_K; j += LANES) {
#pragma omp simd
            for (int l = 0; l < LANES; l++)
                part[l] += s[j + l];
        }
        for (int l = 0; l < LANES; l++)
            total += part[l];
        sum[i] = sum[i] * rescale + total;
        top[i] = highest;
    }
}

static void finish_query(const struct attention_args *a, int64_t head, int64_t q, real top,
                         real sum)
{
    real *o = reals_of(a->o) + at_query(a, head, q);
    const real inverse = 1 / sum;
    for (int64_t d = 0; d < a->d_head; d++)
        o[d] *= inverse;
    a->lse[q * a->n_head + head] = top + (real)log((double)sum);
}

/* Scratch of a thread, (BLOCK_K, d_head) thrice: a block of keys and one of values, transposed; and
 * rows copied to be readable. */
static int64_t block_reals(const struct attention_args *a)
{
    return BLOCK_K * tile_width(a->d_head);
}

static void forward_queries(const struct attention_args *a, int64_t head, int64_t first, real *kt)
{
    const int64_t end = min_i64(first + QUERIES, a->n_tok), kv = kv_head(a, head);
    real scores[BLOCK_Q * BLOCK_K] = { 0 }, *copy = kt + block_reals(a);
    struct softmax f;
    for (int64_t i = 0; i < QUERIES; i++) {
        f.top[i] = -INFINITY;
        f.sum[i] = 0;
    }
    zero_queries(a, head, first, end, reals_of(a->o));
    int64_t k0 = first_key(a, first, end - first) / BLOCK_K * BLOCK_K;
    for (; k0 < a->t0 + end; k0 += BLOCK_K) {
        const int64_t n_k = min_i64(BLOCK_K, a->t0 + a->n_tok - k0);
        transpose_keys(a, reals_in(a->k), kv, k0, kt);
        const struct rows v =
            readable(reals_in(a->v) + at_key(a, kv, k0), ld_k(a), n_k, a->d_head, copy);
        for (int64_t q0 = first; q0 < end; q0 += BLOCK_Q) {
            const struct work w = work_at(a, head, q0, k0);
            if (w.n_k == 0)
                continue;
            with_keys(a, &w, reals_in(a->q), kt, scale_of(a), scores);
            softmax_tile(a, &w, scores, f.top + (q0 - first), f.sum + (q0 - first));
            add_to_queries(a, &w, scores, &v, reals_of(a->o));
        }
    }
    for (int64_t q = first; q < end; q++)
        finish_query(a, head, q, f.top[q - first], f.sum[q - first]);
}

size_t CPU_OP(attention_forward_scratch)(const struct backend *be, const struct attention_args *a)
{
    return (size_t)(be->n_thread * 2 * block_reals(a)) * sizeof(real);
}

void CPU_OP(attention_forward)(struct backend *be, const struct attention_args *a, void *scratch)
{
    real *work = scratch;
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic)
    for (int64_t head = 0; head < a->n_head; head++) {
        for (int64_t q = 0; q < a->n_tok; q += QUERIES)
            forward_queries(a, head, q, work + omp_get_thread_num() * 2 * block_reals(a));
    }
}

/* ---- backward ---- */

struct gradients {
    real p[BLOCK_Q * BLOCK_K], ds[BLOCK_Q * BLOCK_K]; /* ds times scale */
};

static void backward_tile(const struct attention_args *a, const struct work *w, const real *kt,
                          const real *vt, struct gradients *g)
{
    const real scale = scale_of(a);
    with_keys(a, w, reals_in(a->q), kt, scale, g->p);
    with_keys(a, w, reals_in(a->d_o), vt, 1, g->ds);
    for (int64_t i = 0; i < w->n_q; i++) {
        const struct span keys = keys_of(a, w, i);
        const int64_t at = at_query(a, w->head, w->q0 + i);
        const real lse = a->lse[(w->q0 + i) * a->n_head + w->head];
        const real d = dot(reals_in(a->d_o) + at, reals_in(a->o) + at, a->d_head);
        /* A first token sees itself alone: P is 1 whatever q and k are, and dS is 0, not the
         * rounding that dP - D leaves. */
        const real moves = a->pos[w->q0 + i] > 0 ? scale : 0;
        real *restrict p = g->p + i * BLOCK_K, *restrict ds = g->ds + i * BLOCK_K;
#pragma omp simd
        for (int j = 0; j < BLOCK_K; j++) {
            const bool on = j >= keys.from && j < keys.to;
            const real e = real_exp(p[j] - lse), s = moves * e * (ds[j] - d);
            p[j] = on ? e : 0;
            ds[j] = on && moves != 0 ? s : 0;
        }
    }
}

/* dq of QUERIES queries of one head. */
static void backward_queries(const struct attention_args *a, int64_t head, int64_t first, real *kt)
{
    const int64_t end = min_i64(first + QUERIES, a->n_tok), kv = kv_head(a, head);
    real *vt = kt + block_reals(a), *copy = vt + block_reals(a);
    struct gradients g = { 0 };
    zero_queries(a, head, first, end, reals_of(a->dq));
    int64_t k0 = first_key(a, first, end - first) / BLOCK_K * BLOCK_K;
    for (; k0 < a->t0 + end; k0 += BLOCK_K) {
        const int64_t n_k = min_i64(BLOCK_K, a->t0 + a->n_tok - k0);
        transpose_keys(a, reals_in(a->k), kv, k0, kt);
        transpose_keys(a, reals_in(a->v), kv, k0, vt);
        const struct rows k =
            readable(reals_in(a->k) + at_key(a, kv, k0), ld_k(a), n_k, a->d_head, copy);
        for (int64_t q0 = first; q0 < end; q0 += BLOCK_Q) {
            const struct work w = work_at(a, head, q0, k0);
            if (w.n_k == 0)
                continue;
            backward_tile(a, &w, kt, vt, &g);
            add_to_queries(a, &w, g.ds, &k, reals_of(a->dq));
        }
    }
}

/* dk and dv of stream keys k0 .. k0+BLOCK_K of one kv head, from all its query heads. */
static void backward_keys(const struct attention_args *a, int64_t kv, int64_t k0, real *kt)
{
    const int64_t group = a->n_head / a->n_kv;
    const int64_t from = k0 > a->t0 ? (k0 - a->t0) / BLOCK_Q * BLOCK_Q : 0;
    real *vt = kt + block_reals(a), *copy = vt + block_reals(a);
    struct gradients g = { 0 };
    transpose_keys(a, reals_in(a->k), kv, k0, kt);
    transpose_keys(a, reals_in(a->v), kv, k0, vt);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
        for (int64_t q0 = from; q0 < a->n_tok; q0 += BLOCK_Q) {
            const struct work w = work_at(a, head, q0, k0);
            if (w.n_k == 0)
                continue;
            const int64_t at = at_query(a, head, q0);
            backward_tile(a, &w, kt, vt, &g);
            const struct rows q = readable(reals_in(a->q) + at, ld_q(a), w.n_q, a->d_head, copy);
            add_to_keys(a, &w, g.ds, &q, a->dk);
            const struct rows d_o =
                readable(reals_in(a->d_o) + at, ld_q(a), w.n_q, a->d_head, copy);
            add_to_keys(a, &w, g.p, &d_o, a->dv);
        }
    }
}

size_t CPU_OP(attention_backward_scratch)(const struct backend *be, const struct attention_args *a)
{
    return (size_t)(be->n_thread * 3 * block_reals(a)) * sizeof(real);
}

void CPU_OP(attention_backward)(struct backend *be, const struct attention_args *a, void *scratch)
{
    real *work = scratch;
    const int64_t size = 3 * block_reals(a);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic)
    for (int64_t head = 0; head < a->n_head; head++) {
        for (int64_t q = 0; q < a->n_tok; q += QUERIES)
            backward_queries(a, head, q, work + omp_get_thread_num() * size);
    }
    const int64_t first = first_key(a, 0, a->n_tok) / BLOCK_K;
    const int64_t last = div_up(a->t0 + a->n_tok, BLOCK_K);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic)
    for (int64_t kv = 0; kv < a->n_kv; kv++) {
        for (int64_t b = first; b < last; b++)
            backward_keys(a, kv, b * BLOCK_K, work + omp_get_thread_num() * size);
    }
}
