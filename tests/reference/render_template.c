/* Renders every template for every set of variables: our side of jinja_conformance.py and
 * make_jinja.py.
 *
 *     render_template VARIABLES.json TEMPLATE...
 *
 * VARIABLES.json is an array of objects. For each template a line of JSON is printed: {"error":
 * ...} when it does not parse, else an array with one object per set: {"text", "generation",
 * "lost"} or
 * {"error", "raised"}. The time is 2024-02-03 04:05:06.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"

enum { FILE_LIMIT = 1 << 30 };

static json_t *text_of(const char *s, size_t n)
{
    json_t *j = json_stringn(s, n);
    return j != NULL ? j : json_string("(not UTF-8)");
}

static json_t *render(const struct jinja_template *t, json_t *variables)
{
    const struct jinja_env env = { .now = { .tm_year = 124,
                                            .tm_mon = 1,
                                            .tm_mday = 3,
                                            .tm_hour = 4,
                                            .tm_min = 5,
                                            .tm_sec = 6,
                                            .tm_wday = 6,
                                            .tm_yday = 33 } };
    struct jinja_output out = { 0 };
    struct err err = { 0 };
    json_t *result = json_object();
    if (jinja_render(t, &env, variables, &out, &err)) {
        json_t *ranges = json_array();
        for (size_t i = 0; i < out.n_generation; i++)
            json_array_append_new(ranges, json_pack("[II]", (json_int_t)out.generation[i].start,
                                                    (json_int_t)out.generation[i].end));
        json_object_set_new(result, "text", text_of(out.text, out.n));
        json_object_set_new(result, "generation", ranges);
        json_object_set_new(result, "lost", json_boolean(out.generation_lost));
    } else {
        json_object_set_new(result, "error", text_of(err.text, strlen(err.text)));
        if (out.raised != NULL)
            json_object_set_new(result, "raised", text_of(out.raised, out.n_raised));
    }
    jinja_output_free(&out);
    return result;
}

int main(int argc, char **argv)
{
    struct err err = { 0 };
    char *text = NULL;
    size_t n = 0;
    json_t *variables = NULL;
    if (argc < 2 || !file_read(argv[1], FILE_LIMIT, &text, &n, &err) ||
        (variables = json_parse(text, n, argv[1], &err)) == NULL || !json_is_array(variables)) {
        fprintf(stderr, "render_template VARIABLES.json TEMPLATE...\n%s\n", err.text);
        return EXIT_FAILURE;
    }
    free(text);
    for (int i = 2; i < argc; i++) {
        struct jinja_template *t = NULL;
        json_t *line = NULL;
        if (!file_read(argv[i], FILE_LIMIT, &text, &n, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return EXIT_FAILURE;
        }
        t = jinja_parse(text, n, "template", &err);
        if (t == NULL) {
            line = json_pack("{s:o}", "error", text_of(err.text, strlen(err.text)));
        } else {
            line = json_array();
            for (size_t k = 0; k < json_array_size(variables); k++)
                json_array_append_new(line, render(t, json_array_get(variables, k)));
        }
        json_dumpf(line, stdout, JSON_COMPACT);
        printf("\n");
        fflush(stdout);
        json_decref(line);
        jinja_free(t);
        free(text);
    }
    json_decref(variables);
    return EXIT_SUCCESS;
}
