#include "datasets/jinja_unicode.h"

#include "datasets/jinja_unicode_tables.h"
#include "kernels/core/text.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

unsigned unicode_flags_of(uint32_t code)
{
    size_t low = 0, high = COUNT(unicode_flags); /* the row is in [low, high) */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (unicode_flags[middle] >> 10 <= code)
            low = middle;
        else
            high = middle;
    }
    return unicode_flags[low] & 1023u;
}

bool unicode_is(uint32_t code, enum unicode_flag flag)
{
    return (unicode_flags_of(code) & (unsigned)flag) != 0;
}

int unicode_decimal(uint32_t code)
{
    if (code < 128)
        return code >= '0' && code <= '9' ? (int)(code - '0') : -1;
    if (!unicode_is(code, UNICODE_DECIMAL))
        return -1;
    /* Decimal digits come in runs of ten; runs may touch. */
    uint32_t first = code;
    while (unicode_is(first - 1, UNICODE_DECIMAL))
        first--;
    return (int)((code - first) % 10);
}

static int mapped(uint32_t code, const struct case_range *ranges, size_t n_range,
                  const struct case_special *specials, size_t n_special, uint32_t out[3])
{
    for (size_t i = 0; i < n_special; i++) {
        if (specials[i].code != code)
            continue;
        int n = 0;
        for (; n < 3 && specials[i].mapped[n] != 0; n++)
            out[n] = specials[i].mapped[n];
        return n;
    }
    size_t low = 0, high = n_range;
    while (low < high) { /* the first range that ends at or after code */
        const size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    out[0] = code;
    if (low < n_range && code >= ranges[low].first &&
        (code - ranges[low].first) % ranges[low].step == 0)
        out[0] = (uint32_t)((int32_t)code + ranges[low].delta);
    return 1;
}

int unicode_upper(uint32_t code, uint32_t out[3])
{
    if (code < 128) {
        out[0] = code >= 'a' && code <= 'z' ? code - 32 : code;
        return 1;
    }
    return mapped(code, unicode_upper_ranges, COUNT(unicode_upper_ranges), unicode_upper_special,
                  COUNT(unicode_upper_special), out);
}

int unicode_lower(uint32_t code, uint32_t out[3])
{
    if (code < 128) {
        out[0] = code >= 'A' && code <= 'Z' ? code + 32 : code;
        return 1;
    }
    return mapped(code, unicode_lower_ranges, COUNT(unicode_lower_ranges), unicode_lower_special,
                  COUNT(unicode_lower_special), out);
}

int unicode_title(uint32_t code, uint32_t out[3])
{
    if (code < 128)
        return unicode_upper(code, out);
    return mapped(code, unicode_title_ranges, COUNT(unicode_title_ranges), unicode_title_special,
                  COUNT(unicode_title_special), out);
}

uint32_t unicode_decode(const char *s, size_t *n)
{
    const unsigned char *u = (const unsigned char *)s;
    *n = text_utf8_length(s);
    switch (*n) {
    case 1:
        return u[0];
    case 2:
        return (u[0] & 31u) << 6 | (u[1] & 63u);
    case 3:
        return (u[0] & 15u) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u);
    default:
        return (u[0] & 7u) << 18 | (u[1] & 63u) << 12 | (u[2] & 63u) << 6 | (u[3] & 63u);
    }
}

uint32_t unicode_decode_back(const char *s, size_t end, size_t *n)
{
    size_t start = end - 1;
    while (start > 0 && ((unsigned char)s[start] & 0xC0) == 0x80)
        start--;
    return unicode_decode(s + start, n);
}

size_t unicode_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}
