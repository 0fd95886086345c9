/* Zeroes, copies, casts and random matrices on the device: the CPU's bits. */
#include "tests/cuda/parity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"

static void read_back(struct parity *p, void *to, const void *from, size_t bytes)
{
    op_to_host(&p->cuda, &(struct copy_args){ .from = from, .to = to, .bytes = bytes });
}

static void zero_clears_the_bytes_it_is_given(void **state)
{
    (void)state;
    enum { N = 1000 };
    static const size_t lengths[] = { 0, 1, 3, 16, 513, N - 5 };
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        struct parity p;
        parity_open(&p, DTYPE_BF16);
        unsigned char *device = parity_bytes(&p, NULL, N), got[N];
        op_zero(&p.cuda, &(struct zero_args){ .y = device + 5, .bytes = lengths[k] });
        read_back(&p, got, device, N);
        for (size_t i = 0; i < N; i++)
            assert_int_equal(got[i], i >= 5 && i < 5 + lengths[k] ? 0 : 0xff);
        parity_close(&p);
    }
}

static void copy_moves_bytes_within_the_device(void **state)
{
    (void)state;
    enum { N = 777 };
    static const size_t lengths[] = { 0, 1, 4, 333, N - 3 };
    unsigned char from[N], got[N];
    for (int i = 0; i < N; i++)
        from[i] = (unsigned char)(i % 251);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        struct parity p;
        parity_open(&p, DTYPE_BF16);
        unsigned char *x = parity_bytes(&p, from, N), *y = parity_bytes(&p, NULL, N);
        op_copy(&p.cuda, &(struct copy_args){ .from = x + 1, .to = y + 3, .bytes = lengths[k] });
        op_copy(&p.cuda, &(struct copy_args){ .from = x, .to = x, .bytes = lengths[k] });
        read_back(&p, got, y, N);
        for (size_t i = 0; i < N; i++)
            assert_int_equal(got[i], i >= 3 && i < 3 + lengths[k] ? from[i - 2] : 0xff);
        read_back(&p, got, x, N);
        assert_memory_equal(got, from, N);
        parity_close(&p);
    }
}

/* ---- casts ---- */

static const enum dtype types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };

enum { N_TYPE = 3 };

/* Any bits: numbers of all sizes, subnormal ones, infinities and NaNs; and in f32 what lies at and
 * beside the middle of two of the narrower. */
static void any_bits(enum dtype dtype, int64_t n, void *x)
{
    static const uint32_t edges[] = {
        0x3F808000, 0x3F808001, 0x3F807FFF, 0x3F818000, /* 1 + 2^-8 and near it: bf16's middle */
        0x3F801000, 0x3F801001, 0x3F800FFF, 0x3F803000, /* 1 + 2^-11 and near it: f16's */
        0x477FEFFF, 0x477FF000, 0xC77FF000, 0x7F7FFFFF, /* 65520: infinite in f16 from here */
        0x33000000, 0x33000001, 0x33C00000, 0x387FE000, /* f16's smallest, half of it, subnormal */
        0x00000000, 0x80000000, 0x00000001, 0x00400000, 0x7F800000, 0xFF800000, 0x7FC00000,
    };
    enum { N_EDGE = sizeof edges / sizeof *edges };
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)rng_bits(7, RNG_SAMPLE, (uint64_t)dtype, (uint64_t)i);
        if (dtype == DTYPE_F32) {
            if (i % 3 == 0)
                bits = edges[i / 3 % N_EDGE];
            else if (i % 3 == 1) /* of the size of f16's numbers */
                bits = (bits & 0x87FFFFFFu) | 0x38000000u;
            memcpy((char *)x + 4 * i, &bits, 4);
        } else {
            const uint16_t half = (uint16_t)bits;
            memcpy((char *)x + 2 * i, &half, 2);
        }
    }
}

static bool is_nan(enum dtype dtype, const void *x, int64_t i)
{
    real v;
    dtype_to_real(dtype, (const char *)x + (size_t)i * dtype_size(dtype), 1, &v);
    return isnan(v);
}

/* in, out: elements that the two begin off alignment. */
static void check_cast(int64_t n, int64_t in, int64_t out, enum dtype from, enum dtype to)
{
    struct parity p;
    parity_open(&p, DTYPE_BF16);
    const size_t from_bytes = (size_t)(n + in) * dtype_size(from);
    const size_t to_bytes = (size_t)(n + out) * dtype_size(to), to_size = dtype_size(to);
    char *x = malloc(from_bytes + 1), *expected = malloc(to_bytes + 1), *got = malloc(to_bytes + 1);
    assert_true(x != NULL && expected != NULL && got != NULL);
    any_bits(from, n + in, x);
    memset(expected, 0xff, to_bytes);
    struct cast_args a = { .from = x + (size_t)in * dtype_size(from),
                           .to = expected + (size_t)out * to_size,
                           .n = n,
                           .from_dtype = from,
                           .to_dtype = to };
    op_cast(&p.cpu, &a);
    char *device_x = parity_bytes(&p, x, from_bytes), *y = parity_bytes(&p, NULL, to_bytes);
    a.from = device_x + (size_t)in * dtype_size(from);
    a.to = y + (size_t)out * to_size;
    op_cast(&p.cuda, &a);
    read_back(&p, got, y, to_bytes);
    for (int64_t i = 0; i < n + out; i++) {
        const size_t at = (size_t)i * to_size;
        if (is_nan(to, expected, i)) /* which NaN is the machine's affair */
            assert_true(is_nan(to, got, i));
        else if (memcmp(got + at, expected + at, to_size) != 0)
            fail_msg("%s to %s: element %lld of %lld differs", dtype_name(from), dtype_name(to),
                     (long long)i, (long long)n);
    }
    free(x);
    free(expected);
    free(got);
    parity_close(&p);
}

static void casts_round_to_the_cpus_bits(void **state)
{
    (void)state;
    static const struct {
        int64_t n, in, out;
    } sizes[] = { { 0, 0, 0 },    { 1, 0, 0 },    { 9, 0, 0 },  { 130, 1, 1 },
                  { 4099, 0, 0 }, { 8192, 0, 0 }, { 33, 4, 0 }, { 33, 0, 4 } };
    enum { N_SIZE = sizeof sizes / sizeof *sizes };
    for (int k = 0; k < N_SIZE * N_TYPE * N_TYPE; k++)
        check_cast(sizes[k % N_SIZE].n, sizes[k % N_SIZE].in, sizes[k % N_SIZE].out,
                   types[k / N_SIZE / N_TYPE], types[k / N_SIZE % N_TYPE]);
}

/* ---- random matrices ---- */

static void random_matrices_are_the_cpus_to_the_bit(void **state)
{
    (void)state;
    static const struct {
        int64_t n, first;
        uint64_t seed, tensor;
    } cases[] = { { 0, 0, 1, 1 },
                  { 1, 0, 0, 0 },
                  { 3, 0, 7, 1 },
                  { 4, 0, 7, 2 },
                  { 1029, 0, 7, 3 },
                  { 1029, 1, 0xFEDCBA9876543210, 3 },
                  { 4096, 0, 7, 0x123456789ABC } };
    enum { N_CASE = sizeof cases / sizeof *cases };
    for (int k = 0; k < 2 * N_CASE; k++) {
        const int64_t n = cases[k % N_CASE].n, first = cases[k % N_CASE].first;
        const enum dtype dtype = k < N_CASE ? DTYPE_F32 : DTYPE_BF16;
        const size_t bytes = (size_t)(n + first) * dtype_size(dtype);
        const size_t skip = (size_t)first * dtype_size(dtype);
        struct parity p;
        parity_open(&p, DTYPE_BF16);
        char *expected = malloc(bytes + 1), *got = malloc(bytes + 1);
        char *y = parity_bytes(&p, NULL, bytes);
        assert_true(expected != NULL && got != NULL);
        memset(expected, 0xff, bytes);
        struct random_args a = { .y = expected + skip,
                                 .dtype = dtype,
                                 .n = n,
                                 .range = 0.0173,
                                 .seed = cases[k % N_CASE].seed,
                                 .tensor = cases[k % N_CASE].tensor };
        op_random(&p.cpu, &a);
        a.y = y + skip;
        op_random(&p.cuda, &a);
        read_back(&p, got, y, bytes);
        assert_memory_equal(got, expected, bytes);
        free(expected);
        free(got);
        parity_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zero_clears_the_bytes_it_is_given),
        cmocka_unit_test(copy_moves_bytes_within_the_device),
        cmocka_unit_test(casts_round_to_the_cpus_bits),
        cmocka_unit_test(random_matrices_are_the_cpus_to_the_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
