#include "finetune/export/verify.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { N_PROBE = 16 };

/* B may have been scaled and rounded once, and stored in F32: 2^-24 each, of every term; and the
 * same again as a margin for the sums in double. */
static const double tolerance = 0x1p-22;

/* A random vector of +-1 from (probe, i), the same on every machine: a finaliser of Murmur's kind.
 */
static double sign_of(int64_t probe, int64_t i)
{
    uint64_t h = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u + (uint64_t)probe * 0xD1B54A32D192ED03u;
    h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93u;
    h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93u;
    return (h >> 63) != 0 ? 1 : -1;
}

/* ax (rank, N_PROBE) = A x for each x. Values as the files hold them, in F32. */
static void project(const struct lora_slot *slot, double *ax)
{
    const int64_t in = slot->module->in;
    for (int64_t k = 0; k < slot->rank * N_PROBE; k++)
        ax[k] = 0;
    for (int64_t i = 0; i < in; i++) {
        double x[N_PROBE];
        for (int p = 0; p < N_PROBE; p++)
            x[p] = sign_of(p, i);
        for (int64_t k = 0; k < slot->rank; k++) {
            const double a = (double)(float)slot->a[k * in + i];
            for (int p = 0; p < N_PROBE; p++)
                ax[k * N_PROBE + p] += a * x[p];
        }
    }
}

/* Row o of D x for each x into y, and the size of its terms into size. Without a slot: zeros. */
static void row(const struct lora_slot *slot, double scale, const double *ax, int64_t o,
                double y[N_PROBE], double size[N_PROBE])
{
    for (int p = 0; p < N_PROBE; p++)
        y[p] = size[p] = 0;
    for (int64_t k = 0; slot != NULL && k < slot->rank; k++) {
        const double b = scale * (double)(float)slot->b[o * slot->rank + k];
        for (int p = 0; p < N_PROBE; p++) {
            y[p] += b * ax[k * N_PROBE + p];
            size[p] += fabs(b * ax[k * N_PROBE + p]);
        }
    }
}

struct side {
    const struct lora_slot *slot;
    double scale, *ax; /* (rank, N_PROBE) */
};

static bool open_side(struct side *s)
{
    const int64_t rank = s->slot != NULL ? s->slot->rank : 0;
    s->ax = calloc((size_t)rank * N_PROBE + 1, sizeof *s->ax);
    if (s->ax != NULL && s->slot != NULL)
        project(s->slot, s->ax);
    return s->ax != NULL;
}

static bool compare(const struct lora_module *m, const struct side *x, const struct side *y,
                    const char *place, struct err *err)
{
    for (int64_t o = 0; o < m->out; o++) {
        double dx[N_PROBE], dy[N_PROBE], size_x[N_PROBE], size_y[N_PROBE];
        row(x->slot, x->scale, x->ax, o, dx, size_x);
        row(y->slot, y->scale, y->ax, o, dy, size_y);
        for (int p = 0; p < N_PROBE; p++) {
            const double bound = tolerance * (size_x[p] > size_y[p] ? size_x[p] : size_y[p]);
            if (!(fabs(dx[p] - dy[p]) <= bound)) /* also where one is no number */
                return err_set(err, ERR_INTERNAL,
                               "%s: '%s': what was written changes the weight otherwise than the "
                               "adapter (output %" PRId64 ": %.9g, expected %.9g)",
                               place, m->path, o, dy[p], dx[p]);
        }
    }
    return true;
}

bool export_same_change(const struct lora_adapter *x, const struct lora_choice *choices_x,
                        const struct lora_adapter *y, const struct lora_choice *choices_y,
                        const char *place, struct err *err)
{
    bool ok =
        x->n_module == y->n_module || err_set(err, ERR_INTERNAL, "%s: is of another model", place);
    for (int64_t i = 0; ok && i < x->n_module; i++) {
        struct side a = { .slot = lora_adapter_slot(x, i), .scale = choices_x[i].scale };
        struct side b = { .slot = lora_adapter_slot(y, i), .scale = choices_y[i].scale };
        const struct lora_module *m = &x->modules[i];
        if (a.slot == NULL && b.slot == NULL)
            continue;
        if (a.slot != NULL && b.slot == NULL)
            ok = err_set(err, ERR_INTERNAL, "%s: '%s' was not written", place, m->path);
        else
            ok = (open_side(&a) && open_side(&b)) || err_no_memory(err, m->path);
        ok = ok && compare(m, &a, &b, place, err);
        free(a.ax);
        free(b.ax);
    }
    return ok;
}

bool export_verify_peft(const struct export_source *s, const char *dir, struct err *err)
{
    struct export_source again = { 0 };
    if (!export_open(&again, dir, s->base_name, err))
        return false;
    const bool ok =
        export_same_change(&s->adapter, s->choices, &again.adapter, again.choices, dir, err);
    export_close(&again);
    return ok;
}
