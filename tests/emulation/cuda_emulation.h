/* CUDA C compiled as host C++17: the qualifiers, types and intrinsics that our kernels use.
 *
 * A .cu file gets this from kernels/cuda/launch.h when the compiler is not nvcc. Each CUDA thread
 * is a fiber (cuda_emulation.cpp); barriers, shuffles and votes are where fibers switch.
 *
 * What is missing is missing on purpose: a kernel that uses it does not compile, instead of doing
 * something else than the GPU does. bf16 and half have no operators (CUDA rounds after each one),
 * atomicAdd no float form (its order is not fixed), a bare __shared__ is an error (see
 * SHARED_ARRAY), and there is no cudaMalloc and no way to wait: ops do neither.
 *
 * In the environment:
 *   CUDA_EMULATION_ORDER=forward|reversed|random[:SEED]   the order in which threads and blocks
 * run; a correct kernel gives the same result in every one CUDA_EMULATION_FAIL=N the Nth launch
 * fails, as a faulty device
 *   CUDA_EMULATION_SHARED=BYTES   of shared memory that a block may ask for (227 KiB)
 */
#ifndef TESTS_EMULATION_CUDA_EMULATION_H
#define TESTS_EMULATION_CUDA_EMULATION_H
#define CUDA_EMULATION_H /* what kernels/cuda/launch.h asks for */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* ---- vector types; alignas lets UBSan see a misaligned 16-byte load, which faults on a GPU ----
 */

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

#define CUDA_EMULATION_VECTOR2(type, name)                                                         \
    struct alignas(2 * sizeof(type)) name##2                                                       \
    {                                                                                              \
        type x, y;                                                                                 \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y)                                           \
    {                                                                                              \
        return { x, y };                                                                           \
    }
#define CUDA_EMULATION_VECTOR4(type, name, alignment)                                              \
    struct alignas(alignment) name##4                                                              \
    {                                                                                              \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                           \
    {                                                                                              \
        return { x, y, z, w };                                                                     \
    }
CUDA_EMULATION_VECTOR2(float, float)
CUDA_EMULATION_VECTOR2(double, double)
CUDA_EMULATION_VECTOR2(int, int)
CUDA_EMULATION_VECTOR2(unsigned, uint)
CUDA_EMULATION_VECTOR2(unsigned short, ushort)
CUDA_EMULATION_VECTOR2(unsigned long long, ulonglong)
CUDA_EMULATION_VECTOR4(float, float, 16)
CUDA_EMULATION_VECTOR4(int, int, 16)
CUDA_EMULATION_VECTOR4(unsigned, uint, 16)
CUDA_EMULATION_VECTOR4(unsigned short, ushort, 8)

/* ---- bits, bf16 and half: storage and conversions ---- */

template <typename To, typename From> static inline To cuda_emulation_bits(From from)
{
    static_assert(sizeof(From) <= sizeof(To) && std::is_trivially_copyable<From>::value, "");
    To to = To();
    memcpy(&to, &from, sizeof(from));
    return to;
}
#define __float_as_uint(x) cuda_emulation_bits<unsigned, float>(x)
#define __uint_as_float(x) cuda_emulation_bits<float, unsigned>(x)
#define __float_as_int(x) cuda_emulation_bits<int, float>(x)
#define __int_as_float(x) cuda_emulation_bits<float, int>(x)
#define __double_as_longlong(x) cuda_emulation_bits<long long, double>(x)
#define __longlong_as_double(x) cuda_emulation_bits<double, long long>(x)

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x)
    {
        /* Round to nearest even; every NaN becomes the one that CUDA gives. */
        const unsigned u = __float_as_uint(x);
        bits = x != x ? uint16_t(0x7fff) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
    explicit operator float() const
    {
        return __uint_as_float(unsigned(bits) << 16);
    }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

struct __half {
    uint16_t bits;
    __half() = default;
    explicit __half(float x);
    explicit operator float() const;
};
struct alignas(4) __half2 {
    __half x, y;
};

/* 10 bits of mantissa, exponents down to 2^-14, below that multiples of 2^-24. */
inline __half::operator float() const
{
    const unsigned sign = unsigned(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00u)
        return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    const float magnitude =
        rest < 0x400u ? ldexpf(float(rest), -24) : __uint_as_float((rest << 13) + (112u << 23));
    return sign ? -magnitude : magnitude;
}

inline __half::__half(float x)
{
    const float magnitude = fabsf(x);
    const unsigned u = __float_as_uint(magnitude);
    unsigned h;
    if (x != x)
        h = 0x7fffu;
    else if (magnitude >= 65520.0f)
        h = 0x7c00u;
    else if (magnitude < ldexpf(1.0f, -14)) /* adding 0.5 leaves a multiple of 2^-24, rounded */
        h = __float_as_uint(magnitude + 0.5f) - 0x3f000000u;
    else
        h = ((u + 0xfffu + ((u >> 13) & 1u)) >> 13) - (112u << 10);
    bits = uint16_t(h | (x != x ? 0u : __float_as_uint(x) >> 31 << 15));
}

#define CUDA_EMULATION_SMALL_FLOAT(type, name)                                                     \
    static inline type __ushort_as_##name(unsigned short bits)                                     \
    {                                                                                              \
        type x;                                                                                    \
        x.bits = bits;                                                                             \
        return x;                                                                                  \
    }                                                                                              \
    static inline unsigned short __##name##_as_ushort(type x)                                      \
    {                                                                                              \
        return x.bits;                                                                             \
    }                                                                                              \
    static inline float __##name##2float(type x)                                                   \
    {                                                                                              \
        return float(x);                                                                           \
    }                                                                                              \
    static inline type __float2##name(float x)                                                     \
    {                                                                                              \
        return type(x);                                                                            \
    }                                                                                              \
    static inline type __float2##name##_rn(float x)                                                \
    {                                                                                              \
        return type(x);                                                                            \
    }                                                                                              \
    static inline type##2 __floats2##name##2_rn(float x, float y)                                  \
    {                                                                                              \
        return { type(x), type(y) };                                                               \
    }                                                                                              \
    static inline type##2 __float22##name##2_rn(float2 v)                                          \
    {                                                                                              \
        return { type(v.x), type(v.y) };                                                           \
    }                                                                                              \
    static inline float2 __##name##22float2(type##2 v)                                             \
    {                                                                                              \
        return { float(v.x), float(v.y) };                                                         \
    }                                                                                              \
    static inline float __low2float(type##2 v)                                                     \
    {                                                                                              \
        return float(v.x);                                                                         \
    }                                                                                              \
    static inline float __high2float(type##2 v)                                                    \
    {                                                                                              \
        return float(v.y);                                                                         \
    }
CUDA_EMULATION_SMALL_FLOAT(__nv_bfloat16, bfloat16)
CUDA_EMULATION_SMALL_FLOAT(__half, half)

/* ---- math and memory; glibc itself declares some of these names, so they must be macros ---- */

#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __fdividef(x, y) ((x) / (y))

/* Never contracted into a multiply-add, on either side. */
static inline float __fadd_rn(float x, float y)
{
    return x + y;
}
static inline float __fsub_rn(float x, float y)
{
    return x - y;
}
static inline float __fmul_rn(float x, float y)
{
    volatile float product = x * y;
    return product;
}
static inline float __fdiv_rn(float x, float y)
{
    return x / y;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
static inline double __dadd_rn(double x, double y)
{
    return x + y;
}
static inline double __dmul_rn(double x, double y)
{
    volatile double product = x * y;
    return product;
}
static inline float __double2float_rn(double x)
{
    return float(x);
}
static inline float __int2float_rn(int x)
{
    return float(x);
}
static inline float __uint2float_rn(unsigned x)
{
    return float(x);
}
static inline int __float2int_rn(float x)
{
    return int(rintf(x));
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}
template <typename T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz(unsigned(x));
}
static inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)x);
}
static inline unsigned __umulhi(unsigned x, unsigned y)
{
    return unsigned(uint64_t(x) * y >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    __extension__ typedef unsigned __int128 wide;
    return (unsigned long long)(wide(x) * y >> 64);
}

/* The caches' hints mean nothing here. */
#define CUDA_EMULATION_LOAD(name)                                                                  \
    template <typename T> static inline T name(const T *p)                                         \
    {                                                                                              \
        return *p;                                                                                 \
    }
#define CUDA_EMULATION_STORE(name)                                                                 \
    template <typename T> static inline void name(T *p, T x)                                       \
    {                                                                                              \
        *p = x;                                                                                    \
    }
CUDA_EMULATION_LOAD(__ldg)
CUDA_EMULATION_LOAD(__ldcs)
CUDA_EMULATION_LOAD(__ldcg)
CUDA_EMULATION_LOAD(__ldca)
CUDA_EMULATION_LOAD(__ldlu)
CUDA_EMULATION_STORE(__stcs)
CUDA_EMULATION_STORE(__stcg)
CUDA_EMULATION_STORE(__stwb)
CUDA_EMULATION_STORE(__stwt)

/* A real atomic: TSan takes the fibers for threads. */
template <typename T> static inline T atomicAdd(T *p, typename std::common_type<T>::type v)
{
    static_assert(std::is_integral<T>::value, "float atomics have no fixed order");
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

/* ---- threads and their synchronisation ---- */

#define CUDA_EMULATION_HIDDEN __attribute__((visibility("hidden")))

extern CUDA_EMULATION_HIDDEN uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

enum { CUDA_EMULATION_OWN = -1, CUDA_EMULATION_BALLOT = -2 };
int cuda_emulation_lane();
void cuda_emulation_barrier(const char *file, int line);

/* Wait for all lanes of the mask; the value of lane `source`, one's own, or the ballot. */
uint64_t cuda_emulation_warp(const char *what, unsigned mask, uint64_t value, int source,
                             const char *file, int line);

/* The place of a call, as trailing default arguments. The return address would not do: a compiler
 * that clones a call (unrolling) makes two barriers of one. */
#define CUDA_EMULATION_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(CUDA_EMULATION_SITE)
{
    cuda_emulation_barrier(file, line);
}
static inline void __syncwarp(unsigned mask = ~0u, CUDA_EMULATION_SITE)
{
    cuda_emulation_warp("__syncwarp", mask, 0, CUDA_EMULATION_OWN, file, line);
}

#define CUDA_EMULATION_VOTE(name, type, result)                                                    \
    static inline type name(unsigned mask, int vote, CUDA_EMULATION_SITE)                          \
    {                                                                                              \
        const unsigned votes = unsigned(                                                           \
            cuda_emulation_warp(#name, mask, vote != 0, CUDA_EMULATION_BALLOT, file, line));       \
        return result;                                                                             \
    }
CUDA_EMULATION_VOTE(__ballot_sync, unsigned, votes)
CUDA_EMULATION_VOTE(__any_sync, int, votes != 0)
CUDA_EMULATION_VOTE(__all_sync, int, votes == mask)

/* `width` splits the warp into segments [low, high]; a source beyond it means one's own value. */
#define CUDA_EMULATION_SHUFFLE(name, parameter, source)                                            \
    template <typename T>                                                                          \
    static inline T name(unsigned mask, T v, parameter, int width = 32, CUDA_EMULATION_SITE)       \
    {                                                                                              \
        static_assert(std::is_arithmetic<T>::value && sizeof(T) >= 4, "not a type of CUDA's");     \
        const int lane = cuda_emulation_lane(), low = lane & -width, high = lane | (width - 1);    \
        uint64_t word = cuda_emulation_bits<uint64_t, T>(v);                                       \
        word = cuda_emulation_warp(#name, mask, word, source, file, line);                         \
        memcpy(&v, &word, sizeof(v));                                                              \
        return (void)low, (void)high, v;                                                           \
    }
CUDA_EMULATION_SHUFFLE(__shfl_sync, int from, low + (from & (width - 1)))
CUDA_EMULATION_SHUFFLE(__shfl_up_sync, unsigned n, lane - int(n) < low ? lane : lane - int(n))
CUDA_EMULATION_SHUFFLE(__shfl_down_sync, unsigned n, lane + int(n) > high ? lane : lane + int(n))
CUDA_EMULATION_SHUFFLE(__shfl_xor_sync, int bits, (lane ^ bits) > high ? lane : lane ^ bits)

/* ---- shared memory: per CUDA block a guarded heap block per array, filled with 0xff (NaN) ---- */

void *cuda_emulation_shared(const void *site, size_t bytes);
void *cuda_emulation_shared_dynamic();

#define SHARED_ARRAY(type, name, extent)                                                           \
    static char name##_site;                                                                       \
    type(&name) extent =                                                                           \
        *static_cast<type(*) extent>(cuda_emulation_shared(&name##_site, sizeof(type extent)))
#define SHARED_DYNAMIC(type, name)                                                                 \
    type *const name = static_cast<type *>(cuda_emulation_shared_dynamic())

/* ---- the few runtime calls that launch wrappers use ---- */

typedef struct cuda_emulation_stream *cudaStream_t;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

cudaError_t cudaGetLastError();                  /* and clear it */
const char *cudaGetErrorString(cudaError_t err); /* the report of the last failure */
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);

cudaError_t cuda_emulation_allow_shared(const void *kernel, int bytes);

/* More than 48 KiB of shared memory must be asked for, kernel by kernel. */
template <typename F>
static inline cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute, int value)
{
    return cuda_emulation_allow_shared(reinterpret_cast<const void *>(kernel), value);
}

struct cuda_emulation_kernel {
    const char *name;
    const void *address;
    void (*body)(void *);
    void *argument;
};
void cuda_emulation_launch(const cuda_emulation_kernel *kernel, dim3 grid, dim3 block,
                           size_t smem_bytes);

/* The conversions of <<<>>>: implicit ones only, and each thread gets its own copy. */
template <typename... P, typename... A>
static inline void cuda_emulation_call(const char *name, void (*kernel)(P...), dim3 grid,
                                       dim3 block, size_t smem_bytes, cudaStream_t, A... arguments)
{
    auto body = [&] { kernel(arguments...); };
    const cuda_emulation_kernel k = { name, reinterpret_cast<const void *>(kernel),
                                      [](void *self) { (*static_cast<decltype(body) *>(self))(); },
                                      &body };
    cuda_emulation_launch(&k, grid, block, smem_bytes);
}

#define LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                       \
    cuda_emulation_call(#kernel, kernel, grid, block, smem_bytes, stream, __VA_ARGS__)

#endif
