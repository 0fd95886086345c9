/* The emulator itself: kernels with one fault each, and who finds it.
 *
 *   every build   misuse of barriers and warp operations, launch limits, writes past shared memory,
 *                 host accesses to device memory; missing barriers by some order of threads
 *   ASan, UBSan   writes and reads past arrays of every kind, misaligned loads, stack overflow
 *   TSan          missing barriers in any order, and a missing atomic
 *
 * What ends the process is run as a process of its own: test_faults NAME.
 */
#include "tests/emulation/cuda_emulation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#include "tests/emulation/emulated.h"

namespace
{

constexpr unsigned FULL = 0xffffffffu;
constexpr unsigned N_ROW = 3, N_THREAD = 128, N = N_ROW * N_THREAD;
const cudaStream_t STREAM = nullptr;

/* ---- misuse of barriers and warp operations ---- */

__global__ void barrier_after_return_kernel(int *out)
{
    if (threadIdx.x >= 40)
        return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void barrier_two_places_kernel(int *out)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void barrier_uneven_loop_kernel(int *out)
{
    for (unsigned i = 0; i < 1 + threadIdx.x / 32; i++)
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void shuffle_divergent_kernel(int *out)
{
    int v = 1;
    if (threadIdx.x % 32 < 16)
        v = __shfl_xor_sync(FULL, v, 1);
    __syncthreads();
    out[threadIdx.x] = v;
}

__global__ void shuffle_after_return_kernel(int *out)
{
    if (threadIdx.x % 32 >= 16)
        return;
    out[threadIdx.x] = __shfl_xor_sync(FULL, 1, 1);
}

__global__ void shuffle_whole_warp_kernel(int *out)
{
    out[threadIdx.x] = __shfl_xor_sync(FULL, 1, 1);
}

__global__ void shuffle_outside_mask_kernel(int *out)
{
    if (threadIdx.x % 32 < 16)
        out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}

__global__ void shuffle_without_self_kernel(int *out)
{
    out[threadIdx.x] = __shfl_sync(0xffffu, 1, 0);
}

/* Correct: the halves of a warp part, each with a mask of its own, and meet again. */
__global__ void shuffle_halves_kernel(int *out)
{
    int v = int(threadIdx.x);
    if (threadIdx.x % 32 < 16)
        v += __shfl_xor_sync(0xffffu, v, 1);
    else
        for (int i = 0; i < 3; i++)
            v += __shfl_xor_sync(0xffff0000u, v, 2, 4);
    out[threadIdx.x] = __shfl_down_sync(FULL, v, 31);
}

__global__ void shared_overflow_kernel(int *out)
{
    SHARED_ARRAY(int, a, [64]);
    int *volatile p = a;
    p[threadIdx.x] = 0;
    if (threadIdx.x == 63)
        p[64] = 5;
    out[threadIdx.x] = p[threadIdx.x];
}

__global__ void much_static_kernel(int *out)
{
    SHARED_ARRAY(int, a, [20000]);
    a[threadIdx.x] = 1;
    out[threadIdx.x] = a[threadIdx.x];
}

__global__ void static_and_dynamic_kernel(int *out)
{
    SHARED_ARRAY(int, a, [8192]);
    SHARED_DYNAMIC(int, b);
    a[threadIdx.x] = b[threadIdx.x] = 1;
    out[threadIdx.x] = a[threadIdx.x];
}

__global__ void asks_for_more_kernel(int *out)
{
    SHARED_DYNAMIC(int, b);
    b[threadIdx.x] = 1;
    out[threadIdx.x] = b[threadIdx.x];
}

__global__ void shared_of_another_block_kernel(int *out)
{
    SHARED_ARRAY(int, a, [64]);
    if (blockIdx.x == 0)
        a[threadIdx.x] = 7;
    out[blockIdx.x * blockDim.x + threadIdx.x] = a[threadIdx.x];
}

/* The last launch's report has `text`; with NULL there must be none. */
void expect(const char *text)
{
    const cudaError_t err = cudaGetLastError();
    const char *report = err == cudaSuccess ? "" : cudaGetErrorString(err);
    if (text == nullptr ? err != cudaSuccess : strstr(report, text) == nullptr)
        fail_msg("expected '%s', reported: '%s'", text ? text : "no error", report);
}

void misuse_is_reported(void **)
{
    int *out = static_cast<int *>(emulated_alloc(N * sizeof(int)));
    LAUNCH(barrier_after_return_kernel, 2, 64, 0, STREAM, out);
    expect("threads 40-63: exited");
    LAUNCH(barrier_two_places_kernel, 2, 64, 0, STREAM, out);
    expect("threads wait for each other");
    LAUNCH(barrier_uneven_loop_kernel, 2, 64, 0, STREAM, out);
    expect("exited");
    LAUNCH(shuffle_divergent_kernel, 2, 64, 0, STREAM, out);
    expect("__shfl_xor_sync");
    LAUNCH(shuffle_after_return_kernel, 2, 64, 0, STREAM, out);
    expect("exited");
    LAUNCH(shuffle_whole_warp_kernel, 2, 48, 0, STREAM, out);
    expect("names lanes ffff0000");
    LAUNCH(shuffle_outside_mask_kernel, 2, 64, 0, STREAM, out);
    expect("reads lane 20");
    LAUNCH(shuffle_without_self_kernel, 2, 64, 0, STREAM, out);
    expect("lacks the calling lane");
    LAUNCH(shuffle_halves_kernel, 2, 64, 0, STREAM, out);
    expect(nullptr);
    emulated_free(out);
}

void launch_limits_are_the_gpus(void **)
{
    int *out = static_cast<int *>(emulated_alloc(N * sizeof(int)));
    LAUNCH(shuffle_whole_warp_kernel, 2, 2048, 0, STREAM, out);
    expect("(2048,1,1)");
    LAUNCH(shuffle_whole_warp_kernel, 0, 64, 0, STREAM, out);
    expect("grid (0,1,1)");
    LAUNCH(shuffle_whole_warp_kernel, dim3(1, 65536), 64, 0, STREAM, out);
    expect("grid (1,65536,1)");
    LAUNCH(much_static_kernel, 2, 64, 0, STREAM, out);
    expect("80000 bytes");
    LAUNCH(static_and_dynamic_kernel, 2, 64, 16384, STREAM, out);
    expect(nullptr);
    LAUNCH(static_and_dynamic_kernel, 2, 64, 16388, STREAM, out);
    expect("did not ask for so much");
    LAUNCH(asks_for_more_kernel, 2, 64, 50000, STREAM, out);
    expect("50000 bytes");
    assert_int_equal(cudaFuncSetAttribute(asks_for_more_kernel,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, 60000),
                     cudaSuccess);
    LAUNCH(asks_for_more_kernel, 2, 64, 60000, STREAM, out);
    expect(nullptr);
    LAUNCH(asks_for_more_kernel, 2, 64, 60004, STREAM, out);
    expect("60004 bytes");
    assert_int_not_equal(cudaFuncSetAttribute(asks_for_more_kernel,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              228 << 10),
                         cudaSuccess);
    expect("the limit is");
    emulated_free(out);
}

void shared_memory_is_new_in_each_block(void **)
{
    int *out = static_cast<int *>(emulated_alloc(N * sizeof(int))), host[128];
    LAUNCH(shared_of_another_block_kernel, 2, 64, 0, STREAM, out);
    expect(nullptr);
    emulated_copy(host, out, sizeof host);
    assert_int_equal(host[63], 7);
    assert_int_equal(host[64], -1);
    emulated_free(out);
}

void copies_are_between_device_memories(void **)
{
    char host[16] = { 0 }, *p = static_cast<char *>(emulated_alloc(16));
    assert_int_equal(cudaMemsetAsync(p, 3, 16, STREAM), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(p + 8, p, 8, cudaMemcpyDeviceToDevice, STREAM), cudaSuccess);
    assert_int_not_equal(cudaMemsetAsync(p + 1, 3, 16, STREAM), cudaSuccess);
    expect("not device memory");
    assert_int_not_equal(cudaMemcpyAsync(host, p, 8, cudaMemcpyDeviceToDevice, STREAM),
                         cudaSuccess);
    expect("cudaMemcpyAsync to");
    LAUNCH(shuffle_whole_warp_kernel, 0, 64, 0, STREAM, reinterpret_cast<int *>(p));
    assert_non_null(emulated_unchecked());
    assert_null(emulated_unchecked());
    emulated_free(p);
}

/* Every 16-bit value against the definition of its format, and the rounding of what lies between
 * two of them: halfway goes to the even one. */
template <typename T> void check_small_float(int mantissa, unsigned infinity)
{
    for (unsigned i = 0; i < infinity; i++) {
        T x, next;
        x.bits = uint16_t(i);
        next.bits = uint16_t(i + 1);
        const unsigned e = i >> mantissa, m = i & ((1u << mantissa) - 1);
        const int bias = mantissa == 7 ? 127 : 15;
        const double value =
            e ? ldexp(1 + ldexp(m, -mantissa), int(e) - bias) : ldexp(m, 1 - bias - mantissa);
        if (double(float(x)) != value || T(float(x)).bits != i || T(-float(x)).bits != (i | 0x8000))
            fail_msg("%x is %.9g", i, double(float(x)));
        if (i + 1 == infinity)
            continue;
        const float middle = float(x) / 2 + float(next) / 2;
        if (T(middle).bits != i + (i & 1) || T(nextafterf(middle, 0.0f)).bits != i ||
            T(nextafterf(middle, INFINITY)).bits != i + 1)
            fail_msg("after %x: %.9g is rounded to %x", i, double(middle), T(middle).bits);
    }
    assert_int_equal(T(INFINITY).bits, infinity);
    assert_int_equal(T(NAN).bits, 0x7fff);
}

void small_floats_round_to_nearest_even(void **)
{
    check_small_float<__nv_bfloat16>(7, 0x7f80);
    check_small_float<__half>(10, 0x7c00);
}

/* ---- missing barriers: each kernel is right with `missing` 0 ---- */

__global__ void reduce_kernel(int missing, const float *x, float *out)
{
    SHARED_ARRAY(float, partial, [4]);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned row = 0; row < N_ROW; row++) {
        float v = x[row * N_THREAD + threadIdx.x];
        for (int i = 16; i > 0; i /= 2)
            v += __shfl_xor_sync(FULL, v, i);
        if (lane == 0)
            partial[warp] = v;
        if (missing != 1)
            __syncthreads();
        out[row * N_THREAD + threadIdx.x] = partial[0] + partial[1] + partial[2] + partial[3];
        if (missing != 2)
            __syncthreads();
    }
}

/* Warp 0 computes a value for all. */
__global__ void broadcast_kernel(int missing, const float *x, float *out)
{
    SHARED_ARRAY(float, scale, [1]);
    if (threadIdx.x == 0)
        scale[0] = x[0];
    if (missing != 1)
        __syncthreads();
    for (unsigned row = 0; row < N_ROW; row++)
        out[row * N_THREAD + threadIdx.x] = scale[0] * x[row * N_THREAD + threadIdx.x];
}

__global__ void tile_kernel(int missing, const float *x, float *out)
{
    SHARED_ARRAY(float, tile, [8][17]);
    const unsigned tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (unsigned row = 0; row < N_ROW; row++) {
        tile[ty][tx] = x[row * N_THREAD + threadIdx.x];
        if (missing != 1)
            __syncthreads();
        out[row * N_THREAD + threadIdx.x] = tile[threadIdx.x % 8][threadIdx.x / 8];
        if (missing != 2)
            __syncthreads();
    }
}

/* Neighbours in a warp exchange through shared memory, in the lock-step style of old code. */
__global__ void warp_exchange_kernel(int missing, const float *x, float *out)
{
    SHARED_ARRAY(float, slot, [N_THREAD]);
    for (unsigned row = 0; row < N_ROW; row++) {
        slot[threadIdx.x] = x[row * N_THREAD + threadIdx.x];
        if (missing != 1)
            __syncwarp();
        out[row * N_THREAD + threadIdx.x] = slot[threadIdx.x ^ 1];
        if (missing != 2)
            __syncwarp();
    }
}

/* A count without an atomic: fibers are not preempted, so no order shows this one. */
__global__ void count_kernel(int missing, const float *x, float *out)
{
    SHARED_ARRAY(int, count, [1]);
    if (threadIdx.x == 0)
        count[0] = 0;
    __syncthreads();
    if (x[threadIdx.x] > 0.0f) {
        if (missing != 1)
            atomicAdd(&count[0], 1);
        else
            count[0] += 1;
    }
    __syncthreads();
    for (unsigned row = 0; row < N_ROW; row++)
        out[row * N_THREAD + threadIdx.x] = float(count[0]);
}

/* The first block writes one element of the second one. */
__global__ void overlap_kernel(int missing, const float *x, float *out)
{
    const unsigned at = blockIdx.x * N / 2, n = missing && blockIdx.x == 0 ? N / 2 + 1 : N / 2;
    for (unsigned i = threadIdx.x; i < n; i += N_THREAD)
        out[at + i] = float(blockIdx.x) + x[at + i];
}

const struct race {
    const char *name;
    void (*kernel)(int missing, const float *x, float *out);
    int missing;
    unsigned n_block;
    bool order_finds, tsan_finds;
} races[] = {
    { "reduce_write_read", reduce_kernel, 1, 1, true, true },
    { "reduce_read_write", reduce_kernel, 2, 1, true, true },
    { "broadcast", broadcast_kernel, 1, 1, true, true },
    { "tile_write_read", tile_kernel, 1, 1, true, true },
    { "tile_read_write", tile_kernel, 2, 1, true, true },
    { "warp_write_read", warp_exchange_kernel, 1, 1, true, true },
    { "warp_read_write", warp_exchange_kernel, 2, 1, true, true },
    { "count_not_atomic", count_kernel, 1, 1, false, true },
    { "blocks_overlap", overlap_kernel, 1, 2, true, false },
};

/* Input and output of the races, in device memory. */
struct tensors {
    float *x, *out;
};

struct tensors tensors_open()
{
    float x[N];
    for (unsigned i = 0; i < N; i++)
        x[i] = float(i * 37 % 101) - 50.0f;
    const struct tensors t = { static_cast<float *>(emulated_alloc(sizeof x)),
                               static_cast<float *>(emulated_alloc(sizeof x)) };
    emulated_copy(t.x, x, sizeof x);
    return t;
}

void tensors_close(const struct tensors *t)
{
    emulated_free(t->x);
    emulated_free(t->out);
}

void race_run(const struct race *r, int missing, const struct tensors *t, float (&out)[N])
{
    LAUNCH(r->kernel, r->n_block, N_THREAD, 0, STREAM, missing, t->x, t->out);
    expect(nullptr);
    emulated_copy(out, t->out, sizeof out);
}

const char *const orders[] = { "forward", "reversed", "random:1", "random:2" };

/* One of the four orders that the parity tests run in gives a wrong result; with all barriers none
 * does. */
void some_order_finds_a_missing_barrier(void **)
{
    const struct tensors t = tensors_open();
    const char *before = getenv("CUDA_EMULATION_ORDER");
    char *kept = before ? strdup(before) : nullptr;
    float want[N], got[N];
    for (const struct race &r : races) {
        bool found = false;
        for (const char *order : orders) {
            setenv("CUDA_EMULATION_ORDER", order, 1);
            race_run(&r, 0, &t, order == orders[0] ? want : got);
            if (order != orders[0] && memcmp(got, want, sizeof want) != 0)
                fail_msg("%s: wrong in order %s with all barriers", r.name, order);
#ifndef CUDA_EMULATION_TSAN /* which would report it and end */
            race_run(&r, r.missing, &t, got);
            found |= memcmp(got, want, sizeof want) != 0;
#endif
        }
#ifndef CUDA_EMULATION_TSAN
        if (found != r.order_finds)
            fail_msg("%s: %s", r.name, found ? "found by an order" : "no order finds it");
#else
        (void)found;
#endif
    }
    if (kept)
        setenv("CUDA_EMULATION_ORDER", kept, 1);
    else
        unsetenv("CUDA_EMULATION_ORDER");
    free(kept);
    tensors_close(&t);
}

void the_nth_launch_fails_when_asked(void **)
{
    int *out = static_cast<int *>(emulated_alloc(N * sizeof(int)));
    setenv("CUDA_EMULATION_FAIL", "2", 1);
    int n_failed = 0;
    for (int i = 0; i < 3; i++) {
        LAUNCH(shuffle_halves_kernel, 1, 64, 0, STREAM, out);
        n_failed += cudaGetLastError() != cudaSuccess;
    }
    unsetenv("CUDA_EMULATION_FAIL");
    emulated_free(out);
    assert_int_equal(n_failed, 1);
}

/* ---- faults that end the process ---- */

__global__ void global_write_kernel(float *x, int n)
{
    if (int(threadIdx.x) <= n) /* one too many */
        x[threadIdx.x] = 1.0f;
}

__global__ void global_read_kernel(const float *x, float *out)
{
    out[threadIdx.x] = x[threadIdx.x + 1];
}

__global__ void shared_write_kernel(float *out)
{
    SHARED_ARRAY(float, tile, [16][17]);
    float *volatile flat = &tile[0][0];
    flat[threadIdx.x + 16 * 17 - 63] = 1.0f;
    out[0] = flat[0];
}

__global__ void dynamic_write_kernel(float *out)
{
    SHARED_DYNAMIC(float, tile);
    tile[threadIdx.x] = 1.0f;
    out[0] = tile[0];
}

__global__ void row_overflow_kernel(float *out, int at)
{
    SHARED_ARRAY(float, tile, [16][17]);
    tile[threadIdx.x % 16][at] = 1.0f; /* inside the array, outside the row: for UBSan */
    out[0] = tile[0][0];
}

__global__ void local_write_kernel(float *out, int n)
{
    float local[8];
    float *volatile p = local;
    for (int i = 0; i <= n; i++)
        p[i] = float(i);
    __syncthreads();
    out[threadIdx.x] = p[0];
}

__global__ void misaligned_kernel(const float *x, float *out)
{
    out[threadIdx.x] = reinterpret_cast<const float4 *>(x + 1)[threadIdx.x].x;
}

__device__ int recurse(volatile char *p, int n)
{
    volatile char frame[1024];
    frame[0] = char(n);
    return n == 0 ? *p : recurse(frame, n - 1) + frame[0];
}

__global__ void stack_overflow_kernel(float *out)
{
    out[threadIdx.x] = float(recurse(nullptr, 1000));
}

float *floats(size_t n)
{
    return static_cast<float *>(emulated_alloc(n * sizeof(float)));
}

void host_read(const struct tensors *t)
{
    volatile float *x = t->x;
    printf("%g\n", double(x[0]));
}
void use_after_free(const struct tensors *t)
{
    float *x = floats(13);
    LAUNCH(global_write_kernel, 1, 64, 0, STREAM, t->x, 13); /* so that nothing is mapped there */
    emulated_free(x);
    LAUNCH(global_write_kernel, 1, 64, 0, STREAM, x, 13);
}
void shared_guard(const struct tensors *t)
{
    LAUNCH(shared_overflow_kernel, 1, 64, 0, STREAM, reinterpret_cast<int *>(t->out));
    printf("%s\n", cudaGetErrorString(cudaGetLastError()));
    exit(1);
}
void global_write(const struct tensors *)
{
    LAUNCH(global_write_kernel, 1, 64, 0, STREAM, floats(13), 13);
}
void global_read(const struct tensors *t)
{
    LAUNCH(global_read_kernel, 1, 64, 0, STREAM, floats(64), t->out);
}
void shared_write(const struct tensors *t)
{
    LAUNCH(shared_write_kernel, 1, 64, 0, STREAM, t->out);
}
void dynamic_write(const struct tensors *t)
{
    LAUNCH(dynamic_write_kernel, 1, 64, 63 * sizeof(float), STREAM, t->out);
}
void row_overflow(const struct tensors *t)
{
    LAUNCH(row_overflow_kernel, 1, 64, 0, STREAM, t->out, 17);
}
void local_write(const struct tensors *t)
{
    LAUNCH(local_write_kernel, 1, 64, 0, STREAM, t->out, 8);
}
void misaligned(const struct tensors *t)
{
    LAUNCH(misaligned_kernel, 1, 8, 0, STREAM, t->x, t->out);
}
void stack_overflow(const struct tensors *t)
{
    LAUNCH(stack_overflow_kernel, 1, 64, 0, STREAM, t->out);
}

/* What must be said by the build at hand; NULL: it need not find this one. */
#if defined(CUDA_EMULATION_ASAN)
#define FOUND(plain, asan, tsan) asan
#elif defined(CUDA_EMULATION_TSAN)
#define FOUND(plain, asan, tsan) tsan
#else
#define FOUND(plain, asan, tsan) plain
#endif
const struct ending {
    const char *name;
    void (*run)(const struct tensors *t);
    const char *says;
} endings[] = {
    { "host_read", host_read, FOUND("", "SEGV", "SEGV") },
    { "use_after_free", use_after_free, FOUND("", "AddressSanitizer", "ThreadSanitizer") },
    { "shared_guard", shared_guard,
      FOUND("write past the end", "use-after-poison", "write past the end") },
    { "global_write", global_write, FOUND(NULL, "use-after-poison", NULL) },
    { "global_read", global_read, FOUND(NULL, "use-after-poison", NULL) },
    { "shared_write", shared_write, FOUND(NULL, "use-after-poison", NULL) },
    { "dynamic_write", dynamic_write, FOUND(NULL, "use-after-poison", NULL) },
    { "row_overflow", row_overflow, FOUND(NULL, "index 17 out of bounds", NULL) },
    { "local_write", local_write, FOUND(NULL, "stack-buffer-overflow", NULL) },
    { "misaligned", misaligned, FOUND(NULL, "misaligned", NULL) },
    { "stack_overflow", stack_overflow, FOUND("", "stack-overflow", "") },
};

/* Runs this program with that argument: it must fail, and say so. */
void expect_ending(const char *name, const char *says)
{
    char self[1024], command[1200], output[20000];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = '\0';
    snprintf(command, sizeof command, "'%s' %s 2>&1", self, name);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    const size_t length = fread(output, 1, sizeof output - 1, pipe);
    while (getc(pipe) != EOF)
        ;
    output[length] = '\0';
    if (pclose(pipe) == 0 || strstr(output, says) == nullptr)
        fail_msg("%s: expected '%s' and a failure, it said:\n%s", name, says, output);
}

void faults_end_with_their_report(void **)
{
    int n_run = 0;
    for (const struct ending &e : endings) {
        if (e.says != nullptr) {
            expect_ending(e.name, e.says);
            n_run++;
        }
    }
    assert_true(n_run >= 4);
}

#ifdef CUDA_EMULATION_TSAN
void tsan_finds_missing_barriers_in_any_order(void **)
{
    for (const struct race &r : races)
        if (r.tsan_finds)
            expect_ending(r.name, "data race");
}
#endif

int run_one(const char *name)
{
    const struct tensors t = tensors_open();
    for (const struct ending &e : endings)
        if (strcmp(name, e.name) == 0)
            e.run(&t);
    for (const struct race &r : races)
        if (strcmp(name, r.name) == 0)
            LAUNCH(r.kernel, r.n_block, N_THREAD, 0, STREAM, r.missing, t.x, t.out);
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        return run_one(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nth_launch_fails_when_asked), /* the first: it counts launches */
        cmocka_unit_test(misuse_is_reported),
        cmocka_unit_test(launch_limits_are_the_gpus),
        cmocka_unit_test(shared_memory_is_new_in_each_block),
        cmocka_unit_test(copies_are_between_device_memories),
        cmocka_unit_test(small_floats_round_to_nearest_even),
        cmocka_unit_test(some_order_finds_a_missing_barrier),
        cmocka_unit_test(faults_end_with_their_report),
#ifdef CUDA_EMULATION_TSAN
        cmocka_unit_test(tsan_finds_missing_barriers_in_any_order),
#endif
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
