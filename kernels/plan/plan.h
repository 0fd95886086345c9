/* A backend of no-ops: the real forward and backward run over measuring arenas, and what they would
 * have taken is the plan. It stands for another backend, whose scratch sizes it answers with. What
 * depends on data is planned at its bound: every expert may get every row.
 */
#ifndef KERNELS_PLAN_PLAN_H
#define KERNELS_PLAN_PLAN_H

#include "kernels/ops.h"
#include "kernels/plan/cost.h"

struct plan_backend {
    struct backend be; /* first: ops find their plan_backend by it */
    struct ops table;
    int64_t busy_expert; /* the first of the top_k experts that get all rows */
    bool spread;         /* or all experts share them: for seconds, which bounds would flatter */
    struct op_rates rates;
    double seconds; /* what the ops so far would take, roughly (kernels/plan/cost.h) */
};

/* be->scratch must be a measuring arena. The struct must stay where it is while in use. */
void plan_backend_init(struct plan_backend *plan, const struct backend *stands_for,
                       struct arena *scratch);

#endif
