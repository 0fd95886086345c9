/* Calls: arguments, macros, and the global functions. */
#include "datasets/jinja_eval.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_methods.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_strftime.h"
#include "kernels/core/text.h"

/* --- arguments --- */

struct arg_list {
    struct value_list *values;
    struct call_keyword *keywords;
    size_t n_keyword, cap_keyword;
};

static bool push_keyword(struct jinja_run *r, struct arg_list *args,
                         const struct value_string *name, struct value v)
{
    for (size_t i = 0; i < args->n_keyword; i++) {
        if (string_equal(args->keywords[i].name, name))
            return jinja_fail(r, "got multiple values for keyword argument '%.*s'",
                              name->len > 100 ? 100 : (int)name->len, name->data);
    }
    if (args->n_keyword == args->cap_keyword) {
        const size_t cap = args->cap_keyword == 0 ? 4 : args->cap_keyword * 2;
        struct call_keyword *grown = jinja_take_array(&r->arena, cap, sizeof *grown);
        if (grown == NULL)
            return jinja_no_memory(r);
        if (args->n_keyword > 0)
            memcpy(grown, args->keywords, args->n_keyword * sizeof *grown);
        args->keywords = grown;
        args->cap_keyword = cap;
    }
    args->keywords[args->n_keyword++] = (struct call_keyword){ .name = name, .value = v };
    return true;
}

/* *args and **kwargs. */
static bool push_stars(struct jinja_run *r, struct jinja_activation *act,
                       const struct node_call *call, struct arg_list *args)
{
    struct value v;
    struct value_list *list = NULL;
    if (call->star != NULL) {
        if (!jinja_eval(r, act, call->star, &v) || !iter_list(r, &v, &list))
            return false;
        for (size_t i = 0; i < list->n; i++) {
            if (!list_push(&r->arena, args->values, list->at[i]))
                return jinja_no_memory(r);
        }
    }
    if (call->star_star == NULL)
        return true;
    if (!jinja_eval(r, act, call->star_star, &v))
        return false;
    if (v.kind != VALUE_DICT)
        return jinja_fail(r, "argument after ** must be a mapping, not %s", value_type_name(&v));
    if (v.as.dict->n > 1000)
        return jinja_fail(r, "more than 1000 keyword arguments are not supported");
    for (size_t i = 0; i < v.as.dict->n; i++) {
        const struct dict_entry *e = &v.as.dict->at[i];
        if (e->key.kind != VALUE_STRING)
            return jinja_fail(r, "keywords must be strings");
        if (!push_keyword(r, args, e->key.as.string, e->value))
            return false;
    }
    return true;
}

bool jinja_eval_args(struct jinja_run *r, struct jinja_activation *act,
                     const struct node_call *call, const struct value *caller,
                     struct call_args *out)
{
    static const struct value_string caller_name = { .data = "caller", .len = 6 };
    struct arg_list args = { 0 };
    struct value v;
    *out = (struct call_args){ 0 };
    if (call->args.n == 0 && call->n_keyword == 0 && call->star == NULL &&
        call->star_star == NULL && caller == NULL)
        return true;
    args.values = list_new(&r->arena, call->args.n);
    if (args.values == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < call->args.n; i++) {
        if (!jinja_eval(r, act, call->args.at[i], &v))
            return false;
        if (!list_push(&r->arena, args.values, v))
            return jinja_no_memory(r);
    }
    for (size_t i = 0; i < call->n_keyword; i++) {
        if (!jinja_eval(r, act, call->keywords[i].value, &v) ||
            !push_keyword(r, &args, call->keywords[i].name, v))
            return false;
    }
    if ((caller != NULL && !push_keyword(r, &args, &caller_name, *caller)) ||
        !push_stars(r, act, call, &args))
        return false;
    *out = (struct call_args){ .at = args.values->at,
                               .n = args.values->n,
                               .keywords = args.keywords,
                               .n_keyword = args.n_keyword };
    return true;
}

bool jinja_eval_call(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                     const struct value *caller, struct value *out)
{
    struct value callee;
    struct call_args args;
    if (!jinja_eval(r, act, n->left, &callee) || !jinja_eval_args(r, act, n->call, caller, &args))
        return false;
    r->at = n;
    return jinja_call(r, &callee, &args, out);
}

/* --- macros --- */

/* What is left of the keyword arguments, after `used` of them went to parameters. */
static bool macro_rest(struct jinja_run *r, const struct node_macro *m,
                       const struct call_args *args, const bool *used, struct value *slots)
{
    struct value_dict *kwargs = dict_new(&r->arena);
    const size_t n_arg = m->args.n;
    const int len = m->name == NULL ? 0 : m->name->len > 100 ? 100 : (int)m->name->len;
    const char *name = m->name == NULL ? "" : m->name->data;
    if (kwargs == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < args->n_keyword; i++) {
        if (used[i])
            continue;
        const struct value_string *key = args->keywords[i].name;
        if (m->slot_kwargs == NO_SLOT)
            return jinja_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", len, name,
                              key->len > 100 ? 100 : (int)key->len, key->data);
        if (!dict_set(&r->arena, kwargs, value_of_string(key), args->keywords[i].value))
            return jinja_no_memory(r);
    }
    if (m->slot_kwargs != NO_SLOT)
        slots[m->slot_kwargs] = value_of_dict(kwargs);
    if (m->slot_varargs == NO_SLOT) {
        return args->n <= n_arg ||
               jinja_fail(r, "macro '%.*s' takes not more than %zu argument(s)", len, name, n_arg);
    }
    struct value_list *varargs = list_new(&r->arena, 0);
    for (size_t i = n_arg; varargs != NULL && i < args->n; i++) {
        if (!list_push(&r->arena, varargs, args->at[i]))
            varargs = NULL;
    }
    return give_tuple(r, varargs, &slots[m->slot_varargs]);
}

static bool macro_args(struct jinja_run *r, const struct node_macro *m,
                       const struct call_args *args, struct value *slots)
{
    bool *used = jinja_take_array(&r->arena, args->n_keyword, sizeof *used);
    if (used == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < m->args.n; i++) {
        struct value *slot = &slots[m->args.at[i]->slot];
        if (i < args->n) {
            *slot = args->at[i];
            continue;
        }
        for (size_t k = 0; k < args->n_keyword; k++) {
            if (string_equal(args->keywords[k].name, m->args.at[i]->name)) {
                *slot = args->keywords[k].value;
                used[k] = true;
            }
        }
    }
    if (m->slot_caller != NO_SLOT) {
        struct value *slot = &slots[m->slot_caller];
        for (size_t k = 0; k < args->n_keyword; k++) {
            if (string_is(args->keywords[k].name, "caller")) {
                *slot = args->keywords[k].value;
                used[k] = true;
            }
        }
        if ((slot->kind == VALUE_MISSING || slot->kind == VALUE_NONE) &&
            !give_undefined_hint(r, "No caller defined", slot))
            return false;
    }
    return macro_rest(r, m, args, used, slots);
}

/* Defaults see the arguments before them. */
static bool macro_defaults(struct jinja_run *r, const struct node_macro *m,
                           struct jinja_activation *act)
{
    const size_t first = m->args.n - m->defaults.n;
    for (size_t i = 0; i < m->args.n; i++) {
        struct value *slot = &act->slots[m->args.at[i]->slot];
        const struct value_string *name = m->args.at[i]->name;
        struct value_text hint = { 0 };
        if (slot->kind != VALUE_MISSING)
            continue;
        if (i >= first) {
            if (!jinja_eval(r, act, m->defaults.at[i - first], slot))
                return false;
            continue;
        }
        if (!text_add_string(&r->arena, &hint, "parameter '") ||
            !text_add(&r->arena, &hint, name->data, name->len) ||
            !text_add(&r->arena, &hint, "' was not provided", sizeof "' was not provided"))
            return jinja_no_memory(r);
        if (!give_undefined_hint(r, hint.data, slot))
            return false;
    }
    return true;
}

static bool call_macro(struct jinja_run *r, const struct value_macro *macro,
                       const struct call_args *args, struct value *out)
{
    const struct node_macro *m = macro->node;
    struct value_text text = { 0 };
    struct jinja_activation *act = jinja_activate(r, macro->around, m->n_slot);
    if (act == NULL)
        return jinja_no_memory(r);
    bool ok = jinja_enter(r) && macro_args(r, m, args, act->slots);
    if (ok) {
        jinja_enter_frame(r, act, &m->frame);
        ok = macro_defaults(r, m, act) && jinja_exec(r, act, &m->body, &text) != FLOW_FAILED &&
             give_text(r, &text, out);
    }
    jinja_leave(r);
    return ok;
}

/* --- global functions --- */

static bool call_range(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    static const char *const names[] = { "/start", "/stop", "/step", NULL };
    struct value v[3];
    struct value_range *range = jinja_take(&r->arena, sizeof *range);
    int64_t bounds[3] = { 0, 0, 1 };
    if (range == NULL)
        return jinja_no_memory(r);
    if (!args_bind(r, "range", args, names, 1, v))
        return false;
    if (v[1].kind == VALUE_MISSING) { /* range(stop) */
        v[1] = v[0];
        v[0].kind = VALUE_MISSING;
    }
    for (int i = 0; i < 3; i++) {
        if (!arg_int(r, &v[i], "range argument", &bounds[i]))
            return false;
    }
    const int64_t start = bounds[0], stop = bounds[1], step = bounds[2];
    if (step == 0)
        return jinja_fail(r, "range() arg 3 must not be zero");
    uint64_t n = 0;
    if (step > 0 && start < stop)
        n = ((uint64_t)stop - (uint64_t)start - 1) / (uint64_t)step + 1;
    else if (step < 0 && start > stop)
        n = ((uint64_t)start - (uint64_t)stop - 1) / (0 - (uint64_t)step) + 1;
    if (n > 100000)
        return jinja_fail(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE "
                             "(100000).");
    *range = (struct value_range){ .start = start, .stop = stop, .step = step, .n = (int64_t)n };
    *out = (struct value){ .kind = VALUE_RANGE, .as.range = range };
    return true;
}

/* dict(mapping or pairs, name=value, ...) */
static bool make_dict(struct jinja_run *r, const struct call_args *args, struct value_dict **out)
{
    struct value_dict *d = dict_new(&r->arena);
    struct iter it;
    struct value item;
    struct value_list *pair = NULL;
    bool done = false;
    if (d == NULL)
        return jinja_no_memory(r);
    if (args->n > 1)
        return jinja_fail(r, "dict expected at most 1 argument, got %zu", args->n);
    if (args->n == 1 && args->at[0].kind == VALUE_DICT) {
        const struct value_dict *from = args->at[0].as.dict;
        for (size_t i = 0; i < from->n; i++) {
            if (!dict_set(&r->arena, d, from->at[i].key, from->at[i].value))
                return jinja_no_memory(r);
        }
    } else if (args->n == 1) {
        if (args->at[0].kind == VALUE_UNDEFINED) /* dict() asks it for keys() */
            return fail_undefined(r, &args->at[0]);
        if (!iter_open(r, &args->at[0], &it))
            return false;
        while (true) {
            if (!iter_next(r, &it, &item, &done))
                return false;
            if (done)
                break;
            if (!iter_list(r, &item, &pair))
                return false;
            if (pair->n != 2)
                return jinja_fail(r,
                                  "dictionary update sequence element has length %zu; 2 is "
                                  "required",
                                  pair->n);
            if (!dict_can_key(&pair->at[0]))
                return jinja_fail(r, "unhashable type: '%s'", value_type_name(&pair->at[0]));
            if (!dict_set(&r->arena, d, pair->at[0], pair->at[1]))
                return jinja_no_memory(r);
        }
    }
    for (size_t i = 0; i < args->n_keyword; i++) {
        if (!dict_set(&r->arena, d, value_of_string(args->keywords[i].name),
                      args->keywords[i].value))
            return jinja_no_memory(r);
    }
    *out = d;
    return true;
}

static bool call_dict(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    struct value_dict *d = NULL;
    if (!make_dict(r, args, &d))
        return false;
    *out = value_of_dict(d);
    return true;
}

bool fail_namespace(struct jinja_run *r, const struct value_string *name)
{
    return jinja_fail(r,
                      "Chat templates cannot store underscore-prefixed attributes on a namespace, "
                      "but got '%.*s'. Please rename the attribute.",
                      name->len > 100 ? 100 : (int)name->len, name->data);
}

static bool call_namespace(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    struct value_dict *d = NULL;
    if (!make_dict(r, args, &d))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        const struct value *key = &d->at[i].key;
        if (key->kind == VALUE_STRING && key->as.string->len > 0 && key->as.string->data[0] == '_')
            return fail_namespace(r, key->as.string);
    }
    *out = (struct value){ .kind = VALUE_NAMESPACE, .as.dict = d };
    return true;
}

static bool call_cycler(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    struct value_cycler *c = jinja_take(&r->arena, sizeof *c);
    if (c == NULL)
        return jinja_no_memory(r);
    if (args->n_keyword > 0)
        return jinja_fail(r, "cycler takes no keyword arguments");
    if (args->n == 0)
        return jinja_fail(r, "at least one item has to be provided");
    for (size_t i = 0; i < args->n; i++) {
        if (!list_push(&r->arena, &c->items, args->at[i]))
            return jinja_no_memory(r);
    }
    *out = (struct value){ .kind = VALUE_CYCLER, .as.cycler = c };
    return true;
}

static bool call_joiner(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    static const char *const names[] = { "sep", NULL };
    static const struct value_string comma = { .data = ", ", .len = 2 };
    struct value_joiner *j = jinja_take(&r->arena, sizeof *j);
    struct value v;
    if (j == NULL)
        return jinja_no_memory(r);
    j->separator = &comma;
    if (!args_bind(r, "joiner", args, names, 0, &v) ||
        !arg_string(r, &v, "joiner: sep", &j->separator))
        return false;
    *out = (struct value){ .kind = VALUE_JOINER, .as.joiner = j };
    return true;
}

static bool call_raise(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    static const char *const names[] = { "message", NULL };
    const struct value_string *s = NULL;
    struct value v;
    (void)out;
    if (!args_bind(r, "raise_exception", args, names, 1, &v) || !value_str(r, &v, &s))
        return false;
    free(r->out->raised);
    r->out->raised = text_copy_n(s->len > 0 ? s->data : "", s->len);
    if (r->out->raised == NULL)
        return jinja_no_memory(r);
    r->out->n_raised = s->len;
    return jinja_fail(r, "%s", r->out->raised);
}

static bool call_strftime(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    static const char *const names[] = { "format", NULL };
    const struct value_string *s = NULL;
    struct value v;
    return args_bind(r, "strftime_now", args, names, 1, &v) &&
           arg_string(r, &v, "strftime_now: format", &s) && jinja_strftime(r, s, out);
}

static const struct {
    const char *name;
    bool (*call)(struct jinja_run *r, const struct call_args *args, struct value *out);
} functions[] = {
    { "cycler", call_cycler },       { "dict", call_dict },
    { "joiner", call_joiner },       { "lipsum", NULL },
    { "namespace", call_namespace }, { "raise_exception", call_raise },
    { "range", call_range },         { "strftime_now", call_strftime },
};

struct value jinja_global(const struct value_string *name)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        if (string_is(name, functions[i].name))
            return (struct value){ .kind = VALUE_FUNCTION, .as.function = (int)i };
    }
    return (struct value){ .kind = VALUE_MISSING };
}

bool jinja_call(struct jinja_run *r, const struct value *callee, const struct call_args *args,
                struct value *out)
{
    switch (callee->kind) {
    case VALUE_UNDEFINED:
        return fail_undefined(r, callee);
    case VALUE_MACRO:
        return call_macro(r, callee->as.macro, args, out);
    case VALUE_METHOD:
        return callee->as.method->method->call(r, callee->as.method->self, args, out);
    case VALUE_FUNCTION:
        if (functions[callee->as.function].call == NULL)
            return jinja_fail(r, "%s() is not supported", functions[callee->as.function].name);
        return functions[callee->as.function].call(r, args, out);
    case VALUE_LOOP:
        if (args->n != 1 || args->n_keyword != 0)
            return jinja_fail(r, "loop() takes one argument");
        return jinja_recurse(r, callee->as.loop, &args->at[0], out);
    case VALUE_JOINER: {
        struct value_joiner *j = callee->as.joiner;
        static const struct value_string nothing = { .data = "" };
        if (args->n > 0 || args->n_keyword > 0)
            return jinja_fail(r, "a joiner takes no arguments");
        *out = value_of_string(j->used ? j->separator : &nothing);
        j->used = true;
        return true;
    }
    default:
        return jinja_fail(r, "'%s' object is not callable", value_type_name(callee));
    }
}
