/* What an op has to do, counted from its shapes: what plans and benchmarks measure against.
 *
 * Counts are of the least work: every operand read once, every result written once. What depends on
 * data is counted at its bound (each token attends to all before it in the stream).
 */
#ifndef KERNELS_PLAN_COST_H
#define KERNELS_PLAN_COST_H

#include "kernels/ops.h"

struct op_cost {
    double flops;      /* of matrix products and attention: 2 per multiply-add */
    double bytes;      /* through the memory of the backend */
    double scan_steps; /* (token, channel, state) of the selective scan's forward; a backward's
                          counts as SCAN_BACKWARD_STEPS of them */
};

/* Special functions bound the forward, f32 instructions the backward: 40 and 60 us per 1024 tokens
 * at d_inner 8192 on one GPU, and three times a forward on the CPU; between the two. */
#define SCAN_BACKWARD_STEPS 2.0

#define OP_COST_DECLARE(name, args)                                                                \
    struct op_cost op_cost_##name(const struct backend *be, const struct args *a);
OPS(OP_COST_DECLARE)
#undef OP_COST_DECLARE

/* What a machine does in a second, roughly: enough to compare two ways through the same step. Fixed
 * numbers, not measured ones: a plan decides rounding, so it must not depend on the day. */
struct op_rates {
    double flops, bytes, scan_steps;
    double start; /* seconds that any op takes */
};
struct op_rates op_rates_of(const struct backend *be);

/* Seconds: the slowest of the three, and the start. */
double op_seconds(struct op_cost cost, struct op_rates rates);

#endif
