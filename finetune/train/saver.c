#include "finetune/train/saver.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/ops.h"

/* ---- the copy ---- */

size_t saver_bytes(int64_t n_param)
{
    return 3 * (size_t)n_param * sizeof(real);
}

/* Slots like the adapter's whose matrices lie in the copy. */
static bool make_copy(struct saver *s, const struct lora_adapter *adapter)
{
    const size_t n = (size_t)adapter->n_param;
    s->copy = *adapter;
    s->copy.slots = malloc(((size_t)adapter->n_slot + 1) * sizeof *s->copy.slots);
    s->blocks.params = malloc(saver_bytes(adapter->n_param) + 1);
    if (s->copy.slots == NULL || s->blocks.params == NULL)
        return false;
    /* Touched now: the pages of fresh memory would cost more than the copying. */
    memset(s->blocks.params, 0, saver_bytes(adapter->n_param));
    s->blocks.m = s->blocks.params + n;
    s->blocks.v = s->blocks.m + n;
    s->blocks.n_param = adapter->n_param;
    s->copy.params = s->blocks.params;
    for (int64_t i = 0; i < adapter->n_slot; i++) {
        struct lora_slot *slot = &s->copy.slots[i];
        *slot = adapter->slots[i];
        slot->a = s->copy.params + (slot->a - adapter->params);
        slot->b = s->copy.params + (slot->b - adapter->params);
    }
    return true;
}

static void copy_host(struct saver *s)
{
    const struct lora_adapter *a = s->adapter;
    const size_t bytes = (size_t)a->n_param * sizeof(real);
    memcpy(s->blocks.params, a->master, bytes);
    memcpy(s->blocks.m, a->m, bytes);
    memcpy(s->blocks.v, a->v, bytes);
}

/* False: then nothing of what was copied can be trusted. */
static bool copy_device(struct saver *s, struct backend *be, struct err *err)
{
    const struct lora_adapter *a = s->adapter;
    const size_t bytes = (size_t)a->n_param * sizeof(real);
    op_to_host(be,
               &(struct copy_args){ .from = a->master, .to = s->blocks.params, .bytes = bytes });
    op_to_host(be, &(struct copy_args){ .from = a->m, .to = s->blocks.m, .bytes = bytes });
    op_to_host(be, &(struct copy_args){ .from = a->v, .to = s->blocks.v, .bytes = bytes });
    return be->err.code == ERR_NONE || err_set(err, be->err.code, "%s", be->err.text);
}

/* ---- the thread ---- */

static void set_phase(struct saver *s, enum saver_phase phase)
{
    pthread_mutex_lock(&s->mutex);
    s->phase = phase;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

/* Until it is neither; returns what it is then. */
static enum saver_phase await_phase(struct saver *s, enum saver_phase a, enum saver_phase b)
{
    pthread_mutex_lock(&s->mutex);
    while (s->phase == a || s->phase == b)
        pthread_cond_wait(&s->changed, &s->mutex);
    const enum saver_phase phase = s->phase;
    pthread_mutex_unlock(&s->mutex);
    return phase;
}

static void drop_job(struct saver *s)
{
    json_decref(s->job.state);
    free(s->job.recipe);
    s->job = (struct saver_job){ 0 };
}

/* An update of a finite gradient can still overflow. */
static bool check_finite(const struct saver *s, struct err *err)
{
    bool finite = true;
    for (int64_t i = 0; i < PLAN_COPIES * s->blocks.n_param; i++) /* params, m and v */
        finite &= isfinite(s->blocks.params[i]) != 0;
    return finite ||
           err_set(err, ERR_NUMERICS,
                   "the adapter or its moments hold values that are not finite after step %" PRId64
                   " and is not written; lower learning_rate",
                   s->job.step);
}

/* That an old one stays is no failure of the new one. */
static void prune(struct saver *s)
{
    struct err why = { 0 };
    if (checkpoint_prune(s->output_dir, s->keep, s->job.step, &why))
        return;
    pthread_mutex_lock(&s->mutex);
    s->warning = why;
    pthread_mutex_unlock(&s->mutex);
}

static bool sync_log(const struct saver *s, struct err *err)
{
    return s->job.log < 0 || fdatasync(s->job.log) == 0 ||
           err_set(err, ERR_IO, "the run's log cannot be written: %s", strerror(errno));
}

/* The new one is read again and held against its manifest before an older one goes. */
static void write_job(struct saver *s)
{
    const struct checkpoint c = { .step = s->job.step,
                                  .adapter = &s->copy,
                                  .lora = s->job.lora,
                                  .facts = s->job.facts,
                                  .recipe = s->job.recipe,
                                  .blocks = s->blocks,
                                  .state = s->job.state };
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    char *path = checkpoint_path(s->output_dir, c.step);
    const bool ok = (path != NULL || err_no_memory(&s->err, s->output_dir)) &&
                    check_finite(s, &s->err) && sync_log(s, &s->err) &&
                    checkpoint_write(s->output_dir, &c, &s->err) &&
                    checkpoint_verify(path, &s->err);
    if (ok)
        prune(s);
    free(path);
    clock_gettime(CLOCK_MONOTONIC, &to);
    s->seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    if (ok)
        s->saved = c.step;
    drop_job(s);
}

static void *run_saver(void *saver)
{
    struct saver *s = saver;
    for (;;) {
        const enum saver_phase phase = await_phase(s, SAVER_IDLE, SAVER_IDLE);
        if (phase == SAVER_ENDING)
            return NULL;
        if (phase == SAVER_COPYING) {
            copy_host(s);
            set_phase(s, SAVER_WRITING);
        }
        write_job(s);
        set_phase(s, SAVER_IDLE);
    }
}

bool saver_open(struct saver *s, const char *output_dir, int64_t keep,
                const struct lora_adapter *adapter, struct err *err)
{
    *s = (struct saver){ .output_dir = output_dir, .keep = keep, .adapter = adapter, .saved = -1 };
    bool ok = make_copy(s, adapter) || err_no_memory(err, "the copy that checkpoints are made of");
    if (ok) {
        pthread_mutex_init(&s->mutex, NULL);
        pthread_cond_init(&s->changed, NULL);
        s->is_open = pthread_create(&s->thread, NULL, run_saver, s) == 0;
        ok = s->is_open ||
             err_set(err, ERR_NO_MEMORY, "no thread could be started to write checkpoints");
    }
    if (!ok)
        saver_close(s);
    return ok;
}

bool saver_start(struct saver *s, struct backend *be, struct saver_job *job, struct err *err)
{
    if (!saver_finish(s, err)) {
        json_decref(job->state);
        free(job->recipe);
        *job = (struct saver_job){ 0 };
        return false;
    }
    s->job = *job;
    *job = (struct saver_job){ 0 };
    if (be->device != NULL && !copy_device(s, be, err)) {
        drop_job(s);
        return false;
    }
    set_phase(s, be->device != NULL ? SAVER_WRITING : SAVER_COPYING);
    return true;
}

void saver_await_copy(struct saver *s)
{
    if (s->is_open)
        await_phase(s, SAVER_COPYING, SAVER_COPYING);
}

bool saver_keep(struct saver *s, struct backend *be, struct err *err)
{
    if (be->device != NULL)
        return copy_device(s, be, err);
    copy_host(s);
    return true;
}

bool saver_take_warning(struct saver *s, struct err *out)
{
    pthread_mutex_lock(&s->mutex);
    *out = s->warning;
    s->warning = (struct err){ 0 };
    pthread_mutex_unlock(&s->mutex);
    return out->code != ERR_NONE;
}

bool saver_finish(struct saver *s, struct err *err)
{
    if (!s->is_open)
        return true;
    await_phase(s, SAVER_COPYING, SAVER_WRITING);
    const struct err was = s->err;
    s->err = (struct err){ 0 };
    return was.code == ERR_NONE || err_set(err, was.code, "%s", was.text);
}

void saver_close(struct saver *s)
{
    if (s->is_open) {
        await_phase(s, SAVER_COPYING, SAVER_WRITING);
        set_phase(s, SAVER_ENDING);
        pthread_join(s->thread, NULL);
        pthread_mutex_destroy(&s->mutex);
        pthread_cond_destroy(&s->changed);
    }
    free(s->copy.slots);
    free(s->blocks.params);
    *s = (struct saver){ 0 };
}
