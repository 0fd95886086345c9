#include "kernels/plan/plan.h"

#define PLAN_NOTHING(name, args)                                                                   \
    static void plan_##name(struct backend *be, const struct args *a, void *scratch)               \
    {                                                                                              \
        (void)be;                                                                                  \
        (void)a;                                                                                   \
        (void)scratch;                                                                             \
    }
#define plan_route_counts plan_unused_route_counts
#define plan_sum_squares plan_unused_sum_squares
OPS(PLAN_NOTHING)
#undef plan_route_counts
#undef plan_sum_squares

/* The bound: a token's choices differ, so top_k experts may have all rows, and no more than that.
 */
static void plan_route_counts(struct backend *be, const struct route_counts_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    for (int64_t e = 0; e <= a->n_expert; e++)
        a->host[e] = (e < a->top_k ? e : a->top_k) * a->n_tok;
}

static void plan_sum_squares(struct backend *be, const struct sum_squares_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    *a->sum = 0;
}

void plan_backend_init(struct plan_backend *plan, const struct backend *stands_for,
                       struct arena *scratch)
{
    (void)plan_unused_route_counts;
    (void)plan_unused_sum_squares;
    plan->table = *stands_for->k; /* its scratch sizes ... */
#define PLAN_ENTRY(name, args) plan->table.name = plan_##name;
    OPS(PLAN_ENTRY) /* ... and no work */
#undef PLAN_ENTRY
    plan->be = *stands_for;
    plan->be.name = "plan";
    plan->be.k = &plan->table;
    plan->be.scratch = scratch;
}
