/* Stands for cuDNN: evaluates the graphs of kernels/cuda/sdpa_nodes.h with plain loops, document by
 * document, so that tests see what the graph that cuDNN is given means, and all of sdpa.c runs.
 *
 * Values are f32, rounded to bf16 where the graph says so. What lies past a document's queries or
 * keys is NaN when read and never written: no result may depend on it.
 *
 * In the environment: CUDA_EMULATION_SDPA, the version of cuDNN that there is, without which there
 * is no such library here and our own kernels run; CUDA_EMULATION_SDPA_SCRATCH: the bytes that
 * calls are cut down to; CUDA_EMULATION_SDPA_PLANS: how many plans can be built.
 */
#include "kernels/cuda/sdpa_graph.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/dtype.h"
#include "tests/emulation/emulated.h"

struct sdpa_engine {
    int n_plan;
};

struct sdpa_plan {
    struct sdpa_graph graph;
    struct sdpa_engine *engine;
};

/* One document of a call. */
struct document {
    const struct sdpa_graph *g;
    void *const *bound;
    int64_t index;
    float *value[SDPA_MAX_TENSOR]; /* (dim[1], dim[2], dim[3]) of each tensor */
};

/* ---- library ---- */

size_t sdpa_library_version(void)
{
    const char *version = getenv("CUDA_EMULATION_SDPA");
    return version == NULL ? 0 : (size_t)strtoull(version, NULL, 10);
}

double sdpa_least_work(void)
{
    return 0;
}

size_t sdpa_most_scratch(void)
{
    const char *bytes = getenv("CUDA_EMULATION_SDPA_SCRATCH");
    return bytes == NULL ? SIZE_MAX : (size_t)strtoull(bytes, NULL, 10);
}

struct sdpa_engine *sdpa_engine_open(void *stream, struct err *err)
{
    (void)stream;
    struct sdpa_engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        err_no_memory(err, "attention");
    return e;
}

struct sdpa_engine *sdpa_engine_describe(const char *device_json, struct err *err)
{
    (void)device_json;
    return sdpa_engine_open(NULL, err);
}

void sdpa_engine_close(struct sdpa_engine *e)
{
    assert(e == NULL || e->n_plan == 0);
    free(e);
}

struct sdpa_plan *sdpa_plan_build(struct sdpa_engine *e, const struct sdpa_graph *g,
                                  bool deterministic, size_t most_workspace, struct err *err)
{
    (void)deterministic;
    (void)most_workspace;
    const char *most = getenv("CUDA_EMULATION_SDPA_PLANS");
    if (most != NULL && e->n_plan >= atoi(most)) {
        err_set(err, ERR_DEVICE, "no engine for the graph");
        return NULL;
    }
    struct sdpa_plan *p = calloc(1, sizeof *p);
    if (p == NULL) {
        err_no_memory(err, "an attention plan");
        return NULL;
    }
    p->graph = *g;
    p->engine = e;
    e->n_plan++;
    return p;
}

void sdpa_plan_free(struct sdpa_plan *p)
{
    if (p != NULL)
        p->engine->n_plan--;
    free(p);
}

size_t sdpa_plan_workspace(const struct sdpa_plan *p)
{
    (void)p;
    return 0;
}

/* ---- memory ---- */

static int64_t size_of(const struct sdpa_tensor *t)
{
    return t->dim[1] * t->dim[2] * t->dim[3];
}

static int64_t length(const struct document *d, int tensor)
{
    return ((const int32_t *)d->bound[tensor])[d->index];
}

/* The axis of tokens: the one whose stride is not 1. */
static int token_axis(const struct sdpa_tensor *t)
{
    return t->stride[3] == 1 ? 2 : 3;
}

/* Element i, counted over (dim[1], dim[2], dim[3]), in elements of memory; -1: past the document.
 */
static int64_t place(const struct document *d, const struct sdpa_tensor *t, int64_t i)
{
    const int64_t at[4] = { 0, i / t->dim[3] / t->dim[2], i / t->dim[3] % t->dim[2],
                            i % t->dim[3] };
    int64_t from = d->index * t->stride[0];
    if (t->at != SDPA_NONE) {
        if (at[token_axis(t)] >= length(d, t->len))
            return -1;
        from = ((const int64_t *)d->bound[t->at])[d->index];
    }
    return from + at[1] * t->stride[1] + at[2] * t->stride[2] + at[3] * t->stride[3];
}

static void load(struct document *d, int tensor)
{
    const struct sdpa_tensor *t = &d->g->tensor[tensor];
    for (int64_t i = 0; i < size_of(t); i++) {
        const int64_t at = t->by_value ? 0 : place(d, t, i);
        float *v = &d->value[tensor][i];
        if (t->by_value)
            *v = t->value;
        else if (at < 0)
            *v = NAN;
        else if (t->type == SDPA_BF16)
            *v = dtype_from_bf16(((const uint16_t *)d->bound[tensor])[at]);
        else if (t->type == SDPA_I32)
            *v = (float)((const int32_t *)d->bound[tensor])[at];
        else
            *v = ((const float *)d->bound[tensor])[at];
    }
}

static void store(const struct document *d, int tensor)
{
    const struct sdpa_tensor *t = &d->g->tensor[tensor];
    for (int64_t i = 0; i < size_of(t); i++) {
        const int64_t at = place(d, t, i);
        if (at >= 0 && t->type == SDPA_BF16)
            ((uint16_t *)d->bound[tensor])[at] = dtype_to_bf16(d->value[tensor][i]);
        else if (at >= 0)
            ((float *)d->bound[tensor])[at] = d->value[tensor][i];
    }
}

/* ---- operations ---- */

/* One row of an operation: of y, and what stands against it in the operands. */
struct line {
    int64_t head, row, n;
    float *y;
    const float *x, *b, *t;
    int64_t x_step, b_step, t_step; /* 0: one number for the whole row */
};

/* The row of a tensor that stands against a row of y: its axes are as long, or 1, or (heads)
 * shared. */
static const float *operand(const struct document *d, int tensor, const struct sdpa_tensor *y,
                            int64_t head, int64_t row, int64_t *step)
{
    const struct sdpa_tensor *t = &d->g->tensor[tensor];
    if (tensor == SDPA_NONE)
        return NULL;
    *step = t->dim[3] == 1 ? 0 : 1;
    return d->value[tensor] +
           (head * t->dim[1] / y->dim[1] * t->dim[2] + (t->dim[2] == 1 ? 0 : row)) * t->dim[3];
}

static float pointwise(enum sdpa_op op, float x, float b)
{
    switch (op) {
    case SDPA_ADD:
        return x + b;
    case SDPA_SUB:
        return x - b;
    case SDPA_MUL:
        return x * b;
    case SDPA_DIV:
        return x / b;
    case SDPA_EXP:
        return expf(x);
    case SDPA_LOG:
        return logf(x);
    case SDPA_LESS:
        return x < b;
    case SDPA_NOT_LESS:
        return x >= b;
    case SDPA_AND:
        return x != 0 && b != 0;
    default:
        assert(op == SDPA_COPY);
        return x;
    }
}

static void pointwise_line(const struct sdpa_node *n, const struct line *l)
{
    for (int64_t i = 0; i < l->n; i++) {
        const float x = l->x[i * l->x_step], b = l->b == NULL ? 0 : l->b[i * l->b_step];
        if (n->op == SDPA_ROW)
            l->y[i] = (float)l->row;
        else if (n->op == SDPA_COLUMN)
            l->y[i] = (float)i;
        else if (n->op == SDPA_SELECT)
            l->y[i] = l->t[i * l->t_step] != 0 ? x : b;
        else
            l->y[i] = pointwise(n->op, x, b);
    }
}

static void product_line(const struct document *d, const struct sdpa_node *n, const struct line *l)
{
    const struct sdpa_tensor *x = &d->g->tensor[n->x], *b = &d->g->tensor[n->b];
    const struct sdpa_tensor *y = &d->g->tensor[n->y];
    const float *rows = d->value[n->b] + l->head * b->dim[1] / y->dim[1] * b->dim[2] * b->dim[3];
    const float padding = n->zero_padding ? 0 : NAN;
    const int64_t m = n->m == SDPA_NONE ? y->dim[2] : length(d, n->m);
    const int64_t columns = n->n == SDPA_NONE ? y->dim[3] : length(d, n->n);
    const int64_t inner = n->k == SDPA_NONE ? x->dim[3] : length(d, n->k);
    assert(x->dim[3] == b->dim[2] && x->dim[2] == y->dim[2] && b->dim[3] == y->dim[3]);
    for (int64_t i = 0; i < l->n; i++)
        l->y[i] = l->row < m && i < columns ? 0 : padding;
    for (int64_t k = 0; k < inner && l->row < m; k++) {
        for (int64_t i = 0; i < columns; i++)
            l->y[i] += l->x[k] * rows[k * b->dim[3] + i];
    }
}

static void transposed_line(const struct document *d, const struct sdpa_node *n,
                            const struct line *l)
{
    const struct sdpa_tensor *x = &d->g->tensor[n->x], *y = &d->g->tensor[n->y];
    assert(x->dim[2] == y->dim[3] && x->dim[3] == y->dim[2]);
    assert(x->stride[2] == y->stride[3] && x->stride[3] == y->stride[2]);
    for (int64_t i = 0; i < l->n; i++)
        l->y[i] = d->value[n->x][(l->head * x->dim[2] + i) * x->dim[3] + l->row];
}

static void reduce(struct document *d, const struct sdpa_node *n)
{
    const struct sdpa_tensor *x = &d->g->tensor[n->x], *y = &d->g->tensor[n->y];
    for (int64_t i = 0; i < size_of(y); i++)
        d->value[n->y][i] = n->op == SDPA_MAX ? -INFINITY : 0;
    for (int64_t i = 0; i < size_of(x); i++) {
        const int64_t column = i % x->dim[3], row = i / x->dim[3] % x->dim[2];
        const int64_t head = i / x->dim[3] / x->dim[2] * y->dim[1] / x->dim[1];
        const int64_t to = (head * y->dim[2] + row * y->dim[2] / x->dim[2]) * y->dim[3] +
                           column * y->dim[3] / x->dim[3];
        float *sum = &d->value[n->y][to];
        *sum = n->op == SDPA_MAX ? fmaxf(*sum, d->value[n->x][i]) : *sum + d->value[n->x][i];
    }
}

static void evaluate_lines(struct document *d, const struct sdpa_node *n)
{
    const struct sdpa_tensor *y = &d->g->tensor[n->y];
    struct line l = { .n = y->dim[3] };
    for (l.head = 0; l.head < y->dim[1]; l.head++) {
        for (l.row = 0; l.row < y->dim[2]; l.row++) {
            l.y = d->value[n->y] + (l.head * y->dim[2] + l.row) * y->dim[3];
            l.x = operand(d, n->x, y, l.head, l.row, &l.x_step);
            l.b = operand(d, n->b, y, l.head, l.row, &l.b_step);
            l.t = operand(d, n->t, y, l.head, l.row, &l.t_step);
            if (n->op == SDPA_MATMUL)
                product_line(d, n, &l);
            else if (n->op == SDPA_TRANSPOSE)
                transposed_line(d, n, &l);
            else
                pointwise_line(n, &l);
        }
    }
}

static void evaluate(struct document *d, const struct sdpa_node *n)
{
    const struct sdpa_tensor *y = &d->g->tensor[n->y];
    float *out = d->value[n->y];
    if (n->op == SDPA_MAX || n->op == SDPA_SUM)
        reduce(d, n);
    else
        evaluate_lines(d, n);
    if (y->type == SDPA_BF16) {
        for (int64_t i = 0; i < size_of(y); i++)
            out[i] = dtype_from_bf16(dtype_to_bf16(out[i]));
    }
    if (!y->is_virtual)
        store(d, n->y);
}

/* ---- running ---- */

/* Whether a node writes it; else it is read from memory. */
static bool is_output(const struct sdpa_graph *g, int tensor)
{
    for (int i = 0; i < g->n_node; i++) {
        if (g->node[i].y == tensor)
            return true;
    }
    return false;
}

static bool is_list(enum sdpa_type type)
{
    return type == SDPA_I64;
}

static bool run_document(const struct sdpa_plan *p, void *const *bound, int64_t index)
{
    struct document d = { .g = &p->graph, .bound = bound, .index = index };
    bool there = true;
    for (int i = SDPA_NONE + 1; i < p->graph.n_tensor && there; i++) {
        const struct sdpa_tensor *t = &p->graph.tensor[i];
        if (t->dim[0] == 0 || is_list(t->type))
            continue;
        d.value[i] = malloc((size_t)size_of(t) * sizeof(float));
        there = d.value[i] != NULL;
        if (there && !is_output(&p->graph, i))
            load(&d, i);
    }
    for (int i = 0; i < p->graph.n_node && there; i++)
        evaluate(&d, &p->graph.node[i]);
    for (int i = 0; i < p->graph.n_tensor; i++)
        free(d.value[i]);
    return there;
}

bool sdpa_plan_run(struct sdpa_engine *e, const struct sdpa_plan *p, void *const *bound,
                   void *workspace, struct err *err)
{
    (void)e;
    (void)workspace;
    bool there = true;
    for (int i = SDPA_NONE + 1; i < SDPA_N_BOUND; i++) {
        const struct sdpa_tensor *t = &p->graph.tensor[i];
        if (t->dim[0] > 0 && (uintptr_t)bound[i] % 16 != 0)
            return err_set(err, ERR_DEVICE, "attention: tensor %d is not aligned", i);
    }
    emulated_unlock();
    for (int64_t i = 0; i < p->graph.tensor[SDPA_LEN_Q].dim[0] && there; i++) {
        if (((const int32_t *)bound[SDPA_LEN_Q])[i] > 0)
            there = run_document(p, bound, i);
    }
    emulated_lock();
    return there || err_no_memory(err, "attention");
}
