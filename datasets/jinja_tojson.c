#include "datasets/jinja_tojson.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"
#include "datasets/jinja_unicode.h"

struct dump {
    struct jinja_run *r;
    struct value_text t;
    bool ascii, sort;
    const struct value_string *indent; /* one level, or NULL */
    const struct value_string *item_separator, *key_separator;
};

static bool add(struct dump *d, const char *bytes, size_t n)
{
    return text_add(&d->r->arena, &d->t, bytes, n) || jinja_no_memory(d->r);
}

static bool dump_string(struct dump *d, const struct value_string *s)
{
    if (!add(d, "\"", 1) || !jinja_step(d->r, (int64_t)(s->len / 16)))
        return false;
    for (size_t at = 0, n = 0; at < s->len; at += n) {
        const uint32_t code = unicode_decode(s->data + at, &n);
        static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
        const char *name = NULL;
        char escape[16];
        for (const char *p = names; *p != 0; p += 2) {
            if ((unsigned char)*p == code)
                name = p;
        }
        if (name != NULL)
            snprintf(escape, sizeof escape, "\\%c", name[1]);
        else if (code < 0x20 || (d->ascii && code > 0x7E && code < 0x10000))
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
        else if (d->ascii && code >= 0x10000)
            snprintf(escape, sizeof escape, "\\u%04x\\u%04x",
                     (unsigned)(0xD800 + ((code - 0x10000) >> 10)),
                     (unsigned)(0xDC00 + ((code - 0x10000) & 0x3FF)));
        else
            escape[0] = 0;
        if (escape[0] != 0 ? !add(d, escape, strlen(escape)) : !add(d, s->data + at, n))
            return false;
    }
    return add(d, "\"", 1);
}

static bool dump_scalar(struct dump *d, const struct value *v)
{
    char buffer[FLOAT_TEXT];
    switch (v->kind) {
    case VALUE_NONE:
        return add(d, "null", 4);
    case VALUE_BOOL:
        return v->as.truth ? add(d, "true", 4) : add(d, "false", 5);
    case VALUE_INT:
        snprintf(buffer, sizeof buffer, "%lld", (long long)v->as.integer);
        return add(d, buffer, strlen(buffer));
    case VALUE_FLOAT:
        float_repr(v->as.real, buffer);
        if (isnan(v->as.real))
            return add(d, "NaN", 3);
        if (isinf(v->as.real))
            return v->as.real > 0 ? add(d, "Infinity", 8) : add(d, "-Infinity", 9);
        return add(d, buffer, strlen(buffer));
    default:
        return jinja_fail(d->r, "object of type %s is not JSON serializable", value_type_name(v));
    }
}

static bool new_line(struct dump *d, int level)
{
    if (d->indent == NULL)
        return true;
    return (text_add(&d->r->arena, &d->t, "\n", 1) &&
            text_add_fill(&d->r->arena, &d->t, d->indent->data, d->indent->len, level)) ||
           jinja_no_memory(d->r);
}

static bool separate(struct dump *d, size_t i, int level)
{
    return (i == 0 || add(d, d->item_separator->data, d->item_separator->len)) &&
           new_line(d, level);
}

/* Keys become strings: numbers, true, false and null as JSON spells them. */
static bool dump_key(struct dump *d, const struct value *key)
{
    if (key->kind == VALUE_STRING)
        return dump_string(d, key->as.string);
    if (key->kind != VALUE_NONE && !value_is_number(key))
        return jinja_fail(d->r, "keys must be str, int, float, bool or None, not %s",
                          value_type_name(key));
    return add(d, "\"", 1) && dump_scalar(d, key) && add(d, "\"", 1);
}

/* Merge sort of entries by key: stable, and errors may stop it. */
static bool sort_entries(struct jinja_run *r, struct dict_entry *at, size_t n,
                         struct dict_entry *spare)
{
    if (n < 2)
        return true;
    const size_t half = n / 2;
    if (!sort_entries(r, at, half, spare) || !sort_entries(r, at + half, n - half, spare))
        return false;
    memcpy(spare, at, half * sizeof *at);
    size_t left = 0, right = half, to = 0;
    while (left < half) {
        bool less = false;
        if (right < n && !value_order(r, OP_LT, &at[right].key, &spare[left].key, &less))
            return false;
        at[to++] = less ? at[right++] : spare[left++];
    }
    return true;
}

static bool dump_value(struct dump *d, const struct value *v, int level);

static bool dump_dict(struct dump *d, const struct value_dict *dict, int level)
{
    const struct dict_entry *at = dict->at;
    if (dict->n == 0)
        return add(d, "{}", 2);
    if (d->sort) {
        struct dict_entry *sorted = jinja_take_array(&d->r->arena, dict->n, sizeof *sorted);
        struct dict_entry *spare = jinja_take_array(&d->r->arena, dict->n, sizeof *sorted);
        if (sorted == NULL || spare == NULL)
            return jinja_no_memory(d->r);
        memcpy(sorted, at, dict->n * sizeof *at);
        if (!sort_entries(d->r, sorted, dict->n, spare))
            return false;
        at = sorted;
    }
    if (!add(d, "{", 1))
        return false;
    for (size_t i = 0; i < dict->n; i++) {
        if (!separate(d, i, level + 1) || !dump_key(d, &at[i].key) ||
            !add(d, d->key_separator->data, d->key_separator->len) ||
            !dump_value(d, &at[i].value, level + 1))
            return false;
    }
    return new_line(d, level) && add(d, "}", 1);
}

static bool dump_list(struct dump *d, const struct value_list *list, int level)
{
    if (list->n == 0)
        return add(d, "[]", 2);
    if (!add(d, "[", 1))
        return false;
    for (size_t i = 0; i < list->n; i++) {
        if (!separate(d, i, level + 1) || !dump_value(d, &list->at[i], level + 1))
            return false;
    }
    return new_line(d, level) && add(d, "]", 1);
}

static bool dump_value(struct dump *d, const struct value *v, int level)
{
    bool ok = jinja_step(d->r, 1) && jinja_enter(d->r);
    if (!ok)
        return false;
    switch (v->kind) {
    case VALUE_STRING:
        ok = dump_string(d, v->as.string);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        ok = dump_list(d, v->as.list, level);
        break;
    case VALUE_DICT:
        ok = dump_dict(d, v->as.dict, level);
        break;
    default:
        ok = dump_scalar(d, v);
    }
    jinja_leave(d->r);
    return ok;
}

/* indent: None, a number of spaces, or what to indent with. */
static bool read_indent(struct dump *d, const struct value *v)
{
    int64_t n = 0;
    struct value_text t = { 0 };
    if (v->kind == VALUE_MISSING || v->kind == VALUE_NONE)
        return true;
    if (v->kind == VALUE_STRING) {
        d->indent = v->as.string;
        return true;
    }
    if (!arg_int(d->r, v, "tojson: indent", &n))
        return false;
    if (n > 1000)
        return jinja_fail(d->r, "tojson: an indent over 1000 is not supported");
    if (!text_add_fill(&d->r->arena, &t, " ", 1, n))
        return jinja_no_memory(d->r);
    d->indent = text_take(&d->r->arena, &t);
    return d->indent != NULL || jinja_no_memory(d->r);
}

/* separators: None, or two strings: between items, and after keys. */
static bool read_separators(struct dump *d, const struct value *v)
{
    struct value_list *list = NULL;
    if (v->kind == VALUE_MISSING || v->kind == VALUE_NONE)
        return true;
    if (!iter_list(d->r, v, &list))
        return false;
    if (list->n != 2)
        return jinja_fail(d->r, "tojson: separators has %zu items, expected 2", list->n);
    return arg_string(d->r, &list->at[0], "tojson: separator", &d->item_separator) &&
           arg_string(d->r, &list->at[1], "tojson: separator", &d->key_separator);
}

bool filter_tojson(struct jinja_run *r, struct value in, const struct call_args *args,
                   struct value *out)
{
    static const char *const names[] = { "ensure_ascii", "indent", "separators", "sort_keys",
                                         NULL };
    static const struct value_string comma = { .data = ", ", .len = 2 };
    static const struct value_string bare_comma = { .data = ",", .len = 1 };
    static const struct value_string colon = { .data = ": ", .len = 2 };
    struct value v[4];
    if (!args_bind(r, "tojson", args, names, 0, v))
        return false;
    struct dump d = {
        .r = r,
        .ascii = arg_truth(&v[0], false),
        .sort = arg_truth(&v[3], false),
        .key_separator = &colon,
    };
    if (!read_indent(&d, &v[1]))
        return false;
    d.item_separator = d.indent != NULL ? &bare_comma : &comma;
    return read_separators(&d, &v[2]) && dump_value(&d, &in, 0) && give_text(r, &d.t, out);
}
