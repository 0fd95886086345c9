/* Chat templates: the part of Jinja that they are written in, rendered as transformers renders
 * them.
 *
 *     struct jinja_template *t = jinja_parse(text, n, "chat_template.jinja", err);
 *     struct jinja_output out = { 0 };
 *     ok = jinja_render(t, &(struct jinja_env){ .now = now }, variables, &out, err);
 *     ... out.text, out.generation ...
 *     jinja_output_free(&out);
 *     jinja_free(t);
 *
 * The reference is jinja2's ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, the loop
 * controls and transformers' own `tojson`, `raise_exception`, `strftime_now` and {% generation %}.
 * What is not known (include, import, extends, block, do, some filters) is refused with
 * "name:line:column: ...", by jinja_parse where that can be seen from the text; it is never
 * rendered some other way. A template is data like any other file: steps, memory, output and
 * recursion are bounded.
 *
 * The pieces: jinja_lexer (text -> tokens), jinja_parser, jinja_expression and jinja_primary
 * (tokens -> nodes, jinja_ast.h), jinja_scope (names -> slots), then per rendering jinja_exec and
 * jinja_eval (walk the nodes), jinja_value and the files named after what they hold: arithmetic,
 * iteration, calls, filters, tests, methods, formats.
 */
#ifndef DATASETS_JINJA_H
#define DATASETS_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "kernels/core/err.h"

struct jinja_template;

/* Bounds of one rendering; 0 stands for the default. */
struct jinja_limits {
    int64_t steps; /* nodes visited and items produced; 50 million */
    size_t output; /* bytes of the result; 64 MiB */
    size_t memory; /* bytes of all values made on the way; 512 MiB */
    int depth;     /* nested expressions, blocks and calls; 2000 */
};

struct jinja_env {
    struct tm now; /* what strftime_now() formats: local time; all fields that strftime() reads */
    struct jinja_limits limits;
};

/* Bytes [start, end) of the output. */
struct jinja_range {
    size_t start, end;
};

struct jinja_output {
    char *text; /* n bytes, terminated; n counts zero bytes inside */
    size_t n;
    /* What was rendered inside {% generation %}, in order. */
    struct jinja_range *generation;
    size_t n_generation;
    /* A {% generation %} was rendered inside a macro, a set block or the like: where its text ended
     * up is not known, and its range is where transformers would put it, not to be relied on. */
    bool generation_lost;
    /* After a failure: the text that the template gave to raise_exception(); else NULL. */
    char *raised;
    size_t n_raised;
};

/* Parses text[0..n), UTF-8; `name` starts every message. NULL on failure: "name:line:column: ...",
 * columns counted in characters from 1. */
struct jinja_template *jinja_parse(const char *text, size_t n, const char *name, struct err *err);
void jinja_free(struct jinja_template *t);

/* Whether the template has {% generation %} anywhere. */
bool jinja_has_generation(const struct jinja_template *t);

/* Renders with the members of the object `variables` as variables; they are read, not kept and not
 * changed. `out` starts zeroed or freed. On failure it holds no text, but may hold `raised`; free
 * it either way. One template may be rendered by several threads at once. */
bool jinja_render(const struct jinja_template *t, const struct jinja_env *env, json_t *variables,
                  struct jinja_output *out, struct err *err);
void jinja_output_free(struct jinja_output *out);

#endif
