#include "finetune/report/curve.h"

#include <math.h>
#include <string.h>

/* Beyond this a value is no measurement, and differences of two might overflow. */
static const double TOO_LARGE = 1e30;

bool curve_draws(double y, bool log)
{
    return fabs(y) <= TOO_LARGE /* no NaN is */ && (!log || y > 1 / TOO_LARGE);
}

int64_t curve_half_window(int64_t n)
{
    enum { LEAST = 20, SHARE = 40 };
    const int64_t half = n < LEAST ? 0 : n / SHARE + 1;
    return half < CURVE_MOST_HALF ? half : CURVE_MOST_HALF;
}

/* The neighbours of i, [from, to). At the start, where curves fall steeply, as many on both sides;
 * at the end, where one point would speak for all, whatever there is. */
static int64_t window_from(int64_t i, int64_t half)
{
    return i < half ? 0 : i - half;
}

static int64_t window_to(int64_t i, int64_t n, int64_t half)
{
    const int64_t to = i + (i < half ? i : half) + 1;
    return to < n ? to : n;
}

/* The values of a window, ascending. */
struct window {
    double values[2 * CURVE_MOST_HALF + 1];
    int n;
};

static int place_in(const struct window *w, double v)
{
    int low = 0, high = w->n;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (w->values[middle] < v)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void window_add(struct window *w, double v)
{
    if (!curve_draws(v, false))
        return;
    const int at = place_in(w, v);
    memmove(&w->values[at + 1], &w->values[at], (size_t)(w->n - at) * sizeof *w->values);
    w->values[at] = v;
    w->n++;
}

static void window_remove(struct window *w, double v)
{
    if (!curve_draws(v, false))
        return;
    const int at = place_in(w, v);
    w->n--;
    memmove(&w->values[at], &w->values[at + 1], (size_t)(w->n - at) * sizeof *w->values);
}

static double median_of(const struct window *w)
{
    return w->n == 0 ? (double)NAN : 0.5 * (w->values[(w->n - 1) / 2] + w->values[w->n / 2]);
}

static void medians(const double *y, int64_t n, int64_t half, double *out)
{
    struct window w = { .n = 0 };
    int64_t from = 0, to = 0; /* what is in the window */
    for (int64_t i = 0; i < n; i++) {
        while (from < window_from(i, half))
            window_remove(&w, y[from++]);
        while (to < window_to(i, n, half))
            window_add(&w, y[to++]);
        out[i] = median_of(&w);
    }
}

static void means(const double *y, int64_t n, int64_t half, double *out)
{
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        int64_t count = 0;
        for (int64_t j = window_from(i, half); j < window_to(i, n, half); j++) {
            if (!curve_draws(y[j], false))
                continue;
            sum += y[j];
            count++;
        }
        out[i] = count > 0 ? sum / (double)count : (double)NAN;
    }
}

/* Means alone would make a hill of every spike, as wide as the window. */
void curve_smooth(const double *y, int64_t n, int64_t half, double *work, double *out)
{
    medians(y, n, half, work);
    means(work, n, half, out);
}

struct point {
    int x, y;
};

struct pen {
    struct text *out;
    struct point at;
    bool down;     /* on the paper: the next point is joined to this */
    int64_t drawn; /* points since it was put down */
};

static void lift(struct pen *pen)
{
    if (pen->down && pen->drawn == 1) /* a point alone: a line to itself shows as a dot */
        text_printf(pen->out, "L%d %d", pen->at.x, pen->at.y);
    pen->down = false;
}

static void draw_to(struct pen *pen, struct point p)
{
    if (!pen->down) {
        text_printf(pen->out, "M%d %d", p.x, p.y);
        pen->drawn = 1;
    } else {
        text_printf(pen->out, "%s%d %d", pen->drawn == 1 ? "L" : " ", p.x, p.y);
        pen->drawn++;
    }
    pen->down = true;
    pen->at = p;
}

/* What is known of one column while its points pass by. */
struct column {
    int index;
    int64_t n; /* points that can be drawn */
    int64_t lowest, highest;
};

static struct point place(double x, double y, const struct scale *sx, const struct scale *sy)
{
    return (struct point){ (int)lround(scale_at(sx, x) * CURVE_SIZE),
                           (int)lround((1 - scale_at(sy, y)) * CURVE_SIZE) };
}

void curve_path(const double *x, const double *y, int64_t n, const struct scale *sx,
                const struct scale *sy, int columns, struct text *out)
{
    struct pen pen = { .out = out };
    struct column c = { .index = -1 };
    for (int64_t i = 0; i <= n; i++) {
        const int index = i < n ? (int)(scale_at(sx, x[i]) * columns) : -1;
        if (i > 0 && index != c.index) {
            const int64_t first = c.lowest < c.highest ? c.lowest : c.highest;
            const int64_t second = c.lowest < c.highest ? c.highest : c.lowest;
            if (c.n == 0)
                lift(&pen);
            else
                draw_to(&pen, place(x[first], y[first], sx, sy));
            if (c.n > 0 && second != first)
                draw_to(&pen, place(x[second], y[second], sx, sy));
            c.n = 0;
        }
        c.index = index;
        if (i == n || !curve_draws(y[i], sy->log))
            continue;
        c.lowest = c.n == 0 || y[i] < y[c.lowest] ? i : c.lowest;
        c.highest = c.n == 0 || y[i] > y[c.highest] ? i : c.highest;
        c.n++;
    }
    lift(&pen);
}
