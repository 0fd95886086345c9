#include "finetune/export/merged_plan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/slots.h"

static const char embedding_name[] = "model.embed_tokens.weight", head_name[] = "lm_head.weight";

/* A tensor on its way into the plan. */
struct entry {
    struct safetensors_tensor tensor;
    const struct lora_slot *slot;
    int64_t file;
    uintptr_t place; /* of its data in the base's file; the last of all: added */
};

struct planning {
    const struct export_source *s;
    struct shards *shards;
    struct entry *entries; /* (n_tensor of shards, and one more for the head) */
    int64_t n_entry;
};

/* ---- the base's tensors ---- */

static bool check_tensor(const struct shard_tensor *t, const struct slot *slot, struct err *err)
{
    const struct safetensors_tensor *x = t->tensor;
    char have[64], want[64];
    if (x->dtype != DTYPE_F32 && x->dtype != DTYPE_BF16 && x->dtype != DTYPE_F16)
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s': type %s, expected F32, BF16 or F16; merge into the "
                       "checkpoint that a quantized one was made from",
                       t->path, x->name, dtype_name(x->dtype));
    bool same = x->n_dim == slot->n_dim;
    for (int i = 0; same && i < slot->n_dim; i++)
        same = x->dims[i] == slot->dims[i];
    if (same)
        return true;
    safetensors_shape_text(have, x->dims, x->n_dim);
    safetensors_shape_text(want, slot->dims, slot->n_dim);
    return err_set(err, ERR_DATA, "%s: tensor '%s': shape %s, expected %s", t->path, x->name, have,
                   want);
}

static struct entry *add_entry(struct planning *p, const struct shard_tensor *t)
{
    struct entry *e = &p->entries[p->n_entry++];
    *e = (struct entry){ .tensor = *t->tensor, .place = (uintptr_t)t->tensor->data };
    while (p->shards->paths[e->file] != t->path)
        e->file++;
    return e;
}

static bool take_slot(void *context, const struct slot *slot, struct err *err)
{
    struct planning *p = context;
    const struct shard_tensor *t = shards_take(p->shards, slot->name);
    if (t == NULL)
        return err_set(err, ERR_DATA, "%s: tensor '%s' is missing; config.json asks for it",
                       p->s->base_dir, slot->name);
    if (!check_tensor(t, slot, err))
        return false;
    add_entry(p, t);
    return true;
}

/* The walk fills in addresses of a model's weights: there must be some. */
static bool take_all(struct planning *p, struct err *err)
{
    struct weights *w = weights_shapes(&p->s->config, err);
    const bool ok = w != NULL && slots_visit(w, take_slot, p, err) &&
                    shards_check_all_taken(p->shards, &p->s->config, err);
    weights_close(w);
    return ok;
}

/* ---- the adapter's ---- */

static int compare_names(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

static struct entry *find_entry(struct planning *p, const char *name)
{
    const struct entry key = { .tensor.name = name };
    return bsearch(&key, p->entries, (size_t)p->n_entry, sizeof key, compare_names);
}

/* Of a tied base, what the files have of a head is not used; it is the embedding. */
static void add_tied_head(struct planning *p, bool *added)
{
    const struct shard_tensor *own = shards_take(p->shards, head_name);
    const struct shard_tensor *embedding = shards_take(p->shards, embedding_name);
    struct entry *e = add_entry(p, own != NULL ? own : embedding);
    e->tensor = *embedding->tensor;
    e->tensor.name = head_name;
    *added = own == NULL;
    if (*added)
        e->place = UINTPTR_MAX;
}

/* Sorts the entries by name on the way. */
static void set_slots(struct planning *p)
{
    const struct lora_adapter *adapter = &p->s->adapter;
    qsort(p->entries, (size_t)p->n_entry, sizeof *p->entries, compare_names);
    for (int64_t i = 0; i < adapter->n_module; i++) {
        char name[SLOT_NAME_SIZE + sizeof ".weight"];
        const struct lora_slot *slot = lora_adapter_slot(adapter, i);
        if (slot == NULL)
            continue;
        snprintf(name, sizeof name, "%s.weight", adapter->modules[i].path);
        const struct shard_tensor *t = shards_take(p->shards, name);
        struct entry *e = find_entry(p, t != NULL ? t->tensor->name : name);
        assert(e != NULL && "a module without its tensor");
        e->slot = slot;
    }
}

/* ---- the plan ---- */

static int compare_places(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static bool fill(struct planning *p, struct merged_plan *plan, struct err *err)
{
    const size_t n = (size_t)p->n_entry;
    plan->tensors = malloc(n * sizeof *plan->tensors);
    plan->slots = malloc(n * sizeof *plan->slots);
    plan->files = calloc((size_t)p->shards->n_file, sizeof *plan->files);
    if (plan->tensors == NULL || plan->slots == NULL || plan->files == NULL)
        return err_no_memory(err, "the list of tensors");
    plan->n_tensor = p->n_entry;
    plan->n_file = p->shards->n_file;
    for (int64_t f = 0; f < plan->n_file; f++) {
        const char *path = p->shards->paths[f], *slash = strrchr(path, '/');
        plan->files[f].name = slash != NULL ? slash + 1 : path;
    }
    qsort(p->entries, n, sizeof *p->entries, compare_places);
    for (int64_t i = 0; i < plan->n_tensor; i++) {
        struct merged_file *file = &plan->files[p->entries[i].file];
        if (file->n++ == 0)
            file->first = i;
        plan->tensors[i] = p->entries[i].tensor;
        plan->slots[i] = p->entries[i].slot;
    }
    return true;
}

bool merged_plan_make(const struct export_source *s, struct shards *shards,
                      struct merged_plan *plan, struct err *err)
{
    struct planning p = { .s = s, .shards = shards };
    *plan = (struct merged_plan){ 0 };
    p.entries = calloc((size_t)shards->n_tensor + 1, sizeof *p.entries);
    bool ok = p.entries != NULL ? take_all(&p, err) : err_no_memory(err, "the list of tensors");
    if (ok && s->config.tie_word_embeddings)
        add_tied_head(&p, &plan->head_added);
    if (ok)
        set_slots(&p);
    for (int64_t i = 0; ok && s->config.tie_word_embeddings && i < s->n_module; i++) {
        const enum lora_kind kind = s->modules[i].kind;
        if ((kind == LORA_EMBED_TOKENS || kind == LORA_LM_HEAD) &&
            lora_adapter_slot(&s->adapter, i) != NULL)
            plan->untied = true;
    }
    ok = ok && fill(&p, plan, err);
    free(p.entries);
    if (!ok)
        merged_plan_free(plan);
    return ok;
}

void merged_plan_free(struct merged_plan *plan)
{
    free(plan->tensors);
    free(plan->slots);
    free(plan->files);
    *plan = (struct merged_plan){ 0 };
}
