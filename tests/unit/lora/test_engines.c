/* The rules of the engines: each hits where it should, and names it. */
#include "lora/engines.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/formats/peft_fixture.h"

enum { T4 = LORA_ENGINE_TRANSFORMERS4, T5, VLLM, LLAMA, MERGED };

static struct lora_subject subject_of(const struct fixture *f, const struct peft_traits *traits)
{
    return (struct lora_subject){ .modules = f->modules,
                                  .n_module = f->n,
                                  .choices = f->choices,
                                  .config = &f->config,
                                  .traits = traits,
                                  .tied = f->facts.tied };
}

#define EXPERTS "gate_proj", "up_proj", "down_proj"

static void every_rule_hits_what_it_is_about(void **state)
{
    (void)state;
    static const struct {
        struct spec spec;
        struct peft_traits traits;
        int engine;
        enum lora_verdict verdict;
        const char *subject; /* NULL: nothing is found for that engine */
        bool cured;
        int64_t n_module;
    } cases[] = {
        /* what is well: per-expert tensors with their entries */
        { { .list = { "in_proj", EXPERTS } }, { .fused_entries = true }, T4, 0, NULL, 0, 0 },
        { { .list = { "in_proj", EXPERTS } }, { .fused_entries = true }, T5, 0, NULL, 0, 0 },
        { { .list = { "in_proj", EXPERTS } }, { .fused_entries = true }, VLLM, 0, NULL, 0, 0 },
        { { .list = { "in_proj", EXPERTS } }, { .fused_entries = true }, LLAMA, 0, NULL, 0, 0 },
        { { .regex = ".*", .tied = true }, { .foreign = true }, MERGED, 0, NULL, 0, 0 },
        { { .list = { "dt_proj", "router" } }, { 0 }, T4, 0, NULL, 0, 0 },
        { { .list = { "dt_proj", "router", "lm_head" } }, { 0 }, VLLM, 0, NULL, 0, 0 },
        { { .list = { "dt_proj", "router", "lm_head" } }, { 0 }, LLAMA, 0, NULL, 0, 0 },
        { { .list = { "in_proj" }, .rslora = true }, { 0 }, VLLM, 0, NULL, 0, 0 },
        { { .list = { "in_proj" }, .rslora = true }, { .dropout = 0.1 }, T5, 0, NULL, 0, 0 },
        { { .list = { EXPERTS } }, { .fused_layout = true }, T5, 0, NULL, 0, 0 },
        { { .list = { "router" } }, { .router_parameter = true }, T5, 0, NULL, 0, 0 },
        { { .list = { "q_proj" } }, { .renamed = true }, VLLM, 0, NULL, 0, 0 },
        { { .list = { EXPERTS } }, { .fused_layout = true }, LLAMA, 0, NULL, 0, 0 },

        { { .list = { "in_proj", EXPERTS } },
          { .fused_layout = true },
          T4,
          LORA_IGNORED,
          "experts of layer 1, 3",
          true,
          12 },
        { { .list = { "q_proj" } },
          { .renamed = true },
          T4,
          LORA_IGNORED,
          "tensors under other names",
          true,
          1 },
        { { .list = { "router", "q_proj" } }, { 0 }, T5, LORA_REFUSED, "router", true, 2 },
        { { .list = { "dt_proj", "q_proj" } }, { 0 }, T5, LORA_IGNORED, "dt_proj", false, 3 },
        { { .list = { "in_proj", EXPERTS }, .rslora = true },
          { 0 },
          T5,
          LORA_IGNORED,
          "experts with rsLoRA",
          true,
          12 },
        { { .list = { EXPERTS }, .rslora = true },
          { .fused_entries = true },
          T5,
          LORA_MISSCALED,
          "experts with rsLoRA",
          true,
          8 },
        { { .list = { EXPERTS }, .ranks = { { "layers.3.*experts.1.up_proj", 2 } } },
          { .fused_entries = true },
          T5,
          LORA_REFUSED,
          "experts of layer 3",
          true,
          6 },
        { { .list = { EXPERTS } }, { 0 }, T5, LORA_IGNORED, "experts of layer 1, 3", true, 12 },
        { { .list = { EXPERTS } },
          { .fused_entries = true, .dropout = 0.1 },
          T5,
          LORA_REFUSED,
          "experts of layer 1, 3",
          true,
          12 },
        { { .list = { "router", "q_proj" } },
          { .router_parameter = true, .dropout = 0.1 },
          T5,
          LORA_REFUSED,
          "router",
          true,
          2 },
        { { .list = { "q_proj" } },
          { .renamed = true },
          T5,
          LORA_IGNORED,
          "tensors under other names",
          true,
          1 },
        { { .list = { "in_proj", EXPERTS } },
          { .fused_layout = true },
          VLLM,
          LORA_REFUSED,
          "experts of layer 1, 3",
          true,
          12 },
        { { .list = { "gate_proj", "up_proj" } },
          { 0 },
          VLLM,
          LORA_REFUSED,
          "experts of layer 1, 3",
          true,
          8 },
        { { .list = { "q_proj", "o_proj" },
            .ranks = { { "q_proj", 513 } },
            .alphas = { { "q_proj", 1026 } } },
          { 0 },
          VLLM,
          LORA_REFUSED,
          "q_proj",
          false,
          1 },
        { { .list = { "q_proj" } },
          { .renamed = true, .foreign = true },
          VLLM,
          LORA_REFUSED,
          "tensors under other names",
          true,
          1 },
        { { .list = { "in_proj", EXPERTS }, .rslora = true },
          { 0 },
          VLLM,
          LORA_MISSCALED,
          "experts with rsLoRA",
          true,
          12 },
        { { .list = { "in_proj", "q_proj" }, .ranks = { { "q_proj", 2 } } },
          { 0 },
          VLLM,
          LORA_MISSCALED,
          "ranks or alphas that differ between modules",
          true,
          1 },
        { { .list = { "in_proj", "q_proj" }, .alphas = { { "in_proj", 2 } } },
          { 0 },
          VLLM,
          LORA_MISSCALED,
          "ranks or alphas that differ between modules",
          true,
          3 },
        { { .list = { "embed_tokens", "q_proj" }, .tied = true },
          { 0 },
          LLAMA,
          LORA_REFUSED,
          "embed_tokens of a tied model",
          false,
          1 },
        { { .list = { "lm_head", "q_proj" }, .tied = true },
          { 0 },
          LLAMA,
          LORA_REFUSED,
          "lm_head of a tied model",
          false,
          1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct lora_report report;
        struct err err = { 0 };
        open_fixture(&f, &cases[i].spec);
        const struct lora_subject subject = subject_of(&f, &cases[i].traits);
        assert_true(lora_judge(&subject, &report, &err));
        const struct lora_finding *found = NULL;
        for (int k = 0; k < report.n_finding; k++) {
            if ((int)report.findings[k].engine != cases[i].engine)
                continue;
            if (found != NULL)
                fail_msg("case %zu: '%s' as well as '%s'", i, report.findings[k].subject,
                         found->subject);
            found = &report.findings[k];
        }
        if ((found == NULL) != (cases[i].subject == NULL))
            fail_msg("case %zu: %s", i, found != NULL ? found->subject : "nothing found");
        if (found != NULL) {
            assert_string_equal(found->subject, cases[i].subject);
            assert_int_equal(found->verdict, cases[i].verdict);
            assert_int_equal(found->n_module, cases[i].n_module);
            assert_int_equal(found->cured, cases[i].cured);
        }
        assert_int_equal(lora_report_verdict(&report, (enum lora_engine)cases[i].engine),
                         cases[i].verdict);
        lora_report_free(&report);
        close_fixture(&f);
    }
}

static void modules_that_target_modules_leaves_out_are_ignored(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_report report;
    struct err err = { 0 };
    open_fixture(&f, &(struct spec){ .list = { "in_proj", "q_proj" } });
    struct peft_traits traits = { .untargeted = calloc((size_t)f.n, sizeof(bool)) };
    assert_non_null(traits.untargeted);
    const int64_t q = module_index(f.modules, f.n, "model.layers.2.self_attn.q_proj");
    traits.untargeted[q] = true;
    const struct lora_subject subject = subject_of(&f, &traits);
    assert_true(lora_judge(&subject, &report, &err));
    for (int e = 0; e < LORA_ENGINE_COUNT; e++) {
        const bool peft = e == T4 || e == T5;
        assert_int_equal(report.verdicts[q][e], peft ? LORA_IGNORED : LORA_HONOURED);
        assert_int_equal(report.verdicts[q - 1][e], LORA_HONOURED);
    }
    assert_int_equal(report.n_finding, 2);
    assert_string_equal(report.findings[0].subject, "q_proj");
    lora_report_free(&report);
    peft_traits_free(&traits);
    close_fixture(&f);
}

/* A head of a vocabulary that vLLM cannot adapt; a base whose d_inner llama.cpp does not run. */
static void a_base_can_be_at_fault(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_report report;
    struct err err = { 0 };
    const struct peft_traits traits = { 0 };
    open_fixture(&f, &(struct spec){ .list = { "lm_head", "q_proj" } });
    const struct lora_subject subject = subject_of(&f, &traits);
    f.modules[f.n - 1].out = 258048;
    assert_true(lora_judge(&subject, &report, &err));
    assert_int_equal(report.n_finding, 0);
    lora_report_free(&report);
    f.modules[f.n - 1].out = 258049;
    f.modules[1].out += 2; /* an in_proj that was (4 d_model, d_model) */
    assert_int_equal(f.modules[1].kind, LORA_IN_PROJ);
    assert_true(lora_judge(&subject, &report, &err));
    assert_int_equal(report.n_finding, 2);
    assert_string_equal(report.findings[0].subject, "lm_head");
    assert_int_equal(report.findings[0].engine, VLLM);
    assert_string_equal(report.findings[1].subject, "the base");
    assert_int_equal(lora_report_verdict(&report, LORA_ENGINE_LLAMA_CPP), LORA_REFUSED);
    lora_report_free(&report);
    close_fixture(&f);
}

static void the_line_of_an_engine_says_what_and_the_way_out(void **state)
{
    (void)state;
    struct fixture f;
    struct lora_report report;
    struct err err = { 0 };
    struct text t5 = { 0 }, merged = { 0 };
    const struct peft_traits traits = { 0 };
    open_fixture(&f, &(struct spec){ .list = { "dt_proj", "router" } });
    const struct lora_subject subject = subject_of(&f, &traits);
    assert_true(lora_judge(&subject, &report, &err));
    lora_report_line(&report, LORA_ENGINE_TRANSFORMERS5, &t5);
    lora_report_line(&report, LORA_ENGINE_MERGED, &merged);
    assert_string_equal(t5.data,
                        "refused: router (`jambatune export --to peft --engine transformers5` "
                        "names it as a parameter; transformers 4, vLLM and llama.cpp honour it); "
                        "ignored: dt_proj (`jambatune export --to merged`, or train without it; "
                        "transformers 4, vLLM and llama.cpp honour it)");
    assert_string_equal(merged.data, "takes effect");
    text_free(&t5);
    text_free(&merged);
    lora_report_free(&report);
    close_fixture(&f);
}

static void vllm_ranks_are_those_of_its_list(void **state)
{
    (void)state;
    static const int64_t pairs[][2] = { { 1, 1 },     { 2, 8 },     { 8, 8 },     { 9, 16 },
                                        { 16, 16 },   { 17, 32 },   { 33, 64 },   { 65, 128 },
                                        { 200, 256 }, { 257, 320 }, { 321, 512 }, { 512, 512 },
                                        { 513, 0 } };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        assert_int_equal(lora_vllm_rank(pairs[i][0]), pairs[i][1]);
}

static void engines_are_spelled_one_way(void **state)
{
    (void)state;
    enum lora_engine engine;
    for (int e = 0; e < LORA_ENGINE_COUNT; e++) {
        assert_true(lora_engine_parse(lora_engine_key((enum lora_engine)e), &engine));
        assert_int_equal(engine, e);
    }
    assert_false(lora_engine_parse("vLLM", &engine));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule_hits_what_it_is_about),
        cmocka_unit_test(modules_that_target_modules_leaves_out_are_ignored),
        cmocka_unit_test(a_base_can_be_at_fault),
        cmocka_unit_test(the_line_of_an_engine_says_what_and_the_way_out),
        cmocka_unit_test(vllm_ranks_are_those_of_its_list),
        cmocka_unit_test(engines_are_spelled_one_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
