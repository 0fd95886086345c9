/* jambatune status: where runs stand, from their folders alone. */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/run_folders.h"
#include "finetune/cli/status.h"
#include "kernels/core/text.h"
#include "recipes/report.h"

#define USAGE "jambatune status DIR [DIR ...] [--json] [--watch]"

const char cmd_status_help[] =
    "usage: " USAGE "\n"
    "\n"
    "Shows where the run of an output_dir stands: from its files alone, without disturbing it, "
    "from\n"
    "any machine that sees the folder. The folder of a sweep (train --each) stands for its runs.\n"
    "\n"
    "  state        running (with process and machine), finished, stopped (by a signal: "
    "`jambatune\n"
    "               train RECIPE --resume` goes on), or dead: killed, or failed. Of a sweep's run\n"
    "               that left nothing: waiting; failed, with the reason, before it began; or gone\n"
    "               since\n"
    "  step         of how many, and the epoch\n"
    "  speed        over the last 20 steps\n"
    "  time         spent in steps and evaluations; left at that speed\n"
    "  loss         the last one, and up to 400 before it as a row of bars (`!`: not finite)\n"
    "  evaluation   the last one and the best\n"
    "  checkpoint   the newest, and its age\n"
    "  last event   such as resumed, stopped, finished\n"
    "  log          how many lines of it are damaged, and the first; without a line when none is\n"
    "\n"
    "Options:\n"
    "  --json    print one JSON object: {\"runs\": [{\"dir\", \"state\", \"step\", ...}]}; of a "
    "run\n"
    "            that left nothing {\"dir\", \"state\"}, and \"error\" where it failed with one\n"
    "  --watch   show it again every two seconds until no run is running, and no sweep\n"
    "\n"
    "The exit code is 0 when all were read, whatever their state; 66 when a folder is not there "
    "or\n"
    "is no run's, 65 when its log holds nothing but damage.\n"
    "\n"
    "Examples:\n"
    "  jambatune status out\n"
    "  jambatune status sweep --watch\n"
    "  jambatune status out --json | jq -r '.runs[0].state'\n";

enum { BARS = 40, WATCH_SECONDS = 2 };

/* ---- pieces of lines ---- */

/* "4:05", "1:02:03", "2 days 1:02:03"; "?" for what is not known. */
static void put_clock(struct text *out, double seconds)
{
    if (!(fabs(seconds) < 1e12)) {
        text_puts(out, "?");
        return;
    }
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 2 * 86400) {
        text_printf(out, "%" PRId64 " days ", s / 86400);
        s %= 86400;
    }
    if (s >= 3600)
        text_printf(out, "%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60), (int)(s % 60));
    else
        text_printf(out, "%d:%02d", (int)(s / 60), (int)(s % 60));
}

/* "12 seconds", "3 minutes", "5 hours", "2 days". */
static void put_age(struct text *out, double seconds)
{
    static const struct {
        double seconds;
        const char *name;
    } units[] = { { 86400, "day" }, { 3600, "hour" }, { 60, "minute" }, { 1, "second" } };
    size_t u = 0;
    while (u < 3 && !(seconds >= 2 * units[u].seconds))
        u++;
    const double n = floor(seconds / units[u].seconds);
    if (n < 1e12) /* a number */
        text_printf(out, "%.0f %s%s", n, units[u].name, n == 1 ? "" : "s");
    else
        text_puts(out, "an unknown time");
}

static void put_count(struct text *out, double n)
{
    char digits[32];
    if (fabs(n) < 1e15)
        text_count(digits, (int64_t)(n + 0.5));
    else /* no number of ours */
        snprintf(digits, sizeof digits, "%.3g", n);
    text_puts(out, digits);
}

/* What the terminal is said to take, whether that locale is installed or not. */
static bool is_utf8_locale(void)
{
    static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };
    const char *value = NULL;
    for (size_t i = 0; i < 3 && (value == NULL || *value == '\0'); i++)
        value = getenv(names[i]);
    for (; value != NULL && *value != '\0'; value++) {
        if (tolower((unsigned char)value[0]) == 'u' && tolower((unsigned char)value[1]) == 't' &&
            tolower((unsigned char)value[2]) == 'f' && value[value[3] == '-' ? 4 : 3] == '8')
            return true;
    }
    return false;
}

/* ---- lines ---- */

static void put_state(const struct history *h, const struct status *s, struct text *out)
{
    text_printf(out, "  state       %s", history_life_name(h->life));
    if (h->pid > 0)
        text_printf(out, ", process %" PRId64, h->pid);
    if (h->host != NULL)
        text_printf(out, " on %s", h->host);
    if (h->life == HISTORY_ALIVE && isfinite(s->log_age)) {
        text_puts(out, "; logged ");
        put_age(out, s->log_age);
        text_puts(out, " ago");
    } else if (h->life == HISTORY_DEAD) {
        text_puts(out, ": killed, or failed");
    }
    text_puts(out, "\n");
}

static void put_step(const struct history *h, const struct status *s, struct text *out)
{
    text_printf(out, "  step        %" PRId64, s->step);
    if (h->total_steps > 0)
        text_printf(out, " of %" PRId64 " (%.1f %%)", h->total_steps, s->percent);
    if (isfinite(s->epoch))
        text_printf(out, ", epoch %.2f", s->epoch);
    if (s->n_refused > 0)
        text_printf(out, "; %" PRId64 " not applied, for their loss or gradient was not finite",
                    s->n_refused);
    text_puts(out, "\n");
    if (isfinite(s->seconds_per_step)) {
        text_puts(out, "  speed       ");
        put_count(out, s->tokens_per_second);
        text_printf(out, " tokens/s, %.3g s a step\n", s->seconds_per_step);
    }
    if (h->n_step == 0 && h->n_eval == 0)
        return;
    text_puts(out, "  time        ");
    put_clock(out, s->elapsed);
    text_puts(out, " spent");
    if (s->left > 0) {
        text_puts(out, ", ");
        put_clock(out, s->left);
        text_puts(out, h->life == HISTORY_ALIVE ? " left" : " left when it is resumed");
    }
    text_puts(out, "\n");
}

static void put_loss(const struct history *h, const struct status *s, struct text *out)
{
    int64_t n_step = 0;
    if (h->n_step == 0)
        return;
    text_puts(out, "  loss        ");
    status_sparkline(h, BARS, is_utf8_locale(), out, &n_step);
    text_printf(out, " %.4f", s->loss);
    if (n_step > 1)
        text_printf(out, " (%" PRId64 " steps)", n_step);
    text_puts(out, "\n");
}

static void put_evaluation(const struct history *h, struct text *out)
{
    if (h->n_eval == 0)
        return;
    const struct history_eval *last = &h->evals[h->n_eval - 1];
    text_printf(out, "  evaluation  %.4f at step %" PRId64, last->loss, last->step);
    if (h->best == h->n_eval - 1)
        text_puts(out, ", the best so far");
    else if (h->best >= 0)
        text_printf(out, "; best %.4f at step %" PRId64, h->evals[h->best].loss,
                    h->evals[h->best].step);
    text_puts(out, "\n");
}

static void put_rest(const struct history *h, const struct status *s, struct text *out)
{
    if (s->checkpoint >= 0) {
        text_printf(out, "  checkpoint  checkpoint-%" PRId64 ", ", s->checkpoint);
        put_age(out, s->checkpoint_age);
        text_puts(out, " old\n");
    }
    if (h->n_event > 0) {
        const struct history_event *e = &h->events[h->n_event - 1];
        text_printf(out, "  last event  %s after step %" PRId64 "%s%s%s%s\n", e->event, e->step,
                    *e->text != '\0' ? ": " : "", e->text, *e->time != '\0' ? ", " : "", e->time);
    }
    if (h->n_damaged > 0)
        text_printf(out, "  log         %" PRId64 " damaged line%s passed over; the first: %s\n",
                    h->n_damaged, h->n_damaged == 1 ? " is" : "s are", h->damage.text);
}

/* A line at a time is cleaned: the log may hold anything. */
static void put_lines(char *text, struct text *out)
{
    for (char *line = text; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end++ = '\0';
        report_clean(line);
        text_puts(out, line);
        text_puts(out, "\n");
        line = end;
    }
}

static void put_run(const struct history *h, const struct status *s, struct text *out)
{
    struct text lines = { 0 };
    text_printf(&lines, "%s\n", h->dir);
    put_state(h, s, &lines);
    put_step(h, s, &lines);
    put_loss(h, s, &lines);
    put_evaluation(h, &lines);
    put_rest(h, s, &lines);
    if (lines.data != NULL)
        put_lines(lines.data, out);
    out->failed = out->failed || lines.failed;
    text_free(&lines);
}

/* ---- runs that left nothing ---- */

static void put_bare(const struct run_folder *run, struct text *out)
{
    static const char *const more[] = { [RUN_FOLDER_WAITING] = "",
                                        [RUN_FOLDER_FAILED] = " before it began",
                                        [RUN_FOLDER_GONE] =
                                            ": it ran, but its files are not there" };
    struct text lines = { 0 };
    text_printf(&lines, "%s\n  state       %s%s", run->dir, run_folder_state_name(run->state),
                more[run->state]);
    if (run->error != NULL) /* of which a newline would begin another line */
        text_printf(&lines, ": %.*s", (int)strcspn(run->error, "\n"), run->error);
    if (lines.data != NULL)
        put_lines(lines.data, out);
    out->failed = out->failed || lines.failed;
    text_free(&lines);
}

static json_t *bare_json(const struct run_folder *run)
{
    json_t *object = json_pack("{s:o, s:s}", "dir", cli_json_string(run->dir), "state",
                               run_folder_state_name(run->state));
    if (run->error != NULL)
        json_object_set_new(object, "error", cli_json_string(run->error));
    return object;
}

/* ---- the command ---- */

/* What one look at all folders gave. */
struct look {
    struct text text;
    json_t *runs; /* with --json */
    bool alive;   /* some run is */
};

static bool look_at(struct look *l, const struct run_folder *run, bool as_json, struct err *err)
{
    struct history h = { 0 };
    struct status s;
    const bool is_bare = run->state != RUN_FOLDER_READ;
    bool ok = is_bare || (history_read(&h, run->dir, err) && status_of(&h, &s, err));
    if (ok && as_json) {
        json_t *object = is_bare ? bare_json(run) : status_json(&h, &s);
        ok = json_array_append_new(l->runs, object) == 0 || err_no_memory(err, "the JSON to print");
    } else if (ok) {
        if (l->text.len > 0)
            text_puts(&l->text, "\n");
        if (is_bare)
            put_bare(run, &l->text);
        else
            put_run(&h, &s, &l->text);
        ok = !l->text.failed || err_no_memory(err, "what is to be printed");
    }
    l->alive |= !is_bare && h.life == HISTORY_ALIVE;
    history_free(&h);
    return ok;
}

static void keep_first(int *failed, const struct err *err)
{
    const int code = cli_fail(err);
    *failed = *failed == 0 ? code : *failed;
}

/* Shows what can be shown; what cannot is told at once, on stderr. Returns the exit code. */
static int look_at_all(const struct cli_words *words, bool as_json, bool clear, bool *alive)
{
    struct look l = { .runs = as_json ? json_array() : NULL };
    struct run_folders folders = { 0 };
    int failed = 0;
    for (int i = 0; i < words->n_arg; i++) {
        struct err err = { 0 };
        if (!run_folders_add(&folders, words->args[i], &err))
            keep_first(&failed, &err);
    }
    for (int64_t i = 0; i < folders.n; i++) {
        struct err err = { 0 };
        if (!look_at(&l, &folders.items[i], as_json, &err))
            keep_first(&failed, &err);
    }
    *alive = l.alive || folders.sweep_alive;
    run_folders_free(&folders);
    if (clear)
        fputs("\033[H\033[J", stdout);
    if (l.text.data != NULL && !as_json)
        fputs(l.text.data, stdout);
    text_free(&l.text);
    const int code = as_json ? cli_end_json(json_pack("{s:o}", "runs", l.runs)) : cli_end_output();
    return failed != 0 ? failed : code;
}

int cmd_status(int argc, char **argv)
{
    bool as_json = false, watch = false, alive = false;
    const struct cli_option options[] = { { "json", NULL, NULL, &as_json },
                                          { "watch", NULL, NULL, &watch } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 2, &words, &err) ||
        !cli_expect_no_overrides(&words, &err) ||
        !cli_expect_args(&words, 1, CLI_MAX_WORDS, USAGE, &err))
        return cli_fail(&err);
    if (watch && as_json) {
        err_set(&err, ERR_USAGE, "command line: --watch: does not go with --json");
        return cli_fail(&err);
    }
    const bool clear = watch && isatty(STDOUT_FILENO) == 1;
    for (;;) {
        const int code = look_at_all(&words, as_json, clear, &alive);
        if (!watch || !alive || code != 0)
            return code;
        const struct timespec pause = { .tv_sec = WATCH_SECONDS };
        nanosleep(&pause, NULL);
        if (!clear)
            puts("");
    }
}
