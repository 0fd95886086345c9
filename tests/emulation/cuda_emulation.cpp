/* Runs a CUDA kernel on the CPU: one fiber per thread, one block at a time.
 *
 * A fiber runs until it meets a synchronisation point (barrier, shuffle, vote); then a runnable one
 * is picked, first from the same warp. Nothing is preempted, so a run is repeatable, and the
 * reversed and random orders expose missing barriers. When nothing can run and the barrier is not
 * complete, the kernel is wrong (a GPU would hang, or worse), and the launch ends with a report of
 * who waits where.
 *
 * Stricter than the hardware: a barrier needs all threads of the block, none returned, at one
 * source line; a warp operation needs all lanes of its mask at one line with one mask. Device
 * memory (memory.c) is open to kernels only.
 *
 * This file itself is never instrumented (-fno-sanitize=all): its switches would slow down, and
 * redzones of frames that are never left would stay on stacks that are used again. Instead it tells
 * the sanitizers what it does:
 *
 * -DCUDA_EMULATION_ASAN  when the rest is built with -fsanitize=address: stacks, shared memory
 * -DCUDA_EMULATION_TSAN  with -fsanitize=thread: each fiber is a thread, ordered by barriers and
 *                        __syncwarp only, so a missing barrier is a data race
 *
 * All of it belongs to one thread of the process, that which the program calls ops from.
 */
#include "tests/emulation/cuda_emulation.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <sys/mman.h>

#include "tests/emulation/emulated.h"

#ifdef CUDA_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define __asan_poison_memory_region(p, n) ((void)0)
#define __asan_unpoison_memory_region(p, n) ((void)0)
#endif
#ifdef CUDA_EMULATION_TSAN
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_acquire(p) ((void)(p))
#define __tsan_release(p) ((void)(p))
#endif
#if defined(CUDA_EMULATION_UCONTEXT) || !defined(__x86_64__)
#define CUDA_EMULATION_UCONTEXT 1
#include <ucontext.h>
#endif

enum { MAX_THREAD = 1024, MAX_SHARED = 32, MAX_ALLOWED = 256, PAGE = 4096, GUARD_BYTES = 64 };
enum { SHARED_DEFAULT = 48 << 10, SHARED_LIMIT = 227 << 10 }; /* bytes of a block */
#ifdef CUDA_EMULATION_ASAN
enum { STACK_BYTES = 256 << 10 }; /* redzones */
#else
enum { STACK_BYTES = 64 << 10 };
#endif
enum order { FORWARD, REVERSED, RANDOM };
enum state { RUNNING, AT_BARRIER, AT_WARP, EXITED };

/* Where a fiber waits. */
struct point {
    const char *what, *file;
    int line;
    unsigned mask;
};

struct fiber {
#ifdef CUDA_EMULATION_UCONTEXT
    ucontext_t context;
#else
    void *sp; /* while it does not run */
#endif
    const void *stack;
    size_t stack_bytes;
    void *asan_fake_stack, *tsan_fiber;
    uint3 thread;
    enum state state;
    struct point at;
    int source;
    uint64_t value, result;
    unsigned n_barrier, n_syncwarp; /* passed so far, for TSan */
};

struct shared_array {
    const void *site;
    char *memory;
    size_t bytes;
};

struct launch {
    const cuda_emulation_kernel *kernel;
    dim3 grid, block;
    size_t smem_bytes;
    size_t smem_allowed; /* dynamic, that the kernel asked for; 0: it did not */
    enum order order;
    unsigned seed;
    bool failed;
};

/* All that it takes to run a block; kept between launches for its stacks. */
struct worker {
    struct fiber fibers[MAX_THREAD], main, *self, *previous;
    unsigned ready[32], at_warp[32], alive[32]; /* per warp, a bit per lane */
    int n_thread, n_warp, n_alive, n_stack, n_shared;
    struct shared_array shared[MAX_SHARED]; /* the first one is the dynamic memory */
    struct launch *launch;
    uint64_t random;
    /* Random order: until the next barrier, finish a warp before another is picked. */
    unsigned sticky;
    char start_sync, end_sync, barrier_sync[2], warp_sync[32][2]; /* addresses for TSan */
};

uint3 threadIdx, blockIdx, blockDim, gridDim;
static struct worker *w;
static cudaError_t last_error = cudaSuccess;
static char last_report[2048];
static long n_launch;

/* What cudaFuncSetAttribute was told. */
static struct allowed {
    const void *kernel;
    size_t smem_bytes;
} allowed[MAX_ALLOWED];
static int n_allowed;

/* ---- fibers ---- */

#ifndef CUDA_EMULATION_UCONTEXT
/* swapcontext() makes a system call for the signal mask and is 15 times slower. */
extern "C" CUDA_EMULATION_HIDDEN void cuda_emulation_switch(void **save_sp, void *load_sp);
__asm__(".text\n.globl cuda_emulation_switch\n.hidden cuda_emulation_switch\n.type "
        "cuda_emulation_switch,@function\n"
        "cuda_emulation_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
        ".size cuda_emulation_switch,.-cuda_emulation_switch\n");
#endif

static void fiber_main();
static struct fiber *pick();

static void fiber_start(struct fiber *f)
{
    char *stack = static_cast<char *>(const_cast<void *>(f->stack));
    f->asan_fake_stack = NULL;
#ifdef CUDA_EMULATION_UCONTEXT
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = stack;
    f->context.uc_stack.ss_size = f->stack_bytes;
    makecontext(&f->context, fiber_main, 0);
#else
    /* Stacks are a power of two apart: start at different cache sets (10 % of a scan). */
    void **sp = reinterpret_cast<void **>(stack + f->stack_bytes - (f - w->fibers) % 61 * 64);
    *--sp = NULL; /* return address of fiber_main: ends a backtrace */
    *--sp = reinterpret_cast<void *>(fiber_main);
    f->sp = sp - 6; /* six registers, any value */
#endif
}

/* The first thing to do on a stack that was just switched to. */
static inline void fiber_arrive()
{
#ifdef CUDA_EMULATION_ASAN
    __sanitizer_finish_switch_fiber(w->self->asan_fake_stack, &w->previous->stack,
                                    &w->previous->stack_bytes);
#endif
}

static inline void fiber_switch(struct fiber *to)
{
    struct fiber *from = w->self;
    if (to == from)
        return;
    w->previous = from;
    w->self = to;
    threadIdx = to->thread;
#ifdef CUDA_EMULATION_ASAN
    __sanitizer_start_switch_fiber(from->state == EXITED ? NULL : &from->asan_fake_stack, to->stack,
                                   to->stack_bytes);
#endif
#ifdef CUDA_EMULATION_TSAN
    __tsan_switch_to_fiber(to->tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef CUDA_EMULATION_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    cuda_emulation_switch(&from->sp, to->sp);
#endif
    fiber_arrive();
}

/* One that was given up: its frames left redzones, and nobody has waited for what it wrote. */
static void fiber_forget(struct fiber *f)
{
    (void)f;
    __asan_unpoison_memory_region(f->stack, f->stack_bytes);
#ifdef CUDA_EMULATION_TSAN
    __tsan_switch_to_fiber(f->tsan_fiber, 0);
    __tsan_switch_to_fiber(w->main.tsan_fiber, 0);
#endif
}

static void fiber_main()
{
    fiber_arrive();
    __tsan_acquire(&w->start_sync);
    w->launch->kernel->body(w->launch->kernel->argument);
    __tsan_release(&w->end_sync);
    w->self->state = EXITED;
    w->self->at = { "exited", "end", 0, 0 };
    w->alive[(w->self - w->fibers) / 32] &= ~(1u << (w->self - w->fibers) % 32);
    w->n_alive--;
    fiber_switch(pick());
    abort(); /* an exited fiber is not resumed */
}

/* ---- reports ---- */

static void report(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    if (!w->launch->failed) {
        const int n = snprintf(last_report, sizeof(last_report),
                               "kernel '%.200s', block (%u,%u,%u): ", w->launch->kernel->name,
                               blockIdx.x, blockIdx.y, blockIdx.z);
        vsnprintf(last_report + n, sizeof(last_report) - size_t(n), format, list);
        last_error = cudaErrorLaunchFailure;
        w->launch->failed = true;
    }
    va_end(list);
}

/* Report, and give the block up: its fibers are never resumed. */
#define FAIL(...) (report(__VA_ARGS__), fiber_switch(&w->main))

static bool same_text(const char *a, const char *b)
{
    return a == b || strcmp(a, b) == 0;
}

static bool same_point(const struct point &a, const struct point &b)
{
    return a.line == b.line && a.mask == b.mask && same_text(a.what, b.what) &&
           same_text(a.file, b.file);
}

/* One line per run of threads at the same point. */
static void report_stuck()
{
    char text[1600] = "threads wait for each other:";
    int len = int(strlen(text));
    for (int i = 0, j; i < w->n_thread && len < int(sizeof(text)) - 200; i = j) {
        const struct point at = w->fibers[i].at;
        for (j = i + 1; j < w->n_thread && same_point(w->fibers[j].at, at); j++)
            ;
        len += snprintf(text + len, 200, "\n  threads %d-%d: %s at %.99s:%d, mask %08x", i, j - 1,
                        at.what, at.file, at.line, at.mask);
    }
    report("%s", text);
}

/* ---- scheduler ---- */

static unsigned random_next()
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return unsigned(w->random >> 33);
}

static struct fiber *pick_lane(int warp)
{
    const unsigned ready = w->ready[warp], r = w->launch->order == RANDOM ? random_next() % 32 : 0;
    const unsigned rotated = r ? ready >> r | ready << (32 - r) : ready;
    const unsigned bit =
        unsigned(w->launch->order == REVERSED ? 31 - __builtin_clz(ready) : __builtin_ctz(rotated));
    const unsigned lane = (bit + r) % 32;
    w->ready[warp] &= ~(1u << lane);
    return &w->fibers[warp * 32 + int(lane)];
}

/* Nothing can run: release the barrier if it is complete and everybody is at the same line. */
static int barrier_release()
{
    const struct fiber *f = w->fibers;
    for (int i = 0; i < w->n_thread; i++)
        if (f[i].state != AT_BARRIER || !same_point(f[i].at, f->at))
            return 0;
    for (int i = 0; i < w->n_thread; i++)
        w->fibers[i].state = RUNNING;
    memcpy(w->ready, w->alive, sizeof(w->ready));
    w->sticky = random_next() & 1;
    return 1;
}

/* The next fiber: one of the current warp, whose stacks are in cache, else of the next warp. */
static struct fiber *pick()
{
    const int n = w->n_warp, step = w->launch->order == REVERSED ? n - 1 : 1;
    int warp = w->self == &w->main ? step - 1 : int(w->self - w->fibers) / 32;
    if (w->n_alive == 0)
        return &w->main;
    if (w->launch->order == RANDOM && (!w->sticky || !w->ready[warp]))
        warp = int(random_next() % unsigned(n));
    do {
        for (int i = 0; i < n; i++, warp = (warp + step) % n)
            if (w->ready[warp])
                return pick_lane(warp);
    } while (barrier_release());
    report_stuck();
    return &w->main;
}

/* ---- synchronisation points ---- */

int cuda_emulation_lane()
{
    return int(w->self - w->fibers) % 32;
}

void cuda_emulation_barrier(const char *file, int line)
{
    struct fiber *f = w->self;
    f->state = AT_BARRIER;
    f->at = { "__syncthreads", file, line, ~0u };
    /* Two TSan objects in turn, so that a fast thread that is already at the next barrier is not
     * ordered before a slow one that has yet to leave this one. */
    char *sync = &w->barrier_sync[f->n_barrier++ % 2];
    __tsan_release(sync);
    fiber_switch(pick());
    __tsan_acquire(sync);
}

/* The last lane to arrive computes all results, before any lane can change its value again. */
static void warp_complete(struct fiber *lanes, unsigned mask)
{
    uint64_t ballot = 0;
    for (unsigned m = mask; m; m &= m - 1)
        ballot |= (lanes[__builtin_ctz(m)].value & 1) << __builtin_ctz(m);
    for (unsigned m = mask; m; m &= m - 1) {
        struct fiber *f = &lanes[__builtin_ctz(m)];
        if (f->source >= 0 && !(mask >> f->source & 1))
            FAIL("%s at %s:%d: lane %d reads lane %d, which is not in mask %08x", f->at.what,
                 f->at.file, f->at.line, __builtin_ctz(m), f->source, mask);
        f->result = f->source == CUDA_EMULATION_BALLOT ? ballot
                    : f->source == CUDA_EMULATION_OWN  ? f->value
                                                       : lanes[f->source].value;
        f->state = RUNNING;
    }
}

uint64_t cuda_emulation_warp(const char *what, unsigned mask, uint64_t value, int source,
                             const char *file, int line)
{
    struct fiber *f = w->self;
    const int warp = int(f - w->fibers) / 32;
    const unsigned bit = 1u << (f - w->fibers) % 32;
    struct fiber *lanes = &w->fibers[warp * 32];
    if (!(mask & bit))
        FAIL("%s at %s:%d: mask %08x lacks the calling lane", what, file, line, mask);
    if (mask & ~w->alive[warp])
        FAIL("%s at %s:%d: mask %08x names lanes %08x, which exited or never were", what, file,
             line, mask, mask & ~w->alive[warp]);
    f->state = AT_WARP;
    f->at = { what, file, line, mask };
    f->value = value;
    f->source = source;
    w->at_warp[warp] |= bit;
    /* Shuffles and votes do not order memory accesses; __syncwarp does. */
    char *sync = source == CUDA_EMULATION_OWN ? &w->warp_sync[warp][f->n_syncwarp++ % 2] : NULL;
    if (sync)
        __tsan_release(sync);
    bool complete = (w->at_warp[warp] & mask) == mask;
    for (unsigned m = complete ? mask : 0; m; m &= m - 1)
        complete &= same_point(lanes[__builtin_ctz(m)].at, f->at);
    if (complete) {
        warp_complete(lanes, mask);
        w->at_warp[warp] &= ~mask;
        w->ready[warp] |= w->launch->order == RANDOM ? mask : mask & ~bit;
    }
    if (!complete || w->launch->order == RANDOM)
        fiber_switch(pick());
    if (sync)
        __tsan_acquire(sync);
    return f->result;
}

/* ---- shared memory ---- */

static void *shared_allocate(const void *site, size_t bytes)
{
    void *p = NULL;
    if (w->n_shared == MAX_SHARED || posix_memalign(&p, 16, bytes + GUARD_BYTES) != 0)
        abort();
    memset(p, 0xff, bytes + GUARD_BYTES);
    w->shared[w->n_shared] = { site, static_cast<char *>(p), bytes };
    __asan_poison_memory_region(w->shared[w->n_shared].memory + bytes, GUARD_BYTES);
    __tsan_release(&w->shared[w->n_shared]);
    w->n_shared++;
    return p;
}

/* The guard behind an array is for ASan to watch; a plain build checks it here. */
static void shared_release(struct shared_array *a)
{
    __asan_unpoison_memory_region(a->memory + a->bytes, GUARD_BYTES);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (a->memory[a->bytes + i] != char(0xff)) {
            report("write past the end of a shared array of %zu bytes", a->bytes);
            break;
        }
    free(a->memory);
}

void *cuda_emulation_shared(const void *site, size_t bytes)
{
    size_t fixed = bytes;
    for (int i = 1; i < w->n_shared; i++) {
        if (w->shared[i].site == site) {
            __tsan_acquire(&w->shared[i]);
            return w->shared[i].memory;
        }
        fixed += w->shared[i].bytes;
    }
    const size_t dynamic = w->launch->smem_bytes, asked = w->launch->smem_allowed;
    if (fixed > SHARED_DEFAULT)
        FAIL("%zu bytes of static shared memory, the limit is %d", fixed, SHARED_DEFAULT);
    if (fixed + dynamic > (asked ? SHARED_LIMIT : SHARED_DEFAULT))
        FAIL("%zu bytes of static and %zu of dynamic shared memory, %s", fixed, dynamic,
             asked ? "more than there is" : "and cudaFuncSetAttribute did not ask for so much");
    return shared_allocate(site, bytes);
}

void *cuda_emulation_shared_dynamic()
{
    return w->shared[0].memory;
}

/* ---- blocks and launches ---- */

static void worker_init(int n_thread)
{
    static struct worker the_worker;
    w = &the_worker;
    w->self = &w->main;
#ifdef CUDA_EMULATION_TSAN
    w->main.tsan_fiber = __tsan_get_current_fiber();
#endif
    for (; w->n_stack < n_thread; w->n_stack++) {
        struct fiber *f = &w->fibers[w->n_stack];
        void *p =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE) != 0) /* an overflow faults */
            abort();
        f->stack = static_cast<char *>(p) + PAGE;
        f->stack_bytes = STACK_BYTES - PAGE;
#ifdef CUDA_EMULATION_TSAN
        f->tsan_fiber = __tsan_create_fiber(0);
#endif
    }
}

static void block_run(struct launch *l, unsigned index)
{
    const unsigned x = l->block.x, y = l->block.y, n = x * y * l->block.z;
    worker_init(int(n));
    w->launch = l;
    w->random = (uint64_t(l->seed) << 32 | index) * 2654435761u + 1;
    w->sticky = random_next() & 1;
    w->n_thread = w->n_alive = int(n);
    w->n_warp = int(n + 31) / 32;
    blockIdx = { index % l->grid.x, index / l->grid.x % l->grid.y, index / l->grid.x / l->grid.y };
    blockDim = { x, y, l->block.z };
    gridDim = { l->grid.x, l->grid.y, l->grid.z };
    for (unsigned i = 0; i < n; i += 32) {
        w->alive[i / 32] = w->ready[i / 32] = n - i >= 32 ? ~0u : (1u << (n - i)) - 1;
        w->at_warp[i / 32] = 0;
    }
    for (unsigned i = 0; i < n; i++) {
        struct fiber *f = &w->fibers[i];
        fiber_start(f);
        f->thread = { i % x, i / x % y, i / x / y };
        f->state = RUNNING;
        f->at = { "", "", 0, 0 };
        f->n_barrier = f->n_syncwarp = 0;
    }
    shared_allocate(NULL, l->smem_bytes);
    __tsan_release(&w->start_sync);
    fiber_switch(pick());
    __tsan_acquire(&w->end_sync);
    while (w->n_shared > 0)
        shared_release(&w->shared[--w->n_shared]);
    for (int i = 0; l->failed && i < w->n_stack; i++)
        fiber_forget(&w->fibers[i]);
}

/* What the GPU refuses, before a block runs. */
static bool launch_refused(const struct launch *l)
{
    const uint64_t n_block = uint64_t(l->grid.x) * l->grid.y * l->grid.z;
    const uint64_t n_thread = uint64_t(l->block.x) * l->block.y * l->block.z;
    const size_t smem_limit = l->smem_allowed ? l->smem_allowed : size_t(SHARED_DEFAULT);
    if (n_thread > 0 && n_thread <= MAX_THREAD && l->block.z <= 64 && n_block > 0 &&
        l->grid.x <= INT32_MAX && l->grid.y <= 65535 && l->grid.z <= 65535 &&
        n_block <= UINT32_MAX && l->smem_bytes <= smem_limit)
        return false;
    last_error = cudaErrorInvalidConfiguration;
    snprintf(last_report, sizeof(last_report),
             "kernel '%.200s': grid (%u,%u,%u) of blocks (%u,%u,%u), "
             "%zu bytes of dynamic shared memory (%zu allowed)",
             l->kernel->name, l->grid.x, l->grid.y, l->grid.z, l->block.x, l->block.y, l->block.z,
             l->smem_bytes, smem_limit);
    return true;
}

static void launch_order(struct launch *l)
{
    const char *order = getenv("CUDA_EMULATION_ORDER");
    l->order = FORWARD;
    if (order && strncmp(order, "random", 6) == 0) {
        l->order = RANDOM;
        l->seed = order[6] == ':' ? unsigned(atoi(order + 7)) : 1;
    } else if (order && strcmp(order, "reversed") == 0) {
        l->order = REVERSED;
    }
}

static bool launch_fails(const cuda_emulation_kernel *kernel)
{
    const char *nth = getenv("CUDA_EMULATION_FAIL");
    if (++n_launch != (nth ? atol(nth) : 0))
        return false;
    last_error = cudaErrorLaunchFailure;
    snprintf(last_report, sizeof(last_report), "kernel '%.200s': launch %ld was asked to fail",
             kernel->name, n_launch);
    return true;
}

void cuda_emulation_launch(const cuda_emulation_kernel *kernel, dim3 grid, dim3 block,
                           size_t smem_bytes)
{
    struct launch l = { kernel, grid, block, smem_bytes, 0, FORWARD, 1, false };
    for (int i = 0; i < n_allowed; i++)
        if (allowed[i].kernel == kernel->address)
            l.smem_allowed = allowed[i].smem_bytes;
    launch_order(&l);
    if (launch_refused(&l) || launch_fails(kernel))
        return;
    const unsigned n_block = grid.x * grid.y * grid.z;
    const bool backward = l.order == REVERSED || (l.order == RANDOM && l.seed % 2);
    emulated_unlock();
    for (unsigned i = 0; i < n_block && !l.failed; i++)
        block_run(&l, backward ? n_block - 1 - i : i);
    emulated_lock();
}

/* ---- runtime calls ---- */

cudaError_t cudaGetLastError()
{
    const cudaError_t err = last_error;
    last_error = cudaSuccess;
    return err;
}

const char *cudaGetErrorString(cudaError_t err)
{
    return err == cudaSuccess ? "no error" : last_report;
}

const char *emulated_unchecked()
{
    return cudaGetLastError() == cudaSuccess ? NULL : last_report;
}

cudaError_t cuda_emulation_allow_shared(const void *kernel, int bytes)
{
    int i = 0;
    while (i < n_allowed && allowed[i].kernel != kernel)
        i++;
    const char *limited = getenv("CUDA_EMULATION_SHARED");
    const int limit = limited == nullptr ? SHARED_LIMIT : atoi(limited);
    if (bytes < 0 || bytes > limit || i == MAX_ALLOWED) {
        snprintf(last_report, sizeof(last_report), "%d bytes of shared memory, the limit is %d",
                 bytes, limit);
        return last_error = cudaErrorInvalidValue;
    }
    allowed[i] = { kernel, size_t(bytes) };
    n_allowed += i == n_allowed;
    return cudaSuccess;
}

/* Both ends of a copy and what is set must be device memory. */
static bool device_memory(const char *what, const void *p, size_t bytes)
{
    if (emulated_contains(p, bytes))
        return true;
    snprintf(last_report, sizeof(last_report), "%s: %zu bytes at %p are not device memory", what,
             bytes, p);
    last_error = cudaErrorInvalidValue;
    return false;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t)
{
    if (!device_memory("cudaMemsetAsync", p, bytes))
        return last_error;
    emulated_unlock();
    memset(p, value, bytes);
    emulated_lock();
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t)
{
    if (!device_memory("cudaMemcpyAsync to", to, bytes) ||
        !device_memory("cudaMemcpyAsync from", from, bytes))
        return last_error;
    emulated_copy(to, from, bytes);
    return cudaSuccess;
}
