/* jambatune lint: what each engine makes of an adapter. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/export/peft.h"
#include "kernels/core/text.h"
#include "lora/engines.h"

const char cmd_lint_help[] =
    "usage: jambatune lint ADAPTER [--base BASE] [--engine ENGINE] [--json]\n"
    "\n"
    "Says what the engines that serve Jamba make of a PEFT adapter, by kind of module:\n"
    "  takes effect   as it was trained\n"
    "  wrong scale    applied, but stronger or weaker than it was trained\n"
    "  ignored        left out without a word\n"
    "  refused        the engine does not load the adapter\n"
    "and what to do about each. transformers 4, transformers 5 (with PEFT) and vLLM are\n"
    "given the folder as it is; llama.cpp gets what `jambatune export --to gguf` makes\n"
    "of it, merged is what `jambatune export --to merged` makes.\n"
    "\n"
    "Options:\n"
    "  --base BASE      the model it was trained on: a folder, a hub name in the local\n"
    "                   cache, or random:CONFIG.JSON; by default what the adapter names\n"
    "  --engine ENGINE  transformers4, transformers5, vllm, llama.cpp or merged: the\n"
    "                   exit code is 65 unless all of the adapter takes effect there\n"
    "  --json           print one JSON object\n"
    "\n"
    "Without --engine the exit code is 0 whatever was found, if only the adapter could\n"
    "be read.\n"
    "\n"
    "Examples:\n"
    "  jambatune lint out/best\n"
    "  jambatune lint out/vllm --engine vllm && cp -r out/vllm /srv/adapters/\n";

/* ---- the table ---- */

/* The modules of one kind within one block; or all of them. */
struct row {
    int64_t n, r_min, r_max;
    int64_t n_verdict[LORA_ENGINE_COUNT][LORA_REFUSED + 1];
};

static void add_module(struct row *row, int64_t r, const uint8_t verdicts[LORA_ENGINE_COUNT])
{
    row->r_min = row->n == 0 || r < row->r_min ? r : row->r_min;
    row->r_max = r > row->r_max ? r : row->r_max;
    row->n++;
    for (int e = 0; e < LORA_ENGINE_COUNT; e++)
        row->n_verdict[e][verdicts[e]]++;
}

/* The worst, and how many where it is not all: "ignored (2 of 8)". */
static json_t *verdict_cell(const struct row *row, int engine)
{
    int worst = LORA_REFUSED;
    while (worst > LORA_HONOURED && row->n_verdict[engine][worst] == 0)
        worst--;
    const char *name = lora_verdict_name((enum lora_verdict)worst);
    const int64_t n = row->n_verdict[engine][worst];
    char cell[96];
    if (n == row->n)
        return json_string(name);
    snprintf(cell, sizeof cell, "%s (%" PRId64 " of %" PRId64 ")", name, n, row->n);
    return json_string(cell);
}

static json_t *row_facts(const struct row *row, const char *block, const char *module)
{
    char rank[48];
    snprintf(rank, sizeof rank, row->r_min == row->r_max ? "%" PRId64 : "%" PRId64 "-%" PRId64,
             row->r_min, row->r_max);
    json_t *facts = json_pack("{s:s, s:s, s:I, s:s}", "block", block, "module", module, "adapted",
                              (json_int_t)row->n, "rank", rank);
    for (int e = 0; e < LORA_ENGINE_COUNT; e++)
        json_object_set_new(facts, lora_engine_key((enum lora_engine)e), verdict_cell(row, e));
    return facts;
}

static json_t *module_rows(const struct export_source *s, const struct lora_report *report)
{
    struct row rows[LORA_BLOCK_COUNT][LORA_KIND_COUNT] = { 0 }, all = { 0 };
    for (int64_t i = 0; i < s->n_module; i++) {
        const struct lora_module *m = &s->modules[i];
        if (!s->choices[i].on)
            continue;
        add_module(&rows[lora_block_of(m)][m->kind], s->choices[i].r, report->verdicts[i]);
        add_module(&all, s->choices[i].r, report->verdicts[i]);
    }
    json_t *list = json_array();
    for (int b = 0; b < LORA_BLOCK_COUNT; b++) {
        for (int k = 0; k < LORA_KIND_COUNT; k++) {
            if (rows[b][k].n > 0)
                json_array_append_new(list,
                                      row_facts(&rows[b][k], lora_block_name((enum lora_block)b),
                                                lora_kind_name((enum lora_kind)k)));
        }
    }
    json_array_append_new(list, row_facts(&all, "all", ""));
    return list;
}

/* ---- findings ---- */

static json_t *finding_facts(const struct lora_finding *f)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:s, s:s}", "engine", lora_engine_key(f->engine),
                     "verdict", lora_verdict_name(f->verdict), "subject", f->subject, "modules",
                     (json_int_t)f->n_module, "problem", f->problem, "what_to_do", f->remedy);
}

static json_t *engine_facts(const struct lora_report *report)
{
    json_t *object = json_object();
    for (int e = 0; e < LORA_ENGINE_COUNT; e++)
        json_object_set_new(
            object, lora_engine_key((enum lora_engine)e),
            json_string(lora_verdict_name(lora_report_verdict(report, (enum lora_engine)e))));
    return object;
}

static void put_findings(const struct lora_report *report)
{
    for (int i = 0; i < report->n_finding; i++) {
        const struct lora_finding *f = &report->findings[i];
        printf("\n%s: %s: %s\n  %s\n  what to do: %s\n", lora_engine_name(f->engine),
               lora_verdict_name(f->verdict), f->subject, f->problem, f->remedy);
    }
    if (report->n_finding == 0)
        printf("\nnothing to do\n");
}

/* ---- the command ---- */

static json_t *collect(const struct export_source *s, const struct lora_report *report)
{
    const int64_t rank = lora_vllm_rank(lora_highest_rank(s->choices, s->n_module));
    return json_pack("{s:o, s:o, s:b, s:I, s:f, s:b, s:o, s:o}", "adapter",
                     cli_json_string(s->adapter_dir), "base", cli_json_string(s->base_name), "tied",
                     (int)s->config.tie_word_embeddings, "r", (json_int_t)s->lora.r, "lora_alpha",
                     s->lora.alpha, "use_rslora", (int)s->lora.use_rslora, "vllm_max_lora_rank",
                     rank > 0 ? json_integer((json_int_t)rank) : json_null(), "modules",
                     module_rows(s, report));
}

static int print(const struct export_source *s, const struct lora_report *report, bool as_json)
{
    json_t *facts = collect(s, report);
    if (!as_json) {
        const int code = cli_end_facts(facts, false);
        if (code != 0)
            return code;
        put_findings(report);
        return cli_end_output();
    }
    json_t *list = json_array();
    for (int i = 0; i < report->n_finding; i++)
        json_array_append_new(list, finding_facts(&report->findings[i]));
    json_object_set_new(facts, "engines", engine_facts(report));
    json_object_set_new(facts, "findings", list);
    return cli_end_json(facts);
}

/* Exit code for a question about one engine. */
static int verdict_of(const struct export_source *s, const struct lora_report *report,
                      enum lora_engine engine)
{
    struct text line = { 0 };
    struct err err = { 0 };
    if (lora_report_verdict(report, engine) == LORA_HONOURED)
        return 0;
    lora_report_line(report, engine, &line);
    err_set(&err, ERR_DATA, "%s: not all of it takes effect in %s: %s", s->adapter_dir,
            lora_engine_name(engine), line.data != NULL ? line.data : "?");
    text_free(&line);
    return cli_fail(&err);
}

static bool read_engine(const char *text, enum lora_engine *out, struct err *err)
{
    return lora_engine_parse(text, out) ||
           err_set(err, ERR_USAGE,
                   "command line: --engine: '%.60s'; expected transformers4, transformers5, vllm, "
                   "llama.cpp or merged",
                   text);
}

int cmd_lint(int argc, char **argv)
{
    const char *base = NULL, *engine_text = NULL;
    bool json = false;
    const struct cli_option options[] = { { "base", "BASE", &base, NULL },
                                          { "engine", "ENGINE", &engine_text, NULL },
                                          { "json", NULL, NULL, &json } };
    struct cli_words words;
    struct err err = { 0 };
    enum lora_engine engine = LORA_ENGINE_COUNT;
    if (!cli_parse(argc, argv, options, 3, &words, &err) ||
        !cli_expect_no_overrides(&words, &err) ||
        !cli_expect_args(&words, 1, 1, "jambatune lint ADAPTER [--base BASE] [--engine ENGINE]",
                         &err) ||
        (engine_text != NULL && !read_engine(engine_text, &engine, &err)))
        return cli_fail(&err);
    struct export_source s = { 0 };
    struct lora_report report = { 0 };
    const bool ok = export_open(&s, words.args[0], base, &err) && export_judge(&s, &report, &err);
    int code = ok ? print(&s, &report, json) : cli_fail(&err);
    if (code == 0 && engine_text != NULL)
        code = verdict_of(&s, &report, engine);
    lora_report_free(&report);
    export_close(&s);
    return code;
}
