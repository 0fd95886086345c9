#include "finetune/report/page.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/core/sha256.h"

/* ---- text ---- */

static const char REPLACEMENT[] = "\xEF\xBF\xBD";

static void put_ascii(struct text *page, char c)
{
    const unsigned char u = (unsigned char)c;
    if (c == '&')
        text_puts(page, "&amp;");
    else if (c == '<')
        text_puts(page, "&lt;");
    else if (c == '>')
        text_puts(page, "&gt;");
    else if (c == '"')
        text_puts(page, "&quot;");
    else if (c == '\'')
        text_puts(page, "&#39;");
    else if ((u < 0x20 && c != '\n' && c != '\t') || u == 0x7F)
        text_puts(page, REPLACEMENT);
    else
        text_append(page, &c, 1);
}

/* C1 controls, U+FFFE and U+FFFF, and what would turn around the text behind it (U+202D, U+202E).
 */
static bool is_refused(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n == 2)
        return u[0] == 0xC2 && u[1] < 0xA0;
    return n == 3 && ((u[0] == 0xEF && u[1] == 0xBF && u[2] >= 0xBE) ||
                      (u[0] == 0xE2 && u[1] == 0x80 && (u[2] == 0xAD || u[2] == 0xAE)));
}

/* Length of the well-formed character at s (n > 0 bytes left), or 0. */
static size_t character(const char *s, size_t n)
{
    const unsigned char c = (unsigned char)*s;
    if (c < 0x80)
        return 1;
    const size_t length = text_utf8_length(s);
    return c >= 0xC2 && length <= n && text_is_utf8(s, length, NULL) ? length : 0;
}

bool page_escaped_cut(struct text *page, const char *s, size_t limit)
{
    const size_t n = s == NULL ? 0 : strlen(s);
    size_t i = 0;
    while (i < n && i < limit) {
        const size_t length = character(s + i, n - i);
        if (length == 1)
            put_ascii(page, s[i]);
        else if (length == 0 || is_refused(s + i, length))
            text_puts(page, REPLACEMENT);
        else
            text_append(page, s + i, length);
        i += length > 0 ? length : 1;
    }
    if (i < n)
        text_puts(page, "...");
    return i >= n;
}

void page_escaped(struct text *page, const char *s)
{
    page_escaped_cut(page, s, SIZE_MAX);
}

/* ---- the page ---- */

static int hex_value(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void put_lines(struct text *page, const char *const *lines)
{
    for (; *lines != NULL; lines++)
        text_puts(page, *lines);
}

/* The script's digest as a Content-Security-Policy names it: base64 of SHA-256. */
static void put_script_digest(struct text *page)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    enum { THREES = (SHA256_BYTES + 2) / 3 };
    struct sha256 sha;
    char hex[SHA256_HEX_SIZE], out[4 * THREES + 1];
    sha256_init(&sha);
    for (const char *const *line = report_script; *line != NULL; line++)
        sha256_update(&sha, *line, strlen(*line));
    sha256_end(&sha, hex);
    unsigned bytes[3 * THREES] = { 0 };
    for (int i = 0; i < SHA256_BYTES; i++)
        bytes[i] = (unsigned)(hex_value(hex[2 * i]) * 16 + hex_value(hex[2 * i + 1]));
    for (int i = 0; i < THREES; i++) {
        const unsigned three = bytes[3 * i] << 16 | bytes[3 * i + 1] << 8 | bytes[3 * i + 2];
        for (int k = 0; k < 4; k++)
            out[4 * i + k] = digits[three >> (18 - 6 * k) & 63];
    }
    out[4 * THREES - 1] = '='; /* 33 bytes were encoded, of 32 */
    out[4 * THREES] = '\0';
    text_puts(page, out);
}

void page_begin(struct text *page, const char *title)
{
    text_puts(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n"
                    "<meta name=\"generator\" content=\"jambatune " JAMBATUNE_VERSION "\" />\n"
                    /* Nothing is fetched, and no script runs but ours. */
                    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                    "img-src data:; style-src 'unsafe-inline'; script-src 'sha256-");
    put_script_digest(page);
    text_puts(page, "'\" />\n<link rel=\"icon\" href=\"data:,\" />\n<title>");
    page_escaped(page, title);
    text_puts(page, "</title>\n<style>\n");
    put_lines(page, report_style);
    text_puts(page, "</style>\n</head>\n<body>\n"
                    "<svg width=\"0\" height=\"0\" class=\"marks\" aria-hidden=\"true\"><defs>"
                    "<path id=\"skipped\" d=\"M-5-1h10L0 7z\"/></defs></svg>\n");
}

void page_end(struct text *page)
{
    text_puts(page, "<script>");
    put_lines(page, report_script);
    text_puts(page, "</script>\n</body>\n</html>\n");
}

void page_section(struct text *page, const char *heading)
{
    text_puts(page, "<section>\n<h2>");
    page_escaped(page, heading);
    text_puts(page, "</h2>\n");
}

void page_section_end(struct text *page)
{
    text_puts(page, "</section>\n");
}

void page_table(struct text *page, const char *label, const char *classes)
{
    text_puts(page, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"");
    page_escaped(page, label);
    text_printf(page, "\"><table class=\"%s\">\n", classes);
}

void page_table_end(struct text *page)
{
    text_puts(page, "</table></div>\n");
}

void page_cell(struct text *page, const char *s)
{
    text_puts(page, "<td dir=\"auto\">");
    page_escaped(page, s);
    text_puts(page, "</td>");
}

void page_cell_number(struct text *page, const char *s)
{
    text_puts(page, "<td class=\"number\">");
    page_escaped(page, s);
    text_puts(page, "</td>");
}

void page_fact(struct text *page, const char *name, const char *value)
{
    text_puts(page, "<tr><th scope=\"row\">");
    page_escaped(page, name);
    text_puts(page, "</th>");
    page_cell(page, value);
    text_puts(page, "</tr>\n");
}

/* ---- numbers ---- */

void page_number(char out[PAGE_NUMBER_SIZE], double v)
{
    const double size = fabs(v);
    if (isnan(v))
        snprintf(out, PAGE_NUMBER_SIZE, "NaN");
    else if (isinf(v))
        snprintf(out, PAGE_NUMBER_SIZE, v > 0 ? "infinity" : "-infinity");
    else if (v == 0)
        snprintf(out, PAGE_NUMBER_SIZE, "0");
    else if (size < 1e-3 || size >= 1e6)
        snprintf(out, PAGE_NUMBER_SIZE, "%.3g", v);
    else
        snprintf(out, PAGE_NUMBER_SIZE, "%.*f", size < 10 ? 4 : size < 1000 ? 2 : 0, v);
}

void page_quantity(char out[PAGE_NUMBER_SIZE], double v)
{
    static const char *const units[] = { "", " thousand", " million", " billion", " trillion" };
    char digits[32];
    if (!isfinite(v) || fabs(v) >= 1e18) {
        page_number(out, v);
    } else if (fabs(v) < 10 && v != floor(v)) {
        snprintf(out, PAGE_NUMBER_SIZE, "%.2f", v);
    } else if (fabs(v) < 1e6) {
        text_count(digits, (int64_t)llround(v));
        snprintf(out, PAGE_NUMBER_SIZE, "%s", digits);
    } else {
        int unit = 0;
        for (; fabs(v) >= 1000 && unit < 4; unit++)
            v /= 1000;
        snprintf(out, PAGE_NUMBER_SIZE, "%.*f%s",
                 fabs(v) < 10    ? 2
                 : fabs(v) < 100 ? 1
                                 : 0,
                 v, units[unit]);
    }
}

void page_duration(char out[PAGE_NUMBER_SIZE], double seconds)
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e12) {
        page_number(out, seconds);
        return;
    }
    const int64_t s = (int64_t)seconds;
    if (seconds < 10)
        snprintf(out, PAGE_NUMBER_SIZE, "%.*f s", seconds < 1 ? 3 : 1, seconds);
    else if (s < 60)
        snprintf(out, PAGE_NUMBER_SIZE, "%" PRId64 " s", s);
    else if (s < 3600)
        snprintf(out, PAGE_NUMBER_SIZE, "%" PRId64 " min %02" PRId64 " s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, PAGE_NUMBER_SIZE, "%" PRId64 " h %02" PRId64 " min", s / 3600, s / 60 % 60);
    else
        snprintf(out, PAGE_NUMBER_SIZE, "%" PRId64 " d %02" PRId64 " h", s / 86400, s / 3600 % 24);
}

void page_bytes(char out[PAGE_NUMBER_SIZE], double bytes)
{
    char text[32];
    if (!isfinite(bytes) || fabs(bytes) > 1e18) {
        page_number(out, bytes);
        return;
    }
    text_bytes(text, bytes);
    snprintf(out, PAGE_NUMBER_SIZE, "%s", text);
}
