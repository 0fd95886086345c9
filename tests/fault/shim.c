/* The shim: a library that is loaded before all others (LD_PRELOAD) and stands between a program
 * and its calls of the file system. It counts those on files of one folder, lets one fail, cuts it
 * short or kills the program at it, and writes down what changes the folder. See fault.h.
 *
 * A stream (fopen) writes inside of the C library, where no symbol can be put in between: a stream
 * on a file under test is made of calls that come through here (fopencookie).
 */
#define _GNU_SOURCE
#include "tests/fault/shim.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/fault/shim_log.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* the C library's names, in all variants */
#pragma GCC diagnostic ignored "-Wredundant-decls"

/* The function of that name behind ours; a function pointer, which ISO C keeps apart from others.
 */
static void find_next(const char *name, void *function, size_t n)
{
    void *p = dlsym(RTLD_NEXT, name);
    if (p == NULL)
        abort();
    memcpy(function, &p, n);
}

#define NEXT(name, result, ...)                                                                    \
    static result (*next)(__VA_ARGS__);                                                            \
    if (next == NULL)                                                                              \
    find_next(name, (void *)&next, sizeof next)

/* The answer to a call that is not let through or, when it is, `made` (-1: failed). */
#define GUARDED(call, path, failed, ...)                                                           \
    do {                                                                                           \
        shim_lock();                                                                               \
        const enum shim_action action = shim_before(call, path);                                   \
        if (action == SHIM_FAIL) {                                                                 \
            shim_unlock();                                                                         \
            return failed;                                                                         \
        }                                                                                          \
        const bool cut = action == SHIM_SHORT;                                                     \
        (void)cut;                                                                                 \
        __VA_ARGS__                                                                                \
        shim_after();                                                                              \
        shim_unlock();                                                                             \
    } while (0)

/* ---- open and close ---- */

static int open_at(int folder, const char *path, int flags, mode_t mode)
{
    char name[4096];
    if (!shim_is_under(folder, path, name))
        return (int)syscall(SYS_openat, folder, path, flags, mode);
    const bool makes = (flags & (O_CREAT | O_TRUNC)) != 0;
    int fd = -1;
    GUARDED(makes ? FAULT_create : FAULT_open, name, -1, {
        struct stat st;
        const bool was = syscall(SYS_newfstatat, folder, path, &st, 0) == 0;
        fd = (int)syscall(SYS_openat, folder, path, flags, mode);
        if (fd >= 0) {
            shim_track(fd, name);
            shim_log(SHIM_OPENED, name, NULL, fd, !was, NULL, 0);
            if (was && (flags & O_TRUNC) != 0)
                shim_log(SHIM_CUT, NULL, NULL, fd, 0, NULL, 0);
        }
    });
    return fd;
}

static mode_t mode_of(int flags, va_list args)
{
    return (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        const mode_t mode = mode_of(flags, args);                                                  \
        va_end(args);                                                                              \
        return open_at(AT_FDCWD, path, flags, mode);                                               \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int folder, const char *path, int flags, ...)                                         \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        const mode_t mode = mode_of(flags, args);                                                  \
        va_end(args);                                                                              \
        return open_at(folder, path, flags, mode);                                                 \
    }
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

/* Linux gives the descriptor back even where close fails. */
int close(int fd)
{
    const char *path = shim_path(fd);
    if (path == NULL)
        return (int)syscall(SYS_close, fd);
    int result = 0;
    shim_lock();
    const enum shim_action action = shim_before(FAULT_close, path);
    const int why = errno;
    shim_forget(fd);
    result = (int)syscall(SYS_close, fd);
    if (action == SHIM_FAIL) {
        errno = why;
        result = -1;
    }
    shim_after();
    shim_unlock();
    return result;
}

/* ---- read and write ---- */

ssize_t read(int fd, void *data, size_t n)
{
    const char *path = shim_path(fd);
    if (path == NULL)
        return syscall(SYS_read, fd, data, n);
    ssize_t got = -1;
    GUARDED(FAULT_read, path, -1, { got = syscall(SYS_read, fd, data, cut && n > 0 ? 1 : n); });
    return got;
}

static ssize_t pread_at(int fd, void *data, size_t n, off_t at)
{
    const char *path = shim_path(fd);
    if (path == NULL)
        return syscall(SYS_pread64, fd, data, n, at);
    ssize_t got = -1;
    GUARDED(FAULT_read, path, -1,
            { got = syscall(SYS_pread64, fd, data, cut && n > 0 ? 1 : n, at); });
    return got;
}

ssize_t pread(int fd, void *data, size_t n, off_t at)
{
    return pread_at(fd, data, n, at);
}

ssize_t pread64(int fd, void *data, size_t n, off_t at)
{
    return pread_at(fd, data, n, at);
}

/* at < 0: where the descriptor is. */
static ssize_t write_at(int fd, const void *data, size_t n, off_t at)
{
    const char *path = shim_path(fd);
    ssize_t put = -1;
    if (path == NULL)
        return at < 0 ? syscall(SYS_write, fd, data, n) : syscall(SYS_pwrite64, fd, data, n, at);
    GUARDED(FAULT_write, path, -1, {
        const size_t most = cut && n > 0 ? 1 : n;
        put =
            at < 0 ? syscall(SYS_write, fd, data, most) : syscall(SYS_pwrite64, fd, data, most, at);
        const off_t end = at < 0 ? syscall(SYS_lseek, fd, 0L, SEEK_CUR) : at + put;
        if (put > 0)
            shim_log(SHIM_WROTE, NULL, NULL, fd, end - put, data, (size_t)put);
    });
    return put;
}

ssize_t write(int fd, const void *data, size_t n)
{
    return write_at(fd, data, n, -1);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    return write_at(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at)
{
    return write_at(fd, data, n, at);
}

/* As far as the first piece: a short count, which the caller must take as it is. */
ssize_t writev(int fd, const struct iovec *pieces, int n_piece)
{
    if (shim_path(fd) == NULL)
        return syscall(SYS_writev, fd, pieces, n_piece);
    return n_piece > 0 ? write_at(fd, pieces[0].iov_base, pieces[0].iov_len, -1) : 0;
}

static int sync_file(int fd, long number)
{
    const char *path = shim_path(fd);
    int result = -1;
    if (path == NULL)
        return (int)syscall(number, fd);
    GUARDED(FAULT_sync, path, -1, {
        result = (int)syscall(number, fd);
        if (result == 0)
            shim_log(SHIM_SYNCED, NULL, NULL, fd, 0, NULL, 0);
    });
    return result;
}

int fsync(int fd)
{
    return sync_file(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_file(fd, SYS_fdatasync);
}

static int cut_file(int fd, off_t length)
{
    const char *path = shim_path(fd);
    int result = -1;
    if (path == NULL)
        return (int)syscall(SYS_ftruncate, fd, length);
    GUARDED(FAULT_truncate, path, -1, {
        result = (int)syscall(SYS_ftruncate, fd, length);
        if (result == 0)
            shim_log(SHIM_CUT, NULL, NULL, fd, length, NULL, 0);
    });
    return result;
}

int ftruncate(int fd, off_t length)
{
    return cut_file(fd, length);
}

int ftruncate64(int fd, off_t length)
{
    return cut_file(fd, length);
}

static void *map_file(void *at, size_t n, int protection, int flags, int fd, off_t from)
{
    const char *path = (flags & MAP_ANONYMOUS) != 0 ? NULL : shim_path(fd);
    void *result = MAP_FAILED;
    if (path == NULL)
        return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, from);
    if ((protection & PROT_WRITE) != 0 && (flags & MAP_SHARED) != 0)
        abort(); /* what is written by memory alone is not in the log */
    GUARDED(FAULT_map, path, MAP_FAILED,
            { result = (void *)syscall(SYS_mmap, at, n, protection, flags, fd, from); });
    return result;
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t from)
{
    return map_file(at, n, protection, flags, fd, from);
}

void *mmap64(void *at, size_t n, int protection, int flags, int fd, off_t from)
{
    return map_file(at, n, protection, flags, fd, from);
}

int flock(int fd, int operation)
{
    const char *path = shim_path(fd);
    int result = -1;
    if (path == NULL)
        return (int)syscall(SYS_flock, fd, operation);
    GUARDED(FAULT_lock, path, -1, { result = (int)syscall(SYS_flock, fd, operation); });
    return result;
}

/* ---- names ---- */

static int rename_at(int from_folder, const char *from, int to_folder, const char *to,
                     unsigned flags)
{
    char a[4096], b[4096];
    const bool under = shim_is_under(from_folder, from, a);
    if (!shim_is_under(to_folder, to, b) && !under)
        return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    int result = -1;
    GUARDED(FAULT_rename, b, -1, {
        result = (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
        if (result == 0)
            shim_log(SHIM_RENAMED, a, b, -1, flags, NULL, 0);
    });
    return result;
}

int rename(const char *from, const char *to)
{
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return rename_at(from_folder, from, to_folder, to, 0);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    return rename_at(from_folder, from, to_folder, to, flags);
}

static int unlink_at(int folder, const char *path, int flags)
{
    char name[4096];
    if (!shim_is_under(folder, path, name))
        return (int)syscall(SYS_unlinkat, folder, path, flags);
    int result = -1;
    GUARDED(FAULT_unlink, name, -1, {
        result = (int)syscall(SYS_unlinkat, folder, path, flags);
        if (result == 0)
            shim_log(SHIM_UNLINKED, name, NULL, -1, 0, NULL, 0);
    });
    return result;
}

int unlink(const char *path)
{
    return unlink_at(AT_FDCWD, path, 0);
}

int unlinkat(int folder, const char *path, int flags)
{
    return unlink_at(folder, path, flags);
}

int rmdir(const char *path)
{
    return unlink_at(AT_FDCWD, path, AT_REMOVEDIR);
}

int remove(const char *path)
{
    const int result = unlink_at(AT_FDCWD, path, 0);
    return result != 0 && errno == EISDIR ? rmdir(path) : result;
}

static int make_at(int folder, const char *path, mode_t mode)
{
    char name[4096];
    if (!shim_is_under(folder, path, name))
        return (int)syscall(SYS_mkdirat, folder, path, mode);
    int result = -1;
    GUARDED(FAULT_mkdir, name, -1, {
        result = (int)syscall(SYS_mkdirat, folder, path, mode);
        if (result == 0)
            shim_log(SHIM_MADE, name, NULL, -1, 0, NULL, 0);
    });
    return result;
}

int mkdir(const char *path, mode_t mode)
{
    return make_at(AT_FDCWD, path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    return make_at(folder, path, mode);
}

/* ---- looking ---- */

static int stat_at(int folder, const char *path, struct stat *st, int flags)
{
    char name[4096];
    if (!shim_is_under(folder, path, name))
        return (int)syscall(SYS_newfstatat, folder, path, st, flags);
    int result = -1;
    GUARDED(FAULT_stat, name, -1,
            { result = (int)syscall(SYS_newfstatat, folder, path, st, flags); });
    return result;
}

int stat(const char *path, struct stat *st)
{
    return stat_at(AT_FDCWD, path, st, 0);
}

int lstat(const char *path, struct stat *st)
{
    return stat_at(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
}

int fstatat(int folder, const char *path, struct stat *st, int flags)
{
    return stat_at(folder, path, st, flags);
}

int fstat(int fd, struct stat *st)
{
    const char *path = shim_path(fd);
    int result = -1;
    if (path == NULL)
        return (int)syscall(SYS_fstat, fd, st);
    GUARDED(FAULT_stat, path, -1, { result = (int)syscall(SYS_fstat, fd, st); });
    return result;
}

int access(const char *path, int mode)
{
    char name[4096];
    int result = -1;
    if (!shim_is_under(AT_FDCWD, path, name))
        return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
    GUARDED(FAULT_stat, name, -1, { result = (int)syscall(SYS_faccessat, AT_FDCWD, path, mode); });
    return result;
}

int statvfs(const char *path, struct statvfs *out)
{
    NEXT("statvfs", int, const char *, struct statvfs *);
    char name[4096];
    int result = -1;
    if (!shim_is_under(AT_FDCWD, path, name))
        return next(path, out);
    GUARDED(FAULT_space, name, -1, { result = next(path, out); });
    return result;
}

DIR *opendir(const char *path)
{
    NEXT("opendir", DIR *, const char *);
    char name[4096];
    DIR *result = NULL;
    if (!shim_is_under(AT_FDCWD, path, name))
        return next(path);
    GUARDED(FAULT_list, name, NULL, { result = next(path); });
    return result;
}

DIR *fdopendir(int fd)
{
    NEXT("fdopendir", DIR *, int);
    const char *path = shim_path(fd);
    DIR *result = NULL;
    if (path == NULL)
        return next(fd);
    GUARDED(FAULT_list, path, NULL, { result = next(fd); });
    return result;
}

/* Which folder it is is not known: all count that are read while some are under test. */
struct dirent *readdir(DIR *folder)
{
    NEXT("readdir", struct dirent *, DIR *);
    struct dirent *result = NULL;
    GUARDED(FAULT_list, "a folder", NULL, { result = next(folder); });
    return result;
}

/* ---- streams ---- */

enum { MAX_STREAM = 64 };
static struct {
    FILE *file;
    int fd;
} streams[MAX_STREAM];

static int fd_of(void *cookie)
{
    return (int)(intptr_t)cookie;
}

static ssize_t stream_read(void *cookie, char *data, size_t n)
{
    return read(fd_of(cookie), data, n);
}

static ssize_t stream_write(void *cookie, const char *data, size_t n)
{
    const ssize_t put = write(fd_of(cookie), data, n);
    return put < 0 ? 0 : put; /* fopencookie's word for an error */
}

static int stream_seek(void *cookie, off64_t *at, int whence)
{
    *at = syscall(SYS_lseek, fd_of(cookie), *at, whence);
    return *at < 0 ? -1 : 0;
}

static int stream_close(void *cookie)
{
    for (int i = 0; i < MAX_STREAM; i++) {
        if (streams[i].file != NULL && streams[i].fd == fd_of(cookie))
            streams[i].file = NULL;
    }
    return close(fd_of(cookie));
}

static FILE *stream_of(int fd, const char *mode)
{
    FILE *file = fopencookie((void *)(intptr_t)fd, mode,
                             (cookie_io_functions_t){ .read = stream_read,
                                                      .write = stream_write,
                                                      .seek = stream_seek,
                                                      .close = stream_close });
    for (int i = 0; file != NULL && i < MAX_STREAM; i++) {
        if (streams[i].file == NULL) {
            streams[i].file = file;
            streams[i].fd = fd;
            return file;
        }
    }
    abort();
}

FILE *fopen(const char *path, const char *mode)
{
    NEXT("fopen", FILE *, const char *, const char *);
    char name[4096];
    if (!shim_is_under(AT_FDCWD, path, name))
        return next(path, mode);
    const bool plus = strchr(mode, '+') != NULL;
    const int flags = (plus             ? O_RDWR
                       : mode[0] == 'r' ? O_RDONLY
                                        : O_WRONLY) |
                      (mode[0] == 'w'   ? O_CREAT | O_TRUNC
                       : mode[0] == 'a' ? O_CREAT | O_APPEND
                                        : 0);
    const int fd = open_at(AT_FDCWD, path, flags, 0666);
    return fd >= 0 ? stream_of(fd, mode) : NULL;
}

FILE *fdopen(int fd, const char *mode)
{
    NEXT("fdopen", FILE *, int, const char *);
    return shim_path(fd) != NULL ? stream_of(fd, mode) : next(fd, mode);
}

int fileno(FILE *file)
{
    NEXT("fileno", int, FILE *);
    for (int i = 0; i < MAX_STREAM; i++) {
        if (streams[i].file == file)
            return streams[i].fd;
    }
    return next(file);
}

/* ---- what the log cannot hold ---- */

int posix_fallocate(int fd, off_t from, off_t n)
{
    (void)from;
    (void)n;
    return shim_path(fd) == NULL ? EOPNOTSUPP : (abort(), 0);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t n,
                        unsigned flags)
{
    (void)from_at;
    (void)to_at;
    (void)n;
    (void)flags;
    if (shim_path(from) != NULL || shim_path(to) != NULL)
        abort();
    errno = ENOSYS;
    return -1;
}
