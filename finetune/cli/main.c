/* jambatune: finds the command and hands it the rest of the line. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "kernels/core/text.h"

static const struct cli_command commands[] = {
    { "train", "fine-tune a model by a recipe", cmd_train_help, cmd_train },
    { "validate", "check a recipe, its model and its data", cmd_validate_help, cmd_validate },
    { "preview", "show what a run trains on, token by token", cmd_preview_help, cmd_preview },
    { "explain", "show what each key means and where its value comes from", cmd_explain_help,
      cmd_explain },
    { "plan", "show the memory a run would take, before anything is loaded", cmd_plan_help,
      cmd_plan },
    { "eval", "measure loss and perplexity, with or without an adapter", cmd_eval_help, cmd_eval },
    { "generate", "continue a prompt, with or without an adapter", cmd_generate_help,
      cmd_generate },
    { "tokenize", "turn records into token ids, or back", cmd_tokenize_help, cmd_tokenize },
    { "bench", "measure training steps on this machine, and where their time goes", cmd_bench_help,
      cmd_bench },
    { "inspect", "show what is in a checkpoint, an adapter or a tensor file", cmd_inspect_help,
      cmd_inspect },
    { "export", "write an adapter in the form that an engine takes", cmd_export_help, cmd_export },
    { "lint", "show what each serving engine makes of an adapter", cmd_lint_help, cmd_lint },
    { "import", "turn an adapter from elsewhere into one to train on", cmd_import_help,
      cmd_import },
    { "report", "show runs as one HTML page: curves, samples, recipe", cmd_report_help,
      cmd_report },
    { "status", "show where runs stand: step, losses, time left", cmd_status_help, cmd_status },
    { "env", "show what the program is built with and runs on", cmd_env_help, cmd_env },
};
enum { N_COMMAND = sizeof commands / sizeof commands[0] };

static const struct {
    enum err_code code;
    const char *meaning;
} exit_codes[] = {
    { ERR_NONE, "done" },
    { ERR_USAGE, "the command line is wrong" },
    { ERR_DATA, "a data set, checkpoint or adapter cannot be used" },
    { ERR_NO_INPUT, "a file is not there or cannot be read" },
    { ERR_DEVICE, "the device failed, or is not there" },
    { ERR_INTERNAL, "a bug of jambatune" },
    { ERR_NO_MEMORY, "memory ran out, or the run cannot fit" },
    { ERR_CANT_CREATE, "an output cannot be created, or is in use" },
    { ERR_IO, "reading or writing failed (disk full, I/O error)" },
    { ERR_STOPPED,
      "stopped by a signal; what was trained is saved: run again with --resume, or let "
      "Slurm requeue" },
    { ERR_NUMERICS, "stopped: too many steps with a loss or gradient that is not finite" },
    { ERR_RECIPE, "the recipe is wrong" },
};

static const char usage[] = "usage: jambatune COMMAND [ARGUMENT ...]\n"
                            "       jambatune --help | --version | help COMMAND\n";

static int print_overview(void)
{
    printf("jambatune %s: fine-tunes Jamba models with LoRA, from YAML recipes.\n\n%s\n"
           "Commands:\n",
           JAMBATUNE_VERSION, usage);
    for (int i = 0; i < N_COMMAND; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n`jambatune help COMMAND` has the details and examples.\n\nExit codes:\n");
    for (size_t i = 0; i < sizeof exit_codes / sizeof exit_codes[0]; i++)
        printf("  %2d  %s\n", (int)exit_codes[i].code, exit_codes[i].meaning);
    return cli_end_output();
}

static const struct cli_command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMAND; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int fail_unknown(const char *name)
{
    struct err err = { 0 };
    const char *names[N_COMMAND];
    for (int i = 0; i < N_COMMAND; i++)
        names[i] = commands[i].name;
    const int near = text_nearest(name, names, N_COMMAND);
    if (near >= 0)
        err_set(&err, ERR_USAGE, "command line: unknown command '%.60s'; did you mean '%s'?", name,
                names[near]);
    else if (text_ends_with(name, ".yaml") || text_ends_with(name, ".yml"))
        err_set(&err, ERR_USAGE,
                "command line: '%.200s' is no command; to train with it: jambatune train %.200s",
                name, name);
    else
        err_set(&err, ERR_USAGE,
                "command line: unknown command '%.60s'; 'jambatune --help' lists them", name);
    return cli_fail(&err);
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (is_help(argv[i]))
            return true;
    }
    return false;
}

static int print_help(const struct cli_command *command)
{
    fputs(command->help, stdout);
    return cli_end_output();
}

/* A standard stream that is closed is opened so that using it fails: else the next file that is
 * opened would take its number, and what is printed would end up in it. */
static void hold_standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            return;
    }
}

/* Threads that wait for work must sleep, not spin: with other work on the machine, or a container's
 * share of a processor, spinning makes a run of a small model ten times slower (measured: 4 s
 * against 45 s). OpenMP reads its settings before main, so the program starts itself once more with
 * them; a user's own are kept. */
static void sleep_while_waiting(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") != NULL || setenv("OMP_WAIT_POLICY", "passive", 1) != 0)
        return;
    execv("/proc/self/exe", argv); /* where that fails, the run is only slower */
}

int main(int argc, char **argv)
{
    sleep_while_waiting(argv);
    hold_standard_streams();
    signal(SIGXFSZ, SIG_IGN); /* ulimit -f: the write fails, and says so */
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of writing, seen there */
    if (argc < 2) {
        fputs(usage, stderr);
        return ERR_USAGE;
    }
    const char *name = argv[1];
    if (is_help(name) || (strcmp(name, "help") == 0 && argc == 2))
        return print_overview();
    if (strcmp(name, "--version") == 0) {
        printf("jambatune %s\n", JAMBATUNE_VERSION);
        return cli_end_output();
    }
    const bool help = strcmp(name, "help") == 0;
    const struct cli_command *command = find_command(help ? argv[2] : name);
    if (command == NULL)
        return fail_unknown(help ? argv[2] : name);
    if (help || asks_for_help(argc - 2, argv + 2))
        return print_help(command);
    return command->run(argc - 2, argv + 2);
}
