#include "lora/pattern.h"

#include <stdlib.h>

#include "kernels/core/regex.h"
#include "kernels/core/text.h"

static struct regex *compile_key(const char *key, struct err *err)
{
    /* Alone first, for a message about what the user wrote (and "a)(b" is no key). */
    struct regex *alone = regex_compile(key, true, err);
    if (alone == NULL)
        return NULL;
    regex_free(alone);
    char *whole = text_format("(.*\\.)?(%s)", key);
    if (whole == NULL) {
        err_no_memory(err, "a pattern");
        return NULL;
    }
    struct regex *regex = regex_compile(whole, true, err);
    free(whole);
    return regex;
}

bool lora_patterns_compile(struct lora_pattern_set *set, const char *place,
                           const struct lora_pattern *patterns, int64_t n, struct err *err)
{
    *set = (struct lora_pattern_set){ .place = place, .patterns = patterns, .n = n };
    if (n == 0)
        return true;
    set->regexes = calloc((size_t)n, sizeof *set->regexes);
    set->used = calloc((size_t)n, sizeof *set->used);
    if (set->regexes == NULL || set->used == NULL)
        return err_no_memory(err, place);
    for (int64_t i = 0; i < n; i++) {
        set->regexes[i] = compile_key(patterns[i].key, err);
        if (set->regexes[i] == NULL)
            return err_prefix(err, "%s", place);
    }
    return true;
}

bool lora_patterns_value(struct lora_pattern_set *set, const char *path, double *value,
                         struct err *err)
{
    bool found = false;
    for (int64_t i = 0; i < set->n; i++) {
        bool hit = false;
        if (!regex_matches(set->regexes[i], path, &hit, err))
            return err_prefix(err, "%s", set->place);
        if (!hit)
            continue;
        set->used[i] = true;
        if (!found)
            *value = set->patterns[i].value;
        found = true;
    }
    return true;
}

void lora_patterns_free(struct lora_pattern_set *set)
{
    for (int64_t i = 0; set->regexes != NULL && i < set->n; i++)
        regex_free(set->regexes[i]);
    free(set->regexes);
    free(set->used);
    *set = (struct lora_pattern_set){ 0 };
}
