#include "finetune/cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "recipes/report.h"

/* ---- messages ---- */

/* One line of a message: what it quotes of the user's bytes must not drive the terminal. Without
 * memory of its own: what is to be said may be that there is none. */
static void put_line(const char *prefix, const char *line, size_t n)
{
    char copy[ERR_TEXT_SIZE];
    snprintf(copy, sizeof copy, "%.*s", (int)n, line);
    report_clean(copy);
    fprintf(stderr, "jambatune: %s%s\n", prefix, copy);
}

int cli_fail(const struct err *err)
{
    const char *line = err->text[0] != '\0' ? err->text : "failed without a message";
    for (;;) {
        const size_t n = strcspn(line, "\n");
        put_line("", line, n);
        if (line[n] == '\0')
            break;
        line += n + 1;
    }
    return err->code != ERR_NONE ? (int)err->code : ERR_INTERNAL;
}

__attribute__((format(printf, 2, 0))) static void put_remark(const char *prefix, const char *format,
                                                             va_list args)
{
    char line[ERR_TEXT_SIZE];
    vsnprintf(line, sizeof line, format, args);
    put_line(prefix, line, strlen(line));
}

void cli_warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    put_remark("warning: ", format, args);
    va_end(args);
}

void cli_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    put_remark("note: ", format, args);
    va_end(args);
}

static bool end_output(struct err *err)
{
    /* An earlier write may have failed; nothing failed since, so that its reason is still there. */
    const bool flushed = fflush(stdout) == 0;
    return (flushed && !ferror(stdout)) ||
           err_set(err, ERR_IO, "stdout: writing failed: %s", strerror(errno));
}

int cli_end_output(void)
{
    struct err err = { 0 };
    return end_output(&err) ? 0 : cli_fail(&err);
}

/* JSON may hold DEL and U+0080 to U+009F as they are, but some terminals obey them. */
static void put_json(const char *json)
{
    for (; *json != '\0'; json++) {
        const unsigned char c = (unsigned char)json[0], next = (unsigned char)json[1];
        const bool is_pair = c == 0xC2 && next < 0xA0;
        if (is_pair || c == 0x7F)
            printf("\\u%04X", (unsigned)(is_pair ? next : c));
        else
            putchar(c);
        json += is_pair;
    }
    putchar('\n');
}

static bool print_json(json_t *value, struct err *err)
{
    char *json = json_to_text(value, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(value);
    if (json == NULL)
        return err_no_memory(err, "the JSON to print");
    put_json(json);
    free(json);
    return end_output(err);
}

int cli_end_json(json_t *value)
{
    struct err err = { 0 };
    return print_json(value, &err) ? 0 : cli_fail(&err);
}

int cli_end_json_copy(json_t *value, const char *folder, const char *name)
{
    struct err err = { 0 };
    if (print_json(value, &err))
        return 0;
    if (err.code != ERR_IO)
        return cli_fail(&err);
    cli_warn("%s; %s/%s has what was to be printed", err.text, folder, name);
    return 0;
}

/* ---- the command line ---- */

static bool is_key_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
}

/* key=value or ~key. "./x=y" and "~/file" are paths. */
static bool is_override(const char *word)
{
    const char *key = word[0] == '~' ? word + 1 : word;
    size_t n = 0;
    while (is_key_char(key[n]))
        n++;
    if (n == 0 || key[0] == '.')
        return false;
    return word[0] == '~' ? key[n] == '\0' : key[n] == '=';
}

static bool add_word(struct cli_words *words, const char *word, struct err *err)
{
    if (words->n_arg + words->n_override >= CLI_MAX_WORDS)
        return err_set(err, ERR_USAGE, "command line: has more than %d words", CLI_MAX_WORDS);
    if (is_override(word))
        words->overrides[words->n_override++] = word;
    else
        words->args[words->n_arg++] = word;
    return true;
}

static bool unknown_option(const char *name, int n, const struct cli_option *options, int n_option,
                           struct err *err)
{
    enum { MAX = 64 };
    const char *names[MAX];
    assert(n_option <= MAX);
    for (int i = 0; i < n_option; i++)
        names[i] = options[i].name;
    char *word = text_copy_n(name, (size_t)n);
    const int near = word != NULL ? text_nearest(word, names, n_option) : -1;
    free(word);
    if (near >= 0)
        return err_set(err, ERR_USAGE,
                       "command line: unknown option '--%.*s'; did you mean '--%s'?",
                       n < 60 ? n : 60, name, names[near]);
    return err_set(err, ERR_USAGE, "command line: unknown option '--%.*s'; --help lists them",
                   n < 60 ? n : 60, name);
}

struct parser {
    int argc;
    char **argv;
    const struct cli_option *options;
    int n_option;
    uint64_t seen; /* a bit per option */
};

/* Whether the word is "-n" and there is an option named by that letter. */
static bool is_letter_option(const struct parser *p, const char *word)
{
    for (int i = 0; i < p->n_option; i++) {
        if (p->options[i].name[1] == '\0' && strcmp(p->options[i].name, word + 1) == 0)
            return true;
    }
    return false;
}

/* argv[*i] is "--name", "--name=value" or "-n"; *i moves on to the value's word. */
static bool parse_option(struct parser *p, int *i, struct err *err)
{
    const char *name = p->argv[*i] + (p->argv[*i][1] == '-' ? 2 : 1);
    const size_t n = strcspn(name, "=");
    int at = 0;
    while (at < p->n_option &&
           (strlen(p->options[at].name) != n || strncmp(p->options[at].name, name, n) != 0))
        at++;
    if (at == p->n_option)
        return unknown_option(name, (int)n, p->options, p->n_option, err);

    const struct cli_option *option = &p->options[at];
    if (p->seen & (uint64_t)1 << at)
        return err_set(err, ERR_USAGE, "command line: --%s: is given twice", option->name);
    p->seen |= (uint64_t)1 << at;
    if (option->metavar == NULL) {
        if (name[n] == '=')
            return err_set(err, ERR_USAGE, "command line: --%s: takes no value", option->name);
        *option->flag = true;
        return true;
    }
    if (name[n] != '=' && *i + 1 >= p->argc)
        return err_set(err, ERR_USAGE, "command line: --%s: needs a value; expected --%s %s",
                       option->name, option->name, option->metavar);
    *option->value = name[n] == '=' ? name + n + 1 : p->argv[++*i];
    return true;
}

bool cli_parse(int argc, char **argv, const struct cli_option *options, int n_option,
               struct cli_words *words, struct err *err)
{
    struct parser p = { argc, argv, options, n_option, 0 };
    *words = (struct cli_words){ .n_arg = 0 };
    bool options_end = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (options_end || word[0] != '-' || word[1] == '\0') { /* "-" is a file: stdin */
            if (!add_word(words, word, err))
                return false;
        } else if (strcmp(word, "--") == 0) {
            options_end = true;
        } else if (word[1] != '-' && !is_letter_option(&p, word)) {
            return err_set(err, ERR_USAGE,
                           "command line: unknown option '%.60s'; options are spelled out, as in "
                           "'--help'",
                           word);
        } else if (!parse_option(&p, &i, err)) {
            return false;
        }
    }
    return true;
}

bool cli_expect_args(const struct cli_words *words, int least, int most, const char *usage,
                     struct err *err)
{
    if (words->n_arg > most)
        return err_set(err, ERR_USAGE, "command line: unexpected '%.200s'; usage: %s",
                       words->args[most], usage);
    if (words->n_arg < least)
        return err_set(err, ERR_USAGE, "command line: %s; usage: %s",
                       words->n_arg == 0 ? "names nothing to work on" : "a word is missing", usage);
    return true;
}

bool cli_expect_no_overrides(const struct cli_words *words, struct err *err)
{
    if (words->n_override == 0)
        return true;
    const char *word = words->overrides[0];
    return err_set(err, ERR_USAGE,
                   "command line: '%.200s' would change a recipe, and none is read here (a file of "
                   "that name is './%.200s')",
                   word, word);
}

bool cli_number_int(const char *name, const char *text, int64_t low, int64_t high, int64_t *out,
                    struct err *err)
{
    if (text == NULL)
        return true;
    const size_t sign = text[0] == '-', n = strlen(text);
    const bool is_number = n > sign && strspn(text + sign, "0123456789") == n - sign;
    errno = 0;
    const long long value = is_number ? strtoll(text, NULL, 10) : 0;
    if (is_number && errno == 0 && value >= low && value <= high) {
        *out = value;
        return true;
    }
    struct text range = { 0 };
    if (high == INT64_MAX)
        text_printf(&range, "of at least %" PRId64, low);
    else
        text_printf(&range, "from %" PRId64 " to %" PRId64, low, high);
    err_set(err, ERR_USAGE, "command line: --%s: '%.60s' is %s; expected a whole number %s", name,
            text, is_number ? "out of range" : "no whole number",
            range.data != NULL ? range.data : "");
    text_free(&range);
    return false;
}

bool cli_number_real(const char *name, const char *text, double low, double high, double *out,
                     struct err *err)
{
    if (text == NULL)
        return true;
    /* Not what strtod reads beyond decimal numbers: spaces, hexadecimals, "inf", "nan". */
    char *end = NULL;
    const bool is_decimal = *text != '\0' && text[strspn(text, "0123456789+-.eE")] == '\0';
    const double value = is_decimal ? strtod(text, &end) : 0;
    const bool is_number = is_decimal && *end == '\0';
    if (is_number && isfinite(value) && value >= low && value <= high) {
        *out = value;
        return true;
    }
    struct text range = { 0 };
    if (isinf(high))
        text_printf(&range, "of at least %g", low);
    else
        text_printf(&range, "from %g to %g", low, high);
    err_set(err, ERR_USAGE, "command line: --%s: '%.60s' is %s; expected a number %s", name, text,
            is_number ? "out of range" : "no number", range.data != NULL ? range.data : "");
    text_free(&range);
    return false;
}

/* ---- recipes ---- */

void cli_put_report(const struct recipe_report *report, bool notes)
{
    for (int64_t i = 0; notes && i < report->notes.n; i++)
        cli_note("%s", report->notes.item[i]);
    for (int64_t i = 0; i < report->errors.n; i++)
        fprintf(stderr, "jambatune: %s\n", report->errors.item[i]); /* is clean already */
    if (report->code == ERR_NO_MEMORY)
        fprintf(stderr, "jambatune: out of memory for the recipe\n");
    else if (report->n_more > 0)
        fprintf(stderr, "jambatune: and %" PRId64 " more errors\n", report->n_more);
}

int cli_load_recipe(const char *path, const struct cli_words *words, enum recipe_need need,
                    struct recipe *recipe)
{
    struct recipe_report report = { 0 };
    const bool ok = recipe_load(path, words->overrides, words->n_override, need, recipe, &report);
    cli_put_report(&report, true);
    const int code = ok ? 0 : report.code != ERR_NONE ? (int)report.code : ERR_INTERNAL;
    recipe_report_free(&report);
    return code;
}
