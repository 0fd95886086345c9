/* Allocations that fail: linked into the program itself, whose calls of malloc and its kin come
 * here first (the linker's --wrap), so that the address sanitizer stays whole behind it.
 *
 * Libraries that the program links are reached by what they offer: jansson through the program,
 * which serves it, libyaml by its own yaml_malloc, which a program may have in its place, zlib and
 * PCRE2 by the allocators that their streams and contexts take. The C library's own allocations
 * fail with the function that makes them (opendir, realpath, fopen, getline). OpenMP's do not: its
 * runtime ends the program itself.
 *
 * The environment is that of fault.h; of its kinds this knows "alloc".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tests/fault/fault.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
char *__real_realpath(const char *path, char *out);
DIR *__real_opendir(const char *path);
FILE *__real_fopen(const char *path, const char *mode);
ssize_t __real_getline(char **line, size_t *cap, FILE *file);
void *__real_mmap(void *at, size_t n, int protection, int flags, int fd, off_t from);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __real_inflateInit2_(z_stream *z, int bits, const char *version, int size);

static struct {
    int64_t at;
    bool ever, trace;
    int stacks;
    struct fault_report *report;
    pcre2_general_context *general;
    pcre2_compile_context *compile;
} alloc = { .stacks = -1 };
static _Thread_local bool inside; /* what a stack's printing allocates does not count */

/* ---- which allocation ---- */

/* FNV-1a over the return addresses: the same for two calls from the same place. */
static uint64_t hash_stack(void)
{
    enum { DEPTH = 12 };
    void *frames[DEPTH];
    const int n = backtrace(frames, DEPTH);
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < n; i++)
        h = (h ^ (uint64_t)(uintptr_t)frames[i]) * 1099511628211u;
    return h;
}

static void show_stack(void)
{
    void *frames[32];
    backtrace_symbols_fd(frames, backtrace(frames, 32), 2);
}

static bool fails(void)
{
    if (alloc.report == NULL || inside)
        return false;
    const int64_t k = __atomic_add_fetch(&alloc.report->calls[FAULT_alloc], 1, __ATOMIC_RELAXED);
    inside = true;
    if (alloc.stacks >= 0) {
        const uint64_t h = hash_stack();
        if (write(alloc.stacks, &h, sizeof h) != sizeof h)
            abort(); /* a list with a hole proves nothing */
    }
    const bool hit = alloc.at > 0 && (k == alloc.at || (alloc.ever && k > alloc.at));
    if (hit) {
        if (alloc.report->hits++ == 0 && alloc.trace)
            show_stack();
        errno = ENOMEM;
    }
    inside = false;
    return hit;
}

/* ---- ours ---- */

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

char *__wrap_realpath(const char *path, char *out)
{
    return fails() ? NULL : __real_realpath(path, out);
}

DIR *__wrap_opendir(const char *path)
{
    return fails() ? NULL : __real_opendir(path);
}

FILE *__wrap_fopen(const char *path, const char *mode)
{
    return fails() ? NULL : __real_fopen(path, mode);
}

ssize_t __wrap_getline(char **line, size_t *cap, FILE *file)
{
    return fails() ? -1 : __real_getline(line, cap, file);
}

void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t from)
{
    return fails() ? MAP_FAILED : __real_mmap(at, n, protection, flags, fd, from);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
    return fails() ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

/* ---- libraries ---- */

static void *allocate(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *yaml_malloc(size_t n);
void *yaml_realloc(void *p, size_t n);
void yaml_free(void *p);
unsigned char *yaml_strdup(const unsigned char *s);

void *yaml_malloc(size_t n)
{
    return allocate(n > 0 ? n : 1);
}

void *yaml_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n > 0 ? n : 1);
}

void yaml_free(void *p)
{
    free(p);
}

unsigned char *yaml_strdup(const unsigned char *s)
{
    return s == NULL || fails() ? NULL : (unsigned char *)__real_strdup((const char *)s);
}

static void *zlib_allocate(void *unused, unsigned n, unsigned size)
{
    (void)unused;
    return fails() ? NULL : __real_calloc(n, size);
}

static void zlib_free(void *unused, void *p)
{
    (void)unused;
    free(p);
}

int __wrap_inflateInit2_(z_stream *z, int bits, const char *version, int size)
{
    z->zalloc = zlib_allocate;
    z->zfree = zlib_free;
    return __real_inflateInit2_(z, bits, version, size);
}

static void *pcre2_allocate(size_t n, void *unused)
{
    (void)unused;
    return allocate(n);
}

static void pcre2_release(void *p, void *unused)
{
    (void)unused;
    free(p);
}

pcre2_code *__real_pcre2_compile_8(PCRE2_SPTR pattern, PCRE2_SIZE n, uint32_t options, int *why,
                                   PCRE2_SIZE *at, pcre2_compile_context *context);
pcre2_code *__wrap_pcre2_compile_8(PCRE2_SPTR pattern, PCRE2_SIZE n, uint32_t options, int *why,
                                   PCRE2_SIZE *at, pcre2_compile_context *context)
{
    return __real_pcre2_compile_8(pattern, n, options, why, at,
                                  context != NULL ? context : alloc.compile);
}

pcre2_match_context *__real_pcre2_match_context_create_8(pcre2_general_context *general);
pcre2_match_context *__wrap_pcre2_match_context_create_8(pcre2_general_context *general)
{
    return __real_pcre2_match_context_create_8(general != NULL ? general : alloc.general);
}

pcre2_match_data *__real_pcre2_match_data_create_8(uint32_t n, pcre2_general_context *general);
pcre2_match_data *__wrap_pcre2_match_data_create_8(uint32_t n, pcre2_general_context *general)
{
    return __real_pcre2_match_data_create_8(n, general != NULL ? general : alloc.general);
}

pcre2_match_data *__real_pcre2_match_data_create_from_pattern_8(const pcre2_code *code,
                                                                pcre2_general_context *general);
pcre2_match_data *__wrap_pcre2_match_data_create_from_pattern_8(const pcre2_code *code,
                                                                pcre2_general_context *general)
{
    return __real_pcre2_match_data_create_from_pattern_8(code,
                                                         general != NULL ? general : alloc.general);
}

/* ---- start ---- */

__attribute__((constructor)) static void start(void)
{
    const char *at = getenv("FAULT_AT"), *stacks = getenv("FAULT_STACKS");
    const char *report = getenv("FAULT_REPORT"), *call = getenv("FAULT_CALL");
    alloc.general = pcre2_general_context_create_8(pcre2_allocate, pcre2_release, NULL);
    alloc.compile = pcre2_compile_context_create_8(alloc.general);
    alloc.at = at != NULL && call != NULL && strcmp(call, "alloc") == 0 ? atoll(at) : 0;
    alloc.ever = getenv("FAULT_EVER") != NULL;
    alloc.trace = getenv("FAULT_TRACE") != NULL;
    if (stacks != NULL) {
        hash_stack(); /* its first call loads a library */
        alloc.stacks = open(stacks, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
    }
    const int fd = report != NULL ? open(report, O_RDWR | O_CLOEXEC) : -1;
    void *p =
        fd < 0 ? MAP_FAILED
               : __real_mmap(NULL, sizeof *alloc.report, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    alloc.report = p != MAP_FAILED ? p : NULL;
    if (fd >= 0)
        close(fd);
}
