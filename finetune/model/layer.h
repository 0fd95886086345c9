/* One decoder layer over one chunk: mixer and feed-forward with their residuals, forward and
 * backward, and what is kept between the two under each recompute policy. */
#ifndef FINETUNE_MODEL_LAYER_H
#define FINETUNE_MODEL_LAYER_H

#include "finetune/model/attention.h"
#include "finetune/model/block.h"
#include "finetune/model/jamba.h"
#include "finetune/model/mamba.h"
#include "finetune/model/mlp.h"
#include "finetune/model/moe.h"

struct block_keep {
    struct act *mid; /* (n, d_model): x + mixer(x)   GEMM class */
    union {
        struct mamba_keep mamba;
        struct attention_keep attention;
    } mixer;
    union {
        struct mlp_keep mlp;
        struct moe_keep moe;
    } ff;
};

/* The state a layer carries: per chunk for Mamba, over the whole stream for attention. */
struct layer_edge {
    struct mamba_edge mamba;
    struct attention_edge attention;
};

/* What lies at the edges of a layer's chunks, all pushed on the saved arena. */
struct layer_store {
    struct act *conv; /* Mamba: (n_chunk + 1, ...) the state before each chunk */
    real *h;
    struct attention_edge attention;
};

/* Pushes one class of a chunk's keep on an arena. */
void layer_keep_gemm(const struct block *b, struct block_keep *k, struct arena *arena);
void layer_keep_rest(const struct block *b, struct block_keep *k, struct arena *arena);

/* x, out (n, d_model); out may be x. k holds memory for everything. */
void layer_forward(const struct block *b, struct block_keep *k, const struct layer_edge *edge,
                   const struct act *x, struct act *out);

/* Fills k again from x for a backward; have_gemm: its GEMM outputs are there. */
void layer_recompute(const struct block *b, struct block_keep *k, const struct layer_edge *edge,
                     const struct act *x, bool have_gemm);

/* The gradients a layer carries to the chunk before: Mamba's edge, attention's keys and values. */
struct layer_dedge {
    struct mamba_dedge mamba;
    real *dk, *dv; /* (n_stream, n_kv, d_head) */
};

/* dx (n, d_model): the gradient at the layer's output in, at its input out. */
void layer_backward(const struct block *b, const struct block_keep *k,
                    const struct layer_edge *edge, const struct layer_dedge *dedge,
                    const struct act *x, struct act *dx);

#endif
