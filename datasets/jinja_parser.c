/* Statements, and jinja_parse itself. */
#include "datasets/jinja_parser.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/jinja.h"
#include "datasets/jinja_scope.h"
#include "kernels/core/text.h"

bool node_list_push(struct jinja_arena *a, struct node_list *list, struct node *n)
{
    if (list->n == list->cap) {
        const size_t cap = list->cap == 0 ? 4 : list->cap * 2;
        struct node **at = jinja_take_array(a, cap, sizeof *at);
        if (at == NULL)
            return false;
        if (list->n > 0)
            memcpy(at, list->at, list->n * sizeof *at);
        list->at = at;
        list->cap = cap;
    }
    list->at[list->n++] = n;
    return true;
}

bool parse_fail(struct parser *p, const struct token *t, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(p->err, ERR_DATA, "%s:%d:%d: %s", p->name, (int)t->line, (int)t->column, text);
}

bool parse_no_memory(struct parser *p)
{
    return err_no_memory(p->err, p->name);
}

bool parse_at_name(const struct parser *p, const char *name)
{
    return p->at->kind == TOKEN_NAME && string_is(p->at->value.as.string, name);
}

bool parse_skip(struct parser *p, enum token_kind kind)
{
    if (p->at->kind != kind)
        return false;
    p->at++;
    return true;
}

bool parse_skip_name(struct parser *p, const char *name)
{
    if (!parse_at_name(p, name))
        return false;
    p->at++;
    return true;
}

bool parse_expect(struct parser *p, enum token_kind kind, const char *what)
{
    char buffer[64];
    if (parse_skip(p, kind))
        return true;
    if (p->at->kind == TOKEN_END)
        return parse_fail(p, p->at, "unexpected end of template, expected '%s'", what);
    return parse_fail(p, p->at, "expected token '%s', got '%s'", what,
                      token_describe(p->at, buffer));
}

bool parse_expect_name(struct parser *p, const struct value_string **name)
{
    if (p->at->kind == TOKEN_NAME)
        *name = p->at->value.as.string;
    return parse_expect(p, TOKEN_NAME, "name");
}

struct node *parse_node(struct parser *p, enum node_kind kind, const struct token *t)
{
    struct node *n = jinja_take(p->arena, sizeof *n);
    if (n == NULL) {
        parse_no_memory(p);
        return NULL;
    }
    n->kind = kind;
    n->line = t->line;
    n->column = t->column;
    n->height = 1;
    return n;
}

static bool expect_tag_end(struct parser *p)
{
    return parse_expect(p, TOKEN_BLOCK_END, "end of statement block");
}

/* Names, tuples of them and namespace attributes; nothing else can be assigned to. */
static bool check_target(struct parser *p, const struct node *n, const struct token *t)
{
    switch (n->kind) {
    case NODE_NAME:
        if (p->n_for > 0 && string_is(n->name, "loop"))
            return parse_fail(p, t, "can't assign to special loop variable in for-loop target");
        return true;
    case NODE_NS_ATTR:
        return true;
    case NODE_TUPLE:
        for (size_t i = 0; i < n->items.n; i++) {
            if (!check_target(p, n->items.at[i], t))
                return false;
        }
        return true;
    default:
        return parse_fail(p, t, "can't assign to this; a name is expected");
    }
}

static struct node *parse_target(struct parser *p, int flags)
{
    const struct token *t = p->at;
    struct node *n = parse_tuple(p, TUPLE_NAMES | flags);
    return n != NULL && check_target(p, n, t) ? n : NULL;
}

static bool parse_until(struct parser *p, const char *const ends[], struct node_list *body,
                        int *which);

/* The inside of a block up to one of `ends` (NULL after the last), whose name is stepped over. */
static bool parse_body(struct parser *p, const char *const ends[], struct node_list *body,
                       int *which)
{
    parse_skip(p, TOKEN_COLON);
    if (!expect_tag_end(p))
        return false;
    if (++p->depth > PARSE_DEPTH)
        return parse_fail(p, p->at, "blocks are nested too deep (%d levels are supported)",
                          PARSE_DEPTH);
    const bool ok = parse_until(p, ends, body, which);
    p->depth--;
    return ok;
}

static bool parse_simple_body(struct parser *p, const char *end, struct node_list *body)
{
    const char *const ends[] = { end, NULL };
    int which = 0;
    return parse_body(p, ends, body, &which);
}

static bool parse_if(struct parser *p, struct node *n)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    struct node *branch = n;
    n->kind = NODE_IF;
    while (true) {
        int which = 0;
        branch->left = parse_tuple(p, TUPLE_NO_IF);
        if (branch->left == NULL || !parse_body(p, ends, &branch->body, &which))
            return false;
        if (which == 1)
            return parse_simple_body(p, "endif", &n->rest);
        if (which == 2)
            return true;
        branch = parse_node(p, NODE_IF, p->at);
        if (branch == NULL)
            return false;
        if (!node_list_push(p->arena, &n->items, branch))
            return parse_no_memory(p);
    }
}

static bool parse_for(struct parser *p, struct node *n)
{
    static const char *const ends[] = { "else", "endfor", NULL };
    n->kind = NODE_FOR;
    n->loop = jinja_take(p->arena, sizeof *n->loop);
    if (n->loop == NULL)
        return parse_no_memory(p);
    p->n_for++;
    n->left = parse_target(p, 0);
    if (n->left == NULL)
        return false;
    if (!parse_skip_name(p, "in"))
        return parse_fail(p, p->at, "expected token 'in'");
    n->right = parse_tuple(p, TUPLE_NO_IF);
    if (n->right == NULL)
        return false;
    if (parse_skip_name(p, "if")) {
        n->other = parse_expression(p);
        if (n->other == NULL)
            return false;
    }
    n->loop->recursive = parse_skip_name(p, "recursive");
    p->n_loop++;
    int which = 0;
    if (!parse_body(p, ends, &n->body, &which))
        return false;
    p->n_loop--;
    /* In a recursive loop the else branch is inside the loop's own function. */
    const int n_loop = p->n_loop;
    if (n->loop->recursive)
        p->n_loop = 0;
    if (which == 0 && !parse_simple_body(p, "endfor", &n->rest))
        return false;
    p->n_loop = n_loop;
    p->n_for--;
    return true;
}

static bool parse_set(struct parser *p, struct node *n)
{
    n->left = parse_target(p, TUPLE_NS);
    if (n->left == NULL)
        return false;
    n->kind = NODE_SET;
    if (parse_skip(p, TOKEN_ASSIGN)) {
        n->right = parse_tuple(p, 0);
        return n->right != NULL;
    }
    n->kind = NODE_SET_BLOCK;
    if (p->at->kind == TOKEN_PIPE) {
        n->right = parse_filters(p, NULL, false);
        if (n->right == NULL)
            return false;
    }
    return parse_simple_body(p, "endset", &n->body);
}

static bool parse_with(struct parser *p, struct node *n)
{
    n->kind = NODE_WITH;
    while (p->at->kind != TOKEN_BLOCK_END) {
        if (n->items.n > 0 && !parse_expect(p, TOKEN_COMMA, ","))
            return false;
        const struct token *t = p->at;
        struct node *target = parse_tuple(p, TUPLE_NAMES);
        const int n_for = p->n_for;
        p->n_for = 0; /* `loop` may be bound here */
        if (target == NULL || !check_target(p, target, t) || !parse_expect(p, TOKEN_ASSIGN, "="))
            return false;
        p->n_for = n_for;
        struct node *value = parse_expression(p);
        if (value == NULL)
            return false;
        if (!node_list_push(p->arena, &n->items, target) ||
            !node_list_push(p->arena, &n->items, value))
            return parse_no_memory(p);
    }
    return parse_simple_body(p, "endwith", &n->body);
}

/* `(a, b=1)` */
static bool parse_signature(struct parser *p, struct node_macro *m)
{
    if (!parse_expect(p, TOKEN_LPAREN, "("))
        return false;
    while (p->at->kind != TOKEN_RPAREN) {
        if (m->args.n > 0 && !parse_expect(p, TOKEN_COMMA, ","))
            return false;
        const struct token *t = p->at;
        struct node *arg = parse_node(p, NODE_NAME, t);
        if (arg == NULL || !parse_expect_name(p, &arg->name))
            return false;
        for (size_t i = 0; i < m->args.n; i++) {
            if (string_equal(m->args.at[i]->name, arg->name))
                return parse_fail(p, t, "duplicate argument '%.*s' in macro",
                                  (int)(arg->name->len > 100 ? 100 : arg->name->len),
                                  arg->name->data);
        }
        if (parse_skip(p, TOKEN_ASSIGN)) {
            struct node *value = parse_expression(p);
            if (value == NULL)
                return false;
            if (!node_list_push(p->arena, &m->defaults, value))
                return parse_no_memory(p);
        } else if (m->defaults.n > 0) {
            return parse_fail(p, p->at, "non-default argument follows default argument");
        }
        if (!node_list_push(p->arena, &m->args, arg))
            return parse_no_memory(p);
    }
    p->at++;
    return true;
}

/* The body of a macro, call block or generation block: a function, so no break leaves it. */
static bool parse_macro_body(struct parser *p, const char *end, struct node_macro *m)
{
    const int n_loop = p->n_loop;
    p->n_loop = 0;
    if (!parse_simple_body(p, end, &m->body))
        return false;
    p->n_loop = n_loop;
    return true;
}

static bool parse_macro(struct parser *p, struct node *n)
{
    n->kind = NODE_MACRO;
    return parse_expect_name(p, &n->macro->name) && parse_signature(p, n->macro) &&
           parse_macro_body(p, "endmacro", n->macro);
}

static bool parse_call_block(struct parser *p, struct node *n)
{
    const struct token *t = p->at;
    n->kind = NODE_CALL_BLOCK;
    if (p->at->kind == TOKEN_LPAREN && !parse_signature(p, n->macro))
        return false;
    n->left = parse_expression(p);
    if (n->left == NULL)
        return false;
    if (n->left->kind != NODE_CALL)
        return parse_fail(p, t, "expected call");
    return parse_macro_body(p, "endcall", n->macro);
}

static bool parse_generation(struct parser *p, struct node *n)
{
    n->kind = NODE_GENERATION;
    p->template->has_generation = true;
    return parse_macro_body(p, "endgeneration", n->macro);
}

static bool parse_filter_block(struct parser *p, struct node *n)
{
    n->kind = NODE_FILTER_BLOCK;
    n->right = parse_filters(p, NULL, true);
    return n->right != NULL && parse_simple_body(p, "endfilter", &n->body);
}

static bool parse_print(struct parser *p, struct node *n)
{
    n->kind = NODE_PRINT;
    while (p->at->kind != TOKEN_BLOCK_END) {
        if (n->items.n > 0 && !parse_expect(p, TOKEN_COMMA, ","))
            return false;
        struct node *item = parse_expression(p);
        if (item == NULL)
            return false;
        if (!node_list_push(p->arena, &n->items, item))
            return parse_no_memory(p);
    }
    return true;
}

static bool parse_break(struct parser *p, struct node *n)
{
    n->kind = string_is(p->at[-1].value.as.string, "break") ? NODE_BREAK : NODE_CONTINUE;
    if (p->n_loop == 0)
        return parse_fail(p, p->at - 1, "'%s' outside loop",
                          n->kind == NODE_BREAK ? "break" : "continue");
    return true;
}

static const struct {
    const char *name;
    bool (*parse)(struct parser *p, struct node *n); /* NULL: jinja2 has it, we do not */
} statements[] = {
    { "if", parse_if },
    { "for", parse_for },
    { "set", parse_set },
    { "with", parse_with },
    { "macro", parse_macro },
    { "call", parse_call_block },
    { "filter", parse_filter_block },
    { "generation", parse_generation },
    { "print", parse_print },
    { "break", parse_break },
    { "continue", parse_break },
    { "block", NULL },
    { "extends", NULL },
    { "include", NULL },
    { "import", NULL },
    { "from", NULL },
    { "autoescape", NULL },
};

/* One statement, its name at hand; `ends` is what the block around it waits for. */
static struct node *parse_statement(struct parser *p, const char *const ends[])
{
    const struct token *t = p->at;
    if (t->kind != TOKEN_NAME) {
        parse_fail(p, t, "tag name expected");
        return NULL;
    }
    const struct value_string *name = t->value.as.string;
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!string_is(name, statements[i].name))
            continue;
        if (statements[i].parse == NULL) {
            parse_fail(p, t, "{%% %s %%} is not supported in chat templates", statements[i].name);
            return NULL;
        }
        struct node *n = parse_node(p, NODE_PRINT, t);
        if (n == NULL)
            return NULL;
        n->macro = jinja_take(p->arena, sizeof *n->macro);
        if (n->macro == NULL) {
            parse_no_memory(p);
            return NULL;
        }
        p->at++;
        return statements[i].parse(p, n) ? n : NULL;
    }
    char expected[128] = "";
    for (size_t i = 0; ends != NULL && ends[i] != NULL; i++) {
        const size_t used = strlen(expected);
        snprintf(expected + used, sizeof expected - used, "%s'%s'", i == 0 ? "; expected " : " or ",
                 ends[i]);
    }
    parse_fail(p, t, "encountered unknown tag '%.*s'%s", (int)(name->len > 100 ? 100 : name->len),
               name->data, expected);
    return NULL;
}

static bool push(struct parser *p, struct node_list *body, struct node *n)
{
    return n != NULL && (node_list_push(p->arena, body, n) || parse_no_memory(p));
}

/* `{{ ... }}` */
static struct node *parse_output(struct parser *p)
{
    struct node *n = parse_node(p, NODE_PRINT, p->at++);
    if (n == NULL)
        return NULL;
    struct node *item = parse_tuple(p, 0);
    if (item == NULL || !parse_expect(p, TOKEN_PRINT_END, "end of print statement"))
        return NULL;
    return push(p, &n->items, item) ? n : NULL;
}

/* Text and tags up to one of `ends`, or with ends NULL up to the template's end. */
static bool parse_until(struct parser *p, const char *const ends[], struct node_list *body,
                        int *which)
{
    while (true) {
        const struct token *t = p->at;
        struct node *n = NULL;
        switch (t->kind) {
        case TOKEN_DATA:
            n = parse_node(p, NODE_TEXT, t);
            if (n == NULL)
                return false;
            n->value = t->value;
            p->at++;
            break;
        case TOKEN_PRINT_BEGIN:
            n = parse_output(p);
            break;
        case TOKEN_BLOCK_BEGIN:
            p->at++;
            for (int i = 0; ends != NULL && ends[i] != NULL; i++) {
                if (parse_skip_name(p, ends[i])) {
                    *which = i;
                    return true;
                }
            }
            n = parse_statement(p, ends);
            if (n != NULL && !expect_tag_end(p))
                return false;
            break;
        default: /* the end: tags are parsed whole */
            return ends == NULL ||
                   parse_fail(p, t, "unexpected end of template, expected '%s'%s%s%s", ends[0],
                              ends[1] != NULL ? " or '" : "", ends[1] != NULL ? ends[1] : "",
                              ends[1] != NULL ? "'" : "");
        }
        if (!push(p, body, n))
            return false;
    }
}

struct jinja_template *jinja_parse(const char *text, size_t n, const char *name, struct err *err)
{
    size_t bad = 0;
    if (!text_is_utf8(text, n, &bad)) {
        err_set(err, ERR_DATA, "%s: is not UTF-8 (byte %zu)", name, bad);
        return NULL;
    }
    struct jinja_template *t = calloc(1, sizeof *t);
    if (t == NULL || (t->name = text_copy(name)) == NULL) {
        free(t);
        err_no_memory(err, name);
        return NULL;
    }
    struct token_list tokens = { 0 };
    struct parser p = { .template = t, .arena = &t->arena, .name = t->name, .err = err };
    bool ok = jinja_tokenize(&t->arena, text, n, t->name, &tokens, err);
    if (ok) {
        int which = 0;
        p.at = tokens.at;
        ok = parse_until(&p, NULL, &t->body, &which) && jinja_resolve(t, err);
    }
    if (!ok) {
        jinja_free(t);
        return NULL;
    }
    return t;
}

void jinja_free(struct jinja_template *t)
{
    if (t == NULL)
        return;
    jinja_arena_free(&t->arena);
    free(t->name);
    free(t);
}

bool jinja_has_generation(const struct jinja_template *t)
{
    return t->has_generation;
}
