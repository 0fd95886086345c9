/* What cuDNN is asked for at the sizes of real models: every call fits what a plan sets aside, and
 * cuDNN has a plan for it, on Hopper and on Ampere, that takes no more than our formula says.
 *
 * Needs no device: cuDNN is told of one in words, and stub_libcuda.c stands for the driver. Without
 * cuDNN (WITH_CUDNN not defined) only the arithmetic is tested.
 */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/scratch.h"
#include "kernels/cuda/sdpa_graph.h"
#include "kernels/cuda/sdpa_sizes.h"

/* A chunk, and documents of it: b of s_q queries and s_kv keys, as bounds. */
struct work {
    int64_t n_head, n_kv, d_head, n_tok, t0, b, s_q, s_kv;
};

/* The 52B's heads and the 3B's: one document that starts in the chunk, packed ones, and one that
 * continues, up to 256K and 1M tokens; small heads. */
static const struct work works[] = {
    { 32, 8, 128, 8192, 0, 1, 8192, 8192 },
    { 32, 8, 128, 8192, 0, 16, 512, 512 },
    { 32, 8, 128, 8192, 253952, 1, 8192, 262144 },
    { 20, 1, 128, 8192, 0, 1, 4096, 4096 },
    { 20, 1, 128, 16384, 0, 64, 128, 128 },
    { 20, 1, 128, 8192, 253952, 1, 8192, 262144 },
    { 20, 1, 128, 16384, 1032192, 1, 16384, 1048576 },
    { 4, 2, 64, 1024, 0, 4, 256, 256 },
};
enum { N_WORK = sizeof works / sizeof *works };

static struct sdpa_shape whole_of(const struct work *w)
{
    return sdpa_whole(w->n_tok, w->t0, w->n_head, w->n_kv, w->d_head);
}

static struct sdpa_shape forward_of(const struct work *w)
{
    struct sdpa_shape s = whole_of(w);
    s.b = w->b;
    s.s_q = w->s_q;
    s.s_kv = w->s_kv;
    s.bottom_right = w->s_kv > w->s_q;
    return s;
}

/* The backward's call, cut to the budget. */
static struct sdpa_shape backward_of(const struct work *w, bool deterministic)
{
    struct sdpa_shape whole = whole_of(w), s = forward_of(w);
    whole.backward = s.backward = 1;
    whole.deterministic = s.deterministic = deterministic;
    assert_true(sdpa_cut(&s, sdpa_backward_budget(&whole)));
    s.bottom_right = s.s_kv > s.s_q;
    return s;
}

/* ---- arithmetic ---- */

static void backward_memory_is_bounded(void **state)
{
    (void)state;
    const double gib = 1 << 30;
    for (int i = 0; i < N_WORK; i++) {
        const struct work *w = &works[i];
        const struct attention_args a = { .n_tok = w->n_tok,
                                          .t0 = w->t0,
                                          .n_head = w->n_head,
                                          .n_kv = w->n_kv,
                                          .d_head = w->d_head };
        /* In GiB: of a long stream 4.25 at most, of a short one 1. */
        const double most = w->t0 > 0 ? 4.25 : 1;
        struct backend be = { .act = DTYPE_BF16 };
        for (int d = 0; d < 2; d++) {
            be.nondeterministic = d == 0;
            const double set_aside = (double)cuda_attention_backward_scratch(&be, &a) / gib;
            const struct sdpa_shape s = backward_of(w, d == 1);
            if (set_aside > most)
                fail_msg("work %d: %.2f GiB of scratch", i, set_aside);
            assert_true((double)sdpa_bytes(&s) / gib <= set_aside);
        }
        /* At most 16 MiB beside what holds the log-sum-exp. */
        assert_true(cuda_attention_forward_scratch(&be, &a) <=
                    (size_t)(16 << 20) + (size_t)(16 * w->n_tok * w->n_head));
    }
}

/* Every cut: whole groups or even parts of one, queries in whole tiles, within the budget; and what
 * is set aside for a chunk holds for a shorter and an earlier one. */
static void every_cut_is_sound(void **state)
{
    (void)state;
    static const int64_t heads[][2] = { { 32, 8 }, { 20, 1 }, { 12, 12 }, { 6, 2 }, { 1, 1 } };
    int64_t n_cut = 0;
    for (int h = 0; h < 10; h++) {
        const int64_t n_head = heads[h / 2][0], n_kv = heads[h / 2][1];
        size_t before = 0;
        for (int64_t n_tok = 128; n_tok <= 16384; n_tok *= 2) {
            struct sdpa_shape whole = sdpa_whole(n_tok, 16 * n_tok, n_head, n_kv, 128);
            whole.backward = 1;
            whole.deterministic = h % 2;
            const size_t budget = sdpa_backward_budget(&whole);
            assert_true(budget >= before);
            before = budget;
            for (int64_t s = 128; s <= n_tok; s *= 2) {
                struct sdpa_shape cut = whole;
                n_cut++;
                cut.s_q = cut.s_kv = s;
                cut.b = sdpa_class_docs(n_tok, s);
                assert_true(sdpa_cut(&cut, budget));
                assert_true(sdpa_bytes(&cut) <= budget);
                assert_true(whole.n_head % cut.n_head == 0 && cut.n_head % cut.n_kv == 0);
                assert_true(cut.n_kv == 1 || cut.n_head / cut.n_kv == n_head / n_kv);
                assert_true(cut.s_q % SDPA_ROWS == 0 && cut.s_q <= s && cut.b >= 1);
            }
        }
    }
    assert_true(n_cut > 100);
}

/* 8K queries of a head against up to 256K keys are one call, and documents that fill a chunk are
 * one or a few calls of all heads. */
static void long_passes_are_whole(void **state)
{
    (void)state;
    const struct sdpa_shape continuing = backward_of(&works[5], true);
    assert_int_equal(continuing.s_q, 8192);
    for (int64_t s = 128; s <= 4096; s *= 2) {
        struct sdpa_shape whole = sdpa_whole(16384, 0, 20, 1, 128);
        whole.backward = whole.deterministic = 1;
        struct sdpa_shape cut = whole;
        cut.s_q = cut.s_kv = s;
        cut.b = sdpa_class_docs(16384, s);
        assert_true(sdpa_cut(&cut, sdpa_backward_budget(&whole)));
        assert_int_equal(cut.n_head, 20);
        assert_int_equal(cut.s_q, s);
        assert_true(cut.b * s >= 4096);
    }
}

/* ---- cuDNN ---- */

#ifdef WITH_CUDNN

/* What cuDNN reads of a device, for an H200 or an A100. */
static void describe(bool hopper, char *json, size_t size)
{
    snprintf(json, size,
             "{\"version\":1,\"cudaDeviceId\":0,\"deviceName\":\"%s\",\"deviceVer\":%d,"
             "\"driverVer\":13000,\"isTccDriver\":0,\"l2CacheSize\":%d,\"maxBlockSize\":[1024,1024,"
             "64],\"maxCtasPerSM\":32,\"maxGridSize\":[2147483647,65535,65535],"
             "\"maxRegistersPerSM\":65536,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"maxThreadsPerBlock\":1024,"
             "\"maxThreadsPerSM\":2048,\"memClockRateKHz\":%d,\"multiProcessorCount\":%d,"
             "\"pciDeviceId\":0,\"regsPerBlock\":65536,\"reservedSharedMemoryPerBlock\":1024,"
             "\"smClockRateKHz\":%d,\"supportCoopLaunch\":1,\"totalGlobalMem\":%lld,"
             "\"warpSize\":32}",
             hopper ? "NVIDIA H200" : "NVIDIA A100-SXM4-80GB", hopper ? 900 : 800,
             hopper ? 62914560 : 41943040, hopper ? 232448 : 166912, hopper ? 3201000 : 1593000,
             hopper ? 132 : 108, hopper ? 1980000 : 1410000,
             hopper ? 150754820096LL : 85174190080LL);
}

static void expect_plan(struct sdpa_engine *e, const char *device, const struct sdpa_shape *s)
{
    struct err err = { 0 };
    struct sdpa_graph *g = malloc(sizeof *g);
    assert_non_null(g);
    sdpa_graph_build(s, g);
    struct sdpa_plan *p =
        sdpa_plan_build(e, g, !s->backward || s->deterministic, sdpa_workspace_bytes(s), &err);
    if (p == NULL)
        fail_msg("%s, %s%s, %lld documents of %lld queries and %lld keys, heads %lld/%lld: %s",
                 device, s->backward ? "backward" : "forward",
                 s->deterministic ? " in fixed order" : "", (long long)s->b, (long long)s->s_q,
                 (long long)s->s_kv, (long long)s->n_head, (long long)s->n_kv, err.text);
    sdpa_plan_free(p);
    free(g);
}

static struct sdpa_engine *open_for(bool hopper)
{
    struct err err = { 0 };
    char json[2048];
    describe(hopper, json, sizeof json);
    struct sdpa_engine *e = sdpa_engine_describe(json, &err);
    if (e == NULL)
        fail_msg("%s", err.text);
    return e;
}

/* Not all of each: a plan takes up to a second. */
static void hopper_has_plans(void **state)
{
    (void)state;
    struct sdpa_engine *e = open_for(true);
    for (int i = 0; i < N_WORK; i++) {
        const struct sdpa_shape forward = forward_of(&works[i]);
        const struct sdpa_shape backward = backward_of(&works[i], i % 4 != 1);
        if (i == 1 || i == 6)
            expect_plan(e, "sm_90", &forward);
        if (i % 2 == 0 || i == 1)
            expect_plan(e, "sm_90", &backward);
    }
    sdpa_engine_close(e);
}

/* In fixed order cuDNN has no backward over ragged documents here: our own kernels run. */
static void ampere_has_plans_in_any_order(void **state)
{
    (void)state;
    struct sdpa_engine *e = open_for(false);
    const struct sdpa_shape forward = forward_of(&works[1]);
    const struct sdpa_shape packed = backward_of(&works[1], false);
    const struct sdpa_shape continuing = backward_of(&works[2], false);
    expect_plan(e, "sm_80", &forward);
    expect_plan(e, "sm_80", &packed);
    expect_plan(e, "sm_80", &continuing);
    sdpa_engine_close(e);
}

/* A plan that takes more than it may is as good as none. */
static void a_greedy_plan_is_refused(void **state)
{
    (void)state;
    struct err err = { 0 };
    struct sdpa_engine *e = open_for(true);
    struct sdpa_graph *g = malloc(sizeof *g);
    assert_non_null(g);
    const struct sdpa_shape s = backward_of(&works[7], true);
    sdpa_graph_build(&s, g);
    assert_null(sdpa_plan_build(e, g, true, 1000, &err));
    assert_non_null(strstr(err.text, "bytes"));
    free(g);
    sdpa_engine_close(e);
}

#else

static void hopper_has_plans(void **state)
{
    (void)state;
    print_message("cuDNN was not found when this was built\n");
    skip();
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backward_memory_is_bounded),    cmocka_unit_test(every_cut_is_sound),
        cmocka_unit_test(long_passes_are_whole),         cmocka_unit_test(hopper_has_plans),
#ifdef WITH_CUDNN
        cmocka_unit_test(ampere_has_plans_in_any_order), cmocka_unit_test(a_greedy_plan_is_refused),
#endif
    };
    return cmocka_run_group_tests_name("attention plans", tests, NULL, NULL);
}
