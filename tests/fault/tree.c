#include "tests/fault/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void tree_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    exit(99);
}

void *tree_alloc(size_t n)
{
    void *p = calloc(1, n > 0 ? n : 1);
    if (p == NULL)
        tree_die("the test is out of memory");
    return p;
}

char *tree_text(const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        tree_die("a text cannot be formatted");
    char *text = tree_alloc((size_t)n + 1);
    vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

char *tree_load(const char *path, size_t *size)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        tree_die("%s: %s", path, strerror(errno));
    char *data = tree_alloc((size_t)st.st_size + 1);
    if (read(fd, data, (size_t)st.st_size) != st.st_size)
        tree_die("%s: cannot be read: %s", path, strerror(errno));
    close(fd);
    *size = (size_t)st.st_size;
    return data;
}

void tree_save(const char *path, const void *data, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size || close(fd) != 0)
        tree_die("%s: cannot be written: %s", path, strerror(errno));
}

/* ---- in memory ---- */

static size_t place_of(const struct tree *t, const char *name)
{
    size_t low = 0, high = t->n;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (strcmp(t->files[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct tree_file *tree_find(const struct tree *t, const char *name)
{
    const size_t i = place_of(t, name);
    return i < t->n && strcmp(t->files[i].name, name) == 0 ? &t->files[i] : NULL;
}

void tree_put(struct tree *t, const char *name, const void *data, size_t size)
{
    const size_t i = place_of(t, name);
    if (i == t->n || strcmp(t->files[i].name, name) != 0) {
        if (t->n == t->cap) {
            t->cap = t->cap * 2 + 16;
            struct tree_file *more = realloc(t->files, t->cap * sizeof *more);
            if (more == NULL)
                tree_die("the test is out of memory");
            t->files = more;
        }
        memmove(t->files + i + 1, t->files + i, (t->n - i) * sizeof *t->files);
        t->n++;
        t->files[i] = (struct tree_file){ .name = tree_text("%s", name) };
    }
    struct tree_file *f = &t->files[i];
    free(f->data);
    f->is_folder = data == NULL;
    f->size = size;
    f->data = tree_alloc(size + 1); /* terminated */
    if (size > 0)
        memcpy(f->data, data, size);
}

bool tree_same_file(const struct tree *a, const struct tree *b, const char *name)
{
    const struct tree_file *x = tree_find(a, name), *y = tree_find(b, name);
    return x != NULL && y != NULL && x->is_folder == y->is_folder && x->size == y->size &&
           memcmp(x->data, y->data, x->size) == 0;
}

void tree_free(struct tree *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->files[i].name);
        free(t->files[i].data);
    }
    free(t->files);
    *t = (struct tree){ 0 };
}

/* ---- on the disk ---- */

static void read_below(struct tree *t, const char *folder, const char *below)
{
    char *path = tree_text("%s%s%s", folder, *below != '\0' ? "/" : "", below);
    DIR *dir = opendir(path);
    if (dir == NULL && errno != ENOENT)
        tree_die("%s: %s", path, strerror(errno));
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *name = tree_text("%s%s%s", below, *below != '\0' ? "/" : "", e->d_name);
        char *file = tree_text("%s/%s", folder, name);
        struct stat st;
        if (lstat(file, &st) == 0 && S_ISDIR(st.st_mode)) {
            tree_put(t, name, NULL, 0);
            read_below(t, folder, name);
        } else {
            size_t size = 0;
            char *data = tree_load(file, &size);
            tree_put(t, name, data, size);
            free(data);
        }
        free(file);
        free(name);
    }
    if (dir != NULL)
        closedir(dir);
    free(path);
}

void tree_read(struct tree *t, const char *folder)
{
    tree_free(t);
    read_below(t, folder, "");
}

/* A folder comes before what is in it: its name is a prefix. */
void tree_write(const struct tree *t, const char *folder)
{
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        tree_die("%s: %s", folder, strerror(errno));
    for (size_t i = 0; i < t->n; i++) {
        char *path = tree_text("%s/%s", folder, t->files[i].name);
        if (!t->files[i].is_folder)
            tree_save(path, t->files[i].data, t->files[i].size);
        else if (mkdir(path, 0777) != 0 && errno != EEXIST)
            tree_die("%s: %s", path, strerror(errno));
        free(path);
    }
}

void tree_remove(const char *folder)
{
    struct stat st;
    if (lstat(folder, &st) != 0)
        return;
    if (!S_ISDIR(st.st_mode)) {
        unlink(folder);
        return;
    }
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *path = tree_text("%s/%s", folder, e->d_name);
        tree_remove(path);
        free(path);
    }
    if (dir != NULL)
        closedir(dir);
    if (rmdir(folder) != 0)
        tree_die("%s: cannot be removed: %s", folder, strerror(errno));
}
