#include "datasets/jinja_ops.h"

#include "datasets/jinja_iter.h"

bool value_truth(const struct value *v)
{
    switch (v->kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v->as.truth;
    case VALUE_INT:
        return v->as.integer != 0;
    case VALUE_FLOAT:
        return v->as.real < 0.0 || v->as.real > 0.0 || v->as.real != v->as.real;
    case VALUE_STRING:
        return v->as.string->len > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v->as.list->n > 0;
    case VALUE_DICT:
        return v->as.dict->n > 0;
    case VALUE_RANGE:
        return v->as.range->n > 0;
    case VALUE_VIEW:
        return v->as.view->dict->n > 0;
    default:
        return true;
    }
}

static bool lists_equal(struct jinja_run *r, const struct value_list *x, const struct value_list *y,
                        bool *equal)
{
    *equal = x->n == y->n;
    for (size_t i = 0; *equal && i < x->n; i++) {
        if (!value_equal(r, &x->at[i], &y->at[i], equal))
            return false;
    }
    return true;
}

static bool dicts_equal(struct jinja_run *r, const struct value_dict *x, const struct value_dict *y,
                        bool *equal)
{
    *equal = x->n == y->n;
    for (size_t i = 0; *equal && i < x->n; i++) {
        const struct value *other = dict_find(y, &x->at[i].key);
        *equal = other != NULL;
        if (*equal && !value_equal(r, &x->at[i].value, other, equal))
            return false;
    }
    return true;
}

bool value_equal(struct jinja_run *r, const struct value *x, const struct value *y, bool *equal)
{
    if (!jinja_step(r, 1))
        return false;
    if (x->kind == VALUE_VIEW && y->kind == VALUE_VIEW && x->as.view != y->as.view)
        return jinja_fail(r, "comparing views of dicts is not supported");
    if (x->kind != y->kind) {
        *equal = value_is_number(x) && value_is_number(y) && value_compare_numbers(x, y) == 0;
        return true;
    }
    switch (x->kind) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        return lists_equal(r, x->as.list, y->as.list, equal);
    case VALUE_DICT:
        return dicts_equal(r, x->as.dict, y->as.dict, equal);
    default:
        *equal = value_equal_scalar(x, y);
        return true;
    }
}

static const char *op_text(enum node_op op)
{
    switch (op) {
    case OP_LT:
        return "<";
    case OP_LE:
        return "<=";
    case OP_GT:
        return ">";
    default:
        return ">=";
    }
}

/* Whether an order of -1, 0, 1 (2: none) satisfies op. */
static bool satisfies(enum node_op op, int order)
{
    switch (op) {
    case OP_LT:
        return order == -1;
    case OP_LE:
        return order == -1 || order == 0;
    case OP_GT:
        return order == 1;
    default:
        return order == 1 || order == 0;
    }
}

bool value_order(struct jinja_run *r, enum node_op op, const struct value *x, const struct value *y,
                 bool *out)
{
    if (!jinja_step(r, 1))
        return false;
    if (x->kind == VALUE_UNDEFINED || y->kind == VALUE_UNDEFINED)
        return fail_undefined(r, x->kind == VALUE_UNDEFINED ? x : y);
    if (value_is_number(x) && value_is_number(y)) {
        *out = satisfies(op, value_compare_numbers(x, y));
        return true;
    }
    if (x->kind == VALUE_STRING && y->kind == VALUE_STRING) {
        *out = satisfies(op, string_compare(x->as.string, y->as.string));
        return true;
    }
    if (x->kind != y->kind || (x->kind != VALUE_LIST && x->kind != VALUE_TUPLE))
        return jinja_fail(r, "'%s' not supported between instances of '%s' and '%s'", op_text(op),
                          value_type_name(x), value_type_name(y));
    /* The first difference decides, else the length. */
    const struct value_list *p = x->as.list, *q = y->as.list;
    for (size_t i = 0; i < p->n && i < q->n; i++) {
        bool equal = false;
        if (!value_equal(r, &p->at[i], &q->at[i], &equal))
            return false;
        if (!equal)
            return value_order(r, op, &p->at[i], &q->at[i], out);
    }
    *out = satisfies(op, (p->n > q->n) - (p->n < q->n));
    return true;
}

bool value_contains(struct jinja_run *r, const struct value *container, const struct value *item,
                    bool *out)
{
    struct iter it;
    struct value member;
    bool done = false;
    *out = false;
    switch (container->kind) {
    case VALUE_STRING:
        if (item->kind != VALUE_STRING)
            return jinja_fail(r, "'in <string>' requires string as left operand, not %s",
                              value_type_name(item));
        *out = string_find(container->as.string, item->as.string, 0) != SIZE_MAX;
        return jinja_step(r, 1 + (int64_t)(container->as.string->len / 64));
    case VALUE_DICT:
        if (!dict_can_key(item))
            return jinja_fail(r, "unhashable type: '%s'", value_type_name(item));
        *out = dict_find(container->as.dict, item) != NULL;
        return true;
    default:
        break;
    }
    if (!value_is_iterable(container))
        return jinja_fail(r, "argument of type '%s' is not iterable", value_type_name(container));
    if (!iter_open(r, container, &it))
        return false;
    while (!*out) {
        if (!iter_next(r, &it, &member, &done))
            return false;
        if (done)
            return true;
        if (!value_equal(r, &member, item, out))
            return false;
        /* Python takes an object for equal to itself, NaN too. */
    }
    return true;
}

bool value_compare(struct jinja_run *r, enum node_op op, const struct value *x,
                   const struct value *y, bool *out)
{
    switch (op) {
    case OP_EQ:
        return value_equal(r, x, y, out);
    case OP_NE:
        if (!value_equal(r, x, y, out))
            return false;
        *out = !*out;
        return true;
    case OP_IN:
        return value_contains(r, y, x, out);
    case OP_NOT_IN:
        if (!value_contains(r, y, x, out))
            return false;
        *out = !*out;
        return true;
    default:
        return value_order(r, op, x, y, out);
    }
}
