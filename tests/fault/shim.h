/* The parts of the shim. */
#ifndef TESTS_FAULT_SHIM_H
#define TESTS_FAULT_SHIM_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/fault/fault.h"

enum shim_action { SHIM_PASS, SHIM_FAIL, SHIM_SHORT };

/* Before each call: counts it and says what becomes of it. With SHIM_FAIL errno is set. Does not
 * return from a "kill". */
enum shim_action shim_before(enum fault_call call, const char *path);

/* After each call that shim_before let pass or cut short: does not return from a "killed". */
void shim_after(void);

/* Whether the path (joined to folder, a descriptor, AT_FDCWD for the current one) is in the folder
 * under test; then its absolute name, without looking at the disk, is in out. */
bool shim_is_under(int folder, const char *path, char out[4096]);

/* Descriptors of files under test. */
void shim_track(int fd, const char *path);
void shim_forget(int fd);
const char *shim_path(int fd); /* NULL: not under test */

/* One call at a time, so that the log has the order of the disk. */
void shim_lock(void);
void shim_unlock(void);

#endif
