/* YAML into a tree of nodes: libyaml's events, bounded.
 *
 * A recipe needs no anchors, aliases, tags or second documents, so they are refused (an alias can
 * name its own ancestor, or unfold to gigabytes). Depth is at most NODE_MAX_DEPTH: libyaml 0.2.5
 * needs quadratic time in flow nesting, and stopping at an early event keeps it from getting there.
 */
#ifndef RECIPES_YAML_H
#define RECIPES_YAML_H

#include <stddef.h>

#include "recipes/node.h"
#include "recipes/report.h"

enum { YAML_MAX_BYTES = 1 << 20, YAML_MAX_NODES = 10000 };

/* The file's only document, whose root is a mapping; NULL after an error that leaves no tree.
 * Duplicate keys are errors, too, but the first of them stays in the tree. */
struct node *yaml_load(const char *path, struct recipe_report *report);

/* One value of the command line ("[a, b]"): any root. `place` starts its messages. */
struct node *yaml_parse_value(const char *text, const char *place, struct recipe_report *report);

#endif
