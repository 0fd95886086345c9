/* The loops have no branch and no store but the result's, so that compilers turn them into vector
 * code: a base of 6 GB is as fast to convert as to write.
 */
#include "finetune/export/gguf_values.h"

#include <assert.h>
#include <string.h>

enum { BLOCK = 1024 }; /* floats at once: they stay in the first-level cache */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

enum {
    F32_INFINITE = 0x7F800000,
    F16_INFINITE = 0x7C00,
    F16_NAN = 0x7E00,
    SMALLEST_NORMAL = 0x38800000, /* 2^-14, of F16, as F32 */
    REBIAS = 112 << 23,           /* F32's exponents less F16's */
    HALF = 0x3F000000,            /* 0.5: a float next to it has steps of 2^-24, F16's smallest */
};

/* Adding 0.5 rounds a subnormal half where F16 rounds it; a normal one is rounded by adding just
 * less than half a step, and the odd bit. */
static inline uint32_t half_bits(uint32_t bits)
{
    const uint32_t magnitude = bits & 0x7FFFFFFFu, sign = bits >> 16 & 0x8000u;
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - HALF;
    const uint32_t rounded = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - REBIAS) >> 13;
    const uint32_t normal = rounded < F16_INFINITE ? rounded : F16_INFINITE;
    const uint32_t finite = magnitude < SMALLEST_NORMAL ? subnormal : normal;
    return sign | (magnitude > F32_INFINITE ? F16_NAN : finite);
}

uint16_t gguf_to_f16(float x)
{
    return (uint16_t)half_bits(bits_of(x));
}

static inline uint32_t bf16_bits(uint32_t bits)
{
    const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    return (bits & 0x7FFFFFFFu) > F32_INFINITE ? bits >> 16 | 0x40u : rounded;
}

/* How many finite values became infinite is counted, not acted upon: a branch would stop the
 * vectors. */
static bool round_to_f16(const float *restrict x, int64_t n, uint16_t *restrict out)
{
    uint32_t lost = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]), half = half_bits(bits);
        out[i] = (uint16_t)half;
        lost |= (uint32_t)((half & 0x7FFFu) == F16_INFINITE) &
                (uint32_t)((bits & 0x7FFFFFFFu) != F32_INFINITE);
    }
    return lost == 0;
}

static bool round_to_bf16(const float *restrict x, int64_t n, uint16_t *restrict out)
{
    uint32_t lost = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]), brain = bf16_bits(bits);
        out[i] = (uint16_t)brain;
        lost |= (uint32_t)((brain & 0x7FFFu) == 0x7F80u) &
                (uint32_t)((bits & 0x7FFFFFFFu) != F32_INFINITE);
    }
    return lost == 0;
}

bool gguf_round(const float *x, int64_t n, enum dtype to, void *out)
{
    uint16_t narrow[BLOCK];
    bool ok = true;
    if (to == DTYPE_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
        return true;
    }
    assert(to == DTYPE_F16 || to == DTYPE_BF16);
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t m = n - i < BLOCK ? n - i : BLOCK;
        ok = (to == DTYPE_F16 ? round_to_f16 : round_to_bf16)(x + i, m, narrow) && ok;
        memcpy((char *)out + i * 2, narrow, (size_t)m * sizeof *narrow);
    }
    return ok;
}

bool gguf_convert(const void *in, enum dtype from, int64_t n, enum dtype to, void *out)
{
    real wide[BLOCK];
    float x[BLOCK];
    bool ok = true;
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t m = n - i < BLOCK ? n - i : BLOCK;
        dtype_to_real(from, (const char *)in + (size_t)i * dtype_size(from), m, wide);
        for (int64_t j = 0; j < m; j++)
            x[j] = (float)wide[j];
        ok = gguf_round(x, m, to, (char *)out + (size_t)i * dtype_size(to)) && ok;
    }
    return ok;
}
