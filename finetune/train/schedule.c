#include "finetune/train/schedule.h"

#include <math.h>

struct schedule schedule_of(const struct recipe *recipe, int64_t total_steps)
{
    const int64_t warmup = recipe->warmup_steps > 0
                               ? recipe->warmup_steps
                               : (int64_t)ceil(recipe->warmup_ratio * (double)total_steps);
    return (
        struct schedule){ .kind = recipe->lr_scheduler, .warmup = warmup, .total = total_steps };
}

static double at_least_one(int64_t n)
{
    return n > 1 ? (double)n : 1;
}

double schedule_factor(const struct schedule *s, int64_t step)
{
    if (s->kind == SCHEDULER_CONSTANT)
        return 1;
    if (step < s->warmup)
        return (double)step / at_least_one(s->warmup);
    const double span = at_least_one(s->total - s->warmup);
    switch (s->kind) {
    case SCHEDULER_LINEAR:
        return fmax(0, (double)(s->total - step) / span);
    case SCHEDULER_COSINE: /* half a period, from 1 to 0 */
        return fmax(0, 0.5 * (1 + cos(3.14159265358979323846 * (double)(step - s->warmup) / span)));
    default:
        return 1;
    }
}
