/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), and as record files hold it.
 *
 *     crc32c("123456789", 9) == 0xE3069283
 */
#ifndef KERNELS_CORE_CRC32C_H
#define KERNELS_CORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *data, size_t size);

/* Turned right by 15 and shifted by a constant, as TFRecord stores it: a checksum of bytes that
 * hold their own checksum says little. */
uint32_t crc32c_masked(const void *data, size_t size);

#endif
