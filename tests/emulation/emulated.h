/* What the C parts of the emulation share. The device's memory: pages that nothing may touch but
 * while it is unlocked.
 *
 *     void *p = emulated_alloc(bytes);       the first MiB filled with 0xff: NaN
 *     emulated_unlock();                     kernels, and copies over to it
 *     ...
 *     emulated_lock();
 *
 * Locked, any access is a fault, as a host's access to a GPU's memory is; so is one past the last
 * page at any time. Locking counts: it may be nested. One thread only, as all of the emulation.
 */
#ifndef TESTS_EMULATION_EMULATED_H
#define TESTS_EMULATION_EMULATED_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NULL when there is none. free takes NULL too. */
void *emulated_alloc(size_t bytes);
void emulated_free(void *p);

/* Bytes allocated now. */
size_t emulated_used(void);

/* Whether all bytes lie in one allocation. */
bool emulated_contains(const void *p, size_t bytes);

void emulated_unlock(void);
void emulated_lock(void);

/* Unlocks only the allocations that the two ends lie in, if any. */
void emulated_copy(void *to, const void *from, size_t bytes);

/* The report of a launch that failed and that no one has asked about (CHECK_LAUNCH forgotten), or
 * NULL. */
const char *emulated_unchecked(void);

#ifdef __cplusplus
}
#endif

#endif
