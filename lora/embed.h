/* The embedding with an optional adapter, sibling of linear: y[i] = W[id] + scale * B A[:, id], no
 * dropout (PEFT's Embedding); the pad token's column of A gets no gradient. */
#ifndef LORA_EMBED_H
#define LORA_EMBED_H

#include <stdint.h>

#include "kernels/core/act.h"
#include "kernels/core/backend.h"
#include "kernels/core/weight.h"
#include "lora/adapter.h"

struct embed_lookup {
    struct weight w;              /* (vocab, d_model) */
    const struct lora_slot *lora; /* or NULL */
    const int32_t *ids;           /* (n_row) */
    struct act *y;                /* (n_row, d_model) */
    const struct act *dy;         /* (n_row, d_model) */
    int64_t n_row, pad_id;
};

void embed_lookup_forward(struct backend *be, const struct embed_lookup *a);

/* Needs an adapter: the frozen table has no gradient. */
void embed_lookup_backward(struct backend *be, const struct embed_lookup *a);

#endif
