/* Values of a rendering, as Python has them: what chat templates can hold in a variable.
 *
 * All are immutable but for namespaces, cyclers, joiners, loops and the position of generators.
 * Everything lives in the rendering's arena.
 */
#ifndef DATASETS_JINJA_VALUE_H
#define DATASETS_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/jinja_arena.h"

struct jinja_run; /* a rendering: jinja_run.h */

enum value_kind {
    VALUE_MISSING, /* no value: a slot before its assignment, an argument that was not given */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_RANGE,
    VALUE_VIEW,      /* dict.keys(), .values(), .items() */
    VALUE_GENERATOR, /* what lazy filters give: passed over once */
    VALUE_NAMESPACE,
    VALUE_MACRO,
    VALUE_METHOD,   /* "abc".upper, not yet called */
    VALUE_FUNCTION, /* range, namespace, raise_exception, ... */
    VALUE_LOOP,
    VALUE_CYCLER,
    VALUE_JOINER,
};

/* Deeper values are refused when they are made, so that what walks them may recurse. */
enum { VALUE_DEPTH = 800 };

struct value {
    enum value_kind kind;
    union {
        bool truth;
        int64_t integer;
        double real;
        const struct value_string *string;
        struct value_list *list; /* and tuples */
        struct value_dict *dict; /* and namespaces */
        const struct value_undefined *undefined;
        const struct value_range *range;
        const struct value_view *view;
        struct jinja_generator *generator;
        const struct value_macro *macro;
        const struct value_method *method;
        int function; /* enum jinja_function */
        struct jinja_loop *loop;
        struct value_cycler *cycler;
        struct value_joiner *joiner;
    } as;
};

/* Text that ends where its buffer's used part ends can grow in place: a template that appends to
 * one variable in a loop stays linear. */
struct string_growth {
    char *data;
    size_t used, cap;
};

struct value_string {
    const char *data; /* UTF-8, not terminated */
    size_t len;
    struct string_growth *growth; /* or NULL */
    bool safe;                    /* markupsafe's Markup: `|safe`, `|escape` */
};

struct value_list {
    struct value *at;
    size_t n, cap;
    int depth;     /* of lists and dicts inside each other; VALUE_DEPTH at most */
    bool is_group; /* a tuple of `groupby`: .grouper and .list */
};

struct dict_entry {
    struct value key, value;
};

struct value_dict {
    struct dict_entry *at; /* in order of insertion */
    size_t n, cap;
    int depth;
    int32_t *index; /* open addressing over at[], from the ninth entry on; -1: free */
    size_t n_index; /* a power of two */
};

struct value_undefined {
    const char *hint;   /* the whole message, or NULL */
    const char *object; /* "dict object": whose attribute; NULL for a variable */
    struct value name;
};

struct value_range {
    int64_t start, stop, step, n;
};

enum view_kind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

struct value_view {
    enum view_kind kind;
    const struct value_dict *dict;
};

struct value_method {
    struct value self;
    const struct method *method; /* jinja_methods.h */
};

struct value_cycler {
    struct value_list items;
    size_t at;
};

struct value_joiner {
    const struct value_string *separator;
    bool used;
};

/* Growing bytes in the arena. */
struct value_text {
    char *data;
    size_t len, cap;
};

static inline struct value value_none(void)
{
    return (struct value){ .kind = VALUE_NONE };
}

static inline struct value value_bool(bool truth)
{
    return (struct value){ .kind = VALUE_BOOL, .as.truth = truth };
}

static inline struct value value_int(int64_t integer)
{
    return (struct value){ .kind = VALUE_INT, .as.integer = integer };
}

static inline struct value value_float(double real)
{
    return (struct value){ .kind = VALUE_FLOAT, .as.real = real };
}

static inline struct value value_of_string(const struct value_string *string)
{
    return (struct value){ .kind = VALUE_STRING, .as.string = string };
}

static inline struct value value_of_list(struct value_list *list)
{
    return (struct value){ .kind = VALUE_LIST, .as.list = list };
}

static inline struct value value_of_tuple(struct value_list *list)
{
    return (struct value){ .kind = VALUE_TUPLE, .as.list = list };
}

static inline struct value value_of_dict(struct value_dict *dict)
{
    return (struct value){ .kind = VALUE_DICT, .as.dict = dict };
}

/* int, or bool as Python counts it. */
static inline bool value_is_int(const struct value *v)
{
    return v->kind == VALUE_INT || v->kind == VALUE_BOOL;
}

static inline int64_t value_to_int(const struct value *v)
{
    return v->kind == VALUE_BOOL ? (v->as.truth ? 1 : 0) : v->as.integer;
}

static inline bool value_is_number(const struct value *v)
{
    return value_is_int(v) || v->kind == VALUE_FLOAT;
}

static inline double value_to_double(const struct value *v)
{
    return v->kind == VALUE_FLOAT ? v->as.real : (double)value_to_int(v);
}

/* Makers; NULL or false only when the arena gave no memory (its `failed` is set). */

/* Points at the bytes, which outlive the arena's use. */
const struct value_string *string_point(struct jinja_arena *a, const char *data, size_t len);
/* Copies the bytes. */
const struct value_string *string_copy(struct jinja_arena *a, const char *data, size_t len);
/* a + b. */
const struct value_string *string_concat(struct jinja_arena *a, const struct value_string *x,
                                         const struct value_string *y);
bool string_is(const struct value_string *s, const char *text);
bool string_equal(const struct value_string *x, const struct value_string *y);
/* memcmp order, which for UTF-8 is the order of code points. */
int string_compare(const struct value_string *x, const struct value_string *y);
/* Characters, not bytes. */
int64_t string_length(const struct value_string *s);
/* Byte offset of character i, at most the length. */
size_t string_offset(const struct value_string *s, int64_t i);
/* Offset of the first (last) y in x from byte `from` on (that ends by `to`), or SIZE_MAX. */
size_t string_find(const struct value_string *x, const struct value_string *y, size_t from);
size_t string_find_last(const struct value_string *x, const struct value_string *y, size_t to);

bool text_add(struct jinja_arena *a, struct value_text *t, const char *bytes, size_t n);
bool text_add_string(struct jinja_arena *a, struct value_text *t, const char *terminated);
bool text_add_code(struct jinja_arena *a, struct value_text *t, uint32_t code);
bool text_add_fill(struct jinja_arena *a, struct value_text *t, const char *bytes, size_t n,
                   int64_t times);
const struct value_string *text_take(struct jinja_arena *a, const struct value_text *t);

struct value_list *list_new(struct jinja_arena *a, size_t cap);
/* False also (a->deep) when v is nested VALUE_DEPTH deep; so is dict_set. */
bool list_push(struct jinja_arena *a, struct value_list *list, struct value v);
/* A tuple of two. */
struct value_list *list_pair(struct jinja_arena *a, struct value x, struct value y);

struct value_dict *dict_new(struct jinja_arena *a);
/* Whether v can be a key at all (lists and dicts cannot). */
bool dict_can_key(const struct value *v);
/* The entry, or NULL. Keys are compared as Python does: 1, 1.0 and True are one key. */
struct value *dict_find(const struct value_dict *d, const struct value *key);
struct value *dict_find_name(const struct value_dict *d, const char *name, size_t len);
bool dict_set(struct jinja_arena *a, struct value_dict *d, struct value key, struct value v);

/* Whether x == y of keys and other values without members; false where members would be needed. */
bool value_equal_scalar(const struct value *x, const struct value *y);
/* -1, 0, 1 of two numbers, exact between ints and floats; 2 when one is not a number (NaN). */
int value_compare_numbers(const struct value *x, const struct value *y);

#endif
