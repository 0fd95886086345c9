#include "finetune/export/merged_proof.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "finetune/export/merged_direct.h"
#include "kernels/format/safetensors.h"

struct proof {
    const struct merged_plan *plan;
    const struct safetensors *written;
    const struct merged_direct *direct;
    const char *place;
};

/* ---- the list ---- */

static bool same_tensor(const struct safetensors_tensor *x, const struct safetensors_tensor *y)
{
    bool same = x->dtype == y->dtype && x->n_dim == y->n_dim;
    for (int i = 0; same && i < x->n_dim; i++)
        same = x->dims[i] == y->dims[i];
    return same;
}

static bool prove_list(const struct proof *p, const struct merged_file *file, struct err *err)
{
    if (p->written->n_tensor != file->n)
        return err_set(err, ERR_INTERNAL,
                       "%s: read back, it has %" PRId64 " tensors; expected %" PRId64, p->place,
                       p->written->n_tensor, file->n);
    for (int64_t i = file->first; i < file->first + file->n; i++) {
        const struct safetensors_tensor *want = &p->plan->tensors[i];
        const struct safetensors_tensor *have = safetensors_find(p->written, want->name);
        if (have == NULL || !same_tensor(have, want))
            return err_set(err, ERR_INTERNAL,
                           "%s: tensor '%s': is not there with the base's type and shape", p->place,
                           want->name);
    }
    return true;
}

/* ---- the values ---- */

/* Half the distance of neighbours, relative, and at zero. */
struct rounding {
    double unit, least;
};

static struct rounding rounding_of(enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        return (struct rounding){ 0x1p-24, 0x1p-150 };
    return dtype == DTYPE_BF16 ? (struct rounding){ 0x1p-8, 0x1p-134 }
                               : (struct rounding){ 0x1p-11, 0x1p-25 };
}

static double value_at(enum dtype dtype, const void *data, int64_t i)
{
    real x = 0;
    dtype_to_real(dtype, (const char *)data + (size_t)i * dtype_size(dtype), 1, &x);
    return (double)x;
}

/* Element (row, col) of scale B A as PEFT's shapes define it, and the size of its terms. */
static double change_at(const struct lora_slot *slot, int64_t row, int64_t col, double *size)
{
    const bool embedding = slot->module->kind == LORA_EMBED_TOKENS;
    const int64_t in = embedding ? row : col, out = embedding ? col : row;
    double sum = 0;
    *size = 0;
    for (int64_t k = 0; k < slot->rank; k++) {
        const double term = (double)slot->scale * (double)slot->b[out * slot->rank + k] *
                            (double)slot->a[k * slot->module->in + in];
        sum += term;
        *size += fabs(term);
    }
    return sum;
}

/* The row of the tensor that begins at byte `at` of it. */
static bool prove_row(const struct proof *p, int64_t tensor, size_t at, const void *written,
                      struct err *err)
{
    const struct safetensors_tensor *t = &p->plan->tensors[tensor];
    const struct lora_slot *slot = p->plan->slots[tensor];
    const struct rounding r = rounding_of(t->dtype);
    const int64_t n_col = t->dims[t->n_dim - 1];
    const int64_t row = (int64_t)(at / dtype_size(t->dtype)) / n_col;
    const bool twice = slot->module->kind == LORA_EMBED_TOKENS; /* as lora/merge.h says */
    for (int64_t col = 0; col < n_col; col++) {
        double size = 0;
        const double w = value_at(t->dtype, (const char *)t->data + at, col);
        const double change = change_at(slot, row, col, &size);
        const double have = value_at(t->dtype, written, col);
        /* The type's own rounding, and those of the sum in f32: one a term, of the sizes added. */
        const double bound = r.unit * (fabs(have) + (twice ? fabs(change) : 0)) * (1 + 2 * r.unit) +
                             0x1p-23 * (double)(slot->rank + 2) * (size + fabs(w)) + 2 * r.least;
        if (isfinite(w) && !(fabs(have - w - change) <= bound))
            return err_set(err, ERR_INTERNAL,
                           "%s: tensor '%s': row %" PRId64 ", column %" PRId64
                           " is %.9g; expected %.9g + %.9g",
                           p->place, t->name, row, col, have, w, change);
    }
    return true;
}

/* Its last row. */
static bool prove_merged(const struct proof *p, const struct merged_block *block, const char *have,
                         struct err *err)
{
    const struct safetensors_tensor *t = &p->plan->tensors[block->tensor];
    const size_t row = block->n - (size_t)t->dims[t->n_dim - 1] * dtype_size(t->dtype);
    return prove_row(p, block->tensor, block->at + row, have + row, err);
}

/* The block as it was written: from the disk where that can be, else from the mapping. */
static const char *read_back(const struct proof *p, struct merged_worker *worker,
                             const char *mapped, size_t n)
{
    const size_t at = (size_t)((const uint8_t *)mapped - p->written->map.data);
    const char *have = merged_direct_read(p->direct, at, n, worker->buffer);
    return have != NULL ? have : mapped;
}

static bool prove_block(void *context, struct merged_worker *worker, struct merged_block *block,
                        struct err *err)
{
    const struct proof *p = context;
    const struct safetensors_tensor *t = &p->plan->tensors[block->tensor];
    const struct safetensors_tensor *written = safetensors_find(p->written, t->name);
    const char *mapped = (const char *)written->data + block->at;
    const char *have = read_back(p, worker, mapped, block->n);
    const char *base = (const char *)t->data + block->at;
    const bool merged = p->plan->slots[block->tensor] != NULL;
    bool ok = merged ? merged_sum(have, block->n) == block->sum : memcmp(have, base, block->n) == 0;
    if (!ok)
        err_set(err, ERR_INTERNAL, "%s: tensor '%s': is not there as it was written", p->place,
                t->name);
    else if (merged)
        ok = prove_merged(p, block, have, err);
    merged_done(mapped, block->n);
    merged_done(base, block->n);
    return ok;
}

bool merged_prove(struct merged_team *team, struct merged_list *list,
                  const struct merged_file *file, const char *path, const char *place,
                  struct err *err)
{
    struct safetensors written = { 0 };
    if (!safetensors_open(path, &written, err))
        return false;
    struct merged_direct direct = merged_direct_open(path, 0);
    struct proof p = { .plan = team->plan, .written = &written, .direct = &direct, .place = place };
    const bool ok = prove_list(&p, file, err) && merged_team_run(team, list, prove_block, &p, err);
    merged_direct_close(&direct);
    safetensors_close(&written);
    return ok;
}
