#include "datasets/jinja_loop.h"

#include "datasets/jinja_methods.h"
#include "datasets/jinja_ops.h"

bool loop_open(struct jinja_run *r, const struct value *iterable, struct jinja_loop *loop)
{
    loop->iterable = *iterable;
    loop->index0 = -1;
    loop->length = -1;
    loop->before = loop->current = loop->after = (struct value){ .kind = VALUE_MISSING };
    return iter_open(r, iterable, &loop->it);
}

bool loop_next(struct jinja_run *r, struct jinja_loop *loop, bool *done)
{
    struct value item = loop->after;
    loop->after.kind = VALUE_MISSING;
    *done = false;
    if (item.kind == VALUE_MISSING && !iter_next(r, &loop->it, &item, done))
        return false;
    if (*done)
        return true;
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return true;
}

/* Looks one item ahead; after stays MISSING at the end. */
static bool peek(struct jinja_run *r, struct jinja_loop *loop)
{
    bool done = false;
    if (loop->after.kind != VALUE_MISSING)
        return true;
    if (!iter_next(r, &loop->it, &loop->after, &done))
        return false;
    if (done)
        loop->after.kind = VALUE_MISSING;
    return true;
}

bool loop_length(struct jinja_run *r, struct jinja_loop *loop, int64_t *out)
{
    if (loop->length < 0 && value_has_length(&loop->iterable)) {
        if (!value_length(r, &loop->iterable, &loop->length))
            return false;
    } else if (loop->length < 0) { /* a generator: read to its end */
        struct value_list *rest = NULL;
        if (!iter_list(r, &loop->it.of, &rest))
            return false;
        loop->it = (struct iter){ .of = value_of_list(rest) };
        loop->length =
            (int64_t)rest->n + loop->index0 + 1 + (loop->after.kind != VALUE_MISSING ? 1 : 0);
    }
    *out = loop->length;
    return true;
}

bool loop_cycle(struct jinja_run *r, struct value self, const struct call_args *args,
                struct value *out)
{
    if (args->n_keyword > 0)
        return jinja_fail(r, "loop.cycle() takes no keyword arguments");
    if (args->n == 0)
        return jinja_fail(r, "no items for cycling given");
    *out = args->at[(size_t)self.as.loop->index0 % args->n];
    return true;
}

bool loop_changed(struct jinja_run *r, struct value self, const struct call_args *args,
                  struct value *out)
{
    struct jinja_loop *loop = self.as.loop;
    struct value_list *now = list_new(&r->arena, args->n);
    if (args->n_keyword > 0)
        return jinja_fail(r, "loop.changed() takes no keyword arguments");
    for (size_t i = 0; now != NULL && i < args->n; i++) {
        if (!list_push(&r->arena, now, args->at[i]))
            now = NULL;
    }
    if (now == NULL)
        return jinja_no_memory(r);
    bool same = false;
    if (loop->changed != NULL) {
        const struct value x = value_of_tuple(loop->changed), y = value_of_tuple(now);
        if (!value_equal(r, &x, &y, &same))
            return false;
    }
    if (!same)
        loop->changed = now;
    *out = value_bool(!same);
    return true;
}

bool loop_attr(struct jinja_run *r, const struct value *v, const struct value_string *name,
               struct value *out, bool *found)
{
    struct jinja_loop *loop = v->as.loop;
    int64_t length = 0;
    *found = true;
    if (string_is(name, "index")) {
        *out = value_int(loop->index0 + 1);
    } else if (string_is(name, "index0")) {
        *out = value_int(loop->index0);
    } else if (string_is(name, "first")) {
        *out = value_bool(loop->index0 == 0);
    } else if (string_is(name, "last")) {
        if (!peek(r, loop))
            return false;
        *out = value_bool(loop->after.kind == VALUE_MISSING);
    } else if (string_is(name, "length")) {
        if (!loop_length(r, loop, &length))
            return false;
        *out = value_int(length);
    } else if (string_is(name, "revindex") || string_is(name, "revindex0")) {
        if (!loop_length(r, loop, &length))
            return false;
        *out = value_int(length - loop->index0 - (string_is(name, "revindex0") ? 1 : 0));
    } else if (string_is(name, "previtem")) {
        if (loop->index0 == 0)
            return give_undefined_hint(r, "there is no previous item", out);
        *out = loop->before;
    } else if (string_is(name, "nextitem")) {
        if (!peek(r, loop))
            return false;
        if (loop->after.kind == VALUE_MISSING)
            return give_undefined_hint(r, "there is no next item", out);
        *out = loop->after;
    } else if (string_is(name, "depth")) {
        *out = value_int(loop->depth0 + 1);
    } else if (string_is(name, "depth0")) {
        *out = value_int(loop->depth0);
    } else {
        return method_attr(r, v, name, out, found);
    }
    return true;
}
