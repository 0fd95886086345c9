/* Readers that run out of memory: over each seed of tests/fixtures/fuzz that is sound, the k-th
 * allocation fails. The reader says so with ERR_NO_MEMORY, or does without and comes to the same;
 * nothing is leaked (the sanitizers' build sees to that) and nothing else is said to be wrong.
 *
 * Linked with --wrap for malloc, calloc and realloc: what our sources and, through them, jansson
 * ask for is counted here; libyaml's, PCRE2's and zlib's own calls are not.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "datasets/document.h"
#include "datasets/source.h"
#include "finetune/model/shards.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "kernels/format/gguf.h"
#include "lora/format_peft.h"
#include "recipes/recipe.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/lora/tiny_jamba.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- allocations ---- */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static bool is_counting;
static size_t n_allocation, fails_at; /* from 1; 0: none fails */

static bool fails(void)
{
    return is_counting && ++n_allocation == fails_at;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

/* ---- readers ---- */

/* Reads what lies in the folder; `path` is the seed's first file. */
typedef bool read_folder(const char *folder, const char *path, struct err *err);

static bool read_recipe(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    const char *const overrides[] = { "lora_dropout=0.5", "datasets.0.type=text", "~seed" };
    struct recipe recipe = { 0 };
    struct recipe_report report = { 0 };
    const bool ok =
        recipe_load(path, overrides, COUNT(overrides), RECIPE_NEED_NOTHING, &recipe, &report);
    if (!ok)
        err_set(err, report.code, "%s",
                report.errors.n > 0 ? report.errors.item[0] : "out of memory");
    recipe_free(&recipe);
    recipe_report_free(&report);
    return ok;
}

static bool read_config(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct jamba_config config = { 0 };
    return jamba_config_read(path, &config, err);
}

static bool read_safetensors(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct safetensors st = { 0 };
    const bool ok = safetensors_open(path, &st, err) && safetensors_check_digest(&st, path, err);
    safetensors_close(&st);
    return ok;
}

static bool read_gguf(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct gguf g = { 0 };
    const bool ok = gguf_open(path, &g, err);
    gguf_close(&g);
    return ok;
}

static bool read_gzip(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    json_t *record = NULL;
    struct source *s = source_open(path, err);
    enum source_result result = s != NULL ? SOURCE_RECORD : SOURCE_ERROR;
    while (result == SOURCE_RECORD) {
        result = source_next(s, &record, err);
        json_decref(record);
    }
    source_close(s);
    return result == SOURCE_END;
}

static bool encode(const struct tokenizer *tok, const char *text, struct err *err)
{
    struct token_list tokens = { 0 };
    struct text out = { 0 };
    struct range_list special = { 0 };
    const bool ok = tokenizer_encode(tok, text, strlen(text), true, &tokens, err) &&
                    tokenizer_encode_special(tok, text, strlen(text), true, &tokens, err) &&
                    tokenizer_find_special(tok, text, strlen(text), &special, err) &&
                    tokenizer_decode(tok, tokens.ids, tokens.n, false, &out, err);
    token_list_free(&tokens);
    range_list_free(&special);
    text_free(&out);
    return ok;
}

static bool read_tokenizer(const char *folder, const char *path, struct err *err)
{
    (void)path;
    struct tokenizer *tok = tokenizer_open(folder, err);
    const bool ok = tok != NULL && encode(tok, "<s>ab a1  b</s>b", err);
    tokenizer_free(tok);
    return ok;
}

static bool open_template(const struct template_options *options, struct err *err)
{
    struct chat_template *t = template_open(options, err);
    const bool ok = t != NULL;
    template_free(t);
    return ok;
}

static bool read_template(const char *folder, const char *path, struct err *err)
{
    (void)path;
    return open_template(&(struct template_options){ .model_dir = folder }, err);
}

static bool read_jinja(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    return open_template(&(struct template_options){ .chosen = path }, err);
}

static bool read_index(const char *folder, const char *path, struct err *err)
{
    (void)path;
    const struct jamba_config config = tiny_jamba();
    struct shards s = { 0 };
    const bool ok = shards_open(&s, folder, &config, err);
    shards_close(&s);
    return ok;
}

/* Opened before anything fails. */
static struct tokenizer *tokenizer;
static struct chat_template *template;

static bool read_records(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    const struct data_source source = { .path = (char *)(uintptr_t)path };
    const struct document_options options = {
        .record = { .tokenizer = tokenizer,
                    .eos = tokenizer_eos(tokenizer),
                    .vocab_size = tokenizer_vocab_size(tokenizer),
                    .chat_template = template },
        .sequence_len = 48,
        .excess = EXCESS_SPLIT,
    };
    struct document_set set = { 0 };
    struct document_report report = { 0 };
    const bool ok = document_load(&set, &source, &options, &report, err);
    document_set_free(&set);
    return ok;
}

struct adapter {
    struct lora_module *modules;
    int64_t n;
    struct lora_choice *choices;
    struct lora_config config;
    struct arena arena;
    struct lora_adapter adapter;
    struct peft_traits traits;
};

static bool fill_adapter(const char *folder, struct adapter *a, struct err *err)
{
    const struct backend host = { .act = DTYPE_REAL };
    const struct lora_adapter_args args = { a->modules, a->n, a->choices, &host, &a->arena, false };
    return peft_read_config(folder, &a->config, err) &&
           peft_choices_from_tensors(folder, a->modules, a->n, &a->config, a->choices, err) &&
           arena_init(&a->arena, "adapter", (size_t)1 << 20, err) &&
           lora_adapter_init(&a->adapter, &args, err) &&
           peft_read_tensors(folder, &a->adapter, err) &&
           peft_read_traits(folder, a->modules, a->n, &a->config, a->choices, &a->traits, err);
}

static bool read_adapter(const char *folder, const char *path, struct err *err)
{
    (void)path;
    const struct jamba_config jamba = tiny_jamba();
    struct adapter a = { 0 };
    a.n = jamba_modules(&jamba, &a.modules);
    a.choices = a.n > 0 ? calloc((size_t)a.n, sizeof *a.choices) : NULL;
    const bool ok =
        a.choices != NULL ? fill_adapter(folder, &a, err) : err_no_memory(err, "the modules");
    peft_traits_free(&a.traits);
    lora_adapter_free(&a.adapter);
    arena_free(&a.arena);
    lora_config_free(&a.config);
    free(a.choices);
    free(a.modules);
    return ok;
}

/* ---- every k ---- */

static const struct reader {
    const char *format;
    read_folder *read;
    const char *first, *second; /* names of a seed's two files; NULL: it is one */
} readers[] = {
    { "adapter", read_adapter, PEFT_CONFIG_NAME, PEFT_TENSORS_NAME },
    { "config", read_config, "config.json", NULL },
    { "gguf", read_gguf, "x.gguf", NULL },
    { "gzip", read_gzip, "x.jsonl.gz", NULL },
    { "index", read_index, "model.safetensors.index.json", NULL },
    { "jinja", read_jinja, "x.jinja", NULL },
    { "recipe", read_recipe, "x.yaml", NULL },
    { "records", read_records, "x.jsonl", NULL },
    { "safetensors", read_safetensors, "x.safetensors", NULL },
    { "template", read_template, "tokenizer_config.json", "special_tokens_map.json" },
    { "tokenizer", read_tokenizer, "tokenizer.json", "tokenizer_config.json" },
};

/* The two shards that the seeds of the index name. */
static void write_shards(void)
{
    static const float value[2] = { 1, 2 };
    static const char *const names[2][2] = {
        { "a", "model.layers.0.feed_forward.experts.0.up_proj.weight" },
        { "b", "model.layers.1.moe.router.weight" },
    };
    for (int f = 0; f < 2; f++) {
        struct safetensors_tensor tensors[2];
        for (int i = 0; i < 2; i++)
            tensors[i] = (struct safetensors_tensor){ .name = names[f][i],
                                                      .dtype = DTYPE_F32,
                                                      .n_dim = 1,
                                                      .dims = { 2 },
                                                      .data = value,
                                                      .bytes = sizeof value };
        char path[FUZZ_PATH_SIZE];
        fuzz_write("index", f == 0 ? "1.safetensors" : "2.safetensors", "", 0, path);
        assert_true(safetensors_write(path, tensors, 2, NULL));
    }
}

static bool run(const struct reader *r, const char *path, size_t k, struct err *err)
{
    *err = (struct err){ 0 };
    n_allocation = 0;
    fails_at = k;
    is_counting = true;
    const bool ok = r->read(fuzz_folder(r->format), path, err);
    is_counting = false;
    return ok;
}

struct count {
    size_t n_seed, n_run, n_refused;
};

static void starve(const struct reader *r, const char *path, const char *seed, struct count *count)
{
    enum { MOST = 600 };
    struct err err;
    if (!run(r, path, 0, &err))
        return; /* a seed that is no sound file */
    const size_t n = n_allocation;
    count->n_seed++;
    for (size_t k = 1; k <= n; k += 1 + n / MOST) {
        const bool ok = run(r, path, k, &err);
        if (!ok && (err.code != ERR_NO_MEMORY || err.text[0] == '\0'))
            fail_msg("%s: %s: allocation %zu of %zu fails: %d: %s", r->format, seed, k, n,
                     (int)err.code, err.text);
        count->n_run++;
        count->n_refused += !ok;
    }
}

static void take_seed(const struct reader *r, const char *name, struct count *count)
{
    char *folder = file_join("tests/fixtures/fuzz", r->format), *seed = file_join(folder, name);
    char *bytes = NULL, path[FUZZ_PATH_SIZE], second[FUZZ_PATH_SIZE];
    size_t n = 0;
    assert_non_null(seed);
    if (!file_is_directory(seed)) {
        assert_true(file_read(seed, 1 << 20, &bytes, &n, NULL));
        struct fuzz_pair in = { .first = (const uint8_t *)bytes, .n_first = n };
        if (r->second != NULL || strcmp(r->format, "recipe") == 0)
            in = fuzz_split((const uint8_t *)bytes, n);
        if (r->second != NULL)
            fuzz_write(r->format, r->second, in.second != NULL ? (const char *)in.second : "{}",
                       in.second != NULL ? in.n_second : 2, second);
        fuzz_write(r->format, r->first, in.first, in.n_first, path);
        starve(r, path, name, count);
    }
    free(bytes);
    free(seed);
    free(folder);
}

static void a_failed_allocation_is_said_to_be_one(void **state)
{
    const struct reader *r = *state;
    struct count count = { 0 };
    char *folder = file_join("tests/fixtures/fuzz", r->format);
    assert_non_null(folder);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    if (r->read == read_index)
        write_shards();
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        take_seed(r, e->d_name, &count);
    closedir(dir);
    free(folder);
    print_message("%-12s %zu failures over %zu files, %zu refused\n", r->format, count.n_run,
                  count.n_seed, count.n_refused);
    assert_true(count.n_seed >= 2 && count.n_refused >= 4);
}

int main(void)
{
    tokenizer = tokenizer_open("recipes/quickstart/base", NULL);
    template = template_open(&(struct template_options){ .chosen = "chatml" }, NULL);
    if (tokenizer == NULL || template == NULL)
        return 1;
    struct CMUnitTest tests[COUNT(readers)];
    for (size_t i = 0; i < COUNT(readers); i++)
        tests[i] = (struct CMUnitTest){ .name = readers[i].format,
                                        .test_func = a_failed_allocation_is_said_to_be_one,
                                        .initial_state = (void *)(uintptr_t)&readers[i] };
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_free(tokenizer);
    template_free(template);
    return n_failed;
}
