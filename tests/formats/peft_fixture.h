/* A scratch folder, and an adapter from a few words: for the tests of PEFT's adapter folder. */
#ifndef TESTS_FORMATS_PEFT_FIXTURE_H
#define TESTS_FORMATS_PEFT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "lora/format_peft.h"
#include "tests/unit/lora/tiny_jamba.h"

enum { SEED = 3, MAX_LIST = 6 };

#define FUSED "feed_forward.experts.gate_up_proj"
#define FUSED_DOWN "feed_forward.experts.down_proj"

struct spec {
    const char *list[MAX_LIST];
    const char *regex;
    bool all_linear, rslora, tied;
    int64_t layer; /* 0: all */
    struct {
        const char *key;
        double value;
    } ranks[3], alphas[3];
    double dropout;
};

struct fixture {
    char dir[512];
    struct lora_module *modules;
    int64_t n;
    struct lora_choice *choices;
    struct lora_config config;
    char *list[MAX_LIST];
    int64_t layer;
    struct lora_pattern ranks[3], alphas[3];
    struct peft_model_facts facts;
    struct arena arena;
    struct lora_adapter adapter;
};

static inline char *borrowed(const char *s)
{
    return (char *)(uintptr_t)s;
}

static inline void open_dir(char dir[512])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, 512, "%s/jambatune-peft-XXXXXX", tmp != NULL && *tmp != '\0' ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
}

static inline void path_in(const char *dir, const char *name, char out[640])
{
    snprintf(out, 640, "%s/%s", dir, name);
}

static inline void close_dir(const char *dir)
{
    static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "adapter_model.bin" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[640];
        path_in(dir, names[i], path);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0); /* nothing else was left there */
}

static inline void set_config(struct fixture *f, const struct spec *spec)
{
    struct lora_config *c = &f->config;
    c->r = 4;
    c->alpha = 8;
    c->dropout = spec->dropout;
    c->use_rslora = spec->rslora;
    c->all_linear = spec->all_linear;
    c->target_regex = borrowed(spec->regex);
    c->target_modules = f->list;
    for (; c->n_target < MAX_LIST && spec->list[c->n_target] != NULL; c->n_target++)
        f->list[c->n_target] = borrowed(spec->list[c->n_target]);
    f->layer = spec->layer;
    c->layers_to_transform = &f->layer;
    c->n_layer_to_transform = spec->layer != 0;
    c->rank_pattern = f->ranks;
    c->alpha_pattern = f->alphas;
    for (int i = 0; i < 3; i++) {
        f->ranks[i] = (struct lora_pattern){ borrowed(spec->ranks[i].key), spec->ranks[i].value };
        f->alphas[i] =
            (struct lora_pattern){ borrowed(spec->alphas[i].key), spec->alphas[i].value };
        c->n_rank_pattern += spec->ranks[i].key != NULL;
        c->n_alpha_pattern += spec->alphas[i].key != NULL;
    }
}

static inline void open_adapter(struct lora_adapter *adapter, struct arena *arena,
                                const struct fixture *f, const struct lora_choice *choices)
{
    struct err err = { 0 };
    assert_true(arena_init(arena, "adapter", (size_t)1 << 20, &err));
    const struct backend host = { .act = DTYPE_REAL };
    const struct lora_adapter_args args = { f->modules, f->n, choices, &host, arena, false };
    assert_true(lora_adapter_init(adapter, &args, &err));
}

static inline void open_fixture(struct fixture *f, const struct spec *spec)
{
    const struct jamba_config jamba = tiny_jamba();
    *f = (struct fixture){ .facts = { .base_model = "some/base", .tied = spec->tied } };
    f->n = jamba_modules(&jamba, &f->modules);
    f->choices = calloc((size_t)f->n, sizeof *f->choices);
    assert_non_null(f->choices);
    set_config(f, spec);
    struct err err = { 0 };
    if (!lora_choose(&f->config, f->modules, f->n, f->choices, &err))
        fail_msg("%s", err.text);
    open_adapter(&f->adapter, &f->arena, f, f->choices);
    lora_adapter_reset(&f->adapter, SEED);
    for (int64_t i = 0; i < f->adapter.n_param; i++) /* no zeros, and exact in F32 */
        f->adapter.params[i] = (real)(float)(f->adapter.params[i] + (real)(i + 1) / 64);
    open_dir(f->dir);
}

static inline void close_fixture(struct fixture *f)
{
    close_dir(f->dir);
    lora_adapter_free(&f->adapter);
    arena_free(&f->arena);
    free(f->choices);
    free(f->modules);
}

#endif
