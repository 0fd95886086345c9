/* RMSNorm on the device against the CPU's: rows of every width the kernel has, with gaps between
 * them, unaligned and too long for the registers. */
#include "tests/cuda/parity.h"

#include <math.h>
#include <string.h>

static const enum dtype acts[] = { DTYPE_F32, DTYPE_BF16 };

enum { N_ACT = 2 };

/* Rows of dim elements, `first` elements into rows of ldx and ldy (0: dense); w begins w_first
 * elements off alignment. */
struct shape {
    int64_t n_row, dim, ldx, ldy, first, w_first;
};

static const struct shape shapes[] = {
    { 1, 1, 0, 0, 0, 0 },       { 5, 7, 0, 0, 0, 0 },    { 3, 33, 40, 35, 1, 0 },
    { 3, 36, 48, 40, 0, 0 }, /* rows aligned, dim no multiple of eight */
    { 3, 64, 65, 64, 0, 0 }, /* not aligned: x, y, both, w */
    { 3, 64, 64, 65, 0, 0 },    { 3, 64, 64, 64, 1, 0 }, { 3, 64, 0, 0, 0, 1 },
    { 67, 16, 288, 0, 272, 0 }, /* 1 lane a row in bf16 */
    { 35, 40, 48, 48, 0, 0 },   { 19, 48, 0, 0, 0, 0 },  { 37, 160, 192, 0, 0, 0 },
    { 9, 256, 288, 264, 8, 0 }, { 5, 640, 0, 0, 0, 0 },  { 3, 1280, 0, 1288, 0, 0 },
    { 3, 2560, 0, 0, 0, 0 },    { 5, 4096, 0, 0, 0, 0 }, { 1, 8192, 0, 0, 0, 0 },
    { 1, 17000, 0, 0, 0, 0 }, /* 512 threads in bf16, too long in f32 */
    { 2, 20488, 0, 0, 0, 0 }, /* too long */
};

enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static const double eps = 1e-3; /* large enough to be seen */

static int64_t elements(const struct shape *s, int64_t ld)
{
    return s->first + s->n_row * (ld ? ld : s->dim);
}

static real *device_weights(struct parity *p, const struct shape *s, const real *w)
{
    real *shifted = parity_reals_out(p, s->dim + s->w_first);
    memcpy(shifted + s->w_first, w, (size_t)s->dim * sizeof *w);
    return parity_reals(p, shifted, s->dim + s->w_first) + s->w_first;
}

/* What is at a place of x, alike on both sides. */
struct both {
    real *host;
    struct act *device;
};

static struct both both_random(struct parity *p, int64_t n, uint64_t seed, double scale)
{
    real *x = parity_random(p, n, seed, scale);
    return (struct both){ x, parity_act(p, x, n) };
}

static struct both both_nan(struct parity *p, int64_t n)
{
    return (struct both){ parity_reals_out(p, n), parity_act(p, NULL, n) };
}

static void check(struct parity *p, const char *name, struct both b, int64_t n)
{
    parity_check_act(p, name, b.device, b.host, n);
}

/* The same call for each side: rows begin at `first`. */
static void forward(struct parity *p, const struct shape *s, struct both x, struct both residual,
                    struct both sum, struct both y, const real *w, const real *device_w)
{
    struct rmsnorm_args a = {
        .w = w, .n_row = s->n_row, .dim = s->dim, .ldx = s->ldx, .ldy = s->ldy, .eps = eps
    };
    a.x = act_in(&p->cpu, acts_in(x.host), s->first);
    a.y = act_at(&p->cpu, acts_of(y.host), s->first);
    a.residual = acts_in(residual.host);
    a.sum = acts_of(sum.host);
    op_rmsnorm_forward(&p->cpu, &a);
    a.w = device_w;
    a.x = act_in(&p->cuda, x.device, s->first);
    a.y = act_at(&p->cuda, y.device, s->first);
    a.residual = residual.device;
    a.sum = sum.device;
    op_rmsnorm_forward(&p->cuda, &a);
}

static void forward_equals_the_cpu_for_rows_of_all_widths(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const struct shape *s = &shapes[k % N_SHAPE];
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        const int64_t n_x = elements(s, s->ldx), n_y = elements(s, s->ldy);
        real *w = parity_random(&p, s->dim, 2, 1);
        const struct both none = { NULL, NULL };
        struct both x = both_random(&p, n_x, 1, 1), y = both_nan(&p, n_y);
        forward(&p, s, x, none, none, y, w, device_weights(&p, s, w));
        check(&p, "y", y, n_y); /* what lies between rows stays NaN on both sides */
        parity_close(&p);
    }
}

enum { SUM_APART, SUM_IS_X, SUM_IS_RESIDUAL, N_SUM };

static void residual_is_added_before_the_norm_wherever_the_sum_goes(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE * N_SUM; k++) {
        const struct shape *s = &shapes[k / N_SUM % N_SHAPE];
        const int where = k % N_SUM;
        if (where == SUM_IS_X && (s->ldx != 0 || s->first != 0))
            continue; /* sum is dense */
        struct parity p;
        parity_open(&p, acts[k / N_SUM / N_SHAPE]);
        const int64_t n_x = elements(s, s->ldx), n_y = elements(s, s->ldy), n = s->n_row * s->dim;
        real *w = parity_random(&p, s->dim, 2, 1);
        struct both x = both_random(&p, n_x, 1, 1), y = both_nan(&p, n_y);
        struct both residual = both_random(&p, n, 3, 1), sum = both_nan(&p, n);
        sum = where == SUM_IS_X ? x : where == SUM_IS_RESIDUAL ? residual : sum;
        forward(&p, s, x, residual, sum, y, w, device_weights(&p, s, w));
        check(&p, "y", y, n_y);
        check(&p, "sum", sum, n);
        parity_close(&p);
    }
}

/* In bf16 the sum is rounded, and what follows must see what was written: to the bit. */
static void norm_with_a_residual_is_the_norm_of_the_rounded_sum(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const struct shape *s = &shapes[k % N_SHAPE];
        const int64_t n = s->n_row * s->dim;
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        struct both x = both_random(&p, n, 1, 1), residual = both_random(&p, n, 3, 1);
        real *w = parity_random(&p, s->dim, 2, 1);
        struct act *sum = parity_act(&p, NULL, n), *y = parity_act(&p, NULL, n);
        struct act *again = parity_act(&p, NULL, n);
        struct rmsnorm_args a = { .x = x.device,
                                  .w = device_weights(&p, s, w),
                                  .y = y,
                                  .residual = residual.device,
                                  .sum = sum,
                                  .n_row = s->n_row,
                                  .dim = s->dim,
                                  .eps = eps };
        op_rmsnorm_forward(&p.cuda, &a);
        a.residual = NULL;
        a.x = sum;
        a.y = again;
        op_rmsnorm_forward(&p.cuda, &a);
        assert_memory_equal(parity_read_act(&p, y, n), parity_read_act(&p, again, n),
                            (size_t)n * sizeof(real));
        parity_close(&p);
    }
}

static void backward(struct parity *p, const struct shape *s, struct both x, struct both dy,
                     struct both dx, const real *w, const real *device_w)
{
    struct rmsnorm_args a = {
        .w = w, .n_row = s->n_row, .dim = s->dim, .ldx = s->ldx, .ldy = s->ldy, .eps = eps
    };
    a.x = act_in(&p->cpu, acts_in(x.host), s->first);
    a.dy = act_in(&p->cpu, acts_in(dy.host), s->first);
    a.dx = act_at(&p->cpu, acts_of(dx.host), s->first);
    op_rmsnorm_backward(&p->cpu, &a);
    a.w = device_w;
    a.x = act_in(&p->cuda, x.device, s->first);
    a.dy = act_in(&p->cuda, dy.device, s->first);
    a.dx = act_at(&p->cuda, dx.device, s->first);
    op_rmsnorm_backward(&p->cuda, &a);
}

static void backward_adds_the_cpus_gradient(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const struct shape *s = &shapes[k % N_SHAPE];
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        const int64_t n_x = elements(s, s->ldx), n_y = elements(s, s->ldy);
        real *w = parity_random(&p, s->dim, 2, 1);
        struct both x = both_random(&p, n_x, 1, 1), dx = both_random(&p, n_x, 3, 0.3);
        real *dy = parity_random(&p, n_y, 4, 1);
        /* Along x w, so that the mean of q x is no small number and its term cannot be missing. */
        for (int64_t i = 0; i < s->n_row; i++) {
            for (int64_t j = 0; j < s->dim; j++) {
                real *v = &dy[s->first + i * (s->ldy ? s->ldy : s->dim) + j];
                const real xj = x.host[s->first + i * (s->ldx ? s->ldx : s->dim) + j];
                *v = parity_round(&p, *v + xj * w[j]);
            }
        }
        backward(&p, s, x, (struct both){ dy, parity_act(&p, dy, n_y) }, dx, w,
                 device_weights(&p, s, w));
        check(&p, "dx", dx, n_x);
        parity_close(&p);
    }
}

static void nan_stays_in_its_row(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const struct shape *s = &shapes[k % N_SHAPE];
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        const int64_t n_x = elements(s, s->ldx), n_y = elements(s, s->ldy);
        real *w = parity_random(&p, s->dim, 2, 1), *device_w = device_weights(&p, s, w);
        real *values = parity_random(&p, n_x, 1, 1);
        values[s->first + s->n_row / 2 * (s->ldx ? s->ldx : s->dim)] = (real)NAN;
        struct both x = { values, parity_act(&p, values, n_x) };
        struct both y = both_nan(&p, n_y), dx = both_random(&p, n_x, 3, 1);
        const struct both none = { NULL, NULL };
        forward(&p, s, x, none, none, y, w, device_w);
        check(&p, "y", y, n_y);
        backward(&p, s, x, both_random(&p, n_y, 4, 1), dx, w, device_w);
        check(&p, "dx", dx, n_x);
        parity_close(&p);
    }
}

static void no_rows_write_nothing(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT; k++) {
        struct parity p;
        parity_open(&p, acts[k]);
        const struct shape s = { 0, 16, 0, 0, 0, 0 };
        real *w = parity_random(&p, 16, 2, 1), *device_w = parity_reals(&p, w, 16);
        struct both x = both_random(&p, 16, 1, 1), y = both_nan(&p, 16);
        const struct both none = { NULL, NULL };
        forward(&p, &s, x, none, none, y, w, device_w);
        backward(&p, &s, x, x, y, w, device_w);
        check(&p, "y", y, 16);
        parity_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_equals_the_cpu_for_rows_of_all_widths),
        cmocka_unit_test(residual_is_added_before_the_norm_wherever_the_sum_goes),
        cmocka_unit_test(norm_with_a_residual_is_the_norm_of_the_rounded_sum),
        cmocka_unit_test(backward_adds_the_cpus_gradient),
        cmocka_unit_test(nan_stays_in_its_row),
        cmocka_unit_test(no_rows_write_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
