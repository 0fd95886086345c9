/* The log is read by pieces, never mapped: a run that is resumed cuts it, and a page past the end
 * of a mapped file is a signal.
 *
 * A step that comes again (a run resumed by a program that did not cut the log) takes with it what
 * was there of it and of all later ones: they belong to a past that was given up. So the lists are
 * in order by how they are made, and need no search.
 */
#include "finetune/train/history.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finetune/train/output.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

enum { PIECE = 64 * 1024, LONGEST_LINE = 64 * 1024 * 1024, RUN_LIMIT = 16 * 1024 * 1024 };

const char *history_life_name(enum history_life life)
{
    static const char *const names[] = {
        [HISTORY_ALIVE] = "running",
        [HISTORY_DONE] = "finished",
        [HISTORY_STOPPED] = "stopped",
        [HISTORY_DEAD] = "dead",
    };
    return names[life];
}

void history_free(struct history *h)
{
    free(h->dir);
    free(h->steps);
    free(h->evals);
    free(h->samples);
    free(h->events);
    free(h->host);
    json_decref(h->run);
    json_decref(h->lines);
    *h = (struct history){ 0 };
}

/* ---- lines ---- */

/* Room for one more of n items: the list doubles at each power of two. */
static bool make_room(void **items, int64_t n, size_t size)
{
    size_t bytes = 0;
    if ((n & (n - 1)) != 0)
        return true;
    if (!size_mul(n == 0 ? 1 : (size_t)n * 2, size, &bytes))
        return false;
    void *more = realloc(*items, bytes);
    if (more != NULL)
        *items = more;
    return more != NULL;
}

/* Forgets steps, evaluations and samples after `step`. */
static void drop_after(struct history *h, int64_t step)
{
    while (h->n_step > 0 && h->steps[h->n_step - 1].step > step)
        h->n_step--;
    while (h->n_eval > 0 && h->evals[h->n_eval - 1].step > step)
        h->n_eval--;
    while (h->n_sample > 0 && h->samples[h->n_sample - 1].step > step)
        h->n_sample--;
}

/* A number, or the name of one that is not finite; missing: NaN. */
static bool get_number(json_t *object, const char *key, double *out, const char *place,
                       struct err *err)
{
    const char *name = json_string_value(json_object_get(object, key));
    *out = (double)NAN;
    if (name == NULL)
        return json_get_real(object, key, false, out, place, err);
    if (strcmp(name, "Infinity") == 0)
        *out = (double)INFINITY;
    else if (strcmp(name, "-Infinity") == 0)
        *out = (double)-INFINITY;
    else if (strcmp(name, "NaN") != 0)
        return err_set(err, ERR_DATA,
                       "%s: \"%s\" is '%.60s'; expected a number, \"NaN\", \"Infinity\" or "
                       "\"-Infinity\"",
                       place, key, name);
    return true;
}

static bool get_blocks(json_t *line, double blocks[PROFILE_N], const char *place, struct err *err)
{
    json_t *object = json_object_get(line, "blocks");
    if (object != NULL && !json_is_object(object))
        return err_set(err, ERR_DATA, "%s: \"blocks\" is %s; expected an object", place,
                       json_type_name(object));
    bool ok = true;
    for (int i = 0; i < PROFILE_N && ok; i++)
        ok = get_number(object, profile_name((enum profile_block)i), &blocks[i], place, err);
    return ok;
}

static bool add_step(struct history *h, json_t *line, int64_t step, const char *place,
                     struct err *err)
{
    struct history_step s = { .step = step, .applied = true };
    const struct {
        const char *key;
        double *out;
    } numbers[] = {
        { "epoch", &s.epoch },
        { "loss", &s.loss },
        { "aux_loss", &s.aux_loss },
        { "learning_rate", &s.learning_rate },
        { "grad_norm", &s.grad_norm },
        { "tokens", &s.tokens },
        { "trained_tokens", &s.trained_tokens },
        { "tokens_per_second", &s.tokens_per_second },
        { "seconds", &s.seconds },
        { "memory_bytes", &s.memory_bytes },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!get_number(line, numbers[i].key, numbers[i].out, place, err))
            return false;
    }
    if (!json_get_bool(line, "applied", false, &s.applied, place, err) ||
        !get_blocks(line, s.blocks, place, err))
        return false;
    drop_after(h, step - 1);
    void *steps = h->steps;
    const bool ok = make_room(&steps, h->n_step, sizeof *h->steps);
    h->steps = steps;
    if (!ok)
        return err_no_memory(err, place);
    h->steps[h->n_step++] = s;
    return true;
}

static bool add_eval(struct history *h, json_t *line, int64_t step, const char *place,
                     struct err *err)
{
    struct history_eval e = { .step = step };
    if (!get_number(line, "epoch", &e.epoch, place, err) ||
        !get_number(line, "eval_loss", &e.loss, place, err) ||
        !get_number(line, "eval_tokens", &e.tokens, place, err) ||
        !get_number(line, "seconds", &e.seconds, place, err))
        return false;
    while (h->n_eval > 0 && h->evals[h->n_eval - 1].step >= step)
        h->n_eval--;
    void *evals = h->evals;
    const bool ok = make_room(&evals, h->n_eval, sizeof *h->evals);
    h->evals = evals;
    if (!ok)
        return err_no_memory(err, place);
    h->evals[h->n_eval++] = e;
    return true;
}

/* The sample's place in the list: that of the same prompt after the same step, or a new one. */
static struct history_sample *sample_slot(struct history *h, int64_t step, const char *prompt)
{
    while (h->n_sample > 0 && h->samples[h->n_sample - 1].step > step)
        h->n_sample--;
    for (int64_t i = h->n_sample - 1; i >= 0 && h->samples[i].step == step; i--) {
        if (strcmp(h->samples[i].prompt, prompt) == 0)
            return &h->samples[i];
    }
    void *samples = h->samples;
    const bool ok = make_room(&samples, h->n_sample, sizeof *h->samples);
    h->samples = samples;
    return ok ? &h->samples[h->n_sample++] : NULL;
}

static bool add_sample(struct history *h, json_t *line, int64_t step, const char *place,
                       struct err *err)
{
    struct history_sample s = { .step = step, .prompt = "", .text = "", .end = "" };
    json_t *object = json_object_get(line, "sample");
    if (!json_is_object(object))
        return err_set(err, ERR_DATA, "%s: \"sample\" is %s; expected an object", place,
                       json_type_name(object));
    if (!json_get_string(object, "prompt", false, &s.prompt, place, err) ||
        !json_get_string(object, "text", false, &s.text, place, err) ||
        !json_get_string(object, "end", false, &s.end, place, err))
        return false;
    struct history_sample *slot = sample_slot(h, step, s.prompt);
    if (slot != NULL)
        *slot = s;
    return (slot != NULL && json_array_append(h->lines, line) == 0) || err_no_memory(err, place);
}

static bool add_event(struct history *h, json_t *line, int64_t step, const char *place,
                      struct err *err)
{
    struct history_event e = { .step = step, .event = "", .text = "", .time = "" };
    if (!json_get_string(line, "event", true, &e.event, place, err) ||
        !json_get_string(line, "text", false, &e.text, place, err) ||
        !json_get_string(line, "time", false, &e.time, place, err))
        return false;
    if (strcmp(e.event, "started") == 0 || strcmp(e.event, "resumed") == 0)
        drop_after(h, step);
    void *events = h->events;
    const bool ok = make_room(&events, h->n_event, sizeof *h->events);
    h->events = events;
    if (!ok || json_array_append(h->lines, line) != 0)
        return err_no_memory(err, place);
    h->events[h->n_event++] = e;
    return true;
}

static bool add_line(struct history *h, const char *bytes, size_t n, const char *place,
                     struct err *err)
{
    static const struct {
        const char *key;
        bool (*add)(struct history *, json_t *, int64_t, const char *, struct err *);
    } kinds[] = {
        { "loss", add_step },
        { "eval_loss", add_eval },
        { "sample", add_sample },
        { "event", add_event },
    };
    enum { N_KIND = sizeof kinds / sizeof *kinds };
    json_t *line = json_parse(bytes, n, place, err);
    if (line == NULL)
        return false;
    int kind = 0;
    while (kind < N_KIND && json_object_get(line, kinds[kind].key) == NULL)
        kind++;
    int64_t step = 0;
    bool ok = kind < N_KIND ||
              err_set(err, ERR_DATA,
                      "%s: is no line of a run's log; expected an object with \"step\" and "
                      "\"loss\", \"eval_loss\", \"sample\" or \"event\"",
                      place);
    ok = ok && json_get_int(line, "step", true, 0, INT64_MAX, &step, place, err) &&
         kinds[kind].add(h, line, step, place, err);
    json_decref(line);
    return ok;
}

/* ---- the log ---- */

struct log_reader {
    const char *path;
    int64_t n_line;
    struct text rest; /* what was read and is no whole line yet */
    bool skipping;    /* it is the rest of a line that is too long */
};

/* A line that says nothing is passed over; what went wrong otherwise says nothing of the line. */
static bool note_damage(struct history *h, const struct err *why, struct err *err)
{
    if (why->code != ERR_DATA)
        return err_set(err, why->code, "%s", why->text);
    if (h->n_damaged++ == 0)
        h->damage = *why;
    return true;
}

static bool take_line(struct history *h, struct log_reader *r, const char *bytes, size_t n,
                      struct err *err)
{
    struct err why = { 0 };
    char place[1024];
    const bool rest = r->skipping;
    r->skipping = false;
    if (rest)
        return true;
    snprintf(place, sizeof place, "%.900s:%" PRId64, r->path, ++r->n_line);
    return add_line(h, bytes, n, place, &why) || note_damage(h, &why, err);
}

/* What is longer than any line of ours is let go by. */
static bool skip_long_line(struct history *h, struct log_reader *r, struct err *err)
{
    struct err why = { 0 };
    r->rest.len = 0;
    if (r->skipping)
        return true;
    r->skipping = true;
    err_set(&why, ERR_DATA, "%s:%" PRId64 ": is longer than %d bytes", r->path, ++r->n_line,
            (int)LONGEST_LINE);
    return note_damage(h, &why, err);
}

/* Takes the whole lines of r->rest out of it, from `seen` on where a newline may be. */
static bool take_lines(struct history *h, struct log_reader *r, size_t seen, struct err *err)
{
    size_t from = 0;
    while (seen < r->rest.len) {
        const char *newline = memchr(r->rest.data + seen, '\n', r->rest.len - seen);
        if (newline == NULL)
            break;
        const size_t end = (size_t)(newline - r->rest.data);
        if (!take_line(h, r, r->rest.data + from, end - from, err))
            return false;
        from = seen = end + 1;
    }
    if (from > 0)
        memmove(r->rest.data, r->rest.data + from, r->rest.len - from);
    r->rest.len -= from;
    return r->rest.len <= LONGEST_LINE || skip_long_line(h, r, err);
}

/* A last line without its end is one that a kill cut short, and is left out. Such a one has no zero
 * bytes: those are what a file system leaves that lost power. */
static bool end_lines(struct history *h, struct log_reader *r, struct err *err)
{
    const bool has_zero = r->rest.len > 0 && memchr(r->rest.data, '\0', r->rest.len) != NULL;
    return !has_zero || take_line(h, r, r->rest.data, r->rest.len, err);
}

static bool read_lines(struct history *h, struct log_reader *r, int fd, struct err *err)
{
    char piece[PIECE];
    for (;;) {
        const ssize_t n = read(fd, piece, sizeof piece);
        if (n == 0)
            return end_lines(h, r, err);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "%s: cannot be read: %s", r->path, strerror(errno));
        const size_t seen = r->rest.len;
        text_append(&r->rest, piece, (size_t)n);
        if (r->rest.failed)
            return err_no_memory(err, r->path);
        if (!take_lines(h, r, seen, err))
            return false;
    }
}

/* *found: whether there is a log. */
static bool read_log(struct history *h, bool *found, struct err *err)
{
    char *path = file_join(h->dir, "metrics.jsonl");
    if (path == NULL)
        return err_no_memory(err, h->dir);
    struct log_reader reader = { .path = path };
    struct stat st;
    /* O_NONBLOCK: a FIFO without a writer must not hang the open. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool ok = true;
    *found = fd >= 0;
    if (fd < 0 && errno != ENOENT)
        ok = err_set(err, ERR_NO_INPUT, "%s: %s", path, strerror(errno));
    else if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)))
        ok = err_set(err, ERR_NO_INPUT, "%s: is %s; expected a regular file", path,
                     S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    else if (fd >= 0)
        ok = read_lines(h, &reader, fd, err);
    if (fd >= 0)
        close(fd);
    text_free(&reader.rest);
    free(path);
    return ok;
}

/* ---- the rest of the folder ---- */

static bool read_run(struct history *h, bool *found, struct err *err)
{
    char *path = file_join(h->dir, "run.json");
    bool ok = path != NULL || err_no_memory(err, h->dir);
    *found = ok && file_exists(path);
    if (*found) {
        h->run = json_load_object(path, RUN_LIMIT, err);
        ok = h->run != NULL &&
             json_get_int(h->run, "n_step", false, 0, INT64_MAX, &h->total_steps, path, err);
    }
    free(path);
    return ok;
}

/* Who holds the lock, as far as the file says: a run writes it after it took the lock. */
static bool read_holder(struct history *h, const char *bytes, size_t n, struct err *err)
{
    json_t *holder = n > 0 ? json_loadb(bytes, n, 0, NULL) : NULL;
    const char *host = json_string_value(json_object_get(holder, "host"));
    free(h->host);
    h->pid = json_integer_value(json_object_get(holder, "pid"));
    h->host = host != NULL ? text_copy(host) : NULL;
    const bool ok = host == NULL || h->host != NULL;
    json_decref(holder);
    return ok || err_no_memory(err, h->dir);
}

/* Where the file system has no locks a file stands for them. */
static bool probe_exclusive(struct history *h, struct err *err)
{
    char *text = NULL;
    bool ok = true;
    if (output_exclusive_held(h->dir, &text)) {
        h->life = HISTORY_ALIVE;
        ok = read_holder(h, text, strlen(text), err);
    }
    free(text);
    return ok;
}

/* A lock that cannot be shared is held. It is given back at once, and by no way can this keep a run
 * from going on; one that starts in this moment tries again. */
static bool probe_lock(struct history *h, bool *found, struct err *err)
{
    char *path = file_join(h->dir, "run.lock");
    if (path == NULL)
        return err_no_memory(err, h->dir);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const int why = errno;
    *found = fd >= 0;
    if (fd < 0) {
        /* None, or not ours to read: nothing is known of a holder. */
        const bool unknown = why == ENOENT || why == EACCES;
        if (!unknown)
            err_set(err, ERR_IO, "%s: %s", path, strerror(why));
        free(path);
        return unknown;
    }
    free(path);
    bool ok = true;
    const bool is_free = flock(fd, LOCK_SH | LOCK_NB) == 0;
    if (!is_free && errno == EWOULDBLOCK) {
        char bytes[4096];
        const ssize_t n = pread(fd, bytes, sizeof bytes, 0);
        h->life = HISTORY_ALIVE;
        ok = read_holder(h, bytes, n > 0 ? (size_t)n : 0, err);
    } else if (!is_free) {
        ok = probe_exclusive(h, err);
    }
    close(fd);
    return ok;
}

bool history_is_held(const char *dir, bool *held, struct err *err)
{
    struct history h = { .dir = text_copy(dir), .life = HISTORY_DEAD };
    bool has_lock = false;
    const bool ok = (h.dir != NULL || err_no_memory(err, dir)) && probe_lock(&h, &has_lock, err);
    *held = ok && h.life == HISTORY_ALIVE;
    history_free(&h);
    return ok;
}

/* How a run that is not alive ended, by the last event that says so. A run that stops early says
 * "finished", too, once its adapter is written. */
static enum history_life life_by_events(const struct history *h)
{
    static const struct {
        const char *event;
        enum history_life life;
    } says[] = {
        { "finished", HISTORY_DONE },
        { "stopped", HISTORY_STOPPED },
        { "started", HISTORY_DEAD },
        { "resumed", HISTORY_DEAD },
    };
    for (int64_t i = h->n_event - 1; i >= 0; i--) {
        for (size_t k = 0; k < sizeof says / sizeof *says; k++) {
            if (strcmp(h->events[i].event, says[k].event) == 0)
                return says[k].life;
        }
    }
    return HISTORY_DEAD;
}

static int64_t best_eval(const struct history *h)
{
    int64_t best = -1;
    for (int64_t i = 0; i < h->n_eval; i++) {
        if (!isnan(h->evals[i].loss) && (best < 0 || h->evals[i].loss < h->evals[best].loss))
            best = i;
    }
    return best;
}

/* The lock first: a run that ends while its log is read counts as running, not as killed. And last
 * again, for one that begins meanwhile. */
static bool read_all(struct history *h, struct err *err)
{
    bool has_lock = false, has_run = false, has_log = false;
    h->life = HISTORY_DEAD;
    if (!probe_lock(h, &has_lock, err) || !read_run(h, &has_run, err) ||
        !read_log(h, &has_log, err))
        return false;
    if (!has_lock && !has_run && !has_log)
        return err_set(
            err, ERR_NO_INPUT,
            "%s: is no run's folder: it has neither metrics.jsonl nor run.json; expected "
            "the output_dir of a run",
            h->dir);
    if (h->n_damaged > 0 && !has_run && h->n_step + h->n_eval + h->n_sample + h->n_event == 0)
        return err_set(err, h->damage.code, "%s", h->damage.text);
    h->best = best_eval(h);
    if (h->life != HISTORY_ALIVE)
        h->life = life_by_events(h);
    return h->life != HISTORY_DEAD || probe_lock(h, &has_lock, err);
}

bool history_read(struct history *h, const char *dir, struct err *err)
{
    *h = (struct history){ .best = -1 };
    if (!file_is_directory(dir))
        return err_set(err, ERR_NO_INPUT, "%s: %s; expected a folder, the output_dir of a run", dir,
                       file_exists(dir) ? "is a file" : "is not there");
    h->dir = text_copy(dir);
    h->lines = json_array();
    const bool ok = h->dir != NULL && h->lines != NULL ? read_all(h, err) : err_no_memory(err, dir);
    if (!ok)
        history_free(h);
    return ok;
}
