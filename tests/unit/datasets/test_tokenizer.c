/* Tokenizers against the tokenizers package's ids, offsets and texts
 * (tests/reference/make_tokenizers.py), and the rest of their interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "datasets/tokenizer.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define FIXTURES "tests/fixtures/tokenizers/"

static const char *const fixtures[] = { "jamba", "llama", "metaspace", "split" };

/* --- against the reference --- */

static struct tokenizer *open_fixture(const char *name)
{
    char folder[256];
    snprintf(folder, sizeof folder, FIXTURES "%s", name);
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(folder, &err);
    if (tok == NULL)
        fail_msg("%s", err.text);
    return tok;
}

static json_t *load_cases(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, FIXTURES "%s/cases.json", name);
    struct err err = { 0 };
    json_t *cases = json_load_object(path, 1 << 24, &err);
    if (cases == NULL)
        fail_msg("%s", err.text);
    return cases;
}

static void check_ints(const int32_t *have, int64_t n, const json_t *want, const char *what,
                       const char *text)
{
    bool same = n == (int64_t)json_array_size(want);
    for (int64_t i = 0; same && i < n; i++)
        same = have[i] == json_integer_value(json_array_get(want, (size_t)i));
    if (same)
        return;
    for (int64_t i = 0; i < n; i++)
        print_error("%d ", have[i]);
    fail_msg("%s of '%s' differ: %lld of %zu", what, text, (long long)n, json_array_size(want));
}

/* The ids of a list in the cases; the caller frees. */
static int32_t *int_list(const json_t *list, int64_t *n)
{
    *n = (int64_t)json_array_size(list);
    int32_t *ids = malloc(((size_t)*n + 1) * sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

static void check_text(const struct text *have, const json_t *want, const char *what)
{
    const char *text = json_string_value(want);
    const size_t n = json_string_length(want);
    if (have->len != n || memcmp(n > 0 ? have->data : "", n > 0 ? text : "", n) != 0)
        fail_msg("%s: '%s', expected '%s'", what, have->len > 0 ? have->data : "", text);
}

/* Decodes at once and as a stream; each addition to the stream must be whole characters. */
static void check_decode(const struct tokenizer *tok, const json_t *list, bool skip,
                         const json_t *want)
{
    struct err err = { 0 };
    int64_t n = 0;
    int32_t *ids = int_list(list, &n);
    struct text whole = { 0 }, parts = { 0 };
    assert_true(tokenizer_decode(tok, ids, n, skip, &whole, &err));
    check_text(&whole, want, "decode");

    struct token_stream stream = { 0 };
    assert_true(tokenizer_stream_init(&stream, tok, skip, &err));
    for (int64_t i = 0; i <= n; i++) {
        const size_t before = parts.len;
        assert_true(i < n ? tokenizer_stream_push(&stream, ids[i], &parts, &err)
                          : tokenizer_stream_finish(&stream, &parts, &err));
        if (parts.len > before)
            assert_true(text_is_utf8(parts.data + before, parts.len - before, NULL));
    }
    check_text(&parts, want, "stream");
    tokenizer_stream_free(&stream);
    text_free(&whole);
    text_free(&parts);
    free(ids);
}

/* With add_special: the same tokens between the front's, at 0, and the back's, at the end. */
static void check_added(const struct tokenizer *tok, json_t *cases, const char *text, size_t n,
                        const struct token_list *plain)
{
    struct err err = { 0 };
    struct token_list all = { 0 };
    assert_true(tokenizer_encode(tok, text, n, true, &all, &err));
    json_t *front = json_object_get(cases, "front"), *back = json_object_get(cases, "back");
    const int64_t n_front = (int64_t)json_array_size(front),
                  n_back = (int64_t)json_array_size(back);
    assert_int_equal(all.n, n_front + plain->n + n_back);
    check_ints(all.ids, n_front, front, "front", text);
    if (n_back > 0)
        check_ints(all.ids + n_front + plain->n, n_back, back, "back", text);
    for (int64_t i = 0; i < all.n; i++) {
        const int64_t k = i - n_front;
        const int32_t begin = k < 0 ? 0 : k < plain->n ? plain->begin[k] : (int32_t)n;
        assert_int_equal(all.begin[i], begin);
        if (k >= 0 && k < plain->n)
            assert_int_equal(all.ids[i], plain->ids[k]);
    }
    token_list_free(&all);
}

static void check_case(const struct tokenizer *tok, json_t *cases, json_t *item)
{
    const json_t *value = json_object_get(item, "text");
    const char *text = json_string_value(value);
    const size_t n = json_string_length(value);
    struct err err = { 0 };
    struct token_list user = { 0 }, template = { 0 };
    if (!tokenizer_encode(tok, text, n, false, &user, &err) ||
        !tokenizer_encode_special(tok, text, n, false, &template, &err))
        fail_msg("'%s': %s", text, err.text);
    check_ints(user.ids, user.n, json_object_get(item, "ids"), "ids", text);
    check_ints(user.begin, user.n, json_object_get(item, "begin"), "begin", text);
    const bool differ = json_object_get(item, "special_ids") != NULL;
    json_t *ids = json_object_get(item, differ ? "special_ids" : "ids");
    check_ints(template.ids, template.n, ids, "special ids", text);
    check_ints(template.begin, template.n,
               json_object_get(item, differ ? "special_begin" : "begin"), "special begin", text);
    check_added(tok, cases, text, n, &user);

    const json_t *decoded = json_object_get(item, "decoded"),
                 *skipped = json_object_get(item, "skipped");
    check_decode(tok, ids, false, decoded);
    check_decode(tok, ids, true, skipped != NULL ? skipped : decoded);
    token_list_free(&user);
    token_list_free(&template);
}

static void check_fixture(const char *name)
{
    struct tokenizer *tok = open_fixture(name);
    json_t *cases = load_cases(name);
    json_t *texts = json_object_get(cases, "cases"), *decodes = json_object_get(cases, "decodes");
    assert_int_equal(tokenizer_vocab_size(tok),
                     json_integer_value(json_object_get(cases, "vocab_size")));
    assert_int_equal(json_array_size(texts), 318);
    assert_int_equal(json_array_size(decodes), 120);
    for (size_t i = 0; i < json_array_size(texts); i++)
        check_case(tok, cases, json_array_get(texts, i));
    for (size_t i = 0; i < json_array_size(decodes); i++) {
        json_t *item = json_array_get(decodes, i);
        check_decode(tok, json_object_get(item, "ids"), false, json_object_get(item, "decoded"));
        check_decode(tok, json_object_get(item, "ids"), true, json_object_get(item, "skipped"));
    }
    json_decref(cases);
    tokenizer_free(tok);
}

static void equals_the_reference_without_a_pre_tokenizer(void **state)
{
    (void)state;
    check_fixture("jamba");
}

static void equals_the_reference_with_a_prefix_and_its_strip(void **state)
{
    (void)state;
    check_fixture("llama");
}

static void equals_the_reference_with_metaspace_and_digits(void **state)
{
    (void)state;
    check_fixture("metaspace");
}

static void equals_the_reference_with_expressions_and_no_decoder(void **state)
{
    (void)state;
    check_fixture("split");
}

/* --- the rest of the interface --- */

static void finds_pieces_and_configured_tokens(void **state)
{
    (void)state;
    static const int32_t bos[] = { 1, 1, -1, -1 }, eos[] = { 2, 2, 5, -1 };
    for (size_t i = 0; i < COUNT(fixtures); i++) {
        struct tokenizer *tok = open_fixture(fixtures[i]);
        assert_int_equal(tokenizer_bos(tok), bos[i]);
        assert_int_equal(tokenizer_eos(tok), eos[i]);
        assert_int_equal(tokenizer_find(tok, "<|unk|>"), 3);
        assert_int_equal(tokenizer_find(tok, "no such piece"), -1);
        assert_string_equal(tokenizer_piece(tok, 0), "<|pad|>");
        assert_null(tokenizer_piece(tok, -1));
        assert_null(tokenizer_piece(tok, (int32_t)tokenizer_vocab_size(tok)));
        for (int32_t id = 0; id < tokenizer_vocab_size(tok); id++)
            assert_int_equal(tokenizer_find(tok, tokenizer_piece(tok, id)), id);
        tokenizer_free(tok);
    }
}

static void text_that_is_not_utf8_is_refused_where_it_breaks(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "ab\xFF", "byte 2: is not UTF-8" },
        { "\xC0\xAF", "byte 0: is not UTF-8" },             /* overlong */
        { "x\xED\xA0\x80", "byte 1: is not UTF-8" },        /* surrogate */
        { "\xF4\x90\x80\x80", "byte 0: is not UTF-8" },     /* past U+10FFFF */
        { "caf\xC3", "byte 3: is not UTF-8" },              /* cut short */
        { "\xE6\xBC\xA2\xE6\xBC", "byte 3: is not UTF-8" }, /* cut short */
    };
    struct tokenizer *tok = open_fixture("jamba");
    struct token_list out = { 0 };
    assert_true(token_list_add(&out, 7, 0));
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        assert_false(tokenizer_encode(tok, cases[i].text, strlen(cases[i].text), true, &out, &err));
        assert_string_equal(err.text, cases[i].message);
        assert_int_equal(out.n, 1); /* as it was */
    }
    token_list_free(&out);
    tokenizer_free(tok);
}

static void a_negative_id_is_refused_and_an_unknown_one_left_out(void **state)
{
    (void)state;
    struct tokenizer *tok = open_fixture("jamba");
    struct text out = { 0 };
    struct err err = { 0 };
    const int32_t unknown[] = { tokenizer_find(tok, "r"), 1 << 30, tokenizer_find(tok, "s") };
    assert_true(tokenizer_decode(tok, unknown, 3, false, &out, &err));
    assert_string_equal(out.data, "rs");
    const int32_t negative = -100;
    assert_false(tokenizer_decode(tok, &negative, 1, false, &out, &err));
    assert_string_equal(err.text, "-100 is not a token id; expected 0 or more");
    text_free(&out);
    tokenizer_free(tok);
}

/* One word as long as the text: quadratic merging would take minutes here. */
static void a_megabyte_without_spaces_takes_no_quadratic_time(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    char *text = malloc(N);
    assert_non_null(text);
    struct tokenizer *tok = open_fixture("jamba");
    struct err err = { 0 };
    static const struct {
        char byte;
        int64_t n_tok;
    } cases[] = { { ' ', N / 32 }, { '\n', N }, { '7', N } };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct token_list out = { 0 };
        memset(text, cases[i].byte, N);
        assert_true(tokenizer_encode(tok, text, N, false, &out, &err));
        assert_int_equal(out.n, cases[i].n_tok);
        token_list_free(&out);
    }
    tokenizer_free(tok);
    free(text);
}

struct job {
    const struct tokenizer *tok;
    const char *text;
    struct token_list out;
    bool ok;
};

static void *run_job(void *argument)
{
    struct job *job = argument;
    job->ok = true;
    for (int i = 0; i < 50 && job->ok; i++) {
        job->out.n = 0;
        job->ok = tokenizer_encode(job->tok, job->text, strlen(job->text), true, &job->out, NULL);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *tok = open_fixture("split");
    struct job jobs[4];
    pthread_t threads[COUNT(jobs)];
    for (size_t i = 0; i < COUNT(jobs); i++) {
        jobs[i] = (struct job){ .tok = tok,
                                .text = "The river 1984 keeps no diary__, z\n\n being older." };
        assert_int_equal(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
    }
    for (size_t i = 0; i < COUNT(jobs); i++) {
        pthread_join(threads[i], NULL);
        assert_true(jobs[i].ok);
        assert_int_equal(jobs[i].out.n, jobs[0].out.n);
        assert_memory_equal(jobs[i].out.ids, jobs[0].out.ids,
                            (size_t)jobs[0].out.n * sizeof(int32_t));
    }
    for (size_t i = 0; i < COUNT(jobs); i++)
        token_list_free(&jobs[i].out);
    tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_reference_without_a_pre_tokenizer),
        cmocka_unit_test(equals_the_reference_with_a_prefix_and_its_strip),
        cmocka_unit_test(equals_the_reference_with_metaspace_and_digits),
        cmocka_unit_test(equals_the_reference_with_expressions_and_no_decoder),
        cmocka_unit_test(finds_pieces_and_configured_tokens),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_where_it_breaks),
        cmocka_unit_test(a_negative_id_is_refused_and_an_unknown_one_left_out),
        cmocka_unit_test(a_megabyte_without_spaces_takes_no_quadratic_time),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
