/* rank_pattern and alpha_pattern: values for the modules whose path matches (.*\.)?(key)$, the
 * first such key in order (PEFT's other.get_pattern_key).
 *
 *     struct lora_pattern_set set = { 0 };
 *     double r = config.r;
 *     ok = lora_patterns_compile(&set, "rank_pattern", patterns, n, err) &&
 *          lora_patterns_value(&set, module.path, &r, err);
 *     lora_patterns_free(&set);
 */
#ifndef LORA_PATTERN_H
#define LORA_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "lora/config.h"

struct regex;

struct lora_pattern_set {
    const char *place; /* of messages */
    const struct lora_pattern *patterns;
    int64_t n;
    struct regex **regexes;
    bool *used; /* matched some path so far, be it after an earlier key */
};

/* The patterns and the place are borrowed. Errors: a key that is no regular expression. */
bool lora_patterns_compile(struct lora_pattern_set *set, const char *place,
                           const struct lora_pattern *patterns, int64_t n, struct err *err);

/* The value that applies to path into *value, which is left alone when none does. */
bool lora_patterns_value(struct lora_pattern_set *set, const char *path, double *value,
                         struct err *err);

void lora_patterns_free(struct lora_pattern_set *set);

#endif
