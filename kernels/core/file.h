/* Files: mapped or read whole, and written whole or not at all.
 *
 *     struct file_map map = { 0 };
 *     if (!file_map_open(path, &map, err)) ...
 *     ... map.data, map.size ...
 *     file_map_close(&map);
 */
#ifndef KERNELS_CORE_FILE_H
#define KERNELS_CORE_FILE_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/err.h"

/* A regular file mapped read-only. An empty file has data NULL and size 0. */
struct file_map {
    const uint8_t *data;
    size_t size;
};

/* Errors: not there, not readable, not a regular file (a directory, a FIFO, a device). */
bool file_map_open(const char *path, struct file_map *map, struct err *err);
void file_map_close(struct file_map *map);

/* The whole file as terminated bytes, caller frees; at most `limit` bytes, else an error. */
bool file_read(const char *path, size_t limit, char **data, size_t *size, struct err *err);

/* How a small file of /proc or /sys begins, as terminated text of fewer than `size` bytes; "" where
 * it cannot be read. Allocates nothing. */
void file_read_start(const char *path, char *out, size_t size);

/* Writes data to path by way of a temporary file in the same folder: write, fsync, rename, fsync of
 * the folder. Afterwards path holds all of data, or what it held before. */
bool file_write(const char *path, const void *data, size_t size, struct err *err);

/* The same for a file written in pieces: open, any number of appends, then commit or abandon.
 *     struct file_writer w = { 0 };
 *     ok = file_writer_open(&w, path, err) && file_writer_append(&w, ...) && file_writer_commit(&w,
 * err); file_writer_abandon(&w);     // nothing after a commit; else removes the temporary file
 */
struct file_writer {
    int fd; /* -1 when closed */
    bool is_open;
    char *path, *temporary;
};

bool file_writer_open(struct file_writer *w, const char *path, struct err *err);
bool file_writer_append(struct file_writer *w, const void *data, size_t size, struct err *err);
bool file_writer_commit(struct file_writer *w, struct err *err);
void file_writer_abandon(struct file_writer *w);

/* fsync of a folder: names made, renamed and removed in it are on the disk. */
bool file_sync_folder(const char *path, struct err *err);

/* Whether the file system of a folder has so many bytes left for this user; ERR_IO when it has
 * not. */
bool file_check_space(const char *folder, size_t bytes, struct err *err);

/* False where nothing is there. Where that cannot be told it is true: opening it says why. */
bool file_exists(const char *path);
bool file_is_directory(const char *path);

/* mkdir -p; the names made are synced. */
bool file_make_directory(const char *path, struct err *err);

/* ERR_NO_MEMORY where errno says that memory is out, else the other. */
enum err_code file_error(enum err_code otherwise);

/* The next name in an open folder but "." and ".."; NULL at the end, and with *ok false where it
 * cannot be read. path is for the message. */
const char *file_next_name(DIR *folder, const char *path, bool *ok, struct err *err);

/* folder/name, or name when it is absolute; NULL when memory is out; caller frees. */
char *file_join(const char *folder, const char *name);

/* Where path leads, through symbolic links, into *out, which the caller frees; NULL where nothing
 * is there. False when memory is out. */
bool file_resolve(const char *path, char **out, struct err *err);

/* The folder part of path ("." when it has none); caller frees. */
char *file_folder(const char *path);

#endif
