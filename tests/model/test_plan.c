/* The plan against what a pass takes. Where the data fills its bounds (a pass of exactly
 * pass_tokens tokens, each with a target, and the same top_k experts for all of them) the arenas'
 * peaks are the plan to the byte; nowhere are they above it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/engine.h"
#include "finetune/train/optim.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "kernels/cpu/cpu.h"
#include "tests/support/model.h"
#include "tests/support/tiny_checkpoint.h"

enum { PASS_TOKENS = 40, N_POLICY = 3 };

static const int64_t chunk_sizes[] = { 9, 16, PASS_TOKENS };
enum { N_CHUNK = 3 };

static const char config_name[] = "config.json";

#define REQUIRE(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s", err.text);                                                              \
    } while (0)

/* ---- checkpoints ---- */

static void copy_file(const char *from, const char *folder, const char *name)
{
    struct err err = { 0 };
    char *data = NULL, *path = file_join(from, name);
    size_t size = 0;
    REQUIRE(file_read(path, 1 << 20, &data, &size, &err));
    tiny_file_write(folder, name, data, size);
    free(data);
    free(path);
}

/* The tensors of one file and another, those of routers as zeros. */
struct merged {
    struct safetensors files[4];
    struct safetensors_tensor tensors[256];
    int n_file;
    int64_t n;
};

static void merge_file(struct merged *m, const char *path)
{
    static const char zeros[4096];
    struct err err = { 0 };
    assert_true(m->n_file < 4);
    struct safetensors *st = &m->files[m->n_file++];
    REQUIRE(safetensors_open(path, st, &err));
    for (int64_t i = 0; i < st->n_tensor; i++) {
        assert_true(m->n < 256);
        struct safetensors_tensor *t = &m->tensors[m->n++];
        *t = st->tensors[i];
        if (!text_ends_with(t->name, "router.weight"))
            continue;
        assert_true(t->bytes <= sizeof zeros);
        t->data = zeros;
    }
}

/* The checkpoint (of one file, or four shards) with routers of zeros: all logits are equal, and
 * ties go to the lower index, so that every token chooses the experts 0 .. top_k - 1. */
static char *with_one_choice(const char *from)
{
    struct err err = { 0 };
    struct merged m = { 0 };
    char path[512];
    char *folder = tiny_scratch_make();
    snprintf(path, sizeof path, "%s/model.safetensors", from);
    const bool whole = file_exists(path);
    if (whole)
        merge_file(&m, path);
    for (int i = 1; !whole && i <= 4; i++) {
        snprintf(path, sizeof path, "%s/model-%05d-of-00004.safetensors", from, i);
        merge_file(&m, path);
    }
    char *to = file_join(folder, "model.safetensors");
    REQUIRE(safetensors_write(to, m.tensors, m.n, &err));
    copy_file(from, folder, config_name);
    for (int i = 0; i < m.n_file; i++)
        safetensors_close(&m.files[i]);
    free(to);
    return folder;
}

/* A model whose experts are most of it, in BF16: what they take depends on who is chosen. */
static char *wide_experts(void)
{
    char *folder = tiny_scratch_make();
    struct jamba_config config = tiny_config();
    config.intermediate_size = 300;
    config.num_experts = 5;
    tiny_checkpoint_write(folder, &config, &(struct tiny_options){ .dtype = DTYPE_BF16 });
    return folder;
}

/* The fixtures, and after them the wide experts. */
enum { WIDE = TEST_N_MODEL, N_MODEL };

/* A folder for the caller to remove. */
static char *model_of_one_choice(int i)
{
    char fixture[128];
    if (i < WIDE) {
        snprintf(fixture, sizeof fixture, "tests/fixtures/models/%s", test_model_names[i]);
        return with_one_choice(fixture);
    }
    char *wide = wide_experts();
    char *folder = with_one_choice(wide);
    tiny_scratch_remove(wide);
    return folder;
}

static const char *model_name(int i)
{
    return i < WIDE ? test_model_names[i] : "wide experts";
}

/* ---- a case ---- */

struct setting {
    struct plan_shape shape;
    bool training, dropout, balance;
    int threads; /* each has scratch of its own */
    bool bf16;   /* GEMMs on rounded operands, which need scratch */
};

/* A fresh adapter on nearly every kind of module, of all layers or (layer >= 0) of one: B is zero,
 * so that it changes no choice of experts. */
static void open_adapted(struct engine *e, const char *base_model, const struct setting *s,
                         int64_t layer)
{
    static const char *const targets[] = { "embed_tokens", "lm_head",   "q_proj",  "v_proj",
                                           "o_proj",       "in_proj",   "dt_proj", "x_proj",
                                           "out_proj",     "gate_proj", "up_proj", "down_proj" };
    const struct lora_config all = { .r = 4,
                                     .alpha = 8,
                                     .target_modules = (char **)(uintptr_t)targets,
                                     .n_target = sizeof targets / sizeof *targets };
    const struct lora_config one = { .r = 4,
                                     .alpha = 8,
                                     .all_linear = true,
                                     .layers_to_transform = &layer,
                                     .n_layer_to_transform = 1 };
    struct err err = { 0 };
    const struct engine_options options = { .base_model = base_model,
                                            .compute = { .device = COMPUTE_CPU,
                                                         .precision =
                                                             s->bf16 ? COMPUTE_BF16 : COMPUTE_FP32,
                                                         .threads = s->threads } };
    REQUIRE(engine_open(e, &options, &err));
    REQUIRE(engine_choose(e, layer < 0 ? &all : &one, &err));
}

static struct plan_bytes plan_of(const struct engine *e, const struct setting *s)
{
    struct err err = { 0 };
    struct plan_bytes bytes;
    struct plan_subject subject = engine_subject(e, s->training);
    subject.dropout = s->dropout;
    subject.balance = s->balance;
    REQUIRE(plan_measure(&subject, &s->shape, &bytes, &err));
    assert_int_equal(bytes.total,
                     bytes.weights + bytes.adapter + bytes.saved + bytes.scratch + bytes.copies);
    return bytes;
}

/* With room to spare: a plan that is too small must show as a number, not as an assert. */
static void allocate(struct engine *e, const struct setting *s, struct plan_bytes bytes)
{
    struct err err = { 0 };
    bytes.adapter = 2 * bytes.adapter + (1 << 20);
    bytes.saved = 4 * bytes.saved + (1 << 20);
    bytes.scratch = 4 * bytes.scratch + (1 << 20);
    REQUIRE(
        engine_allocate(e,
                        &(struct engine_memory){
                            .shape = s->shape, .bytes = bytes, .training = s->training, .seed = 1 },
                        &err));
}

/* n tokens in documents of 1, 9, 17, ... tokens; every `untargeted`-th without a target (0: none).
 */
static void fill(struct stream *s, int64_t n, int64_t vocab, int64_t untargeted)
{
    s->n_tok = n;
    s->n_doc = 0;
    s->n_target = 0;
    for (int64_t t = 0, next = 0; t < n; t++) {
        if (t == next) {
            next = t + 1 + 8 * s->n_doc;
            s->doc_start[s->n_doc++] = t;
        }
        s->ids[t] = (int32_t)((t * 7 + 3) % vocab);
        const bool on = untargeted == 0 || t % untargeted != 0;
        s->targets[t] = on ? (int32_t)((t * 5 + 1) % vocab) : -100;
        s->n_target += on;
    }
    s->doc_start[s->n_doc] = n;
}

static void run(struct engine *e, const struct setting *s)
{
    struct jamba_result r;
    const struct jamba_pass pass = { .backward = s->training,
                                     .grad_scale = s->training ? (real)0.01 : 0,
                                     .aux_scale = s->balance ? 1e-3 : 0,
                                     .dropout = { .rate = s->dropout ? 0.1 : 0, .seed = 1 } };
    jamba_run(&e->jamba, &e->stream, &pass, &r);
    assert_int_equal(r.n_row, e->stream.n_target);
    if (s->training)
        optim_grad_norm(&e->be, &e->adapter);
}

static void expect_peaks(const char *model, const struct setting *s, const struct engine *e,
                         const struct plan_bytes *plan, bool equal)
{
    const struct {
        const struct arena *arena;
        size_t planned;
    } pairs[] = { { &e->adapter_arena, plan->adapter },
                  { &e->saved, plan->saved },
                  { &e->scratch, plan->scratch } };
    for (int i = 0; i < 3; i++) {
        const size_t peak = pairs[i].arena->peak, planned = pairs[i].planned;
        if (equal ? peak != planned : peak > planned)
            fail_msg("%s, %s, chunks of %d, %s%s%s: the %s arena took %zu bytes, planned were %zu",
                     model, recompute_name(s->shape.recompute), (int)s->shape.chunk_tokens,
                     s->training ? "training" : "evaluation", s->dropout ? ", dropout" : "",
                     s->balance ? ", balance" : "", pairs[i].arena->name, peak, planned);
    }
}

/* Calls check for every policy and chunk size, with training and without, with dropout, balance and
 * bfloat16. */
struct check_args {
    const char *model, *folder;
    int64_t layer; /* adapted alone; -1: all */
};

static void for_each_setting(const struct check_args *args,
                             void (*check)(const struct check_args *args, const struct setting *s))
{
    static const struct setting settings[] = {
        { .threads = 1 },
        { .training = true, .threads = 2 },
        { .training = true, .dropout = true, .balance = true, .threads = 1 },
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        for (int j = 0; j < N_POLICY * N_CHUNK; j++) {
            struct setting s = settings[i];
            s.shape = (struct plan_shape){ .pass_tokens = PASS_TOKENS,
                                           .chunk_tokens = chunk_sizes[j % N_CHUNK],
                                           .recompute = (enum recompute)(j / N_CHUNK) };
            s.bf16 = s.dropout && s.shape.recompute == RECOMPUTE_SCAN && !REAL_IS_DOUBLE &&
                     cpu_has_bf16();
            if (s.training || s.shape.recompute == RECOMPUTE_LAYER) /* else there is no policy */
                check(args, &s);
        }
    }
}

/* ---- tests ---- */

/* A training step and an evaluation, as they follow each other in a run. */
static void run_full(struct engine *e, const struct setting *s)
{
    const struct setting evaluation = { .shape = s->shape };
    fill(&e->stream, s->shape.pass_tokens, weights_config(e->weights)->vocab_size, 0);
    run(e, s);
    run(e, &evaluation);
}

static void check_full(const struct check_args *args, const struct setting *s)
{
    struct engine e = { 0 };
    open_adapted(&e, args->folder, s, args->layer);
    const struct plan_bytes plan = plan_of(&e, s);
    allocate(&e, s, plan);
    run_full(&e, s);
    expect_peaks(args->model, s, &e, &plan, true);
    engine_close(&e);
}

static void a_full_pass_takes_the_plan_to_the_byte(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODEL; i++) {
        char *folder = model_of_one_choice(i);
        for_each_setting(&(struct check_args){ model_name(i), folder, -1 }, check_full);
        tiny_scratch_remove(folder);
    }
}

/* Nothing is kept for the layers below the lowest adapter. */
static void an_adapter_high_up_takes_the_plan_to_the_byte(void **state)
{
    (void)state;
    static const int models[] = { 0, 1, WIDE }; /* of four layers */
    for (int i = 0; i < 3; i++) {
        char *folder = model_of_one_choice(models[i]);
        for_each_setting(&(struct check_args){ model_name(models[i]), folder, 2 }, check_full);
        tiny_scratch_remove(folder);
    }
}

/* Passes of ordinary data, one after the other: full and not, with targets and with hardly any. */
static void check_ordinary(const struct check_args *args, const struct setting *s)
{
    static const int64_t lengths[] = { PASS_TOKENS, 17, 1 };
    struct engine e = { 0 };
    open_adapted(&e, args->folder, s, -1);
    const struct plan_bytes plan = plan_of(&e, s);
    allocate(&e, s, plan);
    for (int i = 0; i < 3; i++) {
        fill(&e.stream, lengths[i], weights_config(e.weights)->vocab_size, 1 + i);
        run(&e, s);
        expect_peaks(args->model, s, &e, &plan, false);
    }
    engine_close(&e);
}

static void ordinary_data_never_takes_more_than_the_plan(void **state)
{
    (void)state;
    static const int models[] = { 1, 3, 4 }; /* with experts to choose from */
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/fixtures/models/%s", model_name(models[i]));
        for_each_setting(&(struct check_args){ model_name(models[i]), path, -1 }, check_ordinary);
    }
    char *wide = wide_experts();
    for_each_setting(&(struct check_args){ model_name(WIDE), wide, -1 }, check_ordinary);
    tiny_scratch_remove(wide);
}

/* The other way round: where tokens choose differently the bound is not reached, so that the test
 * above is one of the bound. */
static void tokens_that_choose_differently_take_less_than_the_plan(void **state)
{
    (void)state;
    const struct setting s = { .shape = { PASS_TOKENS, PASS_TOKENS, RECOMPUTE_LAYER, 0 },
                               .training = true,
                               .dropout = true,
                               .threads = 1 };
    char *wide = wide_experts();
    struct engine e = { 0 };
    open_adapted(&e, wide, &s, -1);
    const struct plan_bytes plan = plan_of(&e, &s);
    allocate(&e, &s, plan);
    run_full(&e, &s);
    assert_true(e.scratch.peak < plan.scratch);
    assert_int_equal(e.saved.peak, plan.saved);
    engine_close(&e);
    tiny_scratch_remove(wide);
}

/* The bound is then of whichever expert takes most, not of the first. */
static void experts_of_different_ranks_are_planned_for(void **state)
{
    (void)state;
    static char key[] = "experts\\.3\\.[a-z_]*";
    struct lora_pattern ranks[] = { { key, 64 } };
    const struct lora_config lora = {
        .r = 2, .alpha = 4, .all_linear = true, .rank_pattern = ranks, .n_rank_pattern = 1
    };
    const struct setting s = { .shape = { PASS_TOKENS, PASS_TOKENS, RECOMPUTE_LAYER, 0 },
                               .training = true,
                               .dropout = true,
                               .threads = 1 };
    const struct engine_options options = { .base_model = "tests/fixtures/models/moe_gqa_untied",
                                            .compute = { .device = COMPUTE_CPU, .threads = 1 } };
    struct err err = { 0 };
    struct engine e = { 0 };
    REQUIRE(engine_open(&e, &options, &err));
    REQUIRE(engine_choose(&e, &lora, &err));
    const struct plan_bytes plan = plan_of(&e, &s);
    allocate(&e, &s, plan);
    fill(&e.stream, PASS_TOKENS, weights_config(e.weights)->vocab_size, 1);
    run(&e, &s);
    expect_peaks("moe_gqa_untied with one rank apart", &s, &e, &plan, false);
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_pass_takes_the_plan_to_the_byte),
        cmocka_unit_test(an_adapter_high_up_takes_the_plan_to_the_byte),
        cmocka_unit_test(ordinary_data_never_takes_more_than_the_plan),
        cmocka_unit_test(tokens_that_choose_differently_take_less_than_the_plan),
        cmocka_unit_test(experts_of_different_ranks_are_planned_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
