/* Sums in fixed blocks (the gradient's norm, the loss) and AdamW (Loshchilov and Hutter, "Decoupled
 * weight decay regularization", 2019).
 *
 * Sums: a block owns SUM_BLOCK neighbouring elements, a thread four of each 1024; their parts, in
 * double, are added up by one block behind it. 4 bytes an element, read once.
 * AdamW: a thread owns four neighbouring parameters. p, m, v and g read and p, m, v written, 28
 * bytes a parameter, and 2 or 4 for the activation copy.
 * Both are bound by memory.
 */
#include <math.h>

#include "kernels/cuda/sizes.h"
#include "kernels/cuda/sum.cuh"
#include "kernels/cuda/vector.cuh"

namespace
{

constexpr int N_THREAD = 256;
constexpr int OWN = 4; /* neighbours a thread works on: 16 bytes */

/* ---- sums ---- */

/* The order is the same whether four elements are loaded at once or not. */
template <bool SQUARE>
__global__ void sum_parts_kernel(const float *__restrict__ x, int64_t n, bool aligned,
                                 double *__restrict__ part)
{
    double sum = 0;
#pragma unroll 4
    for (int step = 0; step < SUM_BLOCK / (OWN * N_THREAD); step++) {
        const int64_t i = int64_t(blockIdx.x) * SUM_BLOCK +
                          (int64_t(step) * N_THREAD + int64_t(threadIdx.x)) * OWN;
        float v[OWN];
        if (aligned && i + OWN <= n) {
            load_vector(x + i, v);
        } else {
            for (int k = 0; k < OWN; k++)
                v[k] = i + k < n ? x[i + k] : 0.0f;
        }
        for (int k = 0; k < OWN; k++)
            sum += SQUARE ? double(v[k]) * double(v[k]) : double(v[k]);
    }
    sum = block_sum_double<N_THREAD>(sum);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

/* *sum = scale * (part[0] + part[1] + ...), or that added to it. */
__global__ void sum_of_parts_kernel(const double *__restrict__ part, int64_t n_part, double scale,
                                    bool add, double *sum)
{
    double total = 0;
    for (int64_t i = threadIdx.x; i < n_part; i += N_THREAD)
        total += part[i];
    total = block_sum_double<N_THREAD>(total);
    if (threadIdx.x == 0)
        *sum = add ? *sum + scale * total : scale * total;
}

template <bool SQUARE>
void launch_parts(struct backend *be, const char *op, const float *x, int64_t n, double *part)
{
    if (n == 0)
        return;
    const dim3 grid(unsigned(blocks_for(n, SUM_BLOCK))), block(N_THREAD);
    LAUNCH(sum_parts_kernel<SQUARE>, grid, block, 0, stream_of(be), x, n, aligned_16(x), part);
    CHECK_LAUNCH(be, op);
}

void launch_sum(struct backend *be, const char *op, const double *part, int64_t n, double scale,
                bool add, double *sum)
{
    const int64_t n_part = blocks_for(n, SUM_BLOCK);
    LAUNCH(sum_of_parts_kernel, dim3(1), dim3(N_THREAD), 0, stream_of(be), part, n_part, scale, add,
           sum);
    CHECK_LAUNCH(be, op);
}

/* ---- AdamW ---- */

/* The step's constants, in double on the host and rounded once, as the CPU's. */
struct adamw_rates {
    float decay, grad_scale, b1, b2, c1, c2, rate, eps, root;
};

struct adamw_rates rates_of(const struct adamw_args *a)
{
    struct adamw_rates r;
    r.decay = float(1 - a->lr * a->weight_decay);
    r.grad_scale = float(a->grad_scale);
    r.b1 = float(a->beta1), r.b2 = float(a->beta2);
    r.c1 = float(1 - a->beta1), r.c2 = float(1 - a->beta2);
    r.rate = float(a->lr / a->bias_correction1);
    r.eps = float(a->eps);
    r.root = float(1 / sqrt(a->bias_correction2));
    return r;
}

__device__ __forceinline__ void adamw_update(const struct adamw_rates &r, float grad, float &p,
                                             float &m, float &v)
{
    const float g = grad * r.grad_scale;
    m = r.b1 * m + r.c1 * g;
    v = r.b2 * v + r.c2 * g * g;
    p = p * r.decay - r.rate * m / (sqrtf(v) * r.root + r.eps);
}

template <typename T>
__global__ void adamw_kernel(const struct adamw_rates r, const float *__restrict__ grad,
                             float *__restrict__ param, float *__restrict__ moment1,
                             float *__restrict__ moment2, T *__restrict__ p_act, int64_t n,
                             bool aligned)
{
    const int64_t i = (int64_t(blockIdx.x) * N_THREAD + int64_t(threadIdx.x)) * OWN;
    if (aligned && i + OWN <= n) {
        float g[OWN], p[OWN], m[OWN], v[OWN];
        load_vector(grad + i, g);
        load_vector(param + i, p);
        load_vector(moment1 + i, m);
        load_vector(moment2 + i, v);
        for (int k = 0; k < OWN; k++)
            adamw_update(r, g[k], p[k], m[k], v[k]);
        store_vector(param + i, p);
        store_vector(moment1 + i, m);
        store_vector(moment2 + i, v);
        if (p_act != nullptr)
            store_packed(p_act + i, narrow<T>(p));
    } else {
        for (int64_t k = i; k < i + OWN && k < n; k++) {
            adamw_update(r, grad[k], param[k], moment1[k], moment2[k]);
            if (p_act != nullptr)
                p_act[k] = from_float<T>(param[k]);
        }
    }
}

} // namespace

extern "C" void cuda_adamw(struct backend *be, const struct adamw_args *a, void *)
{
    if (a->n == 0)
        return;
    const dim3 grid(unsigned(blocks_for(a->n, N_THREAD * OWN))), block(N_THREAD);
    WITH_ACT(be, T, {
        T *p_act = out<T>(a->p_act);
        if (static_cast<void *>(p_act) == a->p)
            p_act = nullptr; /* in f32 p may be its own copy */
        const bool aligned = aligned_16(a->p) && aligned_16(a->m) && aligned_16(a->v) &&
                             aligned_16(a->g) &&
                             reinterpret_cast<uintptr_t>(p_act) % (OWN * sizeof(T)) == 0;
        LAUNCH(adamw_kernel<T>, grid, block, 0, stream_of(be), rates_of(a), a->g, a->p, a->m, a->v,
               p_act, a->n, aligned);
    });
    CHECK_LAUNCH(be, "adamw");
}

extern "C" void cuda_add_sum(struct backend *be, const struct add_sum_args *a, void *scratch)
{
    double *part = static_cast<double *>(scratch);
    launch_parts<false>(be, "add_sum", a->x, a->n, part);
    launch_sum(be, "add_sum", part, a->n, a->scale, true, a->sum);
}

/* Scratch: the sum, then the parts. */
extern "C" void cuda_sum_squares(struct backend *be, const struct sum_squares_args *a,
                                 void *scratch)
{
    double *sum = static_cast<double *>(scratch);
    launch_parts<true>(be, "sum_squares", a->x, a->n, sum + 1);
    launch_sum(be, "sum_squares", sum + 1, a->n, 1, false, sum);
    if (!cuda_read_back(be, "sum_squares", sum, a->sum, sizeof *sum))
        *a->sum = double(NAN); /* no step on a norm that was not computed */
}
