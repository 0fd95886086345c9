/* Memory, before anything is allocated: the real forward and backward run over measuring arenas
 * with the plan backend (kernels/plan), so the plan is the allocation. What depends on data is
 * planned at its bound.
 */
#ifndef FINETUNE_MODEL_PLAN_H
#define FINETUNE_MODEL_PLAN_H

#include "finetune/model/jamba.h"
#include "finetune/model/weights.h"
#include "kernels/core/backend.h"
#include "lora/module.h"
#include "lora/target.h"

/* What is planned for. */
struct plan_subject {
    const struct backend *be; /* the backend that will run */
    struct weights *weights;  /* opened, or weights_shapes */
    const struct lora_module *modules;
    int64_t n_module;
    const struct lora_choice *choices; /* (n_module), or NULL: no adapter */
    bool training;                     /* gradients, moments, backward; else forward only */
    bool dropout, balance;             /* the step has them */
    int64_t sample_tokens; /* between passes sequences of so many tokens are fed; 0: none */
};

/* How a step is walked. */
struct plan_shape {
    int64_t pass_tokens, chunk_tokens;
    enum recompute recompute;
    int64_t longest; /* tokens of the longest document; 0: up to pass_tokens */
};

enum { PLAN_COPIES = 3 }; /* values and two moments */

struct plan_bytes {
    size_t weights; /* ours, and mapped from files */
    size_t adapter, saved, scratch;
    size_t copies; /* of values and moments, to write checkpoints from: host memory, so no part of
                      a device's total */
    size_t total;
    double seconds; /* of a step's forward and backward over one pass, roughly: to compare shapes */
};

bool plan_measure(const struct plan_subject *subject, const struct plan_shape *shape,
                  struct plan_bytes *out, struct err *err);

/* The same for jamba_feed of any number of ids, chunk_tokens at a time. The state's own memory is
 * not in it: it grows with the sequence (jamba_state_bytes). subject->training must be false. */
bool plan_measure_generation(const struct plan_subject *subject, int64_t chunk_tokens,
                             struct plan_bytes *out, struct err *err);

/* What is asked of plan_choose. */
struct plan_wish {
    int64_t step_tokens;  /* most tokens of a step */
    int64_t longest;      /* longest document: a pass holds at least one */
    int64_t chunk_tokens; /* 0: free */
    int64_t pass_tokens;  /* 0: free */
    int recompute;        /* an enum recompute, or -1: free */
    size_t budget;        /* bytes for everything */
};

/* Among all policies, passes and chunks that fit the budget the one whose step is predicted to take
 * the least (kernels/plan/cost.h). A pass holds whole documents: at least `longest` tokens. When
 * nothing fits, false with what the smallest needs and which keys would change that; *shape and
 * *bytes are then those of the smallest. */
enum {
    PLAN_PASS_TOKENS = 8192, /* the most on the CPU; on a device the two below */
    PLAN_CHUNK_TOKENS = 2048,
    PLAN_DEVICE_PASS_TOKENS = 131072,
    PLAN_DEVICE_CHUNK_TOKENS = 16384,
};
bool plan_choose(const struct plan_subject *subject, const struct plan_wish *wish,
                 struct plan_shape *shape, struct plan_bytes *bytes, struct err *err);

/* "none", "scan", "layer". */
const char *recompute_name(enum recompute recompute);

/* Bytes of memory of this machine, or of the container it runs in. */
size_t plan_machine_memory(void);

/* What a run may take: memory_budget, or when that is 0 seven eighths of the machine's memory (the
 * rest is the system's); on a device all of it but PLAN_DEVICE_RESERVE, for the context, the
 * libraries' code and their own workspaces (of a small device an eighth). A device that is only
 * planned for has PLAN_DEVICE_ASSUMED. */
#define PLAN_DEVICE_RESERVE ((size_t)3 << 29) /* 1.5 GiB */
#define PLAN_DEVICE_ASSUMED ((size_t)80000000000)
size_t plan_budget(const struct backend *be, int64_t memory_budget);

/* Adds to an out-of-memory message what was needed for what, and which keys change it. Returns
 * false. */
bool plan_explain(const struct plan_bytes *bytes, struct err *err);

#endif
