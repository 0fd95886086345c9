#include "datasets/jinja_value.h"

#include <math.h>
#include <string.h>

#include "datasets/jinja_unicode.h"
#include "kernels/core/text.h"

const struct value_string *string_point(struct jinja_arena *a, const char *data, size_t len)
{
    struct value_string *s = jinja_take(a, sizeof *s);
    if (s != NULL)
        *s = (struct value_string){ .data = data != NULL ? data : "", .len = len };
    return s;
}

const struct value_string *string_copy(struct jinja_arena *a, const char *data, size_t len)
{
    char *copy = jinja_take(a, len);
    if (copy == NULL)
        return NULL;
    if (len > 0)
        memcpy(copy, data, len);
    return string_point(a, copy, len);
}

const struct value_string *string_concat(struct jinja_arena *a, const struct value_string *x,
                                         const struct value_string *y)
{
    if (y->len == 0 && !x->safe)
        return x;
    struct string_growth *g = x->growth;
    const bool at_end = g != NULL && x->data + x->len == g->data + g->used;
    if (!at_end || y->len > g->cap - g->used) {
        struct string_growth *bigger = jinja_take(a, sizeof *bigger);
        size_t cap = 0;
        if (bigger == NULL || !size_add(x->len, y->len, &cap))
            return NULL;
        if (at_end && !size_mul(cap, 2, &cap)) /* grown before: likely to grow again */
            return NULL;
        bigger->data = jinja_take(a, cap);
        if (bigger->data == NULL)
            return NULL;
        if (x->len > 0)
            memcpy(bigger->data, x->data, x->len);
        bigger->used = x->len;
        bigger->cap = cap;
        g = bigger;
    }
    if (y->len > 0)
        memcpy(g->data + g->used, y->data, y->len);
    g->used += y->len;
    struct value_string *s = jinja_take(a, sizeof *s);
    if (s != NULL)
        *s = (struct value_string){ .data = g->data, .len = x->len + y->len, .growth = g };
    return s;
}

bool string_is(const struct value_string *s, const char *text)
{
    const size_t n = strlen(text);
    return s->len == n && (n == 0 || memcmp(s->data, text, n) == 0);
}

bool string_equal(const struct value_string *x, const struct value_string *y)
{
    return x->len == y->len && (x->len == 0 || memcmp(x->data, y->data, x->len) == 0);
}

int string_compare(const struct value_string *x, const struct value_string *y)
{
    const size_t n = x->len < y->len ? x->len : y->len;
    const int order = n == 0 ? 0 : memcmp(x->data, y->data, n);
    if (order != 0)
        return order < 0 ? -1 : 1;
    return (x->len > y->len) - (x->len < y->len);
}

int64_t string_length(const struct value_string *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->len; i++)
        n += ((unsigned char)s->data[i] & 0xC0) != 0x80;
    return n;
}

size_t string_offset(const struct value_string *s, int64_t i)
{
    size_t at = 0;
    while (i > 0 && at < s->len) {
        at += text_utf8_length(s->data + at);
        i--;
    }
    return at;
}

size_t string_find(const struct value_string *x, const struct value_string *y, size_t from)
{
    if (from > x->len || y->len > x->len - from)
        return SIZE_MAX;
    if (y->len == 0)
        return from;
    const size_t last = x->len - y->len;
    for (size_t at = from; at <= last; at++) {
        const char *hit = memchr(x->data + at, y->data[0], last - at + 1);
        if (hit == NULL)
            return SIZE_MAX;
        at = (size_t)(hit - x->data);
        if (memcmp(hit, y->data, y->len) == 0)
            return at;
    }
    return SIZE_MAX;
}

size_t string_find_last(const struct value_string *x, const struct value_string *y, size_t to)
{
    if (to > x->len || y->len > to)
        return SIZE_MAX;
    for (size_t at = to - y->len + 1; at-- > 0;) {
        if (y->len == 0 || memcmp(x->data + at, y->data, y->len) == 0)
            return at;
    }
    return SIZE_MAX;
}

static bool text_reserve(struct jinja_arena *a, struct value_text *t, size_t n)
{
    if (n <= t->cap - t->len)
        return true;
    size_t need = 0, cap = t->cap < 64 ? 64 : t->cap;
    if (!size_add(t->len, n, &need))
        return false;
    while (cap < need) {
        if (!size_mul(cap, 2, &cap))
            return false;
    }
    char *data = jinja_take(a, cap);
    if (data == NULL)
        return false;
    if (t->len > 0)
        memcpy(data, t->data, t->len);
    t->data = data;
    t->cap = cap;
    return true;
}

bool text_add(struct jinja_arena *a, struct value_text *t, const char *bytes, size_t n)
{
    if (n == 0)
        return true;
    if (!text_reserve(a, t, n))
        return false;
    memcpy(t->data + t->len, bytes, n);
    t->len += n;
    return true;
}

bool text_add_string(struct jinja_arena *a, struct value_text *t, const char *terminated)
{
    return text_add(a, t, terminated, strlen(terminated));
}

bool text_add_code(struct jinja_arena *a, struct value_text *t, uint32_t code)
{
    char bytes[4];
    const size_t n = unicode_encode(code, bytes);
    return text_add(a, t, bytes, n);
}

bool text_add_fill(struct jinja_arena *a, struct value_text *t, const char *bytes, size_t n,
                   int64_t times)
{
    if (n == 0 || times <= 0)
        return true;
    size_t whole = 0;
    if (!size_mul(n, (size_t)times, &whole)) {
        a->failed = a->over = true;
        return false;
    }
    if (!text_reserve(a, t, whole))
        return false;
    for (int64_t i = 0; i < times; i++) {
        memcpy(t->data + t->len, bytes, n);
        t->len += n;
    }
    return true;
}

const struct value_string *text_take(struct jinja_arena *a, const struct value_text *t)
{
    return string_point(a, t->data, t->len);
}

struct value_list *list_new(struct jinja_arena *a, size_t cap)
{
    struct value_list *list = jinja_take(a, sizeof *list);
    if (list == NULL || cap == 0)
        return list;
    list->at = jinja_take_array(a, cap, sizeof *list->at);
    list->cap = cap;
    return list->at != NULL ? list : NULL;
}

static int depth_of(const struct value *v)
{
    switch (v->kind) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v->as.list->depth;
    case VALUE_DICT:
        return v->as.dict->depth;
    case VALUE_VIEW:
        return v->as.view->dict->depth;
    default:
        return 0;
    }
}

static bool deepen(struct jinja_arena *a, int *depth, const struct value *v)
{
    const int inside = depth_of(v);
    if (inside >= VALUE_DEPTH) {
        a->failed = a->deep = true;
        return false;
    }
    if (*depth <= inside)
        *depth = inside + 1;
    return true;
}

bool list_push(struct jinja_arena *a, struct value_list *list, struct value v)
{
    if (!deepen(a, &list->depth, &v))
        return false;
    if (list->n == list->cap) {
        const size_t cap = list->cap < 4 ? 4 : list->cap * 2;
        struct value *at = jinja_take_array(a, cap, sizeof *at);
        if (at == NULL)
            return false;
        if (list->n > 0)
            memcpy(at, list->at, list->n * sizeof *at);
        list->at = at;
        list->cap = cap;
    }
    list->at[list->n++] = v;
    return true;
}

struct value_list *list_pair(struct jinja_arena *a, struct value x, struct value y)
{
    struct value_list *list = list_new(a, 2);
    return list != NULL && list_push(a, list, x) && list_push(a, list, y) ? list : NULL;
}

struct value_dict *dict_new(struct jinja_arena *a)
{
    return jinja_take(a, sizeof(struct value_dict));
}

bool dict_can_key(const struct value *v)
{
    if (v->kind == VALUE_TUPLE) {
        for (size_t i = 0; i < v->as.list->n; i++) {
            if (!dict_can_key(&v->as.list->at[i]))
                return false;
        }
        return true;
    }
    return v->kind != VALUE_LIST && v->kind != VALUE_DICT && v->kind != VALUE_VIEW &&
           v->kind != VALUE_MISSING;
}

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static uint64_t hash(const struct value *v)
{
    uint64_t h = 1469598103934665603u;
    switch (v->kind) {
    case VALUE_STRING:
        for (size_t i = 0; i < v->as.string->len; i++)
            h = (h ^ (unsigned char)v->as.string->data[i]) * 1099511628211u;
        return mix(h, v->as.string->len);
    case VALUE_BOOL:
    case VALUE_INT:
    case VALUE_FLOAT: { /* equal numbers are equal as doubles, whatever their type */
        const double d = value_to_double(v) + 0.0;
        uint64_t bits = 0;
        memcpy(&bits, &d, sizeof bits);
        return mix(h, d == 0.0 ? 0 : bits);
    }
    case VALUE_TUPLE:
        for (size_t i = 0; i < v->as.list->n; i++)
            h = mix(h, hash(&v->as.list->at[i]));
        return h;
    default:
        return mix(h, (uint64_t)v->kind);
    }
}

int value_compare_numbers(const struct value *x, const struct value *y)
{
    if (value_is_int(x) && value_is_int(y)) {
        const int64_t p = value_to_int(x), q = value_to_int(y);
        return (p > q) - (p < q);
    }
    if (x->kind == VALUE_FLOAT && y->kind == VALUE_FLOAT) {
        const double p = x->as.real, q = y->as.real;
        return isnan(p) || isnan(q) ? 2 : (p > q) - (p < q);
    }
    if (x->kind == VALUE_FLOAT) {
        const int order = value_compare_numbers(y, x);
        return order == 2 ? 2 : -order;
    }
    /* An int with a float: compare whole parts as ints, then the rest. */
    const int64_t p = value_to_int(x);
    const double q = y->as.real;
    if (isnan(q))
        return 2;
    if (q >= 9223372036854775808.0)
        return -1;
    if (q < -9223372036854775808.0)
        return 1;
    const double whole = trunc(q);
    const int64_t w = (int64_t)whole;
    if (p != w)
        return p < w ? -1 : 1;
    return (whole > q) - (whole < q);
}

bool value_equal_scalar(const struct value *x, const struct value *y)
{
    if (value_is_number(x) && value_is_number(y))
        return value_compare_numbers(x, y) == 0;
    if (x->kind != y->kind)
        return false;
    switch (x->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_STRING:
        return string_equal(x->as.string, y->as.string);
    case VALUE_RANGE: {
        const struct value_range *p = x->as.range, *q = y->as.range;
        return p->n == q->n &&
               (p->n == 0 || (p->start == q->start && (p->n == 1 || p->step == q->step)));
    }
    case VALUE_TUPLE:
        if (x->as.list->n != y->as.list->n)
            return false;
        for (size_t i = 0; i < x->as.list->n; i++) {
            if (!value_equal_scalar(&x->as.list->at[i], &y->as.list->at[i]))
                return false;
        }
        return true;
    case VALUE_FUNCTION:
        return x->as.function == y->as.function;
    case VALUE_METHOD:
        return x->as.method == y->as.method;
    default: /* objects equal only themselves */
        return x->as.macro == y->as.macro;
    }
}

/* Where key is or would be in the index. */
static size_t index_of(const struct value_dict *d, const struct value *key)
{
    size_t i = (size_t)hash(key) & (d->n_index - 1);
    while (d->index[i] >= 0 && !value_equal_scalar(&d->at[d->index[i]].key, key))
        i = (i + 1) & (d->n_index - 1);
    return i;
}

struct value *dict_find(const struct value_dict *d, const struct value *key)
{
    if (d->index != NULL) {
        const int32_t at = d->index[index_of(d, key)];
        return at >= 0 ? &d->at[at].value : NULL;
    }
    for (size_t i = 0; i < d->n; i++) {
        if (value_equal_scalar(&d->at[i].key, key))
            return &d->at[i].value;
    }
    return NULL;
}

struct value *dict_find_name(const struct value_dict *d, const char *name, size_t len)
{
    const struct value_string s = { .data = name, .len = len };
    const struct value key = value_of_string(&s);
    return dict_find(d, &key);
}

static bool dict_grow(struct jinja_arena *a, struct value_dict *d)
{
    const size_t cap = d->cap < 4 ? 4 : d->cap * 2;
    struct dict_entry *at = jinja_take_array(a, cap, sizeof *at);
    if (at == NULL || cap > INT32_MAX)
        return false;
    if (d->n > 0)
        memcpy(at, d->at, d->n * sizeof *at);
    d->at = at;
    d->cap = cap;
    if (cap <= 8)
        return true;
    d->n_index = cap * 2;
    d->index = jinja_take_array(a, d->n_index, sizeof *d->index);
    if (d->index == NULL)
        return false;
    memset(d->index, 0xFF, d->n_index * sizeof *d->index);
    for (size_t i = 0; i < d->n; i++)
        d->index[index_of(d, &d->at[i].key)] = (int32_t)i;
    return true;
}

bool dict_set(struct jinja_arena *a, struct value_dict *d, struct value key, struct value v)
{
    if (!deepen(a, &d->depth, &key) || !deepen(a, &d->depth, &v))
        return false;
    struct value *found = dict_find(d, &key);
    if (found != NULL) {
        *found = v;
        return true;
    }
    if (d->n == d->cap && !dict_grow(a, d))
        return false;
    if (d->index != NULL)
        d->index[index_of(d, &key)] = (int32_t)d->n;
    d->at[d->n++] = (struct dict_entry){ .key = key, .value = v };
    return true;
}
