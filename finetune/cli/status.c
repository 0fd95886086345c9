#include "finetune/cli/status.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "finetune/cli/cli.h"
#include "finetune/train/checkpoint.h"
#include "kernels/core/file.h"

/* ---- numbers ---- */

/* Seconds since the file or folder was last written, into *age; NaN: it is not there. path NULL:
 * there was no memory for it. */
static bool measure_age(const char *path, double *age, struct err *err)
{
    struct stat st;
    struct timespec now;
    if (path == NULL)
        return err_no_memory(err, "the status");
    if (stat(path, &st) != 0)
        return errno == ENOENT || err_set(err, file_error(ERR_IO), "%s: %s", path, strerror(errno));
    clock_gettime(CLOCK_REALTIME, &now);
    const double seconds = (double)(now.tv_sec - st.st_mtim.tv_sec) +
                           1e-9 * (double)(now.tv_nsec - st.st_mtim.tv_nsec);
    *age = seconds > 0 ? seconds : 0; /* clocks of two machines */
    return true;
}

static double or_zero(double x)
{
    return isfinite(x) ? x : 0;
}

static void measure_rate(const struct history *h, struct status *s)
{
    double tokens = 0, seconds = 0;
    const int64_t n = h->n_step < STATUS_RECENT ? h->n_step : STATUS_RECENT;
    for (int64_t i = h->n_step - n; i < h->n_step; i++) {
        tokens += or_zero(h->steps[i].tokens);
        seconds += or_zero(h->steps[i].seconds);
    }
    if (seconds > 0) {
        s->tokens_per_second = tokens / seconds;
        s->seconds_per_step = seconds / (double)n;
    }
}

/* What is left takes as long a step as of late, and as much of evaluations as so far; the one
 * before the first step says nothing of those to come. */
static void measure_time(const struct history *h, struct status *s)
{
    double evaluating = 0;
    for (int64_t i = 0; i < h->n_step; i++)
        s->elapsed += or_zero(h->steps[i].seconds);
    for (int64_t i = 0; i < h->n_eval; i++) {
        s->elapsed += or_zero(h->evals[i].seconds);
        evaluating += h->evals[i].step > 0 ? or_zero(h->evals[i].seconds) : 0;
    }
    const double to_come = h->total_steps > s->step ? (double)(h->total_steps - s->step) : 0;
    if (h->life == HISTORY_DONE || (h->total_steps > 0 && to_come == 0))
        s->left = 0;
    else if (h->total_steps > 0 && s->step > 0)
        s->left = to_come * (s->seconds_per_step + evaluating / (double)s->step);
}

static bool find_checkpoint(const struct history *h, struct status *s, struct err *err)
{
    struct checkpoint_list list = { 0 };
    if (!checkpoint_list(h->dir, &list, err))
        return false;
    bool ok = true;
    if (list.n > 0) {
        char *path = checkpoint_path(h->dir, list.steps[0]);
        s->checkpoint = list.steps[0];
        ok = measure_age(path, &s->checkpoint_age, err);
        free(path);
    }
    checkpoint_list_free(&list);
    return ok;
}

bool status_of(const struct history *h, struct status *s, struct err *err)
{
    const double unknown = (double)NAN;
    *s = (struct status){ .percent = unknown,
                          .epoch = unknown,
                          .loss = unknown,
                          .tokens_per_second = unknown,
                          .seconds_per_step = unknown,
                          .left = unknown,
                          .checkpoint = -1,
                          .checkpoint_age = unknown,
                          .log_age = unknown };
    if (h->n_step > 0) {
        const struct history_step *last = &h->steps[h->n_step - 1];
        s->step = last->step;
        s->epoch = last->epoch;
        s->loss = last->loss;
    }
    if (h->total_steps > 0)
        s->percent = 100 * (double)s->step / (double)h->total_steps;
    for (int64_t i = 0; i < h->n_step; i++)
        s->n_refused += !h->steps[i].applied;
    measure_rate(h, s);
    measure_time(h, s);
    char *log = file_join(h->dir, "metrics.jsonl");
    const bool measured = measure_age(log, &s->log_age, err);
    free(log);
    return measured && find_checkpoint(h, s, err);
}

/* ---- JSON ---- */

/* null for what is not known, but a loss that is no number says so. */
static json_t *known(double x)
{
    return isnan(x) ? json_null() : json_real(x);
}

static json_t *loss_json(double x)
{
    return isfinite(x) ? json_real(x)
                       : json_string(isnan(x) ? "NaN"
                                     : x > 0  ? "Infinity"
                                              : "-Infinity");
}

static json_t *eval_json(const struct history *h, int64_t i)
{
    if (i < 0)
        return json_null();
    return json_pack("{s:I, s:o}", "step", (json_int_t)h->evals[i].step, "loss",
                     loss_json(h->evals[i].loss));
}

static json_t *losses_json(const struct history *h)
{
    json_t *list = json_array();
    int64_t i = h->n_step > STATUS_RECENT ? h->n_step - STATUS_RECENT : 0;
    for (; i < h->n_step; i++)
        json_array_append_new(list, loss_json(h->steps[i].loss));
    return list;
}

static json_t *checkpoint_json(const struct history *h, const struct status *s)
{
    if (s->checkpoint < 0)
        return json_null();
    char *path = checkpoint_path(h->dir, s->checkpoint);
    json_t *object =
        path == NULL ? NULL
                     : json_pack("{s:I, s:o, s:o}", "step", (json_int_t)s->checkpoint, "path",
                                 cli_json_string(path), "age_seconds", known(s->checkpoint_age));
    free(path);
    return object;
}

static json_t *event_json(const struct history *h)
{
    if (h->n_event == 0)
        return json_null();
    const struct history_event *e = &h->events[h->n_event - 1];
    return json_pack("{s:I, s:o, s:o, s:o}", "step", (json_int_t)e->step, "event",
                     cli_json_string(e->event), "text", cli_json_string(e->text), "time",
                     cli_json_string(e->time));
}

json_t *status_json(const struct history *h, const struct status *s)
{
    json_t *pid = h->pid > 0 ? json_integer((json_int_t)h->pid) : json_null();
    json_t *host = h->host != NULL ? cli_json_string(h->host) : json_null();
    json_t *total = h->total_steps > 0 ? json_integer((json_int_t)h->total_steps) : json_null();
    json_t *loss = h->n_step > 0 ? loss_json(s->loss) : json_null();
    return json_pack("{s:o, s:s, s:o, s:o, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, "
                     "s:o, s:o, s:o, s:o, s:o, s:I}",
                     "dir", cli_json_string(h->dir), "state", history_life_name(h->life), "pid",
                     pid, "host", host, "step", (json_int_t)s->step, "total_steps", total,
                     "percent", known(s->percent), "epoch", known(s->epoch), "steps_not_applied",
                     (json_int_t)s->n_refused, "tokens_per_second", known(s->tokens_per_second),
                     "seconds_per_step", known(s->seconds_per_step), "elapsed_seconds",
                     known(s->elapsed), "left_seconds", known(s->left), "log_age_seconds",
                     known(s->log_age), "loss", loss, "last_losses", losses_json(h), "evaluation",
                     eval_json(h, h->n_eval - 1), "best_evaluation", eval_json(h, h->best),
                     "checkpoint", checkpoint_json(h, s), "last_event", event_json(h),
                     "damaged_lines", (json_int_t)h->n_damaged);
}

/* ---- the sparkline ---- */

struct bars {
    double low, high;
    int n;
    double height[128]; /* NaN: nothing finite */
};

static double mean_loss(const struct history *h, int64_t from, int64_t to)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = from; i < to; i++) {
        if (isfinite(h->steps[i].loss)) {
            sum += h->steps[i].loss;
            n++;
        }
    }
    const double mean = n > 0 ? sum / (double)n : (double)NAN;
    return isfinite(mean) ? mean : (double)NAN; /* the sum may be too large */
}

static void fill_bars(const struct history *h, int64_t n_step, int width, struct bars *b)
{
    const int64_t first = h->n_step - n_step;
    b->low = (double)INFINITY;
    b->high = (double)-INFINITY;
    b->n = (int)(n_step < width ? n_step : width);
    for (int i = 0; i < b->n; i++) {
        const double mean =
            mean_loss(h, first + n_step * i / b->n, first + n_step * (i + 1) / b->n);
        b->height[i] = mean;
        b->low = mean < b->low ? mean : b->low;
        b->high = mean > b->high ? mean : b->high;
    }
}

void status_sparkline(const struct history *h, int width, bool utf8, struct text *out,
                      int64_t *n_step)
{
    static const char *const blocks[] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
    static const char *const letters[] = { "_", ".", ":", "-", "=", "+", "*", "#" };
    enum { N_LEVEL = 8, MOST = sizeof((struct bars){ 0 }).height / sizeof(double) };
    struct bars b;
    width = width < MOST ? width : MOST;
    *n_step = h->n_step < 10 * (int64_t)width ? h->n_step : 10 * (int64_t)width;
    fill_bars(h, *n_step, width, &b);
    for (int i = 0; i < b.n; i++) {
        if (isnan(b.height[i])) {
            text_puts(out, "!");
            continue;
        }
        /* A row of equal losses stands low. Halves: a difference may be too large. */
        const double share =
            b.high > b.low ? (b.height[i] / 2 - b.low / 2) / (b.high / 2 - b.low / 2) : 0;
        const int level = (int)(share * (N_LEVEL - 1) + 0.5);
        text_puts(out, utf8 ? blocks[level] : letters[level]);
    }
}
