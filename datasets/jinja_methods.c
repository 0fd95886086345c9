/* Methods of list, tuple, dict and the helper objects, and the lookup of all methods. */
#include "datasets/jinja_methods.h"

#include "datasets/jinja_iter.h"
#include "datasets/jinja_loop.h"
#include "datasets/jinja_ops.h"

static bool call_get(struct jinja_run *r, struct value self, const struct call_args *args,
                     struct value *out)
{
    static const char *const names[] = { "/key", "/default", NULL };
    struct value v[2];
    if (!args_bind(r, "get()", args, names, 1, v))
        return false;
    if (!dict_can_key(&v[0]))
        return jinja_fail(r, "unhashable type: '%s'", value_type_name(&v[0]));
    const struct value *found = dict_find(self.as.dict, &v[0]);
    *out = found != NULL ? *found : v[1].kind == VALUE_MISSING ? value_none() : v[1];
    return true;
}

static bool view(struct jinja_run *r, struct value self, const struct call_args *args,
                 enum view_kind kind, struct value *out)
{
    struct value_view *v = jinja_take(&r->arena, sizeof *v);
    if (args->n > 0 || args->n_keyword > 0)
        return jinja_fail(r, "keys(), values() and items() take no arguments");
    if (v == NULL)
        return jinja_no_memory(r);
    *v = (struct value_view){ .kind = kind, .dict = self.as.dict };
    *out = (struct value){ .kind = VALUE_VIEW, .as.view = v };
    return true;
}

static bool call_keys(struct jinja_run *r, struct value self, const struct call_args *args,
                      struct value *out)
{
    return view(r, self, args, VIEW_KEYS, out);
}

static bool call_values(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return view(r, self, args, VIEW_VALUES, out);
}

static bool call_items(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return view(r, self, args, VIEW_ITEMS, out);
}

/* Values cannot change, so a copy is the value. (Its identity shows in `is sameas` alone.) */
static bool call_copy(struct jinja_run *r, struct value self, const struct call_args *args,
                      struct value *out)
{
    *out = self;
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "copy() takes no arguments");
}

/* list.index and list.count: items equal to the argument. */
static bool search(struct jinja_run *r, struct value self, const struct call_args *args,
                   const char *name, bool counts, struct value *out)
{
    int64_t n = 0;
    if (args->n_keyword > 0 || args->n < 1 || args->n > (counts ? 1u : 3u))
        return jinja_fail(r, "%s takes one argument", name);
    if (args->n > 1)
        return jinja_fail(r, "%s with bounds is not supported", name);
    for (size_t i = 0; i < self.as.list->n; i++) {
        bool equal = false;
        if (!value_equal(r, &self.as.list->at[i], &args->at[0], &equal))
            return false;
        if (equal && !counts) {
            *out = value_int((int64_t)i);
            return true;
        }
        n += equal;
    }
    *out = value_int(n);
    return counts || jinja_fail(r, "the value is not in the %s", value_type_name(&self));
}

static bool call_index(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return search(r, self, args, "index()", false, out);
}

static bool call_count(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return search(r, self, args, "count()", true, out);
}

static bool call_next(struct jinja_run *r, struct value self, const struct call_args *args,
                      struct value *out)
{
    struct value_cycler *c = self.as.cycler;
    *out = c->items.at[c->at];
    c->at = (c->at + 1) % c->items.n;
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "next() takes no arguments");
}

static bool call_reset(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    self.as.cycler->at = 0;
    *out = value_none();
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "reset() takes no arguments");
}

static const struct method methods[] = {
    { VALUE_DICT, "clear", NULL, true },
    { VALUE_DICT, "copy", call_copy, false },
    { VALUE_DICT, "fromkeys", NULL, false },
    { VALUE_DICT, "get", call_get, false },
    { VALUE_DICT, "items", call_items, false },
    { VALUE_DICT, "keys", call_keys, false },
    { VALUE_DICT, "pop", NULL, true },
    { VALUE_DICT, "popitem", NULL, true },
    { VALUE_DICT, "setdefault", NULL, true },
    { VALUE_DICT, "update", NULL, true },
    { VALUE_DICT, "values", call_values, false },
    { VALUE_LIST, "append", NULL, true },
    { VALUE_LIST, "clear", NULL, true },
    { VALUE_LIST, "copy", call_copy, false },
    { VALUE_LIST, "count", call_count, false },
    { VALUE_LIST, "extend", NULL, true },
    { VALUE_LIST, "index", call_index, false },
    { VALUE_LIST, "insert", NULL, true },
    { VALUE_LIST, "pop", NULL, true },
    { VALUE_LIST, "remove", NULL, true },
    { VALUE_LIST, "reverse", NULL, true },
    { VALUE_LIST, "sort", NULL, true },
    { VALUE_TUPLE, "count", call_count, false },
    { VALUE_TUPLE, "index", call_index, false },
    { VALUE_LOOP, "cycle", loop_cycle, false },
    { VALUE_LOOP, "changed", loop_changed, false },
    { VALUE_CYCLER, "next", call_next, false },
    { VALUE_CYCLER, "reset", call_reset, false },
    /* Attributes that Python has and that nothing in a template needs. */
    { VALUE_INT, "as_integer_ratio", NULL, false },
    { VALUE_INT, "bit_count", NULL, false },
    { VALUE_INT, "bit_length", NULL, false },
    { VALUE_INT, "conjugate", NULL, false },
    { VALUE_INT, "denominator", NULL, false },
    { VALUE_INT, "from_bytes", NULL, false },
    { VALUE_INT, "imag", NULL, false },
    { VALUE_INT, "is_integer", NULL, false },
    { VALUE_INT, "numerator", NULL, false },
    { VALUE_INT, "real", NULL, false },
    { VALUE_INT, "to_bytes", NULL, false },
    { VALUE_FLOAT, "as_integer_ratio", NULL, false },
    { VALUE_FLOAT, "conjugate", NULL, false },
    { VALUE_FLOAT, "fromhex", NULL, false },
    { VALUE_FLOAT, "hex", NULL, false },
    { VALUE_FLOAT, "imag", NULL, false },
    { VALUE_FLOAT, "is_integer", NULL, false },
    { VALUE_FLOAT, "real", NULL, false },
    { VALUE_RANGE, "count", NULL, false },
    { VALUE_RANGE, "index", NULL, false },
    { VALUE_RANGE, "start", NULL, false },
    { VALUE_RANGE, "step", NULL, false },
    { VALUE_RANGE, "stop", NULL, false },
    { VALUE_VIEW, "isdisjoint", NULL, false },
    { VALUE_VIEW, "mapping", NULL, false },
    { VALUE_GENERATOR, "close", NULL, false },
    { VALUE_GENERATOR, "gi_code", NULL, false },
    { VALUE_GENERATOR, "gi_frame", NULL, false },
    { VALUE_GENERATOR, "gi_running", NULL, false },
    { VALUE_GENERATOR, "gi_suspended", NULL, false },
    { VALUE_GENERATOR, "gi_yieldfrom", NULL, false },
    { VALUE_GENERATOR, "send", NULL, false },
    { VALUE_GENERATOR, "throw", NULL, false },
    { VALUE_CYCLER, "current", NULL, false },
    { VALUE_CYCLER, "items", NULL, false },
    { VALUE_CYCLER, "pos", NULL, false },
    { VALUE_JOINER, "sep", NULL, false },
    { VALUE_JOINER, "used", NULL, false },
    { VALUE_MACRO, "arguments", NULL, false },
    { VALUE_MACRO, "caller", NULL, false },
    { VALUE_MACRO, "catch_kwargs", NULL, false },
    { VALUE_MACRO, "catch_varargs", NULL, false },
    { VALUE_MACRO, "explicit_caller", NULL, false },
    { VALUE_MACRO, "name", NULL, false },
    { VALUE_MISSING, NULL, NULL, false },
};

bool method_attr(struct jinja_run *r, const struct value *v, const struct value_string *name,
                 struct value *out, bool *found)
{
    const int len = name->len > 100 ? 100 : (int)name->len;
    const enum value_kind kind = v->kind == VALUE_BOOL ? VALUE_INT : v->kind;
    *found = false;
    if (kind == VALUE_FUNCTION) /* some are classes in Python */
        return jinja_fail(r, "attributes of functions are not supported");
    if (kind == VALUE_STRING && v->as.string->safe &&
        (string_is(name, "striptags") || string_is(name, "unescape") || string_is(name, "escape")))
        return jinja_fail(r, "'%.*s' of a safe string is not supported", len, name->data);
    const struct method *m = kind == VALUE_STRING ? string_methods : methods;
    while (m->name != NULL && (m->of != kind || !string_is(name, m->name)))
        m++;
    if (m->name == NULL)
        return true;
    if (m->unsafe) {
        struct value_text t = { 0 };
        if (!text_add_string(&r->arena, &t, "access to attribute '") ||
            !text_add_string(&r->arena, &t, m->name) || !text_add_string(&r->arena, &t, "' of '") ||
            !text_add_string(&r->arena, &t, value_type_name(v)) ||
            !text_add(&r->arena, &t, "' object is unsafe.", 20))
            return jinja_no_memory(r);
        *found = true;
        return give_undefined_hint(r, t.data, out);
    }
    if (m->call == NULL)
        return jinja_fail(r, "'%s' of type '%s' is not supported", m->name, value_type_name(v));
    struct value_method *bound = jinja_take(&r->arena, sizeof *bound);
    if (bound == NULL)
        return jinja_no_memory(r);
    *bound = (struct value_method){ .self = *v, .method = m };
    *found = true;
    *out = (struct value){ .kind = VALUE_METHOD, .as.method = bound };
    return true;
}
