/* Opening a base model. The tensors are walked twice: over a measuring arena, which checks
 * everything and adds up what must be owned, then over one of exactly that size, which converts.
 */
#include "finetune/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/slots.h"
#include "kernels/core/text.h"

struct loader {
    struct weights *w;
    struct arena *arena;
    const char *folder;
};

static bool check_tensor(const struct slot *slot, const struct shard_tensor *t, struct err *err)
{
    const struct safetensors_tensor *tensor = t->tensor;
    if (tensor->dtype != DTYPE_F32 && tensor->dtype != DTYPE_BF16 && tensor->dtype != DTYPE_F16)
        return err_set(err, ERR_DATA, "%s: tensor '%s': type %s, expected F32, BF16 or F16",
                       t->path, tensor->name, dtype_name(tensor->dtype));
    bool same = tensor->n_dim == slot->n_dim;
    for (int i = 0; same && i < slot->n_dim; i++)
        same = tensor->dims[i] == slot->dims[i];
    if (same)
        return true;
    char is[64], expected[64];
    safetensors_shape_text(is, tensor->dims, tensor->n_dim);
    safetensors_shape_text(expected, slot->dims, slot->n_dim);
    return err_set(err, ERR_DATA, "%s: tensor '%s': shape %s, expected %s", t->path, tensor->name,
                   is, expected);
}

/* (rows, cols) as stored -> (cols, rows) real; A_log turns into -exp(A_log) on the way. */
static void convert_transposed(const struct slot *slot, const struct safetensors_tensor *tensor,
                               real *out)
{
    const int64_t rows = slot->dims[0], cols = slot->dims[slot->n_dim - 1];
    const size_t row_bytes = (size_t)cols * dtype_size(tensor->dtype);
    real row[SLOT_MAX_COLS];
    for (int64_t r = 0; r < rows; r++) {
        dtype_to_real(tensor->dtype, (const char *)tensor->data + (size_t)r * row_bytes, cols, row);
        for (int64_t c = 0; c < cols; c++)
            out[c * rows + r] = slot->kind == SLOT_A_LOG ? (real)-exp((double)row[c]) : row[c];
    }
}

/* Maps the matrix where it lies, unless its elements are not aligned there. */
static void load_matrix(const struct loader *l, const struct slot *slot,
                        const struct safetensors_tensor *tensor)
{
    const void *data = tensor->data;
    if ((uintptr_t)data % dtype_size(tensor->dtype) != 0) {
        void *copy = arena_push(l->arena, tensor->bytes);
        if (!l->arena->measuring)
            memcpy(copy, tensor->data, tensor->bytes);
        data = copy;
    }
    *slot->matrix = (struct weight){
        .data = data, .dtype = tensor->dtype, .rows = slot->dims[0], .cols = slot->dims[1]
    };
}

static bool load_slot(void *context, const struct slot *slot, struct err *err)
{
    const struct loader *l = context;
    const struct shard_tensor *t = shards_take(&l->w->shards, slot->name);
    if (t == NULL)
        return err_set(err, ERR_DATA, "%s: tensor '%s' is missing; config.json asks for it",
                       l->folder, slot->name);
    if (!check_tensor(slot, t, err))
        return false;
    if (slot->kind == SLOT_MATRIX) {
        load_matrix(l, slot, t->tensor);
        return true;
    }
    int64_t n = 1;
    for (int i = 0; i < slot->n_dim; i++)
        n *= slot->dims[i];
    real *out = arena_reals(l->arena, n);
    *slot->vector = out;
    if (l->arena->measuring)
        return true;
    if (slot->kind == SLOT_VECTOR)
        dtype_to_real(t->tensor->dtype, t->tensor->data, n, out);
    else
        convert_transposed(slot, t->tensor, out);
    return true;
}

static bool load_all(struct loader *l, struct arena *arena, struct err *err)
{
    struct weights *w = l->w;
    l->arena = arena;
    w->no_bias = w->config.mamba_conv_bias ? NULL : arena_zeros(arena, w->config.d_inner);
    return slots_visit(w, load_slot, l, err);
}

static bool load(struct weights *w, const char *folder, struct err *err)
{
    if (!shards_open(&w->shards, folder, &w->config, err))
        return false;
    struct loader l = { .w = w, .folder = folder };
    struct arena measure = { 0 };
    arena_init_measuring(&measure, "weights");
    return load_all(&l, &measure, err) && shards_check_all_taken(&w->shards, &w->config, err) &&
           arena_init(&w->owned, "weights", measure.peak, err) && load_all(&l, &w->owned, err);
}

static bool allocate_layers(struct weights *w, struct err *err)
{
    const struct jamba_config *c = &w->config;
    size_t n_mlp = 0;
    for (int64_t l = 0; l < c->num_hidden_layers; l++)
        n_mlp += jamba_is_moe(c, l) ? (size_t)c->num_experts : 1;
    w->layers = calloc((size_t)c->num_hidden_layers, sizeof *w->layers);
    w->mlps = calloc(n_mlp, sizeof *w->mlps);
    return (w->layers != NULL && w->mlps != NULL) || err_no_memory(err, "the layers");
}

/* Of this config, with nothing in its slots yet. */
static struct weights *new_weights(const struct jamba_config *config, struct err *err)
{
    struct weights *w = calloc(1, sizeof *w);
    if (w == NULL) {
        err_no_memory(err, "the layers");
        return NULL;
    }
    w->config = *config;
    if (allocate_layers(w, err))
        return w;
    weights_close(w);
    return NULL;
}

static struct weights *open_base(const char *base_model, uint64_t seed, bool matrices,
                                 struct err *err)
{
    char *folder = NULL, *config_path = NULL;
    if (!weights_locate(base_model, &folder, &config_path, err))
        return NULL;
    struct jamba_config config;
    struct weights *w =
        jamba_config_read(config_path, &config, err) ? new_weights(&config, err) : NULL;
    const bool ok =
        w != NULL && (folder != NULL ? load(w, folder, err)
                                     : weights_generate(w, seed, matrices, config_path, err));
    free(folder);
    free(config_path);
    if (ok)
        return w;
    weights_close(w);
    return NULL;
}

struct weights *weights_open(const char *base_model, uint64_t seed, struct err *err)
{
    return open_base(base_model, seed, true, err);
}

struct weights *weights_open_for_device(const char *base_model, uint64_t seed, struct err *err)
{
    return open_base(base_model, seed, false, err);
}

struct weights *weights_random(const struct jamba_config *config, uint64_t seed, struct err *err)
{
    struct weights *w = new_weights(config, err);
    if (w != NULL && weights_generate(w, seed, true, "random weights", err))
        return w;
    weights_close(w);
    return NULL;
}

struct weights *weights_shapes(const struct jamba_config *config, struct err *err)
{
    struct weights *w = new_weights(config, err);
    if (w != NULL && weights_measure(w, err))
        return w;
    weights_close(w);
    return NULL;
}

void weights_close(struct weights *w)
{
    if (w == NULL)
        return;
    shards_close(&w->shards);
    arena_free(&w->owned);
    free(w->layers);
    free(w->mlps);
    free(w);
}

const struct jamba_config *weights_config(const struct weights *w)
{
    return &w->config;
}

const struct layer_weights *weights_layer(struct weights *w, int64_t layer)
{
    return &w->layers[layer];
}

struct weight weights_embedding(const struct weights *w)
{
    return w->embedding;
}

struct weight weights_head(const struct weights *w)
{
    return w->head;
}

const real *weights_final_norm(const struct weights *w)
{
    return w->final_norm;
}

size_t weights_owned_bytes(const struct weights *w)
{
    return w->owned.used;
}

size_t weights_mapped_bytes(const struct weights *w)
{
    return shards_mapped_bytes(&w->shards);
}
