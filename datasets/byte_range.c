#include "datasets/byte_range.h"

#include <stdlib.h>

#include "kernels/core/text.h"

bool range_list_add(struct range_list *list, size_t begin, size_t end)
{
    if (list->n == list->cap) {
        const size_t cap = list->cap + list->cap / 2 + 16;
        size_t bytes = 0;
        struct byte_range *at = size_mul(cap, sizeof *at, &bytes) ? realloc(list->at, bytes) : NULL;
        if (at == NULL)
            return false;
        list->at = at;
        list->cap = cap;
    }
    list->at[list->n++] = (struct byte_range){ begin, end };
    return true;
}

void range_list_free(struct range_list *list)
{
    free(list->at);
    *list = (struct range_list){ 0 };
}

static int by_begin(const void *a, const void *b)
{
    const struct byte_range *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

void range_list_merge(struct range_list *list)
{
    if (list->n == 0)
        return;
    qsort(list->at, list->n, sizeof *list->at, by_begin);
    size_t n = 1;
    for (size_t i = 1; i < list->n; i++) {
        const struct byte_range r = list->at[i];
        struct byte_range *last = &list->at[n - 1];
        if (r.begin > last->end)
            list->at[n++] = r;
        else if (r.end > last->end)
            last->end = r.end;
    }
    list->n = n;
}

bool range_list_overlaps(const struct range_list *list, size_t begin, size_t end)
{
    size_t low = 0, high = list->n; /* the first range that ends behind `begin` */
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (list->at[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    return low < list->n && list->at[low].begin < end;
}
