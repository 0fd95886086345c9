#include "finetune/model/plan.h"

#include <stdlib.h>
#include <unistd.h>

#include "kernels/core/file.h"
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
    char text[32];
    file_read_start("/sys/fs/cgroup/memory.max", text, sizeof text);
    const unsigned long long bytes = strtoull(text, NULL, 10); /* 0 of "max": no limit */
    return bytes > 0 ? (size_t)bytes : SIZE_MAX;
}

size_t plan_machine_memory(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const size_t machine = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX / 2;
    const size_t group = group_limit();
    return machine < group ? machine : group;
}

size_t plan_budget(const struct backend *be, int64_t memory_budget)
{
    if (memory_budget > 0)
        return (size_t)memory_budget;
    if (!be->remote)
        return plan_machine_memory() / 8 * 7;
    const size_t memory = be->memory == 0 ? PLAN_DEVICE_ASSUMED : be->memory;
    return memory - (memory / 8 < PLAN_DEVICE_RESERVE ? memory / 8 : PLAN_DEVICE_RESERVE);
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
    jamba_run(m, &s, &pass, NULL);
}

/* A model over measuring arenas. */
struct measure {
    struct arena scratch, saved, adapter_arena;
    struct plan_backend plan;
    struct lora_adapter adapter;
    struct jamba m;
    double seconds; /* of a pass with backward, or of one without where there is no training */
};

static bool measure_open(struct measure *t, const struct plan_subject *subject,
                         const struct plan_shape *shape, struct err *err)
{
    *t = (struct measure){ 0 };
    arena_init_measuring(&t->scratch, "scratch");
    arena_init_measuring(&t->saved, "saved");
    arena_init_measuring(&t->adapter_arena, "adapter");
    plan_backend_init(&t->plan, subject->be, &t->scratch);
    const struct lora_adapter_args args = {
        subject->modules, subject->n_module, subject->choices,
        &t->plan.be,      &t->adapter_arena, subject->training
    };
    if (subject->choices != NULL && !lora_adapter_init(&t->adapter, &args, err))
        return false;
    t->m = (struct jamba){ .be = &t->plan.be,
                           .saved = &t->saved,
                           .config = weights_config(subject->weights),
                           .weights = subject->weights,
                           .adapter = subject->choices == NULL ? NULL : &t->adapter,
                           .chunk_tokens = shape->chunk_tokens,
                           .longest = shape->longest,
                           .recompute = shape->recompute };
    return jamba_init(&t->m, shape->pass_tokens, shape->pass_tokens, err);
}

static struct plan_bytes measure_close(struct measure *t, const struct plan_subject *subject)
{
    const int64_t n_param = subject->training ? t->adapter.n_param : 0;
    jamba_free(&t->m);
    lora_adapter_free(&t->adapter);
    struct plan_bytes bytes = {
        .weights = t->plan.be.remote ? weights_device_bytes(subject->weights, &t->plan.be)
                                     : weights_owned_bytes(subject->weights) +
                                           weights_mapped_bytes(subject->weights),
        .adapter = t->adapter_arena.peak,
        .saved = t->saved.peak,
        .scratch = t->scratch.peak,
        .copies = PLAN_COPIES * (size_t)n_param * sizeof(real),
        .seconds = t->seconds,
    };
    bytes.total = bytes.weights + bytes.adapter + bytes.saved + bytes.scratch +
                  (t->plan.be.remote ? 0 : bytes.copies);
    return bytes;
}

/* Whether the experts of some layer have adapters of different ranks: then what a layer takes
 * depends on which experts get the rows. */
static bool experts_differ(const struct plan_subject *subject)
{
    int64_t rank[LORA_KIND_COUNT] = { 0 };
    for (int64_t i = 0; subject->choices != NULL && i < subject->n_module; i++) {
        const struct lora_module *module = &subject->modules[i];
        const int64_t r = subject->choices[i].on ? subject->choices[i].r : 0;
        if (module->expert == 0)
            rank[module->kind] = r;
        else if (module->expert > 0 && r != rank[module->kind])
            return true;
    }
    return false;
}

/* Evaluation, and then a step of training: what training saves is scratch in an evaluation, which
 * keeps nothing. */
static void measure_passes(struct measure *t, const struct plan_subject *subject,
                           const struct plan_shape *shape)
{
    measure_pass(&t->m, subject, shape->pass_tokens, false);
    if (subject->training)
        measure_pass(&t->m, subject, shape->pass_tokens, true);
}

/* A sequence between passes, its state in `saved` (jamba_state_new_in): a whole chunk, then a
 * single token. */
static bool measure_sample(struct measure *t, int64_t n_tok, struct err *err)
{
    const int64_t sizes[] = { n_tok < t->m.chunk_tokens ? n_tok : t->m.chunk_tokens, 1 };
    real logits = 0; /* none are written */
    bool ok = true;
    for (int i = 0; i < 2 && ok; i++) {
        struct jamba_state *state = jamba_state_new_in(&t->m, &t->saved, n_tok, err);
        ok = state != NULL && jamba_feed(&t->m, state, NULL, sizes[i], &logits, err);
        jamba_state_free(state);
    }
    return ok;
}

static void measure_seconds(struct measure *t, const struct plan_subject *subject,
                            const struct plan_shape *shape)
{
    t->plan.spread = true;
    t->plan.seconds = 0;
    measure_pass(&t->m, subject, shape->pass_tokens, subject->training);
    t->seconds = t->plan.seconds;
}

bool plan_measure(const struct plan_subject *subject, const struct plan_shape *shape,
                  struct plan_bytes *out, struct err *err)
{
    struct measure t;
    bool ok = measure_open(&t, subject, shape, err);
    const int64_t n_expert = ok && experts_differ(subject) ? t.m.config->num_experts : 1;
    for (int64_t e = 0; ok && e < n_expert; e++) {
        t.plan.busy_expert = e;
        measure_passes(&t, subject, shape);
        ok = subject->sample_tokens == 0 || measure_sample(&t, subject->sample_tokens, err);
    }
    if (ok) {
        measure_seconds(&t, subject, shape);
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
    bool ok = measure_open(&t, subject, &shape, err);
    const int64_t n_expert = ok && experts_differ(subject) ? t.m.config->num_experts : 1;
    for (int64_t e = 0; ok && e < n_expert; e++) {
        t.plan.busy_expert = e;
        ok = measure_feed(&t, chunk_tokens, err) && measure_feed(&t, 1, err);
    }
    *out = measure_close(&t, subject);
    return ok;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

bool plan_explain(const struct plan_bytes *bytes, struct err *err)
{
    char parts[4][32];
    const size_t sizes[4] = { bytes->weights, bytes->adapter, bytes->saved, bytes->scratch };
    for (int i = 0; i < 4; i++)
        text_bytes(parts[i], (double)sizes[i]);
    struct err before = *err;
    return err_set(err, before.code,
                   "%s; needed are %s for weights, %s for the adapter and its optimizer, %s kept "
                   "for the backward and %s of scratch. Set memory_budget to what is free, leave "
                   "gradient_checkpointing and chunk_tokens at auto, or lower sequence_len or "
                   "lora_r",
                   before.text, parts[0], parts[1], parts[2], parts[3]);
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

/* The search: candidates in an order of its own, the best so far, and the smallest. */
struct search {
    const struct plan_subject *subject;
    const struct plan_wish *wish;
    struct plan_shape best, smallest;
    struct plan_bytes best_bytes, smallest_bytes;
    bool found, tried;
};

/* Seconds of the step: its tokens in passes of this size. */
static double step_seconds(const struct plan_wish *wish, const struct plan_shape *shape,
                           const struct plan_bytes *bytes)
{
    return bytes->seconds * (double)wish->step_tokens / (double)shape->pass_tokens;
}

static bool try_shape(struct search *s, const struct plan_shape *shape, bool *fits, struct err *err)
{
    /* Less than a hundredth is no difference: the first of its kind is the larger chunk. */
    const double margin = 0.99;
    struct plan_bytes bytes;
    if (!plan_measure(s->subject, shape, &bytes, err))
        return false;
    if (!s->tried || bytes.total < s->smallest_bytes.total) {
        s->tried = true;
        s->smallest = *shape;
        s->smallest_bytes = bytes;
    }
    *fits = bytes.total <= s->wish->budget;
    if (!*fits)
        return true;
    if (s->found && step_seconds(s->wish, shape, &bytes) >=
                        margin * step_seconds(s->wish, &s->best, &s->best_bytes))
        return true;
    s->found = true;
    s->best = *shape;
    s->best_bytes = bytes;
    return true;
}

/* The largest chunk of a pass that fits: a smaller one is never faster, and walking a long pass in
 * small chunks only to see that takes seconds. */
static bool try_chunks(struct search *s, struct plan_shape shape, struct err *err)
{
    const bool remote = s->subject->be->remote;
    const int64_t most = remote ? PLAN_DEVICE_CHUNK_TOKENS : PLAN_CHUNK_TOKENS;
    const int64_t least = remote ? 256 : 32, asked = s->wish->chunk_tokens;
    bool fits = false;
    shape.chunk_tokens = smaller(asked > 0 ? asked : most, shape.pass_tokens);
    if (!try_shape(s, &shape, &fits, err))
        return false;
    while (!fits && asked == 0 && shape.chunk_tokens / 2 >= least) {
        shape.chunk_tokens /= 2;
        if (!try_shape(s, &shape, &fits, err))
            return false;
    }
    return true;
}

static bool try_passes(struct search *s, enum recompute recompute, struct err *err)
{
    const int64_t most = s->subject->be->remote ? PLAN_DEVICE_PASS_TOKENS : PLAN_PASS_TOKENS;
    const int64_t longest = s->wish->longest, asked = s->wish->pass_tokens;
    int64_t pass = asked > 0 ? asked : smaller(s->wish->step_tokens, most);
    for (bool last = false; !last; pass /= 2) {
        last = asked > 0 || pass <= longest; /* a pass holds whole documents */
        const struct plan_shape shape = { .pass_tokens = pass <= longest ? longest : pass,
                                          .recompute = recompute,
                                          .longest = longest };
        if (!try_chunks(s, shape, err))
            return false;
    }
    return true;
}

bool plan_choose(const struct plan_subject *subject, const struct plan_wish *wish,
                 struct plan_shape *shape, struct plan_bytes *bytes, struct err *err)
{
    static const enum recompute policies[] = { RECOMPUTE_NONE, RECOMPUTE_SCAN, RECOMPUTE_LAYER };
    struct search s = { .subject = subject, .wish = wish };
    for (int p = 0; p < 3; p++) {
        if (wish->recompute >= 0 && policies[p] != (enum recompute)wish->recompute)
            continue;
        if (!try_passes(&s, policies[p], err))
            return false;
    }
    *shape = s.found ? s.best : s.smallest;
    *bytes = s.found ? s.best_bytes : s.smallest_bytes;
    return s.found || refuse(wish, shape, bytes, err);
}
