#include "finetune/export/gguf_adapter.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "finetune/export/gguf_names.h"
#include "finetune/export/gguf_pairs.h"
#include "finetune/export/gguf_proof.h"
#include "finetune/export/gguf_values.h"
#include "kernels/format/gguf.h"

enum { SINK_VALUES = 1 << 16 };

/* ---- refusals ---- */

static bool adapts(const struct export_source *s, enum lora_kind kind)
{
    for (int64_t i = 0; i < s->n_module; i++) {
        if (s->modules[i].kind == kind && s->choices[i].on)
            return true;
    }
    return false;
}

static bool check_source(const struct export_source *s, enum dtype dtype, struct err *err)
{
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16)
        return err_set(err, ERR_USAGE, "a GGUF adapter is F32 or F16, not %s", dtype_name(dtype));
    if (!gguf_check_config(&s->config, s->base_name, err))
        return false;
    if (!s->config.tie_word_embeddings)
        return true;
    if (adapts(s, LORA_EMBED_TOKENS))
        return err_set(err, ERR_DATA,
                       "%s: adapts 'embed_tokens' of a base whose head is the same matrix "
                       "(tie_word_embeddings); llama.cpp would put the pair on both and abort. "
                       "Export the merged checkpoint instead (--to merged), which unties them",
                       s->adapter_dir);
    if (adapts(s, LORA_LM_HEAD))
        return err_set(err, ERR_DATA,
                       "%s: adapts 'lm_head' of a base whose head is the embedding's matrix "
                       "(tie_word_embeddings); llama.cpp has no such tensor and rejects the file. "
                       "Export the merged checkpoint instead (--to merged), which unties them",
                       s->adapter_dir);
    return true;
}

/* ---- writing ---- */

/* Values on their way into the file, a buffer at a time. */
struct sink {
    struct gguf_writer *w;
    enum dtype dtype;
    const char *path, *name; /* of the file, of the tensor */
    struct err *err;
    bool ok;
    int64_t n;
    float values[SINK_VALUES];
    char stored[SINK_VALUES * sizeof(float)];
};

static bool too_large(const struct sink *sink)
{
    return err_set(sink->err, ERR_DATA, "%s: tensor '%s': has a value that does not fit in %s%s",
                   sink->path, sink->name, dtype_name(sink->dtype),
                   sink->dtype == DTYPE_F16 ? "; export it as F32" : "");
}

static void flush(struct sink *sink)
{
    if (sink->ok && !gguf_round(sink->values, sink->n, sink->dtype, sink->stored))
        sink->ok = too_large(sink);
    sink->ok = sink->ok && gguf_data(sink->w, sink->stored,
                                     (size_t)sink->n * dtype_size(sink->dtype), sink->err);
    sink->n = 0;
}

static void push(struct sink *sink, double value)
{
    const float x = (float)value;
    if (isinf(x) && isfinite(value) && sink->ok)
        sink->ok = too_large(sink);
    sink->values[sink->n++] = x;
    if (sink->n == SINK_VALUES)
        flush(sink);
}

static void push_zeros(struct sink *sink, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        push(sink, 0);
}

/* (rank, in): the slot's rows, then rows of zeros. */
static void push_a(struct sink *sink, const struct gguf_pair *pair, const struct lora_slot *slot)
{
    for (int64_t i = 0; i < slot->rank * pair->in; i++)
        push(sink, (double)slot->a[i]);
    push_zeros(sink, (pair->rank - slot->rank) * pair->in);
}

/* (vocab, rank): PEFT's lora_embedding_A, transposed. */
static void push_embedding_a(struct sink *sink, const struct gguf_pair *pair,
                             const struct lora_slot *slot)
{
    for (int64_t v = 0; v < pair->in; v++) {
        for (int64_t r = 0; r < pair->rank; r++)
            push(sink, (double)slot->a[r * pair->in + v]);
    }
}

/* (out, rank): the slot's columns, scaled, then columns of zeros. */
static void push_b(struct sink *sink, const struct gguf_pair *pair, const struct lora_slot *slot,
                   double factor)
{
    for (int64_t o = 0; o < pair->out; o++) {
        for (int64_t r = 0; r < slot->rank; r++)
            push(sink, (double)slot->b[o * slot->rank + r] * factor);
        push_zeros(sink, pair->rank - slot->rank);
    }
}

static bool write_tensor(struct sink *sink, const struct export_source *s,
                         const struct gguf_pairs *pairs, const struct gguf_pair *pair,
                         enum gguf_part part)
{
    char name[GGUF_NAME_SIZE + 8];
    int64_t dims[3];
    gguf_pair_tensor(pair, part, name, dims);
    sink->name = name;
    for (int64_t e = 0; sink->ok && e < (pair->n_expert > 0 ? pair->n_expert : 1); e++) {
        const int64_t module = pair->first + e * pair->stride;
        const struct lora_slot *slot = lora_adapter_slot(&s->adapter, module);
        if (slot == NULL)
            push_zeros(sink, pair->rank * (part == GGUF_LORA_A ? pair->in : pair->out));
        else if (part == GGUF_LORA_B)
            push_b(sink, pair, slot, gguf_pair_factor(pairs, pair, &s->choices[module]));
        else if (pair->embedding)
            push_embedding_a(sink, pair, slot);
        else
            push_a(sink, pair, slot);
    }
    flush(sink);
    return sink->ok;
}

static bool describe(struct gguf_writer *w, const struct gguf_pairs *pairs, enum dtype dtype,
                     struct err *err)
{
    gguf_put_string(w, "general.architecture", GGUF_ARCHITECTURE, sizeof GGUF_ARCHITECTURE - 1);
    gguf_put_string(w, "general.type", "adapter", 7);
    gguf_put_string(w, "adapter.type", "lora", 4);
    gguf_put_f32(w, "adapter.lora.alpha", pairs->alpha); /* of any other type: an abort */
    for (int64_t i = 0; i < pairs->n; i++) {
        for (int part = GGUF_LORA_A; part <= GGUF_LORA_B; part++) {
            char name[GGUF_NAME_SIZE + 8];
            int64_t dims[3];
            const int n = gguf_pair_tensor(&pairs->pair[i], (enum gguf_part)part, name, dims);
            if (!gguf_add_tensor(w, name, dtype, n, dims, err))
                return false;
        }
    }
    return true;
}

static bool write_file(const struct export_source *s, const struct gguf_pairs *pairs,
                       enum dtype dtype, const char *path, struct text *notes, struct err *err)
{
    struct gguf_writer w = { 0 };
    struct sink *sink = malloc(sizeof *sink);
    bool ok = sink != NULL || err_no_memory(err, path);
    ok = ok && describe(&w, pairs, dtype, err) && gguf_begin(&w, path, err);
    if (ok) {
        sink->w = &w;
        sink->dtype = dtype;
        sink->path = path;
        sink->err = err;
        sink->ok = true;
        sink->n = 0;
    }
    for (int64_t i = 0; ok && i < pairs->n; i++)
        ok = write_tensor(sink, s, pairs, &pairs->pair[i], GGUF_LORA_A) &&
             write_tensor(sink, s, pairs, &pairs->pair[i], GGUF_LORA_B);
    const char *written = gguf_uncommitted(&w);
    if (ok && written != NULL)
        ok = gguf_prove_adapter(s, pairs, dtype, written, notes, err);
    ok = ok && gguf_commit(&w, err);
    gguf_abandon(&w);
    free(sink);
    return ok;
}

/* ---- what the user should know ---- */

static void note(const struct gguf_pairs *pairs, struct text *notes)
{
    if (pairs->n_missing > 0)
        text_printf(notes,
                    "%" PRId64 " experts' projections are not adapted and have zeros in the file: "
                    "llama.cpp takes all experts of a layer's projection or none\n",
                    pairs->n_missing);
    if (pairs->n_padded > 0)
        text_printf(notes,
                    "%" PRId64 " experts' projections are of a lower rank than others beside them "
                    "and filled up with zeros: llama.cpp takes one rank a stack\n",
                    pairs->n_padded);
    if (pairs->n_folded > 0)
        text_printf(notes,
                    "adapter.lora.alpha is %g; the scale of %" PRId64
                    " modules is another than it gives and folded into their B\n",
                    (double)pairs->alpha, pairs->n_folded);
}

bool export_gguf_adapter(const struct export_source *s, enum dtype dtype, const char *path,
                         struct text *notes, struct err *err)
{
    struct gguf_pairs pairs = { 0 };
    if (!check_source(s, dtype, err) ||
        !gguf_pairs_plan(s->modules, s->n_module, s->choices, s->adapter_dir, &pairs, err))
        return false;
    note(&pairs, notes);
    const bool ok = write_file(s, &pairs, dtype, path, notes, err);
    gguf_pairs_free(&pairs);
    return ok;
}
