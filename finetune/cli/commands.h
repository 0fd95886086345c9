/* The commands: each in its own file, with its help beside it. main.c has the table. */
#ifndef FINETUNE_CLI_COMMANDS_H
#define FINETUNE_CLI_COMMANDS_H

int cmd_train(int argc, char **argv);
int cmd_validate(int argc, char **argv);
int cmd_preview(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_lint(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_env(int argc, char **argv);

extern const char cmd_train_help[], cmd_validate_help[], cmd_explain_help[], cmd_plan_help[],
    cmd_eval_help[], cmd_generate_help[], cmd_tokenize_help[], cmd_bench_help[], cmd_inspect_help[],
    cmd_report_help[], cmd_env_help[], cmd_export_help[], cmd_import_help[], cmd_lint_help[],
    cmd_preview_help[], cmd_status_help[];

#endif
