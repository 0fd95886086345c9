/* v.name, v[key] and v[a:b:c]. */
#include "datasets/jinja_ops.h"

#include "datasets/jinja_iter.h"
#include "datasets/jinja_loop.h"
#include "datasets/jinja_methods.h"

/* Attributes proper, without the items; *found false when there is none of that name. */
static bool attribute(struct jinja_run *r, const struct value *v, const struct value_string *name,
                      struct value *out, bool *found)
{
    static const struct {
        const char *name;
        int64_t at;
    } group[] = { { "grouper", 0 }, { "list", 1 } };
    *found = false;
    if (name->len > 3 && name->data[0] == '_' && name->data[1] == '_')
        return jinja_fail(r, "attributes that begin with '__' are not supported");
    switch (v->kind) {
    case VALUE_NAMESPACE: {
        const struct value *member = dict_find_name(v->as.dict, name->data, name->len);
        *found = member != NULL;
        if (*found)
            *out = *member;
        return true;
    }
    case VALUE_LOOP:
        return loop_attr(r, v, name, out, found);
    case VALUE_TUPLE:
        for (size_t i = 0; v->as.list->is_group && i < 2; i++) {
            if (string_is(name, group[i].name)) {
                *out = v->as.list->at[group[i].at];
                *found = true;
                return true;
            }
        }
        return method_attr(r, v, name, out, found);
    default:
        return method_attr(r, v, name, out, found);
    }
}

/* The item; *found false where Python raises an error that jinja2 turns into undefined. */
static bool item(struct jinja_run *r, const struct value *v, const struct value *key,
                 struct value *out, bool *found)
{
    int64_t n = 0;
    *found = false;
    if (v->kind == VALUE_DICT) {
        const struct value *member = dict_can_key(key) ? dict_find(v->as.dict, key) : NULL;
        *found = member != NULL;
        if (*found)
            *out = *member;
        return true;
    }
    if ((v->kind != VALUE_STRING && v->kind != VALUE_LIST && v->kind != VALUE_TUPLE &&
         v->kind != VALUE_RANGE) ||
        !value_is_int(key))
        return true;
    if (!value_length(r, v, &n))
        return false;
    int64_t i = value_to_int(key);
    if (i < -n || i >= n)
        return true;
    if (i < 0)
        i += n;
    *found = true;
    if (v->kind == VALUE_RANGE) {
        *out = value_int(v->as.range->start + i * v->as.range->step);
        return true;
    }
    if (v->kind != VALUE_STRING) {
        *out = v->as.list->at[i];
        return true;
    }
    const struct value_string *s = v->as.string;
    const size_t start = (size_t)n == s->len ? (size_t)i : string_offset(s, i);
    const struct value_string rest = { .data = s->data + start, .len = s->len - start };
    struct value_string *c = jinja_take(&r->arena, sizeof *c);
    if (c != NULL)
        *c = (struct value_string){ .data = rest.data,
                                    .len = string_offset(&rest, 1),
                                    .safe = s->safe };
    return give_string(r, c, out);
}

bool value_attr(struct jinja_run *r, const struct value *v, const struct value_string *name,
                struct value *out)
{
    const struct value key = value_of_string(name);
    bool found = false;
    if (v->kind == VALUE_UNDEFINED)
        return fail_undefined(r, v);
    if (!attribute(r, v, name, out, &found))
        return false;
    if (!found && !item(r, v, &key, out, &found))
        return false;
    return found || give_undefined(r, v, key, out);
}

bool value_attr_only(struct jinja_run *r, const struct value *v, const struct value_string *name,
                     struct value *out)
{
    bool found = false;
    if (v->kind == VALUE_UNDEFINED)
        return fail_undefined(r, v);
    return attribute(r, v, name, out, &found) &&
           (found || give_undefined(r, v, value_of_string(name), out));
}

bool value_item(struct jinja_run *r, const struct value *v, const struct value *key,
                struct value *out)
{
    bool found = false;
    if (v->kind == VALUE_UNDEFINED)
        return fail_undefined(r, v);
    if (!item(r, v, key, out, &found))
        return false;
    if (!found && key->kind == VALUE_STRING && !attribute(r, v, key->as.string, out, &found))
        return false;
    return found || give_undefined(r, v, *key, out);
}

/* Python's slice.indices(): bounds counted from the end when negative, cut to what is there. */
static bool slice_bounds(struct jinja_run *r, const struct value bounds[3], int64_t n,
                         int64_t *start, int64_t *stop, int64_t *step)
{
    for (int i = 0; i < 3; i++) {
        if (bounds[i].kind != VALUE_MISSING && bounds[i].kind != VALUE_NONE &&
            !value_is_int(&bounds[i]))
            return jinja_fail(r, "slice indices must be integers or None");
    }
    const bool has[3] = { value_is_int(&bounds[0]), value_is_int(&bounds[1]),
                          value_is_int(&bounds[2]) };
    *step = has[2] ? value_to_int(&bounds[2]) : 1;
    if (*step == 0)
        return jinja_fail(r, "slice step cannot be zero");
    if (*step == INT64_MIN)
        *step = -INT64_MAX;
    const bool back = *step < 0;
    int64_t *at[2] = { start, stop };
    const int64_t otherwise[2] = { back ? n - 1 : 0, back ? -1 : n };
    for (int i = 0; i < 2; i++) {
        *at[i] = otherwise[i];
        if (!has[i])
            continue;
        int64_t v = value_to_int(&bounds[i]);
        if (v < 0)
            v = v < -n ? (back ? -1 : 0) : v + n;
        else if (v >= n)
            v = back ? n - 1 : n;
        *at[i] = v;
    }
    return true;
}

static bool slice_string(struct jinja_run *r, const struct value_string *s, int64_t start,
                         int64_t stop, int64_t step, struct value *out)
{
    struct value_string *part = jinja_take(&r->arena, sizeof *part);
    if (part == NULL)
        return jinja_no_memory(r);
    part->safe = s->safe;
    if (step == 1) {
        const size_t from = string_offset(s, start);
        const struct value_string rest = { .data = s->data + from, .len = s->len - from };
        part->data = rest.data;
        part->len = stop > start ? string_offset(&rest, stop - start) : 0;
        return give_string(r, part, out);
    }
    /* The offsets of all characters, once. */
    int64_t n = string_length(s);
    size_t *offsets = jinja_take_array(&r->arena, (size_t)n + 1, sizeof *offsets);
    struct value_text t = { 0 };
    if (offsets == NULL || !jinja_step(r, n))
        return offsets == NULL ? jinja_no_memory(r) : false;
    for (int64_t i = 0; i < n; i++) {
        const struct value_string rest = { .data = s->data + offsets[i],
                                           .len = s->len - offsets[i] };
        offsets[i + 1] = offsets[i] + string_offset(&rest, 1);
    }
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
        if (!text_add(&r->arena, &t, s->data + offsets[i], offsets[i + 1] - offsets[i]))
            return jinja_no_memory(r);
        if (step > 0 ? step > stop - i : step < stop - i)
            break;
    }
    part->data = t.len > 0 ? t.data : "";
    part->len = t.len;
    return give_string(r, part, out);
}

bool value_slice(struct jinja_run *r, const struct value *v, const struct value bounds[3],
                 struct value *out)
{
    int64_t n = 0, start = 0, stop = 0, step = 1;
    if (v->kind == VALUE_UNDEFINED)
        return fail_undefined(r, v);
    if (v->kind == VALUE_RANGE)
        return jinja_fail(r, "slices of ranges are not supported");
    if (v->kind != VALUE_STRING && v->kind != VALUE_LIST && v->kind != VALUE_TUPLE)
        return jinja_fail(r, "'%s' object is not subscriptable by a slice", value_type_name(v));
    if (!value_length(r, v, &n) || !slice_bounds(r, bounds, n, &start, &stop, &step))
        return false;
    if (v->kind == VALUE_STRING)
        return slice_string(r, v->as.string, start, stop, step, out);
    struct value_list *list = list_new(&r->arena, 0);
    for (int64_t i = start; list != NULL && (step > 0 ? i < stop : i > stop); i += step) {
        if (!jinja_step(r, 1))
            return false;
        if (!list_push(&r->arena, list, v->as.list->at[i]))
            return jinja_no_memory(r);
        if (step > 0 ? step > stop - i : step < stop - i)
            break;
    }
    return v->kind == VALUE_LIST ? give_list(r, list, out) : give_tuple(r, list, out);
}
