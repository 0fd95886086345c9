#include "kernels/core/json_memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A thread's own. */
struct memory {
    bool failed;
    char *reserve; /* of the parse that is going on */
    size_t size, used;
};

static _Thread_local struct memory memory;

static void *allocate(size_t n)
{
    void *p = malloc(n);
    if (p != NULL)
        return p;
    memory.failed = true;
    const size_t padded = (n + 15) & ~(size_t)15;
    if (padded < n || padded > memory.size - memory.used)
        return NULL;
    p = memory.reserve + memory.used;
    memory.used += padded;
    return p;
}

static void release(void *p)
{
    const uintptr_t at = (uintptr_t)p, reserve = (uintptr_t)memory.reserve;
    if (at < reserve || at >= reserve + memory.size)
        free(p);
}

/* Before main, so that no value is older. */
__attribute__((constructor)) static void take_over(void)
{
    json_set_alloc_funcs(allocate, release);
}

bool json_memory_failed(void)
{
    const bool failed = memory.failed;
    memory.failed = false;
    return failed;
}

void json_memory_fail(void)
{
    memory.failed = true;
}

/* ---- parsing ---- */

enum { BUFFER = 1024 /* what jansson asks for at once */, VALUE = 256 /* bytes, of "[" or "{" */ };

struct text {
    const char *bytes;
    size_t n;
};

/* Nothing more once memory ran out: what is left to parse is in jansson's buffer. */
static size_t feed(void *to, size_t room, void *data)
{
    struct text *t = data;
    if (memory.failed)
        return (size_t)-1;
    const size_t n = t->n < room ? t->n : room;
    memcpy(to, t->bytes, n);
    t->bytes += n;
    t->n -= n;
    return n;
}

/* The longest string, which jansson holds twice and in a buffer that doubles; and the values of one
 * more buffer. Untouched it is address space alone. */
static bool open_reserve(size_t n)
{
    const size_t values = (n < BUFFER ? n + 16 : BUFFER) * VALUE;
    if (n > (SIZE_MAX - values) / 5)
        return false;
    memory.reserve = malloc(5 * n + values);
    memory.size = memory.reserve != NULL ? 5 * n + values : 0;
    memory.used = 0;
    return memory.reserve != NULL;
}

static void close_reserve(void)
{
    free(memory.reserve);
    memory.reserve = NULL;
    memory.size = memory.used = 0;
}

json_t *json_memory_load(const char *bytes, size_t n, size_t flags, json_error_t *why,
                         bool *out_of_memory)
{
    const bool failed_before = json_memory_failed();
    struct text t = { bytes, n };
    json_t *value = NULL;
    *out_of_memory = true;
    if (open_reserve(n)) {
        value = json_load_callback(feed, &t, flags, why);
        *out_of_memory = memory.failed;
        if (memory.failed) {
            json_decref(value); /* what is in the reserve ends with it */
            value = NULL;
        }
        close_reserve();
    }
    memory.failed = failed_before;
    return value;
}
