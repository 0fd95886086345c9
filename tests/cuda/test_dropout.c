/* Dropout on the device: the CPU's masks to the bit. */
#include "tests/cuda/parity.h"

#include <math.h>
#include <string.h>

static const enum dtype acts[] = { DTYPE_F32, DTYPE_BF16 };

enum { N_ACT = 2 };

/* Rows of dim elements, `first` elements into rows of ldx and ldy. */
static const struct shape {
    int64_t n_row, dim, ldx, ldy, first;
} shapes[] = {
    { 0, 8, 8, 0, 0 },      { 1, 1, 1, 0, 0 },    { 3, 5, 9, 7, 1 },       { 9, 32, 48, 40, 0 },
    { 17, 160, 192, 0, 0 }, { 8, 33, 33, 33, 0 }, { 2, 2064, 2064, 0, 0 }, { 3, 1100, 1101, 0, 0 },
    { 11, 20, 24, 24, 0 },  { 3, 64, 65, 64, 0 }, { 3, 64, 64, 65, 0 },    { 3, 64, 64, 64, 1 },
};

enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static int64_t row_length(int64_t ld, int64_t dim)
{
    return ld ? ld : dim;
}

/* Reads x and what y holds; y's expected values go to `expected`. */
static void dropout_both(struct parity *p, const struct shape *s, struct dropout_args a, real *x,
                         real *y, struct act *device_y)
{
    const int64_t n_x = s->first + s->n_row * s->ldx;
    const int32_t *slot = a.slot;
    a.n_row = s->n_row;
    a.dim = s->dim;
    a.ldx = s->ldx;
    a.ldy = s->ldy;
    a.x = act_in(&p->cpu, acts_in(x), s->first);
    a.y = act_at(&p->cpu, acts_of(y), s->first);
    op_dropout(&p->cpu, &a);
    a.x = act_in(&p->cuda, parity_act(p, x, n_x), s->first);
    a.y = act_at(&p->cuda, device_y, s->first);
    a.slot = slot == NULL ? NULL : parity_ints(p, slot, s->n_row);
    op_dropout(&p->cuda, &a);
}

/* The two sides drop the same elements, of inputs that are not 0. */
static void check_mask(struct parity *p, const struct shape *s, const real *y,
                       const struct act *device_y, int64_t n)
{
    const real *got = parity_read_act(p, device_y, n);
    int64_t n_dropped = 0;
    for (int64_t i = 0; i < s->n_row; i++) {
        for (int64_t j = 0; j < s->dim; j++) {
            const int64_t at = s->first + i * row_length(s->ldy, s->dim) + j;
            if ((got[at] == 0) != (y[at] == 0))
                fail_msg("element %lld of row %lld is %g, the CPU's %g", (long long)j, (long long)i,
                         (double)got[at], (double)y[at]);
            n_dropped += y[at] == 0;
        }
    }
    if (s->n_row * s->dim > 100)
        assert_in_range(n_dropped, s->n_row * s->dim / 8, s->n_row * s->dim / 2);
}

static real *no_zeros(struct parity *p, int64_t n)
{
    real *x = parity_random(p, n, 1, 1);
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] == 0 ? 1 : x[i];
    return x;
}

enum { PLAIN, SLOTS, N_ROWS };

static void masks_are_the_cpus_for_rows_and_slots(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE * N_ROWS; k++) {
        const struct shape *s = &shapes[k / N_ROWS % N_SHAPE];
        struct parity p;
        parity_open(&p, acts[k / N_ROWS / N_SHAPE]);
        const int64_t n_x = s->first + s->n_row * s->ldx;
        const int64_t n_y = s->first + s->n_row * row_length(s->ldy, s->dim);
        int32_t slot[32];
        for (int i = 0; i < 32; i++)
            slot[i] = (i * 7 + 3) % 32;
        /* Every word of the counter and of the key has something in both halves. */
        const struct dropout_args a = { .slot = k % N_ROWS == SLOTS ? slot : NULL,
                                        .per_token = 2,
                                        .first_token = 0x123456789,
                                        .rate = 0.25,
                                        .seed = 0xFEDCBA9876543210,
                                        .step = 70001,
                                        .target = 0x81234567 };
        real *x = no_zeros(&p, n_x), *y = parity_reals_out(&p, n_y);
        struct act *device_y = parity_act(&p, NULL, n_y);
        dropout_both(&p, s, a, x, y, device_y);
        parity_check_act(&p, "y", device_y, y, n_y); /* gaps between rows stay NaN */
        check_mask(&p, s, y, device_y, n_y);
        parity_close(&p);
    }
}

static void each_part_of_the_key_changes_the_mask(void **state)
{
    (void)state;
    enum { DIM = 256 };
    const struct shape s = { 1, DIM, DIM, 0, 0 };
    struct dropout_args all[] = { { .rate = 0.25, .per_token = 1 },
                                  { .rate = 0.25, .per_token = 1, .seed = 1 },
                                  { .rate = 0.25, .per_token = 1, .seed = (uint64_t)1 << 32 },
                                  { .rate = 0.25, .per_token = 1, .step = 1 },
                                  { .rate = 0.25, .per_token = 1, .target = 1 },
                                  { .rate = 0.25, .per_token = 1, .first_token = 1 },
                                  { .rate = 0.25, .per_token = 1, .first_token = 1 << 9 } };
    enum { N = sizeof all / sizeof *all };
    struct parity p;
    parity_open(&p, DTYPE_F32);
    real *x = no_zeros(&p, DIM), *got[N];
    for (int k = 0; k < N; k++) {
        real *y = parity_reals_out(&p, DIM);
        struct act *device_y = parity_act(&p, NULL, DIM);
        dropout_both(&p, &s, all[k], x, y, device_y);
        check_mask(&p, &s, y, device_y, DIM);
        got[k] = parity_read_act(&p, device_y, DIM);
        for (int l = 0; l < k; l++)
            assert_memory_not_equal(got[k], got[l], DIM * sizeof *got[k]);
    }
    parity_close(&p);
}

static void accumulating_adds_to_what_is_there(void **state)
{
    (void)state;
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const struct shape *s = &shapes[k % N_SHAPE];
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        const int64_t n_x = s->first + s->n_row * s->ldx;
        const int64_t n_y = s->first + s->n_row * row_length(s->ldy, s->dim);
        const struct dropout_args a = { .rate = 0.5, .seed = 3, .target = 9, .accumulate = true };
        real *x = no_zeros(&p, n_x), *y = parity_random(&p, n_y, 2, 1);
        struct act *device_y = parity_act(&p, y, n_y);
        dropout_both(&p, s, a, x, y, device_y);
        parity_check_act(&p, "y", device_y, y, n_y);
        parity_close(&p);
    }
}

/* A dropped NaN is 0, as on the CPU; and nothing is dropped at rate 0. */
static void dropped_elements_are_zero_whatever_they_were(void **state)
{
    (void)state;
    for (int k = 0; k < 2 * N_ACT; k++) {
        const struct shape s = { 4, 40, 40, 0, 0 };
        struct parity p;
        parity_open(&p, acts[k % N_ACT]);
        real *x = no_zeros(&p, 160), *y = parity_reals_out(&p, 160);
        for (int i = 0; i < 160; i += 3)
            x[i] = (real)NAN;
        struct act *device_y = parity_act(&p, NULL, 160);
        dropout_both(&p, &s, (struct dropout_args){ .rate = k / N_ACT * 0.5 }, x, y, device_y);
        parity_check_act(&p, "y", device_y, y, 160);
        parity_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_are_the_cpus_for_rows_and_slots),
        cmocka_unit_test(each_part_of_the_key_changes_the_mask),
        cmocka_unit_test(accumulating_adds_to_what_is_there),
        cmocka_unit_test(dropped_elements_are_zero_whatever_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
