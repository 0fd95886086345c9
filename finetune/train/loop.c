/* A run: steps, evaluations, checkpoints, and the adapter at the end. */
#include "finetune/train/loop.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/evaluate.h"
#include "finetune/train/facts.h"
#include "finetune/train/optim.h"
#include "finetune/train/save.h"
#include "finetune/train/self_check.h"
#include "kernels/ops.h"

enum outcome { STEP_DONE, STEP_STOPPED, STEP_FAILED };

/* ---- a step ---- */

static bool raised(const struct train_watch *watch)
{
    return watch->stop != NULL && *watch->stop;
}

size_t trainer_memory_peak(const struct trainer *t)
{
    const struct engine *e = &t->engine;
    return t->bytes.weights + e->adapter_arena.peak + e->saved.peak + e->scratch.peak +
           (e->be.device == NULL ? t->bytes.copies : 0);
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
        .dropout = { .rate = t->lora->dropout, .seed = r->seed, .step = (uint64_t)t->state.step },
    };
    op_zero(&e->be, &(struct zero_args){ .y = e->adapter.grads,
                                         .bytes = (size_t)e->adapter.n_param * sizeof(real) });
    jamba_begin_step(&e->jamba);
    int64_t index = 0;
    for (int64_t from = 0, to; from < b->n_doc; from = to) {
        if (raised(watch))
            return false;
        const enum profile_block before = profile_enter(e->be.profile, PROFILE_DATA);
        to = batch_pass_end(&t->data.set, b->docs, b->n_doc, from, t->shape.pass_tokens);
        stream_fill(&e->stream, &t->data.set, b->docs + from, to - from, index);
        profile_leave(e->be.profile, before);
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

static void update(struct trainer *t, double factor, double clip)
{
    optim_step(&t->engine.be, &t->engine.adapter, t->recipe, factor, clip, t->state.n_applied);
}

/* Twice, from the same values, which must come to the same. */
static bool update_checked(struct trainer *t, double factor, double clip, struct err *err)
{
    uint64_t first = 0;
    if (!self_check_begin(t, err))
        return false;
    update(t, factor, clip);
    if (!self_check_again(t, &first, err))
        return false;
    update(t, factor, clip);
    return self_check_end(t, first, err);
}

/* Applies the update, or with anything non-finite leaves parameters and moments as they are. */
static bool apply(struct trainer *t, struct train_step *s, struct err *err)
{
    const bool checked = self_check_due(t);
    const double factor = schedule_factor(&t->schedule, t->state.step);
    s->learning_rate = factor * t->recipe->learning_rate;
    s->grad_norm = optim_grad_norm(&t->engine.be, &t->engine.adapter);
    if (checked && !self_check_norm(t, s->grad_norm, err))
        return false;
    s->applied = isfinite(s->loss) && isfinite(s->grad_norm);
    if (!s->applied) {
        t->state.n_nonfinite++;
        return true;
    }
    const double clip = optim_clip(t->recipe->max_grad_norm, s->grad_norm);
    t->state.n_applied++;
    saver_await_copy(&t->saver);
    if (checked)
        return update_checked(t, factor, clip, err);
    update(t, factor, clip);
    return true;
}

/* The step's passes once more. Where they differ nothing of the step is applied, nor written. */
static enum outcome check_passes(struct trainer *t, const struct batch_step *b,
                                 const struct train_watch *watch, struct jamba_losses *losses,
                                 struct err *err)
{
    const uint64_t first = self_check_passes(t, losses);
    if (!run_passes(t, b, watch, losses))
        return STEP_STOPPED;
    const uint64_t second = self_check_passes(t, losses);
    return trainer_check_device(t, err) && self_check_same(t, "gradients", first, second, err)
               ? STEP_DONE
               : STEP_FAILED;
}

/* ---- all of a step ---- */

static bool check_nonfinite(const struct trainer *t, struct err *err)
{
    const int64_t n = t->state.n_nonfinite;
    return n == 0 || n < t->recipe->max_nonfinite_steps ||
           err_set(err, ERR_NUMERICS,
                   "stopped after %" PRId64
                   " steps with a non-finite loss or gradient (max_nonfinite_steps); none of them "
                   "was applied. The steps and their documents are in %s/metrics.jsonl; lower "
                   "learning_rate, or look at those documents",
                   n, t->recipe->output_dir);
}

static enum outcome take_step(struct trainer *t, const struct batch_step *b,
                              const struct train_watch *watch, struct err *err)
{
    const double start = trainer_now();
    struct jamba_losses losses = { 0 };
    double before_step[PROFILE_N]; /* evaluations and the like: no part of a step */
    profile_take(&t->profile, before_step);
    if (!run_passes(t, b, watch, &losses))
        return STEP_STOPPED;
    if (self_check_due(t)) {
        const enum outcome o = check_passes(t, b, watch, &losses, err);
        if (o != STEP_DONE)
            return o;
    }
    struct train_step s = { .step = t->state.step + 1,
                            .n_step = t->n_step,
                            .epoch = epoch_after(b),
                            .balanced = t->recipe->router_aux_loss_coef > 0,
                            .tokens = b->n_tok,
                            .trained_tokens = b->n_target,
                            .n_doc = b->n_doc };
    s.aux_loss = t->recipe->router_aux_loss_coef * losses.aux_sum / (double)b->n_tok;
    s.loss = losses.loss_sum / (double)b->n_target + s.aux_loss;
    if (!trainer_check_device(t, err))
        return STEP_FAILED;
    const enum profile_block before = profile_enter(t->engine.be.profile, PROFILE_OPTIMIZER);
    const bool applied = apply(t, &s, err);
    profile_leave(t->engine.be.profile, before);
    if (!applied || !trainer_check_device(t, err))
        return STEP_FAILED;
    t->state.step++;
    t->state.tokens += s.tokens;
    t->state.trained_tokens += s.trained_tokens;
    profile_take(&t->profile, s.blocks);
    s.seconds = trainer_now() - start;
    t->state.seconds += s.seconds;
    s.tokens_per_second = (double)s.tokens / s.seconds;
    s.memory_bytes = trainer_memory_peak(t);
    struct text places = { 0 };
    if (!s.applied)
        list_places(t, b, &places);
    s.places = places.data != NULL ? places.data : "";
    const bool ok = (!places.failed || err_no_memory(err, "the step's documents")) &&
                    metrics_step(&t->metrics, &s, err);
    if (ok && watch->on_step != NULL)
        watch->on_step(watch->context, &s);
    text_free(&places);
    return ok && check_nonfinite(t, err) ? STEP_DONE : STEP_FAILED;
}

/* ---- evaluation ---- */

static bool log_sample(void *context, const struct sample *s, struct err *err)
{
    struct trainer *t = context;
    return metrics_sample(&t->metrics,
                          &(struct train_sample){ .step = t->state.step,
                                                  .index = t->state.n_sampled++,
                                                  .n_token = s->n_token,
                                                  .prompt = s->prompt,
                                                  .text = s->text,
                                                  .end = s->end },
                          err);
}

/* Those of the last evaluation that are still to come. */
static enum outcome run_samples(struct trainer *t, const struct train_watch *watch, struct err *err)
{
    if (!samples_run(&t->samples, t->state.n_sampled, watch->stop, log_sample, t, err))
        return STEP_FAILED;
    return t->state.n_sampled < t->samples.n ? STEP_STOPPED : STEP_DONE;
}

static enum outcome run_evaluation(struct trainer *t, double epoch, const struct train_watch *watch,
                                   struct err *err)
{
    if (t->data.n_validation == 0)
        return STEP_DONE;
    const double start = trainer_now();
    const struct evaluation v = evaluate(&t->engine, &(struct evaluate_args){
                                                         .set = t->data.validation,
                                                         .docs = t->data.validation_docs,
                                                         .n_doc = t->data.n_validation,
                                                         .stop = watch->stop,
                                                     });
    if (!trainer_check_device(t, err))
        return STEP_FAILED;
    if (v.stopped)
        return STEP_STOPPED;
    struct train_eval e = { .step = t->state.step,
                            .epoch = epoch,
                            .loss = v.loss_sum / (double)v.n_target,
                            .tokens = v.n_target,
                            .seconds = trainer_now() - start };
    e.best = e.loss < t->state.best_loss;
    t->state.evaluated = t->state.step;
    t->state.n_sampled = 0;
    t->state.n_worse = e.best ? 0 : t->state.n_worse + 1;
    t->state.last_loss = e.loss;
    if (t->state.n_eval++ == 0)
        t->state.first_loss = e.loss;
    if (e.best) {
        t->state.best_loss = e.loss;
        t->state.best_step = t->state.step;
        if (!trainer_save_best(t, err))
            return STEP_FAILED;
    }
    if (!metrics_eval(&t->metrics, &e, err))
        return STEP_FAILED;
    if (watch->on_eval != NULL)
        watch->on_eval(watch->context, &e);
    return run_samples(t, watch, err);
}

/* Whether an evaluation is due after step t->state.step, which was step `b` of its epoch. */
static bool eval_due(const struct trainer *t, const struct batch_step *b)
{
    const struct recipe *r = t->recipe;
    if (t->state.step == t->n_step)
        return true;
    if (r->evals_per_epoch > 0)
        return (b->index + 1) * r->evals_per_epoch / b->n_step >
               b->index * r->evals_per_epoch / b->n_step;
    if (r->eval_steps == 0)
        return false;
    const double every =
        r->eval_steps < 1 ? ceil(r->eval_steps * (double)t->n_step) : r->eval_steps;
    return t->state.step % (int64_t)every == 0;
}

/* Whether one is due now and was not run yet: at a run's beginning, or where it was stopped. */
static bool eval_missing(struct trainer *t, double *epoch)
{
    *epoch = 0;
    if (t->state.evaluated == t->state.step)
        return false;
    if (t->state.step == 0)
        return true;
    const struct batch_step b = batcher_step(&t->data.batcher, t->state.step - 1);
    *epoch = epoch_after(&b);
    return eval_due(t, &b);
}

/* ---- the run ---- */

/* Evaluations in a row without a better one. */
static bool patience_is_out(struct trainer *t)
{
    const int64_t patience = t->recipe->early_stopping_patience;
    t->state.stopped_early = patience > 0 && t->state.n_worse >= patience;
    return t->state.stopped_early;
}

static bool save_wanted(const struct train_watch *watch)
{
    if (watch->save == NULL || !*watch->save)
        return false;
    *watch->save = 0;
    return true;
}

/* What the saver could not do and the run can do without. */
static bool log_warning(struct trainer *t, struct err *err)
{
    struct err warning;
    return !saver_take_warning(&t->saver, &warning) ||
           metrics_event(&t->metrics, t->state.step, "warning", warning.text, err);
}

static enum outcome run_steps(struct trainer *t, const struct train_watch *watch, struct err *err)
{
    double epoch = 0;
    enum outcome o = check_nonfinite(t, err) ? STEP_DONE : STEP_FAILED;
    if (o == STEP_DONE && eval_missing(t, &epoch))
        o = run_evaluation(t, epoch, watch, err);
    else if (o == STEP_DONE && t->state.evaluated == t->state.step)
        o = run_samples(t, watch, err); /* stopped on the way */
    while (o == STEP_DONE && t->state.step < t->n_step && !patience_is_out(t)) {
        const struct batch_step b = batcher_step(&t->data.batcher, t->state.step);
        o = take_step(t, &b, watch, err);
        if (o == STEP_DONE && eval_due(t, &b))
            o = run_evaluation(t, epoch_after(&b), watch, err);
        const bool wanted = save_wanted(watch);
        if (o == STEP_DONE && (wanted || trainer_save_due(t)) && !trainer_save_checkpoint(t, err))
            o = STEP_FAILED;
        if (o == STEP_DONE && !log_warning(t, err))
            o = STEP_FAILED;
    }
    return o;
}

static bool allocate(struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    struct engine *e = &t->engine;
    const struct engine_memory memory = { .shape = t->shape,
                                          .bytes = t->bytes,
                                          .training = true,
                                          .seed = r->seed,
                                          .adapter_dir = r->lora_model_dir };
    if (!engine_allocate(e, &memory, err) ||
        !saver_open(&t->saver, r->output_dir, r->save_total_limit, &e->adapter, err))
        return false;
    if (r->self_check_steps > 0 && e->be.device != NULL) {
        t->check = malloc((size_t)e->adapter.n_param * sizeof *t->check + 1);
        if (t->check == NULL)
            return err_no_memory(err, "what the self-check compares");
    }
    profile_init(&t->profile, e->be.device);
    e->be.profile = &t->profile;
    return true;
}

/* "went on from DIR/checkpoint-20", and what differs by leave. */
static bool log_beginning(struct trainer *t, struct err *err)
{
    if (t->resumed == NULL)
        return metrics_event(&t->metrics, 0, "started", "", err);
    struct text what = { 0 };
    text_printf(&what, "from %s", t->resumed);
    if (t->changes.len > 0)
        text_printf(&what, "; changed: %s", t->changes.data);
    while (what.len > 0 && what.data[what.len - 1] == '\n')
        what.data[--what.len] = '\0';
    const bool ok = what.failed
                        ? err_no_memory(err, "the log")
                        : metrics_event(&t->metrics, t->state.step, "resumed", what.data, err);
    text_free(&what);
    return ok;
}

static bool begin(struct trainer *t, struct err *err)
{
    const char *dir = t->recipe->output_dir;
    const bool resumed = t->resumed != NULL;
    t->saved_at = trainer_now();
    if (t->output.lock < 0 &&
        (!output_lock(&t->output, dir, err) || (!resumed && !trainer_check_empty(t, err))))
        return false;
    return allocate(t, err) && (resumed ? trainer_restore(t, err) : trainer_clear_output(t, err)) &&
           output_clear_temporaries(dir, err) && trainer_check_space(t, err) &&
           metrics_open(&t->metrics, dir, resumed ? t->state.step : -1, t->state.log_bytes, err) &&
           output_write_facts(dir, train_facts(t), err) && log_beginning(t, err);
}

/* All steps are done: the adapter is the last thing to be written. */
static bool end(struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    const bool keeps = r->save_steps.steps > 0 || r->save_steps.seconds > 0;
    char text[96];
    if (keeps && !trainer_save_checkpoint(t, err))
        return false;
    if (!saver_finish(&t->saver, err) || !log_warning(t, err) ||
        (r->load_best && !trainer_load_best(t, err)))
        return false;
    if (t->state.stopped_early) {
        snprintf(text, sizeof text, "%" PRId64 " evaluations without a better one than at %" PRId64,
                 t->state.n_worse, t->state.best_step);
        if (!metrics_event(&t->metrics, t->state.step, "early_stop", text, err))
            return false;
    }
    return trainer_save_adapter(t, err) &&
           metrics_event(&t->metrics, t->state.step, "finished", "", err) &&
           metrics_close(&t->metrics, err);
}

/* Stopped before the end: a checkpoint of what there is. err has the reason, and keeps it. */
static bool leave(struct trainer *t, struct err *err)
{
    struct err failed = { 0 };
    const struct err why = *err;
    if (trainer_save_checkpoint(t, &failed) && saver_finish(&t->saver, &failed) &&
        metrics_event(&t->metrics, t->state.step, "stopped", why.text, &failed) &&
        metrics_close(&t->metrics, &failed))
        return false;
    return err_set(err, failed.code, "%s", failed.text);
}

bool trainer_run(struct trainer *t, const struct train_watch *watch, struct err *err)
{
    if (!begin(t, err))
        return false;
    const enum outcome o = run_steps(t, watch, err);
    if (o == STEP_DONE)
        return end(t, err);
    if (o == STEP_STOPPED)
        err_set(err, ERR_STOPPED,
                "stopped by a signal after step %" PRId64 " of %" PRId64 "; %s/checkpoint-%" PRId64
                " is whole: --resume goes on from there",
                t->state.step, t->n_step, t->recipe->output_dir, t->state.step);
    return err->code == ERR_STOPPED || err->code == ERR_NUMERICS ? leave(t, err) : false;
}
