/* PEFT's adapter folder: adapter_config.json, and behind a zero byte adapter_model.safetensors. An
 * adapter that is accepted is of the model's shapes and finite.
 */
#include <math.h>
#include <stdlib.h>

#include "lora/format_peft.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/lora/tiny_jamba.h"

struct adapter {
    struct lora_module *modules;
    int64_t n;
    struct lora_choice *choices;
    struct lora_config config;
};

static void check_traits(const char *dir, const struct adapter *a, struct err *err)
{
    struct peft_traits traits = { 0 };
    FUZZ_CHECK(peft_read_traits(dir, a->modules, a->n, &a->config, a->choices, &traits, err));
    peft_traits_free(&traits);
}

static bool read_tensors(const char *dir, const struct adapter *a, struct err *err)
{
    const struct backend host = { .act = DTYPE_REAL };
    struct arena arena = { 0 };
    struct lora_adapter adapter = { 0 };
    const struct lora_adapter_args args = { a->modules, a->n, a->choices, &host, &arena, false };
    arena_init_measuring(&arena, "adapter");
    FUZZ_CHECK(lora_adapter_init(&adapter, &args, err));
    const size_t need = arena.peak;
    lora_adapter_free(&adapter);
    arena_free(&arena);
    if (need > (size_t)64 << 20)
        return err_set(err, ERR_DATA, "more than this harness will hold");
    FUZZ_CHECK(arena_init(&arena, "adapter", need, err));
    FUZZ_CHECK(lora_adapter_init(&adapter, &args, err));
    const bool ok = peft_read_tensors(dir, &adapter, err);
    for (int64_t i = 0; ok && i < adapter.n_param; i++)
        FUZZ_CHECK(isfinite(adapter.params[i]));
    if (ok)
        check_traits(dir, a, err);
    lora_adapter_free(&adapter);
    arena_free(&arena);
    return ok;
}

static bool read_adapter(const char *dir, struct adapter *a, struct err *err)
{
    if (!peft_read_config(dir, &a->config, err) ||
        !peft_choices_from_tensors(dir, a->modules, a->n, &a->config, a->choices, err))
        return false;
    for (int64_t i = 0; i < a->n; i++) {
        const struct lora_choice *c = &a->choices[i];
        FUZZ_CHECK(!c->on || (c->r >= 1 && c->r <= LORA_MAX_RANK && isfinite(c->alpha)));
        FUZZ_CHECK(!c->on || isfinite(c->scale));
    }
    return read_tensors(dir, a, err);
}

bool fuzz_adapter(const uint8_t *bytes, size_t n, struct err *err)
{
    const struct fuzz_pair in = fuzz_split(bytes, n);
    const struct jamba_config jamba = tiny_jamba();
    struct adapter a = { 0 };
    char path[FUZZ_PATH_SIZE];
    a.n = jamba_modules(&jamba, &a.modules);
    FUZZ_CHECK(a.n > 0);
    a.choices = calloc((size_t)a.n, sizeof *a.choices);
    FUZZ_CHECK(a.choices != NULL);
    fuzz_write("adapter", PEFT_CONFIG_NAME, in.first, in.n_first, path);
    fuzz_write("adapter", PEFT_TENSORS_NAME, in.second, in.n_second, path);
    const bool ok = read_adapter(fuzz_folder("adapter"), &a, err);
    lora_config_free(&a.config);
    free(a.choices);
    free(a.modules);
    return ok;
}
