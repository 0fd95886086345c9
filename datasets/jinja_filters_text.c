/* Filters of text. */
#include "datasets/jinja_filters.h"

#include <stdio.h>
#include <string.h>

#include "datasets/jinja_format.h"
#include "datasets/jinja_iter.h"
#include "datasets/jinja_methods.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_unicode.h"

static bool no_args(struct jinja_run *r, const char *name, const struct call_args *args)
{
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "%s takes no arguments", name);
}

static bool filter_upper(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "upper", args) && value_soft_str(r, &in, &s) &&
           string_case(r, s, CASE_UPPER, out);
}

static bool filter_lower(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "lower", args) && value_soft_str(r, &in, &s) &&
           string_case(r, s, CASE_LOWER, out);
}

static bool filter_capitalize(struct jinja_run *r, struct value in, const struct call_args *args,
                              struct value *out)
{
    const struct value_string *s = NULL;
    return no_args(r, "capitalize", args) && value_soft_str(r, &in, &s) &&
           string_case(r, s, CASE_CAPITALIZE, out);
}

/* jinja2's own idea of a title: a capital after blanks and after - ( { [ <. */
static bool starts_word(uint32_t code)
{
    return code == '-' || code == '(' || code == '{' || code == '[' || code == '<' ||
           unicode_is(code, UNICODE_SPACE);
}

static bool filter_title(struct jinja_run *r, struct value in, const struct call_args *args,
                         struct value *out)
{
    const struct value_string *s = NULL;
    struct value_text t = { 0 };
    if (!no_args(r, "title", args) || !value_str(r, &in, &s))
        return false;
    for (size_t at = 0, n = 0; at < s->len;) {
        const bool between = starts_word(unicode_decode(s->data + at, &n));
        size_t end = at;
        while (end < s->len && starts_word(unicode_decode(s->data + end, &n)) == between)
            end += n;
        unicode_decode(s->data + at, &n);
        const struct value_string parts[2] = { { .data = s->data + at, .len = n },
                                               { .data = s->data + at + n, .len = end - at - n } };
        for (int i = 0; i < 2; i++) {
            struct value part;
            if (!string_case(r, &parts[i], i == 0 ? CASE_UPPER : CASE_LOWER, &part) ||
                !value_print(r, &part, &t))
                return false;
        }
        at = end;
    }
    return give_text(r, &t, out);
}

static bool filter_trim(struct jinja_run *r, struct value in, const struct call_args *args,
                        struct value *out)
{
    static const char *const names[] = { "chars", NULL };
    const struct value_string *s = NULL;
    struct value chars;
    return args_bind(r, "trim", args, names, 0, &chars) && value_soft_str(r, &in, &s) &&
           string_strip(r, s, &chars, true, true, out);
}

static bool filter_replace(struct jinja_run *r, struct value in, const struct call_args *args,
                           struct value *out)
{
    static const char *const names[] = { "old", "new", "count", NULL };
    const struct value_string *s = NULL, *from = NULL, *to = NULL;
    struct value v[3];
    int64_t count = -1;
    return args_bind(r, "replace", args, names, 2, v) && value_str(r, &in, &s) &&
           value_str(r, &v[0], &from) && value_str(r, &v[1], &to) &&
           (v[2].kind == VALUE_NONE || arg_int(r, &v[2], "replace: count", &count)) &&
           string_replace(r, s, from, to, count, out);
}

/* The lines of s, each but the first behind `width` blanks (or text); with `blank` empty ones too,
 * with `first` the first too. */
static bool filter_indent(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    static const char *const names[] = { "width", "first", "blank", NULL };
    static const struct value_string newline = { .data = "\n", .len = 1 };
    const struct value_string *s = NULL;
    struct value v[3], whole;
    struct value_list *lines = NULL;
    struct value_text t = { 0 }, indent = { 0 };
    int64_t width = 4;
    if (!args_bind(r, "indent", args, names, 0, v))
        return false;
    if (in.kind == VALUE_UNDEFINED)
        return fail_undefined(r, &in);
    if (!arg_string(r, &in, "indent: the value", &s))
        return false;
    if (v[0].kind == VALUE_STRING) {
        if (!value_print(r, &v[0], &indent))
            return false;
    } else if (!arg_int(r, &v[0], "indent: width", &width) ||
               !jinja_step(r, width > 0 ? width / 8 : 0)) {
        return false;
    } else if (!text_add_fill(&r->arena, &indent, " ", 1, width)) {
        return jinja_no_memory(r);
    }
    if (!string_add(r, s, &newline, &whole) || !string_lines(r, whole.as.string, false, &lines))
        return false;
    const bool blank = arg_truth(&v[2], false);
    bool ok = !arg_truth(&v[1], false) || text_add(&r->arena, &t, indent.data, indent.len);
    for (size_t i = 0; ok && i < lines->n; i++) {
        const struct value_string *line = lines->at[i].as.string;
        if (i > 0)
            ok = text_add(&r->arena, &t, "\n", 1) &&
                 ((line->len == 0 && !blank) || text_add(&r->arena, &t, indent.data, indent.len));
        ok = ok && text_add(&r->arena, &t, line->data, line->len);
    }
    if (!ok)
        return jinja_no_memory(r);
    return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
}

static bool filter_center(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    static const char *const names[] = { "width", NULL };
    static const struct value_string space = { .data = " ", .len = 1 };
    const struct value_string *s = NULL;
    struct value v;
    int64_t width = 80;
    return args_bind(r, "center", args, names, 0, &v) && arg_int(r, &v, "center: width", &width) &&
           value_soft_str(r, &in, &s) && string_center(r, s, width, &space, 0, out);
}

static bool filter_truncate(struct jinja_run *r, struct value in, const struct call_args *args,
                            struct value *out)
{
    static const char *const names[] = { "length", "killwords", "end", "leeway", NULL };
    static const struct value_string dots = { .data = "...", .len = 3 };
    static const struct value_string space = { .data = " ", .len = 1 };
    const struct value_string *s = NULL, *end = &dots;
    struct value v[4];
    int64_t length = 255, leeway = 5;
    if (!args_bind(r, "truncate", args, names, 0, v) ||
        !arg_int(r, &v[0], "truncate: length", &length) ||
        !arg_string(r, &v[2], "truncate: end", &end) ||
        (v[3].kind != VALUE_NONE && !arg_int(r, &v[3], "truncate: leeway", &leeway)))
        return false;
    const int64_t n_end = string_length(end);
    if (length < n_end)
        return jinja_fail(r, "expected length >= %lld, got %lld", (long long)n_end,
                          (long long)length);
    if (leeway < 0)
        return jinja_fail(r, "expected leeway >= 0, got %lld", (long long)leeway);
    if (in.kind == VALUE_UNDEFINED) { /* no longer than any length */
        *out = in;
        return true;
    }
    if (!arg_string(r, &in, "truncate: the value", &s))
        return false;
    const int64_t n = string_length(s);
    if (n <= length || n - length <= leeway)
        return give_string(r, s, out);
    struct value_string *cut = jinja_take(&r->arena, sizeof *cut);
    if (cut == NULL)
        return jinja_no_memory(r);
    *cut = (struct value_string){ .data = s->data,
                                  .len = string_offset(s, length - n_end),
                                  .safe = s->safe };
    const size_t word = string_find_last(cut, &space, cut->len);
    if (!arg_truth(&v[1], false) && word != SIZE_MAX)
        cut->len = word;
    return string_add(r, cut, end, out);
}

static bool filter_wordcount(struct jinja_run *r, struct value in, const struct call_args *args,
                             struct value *out)
{
    const unsigned word = UNICODE_ALPHA | UNICODE_DECIMAL | UNICODE_DIGIT | UNICODE_NUMERIC;
    const struct value_string *s = NULL;
    int64_t n_word = 0;
    bool inside = false;
    if (!no_args(r, "wordcount", args) || !value_soft_str(r, &in, &s) ||
        !jinja_step(r, (int64_t)(s->len / 8)))
        return false;
    for (size_t at = 0, n = 0; at < s->len; at += n) {
        const uint32_t code = unicode_decode(s->data + at, &n);
        const bool in_word = code == '_' || (unicode_flags_of(code) & word) != 0;
        n_word += in_word && !inside;
        inside = in_word;
    }
    *out = value_int(n_word);
    return true;
}

/* text % (arguments), by position or by name. */
static bool filter_format(struct jinja_run *r, struct value in, const struct call_args *args,
                          struct value *out)
{
    const struct value_string *s = NULL;
    if (args->n > 0 && args->n_keyword > 0)
        return jinja_fail(r, "can't handle positional and keyword arguments at the same time");
    struct value v = value_of_tuple(list_new(&r->arena, args->n));
    struct value_dict *dict = dict_new(&r->arena);
    if (v.as.list == NULL || dict == NULL)
        return jinja_no_memory(r);
    for (size_t i = 0; i < args->n; i++) {
        if (!list_push(&r->arena, v.as.list, args->at[i]))
            return jinja_no_memory(r);
    }
    for (size_t i = 0; i < args->n_keyword; i++) {
        if (!dict_set(&r->arena, dict, value_of_string(args->keywords[i].name),
                      args->keywords[i].value))
            return jinja_no_memory(r);
    }
    if (args->n_keyword > 0)
        v = value_of_dict(dict);
    return value_soft_str(r, &in, &s) && format_percent(r, s, &v, out);
}

/* Percent-encoding; in queries '/' too, and '+' for a blank. */
static bool quote(struct jinja_run *r, const struct value *v, bool query, struct value_text *t)
{
    const struct value_string *s = NULL;
    if (!value_str(r, v, &s) || !jinja_step(r, (int64_t)(s->len / 8)))
        return false;
    for (size_t i = 0; i < s->len; i++) {
        const unsigned char c = (unsigned char)s->data[i];
        char escape[8];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            (c != 0 && strchr("_.-~", c) != NULL) || (c == '/' && !query))
            snprintf(escape, sizeof escape, "%c", c);
        else if (c == ' ' && query)
            snprintf(escape, sizeof escape, "+");
        else
            snprintf(escape, sizeof escape, "%%%02X", c);
        if (!text_add_string(&r->arena, t, escape))
            return jinja_no_memory(r);
    }
    return true;
}

static bool filter_urlencode(struct jinja_run *r, struct value in, const struct call_args *args,
                             struct value *out)
{
    struct value_text t = { 0 };
    struct value item = in;
    struct value_list *pair = NULL;
    struct iter it;
    bool done = false;
    if (!no_args(r, "urlencode", args))
        return false;
    if (in.kind == VALUE_STRING || !value_is_iterable(&in))
        return quote(r, &in, false, &t) && give_text(r, &t, out);
    if (in.kind == VALUE_DICT) {
        struct value_view *view = jinja_take(&r->arena, sizeof *view);
        if (view == NULL)
            return jinja_no_memory(r);
        *view = (struct value_view){ .kind = VIEW_ITEMS, .dict = in.as.dict };
        in = (struct value){ .kind = VALUE_VIEW, .as.view = view };
    }
    if (!iter_open(r, &in, &it))
        return false;
    for (bool first = true;; first = false) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            return give_text(r, &t, out);
        if (!iter_list(r, &item, &pair))
            return false;
        if (pair->n != 2)
            return jinja_fail(r, "urlencode: expected pairs, got %zu values", pair->n);
        if (!first && !text_add(&r->arena, &t, "&", 1))
            return jinja_no_memory(r);
        if (!quote(r, &pair->at[0], true, &t))
            return false;
        if (!text_add(&r->arena, &t, "=", 1))
            return jinja_no_memory(r);
        if (!quote(r, &pair->at[1], true, &t))
            return false;
    }
}

const struct filter text_filters[] = {
    { "capitalize", filter_capitalize },
    { "center", filter_center },
    { "format", filter_format },
    { "indent", filter_indent },
    { "lower", filter_lower },
    { "replace", filter_replace },
    { "title", filter_title },
    { "trim", filter_trim },
    { "truncate", filter_truncate },
    { "upper", filter_upper },
    { "urlencode", filter_urlencode },
    { "wordcount", filter_wordcount },
    { NULL, NULL },
};
