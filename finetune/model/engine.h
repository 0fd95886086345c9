/* A model ready to run: weights, adapter, backend and arenas together.
 *
 *     struct engine e = { 0 };
 *     ok = engine_open(&e, &(struct engine_options){ .base_model = "dir", ... }, err) &&
 *          engine_adapt(&e, &lora, err)                    // or engine_adapt_from(&e, dir, err),
 * or neither
 *          && engine_allocate(&e, &shape, &bytes, training, err);
 *     jamba_run(&e.jamba, ...);
 *     engine_close(&e);
 */
#ifndef FINETUNE_MODEL_ENGINE_H
#define FINETUNE_MODEL_ENGINE_H

#include "finetune/model/compute.h"
#include "finetune/model/jamba.h"
#include "finetune/model/modules.h"
#include "finetune/model/plan.h"
#include "lora/config.h"

struct engine_options {
    const char *base_model;
    uint64_t seed; /* of random: weights */
    struct compute compute;
};

struct engine {
    struct backend be;
    struct arena memory; /* on a device: the one allocation that the others are parts of */
    struct arena scratch, saved, adapter_arena, weights_arena;
    struct weights *weights;
    struct lora_module *modules;
    int64_t n_module;
    struct lora_choice *choices; /* (n_module); NULL: the base alone */
    struct lora_config lora;     /* of the adapter on disk, when adapted from one */
    struct lora_adapter adapter;
    struct jamba jamba;
    struct stream stream; /* buffers for a pass */
};

/* Opens the base and lists its modules; allocates nothing of size. */
bool engine_open(struct engine *e, const struct engine_options *options, struct err *err);

/* The same from config.json alone: shapes without values, for `plan`; compute.plan_only is set. */
bool engine_open_shapes(struct engine *e, const struct engine_options *options, struct err *err);
void engine_close(struct engine *e);

/* Chooses the modules of a new adapter; or those of an adapter folder, whose config goes to
 * e->lora. */
bool engine_choose(struct engine *e, const struct lora_config *lora, struct err *err);
bool engine_choose_from(struct engine *e, const char *adapter_dir, struct err *err);

struct plan_subject engine_subject(const struct engine *e, bool training);

/* Arenas of the planned sizes, the adapter (initialised from the seed, or read from adapter_dir),
 * the model and a stream. */
struct engine_memory {
    struct plan_shape shape;
    struct plan_bytes bytes;
    bool training;
    uint64_t seed;
    const char *adapter_dir; /* NULL: a fresh adapter */
};
bool engine_allocate(struct engine *e, const struct engine_memory *memory, struct err *err);

/* The same for jamba_feed, chunk_tokens at a time: arenas as planned, the adapter read from
 * adapter_dir (which modules it has was chosen with engine_choose_from; without that the base
 * alone). */
bool engine_allocate_generation(struct engine *e, int64_t chunk_tokens, const char *adapter_dir,
                                struct err *err);

#endif
