#include "finetune/model/compute.h"

#include "kernels/core/device.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/load.h"

/* Whether the GPU is to be used; *facts of the one there is, zeroed without one. */
static bool wants_cuda(const struct compute *c, struct cuda_facts *facts, struct err *reason)
{
    *facts = (struct cuda_facts){ 0 };
    if (c->device == COMPUTE_CPU)
        return false;
    const bool there = cuda_available(facts, reason);
    return there || c->device == COMPUTE_CUDA;
}

static bool check(const struct compute *c, const struct cuda_facts *facts, bool cuda,
                  const struct err *reason, struct err *err)
{
    if (cuda && facts->memory == 0)
        return err_set(err, ERR_RECIPE, "device: cuda cannot be used: %s; use cpu or auto",
                       reason->text);
    if (!cuda && c->precision == COMPUTE_BF16 && !cpu_has_bf16())
        return err_set(err, ERR_RECIPE,
                       "precision: bf16 needs a processor with AVX-512 BF16, which this one lacks "
                       "(a bfloat16 checkpoint is used as it is stored in either case); use fp32 "
                       "or auto");
    return true;
}

bool compute_check(const struct compute *c, struct err *err)
{
    struct cuda_facts facts;
    struct err reason = { 0 };
    const bool cuda = wants_cuda(c, &facts, &reason);
    return check(c, &facts, cuda, &reason, err);
}

static bool open_cuda(struct backend *be, const struct compute *c, const struct cuda_facts *facts,
                      struct err *err)
{
    const struct cuda_options options = {
        .act = c->precision == COMPUTE_FP32 ? DTYPE_F32 : DTYPE_BF16,
        .nondeterministic = c->nondeterministic,
        .tuned = c->algorithms,
    };
    if (c->plan_only)
        cuda_backend_for_plan(be, options.act, options.nondeterministic);
    else if (!cuda_backend_open(be, &options, err))
        return false;
    be->remote = true;
    be->memory = facts->memory;
    return true;
}

bool compute_open(struct backend *be, const struct compute *c, struct err *err)
{
    *be = (struct backend){ 0 };
    struct cuda_facts facts;
    struct err reason = { 0 };
    const bool cuda = wants_cuda(c, &facts, &reason);
    if (!c->plan_only && !check(c, &facts, cuda, &reason, err))
        return false;
    if (cuda)
        return open_cuda(be, c, &facts, err);
    cpu_backend_init(be, NULL, c->threads);
    be->gemm_bf16 = c->precision == COMPUTE_BF16 && cpu_has_bf16();
    return true;
}

void compute_close(struct backend *be)
{
    if (be->device != NULL)
        cuda_backend_close(be);
    *be = (struct backend){ 0 };
}
