/* The recipe as a run resolved it (recipe_dump), read back line by line with the origin of each
 * value. Nothing is checked or interpreted: it is shown, and compared as text. */
#ifndef FINETUNE_REPORT_SETTINGS_H
#define FINETUNE_REPORT_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

struct setting {
    const char *section, *key, *value, *origin; /* origin "default" or a place; never NULL */
};

struct settings {
    struct setting *items;
    int64_t n;
    char *bytes; /* owns the texts */
};

/* A file that is not there leaves no settings and is no error. */
bool settings_read(struct settings *s, const char *path, struct err *err);

/* Takes bytes, terminated and malloc'd, in any case. */
bool settings_parse(struct settings *s, char *bytes, struct err *err);
void settings_free(struct settings *s);

/* The value of a key, or NULL. */
const char *settings_value(const struct settings *s, const char *key);

bool setting_is_default(const struct setting *setting);

#endif
