/* The parsed template: nodes, and the frames that give names their slots.
 *
 * Scoping is decided once, by jinja_scope, as jinja2's compiler decides it: each frame (the
 * template, a loop body, a macro, ...) lists what it must load when it is entered; a function (the
 * template, a macro or call block, a recursive loop, a loop's filter) owns the slots of the frames
 * inside it.
 */
#ifndef DATASETS_JINJA_AST_H
#define DATASETS_JINJA_AST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/jinja_arena.h"
#include "datasets/jinja_value.h"

enum node_kind {
    /* expressions; operands in left, right, other, items */
    NODE_CONST,   /* value */
    NODE_NAME,    /* name; up, slot */
    NODE_TUPLE,   /* items */
    NODE_LIST,    /* items */
    NODE_DICT,    /* items: key, value, key, value */
    NODE_CONCAT,  /* items, joined by ~ */
    NODE_BINARY,  /* left op right; `and`, `or` too */
    NODE_UNARY,   /* op left */
    NODE_COMPARE, /* left, then items[i] compared by ops[i] */
    NODE_IF_ELSE, /* left if right else other; other may be NULL */
    NODE_ATTR,    /* left.name */
    NODE_ITEM,    /* left[right] */
    NODE_SLICE,   /* left[items[0]:items[1]:items[2]], each may be NULL */
    NODE_CALL,    /* left(call) */
    NODE_FILTER,  /* left | name(call); left NULL: of a block's text */
    NODE_TEST,    /* left is name(call) */
    NODE_NS_ATTR, /* name.attr as a target of set; up, slot: of name */
    /* statements */
    NODE_TEXT,         /* value */
    NODE_PRINT,        /* left */
    NODE_IF,           /* left, body, rest; an elif is an if alone in rest */
    NODE_FOR,          /* left (target) in right if other: body else rest */
    NODE_SET,          /* left = right */
    NODE_SET_BLOCK,    /* left = body | right (a filter, or NULL) */
    NODE_WITH,         /* items: target, value, ...; body */
    NODE_MACRO,        /* macro; up, slot: of its name */
    NODE_CALL_BLOCK,   /* left (a call) with macro as its caller */
    NODE_GENERATION,   /* macro without arguments: its text is marked */
    NODE_FILTER_BLOCK, /* body | right */
    NODE_BREAK,
    NODE_CONTINUE,
};

enum node_op {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_AND,
    OP_OR,
    OP_NOT,
    OP_NEG,
    OP_POS,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
};

struct node_list {
    struct node **at;
    size_t n, cap;
};

struct node_keyword {
    const struct value_string *name;
    struct node *value;
};

struct node_call {
    struct node_list args;
    struct node_keyword *keywords;
    size_t n_keyword, cap_keyword;
    struct node *star, *star_star; /* *args, **kwargs, or NULL */
};

enum load_how {
    LOAD_NONE,      /* a parameter: set by who enters the frame */
    LOAD_CONTEXT,   /* the variable or global of that name */
    LOAD_OUTER,     /* a copy of an outer frame's slot */
    LOAD_UNDEFINED, /* nothing yet */
};

struct frame_load {
    enum load_how how;
    int32_t slot;
    int32_t up, from; /* LOAD_OUTER: the slot; LOAD_CONTEXT: `from` counts the template's names */
};

struct node_frame {
    struct frame_load *loads;
    size_t n_load;
};

/* Where a parameter that nothing refers to goes. */
enum { NO_SLOT = -1 };

struct node_macro {
    const struct value_string *name;                /* NULL: a call block */
    struct node_list args;                          /* NODE_NAME */
    struct node_list defaults;                      /* of the last ones */
    int32_t slot_caller, slot_kwargs, slot_varargs; /* or NO_SLOT */
    bool explicit_caller;
    int32_t n_slot;
    struct node_frame frame;
    struct node_list body;
};

struct node_for {
    bool recursive;
    int32_t slot_loop;            /* or NO_SLOT: `loop` is not read */
    int32_t n_slot;               /* recursive: of the function that the body is */
    struct node_frame body, rest; /* the frames of the two branches */
    struct node *test_target;     /* the target once more, in the filter's own function */
    struct node_frame test;
    int32_t n_slot_test;
};

struct node {
    enum node_kind kind;
    enum node_op op;
    int32_t line, column; /* from 1; columns in characters */
    int32_t height;       /* of an expression: of the tree below */
    struct node *left, *right, *other;
    struct node_list items;
    enum node_op *ops;
    struct node_call *call;
    const struct value_string *name, *attr;
    const struct filter *filter; /* NODE_FILTER; NULL: unknown, an error if reached */
    const struct test *test;     /* NODE_TEST; likewise */
    struct value value;
    int32_t up, slot; /* up: function boundaries to cross */
    struct node_list body, rest;
    struct node_macro *macro;
    struct node_for *loop;
    struct node_frame frame; /* of with, set block, filter block */
};

struct jinja_template {
    struct jinja_arena arena;
    char *name;
    struct node_list body;
    struct node_frame frame;
    int32_t n_slot;
    /* Names that are looked up among the variables, by frame_load.from. */
    const struct value_string **names;
    size_t n_name, cap_name;
    bool has_generation;
};

/* Appends; false when the arena has no memory. */
bool node_list_push(struct jinja_arena *a, struct node_list *list, struct node *n);

#endif
