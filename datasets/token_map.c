#include "datasets/token_map.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

/* The number of slots for n entries: a power of two, at least twice n. 0 when it does not fit. */
static size_t slot_count(size_t n, size_t slot_size, int *log2_count)
{
    size_t count = 16, bytes = 0;
    *log2_count = 4;
    while (count / 2 < n) {
        if (!size_mul(count, 2, &count))
            return 0;
        *log2_count += 1;
    }
    return size_mul(count, slot_size, &bytes) ? count : 0;
}

bool piece_map_init(struct piece_map *map, size_t n)
{
    int log2_count = 0;
    const size_t count = slot_count(n, sizeof *map->slots, &log2_count);
    *map = (struct piece_map){ 0 };
    if (count == 0)
        return false;
    map->slots = calloc(count, sizeof *map->slots);
    map->mask = count - 1;
    return map->slots != NULL;
}

void piece_map_free(struct piece_map *map)
{
    free(map->slots);
    *map = (struct piece_map){ 0 };
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). A file chosen to collide makes loading slow, not wrong. */
static size_t piece_hash(const char *bytes, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)bytes[i]) * 0x100000001B3u;
    return (size_t)(h ^ h >> 32);
}

/* The slot of the string, or the empty one where it belongs. */
static struct piece_slot *piece_slot(const struct piece_map *map, const char *bytes, size_t n)
{
    size_t i = piece_hash(bytes, n) & map->mask;
    for (;;) {
        struct piece_slot *slot = &map->slots[i];
        if (slot->bytes == NULL || (slot->n == n && memcmp(slot->bytes, bytes, n) == 0))
            return slot;
        i = (i + 1) & map->mask;
    }
}

int32_t piece_map_find(const struct piece_map *map, const char *bytes, size_t n)
{
    const struct piece_slot *slot = piece_slot(map, bytes, n);
    return slot->bytes == NULL ? -1 : slot->id;
}

void piece_map_add(struct piece_map *map, const char *bytes, size_t n, int32_t id)
{
    *piece_slot(map, bytes, n) = (struct piece_slot){ .bytes = bytes, .n = (uint32_t)n, .id = id };
}

bool pair_map_init(struct pair_map *map, size_t n)
{
    int log2_count = 0;
    const size_t count = slot_count(n, sizeof *map->slots, &log2_count);
    *map = (struct pair_map){ 0 };
    if (count == 0)
        return false;
    map->slots = malloc(count * sizeof *map->slots);
    map->mask = count - 1;
    map->shift = 64 - log2_count;
    for (size_t i = 0; map->slots != NULL && i < count; i++)
        map->slots[i] = (struct pair_slot){ .key = PAIR_NONE };
    return map->slots != NULL;
}

void pair_map_free(struct pair_map *map)
{
    free(map->slots);
    *map = (struct pair_map){ 0 };
}

void pair_map_put(struct pair_map *map, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> map->shift);
    while (map->slots[i].key != PAIR_NONE && map->slots[i].key != key)
        i = (i + 1) & map->mask;
    map->slots[i] = (struct pair_slot){ .key = key, .rank = rank, .id = id };
}
