/* What the recipe tests share: a scratch folder that is the current one while a test runs, x.yaml
 * in it, and expectations on what loading said. */
#ifndef TESTS_RECIPES_SCRATCH_H
#define TESTS_RECIPES_SCRATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "recipes/recipe.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define HEAD "base_model: ai21labs/Jamba-v0.1\ndatasets: [{path: a.jsonl}]\n" /* two lines */

/* ---- a scratch folder that is the current one while a test runs ---- */

struct scratch {
    char folder[256];
    int root; /* the repository's root */
};

static inline int enter_scratch(void **state)
{
    struct scratch *s = test_calloc(1, sizeof *s);
    const char *tmp = getenv("TMPDIR");
    snprintf(s->folder, sizeof s->folder, "%s/recipe.XXXXXX", tmp == NULL ? "/tmp" : tmp);
    s->root = open(".", O_RDONLY | O_DIRECTORY);
    *state = s;
    return s->root < 0 || mkdtemp(s->folder) == NULL || chdir(s->folder) != 0;
}

static inline void remove_entries(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e = NULL; dir != NULL && (e = readdir(dir)) != NULL;) {
        char *path = text_format("%s/%s", folder, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && remove(path) != 0) {
            remove_entries(path);
            rmdir(path);
        }
        free(path);
    }
    if (dir != NULL)
        closedir(dir);
}

static inline int leave_scratch(void **state)
{
    struct scratch *s = *state;
    const int failed = fchdir(s->root);
    close(s->root);
    remove_entries(s->folder);
    rmdir(s->folder);
    test_free(s);
    return failed;
}

static inline void write_bytes(const char *path, const char *bytes, size_t n)
{
    remove(
        path); /* some file systems flush a file that is cut to nothing: slow, thousands of times */
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void write_text(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

/* ---- loading ---- */

struct loaded {
    struct recipe recipe;
    struct recipe_report report;
    bool ok;
};

static inline struct loaded load(const char *text, const char *const *overrides, int n)
{
    struct loaded l;
    write_text("x.yaml", text);
    l.ok = recipe_load("x.yaml", overrides, n, RECIPE_NEED_TRAIN, &l.recipe, &l.report);
    return l;
}

static inline void unload(struct loaded *l)
{
    recipe_free(&l->recipe);
    recipe_report_free(&l->report);
}

static inline char *join(const struct recipe_text_list *list)
{
    struct text t = { 0 };
    text_puts(&t, "");
    for (int64_t i = 0; i < list->n; i++)
        text_printf(&t, "%s%s", i > 0 ? "\n" : "", list->item[i]);
    assert_false(t.failed);
    return t.data;
}

static inline void expect_list(const struct recipe_text_list *list, const char *expected)
{
    char *have = join(list);
    assert_string_equal(have, expected);
    free(have);
}

static inline void expect_errors(const char *text, const char *expected)
{
    struct loaded l = load(text, NULL, 0);
    expect_list(&l.report.errors, expected);
    assert_int_equal(l.ok, expected[0] == '\0');
    unload(&l);
}

static inline struct loaded load_good(const char *text)
{
    struct loaded l = load(text, NULL, 0);
    expect_list(&l.report.errors, "");
    assert_true(l.ok);
    return l;
}

/* A recipe that sets every key, none to its default. */
static const char every_kind[] =
    "base_model: random:config.json\n"
    "datasets:\n"
    "  - {path: a.jsonl, type: completion, field_prompt: \"pr\\u00FCfung\"}\n"
    "  - b.jsonl.gz\n"
    "test_datasets: [{path: /v/c.json, type: input_ids, field_labels: l}]\n"
    "sequence_len: 77\nexcess_length_strategy: split\ntrain_on_inputs: yes\nsample_packing: on\n"
    "shuffle: off\nlora_r: 3\nlora_alpha: 2.5\nlora_dropout: 0.1\nuse_rslora: true\n"
    "lora_target_modules: '.*\\.(in_proj|q_proj)'\nlora_exclude_modules: [lm_head, 'a b']\n"
    "lora_layers_to_transform: [1, 3]\nrank_pattern: {'experts\\.\\d+\\.up_proj': 4, k: 2}\n"
    "alpha_pattern: {q_proj: 0.5}\nmicro_batch_size: 2\ngradient_accumulation_steps: 3\n"
    "num_epochs: 0.5\nmax_steps: 12\noptimizer: adamw_torch\nlearning_rate: 1e-30\n"
    "lr_scheduler: constant_with_warmup\nwarmup_ratio: 0.25\nweight_decay: 0.01\nmax_grad_norm: 0\n"
    "adam_beta1: 0.8\nadam_beta2: 0.95\nadam_epsilon: 5e300\nloraplus_lr_ratio: 16\n"
    "loraplus_lr_embedding: 3e-7\nrouter_aux_loss_coef: 0.001\nmax_nonfinite_steps: 2\n"
    "eval_steps: 0.1\nlogging_steps: 1\noutput_dir: \"o \\\\ \\\"\\x85\\u2028#\"\nseed: "
    "9007199254740992\n"
    "device: cpu\nprecision: fp32\ngradient_checkpointing: scan\nchunk_tokens: 5\n"
    "memory_budget: 1.5GiB\nthreads: 2\nlora_model_dir: 'null'\nsave_steps: 2h\n"
    "save_total_limit: 0\nresume_from_checkpoint: 'true/x'\nsample_prompts: [a b, \"\\t\"]\n";

#define SCRATCH_TEST(f) cmocka_unit_test_setup_teardown(f, enter_scratch, leave_scratch)

#endif
