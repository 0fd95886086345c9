/* The shapes are those of finetune/model/slots, so that the checkpoint's tensors are named in one
 * place. Three things change on the way: experts are stacked, the convolution (d_inner, 1, d_conv)
 * loses its middle, and A_log becomes A = -exp(A_log).
 */
#include "finetune/export/gguf_base.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "finetune/export/gguf_names.h"
#include "finetune/export/gguf_tokenizer.h"
#include "finetune/export/gguf_values.h"
#include "finetune/model/shards.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"

enum {
    PIECE = 1 << 20, /* values at once */
    ENDS = 1 << 10,  /* values compared at each end of a tensor */
    CONFIG_LIMIT = 1 << 20,
    DEFAULT_CONTEXT = 262144, /* JambaConfig's max_position_embeddings */
    STRIDE = 3,               /* of an expert's gate, up and down */
};

/* ---- the plan ---- */

struct planning {
    struct gguf_base *base;
    int64_t cap;
    enum dtype dtype;
};

static bool keep_slot(void *context, const struct slot *slot, struct err *err)
{
    struct planning *p = context;
    if (p->base->n_slot == p->cap) {
        const int64_t cap = 2 * p->cap + 64;
        struct slot *slots = realloc(p->base->slots, (size_t)cap * sizeof *slots);
        if (slots == NULL)
            return err_no_memory(err, "the list of tensors");
        p->base->slots = slots;
        p->cap = cap;
    }
    p->base->slots[p->base->n_slot++] = *slot;
    return true;
}

/* The walk fills in addresses of a model's weights: there must be some. */
static bool list_slots(const struct jamba_config *config, struct planning *p, struct err *err)
{
    const size_t n = (size_t)config->num_hidden_layers, m = (size_t)config->num_experts;
    struct weights w = { .config = *config };
    w.layers = calloc(n, sizeof *w.layers);
    w.mlps = calloc(n * m, sizeof *w.mlps);
    const bool ok = w.layers != NULL && w.mlps != NULL ? slots_visit(&w, keep_slot, p, err)
                                                       : err_no_memory(err, "the list of tensors");
    free(w.layers);
    free(w.mlps);
    return ok;
}

static bool stays_f32(const struct slot *slot, const char *name)
{
    return slot->kind != SLOT_MATRIX || text_ends_with(name, "ffn_gate_inp.weight");
}

static void add_tensor(struct planning *p, const struct jamba_config *config, int64_t index)
{
    const struct slot *slot = &p->base->slots[index];
    struct gguf_base_tensor *t = &p->base->tensors[p->base->n_tensor];
    *t = (struct gguf_base_tensor){ .n_part = 1, .first = index, .stride = STRIDE };
    if (!gguf_tensor_name(slot->name, t->name))
        return; /* a bias of in_proj or out_proj: gguf_check_config refuses those */
    const bool stack = strstr(t->name, "_exps.") != NULL;
    t->dtype = stays_f32(slot, t->name) ? DTYPE_F32 : p->dtype;
    if (stack)
        t->dims[t->n_dim++] = t->n_part = config->num_experts;
    for (int i = 0; i < slot->n_dim; i++) {
        if (slot->kind != SLOT_CONV || i != 1)
            t->dims[t->n_dim++] = slot->dims[i];
    }
    p->base->n_tensor++;
}

/* llama.cpp wants the convolution's bias; without mamba_conv_bias it is zero. */
static void add_conv_bias(struct planning *p, const struct jamba_config *config, int64_t index)
{
    const struct gguf_base_tensor *conv = &p->base->tensors[p->base->n_tensor - 1];
    struct gguf_base_tensor *t = &p->base->tensors[p->base->n_tensor++];
    *t = (struct gguf_base_tensor){ .dtype = DTYPE_F32, .n_dim = 1, .first = index };
    t->dims[0] = config->d_inner;
    memcpy(t->name, conv->name, sizeof t->name);
    memcpy(strstr(t->name, ".weight"), ".bias", sizeof ".bias");
}

bool gguf_base_plan(const struct jamba_config *config, enum dtype dtype, struct gguf_base *out,
                    struct err *err)
{
    struct planning p = { .base = out, .dtype = dtype };
    *out = (struct gguf_base){ 0 };
    if (!list_slots(config, &p, err)) {
        gguf_base_free(out);
        return false;
    }
    out->tensors = calloc((size_t)out->n_slot * 2, sizeof *out->tensors);
    if (out->tensors == NULL) {
        gguf_base_free(out);
        return err_no_memory(err, "the list of tensors");
    }
    for (int64_t i = 0; i < out->n_slot; i++) {
        /* Of the experts' slots only expert 0's begin a tensor: the others are its further parts.
         */
        const char *expert = strstr(out->slots[i].name, ".experts.");
        if (expert != NULL && strncmp(expert, ".experts.0.", 11) != 0)
            continue;
        add_tensor(&p, config, i);
        if (out->slots[i].kind == SLOT_CONV && !config->mamba_conv_bias)
            add_conv_bias(&p, config, i);
    }
    return true;
}

void gguf_base_free(struct gguf_base *base)
{
    free(base->tensors);
    free(base->slots);
    *base = (struct gguf_base){ 0 };
}

/* ---- the checkpoint ---- */

struct job {
    char *folder, *config_path;
    struct jamba_config config;
    enum dtype dtype;
    const char *path;
    struct gguf_base base;
    struct shards shards;
    const struct safetensors_tensor **sources; /* (n_slot) */
    struct gguf_writer w;
    void *out; /* (PIECE) values of at most 4 bytes */
};

static bool check_source(const struct shard_tensor *t, const struct slot *slot, struct err *err)
{
    const struct safetensors_tensor *x = t->tensor;
    char have[64], want[64];
    bool same = x->n_dim == slot->n_dim;
    for (int i = 0; same && i < slot->n_dim; i++)
        same = x->dims[i] == slot->dims[i];
    safetensors_shape_text(have, x->dims, x->n_dim);
    safetensors_shape_text(want, slot->dims, slot->n_dim);
    if (!same)
        return err_set(err, ERR_DATA, "%s: tensor '%s': shape %s, expected %s", t->path, x->name,
                       have, want);
    if (x->dtype != DTYPE_F32 && x->dtype != DTYPE_BF16 && x->dtype != DTYPE_F16)
        return err_set(err, ERR_DATA, "%s: tensor '%s': type %s; expected F32, BF16 or F16",
                       t->path, x->name, dtype_name(x->dtype));
    return true;
}

static bool find_sources(struct job *job, struct err *err)
{
    job->sources = calloc((size_t)job->base.n_slot, sizeof *job->sources);
    if (job->sources == NULL)
        return err_no_memory(err, job->folder);
    for (int64_t i = 0; i < job->base.n_slot; i++) {
        const struct slot *slot = &job->base.slots[i];
        const struct shard_tensor *t = shards_take(&job->shards, slot->name);
        if (t == NULL)
            return err_set(err, ERR_DATA, "%s: tensor '%s' is missing", job->folder, slot->name);
        if (!check_source(t, slot, err))
            return false;
        job->sources[i] = t->tensor;
    }
    return shards_check_all_taken(&job->shards, &job->config, err);
}

/* ---- the header ---- */

static bool read_context_length(const struct job *job, int64_t *out, struct err *err)
{
    json_t *root = json_load_object(job->config_path, CONFIG_LIMIT, err);
    *out = DEFAULT_CONTEXT;
    const bool ok = root != NULL && json_get_int(root, "max_position_embeddings", false, 1,
                                                 INT32_MAX, out, job->config_path, err);
    json_decref(root);
    return ok;
}

static void put_u32(struct gguf_writer *w, const char *name, int64_t value)
{
    char key[64];
    snprintf(key, sizeof key, GGUF_ARCHITECTURE ".%s", name);
    gguf_put_u32(w, key, (uint32_t)value);
}

static void put_config(struct gguf_writer *w, const struct jamba_config *c, int64_t context)
{
    const bool moe = c->num_experts > 1;
    put_u32(w, "vocab_size", c->vocab_size);
    put_u32(w, "block_count", c->num_hidden_layers);
    put_u32(w, "context_length", context);
    put_u32(w, "embedding_length", c->hidden_size);
    put_u32(w, "feed_forward_length", c->intermediate_size);
    put_u32(w, "attention.head_count", c->num_attention_heads);
    gguf_put_array(w, GGUF_ARCHITECTURE ".attention.head_count_kv", GGUF_I32,
                   (uint64_t)c->num_hidden_layers);
    for (int64_t l = 0; l < c->num_hidden_layers; l++) /* 0 makes it a Mamba layer */
        gguf_item_i32(w, jamba_is_attention(c, l) ? (int32_t)c->num_key_value_heads : 0);
    gguf_put_f32(w, GGUF_ARCHITECTURE ".attention.layer_norm_rms_epsilon", (float)c->rms_norm_eps);
    put_u32(w, "ssm.conv_kernel", c->mamba_d_conv);
    put_u32(w, "ssm.inner_size", c->d_inner);
    put_u32(w, "ssm.state_size", c->mamba_d_state);
    put_u32(w, "ssm.time_step_rank", c->mamba_dt_rank);
    /* More used than there are is an abort there: a dense model has none of either. */
    put_u32(w, "expert_count", moe ? c->num_experts : 0);
    put_u32(w, "expert_used_count", moe ? c->num_experts_per_tok : 0);
}

/* llama.cpp's names of "most matrices are ...": LLAMA_FTYPE_ALL_F32, _MOSTLY_F16, _MOSTLY_BF16. */
static uint32_t file_type(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 0 : dtype == DTYPE_F16 ? 1 : 32;
}

static bool put_header(struct job *job, struct text *notes, struct err *err)
{
    struct gguf_writer *w = &job->w;
    int64_t context = 0;
    if (!read_context_length(job, &context, err))
        return false;
    gguf_put_string(w, "general.architecture", GGUF_ARCHITECTURE, sizeof GGUF_ARCHITECTURE - 1);
    gguf_put_string(w, "general.type", "model", 5);
    gguf_put_u32(w, "general.file_type", file_type(job->dtype));
    put_config(w, &job->config, context);
    if (!gguf_put_tokenizer(w, job->folder, &job->config, notes, err))
        return false;
    for (int64_t i = 0; i < job->base.n_tensor; i++) {
        const struct gguf_base_tensor *t = &job->base.tensors[i];
        if (!gguf_add_tensor(w, t->name, t->dtype, t->n_dim, t->dims, err))
            return false;
    }
    return true;
}

/* ---- the data ---- */

static int64_t n_value(const struct safetensors_tensor *x)
{
    return (int64_t)(x->bytes / dtype_size(x->dtype));
}

/* n values of the slot's tensor from `begin` on, as they are stored in the file: to job->out or,
 * where nothing changes, as they lie. */
static const void *stored_values(const struct job *job, const struct gguf_base_tensor *t,
                                 int64_t slot, int64_t begin, int64_t n, bool *fits)
{
    const struct safetensors_tensor *x = job->sources[slot];
    const char *from = (const char *)x->data + (size_t)begin * dtype_size(x->dtype);
    *fits = true;
    if (job->base.slots[slot].kind == SLOT_A_LOG) {
        float *a = job->out;
        gguf_convert(from, x->dtype, n, DTYPE_F32, a);
        for (int64_t i = 0; i < n; i++)
            a[i] = (float)-exp((double)a[i]);
        return a;
    }
    if (x->dtype == t->dtype)
        return from;
    *fits = gguf_convert(from, x->dtype, n, t->dtype, job->out);
    return job->out;
}

/* The mapped pages were read for the last time: a resident set that grew with the file would look
 * like memory in use. */
static void forget(const void *data, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* best effort */
}

static bool write_part(struct job *job, const struct gguf_base_tensor *t, int64_t slot,
                       struct err *err)
{
    const struct safetensors_tensor *x = job->sources[slot];
    const int64_t n = n_value(x);
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t m = n - i < PIECE ? n - i : PIECE;
        bool fits = true;
        const void *values = stored_values(job, t, slot, i, m, &fits);
        if (!fits)
            return err_set(err, ERR_DATA,
                           "%s: tensor '%s': has a value that does not fit in %s; write BF16 or "
                           "F32",
                           job->folder, job->base.slots[slot].name, dtype_name(t->dtype));
        if (!gguf_data(&job->w, values, (size_t)m * dtype_size(t->dtype), err))
            return false;
        const size_t width = dtype_size(x->dtype);
        forget((const char *)x->data + (size_t)i * width, (size_t)m * width);
    }
    return true;
}

static bool write_zeros(struct job *job, const struct gguf_base_tensor *t, struct err *err)
{
    const size_t bytes = (size_t)t->dims[0] * sizeof(float);
    memset(job->out, 0, bytes);
    return gguf_data(&job->w, job->out, bytes, err);
}

static bool write_data(struct job *job, struct err *err)
{
    for (int64_t i = 0; i < job->base.n_tensor; i++) {
        const struct gguf_base_tensor *t = &job->base.tensors[i];
        if (t->n_part == 0 && !write_zeros(job, t, err))
            return false;
        for (int64_t e = 0; e < t->n_part; e++) {
            if (!write_part(job, t, t->first + e * t->stride, err))
                return false;
        }
    }
    return true;
}

/* ---- the proof ---- */

static bool same_values(const struct job *job, const struct gguf_base_tensor *t,
                        const struct gguf_tensor *have, int64_t part, int64_t begin, int64_t n)
{
    const int64_t slot = t->first + part * t->stride;
    const size_t at = (size_t)(part * n_value(job->sources[slot]) + begin) * dtype_size(t->dtype);
    bool fits = true;
    const void *want = stored_values(job, t, slot, begin, n, &fits);
    return memcmp(have->data + at, want, (size_t)n * dtype_size(t->dtype)) == 0;
}

static bool same_tensor(const struct job *job, const struct gguf_base_tensor *t,
                        const struct gguf_tensor *have)
{
    bool same =
        strcmp(have->name, t->name) == 0 && have->dtype == t->dtype && have->n_dim == t->n_dim;
    for (int i = 0; same && i < t->n_dim; i++)
        same = have->dims[i] == t->dims[i];
    for (int64_t e = 0; same && e < t->n_part; e++) {
        const int64_t n = n_value(job->sources[t->first + e * t->stride]);
        const int64_t m = n < ENDS ? n : ENDS;
        same = same_values(job, t, have, e, 0, m) && same_values(job, t, have, e, n - m, m);
    }
    return same;
}

/* Of the file that is still to be renamed. */
static bool prove(const struct job *job, struct err *err)
{
    struct gguf g = { 0 };
    const char *written = gguf_uncommitted(&job->w);
    if (written == NULL)
        return true;
    if (!gguf_open(written, &g, err))
        return false;
    bool ok =
        g.n_tensor == job->base.n_tensor ||
        err_set(err, ERR_INTERNAL, "%s: read back, it has %" PRId64 " tensors; expected %" PRId64,
                job->path, g.n_tensor, job->base.n_tensor);
    for (int64_t i = 0; ok && i < g.n_tensor; i++) {
        if (!same_tensor(job, &job->base.tensors[i], &g.tensors[i]))
            ok = err_set(err, ERR_INTERNAL, "%s: tensor '%s': is not there as it was written",
                         job->path, job->base.tensors[i].name);
    }
    gguf_close(&g);
    return ok;
}

/* ---- the export ---- */

static bool open_checkpoint(struct job *job, const char *base, struct err *err)
{
    if (job->dtype != DTYPE_F32 && job->dtype != DTYPE_F16 && job->dtype != DTYPE_BF16)
        return err_set(err, ERR_USAGE, "a GGUF base is F32, F16 or BF16, not %s",
                       dtype_name(job->dtype));
    if (!weights_locate(base, &job->folder, &job->config_path, err) ||
        !jamba_config_read(job->config_path, &job->config, err))
        return false;
    if (job->folder == NULL)
        return err_set(err, ERR_USAGE, "%s: is no checkpoint; there are no weights to export",
                       base);
    return gguf_check_config(&job->config, job->config_path, err) &&
           gguf_base_plan(&job->config, job->dtype, &job->base, err) &&
           shards_open(&job->shards, job->folder, &job->config, err) && find_sources(job, err);
}

bool export_gguf_base(const char *base, enum dtype dtype, const char *path, struct text *notes,
                      struct err *err)
{
    struct job job = { .dtype = dtype, .path = path };
    job.out = malloc(PIECE * sizeof(float));
    const bool ok = (job.out != NULL || err_no_memory(err, path)) &&
                    open_checkpoint(&job, base, err) && put_header(&job, notes, err) &&
                    gguf_begin(&job.w, path, err) && write_data(&job, err) && prove(&job, err) &&
                    gguf_commit(&job.w, err);
    gguf_abandon(&job.w);
    shards_close(&job.shards);
    gguf_base_free(&job.base);
    free(job.sources);
    free(job.out);
    free(job.folder);
    free(job.config_path);
    return ok;
}
