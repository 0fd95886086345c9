/* Names to slots, once per template, by the rules of jinja2's compiler (jinja_scope.c). */
#ifndef DATASETS_JINJA_SCOPE_H
#define DATASETS_JINJA_SCOPE_H

#include <stdbool.h>

#include "datasets/jinja_ast.h"
#include "kernels/core/err.h"

/* Fills in up, slot, frames, filters and tests of all nodes. Refuses unknown filters and tests
 * where jinja2's compiler does: anywhere but directly inside an if. */
bool jinja_resolve(struct jinja_template *t, struct err *err);

/* Whether these nodes, those inside them included, read the name before they set it
 * (jinja_mention.c). */
bool jinja_reads(const struct node_list *body, const char *name);

#endif
