/* Every tensor of a Jamba by name and shape, with the place it takes in struct weights: the one
 * list that the checkpoint reader and the generator of random weights both walk.
 */
#ifndef FINETUNE_MODEL_SLOTS_H
#define FINETUNE_MODEL_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "finetune/model/config.h"
#include "finetune/model/shards.h"
#include "finetune/model/weights.h"
#include "kernels/core/arena.h"
#include "kernels/core/err.h"

struct weights {
    struct jamba_config config;
    struct shards shards; /* the mapped files; empty for random weights */
    struct arena owned;   /* converted, copied and generated tensors */
    struct layer_weights *layers;
    struct mlp_weights *mlps; /* of all layers, in order */
    struct weight embedding, head;
    const real *final_norm;
    uint64_t seed;       /* of random weights */
    const real *no_bias; /* (d_inner) zeros: conv_b of every layer without mamba_conv_bias */
};

enum slot_kind {
    SLOT_MATRIX, /* kept as stored */
    SLOT_VECTOR, /* real */
    SLOT_CONV,   /* (d_inner, 1, d_conv) in the file, (d_conv, d_inner) real here */
    SLOT_A_LOG,  /* (d_inner, d_state) in the file, -exp(.) as (d_state, d_inner) real here */
};

/* How a fresh one begins. */
enum slot_start {
    START_NORMAL, /* normal(0, initializer_range) */
    START_ONE,
    START_ZERO,
    START_CONV,    /* uniform(+-1/sqrt(d_conv)), as torch's Conv1d */
    START_A_LOG,   /* log(1 .. d_state) */
    START_DT_BIAS, /* softplus^-1 of log-uniform(0.001, 0.1) */
};

enum {
    SLOT_NAME_SIZE = 96,
    SLOT_MAX_COLS = 1024, /* of SLOT_CONV and SLOT_A_LOG: config's bounds on d_conv and d_state */
};

struct slot {
    char name[SLOT_NAME_SIZE];
    enum slot_kind kind;
    enum slot_start start;
    int n_dim;
    int64_t dims[3];
    struct weight *matrix; /* of SLOT_MATRIX: where it goes */
    const real **vector;   /* of the others */
};

typedef bool slot_visitor(void *context, const struct slot *slot, struct err *err);

/* Calls visit for every tensor that a checkpoint of this config has, until it returns false;
 * w->layers and w->mlps must be there. The order is fixed by the config. */
bool slots_visit(struct weights *w, slot_visitor *visit, void *context, struct err *err);

/* Fills the slots with weights made from the seed, into w->owned; `place` starts a message. Without
 * matrices, those get shapes and no values. */
bool weights_generate(struct weights *w, uint64_t seed, bool matrices, const char *place,
                      struct err *err);

/* The same walk over w->owned as a measuring arena: shapes and types, no values. */
bool weights_measure(struct weights *w, struct err *err);

#endif
