#include "datasets/jinja_iter.h"

#include "datasets/jinja_loop.h"
#include "kernels/core/text.h"

bool value_is_iterable(const struct value *v)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_STRING:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_RANGE:
    case VALUE_VIEW:
    case VALUE_GENERATOR:
    case VALUE_LOOP:
        return true;
    default:
        return false;
    }
}

bool iter_open(struct jinja_run *r, const struct value *v, struct iter *it)
{
    *it = (struct iter){ .of = *v };
    if (v->kind == VALUE_LOOP)
        return jinja_fail(r, "iterating over 'loop' is not supported");
    return value_is_iterable(v) || jinja_fail(r, "'%s' object is not iterable", value_type_name(v));
}

static bool entry_at(struct jinja_run *r, const struct value_view *view, size_t at,
                     struct value *out)
{
    const struct dict_entry *e = &view->dict->at[at];
    if (view->kind == VIEW_ITEMS)
        return give_tuple(r, list_pair(&r->arena, e->key, e->value), out);
    *out = view->kind == VIEW_KEYS ? e->key : e->value;
    return true;
}

bool iter_next(struct jinja_run *r, struct iter *it, struct value *out, bool *done)
{
    const struct value *v = &it->of;
    size_t n = 0;
    if (!jinja_step(r, 1))
        return false;
    switch (v->kind) {
    case VALUE_STRING:
        n = v->as.string->len;
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        n = v->as.list->n;
        break;
    case VALUE_DICT:
        n = v->as.dict->n;
        break;
    case VALUE_VIEW:
        n = v->as.view->dict->n;
        break;
    case VALUE_RANGE:
        n = (size_t)v->as.range->n;
        break;
    case VALUE_GENERATOR:
        if (!v->as.generator->done && !v->as.generator->next(r, v->as.generator, out, done))
            return false;
        if (v->as.generator->done)
            *done = true;
        v->as.generator->done = *done;
        return true;
    default:
        break;
    }
    *done = it->at >= n;
    if (*done)
        return true;
    const size_t at = it->at++;
    switch (v->kind) {
    case VALUE_STRING: {
        const char *s = v->as.string->data + at;
        const size_t len = text_utf8_length(s);
        it->at = at + len;
        return give_string(r, string_point(&r->arena, s, len), out);
    }
    case VALUE_DICT:
        *out = v->as.dict->at[at].key;
        return true;
    case VALUE_VIEW:
        return entry_at(r, v->as.view, at, out);
    case VALUE_RANGE:
        *out = value_int(v->as.range->start + (int64_t)at * v->as.range->step);
        return true;
    default:
        *out = v->as.list->at[at];
        return true;
    }
}

bool iter_list(struct jinja_run *r, const struct value *v, struct value_list **out)
{
    struct iter it;
    struct value item;
    bool done = false;
    if (!iter_open(r, v, &it))
        return false;
    *out = list_new(&r->arena, 0);
    if (*out == NULL)
        return jinja_no_memory(r);
    while (true) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            return true;
        if (!list_push(&r->arena, *out, item))
            return jinja_no_memory(r);
    }
}

bool value_has_length(const struct value *v)
{
    return value_is_iterable(v) && v->kind != VALUE_GENERATOR;
}

bool value_length(struct jinja_run *r, const struct value *v, int64_t *out)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
        *out = 0;
        return true;
    case VALUE_STRING:
        *out = string_length(v->as.string);
        return jinja_step(r, (int64_t)(v->as.string->len / 256));
    case VALUE_LIST:
    case VALUE_TUPLE:
        *out = (int64_t)v->as.list->n;
        return true;
    case VALUE_DICT:
        *out = (int64_t)v->as.dict->n;
        return true;
    case VALUE_VIEW:
        *out = (int64_t)v->as.view->dict->n;
        return true;
    case VALUE_RANGE:
        *out = v->as.range->n;
        return true;
    case VALUE_LOOP:
        return loop_length(r, v->as.loop, out);
    default:
        return jinja_fail(r, "object of type '%s' has no len()", value_type_name(v));
    }
}

bool give_generator(struct jinja_run *r,
                    bool (*next)(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                                 bool *done),
                    void *state, struct value *out)
{
    struct jinja_generator *g = jinja_take(&r->arena, sizeof *g);
    if (g == NULL || state == NULL)
        return jinja_no_memory(r);
    *g = (struct jinja_generator){ .next = next, .state = state };
    *out = (struct value){ .kind = VALUE_GENERATOR, .as.generator = g };
    return true;
}
