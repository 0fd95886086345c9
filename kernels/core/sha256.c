#include "kernels/core/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static const uint32_t k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void blocks_plain(uint32_t h[8], const uint8_t *data, size_t n_block)
{
    for (; n_block > 0; n_block--, data += 64) {
        uint32_t w[64], v[8];
        for (int i = 0; i < 16; i++)
            w[i] = big_endian(data + 4 * i);
        for (int i = 16; i < 64; i++) {
            const uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
                   (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
        }
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 64; i++) {
            const uint32_t a = v[0], e = v[4];
            const uint32_t t1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                                ((e & v[5]) ^ (~e & v[6])) + k[i] + w[i];
            const uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                                ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof *v);
            v[4] += t1;
            v[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++)
            h[i] += v[i];
    }
}

#if defined(__x86_64__)

/* Four rounds a step; the instructions keep the state as (a, b, e, f) and (c, d, g, h), high word
 * first. */
__attribute__((target("sha,sse4.1,ssse3"))) static void
blocks_instructions(uint32_t h[8], const uint8_t *data, size_t n_block)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef = _mm_set_epi32((int)h[0], (int)h[1], (int)h[4], (int)h[5]);
    __m128i cdgh = _mm_set_epi32((int)h[2], (int)h[3], (int)h[6], (int)h[7]);
    for (; n_block > 0; n_block--, data += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 16; i++) {
            __m128i *now = &w[i & 3];
            if (i < 4) {
                *now = _mm_shuffle_epi8(
                    _mm_loadu_si128((const __m128i *)(const void *)(data + 16 * i)), swap);
            } else { /* w[t] from w[t - 16], w[t - 15], w[t - 7] and w[t - 2] */
                const __m128i last = w[(i + 3) & 3], before = w[(i + 2) & 3];
                const __m128i seventh = _mm_alignr_epi8(last, before, 4);
                *now = _mm_sha256msg1_epu32(*now, w[(i + 1) & 3]);
                *now = _mm_sha256msg2_epu32(_mm_add_epi32(*now, seventh), last);
            }
            const __m128i wk =
                _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)(const void *)(k + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    uint32_t first[4], second[4];
    _mm_storeu_si128((__m128i *)(void *)first, abef);
    _mm_storeu_si128((__m128i *)(void *)second, cdgh);
    const uint32_t out[8] = { first[3], first[2], second[3], second[2],
                              first[1], first[0], second[1], second[0] };
    memcpy(h, out, sizeof out);
}

static bool has_instructions(void)
{
    static int known = -1; /* the same for every thread */
    int have = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (have < 0) {
        uint32_t a = 7, b = 0, c = 0, d = 0;
        __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        have = (b >> 29 & 1) != 0 && __builtin_cpu_supports("sse4.1");
        __atomic_store_n(&known, have, __ATOMIC_RELAXED);
    }
    return have != 0;
}

#endif

static void blocks(uint32_t h[8], const uint8_t *data, size_t n_block)
{
#if defined(__x86_64__)
    if (has_instructions()) {
        blocks_instructions(h, data, n_block);
        return;
    }
#endif
    blocks_plain(h, data, n_block);
}

void sha256_init(struct sha256 *s)
{
    *s = (struct sha256){ .h = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 } };
}

void sha256_update(struct sha256 *s, const void *data, size_t size)
{
    const uint8_t *p = data;
    const size_t have = s->n % 64;
    if (size == 0) /* data may be NULL */
        return;
    s->n += size;
    if (have > 0) {
        const size_t some = size < 64 - have ? size : 64 - have;
        memcpy(s->block + have, p, some);
        p += some;
        size -= some;
        if (have + some < 64)
            return;
        blocks(s->h, s->block, 1);
    }
    blocks(s->h, p, size / 64);
    if (size % 64 > 0)
        memcpy(s->block, p + size / 64 * 64, size % 64);
}

void sha256_end(struct sha256 *s, char hex[SHA256_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    const uint64_t bits = s->n * 8;
    uint8_t tail[72] = { 0x80 };
    const size_t zeros = (119 - s->n % 64) % 64 + 1; /* the 0x80 among them: up to 56 of 64 */
    for (size_t i = 0; i < 8; i++)
        tail[zeros + i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_update(s, tail, zeros + 8);
    for (int i = 0; i < 64; i++)
        hex[i] = digits[s->h[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = '\0';
}

void sha256_of(const void *data, size_t size, char hex[SHA256_HEX_SIZE])
{
    struct sha256 s;
    sha256_init(&s);
    sha256_update(&s, data, size);
    sha256_end(&s, hex);
}

bool sha256_file(const char *path, char hex[SHA256_HEX_SIZE], uint64_t *size, struct err *err)
{
    enum { PIECE = 1 << 18 };
    struct stat st;
    /* O_NONBLOCK: a FIFO without a writer must not hang the open. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, errno == EMFILE || errno == ENFILE ? ERR_IO : ERR_NO_INPUT,
                       "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)) { /* a device may have no end */
        close(fd);
        return err_set(err, ERR_NO_INPUT, "%s: is %s; expected a regular file", path,
                       S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    }
    uint8_t *piece = malloc(PIECE);
    bool ok = piece != NULL || err_no_memory(err, path);
    struct sha256 s;
    sha256_init(&s);
    for (ssize_t n = 1; ok && n != 0;) {
        n = read(fd, piece, PIECE);
        if (n > 0)
            sha256_update(&s, piece, (size_t)n);
        else if (n < 0 && errno != EINTR)
            ok = err_set(err, ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    }
    free(piece);
    close(fd);
    if (size != NULL)
        *size = s.n;
    sha256_end(&s, hex);
    return ok;
}
