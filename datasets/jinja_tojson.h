/* The `tojson` filter as transformers defines it: json.dumps with ensure_ascii off by default, and
 * without HTML escapes. */
#ifndef DATASETS_JINJA_TOJSON_H
#define DATASETS_JINJA_TOJSON_H

#include <stdbool.h>

#include "datasets/jinja_run.h"

bool filter_tojson(struct jinja_run *r, struct value in, const struct call_args *args,
                   struct value *out);

#endif
