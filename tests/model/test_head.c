/* The head in blocks: how many rows of logits exist at a time must not matter. (A tiny vocabulary
 * always fits one block, so the model's own tests see only one.) */
#include "tests/support/model.h"

#include <math.h>
#include <string.h>

#include "finetune/model/head.h"

/* To rounding: dA and dB of the head add up block by block. */
static const double tolerance = REAL_IS_DOUBLE ? 1e-12 : 1e-5;

enum { N_ROW = 11, N_STREAM = 17 };

struct outcome {
    real *logprob, *dx, *grads;
};

static struct outcome run(struct test_model *m, int64_t block_rows)
{
    static const int32_t rows[N_ROW] = { 0, 1, 2, 4, 5, 8, 9, 11, 12, 15, 16 };
    const struct jamba_config *c = weights_config(m->weights);
    int32_t target[N_ROW];
    for (int i = 0; i < N_ROW; i++)
        target[i] = (int32_t)((i * 7 + 3) % c->vocab_size);
    real *x = test_random(N_STREAM * c->hidden_size, 5, 1);
    struct outcome o = { .logprob = test_zeros(N_ROW),
                         .dx = test_zeros(N_STREAM * c->hidden_size),
                         .grads = test_zeros(m->adapter.n_param) };
    memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
    const struct block b = { .be = &m->t.be,
                             .config = c,
                             .adapter = &m->adapter,
                             .dropout = { .rate = 0.3, .seed = 5, .step = 2 },
                             .first_token = 100 };
    head_run(&b, &(struct head_args){ .w = weights_head(m->weights),
                                      .norm = weights_final_norm(m->weights),
                                      .x = acts_in(x),
                                      .rows = rows,
                                      .target = target,
                                      .n_row = N_ROW,
                                      .block_rows = block_rows,
                                      .logprob = o.logprob,
                                      .grad_scale = (real)0.1,
                                      .dx = acts_of(o.dx) });
    memcpy(o.grads, m->adapter.grads, (size_t)m->adapter.n_param * sizeof(real));
    test_release(x);
    return o;
}

static void release(struct outcome o)
{
    test_release(o.logprob);
    test_release(o.dx);
    test_release(o.grads);
}

static void every_block_size_gives_the_same_result(void **state)
{
    (void)state;
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct test_model m;
        test_model_open(&m, test_model_names[i], "golden.safetensors");
        const int64_t n_x = N_STREAM * weights_config(m.weights)->hidden_size;
        const struct outcome whole = run(&m, N_ROW);
        double norm = 0;
        for (int64_t p = 0; p < m.adapter.n_param; p++)
            norm += (double)whole.grads[p] * (double)whole.grads[p];
        assert_true(norm > 0);
        for (int64_t block = 1; block < N_ROW; block++) {
            const struct outcome o = run(&m, block);
            assert_true(test_relative_error(o.logprob, whole.logprob, N_ROW, 1e-6) < tolerance);
            assert_true(test_relative_error(o.dx, whole.dx, n_x, 1e-6) < tolerance);
            assert_true(test_relative_error(o.grads, whole.grads, m.adapter.n_param, 1e-6) <
                        tolerance);
            release(o);
        }
        release(whole);
        test_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_size_gives_the_same_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
