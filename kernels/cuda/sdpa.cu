/* The small kernels around cuDNN's attention: the lists that tell it a call's documents,
 * log-sum-exp between our rows and its dense ones, and its dk and dv into the stream's f32.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/attention.h"
#include "kernels/cuda/number.cuh"

namespace
{

constexpr int N_THREAD = 256;

/* One block, a thread for each document: lists are short. */
__global__ void tables_kernel(struct sdpa_docs docs, int64_t ld_q, int64_t ld_k, int64_t ld_dk,
                              struct sdpa_tables *__restrict__ t)
{
    const int i = int(threadIdx.x), last = docs.n - 1;
    if (i > SDPA_MOST_DOCS)
        return;
    int64_t q = int64_t(docs.q_row[last]) + docs.n_q[last];
    int64_t k = int64_t(docs.k_row[last]) + docs.n_k[last];
    int32_t dk = 0, len_q = 0, len_k = 0;
    for (int j = 0; j < i && j < docs.n; j++)
        dk += docs.n_k[j];
    if (i < docs.n) {
        q = docs.q_row[i];
        k = docs.k_row[i];
        len_q = docs.n_q[i];
        len_k = docs.n_k[i];
    }
    t->at_q[i] = q * ld_q;
    t->at_k[i] = k * ld_k;
    t->at_dk[i] = dk * ld_dk;
    t->dk_row[i] = dk;
    if (i < SDPA_MOST_DOCS) {
        t->len_q[i] = len_q;
        t->len_k[i] = len_k;
        t->q_row[i] = int32_t(q);
        t->k_row[i] = int32_t(k);
    }
}

/* A thread for each element of stats (b, heads, s_q), heads side by side as in lse. */
struct stats {
    int64_t n, heads, s_q, head, n_head;
    const struct sdpa_tables *tables;
};

__device__ __forceinline__ bool find_stat(const struct stats &s, int64_t &dense, int64_t &row)
{
    const int64_t i = int64_t(blockIdx.x) * N_THREAD + threadIdx.x;
    if (i >= s.n)
        return false;
    const int64_t h = i % s.heads, q = i / s.heads % s.s_q, doc = i / s.heads / s.s_q;
    dense = (doc * s.heads + h) * s.s_q + q;
    row = q < s.tables->len_q[doc] ? (s.tables->q_row[doc] + q) * s.n_head + s.head + h : -1;
    return true;
}

__global__ void gather_stats_kernel(struct stats s, const float *__restrict__ lse,
                                    float *__restrict__ dense)
{
    int64_t at, row;
    if (find_stat(s, at, row))
        dense[at] = row >= 0 ? lse[row] : 0.0f;
}

__global__ void scatter_stats_kernel(struct stats s, const float *__restrict__ dense,
                                     float *__restrict__ lse)
{
    int64_t at, row;
    if (find_stat(s, at, row) && row >= 0)
        lse[row] = dense[at];
}

/* A thread for each 8 elements of the call's dk and dv. Bytes an element: 4 read in bfloat16, 16
 * read and written in f32. */
__global__ void add_keys_kernel(const struct sdpa_tables *__restrict__ t, int32_t n_doc, int64_t n,
                                int64_t row_vectors, int64_t ld, int64_t kv_at,
                                const __nv_bfloat16 *__restrict__ dk,
                                const __nv_bfloat16 *__restrict__ dv, float *__restrict__ sum_dk,
                                float *__restrict__ sum_dv)
{
    const int64_t i = int64_t(blockIdx.x) * N_THREAD + threadIdx.x;
    if (i >= n)
        return;
    const int64_t row = i / row_vectors, at = i % row_vectors * 8;
    /* The last document that begins at or before the row. */
    int low = 0, high = n_doc - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (t->dk_row[middle] <= row)
            low = middle;
        else
            high = middle - 1;
    }
    const int64_t to = (t->k_row[low] + row - t->dk_row[low]) * ld + kv_at + at;
    float from[2][8], sum[4][4];
    load_vector(dk + i * 8, from[0]);
    load_vector(dv + i * 8, from[1]);
    for (int half = 0; half < 2; half++) {
        load_vector(sum_dk + to + 4 * half, sum[half]);
        load_vector(sum_dv + to + 4 * half, sum[2 + half]);
    }
    for (int half = 0; half < 2; half++) {
        for (int e = 0; e < 4; e++) {
            sum[half][e] += from[0][4 * half + e];
            sum[2 + half][e] += from[1][4 * half + e];
        }
        store_vector(sum_dk + to + 4 * half, sum[half]);
        store_vector(sum_dv + to + 4 * half, sum[2 + half]);
    }
}

unsigned blocks_for(int64_t n_thread)
{
    return unsigned((n_thread + N_THREAD - 1) / N_THREAD);
}

struct stats stats_of(const struct attention_args *a, int64_t head, const struct sdpa_shape *s,
                      const struct sdpa_tables *tables)
{
    return { s->b * s->n_head * s->s_q, s->n_head, s->s_q, head, a->n_head, tables };
}

} // namespace

static_assert(sizeof(struct sdpa_tables) <= 8192, "what sdpa_tables_bytes() says");
static_assert(sizeof(struct sdpa_docs) <= 4096, "what fits in a kernel's parameters");

extern "C" void cuda_sdpa_write_tables(struct backend *be, const struct sdpa_docs *docs,
                                       const struct sdpa_shape *s, struct sdpa_tables *tables)
{
    LAUNCH(tables_kernel, dim3(1), dim3(SDPA_MOST_DOCS + 32), 0, stream_of(be), *docs, s->ld_q,
           s->ld_k, s->n_kv * s->d_head, tables);
    CHECK_LAUNCH(be, "attention");
}

extern "C" void cuda_sdpa_gather_stats(struct backend *be, const struct attention_args *a,
                                       int64_t head, const struct sdpa_shape *s,
                                       const struct sdpa_tables *tables, float *dense)
{
    const struct stats k = stats_of(a, head, s, tables);
    LAUNCH(gather_stats_kernel, dim3(blocks_for(k.n)), dim3(N_THREAD), 0, stream_of(be), k, a->lse,
           dense);
    CHECK_LAUNCH(be, "attention_backward");
}

extern "C" void cuda_sdpa_scatter_stats(struct backend *be, const struct attention_args *a,
                                        const struct sdpa_shape *s,
                                        const struct sdpa_tables *tables, const float *dense)
{
    const struct stats k = stats_of(a, 0, s, tables);
    LAUNCH(scatter_stats_kernel, dim3(blocks_for(k.n)), dim3(N_THREAD), 0, stream_of(be), k, dense,
           a->lse);
    CHECK_LAUNCH(be, "attention_forward");
}

extern "C" void cuda_sdpa_add_keys(struct backend *be, const struct attention_args *a, int64_t kv,
                                   int32_t n_doc, int64_t n_row, const struct sdpa_shape *s,
                                   const struct sdpa_tables *tables, const void *dk, const void *dv)
{
    const int64_t row_vectors = s->n_kv * s->d_head / 8, n = n_row * row_vectors;
    LAUNCH(add_keys_kernel, dim3(blocks_for(n)), dim3(N_THREAD), 0, stream_of(be), tables, n_doc, n,
           row_vectors, a->n_kv * a->d_head, kv * a->d_head, static_cast<const __nv_bfloat16 *>(dk),
           static_cast<const __nv_bfloat16 *>(dv), a->dk, a->dv);
    CHECK_LAUNCH(be, "attention_backward");
}
