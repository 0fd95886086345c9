/* jansson when memory runs out.
 *
 * jansson 2.14 does not live through a failed allocation: its lexer loses a character of the text
 * and goes on (an assertion, memory written over, or another text than the file's), and a dump
 * leaves out what there was no room for. So its allocations come here: while a text is parsed, one
 * that fails is served from a reserve and the parse ends soon after; while values are built, the
 * failure is remembered, for functions whose results nobody checks one by one.
 */
#ifndef KERNELS_CORE_JSON_MEMORY_H
#define KERNELS_CORE_JSON_MEMORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* json_loadb; NULL with *out_of_memory when memory ran out, whatever *why says then. */
json_t *json_memory_load(const char *bytes, size_t n, size_t flags, json_error_t *why,
                         bool *out_of_memory);

/* Whether an allocation of jansson failed in this thread since the last call that said so. */
bool json_memory_failed(void);

/* For who had no memory for what a value was to be made of. */
void json_memory_fail(void);

#endif
