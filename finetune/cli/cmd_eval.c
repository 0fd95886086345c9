/* jambatune eval: loss and perplexity of documents, with or without an adapter. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/train/data.h"
#include "finetune/train/options.h"
#include "finetune/train/evaluate.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"

const char cmd_eval_help[] =
    "usage: jambatune eval [RECIPE] [key=value ...] [--adapter DIR] [--data FILE] [--logprobs "
    "FILE] [--json]\n"
    "\n"
    "Loss (mean cross entropy, natural logarithm) and perplexity of the targets of a recipe's "
    "validation data, or of\n"
    "FILE. Without --adapter the base model alone; base_model=DIR is enough without a recipe.\n"
    "\n"
    "  --adapter DIR     a PEFT adapter to evaluate\n"
    "  --data FILE       documents to evaluate instead: JSONL or a JSON list, also .gz, or a "
    "folder of them; read as\n"
    "                    the recipe's first data set is (type, fields), else guessed\n"
    "  --logprobs FILE   write one JSON object per document, in input order, also for one without "
    "targets:\n"
    "                    {\"tokens\": [trained target ids], \"logprobs\": [theirs]}; where records "
    "are longer than\n"
    "                    sequence_len, documents are what excess_length_strategy makes of them\n"
    "  --json            print {\"eval_loss\", \"perplexity\", \"eval_tokens\", \"documents\"}\n"
    "\n"
    "  jambatune eval recipes/quickstart/quickstart.yaml --adapter out/best\n"
    "  jambatune eval base_model=./jamba --data quotes.jsonl --logprobs lp.jsonl\n";

struct eval_options {
    const char *adapter, *data, *logprobs;
    bool json;
};

/* The log-probabilities file: written beside, renamed when whole. */
struct logprobs {
    struct file_writer writer;
    struct text line;
    bool wanted, ok;
    struct err *err;
};

static void write_document(void *context, const struct document_set *set, int64_t doc,
                           const real *logprob, int64_t n_target)
{
    struct logprobs *l = context;
    if (!l->ok)
        return;
    text_clear(&l->line);
    text_puts(&l->line, "{\"tokens\": [");
    int64_t n = 0;
    for (int64_t t = set->start[doc]; t < set->start[doc + 1]; t++) {
        if (set->targets[t] >= 0)
            text_printf(&l->line, "%s%" PRId32, n++ > 0 ? ", " : "", set->targets[t]);
    }
    text_puts(&l->line, "], \"logprobs\": [");
    for (int64_t i = 0; i < n_target; i++) {
        const double p = (double)logprob[i];
        text_printf(&l->line, isfinite(p) ? "%s%.9g" : "%snull", i > 0 ? ", " : "", p);
    }
    text_puts(&l->line, "]}\n");
    l->ok = l->line.failed ? err_no_memory(l->err, "the log-probabilities")
                           : file_writer_append(&l->writer, l->line.data, l->line.len, l->err);
}

/* Reads what is to be evaluated; *docs NULL means all of *set. */
struct eval_data {
    struct train_data data;
    struct document_set own;
    const struct document_set *set;
    const int64_t *docs;
    int64_t n_doc;
};

static bool load_file(struct eval_data *d, const struct recipe *recipe,
                      const struct jamba_config *config, const char *path, struct err *err)
{
    /* As the recipe's first data set is read; or with the default fields and a guessed type. */
    char text[] = "text", prompt[] = "prompt", completion[] = "completion", ids[] = "input_ids",
         labels[] = "labels";
    struct data_source source = { .type = DATA_AUTO,
                                  .field_text = text,
                                  .field_prompt = prompt,
                                  .field_completion = completion,
                                  .field_input_ids = ids,
                                  .field_labels = labels };
    if (recipe->data.n_train > 0)
        source = recipe->data.train[0];
    source.path = text_copy(path);
    if (source.path == NULL)
        return err_no_memory(err, path);
    struct document_report report = { 0 };
    d->data.chat_template = train_open_template(recipe->base_model, &recipe->data, err);
    const bool ok = d->data.chat_template != NULL &&
                    train_open_tokenizer(recipe->base_model, &d->data.tokenizer, err) &&
                    train_data_read(&d->data, &source, recipe, config, true, &d->own, &report, err);
    free(source.path);
    d->set = &d->own;
    d->n_doc = d->own.n_doc;
    return ok;
}

static bool load_data(struct eval_data *d, const struct recipe *recipe,
                      const struct jamba_config *config, const struct eval_options *o,
                      struct err *err)
{
    if (o->data != NULL)
        return load_file(d, recipe, config, o->data, err);
    if (recipe->data.n_train == 0)
        return err_set(err, ERR_USAGE,
                       "nothing to evaluate: give --data FILE, or a recipe with datasets");
    if (!train_data_load(&d->data, recipe, config, err))
        return false;
    d->set = d->data.validation;
    d->docs = d->data.validation_docs;
    d->n_doc = d->data.n_validation;
    return d->n_doc > 0 ||
           err_set(err, ERR_RECIPE,
                   "the recipe has no validation data: give --data FILE, or set val_set_size "
                   "or test_datasets");
}

static bool allocate(struct engine *e, const struct eval_data *d, const struct recipe *recipe,
                     const char *adapter, struct err *err)
{
    int64_t longest = 1, total = 0;
    for (int64_t i = 0; i < d->n_doc; i++) {
        const int64_t doc = d->docs == NULL ? i : d->docs[i],
                      n = d->set->start[doc + 1] - d->set->start[doc];
        longest = n > longest ? n : longest;
        total += n;
    }
    const struct plan_subject subject = engine_subject(e, false);
    const struct plan_wish wish = {
        .step_tokens = total > longest ? total : longest,
        .longest = longest,
        .chunk_tokens = recipe->chunk_tokens,
        .recompute = RECOMPUTE_LAYER,
        .budget = plan_budget(&e->be, recipe->memory_budget),
    };
    struct engine_memory memory = { .adapter_dir = adapter };
    return plan_choose(&subject, &wish, &memory.shape, &memory.bytes, err) &&
           engine_allocate(e, &memory, err);
}

static int print_evaluation(const struct evaluation *v, bool json)
{
    const double loss = v->n_target > 0 ? v->loss_sum / (double)v->n_target : (double)NAN;
    if (json) {
        json_t *value = json_pack(
            "{s:o, s:o, s:I, s:I}", "eval_loss", isfinite(loss) ? json_real(loss) : json_null(),
            "perplexity", isfinite(exp(loss)) ? json_real(exp(loss)) : json_null(), "eval_tokens",
            (json_int_t)v->n_target, "documents", (json_int_t)v->n_doc);
        return cli_end_json(value);
    }
    char tokens[32];
    text_count(tokens, v->n_target);
    if (v->n_target == 0)
        printf("no token carries loss in %" PRId64 " documents\n", v->n_doc);
    else
        printf("loss %.6f  perplexity %.4f  over %s tokens of %" PRId64 " documents\n", loss,
               exp(loss), tokens, v->n_doc);
    return cli_end_output();
}

static bool run(struct engine *e, const struct eval_data *d, const char *logprobs,
                struct evaluation *out, struct err *err)
{
    struct logprobs l = { .wanted = logprobs != NULL, .ok = true, .err = err };
    if (l.wanted && !file_writer_open(&l.writer, logprobs, err))
        return false;
    *out = evaluate(e, &(struct evaluate_args){ .set = d->set,
                                                .docs = d->docs,
                                                .n_doc = d->n_doc,
                                                .each = l.wanted ? write_document : NULL,
                                                .context = &l });
    const bool ok = l.ok && (!l.wanted || file_writer_commit(&l.writer, err));
    file_writer_abandon(&l.writer);
    text_free(&l.line);
    return ok;
}

static int eval(const struct recipe *recipe, const struct eval_options *o)
{
    struct err err = { 0 };
    struct engine e = { 0 };
    struct eval_data d = { 0 };
    struct evaluation v = { 0 };
    const struct engine_options options = engine_options_of(recipe);
    const bool ok = engine_open(&e, &options, &err) &&
                    (o->adapter == NULL || engine_choose_from(&e, o->adapter, &err)) &&
                    load_data(&d, recipe, weights_config(e.weights), o, &err) &&
                    allocate(&e, &d, recipe, o->adapter, &err) &&
                    run(&e, &d, o->logprobs, &v, &err);
    const int code = ok ? print_evaluation(&v, o->json) : cli_fail(&err);
    document_set_free(&d.own);
    train_data_free(&d.data);
    engine_close(&e);
    return code;
}

int cmd_eval(int argc, char **argv)
{
    struct eval_options o = { 0 };
    const struct cli_option options[] = { { "adapter", "DIR", &o.adapter, NULL },
                                          { "data", "FILE", &o.data, NULL },
                                          { "logprobs", "FILE", &o.logprobs, NULL },
                                          { "json", NULL, NULL, &o.json } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 4, &words, &err) ||
        !cli_expect_args(&words, 0, 1, "jambatune eval [RECIPE] [key=value ...]", &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_MODEL, &recipe);
    if (code == 0)
        code = eval(&recipe, &o);
    recipe_free(&recipe);
    return code;
}
