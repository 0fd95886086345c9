#include "tests/fault/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const struct job jobs[] = {
    { .name = "train", .args = { "train", "@/train.yaml" }, .trains = true },
    { .name = "resume",
      .args = { "train", "@/train.yaml", "--resume" },
      .trains = true,
      .goes_on = true },
    { .name = "validate", .args = { "validate", "@/chat.yaml" } },
    { .name = "preview",
      .args = { "preview", "@/chat.yaml", "--html", "@/page.html" },
      .writes = "page.html" },
    { .name = "explain", .args = { "explain", "--yaml", "@/train.yaml", "lora_r=4" } },
    { .name = "plan", .args = { "plan", "@/train.yaml", "--json" } },
    { .name = "eval",
      .args = { "eval", "@/train.yaml", "--adapter", "@/adapter", "--data", "@/ids.jsonl",
                "--logprobs", "@/logprobs.jsonl" },
      .writes = "logprobs.jsonl" },
    { .name = "generate",
      .args = { "generate", "base_model=@/talker", "threads=1", "--prompt", "Hello",
                "--max-new-tokens", "3", "--seed", "1" } },
    { .name = "generate chat",
      .args = { "generate", "@/chat.yaml", "--json", "@/ask.jsonl", "--max-new-tokens", "3",
                "--seed", "1" } },
    { .name = "tokenize", .args = { "tokenize", "@/talker", "@/text.jsonl" } },
    { .name = "tokenize stdin", .args = { "tokenize", "@/talker", "-" }, .input = "text.jsonl" },
    { .name = "detokenize", .args = { "tokenize", "--decode", "@/talker", "@/ids.jsonl" } },
    { .name = "inspect base", .args = { "inspect", "@/base", "--json" } },
    { .name = "inspect adapter", .args = { "inspect", "@/adapter", "--json" } },
    { .name = "lint", .args = { "lint", "@/adapter", "--base", "@/base" } },
    { .name = "import",
      .args = { "import", "@/adapter", "@/imported", "--base", "@/base" },
      .writes = "imported" },
    { .name = "export peft",
      .args = { "export", "@/adapter", "--to", "peft", "--base", "@/base", "@/exported" },
      .writes = "exported" },
    { .name = "export gguf",
      .args = { "export", "@/adapter", "--to", "gguf", "--base", "@/base", "@/adapter.gguf" },
      .writes = "adapter.gguf" },
    { .name = "export merged",
      .args = { "export", "@/adapter", "--to", "merged", "--base", "@/base", "@/merged" },
      .writes = "merged" },
    { .name = "export base",
      .args = { "export", "--gguf-base", "@/talker", "@/base.gguf" },
      .writes = "base.gguf" },
    { .name = "status", .args = { "status", "@/out" }, .goes_on = true, .varies = true },
    { .name = "report",
      .args = { "report", "@/out", "-o", "@/report.html" },
      .writes = "report.html",
      .goes_on = true,
      .varies = true },
    { .name = "env", .args = { "env", "--json" }, .varies = true },
};
const int n_job = sizeof jobs / sizeof *jobs;

/* ---- command lines ---- */

static char *expand(const struct scene *s, const char *text)
{
    const char *at = strchr(text, '@');
    return at == NULL ? tree_text("%s", text)
                      : tree_text("%.*s%s%s", (int)(at - text), text, s->folder, at + 1);
}

void job_line(const struct scene *s, const struct job *job, struct job_line *line)
{
    *line = (struct job_line){ 0 };
    for (int i = 0; job->args[i] != NULL; i++)
        line->args[i] = line->texts[i] = expand(s, job->args[i]);
    if (job->input != NULL)
        line->input = scene_path(s, job->input);
}

void job_line_free(struct job_line *line)
{
    for (int i = 0; i < 13; i++)
        free(line->texts[i]);
    free(line->input);
}

/* ---- before and after ---- */

void job_make_half(const struct scene *s, struct tree *half)
{
    for (int k = 1; k < 100; k++) {
        struct landing r;
        tree_remove(s->out);
        launch(&(struct launch){ .program = s->program,
                                 .args = ARGS("train", s->recipe),
                                 .shim = s->shim,
                                 .under = s->out,
                                 .call = "mkdir",
                                 .how = "kill",
                                 .at = k },
               &r);
        landing_free(&r);
        tree_read(half, s->out);
        if (tree_find(half, "checkpoint-2/manifest.json") != NULL)
            return;
    }
    tree_die("no checkpoint-2 appears, whichever mkdir the program is killed at");
}

void job_prepare(const struct scene *s, const struct job *job, const struct tree *half)
{
    if (job->writes != NULL) {
        char *path = scene_path(s, job->writes);
        tree_remove(path);
        free(path);
    }
    if (job->trains || job->goes_on)
        tree_remove(s->out);
    if (job->goes_on)
        tree_write(half, s->out);
}

static void read_written(const struct scene *s, const struct job *job, struct tree *t)
{
    char *path = scene_path(s, job->writes);
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        size_t size = 0;
        char *data = tree_load(path, &size);
        tree_free(t);
        tree_put(t, "file", data, size);
        free(data);
    } else {
        tree_read(t, path);
    }
    free(path);
}

bool job_expect(const struct scene *s, const struct job *job, const struct tree *half,
                struct job_result *result)
{
    *result = (struct job_result){ 0 };
    struct job_line line;
    struct landing r;
    job_line(s, job, &line);
    job_prepare(s, job, half);
    launch(&(struct launch){ .program = s->program, .args = line.args, .input = line.input }, &r);
    const bool ok = r.code == 0;
    if (!ok)
        printf("%s: undisturbed it ends with %d: %s", job->name, r.code, r.err);
    result->out = r.out;
    r.out = NULL;
    if (job->writes != NULL)
        read_written(s, job, &result->written);
    landing_free(&r);
    job_line_free(&line);
    return ok;
}

void job_check(const struct scene *s, const struct job *job, const struct job_result *want,
               const struct landing *r, struct tally *t, const char *what)
{
    if (job->trains) {
        scene_check_done(s, t, what);
        return;
    }
    if (job->varies)
        return;
    if (strcmp(r->out, want->out) != 0)
        tally_bad(t, TALLY_SILENT,
                  "%s: exit 0, but it does not print what it prints undisturbed: %s", what,
                  scene_message(r->err));
    if (job->writes == NULL)
        return;
    struct tree now = { 0 };
    read_written(s, job, &now);
    for (size_t i = 0; i < want->written.n; i++) {
        if (!tree_same_file(&now, &want->written, want->written.files[i].name))
            tally_bad(t, TALLY_SILENT, "%s: exit 0, but %s is not what is written undisturbed: %s",
                      what, want->written.files[i].name, scene_message(r->err));
    }
    tree_free(&now);
}

void job_result_free(struct job_result *result)
{
    free(result->out);
    tree_free(&result->written);
    *result = (struct job_result){ 0 };
}
