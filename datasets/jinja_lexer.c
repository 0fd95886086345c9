/* What jinja2's lexer does by regular expressions, by hand:
 *
 *   text   up to the next {{, {%, {# ; "-" strips the text's end, a block or comment alone on its
 *          line takes the blanks before it along (lstrip_blocks) unless marked "+"
 *   tags   names, numbers, strings, operators; }} and %} end them only outside of brackets
 *   ends   "-" takes all blanks after the tag, %} and #} take one newline (trim_blocks) unless "+"
 */
#include "datasets/jinja_lexer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja_unicode.h"
#include "kernels/core/text.h"

enum { MAX_BRACKETS = 256 };

struct lexer {
    struct jinja_arena *arena;
    const char *text;
    size_t n, at;
    const char *name;
    struct token_list *tokens;
    struct err *err;
    /* line and column of `marked`: tokens ask in order */
    size_t marked;
    int32_t line, column;
    bool line_start; /* what was taken last ended a line */
    char brackets[MAX_BRACKETS];
    int n_bracket;
};

static void locate(struct lexer *x, size_t at)
{
    for (; x->marked < at; x->marked++) {
        const unsigned char c = (unsigned char)x->text[x->marked];
        if (c == '\n') {
            x->line++;
            x->column = 1;
        } else if ((c & 0xC0) != 0x80) {
            x->column++;
        }
    }
}

static bool fail(struct lexer *x, size_t at, const char *what)
{
    locate(x, at);
    return err_set(x->err, ERR_DATA, "%s:%d:%d: %s", x->name, (int)x->line, (int)x->column, what);
}

static struct token *push(struct lexer *x, enum token_kind kind, size_t at)
{
    struct token_list *list = x->tokens;
    if (list->n == list->cap) {
        const size_t cap = list->cap < 64 ? 64 : list->cap * 2;
        struct token *grown = jinja_take_array(x->arena, cap, sizeof *grown);
        if (grown == NULL) {
            err_no_memory(x->err, x->name);
            return NULL;
        }
        if (list->n > 0)
            memcpy(grown, list->at, list->n * sizeof *grown);
        list->at = grown;
        list->cap = cap;
    }
    locate(x, at);
    struct token *t = &list->at[list->n++];
    *t = (struct token){ .kind = kind, .line = x->line, .column = x->column };
    return t;
}

static bool push_string(struct lexer *x, enum token_kind kind, size_t at, const char *bytes,
                        size_t n)
{
    struct token *t = push(x, kind, at);
    if (t == NULL)
        return false;
    t->value = value_of_string(string_point(x->arena, bytes, n));
    return t->value.as.string != NULL || err_no_memory(x->err, x->name);
}

static bool ahead(const struct lexer *x, size_t at, const char *what)
{
    const size_t n = strlen(what);
    return x->n - at >= n && memcmp(x->text + at, what, n) == 0;
}

static bool space_at(const struct lexer *x, size_t at, size_t *n)
{
    return at < x->n && unicode_is(unicode_decode(x->text + at, n), UNICODE_SPACE);
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    size_t n = 0;
    while (space_at(x, at, &n))
        at += n;
    return at;
}

/* Moves past a tag's end, which starts at x->at ("-%}", "%}", ...) and is `n` bytes long. */
static void end_tag(struct lexer *x, size_t n, char sign, bool trims)
{
    x->at += n;
    if (sign == '-')
        x->at = skip_space(x, x->at);
    else if (sign != '+' && trims && x->at < x->n && x->text[x->at] == '\n')
        x->at++;
    x->line_start = x->text[x->at - 1] == '\n';
}

/* The text before a tag, with the blanks that the tag takes from it. */
static bool push_data(struct lexer *x, size_t start, size_t end, char sign, bool strips_line)
{
    if (sign == '-') {
        while (end > start) {
            size_t n = 0;
            if (!unicode_is(unicode_decode_back(x->text + start, end - start, &n), UNICODE_SPACE))
                break;
            end -= n;
        }
    } else if (sign != '+' && strips_line) {
        size_t line = end;
        while (line > start && x->text[line - 1] != '\n')
            line--;
        if ((line > start || x->line_start) && skip_space(x, line) >= end)
            end = line;
    }
    return end == start || push_string(x, TOKEN_DATA, start, x->text + start, end - start);
}

/* Whether the "{%" at `at` begins a raw block; *end is where its content starts. */
static bool is_raw(const struct lexer *x, size_t at, size_t *end)
{
    at += 2;
    if (at < x->n && (x->text[at] == '-' || x->text[at] == '+'))
        at++;
    at = skip_space(x, at);
    if (!ahead(x, at, "raw"))
        return false;
    at = skip_space(x, at + 3);
    if (ahead(x, at, "-%}"))
        *end = skip_space(x, at + 3);
    else if (ahead(x, at, "%}"))
        *end = at + 2;
    else
        return false;
    return true;
}

static char sign_at(const struct lexer *x, size_t at)
{
    return at < x->n && (x->text[at] == '-' || x->text[at] == '+') ? x->text[at] : 0;
}

/* From the content of a raw block to behind its end. */
static bool lex_raw(struct lexer *x, size_t start)
{
    const size_t begin = x->at;
    x->line_start = x->text[start - 1] == '\n';
    for (size_t at = start; at + 1 < x->n; at++) {
        if (!ahead(x, at, "{%"))
            continue;
        const char sign = sign_at(x, at + 2);
        size_t end = skip_space(x, at + 2 + (sign != 0));
        if (!ahead(x, end, "endraw"))
            continue;
        end = skip_space(x, end + 6);
        const char close = sign_at(x, end);
        if (!ahead(x, end + (close != 0), "%}"))
            continue;
        if (!push_data(x, start, at, sign, true))
            return false;
        x->at = end;
        end_tag(x, 2u + (close != 0), close, true);
        return true;
    }
    x->at = x->n;
    return start == x->n || fail(x, begin, "missing end of raw directive"); /* as jinja2 has it */
}

static bool lex_comment(struct lexer *x)
{
    const size_t begin = x->at, start = begin + 2 + (sign_at(x, begin + 2) != 0);
    for (size_t at = start; at < x->n; at++) {
        const char close = sign_at(x, at);
        if (!ahead(x, at + (close != 0), "#}"))
            continue;
        x->at = at;
        end_tag(x, 2u + (close != 0), close, true);
        return true;
    }
    x->at = x->n;
    return start == x->n || fail(x, begin, "missing end of comment tag"); /* as jinja2 has it */
}

/* One number at x->at. A float needs a digit on each side of its point, or an exponent. */
static size_t digits(const struct lexer *x, size_t at)
{
    const size_t start = at;
    while (at < x->n &&
           ((x->text[at] >= '0' && x->text[at] <= '9') ||
            (x->text[at] == '_' && at > start && at + 1 < x->n && x->text[at - 1] != '_' &&
             x->text[at + 1] >= '0' && x->text[at + 1] <= '9')))
        at++;
    return at;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

static size_t float_end(const struct lexer *x, size_t start)
{
    if (start > 0 && x->text[start - 1] == '.')
        return start;
    size_t end = digits(x, start), found = start;
    if (end < x->n && x->text[end] == '.' && digits(x, end + 1) > end + 1)
        found = end = digits(x, end + 1);
    if (end < x->n && (x->text[end] == 'e' || x->text[end] == 'E')) {
        const size_t sign = end + 1 < x->n && (x->text[end + 1] == '+' || x->text[end + 1] == '-');
        if (digits(x, end + 1 + sign) > end + 1 + sign)
            found = digits(x, end + 1 + sign);
    }
    return found;
}

static bool lex_float(struct lexer *x, size_t end)
{
    char buffer[400];
    size_t n = 0;
    for (size_t i = x->at; i < end; i++) {
        if (x->text[i] == '_')
            continue;
        if (n + 1 == sizeof buffer)
            return fail(x, x->at, "number is too long");
        buffer[n++] = x->text[i];
    }
    buffer[n] = 0;
    const double real = strtod(buffer, NULL);
    if (!isfinite(real))
        return fail(x, x->at, "number is too large");
    struct token *t = push(x, TOKEN_CONST, x->at);
    if (t == NULL)
        return false;
    t->value = value_float(real);
    x->at = end;
    return true;
}

static bool lex_integer(struct lexer *x)
{
    const char *s = x->text;
    size_t at = x->at;
    const char c = at + 1 < x->n ? s[at + 1] : 0;
    int base = 10;
    if (s[at] == '0')
        base = c == 'x' || c == 'X' ? 16 : c == 'o' || c == 'O' ? 8 : c == 'b' || c == 'B' ? 2 : 10;
    const bool zero = base == 10 && s[at] == '0'; /* only more zeros belong to a zero */
    if (base != 10) {
        const size_t first = at + 2 + (at + 2 < x->n && s[at + 2] == '_');
        if (first >= x->n || digit_value(s[first]) >= base)
            base = 10; /* "0x" alone is 0 and a name */
        else
            at = first;
    }
    int64_t v = 0;
    for (;; at++) {
        if (at < x->n && at > x->at && s[at] == '_' && at + 1 < x->n &&
            digit_value(s[at + 1]) < (zero ? 1 : base))
            at++;
        if (at >= x->n || digit_value(s[at]) >= (zero ? 1 : base))
            break;
        if (__builtin_mul_overflow(v, base, &v) ||
            __builtin_add_overflow(v, digit_value(s[at]), &v))
            return fail(x, x->at, "integers beyond 64 bits are not supported");
    }
    if (at == x->at) /* "0x": the zero */
        at++;
    struct token *t = push(x, TOKEN_CONST, x->at);
    if (t == NULL)
        return false;
    t->value = value_int(v);
    x->at = at;
    return true;
}

/* \x41, \u0041, \U00000041 */
static bool escape_code(struct lexer *x, size_t at, size_t end, int n_digit, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < n_digit; i++, at++) {
        if (at >= end || digit_value(x->text[at]) > 15)
            return fail(x, x->at, "truncated escape in string");
        *code = *code << 4 | (uint32_t)digit_value(x->text[at]);
    }
    if (*code > 0x10FFFF || (*code >= 0xD800 && *code <= 0xDFFF))
        return fail(x, x->at, "escape in string is not a character");
    return true;
}

/* One escape, text[at - 1] being the backslash; *next is behind it. */
static bool unescape(struct lexer *x, size_t at, size_t end, struct value_text *t, size_t *next)
{
    static const char plain[] = "n\nt\tr\ra\ab\bf\fv\v\\\\''\"\"";
    const char c = x->text[at];
    *next = at + 1;
    for (const char *p = plain; *p != 0; p += 2) {
        if (c == *p)
            return text_add(x->arena, t, p + 1, 1) || err_no_memory(x->err, x->name);
    }
    uint32_t code = 0;
    const int n_digit = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    char spelled[16];
    if (c == '\n')
        return true;
    if (n_digit != 0) {
        *next = at + 1 + (size_t)n_digit;
        return escape_code(x, at + 1, end, n_digit, &code) &&
               (text_add_code(x->arena, t, code) || err_no_memory(x->err, x->name));
    }
    if (c == 'N')
        return fail(x, x->at, "\\N{...} in a string is not supported");
    if (c >= '0' && c <= '7') {
        for (*next = at; *next < end && *next < at + 3 && digit_value(x->text[*next]) < 8; ++*next)
            code = code << 3 | (uint32_t)digit_value(x->text[*next]);
        return text_add_code(x->arena, t, code) || err_no_memory(x->err, x->name);
    }
    if ((unsigned char)c < 0x80) {
        snprintf(spelled, sizeof spelled, "\\%c", c);
    } else { /* jinja2 escapes such a character first, and so doubles its backslash */
        size_t n = 0;
        code = unicode_decode(x->text + at, &n);
        *next = at + n;
        const char *format = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
        switch (format[1]) {
        case 'x':
            snprintf(spelled, sizeof spelled, "\\x%02x", code);
            break;
        case 'u':
            snprintf(spelled, sizeof spelled, "\\u%04x", code);
            break;
        default:
            snprintf(spelled, sizeof spelled, "\\U%08x", code);
        }
    }
    return text_add_string(x->arena, t, spelled) || err_no_memory(x->err, x->name);
}

static bool lex_string(struct lexer *x)
{
    const char quote = x->text[x->at];
    size_t end = x->at + 1;
    bool plain = true;
    for (; end < x->n && x->text[end] != quote; end++) {
        if (x->text[end] == '\\') {
            plain = false;
            end++;
        }
    }
    if (end >= x->n)
        return fail(x, x->at,
                    quote == '"' ? "unexpected char '\"': the string does not end"
                                 : "unexpected char \"'\": the string does not end");
    const size_t start = x->at + 1;
    if (plain) {
        if (!push_string(x, TOKEN_STRING, x->at, x->text + start, end - start))
            return false;
        x->at = end + 1;
        return true;
    }
    struct value_text t = { 0 };
    for (size_t at = start; at < end;) {
        if (x->text[at] != '\\') {
            if (!text_add(x->arena, &t, x->text + at, 1))
                return err_no_memory(x->err, x->name);
            at++;
        } else if (!unescape(x, at + 1, end, &t, &at)) {
            return false;
        }
    }
    if (!push_string(x, TOKEN_STRING, x->at, t.data, t.len))
        return false;
    x->at = end + 1;
    return true;
}

/* Longer spellings first. */
static const struct {
    const char *text;
    enum token_kind kind;
} operators[] = {
    { "//", TOKEN_FLOORDIV }, { "**", TOKEN_POW },      { "==", TOKEN_EQ },
    { "!=", TOKEN_NE },       { ">=", TOKEN_GE },       { "<=", TOKEN_LE },
    { "+", TOKEN_ADD },       { "-", TOKEN_SUB },       { "/", TOKEN_DIV },
    { "*", TOKEN_MUL },       { "%", TOKEN_MOD },       { "~", TOKEN_TILDE },
    { "[", TOKEN_LBRACKET },  { "]", TOKEN_RBRACKET },  { "(", TOKEN_LPAREN },
    { ")", TOKEN_RPAREN },    { "{", TOKEN_LBRACE },    { "}", TOKEN_RBRACE },
    { ">", TOKEN_GT },        { "<", TOKEN_LT },        { "=", TOKEN_ASSIGN },
    { ".", TOKEN_DOT },       { ":", TOKEN_COLON },     { "|", TOKEN_PIPE },
    { ",", TOKEN_COMMA },     { ";", TOKEN_SEMICOLON },
};

static bool lex_operator(struct lexer *x)
{
    char message[96];
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        const char *text = operators[i].text;
        if (!ahead(x, x->at, text))
            continue;
        const char c = text[0];
        if (c == '{' || c == '(' || c == '[') {
            if (x->n_bracket == MAX_BRACKETS)
                return fail(x, x->at, "brackets are nested too deep");
            x->brackets[x->n_bracket++] = c == '{' ? '}' : c == '(' ? ')' : ']';
        } else if (c == '}' || c == ')' || c == ']') {
            if (x->n_bracket == 0) {
                snprintf(message, sizeof message, "unexpected '%c'", c);
                return fail(x, x->at, message);
            }
            if (x->brackets[--x->n_bracket] != c) {
                snprintf(message, sizeof message, "unexpected '%c', expected '%c'", c,
                         x->brackets[x->n_bracket]);
                return fail(x, x->at, message);
            }
        }
        if (push(x, operators[i].kind, x->at) == NULL)
            return false;
        x->at += strlen(text);
        return true;
    }
    size_t n = 0;
    unicode_decode(x->text + x->at, &n);
    snprintf(message, sizeof message, "unexpected char '%.*s'%s", (int)n, x->text + x->at,
             n > 1 ? " (names have ASCII letters, digits and '_')" : "");
    return fail(x, x->at, message);
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* A tag's inside and its end; `close` is "}}" or "%}". */
static bool lex_tag(struct lexer *x, const char *close)
{
    const bool block = close[0] == '%';
    x->n_bracket = 0;
    while (x->at < x->n) {
        const char c = x->text[x->at];
        const char sign = c == '-' || (c == '+' && block) ? c : 0;
        size_t n = 0;
        if (x->n_bracket == 0 && ahead(x, x->at + (sign != 0), close)) {
            if (push(x, block ? TOKEN_BLOCK_END : TOKEN_PRINT_END, x->at) == NULL)
                return false;
            end_tag(x, 2u + (sign != 0), sign, block);
            return true;
        }
        if (space_at(x, x->at, &n)) {
            x->at += n;
        } else if (c >= '0' && c <= '9') {
            const size_t end = float_end(x, x->at);
            if (!(end > x->at ? lex_float(x, end) : lex_integer(x)))
                return false;
        } else if (name_char(c)) {
            size_t end = x->at;
            while (end < x->n && name_char(x->text[end]))
                end++;
            if (!push_string(x, TOKEN_NAME, x->at, x->text + x->at, end - x->at))
                return false;
            x->at = end;
        } else if (c == '\'' || c == '"') {
            if (!lex_string(x))
                return false;
        } else if (!lex_operator(x)) {
            return false;
        }
    }
    return true; /* the parser misses the end, and says so */
}

/* Text up to the next tag, and the tag. */
static bool lex_root(struct lexer *x)
{
    const size_t start = x->at;
    size_t at = start, raw = 0;
    for (; at + 1 < x->n; at++) {
        if (x->text[at] == '{' &&
            (x->text[at + 1] == '{' || x->text[at + 1] == '%' || x->text[at + 1] == '#'))
            break;
    }
    if (at + 1 >= x->n) {
        x->at = x->n;
        return push_string(x, TOKEN_DATA, start, x->text + start, x->n - start);
    }
    const char kind = x->text[at + 1], sign = sign_at(x, at + 2);
    if (!push_data(x, start, at, sign, kind != '{'))
        return false;
    x->at = at;
    if (kind == '#')
        return lex_comment(x);
    if (kind == '%' && is_raw(x, at, &raw))
        return lex_raw(x, raw);
    if (push(x, kind == '{' ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN, at) == NULL)
        return false;
    x->at += 2u + (sign != 0);
    x->line_start = false;
    return lex_tag(x, kind == '{' ? "}}" : "%}");
}

/* The text with "\n" for every line end, and without the last one. */
static char *normalize(struct jinja_arena *a, const char *text, size_t *n)
{
    char *out = jinja_take(a, *n + 1);
    if (out == NULL)
        return NULL;
    size_t m = 0;
    for (size_t i = 0; i < *n; i++) {
        if (text[i] == '\r') {
            out[m++] = '\n';
            i += i + 1 < *n && text[i + 1] == '\n';
        } else {
            out[m++] = text[i];
        }
    }
    if (m > 0 && out[m - 1] == '\n')
        m--;
    *n = m;
    return out;
}

bool jinja_tokenize(struct jinja_arena *a, const char *text, size_t n, const char *name,
                    struct token_list *tokens, struct err *err)
{
    text = normalize(a, text, &n);
    if (text == NULL)
        return err_no_memory(err, name);
    struct lexer x = {
        .arena = a,
        .text = text,
        .n = n,
        .name = name,
        .tokens = tokens,
        .err = err,
        .line = 1,
        .column = 1,
        .line_start = true,
    };
    while (x.at < n) {
        if (!lex_root(&x))
            return false;
    }
    return push(&x, TOKEN_END, n) != NULL;
}

const char *token_describe(const struct token *t, char buffer[64])
{
    switch (t->kind) {
    case TOKEN_NAME:
        snprintf(buffer, 64, "%.*s",
                 t->value.as.string->len > 60 ? 60 : (int)t->value.as.string->len,
                 t->value.as.string->data);
        return buffer;
    case TOKEN_DATA:
        return "template data / text";
    case TOKEN_PRINT_BEGIN:
        return "begin of print statement";
    case TOKEN_PRINT_END:
        return "end of print statement";
    case TOKEN_BLOCK_BEGIN:
        return "begin of statement block";
    case TOKEN_BLOCK_END:
        return "end of statement block";
    case TOKEN_CONST:
        return t->value.kind == VALUE_INT ? "integer" : "float";
    case TOKEN_STRING:
        return "string";
    case TOKEN_END:
        return "end of template";
    default:
        for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
            if (operators[i].kind == t->kind)
                return operators[i].text;
        }
        return "token";
    }
}
