/* The C side of the CUDA module against a pretended runtime (fake_runtime.h): refusals, copies
 * through the staging ring, products with their cache of algorithms, tuning, and every call failing
 * once. What NVIDIA's libraries do with it is for a device to show.
 */
#include "tests/cuda/fake_runtime.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/core/file.h"
#include "kernels/cuda/gemm.h"

/* Both sides round once to the stored type; f32 sums differ in order only. */
static const double tolerance_f32 = 1e-6, tolerance_bf16 = 4e-3;

enum { MIB = 1 << 20, STAGING_RING = 32 * MIB };

static const struct cuda_module *const module = &jambatune_cuda_module;

struct opened {
    struct backend be;
    struct device *d;
    struct err err;
    void *workspace;
};

static struct opened open_with(const struct cuda_options *options)
{
    struct opened o = { 0 };
    o.d = module->open(options, &o.err);
    if (o.d == NULL)
        fail_msg("%s", o.err.text);
    o.be = (struct backend){ .k = module->ops, .act = options->act, .device = o.d };
    o.workspace = o.d->alloc(o.d, 256, &o.err);
    assert_non_null(o.workspace);
    return o;
}

static struct opened open_act(enum dtype act)
{
    return open_with(&(struct cuda_options){ .act = act });
}

/* Nothing is left behind. */
static void close_opened(struct opened *o)
{
    o->d->free(o->d, o->workspace);
    o->d->close(o->d);
    assert_int_equal(fake.alive, 0);
    assert_int_equal(fake.used, 0);
}

static struct cuda_gemm *gemm_of(struct opened *o)
{
    return cuda_state_of(&o->be)->gemm;
}

/* ---- opening ---- */

static void expect_refusal(const char *message)
{
    struct err err = { 0 };
    struct cuda_facts facts;
    assert_false(module->facts(&facts, &err));
    assert_string_equal(err.text, message);
    assert_int_equal(err.code, ERR_DEVICE);
    assert_null(module->open(&(struct cuda_options){ .act = DTYPE_BF16 }, &err));
    assert_string_equal(err.text, message);
    assert_int_equal(fake.alive, 0);
}

static void a_device_that_cannot_be_used_is_refused(void **state)
{
    (void)state;
    fake_reset();
    fake.n_device = 0;
    expect_refusal("no CUDA device can be used: some error");
    fake_reset();
    fake.old_driver = true;
    expect_refusal("the NVIDIA driver is for CUDA 12.4, this build needs 13.0; install a newer "
                   "driver");
    fake_reset();
    fake.no_driver = true;
    expect_refusal("no CUDA device can be used: there is no NVIDIA driver");
    fake_reset();
    fake.major = 7;
    expect_refusal("fake device: compute capability 7.0; 8.0 or newer is needed (Ampere, 2020)");
}

static void facts_are_the_devices(void **state)
{
    (void)state;
    fake_reset();
    struct err err = { 0 };
    struct cuda_facts facts;
    assert_true(module->facts(&facts, &err));
    assert_string_equal(facts.name, "fake device");
    assert_int_equal(facts.major, 9);
    assert_int_equal(facts.n_sm, 132);
    assert_int_equal(facts.runtime, 13000);
    assert_int_equal(facts.cublaslt, 130100);
    assert_true(facts.memory == (size_t)1 << 32);
    assert_true(facts.built_for[0] != '\0');
    assert_int_equal(fake.alive, 0);
}

/* A kernel's fault is told by whatever asks next; with CUDA_LAUNCH_BLOCKING=1 that is the op. */
static void faults_are_only_noticed_in_an_op(void **state)
{
    (void)state;
    fake_reset();
    unsetenv("CUDA_LAUNCH_BLOCKING");
    struct opened o = open_act(DTYPE_BF16);
    const struct cuda_state *s = cuda_state_of(&o.be);
    fake.last_error = 700; /* an illegal access */
    cuda_explain(s, "gemm", "an illegal access", &o.err);
    assert_non_null(strstr(o.err.text, "fake device: an illegal access (noticed in gemm; "
                                       "CUDA_LAUNCH_BLOCKING=1 tells the op itself); a fault of"));
    setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
    o.err = (struct err){ 0 };
    cuda_explain(s, "gemm", "an illegal access", &o.err);
    assert_non_null(strstr(o.err.text, "fake device: gemm: an illegal access; a fault of"));
    unsetenv("CUDA_LAUNCH_BLOCKING");
    fake.last_error = 0;
    o.err = (struct err){ 0 };
    cuda_explain(s, "gemm", "no algorithm", &o.err);
    assert_string_equal(o.err.text, "fake device: gemm: no algorithm");
    close_opened(&o);
}

static void memory_that_is_not_there_is_told_in_numbers(void **state)
{
    (void)state;
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    void *p = o.d->alloc(o.d, (size_t)3 << 30, &o.err);
    assert_non_null(p);
    assert_true(o.d->used(o.d) >= (size_t)3 << 30);
    assert_null(o.d->alloc(o.d, (size_t)2 << 30, &o.err));
    assert_int_equal(o.err.code, ERR_NO_MEMORY);
    assert_string_equal(o.err.text, "fake device: out of memory: 2.00 GiB asked for, 1.00 of 4.00 "
                                    "GiB are free (nvidia-smi shows who uses the rest)");
    assert_int_equal(fake.last_error, 0); /* no op will take it for its own */
    assert_true(o.d->finish(o.d, &o.err));
    o.d->free(o.d, p);
    o.d->free(o.d, NULL);
    close_opened(&o);
}

/* ---- copies ---- */

static char byte_of(size_t i)
{
    return (char)(i * 2654435761u >> 13);
}

static char *pattern(size_t n, size_t first)
{
    char *bytes = malloc(n + 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++)
        bytes[i] = byte_of(first + i);
    return bytes;
}

static void expect_pattern(struct opened *o, const void *device, size_t n, size_t first)
{
    char *expected = pattern(n, first), *got = pattern(n, first + 1);
    o->be.k->to_host(&o->be, &(struct copy_args){ device, got, n }, NULL);
    assert_memory_equal(got, expected, n);
    free(got);
    free(expected);
}

static void bytes_come_back_as_they_went(void **state)
{
    (void)state;
    static const size_t sizes[] = { 0,           1,           255,
                                    257,         8 * MIB - 1, 8 * MIB,
                                    8 * MIB + 1, 33 * MIB,    STAGING_RING * 2 + 5 };
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    void *device = o.d->alloc(o.d, STAGING_RING * 2 + 5, &o.err);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *bytes = pattern(sizes[i], i);
        o.be.k->to_device(&o.be, &(struct copy_args){ bytes, device, sizes[i] }, NULL);
        memset(bytes, 0, sizes[i]); /* may change once to_device has returned */
        free(bytes);
        expect_pattern(&o, device, sizes[i], i);
    }
    o.d->free(o.d, device);
    close_opened(&o);
}

static void small_uploads_do_not_wait(void **state)
{
    (void)state;
    enum { N = 5000, BYTES = 3000 };
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    char *device = o.d->alloc(o.d, (size_t)N * BYTES, &o.err);
    fake.waits = 0;
    for (size_t i = 0; i < N; i++) {
        char *bytes = pattern(BYTES, i * BYTES);
        o.be.k->to_device(&o.be, &(struct copy_args){ bytes, device + i * BYTES, BYTES }, NULL);
        free(bytes);
    }
    assert_int_equal(fake.waits, 0); /* 15 MB fit the ring */
    /* Twice round the ring: what has not passed is waited for. */
    for (size_t round = 0; round < 4; round++) {
        for (size_t i = 0; i < N; i++) {
            char *bytes = pattern(BYTES, i * BYTES);
            o.be.k->to_device(&o.be, &(struct copy_args){ bytes, device + i * BYTES, BYTES }, NULL);
            free(bytes);
        }
    }
    assert_in_range(fake.waits, 1, 8);
    expect_pattern(&o, device, (size_t)N * BYTES, 0);
    o.d->free(o.d, device);
    close_opened(&o);
}

/* The first failure stays, later ops do nothing, and what is read back is zeros. */
static void a_fault_sticks(void **state)
{
    (void)state;
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    int32_t counts[3] = { 7, 7, 7 };
    void *device = o.d->alloc(o.d, 100, &o.err);
    fake.failing_call = fake.calls + 2; /* the copy is queued, the event is not */
    fake.for_good = true;
    assert_false(cuda_read_back(&o.be, "route_counts", device, counts, sizeof counts));
    assert_int_equal(o.be.err.code, ERR_DEVICE);
    assert_non_null(strstr(o.be.err.text, "fake device: route_counts: some error"));
    assert_int_equal(counts[0] | counts[1] | counts[2], 0);
    const struct err first = o.be.err;
    const int64_t calls = fake.calls;
    o.be.k->to_device(&o.be, &(struct copy_args){ counts, device, sizeof counts }, NULL);
    assert_false(cuda_read_back(&o.be, "sum_squares", device, counts, sizeof counts));
    assert_int_equal(fake.calls, calls);
    assert_string_equal(o.be.err.text, first.text);
    assert_false(o.d->finish(o.d, &o.err));
    assert_non_null(strstr(o.err.text, "an illegal memory access was encountered (noticed in "));
    o.d->free(o.d, device);
    close_opened(&o);
}

/* ---- products ---- */

struct product {
    struct gemm_args args;
    void *a, *b, *c;
    real *x, *y, *expected;
    int64_t n_c;
};

static void *stored(struct opened *o, const real *x, int64_t n, bool bf16, int64_t shift)
{
    const size_t size = bf16 ? 2 : sizeof(real);
    char *p = o->d->alloc(o->d, (size_t)(n + shift) * size, &o->err);
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) {
        const uint16_t bits = dtype_to_bf16((float)x[i]);
        memcpy(p + (size_t)(i + shift) * size, bf16 ? (const void *)&bits : &x[i], size);
    }
    return p;
}

static real rounded(real x, bool bf16)
{
    return bf16 ? (real)dtype_from_bf16(dtype_to_bf16((float)x)) : x;
}

static void plain(struct product *p, bool bf16)
{
    const struct gemm_args *a = &p->args;
    for (int64_t i = 0; i < a->m; i++) {
        for (int64_t j = 0; j < a->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < a->k; l++)
                sum += (double)rounded(p->x[a->trans_a ? l * a->lda + i : i * a->lda + l], bf16) *
                       (double)rounded(p->y[a->trans_b ? j * a->ldb + l : l * a->ldb + j], bf16);
            real *e = &p->expected[i * a->ldc + j];
            const double kept = a->beta == 0 ? 0 : (double)a->beta * (double)*e;
            *e = (real)((double)a->alpha * sum + kept);
        }
    }
}

/* form: bit 0 transposes a, bit 1 b, bit 2 asks for c in reals, bit 3 adds to c. a and c `shift`
 * elements from alignment, b twice that; rows `pad` longer than they must be. */
static void check_product(struct opened *o, const int64_t shape[3], int form, int64_t shift,
                          int64_t pad)
{
    const bool bf16 = o->be.act == DTYPE_BF16;
    struct product p = { .args = { .m = shape[0],
                                   .n = shape[1],
                                   .k = shape[2],
                                   .trans_a = form & 1,
                                   .trans_b = form & 2,
                                   .c_real = (form & 4) != 0,
                                   .b_dtype = o->be.act,
                                   .alpha = (real)0.5,
                                   .beta = (form & 8) != 0 ? 2.0f : 0.0f,
                                   .ldc = shape[1] + pad } };
    struct gemm_args *a = &p.args;
    const bool c_bf16 = bf16 && !a->c_real;
    a->lda = (a->trans_a ? a->m : a->k) + pad;
    a->ldb = (a->trans_b ? a->k : a->n) + pad;
    const int64_t n_a = a->lda * (a->trans_a ? a->k : a->m);
    const int64_t n_b = a->ldb * (a->trans_b ? a->n : a->k);
    p.n_c = a->ldc * a->m;
    p.x = test_random(n_a, 1, 1);
    p.y = test_random(n_b, 2, 1);
    p.expected = test_random(p.n_c, 3, 1);
    p.a = stored(o, p.x, n_a, bf16, shift);
    p.b = stored(o, p.y, n_b, bf16, 2 * shift);
    p.c = stored(o, p.expected, p.n_c, c_bf16, shift);
    a->a = (const struct act *)(const void *)((char *)p.a + shift * (bf16 ? 2 : 4));
    a->b = (char *)p.b + 2 * shift * (bf16 ? 2 : 4);
    a->c = (char *)p.c + shift * (c_bf16 ? 2 : 4);
    plain(&p, bf16);
    o->be.k->gemm(&o->be, a, o->workspace);
    if (o->be.err.code != ERR_NONE)
        fail_msg("%s", o->be.err.text);
    real *got = test_zeros(p.n_c);
    dtype_to_real(c_bf16 ? DTYPE_BF16 : DTYPE_F32, a->c, p.n_c, got);
    const double error = test_relative_error(got, p.expected, p.n_c, 1e-30);
    if (!(error < (c_bf16 ? tolerance_bf16 : tolerance_f32)))
        fail_msg("m %d n %d k %d form %d shift %d pad %d: relative error %.3g", (int)a->m,
                 (int)a->n, (int)a->k, form, (int)shift, (int)pad, error);
    void *device[] = { p.a, p.b, p.c };
    real *host[] = { p.x, p.y, p.expected, got };
    for (int i = 0; i < 3; i++)
        o->d->free(o->d, device[i]);
    for (int i = 0; i < 4; i++)
        test_release(host[i]);
}

static void products_are_mapped_onto_column_major(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        { 1, 1, 1 },  { 3, 5, 1 },   { 1, 7, 4 },   { 5, 1, 9 },
        { 7, 6, 33 }, { 19, 12, 8 }, { 40, 8, 16 }, { 8, 24, 70 }
    };
    static const enum dtype acts[] = { DTYPE_F32, DTYPE_BF16 };
    for (int t = 0; t < 2; t++) {
        fake_reset();
        struct opened o = open_act(acts[t]);
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (int form = 0; form < 16; form++) {
                check_product(&o, shapes[s], form, 0, 0);
                check_product(&o, shapes[s], form, 1, 3);
            }
        }
        const int64_t products = fake.products;
        o.be.k->gemm(&o.be, &(struct gemm_args){ .n = 4, .k = 4, .ldc = 4, .b_dtype = acts[t] },
                     NULL);
        assert_int_equal(fake.products, products); /* m 0 */
        assert_int_equal(o.be.err.code, ERR_NONE);
        close_opened(&o);
    }
}

static void run_rows(struct opened *o, int64_t m, int form)
{
    const int64_t shape[3] = { m, 4, 3 }, transposed[3] = { 4, 3, m };
    check_product(o, form & 1 ? transposed : shape, form, 0, 0);
}

static void the_heuristic_is_asked_once_for_nearby_numbers_of_rows(void **state)
{
    (void)state;
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    for (int64_t m = 1; m <= 16; m++)
        run_rows(&o, m, 2);
    assert_int_equal(fake.queries, 16);
    for (int64_t m = 17; m <= 256; m++)
        run_rows(&o, m, 2);
    assert_int_equal(fake.queries, 16 + 4 * 8);
    const int64_t entries = gemm_of(&o)->table.n;
    for (int64_t m = 1; m <= 256; m += 5)
        run_rows(&o, m, 2);
    assert_int_equal(fake.queries, 16 + 4 * 8);
    assert_int_equal(gemm_of(&o)->table.n, entries);
    for (int64_t k = 129; k <= 144; k++) /* a sum over tokens: a (k, m), b (k, n) */
        run_rows(&o, k, 1 | 4);
    assert_int_equal(fake.queries, 16 + 4 * 8 + 1);
    close_opened(&o);
}

static void an_algorithm_that_cannot_run_the_exact_shape_is_replaced(void **state)
{
    (void)state;
    fake_reset();
    fake.strict = true;
    struct opened o = open_act(DTYPE_BF16);
    run_rows(&o, 100, 2);
    assert_int_equal(fake.queries, 2);
    run_rows(&o, 100, 2);
    assert_int_equal(fake.queries, 2);
    assert_int_equal(fake.refused, 1); /* the second time it was known */
    run_rows(&o, 104, 2);              /* what 100 is rounded to */
    assert_int_equal(fake.queries, 2);
    close_opened(&o);
}

static void a_shape_without_an_algorithm_is_named(void **state)
{
    (void)state;
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    fake.clueless = true;
    o.be.k->gemm(&o.be,
                 &(struct gemm_args){ .m = 100,
                                      .n = 8,
                                      .k = 4,
                                      .lda = 4,
                                      .ldb = 4,
                                      .ldc = 8,
                                      .trans_b = true,
                                      .b_dtype = DTYPE_BF16,
                                      .a = o.workspace,
                                      .b = (char *)o.workspace + 4,
                                      .c = (char *)o.workspace + 16 },
                 o.workspace);
    assert_string_equal(o.be.err.text, "fake device: gemm: m 100, n 8, k 4, b transposed, "
                                       "alignments 256 4 16: no algorithm");
    close_opened(&o);
}

static void the_table_holds_any_number_of_shapes(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct gemm_table t = { 0 };
    struct gemm_shape s = { .n = 1 };
    for (int64_t i = 0; i < N; i++) {
        s.m = i;
        assert_null(gemm_table_find(&t, &s));
        gemm_table_add(&t, &s)->algorithm.words[0] = (uint64_t)i;
    }
    assert_int_equal(t.n, N);
    for (int64_t i = 0; i < N; i++) {
        s.m = i;
        assert_int_equal(gemm_table_find(&t, &s)->algorithm.words[0], i);
    }
    s.align_c = 2;
    assert_null(gemm_table_find(&t, &s));
    gemm_table_free(&t);
}

/* ---- tuning ---- */

static void temporary(char path[64])
{
    snprintf(path, 64, "/tmp/jambatune-tuned-XXXXXX");
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

/* Three shapes run, then tuned: to `path`. */
static void tune_to(const char *path, int fastest)
{
    fake_reset();
    fake.fastest = fastest;
    struct opened o = open_act(DTYPE_BF16);
    run_rows(&o, 100, 2);
    run_rows(&o, 40, 2 | 8);
    run_rows(&o, 33, 1 | 4);
    assert_int_equal(fake.last_algorithm, 0);
    if (!module->tune(o.d, path, &o.err))
        fail_msg("%s", o.err.text);
    close_opened(&o);
}

static void a_tuned_algorithm_is_used_and_survives(void **state)
{
    (void)state;
    char path[64], again[64];
    char *text = NULL, *other = NULL;
    size_t n = 0, n_other = 0;
    struct err err = { 0 };
    temporary(path);
    temporary(again);
    tune_to(path, 3);
    fake_reset();
    struct opened o = open_with(&(struct cuda_options){ .act = DTYPE_BF16, .tuned = path });
    assert_int_equal(gemm_of(&o)->table.n, 3);
    run_rows(&o, 97, 2); /* rounded as 100 is */
    assert_int_equal(fake.last_algorithm, 3);
    run_rows(&o, 33, 1 | 4);
    assert_int_equal(fake.last_algorithm, 3);
    assert_int_equal(fake.queries, 0);
    run_rows(&o, 500, 2); /* not in the file */
    assert_int_equal(fake.last_algorithm, 0);
    close_opened(&o);

    tune_to(again, 3);
    assert_true(file_read(path, MIB, &text, &n, &err));
    assert_true(file_read(again, MIB, &other, &n_other, &err));
    assert_int_equal(n, n_other);
    assert_memory_equal(text, other, n);
    free(text);
    free(other);
    unlink(path);
    unlink(again);
}

static void noise_does_not_choose(void **state)
{
    (void)state;
    char path[64];
    temporary(path);
    tune_to(path, 2); /* the one that the heuristic says cannot run */
    fake_reset();
    struct opened o = open_with(&(struct cuda_options){ .act = DTYPE_BF16, .tuned = path });
    run_rows(&o, 100, 2);
    assert_int_equal(fake.last_algorithm, 0);
    close_opened(&o);
    unlink(path);
}

static void nothing_is_tuned_before_something_ran(void **state)
{
    (void)state;
    fake_reset();
    struct opened o = open_act(DTYPE_BF16);
    assert_false(module->tune(o.d, "/no/such/folder/file", &o.err));
    assert_string_equal(o.err.text, "nothing to tune: no product has run");
    run_rows(&o, 2, 2);
    assert_false(module->tune(o.d, "/no/such/folder/file", &o.err));
    assert_int_equal(o.err.code, ERR_CANT_CREATE);
    close_opened(&o);
}

/* Not file_write, whose fsyncs would be most of this test's time. */
static void put_file(const char *path, const char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void expect_bad_file(const char *path, const char *part)
{
    struct err err = { 0 };
    assert_null(module->open(&(struct cuda_options){ .act = DTYPE_BF16, .tuned = path }, &err));
    if (strncmp(err.text, path, strlen(path)) != 0 || strstr(err.text, part) == NULL)
        fail_msg("'%s' where '%s' was expected", err.text, part);
    assert_int_equal(err.code, ERR_DATA);
    assert_int_equal(fake.alive, 0);
}

/* Cut short anywhere, or with any byte changed, the file is refused or the same algorithms. */
static void a_damaged_file_is_refused(void **state)
{
    (void)state;
    char path[64];
    char *text = NULL;
    size_t n = 0;
    struct err err = { 0 };
    temporary(path);
    tune_to(path, 3);
    assert_true(file_read(path, MIB, &text, &n, &err));
    fake_reset();
    for (size_t cut = 0; cut + 1 < n; cut += 7) {
        put_file(path, text, cut);
        expect_bad_file(path, "tune again");
    }
    for (size_t i = 0; i < n; i++) {
        char *changed = malloc(n);
        assert_non_null(changed);
        memcpy(changed, text, n);
        changed[i] = changed[i] == '7' ? '\0' : '7';
        put_file(path, changed, n);
        struct device *d =
            module->open(&(struct cuda_options){ .act = DTYPE_BF16, .tuned = path }, &err);
        if (d != NULL)
            d->close(d);
        assert_int_equal(fake.alive, 0);
        free(changed);
    }
    put_file(path, text, n);
    fake.name = "another device";
    expect_bad_file(path, ": not for this device and version of cuBLASLt (another device, ");
    fake.name = "fake device";
    fake.workspace = (size_t)1 << 30;
    expect_bad_file(path, " cannot run here; tune again");
    fake.workspace = 0;
    /* A line less, as after an edit by hand; and an algorithm for another shape. */
    char *line = strstr(text, "\n01110 "), *rest = line != NULL ? strchr(line + 1, '\n') : NULL;
    assert_non_null(rest);
    char *shorter = malloc(n);
    assert_non_null(shorter);
    memcpy(shorter, text, (size_t)(line - text));
    memcpy(shorter + (line - text), rest, n - (size_t)(rest - text));
    put_file(path, shorter, n - (size_t)(rest - line));
    expect_bad_file(path, "tune again");
    free(shorter);
    char *m = strstr(text, " 104 4 3 ");
    assert_non_null(m);
    memcpy(m, " 112 4 3 ", 9);
    put_file(path, text, n);
    expect_bad_file(path, "the algorithm for m 112, n 4, k 3 cannot run here; tune again");
    unlink(path);
    assert_null(module->open(&(struct cuda_options){ .act = DTYPE_BF16, .tuned = path }, &err));
    assert_int_equal(err.code, ERR_NO_INPUT);
    free(text);
}

/* ---- marks ---- */

/* Products of half a millisecond each. */
static void work(struct opened *o, int n)
{
    float *p = o->workspace;
    for (; n > 0; n--)
        o->be.k->gemm(&o->be,
                      &(struct gemm_args){ .m = 1,
                                           .n = 1,
                                           .k = 1,
                                           .lda = 1,
                                           .ldb = 1,
                                           .ldc = 1,
                                           .a = (const struct act *)(const void *)p,
                                           .b = p,
                                           .c = p },
                      p);
    assert_int_equal(o->be.err.code, ERR_NONE);
}

static void expect_ms(const double seconds[DEVICE_TAGS], int tag, double ms)
{
    if (fabs(1e3 * seconds[tag] - ms) > 1e-6)
        fail_msg("tag %d: %.9g ms; expected %.9g", tag, 1e3 * seconds[tag], ms);
}

static void marks_tell_the_devices_time_by_tag(void **state)
{
    (void)state;
    fake_reset();
    struct opened o = open_act(DTYPE_F32);
    double seconds[DEVICE_TAGS];
    o.d->marked(o.d, seconds); /* none so far */
    for (int tag = 0; tag < DEVICE_TAGS; tag++)
        expect_ms(seconds, tag, 0);
    o.d->mark(o.d, 0);
    const int64_t alive = fake.alive, waits = fake.waits;
    work(&o, 1);
    o.d->mark(o.d, 3);
    work(&o, 4);
    o.d->mark(o.d, DEVICE_TAGS - 1);
    work(&o, 2);
    o.d->mark(o.d, 3);
    work(&o, 3);
    assert_int_equal(fake.waits, waits); /* a mark does not wait */
    o.d->marked(o.d, seconds);
    for (int tag = 0; tag < DEVICE_TAGS; tag++)
        expect_ms(seconds, tag, tag == 0 ? 0.5 : tag == 3 ? 3.5 : tag == DEVICE_TAGS - 1 ? 1 : 0);
    work(&o, 1); /* still the last tag's */
    o.d->marked(o.d, seconds);
    expect_ms(seconds, 0, 0);
    expect_ms(seconds, 3, 0.5);
    assert_int_equal(fake.alive, alive);
    close_opened(&o);
}

static void there_may_be_any_number_of_marks(void **state)
{
    (void)state;
    enum { ROUNDS = 3000 };
    fake_reset();
    struct opened o = open_act(DTYPE_F32);
    double seconds[DEVICE_TAGS];
    for (int take = 0; take < 2; take++) {
        for (int i = 0; i < ROUNDS; i++) {
            o.d->mark(o.d, 1);
            work(&o, 1);
            o.d->mark(o.d, 2);
            work(&o, i % 2);
        }
        o.d->marked(o.d, seconds);
        expect_ms(seconds, 1, 0.5 * ROUNDS);
        expect_ms(seconds, 2, 0.25 * ROUNDS);
    }
    close_opened(&o);
}

/* Whichever call fails: no times, no later ones either, and the failure waits for the next op. */
static void a_mark_that_fails_leaves_no_half_times(void **state)
{
    (void)state;
    int64_t n_failed = 0;
    for (bool failed = true; failed; n_failed += failed) {
        fake_reset();
        struct opened o = open_act(DTYPE_F32);
        double seconds[DEVICE_TAGS];
        work(&o, 1); /* its algorithm is known from here on */
        fake.failing_call = fake.calls + n_failed + 1;
        o.d->mark(o.d, 1);
        o.d->mark(o.d, 2);
        o.d->marked(o.d, seconds);
        failed = fake.last_error != 0; /* else it was beyond the last call */
        for (int take = 0; failed && take < 2; take++) {
            for (int tag = 0; tag < DEVICE_TAGS; tag++)
                expect_ms(seconds, tag, 0);
            fake.failing_call = 0;
            o.d->mark(o.d, 1);
            work(&o, 1);
            o.d->marked(o.d, seconds);
        }
        close_opened(&o);
    }
    assert_true(n_failed > 1000); /* of the ring's events alone */
}

/* ---- every call fails once ---- */

/* Open, copy there and back, a product, tune, close. Returns whether all went well. */
static bool whole_life(const char *path)
{
    struct err err = { 0 };
    struct device *d = module->open(&(struct cuda_options){ .act = DTYPE_F32 }, &err);
    if (d == NULL)
        return false;
    struct backend be = { .k = module->ops, .act = DTYPE_F32, .device = d };
    float host[64] = { 0 };
    char *p = d->alloc(d, 4096, &err);
    if (p != NULL) {
        const struct gemm_args args = { .m = 4,
                                        .n = 4,
                                        .k = 4,
                                        .lda = 4,
                                        .ldb = 4,
                                        .ldc = 4,
                                        .a = (const struct act *)(const void *)p,
                                        .b = p,
                                        .c = p + 256 };
        be.k->to_device(&be, &(struct copy_args){ host, p, sizeof host }, NULL);
        be.k->gemm(&be, &args, p + 1024);
        be.k->to_host(&be, &(struct copy_args){ p, host, sizeof host }, NULL);
    }
    const bool ok =
        p != NULL && be.err.code == ERR_NONE && d->finish(d, &err) && module->tune(d, path, &err);
    if (!ok)
        assert_true(err.code != ERR_NONE || be.err.code != ERR_NONE);
    d->free(d, p);
    d->close(d);
    return ok;
}

static void any_call_may_fail(void **state)
{
    (void)state;
    char path[64];
    temporary(path);
    for (int for_good = 0; for_good < 2; for_good++) {
        int64_t failed = 0, calls = 1;
        for (int64_t nth = 0; nth <= calls; nth++) {
            fake_reset();
            fake.failing_call = nth;
            fake.for_good = for_good != 0;
            const bool ok = whole_life(path);
            assert_int_equal(fake.alive, 0);
            assert_int_equal(fake.used, 0);
            if (nth == 0) {
                assert_true(ok);
                calls = fake.calls;
            }
            failed += !ok;
        }
        assert_true(calls > 40);
        /* Tuning passes over an algorithm that fails once, and closing over everything. */
        assert_true(failed >= 20);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_that_cannot_be_used_is_refused),
        cmocka_unit_test(facts_are_the_devices),
        cmocka_unit_test(memory_that_is_not_there_is_told_in_numbers),
        cmocka_unit_test(faults_are_only_noticed_in_an_op),
        cmocka_unit_test(bytes_come_back_as_they_went),
        cmocka_unit_test(small_uploads_do_not_wait),
        cmocka_unit_test(a_fault_sticks),
        cmocka_unit_test(products_are_mapped_onto_column_major),
        cmocka_unit_test(the_heuristic_is_asked_once_for_nearby_numbers_of_rows),
        cmocka_unit_test(an_algorithm_that_cannot_run_the_exact_shape_is_replaced),
        cmocka_unit_test(a_shape_without_an_algorithm_is_named),
        cmocka_unit_test(the_table_holds_any_number_of_shapes),
        cmocka_unit_test(a_tuned_algorithm_is_used_and_survives),
        cmocka_unit_test(noise_does_not_choose),
        cmocka_unit_test(nothing_is_tuned_before_something_ran),
        cmocka_unit_test(a_damaged_file_is_refused),
        cmocka_unit_test(marks_tell_the_devices_time_by_tag),
        cmocka_unit_test(there_may_be_any_number_of_marks),
        cmocka_unit_test(a_mark_that_fails_leaves_no_half_times),
        cmocka_unit_test(any_call_may_fail),
    };
    return cmocka_run_group_tests_name("cuda device", tests, NULL, NULL);
}
