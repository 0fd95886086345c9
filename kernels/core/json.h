/* JSON by jansson, made strict, and typed reads that say what was expected.
 *
 * Strict: duplicate keys and trailing text are errors, depth is bounded by jansson's own limit
 * (2048), memory by JSON_MAX_MEMORY, numbers that overflow are errors. Inside JSON the key path
 * stands for line and column.
 */
#ifndef KERNELS_CORE_JSON_H
#define KERNELS_CORE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"

/* Bytes of memory that a parsed text may take, about: "[],[],..." takes 45 times its size. */
enum { JSON_MAX_MEMORY = 192 << 20 };

/* Parses bytes[0..n) (any value); `place` starts the message ("config.json", "quotes.jsonl:118").
 * A byte-order mark at the start is skipped. NULL on failure; caller json_decref()s. */
json_t *json_parse(const char *bytes, size_t n, const char *place, struct err *err);

/* json_dumps, and NULL too when anything failed for memory since the values began to be built: what
 * json_object_set_new and its like return need not be looked at. Caller frees. */
char *json_to_text(const json_t *value, size_t flags);

/* A whole file of at most `limit` bytes whose root is an object. */
json_t *json_load_object(const char *path, size_t limit, struct err *err);

/* Typed members of an object. `place` starts the message. With `required` false a missing key or
 * null leaves *out alone and returns true; a wrong type is always an error. Integers must be JSON
 * integers within [low, high]; a real accepts an integer too. Strings point into the object. */
bool json_get_int(json_t *object, const char *key, bool required, int64_t low, int64_t high,
                  int64_t *out, const char *place, struct err *err);
bool json_get_real(json_t *object, const char *key, bool required, double *out, const char *place,
                   struct err *err);
bool json_get_bool(json_t *object, const char *key, bool required, bool *out, const char *place,
                   struct err *err);
bool json_get_string(json_t *object, const char *key, bool required, const char **out,
                     const char *place, struct err *err);

/* "a string", "an object", ...: for messages. */
const char *json_type_name(const json_t *value);

#endif
