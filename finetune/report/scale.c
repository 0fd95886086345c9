#include "finetune/report/scale.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Rounding may leave a tick this far outside (in steps). */
static const double SLACK = 1e-6;

static double nice_step(double span, int about, bool integers)
{
    const double raw = span / about, magnitude = pow(10, floor(log10(raw)));
    const double r = raw / magnitude;
    const double step = (r <= 1 ? 1 : r <= 2 ? 2 : r <= 5 ? 5 : 10) * magnitude;
    return integers && step < 1 ? 1 : step;
}

/* A constant, or what is nearly one, gets room on both sides. */
static void widen(double *low, double *high, bool integers)
{
    const double size = fmax(fabs(*low), fabs(*high));
    const bool nothing = size < 1e-200; /* steps between such values would be zero */
    if (!nothing && *high - *low > 1e-9 * size)
        return;
    const double pad = integers || nothing ? 1 : 0.1 * size;
    *low = *low >= 0 && *low < pad ? 0 : *low - pad;
    *high += pad;
}

struct scale scale_linear(double low, double high, int about, bool integers, bool outward)
{
    widen(&low, &high, integers);
    struct scale s = { .low = low, .high = high };
    s.step = nice_step(high - low, about, integers);
    if (outward) {
        s.low = floor(low / s.step + SLACK) * s.step;
        s.high = ceil(high / s.step - SLACK) * s.step;
    }
    const double first = ceil(s.low / s.step - SLACK);
    for (int i = 0; i < SCALE_MAX_TICKS; i++) {
        const double tick = (first + i) * s.step;
        if (tick > s.high + SLACK * s.step)
            break;
        s.ticks[s.n_tick++] = tick == 0 ? 0 : tick; /* no minus before a zero */
    }
    return s;
}

/* The i-th of ..., 1, 2, 5, 10, 20, ...: 0 is 1. */
static double one_two_five(int i)
{
    static const double digits[] = { 1, 2, 5 };
    const int decade = i >= 0 ? i / 3 : -((2 - i) / 3);
    return digits[i - 3 * decade] * pow(10, decade);
}

struct scale scale_log(double low, double high)
{
    struct scale s = { .log = true };
    int from = 3 * (int)floor(log10(low)), to = 3 * (int)ceil(log10(high)), stride = 3;
    if (high / low < 1e3) {
        while (one_two_five(from + 1) <= low * (1 + SLACK))
            from++;
        while (to > from + 1 && one_two_five(to - 1) >= high * (1 - SLACK))
            to--;
        stride = 1;
    } else {
        stride *= 1 + (to - from) / 3 / 7;
    }
    if (to <= from)
        to = from + 1;
    s.low = one_two_five(from);
    s.high = one_two_five(to);
    for (int i = from; i <= to && s.n_tick < SCALE_MAX_TICKS; i += stride)
        s.ticks[s.n_tick++] = one_two_five(i);
    return s;
}

double scale_at(const struct scale *s, double v)
{
    const double at =
        s->log ? (v > 0 ? (log10(v) - log10(s->low)) / (log10(s->high) - log10(s->low)) : 0)
               : (v - s->low) / (s->high - s->low);
    return at > 0 ? fmin(at, 1) : 0;
}

/* 2.5e-05 -> 2.5e-5 */
static void shorten_exponent(char *text)
{
    char *e = strchr(text, 'e');
    if (e == NULL)
        return;
    char *from = e + 1, *to = e + 1;
    if (*from == '-')
        *to++ = *from;
    from += strspn(from, "+-0");
    memmove(to, from, strlen(from) + 1);
}

static int magnitude(double v)
{
    return v == 0 ? 0 : (int)floor(log10(fabs(v)) + 1e-9);
}

void scale_label(const struct scale *s, int tick, char out[SCALE_LABEL_SIZE])
{
    static const char *const units[] = { "", "k", "M", "G", "T" };
    const double v = s->ticks[tick], most = fmax(fabs(s->low), fabs(s->high));
    const double size = s->log ? fabs(v) : most, step = s->log ? v : s->step;
    if (v == 0) {
        snprintf(out, SCALE_LABEL_SIZE, "0");
    } else if (size < 0.01 || size >= 1e15) {
        const int digits = magnitude(v) - magnitude(step);
        snprintf(out, SCALE_LABEL_SIZE, "%.*e", digits > 0 && digits < 12 ? digits : 0, v);
        shorten_exponent(out);
    } else {
        const int unit = size < 1e4 ? 0 : magnitude(size) / 3;
        const double part = pow(1000, unit);
        const int digits = -magnitude(step / part);
        snprintf(out, SCALE_LABEL_SIZE, "%.*f%s", digits > 0 && digits < 12 ? digits : 0, v / part,
                 units[unit]);
    }
}
