/* The GGUF adapter: what llama.cpp makes of the file is the adapter's delta, for every way of
 * scaling; names and shapes of the published sizes; refusals; and a proof that can fail. */
#include "finetune/export/gguf_adapter.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "finetune/export/gguf_base.h"
#include "finetune/export/gguf_names.h"
#include "finetune/export/gguf_pairs.h"
#include "finetune/export/gguf_proof.h"
#include "finetune/export/gguf_values.h"
#include "kernels/core/file.h"
#include "kernels/format/gguf.h"
#include "tests/formats/peft_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* One rounding of each of A and B, and a little: of the sum of absolute products. */
static const double F32_TOLERANCE = 0x1p-22, F16_TOLERANCE = 0x1p-9;

/* ---- a source ---- */

struct source_fixture {
    struct fixture f;
    struct export_source s;
    char path[700];
};

static void open_source(struct source_fixture *x, const struct spec *spec)
{
    open_fixture(&x->f, spec);
    x->s = (struct export_source){ .adapter_dir = x->f.dir,
                                   .base_name = borrowed("some/base"),
                                   .config = tiny_jamba(),
                                   .lora = x->f.config,
                                   .modules = x->f.modules,
                                   .n_module = x->f.n,
                                   .choices = x->f.choices,
                                   .adapter = x->f.adapter };
    x->s.config.tie_word_embeddings = spec->tied;
    snprintf(x->path, sizeof x->path, "%s/adapter.gguf", x->f.dir);
}

static void close_source(struct source_fixture *x)
{
    unlink(x->path);
    close_fixture(&x->f);
}

static void export_ok(const struct source_fixture *x, enum dtype dtype, struct text *notes)
{
    struct err err = { 0 };
    if (!export_gguf_adapter(&x->s, dtype, x->path, notes, &err))
        fail_msg("%s", err.text);
}

/* ---- the delta, worked out once more ---- */

/* ggml's element (i0, i1, i2): ne[0] runs fastest. */
static double element(const struct gguf_tensor *t, int64_t i0, int64_t i1, int64_t i2)
{
    const int64_t ne0 = t->dims[t->n_dim - 1], ne1 = t->dims[t->n_dim - 2];
    const int64_t at = i0 + ne0 * (i1 + ne1 * i2);
    if (t->dtype == DTYPE_F16) {
        uint16_t half;
        memcpy(&half, t->data + 2 * at, sizeof half);
        return (double)dtype_from_f16(half);
    }
    float x;
    memcpy(&x, t->data + 4 * at, sizeof x);
    return (double)x;
}

struct module_view {
    const struct lora_module *module;
    const struct gguf_tensor *a, *b;
    const struct lora_slot *slot;
    double alpha, scale, tolerance;
};

/* llama.cpp's delta of one weight: alpha / rank * b a, where an embedding's a is (rank, vocab) in
 * ne. */
static void check_element(const struct module_view *v, int64_t o, int64_t i)
{
    const int64_t e = v->module->expert < 0 ? 0 : v->module->expert;
    const int64_t rank = v->b->dims[v->b->n_dim - 1];
    double theirs = 0, ours = 0, size = 0;
    for (int64_t r = 0; r < rank; r++) {
        const double a =
            v->module->kind == LORA_EMBED_TOKENS ? element(v->a, r, i, 0) : element(v->a, i, r, e);
        theirs += element(v->b, r, o, e) * a;
    }
    for (int64_t r = 0; v->slot != NULL && r < v->slot->rank; r++) {
        const double product =
            (double)v->slot->b[o * v->slot->rank + r] * (double)v->slot->a[r * v->module->in + i];
        ours += product;
        size += fabs(product);
    }
    const double difference = fabs(v->alpha / (double)rank * theirs - v->scale * ours);
    if (!(difference <= v->tolerance * fabs(v->scale) * size))
        fail_msg("%s (%d, %d): off by %g of %g", v->module->path, (int)o, (int)i, difference,
                 fabs(v->scale) * size);
}

static const struct gguf_tensor *find(const struct gguf *g, const char *path, const char *part)
{
    char name[200], ours[GGUF_NAME_SIZE];
    snprintf(name, sizeof name, "%s.weight", path);
    assert_true(gguf_tensor_name(name, ours));
    snprintf(name, sizeof name, "%s%s", ours, part);
    return gguf_find(g, name);
}

/* Every module's whole delta; how many the file has. */
static int check_deltas(const struct source_fixture *x, enum dtype dtype)
{
    struct gguf g = { 0 };
    struct err err = { 0 };
    float alpha = 0;
    int n = 0;
    assert_true(gguf_open(x->path, &g, &err));
    assert_true(gguf_says(&g, "general.architecture", "jamba"));
    assert_true(gguf_says(&g, "general.type", "adapter"));
    assert_true(gguf_says(&g, "adapter.type", "lora"));
    assert_true(gguf_get_f32(&g, "adapter.lora.alpha", &alpha) && alpha != 0);
    assert_int_equal(g.n_kv, 4);
    for (int64_t i = 0; i < x->f.n; i++) {
        const struct lora_module *m = &x->f.modules[i];
        struct module_view v = { .module = m,
                                 .a = find(&g, m->path, ".lora_a"),
                                 .b = find(&g, m->path, ".lora_b"),
                                 .slot = lora_adapter_slot(&x->f.adapter, i),
                                 .alpha = (double)alpha,
                                 .scale = x->f.choices[i].scale,
                                 .tolerance = dtype == DTYPE_F16 ? F16_TOLERANCE : F32_TOLERANCE };
        assert_int_equal(v.a != NULL, v.b != NULL);
        assert_true(v.a != NULL || v.slot == NULL);
        if (v.a == NULL)
            continue;
        assert_true(v.a->dtype == dtype && v.b->dtype == dtype);
        n++;
        for (int64_t o = 0; o < m->out; o++) {
            for (int64_t j = 0; j < m->in; j++)
                check_element(&v, o, j);
        }
    }
    gguf_close(&g);
    return n;
}

static const struct spec plain = { .list = { "in_proj", "q_proj", "gate_proj", "down_proj" } };
static const struct spec everything = { .list = { "embed_tokens", "lm_head", "router", "dt_proj" },
                                        .ranks = { { "dt_proj", 2 } } };
static const struct spec patterns = { .list = { "x_proj", "o_proj", "up_proj", "down_proj" },
                                      .ranks = { { "x_proj", 2 }, { "layers\\.3\\..*up_proj", 3 } },
                                      .alphas = { { "o_proj", 5 },
                                                  { "layers\\.1\\..*down_proj", 24 } } };
static const struct spec rslora = { .list = { "in_proj", "k_proj", "up_proj" },
                                    .rslora = true,
                                    .ranks = { { "in_proj", 3 } } };
static const struct spec uneven = { .list = { "gate_proj", "down_proj" },
                                    .rslora = true,
                                    .ranks = { { "experts\\.1\\.gate_proj", 7 },
                                               { "layers\\.3\\..*experts\\.0\\.down_proj", 1 } },
                                    .alphas = { { "experts\\.0\\.gate_proj", -3 } } };
static const struct spec single = { .list = { "layers.1.feed_forward.experts.1.up_proj",
                                              "layers.3.feed_forward.experts.0.down_proj" } };
static const struct spec no_scale = { .list = { "q_proj", "v_proj" },
                                      .alphas = { { "q_proj", 0 }, { "v_proj", 0 } } };

static const struct spec mostly_one = { .list = { "q_proj", "k_proj", "v_proj", "o_proj" },
                                        .alphas = {
                                            { "q_proj", 1 }, { "k_proj", 1 }, { "v_proj", 1 } } };

static void the_file_has_the_adapters_delta(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const struct spec *spec;
        int n_module; /* in the file, of the 36 that there are */
        const char *notes;
    } cases[] = {
        { "plain", &plain, 3 + 1 + 2 * 6, "" },
        { "everything", &everything, 1 + 1 + 2 + 3, "" },
        { "patterns", &patterns, 3 + 1 + 2 * 6,
          "adapter.lora.alpha is 8; the scale of 3 modules is another than it gives and folded "
          "into their B\n" },
        { "rslora", &rslora, 3 + 1 + 6,
          "adapter.lora.alpha is 16; the scale of 3 modules is another than it gives and folded "
          "into their B\n" },
        { "uneven", &uneven, 2 * 6,
          "3 experts' projections are of a lower rank than others beside them and filled up with "
          "zeros: llama.cpp takes one rank a stack\n"
          "adapter.lora.alpha is 16; the scale of 5 modules is another than it gives and folded "
          "into their B\n" },
        { "single", &single, 4,
          "2 experts' projections are not adapted and have zeros in the file: llama.cpp takes all "
          "experts of a layer's projection or none\n" },
        { "mostly one", &mostly_one, 4,
          "adapter.lora.alpha is 1; the scale of 1 modules is another than it gives and folded "
          "into their B\n" },
        { "no scale", &no_scale, 2,
          "adapter.lora.alpha is 1; the scale of 2 modules is another than it gives and folded "
          "into their B\n" },
    };
    static const enum dtype types[] = { DTYPE_F32, DTYPE_F16 };
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (size_t t = 0; t < COUNT(types); t++) {
            struct source_fixture x;
            struct text notes = { 0 };
            open_source(&x, cases[i].spec);
            export_ok(&x, types[t], &notes);
            if (check_deltas(&x, types[t]) != cases[i].n_module)
                fail_msg("%s: another number of modules than %d", cases[i].name, cases[i].n_module);
            assert_string_equal(notes.data != NULL ? notes.data : "", cases[i].notes);
            text_free(&notes);
            close_source(&x);
        }
    }
}

/* One rank and one alpha: nothing is computed, and alpha is what the user wrote. */
static void a_plain_adapter_keeps_its_bits(void **state)
{
    (void)state;
    struct source_fixture x;
    struct text notes = { 0 };
    struct gguf g = { 0 };
    struct err err = { 0 };
    float alpha = 0;
    open_source(&x, &plain);
    export_ok(&x, DTYPE_F32, &notes);
    assert_true(gguf_open(x.path, &g, &err));
    assert_true(gguf_get_f32(&g, "adapter.lora.alpha", &alpha) && alpha == 8);
    const int64_t q = module_index(x.f.modules, x.f.n, "model.layers.2.self_attn.q_proj");
    const struct lora_slot *slot = lora_adapter_slot(&x.f.adapter, q);
    const struct gguf_tensor *a = gguf_find(&g, "blk.2.attn_q.weight.lora_a");
    const struct gguf_tensor *b = gguf_find(&g, "blk.2.attn_q.weight.lora_b");
    assert_true(a->n_dim == 2 && a->dims[0] == 4 && a->dims[1] == 8);
    assert_true(b->n_dim == 2 && b->dims[0] == 8 && b->dims[1] == 4);
    for (int64_t i = 0; i < 32; i++) {
        assert_true(element(a, i, 0, 0) == (double)(float)slot->a[i]);
        assert_true(element(b, i, 0, 0) == (double)(float)slot->b[i]);
    }
    gguf_close(&g);
    close_source(&x);
}

/* ---- names and shapes of the published sizes ---- */

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct lines {
    char *line[1024];
    size_t n;
};

static void add_line(struct lines *lines, const char *name, enum dtype dtype, int n_dim,
                     const int64_t *dims)
{
    struct text t = { 0 };
    text_printf(&t, "%s %s ", name, dtype_name(dtype));
    for (int i = 0; i < n_dim; i++)
        text_printf(&t, "%s%d", i > 0 ? "x" : "", (int)dims[i]);
    assert_true(lines->n < COUNT(lines->line) && !t.failed);
    lines->line[lines->n++] = t.data;
}

static void expect_lines(struct lines *lines, const char *path)
{
    char *golden = NULL, *rest = NULL;
    size_t size = 0, n = 0;
    struct err err = { 0 };
    if (!file_read(path, 1 << 20, &golden, &size, &err))
        fail_msg("%s", err.text);
    qsort(lines->line, lines->n, sizeof *lines->line, compare_lines);
    for (char *line = strtok_r(golden, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        assert_true(n < lines->n);
        assert_string_equal(lines->line[n++], line);
    }
    assert_int_equal(n, lines->n);
    assert_in_range(n, 300, 1024);
    for (size_t i = 0; i < n; i++)
        free(lines->line[i]);
    free(golden);
}

static void read_config(const char *path, struct jamba_config *config)
{
    struct err err = { 0 };
    if (!jamba_config_read(path, config, &err))
        fail_msg("%s", err.text);
}

static void a_base_has_the_names_and_shapes_that_llama_cpp_knows(void **state)
{
    (void)state;
    static const char *const sizes[] = { "3b", "52b" };
    for (size_t s = 0; s < COUNT(sizes); s++) {
        struct jamba_config config;
        struct gguf_base base;
        struct err err = { 0 };
        struct lines lines = { .n = 0 };
        char path[100];
        snprintf(path, sizeof path, "tests/bench/jamba-%s.json", sizes[s]);
        read_config(path, &config);
        assert_true(gguf_check_config(&config, path, &err));
        assert_true(gguf_base_plan(&config, DTYPE_BF16, &base, &err));
        for (int64_t i = 0; i < base.n_tensor; i++)
            add_line(&lines, base.tensors[i].name, base.tensors[i].dtype, base.tensors[i].n_dim,
                     base.tensors[i].dims);
        gguf_base_free(&base);
        snprintf(path, sizeof path, "tests/fixtures/export/gguf-base-%s.txt", sizes[s]);
        expect_lines(&lines, path);
    }
}

static void add_pairs(struct lines *lines, const struct gguf_pairs *pairs)
{
    for (int64_t i = 0; i < pairs->n; i++) {
        for (int part = GGUF_LORA_A; part <= GGUF_LORA_B; part++) {
            char name[GGUF_NAME_SIZE + 8];
            int64_t dims[3];
            const int n = gguf_pair_tensor(&pairs->pair[i], (enum gguf_part)part, name, dims);
            assert_in_range(strlen(name), 1, GGUF_NAME_SIZE - 1);
            add_line(lines, name, DTYPE_F32, n, dims);
        }
    }
}

static void an_adapter_has_the_names_and_shapes_that_llama_cpp_knows(void **state)
{
    (void)state;
    static const struct {
        const char *size;
        int64_t rank;
        bool all; /* every kind there is, else the default targets */
    } cases[] = { { "3b", 16, false }, { "52b", 8, true } };
    for (size_t s = 0; s < COUNT(cases); s++) {
        struct jamba_config config;
        struct lora_module *modules = NULL;
        struct gguf_pairs pairs;
        struct err err = { 0 };
        struct lines lines = { .n = 0 };
        char path[100];
        snprintf(path, sizeof path, "tests/bench/jamba-%s.json", cases[s].size);
        read_config(path, &config);
        const int64_t n = jamba_modules(&config, &modules);
        struct lora_choice *choices = calloc((size_t)n, sizeof *choices);
        const struct lora_config lora = { .r = cases[s].rank,
                                          .alpha = 16,
                                          .target_regex = cases[s].all ? borrowed(".*") : NULL };
        assert_true(lora_choose(&lora, modules, n, choices, &err));
        assert_true(gguf_pairs_plan(modules, n, choices, "x", &pairs, &err));
        assert_true(pairs.alpha == 16 && pairs.n_folded == 0 && pairs.n_missing == 0);
        add_pairs(&lines, &pairs);
        gguf_pairs_free(&pairs);
        free(choices);
        free(modules);
        snprintf(path, sizeof path, "tests/fixtures/export/gguf-adapter-%s.txt", cases[s].size);
        expect_lines(&lines, path);
    }
}

static void a_tensor_that_llama_cpp_does_not_know_has_no_name(void **state)
{
    (void)state;
    static const char *const names[] = { "model.layers.0.mamba.in_proj.bias",
                                         "model.layers.0.mamba.conv1d.lora_A.weight",
                                         "model.layers.0.feed_forward.experts.0.router.weight",
                                         "model.layers.0.feed_forward.experts.gate_proj.weight",
                                         "model.layers.x.mamba.D",
                                         "model.layers.0",
                                         "lm_head.bias",
                                         "" };
    char out[GGUF_NAME_SIZE];
    for (size_t i = 0; i < COUNT(names); i++)
        assert_false(gguf_tensor_name(names[i], out));
}

/* ---- refusals ---- */

static void tie(struct source_fixture *x)
{
    x->s.config.tie_word_embeddings = true;
}
static void expand_3(struct source_fixture *x)
{
    x->s.config.mamba_expand = 3;
}
static void proj_bias(struct source_fixture *x)
{
    x->s.config.mamba_proj_bias = true;
}
static void many_layers(struct source_fixture *x)
{
    x->s.config.num_hidden_layers = 513;
}
static void many_experts(struct source_fixture *x)
{
    x->s.config.num_experts = 1024;
}
static void adapt_nothing(struct source_fixture *x)
{
    for (int64_t i = 0; i < x->f.n; i++)
        x->f.choices[i].on = false;
}
static void large_b(struct source_fixture *x)
{
    x->f.adapter.slots[1].b[3] = (real)70000;
}
static void large_folded_b(struct source_fixture *x)
{
    x->f.adapter.slots[1].b[3] = (real)3e38;
    x->f.choices[x->f.adapter.slots[1].module - x->f.modules].scale = 40;
}
static void no_folder(struct source_fixture *x)
{
    snprintf(x->path, sizeof x->path, "/nowhere/adapter.gguf");
}

static void what_llama_cpp_would_get_wrong_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        void (*spoil)(struct source_fixture *x);
        const char *target;
        enum dtype dtype;
        enum err_code code;
        const char *expected;
    } cases[] = {
        { tie, "embed_tokens", DTYPE_F32, ERR_DATA,
          "DIR: adapts 'embed_tokens' of a base whose head is the same matrix "
          "(tie_word_embeddings); llama.cpp would put the pair on both and abort. Export the "
          "merged checkpoint instead (--to merged), which unties them" },
        { tie, "lm_head", DTYPE_F32, ERR_DATA,
          "DIR: adapts 'lm_head' of a base whose head is the embedding's matrix "
          "(tie_word_embeddings); llama.cpp has no such tensor and rejects the file. Export the "
          "merged checkpoint instead (--to merged), which unties them" },
        { expand_3, "q_proj", DTYPE_F32, ERR_DATA,
          "some/base: \"mamba_expand\" is 3; llama.cpp runs Jambas with 2 only, and aborts on "
          "others" },
        { proj_bias, "q_proj", DTYPE_F32, ERR_DATA,
          "some/base: \"mamba_proj_bias\" is true; llama.cpp has no place for the biases of "
          "in_proj and out_proj" },
        { many_layers, "q_proj", DTYPE_F32, ERR_DATA,
          "some/base: \"num_hidden_layers\" is 513; llama.cpp runs at most 512" },
        { many_experts, "q_proj", DTYPE_F32, ERR_DATA,
          "some/base: \"num_experts\" is 1024; llama.cpp runs at most 512" },
        { adapt_nothing, "q_proj", DTYPE_F32, ERR_DATA,
          "DIR: adapts nothing; there is nothing to export" },
        { NULL, "q_proj", DTYPE_BF16, ERR_USAGE, "a GGUF adapter is F32 or F16, not BF16" },
        { large_b, "up_proj", DTYPE_F16, ERR_DATA,
          "DIR/adapter.gguf: tensor 'blk.1.ffn_up_exps.weight.lora_b': has a value that does not "
          "fit in F16; export it as F32" },
        { large_folded_b, "up_proj", DTYPE_F32, ERR_DATA,
          "DIR/adapter.gguf: tensor 'blk.1.ffn_up_exps.weight.lora_b': has a value that does not "
          "fit in F32" },
        { no_folder, "q_proj", DTYPE_F32, ERR_CANT_CREATE,
          "/nowhere/adapter.gguf: cannot be created: No such file or directory" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct source_fixture x;
        struct err err = { 0 };
        struct text notes = { 0 };
        char *expected = text_copy(cases[i].expected);
        open_source(&x, &(struct spec){ .list = { cases[i].target } });
        if (cases[i].spoil != NULL)
            cases[i].spoil(&x);
        assert_false(export_gguf_adapter(&x.s, cases[i].dtype, x.path, &notes, &err));
        const bool in_dir = text_starts_with(expected, "DIR");
        if (in_dir)
            assert_true(text_starts_with(err.text, x.f.dir));
        assert_string_equal(err.text + (in_dir ? strlen(x.f.dir) : 0), expected + (in_dir ? 3 : 0));
        assert_int_equal(err.code, cases[i].code);
        text_free(&notes);
        free(expected);
        close_source(&x); /* asserts that no file was left */
    }
}

/* An untied base takes both. */
static void an_untied_embedding_and_head_are_exported(void **state)
{
    (void)state;
    struct source_fixture x;
    struct text notes = { 0 };
    struct gguf g = { 0 };
    struct err err = { 0 };
    open_source(&x, &everything);
    export_ok(&x, DTYPE_F32, &notes);
    assert_true(gguf_open(x.path, &g, &err));
    const struct gguf_tensor *a = gguf_find(&g, "token_embd.weight.lora_a");
    const struct gguf_tensor *b = gguf_find(&g, "token_embd.weight.lora_b");
    assert_true(a->dims[0] == 11 && a->dims[1] == 4); /* (vocab, rank): PEFT's, transposed */
    assert_true(b->dims[0] == 8 && b->dims[1] == 4);
    const struct lora_slot *slot = lora_adapter_slot(&x.f.adapter, 0);
    assert_true(element(a, 3, 7, 0) == (double)(float)slot->a[3 * 11 + 7]);
    gguf_close(&g);
    close_source(&x);
}

/* ---- the proof ---- */

static void change_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* Byte positions of the values in the file, found through a reader of it. */
static size_t position(const struct gguf *g, const char *name, size_t value)
{
    const struct gguf_tensor *t = gguf_find(g, name);
    assert_non_null(t);
    return (size_t)(t->data - g->map.data) + 4 * value;
}

static void a_file_that_was_changed_fails_the_proof(void **state)
{
    (void)state;
    static const struct {
        const char *tensor; /* NULL: adapter.lora.alpha */
        size_t value;
        uint32_t bits;
        const char *expected;
    } cases[] = {
        { "blk.1.ffn_up_exps.weight.lora_a", 8 * 4 + 5, 0x3F800000,
          "tensor 'blk.1.ffn_up_exps.weight': read back, row 0 of its delta is off by " },
        { "blk.1.ffn_up_exps.weight.lora_b", 12 * 4 + 11, 0x3F800000,
          "tensor 'blk.1.ffn_up_exps.weight': read back, row 2 of its delta is off by " },
        { "blk.1.ffn_up_exps.weight.lora_b", 12 * 4 + 11, 0x7FC00000, /* not a number */
          "tensor 'blk.1.ffn_up_exps.weight': read back, row 2 of its delta is off by " },
        { "blk.1.ffn_up_exps.weight.lora_b", 0, 0x00000001, /* expert 0 has none; A's are 0 too */
          NULL },
        { "blk.3.ffn_down_exps.weight.lora_b", 8 * 4, 0x3F800000, NULL },
        { NULL, 0, 0x41000001, "its keys are not there as they were written" },
    };
    struct source_fixture x;
    struct text notes = { 0 };
    open_source(&x, &single);
    export_ok(&x, DTYPE_F32, &notes);
    struct gguf_pairs pairs;
    struct err err = { 0 };
    assert_true(gguf_pairs_plan(x.f.modules, x.f.n, x.f.choices, "x", &pairs, &err));
    assert_true(gguf_prove_adapter(&x.s, &pairs, DTYPE_F32, x.path, &notes, &err));
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *bytes = NULL;
        size_t n = 0;
        struct gguf g = { 0 };
        export_ok(&x, DTYPE_F32, &notes);
        assert_true(gguf_open(x.path, &g, &err));
        const size_t at = cases[i].tensor == NULL
                              ? (size_t)(gguf_key(&g, "adapter.lora.alpha")->data - g.map.data)
                              : position(&g, cases[i].tensor, cases[i].value);
        gguf_close(&g);
        assert_true(file_read(x.path, 1 << 20, &bytes, &n, &err));
        change_u32((uint8_t *)bytes + at, cases[i].bits);
        assert_true(file_write(x.path, bytes, n, &err));
        free(bytes);
        const bool same = gguf_prove_adapter(&x.s, &pairs, DTYPE_F32, x.path, &notes, &err);
        if (cases[i].expected == NULL) { /* times a row of zeros */
            assert_true(same);
            continue;
        }
        assert_false(same);
        assert_int_equal(err.code, ERR_INTERNAL);
        assert_true(text_starts_with(err.text, x.path));
        assert_true(text_starts_with(err.text + strlen(x.path) + 2, cases[i].expected));
    }
    gguf_pairs_free(&pairs);
    text_free(&notes);
    close_source(&x);
}

/* Zeros that are none: both of the pair's halves of an expert that is not adapted. */
static void a_filled_in_expert_must_be_zero(void **state)
{
    (void)state;
    struct source_fixture x;
    struct text notes = { 0 };
    struct gguf g = { 0 };
    struct err err = { 0 };
    struct gguf_pairs pairs;
    char *bytes = NULL;
    size_t n = 0;
    open_source(&x, &single);
    export_ok(&x, DTYPE_F32, &notes);
    assert_true(gguf_open(x.path, &g, &err));
    const size_t a = position(&g, "blk.1.ffn_up_exps.weight.lora_a", 2);
    const size_t b = position(&g, "blk.1.ffn_up_exps.weight.lora_b", 4);
    gguf_close(&g);
    assert_true(file_read(x.path, 1 << 20, &bytes, &n, &err));
    change_u32((uint8_t *)bytes + a, 0x3F800000);
    change_u32((uint8_t *)bytes + b, 0x3F800000);
    assert_true(file_write(x.path, bytes, n, &err));
    free(bytes);
    assert_true(gguf_pairs_plan(x.f.modules, x.f.n, x.f.choices, "x", &pairs, &err));
    assert_false(gguf_prove_adapter(&x.s, &pairs, DTYPE_F32, x.path, &notes, &err));
    assert_string_equal(err.text + strlen(x.path),
                        ": tensor 'blk.1.ffn_up_exps.weight': read back, expert 0 is not zero");
    gguf_pairs_free(&pairs);
    text_free(&notes);
    close_source(&x);
}

static void values_too_small_for_f16_are_remarked(void **state)
{
    (void)state;
    struct source_fixture x;
    struct text notes = { 0 };
    open_source(&x, &(struct spec){ .list = { "q_proj" } });
    for (int64_t i = 0; i < 32; i++)
        x.f.adapter.slots[0].b[i] = (real)1e-7;
    export_ok(&x, DTYPE_F16, &notes);
    assert_string_equal(notes.data,
                        "F16 loses 19.2 % of the change to 'blk.2.attn_q.weight', whose values "
                        "are very small; export F32 to keep it\n");
    text_clear(&notes);
    export_ok(&x, DTYPE_F32, &notes);
    assert_string_equal(notes.data, "");
    text_free(&notes);
    close_source(&x);
}

/* ---- rounding ---- */

static float next_after(uint16_t half)
{
    return dtype_from_f16((uint16_t)(half + 1));
}

/* Every half, and the points between it and the next one where rounding turns. */
static void f16_rounds_to_the_nearest_and_ties_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        const uint16_t half = (uint16_t)h, up = (uint16_t)(h + 1);
        const float x = dtype_from_f16(half), y = next_after(half), middle = x + (y - x) / 2;
        assert_int_equal(gguf_to_f16(x), half);
        assert_int_equal(gguf_to_f16(-x), half | 0x8000);
        assert_int_equal(gguf_to_f16(nextafterf(middle, 0)), half);
        assert_int_equal(gguf_to_f16(nextafterf(middle, 1e6f)), up);
        assert_int_equal(gguf_to_f16(middle), h % 2 == 0 ? half : up);
    }
    assert_int_equal(gguf_to_f16(65504), 0x7BFF);
    assert_int_equal(gguf_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(gguf_to_f16(65520), 0x7C00);
    assert_int_equal(gguf_to_f16(3e38f), 0x7C00);
    assert_int_equal(gguf_to_f16(INFINITY), 0x7C00);
    assert_int_equal(gguf_to_f16(-INFINITY), 0xFC00);
    assert_int_equal(gguf_to_f16(NAN) & 0x7E00, 0x7E00);
    assert_int_equal(gguf_to_f16(1e-8f), 0);
    assert_int_equal(gguf_to_f16(0x1p-25f), 0); /* the middle below the smallest: to even */
}

static void conversion_says_what_does_not_fit(void **state)
{
    (void)state;
    float x[3000];
    uint16_t out[3000];
    for (int i = 0; i < 3000; i++)
        x[i] = (float)i * 0.37f - 500;
    assert_true(gguf_round(x, 3000, DTYPE_F16, out) && gguf_round(x, 3000, DTYPE_BF16, out));
    for (int i = 0; i < 3000; i++)
        assert_int_equal(out[i], dtype_to_bf16(x[i]));
    x[2500] = INFINITY; /* was infinite: nothing is lost */
    x[2501] = NAN;
    assert_true(gguf_round(x, 3000, DTYPE_F16, out) && gguf_round(x, 3000, DTYPE_BF16, out));
    assert_true(out[2500] == 0x7F80 && (out[2501] & 0x7FC0) == 0x7FC0);
    x[2999] = -66000;
    assert_false(gguf_round(x, 3000, DTYPE_F16, out));
    assert_true(gguf_round(x, 3000, DTYPE_BF16, out));
    x[0] = 3.4e38f;
    assert_false(gguf_round(x, 3000, DTYPE_BF16, out));
}

/* Stored type to stored type, at odd addresses and across blocks. */
static void conversion_goes_through_every_type(void **state)
{
    (void)state;
    enum { N = 2500 };
    static char in[4 * N + 1], out[4 * N + 1];
    static const enum dtype types[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    float x[N];
    for (int i = 0; i < N; i++) /* exact in all three */
        x[i] = dtype_from_bf16(dtype_to_bf16((float)(i - N / 2) / 16));
    for (size_t f = 0; f < COUNT(types); f++) {
        for (size_t t = 0; t < COUNT(types); t++) {
            assert_true(gguf_round(x, N, types[f], in + 1));
            assert_true(gguf_convert(in + 1, types[f], N, types[t], out + 1));
            real wide[N];
            dtype_to_real(types[t], out + 1, N, wide);
            for (int i = 0; i < N; i++)
                assert_true(wide[i] == (real)x[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_has_the_adapters_delta),
        cmocka_unit_test(a_plain_adapter_keeps_its_bits),
        cmocka_unit_test(a_base_has_the_names_and_shapes_that_llama_cpp_knows),
        cmocka_unit_test(an_adapter_has_the_names_and_shapes_that_llama_cpp_knows),
        cmocka_unit_test(a_tensor_that_llama_cpp_does_not_know_has_no_name),
        cmocka_unit_test(what_llama_cpp_would_get_wrong_is_refused_by_name),
        cmocka_unit_test(an_untied_embedding_and_head_are_exported),
        cmocka_unit_test(a_file_that_was_changed_fails_the_proof),
        cmocka_unit_test(a_filled_in_expert_must_be_zero),
        cmocka_unit_test(values_too_small_for_f16_are_remarked),
        cmocka_unit_test(f16_rounds_to_the_nearest_and_ties_to_even),
        cmocka_unit_test(conversion_says_what_does_not_fit),
        cmocka_unit_test(conversion_goes_through_every_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
