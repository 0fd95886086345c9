/* The adapter: one flat block of trained values, and where each module's A and B lie in it.
 *
 *     struct lora_adapter adapter = { 0 };
 *     const struct lora_adapter_args args = { modules, n, choices, &be, &adapter_arena,
 *                                             .with_training = true };
 *     if (!lora_adapter_init(&adapter, &args, err)) ...
 *     lora_adapter_reset(&adapter, seed);                                    // or read a file
 *     lora_adapter_push(&adapter, &be);                                      // to the backend
 *     struct lora_slot *slot = lora_adapter_slot(&adapter, module_index);    // NULL: not adapted
 *     ... train ...
 *     lora_adapter_pull(&adapter, &be);                                      // back, to write it
 *     lora_adapter_free(&adapter);
 *
 * Layout of params, and alike of grads, m and v: slot after slot in the order of the modules, A
 * then B, both row-major, without gaps. A linear adds scale * B A x to its output, with A (rank,
 * in) and B (out, rank). The embedding adds scale * B A[:, id]: A (rank, vocab) is PEFT's
 * lora_embedding_A, B (d_model, rank) its lora_embedding_B. One block, because clipping, AdamW and
 * checkpoints then are loops over one array.
 *
 * The values exist up to three times: `params` in host memory, which files and people read;
 * `master` (real), which AdamW updates; and `act`, what the GEMMs read. Where the backend works in
 * host memory master is params, where its activations are reals act is master.
 */
#ifndef LORA_ADAPTER_H
#define LORA_ADAPTER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/act.h"
#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "lora/module.h"
#include "lora/target.h"

struct lora_slot {
    const struct lora_module *module;
    int64_t rank;
    double alpha; /* as configured; scale is made of it */
    real scale;
    real *a, *b;                     /* (rank, in), (out, rank): in params, on the host */
    const struct act *act_a, *act_b; /* the same in act, for ops */
    real *da, *db;                   /* their gradients, for ops; NULL without training */
};

/* Which learning rate a parameter takes under LoRA+ (PEFT's optimizers/loraplus.py). */
enum lora_group {
    LORA_GROUP_A,
    LORA_GROUP_B,
    LORA_GROUP_EMBEDDING, /* both matrices of the embedding */
    LORA_GROUP_COUNT,
};

/* Parameters [begin, end) of the flat block; the ranges cover it in order. */
struct lora_range {
    int64_t begin, end;
    enum lora_group group;
};

struct lora_adapter {
    const struct lora_module *modules; /* borrowed: they outlive the adapter */
    int64_t n_module;
    struct lora_slot *slots;
    int64_t n_slot;
    int64_t *slot_of; /* (n_module): -1 when not adapted */
    struct lora_range *ranges;
    int64_t n_range;
    int64_t n_param;
    real *params;        /* (n_param), host memory */
    real *host;          /* params where they are memory of their own, else NULL */
    real *master;        /* (n_param), the backend's memory */
    struct act *act;     /* (n_param), likewise */
    real *grads, *m, *v; /* (n_param) each, likewise, or NULL without training */
};

struct lora_adapter_args {
    const struct lora_module *modules;
    int64_t n_module;
    const struct lora_choice *choices; /* (n_module), from lora_choose */
    const struct backend *be;
    struct arena *arena; /* of the backend's memory */
    bool with_training;  /* gradients and moments too */
};

/* Pushes the flat blocks on the arena, which the caller sizes by running this over a measuring
 * arena first; there nothing but the addresses may be used. */
bool lora_adapter_init(struct lora_adapter *adapter, const struct lora_adapter_args *args,
                       struct err *err);

/* Gives back what is not the arena's. */
void lora_adapter_free(struct lora_adapter *adapter);

/* PEFT's initialisation: A uniform in +-1/sqrt(in) and B zero; for the embedding A zero and B
 * standard normal. Each module has random numbers of its own (a hash of its path), so that its
 * values do not depend on what else is adapted. Into params. */
void lora_adapter_reset(struct lora_adapter *adapter, uint64_t seed);

/* params to master and act; gradients and moments become zero. */
void lora_adapter_push(struct lora_adapter *adapter, struct backend *be);

/* params to master and act alone. */
void lora_adapter_push_values(struct lora_adapter *adapter, struct backend *be);

/* master to params. */
void lora_adapter_pull(struct lora_adapter *adapter, struct backend *be);

struct lora_slot *lora_adapter_slot(const struct lora_adapter *adapter, int64_t module_index);

#endif
