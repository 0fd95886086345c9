/* What is made of the table of keys: dump, explain, the option table; and the shipped recipes. */
#include "tests/recipes/scratch.h"

/* A dump without its comments: the values alone. */
static char *values_of(const struct recipe *recipe)
{
    struct text t = { 0 }, out = { 0 };
    recipe_dump(recipe, &t);
    assert_false(t.failed);
    for (char *line = t.data; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n'), *comment = strstr(line, "  # ");
        assert_non_null(end);
        text_append(&out, line,
                    (size_t)((comment != NULL && comment < end ? comment : end) - line));
        text_puts(&out, "\n");
        line = end + 1;
    }
    text_free(&t);
    return out.data;
}

static void expect_round_trip(const char *path)
{
    struct loaded a, b;
    assert_true(recipe_load(path, NULL, 0, RECIPE_NEED_TRAIN, &a.recipe, &a.report));
    struct text dump = { 0 };
    recipe_dump(&a.recipe, &dump);
    struct err err = { 0 };
    assert_true(file_make_directory("elsewhere", &err));
    write_text("elsewhere/dump.yaml", dump.data);
    b.ok = recipe_load("elsewhere/dump.yaml", NULL, 0, RECIPE_NEED_TRAIN, &b.recipe, &b.report);
    expect_list(&b.report.errors, "");
    assert_true(b.report.notes.n <= a.report.notes.n);
    char *x = values_of(&a.recipe), *y = values_of(&b.recipe);
    assert_string_equal(x, y);
    free(x);
    free(y);
    text_free(&dump);
    unload(&a);
    unload(&b);
}

static void dump_loads_again_to_the_same_recipe(void **state)
{
    (void)state;
    static const char *const tails[] = {
        "",
        "lora_target_linear: true\n",
        "lora_target_modules: all-linear\n",
        "lora_target_modules: [\"true\", 'null', '1', 'a, b', \"\\t\"]\n",
        "max_steps: 4\nval_set_size: 3\neval_steps: 2\n",
        "warmup_steps: 3\nlora_exclude_modules: '.*lm_head'\n",
        "chat_template: jamba\ntrain_on_reasoning: false\nchat_template_date: 2024-02-29 10:00\n",
        "chat_template: t.jinja\nchat_template_kwargs: {a: [1, 2.0, 1.5e300, 'no', "
        "\"\\t\\u2028\"], "
        "'b c': {}, d: null, e: true}\n",
        "save_steps: 90m\nresume_from_checkpoint: auto\nsample_prompts: [a, \"b\\n\", 'true']\n",
        "save_steps: 0.25\nresume_from_checkpoint: out/checkpoint-5\nsave_total_limit:\n",
        "save_steps: 1.23456789s\nauto_resume_from_checkpoints: false\nsample_prompts: one text\n",
        "load_best: true\nearly_stopping_patience: 2\nval_set_size: 1\neval_steps: 5\n",
    };
    for (size_t i = 0; i < COUNT(tails); i++) {
        char text[512];
        snprintf(text, sizeof text, HEAD "%s", tails[i]);
        write_text("x.yaml", text);
        expect_round_trip("x.yaml");
    }
    write_text("x.yaml", every_kind);
    expect_round_trip("x.yaml");
}

static void dump_names_the_origin_of_every_value(void **state)
{
    (void)state;
    static const char *const overrides[] = { "seed=7", "output_dir=a\n b: c" };
    struct loaded l = load(HEAD "lora_rank: 4\n", overrides, 2);
    struct text t = { 0 };
    recipe_dump(&l.recipe, &t);
    assert_non_null(strstr(t.data, "\nlora_r: 4  # x.yaml:3:1\n"));
    assert_non_null(strstr(t.data, "\nlora_alpha: 8  # default\n"));
    assert_non_null(strstr(t.data, "\nseed: 7  # command line: seed=7\n"));
    assert_non_null(strstr(t.data, "a\\x0A b: c\"  # command line: output_dir=a? b: c\n"));
    text_free(&t);
    unload(&l);
}

static void explain_gives_value_origin_and_help(void **state)
{
    (void)state;
    struct loaded l = load(HEAD "lora_r: 4\n", NULL, 0);
    struct text t = { 0 };
    struct err err = { 0 };
    assert_true(recipe_explain(&l.recipe, "lora_rank", &t, &err));
    assert_string_equal(t.data, "lora_r: 4\n    from: x.yaml:3:1\n    Rank of the adapters.\n"
                                "    takes: a whole number from 1 to 16384\n    default: 8\n"
                                "    also read: lora_rank\n");
    text_clear(&t);
    assert_true(recipe_explain(&l.recipe, "wandb_project", &t, &err));
    assert_string_equal(t.data, "wandb_project: ignored, it cannot change the result here\n");
    text_clear(&t);
    assert_true(recipe_explain(&l.recipe, "use_dora", &t, &err));
    assert_string_equal(
        t.data, "use_dora: refused when it is set: DoRA is not supported: remove the key\n");
    text_clear(&t);
    assert_false(recipe_explain(&l.recipe, "lora_rnk", &t, &err));
    assert_string_equal(err.text, "command line: unknown key 'lora_rnk'; did you mean 'lora_r'?");
    assert_true(recipe_explain(&l.recipe, NULL, &t, &err));
    assert_non_null(strstr(t.data, "\nthreads: auto\n    from: default\n"));
    text_free(&t);
    unload(&l);
}

static void shipped_recipes_load(void **state)
{
    (void)state;
    static const char *const paths[] = { "recipes/jamba-mini.yaml", "recipes/jamba-3b.yaml",
                                         "recipes/chat-tools.yaml",
                                         "recipes/quickstart/quickstart.yaml" };
    for (size_t i = 0; i < COUNT(paths); i++) {
        struct loaded l;
        l.ok = recipe_load(paths[i], NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report);
        expect_list(&l.report.errors, "");
        expect_list(&l.report.notes, "");
        unload(&l);
    }
    DIR *dir = opendir("recipes");
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *e = NULL; (e = readdir(dir)) != NULL;)
        n += text_ends_with(e->d_name, ".yaml");
    closedir(dir);
    assert_int_equal(n, 3); /* each is in the list above */
}

static void jamba_mini_is_the_published_recipe(void **state)
{
    (void)state;
    struct loaded l;
    l.ok = recipe_load("recipes/jamba-mini.yaml", NULL, 0, RECIPE_NEED_TRAIN, &l.recipe, &l.report);
    const struct recipe *r = &l.recipe;
    assert_true(l.ok);
    assert_true(r->lora.r == 8 && r->lora.alpha == 8 && r->lora.n_target == 10);
    assert_true(r->learning_rate == 1e-5 && r->num_epochs == 2);
    assert_int_equal(r->data.micro_batch_size * r->data.gradient_accumulation_steps, 4);
    assert_int_equal(r->data.sequence_len, 4096);
    assert_int_equal(r->logging_steps, 10);
    assert_int_equal(r->data.train[0].type, DATA_TEXT);
    unload(&l);
}

/* When this fails, the README's section is to be replaced by what recipe_option_table writes
 * (`jambatune explain --markdown`). */
static void readme_lists_every_option(void **state)
{
    (void)state;
    static const char begin[] = "<!-- options -->\n", end[] = "<!-- /options -->";
    struct err err = { 0 };
    char *readme = NULL;
    size_t n = 0;
    assert_true(file_read("README.md", 1 << 20, &readme, &n, &err));
    char *from = strstr(readme, begin), *to = strstr(readme, end);
    assert_true(from != NULL && to != NULL && from < to);
    *to = '\0';
    struct text t = { 0 };
    recipe_option_table(&t);
    assert_string_equal(from + sizeof begin - 1, t.data);
    text_free(&t);
    free(readme);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(dump_loads_again_to_the_same_recipe),
        SCRATCH_TEST(dump_names_the_origin_of_every_value),
        SCRATCH_TEST(explain_gives_value_origin_and_help),
        cmocka_unit_test(shipped_recipes_load),
        cmocka_unit_test(jamba_mini_is_the_published_recipe),
        cmocka_unit_test(readme_lists_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
