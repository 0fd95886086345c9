/* What a test saw, and its last line: `N cases, 0 lost, 0 corrupt, 0 silent`. */
#ifndef TESTS_FAULT_TALLY_H
#define TESTS_FAULT_TALLY_H

#include <stdint.h>

enum tally_kind {
    TALLY_LOST,    /* what was saved is not found again, or a run cannot go on from it */
    TALLY_CORRUPT, /* other bytes than an undisturbed run's, or a bad file accepted */
    TALLY_SILENT,  /* a failure that is not told: exit code 0, or no message */
    TALLY_WRONG,   /* another exit code than the table's, a crash, a leak, a hang */
    TALLY_KINDS
};

struct tally {
    int64_t cases, bad[TALLY_KINDS];
};

/* Counts and, the first times, prints: the place first. */
void tally_bad(struct tally *t, enum tally_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Prints the line; 0 when all was well, for exit. No case at all is a failure. */
int tally_end(const struct tally *t, const char *what);

#endif
