/* kernels/core/rng.c on the device: the same bits. */
#ifndef KERNELS_CUDA_RNG_CUH
#define KERNELS_CUDA_RNG_CUH

#include "kernels/core/rng.h"
#include "kernels/cuda/launch.h"

/* Philox 4x32-10 of a counter (two words of 64 bits) under a key. */
__device__ __forceinline__ struct rng_block philox(uint64_t low, uint64_t high, uint64_t key)
{
    uint32_t c0 = uint32_t(low), c1 = uint32_t(low >> 32);
    uint32_t c2 = uint32_t(high), c3 = uint32_t(high >> 32);
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
        const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c1 = uint32_t(p1);
        c3 = uint32_t(p0);
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return { { c0, c1, c2, c3 } };
}

/* The i-th 64 random bits of (seed, stream, substream). */
__device__ __forceinline__ uint64_t philox_bits(uint64_t seed, enum rng_stream stream,
                                                uint64_t substream, uint64_t i)
{
    const struct rng_block b = philox(i, substream ^ (uint64_t(stream) << 56), seed);
    return uint64_t(b.v[1]) << 32 | b.v[0];
}

#endif
