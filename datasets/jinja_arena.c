#include "datasets/jinja_arena.h"

#include <stddef.h>
#include <stdlib.h>

#include "kernels/core/text.h"

enum { FIRST_BLOCK = 16384, LAST_BLOCK = 1 << 20 };

struct jinja_block {
    struct jinja_block *next;
    size_t used, size; /* of bytes[] */
    max_align_t bytes[];
};

static struct jinja_block *block_add(struct jinja_arena *a, size_t least)
{
    size_t size = a->blocks == NULL ? FIRST_BLOCK : a->blocks->size * 2;
    if (size > LAST_BLOCK)
        size = LAST_BLOCK;
    if (size < least)
        size = least;
    size_t whole = 0;
    if (!size_add(size, sizeof(struct jinja_block), &whole))
        return NULL;
    struct jinja_block *b = calloc(1, whole);
    if (b == NULL)
        return NULL;
    b->size = size;
    /* A big piece gets a block of its own, and the block in use stays in use. */
    if (a->blocks != NULL && least > LAST_BLOCK / 4) {
        b->next = a->blocks->next;
        a->blocks->next = b;
    } else {
        b->next = a->blocks;
        a->blocks = b;
    }
    return b;
}

void *jinja_take(struct jinja_arena *a, size_t size)
{
    const size_t align = sizeof(max_align_t);
    if (a->failed)
        return NULL;
    if (size > SIZE_MAX - align || (a->limit != 0 && size > a->limit - a->taken)) {
        a->failed = a->over = true;
        return NULL;
    }
    size = (size + align - 1) / align * align;
    struct jinja_block *b = a->blocks;
    if (b == NULL || size > b->size - b->used)
        b = block_add(a, size);
    if (b == NULL) {
        a->failed = true;
        return NULL;
    }
    void *piece = (char *)b->bytes + b->used;
    b->used += size;
    a->taken += size;
    if (a->limit != 0 && a->taken > a->limit)
        a->taken = a->limit;
    return piece;
}

void *jinja_take_array(struct jinja_arena *a, size_t n, size_t size)
{
    size_t bytes = 0;
    if (!size_mul(n, size, &bytes)) {
        a->failed = a->over = true;
        return NULL;
    }
    return jinja_take(a, bytes);
}

void jinja_arena_free(struct jinja_arena *a)
{
    for (struct jinja_block *b = a->blocks, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct jinja_arena){ .limit = a->limit };
}
