/* Growing text, and small string helpers.
 *
 *     struct text t = { 0 };
 *     text_printf(&t, "%d", 1);
 *     if (t.failed) ...            // out of memory is remembered, checked once at the end
 *     text_free(&t);
 */
#ifndef KERNELS_CORE_TEXT_H
#define KERNELS_CORE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data; /* always terminated when not NULL */
    size_t len, cap;
    bool failed; /* an allocation failed; what follows is dropped */
};

void text_append(struct text *t, const char *bytes, size_t n);
void text_puts(struct text *t, const char *s);
void text_printf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_clear(struct text *t);
void text_free(struct text *t);

/* strdup and its formatted sister; NULL when memory is out. */
char *text_copy(const char *s);
char *text_copy_n(const char *s, size_t n);
char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

bool text_starts_with(const char *s, const char *prefix);
bool text_ends_with(const char *s, const char *suffix);

/* Whether bytes[0..n) is well-formed UTF-8 (no overlong forms, surrogates or code points past
 * U+10FFFF). On failure *at is the offset of the first bad byte (at may be NULL). */
bool text_is_utf8(const char *bytes, size_t n, size_t *at);

/* Length in bytes (1..4) of the UTF-8 character at s, which has n > 0 bytes left and is valid. */
size_t text_utf8_length(const char *s);

/* Index of the candidate nearest to word by edit distance, or -1 when none is near enough to be
 * worth suggesting (more than a third of the word changed). */
int text_nearest(const char *word, const char *const *candidates, int n_candidate);

/* a*b (and a+b) into *out; false when it does not fit in size_t. */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* "1.5 GiB", "12.0 KiB", "17 B" into out. */
void text_bytes(char out[32], double bytes);

/* "130 710 528": digits in groups of three. */
void text_count(char out[32], int64_t n);

#endif
