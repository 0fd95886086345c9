/* tokenizer.json and tokenizer_config.json files that cannot be used, and what is said about them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "datasets/tokenizer.h"
#include "kernels/core/text.h"
#include "tests/unit/datasets/scratch.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int make_scratch(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    if (s == NULL || scratch_open(s) != 0)
        return -1;
    *state = s;
    return 0;
}

static int remove_scratch(void **state)
{
    scratch_close(*state);
    free(*state);
    return 0;
}

/* A small tokenizer.json, every part of which some case below spoils. */
static const char base[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
    "\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,"
    "\"rstrip\":false,\"normalized\":false,\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"_"
    "\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":"
    "\"Isolated\","
    "\"invert\":false},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<"
    "s>\","
    "\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[0],\"tokens\":[\"<s>\"]}}},"
    "\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0},"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<s>\",\"fuse_unk\":false,"
    "\"byte_fallback\":false,\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"_\":4},"
    "\"merges\":[\"a b\"]}}";

/* The base with the first `from` replaced by `to`. */
static void write_spoilt(struct scratch *s, const char *from, const char *to)
{
    const char *at = strstr(base, from);
    assert_non_null(at);
    struct text t = { 0 };
    text_append(&t, base, (size_t)(at - base));
    text_puts(&t, to);
    text_puts(&t, at + strlen(from));
    assert_false(t.failed);
    assert_non_null(scratch_write(s, "tokenizer.json", t.data, t.len));
    text_free(&t);
}

static void check_refused(struct scratch *s, const char *message)
{
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(s->folder, &err);
    if (tok != NULL) {
        tokenizer_free(tok);
        fail_msg("was accepted; expected: %s", message);
    }
    assert_true(scratch_message_is(s, err.text, message));
}

static void the_base_of_the_spoilt_files_is_sound(void **state)
{
    struct scratch *s = *state;
    write_spoilt(s, "", "");
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(s->folder, &err);
    if (tok == NULL)
        fail_msg("%s", err.text);
    struct token_list out = { 0 };
    assert_true(tokenizer_encode(tok, "ab", 2, true, &out, &err));
    const int32_t expected[] = { 0, 4, 3 };
    assert_int_equal(out.n, 3);
    assert_memory_equal(out.ids, expected, sizeof expected);
    token_list_free(&out);
    tokenizer_free(tok);
}

struct spoilt {
    const char *from, *to, *message;
};

static void check_table(struct scratch *s, const struct spoilt *table, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char message[1024];
        snprintf(message, sizeof message, "tokenizer.json: %s", table[i].message);
        write_spoilt(s, table[i].from, table[i].to);
        check_refused(s, message);
    }
}

static void malformed_models_are_refused(void **state)
{
    static const struct spoilt table[] = {
        { "\"version\":\"1.0\"", "\"version\":\"2.0\"", "\"version\" is 2.0; expected \"1.0\"" },
        { "\"version\":\"1.0\"", "\"version\":1", "\"version\" is an integer; expected \"1.0\"" },
        { "\"model\":", "\"modle\":", "\"model\" is missing; expected a BPE model" },
        { "\"BPE\"", "\"Unigram\"",
          "model: \"type\" is \"Unigram\", which is not supported as a model; expected BPE" },
        { "\"type\":\"BPE\",", "", "model: \"type\" is missing" },
        { "\"type\":\"BPE\"", "\"type\":7", "model: \"type\" is an integer; expected a string" },
        { "\"dropout\":null", "\"dropout\":0.1",
          "model: \"dropout\" is 0.1, which is not supported; expected null" },
        { "\"dropout\":null", "\"dropout\":true",
          "model: \"dropout\" is true or false; expected a number" },
        { "\"dropout\":null", "\"end_of_word_suffix\":\"</w>\"",
          "model: \"end_of_word_suffix\" is \"</w>\", which is not supported; expected null" },
        { "\"dropout\":null", "\"continuing_subword_prefix\":\"##\"",
          "model: \"continuing_subword_prefix\" is \"##\", which is not supported; expected null" },
        { "\"dropout\":null", "\"max_input_chars\":9",
          "model: \"max_input_chars\" is not a setting that is known here" },
        { "\"unk_token\":\"<s>\"", "\"unk_token\":\"<unk>\"",
          "model: \"unk_token\" is \"<unk>\", which is not in the vocabulary" },
        { "\"byte_fallback\":false", "\"byte_fallback\":true",
          "model: \"byte_fallback\" is true but \"<0x00>\" is not in the vocabulary; all 256 bytes "
          "must be" },
        { "\"byte_fallback\":false", "\"byte_fallback\":\"no\"",
          "model: \"byte_fallback\" is a string; expected true or false" },
        { "{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"_\":4}", "{}",
          "model: \"vocab\" is empty; expected an object of pieces and ids" },
        { "{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"_\":4}", "[\"a\"]",
          "model: \"vocab\" is a list; expected an object of pieces and ids" },
        { "\"vocab\":{", "\"vocap\":{", "model: \"vocap\" is not a setting that is known here" },
        { "\"b\":2", "\"b\":1", "model.vocab: \"a\" and \"b\" have the same id 1" },
        { "\"b\":2", "\"b\":-2", "model.vocab: \"b\" has no id from 0 to 4194303" },
        { "\"b\":2", "\"b\":4194304", "model.vocab: \"b\" has no id from 0 to 4194303" },
        { "\"b\":2", "\"b\":2.0", "model.vocab: \"b\" has no id from 0 to 4194303" },
        { "\"b\":2", "\"b\":\"2\"", "model.vocab: \"b\" has no id from 0 to 4194303" },
        { "[\"a b\"]", "{}", "model: \"merges\" is an object; expected a list" },
        { ",\"merges\":[\"a b\"]", "", "model: \"merges\" is missing; expected a list" },
        { "[\"a b\"]", "[\"a b\",\"ab\"]",
          "model.merges[1]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]" },
        { "[\"a b\"]", "[\"a b c\"]",
          "model.merges[0]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]" },
        { "[\"a b\"]", "[\" b\"]",
          "model.merges[0]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]" },
        { "[\"a b\"]", "[[\"a\",\"b\",\"_\"]]",
          "model.merges[0]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]" },
        { "[\"a b\"]", "[[\"a\",7]]",
          "model.merges[0]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]" },
        { "[\"a b\"]", "[7]",
          "model.merges[0]: is not two pieces; expected \"a b\" or [\"a\", \"b\"]" },
        { "[\"a b\"]", "[[\"c\",\"b\"]]",
          "model.merges[0]: \"c\" is not in the vocabulary; both parts and what they make must "
          "be" },
        { "[\"a b\"]", "[\"a c\"]",
          "model.merges[0]: \"c\" is not in the vocabulary; both parts and what they make must "
          "be" },
        { "[\"a b\"]", "[\"a b\",\"b a\"]",
          "model.merges[1]: \"ba\" is not in the vocabulary; both parts and what they make must "
          "be" },
    };
    check_table(*state, table, COUNT(table));
}

static void malformed_added_tokens_are_refused(void **state)
{
    static const struct spoilt table[] = {
        { "\"added_tokens\":[", "\"added_tokens\":3,\"x\":[",
          "\"added_tokens\" is an integer; expected a list" },
        { "\"added_tokens\":[", "\"added_tokens\":[null,",
          "added_tokens[0]: is null; expected an object" },
        { "\"id\":0,\"content\":\"<s>\"", "\"id\":0,\"content\":\"\"",
          "added_tokens[0]: \"content\" is empty" },
        { "\"id\":0,\"content\":\"<s>\"", "\"id\":0,\"content\":\"<\\u0000>\"",
          "added_tokens[0]: \"content\" has a NUL character; none is expected" },
        { "\"id\":0,\"content\"", "\"content\"", "added_tokens[0]: \"id\" is missing" },
        { "\"id\":0,\"content\"", "\"id\":-1,\"content\"",
          "added_tokens[0]: \"id\" is -1; expected 0 to 4194303" },
        { "\"id\":0,\"content\"", "\"id\":1,\"content\"",
          "added_tokens[0]: \"<s>\" has id 1; tokens that the vocabulary lacks are numbered on "
          "from its size, "
          "others have its id, which makes it 0" },
        { "\"id\":0,\"content\":\"<s>\"", "\"id\":9,\"content\":\"<t>\"",
          "added_tokens[0]: \"<t>\" has id 9; tokens that the vocabulary lacks are numbered on "
          "from its size, "
          "others have its id, which makes it 5" },
        { "\"lstrip\":false", "\"lstrip\":0",
          "added_tokens[0]: \"lstrip\" is an integer; expected true or false" },
        { "\"lstrip\":false", "\"lstrop\":false",
          "added_tokens[0]: \"lstrop\" is not a setting that is known here" },
        { "\"rstrip\":false,", "", "added_tokens[0]: \"rstrip\" is missing" },
        { "\"special\":true}",
          "\"special\":true},{\"id\":0,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,"
          "\"rstrip\":false,\"normalized\":false,\"special\":true}",
          "added_tokens[1]: \"<s>\" is there twice" },
    };
    check_table(*state, table, COUNT(table));
}

static void unknown_and_malformed_nodes_are_refused(void **state)
{
    static const struct spoilt table[] = {
        { "\"Prepend\"", "\"NFC\"",
          "normalizer.normalizers[0]: \"type\" is \"NFC\", which is not supported as a normalizer; "
          "expected "
          "Prepend, Replace or Sequence" },
        { "{\"type\":\"Prepend\",\"prepend\":\"_\"}", "\"Prepend\"",
          "normalizer.normalizers[0]: is a string; expected an object with a \"type\"" },
        { "\"prepend\":", "\"prefix\":",
          "normalizer.normalizers[0]: \"prefix\" is not a setting that is known here" },
        { "\"normalizers\":[", "\"normalizers\":{},\"x\":[",
          "normalizer: \"x\" is not a setting that is known here" },
        { "{\"String\":\" \"}", "{\"Regex\":\" \"}",
          "normalizer.normalizers[1].pattern: is a regular expression, which a normalizer cannot "
          "have here; "
          "expected {\"String\": \"...\"}" },
        { "{\"String\":\" \"}", "{\"String\":\"\"}",
          "normalizer.normalizers[1].pattern: is empty; a pattern must match something" },
        { "{\"String\":\" \"}", "\" \"",
          "normalizer.normalizers[1]: \"pattern\" is something else; expected {\"String\": "
          "\"...\"} or "
          "{\"Regex\": \"...\"}" },
        { "\"content\":\"_\"", "\"content\":null",
          "normalizer.normalizers[1]: \"content\" is missing" },
        { "{\"type\":\"Split\"", "{\"type\":\"ByteLevel\"",
          "pre_tokenizer: \"type\" is \"ByteLevel\", which is not supported as a pre-tokenizer; "
          "expected "
          "Metaspace, Split, Digits or Sequence" },
        { "\"Isolated\"", "\"isolated\"",
          "pre_tokenizer: \"behavior\" is \"isolated\"; expected Removed, Isolated, "
          "MergedWithPrevious, "
          "MergedWithNext or Contiguous" },
        { "\\\\d", "^a",
          "pre_tokenizer: the regular expression '^a' has at byte 0 a construct that is not "
          "supported" },
        { "\\\\d", "a[b&&[c]]",
          "pre_tokenizer: the regular expression 'a[b&&[c]]' has at byte 3 a construct that is not "
          "supported" },
        { "\\\\d", "\\\\h+",
          "pre_tokenizer: the regular expression '\\h+' has at byte 0 a construct that is not "
          "supported" },
        { "\\\\d", "a{1,2}+",
          "pre_tokenizer: the regular expression 'a{1,2}+' has at byte 1 a construct that is not "
          "supported" },
        { "\\\\d", "\\\\p",
          "pre_tokenizer: the regular expression '\\p' has at byte 0 a construct that is not "
          "supported" },
        { "\\\\d", "(a",
          "pre_tokenizer: is not a regular expression: missing closing parenthesis" },
        { "\\\\d", "a*", "pre_tokenizer: the regular expression 'a*' can match nothing at all" },
        { "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":\"Isolated\","
          "\"invert\":false}",
          "{\"type\":\"Metaspace\",\"replacement\":\"__\"}",
          "pre_tokenizer: \"replacement\" is \"__\"; expected one character" },
        { "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":\"Isolated\","
          "\"invert\":false}",
          "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}",
          "pre_tokenizer: \"prepend_scheme\" is \"last\"; expected \"never\", \"first\" or "
          "\"always\"" },
        { "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":\"Isolated\","
          "\"invert\":false}",
          "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"add_prefix_"
          "space\":false}",
          "pre_tokenizer: \"add_prefix_space\" is false but \"prepend_scheme\" is \"first\"" },
        { "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":\"Isolated\","
          "\"invert\":false}",
          "{\"type\":\"Digits\"}", "pre_tokenizer: \"individual_digits\" is missing" },
        { "\"TemplateProcessing\"", "\"RobertaProcessing\"",
          "post_processor: \"type\" is \"RobertaProcessing\", which is not supported as a "
          "post-processor; "
          "expected TemplateProcessing or Sequence" },
        { "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}",
          "{\"Sequence\":{\"id\":\"B\",\"type_id\":0}}",
          "post_processor.single[1]: a template for one text must have the sequence \"A\" once" },
        { ",{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", "",
          "post_processor.single: a template for one text must have the sequence \"A\" once" },
        { "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", "\"$A\"",
          "post_processor.single[1]: is something else than {\"Sequence\": ...} or "
          "{\"SpecialToken\": ...}" },
        { "\"ids\":[0]", "\"ids\":[\"<s>\"]",
          "post_processor.single[0]: \"<s>\" has no list of ids in \"special_tokens\"" },
        { "\"ids\":[0]", "\"ids\":[99]", "post_processor: adds the id 99, which no piece has" },
        { "\"Strip\"", "\"WordPiece\"",
          "decoder: \"type\" is \"WordPiece\", which is not supported as a decoder; expected "
          "Replace, "
          "ByteFallback, Fuse, Strip, Metaspace or Sequence" },
        { "\"start\":1", "\"start\":-1", "decoder: \"start\" is -1; expected 0 to 2147483647" },
        { "\"stop\":0", "\"stop\":null", "decoder: \"stop\" is missing" },
        { "\"content\":\" \",\"start\"", "\"content\":\"\",\"start\"",
          "decoder: \"content\" is \"\"; expected one character" },
    };
    check_table(*state, table, COUNT(table));
}

static void nested_sequences_have_a_limit(void **state)
{
    struct scratch *s = *state;
    struct text deep = { 0 };
    for (int i = 0; i < 20; i++)
        text_puts(&deep, "{\"type\":\"Sequence\",\"decoders\":[");
    text_puts(&deep, "{\"type\":\"Fuse\"}");
    for (int i = 0; i < 20; i++)
        text_puts(&deep, "]}");
    write_spoilt(s, "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}", deep.data);
    check_refused(
        s, "tokenizer.json: decoder.decoders[0].decoders[0].decoders[0].decoders[0].decoders[0]."
           "decoders[0].decoders[0].decoders[0]: sequences are nested more than 8 deep");
    text_clear(&deep);
    text_puts(&deep, "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}");
    for (int i = 0; i < 64; i++)
        text_puts(&deep, ",{\"type\":\"Fuse\"}");
    text_puts(&deep, "]}");
    write_spoilt(s, "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}", deep.data);
    check_refused(s, "tokenizer.json: decoder.decoders[64]: more than 64 nodes");
    text_free(&deep);
}

static void files_that_are_not_json_are_refused(void **state)
{
    struct scratch *s = *state;
    scratch_write(s, "tokenizer.json", "", 0);
    check_refused(s, "tokenizer.json: not valid JSON: column 0: unexpected token near end of file");
    scratch_write_text(s, "tokenizer.json", "[]");
    check_refused(s, "tokenizer.json: is a list; expected an object");
    scratch_write_text(s, "tokenizer.json", "{\"model\":1,\"model\":2}");
    check_refused(
        s, "tokenizer.json: not valid JSON: column 18: duplicate object key near '\"model\"'");
    scratch_write_text(s, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\\u0000\":1}}}");
    check_refused(
        s, "tokenizer.json: not valid JSON: column 28: NUL byte in object key not supported near "
           "'\"a\\u0000\"'");
    scratch_write_text(s, "tokenizer.json", "{\"model\":{\"vocab\":{\"\\ud800\":1}}}");
    check_refused(
        s,
        "tokenizer.json: not valid JSON: column 27: invalid Unicode '\\uD800' near '\"\\ud800\"'");
    scratch_write_text(s, "tokenizer.json", "{\"model\":{\"vocab\":{\"\xC0\xAF\":1}}}");
    check_refused(
        s, "tokenizer.json: not valid JSON: column 20: unable to decode byte 0xc0 near '\"'");
}

/* Every cut of a sound file is refused: nothing is read past its end. */
static void truncated_files_are_refused(void **state)
{
    struct scratch *s = *state;
    for (size_t n = 0; n + 1 < sizeof base; n += 7) {
        assert_non_null(scratch_write(s, "tokenizer.json", base, n));
        struct err err = { 0 };
        assert_null(tokenizer_open(s->folder, &err));
        assert_int_equal(err.code, ERR_DATA);
    }
}

/* Changed bytes give an error or a working tokenizer, never a crash. */
static void damaged_files_do_no_harm(void **state)
{
    struct scratch *s = *state;
    static const char bytes[] = "{}[]\",:0129-\\ea\x80";
    char copy[sizeof base];
    int n_open = 0;
    for (size_t i = 0; i + 1 < sizeof base; i++) {
        memcpy(copy, base, sizeof base);
        copy[i] = bytes[i % (sizeof bytes - 1)];
        assert_non_null(scratch_write(s, "tokenizer.json", copy, sizeof base - 1));
        struct err err = { 0 };
        struct tokenizer *tok = tokenizer_open(s->folder, &err);
        if (tok == NULL)
            continue;
        n_open++;
        struct token_list out = { 0 };
        struct text text = { 0 };
        tokenizer_encode_special(tok, "<s>ab a1b \xE6\xBC\xA2", 13, true, &out, &err);
        assert_true(tokenizer_decode(tok, out.ids, out.n, false, &text, &err));
        token_list_free(&out);
        text_free(&text);
        tokenizer_free(tok);
    }
    assert_true(n_open > 10);
}

static void a_folder_without_tokenizer_json_says_what_to_do(void **state)
{
    struct scratch *s = *state;
    remove(scratch_path(s, "tokenizer.json"));
    check_refused(s, "tokenizer.json: is not there; a checkpoint's folder must have it");
    scratch_write_text(s, "tokenizer.model", "x");
    struct err err = { 0 };
    assert_null(tokenizer_open(s->folder, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    assert_non_null(strstr(err.text, "only tokenizer.model is; convert it once: python -c"));
}

static void named_tokens_must_exist(void **state)
{
    struct scratch *s = *state;
    static const struct {
        const char *config, *message;
    } cases[] = {
        { "{\"eos_token\":\"</s>\"}",
          "tokenizer_config.json: \"eos_token\" is \"</s>\", which tokenizer.json does not have" },
        { "{\"bos_token\":{\"content\":\"</s>\"}}",
          "tokenizer_config.json: \"bos_token\" is \"</s>\", which tokenizer.json does not have" },
        { "{\"bos_token\":3}", "tokenizer_config.json: \"bos_token\" is an integer; expected a "
                               "string, or an object with \"content\"" },
        { "{\"bos_token\":{}}", "tokenizer_config.json: \"bos_token\" is an object; expected a "
                                "string, or an object with \"content\"" },
        { "[]", "tokenizer_config.json: is a list; expected an object" },
    };
    write_spoilt(s, "", "");
    for (size_t i = 0; i < COUNT(cases); i++) {
        scratch_write_text(s, "tokenizer_config.json", cases[i].config);
        check_refused(s, cases[i].message);
    }
}

static void a_character_without_a_token_is_named(void **state)
{
    struct scratch *s = *state;
    write_spoilt(s, "\"unk_token\":\"<s>\"", "\"unk_token\":null");
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(s->folder, &err);
    assert_non_null(tok);
    struct token_list out = { 0 };
    assert_false(tokenizer_encode(tok, "ab\xC3\xA9", 4, true, &out, &err));
    assert_string_equal(
        err.text, "byte 2: the tokenizer has no token for the character '\xC3\xA9', and neither "
                  "byte fallback nor an \"unk_token\"");
    assert_int_equal(out.n, 0);
    token_list_free(&out);
    tokenizer_free(tok);
}

static void an_expression_that_never_ends_is_stopped(void **state)
{
    struct scratch *s = *state;
    write_spoilt(s, "\\\\d", "(?:a+)+[bc]");
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(s->folder, &err);
    assert_non_null(tok);
    char text[64];
    memset(text, 'a', sizeof text);
    struct token_list out = { 0 };
    assert_false(tokenizer_encode(tok, text, sizeof text, false, &out, &err));
    assert_string_equal(err.text,
                        "a regular expression of the pre-tokenizer takes too many steps on a "
                        "text of 65 bytes");
    token_list_free(&out);
    tokenizer_free(tok);
}

/* No start of a match takes long here, and there are many of them. */
static void a_word_that_never_matches_takes_no_quadratic_time(void **state)
{
    struct scratch *s = *state;
    write_spoilt(s, "\\\\d", "[ab]+[0-9]");
    struct err err = { 0 };
    struct tokenizer *tok = tokenizer_open(s->folder, &err);
    assert_non_null(tok);
    enum { N = 1 << 20 };
    char *text = malloc(N);
    assert_non_null(text);
    memset(text, 'a', N);
    struct token_list out = { 0 };
    assert_false(tokenizer_encode(tok, text, N, false, &out, &err));
    assert_string_equal(
        err.text, "a regular expression of the pre-tokenizer takes too many steps on a text of "
                  "1048577 bytes");
    assert_int_equal(err.code, ERR_DATA);
    for (int i = 0; i < N; i += 100)
        text[i] = '1';
    if (!tokenizer_encode(tok, text, N, false, &out, &err))
        assert_string_equal(err.text, "");
    token_list_free(&out);
    free(text);
    tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_base_of_the_spoilt_files_is_sound, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(malformed_models_are_refused, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(malformed_added_tokens_are_refused, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(unknown_and_malformed_nodes_are_refused, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(nested_sequences_have_a_limit, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(files_that_are_not_json_are_refused, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(truncated_files_are_refused, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(damaged_files_do_no_harm, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(a_folder_without_tokenizer_json_says_what_to_do,
                                        make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(named_tokens_must_exist, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(a_character_without_a_token_is_named, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(an_expression_that_never_ends_is_stopped, make_scratch,
                                        remove_scratch),
        cmocka_unit_test_setup_teardown(a_word_that_never_matches_takes_no_quadratic_time,
                                        make_scratch, remove_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
