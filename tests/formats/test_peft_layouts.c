/* Reading adapters in every layout that others write: fused experts, parameters, other names. */
#include "lora/format_peft_layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "kernels/format/safetensors.h"
#include "tests/formats/peft_fixture.h"

/* A folder, and the modules of a tiny Jamba: layers 1 and 3 have two experts. */
struct folder {
    char dir[512];
    struct lora_module *modules;
    int64_t n;
    struct safetensors_tensor tensors[16];
    int64_t n_tensor;
    struct lora_config config;
    struct lora_choice *choices;
    struct arena arena;
    struct lora_adapter adapter;
};

static void open_folder(struct folder *f, int64_t d_ff)
{
    struct jamba_config jamba = tiny_jamba();
    jamba.intermediate_size = d_ff;
    *f = (struct folder){ 0 };
    f->n = jamba_modules(&jamba, &f->modules);
    f->choices = calloc((size_t)f->n, sizeof *f->choices);
    assert_non_null(f->choices);
    open_dir(f->dir);
}

static void forget(struct folder *f)
{
    for (int64_t i = 0; i < f->n_tensor; i++) {
        free(borrowed(f->tensors[i].name));
        free(borrowed(f->tensors[i].data));
    }
    f->n_tensor = 0;
    lora_config_free(&f->config);
    f->config = (struct lora_config){ 0 };
    lora_adapter_free(&f->adapter);
    arena_free(&f->arena);
    f->arena = (struct arena){ 0 };
}

static void close_folder(struct folder *f)
{
    forget(f);
    close_dir(f->dir);
    free(f->choices);
    free(f->modules);
}

/* What stands at (row, col) of that tensor: exact in every type, no two rows or columns alike. */
static float value_at(bool is_b, int64_t row, int64_t col)
{
    return (float)((row * 7 + col * 3 + (is_b ? 5 : 0)) % 61 - 30) / 16;
}

static void put(struct folder *f, const char *name, int64_t rows, int64_t cols, bool is_b)
{
    assert_true(f->n_tensor < 16);
    float *data = malloc((size_t)(rows * cols) * sizeof *data);
    assert_non_null(data);
    for (int64_t i = 0; i < rows * cols; i++)
        data[i] = value_at(is_b, i / cols, i % cols);
    f->tensors[f->n_tensor++] =
        (struct safetensors_tensor){ .name = strdup(name),
                                     .dtype = DTYPE_F32,
                                     .n_dim = 2,
                                     .dims = { rows, cols },
                                     .data = data,
                                     .bytes = (size_t)(rows * cols) * sizeof *data };
}

static void put_pair(struct folder *f, const char *path, const int64_t a[2], const int64_t b[2])
{
    char name[256];
    snprintf(name, sizeof name, "%s.lora_A.weight", path);
    put(f, name, a[0], a[1], false);
    snprintf(name, sizeof name, "%s.lora_B.weight", path);
    put(f, name, b[0], b[1], true);
}

static void write_files(struct folder *f, const char *config)
{
    char path[640];
    struct err err = { 0 };
    path_in(f->dir, PEFT_CONFIG_NAME, path);
    assert_true(file_write(path, config, strlen(config), &err));
    path_in(f->dir, PEFT_TENSORS_NAME, path);
    if (!safetensors_write(path, f->tensors, f->n_tensor, &err))
        fail_msg("%s", err.text);
}

static bool read_files(struct folder *f, struct err *err)
{
    const struct backend host = { .act = DTYPE_REAL };
    const struct lora_adapter_args args = { f->modules, f->n, f->choices, &host, &f->arena, false };
    return peft_read_config(f->dir, &f->config, err) &&
           peft_choices_from_tensors(f->dir, f->modules, f->n, &f->config, f->choices, err) &&
           arena_init(&f->arena, "adapter", (size_t)1 << 20, err) &&
           lora_adapter_init(&f->adapter, &args, err) &&
           peft_read_tensors(f->dir, &f->adapter, err);
}

static void expect_read(struct folder *f, const char *config)
{
    struct err err = { 0 };
    write_files(f, config);
    if (!read_files(f, &err))
        fail_msg("%s", err.text);
}

static void expect_refused(struct folder *f, const char *config, const char *message)
{
    char path[640];
    struct err err = { 0 };
    write_files(f, config);
    if (read_files(f, &err))
        fail_msg("accepted, not: %s", message);
    path_in(f->dir, PEFT_TENSORS_NAME, path);
    assert_int_equal(err.code, ERR_DATA);
    assert_true(text_starts_with(err.text, path));
    assert_string_equal(err.text + strlen(path), message);
    forget(f);
}

static const struct lora_slot *slot_of(const struct folder *f, const char *path)
{
    const int64_t i = module_index(f->modules, f->n, path);
    assert_true(i >= 0);
    return lora_adapter_slot(&f->adapter, i);
}

/* ---- fused experts ---- */

#define LAYER1 "base_model.model.model.layers.1.feed_forward."
#define LAYER3 "base_model.model.model.layers.3.feed_forward."

enum { D = 8, D_FF = 12, E = 2 };

/* PEFT's definition: A reshaped to (expert, rank, in), B to (out, rank, expert); the change of the
 * expert's matrix is B[:, :, e] A[e], or when taken for (expert, in, out) its transpose. Rows of it
 * begin at `row` for up_proj. */
static void expect_expert(const struct folder *f, int64_t layer, int64_t expert,
                          const char *projection, int64_t r, int64_t row, bool swapped)
{
    char path[128];
    snprintf(path, sizeof path, "model.layers.%d.feed_forward.experts.%d.%s", (int)layer,
             (int)expert, projection);
    const struct lora_slot *slot = slot_of(f, path);
    assert_non_null(slot);
    assert_int_equal(slot->rank, r);
    for (int64_t k = 0; k < r; k++) {
        for (int64_t i = 0; i < slot->module->in; i++) {
            const float expected =
                swapped ? value_at(true, i, k * E + expert) : value_at(false, expert * r + k, i);
            assert_true(slot->a[k * slot->module->in + i] == (real)expected);
        }
        for (int64_t o = 0; o < slot->module->out; o++) {
            const float expected = swapped ? value_at(false, expert * r + k, row + o)
                                           : value_at(true, row + o, k * E + expert);
            assert_true(slot->b[o * r + k] == (real)expected);
        }
    }
}

#define FUSED_CONFIG                                                                               \
    "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6, \"target_modules\": [\"q_proj\"], "    \
    "\"target_parameters\": [\"experts.gate_up_proj\", \"feed_forward.experts.down_proj\"], "      \
    "\"rank_pattern\": {\"layers.1.*gate_up_proj\": 5}, "                                          \
    "\"alpha_pattern\": {\"experts.down_proj\": 9}}"

static void fused_experts_become_each_experts_own(void **state)
{
    (void)state;
    for (int swapped = 0; swapped < 2; swapped++) {
        struct folder f;
        open_folder(&f, D_FF);
        const int64_t r = 3, r1 = 5, up = 2 * D_FF;
        const int64_t a1[] = { E * r1, swapped ? up : D }, b1[] = { swapped ? D : up, E * r1 };
        const int64_t a3[] = { E * r, swapped ? up : D }, b3[] = { swapped ? D : up, E * r };
        const int64_t down_a[] = { E * r, swapped ? D : D_FF };
        const int64_t down_b[] = { swapped ? D_FF : D, E * r };
        put_pair(&f, LAYER1 "experts.base_layer", a1, b1);
        put_pair(&f, LAYER1 "experts", down_a, down_b);
        put_pair(&f, LAYER3 "experts", a3, b3); /* gate_up alone: no base_layer */
        expect_read(&f, FUSED_CONFIG);
        for (int64_t e = 0; e < E; e++) {
            expect_expert(&f, 1, e, "gate_proj", r1, 0, swapped);
            expect_expert(&f, 1, e, "up_proj", r1, D_FF, swapped);
            expect_expert(&f, 1, e, "down_proj", r, 0, swapped);
            expect_expert(&f, 3, e, "gate_proj", r, 0, swapped);
            expect_expert(&f, 3, e, "up_proj", r, D_FF, swapped);
        }
        assert_null(slot_of(&f, "model.layers.3.feed_forward.experts.0.down_proj"));
        assert_true(slot_of(&f, "model.layers.1.feed_forward.experts.0.up_proj")->alpha == 6);
        assert_true(slot_of(&f, "model.layers.1.feed_forward.experts.1.down_proj")->alpha == 9);
        const int64_t gate =
            module_index(f.modules, f.n, "model.layers.1.feed_forward.experts.0.gate_proj");
        assert_true(f.choices[gate].scale == 6.0 / 5);
        close_folder(&f);
    }
}

static void down_alone_has_no_base_layer_either(void **state)
{
    (void)state;
    struct folder f;
    open_folder(&f, D_FF);
    put_pair(&f, LAYER1 "experts", (int64_t[]){ E * 3, D_FF }, (int64_t[]){ D, E * 3 });
    expect_read(&f, FUSED_CONFIG);
    assert_int_equal(f.adapter.n_slot, E);
    expect_expert(&f, 1, 1, "down_proj", 3, 0, false);
    close_folder(&f);
}

/* Both readings fit a square matrix; PEFT turned them round in 0.19. */
static void the_version_tells_where_a_matrix_is_square(void **state)
{
    (void)state;
    static const struct {
        const char *version;
        bool swapped;
    } cases[] = { { "\"0.18.1\"", true },  { "\"0.17.0\"", true },     { "\"0.19.0\"", false },
                  { "\"0.21.2\"", false }, { "\"1.2.0\"", false },     { "null", false },
                  { "\"x\"", false },      { "\"0.18.2.dev0\"", true } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[512];
        struct folder f;
        open_folder(&f, D); /* down_proj is (8, 8) */
        put_pair(&f, LAYER1 "experts", (int64_t[]){ E * 3, D }, (int64_t[]){ D, E * 3 });
        snprintf(config, sizeof config,
                 "{\"peft_type\": \"LORA\", \"r\": 3, \"peft_version\": %s, "
                 "\"target_parameters\": [\"experts.down_proj\"]}",
                 cases[i].version);
        expect_read(&f, config);
        expect_expert(&f, 1, 1, "down_proj", 3, 0, cases[i].swapped);
        close_folder(&f);
    }
}

static void fused_tensors_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    const int64_t a[] = { E * 3, D }, b[] = { 2 * D_FF, E * 3 };
    struct folder f;
    open_folder(&f, D_FF);
    put(&f, LAYER1 "experts.lora_A.weight", a[0], a[1], false);
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER1
                   "experts.lora_A.weight': the B that goes with it is missing");
    put(&f, LAYER1 "experts.lora_B.weight", b[0], b[1], true);
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER1
                   "experts.lora_B.weight': the A that goes with it is missing");
    put_pair(&f, LAYER1 "experts", (int64_t[]){ 7, D }, (int64_t[]){ 2 * D_FF, 7 });
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER1
                   "experts.lora_A.weight': its shape (7, 8) and (24, 7) of its B are no fused "
                   "experts'; expected, for 2 experts of rank r, (2 r, 8) and (24, 2 r), or "
                   "(2 r, 12) and (8, 2 r)");
    put_pair(&f, LAYER1 "experts", a, (int64_t[]){ 2 * D_FF, E * 4 });
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER1
                   "experts.lora_A.weight': its shape (6, 8) and (24, 8) of its B are no fused "
                   "experts'; expected, for 2 experts of rank r, (2 r, 8) and (24, 2 r), or "
                   "(2 r, 12) and (8, 2 r)");
    put_pair(&f, LAYER3 "experts", a, b);
    put_pair(&f, LAYER3 "experts.base_layer", a, b);
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER3 "experts.lora_A.weight': '" LAYER3
                   "experts.base_layer.lora_A.weight' is the same matrix; expected one of them "
                   "(two adapters in one file are not read)");
    put_pair(&f, LAYER3 "experts", a, b);
    put_pair(&f, LAYER3 "experts.1.up_proj", (int64_t[]){ 3, D }, (int64_t[]){ D_FF, 3 });
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER3 "experts.lora_A.weight': '" LAYER3
                   "experts.1.up_proj.lora_A.weight' is the same matrix; expected one of them (two "
                   "adapters in one file are not read)");
    put_pair(&f, "base_model.model.model.layers.0.feed_forward.experts", a, b);
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor 'base_model.model.model.layers.0.feed_forward.experts.lora_A.weight': "
                   "this model has no such module; the nearest is "
                   "'model.layers.0.feed_forward.up_proj'");
    put_pair(&f, LAYER1 "experts", a, b); /* rank 3, where the pattern says 5 */
    expect_refused(&f, FUSED_CONFIG,
                   ": tensor '" LAYER1
                   "experts.lora_A.weight': has rank 3, but adapter_config.json gives 5; the scale "
                   "of the adapter would be a guess");
    close_folder(&f);
}

/* What was read of fused tensors, once written, is per expert, and the same. */
static void what_was_fused_is_written_per_expert(void **state)
{
    (void)state;
    struct folder f;
    struct err err = { 0 };
    open_folder(&f, D_FF);
    put_pair(&f, LAYER1 "experts.base_layer", (int64_t[]){ E * 5, D }, (int64_t[]){ 24, E * 5 });
    put_pair(&f, LAYER1 "experts", (int64_t[]){ E * 3, D_FF }, (int64_t[]){ D, E * 3 });
    expect_read(&f, FUSED_CONFIG);
    real *params = malloc((size_t)f.adapter.n_param * sizeof *params);
    assert_non_null(params);
    memcpy(params, f.adapter.params, (size_t)f.adapter.n_param * sizeof *params);
    const int64_t n_param = f.adapter.n_param;
    struct lora_choice *choices = malloc((size_t)f.n * sizeof *choices);
    assert_non_null(choices);
    memcpy(choices, f.choices, (size_t)f.n * sizeof *choices);
    assert_true(peft_write(f.dir, &f.adapter, &f.config, &(struct peft_model_facts){ 0 }, &err));
    forget(&f);
    if (!read_files(&f, &err))
        fail_msg("%s", err.text);
    assert_int_equal(f.adapter.n_param, n_param);
    assert_memory_equal(f.adapter.params, params, (size_t)n_param * sizeof *params);
    for (int64_t i = 0; i < f.n; i++)
        assert_true(f.choices[i].on == choices[i].on && f.choices[i].scale == choices[i].scale);
    struct peft_traits traits;
    assert_true(peft_read_traits(f.dir, f.modules, f.n, &f.config, f.choices, &traits, &err));
    assert_true(!traits.fused_layout && traits.fused_entries && !traits.renamed);
    peft_traits_free(&traits);
    free(choices);
    free(params);
    close_folder(&f);
}

/* ---- names ---- */

#define PLAIN "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"q_proj\"]}"
#define Q "model.layers.2.self_attn.q_proj"
#define UP0 "model.layers.0.feed_forward.up_proj"
#define UP1 "model.layers.1.feed_forward.experts.1.up_proj"

static void other_names_are_understood(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b, *path;
        bool renamed, foreign;
    } cases[] = {
        { PEFT_PREFIX Q ".lora_A.weight", PEFT_PREFIX Q ".lora_B.weight", Q, false, false },
        { Q ".lora_A.weight", Q ".lora_B.weight", Q, true, false },
        { PEFT_PREFIX PEFT_PREFIX Q ".lora_A.weight", PEFT_PREFIX PEFT_PREFIX Q ".lora_B.weight", Q,
          true, true },
        { PEFT_PREFIX Q ".lora_A.default.weight", PEFT_PREFIX Q ".lora_B.default.weight", Q, true,
          true },
        { "module." PEFT_PREFIX Q ".lora_A.weight", "module." PEFT_PREFIX Q ".lora_B.weight", Q,
          true, true },
        { "_orig_mod." PEFT_PREFIX Q ".lora_A.weight", "_orig_mod." PEFT_PREFIX Q ".lora_B.weight",
          Q, true, true },
        { PEFT_PREFIX "model.layers.2._fsdp_wrapped_module.self_attn.q_proj.lora_A.weight",
          PEFT_PREFIX "model.layers.2._checkpoint_wrapped_module.self_attn.q_proj.lora_B.weight", Q,
          true, true },
        { PEFT_PREFIX "layers.2.self_attn.q_proj.lora_A.weight",
          PEFT_PREFIX "layers.2.self_attn.q_proj.lora_B.weight", Q, true, true },
        { PEFT_PREFIX "model.layers.1.moe.experts.1.up_proj.lora_A.weight",
          PEFT_PREFIX "model.layers.1.moe.experts.1.up_proj.lora_B.weight", UP1, true, true },
        { PEFT_PREFIX "model.layers.0.moe.experts.0.up_proj.lora_A.weight",
          PEFT_PREFIX "model.layers.0.moe.experts.0.up_proj.lora_B.weight", UP0, true, true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct folder f;
        struct peft_traits traits;
        struct err err = { 0 };
        open_folder(&f, D_FF);
        const int64_t m = module_index(f.modules, f.n, cases[i].path);
        put(&f, cases[i].a, 4, f.modules[m].in, false);
        put(&f, cases[i].b, f.modules[m].out, 4, true);
        put(&f, "base_model.model.lm_head.base_layer.weight", 11, 8, false); /* passed over */
        expect_read(&f, PLAIN);
        assert_int_equal(f.adapter.n_slot, 1);
        assert_non_null(slot_of(&f, cases[i].path));
        assert_true(slot_of(&f, cases[i].path)->a[1] == (real)value_at(false, 0, 1));
        assert_true(peft_read_traits(f.dir, f.modules, f.n, &f.config, f.choices, &traits, &err));
        assert_int_equal(traits.renamed, cases[i].renamed);
        assert_int_equal(traits.foreign, cases[i].foreign);
        assert_int_equal(traits.untargeted[m], strcmp(cases[i].path, Q) != 0);
        peft_traits_free(&traits);
        close_folder(&f);
    }
}

static void two_adapters_in_one_file_are_refused(void **state)
{
    (void)state;
    struct folder f;
    open_folder(&f, D_FF);
    put(&f, PEFT_PREFIX Q ".lora_A.a.weight", 4, 8, false);
    put(&f, PEFT_PREFIX Q ".lora_A.b.weight", 4, 8, false);
    expect_refused(
        &f, PLAIN,
        ": tensor '" PEFT_PREFIX Q ".lora_A.b.weight': '" PEFT_PREFIX Q
        ".lora_A.a.weight' is the same matrix; expected one of them (two adapters in one "
        "file are not read)");
    close_folder(&f);
}

static void names_that_are_no_module_s_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *message;
    } cases[] = {
        { PEFT_PREFIX "model.layers.2.self_attn.q_prj.lora_A.weight",
          ": tensor '" PEFT_PREFIX "model.layers.2.self_attn.q_prj.lora_A.weight': this model has "
          "no such module; the nearest is 'model.layers.2.self_attn.q_proj'" },
        { PEFT_PREFIX Q ".lora_embedding_A",
          ": tensor '" PEFT_PREFIX Q
          ".lora_embedding_A': this model has no such module; the nearest is '" Q "'" },
        { PEFT_PREFIX Q ".lora_A",
          ": tensor '" PEFT_PREFIX Q ".lora_A': is no LoRA tensor; expected 'base_model.model.', a "
          "module's path and '.lora_A.weight' or '.lora_B.weight'" },
        { PEFT_PREFIX Q ".lora_A.x.y.weight",
          ": tensor '" PEFT_PREFIX Q ".lora_A.x.y.weight': is no LoRA tensor; expected "
          "'base_model.model.', a module's path and '.lora_A.weight' or '.lora_B.weight'" },
        { "lora_A.weight", ": tensor 'lora_A.weight': is no LoRA tensor; expected "
                           "'base_model.model.', a module's path and '.lora_A.weight' or "
                           "'.lora_B.weight'" },
    };
    struct folder f;
    open_folder(&f, D_FF);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put(&f, cases[i].name, 4, 8, false);
        expect_refused(&f, PLAIN, cases[i].message);
    }
    char name[1000]; /* a path longer than any module's */
    memset(name, 'x', sizeof name);
    strcpy(name + 900, ".lora_A.weight");
    put(&f, name, 4, 8, false);
    struct err err = { 0 };
    write_files(&f, PLAIN);
    assert_false(read_files(&f, &err));
    assert_int_equal(err.code, ERR_DATA);
    close_folder(&f);
}

/* ---- parameters ---- */

static void a_matrix_can_be_adapted_as_a_parameter(void **state)
{
    (void)state;
    static const char config[] =
        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\"], "
        "\"target_parameters\": [\"embed_tokens.weight\", \"feed_forward.router.weight\"], "
        "\"rank_pattern\": {\"router.weight\": 2}, \"alpha_pattern\": {\"router.weight\": 3, "
        "\"embed_tokens\": 7}}";
    struct folder f;
    struct peft_traits traits;
    struct err err = { 0 };
    open_folder(&f, D_FF);
    put_pair(&f, PEFT_PREFIX "model.embed_tokens", (int64_t[]){ 4, D }, (int64_t[]){ 11, 4 });
    put_pair(&f, LAYER1 "router", (int64_t[]){ 2, D }, (int64_t[]){ E, 2 });
    expect_read(&f, config);
    /* The embedding's matrix is (vocab, d_model): its change B A is the transpose of ours. */
    const struct lora_slot *embedding = slot_of(&f, "model.embed_tokens");
    for (int64_t k = 0; k < 4; k++) {
        for (int64_t v = 0; v < 11; v++)
            assert_true(embedding->a[k * 11 + v] == (real)value_at(true, v, k));
        for (int64_t i = 0; i < D; i++)
            assert_true(embedding->b[i * 4 + k] == (real)value_at(false, k, i));
    }
    assert_true(embedding->alpha == 8); /* the pattern is of a module, and this is a parameter */
    const struct lora_slot *router = slot_of(&f, "model.layers.1.feed_forward.router");
    assert_int_equal(router->rank, 2);
    assert_true(router->alpha == 3);
    assert_int_equal(f.config.n_target, 3);
    assert_string_equal(f.config.target_modules[2], "feed_forward.router");
    assert_int_equal(f.config.n_rank_pattern, 0);
    assert_true(peft_read_traits(f.dir, f.modules, f.n, &f.config, f.choices, &traits, &err));
    assert_true(traits.router_parameter && !traits.fused_entries);
    assert_true(traits.foreign && !traits.renamed); /* PEFT's own name, which vLLM does not know */
    peft_traits_free(&traits);
    close_folder(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fused_experts_become_each_experts_own),
        cmocka_unit_test(down_alone_has_no_base_layer_either),
        cmocka_unit_test(the_version_tells_where_a_matrix_is_square),
        cmocka_unit_test(fused_tensors_that_do_not_fit_are_refused),
        cmocka_unit_test(what_was_fused_is_written_per_expert),
        cmocka_unit_test(other_names_are_understood),
        cmocka_unit_test(two_adapters_in_one_file_are_refused),
        cmocka_unit_test(names_that_are_no_module_s_are_refused),
        cmocka_unit_test(a_matrix_can_be_adapted_as_a_parameter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
