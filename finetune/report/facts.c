/* What run.json says: what was adapted, the data, the run. Members are shown as they are found, so
 * that a new one needs no line here. */
#include "finetune/report/sections.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "finetune/report/page.h"

enum { VALUE_SIZE = 512 };

/* Numbers in groups, and bytes in units. False: no scalar. */
static bool show(const char *key, const json_t *value, char out[VALUE_SIZE])
{
    char number[PAGE_NUMBER_SIZE], digits[32];
    if (json_is_string(value)) {
        snprintf(out, VALUE_SIZE, "%s", json_string_value(value));
    } else if (json_is_number(value) && text_ends_with(key, "_bytes")) {
        page_bytes(number, json_number_value(value));
        snprintf(out, VALUE_SIZE, "%s", number);
    } else if (json_is_integer(value) && strcmp(key, "pid") != 0) {
        text_count(digits, json_integer_value(value));
        snprintf(out, VALUE_SIZE, "%s", digits);
    } else if (json_is_integer(value)) {
        snprintf(out, VALUE_SIZE, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(out, VALUE_SIZE, "%.6g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(out, VALUE_SIZE, "%s", json_is_true(value) ? "yes" : "no");
    } else {
        return false;
    }
    return true;
}

/* "pass_tokens" -> "pass tokens", "n_step" -> "steps" */
static void name_of(const char *key, char out[VALUE_SIZE])
{
    const bool is_count = text_starts_with(key, "n_");
    snprintf(out, VALUE_SIZE, "%s%s", is_count ? key + 2 : key, is_count ? "s" : "");
    for (char *at = out; *at != '\0'; at++)
        *at = *at == '_' ? ' ' : *at;
}

static void put_members(json_t *object, const char *label, struct text *page)
{
    const char *key = NULL;
    json_t *value = NULL;
    page_table(page, label, "facts");
    text_puts(page, "<tbody>\n");
    json_object_foreach(object, key, value)
    {
        char name[VALUE_SIZE], shown[VALUE_SIZE];
        if (strcmp(key, "format") == 0 || !show(key, value, shown))
            continue;
        name_of(key, name);
        page_fact(page, name, shown);
    }
    text_puts(page, "</tbody>\n");
    page_table_end(page);
}

/* Columns are the members of the first. */
static void put_list(json_t *list, const char *label, struct text *page)
{
    json_t *first = json_array_get(list, 0), *value = NULL;
    const char *key = NULL;
    char shown[VALUE_SIZE];
    page_table(page, label, "");
    text_puts(page, "<thead><tr>");
    json_object_foreach(first, key, value)
    {
        name_of(key, shown);
        text_printf(page, "<th scope=\"col\"%s>", json_is_number(value) ? " class=\"number\"" : "");
        page_escaped(page, shown);
        text_puts(page, "</th>");
    }
    text_puts(page, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < json_array_size(list); i++) {
        text_puts(page, "<tr>");
        json_object_foreach(first, key, value)
        {
            const json_t *cell = json_object_get(json_array_get(list, i), key);
            if (cell == NULL || !show(key, cell, shown))
                snprintf(shown, sizeof shown, "-");
            if (json_is_number(value))
                page_cell_number(page, shown);
            else
                page_cell(page, shown);
        }
        text_puts(page, "</tr>\n");
    }
    text_puts(page, "</tbody>\n");
    page_table_end(page);
}

void sections_facts(const struct history *h, struct text *page)
{
    json_t *adapted = json_object_get(h->run, "adapted"), *data = json_object_get(h->run, "data");
    char shown[VALUE_SIZE];
    if (!json_is_object(h->run))
        return;
    text_puts(page, "<div class=\"columns\">\n<div>\n");
    if (json_is_object(json_array_get(adapted, 0))) {
        page_section(page, "What was adapted");
        put_list(adapted, "What was adapted", page);
        if (show("", json_object_get(h->run, "adapter_parameters"), shown)) {
            text_puts(page, "<p class=\"faint\">");
            page_escaped(page, shown);
            text_puts(page, " parameters in all</p>\n");
        }
        page_section_end(page);
    }
    if (json_is_object(data)) {
        page_section(page, "Data");
        put_members(data, "Data", page);
        page_section_end(page);
    }
    text_puts(page, "</div>\n<div>\n");
    page_section(page, "The run");
    put_members(h->run, "The run", page);
    page_section_end(page);
    text_puts(page, "</div>\n</div>\n");
}
