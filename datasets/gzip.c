#include "datasets/gzip.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/core/text.h"

enum { INPUT_SIZE = 1 << 16, GZIP_WINDOW_BITS = 31 /* 15, plus 16: a gzip wrapper and no other */ };

static bool check_regular(struct gzip_reader *r, struct err *err)
{
    struct stat st;
    if (fstat(r->fd, &st) != 0)
        return err_set(err, ERR_IO, "%s: %s", r->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_NO_INPUT, "%s: is %s; expected a regular file", r->path,
                       S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    return true;
}

static bool start_inflate(struct gzip_reader *r, struct err *err)
{
    r->input = malloc(INPUT_SIZE);
    if (r->input == NULL || inflateInit2(&r->z, GZIP_WINDOW_BITS) != Z_OK)
        return err_no_memory(err, r->path);
    r->inflating = true;
    return true;
}

bool gzip_open(struct gzip_reader *r, const char *path, struct err *err)
{
    *r = (struct gzip_reader){ .path = path, .compressed = text_ends_with(path, ".gz") };
    /* O_NONBLOCK: a FIFO without a writer must not hang the open. */
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (r->fd < 0)
        return err_set(err, errno == ENOMEM ? ERR_NO_MEMORY : ERR_NO_INPUT, "%s: %s", path,
                       strerror(errno));
    r->is_open = true;
    if (check_regular(r, err) && (!r->compressed || start_inflate(r, err)))
        return true;
    gzip_close(r);
    return false;
}

void gzip_close(struct gzip_reader *r)
{
    if (r->inflating)
        inflateEnd(&r->z);
    if (r->is_open)
        close(r->fd);
    free(r->input);
    *r = (struct gzip_reader){ 0 };
}

/* Bytes of the file itself; *got < n only at its end. */
static bool read_file(struct gzip_reader *r, void *out, size_t n, size_t *got, struct err *err)
{
    char *bytes = out;
    *got = 0;
    while (*got < n) {
        const ssize_t k = read(r->fd, bytes + *got, n - *got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_set(err, ERR_IO, "%s: %s", r->path, strerror(errno));
        if (k == 0)
            break;
        *got += (size_t)k;
    }
    return true;
}

static bool refill(struct gzip_reader *r, struct err *err)
{
    size_t got = 0;
    if (!read_file(r, r->input, INPUT_SIZE, &got, err))
        return false;
    r->z.next_in = r->input;
    r->z.avail_in = (uInt)got;
    if (got > 0)
        return true;
    if (r->in_member)
        return err_set(err, ERR_DATA,
                       "%s: ends inside gzip member %" PRId64 "; the file is cut off", r->path,
                       r->n_member + 1);
    if (r->n_member == 0)
        return err_set(err, ERR_DATA, "%s: is empty; expected gzip data", r->path);
    r->at_end = true;
    return true;
}

/* The next byte begins a member, or the padding after the last one. */
static bool between_members(struct gzip_reader *r, struct err *err)
{
    const uint8_t byte = r->z.next_in[0];
    if (byte == 0x1F && !r->in_padding) {
        r->in_member = true;
        inflateReset(&r->z);
        return true;
    }
    if (r->n_member == 0)
        return err_set(err, ERR_DATA,
                       "%s: is not gzip data; compress it, or take the \".gz\" off its name",
                       r->path);
    if (byte != 0)
        return err_set(err, ERR_DATA, "%s: has other bytes after the end of its gzip data",
                       r->path);
    r->in_padding = true;
    r->z.next_in++;
    r->z.avail_in--;
    return true;
}

static bool inflate_some(struct gzip_reader *r, struct err *err)
{
    const int result = inflate(&r->z, Z_NO_FLUSH);
    if (result == Z_OK || result == Z_BUF_ERROR)
        return true;
    if (result == Z_STREAM_END) {
        r->in_member = false;
        r->n_member++;
        return true;
    }
    if (result == Z_MEM_ERROR)
        return err_no_memory(err, r->path);
    return err_set(err, ERR_DATA, "%s: gzip member %" PRId64 " is damaged: %s", r->path,
                   r->n_member + 1, r->z.msg != NULL ? r->z.msg : "unreadable");
}

bool gzip_read(struct gzip_reader *r, char *out, size_t n, size_t *got, struct err *err)
{
    if (!r->compressed)
        return read_file(r, out, n, got, err);
    const uInt room = n < UINT_MAX ? (uInt)n : UINT_MAX;
    r->z.next_out = (Bytef *)out;
    r->z.avail_out = room;
    *got = 0;
    /* Without room left inflate would not make progress, so a member's end may wait for the next
     * call. */
    while (r->z.avail_out > 0 && !r->at_end) {
        if (r->z.avail_in == 0) {
            if (!refill(r, err))
                return false;
        } else if (!(r->in_member ? inflate_some(r, err) : between_members(r, err))) {
            return false;
        }
    }
    *got = room - r->z.avail_out;
    return true;
}
