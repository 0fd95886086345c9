#include "datasets/jinja_repr.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_unicode.h"

/* repr(float): the fewest digits that read back, laid out as '%.17g' would but with a point or an
 * exponent always there, and exponents from 1e16 on. */
void float_repr(double real, char out[FLOAT_TEXT])
{
    if (isnan(real) || isinf(real)) {
        snprintf(out, FLOAT_TEXT, "%s", isnan(real) ? "nan" : real < 0 ? "-inf" : "inf");
        return;
    }
    char scientific[32];
    for (int digits = 0; digits < 17; digits++) {
        snprintf(scientific, sizeof scientific, "%.*e", digits, real);
        if (strtod(scientific, NULL) == real)
            break;
    }
    char *e = strchr(scientific, 'e');
    const int exponent = (int)strtol(e + 1, NULL, 10);
    *e = 0;
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, FLOAT_TEXT, "%se%c%02d", scientific, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    char digits[FLOAT_TEXT];
    int n = 0;
    for (const char *s = scientific; *s != 0; s++) {
        if (*s >= '0' && *s <= '9')
            digits[n++] = *s;
    }
    char *to = out;
    if (scientific[0] == '-')
        *to++ = '-';
    if (exponent < 0) {
        *to++ = '0';
        *to++ = '.';
        for (int i = -1; i > exponent; i--)
            *to++ = '0';
    }
    for (int i = 0; i < n || i <= exponent; i++) {
        *to++ = i < n ? digits[i] : '0';
        if (i == exponent)
            *to++ = '.';
    }
    if (to[-1] == '.')
        *to++ = '0';
    *to = 0;
}

/* repr(str): in single quotes, or in double ones if that saves escapes. */
static bool string_repr(struct jinja_run *r, const struct value_string *s, struct value_text *t)
{
    struct jinja_arena *a = &r->arena;
    const bool single = memchr(s->len > 0 ? s->data : "", '\'', s->len) != NULL;
    const bool both = single && memchr(s->data, '"', s->len) != NULL;
    const char quote = single && !both ? '"' : '\'';
    bool ok = text_add(a, t, &quote, 1);
    for (size_t at = 0, n = 0; ok && at < s->len; at += n) {
        const uint32_t code = unicode_decode(s->data + at, &n);
        char escape[16] = "";
        if (code == (unsigned char)quote || code == '\\')
            snprintf(escape, sizeof escape, "\\%c", (char)code);
        else if (code == '\n' || code == '\r' || code == '\t')
            snprintf(escape, sizeof escape, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
        else if (!unicode_is(code, UNICODE_PRINTABLE) && code < 0x100)
            snprintf(escape, sizeof escape, "\\x%02x", (unsigned)code);
        else if (!unicode_is(code, UNICODE_PRINTABLE) && code < 0x10000)
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
        else if (!unicode_is(code, UNICODE_PRINTABLE))
            snprintf(escape, sizeof escape, "\\U%08x", (unsigned)code);
        ok = escape[0] != 0 ? text_add_string(a, t, escape) : text_add(a, t, s->data + at, n);
    }
    return (ok && text_add(a, t, &quote, 1)) || jinja_no_memory(r);
}

static bool add(struct jinja_run *r, struct value_text *t, const char *text)
{
    return text_add_string(&r->arena, t, text) || jinja_no_memory(r);
}

static bool list_repr(struct jinja_run *r, const struct value *v, struct value_text *t)
{
    const struct value_list *list = v->as.list;
    const bool tuple = v->kind == VALUE_TUPLE;
    if (!add(r, t, tuple ? "(" : "["))
        return false;
    for (size_t i = 0; i < list->n; i++) {
        if ((i > 0 && !add(r, t, ", ")) || !value_repr(r, &list->at[i], t))
            return false;
    }
    return add(r, t, !tuple ? "]" : list->n == 1 ? ",)" : ")");
}

static bool dict_repr(struct jinja_run *r, const struct value_dict *d, struct value_text *t)
{
    if (!add(r, t, "{"))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        if ((i > 0 && !add(r, t, ", ")) || !value_repr(r, &d->at[i].key, t) || !add(r, t, ": ") ||
            !value_repr(r, &d->at[i].value, t))
            return false;
    }
    return add(r, t, "}");
}

static bool view_repr(struct jinja_run *r, const struct value *v, struct value_text *t)
{
    struct iter it;
    struct value item;
    bool done = false, first = true;
    if (!add(r, t, value_type_name(v)) || !add(r, t, "([") || !iter_open(r, v, &it))
        return false;
    while (true) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            return add(r, t, "])");
        if ((!first && !add(r, t, ", ")) || !value_repr(r, &item, t))
            return false;
        first = false;
    }
}

static bool repr_inside(struct jinja_run *r, const struct value *v, struct value_text *t)
{
    char buffer[96];
    switch (v->kind) {
    case VALUE_UNDEFINED:
        return add(r, t, "Undefined");
    case VALUE_NONE:
        return add(r, t, "None");
    case VALUE_BOOL:
        return add(r, t, v->as.truth ? "True" : "False");
    case VALUE_INT:
        snprintf(buffer, sizeof buffer, "%lld", (long long)v->as.integer);
        return add(r, t, buffer);
    case VALUE_FLOAT:
        float_repr(v->as.real, buffer);
        return add(r, t, buffer);
    case VALUE_STRING:
        if (!v->as.string->safe)
            return string_repr(r, v->as.string, t);
        return add(r, t, "Markup(") && string_repr(r, v->as.string, t) && add(r, t, ")");
    case VALUE_LIST:
    case VALUE_TUPLE:
        return list_repr(r, v, t);
    case VALUE_DICT:
        return dict_repr(r, v->as.dict, t);
    case VALUE_VIEW:
        return view_repr(r, v, t);
    case VALUE_NAMESPACE:
        return add(r, t, "<Namespace ") && dict_repr(r, v->as.dict, t) && add(r, t, ">");
    case VALUE_RANGE:
        snprintf(buffer, sizeof buffer,
                 v->as.range->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
                 (long long)v->as.range->start, (long long)v->as.range->stop,
                 (long long)v->as.range->step);
        return add(r, t, buffer);
    default:
        return jinja_fail(r, "printing a value of type '%s' is not supported", value_type_name(v));
    }
}

bool value_repr(struct jinja_run *r, const struct value *v, struct value_text *t)
{
    const bool ok = jinja_enter(r) && jinja_step(r, 1) && repr_inside(r, v, t);
    jinja_leave(r);
    return ok;
}

bool value_print(struct jinja_run *r, const struct value *v, struct value_text *t)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
        return true;
    case VALUE_STRING:
        return text_add(&r->arena, t, v->as.string->data, v->as.string->len) || jinja_no_memory(r);
    default:
        return value_repr(r, v, t);
    }
}

const struct value_string *string_marked(struct jinja_run *r, const struct value_string *s,
                                         bool safe)
{
    if (s == NULL || s->safe == safe)
        return s;
    struct value_string *copy = jinja_take(&r->arena, sizeof *copy);
    if (copy != NULL) {
        *copy = *s;
        copy->safe = safe;
    }
    return copy;
}

bool value_soft_str(struct jinja_run *r, const struct value *v, const struct value_string **out)
{
    if (v->kind == VALUE_STRING) {
        *out = v->as.string;
        return true;
    }
    struct value_text t = { 0 };
    if (!value_print(r, v, &t))
        return false;
    *out = text_take(&r->arena, &t);
    return *out != NULL || jinja_no_memory(r);
}

bool value_str(struct jinja_run *r, const struct value *v, const struct value_string **out)
{
    if (!value_soft_str(r, v, out))
        return false;
    *out = string_marked(r, *out, false);
    return *out != NULL || jinja_no_memory(r);
}

bool string_escape(struct jinja_run *r, const struct value_string *s,
                   const struct value_string **out)
{
    static const struct {
        char c;
        const char *text;
    } escapes[] = {
        { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '\'', "&#39;" }, { '"', "&#34;" },
    };
    struct value_text t = { 0 };
    bool ok = true;
    *out = s;
    if (s->safe)
        return true;
    for (size_t i = 0; ok && i < s->len; i++) {
        const char *escape = NULL;
        for (size_t k = 0; k < sizeof escapes / sizeof *escapes; k++) {
            if (s->data[i] == escapes[k].c)
                escape = escapes[k].text;
        }
        ok = escape != NULL ? text_add_string(&r->arena, &t, escape)
                            : text_add(&r->arena, &t, s->data + i, 1);
    }
    *out = ok ? string_marked(r, text_take(&r->arena, &t), true) : NULL;
    return *out != NULL || jinja_no_memory(r);
}
