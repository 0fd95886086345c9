/* The tight end of expressions: literals, names, brackets, and what follows them: members, calls,
 * filters, tests. */
#include "datasets/jinja_parser.h"

#include <string.h>

struct node *parse_finish(struct parser *p, struct node *n)
{
    const struct node *below[3] = { n->left, n->right, n->other };
    int32_t height = 0;
    for (size_t i = 0; i < 3; i++) {
        if (below[i] != NULL && below[i]->height > height)
            height = below[i]->height;
    }
    for (size_t i = 0; i < n->items.n; i++) {
        if (n->items.at[i] != NULL && n->items.at[i]->height > height)
            height = n->items.at[i]->height;
    }
    if (n->call != NULL) {
        for (size_t i = 0; i < n->call->args.n; i++) {
            if (n->call->args.at[i]->height > height)
                height = n->call->args.at[i]->height;
        }
        for (size_t i = 0; i < n->call->n_keyword; i++) {
            if (n->call->keywords[i].value->height > height)
                height = n->call->keywords[i].value->height;
        }
        const struct node *stars[2] = { n->call->star, n->call->star_star };
        for (size_t i = 0; i < 2; i++) {
            if (stars[i] != NULL && stars[i]->height > height)
                height = stars[i]->height;
        }
    }
    n->height = height + 1;
    if (n->height > PARSE_HEIGHT) {
        parse_fail(p, p->at, "expression is too deep (%d levels are supported)", PARSE_HEIGHT);
        return NULL;
    }
    return n;
}

/* `(args)` of a call, filter or test. */
static bool call_arg(struct parser *p, struct node_call *call, const struct token *open)
{
    const bool star = call->star != NULL, star_star = call->star_star != NULL;
    bool in_order = true;
    if (p->at->kind == TOKEN_MUL) {
        in_order = !star && !star_star;
        p->at++;
        call->star = parse_expression(p);
        return in_order ? call->star != NULL
                        : parse_fail(p, open, "invalid syntax for function call expression");
    }
    if (p->at->kind == TOKEN_POW) {
        p->at++;
        call->star_star = parse_expression(p);
        return !star_star ? call->star_star != NULL
                          : parse_fail(p, open, "invalid syntax for function call expression");
    }
    if (p->at->kind != TOKEN_NAME || p->at[1].kind != TOKEN_ASSIGN) {
        if (star || star_star || call->n_keyword > 0)
            return parse_fail(p, open, "invalid syntax for function call expression");
        struct node *arg = parse_expression(p);
        return arg != NULL && (node_list_push(p->arena, &call->args, arg) || parse_no_memory(p));
    }
    if (star_star)
        return parse_fail(p, open, "invalid syntax for function call expression");
    const struct value_string *name = p->at->value.as.string;
    for (size_t i = 0; i < call->n_keyword; i++) {
        if (string_equal(call->keywords[i].name, name))
            return parse_fail(p, p->at, "keyword argument repeated: %.*s",
                              (int)(name->len > 100 ? 100 : name->len), name->data);
    }
    if (call->n_keyword == call->cap_keyword) {
        const size_t cap = call->cap_keyword == 0 ? 4 : call->cap_keyword * 2;
        struct node_keyword *grown = jinja_take_array(p->arena, cap, sizeof *grown);
        if (grown == NULL)
            return parse_no_memory(p);
        if (call->n_keyword > 0)
            memcpy(grown, call->keywords, call->n_keyword * sizeof *grown);
        call->keywords = grown;
        call->cap_keyword = cap;
    }
    p->at += 2;
    struct node *value = parse_expression(p);
    call->keywords[call->n_keyword] = (struct node_keyword){ .name = name, .value = value };
    call->n_keyword += value != NULL;
    return value != NULL;
}

static struct node_call *parse_call(struct parser *p)
{
    const struct token *open = p->at++;
    struct node_call *call = jinja_take(p->arena, sizeof *call);
    if (call == NULL || ++p->depth > PARSE_DEPTH) {
        if (call == NULL)
            parse_no_memory(p);
        else
            parse_fail(p, open, "expression is nested too deep");
        return NULL;
    }
    bool first = true;
    while (p->at->kind != TOKEN_RPAREN) {
        if (!first && !parse_expect(p, TOKEN_COMMA, ","))
            return NULL;
        if (!first && p->at->kind == TOKEN_RPAREN)
            break;
        if (!call_arg(p, call, open))
            return NULL;
        first = false;
    }
    p->depth--;
    return parse_expect(p, TOKEN_RPAREN, ")") ? call : NULL;
}

/* What stands between brackets: an expression, or a slice (as NODE_SLICE without its left side). */
static struct node *parse_index(struct parser *p)
{
    struct node *parts[3] = { NULL, NULL, NULL };
    const struct token *t = p->at;
    if (p->at->kind != TOKEN_COLON) {
        parts[0] = parse_expression(p);
        if (parts[0] == NULL || p->at->kind != TOKEN_COLON)
            return parts[0];
    }
    for (int i = 1; i < 3 && parse_skip(p, TOKEN_COLON); i++) {
        if (p->at->kind == TOKEN_COLON || p->at->kind == TOKEN_RBRACKET ||
            p->at->kind == TOKEN_COMMA)
            continue;
        parts[i] = parse_expression(p);
        if (parts[i] == NULL)
            return NULL;
    }
    struct node *n = parse_node(p, NODE_SLICE, t);
    for (int i = 0; n != NULL && i < 3; i++) {
        if (!node_list_push(p->arena, &n->items, parts[i])) {
            parse_no_memory(p);
            return NULL;
        }
    }
    return n;
}

static struct node *parse_subscript(struct parser *p, struct node *left)
{
    const struct token *t = p->at++;
    if (t->kind == TOKEN_DOT) {
        const struct token *attr = p->at++;
        if (attr->kind != TOKEN_NAME &&
            !(attr->kind == TOKEN_CONST && attr->value.kind == VALUE_INT)) {
            p->at = attr;
            parse_fail(p, attr, "expected name or number");
            return NULL;
        }
        struct node *n = parse_node(p, attr->kind == TOKEN_NAME ? NODE_ATTR : NODE_ITEM, t);
        if (n == NULL)
            return NULL;
        n->left = left;
        if (attr->kind == TOKEN_NAME) {
            n->name = attr->value.as.string;
        } else {
            n->right = parse_node(p, NODE_CONST, attr);
            if (n->right == NULL)
                return NULL;
            n->right->value = attr->value;
        }
        return parse_finish(p, n);
    }
    if (++p->depth > PARSE_DEPTH) {
        parse_fail(p, t, "expression is nested too deep");
        return NULL;
    }
    if (p->at->kind == TOKEN_RBRACKET) {
        parse_fail(p, p->at, "expected subscript expression");
        return NULL;
    }
    struct node *index = parse_index(p);
    p->depth--;
    if (index == NULL)
        return NULL;
    if (p->at->kind == TOKEN_COMMA) {
        parse_fail(p, p->at, "subscripts with commas are not supported");
        return NULL;
    }
    if (!parse_expect(p, TOKEN_RBRACKET, "]"))
        return NULL;
    if (index->kind == NODE_SLICE && index->left == NULL) {
        index->left = left;
        return parse_finish(p, index);
    }
    struct node *n = parse_node(p, NODE_ITEM, t);
    if (n == NULL)
        return NULL;
    n->left = left;
    n->right = index;
    return parse_finish(p, n);
}

static struct node *parse_called(struct parser *p, struct node *left)
{
    struct node *n = parse_node(p, NODE_CALL, p->at);
    if (n == NULL)
        return NULL;
    n->left = left;
    n->call = parse_call(p);
    return n->call != NULL ? parse_finish(p, n) : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    while (n != NULL) {
        if (p->at->kind == TOKEN_DOT || p->at->kind == TOKEN_LBRACKET)
            n = parse_subscript(p, n);
        else if (p->at->kind == TOKEN_LPAREN)
            n = parse_called(p, n);
        else
            break;
    }
    return n;
}

static struct node *parse_items(struct parser *p)
{
    const bool dict = p->at->kind == TOKEN_LBRACE;
    const enum token_kind close = dict ? TOKEN_RBRACE : TOKEN_RBRACKET;
    struct node *n = parse_node(p, dict ? NODE_DICT : NODE_LIST, p->at++);
    if (n == NULL)
        return NULL;
    while (p->at->kind != close) {
        if (n->items.n > 0 && !parse_expect(p, TOKEN_COMMA, ","))
            return NULL;
        if (p->at->kind == close)
            break;
        for (int i = 0; i < (dict ? 2 : 1); i++) {
            if (i == 1 && !parse_expect(p, TOKEN_COLON, ":"))
                return NULL;
            struct node *item = parse_expression(p);
            if (item == NULL)
                return NULL;
            if (!node_list_push(p->arena, &n->items, item)) {
                parse_no_memory(p);
                return NULL;
            }
        }
    }
    p->at++;
    return parse_finish(p, n);
}

/* true, false, none and their capitalized spellings; else a variable. */
static struct node *parse_name(struct parser *p, bool with_namespace)
{
    const struct token *t = p->at++;
    const struct value_string *name = t->value.as.string;
    struct node *n = parse_node(p, NODE_CONST, t);
    if (n == NULL)
        return NULL;
    n->height = 1;
    if (string_is(name, "true") || string_is(name, "True")) {
        n->value = value_bool(true);
    } else if (string_is(name, "false") || string_is(name, "False")) {
        n->value = value_bool(false);
    } else if (string_is(name, "none") || string_is(name, "None")) {
        n->value = value_none();
    } else {
        n->kind = NODE_NAME;
        n->name = name;
        if (with_namespace && parse_skip(p, TOKEN_DOT)) {
            n->kind = NODE_NS_ATTR;
            if (!parse_expect_name(p, &n->attr))
                return NULL;
        }
    }
    return n;
}

/* Neighbouring strings are one. */
static struct node *parse_literal(struct parser *p)
{
    struct node *n = parse_node(p, NODE_CONST, p->at);
    if (n == NULL)
        return NULL;
    n->height = 1;
    n->value = p->at->value;
    const bool string = p->at++->kind == TOKEN_STRING;
    while (string && p->at->kind == TOKEN_STRING) {
        n->value =
            value_of_string(string_concat(p->arena, n->value.as.string, p->at->value.as.string));
        if (n->value.as.string == NULL) {
            parse_no_memory(p);
            return NULL;
        }
        p->at++;
    }
    if (string) { /* a constant does not grow in place: renderings share it */
        const struct value_string *whole = n->value.as.string;
        n->value = value_of_string(string_point(p->arena, whole->data, whole->len));
        if (n->value.as.string == NULL) {
            parse_no_memory(p);
            return NULL;
        }
    }
    return n;
}

static struct node *parse_primary(struct parser *p, bool with_namespace)
{
    char buffer[64];
    struct node *n = NULL;
    if (++p->depth > PARSE_DEPTH) {
        parse_fail(p, p->at, "expression is nested too deep");
        return NULL;
    }
    switch (p->at->kind) {
    case TOKEN_NAME:
        n = parse_name(p, with_namespace);
        break;
    case TOKEN_STRING:
    case TOKEN_CONST:
        n = parse_literal(p);
        break;
    case TOKEN_LPAREN:
        p->at++;
        n = parse_tuple(p, TUPLE_PARENS);
        if (n != NULL && !parse_expect(p, TOKEN_RPAREN, ")"))
            n = NULL;
        break;
    case TOKEN_LBRACKET:
    case TOKEN_LBRACE:
        n = parse_items(p);
        break;
    default:
        parse_fail(p, p->at, "unexpected '%s'", token_describe(p->at, buffer));
    }
    p->depth--;
    return n;
}

struct node *parse_tuple(struct parser *p, int flags)
{
    char buffer[64];
    const struct token *t = p->at;
    struct node_list items = { 0 };
    bool is_tuple = false;
    while (true) {
        if (items.n > 0 && !parse_expect(p, TOKEN_COMMA, ","))
            return NULL;
        const enum token_kind kind = p->at->kind;
        if (kind == TOKEN_PRINT_END || kind == TOKEN_BLOCK_END || kind == TOKEN_RPAREN)
            break;
        struct node *item = flags & TUPLE_NAMES   ? parse_primary(p, (flags & TUPLE_NS) != 0)
                            : flags & TUPLE_NO_IF ? parse_or(p)
                                                  : parse_expression(p);
        if (item == NULL)
            return NULL;
        if (!node_list_push(p->arena, &items, item)) {
            parse_no_memory(p);
            return NULL;
        }
        if (p->at->kind != TOKEN_COMMA)
            break;
        is_tuple = true;
    }
    if (!is_tuple && items.n > 0)
        return items.at[0];
    if (!is_tuple && !(flags & TUPLE_PARENS)) {
        parse_fail(p, p->at, "expected an expression, got '%s'", token_describe(p->at, buffer));
        return NULL;
    }
    struct node *n = parse_node(p, NODE_TUPLE, t);
    if (n == NULL)
        return NULL;
    n->items = items;
    return parse_finish(p, n);
}

/* A filter's or test's name; dots belong to it. */
static const struct value_string *parse_dotted(struct parser *p)
{
    static const struct value_string dot = { .data = ".", .len = 1 };
    const struct value_string *name = NULL, *part = NULL;
    if (!parse_expect_name(p, &name))
        return NULL;
    while (parse_skip(p, TOKEN_DOT)) {
        if (!parse_expect_name(p, &part))
            return NULL;
        name = string_concat(p->arena, name, &dot);
        if (name != NULL)
            name = string_concat(p->arena, name, part);
        if (name == NULL) {
            parse_no_memory(p);
            return NULL;
        }
    }
    return name;
}

struct node *parse_filters(struct parser *p, struct node *left, bool inside)
{
    while (inside || p->at->kind == TOKEN_PIPE) {
        if (!inside)
            p->at++;
        inside = false;
        struct node *n = parse_node(p, NODE_FILTER, p->at);
        if (n == NULL)
            return NULL;
        n->left = left;
        n->name = parse_dotted(p);
        if (n->name == NULL)
            return NULL;
        n->call =
            p->at->kind == TOKEN_LPAREN ? parse_call(p) : jinja_take(p->arena, sizeof *n->call);
        if (n->call == NULL) {
            if (p->arena->failed)
                parse_no_memory(p);
            return NULL;
        }
        left = parse_finish(p, n);
        if (left == NULL)
            return NULL;
    }
    return left;
}

static bool starts_operand(const struct token *t)
{
    switch (t->kind) {
    case TOKEN_NAME:
    case TOKEN_STRING:
    case TOKEN_CONST:
    case TOKEN_LBRACKET:
    case TOKEN_LBRACE:
        return true;
    default:
        return false;
    }
}

/* `is [not] name`, with arguments in parentheses or one argument without. */
static struct node *parse_test(struct parser *p, struct node *left)
{
    const struct token *t = p->at++;
    const bool negated = parse_skip_name(p, "not");
    struct node *n = parse_node(p, NODE_TEST, p->at);
    if (n == NULL)
        return NULL;
    n->left = left;
    n->name = parse_dotted(p);
    if (n->name == NULL)
        return NULL;
    if (p->at->kind == TOKEN_LPAREN) {
        n->call = parse_call(p);
        if (n->call == NULL)
            return NULL;
    } else {
        n->call = jinja_take(p->arena, sizeof *n->call);
        if (n->call == NULL) {
            parse_no_memory(p);
            return NULL;
        }
        if (starts_operand(p->at) && !parse_at_name(p, "else") && !parse_at_name(p, "or") &&
            !parse_at_name(p, "and")) {
            if (parse_at_name(p, "is")) {
                parse_fail(p, p->at, "you cannot chain multiple tests with is");
                return NULL;
            }
            struct node *arg = parse_postfix(p, parse_primary(p, false));
            if (arg == NULL)
                return NULL;
            if (!node_list_push(p->arena, &n->call->args, arg)) {
                parse_no_memory(p);
                return NULL;
            }
        }
    }
    n = parse_finish(p, n);
    if (n == NULL || !negated)
        return n;
    struct node *not = parse_node(p, NODE_UNARY, t);
    if (not == NULL)
        return NULL;
    not ->op = OP_NOT;
    not ->left = n;
    return parse_finish(p, not );
}

struct node *parse_unary(struct parser *p, bool with_filters)
{
    struct node *n = NULL;
    if (p->at->kind == TOKEN_SUB || p->at->kind == TOKEN_ADD)
        n = parse_prefix(p, p->at->kind == TOKEN_SUB ? OP_NEG : OP_POS);
    else
        n = parse_primary(p, false);
    n = parse_postfix(p, n);
    while (n != NULL && with_filters) {
        if (p->at->kind == TOKEN_PIPE)
            n = parse_filters(p, n, false);
        else if (parse_at_name(p, "is"))
            n = parse_test(p, n);
        else if (p->at->kind == TOKEN_LPAREN)
            n = parse_called(p, n);
        else
            break;
    }
    return n;
}
