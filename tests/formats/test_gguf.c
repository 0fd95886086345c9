/* The GGUF container: round trips, the exact message of every malformed header, every truncation
 * and every changed byte of a small file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "kernels/format/gguf.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- files from pieces ---- */

static void put(struct text *t, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        text_append(t, &(const char){ (char)(value >> (8 * i) & 0xFF) }, 1);
}

static void put_string(struct text *t, const char *s)
{
    put(t, strlen(s), 8);
    text_puts(t, s);
}

static void put_head(struct text *t, uint64_t n_tensor, uint64_t n_key)
{
    text_puts(t, "GGUF");
    put(t, 3, 4);
    put(t, n_tensor, 8);
    put(t, n_key, 8);
}

/* A key of one u32. */
static void put_u32(struct text *t, const char *key, uint32_t value)
{
    put_string(t, key);
    put(t, GGUF_U32, 4);
    put(t, value, 4);
}

static void put_tensor(struct text *t, const char *name, uint64_t inner, uint64_t outer,
                       uint32_t type, uint64_t offset)
{
    put_string(t, name);
    put(t, 2, 4);
    put(t, inner, 8);
    put(t, outer, 8);
    put(t, type, 4);
    put(t, offset, 8);
}

static void pad(struct text *t)
{
    while (t->len % GGUF_ALIGNMENT != 0)
        put(t, 0, 1);
}

/* Two keys and two tensors, well-formed: (2, 3) F32 and (1, 4) F16. */
static void put_good(struct text *t)
{
    put_head(t, 2, 3);
    put_u32(t, "n", 7);
    put_string(t, "name");
    put(t, GGUF_STRING, 4);
    put_string(t, "jamba");
    put_string(t, "list");
    put(t, GGUF_ARRAY, 4);
    put(t, GGUF_STRING, 4);
    put(t, 2, 8);
    put_string(t, "a");
    put_string(t, "");
    put_tensor(t, "x", 3, 2, 0, 0);
    put_tensor(t, "y", 4, 1, 1, 32);
    pad(t);
    for (int i = 0; i < 40; i++)
        put(t, (uint64_t)i, 1);
}

static bool read_text(const struct text *t, struct gguf *g, struct err *err)
{
    /* A copy of its own size: reading past its end is seen by the sanitizer. */
    assert_false(t->failed);
    char *bytes = malloc(t->len + (t->len == 0));
    assert_non_null(bytes);
    if (t->len > 0)
        memcpy(bytes, t->data, t->len);
    const bool ok = gguf_read(bytes, t->len, "t.gguf", g, err);
    if (ok)
        gguf_close(g); /* what it handed out was inside `bytes` */
    free(bytes);
    return ok;
}

/* ---- reading ---- */

static void a_file_is_read_as_it_is(void **state)
{
    (void)state;
    struct text t = { 0 };
    struct gguf g = { 0 };
    struct err err = { 0 };
    put_good(&t);
    assert_true(gguf_read(t.data, t.len, "t.gguf", &g, &err));
    assert_int_equal(g.n_kv, 3);
    assert_int_equal(g.n_tensor, 2);
    uint32_t n = 0;
    float f = 0;
    assert_true(gguf_get_u32(&g, "n", &n) && n == 7);
    assert_false(gguf_get_f32(&g, "n", &f)); /* of another type */
    assert_false(gguf_get_u32(&g, "m", &n));
    assert_true(gguf_says(&g, "name", "jamba"));
    assert_false(gguf_says(&g, "name", "jamb") || gguf_says(&g, "name", "jambas"));
    const struct gguf_tensor *x = gguf_find(&g, "x"), *y = gguf_find(&g, "y");
    assert_true(x != NULL && x->dtype == DTYPE_F32 && x->n_dim == 2);
    assert_true(x->dims[0] == 2 && x->dims[1] == 3 && x->bytes == 24);
    assert_true(y != NULL && y->dtype == DTYPE_F16 && y->dims[0] == 1 && y->dims[1] == 4);
    assert_int_equal(x->data[1], 1);
    assert_ptr_equal(y->data, x->data + 32);
    assert_null(gguf_find(&g, "z"));
    const struct gguf_kv *list = gguf_key(&g, "list");
    const char *s = NULL;
    size_t at = 0, len = 9;
    assert_true(gguf_next_string(list, &at, &s, &len) && len == 1 && *s == 'a');
    assert_true(gguf_next_string(list, &at, &s, &len) && len == 0);
    assert_false(gguf_next_string(list, &at, &s, &len));
    gguf_close(&g);
    text_free(&t);
}

static void nothing_at_all_is_a_file_too(void **state)
{
    (void)state;
    struct text t = { 0 };
    struct gguf g = { 0 };
    struct err err = { 0 };
    put_head(&t, 0, 0);
    assert_true(gguf_read(t.data, t.len, "t.gguf", &g, &err));
    assert_null(gguf_find(&g, "x"));
    assert_null(gguf_key(&g, "x"));
    gguf_close(&g);
    text_free(&t);
}

/* Every part that a header can get wrong; each puts a whole file. */
static void no_magic(struct text *t)
{
    text_puts(t, "GGML1234567890123456789012345678");
}
static void short_magic(struct text *t)
{
    text_puts(t, "GG");
}
static void version_4(struct text *t)
{
    text_puts(t, "GGUF");
    put(t, 4, 4);
    put(t, 0, 8);
    put(t, 0, 8);
}
static void big_endian(struct text *t)
{
    text_puts(t, "GGUF");
    put(t, 0x03000000, 4);
}
static void too_many_keys(struct text *t)
{
    put_head(t, 0, UINT64_MAX);
    put_u32(t, "n", 1);
}
static void too_many_tensors(struct text *t)
{
    put_head(t, UINT64_MAX / 2, 0);
    put_u32(t, "n", 1);
}
static void long_key(struct text *t)
{
    put_head(t, 0, 1);
    put(t, UINT64_MAX, 8);
    put(t, 0, 8);
}
static void empty_key(struct text *t)
{
    put_head(t, 0, 1);
    put_u32(t, "", 1);
    put(t, 0, 8);
}
static void control_key(struct text *t)
{
    put_head(t, 0, 1);
    put_u32(t, "a\x1b", 1);
}
static void key_no_utf8(struct text *t)
{
    put_head(t, 0, 1);
    put_u32(t, "a\xFF", 1);
}
static void key_twice(struct text *t)
{
    put_head(t, 0, 3);
    put_u32(t, "n", 1);
    put_u32(t, "m", 1);
    put_u32(t, "n", 2);
}
static void unknown_type(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "n");
    put(t, 13, 4);
}
static void nested_array(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "n");
    put(t, GGUF_ARRAY, 4);
    put(t, GGUF_ARRAY, 4);
    put(t, 0, 8);
}
static void long_array(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "n");
    put(t, GGUF_ARRAY, 4);
    put(t, GGUF_U64, 4);
    put(t, (uint64_t)1 << 61, 8); /* times 8 bytes: 2^64 */
}
static void many_strings(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "n");
    put(t, GGUF_ARRAY, 4);
    put(t, GGUF_STRING, 4);
    put(t, UINT64_MAX, 8);
}
static void long_string_in_array(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "n");
    put(t, GGUF_ARRAY, 4);
    put(t, GGUF_STRING, 4);
    put(t, 1, 8);
    put(t, 5, 8);
    text_puts(t, "abcd");
}
static void odd_bool(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "n");
    put(t, GGUF_BOOL, 4);
    put(t, 2, 1);
}
static void long_name(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "0123456789012345678901234567890123456789012345678901234567890123", 1, 1, 0, 0);
}
static void empty_name(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "", 1, 1, 0, 0);
}
static void name_twice(struct text *t)
{
    put_head(t, 2, 0);
    put_tensor(t, "x", 1, 1, 0, 0);
    put_tensor(t, "x", 1, 1, 0, 32);
    pad(t);
    put(t, 0, 8);
    pad(t);
    put(t, 0, 4);
}
static void five_dims(struct text *t)
{
    put_head(t, 1, 0);
    put_string(t, "x");
    put(t, 5, 4);
    put(t, 1, 8);
}
static void negative_dim(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "x", UINT64_MAX, 1, 0, 0);
}
static void overflowing_dims(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "x", (uint64_t)1 << 40, (uint64_t)1 << 40, 0, 0);
}
static void quantized(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "x", 32, 1, 8, 0);
}
static void offset_not_zero(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "x", 1, 1, 0, 32);
    pad(t);
    put(t, 0, 8);
    pad(t);
    put(t, 0, 4);
}
static void gap(struct text *t)
{
    put_head(t, 2, 0);
    put_tensor(t, "x", 1, 1, 0, 0);
    put_tensor(t, "y", 1, 1, 0, 64);
    pad(t);
    for (int i = 0; i < 100; i++)
        put(t, 0, 1);
}
static void short_data(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "x", 3, 1, 0, 0);
    pad(t);
    for (int i = 0; i < 11; i++)
        put(t, 0, 1);
}
static void huge_data(struct text *t)
{
    put_head(t, 1, 0);
    put_tensor(t, "x", (uint64_t)1 << 61, 1, 0, 0); /* 2^63 bytes: begin + bytes overflows */
    pad(t);
}
static void alignment_odd(struct text *t)
{
    put_head(t, 0, 1);
    put_u32(t, "general.alignment", 24);
}
static void alignment_zero(struct text *t)
{
    put_head(t, 0, 1);
    put_u32(t, "general.alignment", 0);
}
static void alignment_huge(struct text *t)
{
    put_head(t, 0, 1);
    put_u32(t, "general.alignment", (uint32_t)1 << 31);
}
static void alignment_string(struct text *t)
{
    put_head(t, 0, 1);
    put_string(t, "general.alignment");
    put(t, GGUF_STRING, 4);
    put_string(t, "32");
}

static void malformed_file_is_refused_with_the_reason(void **state)
{
    (void)state;
    static const struct {
        void (*make)(struct text *t);
        const char *expected;
    } cases[] = {
        { no_magic, "is no GGUF file: it does not begin with 'GGUF'" },
        { short_magic, "is no GGUF file: it does not begin with 'GGUF'" },
        { version_4, "has GGUF version 4; expected 3, or 2" },
        { big_endian, "is a big-endian GGUF file; only little-endian ones are read" },
        { too_many_keys, "says it has 18446744073709551615 keys and 0 tensors, more than its 41 "
                         "bytes can hold" },
        { too_many_tensors, "says it has 0 keys and 9223372036854775807 tensors, more than its 41 "
                            "bytes can hold" },
        { long_key, "has a string of 18446744073709551615 bytes at byte 32, where 8 follow" },
        { empty_key, "the key at byte 24 is no text of 1 to 65535 bytes without control "
                     "characters" },
        { control_key, "the key at byte 24 is no text of 1 to 65535 bytes without control "
                       "characters" },
        { key_no_utf8, "the key at byte 24 is no text of 1 to 65535 bytes without control "
                       "characters" },
        { key_twice, "key 'n' is there twice" },
        { unknown_type, "says it has 1 keys and 0 tensors, more than its 37 bytes can hold" },
        { nested_array, "key 'n': is an array of type 9; expected numbers, bools or strings" },
        { long_array, "key 'n': has 2305843009213693952 elements, more than the file can hold" },
        { many_strings, "has an array of 18446744073709551615 strings, more than its bytes can "
                        "hold" },
        { long_string_in_array, "has a string of 5 bytes at byte 57, where 4 follow" },
        { odd_bool, "key 'n': is a bool of value 2; expected 0 or 1" },
        { long_name, "the tensor name at byte 24 is no text of 1 to 63 bytes without control "
                     "characters" },
        { empty_name, "the tensor name at byte 24 is no text of 1 to 63 bytes without control "
                      "characters" },
        { name_twice, "tensor 'x': is there twice" },
        { five_dims, "says it has 0 keys and 1 tensors, more than its 45 bytes can hold" },
        { negative_dim, "tensor 'x': shape is too large" },
        { overflowing_dims, "tensor 'x': shape is too large" },
        { quantized, "tensor 'x': has ggml's type 8; expected F32, F16, BF16 or a plain integer "
                     "(quantized ones are not read)" },
        { offset_not_zero, "tensor 'x': data begins at 32; expected 0" },
        { gap, "tensor 'y': data begins at 64; expected 32" },
        { short_data, "tensor 'x': has 12 bytes at 0 of the data, but the file has 107 in all; is "
                      "it cut short?" },
        { huge_data, "tensor 'x': has 9223372036854775808 bytes at 0 of the data, but the file has "
                     "96 in all; is it cut short?" },
        { alignment_odd, "key 'general.alignment': is 24; expected a power of two up to 1048576" },
        { alignment_zero, "key 'general.alignment': is 0; expected a power of two up to 1048576" },
        { alignment_huge, "key 'general.alignment': is 2147483648; expected a power of two up to "
                          "1048576" },
        { alignment_string, "key 'general.alignment': is no u32" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct text t = { 0 };
        struct gguf g = { 0 };
        struct err err = { 0 };
        cases[i].make(&t);
        if (read_text(&t, &g, &err))
            fail_msg("case %zu was read; expected '%s'", i, cases[i].expected);
        assert_int_equal(err.code, ERR_DATA);
        assert_true(text_starts_with(err.text, "t.gguf: "));
        assert_string_equal(err.text + 8, cases[i].expected);
        assert_null(g.tensors);
        text_free(&t);
    }
}

/* Types and dimensions behind the bound on counts: with bytes to spare at the end. */
static void a_header_with_bytes_behind_it_is_checked_too(void **state)
{
    (void)state;
    static const struct {
        void (*make)(struct text *t);
        const char *expected;
    } cases[] = {
        { unknown_type, "t.gguf: key 'n': has type 13; expected 0 to 12" },
        { five_dims, "t.gguf: tensor 'x': has 5 dimensions; expected at most 4" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct text t = { 0 };
        struct gguf g = { 0 };
        struct err err = { 0 };
        cases[i].make(&t);
        for (int j = 0; j < 100; j++)
            put(&t, 0, 1);
        assert_false(read_text(&t, &g, &err));
        assert_string_equal(err.text, cases[i].expected);
        text_free(&t);
    }
}

static void every_truncation_is_an_error(void **state)
{
    (void)state;
    struct text t = { 0 };
    put_good(&t);
    const size_t whole = t.len;
    for (size_t n = 0; n < whole; n++) {
        struct gguf g = { 0 };
        struct err err = { 0 };
        t.len = n;
        if (read_text(&t, &g, &err))
            fail_msg("the first %zu of %zu bytes were read", n, whole);
        assert_int_equal(err.code, ERR_DATA);
    }
    t.len = whole;
    struct gguf g = { 0 };
    struct err err = { 0 };
    assert_true(read_text(&t, &g, &err));
    text_free(&t);
}

/* Whatever comes of it, nothing outside the bytes is touched. */
static void every_changed_byte_is_survived(void **state)
{
    (void)state;
    static const unsigned char changes[] = { 0x01, 0x80, 0xFF, 0x20 };
    struct text t = { 0 };
    put_good(&t);
    int refused = 0;
    for (size_t i = 0; i < t.len; i++) {
        for (size_t c = 0; c < COUNT(changes); c++) {
            struct gguf g = { 0 };
            struct err err = { 0 };
            t.data[i] = (char)(t.data[i] ^ (char)changes[c]);
            refused += !read_text(&t, &g, &err);
            t.data[i] = (char)(t.data[i] ^ (char)changes[c]);
        }
    }
    assert_in_range(refused, 400, 4 * t.len); /* counts, lengths, types and offsets among them */
    text_free(&t);
}

static void a_file_that_is_not_there_is_named(void **state)
{
    (void)state;
    struct gguf g = { 0 };
    struct err err = { 0 };
    assert_false(gguf_open("/nowhere/x.gguf", &g, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    assert_string_equal(err.text, "/nowhere/x.gguf: No such file or directory");
}

/* ---- writing ---- */

static int make_folder(void **state)
{
    *state = tiny_scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    tiny_scratch_remove(*state);
    return 0;
}

static void put_keys(struct gguf_writer *w)
{
    gguf_put_u32(w, "u", 0xFFFFFFFF);
    gguf_put_f32(w, "f", -0.5f);
    gguf_put_bool(w, "yes", true);
    gguf_put_bool(w, "no", false);
    gguf_put_string(w, "s", "a\0b", 3);
    gguf_put_array(w, "ints", GGUF_I32, 2);
    gguf_item_i32(w, -1);
    gguf_item_i32(w, 5);
    gguf_put_array(w, "strings", GGUF_STRING, 3);
    gguf_item_string(w, "one", 3);
    gguf_item_string(w, "", 0);
    gguf_item_string(w, "three", 5);
}

static void check_keys(const struct gguf *g)
{
    uint32_t u = 0;
    float f = 0;
    bool yes = false, no = true;
    const char *s = NULL;
    size_t n = 0;
    assert_true(gguf_get_u32(g, "u", &u) && u == 0xFFFFFFFF);
    assert_true(gguf_get_f32(g, "f", &f) && f == -0.5f);
    assert_true(gguf_get_bool(g, "yes", &yes) && yes && gguf_get_bool(g, "no", &no) && !no);
    assert_true(gguf_get_string(g, "s", &s, &n) && n == 3 && memcmp(s, "a\0b", 3) == 0);
    const struct gguf_kv *ints = gguf_key(g, "ints");
    assert_true(ints->element == GGUF_I32 && ints->n == 2 && ints->bytes == 8);
    assert_memory_equal(ints->data, "\xFF\xFF\xFF\xFF\x05\0\0\0", 8);
    assert_int_equal(gguf_key(g, "strings")->n, 3);
}

static void what_is_written_is_read_back(void **state)
{
    static const int64_t dims[][3] = { { 2, 3, 1 }, { 5, 0, 0 }, { 0, 4, 0 }, { 2, 2, 2 } };
    char *path = file_join(*state, "t.gguf");
    struct gguf_writer w = { 0 };
    struct gguf g = { 0 };
    struct err err = { 0 };
    uint8_t data[64];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i + 1);
    put_keys(&w);
    assert_true(gguf_add_tensor(&w, "a", DTYPE_F32, 3, dims[0], &err));
    assert_true(gguf_add_tensor(&w, "b", DTYPE_BF16, 1, dims[1], &err));
    assert_true(gguf_add_tensor(&w, "empty", DTYPE_F32, 2, dims[2], &err));
    assert_true(gguf_add_tensor(&w, "c", DTYPE_F16, 3, dims[3], &err));
    assert_true(gguf_begin(&w, path, &err));
    assert_true(gguf_data(&w, data, 20, &err) && gguf_data(&w, data + 20, 4, &err)); /* a */
    assert_true(gguf_data(&w, data + 24, 10, &err));                                 /* b */
    assert_true(gguf_data(&w, data + 34, 0, &err) && gguf_data(&w, data + 34, 16, &err));
    assert_false(file_exists(path)); /* until all is there */
    assert_true(gguf_open(gguf_uncommitted(&w), &g, &err));
    gguf_close(&g);
    assert_true(gguf_commit(&w, &err));
    gguf_abandon(&w);

    assert_true(gguf_open(path, &g, &err));
    check_keys(&g);
    assert_int_equal(g.n_tensor, 4);
    for (int64_t i = 0, at = 0; i < 4; at += (int64_t)g.tensors[i].bytes, i++) {
        if (g.tensors[i].bytes > 0)
            assert_memory_equal(g.tensors[i].data, data + at, g.tensors[i].bytes);
    }
    const struct gguf_tensor *c = gguf_find(&g, "c"), *empty = gguf_find(&g, "empty");
    assert_true(c->dtype == DTYPE_F16 && c->n_dim == 3 && c->dims[2] == 2 && c->bytes == 16);
    assert_true(empty->dims[0] == 0 && empty->dims[1] == 4 && empty->data == NULL);
    assert_int_equal((c->data - g.map.data) % GGUF_ALIGNMENT, 0);
    gguf_close(&g);
    free(path);
}

static void an_abandoned_file_leaves_nothing(void **state)
{
    const int64_t dims[] = { 4 };
    char *path = file_join(*state, "u.gguf");
    struct gguf_writer w = { 0 };
    struct err err = { 0 };
    assert_true(gguf_add_tensor(&w, "a", DTYPE_F32, 1, dims, &err) && gguf_begin(&w, path, &err));
    char *temporary = text_copy(gguf_uncommitted(&w));
    assert_true(file_exists(temporary));
    gguf_abandon(&w);
    assert_false(file_exists(temporary) || file_exists(path));
    free(temporary);
    free(path);
}

static void a_name_that_ggml_would_refuse_is_refused(void **state)
{
    (void)state;
    static const char name[] = "blk.0.0123456789012345678901234567890123456789012345678.weight"
                               ".lora_a";
    const int64_t dims[] = { INT64_C(1) << 40, INT64_C(1) << 40 };
    struct gguf_writer w = { 0 };
    struct err err = { 0 };
    assert_false(gguf_add_tensor(&w, name, DTYPE_F32, 1, dims, &err));
    assert_string_equal(err.text,
                        "tensor 'blk.0.0123456789012345678901234567890123456789012345678.weight"
                        ".lora_a': has a name of 69 bytes; GGUF files hold names of up to 63");
    assert_false(gguf_add_tensor(&w, "x", DTYPE_F32, 2, dims, &err));
    assert_string_equal(err.text, "tensor 'x': is too large");
    gguf_abandon(&w);
}

static void a_folder_that_is_not_there_is_named(void **state)
{
    (void)state;
    struct gguf_writer w = { 0 };
    struct err err = { 0 };
    assert_false(gguf_begin(&w, "/nowhere/x.gguf", &err));
    assert_int_equal(err.code, ERR_CANT_CREATE);
    assert_string_equal(err.text, "/nowhere/x.gguf: cannot be created: No such file or directory");
    gguf_abandon(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read_as_it_is),
        cmocka_unit_test(nothing_at_all_is_a_file_too),
        cmocka_unit_test(malformed_file_is_refused_with_the_reason),
        cmocka_unit_test(a_header_with_bytes_behind_it_is_checked_too),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(every_changed_byte_is_survived),
        cmocka_unit_test(a_file_that_is_not_there_is_named),
        cmocka_unit_test_setup_teardown(what_is_written_is_read_back, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(an_abandoned_file_leaves_nothing, make_folder,
                                        remove_folder),
        cmocka_unit_test(a_name_that_ggml_would_refuse_is_refused),
        cmocka_unit_test(a_folder_that_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
