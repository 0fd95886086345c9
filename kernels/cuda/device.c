/* The device: what it is, its memory, its one stream, and how its failures are told. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/context.h"

enum { DEVICE = 0, LEAST_MAJOR = 8 }; /* bfloat16 products came with 8.0 */

#ifndef CUDA_BUILT_FOR
#define CUDA_BUILT_FOR "?"
#endif

/* ---- failures ---- */

/* Of a kernel, found out while it ran. */
static bool is_fault(cudaError_t error)
{
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
        return true;
    default:
        return false;
    }
}

/* What to do about a failure that leaves the device unusable, if this is one. */
static const char *advice(cudaError_t error)
{
    if (is_fault(error))
        return "; a fault of the program, unless `dmesg | grep Xid` shows one of the device: "
               "please report it with the output of `jambatune env`";
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
    case cudaErrorHardwareStackError:
    case cudaErrorNvlinkUncorrectable:
        return "; the device itself failed: `dmesg | grep Xid` and `nvidia-smi -q` tell more";
    case cudaErrorNoKernelImageForDevice:
        return "; this build is for " CUDA_BUILT_FOR;
    default:
        return "";
    }
}

/* Whether each op waits for its kernels, so that a fault is its own. */
static bool one_at_a_time(void)
{
    const char *blocking = getenv("CUDA_LAUNCH_BLOCKING");
    return blocking != NULL && strcmp(blocking, "1") == 0;
}

/* A kernel's fault is seen by whatever asks next, often another op. */
bool cuda_explain(const struct cuda_state *s, const char *op, const char *what, struct err *err)
{
    /* Errors that last until the process ends are still there to be asked for. */
    const cudaError_t last = cudaPeekAtLastError();
    if (is_fault(last) && !one_at_a_time())
        return err_set(err, ERR_DEVICE,
                       "%s: %s (noticed in %s; CUDA_LAUNCH_BLOCKING=1 tells the op itself)%s",
                       s->name, what, op, advice(last));
    return err_set(err, ERR_DEVICE, "%s: %s: %s%s", s->name, op, what, advice(last));
}

void cuda_fail(struct backend *be, const char *op, const char *what)
{
    if (be->err.code == ERR_NONE)
        cuda_explain(cuda_state_of(be), op, what, &be->err);
}

/* ---- facts ---- */

static bool no_device(cudaError_t error, struct err *err)
{
    int driver = 0, runtime = 0;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0)
        return err_set(err, ERR_DEVICE, "no CUDA device can be used: there is no NVIDIA driver");
    if (error == cudaErrorInsufficientDriver)
        return err_set(
            err, ERR_DEVICE,
            "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d; install a newer "
            "driver",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return err_set(err, ERR_DEVICE, "no CUDA device can be used: %s",
                   error == cudaSuccess ? "the driver shows none" : cudaGetErrorString(error));
}

static bool device_facts(struct cuda_facts *out, struct err *err)
{
    *out = (struct cuda_facts){ 0 };
    int n_device = 0;
    struct cudaDeviceProp properties;
    cudaError_t status = cudaGetDeviceCount(&n_device);
    if (status != cudaSuccess || n_device == 0)
        return no_device(status, err);
    status = cudaGetDeviceProperties(&properties, DEVICE);
    if (status != cudaSuccess)
        return no_device(status, err);
    snprintf(out->name, sizeof out->name, "%.127s", properties.name);
    out->major = properties.major;
    out->minor = properties.minor;
    out->n_sm = properties.multiProcessorCount;
    out->memory = properties.totalGlobalMem;
    out->l2_bytes = (size_t)properties.l2CacheSize;
    out->shared_bytes = properties.sharedMemPerBlockOptin;
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    out->cublaslt = cublasLtGetVersion();
    out->cudnn = cuda_sdpa_version();
    snprintf(out->built_for, sizeof out->built_for, "%s", CUDA_BUILT_FOR);
    if (out->major < LEAST_MAJOR)
        return err_set(err, ERR_DEVICE,
                       "%s: compute capability %d.%d; %d.0 or newer is needed (Ampere, 2020)",
                       out->name, out->major, out->minor, LEAST_MAJOR);
    return true;
}

/* ---- struct device ---- */

static struct cuda_state *state_of(struct device *d)
{
    return (struct cuda_state *)(void *)d;
}

static double gib(size_t bytes)
{
    return (double)bytes / (double)(1 << 30);
}

static void *device_alloc(struct device *d, size_t bytes, struct err *err)
{
    struct cuda_state *s = state_of(d);
    void *p = NULL;
    size_t free_bytes = 0, all = 0;
    const cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaSuccess)
        return p;
    if (status != cudaErrorMemoryAllocation) {
        cuda_explain(s, "allocation", cudaGetErrorString(status), err);
        return NULL;
    }
    cudaGetLastError(); /* it would be found by the next op */
    cudaMemGetInfo(&free_bytes, &all);
    err_set(err, ERR_NO_MEMORY,
            "%s: out of memory: %.2f GiB asked for, %.2f of %.2f GiB are free%s", s->name,
            gib(bytes), gib(free_bytes), gib(all),
            bytes < all - all / 16 && free_bytes < all - all / 8
                ? " (nvidia-smi shows who uses the rest)"
                : "");
    return NULL;
}

static void device_free(struct device *d, void *p)
{
    (void)d;
    cudaFree(p); /* waits for the device; what failed before shows in finish */
}

static bool device_finish(struct device *d, struct err *err)
{
    struct cuda_state *s = state_of(d);
    const cudaError_t status = cudaStreamSynchronize(s->stream);
    return status == cudaSuccess || cuda_explain(s, "device", cudaGetErrorString(status), err);
}

static size_t device_used(struct device *d)
{
    (void)d;
    size_t free_bytes = 0, all = 0;
    return cudaMemGetInfo(&free_bytes, &all) == cudaSuccess ? all - free_bytes : 0;
}

static void device_close(struct device *d)
{
    struct cuda_state *s = state_of(d);
    if (s == NULL)
        return;
    if (s->stream != NULL)
        cudaStreamSynchronize(s->stream);
    cuda_sdpa_close(s->sdpa);
    cuda_gemm_close(s->gemm);
    cuda_staging_close(s->staging);
    cuda_marks_close(s->marks);
    if (s->stream != NULL)
        cudaStreamDestroy(s->stream);
    free(s);
}

static bool open_stream(struct cuda_state *s, struct err *err)
{
    cudaStream_t stream = NULL;
    cudaError_t status = cudaSetDevice(DEVICE);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    s->stream = stream;
    return status == cudaSuccess || cuda_explain(s, "opening", cudaGetErrorString(status), err);
}

static struct device *device_open(const struct cuda_options *options, struct err *err)
{
    struct cuda_facts facts;
    if (!device_facts(&facts, err))
        return NULL;
    struct cuda_state *s = calloc(1, sizeof *s);
    if (s == NULL) {
        err_no_memory(err, "the device's state");
        return NULL;
    }
    *s = (struct cuda_state){ .device = { .memory = facts.memory,
                                          .alloc = device_alloc,
                                          .free = device_free,
                                          .finish = device_finish,
                                          .used = device_used,
                                          .close = device_close,
                                          .mark = cuda_mark,
                                          .marked = cuda_marked },
                              .options = *options,
                              .major = facts.major,
                              .minor = facts.minor,
                              .n_sm = facts.n_sm,
                              .shared_bytes = facts.shared_bytes };
    memcpy(s->name, facts.name, sizeof s->name);
    if (open_stream(s, err) && cuda_staging_open(s, err) && cuda_gemm_open(s, err) &&
        cuda_sdpa_open(s, err))
        return &s->device;
    device_close(&s->device);
    return NULL;
}

const struct cuda_module jambatune_cuda_module = {
    .version = CUDA_MODULE_VERSION,
    .n_op = CUDA_N_OP,
    .ops = &cuda_ops,
    .facts = device_facts,
    .open = device_open,
    .tune = cuda_tune,
    .attention_calls = cuda_attention_calls,
};
