/* The gunzipping reader: what it accepts it reads the same whatever is asked for at a time, and
 * nothing of it is more than deflate can make.
 */
#include <string.h>

#include "datasets/gzip.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

enum { PIECE = 1 << 14, MOST = 1 << 24 };

/* All of the file, `step` bytes at a time. */
static bool read_all(const char *path, size_t step, struct text *out, struct err *err)
{
    static char piece[PIECE];
    struct gzip_reader r = { 0 };
    if (!gzip_open(&r, path, err))
        return false;
    size_t got = step;
    bool ok = true;
    while (ok && got == step && out->len < MOST) {
        ok = gzip_read(&r, piece, step, &got, err);
        if (ok)
            text_append(out, piece, got);
        FUZZ_CHECK(got <= step && !out->failed);
    }
    gzip_close(&r);
    return ok;
}

bool fuzz_gzip(const uint8_t *bytes, size_t n, struct err *err)
{
    char path[FUZZ_PATH_SIZE];
    fuzz_write("gzip", "x.gz", bytes, n, path);
    struct text whole = { 0 }, pieces = { 0 };
    struct err other = { 0 };
    const bool ok = read_all(path, PIECE, &whole, err);
    FUZZ_CHECK(read_all(path, 61, &pieces, &other) == ok);
    FUZZ_CHECK(ok || err->code == other.code); /* which fault shows first may differ */
    if (ok) {
        FUZZ_CHECK(n >= 18 && whole.len == pieces.len);
        FUZZ_CHECK(whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0);
        FUZZ_CHECK(whole.len <= 1040 * n);
    }
    text_free(&whole);
    text_free(&pieces);
    return ok;
}
