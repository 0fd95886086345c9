/* Attention by cuDNN, where it can be had (cuda_state.sdpa is not NULL) and takes the shape.
 *
 *     if (!cuda_sdpa_forward(be, a, scratch))
 *         cuda_attention_forward_plain(be, a, scratch);
 *
 * A module without cuDNN (an emulated one) has this file's sdpa.c over another sdpa_graph.h.
 */
#ifndef KERNELS_CUDA_SDPA_H
#define KERNELS_CUDA_SDPA_H

#include <stdbool.h>

#include "kernels/cuda/context.h"

/* False: nothing was queued, it is for our own kernels to do. scratch as cuda_attention_forward's
 * and cuda_attention_backward's (scratch.h). */
bool cuda_sdpa_forward(struct backend *be, const struct attention_args *a, void *scratch);
bool cuda_sdpa_backward(struct backend *be, const struct attention_args *a, void *scratch);

#endif
