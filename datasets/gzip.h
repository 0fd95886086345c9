/* A file as a stream of bytes; a name that ends in ".gz" is gunzipped on the way.
 *
 *     struct gzip_reader r = { 0 };
 *     ok = gzip_open(&r, path, err) && gzip_read(&r, buffer, sizeof buffer, &got, err) ...
 *     gzip_close(&r);
 *
 * inflate is called directly: zlib's gz layer hands out the bytes of a cut file, and even those of
 * a file that is not gzip at all, without a word. Here a file is one or more members (RFC 1952),
 * each complete and with the right checksum; zero bytes may follow the last one (tape padding),
 * nothing else may.
 */
#ifndef DATASETS_GZIP_H
#define DATASETS_GZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

#include "kernels/core/err.h"

struct gzip_reader {
    const char *path; /* borrowed, for messages */
    int fd;
    bool is_open, compressed, inflating;
    bool at_end;    /* of the file */
    bool in_member; /* between a member's first byte and its checksum */
    bool in_padding;
    int64_t n_member; /* complete ones */
    z_stream z;
    uint8_t *input;
};

/* `path` must outlive the reader. Errors: not there, not readable, not a regular file. */
bool gzip_open(struct gzip_reader *r, const char *path, struct err *err);

/* Up to n bytes into out; *got < n only at the end of the data. */
bool gzip_read(struct gzip_reader *r, char *out, size_t n, size_t *got, struct err *err);

void gzip_close(struct gzip_reader *r);

#endif
