/* SHA-256 (FIPS 180-4), by the processor's own instructions where it has them.
 *
 *     struct sha256 s;
 *     sha256_init(&s);
 *     sha256_update(&s, data, size);
 *     char hex[SHA256_HEX_SIZE];
 *     sha256_end(&s, hex);
 */
#ifndef KERNELS_CORE_SHA256_H
#define KERNELS_CORE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

enum { SHA256_BYTES = 32, SHA256_HEX_SIZE = 65 };

struct sha256 {
    uint32_t h[8];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
};

void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *data, size_t size);

/* Lower-case hexadecimal digits, terminated. */
void sha256_end(struct sha256 *s, char hex[SHA256_HEX_SIZE]);

void sha256_of(const void *data, size_t size, char hex[SHA256_HEX_SIZE]);

/* Of a file's bytes, read in pieces; *size (or NULL) receives their number. */
bool sha256_file(const char *path, char hex[SHA256_HEX_SIZE], uint64_t *size, struct err *err);

#endif
