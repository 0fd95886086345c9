/* What a run leaves for the one that goes on, and for people who look at it. The first byte says
 * which file it is:
 *
 *     m    manifest.json of a checkpoint whose other files are sound; behind a zero byte another
 *          training_state.safetensors
 *     s    the JSON of a training_state.safetensors
 *     t    a training_state.safetensors
 *     l    run.json, and behind a zero byte metrics.jsonl
 *     h    run.lock, which is held, and behind a zero byte metrics.jsonl
 *
 * What is resumed from are counters in their ranges and finite values, and is written again as it
 * was read. A log that is read is in order, and its page is well-formed.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "finetune/report/report.h"
#include "finetune/train/checkpoint.h"
#include "finetune/train/identity.h"
#include "finetune/train/state.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/manifest.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/report/page_scan.h"

#define SOUND "tests/fixtures/checkpoint" /* of a run of two steps */

static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "recipe.yaml",
                                     STATE_NAME };
enum { N_NAME = sizeof names / sizeof *names, N_PARAM = 48, COUNT_LIMIT_LOG2 = 53 };

/* ---- manifest.json ---- */

struct bytes {
    char *data;
    size_t n;
};

/* The sound files' bytes, read once. */
static const struct bytes *sound_files(void)
{
    static struct bytes files[N_NAME];
    for (int i = 0; i < N_NAME && files[i].data == NULL; i++) {
        char *path = file_join(SOUND, names[i]);
        FUZZ_CHECK(path != NULL && file_read(path, 1 << 16, &files[i].data, &files[i].n, NULL));
        free(path);
    }
    return files;
}

static void check_names(const char *path)
{
    json_t *root = json_load_object(path, 1 << 16, NULL), *entry = NULL;
    const char *name = NULL;
    FUZZ_CHECK(root != NULL);
    json_object_foreach(json_object_get(root, "files"), name, entry)
    {
        FUZZ_CHECK(*name != '\0' && strchr(name, '/') == NULL && strcmp(name, "..") != 0);
        FUZZ_CHECK(json_is_integer(json_object_get(entry, "bytes")));
    }
    json_decref(root);
}

static bool read_manifest(const struct fuzz_pair *in, struct err *err)
{
    const char *folder = fuzz_folder("checkpoint");
    const struct bytes *files = sound_files();
    char path[FUZZ_PATH_SIZE];
    fuzz_write("beside", "x", "x", 1, path); /* to be named by no one */
    for (int i = 0; i < N_NAME; i++)
        fuzz_write("checkpoint", names[i], files[i].data, files[i].n, path);
    if (in->second != NULL)
        fuzz_write("checkpoint", STATE_NAME, in->second, in->n_second, path);
    fuzz_write("checkpoint", MANIFEST_NAME, in->first, in->n_first, path);
    struct err why = { 0 };
    const bool ok = checkpoint_verify(folder, err), checked = manifest_check(folder, &why);
    FUZZ_CHECK(checked || !ok); /* what names all four is whole by what it names */
    FUZZ_CHECK(checked || why.code == ERR_DATA || why.code == ERR_NO_INPUT);
    FUZZ_CHECK(checked || why.text[0] != '\0');
    if (checked)
        check_names(path);
    if (ok)
        FUZZ_CHECK(manifest_write(folder, names, N_NAME, NULL) && checkpoint_verify(folder, NULL));
    return ok;
}

/* ---- training_state.safetensors ---- */

/* The identity of the run that goes on: that of the sound checkpoint. */
static json_t *identity_now(void)
{
    static json_t *state;
    if (state == NULL)
        state = state_read_json(SOUND, NULL);
    json_t *identity = json_object_get(state, "identity");
    FUZZ_CHECK(json_is_object(identity));
    return identity;
}

static void check_counters(const struct train_counters *c, const struct plan_shape *shape)
{
    const int64_t counts[] = { c->step,           c->n_applied, c->n_nonfinite, c->tokens,
                               c->trained_tokens, c->n_eval,    c->best_step,   c->n_worse,
                               c->n_sampled,      c->log_bytes };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        FUZZ_CHECK(counts[i] >= 0 && counts[i] <= (int64_t)1 << COUNT_LIMIT_LOG2);
    FUZZ_CHECK(c->n_applied <= c->step && c->n_nonfinite <= c->step);
    FUZZ_CHECK(c->evaluated >= -1 && c->evaluated <= c->step && c->best_step <= c->step);
    FUZZ_CHECK(c->n_worse <= c->n_eval && c->trained_tokens <= c->tokens);
    FUZZ_CHECK(isfinite(c->seconds) && c->seconds >= 0 && !isnan(c->best_loss));
    const size_t n = strlen(c->best_digest);
    FUZZ_CHECK(strspn(c->best_digest, "0123456789abcdef") == n);
    FUZZ_CHECK(n == 0 || n == SHA256_HEX_SIZE - 1);
    FUZZ_CHECK(shape->pass_tokens >= 1 && shape->pass_tokens <= INT32_MAX);
    FUZZ_CHECK(shape->chunk_tokens >= 1 && shape->chunk_tokens <= shape->pass_tokens);
}

static bool same_real(double x, double y)
{
    return x == y || (isnan(x) && isnan(y));
}

static void check_same(const struct train_counters *a, const struct train_counters *b)
{
    FUZZ_CHECK(a->step == b->step && a->n_applied == b->n_applied);
    FUZZ_CHECK(a->n_nonfinite == b->n_nonfinite && a->tokens == b->tokens);
    FUZZ_CHECK(a->trained_tokens == b->trained_tokens && a->n_eval == b->n_eval);
    FUZZ_CHECK(a->evaluated == b->evaluated && a->best_step == b->best_step);
    FUZZ_CHECK(a->n_worse == b->n_worse && a->log_bytes == b->log_bytes);
    FUZZ_CHECK(a->stopped_early == b->stopped_early && a->n_sampled == b->n_sampled);
    FUZZ_CHECK(same_real(a->seconds, b->seconds) && same_real(a->best_loss, b->best_loss));
    FUZZ_CHECK(same_real(a->first_loss, b->first_loss) && same_real(a->last_loss, b->last_loss));
    FUZZ_CHECK(strcmp(a->best_digest, b->best_digest) == 0);
}

/* Written as a checkpoint has it, and read again. */
static void check_again(const struct train_counters *c, const struct plan_shape *shape,
                        json_t *identity)
{
    struct train_counters again;
    struct plan_shape shape_again = { 0 };
    json_t *state = state_to_json(c, shape, identity), *identity_again = NULL;
    char *text = json_dumps(state, JSON_COMPACT);
    FUZZ_CHECK(text != NULL);
    json_decref(state);
    state = json_parse(text, strlen(text), "again", NULL);
    FUZZ_CHECK(state_from_json(state, "again", &again, &shape_again, &identity_again, NULL));
    check_same(c, &again);
    FUZZ_CHECK(shape->pass_tokens == shape_again.pass_tokens);
    FUZZ_CHECK(shape->chunk_tokens == shape_again.chunk_tokens);
    FUZZ_CHECK(json_equal(identity, identity_again));
    json_decref(state);
    free(text);
}

static bool read_members(json_t *state, struct err *err)
{
    struct train_counters counters;
    struct plan_shape shape = { 0 };
    struct text changes = { 0 };
    json_t *identity = NULL;
    if (!state_from_json(state, "fuzz", &counters, &shape, &identity, err))
        return false;
    check_counters(&counters, &shape);
    check_again(&counters, &shape, identity);
    const bool ok =
        identity_compare(identity, identity_now(), "learning_rate, program", "fuzz", &changes, err);
    FUZZ_CHECK(!changes.failed);
    text_free(&changes);
    return ok;
}

static bool read_json(const struct fuzz_pair *in, struct err *err)
{
    json_t *state = json_parse((const char *)in->first, in->n_first, "fuzz", err);
    const bool ok = state != NULL && read_members(state, err);
    json_decref(state);
    return ok && (in->second == NULL || err_set(err, ERR_DATA, "fuzz: a zero byte"));
}

static void check_written_again(const struct state_blocks *blocks, json_t *state)
{
    real again[3 * N_PARAM] = { 0 };
    const struct state_blocks read = { again, again + N_PARAM, again + 2 * N_PARAM, N_PARAM };
    const char *folder = fuzz_folder("state-again");
    FUZZ_CHECK(state_write(folder, blocks, state, NULL));
    json_t *same = state_read_json(folder, NULL);
    FUZZ_CHECK(json_equal(state, same) && state_read_blocks(folder, &read, NULL));
    FUZZ_CHECK(memcmp(blocks->params, again, sizeof again) == 0);
    json_decref(same);
}

static bool read_state(const uint8_t *bytes, size_t n, struct err *err)
{
    real values[3 * N_PARAM] = { 0 };
    const struct state_blocks blocks = { values, values + N_PARAM, values + 2 * N_PARAM, N_PARAM };
    const char *folder = fuzz_folder("state");
    char path[FUZZ_PATH_SIZE];
    fuzz_write("state", STATE_NAME, bytes, n, path);
    json_t *state = state_read_json(folder, err);
    const bool ok =
        state != NULL && read_members(state, err) && state_read_blocks(folder, &blocks, err);
    for (int i = 0; ok && i < 3 * N_PARAM; i++)
        FUZZ_CHECK(isfinite(values[i]));
    if (ok)
        check_written_again(&blocks, state);
    json_decref(state);
    return ok;
}

/* ---- run.json, metrics.jsonl ---- */

static void check_history(const struct history *h)
{
    for (int64_t i = 0; i < h->n_step; i++)
        FUZZ_CHECK(h->steps[i].step >= (i > 0 ? h->steps[i - 1].step + 1 : 0));
    for (int64_t i = 0; i < h->n_eval; i++) {
        FUZZ_CHECK(h->evals[i].step >= (i > 0 ? h->evals[i - 1].step + 1 : 0));
        FUZZ_CHECK(h->best < 0 || !(h->evals[i].loss < h->evals[h->best].loss));
    }
    for (int64_t i = 0; i < h->n_sample; i++) {
        const struct history_sample *s = &h->samples[i];
        FUZZ_CHECK(s->step >= (i > 0 ? h->samples[i - 1].step : 0));
        fuzz_touch(s->prompt, strlen(s->prompt) + 1);
        fuzz_touch(s->text, strlen(s->text) + 1);
        fuzz_touch(s->end, strlen(s->end) + 1);
    }
    for (int64_t i = 0; i < h->n_event; i++) {
        const struct history_event *e = &h->events[i];
        FUZZ_CHECK(e->step >= 0);
        fuzz_touch(e->event, strlen(e->event) + 1);
        fuzz_touch(e->text, strlen(e->text) + 1);
        fuzz_touch(e->time, strlen(e->time) + 1);
    }
    FUZZ_CHECK(h->best >= -1 && h->best < h->n_eval && h->total_steps >= 0);
    FUZZ_CHECK(h->n_damaged >= 0 && (h->n_damaged > 0) == (h->damage.text[0] != '\0'));
    FUZZ_CHECK(history_life_name(h->life) != NULL);
}

/* Of one run, and of several, which this one stands for. */
static void check_page(const struct report *report)
{
    struct text page = { 0 };
    struct page_scan scan;
    struct err err = { 0 };
    FUZZ_CHECK(report_page(report, &page, &err) && scan_page(&scan, page.data));
    json_t *facts = report_facts(report);
    char *text = json_dumps(facts, JSON_COMPACT);
    FUZZ_CHECK(text != NULL);
    free(text);
    json_decref(facts);
    text_free(&page);
}

static bool read_run(const char *folder, bool alive, struct err *err)
{
    const char *const folders[2] = { folder, folder };
    struct report report = { 0 };
    if (!report_open(&report, folders, 1, err))
        return false;
    check_history(&report.runs[0].history);
    FUZZ_CHECK((report.runs[0].history.life == HISTORY_ALIVE) == alive);
    check_page(&report);
    report_close(&report);
    FUZZ_CHECK(report_open(&report, folders, 2, NULL));
    check_page(&report);
    report_close(&report);
    return true;
}

/* A run.json of no bytes is one that is not there. */
static bool read_log(const struct fuzz_pair *in, struct err *err)
{
    const char *folder = fuzz_folder("run");
    char run[FUZZ_PATH_SIZE], log[FUZZ_PATH_SIZE];
    fuzz_write("run", "run.json", in->first, in->n_first, run);
    fuzz_write("run", "metrics.jsonl", in->second, in->n_second, log);
    if (in->n_first == 0)
        FUZZ_CHECK(unlink(run) == 0);
    if (in->second == NULL)
        FUZZ_CHECK(unlink(log) == 0);
    return read_run(folder, false, err);
}

static bool read_held(const struct fuzz_pair *in, struct err *err)
{
    const char *folder = fuzz_folder("held");
    char lock[FUZZ_PATH_SIZE], log[FUZZ_PATH_SIZE];
    fuzz_write("held", "run.lock", in->first, in->n_first, lock);
    fuzz_write("held", "metrics.jsonl", in->second, in->n_second, log);
    const int fd = open(lock, O_RDONLY | O_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && flock(fd, LOCK_EX) == 0);
    const bool ok = read_run(folder, true, err);
    close(fd);
    return ok;
}

bool fuzz_checkpoint(const uint8_t *bytes, size_t n, struct err *err)
{
    (void)sound_files();
    (void)identity_now();
    if (n == 0)
        return err_set(err, ERR_DATA, "fuzz: is empty");
    const struct fuzz_pair in = fuzz_split(bytes + 1, n - 1);
    switch (bytes[0]) {
    case 'm':
        return read_manifest(&in, err);
    case 's':
        return read_json(&in, err);
    case 't':
        return read_state(bytes + 1, n - 1, err);
    case 'l':
        return read_log(&in, err);
    case 'h':
        return read_held(&in, err);
    default:
        return err_set(err, ERR_DATA, "fuzz: begins with none of its letters");
    }
}
