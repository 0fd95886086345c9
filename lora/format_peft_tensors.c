/* Reading adapter_model.safetensors: which modules it adapts, and into an adapter. */
#include "lora/format_peft.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/format/safetensors.h"
#include "lora/pattern.h"
#include "lora/peft_names.h"

/* ---- names ---- */

/* The module a tensor belongs to (-1: none) and which part of it. A base's matrix beside an adapter
 * ("*.base_layer.weight") is PEFT_BASE_LAYER whatever its module. */
struct owner {
    int64_t module;
    enum peft_part part;
};

static struct owner owner_of(const char *name, const struct lora_module *modules, int64_t n)
{
    if (text_ends_with(name, ".base_layer.weight"))
        return (struct owner){ -1, PEFT_BASE_LAYER };
    if (!text_starts_with(name, PEFT_PREFIX))
        return (struct owner){ -1, PEFT_NO_PART };
    const char *path = name + strlen(PEFT_PREFIX);
    for (int64_t i = 0; i < n; i++) {
        if (!text_starts_with(path, modules[i].path))
            continue;
        for (enum peft_part part = PEFT_A; part <= PEFT_B; part++) {
            char expected[PEFT_NAME_SIZE];
            peft_tensor_name(&modules[i], part, expected);
            if (strcmp(name, expected) == 0)
                return (struct owner){ i, part };
        }
    }
    return (struct owner){ -1, PEFT_NO_PART };
}

static const char *nearest_module(const char *name, const struct lora_module *modules, int64_t n)
{
    const char **paths = calloc((size_t)n + 1, sizeof *paths);
    const char *lora = strstr(name, ".lora_");
    char *path =
        lora == NULL || !text_starts_with(name, PEFT_PREFIX)
            ? NULL
            : text_copy_n(name + strlen(PEFT_PREFIX), (size_t)(lora - name) - strlen(PEFT_PREFIX));
    int at = -1;
    if (paths != NULL && path != NULL) {
        for (int64_t i = 0; i < n; i++)
            paths[i] = modules[i].path;
        at = text_nearest(path, paths, (int)n);
    }
    free(paths);
    free(path);
    return at < 0 ? NULL : modules[at].path;
}

/* A tensor that is no A or B of a module of this model: says what it is, as well as can be told. */
static bool refuse_tensor(const char *file, const char *name, const struct lora_module *modules,
                          int64_t n, struct err *err)
{
    if (strstr(name, "lora_magnitude_vector") != NULL)
        return err_set(
            err, ERR_DATA,
            "%s: tensor '%s': DoRA is not supported; merge that adapter into the base first", file,
            name);
    if (strstr(name, ".experts.lora_") != NULL || strstr(name, ".experts.base_layer.lora_") != NULL)
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s': is of fused experts, as transformers 5 trains them; only "
                       "adapters with "
                       "a pair of tensors per expert are read",
                       file, name);
    if (strstr(name, ".lora_") == NULL)
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s': is no LoRA tensor; expected '%s', a module's path and "
                       "'.lora_A.weight' or '.lora_B.weight'",
                       file, name, PEFT_PREFIX);
    const char *near = nearest_module(name, modules, n);
    return err_set(err, ERR_DATA, "%s: tensor '%s': this model has no such module%s%s%s", file,
                   name, near != NULL ? "; the nearest is '" : "", near != NULL ? near : "",
                   near != NULL ? "'" : "");
}

/* ---- shapes ---- */

static bool check_type(const char *file, const struct safetensors_tensor *t, struct err *err)
{
    return t->dtype == DTYPE_F32 || t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16 ||
           err_set(err, ERR_DATA, "%s: tensor '%s': has type %s; expected F32, BF16 or F16", file,
                   t->name, dtype_name(t->dtype));
}

static void shape_text(const struct safetensors_tensor *t, struct text *out)
{
    text_puts(out, "(");
    for (int i = 0; i < t->n_dim; i++)
        text_printf(out, "%s%" PRId64, i > 0 ? ", " : "", t->dims[i]);
    text_puts(out, ")");
}

static bool check_shape(const char *file, const struct safetensors_tensor *t, int64_t rows,
                        int64_t cols, struct err *err)
{
    if (t->n_dim == 2 && t->dims[0] == rows && t->dims[1] == cols)
        return true;
    struct text shape = { 0 };
    shape_text(t, &shape);
    err_set(err, ERR_DATA, "%s: tensor '%s': shape %s, expected (%" PRId64 ", %" PRId64 ")", file,
            t->name, shape.data != NULL ? shape.data : "?", rows, cols);
    text_free(&shape);
    return false;
}

/* ---- the file ---- */

static bool open_tensors(const char *dir, char **path, struct safetensors *st, struct err *err)
{
    *path = file_join(dir, PEFT_TENSORS_NAME);
    if (*path == NULL)
        return err_no_memory(err, dir);
    char *pickle = file_join(dir, "adapter_model.bin");
    const bool only_pickle = pickle != NULL && !file_exists(*path) && file_exists(pickle);
    free(pickle);
    if (only_pickle)
        return err_set(
            err, ERR_NO_INPUT,
            "%s: is missing; adapter_model.bin beside it is a pickle, which is not read: load the "
            "adapter with peft and save it again",
            *path);
    return safetensors_open(*path, st, err);
}

/* ---- choices ---- */

struct scan {
    const char *file;
    const struct safetensors *st;
    const struct lora_module *modules;
    int64_t n;
    struct lora_pattern_set ranks, alphas;
};

static const struct safetensors_tensor *part_of(const struct safetensors *st,
                                                const struct lora_module *m, enum peft_part part)
{
    char name[PEFT_NAME_SIZE];
    peft_tensor_name(m, part, name);
    return safetensors_find(st, name);
}

static bool missing(const char *file, const struct lora_module *m, enum peft_part part,
                    struct err *err)
{
    char name[PEFT_NAME_SIZE], other[PEFT_NAME_SIZE];
    peft_tensor_name(m, part, name);
    peft_tensor_name(m, part == PEFT_A ? PEFT_B : PEFT_A, other);
    return err_set(err, ERR_DATA, "%s: tensor '%s' is missing; '%s' is there", file, name, other);
}

static bool choose_from(struct scan *s, const struct lora_config *config,
                        const struct lora_module *m, struct lora_choice *out, struct err *err)
{
    const struct safetensors_tensor *a = part_of(s->st, m, PEFT_A), *b = part_of(s->st, m, PEFT_B);
    *out = (struct lora_choice){ 0 };
    if (a == NULL && b == NULL)
        return true;
    if (a == NULL || b == NULL)
        return missing(s->file, m, a == NULL ? PEFT_A : PEFT_B, err);
    const int64_t rank = a->n_dim > 0 && a->dims[0] > 0 ? a->dims[0] : 1;
    if (!check_shape(s->file, a, rank, m->in, err) || !check_shape(s->file, b, m->out, rank, err))
        return false;
    double r = (double)config->r, alpha = config->alpha;
    if (!lora_patterns_value(&s->ranks, m->path, &r, err) ||
        !lora_patterns_value(&s->alphas, m->path, &alpha, err))
        return false;
    if (r != (double)rank)
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s': has rank %" PRId64 ", but " PEFT_CONFIG_NAME
                       " gives %.0f; the scale of the adapter would be a guess",
                       s->file, a->name, rank, r);
    *out = (struct lora_choice){
        .on = true, .r = rank, .alpha = alpha, .scale = lora_scale(config, rank, alpha)
    };
    return true;
}

/* Every tensor belongs to a module of the model, and to a slot where there is an adapter. */
static bool check_owners(const struct scan *s, const struct lora_adapter *adapter, struct err *err)
{
    for (int64_t i = 0; i < s->st->n_tensor; i++) {
        const char *name = s->st->tensors[i].name;
        const struct owner o = owner_of(name, s->modules, s->n);
        if (o.part == PEFT_BASE_LAYER)
            continue;
        if (o.module < 0)
            return refuse_tensor(s->file, name, s->modules, s->n, err);
        if (adapter != NULL && lora_adapter_slot(adapter, o.module) == NULL)
            return err_set(err, ERR_DATA, "%s: tensor '%s': '%s' is not adapted here", s->file,
                           name, s->modules[o.module].path);
    }
    return true;
}

bool peft_choices_from_tensors(const char *dir, const struct lora_module *modules, int64_t n,
                               const struct lora_config *config, struct lora_choice *choices,
                               struct err *err)
{
    char *path = NULL;
    struct safetensors st = { 0 };
    struct scan s = { .st = &st, .modules = modules, .n = n };
    bool ok = open_tensors(dir, &path, &st, err);
    s.file = path;
    ok = ok &&
         lora_patterns_compile(&s.ranks, PEFT_CONFIG_NAME ": \"rank_pattern\"",
                               config->rank_pattern, config->n_rank_pattern, err) &&
         lora_patterns_compile(&s.alphas, PEFT_CONFIG_NAME ": \"alpha_pattern\"",
                               config->alpha_pattern, config->n_alpha_pattern, err) &&
         check_owners(&s, NULL, err);
    bool any = false;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = choose_from(&s, config, &modules[i], &choices[i], err);
        any |= ok && choices[i].on;
    }
    if (ok && !any)
        ok = err_set(err, ERR_DATA, "%s: has no LoRA tensors", path);
    lora_patterns_free(&s.ranks);
    lora_patterns_free(&s.alphas);
    safetensors_close(&st);
    free(path);
    return ok;
}

/* ---- values ---- */

static bool read_into(const char *file, const struct safetensors *st, const struct lora_slot *slot,
                      enum peft_part part, struct err *err)
{
    const struct lora_module *m = slot->module;
    const struct safetensors_tensor *t = part_of(st, m, part);
    if (t == NULL) {
        char name[PEFT_NAME_SIZE];
        peft_tensor_name(m, part, name);
        return err_set(err, ERR_DATA, "%s: tensor '%s' is missing", file, name);
    }
    const int64_t rows = part == PEFT_A ? slot->rank : m->out,
                  cols = part == PEFT_A ? m->in : slot->rank;
    if (!check_type(file, t, err) || !check_shape(file, t, rows, cols, err))
        return false;
    real *to = part == PEFT_A ? slot->a : slot->b;
    dtype_to_real(t->dtype, t->data, rows * cols, to);
    for (int64_t i = 0; i < rows * cols; i++) {
        if (!isfinite((double)to[i]))
            return err_set(err, ERR_DATA,
                           "%s: tensor '%s': value %" PRId64 " is %g; expected finite numbers",
                           file, t->name, i, (double)to[i]);
    }
    return true;
}

bool peft_read_tensors(const char *dir, struct lora_adapter *adapter, struct err *err)
{
    char *path = NULL;
    struct safetensors st = { 0 };
    struct scan s = { .st = &st, .modules = adapter->modules, .n = adapter->n_module };
    bool ok = open_tensors(dir, &path, &st, err);
    s.file = path;
    ok = ok && check_owners(&s, adapter, err);
    for (int64_t i = 0; ok && i < adapter->n_slot; i++)
        ok = read_into(path, &st, &adapter->slots[i], PEFT_A, err) &&
             read_into(path, &st, &adapter->slots[i], PEFT_B, err);
    safetensors_close(&st);
    free(path);
    return ok;
}
