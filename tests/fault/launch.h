/* Starts the program with something about to fail, and says how it ended.
 *
 *     struct landing r = { 0 };
 *     launch(&(struct launch){ .program = p, .args = ARGS("train", recipe), .shim = shim,
 *                              .under = out, .call = "write", .at = 3, .how = "28" }, &r);
 *     ... r.code, r.err ...
 *     landing_free(&r);
 */
#ifndef TESTS_FAULT_LAUNCH_H
#define TESTS_FAULT_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/fault/fault.h"

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

struct launch {
    const char *program;
    const char *const *args; /* after the program's name */
    const char *shim;        /* loaded before all others, or NULL */
    /* As in fault.h; NULL and 0: not set. */
    const char *under, *call, *how, *log, *stacks;
    int64_t at;
    bool ever;
    /* A signal after so many seconds; 0: none. Then another one. */
    int signal, signal2;
    double signal_after, signal2_after;
    const char *input; /* a file for stdin; NULL: none */
    double limit;      /* seconds until it is killed and called hanging; 0: 60 */
};

enum { LANDING_HUNG = 1000 };

struct landing {
    int code;        /* of exit; 128 + the signal that ended it; LANDING_HUNG */
    char *out, *err; /* what it printed, terminated */
    size_t out_size;
    double seconds;
    struct fault_report report;
};

void launch(const struct launch *l, struct landing *r);

/* Started and not waited for. */
int64_t launch_start(const struct launch *l); /* a process id */

void landing_free(struct landing *r);

double launch_clock(void); /* seconds, from some time on */

#endif
