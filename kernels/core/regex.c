#include "kernels/core/regex.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "kernels/core/text.h"

/* A module path has under 100 characters and an honest pattern needs a few hundred steps; nested
 * repetition reaches a million steps within tens of milliseconds. */
enum {
    MATCH_LIMIT = 1000000,
    DEPTH_LIMIT = 10000,
    HEAP_LIMIT_KIB = 16384,
    PATTERN_LIMIT = 1 << 20
};

struct regex {
    char *pattern;
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
};

static bool compile_failed(const char *pattern, int why, PCRE2_SIZE at, struct err *err)
{
    PCRE2_UCHAR reason[256];
    if (pcre2_get_error_message(why, reason, sizeof reason) < 0)
        memcpy(reason, "not a regular expression", sizeof "not a regular expression");
    return err_set(err, ERR_DATA, "regex '%s': %s (at character %zu)", pattern,
                   (const char *)reason, (size_t)at + 1);
}

struct regex *regex_compile(const char *pattern, bool full_match, struct err *err)
{
    if (strlen(pattern) > PATTERN_LIMIT) {
        err_set(err, ERR_DATA, "regex '%.40s...': is %zu characters long; expected at most %d",
                pattern, strlen(pattern), PATTERN_LIMIT);
        return NULL;
    }
    struct regex *regex = calloc(1, sizeof *regex);
    if (regex == NULL) {
        err_no_memory(err, "a regex");
        return NULL;
    }
    /* UTF and UCP: \d and \w mean what they mean in Python's str patterns. */
    const uint32_t anchors = full_match ? PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0;
    int why = 0;
    PCRE2_SIZE at = 0;
    regex->pattern = text_copy(pattern);
    regex->code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | anchors, &why, &at, NULL);
    if (regex->code == NULL && why != PCRE2_ERROR_HEAP_FAILED) {
        compile_failed(pattern, why, at, err);
        regex_free(regex);
        return NULL;
    }
    regex->limits = pcre2_match_context_create(NULL);
    if (regex->code != NULL)
        regex->data = pcre2_match_data_create_from_pattern(regex->code, NULL);
    if (regex->pattern == NULL || regex->data == NULL || regex->limits == NULL) {
        err_no_memory(err, "a regex");
        regex_free(regex);
        return NULL;
    }
    pcre2_set_match_limit(regex->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(regex->limits, DEPTH_LIMIT);
    pcre2_set_heap_limit(regex->limits, HEAP_LIMIT_KIB);
    return regex;
}

bool regex_matches(const struct regex *regex, const char *subject, bool *matched, struct err *err)
{
    const int got = pcre2_match(regex->code, (PCRE2_SPTR)subject, PCRE2_ZERO_TERMINATED, 0, 0,
                                regex->data, regex->limits);
    *matched = got >= 0;
    if (got >= 0 || got == PCRE2_ERROR_NOMATCH)
        return true;
    if (got == PCRE2_ERROR_NOMEMORY)
        return err_no_memory(err, "a regex");
    if (got == PCRE2_ERROR_MATCHLIMIT || got == PCRE2_ERROR_DEPTHLIMIT ||
        got == PCRE2_ERROR_HEAPLIMIT)
        return err_set(
            err, ERR_DATA,
            "regex '%s': takes too many steps on '%s'; write it without nested repetition",
            regex->pattern, subject);
    PCRE2_UCHAR reason[256] = "failed";
    pcre2_get_error_message(got, reason, sizeof reason);
    return err_set(err, ERR_DATA, "regex '%s': on '%s': %s", regex->pattern, subject,
                   (const char *)reason);
}

void regex_free(struct regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_match_data_free(regex->data);
    pcre2_match_context_free(regex->limits);
    pcre2_code_free(regex->code);
    free(regex->pattern);
    free(regex);
}
