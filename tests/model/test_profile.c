/* Each op of a pass runs in the block it belongs to, under every recompute policy; measuring
 * changes no bit; and the switches are few. */
#include "tests/support/model.h"

#include <string.h>

#include "kernels/core/profile.h"
#include "kernels/timing/timing.h"

#define BIT(block) (1U << PROFILE_##block)

enum { MIXERS = BIT(MAMBA) | BIT(ATTENTION), FFS = BIT(MOE) | BIT(MLP) };

/* Blocks that each op may run in. */
static const unsigned allowed[N_OP] = {
    [OP_gemm] = MIXERS | FFS | BIT(HEAD),
    [OP_add_bias] = MIXERS | FFS,
    [OP_rmsnorm_forward] = BIT(NORM) | BIT(MAMBA), /* Mamba's own three */
    [OP_rmsnorm_backward] = BIT(NORM) | BIT(MAMBA),
    [OP_embed_forward] = BIT(HEAD),
    [OP_embed_lora_forward] = BIT(HEAD),
    [OP_embed_lora_backward] = BIT(HEAD),
    [OP_conv1d_forward] = BIT(MAMBA),
    [OP_conv1d_backward] = BIT(MAMBA),
    [OP_scan_forward] = BIT(MAMBA),
    [OP_scan_backward] = BIT(MAMBA),
    [OP_attention_forward] = BIT(ATTENTION),
    [OP_attention_backward] = BIT(ATTENTION),
    [OP_swiglu_forward] = FFS,
    [OP_swiglu_backward] = FFS,
    [OP_route_forward] = BIT(MOE),
    [OP_route_backward] = BIT(MOE),
    [OP_route_counts] = BIT(MOE),
    [OP_aux_sums] = BIT(MOE),
    [OP_gather_rows] = BIT(MOE),
    [OP_combine] = BIT(MOE),
    [OP_row_dot] = BIT(MOE),
    [OP_pick_rows] = BIT(HEAD) | BIT(MOE),
    [OP_place_rows] = BIT(HEAD) | BIT(MOE),
    [OP_cross_entropy] = BIT(HEAD),
    [OP_dropout] = MIXERS | FFS | BIT(HEAD),
    [OP_add] = MIXERS | FFS | BIT(HEAD),
    [OP_zero] = MIXERS | FFS | BIT(HEAD) | BIT(OTHER),
    [OP_to_device] = BIT(DATA) | BIT(OTHER),
    [OP_to_host] = BIT(OTHER),
    [OP_copy] = MIXERS | FFS | BIT(OTHER),
    [OP_add_sum] = BIT(HEAD),
    [OP_aux_loss] = BIT(MOE),
};

struct seen {
    const struct profile *profile;
    unsigned blocks[N_OP]; /* that each op ran in */
};

static void check_op(void *context, enum op_id op, const void *args)
{
    struct seen *seen = context;
    const enum profile_block block = seen->profile->current;
    (void)args;
    if ((allowed[op] & 1U << block) == 0)
        fail_msg("%s ran in '%s'", timing_op_name(op), profile_name(block));
    seen->blocks[op] |= 1U << block;
}

static void run_pass(struct test_model *m)
{
    const struct jamba_pass pass = { .backward = true,
                                     .grad_scale = (real)0.01,
                                     .aux_scale = 1e-3,
                                     .dropout = { .rate = 0.1, .seed = 1 } };
    memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
    jamba_begin_step(&m->jamba);
    jamba_run(&m->jamba, &m->stream, &pass, NULL);
    jamba_end_step(&m->jamba);
}

static void check_model(struct test_model *m, struct seen *seen)
{
    const struct jamba_config *c = m->jamba.config;
    const size_t bytes = (size_t)m->adapter.n_param * sizeof(real);
    struct timing_backend *timing = test_malloc(sizeof *timing);
    struct profile profile;
    double seconds[PROFILE_N];
    run_pass(m);
    real *alone = test_malloc(bytes);
    memcpy(alone, m->adapter.grads, bytes);
    timing_backend_init(timing, &m->t.be);
    timing->on_call = check_op;
    timing->context = seen;
    timing->be.profile = &profile;
    seen->profile = &profile;
    m->jamba.be = &timing->be;
    profile_init(&profile, NULL);
    run_pass(m);
    m->jamba.be = &m->t.be;
    assert_int_equal(profile.current, PROFILE_OTHER);
    assert_memory_equal(m->adapter.grads, alone, bytes);
    profile_take(&profile, seconds);
    for (int b = 0; b < PROFILE_N; b++) {
        const bool there = b == PROFILE_OPTIMIZER ? false
                           : b == PROFILE_MOE     ? c->num_experts > 1
                                                  : true;
        if (b == PROFILE_MLP && c->num_experts > 1)
            continue; /* in some */
        if ((seconds[b] > 0) != there)
            fail_msg("%s: %g s", profile_name((enum profile_block)b), seconds[b]);
    }
    /* At most eight of a layer and chunk in the forward, sixteen in the backward. */
    const int64_t chunks = (m->stream.n_tok + m->jamba.chunk_tokens - 1) / m->jamba.chunk_tokens;
    assert_in_range(profile.n_switch, 24, 24 * c->num_hidden_layers * chunks + 40);
    test_free(alone);
    test_free(timing);
}

static void every_op_runs_in_its_block(void **state)
{
    (void)state;
    static const enum recompute policies[] = { RECOMPUTE_LAYER, RECOMPUTE_SCAN, RECOMPUTE_NONE };
    struct seen seen = { 0 };
    for (int i = 0; i < TEST_N_MODEL; i++) {
        for (int p = 0; p < 3; p++) {
            struct test_model m;
            test_model_open(&m, test_model_names[i], "golden.safetensors");
            m.jamba.recompute = policies[p];
            m.jamba.chunk_tokens = 17;
            check_model(&m, &seen);
            test_model_close(&m);
        }
    }
    /* The table above is about something. */
    static const enum op_id certain[] = {
        OP_gemm,          OP_rmsnorm_backward,   OP_embed_forward,
        OP_scan_backward, OP_attention_backward, OP_route_backward,
        OP_cross_entropy, OP_aux_loss,           OP_to_device
    };
    for (size_t i = 0; i < sizeof certain / sizeof *certain; i++)
        assert_true(seen.blocks[certain[i]] != 0);
    assert_int_equal(seen.blocks[OP_gemm], MIXERS | FFS | BIT(HEAD));
    assert_true((seen.blocks[OP_rmsnorm_backward] & BIT(NORM)) != 0);
    assert_true((seen.blocks[OP_to_device] & BIT(DATA)) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_runs_in_its_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
