/* The safetensors reader against malformed files with the exact message of each, and the writer's
 * bytes. */
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
#include "kernels/format/safetensors.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

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

/* Header and n zero bytes of data as folder/t.safetensors, opened. */
static bool open_bytes(const char *folder, const void *bytes, size_t n, struct safetensors *st,
                       struct err *err)
{
    tiny_file_write(folder, "t.safetensors", bytes, n);
    char *path = file_join(folder, "t.safetensors");
    const bool ok = safetensors_open(path, st, err);
    free(path);
    return ok;
}

static void put_length(struct text *t, uint64_t n)
{
    for (int i = 0; i < 8; i++)
        text_append(t, &(const char){ (char)(n >> (8 * i) & 0xFF) }, 1);
}

static bool open_header(const char *folder, const char *header, size_t n_header, size_t n_data,
                        struct safetensors *st, struct err *err)
{
    struct text t = { 0 };
    put_length(&t, n_header);
    text_append(&t, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        text_append(&t, "\0", 1);
    assert_false(t.failed);
    const bool ok = open_bytes(folder, t.data, t.len, st, err);
    text_free(&t);
    return ok;
}

static void expect_message(const char *folder, const struct err *err, const char *expected)
{
    char text[ERR_TEXT_SIZE];
    tiny_message(text, err, folder);
    assert_string_equal(text, expected);
    assert_int_equal(err->code, ERR_DATA);
}

#define F32_2 "\"dtype\":\"F32\",\"shape\":[2]"

static void malformed_header_is_refused_with_the_reason(void **state)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *expected;
    } cases[] = {
        { "", 0, "header is not a JSON object; expected it to begin with '{'" },
        { "   ", 0, "header is not a JSON object; expected it to begin with '{'" },
        { "[]", 0, "header is not a JSON object; expected it to begin with '{'" },
        { "\xEF\xBB\xBF{}", 0, "header is not a JSON object; expected it to begin with '{'" },
        { "{\"a\xFF\":1}", 0, "header is not valid UTF-8 at byte 3" },
        { "{", 0, "header: not valid JSON: column 1: string or '}' expected near end of file" },
        { "{} x", 0, "header: not valid JSON: column 4: end of file expected near 'x'" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}", 8,
          "header: not valid JSON: column 57: duplicate object key near '\"a\"'" },
        { "{\"a\":{" F32_2 ",\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8,
          "header: not valid JSON: column 39: duplicate object key near '\"dtype\"'" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
          "header: not valid JSON: column 33: duplicate object key near '\"__metadata__\"'" },
        { "{\"a\\u0000b\":1}", 0,
          "header: not valid JSON: column 11: NUL byte in object key not supported near "
          "'\"a\\u0000b\"'" },
        { "{\"a\\ud800\":1}", 0,
          "header: not valid JSON: column 10: invalid Unicode '\\uD800' near '\"a\\ud800\"'" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1234567890123456789012345678901234567890]}}", 0,
          "header: not valid JSON: column 69: too big integer" },
        { "{\"a\\u001b[31m\":{}}", 0, "a tensor name has the control character 0x1b" },
        { "{\"__metadata__\":1}", 0,
          "\"__metadata__\" is an integer; expected an object of strings" },
        { "{\"__metadata__\":{\"a\":1}}", 0,
          "\"__metadata__\" holds an integer; expected strings only" },
        { "{\"a\":[]}", 0, "tensor 'a': is a list; expected an object" },
        { "{\"a\":{}}", 0, "tensor 'a': \"dtype\" is missing; expected a string" },
        { "{\"a\":{\"dtype\":7}}", 0, "tensor 'a': \"dtype\" is an integer; expected a string" },
        { "{\"a\":{\"dtype\":\"F8_E4M3\"}}", 0,
          "tensor 'a': type 'F8_E4M3' is not known; expected F32, BF16, F16 or an integer type" },
        { "{\"a\":{\"dtype\":\"F32\"}}", 0,
          "tensor 'a': \"shape\" is missing; expected a list of sizes" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":2}}", 0,
          "tensor 'a': \"shape\" is an integer; expected a list of sizes" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,-1]}}", 0,
          "tensor 'a': \"shape\"[1] is not a size; expected an integer >= 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0]}}", 0,
          "tensor 'a': \"shape\"[0] is not a size; expected an integer >= 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e3]}}", 0,
          "tensor 'a': \"shape\"[0] is not a size; expected an integer >= 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"]}}", 0,
          "tensor 'a': \"shape\"[0] is not a size; expected an integer >= 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1]}}", 0,
          "tensor 'a': has 9 dimensions; at most 8 are expected" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
          "tensor 'a': shape is too large" },
        { "{\"a\":{" F32_2 "}}", 8,
          "tensor 'a': \"data_offsets\" is missing; expected [begin, end]" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":{}}}", 8,
          "tensor 'a': \"data_offsets\" is an object; expected [begin, end]" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,4,8]}}", 8,
          "tensor 'a': \"data_offsets\" has 3 values; expected [begin, end]" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,-8]}}", 8,
          "tensor 'a': \"data_offsets\"[1] is not an offset; expected an integer >= 0" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8.0]}}", 8,
          "tensor 'a': \"data_offsets\"[1] is not an offset; expected an integer >= 0" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[8,0]}}", 8,
          "tensor 'a': data ends at 0, before it begins at 8" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[4,12]}}", 12,
          "tensor 'a': data begins at 4, expected 0: there is a hole" },
        { "{\"b\":{" F32_2 ",\"data_offsets\":[12,20]},\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}",
          20, "tensor 'b': data begins at 12, expected 8: there is a hole" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"b\":{" F32_2 ",\"data_offsets\":[4,12]}}",
          12, "tensor 'b': data begins at 4, expected 8: tensors overlap" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"b\":{" F32_2 ",\"data_offsets\":[0,8]}}", 8,
          "tensor 'b': data begins at 0, expected 8: tensors overlap" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,4]}}", 4,
          "tensor 'a': data has 4 bytes, expected 8 for its shape and type" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,9223372036854775807]}}", 8,
          "tensor 'a': data has 9223372036854775807 bytes, expected 8 for its shape and type" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,"
          "9223372036854775807]}}",
          8,
          "tensor 'a': data ends at 9223372036854775807, but the file has 8 bytes of data; is it "
          "cut short?" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}", 7,
          "tensor 'a': data ends at 8, but the file has 7 bytes of data; is it cut short?" },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}", 9,
          "1 bytes follow the last tensor; expected none" },
        { "{}", 3, "3 bytes follow the last tensor; expected none" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct safetensors st = { 0 };
        struct err err = { 0 };
        char expected[ERR_TEXT_SIZE];
        if (open_header(*state, cases[i].header, strlen(cases[i].header), cases[i].n_data, &st,
                        &err))
            fail_msg("accepted: %s", cases[i].header);
        snprintf(expected, sizeof expected, "DIR/t.safetensors: %s", cases[i].expected);
        expect_message(*state, &err, expected);
        assert_null(st.map.data);
    }
}

static void file_that_is_no_safetensors_is_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *expected;
    } cases[] = {
        { "", 0, "has 0 bytes; a safetensors file begins with the 8 bytes of a header length" },
        { "\2\0\0\0\0\0\0", 7,
          "has 7 bytes; a safetensors file begins with the 8 bytes of a header length" },
        { "\2\0\0\0\0\0\0\0{", 9,
          "header length is 2, but only 1 bytes follow it; is it cut short?" },
        { "\x01\xE1\xF5\x05\0\0\0\0{}", 10,
          "header length is 100000001; at most 100000000 is expected in a safetensors file" },
        { "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10,
          "header length is 18446744073709551615; at most 100000000 is expected in a safetensors "
          "file" },
        { "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", 57,
          "is a Git LFS pointer, not the tensors; fetch them with 'git lfs pull'" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct safetensors st = { 0 };
        struct err err = { 0 };
        char expected[ERR_TEXT_SIZE];
        assert_false(open_bytes(*state, cases[i].bytes, cases[i].n, &st, &err));
        snprintf(expected, sizeof expected, "DIR/t.safetensors: %s", cases[i].expected);
        expect_message(*state, &err, expected);
    }
}

static void deep_nesting_is_refused(void **state)
{
    struct text t = { 0 };
    struct safetensors st = { 0 };
    struct err err = { 0 };
    text_puts(&t, "{\"a\":");
    for (int i = 0; i < 100000; i++)
        text_puts(&t, "[");
    assert_false(open_header(*state, t.data, t.len, 0, &st, &err));
    expect_message(*state, &err,
                   "DIR/t.safetensors: header: not valid JSON: column 2053: maximum parsing depth "
                   "reached near '['");
    text_free(&t);
}

static void long_name_is_refused(void **state)
{
    struct text t = { 0 };
    struct safetensors st = { 0 };
    struct err err = { 0 };
    text_puts(&t, "{\"");
    for (int i = 0; i < 70000; i++)
        text_puts(&t, "n");
    text_puts(&t, "\":{}}");
    assert_false(open_header(*state, t.data, t.len, 0, &st, &err));
    expect_message(*state, &err,
                   "DIR/t.safetensors: a tensor name has 70000 bytes; at most 1024 are expected");
    text_free(&t);
}

static void what_the_reference_accepts_is_accepted(void **state)
{
    static const struct {
        const char *header;
        size_t n_data;
        int64_t n_tensor;
    } cases[] = {
        { "{}", 0, 0 },
        { " \n\t{} \r\n ", 0, 0 },
        { "{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0 },
        { "{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, 1 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[0,0]}}", 0, 1 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"b\":{\"dtype\":"
          "\"F32\",\"shape\":[0],"
          "\"data_offsets\":[0,0]}}",
          0, 2 },
        { "{\"a\":{" F32_2 ",\"data_offsets\":[0,8],\"more\":[{}]}}", 8, 1 },
        { "{\"b\":{" F32_2
          ",\"data_offsets\":[1,9]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
          9, 2 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct safetensors st = { 0 };
        struct err err = { 0 };
        if (!open_header(*state, cases[i].header, strlen(cases[i].header), cases[i].n_data, &st,
                         &err))
            fail_msg("%s", err.text);
        assert_int_equal(st.n_tensor, cases[i].n_tensor);
        for (int64_t t = 0; t < st.n_tensor; t++)
            assert_ptr_equal(safetensors_find(&st, st.tensors[t].name), &st.tensors[t]);
        assert_null(safetensors_find(&st, "not there"));
        safetensors_close(&st);
    }
}

/* ---- the writer ---- */

static const float three[] = { 1, 2, 3 };
static const uint16_t pair[] = { 0x3F80, 0x4000 };
static const uint8_t byte[] = { 42 };
static const struct safetensors_tensor sample[] = {
    { .name = "z", .dtype = DTYPE_U8, .n_dim = 0, .data = byte, .bytes = 1 },
    { .name = "b \"q\" \\ \xC3\xA9",
      .dtype = DTYPE_F32,
      .n_dim = 2,
      .dims = { 1, 3 },
      .data = three,
      .bytes = 12 },
    { .name = "m", .dtype = DTYPE_BF16, .n_dim = 1, .dims = { 2 }, .data = pair, .bytes = 4 },
    { .name = "a", .dtype = DTYPE_F32, .n_dim = 1, .dims = { 3 }, .data = three, .bytes = 12 },
    { .name = "none", .dtype = DTYPE_F32, .n_dim = 2, .dims = { 0, 7 } },
};

static char *write_sample(const char *folder)
{
    char *path = file_join(folder, "w.safetensors");
    struct err err = { 0 };
    if (!safetensors_write(path, sample, COUNT(sample), &err))
        fail_msg("%s", err.text);
    return path;
}

static void writer_lays_out_by_alignment_then_name(void **state)
{
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
        "\"b \\\"q\\\" \\\\ "
        "\xC3\xA9\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[12,24]},"
        "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[24,24]},"
        "\"m\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[24,28]},"
        "\"z\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[28,29]}}";
    char *path = write_sample(*state), *bytes = NULL;
    size_t n = 0;
    struct err err = { 0 };
    assert_true(file_read(path, 1 << 20, &bytes, &n, &err));
    const size_t length = (unsigned char)bytes[0] | (size_t)(unsigned char)bytes[1] << 8;
    assert_int_equal(length % 8, 0);
    assert_in_range(length, sizeof header - 1, sizeof header - 1 + 7);
    assert_memory_equal(bytes + 8, header, sizeof header - 1);
    for (size_t i = 8 + sizeof header - 1; i < 8 + length; i++)
        assert_int_equal(bytes[i], ' ');
    assert_int_equal(n, 8 + length + 29);
    assert_memory_equal(bytes + 8 + length, three, 12);
    assert_memory_equal(bytes + 8 + length + 24, pair, 4);
    free(bytes);
    free(path);
}

static void written_tensors_read_back_the_same(void **state)
{
    char *path = write_sample(*state);
    struct safetensors st = { 0 };
    struct err err = { 0 };
    if (!safetensors_open(path, &st, &err))
        fail_msg("%s", err.text);
    assert_int_equal(st.n_tensor, COUNT(sample));
    for (size_t i = 0; i < COUNT(sample); i++) {
        const struct safetensors_tensor *t = safetensors_find(&st, sample[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, sample[i].dtype);
        assert_int_equal(t->n_dim, sample[i].n_dim);
        assert_int_equal(t->bytes, sample[i].bytes);
        assert_memory_equal(t->dims, sample[i].dims, (size_t)t->n_dim * sizeof t->dims[0]);
        if (t->bytes == 0)
            assert_null(t->data);
        else
            assert_memory_equal(t->data, sample[i].data, t->bytes);
        assert_int_equal((uintptr_t)t->data % dtype_size(t->dtype), 0);
    }
    safetensors_close(&st);
    free(path);
}

static void file_cut_anywhere_is_refused(void **state)
{
    char *path = write_sample(*state), *bytes = NULL;
    size_t n = 0;
    assert_true(file_read(path, 1 << 20, &bytes, &n, NULL));
    for (size_t cut = 0; cut < n; cut++) {
        struct safetensors st = { 0 };
        struct err err = { 0 };
        assert_false(open_bytes(*state, bytes, cut, &st, &err));
        assert_int_equal(err.code, ERR_DATA);
    }
    free(bytes);
    free(path);
}

/* A flipped header may still be a file (another name, say); what it hands out lies in the file
 * then. */
static void flipped_byte_ends_in_an_error_or_a_sound_file(void **state)
{
    char *path = write_sample(*state), *bytes = NULL;
    size_t n = 0, n_refused = 0, n_header = 0;
    assert_true(file_read(path, 1 << 20, &bytes, &n, NULL));
    n_header = n - 29;
    for (size_t i = 0; i < n_header; i++) {
        struct safetensors st = { 0 };
        struct err err = { 0 };
        const char flip = (char)(1 << (i % 8));
        bytes[i] ^= flip;
        if (open_bytes(*state, bytes, n, &st, &err)) {
            for (int64_t t = 0; t < st.n_tensor; t++) {
                const uint8_t *data = st.tensors[t].data;
                assert_true(data == NULL ||
                            (data >= st.map.data && data + st.tensors[t].bytes <= st.map.data + n));
            }
            safetensors_close(&st);
        } else {
            assert_int_equal(err.code, ERR_DATA);
            n_refused++;
        }
        bytes[i] ^= flip;
    }
    assert_in_range(n_refused, n_header / 2, n_header);
    free(bytes);
    free(path);
}

static void hundred_thousand_tensors_are_read_back(void **state)
{
    enum { N = 100000 };
    struct safetensors_tensor *many = calloc(N, sizeof *many);
    char *names = calloc(N, 16);
    assert_non_null(many);
    assert_non_null(names);
    for (int i = 0; i < N; i++) {
        snprintf(names + 16 * i, 16, "t%d", i);
        many[i] = (struct safetensors_tensor){
            .name = names + 16 * i,
            .dtype = i % 2 == 0 ? DTYPE_U8 : DTYPE_I16,
            .n_dim = 1,
            .dims = { 1 },
            .data = pair,
            .bytes = i % 2 == 0 ? 1 : 2,
        };
    }
    char *path = file_join(*state, "many.safetensors");
    struct safetensors st = { 0 };
    struct err err = { 0 };
    if (!safetensors_write(path, many, N, &err) || !safetensors_open(path, &st, &err))
        fail_msg("%s", err.text);
    assert_int_equal(st.n_tensor, N);
    assert_string_equal(safetensors_find(&st, "t99999")->name, "t99999");
    safetensors_close(&st);
    free(path);
    free(many);
    free(names);
}

/* The pieces of three tensors, from the last to the first, in the order they were given. */
static void file_written_in_pieces_reads_back(void **state)
{
    static const char data[] = "abcdefghijkl";
    const struct safetensors_tensor tensors[] = {
        { .name = "b", .dtype = DTYPE_BF16, .n_dim = 2, .dims = { 1, 2 }, .bytes = 4 },
        { .name = "a\"", .dtype = DTYPE_F32, .n_dim = 1, .dims = { 2 }, .bytes = 8 },
        { .name = "none", .dtype = DTYPE_F32, .n_dim = 1, .dims = { 0 } },
    };
    struct safetensors_writer w = { 0 };
    struct safetensors st = { 0 };
    struct err err = { 0 };
    char *path = file_join(*state, "pieces.safetensors");
    assert_true(safetensors_writer_open(&w, path, tensors, 3, &err));
    assert_false(file_exists(path));
    assert_true(text_starts_with(safetensors_writer_temporary(&w), path));
    for (size_t i = 8; i-- > 0;)
        assert_true(safetensors_writer_put(&w, 1, i, data + 4 + i, 1, &err));
    assert_true(safetensors_writer_put(&w, 2, 0, NULL, 0, &err));
    assert_true(safetensors_writer_put(&w, 0, 0, data, 4, &err));
    assert_true(safetensors_writer_commit(&w, &err));
    safetensors_writer_abandon(&w); /* nothing is left to abandon */
    assert_true(safetensors_open(path, &st, &err));
    assert_int_equal(st.n_tensor, 3);
    assert_int_equal(st.map.size, safetensors_file_bytes(tensors, 3));
    const struct safetensors_tensor *a = safetensors_find(&st, "a\"");
    const struct safetensors_tensor *b = safetensors_find(&st, "b");
    assert_memory_equal(b->data, data, 4);
    assert_memory_equal(a->data, data + 4, 8);
    assert_ptr_equal(a->data, (const char *)b->data + 4); /* the order given */
    assert_int_equal(((const uint8_t *)b->data - st.map.data) % 8, 0);
    safetensors_close(&st);
    free(path);
}

static void abandoned_file_leaves_nothing(void **state)
{
    const struct safetensors_tensor t = { .name = "a", .dtype = DTYPE_F32, .bytes = 4 };
    struct safetensors_writer w = { 0 };
    struct err err = { 0 };
    char *path = file_join(*state, "gone.safetensors");
    assert_true(safetensors_writer_open(&w, path, &t, 1, &err));
    char *temporary = text_copy(safetensors_writer_temporary(&w));
    assert_true(file_exists(temporary));
    safetensors_writer_abandon(&w);
    assert_false(file_exists(temporary) || file_exists(path));
    assert_false(safetensors_writer_open(&w, "/dev/null", &t, 1, &err));
    assert_string_equal(err.text,
                        "/dev/null: is there and no regular file; expected a file or nothing");
    assert_int_equal(err.code, ERR_CANT_CREATE);
    free(temporary);
    free(path);
}

static void write_into_a_missing_folder_is_an_error(void **state)
{
    char *path = file_join(*state, "no/w.safetensors"), text[ERR_TEXT_SIZE];
    struct err err = { 0 };
    assert_false(safetensors_write(path, sample, COUNT(sample), &err));
    tiny_message(text, &err, *state);
    assert_string_equal(text, "DIR/no/w.safetensors: cannot be created: No such file or directory");
    assert_int_equal(err.code, ERR_CANT_CREATE);
    free(path);
}

static void missing_file_and_folder_are_named(void **state)
{
    struct safetensors st = { 0 };
    struct err err = { 0 };
    char text[ERR_TEXT_SIZE];
    char *path = file_join(*state, "none.safetensors");
    assert_false(safetensors_open(path, &st, &err));
    tiny_message(text, &err, *state);
    assert_string_equal(text, "DIR/none.safetensors: No such file or directory");
    assert_false(safetensors_open(*state, &st, &err));
    tiny_message(text, &err, *state);
    assert_string_equal(text, "DIR: is a directory; expected a regular file");
    assert_int_equal(err.code, ERR_NO_INPUT);
    free(path);
}

static void shapes_read_well_and_fit(void **state)
{
    (void)state;
    char out[64];
    const int64_t dims[SAFETENSORS_MAX_DIM] = {
        8192, 16, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX
    };
    safetensors_shape_text(out, dims, 0);
    assert_string_equal(out, "()");
    safetensors_shape_text(out, dims, 1);
    assert_string_equal(out, "(8192,)");
    safetensors_shape_text(out, dims, 2);
    assert_string_equal(out, "(8192, 16)");
    safetensors_shape_text(out, dims, 8);
    assert_int_equal(strlen(out), 63);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_header_is_refused_with_the_reason),
        cmocka_unit_test(file_that_is_no_safetensors_is_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(long_name_is_refused),
        cmocka_unit_test(what_the_reference_accepts_is_accepted),
        cmocka_unit_test(writer_lays_out_by_alignment_then_name),
        cmocka_unit_test(written_tensors_read_back_the_same),
        cmocka_unit_test(file_cut_anywhere_is_refused),
        cmocka_unit_test(flipped_byte_ends_in_an_error_or_a_sound_file),
        cmocka_unit_test(hundred_thousand_tensors_are_read_back),
        cmocka_unit_test(file_written_in_pieces_reads_back),
        cmocka_unit_test(abandoned_file_leaves_nothing),
        cmocka_unit_test(write_into_a_missing_folder_is_an_error),
        cmocka_unit_test(missing_file_and_folder_are_named),
        cmocka_unit_test(shapes_read_well_and_fit),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
