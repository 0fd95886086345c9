/* Python's two ways to format text: "%s" % x and "{}".format(x). */
#ifndef DATASETS_JINJA_FORMAT_H
#define DATASETS_JINJA_FORMAT_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

/* text % x: x a tuple of arguments, a dict for %(name)s, or the one argument. */
bool format_percent(struct jinja_run *r, const struct value_string *text, const struct value *x,
                    struct value *out);

/* text.format(...) */
bool format_braces(struct jinja_run *r, const struct value_string *text,
                   const struct call_args *args, struct value *out);

#endif
