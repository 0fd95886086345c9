/* The GGUF reader on arbitrary bytes: it must refuse them or hand out what lies inside them. */
#include "kernels/format/gguf.h"
#include "tests/fuzz/fuzz.h"

static bool is_inside(const void *data, size_t size, const uint8_t *bytes, size_t n)
{
    const uint8_t *at = data;
    return size == 0 || (at >= bytes && size <= n && at - bytes <= (ptrdiff_t)(n - size));
}

static void check(const struct gguf *g, const uint8_t *bytes, size_t n)
{
    for (int64_t i = 0; i < g->n_kv; i++) {
        const struct gguf_kv *kv = &g->kvs[i];
        const char *s = NULL;
        size_t at = 0, len = 0;
        FUZZ_CHECK(is_inside(kv->key, kv->key_n, bytes, n));
        FUZZ_CHECK(is_inside(kv->data, kv->bytes, bytes, n));
        fuzz_touch(kv->key, kv->key_n);
        fuzz_touch(kv->data, kv->bytes);
        while (gguf_next_string(kv, &at, &s, &len))
            FUZZ_CHECK(is_inside(s, len, bytes, n));
    }
    for (int64_t i = 0; i < g->n_tensor; i++) {
        FUZZ_CHECK(gguf_find(g, g->tensors[i].name) == &g->tensors[i]);
        FUZZ_CHECK(is_inside(g->tensors[i].data, g->tensors[i].bytes, bytes, n));
        fuzz_touch(g->tensors[i].data, g->tensors[i].bytes);
    }
}

bool fuzz_gguf(const uint8_t *bytes, size_t n, struct err *err)
{
    struct gguf g = { 0 };
    if (!gguf_read(bytes, n, "fuzz", &g, err))
        return false;
    check(&g, bytes, n);
    gguf_close(&g);
    return true;
}
