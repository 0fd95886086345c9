/* A folder held in memory: read, written back, compared, removed. What fails here is the test's own
 * trouble and ends it.
 *
 *     struct tree t = { 0 };
 *     tree_read(&t, folder);
 *     const struct tree_file *f = tree_find(&t, "best/adapter_model.safetensors");
 *     tree_free(&t);
 */
#ifndef TESTS_FAULT_TREE_H
#define TESTS_FAULT_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tree_file {
    char *name; /* below the folder; sorted by it */
    bool is_folder;
    char *data;
    size_t size;
};

struct tree {
    struct tree_file *files;
    size_t n, cap;
};

/* A folder that is not there is an empty tree. */
void tree_read(struct tree *t, const char *folder);
void tree_write(const struct tree *t, const char *folder);
void tree_free(struct tree *t);

/* A file's bytes (data NULL: a folder), copied; replaces one of that name. */
void tree_put(struct tree *t, const char *name, const void *data, size_t size);
const struct tree_file *tree_find(const struct tree *t, const char *name);

/* Whether both have the file, with the same bytes. */
bool tree_same_file(const struct tree *a, const struct tree *b, const char *name);

/* rm -rf. */
void tree_remove(const char *folder);

/* Malloc and text that cannot fail; prints and exits. */
void *tree_alloc(size_t n);
char *tree_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tree_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A whole file; and a file written whole. */
char *tree_load(const char *path, size_t *size);
void tree_save(const char *path, const void *data, size_t size);

#endif
