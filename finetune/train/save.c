#include "finetune/train/save.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* Of the tensors in a folder; "" when there are none. */
static bool tensors_digest(const char *dir, char hex[SHA256_HEX_SIZE], struct err *err)
{
    char *path = file_join(dir, PEFT_TENSORS_NAME);
    bool ok = path != NULL || err_no_memory(err, dir);
    hex[0] = '\0';
    if (ok && file_exists(path))
        ok = sha256_file(path, hex, NULL, err);
    free(path);
    return ok;
}

bool trainer_save_best(struct trainer *t, struct err *err)
{
    char *dir = best_folder(t, err);
    const bool ok =
        dir != NULL && save_into(t, dir, err) && tensors_digest(dir, t->state.best_digest, err);
    free(dir);
    return ok;
}

/* ---- the best one of a run that goes on ---- */

static void forget_best(struct trainer *t, const char *why)
{
    text_printf(&t->notes,
                "the best adapter so far (loss %.4f, step %" PRId64
                ") is not gone on with: %s; the best of the evaluations to come is chosen\n",
                t->state.best_loss, t->state.best_step, why);
    t->state.best_loss = (double)INFINITY;
    t->state.best_step = t->state.n_worse = 0;
    t->state.best_digest[0] = '\0';
}

/* Whether its tensors are what was written, by the digest in their file. */
static bool is_sound(const char *dir, struct err *why)
{
    struct safetensors st = { 0 };
    char *path = file_join(dir, PEFT_TENSORS_NAME);
    const bool sound = path != NULL && safetensors_open(path, &st, why) &&
                       safetensors_check_digest(&st, path, why);
    safetensors_close(&st);
    free(path);
    return sound;
}

static bool has_changed(const struct trainer *t, const char *part)
{
    char line[64];
    snprintf(line, sizeof line, "%s: ", part);
    return t->changes.len > 0 && strstr(t->changes.data, line) != NULL;
}

/* A best/ that is not the checkpoint's is that of a later evaluation, which will be made again;
 * with something changed by leave it is of another future. */
static bool judge_best(struct trainer *t, const char *dir, bool own, struct err *err)
{
    struct err why = { 0 };
    char have[SHA256_HEX_SIZE];
    if (!tensors_digest(dir, have, err))
        return false;
    if (has_changed(t, "validation"))
        forget_best(t, "the validation documents have changed");
    else if (have[0] == '\0')
        forget_best(t, "its folder, best, is gone");
    else if (strcmp(have, t->state.best_digest) == 0)
        t->best_from = own ? NULL : text_copy(dir);
    else if (!own || t->changes.len > 0)
        forget_best(t, "best is another adapter by now");
    else if (!is_sound(dir, &why))
        forget_best(t, why.text);
    return (own || t->best_from != NULL || !isfinite(t->state.best_loss)) ||
           err_no_memory(err, dir);
}

bool trainer_find_best(struct trainer *t, bool own, struct err *err)
{
    if (t->state.n_eval == 0 || !isfinite(t->state.best_loss))
        return true;
    char *folder = own ? text_copy(t->recipe->output_dir) : file_folder(t->resumed);
    char *dir = folder == NULL ? NULL : file_join(folder, "best");
    bool ok = dir != NULL ? judge_best(t, dir, own, err) : err_no_memory(err, t->resumed);
    if (ok && t->recipe->load_best && !isfinite(t->state.best_loss) && t->state.step == t->n_step)
        ok = err_set(
            err, ERR_DATA,
            "%s: the best adapter of this run is not there any more, and no evaluation is to "
            "come; put it back, or set load_best to false for the last one",
            dir);
    free(folder);
    free(dir);
    return ok;
}

static bool copy_file(const char *from, const char *to, const char *name, struct err *err)
{
    struct file_map map = { 0 };
    char *source = file_join(from, name), *target = file_join(to, name);
    bool ok = (source != NULL && target != NULL) || err_no_memory(err, from);
    ok = ok && file_map_open(source, &map, err) && file_write(target, map.data, map.size, err);
    file_map_close(&map);
    free(source);
    free(target);
    return ok;
}

/* Of a checkpoint in another folder: its best one is this run's now. */
static bool bring_best(struct trainer *t, struct err *err)
{
    static const char *const files[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "recipe.yaml" };
    if (t->best_from == NULL)
        return true;
    char *dir = best_folder(t, err);
    bool ok = dir != NULL && file_make_directory(dir, err);
    for (size_t i = 0; ok && i < sizeof files / sizeof *files; i++)
        ok = copy_file(t->best_from, dir, files[i], err);
    free(dir);
    return ok;
}

bool trainer_load_best(struct trainer *t, struct err *err)
{
    if (t->state.n_eval == 0 || !isfinite(t->state.best_loss))
        return true; /* nothing was better than anything: the last one stays */
    char *dir = best_folder(t, err), have[SHA256_HEX_SIZE];
    bool ok = dir != NULL && tensors_digest(dir, have, err);
    if (ok && strcmp(have, t->state.best_digest) != 0)
        ok = err_set(err, ERR_DATA,
                     "%s: is not the adapter that was the best, of step %" PRId64
                     "; remove it, and --resume ends with the best of the evaluations to come",
                     dir, t->state.best_step);
    ok = ok && peft_read_tensors(dir, &t->engine.adapter, err);
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
        !checkpoint_prune(dir, 0, t->state.step, err) || !bring_best(t, err))
        return false;
    if (t->resumed_here) /* else there is none here yet */
        note_saving(t);
    return true;
}

/* Whether output_dir has an adapter under this name: then one is written over. */
static bool check_adapter(const struct trainer *t, const char *name, const char *what,
                          struct err *err)
{
    const struct recipe *r = t->recipe;
    char *path = file_join(r->output_dir, name);
    if (path == NULL)
        return err_no_memory(err, r->output_dir);
    const bool none = !file_exists(path) ||
                      err_set(err, ERR_CANT_CREATE,
                              "%s: has %s; --overwrite removes it and begins anew, or set another "
                              "output_dir",
                              r->output_dir, what);
    free(path);
    return none;
}

/* A folder of an earlier run is not begun in anew by mistake. */
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
    if (n > 0)
        return err_set(err, ERR_CANT_CREATE,
                       "%s: has checkpoints of an earlier run, the newest of step %" PRId64
                       "; --resume goes on with it, --overwrite removes them and begins anew, or "
                       "set another output_dir",
                       r->output_dir, newest);
    return check_adapter(t, PEFT_TENSORS_NAME, "the adapter of an earlier run", err) &&
           check_adapter(t, "best/" PEFT_TENSORS_NAME,
                         "the best adapter of an earlier run, which --resume goes on with", err);
}

/* Without checkpoints (save_steps: 0) nothing says that the adapter is this recipe's. */
bool trainer_check_unfinished(const struct trainer *t, struct err *err)
{
    return t->recipe->overwrite_output_dir ||
           check_adapter(t, PEFT_TENSORS_NAME,
                         "the adapter of a finished run and no checkpoint to go on from", err);
}

bool trainer_clear_output(const struct trainer *t, struct err *err)
{
    static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME,
                                         "best/" PEFT_CONFIG_NAME, "best/" PEFT_TENSORS_NAME,
                                         "best/recipe.yaml" };
    const char *dir = t->recipe->output_dir;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = file_join(dir, names[i]);
        if (path != NULL)
            (void)unlink(path);
        free(path);
    }
    char *best = file_join(dir, "best");
    if (best != NULL)
        (void)rmdir(best); /* one with other files in it stays */
    free(best);
    return !t->recipe->overwrite_output_dir || checkpoint_remove_all(dir, err);
}
