/* What pages are made of: axes, thinned and smoothed curves, the recipe's lines, escaping, numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/report/curve.h"
#include "finetune/report/page.h"
#include "finetune/report/scale.h"
#include "finetune/report/settings.h"

#define NONE ((double)NAN)
#define HUGE_NUMBER ((double)INFINITY)

/* ---- axes ---- */

static char *labels_of(const struct scale *s)
{
    static char out[512];
    char label[SCALE_LABEL_SIZE];
    out[0] = '\0';
    for (int i = 0; i < s->n_tick; i++) {
        scale_label(s, i, label);
        strcat(strcat(out, i > 0 ? " " : ""), label);
    }
    return out;
}

static void ticks_are_at_round_numbers(void **state)
{
    (void)state;
    static const struct {
        double low, high;
        int about;
        bool integers, outward;
        const char *labels;
    } cases[] = {
        { 0.93, 4.1, 5, false, true, "0 1 2 3 4 5" },
        { 2.02, 2.31, 5, false, true, "2.0 2.1 2.2 2.3 2.4" },
        { 0, 3e-4, 5, false, true, "0 1e-4 2e-4 3e-4" },
        { 0, 1.5e-4, 5, false, true, "0 5e-5 1.0e-4 1.5e-4" },
        { 0, 12600, 5, false, true, "0 5k 10k 15k" },
        { 0, 1, 8, true, false, "0 1" },
        { 0, 500, 8, true, false, "0 100 200 300 400 500" },
        { 0, 100000, 8, true, false, "0 20k 40k 60k 80k 100k" },
        { 3, 7, 8, true, false, "3 4 5 6 7" },
        { -1.5, 1.5, 5, false, true, "-2 -1 0 1 2" },
        { 5, 5, 5, false, true, "4.4 4.6 4.8 5.0 5.2 5.4 5.6" },
        { 0, 0, 5, false, true, "0 0.2 0.4 0.6 0.8 1.0" },
        { 0, 5e-324, 5, false, true, "0 0.2 0.4 0.6 0.8 1.0" },
        { 1, 1, 8, true, false, "0 1 2" },
        { 1e30, 1e30, 5, false, true, "9.0e29 9.5e29 1.00e30 1.05e30 1.10e30" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct scale s = scale_linear(cases[i].low, cases[i].high, cases[i].about,
                                            cases[i].integers, cases[i].outward);
        assert_string_equal(labels_of(&s), cases[i].labels);
        assert_true(s.low <= cases[i].low && s.high >= cases[i].high && s.low < s.high);
    }
}

static void logarithmic_ticks_are_few(void **state)
{
    (void)state;
    static const struct {
        double low, high;
        const char *labels;
    } cases[] = {
        { 0.8, 90, "0.5 1 2 5 10 20 50 100" },
        { 1, 1, "1 2" },
        { 2, 5, "2 5" },
        { 1e-4, 1, "1e-4 1e-3 0.01 0.1 1" },
        { 3e-9, 4e5, "1e-9 1e-6 1e-3 1 1000 1M" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct scale s = scale_log(cases[i].low, cases[i].high);
        assert_true(s.low <= cases[i].low * 1.0001 && s.high >= cases[i].high * 0.9999);
        assert_string_equal(labels_of(&s), cases[i].labels);
    }
}

/* Any range that a curve can have ends in an axis with ticks in order. */
static void any_range_has_an_axis(void **state)
{
    (void)state;
    for (int a = -60; a <= 60; a++) {
        for (int b = a; b <= 60; b += 3) {
            const double low = pow(10, a / 2.0), high = 1.7 * pow(10, b / 2.0);
            const struct scale axes[] = { scale_linear(low, high, 5, false, true),
                                          scale_linear(-high, low, 5, false, true),
                                          scale_linear(low, high, 8, true, false),
                                          scale_log(low, high) };
            for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
                assert_true(isfinite(axes[i].low) && axes[i].low < axes[i].high);
                for (int t = 1; t < axes[i].n_tick; t++)
                    assert_true(axes[i].ticks[t] > axes[i].ticks[t - 1]);
                assert_true(strlen(labels_of(&axes[i])) < 200);
            }
        }
    }
}

static void a_value_stands_between_the_ends(void **state)
{
    (void)state;
    const struct scale linear = scale_linear(0, 4, 4, false, true), log = scale_log(0.1, 10);
    assert_true(scale_at(&linear, 1) == 0.25 && scale_at(&linear, 9) == 1);
    assert_true(scale_at(&linear, -9) == 0 && scale_at(&linear, NONE) == 0);
    assert_true(fabs(scale_at(&log, 1) - 0.5) < 1e-12);
    assert_true(scale_at(&log, 0) == 0 && scale_at(&log, -1) == 0);
}

/* ---- curves ---- */

enum { N_LONG = 100000, COLUMNS = 500 };

static char *path_of(const double *x, const double *y, int64_t n, double high)
{
    const struct scale sx = scale_linear(x[0], x[n - 1], 5, true, false);
    const struct scale sy = scale_linear(0, high, 5, false, true);
    struct text out = { 0 };
    curve_path(x, y, n, &sx, &sy, 1000, &out);
    return out.data;
}

static void a_path_breaks_where_values_are_missing(void **state)
{
    (void)state;
    static const double x[] = { 0, 1, 2, 3, 4, 5 };
    static const struct {
        double y[6];
        const char *path;
    } cases[] = {
        { { 0, 1, 2, 3, 4, 5 }, "M0 10000L2000 8000 4000 6000 6000 4000 8000 2000 10000 0" },
        { { 0, 1, NONE, 3, 4, 5 }, "M0 10000L2000 8000M6000 4000L8000 2000 10000 0" },
        { { 0, 1, HUGE_NUMBER, 3, -HUGE_NUMBER, 1e31 }, "M0 10000L2000 8000M6000 4000L6000 4000" },
        { { NONE, NONE, NONE, NONE, NONE, 5 }, "M10000 0L10000 0" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = path_of(x, cases[i].y, 6, 5);
        assert_string_equal(path, cases[i].path);
        free(path);
    }
    static const double none[] = { NONE, NONE };
    char *path = path_of(x, none, 2, 5);
    assert_null(path);
}

static void a_long_path_is_short_and_keeps_its_spikes(void **state)
{
    (void)state;
    double *x = calloc(N_LONG, sizeof *x), *y = calloc(N_LONG, sizeof *y);
    assert_true(x != NULL && y != NULL);
    for (int i = 0; i < N_LONG; i++) {
        x[i] = i;
        y[i] = i == 77777 ? 10 : i == 33333 ? 0 : 5 + (i % 7) * 0.01;
    }
    const struct scale sx = scale_linear(0, N_LONG - 1, 5, true, false);
    const struct scale sy = scale_linear(0, 10, 5, false, true);
    struct text out = { 0 };
    curve_path(x, y, N_LONG, &sx, &sy, COLUMNS, &out);
    assert_true(out.len < 2 * (COLUMNS + 1) * 12);
    assert_non_null(strstr(out.data, " 7778 0 "));     /* the highest */
    assert_non_null(strstr(out.data, " 3333 10000 ")); /* the lowest */
    assert_int_equal(out.data[0], 'M');
    assert_null(strchr(out.data + 1, 'M'));
    text_free(&out);
    free(x);
    free(y);
}

static void smoothing_forgets_a_spike_and_bridges_gaps(void **state)
{
    (void)state;
    enum { N = 200, HALF = 5 };
    double y[N], work[N], out[N];
    for (int i = 0; i < N; i++)
        y[i] = i == 50 ? 1e20 : i == 80 ? NONE : i == 81 ? -HUGE_NUMBER : 2;
    curve_smooth(y, N, HALF, work, out);
    for (int i = 0; i < N; i++)
        assert_true(out[i] == 2);
    for (int i = 0; i < N; i++)
        y[i] = NONE;
    curve_smooth(y, N, HALF, work, out);
    assert_true(isnan(out[0]) && isnan(out[100]) && isnan(out[N - 1]));
    /* A straight line stays one, but for its end. */
    for (int i = 0; i < N; i++)
        y[i] = i;
    curve_smooth(y, N, HALF, work, out);
    for (int i = 0; i < N - 2 * HALF; i++)
        assert_true(fabs(out[i] - i) < 1e-9);
    assert_true(out[N - 1] < N && out[N - 1] > N - 1 - HALF);
}

static void short_curves_stay_as_they_are(void **state)
{
    (void)state;
    assert_int_equal(curve_half_window(0), 0);
    assert_int_equal(curve_half_window(19), 0);
    assert_int_equal(curve_half_window(20), 1);
    assert_int_equal(curve_half_window(400), 11);
    assert_int_equal(curve_half_window(INT64_MAX), CURVE_MOST_HALF);
}

/* ---- the recipe ---- */

static struct settings parse(const char *text)
{
    struct settings s = { 0 };
    struct err err = { 0 };
    char *bytes = text_copy(text);
    assert_non_null(bytes);
    if (!settings_parse(&s, bytes, &err))
        fail_msg("%s", err.text);
    return s;
}

static void a_value_ends_where_its_comment_begins(void **state)
{
    (void)state;
    struct settings s = parse("# The resolved recipe: every key, and where its value comes from.\n"
                              "\n# Model\n"
                              "base_model: /a/b  # x.yaml:1:1\n"
                              "lora_r: 16  # command line: lora_r=16\n"
                              "chat: \"a # b \\\" # c\"  # default\n"
                              "hash: a#b  # default\n"
                              "\n# Data\n"
                              "list: [1, \"# 2\"]  # x # y\n"
                              "  nested: 1\nno key\n:\n"
                              "bare: 1\nempty:");
    static const struct setting expected[] = {
        { "Model", "base_model", "/a/b", "x.yaml:1:1" },
        { "Model", "lora_r", "16", "command line: lora_r=16" },
        { "Model", "chat", "\"a # b \\\" # c\"", "default" },
        { "Model", "hash", "a#b", "default" },
        { "Data", "list", "[1, \"# 2\"]", "x # y" },
        { "Data", "bare", "1", "" },
        { "Data", "empty", "", "" },
    };
    assert_int_equal(s.n, sizeof expected / sizeof *expected);
    for (int64_t i = 0; i < s.n; i++) {
        assert_string_equal(s.items[i].section, expected[i].section);
        assert_string_equal(s.items[i].key, expected[i].key);
        assert_string_equal(s.items[i].value, expected[i].value);
        assert_string_equal(s.items[i].origin, expected[i].origin);
        assert_int_equal(setting_is_default(&s.items[i]), i == 2 || i == 3);
    }
    assert_string_equal(settings_value(&s, "lora_r"), "16");
    assert_null(settings_value(&s, "lora"));
    settings_free(&s);
}

static void any_bytes_are_some_settings(void **state)
{
    (void)state;
    static const char *const texts[] = { "",   "\n",   "a:",     "a: \"", "a: \"\\",
                                         "# ", "a: #", "a: # #", "a:   ", "a: \" # \\\"" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct settings s = parse(texts[i]);
        assert_in_range(s.n, 0, 1);
        settings_free(&s);
    }
    struct settings s = { 0 };
    struct err err = { 0 };
    assert_true(settings_read(&s, "/nowhere/recipe.yaml", &err));
    assert_int_equal(s.n, 0);
    settings_free(&s);
}

/* ---- text ---- */

static void nothing_of_a_text_is_markup(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "plain text\n\twith lines", "plain text\n\twith lines" },
        { "</pre><script>", "&lt;/pre&gt;&lt;script&gt;" },
        { "\" onload='x' &amp;", "&quot; onload=&#39;x&#39; &amp;amp;" },
        { "\x01\r\x7F\x1B[31m", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD[31m" },
        { "\xD7\xA9\xD7\x9C \xE2\x82\xAC \xF0\x9F\x99\x82", /* Hebrew, a euro, a smile */
          "\xD7\xA9\xD7\x9C \xE2\x82\xAC \xF0\x9F\x99\x82" },
        { "a\xFFz", "a\xEF\xBF\xBDz" },
        { "a\xE2\x82", "a\xEF\xBF\xBD\xEF\xBF\xBD" },
        { "\xC0\xBC", "\xEF\xBF\xBD\xEF\xBF\xBD" },                 /* an overlong '<' */
        { "\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD" }, /* half a surrogate pair */
        { "\xC2\x85\xEF\xBF\xBE", "\xEF\xBF\xBD\xEF\xBF\xBD" },     /* a control, U+FFFE */
        { "\xE2\x80\xAEx \xE2\x80\xAD \xE2\x80\x8F",                /* overrides; a mark is none */
          "\xEF\xBF\xBDx \xEF\xBF\xBD \xE2\x80\x8F" },
        { NULL, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text page = { 0 };
        page_escaped(&page, cases[i].in);
        assert_string_equal(page.data != NULL ? page.data : "", cases[i].out);
        text_free(&page);
    }
}

static void a_cut_falls_between_characters(void **state)
{
    (void)state;
    struct text page = { 0 };
    assert_false(page_escaped_cut(&page,
                                  "ab\xE2\x82\xAC"
                                  "cd",
                                  3));
    assert_string_equal(page.data, "ab\xE2\x82\xAC...");
    text_clear(&page);
    assert_true(page_escaped_cut(&page, "abc", 3));
    assert_string_equal(page.data, "abc");
    text_free(&page);
}

static void numbers_are_for_reading(void **state)
{
    (void)state;
    static const struct {
        void (*show)(char out[PAGE_NUMBER_SIZE], double v);
        double v;
        const char *out;
    } cases[] = {
        { page_number, 1.17234, "1.1723" },
        { page_number, 12.345, "12.35" },
        { page_number, 12345.6, "12346" },
        { page_number, 1.5e-5, "1.5e-05" },
        { page_number, 0, "0" },
        { page_number, NONE, "NaN" },
        { page_number, HUGE_NUMBER, "infinity" },
        { page_number, -HUGE_NUMBER, "-infinity" },
        { page_quantity, 8192, "8 192" },
        { page_quantity, 1.25, "1.25" },
        { page_quantity, 4096000, "4.10 million" },
        { page_quantity, 819.2e9, "819 billion" },
        { page_quantity, 1e300, "1e+300" },
        { page_duration, 0.0123, "0.012 s" },
        { page_duration, 6.84, "6.8 s" },
        { page_duration, 59.9, "59 s" },
        { page_duration, 343, "5 min 43 s" },
        { page_duration, 66120, "18 h 22 min" },
        { page_duration, 90000, "1 d 01 h" },
        { page_duration, NONE, "NaN" },
        { page_bytes, 24.5e9, "22.8 GiB" },
        { page_bytes, HUGE_NUMBER, "infinity" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[PAGE_NUMBER_SIZE];
        cases[i].show(out, cases[i].v);
        assert_string_equal(out, cases[i].out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_are_at_round_numbers),
        cmocka_unit_test(logarithmic_ticks_are_few),
        cmocka_unit_test(any_range_has_an_axis),
        cmocka_unit_test(a_value_stands_between_the_ends),
        cmocka_unit_test(a_path_breaks_where_values_are_missing),
        cmocka_unit_test(a_long_path_is_short_and_keeps_its_spikes),
        cmocka_unit_test(smoothing_forgets_a_spike_and_bridges_gaps),
        cmocka_unit_test(short_curves_stay_as_they_are),
        cmocka_unit_test(a_value_ends_where_its_comment_begins),
        cmocka_unit_test(any_bytes_are_some_settings),
        cmocka_unit_test(nothing_of_a_text_is_markup),
        cmocka_unit_test(a_cut_falls_between_characters),
        cmocka_unit_test(numbers_are_for_reading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
