/* Memory of one template or one rendering: taken piece by piece up to a limit, given back at once.
 * Values of a rendering point at each other freely, and none is freed before the end. */
#ifndef DATASETS_JINJA_ARENA_H
#define DATASETS_JINJA_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct jinja_block;

struct jinja_arena {
    struct jinja_block *blocks;
    size_t taken, limit; /* bytes; limit 0: none */
    bool failed;         /* a piece was refused: over the limit, or memory ran out */
    bool over;           /* it was the limit */
    bool deep;           /* a value too deep was refused (jinja_value.h) */
};

/* size zeroed bytes, aligned for any type; NULL when over the limit or out of memory. */
void *jinja_take(struct jinja_arena *a, size_t size);

/* n items of `size` bytes each; checked for overflow. */
void *jinja_take_array(struct jinja_arena *a, size_t n, size_t size);

void jinja_arena_free(struct jinja_arena *a);

#endif
