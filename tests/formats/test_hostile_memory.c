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
#include <unistd.h>

#include <cmocka.h>

#include "datasets/document.h"
#include "datasets/jinja.h"
#include "datasets/source.h"
#include "finetune/model/shards.h"
#include "finetune/report/report.h"
#include "finetune/train/checkpoint.h"
#include "finetune/train/identity.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/manifest.h"
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

/* And written again, as a run that begins with it does. */
static bool write_adapter(const struct adapter *a, struct err *err)
{
    const struct peft_model_facts facts = { .base_model = "x" };
    struct text warnings = { 0 };
    peft_warnings(a->modules, a->n, a->choices, &a->config, &facts, &warnings);
    const bool ok = !warnings.failed || err_no_memory(err, "the warnings");
    text_free(&warnings);
    return ok && peft_write(fuzz_folder("adapter-again"), &a->adapter, &a->config, &facts, err);
}

static bool fill_adapter(const char *folder, struct adapter *a, struct err *err)
{
    const struct backend host = { .act = DTYPE_REAL };
    const struct lora_adapter_args args = { a->modules, a->n, a->choices, &host, &a->arena, false };
    return peft_read_config(folder, &a->config, err) &&
           peft_choices_from_tensors(folder, a->modules, a->n, &a->config, a->choices, err) &&
           arena_init(&a->arena, "adapter", (size_t)1 << 20, err) &&
           lora_adapter_init(&a->adapter, &args, err) &&
           peft_read_tensors(folder, &a->adapter, err) &&
           peft_read_traits(folder, a->modules, a->n, &a->config, a->choices, &a->traits, err) &&
           write_adapter(a, err);
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

/* ---- a run's checkpoint and log, of the seeds of fuzz_checkpoint.c ---- */

#define SOUND "tests/fixtures/checkpoint"

static json_t *sound_state; /* opened before anything fails */

/* Takes the state over. */
static bool resume(json_t *state, struct err *err)
{
    struct train_counters counters;
    struct plan_shape shape = { 0 };
    struct text changes = { 0 };
    json_t *saved = NULL, *now = json_object_get(sound_state, "identity");
    bool ok = state != NULL && state_from_json(state, "x", &counters, &shape, &saved, err) &&
              identity_compare(saved, now, "learning_rate,program", "x", &changes, err) &&
              (!changes.failed || err_no_memory(err, "x"));
    json_t *again = ok ? state_to_json(&counters, &shape, saved) : NULL;
    char *text = again != NULL ? json_to_text(again, 0) : NULL;
    if (ok && text == NULL)
        ok = err_no_memory(err, "x");
    free(text);
    json_decref(again);
    json_decref(state);
    text_free(&changes);
    return ok;
}

static bool read_state(const char *folder, struct err *err)
{
    enum { N_PARAM = 48 };
    real values[3 * N_PARAM];
    const struct state_blocks blocks = { values, values + N_PARAM, values + 2 * N_PARAM, N_PARAM };
    return resume(state_read_json(folder, err), err) && state_read_blocks(folder, &blocks, err);
}

static bool read_run(const char *folder, struct err *err)
{
    struct report report = { 0 };
    struct text page = { 0 };
    if (!report_open(&report, &folder, 1, err))
        return false;
    const bool ok = report_page(&report, &page, err);
    text_free(&page);
    report_close(&report);
    return ok;
}

/* The files of a seed, written; what is not there is removed. */
static void write_pair(const struct fuzz_pair *in, const char *first, const char *second)
{
    char path[FUZZ_PATH_SIZE];
    fuzz_write("checkpoint", second, in->second, in->n_second, path);
    if (in->second == NULL)
        assert_int_equal(unlink(path), 0);
    fuzz_write("checkpoint", first, in->first, in->n_first, path);
    if (in->n_first == 0)
        assert_int_equal(unlink(path), 0);
}

/* As a run that goes on looks for it. */
static bool find_checkpoint(struct err *err)
{
    const char *folder = fuzz_folder("outputs");
    char *found = NULL;
    struct text notes = { 0 };
    const bool ok = checkpoint_find(folder, &found, &notes, err);
    if (ok)
        assert_true(notes.failed || (found != NULL && text_ends_with(found, "/checkpoint-2")));
    free(found);
    text_free(&notes);
    return ok && checkpoint_settle(folder, err) && checkpoint_set_aside(folder, 2, err) &&
           checkpoint_prune(folder, 1, 2, err);
}

static bool read_lettered(const char *folder, char letter, const struct fuzz_pair *in,
                          struct err *err)
{
    switch (letter) {
    case 'm':
        write_pair(in, MANIFEST_NAME, STATE_NAME);
        return in->second != NULL ? manifest_check(folder, err) && find_checkpoint(err)
                                  : manifest_check(SOUND, err);
    case 's':
        return resume(json_parse((const char *)in->first, in->n_first, "x", err), err);
    case 't':
        return read_state(folder, err);
    default:
        write_pair(in, "run.json", "metrics.jsonl");
        return read_run(folder, err);
    }
}

static bool read_checkpoint(const char *folder, const char *path, struct err *err)
{
    char *bytes = NULL, state[FUZZ_PATH_SIZE];
    size_t n = 0;
    if (!file_read(path, 1 << 16, &bytes, &n, err))
        return false;
    assert_true(n > 0);
    if (bytes[0] == 't')
        fuzz_write("checkpoint", STATE_NAME, bytes + 1, n - 1, state);
    const struct fuzz_pair in = fuzz_split((const uint8_t *)bytes + 1, n - 1);
    const bool ok = read_lettered(folder, bytes[0], &in, err);
    free(bytes);
    return ok;
}

/* The files that stand beside those of a seed, in a folder that is a run's checkpoint, too. */
static void write_sound_files(void)
{
    char link[FUZZ_PATH_SIZE];
    snprintf(link, sizeof link, "%s/checkpoint-2", fuzz_folder("outputs"));
    assert_int_equal(symlink(fuzz_folder("checkpoint"), link), 0);
    static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "recipe.yaml" };
    for (size_t i = 0; i < COUNT(names); i++) {
        char *path = file_join(SOUND, names[i]), *bytes = NULL, copy[FUZZ_PATH_SIZE];
        size_t n = 0;
        assert_non_null(path);
        assert_true(file_read(path, 1 << 16, &bytes, &n, NULL));
        fuzz_write("checkpoint", names[i], bytes, n, copy);
        free(bytes);
        free(path);
    }
}

/* ---- every k ---- */

static const struct reader {
    const char *format;
    read_folder *read;
    const char *first, *second; /* names of a seed's two files; NULL: it is one */
} readers[] = {
    { "adapter", read_adapter, PEFT_CONFIG_NAME, PEFT_TENSORS_NAME },
    { "checkpoint", read_checkpoint, "x", NULL },
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
    if (r->read == read_checkpoint)
        write_sound_files();
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        take_seed(r, e->d_name, &count);
    closedir(dir);
    free(folder);
    print_message("%-12s %zu failures over %zu files, %zu refused\n", r->format, count.n_run,
                  count.n_seed, count.n_refused);
    assert_true(count.n_seed >= 2 && count.n_refused >= 4);
}

/* ---- recipes, right and wrong ---- */

/* Loaded by path, or (NULL) from the overrides alone. */
static const struct {
    const char *text;
    const char *overrides[4];
} recipes[] = {
    { "base_model: x/y\ndatasets: [{path: a.jsonl}]\nbf16: full\nmask_prompt: yes\n"
      "completion_only_loss: 1\nlora_r: \"8\"\nseed: []\nlora_rnk: 1\nload_in_4bit: true\n"
      "excess_length_strategy: cut\n",
      { NULL } },
    { "base_model: x/y\nbf16: x\nmask_prompt: 2\nlr_scheduler: 3\nseed: \"1\"\nlora_rnk: 1\n",
      { NULL } },
    { "base_model: x/y\ndatasets: [{path: a.jsonl}]\nmask_prompt: no\nwandb_project: x\n"
      "pad_to_sequence_len: true\n",
      { NULL } },
    { "base_model: x/y\nchat_template_kwargs: {a: [1, 2.5, true, null, {b: [c, d]}, []], e: f}\n",
      { NULL } },
    { "chat_template_kwargs: {messages: 1}\nsample_prompts: [a, b, c]\nrank_pattern: {a: 1, b: "
      "2}\n",
      { NULL } },
    { NULL, { "base_model=x", "datasets.0.path=a.jsonl", "rank_pattern.q_proj=4", "~seed" } },
    { NULL, { "wandb_project=x", "lora_r=0", "lora_rnk=1" } },
};

struct verdict {
    enum err_code code;
    int64_t n_error;
    struct text dump; /* of a sound one */
};

static struct verdict load_recipe(const char *path, const char *const *overrides, int n, size_t k)
{
    struct recipe recipe = { 0 };
    struct recipe_report report = { 0 };
    n_allocation = 0;
    fails_at = k;
    is_counting = true;
    const bool ok = recipe_load(path, overrides, n, RECIPE_NEED_NOTHING, &recipe, &report);
    is_counting = false;
    assert_true(ok == (report.code == ERR_NONE));
    struct verdict v = { .code = report.code, .n_error = report.errors.n };
    if (ok)
        recipe_dump(&recipe, &v.dump);
    recipe_free(&recipe);
    recipe_report_free(&report);
    return v;
}

static void a_recipe_says_the_same_or_that_memory_is_out(void **state)
{
    (void)state;
    size_t n_run = 0, n_wrong = 0;
    for (size_t i = 0; i < COUNT(recipes); i++) {
        char path[FUZZ_PATH_SIZE];
        const char *text = recipes[i].text;
        int n = 0;
        while (n < 4 && recipes[i].overrides[n] != NULL)
            n++;
        if (text != NULL)
            fuzz_write("recipe", "x.yaml", text, strlen(text), path);
        const char *from = text != NULL ? path : NULL;
        struct verdict sound = load_recipe(from, recipes[i].overrides, n, 0);
        const size_t n_all = n_allocation;
        n_wrong += sound.code != ERR_NONE;
        for (size_t k = 1; k <= n_all; k++, n_run++) {
            struct verdict v = load_recipe(from, recipes[i].overrides, n, k);
            const bool same =
                v.code == sound.code && v.n_error == sound.n_error &&
                (sound.dump.data == NULL || strcmp(v.dump.data, sound.dump.data) == 0);
            if (!same && v.code != ERR_NO_MEMORY)
                fail_msg("recipe %zu: allocation %zu of %zu fails: %d, %d errors of %d", i, k,
                         n_all, (int)v.code, (int)v.n_error, (int)sound.n_error);
            text_free(&v.dump);
        }
        text_free(&sound.dump);
    }
    print_message("recipe       %zu failures over %zu recipes, %zu of them wrong\n", n_run,
                  COUNT(recipes), n_wrong);
    assert_int_equal(n_wrong, 4);
}

/* ---- every piece ---- */

/* Each kind of node, of list and of argument; and what is refused once it is parsed. */
static const struct {
    const char *text, *refusal;
} templates[] = {
    { "{{ a.b.0[1][1:2:3][::] }}{{ 'x' 'y' 'z' }}{{ a(1, b, c=1, d=2, e=3, f=4, g=5, *h, **i) }}",
      NULL },
    { "{{ -a + +b - c * d / e // f % g ** h }}{{ a ~ b ~ c ~ d ~ e ~ f }}{{ not a and b or c }}",
      NULL },
    { "{{ a == 1 != 2 < 3 <= 4 > 5 >= 6 in b not in c }}{{ a if b else c if d }}", NULL },
    { "{{ [1, 2, 3, 4, 5] }}{{ {1: 2, 'a': 3, b: 4} }}{{ (1, 2, 3) }}{{ () }}{{ 1, 2 }}", NULL },
    { "{{ a | upper | replace('a', b) }}{{ a is defined }}{{ a is not sameas(1) }}"
      "{{ a is divisibleby 2 }}{{ a is in [1] }}{{ (a | trim)(1) }}",
      NULL },
    { "{{ a | b.c.d }}", "no filter named 'b.c.d'" },
    { "{{ a is b.c.d }}", "no test named 'b.c.d'" },
    { "{% if a %}b{% elif c %}d{% elif e %}f{% else %}g{% endif %}{% print a, b, c, d, e %}",
      NULL },
    { "{% for a, b in c if d recursive %}e{% break %}{% continue %}{% else %}f{% endfor %}", NULL },
    { "{% set a, n.b = 1, 2 %}{% set c | upper %}d{% endset %}", NULL },
    { "{% with a = 1, b = 2, c = 3 %}{{ a }}{% endwith %}{% filter upper | trim %}a{% endfilter %}",
      NULL },
    { "{% macro a(b, c, d, e, f=1, g=2, h=3, i=4, j=5) %}{{ b }}{{ caller(1) }}{% endmacro %}"
      "{% call(x, y=1) a(1) %}z{% endcall %}{% generation %}a{% endgeneration %}",
      NULL },
};

/* The number of allocations that failed and were told. */
static size_t starve_parser(const char *text, size_t n, const char *refusal)
{
    size_t n_refused = 0;
    for (fails_at = 1;; fails_at++) {
        struct err err = { 0 };
        n_allocation = 0;
        is_counting = true;
        struct jinja_template *t = jinja_parse(text, n, "x", &err);
        is_counting = false;
        const bool ok = t != NULL;
        jinja_free(t);
        if (n_allocation < fails_at) { /* none has failed */
            if (ok != (refusal == NULL) || (!ok && strstr(err.text, refusal) == NULL))
                fail_msg("%s: %s", text + n - 40, err.text);
            return n_refused;
        }
        if (ok || err.code != ERR_NO_MEMORY || err.text[0] == '\0')
            fail_msg("allocation %zu fails: %d: %s", fails_at, (int)err.code, err.text);
        n_refused++;
    }
}

/* A parser's memory comes in blocks. Behind a text of any length each piece that it asks for is in
 * its turn the first of a block. */
static void a_parser_may_fail_at_every_piece(void **state)
{
    enum { BLOCK = 16384, SPAN = 12288, PIECE = 16 };
    static char text[BLOCK + 1024];
    size_t n_refused = 0;
    (void)state;
    memset(text, 'x', sizeof text);
    for (size_t i = 0; i < COUNT(templates); i++) {
        const size_t n = strlen(templates[i].text);
        for (size_t begin = BLOCK - SPAN; begin < BLOCK; begin += PIECE) {
            memcpy(text + begin, templates[i].text, n);
            n_refused += starve_parser(text, begin + n, templates[i].refusal);
            memset(text + begin, 'x', n);
        }
    }
    print_message("jinja        %zu failures over %zu templates\n", n_refused, COUNT(templates));
    assert_true(n_refused > 1000);
}

int main(void)
{
    sound_state = state_read_json(SOUND, NULL);
    tokenizer = tokenizer_open("recipes/quickstart/base", NULL);
    template = template_open(&(struct template_options){ .chosen = "chatml" }, NULL);
    if (sound_state == NULL || tokenizer == NULL || template == NULL)
        return 1;
    struct CMUnitTest tests[COUNT(readers) + 2];
    for (size_t i = 0; i < COUNT(readers); i++)
        tests[i] = (struct CMUnitTest){ .name = readers[i].format,
                                        .test_func = a_failed_allocation_is_said_to_be_one,
                                        .initial_state = (void *)(uintptr_t)&readers[i] };
    tests[COUNT(readers)] =
        (struct CMUnitTest)cmocka_unit_test(a_recipe_says_the_same_or_that_memory_is_out);
    tests[COUNT(readers) + 1] =
        (struct CMUnitTest)cmocka_unit_test(a_parser_may_fail_at_every_piece);
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_free(tokenizer);
    template_free(template);
    json_decref(sound_state);
    return n_failed;
}
