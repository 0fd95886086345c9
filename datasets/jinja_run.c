#include "datasets/jinja_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"

bool jinja_fail(struct jinja_run *r, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const int line = r->at != NULL ? (int)r->at->line : 1;
    const int column = r->at != NULL ? (int)r->at->column : 1;
    return err_set(r->err, ERR_DATA, "%s:%d:%d: %s", r->template->name, line, column, text);
}

bool jinja_no_memory(struct jinja_run *r)
{
    if (r->arena.deep)
        return jinja_fail(r, "value is nested too deep (%d levels are supported)", VALUE_DEPTH);
    if (r->arena.over)
        return jinja_fail(r, "rendering needs more than %zu MiB of memory", r->limits.memory >> 20);
    return err_no_memory(r->err, r->template->name);
}

bool jinja_step(struct jinja_run *r, int64_t n)
{
    r->steps += n;
    return r->steps <= r->limits.steps ||
           jinja_fail(r, "rendering takes more than %lld steps", (long long)r->limits.steps);
}

bool jinja_enter(struct jinja_run *r)
{
    return ++r->depth <= r->limits.depth ||
           jinja_fail(r, "rendering is nested too deep (%d levels are allowed)", r->limits.depth);
}

void jinja_leave(struct jinja_run *r)
{
    r->depth--;
}

bool give_string(struct jinja_run *r, const struct value_string *s, struct value *out)
{
    *out = value_of_string(s);
    return s != NULL || jinja_no_memory(r);
}

bool give_list(struct jinja_run *r, struct value_list *list, struct value *out)
{
    *out = value_of_list(list);
    return list != NULL || jinja_no_memory(r);
}

bool give_tuple(struct jinja_run *r, struct value_list *list, struct value *out)
{
    *out = value_of_tuple(list);
    return list != NULL || jinja_no_memory(r);
}

bool give_text(struct jinja_run *r, const struct value_text *t, struct value *out)
{
    return give_string(r, text_take(&r->arena, t), out);
}

static bool give(struct jinja_run *r, struct value_undefined u, struct value *out)
{
    struct value_undefined *copy = jinja_take(&r->arena, sizeof *copy);
    if (copy == NULL)
        return jinja_no_memory(r);
    *copy = u;
    *out = (struct value){ .kind = VALUE_UNDEFINED, .as.undefined = copy };
    return true;
}

bool give_undefined_hint(struct jinja_run *r, const char *hint, struct value *out)
{
    return give(r, (struct value_undefined){ .hint = hint }, out);
}

/* The object as jinja2's messages name it. */
static const char *object_name(const struct value *v)
{
    switch (v->kind) {
    case VALUE_NONE:
        return "None";
    case VALUE_BOOL:
        return "bool object";
    case VALUE_INT:
        return "int object";
    case VALUE_FLOAT:
        return "float object";
    case VALUE_STRING:
        return v->as.string->safe ? "markupsafe.Markup object" : "str object";
    case VALUE_LIST:
        return "list object";
    case VALUE_TUPLE:
        return "tuple object";
    case VALUE_DICT:
        return "dict object";
    case VALUE_RANGE:
        return "range object";
    case VALUE_VIEW:
        return "dict view object";
    case VALUE_GENERATOR:
        return "generator object";
    case VALUE_NAMESPACE:
        return "transformers.utils.chat_template_utils.TemplateNamespace object";
    case VALUE_MACRO:
        return "jinja2.runtime.Macro object";
    case VALUE_LOOP:
        return "jinja2.runtime.LoopContext object";
    default:
        return "function object";
    }
}

bool give_undefined(struct jinja_run *r, const struct value *of, struct value name,
                    struct value *out)
{
    return give(
        r, (struct value_undefined){ .object = of != NULL ? object_name(of) : NULL, .name = name },
        out);
}

bool fail_undefined(struct jinja_run *r, const struct value *v)
{
    const struct value_undefined *u = v->as.undefined;
    if (u->hint != NULL)
        return jinja_fail(r, "%s", u->hint);
    struct value_text name = { 0 };
    if (!value_repr(r, &u->name, &name))
        return false;
    const int len = name.len > 1000 ? 1000 : (int)name.len;
    if (u->object == NULL)
        return jinja_fail(r, "%.*s is undefined", len, name.data);
    if (u->name.kind != VALUE_STRING)
        return jinja_fail(r, "%s has no element %.*s", u->object, len, name.data);
    return jinja_fail(r, "'%s' has no attribute %.*s", u->object, len, name.data);
}

const char *value_type_name(const struct value *v)
{
    static const char *const views[] = { "dict_keys", "dict_values", "dict_items" };
    switch (v->kind) {
    case VALUE_NONE:
        return "NoneType";
    case VALUE_BOOL:
        return "bool";
    case VALUE_INT:
        return "int";
    case VALUE_FLOAT:
        return "float";
    case VALUE_STRING:
        return v->as.string->safe ? "Markup" : "str";
    case VALUE_LIST:
        return "list";
    case VALUE_TUPLE:
        return "tuple";
    case VALUE_DICT:
        return "dict";
    case VALUE_RANGE:
        return "range";
    case VALUE_VIEW:
        return views[v->as.view->kind];
    case VALUE_GENERATOR:
        return "generator";
    case VALUE_NAMESPACE:
        return "Namespace";
    case VALUE_MACRO:
        return "Macro";
    case VALUE_LOOP:
        return "LoopContext";
    case VALUE_CYCLER:
        return "Cycler";
    case VALUE_JOINER:
        return "Joiner";
    case VALUE_METHOD:
    case VALUE_FUNCTION:
        return "function";
    default:
        return "Undefined";
    }
}

bool args_bind(struct jinja_run *r, const char *function, const struct call_args *args,
               const char *const names[], size_t n_required, struct value out[])
{
    size_t n = 0;
    for (; names[n] != NULL; n++)
        out[n] = (struct value){ .kind = VALUE_MISSING };
    if (args->n > n)
        return jinja_fail(r, "%s takes at most %zu arguments, %zu given", function, n, args->n);
    for (size_t i = 0; i < args->n; i++)
        out[i] = args->at[i];
    for (size_t i = 0; i < args->n_keyword; i++) {
        const struct value_string *name = args->keywords[i].name;
        const int len = name->len > 100 ? 100 : (int)name->len;
        size_t at = 0;
        while (at < n && (names[at][0] == '/' || !string_is(name, names[at])))
            at++;
        if (at == n)
            return jinja_fail(r, "%s has no keyword argument '%.*s'", function, len, name->data);
        if (out[at].kind != VALUE_MISSING)
            return jinja_fail(r, "%s was given two values for argument '%.*s'", function, len,
                              name->data);
        out[at] = args->keywords[i].value;
    }
    for (size_t i = 0; i < n_required; i++) {
        if (out[i].kind == VALUE_MISSING)
            return jinja_fail(r, "%s needs argument '%s'", function,
                              names[i] + (names[i][0] == '/'));
    }
    return true;
}

bool arg_int(struct jinja_run *r, const struct value *v, const char *what, int64_t *out)
{
    if (v->kind == VALUE_MISSING)
        return true;
    if (v->kind == VALUE_UNDEFINED)
        return fail_undefined(r, v);
    if (!value_is_int(v))
        return jinja_fail(r, "%s is of type '%s', expected 'int'", what, value_type_name(v));
    *out = value_to_int(v);
    return true;
}

bool arg_string(struct jinja_run *r, const struct value *v, const char *what,
                const struct value_string **out)
{
    if (v->kind == VALUE_MISSING)
        return true;
    if (v->kind != VALUE_STRING)
        return jinja_fail(r, "%s is of type '%s', expected 'str'", what, value_type_name(v));
    *out = v->as.string;
    return true;
}

bool arg_truth(const struct value *v, bool otherwise)
{
    return v->kind == VALUE_MISSING ? otherwise : value_truth(v);
}
