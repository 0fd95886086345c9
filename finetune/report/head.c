/* The top of a run's page: what it is, how far it got, and its numbers. */
#include "finetune/report/sections.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "finetune/report/page.h"

static const char *run_string(const struct history *h, const char *key)
{
    return json_string_value(json_object_get(h->run, key));
}

static void put_progress(const struct history *h, const struct summary *s, struct text *page)
{
    char digits[32];
    text_count(digits, s->step);
    text_printf(page, "<p class=\"sub\"><span class=\"badge %s\">%s</span> step %s",
                history_life_name(h->life), history_life_name(h->life), digits);
    if (h->total_steps > 0) {
        text_count(digits, h->total_steps);
        text_printf(page, " of %s", digits);
    }
    if (isfinite(s->seconds)) {
        char duration[PAGE_NUMBER_SIZE];
        page_duration(duration, s->seconds);
        text_printf(page, " \xC2\xB7 %s of work", duration);
    }
    if (run_string(h, "started") != NULL) {
        text_puts(page, " \xC2\xB7 started ");
        page_escaped(page, run_string(h, "started"));
    }
    text_puts(page, "</p>\n");
}

/* note may be NULL. */
static void put_tile(struct text *page, const char *name, const char *value, const char *note)
{
    text_printf(page, "<div class=\"tile\"><dt>%s</dt><dd>", name);
    page_escaped(page, value);
    text_puts(page, "</dd>");
    if (note != NULL) {
        text_puts(page, "<dd class=\"note\">");
        page_escaped(page, note);
        text_puts(page, "</dd>");
    }
    text_puts(page, "</div>\n");
}

static void put_step_note(char out[64], int64_t step)
{
    char digits[32];
    text_count(digits, step);
    snprintf(out, 64, "at step %s", digits);
}

static void put_loss_tiles(const struct history *h, const struct summary *s, struct text *page)
{
    char value[PAGE_NUMBER_SIZE], note[64];
    if (s->best_step >= 0) {
        page_number(value, s->best_loss);
        put_step_note(note, s->best_step);
        put_tile(page, "best validation loss", value, note);
    }
    if (s->eval_step >= 0) {
        page_number(value, s->eval_loss);
        put_step_note(note, s->eval_step);
        put_tile(page, h->life == HISTORY_DONE ? "final validation loss" : "last validation loss",
                 value, note);
    }
    if (h->n_step > 0) {
        page_number(value, s->loss);
        put_step_note(note, h->steps[h->n_step - 1].step);
        put_tile(page, "last training loss", value, note);
    }
}

static void put_tiles(const struct history *h, const struct summary *s, struct text *page)
{
    char value[PAGE_NUMBER_SIZE], note[64], trained[PAGE_NUMBER_SIZE];
    text_puts(page, "<dl class=\"tiles\">\n");
    put_loss_tiles(h, s, page);
    if (isfinite(s->tokens_per_second)) {
        page_quantity(value, s->tokens_per_second);
        put_tile(page, "tokens per second", value, "over all steps");
    }
    if (isfinite(s->memory_bytes)) {
        page_bytes(value, s->memory_bytes);
        put_tile(page, "peak memory", value, NULL);
    }
    if (isfinite(s->tokens)) {
        page_quantity(value, s->tokens);
        page_quantity(trained, s->trained_tokens);
        snprintf(note, sizeof note, "%s with loss", trained);
        put_tile(page, "tokens seen", value, isfinite(s->trained_tokens) ? note : NULL);
    }
    if (s->n_skipped > 0) {
        page_quantity(value, (double)s->n_skipped);
        put_tile(page, "steps not applied", value, "loss or gradient not finite");
    }
    text_puts(page, "</dl>\n");
}

void sections_head(const struct report_run *run, struct text *page)
{
    const struct history *h = &run->history;
    const struct summary s = summary_of(h);
    text_puts(page, "<header>\n<h1>");
    page_escaped(page, run->name);
    text_puts(page, "</h1>\n");
    put_progress(h, &s, page);
    if (run_string(h, "base_model") != NULL) {
        text_puts(page, "<p class=\"sub\">adapts ");
        page_escaped(page, run_string(h, "base_model"));
        text_puts(page, "</p>\n");
    }
    if (h->total_steps > 0 && s.step < h->total_steps)
        text_printf(page, "<div class=\"track\"><div style=\"width: %.1f%%\"></div></div>\n",
                    100 * (double)s.step / (double)h->total_steps);
    text_puts(page, "</header>\n");
    if (h->n_step > 0 || h->n_eval > 0)
        put_tiles(h, &s, page);
}

/* ---- time per block ---- */

static const struct {
    enum profile_block block;
    const char *color;
} block_order[PROFILE_N] = {
    { PROFILE_MAMBA, "c0" },     { PROFILE_ATTENTION, "c1" }, { PROFILE_MOE, "c2" },
    { PROFILE_MLP, "c3" },       { PROFILE_NORM, "c4" },      { PROFILE_HEAD, "c5" },
    { PROFILE_OPTIMIZER, "g0" }, { PROFILE_DATA, "g1" },      { PROFILE_OTHER, "g2" },
};

/* All in one unit, so that the column can be read downwards. */
static void put_block_rows(const struct summary *s, double all, struct text *page)
{
    const double n = (double)s->n_block_step;
    const bool is_short = all / n < 1;
    const double unit = is_short ? 1e-3 : 1;
    text_printf(page,
                "<thead><tr><th scope=\"col\">block</th><th scope=\"col\" class=\"number\">"
                "%s per step</th><th scope=\"col\" class=\"number\">share</th></tr></thead>\n"
                "<tbody>\n",
                is_short ? "ms" : "seconds");
    for (int i = 0; i < PROFILE_N; i++) {
        const double seconds = s->blocks[block_order[i].block];
        if (seconds <= 0)
            continue;
        text_printf(page,
                    "<tr><td class=\"nowrap\"><span class=\"swatch %s\"></span>%s</td>"
                    "<td class=\"number\">%.3f</td><td class=\"number\">%.1f %%</td></tr>\n",
                    block_order[i].color, summary_block_name(block_order[i].block),
                    seconds / n / unit, 100 * seconds / all);
    }
    text_printf(page,
                "<tr><th scope=\"row\">all</th><td class=\"number\">%.3f</td><td "
                "class=\"number\">100 %%</td></tr>\n</tbody>\n",
                all / n / unit);
}

void sections_blocks(const struct history *h, struct text *page)
{
    const struct summary s = summary_of(h);
    double all = 0;
    for (int b = 0; b < PROFILE_N; b++)
        all += s.blocks[b];
    if (!isfinite(all) || all <= 0)
        return;
    page_section(page, "Time per block");
    text_puts(page, "<div class=\"stack\" role=\"img\" aria-label=\"Shares of a step's time, as in "
                    "the table below\">");
    for (int i = 0; i < PROFILE_N; i++) {
        const double seconds = s.blocks[block_order[i].block];
        if (seconds > 0)
            text_printf(page,
                        "<div class=\"%s\" style=\"flex-grow: %.5f\" title=\"%s: %.1f %%\"></div>",
                        block_order[i].color, 100 * seconds / all,
                        summary_block_name(block_order[i].block), 100 * seconds / all);
    }
    text_puts(page, "</div>\n");
    page_table(page, "Time per block", "");
    put_block_rows(&s, all, page);
    page_table_end(page);
    page_section_end(page);
}
