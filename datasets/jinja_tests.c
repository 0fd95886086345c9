#include "datasets/jinja_tests.h"

#include "datasets/jinja_filters.h"
#include "datasets/jinja_iter.h"
#include "datasets/jinja_methods.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"

static bool no_args(struct jinja_run *r, const struct call_args *args)
{
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "this test takes no arguments");
}

static bool one_arg(struct jinja_run *r, const struct call_args *args, struct value *out)
{
    if (args->n != 1 || args->n_keyword != 0)
        return jinja_fail(r, "this test takes one argument");
    *out = args->at[0];
    return true;
}

/* v % by == rest */
static bool leaves(struct jinja_run *r, struct value v, struct value by, int64_t rest, bool *out)
{
    const struct value expected = value_int(rest);
    struct value got;
    return value_binary(r, OP_MOD, &v, &by, &got) && value_equal(r, &got, &expected, out);
}

static bool test_odd(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return no_args(r, args) && leaves(r, v, value_int(2), 1, out);
}

static bool test_even(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return no_args(r, args) && leaves(r, v, value_int(2), 0, out);
}

static bool test_divisibleby(struct jinja_run *r, struct value v, const struct call_args *args,
                             bool *out)
{
    struct value by = value_none();
    return one_arg(r, args, &by) && leaves(r, v, by, 0, out);
}

static bool test_defined(struct jinja_run *r, struct value v, const struct call_args *args,
                         bool *out)
{
    *out = v.kind != VALUE_UNDEFINED;
    return no_args(r, args);
}

static bool test_undefined(struct jinja_run *r, struct value v, const struct call_args *args,
                           bool *out)
{
    *out = v.kind == VALUE_UNDEFINED;
    return no_args(r, args);
}

static bool test_none(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    *out = v.kind == VALUE_NONE;
    return no_args(r, args);
}

static bool test_boolean(struct jinja_run *r, struct value v, const struct call_args *args,
                         bool *out)
{
    *out = v.kind == VALUE_BOOL;
    return no_args(r, args);
}

static bool test_true(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    *out = v.kind == VALUE_BOOL && v.as.truth;
    return no_args(r, args);
}

static bool test_false(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    *out = v.kind == VALUE_BOOL && !v.as.truth;
    return no_args(r, args);
}

static bool test_integer(struct jinja_run *r, struct value v, const struct call_args *args,
                         bool *out)
{
    *out = v.kind == VALUE_INT;
    return no_args(r, args);
}

static bool test_float(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    *out = v.kind == VALUE_FLOAT;
    return no_args(r, args);
}

static bool test_number(struct jinja_run *r, struct value v, const struct call_args *args,
                        bool *out)
{
    *out = value_is_number(&v);
    return no_args(r, args);
}

static bool test_string(struct jinja_run *r, struct value v, const struct call_args *args,
                        bool *out)
{
    *out = v.kind == VALUE_STRING;
    return no_args(r, args);
}

static bool test_mapping(struct jinja_run *r, struct value v, const struct call_args *args,
                         bool *out)
{
    *out = v.kind == VALUE_DICT;
    return no_args(r, args);
}

/* Has a length and can be subscripted: dicts and undefined too. */
static bool test_sequence(struct jinja_run *r, struct value v, const struct call_args *args,
                          bool *out)
{
    *out = value_has_length(&v) && v.kind != VALUE_VIEW && v.kind != VALUE_LOOP;
    return no_args(r, args);
}

static bool test_iterable(struct jinja_run *r, struct value v, const struct call_args *args,
                          bool *out)
{
    *out = value_is_iterable(&v);
    return no_args(r, args);
}

static bool test_callable(struct jinja_run *r, struct value v, const struct call_args *args,
                          bool *out)
{
    *out = v.kind == VALUE_MACRO || v.kind == VALUE_METHOD || v.kind == VALUE_FUNCTION ||
           v.kind == VALUE_JOINER || v.kind == VALUE_LOOP || v.kind == VALUE_UNDEFINED;
    return no_args(r, args);
}

static bool test_lower(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    const struct value_string *s = NULL;
    if (!no_args(r, args) || !value_str(r, &v, &s))
        return false;
    *out = string_is_case(s, false);
    return true;
}

static bool test_upper(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    const struct value_string *s = NULL;
    if (!no_args(r, args) || !value_str(r, &v, &s))
        return false;
    *out = string_is_case(s, true);
    return true;
}

static bool test_escaped(struct jinja_run *r, struct value v, const struct call_args *args,
                         bool *out)
{
    *out = v.kind == VALUE_STRING && v.as.string->safe;
    return no_args(r, args);
}

/* Python's `is`. Of numbers and strings it depends on how Python stores them. */
static bool test_sameas(struct jinja_run *r, struct value v, const struct call_args *args,
                        bool *out)
{
    struct value other = value_none();
    if (!one_arg(r, args, &other))
        return false;
    *out = false;
    if (v.kind != other.kind)
        return true;
    switch (v.kind) {
    case VALUE_NONE:
        *out = true;
        return true;
    case VALUE_BOOL:
        *out = v.as.truth == other.as.truth;
        return true;
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_NAMESPACE:
    case VALUE_MACRO:
        *out = v.as.dict == other.as.dict;
        return true;
    default:
        return jinja_fail(r, "sameas of two values of type '%s' is not supported",
                          value_type_name(&v));
    }
}

static bool test_filter(struct jinja_run *r, struct value v, const struct call_args *args,
                        bool *out)
{
    bool refused = false;
    *out = v.kind == VALUE_STRING && (filter_find(v.as.string, &refused) != NULL || refused);
    return no_args(r, args) &&
           (dict_can_key(&v) || jinja_fail(r, "unhashable type: '%s'", value_type_name(&v)));
}

static bool test_test(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    bool refused = false;
    *out = v.kind == VALUE_STRING && test_find(v.as.string, &refused) != NULL;
    return no_args(r, args) &&
           (dict_can_key(&v) || jinja_fail(r, "unhashable type: '%s'", value_type_name(&v)));
}

static bool compare(struct jinja_run *r, enum node_op op, struct value v,
                    const struct call_args *args, bool *out)
{
    struct value other = value_none();
    return one_arg(r, args, &other) && value_compare(r, op, &v, &other, out);
}

static bool test_eq(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_EQ, v, args, out);
}

static bool test_ne(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_NE, v, args, out);
}

static bool test_lt(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_LT, v, args, out);
}

static bool test_le(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_LE, v, args, out);
}

static bool test_gt(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_GT, v, args, out);
}

static bool test_ge(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_GE, v, args, out);
}

static bool test_in(struct jinja_run *r, struct value v, const struct call_args *args, bool *out)
{
    return compare(r, OP_IN, v, args, out);
}

static const struct test tests[] = {
    { "!=", test_ne },
    { "<", test_lt },
    { "<=", test_le },
    { "==", test_eq },
    { ">", test_gt },
    { ">=", test_ge },
    { "boolean", test_boolean },
    { "callable", test_callable },
    { "defined", test_defined },
    { "divisibleby", test_divisibleby },
    { "eq", test_eq },
    { "equalto", test_eq },
    { "escaped", test_escaped },
    { "even", test_even },
    { "false", test_false },
    { "filter", test_filter },
    { "float", test_float },
    { "ge", test_ge },
    { "greaterthan", test_gt },
    { "gt", test_gt },
    { "in", test_in },
    { "integer", test_integer },
    { "iterable", test_iterable },
    { "le", test_le },
    { "lessthan", test_lt },
    { "lower", test_lower },
    { "lt", test_lt },
    { "mapping", test_mapping },
    { "ne", test_ne },
    { "none", test_none },
    { "number", test_number },
    { "odd", test_odd },
    { "sameas", test_sameas },
    { "sequence", test_sequence },
    { "string", test_string },
    { "test", test_test },
    { "true", test_true },
    { "undefined", test_undefined },
    { "upper", test_upper },
};

const struct test *test_find(const struct value_string *name, bool *refused)
{
    *refused = false;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (string_is(name, tests[i].name))
            return &tests[i];
    }
    return NULL;
}
