/* The entry of a harness, compiled with -DFUZZ_FORMAT=<format>: for libFuzzer; or, with
 * -DFUZZ_FILES, a main that runs over the files it is given, and those of folders it is given. Of a
 * .json file with a list of "cases" (tests/fixtures/jinja.json) each one's "template" is an input.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

#define JOIN(a, b) a##b
#define READER(format) JOIN(fuzz_, format)

static int64_t n_accepted;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct err err;
    n_accepted += fuzz_run(READER(FUZZ_FORMAT), bytes, n, &err);
    return 0;
}

#ifdef FUZZ_FILES
/* On exactly n bytes, so that reading past them shows. */
static int64_t run_bytes(const char *bytes, size_t n)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    FUZZ_CHECK(exact != NULL);
    memcpy(exact, bytes, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    return 1;
}

static int64_t run_cases(const char *data, size_t n)
{
    json_t *root = json_parse(data, n, "cases", NULL);
    const json_t *cases = json_object_get(root, "cases");
    int64_t n_run = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *s = json_object_get(json_array_get(cases, i), "template");
        if (json_is_string(s))
            n_run += run_bytes(json_string_value(s), json_string_length(s));
    }
    json_decref(root);
    return n_run;
}

static int64_t run_file(const char *path)
{
    struct err err = { 0 };
    char *data = NULL;
    size_t n = 0;
    if (!file_read(path, SIZE_MAX / 2, &data, &n, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    int64_t n_run = text_ends_with(path, ".json") ? run_cases(data, n) : 0;
    if (n_run == 0)
        n_run = run_bytes(data, n);
    free(data);
    return n_run;
}

static int64_t run_folder(const char *path)
{
    DIR *dir = opendir(path);
    FUZZ_CHECK(dir != NULL);
    int64_t n = 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char *file = file_join(path, e->d_name);
        FUZZ_CHECK(file != NULL);
        if (!file_is_directory(file))
            n += run_file(file);
        free(file);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int64_t n = 0;
    for (int i = 1; i < argc; i++)
        n += file_is_directory(argv[i]) ? run_folder(argv[i]) : run_file(argv[i]);
    printf("%" PRId64 " inputs, %" PRId64 " accepted\n", n, n_accepted);
    return n_accepted > 0 ? 0 : 1; /* refusals alone show little */
}
#endif
