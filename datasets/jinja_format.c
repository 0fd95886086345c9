#include "datasets/jinja_format.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_unicode.h"

enum { MAX_WIDTH = 1000000, MAX_PRECISION = 100, NUMBER_TEXT = 640 };

/* How one value is laid out; the parts of "%-05.1f" and "{:*^+08,.2f}". */
struct layout {
    char fill[4];
    size_t n_fill;
    char align; /* '<', '>', '^', '=' or 0 */
    bool zero;  /* '=' because of a leading 0: strings do not mind */
    char sign;  /* '+', ' ' or 0 */
    char group; /* ',' , '_' or 0 */
    int width;
    int precision; /* -1: none */
    char type;     /* 0: none */
};

/* A number at most MAX_WIDTH from s[*at]; false when it is larger. */
static bool read_number(const struct value_string *s, size_t *at, int *out)
{
    *out = 0;
    for (; *at < s->len && s->data[*at] >= '0' && s->data[*at] <= '9'; ++*at) {
        *out = *out * 10 + (s->data[*at] - '0');
        if (*out > MAX_WIDTH)
            return false;
    }
    return true;
}

/* body (with its sign first, if any) padded to the width. */
static bool add_padded(struct jinja_run *r, const struct layout *f, const char *body, size_t n,
                       char align, struct value_text *t)
{
    const struct value_string s = { .data = body, .len = n };
    const int64_t pad = f->width - string_length(&s);
    const size_t sign = n > 0 && (body[0] == '-' || body[0] == '+' || body[0] == ' ') ? 1 : 0;
    const char *fill = f->n_fill > 0 ? f->fill : " ";
    const size_t n_fill = f->n_fill > 0 ? f->n_fill : 1;
    int64_t left = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
    if (pad <= 0)
        left = 0;
    bool ok = jinja_step(r, pad > 0 ? pad / 8 : 0);
    if (!ok)
        return false;
    if (align == '=')
        ok = text_add(&r->arena, t, body, sign) &&
             text_add_fill(&r->arena, t, fill, n_fill, left) &&
             text_add(&r->arena, t, body + sign, n - sign);
    else
        ok = text_add_fill(&r->arena, t, fill, n_fill, left) && text_add(&r->arena, t, body, n) &&
             text_add_fill(&r->arena, t, fill, n_fill, pad - left);
    return ok || jinja_no_memory(r);
}

static bool add_string(struct jinja_run *r, const struct layout *f, const struct value_string *s,
                       char align, struct value_text *t)
{
    const size_t n = f->precision >= 0 ? string_offset(s, f->precision) : s->len;
    return add_padded(r, f, s->data, n, f->align != 0 ? f->align : align, t);
}

/* Groups of three between the digits of out[0..), before a point or exponent. */
static void group_digits(char group, char out[NUMBER_TEXT])
{
    char plain[NUMBER_TEXT];
    snprintf(plain, sizeof plain, "%s", out);
    const char *s = plain;
    char *to = out;
    if (*s == '-' || *s == '+' || *s == ' ')
        *to++ = *s++;
    const size_t n = strspn(s, "0123456789");
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            *to++ = group;
        *to++ = s[i];
    }
    snprintf(to, (size_t)(out + NUMBER_TEXT - to), "%s", s + n);
}

/* An int in base 2, 8, 10 or 16, with its sign. */
static void write_int(const struct layout *f, int64_t v, char out[NUMBER_TEXT])
{
    const unsigned base = f->type == 'x' || f->type == 'X' ? 16
                          : f->type == 'o'                 ? 8
                          : f->type == 'b'                 ? 2
                                                           : 10;
    const char *digits = f->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char back[72];
    int n = 0;
    uint64_t rest = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        back[n++] = digits[rest % base];
        rest /= base;
    } while (rest > 0);
    char *to = out;
    if (v < 0 || f->sign != 0)
        *to++ = v < 0 ? '-' : f->sign;
    for (int zeros = f->precision - n; zeros > 0; zeros--)
        *to++ = '0';
    while (n > 0)
        *to++ = back[--n];
    *to = 0;
}

static void write_float(const struct layout *f, double v, char out[NUMBER_TEXT])
{
    const int precision = f->precision < 0 ? 6 : f->precision;
    char sign[2] = { f->sign, 0 };
    if (signbit(v) != 0 || f->sign == 0)
        sign[0] = 0;
    switch (f->type) {
    case 'e':
        snprintf(out, NUMBER_TEXT, "%s%.*e", sign, precision, v);
        break;
    case 'E':
        snprintf(out, NUMBER_TEXT, "%s%.*E", sign, precision, v);
        break;
    case 'g':
        snprintf(out, NUMBER_TEXT, "%s%.*g", sign, precision, v);
        break;
    case 'G':
        snprintf(out, NUMBER_TEXT, "%s%.*G", sign, precision, v);
        break;
    default:
        snprintf(out, NUMBER_TEXT, "%s%.*f", sign, precision, v);
    }
}

/* --- "%s" % x --- */

struct percent {
    struct jinja_run *r;
    const struct value_string *s;
    size_t at;
    const struct value *args; /* one, or those of a tuple */
    size_t n_arg, next;
    const struct value_dict *dict;
    struct value_text t;
};

static bool next_arg(struct percent *p, const struct value **out)
{
    if (p->next == p->n_arg)
        return jinja_fail(p->r, "not enough arguments for format string");
    *out = &p->args[p->next++];
    return true;
}

/* `(name)` */
static bool named_arg(struct percent *p, const struct value **out)
{
    const size_t start = ++p->at;
    int depth = 1;
    for (; p->at < p->s->len && depth > 0; p->at++)
        depth += p->s->data[p->at] == '(' ? 1 : p->s->data[p->at] == ')' ? -1 : 0;
    if (depth > 0)
        return jinja_fail(p->r, "incomplete format key");
    if (p->dict == NULL)
        return jinja_fail(p->r, "format requires a mapping");
    const size_t n = p->at - 1 - start;
    *out = dict_find_name(p->dict, p->s->data + start, n);
    return *out != NULL || jinja_fail(p->r, "the format's key '%.*s' is not in the mapping",
                                      n > 100 ? 100 : (int)n, p->s->data + start);
}

static bool percent_int(struct percent *p, struct layout *f, const struct value *v, bool zero)
{
    char out[NUMBER_TEXT];
    int64_t n = 0;
    if (v->kind == VALUE_FLOAT && (f->type == 'd' || f->type == 'i' || f->type == 'u')) {
        if (!(fabs(v->as.real) < 9e18))
            return jinja_fail(p->r, "integers beyond 64 bits are not supported");
        n = (int64_t)v->as.real;
    } else if (value_is_int(v)) {
        n = value_to_int(v);
    } else {
        return jinja_fail(p->r, "%%%c format: a real number is required, not %s", f->type,
                          value_type_name(v));
    }
    write_int(f, n, out);
    return add_padded(p->r, f, out, strlen(out), f->align == '<' ? '<' : zero ? '=' : '>', &p->t);
}

static bool percent_value(struct percent *p, struct layout *f, const struct value *v, bool zero)
{
    struct jinja_run *r = p->r;
    const struct value_string *s = NULL;
    struct value_text repr = { 0 };
    char out[NUMBER_TEXT];
    const bool pads_zero = zero && f->align != '<';
    if (pads_zero) {
        f->fill[0] = '0';
        f->n_fill = 1;
    }
    switch (f->type) {
    case 's':
    case 'r':
        f->n_fill = 0;
        if (f->type == 's' ? !value_str(r, v, &s) : !value_repr(r, v, &repr))
            return false;
        if (f->type == 'r')
            s = text_take(&r->arena, &repr);
        return s != NULL ? add_string(r, f, s, '>', &p->t) : jinja_no_memory(r);
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        return percent_int(p, f, v, pads_zero);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (v->kind == VALUE_UNDEFINED)
            return fail_undefined(r, v);
        if (!value_is_number(v))
            return jinja_fail(r, "must be real number, not %s", value_type_name(v));
        write_float(f, value_to_double(v), out);
        return add_padded(r, f, out, strlen(out),
                          f->align == '<' ? '<'
                          : pads_zero     ? '='
                                          : '>',
                          &p->t);
    default:
        return jinja_fail(r, "the format character '%c' is not supported", f->type);
    }
}

/* One conversion, the % being stepped over. */
static bool percent_one(struct percent *p)
{
    struct layout f = { .precision = -1 };
    const struct value *v = NULL;
    const struct value_string *s = p->s;
    bool zero = false;
    if (p->at < s->len && s->data[p->at] == '%') {
        p->at++;
        return text_add(&p->r->arena, &p->t, "%", 1) || jinja_no_memory(p->r);
    }
    if (p->at < s->len && s->data[p->at] == '(' && !named_arg(p, &v))
        return false;
    for (; p->at < s->len; p->at++) {
        const char c = s->data[p->at];
        if (c == '-')
            f.align = '<';
        else if (c == '+' || (c == ' ' && f.sign == 0))
            f.sign = c;
        else if (c == '0')
            zero = true;
        else if (c != ' ')
            break;
    }
    if (!read_number(s, &p->at, &f.width))
        return jinja_fail(p->r, "width too big");
    if (p->at < s->len && s->data[p->at] == '.') {
        p->at++;
        if (!read_number(s, &p->at, &f.precision) || f.precision > MAX_PRECISION)
            return jinja_fail(p->r, "precision too big");
    }
    while (p->at < s->len &&
           (s->data[p->at] == 'l' || s->data[p->at] == 'h' || s->data[p->at] == 'L'))
        p->at++;
    if (p->at == s->len)
        return jinja_fail(p->r, "incomplete format");
    f.type = s->data[p->at++];
    return (v != NULL || next_arg(p, &v)) && percent_value(p, &f, v, zero);
}

bool format_percent(struct jinja_run *r, const struct value_string *text, const struct value *x,
                    struct value *out)
{
    struct percent p = { .r = r, .s = text, .args = x, .n_arg = 1 };
    if (text->safe)
        return jinja_fail(r, "formatting a safe string is not supported");
    if (x->kind == VALUE_TUPLE) {
        p.args = x->as.list->at;
        p.n_arg = x->as.list->n;
    }
    if (x->kind == VALUE_DICT)
        p.dict = x->as.dict;
    while (p.at < text->len) {
        const char *percent = memchr(text->data + p.at, '%', text->len - p.at);
        const size_t end = percent != NULL ? (size_t)(percent - text->data) : text->len;
        if (!text_add(&r->arena, &p.t, text->data + p.at, end - p.at))
            return jinja_no_memory(r);
        p.at = end + 1;
        if (percent != NULL && !percent_one(&p))
            return false;
    }
    if (p.next < p.n_arg && p.dict == NULL && x->kind != VALUE_LIST && x->kind != VALUE_RANGE &&
        x->kind != VALUE_UNDEFINED)
        return jinja_fail(r, "not all arguments converted during string formatting");
    return give_text(r, &p.t, out);
}

/* --- "{}".format(x) --- */

/* [[fill]align][sign][0][width][,][.precision][type] */
static bool read_spec(struct jinja_run *r, const struct value_string *s, struct layout *f)
{
    size_t at = 0, n = 0;
    *f = (struct layout){ .precision = -1 };
    if (s->len > 0)
        unicode_decode(s->data, &n);
    if (n > 0 && n < s->len && strchr("<>^=", s->data[n]) != NULL && s->data[n] != 0) {
        memcpy(f->fill, s->data, n);
        f->n_fill = n;
        f->align = s->data[n];
        at = n + 1;
    } else if (n == 1 && strchr("<>^=", s->data[0]) != NULL && s->data[0] != 0) {
        f->align = s->data[0];
        at = 1;
    }
    if (at < s->len && (s->data[at] == '+' || s->data[at] == '-' || s->data[at] == ' '))
        f->sign = s->data[at++];
    if (f->sign == '-')
        f->sign = 0;
    if (at < s->len && s->data[at] == '0') {
        at++;
        if (f->n_fill == 0) {
            f->fill[0] = '0';
            f->n_fill = 1;
        }
        f->zero = f->align == 0;
        if (f->zero)
            f->align = '=';
    }
    if (!read_number(s, &at, &f->width))
        return jinja_fail(r, "width too big");
    if (at < s->len && (s->data[at] == ',' || s->data[at] == '_'))
        f->group = s->data[at++];
    if (at < s->len && s->data[at] == '.') {
        const size_t digits = ++at;
        if (!read_number(s, &at, &f->precision) || f->precision > MAX_PRECISION)
            return jinja_fail(r, "precision too big");
        if (at == digits)
            return jinja_fail(r, "format specifier missing precision");
    }
    if (at < s->len)
        f->type = s->data[at++];
    return at == s->len || jinja_fail(r, "the format specifier '%.*s' is not supported",
                                      s->len > 100 ? 100 : (int)s->len, s->data);
}

static bool brace_number(struct jinja_run *r, struct layout *f, const struct value *v,
                         struct value_text *t)
{
    char out[NUMBER_TEXT];
    const bool is_int = value_is_int(v);
    const char *types = is_int ? "dboxXeEfFgG%" : "eEfFgG%";
    if (f->type != 0 && strchr(types, f->type) == NULL)
        return jinja_fail(r, "format code '%c' is not supported for a value of type '%s'", f->type,
                          value_type_name(v));
    if (is_int && (f->type == 0 || strchr("dboxX", f->type) != NULL)) {
        if (f->precision >= 0)
            return jinja_fail(r, "precision not allowed in integer format specifier");
        if (f->group != 0 && f->type != 0 && f->type != 'd')
            return jinja_fail(r, "grouping is not supported with '%c'", f->type);
        write_int(f, value_to_int(v), out);
    } else if (f->type == 0 && f->precision < 0) {
        const double real = value_to_double(v);
        char digits[FLOAT_TEXT];
        float_repr(real, digits);
        snprintf(out, sizeof out, "%s%s", f->sign == '+' && signbit(real) == 0 ? "+" : "", digits);
    } else if (f->type == 0) {
        return jinja_fail(r, "a format precision without a type is not supported");
    } else {
        const bool percent = f->type == '%';
        write_float(f, value_to_double(v) * (percent ? 100.0 : 1.0), out);
        if (percent)
            snprintf(out + strlen(out), sizeof out - strlen(out), "%%");
    }
    if (f->group != 0 && f->align == '=' && f->n_fill == 1 && f->fill[0] == '0')
        return jinja_fail(r, "grouping with zero padding is not supported");
    if (f->group != 0)
        group_digits(f->group, out);
    return add_padded(r, f, out, strlen(out), f->align != 0 ? f->align : '>', t);
}

static bool brace_value(struct jinja_run *r, const struct value *v, const struct value_string *spec,
                        struct value_text *t)
{
    struct layout f;
    if (spec->len == 0)
        return value_print(r, v, t);
    if (!read_spec(r, spec, &f))
        return false;
    if (value_is_number(v))
        return brace_number(r, &f, v, t);
    if (f.zero)
        f.align = 0;
    if (v->kind != VALUE_STRING)
        return jinja_fail(r, "unsupported format string passed to %s.__format__",
                          value_type_name(v));
    if ((f.type != 0 && f.type != 's') || f.sign != 0 || f.group != 0 || f.align == '=')
        return jinja_fail(r, "the format specifier '%.*s' does not fit a string",
                          spec->len > 100 ? 100 : (int)spec->len, spec->data);
    return add_string(r, &f, v->as.string, '<', t);
}

/* What is before the first '.' or '[' of a field, then the members. */
static bool brace_field(struct jinja_run *r, const struct value_string *field,
                        const struct call_args *args, int64_t *automatic, struct value *out)
{
    size_t at = 0;
    while (at < field->len && field->data[at] != '.' && field->data[at] != '[')
        at++;
    const struct value_string first = { .data = field->data, .len = at };
    int index = 0;
    size_t digits = 0;
    const bool number = at > 0 && read_number(&first, &digits, &index) && digits == at;
    if ((at == 0 && *automatic < 0) || (number && *automatic > 0))
        return jinja_fail(r, "cannot switch between automatic and manual field numbering");
    if (at == 0)
        index = (int)(*automatic)++;
    else if (number)
        *automatic = -1;
    if (at == 0 || number) {
        if ((size_t)index >= args->n)
            return jinja_fail(r, "replacement index %d out of range for positional args", index);
        *out = args->at[index];
    } else {
        size_t i = 0;
        while (i < args->n_keyword && !string_equal(args->keywords[i].name, &first))
            i++;
        if (i == args->n_keyword)
            return jinja_fail(r, "format() was given no '%.*s'", at > 100 ? 100 : (int)at,
                              first.data);
        *out = args->keywords[i].value;
    }
    while (at < field->len) {
        const bool is_item = field->data[at++] == '[';
        const size_t start = at;
        while (at < field->len && (is_item ? field->data[at] != ']'
                                           : field->data[at] != '.' && field->data[at] != '['))
            at++;
        const struct value_string *name = string_point(&r->arena, field->data + start, at - start);
        if (name == NULL)
            return jinja_no_memory(r);
        if (name->len == 0 || (is_item && at == field->len))
            return jinja_fail(r, "empty attribute in format string");
        struct value key = value_of_string(name);
        size_t end = 0;
        if (is_item && read_number(name, &end, &index) && end == name->len)
            key = value_int(index);
        const struct value of = *out;
        if (is_item ? !value_item(r, &of, &key, out) : !value_attr(r, &of, name, out))
            return false;
        at += is_item;
        if (is_item && at < field->len && field->data[at] != '.' && field->data[at] != '[')
            return jinja_fail(r, "only '.' or '[' may follow ']' in format field specifier");
    }
    return true;
}

/* `field!conversion:spec` */
static bool brace_one(struct jinja_run *r, const char *text, size_t n, const struct call_args *args,
                      int64_t *automatic, struct value_text *t)
{
    struct value_string field = { .data = text, .len = n }, spec = { .data = "" };
    struct value v;
    const char *colon = memchr(text, ':', n);
    if (memchr(text, '{', n) != NULL)
        return jinja_fail(r, "nested format fields are not supported");
    if (colon != NULL) {
        field.len = (size_t)(colon - text);
        spec = (struct value_string){ .data = colon + 1, .len = n - field.len - 1 };
    }
    char conversion = 0;
    if (field.len >= 2 && field.data[field.len - 2] == '!') {
        conversion = field.data[field.len - 1];
        field.len -= 2;
        if (conversion != 's' && conversion != 'r')
            return jinja_fail(r, "the conversion '!%c' is not supported", conversion);
    }
    if (!brace_field(r, &field, args, automatic, &v))
        return false;
    if (conversion != 0) {
        struct value_text repr = { 0 };
        if (conversion == 'r' ? !value_repr(r, &v, &repr) : !value_print(r, &v, &repr))
            return false;
        if (!give_text(r, &repr, &v))
            return false;
    }
    return brace_value(r, &v, &spec, t);
}

bool format_braces(struct jinja_run *r, const struct value_string *text,
                   const struct call_args *args, struct value *out)
{
    struct value_text t = { 0 };
    int64_t automatic = 0;
    if (text->safe)
        return jinja_fail(r, "formatting a safe string is not supported");
    for (size_t at = 0; at < text->len; at++) {
        const char c = text->data[at];
        if ((c == '{' || c == '}') && at + 1 < text->len && text->data[at + 1] == c) {
            at++;
        } else if (c == '}') {
            return jinja_fail(r, "single '}' encountered in format string");
        } else if (c == '{') {
            size_t end = at + 1;
            for (int depth = 1; end < text->len; end++) {
                depth += text->data[end] == '{' ? 1 : text->data[end] == '}' ? -1 : 0;
                if (depth == 0)
                    break;
            }
            if (end == text->len)
                return jinja_fail(r, "expected '}' before end of string");
            if (!brace_one(r, text->data + at + 1, end - at - 1, args, &automatic, &t))
                return false;
            at = end;
            continue;
        }
        if (!text_add(&r->arena, &t, &c, 1))
            return jinja_no_memory(r);
    }
    return give_text(r, &t, out);
}
