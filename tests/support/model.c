#include "tests/support/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lora/format_peft.h"

const char *const test_model_names[TEST_N_MODEL] = { "dense_mqa_tied", "moe_gqa_untied",
                                                     "proj_bias", "odd_sizes", "bf16_sharded" };

static const struct safetensors_tensor *find(const struct test_model *m, const char *name)
{
    const struct safetensors_tensor *t = safetensors_find(&m->golden, name);
    if (t == NULL)
        fail_msg("the golden file has no tensor '%s'", name);
    return t;
}

static int64_t size_of(const struct safetensors_tensor *t)
{
    return (int64_t)(t->bytes / dtype_size(t->dtype));
}

real *test_golden(const struct test_model *m, const char *name, int64_t n)
{
    const struct safetensors_tensor *t = find(m, name);
    if (n >= 0)
        assert_int_equal(size_of(t), n);
    real *out = test_zeros(size_of(t));
    dtype_to_real(t->dtype, t->data, size_of(t), out);
    return out;
}

double test_golden_double(const struct test_model *m, const char *name)
{
    double x;
    memcpy(&x, find(m, name)->data, sizeof x);
    return x;
}

/* I32 bytes of a golden tensor, copied. */
static int32_t *golden_ints(const struct test_model *m, const char *name, int64_t *n)
{
    const struct safetensors_tensor *t = find(m, name);
    assert_int_equal(t->dtype, DTYPE_I32);
    int32_t *out = malloc(t->bytes);
    assert_non_null(out);
    memcpy(out, t->data, t->bytes);
    *n = size_of(t);
    return out;
}

void test_stream_of(const struct test_model *m, const int32_t *docs, int64_t n, struct stream *out)
{
    int64_t n_ids = 0, n_targets = 0, n_start = 0;
    int32_t *ids = golden_ints(m, "ids", &n_ids), *targets = golden_ints(m, "targets", &n_targets);
    int32_t *start = golden_ints(m, "doc_start", &n_start);
    const int64_t n_doc = docs == NULL ? n_start - 1 : n;
    int64_t cap = 0;
    for (int64_t i = 0; i < n_doc; i++) {
        const int64_t d = docs == NULL ? i : docs[i];
        cap += start[d + 1] - start[d];
    }
    *out = (struct stream){ .tok_cap = cap, .doc_cap = n_doc };
    out->ids = malloc((size_t)cap * sizeof *out->ids);
    out->targets = malloc((size_t)cap * sizeof *out->targets);
    out->doc_start = malloc((size_t)(n_doc + 1) * sizeof *out->doc_start);
    assert_true(out->ids != NULL && out->targets != NULL && out->doc_start != NULL);
    for (int64_t i = 0; i < n_doc; i++) {
        const int64_t d = docs == NULL ? i : docs[i];
        out->doc_start[out->n_doc++] = out->n_tok;
        for (int32_t t = start[d]; t < start[d + 1]; t++, out->n_tok++) {
            out->ids[out->n_tok] = ids[t];
            out->targets[out->n_tok] = targets[t];
            out->n_target += targets[t] >= 0;
        }
    }
    out->doc_start[out->n_doc] = out->n_tok;
    free(ids);
    free(targets);
    free(start);
}

void test_stream_free(struct stream *s)
{
    free(s->ids);
    free(s->targets);
    free(s->doc_start);
    *s = (struct stream){ 0 };
}

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s", err.text);                                                              \
    } while (0)

static void open_adapter(struct test_model *m, const char *dir)
{
    struct err err = { 0 };
    m->n_module = jamba_modules(weights_config(m->weights), &m->modules);
    assert_true(m->n_module > 0);
    m->choices = calloc((size_t)m->n_module, sizeof *m->choices);
    assert_non_null(m->choices);
    REQUIRE(peft_read_config(dir, &m->lora, &err));
    REQUIRE(peft_choices_from_tensors(dir, m->modules, m->n_module, &m->lora, m->choices, &err));
    REQUIRE(arena_init(&m->adapter_arena, "adapter", (size_t)64 << 20, &err));
    const struct lora_adapter_args args = { m->modules, m->n_module,       m->choices,
                                            &m->t.be,   &m->adapter_arena, true };
    REQUIRE(lora_adapter_init(&m->adapter, &args, &err));
    REQUIRE(peft_read_tensors(dir, &m->adapter, &err));
    lora_adapter_push(&m->adapter, &m->t.be);
}

void test_model_open(struct test_model *m, const char *name, const char *file)
{
    char path[256];
    struct err err = { 0 };
    *m = (struct test_model){ 0 };
    test_backend_init(&m->t, 1); /* too little work for more */
    snprintf(path, sizeof path, "tests/fixtures/models/%s", name);
    m->weights = weights_open(path, 0, &err);
    REQUIRE(m->weights != NULL);
    snprintf(path, sizeof path, "tests/fixtures/models/%s/adapter", name);
    open_adapter(m, path);
    snprintf(path, sizeof path, "tests/fixtures/models/%s/%s", name, file);
    REQUIRE(safetensors_open(path, &m->golden, &err));
    test_stream_of(m, NULL, 0, &m->stream);
    REQUIRE(arena_init(&m->saved, "saved", (size_t)1 << 30, &err));
    m->jamba = (struct jamba){ .be = &m->t.be,
                               .saved = &m->saved,
                               .config = weights_config(m->weights),
                               .weights = m->weights,
                               .adapter = &m->adapter,
                               .chunk_tokens = 1 };
    REQUIRE(
        jamba_init(&m->jamba, m->stream.n_tok, m->stream.n_doc, &err)); /* room for chunks of one */
    m->jamba.chunk_tokens = m->stream.n_tok;
}

void test_model_close(struct test_model *m)
{
    test_stream_free(&m->stream);
    jamba_free(&m->jamba);
    safetensors_close(&m->golden);
    lora_adapter_free(&m->adapter);
    lora_config_free(&m->lora);
    free(m->choices);
    free(m->modules);
    weights_close(m->weights);
    arena_free(&m->adapter_arena);
    arena_free(&m->saved);
    test_backend_free(&m->t);
}

struct jamba_result test_run(struct test_model *m, const struct stream *s, bool backward)
{
    struct jamba_result r;
    memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
    const struct jamba_pass pass = { .backward = backward,
                                     .grad_scale = (real)1 / (real)s->n_target };
    jamba_run(&m->jamba, s, &pass, &r);
    return r;
}
