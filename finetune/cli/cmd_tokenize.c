/* jambatune tokenize: records -> token ids, one object a line, and back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/source.h"
#include "finetune/cli/base.h"
#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

const char cmd_tokenize_help[] =
    "usage: jambatune tokenize MODEL FILE [--type TYPE] [--train-on-inputs]\n"
    "       jambatune tokenize --decode MODEL FILE [--keep-special]\n"
    "\n"
    "Reads the records of FILE as training would, with the tokenizer of MODEL, and\n"
    "prints one JSON object a line for each: {\"input_ids\": [...]}, with \"labels\" too\n"
    "where they differ from the ids (-100: no loss). The output is itself a data set\n"
    "of type input_ids; nothing is cut or dropped.\n"
    "\n"
    "MODEL is a checkpoint's folder, or a hub name in the local Hugging Face cache.\n"
    "FILE is JSONL or one JSON list, plain or .gz, or a folder of such files; '-' is\n"
    "JSONL from the standard input.\n"
    "\n"
    "Options:\n"
    "  --type TYPE         text, completion, input_ids, chat or alpaca (default: by the\n"
    "                      fields of the first record)\n"
    "  --train-on-inputs   prompts carry loss too\n"
    "  --decode            the other way: {\"input_ids\": [...]} in, {\"text\": ...} out\n"
    "  --keep-special      with --decode: special tokens (BOS, EOS, ...) are spelled\n"
    "                      out instead of left out\n"
    "\n"
    "Examples:\n"
    "  jambatune tokenize ./jamba quotes.jsonl > ids.jsonl\n"
    "  echo '{\"text\": \"Hello\"}' | jambatune tokenize ./jamba -\n"
    "  jambatune tokenize --decode ./jamba ids.jsonl\n";

static const char usage[] = "jambatune tokenize MODEL FILE [--type TYPE] [--decode]";

struct tokenizing {
    struct base base;
    struct data_source from;
    struct record_options options;
    bool decode, keep_special;
    struct record record;
    struct text text, line; /* of the record at hand */
    int64_t n_empty;
};

static void put_ids(const char *name, const int32_t *ids, int64_t n, struct text *line)
{
    char digits[24];
    text_printf(line, "\"%s\": [", name);
    for (int64_t t = 0; t < n; t++) {
        const int len = snprintf(digits, sizeof digits, t > 0 ? ", %" PRId32 : "%" PRId32, ids[t]);
        text_append(line, digits, (size_t)len);
    }
    text_puts(line, "]");
}

static void put_record(const struct record *r, struct text *line)
{
    const bool same = r->n == 0 || memcmp(r->ids, r->labels, (size_t)r->n * sizeof *r->ids) == 0;
    text_puts(line, "{");
    put_ids("input_ids", r->ids, r->n, line);
    if (!same) {
        text_puts(line, ", ");
        put_ids("labels", r->labels, r->n, line);
    }
    text_puts(line, "}\n");
}

static bool put_text(struct tokenizing *t, const char *place, struct err *err)
{
    text_clear(&t->text);
    if (!tokenizer_decode(t->base.tokenizer, t->record.ids, t->record.n, !t->keep_special, &t->text,
                          err))
        return err_prefix(err, "%s", place);
    json_t *string = json_stringn(t->text.data != NULL ? t->text.data : "", t->text.len);
    char *quoted = string != NULL ? json_to_text(string, JSON_ENCODE_ANY) : NULL;
    if (quoted != NULL)
        text_printf(&t->line, "{\"text\": %s}\n", quoted);
    json_decref(string);
    free(quoted);
    return quoted != NULL || err_no_memory(err, "a document's text");
}

static bool convert(struct tokenizing *t, json_t *json, const char *place, struct err *err)
{
    if (t->from.type == DATA_AUTO) {
        if (!record_guess(json, &t->from, place, &t->from.type, err))
            return false;
        cli_note("%s: read as type '%s', by its fields", place, record_type_name(t->from.type));
    }
    text_clear(&t->line);
    if (!record_read(json, &t->from, &t->options, place, &t->record, err))
        return false;
    t->n_empty += t->record.is_empty;
    if (!t->decode)
        put_record(&t->record, &t->line);
    else if (!put_text(t, place, err))
        return false;
    return !t->line.failed || err_no_memory(err, "a line of output");
}

static bool convert_and_print(struct tokenizing *t, json_t *json, const char *place,
                              struct err *err)
{
    if (!convert(t, json, place, err))
        return false;
    fwrite(t->line.data, 1, t->line.len, stdout);
    return true;
}

/* Goes on until the data end, or the output cannot be written (which cli_end_output reports). */
static bool convert_source(struct tokenizing *t, struct err *err)
{
    struct source *s = source_open(t->from.path, err);
    json_t *json = NULL;
    enum source_result result = SOURCE_ERROR;
    bool ok = s != NULL;
    while (ok && !ferror(stdout) && (result = source_next(s, &json, err)) == SOURCE_RECORD) {
        ok = convert_and_print(t, json, source_place(s), err);
        json_decref(json);
    }
    source_close(s);
    return ok && (result != SOURCE_ERROR || ferror(stdout));
}

static bool convert_line(struct tokenizing *t, const char *line, size_t n, int64_t number,
                         struct err *err)
{
    char place[48];
    snprintf(place, sizeof place, "standard input:%" PRId64, number);
    if (strspn(line, " \t\r\n") == n)
        return true;
    if (n > SOURCE_RECORD_MAX)
        return err_set(err, ERR_DATA, "%s: is longer than %d MiB; expected one record a line",
                       place, SOURCE_RECORD_MAX >> 20);
    if (memchr(line, '\0', n) != NULL)
        return err_set(err, ERR_DATA, "%s: not valid JSON: has a zero byte", place);
    json_t *json = json_parse(line, n, place, err);
    if (json == NULL)
        return false;
    bool ok = json_is_object(json) ||
              err_set(err, ERR_DATA, "%s: is %s; expected an object", place, json_type_name(json));
    ok = ok && convert_and_print(t, json, place, err);
    json_decref(json);
    return ok;
}

/* A pipe cannot be read as a file of unknown layout is: lines only. */
static bool convert_stdin(struct tokenizing *t, struct err *err)
{
    char *line = NULL;
    size_t cap = 0;
    bool ok = true;
    for (int64_t number = 1; ok && !ferror(stdout); number++) {
        errno = 0;
        const ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) {
            if (!feof(stdin))
                ok = err_set(err, file_error(ERR_IO), "standard input: %s", strerror(errno));
            break;
        }
        ok = convert_line(t, line, (size_t)n, number, err);
    }
    free(line);
    return ok;
}

static bool type_by_name(const char *name, enum data_type *type, struct err *err)
{
    static const enum data_type types[] = { DATA_TEXT, DATA_COMPLETION, DATA_INPUT_IDS, DATA_CHAT,
                                            DATA_ALPACA };
    if (name == NULL)
        return true;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(name, record_type_name(types[i])) == 0) {
            *type = types[i];
            return true;
        }
    }
    return err_set(
        err, ERR_USAGE,
        "command line: --type: '%.60s'; expected text, completion, input_ids, chat or alpaca",
        name);
}

static bool parse(int argc, char **argv, struct tokenizing *t, struct cli_words *words,
                  struct err *err)
{
    const char *type = NULL;
    const struct cli_option options[] = {
        { "type", "TYPE", &type, NULL },
        { "train-on-inputs", NULL, NULL, &t->options.train_on_inputs },
        { "decode", NULL, NULL, &t->decode },
        { "keep-special", NULL, NULL, &t->keep_special },
    };
    if (!cli_parse(argc, argv, options, 4, words, err) || !cli_expect_no_overrides(words, err) ||
        !cli_expect_args(words, 2, 2, usage, err) || !type_by_name(type, &t->from.type, err))
        return false;
    if (t->decode && type != NULL && t->from.type != DATA_INPUT_IDS)
        return err_set(err, ERR_USAGE,
                       "command line: --type: '%s' does not go with --decode, which "
                       "reads input_ids",
                       type);
    if (t->keep_special && !t->decode)
        return err_set(err, ERR_USAGE, "command line: --keep-special: goes with --decode only");
    if (t->decode)
        t->from.type = DATA_INPUT_IDS;
    return true;
}

static bool prepare(struct tokenizing *t, const char *model, struct err *err)
{
    if (!base_open(model, &t->base, err))
        return false;
    if (t->base.tokenizer == NULL)
        return err_set(err, ERR_NO_INPUT, "%s: has no 'tokenizer.json'",
                       t->base.folder != NULL ? t->base.folder : model);
    /* Conversations by the checkpoint's own template. */
    const struct data_config config = { .train_on_inputs = t->options.train_on_inputs,
                                        .train_on_reasoning = true };
    return base_data_options(&t->base, model, &config, &t->options, err);
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenizing t = { .decode = false };
    struct cli_words words;
    struct err err = { 0 };
    bool ok = parse(argc, argv, &t, &words, &err) && prepare(&t, words.args[0], &err);
    if (ok && strcmp(words.args[1], "-") == 0) {
        ok = convert_stdin(&t, &err);
    } else if (ok) {
        t.from.path = text_copy(words.args[1]);
        ok =
            (t.from.path != NULL || err_no_memory(&err, words.args[1])) && convert_source(&t, &err);
    }
    if (ok && t.n_empty > 0)
        cli_note("%" PRId64 " records are empty: training drops them", t.n_empty);
    const int written = cli_end_output(); /* also the lines before an error */
    const int code = ok ? written : cli_fail(&err);
    record_free(&t.record);
    text_free(&t.text);
    text_free(&t.line);
    data_source_free(&t.from);
    base_close(&t.base);
    return code;
}
