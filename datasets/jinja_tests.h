/* Tests: `value is name(arguments)`. */
#ifndef DATASETS_JINJA_TESTS_H
#define DATASETS_JINJA_TESTS_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

struct test {
    const char *name;
    bool (*apply)(struct jinja_run *r, struct value v, const struct call_args *args, bool *out);
};

/* NULL when there is none. *refused is false: all of jinja2's tests are there. */
const struct test *test_find(const struct value_string *name, bool *refused);

#endif
