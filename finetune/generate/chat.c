#include "finetune/generate/chat.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/chat_render.h"
#include "kernels/core/json.h"

/* ---- the end of a turn ---- */

static bool is_white(const char *s, size_t n)
{
    return strspn(s, " \t\r\n") >= n;
}

/* A closing that is one token ends the text before it is written; as text it always does. */
static bool learn_closing(struct chat_session *s, bool has_tools, struct err *err)
{
    const struct template_frame *frame = template_frame(s->setup.template, has_tools);
    s->closing = NULL;
    s->end = *s->setup.end;
    if (frame == NULL || frame->n_closing == 0 || is_white(frame->closing, frame->n_closing))
        return true;
    s->closing = frame->closing;
    s->n_closing = frame->n_closing;
    struct token_list ids = { 0 };
    const bool ok =
        tokenizer_encode_special(s->setup.tokenizer, s->closing, s->n_closing, false, &ids, err);
    if (ok && ids.n == 1 && s->end.n < END_MAX && !end_tokens_has(&s->end, ids.ids[0]))
        s->end.id[s->end.n++] = ids.ids[0];
    token_list_free(&ids);
    return ok;
}

/* Offset of the closing in what is written, not before `from`; all of it when it is not there. */
static size_t find_closing(const struct chat_session *s, size_t from)
{
    const struct text *w = &s->written;
    for (size_t i = from; s->closing != NULL && i + s->n_closing <= w->len; i++) {
        if (memcmp(w->data + i, s->closing, s->n_closing) == 0)
            return i;
    }
    return w->len;
}

/* Bytes at the end of what is written that may become the closing. */
static size_t held_back(const struct chat_session *s)
{
    const struct text *w = &s->written;
    size_t n = s->closing == NULL ? 0 : s->n_closing - 1;
    n = n < w->len ? n : w->len;
    while (n > 0 && memcmp(w->data + w->len - n, s->closing, n) != 0)
        n--;
    return n;
}

static bool emit_to(struct chat_session *s, size_t end, struct err *err)
{
    const size_t from = s->n_emitted;
    if (end <= from || s->setup.emit == NULL)
        return true;
    s->n_emitted = end;
    return s->setup.emit(s->setup.context, s->written.data + from, end - from, err);
}

static bool take(void *context, const char *bytes, size_t n, struct err *err)
{
    struct chat_session *s = context;
    const size_t from = s->written.len - held_back(s); /* only there can the closing begin */
    text_append(&s->written, bytes, n);
    if (s->written.failed)
        return err_no_memory(err, "the answer");
    const size_t end = find_closing(s, from);
    s->stop = end < s->written.len;
    s->n_answer = end;
    return emit_to(s, s->stop ? end : s->written.len - held_back(s), err);
}

/* ---- a session ---- */

void chat_session_open(struct chat_session *s, const struct chat_setup *setup)
{
    *s = (struct chat_session){ .setup = *setup };
    s->generation = (struct generation){ .engine = setup->engine,
                                         .tokenizer = setup->tokenizer,
                                         .end = &s->end,
                                         .sampling = setup->sampling,
                                         .max_new_tokens = setup->max_new_tokens,
                                         .keep_special = true,
                                         .emit = take,
                                         .context = s,
                                         .stop = &s->stop };
}

static void forget(struct chat_session *s)
{
    text_run_free(s->run);
    s->run = NULL;
    text_clear(&s->shown);
}

void chat_session_close(struct chat_session *s)
{
    forget(s);
    text_free(&s->shown);
    text_free(&s->written);
    *s = (struct chat_session){ .stop = false };
}

/* The first token that the run has not seen: 0 when its text is not how the rendering begins, or
 * ends inside a token. */
static int64_t first_new_token(const struct chat_session *s, const struct chat_rendering *r)
{
    const size_t n = s->shown.len;
    if (s->run == NULL || n >= r->n || memcmp(s->shown.data, r->text, n) != 0)
        return 0;
    for (int64_t t = 0; t < r->tokens.n; t++) {
        if ((size_t)r->tokens.begin[t] >= n)
            return (size_t)r->tokens.begin[t] == n ? t : 0;
    }
    return 0;
}

static bool feed(struct chat_session *s, const struct chat_rendering *r, struct err *err)
{
    const int64_t from = s->setup.fresh ? 0 : first_new_token(s, r);
    if (from == 0) {
        forget(s);
        s->run = text_run_new(&s->generation, err);
        if (s->run == NULL)
            return false;
    }
    s->n_kept = from;
    s->n_fed = r->tokens.n - from;
    text_clear(&s->shown);
    text_append(&s->shown, r->text, r->n);
    return text_run_feed(s->run, r->tokens.ids + from, s->n_fed, err);
}

static bool write_answer(struct chat_session *s, struct text *out, struct err *err)
{
    text_clear(&s->written);
    s->n_answer = 0;
    s->n_emitted = 0;
    s->stop = false;
    if (!text_run_write(s->run, err))
        return false;
    const size_t end = s->n_answer;
    text_append(&s->shown, s->written.data, s->written.len);
    text_clear(out);
    text_puts(out, "");
    text_append(out, s->written.data, end);
    if (out->failed || s->shown.failed)
        return err_no_memory(err, "the answer");
    return emit_to(s, end, err);
}

bool chat_session_answer(struct chat_session *s, const struct chat *chat, const char *place,
                         struct text *out, struct err *err)
{
    const struct chat_options options = { .template = s->setup.template,
                                          .tokenizer = s->setup.tokenizer,
                                          .add_generation_prompt = true };
    struct chat_rendering r = { 0 };
    bool ok =
        chat_render(chat, &options, place, &r, err) && learn_closing(s, chat->tools != NULL, err);
    if (ok && r.tokens.n == 0)
        ok = err_set(err, ERR_DATA,
                     "%s: the chat template makes an empty text of it; expected one for the model "
                     "to go on from",
                     place);
    ok = ok && feed(s, &r, err) && write_answer(s, out, err);
    if (!ok)
        forget(s);
    chat_rendering_free(&r);
    return ok;
}

/* ---- an answer as a message ---- */

#define THINK_BEGIN "<think>"
#define THINK_END "</think>"

/* One call, or NULL when it is none. */
static json_t *read_call(json_t *json)
{
    json_t *name = json_object_get(json, "name"), *arguments = json_object_get(json, "arguments");
    if (!json_is_string(name) || !json_is_object(arguments))
        return NULL;
    return json_pack("{s:s, s:{s:O, s:O}}", "type", "function", "function", "name", name,
                     "arguments", arguments);
}

/* The JSON of text[0..n): a call, or a list of them. */
static bool add_calls(json_t *list, const char *text, size_t n)
{
    struct err ignored = { 0 };
    json_t *json = json_parse(text, n, "call", &ignored);
    bool ok = json != NULL;
    const size_t n_call = json_is_array(json) ? json_array_size(json) : 1;
    ok = ok && n_call > 0;
    for (size_t i = 0; ok && i < n_call; i++) {
        json_t *call = read_call(json_is_array(json) ? json_array_get(json, i) : json);
        ok = call != NULL && json_array_append_new(list, call) == 0;
    }
    json_decref(json);
    return ok;
}

/* All calls of the text, and where it ends before the first: NULL when there are none, or one is
 * not as it should be, or something stands between or behind them. */
static json_t *find_calls(const char *text, size_t *content)
{
    static const char *const tags[2][2] = { { "<tool_calls>", "</tool_calls>" },
                                            { "<tool_call>", "</tool_call>" } };
    for (int k = 0; k < 2; k++) {
        const char *at = strstr(text, tags[k][0]);
        if (at == NULL)
            continue;
        json_t *list = json_array();
        bool ok = list != NULL;
        *content = (size_t)(at - text);
        while (ok && *at != '\0') {
            const char *begin = at + strlen(tags[k][0]);
            const char *end = text_starts_with(at, tags[k][0]) ? strstr(begin, tags[k][1]) : NULL;
            ok = end != NULL && add_calls(list, begin, (size_t)(end - begin));
            if (ok)
                at = end + strlen(tags[k][1]);
            at += strspn(at, " \t\r\n");
        }
        if (ok)
            return list;
        json_decref(list);
    }
    return NULL;
}

static size_t trimmed(const char *s, size_t n)
{
    while (n > 0 && strchr(" \t\r\n", s[n - 1]) != NULL)
        n--;
    return n;
}

/* Takes the reasoning from the front of *text. */
static json_t *take_reasoning(const char **text)
{
    const char *end = strstr(*text, THINK_END), *from = *text + strspn(*text, " \t\r\n");
    if (end == NULL)
        return NULL;
    if (text_starts_with(from, THINK_BEGIN))
        from += strlen(THINK_BEGIN);
    from += strspn(from, " \t\r\n");
    *text = end + strlen(THINK_END);
    const size_t n = from < end ? trimmed(from, (size_t)(end - from)) : 0;
    return json_stringn(n > 0 ? from : "", n);
}

json_t *chat_message(const char *answer, struct err *err)
{
    const char *text = answer;
    const bool thinks = strstr(answer, THINK_END) != NULL;
    json_t *reasoning = take_reasoning(&text);
    text += strspn(text, " \t\r\n"); /* some templates have a space in front of every answer */
    size_t n = strlen(text);
    json_t *calls = find_calls(text, &n);
    if (calls != NULL)
        n = trimmed(text, n);
    else
        n = strlen(text);
    json_t *message =
        json_pack("{s:s, s:o}", "role", "assistant", "content", json_stringn(text, n));
    bool ok = message != NULL && (!thinks || reasoning != NULL);
    if (ok && reasoning != NULL)
        ok = json_object_set(message, "reasoning_content", reasoning) == 0;
    if (ok && calls != NULL)
        ok = json_object_set(message, "tool_calls", calls) == 0;
    json_decref(reasoning);
    json_decref(calls);
    if (ok)
        return message;
    json_decref(message);
    err_no_memory(err, "the answer");
    return NULL;
}
