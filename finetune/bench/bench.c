#include "finetune/bench/bench.h"

#include <stdlib.h>
#include <time.h>

#include "finetune/model/engine.h"
#include "finetune/bench/ops.h"
#include "finetune/train/optim.h"
#include "finetune/train/options.h"
#include "kernels/core/device.h"
#include "kernels/core/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/load.h"
#include "kernels/ops.h"

/* How much is measured. */
struct scale {
    int64_t tokens, document; /* of the step that is looked at closely */
    int64_t runs;
    double seconds; /* no further run of a step is begun after this */
};
static const struct scale cpu_scale = { 2048, 512, 5, 3 }, cpu_quick = { 512, 128, 1, 0.5 };
static const struct scale device_scale = { 32768, 4096, 5, 20 },
                          device_quick = { 8192, 2048, 2, 2 };

enum { MAX_RUNS = 8 };

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* ---- a model that can take steps ---- */

struct subject {
    const struct recipe *recipe;
    struct scale scale;
    struct weights *weights; /* shared by the engines; NULL on a device, where each has its own */
    struct engine engine;
    struct timing_backend *timing;
    size_t open_bytes; /* of the device, before the engine's memory */
};

static void close_engine(struct subject *s)
{
    if (s->weights != NULL)
        s->engine.weights = NULL;
    engine_close(&s->engine);
}

static int recompute_of(const struct recipe *r)
{
    static const int policies[] = { [CHECKPOINTING_AUTO] = -1,
                                    [CHECKPOINTING_NONE] = RECOMPUTE_NONE,
                                    [CHECKPOINTING_SCAN] = RECOMPUTE_SCAN,
                                    [CHECKPOINTING_LAYER] = RECOMPUTE_LAYER };
    return policies[r->gradient_checkpointing];
}

static size_t used_bytes(const struct backend *be)
{
    return be->device == NULL ? 0 : be->device->used(be->device);
}

static bool open_backend(struct subject *s, struct err *err)
{
    const struct recipe *r = s->recipe;
    struct engine *e = &s->engine;
    const struct engine_options options = engine_options_of(r);
    *e = (struct engine){ 0 };
    if (!compute_open(&e->be, &options.compute, err))
        return false;
    s->open_bytes = used_bytes(&e->be);
    e->weights =
        s->weights != NULL ? s->weights : weights_open_for_device(r->base_model, r->seed, err);
    return e->weights != NULL;
}

/* An engine with memory for steps of this size. */
static bool open_engine(struct subject *s, struct bench_step *step, struct err *err)
{
    const struct recipe *r = s->recipe;
    struct engine *e = &s->engine;
    if (!open_backend(s, err))
        return false;
    e->be.scratch = &e->scratch;
    e->n_module = jamba_modules(weights_config(e->weights), &e->modules);
    if (e->n_module <= 0)
        return err_no_memory(err, "the list of modules");
    if (!engine_choose(e, &r->lora, err))
        return false;
    struct plan_subject subject = engine_subject(e, true);
    subject.dropout = r->lora.dropout > 0;
    subject.balance = r->router_aux_loss_coef > 0;
    const struct plan_wish wish = {
        .step_tokens = step->tokens,
        .longest = step->tokens / step->documents,
        .chunk_tokens = r->chunk_tokens,
        .recompute = recompute_of(r),
        .budget = plan_budget(&e->be, r->memory_budget),
    };
    struct engine_memory memory = { .training = true, .seed = r->seed };
    if (!plan_choose(&subject, &wish, &memory.shape, &memory.bytes, err))
        return false;
    step->shape = memory.shape;
    step->memory_bytes = memory.bytes.total;
    if (!engine_allocate(e, &memory, err))
        return false;
    timing_backend_init(s->timing, &e->be);
    s->timing->wait = true;
    return true;
}

/* Documents first .. first + n of `length` random ids; every token but a document's last has a
 * target. */
static void fill_stream(struct subject *s, int64_t first, int64_t n, int64_t length)
{
    struct stream *stream = &s->engine.stream;
    const uint64_t vocab = (uint64_t)weights_config(s->engine.weights)->vocab_size;
    stream->n_tok = n * length;
    stream->n_doc = n;
    stream->n_target = n * (length - 1);
    stream->first_index = first * length;
    for (int64_t t = 0; t < stream->n_tok; t++) {
        const uint64_t at = (uint64_t)(stream->first_index + t);
        stream->ids[t] = (int32_t)(rng_bits(s->recipe->seed, RNG_SAMPLE, 0, at) % vocab);
    }
    for (int64_t d = 0; d <= n; d++)
        stream->doc_start[d] = d * length;
    for (int64_t t = 0; t < stream->n_tok; t++)
        stream->targets[t] = (t + 1) % length == 0 ? -1 : stream->ids[t + 1];
}

static void take_pass(struct subject *s, const struct bench_step *step, int64_t first,
                      int64_t count)
{
    const struct recipe *r = s->recipe;
    const int64_t length = step->tokens / step->documents, left = step->documents - first;
    const int64_t per_pass = step->shape.pass_tokens / length;
    const int64_t n_target = step->documents * (length - 1);
    const struct jamba_pass pass = {
        .backward = true,
        .grad_scale = (real)(1 / (double)(n_target > 0 ? n_target : 1)),
        .aux_scale = r->router_aux_loss_coef / (double)step->tokens,
        .dropout = { .rate = r->lora.dropout, .seed = r->seed, .step = (uint64_t)count },
    };
    fill_stream(s, first, left < per_pass ? left : per_pass, length);
    jamba_run(&s->engine.jamba, &s->engine.stream, &pass, NULL);
}

/* Waits for all that is queued; false after any failure so far. */
static bool finish(const struct subject *s, struct err *err)
{
    const struct backend *be = &s->engine.be;
    if (be->err.code != ERR_NONE)
        return err_set(err, be->err.code, "%s", be->err.text);
    return be->device == NULL || be->device->finish(be->device, err);
}

/* Forward, backward and update: all a step of training does to the model. count: from 1. */
static bool take_step(struct subject *s, const struct bench_step *step, int64_t count,
                      double *seconds, struct err *err)
{
    const struct recipe *r = s->recipe;
    struct engine *e = &s->engine;
    struct backend *be = e->jamba.be;
    const int64_t per_pass = step->shape.pass_tokens / (step->tokens / step->documents);
    const double start = now();
    op_zero(be, &(struct zero_args){ .y = e->adapter.grads,
                                     .bytes = (size_t)e->adapter.n_param * sizeof(real) });
    jamba_begin_step(&e->jamba);
    for (int64_t first = 0; first < step->documents; first += per_pass)
        take_pass(s, step, first, count);
    jamba_end_step(&e->jamba);
    const double norm = optim_grad_norm(be, &e->adapter);
    optim_step(be, &e->adapter, r, 1, optim_clip(r->max_grad_norm, norm), count);
    const bool ok = finish(s, err);
    *seconds = now() - start;
    return ok;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Takes the step a few times; the one before them touches fresh memory and makes plans. On a device
 * they are not looked into, and ops are timed in one more. */
static bool run_steps(struct subject *s, struct bench_step *step, struct bench_result *r,
                      struct err *err)
{
    const bool remote = s->engine.be.remote;
    double seconds[MAX_RUNS], total = 0, took;
    int64_t count = 1;
    s->engine.jamba.be = remote ? &s->engine.be : &s->timing->be;
    if (!take_step(s, step, count++, &took, err))
        return false;
    timing_backend_reset(s->timing);
    const double start = now();
    do {
        if (!take_step(s, step, count++, &took, err))
            return false;
        seconds[step->runs++] = took;
        total += took;
    } while (step->runs < s->scale.runs && now() - start < s->scale.seconds);
    step->seconds = median(seconds, step->runs);
    const size_t used = used_bytes(&s->engine.be);
    step->used_bytes = used > s->open_bytes ? used - s->open_bytes : 0;
    if (r == NULL)
        return true;
    r->op_runs = remote ? 1 : step->runs;
    r->total_seconds = total;
    s->engine.jamba.be = &s->timing->be;
    return !remote || take_step(s, step, count, &r->total_seconds, err);
}

/* r: of the step that is looked into, or NULL. */
static bool measure(struct subject *s, struct bench_step *step, struct bench_result *r,
                    struct err *err)
{
    if (!open_engine(s, step, err))
        return false;
    const struct jamba_config *c = weights_config(s->engine.weights);
    step->experts = c->num_experts;
    step->experts_per_token = c->num_experts_per_tok;
    return run_steps(s, step, r, err);
}

/* ---- the step that is looked at closely ---- */

/* Whether two shapes are one entry: the same but for rows, and those the same or neither of them
 * the step's. Rows are m, in a weight's gradient k. */
static bool same_entry(const struct bench_gemm *g, const struct timing_gemm *t, int64_t rows)
{
    const int64_t t_rows = t->trans_a ? t->k : t->m;
    return g->trans_a == t->trans_a && g->trans_b == t->trans_b && g->n == t->n &&
           (t->trans_a ? g->m == t->m : g->k == t->k) && g->rows_vary == (t_rows != rows);
}

static int longest_first(const void *a, const void *b)
{
    const double x = ((const struct bench_gemm *)a)->seconds,
                 y = ((const struct bench_gemm *)b)->seconds;
    return (x < y) - (x > y);
}

static bool collect_gemms(const struct subject *s, struct bench_result *r, struct err *err)
{
    const double share = 1 / (double)r->op_runs;
    const int64_t rows = r->step.shape.chunk_tokens;
    r->gemms = calloc((size_t)s->timing->n_gemm + 1, sizeof *r->gemms);
    if (r->gemms == NULL)
        return err_no_memory(err, "the list of GEMMs");
    for (int i = 0; i < TIMING_MAX_GEMM; i++) {
        const struct timing_gemm *t = &s->timing->gemms[i];
        if (t->sum.calls == 0)
            continue;
        struct bench_gemm *g = r->gemms;
        while (g < r->gemms + r->n_gemm && !same_entry(g, t, rows))
            g++;
        if (g == r->gemms + r->n_gemm) {
            *g = (struct bench_gemm){ t->m, t->n, t->k, t->trans_a, t->trans_b, .calls = 0 };
            g->rows_vary = (t->trans_a ? t->k : t->m) != rows;
            r->n_gemm++;
        }
        g->calls += share * (double)t->sum.calls;
        g->seconds += share * t->sum.seconds;
        g->flops += share * (double)t->sum.calls * 2 * (double)t->m * (double)t->n * (double)t->k;
    }
    for (struct bench_gemm *g = r->gemms; g < r->gemms + r->n_gemm; g++) {
        int64_t *g_rows = g->trans_a ? &g->k : &g->m;
        const double per_row = 2 * (double)g->n * (double)(g->trans_a ? g->m : g->k) * g->calls;
        *g_rows = (int64_t)(g->flops / per_row + 0.5);
    }
    qsort(r->gemms, (size_t)r->n_gemm, sizeof *r->gemms, longest_first);
    return true;
}

static bool look_closely(struct subject *s, struct bench_result *r, struct err *err)
{
    r->step.tokens = s->scale.tokens;
    r->step.documents = s->scale.tokens / s->scale.document;
    bool ok = measure(s, &r->step, r, err);
    if (ok) {
        r->kernels = s->engine.be.name;
        r->threads = s->engine.be.n_thread;
        r->bf16 = s->engine.be.act == DTYPE_BF16 || s->engine.be.gemm_bf16;
        r->open_bytes = s->open_bytes;
        r->parameters = jamba_param_count(weights_config(s->engine.weights));
        r->trained_parameters = s->engine.adapter.n_param;
        for (int op = 0; op < N_OP; op++)
            r->ops[op] = s->timing->ops[op];
        r->gemm_flops = s->timing->gemm_flops / (double)r->op_runs;
        ok = collect_gemms(s, r, err);
    }
    close_engine(s);
    return ok;
}

/* ---- how the cost grows ---- */

static bool add_step(struct subject *s, struct bench_growth *g, int64_t tokens, int64_t documents,
                     struct err *err)
{
    struct bench_step *step = &g->steps[g->n++];
    *step = (struct bench_step){ .tokens = tokens, .documents = documents };
    const bool ok = measure(s, step, NULL, err);
    close_engine(s);
    return ok;
}

static bool grow_tokens(struct subject *s, struct bench_growth *g, struct err *err)
{
    const int64_t tokens = s->scale.tokens, document = s->scale.document;
    for (int64_t n = tokens / 4; n <= 2 * tokens; n *= 2) {
        if (!add_step(s, g, n, n / document, err))
            return false;
    }
    return true;
}

static bool grow_documents(struct subject *s, struct bench_growth *g, struct err *err)
{
    static const int64_t counts[] = { 1, 4, 32, 256 };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (!add_step(s, g, s->scale.tokens, counts[i], err))
            return false;
    }
    return true;
}

/* Whether random weights of this shape leave most of the memory free. */
static bool is_small(const struct jamba_config *config, bool *small, struct err *err)
{
    struct weights *shapes = weights_shapes(config, err);
    *small = shapes != NULL && weights_owned_bytes(shapes) < plan_machine_memory() / 4;
    weights_close(shapes);
    return shapes != NULL;
}

/* The same shape with other numbers of experts: random weights, as the base's cannot be used. */
static bool grow_experts(const struct subject *base, struct bench_growth *g, struct err *err)
{
    struct jamba_config c = *weights_config(base->weights);
    const int64_t top_k = c.num_experts_per_tok, tokens = base->scale.tokens;
    for (int64_t n = 1; n <= 16; n *= 2) {
        c.num_experts = n;
        c.num_experts_per_tok = top_k < n ? top_k : n;
        bool small = false;
        if (!is_small(&c, &small, err))
            return false;
        if (!small)
            continue;
        struct subject s = *base;
        s.weights = weights_random(&c, base->recipe->seed, err);
        const bool ok =
            s.weights != NULL && add_step(&s, g, tokens, tokens / base->scale.document, err);
        weights_close(s.weights);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- the whole ---- */

static struct scale scale_of(const struct bench_options *o, bool remote)
{
    struct scale s =
        remote ? (o->quick ? device_quick : device_scale) : (o->quick ? cpu_quick : cpu_scale);
    if (o->tokens > 0)
        s.tokens = o->tokens;
    if (o->document > 0)
        s.document = o->document;
    else if (s.document > s.tokens)
        s.document = s.tokens;
    if (s.tokens < s.document)
        s.tokens = s.document;
    s.tokens -= s.tokens % s.document;
    return s;
}

/* Whether steps run on a device. */
static bool is_remote(const struct recipe *r, bool *remote, struct err *err)
{
    struct compute compute = engine_options_of(r).compute;
    struct backend be;
    compute.plan_only = true;
    if (!compute_open(&be, &compute, err))
        return false;
    *remote = be.remote;
    compute_close(&be);
    return true;
}

/* Of a device, while its memory is free. */
static bool find_peak(const struct recipe *recipe, bool quick, double *flops, struct err *err)
{
    struct bench_ops_result r;
    const bool ok = bench_ops_run(
        recipe, &(struct bench_ops_options){ .quick = quick, .ceilings = true }, &r, err);
    *flops = r.ceilings.gemm_flops;
    bench_ops_free(&r);
    return ok;
}

bool bench_run(const struct recipe *recipe, const struct bench_options *options,
               struct bench_result *out, struct err *err)
{
    *out = (struct bench_result){ 0 };
    struct subject s = { .recipe = recipe };
    bool remote = false;
    s.timing = calloc(1, sizeof *s.timing);
    if (s.timing == NULL)
        return err_no_memory(err, "the table of timings");
    bool ok =
        is_remote(recipe, &remote, err) && find_peak(recipe, options->quick, &out->peak_flops, err);
    s.scale = scale_of(options, remote);
    if (ok && !remote) {
        s.weights = weights_open(recipe->base_model, recipe->seed, err);
        ok = s.weights != NULL;
    }
    ok = ok && look_closely(&s, out, err);
    if (ok && !remote)
        out->peak_flops = cpu_peak_flops(out->threads, options->quick ? 0.1 : 0.5);
    if (options->tokens == 0 && options->document == 0)
        ok = ok && grow_tokens(&s, &out->tokens, err) && grow_documents(&s, &out->documents, err) &&
             (remote || grow_experts(&s, &out->experts, err));
    weights_close(s.weights);
    free(s.timing);
    return ok;
}

bool bench_tune(const struct recipe *recipe, const char *path, struct err *err)
{
    const int64_t length = recipe->data.sequence_len,
                  documents =
                      recipe->data.micro_batch_size * recipe->data.gradient_accumulation_steps;
    struct subject s = { .recipe = recipe };
    struct bench_step step = { .tokens = documents * length, .documents = documents };
    bool remote = false;
    if (!is_remote(recipe, &remote, err))
        return false;
    if (!remote)
        return err_set(err, ERR_RECIPE,
                       "device: --tune is for a GPU: there is nothing to choose on "
                       "the CPU");
    s.timing = calloc(1, sizeof *s.timing);
    if (s.timing == NULL)
        return err_no_memory(err, "the table of timings");
    bool ok = open_engine(&s, &step, err);
    if (ok) {
        take_pass(&s, &step, 0, 1);
        ok = finish(&s, err);
    }
    /* The device stays open: it knows the shapes. The model's memory is for the tuner's operands.
     */
    struct backend be = s.engine.be;
    s.engine.be = (struct backend){ 0 };
    close_engine(&s);
    const struct cuda_module *module = ok ? cuda_load(err) : NULL;
    ok = module != NULL && module->tune(be.device, path, err);
    compute_close(&be);
    free(s.timing);
    return ok;
}

void bench_result_free(struct bench_result *r)
{
    free(r->gemms);
    *r = (struct bench_result){ 0 };
}
