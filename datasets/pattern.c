#include "datasets/pattern.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "kernels/core/text.h"

enum { MATCH_LIMIT = 5000000, HEAP_LIMIT_KIB = 65536, REPEAT_DIGITS = 3 };

void pattern_free(struct pattern *p)
{
    free(p->literal);
    pcre2_code_free(p->code);
    pcre2_match_context_free(p->limit);
    *p = (struct pattern){ 0 };
}

bool pattern_init_literal(struct pattern *p, const char *bytes, size_t n, struct err *err)
{
    *p = (struct pattern){ .literal = text_copy_n(bytes, n), .literal_n = n };
    return p->literal != NULL || err_no_memory(err, "pattern");
}

static bool compile(struct pattern *p, const char *regex, uint32_t options, const char *place,
                    struct err *err)
{
    *p = (struct pattern){ 0 };
    int code = 0;
    PCRE2_SIZE at = 0;
    p->code = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | options, &code, &at, NULL);
    p->limit = pcre2_match_context_create(NULL);
    if (p->code == NULL && code != PCRE2_ERROR_HEAP_FAILED) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(err, ERR_DATA, "%s: is not a regular expression: %s", place,
                       (const char *)why);
    }
    if (p->code == NULL || p->limit == NULL)
        return err_no_memory(err, place);
    pcre2_set_match_limit(p->limit, MATCH_LIMIT);
    pcre2_set_heap_limit(p->limit, HEAP_LIMIT_KIB);
    return true;
}

bool pattern_init_class(struct pattern *p, const char *class, const char *place, struct err *err)
{
    return compile(p, class, 0, place, err);
}

/* What Oniguruma's classes contain, spelled for the inside of a PCRE2 class. (PCRE2's own \s and \w
 * differ: \s has U+180E, \w lacks marks and connectors.) */
static const char *class_members(char c)
{
    switch (c) {
    case 's':
        return "\\x{9}-\\x{D}\\x{85}\\p{Zl}\\p{Zp}\\p{Zs}";
    case 'w':
        return "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
    case 'd':
        return "\\p{Nd}";
    default:
        return NULL;
    }
}

/* Copies \p{L}, \P{Lu}, \p{^N}: names of one or two letters are general categories in both. */
static size_t translate_property(const char *s, struct text *out)
{
    if (s[2] != '{')
        return 0;
    const size_t n = strspn(s + 3, "^LMNPSZCcdefiklmnopstu");
    const size_t name = n - (s[3] == '^');
    if (s[3 + n] != '}' || name < 1 || name > 2)
        return 0;
    text_append(out, s, 4 + n);
    return 4 + n;
}

/* Translates the escape at s; 0 when it is not one that both know. */
static size_t translate_escape(const char *s, bool in_class, struct text *out)
{
    const char c = s[1];
    if (c == 'p' || c == 'P')
        return translate_property(s, out);
    if (class_members(c) != NULL && in_class) {
        text_puts(out, class_members(c));
        return 2;
    }
    const bool negated = c == 'S' || c == 'W' || c == 'D';
    const char name = negated ? (char)(c - 'A' + 'a') : c;
    if (class_members(name) != NULL && !in_class) {
        /* Outside a class, Oniguruma's \w also has the superscripts and fractions of Latin-1. */
        text_printf(out, "[%s%s%s]", negated ? "^" : "", class_members(name),
                    name == 'w' ? "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" : "");
        return 2;
    }
    if (c == '\0' || strchr("tnr!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", c) == NULL)
        return 0;
    text_append(out, s, 2);
    return 2;
}

/* The length of what opens a group at s: '(' alone, or a kind that both know. */
static size_t group_open(const char *s)
{
    static const char *const kinds[] = { "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:" };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (text_starts_with(s, kinds[i]))
            return strlen(kinds[i]);
    }
    return s[1] == '?' || s[1] == '*' ? 0 : 1;
}

/* The length of {n}, {n,} or {n,m} at s, or 0. What may follow differs: {n}+ repeats in Ruby's
 * syntax. Below 1000: characters counted off are no steps. */
static size_t repeat_count(const char *s)
{
    const size_t digits = strspn(s + 1, "0123456789");
    size_t n = 1 + digits;
    if (s[n] == ',')
        n += 1 + strspn(s + n + 1, "0123456789");
    const size_t more = n - 1 - digits;
    if (digits == 0 || digits > REPEAT_DIGITS || more > 1 + REPEAT_DIGITS || s[n] != '}')
        return 0;
    n++;
    return s[n] != '\0' && strchr("+?*{", s[n]) != NULL ? 0 : n;
}

/* Translates the construct at s; the number of bytes read, 0 when it is not supported. */
static size_t translate_one(const char *s, bool *in_class, struct text *out)
{
    size_t n = text_utf8_length(s);
    if (*s == '\\')
        return translate_escape(s, *in_class, out);
    if (*in_class) {
        if (*s == '[' || (s[0] == '&' && s[1] == '&'))
            return 0; /* nested classes and intersections are Ruby's only */
        *in_class = *s != ']';
    } else if (*s == '[') {
        n = s[1] == '^' ? 2 : 1;
        if (s[n] == ']')
            return 0;
        *in_class = true;
    } else if (*s == '(') {
        n = group_open(s);
    } else if (*s == '{') {
        n = repeat_count(s);
    } else if (*s == '^' || *s == '$') {
        return 0; /* edges of lines in Ruby's syntax, of the text in PCRE2's */
    }
    text_append(out, s, n);
    return n;
}

bool pattern_init_regex(struct pattern *p, const char *regex, const char *place, struct err *err)
{
    *p = (struct pattern){ 0 };
    struct text out = { 0 };
    bool in_class = false;
    text_puts(&out, "(*LF)"); /* the dot excludes the line feed alone */
    for (const char *s = regex; *s != '\0';) {
        const size_t n = translate_one(s, &in_class, &out);
        if (n == 0) {
            text_free(&out);
            return err_set(
                err, ERR_DATA,
                "%s: the regular expression '%s' has at byte %zu a construct that is not supported",
                place, regex, (size_t)(s - regex));
        }
        s += n;
    }
    const bool ok = out.failed ? err_no_memory(err, place)
                               : compile(p, out.data, PCRE2_AUTO_CALLOUT, place, err);
    text_free(&out);
    if (!ok)
        return false;
    uint32_t matches_empty = 0;
    pcre2_pattern_info(p->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    return matches_empty == 0 ||
           err_set(err, ERR_DATA, "%s: the regular expression '%s' can match nothing at all", place,
                   regex);
}

const char *pattern_find_bytes(const char *bytes, size_t n, const char *pattern, size_t m)
{
    const char *end = bytes + n;
    while ((size_t)(end - bytes) >= m) {
        bytes = memchr(bytes, pattern[0], (size_t)(end - bytes) - m + 1);
        if (bytes == NULL || memcmp(bytes, pattern, m) == 0)
            return bytes;
        bytes++;
    }
    return NULL;
}

/* PCRE2's own limit is on one start of a match, and counts neither further starts nor the
 * characters of a repetition: "\w+!" on a long word is quadratic within it. So steps are counted at
 * each item of the expression (PCRE2_AUTO_CALLOUT), with the characters that the one before went
 * over. */
struct counter {
    int64_t *left;
    size_t at;
};

static int count_step(pcre2_callout_block *block, void *data)
{
    struct counter *c = data;
    const size_t at = block->current_position;
    *c->left -= 1 + (at > c->at ? (int64_t)(at - c->at) : 0);
    c->at = at;
    return *c->left < 0 ? PCRE2_ERROR_MATCHLIMIT : 0;
}

static bool find_regex(const struct pattern *p, const char *bytes, size_t n, size_t from,
                       int64_t *steps, struct pattern_match *m, struct err *err)
{
    struct counter counter = { .left = steps, .at = from };
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limit = pcre2_match_context_copy(p->limit);
    int rc = PCRE2_ERROR_NOMEMORY;
    if (data != NULL && limit != NULL) {
        if (steps != NULL)
            pcre2_set_callout(limit, count_step, &counter);
        rc = pcre2_match(p->code, (PCRE2_SPTR)bytes, n, from, PCRE2_NO_UTF_CHECK, data, limit);
    }
    if (rc >= 0) {
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(data);
        *m = (struct pattern_match){ true, span[0], span[1] };
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(limit);
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return true;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return err_no_memory(err, "a regular expression");
    return err_set(err, ERR_DATA,
                   "a regular expression of the pre-tokenizer takes too many steps on a text of "
                   "%zu bytes",
                   n);
}

bool pattern_find(const struct pattern *p, const char *bytes, size_t n, size_t from, int64_t *steps,
                  struct pattern_match *m, struct err *err)
{
    *m = (struct pattern_match){ 0 };
    if (p->literal == NULL)
        return find_regex(p, bytes, n, from, steps, m, err);
    const char *hit = pattern_find_bytes(bytes + from, n - from, p->literal, p->literal_n);
    if (hit != NULL)
        *m = (struct pattern_match){ true, (size_t)(hit - bytes),
                                     (size_t)(hit - bytes) + p->literal_n };
    return true;
}
