/* What a training step costs on this machine, and how the cost grows. Measures; prints nothing.
 *
 *     struct bench_result r = { 0 };
 *     ok = bench_run(&recipe, false, &r, err);
 *     bench_result_free(&r);
 *
 * A step is what `train` does between two lines of its log: forward, backward and AdamW over random
 * token ids in documents of equal length, with the recipe's adapter, within its memory budget.
 */
#ifndef FINETUNE_TRAIN_BENCH_H
#define FINETUNE_TRAIN_BENCH_H

#include "finetune/model/plan.h"
#include "kernels/timing/timing.h"
#include "recipes/recipe.h"

/* One kind of step, and what it took. */
struct bench_step {
    int64_t tokens, documents, experts, experts_per_token;
    struct plan_shape shape;
    size_t memory_bytes; /* of the plan */
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
    int64_t parameters, trained_parameters;
    double peak_flops; /* a second, of all threads, on registers alone (kernels/cpu/peak.c) */
    struct bench_step step;
    struct timing_sum ops[TIMING_N_OP]; /* of all runs of the step */
    double gemm_flops;                  /* of one run */
    double total_seconds;               /* of all runs */
    struct bench_gemm *gemms;           /* (n_gemm), of one run, the longest first */
    int64_t n_gemm;
    /* experts: those counts left out whose weights would not fit well into memory */
    struct bench_growth tokens, documents, experts;
};

/* The recipe's base_model, adapter, precision, threads, seed and memory_budget are used. quick: a
 * quarter of the tokens, fewer runs. */
bool bench_run(const struct recipe *recipe, bool quick, struct bench_result *out, struct err *err);
void bench_result_free(struct bench_result *r);

#endif
