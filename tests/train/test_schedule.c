/* The rate of every step against transformers' get_scheduler (tests/fixtures/schedules.json,
 * written by tests/reference/make_optim.py), and how many of the steps are warm-up. */
#include <math.h>
#include <string.h>

#include "finetune/train/schedule.h"
#include "kernels/core/json.h"
#include "tests/support/support.h"

/* Both sides are a few double operations long. */
static const double tolerance = 1e-12;

enum { N_CASE = 32 };

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (root == NULL)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static enum recipe_scheduler kind_of(const char *name)
{
    static const char *const names[] = { [SCHEDULER_CONSTANT] = "constant",
                                         [SCHEDULER_CONSTANT_WITH_WARMUP] = "constant_with_warmup",
                                         [SCHEDULER_LINEAR] = "linear",
                                         [SCHEDULER_COSINE] = "cosine" };
    for (int i = 0; i < 4; i++) {
        if (strcmp(names[i], name) == 0)
            return (enum recipe_scheduler)i;
    }
    fail_msg("unknown schedule '%s'", name);
    return SCHEDULER_CONSTANT;
}

static void check_case(json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    const struct schedule s = { .kind = kind_of(name),
                                .warmup = json_integer_value(json_object_get(entry, "warmup")),
                                .total = json_integer_value(json_object_get(entry, "total")) };
    const double rate = json_number_value(json_object_get(entry, "rate"));
    json_t *rates = json_object_get(entry, "rates"), *value;
    size_t i;
    assert_int_equal(json_array_size(rates), s.total);
    json_array_foreach(rates, i, value)
    {
        const double expected = json_number_value(value);
        const double have = schedule_factor(&s, (int64_t)i) * rate;
        if (!(fabs(have - expected) <= tolerance * fabs(expected)))
            fail_msg("%s, warm-up %d of %d, step %d: %.17g, expected %.17g", name, (int)s.warmup,
                     (int)s.total, (int)i, have, expected);
    }
}

static void every_rate_equals_get_scheduler(void **state)
{
    (void)state;
    json_t *cases = load("tests/fixtures/schedules.json"), *entry;
    size_t i;
    assert_int_equal(json_array_size(cases), N_CASE);
    json_array_foreach(cases, i, entry) check_case(entry);
    json_decref(cases);
}

static void warmup_begins_at_zero_and_a_schedule_ends_at_zero(void **state)
{
    (void)state;
    for (int kind = SCHEDULER_CONSTANT_WITH_WARMUP; kind <= SCHEDULER_COSINE; kind++) {
        const struct schedule s = { .kind = (enum recipe_scheduler)kind, .warmup = 4, .total = 20 };
        assert_true(schedule_factor(&s, 0) == 0);
        assert_true(schedule_factor(&s, 4) == 1);
        assert_true(schedule_factor(&s, 20) == (kind == SCHEDULER_CONSTANT_WITH_WARMUP ? 1 : 0));
    }
}

/* TrainingArguments.get_warmup_steps: steps when above 0, else ceil(total * ratio). */
static void warmup_is_the_steps_or_the_ratio_rounded_up(void **state)
{
    (void)state;
    static const struct {
        int64_t steps;
        double ratio;
        int64_t total, expected;
    } cases[] = {
        { 0, 0, 100, 0 },    { 7, 0, 100, 7 }, { 0, 0.03, 100, 3 },  { 0, 0.03, 101, 4 },
        { 0, 0.001, 10, 1 }, { 0, 1, 10, 10 }, { 200, 0, 100, 200 }, { 0, 0.5, 1, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct recipe r = { .lr_scheduler = SCHEDULER_LINEAR,
                                  .warmup_steps = cases[i].steps,
                                  .warmup_ratio = cases[i].ratio };
        const struct schedule s = schedule_of(&r, cases[i].total);
        assert_int_equal(s.warmup, cases[i].expected);
        assert_int_equal(s.total, cases[i].total);
        assert_int_equal(s.kind, SCHEDULER_LINEAR);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rate_equals_get_scheduler),
        cmocka_unit_test(warmup_begins_at_zero_and_a_schedule_ends_at_zero),
        cmocka_unit_test(warmup_is_the_steps_or_the_ratio_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
