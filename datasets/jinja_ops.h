/* Python's operators: truth, comparison, `in`, arithmetic (jinja_ops.c, jinja_arithmetic.c), and
 * access to members (jinja_access.c). */
#ifndef DATASETS_JINJA_OPS_H
#define DATASETS_JINJA_OPS_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

bool value_truth(const struct value *v);
bool value_equal(struct jinja_run *r, const struct value *x, const struct value *y, bool *equal);
/* x < y, <=, >, >= (OP_LT, ...). */
bool value_order(struct jinja_run *r, enum node_op op, const struct value *x, const struct value *y,
                 bool *out);
/* Any comparison operator, `in` and `not in` too. */
bool value_compare(struct jinja_run *r, enum node_op op, const struct value *x,
                   const struct value *y, bool *out);
/* item in container. */
bool value_contains(struct jinja_run *r, const struct value *container, const struct value *item,
                    bool *out);

/* + - * / // % ** */
bool value_binary(struct jinja_run *r, enum node_op op, const struct value *x,
                  const struct value *y, struct value *out);
/* + - */
bool value_unary(struct jinja_run *r, enum node_op op, const struct value *x, struct value *out);
/* x + y of strings: where one is marked safe, the other is escaped. */
bool string_add(struct jinja_run *r, const struct value_string *x, const struct value_string *y,
                struct value *out);

/* v.name and v[key] as the sandbox has them: the attribute or item, else the other one, else
 * undefined. */
bool value_attr(struct jinja_run *r, const struct value *v, const struct value_string *name,
                struct value *out);
bool value_item(struct jinja_run *r, const struct value *v, const struct value *key,
                struct value *out);
/* The attribute alone, as `|attr` has it. */
bool value_attr_only(struct jinja_run *r, const struct value *v, const struct value_string *name,
                     struct value *out);
/* v[start:stop:step]; MISSING and None stand for what is left out. */
bool value_slice(struct jinja_run *r, const struct value *v, const struct value bounds[3],
                 struct value *out);

#endif
