/* Small or plain files that ask for much: depth, counts, unfolding, long lines and words. Each is
 * refused with its reason, or read, within two seconds and 256 MiB.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

#include "datasets/source.h"
#include "datasets/tokenizer.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { LIMIT_BYTES = 256 << 20 };
static const double limit_seconds = 2;

/* Twice the limit: others may keep the processor's caches and clock busy. */
static void assert_in_time(const char *what, double seconds)
{
    if (!fuzz_is_sanitized() && seconds > 2 * limit_seconds)
        fail_msg("%s: took %.1f seconds", what, seconds);
}

/* ---- made of a head, units with their number for %d, and a tail ---- */

struct bomb {
    const char *what;
    fuzz_reader *reader;
    const char *head, *unit, *tail;
    int n;
    enum err_code code;  /* ERR_NONE: read */
    const char *message; /* what stands in it */
};

/* The units are written, up to a %d, and the rest of them; \1 is a zero byte. */
static void build(const struct bomb *b, struct text *out)
{
    const char *at = strstr(b->unit, "%d");
    const size_t n_unit = strlen(b->unit), n_front = at != NULL ? (size_t)(at - b->unit) : n_unit;
    text_puts(out, b->head);
    for (int i = 0; i < b->n; i++) {
        text_append(out, b->unit, n_front);
        if (at != NULL)
            text_printf(out, "%d%s", i, at + 2);
    }
    text_puts(out, b->tail);
    assert_false(out->failed);
    for (char *p = out->data; (p = strchr(p, '\1')) != NULL;)
        *p = '\0';
}

/* A safetensors file of that header. */
static void add_header_length(struct text *t)
{
    struct text out = { 0 };
    char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (char)(uint8_t)((uint64_t)t->len >> (8 * i));
    text_append(&out, length, 8);
    text_append(&out, t->data, t->len);
    assert_false(out.failed);
    text_free(t);
    *t = out;
}

static void explode(const struct bomb *b)
{
    struct text t = { 0 };
    struct err err;
    build(b, &t);
    if (b->reader == fuzz_safetensors)
        add_header_length(&t);
    fuzz_limit_memory(LIMIT_BYTES);
    alarm(60);
    const double begin = fuzz_seconds();
    const bool ok = fuzz_run(b->reader, (const uint8_t *)t.data, t.len, &err);
    const double seconds = fuzz_seconds() - begin;
    alarm(0);
    fuzz_unlimit_memory();
    text_free(&t);
    if ((ok ? ERR_NONE : err.code) != b->code || (!ok && strstr(err.text, b->message) == NULL))
        fail_msg("%s: %s", b->what, ok ? "was read" : err.text);
    assert_in_time(b->what, seconds);
}

#define TOO_MANY "has so many values that they would take more than 192 MiB of memory"
#define TOO_DEEP "maximum parsing depth reached"
#define TOKENIZER(added, vocab, merges)                                                            \
    "{\"added_tokens\":[" added "],\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab                  \
    "},\"merges\":[" merges "]}}"
#define TENSOR "\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"

static const struct bomb bombs[] = {
    { "lists in lists", fuzz_json, "", "[", "", 1000000, ERR_DATA, TOO_DEEP },
    { "objects in objects", fuzz_json, "", "{\"a\":", "", 500000, ERR_DATA, TOO_DEEP },
    { "more objects in objects", fuzz_json, "", "{\"a\":", "", 1000000, ERR_DATA, TOO_MANY },
    { "many empty lists", fuzz_json, "[[]", ",[]", "]", 5000000, ERR_DATA, TOO_MANY },
    { "many members", fuzz_json, "{\"a\":0", ",\"k%d\":0", "}", 2000000, ERR_DATA, TOO_MANY },
    { "a string of 16 MiB", fuzz_json, "\"", "0123456789abcdef", "\"", 1 << 20, ERR_NONE, "" },
    { "a number of a million digits", fuzz_json, "", "1", "", 1000000, ERR_DATA,
      "too big integer" },
    { "a deep config", fuzz_config, "{\"a\":", "[", "", 1000000, ERR_DATA, TOO_DEEP },
    { "an index of a million tensors", fuzz_index, "{\"weight_map\":{\"a\":\"1.safetensors\"",
      ",\"t%d\":\"1.safetensors\"", "}}", 1000000, ERR_DATA, TOO_MANY },
    { "an index of fewer", fuzz_index, "{\"weight_map\":{\"a\":\"1.safetensors\"",
      ",\"t%d\":\"2.safetensors\"", "}}", 300000, ERR_DATA,
      "is not in '2.safetensors', where the index has it" },
    { "a million tensors", fuzz_safetensors, "{\"a\":{" TENSOR, ",\"t%d\":{" TENSOR, "}", 1000000,
      ERR_DATA, TOO_MANY },
    { "a hundred thousand tensors", fuzz_safetensors, "{\"a\":{" TENSOR, ",\"t%d\":{" TENSOR, "}",
      100000, ERR_NONE, "" },
    { "a long list of modules", fuzz_adapter, "{\"peft_type\":\"LORA\",\"target_modules\":[\"q\"",
      ",\"m%d\"", "]}\1", 40000, ERR_DATA, "has 0 bytes" },
    { "an expression that backtracks", fuzz_adapter,
      "{\"peft_type\":\"LORA\",\"target_modules\":\"", "(.+)+", "!\"}\1", 40, ERR_DATA,
      "has 0 bytes" },
    { "a recipe of unknown keys", fuzz_recipe, "", "lora_%d: 1\n", "", 4900, ERR_RECIPE,
      "unknown key" },
    { "a key of 900000 bytes", fuzz_recipe, "? ", "lora_alpha", "\n: 1\n", 90000, ERR_RECIPE,
      "; `jambatune explain` lists the keys" },
    { "a value of a megabyte", fuzz_recipe, "lora_target_modules: ", "((a+)+)", "", 140000,
      ERR_NONE, "" },
    { "laughs", fuzz_recipe, "a: &a [x]\n", "b%d: [*a,*a,*a,*a]\n", "", 9, ERR_RECIPE,
      "an anchor ('&')" },
    { "a path of overrides", fuzz_recipe, "lora_r: 1\n\1", "datasets.", "path=x", 1000, ERR_USAGE,
      "" },
    { "a deep record", fuzz_records, "{\"text\":", "[", "", 1000000, ERR_DATA, TOO_DEEP },
    { "five million ids", fuzz_records, "{\"input_ids\":[1", ",1", "]}", 5000000, ERR_DATA,
      TOO_MANY },
    { "a million ids", fuzz_records, "{\"input_ids\":[1", ",1", "]}", 1000000, ERR_NONE, "" },
    { "a list of many records", fuzz_records, "[{\"text\":\"a\"}", ",{\"text\":\"b\"}", "]", 20000,
      ERR_NONE, "" },
    { "a long line", fuzz_records, "{\"text\":\"", "0123456789abcdef", "\"}", 1 << 21, ERR_DATA,
      "x.jsonl:1: is longer than 16 MiB; expected one record a line" },
    { "an element that never ends", fuzz_records, "[[", "0123456789abcdef", "", 1 << 21, ERR_DATA,
      "x.jsonl[0]: is longer than 16 MiB; expected one record (is a quote or a bracket left "
      "open?)" },
    { "blank lines", fuzz_records, "", "\n\n\n\n\n\n\n\n", "{\"text\": \"a\"}", 1 << 20, ERR_NONE,
      "" },
    { "a talk without end", fuzz_records, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}",
      ",{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"a\"}", "]}",
      20000, ERR_NONE, "" },
    { "the largest id", fuzz_tokenizer, TOKENIZER("", "\"a\":4194303", ""), "", "", 0, ERR_NONE,
      "" },
    { "an id too large", fuzz_tokenizer, TOKENIZER("", "\"a\":4194304", ""), "", "", 0, ERR_DATA,
      "has no id from 0 to 4194303" },
    { "many pieces", fuzz_tokenizer, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":300000",
      ",\"p%d\":1", "},\"merges\":[]}}", 300000, ERR_DATA, "have the same id 1" },
    { "many merges of nothing", fuzz_tokenizer,
      "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\"", ",\"a a\"",
      "]}}", 1000000, ERR_NONE, "" },
    { "a piece of a megabyte", fuzz_tokenizer, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"", "a",
      "\":0},\"merges\":[]}}", 1 << 20, ERR_NONE, "" },
    { "a long chat template", fuzz_template, "{\"chat_template\":\"", "{{ a.b }}", "\"}", 116000,
      ERR_NONE, "" },
    { "a template that is a book", fuzz_template, "{\"chat_template\":\"", "0123456789abcdef",
      "\"}", 1 << 20, ERR_NONE, "" },
    { "blocks in blocks", fuzz_jinja, "", "{% if a %}", "", 400000, ERR_DATA, "" },
    { "names without end", fuzz_jinja, "{{ ", "a ~ ", "a }}", 400000, ERR_NONE, "" },
};

static void each_is_refused_or_read_in_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bombs); i++)
        explode(&bombs[i]);
}

/* ---- words without an end ---- */

/* About 45 bytes a character where nothing can be cut: two texts with their alignment, the symbols
 * and the merges waiting, the tokens. */
enum { WORD_BYTES = 10 << 20, WORD_LIMIT_BYTES = 512 << 20 };

static void encode_word(const struct tokenizer *tok, const char *what, const char *unit)
{
    struct text word = { 0 };
    struct token_list out = { 0 };
    struct err err = { 0 };
    const size_t n = fuzz_is_sanitized() ? WORD_BYTES / 10 : WORD_BYTES;
    while (word.len < n)
        text_puts(&word, unit);
    fuzz_limit_memory(WORD_LIMIT_BYTES);
    const double begin = fuzz_seconds();
    const bool ok = tokenizer_encode(tok, word.data, word.len, true, &out, &err);
    assert_in_time(what, fuzz_seconds() - begin);
    fuzz_unlimit_memory();
    /* A match has a bound of its own. */
    if (!ok &&
        strstr(err.text, "a regular expression of the pre-tokenizer takes too many steps") == NULL)
        fail_msg("%s: %s: %s", what, unit, err.text);
    assert_true(ok ? out.n > 0 : err.code == ERR_DATA && out.n == 0);
    token_list_free(&out);
    text_free(&word);
}

static void a_word_of_ten_megabytes_is_read_in_time(void **state)
{
    (void)state;
    static const char *const folders[] = {
        "recipes/quickstart/base",         "tests/fixtures/tokenizers/jamba",
        "tests/fixtures/tokenizers/llama", "tests/fixtures/tokenizers/metaspace",
        "tests/fixtures/tokenizers/split",
    };
    static const char *const units[] = { "a", "thequickbrownfox", "7" };
    for (size_t i = 0; i < COUNT(folders); i++) {
        struct tokenizer *tok = tokenizer_open(folders[i], NULL);
        assert_non_null(tok);
        for (size_t u = 0; u < COUNT(units); u++)
            encode_word(tok, folders[i], units[u]);
        tokenizer_free(tok);
    }
}

/* ---- lines without an end ---- */

static void expect_long_line(const char *path, const char *message)
{
    struct err err = { 0 };
    json_t *record = NULL;
    fuzz_limit_memory(LIMIT_BYTES);
    const double begin = fuzz_seconds();
    struct source *s = source_open(path, &err);
    assert_non_null(s);
    assert_int_equal(source_next(s, &record, &err), SOURCE_ERROR);
    assert_int_equal(err.code, ERR_DATA);
    assert_non_null(strstr(err.text, message));
    source_close(s);
    assert_in_time(path, fuzz_seconds() - begin);
    fuzz_unlimit_memory();
}

static void a_gibibyte_in_one_line_is_not_held(void **state)
{
    (void)state;
    char path[FUZZ_PATH_SIZE];
    fuzz_write("records", "sparse.jsonl", "", 0, path);
    assert_int_equal(truncate(path, (off_t)1 << 30), 0);
    expect_long_line(path, "sparse.jsonl:1: is longer than 16 MiB; expected one record a line");
    unlink(path);
}

/* A gibibyte of spaces in a megabyte: 1028 to 1. */
static void a_gzip_bomb_is_not_unfolded(void **state)
{
    (void)state;
    static unsigned char piece[1 << 16], packed[1 << 21];
    char path[FUZZ_PATH_SIZE];
    z_stream z = { .next_out = packed, .avail_out = sizeof packed };
    memset(piece, ' ', sizeof piece);
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY), Z_OK);
    for (int i = 0; i < 1 << 14; i++) {
        z.next_in = piece;
        z.avail_in = sizeof piece;
        assert_int_equal(deflate(&z, i + 1 == 1 << 14 ? Z_FINISH : Z_NO_FLUSH),
                         i + 1 == 1 << 14 ? Z_STREAM_END : Z_OK);
    }
    fuzz_write("records", "bomb.jsonl.gz", packed, z.total_out, path);
    deflateEnd(&z);
    expect_long_line(path, "bomb.jsonl.gz:1: is longer than 16 MiB; expected one record a line");
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_refused_or_read_in_bounds),
        cmocka_unit_test(a_gibibyte_in_one_line_is_not_held),
        cmocka_unit_test(a_gzip_bomb_is_not_unfolded),
        cmocka_unit_test(a_word_of_ten_megabytes_is_read_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
