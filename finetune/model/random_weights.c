/* Weights made from a seed, for planning and benchmarks of shapes nobody has to download.
 *
 * Element i of tensor t (in the order of slots_visit) is a pure function of (seed, t, i): the same
 * for any number of threads, and on a device (op random has the numbers).
 */
#include <math.h>
#include <unistd.h>

#include "finetune/model/slots.h"
#include "kernels/core/rng.h"
#include "kernels/core/text.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ops.h"

struct generator {
    struct weights *w;
    struct arena *arena;
    uint64_t seed, tensor;
    bool matrices;
};

static double uniform(const struct generator *g, int64_t i)
{
    return rng_uniform(g->seed, RNG_INIT_WEIGHTS, g->tensor, (uint64_t)i);
}

static void fill_matrix(const struct generator *g, struct weight w, void *data)
{
    struct arena no_scratch = { 0 };
    struct backend be;
    cpu_backend_init(&be, &no_scratch, 0);
    op_random(&be, &(struct random_args){ .y = data,
                                          .dtype = w.dtype,
                                          .n = w.rows * w.cols,
                                          .range = g->w->config.initializer_range,
                                          .seed = g->seed,
                                          .tensor = g->tensor });
}

/* The value that a real of the slot begins with; i indexes its converted form. */
static double start_value(const struct generator *g, const struct slot *slot, int64_t i)
{
    switch (slot->start) {
    case START_NORMAL: /* matrices alone */
        break;
    case START_ONE:
        return 1;
    case START_ZERO:
        return 0;
    case START_CONV:
        return (2 * uniform(g, i) - 1) / sqrt((double)g->w->config.mamba_d_conv);
    case START_A_LOG: /* a = -exp(log(n + 1)); state n is the row of (d_state, d_inner) */
        return -(double)(i / slot->dims[0] + 1);
    case START_DT_BIAS: {
        const double dt = 0.001 * pow(100, uniform(g, i));
        return dt + log(-expm1(-dt));
    }
    }
    return 0;
}

static bool generate_slot(void *context, const struct slot *slot, struct err *err)
{
    (void)err;
    struct generator *g = context;
    int64_t n = 1;
    for (int i = 0; i < slot->n_dim; i++)
        n *= slot->dims[i];
    if (slot->kind == SLOT_MATRIX) {
        struct weight w = { .dtype = g->w->config.dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16,
                            .rows = slot->dims[0],
                            .cols = slot->dims[1] };
        void *data = g->matrices ? arena_push(g->arena, (size_t)n * dtype_size(w.dtype)) : NULL;
        w.data = data;
        *slot->matrix = w;
        if (g->matrices && !g->arena->measuring)
            fill_matrix(g, w, data);
    } else {
        real *out = arena_reals(g->arena, n);
        *slot->vector = out;
        for (int64_t i = 0; !g->arena->measuring && i < n; i++)
            out[i] = (real)start_value(g, slot, i);
    }
    g->tensor++;
    return true;
}

static bool generate_all(struct weights *w, struct arena *arena, uint64_t seed, bool matrices,
                         struct err *err)
{
    struct generator g = { .w = w, .arena = arena, .seed = seed, .matrices = matrices };
    w->no_bias = w->config.mamba_conv_bias ? NULL : arena_zeros(arena, w->config.d_inner);
    return slots_visit(w, generate_slot, &g, err);
}

/* Pages are only reserved at first: a shape that cannot fit must be refused before it is filled. */
static bool check_memory(size_t bytes, const char *place, struct err *err)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page <= 0 || bytes / (size_t)page <= (size_t)pages)
        return true;
    char needed[32], there[32];
    text_bytes(needed, (double)bytes);
    text_bytes(there, (double)pages * (double)page);
    return err_set(err, ERR_NO_MEMORY,
                   "%s: random weights of this shape take %s; this machine has %s", place, needed,
                   there);
}

bool weights_generate(struct weights *w, uint64_t seed, bool matrices, const char *place,
                      struct err *err)
{
    struct arena measure = { 0 };
    arena_init_measuring(&measure, "weights");
    w->seed = seed;
    return generate_all(w, &measure, seed, matrices, err) &&
           check_memory(measure.peak, place, err) &&
           arena_init(&w->owned, "weights", measure.peak, err) &&
           generate_all(w, &w->owned, seed, matrices, err);
}

bool weights_measure(struct weights *w, struct err *err)
{
    arena_init_measuring(&w->owned, "weights");
    return generate_all(w, &w->owned, 0, true, err);
}
