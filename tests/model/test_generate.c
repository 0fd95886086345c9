/* Generation's walk against the golden logits: a document fed in pieces of any size, sequences side
 * by side, memory, and what is refused. */
#include "tests/support/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/engine.h"

/* As in test_golden.c: the goldens are float64 results stored as F32. */
static const double tolerance = REAL_IS_DOUBLE ? 2e-7 : 1e-5;

static struct jamba_state *new_state(const struct test_model *m)
{
    struct err err = { 0 };
    struct jamba_state *state = jamba_state_new(&m->jamba, &err);
    if (state == NULL)
        fail_msg("%s", err.text);
    return state;
}

static void feed(struct test_model *m, struct jamba_state *state, const int32_t *ids, int64_t n,
                 real *logits)
{
    struct err err = { 0 };
    if (!jamba_feed(&m->jamba, state, ids, n, logits, &err))
        fail_msg("%s", err.text);
}

/* Feeds a document `piece` tokens at a time; after each piece the logits are the golden's at that
 * token. */
static void check_document(struct test_model *m, const real *golden, int64_t doc, int64_t piece)
{
    const int64_t vocab = m->jamba.config->vocab_size, end = m->stream.doc_start[doc + 1];
    struct jamba_state *state = new_state(m);
    real *logits = test_zeros(vocab);
    int64_t fed = 0;
    for (int64_t t = m->stream.doc_start[doc]; t < end;) {
        const int64_t n = piece < end - t ? piece : end - t;
        feed(m, state, m->stream.ids + t, n, logits);
        t += n;
        fed += n;
        const double error = test_relative_error(logits, golden + (t - 1) * vocab, vocab, 1e-3);
        if (!(error < tolerance))
            fail_msg("document %d, pieces of %d, %d fed: relative error %.3g", (int)doc, (int)piece,
                     (int)fed, error);
    }
    assert_int_equal(jamba_state_length(state), fed);
    test_release(logits);
    jamba_state_free(state);
}

static void check_model(const char *name, const char *tensor, bool adapted)
{
    struct test_model m;
    test_model_open(&m, name, "golden.safetensors");
    real *golden = test_golden(&m, tensor, m.stream.n_tok * m.jamba.config->vocab_size);
    if (!adapted)
        m.jamba.adapter = NULL;
    const int64_t all = m.stream.n_tok;
    const struct {
        int64_t piece, chunk;
    } ways[] = { { 1, all }, { 3, 2 }, { all, 7 }, { all, all } };
    for (int64_t doc = 0; doc < m.stream.n_doc; doc++) {
        for (int w = 0; w < 4; w++) {
            m.jamba.chunk_tokens = ways[w].chunk;
            check_document(&m, golden, doc, ways[w].piece);
        }
    }
    test_release(golden);
    test_model_close(&m);
}

static void a_document_in_pieces_gives_the_golden_logits(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++)
        check_model(test_model_names[i], "lora_logits", true);
}

static void the_base_alone_gives_the_golden_logits(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++)
        check_model(test_model_names[i], "logits", false);
}

static void sequences_side_by_side_do_not_touch_each_other(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        const int64_t vocab = m.jamba.config->vocab_size, n = 20;
        const int32_t *a = m.stream.ids, *b = m.stream.ids + n;
        assert_true(m.stream.n_tok >= 2 * n);
        real *alone = test_zeros(vocab), *together = test_zeros(vocab), *other = test_zeros(vocab);
        struct jamba_state *one = new_state(&m), *two = new_state(&m), *three = new_state(&m);
        for (int64_t t = 0; t < n; t++)
            feed(&m, one, a + t, 1, alone);
        for (int64_t t = 0; t < n; t++) {
            feed(&m, two, a + t, 1, together);
            feed(&m, three, b + t, 1, other);
        }
        assert_memory_equal(together, alone, (size_t)vocab * sizeof(real));
        assert_memory_not_equal(other, alone, (size_t)vocab * sizeof(real));
        jamba_state_free(one);
        jamba_state_free(two);
        jamba_state_free(three);
        test_release(alone);
        test_release(together);
        test_release(other);
        test_model_close(&m);
    }
}

static void memory_grows_by_keys_and_values_alone(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        const struct jamba_config *c = m.jamba.config;
        int64_t n_attention = 0;
        for (int64_t l = 0; l < c->num_hidden_layers; l++)
            n_attention += jamba_is_attention(c, l);
        const size_t token =
            (size_t)(2 * n_attention * c->num_key_value_heads * c->d_head) * sizeof(real);
        const size_t slack = (size_t)n_attention * 2 * ARENA_ALIGN;
        struct jamba_state *s = new_state(&m);
        const size_t start = jamba_state_bytes(s);
        real *logits = test_zeros(c->vocab_size);
        for (int64_t n = 1; n <= m.stream.n_tok; n++) {
            feed(&m, s, m.stream.ids + n - 1, 1, logits);
            const size_t grown = jamba_state_bytes(s) - start;
            assert_in_range(grown, (size_t)n * token,
                            (size_t)(n < 16 ? 16 : 2 * n) * token + slack);
        }
        test_release(logits);
        jamba_state_free(s);
        test_model_close(&m);
    }
}

/* The engine's arenas hold exactly what was planned: running past them asserts. */
static void generation_runs_in_the_planned_arenas(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        char dir[128], adapter[160];
        snprintf(dir, sizeof dir, "tests/fixtures/models/%s", test_model_names[i]);
        snprintf(adapter, sizeof adapter, "%s/adapter", dir);
        struct err err = { 0 };
        struct engine e = { 0 };
        struct jamba_state *s = NULL;
        const struct engine_options options = {
            .base_model = dir, .compute = { .device = COMPUTE_CPU, .threads = 2 }
        };
        if (!engine_open(&e, &options, &err) || !engine_choose_from(&e, adapter, &err) ||
            !engine_allocate_generation(&e, 5, adapter, &err) ||
            (s = jamba_state_new(&e.jamba, &err)) == NULL)
            fail_msg("%s", err.text);
        real *logits = test_zeros(e.jamba.config->vocab_size);
        int32_t ids[12];
        for (int32_t t = 0; t < 12; t++)
            ids[t] = t;
        const size_t kept = e.saved.used; /* the sums of a step */
        for (int64_t n = 12; n > 0; n--)
            assert_true(jamba_feed(&e.jamba, s, ids, n, logits, &err));
        assert_int_equal(e.saved.peak, e.saved.cap);
        assert_true(e.scratch.peak <= e.scratch.cap);
        if (e.jamba.config->num_experts == 1) /* else the bound is all rows on one expert */
            assert_int_equal(e.scratch.peak, e.scratch.cap);
        assert_true(e.saved.used == kept && e.scratch.used == 0);
        test_release(logits);
        jamba_state_free(s);
        engine_close(&e);
    }
}

static void ids_outside_the_vocabulary_are_refused_and_change_nothing(void **state)
{
    (void)state;
    struct test_model m;
    test_model_open(&m, "odd_sizes", "golden.safetensors");
    const int64_t vocab = m.jamba.config->vocab_size;
    assert_int_equal(vocab, 101);
    real *alone = test_zeros(vocab), *logits = test_zeros(vocab);
    struct jamba_state *one = new_state(&m), *two = new_state(&m);
    feed(&m, one, m.stream.ids, 3, alone);
    const struct {
        int32_t ids[2];
        const char *message;
    } cases[] = {
        { { 1, 101 }, "token 1: id 101 is outside the model's vocabulary of 101" },
        { { -1, 1 }, "token 0: id -1 is outside the model's vocabulary of 101" },
    };
    for (int i = 0; i < 2; i++) {
        struct err err = { 0 };
        assert_false(jamba_feed(&m.jamba, two, cases[i].ids, 2, logits, &err));
        assert_int_equal(err.code, ERR_DATA);
        assert_string_equal(err.text, cases[i].message);
    }
    feed(&m, two, m.stream.ids, 3, logits);
    assert_memory_equal(logits, alone, (size_t)vocab * sizeof(real));
    jamba_state_free(one);
    jamba_state_free(two);
    test_release(alone);
    test_release(logits);
    test_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_in_pieces_gives_the_golden_logits),
        cmocka_unit_test(the_base_alone_gives_the_golden_logits),
        cmocka_unit_test(sequences_side_by_side_do_not_touch_each_other),
        cmocka_unit_test(memory_grows_by_keys_and_values_alone),
        cmocka_unit_test(generation_runs_in_the_planned_arenas),
        cmocka_unit_test(ids_outside_the_vocabulary_are_refused_and_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
