/* Event files, taken apart again: framing, checksums, messages; what happens to files that are
 * there, and when the disk is full. tests/reference/check_tensorboard.py has the real reader. */
#include "tests/support/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "finetune/train/tensorboard.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

/* ---- a small decoder ---- */

struct span {
    const uint8_t *data;
    size_t n;
};

static uint64_t read_fixed(const uint8_t *bytes, size_t n)
{
    uint64_t x = 0;
    for (size_t i = n; i-- > 0;)
        x = x << 8 | bytes[i];
    return x;
}

static uint64_t read_varint(struct span *s)
{
    uint64_t x = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        assert_true(s->n > 0);
        const uint8_t byte = *s->data++;
        s->n--;
        x |= (uint64_t)(byte & 0x7F) << (shift < 64 ? shift : 63);
        if (byte < 0x80)
            return x;
    }
    fail_msg("a number longer than ten bytes");
    return 0;
}

/* A field of a message: a number, or bytes. */
struct field {
    unsigned number, wire;
    uint64_t value;
    struct span bytes;
};

static bool next_field(struct span *s, struct field *f)
{
    if (s->n == 0)
        return false;
    const uint64_t key = read_varint(s);
    *f = (struct field){ .number = (unsigned)(key >> 3), .wire = (unsigned)(key & 7) };
    if (f->wire == 0) {
        f->value = read_varint(s);
        return true;
    }
    const size_t n = f->wire == 1 ? 8 : f->wire == 5 ? 4 : (size_t)read_varint(s);
    assert_true(f->wire == 1 || f->wire == 2 || f->wire == 5);
    assert_true(n <= s->n);
    f->bytes = (struct span){ s->data, n };
    if (f->wire != 2)
        f->value = read_fixed(s->data, n);
    s->data += n;
    s->n -= n;
    return true;
}

/* The one field of that number; absent: all zero. */
static struct field find(struct span message, unsigned number)
{
    struct field f, found = { 0 };
    while (next_field(&message, &f)) {
        if (f.number == number) {
            assert_int_equal(found.number, 0);
            found = f;
        }
    }
    return found;
}

static bool is_text(struct field f, const char *expected)
{
    return f.wire == 2 && f.bytes.n == strlen(expected) &&
           memcmp(f.bytes.data, expected, f.bytes.n) == 0;
}

static double as_double(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float as_float(uint64_t bits)
{
    const uint32_t low = (uint32_t)bits;
    float x;
    memcpy(&x, &low, sizeof x);
    return x;
}

enum { MOST_EVENTS = 64 };

/* The records of a file's bytes; the last may be torn, which is a false return. */
static bool take_apart(const char *bytes, size_t n, struct span events[MOST_EVENTS], int *n_event)
{
    const uint8_t *at = (const uint8_t *)bytes;
    *n_event = 0;
    while (n > 0) {
        if (n < 12)
            return false;
        const uint64_t length = read_fixed(at, 8);
        assert_int_equal(read_fixed(at + 8, 4), crc32c_masked(at, 8));
        if (n - 12 < length || n - 12 - length < 4)
            return false;
        assert_int_equal(read_fixed(at + 12 + length, 4), crc32c_masked(at + 12, length));
        assert_true(*n_event < MOST_EVENTS);
        events[(*n_event)++] = (struct span){ at + 12, length };
        at += 16 + length;
        n -= 16 + length;
    }
    return true;
}

/* ---- files ---- */

struct opened {
    char *folder;
    struct tensorboard tb;
    char *path, *bytes;
    size_t n;
    struct span events[MOST_EVENTS];
    int n_event;
};

static void open_new(struct opened *o, char *folder, int64_t resumed_step)
{
    struct err err = { 0 };
    *o = (struct opened){ .folder = folder };
    if (!tensorboard_open(&o->tb, folder, resumed_step, &err))
        fail_msg("%s", err.text);
    o->path = text_copy(o->tb.path);
    assert_non_null(o->path);
}

static void read_events(struct opened *o)
{
    struct err err = { 0 };
    free(o->bytes);
    assert_true(file_read(o->path, 1 << 24, &o->bytes, &o->n, &err));
    assert_true(take_apart(o->bytes, o->n, o->events, &o->n_event));
}

static void close_it(struct opened *o)
{
    struct err err = { 0 };
    assert_true(tensorboard_close(&o->tb, &err));
    assert_true(tensorboard_close(&o->tb, &err)); /* harmless */
    free(o->path);
    free(o->bytes);
}

static void a_file_begins_with_version_and_session(void **state)
{
    (void)state;
    static const int64_t resumed[] = { -1, 0, 1000 };
    for (size_t i = 0; i < 3; i++) {
        char *folder = tiny_scratch_make();
        struct opened o;
        open_new(&o, folder, resumed[i]);
        read_events(&o); /* there at once, not at the first flush */
        assert_int_equal(o.n_event, 2);
        /* As all such files begin: a record of 24 bytes. */
        assert_memory_equal(o.bytes, "\x18\0\0\0\0\0\0\0\xA3\x7F\x4B\x22\x09", 13);
        assert_true(is_text(find(o.events[0], 3), "brain.Event:2"));
        assert_int_equal(find(o.events[0], 2).value, 0);
        const double wall = as_double(find(o.events[0], 1).value);
        assert_true(fabs(wall - (double)time(NULL)) < 60);
        assert_int_equal(find(o.events[1], 2).value, resumed[i] + 1);
        assert_int_equal(find(find(o.events[1], 7).bytes, 1).value, 1);
        char *start = text_format("%s/runs/events.out.tfevents.", folder), *end;
        assert_true(text_starts_with(o.path, start));
        assert_true(llabs(strtoll(o.path + strlen(start), &end, 10) - (long long)time(NULL)) < 60);
        char *tail = text_format(".%ld.0", (long)getpid());
        assert_true(*end == '.' && text_ends_with(end, tail));
        free(tail);
        free(start);
        close_it(&o);
        tiny_scratch_remove(folder);
    }
}

static void a_scalar_is_a_simple_value(void **state)
{
    (void)state;
    static const struct {
        double value;
        float expected;
    } cases[] = { { 0, 0 },
                  { -2.5, -2.5F },
                  { 3.25, 3.25F },
                  { (double)INFINITY, INFINITY },
                  { (double)-INFINITY, -INFINITY },
                  { 1e-60, 0 } };
    enum { N = sizeof cases / sizeof *cases };
    struct opened o;
    struct err err = { 0 };
    open_new(&o, tiny_scratch_make(), -1);
    for (int64_t i = 0; i < N; i++)
        assert_true(tensorboard_scalar(&o.tb, "train/loss", i * 1000, cases[i].value, &err));
    assert_true(tensorboard_scalar(&o.tb, "t", INT64_MAX, (double)NAN, &err));
    assert_true(tensorboard_flush(&o.tb, &err));
    read_events(&o);
    assert_int_equal(o.n_event, 2 + N + 1);
    for (int i = 0; i < N; i++) {
        const struct span value = find(find(o.events[2 + i], 5).bytes, 1).bytes;
        assert_int_equal(find(o.events[2 + i], 2).value, i * 1000);
        assert_true(is_text(find(value, 1), "train/loss"));
        assert_int_equal(find(value, 2).wire, 5);
        assert_true(as_float(find(value, 2).value) == cases[i].expected);
    }
    const struct span value = find(find(o.events[2 + N], 5).bytes, 1).bytes;
    assert_true(isnan(as_float(find(value, 2).value)));
    assert_true(find(o.events[2 + N], 2).value == INT64_MAX);
    close_it(&o);
    tiny_scratch_remove(o.folder);
}

static void a_text_is_a_block_of_code(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        { "", "    " },
        { "a", "    a" },
        { "lora_r: 8\n```\n  <b>x</b>\n", "    lora_r: 8\n    ```\n      <b>x</b>\n    " },
        { "\xE2\x82\xAC \xFF\xE2\x82 y\xE2", "    \xE2\x82\xAC ??? y?" }, /* not UTF-8 */
    };
    struct opened o;
    struct err err = { 0 };
    open_new(&o, tiny_scratch_make(), -1);
    for (int i = 0; i < 4; i++)
        assert_true(tensorboard_text(&o.tb, "samples/\xFF", 7, cases[i].text, &err));
    assert_true(tensorboard_flush(&o.tb, &err));
    read_events(&o);
    assert_int_equal(o.n_event, 6);
    for (int i = 0; i < 4; i++) {
        const struct span value = find(find(o.events[2 + i], 5).bytes, 1).bytes;
        const struct span tensor = find(value, 8).bytes, metadata = find(value, 9).bytes;
        assert_int_equal(find(o.events[2 + i], 2).value, 7);
        assert_true(is_text(find(value, 1), "samples/?"));
        assert_int_equal(find(tensor, 1).value, 7); /* DT_STRING */
        assert_true(find(tensor, 2).wire == 2 && find(tensor, 2).bytes.n == 0);
        assert_true(is_text(find(tensor, 8), cases[i].expected));
        assert_true(is_text(find(find(metadata, 1).bytes, 1), "text"));
        assert_int_equal(find(metadata, 4).value, 2); /* DATA_CLASS_TENSOR */
    }
    close_it(&o);
    tiny_scratch_remove(o.folder);
}

/* ---- when it is written ---- */

static void records_wait_until_there_are_many_or_time_passed(void **state)
{
    (void)state;
    struct opened o;
    struct err err = { 0 };
    struct stat st;
    open_new(&o, tiny_scratch_make(), -1);
    assert_int_equal(stat(o.path, &st), 0);
    const off_t head = st.st_size;
    assert_true(tensorboard_scalar(&o.tb, "a", 1, 1, &err));
    assert_int_equal(stat(o.path, &st), 0);
    assert_int_equal(st.st_size, head);
    o.tb.flushed -= 6; /* as if the last flush were so many seconds ago */
    assert_true(tensorboard_scalar(&o.tb, "a", 2, 2, &err));
    read_events(&o);
    assert_int_equal(o.n_event, 4);

    enum { N = 100000 };
    char *large = malloc(N + 1);
    assert_non_null(large);
    memset(large, 'x', N);
    large[N] = '\0';
    assert_true(tensorboard_text(&o.tb, "b", 3, large, &err));
    read_events(&o);
    assert_int_equal(o.n_event, 5);
    assert_true(tensorboard_scalar(&o.tb, "a", 3, 2, &err));
    assert_true(tensorboard_close(&o.tb, &err)); /* writes the rest */
    read_events(&o);
    assert_int_equal(o.n_event, 6);
    free(large);
    close_it(&o);
    tiny_scratch_remove(o.folder);
}

/* Readers go through a folder's files by name. */
static void a_later_file_has_a_later_name_and_none_is_changed(void **state)
{
    (void)state;
    enum { N = 4 };
    struct opened o[N];
    struct err err = { 0 };
    char *folder = tiny_scratch_make();
    for (int i = 0; i < N; i++) {
        open_new(&o[i], folder, -1);
        assert_true(tensorboard_scalar(&o[i].tb, "a", i, i, &err));
        assert_true(tensorboard_flush(&o[i].tb, &err));
        if (i > 0)
            assert_true(strcmp(o[i - 1].path, o[i].path) < 0);
    }
    for (int i = 0; i < N; i++) {
        read_events(&o[i]);
        assert_int_equal(o[i].n_event, 3);
        close_it(&o[i]);
    }
    /* A clock that was ahead; and a name that says nothing of time. */
    tiny_file_write(folder, "runs/events.out.tfevents.9000000000.x.1.0", "", 0);
    tiny_file_write(folder, "runs/events.out.tfevents.99999999999999999999.x.1.0", "", 0);
    tiny_file_write(folder, "runs/events.out.tfevents.9500000000", "", 0);
    struct opened last;
    open_new(&last, folder, -1);
    assert_non_null(strstr(last.path, "/events.out.tfevents.9000000001."));
    close_it(&last);
    tiny_scratch_remove(folder);
}

/* ---- failures ---- */

static void a_folder_that_cannot_be_made_is_an_error(void **state)
{
    (void)state;
    struct tensorboard tb = { 0 };
    struct err err = { 0 };
    char message[ERR_TEXT_SIZE], *folder = tiny_scratch_make();
    tiny_file_write(folder, "runs", "", 0);
    assert_false(tensorboard_open(&tb, folder, -1, &err));
    tiny_message(message, &err, folder);
    assert_string_equal(message, "DIR/runs: cannot be created: File exists");
    assert_int_equal(err.code, ERR_CANT_CREATE);
    assert_true(tensorboard_close(&tb, &err));
    tiny_scratch_remove(folder);
}

/* A file that may not grow stands for a full disk: a write stops half-way through a record. */
static void what_could_not_be_written_is_tried_again(void **state)
{
    (void)state;
    struct opened o;
    struct err err = { 0 };
    struct rlimit old, small;
    struct stat st;
    open_new(&o, tiny_scratch_make(), -1);
    assert_int_equal(stat(o.path, &st), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    small = old;
    small.rlim_cur = (rlim_t)st.st_size + 70; /* a scalar's record and a piece of the next */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int64_t i = 0; i < 3; i++)
        assert_true(tensorboard_scalar(&o.tb, "train/loss", i, 1, &err));
    const bool first = tensorboard_flush(&o.tb, &err), again = tensorboard_flush(&o.tb, NULL);
    const int size_ok = stat(o.path, &st);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_true(!first && !again && size_ok == 0);
    assert_int_equal(st.st_size, small.rlim_cur);
    char *expected = text_format("%s: cannot be written: File too large", o.path);
    assert_string_equal(err.text, expected);
    assert_int_equal(err.code, ERR_IO);
    free(expected);

    struct span torn[MOST_EVENTS];
    int n_torn = 0;
    assert_true(file_read(o.path, 1 << 20, &o.bytes, &o.n, &err));
    assert_false(take_apart(o.bytes, o.n, torn, &n_torn));
    assert_int_equal(n_torn, 3);

    assert_true(tensorboard_flush(&o.tb, &err));
    read_events(&o);
    assert_int_equal(o.n_event, 5);
    close_it(&o);
    tiny_scratch_remove(o.folder);
}

/* Closing says what it could not write, and closes. */
static void closing_on_a_full_disk_is_an_error(void **state)
{
    (void)state;
    struct opened o;
    struct err err = { 0 };
    open_new(&o, tiny_scratch_make(), -1);
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0 && dup2(full, o.tb.fd) == o.tb.fd);
    close(full);
    assert_true(tensorboard_scalar(&o.tb, "a", 1, 1, &err));
    assert_false(tensorboard_close(&o.tb, &err));
    char *expected = text_format("%s: cannot be written: No space left on device", o.path);
    assert_string_equal(err.text, expected);
    free(expected);
    close_it(&o);
    tiny_scratch_remove(o.folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_begins_with_version_and_session),
        cmocka_unit_test(a_scalar_is_a_simple_value),
        cmocka_unit_test(a_text_is_a_block_of_code),
        cmocka_unit_test(records_wait_until_there_are_many_or_time_passed),
        cmocka_unit_test(a_later_file_has_a_later_name_and_none_is_changed),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_an_error),
        cmocka_unit_test(what_could_not_be_written_is_tried_again),
        cmocka_unit_test(closing_on_a_full_disk_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
