/* What the commands share: the words of the command line, messages, exit codes.
 *
 *     const char *adapter = NULL;
 *     bool greedy = false;
 *     const struct cli_option options[] = {
 *         { "adapter", "DIR", &adapter, NULL },
 *         { "greedy", NULL, NULL, &greedy },
 *     };
 *     struct cli_words words;
 *     struct err err = { 0 };
 *     if (!cli_parse(argc, argv, options, 2, &words, &err))
 *         return cli_fail(&err);
 *     struct recipe recipe = { 0 };
 *     const int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_MODEL, &recipe);
 *     if (code != 0)
 *         return code;
 *
 * A command returns its exit code, one of enum err_code. What it makes goes to stdout, everything
 * else to stderr.
 */
#ifndef FINETUNE_CLI_CLI_H
#define FINETUNE_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "recipes/recipe.h"

/* ---- commands ---- */

struct cli_command {
    const char *name, *summary;
    const char *help;                  /* the whole text of `jambatune help NAME` */
    int (*run)(int argc, char **argv); /* argv: the words after the command's name */
};

/* ---- the command line ---- */

enum { CLI_MAX_WORDS = 256 };

/* --name VALUE or --name=VALUE into *value; with metavar NULL, --name alone sets *flag. */
struct cli_option {
    const char *name; /* without the dashes; of one letter: also -n VALUE */
    const char *metavar;
    const char **value;
    bool *flag;
};

/* What is no option: key=value (key: letters, digits, '_', '.') and ~key, which change the recipe,
 * and the rest. All point into argv; args[n_arg] is NULL. */
struct cli_words {
    const char *args[CLI_MAX_WORDS + 1], *overrides[CLI_MAX_WORDS + 1];
    int n_arg, n_override;
};

/* Options and other words may be mixed; after "--" nothing is an option. *words need not be
 * initialised. Errors (ERR_USAGE): an unknown option, with the nearest; a value missing, or one too
 * many; an option twice. */
bool cli_parse(int argc, char **argv, const struct cli_option *options, int n_option,
               struct cli_words *words, struct err *err);

/* The number in an option's text, low <= *out <= high. text NULL (the option was not given) leaves
 * *out alone. name is without dashes: "command line: --top-p: '2' is out of range; expected a
 * number from 0 to 1". */
bool cli_number_int(const char *name, const char *text, int64_t low, int64_t high, int64_t *out,
                    struct err *err);
bool cli_number_real(const char *name, const char *text, double low, double high, double *out,
                     struct err *err);

/* From least to most args; usage ("jambatune tokenize MODEL FILE") ends the message. */
bool cli_expect_args(const struct cli_words *words, int least, int most, const char *usage,
                     struct err *err);

/* For commands that read no recipe. */
bool cli_expect_no_overrides(const struct cli_words *words, struct err *err);

/* ---- messages ---- */

/* "jambatune: " and each line of the text to stderr, with what could drive a terminal replaced.
 * Returns the exit code. */
int cli_fail(const struct err *err);

/* "jambatune: warning: " or "note: ", and one line, to stderr. */
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For commands whose product is stdout: flushes it and returns 0, or after a message ERR_IO. */
int cli_end_output(void);

/* The same after printing the value as indented JSON, which is given up. NULL: out of memory. */
int cli_end_json(json_t *value);

/* The same of what a file has, too, folder/name: a stdout that does not take it is only a warning
 * that names the file. */
int cli_end_json_copy(json_t *value, const char *folder, const char *name);

/* A JSON string of bytes that may not be UTF-8 (a path): those that are not become '?'. */
json_t *cli_json_string(const char *s);

/* Facts as JSON, or for reading: an object's members line by line, a list of objects as a table.
 * facts is given up; NULL: out of memory. Returns 0 or the exit code. */
int cli_end_facts(json_t *facts, bool as_json);

/* ---- recipes ---- */

/* Reads the recipe (path NULL: only the overrides) with words->overrides. Notes and all errors go
 * to stderr. Returns 0, or the exit code; then *recipe is zeroed. */
int cli_load_recipe(const char *path, const struct cli_words *words, enum recipe_need need,
                    struct recipe *recipe);

/* What reading a recipe had to say, on stderr: its errors and, where asked, its notes. */
void cli_put_report(const struct recipe_report *report, bool notes);

#endif
