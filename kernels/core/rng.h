/* Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A value is a pure function of (seed, stream, index): nothing to save, the
 * same bits on every backend and for any order of evaluation.
 */
#ifndef KERNELS_CORE_RNG_H
#define KERNELS_CORE_RNG_H

#include <stdint.h>

/* What a random number is for: streams never overlap. */
enum rng_stream {
    RNG_INIT_ADAPTER = 1,
    RNG_INIT_WEIGHTS,
    RNG_DROPOUT,
    RNG_ORDER,
    RNG_SPLIT,
    RNG_SAMPLE,
};

struct rng_block {
    uint32_t v[4];
};

struct rng_block rng_philox(const uint32_t counter[4], const uint32_t key[2]);

/* The i-th 64 random bits of (seed, stream, substream). */
uint64_t rng_bits(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i);

/* Uniform in [0, 1), 53 bits; and standard normal (Box-Muller on the two halves of a block). */
double rng_uniform(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i);
double rng_normal(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t i);

/* The image of i under a keyed permutation of 0..n-1 (cycle-walking Feistel network): i in, 0 <= i
 * < n. */
uint64_t rng_permute(uint64_t seed, enum rng_stream stream, uint64_t substream, uint64_t n,
                     uint64_t i);

#endif
