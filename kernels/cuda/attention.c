/* The attention ops: cuDNN's plans where they take the work, our own kernels where they do not. */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/sdpa.h"

void cuda_attention_forward(struct backend *be, const struct attention_args *a, void *scratch)
{
    if (a->n_tok > 0 && !cuda_sdpa_forward(be, a, scratch))
        cuda_attention_forward_plain(be, a);
}

void cuda_attention_backward(struct backend *be, const struct attention_args *a, void *scratch)
{
    if (a->n_tok > 0 && !cuda_sdpa_backward(be, a, scratch))
        cuda_attention_backward_plain(be, a, scratch);
}
