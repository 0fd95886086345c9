/* Work on text that methods and filters of strings share. */
#include "datasets/jinja_methods.h"

#include <string.h>

#include "datasets/jinja_repr.h"
#include "datasets/jinja_unicode.h"

static bool has_char(const struct value_string *chars, const char *c, size_t n)
{
    const struct value_string one = { .data = c, .len = n };
    return string_find(chars, &one, 0) != SIZE_MAX;
}

bool string_strip(struct jinja_run *r, const struct value_string *s, const struct value *chars,
                  bool left, bool right, struct value *out)
{
    const struct value_string *set = NULL;
    if (chars->kind != VALUE_NONE && !arg_string(r, chars, "strip argument", &set))
        return false;
    size_t start = 0, end = s->len, n = 0;
    while (left && start < end) {
        const uint32_t code = unicode_decode(s->data + start, &n);
        if (set != NULL ? !has_char(set, s->data + start, n) : !unicode_is(code, UNICODE_SPACE))
            break;
        start += n;
    }
    while (right && end > start) {
        const uint32_t code = unicode_decode_back(s->data, end, &n);
        if (set != NULL ? !has_char(set, s->data + end - n, n) : !unicode_is(code, UNICODE_SPACE))
            break;
        end -= n;
    }
    if (!jinja_step(r, 1 + (int64_t)((s->len - (end - start)) / 16)))
        return false;
    if (start == 0 && end == s->len)
        return give_string(r, s, out);
    const struct value_string *part = string_point(&r->arena, s->data + start, end - start);
    return give_string(r, string_marked(r, part, s->safe), out);
}

bool string_replace(struct jinja_run *r, const struct value_string *s,
                    const struct value_string *from, const struct value_string *to, int64_t count,
                    struct value *out)
{
    struct value_text t = { 0 };
    size_t at = 0;
    bool ok = true;
    if (!jinja_step(r, 1 + (int64_t)(s->len / 16)))
        return false;
    while (ok && count != 0) {
        const size_t hit = string_find(s, from, at);
        if (hit == SIZE_MAX)
            break;
        count -= count > 0;
        ok = text_add(&r->arena, &t, s->data + at, hit - at) &&
             text_add(&r->arena, &t, to->data, to->len);
        at = hit + from->len;
        if (from->len == 0) { /* between all characters, and at both ends */
            if (at >= s->len)
                break;
            const struct value_string rest = { .data = s->data + at, .len = s->len - at };
            const size_t n = string_offset(&rest, 1);
            ok = ok && text_add(&r->arena, &t, s->data + at, n);
            at += n;
        }
    }
    if (!ok || !text_add(&r->arena, &t, s->data + at, s->len - at))
        return jinja_no_memory(r);
    return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
}

static bool cased(uint32_t code)
{
    return (unicode_flags_of(code) & (UNICODE_UPPER | UNICODE_LOWER | UNICODE_TITLE)) != 0;
}

/* Whether the capital sigma at byte `at` ends a word: a cased letter before it, none after it. */
static bool sigma_is_final(const struct value_string *s, size_t at)
{
    size_t n = 0;
    uint32_t code = 0;
    bool before = false;
    for (size_t i = at; i > 0; i -= n) {
        code = unicode_decode_back(s->data, i, &n);
        if (!unicode_is(code, UNICODE_IGNORABLE)) {
            before = cased(code);
            break;
        }
    }
    if (!before)
        return false;
    for (size_t i = at + 2; i < s->len; i += n) {
        code = unicode_decode(s->data + i, &n);
        if (!unicode_is(code, UNICODE_IGNORABLE))
            return !cased(code);
    }
    return true;
}

bool string_case(struct jinja_run *r, const struct value_string *s, enum string_case how,
                 struct value *out)
{
    struct value_text t = { 0 };
    bool in_word = false;
    if (!jinja_step(r, 1 + (int64_t)(s->len / 8)))
        return false;
    for (size_t at = 0, n = 0; at < s->len; at += n) {
        const uint32_t code = unicode_decode(s->data + at, &n);
        uint32_t mapped[3];
        int count = 0;
        if (how == CASE_UPPER)
            count = unicode_upper(code, mapped);
        else if ((how == CASE_TITLE && !in_word) || (how == CASE_CAPITALIZE && at == 0))
            count = unicode_title(code, mapped);
        else
            count = unicode_lower(code, mapped);
        if (code == 0x3A3 && mapped[0] == 0x3C3 && sigma_is_final(s, at))
            mapped[0] = 0x3C2;
        in_word = cased(code);
        for (int i = 0; i < count; i++) {
            if (!text_add_code(&r->arena, &t, mapped[i]))
                return jinja_no_memory(r);
        }
    }
    return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
}

/* What ends a line for splitlines(): more than \n and \r. */
static bool ends_line(uint32_t code)
{
    return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

bool string_lines(struct jinja_run *r, const struct value_string *s, bool keep_ends,
                  struct value_list **out)
{
    struct value_list *lines = list_new(&r->arena, 0);
    if (!jinja_step(r, 1 + (int64_t)(s->len / 8)))
        return false;
    for (size_t at = 0; lines != NULL && at < s->len;) {
        size_t end = at, n = 0;
        while (end < s->len && !ends_line(unicode_decode(s->data + end, &n)))
            end += n;
        size_t next = end;
        if (next < s->len) {
            unicode_decode(s->data + next, &n);
            const bool cr = s->data[next] == '\r';
            next += n;
            next += cr && next < s->len && s->data[next] == '\n';
        }
        const struct value_string *line =
            string_point(&r->arena, s->data + at, (keep_ends ? next : end) - at);
        line = string_marked(r, line, s->safe);
        if (line == NULL || !list_push(&r->arena, lines, value_of_string(line)))
            lines = NULL;
        at = next;
    }
    *out = lines;
    return lines != NULL || jinja_no_memory(r);
}

/* side 0: center, -1: text at the left, 1: at the right. */
bool string_center(struct jinja_run *r, const struct value_string *s, int64_t width,
                   const struct value_string *fill, int side, struct value *out)
{
    const int64_t n = string_length(s);
    if (string_length(fill) != 1)
        return jinja_fail(r, "the fill character must be exactly one character long");
    if (width <= n)
        return give_string(r, s, out);
    const int64_t marg = width - n;
    const int64_t left = side < 0 ? 0 : side > 0 ? marg : marg / 2 + (marg & width & 1);
    struct value_text t = { 0 };
    if (!jinja_step(r, marg / 8 + 1))
        return false;
    if (!text_add_fill(&r->arena, &t, fill->data, fill->len, left) ||
        !text_add(&r->arena, &t, s->data, s->len) ||
        !text_add_fill(&r->arena, &t, fill->data, fill->len, marg - left))
        return jinja_no_memory(r);
    return give_string(r, string_marked(r, text_take(&r->arena, &t), s->safe), out);
}

bool string_all(const struct value_string *s, unsigned flags)
{
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        if ((unicode_flags_of(unicode_decode(s->data + at, &n)) & flags) == 0)
            return false;
    }
    return s->len > 0;
}

bool string_is_case(const struct value_string *s, bool upper)
{
    const unsigned good = upper ? UNICODE_UPPER : UNICODE_LOWER;
    const unsigned bad = UNICODE_TITLE | (unsigned)(upper ? UNICODE_LOWER : UNICODE_UPPER);
    bool any = false;
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        const unsigned flags = unicode_flags_of(unicode_decode(s->data + at, &n));
        if ((flags & bad) != 0)
            return false;
        any = any || (flags & good) != 0;
    }
    return any;
}
