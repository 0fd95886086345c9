/* jambatune train RECIPE key=a,b,c --each: a sweep.
 *
 * Every recipe is read before the first run starts, so that a wrong value in the last one is not
 * found after a night. Then one after another: a GPU, or the processors, are one run's at a time.
 * What is known of a run is what its folder says, and nothing else is kept: started again, a sweep
 * passes over the folders whose run is finished and resumes the others. Each run is a child process
 * (each_child.c says why).
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/each_child.h"
#include "finetune/cli/each_table.h"
#include "finetune/cli/run_folders.h"
#include "finetune/cli/train_each.h"
#include "finetune/train/output.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

struct each {
    const char *recipe_path;
    struct sweep sweep;
    struct each_run *runs; /* sweep.n_run */
    char *output_dir;      /* of the sweep; the runs' folders are in it */
    struct output lock;
    struct each_signals signals;
    struct train_flags flags; /* of each run */
};

/* ---- recipes ---- */

/* Takes out of *now what is in *seen, and adds the rest to it: most errors are those of many runs.
 * Without memory for that one is told again. */
static void drop_known(struct recipe_text_list *now, struct text *seen)
{
    int64_t n = 0;
    for (int64_t i = 0; i < now->n; i++) {
        char *line = text_format("\n%s\n", now->item[i]);
        if (line != NULL && seen->data != NULL && strstr(seen->data, line) != NULL) {
            free(now->item[i]);
        } else {
            text_puts(seen, line != NULL ? line : "");
            now->item[n++] = now->item[i];
        }
        free(line);
    }
    now->n = n;
}

/* Reads run i's recipe; `folder` (NULL: as written) is its output_dir, where it goes on from what
 * is there. The exit code. */
static int load_run(const struct each *e, int64_t i, const char *folder, struct recipe *recipe,
                    struct recipe_report *report)
{
    const int n = e->sweep.n_override;
    const char **words = calloc((size_t)n + 2, sizeof *words);
    char *place = folder != NULL ? text_format("output_dir=%s", folder) : NULL;
    int code = ERR_NO_MEMORY;
    if (words != NULL && (folder == NULL || place != NULL)) {
        for (int k = 0; k < n; k++)
            words[k] = e->sweep.runs[i].overrides[k];
        words[n] = place;
        words[n + 1] =
            e->flags.overwrite ? "overwrite_output_dir=true" : "resume_from_checkpoint=auto";
        const bool ok = recipe_load(e->recipe_path, words, folder != NULL ? n + 2 : n,
                                    RECIPE_NEED_TRAIN, recipe, report);
        code = ok ? 0 : report->code != ERR_NONE ? (int)report->code : ERR_INTERNAL;
    } else {
        report_no_memory(report);
    }
    free(words);
    free(place);
    return code;
}

/* Where the sweep goes. A folder that YAML would read as something else gets a harmless head. */
static int find_output_dir(struct each *e)
{
    struct recipe recipe = { 0 };
    struct recipe_report report = { 0 };
    struct err err = { 0 };
    int code = load_run(e, 0, NULL, &recipe, &report);
    cli_put_report(&report, true);
    const char *dir = recipe.output_dir;
    const char *resume = recipe.resume_from_checkpoint;
    if (code == 0 && resume != NULL && strcmp(resume, "auto") != 0) {
        err_set(&err, ERR_RECIPE,
                "resume_from_checkpoint: '%.200s' is one run's; a sweep finds the checkpoints of "
                "its runs by itself: remove the key",
                resume);
        recipe_add_place(&recipe, &err);
        code = cli_fail(&err);
    }
    if (code == 0)
        e->output_dir = text_format("%s%s", strchr("[{\"'", dir[0]) != NULL ? "./" : "", dir);
    if (code == 0 && e->output_dir == NULL) {
        err_no_memory(&err, "the sweep");
        code = cli_fail(&err);
    }
    recipe_free(&recipe);
    recipe_report_free(&report);
    return code;
}

/* All recipes; every error is told, once. The exit code of the first. */
static int load_recipes(struct each *e)
{
    int code = 0;
    struct text seen = { 0 };
    for (int64_t i = 0; i < e->sweep.n_run; i++) {
        struct each_run *run = &e->runs[i];
        struct recipe_report report = { 0 };
        *run = (struct each_run){ .word = &e->sweep.runs[i],
                                  .validation = (double)NAN,
                                  .loss = (double)NAN,
                                  .seconds = (double)NAN,
                                  .best_step = -1 };
        run->folder = file_join(e->output_dir, run->word->name);
        if (run->folder == NULL) {
            struct err err = { 0 };
            err_no_memory(&err, "the sweep");
            code = code != 0 ? code : cli_fail(&err);
            break;
        }
        const int one = load_run(e, i, run->folder, &run->recipe, &report);
        drop_known(&report.errors, &seen);
        cli_put_report(&report, false);
        code = code != 0 ? code : one;
        recipe_report_free(&report);
    }
    text_free(&seen);
    return code;
}

/* ---- runs ---- */

static json_t *results(const struct each *e)
{
    return each_json(&e->sweep, e->runs, e->recipe_path, e->output_dir);
}

/* output_dir/sweep.json, after each run. */
static bool write_results(const struct each *e, struct err *err)
{
    json_t *all = results(e);
    char *text = json_to_text(all, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    char *path = file_join(e->output_dir, SWEEP_FILE);
    const bool ok = text != NULL && path != NULL ? file_write(path, text, strlen(text), err)
                                                 : err_no_memory(err, "the sweep's table");
    json_decref(all);
    free(text);
    free(path);
    return ok;
}

static bool run_one(struct each *e, struct each_run *run, struct err *err)
{
    struct each_end end = { 0 };
    if (!each_run_mark(run, err) ||
        !each_child_run(&run->recipe, &e->flags, &e->signals, e->lock.lock, &end, err))
        return false;
    run->ran = true;
    run->code = end.code;
    run->messages = end.messages; /* kept: the run frees it */
    /* A child that a signal ended after we were told to stop had nothing yet to save. */
    const bool stopped = end.code == ERR_STOPPED || (e->signals.stop && end.code > 128);
    run->status = end.code == 0 ? EACH_FINISHED : stopped ? EACH_STOPPED : EACH_FAILED;
    return each_run_read(run, err);
}

/* Runs what is not finished, up to a signal. The table is there from the beginning, for `status`.
 */
static bool run_all(struct each *e, struct err *err)
{
    bool stopped = false;
    if (!write_results(e, err))
        return false;
    for (int64_t i = 0; i < e->sweep.n_run; i++) {
        struct each_run *run = &e->runs[i];
        const char *what = "";
        stopped = stopped || each_signals_stop(&e->signals);
        if (!e->flags.overwrite && each_run_is_finished(run)) {
            run->status = EACH_FINISHED;
            what = ": is finished, and passed over";
        }
        if (stopped)
            continue;
        fprintf(stderr, "sweep: run %" PRId64 " of %" PRId64 ": %s%s\n", i + 1, e->sweep.n_run,
                run->word->name, what);
        if (run->status == EACH_FINISHED)
            continue;
        if (!run_one(e, run, err) || !write_results(e, err))
            return false;
        stopped = run->status == EACH_STOPPED;
    }
    return write_results(e, err);
}

static int exit_code(const struct each *e)
{
    int code = 0;
    for (int64_t i = 0; i < e->sweep.n_run; i++) {
        const struct each_run *run = &e->runs[i];
        if (run->status == EACH_STOPPED)
            return ERR_STOPPED;
        if (run->status == EACH_FAILED && code == 0)
            code = run->code;
        if (run->status == EACH_WAITING)
            return ERR_STOPPED; /* only a signal leaves one out */
    }
    return code;
}

/* The table on stdout. One that is gone is no failure, for sweep.json has it all. */
static int put_results(const struct each *e, bool as_json)
{
    json_t *all = results(e);
    if (as_json)
        return cli_end_json_copy(all, e->output_dir, SWEEP_FILE);
    json_t *table = all != NULL ? each_table(all) : NULL;
    json_decref(all);
    const int code = cli_end_facts(table, false);
    return code == ERR_IO ? 0 : code;
}

static int run_sweep(struct each *e, bool as_json)
{
    struct err err = { 0 };
    const bool ok = output_lock(&e->lock, e->output_dir, &err) &&
                    each_signals_open(&e->signals, &err) && run_all(e, &err);
    int code = ok ? exit_code(e) : cli_fail(&err);
    if (ok) {
        const int put = put_results(e, as_json);
        code = code != 0 ? code : put;
        if (code == ERR_STOPPED)
            cli_note("the sweep was stopped; the same command%s goes on where it was",
                     e->flags.overwrite ? " without --overwrite" : "");
    }
    each_signals_close(&e->signals);
    output_unlock(&e->lock);
    return code;
}

int train_each(const char *recipe_path, const struct cli_words *words,
               const struct train_flags *flags)
{
    struct err err = { 0 };
    struct each e = { .recipe_path = recipe_path,
                      .lock = OUTPUT_NONE,
                      .signals = EACH_SIGNALS_NONE,
                      .flags = { .overwrite = flags->overwrite,
                                 .allow_change = flags->allow_change } };
    if (!sweep_open(&e.sweep, words->overrides, words->n_override, &err))
        return cli_fail(&err);
    int code = find_output_dir(&e);
    if (code == 0) {
        e.runs = calloc((size_t)e.sweep.n_run, sizeof *e.runs);
        code =
            e.runs != NULL ? load_recipes(&e) : (err_no_memory(&err, "the sweep"), cli_fail(&err));
    }
    if (code == 0)
        code = run_sweep(&e, flags->json);
    for (int64_t i = 0; e.runs != NULL && i < e.sweep.n_run; i++)
        each_run_free(&e.runs[i]);
    free(e.runs);
    free(e.output_dir);
    sweep_close(&e.sweep);
    return code;
}
