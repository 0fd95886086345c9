/* The readers of untrusted bytes, one file per format: fuzz_<format>.c. Each hands bytes to a
 * reader and holds what comes back against what the reader promises, and is used three ways:
 *
 *   by libFuzzer              tests/fuzz/run.sh
 *   over seeds and findings   tests/fixtures/fuzz/<format>/, in every build (ctest -R fuzz_)
 *   over damaged samples      tests/formats/test_hostile.c: truncations and flipped bits
 *
 * A new format is a new file, a line of FUZZ_FORMATS and a folder of seeds.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

#define FUZZ_FORMATS(X)                                                                            \
    X(adapter)                                                                                     \
    X(checkpoint)                                                                                  \
    X(config)                                                                                      \
    X(gguf)                                                                                        \
    X(gzip)                                                                                        \
    X(index)                                                                                       \
    X(jinja)                                                                                       \
    X(json)                                                                                        \
    X(recipe)                                                                                      \
    X(records)                                                                                     \
    X(safetensors)                                                                                 \
    X(template)                                                                                    \
    X(tokenizer)

/* Whether the bytes were accepted; a refusal is in err. Aborts when an accepted file breaks a
 * promise. bytes[n] may not be read. */
#define FUZZ_DECLARE(format) bool fuzz_##format(const uint8_t *bytes, size_t n, struct err *err);
FUZZ_FORMATS(FUZZ_DECLARE)
#undef FUZZ_DECLARE

typedef bool fuzz_reader(const uint8_t *bytes, size_t n, struct err *err);

/* Runs a reader and checks its verdict: accepted without an error, or refused with one that is
 * about the input. */
bool fuzz_run(fuzz_reader *reader, const uint8_t *bytes, size_t n, struct err *err);

/* A promise that does not hold: says where, and aborts. */
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_fail(#condition, __FILE__, __LINE__);                                             \
    } while (0)
void fuzz_fail(const char *condition, const char *file, int line) __attribute__((noreturn));

/* Allocations that would take the process more than `bytes` past what it has now fail, until
 * fuzz_unlimit_memory (under AddressSanitizer, which needs room of its own: nothing). */
void fuzz_limit_memory(size_t bytes);
void fuzz_unlimit_memory(void);

/* Processor time of this process; and whether a sanitizer makes that many times more. */
double fuzz_seconds(void);
bool fuzz_is_sanitized(void);

/* Touches every byte, so that a sanitizer sees one that is not there. */
void fuzz_touch(const void *bytes, size_t n);

/* The process's own folder `name` (in memory where /dev/shm is), made at the first call and removed
 * at exit. */
const char *fuzz_folder(const char *name);

/* Writes fuzz_folder(folder)/name, whose path goes into path. */
enum { FUZZ_PATH_SIZE = 512 };
void fuzz_write(const char *folder, const char *name, const void *bytes, size_t n,
                char path[FUZZ_PATH_SIZE]);

/* Two files in one: what stands before the first zero byte, and what follows it (NULL: there is no
 * zero byte). */
struct fuzz_pair {
    const uint8_t *first, *second;
    size_t n_first, n_second;
};
struct fuzz_pair fuzz_split(const uint8_t *bytes, size_t n);

#endif
