/* Sampling against transformers' filters (tests/reference/make_sampling.py), and on its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/generate/sample.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"

/* Both sides compute in double; what differs is the order of sums of at most 40 terms. */
static const double tolerance = 1e-12;

static const real infinity = (real)INFINITY;

static struct sampler open_sampler(struct sampling how, int64_t vocab)
{
    struct sampler s = { 0 };
    struct err err = { 0 };
    assert_true(sampler_init(&s, &how, vocab, &err));
    return s;
}

static double number(json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void check_case(json_t *c)
{
    enum { MAX = 64 };
    real logits[MAX];
    const json_t *values = json_object_get(c, "logits"), *p = json_object_get(c, "p");
    const size_t n = json_array_size(values);
    assert_true(n > 0 && n <= MAX && json_array_size(p) == n);
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(values, i);
        logits[i] = json_is_null(x) ? -infinity : (real)json_number_value(x);
    }
    const struct sampling how = { .temperature = number(c, "temperature"),
                                  .top_k = (int64_t)number(c, "top_k"),
                                  .top_p = number(c, "top_p") };
    struct err err = { 0 };
    struct sampler s = open_sampler(how, (int64_t)n);
    assert_true(sampler_distribution(&s, logits, &err));
    for (size_t i = 0; i < n; i++) {
        const double expected = json_number_value(json_array_get(p, i));
        if (!(fabs(s.p[i] - expected) <= tolerance) || (s.p[i] == 0) != (expected == 0))
            fail_msg("%s, temperature %g, top_k %d, top_p %g: p[%zu] is %.17g, not %.17g",
                     json_string_value(json_object_get(c, "name")), how.temperature, (int)how.top_k,
                     how.top_p, i, s.p[i], expected);
    }
    sampler_free(&s);
}

static void distributions_equal_those_of_transformers(void **state)
{
    (void)state;
    char *bytes = NULL;
    size_t n = 0;
    struct err err = { 0 };
    assert_true(file_read("tests/fixtures/sampling.json", 1 << 20, &bytes, &n, &err));
    json_t *cases = json_parse(bytes, n, "sampling.json", &err);
    free(bytes);
    assert_non_null(cases);
    assert_int_equal(json_array_size(cases), 92);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(json_array_get(cases, i));
    json_decref(cases);
}

static void greedy_takes_the_largest_and_of_equal_ones_the_lowest_id(void **state)
{
    (void)state;
    const struct {
        real logits[4];
        int32_t expected;
    } cases[] = {
        { { 0, 1, 2, 3 }, 3 },      { { 3, 2, 1, 0 }, 0 },
        { { 1, 2, 2, 1 }, 1 },      { { -5, -5, -5, -5 }, 0 },
        { { 0, -0.0f, 0, -1 }, 0 }, { { -infinity, -infinity, -1e30f, -infinity }, 2 },
    };
    struct sampler s = open_sampler((struct sampling){ .greedy = true }, 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        int32_t id = -1;
        assert_true(sampler_next(&s, cases[i].logits, &id, &err));
        assert_int_equal(id, cases[i].expected);
    }
    sampler_free(&s);
}

static void top_p_keeps_the_lower_of_equal_ids(void **state)
{
    (void)state;
    const real logits[] = { 0, 1, 1, 1 };
    struct err err = { 0 };
    struct sampler s = open_sampler((struct sampling){ .temperature = 1, .top_p = 0.5 }, 4);
    assert_true(sampler_distribution(&s, logits, &err));
    assert_true(s.p[0] == 0 && s.p[1] == 0.5 && s.p[2] == 0.5 && s.p[3] == 0);
    sampler_free(&s);
}

static void extreme_settings_stay_finite(void **state)
{
    (void)state;
    const real logits[] = { -3e38f, 3e38f, 0, -infinity };
    const double temperatures[] = { 1e-300, 1e-6, 1, 1e6 };
    for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++) {
        struct err err = { 0 };
        int32_t id = -1;
        struct sampler s =
            open_sampler((struct sampling){ .temperature = temperatures[i], .top_p = 1 }, 4);
        assert_true(sampler_next(&s, logits, &id, &err));
        assert_int_equal(id, 1);
        assert_true(s.p[3] == 0);
        sampler_free(&s);
    }
}

static void logits_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    const struct {
        real logits[3];
        const char *message;
    } cases[] = {
        { { 1, (real)NAN, 2 },
          "the model's logit of token id 1 is not a number; the weights may be damaged, or too "
          "large "
          "for the precision" },
        { { (real)NAN, 0, 0 },
          "the model's logit of token id 0 is not a number; the weights may be damaged, or too "
          "large "
          "for the precision" },
        { { 1, 2, infinity },
          "the model's logit of token id 2 is infinite; the weights may be damaged, or too large "
          "for "
          "the precision" },
        { { -infinity, -infinity, -infinity }, "the model's logits are all minus infinity" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int greedy = 0; greedy < 2; greedy++) {
            struct err err = { 0 };
            int32_t id = -1;
            struct sampler s = open_sampler(
                (struct sampling){ .greedy = greedy, .temperature = 1, .top_p = 0.9 }, 3);
            assert_false(sampler_next(&s, cases[i].logits, &id, &err));
            assert_int_equal(err.code, ERR_NUMERICS);
            assert_string_equal(err.text, cases[i].message);
            sampler_free(&s);
        }
    }
}

static void draws_follow_the_distribution(void **state)
{
    (void)state;
    enum { N = 6, DRAWS = 60000 };
    const real logits[N] = { 0.3f, -1, 2, 0, 1.5f, -4 };
    const struct sampling settings[] = {
        { .temperature = 1, .top_p = 1, .seed = 3 },
        { .temperature = 0.6, .top_p = 1, .seed = 4 },
        { .temperature = 1.5, .top_k = 4, .top_p = 0.9, .seed = 5 }
    };
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        struct sampler s = open_sampler(settings[k], N);
        int64_t count[N] = { 0 };
        struct err err = { 0 };
        for (int i = 0; i < DRAWS; i++) {
            int32_t id = -1;
            assert_true(sampler_next(&s, logits, &id, &err));
            assert_in_range(id, 0, N - 1);
            count[id]++;
        }
        double chi2 = 0;
        for (int i = 0; i < N; i++) {
            const double expected = s.p[i] * DRAWS;
            if (s.p[i] == 0)
                assert_int_equal(count[i], 0);
            else
                chi2 += ((double)count[i] - expected) * ((double)count[i] - expected) / expected;
        }
        /* At most 5 degrees of freedom: above 30 once in 10^5, and the seeds are fixed. */
        assert_true(chi2 < 30);
        sampler_free(&s);
    }
}

static void draws_are_a_function_of_seed_and_index(void **state)
{
    (void)state;
    enum { N = 50, DRAWS = 200 };
    const real logits[N] = { 0 };
    int32_t first[DRAWS], again[DRAWS], other[DRAWS];
    int32_t *const runs[] = { first, again, other };
    const uint64_t seeds[] = { 7, 7, 8 };
    for (int r = 0; r < 3; r++) {
        struct sampler s =
            open_sampler((struct sampling){ .temperature = 1, .top_p = 1, .seed = seeds[r] }, N);
        struct err err = { 0 };
        for (int i = 0; i < DRAWS; i++)
            assert_true(sampler_next(&s, logits, &runs[r][i], &err));
        sampler_free(&s);
    }
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distributions_equal_those_of_transformers),
        cmocka_unit_test(greedy_takes_the_largest_and_of_equal_ones_the_lowest_id),
        cmocka_unit_test(top_p_keeps_the_lower_of_equal_ids),
        cmocka_unit_test(extreme_settings_stay_finite),
        cmocka_unit_test(logits_that_are_no_numbers_are_refused),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(draws_are_a_function_of_seed_and_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
