/* What many tests need: cmocka, random reals, comparisons, finite differences, a CPU backend. */
#ifndef TESTS_SUPPORT_SUPPORT_H
#define TESTS_SUPPORT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "kernels/ops.h"

/* A CPU backend with scratch of its own. */
struct test_backend {
    struct backend be;
    struct arena scratch;
};
void test_backend_init(struct test_backend *t, int n_thread);
void test_backend_free(struct test_backend *t);

/* malloc'd reals with guard values around them; test_release fails the test when a guard was
 * written over. */
real *test_zeros(int64_t n);
real *test_random(int64_t n, uint64_t seed, double scale);
void test_release(real *p);

/* ||a - b|| / max(||b||, floor). */
double test_relative_error(const real *a, const real *b, int64_t n, double floor);

/* The largest error of analytic gradients against central differences of loss(context) in a
 * variable: max |numeric - analytic| / max(1, |numeric|), over at most max_probe elements spread
 * over x. */
struct test_variable {
    const char *name;
    real *x;
    const real *dx;
    int64_t n;
};
double test_gradient_error(double (*loss)(void *context), void *context,
                           const struct test_variable *v, int max_probe);

/* Asserts that of each variable (n_variable of them) in the double build; in the float build
 * central differences show nothing, and the tests that call this are skipped. */
void test_check_gradients(double (*loss)(void *context), void *context,
                          const struct test_variable *v, int n_variable);

/* Positions of documents of the given lengths laid end to end; returns the number of tokens. */
int64_t test_positions(const int *lengths, int n_doc, int32_t *pos, int32_t *doc);

#endif
