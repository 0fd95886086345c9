/* Sweeps: lists on the command line, and the runs they make. */
#include "recipes/sweep.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/text.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* "NAME: override override", a line a run. */
static void expect_runs(const char *const *overrides, int n, const char *expected)
{
    struct sweep sweep;
    struct err err = { 0 };
    struct text have = { 0 };
    if (!sweep_open(&sweep, overrides, n, &err))
        fail_msg("%s", err.text);
    for (int64_t i = 0; i < sweep.n_run; i++) {
        text_printf(&have, "%s:", sweep.runs[i].name);
        for (int k = 0; k < sweep.n_override; k++)
            text_printf(&have, " %s", sweep.runs[i].overrides[k]);
        text_puts(&have, "\n");
    }
    assert_string_equal(have.data, expected);
    text_free(&have);
    sweep_close(&sweep);
}

static void runs_are_the_product_of_the_lists(void **state)
{
    (void)state;
    static const char *const two[] = { "seed=1", "lora_r=8,16", "~warmup_steps",
                                       "learning_rate=1e-4, 3e-4 ,1e-3" };
    expect_runs(two, COUNT(two),
                "learning_rate=1e-4,lora_r=8: seed=1 lora_r=8 ~warmup_steps learning_rate=1e-4\n"
                "learning_rate=3e-4,lora_r=8: seed=1 lora_r=8 ~warmup_steps learning_rate=3e-4\n"
                "learning_rate=1e-3,lora_r=8: seed=1 lora_r=8 ~warmup_steps learning_rate=1e-3\n"
                "learning_rate=1e-4,lora_r=16: seed=1 lora_r=16 ~warmup_steps learning_rate=1e-4\n"
                "learning_rate=3e-4,lora_r=16: seed=1 lora_r=16 ~warmup_steps learning_rate=3e-4\n"
                "learning_rate=1e-3,lora_r=16: seed=1 lora_r=16 ~warmup_steps "
                "learning_rate=1e-3\n");
    struct sweep sweep;
    struct err err = { 0 };
    assert_true(sweep_open(&sweep, two, COUNT(two), &err));
    assert_int_equal(sweep.n_key, 2);
    assert_string_equal(sweep.keys[0], "learning_rate");
    assert_string_equal(sweep.keys[1], "lora_r");
    assert_string_equal(sweep.runs[4].values[0], "3e-4");
    assert_string_equal(sweep.runs[4].values[1], "16");
    sweep_close(&sweep);
}

static void names_do_not_depend_on_the_spelling_of_keys(void **state)
{
    (void)state;
    static const char *const words[] = { "lr=1e-4,2e-4", "data.0.type=text,auto" };
    expect_runs(words, 2,
                "datasets.0.type=text,learning_rate=1e-4: lr=1e-4 data.0.type=text\n"
                "datasets.0.type=auto,learning_rate=1e-4: lr=1e-4 data.0.type=auto\n"
                "datasets.0.type=text,learning_rate=2e-4: lr=2e-4 data.0.type=text\n"
                "datasets.0.type=auto,learning_rate=2e-4: lr=2e-4 data.0.type=auto\n");
}

static void commas_in_brackets_and_quotes_do_not_part(void **state)
{
    (void)state;
    static const struct {
        const char *word, *values[4]; /* up to NULL */
    } table[] = {
        { "k=[a,b],c", { "[a,b]", "c" } },
        { "k={a: [1,2], b: 3},{a: 1}", { "{a: [1,2], b: 3}", "{a: 1}" } },
        { "k='a,b',c", { "'a,b'", "c" } },
        { "k=\"a,\\\",b\",c", { "\"a,\\\",b\"", "c" } },
        { "k=[\"],\",b],c", { "[\"],\",b]", "c" } },
        { "k=.*x{1,2},y", { ".*x{1,2}", "y" } },
        { "k=don't,do", { "don't", "do" } },
        { "k=a],b", { "a]", "b" } },
        { "k=a=b,c", { "a=b", "c" } },
    };
    for (int i = 0; i < COUNT(table); i++) {
        struct sweep sweep;
        struct err err = { 0 };
        if (!sweep_open(&sweep, &table[i].word, 1, &err))
            fail_msg("%s", err.text);
        int64_t n = 0;
        for (; table[i].values[n] != NULL; n++) {
            assert_true(n < sweep.n_run);
            assert_string_equal(sweep.runs[n].overrides[0] + 2, table[i].values[n]);
        }
        assert_int_equal(sweep.n_run, n);
        sweep_close(&sweep);
    }
    static const char *const none[] = { "k=[a,b]", "k=\"a,b", "k=[a,b", "~k" };
    for (int i = 0; i < COUNT(none); i++) {
        struct sweep sweep;
        struct err err = { 0 };
        assert_false(sweep_open(&sweep, &none[i], 1, &err));
    }
}

static void names_are_fit_for_folders_and_differ(void **state)
{
    (void)state;
    static const char *const word =
        "k=a/b,a_b,a b,../..,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaa,\xC3\xBC,[q,v]";
    struct sweep sweep;
    struct err err = { 0 };
    assert_true(sweep_open(&sweep, &word, 1, &err));
    assert_int_equal(sweep.n_run, 7);
    /* The digits: sha256sum of the value. */
    assert_string_equal(sweep.runs[0].name, "k=a_b~c14cddc0");
    assert_string_equal(sweep.runs[1].name, "k=a_b");
    assert_string_equal(sweep.runs[6].name, "k=_q_v_~662a4bf5");
    for (int64_t i = 0; i < sweep.n_run; i++) {
        assert_null(strchr(sweep.runs[i].name, '/'));
        assert_true(strlen(sweep.runs[i].name) < 64);
        for (int64_t k = 0; k < i; k++)
            assert_string_not_equal(sweep.runs[i].name, sweep.runs[k].name);
    }
    sweep_close(&sweep);
}

static void many_keys_make_a_name_that_is_short_enough(void **state)
{
    (void)state;
    enum { N = 30 };
    char words[N][32];
    const char *overrides[N];
    for (int i = 0; i < N; i++) {
        snprintf(words[i], sizeof words[i], "some_long_key_%02d=value%s", i, i < 2 ? ",other" : "");
        overrides[i] = words[i];
    }
    for (int i = 2; i < N; i++)
        snprintf(words[i], sizeof words[i], "k%02d.%015d=[a,b],c", i, 0);
    struct err err = { 0 };
    struct sweep sweep;
    assert_true(sweep_open(&sweep, overrides, 9, &err)); /* 2^9 runs of nine keys */
    assert_int_equal(sweep.n_run, 512);
    for (int64_t i = 0; i < sweep.n_run; i++) {
        assert_true(strlen(sweep.runs[i].name) <= 200);
        for (int64_t k = 0; k < i; k++)
            assert_string_not_equal(sweep.runs[i].name, sweep.runs[k].name);
    }
    sweep_close(&sweep);
    assert_false(sweep_open(&sweep, overrides, N, &err));
    assert_string_equal(err.text,
                        "command line: --each: more than 1000 runs; expected fewer values");
}

static void wrong_lists_are_errors(void **state)
{
    (void)state;
    static const struct {
        const char *words[2];
        int n;
        const char *message;
    } table[] = {
        { { NULL, NULL }, 0, "--each: no key has several values; expected at least one key=a,b,c" },
        { { "lora_r=8", "~seed" },
          2,
          "--each: no key has several values; expected at least one key=a,b,c" },
        { { "lora_r=8,,16", NULL },
          1,
          "lora_r=8,,16: has an empty value between commas; expected key=a,b,c" },
        { { "lora_r=8,", NULL },
          1,
          "lora_r=8,: has an empty value between commas; expected key=a,b,c" },
        { { "lora_r=8, 16,8", NULL }, 1, "lora_r=8, 16,8: '8' is there twice; keep one" },
        { { "lora_r=8,16", "lora_rank=4" },
          2,
          "lora_rank=4: 'lora_r' has a list of values already; keep one" },
        { { "~lora_r", "lora_r=8,16" },
          2,
          "lora_r=8,16: 'lora_r' has a list of values already; keep one" },
        { { "output_dir=a,b", NULL },
          1,
          "output_dir=a,b: 'output_dir' is one folder for the whole sweep; each run has its own in "
          "it" },
    };
    for (int i = 0; i < COUNT(table); i++) {
        char expected[256];
        struct sweep sweep;
        struct err err = { 0 };
        snprintf(expected, sizeof expected, "command line: %s", table[i].message);
        assert_false(sweep_open(&sweep, table[i].words, table[i].n, &err));
        assert_string_equal(err.text, expected);
        assert_int_equal(err.code, ERR_USAGE);
        assert_null(sweep.runs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_the_product_of_the_lists),
        cmocka_unit_test(names_do_not_depend_on_the_spelling_of_keys),
        cmocka_unit_test(commas_in_brackets_and_quotes_do_not_part),
        cmocka_unit_test(names_are_fit_for_folders_and_differ),
        cmocka_unit_test(many_keys_make_a_name_that_is_short_enough),
        cmocka_unit_test(wrong_lists_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
