/* Tokens to nodes: what jinja_parser.c (statements), jinja_expression.c (operators) and
 * jinja_primary.c (their operands) share. */
#ifndef DATASETS_JINJA_PARSER_H
#define DATASETS_JINJA_PARSER_H

#include <stdbool.h>
#include <stddef.h>

#include "datasets/jinja_ast.h"
#include "datasets/jinja_lexer.h"
#include "kernels/core/err.h"

/* Nested statements and brackets, and the height of an expression: more is refused, so that what
 * walks the nodes may recurse. */
enum { PARSE_DEPTH = 120, PARSE_HEIGHT = 400 };

struct parser {
    struct jinja_template *template;
    struct jinja_arena *arena;
    const char *name;
    struct err *err;
    const struct token *at;
    int depth;
    int n_for;  /* for statements around this place */
    int n_loop; /* those that a break here would end */
};

/* Says what, with the place of t; returns false. */
bool parse_fail(struct parser *p, const struct token *t, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool parse_no_memory(struct parser *p);

/* Whether the token at hand is that name. */
bool parse_at_name(const struct parser *p, const char *name);
/* Steps over the token if it is of that kind (is that name). */
bool parse_skip(struct parser *p, enum token_kind kind);
bool parse_skip_name(struct parser *p, const char *name);
/* Steps over a token that must be there; `what` is named in the message. */
bool parse_expect(struct parser *p, enum token_kind kind, const char *what);
bool parse_expect_name(struct parser *p, const struct value_string **name);

struct node *parse_node(struct parser *p, enum node_kind kind, const struct token *t);

/* Fills in the height of an expression; NULL when it has become too high. */
struct node *parse_finish(struct parser *p, struct node *n);

enum tuple_flag {
    TUPLE_NAMES = 1,  /* names and literals only: targets */
    TUPLE_NO_IF = 2,  /* no inline if */
    TUPLE_PARENS = 4, /* in parentheses: may be empty */
    TUPLE_NS = 8,     /* namespace attributes are allowed: set */
};

struct node *parse_expression(struct parser *p);
/* An expression without an inline if. */
struct node *parse_or(struct parser *p);
/* not, - or + (the token at hand) and its operand. */
struct node *parse_prefix(struct parser *p, enum node_op op);
/* An operand with its sign, members, calls, and filters if with_filters. */
struct node *parse_unary(struct parser *p, bool with_filters);
struct node *parse_tuple(struct parser *p, int flags);
/* `| name(args) | name ...` on `left`, which may be NULL; with `inside` the first | is not there.
 */
struct node *parse_filters(struct parser *p, struct node *left, bool inside);

#endif
