/* Samples of a model under training: what they say is what generate says greedily of the same
 * adapter; the run does not feel them; their memory is the plan's. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/optim.h"
#include "finetune/train/options.h"
#include "finetune/train/samples.h"
#include "kernels/core/file.h"
#include "lora/format_peft.h"
#include "tests/support/tiny_checkpoint.h"

enum { DOC_TOKENS = 24, CHUNK_TOKENS = 7, N_NEW = 20, MAX_SAMPLES = 4 };

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s", err.text);                                                              \
    } while (0)

/* ---- a checkpoint with a tokenizer ---- */

static void copy_file(const char *from, const char *folder, const char *name)
{
    struct err err = { 0 };
    char *path = file_join(from, name), *data = NULL;
    size_t size = 0;
    REQUIRE(path != NULL && file_read(path, (size_t)1 << 24, &data, &size, &err));
    tiny_file_write(folder, name, data, size);
    free(data);
    free(path);
}

/* `missing` ids of the tokenizer are beyond the model's vocabulary. */
static char *make_base(const char *tokenizer, int64_t missing)
{
    struct err err = { 0 };
    char *folder = tiny_scratch_make();
    struct jamba_config config = tiny_config();
    if (tokenizer != NULL) {
        copy_file(tokenizer, folder, "tokenizer.json");
        copy_file(tokenizer, folder, "tokenizer_config.json");
        struct tokenizer *t = tokenizer_open(folder, &err);
        REQUIRE(t != NULL);
        config.vocab_size = tokenizer_vocab_size(t) - missing;
        tokenizer_free(t);
    }
    tiny_config_derive(&config);
    tiny_checkpoint_write(folder, &config, &(struct tiny_options){ .n_shard = 1 });
    return folder;
}

static const char jamba_tokenizer[] = "tests/fixtures/tokenizers/jamba";

/* ---- a model under training ---- */

struct training {
    struct recipe recipe;
    struct recipe_report report;
    struct tokenizer *tokenizer;
    struct engine engine;
    struct samples samples;
    struct plan_shape shape;
    struct plan_bytes bytes;
    int64_t n_step;
};

/* EMPTY is an empty one. */
#define PROMPTS(...) "sample_prompts=[" __VA_ARGS__ "]"

static void empty_prompts(struct recipe *r)
{
    for (int64_t i = 0; i < r->n_sample_prompt; i++) {
        if (strcmp(r->sample_prompts[i], "EMPTY") == 0)
            r->sample_prompts[i][0] = '\0';
    }
}

static void load(struct training *t, const char *base, const char *prompts)
{
    char model[512];
    snprintf(model, sizeof model, "base_model=%s", base);
    const char *const keys[] = { model,
                                 "threads=1",
                                 "device=cpu",
                                 "lora_r=4",
                                 "learning_rate=0.02",
                                 "sequence_len=32",
                                 "sample_max_tokens=20",
                                 prompts };
    *t = (struct training){ .n_step = 0 };
    if (!recipe_load(NULL, keys, (int)(sizeof keys / sizeof *keys), RECIPE_NEED_MODEL, &t->recipe,
                     &t->report))
        fail_msg("%s", t->report.errors.item[0]);
    empty_prompts(&t->recipe);
    const struct engine_options options = engine_options_of(&t->recipe);
    struct err err = { 0 };
    char *path = file_join(base, "tokenizer.json");
    REQUIRE(engine_open(&t->engine, &options, &err));
    if (file_exists(path))
        REQUIRE((t->tokenizer = tokenizer_open(base, &err)) != NULL);
    free(path);
}

/* Everything, as the training loop does it. */
static void start(struct training *t, const char *base, const char *prompts)
{
    struct err err = { 0 };
    load(t, base, prompts);
    REQUIRE(engine_choose(&t->engine, &t->recipe.lora, &err));
    REQUIRE(samples_open(&t->samples, &t->recipe, &t->engine, t->tokenizer, &err));
    struct plan_subject subject = engine_subject(&t->engine, true);
    subject.sample_tokens = samples_tokens(&t->samples);
    t->shape = (struct plan_shape){ .pass_tokens = DOC_TOKENS, .chunk_tokens = CHUNK_TOKENS };
    REQUIRE(plan_measure(&subject, &t->shape, &t->bytes, &err));
    REQUIRE(engine_allocate(&t->engine,
                            &(struct engine_memory){
                                .shape = t->shape, .bytes = t->bytes, .training = true, .seed = 5 },
                            &err));
}

static void stop(struct training *t)
{
    samples_free(&t->samples);
    samples_free(&t->samples); /* one that is gone, too */
    engine_close(&t->engine);
    tokenizer_free(t->tokenizer);
    recipe_free(&t->recipe);
    recipe_report_free(&t->report);
}

static void take_step(struct training *t)
{
    struct engine *e = &t->engine;
    struct stream *s = &e->stream;
    s->n_tok = DOC_TOKENS;
    s->n_doc = 1;
    s->doc_start[0] = 0;
    s->doc_start[1] = DOC_TOKENS;
    for (int32_t i = 0; i < DOC_TOKENS; i++) {
        s->ids[i] = 40 + (i * 7 + (int32_t)t->n_step * 3) % 50;
        s->targets[i] = 40 + ((i + 1) * 7 + (int32_t)t->n_step * 3) % 50;
    }
    memset(e->adapter.grads, 0, (size_t)e->adapter.n_param * sizeof(real));
    jamba_begin_step(&e->jamba);
    jamba_run(&e->jamba, s,
              &(struct jamba_pass){ .backward = true, .grad_scale = (real)1 / DOC_TOKENS }, NULL);
    assert_true(isfinite(jamba_end_step(&e->jamba).loss_sum));
    optim_step(&e->be, &e->adapter, &t->recipe, 1, 1, ++t->n_step);
}

/* ---- what came ---- */

struct heard {
    int n;
    struct {
        char *prompt, *text, end[16];
        int64_t n_token;
    } samples[MAX_SAMPLES];
    int fail_at; /* counted from 1; 0: never */
    volatile sig_atomic_t *raise;
};

static bool hear(void *context, const struct sample *s, struct err *err)
{
    struct heard *h = context;
    assert_true(h->n < MAX_SAMPLES);
    assert_int_equal(strlen(s->text), s->n_byte);
    h->samples[h->n].prompt = text_copy(s->prompt);
    h->samples[h->n].text = text_copy(s->text);
    h->samples[h->n].n_token = s->n_token;
    snprintf(h->samples[h->n].end, sizeof h->samples[h->n].end, "%s", s->end);
    h->n++;
    if (h->raise != NULL)
        *h->raise = 1;
    return h->n != h->fail_at || err_set(err, ERR_IO, "the log is full");
}

static void forget(struct heard *h)
{
    for (int i = 0; i < h->n; i++) {
        free(h->samples[i].prompt);
        free(h->samples[i].text);
    }
    *h = (struct heard){ 0 };
}

static void run_samples(struct training *t, struct heard *h)
{
    struct err err = { 0 };
    REQUIRE(samples_run(&t->samples, 0, NULL, hear, h, &err));
}

/* ---- the same as generate ---- */

static bool append(void *context, const char *bytes, size_t n, struct err *err)
{
    (void)err;
    text_append(context, bytes, n);
    return true;
}

/* What `generate --greedy` writes behind the prompt. */
static char *generated(struct training *t, const char *base, const char *adapter,
                       const char *prompt)
{
    struct err err = { 0 };
    struct engine e = { 0 };
    struct end_tokens end;
    struct token_list ids = { 0 };
    struct text out = { 0 };
    const struct engine_options options = engine_options_of(&t->recipe);
    REQUIRE(engine_open(&e, &options, &err) && engine_choose_from(&e, adapter, &err) &&
            engine_allocate_generation(&e, CHUNK_TOKENS, adapter, &err));
    const struct jamba_config *config = weights_config(e.weights);
    REQUIRE(end_tokens_read(base, config, t->tokenizer, &end, &err) &&
            tokenizer_encode(t->tokenizer, prompt, strlen(prompt), true, &ids, &err) &&
            generate_finish_prompt(t->tokenizer, config, &end, &ids, &err));
    const struct generation g = { .engine = &e,
                                  .tokenizer = t->tokenizer,
                                  .end = &end,
                                  .sampling = { .greedy = true },
                                  .max_new_tokens = N_NEW,
                                  .emit = append,
                                  .context = &out };
    REQUIRE(generate_text(&g, ids.ids, ids.n, &err));
    assert_true(out.len > 0);
    token_list_free(&ids);
    engine_close(&e);
    return out.data;
}

static char *write_adapter(struct training *t, const char *base)
{
    struct err err = { 0 };
    char *dir = file_join(base, "adapter");
    const struct peft_model_facts facts = { .base_model = base };
    lora_adapter_pull(&t->engine.adapter, &t->engine.be);
    REQUIRE(file_make_directory(dir, &err) &&
            peft_write(dir, &t->engine.adapter, &t->recipe.lora, &facts, &err));
    return dir;
}

static void samples_are_what_generate_says_greedily(void **state)
{
    (void)state;
    char *base = make_base(jamba_tokenizer, 0);
    struct training t;
    struct heard before = { 0 }, after = { 0 };
    start(&t, base, PROMPTS("'Once upon a time there was a model', EMPTY, 'x'"));
    assert_int_equal(t.samples.prompts[1].n, 1); /* BOS alone */
    run_samples(&t, &before);
    for (int i = 0; i < 3; i++)
        take_step(&t);
    run_samples(&t, &after);
    char *adapter = write_adapter(&t, base);
    assert_int_equal(after.n, 3);
    int changed = 0;
    for (int i = 0; i < 3; i++) {
        char *expected = generated(&t, base, adapter, t.recipe.sample_prompts[i]);
        assert_string_equal(after.samples[i].prompt, t.recipe.sample_prompts[i]);
        assert_string_equal(after.samples[i].text, expected);
        assert_string_equal(after.samples[i].end, "length");
        assert_int_equal(after.samples[i].n_token, N_NEW);
        changed += strcmp(before.samples[i].text, expected) != 0;
        free(expected);
    }
    assert_true(changed > 0); /* the adapter under training is what speaks */
    free(adapter);
    forget(&before);
    forget(&after);
    stop(&t);
    tiny_scratch_remove(base);
}

static void a_text_ends_before_an_end_token(void **state)
{
    (void)state;
    char *base = make_base(jamba_tokenizer, 0), line[64];
    struct training t;
    struct heard free_run = { 0 }, ended = { 0 };
    struct err err = { 0 };
    start(&t, base, PROMPTS("hello"));
    run_samples(&t, &free_run);
    /* The first token that is written becomes one that ends. */
    struct sampler sampler = { 0 };
    real *logits = test_zeros(t.engine.jamba.config->vocab_size);
    int32_t first = -1;
    struct jamba_state *s = jamba_state_new(&t.engine.jamba, &err);
    REQUIRE(s != NULL && sampler_init(&sampler, &(struct sampling){ .greedy = true },
                                      t.engine.jamba.config->vocab_size, &err));
    REQUIRE(jamba_feed(&t.engine.jamba, s, t.samples.prompts[0].ids, t.samples.prompts[0].n, logits,
                       &err));
    REQUIRE(sampler_next(&sampler, logits, &first, &err));
    jamba_state_free(s);
    sampler_free(&sampler);
    test_release(logits);
    stop(&t);
    snprintf(line, sizeof line, "{\"eos_token_id\": [2, %d]}", (int)first);
    tiny_file_write(base, "generation_config.json", line, strlen(line));
    start(&t, base, PROMPTS("hello"));
    run_samples(&t, &ended);
    assert_string_equal(free_run.samples[0].end, "length");
    assert_int_equal(ended.n, 1);
    assert_string_equal(ended.samples[0].end, "eos");
    assert_string_equal(ended.samples[0].text, "");
    assert_int_equal(ended.samples[0].n_token, 0);
    forget(&free_run);
    forget(&ended);
    stop(&t);
    tiny_scratch_remove(base);
}

/* ---- the run does not feel them ---- */

static void a_run_with_samples_trains_the_same_bytes(void **state)
{
    (void)state;
    enum { STEPS = 5 };
    char *base = make_base(jamba_tokenizer, 0);
    struct training with, without;
    struct heard h = { 0 };
    start(&with, base, PROMPTS("'Once upon a time', EMPTY"));
    start(&without, base, PROMPTS(""));
    assert_int_equal(without.samples.n, 0);
    run_samples(&without, &h);
    assert_int_equal(h.n, 0);
    for (int i = 0; i < STEPS; i++) {
        const size_t used = with.engine.saved.used;
        run_samples(&with, &h);
        assert_true(with.engine.saved.used == used && with.engine.scratch.used == 0);
        assert_int_equal(h.n, 2);
        forget(&h);
        take_step(&with);
        take_step(&without);
        const struct lora_adapter *a = &with.engine.adapter, *b = &without.engine.adapter;
        const size_t bytes = (size_t)a->n_param * sizeof(real);
        assert_int_equal(a->n_param, b->n_param);
        assert_memory_equal(a->params, b->params, bytes);
        assert_memory_equal(a->m, b->m, bytes);
        assert_memory_equal(a->v, b->v, bytes);
    }
    stop(&with);
    stop(&without);
    tiny_scratch_remove(base);
}

/* ---- memory ---- */

/* The arenas hold what was planned, and running past them asserts. Beside a pass of one token the
 * sequence is what counts, beside a longer one it is for nothing. */
static void the_plan_holds_the_samples(void **state)
{
    (void)state;
    char *base = make_base(jamba_tokenizer, 0);
    struct training t;
    struct err err = { 0 };
    load(&t, base, PROMPTS("'Once upon a time there was a model', 'x'"));
    REQUIRE(engine_choose(&t.engine, &t.recipe.lora, &err));
    REQUIRE(samples_open(&t.samples, &t.recipe, &t.engine, t.tokenizer, &err));
    assert_int_equal(samples_tokens(&t.samples), t.samples.prompts[0].n + N_NEW);
    assert_true(samples_tokens(&t.samples) <= samples_bound(&t.recipe));
    assert_int_equal(samples_bound(&t.recipe), 32 + N_NEW);
    for (int longer = 0; longer < 2; longer++) {
        const struct plan_shape shape = { .pass_tokens = longer ? 512 : 1,
                                          .chunk_tokens = longer ? 512 : 1 };
        struct plan_subject subject = engine_subject(&t.engine, true);
        struct plan_bytes without, with;
        REQUIRE(plan_measure(&subject, &shape, &without, &err));
        subject.sample_tokens = samples_tokens(&t.samples);
        REQUIRE(plan_measure(&subject, &shape, &with, &err));
        assert_true(with.adapter == without.adapter && with.weights == without.weights);
        assert_true(longer ? with.saved == without.saved : with.saved > without.saved);
        assert_true(with.seconds == without.seconds);
        if (longer)
            continue;
        struct heard h = { 0 };
        REQUIRE(engine_allocate(
            &t.engine, &(struct engine_memory){ .shape = shape, .bytes = with, .training = true },
            &err));
        run_samples(&t, &h);
        assert_int_equal(t.engine.saved.peak, t.engine.saved.cap);
        assert_true(t.engine.scratch.peak <= t.engine.scratch.cap);
        forget(&h);
    }
    stop(&t);
    tiny_scratch_remove(base);
}

/* ---- ends ---- */

static void a_raised_stop_ends_them_without_an_error(void **state)
{
    (void)state;
    char *base = make_base(jamba_tokenizer, 0);
    struct training t;
    struct heard h = { 0 };
    struct err err = { 0 };
    volatile sig_atomic_t raised = 1;
    start(&t, base, PROMPTS("a, b, c"));
    REQUIRE(samples_run(&t.samples, 0, &raised, hear, &h, &err));
    assert_int_equal(h.n, 0);
    raised = 0;
    h.raise = &raised; /* while the first is told */
    REQUIRE(samples_run(&t.samples, 0, &raised, hear, &h, &err));
    assert_int_equal(h.n, 1);
    assert_int_equal(err.code, ERR_NONE);
    forget(&h);
    stop(&t);
    tiny_scratch_remove(base);
}

static void a_failure_of_the_callback_is_theirs(void **state)
{
    (void)state;
    char *base = make_base(jamba_tokenizer, 0);
    struct training t;
    struct heard h = { .fail_at = 2 };
    struct err err = { 0 };
    start(&t, base, PROMPTS("a, b, c"));
    assert_false(samples_run(&t.samples, 0, NULL, hear, &h, &err));
    assert_string_equal(err.text, "the log is full");
    assert_int_equal(h.n, 2);
    forget(&h);
    stop(&t);
    tiny_scratch_remove(base);
}

static void logits_that_are_no_numbers_end_the_text_alone(void **state)
{
    (void)state;
    char *base = make_base(jamba_tokenizer, 0);
    struct training t;
    struct heard h = { 0 };
    start(&t, base, PROMPTS("a, b"));
    for (int64_t i = 0; i < t.engine.adapter.n_param; i++)
        t.engine.adapter.params[i] = (real)NAN;
    lora_adapter_push(&t.engine.adapter, &t.engine.be);
    run_samples(&t, &h);
    assert_int_equal(h.n, 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(h.samples[i].end, "nonfinite");
        assert_string_equal(h.samples[i].text, "");
        assert_int_equal(h.samples[i].n_token, 0);
    }
    forget(&h);
    stop(&t);
    tiny_scratch_remove(base);
}

/* ---- refusals ---- */

static void expect_refusal(char *base, const char *prompts, enum err_code code, const char *message)
{
    struct training t;
    struct err err = { 0 };
    char text[ERR_TEXT_SIZE];
    load(&t, base, prompts);
    assert_false(samples_open(&t.samples, &t.recipe, &t.engine, t.tokenizer, &err));
    tiny_message(text, &err, base);
    assert_string_equal(text, message);
    assert_int_equal(err.code, code);
    stop(&t);
    tiny_scratch_remove(base);
}

static void what_cannot_be_sampled_is_refused_by_the_key(void **state)
{
    (void)state;
    expect_refusal(make_base(NULL, 0), PROMPTS("a"), ERR_RECIPE,
                   "sample_prompts: base_model 'DIR' has no tokenizer, which texts need; leave the "
                   "key out, or name a checkpoint with a tokenizer.json");
    expect_refusal(make_base(jamba_tokenizer, 0),
                   PROMPTS("a, '0123456789012345678901234567890123456789'"), ERR_RECIPE,
                   "sample_prompts: prompt 2 has 41 tokens; expected at most sequence_len, 32. "
                   "Shorten it, or raise sequence_len");
    expect_refusal(make_base(jamba_tokenizer, 700), PROMPTS("zebra"), ERR_DATA,
                   "sample_prompts: prompt 1: the tokenizer's id 303 is outside the model's "
                   "vocabulary of 158; do tokenizer and config.json belong together?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_are_what_generate_says_greedily),
        cmocka_unit_test(a_text_ends_before_an_end_token),
        cmocka_unit_test(a_run_with_samples_trains_the_same_bytes),
        cmocka_unit_test(the_plan_holds_the_samples),
        cmocka_unit_test(a_raised_stop_ends_them_without_an_error),
        cmocka_unit_test(a_failure_of_the_callback_is_theirs),
        cmocka_unit_test(logits_that_are_no_numbers_end_the_text_alone),
        cmocka_unit_test(what_cannot_be_sampled_is_refused_by_the_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
