#include "finetune/bench/calls.h"

#include <stdlib.h>
#include <string.h>

#include "finetune/train/optim.h"
#include "kernels/plan/plan.h"
#include "kernels/timing/timing.h"

static size_t size_of(enum op_id op)
{
    static const size_t sizes[] = {
#define SIZE(name, args) [OP_##name] = sizeof(struct args),
        OPS(SIZE)
#undef SIZE
    };
    return sizes[op];
}

/* ---- the list ---- */

/* The entry of this call, a new one unless its shape is there; NULL: out of memory. */
static struct bench_call *add_call(struct bench_calls *b, enum op_id op, const union op_args *args,
                                   int64_t document)
{
    struct bench_call made = { .args = *args, .document = document, .op = op };
    struct operands o;
    operands_of(b->be, op, &made.args, document, &o);
    memcpy(made.shape, o.shape, sizeof o.shape);
    for (int64_t i = 0; i < b->n; i++) {
        const struct bench_call *c = &b->list[i];
        if (c->op == op && strcmp(c->shape, made.shape) == 0)
            return &b->list[i];
    }
    if (b->n == b->cap) {
        const int64_t cap = b->cap == 0 ? 64 : 2 * b->cap;
        struct bench_call *calls = realloc(b->list, (size_t)cap * sizeof *calls);
        if (calls == NULL) {
            b->failed = true;
            return NULL;
        }
        b->list = calls;
        b->cap = cap;
    }
    b->list[b->n] = made;
    return &b->list[b->n++];
}

static bool is_wanted(const struct bench_calls *b, enum op_id op)
{
    return b->only == NULL || strstr(timing_op_name(op), b->only) != NULL;
}

/* Every expert gets an even share; the plan gives each its bound. */
static void answer_counts(const struct route_counts_args *a)
{
    for (int64_t e = 0; e <= a->n_expert; e++)
        a->host[e] = e * (a->n_tok * a->top_k / a->n_expert);
}

static void record(void *context, enum op_id op, const void *args)
{
    struct bench_calls *b = context;
    union op_args copy;
    memset(&copy, 0, sizeof copy);
    memcpy(&copy, args, size_of(op));
    if (op == OP_route_counts)
        answer_counts(args);
    if (!is_wanted(b, op) || (op == OP_gemm && copy.gemm.m == 0))
        return;
    struct bench_call *c = add_call(b, op, &copy, b->document);
    if (c != NULL)
        c->calls[b->walk]++;
}

/* ---- the calls of a step ---- */

/* The model over measuring arenas, as finetune/model/plan.c has it. */
struct rehearsal {
    struct arena scratch, saved, adapter_arena;
    struct plan_backend plan;
    struct timing_backend *timing;
    struct lora_adapter adapter;
    struct jamba jamba;
};

static void rehearse_pass(struct bench_calls *b, struct rehearsal *t, enum bench_walk walk)
{
    const struct recipe *r = b->recipe;
    const int64_t n = b->tokens;
    const struct stream s = { .n_tok = n, .n_doc = (n - 1) / b->document + 1 };
    const struct jamba_pass pass = { .backward = true,
                                     .grad_scale = 1,
                                     .aux_scale = r->router_aux_loss_coef,
                                     .dropout = { .rate = r->lora.dropout } };
    b->walk = walk;
    t->jamba.recompute = walk == BENCH_KEEP ? RECOMPUTE_NONE : RECOMPUTE_LAYER;
    jamba_run(&t->jamba, &s, &pass, NULL);
}

static bool rehearse(struct bench_calls *b, struct rehearsal *t, struct engine *shapes,
                     struct err *err)
{
    const int64_t n = b->tokens;
    arena_init_measuring(&t->scratch, "scratch");
    arena_init_measuring(&t->saved, "saved");
    arena_init_measuring(&t->adapter_arena, "adapter");
    plan_backend_init(&t->plan, b->be, &t->scratch);
    timing_backend_init(t->timing, &t->plan.be);
    t->timing->on_call = record;
    t->timing->context = b;
    const struct lora_adapter_args args = { .modules = shapes->modules,
                                            .n_module = shapes->n_module,
                                            .choices = shapes->choices,
                                            .be = &t->plan.be,
                                            .arena = &t->adapter_arena,
                                            .with_training = true };
    if (!lora_adapter_init(&t->adapter, &args, err))
        return false;
    t->jamba = (struct jamba){ .be = &t->timing->be,
                               .saved = &t->saved,
                               .config = weights_config(shapes->weights),
                               .weights = shapes->weights,
                               .adapter = &t->adapter,
                               .chunk_tokens = n,
                               .longest = b->document };
    if (!jamba_init(&t->jamba, n, n, err))
        return false;
    rehearse_pass(b, t, BENCH_KEEP);
    rehearse_pass(b, t, BENCH_RECOMPUTE);
    b->walk = BENCH_UPDATE;
    optim_grad_norm(&t->timing->be, &t->adapter);
    optim_step(&t->timing->be, &t->adapter, b->recipe, 1, 1, 1);
    return true;
}

static bool record_step(struct bench_calls *b, struct engine *shapes, struct err *err)
{
    struct rehearsal t = { 0 };
    t.timing = calloc(1, sizeof *t.timing);
    const bool ok = t.timing != NULL ? engine_choose(shapes, &b->recipe->lora, err) &&
                                           rehearse(b, &t, shapes, err)
                                     : err_no_memory(err, "the table of timings");
    jamba_free(&t.jamba);
    lora_adapter_free(&t.adapter);
    free(t.timing);
    return ok;
}

/* ---- calls that this step does not have ---- */

static bool is_recorded(const struct bench_calls *b, enum op_id op)
{
    for (int64_t i = 0; i < b->n; i++) {
        if (b->list[i].op == op)
            return true;
    }
    return false;
}

/* A pointer that is not NULL: operands_bind sets the real one. */
static void *some(void)
{
    static const char place;
    return (void *)(uintptr_t)&place;
}

static struct bench_call *add_other(struct bench_calls *b, enum op_id op, union op_args args,
                                    int64_t document)
{
    return is_wanted(b, op) ? add_call(b, op, &args, document) : NULL;
}

#define ADD(op, ...) add_other(b, OP_##op, (union op_args){ .op = { __VA_ARGS__ } }, document)
#define ADD_MISSING(op, ...)                                                                       \
    do {                                                                                           \
        if (!is_recorded(b, OP_##op))                                                              \
            ADD(op, __VA_ARGS__);                                                                  \
    } while (0)

/* Ops that depend on the recipe (dropout, an adapter on the embedding, biases) or on the backend
 * (casts), and those outside of steps: one call each. */
static void add_missing(struct bench_calls *b, const struct jamba_config *c)
{
    const int64_t n = b->tokens, document = b->document, dim = c->hidden_size;
    const int64_t rank = b->recipe->lora.r, vocab = c->vocab_size;
    const enum dtype stored = b->be->act == DTYPE_REAL ? DTYPE_BF16 : b->be->act;
    ADD(copy, .from = some(), .to = some(), .bytes = act_bytes(b->be, n * dim));
    ADD(cast, .from = some(), .from_dtype = DTYPE_REAL, .to = some(), .to_dtype = stored,
        .n = n * dim);
    ADD(cast, .from = some(), .from_dtype = stored, .to = some(), .to_dtype = DTYPE_REAL,
        .n = n * dim);
    ADD_MISSING(add_bias, .y = some(), .bias = some(), .n_row = n, .dim = dim, .ldy = dim);
    ADD_MISSING(dropout, .x = some(), .y = some(), .n_row = n, .dim = dim, .ldx = dim,
                .rate = 0.05);
    ADD_MISSING(embed_lora_forward, .ids = some(), .a = some(), .t = some(), .n_row = n,
                .rank = rank, .vocab = vocab, .pad_id = -1);
    ADD_MISSING(embed_lora_backward, .ids = some(), .a = some(), .t = some(), .dt = some(),
                .da = some(), .n_row = n, .rank = rank, .vocab = vocab, .pad_id = -1);
    ADD_MISSING(random, .y = some(), .n = dim * dim, .range = 1,
                .dtype = b->be->act == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32);
    if (c->num_experts < 2)
        return;
    ADD_MISSING(aux_sums, .p = some(), .expert = some(), .doc = some(), .f = some(), .psum = some(),
                .n_tok = n, .n_expert = c->num_experts, .top_k = c->num_experts_per_tok);
    ADD_MISSING(aux_loss, .f = some(), .psum = some(), .doc_start = some(), .scale = some(),
                .sum = some(), .aux_scale = 1, .n_doc = (n - 1) / document + 1,
                .n_expert = c->num_experts, .n_layer = c->num_hidden_layers);
}

/* Attention of the last `n` tokens of a document of `end`; NULL where --only leaves it out. */
static struct bench_call *add_attention(struct bench_calls *b, bool backward, int64_t n_head,
                                        int64_t n_kv, int64_t d_head, int64_t n, int64_t end)
{
    struct attention_args a = { .q = some(),
                                .k = some(),
                                .v = some(),
                                .pos = some(),
                                .o = some(),
                                .lse = some(),
                                .n_tok = n,
                                .t0 = end - n,
                                .n_head = n_head,
                                .n_kv = n_kv,
                                .d_head = d_head };
    if (backward) {
        a.d_o = a.dq = some();
        a.dk = a.dv = some();
    }
    return add_other(b, backward ? OP_attention_backward : OP_attention_forward,
                     backward ? (union op_args){ .attention_backward = a }
                              : (union op_args){ .attention_forward = a },
                     end);
}

/* A chunk at the end of longer and longer documents, with the model's heads. */
static void add_long_documents(struct bench_calls *b, const struct jamba_config *c)
{
    static const int64_t lengths[] = { 4096, 8192, 16384, 32768, 65536, 131072, 262144 };
    const int64_t n = b->tokens;
    add_attention(b, false, c->num_attention_heads, c->num_key_value_heads, c->d_head, n, n);
    add_attention(b, true, c->num_attention_heads, c->num_key_value_heads, c->d_head, n, n);
    for (size_t i = 0; b->be->remote && !b->quick && i < sizeof lengths / sizeof *lengths; i++) {
        for (int backward = 0; backward < 2 && lengths[i] > n; backward++)
            add_attention(b, backward, c->num_attention_heads, c->num_key_value_heads, c->d_head, n,
                          lengths[i]);
    }
}

/* cuDNN 9.19 on an H200, bfloat16, causal, 64 heads on 8, d 128, one document
 * (NVIDIA/cudnn-frontend, benchmark results of 2026-02-27; the backward is the one in no fixed
 * order). */
static void add_published(struct bench_calls *b)
{
    static const struct {
        int64_t n;
        double ms[2];
    } rows[] = { { 2048, { 0.142, 0.464 } },
                 { 4096, { 0.465, 1.450 } },
                 { 8192, { 1.708, 5.083 } },
                 { 16384, { 6.531, 19.00 } },
                 { 32768, { 25.57, 75.69 } } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int backward = 0; backward < 2; backward++) {
            struct bench_call *c = add_attention(b, backward, 64, 8, 128, rows[i].n, rows[i].n);
            if (c != NULL)
                c->published = 1e-3 * rows[i].ms[backward];
        }
    }
}

static void add_yardsticks(struct bench_calls *b)
{
    const int64_t side = b->quick ? 512 : 8192;
    const size_t bytes = (size_t)1 << (b->quick ? 22 : b->be->remote ? 30 : 25);
    const struct copy_args copy = { .from = some(), .to = some(), .bytes = bytes },
                           across = { .from = some(), .to = some(), .bytes = bytes / 4 };
    const struct gemm_args gemm = { .m = side,
                                    .n = side,
                                    .k = side,
                                    .a = some(),
                                    .b = some(),
                                    .c = some(),
                                    .lda = side,
                                    .ldb = side,
                                    .ldc = side,
                                    .b_dtype = b->be->act,
                                    .trans_b = true,
                                    .alpha = 1 };
    const struct {
        enum op_id op;
        union op_args args;
    } rows[N_YARDSTICK] = { [YARDSTICK_COPY] = { OP_copy, { .copy = copy } },
                            [YARDSTICK_TO_DEVICE] = { OP_to_device, { .to_device = across } },
                            [YARDSTICK_TO_HOST] = { OP_to_host, { .to_host = across } },
                            [YARDSTICK_GEMM] = { OP_gemm, { .gemm = gemm } } };
    b->n_yardstick = b->be->remote ? N_YARDSTICK : YARDSTICK_GEMM;
    for (int64_t i = 0; i < b->n_yardstick; i++)
        add_call(b, rows[i].op, &rows[i].args, b->document);
}

bool bench_calls_list(struct bench_calls *b, struct engine *shapes, struct err *err)
{
    add_yardsticks(b);
    if (shapes != NULL) {
        const struct jamba_config *config = weights_config(shapes->weights);
        if (!record_step(b, shapes, err))
            return false;
        add_missing(b, config);
        add_long_documents(b, config);
        if (b->be->act == DTYPE_BF16 && !b->quick)
            add_published(b);
    }
    return !b->failed || err_no_memory(err, "the list of benchmarks");
}
