/* The PCRE2 wrapper: what Python's re would say, errors with a place, and limits that hold. */
#include "kernels/core/regex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void matches_as_python_does(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        bool full;
        const char *subject;
        bool matches;
    } cases[] = {
        { "in_proj", true, "in_proj", true },
        { "in_proj", true, "mamba.in_proj", false },
        { "in_proj", true, "in_proj.x", false },
        { "in_proj", false, "mamba.in_proj.x", true },
        { ".*\\.(q|v)_proj", true, "model.layers.4.self_attn.q_proj", true },
        { ".*\\.(q|v)_proj", true, "model.layers.4.self_attn.k_proj", false },
        { "a|ab", true, "ab", true }, /* backtracks to the longer branch, as fullmatch does */
        { ".*layers\\.(?!1\\.).*in_proj", true, "model.layers.1.mamba.in_proj", false },
        { ".*layers\\.(?!1\\.).*in_proj", true, "model.layers.11.mamba.in_proj", true },
        { "(.*\\.)?(in_proj)$", true, "model.layers.1.mamba.in_proj", true },
        { "(?P<name>x)(?P=name)", true, "xx", true },
        { "\\d+", true, "12", true },
        { "\\w+", true, "\xC3\xA9t\xC3\xA9", true }, /* ete with accents */
        { "", true, "", true },
        { "", true, "x", false },
        { "", false, "x", true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        struct regex *re = regex_compile(cases[i].pattern, cases[i].full, &err);
        assert_non_null(re);
        bool hit = !cases[i].matches;
        assert_true(regex_matches(re, cases[i].subject, &hit, &err));
        if (hit != cases[i].matches)
            fail_msg("'%s' on '%s'", cases[i].pattern, cases[i].subject);
        regex_free(re);
    }
}

static void malformed_pattern_says_where(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *message;
    } cases[] = {
        { "a(b", "regex 'a(b': missing closing parenthesis (at character 4)" },
        { "a)", "regex 'a)': unmatched closing parenthesis (at character 2)" },
        { "*a", "regex '*a': quantifier does not follow a repeatable item (at character 1)" },
        { "[a", "regex '[a': missing terminating ] for character class (at character 3)" },
        { "\\C", "regex '\\C': using \\C is disabled by the application (at character 3)" },
        { "((ab){1000}c){99}",
          "regex '((ab){1000}c){99}': regular expression is too large (at character 18)" },
        { "\xFF", "regex '\xFF': UTF-8 error: illegal byte (0xfe or 0xff) (at character 1)" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        if (regex_compile(cases[i].pattern, true, &err) != NULL)
            fail_msg("compiled: %s", cases[i].pattern);
        assert_int_equal(err.code, ERR_DATA);
        assert_string_equal(err.text, cases[i].message);
    }
}

static void runaway_pattern_is_an_error_not_a_no(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct regex *re = regex_compile("(a+)+(b+)+c", true, &err);
    assert_non_null(re);
    bool hit = true;
    assert_false(regex_matches(re, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbb!c",
                               &hit, &err));
    assert_false(hit);
    assert_int_equal(err.code, ERR_DATA);
    assert_string_equal(err.text,
                        "regex '(a+)+(b+)+c': takes too many steps on "
                        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbb!c'; "
                        "write it without nested repetition");
    regex_free(re);
}

static void overlong_pattern_is_refused(void **state)
{
    (void)state;
    const size_t n = ((size_t)1 << 20) + 1;
    char *pattern = malloc(n + 1);
    assert_non_null(pattern);
    memset(pattern, 'a', n);
    pattern[n] = '\0';
    struct err err = { 0 };
    assert_null(regex_compile(pattern, true, &err));
    assert_string_equal(err.text, "regex 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...': is 1048577 "
                                  "characters long; expected at most 1048576");
    free(pattern);
}

static void freeing_nothing_is_fine(void **state)
{
    (void)state;
    regex_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_as_python_does),
        cmocka_unit_test(malformed_pattern_says_where),
        cmocka_unit_test(runaway_pattern_is_an_error_not_a_no),
        cmocka_unit_test(overlong_pattern_is_refused),
        cmocka_unit_test(freeing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
