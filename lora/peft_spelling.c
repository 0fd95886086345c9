#include "lora/peft_spelling.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define GATE_UP "feed_forward.experts.gate_up_proj"
#define DOWN "feed_forward.experts.down_proj"

static bool is_expert(const struct lora_module *m)
{
    return m->expert >= 0;
}

/* A router is a class of its own on transformers 5, no linear: its matrix is adapted as a
 * parameter. */
static bool is_parameter(const struct peft_view *view, int64_t module)
{
    return view->router_parameter && view->modules[module].kind == LORA_ROUTER;
}

/* ---- target_modules: the shortest suffix that matches adapted modules only. ---- */

enum { NAME_SIZE = 128 };

/* Suffixes to try, from the shortest: the kind, then what tells a dense MLP or one expert, then the
 * path. */
enum { N_SUFFIX = 3 };

static void suffix_of(const struct lora_module *m, int level, char out[NAME_SIZE])
{
    const char *kind = lora_kind_name(m->kind);
    const enum lora_block block = lora_block_of(m);
    if (level == 0)
        snprintf(out, NAME_SIZE, "%s", kind);
    else if (level == 1 && block == LORA_BLOCK_EXPERTS)
        snprintf(out, NAME_SIZE, "experts.%" PRId64 ".%s", m->expert, kind);
    else if (level == 1 && block == LORA_BLOCK_MLP)
        snprintf(out, NAME_SIZE, "feed_forward.%s", kind);
    else
        snprintf(out, NAME_SIZE, "%s", m->path);
}

static bool matches_adapted_only(const struct peft_view *view, const char *suffix)
{
    for (int64_t i = 0; i < view->n; i++) {
        if (!view->choices[i].on && lora_suffix_matches(view->modules[i].path, suffix))
            return false;
    }
    return true;
}

static bool has_string(const json_t *list, const char *s)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (strcmp(json_string_value(json_array_get(list, i)), s) == 0)
            return true;
    }
    return false;
}

static json_t *target_modules(const struct peft_view *view)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < view->n && list != NULL; i++) {
        if (!view->choices[i].on || is_parameter(view, i))
            continue;
        char suffix[NAME_SIZE] = "";
        for (int level = 0; level < N_SUFFIX; level++) {
            suffix_of(&view->modules[i], level, suffix);
            if (has_string(list, suffix) || matches_adapted_only(view, suffix))
                break;
        }
        if (!has_string(list, suffix) && json_array_append_new(list, json_string(suffix)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* ---- rank_pattern and alpha_pattern ---- */

static double value_of(const struct lora_choice *c, bool is_rank)
{
    return is_rank ? (double)c->r : c->alpha;
}

/* Keys to try, from the most general. Each matches the modules of one group alone, so that the
 * order of the keys in the file, which PEFT goes by, does not matter. None matches a fused
 * parameter's name. */
static void key_of(const struct lora_module *m, int level, char out[NAME_SIZE])
{
    const char *kind = lora_kind_name(m->kind);
    if (is_expert(m) && level == 0)
        snprintf(out, NAME_SIZE, "experts\\.\\d+\\.%s", kind);
    else if (is_expert(m) && level == 1)
        snprintf(out, NAME_SIZE, "layers\\.%" PRId64 "\\.feed_forward\\.experts\\.\\d+\\.%s",
                 m->layer, kind);
    else if (level == 0 && lora_block_of(m) == LORA_BLOCK_MLP)
        snprintf(out, NAME_SIZE, "feed_forward.%s", kind);
    else if (level == 0)
        snprintf(out, NAME_SIZE, "%s", kind);
    else
        snprintf(out, NAME_SIZE, "%s", m->path);
}

/* Whether a and b share the key of that level. */
static bool same_group(const struct lora_module *a, const struct lora_module *b, int level)
{
    if (a->kind != b->kind || is_expert(a) != is_expert(b))
        return false;
    if (level == 0)
        return true;
    return a->layer == b->layer && (level == 1 && is_expert(a) ? true : a->expert == b->expert);
}

static bool group_is_uniform(const struct peft_view *view, int64_t index, int level, bool is_rank)
{
    const double v = value_of(&view->choices[index], is_rank);
    for (int64_t i = 0; i < view->n; i++) {
        if (view->choices[i].on && same_group(&view->modules[i], &view->modules[index], level) &&
            value_of(&view->choices[i], is_rank) != v)
            return false;
    }
    return true;
}

json_t *peft_number(double v)
{
    if (v == floor(v) && fabs(v) < 9e15)
        return json_integer((json_int_t)v);
    return json_real(v);
}

static bool module_patterns(const struct peft_view *view, bool is_rank, json_t *patterns)
{
    const double usual = is_rank ? (double)view->config->r : view->config->alpha;
    for (int64_t i = 0; i < view->n; i++) {
        if (!view->choices[i].on)
            continue;
        int level = 0;
        while (level < 2 && !group_is_uniform(view, i, level, is_rank))
            level++;
        const double v = value_of(&view->choices[i], is_rank);
        char key[NAME_SIZE];
        key_of(&view->modules[i], level, key);
        if (is_parameter(view, i))
            snprintf(key + strlen(key), sizeof key - strlen(key), ".weight");
        if (v != usual && json_object_get(patterns, key) == NULL &&
            json_object_set_new(patterns, key, peft_number(v)) != 0)
            return false;
    }
    return true;
}

/* ---- fused experts ---- */

/* All experts of a projection alike (or none adapted): *count, *r and *alpha of those adapted. */
struct projection {
    int64_t n, r;
    double alpha;
    bool alike;
};

static void add_choice(struct projection *p, const struct lora_choice *c)
{
    if (!c->on)
        return;
    if (p->n++ == 0) {
        p->r = c->r;
        p->alpha = c->alpha;
    }
    p->alike = p->alike && p->r == c->r && p->alpha == c->alpha;
}

struct peft_experts peft_layer_experts(const struct peft_view *view, int64_t *at)
{
    const struct lora_module *first = &view->modules[*at];
    struct projection gate = { .alike = true }, up = { .alike = true }, down = { .alike = true };
    for (; *at < view->n && view->modules[*at].layer == first->layer; ++*at) {
        if (!is_expert(&view->modules[*at]))
            continue;
        const enum lora_kind kind = view->modules[*at].kind;
        add_choice(kind == LORA_GATE_PROJ ? &gate
                   : kind == LORA_UP_PROJ ? &up
                                          : &down,
                   &view->choices[*at]);
    }
    const int64_t all = first->n_expert;
    const bool pair = gate.n == up.n && (gate.n == 0 || gate.n == all) && gate.alike && up.alike &&
                      gate.r == up.r && gate.alpha == up.alpha;
    return (struct peft_experts){
        .layer = first->layer,
        .any = gate.n + up.n + down.n > 0,
        .fused = pair && (down.n == 0 || down.n == all) && down.alike && !view->config->use_rslora,
        .gate_up = gate.n > 0,
        .down = down.n > 0,
        .whole = gate.n == all && up.n == all && down.n == all,
        .gate_up_r = gate.r,
        .down_r = down.r,
        .gate_up_alpha = gate.alpha,
        .down_alpha = down.alpha,
    };
}

/* What the fused entries have in common, found before any is written. */
struct fused {
    int64_t n, n_moe; /* layers with adapted experts that fuse; layers with experts */
    struct peft_experts first;
    bool uniform; /* every layer of experts is like the first */
};

/* gate_up alone is listed with down: PEFT names the inner wrapper's tensors, and gate_up must be
 * the inner one. Without tensors the outer one stays at its start, B = 0. */
static bool same_experts(const struct peft_experts *a, const struct peft_experts *b)
{
    return a->gate_up == b->gate_up && a->down == b->down && a->gate_up_r == b->gate_up_r &&
           a->down_r == b->down_r && a->gate_up_alpha == b->gate_up_alpha &&
           a->down_alpha == b->down_alpha;
}

static bool next_experts(const struct peft_view *view, int64_t *at, struct peft_experts *out)
{
    while (*at < view->n && !is_expert(&view->modules[*at]))
        ++*at;
    if (*at >= view->n)
        return false;
    *out = peft_layer_experts(view, at);
    return true;
}

static struct fused survey(const struct peft_view *view)
{
    struct fused f = { .uniform = true };
    struct peft_experts e;
    for (int64_t at = 0; next_experts(view, &at, &e);) {
        f.n_moe++;
        if (!e.any || !e.fused)
            continue;
        if (f.n++ == 0)
            f.first = e;
        f.uniform = f.uniform && same_experts(&e, &f.first);
    }
    f.uniform = f.uniform && f.n == f.n_moe;
    return f;
}

bool peft_has_fused_experts(const struct peft_view *view)
{
    return survey(view).n > 0;
}

/* Where the names and numbers go. */
struct spelled {
    json_t *parameters, *ranks, *alphas;
};

static bool set_number(json_t *patterns, const char *prefix, const char *name, double v)
{
    char key[NAME_SIZE];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    return json_object_set_new(patterns, key, peft_number(v)) == 0;
}

static bool add_name(json_t *list, const char *prefix, const char *name)
{
    char key[NAME_SIZE];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    return json_array_append_new(list, json_string(key)) == 0;
}

/* A of gate and up are stacked and their B become the blocks of a diagonal: rank 2 r, and alpha
 * doubles so that alpha / r stays. */
static bool spell_layer(const struct peft_view *view, const struct peft_experts *e,
                        const char *prefix, const struct spelled *out)
{
    const struct lora_config *config = view->config;
    if (e->gate_up && (!add_name(out->parameters, prefix, GATE_UP) ||
                       !set_number(out->ranks, prefix, GATE_UP, 2 * (double)e->gate_up_r) ||
                       !set_number(out->alphas, prefix, GATE_UP, 2 * e->gate_up_alpha)))
        return false;
    if (!add_name(out->parameters, prefix, DOWN))
        return false;
    if (e->down && e->down_r != config->r &&
        !set_number(out->ranks, prefix, DOWN, (double)e->down_r))
        return false;
    return !e->down || e->down_alpha == config->alpha ||
           set_number(out->alphas, prefix, DOWN, e->down_alpha);
}

static bool spell_fused(const struct peft_view *view, const struct spelled *out)
{
    const struct fused f = survey(view);
    if (f.n > 0 && f.uniform)
        return spell_layer(view, &f.first, "", out);
    struct peft_experts e;
    for (int64_t at = 0; next_experts(view, &at, &e);) {
        char prefix[64];
        if (!e.any || !e.fused)
            continue;
        snprintf(prefix, sizeof prefix, "model.layers.%" PRId64 ".", e.layer);
        if (!spell_layer(view, &e, prefix, out))
            return false;
    }
    return true;
}

/* ---- routers as parameters ---- */

bool peft_has_parameters(const struct peft_view *view)
{
    bool any = peft_has_fused_experts(view);
    for (int64_t i = 0; i < view->n && !any; i++)
        any = view->choices[i].on && is_parameter(view, i);
    return any;
}

/* One name for all of them, or where only some are adapted each one's. */
static bool spell_routers(const struct peft_view *view, json_t *parameters)
{
    const bool all = matches_adapted_only(view, lora_kind_name(LORA_ROUTER));
    bool ok = true, any = false;
    for (int64_t i = 0; i < view->n && ok; i++) {
        if (!view->choices[i].on || !is_parameter(view, i) || (any && all))
            continue;
        ok = all ? add_name(parameters, "", "feed_forward.router.weight")
                 : add_name(parameters, view->modules[i].path, ".weight");
        any = true;
    }
    return ok;
}

bool peft_spell(const struct peft_view *view, json_t *object)
{
    json_t *targets = target_modules(view);
    const struct spelled out = { .parameters = json_array(),
                                 .ranks = json_object(),
                                 .alphas = json_object() };
    bool ok = targets != NULL && out.parameters != NULL && out.ranks != NULL &&
              out.alphas != NULL && module_patterns(view, true, out.ranks) &&
              module_patterns(view, false, out.alphas) && spell_fused(view, &out) &&
              spell_routers(view, out.parameters) &&
              json_object_set(object, "target_modules", targets) == 0 &&
              json_object_set(object, "rank_pattern", out.ranks) == 0 &&
              json_object_set(object, "alpha_pattern", out.alphas) == 0;
    if (ok && json_array_size(out.parameters) > 0)
        ok = json_object_set(object, "target_parameters", out.parameters) == 0;
    json_decref(targets);
    json_decref(out.parameters);
    json_decref(out.ranks);
    json_decref(out.alphas);
    return ok;
}
