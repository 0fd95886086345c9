#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"
#include "kernels/cpu/cpu.h"

/* Central differences in double with a step of 1e-5 err by about 1e-10 of the function's third
 * derivative and 1e-16 / 1e-5 of its value: 1e-7 holds with room, and a dropped term is off by far
 * more. */
static const double gradient_tolerance = 1e-7;

enum { GUARD = 8 };
static const double guard_value = 12345.678;

void test_backend_init(struct test_backend *t, int n_thread)
{
    struct err err;
    if (!arena_init(&t->scratch, "scratch", (size_t)1 << 30, &err))
        fail_msg("%s", err.text);
    cpu_backend_init(&t->be, &t->scratch, n_thread);
}

void test_backend_free(struct test_backend *t)
{
    arena_free(&t->scratch);
}

/* Layout: n, guards, data, guards. */
real *test_zeros(int64_t n)
{
    real *p = calloc((size_t)n + 2 * GUARD + 2, sizeof(real));
    assert_non_null(p);
    memcpy(p, &n, sizeof n);
    for (int i = 0; i < GUARD; i++)
        p[2 + i] = p[2 + GUARD + n + i] = (real)guard_value;
    return p + 2 + GUARD;
}

real *test_random(int64_t n, uint64_t seed, double scale)
{
    real *p = test_zeros(n);
    for (int64_t i = 0; i < n; i++)
        p[i] = (real)(scale * rng_normal(seed, RNG_SAMPLE, 0, (uint64_t)i));
    return p;
}

void test_release(real *p)
{
    real *base = p - 2 - GUARD;
    int64_t n;
    memcpy(&n, base, sizeof n);
    for (int i = 0; i < GUARD; i++) {
        if (base[2 + i] != (real)guard_value || p[n + i] != (real)guard_value)
            fail_msg("an op wrote outside its output of %ld", (long)n);
    }
    free(base);
}

double test_relative_error(const real *a, const real *b, int64_t n, double floor)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    norm = sqrt(norm);
    return sqrt(difference) / (norm > floor ? norm : floor);
}

double test_gradient_error(double (*loss)(void *context), void *context,
                           const struct test_variable *v, int max_probe)
{
    const double step = 1e-5;
    const int64_t stride = v->n > max_probe ? v->n / max_probe : 1;
    double worst = 0;
    for (int64_t i = 0; i < v->n; i += stride) {
        const real kept = v->x[i];
        v->x[i] = (real)((double)kept + step);
        const double up = loss(context);
        v->x[i] = (real)((double)kept - step);
        const double down = loss(context);
        v->x[i] = kept;
        const double numeric = (up - down) / (2 * step), analytic = (double)v->dx[i];
        double error = fabs(numeric - analytic) / fmax(1, fabs(numeric));
        if (!(error <= worst)) /* a NaN is the worst of all */
            worst = error;
    }
    return worst;
}

void test_check_gradients(double (*loss)(void *context), void *context,
                          const struct test_variable *v, int n_variable)
{
    if (!REAL_IS_DOUBLE)
        return;
    for (int i = 0; i < n_variable; i++) {
        const double error = test_gradient_error(loss, context, &v[i], 200);
        if (!(error < gradient_tolerance))
            fail_msg("gradient of %s: error %.3g", v[i].name, error);
    }
}

int64_t test_positions(const int *lengths, int n_doc, int32_t *pos, int32_t *doc)
{
    int64_t n = 0;
    for (int d = 0; d < n_doc; d++) {
        for (int i = 0; i < lengths[d]; i++, n++) {
            pos[n] = i;
            if (doc != NULL)
                doc[n] = d;
        }
    }
    return n;
}
