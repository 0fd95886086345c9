#include "finetune/model/engine.h"

#include <stdlib.h>

#include "kernels/core/manifest.h"
#include "lora/format_peft.h"

static bool list_modules(struct engine *e, struct err *err)
{
    e->be.scratch = &e->scratch;
    e->n_module = jamba_modules(weights_config(e->weights), &e->modules);
    return e->n_module > 0 || err_no_memory(err, "the list of modules");
}

bool engine_open(struct engine *e, const struct engine_options *options, struct err *err)
{
    *e = (struct engine){ 0 };
    if (!compute_open(&e->be, &options->compute, err))
        return false;
    e->weights = e->be.remote ? weights_open_for_device(options->base_model, options->seed, err)
                              : weights_open(options->base_model, options->seed, err);
    if (e->weights != NULL && list_modules(e, err))
        return true;
    engine_close(e);
    return false;
}

bool engine_open_shapes(struct engine *e, const struct engine_options *options, struct err *err)
{
    *e = (struct engine){ 0 };
    struct jamba_config config;
    char *folder = NULL, *config_path = NULL;
    struct compute compute = options->compute;
    compute.plan_only = true;
    if (!compute_open(&e->be, &compute, err) ||
        !weights_locate(options->base_model, &folder, &config_path, err))
        return false;
    if (jamba_config_read(config_path, &config, err))
        e->weights = weights_shapes(&config, err);
    free(folder);
    free(config_path);
    if (e->weights != NULL && list_modules(e, err))
        return true;
    engine_close(e);
    return false;
}

void engine_close(struct engine *e)
{
    jamba_free(&e->jamba);
    free(e->stream.ids);
    free(e->stream.targets);
    free(e->stream.doc_start);
    lora_adapter_free(&e->adapter);
    lora_config_free(&e->lora);
    free(e->choices);
    free(e->modules);
    weights_close(e->weights);
    arena_free(&e->adapter_arena);
    arena_free(&e->saved);
    arena_free(&e->scratch);
    arena_free(&e->weights_arena);
    arena_free(&e->memory);
    compute_close(&e->be);
    *e = (struct engine){ 0 };
}

static bool allocate_choices(struct engine *e, struct err *err)
{
    free(e->choices);
    e->choices = calloc((size_t)e->n_module, sizeof *e->choices);
    return e->choices != NULL || err_no_memory(err, "the list of modules");
}

bool engine_choose(struct engine *e, const struct lora_config *lora, struct err *err)
{
    return allocate_choices(e, err) && lora_choose(lora, e->modules, e->n_module, e->choices, err);
}

bool engine_choose_from(struct engine *e, const char *adapter_dir, struct err *err)
{
    return allocate_choices(e, err) && manifest_check(adapter_dir, err) &&
           peft_read_config(adapter_dir, &e->lora, err) &&
           peft_choices_from_tensors(adapter_dir, e->modules, e->n_module, &e->lora, e->choices,
                                     err);
}

struct plan_subject engine_subject(const struct engine *e, bool training)
{
    return (struct plan_subject){ .be = &e->be,
                                  .weights = e->weights,
                                  .modules = e->modules,
                                  .n_module = e->n_module,
                                  .choices = e->choices,
                                  .training = training };
}

static bool allocate_stream(struct stream *s, int64_t n_tok, struct err *err)
{
    *s = (struct stream){ .tok_cap = n_tok, .doc_cap = n_tok };
    s->ids = calloc((size_t)n_tok, sizeof *s->ids);
    s->targets = calloc((size_t)n_tok, sizeof *s->targets);
    s->doc_start = calloc((size_t)n_tok + 1, sizeof *s->doc_start);
    return (s->ids != NULL && s->targets != NULL && s->doc_start != NULL) ||
           err_no_memory(err, "the stream of tokens");
}

static bool allocate_adapter(struct engine *e, const struct engine_memory *memory, struct err *err)
{
    const struct lora_adapter_args args = { .modules = e->modules,
                                            .n_module = e->n_module,
                                            .choices = e->choices,
                                            .be = &e->be,
                                            .arena = &e->adapter_arena,
                                            .with_training = memory->training };
    if (!lora_adapter_init(&e->adapter, &args, err))
        return false;
    if (memory->adapter_dir == NULL)
        lora_adapter_reset(&e->adapter, memory->seed);
    else if (!peft_read_tensors(memory->adapter_dir, &e->adapter, err))
        return false;
    lora_adapter_push(&e->adapter, &e->be);
    return true;
}

static bool allocate_host(struct engine *e, const struct plan_bytes *bytes, struct err *err)
{
    return arena_init(&e->scratch, "scratch", bytes->scratch, err) &&
           arena_init(&e->saved, "saved", bytes->saved, err) &&
           arena_init(&e->adapter_arena, "adapter", bytes->adapter, err);
}

/* One allocation, cut in four, and the base copied into its part. */
static bool allocate_device(struct engine *e, const struct plan_bytes *bytes, struct err *err)
{
    if (!arena_init_in(&e->memory, e->be.device, "device", bytes->total + 4 * ARENA_ALIGN, err))
        return plan_explain(bytes, err);
    arena_init_part(&e->weights_arena, &e->memory, "weights", bytes->weights);
    arena_init_part(&e->adapter_arena, &e->memory, "adapter", bytes->adapter);
    arena_init_part(&e->saved, &e->memory, "saved", bytes->saved);
    arena_init_part(&e->scratch, &e->memory, "scratch", bytes->scratch);
    return weights_to_device(e->weights, &e->be, &e->weights_arena, err);
}

bool engine_allocate(struct engine *e, const struct engine_memory *memory, struct err *err)
{
    e->be.scratch = &e->scratch;
    if (!(e->be.remote ? allocate_device(e, &memory->bytes, err)
                       : allocate_host(e, &memory->bytes, err)) ||
        (e->choices != NULL && !allocate_adapter(e, memory, err)) ||
        !allocate_stream(&e->stream, memory->shape.pass_tokens, err))
        return false;
    e->jamba = (struct jamba){ .be = &e->be,
                               .saved = &e->saved,
                               .config = weights_config(e->weights),
                               .weights = e->weights,
                               .adapter = e->choices == NULL ? NULL : &e->adapter,
                               .chunk_tokens = memory->shape.chunk_tokens,
                               .longest = memory->shape.longest,
                               .recompute = memory->shape.recompute };
    return jamba_init(&e->jamba, memory->shape.pass_tokens, memory->shape.pass_tokens, err);
}

bool engine_allocate_generation(struct engine *e, int64_t chunk_tokens, const char *adapter_dir,
                                struct err *err)
{
    struct engine_memory memory = {
        .shape = { .pass_tokens = chunk_tokens, .chunk_tokens = chunk_tokens },
        .adapter_dir = adapter_dir,
    };
    const struct plan_subject subject = engine_subject(e, false);
    return plan_measure_generation(&subject, chunk_tokens, &memory.bytes, err) &&
           engine_allocate(e, &memory, err);
}
