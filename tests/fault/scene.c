#include "tests/fault/scene.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finetune/train/checkpoint.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

enum { N_DOC = 20, VOCAB = 1000 /* the tokenizer knows fewer */ };

char *scene_path(const struct scene *s, const char *name)
{
    return tree_text("%s/%s", s->folder, name);
}

const char *scene_last_line(const char *err)
{
    size_t n = strlen(err);
    while (n > 0 && err[n - 1] == '\n')
        n--;
    while (n > 0 && err[n - 1] != '\n')
        n--;
    return err + n;
}

const char *scene_message(const char *err)
{
    return getenv("FAULT_TRACE") != NULL ? err : scene_last_line(err);
}

/* ---- making it ---- */

static void put(const struct scene *s, const char *name, const char *text)
{
    char *path = scene_path(s, name);
    tree_save(path, text, strlen(text));
    free(path);
}

static void put_documents(const struct scene *s)
{
    struct text t = { 0 };
    for (int d = 0; d < N_DOC; d++) {
        const int n = 3 + d * 7 % 14;
        text_puts(&t, "{\"input_ids\": [");
        for (int i = 0; i < n; i++)
            text_printf(&t, "%s%d", i > 0 ? ", " : "", 3 + (d * 11 + i) % 40);
        text_puts(&t, "]}\n");
    }
    if (t.failed)
        tree_die("the test is out of memory");
    put(s, "train.jsonl", t.data);
    text_free(&t);
}

static void copy(const struct scene *s, const char *from, const char *to)
{
    size_t size = 0;
    char *data = tree_load(from, &size), *path = scene_path(s, to);
    tree_save(path, data, size);
    free(path);
    free(data);
}

static void put_bases(const struct scene *s)
{
    struct jamba_config config = tiny_config();
    char *base = scene_path(s, "base"), *talker = scene_path(s, "talker");
    struct err err = { 0 };
    if (!file_make_directory(base, &err) || !file_make_directory(talker, &err))
        tree_die("%s", err.text);
    tiny_checkpoint_write(base, &config, &(struct tiny_options){ .n_shard = 2 });
    config.vocab_size = VOCAB;
    config.num_hidden_layers = 2;
    tiny_config_derive(&config);
    tiny_checkpoint_write(talker, &config, &(struct tiny_options){ .n_shard = 0 });
    copy(s, "tests/fixtures/tokenizers/jamba/tokenizer.json", "talker/tokenizer.json");
    copy(s, "tests/fixtures/tokenizers/jamba/tokenizer_config.json",
         "talker/tokenizer_config.json");
    free(base);
    free(talker);
}

/* A sweep's folder: a run with a log, one that failed before it began, one to come. */
static void put_sweep(const struct scene *s)
{
    static const char *const folders[] = { "swept", "swept/lora_r=2" };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *path = scene_path(s, folders[i]);
        if (mkdir(path, 0777) != 0)
            tree_die("%s cannot be made", path);
        free(path);
    }
    put(s, "swept/lora_r=2/metrics.jsonl",
        "{\"step\":0,\"event\":\"started\",\"text\":\"\",\"time\":\"2026-01-01T00:00:00Z\"}\n"
        "{\"step\":1,\"loss\":2.5,\"tokens\":10,\"seconds\":0.5}\n");
    put(s, "swept/sweep.json",
        "{\"format\":1,\"keys\":[\"lora_r\"],\"runs\":["
        "{\"run\":\"lora_r=2\",\"status\":\"stopped\",\"steps\":1},"
        "{\"run\":\"lora_r=4\",\"status\":\"failed\",\"steps\":0,\"error\":[\"no memory\"]},"
        "{\"run\":\"lora_r=8\",\"status\":\"waiting\",\"steps\":0}]}\n");
}

static void put_recipes(const struct scene *s, const char *extra)
{
    char *train =
        tree_text("base_model: %s/base\n"
                  "datasets:\n"
                  "  - path: train.jsonl\n"
                  "    type: input_ids\n"
                  "val_set_size: 4\n"
                  "sequence_len: 32\n"
                  "lora_r: 4\n"
                  "lora_alpha: 8\n"
                  "lora_dropout: 0.1\n"
                  "lora_target_modules: [q_proj, v_proj, in_proj, x_proj, down_proj]\n"
                  "micro_batch_size: 1\n"
                  "gradient_accumulation_steps: 2\n"
                  "sample_packing: true\n"
                  "learning_rate: 0.01\n"
                  "seed: 7\n"
                  "threads: 1\n"
                  "output_dir: out\n"
                  "%s%s%s%s",
                  s->folder, extra, strstr(extra, "max_steps") != NULL ? "" : "max_steps: 6\n",
                  strstr(extra, "eval_steps") != NULL ? "" : "eval_steps: 3\n",
                  strstr(extra, "save_total_limit") != NULL ? "" : "save_total_limit: 2\n");
    put(s, "train.yaml", train);
    free(train);
    char *chat = tree_text("base_model: %s/talker\n"
                           "chat_template: jamba\n"
                           "datasets:\n"
                           "  - path: chat.jsonl\n"
                           "    type: chat\n"
                           "  - path: text.jsonl\n"
                           "    type: text\n"
                           "sequence_len: 256\n"
                           "threads: 1\n",
                           s->folder);
    put(s, "chat.yaml", chat);
    free(chat);
    put(s, "text.jsonl", "{\"text\": \"Hello there, world.\"}\n{\"text\": \"1 + 2 = 3\"}\n");
    put(s, "ids.jsonl", "{\"input_ids\": [1, 20, 30, 40, 2]}\n");
    put(s, "ask.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n");
    put(s, "chat.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, "
        "{\"role\": \"assistant\", \"content\": \"Yo\"}]}\n"
        "{\"messages\": [{\"role\": \"user\", \"content\": \"When?\"}, {\"role\": \"assistant\", "
        "\"content\": null, \"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": "
        "\"clock\", \"arguments\": {\"city\": \"Oslo\"}}}]}, {\"role\": \"tool\", \"content\": "
        "\"3\"}, {\"role\": \"assistant\", \"content\": \"At three.\"}], \"tools\": [{\"type\": "
        "\"function\", \"function\": {\"name\": \"clock\", \"parameters\": {\"type\": "
        "\"object\"}}}]}\n");
}

static void run_undisturbed(struct scene *s)
{
    struct landing r;
    launch(&(struct launch){ .program = s->program, .args = ARGS("train", s->recipe) }, &r);
    if (r.code != 0)
        tree_die("the undisturbed run ended with %d: %s", r.code, r.err);
    landing_free(&r);
    tree_read(&s->done, s->out);
    char *adapter = scene_path(s, "adapter");
    static const char *const names[] = { "adapter_config.json", "adapter_model.safetensors" };
    struct tree a = { 0 };
    for (size_t i = 0; i < 2; i++) {
        const struct tree_file *f = tree_find(&s->done, names[i]);
        if (f == NULL)
            tree_die("the undisturbed run left no %s", names[i]);
        tree_put(&a, names[i], f->data, f->size);
    }
    tree_write(&a, adapter);
    tree_free(&a);
    free(adapter);
}

void scene_open(struct scene *s, const char *program, const char *shim, const char *extra)
{
    *s = (struct scene){ .program = program, .shim = shim };
    if (getenv("TMPDIR") == NULL && access("/dev/shm", W_OK | X_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1);
    s->folder = tiny_scratch_make();
    s->out = scene_path(s, "out");
    s->recipe = scene_path(s, "train.yaml");
    put_bases(s);
    put_documents(s);
    put_recipes(s, extra);
    put_sweep(s);
    run_undisturbed(s);
}

void scene_close(struct scene *s)
{
    tree_free(&s->done);
    tree_remove(s->folder);
    free(s->folder);
    free(s->out);
    free(s->recipe);
    *s = (struct scene){ 0 };
}

/* ---- what a run must have left ---- */

/* The numbers of metrics.jsonl that do not depend on the clock, a line each. */
static char *curve_of(const struct tree *t)
{
    const struct tree_file *f = tree_find(t, "metrics.jsonl");
    struct text out = { 0 };
    const char *at = f != NULL ? f->data : NULL, *end = f != NULL ? at + f->size : NULL;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const size_t n = newline != NULL ? (size_t)(newline - at) : (size_t)(end - at);
        json_t *line = json_loadb(at, n, 0, NULL);
        static const char *const keys[] = { "loss", "eval_loss", "grad_norm", "learning_rate" };
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            json_t *x = json_object_get(line, keys[i]);
            if (json_is_number(x))
                text_printf(&out, "%s of step %" JSON_INTEGER_FORMAT ": %.9g\n", keys[i],
                            json_integer_value(json_object_get(line, "step")),
                            json_number_value(x));
        }
        if (line == NULL)
            text_printf(&out, "no JSON: %.*s\n", (int)n, at);
        json_decref(line);
        at += n + 1;
    }
    char *text = tree_text("%s", out.data != NULL ? out.data : "");
    text_free(&out);
    return text;
}

void scene_check_done(const struct scene *s, struct tally *t, const char *what)
{
    static const char *const names[] = { "adapter_config.json", "adapter_model.safetensors",
                                         "best/adapter_config.json",
                                         "best/adapter_model.safetensors" };
    struct tree now = { 0 };
    tree_read(&now, s->out);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!tree_same_file(&now, &s->done, names[i]))
            tally_bad(t, TALLY_CORRUPT, "%s: %s is not that of an undisturbed run", what, names[i]);
    }
    char *have = curve_of(&now), *want = curve_of(&s->done);
    if (strcmp(have, want) != 0)
        tally_bad(t, TALLY_CORRUPT, "%s: metrics.jsonl is not that of an undisturbed run:\n%s",
                  what, have);
    free(have);
    free(want);
    tree_free(&now);
}

void scene_finish(const struct scene *s, struct tally *t, const char *what)
{
    struct landing r;
    launch(&(struct launch){ .program = s->program, .args = ARGS("train", s->recipe, "--resume") },
           &r);
    if (r.code != 0)
        tally_bad(t, TALLY_LOST, "%s: train --resume afterwards ended with %d: %s", what, r.code,
                  scene_message(r.err));
    else
        scene_check_done(s, t, what);
    landing_free(&r);
}

int64_t scene_step_claimed(const char *bytes, size_t n)
{
    static const char mark[] = "checkpoint-", after[] = " is whole";
    int64_t step = 0;
    for (size_t i = 0; i + sizeof mark - 1 < n; i++) {
        if (memcmp(bytes + i, mark, sizeof mark - 1) != 0)
            continue;
        int64_t number = 0;
        size_t at = i + sizeof mark - 1;
        for (; at < n && bytes[at] >= '0' && bytes[at] <= '9'; at++)
            number = 10 * number + (bytes[at] - '0');
        if (n - at >= sizeof after - 1 && memcmp(bytes + at, after, sizeof after - 1) == 0)
            step = number;
    }
    return step;
}

/* By out/metrics.jsonl. */
static int64_t step_logged(const struct scene *s)
{
    struct tree now = { 0 };
    tree_read(&now, s->out);
    const struct tree_file *f = tree_find(&now, "metrics.jsonl");
    const int64_t step = f != NULL ? scene_step_claimed(f->data, f->size) : 0;
    tree_free(&now);
    return step;
}

int64_t scene_check_checkpoints(const struct scene *s, struct tally *t, int64_t least,
                                const char *what)
{
    struct checkpoint_list list = { 0 };
    struct err err = { 0 };
    const int64_t claimed = step_logged(s);
    if (!checkpoint_list(s->out, &list, &err))
        tally_bad(t, TALLY_LOST, "%s: %s", what, err.text);
    for (int64_t i = 0; i < list.n; i++) {
        char *path = checkpoint_path(s->out, list.steps[i]);
        if (path == NULL || !checkpoint_verify(path, &err))
            tally_bad(t, TALLY_CORRUPT, "%s: %s", what, err.text);
        free(path);
    }
    const int64_t newest = list.n > 0 ? list.steps[0] : 0;
    if (newest < claimed || newest < least)
        tally_bad(t, TALLY_LOST,
                  "%s: the newest checkpoint is of step %" PRId64 ", saved was step %" PRId64, what,
                  newest, claimed > least ? claimed : least);
    checkpoint_list_free(&list);
    return newest;
}
