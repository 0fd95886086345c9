/* Blocks of a file past the page cache: every place and length, and what is left to others. */
#include "finetune/export/merged_direct.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { PAGE = 4096, SIZE = 3 * PAGE + 100 };

static char pattern(size_t i)
{
    return (char)(i * 7 + i / 251 + 1);
}

static char *make_file(void **state)
{
    struct err err = { 0 };
    char *path = file_join(*state, "block");
    assert_non_null(path);
    assert_true(file_write(path, "", 0, &err));
    return path;
}

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

/* Writes the block as an exporter does, the rest the usual way. */
static struct merged_part put(const struct merged_direct *d, int fd, char *buffer, size_t at,
                              size_t n)
{
    char *bytes = buffer + merged_direct_lead(at);
    struct merged_part part = { 0 };
    for (size_t i = 0; i < n; i++)
        bytes[i] = pattern(at + i);
    assert_true(merged_direct_write(d, at, bytes, n, &part));
    assert_true(part.begin <= part.end && part.end <= n);
    assert_int_equal(pwrite(fd, bytes, part.begin, (off_t)at), part.begin);
    assert_int_equal(pwrite(fd, bytes + part.end, n - part.end, (off_t)(at + part.end)),
                     n - part.end);
    return part;
}

static void check_file(const char *path)
{
    struct err err = { 0 };
    char *have = NULL;
    size_t n = 0;
    assert_true(file_read(path, SIZE, &have, &n, &err));
    assert_int_equal(n, SIZE);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(have[i], pattern(i));
    free(have);
}

/* Blocks of each length, end to end, and all of them read back from the same and other places. */
static void what_is_written_is_read(void **state)
{
    static const size_t lengths[] = { 1, 100, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 17, SIZE };
    char *path = make_file(state), *buffer = merged_direct_buffer(SIZE);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(buffer != NULL && fd >= 0);
    assert_int_equal((uintptr_t)buffer % PAGE, 0);
    for (size_t k = 0; k < COUNT(lengths); k++) {
        assert_int_equal(ftruncate(fd, 0), 0);
        struct merged_direct d = merged_direct_open(path, SIZE);
        for (size_t at = 0; at < SIZE; at += lengths[k]) {
            const size_t n = SIZE - at < lengths[k] ? SIZE - at : lengths[k];
            const struct merged_part part = put(&d, fd, buffer, at, n);
            assert_true(part.begin == part.end || (at + part.begin) % PAGE == 0);
            assert_true(part.begin == part.end || (at + part.end) % PAGE == 0);
        }
        merged_direct_close(&d);
        check_file(path);
        d = merged_direct_open(path, 0);
        for (size_t at = 0; at < SIZE; at += lengths[k]) {
            const size_t n = SIZE - at < lengths[k] ? SIZE - at : lengths[k];
            const char *have = merged_direct_read(&d, at, n, buffer);
            for (size_t i = 0; have != NULL && i < n; i++)
                assert_int_equal(have[i], pattern(at + i));
            assert_true(d.fd < 0 || have != NULL);
        }
        assert_null(merged_direct_read(&d, SIZE - 10, 11, buffer)); /* past the end */
        merged_direct_close(&d);
        check_file(path);
    }
    close(fd);
    free(buffer);
    free(path);
}

/* Without such a way nothing is done, and nothing fails. */
static void without_it_all_is_left(void **state)
{
    (void)state;
    struct merged_direct d = merged_direct_open("/nowhere/at/all", 0);
    char *buffer = merged_direct_buffer(2 * PAGE);
    struct merged_part part = { 1, 2 };
    assert_non_null(buffer);
    assert_int_equal(d.fd, -1);
    memset(buffer, 0, 2 * PAGE);
    assert_true(merged_direct_write(&d, 0, buffer, 2 * PAGE, &part));
    assert_true(part.begin == 0 && part.end == 0);
    assert_null(merged_direct_read(&d, 0, PAGE, buffer));
    merged_direct_close(&d);
    free(buffer);
}

/* A disk that fails is no file system without the way: the caller has to say it. */
static void a_failing_disk_is_reported(void **state)
{
    char *path = make_file(state), *buffer = merged_direct_buffer(2 * PAGE);
    struct merged_part part = { 0 };
    const struct merged_direct d = { open(path, O_RDONLY | O_CLOEXEC) };
    assert_true(buffer != NULL && d.fd >= 0);
    memset(buffer, 0, 2 * PAGE);
    assert_false(merged_direct_write(&d, 0, buffer, 2 * PAGE, &part));
    assert_true(part.begin == part.end);
    close(d.fd);
    free(buffer);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, make_folder, remove_folder),
        cmocka_unit_test(without_it_all_is_left),
        cmocka_unit_test_setup_teardown(a_failing_disk_is_reported, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
