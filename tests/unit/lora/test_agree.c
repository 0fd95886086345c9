/* Continuing from an adapter: a recipe key that contradicts it is an error, one that repeats it is
 * not. */
#include "lora/agree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/lora/tiny_jamba.h"

/* The adapter: in_proj of layers 0, 1 and 3 by whole names, layer 1's of rank 2. */
static char *const adapter_list[] = { (char *)(uintptr_t) "model.layers.0.mamba.in_proj",
                                      (char *)(uintptr_t) "model.layers.1.mamba.in_proj",
                                      (char *)(uintptr_t) "model.layers.3.mamba.in_proj" };
static const struct lora_pattern adapter_ranks[] = {
    { (char *)(uintptr_t) "model.layers.1.mamba.in_proj", 2 }
};

static struct lora_config adapter_config(void)
{
    return (struct lora_config){ .r = 4,
                                 .alpha = 8,
                                 .target_modules = (char **)(uintptr_t)adapter_list,
                                 .n_target = 3,
                                 .rank_pattern = (struct lora_pattern *)(uintptr_t)adapter_ranks,
                                 .n_rank_pattern = 1 };
}

struct recipe {
    int64_t r;
    double alpha;
    bool rslora;
    const char *target, *regex, *exclude;
    int64_t layer;
    const char *rank_key;
    double rank;
    const char *alpha_key;
    unsigned given;
};

static bool agrees(const struct recipe *recipe, struct err *err)
{
    const struct jamba_config jamba = tiny_jamba();
    struct lora_module *modules = NULL;
    const int64_t n = jamba_modules(&jamba, &modules);
    struct lora_choice *have = calloc((size_t)n, sizeof *have);
    assert_non_null(have);
    const struct lora_config adapter = adapter_config();
    assert_true(lora_choose(&adapter, modules, n, have, err));
    char *target = (char *)(uintptr_t)recipe->target, *exclude = (char *)(uintptr_t)recipe->exclude;
    int64_t layer = recipe->layer;
    struct lora_pattern rank = { (char *)(uintptr_t)recipe->rank_key, recipe->rank };
    struct lora_pattern alpha = { (char *)(uintptr_t)recipe->alpha_key, 3 };
    const struct lora_config config = { .r = recipe->r,
                                        .alpha = recipe->alpha,
                                        .use_rslora = recipe->rslora,
                                        .dropout = 0.1,
                                        .target_modules = &target,
                                        .n_target = target != NULL,
                                        .target_regex = (char *)(uintptr_t)recipe->regex,
                                        .exclude_modules = &exclude,
                                        .n_exclude = exclude != NULL,
                                        .layers_to_transform = &layer,
                                        .n_layer_to_transform = layer != 0,
                                        .rank_pattern = &rank,
                                        .n_rank_pattern = recipe->rank_key != NULL,
                                        .alpha_pattern = &alpha,
                                        .n_alpha_pattern = recipe->alpha_key != NULL };
    const struct lora_agreement agreement = { .adapter = &adapter,
                                              .recipe = &config,
                                              .given = recipe->given,
                                              .modules = modules,
                                              .n_module = n,
                                              .have = have };
    const bool ok = lora_agrees(&agreement, err);
    free(have);
    free(modules);
    return ok;
}

static void keys_that_say_the_same_agree(void **state)
{
    (void)state;
    static const struct recipe cases[] = {
        { .given = 0,
          .r = 99,
          .alpha = 99,
          .rslora = true,
          .target = "nonsense" }, /* defaults: not given */
        { .given = LORA_GIVEN_R | LORA_GIVEN_ALPHA | LORA_GIVEN_RSLORA, .r = 4, .alpha = 8 },
        { .given = LORA_GIVEN_TARGETS,
          .target = "in_proj" }, /* spelled otherwise, the same modules */
        { .given = LORA_GIVEN_TARGETS, .regex = ".*mamba\\.in_proj" },
        { .given = LORA_GIVEN_TARGETS | LORA_GIVEN_RANK_PATTERN,
          .target = "in_proj",
          .rank_key = "layers.1.mamba.*",
          .rank = 2 },
        { .given = LORA_GIVEN_EXCLUDE, .exclude = "q_proj" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        if (!agrees(&cases[i], &err))
            fail_msg("case %zu: %s", i, err.text);
    }
}

#define ELSE "; leave the key out or train a new adapter"

static void keys_that_contradict_are_named(void **state)
{
    (void)state;
    static const struct {
        struct recipe recipe;
        const char *message;
    } cases[] = {
        { { .given = LORA_GIVEN_R, .r = 8 },
          "lora_r: is 8, but the adapter in lora_model_dir has r 4" ELSE },
        { { .given = LORA_GIVEN_ALPHA, .alpha = 16.5 },
          "lora_alpha: is 16.5, but the adapter in lora_model_dir has lora_alpha 8" ELSE },
        { { .given = LORA_GIVEN_RSLORA, .rslora = true },
          "use_rslora: is true, but the adapter in lora_model_dir has use_rslora false" ELSE },
        { { .given = LORA_GIVEN_TARGETS, .regex = ".*(in|x)_proj" },
          "lora_target_modules: the recipe adapts 'model.layers.0.mamba.x_proj', but the adapter "
          "in "
          "lora_model_dir has none for it; leave the keys that choose modules out or train a new "
          "adapter" },
        { { .given = LORA_GIVEN_EXCLUDE, .exclude = "layers.3.mamba.in_proj" },
          "lora_target_modules: the recipe does not adapt 'model.layers.3.mamba.in_proj', but the "
          "adapter in "
          "lora_model_dir has tensors for it; leave the keys that choose modules out or train a "
          "new adapter" },
        { { .given = LORA_GIVEN_TARGETS | LORA_GIVEN_LAYERS, .target = "in_proj", .layer = 3 },
          "lora_target_modules: the recipe does not adapt 'model.layers.0.mamba.in_proj', but the "
          "adapter in "
          "lora_model_dir has tensors for it; leave the keys that choose modules out or train a "
          "new adapter" },
        { { .given = LORA_GIVEN_RANK_PATTERN, .rank_key = "in_proj", .rank = 2 },
          "rank_pattern: gives 'model.layers.0.mamba.in_proj' rank 2, but the adapter in "
          "lora_model_dir "
          "has 4" ELSE },
        { { .given = LORA_GIVEN_ALPHA_PATTERN, .alpha_key = "layers.1.*" },
          "alpha_pattern: gives 'model.layers.1.mamba.in_proj' alpha 3, but the adapter in "
          "lora_model_dir "
          "has 8" ELSE },
        { { .given = LORA_GIVEN_TARGETS, .target = "in_porj" },
          "lora_target_modules: 'in_porj' matches no module; did you mean 'in_proj'?" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        if (agrees(&cases[i].recipe, &err))
            fail_msg("case %zu was accepted", i);
        assert_string_equal(err.text, cases[i].message);
        assert_int_equal(err.code, ERR_RECIPE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_that_say_the_same_agree),
        cmocka_unit_test(keys_that_contradict_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
