/* jambatune bench: what a training step costs here, and where it goes. */
#include <math.h>
#include <stdlib.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/train/bench.h"

const char cmd_bench_help[] =
    "usage: jambatune bench [RECIPE] [base_model=MODEL] [key=value ...] [--json] [--quick]\n"
    "\n"
    "Measures training steps on this machine: forward, backward and AdamW over 2048 random token "
    "ids in 4\n"
    "documents, LoRA on the modules of the recipe (by default every projection, rank 8), with the "
    "memory plan\n"
    "that `train` would choose. Shows\n"
    "\n"
    "  peak_gflops  what the processor does at most: multiply-adds on registers alone, all "
    "threads, fp32\n"
    "  step         the median of 5 steps; the share of the time that GEMMs take, and their rate\n"
    "  ops          where the time goes\n"
    "  gemms        the longest of the distinct matrix products c (m, n) = op(a) (m, k) op(b) (k, "
    "n); the form\n"
    "               nt has b transposed, tn has a; rows_vary: m (k in tn) is a mean\n"
    "  tokens, documents, experts\n"
    "               the median step when one of them changes: tokens in documents of 512, the 2048 "
    "tokens cut\n"
    "               into documents, random weights with that many experts\n"
    "\n"
    "MODEL is a folder, a hub name in the local cache, or random:CONFIG.JSON for random weights. "
    "No files are\n"
    "written. Seeds are fixed. Leave the machine alone while it runs.\n"
    "\n"
    "  --json    one JSON object, with every GEMM\n"
    "  --quick   a quarter of the tokens, and fewer runs\n"
    "\n"
    "  jambatune bench base_model=random:tests/bench/tiny.json\n"
    "  jambatune bench train.yaml threads=1 --json\n";

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
    const double gemm_seconds = r->ops[TIMING_gemm].seconds / (double)s->runs;
    const double rate = share(r->gemm_flops, gemm_seconds);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "tokens",
        (json_int_t)s->tokens, "documents", (json_int_t)s->documents, "pass_tokens",
        (json_int_t)s->shape.pass_tokens, "chunk_tokens", (json_int_t)s->shape.chunk_tokens,
        "recompute", recompute_name(s->shape.recompute), "memory_bytes",
        (json_int_t)s->memory_bytes, "runs", (json_int_t)s->runs, "seconds", number(s->seconds),
        "tokens_per_second", number(share((double)s->tokens, s->seconds)), "gemm_share",
        number(share(r->ops[TIMING_gemm].seconds, r->total_seconds)), "gemm_gflops",
        number(1e-9 * rate), "gemm_of_peak", number(share(rate, r->peak_flops)));
}

static void append_op(json_t *list, const char *name, double calls, double seconds,
                      const struct bench_result *r)
{
    const double runs = (double)r->step.runs;
    json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "op", name, "calls",
                                          number(calls / runs), "ms", number(1e3 * seconds / runs),
                                          "share", number(share(seconds, r->total_seconds))));
}

/* Ops that ran, the longest first, and what of the step passed outside of them. */
static json_t *ops_json(const struct bench_result *r)
{
    json_t *list = json_array();
    bool done[TIMING_N_OP] = { false };
    double outside = r->total_seconds;
    for (;;) {
        int longest = -1;
        for (int op = 0; op < TIMING_N_OP; op++) {
            if (!done[op] && r->ops[op].calls > 0 &&
                (longest < 0 || r->ops[op].seconds > r->ops[longest].seconds))
                longest = op;
        }
        if (longest < 0)
            break;
        done[longest] = true;
        outside -= r->ops[longest].seconds;
        append_op(list, timing_op_name((enum timing_op)longest), (double)r->ops[longest].calls,
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
                     r->kernels, "threads", r->threads, "precision",
                     recipe->precision == PRECISION_BF16 ? "bf16" : "fp32", "peak_gflops",
                     number(1e-9 * r->peak_flops), "base_model",
                     cli_json_string(recipe->base_model), "parameters", (json_int_t)r->parameters,
                     "trained_parameters", (json_int_t)r->trained_parameters, "step", step_json(r),
                     "ops", ops_json(r), "gemms", gemms_json(r, all ? r->n_gemm : GEMMS_SHOWN),
                     "tokens", growth_json(&r->tokens), "documents", growth_json(&r->documents),
                     "experts", growth_json(&r->experts));
}

/* ---- the command ---- */

int cmd_bench(int argc, char **argv)
{
    bool json = false, quick = false;
    const struct cli_option options[] = { { "json", NULL, NULL, &json },
                                          { "quick", NULL, NULL, &quick } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 2, &words, &err) ||
        !cli_expect_args(&words, 0, 1, "jambatune bench [RECIPE] [key=value ...]", &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_MODEL, &recipe);
    if (code == 0) {
        struct bench_result r = { 0 };
        const bool ok = bench_run(&recipe, quick, &r, &err);
        code = ok ? cli_end_facts(result_json(&recipe, &r, json), json) : cli_fail(&err);
        bench_result_free(&r);
    }
    recipe_free(&recipe);
    return code;
}
