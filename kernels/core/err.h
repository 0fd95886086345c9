/* The one way a fallible function reports failure.
 *
 *     if (!file_map(path, &map, err))
 *         return false;                                  // pass it on
 *     return err_set(err, ERR_DATA, "%s: ...", path);    // or set it: err_set returns false
 *
 * A message has place, problem, expectation, remedy; place first, lower case, values quoted. Only
 * finetune/cli prints it and turns the code into the exit status.
 */
#ifndef KERNELS_CORE_ERR_H
#define KERNELS_CORE_ERR_H

#include <stdbool.h>

/* Exit codes of the program (sysexits where they exist). */
enum err_code {
    ERR_NONE = 0,
    ERR_USAGE = 64,       /* the command line */
    ERR_DATA = 65,        /* a data set, checkpoint or adapter that cannot be used */
    ERR_NO_INPUT = 66,    /* a file that is not there or cannot be read */
    ERR_DEVICE = 69,      /* the device failed or disagrees with itself */
    ERR_INTERNAL = 70,    /* a bug of ours */
    ERR_NO_MEMORY = 71,   /* memory ran out, or a plan does not fit */
    ERR_CANT_CREATE = 73, /* an output that cannot be created, or is in use */
    ERR_IO = 74,          /* reading or writing failed: disk full, I/O error */
    ERR_STOPPED = 75,     /* stopped by a signal, state saved */
    ERR_NUMERICS = 76,    /* too many non-finite steps */
    ERR_RECIPE = 78,      /* the recipe */
};

enum { ERR_TEXT_SIZE = 4096 };

struct err {
    enum err_code code;
    char text[ERR_TEXT_SIZE]; /* one line, or several; no newline at the end */
};

/* Sets code and text (cut at ERR_TEXT_SIZE); err may be NULL. Returns false. */
bool err_set(struct err *err, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "place: " before the text. Returns false. */
bool err_prefix(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Out of memory for `what`. Returns false. */
bool err_no_memory(struct err *err, const char *what);

#endif
