/* A run's beginning: base, adapter, documents, and the checkpoint to go on from. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/identity.h"
#include "finetune/train/loop.h"
#include "finetune/train/options.h"
#include "finetune/train/save.h"
#include "kernels/core/file.h"
#include "kernels/core/manifest.h"
#include "lora/agree.h"
#include "lora/format_peft.h"

/* ---- what to train ---- */

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

/* An adapter to begin with must outlive the run: output_dir's own files are written over. */
static bool check_start(const struct recipe *r, struct err *err)
{
    char *start = NULL, *out = NULL;
    const bool ok = (r->lora_model_dir == NULL || file_resolve(r->lora_model_dir, &start, err)) &&
                    (start == NULL || file_resolve(r->output_dir, &out, err));
    const size_t n = out == NULL ? 0 : strlen(out);
    const bool inside =
        out != NULL && strncmp(start, out, n) == 0 && (start[n] == '\0' || start[n] == '/');
    free(start);
    free(out);
    if (inside)
        return err_set(err, ERR_RECIPE,
                       "lora_model_dir: is in output_dir, whose files the run writes over; set "
                       "another output_dir, or copy the adapter");
    return ok;
}

static bool choose_modules(struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    struct engine *e = &t->engine;
    t->lora = &r->lora;
    if (r->lora_model_dir == NULL)
        return engine_choose(e, &r->lora, err) || add_place(r, err);
    if (!check_start(r, err))
        return add_place(r, err);
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

/* A run that goes on walks as it did: passes and chunks decide rounding. */
static bool make_plan(struct trainer *t, struct batch_bounds bounds, int64_t sample_tokens,
                      struct err *err)
{
    const struct recipe *r = t->recipe;
    /* Of a pass of more than there is the walk is the same, but not the plan's time and memory. */
    const int64_t walked =
        t->shape.pass_tokens < bounds.n_tok ? t->shape.pass_tokens : bounds.n_tok;
    static const int policies[] = { [CHECKPOINTING_AUTO] = -1,
                                    [CHECKPOINTING_NONE] = RECOMPUTE_NONE,
                                    [CHECKPOINTING_SCAN] = RECOMPUTE_SCAN,
                                    [CHECKPOINTING_LAYER] = RECOMPUTE_LAYER };
    struct plan_subject subject = engine_subject(&t->engine, true);
    subject.dropout = t->lora->dropout > 0;
    subject.balance = r->router_aux_loss_coef > 0;
    subject.sample_tokens = sample_tokens;
    const struct plan_wish wish = {
        .step_tokens = bounds.n_tok,
        .longest = bounds.longest,
        .chunk_tokens = t->resumed != NULL ? t->shape.chunk_tokens : r->chunk_tokens,
        .pass_tokens = t->resumed != NULL ? walked : 0,
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

/* ---- going on ---- */

/* Whether a checkpoint lies in output_dir itself, into *own. */
static bool is_own(const struct trainer *t, const char *path, bool *own, struct err *err)
{
    char *whole = NULL, *out = NULL, *folder = NULL;
    bool ok = file_resolve(path, &whole, err) && file_resolve(t->recipe->output_dir, &out, err);
    if (ok && whole != NULL)
        ok = (folder = file_folder(whole)) != NULL || err_no_memory(err, path);
    *own = folder != NULL && out != NULL && strcmp(folder, out) == 0;
    free(whole);
    free(out);
    free(folder);
    return ok;
}

static bool has_manifest(const char *dir)
{
    char *path = file_join(dir, MANIFEST_NAME);
    const bool has = path == NULL || file_exists(path); /* without memory it is told later */
    free(path);
    return has;
}

/* The checkpoint that the recipe asks for into t->resumed, or NULL where `auto` finds none. */
static bool choose_checkpoint(struct trainer *t, struct err *err)
{
    const struct recipe *r = t->recipe;
    const char *from = r->resume_from_checkpoint;
    if (from == NULL)
        return trainer_check_empty(t, err);
    if (strcmp(from, "auto") == 0)
        return checkpoint_settle(r->output_dir, err) &&
               checkpoint_find(r->output_dir, &t->resumed, &t->notes, err) &&
               (t->resumed != NULL || trainer_check_unfinished(t, err));
    if (!file_is_directory(from))
        return err_set(err, ERR_NO_INPUT,
                       "resume_from_checkpoint: %s: is no folder; expected a checkpoint-N, or "
                       "'auto'",
                       from) ||
               add_place(r, err);
    if (!has_manifest(from))
        return err_set(err, ERR_NO_INPUT,
                       "resume_from_checkpoint: %s: is no checkpoint, it has no " MANIFEST_NAME
                       "; expected the folder checkpoint-N of a run, or 'auto' for the newest in "
                       "output_dir",
                       from) ||
               add_place(r, err);
    bool own = false;
    t->resumed = text_copy(from);
    return (t->resumed != NULL || err_no_memory(err, from)) && checkpoint_verify(from, err) &&
           is_own(t, from, &own, err) && (own || trainer_check_empty(t, err));
}

/* Whether a line of changes is of something that only steps to come would feel. */
static bool needs_steps(const char *line)
{
    static const char *const others[] = {
        "load_best", "save_steps", "save_total_limit", "logging_steps",     "self_check_steps",
        "program",   "kernels",    "sample_prompts",   "sample_max_tokens", "max_nonfinite_steps"
    };
    const size_t n = strcspn(line, ":");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (strlen(others[i]) == n && strncmp(others[i], line, n) == 0)
            return false;
    }
    return true;
}

/* Whether there is something left to do, as far as something was changed. */
static bool check_left(const struct trainer *t, struct err *err)
{
    if (t->state.step > t->n_step)
        return err_set(err, ERR_RECIPE,
                       "%s: is of step %" PRId64 ", but the run has only %" PRId64
                       "; raise max_steps or num_epochs",
                       t->resumed, t->state.step, t->n_step);
    if (t->state.step < t->n_step || t->changes.len == 0)
        return true;
    const char *line = t->changes.data;
    while (*line != '\0' && !needs_steps(line)) {
        line += strcspn(line, "\n");
        line += *line != '\0';
    }
    if (*line == '\0')
        return true;
    return err_set(
        err, ERR_RECIPE,
        "%s: is of the last step: no step is left to be run with %.*s; set it back, or raise "
        "max_steps or num_epochs",
        t->resumed, (int)strcspn(line, "\n"), line);
}

/* Counters and shape of the checkpoint, after comparing what it was made of. */
static bool read_checkpoint(struct trainer *t, const char *allow_change, struct err *err)
{
    json_t *state = state_read_json(t->resumed, err), *saved = NULL;
    const bool ok =
        state != NULL && state_from_json(state, t->resumed, &t->state, &t->shape, &saved, err) &&
        identity_compare(saved, t->identity, allow_change, t->resumed, &t->changes, err);
    bool own = false;
    json_decref(state);
    if (!ok || !is_own(t, t->resumed, &own, err))
        return false;
    t->resumed_here = own;
    if (!own)
        t->state.log_bytes = 0; /* of another folder's log */
    return check_left(t, err) && trainer_find_best(t, own, err);
}

/* A folder that is there is locked now, another when the run begins: what is refused before writes
 * nothing. */
static bool resume(struct trainer *t, const char *allow_change, struct err *err)
{
    const char *dir = t->recipe->output_dir;
    if ((file_is_directory(dir) && !output_lock(&t->output, dir, err)) ||
        !choose_checkpoint(t, err))
        return false;
    t->identity = identity_of(t->recipe, &t->engine, &t->data, err);
    return t->identity != NULL && (t->resumed == NULL || read_checkpoint(t, allow_change, err));
}

/* ---- opening ---- */

static void clear(struct trainer *t, const struct recipe *recipe)
{
    *t = (struct trainer){ .recipe = recipe,
                           .output = OUTPUT_NONE,
                           .metrics = { .fd = -1 },
                           .state = train_counters_new(),
                           .saving = -1 };
}

bool trainer_open(struct trainer *t, const struct recipe *recipe, const char *allow_change,
                  struct err *err)
{
    clear(t, recipe);
    const struct engine_options options = engine_options_of(recipe);
    if (!identity_check_allowed(allow_change, err))
        return false;
    if (!engine_open(&t->engine, &options, err))
        return add_place(recipe, err);
    const struct jamba_config *config = weights_config(t->engine.weights);
    if (!check_supported(config, err) || !choose_modules(t, err) ||
        !train_data_load(&t->data, recipe, config, err) ||
        !batcher_total_steps(&t->data.batcher, recipe->num_epochs, recipe->max_steps, &t->n_step,
                             err))
        return false;
    t->schedule = schedule_of(recipe, t->n_step);
    if (!samples_open(&t->samples, recipe, &t->engine, t->data.tokenizer, err))
        return add_place(recipe, err);
    return resume(t, allow_change, err) &&
           make_plan(t, bounds_of(&t->data), samples_tokens(&t->samples), err);
}

bool trainer_open_shapes(struct trainer *t, const struct recipe *recipe, struct err *err)
{
    clear(t, recipe);
    const struct engine_options options = engine_options_of(recipe);
    const int64_t n_doc = recipe->data.micro_batch_size * recipe->data.gradient_accumulation_steps;
    const struct batch_bounds bounds = { .n_tok = n_doc * recipe->data.sequence_len,
                                         .n_doc = n_doc,
                                         .longest = recipe->data.sequence_len };
    return (engine_open_shapes(&t->engine, &options, err) || add_place(recipe, err)) &&
           check_supported(weights_config(t->engine.weights), err) && choose_modules(t, err) &&
           make_plan(t, bounds, samples_bound(recipe), err);
}

void trainer_close(struct trainer *t)
{
    saver_close(&t->saver);
    metrics_close(&t->metrics, NULL);
    samples_free(&t->samples);
    train_data_free(&t->data);
    engine_close(&t->engine);
    json_decref(t->identity);
    text_free(&t->notes);
    text_free(&t->changes);
    free(t->resumed);
    free(t->best_from);
    free(t->check);
    if (t->recipe != NULL)
        output_unlock(&t->output);
    *t = (struct trainer){ .output = OUTPUT_NONE, .metrics = { .fd = -1 } };
}

struct peft_model_facts trainer_model_facts(const struct trainer *t)
{
    return (struct peft_model_facts){ .base_model = t->recipe->base_model,
                                      .tied =
                                          weights_config(t->engine.weights)->tie_word_embeddings };
}

void trainer_warnings(const struct trainer *t, struct text *out)
{
    const struct peft_model_facts facts = trainer_model_facts(t);
    peft_warnings(t->engine.modules, t->engine.n_module, t->engine.choices, t->lora, &facts, out);
}
