/* Products on cuBLASLt.
 *
 * Its matrices are column-major, so a row-major c = op(a) op(b) is asked for as
 * c^T = op(b)^T op(a)^T: the operands change places, nothing is transposed.
 *
 * Algorithms: the first that the heuristic names for a shape (gemm_table.h), unless a file of tuned
 * ones has another. Asking takes tens of microseconds, so the answers are kept; an expert's rows
 * differ at every call, so it is asked for their number rounded up. The answer depends on the shape
 * alone, never on a timing, and sums over k may be split only with partial sums in f32 that are
 * added in a pass of their own (no INPLACE, whose order is the blocks' finishing order; no
 * OUTPUT_TYPE, which would round them to bfloat16): the same call gives the same bits. That split
 * is what makes the adapters' gradients fast, (rank, d) sums over all tokens of a chunk.
 *
 * LoRA's second product adds into c with beta 1. An augmented weight buffer, [w | s b], would save
 * that pass over c; it holds only without dropout and costs a copy of the weights.
 */
#include "kernels/cuda/gemm.h"

#include <assert.h>
#include <cublasLt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/sizes.h"

enum { REDUCTIONS = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE };

_Static_assert(sizeof(struct gemm_algorithm) == sizeof(cublasLtMatmulAlgo_t),
               "gemm_table.h keeps algorithms by their size");

/* ---- descriptors ---- */

/* In cuBLASLt's terms: c (n, m) = op(b) (n, k) op(a) (k, m), column-major. */
struct problem {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t a, b, c;
};

static cublasStatus_t problem_init(struct problem *p, const struct gemm_shape *s)
{
    const int32_t op_a = s->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int32_t op_b = s->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cudaDataType_t type = s->bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const uint64_t m = (uint64_t)s->m, n = (uint64_t)s->n, k = (uint64_t)s->k;
    /* Sums in f32; f32 operands are multiplied as they are, never as TF32. */
    cublasStatus_t status = cublasLtMatmulDescInit(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_TRANSA, &op_b,
                                                sizeof op_b);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_TRANSB, &op_a,
                                                sizeof op_a);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatrixLayoutInit(&p->b, type, s->trans_b ? k : n, s->trans_b ? n : k, s->ldb);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatrixLayoutInit(&p->a, type, s->trans_a ? m : k, s->trans_a ? k : m, s->lda);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatrixLayoutInit(&p->c, s->c_bf16 ? CUDA_R_16BF : CUDA_R_32F, n, m, s->ldc);
    return status;
}

static cublasStatus_t preference_init(cublasLtMatmulPreferenceOpaque_t *p,
                                      const struct gemm_shape *s)
{
    const uint64_t workspace = GEMM_WORKSPACE_BYTES;
    const uint32_t reductions = REDUCTIONS;
    const uint32_t align_a = (uint32_t)s->align_b, align_b = (uint32_t)s->align_a;
    const uint32_t align_c = (uint32_t)s->align_c;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t bytes;
    } all[] = {
        { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace },
        { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof align_a },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof align_b },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c },
    };
    cublasStatus_t status = cublasLtMatmulPreferenceInit(p);
    for (size_t i = 0; i < sizeof all / sizeof *all && status == CUBLAS_STATUS_SUCCESS; i++)
        status =
            cublasLtMatmulPreferenceSetAttribute(p, all[i].attribute, all[i].value, all[i].bytes);
    return status;
}

/* ---- algorithms ---- */

int gemm_candidates(const struct cuda_gemm *g, const struct gemm_shape *shape, int most,
                    struct gemm_algorithm *out)
{
    enum { MOST = 32 };
    struct problem p;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t results[MOST];
    int found = 0, n = 0;
    if (problem_init(&p, shape) != CUBLAS_STATUS_SUCCESS ||
        preference_init(&preference, shape) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoGetHeuristic(g->handle, &p.product, &p.b, &p.a, &p.c, &p.c, &preference,
                                       most < MOST ? most : MOST, results,
                                       &found) != CUBLAS_STATUS_SUCCESS)
        return 0;
    for (int i = 0; i < found; i++) {
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            memcpy(&out[n++], &results[i].algo, sizeof *out);
    }
    return n;
}

/* Whether an algorithm from a file may run a shape here. */
static bool algorithm_fits(const struct cuda_gemm *g, const struct gemm_entry *e)
{
    struct problem p;
    cublasLtMatmulAlgo_t algorithm;
    cublasLtMatmulHeuristicResult_t result;
    uint32_t reduction = 0;
    size_t written = 0;
    memcpy(&algorithm, &e->algorithm, sizeof algorithm);
    return problem_init(&p, &e->shape) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoCheck(g->handle, &p.product, &p.b, &p.a, &p.c, &p.c, &algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= GEMM_WORKSPACE_BYTES &&
           cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                &reduction, sizeof reduction,
                                                &written) == CUBLAS_STATUS_SUCCESS &&
           (reduction & ~(uint32_t)REDUCTIONS) == 0;
}

static bool read_tuned(struct cuda_gemm *g, const char *path, struct err *err)
{
    if (!gemm_table_read(&g->table, &g->machine, path, err))
        return false;
    for (int64_t i = 0; i < g->table.cap; i++) {
        const struct gemm_entry *e = &g->table.entries[i];
        if (e->shape.n != 0 && !algorithm_fits(g, e))
            return err_set(err, ERR_DATA,
                           "%s: the algorithm for m %" PRId64 ", n %" PRId64 ", k %" PRId64
                           " cannot run here; tune again",
                           path, e->shape.m, e->shape.n, e->shape.k);
    }
    return true;
}

bool cuda_gemm_open(struct cuda_state *s, struct err *err)
{
    struct cuda_gemm *g = calloc(1, sizeof *g);
    cublasLtHandle_t handle = NULL;
    s->gemm = g;
    if (g == NULL)
        return err_no_memory(err, "the device's products");
    const cublasStatus_t status = cublasLtCreate(&handle);
    g->handle = handle;
    if (status != CUBLAS_STATUS_SUCCESS)
        return cuda_explain(s, "cuBLASLt", cublasLtGetStatusString(status), err);
    g->machine = (struct gemm_machine){
        .major = s->major, .minor = s->minor, .n_sm = s->n_sm, .cublaslt = cublasLtGetVersion()
    };
    memcpy(g->machine.device, s->name, sizeof g->machine.device);
    return s->options.tuned == NULL || read_tuned(g, s->options.tuned, err);
}

void cuda_gemm_close(struct cuda_gemm *g)
{
    if (g == NULL)
        return;
    if (g->handle != NULL)
        cublasLtDestroy(g->handle);
    gemm_table_free(&g->table);
    free(g);
}

/* ---- the op ---- */

static cublasStatus_t run(const struct cuda_gemm *g, const struct gemm_shape *shape,
                          const struct gemm_algorithm *algorithm, const struct gemm_operands *o,
                          void *stream)
{
    struct problem p;
    cublasLtMatmulAlgo_t chosen;
    memcpy(&chosen, algorithm, sizeof chosen);
    const cublasStatus_t status = problem_init(&p, shape);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    return cublasLtMatmul(g->handle, &p.product, &o->alpha, o->b, &p.b, o->a, &p.a, &o->beta, o->c,
                          &p.c, o->c, &p.c, &chosen, o->workspace, GEMM_WORKSPACE_BYTES, stream);
}

bool gemm_run(const struct cuda_gemm *g, const struct gemm_shape *shape,
              const struct gemm_algorithm *algorithm, const struct gemm_operands *o, void *stream)
{
    return run(g, shape, algorithm, o, stream) == CUBLAS_STATUS_SUCCESS;
}

/* The entry of a shape, made on first sight. NULL when there is no algorithm (or no memory). */
static struct gemm_entry *entry_of(struct cuda_gemm *g, const struct gemm_shape *shape)
{
    struct gemm_entry *e = gemm_table_find(&g->table, shape);
    struct gemm_algorithm first;
    if (e == NULL && gemm_candidates(g, shape, 1, &first) > 0) {
        e = gemm_table_add(&g->table, shape);
        if (e != NULL)
            e->algorithm = first;
    }
    return e;
}

void cuda_gemm(struct backend *be, const struct gemm_args *a, void *scratch)
{
    assert(a->b_dtype == be->act && "weights are of the activations' type on a device");
    if (a->m == 0 || be->err.code != ERR_NONE)
        return;
    const struct cuda_state *s = cuda_state_of(be);
    const struct gemm_operands operands = {
        .a = a->a, .b = a->b, .c = a->c, .workspace = scratch, .alpha = a->alpha, .beta = a->beta
    };
    const struct gemm_shape shape = gemm_shape_of(a, be->act);
    const struct gemm_shape rounded = gemm_shape_rounded(&shape);
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    /* A shape has an entry of its own only where that of the rounded one could not run it. */
    struct gemm_entry *e = gemm_table_find(&s->gemm->table, &shape);
    if (e == NULL)
        e = entry_of(s->gemm, &rounded);
    if (e != NULL)
        status = run(s->gemm, &shape, &e->algorithm, &operands, s->stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
        e = entry_of(s->gemm, &shape);
        if (e != NULL)
            status = run(s->gemm, &shape, &e->algorithm, &operands, s->stream);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        e->ran = true;
        return;
    }
    char what[256];
    snprintf(what, sizeof what,
             "m %" PRId64 ", n %" PRId64 ", k %" PRId64 "%s%s, alignments %d %d %d: %s", shape.m,
             shape.n, shape.k, shape.trans_a ? ", a transposed" : "",
             shape.trans_b ? ", b transposed" : "", (int)shape.align_a, (int)shape.align_b,
             (int)shape.align_c, e == NULL ? "no algorithm" : cublasLtGetStatusString(status));
    cuda_fail(be, "gemm", what);
}
