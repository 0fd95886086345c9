/* Bytes -> records: layouts and encodings that are read, and what is said of the rest. */
#include "datasets/source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include <cmocka.h>

#include "tests/unit/datasets/scratch.h"

#define BOM "\xEF\xBB\xBF"

static int setup(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    *state = s;
    return s == NULL ? -1 : scratch_open(s);
}

static int teardown(void **state)
{
    scratch_close(*state);
    free(*state);
    return 0;
}

/* ---- reading all of it ---- */

struct outcome {
    bool ok;
    int64_t n_record, n_blank, sum; /* sum of the records' "a" */
    char place[600];                /* of the last record */
    struct err err;
};

static struct outcome read_all(const char *path)
{
    struct outcome out = { 0 };
    struct source *s = source_open(path, &out.err);
    if (s == NULL)
        return out;
    json_t *record = NULL;
    enum source_result result;
    while ((result = source_next(s, &record, &out.err)) == SOURCE_RECORD) {
        out.n_record++;
        out.sum += json_integer_value(json_object_get(record, "a"));
        snprintf(out.place, sizeof out.place, "%s", source_place(s));
        json_decref(record);
    }
    out.ok = result == SOURCE_END;
    out.n_blank = source_n_blank(s);
    source_close(s);
    return out;
}

static void assert_message(const struct scratch *s, const struct outcome *out, const char *expected)
{
    assert_false(out->ok);
    assert_int_equal(out->err.code, ERR_DATA);
    assert_true(scratch_message_is(s, out->err.text, expected));
}

/* ---- what is read ---- */

static void layouts_and_line_ends_give_the_same_records(void **state)
{
    struct scratch *s = *state;
    static const struct {
        const char *text, *last;
        int64_t n_blank;
    } cases[] = {
        { "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n", ":3", 0 },
        { "{\"a\":1}\n{\"a\":2}\n{\"a\":3}", ":3", 0 },
        { "{\"a\":1}\r\n{\"a\":2}\r\n{\"a\":3}\r\n", ":3", 0 },
        { BOM "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n", ":3", 0 },
        { "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n\n \r\n\t", ":3", 0 },
        { "\n{\"a\":1}\n\r\n  \n{\"a\":2}\n{\"a\":3}\n", ":6", 3 },
        { " {\"a\" : 1 } \n\t{\"a\":2}\n{\"a\":3,\"b\":\"\\u2028\xE2\x80\xA8\\u0000\"}", ":3", 0 },
        { "[{\"a\":1},{\"a\":2},{\"a\":3}]", "[2]", 0 },
        { BOM "\r\n [\n  {\"a\": 1},\r\n  {\"a\": 2} ,\n\n  {\n\"a\": 3\n}\n]\n\n", "[2]", 0 },
        { "[{\"a\":1,\"b\":[[\"],\\\"}\\\\\"],{}]},{\"b\":\"[{\",\"a\":2},{\"a\":3}]", "[2]", 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct outcome out = read_all(scratch_write_text(s, "x.json", cases[i].text));
        if (!out.ok)
            fail_msg("case %zu: %s", i, out.err.text);
        assert_int_equal(out.n_record, 3);
        assert_int_equal(out.sum, 6);
        assert_int_equal(out.n_blank, cases[i].n_blank);
        assert_string_equal(out.place + strlen(scratch_path(s, "x.json")), cases[i].last);
    }
}

static void malformed_text_is_named_by_file_and_line(void **state)
{
    struct scratch *s = *state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "", "x.jsonl: has no records" },
        { BOM, "x.jsonl: has no records" },
        { "\n \n", "x.jsonl: has no records" },
        { "[]", "x.jsonl: has no records" },
        { "[ \n ] \n", "x.jsonl: has no records" },
        { "{\"a\":1}\n{\"a\":}\n",
          "x.jsonl:2: not valid JSON: column 6: unexpected token near '}'" },
        { "{\"a\":1}\n\n{\"a\":1",
          "x.jsonl:3: not valid JSON: column 6: '}' expected near end of file" },
        { "{\n\"a\":1\n}\n", "x.jsonl:1: not valid JSON: column 1: string or '}' expected near end "
                             "of file; expected one "
                             "object a line (JSONL), or one list of objects" },
        { "{\"a\":1} {\"a\":2}\n", "x.jsonl:1: not valid JSON: column 9: end of file expected near "
                                   "'{'; expected one object a line "
                                   "(JSONL), or one list of objects" },
        { "{\"a\":1}\n{\"a\":1}}\n",
          "x.jsonl:2: not valid JSON: column 8: end of file expected near '}'" },
        { "{\"a\":1}\n{\"a\":1},\n",
          "x.jsonl:2: not valid JSON: column 8: end of file expected near ','" },
        { "{\"a\":1}\n\"text\"\n", "x.jsonl:2: is a string; expected an object with named fields" },
        { "{\"a\":1}\n[1]\n", "x.jsonl:2: is a list; expected an object with named fields" },
        { "{\"a\":1}\nnull\n", "x.jsonl:2: is null; expected an object with named fields" },
        { "{\"a\":1,\"a\":2}\n{}",
          "x.jsonl:1: not valid JSON: column 10: duplicate object key near "
          "'\"a\"'; expected one object a "
          "line (JSONL), or one list of objects" },
        { "{}\n{\"a\":NaN}\n", "x.jsonl:2: not valid JSON: column 8: invalid token near 'NaN'" },
        { "{}\n{\"a\":Infinity}\n",
          "x.jsonl:2: not valid JSON: column 13: invalid token near 'Infinity'" },
        { "{}\n{\"a\":1e999}\n",
          "x.jsonl:2: not valid JSON: column 10: real number overflow near '1e999'" },
        { "{}\n{\"a\":12345678901234567890}\n",
          "x.jsonl:2: not valid JSON: column 25: too big integer near '12345678901234567890'" },
        { "{}\n{\"a\":\"\\ud800\"}\n",
          "x.jsonl:2: not valid JSON: column 13: invalid Unicode '\\uD800' near '\"\\ud800\"'" },
        { "{}\n{\"a\":\"\\udc00x\"}\n",
          "x.jsonl:2: not valid JSON: column 14: invalid Unicode '\\uDC00' near '\"\\udc00x\"'" },
        { "{}\n{\"a\":\"\xFF\"}\n",
          "x.jsonl:2: not valid JSON: column 6: unable to decode byte 0xff near '\"'" },
        { "{}\n{\"a\":\"\xC0\x80\"}\n",
          "x.jsonl:2: not valid JSON: column 6: unable to decode byte 0xc0 near '\"'" },
        { "{}\n{\"a\":\"\xED\xA0\x80\"}\n",
          "x.jsonl:2: not valid JSON: column 6: unable to decode byte 0xed near '\"'" },
        { "{}\n{\"a\":\"\t\"}\n",
          "x.jsonl:2: not valid JSON: column 6: control character 0x9 near '\"'" },
        { "{}\n{'a':1}\n", "x.jsonl:2: not valid JSON: column 2: string or '}' expected near '''" },
        { "{}\n{\"a\":1}//x\n",
          "x.jsonl:2: not valid JSON: column 8: end of file expected near '/'" },
        { "{}\r{}\r", "x.jsonl:1: not valid JSON: column 4: end of file expected near '{'; "
                      "expected one object a line "
                      "(JSONL), or one list of objects" },
        { "\xFF\xFE{\0}\0", "x.jsonl: is UTF-16; convert it to UTF-8" },
        { "PAR1....", "x.jsonl: is Parquet; convert it to JSONL" },
        { "ARROW1..", "x.jsonl: is Arrow; convert it to JSONL" },
        { "\x1F\x8B\x08", "x.jsonl: is gzip data; end its name in .gz" },
        /* one list */
        { "[", "x.jsonl: ends inside its list, after 0 whole records" },
        { "[{\"a\":1},{\"a\":2}", "x.jsonl: ends inside its list, after 1 whole records" },
        { "[{\"a\":1},", "x.jsonl: ends inside its list, after 1 whole records" },
        { "[{\"a\":1},{\"a\":\"\\", "x.jsonl: ends inside its list, after 1 whole records" },
        { "[{\"a\":1},]", "x.jsonl: has a comma after its last element [0]" },
        { "[,{}]", "x.jsonl[0]: nothing stands before the comma; expected an object" },
        { "[{},,{}]", "x.jsonl[1]: nothing stands before the comma; expected an object" },
        { "[{} {}]", "x.jsonl[0]: not valid JSON: column 4: end of file expected near '{'" },
        { "[{},{]}]", "x.jsonl[1]: not valid JSON: column 2: string or '}' expected near ']'" },
        { "[{},}]", "x.jsonl[1]: not valid JSON: column 1: unexpected token near '}'" },
        { "[{},1]", "x.jsonl[1]: is an integer; expected an object with named fields" },
        { "[{},\n{\"a\":\n!}]",
          "x.jsonl[1]: not valid JSON: line 2, column 1: invalid token near '!'" },
        { "[{}]]", "x.jsonl: has text after the end of its list" },
        { "[{}]\n{}", "x.jsonl: has text after the end of its list" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct outcome out = read_all(scratch_write_text(s, "x.jsonl", cases[i].text));
        assert_message(s, &out, cases[i].message);
    }
}

static void a_nul_byte_is_no_end_of_text(void **state)
{
    struct scratch *s = *state;
    static const char text[] = "{\"a\":1}\n{\"a\":2\0}\n";
    const struct outcome out = read_all(scratch_write(s, "x.jsonl", text, sizeof text - 1));
    assert_message(s, &out, "x.jsonl:2: not valid JSON: has a zero byte at column 7");
}

static void deep_nesting_is_refused(void **state)
{
    struct scratch *s = *state;
    static const char *const messages[] = {
        "x.jsonl:1: not valid JSON: column 2053: maximum parsing depth reached near '['; expected "
        "one "
        "object a line (JSONL), or one list of objects",
        "x.jsonl[0]: not valid JSON: column 2053: maximum parsing depth reached near '['",
    };
    enum { DEPTH = 1000000 };
    char *text = malloc(DEPTH + 16);
    for (int list = 0; list < 2; list++) {
        const char *head = list ? "[{\"a\":" : "{\"a\":";
        const size_t n = strlen(head);
        memcpy(text, head, n);
        memset(text + n, '[', DEPTH);
        memcpy(text + n + DEPTH, list ? "},{}]" : "}\n{}\n", 5);
        if (list) /* closed, so that the element has an end */
            memset(text + n + DEPTH / 2, ']', DEPTH / 2);
        const struct outcome out = read_all(scratch_write(s, "x.jsonl", text, n + DEPTH + 5));
        assert_message(s, &out, messages[list]);
    }
    free(text);
}

/* {"a":1,"b":"xxx...x"} of n bytes. */
static void long_record(char *out, size_t n)
{
    static const char head[] = "{\"a\":1,\"b\":\"";
    memset(out, 'x', n);
    memcpy(out, head, sizeof head - 1);
    memcpy(out + n - 2, "\"}", 2);
}

static void records_may_be_as_long_as_the_bound(void **state)
{
    struct scratch *s = *state;
    const size_t max = SOURCE_RECORD_MAX;
    char *text = malloc(2 * max + 64);
    long_record(text, 100);
    text[100] = '\n';
    long_record(text + 101, max - 1);
    text[100 + max] = '\n';
    struct outcome out = read_all(scratch_write(s, "x.jsonl", text, 101 + max));
    assert_true(out.ok);
    assert_int_equal(out.sum, 2);

    long_record(text + 101, max);
    text[101 + max] = '\n';
    out = read_all(scratch_write(s, "x.jsonl", text, 102 + max));
    assert_message(s, &out, "x.jsonl:2: is longer than 16 MiB; expected one record a line");

    text[0] = '[';
    text[1] = '"'; /* never closed */
    memset(text + 2, 'x', 2 * max);
    out = read_all(scratch_write(s, "x.jsonl", text, 2 * max));
    assert_message(
        s, &out,
        "x.jsonl[0]: is longer than 16 MiB; expected one record (is a quote or a bracket left "
        "open?)");
    free(text);
}

static void a_file_longer_than_the_buffer_is_streamed(void **state)
{
    struct scratch *s = *state;
    enum { RECORDS = 60000 }; /* a megabyte, in records that straddle every edge of the buffer */
    for (int list = 0; list < 2; list++) {
        FILE *f = fopen(scratch_path(s, "x.json"), "wb");
        assert_non_null(f);
        int64_t sum = 0;
        for (int i = 0; i < RECORDS; i++) {
            const char *lead = !list ? "" : i == 0 ? "[" : ",";
            fprintf(f, "%s{\"a\":%d,\"b\":\"%.*s\\\"]\\\\\"}%s\n", lead, i, i % 31,
                    "]},{[]},{[]},{[]},{[]},{[]},{[", list && i == RECORDS - 1 ? "]" : "");
            sum += i;
        }
        fclose(f);
        const struct outcome out = read_all(s->path);
        if (!out.ok)
            print_error("%s\n", out.err.text);
        assert_true(out.ok);
        assert_int_equal(out.n_record, RECORDS);
        assert_int_equal(out.sum, sum);
    }
}

/* ---- files and folders ---- */

static void other_kinds_of_files_are_named_with_the_way_out(void **state)
{
    struct scratch *s = *state;
    static const struct {
        const char *name, *message;
    } cases[] = {
        { "x.csv",
          "x.csv: is CSV; expected JSONL or a JSON list, plain or .gz; convert it: python -c "
          "\"import pandas; pandas.read_csv('IN').to_json('OUT.jsonl', orient='records', "
          "lines=True)\"" },
        { "x.csv.gz",
          "x.csv.gz: is CSV; expected JSONL or a JSON list, plain or .gz; convert it: python -c "
          "\"import pandas; pandas.read_csv('IN').to_json('OUT.jsonl', orient='records', "
          "lines=True)\"" },
        { "x.parquet",
          "x.parquet: is Parquet; expected JSONL or a JSON list, plain or .gz; convert it: "
          "python -c \"import pandas; pandas.read_parquet('IN').to_json('OUT.jsonl', "
          "orient='records', lines=True)\"" },
        { "x.arrow",
          "x.arrow: is Arrow; expected JSONL or a JSON list, plain or .gz; convert it: python -c "
          "\"import datasets; datasets.Dataset.from_file('IN').to_json('OUT.jsonl')\"" },
        { "x.txt",
          "x.txt: is plain text; expected JSONL or a JSON list, plain or .gz; convert it: jq -cR "
          "'{text: .}' IN > OUT.jsonl (each line becomes a document)" },
        { "x.jsonl.zst",
          "x.jsonl.zst: is Zstandard; expected JSONL or a JSON list, plain or .gz; convert "
          "it: zstd -dc IN | gzip > OUT.gz" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct outcome out = read_all(scratch_write_text(s, cases[i].name, "a,b\n1,2\n"));
        assert_message(s, &out, cases[i].message);
    }
}

static void what_is_not_a_file_is_refused(void **state)
{
    struct scratch *s = *state;
    struct outcome out = read_all(scratch_path(s, "none.jsonl"));
    assert_int_equal(out.err.code, ERR_NO_INPUT);
    assert_true(scratch_message_is(
        s, out.err.text,
        "none.jsonl: no such file or folder; expected a JSONL or JSON file, or a "
        "folder of them (a data set of the hub must be downloaded first)"));
    assert_int_equal(mkfifo(scratch_path(s, "pipe.jsonl"), 0600), 0);
    out = read_all(s->path);
    assert_int_equal(out.err.code, ERR_NO_INPUT);
    assert_true(scratch_message_is(s, out.err.text,
                                   "pipe.jsonl: is not a regular file; expected a regular file"));
}

static void a_folder_is_its_data_files_in_order_of_names(void **state)
{
    struct scratch *s = *state;
    struct err err = { 0 };
    assert_null(source_open(s->folder, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    const char *tail = err.text + strlen(s->folder);
    assert_string_equal(tail, ": has no data; expected *.jsonl or *.json files, plain or .gz");

    scratch_write_text(s, "b.json", "[{\"a\":1},{\"a\":2}]");
    scratch_write_text(s, "a.jsonl", "{\"a\":1}\n");
    scratch_write_text(s, "LICENSE.txt", "no data");
    scratch_write_text(s, ".hidden.jsonl", "no data");
    scratch_write_text(s, "README.md", "no data");
    struct source *source = source_open(s->folder, &err);
    assert_non_null(source);
    assert_int_equal(source_n_file(source), 2);
    static const char *const places[] = { "/a.jsonl:1", "/b.json[0]", "/b.json[1]" };
    static const int64_t files[] = { 0, 1, 1 };
    json_t *record = NULL;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(source_next(source, &record, &err), SOURCE_RECORD);
        assert_string_equal(source_place(source) + strlen(s->folder), places[i]);
        assert_int_equal(source_file(source), files[i]);
        assert_int_equal(source_is_list(source), files[i] == 1);
        json_decref(record);
    }
    assert_int_equal(source_next(source, &record, &err), SOURCE_END);
    assert_int_equal(source_next(source, &record, &err), SOURCE_END);
    source_close(source);

    scratch_write_text(s, "c.parquet", "PAR1");
    assert_null(source_open(s->folder, &err));
    assert_non_null(strstr(err.text, "c.parquet: is Parquet; expected JSONL"));
    unlink(s->path);
    scratch_write_text(s, "c.jsonl", "");
    const struct outcome out = read_all(s->folder);
    assert_message(s, &out, "c.jsonl: has no records");
}

/* ---- gzip ---- */

/* One member with `text`; returns its size. */
static size_t deflate_member(const char *text, uint8_t *out, size_t cap)
{
    z_stream z = { 0 };
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = out;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    const size_t n = cap - z.avail_out;
    deflateEnd(&z);
    return n;
}

struct zipped {
    uint8_t bytes[4096];
    size_t first, n; /* the first of two members; both */
};

static struct zipped two_members(void)
{
    struct zipped z = { 0 };
    z.first = deflate_member("{\"a\":1}\n{\"a\":2}\n{\"a\"", z.bytes, sizeof z.bytes);
    z.n = z.first + deflate_member(":3}\n", z.bytes + z.first, sizeof z.bytes - z.first);
    return z;
}

static void gzip_members_are_one_text(void **state)
{
    struct scratch *s = *state;
    struct zipped z = two_members();
    struct outcome out = read_all(scratch_write(s, "x.jsonl.gz", z.bytes, z.n));
    assert_true(out.ok);
    assert_int_equal(out.sum, 6);
    assert_string_equal(out.place + strlen(s->folder), "/x.jsonl.gz:3");
    /* Zero bytes behind the last member are padding. */
    out = read_all(scratch_write(s, "x.jsonl.gz", z.bytes, z.n + 700));
    assert_true(out.ok);
    assert_int_equal(out.sum, 6);
}

static void extra_fields_of_a_gzip_header_are_passed_over(void **state)
{
    struct scratch *s = *state;
    struct zipped z = two_members();
    /* FEXTRA (as dictzip writes it), FNAME and FCOMMENT go between the header's ten bytes and the
     * data. */
    static const uint8_t fields[] = "\x06\0RA\x02\0\1\0name\0comment";
    uint8_t bytes[sizeof z.bytes + sizeof fields];
    memcpy(bytes, z.bytes, 10);
    bytes[3] = 4 | 8 | 16;
    memcpy(bytes + 10, fields, sizeof fields);
    memcpy(bytes + 10 + sizeof fields, z.bytes + 10, z.n - 10);
    const struct outcome out = read_all(scratch_write(s, "x.jsonl.gz", bytes, z.n + sizeof fields));
    if (!out.ok)
        print_error("%s\n", out.err.text);
    assert_true(out.ok);
    assert_int_equal(out.sum, 6);
}

static void every_cut_of_a_gzip_file_is_noticed(void **state)
{
    struct scratch *s = *state;
    struct zipped z = two_members();
    for (size_t n = 0; n < z.n; n++) {
        const struct outcome out = read_all(scratch_write(s, "x.jsonl.gz", z.bytes, n));
        if (n == 0)
            assert_message(s, &out, "x.jsonl.gz: is empty; expected gzip data");
        else if (n < z.first)
            assert_message(s, &out, "x.jsonl.gz: ends inside gzip member 1; the file is cut off");
        else if (n == z.first) /* a whole file, as far as gzip can tell: the JSON says no */
            assert_message(s, &out,
                           "x.jsonl.gz:3: not valid JSON: column 4: ':' expected near end of file");
        else
            assert_message(s, &out, "x.jsonl.gz: ends inside gzip member 2; the file is cut off");
    }
}

static void every_flipped_bit_of_a_gzip_file_is_noticed(void **state)
{
    struct scratch *s = *state;
    const struct zipped good = two_members();
    int64_t n_flip = 0, n_unnoticed = 0;
    for (size_t i = 0; i < good.n; i++) {
        const size_t in_member = i < good.first ? i : i - good.first;
        for (int bit = 0; bit < 8; bit++) {
            /* Time stamp, compression level and system carry no data; nor does the "is text" flag.
             */
            if ((in_member >= 4 && in_member < 10) || (in_member == 3 && bit == 0))
                continue;
            struct zipped z = good;
            z.bytes[i] ^= (uint8_t)(1 << bit);
            const struct outcome out = read_all(scratch_write(s, "x.jsonl.gz", z.bytes, z.n));
            n_unnoticed += out.ok;
            if (out.ok && (out.sum != 6 || out.n_record != 3))
                fail_msg("byte %zu, bit %d: other records", i, bit);
            n_flip++;
        }
    }
    assert_true(n_flip > 300);
    assert_true(n_unnoticed <= 2 * 7); /* the unused bits of the last byte before each checksum */
}

static void damaged_gzip_says_how(void **state)
{
    struct scratch *s = *state;
    const struct zipped good = two_members();
    const struct {
        size_t at;
        uint8_t flip;
        size_t n;
        const char *message;
    } cases[] = {
        { 0, 1, good.n, "x.gz: is not gzip data; compress it, or take the \".gz\" off its name" },
        { 1, 1, good.n, "x.gz: gzip member 1 is damaged: incorrect header check" },
        { 2, 1, good.n, "x.gz: gzip member 1 is damaged: unknown compression method" },
        { 3, 0x80, good.n, "x.gz: gzip member 1 is damaged: unknown header flags set" },
        { good.first - 8, 1, good.n, "x.gz: gzip member 1 is damaged: incorrect data check" },
        { good.first - 4, 1, good.n, "x.gz: gzip member 1 is damaged: incorrect length check" },
        { good.n - 8, 1, good.n, "x.gz: gzip member 2 is damaged: incorrect data check" },
        { good.first, 0x1F ^ 'x', good.n, "x.gz: has other bytes after the end of its gzip data" },
        { good.n, 'x', good.n + 1, "x.gz: has other bytes after the end of its gzip data" },
        { good.n, 0x1F, good.n + 1, "x.gz: ends inside gzip member 3; the file is cut off" },
        { good.n + 9, 'x', good.n + 10, "x.gz: has other bytes after the end of its gzip data" },
        { good.n + 9, 0x1F, good.n + 99, "x.gz: has other bytes after the end of its gzip data" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct zipped z = good;
        z.bytes[cases[i].at] ^= cases[i].flip;
        const struct outcome out = read_all(scratch_write(s, "x.gz", z.bytes, cases[i].n));
        assert_message(s, &out, cases[i].message);
    }
    const struct outcome plain = read_all(scratch_write_text(s, "x.gz", "{\"a\":1}\n"));
    assert_message(s, &plain,
                   "x.gz: is not gzip data; compress it, or take the \".gz\" off its name");
}

static void a_gzip_bomb_stays_within_the_bound_of_a_record(void **state)
{
    struct scratch *s = *state;
    z_stream z = { 0 };
    uint8_t *out = malloc(1 << 20), block[4096];
    memset(block, 'x', sizeof block);
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_out = out;
    z.avail_out = 1 << 20;
    for (int i = 0; i < 40 << 8; i++) { /* 40 MiB on one line */
        z.next_in = block;
        z.avail_in = sizeof block;
        deflate(&z, Z_NO_FLUSH);
    }
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    const struct outcome r = read_all(scratch_write(s, "x.jsonl.gz", out, (1 << 20) - z.avail_out));
    deflateEnd(&z);
    free(out);
    assert_message(s, &r, "x.jsonl.gz:1: is longer than 16 MiB; expected one record a line");
}

#define WITH_SCRATCH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(layouts_and_line_ends_give_the_same_records),
        WITH_SCRATCH(malformed_text_is_named_by_file_and_line),
        WITH_SCRATCH(a_nul_byte_is_no_end_of_text),
        WITH_SCRATCH(deep_nesting_is_refused),
        WITH_SCRATCH(records_may_be_as_long_as_the_bound),
        WITH_SCRATCH(a_file_longer_than_the_buffer_is_streamed),
        WITH_SCRATCH(other_kinds_of_files_are_named_with_the_way_out),
        WITH_SCRATCH(what_is_not_a_file_is_refused),
        WITH_SCRATCH(a_folder_is_its_data_files_in_order_of_names),
        WITH_SCRATCH(gzip_members_are_one_text),
        WITH_SCRATCH(extra_fields_of_a_gzip_header_are_passed_over),
        WITH_SCRATCH(every_cut_of_a_gzip_file_is_noticed),
        WITH_SCRATCH(every_flipped_bit_of_a_gzip_file_is_noticed),
        WITH_SCRATCH(damaged_gzip_says_how),
        WITH_SCRATCH(a_gzip_bomb_stays_within_the_bound_of_a_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
