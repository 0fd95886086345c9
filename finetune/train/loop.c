#include "finetune/train/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "finetune/train/evaluate.h"
#include "finetune/train/optim.h"
#include "finetune/train/options.h"
#include "kernels/core/file.h"
#include "kernels/ops.h"
#include "lora/agree.h"
#include "lora/format_peft.h"

/* ---- opening ---- */

static bool add_place(const struct recipe *r, struct err *err)
{
    recipe_add_place(r, err);
    return false;
}

static bool check_supported(const struct jamba_config *config, struct err *err)
{
    return config->attention_dropout <= 0 ||
           err_set(err, ERR_DATA,
                   "config.json: \"attention_dropout\" is %g; training with attention dropout is "
                   "not there, set it to 0 to train without",
                   config->attention_dropout);
}

/* Which LoRA keys the recipe sets itself. */
static unsigned given_keys(const struct recipe *r)
{
    static const struct {
        const char *key;
        unsigned bit;
    } keys[] = {
        { "lora_r", LORA_GIVEN_R },
        { "lora_alpha", LORA_GIVEN_ALPHA },
        { LORA_KEY_RSLORA, LORA_GIVEN_RSLORA },
        { LORA_KEY_TARGETS, LORA_GIVEN_TARGETS },
        { "lora_target_linear", LORA_GIVEN_TARGETS },
        { LORA_KEY_EXCLUDE, LORA_GIVEN_EXCLUDE },
        { LORA_KEY_LAYERS, LORA_GIVEN_LAYERS },
        { LORA_KEY_RANK_PATTERN, LORA_GIVEN_RANK_PATTERN },
        { LORA_KEY_ALPHA_PATTERN, LORA_GIVEN_ALPHA_PATTERN },
    };
    unsigned given = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        given |= recipe_origin(r, keys[i].key) != NULL ? keys[i].bit : 0;
    return given;
}

static bool choose_modules(struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    struct engine *e = &t->engine;
    t->lora = &r->lora;
    if (r->lora_model_dir == NULL)
        return engine_choose(e, &r->lora, err) || add_place(r, err);
    if (!engine_choose_from(e, r->lora_model_dir, err))
        return false;
    t->lora = &e->lora;
    e->lora.dropout = r->lora.dropout; /* no part of an adapter: the recipe's */
    const bool agrees = lora_agrees(&(struct lora_agreement){ .adapter = &e->lora,
                                                              .recipe = &r->lora,
                                                              .given = given_keys(r),
                                                              .modules = e->modules,
                                                              .n_module = e->n_module,
                                                              .have = e->choices },
                                    err);
    return agrees || add_place(r, err);
}

static bool make_plan(struct trainer *t, struct batch_bounds bounds, struct err *err)
{
    const struct recipe *r = t->recipe;
    static const int policies[] = { [CHECKPOINTING_AUTO] = -1,
                                    [CHECKPOINTING_NONE] = RECOMPUTE_NONE,
                                    [CHECKPOINTING_SCAN] = RECOMPUTE_SCAN,
                                    [CHECKPOINTING_LAYER] = RECOMPUTE_LAYER };
    struct plan_subject subject = engine_subject(&t->engine, true);
    subject.dropout = t->lora->dropout > 0;
    subject.balance = r->router_aux_loss_coef > 0;
    const struct plan_wish wish = {
        .step_tokens = bounds.n_tok,
        .longest = bounds.longest,
        .chunk_tokens = r->chunk_tokens,
        .recompute = policies[r->gradient_checkpointing],
        .budget = plan_budget(&t->engine.be, r->memory_budget),
    };
    return plan_choose(&subject, &wish, &t->shape, &t->bytes, err);
}

/* Validation documents count for the plan's bounds too. */
static struct batch_bounds bounds_of(const struct train_data *d)
{
    struct batch_bounds b = batcher_bounds(&d->batcher);
    for (int64_t i = 0; i < d->n_validation; i++) {
        const int64_t doc = d->validation_docs[i];
        const int64_t n = d->validation->start[doc + 1] - d->validation->start[doc];
        b.longest = n > b.longest ? n : b.longest;
    }
    b.n_tok = b.n_tok > b.longest ? b.n_tok : b.longest;
    return b;
}

bool trainer_open(struct trainer *t, const struct recipe *recipe, struct err *err)
{
    *t = (struct trainer){ .recipe = recipe, .best_loss = (double)INFINITY };
    const struct engine_options options = engine_options_of(recipe);
    if (!engine_open(&t->engine, &options, err))
        return add_place(recipe, err);
    const struct jamba_config *config = weights_config(t->engine.weights);
    if (!check_supported(config, err) || !choose_modules(t, err) ||
        !train_data_load(&t->data, recipe, config, err) ||
        !batcher_total_steps(&t->data.batcher, recipe->num_epochs, recipe->max_steps, &t->n_step,
                             err))
        return false;
    t->schedule = schedule_of(recipe, t->n_step);
    return make_plan(t, bounds_of(&t->data), err);
}

bool trainer_open_shapes(struct trainer *t, const struct recipe *recipe, struct err *err)
{
    *t = (struct trainer){ .recipe = recipe, .best_loss = (double)INFINITY };
    const struct engine_options options = engine_options_of(recipe);
    const int64_t n_doc = recipe->data.micro_batch_size * recipe->data.gradient_accumulation_steps;
    const struct batch_bounds bounds = { .n_tok = n_doc * recipe->data.sequence_len,
                                         .n_doc = n_doc,
                                         .longest = recipe->data.sequence_len };
    return (engine_open_shapes(&t->engine, &options, err) || add_place(recipe, err)) &&
           check_supported(weights_config(t->engine.weights), err) && choose_modules(t, err) &&
           make_plan(t, bounds, err);
}

void trainer_close(struct trainer *t)
{
    struct err ignored;
    metrics_close(&t->metrics, &ignored);
    if (t->recipe != NULL && t->lock >= 0)
        close(t->lock);
    train_data_free(&t->data);
    engine_close(&t->engine);
    *t = (struct trainer){ 0 };
}

static struct peft_model_facts facts_of(const struct trainer *t)
{
    return (struct peft_model_facts){ .base_model = t->recipe->base_model,
                                      .tied =
                                          weights_config(t->engine.weights)->tie_word_embeddings };
}

void trainer_warnings(const struct trainer *t, struct text *out)
{
    const struct peft_model_facts facts = facts_of(t);
    peft_warnings(t->engine.modules, t->engine.n_module, t->engine.choices, t->lora, &facts, out);
}

/* ---- files ---- */

/* A failure of the device makes all that follows worthless: nothing more is written. */
static bool check_device(const struct trainer *t, struct err *err)
{
    const struct err *e = &t->engine.be.err;
    return e->code == ERR_NONE || err_set(err, e->code, "%s", e->text);
}

/* An update of a finite gradient can still overflow (a rate without measure): such an adapter is no
 * adapter. */
static bool check_finite(struct trainer *t, struct err *err)
{
    double sum = 0;
    op_sum_squares(&t->engine.be, &(struct sum_squares_args){ .x = t->engine.adapter.master,
                                                              .sum = &sum,
                                                              .n = t->engine.adapter.n_param });
    if (!check_device(t, err)) /* then the sum says nothing */
        return false;
    return isfinite(sum) ||
           err_set(err, ERR_NUMERICS,
                   "the adapter holds values that are not finite after step %" PRId64
                   " and is not written; lower learning_rate",
                   t->step);
}

/* The adapter and the recipe that made it, into dir. */
static bool save(struct trainer *t, const char *dir, struct err *err)
{
    if (!check_finite(t, err))
        return false;
    lora_adapter_pull(&t->engine.adapter, &t->engine.be);
    if (!check_device(t, err))
        return false;
    const struct peft_model_facts facts = facts_of(t);
    struct text dump = { 0 };
    char *path = file_join(dir, "recipe.yaml");
    recipe_dump(t->recipe, &dump);
    bool ok = (path != NULL && !dump.failed) || err_no_memory(err, dir);
    ok = ok && file_make_directory(dir, err) &&
         peft_write(dir, &t->engine.adapter, t->lora, &facts, err) &&
         file_write(path, dump.data, dump.len, err);
    free(path);
    text_free(&dump);
    return ok;
}

static bool save_best(struct trainer *t, struct err *err)
{
    char *dir = file_join(t->recipe->output_dir, "best");
    const bool ok = dir != NULL ? save(t, dir, err) : err_no_memory(err, t->recipe->output_dir);
    free(dir);
    return ok;
}

/* Removes a best/ that an earlier run left in the folder, when this one had nothing to choose by.
 */
static void remove_stale_best(const struct trainer *t)
{
    static const char *const names[] = { "best/" PEFT_CONFIG_NAME, "best/" PEFT_TENSORS_NAME,
                                         "best/recipe.yaml", "best" };
    for (size_t i = 0; i < sizeof names / sizeof *names && t->n_eval == 0; i++) {
        char *path = file_join(t->recipe->output_dir, names[i]);
        if (path != NULL)
            (void)remove(path); /* a folder with other files in it stays */
        free(path);
    }
}

/* Two runs must not share a folder: a lock on the folder itself, which the kernel frees with the
 * process. */
static bool lock_output(struct trainer *t, struct err *err)
{
    const char *dir = t->recipe->output_dir;
    t->lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->lock < 0)
        return err_set(err, ERR_CANT_CREATE, "%s: cannot be opened: %s", dir, strerror(errno));
    if (flock(t->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return err_set(err, ERR_CANT_CREATE,
                       "%s: is in use by another run; wait for it, or set another output_dir", dir);
    return true; /* a file system without locks is no reason not to train */
}

/* ---- a step ---- */

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static bool raised(const struct train_watch *watch)
{
    return watch->stop != NULL && *watch->stop;
}

static size_t memory_peak(const struct trainer *t)
{
    const struct engine *e = &t->engine;
    return t->bytes.weights + e->adapter_arena.peak + e->saved.peak + e->scratch.peak;
}

/* All passes of a step: gradients added up, sums of the losses. False: stopped on the way. */
static bool run_passes(struct trainer *t, const struct batch_step *b,
                       const struct train_watch *watch, struct jamba_losses *losses)
{
    const struct recipe *r = t->recipe;
    struct engine *e = &t->engine;
    const struct jamba_pass pass = {
        .backward = true,
        .grad_scale = (real)(1 / (double)b->n_target),
        .aux_scale = r->router_aux_loss_coef / (double)b->n_tok,
        .dropout = { .rate = t->lora->dropout, .seed = r->seed, .step = (uint64_t)t->step },
    };
    op_zero(&e->be, &(struct zero_args){ .y = e->adapter.grads,
                                         .bytes = (size_t)e->adapter.n_param * sizeof(real) });
    jamba_begin_step(&e->jamba);
    int64_t index = 0;
    for (int64_t from = 0, to; from < b->n_doc; from = to) {
        if (raised(watch))
            return false;
        to = batch_pass_end(&t->data.set, b->docs, b->n_doc, from, t->shape.pass_tokens);
        stream_fill(&e->stream, &t->data.set, b->docs + from, to - from, index);
        index += e->stream.n_tok;
        jamba_run(&e->jamba, &e->stream, &pass, NULL);
        if (e->be.err.code != ERR_NONE)
            break;
    }
    *losses = jamba_end_step(&e->jamba);
    return true;
}

/* The places of a step's documents, for the log of a step that was not applied. */
static void list_places(const struct trainer *t, const struct batch_step *b, struct text *out)
{
    enum { MOST = 64 };
    for (int64_t i = 0; i < b->n_doc && i < MOST; i++) {
        char place[512];
        document_place(&t->data.set, b->docs[i], place, sizeof place);
        text_printf(out, "%s%s", i > 0 ? ", " : "", place);
    }
    if (b->n_doc > MOST)
        text_printf(out, " and %" PRId64 " more", b->n_doc - MOST);
}

static double epoch_after(const struct batch_step *b)
{
    return (double)b->epoch + (double)(b->index + 1) / (double)b->n_step;
}

/* Applies the update, or with anything non-finite leaves parameters and moments as they are. */
static void apply(struct trainer *t, struct train_step *s)
{
    const double factor = schedule_factor(&t->schedule, t->step);
    s->learning_rate = factor * t->recipe->learning_rate;
    s->grad_norm = optim_grad_norm(&t->engine.be, &t->engine.adapter);
    s->applied = isfinite(s->loss) && isfinite(s->grad_norm);
    if (!s->applied) {
        t->n_nonfinite++;
        return;
    }
    t->n_applied++;
    optim_step(&t->engine.be, &t->engine.adapter, t->recipe, factor,
               optim_clip(t->recipe->max_grad_norm, s->grad_norm), t->n_applied);
}

enum outcome { STEP_DONE, STEP_STOPPED, STEP_FAILED };

static enum outcome take_step(struct trainer *t, const struct batch_step *b,
                              const struct train_watch *watch, struct err *err)
{
    const double start = now();
    struct jamba_losses losses = { 0 };
    if (!run_passes(t, b, watch, &losses))
        return STEP_STOPPED;
    struct train_step s = { .step = t->step + 1,
                            .n_step = t->n_step,
                            .epoch = epoch_after(b),
                            .balanced = t->recipe->router_aux_loss_coef > 0,
                            .tokens = b->n_tok,
                            .trained_tokens = b->n_target,
                            .n_doc = b->n_doc };
    s.aux_loss = t->recipe->router_aux_loss_coef * losses.aux_sum / (double)b->n_tok;
    s.loss = losses.loss_sum / (double)b->n_target + s.aux_loss;
    if (!check_device(t, err))
        return STEP_FAILED;
    apply(t, &s);
    if (!check_device(t, err))
        return STEP_FAILED;
    t->step++;
    s.seconds = now() - start;
    s.tokens_per_second = (double)s.tokens / s.seconds;
    s.memory_bytes = memory_peak(t);
    struct text places = { 0 };
    if (!s.applied)
        list_places(t, b, &places);
    s.places = places.data != NULL ? places.data : "";
    const bool ok = metrics_step(&t->metrics, &s, err);
    if (ok && watch->on_step != NULL)
        watch->on_step(watch->context, &s);
    text_free(&places);
    if (ok && t->n_nonfinite > 0 && t->n_nonfinite >= t->recipe->max_nonfinite_steps) {
        err_set(err, ERR_NUMERICS,
                "stopped after %" PRId64
                " steps with a non-finite loss or gradient (max_nonfinite_steps); "
                "none of them was applied. The steps and their documents are in %s/metrics.jsonl; "
                "lower "
                "learning_rate, or look at those documents",
                t->n_nonfinite, t->recipe->output_dir);
        return STEP_FAILED;
    }
    return ok ? STEP_DONE : STEP_FAILED;
}

/* ---- evaluation ---- */

static enum outcome run_evaluation(struct trainer *t, double epoch, const struct train_watch *watch,
                                   struct err *err)
{
    if (t->data.n_validation == 0)
        return STEP_DONE;
    const double start = now();
    const struct evaluation v = evaluate(&t->engine, &(struct evaluate_args){
                                                         .set = t->data.validation,
                                                         .docs = t->data.validation_docs,
                                                         .n_doc = t->data.n_validation,
                                                         .stop = watch->stop,
                                                     });
    if (!check_device(t, err))
        return STEP_FAILED;
    if (v.stopped)
        return STEP_STOPPED;
    struct train_eval e = { .step = t->step,
                            .epoch = epoch,
                            .loss = v.loss_sum / (double)v.n_target,
                            .tokens = v.n_target,
                            .seconds = now() - start };
    e.best = e.loss < t->best_loss;
    t->last_loss = e.loss;
    if (t->n_eval++ == 0)
        t->first_loss = e.loss;
    if (e.best) {
        t->best_loss = e.loss;
        t->best_step = t->step;
        if (!save_best(t, err))
            return STEP_FAILED;
    }
    if (!metrics_eval(&t->metrics, &e, err))
        return STEP_FAILED;
    if (watch->on_eval != NULL)
        watch->on_eval(watch->context, &e);
    return STEP_DONE;
}

/* Whether an evaluation is due after step t->step, which was step `b` of its epoch. */
static bool eval_due(const struct trainer *t, const struct batch_step *b)
{
    const struct recipe *r = t->recipe;
    if (t->step == t->n_step)
        return true;
    if (r->evals_per_epoch > 0)
        return (b->index + 1) * r->evals_per_epoch / b->n_step >
               b->index * r->evals_per_epoch / b->n_step;
    if (r->eval_steps == 0)
        return false;
    const double every =
        r->eval_steps < 1 ? ceil(r->eval_steps * (double)t->n_step) : r->eval_steps;
    return t->step % (int64_t)every == 0;
}

/* ---- the run ---- */

static enum outcome run_steps(struct trainer *t, const struct train_watch *watch, struct err *err)
{
    enum outcome o = run_evaluation(t, 0, watch, err);
    while (o == STEP_DONE && t->step < t->n_step) {
        const struct batch_step b = batcher_step(&t->data.batcher, t->step);
        o = take_step(t, &b, watch, err);
        if (o == STEP_DONE && eval_due(t, &b))
            o = run_evaluation(t, epoch_after(&b), watch, err);
    }
    return o;
}

static bool allocate(struct trainer *t, struct err *err)
{
    return engine_allocate(&t->engine,
                           &(struct engine_memory){ .shape = t->shape,
                                                    .bytes = t->bytes,
                                                    .training = true,
                                                    .seed = t->recipe->seed,
                                                    .adapter_dir = t->recipe->lora_model_dir },
                           err);
}

bool trainer_run(struct trainer *t, const struct train_watch *watch, struct err *err)
{
    if (!file_make_directory(t->recipe->output_dir, err) || !lock_output(t, err) ||
        !allocate(t, err) || !metrics_open(&t->metrics, t->recipe->output_dir, err))
        return false;
    const enum outcome o = run_steps(t, watch, err);
    if (o == STEP_FAILED && err->code != ERR_NUMERICS)
        return false;
    struct err save_err = { 0 };
    if (!save(t, t->recipe->output_dir, &save_err) || !metrics_close(&t->metrics, &save_err)) {
        *err = save_err;
        return false;
    }
    remove_stale_best(t);
    if (o == STEP_STOPPED)
        return err_set(err, ERR_STOPPED,
                       "stopped by a signal after step %" PRId64 " of %" PRId64
                       "; the adapter so far is in %s",
                       t->step, t->n_step, t->recipe->output_dir);
    return o == STEP_DONE;
}
