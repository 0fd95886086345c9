#include "kernels/core/rng.h"

#include <assert.h>
#include <math.h>

struct rng_block rng_philox(const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (struct rng_block){ { c0, c1, c2, c3 } };
}

static struct rng_block block(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i)
{
    /* 64 bits of seed in the key; the stream in the top 8 bits of the substream's word, of which 56
     * bits are left: more than any layer, epoch or target needs. */
    const uint64_t sub = substream ^ ((uint64_t)stream << 56);
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)(i >> 32), (uint32_t)sub,
                                  (uint32_t)(sub >> 32) };
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    return rng_philox(counter, key);
}

uint64_t rng_bits(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i)
{
    const struct rng_block b = block(seed, stream, substream, i);
    return (uint64_t)b.v[1] << 32 | b.v[0];
}

static double unit(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

double rng_uniform(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i)
{
    const struct rng_block b = block(seed, stream, substream, i);
    return unit(b.v[1], b.v[0]);
}

double rng_normal(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i)
{
    const struct rng_block b = block(seed, stream, substream, i);
    const double u = 1 - unit(b.v[1], b.v[0]); /* (0, 1] */
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * unit(b.v[3], b.v[2]));
}

uint64_t rng_permute(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t n,
                     uint64_t i)
{
    assert(i < n);
    int half = 1; /* bits of each half: the network permutes 0 .. 4^half - 1 */
    while (half < 32 && ((uint64_t)1 << (2 * half)) < n)
        half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do { /* walk until the image lies below n: fewer than four rounds on average */
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            const uint64_t f = rng_bits(seed, stream, substream, round << 32 | right) & mask;
            const uint64_t next = left ^ f;
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}
