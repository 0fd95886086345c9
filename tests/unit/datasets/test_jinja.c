/* The Jinja interpreter against jinja2, case by case: tests/fixtures/jinja.json, written by
 * tests/reference/make_jinja.py. */
#include "tests/support/support.h"

#include <string.h>

#include "datasets/jinja.h"
#include "kernels/core/json.h"

enum { FIXTURE_LIMIT = 16 << 20 };

static const char path[] = "tests/fixtures/jinja.json";

/* The time that the fixture was made at. */
static const struct jinja_env env = { .now = { .tm_year = 124,
                                               .tm_mon = 1,
                                               .tm_mday = 3,
                                               .tm_hour = 4,
                                               .tm_min = 5,
                                               .tm_sec = 6,
                                               .tm_wday = 6,
                                               .tm_yday = 33 } };

static const char *member(json_t *one, const char *key)
{
    return json_string_value(json_object_get(one, key));
}

/* Behind "name:line:column: ". */
static const char *without_place(const char *message)
{
    for (int i = 0; i < 3; i++) {
        const char *colon = strchr(message, ':');
        if (colon == NULL)
            return message;
        message = colon + 1;
    }
    return message + (message[0] == ' ');
}

static void check_text(const char *template, json_t *one, const struct jinja_output *out,
                       const struct err *err)
{
    json_t *text = json_object_get(one, "text"), *ranges = json_object_get(one, "generation");
    if (out->text == NULL)
        fail_msg("%s: failed: %s", template, err->text);
    if (out->n != json_string_length(text) || memcmp(out->text, json_string_value(text), out->n))
        fail_msg("%s: is '%s', expected '%s'", template, out->text, json_string_value(text));
    assert_int_equal(out->n_generation, json_array_size(ranges));
    for (size_t i = 0; i < out->n_generation; i++) {
        json_t *range = json_array_get(ranges, i);
        assert_int_equal(out->generation[i].start, json_integer_value(json_array_get(range, 0)));
        assert_int_equal(out->generation[i].end, json_integer_value(json_array_get(range, 1)));
    }
}

static void check_failure(const char *template, json_t *one, const struct jinja_output *out,
                          const struct err *err)
{
    const char *raised = member(one, "raised"), *message = member(one, "message");
    const char *refused = member(one, "refused");
    if (err->text[0] == 0)
        fail_msg("%s: is '%s', expected a failure", template, out->text);
    assert_int_equal(strncmp(err->text, "case:", 5), 0);
    if (raised != NULL)
        assert_string_equal(out->raised, raised);
    else
        assert_null(out->raised);
    if (message != NULL)
        assert_string_equal(without_place(err->text), message);
    if (refused != NULL && strstr(err->text, refused) == NULL)
        fail_msg("%s: '%s' has no '%s'", template, err->text, refused);
}

static void every_case_renders_as_jinja2_renders_it(void **state)
{
    (void)state;
    struct err err = { 0 };
    json_t *root = json_load_object(path, FIXTURE_LIMIT, &err);
    if (root == NULL)
        fail_msg("%s", err.text);
    json_t *variables = json_object_get(root, "variables"), *one = NULL;
    json_t *before = json_deep_copy(variables);
    size_t i = 0, n_text = 0, n_failure = 0;
    json_array_foreach(json_object_get(root, "cases"), i, one)
    {
        json_t *template = json_object_get(one, "template");
        const char *text = json_string_value(template);
        struct jinja_output out = { 0 };
        err.text[0] = 0;
        struct jinja_template *t = jinja_parse(text, json_string_length(template), "case", &err);
        if (t != NULL)
            jinja_render(t, &env, variables, &out, &err);
        if (json_object_get(one, "text") != NULL) {
            check_text(text, one, &out, &err);
            n_text++;
        } else {
            check_failure(text, one, &out, &err);
            n_failure++;
        }
        jinja_output_free(&out);
        jinja_free(t);
    }
    assert_true(n_text > 500);
    assert_true(n_failure > 200);
    assert_true(json_equal(variables, before));
    json_decref(before);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_renders_as_jinja2_renders_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
