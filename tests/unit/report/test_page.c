/* Pages of runs as they may be: whole, empty, of one step, not finite, hostile, long, several. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "finetune/report/report.h"
#include "tests/unit/report/page_scan.h"

#define NONE ((double)NAN)
#define HUGE_NUMBER ((double)INFINITY)

/* ---- runs ---- */

struct shape {
    const char *name;
    int64_t n_step, n_eval;
    double last_eval;
};

static struct history_step step_of(int64_t step, int64_t n)
{
    const double done = (double)step / (double)n;
    struct history_step s = { .step = step,
                              .epoch = done,
                              .loss = 1 + 3 * exp(-8 * done) + 0.1 * sin((double)step),
                              .aux_loss = NONE,
                              .learning_rate = 3e-4 * (1 - done),
                              .grad_norm = 1 + 0.1 * cos((double)step),
                              .tokens = 8192,
                              .trained_tokens = 3000,
                              .tokens_per_second = 12000,
                              .seconds = 0.5,
                              .memory_bytes = 24.5e9,
                              .applied = true };
    for (int b = 0; b < PROFILE_N; b++)
        s.blocks[b] = 0.01 * (b + 1);
    return s;
}

/* A run as history_read makes one, but for what owns its texts: run_free undoes it. */
static struct report_run run_make(const struct shape *shape)
{
    struct report_run run = { .name = text_copy(shape->name) };
    struct history *h = &run.history;
    struct err err = { 0 };
    h->steps = calloc((size_t)shape->n_step + 1, sizeof *h->steps);
    h->evals = calloc((size_t)shape->n_eval + 1, sizeof *h->evals);
    assert_true(run.name != NULL && h->steps != NULL && h->evals != NULL);
    for (; h->n_step < shape->n_step; h->n_step++)
        h->steps[h->n_step] = step_of(h->n_step + 1, shape->n_step);
    for (; h->n_eval < shape->n_eval; h->n_eval++)
        h->evals[h->n_eval] = (struct history_eval){
            .step = h->n_eval * shape->n_step / shape->n_eval,
            .loss = shape->last_eval + (double)(shape->n_eval - 1 - h->n_eval),
            .seconds = 1,
            .tokens = 100,
        };
    h->best = h->n_eval - 1;
    h->total_steps = shape->n_step;
    h->life = HISTORY_DONE;
    char *recipe = text_copy("# The resolved recipe\n\n# Model\nlora_r: 16  # x.yaml:1:1\n"
                             "lora_alpha: 32  # default\n");
    assert_non_null(recipe);
    assert_true(settings_parse(&run.settings, recipe, &err));
    return run;
}

static void run_free(struct report_run *run)
{
    free(run->name);
    free(run->history.steps);
    free(run->history.evals);
    json_decref(run->history.run);
    settings_free(&run->settings);
}

/* The page of the runs, read strictly; caller frees. */
static char *page_of(struct report_run *runs, int64_t n)
{
    const struct report r = { .runs = runs, .n_run = n };
    struct text page = { 0 };
    struct page_scan scan;
    struct err err = { 0 };
    if (!report_page(&r, &page, &err))
        fail_msg("%s", err.text);
    if (!scan_page(&scan, page.data))
        fail_msg("%s", scan.problem);
    assert_true(scan.n_tag > 15);
    assert_int_equal(scan.n_script, 1);
    return page.data;
}

static int count(const char *page, const char *what)
{
    int n = 0;
    for (const char *at = strstr(page, what); at != NULL; at = strstr(at + 1, what))
        n++;
    return n;
}

static void assert_has(const char *page, const char *what)
{
    if (strstr(page, what) == NULL)
        fail_msg("'%s' is not in the page", what);
}

static void assert_has_not(const char *page, const char *what)
{
    if (strstr(page, what) != NULL)
        fail_msg("'%s' is in the page", what);
}

/* ---- one run ---- */

static json_t *facts_of_a_run(void)
{
    json_t *run = json_pack(
        "{s:i, s:s, s:s, s:i, s:[{s:s, s:i, s:i, s:I}, {s:s, s:i}], s:i, s:{s:i, s:b, s:f}, s:I}",
        "format", 1, "base_model", "/models/3b", "started", "2026-11-22T17:00:00Z", "pid", 41422,
        "adapted", "module", "mamba.in_proj", "modules", 26, "rank", 16, "parameters",
        (json_int_t)9371648, "module", "q_proj", "modules", 2, "adapter_parameters", 9535488,
        "data", "documents", 11873, "packed", 1, "share", 0.25, "plan_bytes",
        (json_int_t)24400000000);
    assert_non_null(run);
    return run;
}

static void a_whole_run_has_every_section(void **state)
{
    (void)state;
    struct report_run run = run_make(&(struct shape){ "whole", 100, 5, 1.25 });
    struct history *h = &run.history;
    struct history_sample samples[] = {
        { 50, "Once", " upon a time", "eos" },
        { 100, "Once", " there was", "length" },
        { 100, "Why", " because", "eos" },
    };
    struct history_event events[] = {
        { 0, "started", "a new run", "2026-11-22T17:00:00Z" },
        { 60, "stopped", "by SIGTERM", "2026-11-22T17:10:00Z" },
        { 60, "resumed", "from checkpoint-60", "2026-11-22T18:00:00Z" },
        { 100, "finished", "", "2026-11-22T18:10:00Z" },
    };
    h->run = facts_of_a_run();
    h->samples = samples;
    h->n_sample = 3;
    h->events = events;
    h->n_event = 4;
    h->steps[41].applied = false;
    h->steps[41].loss = NONE;
    for (int i = 0; i < 100; i++)
        h->steps[i].aux_loss = 0.01 * i;
    char *page = page_of(&run, 1);
    static const char *const parts[] = {
        "<title>whole</title>",
        "<h1>whole</h1>",
        "badge finished\">finished</span> step 100 of 100",
        "55 s of work",
        "started 2026-11-22T17:00:00Z",
        "adapts /models/3b",
        "<dt>best validation loss</dt><dd>1.2500</dd><dd class=\"note\">at step 80</dd>",
        "<dt>final validation loss</dt><dd>1.2500</dd>",
        "<dt>tokens per second</dt><dd>16 384</dd>",
        "<dt>peak memory</dt><dd>22.8 GiB</dd>",
        "<dt>tokens seen</dt><dd>819 200</dd><dd class=\"note\">300 000 with loss</dd>",
        "<dt>steps not applied</dt><dd>1</dd>",
        "step not applied</span>",
        "resumed</span>",
        "stopped</span>",
        "<title>Loss by step. each step: 3.85",
        "<b>Load-balancing loss</b>",
        "<b>Learning rate</b>",
        "<b>Gradient norm</b>",
        "<b>Speed</b><span class=\"unit\">tokens per second</span>",
        "<b>Memory</b><span class=\"unit\">GiB</span>",
        "<h3>after step 100</h3>",
        "<span class=\"prompt\">Once</span><b class=\"generated\"> there was</b>",
        "mixture of experts</td><td class=\"number\">60.000</td><td class=\"number\">13.3 %</td>",
        "<td dir=\"auto\">mamba.in_proj</td><td class=\"number\">26</td>",
        "<td class=\"number\">9 371 648</td>",
        "9 535 488 parameters in all",
        "<th scope=\"row\">documents</th><td dir=\"auto\">11 873</td>",
        "<th scope=\"row\">packed</th><td dir=\"auto\">yes</td>",
        "<th scope=\"row\">pid</th><td dir=\"auto\">41422</td>",
        "<th scope=\"row\">plan bytes</th><td dir=\"auto\">22.7 GiB</td>",
        "<th scope=\"row\">lora_r</th><td dir=\"auto\">16</td><td dir=\"auto\">x.yaml:1:1</td>",
        "1 keys at their defaults",
        "dir=\"auto\">from checkpoint-60</td>",
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        assert_has(page, parts[i]);
    assert_true(strstr(page, "after step 100") < strstr(page, "after step 50"));
    assert_int_equal(count(page, "role=\"img\"><title>"), 6);
    /* Nothing comes from elsewhere. */
    assert_has_not(page, "http:");
    assert_has_not(page, "https:");
    assert_has_not(page, "@import");
    assert_has_not(page, " src=");
    free(page);
    run_free(&run);
}

static void a_run_of_one_step_shows_points(void **state)
{
    (void)state;
    struct report_run run = run_make(&(struct shape){ "one", 1, 1, 2 });
    char *page = page_of(&run, 1);
    assert_true(count(page, "<circle class=\"dot\"") >= 6);
    assert_has_not(page, "class=\"best\"");
    free(page);
    run_free(&run);
}

static void a_run_without_a_step_says_so(void **state)
{
    (void)state;
    struct report_run run = run_make(&(struct shape){ "none", 0, 0, 0 });
    run.history.best = -1;
    run.history.life = HISTORY_ALIVE;
    settings_free(&run.settings);
    char *page = page_of(&run, 1);
    assert_has(page, "No step has been logged yet.");
    assert_has(page, "badge running\">running</span> step 0");
    assert_has_not(page, "<figure");
    assert_has_not(page, "<h2>");
    free(page);
    run_free(&run);
}

static void a_run_without_evaluations_has_no_word_of_them(void **state)
{
    (void)state;
    struct report_run run = run_make(&(struct shape){ "plain", 40, 0, 0 });
    run.history.best = -1;
    for (int i = 0; i < 40; i++) {
        for (int b = 0; b < PROFILE_N; b++)
            run.history.steps[i].blocks[b] = NONE;
        run.history.steps[i].memory_bytes = NONE;
    }
    char *page = page_of(&run, 1);
    assert_has_not(page, "validation");
    assert_has_not(page, "Time per block");
    assert_has_not(page, "emory</"); /* neither a tile nor a chart */
    free(page);
    run_free(&run);
}

static void numbers_that_are_not_finite_harm_nothing(void **state)
{
    (void)state;
    static const double strange[] = { NONE,   HUGE_NUMBER, -HUGE_NUMBER, 1e308, -1e308,
                                      5e-324, 0,           -1,           1e30,  1e-30 };
    enum { N_STRANGE = sizeof strange / sizeof *strange };
    for (int all = 0; all <= N_STRANGE; all++) {
        struct report_run run = run_make(&(struct shape){ "strange", 60, 4, 1 });
        for (int i = 0; i < 60; i++) {
            struct history_step *s = &run.history.steps[i];
            double *const numbers[] = { &s->epoch,          &s->loss,
                                        &s->aux_loss,       &s->learning_rate,
                                        &s->grad_norm,      &s->tokens,
                                        &s->trained_tokens, &s->tokens_per_second,
                                        &s->seconds,        &s->memory_bytes };
            for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
                *numbers[k] = strange[all < N_STRANGE ? all : (i + 3 * (int)k) % N_STRANGE];
            for (int b = 0; b < PROFILE_N; b++)
                s->blocks[b] = strange[all < N_STRANGE ? all : (i + b) % N_STRANGE];
        }
        for (int i = 0; i < 4; i++)
            run.history.evals[i].loss = strange[all < N_STRANGE ? all : i];
        char *page = page_of(&run, 1);
        if (all == 0)
            assert_has(page, "<b>Loss</b><span class=\"unit\">no value is finite</span>");
        /* Where numbers are written by us there is none that SVG cannot read. */
        assert_has_not(page, "nan%");
        assert_has_not(page, "inf%");
        assert_has_not(page, "=\"nan");
        assert_has_not(page, "=\"inf");
        free(page);
        run_free(&run);
    }
}

static void hostile_texts_stay_text(void **state)
{
    (void)state;
    static const char *const attacks[] = {
        "</pre></script><script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "--><!-- <style>*{display:none}</style>",
        "\342\200\256evil \x01\x1B[2J \xFF\xC0\xBC",
        "javascript:alert(1)",
        "&lt;b&gt; &#60;",
    };
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        const char *text = attacks[i];
        struct report_run run = run_make(&(struct shape){ text, 30, 2, 1 });
        struct history_sample sample = { 30, text, text, text };
        struct history_event event = { 30, text, text, text };
        struct err err = { 0 };
        char *recipe = text_format("# The resolved recipe\n\n# %s\na: %s  # %s\nb: 1  # default\n",
                                   text, text, text);
        assert_non_null(recipe);
        settings_free(&run.settings);
        assert_true(settings_parse(&run.settings, recipe, &err));
        run.history.samples = &sample;
        run.history.n_sample = 1;
        run.history.events = &event;
        run.history.n_event = 1;
        if (text_is_utf8(text, strlen(text), NULL)) {
            run.history.run =
                json_pack("{s:s, s:s, s:s, s:{s:s}, s:[{s:s}]}", "base_model", text, "started",
                          text, text, text, "data", text, text, "adapted", text, text);
            assert_non_null(run.history.run);
        }
        char *page = page_of(&run, 1);
        assert_has_not(page, "<script>alert");
        assert_has_not(page, "<img");
        assert_has_not(page, "<style>*");
        assert_has_not(page, "\x1B");
        free(page);
        struct report_run two[] = { run, run_make(&(struct shape){ "b", 3, 2, 1 }) };
        page = page_of(two, 2);
        assert_has_not(page, "<script>alert");
        assert_has_not(page, "<img");
        free(page);
        run_free(&two[1]);
        run_free(&run);
    }
}

static void run_json_of_any_form_is_shown_or_left_out(void **state)
{
    (void)state;
    static const char *const forms[] = {
        "{}",
        "{\"adapted\": [], \"data\": []}",
        "{\"adapted\": [1], \"data\": 1}",
        "{\"adapted\": [{}], \"data\": {}}",
        "{\"adapted\": [{\"module\": [1], \"rank\": null}, 3, {\"rank\": {}}]}",
        "{\"data\": {\"a\": {}}}",
        "{\"base_model\": 1, \"started\": {}, \"plan_bytes\": \"x\", \"pid\": -1.5e300}",
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct report_run run = run_make(&(struct shape){ "odd", 5, 0, 0 });
        run.history.best = -1;
        run.history.run = json_loads(forms[i], 0, NULL);
        assert_non_null(run.history.run);
        free(page_of(&run, 1));
        run_free(&run);
    }
}

static void many_samples_and_events_are_cut(void **state)
{
    (void)state;
    enum { N = 5000 };
    struct report_run run = run_make(&(struct shape){ "many", N, 0, 0 });
    struct history *h = &run.history;
    char *longest = malloc(100001);
    assert_non_null(longest);
    memset(longest, 'x', 100000);
    longest[100000] = '\0';
    h->best = -1;
    h->samples = calloc(N, sizeof *h->samples);
    h->events = calloc(N, sizeof *h->events);
    assert_true(h->samples != NULL && h->events != NULL);
    for (int i = 0; i < N; i++) {
        h->samples[i] = (struct history_sample){ i / 2, "p", longest, "length" };
        h->events[i] = (struct history_event){ i, i % 2 == 0 ? "stopped" : "resumed", "t", "now" };
    }
    h->n_sample = h->n_event = N;
    char *page = page_of(&run, 1);
    assert_has(page, "4700 older ones are in metrics.jsonl");
    assert_has(page, "4970 earlier events");
    assert_has(page, "The oldest 4500 are in metrics.jsonl");
    assert_int_equal(count(page, "class=\"sample\""), 300);
    assert_true(count(page, "class=\"event ") < 5 * 2 * 260);
    assert_true(strlen(page) < 2500000);
    free(page);
    free(longest);
    free(h->samples);
    free(h->events);
    run_free(&run);
}

static void a_hundred_thousand_steps_make_a_small_page(void **state)
{
    (void)state;
    enum { N = 100000 };
    static const double LONGEST_SECONDS =
        20; /* 0.5 s in a plain build; sanitizers and neighbours */
    struct report_run run = run_make(&(struct shape){ "long", N, 2000, 1 });
    for (int i = 0; i < N; i += 7)
        run.history.steps[i].applied = false;
    run.history.steps[54320].loss = 12; /* one step of a hundred thousand */
    const clock_t before = clock();
    char *page = page_of(&run, 1);
    const double seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    print_message("%zu bytes, %.2f s\n", strlen(page), seconds);
    assert_true(strlen(page) < 1500000 && strlen(page) > 50000);
    assert_true(seconds < LONGEST_SECONDS);
    assert_has(page, "highest 12.00 at step 54321");
    assert_has(page, "(14286)");
    free(page);
    run_free(&run);
}

/* ---- several runs ---- */

static void set_recipe(struct report_run *run, const char *text)
{
    struct err err = { 0 };
    char *copy = text_copy(text);
    assert_non_null(copy);
    settings_free(&run->settings);
    assert_true(settings_parse(&run->settings, copy, &err));
}

static void several_runs_come_best_first_with_their_differences(void **state)
{
    (void)state;
    struct report_run runs[] = {
        run_make(&(struct shape){ "middling", 50, 3, 1.5 }),
        run_make(&(struct shape){ "unmeasured", 50, 0, 0 }),
        run_make(&(struct shape){ "best", 80, 3, 1.1 }),
        run_make(&(struct shape){ "empty", 0, 0, 0 }),
    };
    runs[1].history.best = runs[3].history.best = -1;
    set_recipe(&runs[0], "lora_r: 8  # default\nseed: 1  # default\noutput_dir: a  # default\n");
    set_recipe(&runs[1], "lora_r: 8  # default\nseed: 1  # default\noutput_dir: b  # default\n"
                         "later: 1  # default\n");
    set_recipe(&runs[2], "lora_r: 64  # default\nseed: 1  # default\noutput_dir: c  # default\n");
    set_recipe(&runs[3], "");
    char *page = page_of(runs, 4);
    assert_has(page, "<h1>4 runs compared</h1>");
    const char *best = strstr(page, "best</td>"), *middling = strstr(page, "middling</td>");
    const char *unmeasured = strstr(page, "unmeasured</td>"), *empty = strstr(page, "empty</td>");
    assert_true(best != NULL && best < middling && middling < unmeasured && unmeasured < empty);
    assert_has(page, "<h2>Where their recipes differ</h2>");
    assert_has(page, ">lora_r</th>");
    assert_has(page, ">later</th>");
    assert_has_not(page, ">seed</th>");
    assert_has_not(page, ">output_dir</th>");
    assert_has(page, "<b>Training loss, smoothed</b>");
    assert_has(page, "<b>Validation loss</b>");
    assert_int_equal(count(page, "class=\"line c0\" data-name=\"best\""), 6);
    assert_int_equal(count(page, "class=\"line c1\" data-name=\"middling\""), 6);
    free(page);

    const struct report r = { .runs = runs, .n_run = 4 };
    json_t *facts = report_facts(&r);
    json_t *list = json_object_get(facts, "runs"), *first = json_array_get(list, 0);
    assert_int_equal(json_array_size(list), 4);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "best");
    assert_true(json_real_value(json_object_get(first, "best_eval_loss")) == 1.1);
    assert_int_equal(json_integer_value(json_object_get(first, "tokens")), 80 * 8192);
    assert_true(json_is_null(json_object_get(json_array_get(list, 3), "loss")));
    json_t *differences = json_object_get(facts, "differences");
    assert_int_equal(json_object_size(differences), 2);
    json_t *ranks = json_object_get(differences, "lora_r");
    assert_string_equal(json_string_value(json_array_get(ranks, 0)), "64");
    assert_string_equal(json_string_value(json_array_get(ranks, 1)), "8");
    assert_true(json_is_null(json_array_get(ranks, 3)));
    json_decref(facts);
    for (int i = 0; i < 4; i++)
        run_free(&runs[i]);
}

static void runs_alike_have_no_differences(void **state)
{
    (void)state;
    struct report_run runs[] = { run_make(&(struct shape){ "a", 5, 0, 0 }),
                                 run_make(&(struct shape){ "b", 5, 0, 0 }) };
    runs[0].history.best = runs[1].history.best = -1;
    char *page = page_of(runs, 2);
    assert_has_not(page, "recipes differ");
    assert_has_not(page, "Validation loss");
    free(page);
    run_free(&runs[0]);
    run_free(&runs[1]);
}

static void thirty_long_runs_make_a_page_that_opens(void **state)
{
    (void)state;
    enum { N = 30 };
    struct report_run runs[N];
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "run-%d", i);
        runs[i] = run_make(&(struct shape){ name, 3000, 30, 1 + 0.1 * i });
    }
    char *page = page_of(runs, N);
    assert_true(strlen(page) < 1500000);
    /* As many looks as there are: six colours, three kinds of dashes. */
    assert_true(count(page, "class=\"line d2 c5\"") > 0);
    free(page);
    for (int i = 0; i < N; i++)
        run_free(&runs[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_run_has_every_section),
        cmocka_unit_test(a_run_of_one_step_shows_points),
        cmocka_unit_test(a_run_without_a_step_says_so),
        cmocka_unit_test(a_run_without_evaluations_has_no_word_of_them),
        cmocka_unit_test(numbers_that_are_not_finite_harm_nothing),
        cmocka_unit_test(hostile_texts_stay_text),
        cmocka_unit_test(run_json_of_any_form_is_shown_or_left_out),
        cmocka_unit_test(many_samples_and_events_are_cut),
        cmocka_unit_test(a_hundred_thousand_steps_make_a_small_page),
        cmocka_unit_test(several_runs_come_best_first_with_their_differences),
        cmocka_unit_test(runs_alike_have_no_differences),
        cmocka_unit_test(thirty_long_runs_make_a_page_that_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
