/* What no key can tell alone: keys that exclude or need each other. */
#include <stdlib.h>

#include "recipes/load.h"

/* The key's entry, NULL when it is not there or empty. */
static const struct node *given(const struct load *load, const char *key)
{
    const struct node *node = node_find(load->root, key);
    return node == NULL || node->kind == NODE_NULL ? NULL : node;
}

static void need_key(struct load *load, const char *key, const char *expected)
{
    if (given(load, key) != NULL)
        return; /* there, or there and complained about */
    const bool is_file = load->path != NULL;
    report_error(load->report, is_file ? ERR_RECIPE : ERR_USAGE,
                 is_file ? load->path : "command line", "'%s' is missing; expected %s", key,
                 expected);
}

/* Two keys that must not both be in force; placed at the second. */
static void exclude(struct load *load, bool clash, const char *a, const char *b,
                    const char *way_out)
{
    if (!clash)
        return;
    const struct node *first = given(load, a), *second = given(load, b);
    const bool swap =
        second == NULL || (first != NULL && first->override != NULL && second->override == NULL);
    const struct node *at = swap ? first : second;
    if (at != NULL)
        load_error_at_key(load, at, "'%s' and '%s' exclude each other; %s", a, b, way_out);
}

/* A dump writes every key: one that is at its default asks for nothing. */
#define DEFAULT_EPOCHS 3.0
#define DEFAULT_EMBEDDING_RATE 1e-6

static void check_schedule(struct load *load)
{
    const struct recipe *r = load->recipe;
    exclude(load, r->warmup_steps > 0 && r->warmup_ratio > 0, "warmup_steps", "warmup_ratio",
            "keep one, or set the other to 0");
    const char *key = r->warmup_steps > 0 ? "warmup_steps" : "warmup_ratio";
    const struct node *warmup = given(load, key);
    if (r->lr_scheduler == SCHEDULER_CONSTANT && warmup != NULL &&
        (r->warmup_steps > 0 || r->warmup_ratio > 0))
        load_error_at_key(load, warmup,
                          "'%s' has no effect with lr_scheduler 'constant'; use "
                          "'constant_with_warmup', or remove the key",
                          key);
    const struct node *epochs = given(load, "num_epochs");
    if (r->max_steps > 0 && epochs != NULL && r->num_epochs != DEFAULT_EPOCHS)
        load_note_at_key(load, epochs,
                         "'max_steps' is set and decides; 'num_epochs' has no effect");
    const struct node *embedding = given(load, "loraplus_lr_embedding");
    if (embedding != NULL && r->loraplus_lr_ratio <= 0 &&
        r->loraplus_lr_embedding != DEFAULT_EMBEDDING_RATE)
        load_note_at_key(load, embedding,
                         "'loraplus_lr_embedding' has no effect without 'loraplus_lr_ratio'");
}

/* A key that chooses by validation loss. Placed at the key; one at its default asks for nothing. */
static void need_evaluations(struct load *load, const char *key, bool asked)
{
    const struct recipe *r = load->recipe;
    const struct node *at = given(load, key);
    if (!asked || at == NULL)
        return;
    if (!(r->data.val_set_size > 0) && r->data.n_validation == 0)
        load_error_at_key(load, at,
                          "'%s' needs validation data; set 'val_set_size' or 'test_datasets', or "
                          "remove the key",
                          key);
    else if (!(r->eval_steps > 0) && r->evals_per_epoch == 0)
        load_error_at_key(load, at,
                          "'%s' needs validations during the run; set 'eval_steps' or "
                          "'evals_per_epoch', or remove the key",
                          key);
}

static void check_evaluation(struct load *load, enum recipe_need need)
{
    const struct recipe *r = load->recipe;
    exclude(load, r->eval_steps > 0 && r->evals_per_epoch > 0, "eval_steps", "evals_per_epoch",
            "keep one, or set the other to 0");
    exclude(load, r->data.val_set_size > 0 && r->data.n_validation > 0, "val_set_size",
            "test_datasets", "keep one, or set val_set_size to 0");
    if (need == RECIPE_NEED_TRAIN) {
        need_evaluations(load, "early_stopping_patience", r->early_stopping_patience > 0);
        need_evaluations(load, "load_best", r->load_best);
    }
    if (need != RECIPE_NEED_TRAIN || r->data.val_set_size > 0 || r->data.n_validation > 0)
        return;
    const char *key = r->eval_steps > 0 ? "eval_steps" : "evals_per_epoch";
    const struct node *schedule = given(load, key);
    if (schedule != NULL && (r->eval_steps > 0 || r->evals_per_epoch > 0))
        load_note_at_key(
            load, schedule,
            "'%s' has no effect without validation data (val_set_size or test_datasets)", key);
    const struct node *samples = given(load, "sample_prompts");
    if (samples != NULL && r->n_sample_prompt > 0)
        load_note_at_key(load, samples,
                         "'sample_prompts' has no effect without validation data (val_set_size or "
                         "test_datasets): they are continued at validations");
}

void load_check(struct load *load, enum recipe_need need)
{
    struct recipe *r = load->recipe;
    const bool names_targets =
        r->lora.all_linear || r->lora.n_target > 0 || r->lora.target_regex != NULL;
    exclude(load, r->lora_target_linear && names_targets, "lora_target_modules",
            "lora_target_linear", "keep one");
    r->lora.all_linear = r->lora.all_linear || r->lora_target_linear;
    r->data.seed = r->seed;
    exclude(load, r->data.train_on_inputs && r->data.train_on_last_turn_only, "train_on_inputs",
            "train_on_last_turn_only", "keep one");
    exclude(load, r->self_check_steps > 0 && !r->deterministic, "self_check_steps", "deterministic",
            "only steps that always come out the same can be compared: remove one");
    check_schedule(load);
    check_evaluation(load, need);
    if (need != RECIPE_NEED_NOTHING)
        need_key(load, "base_model", "a folder, a hub name or random:CONFIG.JSON");
    if (need == RECIPE_NEED_TRAIN)
        need_key(load, "datasets", "a list of mappings with 'path'");
}
