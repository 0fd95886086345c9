/* Writing files: whole or not at all, and never over what is no file. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/core/file.h"
#include "tests/support/tiny_checkpoint.h"

static void a_file_is_replaced_only_when_whole(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = file_join(folder, "a.txt"), *data = NULL;
    struct err err = { 0 };
    size_t n = 0;
    assert_true(file_write(path, "old", 3, &err));
    struct file_writer w = { 0 };
    assert_true(file_writer_open(&w, path, &err) && file_writer_append(&w, "new text", 8, &err));
    assert_true(file_read(path, 100, &data, &n, &err));
    assert_string_equal(data, "old");
    free(data);
    file_writer_abandon(&w);
    assert_true(file_read(path, 100, &data, &n, &err));
    assert_string_equal(data, "old");
    free(data);
    assert_true(file_writer_open(&w, path, &err) && file_writer_append(&w, "new", 3, &err) &&
                file_writer_commit(&w, &err));
    file_writer_abandon(&w);
    assert_true(file_read(path, 100, &data, &n, &err));
    assert_string_equal(data, "new");
    free(data);
    free(path);
    tiny_scratch_remove(folder);
}

static void a_pipe_is_written_to_not_replaced(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = file_join(folder, "pipe");
    struct err err = { 0 };
    struct stat st;
    char got[8] = "";
    assert_int_equal(mkfifo(path, 0600), 0);
    FILE *reader = fopen(path, "r+"); /* both ends, so that neither open waits */
    assert_non_null(reader);
    assert_true(file_write(path, "hello\n", 6, &err));
    assert_non_null(fgets(got, sizeof got, reader));
    assert_string_equal(got, "hello\n");
    assert_true(stat(path, &st) == 0 && S_ISFIFO(st.st_mode));
    fclose(reader);
    free(path);
    tiny_scratch_remove(folder);
}

static void a_link_is_written_through(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = file_join(folder, "a"),
         *link = file_join(folder, "b");
    struct err err = { 0 };
    struct stat st;
    char *data = NULL;
    size_t n = 0;
    assert_true(file_write(path, "old", 3, &err));
    assert_int_equal(symlink(path, link), 0);
    assert_true(file_write(link, "new", 3, &err));
    assert_true(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    assert_true(file_read(path, 100, &data, &n, &err));
    assert_string_equal(data, "new");
    free(data);
    free(path);
    free(link);
    tiny_scratch_remove(folder);
}

static void a_folder_is_no_file(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make();
    struct err err = { 0 };
    assert_false(file_write(folder, "x", 1, &err));
    assert_int_equal(err.code, ERR_CANT_CREATE);
    assert_non_null(strstr(err.text, ": cannot be created: Is a directory"));
    tiny_scratch_remove(folder);
}

static void a_path_is_resolved_through_links(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = file_join(folder, "a.txt");
    char *link = file_join(folder, "link"), *whole = NULL, *there = NULL;
    struct err err = { 0 };
    assert_true(file_resolve(link, &whole, &err));
    assert_null(whole);
    assert_true(file_write(path, "x", 1, &err));
    assert_int_equal(symlink("a.txt", link), 0);
    assert_true(file_resolve(path, &there, &err) && file_resolve(link, &whole, &err));
    assert_string_equal(whole, there);
    free(whole);
    free(there);
    free(link);
    free(path);
    tiny_scratch_remove(folder);
}

static void the_beginning_of_a_file_is_read(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = file_join(folder, "a.txt"), text[5] = "old";
    struct err err = { 0 };
    file_read_start(path, text, sizeof text);
    assert_string_equal(text, "");
    assert_true(file_write(path, "beginning", 9, &err));
    file_read_start(path, text, sizeof text);
    assert_string_equal(text, "begi");
    free(path);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_replaced_only_when_whole),
        cmocka_unit_test(a_pipe_is_written_to_not_replaced),
        cmocka_unit_test(a_link_is_written_through),
        cmocka_unit_test(a_folder_is_no_file),
        cmocka_unit_test(a_path_is_resolved_through_links),
        cmocka_unit_test(the_beginning_of_a_file_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
