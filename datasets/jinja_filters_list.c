/* Filters that take a sequence at once: join, sort, groupby, ... */
#include "datasets/jinja_filters.h"

#include <string.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_methods.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"

static bool no_args(struct jinja_run *r, const char *name, const struct call_args *args)
{
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "%s takes no arguments", name);
}

static bool filter_join(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    static const char *const names[] = { "d", "attribute", NULL };
    struct value v[2], item, member;
    struct attr_path path = { 0 };
    struct iter it;
    struct value_text t = { 0 }, separator = { 0 };
    bool done = false;
    if (!args_bind(r, "join", args, names, 0, v) || !attr_path_open(r, &v[1], &path) ||
        (v[0].kind != VALUE_MISSING && !value_print(r, &v[0], &separator)) ||
        !iter_open(r, &in, &it))
        return false;
    for (bool first = true;; first = false) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            return give_text(r, &t, out);
        if (!attr_path_get(r, &path, &item, &member))
            return false;
        if (!first && !text_add(&r->arena, &t, separator.data, separator.len))
            return jinja_no_memory(r);
        if (!value_print(r, &member, &t))
            return false;
    }
}

static bool filter_list(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    struct value_list *list = NULL;
    return no_args(r, "list", args) && iter_list(r, &in, &list) && give_list(r, list, out);
}

static bool filter_first(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    struct iter it;
    bool done = false;
    if (!no_args(r, "first", args) || !iter_open(r, &in, &it) || !iter_next(r, &it, out, &done))
        return false;
    return !done || give_undefined_hint(r, "No first item, sequence was empty.", out);
}

/* The items from the last to the first, where Python's reversed() takes the value. */
static bool reversed(struct jinja_run *r, const struct value *v, struct value_list **out)
{
    if (!value_has_length(v) || v->kind == VALUE_LOOP)
        return jinja_fail(r, "'%s' object is not reversible", value_type_name(v));
    struct value_list *list = NULL;
    if (!iter_list(r, v, &list))
        return false;
    for (size_t i = 0; i < list->n / 2; i++) {
        const struct value swap = list->at[i];
        list->at[i] = list->at[list->n - 1 - i];
        list->at[list->n - 1 - i] = swap;
    }
    *out = list;
    return true;
}

static bool filter_last(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    struct value_list *list = NULL;
    if (!no_args(r, "last", args))
        return false;
    if ((in.kind == VALUE_LIST || in.kind == VALUE_TUPLE) && in.as.list->n > 0) {
        *out = in.as.list->at[in.as.list->n - 1];
        return true;
    }
    if (!reversed(r, &in, &list))
        return false;
    if (list->n == 0)
        return give_undefined_hint(r, "No last item, sequence was empty.", out);
    *out = list->at[0];
    return true;
}

struct listed {
    struct value_list *list;
    size_t at;
};

static bool next_listed(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                        bool *done)
{
    struct listed *s = g->state;
    (void)r;
    *done = s->at == s->list->n;
    if (!*done)
        *out = s->list->at[s->at++];
    return true;
}

/* Strings are reversed; everything else gives an iterator, which is passed over once. */
static bool filter_reverse(struct jinja_run *r, struct value in, const struct call_args *args,
                           struct value *out)
{
    struct value_list *list = NULL;
    if (!no_args(r, "reverse", args))
        return false;
    if (in.kind == VALUE_STRING) {
        const struct value bounds[3] = { value_none(), value_none(), value_int(-1) };
        return value_slice(r, &in, bounds, out);
    }
    if (in.kind == VALUE_GENERATOR) { /* not reversible: becomes a list */
        if (!iter_list(r, &in, &list))
            return false;
        const struct value all = value_of_list(list);
        return reversed(r, &all, &list) && give_list(r, list, out);
    }
    if (!reversed(r, &in, &list))
        return false;
    struct listed *s = jinja_take(&r->arena, sizeof *s);
    if (s != NULL)
        s->list = list;
    return give_generator(r, next_listed, s, out);
}

static bool filter_sum(struct jinja_run *r, struct value in, const struct call_args *args,
                       struct value *out)
{
    static const char *const names[] = { "attribute", "start", NULL };
    struct value v[2], item, member;
    struct attr_path path = { 0 };
    struct iter it;
    bool done = false;
    if (!args_bind(r, "sum", args, names, 0, v) || !attr_path_open(r, &v[0], &path) ||
        !iter_open(r, &in, &it))
        return false;
    struct value sum = v[1].kind == VALUE_MISSING ? value_int(0) : v[1];
    if (sum.kind == VALUE_STRING)
        return jinja_fail(r, "sum() can't sum strings [use ''.join(seq) instead]");
    while (true) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            break;
        if (!attr_path_get(r, &path, &item, &member) ||
            !value_binary(r, OP_ADD, &sum, &member, out))
            return false;
        sum = *out;
    }
    *out = sum;
    return true;
}

static bool extreme(struct jinja_run *r, struct value in, const struct call_args *args,
                    const char *name, enum node_op op, struct value *out)
{
    static const char *const names[] = { "case_sensitive", "attribute", NULL };
    struct value v[2], item, key, best_key = value_none();
    struct attr_path path = { 0 };
    struct iter it;
    bool done = false, any = false;
    if (!args_bind(r, name, args, names, 0, v) || !attr_path_open(r, &v[1], &path) ||
        !iter_open(r, &in, &it))
        return false;
    path.lower = !arg_truth(&v[0], false);
    while (true) {
        bool better = !any;
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            break;
        if (!attr_path_get(r, &path, &item, &key) ||
            (any && !value_order(r, op, &key, &best_key, &better)))
            return false;
        if (better) {
            *out = item;
            best_key = key;
        }
        any = true;
    }
    return any || give_undefined_hint(r, "No aggregated item, sequence was empty.", out);
}

static bool filter_min(struct jinja_run *r, struct value in, const struct call_args *args,
                       struct value *out)
{
    return extreme(r, in, args, "min", OP_LT, out);
}

static bool filter_max(struct jinja_run *r, struct value in, const struct call_args *args,
                       struct value *out)
{
    return extreme(r, in, args, "max", OP_GT, out);
}

/* Items with what they are sorted by. */
struct keyed {
    struct value key, item;
};

/* Merge sort, stable also in reverse. */
static bool sort_keyed(struct jinja_run *r, struct keyed *at, size_t n, bool reverse,
                       struct keyed *spare)
{
    if (n < 2)
        return true;
    const size_t half = n / 2;
    if (!sort_keyed(r, at, half, reverse, spare) ||
        !sort_keyed(r, at + half, n - half, reverse, spare))
        return false;
    memcpy(spare, at, half * sizeof *at);
    size_t left = 0, right = half, to = 0;
    while (left < half) {
        bool second = false; /* the right one comes first */
        if (right < n &&
            !value_order(r, reverse ? OP_GT : OP_LT, &at[right].key, &spare[left].key, &second))
            return false;
        at[to++] = second ? at[right++] : spare[left++];
    }
    return true;
}

static bool sort_values(struct jinja_run *r, struct keyed *at, size_t n, bool reverse)
{
    struct keyed *spare = jinja_take_array(&r->arena, n / 2 + 1, sizeof *spare);
    if (spare == NULL)
        return jinja_no_memory(r);
    return sort_keyed(r, at, n, reverse, spare);
}

/* The keys of "a,b": a tuple of all of them. */
static bool sort_keys(struct jinja_run *r, const struct value *attribute, bool lower,
                      struct attr_path **paths, size_t *n)
{
    const struct value_string *s = attribute->kind == VALUE_STRING ? attribute->as.string : NULL;
    *n = 1;
    for (size_t i = 0; s != NULL && i < s->len; i++)
        *n += s->data[i] == ',';
    *paths = jinja_take_array(&r->arena, *n, sizeof **paths);
    if (*paths == NULL)
        return jinja_no_memory(r);
    size_t start = 0;
    for (size_t i = 0; i < *n; i++) {
        struct value one = *attribute;
        (*paths)[i].lower = lower;
        if (s != NULL) {
            const char *comma =
                start < s->len ? memchr(s->data + start, ',', s->len - start) : NULL;
            const size_t end = comma != NULL ? (size_t)(comma - s->data) : s->len;
            if (!give_string(r, string_point(&r->arena, s->data + start, end - start), &one))
                return false;
            start = end + 1;
        }
        if (!attr_path_open(r, &one, &(*paths)[i]))
            return false;
    }
    return true;
}

static bool filter_sort(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    static const char *const names[] = { "reverse", "case_sensitive", "attribute", NULL };
    struct value v[3];
    struct attr_path *paths = NULL;
    struct value_list *list = NULL;
    size_t n_path = 0;
    int64_t reverse = 0;
    if (!args_bind(r, "sort", args, names, 0, v) || !arg_int(r, &v[0], "sort: reverse", &reverse) ||
        !sort_keys(r, &v[2], !arg_truth(&v[1], false), &paths, &n_path) ||
        !iter_list(r, &in, &list))
        return false;
    struct keyed *keyed = jinja_take_array(&r->arena, list->n, sizeof *keyed);
    if (keyed == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < list->n; i++) {
        struct value_list *keys = list_new(&r->arena, n_path);
        keyed[i].item = list->at[i];
        if (!give_list(r, keys, &keyed[i].key))
            return false;
        for (size_t k = 0; k < n_path; k++) {
            struct value key;
            if (!attr_path_get(r, &paths[k], &list->at[i], &key))
                return false;
            if (!list_push(&r->arena, keys, key))
                return jinja_no_memory(r);
        }
    }
    if (!sort_values(r, keyed, list->n, reverse != 0))
        return false;
    for (size_t i = 0; i < list->n; i++)
        list->at[i] = keyed[i].item;
    return give_list(r, list, out);
}

static bool filter_dictsort(struct jinja_run *r, struct value in, const struct call_args *args,
                            struct value *out)
{
    static const char *const names[] = { "case_sensitive", "by", "reverse", NULL };
    static const struct value_string by_key = { .data = "key", .len = 3 };
    const struct value_string *by = &by_key;
    struct value v[3];
    int64_t reverse = 0;
    if (!args_bind(r, "dictsort", args, names, 0, v) ||
        !arg_string(r, &v[1], "dictsort: by", &by) ||
        !arg_int(r, &v[2], "dictsort: reverse", &reverse))
        return false;
    if (!string_is(by, "key") && !string_is(by, "value"))
        return jinja_fail(r, "You can only sort by either \"key\" or \"value\"");
    if (in.kind == VALUE_UNDEFINED)
        return fail_undefined(r, &in);
    if (in.kind != VALUE_DICT)
        return jinja_fail(r, "'%s' object has no attribute 'items'", value_type_name(&in));
    const struct value_dict *d = in.as.dict;
    struct keyed *keyed = jinja_take_array(&r->arena, d->n, sizeof *keyed);
    struct value_list *list = list_new(&r->arena, d->n);
    if (keyed == NULL || list == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < d->n; i++) {
        if (!give_tuple(r, list_pair(&r->arena, d->at[i].key, d->at[i].value), &keyed[i].item))
            return false;
        keyed[i].key = string_is(by, "key") ? d->at[i].key : d->at[i].value;
        if (!arg_truth(&v[0], false) && keyed[i].key.kind == VALUE_STRING &&
            !string_case(r, keyed[i].key.as.string, CASE_LOWER, &keyed[i].key))
            return false;
    }
    if (!sort_values(r, keyed, d->n, reverse != 0))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        if (!list_push(&r->arena, list, keyed[i].item))
            return jinja_no_memory(r);
    }
    return give_list(r, list, out);
}

/* A group that is complete: (key, items), the key as the first item has it. */
static bool push_group(struct jinja_run *r, const struct attr_path *path, struct value_list *items,
                       struct value_list *groups)
{
    struct value key;
    if (!attr_path_get(r, path, &items->at[0], &key))
        return false;
    struct value_list *pair = list_pair(&r->arena, key, value_of_list(items));
    if (pair == NULL || !list_push(&r->arena, groups, value_of_tuple(pair)))
        return jinja_no_memory(r);
    pair->is_group = true;
    return true;
}

static bool filter_groupby(struct jinja_run *r, struct value in, const struct call_args *args,
                           struct value *out)
{
    static const char *const names[] = { "attribute", "default", "case_sensitive", NULL };
    struct value v[3];
    struct attr_path path = { 0 };
    struct value_list *list = NULL, *items = NULL, *groups = list_new(&r->arena, 0);
    if (!args_bind(r, "groupby", args, names, 1, v) || !attr_path_open(r, &v[0], &path) ||
        !iter_list(r, &in, &list))
        return false;
    path.has_otherwise = v[1].kind != VALUE_MISSING && v[1].kind != VALUE_NONE;
    path.otherwise = v[1];
    path.lower = !arg_truth(&v[2], false);
    struct keyed *keyed = jinja_take_array(&r->arena, list->n, sizeof *keyed);
    if (keyed == NULL || groups == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < list->n; i++) {
        keyed[i].item = list->at[i];
        if (!attr_path_get(r, &path, &list->at[i], &keyed[i].key))
            return false;
    }
    if (!sort_values(r, keyed, list->n, false))
        return false;
    path.lower = false;
    for (size_t i = 0; i < list->n; i++) {
        bool same = false;
        if (i > 0 && !value_equal(r, &keyed[i - 1].key, &keyed[i].key, &same))
            return false;
        if (!same && items != NULL && !push_group(r, &path, items, groups))
            return false;
        if (!same)
            items = list_new(&r->arena, 0);
        if (items == NULL || !list_push(&r->arena, items, keyed[i].item))
            return jinja_no_memory(r);
    }
    if (items != NULL && !push_group(r, &path, items, groups))
        return false;
    return give_list(r, groups, out);
}

const struct filter list_filters[] = {
    { "dictsort", filter_dictsort }, { "first", filter_first }, { "groupby", filter_groupby },
    { "join", filter_join },         { "last", filter_last },   { "list", filter_list },
    { "max", filter_max },           { "min", filter_min },     { "reverse", filter_reverse },
    { "sort", filter_sort },         { "sum", filter_sum },     { NULL, NULL },
};
