/* jambatune explain: the keys of a recipe, their values, where those come from, what they mean. */
#include <stdio.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"

const char cmd_explain_help[] =
    "usage: jambatune explain [RECIPE] [KEY] [key=value ...] [--yaml | --json]\n"
    "       jambatune explain --markdown\n"
    "\n"
    "Shows every key a recipe can have, or KEY alone: its value, where that was set\n"
    "(file, line and column, the command line, or by default), what the key means\n"
    "and what it takes. Without RECIPE it shows the defaults. Nothing is loaded but\n"
    "the recipe.\n"
    "\n"
    "A KEY of another trainer is explained too: why it is ignored or refused, or\n"
    "which key it is read as.\n"
    "\n"
    "Options:\n"
    "  --yaml       print the resolved recipe as YAML instead, with the origin of\n"
    "               each value; it can be trained from as it is\n"
    "  --json       print the same facts as JSON: a list, or one object for KEY\n"
    "  --markdown   print the table of all keys as Markdown\n"
    "\n"
    "Examples:\n"
    "  jambatune explain learning_rate\n"
    "  jambatune explain train.yaml\n"
    "  jambatune explain train.yaml lora_r lora_r=64\n"
    "  jambatune explain --yaml train.yaml num_epochs=1 > resolved.yaml\n";

static const char usage[] = "jambatune explain [RECIPE] [KEY] [key=value ...]";

/* A word alone may be either: what is a file, or spelled like one, is a recipe. */
static bool is_recipe(const char *word)
{
    return file_exists(word) || text_ends_with(word, ".yaml") || text_ends_with(word, ".yml") ||
           strchr(word, '/') != NULL;
}

static int print(struct text *out)
{
    if (out->failed) {
        struct err err = { 0 };
        err_no_memory(&err, "the explanation");
        text_free(out);
        return cli_fail(&err);
    }
    fwrite(out->data != NULL ? out->data : "", 1, out->len, stdout);
    text_free(out);
    return cli_end_output();
}

int cmd_explain(int argc, char **argv)
{
    bool markdown = false, yaml = false, json = false;
    const struct cli_option options[] = {
        { "markdown", NULL, NULL, &markdown },
        { "yaml", NULL, NULL, &yaml },
        { "json", NULL, NULL, &json },
    };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 3, &words, &err) ||
        !cli_expect_args(&words, 0, markdown ? 0 : 2, usage, &err))
        return cli_fail(&err);
    if (json && (yaml || markdown)) {
        err_set(&err, ERR_USAGE, "command line: --json does not go with --%s; keep one",
                yaml ? "yaml" : "markdown");
        return cli_fail(&err);
    }
    struct text out = { 0 };
    if (markdown) {
        recipe_option_table(&out);
        return print(&out);
    }

    const bool has_recipe = words.n_arg == 2 || (words.n_arg == 1 && is_recipe(words.args[0]));
    const char *path = has_recipe ? words.args[0] : NULL, *key = words.args[has_recipe ? 1 : 0];
    if (yaml && key != NULL) {
        err_set(&err, ERR_USAGE, "command line: --yaml: shows all keys; leave '%.60s' out", key);
        return cli_fail(&err);
    }
    struct recipe recipe = { 0 };
    const int code = cli_load_recipe(path, &words, RECIPE_NEED_NOTHING, &recipe);
    if (code != 0)
        return code;
    if (json) {
        json_t *facts = recipe_explain_json(&recipe, key, &err);
        recipe_free(&recipe);
        return facts != NULL ? cli_end_json(facts) : cli_fail(&err);
    }
    if (yaml)
        recipe_dump(&recipe, &out);
    const bool ok = yaml || recipe_explain(&recipe, key, &out, &err);
    recipe_free(&recipe);
    if (ok)
        return print(&out);
    text_free(&out);
    return cli_fail(&err);
}
