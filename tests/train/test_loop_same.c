/* What a run's result must not depend on: the same adapter to the bit for the same recipe, any
 * number of threads, any recompute policy and any split of a step into micro-batches; the same to
 * rounding for any chunk size and any passes. With dropout in all of them: its masks are keyed by
 * the step's tokens. */
#include "tests/train/runs.h"

/* Rounding, after six steps of an optimizer that divides by the gradient's own size. */
static const double loss_tolerance = REAL_IS_DOUBLE ? 1e-8 : 1e-5;
static const double adapter_tolerance = REAL_IS_DOUBLE ? 1e-6 : 1e-3;

/* A mix of everything: MoE and dense, Mamba and attention; dropout, load balancing, clipping,
 * decay. */
#define MODEL "moe_gqa_untied"
#define MIX                                                                                        \
    "lora_dropout=0.1", "router_aux_loss_coef=0.02", "weight_decay=0.1", "max_grad_norm=0.5",      \
        "lr_scheduler=cosine", "warmup_steps=1",                                                   \
        "lora_target_modules=[embed_tokens, lm_head, router, dt_proj, in_proj, x_proj, out_proj, " \
        "q_proj, k_proj, "                                                                         \
        "v_proj, o_proj, gate_proj, up_proj, down_proj]"

/* Losses of two runs, in the order of their lines. */
static void compare_losses(const char *folder, const char *a, const char *b, double tolerance)
{
    json_t *first = runs_metrics(folder, a), *second = runs_metrics(folder, b), *line;
    static const char *const keys[] = { "loss", "eval_loss", "aux_loss", "grad_norm" };
    size_t i;
    assert_int_equal(json_array_size(first), json_array_size(second));
    json_array_foreach(first, i, line)
    {
        json_t *other = json_array_get(second, i);
        for (int k = 0; k < 4; k++) {
            if (json_object_get(line, keys[k]) == NULL)
                continue;
            const double x = runs_number(line, keys[k]), y = runs_number(other, keys[k]);
            /* The norm carries the roundings of all gradients. */
            if (!(fabs(x - y) <= (k == 3 ? 10 : 1) * tolerance * fabs(y)))
                fail_msg("%s, line %d, %s: %.10g, in %s %.10g", a, (int)i + 1, keys[k], x, b, y);
        }
    }
    json_decref(first);
    json_decref(second);
}

static void expect_same(const char *folder, const char *a, const char *b)
{
    if (!runs_same_adapter(folder, a, b))
        fail_msg("the adapters of %s and %s differ", a, b);
    compare_losses(folder, a, b, 0);
}

static void expect_close(const char *folder, const char *a, const char *b)
{
    const double error = runs_adapter_error(folder, a, b);
    if (!(error < adapter_tolerance))
        fail_msg("the adapters of %s and %s are apart by %.3g", a, b, error);
    compare_losses(folder, a, b, loss_tolerance);
}

static void the_same_recipe_gives_the_same_bytes(void **state)
{
    (void)state;
    char *folder = runs_make(MODEL);
    run_whole(folder, "once", KEYS(MIX));
    run_whole(folder, "again", KEYS(MIX));
    expect_same(folder, "again", "once");
    run_whole(folder, "seed", KEYS(MIX, "seed=8"));
    assert_false(runs_same_adapter(folder, "seed", "once"));
    tiny_scratch_remove(folder);
}

static void threads_policies_and_splits_give_the_same_bytes(void **state)
{
    (void)state;
    static const char *const variants[][3] = {
        { "two", "threads=2", NULL },
        { "four", "threads=4", NULL },
        { "layer", "gradient_checkpointing=layer", NULL },
        { "scan", "gradient_checkpointing=scan", NULL },
        { "none", "gradient_checkpointing=none", NULL },
        { "halves", "micro_batch_size=2", "gradient_accumulation_steps=2" },
        { "quarters", "micro_batch_size=1", "gradient_accumulation_steps=4" },
    };
    char *folder = runs_make(MODEL);
    run_whole(folder, "one", KEYS(MIX, "chunk_tokens=11"));
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        run_whole(folder, variants[i][0],
                  KEYS(MIX, "chunk_tokens=11", variants[i][1], variants[i][2]));
        expect_same(folder, variants[i][0], "one");
    }
    tiny_scratch_remove(folder);
}

static void chunk_sizes_change_only_rounding(void **state)
{
    (void)state;
    static const char *const chunks[] = { "chunk_tokens=1", "chunk_tokens=5", "chunk_tokens=16" };
    char *folder = runs_make(MODEL);
    run_whole(folder, "whole", KEYS(MIX, "chunk_tokens=4096"));
    for (int i = 0; i < 3; i++) {
        run_whole(folder, chunks[i], KEYS(MIX, chunks[i]));
        expect_close(folder, chunks[i], "whole");
    }
    tiny_scratch_remove(folder);
}

/* A budget under which a step takes several passes: dropout, the balance and the loss's denominator
 * are the step's, whatever the passes. */
static void passes_change_only_rounding(void **state)
{
    (void)state;
    char *folder = runs_make(MODEL);
    char budget[64];
    struct run r;
    run_open(&r, folder, "whole", KEYS(MIX, "gradient_checkpointing=layer"));
    const int64_t pass_tokens = r.t.shape.pass_tokens;
    snprintf(budget, sizeof budget, "memory_budget=%zu", r.t.bytes.total - 1);
    assert_true(run_go(&r, NULL));
    run_close(&r);
    run_open(&r, folder, "passes", KEYS(MIX, "gradient_checkpointing=layer", budget));
    assert_true(r.t.shape.pass_tokens < pass_tokens && r.t.shape.pass_tokens >= 16);
    assert_true(run_go(&r, NULL));
    run_close(&r);
    expect_close(folder, "passes", "whole");
    tiny_scratch_remove(folder);
}

/* ---- keys that do change a run ---- */

/* Each of these must matter, or the comparisons above compare nothing. */
static void what_is_in_the_mix_matters(void **state)
{
    (void)state;
    static const char *const variants[][2] = {
        { "dropout", "lora_dropout=0.11" }, { "balance", "router_aux_loss_coef=0.03" },
        { "decay", "weight_decay=0.2" },    { "norm", "max_grad_norm=0.4" },
        { "warmup", "warmup_steps=2" },     { "schedule", "lr_scheduler=constant_with_warmup" },
        { "plus", "loraplus_lr_ratio=4" },  { "order", "shuffle=false" },
        { "beta", "adam_beta2=0.99" },
    };
    char *folder = runs_make(MODEL);
    run_whole(folder, "mix", KEYS(MIX, "max_steps=3"));
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        run_whole(folder, variants[i][0], KEYS(MIX, "max_steps=3", variants[i][1]));
        if (runs_same_adapter(folder, variants[i][0], "mix"))
            fail_msg("%s changes nothing", variants[i][1]);
    }
    tiny_scratch_remove(folder);
}

/* Steps over the same documents with a rate that moves nothing: only the masks differ. */
static void dropout_masks_are_new_in_every_step(void **state)
{
    (void)state;
    static const char *const rates[] = { "lora_dropout=0", "lora_dropout=0.2" };
    char *folder = runs_make(MODEL);
    for (int i = 0; i < 2; i++) {
        run_whole(folder, "out",
                  KEYS(rates[i], "learning_rate=1e-30", "shuffle=false", "val_set_size=0",
                       "micro_batch_size=20", "max_steps=3"));
        json_t *lines = runs_metrics(folder, "out");
        double norm[3];
        for (size_t s = 0; s < 3; s++)
            norm[s] = runs_number(json_array_get(lines, s), "grad_norm");
        assert_int_equal(norm[0] == norm[1], i == 0);
        assert_int_equal(norm[1] == norm[2], i == 0);
        json_decref(lines);
    }
    tiny_scratch_remove(folder);
}

/* ---- sample packing ---- */

/* Packed steps hold documents in order until the next would exceed the step's tokens; an epoch
 * holds each once. */
static void packed_steps_fill_their_tokens_and_an_epoch_holds_every_document_once(void **state)
{
    (void)state;
    enum { STEP_TOKENS = 2 * 3 * 16, LONGEST = 16 };
    char *folder = runs_make(MODEL);
    struct run r;
    run_open(&r, folder, "out",
             KEYS(MIX, "sample_packing=true", "sequence_len=16", "micro_batch_size=2",
                  "gradient_accumulation_steps=3", "max_steps=-1", "num_epochs=1",
                  "val_set_size=2"));
    if (!run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    json_t *lines = runs_metrics(folder, "out"), *line;
    double tokens = 0, trained = 0;
    int64_t expected_tokens = 0, expected_trained = 0, n_step = 0;
    size_t i;
    json_array_foreach(lines, i, line)
    {
        if (json_object_get(line, "loss") == NULL)
            continue;
        const double n = runs_number(line, "tokens");
        assert_true(n <= STEP_TOKENS);
        assert_true(++n_step == r.t.n_step || n > STEP_TOKENS - LONGEST);
        tokens += n;
        trained += runs_number(line, "trained_tokens");
    }
    for (int64_t d = 0; d < r.t.data.split.n_train; d++) {
        const int64_t doc = r.t.data.split.train[d];
        expected_tokens += r.t.data.set.start[doc + 1] - r.t.data.set.start[doc];
        expected_trained += r.t.data.set.n_target[doc];
    }
    assert_int_equal(n_step, r.t.n_step);
    assert_true(n_step >= 2);
    assert_true(tokens == (double)expected_tokens && trained == (double)expected_trained);
    json_decref(lines);
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* Packing only chooses a step's documents: where it chooses the same ones, the result is the same.
 */
static void packing_is_a_choice_of_documents_and_nothing_else(void **state)
{
    (void)state;
    char *folder = runs_make(MODEL);
    run_whole(folder, "packed",
              KEYS(MIX, "sample_packing=true", "sequence_len=32", "micro_batch_size=64",
                   "max_steps=4", "shuffle=false"));
    run_whole(folder, "plain", KEYS(MIX, "micro_batch_size=16", "max_steps=4", "shuffle=false"));
    expect_same(folder, "packed", "plain");
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_recipe_gives_the_same_bytes),
        cmocka_unit_test(threads_policies_and_splits_give_the_same_bytes),
        cmocka_unit_test(chunk_sizes_change_only_rounding),
        cmocka_unit_test(passes_change_only_rounding),
        cmocka_unit_test(what_is_in_the_mix_matters),
        cmocka_unit_test(dropout_masks_are_new_in_every_step),
        cmocka_unit_test(packed_steps_fill_their_tokens_and_an_epoch_holds_every_document_once),
        cmocka_unit_test(packing_is_a_choice_of_documents_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
