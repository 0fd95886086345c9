#include "tests/fault/tally.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_PRINTED = 25 }; /* FAULT_PRINT_ALL set: all */

static const char *const names[TALLY_KINDS] = { "lost", "corrupt", "silent", "wrong" };

static int64_t sum(const struct tally *t)
{
    int64_t n = 0;
    for (int i = 0; i < TALLY_KINDS; i++)
        n += t->bad[i];
    return n;
}

void tally_bad(struct tally *t, enum tally_kind kind, const char *format, ...)
{
    t->bad[kind]++;
    if (sum(t) > MOST_PRINTED && getenv("FAULT_PRINT_ALL") == NULL)
        return;
    va_list args;
    va_start(args, format);
    printf("%s: ", names[kind]);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
}

int tally_end(const struct tally *t, const char *what)
{
    printf("%s: %" PRId64 " cases, %" PRId64 " lost, %" PRId64 " corrupt, %" PRId64 " silent", what,
           t->cases, t->bad[TALLY_LOST], t->bad[TALLY_CORRUPT], t->bad[TALLY_SILENT]);
    if (t->bad[TALLY_WRONG] > 0)
        printf(", %" PRId64 " otherwise wrong", t->bad[TALLY_WRONG]);
    printf("\n");
    return t->cases > 0 && sum(t) == 0 ? 0 : 1;
}
