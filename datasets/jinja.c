/* Rendering from outside: variables in, text out. */
#include "datasets/jinja.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/jinja_eval.h"
#include "kernels/core/text.h"

static bool from_json(struct jinja_run *r, json_t *j, int depth, struct value *out);

static bool from_string(struct jinja_run *r, const char *data, size_t n, struct value *out)
{
    if (!text_is_utf8(data, n, NULL))
        return jinja_fail(r, "a variable holds text that is not UTF-8");
    return give_string(r, string_point(&r->arena, data, n), out);
}

static bool from_array(struct jinja_run *r, json_t *j, int depth, struct value *out)
{
    struct value_list *list = list_new(&r->arena, json_array_size(j));
    struct value item;
    if (list == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < json_array_size(j); i++) {
        if (!from_json(r, json_array_get(j, i), depth + 1, &item))
            return false;
        if (!list_push(&r->arena, list, item))
            return jinja_no_memory(r);
    }
    *out = value_of_list(list);
    return true;
}

static bool from_object(struct jinja_run *r, json_t *j, int depth, struct value *out)
{
    struct value_dict *d = dict_new(&r->arena);
    struct value key, v;
    if (d == NULL)
        return jinja_no_memory(r);
    for (void *it = json_object_iter(j); it != NULL; it = json_object_iter_next(j, it)) {
        const char *name = json_object_iter_key(it);
        if (!from_string(r, name, strlen(name), &key) ||
            !from_json(r, json_object_iter_value(it), depth + 1, &v))
            return false;
        if (!dict_set(&r->arena, d, key, v))
            return jinja_no_memory(r);
    }
    *out = value_of_dict(d);
    return true;
}

/* Text stays where it is: it outlives the rendering. */
static bool from_json(struct jinja_run *r, json_t *j, int depth, struct value *out)
{
    if (depth > VALUE_DEPTH) {
        r->arena.deep = true;
        return jinja_no_memory(r);
    }
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return from_object(r, j, depth, out);
    case JSON_ARRAY:
        return from_array(r, j, depth, out);
    case JSON_STRING:
        return from_string(r, json_string_value(j), json_string_length(j), out);
    case JSON_INTEGER:
        *out = value_int(json_integer_value(j));
        return true;
    case JSON_REAL:
        *out = value_float(json_real_value(j));
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = value_bool(json_is_true(j));
        return true;
    default:
        *out = value_none();
        return true;
    }
}

/* What the template's names mean: a variable, else a global, else nothing. */
static bool load_names(struct jinja_run *r, json_t *variables)
{
    const struct jinja_template *t = r->template;
    r->names = jinja_take_array(&r->arena, t->n_name, sizeof *r->names);
    if (r->names == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < t->n_name; i++) {
        const struct value_string *name = t->names[i];
        char *terminated = text_copy_n(name->data, name->len);
        if (terminated == NULL)
            return err_no_memory(r->err, t->name);
        json_t *j = variables != NULL ? json_object_get(variables, terminated) : NULL;
        free(terminated);
        r->names[i] = jinja_global(name);
        if (j != NULL && !from_json(r, j, 0, &r->names[i]))
            return false;
    }
    return true;
}

static bool render(struct jinja_run *r, json_t *variables)
{
    struct value_text text = { 0 };
    const struct jinja_template *t = r->template;
    r->root = &text;
    struct jinja_activation *act = jinja_activate(r, NULL, t->n_slot);
    if (act == NULL)
        return jinja_no_memory(r);
    if (!load_names(r, variables))
        return false;
    jinja_enter_frame(r, act, &t->frame);
    if (jinja_exec(r, act, &t->body, &text) == FLOW_FAILED)
        return false;
    r->out->text = text_copy_n(text.len > 0 ? text.data : "", text.len);
    r->out->n = text.len;
    return r->out->text != NULL || err_no_memory(r->err, t->name);
}

bool jinja_render(const struct jinja_template *t, const struct jinja_env *env, json_t *variables,
                  struct jinja_output *out, struct err *err)
{
    struct jinja_run r = {
        .template = t,
        .env = env,
        .limits = env->limits,
        .out = out,
        .err = err,
    };
    if (r.limits.steps == 0)
        r.limits.steps = 50000000;
    if (r.limits.output == 0)
        r.limits.output = (size_t)64 << 20;
    if (r.limits.memory == 0)
        r.limits.memory = (size_t)512 << 20;
    if (r.limits.depth == 0)
        r.limits.depth = 2000;
    r.arena.limit = r.limits.memory;
    const bool ok = render(&r, variables);
    jinja_arena_free(&r.arena);
    if (!ok) { /* what was raised stays */
        free(out->generation);
        out->generation = NULL;
        out->n_generation = 0;
    }
    return ok;
}

void jinja_output_free(struct jinja_output *out)
{
    free(out->text);
    free(out->generation);
    free(out->raised);
    *out = (struct jinja_output){ 0 };
}
