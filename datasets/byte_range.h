/* Ranges of bytes of a text, in order. */
#ifndef DATASETS_BYTE_RANGE_H
#define DATASETS_BYTE_RANGE_H

#include <stdbool.h>
#include <stddef.h>

struct byte_range {
    size_t begin, end;
};

struct range_list {
    struct byte_range *at;
    size_t n, cap;
};

/* False when memory is out. */
bool range_list_add(struct range_list *list, size_t begin, size_t end);
void range_list_free(struct range_list *list);

/* Sorts the ranges and makes one of those that touch or overlap. */
void range_list_merge(struct range_list *list);

/* Whether [begin, end) and a range of a merged list have a byte in common. */
bool range_list_overlaps(const struct range_list *list, size_t begin, size_t end);

#endif
