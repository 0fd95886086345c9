/* What build/libjambatune_cuda.so gives the program: one symbol, found by dlsym, so that the
 * program links no CUDA library and starts without one (kernels/cuda/load.h opens it).
 */
#ifndef KERNELS_CUDA_MODULE_H
#define KERNELS_CUDA_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/ops.h"

/* The device that would be opened, and the libraries that would run on it. */
struct cuda_facts {
    char name[128];   /* "NVIDIA H100 80GB HBM3" */
    int major, minor; /* compute capability */
    int n_sm;         /* streaming multiprocessors */
    size_t memory;    /* bytes in all */
    size_t l2_bytes;
    size_t shared_bytes;    /* shared memory that a block may have */
    int driver, runtime;    /* as CUDA counts: 13000 is 13.0 */
    size_t cublaslt, cudnn; /* as they count: 130100, 91900; 0: not there */
    char built_for[64];     /* "sm_80 sm_90 ptx" */
};

/* Older ones are not asked for attention: 9.18.1 takes ragged documents on Ampere, and the wrong
 * results of the backward on Hopper are fixed in it. */
enum { CUDA_OLDEST_CUDNN = 91801 };

struct cuda_options {
    enum dtype act;        /* DTYPE_BF16, or DTYPE_F32: everything in f32, no TF32 */
    bool nondeterministic; /* allow kernels whose sums have no fixed order, where they are faster */
    const char *tuned;     /* a file of GEMM algorithms that bench --tune wrote, or NULL */
};

/* What became of the attention calls that are work for cuDNN: bfloat16 and not too small. */
struct cuda_attention_calls {
    int64_t taken, refused; /* refused: our own kernels ran */
    char why[192];          /* the last was refused; "" when none was */
};

/* So that a module of another build is refused, not called: the version counts changes of this
 * header and of kernels/core/device.h, and with it goes how large the ops' arguments are. */
#define CUDA_COUNT_OP(name, args) +1
#define CUDA_ARGS_BYTES(name, args) +(int)sizeof(struct args)
enum {
    CUDA_N_OP = 0 OPS(CUDA_COUNT_OP),
    CUDA_MODULE_VERSION = 3 * 1000000 + (0 OPS(CUDA_ARGS_BYTES)),
};
#undef CUDA_COUNT_OP
#undef CUDA_ARGS_BYTES

struct cuda_module {
    int version; /* CUDA_MODULE_VERSION */
    int n_op;    /* CUDA_N_OP */
    const struct ops *ops;
    /* Of device 0; false with the reason when there is none that can be used. */
    bool (*facts)(struct cuda_facts *out, struct err *err);
    struct device *(*open)(const struct cuda_options *options, struct err *err);
    /* Times the candidates for every GEMM shape that the device has run since it was opened and
     * writes the fastest of each to a file for cuda_options.tuned. */
    bool (*tune)(struct device *d, const char *path, struct err *err);
    /* Since the device was opened. */
    void (*attention_calls)(struct device *d, struct cuda_attention_calls *out);
};

#define CUDA_MODULE_SYMBOL "jambatune_cuda_module"
extern const struct cuda_module jambatune_cuda_module __attribute__((visibility("default")));

#endif
