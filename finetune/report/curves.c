/* Which curves a page has, and what stands on them. */
#include "finetune/report/sections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/report/chart.h"
#include "finetune/report/curve.h"
#include "finetune/report/page.h"

enum metric { METRIC_LOSS, METRIC_AUX, METRIC_RATE, METRIC_NORM, METRIC_SPEED, METRIC_MEMORY };

static double metric_of(const struct history_step *s, enum metric metric)
{
    switch (metric) {
    case METRIC_LOSS:
        return s->loss;
    case METRIC_AUX:
        return s->aux_loss;
    case METRIC_RATE:
        return s->learning_rate;
    case METRIC_NORM:
        return s->grad_norm;
    case METRIC_SPEED:
        return s->tokens_per_second;
    case METRIC_MEMORY:
        break;
    }
    return s->memory_bytes;
}

/* What of one run is drawn; the arrays are its own. */
struct curve {
    double *x, *y, *smooth; /* (n_step); smooth NULL: as it is */
    double *eval_x, *eval_y;
};

static void curve_free(struct curve *c)
{
    free(c->x);
    free(c->y);
    free(c->smooth);
    free(c->eval_x);
    free(c->eval_y);
    *c = (struct curve){ 0 };
}

static double *new_values(int64_t n)
{
    return calloc(n > 0 ? (size_t)n : 1, sizeof(double));
}

static bool curve_init(struct curve *c, const struct history *h, enum metric metric, bool smooth)
{
    const int64_t n = h->n_step, half = smooth ? curve_half_window(n) : 0;
    *c = (struct curve){ .x = new_values(n), .y = new_values(n) };
    if (c->x == NULL || c->y == NULL)
        return false;
    for (int64_t i = 0; i < n; i++) {
        c->x[i] = (double)h->steps[i].step;
        c->y[i] = metric_of(&h->steps[i], metric);
    }
    if (half > 0) {
        double *work = new_values(n);
        c->smooth = new_values(n);
        if (work != NULL && c->smooth != NULL)
            curve_smooth(c->y, n, half, work, c->smooth);
        free(work);
        return work != NULL && c->smooth != NULL;
    }
    return true;
}

static bool curve_add_evals(struct curve *c, const struct history *h)
{
    c->eval_x = new_values(h->n_eval);
    c->eval_y = new_values(h->n_eval);
    if (c->eval_x == NULL || c->eval_y == NULL)
        return false;
    for (int64_t i = 0; i < h->n_eval; i++) {
        c->eval_x[i] = (double)h->evals[i].step;
        c->eval_y[i] = h->evals[i].loss;
    }
    return true;
}

/* Bytes in the unit that suits the most of them. */
static const char *scale_bytes(struct curve *curves, const struct report *r)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double most = 0, divisor = 1;
    int unit = 0;
    for (int64_t i = 0; i < r->n_run; i++) {
        for (int64_t k = 0; k < r->runs[i].history.n_step; k++) {
            if (curve_draws(curves[i].y[k], false))
                most = fmax(most, curves[i].y[k]);
        }
    }
    for (; most / divisor >= 1024 && unit < 4; unit++)
        divisor *= 1024;
    for (int64_t i = 0; i < r->n_run; i++) {
        for (int64_t k = 0; k < r->runs[i].history.n_step; k++)
            curves[i].y[k] /= divisor;
    }
    return units[unit];
}

/* ---- marks ---- */

static bool is_event(const struct history_event *e, const char *name)
{
    return e->event != NULL && strcmp(e->event, name) == 0;
}

/* Of one run: steps not applied, and where it was stopped and went on. */
static struct chart_mark *find_marks(const struct history *h, int64_t *n)
{
    struct chart_mark *marks = calloc((size_t)(h->n_step + h->n_event + 1), sizeof *marks);
    *n = 0;
    for (int64_t i = 0; i < h->n_step && marks != NULL; i++) {
        if (!h->steps[i].applied)
            marks[(*n)++] = (struct chart_mark){ CHART_SKIPPED, (double)h->steps[i].step };
    }
    for (int64_t i = 0; i < h->n_event && marks != NULL; i++) {
        const struct history_event *e = &h->events[i];
        if (is_event(e, "resumed"))
            marks[(*n)++] = (struct chart_mark){ CHART_RESUMED, (double)e->step };
        else if (is_event(e, "stopped") || is_event(e, "early_stop"))
            marks[(*n)++] = (struct chart_mark){ CHART_STOPPED, (double)e->step };
    }
    return marks;
}

/* ---- the charts ---- */

/* The lines of one run's curve; returns how many. */
static int64_t put_lines(struct chart_line *lines, const struct curve *c, const struct report *r,
                         int64_t i, bool evals_alone)
{
    const struct report_run *run = &r->runs[i];
    const struct history *h = &run->history;
    const bool several = r->n_run > 1;
    const int color = (int)i;
    int64_t n = 0;
    if (!evals_alone && c->smooth != NULL && !several)
        lines[n++] = (struct chart_line){ "each step", c->x, c->y, h->n_step, color, CHART_RAW };
    if (!evals_alone)
        lines[n++] = (struct chart_line){ .name = several             ? run->name
                                                  : c->smooth != NULL ? "smoothed"
                                                                      : "each step",
                                          .x = c->x,
                                          .y = c->smooth != NULL ? c->smooth : c->y,
                                          .n = h->n_step,
                                          .color = color };
    if (c->eval_x != NULL && h->n_eval > 0)
        lines[n++] = (struct chart_line){ .name = several ? run->name : "validation",
                                          .x = c->eval_x,
                                          .y = c->eval_y,
                                          .n = h->n_eval,
                                          .color = several ? color : color + 1,
                                          .kind = CHART_POINTS };
    return n;
}

/* The fewer runs, the finer: a page stays small. */
static int columns_for(int64_t n_run)
{
    return n_run <= 3 ? 1000 : n_run <= 12 ? 500 : 200;
}

/* A chart of all runs; evals: of their validation losses, too, or alone where the runs are several.
 */
static bool put_chart(const struct report *r, struct chart chart, enum metric metric, bool evals,
                      struct text *page)
{
    enum { LEGEND_MOST = 3 };
    const bool several = r->n_run > 1, smooth = metric != METRIC_RATE && metric != METRIC_MEMORY;
    struct curve *curves = calloc((size_t)r->n_run, sizeof *curves);
    struct chart_line *lines = calloc((size_t)r->n_run * 3, sizeof *lines);
    struct chart_mark *marks = several ? NULL : find_marks(&r->runs[0].history, &chart.n_mark);
    bool ok = curves != NULL && lines != NULL && (several || marks != NULL);
    for (int64_t i = 0; i < r->n_run && ok; i++)
        ok = curve_init(&curves[i], &r->runs[i].history, metric, smooth) &&
             (!evals || curve_add_evals(&curves[i], &r->runs[i].history));
    if (ok && metric == METRIC_MEMORY)
        chart.unit = scale_bytes(curves, r);
    for (int64_t i = 0; i < r->n_run && ok; i++)
        chart.n_line += put_lines(&lines[chart.n_line], &curves[i], r, i, several && evals);
    if (ok) {
        chart.lines = lines;
        chart.marks = marks;
        chart.columns = columns_for(r->n_run);
        chart.legend = chart.wide || (several && r->n_run <= LEGEND_MOST);
        chart_put(&chart, page);
    }
    for (int64_t i = 0; i < r->n_run && curves != NULL; i++)
        curve_free(&curves[i]);
    free(curves);
    free(lines);
    free(marks);
    return ok;
}

static bool has_points(const struct report *r)
{
    for (int64_t i = 0; i < r->n_run; i++) {
        if (r->runs[i].history.n_step > 0 || r->runs[i].history.n_eval > 0)
            return true;
    }
    return false;
}

bool sections_curves(const struct report *r, struct text *page)
{
    const bool several = r->n_run > 1;
    static const struct {
        enum metric metric;
        struct chart chart;
    } others[] = {
        { METRIC_AUX, { .title = "Load-balancing loss", .unit = "" } },
        { METRIC_RATE, { .title = "Learning rate", .unit = "", .from_zero = true } },
        { METRIC_NORM,
          { .title = "Gradient norm", .unit = "", .from_zero = true, .log_if_wide = true } },
        { METRIC_SPEED, { .title = "Speed", .unit = "tokens per second", .from_zero = true } },
        { METRIC_MEMORY, { .title = "Memory", .unit = "B", .from_zero = true } },
    };
    if (!has_points(r)) {
        text_puts(page, "<p class=\"faint\">No step has been logged yet.</p>\n");
        return true;
    }
    page_section(page, "Curves");
    text_puts(page, "<div class=\"charts\">\n");
    const struct chart loss = { .title = several ? "Training loss, smoothed" : "Loss",
                                .unit = "",
                                .log_if_wide = true,
                                .wide = true };
    bool ok = put_chart(r, loss, METRIC_LOSS, !several, page);
    if (several) {
        const struct chart validation = {
            .title = "Validation loss", .unit = "", .log_if_wide = true, .wide = true
        };
        ok = ok && put_chart(r, validation, METRIC_LOSS, true, page);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others && ok; i++)
        ok = put_chart(r, others[i].chart, others[i].metric, false, page);
    text_puts(page, "</div>\n");
    page_section_end(page);
    return ok;
}
