/* The plan against what a pass takes. Where the data fills its bounds (a pass of exactly
 * pass_tokens tokens, each with a target, and the same top_k experts for all of them) the arenas'
 * peaks are the plan to the byte; nowhere are they above it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/engine.h"
#include "finetune/train/loop.h"
#include "finetune/train/optim.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/model.h"
#include "tests/support/tiny_checkpoint.h"

enum { PASS_TOKENS = 40, N_POLICY = 3 };

static const int64_t chunk_sizes[] = { 7, 16, PASS_TOKENS };
enum { N_CHUNK = 3 };

static const char config_name[] = "config.json";

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s", err.text);                                                              \
    } while (0)

/* ---- checkpoints ---- */

static void copy_file(const char *from, const char *folder, const char *name)
{
    struct err err = { 0 };
    char *data = NULL, *path = file_join(from, name);
    size_t size = 0;
    REQUIRE(file_read(path, 1 << 20, &data, &size, &err));
    tiny_file_write(folder, name, data, size);
    free(data);
    free(path);
}

/* The tensors of one file and another, those of routers as zeros. */
struct merged {
    struct safetensors files[4];
    struct safetensors_tensor tensors[256];
    int n_file;
    int64_t n;
};

static void merge_file(struct merged *m, const char *path)
{
    static const char zeros[4096];
    struct err err = { 0 };
    assert_true(m->n_file < 4);
    struct safetensors *st = &m->files[m->n_file++];
    REQUIRE(safetensors_open(path, st, &err));
    for (int64_t i = 0; i < st->n_tensor; i++) {
        assert_true(m->n < 256);
        struct safetensors_tensor *t = &m->tensors[m->n++];
        *t = st->tensors[i];
        if (!text_ends_with(t->name, "router.weight"))
            continue;
        assert_true(t->bytes <= sizeof zeros);
        t->data = zeros;
    }
}

/* The checkpoint (of one file, or four shards) with routers of zeros: all logits are equal, and ties go to the
 * lower index, so that every token chooses the experts 0 .. top_k - 1. */
static char *with_one_choice(const char *from)
{
    struct err err = { 0 };
    struct merged m = { 0 };
    char path[512];
    char *folder = tiny_scratch_make();
    snprintf(path, sizeof path, "%s/model.safetensors", from);
    if (file_exists(path))
        merge_file(&m, path);
    for (int i = 1; m.n_file != 1 && i <= 4; i++) {
        snprintf(path, sizeof path, "%s/model-%05d-of-00004.safetensors", from, i);
        merge_file(&m, path);
    }
    char *to = file_join(folder, "model.safetensors");
    REQUIRE(safetensors_write(to, m.tensors, m.n, &err));
    copy_file(from, folder, config_name);
    for (int i = 0; i < m.n_file; i++)
        safetensors_close(&m.files[i]);
    free(to);
    return folder;
}

/* A model whose experts are most of it, in BF16: what they take depends on who is chosen. */
static char *wide_experts(void)
{
    char *folder = tiny_scratch_make();
    struct jamba_config config = tiny_config();
    config.intermediate_size = 300;
    config.num_experts = 5;
    tiny_checkpoint_write(folder, &config, &(struct tiny_options){ .dtype = DTYPE_BF16 });
    return folder;
}

/* The fixtures, and the wide experts; as they are, or with every token choosing the same experts. For the
 * caller to remove. */
enum { WIDE = TEST_N_MODEL, N_MODEL };

static char *make_model(int i, bool one_choice)
{
    char fixture[128];
    snprintf(fixture, sizeof fixture, "tests/fixtures/models/%s", test_model_names[i < WIDE ? i : 0]);
    char *wide = i == WIDE ? wide_experts() : NULL;
    if (!one_choice && wide != NULL)
        return wide;
    char *folder = with_one_choice(wide != NULL ? wide : fixture);
    if (wide != NULL)
        tiny_scratch_remove(wide);
    return folder;
}

static const char *model_name(int i)
{
    return i < WIDE ? test_model_names[i] : "wide experts";
}

/* ---- a case ---- */

struct setting {
    struct plan_shape shape;
    bool training, dropout, balance;
    int threads; /* each has scratch of its own */
    bool bf16;   /* GEMMs on rounded operands, which need scratch */
};

/* A fresh adapter on nearly every kind of module, of all layers or (layer >= 0) of one: B is zero,
 * so that it changes no choice of experts. */
static void open_adapted(struct engine *e, const char *base_model, const struct setting *s,
                         int64_t layer)
{
    static const char *const targets[] = { "embed_tokens", "lm_head",   "q_proj",  "v_proj",
                                           "o_proj",       "in_proj",   "dt_proj", "x_proj",
                                           "out_proj",     "gate_proj", "up_proj", "down_proj" };
    const struct lora_config all = { .r = 4,
                                     .alpha = 8,
                                     .target_modules = (char **)(uintptr_t)targets,
                                     .n_target = sizeof targets / sizeof *targets };
    const struct lora_config one = { .r = 4,
                                     .alpha = 8,
                                     .all_linear = true,
                                     .layers_to_transform = &layer,
                                     .n_layer_to_transform = 1 };
    struct err err = { 0 };
    const struct engine_options options = { .base_model = base_model, .threads = s->threads, .bf16 = s->bf16 };
    REQUIRE(engine_open(e, &options, &err));
    REQUIRE(engine_choose(e, layer < 0 ? &all : &one, &err));
}

static struct plan_bytes plan_of(const struct engine *e, const struct setting *s)
{
    struct err err = { 0 };
    struct plan_bytes bytes;
    struct plan_subject subject = engine_subject(e, s->training);
    subject.dropout = s->dropout;
    subject.balance = s->balance;
    REQUIRE(plan_measure(&subject, &s->shape, &bytes, &err));
    assert_int_equal(bytes.total, bytes.weights + bytes.adapter + bytes.saved + bytes.scratch);
    return bytes;
}

/* With room to spare: a plan that is too small must show as a number, not as an assert. */
static void allocate(struct engine *e, const struct setting *s, struct plan_bytes bytes)
{
    struct err err = { 0 };
    bytes.adapter = 2 * bytes.adapter + (1 << 20);
    bytes.saved = 4 * bytes.saved + (1 << 20);
    bytes.scratch = 4 * bytes.scratch + (1 << 20);
    REQUIRE(
        engine_allocate(e,
                        &(struct engine_memory){
                            .shape = s->shape, .bytes = bytes, .training = s->training, .seed = 1 },
                        &err));
}

/* n tokens in documents of 1, 9, 17, ... tokens; every `untargeted`-th without a target (0: none).
 */
static void fill(struct stream *s, int64_t n, int64_t vocab, int64_t untargeted)
{
    s->n_tok = n;
    s->n_doc = 0;
    s->n_target = 0;
    for (int64_t t = 0, next = 0; t < n; t++) {
        if (t == next) {
            next = t + 1 + 8 * s->n_doc;
            s->doc_start[s->n_doc++] = t;
        }
        s->ids[t] = (int32_t)((t * 7 + 3) % vocab);
        const bool on = untargeted == 0 || t % untargeted != 0;
        s->targets[t] = on ? (int32_t)((t * 5 + 1) % vocab) : -100;
        s->n_target += on;
    }
    s->doc_start[s->n_doc] = n;
}

static void run(struct engine *e, const struct setting *s)
{
    struct jamba_result r;
    const struct jamba_pass pass = { .backward = s->training,
                                     .grad_scale = s->training ? (real)0.01 : 0,
                                     .aux_scale = s->balance ? 1e-3 : 0,
                                     .dropout = { .rate = s->dropout ? 0.1 : 0, .seed = 1 } };
    jamba_run(&e->jamba, &e->stream, &pass, &r);
    assert_int_equal(r.n_row, e->stream.n_target);
    if (s->training)
        optim_grad_norm(&e->be, &e->adapter);
}

static void expect_peaks(const char *model, const struct setting *s, const struct engine *e,
                         const struct plan_bytes *plan, bool equal)
{
    const struct {
        const struct arena *arena;
        size_t planned;
    } pairs[] = { { &e->adapter_arena, plan->adapter },
                  { &e->saved, plan->saved },
                  { &e->scratch, plan->scratch } };
    for (int i = 0; i < 3; i++) {
        const size_t peak = pairs[i].arena->peak, planned = pairs[i].planned;
        if (equal ? peak != planned : peak > planned)
            fail_msg("%s, %s, chunks of %d, %s%s%s: the %s arena took %zu bytes, planned were %zu",
                     model, recompute_name(s->shape.recompute), (int)s->shape.chunk_tokens,
                     s->training ? "training" : "evaluation", s->dropout ? ", dropout" : "",
                     s->balance ? ", balance" : "", pairs[i].arena->name, peak, planned);
    }
}

/* Calls check for every policy, chunk size, with training and without, dropout and balance on and
 * off. */
static void for_each_setting(const char *model, const char *folder,
                             void (*check)(const char *model, const char *folder,
                                           const struct setting *s))
{
    for (int bits = 0; bits < 8; bits++) {
        for (int i = 0; i < N_POLICY * N_CHUNK; i++) {
            const struct setting s = { .shape = { .pass_tokens = PASS_TOKENS,
                                                  .chunk_tokens = chunk_sizes[i % N_CHUNK],
                                                  .recompute = (enum recompute)(i / N_CHUNK) },
                                       .training = (bits & 1) != 0,
                                       .dropout = (bits & 2) != 0,
                                       .balance = (bits & 4) != 0,
                                       .threads = bits == 1 ? 2 : 1 };
            if (s.training || bits == 0)
                check(model, folder, &s);
        }
    }
}

/* ---- tests ---- */

static void check_full(const char *model, const char *folder, const struct setting *s)
{
    struct engine e = { 0 };
    open_adapted(&e, folder, s, -1);
    const struct plan_bytes plan = plan_of(&e, s);
    allocate(&e, s, plan);
    fill(&e.stream, s->shape.pass_tokens, weights_config(e.weights)->vocab_size, 0);
    run(&e, s);
    expect_peaks(model, s, &e, &plan, true);
    engine_close(&e);
}

/* Nothing is kept for the layers below the lowest adapter. */
static void check_third_layer_alone(const char *model, const char *folder, const struct setting *s)
{
    struct engine e = { 0 };
    open_adapted(&e, folder, s, 2);
    const struct plan_bytes plan = plan_of(&e, s);
    allocate(&e, s, plan);
    fill(&e.stream, s->shape.pass_tokens, weights_config(e.weights)->vocab_size, 0);
    run(&e, s);
    expect_peaks(model, s, &e, &plan, true);
    engine_close(&e);
}

static void a_full_pass_takes_the_plan_to_the_byte(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        char *folder = checkpoint_of_one_choice(test_model_names[i]);
        for_each_setting(test_model_names[i], folder, check_full);
        tiny_scratch_remove(folder);
    }
}

static void an_adapter_high_up_takes_the_plan_to_the_byte(void **state)
{
    (void)state;
    for (int i = 0; i < 2;
         i++) { /* the dense one and the one of four experts: more than three layers */
        char *folder = checkpoint_of_one_choice(test_model_names[i]);
        for_each_setting(test_model_names[i], folder, check_third_layer_alone);
        tiny_scratch_remove(folder);
    }
}

/* Passes of ordinary data, one after the other: full and not, with targets and with hardly any. */
static void check_ordinary(const char *model, const char *folder, const struct setting *s)
{
    static const int64_t lengths[] = { PASS_TOKENS, PASS_TOKENS - 1, 17, 8, 1 };
    struct engine e = { 0 };
    (void)folder;
    char path[128];
    snprintf(path, sizeof path, "tests/fixtures/models/%s", model);
    open_adapted(&e, path, s, -1);
    const struct plan_bytes plan = plan_of(&e, s);
    allocate(&e, s, plan);
    for (int i = 0; i < 5; i++) {
        fill(&e.stream, lengths[i], weights_config(e.weights)->vocab_size, 1 + i);
        run(&e, s);
        expect_peaks(model, s, &e, &plan, false);
    }
    engine_close(&e);
}

static void ordinary_data_never_takes_more_than_the_plan(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++)
        for_each_setting(test_model_names[i], NULL, check_ordinary);
}

/* ---- plans of shapes alone ---- */

static void open_shapes(struct engine *e, const char *base_model, const struct lora_config *lora)
{
    struct err err = { 0 };
    REQUIRE(engine_open_shapes(
        e, &(struct engine_options){ .base_model = base_model, .threads = 2 }, &err));
    REQUIRE(engine_choose(e, lora, &err));
}

/* Jamba-v0.1's, as published. */
static const char config_52b[] =
    "{\"architectures\": [\"JambaForCausalLM\"], \"model_type\": \"jamba\", \"vocab_size\": 65536, "
    "\"hidden_size\": 4096, \"intermediate_size\": 14336, \"num_hidden_layers\": 32, "
    "\"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"hidden_act\": \"silu\", "
    "\"initializer_range\": 0.02, \"rms_norm_eps\": 1e-06, \"use_cache\": true, "
    "\"output_router_logits\": false, \"router_aux_loss_coef\": 0.001, \"pad_token_id\": 0, "
    "\"bos_token_id\": 1, \"eos_token_id\": 2, \"sliding_window\": null, "
    "\"attention_dropout\": 0.0, \"num_experts_per_tok\": 2, \"num_experts\": 16, "
    "\"expert_layer_period\": 2, \"expert_layer_offset\": 1, \"attn_layer_period\": 8, "
    "\"attn_layer_offset\": 4, \"use_mamba_kernels\": true, \"mamba_d_state\": 16, "
    "\"mamba_d_conv\": 4, \"mamba_expand\": 2, \"mamba_dt_rank\": 256, \"mamba_conv_bias\": true, "
    "\"mamba_proj_bias\": false, \"mamba_inner_layernorms\": true, \"tie_word_embeddings\": false, "
    "\"torch_dtype\": \"bfloat16\"}";

static char *folder_of_52b(char base_model[512], const char *prefix)
{
    char *folder = tiny_scratch_make();
    snprintf(base_model, 512, "%srandom:%s/%s", prefix, folder, config_name);
    tiny_file_write(folder, config_name, config_52b, strlen(config_52b));
    return folder;
}

/* An evaluation between steps runs in the arenas of the training: it must need no more of either.
 */
static void expect_evaluation_fits(const char *base_model, struct plan_shape shape)
{
    const struct lora_config lora = { .r = 4, .alpha = 8 };
    struct engine e = { 0 };
    open_shapes(&e, base_model, &lora);
    for (int policy = 0; policy < N_POLICY; policy++) {
        struct setting s = { .shape = shape, .training = true };
        s.shape.recompute = (enum recompute)policy;
        const struct plan_bytes training = plan_of(&e, &s);
        s.training = false;
        const struct plan_bytes evaluation = plan_of(&e, &s);
        if (evaluation.saved > training.saved || evaluation.scratch > training.scratch)
            fail_msg("%s, %s: saved %zu and scratch %zu bytes, training has %zu and %zu",
                     base_model, recompute_name(s.shape.recompute), evaluation.saved,
                     evaluation.scratch, training.saved, training.scratch);
    }
    engine_close(&e);
}

static void evaluation_fits_in_the_plan_of_training(void **state)
{
    (void)state;
    char base_model[512];
    char *folder = folder_of_52b(base_model, "");
    for (int64_t chunk = 64; chunk <= PLAN_PASS_TOKENS; chunk *= 4) {
        const struct plan_shape shape = { .pass_tokens = PLAN_PASS_TOKENS, .chunk_tokens = chunk };
        expect_evaluation_fits(base_model, shape);
        for (int i = 0; i < TEST_N_MODEL; i++) {
            char path[160];
            snprintf(path, sizeof path, "tests/fixtures/models/%s", test_model_names[i]);
            expect_evaluation_fits(path, shape);
        }
    }
    tiny_scratch_remove(folder);
}

static const struct setting plain_training = { .shape = { PASS_TOKENS, 16, RECOMPUTE_SCAN },
                                               .training = true };

static void expect_same_plan(const char *base_model, bool weights_too)
{
    const struct lora_config lora = { .r = 4, .alpha = 8 };
    struct err err = { 0 };
    struct engine opened = { 0 }, shapes = { 0 };
    open_shapes(&shapes, base_model, &lora);
    REQUIRE(engine_open(&opened, &(struct engine_options){ .base_model = base_model, .threads = 2 },
                        &err));
    REQUIRE(engine_choose(&opened, &lora, &err));
    const struct plan_bytes a = plan_of(&opened, &plain_training),
                            b = plan_of(&shapes, &plain_training);
    assert_int_equal(a.adapter, b.adapter);
    assert_int_equal(a.saved, b.saved);
    assert_int_equal(a.scratch, b.scratch);
    if (weights_too)
        assert_int_equal(a.weights, b.weights);
    /* A checkpoint is mapped whole, headers and what is converted at load included. */
    assert_true(a.weights >= b.weights && a.weights <= 2 * b.weights);
    engine_close(&opened);
    engine_close(&shapes);
}

static void shapes_alone_give_the_plan_of_opened_weights(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        char path[160];
        snprintf(path, sizeof path, "tests/fixtures/models/%s", test_model_names[i]);
        expect_same_plan(path, false);
        snprintf(path, sizeof path, "random:tests/fixtures/models/%s/config.json",
                 test_model_names[i]);
        expect_same_plan(path, true);
    }
}

/* The plan of the recipe that ships, for that config: its trained parameters. */
static int64_t plan_published(const char *base_model, const char *more)
{
    const char *const overrides[] = { base_model, "precision=auto", "memory_budget=1TiB", more };
    struct recipe recipe = { 0 };
    struct recipe_report report = { 0 };
    struct trainer t = { 0 };
    struct lora_summary summary;
    struct err err = { 0 };
    if (!recipe_load("recipes/jamba-mini.yaml", overrides, more == NULL ? 3 : 4, RECIPE_NEED_TRAIN,
                     &recipe, &report))
        fail_msg("%s", report.errors.item[0]);
    REQUIRE(trainer_open_shapes(&t, &recipe, &err));
    REQUIRE(lora_summarize(t.engine.modules, t.engine.n_module, t.engine.choices, &summary, &err));
    /* In BF16 but for the vectors and the small Mamba tensors, which are computed with as they are
     * kept. */
    const double stored = 2 * (double)jamba_param_count(weights_config(t.engine.weights));
    assert_true((double)t.bytes.weights > stored && (double)t.bytes.weights < 1.001 * stored);
    /* Parameters, gradients and two moments. */
    assert_true(t.bytes.adapter >= 4 * sizeof(real) * (size_t)summary.total.n_param);
    assert_true(t.bytes.adapter <
                4 * sizeof(real) * (size_t)summary.total.n_param + 4 * ARENA_ALIGN);
    assert_int_equal(t.shape.pass_tokens, PLAN_PASS_TOKENS);
    assert_int_equal(t.shape.chunk_tokens, PLAN_CHUNK_TOKENS);
    trainer_close(&t);
    recipe_free(&recipe);
    recipe_report_free(&report);
    return summary.total.n_param;
}

static void the_published_recipe_trains_as_many_parameters_as_its_authors_say(void **state)
{
    (void)state;
    char base_model[512];
    char *folder = folder_of_52b(base_model, "base_model=");
    assert_int_equal(plan_published(base_model, NULL), 130710528);
    assert_int_equal(plan_published(base_model, "lora_target_modules.10=o_proj"), 130972672);
    tiny_scratch_remove(folder);
}

/* ---- choosing ---- */

struct choice {
    struct plan_shape shape;
    struct plan_bytes bytes;
    bool fits;
};

static struct choice choose(const struct engine *e, const struct plan_wish *wish, struct err *err)
{
    struct choice c;
    const struct plan_subject subject = engine_subject(e, true);
    c.fits = plan_choose(&subject, wish, &c.shape, &c.bytes, err);
    return c;
}

static void
a_smaller_budget_takes_smaller_passes_then_recomputation_then_smaller_chunks(void **state)
{
    (void)state;
    static const struct plan_shape expected[] = {
        { 1200, 1200, RECOMPUTE_NONE }, { 600, 600, RECOMPUTE_NONE },
        { 300, 300, RECOMPUTE_NONE },   { 300, 300, RECOMPUTE_SCAN },
        { 300, 300, RECOMPUTE_LAYER },  { 300, 150, RECOMPUTE_LAYER },
        { 300, 75, RECOMPUTE_LAYER },   { 300, 37, RECOMPUTE_LAYER },
    };
    enum { N = sizeof expected / sizeof *expected };
    struct engine e = { 0 };
    struct err err = { 0 };
    struct plan_wish wish = {
        .step_tokens = 1200, .longest = 300, .recompute = -1, .budget = SIZE_MAX
    };
    open_adapted(&e, "tests/fixtures/models/dense_mqa_tied", &plain_training, -1);
    struct choice c = { 0 };
    for (int i = 0; i < N; i++) {
        c = choose(&e, &wish, &err);
        assert_true(c.fits && c.bytes.total <= wish.budget);
        assert_int_equal(c.shape.pass_tokens, expected[i].pass_tokens);
        assert_int_equal(c.shape.chunk_tokens, expected[i].chunk_tokens);
        assert_int_equal(c.shape.recompute, expected[i].recompute);
        wish.budget = c.bytes.total - 1;
    }
    char needed[32], budget[32], expected_text[512];
    text_bytes(needed, (double)c.bytes.total);
    text_bytes(budget, (double)wish.budget);
    snprintf(expected_text, sizeof expected_text,
             "the run does not fit: it needs %s with passes of 300 tokens, chunks of 37 and "
             "gradient_checkpointing: layer; the budget is %s. Lower sequence_len, lora_r or "
             "chunk_tokens, leave "
             "gradient_checkpointing at auto, or raise memory_budget",
             needed, budget);
    c = choose(&e, &wish, &err);
    assert_false(c.fits);
    assert_int_equal(err.code, ERR_NO_MEMORY);
    assert_string_equal(err.text, expected_text);
    engine_close(&e);
}

static void what_is_asked_for_is_kept(void **state)
{
    (void)state;
    static const struct {
        struct plan_wish wish;
        struct plan_shape expected;
    } cases[] = {
        { { 1200, 300, 32, RECOMPUTE_SCAN, SIZE_MAX }, { 1200, 32, RECOMPUTE_SCAN } },
        { { 1200, 300, 4096, -1, SIZE_MAX }, { 1200, 1200, RECOMPUTE_NONE } },
        { { 20000, 100, 0, RECOMPUTE_LAYER, SIZE_MAX },
          { PLAN_PASS_TOKENS, PLAN_CHUNK_TOKENS, RECOMPUTE_LAYER } },
        { { 20000, 10000, 0, -1, SIZE_MAX }, { 10000, PLAN_CHUNK_TOKENS, RECOMPUTE_NONE } },
        { { 1, 1, 0, -1, SIZE_MAX }, { 1, 1, RECOMPUTE_NONE } },
    };
    struct engine e = { 0 };
    struct err err = { 0 };
    open_adapted(&e, "tests/fixtures/models/dense_mqa_tied", &plain_training, -1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct choice c = choose(&e, &cases[i].wish, &err);
        assert_true(c.fits);
        assert_memory_equal(&c.shape, &cases[i].expected, sizeof c.shape);
        /* And when it cannot fit: refused, not changed. */
        struct plan_wish tight = cases[i].wish;
        tight.budget = 1;
        c = choose(&e, &tight, &err);
        assert_false(c.fits);
        if (tight.recompute >= 0)
            assert_int_equal(c.shape.recompute, tight.recompute);
        if (tight.chunk_tokens > 0)
            assert_true(c.shape.chunk_tokens == tight.chunk_tokens ||
                        c.shape.chunk_tokens == c.shape.pass_tokens);
    }
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_pass_takes_the_plan_to_the_byte),
        cmocka_unit_test(an_adapter_high_up_takes_the_plan_to_the_byte),
        cmocka_unit_test(ordinary_data_never_takes_more_than_the_plan),
        cmocka_unit_test(evaluation_fits_in_the_plan_of_training),
        cmocka_unit_test(shapes_alone_give_the_plan_of_opened_weights),
        cmocka_unit_test(the_published_recipe_trains_as_many_parameters_as_its_authors_say),
        cmocka_unit_test(
            a_smaller_budget_takes_smaller_passes_then_recomputation_then_smaller_chunks),
        cmocka_unit_test(what_is_asked_for_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
