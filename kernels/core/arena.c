#include "kernels/core/arena.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/core/device.h"

bool arena_init(struct arena *a, const char *name, size_t cap, struct err *err)
{
    *a = (struct arena){ .name = name, .cap = cap };
    if (cap == 0)
        return true;
    /* mmap, not malloc: zeroed, page-aligned, and pages never touched cost nothing. */
    void *base =
        mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        *a = (struct arena){ 0 };
        return err_set(err, ERR_NO_MEMORY, "out of memory for the %s arena (%zu bytes)", name, cap);
    }
    a->base = base;
    return true;
}

bool arena_init_in(struct arena *a, struct device *device, const char *name, size_t cap,
                   struct err *err)
{
    if (device == NULL || cap == 0)
        return arena_init(a, name, cap, err);
    *a = (struct arena){ .name = name, .device = device, .cap = cap };
    a->base = device->alloc(device, cap, err);
    if (a->base != NULL)
        return true;
    *a = (struct arena){ 0 };
    return err_prefix(err, "the %s arena", name);
}

void arena_init_part(struct arena *a, struct arena *whole, const char *name, size_t cap)
{
    *a = (struct arena){ .name = name, .device = whole->device, .cap = cap, .borrowed = true };
    a->base = arena_push(whole, cap);
}

void arena_init_measuring(struct arena *a, const char *name)
{
    /* Addresses from one alignment unit up, so that none is NULL. */
    *a =
        (struct arena){ .name = name,
                        .base = (char *)(uintptr_t)ARENA_ALIGN, // NOLINT(performance-no-int-to-ptr)
                        .cap = SIZE_MAX / 2,
                        .measuring = true };
}

void arena_free(struct arena *a)
{
    if (a->base != NULL && !a->measuring && !a->borrowed) {
        if (a->device != NULL)
            a->device->free(a->device, a->base);
        else
            munmap(a->base, a->cap);
    }
    *a = (struct arena){ 0 };
}

void *arena_push(struct arena *a, size_t bytes)
{
    const size_t rounded = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    assert(rounded >= bytes && rounded <= a->cap - a->used && "an arena ran past its plan");
    void *p = (char *)((uintptr_t)a->base + a->used); // NOLINT(performance-no-int-to-ptr)
    a->used += rounded;
    if (a->used > a->peak)
        a->peak = a->used;
    return p;
}

real *arena_reals(struct arena *a, int64_t n)
{
    return arena_push(a, (size_t)n * sizeof(real));
}

real *arena_zeros(struct arena *a, int64_t n)
{
    real *p = arena_reals(a, n);
    if (!a->measuring)
        memset(p, 0, (size_t)n * sizeof(real));
    return p;
}

size_t arena_mark(const struct arena *a)
{
    return a->used;
}

void arena_rewind(struct arena *a, size_t mark)
{
    assert(mark <= a->used);
    a->used = mark;
}
