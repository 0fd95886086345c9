/* The GGUF reader on arbitrary bytes: it must refuse them or hand out what lies inside them.
 *
 *     clang -g -O1 -I. -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE
 * -fsanitize=fuzzer,address,undefined \ tests/fuzz/fuzz_gguf.c kernels/format/gguf.c
 * kernels/core/{err,text,file,dtype}.c -o fuzz_gguf
 *     ./fuzz_gguf corpus
 *
 * With -DFUZZ_FILES and any compiler, without -fsanitize=fuzzer, it runs over the files it is
 * given.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Touches every byte that was handed out. */
static unsigned sum(const void *bytes, size_t n)
{
    unsigned total = 0;
    for (size_t i = 0; i < n; i++)
        total += ((const uint8_t *)bytes)[i];
    return total;
}

static unsigned touch(const struct gguf *g)
{
    unsigned total = 0;
    for (int64_t i = 0; i < g->n_kv; i++) {
        const struct gguf_kv *kv = &g->kvs[i];
        const char *s = NULL;
        size_t at = 0, len = 0;
        total += sum(kv->key, kv->key_n) + sum(kv->data, kv->bytes);
        while (gguf_next_string(kv, &at, &s, &len))
            total += sum(s, len);
    }
    for (int64_t i = 0; i < g->n_tensor; i++) {
        if (gguf_find(g, g->tensors[i].name) != &g->tensors[i])
            abort();
        total += sum(g->tensors[i].data, g->tensors[i].bytes);
    }
    return total;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static volatile unsigned sink;
    struct gguf g = { 0 };
    struct err err;
    if (gguf_read(bytes, n, "fuzz", &g, &err)) {
        sink = touch(&g);
        gguf_close(&g);
    }
    return (int)(sink & 0);
}

#ifdef FUZZ_FILES
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct err err = { 0 };
        char *data = NULL;
        size_t n = 0;
        if (!file_read(argv[i], SIZE_MAX / 2, &data, &n, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        LLVMFuzzerTestOneInput((const uint8_t *)data, n);
        free(data);
    }
    return 0;
}
#endif
