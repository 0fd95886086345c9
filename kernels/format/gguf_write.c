/* Writer of GGUF files: the header is put together in memory, the data streams through. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/format/gguf.h"

/* ---- encoding ---- */

static void put_number(struct text *t, uint64_t value, int bytes)
{
    char out[8];
    for (int i = 0; i < bytes; i++)
        out[i] = (char)(unsigned char)(value >> (8 * i));
    text_append(t, out, (size_t)bytes);
}

static void put_bytes(struct text *t, const char *s, size_t n)
{
    put_number(t, n, 8);
    text_append(t, s, n);
}

static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
    put_bytes(&w->keys, key, strlen(key));
    put_number(&w->keys, type, 4);
    w->n_key++;
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    put_key(w, key, GGUF_U32);
    put_number(&w->keys, value, 4);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(w, key, GGUF_F32);
    put_number(&w->keys, bits, 4);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool value)
{
    put_key(w, key, GGUF_BOOL);
    put_number(&w->keys, value, 1);
}

void gguf_put_string(struct gguf_writer *w, const char *key, const char *value, size_t n)
{
    put_key(w, key, GGUF_STRING);
    put_bytes(&w->keys, value, n);
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type element, uint64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put_number(&w->keys, element, 4);
    put_number(&w->keys, n, 8);
}

void gguf_item_i32(struct gguf_writer *w, int32_t value)
{
    put_number(&w->keys, (uint32_t)value, 4);
}

void gguf_item_string(struct gguf_writer *w, const char *value, size_t n)
{
    put_bytes(&w->keys, value, n);
}

/* ---- tensors ---- */

static uint32_t type_number(enum dtype dtype)
{
    assert(dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16);
    return dtype == DTYPE_F32 ? 0 : dtype == DTYPE_F16 ? 1 : 30;
}

static size_t padding(size_t at)
{
    return (GGUF_ALIGNMENT - at % GGUF_ALIGNMENT) % GGUF_ALIGNMENT;
}

static bool too_large(const char *name, struct err *err)
{
    return err_set(err, ERR_DATA, "tensor '%s': is too large", name);
}

/* Room for one more size; out of memory is told by gguf_begin. */
static void add_size(struct gguf_writer *w, size_t bytes)
{
    if (w->n_tensor == w->cap) {
        const size_t cap = 2 * w->cap + 64;
        size_t *grown = realloc(w->bytes, cap * sizeof *grown);
        if (grown == NULL) {
            w->failed = true;
            return;
        }
        w->bytes = grown;
        w->cap = cap;
    }
    w->bytes[w->n_tensor++] = bytes;
}

bool gguf_add_tensor(struct gguf_writer *w, const char *name, enum dtype dtype, int n_dim,
                     const int64_t *dims, struct err *err)
{
    size_t bytes = dtype_size(dtype), end = 0;
    assert(n_dim >= 1 && n_dim <= GGUF_MAX_DIM);
    if (strlen(name) >= GGUF_NAME_SIZE)
        return err_set(err, ERR_DATA,
                       "tensor '%s': has a name of %zu bytes; GGUF files hold names of up to %d",
                       name, strlen(name), GGUF_NAME_SIZE - 1);
    put_bytes(&w->infos, name, strlen(name));
    put_number(&w->infos, (uint64_t)n_dim, 4);
    for (int i = n_dim - 1; i >= 0; i--) {
        put_number(&w->infos, (uint64_t)dims[i], 8);
        if (!size_mul(bytes, (size_t)dims[i], &bytes))
            return too_large(name, err);
    }
    put_number(&w->infos, type_number(dtype), 4);
    put_number(&w->infos, w->offset, 8);
    if (!size_add(w->offset, bytes, &end) || !size_add(end, padding(end), &w->offset))
        return too_large(name, err);
    add_size(w, bytes);
    return true;
}

/* ---- the file ---- */

static bool put_padding(struct gguf_writer *w, size_t at, struct err *err)
{
    static const char zeros[GGUF_ALIGNMENT];
    return file_writer_append(&w->file, zeros, padding(at), err);
}

/* Moves to the next tensor that has bytes. */
static void next_tensor(struct gguf_writer *w)
{
    while (w->left == 0 && w->at < w->n_tensor) {
        w->at++;
        w->left = w->at < w->n_tensor ? w->bytes[w->at] : 0;
    }
}

bool gguf_begin(struct gguf_writer *w, const char *path, struct err *err)
{
    struct text head = { 0 };
    text_append(&head, "GGUF", 4);
    put_number(&head, 3, 4);
    put_number(&head, w->n_tensor, 8);
    put_number(&head, w->n_key, 8);
    const size_t n = head.len + w->keys.len + w->infos.len;
    bool ok = !head.failed && !w->keys.failed && !w->infos.failed && !w->failed;
    if (!ok)
        err_no_memory(err, path);
    ok = ok && file_writer_open(&w->file, path, err) &&
         file_writer_append(&w->file, head.data, head.len, err) &&
         file_writer_append(&w->file, w->keys.data, w->keys.len, err) &&
         file_writer_append(&w->file, w->infos.data, w->infos.len, err) && put_padding(w, n, err);
    text_free(&head);
    w->at = 0;
    w->left = w->n_tensor > 0 ? w->bytes[0] : 0;
    next_tensor(w);
    return ok;
}

bool gguf_data(struct gguf_writer *w, const void *bytes, size_t n, struct err *err)
{
    assert(n <= w->left && "more data than the tensor has");
    if (n == 0)
        return true;
    if (!file_writer_append(&w->file, bytes, n, err))
        return false;
    w->left -= n;
    if (w->left > 0)
        return true;
    const size_t whole = w->bytes[w->at];
    next_tensor(w);
    return put_padding(w, whole, err);
}

const char *gguf_uncommitted(const struct gguf_writer *w)
{
    return w->file.temporary;
}

bool gguf_commit(struct gguf_writer *w, struct err *err)
{
    assert(w->at == w->n_tensor && "a tensor's data is missing");
    return file_writer_commit(&w->file, err);
}

void gguf_abandon(struct gguf_writer *w)
{
    file_writer_abandon(&w->file);
    text_free(&w->keys);
    text_free(&w->infos);
    free(w->bytes);
    *w = (struct gguf_writer){ 0 };
}
