/* manifest.json: what it names is held against it, and no more can be named than files of its
 * folder. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/manifest.h"
#include "tests/support/tiny_checkpoint.h"

#define OF_ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* "abc" */
#define ENTRY "{\"bytes\": 3, \"sha256\": \"" OF_ABC "\"}"

static const char *const names[] = { "a", "b" };

/* A folder of a and b, which both hold "abc", and of that manifest (NULL: none). */
static char *make_folder(const char *manifest)
{
    char *folder = tiny_scratch_make();
    tiny_file_write(folder, "a", "abc", 3);
    tiny_file_write(folder, "b", "abc", 3);
    if (manifest != NULL)
        tiny_file_write(folder, MANIFEST_NAME, manifest, strlen(manifest));
    return folder;
}

static void what_is_written_is_verified(void **state)
{
    (void)state;
    struct err err = { 0 };
    char *folder = make_folder(NULL);
    assert_true(manifest_check(folder, &err)); /* none is there */
    assert_false(manifest_verify(folder, names, 2, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    assert_true(manifest_write(folder, names, 2, &err));
    assert_true(manifest_verify(folder, names, 2, &err) && manifest_check(folder, &err));
    tiny_file_write(folder, "b", "abd", 3);
    assert_false(manifest_verify(folder, names, 2, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_non_null(strstr(err.text, "/b: is damaged: its SHA-256 is "));
    assert_false(manifest_check(folder, &err));
    tiny_file_write(folder, "b", "abcd", 4);
    assert_false(manifest_check(folder, &err));
    assert_non_null(strstr(err.text, "/b: is damaged: it has 4 bytes, the manifest says 3"));
    assert_false(manifest_write(folder, (const char *const[]){ "c" }, 1, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    tiny_scratch_remove(folder);
}

/* `all`: manifest_check says the same as manifest_verify; else it passes. */
static const struct {
    const char *manifest, *message;
    bool all;
} damaged[] = {
    { "", "DIR/manifest.json: not valid JSON: column 0: unexpected token near end of file", true },
    { "[]", "DIR/manifest.json: is a list; expected an object", true },
    { "{}", "DIR/manifest.json: \"format\" is missing", true },
    { "{\"format\": 2, \"files\": {}}",
      "DIR/manifest.json: has format 2; expected 1: it was written by another version", true },
    { "{\"format\": 1}", "DIR/manifest.json: is damaged: expected \"format\" and \"files\"", true },
    { "{\"format\": 1, \"files\": []}",
      "DIR/manifest.json: is damaged: expected \"format\" and \"files\"", true },
    { "{\"format\": 1, \"files\": {}, \"more\": 1}",
      "DIR/manifest.json: is damaged: expected \"format\" and \"files\"", true },
    { "{\"format\": 1, \"files\": {\"a\": " ENTRY "}}",
      "DIR/manifest.json: is damaged: it has 1 files, expected 2", false },
    { "{\"format\": 1, \"files\": {\"a\": " ENTRY ", \"c\": " ENTRY "}}",
      "DIR/manifest.json: 'b' is missing; expected an object", false },
    { "{\"format\": 1, \"files\": {\"a\": 1, \"b\": " ENTRY "}}",
      "DIR/manifest.json: 'a' is an integer; expected an object", true },
    { "{\"format\": 1, \"files\": {\"a\": {\"bytes\": -1}, \"b\": " ENTRY "}}",
      "DIR/manifest.json: \"bytes\" is -1; expected 0 to 9223372036854775807", true },
    { "{\"format\": 1, \"files\": {\"a\": {\"bytes\": 3}, \"b\": " ENTRY "}}",
      "DIR/manifest.json: \"sha256\" is missing", true },
};

static void a_damaged_one_is_said_to_be_that(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        struct err err = { 0 };
        char *folder = make_folder(damaged[i].manifest), text[ERR_TEXT_SIZE];
        if (i == 8) /* the file that is named instead */
            tiny_file_write(folder, "c", "abc", 3);
        assert_false(manifest_verify(folder, names, 2, &err));
        tiny_message(text, &err, folder);
        assert_string_equal(text, damaged[i].message);
        assert_int_equal(err.code, ERR_DATA);
        err = (struct err){ 0 };
        assert_int_equal(manifest_check(folder, &err), !damaged[i].all);
        tiny_message(text, &err, folder);
        assert_string_equal(text, damaged[i].all ? damaged[i].message : "");
        tiny_scratch_remove(folder);
    }
}

static void no_name_leads_out_of_the_folder(void **state)
{
    (void)state;
    static const char *const outside[] = { "../a", "/dev/null", "x/../../a", "..", ".", "" };
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        struct err err = { 0 };
        char manifest[256], want[128], text[ERR_TEXT_SIZE];
        snprintf(manifest, sizeof manifest, "{\"format\": 1, \"files\": {\"%s\": %s}}", outside[i],
                 ENTRY);
        char *folder = make_folder(manifest);
        assert_false(manifest_check(folder, &err));
        tiny_message(text, &err, folder);
        snprintf(want, sizeof want, "DIR/manifest.json: names '%s', which is no file of its folder",
                 outside[i]);
        assert_string_equal(text, want);
        assert_int_equal(err.code, ERR_DATA);
        tiny_scratch_remove(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_verified),
        cmocka_unit_test(a_damaged_one_is_said_to_be_that),
        cmocka_unit_test(no_name_leads_out_of_the_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
