/* jambatune preview: what a run trains on, token by token.
 *
 * It is read, cut and ordered by the trainer's own code (finetune/train/data.h): what is shown is
 * the documents of the first steps as the model will get them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "finetune/cli/base.h"
#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/output.h"
#include "finetune/cli/preview_html.h"
#include "finetune/cli/preview_tokens.h"
#include "finetune/cli/preview_totals.h"
#include "finetune/train/data.h"
#include "kernels/core/file.h"

const char cmd_preview_help[] =
    "usage: jambatune preview RECIPE [-n N] [--html FILE] [--color] [--json] [key=value ...]\n"
    "\n"
    "Shows what the model will be trained on: the first documents in training order,\n"
    "token by token, with those that carry loss in colour; then how many documents\n"
    "and tokens there are, what was cut or dropped, and how long the documents are.\n"
    "\n"
    "On a terminal tokens that carry loss are green, two shades in turn so that each\n"
    "is seen, and special tokens underlined. Elsewhere, or where NO_COLOR is set, a\n"
    "token that carries loss is in [brackets], and one that does not ends in |.\n"
    "A line feed is shown as ⏎, a tab as ⇥, a byte that is no text as <0x1B>, an id\n"
    "without a piece as #123.\n"
    "\n"
    "Options:\n"
    "  -n N          this many documents (3)\n"
    "  --html FILE   write them to one page that needs nothing else\n"
    "  --color       colour also where the output is no terminal\n"
    "  --json        only the counts, as JSON\n"
    "\n"
    "Examples:\n"
    "  jambatune preview train.yaml\n"
    "  jambatune preview train.yaml -n 50 --html preview.html\n"
    "  jambatune preview train.yaml sequence_len=512 --json\n";

struct preview_options {
    int64_t n;
    const char *html;
    bool color, json;
};

struct preview {
    const struct recipe *recipe;
    const struct preview_options *options;
    struct base base;
    struct train_data data;
    struct preview_totals totals;
    struct preview_token token;
    struct text page; /* of --html */
};

/* ---- one document ---- */

#define PLAIN "\033[0m"

/* Colour instead of marks: the shade changes from token to token, so that each is seen. */
static void put_colored(const struct preview_token *token, bool trained, bool odd)
{
    static const char *const shades[2][2] = { { "", "\033[2m" }, { "\033[32m", "\033[1;32m" } };
    printf("%s%s%s%s%s", shades[trained][odd], token->special ? "\033[4m" : "", token->text.data,
           PLAIN, token->ends_line ? "\n" : "");
}

static void put_marked(const struct preview_token *token, bool trained)
{
    printf(trained ? "[%s]%s" : "%s|%s", token->text.data, token->ends_line ? "\n" : "");
}

/* Token t of the set carries loss when it is the target of the one before it; a document's first
 * never is. */
static bool is_trained(const struct document_set *set, int64_t doc, int64_t t)
{
    return t > set->start[doc] && set->targets[t - 1] != NO_TARGET;
}

static void put_heading(struct preview *p, int64_t number, int64_t doc)
{
    const struct document_set *set = &p->data.set;
    char place[512];
    document_place(set, doc, place, sizeof place);
    char *heading =
        text_format("document %" PRId64 ": %s, %" PRId64 " tokens, %" PRId64 " carry loss", number,
                    place, set->start[doc + 1] - set->start[doc], set->n_target[doc]);
    if (heading == NULL) {
        p->page.failed = true;
        return;
    }
    report_clean(heading);
    if (p->options->html != NULL)
        preview_html_document(&p->page, heading);
    else
        printf("%s%s\n", number > 1 ? "\n" : "", heading);
    free(heading);
}

static bool put_document(struct preview *p, int64_t number, int64_t doc, struct err *err)
{
    const struct document_set *set = &p->data.set;
    bool at_line_start = true;
    put_heading(p, number, doc);
    for (int64_t t = set->start[doc]; t < set->start[doc + 1]; t++) {
        const bool trained = is_trained(set, doc, t);
        if (!preview_token(p->data.tokenizer, set->ids[t], &p->token, err))
            return false;
        if (p->options->html != NULL)
            preview_html_token(&p->page, &p->token, set->ids[t], trained);
        else if (p->options->color)
            put_colored(&p->token, trained, (t - set->start[doc]) % 2 != 0);
        else
            put_marked(&p->token, trained);
        at_line_start = p->token.ends_line;
    }
    if (p->options->html != NULL)
        preview_html_document_end(&p->page);
    else if (!at_line_start)
        putchar('\n');
    return !p->page.failed || err_no_memory(err, "the page");
}

/* The documents of the first steps, in their order; an epoch's, at most. */
static bool put_documents(struct preview *p, struct err *err)
{
    const int64_t wanted = p->options->n < p->totals.n_doc ? p->options->n : p->totals.n_doc;
    int64_t n = 0;
    for (int64_t s = 0; n < wanted && !ferror(stdout); s++) {
        const struct batch_step step = batcher_step(&p->data.batcher, s);
        for (int64_t i = 0; i < step.n_doc && n < wanted && !ferror(stdout); i++) {
            if (!put_document(p, ++n, step.docs[i], err))
                return false;
        }
    }
    return true;
}

/* ---- the counts ---- */

static void put_count(int64_t n, const char *what)
{
    char digits[32];
    text_count(digits, n);
    printf("%s %s", digits, what);
}

static void put_lengths(const struct preview_totals *t)
{
    int first = 0, last = -1;
    int64_t most = 1;
    if (!preview_bounds(t, &first, &last))
        return;
    for (int k = first; k <= last; k++)
        most = t->length[k] > most ? t->length[k] : most;
    printf("lengths     in tokens, longest %" PRId64 "\n", t->longest);
    for (int k = first; k <= last; k++) {
        const int64_t from = (int64_t)1 << k;
        const int bar = (int)((40 * t->length[k] + most - 1) / most);
        printf("  %8" PRId64 " to %-8" PRId64 " %8" PRId64 "%s", from, 2 * from - 1, t->length[k],
               bar > 0 ? " " : "");
        for (int i = 0; i < bar; i++)
            putchar('#');
        putchar('\n');
    }
}

static bool put_totals(const struct preview_totals *t, struct err *err)
{
    struct text losses = { 0 };
    printf("training    ");
    put_count(t->n_doc, "documents, ");
    put_count(t->n_tok, "tokens, ");
    put_count(t->n_trained, "of them carry loss\n");
    if (t->n_validation > 0) {
        printf("validation  ");
        put_count(t->n_validation, "documents\n");
    }
    preview_losses(t, &losses);
    if (losses.data != NULL)
        fputs(losses.data, stdout);
    const bool ok = !losses.failed || err_no_memory(err, "the counts");
    text_free(&losses);
    put_lengths(t);
    return ok;
}

/* ---- the run ---- */

static bool write_page(struct preview *p, struct err *err)
{
    const char *title = p->recipe->path != NULL ? p->recipe->path : "preview";
    preview_html_begin(&p->page, title);
    preview_html_totals(&p->page, &p->totals);
    if (!put_documents(p, err))
        return false;
    preview_html_end(&p->page);
    if (p->page.failed)
        return err_no_memory(err, "the page");
    return file_write(p->options->html, p->page.data, p->page.len, err);
}

static bool load(struct preview *p, struct err *err)
{
    const struct recipe *r = p->recipe;
    if (!base_open(r->base_model, &p->base, err) ||
        !train_data_load(&p->data, r, &p->base.config, err))
        return false;
    preview_count(&p->data, &p->totals);
    return true;
}

static int show(struct preview *p)
{
    struct err err = { 0 };
    if (!load(p, &err))
        return cli_fail(&err);
    if (p->options->html != NULL && !write_page(p, &err))
        return cli_fail(&err);
    if (p->options->json)
        return cli_end_json(preview_json(&p->totals));
    if (p->options->html == NULL && p->options->n > 0) {
        if (!put_documents(p, &err))
            return cli_fail(&err);
        putchar('\n');
    }
    return put_totals(&p->totals, &err) ? cli_end_output() : cli_fail(&err);
}

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);
    return value != NULL && value[0] != '\0';
}

static bool parse(int argc, char **argv, struct preview_options *o, struct cli_words *words,
                  struct err *err)
{
    const char *n = NULL;
    const struct cli_option options[] = { { "n", "N", &n, NULL },
                                          { "html", "FILE", &o->html, NULL },
                                          { "color", NULL, NULL, &o->color },
                                          { "json", NULL, NULL, &o->json } };
    return cli_parse(argc, argv, options, 4, words, err) &&
           cli_expect_args(words, 1, 1, "jambatune preview RECIPE [-n N] [key=value ...]", err) &&
           cli_number_int("n", n, 0, INT64_MAX, &o->n, err);
}

int cmd_preview(int argc, char **argv)
{
    struct preview_options o = { .n = 3 };
    struct cli_words words;
    struct err err = { 0 };
    struct recipe recipe = { 0 };
    if (!parse(argc, argv, &o, &words, &err) ||
        (o.html != NULL && !output_check_page(o.html, &err)))
        return cli_fail(&err);
    o.color = o.color || (isatty(STDOUT_FILENO) && !is_set("NO_COLOR"));
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_TRAIN, &recipe);
    if (code != 0)
        return code;
    struct preview p = { .recipe = &recipe, .options = &o };
    code = show(&p);
    train_data_free(&p.data);
    base_close(&p.base);
    text_free(&p.token.text);
    text_free(&p.page);
    recipe_free(&recipe);
    return code;
}
