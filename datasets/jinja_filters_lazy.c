/* Filters that give a generator: items are worked on when they are asked for, once. */
#include "datasets/jinja_filters.h"

#include "datasets/jinja_iter.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_tests.h"

/* What every such filter keeps: where its items come from. */
struct lazy {
    struct value in;
    struct call_args args;
    struct iter it;
    bool started;
    /* map, select, ...: what is applied */
    const struct filter *filter;
    const struct test *test;
    struct value name; /* MISSING, or of a filter or test that there is not */
    struct attr_path path;
    bool negated, by_attr;
    /* unique */
    struct value_dict *seen;
    /* batch, slice */
    int64_t n, at;
    struct value fill;
    struct value_list *list;
};

static bool make(struct jinja_run *r,
                 bool (*next)(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                              bool *done),
                 struct lazy lazy, struct value *out)
{
    struct lazy *s = jinja_take(&r->arena, sizeof *s);
    if (s != NULL)
        *s = lazy;
    return give_generator(r, next, s, out);
}

/* The name of a filter or test from an argument, for messages. */
static bool fail_unknown(struct jinja_run *r, const char *what, const struct value *name,
                         bool refused)
{
    const struct value_string *s = name->kind == VALUE_STRING ? name->as.string : NULL;
    const int len = s == NULL ? 0 : s->len > 100 ? 100 : (int)s->len;
    return jinja_fail(r, refused ? "the %s '%.*s' is not supported" : "No %s named '%.*s'.", what,
                      len, s != NULL ? s->data : "");
}

/* map('filter', args...) or map(attribute='a', default=x) */
static bool start_map(struct jinja_run *r, struct lazy *s)
{
    const struct call_keyword *attribute = NULL;
    bool refused = false;
    for (size_t i = 0; i < s->args.n_keyword; i++) {
        if (string_is(s->args.keywords[i].name, "attribute"))
            attribute = &s->args.keywords[i];
    }
    if (s->args.n == 0 && attribute != NULL) {
        for (size_t i = 0; i < s->args.n_keyword; i++) {
            const struct call_keyword *k = &s->args.keywords[i];
            if (string_is(k->name, "default")) {
                s->path.has_otherwise = k->value.kind != VALUE_NONE;
                s->path.otherwise = k->value;
            } else if (k != attribute) {
                return jinja_fail(r, "Unexpected keyword argument '%.*s'",
                                  k->name->len > 100 ? 100 : (int)k->name->len, k->name->data);
            }
        }
        return attr_path_open(r, &attribute->value, &s->path);
    }
    if (s->args.n == 0)
        return jinja_fail(r, "map requires a filter argument");
    if (s->args.at[0].kind == VALUE_STRING)
        s->filter = filter_find(s->args.at[0].as.string, &refused);
    if (s->filter == NULL)
        s->name = s->args.at[0];
    if (refused)
        return fail_unknown(r, "filter", &s->name, true);
    s->args.at++;
    s->args.n--;
    return true;
}

static bool next_map(struct jinja_run *r, struct jinja_generator *g, struct value *out, bool *done)
{
    struct lazy *s = g->state;
    struct value item;
    if (!s->started) {
        *done = !value_truth(&s->in);
        if (*done)
            return true;
        if (!start_map(r, s) || !iter_open(r, &s->in, &s->it))
            return false;
        s->started = true;
    }
    if (!iter_next(r, &s->it, &item, done))
        return false;
    if (*done)
        return true;
    if (s->name.kind != VALUE_MISSING)
        return fail_unknown(r, "filter", &s->name, false);
    return s->filter != NULL ? s->filter->apply(r, item, &s->args, out)
                             : attr_path_get(r, &s->path, &item, out);
}

static bool filter_map(struct jinja_run *r, struct value in, const struct call_args *args,
                       struct value *out)
{
    return make(r, next_map, (struct lazy){ .in = in, .args = *args }, out);
}

/* select(test, args...) or selectattr(attribute, test, args...) */
static bool start_select(struct jinja_run *r, struct lazy *s)
{
    bool refused = false;
    if (s->by_attr) {
        if (s->args.n == 0)
            return jinja_fail(r, "Missing parameter for attribute name");
        if (!attr_path_open(r, &s->args.at[0], &s->path))
            return false;
        s->args.at++;
        s->args.n--;
    }
    if (s->args.n == 0)
        return true;
    if (s->args.at[0].kind == VALUE_STRING)
        s->test = test_find(s->args.at[0].as.string, &refused);
    if (s->test == NULL)
        s->name = s->args.at[0];
    s->args.at++;
    s->args.n--;
    return true;
}

static bool next_select(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                        bool *done)
{
    struct lazy *s = g->state;
    if (!s->started) {
        *done = !value_truth(&s->in);
        if (*done)
            return true;
        if (!start_select(r, s) || !iter_open(r, &s->in, &s->it))
            return false;
        s->started = true;
    }
    while (true) {
        struct value item, v;
        bool hit = false;
        if (!iter_next(r, &s->it, &item, done))
            return false;
        if (*done)
            return true;
        v = item;
        if (s->by_attr && !attr_path_get(r, &s->path, &item, &v))
            return false;
        if (s->name.kind != VALUE_MISSING)
            return fail_unknown(r, "test", &s->name, false);
        if (s->test == NULL)
            hit = value_truth(&v);
        else if (!s->test->apply(r, v, &s->args, &hit))
            return false;
        if (hit != s->negated) {
            *out = item;
            return true;
        }
    }
}

static bool filter_select(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    return make(r, next_select, (struct lazy){ .in = in, .args = *args }, out);
}

static bool filter_reject(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    return make(r, next_select, (struct lazy){ .in = in, .args = *args, .negated = true }, out);
}

static bool filter_selectattr(struct jinja_run *r, struct value in, const struct call_args *args,
                              struct value *out)
{
    return make(r, next_select, (struct lazy){ .in = in, .args = *args, .by_attr = true }, out);
}

static bool filter_rejectattr(struct jinja_run *r, struct value in, const struct call_args *args,
                              struct value *out)
{
    return make(r, next_select,
                (struct lazy){ .in = in, .args = *args, .by_attr = true, .negated = true }, out);
}

static bool next_items(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                       bool *done)
{
    struct lazy *s = g->state;
    *done = s->in.kind == VALUE_UNDEFINED;
    if (*done)
        return true;
    if (s->in.kind != VALUE_DICT)
        return jinja_fail(r, "Can only get item pairs from a mapping.");
    *done = (size_t)s->at == s->in.as.dict->n;
    if (*done)
        return true;
    const struct dict_entry *e = &s->in.as.dict->at[s->at++];
    return give_tuple(r, list_pair(&r->arena, e->key, e->value), out);
}

static bool filter_items(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    if (args->n > 0 || args->n_keyword > 0)
        return jinja_fail(r, "items takes no arguments");
    return make(r, next_items, (struct lazy){ .in = in }, out);
}

static bool next_unique(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                        bool *done)
{
    struct lazy *s = g->state;
    if (!s->started && !iter_open(r, &s->in, &s->it))
        return false;
    s->started = true;
    while (true) {
        struct value key;
        if (!iter_next(r, &s->it, out, done))
            return false;
        if (*done)
            return true;
        if (!attr_path_get(r, &s->path, out, &key))
            return false;
        if (!dict_can_key(&key))
            return jinja_fail(r, "unhashable type: '%s'", value_type_name(&key));
        if (dict_find(s->seen, &key) != NULL)
            continue;
        return dict_set(&r->arena, s->seen, key, value_none()) || jinja_no_memory(r);
    }
}

static bool filter_unique(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    static const char *const names[] = { "case_sensitive", "attribute", NULL };
    struct value v[2];
    struct lazy s = { .in = in, .seen = dict_new(&r->arena) };
    if (!args_bind(r, "unique", args, names, 0, v) || !attr_path_open(r, &v[1], &s.path))
        return false;
    s.path.lower = !arg_truth(&v[0], false);
    return s.seen != NULL ? make(r, next_unique, s, out) : jinja_no_memory(r);
}

static bool fill_list(struct jinja_run *r, const struct lazy *s, struct value_list *list,
                      int64_t times)
{
    if (s->fill.kind == VALUE_MISSING || s->fill.kind == VALUE_NONE)
        return true;
    for (int64_t i = 0; i < times; i++) {
        if (!jinja_step(r, 1))
            return false;
        if (!list_push(&r->arena, list, s->fill))
            return jinja_no_memory(r);
    }
    return true;
}

static bool next_batch(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                       bool *done)
{
    struct lazy *s = g->state;
    struct value_list *list = s->list; /* what was read ahead */
    struct value item;
    if (!s->started && !iter_open(r, &s->in, &s->it))
        return false;
    s->started = true;
    if (list == NULL)
        list = list_new(&r->arena, 0);
    s->list = NULL;
    while (list != NULL) {
        if (!iter_next(r, &s->it, &item, done))
            return false;
        if (*done) {
            *done = list->n == 0;
            s->in = value_none();
            s->it.of = (struct value){ .kind = VALUE_UNDEFINED };
            return fill_list(r, s, list, s->n - (int64_t)list->n) && give_list(r, list, out);
        }
        struct value_list *to = list;
        if ((int64_t)list->n == s->n) {
            to = s->list = list_new(&r->arena, 0);
            if (to == NULL)
                break;
        }
        if (!list_push(&r->arena, to, item))
            break;
        if (to != list)
            return give_list(r, list, out);
    }
    return jinja_no_memory(r);
}

static bool batch_args(struct jinja_run *r, struct value in, const struct call_args *args,
                       const char *name, struct lazy *s)
{
    const char *const names[] = { "linecount", "fill_with", NULL };
    struct value v[2];
    *s = (struct lazy){ .in = in };
    if (!args_bind(r, name, args, names, 1, v) || !arg_int(r, &v[0], name, &s->n))
        return false;
    s->fill = v[1];
    return s->n > 0 || jinja_fail(r, "%s: a count of %lld is not supported", name, (long long)s->n);
}

static bool filter_batch(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    struct lazy s;
    return batch_args(r, in, args, "batch", &s) && make(r, next_batch, s, out);
}

/* n columns as even as possible, the first ones longer by one. */
static bool next_slice(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                       bool *done)
{
    struct lazy *s = g->state;
    if (s->list == NULL && !iter_list(r, &s->in, &s->list))
        return false;
    *done = s->at == s->n;
    if (*done)
        return true;
    const int64_t n = (int64_t)s->list->n, each = n / s->n, extra = n % s->n;
    const int64_t start = s->at * each + (s->at < extra ? s->at : extra);
    const int64_t end = start + each + (s->at < extra ? 1 : 0);
    struct value_list *list = list_new(&r->arena, 0);
    for (int64_t i = start; list != NULL && i < end; i++) {
        if (!list_push(&r->arena, list, s->list->at[i]))
            list = NULL;
    }
    if (list == NULL)
        return jinja_no_memory(r);
    const bool fills = s->at++ >= extra;
    return fill_list(r, s, list, fills ? 1 : 0) && give_list(r, list, out);
}

static bool filter_slice(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    struct lazy s;
    return batch_args(r, in, args, "slice", &s) && make(r, next_slice, s, out);
}

const struct filter lazy_filters[] = {
    { "batch", filter_batch },
    { "items", filter_items },
    { "map", filter_map },
    { "reject", filter_reject },
    { "rejectattr", filter_rejectattr },
    { "select", filter_select },
    { "selectattr", filter_selectattr },
    { "slice", filter_slice },
    { "unique", filter_unique },
    { NULL, NULL },
};
