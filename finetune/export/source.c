#include "finetune/export/source.h"

#include <stdlib.h>

#include "finetune/model/modules.h"
#include "finetune/model/weights.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/manifest.h"
#include "kernels/core/text.h"
#include "lora/format_peft.h"

enum { MAX_CONFIG = 1 << 24 };

/* What the adapter says it was trained on; NULL with a message when it says nothing. */
static char *base_of_adapter(const char *dir, struct err *err)
{
    char *path = file_join(dir, PEFT_CONFIG_NAME), *name = NULL;
    json_t *root = path != NULL ? json_load_object(path, MAX_CONFIG, err) : NULL;
    const json_t *value = json_object_get(root, "base_model_name_or_path");
    if (path == NULL)
        err_no_memory(err, dir);
    else if (root != NULL && json_string_length(value) == 0)
        err_set(err, ERR_DATA,
                "%s: \"base_model_name_or_path\" is not given; say which base with --base", path);
    else if (root != NULL && (name = text_copy(json_string_value(value))) == NULL)
        err_no_memory(err, path);
    json_decref(root);
    free(path);
    return name;
}

static bool find_base(struct export_source *s, const char *base, struct err *err)
{
    char *config_path = NULL;
    s->base_name = base != NULL ? text_copy(base) : base_of_adapter(s->adapter_dir, err);
    if (s->base_name == NULL)
        return base != NULL ? err_no_memory(err, base) : false;
    const bool ok = weights_locate(s->base_name, &s->base_dir, &config_path, err) &&
                    jamba_config_read(config_path, &s->config, err);
    free(config_path);
    return ok;
}

static bool list_modules(struct export_source *s, struct err *err)
{
    s->n_module = jamba_modules(&s->config, &s->modules);
    if (s->n_module <= 0)
        return err_no_memory(err, "the list of modules");
    s->choices = calloc((size_t)s->n_module, sizeof *s->choices);
    return s->choices != NULL || err_no_memory(err, "the list of modules");
}

static bool read_adapter(struct export_source *s, struct err *err)
{
    static const struct backend host = { .act = DTYPE_REAL };
    struct arena measure;
    struct lora_adapter_args args = { .modules = s->modules,
                                      .n_module = s->n_module,
                                      .choices = s->choices,
                                      .be = &host,
                                      .arena = &measure };
    arena_init_measuring(&measure, "adapter");
    if (!lora_adapter_init(&s->adapter, &args, err))
        return false;
    lora_adapter_free(&s->adapter);
    args.arena = &s->arena;
    return arena_init(&s->arena, "adapter", measure.peak, err) &&
           lora_adapter_init(&s->adapter, &args, err) &&
           peft_read_tensors(s->adapter_dir, &s->adapter, err);
}

bool export_open(struct export_source *s, const char *adapter_dir, const char *base,
                 struct err *err)
{
    *s = (struct export_source){ .adapter_dir = text_copy(adapter_dir) };
    const bool ok = (s->adapter_dir != NULL || err_no_memory(err, adapter_dir)) &&
                    manifest_check(adapter_dir, err) &&
                    peft_read_config(adapter_dir, &s->lora, err) && find_base(s, base, err) &&
                    list_modules(s, err) &&
                    peft_choices_from_tensors(adapter_dir, s->modules, s->n_module, &s->lora,
                                              s->choices, err) &&
                    read_adapter(s, err);
    if (!ok)
        export_close(s);
    return ok;
}

void export_close(struct export_source *s)
{
    lora_adapter_free(&s->adapter);
    arena_free(&s->arena);
    lora_config_free(&s->lora);
    free(s->choices);
    free(s->modules);
    free(s->base_name);
    free(s->base_dir);
    free(s->adapter_dir);
    *s = (struct export_source){ 0 };
}
