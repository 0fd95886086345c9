/* The attention kernels of our own: all of attention, and what stands around cuDNN's. C11 and
 * C++17. */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/context.h"
#include "kernels/cuda/sdpa_nodes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Any d_head up to 256, any alignment, any documents (a->doc_start may be NULL); sums in a fixed
 * order. scratch of the backward: n_tok * n_head floats. */
enum { ATTENTION_MOST_D_HEAD = 256 };
void cuda_attention_forward_plain(struct backend *be, const struct attention_args *a);
void cuda_attention_backward_plain(struct backend *be, const struct attention_args *a,
                                   void *scratch);

/* ---- around cuDNN ---- */

/* The documents of a call: queries from the chunk's row q_row on, keys from the stream's row k_row
 * on, the last query at the last key. Passed to a kernel by value: no copy to wait for. */
struct sdpa_docs {
    int32_t n;
    int32_t q_row[SDPA_MOST_DOCS], n_q[SDPA_MOST_DOCS];
    int32_t k_row[SDPA_MOST_DOCS], n_k[SDPA_MOST_DOCS];
};

/* The same as cuDNN and the kernels below read them, in device memory; documents past n are empty.
 * Each list begins at a multiple of 16 bytes. */
struct sdpa_tables {
    int64_t at_q[SDPA_MOST_DOCS + 2], at_k[SDPA_MOST_DOCS + 2], at_dk[SDPA_MOST_DOCS + 2];
    int32_t len_q[SDPA_MOST_DOCS], len_k[SDPA_MOST_DOCS];
    int32_t q_row[SDPA_MOST_DOCS], k_row[SDPA_MOST_DOCS];
    int32_t dk_row[SDPA_MOST_DOCS + 4]; /* (n + 1): first row of each in the call's dk */
};

void cuda_sdpa_write_tables(struct backend *be, const struct sdpa_docs *docs,
                            const struct sdpa_shape *s, struct sdpa_tables *tables);

/* stats (b, s->n_head, s_q) from the chunk's lse, heads from `head` on, 0 past each document's
 * queries; and back to lse. */
void cuda_sdpa_gather_stats(struct backend *be, const struct attention_args *a, int64_t head,
                            const struct sdpa_shape *s, const struct sdpa_tables *tables,
                            float *stats);
void cuda_sdpa_scatter_stats(struct backend *be, const struct attention_args *a,
                             const struct sdpa_shape *s, const struct sdpa_tables *tables,
                             const float *stats);

/* a->dk, a->dv += the call's, bf16 (n_row, s->n_kv, d_head) of its n_doc documents, kv heads from
 * `kv` on. */
void cuda_sdpa_add_keys(struct backend *be, const struct attention_args *a, int64_t kv,
                        int32_t n_doc, int64_t n_row, const struct sdpa_shape *s,
                        const struct sdpa_tables *tables, const void *dk, const void *dv);

#ifdef __cplusplus
}
#endif

#endif
