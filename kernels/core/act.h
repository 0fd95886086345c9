/* Activations: what flows between ops, in the backend's own element type (struct backend.act): real
 * on the CPU, bfloat16 or float on a CUDA device.
 *
 *     struct act *x = arena_acts(be, be->scratch, n_tok * d_model);
 *     struct act *row = act_at(be, x, t * d_model);
 *
 * struct act is never defined: a pointer to it can be passed on, not read and not moved but by
 * act_at, so that code which forgets the element type does not compile.
 */
#ifndef KERNELS_CORE_ACT_H
#define KERNELS_CORE_ACT_H

#include <stdint.h>

#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "kernels/core/dtype.h"

struct act;

static inline size_t act_bytes(const struct backend *be, int64_t n)
{
    return (size_t)n * dtype_size(be->act);
}

/* Element n of x; act_in for what is only read. */
static inline struct act *act_at(const struct backend *be, struct act *x, int64_t n)
{
    return (struct act *)(void *)((char *)x + act_bytes(be, n));
}

static inline const struct act *act_in(const struct backend *be, const struct act *x, int64_t n)
{
    return (const struct act *)(const void *)((const char *)x + act_bytes(be, n));
}

static inline struct act *arena_acts(const struct backend *be, struct arena *a, int64_t n)
{
    return (struct act *)arena_push(a, act_bytes(be, n));
}

/* Reals as activations and back: only for a backend whose activations are reals (the CPU's). */
static inline struct act *acts_of(real *x)
{
    return (struct act *)(void *)x;
}

static inline const struct act *acts_in(const real *x)
{
    return (const struct act *)(const void *)x;
}

static inline real *reals_of(struct act *x)
{
    return (real *)(void *)x;
}

static inline const real *reals_in(const struct act *x)
{
    return (const real *)(const void *)x;
}

#endif
