#include "finetune/train/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"

bool metrics_open(struct metrics *m, const char *output_dir, struct err *err)
{
    *m = (struct metrics){ .path = file_join(output_dir, "metrics.jsonl") };
    if (m->path == NULL)
        return err_no_memory(err, output_dir);
    m->file = fopen(m->path, "w");
    if (m->file != NULL)
        return true;
    err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", m->path, strerror(errno));
    free(m->path);
    m->path = NULL;
    return false;
}

/* JSON has no NaN: a non-finite number is written as its name. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x)
                       : json_string(isnan(x) ? "NaN"
                                     : x > 0  ? "Infinity"
                                              : "-Infinity");
}

/* One line, flushed: a killed run keeps what it logged. */
static bool write_line(struct metrics *m, json_t *line, struct err *err)
{
    char *text = line == NULL ? NULL : json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(line);
    if (text == NULL)
        return err_no_memory(err, m->path);
    const bool ok = fprintf(m->file, "%s\n", text) > 0 && fflush(m->file) == 0;
    free(text);
    return ok || err_set(err, ERR_IO, "%s: cannot be written: %s", m->path, strerror(errno));
}

bool metrics_step(struct metrics *m, const struct train_step *s, struct err *err)
{
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(s->step));
    json_object_set_new(line, "epoch", number(s->epoch));
    json_object_set_new(line, "loss", number(s->loss));
    if (s->balanced)
        json_object_set_new(line, "aux_loss", number(s->aux_loss));
    json_object_set_new(line, "learning_rate", number(s->learning_rate));
    json_object_set_new(line, "grad_norm", number(s->grad_norm));
    json_object_set_new(line, "tokens", json_integer(s->tokens));
    json_object_set_new(line, "trained_tokens", json_integer(s->trained_tokens));
    json_object_set_new(line, "tokens_per_second", number(s->tokens_per_second));
    json_object_set_new(line, "seconds", number(s->seconds));
    json_object_set_new(line, "memory_bytes", json_integer((json_int_t)s->memory_bytes));
    if (!s->applied) {
        json_object_set_new(line, "applied", json_false());
        json_object_set_new(line, "documents", json_string(s->places));
    }
    return write_line(m, line, err);
}

bool metrics_eval(struct metrics *m, const struct train_eval *e, struct err *err)
{
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(e->step));
    json_object_set_new(line, "epoch", number(e->epoch));
    json_object_set_new(line, "eval_loss", number(e->loss));
    json_object_set_new(line, "eval_tokens", json_integer(e->tokens));
    json_object_set_new(line, "seconds", number(e->seconds));
    return write_line(m, line, err);
}

bool metrics_close(struct metrics *m, struct err *err)
{
    const bool ok = m->file == NULL || fclose(m->file) == 0 ||
                    err_set(err, ERR_IO, "%s: cannot be written: %s", m->path, strerror(errno));
    free(m->path);
    *m = (struct metrics){ 0 };
    return ok;
}
