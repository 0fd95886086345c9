#include "finetune/cli/validate_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/print.h"
#include "kernels/core/text.h"

static void put_count(int64_t n, const char *what)
{
    char digits[32];
    text_count(digits, n);
    printf("%s %s", digits, what);
}

/* ---- JSON ---- */

struct fact {
    const char *name;
    int64_t n;
};

/* NULL when memory is out, which a JSON object that lacks a member would hide. */
static json_t *facts_json(const struct fact *facts, size_t n)
{
    json_t *object = json_object();
    for (size_t i = 0; object != NULL && i < n; i++) {
        if (json_object_set_new(object, facts[i].name, json_integer(facts[i].n)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static void set_json(struct validate_report *r, const char *name, json_t *value)
{
    r->failed = json_object_set_new(r->json, name, value) != 0 || r->failed;
}

static void append_json(struct validate_report *r, const char *list, json_t *value)
{
    json_t *have = json_object_get(r->json, list);
    if (have == NULL && json_object_set_new(r->json, list, json_array()) == 0)
        have = json_object_get(r->json, list);
    r->failed = json_array_append_new(have, value) != 0 || r->failed;
}

/* Each line of the text, cleaned, into a list. */
static void append_lines(struct validate_report *r, const char *list, const char *text)
{
    for (const char *line = text; line != NULL && *line != '\0';) {
        const size_t n = strcspn(line, "\n");
        char *copy = text_copy_n(line, n);
        append_json(r, list, copy != NULL ? cli_json_string(copy) : NULL);
        free(copy);
        line += n + (line[n] == '\n');
    }
}

/* ---- faults ---- */

int validate_put_fault(struct validate_report *r, const struct err *err)
{
    if (r->json != NULL)
        append_lines(r, "faults", err->text);
    return cli_fail(err);
}

void validate_put_recipe(struct validate_report *r, const struct recipe_report *recipe)
{
    cli_put_report(recipe, true);
    for (int64_t i = 0; r->json != NULL && i < recipe->errors.n; i++)
        append_lines(r, "faults", recipe->errors.item[i]);
    for (int64_t i = 0; r->json != NULL && i < recipe->notes.n; i++)
        append_lines(r, "notes", recipe->notes.item[i]);
}

void validate_put_warnings(struct validate_report *r, const struct text *lines)
{
    for (const char *line = lines->data; line != NULL && *line != '\0';) {
        const size_t n = strcspn(line, "\n");
        cli_warn("%.*s", (int)n, line);
        line += n + (line[n] == '\n');
    }
    if (r->json != NULL)
        append_lines(r, "warnings", lines->data);
}

/* ---- facts ---- */

#define FACTS(...)                                                                                 \
    facts_json((const struct fact[]){ __VA_ARGS__ },                                               \
               sizeof((const struct fact[]){ __VA_ARGS__ }) / sizeof(struct fact))

void validate_put_model(struct validate_report *r, const char *name, const struct jamba_config *m)
{
    const int64_t n = m->num_hidden_layers, n_param = jamba_param_count(m);
    int64_t n_attention = 0, n_moe = 0;
    for (int64_t l = 0; l < n; l++) {
        n_attention += jamba_is_attention(m, l);
        n_moe += jamba_is_moe(m, l);
    }
    if (r->json != NULL) {
        json_t *model =
            FACTS({ "layers", n }, { "mamba", n - n_attention }, { "attention", n_attention },
                  { "dense", n - n_moe }, { "moe", n_moe }, { "parameters", n_param });
        r->failed = json_object_set_new(model, "name", cli_json_string(name)) != 0 || r->failed;
        set_json(r, "model", model);
        return;
    }
    printf("model       %s: ", name);
    put_count(n, "layers (");
    put_count(n - n_attention, "Mamba, ");
    put_count(n_attention, "attention; ");
    put_count(n - n_moe, "dense, ");
    put_count(n_moe, "MoE), ");
    put_count(n_param, "parameters\n");
}

static void source_json(struct validate_report *r, const char *set,
                        const struct data_source *source, const struct document_report *d)
{
    json_t *facts = FACTS({ "records", d->n_record }, { "documents", d->n_doc },
                          { "tokens", d->n_tok }, { "trained_tokens", d->n_target },
                          { "longest", d->longest }, { "blank_lines", d->n_blank_line },
                          { "empty", d->n_empty }, { "too_long", d->n_too_long },
                          { "untargeted", d->n_untargeted }, { "truncated", d->n_truncated },
                          { "cut_tokens", d->n_cut_tok }, { "split", d->n_split },
                          { "pieces", d->n_piece }, { "cut_targets", d->n_cut_target });
    r->failed = json_object_set_new(facts, "set", json_string(set)) != 0 ||
                json_object_set_new(facts, "path", cli_json_string(source->path)) != 0 ||
                json_object_set_new(facts, "type", json_string(record_type_name(d->type))) != 0 ||
                r->failed;
    append_json(r, "sources", facts);
}

void validate_put_source(struct validate_report *r, const char *set,
                         const struct data_source *source, const struct document_report *report)
{
    if (r->json != NULL) {
        source_json(r, set, source, report);
        return;
    }
    const struct {
        int64_t n;
        const char *what;
    } odd[] = {
        { report->n_blank_line, "blank lines skipped\n" },
        { report->n_empty, "records dropped: empty\n" },
        { report->n_too_long, "records dropped: longer than sequence_len\n" },
        { report->n_untargeted, "documents dropped: nothing in them carries loss\n" },
        { report->n_truncated, "records cut to sequence_len\n" },
        { report->n_cut_tok, "tokens lost by that\n" },
        { report->n_split, "records split at sequence_len\n" },
        { report->n_piece, "pieces made of them\n" },
        { report->n_cut_target, "targets lost at the cuts\n" },
    };
    printf("%-11s %s (%s%s): ", set, source->path, record_type_name(report->type),
           report->guessed ? ", by the fields of the first record" : "");
    put_count(report->n_record, "records, ");
    put_count(report->n_doc, "documents, ");
    put_count(report->n_tok, "tokens, ");
    put_count(report->n_target, "with loss; the longest has ");
    put_count(report->longest, "tokens\n");
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        if (odd[i].n > 0) {
            printf("            ");
            put_count(odd[i].n, odd[i].what);
        }
    }
}

void validate_put_part(struct validate_report *r, const char *part, const struct document_set *set,
                       const int64_t *docs, int64_t n)
{
    int64_t n_tok = 0, n_target = 0;
    for (int64_t i = 0; i < n; i++) {
        n_tok += set->start[docs[i] + 1] - set->start[docs[i]];
        n_target += set->n_target[docs[i]];
    }
    if (r->json != NULL) {
        set_json(r, part,
                 FACTS({ "documents", n }, { "tokens", n_tok }, { "trained_tokens", n_target }));
        return;
    }
    printf("%-11s ", part);
    put_count(n, "documents, ");
    put_count(n_tok, "tokens, ");
    put_count(n_target, "with loss\n");
}

void validate_put_steps(struct validate_report *r, int64_t n_step, int64_t warmup,
                        const struct batch_bounds *bounds)
{
    if (r->json != NULL) {
        set_json(r, "steps",
                 FACTS({ "steps", n_step }, { "warmup", warmup }, { "documents", bounds->n_doc },
                       { "tokens", bounds->n_tok }));
        return;
    }
    printf("steps       ");
    put_count(n_step, "(");
    put_count(warmup, "of them warm-up), of at most ");
    put_count(bounds->n_doc, "documents and ");
    put_count(bounds->n_tok, "tokens\n");
}

bool validate_put_targets(struct validate_report *r, const struct trainer *t, struct err *err)
{
    const struct engine *e = &t->engine;
    struct lora_summary s;
    if (r->json == NULL)
        return print_targets(stdout, e->modules, e->n_module, e->choices, err);
    if (!lora_summarize(e->modules, e->n_module, e->choices, &s, err))
        return false;
    set_json(r, "adapted",
             FACTS({ "modules", s.total.n_adapted }, { "parameters", s.total.n_param }));
    return true;
}

void validate_put_plan(struct validate_report *r, const struct trainer *t)
{
    if (r->json != NULL)
        set_json(r, "plan", json_plan(&t->shape, &t->bytes, 0));
    else
        print_plan(stdout, &t->shape, &t->bytes, 0);
}

int validate_report_end(struct validate_report *r, const char *recipe_path, int code)
{
    int written = 0;
    if (r->json != NULL) {
        if (json_object_get(r->json, "faults") == NULL)
            set_json(r, "faults", json_array());
        if (json_object_get(r->json, "warnings") == NULL)
            set_json(r, "warnings", json_array());
        set_json(r, "recipe", cli_json_string(recipe_path));
        set_json(r, "ok", json_boolean(code == 0));
        json_t *all = r->json;
        r->json = NULL;
        if (r->failed) {
            json_decref(all);
            all = NULL;
        }
        written = cli_end_json(all);
    } else {
        if (code == 0)
            printf("%s: nothing found wrong\n", recipe_path);
        written = cli_end_output();
    }
    return code != 0 ? code : written;
}
