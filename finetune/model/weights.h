/* The frozen base: a checkpoint's tensors, mapped where they can be used as stored.
 *
 *     struct weights *w = weights_open("path/or/hub-name/or/random:config.json", seed, err);
 *     const struct layer_weights *lw = weights_layer(w, l);   // valid until the next call: never
 * kept weights_close(w);
 *
 * Matrices keep their stored type (F32, BF16, F16). Vectors and the small Mamba tensors are
 * converted to real once, at load.
 */
#ifndef FINETUNE_MODEL_WEIGHTS_H
#define FINETUNE_MODEL_WEIGHTS_H

#include "finetune/model/config.h"
#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/core/weight.h"

struct attention_weights {
    struct weight q_proj, k_proj, v_proj, o_proj;
};

struct mamba_weights {
    struct weight in_proj;                    /* (2*d_inner, d_model): u rows, then gate rows */
    struct weight x_proj;                     /* (dt_rank + 2*d_state, d_inner): dt, B, C */
    struct weight dt_proj;                    /* (d_inner, dt_rank) */
    struct weight out_proj;                   /* (d_model, d_inner) */
    const real *in_proj_bias, *out_proj_bias; /* NULL without mamba_proj_bias */
    const real *conv_w;                       /* (d_conv, d_inner): the file's, transposed */
    const real *conv_b;                       /* (d_inner), zeros without mamba_conv_bias */
    const real *dt_bias;                      /* (d_inner) */
    const real *a;                            /* (d_state, d_inner): -exp(A_log), transposed */
    const real *d;                            /* (d_inner) */
    const real *dt_norm, *b_norm, *c_norm;    /* (dt_rank), (d_state), (d_state) */
};

struct mlp_weights {
    struct weight gate_proj, up_proj, down_proj;
};

struct layer_weights {
    bool is_attention, is_moe;
    const real *input_norm, *pre_ff_norm; /* (d_model) */
    struct attention_weights attention;   /* when is_attention */
    struct mamba_weights mamba;           /* otherwise */
    struct weight router;                 /* (n_expert, d_model), when is_moe */
    const struct mlp_weights *mlp;        /* n_expert of them when is_moe, else one */
};

struct weights;

/* base_model: a folder; a hub name ("org/name") in the local Hugging Face cache (HF_HUB_CACHE,
 * HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub); or "random:CONFIG.JSON",
 * weights made from the seed. NULL on failure. */
struct weights *weights_open(const char *base_model, uint64_t seed, struct err *err);
void weights_close(struct weights *w);

/* The same for weights_to_device: the matrices of random weights have no values yet. */
struct weights *weights_open_for_device(const char *base_model, uint64_t seed, struct err *err);

/* Copies every tensor into the backend's memory, matrices in the type of its activations, and
 * points there from now on; uses the backend's scratch, which must be empty. The arena is one of
 * weights_device_bytes and must outlive w's use. */
size_t weights_device_bytes(struct weights *w, struct backend *be);
bool weights_to_device(struct weights *w, struct backend *be, struct arena *arena, struct err *err);

/* Weights of this shape made from the seed, as random: makes them. */
struct weights *weights_random(const struct jamba_config *config, uint64_t seed, struct err *err);

/* Shapes without values, for a plan: every pointer is set and none may be touched.
 * weights_owned_bytes is what the whole model takes. */
struct weights *weights_shapes(const struct jamba_config *config, struct err *err);

/* The folder or config file behind base_model, without opening any weights: the folder of a local
 * or cached checkpoint, NULL for random: (then *config_path is the file). Both are for the caller
 * to free. */
bool weights_locate(const char *base_model, char **folder, char **config_path, struct err *err);

const struct jamba_config *weights_config(const struct weights *w);
const struct layer_weights *weights_layer(struct weights *w, int64_t layer);
struct weight weights_embedding(const struct weights *w); /* (vocab, d_model) */
struct weight weights_head(const struct weights *w);      /* the embedding when tied */
const real *weights_final_norm(const struct weights *w);

/* Bytes held in memory of our own (converted or generated), and bytes mapped from files. */
size_t weights_owned_bytes(const struct weights *w);
size_t weights_mapped_bytes(const struct weights *w);

#endif
