/* The GGUF container, version 3 (ggml's docs/gguf.md): typed key-values, tensor descriptions,
 * tensor data. Knows nothing of LoRA or Jamba.
 *
 *     struct gguf g = { 0 };
 *     if (!gguf_open(path, &g, err)) ...
 *     const struct gguf_tensor *t = gguf_find(&g, "token_embd.weight");
 *     gguf_close(&g);
 *
 *     struct gguf_writer w = { 0 };
 *     gguf_put_string(&w, "general.architecture", "jamba", 5);
 *     ok = gguf_add_tensor(&w, "x", DTYPE_F32, 2, dims, err) && ... &&
 *          gguf_begin(&w, path, err) && gguf_data(&w, bytes, n, err) && ... && gguf_commit(&w,
 * err); gguf_abandon(&w); // nothing after a commit but memory
 *
 * Shapes are row-major, outermost first, as everywhere in this program; the file has them the other
 * way round (ggml's ne).
 */
#ifndef KERNELS_FORMAT_GGUF_H
#define KERNELS_FORMAT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"

enum {
    GGUF_MAX_DIM = 4,
    GGUF_NAME_SIZE = 64, /* of a tensor, with its terminator: ggml refuses longer ones */
    GGUF_ALIGNMENT = 32, /* what is written; a file may say another */
};

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT,
};

/* A key and its value, both inside the file's bytes and not terminated. */
struct gguf_kv {
    const char *key;
    size_t key_n;
    enum gguf_type type;
    enum gguf_type element; /* of an array */
    uint64_t n;             /* elements of an array, bytes of a string, else 1 */
    const uint8_t *data;    /* little-endian */
    size_t bytes;
};

struct gguf_tensor {
    char name[GGUF_NAME_SIZE];
    enum dtype dtype;
    int n_dim;
    int64_t dims[GGUF_MAX_DIM];
    const uint8_t *data; /* inside the file's bytes; NULL when bytes is 0 */
    size_t bytes;
};

struct gguf {
    struct file_map map; /* empty when the bytes are the caller's */
    struct gguf_kv *kvs; /* in the file's order, as are tensors */
    int64_t n_kv;
    struct gguf_tensor *tensors;
    int64_t n_tensor;
    const struct gguf_tensor **by_name;
    const struct gguf_kv **by_key;
};

/* ---- reading ---- */

/* Maps the file and checks all of its header before any of it is used: every length and count
 * against the bytes that are there, keys and names against duplicates, offsets against the one
 * layout that ggml takes. Quantized tensors are refused: nothing here could use one. On failure *g
 * is zeroed. */
bool gguf_open(const char *path, struct gguf *g, struct err *err);

/* The same for bytes[0..n), which must outlive g; `place` starts the messages. */
bool gguf_read(const void *bytes, size_t n, const char *place, struct gguf *g, struct err *err);
void gguf_close(struct gguf *g);

/* NULL when there is none. */
const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name);
const struct gguf_kv *gguf_key(const struct gguf *g, const char *key);

/* The value of that key; false when it is missing or of another type. */
bool gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out);
bool gguf_get_f32(const struct gguf *g, const char *key, float *out);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_get_string(const struct gguf *g, const char *key, const char **out, size_t *n);

/* Whether that key is there as a string of this value. */
bool gguf_says(const struct gguf *g, const char *key, const char *value);

/* The strings of an array, one after the other: begin with *at = 0, until false. */
bool gguf_next_string(const struct gguf_kv *kv, size_t *at, const char **out, size_t *n);

/* ---- writing ---- */

struct gguf_writer {
    struct text keys, infos; /* encoded */
    uint64_t n_key, n_tensor;
    size_t *bytes; /* (n_tensor) of each tensor */
    size_t cap, offset;
    struct file_writer file;
    uint64_t at; /* the tensor being written, and what is still to come of it */
    size_t left;
    bool failed; /* out of memory, told by gguf_begin */
};

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_put_f32(struct gguf_writer *w, const char *key, float value);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_put_string(struct gguf_writer *w, const char *key, const char *value, size_t n);

/* An array of n elements, which follow one by one. */
void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type element, uint64_t n);
void gguf_item_i32(struct gguf_writer *w, int32_t value);
void gguf_item_string(struct gguf_writer *w, const char *value, size_t n);

/* The next tensor: F32, F16 or BF16. Errors: a name that ggml would refuse, a size that does not
 * fit. */
bool gguf_add_tensor(struct gguf_writer *w, const char *name, enum dtype dtype, int n_dim,
                     const int64_t *dims, struct err *err);

/* Opens a temporary file beside path and writes everything before the data. */
bool gguf_begin(struct gguf_writer *w, const char *path, struct err *err);

/* More of the tensors' data, in their order and without padding; never across the end of one. */
bool gguf_data(struct gguf_writer *w, const void *bytes, size_t n, struct err *err);

/* Where the file lies until it is committed, to be read back; NULL when path is no regular file. */
const char *gguf_uncommitted(const struct gguf_writer *w);

/* All data must be there. fsync and rename: path then has the whole file, or what it had before. */
bool gguf_commit(struct gguf_writer *w, struct err *err);

/* Removes the temporary file, if it is still there, and frees. */
void gguf_abandon(struct gguf_writer *w);

#endif
