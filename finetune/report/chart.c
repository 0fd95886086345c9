#include "finetune/report/chart.h"

#include <inttypes.h>
#include <math.h>

#include "finetune/report/curve.h"
#include "finetune/report/page.h"
#include "finetune/report/scale.h"

enum {
    MARK_COLUMNS = 250, /* marks nearer than this to one another are one */
    MOST_CIRCLES = 300,
    Y_TICKS = 5,
    X_TICKS = 8,
    FEW_TICKS = 4, /* more are too many on a phone: every other one goes */
};

/* Where the largest value is so many times the smallest, equal steps show nothing of the small. */
static const double WIDE_SPREAD = 30;

/* ---- axes ---- */

struct range {
    double low, high;
    int64_t n;
};

static void take(struct range *r, double v)
{
    r->low = r->n == 0 || v < r->low ? v : r->low;
    r->high = r->n == 0 || v > r->high ? v : r->high;
    r->n++;
}

static struct range values_of(const struct chart *c, bool log)
{
    struct range r = { 0 };
    for (int64_t l = 0; l < c->n_line; l++) {
        for (int64_t i = 0; i < c->lines[l].n; i++) {
            if (curve_draws(c->lines[l].y[i], log))
                take(&r, c->lines[l].y[i]);
        }
    }
    return r;
}

static struct scale y_axis(const struct chart *c)
{
    const struct range all = values_of(c, false), positive = values_of(c, true);
    if (c->log_if_wide && all.low >= 0 && positive.n > 0 &&
        positive.high >= WIDE_SPREAD * positive.low)
        return scale_log(positive.low, positive.high);
    const double low = c->from_zero && all.low > 0 ? 0 : all.low;
    return scale_linear(low, all.high, Y_TICKS, false, true);
}

static struct scale x_axis(const struct chart *c)
{
    struct range r = { 0 };
    for (int64_t l = 0; l < c->n_line; l++) {
        if (c->lines[l].n > 0) {
            take(&r, c->lines[l].x[0]);
            take(&r, c->lines[l].x[c->lines[l].n - 1]);
        }
    }
    const double low = r.low > 0 && r.low < 0.1 * r.high ? 0 : r.low;
    return scale_linear(low, r.high, X_TICKS, true, false);
}

static double percent_x(const struct scale *sx, double x)
{
    return 100 * scale_at(sx, x);
}

static double percent_y(const struct scale *sy, double y)
{
    return 100 * (1 - scale_at(sy, y));
}

static void put_axes(const struct scale *sx, const struct scale *sy, struct text *page)
{
    char label[SCALE_LABEL_SIZE];
    text_puts(page, "<g aria-hidden=\"true\">\n");
    for (int i = 0; i < sy->n_tick; i++) {
        const double y = percent_y(sy, sy->ticks[i]);
        scale_label(sy, i, label);
        text_printf(page,
                    "<line class=\"grid\" x1=\"0\" x2=\"100%%\" y1=\"%.2f%%\" y2=\"%.2f%%\"/>"
                    "<text class=\"y\" x=\"-8\" y=\"%.2f%%\" dy=\".33em\">%s</text>\n",
                    y, y, y, label);
    }
    for (int i = 0; i < sx->n_tick; i++) {
        const double x = percent_x(sx, sx->ticks[i]);
        scale_label(sx, i, label);
        text_printf(page,
                    "<line class=\"axis\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"100%%\" y2=\"100%%\" "
                    "transform=\"translate(0 4)\"/><text class=\"x%s\" x=\"%.2f%%\" y=\"100%%\" "
                    "dy=\"1.5em\">%s</text>\n",
                    x, x, i % 2 == 1 && sx->n_tick > FEW_TICKS ? " odd" : "", x, label);
    }
    text_puts(page,
              "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"100%\" y2=\"100%\"/>"
              "<text class=\"y\" x=\"-8\" y=\"100%\" dy=\"1.5em\" dx=\"-.6em\">step</text></g>\n");
}

/* ---- lines ---- */

static const char *dash_of(int color)
{
    static const char *const dashes[] = { "", " d1", " d2" };
    return dashes[color / CHART_COLORS % 3];
}

void chart_swatch(int color, enum chart_kind kind, struct text *page)
{
    text_printf(page,
                "<svg class=\"c%d\" viewBox=\"0 0 24 12\" aria-hidden=\"true\"><path "
                "class=\"line%s%s\" d=\"M1 6L23 6\"/>%s</svg>",
                color % CHART_COLORS, kind == CHART_RAW ? " raw" : "", dash_of(color),
                kind == CHART_POINTS ? "<circle class=\"dot\" cx=\"12\" cy=\"6\" r=\"4\"/>" : "");
}

static void put_path(const struct chart *c, const struct chart_line *line, const struct scale *sx,
                     const struct scale *sy, struct text *page)
{
    text_printf(page, "<path class=\"line%s%s c%d\" data-name=\"",
                line->kind == CHART_RAW ? " raw" : "", dash_of(line->color),
                line->color % CHART_COLORS);
    page_escaped(page, line->name);
    text_puts(page, "\" d=\"");
    curve_path(line->x, line->y, line->n, sx, sy, c->columns, page);
    text_puts(page, "\"/>\n");
}

/* Of lines that are marked, and of those too short to be seen. */
static void put_circles(const struct chart_line *line, const struct scale *sx,
                        const struct scale *sy, struct text *page)
{
    enum { SHORT = 2 };
    const bool points = line->kind == CHART_POINTS;
    int64_t lowest = -1, n = 0;
    for (int64_t i = 0; i < line->n; i++)
        n += curve_draws(line->y[i], sy->log);
    if (n > MOST_CIRCLES || (!points && n > SHORT))
        return;
    text_printf(page, "<g class=\"c%d\" aria-hidden=\"true\">", line->color % CHART_COLORS);
    for (int64_t i = 0; i < line->n; i++) {
        if (!curve_draws(line->y[i], sy->log))
            continue;
        lowest = lowest < 0 || line->y[i] < line->y[lowest] ? i : lowest;
        text_printf(page, "<circle class=\"dot\" cx=\"%.2f%%\" cy=\"%.2f%%\" r=\"4\"/>\n",
                    percent_x(sx, line->x[i]), percent_y(sy, line->y[i]));
    }
    if (points && n > 1)
        text_printf(page, "<circle class=\"best\" cx=\"%.2f%%\" cy=\"%.2f%%\" r=\"7\"/>",
                    percent_x(sx, line->x[lowest]), percent_y(sy, line->y[lowest]));
    text_puts(page, "</g>\n");
}

/* ---- marks ---- */

static const struct {
    const char *class, *name;
} mark_kinds[CHART_MARK_KINDS] = {
    [CHART_SKIPPED] = { "skipped", "step not applied" },
    [CHART_RESUMED] = { "resumed", "resumed" },
    [CHART_STOPPED] = { "stopped", "stopped" },
};

static void put_marks(const struct chart *c, const struct scale *sx, struct text *page)
{
    int last[CHART_MARK_KINDS] = { -1, -1, -1 };
    text_puts(page, "<g aria-hidden=\"true\">");
    for (int64_t i = 0; i < c->n_mark; i++) {
        const struct chart_mark *m = &c->marks[i];
        const double x = percent_x(sx, m->x);
        const int column = (int)(x * MARK_COLUMNS / 100);
        if (column == last[m->kind])
            continue;
        last[m->kind] = column;
        if (m->kind == CHART_SKIPPED)
            text_printf(page, "<use href=\"#skipped\" class=\"skipped\" x=\"%.2f%%\" y=\"0\"/>\n",
                        x);
        else
            text_printf(page,
                        "<line class=\"event %s\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"0\" "
                        "y2=\"100%%\"/>\n",
                        mark_kinds[m->kind].class, x, x);
    }
    text_puts(page, "</g>\n");
}

static int64_t count_marks(const struct chart *c, enum chart_mark_kind kind)
{
    int64_t n = 0;
    for (int64_t i = 0; i < c->n_mark; i++)
        n += c->marks[i].kind == kind;
    return n;
}

/* ---- words ---- */

static void put_caption(const struct chart *c, bool log, struct text *page)
{
    const char *comma = c->unit[0] != '\0' && log ? ", " : "";
    text_puts(page, "<figcaption><b>");
    page_escaped(page, c->title);
    text_puts(page, "</b>");
    if (c->unit[0] != '\0' || log)
        text_printf(page, "<span class=\"unit\">%s%s%s</span>", c->unit, comma,
                    log ? "logarithmic" : "");
    for (int64_t l = 0; l < c->n_line && c->legend; l++) {
        text_puts(page, "<span class=\"key\">");
        chart_swatch(c->lines[l].color, c->lines[l].kind, page);
        page_escaped(page, c->lines[l].name);
        text_puts(page, "</span>");
    }
    for (int k = 0; k < CHART_MARK_KINDS && c->legend; k++) {
        const int64_t n = count_marks(c, (enum chart_mark_kind)k);
        if (n == 0)
            continue;
        text_printf(page,
                    "<span class=\"key\"><svg class=\"%s\" viewBox=\"0 0 24 12\" "
                    "aria-hidden=\"true\">%s</svg>%s",
                    mark_kinds[k].class,
                    k == CHART_SKIPPED ? "<use href=\"#skipped\" x=\"12\" y=\"3\"/>"
                                       : "<path class=\"event\" d=\"M12-1L12 13\"/>",
                    mark_kinds[k].name);
        text_printf(page, n > 1 ? " (%" PRId64 ")</span>" : "</span>", n);
    }
    text_puts(page, "</figcaption>\n");
}

/* "loss: 2.7 at step 1, 1.02 at step 500; lowest 0.98 at step 480, highest ...". */
static void describe_line(const struct chart_line *line, struct text *page)
{
    int64_t at[4] = { -1, -1, -1, -1 }, n = 0; /* first, last, lowest, highest */
    static const char *const words[] = { "", ", ", "; lowest ", ", highest " };
    for (int64_t i = 0; i < line->n; i++) {
        if (!curve_draws(line->y[i], false))
            continue;
        at[0] = n++ == 0 ? i : at[0];
        at[1] = i;
        at[2] = at[2] < 0 || line->y[i] < line->y[at[2]] ? i : at[2];
        at[3] = at[3] < 0 || line->y[i] > line->y[at[3]] ? i : at[3];
    }
    text_puts(page, " ");
    page_escaped(page, line->name);
    text_puts(page, ": ");
    for (int k = 0; k < 4 && n > 0; k++) {
        char value[PAGE_NUMBER_SIZE];
        if (n == 1 && k > 0)
            break;
        page_number(value, line->y[at[k]]);
        text_printf(page, "%s%s at step %.0f", words[k], value, line->x[at[k]]);
    }
    text_puts(page, n > 0 ? "." : "no finite value.");
}

static void describe(const struct chart *c, struct text *page)
{
    page_escaped(page, c->title);
    text_printf(page, " by step%s%s.", c->unit[0] != '\0' ? ", in " : "", c->unit);
    for (int64_t l = 0; l < c->n_line; l++)
        describe_line(&c->lines[l], page);
    for (int k = 0; k < CHART_MARK_KINDS; k++) {
        const int64_t n = count_marks(c, (enum chart_mark_kind)k);
        if (n > 0)
            text_printf(page, " Marked: %s (%" PRId64 ").", mark_kinds[k].name, n);
    }
}

/* The chart of losses is missed where it is not there; others are not. */
static void put_nothing(const struct chart *c, struct text *page)
{
    bool any = false;
    for (int64_t l = 0; l < c->n_line; l++)
        any = any || c->lines[l].n > 0;
    if (!c->wide || !any)
        return;
    text_puts(page, "<figure class=\"chart wide\"><figcaption><b>");
    page_escaped(page, c->title);
    text_puts(page, "</b><span class=\"unit\">no value is finite</span></figcaption></figure>\n");
}

void chart_put(const struct chart *c, struct text *page)
{
    if (values_of(c, false).n == 0) {
        put_nothing(c, page);
        return;
    }
    const struct scale sy = y_axis(c), sx = x_axis(c);
    text_printf(page, "<figure class=\"chart%s\">\n", c->wide ? " wide" : "");
    put_caption(c, sy.log, page);
    text_printf(page,
                "<div class=\"plot\" data-x0=\"%.9g\" data-x1=\"%.9g\" data-y0=\"%.9g\" "
                "data-y1=\"%.9g\"%s>\n<svg role=\"img\"><title>",
                sx.low, sx.high, sy.low, sy.high, sy.log ? " data-log=\"1\"" : "");
    describe(c, page);
    text_puts(page, "</title>\n");
    put_axes(&sx, &sy, page);
    put_marks(c, &sx, page);
    text_printf(page,
                "<svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" width=\"100%%\" "
                "height=\"100%%\" aria-hidden=\"true\">\n",
                CURVE_SIZE, CURVE_SIZE);
    for (int64_t l = 0; l < c->n_line; l++)
        put_path(c, &c->lines[l], &sx, &sy, page);
    text_puts(page, "</svg>\n");
    for (int64_t l = 0; l < c->n_line; l++)
        put_circles(&c->lines[l], &sx, &sy, page);
    text_puts(page, "</svg></div>\n</figure>\n");
}
