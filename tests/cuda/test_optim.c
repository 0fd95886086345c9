/* AdamW and the sums in double on the CUDA backend against the CPU's. */
#include <math.h>
#include <string.h>

#include "tests/cuda/parity.h"

/* One step is a dozen roundings of f32, and a contraction more or less. */
static const double step_tolerance = 1e-6;

/* Sums of the same doubles in another order. */
static const double sum_tolerance = 1e-12;

/* Blocks of 16384 elements: none, within one, exactly one, more; vectors of 4. */
static const int64_t sizes[] = { 0, 1, 3, 4, 1023, 1029, 16384, 16385, 50003 };
enum { N_SIZE = sizeof sizes / sizeof *sizes };

/* ---- AdamW ---- */

struct adamw {
    struct parity p;
    int64_t n, shift;
    real *param, *m, *v, *param_act;
    struct adamw_args cpu, cuda;
};

static real *to_device(struct adamw *a, const real *x)
{
    real *image = parity_reals_out(&a->p, a->n + a->shift);
    memcpy(image + a->shift, x, (size_t)a->n * sizeof *x);
    return parity_reals(&a->p, image, a->n + a->shift) + a->shift;
}

static void adamw_open(struct adamw *a, enum dtype act, int64_t n, int64_t shift)
{
    parity_open(&a->p, act);
    a->n = n;
    a->shift = shift;
    a->param = parity_random(&a->p, n, 1, 1);
    a->m = parity_random(&a->p, n, 2, 0.01);
    a->v = parity_random(&a->p, n, 3, 0.01);
    for (int64_t i = 0; i < n; i++)
        a->v[i] *= a->v[i];
    a->param_act = parity_reals_out(&a->p, n);
    a->cpu = (struct adamw_args){ .p = a->param,
                                  .m = a->m,
                                  .v = a->v,
                                  .p_act = acts_of(a->param_act),
                                  .n = n,
                                  .lr = 2e-3,
                                  .beta1 = 0.9,
                                  .beta2 = 0.999,
                                  .eps = 1e-8,
                                  .weight_decay = 0.1,
                                  .grad_scale = 0.37 };
    a->cuda = a->cpu;
    a->cuda.p = to_device(a, a->param);
    a->cuda.m = to_device(a, a->m);
    a->cuda.v = to_device(a, a->v);
    a->cuda.p_act = act_at(&a->p.cuda, parity_act(&a->p, NULL, n + shift), shift);
}

/* Gradients of many sizes; every ninth is zero, as those of an expert without tokens. */
static void adamw_step(struct adamw *a, int step)
{
    real *g = parity_random(&a->p, a->n, (uint64_t)(10 + step), 1);
    for (int64_t i = 0; i < a->n; i++)
        g[i] *= i % 9 == 0 ? 0 : (real)pow(10, (double)(i % 5) - 4);
    a->cpu.g = g;
    a->cuda.g = to_device(a, g);
    a->cpu.bias_correction1 = a->cuda.bias_correction1 = 1 - pow(0.9, step);
    a->cpu.bias_correction2 = a->cuda.bias_correction2 = 1 - pow(0.999, step);
    op_adamw(&a->p.cpu, &a->cpu);
    op_adamw(&a->p.cuda, &a->cuda);
}

static void adamw_check(struct adamw *a)
{
    struct parity *p = &a->p;
    parity_check_within(p, "p", step_tolerance, parity_read_reals(p, a->cuda.p, a->n), a->param,
                        a->n);
    parity_check_within(p, "m", step_tolerance, parity_read_reals(p, a->cuda.m, a->n), a->m, a->n);
    parity_check_within(p, "v", step_tolerance, parity_read_reals(p, a->cuda.v, a->n), a->v, a->n);
    if (a->cuda.p_act == NULL)
        return;
    /* What the device's own parameters are in the activations' type: no tolerance. */
    real *rounded = parity_read_reals(p, a->cuda.p, a->n);
    for (int64_t i = 0; i < a->n; i++)
        rounded[i] = parity_round(p, rounded[i]);
    parity_check_within(p, "p_act", 0, parity_read_act(p, a->cuda.p_act, a->n), rounded, a->n);
}

static void adamw_agrees(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZE * 4; i++) {
        struct adamw a;
        adamw_open(&a, i % 2 == 0 ? DTYPE_F32 : DTYPE_BF16, sizes[i / 4], i / 2 % 2);
        for (int step = 1; step <= 2; step++)
            adamw_step(&a, step);
        adamw_check(&a);
        a.cpu.p_act = a.cuda.p_act = NULL;
        adamw_step(&a, 3);
        adamw_check(&a);
        parity_close(&a.p);
    }
}

/* The parameters themselves may be the copy, where both are f32. */
static void parameters_may_be_their_own_copy(void **state)
{
    (void)state;
    struct adamw a;
    adamw_open(&a, DTYPE_F32, 1029, 0);
    a.cuda.p_act = (struct act *)(void *)a.cuda.p;
    adamw_step(&a, 1);
    adamw_check(&a);
    parity_close(&a.p);
}

/* Without gradients and moments a parameter only decays, whatever the smallest epsilon. */
static void zero_moments_stay_finite(void **state)
{
    (void)state;
    struct adamw a;
    adamw_open(&a, DTYPE_F32, 36, 0);
    memset(a.m, 0, 36 * sizeof *a.m);
    memset(a.v, 0, 36 * sizeof *a.v);
    a.cuda.m = to_device(&a, a.m);
    a.cuda.v = to_device(&a, a.v);
    a.cpu.eps = a.cuda.eps = 1.17549435e-38; /* FLT_MIN */
    adamw_step(&a, 1);
    adamw_check(&a);
    const real *param = parity_read_reals(&a.p, a.cuda.p, 36);
    for (int i = 0; i < 36; i++)
        assert_true(isfinite(param[i]));
    parity_close(&a.p);
}

/* ---- sums ---- */

static void check_sums(struct parity *p, const real *x, int64_t n, int64_t shift)
{
    double want = 0, got = -1, total = 0.25;
    const real *cuda_x = parity_reals(p, x - shift, n + shift) + shift;
    op_sum_squares(&p->cpu, &(struct sum_squares_args){ .x = x, .sum = &want, .n = n });
    op_sum_squares(&p->cuda, &(struct sum_squares_args){ .x = cuda_x, .sum = &got, .n = n });
    assert_true(fabs(got - want) <= sum_tolerance * want || got == want);
    double *sum = parity_bytes(p, &total, sizeof total);
    const double scale = -0.75;
    op_add_sum(&p->cpu, &(struct add_sum_args){ .x = x, .sum = &total, .scale = scale, .n = n });
    op_add_sum(&p->cuda, &(struct add_sum_args){ .x = cuda_x, .sum = sum, .scale = scale, .n = n });
    op_to_host(&p->cuda, &(struct copy_args){ .from = sum, .to = &got, .bytes = sizeof got });
    /* Terms of both signs cancel: held to the size of the terms. */
    assert_true(fabs(got - total) <= sum_tolerance * (1 + want));
}

static void sums_agree(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZE; i++) {
        for (int64_t shift = 0; shift < 2; shift++) {
            struct parity p;
            parity_open(&p, DTYPE_F32);
            check_sums(&p, parity_random(&p, sizes[i] + shift, 1, 1) + shift, sizes[i], shift);
            parity_close(&p);
        }
    }
}

/* Squares that f32 cannot hold; and what is not finite shows. */
static void extreme_sums_agree(void **state)
{
    (void)state;
    const int64_t n = 20000;
    struct parity p;
    parity_open(&p, DTYPE_F32);
    real *x = parity_random(&p, n, 1, 1e30);
    double want = 0, got = 0;
    op_sum_squares(&p.cpu, &(struct sum_squares_args){ .x = x, .sum = &want, .n = n });
    op_sum_squares(&p.cuda,
                   &(struct sum_squares_args){ .x = parity_reals(&p, x, n), .sum = &got, .n = n });
    assert_true(isfinite(got) && fabs(got - want) <= sum_tolerance * want);
    const real broken[] = { (real)NAN, (real)INFINITY };
    for (int i = 0; i < 2; i++) {
        x[19999] = broken[i];
        op_sum_squares(&p.cuda, &(struct sum_squares_args){
                                    .x = parity_reals(&p, x, n), .sum = &got, .n = n });
        assert_true(i == 0 ? isnan(got) : isinf(got));
    }
    parity_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_agrees),
        cmocka_unit_test(parameters_may_be_their_own_copy),
        cmocka_unit_test(zero_moments_stay_finite),
        cmocka_unit_test(sums_agree),
        cmocka_unit_test(extreme_sums_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
