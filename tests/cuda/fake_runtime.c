#include "tests/cuda/fake_runtime.h"

#include <assert.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/dtype.h"
#include "kernels/cuda/context.h"

struct fake_runtime fake;

/* What the stream has queued: copies, and the events that mark places between them. */
struct queued {
    void *to;
    const void *from;
    size_t bytes;
    struct CUevent_st *event;
};
struct CUstream_st {
    struct queued *work;
    int64_t n, done, cap;
};
struct CUevent_st {
    struct CUstream_st *stream;
    int64_t place; /* passed when this many are done */
    double ms;
};
static struct CUstream_st *the_stream;
static double clock_ms;

void fake_reset(void)
{
    assert(fake.alive == 0);
    fake = (struct fake_runtime){
        .n_device = 1, .major = 9, .name = "fake device", .memory = (size_t)1 << 32
    };
    clock_ms = 0;
}

/* Counts a call; whether it is the one that fails. */
static bool fails(void)
{
    fake.calls++;
    const bool now = fake.calls == fake.failing_call;
    return now || (fake.for_good && fake.failing_call > 0 && fake.calls > fake.failing_call);
}

static cudaError_t result(cudaError_t error)
{
    if (error != cudaSuccess)
        fake.last_error = (int)error;
    return error;
}

/* ---- errors and facts ---- */

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = (cudaError_t)fake.last_error;
    if (!fake.for_good)
        fake.last_error = 0;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return (cudaError_t)fake.last_error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess                 ? "no error"
           : error == cudaErrorMemoryAllocation ? "out of memory"
           : error == cudaErrorIllegalAddress   ? "an illegal memory access was encountered"
                                                : "some error";
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = fake.no_driver ? 0 : fake.old_driver ? 12040 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    if (fake.old_driver || fake.no_driver)
        return result(cudaErrorInsufficientDriver);
    if (fails())
        return result(cudaErrorUnknown);
    *n = fake.n_device;
    return fake.n_device > 0 ? cudaSuccess : result(cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    assert(device == 0);
    if (fails())
        return result(cudaErrorUnknown);
    memset(p, 0, sizeof *p);
    memcpy(p->name, fake.name, strlen(fake.name));
    p->major = fake.major;
    p->multiProcessorCount = 132;
    p->totalGlobalMem = fake.memory;
    p->l2CacheSize = 50 << 20;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    assert(device == 0);
    return fails() ? result(cudaErrorUnknown) : cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all)
{
    *all = fake.memory;
    *free_bytes = fake.memory - fake.used;
    return cudaSuccess;
}

static void work_until(cudaStream_t s, int64_t place)
{
    for (; s->done < place; s->done++) {
        const struct queued *w = &s->work[s->done];
        if (w->event != NULL)
            w->event->ms = clock_ms;
        else
            memcpy(w->to, w->from, w->bytes);
    }
}

/* The size stands before the bytes, at the alignment that they have. */
enum { HEAD = 256 };

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if (fails() || bytes > fake.memory - fake.used)
        return result(cudaErrorMemoryAllocation);
    char *base = aligned_alloc(HEAD, (bytes + 2 * HEAD - 1) / HEAD * HEAD);
    assert(base != NULL);
    memcpy(base, &bytes, sizeof bytes);
    memset(base + HEAD, 0xff, bytes < 1 << 20 ? bytes : 1 << 20);
    fake.used += bytes;
    fake.alive++;
    *p = base + HEAD;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    size_t bytes = 0;
    if (p == NULL)
        return cudaSuccess;
    if (the_stream != NULL) /* as the real one, it waits */
        work_until(the_stream, the_stream->n);
    memcpy(&bytes, (char *)p - HEAD, sizeof bytes);
    fake.used -= bytes;
    fake.alive--;
    free((char *)p - HEAD);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    (void)flags;
    *p = fails() ? NULL : malloc(bytes);
    fake.alive += *p != NULL;
    return *p != NULL ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    fake.alive -= p != NULL;
    free(p);
    return cudaSuccess;
}

/* ---- the stream ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    assert(flags == cudaStreamNonBlocking);
    if (fails())
        return result(cudaErrorUnknown);
    *stream = calloc(1, sizeof **stream);
    assert(*stream != NULL);
    fake.alive++;
    the_stream = *stream;
    return cudaSuccess;
}

static void queue(cudaStream_t s, struct queued work)
{
    if (s->n == s->cap) {
        s->cap = s->cap > 0 ? 2 * s->cap : 64;
        s->work = realloc(s->work, (size_t)s->cap * sizeof *s->work);
        assert(s->work != NULL);
    }
    s->work[s->n++] = work;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    free(s->work);
    free(s);
    the_stream = NULL;
    fake.alive--;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    fake.waits++;
    if (fails())
        return result(cudaErrorIllegalAddress);
    work_until(s, s->n);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    assert(kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToHost);
    if (fails())
        return result(cudaErrorInvalidValue);
    queue(s, (struct queued){ .to = to, .from = from, .bytes = bytes });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    if (fails())
        return result(cudaErrorUnknown);
    *event = calloc(1, sizeof **event);
    assert(*event != NULL);
    fake.alive++;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    fake.alive--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    if (fails())
        return result(cudaErrorInvalidValue);
    queue(s, (struct queued){ .event = event });
    event->stream = s;
    event->place = s->n;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (fails())
        return result(cudaErrorIllegalAddress);
    if (event->stream == NULL) /* never recorded: nothing to wait for */
        return cudaSuccess;
    fake.waits += event->stream->done < event->place;
    work_until(event->stream, event->place);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop)
{
    if (fails())
        return result(cudaErrorInvalidValue);
    *ms = (float)(stop->ms - start->ms);
    return cudaSuccess;
}

/* ---- cuBLASLt's descriptors ----
 *
 * Opaque to callers, so laid out here as suits: what is not set has cuBLASLt's default. */

struct fake_product {
    int32_t trans_a, trans_b;
    cublasComputeType_t compute;
    cudaDataType_t scale;
};
struct fake_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct fake_preference {
    uint64_t workspace;
    uint32_t reductions, align[4];
};
struct fake_algorithm {
    int32_t id, reduction;
    uint32_t align[4];
    int32_t m, n, k; /* for which it was asked */
};

static struct fake_product *product_of(cublasLtMatmulDesc_t d)
{
    return (struct fake_product *)(void *)d;
}

static struct fake_layout *layout_of(cublasLtMatrixLayout_t d)
{
    return (struct fake_layout *)(void *)d;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    assert(size == sizeof(cublasLtMatmulDescOpaque_t) && size >= sizeof(struct fake_product));
    *product_of(d) =
        (struct fake_product){ CUBLAS_OP_N, CUBLAS_OP_N, .compute = compute, .scale = scale };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    assert(bytes == sizeof(int32_t));
    if (attribute == CUBLASLT_MATMUL_DESC_TRANSA)
        memcpy(&product_of(d)->trans_a, value, bytes);
    else if (attribute == CUBLASLT_MATMUL_DESC_TRANSB)
        memcpy(&product_of(d)->trans_b, value, bytes);
    else
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t d, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld)
{
    assert(size == sizeof(cublasLtMatrixLayoutOpaque_t) && size >= sizeof(struct fake_layout));
    assert(rows > 0 && cols > 0 && ld >= (int64_t)rows);
    *layout_of(d) = (struct fake_layout){ type, rows, cols, ld };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t d, size_t size)
{
    assert(size >= sizeof(struct fake_preference));
    *(struct fake_preference *)(void *)d =
        (struct fake_preference){ .reductions = CUBLASLT_REDUCTION_SCHEME_MASK,
                                  .align = { 256, 256, 256, 256 } };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t d,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    struct fake_preference *p = (struct fake_preference *)(void *)d;
    void *to = NULL;
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        to = &p->workspace;
    else if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        to = &p->reductions;
    else if (attribute >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
             attribute <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
        to = &p->align[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
    if (to == NULL || bytes != (to == &p->workspace ? sizeof(uint64_t) : sizeof(uint32_t)))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- cuBLASLt's algorithms and products ---- */

size_t cublasLtGetVersion(void)
{
    return 130100;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "some status";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    if (fails())
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = (cublasLtHandle_t)malloc(1);
    fake.alive++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    fake.alive--;
    return CUBLAS_STATUS_SUCCESS;
}

struct dims {
    int64_t m, n, k;
};

/* The dimensions, where the layouts agree on them. */
static bool dims_of(const struct fake_product *p, const struct fake_layout *a,
                    const struct fake_layout *b, const struct fake_layout *c, struct dims *out)
{
    const uint64_t m = p->trans_a ? a->cols : a->rows, k = p->trans_a ? a->rows : a->cols;
    const uint64_t n = p->trans_b ? b->rows : b->cols;
    *out = (struct dims){ (int64_t)m, (int64_t)n, (int64_t)k };
    return k == (p->trans_b ? b->cols : b->rows) && c->rows == m && c->cols == n &&
           a->type == b->type && p->compute == CUBLAS_COMPUTE_32F && p->scale == CUDA_R_32F &&
           (c->type == CUDA_R_32F || (c->type == CUDA_R_16BF && a->type == CUDA_R_16BF));
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *found)
{
    enum { N_ALGORITHM = 5 };
    const struct fake_preference *p = (struct fake_preference *)(void *)preference;
    struct dims dims;
    assert(handle != NULL && c == d);
    fake.queries++;
    *found = 0;
    if (fails() || !dims_of(product_of(product), layout_of(a), layout_of(b), layout_of(c), &dims))
        return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < N_ALGORITHM && *found < most && !fake.clueless; i++) {
        struct fake_algorithm algorithm = { .id = i,
                                            .reduction = i == 1 ? 2 : 0,
                                            .m = (int32_t)dims.m,
                                            .n = (int32_t)dims.n,
                                            .k = (int32_t)dims.k };
        assert((algorithm.reduction & ~(int32_t)p->reductions) == 0);
        memcpy(algorithm.align, p->align, sizeof algorithm.align);
        /* The third is found out not to run. */
        results[*found] =
            (cublasLtMatmulHeuristicResult_t){ .state = i == 2 ? CUBLAS_STATUS_NOT_SUPPORTED
                                                               : CUBLAS_STATUS_SUCCESS,
                                               .workspaceSize = (size_t)p->workspace };
        memcpy(&results[(*found)++].algo, &algorithm, sizeof algorithm);
    }
    return *found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *out)
{
    struct dims dims;
    struct fake_algorithm algorithm;
    assert(handle != NULL && c == d);
    memcpy(&algorithm, algo, sizeof algorithm);
    *out = (cublasLtMatmulHeuristicResult_t){ .workspaceSize = fake.workspace };
    return dims_of(product_of(product), layout_of(a), layout_of(b), layout_of(c), &dims) &&
                   algorithm.m == dims.m && algorithm.n == dims.n && algorithm.k == dims.k
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *value, size_t bytes, size_t *written)
{
    struct fake_algorithm algorithm;
    assert(attribute == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME && bytes == sizeof(uint32_t));
    memcpy(&algorithm, algo, sizeof algorithm);
    memcpy(value, &algorithm.reduction, bytes);
    *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *x, cudaDataType_t type, int64_t at)
{
    float value = 0;
    uint16_t bits = 0;
    if (type == CUDA_R_32F) {
        memcpy(&value, (const char *)x + at * 4, 4);
        return value;
    }
    memcpy(&bits, (const char *)x + at * 2, 2);
    return dtype_from_bf16(bits);
}

static void set_element(void *x, cudaDataType_t type, int64_t at, float value)
{
    const uint16_t bits = dtype_to_bf16(value);
    if (type == CUDA_R_32F)
        memcpy((char *)x + at * 4, &value, 4);
    else
        memcpy((char *)x + at * 2, &bits, 2);
}

/* Column-major, as the documentation of cublasLtMatmul has it. */
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_desc,
                              const void *b, cublasLtMatrixLayout_t b_desc, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_desc, void *d,
                              cublasLtMatrixLayout_t d_desc, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const struct fake_product *p = product_of(product);
    const struct fake_layout *la = layout_of(a_desc), *lb = layout_of(b_desc);
    const struct fake_layout *lc = layout_of(c_desc);
    struct fake_algorithm algorithm;
    struct dims dims;
    float by, keep;
    memcpy(&algorithm, algo, sizeof algorithm);
    memcpy(&by, alpha, sizeof by);
    memcpy(&keep, beta, sizeof keep);
    assert(handle != NULL && c == d && c_desc == d_desc && workspace != NULL &&
           (uintptr_t)workspace % 256 == 0 && workspace_bytes > 0);
    if (fails() || !dims_of(p, la, lb, lc, &dims))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (fake.strict && (algorithm.m != dims.m || algorithm.n != dims.n || algorithm.k != dims.k)) {
        fake.refused++;
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    assert((uintptr_t)a % algorithm.align[0] == 0 && (uintptr_t)b % algorithm.align[1] == 0 &&
           (uintptr_t)c % algorithm.align[2] == 0 && (uintptr_t)d % algorithm.align[3] == 0);
    work_until(stream, stream->n);
    clock_ms += algorithm.id == fake.fastest ? 0.5 : algorithm.id == 0 ? 1 : 1.5;
    fake.products++;
    fake.last_algorithm = algorithm.id;
    for (int64_t j = 0; j < dims.n; j++) {
        for (int64_t i = 0; i < dims.m; i++) {
            double sum = 0;
            for (int64_t l = 0; l < dims.k; l++)
                sum += (double)element(a, la->type, p->trans_a ? i * la->ld + l : l * la->ld + i) *
                       (double)element(b, lb->type, p->trans_b ? l * lb->ld + j : j * lb->ld + l);
            const int64_t at = j * lc->ld + i;
            const double kept = keep == 0 ? 0 : (double)keep * (double)element(d, lc->type, at);
            set_element(d, lc->type, at, (float)((double)by * sum + kept));
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the parts of the module that are not here ---- */

bool cuda_sdpa_open(struct cuda_state *s, struct err *err)
{
    (void)err;
    s->sdpa = NULL;
    return true;
}

void cuda_sdpa_close(struct cuda_sdpa *sdpa)
{
    assert(sdpa == NULL);
}

void cuda_attention_calls(struct device *d, struct cuda_attention_calls *out)
{
    (void)d;
    *out = (struct cuda_attention_calls){ 0 };
}

size_t cuda_sdpa_version(void)
{
    return 0;
}

void cuda_random(struct backend *be, const struct random_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    work_until(the_stream, the_stream->n);
    memset(a->y, 0, (size_t)a->n * dtype_size(a->dtype));
}

const struct ops cuda_ops = { .gemm = cuda_gemm,
                              .to_device = cuda_to_device,
                              .to_host = cuda_to_host };
