/* One chart: lines over steps as inline SVG that fills whatever width it is given, with axes, a
 * grid, a legend, and a sentence that says the same to those who do not see it.
 *
 * Texts, circles and marks are placed by per cent and keep their size; the lines lie in a square of
 * CURVE_SIZE that is stretched over the plot, with strokes that are not.
 */
#ifndef FINETUNE_REPORT_CHART_H
#define FINETUNE_REPORT_CHART_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/text.h"

enum chart_kind {
    CHART_LINE,
    CHART_RAW,    /* faint, behind a smoothed line */
    CHART_POINTS, /* a line with its points marked, and the lowest of several ringed */
};

struct chart_line {
    const char *name;
    const double *x, *y; /* (n); x ascends */
    int64_t n;
    int color; /* from 0; from CHART_COLORS on dashed, then dotted */
    enum chart_kind kind;
};

enum { CHART_COLORS = 6 };

enum chart_mark_kind {
    CHART_SKIPPED, /* a step that was not applied */
    CHART_RESUMED,
    CHART_STOPPED,
    CHART_MARK_KINDS
};

struct chart_mark {
    enum chart_mark_kind kind;
    double x;
};

struct chart {
    const char *title, *unit; /* unit may be "" */
    const struct chart_line *lines;
    int64_t n_line;
    const struct chart_mark *marks; /* ascending by x within a kind */
    int64_t n_mark;
    int columns;      /* at most so many per line */
    bool from_zero;   /* the axis begins there */
    bool log_if_wide; /* of base 10 where the values spread far */
    bool wide;        /* the whole width of the page */
    bool legend;      /* of lines and marks */
};

/* Nothing where no line has a value that can be drawn; of a wide chart, that it is so. */
void chart_put(const struct chart *c, struct text *page);

/* The sample of a line for legends and tables: class names and an SVG of 24 x 12. */
void chart_swatch(int color, enum chart_kind kind, struct text *page);

#endif
