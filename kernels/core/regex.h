/* Perl-like regular expressions, as PEFT's patterns are (Python's re and PCRE2 agree on what people
 * write there): PCRE2 with limits, so that a pattern from a recipe can neither hang the program nor
 * eat its memory.
 *
 *     struct regex *re = regex_compile("model\\.layers\\.\\d+\\..*_proj", true, err);
 *     bool hit = false;
 *     ok = regex_matches(re, "model.layers.3.mamba.in_proj", &hit, err);
 *     regex_free(re);
 */
#ifndef KERNELS_CORE_REGEX_H
#define KERNELS_CORE_REGEX_H

#include <stdbool.h>

#include "kernels/core/err.h"

struct regex;

/* With full_match the whole subject must match (Python's re.fullmatch), else any part (re.search).
 * NULL on failure; the message says where: "regex 'a(b': missing closing parenthesis (at character
 * 4)". */
struct regex *regex_compile(const char *pattern, bool full_match, struct err *err);

/* Whether subject matches, into *matched. A match that needs more than the limits is an error, not
 * a no. Not for use by two threads at once. */
bool regex_matches(const struct regex *regex, const char *subject, bool *matched, struct err *err);

void regex_free(struct regex *regex);

#endif
