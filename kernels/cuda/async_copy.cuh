/* cp.async: 16 bytes, or a float, from global to shared memory past the registers.
 *
 *     struct async_copy copies;          one per thread, a local variable of the kernel
 *     copies.start(tile + i, x + i);     both aligned to 16 bytes
 *     copies.start_float(sum, y);
 *     copies.wait();                     this thread's copies are done
 *     __syncthreads();                   everybody's are
 *
 * The host version copies in wait(), not in start(): a kernel that forgets to wait reads what the
 * tile held before.
 */
#ifndef KERNELS_CUDA_ASYNC_COPY_CUH
#define KERNELS_CUDA_ASYNC_COPY_CUH

#include "kernels/cuda/launch.h"

struct async_copy {
#ifdef __CUDA_ARCH__
    __device__ __forceinline__ void start(void *shared, const void *global)
    {
        const unsigned to = unsigned(__cvta_generic_to_shared(shared));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
    }
    __device__ __forceinline__ void start_float(float *shared, const float *global)
    {
        const unsigned to = unsigned(__cvta_generic_to_shared(shared));
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(global) : "memory");
    }
    __device__ __forceinline__ void wait()
    {
        asm volatile("cp.async.wait_all;" ::: "memory");
    }
#else
    enum { MAX_PENDING = 64 };
    struct {
        void *to;
        const void *from;
        bool whole; /* 16 bytes */
    } pending[MAX_PENDING];
    int n_pending = 0;

    __device__ void add(void *to, const void *from, bool whole)
    {
        if (n_pending == MAX_PENDING)
            wait();
        pending[n_pending++] = { to, from, whole };
    }
    __device__ void start(void *shared, const void *global)
    {
        add(shared, global, true);
    }
    __device__ void start_float(float *shared, const float *global)
    {
        add(shared, global, false);
    }
    __device__ void wait()
    {
        for (int i = 0; i < n_pending; i++) {
            if (pending[i].whole)
                *static_cast<uint4 *>(pending[i].to) = *static_cast<const uint4 *>(pending[i].from);
            else
                *static_cast<float *>(pending[i].to) = *static_cast<const float *>(pending[i].from);
        }
        n_pending = 0;
    }
#endif
};

#endif
