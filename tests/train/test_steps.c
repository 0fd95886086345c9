/* Fifty optimizer steps against torch, transformers 4.57.6 and peft 0.18.1 (tests/fixtures/models,
 * train.safetensors, written by tests/reference/make_models.py): accumulation over passes,
 * clipping, warm-up and decay, weight decay, adapters on every kind of module. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "finetune/train/optim.h"
#include "finetune/train/schedule.h"
#include "tests/support/model.h"

enum { STEPS = 50, STEP_DOCS = 4, WARMUP = 5 };

/* The goldens are a float64 run. A float32 run of the reference itself strays by up to 5e-6 in the
 * losses and 5e-4 in the change of the adapter (asserted by make_models.py --check): AdamW divides
 * by the gradient's own size, so that what is rounding in a small gradient is a whole step in its
 * parameter. */
static const double loss_tolerance = REAL_IS_DOUBLE ? 1e-7 : 1e-5;
static const double norm_tolerance = REAL_IS_DOUBLE ? 1e-6 : 1e-4;
static const double change_tolerance = REAL_IS_DOUBLE ? 1e-5 : 1e-3;
static const double rate_tolerance = 1e-12;

/* How the steps are walked: nothing of it may matter. */
struct manner {
    int pass_docs; /* documents of a pass */
    int64_t chunk_tokens;
    enum recompute recompute;
};

static const struct recipe recipe = { .learning_rate = 3e-3,
                                      .lr_scheduler = SCHEDULER_COSINE,
                                      .warmup_steps = WARMUP,
                                      .adam_beta1 = 0.9,
                                      .adam_beta2 = 0.999,
                                      .adam_epsilon = 1e-8,
                                      .weight_decay = 0.01,
                                      .max_grad_norm = 1 };

struct series {
    double losses[STEPS], grad_norms[STEPS], rates[STEPS];
};

static void read_golden(const struct test_model *m, const char *name, void *out, size_t bytes)
{
    const struct safetensors_tensor *t = safetensors_find(&m->golden, name);
    assert_non_null(t);
    assert_int_equal(t->bytes, bytes);
    memcpy(out, t->data, bytes);
}

static int64_t count_targets(const struct test_model *m, const int32_t docs[STEP_DOCS])
{
    int64_t n = 0;
    for (int i = 0; i < STEP_DOCS; i++) {
        for (int64_t t = m->stream.doc_start[docs[i]]; t < m->stream.doc_start[docs[i] + 1]; t++)
            n += m->stream.targets[t] >= 0;
    }
    return n;
}

/* The gradients of a step into the adapter; returns its loss. */
static double run_passes(struct test_model *m, const struct manner *how,
                         const int32_t docs[STEP_DOCS])
{
    const int64_t n_target = count_targets(m, docs);
    const struct jamba_pass pass = { .backward = true, .grad_scale = (real)(1 / (double)n_target) };
    double sum = 0;
    memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
    for (int from = 0; from < STEP_DOCS; from += how->pass_docs) {
        struct stream s;
        struct jamba_result r;
        test_stream_of(m, docs + from, how->pass_docs, &s);
        jamba_run(&m->jamba, &s, &pass, &r);
        sum += r.loss_sum;
        test_stream_free(&s);
    }
    return sum / (double)n_target;
}

static void train(struct test_model *m, const struct manner *how, struct series *out)
{
    int32_t step_docs[STEPS][STEP_DOCS];
    read_golden(m, "step_docs", step_docs, sizeof step_docs);
    const struct schedule schedule = schedule_of(&recipe, STEPS);
    m->t.be.n_thread = 1;
    m->jamba.chunk_tokens = how->chunk_tokens;
    m->jamba.recompute = how->recompute;
    for (int i = 0; i < STEPS; i++) {
        const double factor = schedule_factor(&schedule, i);
        out->losses[i] = run_passes(m, how, step_docs[i]);
        out->rates[i] = factor * recipe.learning_rate;
        out->grad_norms[i] = optim_grad_norm(&m->t.be, &m->adapter);
        optim_step(&m->t.be, &m->adapter, &recipe, factor,
                   optim_clip(recipe.max_grad_norm, out->grad_norms[i]), i + 1);
    }
}

static void compare_series(const char *model, const char *name, const double *have,
                           const double *expected, double tolerance)
{
    for (int i = 0; i < STEPS; i++) {
        if (!(fabs(have[i] - expected[i]) <= tolerance * fabs(expected[i])))
            fail_msg("%s, %s of step %d: %.10g, expected %.10g", model, name, i + 1, have[i],
                     expected[i]);
    }
}

/* ||a - b||^2 of one tensor of the golden file and what it is now; and of where it began. */
struct distance {
    double apart, change;
    int n;
};

static void add_tensor(const struct test_model *m, struct distance *d, const struct lora_slot *s,
                       bool is_b)
{
    const bool embedding = s->module->kind == LORA_EMBED_TOKENS;
    char name[256];
    snprintf(name, sizeof name, "final.base_model.model.%s.lora_%s%s%s", s->module->path,
             embedding ? "embedding_" : "", is_b ? "B" : "A", embedding ? "" : ".weight");
    const int64_t n = s->rank * (is_b ? s->module->out : s->module->in);
    real *expected = test_golden(m, name, n);
    const real *have = is_b ? s->b : s->a;
    /* The start, in the room of the gradients: put there before the first step's were. */
    const real *start = m->adapter.grads + (have - m->adapter.params);
    for (int64_t i = 0; i < n; i++) {
        d->apart += pow((double)(have[i] - expected[i]), 2);
        d->change += pow((double)(expected[i] - start[i]), 2);
    }
    d->n++;
    test_release(expected);
}

static double change_error(const struct test_model *m, const real *start)
{
    struct distance d = { 0 };
    memcpy(m->adapter.grads, start, (size_t)m->adapter.n_param * sizeof(real));
    for (int64_t i = 0; i < m->adapter.n_slot; i++) {
        add_tensor(m, &d, &m->adapter.slots[i], false);
        add_tensor(m, &d, &m->adapter.slots[i], true);
    }
    assert_true(d.n >= 2 * 14 && d.change > 0);
    return sqrt(d.apart / d.change);
}

static void check(const char *model, const struct manner *how)
{
    struct test_model m;
    struct series have, expected;
    test_model_open(&m, model, "train.safetensors");
    real *start = test_zeros(m.adapter.n_param);
    memcpy(start, m.adapter.params, (size_t)m.adapter.n_param * sizeof(real));
    read_golden(&m, "losses", expected.losses, sizeof expected.losses);
    read_golden(&m, "grad_norms", expected.grad_norms, sizeof expected.grad_norms);
    read_golden(&m, "rates", expected.rates, sizeof expected.rates);
    train(&m, how, &have);
    compare_series(model, "loss", have.losses, expected.losses, loss_tolerance);
    compare_series(model, "gradient norm", have.grad_norms, expected.grad_norms, norm_tolerance);
    compare_series(model, "rate", have.rates, expected.rates, rate_tolerance);
    const double error = change_error(&m, start);
    if (!(error < change_tolerance))
        fail_msg("%s: the adapter's change is off by %.3g", model, error);
    test_release(start);
    test_model_close(&m);
}

static void fifty_steps_equal_torch(void **state)
{
    (void)state;
    const struct manner two_passes = { .pass_docs = 2, .chunk_tokens = 1 << 20 };
    for (int i = 0; i < TEST_N_MODEL; i++)
        check(test_model_names[i], &two_passes);
}

static void passes_do_not_matter(void **state)
{
    (void)state;
    const struct manner whole = { .pass_docs = 4,
                                  .chunk_tokens = 1 << 20,
                                  .recompute = RECOMPUTE_NONE };
    const struct manner single = { .pass_docs = 1,
                                   .chunk_tokens = 1 << 20,
                                   .recompute = RECOMPUTE_SCAN };
    check("moe_gqa_untied", &whole);
    check("odd_sizes", &single);
}

static void chunk_sizes_do_not_matter(void **state)
{
    (void)state;
    const struct manner small = { .pass_docs = 2, .chunk_tokens = 5 };
    const struct manner medium = { .pass_docs = 4,
                                   .chunk_tokens = 17,
                                   .recompute = RECOMPUTE_NONE };
    check("moe_gqa_untied", &small);
    check("dense_mqa_tied", &medium);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fifty_steps_equal_torch),
        cmocka_unit_test(passes_do_not_matter),
        cmocka_unit_test(chunk_sizes_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
