/* The embedding and its adapter on the device against the CPU's. */
#include "tests/cuda/parity.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"

static const enum dtype acts[] = { DTYPE_F32, DTYPE_BF16 };

enum { N_ACT = 2 };

/* Ids of which every third is `hot`. */
static int32_t *some_ids(int64_t n, int64_t vocab, int32_t hot)
{
    int32_t *ids = malloc((size_t)(n + 1) * sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < n; i++)
        ids[i] =
            i % 3 == 1 ? hot : (int32_t)(rng_bits(1, RNG_SAMPLE, 0, (uint64_t)i) % (uint64_t)vocab);
    return ids;
}

static void rows_of_every_type_are_looked_up(void **state)
{
    (void)state;
    static const enum dtype tables[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
    /* in, out: elements that the table and y begin off alignment. */
    static const struct {
        int64_t n_row, dim, in, out;
    } shapes[] = { { 0, 8, 0, 0 },    { 1, 1, 0, 0 },    { 9, 7, 0, 0 },
                   { 17, 24, 0, 0 },  { 3, 24, 1, 0 },   { 3, 24, 0, 1 },
                   { 3, 2560, 0, 0 }, { 2, 1043, 0, 0 }, { 3, 20, 0, 0 } };
    enum { VOCAB = 19, N_SHAPE = sizeof shapes / sizeof *shapes, N_TABLE = 3 };
    for (int k = 0; k < N_ACT * N_SHAPE * N_TABLE; k++) {
        const int64_t n_row = shapes[k / N_TABLE % N_SHAPE].n_row;
        const int64_t dim = shapes[k / N_TABLE % N_SHAPE].dim, n = n_row * dim;
        const int64_t in = shapes[k / N_TABLE % N_SHAPE].in;
        const int64_t out = shapes[k / N_TABLE % N_SHAPE].out, n_table = VOCAB * dim + in;
        const enum dtype dtype = tables[k % N_TABLE];
        struct parity p;
        parity_open(&p, acts[k / N_TABLE / N_SHAPE]);
        real *values = test_random(n_table, 1, 1), *y = parity_reals_out(&p, n + out);
        char *table = malloc((size_t)n_table * sizeof *values);
        int32_t *ids = some_ids(n_row, VOCAB, VOCAB - 1);
        assert_non_null(table);
        op_cast(&p.cpu, &(struct cast_args){ .from = values,
                                             .to = table,
                                             .n = n_table,
                                             .from_dtype = DTYPE_REAL,
                                             .to_dtype = dtype });
        const size_t skip = (size_t)in * dtype_size(dtype);
        struct embed_args a = { .ids = ids,
                                .table = table + skip,
                                .dtype = dtype,
                                .y = acts_of(y + out),
                                .n_row = n_row,
                                .dim = dim,
                                .vocab = VOCAB };
        op_embed_forward(&p.cpu, &a);
        char *device_table = parity_bytes(&p, table, (size_t)n_table * dtype_size(dtype));
        struct act *device_y = parity_act(&p, NULL, n + out);
        a.ids = parity_ints(&p, ids, n_row);
        a.table = device_table + skip;
        a.y = act_at(&p.cuda, device_y, out);
        op_embed_forward(&p.cuda, &a);
        parity_check_act(&p, "y", device_y, y, n + out);
        free(ids);
        free(table);
        test_release(values);
        parity_close(&p);
    }
}

static void adapter_columns_are_looked_up(void **state)
{
    (void)state;
    static const struct {
        int64_t n_row, rank, vocab;
    } shapes[] = { { 0, 4, 5 }, { 1, 1, 1 }, { 63, 3, 19 }, { 130, 8, 300 }, { 65, 70, 11 } };
    enum { N_SHAPE = sizeof shapes / sizeof *shapes };
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const int64_t n_row = shapes[k % N_SHAPE].n_row, rank = shapes[k % N_SHAPE].rank;
        const int64_t vocab = shapes[k % N_SHAPE].vocab, n = n_row * rank;
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        int32_t *ids = some_ids(n_row, vocab, (int32_t)(vocab - 1));
        real *lora_a = parity_random(&p, rank * vocab, 1, 1), *t = parity_reals_out(&p, n);
        struct act *device_t = parity_act(&p, NULL, n);
        struct embed_lora_args a = { .ids = ids,
                                     .a = acts_in(lora_a),
                                     .t = acts_of(t),
                                     .n_row = n_row,
                                     .rank = rank,
                                     .vocab = vocab,
                                     .pad_id = 0 }; /* looked up like any other */
        op_embed_lora_forward(&p.cpu, &a);
        a.ids = parity_ints(&p, ids, n_row);
        a.a = parity_act(&p, lora_a, rank * vocab);
        a.t = device_t;
        op_embed_lora_forward(&p.cuda, &a);
        assert_memory_equal(parity_read_act(&p, device_t, n), t, (size_t)n * sizeof *t);
        free(ids);
        parity_close(&p);
    }
}

/* Sums in the order of the tokens are the CPU's to the bit, in bf16 too: dt is exact in both. */
static void gradient_of_a_column_is_summed_in_the_order_of_the_tokens(void **state)
{
    (void)state;
    /* Tiles of 2048 tokens, blocks of 256 ids and 32 rows: below, at and above each. */
    static const struct {
        int64_t n_row, rank, vocab, pad_id;
    } shapes[] = { { 0, 4, 5, -1 },      { 1, 1, 1, -1 },     { 5, 3, 2, 1 },
                   { 700, 8, 257, 256 }, { 2049, 33, 40, 7 }, { 4100, 2, 600, -1 },
                   { 2048, 32, 256, 0 } };
    enum { N_SHAPE = sizeof shapes / sizeof *shapes };
    for (int k = 0; k < N_ACT * N_SHAPE; k++) {
        const int64_t n_row = shapes[k % N_SHAPE].n_row, rank = shapes[k % N_SHAPE].rank;
        const int64_t vocab = shapes[k % N_SHAPE].vocab, n = rank * vocab;
        struct parity p;
        parity_open(&p, acts[k / N_SHAPE]);
        int32_t *ids = some_ids(n_row, vocab, (int32_t)(vocab / 2));
        real *dt = parity_random(&p, n_row * rank, 1, 1), *da = parity_random(&p, n, 2, 1);
        real *device_da = parity_reals(&p, da, n);
        struct embed_lora_args a = { .ids = ids,
                                     .dt = acts_in(dt),
                                     .da = da,
                                     .n_row = n_row,
                                     .rank = rank,
                                     .vocab = vocab,
                                     .pad_id = shapes[k % N_SHAPE].pad_id };
        op_embed_lora_backward(&p.cpu, &a);
        a.ids = parity_ints(&p, ids, n_row);
        a.dt = parity_act(&p, dt, n_row * rank);
        a.da = device_da;
        op_embed_lora_backward(&p.cuda, &a);
        parity_check_reals(&p, "da", device_da, da, n);
        assert_memory_equal(parity_read_reals(&p, device_da, n), da, (size_t)n * sizeof *da);
        free(ids);
        parity_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_every_type_are_looked_up),
        cmocka_unit_test(adapter_columns_are_looked_up),
        cmocka_unit_test(gradient_of_a_column_is_summed_in_the_order_of_the_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
