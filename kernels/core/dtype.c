#include "kernels/core/dtype.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} types[DTYPE_COUNT] = {
    [DTYPE_F32] = { "F32", 4 },   [DTYPE_BF16] = { "BF16", 2 }, [DTYPE_F16] = { "F16", 2 },
    [DTYPE_F64] = { "F64", 8 },   [DTYPE_I64] = { "I64", 8 },   [DTYPE_I32] = { "I32", 4 },
    [DTYPE_I16] = { "I16", 2 },   [DTYPE_I8] = { "I8", 1 },     [DTYPE_U8] = { "U8", 1 },
    [DTYPE_BOOL] = { "BOOL", 1 },
};

size_t dtype_size(enum dtype dtype)
{
    assert(dtype < DTYPE_COUNT);
    return types[dtype].size;
}

const char *dtype_name(enum dtype dtype)
{
    assert(dtype < DTYPE_COUNT);
    return types[dtype].name;
}

bool dtype_parse(const char *name, enum dtype *out)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(types[i].name, name) == 0) {
            *out = (enum dtype)i;
            return true;
        }
    }
    return false;
}

float dtype_from_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

uint16_t dtype_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFFu) >
        0x7F800000u) /* keep a NaN one: rounding could carry it into infinity */
        return (uint16_t)((bits >> 16) | 0x0040u);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

float dtype_from_f16(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 0x1Fu;
    const uint32_t fraction = bits & 0x3FFu;
    if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
        const float x = (float)fraction * 0x1p-24f;
        return sign != 0 ? -x : x;
    }
    const uint32_t wide =
        sign | (exponent == 31 ? 0x7F800000u : (exponent + 112u) << 23) | (fraction << 13);
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

void dtype_to_real(enum dtype dtype, const void *src, int64_t n, real *out)
{
    const uint8_t *bytes = src;
    switch (dtype) {
    case DTYPE_F32:
        for (int64_t i = 0; i < n; i++) {
            float x;
            memcpy(&x, bytes + 4 * i, sizeof x);
            out[i] = x;
        }
        return;
    case DTYPE_F64:
        for (int64_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, bytes + 8 * i, sizeof x);
            out[i] = (real)x;
        }
        return;
    case DTYPE_BF16:
    case DTYPE_F16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t bits;
            memcpy(&bits, bytes + 2 * i, sizeof bits);
            out[i] = dtype == DTYPE_BF16 ? dtype_from_bf16(bits) : dtype_from_f16(bits);
        }
        return;
    default:
        assert(false && "not a floating type");
    }
}
