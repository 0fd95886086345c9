#include "tests/cuda/parity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/device.h"
#include "kernels/core/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/load.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PARITY_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define PARITY_ASAN 1
#endif
#ifdef PARITY_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

/* Values that are exact in the activations' type, so all that differs is the order of f32 sums and,
 * in bf16, one rounding of each result (2^-9 of it at most, 0.2 %); sums over many terms that
 * cancel, and second roundings of what passes through an activation on the way, take the rest. */
static const double tolerance_f32 = 1e-5, tolerance_bf16 = 1e-2;

enum { GUARD = 256, GUARD_BYTE = 0xa5, NAN_BYTE = 0xff, MOST_FILLED = 1 << 20 };

/* Guard, bytes, guard, in device memory. */
struct parity_buffer {
    struct parity_buffer *next;
    char *base;
    size_t bytes;
};

static void *host_alloc(size_t bytes)
{
    void *p = malloc(bytes + (bytes == 0));
    assert_non_null(p);
    return p;
}

/* ---- device memory ---- */

static void check_device(struct parity *p, const char *what)
{
    struct err err = { 0 };
    if (p->cuda.err.code != ERR_NONE)
        fail_msg("%s: %s", what, p->cuda.err.text);
    if (!p->cuda.device->finish(p->cuda.device, &err))
        fail_msg("%s: %s", what, err.text);
}

static void to_device(struct parity *p, void *to, const void *from, size_t bytes)
{
    p->real->to_device(&p->cuda, &(struct copy_args){ .from = from, .to = to, .bytes = bytes },
                       NULL);
}

static void to_host(struct parity *p, void *to, const void *from, size_t bytes)
{
    p->real->to_host(&p->cuda, &(struct copy_args){ .from = from, .to = to, .bytes = bytes }, NULL);
}

static void poison(const struct parity *p, const struct parity_buffer *b)
{
    if (p->emulated) {
        ASAN_POISON_MEMORY_REGION(b->base, GUARD);
        ASAN_POISON_MEMORY_REGION(b->base + GUARD + b->bytes, GUARD);
    }
}

static void unpoison(const struct parity *p, const struct parity_buffer *b)
{
    if (p->emulated) {
        ASAN_UNPOISON_MEMORY_REGION(b->base, GUARD);
        ASAN_UNPOISON_MEMORY_REGION(b->base + GUARD + b->bytes, GUARD);
    }
}

/* x, or NaNs for the first MiB; and the guards. */
static void buffer_fill(struct parity *p, const struct parity_buffer *b, const void *x)
{
    unsigned char guard[GUARD];
    memset(guard, GUARD_BYTE, GUARD);
    to_device(p, b->base, guard, GUARD);
    to_device(p, b->base + GUARD + b->bytes, guard, GUARD);
    if (x != NULL) {
        to_device(p, b->base + GUARD, x, b->bytes);
    } else {
        const size_t filled = b->bytes < MOST_FILLED ? b->bytes : MOST_FILLED;
        void *nans = host_alloc(filled);
        memset(nans, NAN_BYTE, filled);
        to_device(p, b->base + GUARD, nans, filled);
        free(nans);
    }
    check_device(p, "to_device");
    poison(p, b);
}

static struct parity_buffer *buffer_open(struct parity *p, const void *x, size_t bytes)
{
    struct err err = { 0 };
    struct parity_buffer *b = host_alloc(sizeof *b);
    b->bytes = bytes;
    b->base = p->cuda.device->alloc(p->cuda.device, bytes + 2 * GUARD, &err);
    if (b->base == NULL)
        fail_msg("%s", err.text);
    buffer_fill(p, b, x);
    return b;
}

/* Fails the test when a guard was written by `op`. */
static void buffer_check(struct parity *p, const struct parity_buffer *b, const char *op)
{
    unsigned char guards[2 * GUARD];
    unpoison(p, b);
    to_host(p, guards, b->base, GUARD);
    to_host(p, guards + GUARD, b->base + GUARD + b->bytes, GUARD);
    poison(p, b);
    for (int i = 0; i < 2 * GUARD; i++) {
        if (guards[i] != GUARD_BYTE)
            fail_msg("%s wrote %s %s of %zu bytes", op, i < GUARD ? "before" : "past",
                     b == p->scratch ? "its scratch" : "a buffer", b->bytes);
    }
}

static void buffer_close(struct parity *p, struct parity_buffer *b)
{
    if (b != NULL) {
        unpoison(p, b);
        p->cuda.device->free(p->cuda.device, b->base);
    }
    free(b);
}

/* ---- checked ops ---- */

static struct parity *parity_of(struct backend *be)
{
    return (struct parity *)(void *)((char *)be - offsetof(struct parity, cuda));
}

/* Scratch for an op, its own or the last one's when that took as much. */
static void *scratch_open(struct parity *p, size_t bytes)
{
    if (p->scratch == NULL || p->scratch->bytes != bytes) {
        buffer_close(p, p->scratch);
        p->scratch = buffer_open(p, NULL, bytes);
    } else {
        unpoison(p, p->scratch);
        buffer_fill(p, p->scratch, NULL);
    }
    return bytes == 0 ? NULL : p->scratch->base + GUARD;
}

static void check_op(struct parity *p, const char *op)
{
    check_device(p, op);
    buffer_check(p, p->scratch, op);
    for (const struct parity_buffer *b = p->buffers; b != NULL; b = b->next)
        buffer_check(p, b, op);
}

#define CHECKED(name, args)                                                                        \
    static void checked_##name(struct backend *be, const struct args *a, void *no_scratch)         \
    {                                                                                              \
        struct parity *p = parity_of(be);                                                          \
        const size_t bytes = p->real->name##_scratch == NULL ? 0 : p->real->name##_scratch(be, a); \
        (void)no_scratch;                                                                          \
        p->real->name(be, a, scratch_open(p, bytes));                                              \
        check_op(p, #name);                                                                        \
    }
OPS(CHECKED)

/* ---- open and close ---- */

void parity_open(struct parity *p, enum dtype act)
{
    struct err err = { 0 };
    struct cuda_facts facts;
    *p = (struct parity){ .act = act };
    p->tolerance = act == DTYPE_BF16 ? tolerance_bf16 : tolerance_f32;
    if (!cuda_available(&facts, &err)) {
        if (getenv("JAMBATUNE_CUDA_MODULE") != NULL)
            fail_msg("%s", err.text);
        print_message("no device: %s\n", err.text);
        skip();
    }
    p->emulated = strncmp(facts.name, "emulated", strlen("emulated")) == 0;
    if (!cuda_backend_open(&p->cuda, &(struct cuda_options){ .act = act }, &err) ||
        !arena_init_in(&p->cuda_scratch, p->cuda.device, "scratch", GUARD, &err) ||
        !arena_init(&p->cpu_scratch, "scratch", (size_t)1 << 30, &err))
        fail_msg("%s", err.text);
    cpu_backend_init(&p->cpu, &p->cpu_scratch, 1);
    p->real = p->cuda.k;
    /* The checked ops bring their own scratch: none is asked for. */
#define CHECKED_ENTRY(name, args) p->checked.name = checked_##name;
    OPS(CHECKED_ENTRY)
    p->cuda.k = &p->checked;
    p->cuda.scratch = &p->cuda_scratch;
}

void parity_close(struct parity *p)
{
    check_device(p, "the device");
    for (struct parity_buffer *b = p->buffers, *next; b != NULL; b = next) {
        next = b->next;
        buffer_check(p, b, "something");
        buffer_close(p, b);
    }
    buffer_close(p, p->scratch);
    arena_free(&p->cuda_scratch);
    arena_free(&p->cpu_scratch);
    cuda_backend_close(&p->cuda);
    for (int64_t i = 0; i < p->n_host; i++)
        free(p->host[i]);
    free(p->host);
}

bool parity_small(void)
{
    return getenv("CUDA_EMULATION_SMALL") != NULL;
}

/* ---- values ---- */

static void *host_keep(struct parity *p, size_t bytes)
{
    void **host = realloc(p->host, (size_t)(p->n_host + 1) * sizeof *host);
    assert_non_null(host);
    p->host = host;
    return host[p->n_host++] = host_alloc(bytes);
}

real parity_round(const struct parity *p, real x)
{
    return p->act == DTYPE_BF16 ? (real)dtype_from_bf16(dtype_to_bf16((float)x)) : x;
}

real *parity_random(struct parity *p, int64_t n, uint64_t seed, double scale)
{
    real *x = host_keep(p, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = parity_round(p, (real)(scale * rng_normal(seed, RNG_SAMPLE, 0, (uint64_t)i)));
    return x;
}

real *parity_reals_out(struct parity *p, int64_t n)
{
    real *x = host_keep(p, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (real)NAN;
    return x;
}

void *parity_bytes(struct parity *p, const void *x, size_t bytes)
{
    struct parity_buffer *b = buffer_open(p, x, bytes);
    b->next = p->buffers;
    p->buffers = b;
    return b->base + GUARD;
}

struct act *parity_act(struct parity *p, const real *x, int64_t n)
{
    const size_t bytes = act_bytes(&p->cuda, n);
    if (x == NULL || p->act != DTYPE_BF16)
        return parity_bytes(p, x, bytes);
    uint16_t *rounded = host_alloc(bytes);
    for (int64_t i = 0; i < n; i++)
        rounded[i] = dtype_to_bf16((float)x[i]);
    struct act *copy = parity_bytes(p, rounded, bytes);
    free(rounded);
    return copy;
}

real *parity_reals(struct parity *p, const real *x, int64_t n)
{
    return parity_bytes(p, x, (size_t)n * sizeof *x);
}

int32_t *parity_ints(struct parity *p, const int32_t *x, int64_t n)
{
    return parity_bytes(p, x, (size_t)n * sizeof *x);
}

real *parity_read_act(struct parity *p, const struct act *x, int64_t n)
{
    const size_t bytes = act_bytes(&p->cuda, n);
    void *stored = host_alloc(bytes);
    to_host(p, stored, x, bytes);
    check_device(p, "to_host");
    real *out = host_keep(p, (size_t)n * sizeof *out);
    dtype_to_real(p->act, stored, n, out);
    free(stored);
    return out;
}

real *parity_read_reals(struct parity *p, const real *x, int64_t n)
{
    real *out = host_keep(p, (size_t)n * sizeof *out);
    to_host(p, out, x, (size_t)n * sizeof *out);
    check_device(p, "to_host");
    return out;
}

/* ---- comparisons ---- */

void parity_check_within(struct parity *p, const char *name, double tolerance, const real *got,
                         const real *expected, int64_t n)
{
    double sum = 0, norm = 0, worst = -1;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const double want = (double)expected[i];
        double difference = fabs((double)got[i] - want);
        if (!isfinite(want) && (isnan(want) ? isnan(got[i]) : want == (double)got[i]))
            continue;
        if (isnan(difference))
            difference = (double)INFINITY;
        sum += difference * difference;
        norm += isfinite(want) ? want * want : 0;
        if (difference > worst) {
            worst = difference;
            at = i;
        }
    }
    const double error = sum == 0 ? 0 : sqrt(sum) / fmax(sqrt(norm), 1e-30);
    if (!(error <= tolerance))
        fail_msg("%s (%s): relative error %g, tolerance %g; the worst of %lld elements is [%lld]: "
                 "%.9g, expected %.9g",
                 name, dtype_name(p->act), error, tolerance, (long long)n, (long long)at,
                 (double)got[at], (double)expected[at]);
}

void parity_check_act(struct parity *p, const char *name, const struct act *got,
                      const real *expected, int64_t n)
{
    parity_check_within(p, name, p->tolerance, parity_read_act(p, got, n), expected, n);
}

void parity_check_reals(struct parity *p, const char *name, const real *got, const real *expected,
                        int64_t n)
{
    parity_check_within(p, name, tolerance_f32, parity_read_reals(p, got, n), expected, n);
}

void parity_check_ints(struct parity *p, const char *name, const int32_t *got,
                       const int32_t *expected, int64_t n)
{
    int32_t *read = host_keep(p, (size_t)n * sizeof *read);
    to_host(p, read, got, (size_t)n * sizeof *read);
    check_device(p, "to_host");
    for (int64_t i = 0; i < n; i++) {
        if (read[i] != expected[i])
            fail_msg("%s: [%lld] of %lld is %ld, expected %ld", name, (long long)i, (long long)n,
                     (long)read[i], (long)expected[i]);
    }
}
