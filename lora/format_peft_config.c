/* Reading adapter_config.json: what we can continue from, and a refusal by name of what we cannot.
 */
#include "lora/format_peft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "lora/format_peft_layout.h"

enum { CONFIG_LIMIT = 16 << 20, LIST_LIMIT = 1 << 20 };

/* ---- what is refused ---- */

/* A key that must be absent, null, false, empty or `allowed`; else `why`. */
static const struct {
    const char *key, *allowed, *why;
} must_be_off[] = {
    { "use_dora", NULL, "DoRA is not supported; merge that adapter into the base first" },
    { "modules_to_save", NULL,
      "fully trained modules are not supported; merge that adapter into the base first" },
    { "bias", "none", "trained biases are not supported; merge that adapter into the base first" },
    { "lora_bias", NULL,
      "a bias on lora_B is not supported; merge that adapter into the base first" },
    { "fan_in_fan_out", NULL, "transposed weights do not occur in Jamba" },
    { "layer_replication", NULL, "repeated layers are not supported" },
    { "trainable_token_indices", NULL,
      "trained token rows are not supported; merge that adapter into the base first" },
    { "ensure_weight_tying", NULL,
      "tied adapters are not supported; merge that adapter into the base first" },
    { "megatron_config", NULL, "Megatron's parallel layers are not supported" },
    { "use_qalora", NULL, "QA-LoRA is not supported" },
    { "use_bdlora", NULL, "block-diagonal LoRA is not supported" },
    { "alora_invocation_tokens", NULL, "activated LoRA is not supported" },
    { "arrow_config", NULL, "Arrow routing is not supported" },
    { "kasa_config", NULL, "KaSA changes the base; merge that adapter into the base first" },
    { "corda_config", NULL, "CorDA changes the base; convert the adapter to plain LoRA first" },
    { "lora_ga_config", NULL, "LoRA-GA changes the base; convert the adapter to plain LoRA first" },
    { "velora_config", NULL, "VeLoRA is not supported" },
    { "monteclora_config", NULL, "MonteCLoRA is not supported" },
    { "loftq_config", NULL, "LoftQ changes the base; convert the adapter to plain LoRA first" },
    { "layers_pattern", "layers", "Jamba's layers are in 'layers'" },
    { "task_type", "CAUSAL_LM", "only causal language models can be continued" },
};

/* Read below, or of no consequence for the numbers. */
static const char *const known_keys[] = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "use_rslora",
};

static bool is_off(const json_t *value, const char *allowed)
{
    if (json_is_array(value) && allowed != NULL && json_array_size(value) == 1)
        value = json_array_get(value, 0);
    if (json_is_string(value))
        return allowed != NULL && strcmp(json_string_value(value), allowed) == 0;
    return json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

/* With the value, short and on one line. */
static bool refuse(const char *place, const char *key, const json_t *value, const char *why,
                   struct err *err)
{
    char *text = json_to_text(value, JSON_ENCODE_ANY | JSON_COMPACT);
    err_set(err, ERR_DATA, "%s: \"%s\" is %.60s: %s", place, key, text != NULL ? text : "set", why);
    free(text);
    return false;
}

static bool is_known(const char *key)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++) {
        if (strcmp(key, known_keys[i]) == 0)
            return true;
    }
    return false;
}

static bool check_key(const char *key, const json_t *value, const char *place, struct err *err)
{
    for (size_t i = 0; i < sizeof must_be_off / sizeof *must_be_off; i++) {
        if (strcmp(key, must_be_off[i].key) == 0)
            return is_off(value, must_be_off[i].allowed) ||
                   refuse(place, key, value, must_be_off[i].why, err);
    }
    /* A key from a later PEFT: off, it changes nothing; on, we cannot know what it means. */
    return is_known(key) || is_off(value, NULL) ||
           refuse(place, key, value,
                  "this key is unknown here and may change what the adapter computes", err);
}

/* True, false, "gaussian", "eva" and "orthogonal" leave the base alone; "pissa", "olora", "corda",
 * "loftq", "lora_ga" and whatever comes next do not, or may not. */
static bool check_init(json_t *root, const char *place, struct err *err)
{
    static const char *const harmless[] = { "gaussian", "eva", "orthogonal" };
    const json_t *value = json_object_get(root, "init_lora_weights");
    if (value == NULL || json_is_boolean(value) || json_is_null(value))
        return true;
    for (size_t i = 0; json_is_string(value) && i < sizeof harmless / sizeof *harmless; i++) {
        if (strcmp(json_string_value(value), harmless[i]) == 0)
            return true;
    }
    return refuse(place, "init_lora_weights", value,
                  "this initialisation changes the base; convert the adapter to plain LoRA first",
                  err);
}

static bool check_refusals(json_t *root, const char *place, struct err *err)
{
    const char *type = NULL;
    if (!json_get_string(root, "peft_type", true, &type, place, err))
        return false;
    if (strcmp(type, "LORA") != 0)
        return err_set(err, ERR_DATA, "%s: \"peft_type\" is \"%s\"; only \"LORA\" can be continued",
                       place, type);
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        if (!check_key(key, value, place, err))
            return false;
    }
    return check_init(root, place, err);
}

/* ---- lists ---- */

static char *copy_string(const json_t *value, const char *place, const char *key, struct err *err)
{
    if (!json_is_string(value)) {
        err_set(err, ERR_DATA, "%s: \"%s\" has %s in it; expected strings", place, key,
                json_type_name(value));
        return NULL;
    }
    const char *s = json_string_value(value);
    if (strlen(s) != json_string_length(value)) {
        err_set(err, ERR_DATA, "%s: \"%s\" has a string with a NUL character in it", place, key);
        return NULL;
    }
    char *copy = text_copy(s);
    if (copy == NULL)
        err_no_memory(err, place);
    return copy;
}

static bool check_length(const json_t *list, const char *place, const char *key, struct err *err)
{
    return json_array_size(list) <= LIST_LIMIT ||
           err_set(err, ERR_DATA, "%s: \"%s\" has %zu entries; expected at most %d", place, key,
                   json_array_size(list), LIST_LIMIT);
}

/* target_modules and exclude_modules: a list of suffixes, a regex, or (targets) "all-linear". */
struct names {
    const char *key;
    char ***list;
    int64_t *n;
    char **regex;
    bool *all_linear; /* NULL: no such word */
};

static bool read_names(json_t *root, const struct names *names, const char *place, struct err *err)
{
    const json_t *value = json_object_get(root, names->key);
    if (value == NULL || json_is_null(value))
        return true;
    if (json_is_string(value)) {
        if (names->all_linear != NULL && strcasecmp(json_string_value(value), "all-linear") == 0) {
            *names->all_linear = true;
            return true;
        }
        *names->regex = copy_string(value, place, names->key, err);
        return *names->regex != NULL;
    }
    if (!json_is_array(value))
        return err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected a list of names or a string",
                       place, names->key, json_type_name(value));
    if (!check_length(value, place, names->key, err))
        return false;
    *names->list = calloc(json_array_size(value) + 1, sizeof **names->list);
    if (*names->list == NULL)
        return err_no_memory(err, place);
    for (size_t i = 0; i < json_array_size(value); i++) {
        char *copy = copy_string(json_array_get(value, i), place, names->key, err);
        if (copy == NULL)
            return false;
        (*names->list)[(*names->n)++] = copy;
    }
    return true;
}

static bool read_layers(json_t *root, struct lora_config *out, const char *place, struct err *err)
{
    const char *const key = "layers_to_transform";
    const json_t *value = json_object_get(root, key);
    if (value == NULL || json_is_null(value))
        return true;
    if (!json_is_array(value) && !json_is_integer(value))
        return err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected an integer or a list of integers",
                       place, key, json_type_name(value));
    if (!check_length(value, place, key, err))
        return false;
    const size_t n = json_is_array(value) ? json_array_size(value) : 1;
    out->layers_to_transform = calloc(n + 1, sizeof *out->layers_to_transform);
    if (out->layers_to_transform == NULL)
        return err_no_memory(err, place);
    for (size_t i = 0; i < n; i++) {
        const json_t *layer = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(layer))
            return err_set(err, ERR_DATA, "%s: \"%s\" has %s in it; expected integers", place, key,
                           json_type_name(layer));
        out->layers_to_transform[out->n_layer_to_transform++] = json_integer_value(layer);
    }
    return true;
}

/* ---- patterns and fused experts ---- */

static const char *const fused_names[] = { "feed_forward.experts.gate_up_proj",
                                           "feed_forward.experts.down_proj" };

/* PEFT goes by the end of a parameter's name: "down_proj" or "layers.3.feed_forward..." say it,
 * too.
 */
static bool is_fused_name(const char *name)
{
    for (int i = 0; i < 2; i++) {
        if (lora_suffix_matches(name, fused_names[i]) || lora_suffix_matches(fused_names[i], name))
            return true;
    }
    return false;
}

/* "feed_forward.router.weight": the matrix of a linear, adapted as a parameter. */
static bool is_weight_name(const char *name)
{
    char *path = text_copy(name);
    bool is = false;
    if (path != NULL && text_ends_with(path, ".weight")) {
        path[strlen(path) - strlen(".weight")] = '\0';
        for (int k = 0; k < LORA_KIND_COUNT; k++)
            is |= lora_suffix_matches(path, lora_kind_name((enum lora_kind)k));
    }
    free(path);
    return is;
}

/* Whether a pattern's key is of parameters alone. "down_proj" is of dense MLPs as well. */
static bool is_parameter_key(const char *key)
{
    return (is_fused_name(key) && strcmp(key, "down_proj") != 0) || is_weight_name(key);
}

/* The tensors say what is adapted; here is only seen to it that each entry can be. */
static bool check_parameters(json_t *root, bool *present, const char *place, struct err *err)
{
    const char *const key = "target_parameters";
    const json_t *value = json_object_get(root, key);
    *present = false;
    if (value == NULL || json_is_null(value))
        return true;
    if (!json_is_array(value))
        return err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected a list of names", place, key,
                       json_type_name(value));
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *name = json_array_get(value, i);
        if (!json_is_string(name))
            return err_set(err, ERR_DATA, "%s: \"%s\" has %s in it; expected strings", place, key,
                           json_type_name(name));
        if (!is_fused_name(json_string_value(name)) && !is_weight_name(json_string_value(name)))
            return err_set(err, ERR_DATA,
                           "%s: \"%s\" has \"%.100s\"; only '%s', '%s' and the '.weight' of a "
                           "module that can be adapted are understood",
                           place, key, json_string_value(name), fused_names[0], fused_names[1]);
        *present = true;
    }
    return true;
}

struct patterns {
    const char *key;
    struct lora_pattern **list;
    int64_t *n;
    bool whole;           /* ranks */
    bool skip_parameters; /* leave out the keys of parameters */
};

static bool read_pattern(const struct patterns *p, const char *key, const json_t *value,
                         const char *place, struct err *err)
{
    const double v = json_number_value(value);
    if (p->whole && !(json_is_integer(value) && v >= 1 && v <= LORA_MAX_RANK))
        return err_set(err, ERR_DATA, "%s: \"%s\": \"%.100s\" is no integer from 1 to %d", place,
                       p->key, key, LORA_MAX_RANK);
    if (!json_is_number(value) || !isfinite(v))
        return err_set(err, ERR_DATA, "%s: \"%s\": \"%.100s\" is %s; expected a number", place,
                       p->key, key, json_type_name(value));
    if (p->skip_parameters && is_parameter_key(key))
        return true;
    char *copy = text_copy(key);
    if (copy == NULL)
        return err_no_memory(err, place);
    (*p->list)[(*p->n)++] = (struct lora_pattern){ .key = copy, .value = v };
    return true;
}

static bool read_patterns(json_t *root, const struct patterns *p, const char *place,
                          struct err *err)
{
    json_t *object = json_object_get(root, p->key);
    if (object == NULL || json_is_null(object))
        return true;
    if (!json_is_object(object))
        return err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected an object", place, p->key,
                       json_type_name(object));
    if (json_object_size(object) > LIST_LIMIT)
        return err_set(err, ERR_DATA, "%s: \"%s\" has %zu entries; expected at most %d", place,
                       p->key, json_object_size(object), LIST_LIMIT);
    *p->list = calloc(json_object_size(object) + 1, sizeof **p->list);
    if (*p->list == NULL)
        return err_no_memory(err, place);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) /* in the file's order, which decides */
    {
        if (!read_pattern(p, key, value, place, err))
            return false;
    }
    return true;
}

/* ---- the whole ---- */

static bool read_numbers(json_t *root, struct lora_config *out, const char *place, struct err *err)
{
    out->r = 8; /* PEFT's defaults */
    out->alpha = 8;
    if (!json_get_int(root, "r", false, 1, LORA_MAX_RANK, &out->r, place, err) ||
        !json_get_real(root, "lora_alpha", false, &out->alpha, place, err) ||
        !json_get_real(root, "lora_dropout", false, &out->dropout, place, err) ||
        !json_get_bool(root, "use_rslora", false, &out->use_rslora, place, err))
        return false;
    if (!isfinite(out->alpha))
        return err_set(err, ERR_DATA, "%s: \"lora_alpha\" is not finite", place);
    return (out->dropout >= 0 && out->dropout < 1) ||
           err_set(err, ERR_DATA, "%s: \"lora_dropout\" is %g; expected 0 to below 1", place,
                   out->dropout);
}

/* "router.weight" among target_parameters says what "router" says among target_modules. */
static bool add_parameters(json_t *root, struct lora_config *out, const char *place,
                           struct err *err)
{
    const json_t *list = json_object_get(root, "target_parameters");
    const size_t n = json_array_size(list);
    if (n == 0 || out->target_regex != NULL || out->all_linear)
        return true;
    char **grown =
        realloc(out->target_modules, ((size_t)out->n_target + n + 1) * sizeof *out->target_modules);
    if (grown == NULL)
        return err_no_memory(err, place);
    out->target_modules = grown;
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!is_weight_name(name))
            continue;
        char *module = text_copy_n(name, strlen(name) - strlen(".weight"));
        if (module == NULL)
            return err_no_memory(err, place);
        out->target_modules[out->n_target++] = module;
    }
    return true;
}

static bool read_config(json_t *root, struct lora_config *out, const char *place, struct err *err)
{
    const struct names targets = { "target_modules", &out->target_modules, &out->n_target,
                                   &out->target_regex, &out->all_linear };
    const struct names excludes = { "exclude_modules", &out->exclude_modules, &out->n_exclude,
                                    &out->exclude_regex, NULL };
    bool parameters = false;
    if (!check_refusals(root, place, err) || !read_numbers(root, out, place, err) ||
        !read_names(root, &targets, place, err) || !read_names(root, &excludes, place, err) ||
        !read_layers(root, out, place, err) || !check_parameters(root, &parameters, place, err) ||
        !add_parameters(root, out, place, err))
        return false;
    const struct patterns ranks = { "rank_pattern", &out->rank_pattern, &out->n_rank_pattern, true,
                                    parameters };
    const struct patterns alphas = { "alpha_pattern", &out->alpha_pattern, &out->n_alpha_pattern,
                                     false, parameters };
    return read_patterns(root, &ranks, place, err) && read_patterns(root, &alphas, place, err);
}

bool peft_read_config(const char *dir, struct lora_config *out, struct err *err)
{
    *out = (struct lora_config){ 0 };
    char *path = file_join(dir, PEFT_CONFIG_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    json_t *root = json_load_object(path, CONFIG_LIMIT, err);
    const bool ok = root != NULL && read_config(root, out, path, err);
    json_decref(root);
    free(path);
    return ok;
}

/* ---- parameters ---- */

/* "0.18.1" and earlier: PEFT took a stack of experts' matrices for (expert, in, out). */
static bool is_before_0_19(const char *version)
{
    char *end = NULL;
    const long major = strtol(version, &end, 10);
    return end != version && major == 0 && *end == '.' && strtol(end + 1, NULL, 10) < 19;
}

static bool read_parameters(json_t *root, struct peft_parameters *out, const char *place,
                            struct err *err)
{
    const struct names names = { "target_parameters", &out->names, &out->n_name, NULL, NULL };
    const struct patterns ranks = { "rank_pattern", &out->ranks, &out->n_rank, true, false };
    const struct patterns alphas = { "alpha_pattern", &out->alphas, &out->n_alpha, false, false };
    const json_t *version = json_object_get(root, "peft_version");
    out->swapped = json_is_string(version) && is_before_0_19(json_string_value(version));
    for (size_t i = 0; i < json_array_size(json_object_get(root, names.key)); i++) {
        const json_t *name = json_array_get(json_object_get(root, names.key), i);
        out->fused |= json_is_string(name) && is_fused_name(json_string_value(name));
        out->router |=
            json_is_string(name) && text_ends_with(json_string_value(name), "router.weight");
    }
    return read_names(root, &names, place, err) && read_patterns(root, &ranks, place, err) &&
           read_patterns(root, &alphas, place, err);
}

bool peft_read_parameters(const char *dir, struct peft_parameters *out, struct err *err)
{
    *out = (struct peft_parameters){ 0 };
    char *path = file_join(dir, PEFT_CONFIG_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    if (!file_exists(path)) { /* then there are no parameters */
        free(path);
        return true;
    }
    json_t *root = json_load_object(path, CONFIG_LIMIT, err);
    bool unused;
    const bool ok = root != NULL && check_parameters(root, &unused, path, err) &&
                    read_parameters(root, out, path, err);
    json_decref(root);
    free(path);
    if (!ok)
        peft_parameters_free(out);
    return ok;
}

static void free_patterns(struct lora_pattern *patterns, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free(patterns[i].key);
    free(patterns);
}

void peft_parameters_free(struct peft_parameters *p)
{
    for (int64_t i = 0; i < p->n_name; i++)
        free(p->names[i]);
    free(p->names);
    free_patterns(p->ranks, p->n_rank);
    free_patterns(p->alphas, p->n_alpha);
    *p = (struct peft_parameters){ 0 };
}
