/* Reading adapter_model.safetensors: which modules it adapts, and into an adapter. */
#include "lora/format_peft.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lora/format_peft_layout.h"
#include "lora/pattern.h"
#include "lora/peft_names.h"
#include "lora/peft_spelling.h"

/* ---- choices ---- */

struct scan {
    struct peft_layout layout;
    struct peft_parameters parameters;
    struct lora_pattern_set ranks, alphas;                     /* for modules */
    struct lora_pattern_set parameter_ranks, parameter_alphas; /* for parameters */
};

static bool compile(struct scan *s, const struct lora_config *config, struct err *err)
{
    static const char rank_place[] = PEFT_CONFIG_NAME ": \"rank_pattern\"",
                      alpha_place[] = PEFT_CONFIG_NAME ": \"alpha_pattern\"";
    const struct peft_parameters *p = &s->parameters;
    return lora_patterns_compile(&s->ranks, rank_place, config->rank_pattern,
                                 config->n_rank_pattern, err) &&
           lora_patterns_compile(&s->alphas, alpha_place, config->alpha_pattern,
                                 config->n_alpha_pattern, err) &&
           lora_patterns_compile(&s->parameter_ranks, rank_place, p->ranks, p->n_rank, err) &&
           lora_patterns_compile(&s->parameter_alphas, alpha_place, p->alphas, p->n_alpha, err);
}

static bool scan_open(struct scan *s, const char *dir, const struct lora_module *modules, int64_t n,
                      const struct lora_config *config, struct err *err)
{
    return peft_layout_open(&s->layout, dir, modules, n, err) &&
           peft_read_parameters(dir, &s->parameters, err) && compile(s, config, err);
}

static void scan_close(struct scan *s)
{
    lora_patterns_free(&s->ranks);
    lora_patterns_free(&s->alphas);
    lora_patterns_free(&s->parameter_ranks);
    lora_patterns_free(&s->parameter_alphas);
    peft_parameters_free(&s->parameters);
    peft_layout_close(&s->layout);
}

/* The name that the patterns are held against: PEFT's own of what it wrapped. False: the module. */
static bool parameter_name(const struct scan *s, int64_t module, char out[PEFT_NAME_SIZE])
{
    const struct lora_module *m = &s->layout.modules[module];
    if (s->layout.pairs[module].is_fused) {
        peft_fused_path(m, out);
        return true;
    }
    snprintf(out, PEFT_NAME_SIZE, "%s.weight", m->path);
    for (int64_t i = 0; i < s->parameters.n_name; i++) {
        if (lora_suffix_matches(out, s->parameters.names[i]))
            return true;
    }
    return false;
}

static bool choose_from(struct scan *s, const struct lora_config *config, int64_t module,
                        struct lora_choice *out, struct err *err)
{
    const struct peft_pair *pair = &s->layout.pairs[module];
    *out = (struct lora_choice){ 0 };
    if (pair->a == NULL && pair->b == NULL)
        return true;
    if (!peft_pair_check(&s->layout, module, err))
        return false;
    char name[PEFT_NAME_SIZE];
    const int64_t rank = peft_pair_rank(pair);
    const bool parameter = parameter_name(s, module, name);
    const char *path = parameter ? name : s->layout.modules[module].path;
    double r = (double)config->r, alpha = config->alpha;
    if (!lora_patterns_value(parameter ? &s->parameter_ranks : &s->ranks, path, &r, err) ||
        !lora_patterns_value(parameter ? &s->parameter_alphas : &s->alphas, path, &alpha, err))
        return false;
    if (r != (double)rank)
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s': has rank %" PRId64 ", but " PEFT_CONFIG_NAME
                       " gives %.0f; the scale of the adapter would be a guess",
                       s->layout.path, pair->a->name, rank, r);
    *out = (struct lora_choice){
        .on = true, .r = rank, .alpha = alpha, .scale = lora_scale(config, rank, alpha)
    };
    return true;
}

bool peft_choices_from_tensors(const char *dir, const struct lora_module *modules, int64_t n,
                               const struct lora_config *config, struct lora_choice *choices,
                               struct err *err)
{
    struct scan s = { 0 };
    bool ok = scan_open(&s, dir, modules, n, config, err), any = false;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = choose_from(&s, config, i, &choices[i], err);
        any |= ok && choices[i].on;
    }
    if (ok && !any)
        ok = err_set(err, ERR_DATA, "%s: has no LoRA tensors", s.layout.path);
    scan_close(&s);
    return ok;
}

/* ---- traits ---- */

bool peft_read_traits(const char *dir, const struct lora_module *modules, int64_t n,
                      const struct lora_config *config, const struct lora_choice *choices,
                      struct peft_traits *out, struct err *err)
{
    struct peft_layout layout;
    struct peft_parameters parameters = { 0 };
    struct lora_choice *targeted = calloc((size_t)n + 1, sizeof *targeted);
    *out = (struct peft_traits){ .dropout = config->dropout };
    out->untargeted = calloc((size_t)n + 1, sizeof *out->untargeted);
    bool ok = (targeted != NULL && out->untargeted != NULL) || err_no_memory(err, dir);
    if (ok && peft_layout_open(&layout, dir, modules, n, err)) {
        out->fused_layout = layout.has_fused;
        out->renamed = layout.has_renamed;
        out->foreign = layout.has_foreign;
        peft_layout_close(&layout);
        ok = peft_read_parameters(dir, &parameters, err);
    } else {
        ok = false;
    }
    out->fused_entries = parameters.fused;
    out->router_parameter = parameters.router;
    /* Without a list or regex, or with one that we would not take, there is nothing to compare. */
    struct lora_config targets = *config; /* borrows; ranks do not matter here */
    targets.n_rank_pattern = targets.n_alpha_pattern = 0;
    const bool is_given = config->n_target > 0 || config->target_regex != NULL;
    struct err why = { 0 };
    if (ok && is_given && lora_choose(&targets, modules, n, targeted, &why)) {
        for (int64_t i = 0; i < n; i++)
            out->untargeted[i] = choices[i].on && !targeted[i].on;
    }
    if (why.code == ERR_NO_MEMORY)
        ok = err_no_memory(err, dir);
    peft_parameters_free(&parameters);
    free(targeted);
    if (!ok)
        peft_traits_free(out);
    return ok;
}

/* ---- values ---- */

static bool check_type(const struct peft_layout *l, const struct safetensors_tensor *t,
                       struct err *err)
{
    return t->dtype == DTYPE_F32 || t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16 ||
           err_set(err, ERR_DATA, "%s: tensor '%s': has type %s; expected F32, BF16 or F16",
                   l->path, t->name, dtype_name(t->dtype));
}

static bool read_part(const struct peft_layout *l, int64_t module, const struct lora_slot *slot,
                      enum peft_part part, struct err *err)
{
    const struct peft_pair *pair = &l->pairs[module];
    const struct safetensors_tensor *t = (part == PEFT_A) != pair->swapped ? pair->a : pair->b;
    const int64_t n = slot->rank * (part == PEFT_A ? slot->module->in : slot->module->out);
    real *to = part == PEFT_A ? slot->a : slot->b;
    peft_pair_read(pair, slot->module, part, to);
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite((double)to[i]))
            return err_set(err, ERR_DATA,
                           "%s: tensor '%s': value %" PRId64 " is %g; expected finite numbers",
                           l->path, t->name, i, (double)to[i]);
    }
    return true;
}

static bool read_slot(const struct peft_layout *l, int64_t module, const struct lora_slot *slot,
                      struct err *err)
{
    const struct peft_pair *pair = &l->pairs[module];
    if (!peft_pair_check(l, module, err) || !check_type(l, pair->a, err) ||
        !check_type(l, pair->b, err))
        return false;
    if (peft_pair_rank(pair) != slot->rank)
        return err_set(err, ERR_DATA, "%s: tensor '%s': has rank %" PRId64 ", expected %" PRId64,
                       l->path, pair->a->name, peft_pair_rank(pair), slot->rank);
    return read_part(l, module, slot, PEFT_A, err) && read_part(l, module, slot, PEFT_B, err);
}

bool peft_read_tensors(const char *dir, struct lora_adapter *adapter, struct err *err)
{
    struct peft_layout l;
    if (!peft_layout_open(&l, dir, adapter->modules, adapter->n_module, err))
        return false;
    bool ok = safetensors_check_digest(&l.st, l.path, err);
    for (int64_t i = 0; ok && i < adapter->n_module; i++) {
        const struct lora_slot *slot = lora_adapter_slot(adapter, i);
        const struct peft_pair *pair = &l.pairs[i];
        if (slot != NULL)
            ok = read_slot(&l, i, slot, err);
        else if (pair->a != NULL || pair->b != NULL)
            ok = err_set(err, ERR_DATA, "%s: tensor '%s': '%s' is not adapted here", l.path,
                         (pair->a != NULL ? pair->a : pair->b)->name, adapter->modules[i].path);
    }
    peft_layout_close(&l);
    return ok;
}
