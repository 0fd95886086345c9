/* An axis: from where to where, and ticks at round numbers. */
#ifndef FINETUNE_REPORT_SCALE_H
#define FINETUNE_REPORT_SCALE_H

#include <stdbool.h>

enum { SCALE_MAX_TICKS = 14, SCALE_LABEL_SIZE = 24 };

struct scale {
    double low, high; /* low < high */
    bool log;         /* of base 10; low > 0 */
    double step;      /* between ticks, where not log */
    double ticks[SCALE_MAX_TICKS];
    int n_tick;
};

/* low <= high, finite. outward: the ends move out to ticks. integers: no ticks between them. */
struct scale scale_linear(double low, double high, int about, bool integers, bool outward);

/* 0 < low <= high. */
struct scale scale_log(double low, double high);

/* Where v stands: 0 at low, 1 at high; held within. */
double scale_at(const struct scale *s, double v);

/* "0.25", "20k", "1e-5". */
void scale_label(const struct scale *s, int tick, char out[SCALE_LABEL_SIZE]);

#endif
