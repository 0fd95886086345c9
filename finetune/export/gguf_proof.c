#include "finetune/export/gguf_proof.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/export/gguf_names.h"
#include "kernels/core/rng.h"

enum { PROBE_SEED = 1 };

/* Of a module's delta, as a relative error in norm, from which on F16 is worth a remark. */
static const double WORTH_A_NOTE = 5e-3;

struct proof {
    const struct export_source *s;
    const struct gguf_pairs *pairs;
    enum dtype dtype;
    const char *path;
    struct gguf file;
    struct text *notes;
    struct err *err;
    double relative, absolute; /* of one rounding */
    double worst;              /* relative error of a module's delta, and whose */
    const char *worst_name;
};

/* A module's two tensors in the file, and its own matrices. */
struct view {
    const struct gguf_pair *pair;
    const struct gguf_tensor *a, *b;
    int64_t expert;
    const struct lora_slot *slot; /* NULL: not adapted */
    double scale;                 /* its own */
    double *x;                    /* (in): the vector */
};

/* Element (i, r) of lora_b, or of lora_a as llama.cpp multiplies it: ne[0] runs fastest. */
static double stored(const struct gguf_tensor *t, int64_t expert, int64_t row, int64_t col)
{
    const int64_t cols = t->dims[t->n_dim - 1], rows = t->dims[t->n_dim - 2];
    const size_t at = (size_t)((expert * rows + row) * cols + col) * dtype_size(t->dtype);
    if (t->dtype == DTYPE_F16) {
        uint16_t half;
        memcpy(&half, t->data + at, sizeof half);
        return (double)dtype_from_f16(half);
    }
    float x;
    memcpy(&x, t->data + at, sizeof x);
    return (double)x;
}

static void fill_probe(int64_t module, int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = 2 * rng_uniform(PROBE_SEED, RNG_INIT_ADAPTER, (uint64_t)module, (uint64_t)i) - 1;
}

/* How far off a stored number of this size can be. */
static double rounding(const struct proof *p, double x)
{
    return fmax(fabs(x) * p->relative, p->absolute);
}

/* A x of one rank row, of the file and of the adapter, and what rounding A may change of it. */
struct inner {
    double file, own, size, slack;
};

static struct inner multiply_a(const struct proof *p, const struct view *v, int64_t r)
{
    struct inner sum = { 0 };
    for (int64_t i = 0; i < v->pair->in; i++) {
        const double x = v->x[i];
        const double a = v->pair->embedding ? stored(v->a, 0, i, r) : stored(v->a, v->expert, r, i);
        sum.file += a * x;
        sum.size += fabs(a * x);
        sum.slack += rounding(p, a) * fabs(x);
        if (v->slot != NULL && r < v->slot->rank)
            sum.own += (double)v->slot->a[r * v->pair->in + i] * x;
    }
    return sum;
}

/* Compares y' and y; false with a message. */
static bool compare(struct proof *p, const struct view *v, const struct inner *inner)
{
    const double file_scale = (double)p->pairs->alpha / (double)v->b->dims[v->b->n_dim - 1];
    double off = 0, all = 0;
    for (int64_t o = 0; o < v->pair->out; o++) {
        double theirs = 0, ours = 0, bound = 0;
        for (int64_t r = 0; r < v->pair->rank; r++) {
            const double b = stored(v->b, v->expert, o, r);
            theirs += b * inner[r].file;
            bound += (fabs(b) + rounding(p, b)) * inner[r].slack + rounding(p, b) * inner[r].size;
            if (v->slot != NULL && r < v->slot->rank)
                ours += (double)v->slot->b[o * v->slot->rank + r] * inner[r].own;
        }
        const double difference = fabs(file_scale * theirs - v->scale * ours);
        /* And the sums' own rounding, in double. */
        bound = 1.01 * fabs(file_scale) * bound + 1e-12 * fabs(v->scale * ours);
        if (!(difference <= bound) && v->slot != NULL)
            return err_set(p->err, ERR_INTERNAL,
                           "%s: tensor '%s': read back, row %" PRId64 " of its delta is off by %g; "
                           "expected at most %g",
                           p->path, v->pair->name, o, difference, bound);
        if (v->slot == NULL && theirs != 0)
            return err_set(p->err, ERR_INTERNAL,
                           "%s: tensor '%s': read back, expert %" PRId64 " is not zero", p->path,
                           v->pair->name, v->expert);
        off += difference * difference;
        all += v->scale * ours * v->scale * ours;
    }
    const double loss = all > 0 ? sqrt(off / all) : 0;
    if (loss > p->worst) {
        p->worst = loss;
        p->worst_name = v->pair->name;
    }
    return true;
}

static const struct gguf_tensor *find(const struct proof *p, const struct gguf_pair *pair,
                                      enum gguf_part part)
{
    char name[GGUF_NAME_SIZE + 8];
    int64_t dims[3];
    const int n = gguf_pair_tensor(pair, part, name, dims);
    const struct gguf_tensor *t = gguf_find(&p->file, name);
    bool same = t != NULL && t->dtype == p->dtype && t->n_dim == n;
    for (int i = 0; same && i < n; i++)
        same = t->dims[i] == dims[i];
    if (!same)
        err_set(p->err, ERR_INTERNAL, "%s: tensor '%s': is not there as it was written", p->path,
                name);
    return same ? t : NULL;
}

static bool prove_pair(struct proof *p, const struct gguf_pair *pair)
{
    struct view v = { .pair = pair,
                      .a = find(p, pair, GGUF_LORA_A),
                      .b = find(p, pair, GGUF_LORA_B) };
    if (v.a == NULL || v.b == NULL)
        return false;
    struct inner *inner = calloc((size_t)pair->rank, sizeof *inner);
    v.x = calloc((size_t)pair->in, sizeof *v.x);
    bool ok = (inner != NULL && v.x != NULL) || err_no_memory(p->err, p->path);
    for (; ok && v.expert < (pair->n_expert > 0 ? pair->n_expert : 1); v.expert++) {
        const int64_t module = pair->first + v.expert * pair->stride;
        v.slot = lora_adapter_slot(&p->s->adapter, module);
        v.scale = p->s->choices[module].scale;
        fill_probe(module, pair->in, v.x);
        for (int64_t r = 0; r < pair->rank; r++)
            inner[r] = multiply_a(p, &v, r);
        ok = compare(p, &v, inner);
    }
    free(inner);
    free(v.x);
    return ok;
}

static bool prove_keys(const struct proof *p)
{
    float alpha = 0;
    return gguf_says(&p->file, "general.architecture", GGUF_ARCHITECTURE) &&
           gguf_says(&p->file, "general.type", "adapter") &&
           gguf_says(&p->file, "adapter.type", "lora") &&
           gguf_get_f32(&p->file, "adapter.lora.alpha", &alpha) &&
           memcmp(&alpha, &p->pairs->alpha, sizeof alpha) == 0 &&
           p->file.n_tensor == 2 * p->pairs->n;
}

bool gguf_prove_adapter(const struct export_source *s, const struct gguf_pairs *pairs,
                        enum dtype dtype, const char *path, struct text *notes, struct err *err)
{
    struct proof p = { .s = s, .pairs = pairs, .dtype = dtype, .path = path, .err = err };
    p.relative = dtype == DTYPE_F16 ? 0x1p-11 : 0x1p-24;
    p.absolute = dtype == DTYPE_F16 ? 0x1p-25 : 0x1p-150; /* of a subnormal */
    if (!gguf_open(path, &p.file, err))
        return false;
    bool ok = prove_keys(&p) ||
              err_set(err, ERR_INTERNAL, "%s: its keys are not there as they were written", path);
    for (int64_t i = 0; ok && i < pairs->n; i++)
        ok = prove_pair(&p, &pairs->pair[i]);
    if (ok && p.worst > WORTH_A_NOTE)
        text_printf(notes,
                    "%s loses %.1f %% of the change to '%s', whose values are very small; export "
                    "F32 to keep it\n",
                    dtype_name(dtype), 100 * p.worst, p.worst_name);
    gguf_close(&p.file);
    return ok;
}
