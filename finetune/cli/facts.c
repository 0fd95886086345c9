/* Facts for people: what `inspect` and `env` print without --json, laid out from the same object.
 *
 * Scalars and lists of scalars stand behind their names; an object below its name, indented; a list
 * of objects is a table whose columns are the first row's members.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "kernels/core/json_memory.h"
#include "kernels/core/text.h"
#include "recipes/report.h"

static void put_scalar(const json_t *value, struct text *out)
{
    char digits[32];
    if (json_is_string(value)) {
        text_puts(out, json_string_value(value));
    } else if (json_is_integer(value)) {
        text_count(digits, json_integer_value(value));
        text_puts(out, digits);
    } else if (json_is_real(value)) {
        text_printf(out, "%.6g", json_real_value(value));
    } else {
        text_puts(out, json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
    }
}

static void put_value(const json_t *value, struct text *out)
{
    if (!json_is_array(value)) {
        put_scalar(value, out);
        return;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        text_puts(out, i > 0 ? ", " : "");
        put_scalar(json_array_get(value, i), out);
    }
    if (json_array_size(value) == 0)
        text_puts(out, "none");
}

static bool is_table(const json_t *value)
{
    return json_is_array(value) && json_is_object(json_array_get(value, 0));
}

/* Characters, as a terminal counts them (nearly). */
static int width_of(const char *s)
{
    int n = 0;
    for (; *s != '\0'; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static char *cell_text(const json_t *value)
{
    struct text cell = { 0 };
    text_puts(&cell, "");
    put_value(value, &cell);
    if (cell.failed)
        text_free(&cell);
    else
        report_clean(cell.data);
    return cell.data;
}

static void put_padded(const char *s, int width, bool right, struct text *out)
{
    const int gap = width - width_of(s);
    if (right)
        text_printf(out, "%*s%s", gap, "", s);
    else
        text_printf(out, "%s%*s", s, gap, "");
}

struct column {
    const char *name;
    int width;
    bool right; /* numbers */
};

enum { MAX_COLUMNS = 12 };

static void measure(const json_t *rows, struct column *columns, int n_column, bool *failed)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        for (int k = 0; k < n_column; k++) {
            const json_t *value = json_object_get(json_array_get(rows, i), columns[k].name);
            char *cell = cell_text(value);
            const int width = cell != NULL ? width_of(cell) : 0;
            columns[k].width = width > columns[k].width ? width : columns[k].width;
            columns[k].right |= json_is_number(value);
            *failed = *failed || cell == NULL;
            free(cell);
        }
    }
}

static void put_row(json_t *row, const struct column *columns, int n_column, struct text *out)
{
    for (int k = 0; k < n_column; k++) {
        char *cell = row == NULL ? text_copy(columns[k].name)
                                 : cell_text(json_object_get(row, columns[k].name));
        text_puts(out, "  ");
        if (cell == NULL)
            out->failed = true;
        else if (k + 1 < n_column || columns[k].right)
            put_padded(cell, columns[k].width, columns[k].right, out);
        else
            text_puts(out, cell); /* no spaces at the end of a line */
        free(cell);
    }
    text_puts(out, "\n");
}

static void put_table(json_t *rows, struct text *out)
{
    struct column columns[MAX_COLUMNS];
    int n_column = 0;
    const char *name;
    json_t *value;
    json_object_foreach(json_array_get(rows, 0), name, value)
    {
        if (n_column < MAX_COLUMNS)
            columns[n_column++] = (struct column){ .name = name, .width = width_of(name) };
    }
    measure(rows, columns, n_column, &out->failed);
    put_row(NULL, columns, n_column, out);
    for (size_t i = 0; i < json_array_size(rows); i++)
        put_row(json_array_get(rows, i), columns, n_column, out);
}

static int name_width(json_t *object)
{
    int width = 0;
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        if (!json_is_object(value) && !is_table(value) && width_of(name) > width)
            width = width_of(name);
    }
    return width;
}

static void put_object(json_t *object, int indent, struct text *out)
{
    const int width = name_width(object);
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        if (is_table(value)) {
            text_printf(out, "%*s%s\n", indent, "", name);
            put_table(value, out);
        } else if (json_is_object(value)) {
            text_printf(out, "%*s%s\n", indent, "", name);
            put_object(value, indent + 2, out);
        } else {
            char *cell = cell_text(value);
            text_printf(out, "%*s%-*s  %s\n", indent, "", width, name, cell != NULL ? cell : "");
            out->failed = out->failed || cell == NULL;
            free(cell);
        }
    }
}

json_t *cli_json_string(const char *s)
{
    char *copy = text_copy(s);
    const size_t n = strlen(s);
    size_t bad = 0;
    if (copy == NULL)
        json_memory_fail();
    for (size_t at = 0; copy != NULL && !text_is_utf8(copy + at, n - at, &bad); at += bad + 1)
        copy[at + bad] = '?';
    json_t *string = copy != NULL ? json_string(copy) : NULL;
    free(copy);
    return string;
}

int cli_end_facts(json_t *facts, bool as_json)
{
    if (as_json || facts == NULL)
        return cli_end_json(facts);
    struct text out = { 0 };
    put_object(facts, 0, &out);
    json_decref(facts);
    const bool ok = !json_memory_failed() && !out.failed;
    if (ok && out.data != NULL)
        fputs(out.data, stdout);
    text_free(&out);
    if (ok)
        return cli_end_output();
    struct err err = { 0 };
    err_no_memory(&err, "what is to be printed");
    return cli_fail(&err);
}
