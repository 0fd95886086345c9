/* The model against transformers 4.57.6 and peft 0.18.1 (tests/reference/make_models.py):
 * log-probabilities, loss and every adapter gradient of five tiny Jambas, with adapters on every
 * kind of module at once. */
#include "tests/support/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The goldens are float64 results stored as F32. In float the program must agree as transformers'
 * own float32 run does (4.4e-6 at worst, measured by make_models.py --check), with a margin of two.
 */
static const double tolerance = REAL_IS_DOUBLE ? 2e-7 : 1e-5;

/* Gradients smaller than this, in norm, are compared absolutely: a tenth of the smallest one that
 * is not zero. */
static const double gradient_floor = 1e-4;

/* In float a document of two tokens leaves a router a gradient of 0.002: what remains of products
 * that cancel. 6e-6 to 3e-5 of it is rounding, depending on compiler and instruction set. */
static const double short_gradient_floor = REAL_IS_DOUBLE ? 1e-4 : 1e-2;

static void check_gradients(const struct test_model *m, const char *prefix, double floor)
{
    int compared = 0;
    for (int64_t i = 0; i < m->adapter.n_slot; i++) {
        const struct lora_slot *s = &m->adapter.slots[i];
        const bool embedding = s->module->kind == LORA_EMBED_TOKENS;
        for (int b = 0; b < 2; b++) {
            char name[256];
            snprintf(name, sizeof name, "%s.base_model.model.%s.lora_%s%s%s", prefix,
                     s->module->path, embedding ? "embedding_" : "", b ? "B" : "A",
                     embedding ? "" : ".weight");
            const int64_t n = s->rank * (b ? s->module->out : s->module->in);
            const int64_t size = embedding && b ? s->rank * s->module->out : n;
            real *expected = test_golden(m, name, size);
            const double error = test_relative_error(b ? s->db : s->da, expected, size, floor);
            if (!(error < tolerance))
                fail_msg("%s: relative error %.3g", name, error);
            test_release(expected);
            compared++;
        }
    }
    assert_true(compared >= 2 * 14);
}

static void check_model(const char *name)
{
    struct test_model m;
    test_model_open(&m, name, "golden.safetensors");
    const int64_t n = m.stream.n_tok;
    /* The base alone. */
    m.jamba.adapter = NULL;
    struct jamba_result r = test_run(&m, &m.stream, false);
    real *logprob = test_golden(&m, "logprob", n), *ours = test_zeros(n);
    for (int64_t i = 0; i < r.n_row; i++)
        ours[r.rows[i]] = r.logprob[i];
    assert_int_equal(r.n_row, m.stream.n_target);
    assert_true(test_relative_error(ours, logprob, n, 1e-3) < tolerance);
    assert_true(fabs(r.loss_sum / (double)r.n_row - test_golden_double(&m, "loss")) < tolerance);
    /* With the adapter. */
    m.jamba.adapter = &m.adapter;
    m.jamba.chunk_tokens = 16;
    r = test_run(&m, &m.stream, true);
    assert_true(fabs(r.loss_sum / (double)r.n_row - test_golden_double(&m, "lora_loss")) <
                tolerance);
    check_gradients(&m, "grad", gradient_floor);
    test_release(logprob);
    test_release(ours);
    test_model_close(&m);
}

static void dense_mqa_tied_agrees(void **state)
{
    (void)state;
    check_model("dense_mqa_tied");
}

static void moe_gqa_untied_agrees(void **state)
{
    (void)state;
    check_model("moe_gqa_untied");
}

static void projection_biases_agree(void **state)
{
    (void)state;
    check_model("proj_bias");
}

static void odd_sizes_agree(void **state)
{
    (void)state;
    check_model("odd_sizes");
}

static void bf16_shards_agree(void **state)
{
    (void)state;
    check_model("bf16_sharded");
}

static void experts_without_tokens_have_zero_gradients(void **state)
{
    (void)state;
    static const char *const names[] = { "moe_gqa_untied", "odd_sizes", "bf16_sharded" };
    for (int i = 0; i < 3; i++) {
        struct test_model m;
        test_model_open(&m, names[i], "golden.safetensors");
        struct stream s;
        const struct safetensors_tensor *doc = safetensors_find(&m.golden, "short_doc");
        int32_t which;
        assert_non_null(doc);
        memcpy(&which, doc->data, sizeof which);
        test_stream_of(&m, &which, 1, &s);
        const struct jamba_result r = test_run(&m, &s, true);
        assert_true(fabs(r.loss_sum / (double)r.n_row - test_golden_double(&m, "short_loss")) <
                    tolerance);
        check_gradients(&m, "short_grad", short_gradient_floor);
        test_stream_free(&s);
        test_model_close(&m);
    }
}

static void load_balancing_loss_agrees(void **state)
{
    (void)state;
    static const char *const names[] = { "moe_gqa_untied", "odd_sizes", "bf16_sharded" };
    for (int i = 0; i < 3; i++) {
        struct test_model m;
        test_model_open(&m, names[i], "golden.safetensors");
        m.jamba.chunk_tokens = 20;
        const double coef = test_golden_double(&m, "aux_coef");
        const struct jamba_pass pass = { .backward = true,
                                         .grad_scale = (real)1 / (real)m.stream.n_target,
                                         .aux_scale = coef / (double)m.stream.n_tok };
        memset(m.adapter.grads, 0, (size_t)m.adapter.n_param * sizeof(real));
        jamba_begin_step(&m.jamba);
        jamba_run(&m.jamba, &m.stream, &pass, NULL);
        const struct jamba_losses l = jamba_end_step(&m.jamba);
        const double loss = l.loss_sum / (double)m.stream.n_target + pass.aux_scale * l.aux_sum;
        assert_true(fabs(loss - test_golden_double(&m, "aux_loss")) < tolerance);
        check_gradients(&m, "aux_grad", gradient_floor);
        test_model_close(&m);
    }
}

static void legacy_names_are_the_same_model(void **state)
{
    (void)state;
    struct test_model m;
    struct err err = { 0 };
    test_model_open(&m, "moe_gqa_untied", "golden.safetensors");
    const double loss = test_run(&m, &m.stream, false).loss_sum;
    struct weights *legacy = weights_open("tests/fixtures/models/moe_gqa_untied/legacy", 0, &err);
    if (legacy == NULL)
        fail_msg("%s", err.text);
    m.jamba.weights = legacy;
    assert_true(test_run(&m, &m.stream, false).loss_sum == loss);
    weights_close(legacy);
    test_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_mqa_tied_agrees),
        cmocka_unit_test(moe_gqa_untied_agrees),
        cmocka_unit_test(projection_biases_agree),
        cmocka_unit_test(odd_sizes_agree),
        cmocka_unit_test(bf16_shards_agree),
        cmocka_unit_test(experts_without_tokens_have_zero_gradients),
        cmocka_unit_test(load_balancing_loss_agrees),
        cmocka_unit_test(legacy_names_are_the_same_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
