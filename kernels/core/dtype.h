/* Element types of stored tensors, and `real`, the type the CPU computes in.
 *
 * real is float in the program and double in the test-only build (-DREAL_IS_DOUBLE=1), so that
 * every backward can be held to finite differences.
 */
#ifndef KERNELS_CORE_DTYPE_H
#define KERNELS_CORE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef REAL_IS_DOUBLE
#define REAL_IS_DOUBLE 0
#endif

#if REAL_IS_DOUBLE
typedef double real;
#else
typedef float real;
#endif

enum dtype {
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPE_COUNT,
    DTYPE_REAL = REAL_IS_DOUBLE ? DTYPE_F64 : DTYPE_F32,
};

size_t dtype_size(enum dtype dtype);

/* "F32", "BF16", ...: the spelling of safetensors. */
const char *dtype_name(enum dtype dtype);

/* The type of that spelling into *out; false when it is none of ours. */
bool dtype_parse(const char *name, enum dtype *out);

/* bfloat16 and IEEE half, exact on the way up, round to nearest even on the way down. */
float dtype_from_bf16(uint16_t bits);
uint16_t dtype_to_bf16(float x);
float dtype_from_f16(uint16_t bits);

/* n elements of type F32, BF16, F16 or F64 at src (any alignment), widened to real. */
void dtype_to_real(enum dtype dtype, const void *src, int64_t n, real *out);

#endif
