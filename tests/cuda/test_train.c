/* Training runs on the CUDA backend: what a person gets. */
#include "tests/train/runs.h"

#include "kernels/cuda/load.h"

static bool no_device(void)
{
    struct err err = { 0 };
    return !cuda_available(NULL, &err);
}

#define CPU "device=cpu", "precision=fp32"
#define CUDA "device=cuda"

enum { STEPS = 50 };

/* The losses of a run's steps, and its evaluations', one after the other. */
static int64_t losses_of(const char *folder, const char *out, double *losses, int64_t most)
{
    json_t *lines = runs_metrics(folder, out);
    int64_t n = 0;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        json_t *line = json_array_get(lines, i);
        const char *key = json_object_get(line, "eval_loss") != NULL ? "eval_loss" : "loss";
        if (json_object_get(line, key) == NULL)
            continue;
        assert_true(n < most);
        losses[n++] = runs_number(line, key);
    }
    json_decref(lines);
    return n;
}

/* 50 steps in bf16 stay within 1e-2 of f32's losses, relative. The fixture as made has weights so
 * large that its logits move by 5 % in bf16; weights as a model begins with are the fair subject.
 */
static void the_loss_curve_follows_f32_on_the_cpu(void **state)
{
    (void)state;
    if (no_device())
        skip();
    char *folder = runs_make("dense_mqa_tied");
    const char *const more[] = {
        "max_steps=50", "learning_rate=0.005",
        "lora_target_modules=[in_proj, out_proj, down_proj, embed_tokens, lm_head]",
        "base_model=random:tests/fixtures/models/dense_mqa_tied/config.json"
    };
    run_whole(folder, "cpu", KEYS(CPU, more[0], more[1], more[2], more[3]));
    run_whole(folder, "cuda", KEYS(CUDA, "precision=bf16", more[0], more[1], more[2], more[3]));
    double expected[STEPS + 8], got[STEPS + 8];
    const int64_t n = losses_of(folder, "cpu", expected, STEPS + 8);
    assert_int_equal(losses_of(folder, "cuda", got, STEPS + 8), n);
    assert_true(n >= STEPS);
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs(got[i] - expected[i]) <= 1e-2 * expected[i]))
            fail_msg("loss %d is %.6g, expected %.6g", (int)i, got[i], expected[i]);
    }
    assert_true(expected[n - 1] < 0.9 * expected[0]); /* there was something to learn */
    tiny_scratch_remove(folder);
}

static void f32_trains_the_same_adapter_as_the_cpu(void **state)
{
    (void)state;
    if (no_device())
        skip();
    char *folder = runs_make("moe_gqa_untied");
    const char *const more[] = { "lora_dropout=0.1", "chunk_tokens=11", "router_aux_loss_coef=0.01",
                                 "weight_decay=0.01" };
    run_whole(folder, "cpu", KEYS(CPU, more[0], more[1], more[2], more[3]));
    run_whole(folder, "cuda", KEYS(CUDA, "precision=fp32", more[0], more[1], more[2], more[3]));
    /* Adam divides by the gradient's size: where that is nothing, rounding decides the sign. */
    assert_true(runs_adapter_error(folder, "cuda", "cpu") < 2e-2);
    tiny_scratch_remove(folder);
}

static void two_runs_write_the_same_bytes(void **state)
{
    (void)state;
    if (no_device())
        skip();
    char *folder = runs_make("moe_gqa_untied");
    const char *const keys[] = { CUDA, "precision=bf16", "lora_dropout=0.1", "max_steps=4" };
    run_whole(folder, "a", KEYS(keys[0], keys[1], keys[2], keys[3]));
    run_whole(folder, "b", KEYS(keys[0], keys[1], keys[2], keys[3]));
    run_whole(folder, "d", KEYS(keys[0], keys[1], keys[2], keys[3], "seed=8"));
    assert_true(runs_same_adapter(folder, "b", "a"));
    assert_false(runs_same_adapter(folder, "d", "a"));
    tiny_scratch_remove(folder);
}

/* An adapter of the device goes on on the CPU and back: the file is the only thing between. */
static void adapters_move_between_devices(void **state)
{
    (void)state;
    if (no_device())
        skip();
    char *folder = runs_make("dense_mqa_tied");
    run_whole(folder, "first", KEYS(CUDA, "precision=fp32", "max_steps=3"));
    char from[600];
    snprintf(from, sizeof from, "lora_model_dir=%s/first", folder);
    run_whole(folder, "cpu", KEYS(CPU, from, "max_steps=2"));
    run_whole(folder, "cuda", KEYS(CUDA, "precision=fp32", from, "max_steps=2"));
    assert_true(runs_adapter_error(folder, "cuda", "cpu") < 2e-2);
    tiny_scratch_remove(folder);
}

static void random_weights_are_made_alike_on_both(void **state)
{
    (void)state;
    if (no_device())
        skip();
    char *folder = runs_make("odd_sizes");
    const char *const base = "base_model=random:tests/fixtures/models/odd_sizes/config.json";
    run_whole(folder, "cpu", KEYS(CPU, base, "max_steps=2"));
    run_whole(folder, "cuda", KEYS(CUDA, "precision=fp32", base, "max_steps=2"));
    double expected[8], got[8];
    const int64_t n = losses_of(folder, "cpu", expected, 8);
    assert_int_equal(losses_of(folder, "cuda", got, 8), n);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs(got[i] - expected[i]) <= 1e-5 * expected[i]);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_loss_curve_follows_f32_on_the_cpu),
        cmocka_unit_test(f32_trains_the_same_adapter_as_the_cpu),
        cmocka_unit_test(two_runs_write_the_same_bytes),
        cmocka_unit_test(adapters_move_between_devices),
        cmocka_unit_test(random_weights_are_made_alike_on_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
