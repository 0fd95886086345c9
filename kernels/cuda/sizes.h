/* Tile sizes that both a kernel and its scratch formula (scratch.c) must know. C11 and C++17. */
#ifndef KERNELS_CUDA_SIZES_H
#define KERNELS_CUDA_SIZES_H

#include <stdbool.h>
#include <stdint.h>

/* What cuBLASLt may use for one product: what NVIDIA's own libraries take on Hopper, and 64 partial
 * sums of the largest adapter gradient (16 x 8192 in f32). */
enum { GEMM_WORKSPACE_BYTES = 32 << 20 };

/* Experts are counted tile by tile, of so many tokens (moe.cu). */
enum { ROUTE_TILE = 64, ROUTE_MAX_EXPERT = 4096 };

/* Tokens of which one thread adds up an expert's part of the load-balancing loss (moe.cu). */
enum { AUX_TILE = 64 };

/* Elements of which one block makes a part of a sum in double (optim.cu). */
enum { SUM_BLOCK = 16384 };

/* Selective scan (scan.cu): the states of a channel that are walked together, the most channels of
 * a block, and the tokens (fewer when a channel has more states) whose parts of db and dc are in
 * scratch at a time. */
enum { SCAN_STATES = 16, SCAN_MAX_CHANNELS = 40, SCAN_RANGE = 2048 };

/* How the channels are cut into blocks: a function of shapes alone, because db and dc are sums over
 * a block and then over blocks. One wave of up to 128 blocks, or several, of even size: an H100 has
 * 132 processors. A block's channels fill whole rows of 16 bytes, and its shared memory stays below
 * 99 KiB. */
struct scan_cut {
    int64_t n_channel, n_block, n_wave;
    int64_t n_round; /* blocks of SCAN_STATES states */
    int64_t range;   /* tokens */
};

static inline struct scan_cut scan_cut_of(int64_t d_inner, int64_t d_state, bool bf16)
{
    struct scan_cut cut;
    const int64_t wave = 128 * (bf16 ? 32 : 24);
    cut.n_wave = bf16 && d_inner <= 128 * SCAN_MAX_CHANNELS ? 1 : (d_inner + wave - 1) / wave;
    cut.n_channel = (d_inner + 1024 * cut.n_wave - 1) / (1024 * cut.n_wave) * 8;
    if (d_state != SCAN_STATES)
        cut.n_channel = 16;
    cut.n_block = (d_inner + cut.n_channel - 1) / cut.n_channel;
    cut.n_round = (d_state + SCAN_STATES - 1) / SCAN_STATES;
    cut.range = SCAN_RANGE / cut.n_round / 32 * 32;
    return cut;
}

/* Floats of the gradient that the backward hands from range to range. */
static inline int64_t scan_carry_size(int64_t d_inner, int64_t d_state)
{
    return (d_inner * d_state + 63) / 64 * 64;
}

#endif
