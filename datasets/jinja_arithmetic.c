/* + - * / // % ** as Python computes them: ints stay ints (and may not leave 64 bits), / gives a
 * float, // and % round towards minus infinity; + and * on sequences; % formats strings. */
#include "datasets/jinja_ops.h"

#include <math.h>

#include "datasets/jinja_format.h"
#include "datasets/jinja_repr.h"

static const char *op_text(enum node_op op)
{
    switch (op) {
    case OP_ADD:
        return "+";
    case OP_SUB:
        return "-";
    case OP_MUL:
        return "*";
    case OP_DIV:
        return "/";
    case OP_FLOORDIV:
        return "//";
    case OP_MOD:
        return "%";
    default:
        return "** or pow()";
    }
}

static bool fail_types(struct jinja_run *r, enum node_op op, const struct value *x,
                       const struct value *y)
{
    return jinja_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op),
                      value_type_name(x), value_type_name(y));
}

static bool fail_overflow(struct jinja_run *r)
{
    return jinja_fail(r, "integers beyond 64 bits are not supported");
}

static bool power(struct jinja_run *r, int64_t x, int64_t y, struct value *out)
{
    if (y < 0) {
        if (x == 0)
            return jinja_fail(r, "0.0 cannot be raised to a negative power");
        *out = value_float(pow((double)x, (double)y));
        return true;
    }
    int64_t result = 1;
    while (y > 0) {
        if (y & 1 && __builtin_mul_overflow(result, x, &result))
            return fail_overflow(r);
        y >>= 1;
        if (y > 0 && __builtin_mul_overflow(x, x, &x))
            return fail_overflow(r);
    }
    *out = value_int(result);
    return true;
}

/* x / y of ints; exact when both are below 2^53, where one division rounds once. */
static bool divide(struct jinja_run *r, int64_t x, int64_t y, struct value *out)
{
    const int64_t exact = (int64_t)1 << 53;
    if (y == 0)
        return jinja_fail(r, "division by zero");
    if (x > exact || x < -exact || y > exact || y < -exact)
        return jinja_fail(r, "dividing integers beyond 2**53 is not supported");
    *out = value_float((double)x / (double)y);
    return true;
}

static bool int_binary(struct jinja_run *r, enum node_op op, int64_t x, int64_t y,
                       struct value *out)
{
    int64_t v = 0;
    switch (op) {
    case OP_ADD:
        if (__builtin_add_overflow(x, y, &v))
            return fail_overflow(r);
        break;
    case OP_SUB:
        if (__builtin_sub_overflow(x, y, &v))
            return fail_overflow(r);
        break;
    case OP_MUL:
        if (__builtin_mul_overflow(x, y, &v))
            return fail_overflow(r);
        break;
    case OP_DIV:
        return divide(r, x, y, out);
    case OP_FLOORDIV:
    case OP_MOD:
        if (y == 0)
            return jinja_fail(r, "integer division or modulo by zero");
        if (x == INT64_MIN && y == -1) {
            if (op == OP_FLOORDIV)
                return fail_overflow(r);
            break;
        }
        v = op == OP_FLOORDIV ? x / y : x % y;
        if (x % y != 0 && (x % y < 0) != (y < 0))
            v = op == OP_FLOORDIV ? v - 1 : v + y;
        break;
    default:
        return power(r, x, y, out);
    }
    *out = value_int(v);
    return true;
}

/* Python's float modulo: the sign of the divisor. */
static double modulo(double x, double y)
{
    double m = fmod(x, y);
    if (m != 0.0 ? (y < 0.0) != (m < 0.0) : false)
        m += y;
    else if (m == 0.0)
        m = copysign(0.0, y);
    return m;
}

static bool float_binary(struct jinja_run *r, enum node_op op, double x, double y,
                         struct value *out)
{
    double v = 0.0;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && y == 0.0)
        return jinja_fail(r, op == OP_MOD ? "float modulo" : "float division by zero");
    switch (op) {
    case OP_ADD:
        v = x + y;
        break;
    case OP_SUB:
        v = x - y;
        break;
    case OP_MUL:
        v = x * y;
        break;
    case OP_DIV:
        v = x / y;
        break;
    case OP_FLOORDIV: {
        const double whole = (x - modulo(x, y)) / y;
        v = floor(whole);
        if (whole - v > 0.5)
            v += 1.0;
        if (whole == 0.0)
            v = copysign(0.0, x / y);
        break;
    }
    case OP_MOD:
        v = modulo(x, y);
        break;
    default:
        if (x == 0.0 && y < 0.0)
            return jinja_fail(r, "0.0 cannot be raised to a negative power");
        v = pow(x, y);
        if (x < 0.0 && isnan(v) && !isnan(y))
            return jinja_fail(r, "complex numbers are not supported");
        if (isinf(v) && !isinf(x) && !isinf(y))
            return jinja_fail(r, "(34, 'Numerical result out of range')");
    }
    *out = value_float(v);
    return true;
}

bool string_add(struct jinja_run *r, const struct value_string *x, const struct value_string *y,
                struct value *out)
{
    const bool safe = x->safe || y->safe;
    if (safe && (!string_escape(r, x, &x) || !string_escape(r, y, &y)))
        return false;
    if (!jinja_step(r, 1 + (int64_t)(y->len / 64)))
        return false;
    const struct value_string *sum = string_concat(&r->arena, x, y);
    return give_string(r, string_marked(r, sum, safe), out);
}

static bool list_add(struct jinja_run *r, const struct value *x, const struct value *y,
                     struct value *out)
{
    const struct value_list *p = x->as.list, *q = y->as.list;
    struct value_list *sum = list_new(&r->arena, p->n + q->n);
    if (!jinja_step(r, (int64_t)(p->n + q->n)))
        return false;
    for (size_t i = 0; sum != NULL && i < p->n + q->n; i++) {
        if (!list_push(&r->arena, sum, i < p->n ? p->at[i] : q->at[i - p->n]))
            sum = NULL;
    }
    return x->kind == VALUE_LIST ? give_list(r, sum, out) : give_tuple(r, sum, out);
}

/* A sequence times an int. */
static bool repeat(struct jinja_run *r, const struct value *x, int64_t times, struct value *out)
{
    if (times < 0)
        times = 0;
    if (x->kind == VALUE_STRING) {
        const struct value_string *s = x->as.string;
        struct value_text t = { 0 };
        if (!jinja_step(r, s->len == 0 ? 1 : times / 8 + 1))
            return false;
        if (!text_add_fill(&r->arena, &t, s->data, s->len, times))
            return jinja_no_memory(r);
        return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
    }
    const struct value_list *p = x->as.list;
    struct value_list *list = list_new(&r->arena, 0);
    for (int64_t i = 0; list != NULL && p->n > 0 && i < times; i++) {
        for (size_t k = 0; k < p->n; k++) {
            if (!jinja_step(r, 1))
                return false;
            if (!list_push(&r->arena, list, p->at[k]))
                return jinja_no_memory(r);
        }
    }
    return x->kind == VALUE_LIST ? give_list(r, list, out) : give_tuple(r, list, out);
}

static bool is_sequence(const struct value *v)
{
    return v->kind == VALUE_STRING || v->kind == VALUE_LIST || v->kind == VALUE_TUPLE;
}

bool value_binary(struct jinja_run *r, enum node_op op, const struct value *x,
                  const struct value *y, struct value *out)
{
    /* "..." % undefined formats it; everything else on undefined is an error. */
    const bool formats = op == OP_MOD && x->kind == VALUE_STRING;
    if (x->kind == VALUE_UNDEFINED || (y->kind == VALUE_UNDEFINED && !formats))
        return fail_undefined(r, x->kind == VALUE_UNDEFINED ? x : y);
    if (value_is_int(x) && value_is_int(y))
        return int_binary(r, op, value_to_int(x), value_to_int(y), out);
    if (value_is_number(x) && value_is_number(y))
        return float_binary(r, op, value_to_double(x), value_to_double(y), out);
    if (formats)
        return format_percent(r, x->as.string, y, out);
    if (op == OP_ADD && x->kind == VALUE_STRING && y->kind == VALUE_STRING)
        return string_add(r, x->as.string, y->as.string, out);
    if (op == OP_ADD && x->kind == y->kind && (x->kind == VALUE_LIST || x->kind == VALUE_TUPLE))
        return list_add(r, x, y, out);
    if (op == OP_MUL && is_sequence(x) && value_is_int(y))
        return repeat(r, x, value_to_int(y), out);
    if (op == OP_MUL && value_is_int(x) && is_sequence(y))
        return repeat(r, y, value_to_int(x), out);
    if (x->kind == VALUE_VIEW && y->kind == VALUE_VIEW && op == OP_SUB)
        return jinja_fail(r, "sets are not supported");
    if (op == OP_ADD && x->kind == VALUE_STRING)
        return jinja_fail(r, "can only concatenate str (not \"%s\") to str", value_type_name(y));
    return fail_types(r, op, x, y);
}

bool value_unary(struct jinja_run *r, enum node_op op, const struct value *x, struct value *out)
{
    if (x->kind == VALUE_UNDEFINED)
        return fail_undefined(r, x);
    if (value_is_int(x)) {
        const int64_t v = value_to_int(x);
        if (op == OP_NEG && v == INT64_MIN)
            return fail_overflow(r);
        *out = value_int(op == OP_NEG ? -v : v);
        return true;
    }
    if (x->kind == VALUE_FLOAT) {
        *out = value_float(op == OP_NEG ? -x->as.real : x->as.real);
        return true;
    }
    return jinja_fail(r, "bad operand type for unary %s: '%s'", op == OP_NEG ? "-" : "+",
                      value_type_name(x));
}
