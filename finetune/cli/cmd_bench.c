/* jambatune bench: what a training step costs here, and where it goes; what each op costs alone. */
#include <math.h>
#include <stdlib.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/bench/bench.h"
#include "finetune/bench/ops.h"

const char cmd_bench_help[] =
    "usage: jambatune bench [RECIPE] [base_model=MODEL] [key=value ...]\n"
    "                       [--tokens N] [--document N] [--json] [--quick]\n"
    "       jambatune bench --ops [--only NAME] [RECIPE] ...\n"
    "       jambatune bench --tune FILE RECIPE [key=value ...]\n"
    "\n"
    "Measures training steps on this machine: forward, backward and AdamW over 2048 random\n"
    "token ids in documents of 512 (on a GPU 32768 in documents of 4096), LoRA on the\n"
    "modules of the recipe (by default every projection, rank 8), with the memory plan that\n"
    "`train` would choose. Shows\n"
    "\n"
    "  peak_gflops  what the machine does at most: multiply-adds on registers alone, all\n"
    "               threads, fp32; on a GPU a product of 8192 x 8192 x 8192\n"
    "  step         the median of 5 steps; the share of the time that GEMMs take, and their\n"
    "               rate; on a GPU open_bytes, in use there before the model came,\n"
    "               used_bytes, in use beyond that after the step, and their ratio to the\n"
    "               plan\n"
    "  ops          where the time goes; on a GPU in one more step, which waits after each\n"
    "               op\n"
    "  gemms        the longest of the distinct matrix products c (m, n) = op(a) (m, k)\n"
    "               op(b) (k, n); the form nt has b transposed, tn has a; rows_vary: m (k\n"
    "               in tn) is a mean\n"
    "  tokens, documents, experts\n"
    "               the median step when one of them changes: tokens in such documents, the\n"
    "               tokens cut into documents, random weights with that many experts (on\n"
    "               the CPU)\n"
    "\n"
    "With --ops every distinct call of a step over one chunk is made alone, again and\n"
    "again, on random data in memory larger than the caches. Shows its calls in a step\n"
    "(recomputed: in one with gradient_checkpointing: layer; update: in the optimizer's\n"
    "part), microseconds, rates, the least it could take (bytes over the rate of a copy,\n"
    "FLOPs over peak_gflops; the scan by its exponentials and its instructions on GPUs\n"
    "whose rates are known), and the ratio of the two; published: what NVIDIA reports for\n"
    "the same on an H200. totals: milliseconds of 1024 tokens, summed over the calls.\n"
    "\n"
    "With --tune the matrix products of one pass of the recipe are timed with every\n"
    "algorithm that the GPU's library proposes, and the fastest are written to FILE, for\n"
    "the key gemm_algorithms.\n"
    "\n"
    "MODEL is a folder, a hub name in the local cache, or random:CONFIG.JSON for random\n"
    "weights. No other files are written. Seeds are fixed. Leave the machine alone while it\n"
    "runs.\n"
    "\n"
    "  --tokens N     tokens of the step, or of --ops' chunk (512; on a GPU 8192)\n"
    "  --document N   tokens of each document; with either of the two only that step is\n"
    "                 taken\n"
    "  --only NAME    only the ops whose name holds NAME, and what the machine can do\n"
    "  --json         one JSON object, with every GEMM\n"
    "  --quick        a quarter of the tokens, and fewer runs\n"
    "\n"
    "  jambatune bench base_model=random:tests/bench/tiny.json\n"
    "  jambatune bench train.yaml threads=1 --json\n"
    "  jambatune bench --ops base_model=random:tests/bench/jamba-3b.json lora_r=16\n"
    "  jambatune bench --tune gemms.txt train.yaml\n";

enum { GEMMS_SHOWN = 16 };

/* x to four digits: what a timing can say. */
static json_t *number(double x)
{
    if (!isfinite(x) || x == 0)
        return json_real(0);
    const double unit = pow(10, floor(log10(fabs(x))) - 3);
    return json_real(unit < 1 ? round(x / unit) / (1 / unit) : round(x / unit) * unit);
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* ---- the parts ---- */

static json_t *step_json(const struct bench_result *r)
{
    const struct bench_step *s = &r->step;
    const double gemm_seconds = r->ops[OP_gemm].seconds / (double)r->op_runs;
    const double rate = share(r->gemm_flops, gemm_seconds);
    json_t *step = json_pack(
        "{s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "tokens",
        (json_int_t)s->tokens, "documents", (json_int_t)s->documents, "pass_tokens",
        (json_int_t)s->shape.pass_tokens, "chunk_tokens", (json_int_t)s->shape.chunk_tokens,
        "recompute", recompute_name(s->shape.recompute), "memory_bytes",
        (json_int_t)s->memory_bytes, "runs", (json_int_t)s->runs, "seconds", number(s->seconds),
        "tokens_per_second", number(share((double)s->tokens, s->seconds)), "gemm_share",
        number(share(r->ops[OP_gemm].seconds, r->total_seconds)), "gemm_gflops",
        number(1e-9 * rate), "gemm_of_peak", number(share(rate, r->peak_flops)));
    if (s->used_bytes > 0) {
        json_object_set_new(step, "open_bytes", json_integer((json_int_t)r->open_bytes));
        json_object_set_new(step, "used_bytes", json_integer((json_int_t)s->used_bytes));
        json_object_set_new(step, "used_of_plan",
                            number(share((double)s->used_bytes, (double)s->memory_bytes)));
    }
    return step;
}

static void append_op(json_t *list, const char *name, double calls, double seconds,
                      const struct bench_result *r)
{
    const double runs = (double)r->op_runs;
    json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "op", name, "calls",
                                          number(calls / runs), "ms", number(1e3 * seconds / runs),
                                          "share", number(share(seconds, r->total_seconds))));
}

/* Ops that ran, the longest first, and what of the step passed outside of them. */
static json_t *ops_json(const struct bench_result *r)
{
    json_t *list = json_array();
    bool done[N_OP] = { false };
    double outside = r->total_seconds;
    for (;;) {
        int longest = -1;
        for (int op = 0; op < N_OP; op++) {
            if (!done[op] && r->ops[op].calls > 0 &&
                (longest < 0 || r->ops[op].seconds > r->ops[longest].seconds))
                longest = op;
        }
        if (longest < 0)
            break;
        done[longest] = true;
        outside -= r->ops[longest].seconds;
        append_op(list, timing_op_name((enum op_id)longest), (double)r->ops[longest].calls,
                  r->ops[longest].seconds, r);
    }
    append_op(list, "(outside ops)", 0, outside, r);
    return list;
}

static json_t *gemms_json(const struct bench_result *r, int64_t most)
{
    static const char *const forms[] = { "nn", "nt", "tn", "tt" };
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_gemm && i < most; i++) {
        const struct bench_gemm *g = &r->gemms[i];
        const double rate = share(g->flops, g->seconds);
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:I, s:b, s:o, s:o, s:o, s:o}", "form",
                            forms[2 * g->trans_a + g->trans_b], "m", (json_int_t)g->m, "n",
                            (json_int_t)g->n, "k", (json_int_t)g->k, "rows_vary", g->rows_vary,
                            "calls", number(g->calls), "ms", number(1e3 * g->seconds), "gflops",
                            number(1e-9 * rate), "of_peak", number(share(rate, r->peak_flops))));
    }
    return list;
}

static json_t *growth_json(const struct bench_growth *g)
{
    json_t *list = json_array();
    for (int i = 0; i < g->n; i++) {
        const struct bench_step *s = &g->steps[i];
        json_array_append_new(
            list,
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "tokens", (json_int_t)s->tokens,
                      "documents", (json_int_t)s->documents, "experts", (json_int_t)s->experts,
                      "experts_per_token", (json_int_t)s->experts_per_token, "runs",
                      (json_int_t)s->runs, "seconds", number(s->seconds), "us_per_token",
                      number(1e6 * s->seconds / (double)s->tokens)));
    }
    return list;
}

static json_t *result_json(const struct recipe *recipe, const struct bench_result *r, bool all)
{
    return json_pack("{s:s, s:i, s:s, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "kernels",
                     r->kernels, "threads", r->threads, "precision", r->bf16 ? "bf16" : "fp32",
                     "peak_gflops", number(1e-9 * r->peak_flops), "base_model",
                     cli_json_string(recipe->base_model), "parameters", (json_int_t)r->parameters,
                     "trained_parameters", (json_int_t)r->trained_parameters, "step", step_json(r),
                     "ops", ops_json(r), "gemms", gemms_json(r, all ? r->n_gemm : GEMMS_SHOWN),
                     "tokens", growth_json(&r->tokens), "documents", growth_json(&r->documents),
                     "experts", growth_json(&r->experts));
}

static int bench_steps(const struct recipe *recipe, const struct bench_options *options, bool json)
{
    struct err err = { 0 };
    struct bench_result r;
    const bool ok = bench_run(recipe, options, &r, &err);
    const int code = ok ? cli_end_facts(result_json(recipe, &r, json), json) : cli_fail(&err);
    bench_result_free(&r);
    return code;
}

/* ---- ops alone ---- */

static json_t *ceilings_json(const struct bench_ops_result *r)
{
    const struct bench_ceilings *c = &r->ceilings;
    json_t *facts = json_pack(
        "{s:o, s:o, s:o, s:o}", "copy_gb_per_second", number(1e-9 * c->copy_bytes),
        "to_device_gb_per_second", number(1e-9 * c->to_device_bytes), "to_host_gb_per_second",
        number(1e-9 * c->to_host_bytes), "peak_gflops", number(1e-9 * c->gemm_flops));
    if (c->special > 0) {
        json_object_set_new(facts, "special_per_ns", number(1e-9 * c->special));
        json_object_set_new(facts, "f32_instructions_per_ns", number(1e-9 * c->instructions));
    }
    return facts;
}

static json_t *op_json(const struct bench_op *o)
{
    return json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o}", "op", timing_op_name(o->op),
        "shape", o->shape, "calls", number(o->calls[BENCH_KEEP]), "recomputed",
        number(o->calls[BENCH_RECOMPUTE]), "update", number(o->calls[BENCH_UPDATE]), "us",
        number(1e6 * o->seconds), "gb_per_second", number(1e-9 * share(o->bytes, o->seconds)),
        "gflops", number(1e-9 * share(o->flops, o->seconds)), "floor_us", number(1e6 * o->floor),
        "bound", bench_bound_name(o->bound), "ratio", number(share(o->seconds, o->floor)),
        "published_us", number(1e6 * o->published));
}

/* Those that ran; and those that need more memory than there is. */
static json_t *measured_json(const struct bench_ops_result *r)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_op; i++) {
        if (r->ops[i].needs == 0)
            json_array_append_new(list, op_json(&r->ops[i]));
    }
    return list;
}

static json_t *left_out_json(const struct bench_ops_result *r)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_op; i++) {
        const struct bench_op *o = &r->ops[i];
        if (o->needs > 0)
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:I}", "op", timing_op_name(o->op), "shape",
                                            o->shape, "needs_bytes", (json_int_t)o->needs));
    }
    return list;
}

static json_t *totals_json(const struct bench_ops_result *r)
{
    static const char *const walks[] = { [BENCH_KEEP] = "none", [BENCH_RECOMPUTE] = "layer" };
    json_t *list = json_array();
    for (int walk = 0; walk < BENCH_UPDATE; walk++) {
        const struct bench_total *t = &r->totals[walk];
        json_array_append_new(
            list, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "gradient_checkpointing", walks[walk],
                            "gemm_ms", number(1e3 * t->gemm), "skinny_gemm_ms",
                            number(1e3 * t->skinny), "other_ms", number(1e3 * (t->all - t->gemm)),
                            "all_ms", number(1e3 * t->all), "floor_ms", number(1e3 * t->floor)));
    }
    return list;
}

static json_t *ops_result_json(const struct recipe *recipe, const struct bench_ops_result *r)
{
    return json_pack(
        "{s:s, s:s, s:i, s:s, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "kernels", r->kernels,
        "device", r->device, "threads", r->threads, "activations", dtype_name(r->act), "base_model",
        cli_json_string(recipe->base_model), "tokens", (json_int_t)r->tokens, "document",
        (json_int_t)r->document, "ceilings", ceilings_json(r), "ops", measured_json(r), "left_out",
        left_out_json(r), "totals", totals_json(r), "update_ms", number(1e3 * r->update));
}

static int bench_ops(const struct recipe *recipe, const struct bench_ops_options *options,
                     bool json)
{
    struct err err = { 0 };
    struct bench_ops_result r;
    const bool ok = bench_ops_run(recipe, options, &r, &err);
    const int code = ok ? cli_end_facts(ops_result_json(recipe, &r), json) : cli_fail(&err);
    bench_ops_free(&r);
    return code;
}

/* ---- the command ---- */

enum { MOST_TOKENS = 1 << 24 };

struct request {
    bool json, quick, ops;
    const char *only, *tune;
    int64_t tokens, document;
};

static bool read_request(int argc, char **argv, struct request *r, struct cli_words *words,
                         struct err *err)
{
    const char *tokens = NULL, *document = NULL;
    const struct cli_option options[] = {
        { "json", NULL, NULL, &r->json },     { "quick", NULL, NULL, &r->quick },
        { "ops", NULL, NULL, &r->ops },       { "only", "NAME", &r->only, NULL },
        { "tune", "FILE", &r->tune, NULL },   { "tokens", "N", &tokens, NULL },
        { "document", "N", &document, NULL },
    };
    if (!cli_parse(argc, argv, options, sizeof options / sizeof *options, words, err) ||
        !cli_expect_args(words, 0, 1, "jambatune bench [RECIPE] [key=value ...]", err) ||
        !cli_number_int("tokens", tokens, 1, MOST_TOKENS, &r->tokens, err) ||
        !cli_number_int("document", document, 1, MOST_TOKENS, &r->document, err))
        return false;
    if (r->only != NULL && !r->ops)
        return err_set(err, ERR_USAGE, "command line: --only goes with --ops");
    if (r->tune != NULL && (r->ops || r->json || r->quick || tokens != NULL || document != NULL))
        return err_set(err, ERR_USAGE,
                       "command line: --tune takes no other option; the recipe gives the shapes");
    return true;
}

static int bench(const struct recipe *recipe, const struct request *r)
{
    if (r->ops)
        return bench_ops(
            recipe,
            &(struct bench_ops_options){
                .tokens = r->tokens, .document = r->document, .only = r->only, .quick = r->quick },
            r->json);
    if (r->tune == NULL)
        return bench_steps(recipe,
                           &(struct bench_options){
                               .quick = r->quick, .tokens = r->tokens, .document = r->document },
                           r->json);
    struct err err = { 0 };
    return bench_tune(recipe, r->tune, &err) ? 0 : cli_fail(&err);
}

int cmd_bench(int argc, char **argv)
{
    struct request request = { 0 };
    struct cli_words words;
    struct err err = { 0 };
    if (!read_request(argc, argv, &request, &words, &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_MODEL, &recipe);
    if (code == 0)
        code = bench(&recipe, &request);
    recipe_free(&recipe);
    return code;
}
