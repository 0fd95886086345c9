/* The profile by itself: every moment is one block's, whatever is nested in what; a device's marks
 * in place of the clock. That the model enters the right blocks is tests/model/test_profile.c's. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "kernels/core/device.h"
#include "kernels/core/profile.h"

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void wait_ms(double ms)
{
    for (const double end = now() + 1e-3 * ms; now() < end;) {
    }
}

static double sum_of(const double seconds[PROFILE_N])
{
    double sum = 0;
    for (int b = 0; b < PROFILE_N; b++)
        sum += seconds[b];
    return sum;
}

/* ---- the host's clock ---- */

static void blocks_add_up_to_the_whole(void **state)
{
    (void)state;
    struct profile p;
    double seconds[PROFILE_N];
    const double before_init = now();
    profile_init(&p, NULL);
    double begin_first = before_init, begin_last = now();
    for (int take = 0; take < 3; take++) { /* the time before a take is never counted again */
        for (int i = 0; i < 20; i++) {
            const enum profile_block b =
                profile_enter(&p, (enum profile_block)(i % (int)PROFILE_N));
            wait_ms(0.1);
            profile_leave(&p, b);
        }
        wait_ms(0.2);
        const double end_first = now();
        profile_take(&p, seconds);
        const double end_last = now();
        /* The clock's readings here lie around the profile's own; a nanosecond is its unit. */
        assert_true(sum_of(seconds) >= end_first - begin_last - 1e-8);
        assert_true(sum_of(seconds) <= end_last - begin_first + 1e-8);
        for (int b = 0; b < PROFILE_N; b++)
            assert_true(seconds[b] >= 1e-4);
        begin_first = end_first;
        begin_last = end_last;
    }
    profile_take(&p, seconds);
    for (int b = 1; b < PROFILE_N; b++)
        assert_true(seconds[b] == 0);
}

static void time_belongs_to_the_innermost_block(void **state)
{
    (void)state;
    struct profile p;
    double seconds[PROFILE_N];
    profile_init(&p, NULL);
    const enum profile_block outside = profile_enter(&p, PROFILE_MAMBA);
    assert_int_equal(outside, PROFILE_OTHER);
    wait_ms(1);
    const enum profile_block outer = profile_enter(&p, PROFILE_NORM);
    assert_int_equal(outer, PROFILE_MAMBA);
    wait_ms(3);
    profile_leave(&p, outer);
    assert_int_equal(p.current, PROFILE_MAMBA);
    wait_ms(1);
    profile_leave(&p, outside);
    assert_int_equal(p.current, PROFILE_OTHER);
    profile_take(&p, seconds);
    assert_true(seconds[PROFILE_MAMBA] >= 2e-3 && seconds[PROFILE_NORM] >= 3e-3);
    assert_true(seconds[PROFILE_ATTENTION] == 0 && seconds[PROFILE_HEAD] == 0);
    assert_int_equal(p.n_switch, 4);
}

static void a_block_within_itself_is_no_switch(void **state)
{
    (void)state;
    struct profile p;
    profile_init(&p, NULL);
    const enum profile_block outside = profile_enter(&p, PROFILE_HEAD);
    const enum profile_block outer = profile_enter(&p, PROFILE_HEAD);
    profile_leave(&p, outer);
    assert_int_equal(p.current, PROFILE_HEAD);
    assert_int_equal(p.n_switch, 1);
    profile_leave(&p, outside);
    assert_int_equal(p.n_switch, 2);
}

static void without_a_profile_nothing_happens(void **state)
{
    (void)state;
    const enum profile_block before = profile_enter(NULL, PROFILE_MOE);
    assert_int_equal(before, PROFILE_OTHER);
    profile_leave(NULL, before);
}

static void every_block_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = 0; a < PROFILE_N; a++) {
        assert_non_null(profile_name((enum profile_block)a));
        for (int b = 0; b < a; b++)
            assert_string_not_equal(profile_name((enum profile_block)a),
                                    profile_name((enum profile_block)b));
    }
    assert_string_equal(profile_name(PROFILE_OTHER), "other");
    assert_string_equal(profile_name(PROFILE_OPTIMIZER), "optimizer");
}

/* ---- a device's marks ---- */

/* Its clock goes on by one at each mark. */
struct marking {
    struct device device;
    int tag;
    double seconds[DEVICE_TAGS];
    int n_mark;
};

static void mark(struct device *d, int tag)
{
    struct marking *m = (struct marking *)(void *)d;
    m->seconds[m->tag] += 1;
    m->tag = tag;
    m->n_mark++;
}

static void marked(struct device *d, double seconds[DEVICE_TAGS])
{
    struct marking *m = (struct marking *)(void *)d;
    memcpy(seconds, m->seconds, sizeof m->seconds);
    memset(m->seconds, 0, sizeof m->seconds);
}

static void a_device_tells_the_time_by_its_marks(void **state)
{
    (void)state;
    struct marking m = { .device = { .mark = mark, .marked = marked }, .tag = DEVICE_TAGS - 1 };
    struct profile p;
    double seconds[PROFILE_N];
    m.seconds[PROFILE_MOE] = 7; /* of a run before: not of this one */
    profile_init(&p, &m.device);
    const enum profile_block outside = profile_enter(&p, PROFILE_MOE); /* other +1 */
    const enum profile_block outer = profile_enter(&p, PROFILE_NORM);  /* moe +1 */
    profile_leave(&p, outer);                                          /* norm +1 */
    profile_leave(&p, outside);                                        /* moe +1 */
    profile_take(&p, seconds);
    assert_true(seconds[PROFILE_OTHER] == 1 && seconds[PROFILE_MOE] == 2);
    assert_true(seconds[PROFILE_NORM] == 1 && sum_of(seconds) == 4);
    assert_int_equal(m.n_mark, 5);
}

/* Whose ops are done when they return. */
static void a_device_without_marks_has_the_hosts_clock(void **state)
{
    (void)state;
    struct device d = { .mark = NULL };
    struct profile p;
    double seconds[PROFILE_N];
    profile_init(&p, &d);
    const enum profile_block before = profile_enter(&p, PROFILE_MLP);
    wait_ms(0.1);
    profile_leave(&p, before);
    profile_take(&p, seconds);
    assert_true(seconds[PROFILE_MLP] >= 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_add_up_to_the_whole),
        cmocka_unit_test(time_belongs_to_the_innermost_block),
        cmocka_unit_test(a_block_within_itself_is_no_switch),
        cmocka_unit_test(without_a_profile_nothing_happens),
        cmocka_unit_test(every_block_has_a_name_of_its_own),
        cmocka_unit_test(a_device_tells_the_time_by_its_marks),
        cmocka_unit_test(a_device_without_marks_has_the_hosts_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
