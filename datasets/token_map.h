/* Two hash tables that a tokenizer builds once and then only reads: strings to ids, and pairs of
 * ids to a rank and an id. Open addressing at most half full; sizes are known when they are built.
 */
#ifndef DATASETS_TOKEN_MAP_H
#define DATASETS_TOKEN_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct piece_slot {
    const char *bytes; /* NULL: empty; not owned */
    uint32_t n;
    int32_t id;
};

struct piece_map {
    struct piece_slot *slots;
    size_t mask;
};

/* For at most n strings of less than 4 GiB. */
bool piece_map_init(struct piece_map *map, size_t n);
void piece_map_free(struct piece_map *map);

/* The id of bytes[0..n), or -1. */
int32_t piece_map_find(const struct piece_map *map, const char *bytes, size_t n);

/* Adds a string that is not in it yet; the bytes must outlive the map. */
void piece_map_add(struct piece_map *map, const char *bytes, size_t n, int32_t id);

struct pair_slot {
    uint64_t key; /* left << 32 | right; PAIR_NONE: empty */
    int32_t rank, id;
};

struct pair_map {
    struct pair_slot *slots;
    size_t mask;
    int shift;
};

#define PAIR_NONE UINT64_MAX

bool pair_map_init(struct pair_map *map, size_t n);
void pair_map_free(struct pair_map *map);

/* Adds the pair, or gives it another rank and id. */
void pair_map_put(struct pair_map *map, int32_t left, int32_t right, int32_t rank, int32_t id);

static inline const struct pair_slot *pair_map_find(const struct pair_map *map, int32_t left,
                                                    int32_t right)
{
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    /* Fibonacci hashing: the high bits of the product depend on all bits of the key. */
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> map->shift);
    while (map->slots[i].key != key) {
        if (map->slots[i].key == PAIR_NONE)
            return NULL;
        i = (i + 1) & map->mask;
    }
    return &map->slots[i];
}

#endif
