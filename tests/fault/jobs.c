#include "tests/fault/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const struct job jobs[] = {
    { .name = "train", .args = { "train", "@/train.yaml" }, .trains = true, .rarely = 3 },
    { .name = "resume",
      .args = { "train", "@/train.yaml", "--resume", "--json" },
      .trains = true,
      .goes_on = true,
      .rarely = 3 },
    { .name = "sweep",
      .args = { "train", "@/train.yaml", "lora_r=2,4", "max_steps=2", "output_dir=@/sweep",
                "--each" },
      .writes = "sweep",
      .varies = true,
      .again = true,
      .rarely = 6,
      .same = { "lora_r=2/adapter_model.safetensors", "lora_r=2/adapter_config.json",
                "lora_r=4/adapter_model.safetensors", "lora_r=4/adapter_config.json" } },
    { .name = "validate", .args = { "validate", "@/chat.yaml" } },
    { .name = "validate json", .args = { "validate", "@/chat.yaml", "--json" } },
    { .name = "preview",
      .args = { "preview", "@/chat.yaml", "--html", "@/page.html" },
      .writes = "page.html" },
    { .name = "preview json", .args = { "preview", "@/chat.yaml", "--json" } },
    { .name = "explain", .args = { "explain", "--yaml", "@/train.yaml", "lora_r=4" } },
    { .name = "explain json", .args = { "explain", "--json", "@/train.yaml", "lora_r=4" } },
    { .name = "plan", .args = { "plan", "@/train.yaml" } },
    { .name = "plan json", .args = { "plan", "@/train.yaml", "--json" } },
    { .name = "eval",
      .args = { "eval", "@/train.yaml", "--adapter", "@/adapter", "--data", "@/ids.jsonl",
                "--logprobs", "@/logprobs.jsonl", "--json" },
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
    { .name = "inspect adapter", .args = { "inspect", "@/adapter" } },
    { .name = "inspect file",
      .args = { "inspect", "@/adapter/adapter_model.safetensors", "--json" } },
    { .name = "lint", .args = { "lint", "@/adapter", "--base", "@/base" } },
    { .name = "lint json", .args = { "lint", "@/adapter", "--base", "@/base", "--json" } },
    { .name = "import",
      .args = { "import", "@/adapter", "@/imported", "--base", "@/base" },
      .writes = "imported" },
    { .name = "export peft",
      .args = { "export", "@/adapter", "--to", "peft", "--base", "@/base", "@/exported", "--json" },
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
    { .name = "status json",
      .args = { "status", "@/out", "--json" },
      .goes_on = true,
      .varies = true },
    { .name = "status sweep", .args = { "status", "@/swept" }, .varies = true },
    { .name = "status sweep json", .args = { "status", "@/swept", "--json" }, .varies = true },
    { .name = "report",
      .args = { "report", "@/out", "-o", "@/report.html", "--json" },
      .writes = "report.html",
      .goes_on = true,
      .varies = true },
    { .name = "bench",
      .args = { "bench", "base_model=@/base", "threads=1", "--quick", "--tokens", "8", "--json" },
      .varies = true,
      .rarely = 20 },
    { .name = "bench ops",
      .args = { "bench", "--ops", "--only", "adamw", "base_model=@/base", "threads=1", "--quick",
                "--tokens", "8" },
      .varies = true,
      .rarely = 20 },
    { .name = "env", .args = { "env" } },
    { .name = "env json", .args = { "env", "--json" } },
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

/* ---- comparing ---- */

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Lines may stand in the order of their numbers. */
static void sort_lines(char *text)
{
    const size_t size = strlen(text) + 1;
    char **lines = tree_alloc(size * sizeof *lines), *copy = tree_text("%s", text), *rest = copy;
    size_t n = 0;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        lines[n++] = line;
    qsort(lines, n, sizeof *lines, compare_lines);
    for (size_t i = 0; i < n; i++) {
        const size_t length = strlen(lines[i]);
        memcpy(text, lines[i], length);
        text += length;
        *text++ = i + 1 < n ? '\n' : '\0';
    }
    free(copy);
    free(lines);
}

/* The text with each run of digits as one, and of blanks (columns are as wide as their numbers),
 * and its lines sorted: what is never the same is left out; caller frees. */
static char *mask_numbers(const char *text)
{
    static const char digits[] = "0123456789.";
    char *masked = tree_alloc(strlen(text) + 1), *to = masked;
    while (*text != '\0') {
        const size_t n = *text == '.' ? 0 : strspn(text, digits), n_blank = strspn(text, " ");
        *to++ = n > 0 ? '0' : *text;
        text += n > 0 ? n : n_blank > 0 ? n_blank : 1;
        if (n > 0 && text[0] == 'e' && (text[1] == '-' || text[1] == '+')) /* 1.5e-05 */
            text += 2 + strspn(text + 2, digits);
    }
    sort_lines(masked);
    return masked;
}

static bool is_alike(const struct job *job, const char *a, const char *b)
{
    if (!job->varies && !job->trains)
        return strcmp(a, b) == 0;
    char *x = mask_numbers(a), *y = mask_numbers(b);
    const bool same = strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

static bool is_compared(const struct job *job, const char *name)
{
    for (size_t i = 0; i < sizeof job->same / sizeof *job->same && job->same[i] != NULL; i++) {
        if (strcmp(job->same[i], name) == 0)
            return true;
    }
    return job->same[0] == NULL;
}

static void check_files(const struct scene *s, const struct job *job, const struct job_result *want,
                        const struct landing *r, struct tally *t, const char *what)
{
    struct tree now = { 0 };
    if (job->trains)
        scene_check_done(s, t, what);
    if (job->writes == NULL)
        return;
    read_written(s, job, &now);
    for (size_t i = 0; i < want->written.n; i++) {
        const struct tree_file *f = &want->written.files[i], *have = tree_find(&now, f->name);
        const bool masked = job->varies && job->same[0] == NULL && !f->is_folder;
        const bool same = masked ? have != NULL && is_alike(job, have->data, f->data)
                                 : tree_same_file(&now, &want->written, f->name);
        if (is_compared(job, f->name) && !same)
            tally_bad(t, TALLY_SILENT, "%s: exit 0, but %s is not what is written undisturbed: %s",
                      what, f->name, scene_message(r->err));
    }
    tree_free(&now);
}

void job_check(const struct scene *s, const struct job *job, const struct job_result *want,
               const struct landing *r, struct tally *t, const char *what)
{
    if (!is_alike(job, r->out, want->out))
        tally_bad(t, TALLY_SILENT,
                  "%s: exit 0, but it does not print what it prints undisturbed: %s", what,
                  scene_message(r->err));
    check_files(s, job, want, r, t, what);
}

void job_finish(const struct scene *s, const struct job *job, const struct job_result *want,
                struct tally *t, const char *what)
{
    if (job->trains)
        scene_finish(s, t, what);
    if (!job->again)
        return;
    struct job_line line;
    struct landing r;
    job_line(s, job, &line);
    launch(&(struct launch){ .program = s->program, .args = line.args, .input = line.input }, &r);
    if (r.code == 0)
        check_files(s, job, want, &r, t, what);
    else
        tally_bad(t, TALLY_LOST, "%s: the same again ended with %d: %s", what, r.code,
                  scene_message(r.err));
    landing_free(&r);
    job_line_free(&line);
}

const char *job_reason(const struct job *job, const char *err)
{
    static const char mark[] = "jambatune: ";
    const char *found = NULL, *line = job->again ? err : scene_last_line(err);
    while (line != NULL && *line != '\0') {
        if (strncmp(line, mark, sizeof mark - 1) == 0 &&
            strncmp(line + sizeof mark - 1, "note: ", 6) != 0 &&
            strncmp(line + sizeof mark - 1, "warning: ", 9) != 0)
            found = line;
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return found;
}

void job_result_free(struct job_result *result)
{
    free(result->out);
    tree_free(&result->written);
    *result = (struct job_result){ 0 };
}
