/* The CUDA backend's table of ops, and the sizes of their scratch. */
#include "kernels/cuda/context.h"
#include "kernels/cuda/scratch.h"

const struct ops cuda_ops = {
#define CUDA_ENTRY(name, args) .name = cuda_##name,
#define CUDA_SCRATCH_ENTRY(name, args) .name##_scratch = cuda_##name##_scratch,
    OPS(CUDA_ENTRY) CUDA_SCRATCH_OPS(CUDA_SCRATCH_ENTRY)
#undef CUDA_ENTRY
#undef CUDA_SCRATCH_ENTRY
};
