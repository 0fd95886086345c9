/* A merged file's data between a worker's memory and the disk, past the page cache where the file
 * system can (O_DIRECT): a copy into fresh pages costs more than the arithmetic, and what is read
 * back has then been on the disk.
 *
 *     char *buffer = merged_direct_buffer(largest);
 *     struct merged_direct d = merged_direct_open(path, size);
 *     char *bytes = buffer + merged_direct_lead(at);             // for place `at` of the file
 *     ok = merged_direct_write(&d, at, bytes, n, &part);  // the part of the n that it took
 *     have = merged_direct_read(&d, at, n, buffer);
 *     merged_direct_close(&d);
 *
 * Only whole pages of the file go that way: the bytes at either end share a page with a neighbour,
 * and are the page cache's, as everything is on other file systems.
 */
#ifndef FINETUNE_EXPORT_MERGED_DIRECT_H
#define FINETUNE_EXPORT_MERGED_DIRECT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/core/err.h"

struct merged_direct {
    int fd; /* -1: there is no such way */
};

/* A file that is there, to read; with bytes > 0 to write, and made that long. */
struct merged_direct merged_direct_open(const char *path, size_t bytes);
void merged_direct_close(struct merged_direct *d);

/* Room for n bytes of any place in a file; NULL when memory is out; for free(). */
char *merged_direct_buffer(size_t n);

/* Where in the buffer the byte for place `at` of a file lies. */
size_t merged_direct_lead(size_t at);

/* Of n bytes, those from begin to end. */
struct merged_part {
    size_t begin, end;
};

/* Writes what it can of the n bytes for place `at`, which lie in a buffer where merged_direct_lead
 * says. Any number of threads may. False, with errno set, when the disk fails. */
bool merged_direct_write(const struct merged_direct *d, size_t at, const char *bytes, size_t n,
                         struct merged_part *done);

/* n bytes from place `at`, read into the buffer; NULL when they cannot be had this way. */
const char *merged_direct_read(const struct merged_direct *d, size_t at, size_t n, char *buffer);

#endif
