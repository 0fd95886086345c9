/* Plans of shapes without values, and the choice among them: what `plan` shows from config.json
 * alone, and what a budget makes of a run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/engine.h"
#include "finetune/train/loop.h"
#include "kernels/core/text.h"
#include "tests/support/model.h"
#include "tests/support/tiny_checkpoint.h"

static const char config_name[] = "config.json";

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s", err.text);                                                              \
    } while (0)

static struct plan_bytes plan_of(const struct engine *e, struct plan_shape shape, bool training)
{
    struct err err = { 0 };
    struct plan_bytes bytes;
    const struct plan_subject subject = engine_subject(e, training);
    REQUIRE(plan_measure(&subject, &shape, &bytes, &err));
    assert_int_equal(bytes.total,
                     bytes.weights + bytes.adapter + bytes.saved + bytes.scratch + bytes.copies);
    return bytes;
}

/* ---- plans of shapes alone ---- */

static void open_shapes(struct engine *e, const char *base_model, const struct lora_config *lora)
{
    struct err err = { 0 };
    REQUIRE(engine_open_shapes(
        e,
        &(struct engine_options){ .base_model = base_model,
                                  .compute = { .device = COMPUTE_CPU, .threads = 1 } },
        &err));
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
    for (int policy = RECOMPUTE_LAYER; policy <= RECOMPUTE_NONE; policy++) {
        shape.recompute = (enum recompute)policy;
        const struct plan_bytes training = plan_of(&e, shape, true);
        const struct plan_bytes evaluation = plan_of(&e, shape, false);
        if (evaluation.saved > training.saved || evaluation.scratch > training.scratch)
            fail_msg("%s, %s: saved %zu and scratch %zu bytes, training has %zu and %zu",
                     base_model, recompute_name(shape.recompute), evaluation.saved,
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

static const struct plan_shape some_shape = { 40, 16, RECOMPUTE_SCAN, 0 };

static void expect_same_plan(const char *base_model, bool weights_too)
{
    const struct lora_config lora = { .r = 4, .alpha = 8 };
    struct err err = { 0 };
    struct engine opened = { 0 }, shapes = { 0 };
    open_shapes(&shapes, base_model, &lora);
    REQUIRE(
        engine_open(&opened,
                    &(struct engine_options){ .base_model = base_model,
                                              .compute = { .device = COMPUTE_CPU, .threads = 1 } },
                    &err));
    REQUIRE(engine_choose(&opened, &lora, &err));
    const struct plan_bytes a = plan_of(&opened, some_shape, true),
                            b = plan_of(&shapes, some_shape, true);
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

/* Predicted seconds of a step in passes of this shape. */
static double seconds_of(const struct plan_wish *wish, const struct plan_shape *shape,
                         const struct plan_bytes *bytes)
{
    return bytes->seconds * (double)wish->step_tokens / (double)shape->pass_tokens;
}

/* No shape that fits is predicted to be faster by more than the margin of the choice. */
static void expect_nothing_faster(const struct engine *e, const struct plan_wish *wish,
                                  const struct choice *c)
{
    const double chosen = seconds_of(wish, &c->shape, &c->bytes);
    int n_fit = 0;
    for (int64_t pass = wish->step_tokens; pass >= wish->longest; pass /= 2) {
        for (int64_t chunk = pass; chunk >= 32; chunk /= 2) {
            for (int policy = RECOMPUTE_LAYER; policy <= RECOMPUTE_NONE; policy++) {
                const struct plan_shape shape = { pass, chunk, (enum recompute)policy,
                                                  wish->longest };
                const struct plan_bytes bytes = plan_of(e, shape, true);
                n_fit += bytes.total <= wish->budget;
                if (bytes.total <= wish->budget && seconds_of(wish, &shape, &bytes) < 0.98 * chosen)
                    fail_msg("passes of %d, chunks of %d and %s fit and take %.3g s, the choice "
                             "%.3g s",
                             (int)pass, (int)chunk, recompute_name(shape.recompute),
                             seconds_of(wish, &shape, &bytes), chosen);
            }
        }
    }
    assert_true(n_fit > 0);
}

static void the_fastest_that_fits_is_chosen_down_to_the_smallest(void **state)
{
    (void)state;
    struct engine e = { 0 };
    struct err err = { 0 };
    struct plan_wish wish = {
        .step_tokens = 1200, .longest = 300, .recompute = -1, .budget = SIZE_MAX
    };
    open_shapes(&e, "tests/fixtures/models/dense_mqa_tied",
                &(struct lora_config){ .r = 4, .alpha = 8 });
    struct choice c = choose(&e, &wish, &err);
    assert_int_equal(c.shape.recompute, RECOMPUTE_NONE);
    double last = 0;
    int n = 0;
    struct choice smallest = c;
    bool policies[3] = { false };
    for (; c.fits; n++) {
        assert_true(c.bytes.total <= wish.budget);
        expect_nothing_faster(&e, &wish, &c);
        /* Less memory is never faster. */
        assert_true(seconds_of(&wish, &c.shape, &c.bytes) >= 0.98 * last);
        last = seconds_of(&wish, &c.shape, &c.bytes);
        policies[c.shape.recompute] = true;
        smallest = c;
        wish.budget = c.bytes.total - 1;
        c = choose(&e, &wish, &err);
    }
    assert_true(n >= 5);
    for (int p = 0; p < 3; p++)
        assert_true(policies[p]);
    char needed[32], budget[32], expected_text[512];
    text_bytes(needed, (double)smallest.bytes.total);
    text_bytes(budget, (double)wish.budget);
    snprintf(expected_text, sizeof expected_text,
             "the run does not fit: it needs %s with passes of %d tokens, chunks of %d and "
             "gradient_checkpointing: layer; the budget is %s. Lower sequence_len, lora_r or "
             "chunk_tokens, leave "
             "gradient_checkpointing at auto, or raise memory_budget",
             needed, (int)smallest.shape.pass_tokens, (int)smallest.shape.chunk_tokens, budget);
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
        { { 1200, 300, 32, 0, RECOMPUTE_SCAN, SIZE_MAX }, { 1200, 32, RECOMPUTE_SCAN, 300 } },
        { { 1200, 300, 4096, 0, -1, SIZE_MAX }, { 1200, 1200, RECOMPUTE_NONE, 300 } },
        { { 20000, 100, 0, 0, RECOMPUTE_LAYER, SIZE_MAX },
          { PLAN_PASS_TOKENS, PLAN_CHUNK_TOKENS, RECOMPUTE_LAYER, 100 } },
        { { 20000, 10000, 0, 0, -1, SIZE_MAX },
          { 10000, PLAN_CHUNK_TOKENS, RECOMPUTE_NONE, 10000 } },
        { { 1, 1, 0, 0, -1, SIZE_MAX }, { 1, 1, RECOMPUTE_NONE, 1 } },
        { { 1200, 100, 32, 400, -1, SIZE_MAX }, { 400, 32, RECOMPUTE_NONE, 100 } },
        { { 1200, 300, 32, 200, -1, SIZE_MAX }, { 300, 32, RECOMPUTE_NONE, 300 } },
    };
    struct engine e = { 0 };
    struct err err = { 0 };
    open_shapes(&e, "tests/fixtures/models/dense_mqa_tied",
                &(struct lora_config){ .r = 4, .alpha = 8 });
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct choice c = choose(&e, &cases[i].wish, &err);
        assert_true(c.fits);
        assert_int_equal(c.shape.pass_tokens, cases[i].expected.pass_tokens);
        assert_int_equal(c.shape.chunk_tokens, cases[i].expected.chunk_tokens);
        assert_int_equal(c.shape.recompute, cases[i].expected.recompute);
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
        cmocka_unit_test(evaluation_fits_in_the_plan_of_training),
        cmocka_unit_test(shapes_alone_give_the_plan_of_opened_weights),
        cmocka_unit_test(the_published_recipe_trains_as_many_parameters_as_its_authors_say),
        cmocka_unit_test(the_fastest_that_fits_is_chosen_down_to_the_smallest),
        cmocka_unit_test(what_is_asked_for_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
