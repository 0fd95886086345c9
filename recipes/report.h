/* What reading a recipe has to say: every error at once, and notes (aliases read, keys ignored). */
#ifndef RECIPES_REPORT_H
#define RECIPES_REPORT_H

#include <stdint.h>

#include "kernels/core/err.h"

enum { RECIPE_MAX_ERRORS = 50 };

struct recipe_text_list {
    char **item;
    int64_t n, cap;
};

/* One line an item, place first, no newline, control characters replaced by '?'. */
struct recipe_report {
    struct recipe_text_list errors, notes;
    int64_t n_more;     /* errors past RECIPE_MAX_ERRORS */
    enum err_code code; /* ERR_NONE without errors: the exit code of the first error */
};

void recipe_report_free(struct recipe_report *report);

/* Add one; `place` is put in front ("x.yaml:3:1"). */
void report_error(struct recipe_report *report, enum err_code code, const char *place,
                  const char *format, ...) __attribute__((format(printf, 4, 5)));
void report_note(struct recipe_report *report, const char *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void report_no_memory(struct recipe_report *report);

/* Control characters and bytes that are not UTF-8 become '?': a message or a comment that quotes
 * the user's bytes stays one line and cannot drive a terminal. */
void report_clean(char *s);

#endif
