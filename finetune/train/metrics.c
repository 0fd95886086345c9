#include "finetune/train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finetune/train/output.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

/* ---- the file ---- */

static bool write_all(struct metrics *m, const char *bytes, size_t n, struct err *err)
{
    while (n > 0) {
        const ssize_t put = write(m->fd, bytes, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_set(err, ERR_IO, "%s: cannot be written: %s", m->path, strerror(errno));
        bytes += put;
        n -= (size_t)put;
        m->bytes += put;
    }
    return true;
}

/* To the end of the last whole line of the first n bytes. */
static int64_t whole_lines(const struct metrics *m, int64_t n)
{
    char last = 0;
    while (n > 0 && pread(m->fd, &last, 1, (off_t)n - 1) == 1 && last != '\n')
        n--;
    return n;
}

/* Cut to `bytes`; a log that was made shorter goes on after its last whole line. */
static bool cut(struct metrics *m, int64_t bytes, struct err *err)
{
    struct stat st;
    bool ok = fstat(m->fd, &st) == 0;
    if (ok) {
        m->bytes = whole_lines(m, st.st_size < bytes ? st.st_size : bytes);
        ok = st.st_size == m->bytes || ftruncate(m->fd, (off_t)m->bytes) == 0;
    }
    return ok || err_set(err, ERR_IO, "%s: cannot be cut: %s", m->path, strerror(errno));
}

bool metrics_open(struct metrics *m, const char *output_dir, int64_t resumed_step, int64_t bytes,
                  struct err *err)
{
    *m = (struct metrics){ .path = file_join(output_dir, METRICS_NAME), .fd = -1 };
    if (m->path == NULL)
        return err_no_memory(err, output_dir);
    m->fd = open(m->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (m->fd < 0)
        err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", m->path, strerror(errno));
    if (m->fd >= 0 && cut(m, resumed_step >= 0 ? bytes : 0, err) &&
        tensorboard_open(&m->tensorboard, output_dir, resumed_step, err))
        return true;
    metrics_close(m, NULL);
    return false;
}

bool metrics_close(struct metrics *m, struct err *err)
{
    bool ok = tensorboard_close(&m->tensorboard, err);
    if (m->path != NULL && m->fd >= 0 && close(m->fd) != 0)
        ok = err_set(err, ERR_IO, "%s: cannot be written: %s", m->path, strerror(errno));
    free(m->path);
    *m = (struct metrics){ .fd = -1 };
    return ok;
}

/* ---- lines ---- */

/* JSON has no NaN: a non-finite number is written as its name. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x)
                       : json_string(isnan(x) ? "NaN"
                                     : x > 0  ? "Infinity"
                                              : "-Infinity");
}

/* A text as JSON can hold it: what is not UTF-8 (half a character at a sample's end) becomes '?'.
 */
static json_t *json_text(const char *s)
{
    char *copy = text_copy(s);
    size_t at = 0;
    while (copy != NULL && !text_is_utf8(copy, strlen(copy), &at))
        copy[at] = '?';
    json_t *value = copy == NULL ? NULL : json_string(copy);
    free(copy);
    return value;
}

/* Takes the line over: one write, so that a killed run leaves whole lines or a torn last one. */
static bool write_line(struct metrics *m, json_t *line, struct err *err)
{
    char *text = json_to_text(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(line);
    char *whole = text == NULL ? NULL : text_format("%s\n", text);
    const bool ok =
        whole != NULL ? write_all(m, whole, strlen(whole), err) : err_no_memory(err, m->path);
    free(whole);
    free(text);
    return ok;
}

static bool set(json_t *line, const char *key, json_t *value)
{
    return json_object_set_new(line, key, value) == 0;
}

/* Gives up the line where a member is missing: memory is out. */
static json_t *whole(json_t *line, bool ok)
{
    if (ok)
        return line;
    json_decref(line);
    return NULL;
}

static bool set_blocks(json_t *line, const double blocks[PROFILE_N])
{
    json_t *object = json_object();
    bool ok = object != NULL;
    for (int b = 0; ok && b < PROFILE_N; b++) {
        if (blocks[b] > 0)
            ok = set(object, profile_name((enum profile_block)b), json_real(blocks[b]));
    }
    if (ok && json_object_size(object) > 0)
        ok = json_object_set(line, "blocks", object) == 0;
    json_decref(object);
    return ok;
}

static json_t *step_line(const struct train_step *s)
{
    json_t *line = json_object();
    const bool ok = set(line, "step", json_integer(s->step)) &&
                    set(line, "epoch", number(s->epoch)) && set(line, "loss", number(s->loss)) &&
                    (!s->balanced || set(line, "aux_loss", number(s->aux_loss))) &&
                    set(line, "learning_rate", number(s->learning_rate)) &&
                    set(line, "grad_norm", number(s->grad_norm)) &&
                    set(line, "tokens", json_integer(s->tokens)) &&
                    set(line, "trained_tokens", json_integer(s->trained_tokens)) &&
                    set(line, "tokens_per_second", number(s->tokens_per_second)) &&
                    set(line, "seconds", number(s->seconds)) &&
                    set(line, "memory_bytes", json_integer((json_int_t)s->memory_bytes)) &&
                    set_blocks(line, s->blocks) &&
                    (s->applied || (set(line, "applied", json_false()) &&
                                    set(line, "documents", json_text(s->places))));
    return whole(line, ok);
}

bool metrics_step(struct metrics *m, const struct train_step *s, struct err *err)
{
    const struct {
        const char *tag;
        double value;
    } scalars[] = {
        { "train/loss", s->loss },
        { "train/learning_rate", s->learning_rate },
        { "train/grad_norm", s->grad_norm },
        { "train/epoch", s->epoch },
        { "train/tokens_per_second", s->tokens_per_second },
        { "train/memory_bytes", (double)s->memory_bytes },
    };
    if (!write_line(m, step_line(s), err))
        return false;
    for (size_t i = 0; i < sizeof scalars / sizeof *scalars; i++) {
        if (!tensorboard_scalar(&m->tensorboard, scalars[i].tag, s->step, scalars[i].value, err))
            return false;
    }
    /* Whole steps: a run that goes on from a checkpoint finds all that came before. */
    return tensorboard_flush(&m->tensorboard, err);
}

bool metrics_eval(struct metrics *m, const struct train_eval *e, struct err *err)
{
    json_t *line = json_object();
    const bool ok = set(line, "step", json_integer(e->step)) &&
                    set(line, "epoch", number(e->epoch)) &&
                    set(line, "eval_loss", number(e->loss)) &&
                    set(line, "eval_tokens", json_integer(e->tokens)) &&
                    set(line, "seconds", number(e->seconds));
    return write_line(m, whole(line, ok), err) &&
           tensorboard_scalar(&m->tensorboard, "eval/loss", e->step, e->loss, err);
}

bool metrics_sample(struct metrics *m, const struct train_sample *s, struct err *err)
{
    json_t *line = json_object(), *sample = json_object();
    const bool ok =
        set(sample, "prompt", json_text(s->prompt)) && set(sample, "text", json_text(s->text)) &&
        set(sample, "tokens", json_integer(s->n_token)) &&
        set(sample, "end", json_string(s->end)) && set(line, "step", json_integer(s->step)) &&
        json_object_set(line, "sample", sample) == 0;
    json_decref(sample);
    if (!write_line(m, whole(line, ok), err))
        return false;
    char tag[40]; /* one for each prompt: of one tag and step the last text alone is shown */
    snprintf(tag, sizeof tag, "samples/%" PRId64, s->index + 1);
    char *text = text_format("%s%s", s->prompt, s->text);
    const bool shown = text != NULL ? tensorboard_text(&m->tensorboard, tag, s->step, text, err)
                                    : err_no_memory(err, m->path);
    free(text);
    return shown;
}

bool metrics_event(struct metrics *m, int64_t step, const char *event, const char *text,
                   struct err *err)
{
    char time[OUTPUT_TIME_SIZE];
    output_time(time);
    json_t *line = json_object();
    const bool ok = set(line, "step", json_integer(step)) &&
                    set(line, "event", json_string(event)) && set(line, "text", json_text(text)) &&
                    set(line, "time", json_string(time));
    return write_line(m, whole(line, ok), err) && tensorboard_flush(&m->tensorboard, err);
}
