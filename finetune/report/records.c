/* Samples, the recipe and events of a run. All of their texts are the user's or the model's. */
#include "finetune/report/sections.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "finetune/report/page.h"

enum {
    SAMPLES_OPEN = 8,   /* shown at once, and then up to the end of their step */
    SAMPLES_MOST = 300, /* the newest */
    SAMPLE_BYTES = 6000,
    EVENTS_OPEN = 30,
    EVENTS_MOST = 500,
};

/* ---- samples ---- */

static void put_sample(const struct history_sample *s, struct text *page)
{
    text_puts(page, "<div class=\"sample\"><pre dir=\"auto\"><span class=\"prompt\">");
    page_escaped_cut(page, s->prompt, SAMPLE_BYTES);
    text_puts(page, "</span><b class=\"generated\">");
    page_escaped_cut(page, s->text, SAMPLE_BYTES);
    text_puts(page, "</b>");
    if (s->end != NULL && strcmp(s->end, "length") == 0)
        text_puts(page, "<span class=\"prompt\" title=\"cut at its longest\"> [...]</span>");
    text_puts(page, "</pre></div>\n");
}

static int64_t samples_of_step(const struct history *h, int64_t last)
{
    int64_t n = 1;
    while (n <= last && h->samples[last - n].step == h->samples[last].step)
        n++;
    return n;
}

void sections_samples(const struct history *h, struct text *page)
{
    int64_t shown = 0;
    bool folded = false;
    if (h->n_sample == 0)
        return;
    page_section(page, "Samples");
    text_puts(page,
              "<p class=\"faint\">What the model made of each prompt (grey), newest first.</p>\n");
    for (int64_t last = h->n_sample - 1; last >= 0 && shown < SAMPLES_MOST;) {
        const int64_t n = samples_of_step(h, last);
        if (shown >= SAMPLES_OPEN && !folded) {
            text_puts(page, "<details><summary>earlier samples</summary>\n");
            folded = true;
        }
        text_printf(page, "<h3>after step %" PRId64 "</h3>\n", h->samples[last].step);
        for (int64_t i = last - n + 1; i <= last && shown < SAMPLES_MOST; i++, shown++)
            put_sample(&h->samples[i], page);
        last -= n;
    }
    if (shown < h->n_sample)
        text_printf(page, "<p class=\"faint\">%" PRId64 " older ones are in metrics.jsonl.</p>\n",
                    h->n_sample - shown);
    text_puts(page, folded ? "</details>\n" : "");
    page_section_end(page);
}

/* ---- the recipe ---- */

static void put_settings(const struct settings *s, bool defaults, struct text *page)
{
    const char *section = "";
    page_table(page, defaults ? "Keys at their defaults" : "Keys that were set",
               defaults ? "keys" : "keys origins");
    text_printf(page,
                "<thead><tr><th scope=\"col\">key</th><th "
                "scope=\"col\">value</th>%s</tr></thead>\n<tbody>\n",
                defaults ? "" : "<th scope=\"col\">from</th>");
    for (int64_t i = 0; i < s->n; i++) {
        const struct setting *item = &s->items[i];
        if (setting_is_default(item) != defaults)
            continue;
        if (defaults && strcmp(item->section, section) != 0) {
            section = item->section;
            text_puts(page, "<tr><td colspan=\"2\" class=\"faint\">");
            page_escaped(page, section);
            text_puts(page, "</td></tr>\n");
        }
        text_puts(page, "<tr><th scope=\"row\">");
        page_escaped(page, item->key);
        text_puts(page, "</th>");
        page_cell(page, item->value);
        if (!defaults)
            page_cell(page, item->origin);
        text_puts(page, "</tr>\n");
    }
    text_puts(page, "</tbody>\n");
    page_table_end(page);
}

void sections_settings(const struct settings *s, struct text *page)
{
    int64_t n_default = 0;
    for (int64_t i = 0; i < s->n; i++)
        n_default += setting_is_default(&s->items[i]);
    if (s->n == 0)
        return;
    page_section(page, "Recipe");
    if (n_default < s->n)
        put_settings(s, false, page);
    if (n_default > 0) {
        text_printf(page, "<details><summary>%" PRId64 " keys at their defaults</summary>\n",
                    n_default);
        put_settings(s, true, page);
        text_puts(page, "</details>\n");
    }
    page_section_end(page);
}

/* ---- events ---- */

static void put_events(const struct history *h, int64_t from, int64_t to, struct text *page)
{
    page_table(page, "Events", "");
    text_puts(page, "<thead><tr><th scope=\"col\">time</th><th scope=\"col\" class=\"number\">step"
                    "</th><th scope=\"col\">event</th><th scope=\"col\"></th></tr></thead>\n"
                    "<tbody>\n");
    for (int64_t i = from; i < to; i++) {
        char digits[32];
        text_count(digits, h->events[i].step);
        text_puts(page, "<tr><td class=\"nowrap\">");
        page_escaped(page, h->events[i].time);
        text_puts(page, "</td>");
        page_cell_number(page, digits);
        text_puts(page, "<td class=\"nowrap\">");
        page_escaped_cut(page, h->events[i].event, 40);
        text_puts(page, "</td><td class=\"words\" dir=\"auto\">");
        page_escaped(page, h->events[i].text);
        text_puts(page, "</td></tr>\n");
    }
    text_puts(page, "</tbody>\n");
    page_table_end(page);
}

void sections_events(const struct history *h, struct text *page)
{
    const int64_t first = h->n_event > EVENTS_MOST ? h->n_event - EVENTS_MOST : 0;
    const int64_t open = h->n_event > EVENTS_OPEN ? h->n_event - EVENTS_OPEN : 0;
    if (h->n_event == 0 && h->n_damaged == 0)
        return;
    page_section(page, "Events");
    if (h->n_damaged > 0) {
        text_printf(page,
                    "<p>%" PRId64 " line%s of the log %s damaged and passed over; the first: ",
                    h->n_damaged, h->n_damaged == 1 ? "" : "s", h->n_damaged == 1 ? "is" : "are");
        page_escaped(page, h->damage.text);
        text_puts(page, "</p>\n");
    }
    if (h->n_event == 0) {
        page_section_end(page);
        return;
    }
    if (open > first) {
        text_printf(page, "<details><summary>%" PRId64 " earlier events</summary>\n", open);
        if (first > 0)
            text_printf(page,
                        "<p class=\"faint\">The oldest %" PRId64 " are in metrics.jsonl.</p>\n",
                        first);
        put_events(h, first, open, page);
        text_puts(page, "</details>\n");
    }
    put_events(h, open, h->n_event, page);
    page_section_end(page);
}
