#include "kernels/core/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool err_set(struct err *err, enum err_code code, const char *format, ...)
{
    if (err == NULL)
        return false;
    /* The arguments may point into err->text (a message wrapped into another). */
    char text[ERR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err->code = code;
    memcpy(err->text, text, sizeof text);
    return false;
}

bool err_prefix(struct err *err, const char *format, ...)
{
    if (err == NULL)
        return false;
    char place[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(place, sizeof place, format, args);
    va_end(args);
    return err_set(err, err->code, "%s: %s", place, err->text);
}

bool err_no_memory(struct err *err, const char *what)
{
    return err_set(err, ERR_NO_MEMORY, "out of memory for %s", what);
}
