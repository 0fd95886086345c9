/* The timing backend: counts and FLOPs are exact, and nothing else changes; the processor's peak.
 */
#include "tests/support/support.h"

#include <string.h>

#include "kernels/core/device.h"
#include "kernels/cpu/cpu.h"
#include "kernels/timing/timing.h"

enum { M = 20, N = 24, K = 40 };

struct fixture {
    struct test_backend t;
    struct timing_backend *timing;
    real *x, *w, *y;
};

static void open(struct fixture *f)
{
    test_backend_init(&f->t, 2);
    f->timing = test_malloc(sizeof *f->timing);
    timing_backend_init(f->timing, &f->t.be);
    f->x = test_random(M * K, 1, 1);
    f->w = test_random(K * N, 2, 1);
    f->y = test_zeros(M * N);
}

static void close(struct fixture *f)
{
    test_release(f->x);
    test_release(f->w);
    test_release(f->y);
    test_free(f->timing);
    test_backend_free(&f->t);
}

static void multiply(struct fixture *f, struct backend *be, int64_t m, bool trans_b, real *y)
{
    op_gemm(be, &(struct gemm_args){ .m = m,
                                     .n = N,
                                     .k = K,
                                     .a = acts_in(f->x),
                                     .lda = K,
                                     .b = f->w,
                                     .ldb = trans_b ? K : N,
                                     .b_dtype = DTYPE_REAL,
                                     .trans_b = trans_b,
                                     .c = y,
                                     .ldc = N,
                                     .alpha = 1 });
}

static const struct timing_gemm *shape_of(const struct timing_backend *t, int64_t m, bool trans_b)
{
    for (int i = 0; i < TIMING_MAX_GEMM; i++) {
        const struct timing_gemm *g = &t->gemms[i];
        if (g->sum.calls > 0 && g->m == m && g->n == N && g->k == K && g->trans_b == trans_b)
            return g;
    }
    return NULL;
}

static void calls_and_flops_are_counted_by_op_and_shape(void **state)
{
    (void)state;
    struct fixture f;
    open(&f);
    for (int i = 0; i < 3; i++)
        multiply(&f, &f.timing->be, M, false, f.y);
    multiply(&f, &f.timing->be, M, true, f.y);
    multiply(&f, &f.timing->be, 7, false, f.y);
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = M * N * sizeof(real) });

    assert_int_equal(f.timing->ops[OP_gemm].calls, 5);
    assert_int_equal(f.timing->ops[OP_zero].calls, 1);
    assert_int_equal(f.timing->ops[OP_add].calls, 0);
    assert_true(f.timing->gemm_flops == 2.0 * N * K * (4 * M + 7));
    assert_int_equal(f.timing->n_gemm, 3);
    assert_int_equal(shape_of(f.timing, M, false)->sum.calls, 3);
    assert_int_equal(shape_of(f.timing, M, true)->sum.calls, 1);
    assert_int_equal(shape_of(f.timing, 7, false)->sum.calls, 1);
    double seconds = 0;
    for (int i = 0; i < TIMING_MAX_GEMM; i++)
        seconds += f.timing->gemms[i].sum.seconds;
    assert_true(seconds > 0 && seconds < 10);
    assert_true(seconds - f.timing->ops[OP_gemm].seconds < 1e-9 &&
                f.timing->ops[OP_gemm].seconds - seconds < 1e-9);

    timing_backend_reset(f.timing);
    assert_int_equal(f.timing->ops[OP_gemm].calls, 0);
    assert_int_equal(f.timing->n_gemm, 0);
    assert_true(f.timing->gemm_flops == 0 && shape_of(f.timing, M, true) == NULL);
    close(&f);
}

static void more_shapes_than_there_is_room_for_are_still_counted(void **state)
{
    (void)state;
    struct fixture f;
    open(&f);
    real *x = test_zeros(TIMING_MAX_GEMM + 9);
    for (int64_t m = 1; m <= TIMING_MAX_GEMM + 9; m++)
        op_gemm(&f.timing->be, &(struct gemm_args){ .m = m,
                                                    .n = 1,
                                                    .k = 1,
                                                    .a = acts_in(x),
                                                    .lda = 1,
                                                    .b = f.w,
                                                    .ldb = 1,
                                                    .b_dtype = DTYPE_REAL,
                                                    .c = x,
                                                    .ldc = 1 });
    assert_int_equal(f.timing->n_gemm, TIMING_MAX_GEMM);
    assert_int_equal(f.timing->ops[OP_gemm].calls, TIMING_MAX_GEMM + 9);
    test_release(x);
    close(&f);
}

static void results_and_scratch_are_those_of_the_wrapped_backend(void **state)
{
    (void)state;
    struct fixture f;
    open(&f);
    real *plain = test_zeros(M * N);
    multiply(&f, &f.t.be, M, false, plain);
    const size_t peak = f.t.scratch.peak;
    multiply(&f, &f.timing->be, M, false, f.y);
    assert_memory_equal(f.y, plain, (size_t)(M * N) * sizeof(real));
    assert_int_equal(f.t.scratch.peak, peak);
    assert_int_equal(f.t.scratch.used, 0);
    assert_string_equal(f.timing->be.name, f.t.be.name);
    test_release(plain);
    close(&f);
}

/* As a device's error would: found by the wrapped backend, looked for in the one in use. */
static void an_error_of_the_wrapped_backend_is_seen(void **state)
{
    (void)state;
    struct fixture f;
    open(&f);
    err_set(&f.t.be.err, ERR_DEVICE, "gone");
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 1 });
    assert_int_equal(f.timing->be.err.code, ERR_DEVICE);
    assert_string_equal(f.timing->be.err.text, "gone");
    close(&f);
}

/* A device that counts how often it is waited for, and fails from the second time on. */
struct counting_device {
    struct device device; /* first */
    int finished;
};

static bool count_finish(struct device *d, struct err *err)
{
    struct counting_device *c = (struct counting_device *)(void *)d;
    return ++c->finished < 2 || err_set(err, ERR_DEVICE, "gone");
}

static void with_wait_each_op_ends_with_the_device(void **state)
{
    (void)state;
    struct fixture f;
    struct counting_device d = { .device = { .finish = count_finish } };
    open(&f);
    f.t.be.device = &d.device;
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 1 });
    assert_int_equal(d.finished, 0);
    f.timing->wait = true;
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 1 });
    assert_int_equal(d.finished, 1);
    assert_int_equal(f.timing->be.err.code, ERR_NONE);
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 1 });
    assert_int_equal(d.finished, 2);
    assert_string_equal(f.timing->be.err.text, "gone");
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 1 });
    assert_int_equal(d.finished, 2); /* a device that failed is not waited for */
    f.t.be.device = NULL;
    close(&f);
}

static void note_zero(void *context, enum op_id op, const void *args)
{
    size_t *bytes = context;
    assert_int_equal(op, OP_zero);
    *bytes += ((const struct zero_args *)args)->bytes;
}

static void each_call_is_handed_on(void **state)
{
    (void)state;
    struct fixture f;
    size_t bytes = 0;
    open(&f);
    f.timing->on_call = note_zero;
    f.timing->context = &bytes;
    timing_backend_reset(f.timing); /* keeps it */
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 3 });
    op_zero(&f.timing->be, &(struct zero_args){ .y = f.y, .bytes = 5 });
    assert_int_equal(bytes, 8);
    close(&f);
}

static void ops_have_their_names(void **state)
{
    (void)state;
    assert_string_equal(timing_op_name(OP_gemm), "gemm");
    assert_string_equal(timing_op_name(OP_scan_backward), "scan_backward");
    assert_string_equal(timing_op_name(N_OP - 1), "adamw");
}

static void the_peak_is_a_rate(void **state)
{
    (void)state;
    const double peak = cpu_peak_flops(1, 0.02);
    assert_true(peak > 1e7 && peak < 1e13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_and_flops_are_counted_by_op_and_shape),
        cmocka_unit_test(more_shapes_than_there_is_room_for_are_still_counted),
        cmocka_unit_test(results_and_scratch_are_those_of_the_wrapped_backend),
        cmocka_unit_test(an_error_of_the_wrapped_backend_is_seen),
        cmocka_unit_test(with_wait_each_op_ends_with_the_device),
        cmocka_unit_test(each_call_is_handed_on),
        cmocka_unit_test(ops_have_their_names),
        cmocka_unit_test(the_peak_is_a_rate),
    };
    return cmocka_run_group_tests_name("timing", tests, NULL, NULL);
}
