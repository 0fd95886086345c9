/* sdpa_graph.h on cuDNN's backend API, which is C: a descriptor for each tensor and operation, a
 * graph of them, a heuristic's proposals for it, and a plan: the first that can be built.
 *
 * The API is known from its header alone (cudnn_graph.h); NVIDIA's own user of it is the C++
 * cudnn-frontend. Descriptors are kept as long as the plan that was made from them.
 */
#include "kernels/cuda/sdpa_graph.h"

#include <assert.h>
#include <cudnn_graph.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 16,
    MOST_PROPOSALS = 16,
    /* tensors, two for each node, and graph, heuristic, proposals, engine, plan */
    MOST_DESCRIPTORS = SDPA_MAX_TENSOR + 2 * SDPA_MAX_NODE + MOST_PROPOSALS + 4,
};

struct sdpa_engine {
    cudnnHandle_t handle;               /* NULL where the device is only described */
    cudnnBackendDescriptor_t described; /* NULL where there is a handle */
};

struct sdpa_plan {
    cudnnBackendDescriptor_t descriptor[MOST_DESCRIPTORS];
    int n_descriptor;
    cudnnBackendDescriptor_t executable;
    size_t workspace;
    /* What the graph's tensors are bound to: ids in cuDNN's eyes are the graph's indices. */
    int64_t id[SDPA_MAX_TENSOR];
    float value[SDPA_MAX_TENSOR];
    int n_id;
};

/* A plan under construction; after a failure, which is in *err, every call is a no-op. */
struct building {
    struct sdpa_plan *plan;
    const struct sdpa_graph *graph;
    const struct sdpa_engine *engine;
    cudnnBackendDescriptor_t tensor[SDPA_MAX_TENSOR], operation[SDPA_MAX_NODE];
    struct err *err;
    bool failed;
};

/* ---- errors ---- */

static bool failed(struct err *err, const char *what, cudnnStatus_t status)
{
    char last[512] = "";
    cudnnGetLastErrorString(last, sizeof last);
    return err_set(err, ERR_DEVICE, "cuDNN %zu: %s: %s%s%s", cudnnGetVersion(), what,
                   cudnnGetErrorString(status), last[0] != '\0' ? ": " : "", last);
}

static void check(struct building *b, const char *what, cudnnStatus_t status)
{
    if (status != CUDNN_STATUS_SUCCESS && !b->failed)
        b->failed = !failed(b->err, what, status);
}

/* ---- descriptors ---- */

static cudnnBackendDescriptor_t create(struct building *b, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;
    if (b->failed)
        return NULL;
    assert(b->plan->n_descriptor < MOST_DESCRIPTORS);
    check(b, "a descriptor", cudnnBackendCreateDescriptor(type, &d));
    if (!b->failed)
        b->plan->descriptor[b->plan->n_descriptor++] = d;
    return d;
}

static void set(struct building *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *value)
{
    if (!b->failed)
        check(b, "an attribute", cudnnBackendSetAttribute(d, name, type, n, value));
}

static void set_int(struct building *b, cudnnBackendDescriptor_t d,
                    cudnnBackendAttributeName_t name, int64_t value)
{
    set(b, d, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_bool(struct building *b, cudnnBackendDescriptor_t d,
                     cudnnBackendAttributeName_t name, bool value)
{
    set(b, d, name, CUDNN_TYPE_BOOLEAN, 1, &value);
}

static void set_descriptor(struct building *b, cudnnBackendDescriptor_t d,
                           cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value)
{
    set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_type(struct building *b, cudnnBackendDescriptor_t d,
                     cudnnBackendAttributeName_t name, enum sdpa_type type)
{
    static const cudnnDataType_t types[] = { [SDPA_BF16] = CUDNN_DATA_BFLOAT16,
                                             [SDPA_F32] = CUDNN_DATA_FLOAT,
                                             [SDPA_I32] = CUDNN_DATA_INT32,
                                             [SDPA_I64] = CUDNN_DATA_INT64,
                                             [SDPA_BOOL] = CUDNN_DATA_BOOLEAN };
    set(b, d, name, CUDNN_TYPE_DATA_TYPE, 1, &types[type]);
}

static void finalize(struct building *b, cudnnBackendDescriptor_t d, const char *what)
{
    if (!b->failed)
        check(b, what, cudnnBackendFinalize(d));
}

static void set_tensor(struct building *b, cudnnBackendDescriptor_t d,
                       cudnnBackendAttributeName_t name, int tensor)
{
    if (tensor != SDPA_NONE)
        set_descriptor(b, d, name, b->tensor[tensor]);
}

/* ---- tensors ---- */

static void build_tensor(struct building *b, int i)
{
    const struct sdpa_tensor *t = &b->graph->tensor[i];
    cudnnBackendDescriptor_t d = create(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set_type(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, t->type);
    set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t->dim);
    set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t->stride);
    set_int(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, i);
    set_int(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, ALIGNMENT);
    set_bool(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, t->is_virtual);
    set_bool(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, t->by_value);
    set_tensor(b, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, t->at);
    finalize(b, d, "a tensor");
    b->tensor[i] = d;
    if (!t->is_virtual) {
        b->plan->id[b->plan->n_id++] = i;
        b->plan->value[i] = t->value;
    }
}

/* In the order of the graph: starts come before what begins there. */
static void build_tensors(struct building *b)
{
    for (int i = SDPA_NONE + 1; i < b->graph->n_tensor; i++) {
        if (b->graph->tensor[i].dim[0] > 0)
            build_tensor(b, i);
    }
}

/* ---- operations ---- */

static cudnnPointwiseMode_t pointwise_mode(enum sdpa_op op)
{
    switch (op) {
    case SDPA_ADD:
        return CUDNN_POINTWISE_ADD;
    case SDPA_SUB:
        return CUDNN_POINTWISE_SUB;
    case SDPA_MUL:
        return CUDNN_POINTWISE_MUL;
    case SDPA_DIV:
        return CUDNN_POINTWISE_DIV;
    case SDPA_EXP:
        return CUDNN_POINTWISE_EXP;
    case SDPA_LOG:
        return CUDNN_POINTWISE_LOG;
    case SDPA_ROW:
    case SDPA_COLUMN:
        return CUDNN_POINTWISE_GEN_INDEX;
    case SDPA_LESS:
        return CUDNN_POINTWISE_CMP_LT;
    case SDPA_NOT_LESS:
        return CUDNN_POINTWISE_CMP_GE;
    case SDPA_AND:
        return CUDNN_POINTWISE_LOGICAL_AND;
    case SDPA_SELECT:
        return CUDNN_POINTWISE_BINARY_SELECT;
    default:
        return CUDNN_POINTWISE_IDENTITY;
    }
}

static cudnnBackendDescriptor_t build_pointwise(struct building *b, const struct sdpa_node *n)
{
    const cudnnPointwiseMode_t mode = pointwise_mode(n->op);
    cudnnBackendDescriptor_t p = create(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(b, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(b, p, CUDNN_ATTR_POINTWISE_MATH_PREC, n->compute);
    if (n->op == SDPA_ROW)
        set_int(b, p, CUDNN_ATTR_POINTWISE_AXIS, 2);
    if (n->op == SDPA_COLUMN || n->broadcast_columns)
        set_int(b, p, CUDNN_ATTR_POINTWISE_AXIS, 3);
    finalize(b, p, "a pointwise mode");
    cudnnBackendDescriptor_t o = create(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(b, o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, n->x);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, n->b);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, n->t);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, n->y);
    return o;
}

static cudnnBackendDescriptor_t build_product(struct building *b, const struct sdpa_node *n)
{
    const double padding = 0;
    cudnnBackendDescriptor_t p = create(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set_type(b, p, CUDNN_ATTR_MATMUL_COMP_TYPE, n->compute);
    if (n->zero_padding)
        set(b, p, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &padding);
    finalize(b, p, "a product's mode");
    cudnnBackendDescriptor_t o = create(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(b, o, CUDNN_ATTR_OPERATION_MATMUL_DESC, p);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, n->x);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, n->b);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, n->y);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, n->m);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n->n);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, n->k);
    return o;
}

static cudnnBackendDescriptor_t build_reduction(struct building *b, const struct sdpa_node *n)
{
    const cudnnReduceTensorOp_t op =
        n->op == SDPA_MAX ? CUDNN_REDUCE_TENSOR_MAX : CUDNN_REDUCE_TENSOR_ADD;
    cudnnBackendDescriptor_t r = create(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(b, r, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
    set_type(b, r, CUDNN_ATTR_REDUCTION_COMP_TYPE, n->compute);
    finalize(b, r, "a reduction's mode");
    cudnnBackendDescriptor_t o = create(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(b, o, CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, n->x);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, n->y);
    return o;
}

static cudnnBackendDescriptor_t build_reshape(struct building *b, const struct sdpa_node *n)
{
    cudnnBackendDescriptor_t o = create(b, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, n->x);
    set_tensor(b, o, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, n->y);
    return o;
}

static void build_operations(struct building *b)
{
    for (int i = 0; i < b->graph->n_node; i++) {
        const struct sdpa_node *n = &b->graph->node[i];
        cudnnBackendDescriptor_t o;
        if (n->op == SDPA_MATMUL)
            o = build_product(b, n);
        else if (n->op == SDPA_MAX || n->op == SDPA_SUM)
            o = build_reduction(b, n);
        else if (n->op == SDPA_TRANSPOSE)
            o = build_reshape(b, n);
        else
            o = build_pointwise(b, n);
        finalize(b, o, "an operation");
        b->operation[i] = o;
    }
}

/* ---- plans ---- */

static cudnnBackendDescriptor_t build_graph(struct building *b)
{
    cudnnHandle_t handle = b->engine->handle;
    cudnnBackendDescriptor_t g = create(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (handle != NULL)
        set(b, g, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    set(b, g, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b->graph->n_node,
        b->operation);
    finalize(b, g, "the graph");
    return g;
}

/* The heuristic's proposals for the graph, best first; their number. */
static int64_t propose(struct building *b, cudnnBackendDescriptor_t graph,
                       cudnnBackendDescriptor_t proposal[MOST_PROPOSALS])
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t n = 0, got = 0;
    cudnnBackendDescriptor_t h = create(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(b, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(b, h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (b->engine->described != NULL)
        set_descriptor(b, h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, b->engine->described);
    finalize(b, h, "the heuristic");
    if (!b->failed)
        check(b, "the number of proposals",
              cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &n, NULL));
    n = n < MOST_PROPOSALS ? n : MOST_PROPOSALS;
    for (int64_t i = 0; i < n; i++)
        proposal[i] = create(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (!b->failed && n > 0)
        check(b, "the proposals",
              cudnnBackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, n, &got, proposal));
    return b->failed ? 0 : got;
}

/* Whether its engine says that sums have no fixed order. */
static bool is_nondeterministic(struct building *b, cudnnBackendDescriptor_t proposal)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;
    cudnnBackendDescriptor_t e = create(b, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    if (b->failed)
        return true;
    check(b, "an engine",
          cudnnBackendGetAttribute(proposal, CUDNN_ATTR_ENGINECFG_ENGINE,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &e));
    n = 0;
    if (!b->failed)
        check(b, "an engine's notes",
              cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                       CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                                       &n, notes));
    bool found = false;
    for (int64_t i = 0; i < n && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
        found |= notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    /* It is one of sixteen at most, of which the plan keeps none. */
    if (!b->failed)
        b->plan->n_descriptor--;
    cudnnBackendDestroyDescriptor(e);
    return found;
}

/* A plan of the proposal, if it can be built and is small enough. */
static bool settle(struct building *b, cudnnBackendDescriptor_t proposal, size_t most_workspace)
{
    cudnnHandle_t handle = b->engine->handle;
    int64_t n = 0, bytes = 0;
    cudnnBackendDescriptor_t p = NULL;
    struct building attempt = *b;
    check(&attempt, "a plan",
          cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p));
    if (handle != NULL)
        set(&attempt, p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    else
        set_descriptor(&attempt, p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, b->engine->described);
    set_descriptor(&attempt, p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, proposal);
    finalize(&attempt, p, "a plan");
    if (!attempt.failed)
        check(&attempt, "a plan's workspace",
              cudnnBackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                       CUDNN_TYPE_INT64, 1, &n, &bytes));
    if (!attempt.failed && (size_t)bytes > most_workspace)
        attempt.failed =
            !err_set(b->err, ERR_DEVICE, "cuDNN %zu: a plan takes %lld bytes, %zu are planned",
                     cudnnGetVersion(), (long long)bytes, most_workspace);
    if (attempt.failed) {
        if (p != NULL)
            cudnnBackendDestroyDescriptor(p);
        return false;
    }
    b->plan->executable = p;
    b->plan->workspace = (size_t)bytes;
    return true;
}

static bool choose(struct building *b, bool deterministic, size_t most_workspace)
{
    cudnnBackendDescriptor_t proposal[MOST_PROPOSALS] = { NULL };
    cudnnBackendDescriptor_t graph = build_graph(b);
    const int64_t n = propose(b, graph, proposal);
    if (b->failed)
        return false;
    err_set(b->err, ERR_DEVICE, "cuDNN %zu: no engine for the graph%s", cudnnGetVersion(),
            deterministic && n > 0 ? " that adds in a fixed order" : "");
    for (int64_t i = 0; i < n; i++) {
        if (deterministic && is_nondeterministic(b, proposal[i]))
            continue;
        if (settle(b, proposal[i], most_workspace))
            return true;
    }
    return false;
}

struct sdpa_plan *sdpa_plan_build(struct sdpa_engine *e, const struct sdpa_graph *g,
                                  bool deterministic, size_t most_workspace, struct err *err)
{
    struct sdpa_plan *p = calloc(1, sizeof *p);
    struct building *b = calloc(1, sizeof *b);
    bool built = p != NULL && b != NULL;
    if (!built) {
        err_no_memory(err, "a plan for cuDNN");
    } else {
        *b = (struct building){ .plan = p, .graph = g, .engine = e, .err = err };
        build_tensors(b);
        build_operations(b);
        built = choose(b, deterministic, most_workspace);
    }
    free(b);
    if (!built) {
        sdpa_plan_free(p);
        return NULL;
    }
    if (err != NULL)
        err->code = ERR_NONE; /* of proposals that were passed over */
    return p;
}

void sdpa_plan_free(struct sdpa_plan *p)
{
    if (p == NULL)
        return;
    if (p->executable != NULL)
        cudnnBackendDestroyDescriptor(p->executable);
    while (p->n_descriptor > 0)
        cudnnBackendDestroyDescriptor(p->descriptor[--p->n_descriptor]);
    free(p);
}

size_t sdpa_plan_workspace(const struct sdpa_plan *p)
{
    return p->workspace;
}

/* ---- running ---- */

/* What each of the plan's tensors is bound to: device memory, or a number on the host. */
static int64_t bind(const struct sdpa_plan *p, void *const *bound, const float *value, int64_t *id,
                    void **pointer)
{
    int64_t n = 0;
    for (int i = 0; i < p->n_id; i++) {
        id[n] = p->id[i];
        if (id[n] < SDPA_N_BOUND)
            pointer[n] = bound[id[n]];
        else
            memcpy(&pointer[n], &(const float *){ &value[id[n]] }, sizeof pointer[n]);
        n++;
    }
    return n;
}

bool sdpa_plan_run(struct sdpa_engine *e, const struct sdpa_plan *p, void *const *bound,
                   void *workspace, struct err *err)
{
    int64_t id[SDPA_MAX_TENSOR];
    void *pointer[SDPA_MAX_TENSOR];
    const int64_t n = bind(p, bound, p->value, id, pointer);
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n,
                                     id);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                     CUDNN_TYPE_VOID_PTR, n, pointer);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
                                     1, &workspace);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendExecute(e->handle, p->executable, pack);
    if (pack != NULL)
        cudnnBackendDestroyDescriptor(pack);
    return s == CUDNN_STATUS_SUCCESS || failed(err, "running a plan", s);
}

/* ---- engines ---- */

size_t sdpa_library_version(void)
{
    return cudnnGetVersion();
}

/* Our own kernel takes about 0.1 ms for so much. */
double sdpa_least_work(void)
{
    return 1 << 26;
}

size_t sdpa_most_scratch(void)
{
    return SIZE_MAX;
}

struct sdpa_engine *sdpa_engine_open(void *stream, struct err *err)
{
    struct sdpa_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        err_no_memory(err, "cuDNN's handle");
        return NULL;
    }
    cudnnStatus_t s = cudnnCreate(&e->handle);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnSetStream(e->handle, stream);
    if (s == CUDNN_STATUS_SUCCESS)
        return e;
    failed(err, "opening", s);
    sdpa_engine_close(e);
    return NULL;
}

struct sdpa_engine *sdpa_engine_describe(const char *device_json, struct err *err)
{
    struct sdpa_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        err_no_memory(err, "the description of a device");
        return NULL;
    }
    cudnnStatus_t s =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &e->described);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(e->described, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                     CUDNN_TYPE_CHAR, (int64_t)strlen(device_json), device_json);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendFinalize(e->described);
    if (s == CUDNN_STATUS_SUCCESS)
        return e;
    failed(err, "the description of a device", s);
    sdpa_engine_close(e);
    return NULL;
}

void sdpa_engine_close(struct sdpa_engine *e)
{
    if (e == NULL)
        return;
    if (e->handle != NULL)
        cudnnDestroy(e->handle);
    if (e->described != NULL)
        cudnnBackendDestroyDescriptor(e->described);
    free(e);
}
