/* The Jinja interpreter on arbitrary templates: it must refuse them or render them within its
 * bounds. What follows a zero byte is taken for the variables, as JSON.
 */
#include <string.h>

#include "datasets/jinja.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

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
    FUZZ_CHECK(ok == (out.text != NULL) && ok == (err.text[0] == 0));
    FUZZ_CHECK(!ok || (out.n <= env.limits.output && text_is_utf8(out.text, out.n, NULL)));
    for (size_t i = 0; ok && !out.generation_lost && i < out.n_generation; i++) {
        FUZZ_CHECK(out.generation[i].start <= out.generation[i].end);
        FUZZ_CHECK(out.generation[i].start <= out.n);
    }
    jinja_output_free(&out);
}

bool fuzz_jinja(const uint8_t *bytes, size_t n, struct err *err)
{
    const struct fuzz_pair in = fuzz_split(bytes, n);
    struct jinja_template *t = jinja_parse((const char *)in.first, in.n_first, "fuzz", err);
    if (t == NULL)
        return false;
    json_t *variables = in.second != NULL
                            ? json_parse((const char *)in.second, in.n_second, "variables", NULL)
                            : NULL;
    if (variables == NULL)
        variables = json_parse(usual, strlen(usual), "variables", NULL);
    if (json_is_object(variables))
        render(t, variables);
    json_decref(variables);
    jinja_free(t);
    return true;
}
