/* jambatune report: runs as one page of HTML. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/run_folders.h"
#include "finetune/report/report.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"

const char cmd_report_help[] =
    "usage: jambatune report DIR [DIR ...] [-o FILE.html] [--json]\n"
    "\n"
    "Makes one HTML file of what runs have left in their folders (output_dir): curves of\n"
    "loss, validation loss, learning rate, gradient norm, speed and memory; samples; time\n"
    "per block; what was adapted; data; the resolved recipe with the origin of each value;\n"
    "events. The file needs nothing else, no network and no server, and can be made while\n"
    "the run goes on. Of several folders, or of a sweep's (train --each), it shows the curves\n"
    "over one another, the runs best first (by validation loss, else by the last loss) and\n"
    "where their recipes differ.\n"
    "\n"
    "Options:\n"
    "  -o FILE   where to: '-' is the standard output; of one folder DIR/report.html by\n"
    "            default. A file that is no report of ours is not overwritten.\n"
    "  --json    print what the page sums up as one JSON object\n"
    "\n"
    "Examples:\n"
    "  jambatune report out && xdg-open out/report.html\n"
    "  jambatune report sweep\n"
    "  jambatune report sweep/* -o sweep.html --json | jq -r '.runs[0].dir'\n";

static const char usage[] = "jambatune report DIR [DIR ...] [-o FILE.html] [--json]";

/* What is in the way must be a report: of a mistyped name nothing else is lost. */
static bool check_target(const char *path, struct err *err)
{
    static const char ours[] = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
                               "<meta charset=\"utf-8\" />\n";
    struct file_map map = { 0 };
    if (file_is_directory(path))
        return err_set(err, ERR_CANT_CREATE, "%s: is a folder; expected the name of a file", path);
    if (!file_exists(path))
        return true;
    if (!file_map_open(path, &map, err))
        return false;
    const size_t n = sizeof ours - 1;
    const bool free_to_take = map.size == 0 || (map.size >= n && memcmp(map.data, ours, n) == 0);
    file_map_close(&map);
    return free_to_take ||
           err_set(err, ERR_CANT_CREATE,
                   "%s: is there and is no report; remove it, or name another file with -o", path);
}

static bool write_page(const struct report *report, const char *target, struct err *err)
{
    struct text page = { 0 };
    bool ok = report_page(report, &page, err);
    if (ok && strcmp(target, "-") == 0)
        fwrite(page.data, 1, page.len, stdout); /* what fails is seen when the output ends */
    else if (ok)
        ok = file_write(target, page.data, page.len, err);
    text_free(&page);
    return ok;
}

/* The facts, with where the page is. */
static int print_facts(const struct report *report, const char *target)
{
    json_t *facts = report_facts(report);
    if (facts != NULL && json_object_set_new(facts, "report", cli_json_string(target)) != 0) {
        json_decref(facts);
        facts = NULL;
    }
    return cli_end_json(facts);
}

static int make(const char *const *dirs, int64_t n_dir, const char *target, bool json)
{
    const bool to_stdout = strcmp(target, "-") == 0;
    struct report report = { 0 };
    struct err err = { 0 };
    if ((!to_stdout && !check_target(target, &err)) || !report_open(&report, dirs, n_dir, &err))
        return cli_fail(&err);
    int code = write_page(&report, target, &err) ? 0 : cli_fail(&err);
    if (code == 0 && json)
        code = print_facts(&report, target);
    else if (code == 0 && to_stdout)
        code = cli_end_output();
    else if (code == 0)
        cli_note("%s is written", target);
    report_close(&report);
    return code;
}

/* The folders that tell of a run, into dirs. An error where none does. */
static bool choose(const struct run_folders *runs, const char *sweep, const char **dirs,
                   int64_t *n_dir, struct err *err)
{
    int64_t n[] = { [RUN_FOLDER_READ] = 0,
                    [RUN_FOLDER_WAITING] = 0,
                    [RUN_FOLDER_FAILED] = 0,
                    [RUN_FOLDER_GONE] = 0 };
    const char *error = NULL; /* the first */
    for (int64_t i = 0; i < runs->n; i++) {
        const struct run_folder *run = &runs->items[i];
        if (run->state == RUN_FOLDER_READ)
            dirs[n[RUN_FOLDER_READ]] = run->dir;
        n[run->state]++;
        error = error != NULL ? error : run->error;
    }
    *n_dir = n[RUN_FOLDER_READ];
    return *n_dir > 0 ||
           err_set(err, ERR_NO_INPUT,
                   "%s: none of the sweep's runs can be shown: %" PRId64 " waiting, %" PRId64
                   " failed before they began, %" PRId64 " gone%s%s",
                   sweep, n[RUN_FOLDER_WAITING], n[RUN_FOLDER_FAILED], n[RUN_FOLDER_GONE],
                   error != NULL ? "; the first failure: " : "", error != NULL ? error : "");
}

static bool parse(int argc, char **argv, const char **out, bool *json, struct cli_words *words,
                  struct err *err)
{
    const struct cli_option options[] = { { "o", "FILE", out, NULL },
                                          { "json", NULL, NULL, json } };
    if (!cli_parse(argc, argv, options, 2, words, err))
        return false;
    /* A sweep's folders are named "learning_rate=1e-4": here that is no change of a recipe. */
    for (int i = 0; i < words->n_override; i++) {
        if (words->n_arg == CLI_MAX_WORDS)
            return err_set(err, ERR_USAGE, "command line: more than %d words", (int)CLI_MAX_WORDS);
        words->args[words->n_arg++] = words->overrides[i];
    }
    if (!cli_expect_args(words, 1, CLI_MAX_WORDS, usage, err))
        return false;
    if (*out == NULL && words->n_arg > 1)
        return err_set(err, ERR_USAGE,
                       "command line: of several folders the report has no place of its own; name "
                       "one: -o FILE.html");
    if (*json && *out != NULL && strcmp(*out, "-") == 0)
        return err_set(err, ERR_USAGE,
                       "command line: -o - and --json both print to the standard output; name a "
                       "file with -o");
    return true;
}

int cmd_report(int argc, char **argv)
{
    const char *out = NULL;
    bool json = false;
    struct cli_words words;
    struct err err = { 0 };
    if (!parse(argc, argv, &out, &json, &words, &err))
        return cli_fail(&err);
    char *own = out == NULL ? file_join(words.args[0], "report.html") : NULL;
    if (out == NULL && own == NULL) {
        err_no_memory(&err, "the report's name");
        return cli_fail(&err);
    }
    struct run_folders runs = { 0 };
    bool ok = true;
    int64_t n_dir = 0;
    for (int i = 0; ok && i < words.n_arg; i++)
        ok = run_folders_add(&runs, words.args[i], &err);
    const char **dirs = ok ? calloc((size_t)runs.n, sizeof *dirs) : NULL;
    ok = ok && (dirs != NULL || err_no_memory(&err, "the runs' folders")) &&
         choose(&runs, words.args[0], dirs, &n_dir, &err);
    const int code = ok ? make(dirs, n_dir, out != NULL ? out : own, json) : cli_fail(&err);
    run_folders_free(&runs);
    free(dirs);
    free(own);
    return code;
}
