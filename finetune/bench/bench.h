/* What a training step costs on this machine, and how the cost grows. Measures; prints nothing.
 *
 *     struct bench_result r = { 0 };
 *     ok = bench_run(&recipe, &(struct bench_options){ 0 }, &r, err);
 *     bench_result_free(&r);
 *
 * A step is what `train` does between two lines of its log: forward, backward and AdamW over random
 * token ids in documents of equal length, with the recipe's adapter, within its memory budget. On a
 * device a step is timed as it runs, and taken once more with waiting after each op to see where
 * the time goes.
 */
#ifndef FINETUNE_BENCH_BENCH_H
#define FINETUNE_BENCH_BENCH_H

#include "finetune/model/plan.h"
#include "kernels/timing/timing.h"
#include "recipes/recipe.h"

struct bench_options {
    bool quick;               /* a quarter of the tokens, fewer runs */
    int64_t tokens, document; /* of the step; 0: both as usual, and then steps of other sizes too */
};

/* One kind of step, and what it took. */
struct bench_step {
    int64_t tokens, documents, experts, experts_per_token;
    struct plan_shape shape;
    size_t memory_bytes; /* of the plan */
    size_t used_bytes;   /* of a device, from before the model came to after the step; 0: the CPU */
    int64_t runs;        /* without the one before them, which touches fresh memory */
    double seconds;      /* median of the runs */
};

/* The calls of one shape of GEMM in one step. Where a shape's rows are the data's choice (those of
 * an expert, those with a target) all of them are one entry, with the mean number of rows. */
struct bench_gemm {
    int64_t m, n, k;
    bool trans_a, trans_b, rows_vary;
    double calls, seconds, flops;
};

enum { BENCH_MAX_GROWTH = 8 };

/* Steps that differ in one thing. */
struct bench_growth {
    struct bench_step steps[BENCH_MAX_GROWTH];
    int n;
};

struct bench_result {
    const char *kernels; /* the backend's name */
    int threads;
    bool bf16; /* what GEMMs read is bfloat16 */
    int64_t parameters, trained_parameters;
    double peak_flops; /* a second: of all threads on registers alone (kernels/cpu/peak.c), or of a
                          large matrix product on a device */
    size_t open_bytes; /* of a device, in use before the model came: context, libraries, others */
    struct bench_step step;
    int64_t op_runs; /* those that ops were timed in; on a device apart from step.runs */
    struct timing_sum ops[N_OP]; /* of all of them */
    double total_seconds;        /* likewise */
    double gemm_flops;           /* of one */
    struct bench_gemm *gemms;    /* (n_gemm), of one run, the longest first */
    int64_t n_gemm;
    /* experts: those counts left out whose weights would not fit well into memory */
    struct bench_growth tokens, documents, experts;
};

/* The recipe's base_model, adapter, device, precision, threads, seed, gradient_checkpointing,
 * chunk_tokens and memory_budget are used. */
bool bench_run(const struct recipe *recipe, const struct bench_options *options,
               struct bench_result *out, struct err *err);
void bench_result_free(struct bench_result *r);

/* For a GPU: takes one pass of a step of the recipe's size, so that every shape of product has been
 * seen, and writes the algorithms that time best to path, for the recipe's gemm_algorithms. */
bool bench_tune(const struct recipe *recipe, const char *path, struct err *err);

#endif
