/* Reader of GGUF files.
 *
 *     "GGUF" | u32 version | u64 tensors | u64 keys
 *     keys    x { string key | u32 type | value }        string: u64 length, bytes
 *     tensors x { string name | u32 n_dim | u64 ne[n_dim] | u32 type | u64 offset }
 *     zeros up to the alignment | data
 *
 * A file is untrusted: all of the header is checked once, at open, and what is handed out lies
 * inside the bytes. Offsets must be the running sum of the padded sizes, in the order of the
 * descriptions: the rule of ggml's own reader, which leaves no hole, overlap or reordering.
 */
#include "kernels/format/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MIN_KV_BYTES = 8 + 1 + 4 + 1,         /* the shortest there is: bounds a count by the file */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8, /* a scalar with a name of one byte */
    MAX_KEY = 65535,
    MAX_ALIGNMENT = 1 << 20,
};

static const size_t value_bytes[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2,    [GGUF_U32] = 4,
    [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STRING] = 0, [GGUF_ARRAY] = 0,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* ggml's numbers of the types that are plain arrays of numbers. */
static const struct {
    uint32_t number;
    enum dtype dtype;
} tensor_types[] = {
    { 0, DTYPE_F32 },  { 1, DTYPE_F16 },  { 24, DTYPE_I8 },  { 25, DTYPE_I16 },
    { 26, DTYPE_I32 }, { 27, DTYPE_I64 }, { 28, DTYPE_F64 }, { 30, DTYPE_BF16 },
};

/* ---- the bytes ---- */

struct cursor {
    const uint8_t *bytes;
    size_t n, at;
    const char *place;
    struct err *err;
};

/* "PLACE: ..." */
static bool bad(const struct cursor *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool bad(const struct cursor *c, const char *format, ...)
{
    char why[512];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return err_set(c->err, ERR_DATA, "%s: %s", c->place, why);
}

static const uint8_t *take(struct cursor *c, size_t n)
{
    if (n > c->n - c->at) {
        bad(c, "ends in the middle of its header (%zu bytes); is it cut short?", c->n);
        return NULL;
    }
    c->at += n;
    return c->bytes + c->at - n;
}

static uint64_t little_endian(const uint8_t *p, int n)
{
    uint64_t value = 0;
    for (int i = n - 1; i >= 0; i--)
        value = value << 8 | p[i];
    return value;
}

static bool take_u32(struct cursor *c, uint32_t *out)
{
    const uint8_t *p = take(c, 4);
    if (p != NULL)
        *out = (uint32_t)little_endian(p, 4);
    return p != NULL;
}

static bool take_u64(struct cursor *c, uint64_t *out)
{
    const uint8_t *p = take(c, 8);
    if (p != NULL)
        *out = little_endian(p, 8);
    return p != NULL;
}

static bool take_string(struct cursor *c, const char **out, size_t *n)
{
    uint64_t length = 0;
    if (!take_u64(c, &length))
        return false;
    if (length > c->n - c->at)
        return bad(c, "has a string of %" PRIu64 " bytes at byte %zu, where %zu follow", length,
                   c->at, c->n - c->at);
    *out = (const char *)take(c, (size_t)length);
    *n = (size_t)length;
    return true;
}

/* Keys and names end up in messages and look-ups: text without control characters. */
static bool is_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7F)
            return false;
    }
    return n > 0 && text_is_utf8(s, n, NULL);
}

/* ---- keys ---- */

static bool skip_strings(struct cursor *c, uint64_t n)
{
    if (n > (c->n - c->at) / 8)
        return bad(c, "has an array of %" PRIu64 " strings, more than its bytes can hold", n);
    for (uint64_t i = 0; i < n; i++) {
        const char *s = NULL;
        size_t bytes = 0;
        if (!take_string(c, &s, &bytes))
            return false;
    }
    return true;
}

static bool read_array(struct cursor *c, struct gguf_kv *kv)
{
    uint32_t element = 0;
    if (!take_u32(c, &element) || !take_u64(c, &kv->n))
        return false;
    if (element >= GGUF_TYPE_COUNT || element == GGUF_ARRAY)
        return bad(
            c, "key '%.*s': is an array of type %" PRIu32 "; expected numbers, bools or strings",
            (int)kv->key_n, kv->key, element);
    kv->element = (enum gguf_type)element;
    kv->data = c->bytes + c->at;
    const size_t begin = c->at;
    if (kv->element == GGUF_STRING) {
        if (!skip_strings(c, kv->n))
            return false;
    } else {
        if (kv->n > (c->n - c->at) / value_bytes[element])
            return bad(c, "key '%.*s': has %" PRIu64 " elements, more than the file can hold",
                       (int)kv->key_n, kv->key, kv->n);
        take(c, (size_t)kv->n * value_bytes[element]);
    }
    kv->bytes = c->at - begin;
    return true;
}

static bool read_value(struct cursor *c, struct gguf_kv *kv)
{
    uint32_t type = 0;
    if (!take_u32(c, &type))
        return false;
    if (type >= GGUF_TYPE_COUNT)
        return bad(c, "key '%.*s': has type %" PRIu32 "; expected 0 to %d", (int)kv->key_n, kv->key,
                   type, GGUF_TYPE_COUNT - 1);
    kv->type = (enum gguf_type)type;
    if (kv->type == GGUF_ARRAY)
        return read_array(c, kv);
    if (kv->type == GGUF_STRING) {
        const char *s = NULL;
        if (!take_string(c, &s, &kv->bytes))
            return false;
        kv->data = (const uint8_t *)s;
        kv->n = kv->bytes;
        return true;
    }
    kv->n = 1;
    kv->bytes = value_bytes[type];
    kv->data = take(c, kv->bytes);
    if (kv->data != NULL && kv->type == GGUF_BOOL && *kv->data > 1)
        return bad(c, "key '%.*s': is a bool of value %d; expected 0 or 1", (int)kv->key_n, kv->key,
                   *kv->data);
    return kv->data != NULL;
}

static bool read_kv(struct cursor *c, struct gguf_kv *kv)
{
    const size_t at = c->at;
    if (!take_string(c, &kv->key, &kv->key_n))
        return false;
    if (kv->key_n > MAX_KEY || !is_plain(kv->key, kv->key_n))
        return bad(c, "the key at byte %zu is no text of 1 to %d bytes without control characters",
                   at, MAX_KEY);
    return read_value(c, kv);
}

static int compare_bytes(const char *a, size_t n, const char *b, size_t m)
{
    const int order = memcmp(a, b, n < m ? n : m);
    if (order != 0)
        return order;
    return n < m ? -1 : n > m;
}

static int compare_keys(const void *a, const void *b)
{
    const struct gguf_kv *x = *(const struct gguf_kv *const *)a;
    const struct gguf_kv *y = *(const struct gguf_kv *const *)b;
    return compare_bytes(x->key, x->key_n, y->key, y->key_n);
}

static bool read_keys(struct cursor *c, uint64_t n, struct gguf *g)
{
    g->kvs = calloc((size_t)n + 1, sizeof *g->kvs);
    g->by_key = calloc((size_t)n + 1, sizeof *g->by_key);
    if (g->kvs == NULL || g->by_key == NULL)
        return err_no_memory(c->err, c->place);
    for (; (uint64_t)g->n_kv < n; g->n_kv++) {
        if (!read_kv(c, &g->kvs[g->n_kv]))
            return false;
        g->by_key[g->n_kv] = &g->kvs[g->n_kv];
    }
    qsort(g->by_key, (size_t)n, sizeof *g->by_key, compare_keys);
    for (uint64_t i = 1; i < n; i++) {
        if (compare_keys(&g->by_key[i - 1], &g->by_key[i]) == 0)
            return bad(c, "key '%.*s' is there twice", (int)g->by_key[i]->key_n, g->by_key[i]->key);
    }
    return true;
}

/* ---- tensors ---- */

/* Where each tensor's data is said to begin, until it is known to be right. */
struct claim {
    uint64_t offset;
};

static bool bad_tensor(const struct cursor *c, const struct gguf_tensor *t, const char *what)
{
    return bad(c, "tensor '%s': %s", t->name, what);
}

static bool read_dims(struct cursor *c, struct gguf_tensor *t)
{
    uint32_t n_dim = 0;
    if (!take_u32(c, &n_dim))
        return false;
    if (n_dim > GGUF_MAX_DIM)
        return bad(c, "tensor '%s': has %" PRIu32 " dimensions; expected at most %d", t->name,
                   n_dim, GGUF_MAX_DIM);
    t->n_dim = (int)n_dim;
    for (int i = t->n_dim - 1; i >= 0; i--) { /* innermost first in the file */
        uint64_t dim = 0;
        if (!take_u64(c, &dim))
            return false;
        if (dim > INT64_MAX)
            return bad_tensor(c, t, "shape is too large");
        t->dims[i] = (int64_t)dim;
    }
    return true;
}

static bool read_type(struct cursor *c, struct gguf_tensor *t)
{
    uint32_t number = 0;
    if (!take_u32(c, &number))
        return false;
    const size_t n = sizeof tensor_types / sizeof tensor_types[0];
    size_t i = 0;
    while (i < n && tensor_types[i].number != number)
        i++;
    if (i == n)
        return bad(c,
                   "tensor '%s': has ggml's type %" PRIu32
                   "; expected F32, F16, BF16 or a plain integer (quantized ones are not read)",
                   t->name, number);
    t->dtype = tensor_types[i].dtype;
    t->bytes = dtype_size(t->dtype);
    for (int d = 0; d < t->n_dim; d++) {
        if (!size_mul(t->bytes, (size_t)t->dims[d], &t->bytes))
            return bad_tensor(c, t, "shape is too large");
    }
    return true;
}

static bool read_tensor(struct cursor *c, struct gguf_tensor *t, struct claim *claim)
{
    const char *name = NULL;
    size_t n = 0;
    const size_t at = c->at;
    if (!take_string(c, &name, &n))
        return false;
    if (n >= GGUF_NAME_SIZE || !is_plain(name, n))
        return bad(c,
                   "the tensor name at byte %zu is no text of 1 to %d bytes without control "
                   "characters",
                   at, GGUF_NAME_SIZE - 1);
    memcpy(t->name, name, n);
    return read_dims(c, t) && read_type(c, t) && take_u64(c, &claim->offset);
}

static int compare_names(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a;
    const struct gguf_tensor *y = *(const struct gguf_tensor *const *)b;
    return strcmp(x->name, y->name);
}

static bool find_alignment(const struct cursor *c, const struct gguf *g, size_t *out)
{
    static const char key[] = "general.alignment";
    uint32_t value = GGUF_ALIGNMENT;
    if (gguf_key(g, key) != NULL && !gguf_get_u32(g, key, &value))
        return bad(c, "key '%s': is no u32", key);
    if (value == 0 || value > MAX_ALIGNMENT || (value & (value - 1)) != 0)
        return bad(c, "key '%s': is %" PRIu32 "; expected a power of two up to %d", key, value,
                   MAX_ALIGNMENT);
    *out = value;
    return true;
}

static bool align_up(size_t at, size_t alignment, size_t *out)
{
    if (!size_add(at, alignment - 1, out))
        return false;
    *out -= *out % alignment;
    return true;
}

/* Sets the tensors' data: in order, each at the next multiple of the alignment. */
static bool place_tensors(const struct cursor *c, struct gguf *g, const struct claim *claims)
{
    size_t alignment = 0, begin = 0, at = 0;
    if (!find_alignment(c, g, &alignment))
        return false;
    if (!align_up(c->at, alignment, &begin))
        return bad(c, "is too large");
    for (int64_t i = 0; i < g->n_tensor; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (claims[i].offset != at)
            return bad(c, "tensor '%s': data begins at %" PRIu64 "; expected %zu", t->name,
                       claims[i].offset, at);
        if (t->bytes > 0 && (begin > c->n || at > c->n - begin || t->bytes > c->n - begin - at))
            return bad(c,
                       "tensor '%s': has %zu bytes at %zu of the data, but the file has %zu in "
                       "all; is it cut short?",
                       t->name, t->bytes, at, c->n);
        if (t->bytes > 0)
            t->data = c->bytes + begin + at;
        if (!size_add(at, t->bytes, &at) || !align_up(at, alignment, &at))
            return bad_tensor(c, t, "shape is too large");
    }
    return true;
}

static bool read_tensors(struct cursor *c, uint64_t n, struct gguf *g)
{
    g->tensors = calloc((size_t)n + 1, sizeof *g->tensors);
    g->by_name = calloc((size_t)n + 1, sizeof *g->by_name);
    struct claim *claims = calloc((size_t)n + 1, sizeof *claims);
    bool ok = g->tensors != NULL && g->by_name != NULL && claims != NULL;
    if (!ok)
        err_no_memory(c->err, c->place);
    for (; ok && (uint64_t)g->n_tensor < n; g->n_tensor++) {
        ok = read_tensor(c, &g->tensors[g->n_tensor], &claims[g->n_tensor]);
        g->by_name[g->n_tensor] = &g->tensors[g->n_tensor];
    }
    if (ok)
        qsort(g->by_name, (size_t)n, sizeof *g->by_name, compare_names);
    for (uint64_t i = 1; ok && i < n; i++) {
        if (strcmp(g->by_name[i - 1]->name, g->by_name[i]->name) == 0)
            ok = bad_tensor(c, g->by_name[i], "is there twice");
    }
    ok = ok && place_tensors(c, g, claims);
    free(claims);
    return ok;
}

/* ---- the file ---- */

static bool read_magic(struct cursor *c)
{
    uint32_t version = 0;
    if (c->n < 4 || memcmp(c->bytes, "GGUF", 4) != 0)
        return bad(c, "is no GGUF file: it does not begin with 'GGUF'");
    c->at = 4;
    if (!take_u32(c, &version))
        return false;
    if (version == 0x03000000)
        return bad(c, "is a big-endian GGUF file; only little-endian ones are read");
    if (version != 2 && version != 3)
        return bad(c, "has GGUF version %" PRIu32 "; expected 3, or 2", version);
    return true;
}

static bool read_all(struct cursor *c, struct gguf *g)
{
    uint64_t n_tensor = 0, n_kv = 0;
    if (!read_magic(c) || !take_u64(c, &n_tensor) || !take_u64(c, &n_kv))
        return false;
    const size_t rest = c->n - c->at;
    if (n_kv > rest / MIN_KV_BYTES || n_tensor > rest / MIN_TENSOR_BYTES)
        return bad(c,
                   "says it has %" PRIu64 " keys and %" PRIu64
                   " tensors, more than its %zu bytes can hold",
                   n_kv, n_tensor, c->n);
    return read_keys(c, n_kv, g) && read_tensors(c, n_tensor, g);
}

static void free_tables(struct gguf *g)
{
    free(g->kvs);
    free(g->tensors);
    free(g->by_name);
    free(g->by_key);
}

bool gguf_read(const void *bytes, size_t n, const char *place, struct gguf *g, struct err *err)
{
    struct cursor c = { .bytes = bytes, .n = n, .place = place, .err = err };
    *g = (struct gguf){ 0 };
    if (read_all(&c, g))
        return true;
    free_tables(g);
    *g = (struct gguf){ 0 };
    return false;
}

bool gguf_open(const char *path, struct gguf *g, struct err *err)
{
    struct file_map map = { 0 };
    *g = (struct gguf){ 0 };
    if (!file_map_open(path, &map, err))
        return false;
    if (!gguf_read(map.data, map.size, path, g, err)) {
        file_map_close(&map);
        return false;
    }
    g->map = map;
    return true;
}

void gguf_close(struct gguf *g)
{
    free_tables(g);
    file_map_close(&g->map);
    *g = (struct gguf){ 0 };
}

/* ---- look-ups ---- */

const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name)
{
    struct gguf_tensor key = { 0 };
    const struct gguf_tensor *wanted = &key;
    if (strlen(name) >= sizeof key.name || g->n_tensor == 0)
        return NULL;
    memcpy(key.name, name, strlen(name));
    const struct gguf_tensor *const *hit =
        bsearch(&wanted, g->by_name, (size_t)g->n_tensor, sizeof *g->by_name, compare_names);
    return hit != NULL ? *hit : NULL;
}

const struct gguf_kv *gguf_key(const struct gguf *g, const char *key)
{
    const struct gguf_kv kv = { .key = key, .key_n = strlen(key) }, *wanted = &kv;
    if (g->n_kv == 0)
        return NULL;
    const struct gguf_kv *const *hit =
        bsearch(&wanted, g->by_key, (size_t)g->n_kv, sizeof *g->by_key, compare_keys);
    return hit != NULL ? *hit : NULL;
}

static const struct gguf_kv *typed(const struct gguf *g, const char *key, enum gguf_type type)
{
    const struct gguf_kv *kv = gguf_key(g, key);
    return kv != NULL && kv->type == type ? kv : NULL;
}

bool gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out)
{
    const struct gguf_kv *kv = typed(g, key, GGUF_U32);
    if (kv != NULL)
        *out = (uint32_t)little_endian(kv->data, 4);
    return kv != NULL;
}

bool gguf_get_f32(const struct gguf *g, const char *key, float *out)
{
    const struct gguf_kv *kv = typed(g, key, GGUF_F32);
    if (kv == NULL)
        return false;
    const uint32_t bits = (uint32_t)little_endian(kv->data, 4);
    memcpy(out, &bits, sizeof bits);
    return true;
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_kv *kv = typed(g, key, GGUF_BOOL);
    if (kv != NULL)
        *out = *kv->data != 0;
    return kv != NULL;
}

bool gguf_get_string(const struct gguf *g, const char *key, const char **out, size_t *n)
{
    const struct gguf_kv *kv = typed(g, key, GGUF_STRING);
    if (kv == NULL)
        return false;
    *out = (const char *)kv->data;
    *n = kv->bytes;
    return true;
}

bool gguf_says(const struct gguf *g, const char *key, const char *value)
{
    const char *s = NULL;
    size_t n = 0;
    return gguf_get_string(g, key, &s, &n) && n == strlen(value) && memcmp(s, value, n) == 0;
}

bool gguf_next_string(const struct gguf_kv *kv, size_t *at, const char **out, size_t *n)
{
    if (kv->type != GGUF_ARRAY || kv->element != GGUF_STRING || *at >= kv->bytes)
        return false;
    *n = (size_t)little_endian(kv->data + *at, 8);
    *out = (const char *)kv->data + *at + 8;
    *at += 8 + *n;
    return true;
}
