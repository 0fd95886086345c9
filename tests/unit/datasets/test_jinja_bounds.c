/* The Jinja interpreter's own promises: places of errors, bounds, ranges, odd variables. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja.h"
#include "kernels/core/text.h"

struct result {
    struct jinja_output out;
    struct err err;
    bool ok;
};

/* Renders text with variables (taken over; NULL: none) within limits. */
static struct result run(const char *text, size_t n, json_t *variables, struct jinja_limits limits)
{
    struct result r = { 0 };
    const struct jinja_env env = { .limits = limits };
    struct jinja_template *t = jinja_parse(text, n, "t.jinja", &r.err);
    if (t != NULL)
        r.ok = jinja_render(t, &env, variables, &r.out, &r.err);
    jinja_free(t);
    json_decref(variables);
    return r;
}

static void expect_error(const char *text, const char *message)
{
    struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ 0 });
    assert_false(r.ok);
    assert_null(r.out.text);
    assert_string_equal(r.err.text, message);
    jinja_output_free(&r.out);
}

static void expect_limit(const char *text, struct jinja_limits limits, const char *part)
{
    struct result r = run(text, strlen(text), NULL, limits);
    assert_false(r.ok);
    if (strstr(r.err.text, part) == NULL)
        fail_msg("%s: '%s' has no '%s'", text, r.err.text, part);
    jinja_output_free(&r.out);
}

/* times times `piece`, between before and after. */
static char *repeated(const char *before, const char *piece, int times, const char *after)
{
    struct text t = { 0 };
    text_puts(&t, before);
    for (int i = 0; i < times; i++)
        text_puts(&t, piece);
    text_puts(&t, after);
    assert_false(t.failed);
    return t.data;
}

static void expect_parse_error(char *text, const char *part)
{
    struct err err = { 0 };
    struct jinja_template *t = jinja_parse(text, strlen(text), "t.jinja", &err);
    assert_null(t);
    if (strstr(err.text, part) == NULL)
        fail_msg("'%s' has no '%s'", err.text, part);
    free(text);
}

static void errors_name_line_and_column(void **state)
{
    (void)state;
    expect_error("a\nbé {{ x.y }}", "t.jinja:2:8: 'x' is undefined");
    expect_error("a\r\nb\r{{ 1 +\n }}", "t.jinja:4:2: unexpected 'end of print statement'");
    expect_error("{% if 1 %}\n  {% endfor %}", "t.jinja:2:6: encountered unknown tag 'endfor'; "
                                               "expected 'elif' or 'else' or 'endif'");
    expect_error("{% for a in b %}", "t.jinja:1:17: unexpected end of template, expected 'else' or "
                                     "'endfor'");
    expect_error("{% set x %}", "t.jinja:1:12: unexpected end of template, expected 'endset'");
    expect_error("{{ (1", "t.jinja:1:6: unexpected end of template, expected ')'");
    expect_error("{{ 1", "t.jinja:1:5: unexpected end of template, expected 'end of print "
                         "statement'");
    expect_error("{{ 'a", "t.jinja:1:4: unexpected char \"'\": the string does not end");
    expect_error("{{ (1] }}", "t.jinja:1:6: unexpected ']', expected ')'");
    expect_error("{{ ) }}", "t.jinja:1:4: unexpected ')'");
    expect_error("{{ 1 2 }}", "t.jinja:1:6: expected token 'end of print statement', got "
                              "'integer'");
    expect_error("{{ 1|nope }}", "t.jinja:1:6: no filter named 'nope'");
    expect_error("{{ 1 is nope }}", "t.jinja:1:9: no test named 'nope'");
    expect_error("{{ 1|pprint }}", "t.jinja:1:6: not supported in chat templates: filter 'pprint'");
    expect_error("{% include 'a' %}", "t.jinja:1:4: {% include %} is not supported in chat "
                                      "templates");
    expect_error("{% break %}", "t.jinja:1:4: 'break' outside loop");
    expect_error("{# a", "t.jinja:1:1: missing end of comment tag");
    expect_error("{% raw %}a", "t.jinja:1:1: missing end of raw directive");
    expect_error("{% macro m(a) %}{{ a.b }}{% endmacro %}\n{{ m() }}",
                 "t.jinja:1:21: parameter 'a' was not provided");
    expect_error("{{ raise_exception('no\nway') }}", "t.jinja:1:19: no\nway");
    expect_error("{{ [1].append(2) }}", "t.jinja:1:14: access to attribute 'append' of 'list' "
                                        "object is unsafe.");
    expect_error("{% for i in 5 %}{% endfor %}", "t.jinja:1:13: 'int' object is not iterable");
    expect_error("{{ range(1, foo=2) }}", "t.jinja:1:9: range has no keyword argument 'foo'");
    expect_error("{{ 'a'|replace('b') }}", "t.jinja:1:8: replace needs argument 'new'");
    expect_error("{{ 'a'|trim(1, 2) }}", "t.jinja:1:8: trim takes at most 1 arguments, 2 given");
    expect_error("{{ 'a'|trim('b', chars='c') }}",
                 "t.jinja:1:8: trim was given two values for argument 'chars'");
}

static void a_template_must_be_utf8(void **state)
{
    (void)state;
    struct result r = run("ab\xff", 3, NULL, (struct jinja_limits){ 0 });
    assert_false(r.ok);
    assert_string_equal(r.err.text, "t.jinja: is not UTF-8 (byte 2)");
    r = run("{{ x }}", 7, json_pack("{s:o}", "x", json_string_nocheck("a\xff")),
            (struct jinja_limits){ 0 });
    assert_false(r.ok);
    assert_string_equal(r.err.text, "t.jinja:1:1: a variable holds text that is not UTF-8");
}

static void zero_bytes_are_text(void **state)
{
    (void)state;
    struct result r = run("a\0{{ x }}", 9, json_pack("{s:s%}", "x", "\0b", (size_t)2),
                          (struct jinja_limits){ 0 });
    assert_true(r.ok);
    assert_int_equal(r.out.n, 4);
    assert_memory_equal(r.out.text, "a\0\0b", 5);
    jinja_output_free(&r.out);
}

static void work_is_bounded(void **state)
{
    (void)state;
    const struct jinja_limits few = { .steps = 1000, .output = 100, .memory = 1 << 20 };
    const char steps[] = "rendering takes more than 1000 steps";
    expect_limit("{% for i in range(100000) %}{% endfor %}", few, steps);
    expect_limit("{{ range(100000)|list|length }}", few, steps);
    expect_limit("{{ 99999 in range(100000) }}", few, steps);
    expect_limit("{{ 'a' * 900000 }}", few, steps);
    expect_limit("{{ '%900000s' % 'a' }}", few, steps);
    expect_limit("{{ 'a'|center(900000) }}", few, steps);
    expect_limit("{{ [0] * 900000 }}", few, steps);
    expect_limit("{{ ([1] * 400)|sort|string|length }}", few, steps);
    expect_limit("{{ 'a' * 300 }}", few, "output is longer than 100 bytes");
    expect_limit("{% for i in range(90) %}{{ 'ab' }}{% endfor %}", few,
                 "output is longer than 100 bytes");
    const struct jinja_limits small = { .memory = 1 << 20 };
    const char memory[] = "rendering needs more than 1 MiB of memory";
    expect_limit("{% set x = 'a' * 2000000 %}", small, memory);
    expect_limit(
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x ~ "
        "ns.x %}{% endfor %}",
        small, memory);
    expect_limit("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x "
                 "%}{% endfor %}",
                 small, memory);
    expect_limit("{{ 'x'|replace('', 'y' * 800000) }}", small, memory);
}

static void recursion_is_bounded(void **state)
{
    (void)state;
    const struct jinja_limits none = { 0 };
    const char deep[] = "rendering is nested too deep (2000 levels are allowed)";
    expect_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", none, deep);
    expect_limit(
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() "
        "}}",
        none, deep);
    expect_limit("{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", none, deep);
    expect_limit("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", none, deep);
    expect_limit("{% set ns = namespace(x=1) %}{% for i in range(2000) %}{% set ns.x = [ns.x] "
                 "%}{% endfor %}{{ ns.x == ns.x }}",
                 none, "value is nested too deep (800 levels are supported)");
    json_t *j = json_array();
    for (int i = 0; i < 2000; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, j);
        j = outer;
    }
    struct result r = run("{{ x|tojson }}", 14, json_pack("{s:o}", "x", j), none);
    assert_false(r.ok);
    assert_non_null(strstr(r.err.text, "value is nested too deep"));
    jinja_output_free(&r.out);
}

static void deep_templates_are_refused(void **state)
{
    (void)state;
    expect_parse_error(repeated("{{ ", "(", 130, ""), "nested too deep");
    expect_parse_error(repeated("{{ ", "[", 300, ""), "brackets are nested too deep");
    expect_parse_error(repeated("{{ ", "not ", 500, "1 }}"), "nested too deep");
    expect_parse_error(repeated("{{ ", "-", 500, "1 }}"), "nested too deep");
    expect_parse_error(repeated("{{ ", "1 if 1 else ", 500, "1 }}"), "nested too deep");
    expect_parse_error(repeated("{{ 1", " + 1", 500, " }}"), "expression is too deep");
    expect_parse_error(repeated("{{ a", ".a", 500, " }}"), "expression is too deep");
    expect_parse_error(repeated("{{ a", "()", 500, " }}"), "expression is too deep");
    expect_parse_error(repeated("{{ a", "|list", 500, " }}"), "expression is too deep");
    expect_parse_error(repeated("", "{% if 1 %}", 500, ""), "nested too deep");
    expect_parse_error(repeated("", "{% for a in b %}", 500, ""), "nested too deep");
    struct text t = { 0 };
    for (int i = 0; i < 10001; i++)
        text_printf(&t, "{{ a%d }}", i);
    expect_parse_error(t.data, "has too many names (10000 are supported)");
}

/* What nesting the parser takes must fit the default depth of a rendering. */
static void what_parses_also_renders(void **state)
{
    (void)state;
    const struct {
        const char *before, *piece;
        int times;
        const char *after;
    } cases[] = {
        { "{{ 1", " + 1", 350, " }}" },
        { "{{ '", "a' ~ '", 3000, "' }}" },
        { "{% if 0 %}", "{% elif 0 %}", 3000, "{% endif %}" },
        { "", "{% if 1 %}", 100, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = repeated(cases[i].before, cases[i].piece, cases[i].times, cases[i].after);
        if (cases[i].after[0] == 0) {
            char *closed = repeated(text, "{% endif %}", cases[i].times, "");
            free(text);
            text = closed;
        }
        struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ 0 });
        if (!r.ok)
            fail_msg("%s", r.err.text);
        jinja_output_free(&r.out);
        free(text);
    }
}

/* Every size of memory up to what is needed ends in a clean failure, and then in the same text. */
static void any_memory_limit_fails_cleanly(void **state)
{
    (void)state;
    static const char text[] =
        "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ kwargs }}{% endmacro %}{% set ns = namespace(x='') "
        "%}"
        "{% for k, v in {'a': 1, 'b': [1, 2]}|dictsort if k is string %}{% set ns.x = ns.x ~ k %}"
        "{{ m(v, c=k) }}{{ loop.last }}{% endfor %}{{ [3, 1]|sort|map('string')|join('-') }}"
        "{{ {'a': ns.x}|tojson(indent=2) }}{{ 'a b'.split() }}{{ '%s' % 'x' }}{{ '{}'.format(1) }}"
        "{% generation %}{{ 'y'|upper|indent(first=true)|e }}{% endgeneration %}";
    char *expected = NULL;
    size_t needed = 0;
    for (size_t memory = 1; needed == 0; memory += 16) {
        struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ .memory = memory });
        if (r.ok)
            needed = memory;
        else if (strstr(r.err.text, "of memory") == NULL)
            fail_msg("at %zu bytes: %s", memory, r.err.text);
        if (r.ok)
            expected = text_copy(r.out.text);
        jinja_output_free(&r.out);
        assert_true(memory < 1 << 20);
    }
    assert_true(needed > 1000);
    struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ 0 });
    assert_true(r.ok);
    assert_string_equal(r.out.text, expected);
    jinja_output_free(&r.out);
    free(expected);
}

static void text_that_grows_in_a_loop_stays_linear(void **state)
{
    (void)state;
    static const char text[] =
        "{% set ns = namespace(x='') %}{% for i in range(20000) %}{% set ns.x "
        "= ns.x + 'abcdefghij' %}{% endfor %}{{ ns.x|length }}";
    struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ .memory = 16 << 20 });
    if (!r.ok)
        fail_msg("%s", r.err.text);
    assert_string_equal(r.out.text, "200000");
    jinja_output_free(&r.out);
}

static void generation_ranges_are_bytes_of_the_output(void **state)
{
    (void)state;
    static const char text[] = "é{% generation %}ü{% endgeneration %}|{% for i in 'ab' %}"
                               "{% generation %}{{ i }}{% endgeneration %}{% endfor %}";
    struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ 0 });
    assert_true(r.ok);
    assert_string_equal(r.out.text, "éü|ab");
    assert_false(r.out.generation_lost);
    const struct jinja_range expected[] = { { 2, 4 }, { 5, 6 }, { 6, 7 } };
    assert_int_equal(r.out.n_generation, 3);
    assert_memory_equal(r.out.generation, expected, sizeof expected);
    jinja_output_free(&r.out);
}

static void generation_inside_a_macro_is_told(void **state)
{
    (void)state;
    static const char text[] = "{% macro m() %}{% generation %}a{% endgeneration %}{% endmacro %}"
                               "{{ m() }}";
    struct err err = { 0 };
    struct jinja_template *t = jinja_parse(text, strlen(text), "t", &err);
    assert_true(jinja_has_generation(t));
    jinja_free(t);
    struct result r = run(text, strlen(text), NULL, (struct jinja_limits){ 0 });
    assert_true(r.ok);
    assert_true(r.out.generation_lost);
    jinja_output_free(&r.out);
    t = jinja_parse("{{ generation }}", 16, "t", &err);
    assert_false(jinja_has_generation(t));
    jinja_free(t);
}

static void what_was_raised_is_kept_whole(void **state)
{
    (void)state;
    struct result r =
        run("{{ raise_exception('x' * 5000) }}", 33, NULL, (struct jinja_limits){ 0 });
    assert_false(r.ok);
    assert_int_equal(r.out.n_raised, 5000);
    assert_int_equal(strlen(r.out.raised), 5000);
    jinja_output_free(&r.out);
    assert_null(r.out.raised);
}

static void one_template_renders_many_times(void **state)
{
    (void)state;
    static const char text[] = "{% set a = 'x' 'y' 'z' ~ v %}{{ a }}{{ a ~ 'w' }}";
    struct err err = { 0 };
    struct jinja_template *t = jinja_parse(text, strlen(text), "t", &err);
    assert_non_null(t);
    for (int i = 0; i < 3; i++) {
        struct jinja_output out = { 0 };
        char expected[32];
        json_t *variables = json_pack("{s:i}", "v", i);
        assert_true(jinja_render(t, &(struct jinja_env){ 0 }, variables, &out, &err));
        snprintf(expected, sizeof expected, "xyz%dxyz%dw", i, i);
        assert_string_equal(out.text, expected);
        jinja_output_free(&out);
        json_decref(variables);
    }
    jinja_free(t);
}

static void variables_hide_globals(void **state)
{
    (void)state;
    struct result r = run("{{ range }}{{ dict(a=1).a }}", 28, json_pack("{s:s}", "range", "mine"),
                          (struct jinja_limits){ 0 });
    assert_true(r.ok);
    assert_string_equal(r.out.text, "mine1");
    jinja_output_free(&r.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_name_line_and_column),
        cmocka_unit_test(a_template_must_be_utf8),
        cmocka_unit_test(zero_bytes_are_text),
        cmocka_unit_test(work_is_bounded),
        cmocka_unit_test(recursion_is_bounded),
        cmocka_unit_test(deep_templates_are_refused),
        cmocka_unit_test(what_parses_also_renders),
        cmocka_unit_test(any_memory_limit_fails_cleanly),
        cmocka_unit_test(text_that_grows_in_a_loop_stays_linear),
        cmocka_unit_test(generation_ranges_are_bytes_of_the_output),
        cmocka_unit_test(generation_inside_a_macro_is_told),
        cmocka_unit_test(what_was_raised_is_kept_whole),
        cmocka_unit_test(one_template_renders_many_times),
        cmocka_unit_test(variables_hide_globals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
