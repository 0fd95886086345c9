/* Products on cuBLASLt, for gemm.c and tune.c. */
#ifndef KERNELS_CUDA_GEMM_H
#define KERNELS_CUDA_GEMM_H

#include "kernels/cuda/context.h"
#include "kernels/cuda/gemm_table.h"

struct cuda_gemm {
    void *handle; /* cublasLtHandle_t */
    struct gemm_machine machine;
    struct gemm_table table;
};

/* Where a product finds its operands. */
struct gemm_operands {
    const void *a, *b;
    void *c, *workspace; /* GEMM_WORKSPACE_BYTES */
    float alpha, beta;
};

/* Up to `most` algorithms for a shape, the most promising first; 0: none. */
int gemm_candidates(const struct cuda_gemm *g, const struct gemm_shape *shape, int most,
                    struct gemm_algorithm *out);

/* Queues the product; false when the algorithm cannot run it. */
bool gemm_run(const struct cuda_gemm *g, const struct gemm_shape *shape,
              const struct gemm_algorithm *algorithm, const struct gemm_operands *operands,
              void *stream);

#endif
