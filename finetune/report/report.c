#include "finetune/report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/report/page.h"
#include "finetune/report/sections.h"

static bool put_run(const struct report *r, struct text *page)
{
    const struct report_run *run = &r->runs[0];
    sections_head(run, page);
    if (!sections_curves(r, page))
        return false;
    sections_samples(&run->history, page);
    sections_blocks(&run->history, page);
    sections_facts(&run->history, page);
    sections_settings(&run->settings, page);
    sections_events(&run->history, page);
    return true;
}

static bool put_runs(const struct report *r, struct text *page)
{
    struct report sorted = { .runs = calloc((size_t)r->n_run, sizeof *r->runs), .n_run = r->n_run };
    const bool ok = sorted.runs != NULL && summary_sort(r, sorted.runs) &&
                    sections_compare(&sorted, page) && sections_curves(&sorted, page);
    free(sorted.runs);
    return ok;
}

bool report_page(const struct report *r, struct text *page, struct err *err)
{
    const bool several = r->n_run > 1;
    char *title =
        several ? text_format("%d runs compared", (int)r->n_run) : text_copy(r->runs[0].name);
    bool ok = title != NULL;
    if (ok) {
        page_begin(page, title);
        text_puts(page, "<main>\n");
        ok = several ? put_runs(r, page) : put_run(r, page);
        text_puts(page, "</main>\n");
        page_end(page);
    }
    free(title);
    return (ok && !page->failed) || err_no_memory(err, "the report");
}

/* ---- the same for scripts ---- */

/* JSON has no NaN: what is missing or no number is null. */
static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* A sum of whole numbers. */
static json_t *count(double v)
{
    return isfinite(v) && fabs(v) < 1e15 ? json_integer((json_int_t)llround(v)) : json_null();
}

static json_t *step_or_null(int64_t step)
{
    return step >= 0 ? json_integer((json_int_t)step) : json_null();
}

/* A string of bytes that may be no UTF-8. */
static json_t *string(const char *s)
{
    json_t *plain = json_string(s);
    if (plain != NULL)
        return plain;
    char *copy = text_copy(s);
    for (char *at = copy; copy != NULL && *at != '\0'; at++)
        *at = (unsigned char)*at < 0x80 ? *at : '?';
    plain = copy != NULL ? json_string(copy) : NULL;
    free(copy);
    return plain;
}

static json_t *run_facts(const struct report_run *run)
{
    const struct history *h = &run->history;
    const struct summary s = summary_of(h);
    const struct {
        const char *key;
        json_t *value;
    } members[] = {
        { "name", string(run->name) },
        { "dir", string(h->dir != NULL ? h->dir : run->name) },
        { "state", json_string(history_life_name(h->life)) },
        { "step", json_integer((json_int_t)s.step) },
        { "n_step", h->total_steps > 0 ? json_integer((json_int_t)h->total_steps) : json_null() },
        { "best_eval_loss", number(s.best_loss) },
        { "best_step", step_or_null(s.best_step) },
        { "eval_loss", number(s.eval_loss) },
        { "eval_step", step_or_null(s.eval_step) },
        { "loss", number(s.loss) },
        { "tokens", count(s.tokens) },
        { "trained_tokens", count(s.trained_tokens) },
        { "tokens_per_second", number(s.tokens_per_second) },
        { "memory_bytes", count(s.memory_bytes) },
        { "seconds", number(s.seconds) },
        { "steps_not_applied", json_integer((json_int_t)s.n_skipped) },
    };
    json_t *facts = json_object();
    bool ok = facts != NULL;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        ok = json_object_set_new(facts, members[i].key, members[i].value) == 0 && ok;
    if (ok)
        return facts;
    json_decref(facts);
    return NULL;
}

/* {"learning_rate": ["1e-4", "2e-4"], ...}: in the order of the runs. */
static json_t *difference_facts(const struct report *r)
{
    int64_t n_key = 0;
    const char **keys = summary_different_keys(r, &n_key);
    json_t *facts = keys != NULL ? json_object() : NULL;
    bool ok = facts != NULL;
    for (int64_t k = 0; k < n_key && ok; k++) {
        json_t *values = json_array();
        for (int64_t i = 0; i < r->n_run && ok; i++) {
            const char *value = settings_value(&r->runs[i].settings, keys[k]);
            ok = json_array_append_new(values, value != NULL ? string(value) : json_null()) == 0;
        }
        ok = json_object_set_new(facts, keys[k], values) == 0 && ok;
    }
    free(keys);
    if (ok)
        return facts;
    json_decref(facts);
    return NULL;
}

json_t *report_facts(const struct report *r)
{
    struct report sorted = { .runs = calloc((size_t)r->n_run, sizeof *r->runs), .n_run = r->n_run };
    json_t *facts = json_object(), *runs = json_array();
    bool ok = sorted.runs != NULL && facts != NULL && runs != NULL && summary_sort(r, sorted.runs);
    for (int64_t i = 0; i < r->n_run && ok; i++)
        ok = json_array_append_new(runs, run_facts(&sorted.runs[i])) == 0;
    ok = ok && json_object_set(facts, "runs", runs) == 0;
    if (ok && r->n_run > 1)
        ok = json_object_set_new(facts, "differences", difference_facts(&sorted)) == 0;
    json_decref(runs);
    free(sorted.runs);
    if (ok)
        return facts;
    json_decref(facts);
    return NULL;
}
