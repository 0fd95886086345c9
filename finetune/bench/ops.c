#include "finetune/bench/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "finetune/model/engine.h"
#include "finetune/train/options.h"
#include "kernels/core/device.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/load.h"
#include "kernels/plan/cost.h"
#include "kernels/timing/timing.h"

/* How long is measured. A batch ends with waiting for the device, so it must last. */
struct patience {
    double batch, all; /* seconds of a batch at least; of all batches, after which none is begun */
    int batches;
};
static const struct patience device_patience = { 0.01, 1, 7 };
static const struct patience cpu_patience = { 0.02, 0.3, 5 };
static const struct patience quick_patience = { 0.001, 0.01, 3 };
enum { MAX_BATCHES = 7, MAX_CALLS = 20000, MAX_SETS = 64 };

/* Operands go round over this much memory: four times a device's L2. */
enum { ROTATE_DEVICE = 1 << 28, ROTATE_CPU = 1 << 26, SKINNY = 64 };

struct bench {
    const struct recipe *recipe;
    const struct bench_ops_options *options;
    struct bench_ops_result *result;
    struct backend be;
    struct bench_calls calls;
    struct arena memory, scratch, host; /* scratch: a part of memory */
    struct patience patience;
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

const char *bench_bound_name(enum bench_bound bound)
{
    static const char *const names[] = { [BENCH_BYTES] = "bytes",
                                         [BENCH_FLOPS] = "flops",
                                         [BENCH_SPECIAL] = "special",
                                         [BENCH_INSTRUCTIONS] = "issue" };
    return names[bound];
}

/* ---- what an op needs, by its id ---- */

static void call(struct backend *be, enum op_id op, const union op_args *args)
{
    switch (op) {
#define CALL(name, args_of)                                                                        \
    case OP_##name:                                                                                \
        op_##name(be, &args->name);                                                                \
        break;
        OPS(CALL)
#undef CALL
    case N_OP:
        break;
    }
}

static struct op_cost cost_of(const struct backend *be, enum op_id op, const union op_args *args)
{
    switch (op) {
#define COST(name, args_of)                                                                        \
    case OP_##name:                                                                                \
        return op_cost_##name(be, &args->name);
        OPS(COST)
#undef COST
    case N_OP:
        break;
    }
    return (struct op_cost){ 0 };
}

static size_t scratch_of(const struct backend *be, enum op_id op, const union op_args *args)
{
    switch (op) {
#define SCRATCH(name, args_of)                                                                     \
    case OP_##name:                                                                                \
        return be->k->name##_scratch == NULL ? 0 : be->k->name##_scratch(be, &args->name);
        OPS(SCRATCH)
#undef SCRATCH
    case N_OP:
        break;
    }
    return 0;
}

/* ---- timing ---- */

static bool finish(struct bench *b, struct err *err)
{
    struct device *d = b->be.device;
    if (b->be.err.code != ERR_NONE)
        return err_set(err, b->be.err.code, "%s", b->be.err.text);
    return d == NULL || d->finish(d, err);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of n calls over the sets in turn. */
static bool batch(struct bench *b, enum op_id op, const union op_args *sets, int n_set, int64_t n,
                  double *seconds, struct err *err)
{
    const double start = now();
    for (int64_t i = 0; i < n; i++)
        call(&b->be, op, &sets[i % n_set]);
    const bool ok = finish(b, err);
    *seconds = now() - start;
    return ok;
}

static bool time_batches(struct bench *b, enum op_id op, const union op_args *sets, int n_set,
                         double *seconds, struct err *err)
{
    const struct patience *p = &b->patience;
    double took, all = 0, each[MAX_BATCHES];
    int64_t n = 1;
    int done = 0;
    if (!batch(b, op, sets, n_set, 1, &took, err)) /* loads code, makes plans */
        return false;
    for (;;) { /* a batch that is long enough */
        if (!batch(b, op, sets, n_set, n, &took, err))
            return false;
        if (took >= p->batch || n >= MAX_CALLS)
            break;
        const double more = took > 0 ? 1.2 * p->batch / took : 100;
        n = (int64_t)ceil((double)n * fmin(fmax(more, 2), 100));
        n = n < MAX_CALLS ? n : MAX_CALLS;
    }
    do {
        if (!batch(b, op, sets, n_set, n, &took, err))
            return false;
        each[done++] = took / (double)n;
        all += took;
    } while (done < p->batches && all < p->all);
    qsort(each, (size_t)done, sizeof *each, compare_doubles);
    *seconds = done % 2 == 1 ? each[done / 2] : (each[done / 2 - 1] + each[done / 2]) / 2;
    return true;
}

/* What a backward reads of its forward: o and lse, or the tiles' states. */
static void prepare(struct bench *b, enum op_id op, const union op_args *args)
{
    if (op == OP_attention_backward)
        op_attention_forward(&b->be, &args->attention_backward);
    else if (op == OP_scan_backward)
        op_scan_forward(&b->be, &args->scan_backward);
}

/* A chunk at the end of a long document: every query's keys are known, and are more than those of
 * an average one, which the bound of documents shorter than the stream would be. */
static struct op_cost least_cost(const struct bench *b, enum op_id op, union op_args args)
{
    struct attention_args *a = op == OP_attention_forward    ? &args.attention_forward
                               : op == OP_attention_backward ? &args.attention_backward
                                                             : NULL;
    if (a != NULL && a->longest > a->n_tok)
        a->longest = 0;
    return cost_of(&b->be, op, &args);
}

/* ---- memory ---- */

/* What timing a call takes: sets of operands to go round over more memory than the caches, and
 * scratch. */
struct needs {
    int sets;
    size_t scratch, memory, host; /* memory: scratch and all sets */
};

static struct needs needs_of(const struct bench *b, const struct bench_call *c)
{
    const enum op_id forward = c->op == OP_attention_backward ? OP_attention_forward
                               : c->op == OP_scan_backward    ? OP_scan_forward
                                                              : c->op;
    const size_t rotate = b->options->quick ? 0 : b->be.remote ? ROTATE_DEVICE : ROTATE_CPU;
    union op_args args = c->args;
    struct operands o;
    operands_of(&b->be, c->op, &args, c->document, &o);
    struct needs n = { .sets = MAX_SETS, .scratch = OPERANDS_SCRATCH };
    if (rotate / (o.bytes + 1) + 1 < MAX_SETS)
        n.sets = (int)(rotate / (o.bytes + 1) + 1);
    const size_t own = scratch_of(&b->be, c->op, &args),
                 prepared = scratch_of(&b->be, forward, &args);
    n.scratch += own > prepared ? own : prepared;
    n.memory = (size_t)n.sets * o.bytes + n.scratch + ARENA_ALIGN;
    n.host = (size_t)n.sets * o.host_bytes;
    return n;
}

/* One allocation for the largest of the calls; those larger than the budget are marked. */
static bool allocate(struct bench *b, size_t budget, struct err *err)
{
    struct bench_ops_result *r = b->result;
    size_t most = 0, most_host = 0;
    for (int64_t i = 0; i < r->n_op; i++) {
        const struct needs n = needs_of(b, &b->calls.list[i]);
        if (n.memory > budget) {
            r->ops[i].needs = n.memory;
            continue;
        }
        most = n.memory > most ? n.memory : most;
        most_host = n.host > most_host ? n.host : most_host;
    }
    b->be.scratch = &b->scratch;
    return arena_init_in(&b->memory, b->be.device, "benchmark", most, err) &&
           arena_init(&b->host, "benchmark's host", most_host, err);
}

static bool time_call(struct bench *b, const struct bench_call *c, struct bench_op *row,
                      struct err *err)
{
    const struct needs n = needs_of(b, c);
    union op_args sets[MAX_SETS];
    arena_rewind(&b->memory, 0);
    arena_rewind(&b->host, 0);
    arena_init_part(&b->scratch, &b->memory, "scratch", n.scratch);
    for (int i = 0; i < n.sets; i++) {
        struct operands o;
        sets[i] = c->args;
        operands_of(&b->be, c->op, &sets[i], c->document, &o);
        operands_bind(&o, arena_push(&b->memory, o.bytes), arena_push(&b->host, o.host_bytes));
        if (!operands_fill(&b->be, &o, (uint64_t)i + 1, err))
            return false;
        prepare(b, c->op, &sets[i]);
    }
    const struct op_cost cost = least_cost(b, c->op, sets[0]);
    row->bytes = cost.bytes;
    row->flops = cost.flops;
    return (finish(b, err) && time_batches(b, c->op, sets, n.sets, &row->seconds, err)) ||
           err_prefix(err, "%s %s", timing_op_name(c->op), c->shape);
}

/* ---- ceilings and floors ---- */

/* What a multiprocessor starts in a cycle of its highest clock (NVIDIA's tuning guides). */
struct chip {
    int major, minor;
    double hz, special, f32;
};
static const struct chip chips[] = { { 8, 0, 1.41e9, 16, 64 }, { 9, 0, 1.98e9, 16, 128 } };

static void look_up_chip(struct bench *b)
{
    struct cuda_facts facts;
    struct bench_ops_result *r = b->result;
    if (b->be.device == NULL || !cuda_available(&facts, NULL))
        return;
    snprintf(r->device, sizeof r->device, "%s", facts.name);
    r->n_sm = facts.n_sm;
    for (size_t i = 0; i < sizeof chips / sizeof *chips; i++) {
        if (chips[i].major != facts.major || chips[i].minor != facts.minor)
            continue;
        r->ceilings.special = chips[i].hz * chips[i].special * facts.n_sm;
        r->ceilings.instructions = chips[i].hz * chips[i].f32 * facts.n_sm;
    }
}

/* Of the scan, per (token, channel, state): an exponential, and per (token, channel) softplus and
 * silu, 4 special functions, 6 backward; f32 instructions, as the kernels' files count them. */
struct scan_work {
    double special, per_channel, instructions, flops;
};
static const struct scan_work scan_forward = { 1, 4, 6, 7 }, scan_backward = { 1, 6, 15, 22 };

static void raise_floor(struct bench_op *row, double work, double rate, enum bench_bound bound)
{
    const double seconds = rate > 0 ? work / rate : 0;
    if (seconds <= row->floor)
        return;
    row->floor = seconds;
    row->bound = bound;
}

static void scan_floor(const struct bench *b, const struct scan_args *a, struct bench_op *row)
{
    const struct scan_work *work = row->op == OP_scan_backward ? &scan_backward : &scan_forward;
    const struct bench_ceilings *most = &b->result->ceilings;
    const double channels = (double)a->n_tok * (double)a->d_inner,
                 states = channels * (double)a->d_state;
    row->flops = work->flops * states;
    raise_floor(row, work->special * states + work->per_channel * channels, most->special,
                BENCH_SPECIAL);
    raise_floor(row, work->instructions * states, most->instructions, BENCH_INSTRUCTIONS);
    if (!b->be.remote)
        raise_floor(row, row->flops, most->gemm_flops, BENCH_FLOPS);
}

static void find_floor(const struct bench *b, const struct bench_call *c, struct bench_op *row)
{
    const struct bench_ceilings *most = &b->result->ceilings;
    raise_floor(row, row->bytes,
                row->op == OP_to_device ? most->to_device_bytes
                : row->op == OP_to_host ? most->to_host_bytes
                                        : most->copy_bytes,
                BENCH_BYTES);
    if (row->op == OP_scan_forward)
        scan_floor(b, &c->args.scan_forward, row);
    else if (row->op == OP_scan_backward)
        scan_floor(b, &c->args.scan_backward, row);
    else
        raise_floor(row, row->flops, most->gemm_flops, BENCH_FLOPS);
}

static void read_ceilings(struct bench *b)
{
    struct bench_ceilings *most = &b->result->ceilings;
    const struct bench_op *row = b->result->ops;
    double *bytes[] = { &most->copy_bytes, &most->to_device_bytes, &most->to_host_bytes };
    for (int i = 0; i < YARDSTICK_GEMM; i++)
        *bytes[i] = row[i].bytes / row[i].seconds;
    if (b->be.remote)
        most->gemm_flops = row[YARDSTICK_GEMM].flops / row[YARDSTICK_GEMM].seconds;
    else
        most->gemm_flops = cpu_peak_flops(b->be.n_thread, b->options->quick ? 0.05 : 0.5);
}

/* ---- the whole ---- */

static bool time_all(struct bench *b, struct err *err)
{
    struct bench_ops_result *r = b->result;
    for (int64_t i = 0; i < r->n_op; i++) {
        if (i < b->calls.n_yardstick && r->ops[i].needs > 0)
            return err_set(err, ERR_NO_MEMORY,
                           "memory_budget: %zu bytes are needed to measure what the machine can do",
                           r->ops[i].needs);
        if (r->ops[i].needs == 0 && !time_call(b, &b->calls.list[i], &r->ops[i], err))
            return false;
        if (i + 1 == b->calls.n_yardstick)
            read_ceilings(b);
    }
    for (int64_t i = 0; i < r->n_op; i++)
        find_floor(b, &b->calls.list[i], &r->ops[i]);
    return true;
}

/* By op, and within one the longest part of a step first. */
static int by_op(const void *a, const void *b)
{
    const struct bench_op *x = a, *y = b;
    const double x_seconds = x->calls[BENCH_RECOMPUTE] * x->seconds,
                 y_seconds = y->calls[BENCH_RECOMPUTE] * y->seconds;
    return x->op != y->op ? (int)x->op - (int)y->op
                          : (x_seconds < y_seconds) - (x_seconds > y_seconds);
}

static void add_up(struct bench_ops_result *r)
{
    for (const struct bench_op *o = r->ops; o < r->ops + r->n_op; o++) {
        for (int walk = 0; walk < BENCH_UPDATE; walk++) {
            struct bench_total *t = &r->totals[walk];
            const double share = o->calls[walk] * 1024 / (double)r->tokens;
            t->gemm += o->op == OP_gemm ? share * o->seconds : 0;
            t->skinny += o->skinny ? share * o->seconds : 0;
            t->all += share * o->seconds;
            t->floor += share * o->floor;
        }
        r->update += o->calls[BENCH_UPDATE] * o->seconds;
    }
}

static bool is_skinny(const struct bench_call *c)
{
    const struct gemm_args *a = &c->args.gemm;
    return c->op == OP_gemm && (a->m <= SKINNY || a->n <= SKINNY || a->k <= SKINNY);
}

/* A row for each call. */
static bool open_rows(struct bench *b, struct err *err)
{
    struct bench_ops_result *r = b->result;
    r->ops = calloc((size_t)b->calls.n, sizeof *r->ops);
    if (r->ops == NULL)
        return err_no_memory(err, "the list of benchmarks");
    for (r->n_op = 0; r->n_op < b->calls.n; r->n_op++) {
        const struct bench_call *c = &b->calls.list[r->n_op];
        struct bench_op *row = &r->ops[r->n_op];
        row->op = c->op;
        row->skinny = is_skinny(c);
        row->published = c->published;
        memcpy(row->shape, c->shape, sizeof row->shape);
        memcpy(row->calls, c->calls, sizeof row->calls);
    }
    return true;
}

static bool run(struct bench *b, struct engine *shapes, struct err *err)
{
    struct bench_ops_result *r = b->result;
    const struct bench_ops_options *o = b->options;
    b->patience = o->quick ? quick_patience : b->be.remote ? device_patience : cpu_patience;
    r->kernels = b->be.name;
    r->threads = b->be.n_thread;
    r->act = b->be.act;
    r->tokens = o->tokens > 0 ? o->tokens : b->be.remote ? 8192 : 512;
    const int64_t document = o->document > 0 ? o->document : 4096;
    r->document = document < r->tokens ? document : r->tokens;
    b->calls = (struct bench_calls){ .recipe = b->recipe,
                                     .be = &b->be,
                                     .tokens = r->tokens,
                                     .document = r->document,
                                     .only = o->only,
                                     .quick = o->quick };
    look_up_chip(b);
    const size_t budget = plan_budget(&b->be, o->ceilings ? 0 : b->recipe->memory_budget);
    if (!bench_calls_list(&b->calls, shapes, err) || !open_rows(b, err) ||
        !allocate(b, budget, err) || !time_all(b, err))
        return false;
    add_up(r);
    qsort(r->ops, (size_t)r->n_op, sizeof *r->ops, by_op);
    return true;
}

static bool check_filter(const struct bench_ops_options *o, struct err *err)
{
    for (int op = 0; op < N_OP; op++) {
        if (o->only == NULL || strstr(timing_op_name((enum op_id)op), o->only) != NULL)
            return true;
    }
    return err_set(err, ERR_USAGE,
                   "command line: --only: no op's name holds '%s'; expected 'gemm', 'scan', "
                   "'attention', 'rmsnorm', ...",
                   o->only);
}

bool bench_ops_run(const struct recipe *recipe, const struct bench_ops_options *options,
                   struct bench_ops_result *out, struct err *err)
{
    *out = (struct bench_ops_result){ 0 };
    struct bench b = { .recipe = recipe, .options = options, .result = out };
    struct engine shapes = { 0 };
    const struct engine_options open = engine_options_of(recipe);
    const bool ok = check_filter(options, err) &&
                    (options->ceilings || engine_open_shapes(&shapes, &open, err)) &&
                    compute_open(&b.be, &open.compute, err) &&
                    run(&b, options->ceilings ? NULL : &shapes, err);
    free(b.calls.list);
    arena_free(&b.host);
    arena_free(&b.memory);
    compute_close(&b.be);
    engine_close(&shapes);
    return ok;
}

void bench_ops_free(struct bench_ops_result *r)
{
    free(r->ops);
    *r = (struct bench_ops_result){ 0 };
}
