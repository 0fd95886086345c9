/* The Jinja interpreter on arbitrary templates: it must refuse them or render them within its
 * bounds. What follows a zero byte is taken for the variables, as JSON.
 *
 *     clang -g -O1 -I. -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE \
 *         -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_jinja.c datasets/jinja*.c \
 *         kernels/core/{err,text,file,json}.c -ljansson -lm -o fuzz_jinja
 *     ./fuzz_jinja -dict=tests/fuzz/jinja.dict corpus
 *
 * With -DFUZZ_FILES and any compiler, without -fsanitize=fuzzer, it runs over the files it is
 * given; of a .json file over every "template" in its "cases" (tests/fixtures/jinja.json).
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const char usual[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"h\\u00e9 <b>\"}, {\"role\": "
    "\"assistant\", \"content\": null, \"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"x\": "
    "[1, 2.5, null]}}]}, {\"role\": \"tool\", \"content\": [{\"type\": \"text\", \"text\": "
    "\"42\"}]}], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}], \"x\": "
    "\"\\ud83d\\ude42 a\", \"n\": 7, \"big\": 9223372036854775807, \"r\": -0.1, \"yes\": true}";

static void render(const struct jinja_template *t, json_t *variables)
{
    const struct jinja_env env = {
        .now = { .tm_year = 124, .tm_mday = 1, .tm_wday = 1 },
        .limits = { .steps = 20000, .output = 1 << 16, .memory = 8 << 20, .depth = 200 },
    };
    struct jinja_output out = { 0 };
    struct err err = { 0 };
    const bool ok = jinja_render(t, &env, variables, &out, &err);
    if (ok != (out.text != NULL) || ok == (err.text[0] != 0))
        abort();
    if (ok && (out.n > env.limits.output || !text_is_utf8(out.text, out.n, NULL)))
        abort();
    for (size_t i = 0; ok && !out.generation_lost && i < out.n_generation; i++) {
        if (out.generation[i].start > out.generation[i].end || out.generation[i].start > out.n)
            abort();
    }
    jinja_output_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct err err = { 0 };
    const uint8_t *zero = n > 0 ? memchr(bytes, 0, n) : NULL;
    const size_t n_template = zero != NULL ? (size_t)(zero - bytes) : n;
    struct jinja_template *t = jinja_parse((const char *)bytes, n_template, "fuzz", &err);
    if ((t == NULL) != (err.text[0] != 0))
        abort();
    if (t == NULL)
        return 0;
    json_t *variables =
        zero != NULL ? json_parse((const char *)zero + 1, n - n_template - 1, "variables", &err)
                     : NULL;
    if (variables == NULL)
        variables = json_parse(usual, strlen(usual), "variables", &err);
    if (json_is_object(variables))
        render(t, variables);
    json_decref(variables);
    jinja_free(t);
    return 0;
}

#ifdef FUZZ_FILES
static int run_cases(const char *path, const char *data, size_t n)
{
    struct err err = { 0 };
    json_t *root = json_parse(data, n, path, &err);
    if (root == NULL) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    size_t i = 0;
    json_t *one = NULL;
    json_array_foreach(json_object_get(root, "cases"), i, one)
    {
        const char *s = json_string_value(json_object_get(one, "template"));
        if (s != NULL)
            LLVMFuzzerTestOneInput((const uint8_t *)s, strlen(s));
    }
    json_decref(root);
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct err err = { 0 };
        char *data = NULL;
        size_t n = 0;
        if (!file_read(argv[i], SIZE_MAX / 2, &data, &n, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        int failed = 0;
        if (text_ends_with(argv[i], ".json"))
            failed = run_cases(argv[i], data, n);
        else
            LLVMFuzzerTestOneInput((const uint8_t *)data, n);
        free(data);
        if (failed)
            return 1;
    }
    return 0;
}
#endif
