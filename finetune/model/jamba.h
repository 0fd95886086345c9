/* Jamba over a stream of documents: forward, loss, backward into the adapter's gradients.
 *
 *     struct jamba model = { .be = &be, .saved = &saved, .config = ..., .weights = ..., .adapter =
 * ... }; if (!jamba_init(&model, max_tok, max_doc, err)) ... jamba_run(&model, &stream, &(struct
 * jamba_pass){ .grad_scale = 1 / n_target, ... }, &result); jamba_free(&model);
 *
 * The stream is walked layer-major: layer 0 over all chunks, then layer 1, ...; backward in
 * reverse, chunks in reverse too. Documents never see each other: conv taps, SSM state and
 * attention stop at their starts. A document that crosses a chunk's edge carries its state over it,
 * both ways. The result does not depend on the policy (to the bit), nor on chunk size and passes
 * (to rounding).
 */
#ifndef FINETUNE_MODEL_JAMBA_H
#define FINETUNE_MODEL_JAMBA_H

#include "datasets/stream.h"
#include "finetune/model/block.h"
#include "finetune/model/config.h"
#include "finetune/model/weights.h"
#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "lora/adapter.h"

/* What is kept for the backward beyond layer inputs and chunk edges. */
enum recompute {
    RECOMPUTE_LAYER, /* nothing: each layer's forward runs again */
    RECOMPUTE_SCAN,  /* GEMM outputs: only what is cheap or huge around them runs again */
    RECOMPUTE_NONE,  /* everything but per-token SSM states */
};

struct block_keep; /* finetune/model/layer.h */
struct layer_store;

struct jamba {
    /* Set by the caller, borrowed. */
    struct backend *be;
    struct arena *saved;
    const struct jamba_config *config;
    struct weights *weights;
    const struct lora_adapter *adapter; /* or NULL: the base alone */
    int64_t chunk_tokens;
    int64_t longest; /* tokens of the longest document that will come; 0: any */
    enum recompute recompute;
    /* Set by jamba_init: host memory, so that a pass allocates nothing. */
    int64_t max_tok, max_doc;
    struct block_keep *keeps;   /* (n_layer, max_chunk) */
    struct layer_store *stores; /* (n_layer) */
    int32_t *pos, *doc;         /* (max_tok) */
    int32_t *rows, *row_target; /* (max_tok): rows with a target */
    int64_t *counts;            /* (n_expert + 1) */
    int32_t *doc_start;         /* (max_doc + 1) */
    real *host;                 /* (max_tok): log-probabilities brought back */
    double *sums;               /* (JAMBA_N_SUM) of the step's passes, the backend's memory */
};

enum { JAMBA_SUM_LOSS, JAMBA_SUM_AUX, JAMBA_N_SUM };

struct jamba_pass {
    bool backward;
    real grad_scale;  /* of each target's cross entropy: 1 / targets of the step */
    double aux_scale; /* router_aux_loss_coef / tokens of the step; 0: no load-balancing loss */
    struct lora_dropout dropout; /* rate 0 outside training */
};

struct jamba_result {
    double loss_sum;     /* of the targets' cross entropy, natural log, unscaled */
    const real *logprob; /* (n_row) of the targets, valid until the next run */
    const int32_t *rows; /* (n_row) the stream rows they belong to */
    int64_t n_row;
};

bool jamba_init(struct jamba *m, int64_t max_tok, int64_t max_doc, struct err *err);
void jamba_free(struct jamba *m);

/* One pass. result brings the targets' log-probabilities to the host and waits for them; NULL: not
 * wanted. The losses are in the step's sums in either case. */
void jamba_run(struct jamba *m, const struct stream *s, const struct jamba_pass *pass,
               struct jamba_result *result);

/* Around the passes of a step, whose losses add up where the ops run: only the end waits. */
struct jamba_losses {
    double loss_sum; /* of the targets' cross entropy, natural log, unscaled */
    double aux_sum;  /* sum over documents of length * load-balancing loss */
};
void jamba_begin_step(struct jamba *m);
struct jamba_losses jamba_end_step(struct jamba *m);

/* Generation: the state of one sequence, owned by the caller; any number of sequences may share a
 * model.
 *
 *     struct jamba_state *state = jamba_state_new(&model, err);
 *     ok = jamba_feed(&model, state, prompt, n, logits, err);
 *     while (ok) { id = choose(logits); ... ok = jamba_feed(&model, state, &id, 1, logits, err); }
 *     jamba_state_free(state);
 *
 * The model needs max_tok >= chunk_tokens, and arenas as plan_measure_generation says
 * (engine_allocate_generation sees to both). Memory of the state grows with the sequence only by
 * the attention layers' keys and values. */
struct jamba_state;
struct jamba_state *jamba_state_new(const struct jamba *m, struct err *err);

/* The same for at most n_tok tokens, in an arena (the model's `saved`, between passes): nothing is
 * allocated later. What is pushed behind it is to be gone when it is freed. */
struct jamba_state *jamba_state_new_in(const struct jamba *m, struct arena *arena, int64_t n_tok,
                                       struct err *err);
void jamba_state_free(struct jamba_state *state);
int64_t jamba_state_length(const struct jamba_state *state); /* tokens fed so far */
size_t jamba_state_bytes(const struct jamba_state *state);

/* Feeds n >= 1 ids, chunk_tokens at a time, and writes the last one's logits (vocab). Ids outside
 * the vocabulary are an error, and then, or when memory for keys and values runs out, the state is
 * as it was. */
bool jamba_feed(struct jamba *m, struct jamba_state *state, const int32_t *ids, int64_t n,
                real *logits, struct err *err);

#endif
