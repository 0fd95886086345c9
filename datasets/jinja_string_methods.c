/* The methods of str. */
#include "datasets/jinja_methods.h"

#include <string.h>

#include "datasets/jinja_format.h"
#include "datasets/jinja_iter.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_unicode.h"

static bool no_args(struct jinja_run *r, const char *name, const struct call_args *args)
{
    return (args->n == 0 && args->n_keyword == 0) || jinja_fail(r, "%s() takes no arguments", name);
}

static bool strip(struct jinja_run *r, struct value self, const struct call_args *args, bool left,
                  bool right, struct value *out)
{
    static const char *const names[] = { "/chars", NULL };
    struct value chars;
    return args_bind(r, "strip()", args, names, 0, &chars) &&
           string_strip(r, self.as.string, &chars, left, right, out);
}

static bool call_strip(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return strip(r, self, args, true, true, out);
}

static bool call_lstrip(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return strip(r, self, args, true, false, out);
}

static bool call_rstrip(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return strip(r, self, args, false, true, out);
}

static bool call_upper(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return no_args(r, "upper", args) && string_case(r, self.as.string, CASE_UPPER, out);
}

static bool call_lower(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return no_args(r, "lower", args) && string_case(r, self.as.string, CASE_LOWER, out);
}

static bool call_title(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return no_args(r, "title", args) && string_case(r, self.as.string, CASE_TITLE, out);
}

static bool call_capitalize(struct jinja_run *r, struct value self, const struct call_args *args,
                            struct value *out)
{
    return no_args(r, "capitalize", args) && string_case(r, self.as.string, CASE_CAPITALIZE, out);
}

/* A part of s onto the list, marked as s is. */
static bool push_part(struct jinja_run *r, struct value_list *list, const struct value_string *s,
                      size_t start, size_t end)
{
    const struct value_string *part = string_point(&r->arena, s->data + start, end - start);
    part = string_marked(r, part, s->safe);
    return (part != NULL && list_push(&r->arena, list, value_of_string(part))) ||
           jinja_no_memory(r);
}

static size_t skip(const struct value_string *s, size_t at, bool space)
{
    size_t n = 0;
    while (at < s->len && unicode_is(unicode_decode(s->data + at, &n), UNICODE_SPACE) == space)
        at += n;
    return at;
}

static size_t skip_back(const struct value_string *s, size_t at, bool space)
{
    size_t n = 0;
    while (at > 0 && unicode_is(unicode_decode_back(s->data, at, &n), UNICODE_SPACE) == space)
        at -= n;
    return at;
}

static bool split_spaces(struct jinja_run *r, const struct value_string *s, int64_t most,
                         struct value_list *list)
{
    for (size_t at = skip(s, 0, true); at < s->len;) {
        const size_t end = most-- == 0 ? s->len : skip(s, at, false);
        if (!push_part(r, list, s, at, end))
            return false;
        at = skip(s, end, true);
    }
    return true;
}

static bool split_at(struct jinja_run *r, const struct value_string *s,
                     const struct value_string *sep, int64_t most, struct value_list *list)
{
    size_t at = 0;
    while (true) {
        const size_t hit = most-- == 0 ? SIZE_MAX : string_find(s, sep, at);
        if (!push_part(r, list, s, at, hit == SIZE_MAX ? s->len : hit))
            return false;
        if (hit == SIZE_MAX)
            return true;
        at = hit + sep->len;
    }
}

/* From the right; the parts come last first. */
static bool rsplit(struct jinja_run *r, const struct value_string *s,
                   const struct value_string *sep, int64_t most, struct value_list *list)
{
    size_t end = sep == NULL ? skip_back(s, s->len, true) : s->len;
    while (sep != NULL || end > 0) {
        size_t start = 0, next = 0;
        bool last = most-- == 0;
        if (!last && sep == NULL) {
            start = skip_back(s, end, false);
            next = skip_back(s, start, true);
        } else if (!last) {
            const size_t hit = string_find_last(s, sep, end);
            last = hit == SIZE_MAX;
            next = last ? 0 : hit;
            start = last ? 0 : hit + sep->len;
        }
        if (!push_part(r, list, s, start, end))
            return false;
        if (last)
            return true;
        end = next;
    }
    return true;
}

static bool split(struct jinja_run *r, struct value self, const struct call_args *args, bool right,
                  struct value *out)
{
    static const char *const names[] = { "sep", "maxsplit", NULL };
    const struct value_string *s = self.as.string, *sep = NULL;
    struct value v[2];
    int64_t most = -1;
    if (!args_bind(r, "split()", args, names, 0, v) ||
        (v[0].kind != VALUE_NONE && !arg_string(r, &v[0], "separator", &sep)) ||
        !arg_int(r, &v[1], "maxsplit", &most) || !jinja_step(r, 1 + (int64_t)(s->len / 16)))
        return false;
    if (sep != NULL && sep->len == 0)
        return jinja_fail(r, "empty separator");
    struct value_list *list = list_new(&r->arena, 0);
    if (list == NULL)
        return jinja_no_memory(r);
    if (most < 0)
        most = -1;
    if (right) {
        if (!rsplit(r, s, sep, most, list))
            return false;
        for (size_t i = 0; i < list->n / 2; i++) {
            const struct value swap = list->at[i];
            list->at[i] = list->at[list->n - 1 - i];
            list->at[list->n - 1 - i] = swap;
        }
    } else if (sep != NULL ? !split_at(r, s, sep, most, list) : !split_spaces(r, s, most, list)) {
        return false;
    }
    return give_list(r, list, out);
}

static bool call_split(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return split(r, self, args, false, out);
}

static bool call_rsplit(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return split(r, self, args, true, out);
}

static bool call_splitlines(struct jinja_run *r, struct value self, const struct call_args *args,
                            struct value *out)
{
    static const char *const names[] = { "keepends", NULL };
    struct value v;
    struct value_list *lines = NULL;
    int64_t keep = 0;
    return args_bind(r, "splitlines()", args, names, 0, &v) && arg_int(r, &v, "keepends", &keep) &&
           string_lines(r, self.as.string, keep != 0, &lines) && give_list(r, lines, out);
}

/* The part [start, end) of s that optional arguments name, as a string of its own and its offset in
 * characters; *empty when Python finds nothing there, not even "". */
static bool part(struct jinja_run *r, const struct value_string *s, const struct value bounds[2],
                 struct value_string *out, int64_t *offset, bool *empty)
{
    *out = *s;
    *offset = 0;
    *empty = false;
    const bool whole[2] = { bounds[0].kind == VALUE_MISSING || bounds[0].kind == VALUE_NONE,
                            bounds[1].kind == VALUE_MISSING || bounds[1].kind == VALUE_NONE };
    if (whole[0] && whole[1])
        return true;
    const int64_t n = string_length(s);
    int64_t start = 0, end = n;
    if ((!whole[0] && !arg_int(r, &bounds[0], "start", &start)) ||
        (!whole[1] && !arg_int(r, &bounds[1], "end", &end)))
        return false;
    if (end > n)
        end = n;
    else if (end < 0)
        end = end < -n ? 0 : end + n;
    if (start < 0)
        start = start < -n ? 0 : start + n;
    *empty = start > end;
    if (*empty)
        return true;
    const size_t from = string_offset(s, start);
    *out = (struct value_string){ .data = s->data + from, .len = string_offset(s, end) - from };
    *offset = start;
    return true;
}

static bool has_end(const struct value_string *s, const struct value_string *x, bool start)
{
    return x->len <= s->len && (x->len == 0 || memcmp(start ? s->data : s->data + s->len - x->len,
                                                      x->data, x->len) == 0);
}

/* startswith, endswith: one string, or a tuple of which one must fit. */
static bool ends(struct jinja_run *r, struct value self, const struct call_args *args, bool start,
                 struct value *out)
{
    static const char *const names[] = { "/prefix", "/start", "/end", NULL };
    const char *name = start ? "startswith()" : "endswith()";
    struct value v[3];
    struct value_string s;
    int64_t offset = 0;
    bool empty = false;
    if (!args_bind(r, name, args, names, 1, v) ||
        !part(r, self.as.string, v + 1, &s, &offset, &empty))
        return false;
    *out = value_bool(false);
    if (v[0].kind == VALUE_STRING) {
        *out = value_bool(!empty && has_end(&s, v[0].as.string, start));
        return true;
    }
    if (v[0].kind != VALUE_TUPLE)
        return jinja_fail(r, "%s first arg must be str or a tuple of str, not %s", name,
                          value_type_name(&v[0]));
    for (size_t i = 0; i < v[0].as.list->n; i++) {
        const struct value *x = &v[0].as.list->at[i];
        if (x->kind != VALUE_STRING)
            return jinja_fail(r, "tuple for %s must only contain str, not %s", name,
                              value_type_name(x));
        if (!empty && has_end(&s, x->as.string, start)) {
            *out = value_bool(true);
            return true;
        }
    }
    return true;
}

static bool call_startswith(struct jinja_run *r, struct value self, const struct call_args *args,
                            struct value *out)
{
    return ends(r, self, args, true, out);
}

static bool call_endswith(struct jinja_run *r, struct value self, const struct call_args *args,
                          struct value *out)
{
    return ends(r, self, args, false, out);
}

/* find, rfind, index, rindex, count */
enum search { SEARCH_FIRST, SEARCH_LAST, SEARCH_COUNT };

static bool search(struct jinja_run *r, struct value self, const struct call_args *args,
                   const char *name, enum search how, bool must, struct value *out)
{
    static const char *const names[] = { "/sub", "/start", "/end", NULL };
    const struct value_string *sub = NULL;
    struct value v[3];
    struct value_string s;
    int64_t offset = 0, n = 0;
    bool empty = false;
    if (!args_bind(r, name, args, names, 1, v) || !arg_string(r, &v[0], "argument", &sub) ||
        !part(r, self.as.string, v + 1, &s, &offset, &empty) ||
        !jinja_step(r, 1 + (int64_t)(s.len / 16)))
        return false;
    if (how == SEARCH_COUNT) {
        for (size_t at = 0; !empty && sub->len > 0; n++) {
            const size_t hit = string_find(&s, sub, at);
            if (hit == SIZE_MAX)
                break;
            at = hit + sub->len;
        }
        if (!empty && sub->len == 0)
            n = string_length(&s) + 1;
        *out = value_int(n);
        return true;
    }
    const size_t hit = empty                 ? SIZE_MAX
                       : how == SEARCH_FIRST ? string_find(&s, sub, 0)
                                             : string_find_last(&s, sub, s.len);
    if (hit == SIZE_MAX) {
        *out = value_int(-1);
        return !must || jinja_fail(r, "substring not found");
    }
    s.len = hit;
    *out = value_int(offset + string_length(&s));
    return true;
}

static bool call_find(struct jinja_run *r, struct value self, const struct call_args *args,
                      struct value *out)
{
    return search(r, self, args, "find()", SEARCH_FIRST, false, out);
}

static bool call_rfind(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return search(r, self, args, "rfind()", SEARCH_LAST, false, out);
}

static bool call_index(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return search(r, self, args, "index()", SEARCH_FIRST, true, out);
}

static bool call_rindex(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return search(r, self, args, "rindex()", SEARCH_LAST, true, out);
}

static bool call_count(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return search(r, self, args, "count()", SEARCH_COUNT, false, out);
}

static bool call_replace(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    static const char *const names[] = { "/old", "/new", "/count", NULL };
    const struct value_string *s = self.as.string, *from = NULL, *to = NULL;
    struct value v[3];
    int64_t count = -1;
    if (!args_bind(r, "replace()", args, names, 2, v) || !arg_string(r, &v[0], "old", &from) ||
        !arg_string(r, &v[1], "new", &to) || !arg_int(r, &v[2], "count", &count) ||
        (s->safe && !string_escape(r, to, &to)))
        return false;
    return string_replace(r, s, from, to, count, out);
}

static bool call_join(struct jinja_run *r, struct value self, const struct call_args *args,
                      struct value *out)
{
    static const char *const names[] = { "/iterable", NULL };
    const struct value_string *s = self.as.string, *piece = NULL;
    struct value v, item;
    struct iter it;
    struct value_text t = { 0 };
    bool done = false;
    if (!args_bind(r, "join()", args, names, 1, &v) || !iter_open(r, &v, &it))
        return false;
    for (int64_t i = 0;; i++) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done)
            break;
        if (!s->safe && item.kind != VALUE_STRING)
            return jinja_fail(r, "sequence item %lld: expected str instance, %s found",
                              (long long)i, value_type_name(&item));
        if (!value_soft_str(r, &item, &piece) || (s->safe && !string_escape(r, piece, &piece)))
            return false;
        if ((i > 0 && !text_add(&r->arena, &t, s->data, s->len)) ||
            !text_add(&r->arena, &t, piece->data, piece->len))
            return jinja_no_memory(r);
    }
    return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
}

static bool call_format(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return format_braces(r, self.as.string, args, out);
}

static bool affix(struct jinja_run *r, struct value self, const struct call_args *args, bool prefix,
                  struct value *out)
{
    static const char *const names[] = { "/affix", NULL };
    const struct value_string *s = self.as.string, *x = NULL;
    struct value v;
    if (!args_bind(r, prefix ? "removeprefix()" : "removesuffix()", args, names, 1, &v) ||
        !arg_string(r, &v, "argument", &x))
        return false;
    const size_t cut = has_end(s, x, prefix) ? x->len : 0;
    const struct value_string *rest =
        string_point(&r->arena, s->data + (prefix ? cut : 0), s->len - cut);
    return give_string(r, string_marked(r, rest, s->safe), out);
}

static bool call_removeprefix(struct jinja_run *r, struct value self, const struct call_args *args,
                              struct value *out)
{
    return affix(r, self, args, true, out);
}

static bool call_removesuffix(struct jinja_run *r, struct value self, const struct call_args *args,
                              struct value *out)
{
    return affix(r, self, args, false, out);
}

static bool justify(struct jinja_run *r, struct value self, const struct call_args *args, int side,
                    struct value *out)
{
    static const char *const names[] = { "/width", "/fillchar", NULL };
    static const struct value_string space = { .data = " ", .len = 1 };
    const struct value_string *fill = &space;
    struct value v[2];
    int64_t width = 0;
    return args_bind(r, "center()", args, names, 1, v) && arg_int(r, &v[0], "width", &width) &&
           arg_string(r, &v[1], "fillchar", &fill) &&
           (!self.as.string->safe || string_escape(r, fill, &fill)) &&
           string_center(r, self.as.string, width, fill, side, out);
}

static bool call_center(struct jinja_run *r, struct value self, const struct call_args *args,
                        struct value *out)
{
    return justify(r, self, args, 0, out);
}

static bool call_ljust(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return justify(r, self, args, -1, out);
}

static bool call_rjust(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    return justify(r, self, args, 1, out);
}

static bool call_zfill(struct jinja_run *r, struct value self, const struct call_args *args,
                       struct value *out)
{
    static const char *const names[] = { "/width", NULL };
    const struct value_string *s = self.as.string;
    struct value v;
    struct value_text t = { 0 };
    int64_t width = 0;
    if (!args_bind(r, "zfill()", args, names, 1, &v) || !arg_int(r, &v, "width", &width) ||
        !jinja_step(r, width > 0 ? width / 8 : 0))
        return false;
    const size_t sign = s->len > 0 && (s->data[0] == '-' || s->data[0] == '+') ? 1 : 0;
    if (!text_add(&r->arena, &t, s->data, sign) ||
        !text_add_fill(&r->arena, &t, "0", 1, width - string_length(s)) ||
        !text_add(&r->arena, &t, s->data + sign, s->len - sign))
        return jinja_no_memory(r);
    return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
}

static bool cut(struct jinja_run *r, struct value self, const struct call_args *args, bool last,
                struct value *out)
{
    static const char *const names[] = { "/sep", NULL };
    const struct value_string *s = self.as.string, *sep = NULL;
    struct value v;
    if (!args_bind(r, "partition()", args, names, 1, &v) || !arg_string(r, &v, "separator", &sep))
        return false;
    if (sep->len == 0)
        return jinja_fail(r, "empty separator");
    const size_t hit = last ? string_find_last(s, sep, s->len) : string_find(s, sep, 0);
    struct value_list *list = list_new(&r->arena, 3);
    if (list == NULL)
        return jinja_no_memory(r);
    const bool found = hit != SIZE_MAX;
    const size_t start = found ? hit : last ? 0 : s->len;
    const size_t end = found ? hit + sep->len : start;
    return push_part(r, list, s, 0, start) && push_part(r, list, s, start, end) &&
           push_part(r, list, s, end, s->len) && give_tuple(r, list, out);
}

static bool call_partition(struct jinja_run *r, struct value self, const struct call_args *args,
                           struct value *out)
{
    return cut(r, self, args, false, out);
}

static bool call_rpartition(struct jinja_run *r, struct value self, const struct call_args *args,
                            struct value *out)
{
    return cut(r, self, args, true, out);
}

static bool all(struct jinja_run *r, struct value self, const struct call_args *args,
                const char *name, unsigned flags, struct value *out)
{
    *out = value_bool(string_all(self.as.string, flags));
    return no_args(r, name, args);
}

static bool call_isalpha(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    return all(r, self, args, "isalpha", UNICODE_ALPHA, out);
}

static bool call_isalnum(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    return all(r, self, args, "isalnum",
               UNICODE_ALPHA | UNICODE_DECIMAL | UNICODE_DIGIT | UNICODE_NUMERIC, out);
}

static bool call_isdecimal(struct jinja_run *r, struct value self, const struct call_args *args,
                           struct value *out)
{
    return all(r, self, args, "isdecimal", UNICODE_DECIMAL, out);
}

static bool call_isdigit(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    return all(r, self, args, "isdigit", UNICODE_DIGIT, out);
}

static bool call_isnumeric(struct jinja_run *r, struct value self, const struct call_args *args,
                           struct value *out)
{
    return all(r, self, args, "isnumeric", UNICODE_NUMERIC, out);
}

static bool call_isspace(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    return all(r, self, args, "isspace", UNICODE_SPACE, out);
}

static bool call_isprintable(struct jinja_run *r, struct value self, const struct call_args *args,
                             struct value *out)
{
    *out = value_bool(self.as.string->len == 0 || string_all(self.as.string, UNICODE_PRINTABLE));
    return no_args(r, "isprintable", args);
}

static bool call_isascii(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    bool ascii = true;
    for (size_t i = 0; i < self.as.string->len; i++)
        ascii = ascii && (unsigned char)self.as.string->data[i] < 128;
    *out = value_bool(ascii);
    return no_args(r, "isascii", args);
}

static bool call_isupper(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    *out = value_bool(string_is_case(self.as.string, true));
    return no_args(r, "isupper", args);
}

static bool call_islower(struct jinja_run *r, struct value self, const struct call_args *args,
                         struct value *out)
{
    *out = value_bool(string_is_case(self.as.string, false));
    return no_args(r, "islower", args);
}

const struct method string_methods[] = {
    { VALUE_STRING, "capitalize", call_capitalize, false },
    { VALUE_STRING, "casefold", NULL, false },
    { VALUE_STRING, "center", call_center, false },
    { VALUE_STRING, "count", call_count, false },
    { VALUE_STRING, "encode", NULL, false },
    { VALUE_STRING, "endswith", call_endswith, false },
    { VALUE_STRING, "expandtabs", NULL, false },
    { VALUE_STRING, "find", call_find, false },
    { VALUE_STRING, "format", call_format, false },
    { VALUE_STRING, "format_map", NULL, false },
    { VALUE_STRING, "index", call_index, false },
    { VALUE_STRING, "isalnum", call_isalnum, false },
    { VALUE_STRING, "isalpha", call_isalpha, false },
    { VALUE_STRING, "isascii", call_isascii, false },
    { VALUE_STRING, "isdecimal", call_isdecimal, false },
    { VALUE_STRING, "isdigit", call_isdigit, false },
    { VALUE_STRING, "isidentifier", NULL, false },
    { VALUE_STRING, "islower", call_islower, false },
    { VALUE_STRING, "isnumeric", call_isnumeric, false },
    { VALUE_STRING, "isprintable", call_isprintable, false },
    { VALUE_STRING, "isspace", call_isspace, false },
    { VALUE_STRING, "istitle", NULL, false },
    { VALUE_STRING, "isupper", call_isupper, false },
    { VALUE_STRING, "join", call_join, false },
    { VALUE_STRING, "ljust", call_ljust, false },
    { VALUE_STRING, "lower", call_lower, false },
    { VALUE_STRING, "lstrip", call_lstrip, false },
    { VALUE_STRING, "maketrans", NULL, false },
    { VALUE_STRING, "partition", call_partition, false },
    { VALUE_STRING, "removeprefix", call_removeprefix, false },
    { VALUE_STRING, "removesuffix", call_removesuffix, false },
    { VALUE_STRING, "replace", call_replace, false },
    { VALUE_STRING, "rfind", call_rfind, false },
    { VALUE_STRING, "rindex", call_rindex, false },
    { VALUE_STRING, "rjust", call_rjust, false },
    { VALUE_STRING, "rpartition", call_rpartition, false },
    { VALUE_STRING, "rsplit", call_rsplit, false },
    { VALUE_STRING, "rstrip", call_rstrip, false },
    { VALUE_STRING, "split", call_split, false },
    { VALUE_STRING, "splitlines", call_splitlines, false },
    { VALUE_STRING, "startswith", call_startswith, false },
    { VALUE_STRING, "strip", call_strip, false },
    { VALUE_STRING, "swapcase", NULL, false },
    { VALUE_STRING, "title", call_title, false },
    { VALUE_STRING, "translate", NULL, false },
    { VALUE_STRING, "upper", call_upper, false },
    { VALUE_STRING, "zfill", call_zfill, false },
    { VALUE_MISSING, NULL, NULL, false },
};
