/* Values as text: Python's str() and repr(). */
#ifndef DATASETS_JINJA_REPR_H
#define DATASETS_JINJA_REPR_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

enum { FLOAT_TEXT = 64 };

/* The shortest text that reads back as the same double, as Python prints it. */
void float_repr(double real, char out[FLOAT_TEXT]);

/* Appends repr(v). What Python would print with an address is refused. */
bool value_repr(struct jinja_run *r, const struct value *v, struct value_text *t);

/* str(v); of a string the string itself, no longer marked safe. */
bool value_str(struct jinja_run *r, const struct value *v, const struct value_string **out);
/* Appends str(v). */
bool value_print(struct jinja_run *r, const struct value *v, struct value_text *t);
/* markupsafe's soft_str: str(v), but a string stays marked. */
bool value_soft_str(struct jinja_run *r, const struct value *v, const struct value_string **out);
/* Markup and plain copies of a string. */
const struct value_string *string_marked(struct jinja_run *r, const struct value_string *s,
                                         bool safe);
/* The text with &, <, >, ' and " escaped, marked safe; what is marked safe stays as it is. */
bool string_escape(struct jinja_run *r, const struct value_string *s,
                   const struct value_string **out);

#endif
