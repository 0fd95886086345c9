/* inspect: a PEFT adapter's folder. The base model is not asked: what is adapted is read off the
 * tensors' names and shapes. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/inspect.h"
#include "kernels/core/file.h"
#include "kernels/core/manifest.h"
#include "kernels/core/text.h"
#include "lora/config.h"
#include "lora/format_peft.h"
#include "lora/pattern.h"
#include "lora/peft_names.h"
#include "lora/target.h"

/* The ||scale B A|| of a module costs rank^2 (in + out) operations: not done past this rank. */
enum { MAX_NORM_RANK = 256 };

/* A line of the table: the modules of one kind within one block. */
struct row {
    int64_t n_module, n_param, r_min, r_max;
    double norm; /* the largest */
    bool has_norm;
};

struct scan {
    const struct lora_config *config;
    struct lora_pattern_set alphas;
    struct row rows[LORA_BLOCK_COUNT][LORA_KIND_COUNT];
    struct inspect_types types;
    int64_t n_param, n_other; /* tensors that are no pair of a module */
};

/* ---- names ---- */

/* The module's path, from its A's name: "base_model.model.lm_head.lora_A.weight". False: no A. */
static bool path_of(const char *name, struct lora_module *out)
{
    static const char *const ends[] = { ".lora_A.weight", ".lora_embedding_A" };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (!text_starts_with(name, PEFT_PREFIX) || !text_ends_with(name, ends[i]))
            continue;
        const size_t n = strlen(name) - strlen(PEFT_PREFIX) - strlen(ends[i]);
        if (n == 0 || n >= sizeof out->path)
            return false;
        memcpy(out->path, name + strlen(PEFT_PREFIX), n);
        out->path[n] = '\0';
        return true;
    }
    return false;
}

static bool module_of(const char *name, struct lora_module *out)
{
    *out = (struct lora_module){ .layer = -1, .expert = -1, .n_expert = 1 };
    if (!path_of(name, out))
        return false;
    const char *dot = strrchr(out->path, '.'), *last = dot != NULL ? dot + 1 : out->path;
    for (int k = 0; k < LORA_KIND_COUNT; k++) {
        if (strcmp(last, lora_kind_name((enum lora_kind)k)) != 0)
            continue;
        out->kind = (enum lora_kind)k;
        out->expert = strstr(out->path, ".experts.") != NULL ? 0 : -1;
        return true;
    }
    return false;
}

/* ---- ||B A|| ---- */

/* gram (r, r) = X X^T of the r vectors of n values; `across`: they are the columns of (n, r). */
static bool gram(const struct safetensors_tensor *t, int64_t r, int64_t n, bool across, double *out)
{
    real *values = malloc((size_t)(r * n) * sizeof *values);
    if (values == NULL)
        return false;
    dtype_to_real(t->dtype, t->data, r * n, values);
    const int64_t row = across ? 1 : n, col = across ? r : 1;
    for (int64_t i = 0; i < r; i++) {
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += (double)values[i * row + k * col] * (double)values[j * row + k * col];
            out[i * r + j] = out[j * r + i] = sum;
        }
    }
    free(values);
    return true;
}

/* ||B A||_F^2 = sum over i, j of (B^T B)_ij (A A^T)_ij: the (out, in) product is never formed. */
static bool product_norm(const struct safetensors_tensor *a, const struct safetensors_tensor *b,
                         double *out)
{
    const int64_t r = a->dims[0];
    double *aa = calloc((size_t)(r * r), sizeof *aa), *bb = calloc((size_t)(r * r), sizeof *bb);
    const bool ok = aa != NULL && bb != NULL && gram(a, r, a->dims[1], false, aa) &&
                    gram(b, r, b->dims[0], true, bb);
    double sum = 0;
    for (int64_t i = 0; ok && i < r * r; i++)
        sum += aa[i] * bb[i];
    free(aa);
    free(bb);
    *out = sqrt(sum > 0 || isnan(sum) ? sum : 0);
    return ok;
}

/* ---- a module ---- */

static bool is_float(const struct safetensors_tensor *t)
{
    return t->dtype == DTYPE_F32 || t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16 ||
           t->dtype == DTYPE_F64;
}

static bool is_pair(const struct safetensors_tensor *a, const struct safetensors_tensor *b)
{
    return b != NULL && a->n_dim == 2 && b->n_dim == 2 && a->dims[0] > 0 && a->dims[1] > 0 &&
           b->dims[0] > 0 && a->dims[0] == b->dims[1] && is_float(a) && is_float(b);
}

static void count_rank(struct row *row, int64_t r)
{
    row->r_min = row->n_module == 0 || r < row->r_min ? r : row->r_min;
    row->r_max = r > row->r_max ? r : row->r_max;
    row->n_module++;
}

static bool add_norm(struct scan *s, const struct lora_module *m,
                     const struct safetensors_tensor *a, const struct safetensors_tensor *b,
                     struct row *row, struct err *err)
{
    double alpha = s->config->alpha, norm = 0;
    if (a->dims[0] > MAX_NORM_RANK)
        return true;
    if (!lora_patterns_value(&s->alphas, m->path, &alpha, err))
        return false;
    if (!product_norm(a, b, &norm))
        return err_no_memory(err, m->path);
    norm *= fabs(lora_scale(s->config, a->dims[0], alpha));
    if (!row->has_norm || norm > row->norm || isnan(norm))
        row->norm = norm;
    row->has_norm = true;
    return true;
}

static bool add_tensor(struct scan *s, const struct safetensors *st,
                       const struct safetensors_tensor *a, struct err *err)
{
    struct lora_module m;
    inspect_add_tensor(&s->types, a);
    const bool is_b =
        text_ends_with(a->name, ".lora_B.weight") || text_ends_with(a->name, ".lora_embedding_B");
    if (is_b)
        return true; /* counted with its A */
    if (!module_of(a->name, &m)) {
        s->n_other++;
        return true;
    }
    char name[PEFT_NAME_SIZE];
    peft_tensor_name(&m, PEFT_B, name);
    const struct safetensors_tensor *b = safetensors_find(st, name);
    if (!is_pair(a, b))
        return err_set(err, ERR_DATA, "%s: tensor '%s' does not go with '%s'%s", PEFT_TENSORS_NAME,
                       a->name, name, b == NULL ? ", which is missing" : "");
    struct row *row = &s->rows[lora_block_of(&m)][m.kind];
    const int64_t n_param = a->dims[0] * a->dims[1] + b->dims[0] * b->dims[1];
    count_rank(row, a->dims[0]);
    row->n_param += n_param;
    s->n_param += n_param;
    return add_norm(s, &m, a, b, row, err);
}

static bool scan_tensors(struct scan *s, const char *dir, struct err *err)
{
    struct safetensors st = { 0 };
    char *path = file_join(dir, PEFT_TENSORS_NAME);
    bool ok = (path != NULL || err_no_memory(err, dir)) && safetensors_open(path, &st, err) &&
              lora_patterns_compile(&s->alphas, PEFT_CONFIG_NAME ": \"alpha_pattern\"",
                                    s->config->alpha_pattern, s->config->n_alpha_pattern, err);
    for (int64_t i = 0; ok && i < st.n_tensor; i++)
        ok = add_tensor(s, &st, &st.tensors[i], err);
    lora_patterns_free(&s->alphas);
    safetensors_close(&st);
    free(path);
    return ok;
}

/* ---- facts ---- */

static json_t *rank_fact(const struct row *row)
{
    char range[48];
    if (row->r_min == row->r_max)
        return json_integer((json_int_t)row->r_min);
    snprintf(range, sizeof range, "%" PRId64 "-%" PRId64, row->r_min, row->r_max);
    return json_string(range);
}

static json_t *norm_fact(const struct row *row)
{
    if (!row->has_norm)
        return json_null();
    return isfinite(row->norm) ? json_real(row->norm) : json_string("not finite");
}

static json_t *module_rows(const struct scan *s)
{
    json_t *rows = json_array();
    for (int b = 0; b < LORA_BLOCK_COUNT; b++) {
        for (int k = 0; k < LORA_KIND_COUNT; k++) {
            const struct row *row = &s->rows[b][k];
            if (row->n_module == 0)
                continue;
            json_array_append_new(rows, json_pack("{s:s, s:s, s:I, s:o, s:I, s:o}", "block",
                                                  lora_block_name((enum lora_block)b), "module",
                                                  lora_kind_name((enum lora_kind)k), "adapted",
                                                  (json_int_t)row->n_module, "rank", rank_fact(row),
                                                  "parameters", (json_int_t)row->n_param,
                                                  "largest_change", norm_fact(row)));
        }
    }
    return rows;
}

static json_t *target_facts(const struct lora_config *c)
{
    if (c->target_regex != NULL || c->all_linear)
        return json_string(c->all_linear ? "all-linear" : c->target_regex);
    json_t *list = json_array();
    for (int64_t i = 0; i < c->n_target; i++)
        json_array_append_new(list, json_string(c->target_modules[i]));
    return list;
}

static json_t *pattern_facts(const struct lora_pattern *patterns, int64_t n)
{
    json_t *object = json_object();
    for (int64_t i = 0; i < n; i++)
        json_object_set_new(object, patterns[i].key, json_real(patterns[i].value));
    return object;
}

static json_t *collect(const char *dir, const struct lora_config *c, const struct scan *s)
{
    json_t *config = json_pack("{s:I, s:f, s:f, s:b, s:o}", "r", (json_int_t)c->r, "lora_alpha",
                               c->alpha, "lora_dropout", c->dropout, "use_rslora",
                               (int)c->use_rslora, "target_modules", target_facts(c));
    if (c->n_rank_pattern > 0)
        json_object_set_new(config, "rank_pattern",
                            pattern_facts(c->rank_pattern, c->n_rank_pattern));
    if (c->n_alpha_pattern > 0)
        json_object_set_new(config, "alpha_pattern",
                            pattern_facts(c->alpha_pattern, c->n_alpha_pattern));
    return json_pack("{s:s, s:o, s:I, s:I, s:o, s:o, s:o}", "kind", "adapter", "path",
                     cli_json_string(dir), "parameters", (json_int_t)s->n_param, "other_tensors",
                     (json_int_t)s->n_other, "config", config, "types",
                     inspect_types_table(&s->types), "modules", module_rows(s));
}

json_t *inspect_adapter(const char *dir, struct err *err)
{
    struct lora_config config = { 0 };
    struct scan scan = { .config = &config };
    json_t *facts = NULL;
    if (manifest_check(dir, err) && peft_read_config(dir, &config, err)) {
        const bool ok = scan_tensors(&scan, dir, err);
        facts = collect(dir, &config, &scan);
        if (ok && facts == NULL)
            err_no_memory(err, dir);
    }
    lora_config_free(&config);
    return facts;
}
