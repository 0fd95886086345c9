#include "kernels/timing/timing.h"

#include <string.h>
#include <time.h>

#include "kernels/core/device.h"

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void add(struct timing_sum *sum, double seconds)
{
    sum->seconds += seconds;
    sum->calls++;
}

/* ---- shapes of GEMM ---- */

static bool same_shape(const struct timing_gemm *g, const struct gemm_args *a)
{
    return g->m == a->m && g->n == a->n && g->k == a->k && g->trans_a == a->trans_a &&
           g->trans_b == a->trans_b;
}

static uint64_t hash_shape(const struct gemm_args *a)
{
    const int64_t parts[] = { a->m, a->n, a->k, 2 * a->trans_a + a->trans_b };
    uint64_t h = 0;
    for (int i = 0; i < 4; i++) {
        h = (h ^ (uint64_t)parts[i]) * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: mixes well */
        h ^= h >> 29;
    }
    return h;
}

/* The shape's entry, a new one where there is none yet; NULL: the table is full. */
static struct timing_gemm *find_shape(struct timing_backend *t, const struct gemm_args *a)
{
    uint64_t at = hash_shape(a) % TIMING_MAX_GEMM;
    for (int i = 0; i < TIMING_MAX_GEMM; i++, at = (at + 1) % TIMING_MAX_GEMM) {
        struct timing_gemm *g = &t->gemms[at];
        if (g->sum.calls > 0 && !same_shape(g, a))
            continue;
        if (g->sum.calls == 0) {
            *g = (struct timing_gemm){ a->m, a->n, a->k, a->trans_a, a->trans_b, { 0, 0 } };
            t->n_gemm++;
        }
        return g;
    }
    return NULL;
}

static void count_gemm(struct timing_backend *t, const struct gemm_args *a, double seconds)
{
    struct timing_gemm *g = find_shape(t, a);
    if (g != NULL)
        add(&g->sum, seconds);
    t->gemm_flops += 2 * (double)a->m * (double)a->n * (double)a->k;
}

/* ---- the ops ---- */

/* With `wait` for what it queued; an error of the wrapped backend is this one's too. */
static void finish_call(struct timing_backend *t)
{
    struct backend *wrapped = t->wrapped;
    if (t->wait && wrapped->device != NULL && wrapped->err.code == ERR_NONE)
        wrapped->device->finish(wrapped->device, &wrapped->err);
    if (t->be.err.code == ERR_NONE && wrapped->err.code != ERR_NONE)
        t->be.err = wrapped->err;
}

#define TIMING_RUN(name, args)                                                                     \
    static void timing_##name(struct backend *be, const struct args *a, void *scratch)             \
    {                                                                                              \
        struct timing_backend *t = (struct timing_backend *)(void *)be;                            \
        const double start = now();                                                                \
        t->wrapped->k->name(t->wrapped, a, scratch);                                               \
        finish_call(t);                                                                            \
        const double seconds = now() - start;                                                      \
        add(&t->ops[OP_##name], seconds);                                                          \
        if (OP_##name == OP_gemm)                                                                  \
            count_gemm(t, (const void *)a, seconds);                                               \
        if (t->on_call != NULL)                                                                    \
            t->on_call(t->context, OP_##name, a);                                                  \
    }                                                                                              \
    static size_t timing_##name##_scratch(const struct backend *be, const struct args *a)          \
    {                                                                                              \
        const struct backend *wrapped =                                                            \
            ((const struct timing_backend *)(const void *)be)->wrapped;                            \
        return wrapped->k->name##_scratch == NULL ? 0 : wrapped->k->name##_scratch(wrapped, a);    \
    }
OPS(TIMING_RUN)
#undef TIMING_RUN

/* ---- the backend ---- */

void timing_backend_reset(struct timing_backend *t)
{
    memset(t->ops, 0, sizeof t->ops);
    memset(t->gemms, 0, sizeof t->gemms);
    t->gemm_flops = 0;
    t->n_gemm = 0;
}

void timing_backend_init(struct timing_backend *t, struct backend *wrapped)
{
    t->wrapped = wrapped;
    t->table = (struct ops){
#define TIMING_ENTRY(name, args) .name = timing_##name, .name##_scratch = timing_##name##_scratch,
        OPS(TIMING_ENTRY)
#undef TIMING_ENTRY
    };
    t->be = *wrapped;
    t->be.k = &t->table;
    t->wait = false;
    t->on_call = NULL;
    t->context = NULL;
    timing_backend_reset(t);
}

const char *timing_op_name(enum op_id op)
{
    static const char *const names[] = {
#define TIMING_NAME(name, args) [OP_##name] = #name,
        OPS(TIMING_NAME)
#undef TIMING_NAME
    };
    return names[op];
}
