/* The first include of every .cu file: CUDA under nvcc, the host emulation (tests/emulation)
 * otherwise.
 *
 *   LAUNCH(kernel, grid, block, smem_bytes, stream_of(be), args...);   (kernel<T, N>) in parentheses
 *   CHECK_LAUNCH(be, "rmsnorm_forward");
 *   SHARED_ARRAY(float, tile, [16][17]);       __shared__ float tile[16][17];
 *   SHARED_DYNAMIC(float, tile);               extern __shared__ ...; float *const tile = ...;
 *
 * Rules that keep kernels testable: no thread returns before the last barrier or shuffle of its
 * kernel, warps are full (threads without work carry zeros), PTX sits in small device functions
 * with a host version, no float atomics.
 */
#ifndef KERNELS_CUDA_LAUNCH_H
#define KERNELS_CUDA_LAUNCH_H

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                       \
    kernel<<<grid, block, smem_bytes, stream>>>(__VA_ARGS__)
#define SHARED_ARRAY(type, name, extent) __shared__ type name extent
/* Bytes under a name of their own: kernels that disagree on the element type still compile. */
#define SHARED_DYNAMIC(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char shared_dynamic_bytes[];                          \
    type *const name = reinterpret_cast<type *>(shared_dynamic_bytes)
#elif !defined(CUDA_EMULATION_H) /* the emulation's build puts it in front */
#error "compile with nvcc, or with -include tests/emulation/cuda_emulation.h"
#endif

#include "kernels/cuda/context.h"

static inline cudaStream_t stream_of(const struct backend *be)
{
    return static_cast<cudaStream_t>(cuda_state_of(be)->stream);
}

#define CHECK_LAUNCH(be, op)                                                                       \
    do {                                                                                           \
        const cudaError_t launch_error = cudaGetLastError();                                       \
        if (launch_error != cudaSuccess)                                                           \
            cuda_fail(be, op, cudaGetErrorString(launch_error));                                   \
    } while (0)

/* Runs the block with T as the element type of activations. */
#define WITH_ACT(be, T, ...)                                                                       \
    do {                                                                                           \
        if ((be)->act == DTYPE_BF16) {                                                             \
            typedef __nv_bfloat16 T;                                                               \
            __VA_ARGS__                                                                            \
        } else {                                                                                   \
            typedef float T;                                                                       \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    } while (0)

template <typename T> static inline const T *in(const struct act *x)
{
    return reinterpret_cast<const T *>(x);
}

template <typename T> static inline T *out(struct act *x)
{
    return reinterpret_cast<T *>(x);
}

#endif
