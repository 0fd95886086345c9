#include "lora/agree.h"

#include <inttypes.h>
#include <stdlib.h>

bool lora_config_agrees(const struct lora_config *adapter, const struct lora_config *recipe,
                        unsigned given, struct err *err)
{
    if ((given & LORA_GIVEN_R) != 0 && recipe->r != adapter->r)
        return err_set(err, ERR_RECIPE,
                       "lora_r: is %" PRId64 ", but the adapter in lora_model_dir has r %" PRId64
                       "; leave the key out or train a new adapter",
                       recipe->r, adapter->r);
    if ((given & LORA_GIVEN_ALPHA) != 0 && recipe->alpha != adapter->alpha)
        return err_set(
            err, ERR_RECIPE,
            "lora_alpha: is %.15g, but the adapter in lora_model_dir has lora_alpha %.15g"
            "; leave the key out or train a new adapter",
            recipe->alpha, adapter->alpha);
    if ((given & LORA_GIVEN_RSLORA) != 0 && recipe->use_rslora != adapter->use_rslora)
        return err_set(
            err, ERR_RECIPE,
            LORA_KEY_RSLORA ": is %s, but the adapter in lora_model_dir has use_rslora %s"
                            "; leave the key out or train a new adapter",
            recipe->use_rslora ? "true" : "false", adapter->use_rslora ? "true" : "false");
    return true;
}

/* The recipe where it speaks, else the adapter. Borrows from both: never freed. The adapter's own
 * patterns are left out: they need no check, and one that the recipe's targets pass by would be an
 * error. */
static struct lora_config merged(const struct lora_agreement *a)
{
    struct lora_config c = *a->adapter;
    c.rank_pattern = c.alpha_pattern = NULL;
    c.n_rank_pattern = c.n_alpha_pattern = 0;
    if ((a->given & LORA_GIVEN_TARGETS) != 0) {
        c.target_modules = a->recipe->target_modules;
        c.n_target = a->recipe->n_target;
        c.target_regex = a->recipe->target_regex;
        c.all_linear = a->recipe->all_linear;
    }
    if ((a->given & LORA_GIVEN_EXCLUDE) != 0) {
        c.exclude_modules = a->recipe->exclude_modules;
        c.n_exclude = a->recipe->n_exclude;
        c.exclude_regex = a->recipe->exclude_regex;
    }
    if ((a->given & LORA_GIVEN_LAYERS) != 0) {
        c.layers_to_transform = a->recipe->layers_to_transform;
        c.n_layer_to_transform = a->recipe->n_layer_to_transform;
    }
    if ((a->given & LORA_GIVEN_RANK_PATTERN) != 0) {
        c.rank_pattern = a->recipe->rank_pattern;
        c.n_rank_pattern = a->recipe->n_rank_pattern;
    }
    if ((a->given & LORA_GIVEN_ALPHA_PATTERN) != 0) {
        c.alpha_pattern = a->recipe->alpha_pattern;
        c.n_alpha_pattern = a->recipe->n_alpha_pattern;
    }
    return c;
}

static bool compare(const struct lora_agreement *a, int64_t i, const struct lora_choice *want,
                    struct err *err)
{
    const unsigned selects = LORA_GIVEN_TARGETS | LORA_GIVEN_EXCLUDE | LORA_GIVEN_LAYERS;
    const struct lora_module *module = &a->modules[i];
    const struct lora_choice *have = &a->have[i];
    if ((a->given & selects) != 0 && want->on != have->on)
        return err_set(
            err, ERR_RECIPE,
            LORA_KEY_TARGETS ": the recipe %s '%s', but the adapter in lora_model_dir has %s for "
                             "it; leave the keys that choose modules out or train a new adapter",
            want->on ? "adapts" : "does not adapt", module->path, have->on ? "tensors" : "none");
    if (!want->on || !have->on)
        return true;
    if ((a->given & LORA_GIVEN_RANK_PATTERN) != 0 && want->r != have->r)
        return err_set(err, ERR_RECIPE,
                       LORA_KEY_RANK_PATTERN ": gives '%s' rank %" PRId64
                                             ", but the adapter in lora_model_dir has %" PRId64
                                             "; leave the key out or train a new adapter",
                       module->path, want->r, have->r);
    if ((a->given & LORA_GIVEN_ALPHA_PATTERN) != 0 && want->alpha != have->alpha)
        return err_set(err, ERR_RECIPE,
                       LORA_KEY_ALPHA_PATTERN
                       ": gives '%s' alpha %.15g, but the adapter in lora_model_dir has "
                       "%.15g; leave the key out or train a new adapter",
                       module->path, want->alpha, have->alpha);
    return true;
}

bool lora_agrees(const struct lora_agreement *a, struct err *err)
{
    const unsigned scalars = LORA_GIVEN_R | LORA_GIVEN_ALPHA | LORA_GIVEN_RSLORA;
    if (!lora_config_agrees(a->adapter, a->recipe, a->given, err))
        return false;
    if ((a->given & ~scalars) == 0)
        return true;
    struct lora_choice *want = calloc((size_t)a->n_module + 1, sizeof *want);
    if (want == NULL)
        return err_no_memory(err, "the LoRA targets");
    const struct lora_config config = merged(a);
    bool ok = lora_choose(&config, a->modules, a->n_module, want, err);
    for (int64_t i = 0; ok && i < a->n_module; i++)
        ok = compare(a, i, &want[i], err);
    free(want);
    return ok;
}
