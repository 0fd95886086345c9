/* Better GEMM algorithms than the heuristic's first, found by timing.
 *
 * Every shape that ran since the device was opened is timed with the heuristic's candidates, on
 * random operands (zeros draw less power and run up to 15 % faster) and in the same places for all;
 * the best of three rounds counts. Another than the first must gain LEAST_GAIN, or noise would
 * choose. A run stays reproducible because it reads the file, whose digest is part of its state,
 * and never times anything itself.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/sizes.h"

enum { N_CANDIDATE = 16, N_ROUND = 3, MOST_REPEATS = 200 };
static const double LEAST_GAIN = 0.03, ROUND_MS = 2;

struct bench {
    struct cuda_state *s;
    struct backend be; /* for the op that fills operands */
    char *a, *b, *c, *workspace;
    cudaEvent_t start, stop;
};

/* ---- operands ---- */

/* What any shape needs of each operand, and room to place it as little aligned as it was. */
static void sizes_of(const struct gemm_table *t, size_t bytes[3])
{
    enum { F32_BYTES = 4, ROOM = 256 };
    for (int64_t i = 0; i < t->cap; i++) {
        const struct gemm_entry *e = &t->entries[i];
        const int64_t n[3] = { gemm_shape_n_a(&e->shape), gemm_shape_n_b(&e->shape),
                               gemm_shape_n_c(&e->shape) };
        for (int j = 0; j < 3 && e->ran; j++) {
            const size_t size =
                e->shape.bf16 && (j < 2 || e->shape.c_bf16) ? F32_BYTES / 2 : F32_BYTES;
            const size_t need = (size_t)n[j] * size + ROOM;
            bytes[j] = need > bytes[j] ? need : bytes[j];
        }
    }
}

/* Random numbers in all three, of the activations' type. */
static void fill(struct bench *t, char *x, size_t bytes, uint64_t tensor)
{
    const enum dtype dtype = t->s->options.act;
    cuda_random(&t->be,
                &(struct random_args){ .y = x,
                                       .dtype = dtype,
                                       .n = (int64_t)(bytes / dtype_size(dtype)),
                                       .range = 1,
                                       .seed = 1,
                                       .tensor = tensor },
                NULL);
}

static bool bench_open(struct bench *t, struct cuda_state *s, struct err *err)
{
    size_t bytes[3] = { 0 };
    struct device *d = &s->device;
    t->s = s;
    t->be = (struct backend){ .k = &cuda_ops, .act = s->options.act, .device = d };
    sizes_of(&s->gemm->table, bytes);
    if (bytes[0] == 0)
        return err_set(err, ERR_USAGE, "nothing to tune: no product has run");
    t->a = d->alloc(d, bytes[0], err);
    t->b = t->a != NULL ? d->alloc(d, bytes[1], err) : NULL;
    t->c = t->b != NULL ? d->alloc(d, bytes[2], err) : NULL;
    t->workspace = t->c != NULL ? d->alloc(d, GEMM_WORKSPACE_BYTES, err) : NULL;
    if (t->workspace == NULL)
        return err_prefix(err, "tuning");
    cudaError_t status = cudaEventCreate(&t->start);
    if (status == cudaSuccess)
        status = cudaEventCreate(&t->stop);
    if (status != cudaSuccess)
        return cuda_explain(s, "tuning", cudaGetErrorString(status), err);
    fill(t, t->a, bytes[0], 0);
    fill(t, t->b, bytes[1], 1);
    fill(t, t->c, bytes[2], 2);
    return d->finish(d, err);
}

static void bench_close(struct bench *t)
{
    struct device *d = &t->s->device;
    d->free(d, t->a);
    d->free(d, t->b);
    d->free(d, t->c);
    d->free(d, t->workspace);
    if (t->start != NULL)
        cudaEventDestroy(t->start);
    if (t->stop != NULL)
        cudaEventDestroy(t->stop);
}

/* ---- timing ---- */

/* Milliseconds of one product, over `repeats` in a row; NAN when the algorithm cannot run it. */
static double round_ms(struct bench *t, const struct gemm_shape *shape,
                       const struct gemm_algorithm *algorithm, int repeats)
{
    /* An address that is aligned to 256 and one that is not: as the shape says. */
    const struct gemm_operands operands = { .a = t->a + shape->align_a % 256,
                                            .b = t->b + shape->align_b % 256,
                                            .c = t->c + shape->align_c % 256,
                                            .workspace = t->workspace,
                                            .alpha = 1e-3f,
                                            .beta = shape->accumulate ? 1.0f : 0.0f };
    float ms = 0;
    bool ok = cudaEventRecord(t->start, t->s->stream) == cudaSuccess;
    for (int i = 0; i < repeats && ok; i++)
        ok = gemm_run(t->s->gemm, shape, algorithm, &operands, t->s->stream);
    ok = ok && cudaEventRecord(t->stop, t->s->stream) == cudaSuccess &&
         cudaEventSynchronize(t->stop) == cudaSuccess &&
         cudaEventElapsedTime(&ms, t->start, t->stop) == cudaSuccess;
    return ok ? (double)ms / repeats : (double)NAN;
}

static double best_ms(struct bench *t, const struct gemm_shape *shape,
                      const struct gemm_algorithm *algorithm)
{
    if (isnan(round_ms(t, shape, algorithm, 1))) /* the first loads the kernel */
        return (double)NAN;
    const double once = round_ms(t, shape, algorithm, 3);
    const double wanted = once > 0 ? ROUND_MS / once : MOST_REPEATS;
    const int repeats = wanted < 3 ? 3 : wanted < MOST_REPEATS ? (int)wanted : MOST_REPEATS;
    double best = (double)NAN;
    for (int i = 0; i < N_ROUND; i++)
        best = fmin(best, round_ms(t, shape, algorithm, repeats));
    return best;
}

static void tune_entry(struct bench *t, struct gemm_entry *e)
{
    struct gemm_algorithm candidates[N_CANDIDATE];
    const int n = gemm_candidates(t->s->gemm, &e->shape, N_CANDIDATE, candidates);
    double best = (double)NAN;
    for (int i = 0; i < n; i++) {
        const double ms = best_ms(t, &e->shape, &candidates[i]);
        if (isnan(ms) || ms >= best * (1 - LEAST_GAIN))
            continue;
        best = ms;
        e->algorithm = candidates[i];
    }
}

bool cuda_tune(struct device *d, const char *path, struct err *err)
{
    struct bench t = { 0 };
    struct cuda_state *s = (struct cuda_state *)(void *)d;
    struct gemm_table *table = &s->gemm->table;
    bool ok = bench_open(&t, s, err);
    for (int64_t i = 0; i < table->cap && ok; i++) {
        if (!table->entries[i].ran)
            continue;
        tune_entry(&t, &table->entries[i]);
        ok = d->finish(d, err);
    }
    bench_close(&t);
    return ok && gemm_table_write(table, &s->gemm->machine, path, err);
}
