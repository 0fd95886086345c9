/* Damaged files of every format: each seed of tests/fixtures/fuzz cut at every byte and with every
 * k-th bit flipped. A reader refuses it, or what it accepts keeps all that
 * tests/fuzz/fuzz_<format>.c holds it to; within two seconds, and without memory in proportion to
 * anything but the file.
 *
 *     test_formats_hostile [K]        every K-th bit (1: all) of all seeds; without it, of a sample
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

/* What a cut may leave that is whole. */
enum cut {
    CUT_READS,  /* a shorter text, or fewer members: much is well-formed */
    CUT_BLANKS, /* white space, or all of the second file of a pair */
    CUT_ZEROS,  /* padding */
    CUT_NEVER,
};

struct format {
    const char *name;
    fuzz_reader *reader;
    enum cut cut;
};

static const struct format formats[] = {
    { "adapter", fuzz_adapter, CUT_NEVER },
    { "checkpoint", fuzz_checkpoint, CUT_BLANKS },
    { "config", fuzz_config, CUT_BLANKS },
    { "gguf", fuzz_gguf, CUT_ZEROS },
    { "gzip", fuzz_gzip, CUT_READS },
    { "index", fuzz_index, CUT_BLANKS },
    { "jinja", fuzz_jinja, CUT_READS },
    { "json", fuzz_json, CUT_READS },
    { "recipe", fuzz_recipe, CUT_READS },
    { "records", fuzz_records, CUT_READS },
    { "safetensors", fuzz_safetensors, CUT_NEVER },
    { "template", fuzz_template, CUT_BLANKS },
    { "tokenizer", fuzz_tokenizer, CUT_BLANKS },
};

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define COUNT_ONE(format) +1
_Static_assert(COUNT(formats) == 0 FUZZ_FORMATS(COUNT_ONE), "a format is missing here");

enum { LIMIT_BYTES = 128 << 20, SAMPLE_BYTES = 4096 };
static const double limit_seconds = 2;

/* Command line: 0 when a sample will do. */
static size_t every_bit;

struct count {
    size_t n_run, n_refused, n_whole, n_seed;
    double slowest;
};

static bool run(const struct format *f, const uint8_t *bytes, size_t n, struct count *count)
{
    struct err err;
    alarm(60); /* one that never ends ends the test */
    const double begin = fuzz_seconds();
    const bool ok = fuzz_run(f->reader, bytes, n, &err);
    const double seconds = fuzz_seconds() - begin;
    alarm(0);
    count->n_run++;
    count->n_refused += !ok;
    count->slowest = seconds > count->slowest ? seconds : count->slowest;
    assert_true(seconds < limit_seconds);
    return ok;
}

/* A run's log is read as far as it goes; what is resumed from is whole. */
static enum cut cut_of(const struct format *f, const uint8_t *bytes)
{
    const bool is_log = f->reader == fuzz_checkpoint && (bytes[0] == 'l' || bytes[0] == 'h');
    return is_log ? CUT_READS : f->cut;
}

/* Whether a file cut to n of `whole` bytes may be read. */
static bool may_read(const struct format *f, const uint8_t *bytes, size_t n, size_t whole)
{
    const enum cut cut = cut_of(f, bytes);
    if (cut == CUT_READS || cut == CUT_NEVER)
        return cut == CUT_READS;
    if (cut == CUT_BLANKS) {
        while (n < whole && bytes[n] != 0 && strchr(" \t\r\n", bytes[n]) != NULL)
            n++;
        return n == whole || bytes[n] == 0;
    }
    while (n < whole && bytes[n] == 0)
        n++;
    return n == whole;
}

static void cut_everywhere(const struct format *f, const uint8_t *bytes, size_t n,
                           struct count *count)
{
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut > 0 ? cut : 1);
        assert_non_null(exact);
        memcpy(exact, bytes, cut);
        if (run(f, exact, cut, count) && !may_read(f, bytes, cut, n))
            fail_msg("%s: cut to %zu of %zu bytes and read all the same", f->name, cut, n);
        free(exact);
    }
}

/* Odd, so that every place in a byte has its turn. */
static size_t stride(size_t n)
{
    const size_t n_flip = fuzz_is_sanitized() ? 100 : 1000;
    return every_bit != 0 ? every_bit : (8 * n / n_flip) | 1;
}

/* From byte `sealed` on there is a digest, and no bit may be another. */
static void flip_bits(const struct format *f, uint8_t *bytes, size_t n, size_t sealed,
                      struct count *count)
{
    const size_t every = sealed < n ? 1 : stride(n);
    for (size_t bit = 0; bit < 8 * n; bit += every) {
        const uint8_t flip = (uint8_t)(1u << (bit % 8));
        bytes[bit / 8] ^= flip;
        if (run(f, bytes, n, count) && bit / 8 >= sealed)
            fail_msg("%s: bit %zu is another, and the digest does not tell", f->name, bit);
        bytes[bit / 8] ^= flip;
    }
}

/* Where the digest of a seed begins to hold: files named "sealed" have one, of a pair the second (a
 * checkpoint's has a letter before it). */
static size_t seal_of(const char *path, const char *bytes, size_t n)
{
    if (!text_ends_with(path, "/sealed"))
        return n;
    const bool is_pair = text_starts_with(bytes, "{") || text_starts_with(bytes, "m{");
    const char *zero = is_pair ? memchr(bytes, 0, n) : NULL;
    return zero != NULL ? (size_t)(zero - bytes) + 1 : 0;
}

static void damage(const struct format *f, const char *path, struct count *count)
{
    struct err err = { 0 };
    char *bytes = NULL;
    size_t n = 0;
    if (!file_read(path, 1 << 16, &bytes, &n, &err))
        fail_msg("%s", err.text);
    count->n_whole += run(f, (const uint8_t *)bytes, n, count);
    count->n_seed++;
    if (every_bit != 0 || n <= SAMPLE_BYTES)
        cut_everywhere(f, (const uint8_t *)bytes, n, count);
    flip_bits(f, (uint8_t *)bytes, n, seal_of(path, bytes, n), count);
    free(bytes);
}

/* All seeds of the format. */
static void damaged_files_are_refused_or_sound(void **state)
{
    const struct format *f = *state;
    struct count count = { 0 };
    char *folder = file_join("tests/fixtures/fuzz", f->name);
    assert_non_null(folder);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    fuzz_run(f->reader, (const uint8_t *)"", 0, &(struct err){ 0 }); /* what is kept is opened */
    fuzz_limit_memory(LIMIT_BYTES);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char *path = file_join(folder, e->d_name);
        assert_non_null(path);
        if (!file_is_directory(path))
            damage(f, path, &count);
        free(path);
    }
    fuzz_unlimit_memory();
    closedir(dir);
    free(folder);
    print_message("%-12s %zu inputs of %zu files, %zu refused, the slowest took %.3f s\n", f->name,
                  count.n_run, count.n_seed, count.n_refused, count.slowest);
    assert_true(count.n_seed >= 3 && count.n_whole >= 2 && count.n_run >= 200);
    assert_true(count.n_refused > count.n_run / 20);
}

int main(int argc, char **argv)
{
    every_bit = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    struct CMUnitTest tests[COUNT(formats)];
    for (size_t i = 0; i < COUNT(formats); i++)
        tests[i] = (struct CMUnitTest){ .name = formats[i].name,
                                        .test_func = damaged_files_are_refused_or_sound,
                                        .initial_state = (void *)(uintptr_t)&formats[i] };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
