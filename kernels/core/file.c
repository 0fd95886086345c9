#include "kernels/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "kernels/core/text.h"

static int open_regular(const char *path, size_t *size, struct err *err)
{
    /* O_NONBLOCK: a FIFO without a writer must not hang the open. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        err_set(err, file_error(ERR_NO_INPUT), "%s: %s", path, strerror(errno));
        return -1;
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        close(fd);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        err_set(err, ERR_NO_INPUT, "%s: is %s; expected a regular file", path,
                S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
        close(fd);
        return -1;
    }
    *size = (size_t)st.st_size;
    return fd;
}

bool file_map_open(const char *path, struct file_map *map, struct err *err)
{
    size_t size = 0;
    const int fd = open_regular(path, &size, err);
    if (fd < 0)
        return false;
    *map = (struct file_map){ 0 };
    if (size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            const int why = errno;
            close(fd);
            return err_set(err, why == ENOMEM ? ERR_NO_MEMORY : ERR_IO, "%s: cannot be mapped: %s",
                           path, strerror(why));
        }
        *map = (struct file_map){ .data = data, .size = size };
    }
    close(fd);
    return true;
}

void file_map_close(struct file_map *map)
{
    if (map->data != NULL)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){ 0 };
}

bool file_read(const char *path, size_t limit, char **data, size_t *size, struct err *err)
{
    *data = NULL;
    *size = 0;
    size_t n = 0;
    const int fd = open_regular(path, &n, err);
    if (fd < 0)
        return false;
    if (n > limit) {
        close(fd);
        return err_set(err, ERR_DATA, "%s: has %zu bytes; at most %zu are expected", path, n,
                       limit);
    }
    char *bytes = malloc(n + 1);
    if (bytes == NULL) {
        close(fd);
        return err_no_memory(err, path);
    }
    size_t have = 0;
    while (have < n) {
        const ssize_t got = read(fd, bytes + have, n - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            err_set(err, ERR_IO, "%s: %s", path, got < 0 ? strerror(errno) : "ended early");
            free(bytes);
            close(fd);
            return false;
        }
        have += (size_t)got;
    }
    close(fd);
    bytes[n] = '\0';
    *data = bytes;
    *size = n;
    return true;
}

void file_read_start(const char *path, char *out, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd >= 0 ? read(fd, out, size - 1) : 0;
    out[n > 0 ? n : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

bool file_sync_folder(const char *path, struct err *err)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok && fd >= 0 && errno == EINVAL) /* a file system that cannot sync folders */
        ok = true;
    if (!ok)
        err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool sync_folder_of(const char *path, struct err *err)
{
    char *folder = file_folder(path);
    const bool ok = folder != NULL ? file_sync_folder(folder, err) : err_no_memory(err, path);
    free(folder);
    return ok;
}

bool file_check_space(const char *folder, size_t bytes, struct err *err)
{
    struct statvfs fs;
    if (statvfs(folder, &fs) != 0)
        return err_set(err, ERR_IO, "%s: %s", folder, strerror(errno));
    const double left = (double)fs.f_bavail * (double)fs.f_frsize;
    if (left >= (double)bytes)
        return true;
    char needed[32], have[32];
    text_bytes(needed, (double)bytes);
    text_bytes(have, left);
    return err_set(err, ERR_IO, "%s: the disk has %s left, needed are %s; make room", folder, have,
                   needed);
}

/* Whether path is there as something that must not be replaced: a device, a pipe, a terminal. */
static bool is_special(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

bool file_writer_open(struct file_writer *w, const char *path, struct err *err)
{
    const bool direct = is_special(path);
    *w = (struct file_writer){ .fd = -1, .is_open = true };
    if (file_resolve(path, &w->path, err) && w->path == NULL)
        w->path = text_copy(path);
    if (w->path != NULL && !direct)
        w->temporary = text_format("%s.tmp.%ld", w->path, (long)getpid());
    if (w->path == NULL || (w->temporary == NULL && !direct)) {
        file_writer_abandon(w);
        return err_no_memory(err, path);
    }
    w->fd = direct ? open(path, O_WRONLY | O_CLOEXEC)
                   : open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", path, strerror(errno));
        file_writer_abandon(w);
        return false;
    }
    return true;
}

bool file_writer_append(struct file_writer *w, const void *data, size_t size, struct err *err)
{
    const char *bytes = data;
    while (size > 0) {
        const ssize_t put = write(w->fd, bytes, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_set(err, ERR_IO, "%s: cannot be written: %s", w->path, strerror(errno));
        bytes += put;
        size -= (size_t)put;
    }
    return true;
}

bool file_writer_commit(struct file_writer *w, struct err *err)
{
    const bool direct = w->temporary == NULL;
    bool ok = direct || fsync(w->fd) == 0;
    ok = close(w->fd) == 0 && ok;
    w->fd = -1;
    ok = ok && (direct || rename(w->temporary, w->path) == 0);
    if (!ok) {
        err_set(err, ERR_IO, "%s: cannot be written: %s", w->path, strerror(errno));
    } else if (!direct) {
        free(w->temporary); /* renamed: nothing is left to remove */
        w->temporary = NULL;
        ok = sync_folder_of(w->path, err);
    }
    file_writer_abandon(w);
    return ok;
}

void file_writer_abandon(struct file_writer *w)
{
    if (!w->is_open)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->temporary != NULL)
        unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    *w = (struct file_writer){ .fd = -1 };
}

bool file_write(const char *path, const void *data, size_t size, struct err *err)
{
    struct file_writer w = { 0 };
    const bool ok = file_writer_open(&w, path, err) && file_writer_append(&w, data, size, err) &&
                    file_writer_commit(&w, err);
    file_writer_abandon(&w);
    return ok;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0 ||
           (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG);
}

enum err_code file_error(enum err_code otherwise)
{
    return errno == ENOMEM ? ERR_NO_MEMORY : otherwise;
}

const char *file_next_name(DIR *folder, const char *path, bool *ok, struct err *err)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (entry == NULL) {
            *ok = errno == 0 ||
                  err_set(err, file_error(ERR_IO), "%s: cannot be read: %s", path, strerror(errno));
            return NULL;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return entry->d_name;
    }
}

bool file_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Its name is on the disk, so that what is synced in it can be found. Where the folder around it
 * may not be read, that is as far as it goes. */
static bool make_one(const char *path, struct err *err)
{
    if (mkdir(path, 0777) != 0)
        return (errno == EEXIST && file_is_directory(path)) ||
               err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", path, strerror(errno));
    char *folder = file_folder(path);
    const bool ok = folder != NULL ? access(folder, R_OK) != 0 || file_sync_folder(folder, err)
                                   : err_no_memory(err, path);
    free(folder);
    return ok;
}

bool file_make_directory(const char *path, struct err *err)
{
    char *copy = text_copy(path);
    if (copy == NULL)
        return err_no_memory(err, path);
    bool ok = true;
    for (char *p = copy + 1; ok && *copy != '\0'; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        const char end = *p;
        *p = '\0';
        ok = make_one(copy, err);
        *p = end;
        if (end == '\0')
            break;
    }
    free(copy);
    return ok;
}

char *file_join(const char *folder, const char *name)
{
    if (name[0] == '/')
        return text_copy(name);
    const size_t n = strlen(folder);
    return text_format("%s%s%s", folder, n > 0 && folder[n - 1] == '/' ? "" : "/", name);
}

bool file_resolve(const char *path, char **out, struct err *err)
{
    *out = realpath(path, NULL);
    return *out != NULL || errno != ENOMEM || err_no_memory(err, path);
}

char *file_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return text_copy(".");
    return slash == path ? text_copy("/") : text_copy_n(path, (size_t)(slash - path));
}
