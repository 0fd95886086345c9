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
#include "finetune/cli/validate_report.h"
#include "finetune/model/weights.h"
#include "finetune/train/loop.h"
#include "finetune/train/options.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"

const char cmd_validate_help[] =
    "usage: jambatune validate RECIPE [key=value ...] [--json]\n"
    "\n"
    "Checks all that a training run needs, without training: the recipe, the base\n"
    "model's config, tensors (names, types, shapes) and tokenizer, the modules that\n"
    "are adapted, and every record of every data set. Each fault is reported, not\n"
    "only the first; but what is not JSON ends the reading of its file. Then it says what the run "
    "would be: what is adapted, how many\n"
    "records, documents and tokens there are, what was cut or dropped, and how many\n"
    "steps it takes.\n"
    "\n"
    "key=value changes a key of the recipe, ~key takes one out.\n"
    "\n"
    "  --json   print what the run would be, and its faults, as one JSON object\n"
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
    struct record_options record_options;
    bool can_read; /* config, tokenizer and chat template are there */
    int code;      /* of the first fault */
    struct validate_report report;
};

static void complain(struct check *c, const struct err *err)
{
    const int code = validate_put_fault(&c->report, err);
    if (c->code == 0)
        c->code = code;
}

/* ---- the base model ---- */

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
    const char *model = c->recipe->base_model;
    c->can_read = base_open(model, &c->base, &err) &&
                  base_data_options(&c->base, model, &c->recipe->data, &c->record_options, &err);
    if (!c->can_read) {
        recipe_add_place(c->recipe, &err);
        complain(c, &err);
    }
    if (!c->base.has_config)
        return;
    validate_put_model(&c->report, c->recipe->base_model, &c->base.config);
    check_weights(c);
}

/* ---- the run ---- */

/* Targets, what is not supported, and whether memory is enough, by the trainer's own plan. A
 * `longest` of 0: the data could not be read, and their bound may not fit where they would. */
static void check_plan(struct check *c, const struct recipe *recipe, int64_t longest)
{
    struct trainer t = { 0 };
    struct err err = { 0 }, table = { 0 };
    struct text warnings = { 0 };
    const bool ok = trainer_open_shapes(&t, recipe, &err);
    if (ok || t.bytes.total > 0) {
        if (!validate_put_targets(&c->report, &t, &table))
            complain(c, &table);
        trainer_warnings(&t, &warnings);
        validate_put_warnings(&c->report, &warnings);
        if (warnings.failed) {
            err_no_memory(&table, "the warnings");
            complain(c, &table);
        }
        text_free(&warnings);
    }
    if (ok)
        validate_put_plan(&c->report, &t);
    else if (longest > 0 || err.code != ERR_NO_MEMORY)
        complain(c, &err);
    trainer_close(&t);
}

static void check_run(struct check *c, int64_t longest)
{
    struct recipe recipe = *c->recipe; /* borrows */
    if (!c->base.has_config)
        return;
    if (longest > 0)
        recipe.data.sequence_len = longest;
    /* A device or precision that is not there must not hide what is wrong with the targets. */
    const struct engine_options options = engine_options_of(&recipe);
    struct err err = { 0 };
    if (!compute_check(&options.compute, &err)) {
        recipe_add_place(&recipe, &err);
        complain(c, &err);
    }
    check_plan(c, &recipe, longest);
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
        const bool has_type =
            from.type != DATA_AUTO || record_guess(json, &from, place, &from.type, &err);
        const bool ok = has_type && check_record(json, &from, options, place, &record, &err);
        json_decref(json);
        if (!ok && !starts_with_place(first->text, place) && ++n_bad < MAX_BAD_RECORDS)
            complain(c, &err);
        err = (struct err){ 0 };
        if (options->record.tokenizer == NULL && from.type != DATA_INPUT_IDS)
            break; /* no text can be read: said of the first */
    }
    if (err.code != ERR_NONE && strcmp(err.text, first->text) != 0)
        complain(c, &err); /* bytes that are no record: nothing behind them can be read */
    if (n_bad >= MAX_BAD_RECORDS)
        fprintf(stderr, "jambatune: %s: and %" PRId64 " more records that cannot be used\n",
                source->path, n_bad - MAX_BAD_RECORDS + 1);
    record_free(&record);
    source_close(s);
}

/* Whether all of them could be read. */
static bool load_sources(struct check *c, const char *name, const struct data_source *sources,
                         int64_t n, struct document_set *set)
{
    const struct document_options options = {
        .record = c->record_options,
        .sequence_len = c->recipe->data.sequence_len,
        .excess = c->recipe->data.excess,
    };
    bool all = true;
    for (int64_t i = 0; i < n; i++) {
        struct document_report report = { 0 };
        struct err err = { 0 };
        if (document_load(set, &sources[i], &options, &report, &err)) {
            validate_put_source(&c->report, name, &sources[i], &report);
        } else {
            complain_of_records(c, &sources[i], &options, &err);
            all = false;
        }
    }
    return all;
}

static void check_steps(struct check *c, const struct document_set *set)
{
    const struct recipe *r = c->recipe;
    struct batch_split split = { 0 };
    struct batcher batcher = { 0 };
    struct err err = { 0 };
    int64_t n_step = 0;
    if (!batch_split_validation(set, &r->data, &split, &err) ||
        !batcher_init(&batcher, set, split.train, split.n_train, &r->data, &err) ||
        !batcher_total_steps(&batcher, r->num_epochs, r->max_steps, &n_step, &err)) {
        complain(c, &err);
    } else {
        const struct batch_bounds bounds = batcher_bounds(&batcher);
        validate_put_part(&c->report, "training", set, split.train, split.n_train);
        if (split.n_validation > 0)
            validate_put_part(&c->report, "validation", set, split.validation, split.n_validation);
        validate_put_steps(&c->report, n_step, schedule_of(r, n_step).warmup, &bounds);
    }
    batcher_free(&batcher);
    batch_split_free(&split);
}

static int64_t longest_of(const struct document_set *set)
{
    int64_t longest = 0;
    for (int64_t d = 0; d < set->n_doc; d++) {
        const int64_t n = set->start[d + 1] - set->start[d];
        longest = n > longest ? n : longest;
    }
    return longest;
}

/* Tokens of the longest document; 0 when the data could not all be read. */
static int64_t check_data(struct check *c)
{
    const struct data_config *data = &c->recipe->data;
    struct document_set train = { 0 }, validation = { 0 };
    int64_t longest = 0;
    if (!c->can_read)
        return 0;
    const bool has_train = load_sources(c, "data", data->train, data->n_train, &train);
    const bool has_validation =
        load_sources(c, "validation", data->validation, data->n_validation, &validation);
    if (has_train)
        check_steps(c, &train);
    if (has_train && has_validation) {
        const int64_t a = longest_of(&train), b = longest_of(&validation);
        longest = a > b ? a : b;
    }
    document_set_free(&train);
    document_set_free(&validation);
    return longest;
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

int cmd_validate(int argc, char **argv)
{
    struct cli_words words;
    struct err err = { 0 };
    bool json = false;
    const struct cli_option options[] = { { "json", NULL, NULL, &json } };
    if (!cli_parse(argc, argv, options, 1, &words, &err) ||
        !cli_expect_args(&words, 1, 1, "jambatune validate RECIPE [key=value ...]", &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    struct recipe_report read = { 0 };
    struct check c = { .recipe = &recipe, .report = { .json = json ? json_object() : NULL } };
    if (json && c.report.json == NULL)
        return cli_end_json(NULL);
    if (!recipe_load(words.args[0], words.overrides, words.n_override, RECIPE_NEED_TRAIN, &recipe,
                     &read))
        c.code = read.code != ERR_NONE ? (int)read.code : ERR_INTERNAL;
    validate_put_recipe(&c.report, &read);
    recipe_report_free(&read);
    if (c.code == 0) {
        check_model(&c);
        const int64_t longest = check_data(&c);
        check_run(&c, longest);
        check_output(&c);
    }
    const int code = validate_report_end(&c.report, words.args[0], c.code);
    base_close(&c.base);
    recipe_free(&recipe);
    return code;
}
