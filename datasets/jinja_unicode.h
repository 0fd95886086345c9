/* Characters as Python's str methods see them. */
#ifndef DATASETS_JINJA_UNICODE_H
#define DATASETS_JINJA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* str.isalpha() and so on of one character. The order is that of make_unicode.py. */
enum unicode_flag {
    UNICODE_ALPHA = 1 << 0,
    UNICODE_DECIMAL = 1 << 1,
    UNICODE_DIGIT = 1 << 2,
    UNICODE_NUMERIC = 1 << 3,
    UNICODE_PRINTABLE = 1 << 4,
    UNICODE_UPPER = 1 << 5,
    UNICODE_LOWER = 1 << 6,
    UNICODE_TITLE = 1 << 7,
    UNICODE_IGNORABLE = 1 << 8, /* case-ignorable */
    UNICODE_SPACE = 1 << 9,
};

unsigned unicode_flags_of(uint32_t code);
bool unicode_is(uint32_t code, enum unicode_flag flag);

/* The value 0..9 of a decimal digit of any script, -1 of other characters. */
int unicode_decimal(uint32_t code);

/* The mapped characters (1 to 3) into out; returns how many. */
int unicode_upper(uint32_t code, uint32_t out[3]);
int unicode_lower(uint32_t code, uint32_t out[3]); /* but for the final sigma */
int unicode_title(uint32_t code, uint32_t out[3]);

/* The character at s, which is valid UTF-8 and has at least one byte; *n its length in bytes. */
uint32_t unicode_decode(const char *s, size_t *n);
/* The character that ends at s + end; *n its length in bytes. */
uint32_t unicode_decode_back(const char *s, size_t end, size_t *n);
/* Its bytes; returns how many (1..4). */
size_t unicode_encode(uint32_t code, char out[4]);

#endif
