/* jambatune train: the recipe's run, shown. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/print.h"
#include "finetune/cli/progress.h"
#include "finetune/cli/train_each.h"
#include "finetune/cli/train_run.h"
#include "finetune/model/weights.h"
#include "finetune/train/loop.h"
#include "kernels/core/text.h"
#include "kernels/cuda/load.h"
#include "lora/format_peft.h"

const char cmd_train_help[] =
    "usage: jambatune train RECIPE [key=value ...] [~key ...] [--resume] [--overwrite]\n"
    "                       [--allow-change KEY,...] [--each] [--json]\n"
    "\n"
    "Fine-tunes the recipe's base model and writes a PEFT adapter to output_dir. key=value sets a "
    "key of the recipe,\n"
    "~key takes it back to its default; `jambatune explain` lists the keys.\n"
    "\n"
    "Shows first what will be adapted, what was read and the memory it takes, then a line as it "
    "goes (rewritten\n"
    "on a terminal, one every logging_steps steps elsewhere), all on stderr.\n"
    "\n"
    "output_dir receives\n"
    "  adapter_config.json, adapter_model.safetensors   the adapter after the last step\n"
    "  best/                                            the one with the lowest validation loss\n"
    "  checkpoint-N/                                    adapter and state after step N, every "
    "save_steps\n"
    "  recipe.yaml                                      the recipe as resolved, with the origin of "
    "each value\n"
    "  metrics.jsonl, run.json                          one object a step, one per evaluation; "
    "what runs\n"
    "  runs/                                            the same for TensorBoard\n"
    "`jambatune status` and `jambatune report` read them.\n"
    "\n"
    "  --resume               goes on from the newest whole checkpoint in output_dir, or begins "
    "where there is none;\n"
    "                         the end is the same, byte for byte, as without the stop\n"
    "  --allow-change KEYS    keys that may differ from the checkpoint's (max_steps, "
    "logging_steps, ...); any other\n"
    "                         difference of recipe, base, data or program is an error\n"
    "  --overwrite            begins anew in a folder with an earlier run's adapter or "
    "checkpoints, "
    "which are removed\n"
    "  --each                 key=a,b,c: one run for each value, and one table at the end\n"
    "  --json                 what the run came to, as JSON on stdout\n"
    "\n"
    "It ends with a line for each engine that could serve the adapter; `jambatune lint` tells "
    "more.\n"
    "\n"
    "INT, TERM, HUP or USR1: a checkpoint is written, exit status 75, and the same command with "
    "--resume goes on;\n"
    "a second INT ends at once. USR2: a checkpoint is written and the run goes on. A step with a "
    "non-finite loss or\n"
    "gradient is left out and logged with its documents; after max_nonfinite_steps of them the run "
    "stops with 76.\n"
    "\n"
    "  jambatune train recipes/quickstart/quickstart.yaml\n"
    "  jambatune train train.yaml learning_rate=1e-4 lora_r=16 output_dir=run2\n"
    "  jambatune train train.yaml --resume --allow-change max_steps max_steps=2000\n"
    "  jambatune train train.yaml learning_rate=1e-4,3e-4 lora_r=8,16 --each\n";

/* Raised by signals: stop is polled at every pass, save after every step. */
static volatile sig_atomic_t stop_raised, save_raised;

/* Whether there is a state that a stop has to save. */
static volatile sig_atomic_t is_running;

static void watched_signals(sigset_t *set)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 };
    struct sigaction hangup;
    sigemptyset(set);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(set, signals[i]);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN)
        sigdelset(set, SIGHUP); /* nohup */
}

/* The next one that asks for a stop. */
static int next_stop(void)
{
    sigset_t set;
    int number = 0;
    watched_signals(&set);
    for (;;) {
        if (sigwait(&set, &number) != 0)
            continue;
        if (number != SIGUSR2)
            return number;
        save_raised = 1;
    }
}

/* Before the first allocation of a run there is nothing to save, and reading may take long. */
static void leave_if_idle(void)
{
    static const char text[] = "jambatune: stopped by a signal before the run began\n";
    if (is_running)
        return;
    const ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(ERR_STOPPED);
}

/* The first signal asks the run to stop. A later INT ends the program at once, but not one that
 * comes with the first: timeout(1) signals its child and then the child's group, and so do other
 * supervisors. These may also repeat the others while a checkpoint is written: that changes
 * nothing. */
static void *await_signals(void *unused)
{
    (void)unused;
    struct timespec first, now;
    next_stop();
    leave_if_idle();
    clock_gettime(CLOCK_MONOTONIC, &first);
    stop_raised = 1;
    for (;;) {
        const int number = next_stop();
        clock_gettime(CLOCK_MONOTONIC, &now);
        const double since =
            (double)(now.tv_sec - first.tv_sec) + 1e-9 * (double)(now.tv_nsec - first.tv_nsec);
        if (number == SIGINT && since > 0.3)
            _exit(128 + number);
    }
}

/* Signals go to a thread of their own and are blocked in every other, which inherit that: no
 * handler ever runs on the stack of a thread that computes. */
static bool catch_signals(struct err *err)
{
    sigset_t set;
    pthread_t thread;
    watched_signals(&set);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 ||
        pthread_create(&thread, NULL, await_signals, NULL) != 0)
        return err_set(err, ERR_NO_MEMORY, "no thread could be started to wait for signals");
    pthread_detach(thread);
    return true;
}

static void print_report(const char *name, const struct document_report *r)
{
    char tokens[32], targets[32];
    text_count(tokens, r->n_tok);
    text_count(targets, r->n_target);
    fprintf(stderr, "%s: %" PRId64 " documents of %" PRId64 " records, %s tokens, %s carry loss\n",
            name, r->n_doc, r->n_record, tokens, targets);
    const struct {
        int64_t n;
        const char *what;
    } odd[] = {
        { r->n_truncated, "records cut to sequence_len" },
        { r->n_split, "records split at sequence_len" },
        { r->n_too_long, "records dropped, longer than sequence_len" },
        { r->n_untargeted, "documents dropped, nothing in them carries loss" },
        { r->n_empty, "empty records dropped" },
        { r->n_blank_line, "blank lines skipped" },
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        if (odd[i].n > 0)
            fprintf(stderr, "%s: %" PRId64 " %s\n", name, odd[i].n, odd[i].what);
    }
}

/* Each line of a text through cli_warn or cli_note. */
static void print_lines(const struct text *text, void (*print)(const char *format, ...))
{
    for (const char *line = text->data; line != NULL && *line != '\0';) {
        const size_t n = strcspn(line, "\n");
        print("%.*s", (int)n, line);
        line += n + (line[n] == '\n');
    }
}

static bool print_opening(const struct trainer *t, struct err *err)
{
    const struct engine *e = &t->engine;
    if (!print_targets(stderr, e->modules, e->n_module, e->choices, err))
        return false;
    struct text warnings = { 0 };
    trainer_warnings(t, &warnings);
    print_lines(&warnings, cli_warn);
    const bool all =
        !warnings.failed && !t->notes.failed && !t->changes.failed && !t->data.types.failed;
    text_free(&warnings);
    if (!all)
        return err_no_memory(err, "what is to be said of the run");
    print_lines(&t->notes, cli_warn);
    print_lines(&t->changes, cli_note);
    if (t->data.types.data != NULL)
        fputs(t->data.types.data, stderr);
    print_report("data", &t->data.report);
    if (t->data.own.n_doc > 0)
        print_report("validation", &t->data.own_report);
    else if (t->data.n_validation > 0)
        fprintf(stderr, "validation: %" PRId64 " of the documents\n", t->data.n_validation);
    print_plan(stderr, &t->shape, &t->bytes, 0);
    fprintf(stderr, "%" PRId64 " steps on %s with %d threads\n", t->n_step, e->be.name,
            e->be.n_thread);
    if (t->resumed != NULL)
        fprintf(stderr, "goes on from %s\n", t->resumed);
    else if (t->recipe->resume_from_checkpoint != NULL)
        fprintf(stderr, "no checkpoint in %s: begins at step 1\n", t->recipe->output_dir);
    return true;
}

/* A line for each engine that could serve the adapter. */
static bool print_engines(const struct trainer *t, struct err *err)
{
    const struct engine *e = &t->engine;
    const struct peft_traits traits =
        peft_written_traits(e->modules, e->n_module, e->choices, t->lora);
    const struct lora_subject subject = { .modules = e->modules,
                                          .n_module = e->n_module,
                                          .choices = e->choices,
                                          .config = t->lora,
                                          .traits = &traits,
                                          .tied = weights_config(e->weights)->tie_word_embeddings };
    struct lora_report report;
    if (!lora_judge(&subject, &report, err))
        return false;
    bool ok = true;
    for (int k = 0; ok && k < LORA_ENGINE_COUNT; k++) {
        struct text line = { 0 };
        lora_report_line(&report, (enum lora_engine)k, &line);
        ok = !line.failed || err_no_memory(err, "what the engines make of the adapter");
        if (ok)
            fprintf(stderr, "%-24s%s\n", lora_engine_name((enum lora_engine)k), line.data);
        text_free(&line);
    }
    lora_report_free(&report);
    return ok;
}

static bool print_closing(const struct trainer *t, struct err *err)
{
    const struct train_counters *c = &t->state;
    fprintf(stderr, "adapter written to %s\n", t->recipe->output_dir);
    if (c->stopped_early)
        fprintf(stderr, "stopped early after step %" PRId64 " of %" PRId64 "\n", c->step,
                t->n_step);
    if (c->n_eval > 0)
        fprintf(stderr,
                "validation loss %.4f -> %.4f, best %.4f after step %" PRId64 " (%s/best)%s\n",
                c->first_loss, c->last_loss, c->best_loss, c->best_step, t->recipe->output_dir,
                t->recipe->load_best ? ", which is the adapter written" : "");
    char note[CUDA_NOTE_SIZE];
    if (cuda_attention_note(&t->engine.be, note))
        cli_warn("%s", note);
    return print_engines(t, err);
}

static json_t *loss(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

/* What the run came to. */
static json_t *summary(const struct trainer *t)
{
    const struct train_counters *c = &t->state;
    const bool evaluated = c->n_eval > 0;
    return json_pack("{s:o,s:I,s:I,s:b,s:o,s:o,s:o,s:I,s:I,s:I,s:f,s:o}", "output_dir",
                     cli_json_string(t->recipe->output_dir), "step", (json_int_t)c->step, "steps",
                     (json_int_t)t->n_step, "stopped_early", (int)c->stopped_early,
                     "first_eval_loss", evaluated ? loss(c->first_loss) : json_null(), "eval_loss",
                     evaluated ? loss(c->last_loss) : json_null(), "best_eval_loss",
                     evaluated ? loss(c->best_loss) : json_null(), "best_step",
                     (json_int_t)c->best_step, "nonfinite_steps", (json_int_t)c->n_nonfinite,
                     "tokens", (json_int_t)c->tokens, "seconds", c->seconds, "resumed_from",
                     t->resumed != NULL ? cli_json_string(t->resumed) : json_null());
}

int train_run(const struct recipe *recipe, const struct train_flags *flags)
{
    struct err err = { 0 };
    struct trainer t = { .output = OUTPUT_NONE, .metrics = { .fd = -1 } };
    struct progress progress;
    progress_init(&progress, recipe->logging_steps);
    const struct train_watch watch = { .context = &progress,
                                       .on_step = progress_step,
                                       .on_eval = progress_eval,
                                       .stop = &stop_raised,
                                       .save = &save_raised };
    bool ok = catch_signals(&err) && trainer_open(&t, recipe, flags->allow_change, &err) &&
              print_opening(&t, &err);
    if (ok) {
        is_running = 1;
        ok = trainer_run(&t, &watch, &err); /* and stays running: the end is no time to stop at */
    }
    progress_end(&progress);
    int code = ok && print_closing(&t, &err) ? 0 : cli_fail(&err);
    if (code == 0 && flags->json)
        code = cli_end_json_copy(summary(&t), recipe->output_dir, "metrics.jsonl");
    trainer_close(&t);
    return code;
}

/* The flags that stand for keys of the recipe, as overrides before the others. */
static void add_keys(const struct train_flags *flags, struct cli_words *words)
{
    static const char *const keys[] = { "resume_from_checkpoint=auto",
                                        "overwrite_output_dir=true" };
    const bool wanted[] = { flags->resume, flags->overwrite };
    for (int i = 0; i < 2; i++) {
        if (wanted[i] && words->n_override < CLI_MAX_WORDS)
            words->overrides[words->n_override++] = keys[i];
    }
}

int cmd_train(int argc, char **argv)
{
    struct cli_words words;
    struct err err = { 0 };
    struct train_flags flags = { 0 };
    bool each = false;
    const struct cli_option options[] = { { "resume", NULL, NULL, &flags.resume },
                                          { "overwrite", NULL, NULL, &flags.overwrite },
                                          { "allow-change", "KEYS", &flags.allow_change, NULL },
                                          { "each", NULL, NULL, &each },
                                          { "json", NULL, NULL, &flags.json } };
    if (!cli_parse(argc, argv, options, sizeof options / sizeof *options, &words, &err) ||
        !cli_expect_args(&words, 1, 1, "jambatune train RECIPE [key=value ...]", &err))
        return cli_fail(&err);
    if (flags.resume && flags.overwrite) {
        err_set(&err, ERR_USAGE,
                "command line: --resume and --overwrite together: one goes on with what the other "
                "removes; give one of them");
        return cli_fail(&err);
    }
    if (each)
        return train_each(words.args[0], &words, &flags);
    add_keys(&flags, &words);
    struct recipe recipe = { 0 };
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_TRAIN, &recipe);
    if (code == 0)
        code = train_run(&recipe, &flags);
    recipe_free(&recipe);
    return code;
}
