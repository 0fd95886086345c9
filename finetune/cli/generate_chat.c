#include "finetune/cli/generate_chat.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "datasets/chat_render.h"
#include "datasets/source.h"
#include "finetune/cli/cli.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

static bool print(void *context, const char *bytes, size_t n, struct err *err)
{
    (void)context;
    errno = 0;
    if (fwrite(bytes, 1, n, stdout) == n && fflush(stdout) == 0)
        return true;
    return err_set(err, ERR_IO, "stdout: writing failed%s%s", errno != 0 ? ": " : "",
                   errno != 0 ? strerror(errno) : "");
}

/* Renders without a model: what the template refuses is known before any weight is read. */
static bool check_rendering(const struct chat *chat, const struct chat_template *t,
                            const char *place, struct err *err)
{
    const struct chat_options options = { .template = t, .add_generation_prompt = true };
    struct chat_rendering r = { 0 };
    const bool ok = chat_render(chat, &options, place, &r, err);
    chat_rendering_free(&r);
    return ok;
}

/* ---- --chat ---- */

enum { LINE_LIMIT = 16 << 20 };

static json_t *read_list(const char *option, const char *path, struct err *err)
{
    char *bytes = NULL;
    size_t n = 0;
    if (!file_read(path, SOURCE_RECORD_MAX, &bytes, &n, err))
        return NULL;
    json_t *list = json_parse(bytes, n, path, err);
    free(bytes);
    if (list == NULL || json_is_array(list))
        return list;
    err_set(err, ERR_DATA, "%s: is %s; expected a list of objects for --%s", path,
            json_type_name(list), option);
    json_decref(list);
    return NULL;
}

/* The conversation as chat_read checks it. `place` starts messages. */
static bool read_conversation(const struct conversation *c, const char *place, struct chat *chat,
                              struct err *err)
{
    json_t *record = json_pack("{s:O, s:O*, s:O*}", "messages", c->messages, "tools", c->tools,
                               "documents", c->documents);
    const bool ok = record != NULL ? chat_read(record, NULL, place, chat, err)
                                   : err_no_memory(err, "the conversation");
    json_decref(record);
    return ok;
}

static bool append(json_t *list, json_t *message, struct err *err)
{
    return (message != NULL && json_array_append_new(list, message) == 0) ||
           err_no_memory(err, "the conversation");
}

/* With a question in place of the user's: tools, documents and template must go together. */
static bool check_conversation(const struct conversation *c, const struct chat_template *t,
                               struct err *err)
{
    static const char place[] = "--chat";
    struct conversation trial = *c; /* borrows */
    struct chat chat = { 0 };
    trial.messages = json_copy(c->messages);
    /* A copy lacks what there was no room for. */
    bool ok = (trial.messages != NULL &&
               json_array_size(trial.messages) == json_array_size(c->messages)) ||
              err_no_memory(err, "the conversation");
    ok = ok &&
         append(trial.messages, json_pack("{s:s, s:s}", "role", "user", "content", "?"), err) &&
         read_conversation(&trial, place, &chat, err) && check_rendering(&chat, t, place, err);
    chat_free(&chat);
    json_decref(trial.messages);
    return ok;
}

bool conversation_open(struct conversation *c, const char *system, const char *tools,
                       const char *documents, const struct chat_template *t, struct err *err)
{
    *c = (struct conversation){ .messages = json_array() };
    if (c->messages == NULL)
        return err_no_memory(err, "the conversation");
    if (system != NULL && !text_is_utf8(system, strlen(system), NULL))
        return err_set(err, ERR_USAGE, "command line: --system: is not UTF-8");
    if (system != NULL &&
        !append(c->messages, json_pack("{s:s, s:s}", "role", "system", "content", system), err))
        return false;
    if (tools != NULL && (c->tools = read_list("tools", tools, err)) == NULL)
        return false;
    if (documents != NULL && (c->documents = read_list("documents", documents, err)) == NULL)
        return false;
    return check_conversation(c, t, err);
}

void conversation_close(struct conversation *c)
{
    json_decref(c->messages);
    json_decref(c->tools);
    json_decref(c->documents);
    *c = (struct conversation){ .messages = NULL };
}

/* Up to the end of the line, which is taken and left out; what is longer than the limit is left,
 * however long. False: there is no more, or memory is out. */
static bool take_line(struct text *line)
{
    int c = EOF;
    text_clear(line);
    while (line->len <= LINE_LIMIT && !line->failed && (c = getc(stdin)) != EOF && c != '\n') {
        const char byte = (char)c;
        text_append(line, &byte, 1);
    }
    while (line->len > 0 && line->data[line->len - 1] == '\r')
        line->data[--line->len] = '\0';
    return !line->failed && (c != EOF || line->len > 0);
}

/* The next line that is not empty, without its end. *more is false when there is none. */
static bool read_line(const char *prompt, int64_t *number, struct text *line, bool *more,
                      struct err *err)
{
    for (;;) {
        if (isatty(STDIN_FILENO))
            fprintf(stderr, "%s> ", prompt);
        errno = 0;
        *more = take_line(line);
        if (line->failed)
            return err_no_memory(err, "stdin");
        if (ferror(stdin))
            return err_set(err, ERR_IO, "stdin: cannot be read: %s", strerror(errno));
        if (!*more)
            return true;
        ++*number;
        size_t at = 0;
        if (line->len > LINE_LIMIT ||
            (line->len > 0 && (memchr(line->data, '\0', line->len) != NULL ||
                               !text_is_utf8(line->data, line->len, &at))))
            return err_set(err, ERR_DATA,
                           "stdin:%" PRId64 ": is longer than %d MiB or no text; expected a line "
                           "of UTF-8",
                           *number, LINE_LIMIT >> 20);
        if (line->len > 0 && strspn(line->data, " \t") < line->len)
            return true;
    }
}

/* The name of the next call that waits for its result; NULL: it is the user's turn. */
static const char *next_call(const json_t *messages)
{
    const size_t n = json_array_size(messages);
    size_t at = n;
    while (at > 0) {
        const json_t *message = json_array_get(messages, at - 1);
        if (strcmp(json_string_value(json_object_get(message, "role")), "tool") != 0)
            break;
        at--;
    }
    const json_t *message = at > 0 ? json_array_get(messages, at - 1) : NULL;
    const json_t *call = json_array_get(json_object_get(message, "tool_calls"), n - at);
    return json_string_value(json_object_get(json_object_get(call, "function"), "name"));
}

static bool answer_once(struct conversation *c, struct chat_session *s, const char *place,
                        struct text *answer, struct err *err)
{
    struct chat chat = { 0 };
    const bool ok = read_conversation(c, place, &chat, err) &&
                    chat_session_answer(s, &chat, place, answer, err) && print(NULL, "\n", 1, err);
    chat_free(&chat);
    return ok && append(c->messages, chat_message(answer->data, err), err);
}

bool conversation_hold(struct conversation *c, const struct chat_setup *setup, struct err *err)
{
    struct chat_session session = { 0 };
    struct chat_setup own = *setup;
    struct text answer = { 0 }, line = { 0 };
    char place[48];
    int64_t number = 0;
    own.emit = print;
    chat_session_open(&session, &own);
    bool ok = true, more = true;
    while (ok) {
        const char *call = next_call(c->messages);
        ok = read_line(call != NULL ? call : "", &number, &line, &more, err);
        if (!ok || !more)
            break;
        ok = append(c->messages,
                    call != NULL ? json_pack("{s:s, s:s, s:s}", "role", "tool", "name", call,
                                             "content", line.data)
                                 : json_pack("{s:s, s:s}", "role", "user", "content", line.data),
                    err);
        if (ok && next_call(c->messages) != NULL)
            continue; /* another call waits for its result */
        snprintf(place, sizeof place, "stdin:%" PRId64, number);
        ok = ok && answer_once(c, &session, place, &answer, err);
    }
    if (ok && isatty(STDIN_FILENO))
        fputc('\n', stderr);
    text_free(&line);
    text_free(&answer);
    chat_session_close(&session);
    return ok;
}

/* ---- --json ---- */

static bool check_question(json_t *record, const char *place, const struct chat_template *t,
                           struct err *err)
{
    struct chat chat = { 0 };
    bool ok = chat_read(record, NULL, place, &chat, err);
    if (ok && chat_role(&chat, chat.n_message - 1) == CHAT_ASSISTANT)
        ok = err_set(err, ERR_DATA,
                     "%s: its last message is the assistant's, so there is nothing to answer; "
                     "expected a user's or a tool's last",
                     place);
    ok = ok && check_rendering(&chat, t, place, err);
    chat_free(&chat);
    return ok;
}

static bool add_question(json_t *list, json_t *record, const char *place,
                         const struct chat_template *t, struct err *err)
{
    if (!check_question(record, place, t, err))
        return false;
    json_t *question = json_pack("{s:o, s:O}", "place", cli_json_string(place), "record", record);
    return append(list, question, err);
}

/* One object over several lines is no JSONL. */
static json_t *read_object(const char *path)
{
    struct err ignored = { 0 };
    return json_load_object(path, SOURCE_RECORD_MAX, &ignored);
}

static bool read_source(json_t *list, const char *path, const struct chat_template *t,
                        struct err *err)
{
    struct source *s = source_open(path, err);
    json_t *record = NULL;
    enum source_result result = SOURCE_ERROR;
    bool ok = s != NULL;
    while (ok && (result = source_next(s, &record, err)) == SOURCE_RECORD) {
        ok = add_question(list, record, source_place(s), t, err);
        json_decref(record);
    }
    source_close(s);
    return ok && result == SOURCE_END;
}

json_t *questions_read(const char *path, const struct chat_template *t, struct err *err)
{
    json_t *list = json_array(), *object = read_object(path);
    bool ok = list != NULL || err_no_memory(err, path);
    if (ok && object != NULL)
        ok = add_question(list, object, path, t, err);
    else if (ok)
        ok = read_source(list, path, t, err);
    json_decref(object);
    if (ok)
        return list;
    json_decref(list);
    return NULL;
}

static bool print_message(const char *answer, struct err *err)
{
    json_t *message = chat_message(answer, err);
    char *line = message != NULL ? json_to_text(message, JSON_COMPACT) : NULL;
    const bool ok =
        line != NULL ? print(NULL, line, strlen(line), err) : err_no_memory(err, "the answer");
    free(line);
    json_decref(message);
    return ok;
}

bool questions_answer(json_t *questions, const struct chat_setup *setup, bool as_message,
                      struct err *err)
{
    struct chat_session session = { 0 };
    struct chat_setup own = *setup;
    struct text answer = { 0 };
    own.emit = as_message ? NULL : print;
    own.fresh = true;
    chat_session_open(&session, &own);
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(questions); i++) {
        const json_t *question = json_array_get(questions, i);
        const char *place = json_string_value(json_object_get(question, "place"));
        struct chat chat = { 0 };
        ok = chat_read(json_object_get(question, "record"), NULL, place, &chat, err) &&
             chat_session_answer(&session, &chat, place, &answer, err) &&
             (!as_message || print_message(answer.data, err)) && print(NULL, "\n", 1, err);
        chat_free(&chat);
    }
    text_free(&answer);
    chat_session_close(&session);
    return ok;
}
