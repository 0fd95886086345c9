/* Several runs: which is best, and what they were told differently. */
#include "finetune/report/sections.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/report/chart.h"
#include "finetune/report/page.h"

static void put_name(const struct report *r, int64_t run, struct text *page)
{
    text_puts(page, "<td class=\"runname\">");
    chart_swatch((int)run, CHART_LINE, page);
    page_escaped(page, r->runs[run].name);
    text_puts(page, "</td>");
}

/* The number, or a dash where there is none. */
static void put_number(struct text *page, double v, bool there,
                       void (*show)(char out[PAGE_NUMBER_SIZE], double v))
{
    char value[PAGE_NUMBER_SIZE] = "-";
    if (there)
        show(value, v);
    page_cell_number(page, value);
}

static void put_run(const struct report *r, int64_t run, struct text *page)
{
    const struct history *h = &r->runs[run].history;
    const struct summary s = summary_of(h);
    char step[32], total[32];
    text_puts(page, "<tr>");
    put_name(r, run, page);
    put_number(page, s.best_loss, s.best_step >= 0, page_number);
    put_number(page, (double)s.best_step, s.best_step >= 0, page_quantity);
    put_number(page, s.eval_loss, s.eval_step >= 0, page_number);
    put_number(page, s.loss, h->n_step > 0, page_number);
    text_count(step, s.step);
    text_count(total, h->total_steps);
    text_printf(page, "<td class=\"nowrap\"><span class=\"%s\">%s</span></td>",
                history_life_name(h->life), history_life_name(h->life));
    text_printf(page, "<td class=\"number\">%s%s%s</td>", step, h->total_steps > 0 ? " of " : "",
                h->total_steps > 0 ? total : "");
    put_number(page, s.tokens_per_second, isfinite(s.tokens_per_second), page_quantity);
    put_number(page, s.memory_bytes, isfinite(s.memory_bytes), page_bytes);
    put_number(page, s.seconds, isfinite(s.seconds), page_duration);
    text_puts(page, "</tr>\n");
}

static void put_runs(const struct report *r, struct text *page)
{
    static const char *const columns[] = { "best validation loss",
                                           "at step",
                                           "last validation loss",
                                           "last training loss",
                                           "",
                                           "step",
                                           "tokens/s",
                                           "peak memory",
                                           "time" };
    page_section(page, "Runs, best first");
    page_table(page, "Runs, best first", "");
    text_puts(page, "<thead><tr><th scope=\"col\">run</th>");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        text_printf(page, "<th scope=\"col\"%s>%s</th>",
                    columns[i][0] != '\0' ? " class=\"number\"" : "",
                    columns[i][0] != '\0' ? columns[i] : "state");
    text_puts(page, "</tr></thead>\n<tbody>\n");
    for (int64_t i = 0; i < r->n_run; i++)
        put_run(r, i, page);
    text_puts(page, "</tbody>\n");
    page_table_end(page);
    page_section_end(page);
}

static void put_value(const struct report *r, int64_t run, const char *key, struct text *page)
{
    const char *value = settings_value(&r->runs[run].settings, key);
    page_cell(page, value != NULL ? value : "-");
}

/* A row a run while the keys are few, a row a key when they are many. */
static void put_differences(const struct report *r, const char *const *keys, int64_t n_key,
                            struct text *page)
{
    const bool by_run = n_key <= r->n_run || n_key <= 4;
    page_section(page, "Where their recipes differ");
    page_table(page, "Where their recipes differ", "keys");
    text_printf(page, "<thead><tr><th scope=\"col\">%s</th>", by_run ? "run" : "key");
    for (int64_t i = 0; i < (by_run ? n_key : r->n_run); i++) {
        text_puts(page, "<th scope=\"col\">");
        page_escaped(page, by_run ? keys[i] : r->runs[i].name);
        text_puts(page, "</th>");
    }
    text_puts(page, "</tr></thead>\n<tbody>\n");
    for (int64_t i = 0; i < (by_run ? r->n_run : n_key); i++) {
        text_puts(page, "<tr>");
        if (by_run) {
            put_name(r, i, page);
        } else {
            text_puts(page, "<th scope=\"row\">");
            page_escaped(page, keys[i]);
            text_puts(page, "</th>");
        }
        for (int64_t k = 0; k < (by_run ? n_key : r->n_run); k++)
            put_value(r, by_run ? i : k, by_run ? keys[k] : keys[i], page);
        text_puts(page, "</tr>\n");
    }
    text_puts(page, "</tbody>\n");
    page_table_end(page);
    page_section_end(page);
}

bool sections_compare(const struct report *r, struct text *page)
{
    int64_t n_key = 0;
    const char **keys = summary_different_keys(r, &n_key);
    if (keys == NULL)
        return false;
    text_printf(page, "<header>\n<h1>%" PRId64 " runs compared</h1>\n</header>\n", r->n_run);
    put_runs(r, page);
    if (n_key > 0)
        put_differences(r, keys, n_key, page);
    free(keys);
    return true;
}
