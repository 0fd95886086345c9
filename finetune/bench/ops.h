/* What each op costs on this machine, alone, beside the least it could cost. Measures; prints
 * nothing.
 *
 *     struct bench_ops_result r = { 0 };
 *     ok = bench_ops_run(&recipe, &(struct bench_ops_options){ 0 }, &r, err);
 *     bench_ops_free(&r);
 *
 * The calls are those of a training step of the recipe's model over one chunk of tokens: forward
 * and backward are run once over the plan backend, which computes nothing, and every distinct call
 * is noted. Each is then made again and again on random data, in memory of its own that is larger
 * than the caches. So no weights are needed, and no op or shape is forgotten. Rows of an expert are
 * an even share.
 */
#ifndef FINETUNE_BENCH_OPS_H
#define FINETUNE_BENCH_OPS_H

#include "finetune/bench/calls.h"
#include "recipes/recipe.h"

struct bench_ops_options {
    int64_t tokens;   /* of the chunk; 0: 8192 on a device, 512 on the CPU */
    int64_t document; /* its documents; 0: 4096, or the chunk */
    const char *only; /* ops whose name holds this; NULL: all */
    bool quick;       /* a few milliseconds each */
    bool ceilings;    /* these alone */
};

/* What a floor is made of. */
enum bench_bound {
    BENCH_BYTES,        /* bytes over the rate of a copy */
    BENCH_FLOPS,        /* FLOPs over the rate of a large matrix product */
    BENCH_SPECIAL,      /* the scan's exponentials over the special function units' rate */
    BENCH_INSTRUCTIONS, /* the scan's f32 instructions over their rate */
};

struct bench_op {
    enum op_id op;
    char shape[OPERAND_SHAPE_SIZE];
    double calls[BENCH_N_WALK];
    double seconds; /* of one call: the median of some batches of calls; 0: not run */
    double bytes, flops;
    double floor; /* seconds */
    enum bench_bound bound;
    double published; /* seconds that NVIDIA gives for this on an H200; 0: none */
    size_t needs;     /* bytes, of what was not run: more than there are */
    bool skinny;      /* a product with a side of at most 64: an adapter's, mostly */
};

/* Per second; 0: not known. */
struct bench_ceilings {
    double copy_bytes, gemm_flops, to_device_bytes, to_host_bytes;
    double special, instructions; /* of the device by its datasheet, at its highest clock */
};

/* Seconds of 1024 tokens of a step, as the sum of its calls, each timed alone. */
struct bench_total {
    double gemm, skinny; /* skinny: of gemm */
    double all, floor;
};

struct bench_ops_result {
    const char *kernels; /* the backend's name */
    char device[128];    /* "NVIDIA H200"; "" on the CPU */
    int threads, n_sm;
    enum dtype act;
    int64_t tokens, document;
    struct bench_ceilings ceilings;
    struct bench_op *ops;
    int64_t n_op;
    struct bench_total totals[2]; /* BENCH_KEEP, BENCH_RECOMPUTE */
    double update;                /* seconds of the optimizer's part */
};

const char *bench_bound_name(enum bench_bound bound);

/* The recipe's base_model (its config alone), adapter, device, precision, threads and memory_budget
 * are used. */
bool bench_ops_run(const struct recipe *recipe, const struct bench_ops_options *options,
                   struct bench_ops_result *out, struct err *err);
void bench_ops_free(struct bench_ops_result *r);

#endif
