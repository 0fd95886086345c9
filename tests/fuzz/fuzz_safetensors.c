/* The safetensors reader: what it hands out are the whole tensors of the file, side by side. */
#include <string.h>

#include "kernels/format/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void check(const struct safetensors *st, size_t n)
{
    size_t total = 0;
    for (int64_t i = 0; i < st->n_tensor; i++) {
        const struct safetensors_tensor *t = &st->tensors[i];
        const uint8_t *data = t->data;
        FUZZ_CHECK(t->n_dim >= 0 && t->n_dim <= SAFETENSORS_MAX_DIM);
        size_t bytes = dtype_size(t->dtype);
        for (int d = 0; d < t->n_dim; d++)
            bytes *= (size_t)t->dims[d];
        FUZZ_CHECK(bytes == t->bytes && (data == NULL) == (bytes == 0));
        FUZZ_CHECK(data == NULL ||
                   (data > st->map.data && bytes <= (size_t)(st->map.data + n - data)));
        FUZZ_CHECK(i == 0 || strcmp(st->tensors[i - 1].name, t->name) < 0);
        FUZZ_CHECK(safetensors_find(st, t->name) == t);
        fuzz_touch(data, bytes);
        total += bytes;
    }
    FUZZ_CHECK(total + 8 + 2 <= n);
}

bool fuzz_safetensors(const uint8_t *bytes, size_t n, struct err *err)
{
    char path[FUZZ_PATH_SIZE];
    fuzz_write("safetensors", "x.safetensors", bytes, n, path);
    struct safetensors st = { 0 };
    if (!safetensors_open(path, &st, err)) {
        FUZZ_CHECK(st.tensors == NULL && st.header == NULL && st.map.data == NULL);
        return false;
    }
    check(&st, n);
    FUZZ_CHECK(safetensors_find(&st, "no such tensor \x01") == NULL);
    const bool ok = safetensors_check_digest(&st, path, err);
    safetensors_close(&st);
    return ok;
}
