/* Methods of str, list, dict and the other types: which there are, and what they do. */
#ifndef DATASETS_JINJA_METHODS_H
#define DATASETS_JINJA_METHODS_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

struct method {
    enum value_kind of;
    const char *name;
    /* NULL: Python has it and we do not, or (unsafe) the sandbox refuses it. */
    bool (*call)(struct jinja_run *r, struct value self, const struct call_args *args,
                 struct value *out);
    bool unsafe;
};

/* v.name as a method, or another attribute of built-in types; *found false when Python has none.
 * Methods that change a list or dict give an undefined that fails when it is called, as the sandbox
 * does. */
bool method_attr(struct jinja_run *r, const struct value *v, const struct value_string *name,
                 struct value *out, bool *found);

/* The methods of str (jinja_string_methods.c), ended by a row without a name. */
extern const struct method string_methods[];

/* Pieces that filters share; `self` is a string. */
bool string_strip(struct jinja_run *r, const struct value_string *s, const struct value *chars,
                  bool left, bool right, struct value *out);
bool string_replace(struct jinja_run *r, const struct value_string *s,
                    const struct value_string *from, const struct value_string *to, int64_t count,
                    struct value *out);
enum string_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITALIZE };
bool string_case(struct jinja_run *r, const struct value_string *s, enum string_case how,
                 struct value *out);
/* str.splitlines(). */
bool string_lines(struct jinja_run *r, const struct value_string *s, bool keep_ends,
                  struct value_list **out);
bool string_center(struct jinja_run *r, const struct value_string *s, int64_t width,
                   const struct value_string *fill, int side, struct value *out);
bool string_all(const struct value_string *s, unsigned flags);
/* str.isupper() and str.islower(). */
bool string_is_case(const struct value_string *s, bool upper);

#endif
