/* A run's folder read back: whole, killed, resumed, damaged, alive. */
#include "tests/support/support.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "finetune/train/history.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

#define STARTED                                                                                    \
    "{\"step\":0,\"event\":\"started\",\"text\":\"new\",\"time\":\"2026-11-22T17:00:00Z\"}\n"

static void write_file(const char *folder, const char *name, const char *text)
{
    tiny_file_write(folder, name, text, strlen(text));
}

/* A folder whose log is `log`, read. */
static char *folder_of(const char *log)
{
    char *folder = tiny_scratch_make();
    write_file(folder, "metrics.jsonl", log);
    return folder;
}

static void read_ok(struct history *h, const char *folder)
{
    struct err err = { 0 };
    if (!history_read(h, folder, &err))
        fail_msg("%s", err.text);
}

static void close_both(struct history *h, char *folder)
{
    history_free(h);
    history_free(h); /* harmless */
    tiny_scratch_remove(folder);
}

static void a_whole_run_is_read_back(void **state)
{
    (void)state;
    struct history h;
    char *folder = folder_of(
        STARTED
        "{\"step\":0,\"epoch\":0.0,\"eval_loss\":3.5,\"eval_tokens\":40,\"seconds\":0.5}\n"
        "{\"step\":1,\"epoch\":0.5,\"loss\":3.25,\"aux_loss\":0.125,\"learning_rate\":0.001,"
        "\"grad_norm\":2.5,\"tokens\":100,\"trained_tokens\":60,\"tokens_per_second\":50.0,"
        "\"seconds\":2.0,\"memory_bytes\":1048576,\"blocks\":{\"data\":0.1,\"norm\":0.2,"
        "\"mamba\":0.3,\"attention\":0.4,\"moe\":0.5,\"mlp\":0.6,\"head\":0.7,\"optimizer\":0.8,"
        "\"other\":0.9,\"new\":1}}\n"
        "{\"step\":1,\"epoch\":0.5,\"eval_loss\":3.0,\"eval_tokens\":40,\"seconds\":0.5}\n"
        "{\"step\":1,\"sample\":{\"prompt\":\"a\",\"text\":\"b\",\"tokens\":3,\"end\":\"eos\"}}\n"
        "{\"step\":1,\"sample\":{\"prompt\":\"c\",\"text\":\"d\\u0000e\",\"tokens\":3,\"end\":"
        "\"length\"}}\n"
        "{\"step\":2,\"loss\":3,\"applied\":false,\"documents\":\"a.jsonl:1\"}\n"
        "{\"step\":2,\"epoch\":1.0,\"eval_loss\":3.25,\"eval_tokens\":40,\"seconds\":0.5}\n"
        "{\"step\":2,\"event\":\"finished\",\"text\":\"all "
        "steps\",\"time\":\"2026-11-22T17:05:00Z\"}\n");
    write_file(folder, "run.json", "{\"format\":1,\"base_model\":\"x\",\"n_step\":2,\"pid\":17}");
    read_ok(&h, folder);
    assert_string_equal(h.dir, folder);
    assert_string_equal(json_string_value(json_object_get(h.run, "base_model")), "x");
    assert_int_equal(h.total_steps, 2);
    assert_int_equal(h.life, HISTORY_DONE);
    assert_int_equal(h.pid, 0);
    assert_null(h.host);

    assert_int_equal(h.n_step, 2);
    const struct history_step *s = &h.steps[0];
    assert_true(s->step == 1 && s->epoch == 0.5 && s->loss == 3.25 && s->aux_loss == 0.125);
    assert_true(s->learning_rate == 0.001 && s->grad_norm == 2.5 && s->tokens == 100);
    assert_true(s->trained_tokens == 60 && s->tokens_per_second == 50 && s->seconds == 2);
    assert_true(s->memory_bytes == 1048576 && s->applied);
    static const enum profile_block order[] = {
        PROFILE_DATA, PROFILE_NORM, PROFILE_MAMBA,     PROFILE_ATTENTION, PROFILE_MOE,
        PROFILE_MLP,  PROFILE_HEAD, PROFILE_OPTIMIZER, PROFILE_OTHER
    };
    for (int i = 0; i < PROFILE_N; i++)
        assert_true(fabs(s->blocks[order[i]] - 0.1 * (i + 1)) < 1e-12);
    assert_true(h.steps[1].loss == 3 && !h.steps[1].applied && isnan(h.steps[1].epoch) &&
                isnan(h.steps[1].blocks[PROFILE_MOE]) && isnan(h.steps[1].tokens));

    assert_int_equal(h.n_eval, 3);
    assert_int_equal(h.best, 1);
    assert_true(h.evals[1].step == 1 && h.evals[1].loss == 3 && h.evals[1].tokens == 40 &&
                h.evals[1].seconds == 0.5 && h.evals[1].epoch == 0.5);
    assert_int_equal(h.n_sample, 2);
    assert_string_equal(h.samples[0].prompt, "a");
    assert_string_equal(h.samples[0].text, "b");
    assert_string_equal(h.samples[0].end, "eos");
    assert_string_equal(h.samples[1].text, "d"); /* a text ends at its first zero byte */
    assert_int_equal(h.n_event, 2);
    assert_int_equal(h.events[1].step, 2);
    assert_string_equal(h.events[1].event, "finished");
    assert_string_equal(h.events[1].text, "all steps");
    assert_string_equal(h.events[0].time, "2026-11-22T17:00:00Z");
    close_both(&h, folder);
}

static void half_a_line_at_the_end_is_left_out(void **state)
{
    (void)state;
    static const char log[] = "{\"step\":1,\"loss\":2.5}\n{\"step\":12,\"loss\":1.5}\n";
    for (size_t n = 0; n < sizeof log; n++) {
        struct history h;
        char *folder = tiny_scratch_make();
        tiny_file_write(folder, "metrics.jsonl", log, n);
        read_ok(&h, folder);
        assert_int_equal(h.n_step, n == sizeof log - 1 ? 2 : n > sizeof log / 2 - 2 ? 1 : 0);
        assert_int_equal(h.life, HISTORY_DEAD);
        close_both(&h, folder);
    }
}

static void a_step_that_comes_again_voids_what_followed(void **state)
{
    (void)state;
    struct history h;
    char *folder = folder_of(
        "{\"step\":1,\"loss\":10}\n{\"step\":2,\"loss\":20}\n{\"step\":2,\"eval_loss\":1}\n"
        "{\"step\":2,\"sample\":{\"prompt\":\"p\",\"text\":\"old\"}}\n"
        "{\"step\":3,\"loss\":30}\n{\"step\":4,\"loss\":40}\n{\"step\":4,\"eval_loss\":0.5}\n"
        "{\"step\":4,\"sample\":{\"prompt\":\"p\",\"text\":\"void\"}}\n"
        "{\"step\":2,\"event\":\"saved\"}\n"
        "{\"step\":2,\"eval_loss\":2}\n"
        "{\"step\":2,\"sample\":{\"prompt\":\"q\",\"text\":\"other\"}}\n"
        "{\"step\":2,\"sample\":{\"prompt\":\"p\",\"text\":\"new\"}}\n"
        "{\"step\":3,\"loss\":31}\n");
    read_ok(&h, folder);
    assert_int_equal(h.n_step, 3);
    assert_true(h.steps[0].loss == 10 && h.steps[1].loss == 20 && h.steps[2].loss == 31);
    assert_int_equal(h.n_eval, 1);
    assert_true(h.evals[0].loss == 2 && h.best == 0);
    assert_int_equal(h.n_sample, 2);
    assert_string_equal(h.samples[0].text, "new");
    assert_string_equal(h.samples[1].text, "other");
    close_both(&h, folder);

    /* A resumed run says where it goes on; a new one begins anew. */
    folder =
        folder_of("{\"step\":1,\"loss\":10}\n{\"step\":2,\"loss\":20}\n{\"step\":3,\"loss\":30}\n"
                  "{\"step\":3,\"eval_loss\":9}\n{\"step\":1,\"event\":\"resumed\"}\n");
    read_ok(&h, folder);
    assert_int_equal(h.n_step, 1);
    assert_int_equal(h.n_eval, 0);
    assert_int_equal(h.best, -1);
    close_both(&h, folder);
    folder = folder_of("{\"step\":1,\"loss\":10}\n" STARTED);
    read_ok(&h, folder);
    assert_int_equal(h.n_step, 0);
    close_both(&h, folder);
}

static void numbers_that_are_not_finite_have_names(void **state)
{
    (void)state;
    struct history h;
    char *folder = folder_of(
        "{\"step\":1,\"loss\":\"NaN\",\"grad_norm\":\"Infinity\",\"aux_loss\":\"-Infinity\","
        "\"blocks\":{\"moe\":\"NaN\"},\"tokens\":null}\n"
        "{\"step\":1,\"eval_loss\":\"NaN\"}\n{\"step\":2,\"eval_loss\":\"Infinity\"}\n");
    read_ok(&h, folder);
    assert_true(isnan(h.steps[0].loss) && isnan(h.steps[0].tokens));
    assert_true(isinf(h.steps[0].grad_norm) && h.steps[0].grad_norm > 0);
    assert_true(isinf(h.steps[0].aux_loss) && h.steps[0].aux_loss < 0);
    assert_int_equal(h.best, 1); /* a loss that is no number is not the lowest */
    close_both(&h, folder);
}

static void how_a_run_ended_is_its_last_such_event(void **state)
{
    (void)state;
    static const struct {
        const char *events[4];
        enum history_life life;
    } cases[] = {
        { { NULL }, HISTORY_DEAD },
        { { "started" }, HISTORY_DEAD },
        { { "started", "saved", "self_check" }, HISTORY_DEAD },
        { { "started", "saved", "finished" }, HISTORY_DONE },
        { { "started", "finished", "saved" }, HISTORY_DONE },
        { { "started", "early_stop" }, HISTORY_DEAD },
        { { "started", "early_stop", "finished" }, HISTORY_DONE },
        { { "started", "stopped" }, HISTORY_STOPPED },
        { { "started", "stopped", "resumed" }, HISTORY_DEAD },
        { { "stopped", "resumed", "finished" }, HISTORY_DONE },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text log = { 0 };
        struct history h;
        text_puts(&log, "");
        for (int k = 0; k < 4 && cases[i].events[k] != NULL; k++)
            text_printf(&log, "{\"step\":3,\"event\":\"%s\"}\n", cases[i].events[k]);
        char *folder = folder_of(log.data);
        read_ok(&h, folder);
        if (h.life != cases[i].life)
            fail_msg("case %zu: %s", i, history_life_name(h.life));
        close_both(&h, folder);
        text_free(&log);
    }
    assert_string_equal(history_life_name(HISTORY_ALIVE), "running");
    assert_string_equal(history_life_name(HISTORY_DONE), "finished");
    assert_string_equal(history_life_name(HISTORY_STOPPED), "stopped");
    assert_string_equal(history_life_name(HISTORY_DEAD), "dead");
}

static void parts_may_be_missing(void **state)
{
    (void)state;
    static const char *const files[][2] = { { "metrics.jsonl", "" },
                                            { "run.json", "{\"n_step\":7}" },
                                            { "run.lock", "" } };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct history h;
        char *folder = tiny_scratch_make();
        write_file(folder, files[i][0], files[i][1]);
        read_ok(&h, folder);
        assert_true(h.n_step == 0 && h.n_eval == 0 && h.n_sample == 0 && h.n_event == 0);
        assert_int_equal(h.best, -1);
        assert_int_equal(h.life, HISTORY_DEAD);
        assert_int_equal(h.total_steps, i == 1 ? 7 : 0);
        assert_true((h.run != NULL) == (i == 1));
        close_both(&h, folder);
    }
}

/* ---- errors ---- */

static void expect_error(const char *folder, enum err_code code, const char *expected)
{
    struct history h;
    struct err err = { 0 };
    char message[ERR_TEXT_SIZE];
    assert_false(history_read(&h, folder, &err));
    assert_null(h.dir);
    tiny_message(message, &err, folder);
    assert_string_equal(message, expected);
    assert_int_equal(err.code, code);
    history_free(&h);
}

static void a_line_that_is_not_ours_is_passed_over_and_told(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        { "nonsense", "not valid JSON: column 8: invalid token near 'nonsense'" },
        { "{\"step\":2,\"loss\":1.5", "not valid JSON: column 20: '}' expected near end of file" },
        { "", "not valid JSON: column 0: unexpected token near end of file" },
        { "17", "is no line of a run's log; expected an object with \"step\" and \"loss\", "
                "\"eval_loss\", \"sample\" or \"event\"" },
        { "{\"step\":2}", "is no line of a run's log; expected an object with \"step\" and "
                          "\"loss\", \"eval_loss\", \"sample\" or \"event\"" },
        { "{\"loss\":2}", "\"step\" is missing" },
        { "{\"step\":-1,\"loss\":2}", "\"step\" is -1; expected 0 to 9223372036854775807" },
        { "{\"step\":1.5,\"loss\":2}", "\"step\" is a number; expected an integer" },
        { "{\"step\":1,\"loss\":[]}", "\"loss\" is a list; expected a number" },
        { "{\"step\":1,\"loss\":\"nan\"}", "\"loss\" is 'nan'; expected a number, \"NaN\", "
                                           "\"Infinity\" or \"-Infinity\"" },
        { "{\"step\":1,\"loss\":1,\"applied\":1}",
          "\"applied\" is an integer; expected true or false" },
        { "{\"step\":1,\"loss\":1,\"blocks\":[]}", "\"blocks\" is a list; expected an object" },
        { "{\"step\":1,\"loss\":1,\"blocks\":{\"moe\":true}}",
          "\"moe\" is true or false; expected a number" },
        { "{\"step\":1,\"eval_loss\":{}}", "\"eval_loss\" is an object; expected a number" },
        { "{\"step\":1,\"sample\":\"a\"}", "\"sample\" is a string; expected an object" },
        { "{\"step\":1,\"sample\":{\"prompt\":1}}", "\"prompt\" is an integer; expected a string" },
        { "{\"step\":1,\"event\":null}", "\"event\" is missing" },
        { "{\"step\":1,\"event\":\"x\",\"time\":5}", "\"time\" is an integer; expected a string" },
        { "{\"step\":1,\"step\":2,\"loss\":1}",
          "not valid JSON: column 16: duplicate object key near '\"step\"'" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct history h;
        char message[ERR_TEXT_SIZE];
        char *log = text_format("{\"step\":1,\"loss\":2.5}\n%s\n%s\n{\"step\":7,\"loss\":1}\n",
                                cases[i].line, cases[i].line);
        char *expected = text_format("DIR/metrics.jsonl:2: %s", cases[i].message);
        char *folder = folder_of(log);
        read_ok(&h, folder);
        assert_int_equal(h.n_step, 2);
        assert_int_equal(h.steps[1].step, 7);
        assert_int_equal(h.n_damaged, 2);
        tiny_message(message, &h.damage, folder);
        assert_string_equal(message, expected);
        close_both(&h, folder);
        free(log);
        free(expected);
    }
}

/* As a file system may leave it that lost power: a hole of zeros where lines were. */
static void zeros_are_one_damaged_line(void **state)
{
    (void)state;
    static const char head[] = "{\"step\":1,\"loss\":2.5}\n";
    static const char tail[] = "\n{\"step\":2,\"loss\":2.25}\n";
    enum { N_ZERO = 200000, N_HEAD = sizeof head - 1, N_TAIL = sizeof tail - 1 };
    struct history h;
    char *folder = tiny_scratch_make();
    char *log = calloc(N_HEAD + N_ZERO + N_TAIL, 1);
    assert_non_null(log);
    memcpy(log, head, N_HEAD);
    memcpy(log + N_HEAD + N_ZERO, tail, N_TAIL);
    tiny_file_write(folder, "metrics.jsonl", log, N_HEAD + N_ZERO + N_TAIL);
    read_ok(&h, folder);
    assert_int_equal(h.n_step, 2);
    assert_int_equal(h.n_damaged, 1);
    assert_non_null(strstr(h.damage.text, "metrics.jsonl:2: not valid JSON"));
    free(log);
    close_both(&h, folder);
}

/* The same at the end, where a line that a kill cut short is left out. */
static void zeros_at_the_end_are_damage(void **state)
{
    (void)state;
    static const char log[] = "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"lo\0\0\0\0";
    static const struct {
        size_t n; /* bytes of the log */
        int64_t n_damaged;
    } cases[] = {
        { sizeof log - 5, 0 }, /* only cut short */
        { sizeof log - 1, 1 },
        { sizeof log - 4, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct history h;
        char *folder = tiny_scratch_make();
        tiny_file_write(folder, "metrics.jsonl", log, cases[i].n);
        read_ok(&h, folder);
        assert_int_equal(h.n_step, 1);
        assert_int_equal(h.n_damaged, cases[i].n_damaged);
        if (h.n_damaged > 0)
            assert_non_null(strstr(h.damage.text, "metrics.jsonl:2: not valid JSON"));
        close_both(&h, folder);
    }

    struct history h;
    char *folder = tiny_scratch_make();
    tiny_file_write(folder, "metrics.jsonl", log + sizeof log - 5, 4);
    expect_error(folder, ERR_DATA,
                 "DIR/metrics.jsonl:1: not valid JSON: has a zero byte, at byte 0");
    write_file(folder, "run.json", "{\"n_step\":7}");
    read_ok(&h, folder);
    assert_int_equal(h.n_damaged, 1);
    close_both(&h, folder);
}

static void a_log_of_nothing_but_damage_is_an_error(void **state)
{
    (void)state;
    char *folder = folder_of("nonsense\n17\n");
    expect_error(folder, ERR_DATA,
                 "DIR/metrics.jsonl:1: not valid JSON: column 8: invalid token near 'nonsense'");
    tiny_scratch_remove(folder);
}

static void a_folder_that_is_no_runs_is_refused(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *inner = file_join(folder, "x");
    expect_error(inner, ERR_NO_INPUT,
                 "DIR: is not there; expected a folder, the output_dir of a run");
    write_file(folder, "x", "");
    expect_error(inner, ERR_NO_INPUT, "DIR: is a file; expected a folder, the output_dir of a run");
    expect_error(folder, ERR_NO_INPUT,
                 "DIR: is no run's folder: it has neither metrics.jsonl nor run.json; expected the "
                 "output_dir of a run");
    write_file(folder, "run.json", "[]");
    expect_error(folder, ERR_DATA, "DIR/run.json: is a list; expected an object");
    write_file(folder, "run.json", "{\"n_step\":\"2\"}");
    expect_error(folder, ERR_DATA, "DIR/run.json: \"n_step\" is a string; expected an integer");
    write_file(folder, "run.json", "{}");
    char *log = file_join(folder, "metrics.jsonl");
    assert_int_equal(mkfifo(log, 0600), 0);
    expect_error(folder, ERR_NO_INPUT,
                 "DIR/metrics.jsonl: is not a regular file; expected a regular "
                 "file");
    assert_int_equal(unlink(log), 0);
    assert_int_equal(symlink("metrics.jsonl", log), 0);
    expect_error(folder, ERR_NO_INPUT, "DIR/metrics.jsonl: Too many levels of symbolic links");
    free(log);
    free(inner);
    tiny_scratch_remove(folder);
}

/* ---- size ---- */

static void a_long_log_is_read_quickly(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct text log = { 0 };
    for (int i = 1; i <= N; i++)
        text_printf(&log,
                    "{\"step\":%d,\"epoch\":0.5,\"loss\":%d.5,\"learning_rate\":5e-05,"
                    "\"grad_norm\":1.5,\"tokens\":4096,\"trained_tokens\":4000,"
                    "\"tokens_per_second\":9000.5,\"seconds\":0.5,\"memory_bytes\":1000000000,"
                    "\"blocks\":{\"data\":0.01,\"norm\":0.01,\"mamba\":0.2,\"moe\":0.1}}\n",
                    i, i);
    assert_false(log.failed);
    char *folder = folder_of(log.data);
    struct history h;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    read_ok(&h, folder);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_int_equal(h.n_step, N);
    for (int i = 0; i < N; i++)
        assert_true(h.steps[i].step == i + 1 && h.steps[i].loss == i + 1.5);
    /* A second or so; what is quadratic takes minutes. */
    assert_true(to.tv_sec - from.tv_sec < 20);
    close_both(&h, folder);
    text_free(&log);
}

/* A line over many reads, and one without an end. */
static void a_line_may_be_long_but_not_endless(void **state)
{
    (void)state;
    const size_t n = 1 << 20, most = (64 << 20) + 200000;
    char *prompt = malloc(most + 1);
    assert_non_null(prompt);
    memset(prompt, 'a', most);
    prompt[n] = '\0';
    struct text log = { 0 };
    text_printf(&log, "{\"step\":1,\"sample\":{\"prompt\":\"%s\"}}\n{\"step\":2,\"loss\":1}\n",
                prompt);
    char *folder = folder_of(log.data);
    struct history h;
    read_ok(&h, folder);
    assert_int_equal(strlen(h.samples[0].prompt), n);
    assert_int_equal(h.n_step, 1);
    history_free(&h);

    memset(prompt, 'a', most);
    tiny_file_write(folder, "metrics.jsonl", prompt, most);
    expect_error(folder, ERR_DATA, "DIR/metrics.jsonl:1: is longer than 67108864 bytes");
    static const char next[] = "\n{\"step\":4,\"loss\":1}\n"; /* what follows it is read */
    memcpy(prompt + most - sizeof next + 1, next, sizeof next - 1);
    tiny_file_write(folder, "metrics.jsonl", prompt, most);
    read_ok(&h, folder);
    assert_int_equal(h.n_damaged, 1);
    assert_int_equal(h.n_step, 1);
    history_free(&h);
    tiny_scratch_remove(folder);
    text_free(&log);
    free(prompt);
}

/* ---- the lock ---- */

/* A process that holds the folder's lock and then sleeps; it is to be killed. */
static pid_t hold_lock(const char *folder, const char *content)
{
    char *path = file_join(folder, "run.lock");
    int ready[2];
    assert_non_null(path);
    assert_int_equal(pipe(ready), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int fd = open(path, O_RDWR | O_CREAT, 0666);
        const bool ok = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
                        write(fd, content, strlen(content)) == (ssize_t)strlen(content);
        if (write(ready[1], ok ? "y" : "n", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    char answer = 0;
    assert_int_equal(read(ready[0], &answer, 1), 1);
    assert_int_equal(answer, 'y');
    close(ready[0]);
    close(ready[1]);
    free(path);
    return child;
}

static void end_process(pid_t child)
{
    int status;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
}

static void a_run_whose_lock_is_held_is_alive(void **state)
{
    (void)state;
    static const struct {
        const char *content, *host;
        int64_t pid;
    } cases[] = {
        { "{\"pid\":4711,\"host\":\"box\",\"started\":\"2026-11-22T17:00:00Z\"}\n", "box", 4711 },
        { "{\"pid\":47", NULL, 0 },
        { "", NULL, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct history h;
        char *folder = folder_of(STARTED "{\"step\":1,\"loss\":1}\n");
        const pid_t child = hold_lock(folder, cases[i].content);
        for (int k = 0; k < 2; k++) { /* looking does not change it */
            read_ok(&h, folder);
            assert_int_equal(h.life, HISTORY_ALIVE);
            assert_int_equal(h.pid, cases[i].pid);
            if (cases[i].host != NULL)
                assert_string_equal(h.host, cases[i].host);
            else
                assert_null(h.host);
            history_free(&h);
        }
        end_process(child);
        read_ok(&h, folder);
        assert_int_equal(h.life, HISTORY_DEAD);
        assert_int_equal(h.pid, 0);
        assert_null(h.host);
        close_both(&h, folder);
    }
}

static void a_folder_is_held_while_its_lock_is(void **state)
{
    (void)state;
    struct err err = { 0 };
    bool held = true;
    char *folder = tiny_scratch_make();
    assert_true(history_is_held(folder, &held, &err) && !held); /* nothing is there */
    const pid_t child = hold_lock(folder, "");
    assert_true(history_is_held(folder, &held, &err) && held);
    end_process(child);
    assert_true(history_is_held(folder, &held, &err) && !held);
    tiny_scratch_remove(folder);
}

/* The lock can be taken after it was looked at, and by two who look at once. */
static void looking_leaves_no_lock_behind(void **state)
{
    (void)state;
    struct history h;
    char *folder = folder_of(""), *path = file_join(folder, "run.lock");
    write_file(folder, "run.lock", "{\"pid\":1,\"host\":\"old\"}");
    const int other = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(flock(other, LOCK_SH | LOCK_NB), 0);
    read_ok(&h, folder);
    assert_int_equal(h.life, HISTORY_DEAD);
    close(other);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    close(fd);
    free(path);
    close_both(&h, folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_run_is_read_back),
        cmocka_unit_test(half_a_line_at_the_end_is_left_out),
        cmocka_unit_test(a_step_that_comes_again_voids_what_followed),
        cmocka_unit_test(numbers_that_are_not_finite_have_names),
        cmocka_unit_test(how_a_run_ended_is_its_last_such_event),
        cmocka_unit_test(parts_may_be_missing),
        cmocka_unit_test(a_line_that_is_not_ours_is_passed_over_and_told),
        cmocka_unit_test(zeros_are_one_damaged_line),
        cmocka_unit_test(zeros_at_the_end_are_damage),
        cmocka_unit_test(a_log_of_nothing_but_damage_is_an_error),
        cmocka_unit_test(a_folder_that_is_no_runs_is_refused),
        cmocka_unit_test(a_long_log_is_read_quickly),
        cmocka_unit_test(a_line_may_be_long_but_not_endless),
        cmocka_unit_test(a_run_whose_lock_is_held_is_alive),
        cmocka_unit_test(a_folder_is_held_while_its_lock_is),
        cmocka_unit_test(looking_leaves_no_lock_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
