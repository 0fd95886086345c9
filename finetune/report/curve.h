/* Curves of many points: smoothed, and thinned to what a screen can show. */
#ifndef FINETUNE_REPORT_CURVE_H
#define FINETUNE_REPORT_CURVE_H

#include <stdbool.h>
#include <stdint.h>

#include "finetune/report/scale.h"
#include "kernels/core/text.h"

/* A path's coordinates run from 0 to this, both ways. */
enum { CURVE_SIZE = 10000, CURVE_MOST_HALF = 200 };

/* Whether the value can stand on an axis (log: of base 10). */
bool curve_draws(double y, bool log);

/* How many neighbours on each side a curve of n points is smoothed over; 0: not worth it. */
int64_t curve_half_window(int64_t n);

/* The running mean of the running median, over at most `half` neighbours on each side, half
 * <= CURVE_MOST_HALF. What cannot be drawn is left out. work: n more. */
void curve_smooth(const double *y, int64_t n, int64_t half, double *work, double *out);

/* Appends a path ("M0 10L20 30 40 50"): of the points in one of `columns` columns only the lowest
 * and the highest, so that no spike is lost. The line breaks where a column has only values that
 * cannot be drawn. x ascends. */
void curve_path(const double *x, const double *y, int64_t n, const struct scale *sx,
                const struct scale *sy, int columns, struct text *out);

#endif
