/* JSON text that is wrong is named; memory that runs out ends in an error with a text. */
#include "tests/support/support.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/json.h"
#include "kernels/core/json_memory.h"

static void malformed_text_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "", "x: not valid JSON: column 0: unexpected token near end of file" },
        { "{\"a\": 1", "x: not valid JSON: column 7: '}' expected near end of file" },
        { "{\"a\": 1, \"a\": 2}",
          "x: not valid JSON: column 12: duplicate object key near '\"a\"'" },
        { "[1,\n2,\n}", "x: not valid JSON: line 3, column 1: unexpected token near '}'" },
        { "[1] 2", "x: not valid JSON: column 5: end of file expected near '2'" },
        { "1e999", "x: not valid JSON: column 5: real number overflow near '1e999'" },
        { "\"\xFF\"", "x: not valid JSON: column 1: unable to decode byte 0xff near '\"'" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        assert_null(json_parse(cases[i].text, strlen(cases[i].text), "x", &err));
        assert_string_equal(err.text, cases[i].message);
        assert_int_equal(err.code, ERR_DATA);
    }
}

/* jansson would read "[1]" and the zero byte behind it. */
static void a_zero_byte_is_no_white_space(void **state)
{
    (void)state;
    static const char *const cases[] = { "[1]\0", "[1\0]", "12\0 " };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        assert_null(json_parse(cases[i], 4, "x", &err));
        assert_true(strstr(err.text, "x: not valid JSON: has a zero byte, at byte ") == err.text);
        assert_int_equal(err.code, ERR_DATA);
    }
}

/* Lists in brackets, and the same in a string, which takes no more than its size. */
static void text_that_would_fill_memory_is_refused(void **state)
{
    (void)state;
    enum { N = 5 << 20 };
    char *text = malloc(N);
    assert_non_null(text);
    for (int i = 0; i < N; i++)
        text[i] = i % 3 == 0 ? ',' : i % 3 == 1 ? '[' : ']';
    text[0] = '[';
    text[N - 1] = ']';
    struct err err = { 0 };
    assert_null(json_parse(text, N, "x", &err));
    assert_string_equal(err.text, "x: has so many values that they would take more than 192 MiB of "
                                  "memory");
    assert_int_equal(err.code, ERR_DATA);
    text[0] = text[N - 1] = '"';
    memcpy(text + 9, "\\\"", 2); /* its end is not here */
    json_t *value = json_parse(text, N, "x", &err);
    assert_int_equal(json_string_length(value), N - 3);
    json_decref(value);
    free(text);
}

static void a_byte_order_mark_is_skipped(void **state)
{
    (void)state;
    struct err err = { 0 };
    json_t *value = json_parse("\xEF\xBB\xBF[7]", 6, "x", &err);
    assert_non_null(value);
    assert_int_equal(json_integer_value(json_array_get(value, 0)), 7);
    json_decref(value);
}

/* ---- the Nth allocation fails ---- */

/* jansson's allocation functions take no context: the one global of this file. */
static int allocations_left;

static void *failing_malloc(size_t n)
{
    return allocations_left-- > 0 ? malloc(n) : NULL;
}

/* jansson 2.14 takes memory that runs out inside a token for bad syntax, and elsewhere says nothing
 * at all: that must not come out as "column 7: " with nothing behind it. */
static void running_out_of_memory_is_an_error_with_a_text(void **state)
{
    (void)state;
    static const char text[] = "{\"name\": \"a rather long string, \\u00e9 included\", "
                               "\"list\": [1, 2.5, true, null, {\"deep\": [[\"x\"]]}, 3]}";
    json_malloc_t old_malloc;
    json_free_t old_free;
    json_get_alloc_funcs(&old_malloc, &old_free);
    int n = 0, n_memory = 0;
    for (;; n++) {
        struct err err = { 0 };
        allocations_left = n;
        json_set_alloc_funcs(failing_malloc, free);
        json_t *value = json_parse(text, sizeof text - 1, "x", &err);
        json_decref(value);
        json_set_alloc_funcs(old_malloc, old_free);
        if (value != NULL)
            break;
        const size_t length = strlen(err.text);
        assert_true(length > 2 && err.text[length - 1] != ' ');
        if (err.code == ERR_NO_MEMORY)
            assert_string_equal(err.text, "out of memory for x");
        n_memory += err.code == ERR_NO_MEMORY;
    }
    assert_in_range(n, 20, 200); /* so many failed before it went well */
    assert_in_range(n_memory, 5, n);
}

/* What was built with too little memory is not shown; what is built after it is. */
static void a_value_that_lacks_something_is_no_text(void **state)
{
    (void)state;
    json_t *value = json_pack("{s:i}", "a", 1);
    assert_non_null(value);
    json_memory_fail();
    assert_null(json_to_text(value, 0));
    char *text = json_to_text(value, 0);
    assert_string_equal(text, "{\"a\": 1}");
    assert_null(json_to_text(NULL, 0));
    free(text);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_text_is_named),
        cmocka_unit_test(a_zero_byte_is_no_white_space),
        cmocka_unit_test(text_that_would_fill_memory_is_refused),
        cmocka_unit_test(a_byte_order_mark_is_skipped),
        cmocka_unit_test(running_out_of_memory_is_an_error_with_a_text),
        cmocka_unit_test(a_value_that_lacks_something_is_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
