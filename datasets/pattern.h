/* Patterns that pre-tokenizers split on: a literal string, or a regular expression.
 *
 * The tokenizers library runs expressions with Oniguruma (Ruby's syntax, Unicode classes); here
 * PCRE2 does. The two agree on the constructs that tokenizers use; an expression is translated
 * construct by construct, and what is not known to mean the same in both is refused by name.
 */
#ifndef DATASETS_PATTERN_H
#define DATASETS_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

struct pattern {
    char *literal; /* NULL: a regular expression */
    size_t literal_n;
    void *code;  /* pcre2_code */
    void *limit; /* pcre2_match_context */
};

struct pattern_match {
    bool found;
    size_t begin, end;
};

/* On failure free it as after success. */
bool pattern_init_literal(struct pattern *p, const char *bytes, size_t n, struct err *err);
bool pattern_init_regex(struct pattern *p, const char *regex, const char *place, struct err *err);

/* A character class in PCRE2's own syntax. */
bool pattern_init_class(struct pattern *p, const char *class, const char *place, struct err *err);
void pattern_free(struct pattern *p);

/* The first match in bytes[from..n), which are UTF-8; look-behind may see bytes before `from`.
 * `steps` is what may still be spent on regular expressions, and is taken from (NULL: no matter).
 * False: the match needs more than that, or more memory than it may have. Threads may share a
 * pattern. */
bool pattern_find(const struct pattern *p, const char *bytes, size_t n, size_t from, int64_t *steps,
                  struct pattern_match *m, struct err *err);

/* The first occurrence of pattern[0..m), m > 0, in bytes[0..n); NULL when there is none. */
const char *pattern_find_bytes(const char *bytes, size_t n, const char *pattern, size_t m);

#endif
