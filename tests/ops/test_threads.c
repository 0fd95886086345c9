/* Threads belong to our regions, which name their number; a library inside an op gets none. */
#include "tests/support/support.h"

#include <omp.h>

/* oneDNN starts threads of its own wherever OpenMP says it is not in a parallel region, and a team
 * of one is none: every small GEMM of a run with one thread would wake and await all processors. */
static void a_library_in_an_op_gets_one_thread(void **state)
{
    (void)state;
    static const int counts[] = { 1, 2, 3 };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct test_backend t;
        test_backend_init(&t, counts[i]);
        assert_int_equal(t.be.n_thread, counts[i]);
        int most = 0;
#pragma omp parallel num_threads(t.be.n_thread) reduction(max : most)
        most = omp_get_max_threads();
        assert_int_equal(most, 1);
        test_backend_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_library_in_an_op_gets_one_thread) };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
