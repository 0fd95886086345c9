#include "datasets/jinja_eval.h"

#include <stdio.h>

#include "datasets/jinja_filters.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_tests.h"

static bool eval_name(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                      struct value *out)
{
    for (int32_t up = n->up; up > 0; up--)
        act = act->around;
    *out = act->slots[n->slot];
    return out->kind != VALUE_MISSING || give_undefined(r, NULL, value_of_string(n->name), out);
}

static bool eval_items(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                       struct value *out)
{
    struct value_list *list = list_new(&r->arena, n->items.n);
    struct value item;
    if (list == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < n->items.n; i++) {
        if (!jinja_eval(r, act, n->items.at[i], &item))
            return false;
        if (!list_push(&r->arena, list, item))
            return jinja_no_memory(r);
    }
    return n->kind == NODE_LIST ? give_list(r, list, out) : give_tuple(r, list, out);
}

static bool eval_dict(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                      struct value *out)
{
    struct value_dict *d = dict_new(&r->arena);
    struct value key, v;
    if (d == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < n->items.n; i += 2) {
        if (!jinja_eval(r, act, n->items.at[i], &key) ||
            !jinja_eval(r, act, n->items.at[i + 1], &v))
            return false;
        r->at = n;
        if (!dict_can_key(&key))
            return jinja_fail(r, "unhashable type: '%s'", value_type_name(&key));
        if (!dict_set(&r->arena, d, key, v))
            return jinja_no_memory(r);
    }
    *out = value_of_dict(d);
    return true;
}

static bool eval_concat(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                        struct value *out)
{
    const struct value_string *sum = NULL, *part = NULL;
    struct value v;
    for (size_t i = 0; i < n->items.n; i++) {
        if (!jinja_eval(r, act, n->items.at[i], &v))
            return false;
        r->at = n;
        if (!value_str(r, &v, &part) || !jinja_step(r, (int64_t)(part->len / 64)))
            return false;
        sum = sum == NULL ? part : string_concat(&r->arena, sum, part);
        if (sum == NULL)
            return jinja_no_memory(r);
    }
    return give_string(r, sum, out);
}

static bool eval_compare(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                         struct value *out)
{
    struct value left, right;
    bool holds = true;
    if (!jinja_eval(r, act, n->left, &left))
        return false;
    for (size_t i = 0; i < n->items.n && holds; i++) {
        if (!jinja_eval(r, act, n->items.at[i], &right))
            return false;
        r->at = n;
        if (!value_compare(r, n->ops[i], &left, &right, &holds))
            return false;
        left = right;
    }
    *out = value_bool(holds);
    return true;
}

/* Whether jinja2 computes the node before it writes Python. */
static bool is_constant(const struct node *n)
{
    return n->kind == NODE_CONST || (n->kind == NODE_UNARY && is_constant(n->left)) ||
           (n->kind == NODE_BINARY && is_constant(n->left) && is_constant(n->right));
}

/* x ** y. A negative constant before ** is written to Python without parentheses, where it means
 * -(x ** y). */
static bool eval_power(struct jinja_run *r, const struct node *n, struct value x, struct value y,
                       struct value *out)
{
    const struct value zero = value_int(0);
    const bool negative = value_is_number(&x) && value_compare_numbers(&x, &zero) == -1;
    if (!negative || !is_constant(n->left) || is_constant(n->right))
        return value_binary(r, OP_POW, &x, &y, out);
    return value_unary(r, OP_NEG, &x, &x) && value_binary(r, OP_POW, &x, &y, &x) &&
           value_unary(r, OP_NEG, &x, out);
}

static bool eval_binary(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                        struct value *out)
{
    struct value left, right;
    if (n->op == OP_AND || n->op == OP_OR) {
        if (!jinja_eval(r, act, n->left, out))
            return false;
        return value_truth(out) == (n->op == OP_OR) || jinja_eval(r, act, n->right, out);
    }
    if (!jinja_eval(r, act, n->left, &left) || !jinja_eval(r, act, n->right, &right))
        return false;
    r->at = n;
    if (n->op == OP_POW)
        return eval_power(r, n, left, right, out);
    return value_binary(r, n->op, &left, &right, out);
}

static bool eval_unary(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                       struct value *out)
{
    struct value v;
    if (!jinja_eval(r, act, n->left, &v))
        return false;
    r->at = n;
    if (n->op == OP_NOT) {
        *out = value_bool(!value_truth(&v));
        return true;
    }
    return value_unary(r, n->op, &v, out);
}

static bool eval_if_else(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                         struct value *out)
{
    static const char rest[] = " evaluated to false and no else section was defined.";
    struct value condition;
    if (!jinja_eval(r, act, n->right, &condition))
        return false;
    if (value_truth(&condition))
        return jinja_eval(r, act, n->left, out);
    if (n->other != NULL)
        return jinja_eval(r, act, n->other, out);
    struct value_text hint = { 0 };
    char line[16];
    snprintf(line, sizeof line, "%d", (int)n->line);
    if (!text_add_string(&r->arena, &hint, "the inline if-expression on line ") ||
        !text_add_string(&r->arena, &hint, line) || !text_add(&r->arena, &hint, rest, sizeof rest))
        return jinja_no_memory(r);
    return give_undefined_hint(r, hint.data, out);
}

static bool eval_slice(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                       struct value *out)
{
    struct value v, bounds[3] = { { 0 }, { 0 }, { 0 } };
    if (!jinja_eval(r, act, n->left, &v))
        return false;
    for (size_t i = 0; i < 3; i++) {
        if (n->items.at[i] != NULL && !jinja_eval(r, act, n->items.at[i], &bounds[i]))
            return false;
    }
    r->at = n;
    return value_slice(r, &v, bounds, out);
}

static bool eval_filter(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                        struct value in, struct value *out)
{
    struct call_args args;
    if (!jinja_eval_args(r, act, n->call, NULL, &args))
        return false;
    r->at = n;
    if (n->filter == NULL)
        return jinja_fail(r, "No filter named '%.*s' found.",
                          n->name->len > 100 ? 100 : (int)n->name->len, n->name->data);
    return n->filter->apply(r, in, &args, out);
}

bool jinja_eval_filters(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                        struct value text, struct value *out)
{
    if (n->left != NULL && !jinja_eval_filters(r, act, n->left, text, &text))
        return false;
    return eval_filter(r, act, n, text, out);
}

static bool eval_test(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                      struct value *out)
{
    struct value v;
    struct call_args args;
    bool holds = false;
    if (!jinja_eval(r, act, n->left, &v) || !jinja_eval_args(r, act, n->call, NULL, &args))
        return false;
    r->at = n;
    if (n->test == NULL)
        return jinja_fail(r, "No test named '%.*s' found.",
                          n->name->len > 100 ? 100 : (int)n->name->len, n->name->data);
    if (!n->test->apply(r, v, &args, &holds))
        return false;
    *out = value_bool(holds);
    return true;
}

static bool eval_inside(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                        struct value *out)
{
    struct value v, key;
    switch (n->kind) {
    case NODE_CONST:
        *out = n->value;
        return true;
    case NODE_NAME:
        return eval_name(r, act, n, out);
    case NODE_TUPLE:
    case NODE_LIST:
        return eval_items(r, act, n, out);
    case NODE_DICT:
        return eval_dict(r, act, n, out);
    case NODE_CONCAT:
        return eval_concat(r, act, n, out);
    case NODE_BINARY:
        return eval_binary(r, act, n, out);
    case NODE_UNARY:
        return eval_unary(r, act, n, out);
    case NODE_COMPARE:
        return eval_compare(r, act, n, out);
    case NODE_IF_ELSE:
        return eval_if_else(r, act, n, out);
    case NODE_ATTR:
        if (!jinja_eval(r, act, n->left, &v))
            return false;
        r->at = n;
        return value_attr(r, &v, n->name, out);
    case NODE_ITEM:
        if (!jinja_eval(r, act, n->left, &v) || !jinja_eval(r, act, n->right, &key))
            return false;
        r->at = n;
        return value_item(r, &v, &key, out);
    case NODE_SLICE:
        return eval_slice(r, act, n, out);
    case NODE_CALL:
        return jinja_eval_call(r, act, n, NULL, out);
    case NODE_FILTER:
        return jinja_eval(r, act, n->left, &v) && eval_filter(r, act, n, v, out);
    case NODE_TEST:
        return eval_test(r, act, n, out);
    default:
        r->at = n;
        return jinja_fail(r, "not an expression");
    }
}

bool jinja_eval(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                struct value *out)
{
    r->at = n;
    const bool ok = jinja_enter(r) && jinja_step(r, 1) && eval_inside(r, act, n, out);
    jinja_leave(r);
    return ok;
}
