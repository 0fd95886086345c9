/* Special tokens where a template wrote them, text where a user did: ranges of bytes, and the
 * tokenizer's two functions for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "datasets/byte_range.h"
#include "datasets/tokenizer.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static void ranges_merge_when_they_touch(void **state)
{
    (void)state;
    static const size_t ranges[][2] = { { 9, 12 }, { 3, 5 }, { 5, 6 }, { 10, 11 }, { 20, 20 } };
    struct range_list list = { 0 };
    range_list_merge(&list);
    assert_false(range_list_overlaps(&list, 0, 100));
    for (size_t i = 0; i < COUNT(ranges); i++)
        assert_true(range_list_add(&list, ranges[i][0], ranges[i][1]));
    range_list_merge(&list);
    assert_int_equal(list.n, 3);
    assert_int_equal(list.at[0].begin, 3);
    assert_int_equal(list.at[0].end, 6);
    assert_int_equal(list.at[1].begin, 9);
    assert_int_equal(list.at[1].end, 12);
    assert_true(range_list_overlaps(&list, 5, 9));
    assert_true(range_list_overlaps(&list, 0, 4));
    assert_false(range_list_overlaps(&list, 0, 3));
    assert_false(range_list_overlaps(&list, 6, 9));
    assert_false(range_list_overlaps(&list, 12, 20));
    range_list_free(&list);
}

static const char *const folders[] = { "tests/fixtures/tokenizers/jamba",
                                       "tests/fixtures/tokenizers/llama" };

static struct tokenizer *open_or_fail(const char *folder)
{
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(folder, &err);
    if (tok == NULL)
        fail_msg("%s", err.text);
    return tok;
}

/* In llama's, <|bom|> is looked for in the normalised text, where a space in front belongs to it.
 */
static void spellings_are_found(void **state)
{
    (void)state;
    static const char text[] = "a <|bom|> b<|eom|><|eo <tool_calls>";
    for (size_t i = 0; i < COUNT(folders); i++) {
        struct tokenizer *tok = open_or_fail(folders[i]);
        struct range_list found = { 0 };
        struct err err = { 0 };
        assert_true(tokenizer_find_special(tok, text, strlen(text), &found, &err));
        assert_int_equal(found.n, 2);
        assert_int_equal(found.at[0].begin, i == 0 ? 2 : 1);
        assert_int_equal(found.at[0].end, 9);
        assert_int_equal(found.at[1].begin, 11);
        assert_int_equal(found.at[1].end, 18);
        range_list_free(&found);
        tokenizer_free(tok);
    }
}

static int64_t count_special(const struct tokenizer *tok, const struct range_list *plain)
{
    static const char text[] = "<|bom|> x <|bom|> y <|eom|>";
    struct token_list tokens = { 0 };
    struct err err = { 0 };
    assert_true(tokenizer_encode_template(tok, text, strlen(text), plain, &tokens, &err));
    int64_t n = 0;
    for (int64_t t = 0; t < tokens.n; t++)
        n += tokens.ids[t] == tokenizer_find(tok, "<|bom|>") ||
             tokens.ids[t] == tokenizer_find(tok, "<|eom|>");
    token_list_free(&tokens);
    return n;
}

static void a_spelling_with_a_byte_of_plain_text_stays_text(void **state)
{
    (void)state;
    static const struct {
        size_t begin, end;
        int64_t n[COUNT(folders)];
    } cases[] = {
        { 8, 9, { 3, 3 } },   { 10, 17, { 2, 2 } }, { 16, 17, { 2, 2 } },
        { 10, 11, { 2, 2 } }, { 0, 27, { 0, 0 } },  { 6, 11, { 1, 1 } },
        { 7, 10, { 3, 2 } },  { 17, 20, { 3, 3 } }, { 5, 5, { 3, 3 } },
    };
    for (size_t i = 0; i < COUNT(folders); i++) {
        struct tokenizer *tok = open_or_fail(folders[i]);
        assert_int_equal(count_special(tok, NULL), 3);
        for (size_t k = 0; k < COUNT(cases); k++) {
            struct range_list plain = { 0 };
            if (cases[k].begin < cases[k].end)
                assert_true(range_list_add(&plain, cases[k].begin, cases[k].end));
            assert_int_equal(count_special(tok, &plain), cases[k].n[i]);
            range_list_free(&plain);
        }
        tokenizer_free(tok);
    }
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    (void)state;
    struct tokenizer *tok = open_or_fail(folders[0]);
    struct token_list tokens = { 0 };
    struct range_list found = { 0 };
    struct err err = { 0 };
    assert_false(tokenizer_encode_template(tok, "a\xFF", 2, NULL, &tokens, &err));
    assert_string_equal(err.text, "byte 1: is not UTF-8");
    err = (struct err){ 0 };
    assert_false(tokenizer_find_special(tok, "a\xFF", 2, &found, &err));
    assert_string_equal(err.text, "byte 1: is not UTF-8");
    token_list_free(&tokens);
    range_list_free(&found);
    tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_merge_when_they_touch),
        cmocka_unit_test(spellings_are_found),
        cmocka_unit_test(a_spelling_with_a_byte_of_plain_text_stays_text),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
