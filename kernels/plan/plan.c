#include "kernels/plan/plan.h"

static struct plan_backend *plan_of(struct backend *be)
{
    return (struct plan_backend *)(void *)be;
}

/* The bound: a token's choices differ, so top_k experts may have all rows, and no more than that.
 */
static void answer_route_counts(const struct plan_backend *plan, const struct route_counts_args *a)
{
    const int64_t last = a->n_expert - a->top_k;
    const int64_t first = plan->busy_expert < last ? plan->busy_expert : last;
    a->host[0] = 0;
    for (int64_t e = 0; e < a->n_expert; e++)
        a->host[e + 1] = plan->spread
                             ? (e + 1) * a->n_tok * a->top_k / a->n_expert
                             : a->host[e] + (e >= first && e < first + a->top_k ? a->n_tok : 0);
}

static void answer_sum_squares(const struct sum_squares_args *a)
{
    *a->sum = 0;
}

/* What an op hands to the host has to be answered; nothing else is touched. */
static void answer(const struct plan_backend *plan, enum op_id op, const void *a)
{
    if (op == OP_route_counts)
        answer_route_counts(plan, a);
    else if (op == OP_sum_squares)
        answer_sum_squares(a);
}

#define PLAN_RUN(name, args)                                                                       \
    static void plan_##name(struct backend *be, const struct args *a, void *scratch)               \
    {                                                                                              \
        struct plan_backend *plan = plan_of(be);                                                   \
        (void)scratch;                                                                             \
        plan->seconds += op_seconds(op_cost_##name(be, a), plan->rates);                           \
        answer(plan, OP_##name, a);                                                                \
    }
OPS(PLAN_RUN)

void plan_backend_init(struct plan_backend *plan, const struct backend *stands_for,
                       struct arena *scratch)
{
    plan->table = *stands_for->k; /* its scratch sizes ... */
#define PLAN_ENTRY(name, args) plan->table.name = plan_##name;
    OPS(PLAN_ENTRY) /* ... and no work */
#undef PLAN_ENTRY
    plan->be = *stands_for;
    plan->be.name = "plan";
    plan->be.k = &plan->table;
    plan->be.scratch = scratch;
    plan->be.profile = NULL;
    plan->rates = op_rates_of(stands_for);
    plan->seconds = 0;
    plan->busy_expert = 0;
    plan->spread = false;
}
