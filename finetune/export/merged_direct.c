#define _GNU_SOURCE /* O_DIRECT */
#include "finetune/export/merged_direct.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { PAGE = 4096 }; /* what memory, places and lengths are multiples of; no disk asks for more */

struct merged_direct merged_direct_open(const char *path, size_t bytes)
{
    struct merged_direct d = { -1 };
#ifdef O_DIRECT
    d.fd = open(path, O_RDWR | O_CLOEXEC | O_DIRECT);
#endif
    /* Writing inside of a file takes turns less often than making it longer. */
    if (d.fd >= 0 && bytes > 0 && ftruncate(d.fd, (off_t)bytes) != 0)
        merged_direct_close(&d);
    return d;
}

void merged_direct_close(struct merged_direct *d)
{
    if (d->fd >= 0)
        close(d->fd);
    *d = (struct merged_direct){ -1 };
}

char *merged_direct_buffer(size_t n)
{
    void *buffer = NULL;
    const size_t n_page = n / PAGE + 2; /* and what is before the first byte, behind the last */
    return posix_memalign(&buffer, PAGE, n_page * PAGE) == 0 ? buffer : NULL;
}

size_t merged_direct_lead(size_t at)
{
    return at % PAGE;
}

bool merged_direct_write(const struct merged_direct *d, size_t at, const char *bytes, size_t n,
                         struct merged_part *done)
{
    const size_t lead = at % PAGE, begin = lead > 0 ? PAGE - lead : 0;
    const size_t end = lead + n >= PAGE ? (lead + n) / PAGE * PAGE - lead : 0;
    *done = (struct merged_part){ 0 };
    if (d->fd < 0 || begin >= end)
        return true;
    *done = (struct merged_part){ begin, begin };
    while (done->end < end && (done->end - begin) % PAGE == 0) {
        const ssize_t put =
            pwrite(d->fd, bytes + done->end, end - done->end, (off_t)(at + done->end));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return errno == EINVAL || errno == EOPNOTSUPP;
        done->end += (size_t)put;
    }
    return true;
}

const char *merged_direct_read(const struct merged_direct *d, size_t at, size_t n, char *buffer)
{
    const size_t lead = at % PAGE, wanted = lead + n;
    const size_t size = (wanted + PAGE - 1) / PAGE * PAGE;
    size_t done = 0;
    while (d->fd >= 0 && done < wanted && done % PAGE == 0) {
        const ssize_t got = pread(d->fd, buffer + done, size - done, (off_t)(at - lead + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return NULL;
        done += (size_t)got;
    }
    return d->fd >= 0 && done >= wanted ? buffer + lead : NULL;
}
