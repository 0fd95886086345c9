/* Filters: `value | name(arguments)`. */
#ifndef DATASETS_JINJA_FILTERS_H
#define DATASETS_JINJA_FILTERS_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

struct filter {
    const char *name;
    bool (*apply)(struct jinja_run *r, struct value in, const struct call_args *args,
                  struct value *out); /* NULL: jinja2 has it, we do not */
};

/* NULL when there is none; *refused when it is one that jinja2 has and we do not. */
const struct filter *filter_find(const struct value_string *name, bool *refused);

/* Of sequences (jinja_filters_list.c) and text (jinja_filters_text.c); ended by a row without a
 * name. */
extern const struct filter list_filters[];
extern const struct filter lazy_filters[];
extern const struct filter text_filters[];

/* "a.b.0" of an attribute argument, taken apart once. MISSING and None: the item itself. */
struct attr_path {
    struct value_list *parts;
    bool has_otherwise;
    struct value otherwise; /* for what is undefined */
    bool lower;             /* strings are taken in lower case: sorting without case */
};

bool attr_path_open(struct jinja_run *r, const struct value *attribute, struct attr_path *path);
bool attr_path_get(struct jinja_run *r, const struct attr_path *path, const struct value *item,
                   struct value *out);

#endif
