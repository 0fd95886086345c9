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
    struct jamba_result r;
    const struct jamba_pass pass = { .backward = true,
                                     .grad_scale = (real)0.01,
                                     .aux_scale = 1e-3,
                                     .dropout = { .rate = 0.2, .seed = 5, .step = 3 } };
    struct outcome o = { .grads = test_zeros(m->adapter.n_param) };
    memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
    jamba_run(&m->jamba, s, &pass, &r);
    memcpy(o.grads, m->adapter.grads, (size_t)m->adapter.n_param * sizeof(real));
    o.loss = r.loss_sum + pass.aux_scale * r.aux_sum;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_size_gives_the_same_result),
        cmocka_unit_test(every_policy_gives_the_same_bits),
        cmocka_unit_test(every_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(documents_in_one_stream_equal_each_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
