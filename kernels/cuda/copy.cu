/* Zeroes, copies and casts.
 *
 * cast: a thread owns four vectors of as many elements as the wider type has in 16 bytes, one
 * block's stride apart, and loads all four before it stores one. Bytes per element: those of the
 * two types. Bound: memory. zero and copy are the runtime's, on the stream.
 */
#include "kernels/cuda/vector.cuh"

namespace
{

enum { CAST_THREADS = 256, CAST_UNROLL = 4 };

template <typename S, typename T, int N>
__global__ void __launch_bounds__(CAST_THREADS) cast_kernel(const S *x, T *y, int64_t n)
{
    packed<S, N> raw[CAST_UNROLL];
    int64_t first[CAST_UNROLL];
#pragma unroll
    for (int u = 0; u < CAST_UNROLL; u++) {
        const int64_t block = int64_t(blockIdx.x) * CAST_UNROLL + u;
        first[u] = (block * CAST_THREADS + threadIdx.x) * N;
        if (first[u] + N <= n)
            raw[u] = load_packed<N>(x + first[u]);
    }
#pragma unroll
    for (int u = 0; u < CAST_UNROLL; u++) {
        if (first[u] + N <= n) {
            float v[N];
            widen(raw[u], v);
            store_packed(y + first[u], narrow<T>(v));
        } else {
#pragma unroll 1
            for (int l = 0; l < N; l++) { /* the last vector is not a whole one */
                if (first[u] + l < n)
                    y[first[u] + l] = from_float<T>(to_float(x[first[u] + l]));
            }
        }
    }
}

template <typename S, typename T> void launch_cast(struct backend *be, const struct cast_args *a)
{
    const S *x = static_cast<const S *>(a->from);
    T *y = static_cast<T *>(a->to);
    constexpr int N = vector_of_both<S, T>::N;
    const bool aligned = aligned_16(x) && aligned_16(y);
    const int64_t per_block = CAST_THREADS * CAST_UNROLL * (aligned ? N : 1);
    const dim3 grid(unsigned(blocks_for(a->n, per_block))), block(CAST_THREADS);
    if (aligned)
        LAUNCH((cast_kernel<S, T, N>), grid, block, 0, stream_of(be), x, y, a->n);
    else
        LAUNCH((cast_kernel<S, T, 1>), grid, block, 0, stream_of(be), x, y, a->n);
}

/* The other two types. */
template <typename S, typename T1, typename T2>
void cast_from(struct backend *be, const struct cast_args *a, enum dtype t1, enum dtype t2)
{
    if (a->to_dtype == t1)
        launch_cast<S, T1>(be, a);
    else if (a->to_dtype == t2)
        launch_cast<S, T2>(be, a);
    else
        cuda_fail(be, "cast", "not a type to cast to");
}

void copy_bytes(struct backend *be, const char *op, const void *from, void *to, size_t bytes)
{
    if (bytes == 0 || from == to)
        return;
    (void)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(be));
    CHECK_LAUNCH(be, op);
}

} // namespace

extern "C" void cuda_zero(struct backend *be, const struct zero_args *a, void *scratch)
{
    (void)scratch;
    if (a->bytes == 0)
        return;
    (void)cudaMemsetAsync(a->y, 0, a->bytes, stream_of(be));
    CHECK_LAUNCH(be, "zero");
}

extern "C" void cuda_copy(struct backend *be, const struct copy_args *a, void *scratch)
{
    (void)scratch;
    copy_bytes(be, "copy", a->from, a->to, a->bytes);
}

extern "C" void cuda_cast(struct backend *be, const struct cast_args *a, void *scratch)
{
    (void)scratch;
    if (a->from_dtype == a->to_dtype) {
        copy_bytes(be, "cast", a->from, a->to, size_t(a->n) * dtype_size(a->to_dtype));
        return;
    }
    if (a->n == 0)
        return;
    switch (a->from_dtype) {
    case DTYPE_F32:
        cast_from<float, __nv_bfloat16, __half>(be, a, DTYPE_BF16, DTYPE_F16);
        break;
    case DTYPE_BF16:
        cast_from<__nv_bfloat16, float, __half>(be, a, DTYPE_F32, DTYPE_F16);
        break;
    case DTYPE_F16:
        cast_from<__half, float, __nv_bfloat16>(be, a, DTYPE_F32, DTYPE_BF16);
        break;
    default:
        cuda_fail(be, "cast", "not a type to cast from");
    }
    CHECK_LAUNCH(be, "cast");
}
