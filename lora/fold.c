#include "lora/fold.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- which rank and scale ---- */

struct group {
    int64_t r;    /* the highest */
    double scale; /* of most parameters; 1 when all are 0 */
};

/* alpha / r of the folded group gives the scale back to a rounding of double, far below B's. */
static bool same_scale(double x, double y)
{
    return fabs(x - y) <= 1e-14 * fabs(y);
}

static bool is_in(const struct lora_module *m, enum lora_fold_what what)
{
    return what == LORA_FOLD_ALL || (what == LORA_FOLD_EXPERTS && m->expert >= 0);
}

static double parameters_of_scale(const struct lora_module *modules, int64_t n,
                                  const struct lora_choice *choices, enum lora_fold_what what,
                                  double scale)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (choices[i].on && is_in(&modules[i], what) && same_scale(choices[i].scale, scale))
            sum += (double)choices[i].r * (double)(modules[i].in + modules[i].out);
    }
    return sum;
}

static struct group find_group(const struct lora_module *modules, int64_t n,
                               const struct lora_choice *choices, enum lora_fold_what what)
{
    struct group g = { .scale = 1 };
    double most = 0, last = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct lora_choice *c = &choices[i];
        if (!c->on || !is_in(&modules[i], what))
            continue;
        g.r = c->r > g.r ? c->r : g.r;
        if (c->scale == 0 || c->scale == last) /* zeros can be had with any scale */
            continue;
        last = c->scale;
        const double n_param = parameters_of_scale(modules, n, choices, what, c->scale);
        if (n_param > most) {
            most = n_param;
            g.scale = c->scale;
        }
    }
    return g;
}

/* Layers (by any module of theirs) in which some expert is adapted. */
static bool has_adapted_expert(const struct lora_module *modules, int64_t n,
                               const struct lora_choice *choices, int64_t layer)
{
    for (int64_t i = 0; i < n; i++) {
        if (modules[i].layer == layer && modules[i].expert >= 0 && choices[i].on)
            return true;
    }
    return false;
}

/* ---- choices ---- */

/* alpha / r has to give the scale: alpha = scale * r, without the digits that a rounding left. */
static double alpha_of(double scale, int64_t r)
{
    const double alpha = scale * (double)r, whole = nearbyint(alpha);
    return same_scale(alpha, whole) ? whole : alpha;
}

static struct lora_choice choice_of(int64_t r, double scale)
{
    const double alpha = alpha_of(scale, r);
    return (struct lora_choice){ .on = true, .r = r, .alpha = alpha, .scale = alpha / (double)r };
}

static void fold_choices(struct lora_fold *f, const struct lora_module *modules, int64_t n,
                         const struct lora_choice *choices, const struct group *g,
                         enum lora_fold_what what)
{
    int64_t layer = -1;
    bool fill = false;
    for (int64_t i = 0; i < n; i++) {
        const struct lora_choice *from = &choices[i];
        struct lora_choice *to = &f->choices[i];
        if (modules[i].expert >= 0 && modules[i].layer != layer) {
            layer = modules[i].layer;
            fill = has_adapted_expert(modules, n, choices, layer);
        }
        *to = (struct lora_choice){ 0 };
        if (from->on && !is_in(&modules[i], what)) {
            *to = choice_of(from->r, from->scale);
        } else if (from->on) {
            *to = choice_of(g->r, g->scale);
            f->n_padded += from->r != g->r;
            f->n_scaled += !same_scale(from->scale, g->scale);
        } else if (modules[i].expert >= 0 && fill) {
            *to = choice_of(g->r, g->scale);
            f->n_filled++;
        }
    }
}

bool lora_fold_plan(struct lora_fold *f, const struct lora_module *modules, int64_t n,
                    const struct lora_choice *choices, const struct lora_config *config,
                    enum lora_fold_what what, struct err *err)
{
    *f = (struct lora_fold){ .choices = calloc((size_t)n + 1, sizeof *f->choices) };
    if (f->choices == NULL)
        return err_no_memory(err, "the folded adapter");
    f->config = (struct lora_config){ .r = config->r,
                                      .alpha = config->alpha,
                                      .use_rslora = config->use_rslora };
    const struct group g = find_group(modules, n, choices, what);
    if (what == LORA_FOLD_NOTHING || g.r == 0) { /* no experts: nothing to fold either */
        memcpy(f->choices, choices, (size_t)n * sizeof *choices);
        return true;
    }
    fold_choices(f, modules, n, choices, &g, what);
    f->config.use_rslora = false;
    f->config.alpha = alpha_of(lora_scale(config, config->r, config->alpha), config->r);
    if (what == LORA_FOLD_ALL) {
        f->config.r = g.r;
        f->config.alpha = alpha_of(g.scale, g.r);
    }
    return true;
}

/* ---- values ---- */

static bool open_adapter(struct lora_fold *f, const struct lora_module *modules, int64_t n,
                         struct err *err)
{
    static const struct backend host = { .act = DTYPE_REAL };
    struct arena measure;
    struct lora_adapter_args args = {
        .modules = modules, .n_module = n, .choices = f->choices, .be = &host, .arena = &measure
    };
    arena_init_measuring(&measure, "folded adapter");
    if (!lora_adapter_init(&f->adapter, &args, err))
        return false;
    lora_adapter_free(&f->adapter);
    args.arena = &f->arena;
    return arena_init(&f->arena, "folded adapter", measure.peak, err) &&
           lora_adapter_init(&f->adapter, &args, err);
}

/* A's first rows and B's first columns; the rest are zeros. */
static bool copy_slot(const struct lora_slot *from, const struct lora_slot *to, double ratio,
                      struct err *err)
{
    const int64_t r = from->rank, wide = to->rank;
    memcpy(to->a, from->a, (size_t)(r * from->module->in) * sizeof *to->a);
    for (int64_t o = 0; o < from->module->out; o++) {
        for (int64_t k = 0; k < r; k++) {
            const real x = (real)((double)from->b[o * r + k] * ratio);
            if (!isfinite((double)(float)x))
                return err_set(err, ERR_DATA,
                               "'%s': lora_B overflows when a scale of %g is folded into it",
                               from->module->path, ratio);
            to->b[o * wide + k] = x;
        }
    }
    return true;
}

bool lora_fold_open(struct lora_fold *f, const struct lora_adapter *from,
                    const struct lora_choice *choices, const struct lora_config *config,
                    enum lora_fold_what what, struct err *err)
{
    const int64_t n = from->n_module;
    bool ok = lora_fold_plan(f, from->modules, n, choices, config, what, err) &&
              open_adapter(f, from->modules, n, err);
    if (ok)
        memset(f->adapter.params, 0, (size_t)f->adapter.n_param * sizeof *f->adapter.params);
    for (int64_t i = 0; ok && i < n; i++) {
        const struct lora_slot *slot = lora_adapter_slot(from, i);
        const double scale = f->choices[i].scale;
        const double ratio = same_scale(choices[i].scale, scale) ? 1 : choices[i].scale / scale;
        if (slot != NULL)
            ok = copy_slot(slot, lora_adapter_slot(&f->adapter, i), ratio, err);
    }
    if (!ok)
        lora_fold_close(f);
    return ok;
}

void lora_fold_close(struct lora_fold *f)
{
    lora_adapter_free(&f->adapter);
    arena_free(&f->arena);
    free(f->choices);
    *f = (struct lora_fold){ 0 };
}
