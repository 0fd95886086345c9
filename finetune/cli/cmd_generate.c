/* jambatune generate: continues a prompt, or answers in a conversation. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/generate_chat.h"
#include "finetune/generate/text.h"
#include "finetune/train/data.h"
#include "finetune/train/options.h"
#include "kernels/core/text.h"

const char cmd_generate_help[] =
    "usage: jambatune generate [RECIPE] [key=value ...] [--adapter DIR] [--prompt TEXT]\n"
    "       jambatune generate [RECIPE] [key=value ...] [--adapter DIR] --chat\n"
    "                          [--system TEXT] [--tools FILE] [--documents FILE]\n"
    "       jambatune generate [RECIPE] [key=value ...] [--adapter DIR] --json FILE [--message]\n"
    "\n"
    "Continues a prompt and writes the continuation, without the prompt, to stdout as\n"
    "it comes, and a newline after it. It ends before any of the model's end tokens\n"
    "(config.json, generation_config.json, tokenizer_config.json), or after\n"
    "--max-new-tokens. Other special tokens are left out.\n"
    "\n"
    "The model is the recipe's base_model; base_model=DIR is enough without a recipe.\n"
    "Without --adapter it is the base alone, whatever the recipe trains.\n"
    "\n"
    "The prompt is a text, read by the checkpoint's tokenizer, which puts its BOS\n"
    "token in front; what spells a special token in it stays text. Without --prompt\n"
    "it is read from stdin, less one newline at its end. An empty prompt is the BOS\n"
    "token alone.\n"
    "\n"
    "With --chat it holds a conversation by the chat template (the checkpoint's, or\n"
    "the recipe's chat_template): each line of stdin is a turn, the answer is written\n"
    "as it comes, and the end of stdin ends it. Where the model calls tools, the next\n"
    "lines are their results, one for each call. With --json it answers the records\n"
    "of a file, each by itself: {\"messages\": [...], \"tools\": [...], \"documents\":\n"
    "[...]}, JSONL, a JSON list or one object. An answer ends where the template ends\n"
    "the assistant's turn, too; special tokens in it are spelled out.\n"
    "\n"
    "Options:\n"
    "  --adapter DIR         a PEFT adapter, such as what `train` writes\n"
    "  --prompt TEXT         what to continue\n"
    "  --chat                hold a conversation\n"
    "  --system TEXT         with --chat: the system message\n"
    "  --tools FILE          with --chat: a JSON list of tools, {\"type\": \"function\",\n"
    "                        \"function\": {\"name\": ..., \"parameters\": ...}}\n"
    "  --documents FILE      with --chat: a JSON list of documents, {\"title\", \"text\"}\n"
    "  --json FILE           answer the conversations of a file\n"
    "  --message             with --json: answers as JSON messages, one a line: role,\n"
    "                        content, and reasoning_content and tool_calls where the\n"
    "                        text has them\n"
    "  --max-new-tokens N    at most this many tokens (256)\n"
    "  --greedy              always the most likely token; else it is drawn:\n"
    "  --temperature T       below 1 sharpens, above 1 flattens (1; 0: as --greedy)\n"
    "  --top-k K             only among the K most likely (0: all)\n"
    "  --top-p P             only among the most likely that together have\n"
    "                        probability P (1: all); after --top-k\n"
    "  --seed S              of the draws (0): the same seed, the same text\n"
    "\n"
    "Memory grows with the text only by the attention layers' keys and values.\n"
    "\n"
    "Examples:\n"
    "  jambatune generate base_model=./jamba --prompt 'Once upon a time'\n"
    "  jambatune generate train.yaml --adapter out --prompt '' --seed 7\n"
    "  jambatune generate train.yaml --adapter out --greedy < prompt.txt\n"
    "  jambatune generate train.yaml --adapter out --chat --tools tools.json\n"
    "  jambatune generate train.yaml --adapter out --json questions.jsonl --message\n";

static const char usage[] = "jambatune generate [RECIPE] [key=value ...] [--prompt TEXT]";

struct generate_options {
    const char *adapter, *prompt;
    const char *max_new_tokens, *temperature, *top_k, *top_p, *seed;
    const char *system, *tools, *documents, *json;
    bool greedy, chat, message;
};

/* ---- options ---- */

static bool read_sampling(const struct generate_options *o, struct sampling *how, struct err *err)
{
    const struct {
        const char *name, *value;
    } drawing[] = { { "temperature", o->temperature },
                    { "top-k", o->top_k },
                    { "top-p", o->top_p },
                    { "seed", o->seed } };
    for (int i = 0; o->greedy && i < 4; i++) {
        if (drawing[i].value != NULL)
            return err_set(
                err, ERR_USAGE,
                "command line: --%s: does not go with --greedy, which draws nothing; leave one out",
                drawing[i].name);
    }
    int64_t seed = 0;
    *how = (struct sampling){ .temperature = 1, .top_p = 1 };
    if (!cli_number_real("temperature", o->temperature, 0, 1e6, &how->temperature, err) ||
        !cli_number_int("top-k", o->top_k, 0, INT64_MAX, &how->top_k, err) ||
        !cli_number_real("top-p", o->top_p, 0, 1, &how->top_p, err) ||
        !cli_number_int("seed", o->seed, 0, INT64_MAX, &seed, err))
        return false;
    how->seed = (uint64_t)seed;
    how->greedy = o->greedy || how->temperature == 0;
    return true;
}

/* What continues a prompt, holds a conversation and answers a file exclude each other. */
static bool check_mode(const struct generate_options *o, struct err *err)
{
    const struct {
        const char *name, *other;
        bool both;
    } pairs[] = {
        { "--prompt", "--chat", o->prompt != NULL && o->chat },
        { "--prompt", "--json", o->prompt != NULL && o->json != NULL },
        { "--chat", "--json", o->chat && o->json != NULL },
    };
    const struct {
        const char *name, *needed;
        bool alone;
    } needs[] = {
        { "--system", "--chat", o->system != NULL && !o->chat },
        { "--tools", "--chat", o->tools != NULL && !o->chat },
        { "--documents", "--chat", o->documents != NULL && !o->chat },
        { "--message", "--json FILE", o->message && o->json == NULL },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (pairs[i].both)
            return err_set(err, ERR_USAGE, "command line: %s: does not go with %s; leave one out",
                           pairs[i].name, pairs[i].other);
    }
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if (needs[i].alone)
            return err_set(err, ERR_USAGE, "command line: %s: goes with %s only", needs[i].name,
                           needs[i].needed);
    }
    return true;
}

/* ---- the prompt ---- */

enum { PROMPT_LIMIT = 64 << 20 };

static bool read_stdin(struct text *out, struct err *err)
{
    if (isatty(STDIN_FILENO))
        cli_note("reading the prompt from the terminal: end it with Ctrl-D on a line of its own, "
                 "or give --prompt TEXT");
    /* Less than asked for is the end: on a terminal another read would wait for a second one. */
    char buffer[16384];
    size_t n = sizeof buffer;
    errno = 0;
    while (n == sizeof buffer) {
        n = fread(buffer, 1, sizeof buffer, stdin);
        text_append(out, buffer, n);
        if (out->len > PROMPT_LIMIT)
            return err_set(err, ERR_DATA, "stdin: the prompt is longer than %d MiB",
                           PROMPT_LIMIT >> 20);
    }
    if (ferror(stdin))
        return err_set(err, ERR_NO_INPUT,
                       "stdin: cannot be read: %s; give the prompt with --prompt TEXT",
                       strerror(errno));
    if (out->len > 0 && out->data[out->len - 1] == '\n')
        out->len--;
    return true;
}

static bool encode_prompt(const struct tokenizer *tok, const char *prompt, struct token_list *out,
                          struct err *err)
{
    struct text text = { 0 };
    bool ok = true;
    if (prompt != NULL)
        text_puts(&text, prompt);
    else
        ok = read_stdin(&text, err);
    if (ok && text.failed)
        ok = err_no_memory(err, "the prompt");
    if (ok && !tokenizer_encode(tok, text.data != NULL ? text.data : "", text.len, true, out, err))
        ok = err_prefix(err, prompt != NULL ? "--prompt" : "stdin");
    text_free(&text);
    return ok;
}

/* ---- the run ---- */

struct command {
    const struct recipe *recipe;
    const struct generate_options *options;
    struct sampling sampling;
    int64_t max_new_tokens;
    char *folder, *config_path;
    struct tokenizer *tokenizer;
    struct token_list prompt;
    struct end_tokens end;
    struct engine engine;
    /* Of --chat and --json. */
    struct chat_template *template;
    struct conversation conversation;
    json_t *questions;
};

static bool open_tokenizer(struct command *c, struct err *err)
{
    const char *name = c->recipe->base_model;
    if (!weights_locate(name, &c->folder, &c->config_path, err))
        return false;
    if (c->folder == NULL)
        return err_set(
            err, ERR_USAGE,
            "base_model: '%s' has no tokenizer; generate needs a checkpoint's folder or hub name",
            name);
    c->tokenizer = tokenizer_open(c->folder, err);
    return c->tokenizer != NULL;
}

/* What is asked, of whichever kind. */
static bool open_question(struct command *c, struct err *err)
{
    const struct generate_options *o = c->options;
    if (!o->chat && o->json == NULL)
        return encode_prompt(c->tokenizer, o->prompt, &c->prompt, err);
    c->template = train_open_template(c->recipe->base_model, &c->recipe->data, err);
    if (c->template == NULL)
        return false;
    if (o->chat)
        return conversation_open(&c->conversation, o->system, o->tools, o->documents, c->template,
                                 err);
    c->questions = questions_read(o->json, c->template, err);
    return c->questions != NULL;
}

/* Rows of a chunk: no more than the prompt has, where that is known. */
enum { CHAT_CHUNK_TOKENS = 512 };

static int64_t chunk_of(const struct command *c)
{
    const bool is_prompt = c->template == NULL;
    const int64_t usual = is_prompt ? PLAN_CHUNK_TOKENS : CHAT_CHUNK_TOKENS;
    const int64_t most = c->recipe->chunk_tokens > 0 ? c->recipe->chunk_tokens : usual;
    return is_prompt && c->prompt.n < most ? c->prompt.n : most;
}

/* The question comes before the weights: who asks it has been waiting for nothing. */
static bool open_all(struct command *c, struct err *err)
{
    const char *adapter = c->options->adapter;
    const struct engine_options options = engine_options_of(c->recipe);
    if (!open_tokenizer(c, err) || !open_question(c, err) ||
        !engine_open(&c->engine, &options, err) ||
        (adapter != NULL && !engine_choose_from(&c->engine, adapter, err)))
        return false;
    const struct jamba_config *config = weights_config(c->engine.weights);
    return end_tokens_read(c->folder, config, c->tokenizer, &c->end, err) &&
           (c->template != NULL ||
            generate_finish_prompt(c->tokenizer, config, &c->end, &c->prompt, err)) &&
           engine_allocate_generation(&c->engine, chunk_of(c), adapter, err);
}

static bool print(void *context, const char *bytes, size_t n, struct err *err)
{
    (void)context;
    errno = 0;
    if (fwrite(bytes, 1, n, stdout) == n && fflush(stdout) == 0)
        return true;
    return err_set(err, ERR_IO, "stdout: writing failed%s%s", errno != 0 ? ": " : "",
                   errno != 0 ? strerror(errno) : "");
}

static bool continue_prompt(struct command *c, struct err *err)
{
    const struct generation g = { .engine = &c->engine,
                                  .tokenizer = c->tokenizer,
                                  .end = &c->end,
                                  .sampling = c->sampling,
                                  .max_new_tokens = c->max_new_tokens,
                                  .emit = print };
    return generate_text(&g, c->prompt.ids, c->prompt.n, err) && print(NULL, "\n", 1, err);
}

static bool answer(struct command *c, struct err *err)
{
    const struct chat_setup setup = { .engine = &c->engine,
                                      .tokenizer = c->tokenizer,
                                      .template = c->template,
                                      .end = &c->end,
                                      .sampling = c->sampling,
                                      .max_new_tokens = c->max_new_tokens };
    if (c->options->chat)
        return conversation_hold(&c->conversation, &setup, err);
    return questions_answer(c->questions, &setup, c->options->message, err);
}

static int run(struct command *c)
{
    struct err err = { 0 };
    if (!open_all(c, &err)) {
        recipe_add_place(c->recipe, &err);
        return cli_fail(&err);
    }
    if (c->template != NULL ? answer(c, &err) : continue_prompt(c, &err))
        return cli_end_output();
    if (err.code != ERR_IO &&
        c->template == NULL) /* what was written is not glued to the message */
        print(NULL, "\n", 1, NULL);
    return cli_fail(&err);
}

static void close_all(struct command *c)
{
    engine_close(&c->engine);
    token_list_free(&c->prompt);
    conversation_close(&c->conversation);
    json_decref(c->questions);
    template_free(c->template);
    tokenizer_free(c->tokenizer);
    free(c->folder);
    free(c->config_path);
}

int cmd_generate(int argc, char **argv)
{
    struct generate_options o = { 0 };
    const struct cli_option options[] = {
        { "adapter", "DIR", &o.adapter, NULL },
        { "prompt", "TEXT", &o.prompt, NULL },
        { "chat", NULL, NULL, &o.chat },
        { "system", "TEXT", &o.system, NULL },
        { "tools", "FILE", &o.tools, NULL },
        { "documents", "FILE", &o.documents, NULL },
        { "json", "FILE", &o.json, NULL },
        { "message", NULL, NULL, &o.message },
        { "greedy", NULL, NULL, &o.greedy },
        { "max-new-tokens", "N", &o.max_new_tokens, NULL },
        { "temperature", "T", &o.temperature, NULL },
        { "top-k", "K", &o.top_k, NULL },
        { "top-p", "P", &o.top_p, NULL },
        { "seed", "S", &o.seed, NULL },
    };
    struct cli_words words;
    struct err err = { 0 };
    struct recipe recipe = { 0 };
    struct command c = { .recipe = &recipe, .options = &o, .max_new_tokens = 256 };
    if (!cli_parse(argc, argv, options, sizeof options / sizeof options[0], &words, &err) ||
        !cli_expect_args(&words, 0, 1, usage, &err) || !check_mode(&o, &err) ||
        !read_sampling(&o, &c.sampling, &err) ||
        !cli_number_int("max-new-tokens", o.max_new_tokens, 1, INT32_MAX, &c.max_new_tokens, &err))
        return cli_fail(&err);
    int code = cli_load_recipe(words.args[0], &words, RECIPE_NEED_MODEL, &recipe);
    if (code == 0)
        code = run(&c);
    close_all(&c);
    recipe_free(&recipe);
    return code;
}
