/* Casts between stored types and reals: exact on the way up, one rounding to nearest even on the
 * way down. */
#include "kernels/cpu/variant.h"

#include <assert.h>

enum { BLOCK = 1024 }; /* elements of a task; widened on the stack where neither side is real */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* x as a float from which a narrower type rounds as from x itself. A double that no float equals
 * goes towards zero with the last bit set ("round to odd"): never halfway for who rounds next. */
static float for_rounding(real x)
{
    float f = (float)x;
#if REAL_IS_DOUBLE
    if ((double)f != x && x == x) {
        uint32_t bits = bits_of(f);
        if (fabs((double)f) > fabs(x))
            bits--;
        bits |= 1;
        memcpy(&f, &bits, sizeof f);
    }
#endif
    return f;
}

static uint16_t to_f16(float x)
{
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u;
    uint32_t size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u | (size >> 13 & 0x3FFu)); /* a NaN, quiet */
    if (size >= 0x47800000u)
        return (uint16_t)(sign | 0x7C00u); /* 65536 and more; rounding makes 65520 infinite */
    if (size < 0x38800000u) { /* below 2^-14: steps of 2^-24, which are those of floats from 0.5 */
        float y;
        memcpy(&y, &size, sizeof y);
        return (uint16_t)(sign | (bits_of(y + 0.5f) - 0x3F000000u));
    }
    size = size - (112u << 23) + 0xFFFu + (size >> 13 & 1u);
    return (uint16_t)(sign | size >> 13);
}

static void narrow(const real *x, int64_t n, enum dtype dtype, void *to)
{
    float *as_f32 = to;
    uint16_t *as_half = to;
    switch (dtype) {
    case DTYPE_F32:
        for (int64_t i = 0; i < n; i++)
            as_f32[i] = (float)x[i];
        return;
    case DTYPE_BF16:
        for (int64_t i = 0; i < n; i++)
            as_half[i] = dtype_to_bf16(for_rounding(x[i]));
        return;
    case DTYPE_F16:
        for (int64_t i = 0; i < n; i++)
            as_half[i] = to_f16(for_rounding(x[i]));
        return;
    default:
        assert(false && "not a type to cast to");
    }
}

static void cast_block(const struct cast_args *a, const void *from, int64_t n, void *to)
{
    if (a->from_dtype == a->to_dtype) {
        memmove(to, from, (size_t)n * dtype_size(a->to_dtype)); /* they may be one place */
    } else if (a->to_dtype == DTYPE_REAL) {
        dtype_to_real(a->from_dtype, from, n, to);
    } else if (a->from_dtype == DTYPE_REAL) {
        narrow(from, n, a->to_dtype, to);
    } else {
        real wide[BLOCK];
        dtype_to_real(a->from_dtype, from, n, wide);
        narrow(wide, n, a->to_dtype, to);
    }
}

void CPU_OP(cast)(struct backend *be, const struct cast_args *a, void *scratch)
{
    (void)scratch;
    const size_t from_size = dtype_size(a->from_dtype), to_size = dtype_size(a->to_dtype);
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n > BLOCK)
    for (int64_t i0 = 0; i0 < a->n; i0 += BLOCK)
        cast_block(a, (const char *)a->from + (size_t)i0 * from_size, min_i64(BLOCK, a->n - i0),
                   (char *)a->to + (size_t)i0 * to_size);
}
