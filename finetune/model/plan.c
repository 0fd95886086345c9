#include "finetune/model/plan.h"

#include <stdio.h>
#include <unistd.h>

#include "kernels/core/text.h"
#include "kernels/ops.h"
#include "kernels/plan/plan.h"

const char *recompute_name(enum recompute recompute)
{
    static const char *const names[] = {
        [RECOMPUTE_LAYER] = "layer", [RECOMPUTE_SCAN] = "scan", [RECOMPUTE_NONE] = "none"
    };
    return names[recompute];
}

/* The limit of the control group this process runs in (a container's), or SIZE_MAX. */
static size_t group_limit(void)
{
    unsigned long long bytes = 0;
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "r");
    if (file == NULL)
        return SIZE_MAX;
    const bool limited = fscanf(file, "%llu", &bytes) == 1 && bytes > 0; /* "max": no limit */
    fclose(file);
    return limited ? (size_t)bytes : SIZE_MAX;
}

size_t plan_machine_memory(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const size_t machine = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX / 2;
    const size_t group = group_limit();
    return machine < group ? machine : group;
}

size_t plan_budget(int64_t memory_budget)
{
    return memory_budget > 0 ? (size_t)memory_budget : plan_machine_memory() / 8 * 7;
}

/* The optimizer's part of a step. */
static void measure_optimizer(struct backend *be, const struct lora_adapter *adapter)
{
    double sum = 0;
    op_sum_squares(
        be, &(struct sum_squares_args){ .x = adapter->grads, .sum = &sum, .n = adapter->n_param });
}

/* Of training, or of an evaluation, which has neither dropout nor the load-balancing loss. */
static void measure_pass(struct jamba *m, const struct plan_subject *subject, int64_t n_tok,
                         bool backward)
{
    const struct stream s = { .n_tok = n_tok, .n_doc = n_tok };
    const struct jamba_pass pass = { .backward = backward,
                                     .grad_scale = 1,
                                     .aux_scale = backward && subject->balance ? 1 : 0,
                                     .dropout = { .rate =
                                                      backward && subject->dropout ? 0.5 : 0 } };
    struct jamba_result result;
    jamba_run(m, &s, &pass, &result);
}

/* A model over measuring arenas. */
struct measure {
    struct arena scratch, saved, adapter_arena;
    struct plan_backend plan;
    struct lora_adapter adapter;
    struct jamba m;
};

static bool measure_open(struct measure *t, const struct plan_subject *subject,
                         const struct plan_shape *shape, struct err *err)
{
    *t = (struct measure){ 0 };
    arena_init_measuring(&t->scratch, "scratch");
    arena_init_measuring(&t->saved, "saved");
    arena_init_measuring(&t->adapter_arena, "adapter");
    plan_backend_init(&t->plan, subject->be, &t->scratch);
    const struct lora_adapter_args args = { subject->modules, subject->n_module, subject->choices,
                                            &t->adapter_arena, subject->training };
    if (subject->choices != NULL && !lora_adapter_init(&t->adapter, &args, err))
        return false;
    t->m = (struct jamba){ .be = &t->plan.be,
                           .saved = &t->saved,
                           .config = weights_config(subject->weights),
                           .weights = subject->weights,
                           .adapter = subject->choices == NULL ? NULL : &t->adapter,
                           .chunk_tokens = shape->chunk_tokens,
                           .recompute = shape->recompute };
    return jamba_init(&t->m, shape->pass_tokens, shape->pass_tokens, err);
}

static struct plan_bytes measure_close(struct measure *t, const struct plan_subject *subject)
{
    jamba_free(&t->m);
    lora_adapter_free(&t->adapter);
    struct plan_bytes bytes = {
        .weights = weights_owned_bytes(subject->weights) + weights_mapped_bytes(subject->weights),
        .adapter = t->adapter_arena.peak,
        .saved = t->saved.peak,
        .scratch = t->scratch.peak,
    };
    bytes.total = bytes.weights + bytes.adapter + bytes.saved + bytes.scratch;
    return bytes;
}

bool plan_measure(const struct plan_subject *subject, const struct plan_shape *shape,
                  struct plan_bytes *out, struct err *err)
{
    struct measure t;
    const bool ok = measure_open(&t, subject, shape, err);
    if (ok) {
        /* Evaluation keeps nothing, so what training saves is scratch there. */
        measure_pass(&t.m, subject, shape->pass_tokens, false);
        if (subject->training)
            measure_pass(&t.m, subject, shape->pass_tokens, true);
        if (subject->training && subject->choices != NULL)
            measure_optimizer(&t.plan.be, &t.adapter);
    }
    *out = measure_close(&t, subject);
    return ok;
}

/* Feeds n tokens that do not exist to a state of their own. */
static bool measure_feed(struct measure *t, int64_t n, struct err *err)
{
    real logits = 0; /* none are written */
    struct jamba_state *state = jamba_state_new(&t->m, err);
    const bool ok = state != NULL && jamba_feed(&t->m, state, NULL, n, &logits, err);
    jamba_state_free(state);
    return ok;
}

bool plan_measure_generation(const struct plan_subject *subject, int64_t chunk_tokens,
                             struct plan_bytes *out, struct err *err)
{
    struct measure t;
    const struct plan_shape shape = { .pass_tokens = chunk_tokens, .chunk_tokens = chunk_tokens };
    /* A whole chunk, and the single tokens that follow: their ops may cut their work in another
     * way. */
    const bool ok = measure_open(&t, subject, &shape, err) && measure_feed(&t, chunk_tokens, err) &&
                    measure_feed(&t, 1, err);
    *out = measure_close(&t, subject);
    return ok;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* One try: true when it fits. *ok is false when measuring itself failed. */
static bool fits(const struct plan_subject *subject, const struct plan_wish *wish,
                 const struct plan_shape *shape, struct plan_bytes *bytes, bool *ok,
                 struct err *err)
{
    *ok = plan_measure(subject, shape, bytes, err);
    return *ok && bytes->total <= wish->budget;
}

static bool refuse(const struct plan_wish *wish, const struct plan_shape *shape,
                   const struct plan_bytes *bytes, struct err *err)
{
    char needed[32], budget[32];
    text_bytes(needed, (double)bytes->total);
    text_bytes(budget, (double)wish->budget);
    return err_set(
        err, ERR_NO_MEMORY,
        "the run does not fit: it needs %s with passes of %lld tokens, chunks of %lld and "
        "gradient_checkpointing: %s; the budget is %s. Lower sequence_len, lora_r or chunk_tokens, "
        "leave gradient_checkpointing at auto, or raise memory_budget",
        needed, (long long)shape->pass_tokens, (long long)shape->chunk_tokens,
        recompute_name(shape->recompute), budget);
}

bool plan_choose(const struct plan_subject *subject, const struct plan_wish *wish,
                 struct plan_shape *shape, struct plan_bytes *bytes, struct err *err)
{
    static const enum recompute policies[] = { RECOMPUTE_NONE, RECOMPUTE_SCAN, RECOMPUTE_LAYER };
    bool ok = true;
    for (int p = 0; p < 3; p++) {
        if (wish->recompute >= 0 && policies[p] != (enum recompute)wish->recompute)
            continue;
        int64_t pass = smaller(wish->step_tokens, PLAN_PASS_TOKENS);
        for (bool last = false; !last; pass /= 2) {
            last = pass <= wish->longest; /* a pass holds whole documents */
            *shape = (struct plan_shape){ .pass_tokens = last ? wish->longest : pass,
                                          .recompute = policies[p] };
            const int64_t chunk = wish->chunk_tokens > 0 ? wish->chunk_tokens : PLAN_CHUNK_TOKENS;
            shape->chunk_tokens = smaller(chunk, shape->pass_tokens);
            if (fits(subject, wish, shape, bytes, &ok, err) || !ok)
                return ok;
        }
    }
    while (wish->chunk_tokens == 0 && shape->chunk_tokens > 64) {
        shape->chunk_tokens /= 2;
        if (fits(subject, wish, shape, bytes, &ok, err) || !ok)
            return ok;
    }
    return refuse(wish, shape, bytes, err);
}
