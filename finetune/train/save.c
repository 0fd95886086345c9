#include "finetune/train/save.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/core/file.h"
#include "kernels/core/sha256.h"
#include "kernels/ops.h"
#include "lora/format_peft.h"

double trainer_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

bool trainer_check_device(const struct trainer *t, struct err *err)
{
    const struct err *e = &t->engine.be.err;
    return e->code == ERR_NONE || err_set(err, e->code, "%s", e->text);
}

/* ---- the adapter ---- */

/* An update of a finite gradient can still overflow (a rate without measure): such an adapter is no
 * adapter. */
static bool check_finite(struct trainer *t, struct err *err)
{
    double sum = 0;
    op_sum_squares(&t->engine.be, &(struct sum_squares_args){ .x = t->engine.adapter.master,
                                                              .sum = &sum,
                                                              .n = t->engine.adapter.n_param });
    if (!trainer_check_device(t, err)) /* then the sum says nothing */
        return false;
    return isfinite(sum) ||
           err_set(err, ERR_NUMERICS,
                   "the adapter holds values that are not finite after step %" PRId64
                   " and is not written; lower learning_rate",
                   t->state.step);
}

static char *dump_recipe(const struct trainer *t, struct err *err)
{
    struct text dump = { 0 };
    recipe_dump(t->recipe, &dump);
    if (!dump.failed)
        return dump.data;
    text_free(&dump);
    err_no_memory(err, "the recipe");
    return NULL;
}

static bool save_into(struct trainer *t, const char *dir, struct err *err)
{
    if (!output_check(&t->output, t->recipe->output_dir, err) || !check_finite(t, err))
        return false;
    lora_adapter_pull(&t->engine.adapter, &t->engine.be);
    if (!trainer_check_device(t, err))
        return false;
    const struct peft_model_facts facts = trainer_model_facts(t);
    char *path = file_join(dir, "recipe.yaml"), *recipe = dump_recipe(t, err);
    const bool ok = recipe != NULL && (path != NULL || err_no_memory(err, dir)) &&
                    file_make_directory(dir, err) &&
                    peft_write(dir, &t->engine.adapter, t->lora, &facts, err) &&
                    file_write(path, recipe, strlen(recipe), err);
    free(path);
    free(recipe);
    return ok;
}

static char *best_folder(const struct trainer *t, struct err *err)
{
    char *dir = file_join(t->recipe->output_dir, "best");
    if (dir == NULL)
        err_no_memory(err, t->recipe->output_dir);
    return dir;
}

bool trainer_save_adapter(struct trainer *t, struct err *err)
{
    return save_into(t, t->recipe->output_dir, err);
}

/* Of best/'s tensors; "" when they are not there. */
static bool best_digest(const struct trainer *t, char hex[SHA256_HEX_SIZE], struct err *err)
{
    char *dir = best_folder(t, err);
    char *path = dir == NULL ? NULL : file_join(dir, PEFT_TENSORS_NAME);
    bool ok = path != NULL || err_no_memory(err, "best");
    hex[0] = '\0';
    if (ok && file_exists(path))
        ok = sha256_file(path, hex, NULL, err);
    free(path);
    free(dir);
    return ok;
}

bool trainer_save_best(struct trainer *t, struct err *err)
{
    char *dir = best_folder(t, err);
    const bool ok =
        dir != NULL && save_into(t, dir, err) && best_digest(t, t->state.best_digest, err);
    free(dir);
    return ok;
}

/* A best/ of another future than the one that begins (something was changed by leave), or none:
 * then the best is the best of the evaluations to come. Without a change a newer one is made again.
 */
static bool check_best(struct trainer *t, struct err *err)
{
    char have[SHA256_HEX_SIZE];
    if (!best_digest(t, have, err))
        return false;
    if (have[0] == '\0' || (t->changes.len > 0 && strcmp(have, t->state.best_digest) != 0)) {
        t->state.best_loss = (double)INFINITY;
        t->state.best_step = t->state.n_worse = 0;
    }
    return true;
}

bool trainer_load_best(struct trainer *t, struct err *err)
{
    if (t->state.n_eval == 0 || !isfinite(t->state.best_loss))
        return true; /* nothing was better than anything: the last one stays */
    char *dir = best_folder(t, err);
    const bool ok = dir != NULL && peft_read_tensors(dir, &t->engine.adapter, err);
    if (ok)
        lora_adapter_push(&t->engine.adapter, &t->engine.be);
    free(dir);
    return ok;
}

/* ---- checkpoints ---- */

static void note_saving(struct trainer *t)
{
    t->saving = t->state.step;
    t->saving_evaluated = t->state.evaluated;
    t->saving_sampled = t->state.n_sampled;
}

bool trainer_save_checkpoint(struct trainer *t, struct err *err)
{
    if (!output_check(&t->output, t->recipe->output_dir, err))
        return false;
    if (t->saving == t->state.step && t->saving_evaluated == t->state.evaluated &&
        t->saving_sampled == t->state.n_sampled)
        return true;
    t->state.log_bytes = t->metrics.bytes;
    struct saver_job job = { .step = t->state.step,
                             .state = state_to_json(&t->state, &t->shape, t->identity),
                             .recipe = dump_recipe(t, err),
                             .log = t->metrics.fd,
                             .lora = t->lora,
                             .facts = trainer_model_facts(t) };
    if (job.state == NULL || job.recipe == NULL) {
        json_decref(job.state);
        free(job.recipe);
        return err_no_memory(err, "a checkpoint");
    }
    if (!saver_start(&t->saver, &t->engine.be, &job, err))
        return false;
    note_saving(t);
    t->saved_at = trainer_now();
    return true;
}

bool trainer_save_due(const struct trainer *t)
{
    const struct recipe_every *every = &t->recipe->save_steps;
    if (every->seconds > 0)
        return trainer_now() - t->saved_at >= every->seconds;
    if (every->steps <= 0)
        return false;
    const double steps = every->steps < 1 ? ceil(every->steps * (double)t->n_step) : every->steps;
    return fmod((double)t->state.step, steps) == 0;
}

bool trainer_check_space(const struct trainer *t, struct err *err)
{
    const struct lora_adapter *a = &t->engine.adapter;
    const size_t one = checkpoint_bytes(a->n_param, a->n_slot);
    const int64_t keep = t->recipe->save_total_limit;
    const int64_t most = (keep > 0 && keep < 16 ? keep : 1) + 1;
    struct checkpoint_list list;
    if (!checkpoint_list(t->recipe->output_dir, &list, err))
        return false;
    const size_t n = list.n < most ? (size_t)(most - list.n) : 1; /* some may be there already */
    checkpoint_list_free(&list);
    const size_t adapters = 2 * (size_t)a->n_param * sizeof(float);
    return file_check_space(t->recipe->output_dir, n * one + adapters, err);
}

/* Masters, and where the backend has memory of its own, by way of the host. */
bool trainer_put_back(struct trainer *t, struct err *err)
{
    const struct lora_adapter *a = &t->engine.adapter;
    const struct state_blocks *blocks = &t->saver.blocks;
    struct backend *be = &t->engine.be;
    const size_t bytes = (size_t)a->n_param * sizeof(real);
    memcpy(a->params, blocks->params, bytes);
    lora_adapter_push_values(&t->engine.adapter, be);
    if (be->device == NULL) {
        memcpy(a->m, blocks->m, bytes);
        memcpy(a->v, blocks->v, bytes);
    } else {
        op_to_device(be, &(struct copy_args){ .from = blocks->m, .to = a->m, .bytes = bytes });
        op_to_device(be, &(struct copy_args){ .from = blocks->v, .to = a->v, .bytes = bytes });
    }
    return trainer_check_device(t, err);
}

/* The saver's memory is free until the first checkpoint. */
static bool restore_blocks(struct trainer *t, struct err *err)
{
    return state_read_blocks(t->resumed, &t->saver.blocks, err) && trainer_put_back(t, err);
}

bool trainer_restore(struct trainer *t, struct err *err)
{
    const char *dir = t->recipe->output_dir;
    if (!restore_blocks(t, err) || !checkpoint_set_aside(dir, t->state.step, err) ||
        !checkpoint_prune(dir, 0, t->state.step, err) || !check_best(t, err))
        return false;
    note_saving(t);
    return true;
}

/* A folder with checkpoints of an earlier run is not begun in anew by mistake. */
bool trainer_check_empty(const struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    struct checkpoint_list list;
    if (r->overwrite_output_dir)
        return true;
    if (!checkpoint_list(r->output_dir, &list, err))
        return false;
    const int64_t n = list.n, newest = n > 0 ? list.steps[0] : 0;
    checkpoint_list_free(&list);
    return n == 0 ||
           err_set(err, ERR_CANT_CREATE,
                   "%s: has checkpoints of an earlier run, the newest of step %" PRId64
                   "; --resume goes on with it, --overwrite removes them and begins anew, or set "
                   "another output_dir",
                   r->output_dir, newest);
}

/* Without checkpoints (save_steps: 0) nothing says that the adapter is this recipe's. */
bool trainer_check_unfinished(const struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    if (r->resume_from_checkpoint == NULL || r->overwrite_output_dir)
        return true;
    char *path = file_join(r->output_dir, PEFT_TENSORS_NAME);
    if (path == NULL)
        return err_no_memory(err, r->output_dir);
    const bool unfinished =
        !file_exists(path) ||
        err_set(err, ERR_CANT_CREATE,
                "%s: has the adapter of a finished run and no checkpoint to go on from; "
                "--overwrite begins anew, or set another output_dir",
                r->output_dir);
    free(path);
    return unfinished;
}

bool trainer_clear_output(const struct trainer *t, struct err *err)
{
    static const char *const names[] = { PEFT_CONFIG_NAME,         PEFT_TENSORS_NAME,
                                         "best/" PEFT_CONFIG_NAME, "best/" PEFT_TENSORS_NAME,
                                         "best/recipe.yaml",       "best" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = file_join(t->recipe->output_dir, names[i]);
        if (path != NULL)
            (void)remove(path); /* a folder with other files in it stays */
        free(path);
    }
    return checkpoint_remove_all(t->recipe->output_dir, err);
}
