/* jambatune plan: memory before anything is loaded. */
#include <stdio.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/print.h"
#include "finetune/train/loop.h"

const char cmd_plan_help[] =
    "usage: jambatune plan RECIPE [key=value ...] [~key ...] [--json]\n"
    "\n"
    "Prints what training would adapt and how much memory it would take: per arena, with the "
    "passes, chunk and\n"
    "recompute policy that would be chosen. Reads config.json alone: no weights, no data. The step "
    "is taken at its\n"
    "bound, micro_batch_size * gradient_accumulation_steps documents of sequence_len tokens each, "
    "and what\n"
    "depends on data is planned at its bound too, so a run takes this much at most.\n"
    "\n"
    "The choice is made within memory_budget, or the machine's memory.\n"
    "\n"
    "  --json   the same facts as one JSON object\n"
    "\n"
    "Exit status 71 when no choice fits; the message says what the smallest one needs.\n"
    "\n"
    "  jambatune plan recipes/jamba-mini.yaml base_model=random:config.json\n"
    "  jambatune plan train.yaml memory_budget=16GiB sequence_len=32768\n";

static int print_json(const struct trainer *t, size_t budget)
{
    struct err err = { 0 };
    struct lora_summary s;
    if (!lora_summarize(t->engine.modules, t->engine.n_module, t->engine.choices, &s, &err))
        return cli_fail(&err);
    json_t *value = json_plan(&t->shape, &t->bytes, budget);
    if (value != NULL) {
        json_object_set_new(value, "adapted_modules", json_integer((json_int_t)s.total.n_adapted));
        json_object_set_new(value, "trained_parameters", json_integer((json_int_t)s.total.n_param));
    }
    return cli_end_json(value);
}

static int plan(const struct recipe *recipe, bool json)
{
    struct err err = { 0 };
    struct trainer t = { 0 };
    int code = 0;
    const bool fits = trainer_open_shapes(&t, recipe, &err);
    const bool planned = fits || (err.code == ERR_NO_MEMORY && t.bytes.total > 0);
    const size_t budget = plan_budget(&t.engine.be, recipe->memory_budget);
    if (planned && json) {
        code = print_json(&t, budget);
    } else if (planned) {
        struct err table = { 0 };
        if (!print_targets(stdout, t.engine.modules, t.engine.n_module, t.engine.choices, &table))
            code = cli_fail(&table);
        printf("\n");
        print_plan(stdout, &t.shape, &t.bytes, budget);
        code = code != 0 ? code : cli_end_output();
    }
    if (!fits)
        code = cli_fail(&err);
    trainer_close(&t);
    return code;
}

int cmd_plan(int argc, char **argv)
{
    bool json = false;
    const struct cli_option options[] = { { "json", NULL, NULL, &json } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 1, &words, &err) ||
        !cli_expect_args(&words, 1, 1, "jambatune plan RECIPE [key=value ...]", &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_TRAIN, &recipe);
    if (code == 0)
        code = plan(&recipe, json);
    recipe_free(&recipe);
    return code;
}
