#include "lora/target.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/regex.h"
#include "kernels/core/text.h"
#include "lora/pattern.h"

static const char *const kind_names[LORA_KIND_COUNT] = {
    [LORA_Q_PROJ] = "q_proj",       [LORA_K_PROJ] = "k_proj",
    [LORA_V_PROJ] = "v_proj",       [LORA_O_PROJ] = "o_proj",
    [LORA_IN_PROJ] = "in_proj",     [LORA_X_PROJ] = "x_proj",
    [LORA_DT_PROJ] = "dt_proj",     [LORA_OUT_PROJ] = "out_proj",
    [LORA_GATE_PROJ] = "gate_proj", [LORA_UP_PROJ] = "up_proj",
    [LORA_DOWN_PROJ] = "down_proj", [LORA_ROUTER] = "router",
    [LORA_LM_HEAD] = "lm_head",     [LORA_EMBED_TOKENS] = "embed_tokens",
};

const char *lora_kind_name(enum lora_kind kind)
{
    return kind_names[kind];
}

bool lora_suffix_matches(const char *path, const char *suffix)
{
    const size_t n = strlen(path), k = strlen(suffix);
    if (k > n || strcmp(path + n - k, suffix) != 0)
        return false;
    return k == n || path[n - k - 1] == '.';
}

double lora_scale(const struct lora_config *config, int64_t r, double alpha)
{
    return alpha / (config->use_rslora ? sqrt((double)r) : (double)r);
}

/* What is chosen, and which entries have matched so far. */
struct chooser {
    const struct lora_config *config;
    const struct lora_module *modules;
    int64_t n;
    struct regex *target, *exclude;
    bool *target_used, *exclude_used, *layer_used;
    bool target_regex_used, exclude_regex_used;
    struct lora_pattern_set ranks, alphas;
};

static bool alloc_flags(bool **flags, int64_t n)
{
    *flags = n > 0 ? calloc((size_t)n, sizeof **flags) : NULL;
    return n <= 0 || *flags != NULL;
}

static struct regex *compile(const char *place, const char *pattern, struct err *err)
{
    struct regex *regex = regex_compile(pattern, true, err);
    if (regex == NULL)
        err_prefix(err, "%s", place);
    return regex;
}

static bool chooser_init(struct chooser *c, struct err *err)
{
    const struct lora_config *config = c->config;
    if (!alloc_flags(&c->target_used, config->n_target) ||
        !alloc_flags(&c->exclude_used, config->n_exclude) ||
        !alloc_flags(&c->layer_used, config->n_layer_to_transform))
        return err_no_memory(err, "the LoRA targets");
    if (config->n_target == 0 && config->target_regex != NULL) {
        c->target = compile(LORA_KEY_TARGETS, config->target_regex, err);
        if (c->target == NULL)
            return false;
    }
    if (config->n_exclude == 0 && config->exclude_regex != NULL) {
        c->exclude = compile(LORA_KEY_EXCLUDE, config->exclude_regex, err);
        if (c->exclude == NULL)
            return false;
    }
    return lora_patterns_compile(&c->ranks, LORA_KEY_RANK_PATTERN, config->rank_pattern,
                                 config->n_rank_pattern, err) &&
           lora_patterns_compile(&c->alphas, LORA_KEY_ALPHA_PATTERN, config->alpha_pattern,
                                 config->n_alpha_pattern, err);
}

static void chooser_free(struct chooser *c)
{
    regex_free(c->target);
    regex_free(c->exclude);
    free(c->target_used);
    free(c->exclude_used);
    free(c->layer_used);
    lora_patterns_free(&c->ranks);
    lora_patterns_free(&c->alphas);
}

static bool in_default(enum lora_kind kind)
{
    return kind != LORA_DT_PROJ && kind != LORA_ROUTER && kind != LORA_EMBED_TOKENS &&
           kind != LORA_LM_HEAD;
}

/* Every entry is tried, so that each is known to match something. */
static bool in_list(char *const *entries, int64_t n, const char *path, bool *used)
{
    bool hit = false;
    for (int64_t i = 0; i < n; i++) {
        if (lora_suffix_matches(path, entries[i]))
            hit = used[i] = true;
    }
    return hit;
}

static bool is_excluded(struct chooser *c, const char *path, bool *excluded, struct err *err)
{
    *excluded = in_list(c->config->exclude_modules, c->config->n_exclude, path, c->exclude_used);
    if (c->exclude == NULL)
        return true;
    if (!regex_matches(c->exclude, path, excluded, err))
        return err_prefix(err, LORA_KEY_EXCLUDE);
    c->exclude_regex_used |= *excluded;
    return true;
}

static bool is_target(struct chooser *c, const struct lora_module *m, bool *target, struct err *err)
{
    if (c->config->n_target > 0) {
        *target = in_list(c->config->target_modules, c->config->n_target, m->path, c->target_used);
        return true;
    }
    if (c->target != NULL) {
        if (!regex_matches(c->target, m->path, target, err))
            return err_prefix(err, LORA_KEY_TARGETS);
        c->target_regex_used |= *target;
        return true;
    }
    if (c->config->all_linear)
        *target = m->kind != LORA_EMBED_TOKENS && m->kind != LORA_LM_HEAD;
    else
        *target = in_default(m->kind);
    return true;
}

static bool is_named_whole(const struct lora_config *config, const char *path)
{
    for (int64_t i = 0; i < config->n_target; i++) {
        if (strcmp(config->target_modules[i], path) == 0)
            return true;
    }
    return false;
}

static bool is_in_layers(struct chooser *c, const struct lora_module *m)
{
    const struct lora_config *config = c->config;
    bool hit = config->n_layer_to_transform == 0;
    for (int64_t i = 0; i < config->n_layer_to_transform; i++) {
        if (m->layer >= 0 && config->layers_to_transform[i] == m->layer)
            hit = c->layer_used[i] = true;
    }
    return hit || is_named_whole(config, m->path);
}

static bool give_rank(struct chooser *c, const char *path, struct lora_choice *out, struct err *err)
{
    double r = (double)c->config->r, alpha = c->config->alpha;
    if (!lora_patterns_value(&c->ranks, path, &r, err) ||
        !lora_patterns_value(&c->alphas, path, &alpha, err))
        return false;
    *out = (struct lora_choice){ .on = true, .r = (int64_t)r, .alpha = alpha };
    out->scale = lora_scale(c->config, out->r, alpha);
    return true;
}

static bool choose_one(struct chooser *c, const struct lora_module *m, struct lora_choice *out,
                       struct err *err)
{
    bool excluded = false, target = false;
    *out = (struct lora_choice){ 0 };
    if (!is_excluded(c, m->path, &excluded, err) || !is_target(c, m, &target, err))
        return false;
    if (excluded || !target || !is_in_layers(c, m))
        return true;
    return give_rank(c, m->path, out, err);
}

/* Parts of a Jamba that people name and that no adapter can sit on. */
static const struct {
    const char *name, *why;
} not_adaptable[] = {
    { "conv1d", "the convolution's weight is used raw, and no engine serves a LoRA on it" },
    { "A_log", "it is a parameter and not a linear, and no engine serves a LoRA on it" },
    { "D", "it is a parameter and not a linear, and no engine serves a LoRA on it" },
    { "input_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "pre_ff_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "pre_moe_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "final_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "dt_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "b_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "c_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "B_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "C_layernorm", "a norm is no linear, and no engine serves a LoRA on it" },
    { "gate_up_proj",
      "it is transformers 5's name for an expert's gate_proj and up_proj; list those" },
    { "mamba", "it is a block, not a linear; list in_proj, x_proj and out_proj" },
    { "self_attn", "it is a block, not a linear; list q_proj, k_proj, v_proj and o_proj" },
    { "feed_forward", "it is a block, not a linear; list gate_proj, up_proj and down_proj" },
    { "experts", "it is a block, not a linear; list gate_proj, up_proj and down_proj" },
};

static const char *why_not_adaptable(const char *entry)
{
    const char *dot = strrchr(entry, '.');
    const char *last = dot == NULL ? entry : dot + 1;
    if (dot != NULL && (strcmp(last, "weight") == 0 || strcmp(last, "bias") == 0))
        return "it names a tensor; an adapter sits on a module: leave the last part out";
    for (size_t i = 0; i < sizeof not_adaptable / sizeof *not_adaptable; i++) {
        if (strcmp(last, not_adaptable[i].name) == 0)
            return not_adaptable[i].why;
    }
    return NULL;
}

/* The nearest name: a path when the entry has dots, else the last segment of one; NULL when none is
 * near. */
static const char *nearest_name(const struct chooser *c, const char *entry)
{
    if (strchr(entry, '.') == NULL) {
        const int at = text_nearest(entry, kind_names, LORA_KIND_COUNT);
        return at < 0 ? NULL : kind_names[at];
    }
    const char **paths = calloc((size_t)c->n + 1, sizeof *paths);
    if (paths == NULL) /* the message then goes without a suggestion */
        return NULL;
    for (int64_t i = 0; i < c->n; i++)
        paths[i] = c->modules[i].path;
    const int at = text_nearest(entry, paths, (int)c->n);
    free(paths);
    return at < 0 ? NULL : c->modules[at].path;
}

/* "q_proj, k_proj, ...": the last segments that this model has. */
static void list_names(const struct chooser *c, struct text *out)
{
    for (int k = 0; k < LORA_KIND_COUNT; k++) {
        bool there = false;
        for (int64_t i = 0; i < c->n && !there; i++)
            there = (int)c->modules[i].kind == k;
        if (there)
            text_printf(out, "%s%s", out->len > 0 ? ", " : "", kind_names[k]);
    }
}

static bool entry_unused(const struct chooser *c, const char *place, const char *entry,
                         struct err *err)
{
    const char *why = why_not_adaptable(entry);
    if (why != NULL)
        return err_set(err, ERR_RECIPE, "%s: '%s' cannot be adapted: %s", place, entry, why);
    const char *near = nearest_name(c, entry);
    if (near != NULL && strcmp(near, entry) != 0)
        return err_set(err, ERR_RECIPE, "%s: '%s' matches no module; did you mean '%s'?", place,
                       entry, near);
    struct text names = { 0 };
    list_names(c, &names);
    err_set(err, ERR_RECIPE, "%s: '%s' matches no module; this model has %s", place, entry,
            names.data != NULL ? names.data : "none");
    text_free(&names);
    return false;
}

static bool regex_unused(const struct chooser *c, const char *place, const char *regex,
                         struct err *err)
{
    bool has_name = false;
    for (int k = 0; k < LORA_KIND_COUNT; k++)
        has_name |= strcmp(regex, kind_names[k]) == 0;
    return err_set(
        err, ERR_RECIPE,
        "%s: regex '%s' matches no module; it must match the whole path, such as '%s'%s%s%s", place,
        regex, c->n > 1 ? c->modules[1].path : "lm_head", has_name ? ": write '.*\\." : "",
        has_name ? regex : "", has_name ? "'" : "");
}

static bool layer_unused(const struct chooser *c, int64_t layer, struct err *err)
{
    int64_t last = -1;
    for (int64_t i = 0; i < c->n; i++)
        last = c->modules[i].layer > last ? c->modules[i].layer : last;
    if (layer < 0 || layer > last)
        return err_set(err, ERR_RECIPE,
                       LORA_KEY_LAYERS ": there is no layer %" PRId64
                                       "; this model has layers 0 to %" PRId64,
                       layer, last);
    return err_set(err, ERR_RECIPE,
                   LORA_KEY_LAYERS ": layer %" PRId64 " has no module that is a target", layer);
}

static bool check_patterns(const struct lora_pattern_set *set, struct err *err)
{
    for (int64_t i = 0; i < set->n; i++) {
        if (!set->used[i])
            return err_set(
                err, ERR_RECIPE,
                "%s: '%s' matches no adapted module; a key is a regex for the end of a path",
                set->place, set->patterns[i].key);
    }
    return true;
}

static bool check_all_used(const struct chooser *c, const struct lora_choice *out, struct err *err)
{
    const struct lora_config *config = c->config;
    for (int64_t i = 0; i < config->n_target; i++) {
        if (!c->target_used[i])
            return entry_unused(c, LORA_KEY_TARGETS, config->target_modules[i], err);
    }
    if (c->target != NULL && !c->target_regex_used)
        return regex_unused(c, LORA_KEY_TARGETS, config->target_regex, err);
    for (int64_t i = 0; i < config->n_exclude; i++) {
        if (!c->exclude_used[i])
            return entry_unused(c, LORA_KEY_EXCLUDE, config->exclude_modules[i], err);
    }
    if (c->exclude != NULL && !c->exclude_regex_used)
        return regex_unused(c, LORA_KEY_EXCLUDE, config->exclude_regex, err);
    for (int64_t i = 0; i < config->n_layer_to_transform; i++) {
        if (!c->layer_used[i])
            return layer_unused(c, config->layers_to_transform[i], err);
    }
    bool any = false;
    for (int64_t i = 0; i < c->n && !any; i++)
        any = out[i].on;
    if (!any)
        return err_set(err, ERR_RECIPE,
                       LORA_KEY_TARGETS ": nothing is left to adapt; the targets are all "
                                        "excluded or outside " LORA_KEY_LAYERS);
    return check_patterns(&c->ranks, err) && check_patterns(&c->alphas, err);
}

static bool check_numbers(const struct lora_config *config, struct err *err)
{
    if (config->r < 1 || config->r > LORA_MAX_RANK)
        return err_set(err, ERR_RECIPE, "lora_r: is %" PRId64 "; expected 1 to %d", config->r,
                       LORA_MAX_RANK);
    if (!isfinite(config->alpha))
        return err_set(err, ERR_RECIPE, "lora_alpha: is %g; expected a finite number",
                       config->alpha);
    for (int64_t i = 0; i < config->n_rank_pattern; i++) {
        const double r = config->rank_pattern[i].value;
        if (!(r >= 1 && r <= LORA_MAX_RANK && r == floor(r)))
            return err_set(err, ERR_RECIPE,
                           LORA_KEY_RANK_PATTERN ": '%s' is %g; expected a whole number, 1 to %d",
                           config->rank_pattern[i].key, r, LORA_MAX_RANK);
    }
    for (int64_t i = 0; i < config->n_alpha_pattern; i++) {
        if (!isfinite(config->alpha_pattern[i].value))
            return err_set(err, ERR_RECIPE,
                           LORA_KEY_ALPHA_PATTERN ": '%s' is %g; expected a finite number",
                           config->alpha_pattern[i].key, config->alpha_pattern[i].value);
    }
    return true;
}

bool lora_choose(const struct lora_config *config, const struct lora_module *modules, int64_t n,
                 struct lora_choice *out, struct err *err)
{
    if (!check_numbers(config, err))
        return false;
    struct chooser c = { .config = config, .modules = modules, .n = n };
    bool ok = chooser_init(&c, err);
    for (int64_t i = 0; ok && i < n; i++)
        ok = choose_one(&c, &modules[i], &out[i], err);
    ok = ok && check_all_used(&c, out, err);
    chooser_free(&c);
    if (!ok && err != NULL && err->code == ERR_DATA) /* a regex's: here it comes from a recipe */
        err->code = ERR_RECIPE;
    return ok;
}

const char *lora_block_name(enum lora_block block)
{
    static const char *const names[LORA_BLOCK_COUNT] = {
        [LORA_BLOCK_ATTENTION] = "attention",
        [LORA_BLOCK_MAMBA] = "mamba",
        [LORA_BLOCK_MLP] = "mlp",
        [LORA_BLOCK_EXPERTS] = "experts",
        [LORA_BLOCK_ROUTER] = "router",
        [LORA_BLOCK_EMBEDDING] = "embedding",
        [LORA_BLOCK_HEAD] = "head",
    };
    return names[block];
}

enum lora_block lora_block_of(const struct lora_module *module)
{
    switch (module->kind) {
    case LORA_Q_PROJ:
    case LORA_K_PROJ:
    case LORA_V_PROJ:
    case LORA_O_PROJ:
        return LORA_BLOCK_ATTENTION;
    case LORA_IN_PROJ:
    case LORA_X_PROJ:
    case LORA_DT_PROJ:
    case LORA_OUT_PROJ:
        return LORA_BLOCK_MAMBA;
    case LORA_ROUTER:
        return LORA_BLOCK_ROUTER;
    case LORA_EMBED_TOKENS:
        return LORA_BLOCK_EMBEDDING;
    case LORA_LM_HEAD:
        return LORA_BLOCK_HEAD;
    default:
        return module->expert >= 0 ? LORA_BLOCK_EXPERTS : LORA_BLOCK_MLP;
    }
}

bool lora_param_count(const struct lora_module *module, int64_t r, int64_t *out)
{
    return !__builtin_add_overflow(module->in, module->out, out) &&
           !__builtin_mul_overflow(*out, r, out);
}

static bool count_in(struct lora_count *count, const struct lora_choice *choice, int64_t n_param)
{
    count->n_module++;
    if (!choice->on)
        return true;
    if (count->n_adapted == 0 || choice->r < count->r_min)
        count->r_min = choice->r;
    if (choice->r > count->r_max)
        count->r_max = choice->r;
    count->n_adapted++;
    return !__builtin_add_overflow(count->n_param, n_param, &count->n_param);
}

bool lora_summarize(const struct lora_module *modules, int64_t n, const struct lora_choice *choices,
                    struct lora_summary *out, struct err *err)
{
    *out = (struct lora_summary){ 0 };
    for (int64_t i = 0; i < n; i++) {
        const enum lora_block block = lora_block_of(&modules[i]);
        int64_t n_param = 0;
        if (!lora_param_count(&modules[i], choices[i].on ? choices[i].r : 0, &n_param) ||
            !count_in(&out->block[block], &choices[i], n_param) ||
            !count_in(&out->kind[block][modules[i].kind], &choices[i], n_param) ||
            !count_in(&out->total, &choices[i], n_param))
            return err_set(err, ERR_RECIPE,
                           "lora_r: the adapter has more parameters than can be counted");
    }
    return true;
}
