/* Expressions, by recursive descent; precedence from loosest to tightest:
 *
 *     a if b else c,  or,  and,  not,  comparisons and in,  + -,  ~,  * / // %,  **,  unary + -,
 *     postfix (. [] ()), filters and tests
 */
#include "datasets/jinja_parser.h"

#include <string.h>

static struct node *binary(struct parser *p, enum node_op op, struct node *left, struct node *right,
                           const struct token *t)
{
    if (right == NULL)
        return NULL;
    struct node *n = parse_node(p, NODE_BINARY, t);
    if (n == NULL)
        return NULL;
    n->op = op;
    n->left = left;
    n->right = right;
    return parse_finish(p, n);
}

struct node *parse_expression(struct parser *p)
{
    struct node *n = parse_or(p);
    while (n != NULL && parse_at_name(p, "if")) {
        struct node *choice = parse_node(p, NODE_IF_ELSE, p->at++);
        if (choice == NULL)
            return NULL;
        choice->left = n;
        choice->right = parse_or(p);
        if (choice->right == NULL)
            return NULL;
        if (parse_at_name(p, "else")) {
            const struct token *t = p->at++;
            if (++p->depth > PARSE_DEPTH) {
                parse_fail(p, t, "expression is nested too deep");
                return NULL;
            }
            choice->other = parse_expression(p);
            p->depth--;
            if (choice->other == NULL)
                return NULL;
        }
        n = parse_finish(p, choice);
    }
    return n;
}

static struct node *parse_not(struct parser *p);

static struct node *parse_and(struct parser *p)
{
    struct node *left = parse_not(p);
    while (left != NULL && parse_at_name(p, "and")) {
        const struct token *t = p->at++;
        left = binary(p, OP_AND, left, parse_not(p), t);
    }
    return left;
}

struct node *parse_or(struct parser *p)
{
    struct node *left = parse_and(p);
    while (left != NULL && parse_at_name(p, "or")) {
        const struct token *t = p->at++;
        left = binary(p, OP_OR, left, parse_and(p), t);
    }
    return left;
}

struct node *parse_prefix(struct parser *p, enum node_op op)
{
    struct node *n = parse_node(p, NODE_UNARY, p->at++);
    if (n == NULL)
        return NULL;
    n->op = op;
    if (++p->depth > PARSE_DEPTH) {
        parse_fail(p, p->at, "expression is nested too deep");
        return NULL;
    }
    n->left = op == OP_NOT ? parse_not(p) : parse_unary(p, false);
    p->depth--;
    return n->left != NULL ? parse_finish(p, n) : NULL;
}

static struct node *parse_sum(struct parser *p);

/* The comparison at hand into *op; steps over it. */
static bool comparison(struct parser *p, enum node_op *op)
{
    switch (p->at->kind) {
    case TOKEN_EQ:
        *op = OP_EQ;
        break;
    case TOKEN_NE:
        *op = OP_NE;
        break;
    case TOKEN_LT:
        *op = OP_LT;
        break;
    case TOKEN_LE:
        *op = OP_LE;
        break;
    case TOKEN_GT:
        *op = OP_GT;
        break;
    case TOKEN_GE:
        *op = OP_GE;
        break;
    default:
        if (parse_at_name(p, "in")) {
            *op = OP_IN;
            break;
        }
        if (!parse_at_name(p, "not") || p->at[1].kind != TOKEN_NAME ||
            !string_is(p->at[1].value.as.string, "in"))
            return false;
        *op = OP_NOT_IN;
        p->at++;
    }
    p->at++;
    return true;
}

static struct node *parse_compare(struct parser *p)
{
    const struct token *t = p->at;
    struct node *left = parse_sum(p), *n = NULL;
    enum node_op op = OP_EQ;
    size_t cap = 0;
    while (left != NULL && comparison(p, &op)) {
        if (n == NULL) {
            n = parse_node(p, NODE_COMPARE, t);
            if (n == NULL)
                return NULL;
            n->left = left;
        }
        struct node *right = parse_sum(p);
        if (right == NULL)
            return NULL;
        if (n->items.n == cap) {
            cap = cap == 0 ? 2 : cap * 2;
            enum node_op *ops = jinja_take_array(p->arena, cap, sizeof *ops);
            if (ops == NULL) {
                parse_no_memory(p);
                return NULL;
            }
            if (n->items.n > 0)
                memcpy(ops, n->ops, n->items.n * sizeof *ops);
            n->ops = ops;
        }
        n->ops[n->items.n] = op;
        if (!node_list_push(p->arena, &n->items, right)) {
            parse_no_memory(p);
            return NULL;
        }
    }
    return n == NULL ? left : parse_finish(p, n);
}

static struct node *parse_not(struct parser *p)
{
    if (parse_at_name(p, "not"))
        return parse_prefix(p, OP_NOT);
    return parse_compare(p);
}

static struct node *parse_power(struct parser *p)
{
    struct node *left = parse_unary(p, true);
    while (left != NULL && p->at->kind == TOKEN_POW) {
        const struct token *t = p->at++;
        left = binary(p, OP_POW, left, parse_unary(p, true), t);
    }
    return left;
}

static struct node *parse_product(struct parser *p)
{
    struct node *left = parse_power(p);
    while (left != NULL) {
        enum node_op op = OP_MUL;
        switch (p->at->kind) {
        case TOKEN_MUL:
            break;
        case TOKEN_DIV:
            op = OP_DIV;
            break;
        case TOKEN_FLOORDIV:
            op = OP_FLOORDIV;
            break;
        case TOKEN_MOD:
            op = OP_MOD;
            break;
        default:
            return left;
        }
        const struct token *t = p->at++;
        left = binary(p, op, left, parse_power(p), t);
    }
    return NULL;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p);
    if (first == NULL || p->at->kind != TOKEN_TILDE)
        return first;
    struct node *n = parse_node(p, NODE_CONCAT, p->at);
    if (n == NULL)
        return NULL;
    do {
        if (first == NULL)
            return NULL;
        if (!node_list_push(p->arena, &n->items, first)) {
            parse_no_memory(p);
            return NULL;
        }
        if (!parse_skip(p, TOKEN_TILDE))
            return parse_finish(p, n);
        first = parse_product(p);
    } while (true);
}

static struct node *parse_sum(struct parser *p)
{
    struct node *left = parse_concat(p);
    while (left != NULL && (p->at->kind == TOKEN_ADD || p->at->kind == TOKEN_SUB)) {
        const struct token *t = p->at++;
        left = binary(p, t->kind == TOKEN_ADD ? OP_ADD : OP_SUB, left, parse_concat(p), t);
    }
    return left;
}
