/* Writing PEFT's adapter folder, and saying what other programs will make of it. */
#include "lora/format_peft.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/format/safetensors.h"
#include "lora/peft_names.h"
#include "lora/peft_spelling.h"

/* ---- adapter_config.json ---- */

/* The keys that PEFT 0.14 wrote: newer ones only make an older PEFT warn, and a missing one has its
 * default. These are null; the rest is set below. */
static const char *const null_keys[] = {
    "auto_mapping",
    "exclude_modules",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "megatron_config",
    "modules_to_save",
    "revision",
    "trainable_token_indices",
};

/* Takes the value over, also on failure; false when memory is out. */
static bool set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static bool fill(json_t *o, const struct peft_view *view, const struct peft_model_facts *facts)
{
    const struct lora_config *config = view->config;
    /* PEFT refuses dropout on parameters even where it has no effect. */
    const double dropout = peft_has_parameters(view) ? 0 : config->dropout;
    for (size_t i = 0; i < sizeof null_keys / sizeof *null_keys; i++) {
        if (!set(o, null_keys[i], json_null()))
            return false;
    }
    const char *base = facts->base_model;
    const bool has_base =
        base != NULL && text_is_utf8(base, strlen(base), NULL); /* JSON holds no other */
    return set(o, "base_model_name_or_path", has_base ? json_string(base) : json_null()) &&
           set(o, "bias", json_string("none")) && set(o, "fan_in_fan_out", json_false()) &&
           set(o, "inference_mode", json_true()) && set(o, "init_lora_weights", json_true()) &&
           set(o, "loftq_config", json_object()) &&
           set(o, "lora_alpha", peft_number(config->alpha)) && set(o, "lora_bias", json_false()) &&
           set(o, "lora_dropout", json_real(dropout)) &&
           set(o, "megatron_core", json_string("megatron.core")) &&
           set(o, "peft_type", json_string("LORA")) && set(o, "r", json_integer(config->r)) &&
           set(o, "task_type", json_string("CAUSAL_LM")) && set(o, "use_dora", json_false()) &&
           set(o, "use_rslora", json_boolean(config->use_rslora)) && peft_spell(view, o);
}

/* With the fewest digits that read back as the same numbers: 0.05 and not 0.050000000000000003.
 * NULL: memory is out. */
static char *dump(const json_t *object)
{
    enum { FEWEST = 15, MOST = 17 };
    for (size_t digits = FEWEST;; digits++) {
        char *text =
            json_to_text(object, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(digits));
        json_t *again = text == NULL ? NULL : json_parse(text, strlen(text), "the adapter", NULL);
        if (again == NULL) {
            free(text);
            return NULL;
        }
        const bool same = json_equal(object, again);
        json_decref(again);
        if (same || digits == MOST)
            return text;
        free(text);
    }
}

char *peft_config_text(const struct lora_module *modules, int64_t n,
                       const struct lora_choice *choices, const struct lora_config *config,
                       const struct peft_model_facts *facts)
{
    const struct peft_view view = { .modules = modules,
                                    .n = n,
                                    .choices = choices,
                                    .config = config,
                                    .router_parameter = facts->router_parameter };
    json_t *object = json_object();
    char *text = object != NULL && fill(object, &view, facts) ? dump(object) : NULL;
    json_decref(object);
    return text;
}

static bool write_config(const char *path, const char *text, struct err *err)
{
    const size_t n = strlen(text);
    if (!file_write(path, text, n, err))
        return false;
    char *again = NULL;
    size_t n_again = 0;
    if (!file_read(path, n, &again, &n_again, err))
        return false;
    const bool same = n_again == n && memcmp(again, text, n) == 0;
    free(again);
    return same ||
           err_set(err, ERR_IO, "%s: does not read back as written; is the disk sound?", path);
}

/* ---- adapter_model.safetensors ---- */

/* What is written: two tensors a slot, their names, and the values as F32 (the adapter's own block
 * where real is float). */
struct outgoing {
    struct safetensors_tensor *tensors;
    char (*names)[PEFT_NAME_SIZE];
    float *owned;
    int64_t n;
};

static void outgoing_free(struct outgoing *o)
{
    free(o->tensors);
    free(o->names);
    free(o->owned);
}

static const float *as_float(struct outgoing *o, const struct lora_adapter *adapter)
{
#if REAL_IS_DOUBLE
    o->owned = malloc(((size_t)adapter->n_param + 1) * sizeof *o->owned);
    for (int64_t i = 0; o->owned != NULL && i < adapter->n_param; i++)
        o->owned[i] = (float)adapter->params[i];
    return o->owned;
#else
    (void)o;
    return adapter->params;
#endif
}

static void add_tensor(struct outgoing *o, const float *data, int64_t rows, int64_t cols)
{
    o->tensors[o->n] =
        (struct safetensors_tensor){ .name = o->names[o->n],
                                     .dtype = DTYPE_F32,
                                     .n_dim = 2,
                                     .dims = { rows, cols },
                                     .data = data,
                                     .bytes = (size_t)(rows * cols) * sizeof(float) };
    o->n++;
}

static bool gather(struct outgoing *o, const struct lora_adapter *adapter, struct err *err)
{
    const size_t n = 2 * (size_t)adapter->n_slot + 1;
    o->tensors = calloc(n, sizeof *o->tensors);
    o->names = calloc(n, sizeof *o->names);
    const float *params = as_float(o, adapter);
    if (o->tensors == NULL || o->names == NULL || (params == NULL && adapter->n_param > 0))
        return err_no_memory(err, "the adapter's file");
    for (int64_t s = 0; s < adapter->n_slot; s++) {
        const struct lora_slot *slot = &adapter->slots[s];
        const struct lora_module *m = slot->module;
        peft_tensor_name(m, PEFT_A, o->names[o->n]);
        add_tensor(o, params + (slot->a - adapter->params), slot->rank, m->in);
        peft_tensor_name(m, PEFT_B, o->names[o->n]);
        add_tensor(o, params + (slot->b - adapter->params), m->out, slot->rank);
    }
    return true;
}

static bool is_same(const struct safetensors_tensor *a, const struct safetensors_tensor *b)
{
    return a != NULL && a->dtype == b->dtype && a->n_dim == 2 && a->dims[0] == b->dims[0] &&
           a->dims[1] == b->dims[1] && a->bytes == b->bytes &&
           memcmp(a->data, b->data, b->bytes) == 0;
}

static bool write_tensors(const char *path, const struct outgoing *o, struct err *err)
{
    static const struct safetensors_note sealed = { SAFETENSORS_DIGEST, NULL };
    struct safetensors st = { 0 };
    if (!safetensors_write_notes(path, o->tensors, o->n, &sealed, 1, err) ||
        !safetensors_open(path, &st, err))
        return false;
    bool same = st.n_tensor == o->n;
    for (int64_t i = 0; same && i < o->n; i++)
        same = is_same(safetensors_find(&st, o->tensors[i].name), &o->tensors[i]);
    safetensors_close(&st);
    return same ||
           err_set(err, ERR_IO, "%s: does not read back as written; is the disk sound?", path);
}

static struct lora_choice *choices_of(const struct lora_adapter *adapter)
{
    struct lora_choice *choices = calloc((size_t)adapter->n_module + 1, sizeof *choices);
    for (int64_t i = 0; choices != NULL && i < adapter->n_module; i++) {
        const struct lora_slot *slot = lora_adapter_slot(adapter, i);
        if (slot != NULL)
            choices[i] = (struct lora_choice){
                .on = true, .r = slot->rank, .alpha = slot->alpha, .scale = (double)slot->scale
            };
    }
    return choices;
}

bool peft_write(const char *dir, const struct lora_adapter *adapter,
                const struct lora_config *config, const struct peft_model_facts *facts,
                struct err *err)
{
    struct outgoing o = { 0 };
    struct lora_choice *choices = choices_of(adapter);
    char *config_path = file_join(dir, PEFT_CONFIG_NAME), *path = file_join(dir, PEFT_TENSORS_NAME);
    char *text = choices == NULL ? NULL
                                 : peft_config_text(adapter->modules, adapter->n_module, choices,
                                                    config, facts);
    bool ok = false;
    if (config_path == NULL || path == NULL || text == NULL)
        err_no_memory(err, "the adapter's files");
    else
        ok = file_make_directory(dir, err) && gather(&o, adapter, err) &&
             write_tensors(path, &o, err) && write_config(config_path, text, err);
    outgoing_free(&o);
    free(choices);
    free(config_path);
    free(path);
    free(text);
    return ok;
}

/* ---- warnings ---- */

struct peft_traits peft_written_traits(const struct lora_module *modules, int64_t n,
                                       const struct lora_choice *choices,
                                       const struct lora_config *config)
{
    const struct peft_view view = {
        .modules = modules, .n = n, .choices = choices, .config = config
    };
    const bool fused = peft_has_fused_experts(&view);
    return (struct peft_traits){ .fused_entries = fused, .dropout = fused ? 0 : config->dropout };
}

void peft_warnings(const struct lora_module *modules, int64_t n, const struct lora_choice *choices,
                   const struct lora_config *config, const struct peft_model_facts *facts,
                   struct text *out)
{
    const struct peft_traits traits = peft_written_traits(modules, n, choices, config);
    const struct lora_subject subject = { .modules = modules,
                                          .n_module = n,
                                          .choices = choices,
                                          .config = config,
                                          .traits = &traits,
                                          .tied = facts->tied };
    struct lora_report report;
    if (!lora_judge(&subject, &report, NULL)) {
        out->failed = true;
        return;
    }
    for (int i = 0; i < report.n_finding; i++) {
        const struct lora_finding *f = &report.findings[i];
        text_printf(out, "%s: %s; %s\n", f->subject, f->problem, f->remedy);
    }
    lora_report_free(&report);
}
