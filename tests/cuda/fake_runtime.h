/* A CUDA runtime and a cuBLASLt of pretence, in host memory: so that device.c, staging.c, gemm.c
 * and tune.c run in a test without a device. What is queued is done when something waits for it,
 * not before; products are plain loops over the layouts as NVIDIA's headers define them.
 */
#ifndef TESTS_CUDA_FAKE_RUNTIME_H
#define TESTS_CUDA_FAKE_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_runtime {
    /* What the pretended machine is. */
    int n_device, major;
    const char *name;
    bool old_driver, no_driver;
    size_t memory;
    /* Every algorithm runs only the shape that it was asked for. */
    bool strict;
    /* Names no algorithm for any shape. */
    bool clueless;
    size_t workspace; /* what an algorithm of a file is found to need */
    /* The algorithm that runs fastest (0 is the heuristic's first). */
    int fastest;

    /* The call that fails, counted from 1; 0: none. Stays failed when `for_good`. */
    int64_t failing_call;
    bool for_good;

    /* What was done since the last fake_reset. */
    int64_t calls, queries, products, refused, waits;
    int last_algorithm;
    int last_error; /* what cudaGetLastError will say */
    /* What is alive: memory, streams, events, handles. */
    int64_t alive;
    size_t used;
};

extern struct fake_runtime fake;

/* A machine with one device of compute capability 9.0 and nothing done. */
void fake_reset(void);

#endif
