/* A backend that runs another one and adds up what its ops take: wall seconds and calls per op, and
 * per shape of GEMM.
 *
 *     struct timing_backend t;
 *     timing_backend_init(&t, &be);
 *     model.be = &t.be;
 *     ... run ...
 *     t.ops[OP_gemm].seconds
 *
 * Nothing else changes: arguments, scratch and bits are the wrapped backend's. An op's time ends
 * when its function returns, so a backend that only queues work shows what queueing takes, unless
 * `wait` is set: then each op waits for the device, and nothing runs beside anything else.
 */
#ifndef KERNELS_TIMING_TIMING_H
#define KERNELS_TIMING_TIMING_H

#include "kernels/ops.h"

struct timing_sum {
    double seconds;
    int64_t calls;
};

/* One shape of GEMM; 2 m n k floating-point operations a call. */
struct timing_gemm {
    int64_t m, n, k;
    bool trans_a, trans_b;
    struct timing_sum sum;
};

enum { TIMING_MAX_GEMM = 4096 };

struct timing_backend {
    struct backend be; /* first: ops find their timing_backend by it */
    struct ops table;
    struct backend *wrapped;
    struct timing_sum ops[N_OP];
    double gemm_flops; /* of all GEMMs */
    /* The distinct shapes, n_gemm of them at any place of a hash table; sum.calls 0 marks a free
     * one. Shapes that find it full are counted above only. */
    struct timing_gemm gemms[TIMING_MAX_GEMM];
    int64_t n_gemm;
    /* Set by the caller after init, kept by reset. */
    bool wait;
    void (*on_call)(void *context, enum op_id op, const void *args); /* after each call */
    void *context;
};

/* Wraps `wrapped`, which must outlive it and keeps its own op table. The struct must stay where it
 * is while in use; it is large: not for the stack. */
void timing_backend_init(struct timing_backend *t, struct backend *wrapped);

/* All sums back to zero. */
void timing_backend_reset(struct timing_backend *t);

/* "gemm", "scan_forward", ... */
const char *timing_op_name(enum op_id op);

#endif
