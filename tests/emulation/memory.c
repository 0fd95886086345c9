#include "tests/emulation/emulated.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATED_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define EMULATED_ASAN 1
#endif
#ifdef EMULATED_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { PAGE = 4096, MOST_FILLED = 1 << 20 };

/* One mapping: `bytes`, rounded up to pages, and one page that is never opened. */
struct block {
    struct block *next;
    char *p;
    size_t bytes, open_bytes;
};

static struct {
    struct block *blocks;
    size_t used;
    int unlocked;
} memory;

static void protect(const struct block *b, int how)
{
    if (mprotect(b->p, b->open_bytes, how) != 0)
        abort();
}

void *emulated_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    struct block *b = (struct block *)malloc(sizeof *b);
    const size_t open_bytes = (bytes + (bytes == 0) + PAGE - 1) / PAGE * PAGE;
    if (b == NULL)
        return NULL;
    void *p = mmap(NULL, open_bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        free(b);
        return NULL;
    }
    *b = (struct block){ memory.blocks, (char *)p, bytes, open_bytes };
    memory.blocks = b;
    memory.used += bytes;
    protect(b, PROT_READ | PROT_WRITE);
    memset(p, 0xff, open_bytes < MOST_FILLED ? open_bytes : MOST_FILLED);
    ASAN_POISON_MEMORY_REGION(b->p + bytes, open_bytes - bytes);
    if (memory.unlocked == 0)
        protect(b, PROT_NONE);
    return p;
}

void emulated_free(void *p)
{
    for (struct block **at = &memory.blocks; p != NULL; at = &(*at)->next) {
        struct block *b = *at;
        if (b == NULL)
            abort(); /* not from here, or freed before */
        if (b->p != p)
            continue;
        *at = b->next;
        memory.used -= b->bytes;
        ASAN_UNPOISON_MEMORY_REGION(b->p, b->open_bytes);
        munmap(b->p, b->open_bytes + PAGE);
        free(b);
        return;
    }
}

size_t emulated_used(void)
{
    return memory.used;
}

static const struct block *block_of(const void *p, size_t bytes)
{
    const uintptr_t at = (uintptr_t)p;
    for (const struct block *b = memory.blocks; b != NULL; b = b->next) {
        const uintptr_t start = (uintptr_t)b->p;
        if (at >= start && at - start <= b->bytes && bytes <= b->bytes - (at - start))
            return b;
    }
    return NULL;
}

bool emulated_contains(const void *p, size_t bytes)
{
    return block_of(p, bytes) != NULL;
}

void emulated_copy(void *to, const void *from, size_t bytes)
{
    const struct block *ends[] = { block_of(to, bytes), block_of(from, bytes) };
    for (int i = 0; i < 2 && memory.unlocked == 0; i++) {
        if (ends[i] != NULL)
            protect(ends[i], PROT_READ | PROT_WRITE);
    }
    memmove(to, from, bytes);
    for (int i = 0; i < 2 && memory.unlocked == 0; i++) {
        if (ends[i] != NULL)
            protect(ends[i], PROT_NONE);
    }
}

void emulated_unlock(void)
{
    if (memory.unlocked++ > 0)
        return;
    for (const struct block *b = memory.blocks; b != NULL; b = b->next)
        protect(b, PROT_READ | PROT_WRITE);
}

void emulated_lock(void)
{
    if (--memory.unlocked > 0)
        return;
    for (const struct block *b = memory.blocks; b != NULL; b = b->next)
        protect(b, PROT_NONE);
}
