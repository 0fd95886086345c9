/* Reader and writer of safetensors files.
 *
 *     u64 LE: N | N bytes of JSON | tensor bytes
 *     {"__metadata__": {...}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
 * ...}
 *
 * A file is untrusted: everything in it is checked once, at open, and the tensors handed out lie
 * inside the mapping. The rule that keeps the check simple and linear is the reference's: sorted by
 * offset, tensors tile the data exactly, without hole, overlap or tail.
 */
#include "kernels/format/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/core/json.h"
#include "kernels/core/sha256.h"
#include "kernels/core/text.h"

/* A tensor with its byte range in the data, until the ranges are known to tile it. */
struct entry {
    struct safetensors_tensor tensor;
    size_t begin, end;
};

/* "PATH: tensor 'NAME': ..." */
static bool bad_tensor(struct err *err, const char *path, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static bool bad_tensor(struct err *err, const char *path, const char *name, const char *format, ...)
{
    char why[256];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return err_set(err, ERR_DATA, "%s: tensor '%s': %s", path, name, why);
}

void safetensors_shape_text(char out[64], const int64_t *dims, int n_dim)
{
    size_t used = (size_t)snprintf(out, 64, "(");
    for (int i = 0; i < n_dim && used < 64; i++)
        used += (size_t)snprintf(out + used, 64 - used, "%s%" PRId64, i > 0 ? ", " : "", dims[i]);
    if (used < 64)
        snprintf(out + used, 64 - used, n_dim == 1 ? ",)" : ")");
}

/* ---- reading ---- */

/* The JSON of the header, located and bounded by the file. */
static bool find_header(const char *path, const struct file_map *map, const char **header,
                        size_t *n, struct err *err)
{
    static const char lfs_pointer[] = "version https://git-lfs";
    if (map->size >= sizeof lfs_pointer &&
        memcmp(map->data, lfs_pointer, sizeof lfs_pointer - 1) == 0)
        return err_set(err, ERR_DATA,
                       "%s: is a Git LFS pointer, not the tensors; fetch them with 'git lfs pull'",
                       path);
    if (map->size < 8)
        return err_set(
            err, ERR_DATA,
            "%s: has %zu bytes; a safetensors file begins with the 8 bytes of a header length",
            path, map->size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | map->data[i];
    if (length > SAFETENSORS_MAX_HEADER)
        return err_set(err, ERR_DATA,
                       "%s: header length is %" PRIu64
                       "; at most %d is expected in a safetensors file",
                       path, length, SAFETENSORS_MAX_HEADER);
    if (length > map->size - 8)
        return err_set(err, ERR_DATA,
                       "%s: header length is %" PRIu64
                       ", but only %zu bytes follow it; is it cut short?",
                       path, length, map->size - 8);
    *header = (const char *)map->data + 8;
    *n = (size_t)length;
    return true;
}

static json_t *parse_header(const char *path, const char *header, size_t n, struct err *err)
{
    size_t at = 0;
    if (!text_is_utf8(header, n, &at)) {
        err_set(err, ERR_DATA, "%s: header is not valid UTF-8 at byte %zu", path, at);
        return NULL;
    }
    /* The reference tolerates white space, but no byte-order mark, which json_parse would skip. */
    size_t blank = 0;
    while (blank < n && strchr(" \t\r\n", header[blank]) != NULL && header[blank] != '\0')
        blank++;
    if (blank >= n || header[blank] != '{') {
        err_set(err, ERR_DATA, "%s: header is not a JSON object; expected it to begin with '{'",
                path);
        return NULL;
    }
    char place[1024];
    snprintf(place, sizeof place, "%s: header", path);
    return json_parse(header, n, place, err);
}

/* Names end up in messages and look-ups: no control characters, no surprising length. */
static bool check_name(const char *path, const char *name, struct err *err)
{
    const size_t n = strlen(name);
    if (n > SAFETENSORS_MAX_NAME)
        return err_set(err, ERR_DATA, "%s: a tensor name has %zu bytes; at most %d are expected",
                       path, n, SAFETENSORS_MAX_NAME);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F)
            return err_set(err, ERR_DATA, "%s: a tensor name has the control character 0x%02x",
                           path, (unsigned)(unsigned char)name[i]);
    }
    return true;
}

static bool read_shape(const char *path, const char *name, const json_t *shape,
                       struct safetensors_tensor *tensor, struct err *err)
{
    if (!json_is_array(shape))
        return bad_tensor(err, path, name, "\"shape\" is %s; expected a list of sizes",
                          shape == NULL ? "missing" : json_type_name(shape));
    const size_t n_dim = json_array_size(shape);
    if (n_dim > SAFETENSORS_MAX_DIM)
        return bad_tensor(err, path, name, "has %zu dimensions; at most %d are expected", n_dim,
                          SAFETENSORS_MAX_DIM);
    size_t bytes = dtype_size(tensor->dtype);
    for (size_t i = 0; i < n_dim; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return bad_tensor(err, path, name,
                              "\"shape\"[%zu] is not a size; expected an integer >= 0", i);
        tensor->dims[i] = json_integer_value(dim);
        if (!size_mul(bytes, (size_t)tensor->dims[i], &bytes))
            return bad_tensor(err, path, name, "shape is too large");
    }
    tensor->n_dim = (int)n_dim;
    tensor->bytes = bytes;
    return true;
}

static bool read_offsets(const char *path, const char *name, const json_t *offsets, struct entry *e,
                         struct err *err)
{
    if (!json_is_array(offsets))
        return bad_tensor(err, path, name, "\"data_offsets\" is %s; expected [begin, end]",
                          offsets == NULL ? "missing" : json_type_name(offsets));
    if (json_array_size(offsets) != 2)
        return bad_tensor(err, path, name, "\"data_offsets\" has %zu values; expected [begin, end]",
                          json_array_size(offsets));
    for (size_t i = 0; i < 2; i++) {
        const json_t *offset = json_array_get(offsets, i);
        if (!json_is_integer(offset) || json_integer_value(offset) < 0)
            return bad_tensor(err, path, name,
                              "\"data_offsets\"[%zu] is not an offset; expected an integer >= 0",
                              i);
    }
    e->begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    e->end = (size_t)json_integer_value(json_array_get(offsets, 1));
    return true;
}

static bool read_entry(const char *path, const char *name, const json_t *value, struct entry *e,
                       struct err *err)
{
    if (!check_name(path, name, err))
        return false;
    if (!json_is_object(value))
        return bad_tensor(err, path, name, "is %s; expected an object", json_type_name(value));
    const json_t *dtype = json_object_get(value, "dtype");
    if (!json_is_string(dtype))
        return bad_tensor(err, path, name, "\"dtype\" is %s; expected a string",
                          dtype == NULL ? "missing" : json_type_name(dtype));
    if (!dtype_parse(json_string_value(dtype), &e->tensor.dtype))
        return bad_tensor(err, path, name,
                          "type '%.32s' is not known; expected F32, BF16, F16 or an integer type",
                          json_string_value(dtype));
    return read_shape(path, name, json_object_get(value, "shape"), &e->tensor, err) &&
           read_offsets(path, name, json_object_get(value, "data_offsets"), e, err);
}

static bool check_metadata(const char *path, json_t *metadata, struct err *err)
{
    if (!json_is_object(metadata))
        return err_set(err, ERR_DATA, "%s: \"__metadata__\" is %s; expected an object of strings",
                       path, json_type_name(metadata));
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return err_set(err, ERR_DATA, "%s: \"__metadata__\" holds %s; expected strings only",
                           path, json_type_name(value));
    }
    return true;
}

static int compare_ranges(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name); /* empty tensors: a fixed order for messages */
}

/* Ranges tile data[0..n) exactly; sets the tensors' data. Sorts the entries by range. */
static bool place_tensors(const char *path, struct entry *entries, int64_t n_entry,
                          const uint8_t *data, size_t n, struct err *err)
{
    if (n_entry > 0)
        qsort(entries, (size_t)n_entry, sizeof *entries, compare_ranges);
    size_t at = 0;
    for (int64_t i = 0; i < n_entry; i++) {
        const struct entry *e = &entries[i];
        const char *name = e->tensor.name;
        if (e->end < e->begin)
            return bad_tensor(err, path, name, "data ends at %zu, before it begins at %zu", e->end,
                              e->begin);
        if (e->begin != at)
            return bad_tensor(err, path, name, "data begins at %zu, expected %zu: %s", e->begin, at,
                              e->begin < at ? "tensors overlap" : "there is a hole");
        if (e->end - e->begin != e->tensor.bytes)
            return bad_tensor(err, path, name,
                              "data has %zu bytes, expected %zu for its shape and type",
                              e->end - e->begin, e->tensor.bytes);
        if (e->end > n)
            return bad_tensor(
                err, path, name,
                "data ends at %zu, but the file has %zu bytes of data; is it cut short?", e->end,
                n);
        if (e->tensor.bytes > 0)
            entries[i].tensor.data = data + e->begin;
        at = e->end;
    }
    if (at != n)
        return err_set(err, ERR_DATA, "%s: %zu bytes follow the last tensor; expected none", path,
                       n - at);
    return true;
}

static int compare_names(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Takes the checked entries over into st: tensors by name, names in one block. */
static bool adopt(struct safetensors *st, const struct entry *entries, int64_t n_entry,
                  struct err *err)
{
    size_t name_bytes = 1;
    for (int64_t i = 0; i < n_entry; i++)
        name_bytes += strlen(entries[i].tensor.name) + 1;
    st->header = malloc(name_bytes);
    st->tensors = malloc((size_t)n_entry * sizeof *st->tensors + 1);
    if (st->header == NULL || st->tensors == NULL)
        return err_no_memory(err, "the tensor list");
    char *name = st->header;
    for (int64_t i = 0; i < n_entry; i++) {
        const size_t n = strlen(entries[i].tensor.name) + 1;
        memcpy(name, entries[i].tensor.name, n);
        st->tensors[i] = entries[i].tensor;
        st->tensors[i].name = name;
        name += n;
    }
    st->n_tensor = n_entry;
    if (n_entry > 0)
        qsort(st->tensors, (size_t)n_entry, sizeof *st->tensors, compare_names);
    return true;
}

static bool read_tensors(const char *path, json_t *root, size_t data_at, struct safetensors *st,
                         struct err *err)
{
    struct entry *entries = calloc(json_object_size(root) + 1, sizeof *entries);
    if (entries == NULL)
        return err_no_memory(err, path);
    int64_t n_entry = 0;
    bool ok = true;
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) {
            ok = check_metadata(path, value, err);
            st->metadata = json_incref(value);
        } else {
            entries[n_entry].tensor.name = name;
            ok = read_entry(path, name, value, &entries[n_entry], err);
            n_entry++;
        }
        if (!ok)
            break;
    }
    ok = ok &&
         place_tensors(path, entries, n_entry, st->map.data + data_at, st->map.size - data_at,
                       err) &&
         adopt(st, entries, n_entry, err);
    free(entries);
    return ok;
}

bool safetensors_open(const char *path, struct safetensors *st, struct err *err)
{
    *st = (struct safetensors){ 0 };
    if (!file_map_open(path, &st->map, err))
        return false;
    const char *header = NULL;
    size_t n = 0;
    bool ok = find_header(path, &st->map, &header, &n, err);
    if (ok) {
        json_t *root = parse_header(path, header, n, err);
        ok = root != NULL && read_tensors(path, root, 8 + n, st, err);
        json_decref(root);
    }
    if (!ok)
        safetensors_close(st);
    return ok;
}

void safetensors_close(struct safetensors *st)
{
    free(st->tensors);
    free(st->header);
    json_decref(st->metadata);
    file_map_close(&st->map);
    *st = (struct safetensors){ 0 };
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    if (st->n_tensor == 0)
        return NULL;
    const struct safetensors_tensor key = { .name = name };
    return bsearch(&key, st->tensors, (size_t)st->n_tensor, sizeof key, compare_names);
}

const char *safetensors_metadata(const struct safetensors *st, const char *key)
{
    return json_string_value(json_object_get(st->metadata, key));
}

/* ---- the digest ---- */

static void digest_text(struct sha256 *sum, const char *text)
{
    sha256_update(sum, text, strlen(text) + 1);
}

static void digest_tensor(struct sha256 *sum, const struct safetensors_tensor *t)
{
    char shape[64];
    safetensors_shape_text(shape, t->dims, t->n_dim);
    digest_text(sum, t->name);
    digest_text(sum, dtype_name(t->dtype));
    digest_text(sum, shape);
    sha256_update(sum, t->data, t->bytes);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The metadata's texts but for the digest itself, by key. */
static bool digest_metadata(struct sha256 *sum, json_t *metadata)
{
    const char **keys = calloc(json_object_size(metadata) + 1, sizeof *keys), *key = NULL;
    size_t n = 0;
    json_t *value = NULL;
    if (keys == NULL)
        return false;
    json_object_foreach(metadata, key, value)
    {
        if (strcmp(key, SAFETENSORS_DIGEST) != 0)
            keys[n++] = key;
    }
    qsort(keys, n, sizeof *keys, compare_texts);
    for (size_t i = 0; i < n; i++) {
        digest_text(sum, keys[i]);
        digest_text(sum, json_string_value(json_object_get(metadata, keys[i])));
    }
    free(keys);
    return true;
}

/* Whether a text is a digest: under another key than ours it is ours with a damaged key. */
static bool is_digest(const char *text)
{
    return strlen(text) == SHA256_HEX_SIZE - 1 &&
           strspn(text, "0123456789abcdef") == SHA256_HEX_SIZE - 1;
}

bool safetensors_check_digest(const struct safetensors *st, const char *path, struct err *err)
{
    const char *want = safetensors_metadata(st, SAFETENSORS_DIGEST), *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)st->metadata, key, value)
    {
        if (want == NULL && is_digest(json_string_value(value)))
            return err_set(err, ERR_DATA,
                           "%s: is damaged: its metadata has a digest under '%.64s', expected "
                           "'" SAFETENSORS_DIGEST "'",
                           path, key);
    }
    if (want == NULL)
        return true;
    struct sha256 sum;
    sha256_init(&sum);
    if (!digest_metadata(&sum, st->metadata))
        return err_no_memory(err, path);
    for (int64_t i = 0; i < st->n_tensor; i++)
        digest_tensor(&sum, &st->tensors[i]);
    char have[SHA256_HEX_SIZE];
    sha256_end(&sum, have);
    return strcmp(have, want) == 0 ||
           err_set(err, ERR_DATA,
                   "%s: is damaged: its content has the SHA-256 %.16s..., its header says "
                   "%.16s...; copy or make it again",
                   path, have, want);
}

/* ---- writing ---- */

/* The reference's order: widest elements first, so that with a header of a multiple of 8 bytes
 * every tensor is aligned to its element. */
static int compare_layout(const void *a, const void *b)
{
    const struct safetensors_tensor *x = *(const struct safetensors_tensor *const *)a;
    const struct safetensors_tensor *y = *(const struct safetensors_tensor *const *)b;
    const size_t wide_x = dtype_size(x->dtype), wide_y = dtype_size(y->dtype);
    if (wide_x != wide_y)
        return wide_x > wide_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void put_json_string(struct text *t, const char *s)
{
    text_puts(t, "\"");
    for (; *s != '\0'; s++) {
        if (*s == '"' || *s == '\\')
            text_printf(t, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            text_printf(t, "\\u%04x", (unsigned)*s);
        else
            text_append(t, s, 1);
    }
    text_puts(t, "\"");
}

/* What is written: the tensors in the order of their data, and texts beside "format". */
struct outgoing {
    const char *path;
    const struct safetensors_tensor *const *order;
    int64_t n_tensor;
    const struct safetensors_note *notes;
    int n_note;
    char digest[SHA256_HEX_SIZE]; /* of the note that asks for it */
};

/* Eight bytes of length, then the JSON, padded so that the data begins at a multiple of 8. */
static bool put_header(struct text *t, const struct outgoing *o, struct err *err)
{
    const char *path = o->path;
    const int64_t n_tensor = o->n_tensor;
    const struct safetensors_tensor *const *order = o->order;
    size_t at = 0;
    text_append(t, "\0\0\0\0\0\0\0", 8);
    text_puts(t, "{\"__metadata__\":{\"format\":\"pt\"");
    for (int i = 0; i < o->n_note; i++) {
        text_puts(t, ",");
        put_json_string(t, o->notes[i].key);
        text_puts(t, ":");
        put_json_string(t, o->notes[i].value != NULL ? o->notes[i].value : o->digest);
    }
    text_puts(t, "}");
    for (int64_t i = 0; i < n_tensor; i++) {
        const struct safetensors_tensor *tensor = order[i];
        size_t bytes = dtype_size(tensor->dtype);
        text_puts(t, ",");
        put_json_string(t, tensor->name);
        text_printf(t, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(tensor->dtype));
        for (int d = 0; d < tensor->n_dim; d++) {
            text_printf(t, "%s%" PRId64, d > 0 ? "," : "", tensor->dims[d]);
            bytes *= (size_t)tensor->dims[d];
        }
        assert(bytes == tensor->bytes && "a tensor's bytes differ from its shape");
        text_printf(t, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    text_puts(t, "}");
    while (t->len % 8 != 0 && !t->failed)
        text_puts(t, " ");
    if (t->failed)
        return err_no_memory(err, path);
    const size_t n = t->len - 8;
    if (n > SAFETENSORS_MAX_HEADER)
        return err_set(err, ERR_DATA,
                       "%s: header would have %zu bytes; at most %d can be read back", path, n,
                       SAFETENSORS_MAX_HEADER);
    for (int i = 0; i < 8; i++)
        t->data[i] = (char)(uint8_t)((uint64_t)n >> (8 * i));
    return true;
}

/* Room for the addresses of n tensors, in the order given; NULL when memory is out. */
static const struct safetensors_tensor **order_of(const struct safetensors_tensor *tensors,
                                                  int64_t n)
{
    const struct safetensors_tensor **order = calloc((size_t)n + 1, sizeof *order);
    for (int64_t i = 0; order != NULL && i < n; i++)
        order[i] = &tensors[i];
    return order;
}

static bool write_file(const struct outgoing *o, const struct text *header, struct err *err)
{
    struct file_writer w = { 0 };
    bool ok = file_writer_open(&w, o->path, err) &&
              file_writer_append(&w, header->data, header->len, err);
    for (int64_t i = 0; ok && i < o->n_tensor; i++)
        ok = file_writer_append(&w, o->order[i]->data, o->order[i]->bytes, err);
    ok = ok && file_writer_commit(&w, err);
    file_writer_abandon(&w);
    return ok;
}

bool safetensors_write(const char *path, const struct safetensors_tensor *tensors, int64_t n_tensor,
                       struct err *err)
{
    return safetensors_write_notes(path, tensors, n_tensor, NULL, 0, err);
}

/* The metadata of a file as a reader has it, for its digest; NULL when memory is out. */
static json_t *metadata_of(const struct safetensors_note *notes, int n_note)
{
    json_t *metadata = json_pack("{s:s}", "format", "pt");
    for (int i = 0; metadata != NULL && i < n_note; i++) {
        if (notes[i].value != NULL &&
            json_object_set_new(metadata, notes[i].key, json_string(notes[i].value)) != 0) {
            json_decref(metadata);
            return NULL;
        }
    }
    return metadata;
}

static int compare_addressed(const void *a, const void *b)
{
    return compare_names(*(const struct safetensors_tensor *const *)a,
                         *(const struct safetensors_tensor *const *)b);
}

/* Sorts order by name. */
static bool seal(const struct safetensors_tensor **order, int64_t n_tensor,
                 const struct safetensors_note *notes, int n_note, char hex[SHA256_HEX_SIZE])
{
    struct sha256 sum;
    sha256_init(&sum);
    json_t *metadata = metadata_of(notes, n_note);
    const bool ok = metadata != NULL && digest_metadata(&sum, metadata);
    json_decref(metadata);
    if (n_tensor > 0)
        qsort(order, (size_t)n_tensor, sizeof *order, compare_addressed);
    for (int64_t i = 0; ok && i < n_tensor; i++)
        digest_tensor(&sum, order[i]);
    sha256_end(&sum, hex);
    return ok;
}

bool safetensors_write_notes(const char *path, const struct safetensors_tensor *tensors,
                             int64_t n_tensor, const struct safetensors_note *notes, int n_note,
                             struct err *err)
{
    const struct safetensors_tensor **order = order_of(tensors, n_tensor);
    if (order == NULL)
        return err_no_memory(err, path);
    struct text header = { 0 };
    struct outgoing o = { path, order, n_tensor, notes, n_note, "" };
    bool ok = true;
    for (int i = 0; ok && i < n_note; i++) {
        if (notes[i].value == NULL)
            ok = seal(order, n_tensor, notes, n_note, o.digest) || err_no_memory(err, path);
    }
    if (n_tensor > 0)
        qsort(order, (size_t)n_tensor, sizeof *order, compare_layout);
    ok = ok && put_header(&header, &o, err) && write_file(&o, &header, err);
    text_free(&header);
    free(order);
    return ok;
}

static bool start_file(struct safetensors_writer *w, const char *path,
                       const struct safetensors_tensor *const *order, int64_t n_tensor,
                       struct err *err)
{
    struct text header = { 0 };
    const struct outgoing o = { path, order, n_tensor, NULL, 0, "" };
    bool ok = put_header(&header, &o, err) && file_writer_open(&w->file, path, err);
    if (ok && w->file.temporary == NULL)
        ok = err_set(err, ERR_CANT_CREATE,
                     "%s: is there and no regular file; expected a file or nothing", path);
    ok = ok && file_writer_append(&w->file, header.data, header.len, err);
    for (int64_t i = 0; ok && i <= n_tensor; i++)
        w->begin[i] = i == 0 ? header.len : w->begin[i - 1] + order[i - 1]->bytes;
    text_free(&header);
    return ok;
}

bool safetensors_writer_open(struct safetensors_writer *w, const char *path,
                             const struct safetensors_tensor *tensors, int64_t n_tensor,
                             struct err *err)
{
    *w = (struct safetensors_writer){ .n_tensor = n_tensor };
    const struct safetensors_tensor **order = order_of(tensors, n_tensor);
    w->begin = malloc(((size_t)n_tensor + 1) * sizeof *w->begin);
    const bool ok = order != NULL && w->begin != NULL ? start_file(w, path, order, n_tensor, err)
                                                      : err_no_memory(err, path);
    free(order);
    if (!ok)
        safetensors_writer_abandon(w);
    return ok;
}

bool safetensors_writer_put(const struct safetensors_writer *w, int64_t index, size_t at,
                            const void *bytes, size_t n, struct err *err)
{
    assert(index >= 0 && index < w->n_tensor);
    assert(at <= w->begin[index + 1] - w->begin[index] &&
           n <= w->begin[index + 1] - w->begin[index] - at);
    const char *from = bytes;
    size_t to = w->begin[index] + at;
    while (n > 0) {
        const ssize_t put = pwrite(w->file.fd, from, n, (off_t)to);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_set(err, ERR_IO, "%s: cannot be written: %s", w->file.path, strerror(errno));
        from += put;
        to += (size_t)put;
        n -= (size_t)put;
    }
    return true;
}

const char *safetensors_writer_temporary(const struct safetensors_writer *w)
{
    return w->file.temporary;
}

bool safetensors_writer_commit(struct safetensors_writer *w, struct err *err)
{
    const bool ok = file_writer_commit(&w->file, err);
    safetensors_writer_abandon(w);
    return ok;
}

void safetensors_writer_abandon(struct safetensors_writer *w)
{
    file_writer_abandon(&w->file);
    free(w->begin);
    *w = (struct safetensors_writer){ 0 };
}

size_t safetensors_file_bytes(const struct safetensors_tensor *tensors, int64_t n_tensor)
{
    const struct safetensors_tensor **order = order_of(tensors, n_tensor);
    struct text header = { 0 };
    size_t bytes = 0;
    const struct outgoing o = { "", order, n_tensor, NULL, 0, "" };
    if (order != NULL && put_header(&header, &o, NULL))
        bytes = header.len;
    for (int64_t i = 0; bytes > 0 && i < n_tensor; i++)
        bytes += tensors[i].bytes;
    text_free(&header);
    free(order);
    return bytes;
}
