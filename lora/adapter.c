#include "lora/adapter.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"
#include "kernels/core/text.h"
#include "kernels/ops.h"

static int64_t size_a(const struct lora_slot *slot)
{
    return slot->rank * slot->module->in;
}

static int64_t size_b(const struct lora_slot *slot)
{
    return slot->module->out * slot->rank;
}

/* Counts slots and parameters; false when the blocks cannot be addressed. */
static bool count(struct lora_adapter *adapter, const struct lora_choice *choices)
{
    for (int64_t i = 0; i < adapter->n_module; i++) {
        int64_t n = 0;
        if (!choices[i].on)
            continue;
        adapter->n_slot++;
        if (!lora_param_count(&adapter->modules[i], choices[i].r, &n) ||
            __builtin_add_overflow(adapter->n_param, n, &adapter->n_param))
            return false;
    }
    /* The arena adds up to four blocks and rounds each: leave it room. */
    return adapter->n_param <= INT64_MAX / (int64_t)(16 * sizeof(real));
}

static void add_range(struct lora_adapter *adapter, int64_t begin, int64_t n, enum lora_group group)
{
    struct lora_range *last = adapter->n_range > 0 ? &adapter->ranges[adapter->n_range - 1] : NULL;
    if (last != NULL && last->group == group)
        last->end += n;
    else
        adapter->ranges[adapter->n_range++] =
            (struct lora_range){ .begin = begin, .end = begin + n, .group = group };
}

static void lay_out(struct lora_adapter *adapter, const struct lora_choice *choices,
                    const struct backend *be)
{
    int64_t s = 0, at = 0;
    for (int64_t i = 0; i < adapter->n_module; i++) {
        adapter->slot_of[i] = choices[i].on ? s : -1;
        if (!choices[i].on)
            continue;
        struct lora_slot *slot = &adapter->slots[s++];
        *slot = (struct lora_slot){ .module = &adapter->modules[i],
                                    .rank = choices[i].r,
                                    .alpha = choices[i].alpha,
                                    .scale = (real)choices[i].scale };
        const int64_t a = at, b = at + size_a(slot);
        at = b + size_b(slot);
        slot->a = adapter->params + a;
        slot->b = adapter->params + b;
        slot->act_a = act_in(be, adapter->act, a);
        slot->act_b = act_in(be, adapter->act, b);
        if (adapter->grads != NULL) {
            slot->da = adapter->grads + a;
            slot->db = adapter->grads + b;
        }
        const bool embedding = slot->module->kind == LORA_EMBED_TOKENS;
        add_range(adapter, a, b - a, embedding ? LORA_GROUP_EMBEDDING : LORA_GROUP_A);
        add_range(adapter, b, at - b, embedding ? LORA_GROUP_EMBEDDING : LORA_GROUP_B);
    }
    assert(at == adapter->n_param);
}

/* A measuring run needs no values on the host, and no addresses that differ. */
static bool push_blocks(struct lora_adapter *adapter, const struct lora_adapter_args *args)
{
    const int64_t n = adapter->n_param;
    adapter->master = adapter->params = arena_reals(args->arena, n);
    adapter->act = args->be->act == DTYPE_REAL ? acts_of(adapter->master)
                                               : arena_acts(args->be, args->arena, n);
    if (args->with_training) {
        adapter->grads = arena_reals(args->arena, n);
        adapter->m = arena_reals(args->arena, n);
        adapter->v = arena_reals(args->arena, n);
    }
    if (args->be->device == NULL || args->arena->measuring)
        return true;
    adapter->params = adapter->host = calloc((size_t)n + 1, sizeof *adapter->host);
    return adapter->host != NULL;
}

bool lora_adapter_init(struct lora_adapter *adapter, const struct lora_adapter_args *args,
                       struct err *err)
{
    *adapter = (struct lora_adapter){ .modules = args->modules, .n_module = args->n_module };
    if (!count(adapter, args->choices))
        return err_set(err, ERR_NO_MEMORY, "lora_r: the adapter does not fit in any memory");
    adapter->slots = calloc((size_t)adapter->n_slot + 1, sizeof *adapter->slots);
    adapter->slot_of = calloc((size_t)adapter->n_module + 1, sizeof *adapter->slot_of);
    adapter->ranges = calloc(2 * (size_t)adapter->n_slot + 1, sizeof *adapter->ranges);
    if (adapter->slots == NULL || adapter->slot_of == NULL || adapter->ranges == NULL) {
        lora_adapter_free(adapter);
        return err_no_memory(err, "the adapter's tables");
    }
    if (!push_blocks(adapter, args)) {
        lora_adapter_free(adapter);
        return err_no_memory(err, "the adapter");
    }
    lay_out(adapter, args->choices, args->be);
    return true;
}

void lora_adapter_free(struct lora_adapter *adapter)
{
    free(adapter->slots);
    free(adapter->slot_of);
    free(adapter->ranges);
    free(adapter->host);
    *adapter = (struct lora_adapter){ 0 };
}

/* FNV-1a (Fowler, Noll, Vo), folded to the 56 bits that a substream has. */
static uint64_t path_hash(const char *path)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (const char *p = path; *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001B3u;
    return (h >> 56) ^ (h & 0xFFFFFFFFFFFFFFu);
}

void lora_adapter_reset(struct lora_adapter *adapter, uint64_t seed)
{
    memset(adapter->params, 0, (size_t)adapter->n_param * sizeof *adapter->params);
    for (int64_t s = 0; s < adapter->n_slot; s++) {
        struct lora_slot *slot = &adapter->slots[s];
        const uint64_t sub = path_hash(slot->module->path);
        if (slot->module->kind == LORA_EMBED_TOKENS) {
            for (int64_t i = 0; i < size_b(slot); i++)
                slot->b[i] = (real)rng_normal(seed, RNG_INIT_ADAPTER, sub, (uint64_t)i);
            continue;
        }
        /* Kaiming uniform with a = sqrt 5: the bound is sqrt(6 / ((1 + 5) in)) = 1 / sqrt(in). */
        const double bound = 1 / sqrt((double)slot->module->in);
        for (int64_t i = 0; i < size_a(slot); i++)
            slot->a[i] =
                (real)((2 * rng_uniform(seed, RNG_INIT_ADAPTER, sub, (uint64_t)i) - 1) * bound);
    }
}

static void zero(struct backend *be, real *x, int64_t n)
{
    if (x != NULL)
        op_zero(be, &(struct zero_args){ .y = x, .bytes = (size_t)n * sizeof *x });
}

void lora_adapter_push_values(struct lora_adapter *adapter, struct backend *be)
{
    const int64_t n = adapter->n_param;
    if (adapter->params != adapter->master)
        op_to_device(be, &(struct copy_args){ .from = adapter->params,
                                              .to = adapter->master,
                                              .bytes = (size_t)n * sizeof(real) });
    if (be->act != DTYPE_REAL)
        op_cast(be, &(struct cast_args){ .from = adapter->master,
                                         .from_dtype = DTYPE_REAL,
                                         .to = adapter->act,
                                         .to_dtype = be->act,
                                         .n = n });
}

void lora_adapter_push(struct lora_adapter *adapter, struct backend *be)
{
    const int64_t n = adapter->n_param;
    lora_adapter_push_values(adapter, be);
    zero(be, adapter->grads, n);
    zero(be, adapter->m, n);
    zero(be, adapter->v, n);
}

void lora_adapter_pull(struct lora_adapter *adapter, struct backend *be)
{
    if (adapter->params != adapter->master)
        op_to_host(be, &(struct copy_args){ .from = adapter->master,
                                            .to = adapter->params,
                                            .bytes = (size_t)adapter->n_param * sizeof(real) });
}

struct lora_slot *lora_adapter_slot(const struct lora_adapter *adapter, int64_t module_index)
{
    assert(module_index >= 0 && module_index < adapter->n_module);
    const int64_t s = adapter->slot_of[module_index];
    return s < 0 ? NULL : &adapter->slots[s];
}
