/* jambatune validate: everything that can be found wrong with a run before it begins.
 *
 * What one mistake hides cannot be checked (data without a tokenizer, say); everything else is, and
 * each fault is reported.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/batch.h"
#include "datasets/source.h"
#include "finetune/cli/base.h"
#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/model/weights.h"
#include "kernels/core/file.h"
#include "lora/format_peft.h"

const char cmd_validate_help[] =
    "usage: jambatune validate RECIPE [key=value ...]\n"
    "\n"
    "Checks all that a training run needs, without training: the recipe, the base\n"
    "model's config, tensors (names, types, shapes) and tokenizer, the modules that\n"
    "are adapted, and every record of every data set. Each fault is reported, not\n"
    "only the first. Then it says what the run would be: what is adapted, how many\n"
    "records, documents and tokens there are, what was cut or dropped, and how many\n"
    "steps it takes.\n"
    "\n"
    "key=value changes a key of the recipe, ~key takes one out.\n"
    "\n"
    "The exit code is 0 when the run can start, else that of the first fault: 78 the\n"
    "recipe, 65 a data set or checkpoint, 66 a file that is not there.\n"
    "\n"
    "Examples:\n"
    "  jambatune validate train.yaml\n"
    "  jambatune validate train.yaml datasets.0.path=new.jsonl sequence_len=4096\n";

enum { MAX_BAD_RECORDS = 20 }; /* printed of each data set */

struct check {
    const struct recipe *recipe;
    struct base base;
    bool has_config;
    bool is_data_whole; /* all data sets could be read */
    int code;           /* of the first fault */
    struct text out;
};

static void complain(struct check *c, const struct err *err)
{
    const int code = cli_fail(err);
    if (c->code == 0)
        c->code = code;
}

static void put_count(struct text *out, int64_t n, const char *what)
{
    char digits[32];
    text_count(digits, n);
    text_printf(out, "%s %s", digits, what);
}

/* ---- the base model ---- */

static void put_model(struct check *c)
{
    const struct jamba_config *m = &c->base.config;
    int64_t n_attention = 0, n_moe = 0;
    for (int64_t l = 0; l < m->num_hidden_layers; l++) {
        n_attention += jamba_is_attention(m, l);
        n_moe += jamba_is_moe(m, l);
    }
    text_printf(&c->out,
                "model       %s: %" PRId64 " layers (%" PRId64 " Mamba, %" PRId64
                " attention; %" PRId64 " dense, %" PRId64 " MoE), ",
                c->recipe->base_model, m->num_hidden_layers, m->num_hidden_layers - n_attention,
                n_attention, m->num_hidden_layers - n_moe, n_moe);
    put_count(&c->out, jamba_param_count(m), "parameters\n");
}

/* Opening maps the files and compares every name, type and shape; no matrix is read. Random weights
 * would have to be made: nothing can be wrong with them. */
static void check_weights(struct check *c)
{
    struct err err = { 0 };
    if (c->base.folder == NULL)
        return;
    struct weights *w = weights_open(c->recipe->base_model, c->recipe->seed, &err);
    if (w == NULL)
        complain(c, &err);
    weights_close(w);
}

static void check_model(struct check *c)
{
    struct err err = { 0 };
    const bool ok = base_open(c->recipe->base_model, &c->base, &err);
    c->has_config = c->base.config.num_hidden_layers > 0;
    if (!ok)
        complain(c, &err);
    if (!c->has_config)
        return;
    put_model(c);
    check_weights(c);
    if (c->base.config.attention_dropout > 0) {
        err_set(&err, ERR_DATA,
                "%s: 'attention_dropout' is %g; expected 0: it cannot be trained with",
                c->base.config_path, c->base.config.attention_dropout);
        complain(c, &err);
    }
}

/* ---- the adapter ---- */

static void warn_lines(struct text *warnings)
{
    for (char *line = warnings->data; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        cli_warn("%s", line);
        line = end != NULL ? end + 1 : NULL;
    }
    text_free(warnings);
}

static void put_targets(struct check *c, const struct base_targets *t, const struct lora_summary *s)
{
    const struct lora_config *lora = base_lora_config(c->recipe, t);
    const double all = (double)jamba_param_count(&c->base.config);
    text_printf(&c->out, "adapter     %s%sr %" PRId64 ", alpha %g, ",
                t->is_continued ? c->recipe->lora_model_dir : "",
                t->is_continued ? " goes on: " : "", lora->r, lora->alpha);
    put_count(&c->out, s->total.n_param, "parameters");
    text_printf(&c->out, ", %.3g %% of the model's\n", 100 * (double)s->total.n_param / all);
    base_put_targets(s, &c->out);
}

static void check_targets(struct check *c)
{
    struct err err = { 0 };
    struct base_targets t = { 0 };
    struct lora_summary summary;
    if (!c->has_config)
        return;
    if (!base_choose(&c->base, c->recipe, &t, &err) ||
        !lora_summarize(t.modules, t.n_module, t.choices, &summary, &err)) {
        complain(c, &err);
    } else {
        const struct peft_model_facts facts = { .base_model = c->recipe->base_model,
                                                .tied = c->base.config.tie_word_embeddings };
        struct text warnings = { 0 };
        put_targets(c, &t, &summary);
        peft_warnings(t.modules, t.n_module, t.choices, base_lora_config(c->recipe, &t), &facts,
                      &warnings);
        warn_lines(&warnings);
    }
    base_targets_free(&t);
}

/* ---- data ---- */

static bool starts_with_place(const char *message, const char *place)
{
    const size_t n = strlen(place);
    return strncmp(message, place, n) == 0 && message[n] == ':';
}

/* One record by itself, as document_load reads it. */
static bool check_record(json_t *json, const struct data_source *from,
                         const struct document_options *options, const char *place,
                         struct record *record, struct err *err)
{
    if (!record_read(json, from, &options->record, place, record, err))
        return false;
    const bool is_long = options->sequence_len > 0 && record->n > options->sequence_len;
    if (!is_long || options->excess != EXCESS_RAISE)
        return true;
    return err_set(err, ERR_DATA, "%s: has %" PRId64 " tokens, more than sequence_len %" PRId64,
                   place, record->n, options->sequence_len);
}

/* document_load stops at the first bad record: the rest are found by going on past it. */
static void complain_of_records(struct check *c, const struct data_source *source,
                                const struct document_options *options, const struct err *first)
{
    struct data_source from = *source; /* borrows; only type may change */
    struct err err = { 0 };
    struct record record = { 0 };
    json_t *json = NULL;
    int64_t n_bad = 0;
    complain(c, first);
    struct source *s = source_open(source->path, &err);
    while (s != NULL && source_next(s, &json, &err) == SOURCE_RECORD) {
        const char *place = source_place(s);
        err = (struct err){ 0 };
        const bool ok =
            (from.type != DATA_AUTO || record_guess(json, &from, place, &from.type, &err)) &&
            check_record(json, &from, options, place, &record, &err);
        if (!ok && !starts_with_place(first->text, place) && ++n_bad < MAX_BAD_RECORDS)
            complain(c, &err);
        json_decref(json);
        err = (struct err){ 0 };
    }
    if (err.code != ERR_NONE && strcmp(err.text, first->text) != 0)
        complain(c, &err); /* bytes that are no record: nothing behind them can be read */
    if (n_bad >= MAX_BAD_RECORDS)
        fprintf(stderr, "jambatune: %s: and %" PRId64 " more records that cannot be used\n",
                source->path, n_bad - MAX_BAD_RECORDS + 1);
    record_free(&record);
    source_close(s);
}

static void put_loss(struct text *out, int64_t n, const char *what)
{
    char digits[32];
    text_count(digits, n);
    if (n > 0)
        text_printf(out, "            %s %s\n", digits, what);
}

static void put_data(struct text *out, const char *name, const struct data_source *source,
                     const struct document_report *r)
{
    text_printf(out, "%-11s %s (%s%s): ", name, source->path, record_type_name(r->type),
                r->guessed ? ", guessed from the first record" : "");
    put_count(out, r->n_record, "records, ");
    put_count(out, r->n_doc, "documents, ");
    put_count(out, r->n_tok, "tokens, ");
    put_count(out, r->n_target, "with loss, ");
    put_count(out, r->longest, "in the longest\n");
    put_loss(out, r->n_blank_line, "blank lines passed over");
    put_loss(out, r->n_empty, "records dropped: empty");
    put_loss(out, r->n_too_long, "records dropped: longer than sequence_len");
    put_loss(out, r->n_untargeted, "documents dropped: nothing in them carries loss");
    put_loss(out, r->n_truncated, "records truncated to sequence_len");
    put_loss(out, r->n_cut_tok, "tokens lost by that");
    put_loss(out, r->n_split, "records split at sequence_len");
    put_loss(out, r->n_piece, "pieces made of them");
    put_loss(out, r->n_cut_target, "targets lost at the cuts");
}

static void load_sources(struct check *c, const char *name, const struct data_source *sources,
                         int64_t n, struct document_set *set)
{
    const struct document_options options = {
        .record = base_record_options(&c->base, c->recipe->data.train_on_inputs),
        .sequence_len = c->recipe->data.sequence_len,
        .excess = c->recipe->data.excess,
    };
    for (int64_t i = 0; i < n; i++) {
        struct document_report report = { 0 };
        struct err err = { 0 };
        if (document_load(set, &sources[i], &options, &report, &err)) {
            put_data(&c->out, name, &sources[i], &report);
        } else {
            complain_of_records(c, &sources[i], &options, &err);
            c->is_data_whole = false;
        }
    }
}

/* Documents, tokens and targets of one side of the split. */
static void put_part(struct text *out, const char *name, const struct document_set *set,
                     const int64_t *docs, int64_t n)
{
    int64_t n_tok = 0, n_target = 0;
    for (int64_t i = 0; i < n; i++) {
        n_tok += set->start[docs[i] + 1] - set->start[docs[i]];
        n_target += set->n_target[docs[i]];
    }
    text_printf(out, "%-11s ", name);
    put_count(out, n, "documents, ");
    put_count(out, n_tok, "tokens, ");
    put_count(out, n_target, "with loss\n");
}

static void check_steps(struct check *c, const struct document_set *set)
{
    const struct recipe *r = c->recipe;
    struct batch_split split = { 0 };
    struct batcher batcher = { 0 };
    struct err err = { 0 };
    int64_t n_step = 0;
    const bool ok = batch_split_validation(set, &r->data, &split, &err) &&
                    batcher_init(&batcher, set, split.train, split.n_train, &r->data, &err) &&
                    batcher_total_steps(&batcher, r->num_epochs, r->max_steps, &n_step, &err);
    if (!ok) {
        complain(c, &err);
    } else {
        const struct batch_bounds bounds = batcher_bounds(&batcher);
        put_part(&c->out, "training", set, split.train, split.n_train);
        if (split.n_validation > 0)
            put_part(&c->out, "validation", set, split.validation, split.n_validation);
        text_puts(&c->out, "steps       ");
        put_count(&c->out, n_step, "of at most ");
        put_count(&c->out, bounds.n_doc, "documents and ");
        put_count(&c->out, bounds.n_tok, "tokens\n");
    }
    batcher_free(&batcher);
    batch_split_free(&split);
}

static void check_data(struct check *c)
{
    const struct data_config *data = &c->recipe->data;
    struct document_set train = { 0 }, validation = { 0 };
    c->is_data_whole = true;
    if (!c->has_config) /* ids have no bound then, and texts mostly no tokenizer */
        return;
    load_sources(c, "data", data->train, data->n_train, &train);
    const bool is_train_whole = c->is_data_whole;
    load_sources(c, "validation", data->validation, data->n_validation, &validation);
    if (is_train_whole)
        check_steps(c, &train);
    document_set_free(&train);
    document_set_free(&validation);
}

/* ---- the rest ---- */

static void check_output(struct check *c)
{
    struct err err = { 0 };
    const char *dir = c->recipe->output_dir;
    if (!file_exists(dir) || file_is_directory(dir))
        return;
    err_set(&err, ERR_CANT_CREATE, "%s: output_dir is a file; expected a folder, or nothing there",
            dir);
    complain(c, &err);
}

static int finish(struct check *c)
{
    if (c->code == 0 && c->out.failed) {
        struct err err = { 0 };
        err_no_memory(&err, "the report");
        return cli_fail(&err);
    }
    if (c->out.data != NULL)
        fputs(c->out.data, stdout);
    const int code = cli_end_output();
    return c->code != 0 ? c->code : code;
}

int cmd_validate(int argc, char **argv)
{
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, NULL, 0, &words, &err) ||
        !cli_expect_args(&words, 1, 1, "validate RECIPE [key=value ...]", &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    const int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_TRAIN, &recipe);
    if (code != 0)
        return code;
    struct check c = { .recipe = &recipe };
    text_printf(&c.out, "recipe      %s\n", words.args[0]);
    check_model(&c);
    check_targets(&c);
    check_data(&c);
    check_output(&c);
    const int result = finish(&c);
    text_free(&c.out);
    base_close(&c.base);
    recipe_free(&recipe);
    return result;
}
