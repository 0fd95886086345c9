/* One register of reals, by the vector extension of gcc and clang: arithmetic on it, and with a
 * scalar, is element by element.
 */
#ifndef KERNELS_CPU_VECTOR_H
#define KERNELS_CPU_VECTOR_H

#include "kernels/core/dtype.h"

/* As many floats as a register has; the double build takes two registers for them. */
#if defined(__AVX512F__)
#define VECTOR_REALS 16
#elif defined(__AVX__)
#define VECTOR_REALS 8
#else
#define VECTOR_REALS 4
#endif
#define VECTOR_BYTES (VECTOR_REALS * sizeof(real))
#define VECTOR_ATTRIBUTE(...) __attribute__((__VA_ARGS__))

#if REAL_IS_DOUBLE
/* How such vectors would be passed: none of them is, all functions of them are inlined. */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

typedef real vector VECTOR_ATTRIBUTE(vector_size(VECTOR_BYTES));
typedef real vector_anywhere VECTOR_ATTRIBUTE(vector_size(VECTOR_BYTES), aligned(sizeof(real)),
                                              may_alias);

typedef real quad VECTOR_ATTRIBUTE(vector_size(4 * sizeof(real)));
typedef real quad_anywhere VECTOR_ATTRIBUTE(vector_size(4 * sizeof(real)), aligned(sizeof(real)),
                                            may_alias);

/* For functions that are written once and compiled for several constants. */
#define VECTOR_INLINE static inline VECTOR_ATTRIBUTE(always_inline)

VECTOR_INLINE vector vector_load(const real *p)
{
    return *(const vector_anywhere *)p;
}

VECTOR_INLINE void vector_store(real *p, vector x)
{
    *(vector_anywhere *)p = x;
}

/* The lanes of x added up to four: lane i is the sum of those at i modulo 4. */
VECTOR_INLINE quad vector_fold(vector x)
{
    union {
        vector whole;
        quad part[VECTOR_REALS / 4];
    } u = { x };
#pragma GCC unroll 2
    for (int n = VECTOR_REALS / 8; n > 0; n /= 2) {
#pragma GCC unroll 2
        for (int i = 0; i < n; i++)
            u.part[i] += u.part[i + n];
    }
    return u.part[0];
}

/* The sums of four quads' lanes: (0 + 2) + (1 + 3) each. */
VECTOR_INLINE quad quad_sums(quad a, quad b, quad c, quad d)
{
    const quad ab =
        __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad cd =
        __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
           __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

#endif
