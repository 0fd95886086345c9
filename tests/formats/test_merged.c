/* Merged checkpoints: every tensor of every layout, what is copied and changed beside them, what is
 * refused, and that no failure leaves anything behind. Names and shapes of the 3B and the 52B are
 * held to those of transformers (tests/reference/make_merged.py); bits are held to PEFT's by
 * tests/reference/check_merged.py. */
#include "finetune/export/merged.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "finetune/export/merged_blocks.h"
#include "finetune/export/merged_folder.h"
#include "finetune/export/merged_plan.h"
#include "finetune/export/merged_proof.h"
#include "finetune/model/modules.h"
#include "finetune/model/slots.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/rng.h"
#include "lora/format_peft.h"
#include "tests/support/model.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define MODELS "tests/fixtures/models/"
#define EVERY ".*"
#define NO_TABLE "model\\.layers\\..*"

static int make_folder(void **state)
{
    *state = tiny_scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    tiny_scratch_remove(*state);
    return 0;
}

static char *path_in(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    assert_non_null(path);
    return path;
}

static char *folder_in(const char *folder, const char *name)
{
    struct err err = { 0 };
    char *path = path_in(folder, name);
    assert_true(file_make_directory(path, &err));
    return path;
}

static bool is_there(const char *folder, const char *name)
{
    char *path = path_in(folder, name);
    const bool there = file_exists(path);
    free(path);
    return there;
}

static char *read_in(const char *folder, const char *name, size_t *n)
{
    struct err err = { 0 };
    char *path = path_in(folder, name), *bytes = NULL;
    if (!file_read(path, (size_t)1 << 24, &bytes, n, &err))
        fail_msg("%s", err.text);
    free(path);
    return bytes;
}

/* ---- adapters ---- */

struct wish {
    const char *regex;
    bool rslora;
    const char *key; /* of rank_pattern; NULL: none */
    double rank, size;
};

static char *borrowed(const char *s)
{
    return (char *)(uintptr_t)s;
}

/* A random adapter of that wish for the base, r 4 and lora_alpha 6. */
static void make_adapter(const char *dir, const char *base, const struct wish *wish)
{
    struct jamba_config jamba;
    struct err err = { 0 };
    struct lora_pattern rank = { borrowed(wish->key), wish->rank };
    const struct lora_config config = { .r = 4,
                                        .alpha = 6,
                                        .use_rslora = wish->rslora,
                                        .target_regex = borrowed(wish->regex),
                                        .rank_pattern = &rank,
                                        .n_rank_pattern = wish->key != NULL };
    char *path = path_in(base, "config.json");
    struct lora_module *modules = NULL;
    assert_true(jamba_config_read(path, &jamba, &err));
    const int64_t n = jamba_modules(&jamba, &modules);
    struct lora_choice *choices = calloc((size_t)n, sizeof *choices);
    assert_non_null(choices);
    if (!lora_choose(&config, modules, n, choices, &err))
        fail_msg("%s", err.text);
    struct arena arena;
    struct lora_adapter adapter = { 0 };
    const struct backend host = { .act = DTYPE_REAL };
    const struct lora_adapter_args args = { modules, n, choices, &host, &arena, false };
    assert_true(arena_init(&arena, "adapter", (size_t)16 << 20, &err));
    assert_true(lora_adapter_init(&adapter, &args, &err));
    const double size = wish->size != 0 ? wish->size : 0.2;
    for (int64_t i = 0; i < adapter.n_param; i++)
        adapter.params[i] =
            (real)(float)(size * (2 * rng_uniform(9, RNG_INIT_WEIGHTS, 0, (uint64_t)i) - 1));
    const struct peft_model_facts facts = { .base_model = base };
    assert_true(peft_write(dir, &adapter, &config, &facts, &err));
    lora_adapter_free(&adapter);
    arena_free(&arena);
    free(choices);
    free(modules);
    free(path);
}

/* ---- a base, an adapter and a place for the result, in a folder of their own ---- */

struct place {
    char *base, *adapter, *out;
    struct export_source s;
};

static void open_place(struct place *p, const char *folder, const struct jamba_config *config,
                       const struct tiny_options *options, const struct wish *wish)
{
    struct err err = { 0 };
    p->base = folder_in(folder, "base");
    p->adapter = folder_in(folder, "adapter");
    p->out = path_in(folder, "merged");
    tiny_checkpoint_write(p->base, config, options);
    make_adapter(p->adapter, p->base, wish);
    if (!export_open(&p->s, p->adapter, p->base, &err))
        fail_msg("%s", err.text);
}

static void close_place(struct place *p)
{
    export_close(&p->s);
    free(p->base);
    free(p->adapter);
    free(p->out);
}

static void merge(struct place *p, struct text *notes)
{
    struct err err = { 0 };
    struct text unread = { 0 };
    if (!export_merged(&p->s, p->out, notes != NULL ? notes : &unread, &err))
        fail_msg("%s", err.text);
    text_free(&unread);
}

/* ---- every tensor against the base and the adapter ---- */

static double stored(const struct safetensors_tensor *t, int64_t i)
{
    real x = 0;
    dtype_to_real(t->dtype, (const char *)t->data + (size_t)i * dtype_size(t->dtype), 1, &x);
    return (double)x;
}

/* The unit in the last place of the type at x; F16 and BF16 have no smaller than their lowest. */
static double last_place(enum dtype dtype, double x)
{
    const int digits = dtype == DTYPE_F32 ? 24 : dtype == DTYPE_BF16 ? 8 : 11;
    const int lowest = dtype == DTYPE_F16 ? -14 : -126;
    int e = 0;
    frexp(x, &e);
    return ldexp(1, (x == 0 || e - 1 < lowest ? lowest : e - 1) - digits + 1);
}

static const struct lora_slot *slot_of(const struct export_source *s, const char *name)
{
    for (int64_t i = 0; i < s->n_module; i++) {
        const size_t n = strlen(s->modules[i].path);
        if (strncmp(name, s->modules[i].path, n) == 0 && strcmp(name + n, ".weight") == 0)
            return lora_adapter_slot(&s->adapter, i);
    }
    return NULL;
}

static void expect_merged(const struct safetensors_tensor *have,
                          const struct safetensors_tensor *base, const struct lora_slot *slot)
{
    const bool embedding = slot->module->kind == LORA_EMBED_TOKENS;
    int64_t n_same = 0;
    for (int64_t row = 0; row < base->dims[0]; row++) {
        for (int64_t col = 0; col < base->dims[1]; col++) {
            const int64_t in = embedding ? row : col, out = embedding ? col : row;
            const int64_t at = row * base->dims[1] + col;
            double change = 0;
            for (int64_t k = 0; k < slot->rank; k++)
                change += (double)slot->scale * (double)slot->b[out * slot->rank + k] *
                          (double)slot->a[k * slot->module->in + in];
            const double w = stored(base, at), y = stored(have, at);
            double bound = 0.5 * last_place(base->dtype, y) + 1e-6;
            if (embedding)
                bound += 0.5 * last_place(base->dtype, change);
            if (!(fabs(y - w - change) <= bound))
                fail_msg("%s: element %d is %g; expected %g + %g", have->name, (int)at, y, w,
                         change);
            n_same += y == w;
        }
    }
    assert_true(n_same < base->dims[0] * base->dims[1] / 2);
}

static void expect_tensor(const struct export_source *s, const struct shards *out, const char *file,
                          const struct shard_tensor *is, const struct safetensors_tensor *values)
{
    const struct shard_tensor *t = NULL;
    for (int64_t i = 0; i < out->n_tensor && t == NULL; i++) {
        if (strcmp(out->tensors[i].tensor->name, is->tensor->name) == 0)
            t = &out->tensors[i];
    }
    if (t == NULL || strcmp(strrchr(t->path, '/') + 1, file) != 0)
        fail_msg("'%s' is not in '%s'", is->tensor->name, file);
    const struct safetensors_tensor *have = t->tensor;
    assert_int_equal(have->dtype, values->dtype);
    assert_int_equal(have->n_dim, values->n_dim);
    for (int d = 0; d < have->n_dim; d++)
        assert_int_equal(have->dims[d], values->dims[d]);
    const struct lora_slot *slot = slot_of(s, is->name);
    if (slot != NULL)
        expect_merged(have, values, slot);
    else
        assert_memory_equal(have->data, values->data, values->bytes);
}

static void expect_index(const char *folder, const struct shards *shards)
{
    struct err err = { 0 };
    char *path = path_in(folder, "model.safetensors.index.json");
    json_t *root = json_load_object(path, (size_t)1 << 24, &err);
    json_t *map = json_object_get(root, "weight_map");
    json_int_t total = 0;
    assert_int_equal(json_object_size(map), shards->n_tensor);
    for (int64_t i = 0; i < shards->n_tensor; i++) {
        const struct shard_tensor *t = &shards->tensors[i];
        total += (json_int_t)t->tensor->bytes;
        assert_string_equal(json_string_value(json_object_get(map, t->tensor->name)),
                            strrchr(t->path, '/') + 1);
    }
    const json_t *metadata = json_object_get(root, "metadata");
    assert_int_equal(json_integer_value(json_object_get(metadata, "total_size")), total);
    json_decref(root);
    free(path);
}

/* The whole of the merged folder. */
static void expect_all(const struct place *p)
{
    struct shards base = { 0 }, out = { 0 };
    struct err err = { 0 };
    assert_true(shards_open(&base, p->base, &p->s.config, &err));
    if (!shards_open(&out, p->out, &p->s.config, &err)) /* holds the index against the files */
        fail_msg("%s", err.text);
    assert_int_equal(out.n_file, base.n_file);
    const bool tied = p->s.config.tie_word_embeddings;
    const struct shard_tensor *embedding = shards_take(&base, "model.embed_tokens.weight");
    bool has_head = false;
    for (int64_t i = 0; i < base.n_tensor; i++) {
        const struct shard_tensor *t = &base.tensors[i];
        const bool head = strcmp(t->name, "lm_head.weight") == 0;
        expect_tensor(&p->s, &out, strrchr(t->path, '/') + 1, t,
                      head && tied ? embedding->tensor : t->tensor);
        has_head = has_head || head;
    }
    assert_int_equal(out.n_tensor, base.n_tensor + (has_head ? 0 : 1));
    if (!has_head) {
        const struct safetensors_tensor named = { .name = "lm_head.weight" };
        const struct shard_tensor head = { .name = "lm_head.weight", .tensor = &named };
        expect_tensor(&p->s, &out, strrchr(embedding->path, '/') + 1, &head, embedding->tensor);
    }
    if (strcmp(strrchr(out.paths[0], '/'), "/model.safetensors") != 0)
        expect_index(p->out, &out);
    else
        assert_false(is_there(p->out, "model.safetensors.index.json"));
    shards_close(&base);
    shards_close(&out);
}

static void expect_config(const struct place *p, bool tied)
{
    struct jamba_config config;
    struct err err = { 0 };
    char *path = path_in(p->out, "config.json");
    assert_true(jamba_config_read(path, &config, &err));
    assert_int_equal(config.tie_word_embeddings, tied);
    free(path);
    if (p->s.config.tie_word_embeddings != tied)
        return;
    size_t n = 0, m = 0;
    char *ours = read_in(p->out, "config.json", &n), *theirs = read_in(p->base, "config.json", &m);
    assert_int_equal(n, m);
    assert_memory_equal(ours, theirs, n);
    free(ours);
    free(theirs);
}

/* ---- layouts ---- */

static const struct layout {
    const char *name;
    struct tiny_options options;
    struct wish wish;
    bool tied, dense, bias;
    bool stays_tied;
    int64_t vocab; /* 0: the tiny one's */
} layouts[] = {
    { .name = "f32", .wish = { .regex = EVERY } },
    { .name = "bf16", .options = { .dtype = DTYPE_BF16 }, .wish = { .regex = EVERY } },
    { .name = "f16", .options = { .dtype = DTYPE_F16 }, .wish = { .regex = EVERY } },
    { .name = "shards",
      .options = { .dtype = DTYPE_BF16, .n_shard = 3 },
      .wish = { .regex = NO_TABLE, .rslora = true } },
    { .name = "unaligned",
      .options = { .dtype = DTYPE_BF16, .unaligned = true },
      .wish = { .regex = EVERY } },
    { .name = "unaligned f32 shards",
      .options = { .unaligned = true, .n_shard = 4 },
      .wish = { .regex = ".*feed_forward.*" } },
    { .name = "legacy names",
      .options = { .legacy_names = true },
      .wish = { .regex = EVERY, .key = "experts.1.up_proj", .rank = 2 } },
    { .name = "legacy shards",
      .options = { .legacy_names = true, .n_shard = 2, .dtype = DTYPE_F16 },
      .wish = { .regex = ".*(experts|router|mamba).*" } },
    { .name = "dense", .wish = { .regex = EVERY }, .dense = true, .bias = true },
    { .name = "tied, layers",
      .wish = { .regex = NO_TABLE },
      .tied = true,
      .dense = true,
      .stays_tied = true },
    { .name = "tied, shards, layers",
      .options = { .n_shard = 3, .dtype = DTYPE_BF16 },
      .wish = { .regex = NO_TABLE },
      .tied = true,
      .stays_tied = true },
    { .name = "tied, embedding",
      .options = { .n_shard = 3, .dtype = DTYPE_BF16 },
      .wish = { .regex = "model.embed_tokens" },
      .tied = true },
    { .name = "tied, head", .wish = { .regex = "lm_head" }, .tied = true },
    { .name = "tied, both", .wish = { .regex = EVERY }, .tied = true },
    { .name = "tied, a head of its own in the file",
      .options = { .with_head = true, .n_shard = 3 },
      .wish = { .regex = NO_TABLE },
      .tied = true,
      .stays_tied = true },
    { .name = "tied, a head of its own, both",
      .options = { .with_head = true },
      .wish = { .regex = EVERY },
      .tied = true },
    { .name = "several blocks",
      .options = { .dtype = DTYPE_BF16, .unaligned = true },
      .wish = { .regex = EVERY },
      .vocab = 200003 },
    { .name = "several blocks, copied",
      .options = { .n_shard = 2 },
      .wish = { .regex = NO_TABLE },
      .tied = true,
      .stays_tied = true,
      .vocab = 100003 },
};

static void every_layout_keeps_its_places_and_changes_what_is_adapted(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(layouts); i++) {
        const struct layout *l = &layouts[i];
        char *folder = tiny_scratch_make();
        struct jamba_config config = tiny_config();
        struct place p = { 0 };
        struct text notes = { 0 };
        config.tie_word_embeddings = l->tied;
        config.num_experts = l->dense ? 1 : config.num_experts;
        config.num_experts_per_tok = l->dense ? 1 : config.num_experts_per_tok;
        config.mamba_proj_bias = l->bias;
        config.vocab_size = l->vocab != 0 ? l->vocab : config.vocab_size;
        open_place(&p, folder, &config, &l->options, &l->wish);
        merge(&p, &notes);
        print_message("%s\n", l->name);
        expect_all(&p);
        expect_config(&p, l->stays_tied);
        assert_true((strstr(notes.data, "equal to the embedding") != NULL) == l->stays_tied);
        assert_true((strstr(notes.data, "tie_word_embeddings is false") != NULL) ==
                    (l->tied && !l->stays_tied));
        text_free(&notes);
        close_place(&p);
        tiny_scratch_remove(folder);
    }
}

static void the_bytes_do_not_depend_on_the_threads(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    const int before = omp_get_max_threads();
    open_place(&p, *state, &config, &(struct tiny_options){ .dtype = DTYPE_BF16 },
               &(struct wish){ .regex = EVERY });
    char *first = NULL;
    size_t n = 0;
    for (int t = 1; t <= 3; t++) {
        char name[32];
        omp_set_num_threads(t);
        free(p.out);
        snprintf(name, sizeof name, "merged%d", t);
        p.out = path_in(*state, name);
        merge(&p, NULL);
        size_t m = 0;
        char *bytes = read_in(p.out, "model.safetensors", &m);
        if (t > 1) {
            assert_int_equal(m, n);
            assert_memory_equal(bytes, first, n);
            free(bytes);
        } else {
            first = bytes;
            n = m;
        }
    }
    omp_set_num_threads(before);
    free(first);
    close_place(&p);
}

/* ---- the same numbers ---- */

enum { N_BASE = 6 };

/* Adapters of the fixtures adapt every kind of module. In F32 only its own roundings are left: the
 * log-probabilities are of the order of 1 to 10, and the double build's are stored in F32, too. */
static const double same_logprob = 1e-5;

static real *run_merged(struct test_model *m, const char *folder)
{
    struct err err = { 0 };
    struct jamba_result r;
    weights_close(m->weights);
    jamba_free(&m->jamba);
    m->weights = weights_open(folder, 0, &err);
    if (m->weights == NULL)
        fail_msg("%s", err.text);
    m->jamba = (struct jamba){ .be = &m->t.be,
                               .saved = &m->saved,
                               .config = weights_config(m->weights),
                               .weights = m->weights,
                               .chunk_tokens = m->stream.n_tok };
    assert_true(jamba_init(&m->jamba, m->stream.n_tok, m->stream.n_doc, &err));
    const struct jamba_pass pass = { .grad_scale = 1 };
    jamba_run(&m->jamba, &m->stream, &pass, &r);
    real *copy = malloc((size_t)r.n_row * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, r.logprob, (size_t)r.n_row * sizeof *copy);
    return copy;
}

static void the_merged_model_computes_what_base_and_adapter_do(void **state)
{
    static const struct {
        const char *name, *base;
        double bound;
    } cases[N_BASE] = { { "dense_mqa_tied", "dense_mqa_tied", same_logprob },
                        { "moe_gqa_untied", "moe_gqa_untied", same_logprob },
                        { "moe_gqa_untied", "moe_gqa_untied/legacy", same_logprob },
                        { "odd_sizes", "odd_sizes", same_logprob },
                        { "proj_bias", "proj_bias", same_logprob },
                        { "bf16_sharded", "bf16_sharded", 0.1 } }; /* rounded to BF16 */
    for (size_t i = 0; i < N_BASE; i++) {
        struct test_model m;
        struct place p = { .base = NULL };
        struct err err = { 0 };
        char base[128], adapter[128], name[32];
        snprintf(base, sizeof base, MODELS "%s", cases[i].base);
        snprintf(adapter, sizeof adapter, MODELS "%s/adapter", cases[i].name);
        snprintf(name, sizeof name, "merged%d", (int)i);
        p.out = path_in(*state, name);
        if (!export_open(&p.s, adapter, base, &err))
            fail_msg("%s", err.text);
        merge(&p, NULL);
        test_model_open(&m, cases[i].name, "golden.safetensors");
        const struct jamba_result r = test_run(&m, &m.stream, false);
        const int64_t n = r.n_row;
        real *with = test_zeros(n);
        memcpy(with, r.logprob, (size_t)n * sizeof *with);
        real *merged = run_merged(&m, p.out), *alone = run_merged(&m, base);
        double apart = 0, moved = 0;
        for (int64_t k = 0; k < n; k++) {
            apart = fmax(apart, fabs((double)(merged[k] - with[k])));
            moved = fmax(moved, fabs((double)(alone[k] - with[k])));
        }
        print_message("%s: apart %.2g, moved %.2g\n", cases[i].base, apart, moved);
        assert_true(apart <= cases[i].bound && moved > 0.5);
        free(merged);
        free(alone);
        test_release(with);
        test_model_close(&m);
        export_close(&p.s);
        free(p.out);
    }
}

/* ---- names and shapes ---- */

struct listing {
    struct safetensors_tensor tensors[2048];
    char names[2048][SLOT_NAME_SIZE];
    int64_t n;
};

static bool list_slot(void *context, const struct slot *slot, struct err *err)
{
    struct listing *l = context;
    (void)err;
    struct safetensors_tensor *t = &l->tensors[l->n];
    assert_true(l->n < (int64_t)COUNT(l->tensors));
    snprintf(l->names[l->n++], SLOT_NAME_SIZE, "%s", slot->name);
    *t = (struct safetensors_tensor){
        .name = l->names[l->n - 1], .dtype = DTYPE_BF16, .n_dim = slot->n_dim, .bytes = 2
    };
    for (int d = 0; d < slot->n_dim; d++) {
        t->dims[d] = slot->dims[d];
        t->bytes *= (size_t)slot->dims[d];
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    const struct shard_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_tensor_name(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static void names_and_shapes_are_those_of_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *config, *golden;
    } cases[] = { { "tests/bench/jamba-3b.json", "merged-3b.txt" },
                  { "tests/bench/jamba-52b.json", "merged-52b.txt" } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct listing *l = calloc(1, sizeof *l);
        struct export_source s = { .base_dir = borrowed("base") };
        struct err err = { 0 };
        char *path = borrowed("base/model.safetensors");
        struct merged_plan plan = { 0 };
        assert_non_null(l);
        assert_true(jamba_config_read(cases[i].config, &s.config, &err));
        struct weights *w = weights_shapes(&s.config, &err);
        assert_true(w != NULL && slots_visit(w, list_slot, l, &err));
        struct shards shards = { .paths = &path, .n_file = 1, .n_tensor = l->n };
        shards.tensors = calloc((size_t)l->n, sizeof *shards.tensors);
        assert_non_null(shards.tensors);
        for (int64_t k = 0; k < l->n; k++)
            shards.tensors[k] = (struct shard_tensor){ .name = l->names[k],
                                                       .tensor = &l->tensors[k],
                                                       .path = path };
        qsort(shards.tensors, (size_t)l->n, sizeof *shards.tensors, by_name);
        if (!merged_plan_make(&s, &shards, &plan, &err))
            fail_msg("%s", err.text);
        struct text text = { 0 };
        qsort(plan.tensors, (size_t)plan.n_tensor, sizeof *plan.tensors, by_tensor_name);
        for (int64_t k = 0; k < plan.n_tensor; k++) {
            const struct safetensors_tensor *t = &plan.tensors[k];
            text_printf(&text, "%s %s", t->name, dtype_name(t->dtype));
            for (int d = 0; d < t->n_dim; d++)
                text_printf(&text, "%c%" PRId64, d == 0 ? ' ' : 'x', t->dims[d]);
            text_puts(&text, "\n");
        }
        size_t n = 0;
        char *golden = read_in("tests/fixtures/export", cases[i].golden, &n);
        assert_true(n > 1000);
        assert_string_equal(text.data, golden);
        free(golden);
        text_free(&text);
        merged_plan_free(&plan);
        free(shards.tensors);
        weights_close(w);
        free(l);
    }
}

/* ---- the files beside ---- */

static void count_entries(const char *folder, int *n)
{
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        *n += e->d_name[0] != '.';
    closedir(dir);
}

static void tokenizer_templates_and_configs_are_copied(void **state)
{
    static const char *const copied[] = { "tokenizer.json",
                                          "tokenizer_config.json",
                                          "special_tokens_map.json",
                                          "generation_config.json",
                                          "chat_template.jinja",
                                          "tokenizer.model",
                                          "merges.txt",
                                          "modeling_jamba.py",
                                          "LICENSE",
                                          "additional_chat_templates/tool_use.jinja" };
    static const char *const left[] = { ".gitattributes",
                                        "README.md",
                                        "pytorch_model.bin",
                                        "old.safetensors",
                                        "model.safetensors.index.json",
                                        "optimizer.pt" };
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    int n = 0;
    open_place(&p, *state, &config, &(struct tiny_options){ 0 }, &(struct wish){ .regex = EVERY });
    free(folder_in(p.base, "additional_chat_templates"));
    free(folder_in(p.base, "subfolder.json"));
    for (size_t i = 0; i < COUNT(copied); i++)
        tiny_file_write(p.base, copied[i], copied[i], i == 0 ? 0 : strlen(copied[i]));
    for (size_t i = 0; i < COUNT(left); i++)
        tiny_file_write(p.base, left[i], "x", 1);
    merge(&p, NULL);
    for (size_t i = 0; i < COUNT(copied); i++) {
        size_t size = 0;
        char *bytes = read_in(p.out, copied[i], &size);
        assert_int_equal(size, i == 0 ? 0 : strlen(copied[i]));
        assert_memory_equal(bytes, copied[i], size);
        free(bytes);
    }
    count_entries(p.out, &n);
    assert_int_equal(n, COUNT(copied) + 2); /* the tensors and config.json; nothing is left over */
    close_place(&p);
}

static void index_keeps_what_else_it_says(void **state)
{
    static const char index[] =
        "{\"metadata\": {\"total_size\": 1, \"total_parameters\": 2, \"by\": \"me\"}, "
        "\"weight_map\": ";
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    struct err err = { 0 };
    config.tie_word_embeddings = true;
    open_place(&p, *state, &config, &(struct tiny_options){ .n_shard = 2 },
               &(struct wish){ .regex = EVERY });
    size_t n = 0;
    char *old = read_in(p.base, "model.safetensors.index.json", &n);
    struct text t = { 0 };
    text_puts(&t, index);
    const size_t skipped = strlen("{\"metadata\": {\"total_size\": 0}, \"weight_map\": ");
    text_append(&t, old + skipped, n - skipped);
    tiny_file_write(p.base, "model.safetensors.index.json", t.data, t.len);
    merge(&p, NULL);
    expect_all(&p);
    char *path = path_in(p.out, "model.safetensors.index.json");
    json_t *root = json_load_object(path, (size_t)1 << 24, &err);
    const json_t *metadata = json_object_get(root, "metadata");
    const json_int_t total = json_integer_value(json_object_get(metadata, "total_size"));
    assert_int_equal(json_integer_value(json_object_get(metadata, "total_parameters")), total / 4);
    assert_string_equal(json_string_value(json_object_get(metadata, "by")), "me");
    json_decref(root);
    free(path);
    free(old);
    text_free(&t);
    close_place(&p);
}

static void config_is_untied_and_nothing_else_changes(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "{\"tie_word_embeddings\": true}", "{\"tie_word_embeddings\": false}" },
        { "{\n \"a\": 1e-06,\n \"tie_word_embeddings\" : true,\n \"b\": []}\n",
          "{\n \"a\": 1e-06,\n \"tie_word_embeddings\" : false,\n \"b\": []}\n" },
        { "{\"a\": {\"tie_word_embeddings\": true}, \"tie_word_embeddings\":true}",
          "{\"a\": {\"tie_word_embeddings\": true}, \"tie_word_embeddings\":false}" },
        { "{\"b\": [{\"tie_word_embeddings\": 1}], \"tie_word_embeddings\":null }",
          "{\"b\": [{\"tie_word_embeddings\": 1}], \"tie_word_embeddings\":false }" },
        { "{\"a\": \"tie_word_embeddings\", \"b\": \"\\\"}{\\\\\", \"tie_word_embeddings\": true}",
          "{\"a\": \"tie_word_embeddings\", \"b\": \"\\\"}{\\\\\", \"tie_word_embeddings\": "
          "false}" },
        { "{\"a\": 1}", "{\n  \"a\": 1,\n  \"tie_word_embeddings\": false\n}\n" },
        { "{\"tie_word\\u005fembeddings\": true}", "{\n  \"tie_word_embeddings\": false\n}\n" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct text out = { 0 };
        struct err err = { 0 };
        if (!merged_untie_config(cases[i][0], strlen(cases[i][0]), "config.json", &out, &err))
            fail_msg("%s", err.text);
        assert_string_equal(out.data, cases[i][1]);
        text_free(&out);
    }
    struct text out = { 0 };
    struct err err = { 0 };
    assert_false(merged_untie_config("[1]", 3, "config.json", &out, &err));
    assert_string_equal(err.text, "config.json: is no object");
    assert_false(merged_untie_config("{", 1, "config.json", &out, &err));
    text_free(&out);
}

/* ---- what is refused ---- */

static void expect_refused(struct place *p, enum err_code code, const char *message,
                           const char *folder)
{
    struct err err = { 0 };
    struct text notes = { 0 };
    char text[ERR_TEXT_SIZE];
    assert_false(export_merged(&p->s, p->out, &notes, &err));
    tiny_message(text, &err, folder);
    assert_string_equal(text, message);
    assert_int_equal(err.code, code);
    assert_int_equal(notes.len, 0);
    text_free(&notes);
}

static void a_folder_that_is_taken_is_refused(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    const char *folder = *state;
    open_place(&p, folder, &config, &(struct tiny_options){ 0 }, &(struct wish){ .regex = EVERY });
    char *out = p.out;
    const struct {
        const char *name, *message;
    } cases[] = {
        { "base", "DIR/base: is the base's own folder; a merged checkpoint goes to a new or empty "
                  "one" },
        { "base/../base/.", "DIR/base/../base/.: is the base's own folder; a merged checkpoint "
                            "goes to a new or empty one" },
        { "adapter", "DIR/adapter: is the adapter's own folder; a merged checkpoint goes to a new "
                     "or empty one" },
        { "full", "DIR/full: has 'model-00001-of-00009.safetensors' in it already; a merged "
                  "checkpoint goes to a new or empty folder" },
        { "file", "DIR/file: is a file; expected a new or empty folder" },
        { "file/merged", "DIR/file: cannot be created: File exists" },
    };
    free(folder_in(folder, "full"));
    tiny_file_write(folder, "full/model-00001-of-00009.safetensors", "x", 1);
    tiny_file_write(folder, "full/notes.md", "x", 1);
    tiny_file_write(folder, "file", "x", 1);
    for (size_t i = 0; i < COUNT(cases); i++) {
        p.out = path_in(folder, cases[i].name);
        expect_refused(&p, ERR_CANT_CREATE, cases[i].message, folder);
        free(p.out);
    }
    assert_true(is_there(p.base, "config.json") && is_there(folder, "full/notes.md"));
    p.out = out;
    close_place(&p);
}

static void a_base_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct tiny_options options;
        const char *message;
        enum err_code code;
    } cases[] = {
        { { .omit = "model.layers.0.mamba.D" },
          "DIR/base: tensor 'model.layers.0.mamba.D' is missing; config.json asks for it",
          ERR_DATA },
        { { .omit = "model.layers.0.mamba.D", .rename_to = "model.layers.0.mamba.E" },
          "DIR/base: tensor 'model.layers.0.mamba.D' is missing; config.json asks for it",
          ERR_DATA },
        { { .misshape = "model.layers.1.self_attn.q_proj.weight" },
          "DIR/base/model.safetensors: tensor 'model.layers.1.self_attn.q_proj.weight': shape (25, "
          "24), expected (24, 24)",
          ERR_DATA },
        { { .mistype = "model.layers.1.self_attn.q_proj.weight" },
          "DIR/base/model.safetensors: tensor 'model.layers.1.self_attn.q_proj.weight': type I8, "
          "expected F32, BF16 or F16; merge into the checkpoint that a quantized one was made from",
          ERR_DATA },
        { { .with_head = true, .omit = "lm_head.weight", .rename_to = "lm_head.bias" },
          "DIR/base: tensor 'lm_head.weight' is missing; config.json asks for it",
          ERR_DATA },
        { { .n_shard = 2, .unlisted = "model.layers.0.mamba.D" },
          "DIR/base/model-00002-of-00002.safetensors: tensor 'model.layers.0.mamba.D' is not in "
          "the index, 'model.safetensors.index.json'",
          ERR_DATA },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *folder = tiny_scratch_make();
        struct jamba_config config = tiny_config();
        struct place p = { 0 };
        open_place(&p, folder, &config, &cases[i].options, &(struct wish){ .regex = EVERY });
        expect_refused(&p, cases[i].code, cases[i].message, folder);
        assert_false(file_exists(p.out));
        close_place(&p);
        tiny_scratch_remove(folder);
    }
}

static void a_tensor_too_many_is_refused(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    open_place(&p, *state, &config, &(struct tiny_options){ 0 }, &(struct wish){ .regex = EVERY });
    p.s.config.num_hidden_layers = 3; /* the file has four */
    expect_refused(&p, ERR_DATA,
                   "DIR/base/model.safetensors: tensor "
                   "'model.layers.3.feed_forward.experts.0.down_proj.weight' has no place in the "
                   "model that config.json describes",
                   *state);
    p.s.config.num_hidden_layers = 4;
    close_place(&p);
}

static void a_base_without_files_or_quantized_is_refused(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    struct err err = { 0 };
    const char *folder = *state;
    open_place(&p, folder, &config, &(struct tiny_options){ 0 }, &(struct wish){ .regex = EVERY });
    export_close(&p.s);
    char *random = text_format("random:%s/base/config.json", folder);
    assert_true(export_open(&p.s, p.adapter, random, &err));
    expect_refused(&p, ERR_USAGE,
                   "'random:DIR/base/config.json': has no weights to merge into; say with --base "
                   "which checkpoint's folder to merge into",
                   folder);
    export_close(&p.s);
    tiny_checkpoint_write(
        p.base, &config,
        &(struct tiny_options){ .config_members = "\"quantization_config\": {\"bits\": 4}" });
    assert_false(export_open(&p.s, p.adapter, p.base, &err));
    assert_non_null(strstr(err.text, "quantization_config"));
    free(random);
    close_place(&p);
}

static void a_value_that_does_not_fit_is_refused(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    open_place(&p, *state, &config, &(struct tiny_options){ .dtype = DTYPE_F16 },
               &(struct wish){ .regex = ".*k_proj", .size = 400 });
    expect_refused(
        &p, ERR_DATA,
        "DIR/merged/model.safetensors: tensor 'model.layers.1.self_attn.k_proj.weight': "
        "a value of W + scale B A does not fit in F16; merge into the checkpoint in BF16 "
        "or F32, or check the adapter",
        *state);
    assert_false(file_exists(p.out));
    close_place(&p);
}

static void too_little_room_is_told_beforehand(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    struct merged_folder f = { 0 };
    struct err err = { 0 };
    const char *folder = *state;
    open_place(&p, folder, &config, &(struct tiny_options){ 0 }, &(struct wish){ .regex = EVERY });
    char *deep = path_in(folder, "a/b/merged");
    assert_true(merged_folder_open(&f, deep, &p.s, &err));
    static const size_t sizes[] = { SIZE_MAX / 2, SIZE_MAX - 1 };
    for (size_t i = 0; i < COUNT(sizes); i++) {
        assert_false(merged_folder_room(&f, sizes[i], &err));
        assert_int_equal(err.code, ERR_CANT_CREATE);
        char want[ERR_TEXT_SIZE];
        snprintf(want, sizeof want, "%s: the merged checkpoint takes ", deep);
        assert_true(text_starts_with(err.text, want));
        assert_non_null(strstr(err.text, " free; make room or choose a folder on another disk"));
        assert_false(is_there(folder, "a"));
    }
    assert_true(merged_folder_room(&f, 1000, &err));
    assert_true(file_is_directory(deep));
    merged_folder_close(&f, false);
    assert_false(file_exists(deep));
    free(deep);
    close_place(&p);
}

/* ---- what stays after a failure ---- */

static void nothing_stays_after_a_write_that_fails(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    struct rlimit before, limit;
    struct err err = { 0 };
    struct text notes = { 0 };
    int n_failed = 0, n_left = 0;
    config.tie_word_embeddings = true;
    open_place(&p, *state, &config, &(struct tiny_options){ .n_shard = 3 },
               &(struct wish){ .regex = EVERY });
    tiny_file_write(p.base, "tokenizer.json", "{}", 2);
    free(folder_in(*state, "merged"));
    tiny_file_write(p.out, "notes.md", "mine", 4);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    bool ok = false;
    for (rlim_t size = 0; !ok && size < 1 << 20; size += size < 4096 ? 512 : 4096) {
        limit.rlim_cur = size;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ok = export_merged(&p.s, p.out, &notes, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        n_failed += !ok;
        if (!ok) {
            assert_int_equal(err.code, ERR_IO);
            assert_non_null(strstr(err.text, "cannot be written: File too large"));
            n_left = 0;
            count_entries(p.out, &n_left);
            assert_int_equal(n_left, 1); /* what was there before */
        }
    }
    assert_true(ok && n_failed >= 5);
    expect_all(&p);
    text_free(&notes);
    close_place(&p);
}

/* After the copies are there: the index cannot be made. */
static void copies_do_not_stay_without_an_index(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    struct err err = { 0 };
    open_place(&p, *state, &config, &(struct tiny_options){ .n_shard = 2 },
               &(struct wish){ .regex = EVERY });
    char *index = path_in(p.base, "model.safetensors.index.json");
    tiny_file_write(p.base, "tokenizer.json", "{}", 2);
    tiny_file_write(p.base, "chat_template.jinja", "x", 1);
    struct merged_folder f = { 0 };
    struct merged_plan plan = { 0 };
    assert_true(merged_folder_open(&f, p.out, &p.s, &err));
    assert_true(merged_folder_room(&f, 0, &err));
    assert_true(merged_folder_copy_sides(&f, &err));
    assert_true(is_there(p.out, "tokenizer.json") && is_there(p.out, "chat_template.jinja"));
    assert_int_equal(remove(index), 0);
    assert_false(merged_write_index(&f, &plan, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    merged_folder_close(&f, false);
    assert_false(file_exists(p.out));
    free(index);
    close_place(&p);
}

/* ---- the proof ---- */

static void flip(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    const int c = fgetc(f);
    assert_true(c != EOF);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    fputc(c ^ 1, f);
    assert_int_equal(fclose(f), 0);
}

struct proving {
    struct shards shards;
    struct merged_plan plan;
    struct merged_team team;
    struct merged_list list;
    char *path;
};

static bool sum_block(void *context, struct merged_worker *worker, struct merged_block *block,
                      struct err *err)
{
    const struct proving *v = context;
    const void *bytes = merged_bytes(&v->plan, worker, block, 0, err);
    block->sum = merged_sum(bytes, block->n);
    return true;
}

/* The same bytes for any place, also one that no such number may have in memory. */
static bool move_block(void *context, struct merged_worker *worker, struct merged_block *block,
                       struct err *err)
{
    static const size_t places[] = { 1, 2, 3, 4095, 4097, 4098, 3 * 4096 + 2 };
    const struct proving *v = context;
    for (size_t i = 0; i < COUNT(places); i++) {
        const char *bytes = merged_bytes(&v->plan, worker, block, places[i], err);
        if ((uintptr_t)bytes % 4096 != places[i] % 4096 ||
            merged_sum(bytes, block->n) != block->sum)
            return err_set(err, ERR_INTERNAL, "not the same for place %zu", places[i]);
    }
    return true;
}

static bool prove(struct proving *v, struct err *err)
{
    return merged_prove(&v->team, &v->list, &v->plan.files[0], v->path, "merged", err);
}

static void any_wrong_byte_is_found(void **state)
{
    struct jamba_config config = tiny_config();
    struct place p = { 0 };
    struct proving v = { 0 };
    struct err err = { 0 };
    open_place(&p, *state, &config, &(struct tiny_options){ .dtype = DTYPE_BF16 },
               &(struct wish){ .regex = EVERY });
    merge(&p, NULL);
    assert_true(shards_open(&v.shards, p.base, &p.s.config, &err));
    assert_true(merged_plan_make(&p.s, &v.shards, &v.plan, &err));
    assert_true(merged_team_open(&v.team, &v.plan, &err));
    assert_true(merged_list_make(&v.list, &v.plan, &v.plan.files[0], &err));
    assert_true(merged_team_run(&v.team, &v.list, sum_block, &v, &err));
    assert_true(merged_team_run(&v.team, &v.list, move_block, &v, &err));
    v.path = path_in(p.out, "model.safetensors");
    assert_true(prove(&v, &err));
    for (int64_t i = 0; i < v.plan.n_tensor; i++) { /* the first and last byte of each tensor */
        struct safetensors st = { 0 };
        assert_true(safetensors_open(v.path, &st, &err));
        const struct safetensors_tensor *t = safetensors_find(&st, v.plan.tensors[i].name);
        const long begin = (long)((const uint8_t *)t->data - st.map.data);
        const long ends[] = { begin, begin + (long)t->bytes - 1 };
        char want[256];
        snprintf(want, sizeof want, "merged: tensor '%s': is not there as it was written",
                 v.plan.tensors[i].name);
        safetensors_close(&st);
        for (size_t k = 0; k < COUNT(ends); k++) {
            flip(v.path, ends[k]);
            assert_false(prove(&v, &err));
            assert_string_equal(err.text, want);
            assert_int_equal(err.code, ERR_INTERNAL);
            flip(v.path, ends[k]);
        }
    }
    assert_true(prove(&v, &err));
    flip(v.path, 8 + 60); /* in the header: a name, a type, a shape or no JSON any more */
    assert_false(prove(&v, &err));
    flip(v.path, 8 + 60);
    v.plan.files[0].n--; /* one tensor more than expected */
    assert_false(prove(&v, &err));
    assert_non_null(strstr(err.text, "merged: read back, it has "));
    v.plan.files[0].n++;
    v.plan.tensors[3].dtype = DTYPE_F16;
    assert_false(prove(&v, &err));
    v.plan.tensors[3].dtype = DTYPE_BF16;
    v.plan.tensors[3].dims[0]++;
    assert_false(prove(&v, &err));
    v.plan.tensors[3].dims[0]--;
    v.plan.tensors[3].name = "model.another";
    assert_false(prove(&v, &err));
    assert_string_equal(err.text, "merged: tensor 'model.another': is not there with the base's "
                                  "type and shape");
    merged_list_free(&v.list);
    merged_team_close(&v.team);
    merged_plan_free(&v.plan);
    shards_close(&v.shards);
    free(v.path);
    close_place(&p);
}

static void a_sum_tells_every_byte_and_its_place(void **state)
{
    (void)state;
    uint8_t x[203];
    for (size_t i = 0; i < sizeof x; i++)
        x[i] = (uint8_t)(i * 37);
    for (size_t n = 0; n <= sizeof x; n += 29) {
        const uint64_t sum = merged_sum(x, n);
        for (size_t i = 0; i < n; i++) {
            for (int bit = 1; bit < 256; bit *= 2) {
                x[i] ^= (uint8_t)bit;
                assert_true(merged_sum(x, n) != sum);
                x[i] ^= (uint8_t)bit;
            }
            const uint8_t first = x[0], other = x[i];
            x[0] = other;
            x[i] = first;
            assert_true((merged_sum(x, n) == sum) == (first == other));
            x[0] = first;
            x[i] = other;
        }
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_keeps_its_places_and_changes_what_is_adapted),
        IN_FOLDER(the_bytes_do_not_depend_on_the_threads),
        IN_FOLDER(the_merged_model_computes_what_base_and_adapter_do),
        cmocka_unit_test(names_and_shapes_are_those_of_transformers),
        IN_FOLDER(tokenizer_templates_and_configs_are_copied),
        IN_FOLDER(index_keeps_what_else_it_says),
        cmocka_unit_test(config_is_untied_and_nothing_else_changes),
        IN_FOLDER(a_folder_that_is_taken_is_refused),
        cmocka_unit_test(a_base_that_does_not_fit_is_refused),
        IN_FOLDER(a_tensor_too_many_is_refused),
        IN_FOLDER(a_base_without_files_or_quantized_is_refused),
        IN_FOLDER(a_value_that_does_not_fit_is_refused),
        IN_FOLDER(too_little_room_is_told_beforehand),
        IN_FOLDER(nothing_stays_after_a_write_that_fails),
        IN_FOLDER(copies_do_not_stay_without_an_index),
        IN_FOLDER(any_wrong_byte_is_found),
        cmocka_unit_test(a_sum_tells_every_byte_and_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
