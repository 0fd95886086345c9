/* What fails, and when: the words between a test and the program it starts, which has the shim
 * (shim.c, a library loaded before all others) or the allocator (alloc.c, linked in) inside.
 *
 * Told by environment variables:
 *     FAULT_UNDER    only calls on files in this folder count (the shim)
 *     FAULT_CALL     the kind that counts, as in FAULT_CALLS below, or "any"
 *     FAULT_AT       its k-th call fails, counted from 1; not set or 0: none
 *     FAULT_DO       how: a number of errno.h; "short": one byte is read or written; "kill":
 *                    SIGKILL instead of the call; "killed": SIGKILL after the call
 *     FAULT_EVER     set: every later call fails, too
 *     FAULT_REPORT   a file of one struct fault_report, which the test made
 *     FAULT_LOG      a file that receives all that changes the folder (shim_log.h)
 *     FAULT_STACKS   a file that receives a hash of the stack of each allocation, 8 bytes each
 *     FAULT_TRACE    set: where the call fails, its stack goes to stderr
 */
#ifndef TESTS_FAULT_FAULT_H
#define TESTS_FAULT_FAULT_H

#include <stdint.h>

#define FAULT_CALLS(X)                                                                             \
    X(open)                                                                                        \
    X(create)                                                                                      \
    X(read)                                                                                        \
    X(write)                                                                                       \
    X(sync)                                                                                        \
    X(rename)                                                                                      \
    X(unlink)                                                                                      \
    X(mkdir)                                                                                       \
    X(truncate)                                                                                    \
    X(close)                                                                                       \
    X(map)                                                                                         \
    X(list)                                                                                        \
    X(stat)                                                                                        \
    X(space)                                                                                       \
    X(lock)                                                                                        \
    X(alloc)

#define FAULT_CALL_NAME(name) FAULT_##name,
enum fault_call { FAULT_CALLS(FAULT_CALL_NAME) FAULT_N_CALL };
#undef FAULT_CALL_NAME

struct fault_report {
    int64_t calls[FAULT_N_CALL]; /* made */
    int64_t all;                 /* of any kind */
    int64_t made;                /* of the kind that counts; of child processes, too */
    int64_t hits;                /* that failed or were cut short */
    char what[256];              /* the first of those */
};

#endif
