/* Exported PEFT folders: what the engine needs, the same change of every weight, and a check that
 * finds any other. Names and shapes of the 3B and the 52B are held to PEFT's own
 * (tests/reference/make_export_golden.py). */
#include "finetune/export/peft.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "finetune/export/verify.h"
#include "finetune/model/modules.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "kernels/format/safetensors.h"
#include "lora/format_peft.h"
#include "lora/peft_names.h"
#include "tests/support/support.h"
#include "tests/support/tiny_checkpoint.h"

#define MODELS "tests/fixtures/models/"

static char *borrowed(const char *s)
{
    return (char *)(uintptr_t)s;
}

static char *path_in(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    assert_non_null(path);
    return path;
}

static void open_source(struct export_source *s, const char *dir, const char *base)
{
    struct err err = { 0 };
    if (!export_open(s, dir, base, &err))
        fail_msg("%s", err.text);
}

/* ---- adapters of our own making ---- */

/* What is adapted of a fixture's model, at r 4 and lora_alpha 8. */
struct wish {
    const char *regex;
    bool rslora;
    const char *key; /* of rank_pattern; NULL: none */
    double rank;
};

/* Writes a random adapter of that wish for the model into dir. */
static void make_adapter(const char *dir, const char *base, const struct wish *wish)
{
    struct jamba_config jamba;
    struct err err = { 0 };
    struct lora_pattern rank = { borrowed(wish->key), wish->rank };
    const struct lora_config config = { .r = 4,
                                        .alpha = 8,
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
    lora_adapter_reset(&adapter, 3);
    for (int64_t i = 0; i < adapter.n_param; i++)
        adapter.params[i] = (real)(float)(adapter.params[i] + (real)((i * 37) % 29 - 14) / 64);
    const struct peft_model_facts facts = { .base_model = base };
    assert_true(peft_write(dir, &adapter, &config, &facts, &err));
    lora_adapter_free(&adapter);
    arena_free(&arena);
    free(choices);
    free(modules);
    free(path);
}

/* ---- what comes out ---- */

static void expect_uniform(const struct export_source *s, int64_t r, double alpha)
{
    for (int64_t i = 0; i < s->n_module; i++) {
        if (s->choices[i].on)
            assert_true(s->choices[i].r == r && s->choices[i].alpha == alpha);
    }
    assert_int_equal(s->lora.r, r);
    assert_true(s->lora.alpha == alpha && !s->lora.use_rslora && s->lora.dropout == 0);
    assert_int_equal(s->lora.n_rank_pattern, 0); /* but for parameters' */
    assert_int_equal(s->lora.n_alpha_pattern, 0);
}

static void expect_honoured(const struct export_source *s, enum lora_engine engine)
{
    struct lora_report report = { 0 };
    struct err err = { 0 };
    assert_true(export_judge(s, &report, &err));
    assert_int_equal(lora_report_verdict(&report, engine), LORA_HONOURED);
    lora_report_free(&report);
}

static double element(const struct lora_slot *slot, double scale, int64_t o, int64_t i)
{
    double sum = 0;
    for (int64_t k = 0; slot != NULL && k < slot->rank; k++)
        sum += (double)slot->b[o * slot->rank + k] * (double)slot->a[k * slot->module->in + i];
    return scale * sum;
}

/* Every element of every change, to a few roundings of F32 of its size, which is 10 at most here.
 */
static void expect_same_changes(const struct export_source *x, const struct export_source *y)
{
    static const double roundings = 2e-5;
    int64_t n_changed = 0;
    for (int64_t m = 0; m < x->n_module; m++) {
        const struct lora_slot *a = lora_adapter_slot(&x->adapter, m),
                               *b = lora_adapter_slot(&y->adapter, m);
        for (int64_t o = 0; (a != NULL || b != NULL) && o < x->modules[m].out; o++) {
            for (int64_t i = 0; i < x->modules[m].in; i++) {
                const double expected = element(a, x->choices[m].scale, o, i);
                n_changed += expected > 1e-3;
                assert_true(fabs(element(b, y->choices[m].scale, o, i) - expected) <= roundings);
            }
        }
    }
    assert_true(n_changed > 50);
}

#define EXPERTS ".*(in_proj|q_proj|experts.*)"

static void each_engine_gets_what_it_needs(void **state)
{
    (void)state;
    static const struct {
        const char *base;
        struct wish wish;
        enum lora_engine engine;
        enum lora_fold_what fold;
        int64_t r; /* 0: not uniform */
        double alpha;
        const char *notes; /* how they begin */
    } cases[] = {
        { MODELS "dense_mqa_tied",
          { .regex = ".*" },
          LORA_ENGINE_VLLM,
          LORA_FOLD_ALL,
          4,
          8,
          "every module has r 4 and lora_alpha 8\nstart vLLM with --enable-lora --max-lora-rank "
          "16, its default\nthe base is tied, and vLLM loads a Jamba only from files that have "
          "lm_head.weight: where the base's do not, serve `jambatune export --to merged`\n" },
        { MODELS "moe_gqa_untied",
          { .regex = ".*", .key = "x_proj", .rank = 20 },
          LORA_ENGINE_VLLM,
          LORA_FOLD_ALL,
          20,
          40,
          "modules of a lower rank, filled up with zeros: 47\nmodules of another scale, folded "
          "into "
          "lora_B: 3\nevery module has r 20 and lora_alpha 40\nstart vLLM with --enable-lora "
          "--max-lora-rank 32\n" },
        { MODELS "moe_gqa_untied",
          { .regex = ".*(q_proj|layers.1.*experts.2.up_proj)" },
          LORA_ENGINE_VLLM,
          LORA_FOLD_ALL,
          4,
          8,
          "experts' projections that are not adapted, given a pair of zeros, which adds nothing: "
          "11\n" },
        { MODELS "proj_bias",
          { .regex = ".*", .rslora = true },
          LORA_ENGINE_VLLM,
          LORA_FOLD_ALL,
          4,
          16,
          "every module has r 4 and lora_alpha 16\n" },
        { MODELS "moe_gqa_untied",
          { .regex = ".*(router|" EXPERTS ")", .key = "q_proj", .rank = 9 },
          LORA_ENGINE_TRANSFORMERS5,
          LORA_FOLD_NOTHING,
          0,
          0,
          NULL },
        { MODELS "moe_gqa_untied",
          { .regex = EXPERTS, .rslora = true, .key = "q_proj", .rank = 9 },
          LORA_ENGINE_TRANSFORMERS5,
          LORA_FOLD_EXPERTS,
          0,
          0,
          NULL },
        { MODELS "odd_sizes",
          { .regex = EXPERTS, .key = "experts.1.up_proj", .rank = 3 },
          LORA_ENGINE_TRANSFORMERS5,
          LORA_FOLD_EXPERTS,
          0,
          0,
          "modules of a lower rank, filled up with zeros: 3\n" },
        { MODELS "proj_bias",
          { .regex = ".*", .rslora = true, .key = "x_proj", .rank = 2 },
          LORA_ENGINE_TRANSFORMERS4,
          LORA_FOLD_NOTHING,
          0,
          0,
          NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = tiny_scratch_make(), *out = path_in(dir, "out");
        struct export_source s, exported;
        struct text notes = { 0 };
        struct err err = { 0 };
        make_adapter(dir, cases[i].base, &cases[i].wish);
        open_source(&s, dir, NULL);
        assert_int_equal(export_fold_for(&s, cases[i].engine), cases[i].fold);
        if (!export_peft(&s, cases[i].engine, out, &notes, &err))
            fail_msg("case %zu: %s", i, err.text);
        open_source(&exported, out, NULL);
        expect_same_changes(&s, &exported);
        expect_honoured(&exported, cases[i].engine);
        if (cases[i].r > 0)
            expect_uniform(&exported, cases[i].r, cases[i].alpha);
        assert_string_equal(exported.base_name, cases[i].base);
        if (cases[i].notes == NULL)
            assert_null(notes.data);
        else if (!text_starts_with(notes.data, cases[i].notes))
            fail_msg("case %zu: notes: %s", i, notes.data);
        text_free(&notes);
        export_close(&exported);
        export_close(&s);
        free(out);
        tiny_scratch_remove(dir);
    }
}

static void what_an_engine_does_not_take_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        struct wish wish;
        enum lora_engine engine;
        const char *message;
    } cases[] = {
        { { .regex = ".*(dt_proj|q_proj)" },
          LORA_ENGINE_TRANSFORMERS5,
          "DIR: dt_proj: transformers from 5.15 on ignores an adapter on dt_proj silently; "
          "`jambatune export --to merged`, or train without it; transformers 4, vLLM and llama.cpp "
          "honour it" },
        { { .regex = ".*q_proj", .key = "q_proj", .rank = 513 },
          LORA_ENGINE_VLLM,
          "DIR: q_proj: vLLM takes ranks up to 512; `jambatune export --to merged`, or train a "
          "lower rank" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = tiny_scratch_make(), *out = path_in(dir, "out");
        struct export_source s;
        struct text notes = { 0 };
        struct err err = { 0 };
        char message[ERR_TEXT_SIZE];
        make_adapter(dir, MODELS "moe_gqa_untied", &cases[i].wish);
        open_source(&s, dir, NULL);
        assert_false(export_peft(&s, cases[i].engine, out, &notes, &err));
        assert_int_equal(err.code, ERR_DATA);
        tiny_message(message, &err, dir);
        assert_string_equal(message, cases[i].message);
        assert_false(file_exists(out));
        export_close(&s);
        free(out);
        tiny_scratch_remove(dir);
    }
}

/* ---- the check ---- */

/* One tensor value of the folder's file changed by that part of it, in place, and its digest put
 * out of use, which would tell first. */
static void spoil(const char *dir, size_t from_end, float part)
{
    char *path = path_in(dir, PEFT_TENSORS_NAME), *data = NULL;
    size_t n = 0;
    struct err err = { 0 };
    float x;
    assert_true(file_read(path, 1 << 24, &data, &n, &err));
    memcpy(&x, data + n - 4 * from_end, 4);
    x += part * (x < 0 ? x - 1 / 64.0F : x + 1 / 64.0F);
    memcpy(data + n - 4 * from_end, &x, 4);
    static const char key[] = "\"" SAFETENSORS_DIGEST "\":\"";
    char *digest = strstr(data + 8, key); /* the header's length is bytes, maybe zeros */
    assert_non_null(digest);
    memset(digest + sizeof key - 1, 'x', 64);
    memcpy(digest + 1, "spoilt", 6);
    assert_true(file_write(path, data, n, &err));
    free(data);
    free(path);
}

static void replace_in_config(const char *dir, const char *from, const char *to)
{
    char *path = path_in(dir, PEFT_CONFIG_NAME), *data = NULL;
    size_t n = 0;
    struct err err = { 0 };
    assert_true(file_read(path, 1 << 20, &data, &n, &err));
    char *at = strstr(data, from);
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
    assert_true(file_write(path, data, n, &err));
    free(data);
    free(path);
}

static void a_change_that_is_not_the_adapters_is_found(void **state)
{
    (void)state;
    char *dir = tiny_scratch_make(), *out = path_in(dir, "out");
    struct export_source s;
    make_adapter(dir, MODELS "moe_gqa_untied",
                 &(struct wish){ .regex = ".*(q_proj|x_proj|lm_head)" });
    open_source(&s, dir, NULL);
    /* Any value, in either matrix, by one part in a thousand. */
    const size_t n_param = (size_t)s.adapter.n_param;
    size_t n_tried = 0;
    for (size_t at = 1; at <= n_param; at += 97, n_tried++) {
        struct err err = { 0 };
        assert_true(export_import(&s, out, &err));
        spoil(out, at, 0.001F);
        if (export_verify_peft(&s, out, &err))
            fail_msg("value %zu from the end", at);
        assert_int_equal(err.code, ERR_INTERNAL);
        assert_true(text_starts_with(err.text, out));
        assert_non_null(strstr(err.text,
                               "': what was written changes the weight otherwise than the "
                               "adapter (output "));
    }
    assert_true(n_tried > 10);
    struct err err = { 0 };
    assert_true(export_import(&s, out, &err));
    replace_in_config(out, "\"lora_alpha\": 8", "\"lora_alpha\": 9");
    assert_false(export_verify_peft(&s, out, &err));
    assert_int_equal(err.code, ERR_INTERNAL);
    export_close(&s);
    free(out);
    tiny_scratch_remove(dir);
}

static void a_module_too_few_or_too_many_is_found(void **state)
{
    (void)state;
    char *dir = tiny_scratch_make(), *few = path_in(dir, "few"), *many = path_in(dir, "many");
    const char *const base = MODELS "dense_mqa_tied";
    struct export_source s;
    struct err err = { 0 };
    char message[ERR_TEXT_SIZE];
    make_adapter(dir, base, &(struct wish){ .regex = ".*[qk]_proj" });
    make_adapter(few, base, &(struct wish){ .regex = ".*q_proj" });
    make_adapter(many, base, &(struct wish){ .regex = ".*[qkv]_proj" });
    open_source(&s, dir, NULL);
    assert_false(export_verify_peft(&s, few, &err));
    tiny_message(message, &err, dir);
    assert_string_equal(message, "DIR/few: 'model.layers.1.self_attn.k_proj' was not written");
    assert_false(export_verify_peft(&s, many, &err));
    tiny_message(message, &err, dir);
    assert_true(text_starts_with(message, "DIR/many: 'model.layers.1.self_attn."));
    export_close(&s);
    free(few);
    free(many);
    tiny_scratch_remove(dir);
}

/* ---- goldens ---- */

static int by_text(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* "PREFIXmodel....lora_{A,B}.weight 16x2560 5120x16" */
static char *tensor_line(const struct lora_module *m, int64_t r)
{
    char a[PEFT_NAME_SIZE], b[PEFT_NAME_SIZE];
    peft_tensor_name(m, PEFT_A, a);
    peft_tensor_name(m, PEFT_B, b);
    char *at = strstr(a, "_A");
    assert_non_null(at);
    assert_true(memcmp(a, b, (size_t)(at - a)) == 0 && b[at - a + 1] == 'B' &&
                strcmp(at + 2, b + (at - a) + 2) == 0);
    return text_format("%.*s_{A,B}%s %" PRId64 "x%" PRId64 " %" PRId64 "x%" PRId64, (int)(at - a),
                       a, at + 2, r, m->in, m->out, r);
}

static void expect_golden(const char *model, const char *golden, bool transformers5)
{
    struct jamba_config jamba;
    struct err err = { 0 };
    struct lora_module *modules = NULL;
    char *path = text_format("tests/bench/%s.json", model), *expected = NULL;
    size_t size = 0;
    assert_true(jamba_config_read(path, &jamba, &err));
    const int64_t n = jamba_modules(&jamba, &modules);
    struct lora_choice *choices = calloc((size_t)n, sizeof *choices);
    assert_non_null(choices);
    /* Mixed ranks for vLLM, which have to become one. */
    struct lora_pattern ranks[] = { { borrowed("x_proj"), 4 }, { borrowed("lm_head"), 1 } };
    struct lora_config config = { .r = 16,
                                  .alpha = 32,
                                  .target_regex =
                                      borrowed(transformers5 ? "(?!.*dt_proj).*" : ".*"),
                                  .rank_pattern = ranks,
                                  .n_rank_pattern = transformers5 ? 0 : 2 };
    assert_true(lora_choose(&config, modules, n, choices, &err));
    struct lora_fold fold;
    assert_true(lora_fold_plan(&fold, modules, n, choices, &config,
                               transformers5 ? LORA_FOLD_NOTHING : LORA_FOLD_ALL, &err));
    const struct peft_model_facts facts = { .base_model = model,
                                            .tied = jamba.tie_word_embeddings,
                                            .router_parameter = transformers5 };
    struct text out = { 0 };
    char *config_text = peft_config_text(modules, n, fold.choices, &fold.config, &facts);
    char **lines = calloc((size_t)n, sizeof *lines);
    assert_non_null(lines);
    size_t n_line = 0;
    for (int64_t i = 0; i < n; i++) {
        if (fold.choices[i].on)
            lines[n_line++] = tensor_line(&modules[i], fold.choices[i].r);
    }
    qsort(lines, n_line, sizeof *lines, by_text);
    text_printf(&out, "%s\n\n", config_text);
    for (size_t i = 0; i < n_line; i++) {
        text_printf(&out, "%s\n", lines[i]);
        free(lines[i]);
    }
    if (!file_read(golden, 1 << 20, &expected, &size, &err))
        fail_msg("%s", err.text);
    assert_string_equal(out.data, expected);
    text_free(&out);
    lora_fold_close(&fold);
    free(lines);
    free(config_text);
    free(expected);
    free(choices);
    free(modules);
    free(path);
}

static void names_and_shapes_are_pefts(void **state)
{
    (void)state;
    expect_golden("jamba-3b", "tests/fixtures/export/peft-vllm-3b.txt", false);
    expect_golden("jamba-52b", "tests/fixtures/export/peft-vllm-52b.txt", false);
    expect_golden("jamba-3b", "tests/fixtures/export/peft-transformers5-3b.txt", true);
    expect_golden("jamba-52b", "tests/fixtures/export/peft-transformers5-52b.txt", true);
}

/* vLLM's own rules of what it loads (parse_fine_tuned_lora_name, from_local_checkpoint and
 * PEFTHelper), applied to the lists above. */
static bool vllm_takes_name(const char *name)
{
    static const char *const modules[] = { "q_proj",    "k_proj",      "v_proj",    "o_proj",
                                           "in_proj",   "x_proj",      "dt_proj",   "out_proj",
                                           "gate_proj", "up_proj",     "down_proj", "router",
                                           "lm_head",   "embed_tokens" };
    char path[PEFT_NAME_SIZE];
    const bool prefixed = text_starts_with(name, "base_model.model.");
    snprintf(path, sizeof path, "%s", prefixed ? name + strlen("base_model.model.") : name);
    char *end = strstr(path, ".lora_");
    if (end == NULL ||
        (strcmp(end, ".lora_{A,B}.weight") != 0 && strcmp(end, ".lora_embedding_{A,B}") != 0))
        return false;
    *end = '\0';
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        if (lora_suffix_matches(path, modules[i]))
            return true;
    }
    return false;
}

static void vllm_s_rules_find_nothing(void **state)
{
    (void)state;
    static const char *const goldens[] = { "tests/fixtures/export/peft-vllm-3b.txt",
                                           "tests/fixtures/export/peft-vllm-52b.txt" };
    for (int g = 0; g < 2; g++) {
        char *text = NULL;
        size_t n = 0;
        int64_t n_name = 0, n_expert = 0;
        struct err err = { 0 };
        assert_true(file_read(goldens[g], 1 << 20, &text, &n, &err));
        char *config = text, *lines = strstr(text, "\n\n");
        assert_non_null(lines);
        *lines = '\0';
        json_t *root = json_loads(config, 0, NULL);
        assert_non_null(root);
        const int64_t r = json_integer_value(json_object_get(root, "r"));
        assert_true(r > 0 && lora_vllm_rank(r) == 16);
        assert_true(json_is_integer(json_object_get(root, "lora_alpha")));
        assert_true(json_array_size(json_object_get(root, "target_modules")) > 0);
        assert_string_equal(json_string_value(json_object_get(root, "bias")), "none");
        assert_true(json_is_false(json_object_get(root, "use_dora")));
        assert_true(json_is_false(json_object_get(root, "use_rslora")));
        assert_true(json_is_null(json_object_get(root, "modules_to_save")));
        json_decref(root);
        for (char *line = strtok(lines + 2, "\n"); line != NULL; line = strtok(NULL, "\n")) {
            char name[PEFT_NAME_SIZE];
            int rank_a, rank_b, in, out;
            assert_int_equal(sscanf(line, "%159s %dx%d %dx%d", name, &rank_a, &in, &out, &rank_b),
                             5);
            assert_true(vllm_takes_name(name) && rank_a == r && rank_b == r);
            n_expert += strstr(name, ".experts.") != NULL;
            n_name++;
        }
        /* all experts of gate, up and down in every MoE layer, or none */
        assert_int_equal(n_expert, g == 0 ? 0 : 16 * 16 * 3);
        assert_true(n_name > 190);
        free(text);
    }
    assert_false(vllm_takes_name("base_model.model.model.layers.0.mamba.conv2d.lora_{A,B}.weight"));
    assert_false(vllm_takes_name("base_model.model.lm_head.weight"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_engine_gets_what_it_needs),
        cmocka_unit_test(what_an_engine_does_not_take_is_refused_by_name),
        cmocka_unit_test(a_change_that_is_not_the_adapters_is_found),
        cmocka_unit_test(a_module_too_few_or_too_many_is_found),
        cmocka_unit_test(names_and_shapes_are_pefts),
        cmocka_unit_test(vllm_s_rules_find_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
