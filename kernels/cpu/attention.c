/* Causal grouped-query attention over packed documents, in blocks, with an online softmax (as in
 * Dao, "FlashAttention-2", 2023): scores never exist beyond one (BLOCK_Q, BLOCK_K) tile.
 *
 * Keys are walked in blocks aligned to the stream, oldest first, so a row's sum does not depend on
 * the chunk it is computed in. The backward makes two sweeps, one over query blocks for dq and one
 * over key blocks for dk and dv: scores are computed twice, but every output has one owner and a
 * fixed order. P = exp(scale q k - lse), dP = dO V^T, D = rowsum(dO O), dS = P (dP - D) dQ = scale
 * dS K, dK = scale dS^T Q, dV = P^T dO; dk, dv of a kv head sum over its query heads.
 */
#include "kernels/cpu/variant.h"

#include <omp.h>

enum { BLOCK_Q = 32, BLOCK_K = 64 };

/* A tile of work: one head's queries q0 .. q0+n_q of the chunk against stream keys k0 .. k0+n_k. */
struct tile {
    int64_t head, q0, n_q, k0, n_k;
};

static inline int64_t ld_q(const struct attention_args *a)
{
    return a->n_head * a->d_head;
}

static inline int64_t ld_k(const struct attention_args *a)
{
    return a->n_kv * a->d_head;
}

static inline int64_t kv_head(const struct attention_args *a, int64_t head)
{
    return head / (a->n_head / a->n_kv);
}

static inline bool attends(const struct attention_args *a, int64_t q, int64_t key)
{
    const int64_t at = a->t0 + q;
    return key <= at && key >= at - a->pos[q];
}

/* rows^T into out (d_head, n): so that loops over n run along lanes. */
static void transpose(const real *rows, int64_t ld, int64_t n, int64_t d_head, real *restrict out)
{
    for (int64_t j = 0; j < n; j++) {
        for (int64_t d = 0; d < d_head; d++)
            out[d * BLOCK_K + j] = rows[j * ld + d];
    }
    for (int64_t j = n; j < BLOCK_K; j++) {
        for (int64_t d = 0; d < d_head; d++)
            out[d * BLOCK_K + j] = 0;
    }
}

/* out[i] = scale * sum_d x[i][d] yt[d][:], i < n; x rows at distance ld. */
static void products(const real *x, int64_t ld, int64_t n, const real *restrict yt, int64_t d_head,
                     real scale, real out[][BLOCK_K])
{
    for (int64_t i = 0; i < n; i++) {
        real *restrict row = out[i];
        memset(row, 0, BLOCK_K * sizeof(real));
        for (int64_t d = 0; d < d_head; d++) {
            const real v = scale * x[i * ld + d];
            const real *restrict y = yt + d * BLOCK_K;
#pragma omp simd
            for (int j = 0; j < BLOCK_K; j++)
                row[j] += v * y[j];
        }
    }
}

/* y += v x over n. */
static inline void axpy(real v, const real *restrict x, real *restrict y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += v * x[i];
}

/* Stream keys that any of the block's queries sees: aligned start, and one past the last. */
static int64_t first_key_block(const struct attention_args *a, int64_t q0, int64_t n_q)
{
    int64_t first = a->t0 + q0;
    for (int64_t q = q0; q < q0 + n_q; q++)
        first = min_i64(first, a->t0 + q - a->pos[q]);
    return first / BLOCK_K * BLOCK_K;
}

/* ---- forward ---- */

struct forward_state {
    real s[BLOCK_Q][BLOCK_K];
    real top[BLOCK_Q], sum[BLOCK_Q]; /* running maximum and sum of the softmax */
};

static void softmax_tile(const struct attention_args *a, const struct tile *t,
                         struct forward_state *f)
{
    for (int64_t i = 0; i < t->n_q; i++) {
        real top = f->top[i], *s = f->s[i];
        for (int64_t j = 0; j < t->n_k; j++) {
            if (attends(a, t->q0 + i, t->k0 + j) && !(s[j] <= top))
                top = s[j];
        }
        real *o = a->o + (t->q0 + i) * ld_q(a) + t->head * a->d_head;
        const real rescale = f->sum[i] == 0 ? 0 : real_exp(f->top[i] - top);
        for (int64_t d = 0; d < a->d_head && rescale != 1; d++)
            o[d] *= rescale;
        real sum = f->sum[i] * rescale;
        const real *v = a->v + t->k0 * ld_k(a) + kv_head(a, t->head) * a->d_head;
        for (int64_t j = 0; j < t->n_k; j++) {
            if (!attends(a, t->q0 + i, t->k0 + j))
                continue;
            const real p = real_exp(s[j] - top);
            sum += p;
            axpy(p, v + j * ld_k(a), o, a->d_head);
        }
        f->top[i] = top;
        f->sum[i] = sum;
    }
}

static void forward_queries(const struct attention_args *a, int64_t head, int64_t q0, real *kt)
{
    const int64_t n_q = min_i64(BLOCK_Q, a->n_tok - q0);
    const real scale = (real)(1 / sqrt((double)a->d_head));
    struct forward_state f;
    for (int64_t i = 0; i < n_q; i++) {
        f.top[i] = -INFINITY;
        f.sum[i] = 0;
        memset(a->o + (q0 + i) * ld_q(a) + head * a->d_head, 0, (size_t)a->d_head * sizeof(real));
    }
    const int64_t end = a->t0 + q0 + n_q;
    for (int64_t k0 = first_key_block(a, q0, n_q); k0 < end; k0 += BLOCK_K) {
        const struct tile t = { head, q0, n_q, k0, min_i64(BLOCK_K, end - k0) };
        transpose(a->k + k0 * ld_k(a) + kv_head(a, head) * a->d_head, ld_k(a), t.n_k, a->d_head,
                  kt);
        products(a->q + q0 * ld_q(a) + head * a->d_head, ld_q(a), n_q, kt, a->d_head, scale, f.s);
        softmax_tile(a, &t, &f);
    }
    for (int64_t i = 0; i < n_q; i++) {
        real *o = a->o + (q0 + i) * ld_q(a) + head * a->d_head;
        const real inverse = 1 / f.sum[i];
        for (int64_t d = 0; d < a->d_head; d++)
            o[d] *= inverse;
        a->lse[(q0 + i) * a->n_head + head] = f.top[i] + (real)log((double)f.sum[i]);
    }
}

size_t CPU_OP(attention_forward_scratch)(const struct backend *be, const struct attention_args *a)
{
    return (size_t)(be->n_thread * a->d_head * BLOCK_K) * sizeof(real);
}

void CPU_OP(attention_forward)(struct backend *be, const struct attention_args *a, void *scratch)
{
    real *kt = scratch;
    const int64_t n_block = div_up(a->n_tok, BLOCK_Q);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic)
    for (int64_t head = 0; head < a->n_head; head++) {
        for (int64_t b = 0; b < n_block; b++)
            forward_queries(a, head, b * BLOCK_Q, kt + omp_get_thread_num() * a->d_head * BLOCK_K);
    }
}

/* ---- backward ---- */

struct backward_state {
    real p[BLOCK_Q][BLOCK_K], ds[BLOCK_Q][BLOCK_K];
};

/* P and dS of a tile; rows_d holds D of the tile's queries. */
static void backward_tile(const struct attention_args *a, const struct tile *t, const real *kt,
                          const real *vt, struct backward_state *b)
{
    const real scale = (real)(1 / sqrt((double)a->d_head));
    const real *q = a->q + t->q0 * ld_q(a) + t->head * a->d_head;
    const real *d_o = a->d_o + t->q0 * ld_q(a) + t->head * a->d_head;
    const real *o = a->o + t->q0 * ld_q(a) + t->head * a->d_head;
    products(q, ld_q(a), t->n_q, kt, a->d_head, scale, b->p);
    products(d_o, ld_q(a), t->n_q, vt, a->d_head, 1, b->ds);
    for (int64_t i = 0; i < t->n_q; i++) {
        const real lse = a->lse[(t->q0 + i) * a->n_head + t->head];
        const real d = dot(d_o + i * ld_q(a), o + i * ld_q(a), a->d_head);
        for (int64_t j = 0; j < BLOCK_K; j++) {
            const bool on = j < t->n_k && attends(a, t->q0 + i, t->k0 + j);
            const real p = on ? real_exp(b->p[i][j] - lse) : 0;
            b->p[i][j] = p;
            /* A first token sees itself alone: P is 1 whatever q and k are, and dS is 0, not the
             * rounding that dP - D leaves. */
            const bool moves = on && a->pos[t->q0 + i] > 0;
            b->ds[i][j] = moves ? scale * p * (b->ds[i][j] - d) : 0;
        }
    }
}

static void load_keys(const struct attention_args *a, const struct tile *t, real *kt, real *vt)
{
    const int64_t at = t->k0 * ld_k(a) + kv_head(a, t->head) * a->d_head;
    transpose(a->k + at, ld_k(a), t->n_k, a->d_head, kt);
    transpose(a->v + at, ld_k(a), t->n_k, a->d_head, vt);
}

static void backward_queries(const struct attention_args *a, int64_t head, int64_t q0, real *kt)
{
    real *vt = kt + a->d_head * BLOCK_K;
    const int64_t n_q = min_i64(BLOCK_Q, a->n_tok - q0), end = a->t0 + q0 + n_q;
    struct backward_state b;
    for (int64_t i = 0; i < n_q; i++)
        memset(a->dq + (q0 + i) * ld_q(a) + head * a->d_head, 0, (size_t)a->d_head * sizeof(real));
    for (int64_t k0 = first_key_block(a, q0, n_q); k0 < end; k0 += BLOCK_K) {
        const struct tile t = { head, q0, n_q, k0, min_i64(BLOCK_K, end - k0) };
        load_keys(a, &t, kt, vt);
        backward_tile(a, &t, kt, vt, &b);
        const real *k = a->k + k0 * ld_k(a) + kv_head(a, head) * a->d_head;
        for (int64_t i = 0; i < n_q; i++) {
            real *dq = a->dq + (q0 + i) * ld_q(a) + head * a->d_head;
            for (int64_t j = 0; j < t.n_k; j++)
                axpy(b.ds[i][j], k + j * ld_k(a), dq, a->d_head);
        }
    }
}

/* dk and dv of stream keys k0 .. k0+BLOCK_K of one kv head, from all its query heads. */
static void backward_keys(const struct attention_args *a, int64_t kv, int64_t k0, real *kt)
{
    real *vt = kt + a->d_head * BLOCK_K;
    const int64_t end = a->t0 + a->n_tok, group = a->n_head / a->n_kv;
    const int64_t n_k = min_i64(BLOCK_K, end - k0);
    struct backward_state b;
    for (int64_t head = kv * group; head < (kv + 1) * group; head++) {
        const int64_t from = k0 > a->t0 ? (k0 - a->t0) / BLOCK_Q * BLOCK_Q : 0;
        for (int64_t q0 = from; q0 < a->n_tok; q0 += BLOCK_Q) {
            const struct tile t = { head, q0, min_i64(BLOCK_Q, a->n_tok - q0), k0, n_k };
            if (first_key_block(a, q0, t.n_q) >= k0 + n_k)
                continue;
            load_keys(a, &t, kt, vt);
            backward_tile(a, &t, kt, vt, &b);
            for (int64_t j = 0; j < n_k; j++) {
                real *dk = a->dk + (k0 + j) * ld_k(a) + kv * a->d_head;
                real *dv = a->dv + (k0 + j) * ld_k(a) + kv * a->d_head;
                for (int64_t i = 0; i < t.n_q; i++) {
                    const int64_t at = (q0 + i) * ld_q(a) + head * a->d_head;
                    axpy(b.ds[i][j], a->q + at, dk, a->d_head);
                    axpy(b.p[i][j], a->d_o + at, dv, a->d_head);
                }
            }
        }
    }
}

size_t CPU_OP(attention_backward_scratch)(const struct backend *be, const struct attention_args *a)
{
    return (size_t)(be->n_thread * 2 * a->d_head * BLOCK_K) * sizeof(real);
}

void CPU_OP(attention_backward)(struct backend *be, const struct attention_args *a, void *scratch)
{
    real *work = scratch;
    const int64_t work_size = 2 * a->d_head * BLOCK_K, n_block = div_up(a->n_tok, BLOCK_Q);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic)
    for (int64_t head = 0; head < a->n_head; head++) {
        for (int64_t b = 0; b < n_block; b++)
            backward_queries(a, head, b * BLOCK_Q, work + omp_get_thread_num() * work_size);
    }
    const int64_t first = first_key_block(a, 0, a->n_tok) / BLOCK_K;
    const int64_t last = div_up(a->t0 + a->n_tok, BLOCK_K);
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic)
    for (int64_t kv = 0; kv < a->n_kv; kv++) {
        for (int64_t b = first; b < last; b++)
            backward_keys(a, kv, b * BLOCK_K, work + omp_get_thread_num() * work_size);
    }
}
