/* jambatune train: the recipe's run, shown. */
#include <inttypes.h>
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
#include "finetune/model/weights.h"
#include "finetune/train/loop.h"
#include "kernels/core/text.h"
#include "kernels/cuda/load.h"
#include "lora/format_peft.h"

const char cmd_train_help[] =
    "usage: jambatune train RECIPE [key=value ...] [~key ...]\n"
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
    "  recipe.yaml                                      the recipe as resolved, with the origin of "
    "each value\n"
    "  metrics.jsonl                                    one object a step, one per evaluation\n"
    "\n"
    "It ends with a line for each engine that could serve the adapter; `jambatune lint` tells "
    "more.\n"
    "\n"
    "INT, TERM or HUP: the adapter so far is written whole, exit status 75; a second one ends at "
    "once. A step with a non-finite "
    "loss or gradient\n"
    "is left out and logged with its documents; after max_nonfinite_steps of them the run stops "
    "with 76.\n"
    "\n"
    "  jambatune train recipes/quickstart/quickstart.yaml\n"
    "  jambatune train train.yaml learning_rate=1e-4 lora_r=16 output_dir=run2\n";

/* Raised by a signal, polled at every pass. */
static volatile sig_atomic_t stop_raised;

static void stop_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

static int next_signal(void)
{
    sigset_t set;
    int number = 0;
    stop_signals(&set);
    while (sigwait(&set, &number) != 0)
        ;
    return number;
}

/* The first signal asks the run to stop. A later one ends the program at once, but not one that
 * comes with the first: timeout(1) signals its child and then the child's group, and so do other
 * supervisors. */
static void *await_signals(void *unused)
{
    (void)unused;
    struct timespec first, now;
    next_signal();
    clock_gettime(CLOCK_MONOTONIC, &first);
    stop_raised = 1;
    for (;;) {
        const int number = next_signal();
        clock_gettime(CLOCK_MONOTONIC, &now);
        const double since =
            (double)(now.tv_sec - first.tv_sec) + 1e-9 * (double)(now.tv_nsec - first.tv_nsec);
        if (since > 0.3)
            _exit(128 + number);
    }
}

/* Signals go to a thread of their own and are blocked in every other, which inherit that: no
 * handler ever runs on the stack of a thread that computes. */
static bool catch_signals(struct err *err)
{
    sigset_t set;
    pthread_t thread;
    stop_signals(&set);
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

static bool print_opening(const struct trainer *t, struct err *err)
{
    const struct engine *e = &t->engine;
    if (!print_targets(stderr, e->modules, e->n_module, e->choices, err))
        return false;
    struct text warnings = { 0 };
    trainer_warnings(t, &warnings);
    for (char *line = warnings.data; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        cli_warn("%s", line);
        line = end != NULL ? end + 1 : NULL;
    }
    text_free(&warnings);
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
    for (int k = 0; k < LORA_ENGINE_COUNT; k++) {
        struct text line = { 0 };
        lora_report_line(&report, (enum lora_engine)k, &line);
        fprintf(stderr, "%-24s%s\n", lora_engine_name((enum lora_engine)k),
                line.data != NULL ? line.data : "?");
        text_free(&line);
    }
    lora_report_free(&report);
    return true;
}

static bool print_closing(const struct trainer *t, struct err *err)
{
    fprintf(stderr, "adapter written to %s\n", t->recipe->output_dir);
    if (t->n_eval > 0)
        fprintf(stderr,
                "validation loss %.4f -> %.4f, best %.4f after step %" PRId64 " (%s/best)\n",
                t->first_loss, t->last_loss, t->best_loss, t->best_step, t->recipe->output_dir);
    char note[CUDA_NOTE_SIZE];
    if (cuda_attention_note(&t->engine.be, note))
        cli_warn("%s", note);
    return print_engines(t, err);
}

static int train(const struct recipe *recipe)
{
    struct err err = { 0 };
    struct trainer t = { 0 };
    struct progress progress;
    progress_init(&progress, recipe->logging_steps);
    const struct train_watch watch = { .context = &progress,
                                       .on_step = progress_step,
                                       .on_eval = progress_eval,
                                       .stop = &stop_raised };
    const bool ok = catch_signals(&err) && trainer_open(&t, recipe, &err) &&
                    print_opening(&t, &err) && trainer_run(&t, &watch, &err);
    progress_end(&progress);
    const int code = ok && print_closing(&t, &err) ? 0 : cli_fail(&err);
    trainer_close(&t);
    return code;
}

int cmd_train(int argc, char **argv)
{
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, NULL, 0, &words, &err) ||
        !cli_expect_args(&words, 1, 1, "jambatune train RECIPE [key=value ...]", &err))
        return cli_fail(&err);
    struct recipe recipe = { 0 };
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_TRAIN, &recipe);
    if (code == 0)
        code = train(&recipe);
    recipe_free(&recipe);
    return code;
}
