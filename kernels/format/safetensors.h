/* The safetensors container: u64 header length, JSON header, tensor bytes (format of the
 * safetensors project, https://github.com/huggingface/safetensors). Knows nothing of LoRA or Jamba.
 *
 *     struct safetensors st = { 0 };
 *     if (!safetensors_open(path, &st, err)) ...
 *     const struct safetensors_tensor *t = safetensors_find(&st, "model.embed_tokens.weight");
 *     safetensors_close(&st);
 */
#ifndef KERNELS_FORMAT_SAFETENSORS_H
#define KERNELS_FORMAT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/core/file.h"

enum {
    SAFETENSORS_MAX_DIM = 8,
    SAFETENSORS_MAX_NAME = 1024,        /* bytes of a tensor's name */
    SAFETENSORS_MAX_HEADER = 100000000, /* bytes, the reference's limit */
};

struct safetensors_tensor {
    const char *name;
    enum dtype dtype;
    int n_dim;
    int64_t dims[SAFETENSORS_MAX_DIM];
    const void *data; /* inside the mapping (any alignment); NULL when bytes is 0 */
    size_t bytes;
};

struct safetensors {
    struct file_map map;
    struct safetensors_tensor *tensors; /* sorted by name */
    int64_t n_tensor;
    void *header;   /* owns the names */
    void *metadata; /* a json_t */
};

/* Maps and checks the whole header as the reference reader does (contiguous, no overlap, no hole,
 * sizes equal to shape times type, ...), and refuses what that lets through and nobody writes:
 * duplicate names, names with control characters. Types it does not know are an error. On failure
 * *st is zeroed. */
bool safetensors_open(const char *path, struct safetensors *st, struct err *err);
void safetensors_close(struct safetensors *st);

/* NULL when there is no such tensor. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *st, const char *name);

/* A text of the file's "__metadata__", or NULL; owned by st. */
const char *safetensors_metadata(const struct safetensors *st, const char *key);

/* Holds the file's content against the digest in its metadata (SAFETENSORS_DIGEST); a file without
 * one passes. Reads all of it. */
bool safetensors_check_digest(const struct safetensors *st, const char *path, struct err *err);

/* "(8192, 16)", "()": a shape for messages, cut to fit. */
void safetensors_shape_text(char out[64], const int64_t *dims, int n_dim);

/* Writes the tensors (data read from .data) with metadata {"format": "pt"}, whole or not at all.
 * Tensors are laid out by alignment, then name. Names must differ, bytes be the shape's. */
bool safetensors_write(const char *path, const struct safetensors_tensor *tensors, int64_t n_tensor,
                       struct err *err);

/* The same with further metadata: UTF-8 texts under keys other than "format".
 *
 * The format itself has no checksum: a flipped bit of a weight loads without a word. A note with
 * the key SAFETENSORS_DIGEST and no value becomes the SHA-256 of everything that the file says: of
 * each other metadata text by key, "key\0value\0"; then of each tensor by name, "name\0type\0
 * (dims)\0", the shape as safetensors_shape_text has it, and its bytes. */
#define SAFETENSORS_DIGEST "sha256"

struct safetensors_note {
    const char *key, *value;
};

bool safetensors_write_notes(const char *path, const struct safetensors_tensor *tensors,
                             int64_t n_tensor, const struct safetensors_note *notes, int n_note,
                             struct err *err);

/* The same for a file of which only a piece is ever in memory: the header first, then the data in
 * any order, by any number of threads at once.
 *
 *     struct safetensors_writer w = { 0 };
 *     ok = safetensors_writer_open(&w, path, tensors, n, err) &&
 *          safetensors_writer_put(&w, i, 0, data, bytes, err) && ... &&
 *          safetensors_writer_commit(&w, err);
 *     safetensors_writer_abandon(&w);     // nothing after a commit; else removes what was written
 */
struct safetensors_writer {
    struct file_writer file;
    size_t *begin; /* (n_tensor + 1): where the tensors' data begin in the file, and its size */
    int64_t n_tensor;
};

/* Writes the header for tensors laid out in the order given (their data is not looked at), with the
 * metadata of safetensors_write. Refuses a path that is there and no regular file. */
bool safetensors_writer_open(struct safetensors_writer *w, const char *path,
                             const struct safetensors_tensor *tensors, int64_t n_tensor,
                             struct err *err);

/* n bytes of tensor `index`, from byte `at` of its data on. All of them must be put before the
 * commit. */
bool safetensors_writer_put(const struct safetensors_writer *w, int64_t index, size_t at,
                            const void *bytes, size_t n, struct err *err);

/* The file as it is written before the commit, to be read back; owned by w. */
const char *safetensors_writer_temporary(const struct safetensors_writer *w);

bool safetensors_writer_commit(struct safetensors_writer *w, struct err *err);
void safetensors_writer_abandon(struct safetensors_writer *w);

/* Bytes of the file that such tensors make, header included; 0 when memory is out. */
size_t safetensors_file_bytes(const struct safetensors_tensor *tensors, int64_t n_tensor);

#endif
