/* What must not matter: the chunk size, the recompute policy, the number of threads, and a
 * document's company in the stream. */
#include "tests/support/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* To rounding: sums over tokens in another order. */
static const double tolerance = REAL_IS_DOUBLE ? 1e-12 : 2e-5;

struct outcome {
    double loss;
    real *grads;
};

/* The shorter documents, one-token ones and one longer than a scan tile among them: 49 tokens. */
static const int32_t some[] = { 0, 1, 2, 3, 5, 6 };

/* With dropout, so that its keys are tested too. */
static struct outcome run(struct test_model *m, const struct stream *s)
{
    const struct jamba_pass pass = { .backward = true,
                                     .grad_scale = (real)0.01,
                                     .aux_scale = 1e-3,
                                     .dropout = { .rate = 0.2, .seed = 5, .step = 3 } };
    struct outcome o = { .grads = test_zeros(m->adapter.n_param) };
    memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
    jamba_begin_step(&m->jamba);
    jamba_run(&m->jamba, s, &pass, NULL);
    const struct jamba_losses l = jamba_end_step(&m->jamba);
    memcpy(o.grads, m->adapter.grads, (size_t)m->adapter.n_param * sizeof(real));
    o.loss = l.loss_sum + pass.aux_scale * l.aux_sum;
    return o;
}

static void assert_close(const struct test_model *m, struct outcome a, struct outcome b)
{
    assert_true(fabs(a.loss - b.loss) <= tolerance * fabs(b.loss));
    assert_true(test_relative_error(a.grads, b.grads, m->adapter.n_param, 1e-6) < tolerance);
}

static void assert_same(const struct test_model *m, struct outcome a, struct outcome b)
{
    assert_true(a.loss == b.loss);
    assert_memory_equal(a.grads, b.grads, (size_t)m->adapter.n_param * sizeof(real));
}

static void every_chunk_size_gives_the_same_result(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        struct stream s;
        test_stream_of(&m, some, sizeof some / sizeof *some, &s);
        assert_int_equal(s.n_tok, 49);
        const struct outcome whole = run(&m, &s);
        for (int64_t chunk = 1; chunk < s.n_tok; chunk++) {
            m.jamba.chunk_tokens = chunk;
            const struct outcome o = run(&m, &s);
            assert_close(&m, o, whole);
            test_release(o.grads);
        }
        test_stream_free(&s);
        test_release(whole.grads);
        test_model_close(&m);
    }
}

static void every_policy_gives_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        m.jamba.chunk_tokens = 10;
        const struct outcome layer = run(&m, &m.stream);
        static const enum recompute policies[] = { RECOMPUTE_SCAN, RECOMPUTE_NONE };
        for (int p = 0; p < 2; p++) {
            m.jamba.recompute = policies[p];
            const struct outcome o = run(&m, &m.stream);
            assert_same(&m, o, layer);
            test_release(o.grads);
        }
        test_release(layer.grads);
        test_model_close(&m);
    }
}

static void every_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        const struct outcome one = run(&m, &m.stream);
        static const int counts[] = { 2, 3, 4 };
        for (int t = 0; t < 3; t++) {
            m.t.be.n_thread = counts[t];
            const struct outcome o = run(&m, &m.stream);
            assert_same(&m, o, one);
            test_release(o.grads);
        }
        test_release(one.grads);
        test_model_close(&m);
    }
}

static void documents_in_one_stream_equal_each_alone(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        m.jamba.chunk_tokens = 12;
        const struct outcome together = run(&m, &m.stream);
        struct outcome sum = { .grads = test_zeros(m.adapter.n_param) };
        for (int32_t d = 0; d < (int32_t)m.stream.n_doc; d++) {
            struct stream one;
            test_stream_of(&m, &d, 1, &one);
            one.first_index = m.stream.doc_start[d]; /* its place in the step: dropout keys */
            const struct outcome o = run(&m, &one);
            sum.loss += o.loss;
            for (int64_t p = 0; p < m.adapter.n_param; p++)
                sum.grads[p] += o.grads[p];
            test_release(o.grads);
            test_stream_free(&one);
        }
        assert_close(&m, sum, together);
        test_release(sum.grads);
        test_release(together.grads);
        test_model_close(&m);
    }
}

/* An adapter of m's modules in layers `from` and above and in the head, with m's values. */
static void open_upper(const struct test_model *m, int64_t from, struct arena *arena,
                       struct lora_adapter *upper)
{
    struct err err = { 0 };
    struct lora_choice *choices = calloc((size_t)m->n_module, sizeof *choices);
    assert_non_null(choices);
    for (int64_t i = 0; i < m->n_module; i++) {
        const struct lora_module *module = &m->modules[i];
        choices[i] = m->choices[i];
        choices[i].on = choices[i].on && (module->layer >= from || module->kind == LORA_LM_HEAD);
    }
    const struct lora_adapter_args args = {
        m->modules, m->n_module, choices, &m->t.be, arena, true
    };
    if (!lora_adapter_init(upper, &args, &err))
        fail_msg("%s", err.text);
    for (int64_t i = 0; i < m->n_module; i++) {
        const struct lora_slot *to = lora_adapter_slot(upper, i);
        const struct lora_slot *own = lora_adapter_slot(&m->adapter, i);
        if (to == NULL)
            continue;
        memcpy(to->a, own->a, (size_t)(own->rank * own->module->in) * sizeof(real));
        memcpy(to->b, own->b, (size_t)(own->rank * own->module->out) * sizeof(real));
    }
    free(choices);
}

/* The backward ends at the lowest adapted layer. What it leaves out is nobody's gradient: those of
 * an adapter that has no say below (B = 0) are the same. */
static void an_adapter_of_the_upper_layers_has_the_same_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        m.jamba.chunk_tokens = 12;
        for (int64_t from = 1; from <= weights_config(m.weights)->num_hidden_layers; from++) {
            struct lora_adapter upper = { 0 };
            struct arena arena;
            struct err err = { 0 };
            assert_true(arena_init(&arena, "upper", (size_t)64 << 20, &err));
            open_upper(&m, from, &arena, &upper);
            for (int64_t k = 0; k < m.adapter.n_slot; k++) {
                const struct lora_slot *s = &m.adapter.slots[k];
                if (s->module->layer < from && s->module->kind != LORA_LM_HEAD)
                    memset(s->b, 0, (size_t)(s->rank * s->module->out) * sizeof(real));
            }
            struct outcome all = run(&m, &m.stream);
            m.jamba.adapter = &upper;
            memset(upper.grads, 0, (size_t)upper.n_param * sizeof(real));
            struct outcome alone = run(&m, &m.stream);
            m.jamba.adapter = &m.adapter;
            assert_true(alone.loss == all.loss);
            for (int64_t k = 0; k < upper.n_slot; k++) {
                const struct lora_slot *s = &upper.slots[k];
                const struct lora_slot *own = lora_adapter_slot(&m.adapter, s->module - m.modules);
                assert_memory_equal(s->da, all.grads + (own->da - m.adapter.grads),
                                    (size_t)(s->rank * (s->module->in + s->module->out)) *
                                        sizeof(real));
            }
            test_release(all.grads);
            test_release(alone.grads);
            lora_adapter_free(&upper);
            arena_free(&arena);
        }
        test_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_size_gives_the_same_result),
        cmocka_unit_test(every_policy_gives_the_same_bits),
        cmocka_unit_test(every_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(documents_in_one_stream_equal_each_alone),
        cmocka_unit_test(an_adapter_of_the_upper_layers_has_the_same_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
