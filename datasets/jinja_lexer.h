/* Template text to tokens. The whole text is cut before parsing: the cuts depend on the text alone
 * (trim_blocks, lstrip_blocks and the signs in tags are applied here). */
#ifndef DATASETS_JINJA_LEXER_H
#define DATASETS_JINJA_LEXER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/jinja_arena.h"
#include "datasets/jinja_value.h"
#include "kernels/core/err.h"

enum token_kind {
    TOKEN_DATA, /* text between tags; value */
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,   /* value: the name */
    TOKEN_CONST,  /* a number; value */
    TOKEN_STRING, /* value */
    TOKEN_ADD,
    TOKEN_SUB,
    TOKEN_DIV,
    TOKEN_FLOORDIV,
    TOKEN_MUL,
    TOKEN_MOD,
    TOKEN_POW,
    TOKEN_TILDE,
    TOKEN_LBRACKET,
    TOKEN_RBRACKET,
    TOKEN_LPAREN,
    TOKEN_RPAREN,
    TOKEN_LBRACE,
    TOKEN_RBRACE,
    TOKEN_EQ,
    TOKEN_NE,
    TOKEN_GT,
    TOKEN_GE,
    TOKEN_LT,
    TOKEN_LE,
    TOKEN_ASSIGN,
    TOKEN_DOT,
    TOKEN_COLON,
    TOKEN_PIPE,
    TOKEN_COMMA,
    TOKEN_SEMICOLON,
    TOKEN_END,
};

struct token {
    enum token_kind kind;
    int32_t line, column;
    struct value value;
};

struct token_list {
    struct token *at; /* in the arena; ends with TOKEN_END */
    size_t n, cap;
};

/* `name` starts messages. */
bool jinja_tokenize(struct jinja_arena *a, const char *text, size_t n, const char *name,
                    struct token_list *tokens, struct err *err);

/* "'}'", "end of print statement", a name: for messages. */
const char *token_describe(const struct token *t, char buffer[64]);

#endif
