#include "recipes/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

static bool list_add(struct recipe_text_list *list, char *item)
{
    if (list->n == list->cap) {
        const int64_t cap = 2 * list->cap + 8;
        char **grown = realloc(list->item, (size_t)cap * sizeof *grown);
        if (grown == NULL)
            return false;
        list->item = grown;
        list->cap = cap;
    }
    list->item[list->n++] = item;
    return true;
}

static void list_free(struct recipe_text_list *list)
{
    for (int64_t i = 0; i < list->n; i++)
        free(list->item[i]);
    free(list->item);
    *list = (struct recipe_text_list){ 0 };
}

void recipe_report_free(struct recipe_report *report)
{
    list_free(&report->errors);
    list_free(&report->notes);
    *report = (struct recipe_report){ 0 };
}

void report_clean(char *s)
{
    size_t n = strlen(s), bad = 0;
    for (size_t at = 0; !text_is_utf8(s + at, n - at, &bad); at += bad + 1)
        s[at + bad] = '?';
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i], next = (unsigned char)s[i + 1];
        if (c < 0x20 || c == 0x7F)
            s[i] = '?';
        if (c == 0xC2 && next < 0xA0) /* U+0080 to U+009F, the C1 controls */
            s[i] = s[i + 1] = '?';
        if (c == 0xE2 && next == 0x80 && ((unsigned char)s[i + 2] & 0xFE) == 0xA8)
            s[i] = s[i + 1] = s[i + 2] = '?'; /* U+2028 and U+2029 end a line in YAML */
    }
}

/* place + ": " + the formatted text, cleaned; NULL when memory is out. */
__attribute__((format(printf, 2, 0))) static char *compose(const char *place, const char *format,
                                                           va_list args)
{
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    const size_t head = strlen(place) + 2;
    char *out = n < 0 ? NULL : malloc(head + (size_t)n + 1);
    if (out != NULL) {
        snprintf(out, head + 1, "%s: ", place);
        vsnprintf(out + head, (size_t)n + 1, format, again);
        report_clean(out);
    }
    va_end(again);
    return out;
}

void report_no_memory(struct recipe_report *report)
{
    report->code = ERR_NO_MEMORY;
    report->n_more++;
}

void report_error(struct recipe_report *report, enum err_code code, const char *place,
                  const char *format, ...)
{
    if (report->code == ERR_NONE)
        report->code = code;
    if (report->errors.n >= RECIPE_MAX_ERRORS) {
        report->n_more++;
        return;
    }
    va_list args;
    va_start(args, format);
    char *text = compose(place, format, args);
    va_end(args);
    if (text == NULL || !list_add(&report->errors, text)) {
        free(text);
        report_no_memory(report);
    }
}

void report_note(struct recipe_report *report, const char *place, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = compose(place, format, args);
    va_end(args);
    if (text == NULL || !list_add(&report->notes, text)) {
        free(text);
        report_no_memory(report);
    }
}
