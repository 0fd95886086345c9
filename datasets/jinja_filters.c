/* The table of filters, and those of single values. */
#include "datasets/jinja_filters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_methods.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_tojson.h"
#include "datasets/jinja_unicode.h"

static bool no_args(struct jinja_run *r, const char *name, const struct call_args *args)
{
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "%s takes no arguments", name);
}

bool attr_path_open(struct jinja_run *r, const struct value *attribute, struct attr_path *path)
{
    path->parts = list_new(&r->arena, 1);
    if (path->parts == NULL)
        return jinja_no_memory(r);
    if (attribute->kind == VALUE_MISSING || attribute->kind == VALUE_NONE)
        return true;
    if (attribute->kind != VALUE_STRING)
        return list_push(&r->arena, path->parts, *attribute) || jinja_no_memory(r);
    const struct value_string *s = attribute->as.string;
    for (size_t at = 0; at <= s->len;) {
        const char *dot = at < s->len ? memchr(s->data + at, '.', s->len - at) : NULL;
        const size_t end = dot != NULL ? (size_t)(dot - s->data) : s->len;
        bool digits = end > at && end - at < 18;
        int64_t number = 0;
        for (size_t i = at; i < end; i++) {
            digits = digits && s->data[i] >= '0' && s->data[i] <= '9';
            number = digits ? number * 10 + (s->data[i] - '0') : 0;
        }
        struct value part = value_int(number);
        if ((!digits && !give_string(r, string_point(&r->arena, s->data + at, end - at), &part)))
            return false;
        if (!list_push(&r->arena, path->parts, part))
            return jinja_no_memory(r);
        at = end + 1;
    }
    return true;
}

bool attr_path_get(struct jinja_run *r, const struct attr_path *path, const struct value *item,
                   struct value *out)
{
    struct value v = *item;
    for (size_t i = 0; i < path->parts->n; i++) {
        if (!value_item(r, &v, &path->parts->at[i], out))
            return false;
        v = *out;
        if (path->has_otherwise && v.kind == VALUE_UNDEFINED)
            v = path->otherwise;
    }
    *out = v;
    return !path->lower || v.kind != VALUE_STRING || string_case(r, v.as.string, CASE_LOWER, out);
}

static bool filter_default(struct jinja_run *r, struct value in, const struct call_args *args,
                           struct value *out)
{
    static const char *const names[] = { "default_value", "boolean", NULL };
    struct value v[2];
    if (!args_bind(r, "default", args, names, 0, v))
        return false;
    const bool use = in.kind == VALUE_UNDEFINED || (arg_truth(&v[1], false) && !value_truth(&in));
    if (use && v[0].kind == VALUE_MISSING)
        return give_string(r, string_point(&r->arena, "", 0), out);
    *out = use ? v[0] : in;
    return true;
}

static bool filter_length(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    int64_t n = 0;
    if (!no_args(r, "length", args) || !value_length(r, &in, &n))
        return false;
    *out = value_int(n);
    return true;
}

static bool filter_string(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "string", args) && value_soft_str(r, &in, &s) && give_string(r, s, out);
}

static bool filter_safe(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "safe", args) && value_soft_str(r, &in, &s) &&
           give_string(r, string_marked(r, s, true), out);
}

static bool filter_escape(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "escape", args) && value_soft_str(r, &in, &s) && string_escape(r, s, &s) &&
           give_string(r, s, out);
}

static bool filter_forceescape(struct jinja_run *r, struct value in, const struct call_args *args,
                               struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "forceescape", args) && value_str(r, &in, &s) && string_escape(r, s, &s) &&
           give_string(r, s, out);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* A number's text without blanks around it, with ASCII digits and without the '_' between digits
 * (`letters` count as such); false when it is too long or its '_' are misplaced. */
static bool number_text(const struct value_string *s, bool letters, char out[512])
{
    size_t n = 0, len = 0, start = 0, end = s->len;
    while (start < end && unicode_is(unicode_decode(s->data + start, &len), UNICODE_SPACE))
        start += len;
    while (end > start && unicode_is(unicode_decode_back(s->data, end, &len), UNICODE_SPACE))
        end -= len;
    bool digit = false; /* before this character */
    for (size_t at = start; at < end; at += len) {
        const uint32_t code = unicode_decode(s->data + at, &len);
        const int decimal = unicode_decimal(code);
        if (n == 511 || (code > 127 && decimal < 0))
            return false;
        if (code == '_') {
            const size_t next = at + 1;
            size_t unused = 0;
            const char c = next < end ? s->data[next] : 0;
            const bool more =
                next < end && (unicode_decimal(unicode_decode(s->data + next, &unused)) >= 0 ||
                               (letters && is_letter(c)));
            if (!digit || !more)
                return false;
            digit = false;
            continue;
        }
        out[n++] = decimal >= 0 ? (char)('0' + decimal) : (char)code;
        digit = decimal >= 0 || (letters && code < 128 && is_letter((char)code));
    }
    out[n] = 0;
    return n > 0;
}

/* int(text, base): *ok false when it is not one. Out of 64 bits is an error of ours. */
static bool parse_int(struct jinja_run *r, const struct value_string *s, int64_t base, int64_t *out,
                      bool *ok)
{
    char text[512];
    *ok = false;
    if (!number_text(s, base > 10, text))
        return true;
    const char *at = text;
    const bool negative = *at == '-';
    at += *at == '-' || *at == '+';
    if (at[0] == '0' && ((base == 16 && (at[1] | 32) == 'x') ||
                         (base == 8 && (at[1] | 32) == 'o') || (base == 2 && (at[1] | 32) == 'b')))
        at += 2;
    int64_t v = 0;
    const char *first = at;
    for (; *at != 0; at++) {
        const int digit = *at >= '0' && *at <= '9'   ? *at - '0'
                          : *at >= 'a' && *at <= 'z' ? *at - 'a' + 10
                          : *at >= 'A' && *at <= 'Z' ? *at - 'A' + 10
                                                     : 99;
        if (digit >= base)
            return true;
        if (__builtin_mul_overflow(v, base, &v) ||
            __builtin_add_overflow(v, negative ? -digit : digit, &v))
            return jinja_fail(r, "integers beyond 64 bits are not supported");
    }
    *ok = at > first;
    *out = v;
    return true;
}

/* float(text); false when it is not one. */
static bool parse_float(const struct value_string *s, double *out)
{
    char text[512];
    char *end = NULL;
    if (!number_text(s, false, text))
        return false;
    const char *at = text + (text[0] == '-' || text[0] == '+');
    const char *const words[] = { "inf", "infinity", "nan" };
    for (size_t i = 0; i < 3; i++) {
        size_t n = 0;
        while (words[i][n] != 0 && (at[n] | 32) == words[i][n])
            n++;
        if (words[i][n] == 0 && at[n] == 0) {
            *out = i == 2 ? (double)NAN : text[0] == '-' ? -(double)INFINITY : (double)INFINITY;
            return true;
        }
    }
    if (strspn(at, "0123456789.eE+-") != strlen(at)) /* strtod would take hexadecimal */
        return false;
    *out = strtod(text, &end);
    return *end == 0 && end != text;
}

static bool float_to_int(struct jinja_run *r, double real, struct value *out)
{
    if (!(fabs(real) < 9.2e18))
        return jinja_fail(r, "integers beyond 64 bits are not supported");
    *out = value_int((int64_t)real);
    return true;
}

static bool filter_int(struct jinja_run *r, struct value in, const struct call_args *args,
                       struct value *out)
{
    static const char *const names[] = { "default", "base", NULL };
    struct value v[2];
    int64_t base = 10, number = 0;
    bool ok = false;
    if (!args_bind(r, "int", args, names, 0, v))
        return false;
    if (v[1].kind != VALUE_MISSING) /* one that Python refuses is as good as no number */
        base = value_is_int(&v[1]) ? value_to_int(&v[1]) : -1;
    if (base == 0)
        return jinja_fail(r, "int: base 0 is not supported");
    *out = v[0].kind == VALUE_MISSING ? value_int(0) : v[0];
    double real = 0.0;
    switch (in.kind) {
    case VALUE_UNDEFINED:
        return fail_undefined(r, &in);
    case VALUE_BOOL:
    case VALUE_INT:
        *out = value_int(value_to_int(&in));
        return true;
    case VALUE_FLOAT:
        if (isinf(in.as.real))
            return jinja_fail(r, "cannot convert float infinity to integer");
        return isnan(in.as.real) || float_to_int(r, in.as.real, out);
    case VALUE_STRING:
        if (base >= 2 && base <= 36 && !parse_int(r, in.as.string, base, &number, &ok))
            return false;
        if (ok)
            *out = value_int(number);
        else if (parse_float(in.as.string, &real) && isfinite(real))
            return float_to_int(r, real, out);
        return true;
    default:
        return true;
    }
}

static bool filter_float(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    static const char *const names[] = { "default", NULL };
    struct value v;
    double real = 0.0;
    if (!args_bind(r, "float", args, names, 0, &v))
        return false;
    if (in.kind == VALUE_UNDEFINED)
        return fail_undefined(r, &in);
    *out = v.kind == VALUE_MISSING ? value_float(0.0) : v;
    if (value_is_number(&in))
        *out = value_float(value_to_double(&in));
    else if (in.kind == VALUE_STRING && parse_float(in.as.string, &real))
        *out = value_float(real);
    return true;
}

static bool filter_abs(struct jinja_run *r, struct value in, const struct call_args *args,
                       struct value *out)
{
    if (!no_args(r, "abs", args))
        return false;
    if (value_is_int(&in) && value_to_int(&in) >= 0) {
        *out = value_int(value_to_int(&in));
        return true;
    }
    if (value_is_int(&in))
        return value_unary(r, OP_NEG, &in, out);
    if (in.kind != VALUE_FLOAT)
        return jinja_fail(r, "bad operand type for abs(): '%s'", value_type_name(&in));
    *out = value_float(fabs(in.as.real));
    return true;
}

static bool filter_round(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    static const char *const names[] = { "precision", "method", NULL };
    static const struct value_string common = { .data = "common", .len = 6 };
    const struct value_string *method = &common;
    struct value v[2];
    int64_t precision = 0;
    if (!args_bind(r, "round", args, names, 0, v) ||
        !arg_int(r, &v[0], "round: precision", &precision) ||
        !arg_string(r, &v[1], "round: method", &method))
        return false;
    const bool ceils = string_is(method, "ceil");
    if (!ceils && !string_is(method, "floor") && !string_is(method, "common"))
        return jinja_fail(r, "method must be common, ceil or floor");
    if (!value_is_number(&in))
        return jinja_fail(r, "type %s doesn't define __round__ method", value_type_name(&in));
    if (precision < 0 || precision > 300)
        return jinja_fail(r, "round: precision %lld is not supported", (long long)precision);
    if (string_is(method, "common")) {
        char text[720];
        *out = in;
        if (value_is_int(&in)) {
            *out = value_int(value_to_int(&in));
        } else if (isfinite(in.as.real)) { /* exact decimal, rounded once, half to even */
            snprintf(text, sizeof text, "%.*f", (int)precision, in.as.real);
            *out = value_float(strtod(text, NULL));
        }
        return true;
    }
    if (precision > 15)
        return jinja_fail(r, "round: precision %lld is not supported", (long long)precision);
    const double scale = pow(10.0, (double)precision), scaled = value_to_double(&in) * scale;
    if (!(fabs(scaled) < 9e15))
        return jinja_fail(r, "round: the number is too large");
    const double whole = ceils ? ceil(scaled) : floor(scaled);
    *out = value_float((double)(int64_t)whole / scale);
    return true;
}

static bool filter_attr(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    static const char *const names[] = { "name", NULL };
    const struct value_string *name = NULL;
    struct value v;
    return args_bind(r, "attr", args, names, 1, &v) && arg_string(r, &v, "attr: name", &name) &&
           value_attr_only(r, &in, name, out);
}

static const struct filter scalar_filters[] = {
    { "abs", filter_abs },
    { "attr", filter_attr },
    { "count", filter_length },
    { "d", filter_default },
    { "default", filter_default },
    { "e", filter_escape },
    { "escape", filter_escape },
    { "float", filter_float },
    { "forceescape", filter_forceescape },
    { "int", filter_int },
    { "length", filter_length },
    { "round", filter_round },
    { "safe", filter_safe },
    { "string", filter_string },
    { "tojson", filter_tojson },
    /* jinja2's others */
    { "filesizeformat", NULL },
    { "pprint", NULL },
    { "random", NULL },
    { "striptags", NULL },
    { "urlize", NULL },
    { "wordwrap", NULL },
    { "xmlattr", NULL },
    { NULL, NULL },
};

const struct filter *filter_find(const struct value_string *name, bool *refused)
{
    static const struct filter *const tables[] = { scalar_filters, list_filters, lazy_filters,
                                                   text_filters };
    *refused = false;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        for (const struct filter *f = tables[i]; f->name != NULL; f++) {
            if (!string_is(name, f->name))
                continue;
            *refused = f->apply == NULL;
            return *refused ? NULL : f;
        }
    }
    return NULL;
}
