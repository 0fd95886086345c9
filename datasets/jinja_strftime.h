/* strftime_now(): Python's datetime.strftime of a fixed time without a zone, in the C locale. */
#ifndef DATASETS_JINJA_STRFTIME_H
#define DATASETS_JINJA_STRFTIME_H

#include <stdbool.h>
#include <time.h>

#include "datasets/jinja_run.h"

/* Formats env->now. Directives that depend on more than that (%s, ...) are refused. */
bool jinja_strftime(struct jinja_run *r, const struct value_string *format, struct value *out);

#endif
