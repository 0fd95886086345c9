#include "datasets/chat_marks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

/* Piece k is opened by the character 2k of a private-use plane and closed by the next. */
enum { PLANE_15 = 0xF0000, PLANE_16 = 0x100000, MAX_PIECE = 32766 };

/* What a piece was before it was marked. */
struct piece {
    int64_t message;
    bool reasoning;
    bool seen; /* in the marked text */
};

struct marker {
    const struct tokenizer *tokenizer;
    enum chat_mark_what what;
    uint32_t plane;
    struct piece *pieces;
    int64_t n, cap;
    int64_t message; /* at hand */
    bool reasoning;  /* the string at hand is reasoning */
    bool failed;     /* memory is out */
    struct chat_marks *out;
};

void chat_marks_free(struct chat_marks *marks)
{
    free(marks->at);
    *marks = (struct chat_marks){ 0 };
}

/* ---- putting marks in ---- */

static void put_character(uint32_t c, struct text *out)
{
    const char bytes[4] = { (char)(0xF0 | (c >> 18)), (char)(0x80 | ((c >> 12) & 0x3F)),
                            (char)(0x80 | ((c >> 6) & 0x3F)), (char)(0x80 | (c & 0x3F)) };
    text_append(out, bytes, sizeof bytes);
}

static bool add_piece(struct marker *m, bool reasoning)
{
    if (m->n == m->cap) {
        const int64_t cap = m->cap + m->cap / 2 + 64;
        struct piece *pieces = realloc(m->pieces, (size_t)cap * sizeof *pieces);
        if (pieces == NULL) {
            m->failed = true;
            return false;
        }
        m->pieces = pieces;
        m->cap = cap;
    }
    m->pieces[m->n++] = (struct piece){ .message = m->message, .reasoning = reasoning };
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* s[0..n) with a pair of marks around all of it but the white space at its ends. */
static void put_piece(struct marker *m, const char *s, size_t n, bool reasoning, struct text *out)
{
    size_t begin = 0, end = n;
    while (begin < end && is_space(s[begin]))
        begin++;
    while (end > begin && is_space(s[end - 1]))
        end--;
    if (begin == end || m->n >= MAX_PIECE || !add_piece(m, reasoning)) {
        text_append(out, s, n);
        return;
    }
    const uint32_t open = m->plane + 2 * (uint32_t)(m->n - 1);
    text_append(out, s, begin);
    put_character(open, out);
    text_append(out, s + begin, end - begin);
    put_character(open + 1, out);
    text_append(out, s + end, n - end);
}

/* "...<think>...</think>...": each part by itself, the tags outside. */
static void put_parts(struct marker *m, const char *s, size_t n, struct text *out)
{
    static const char begin_tag[] = "<think>", end_tag[] = "</think>";
    const size_t n_begin = sizeof begin_tag - 1, n_end = sizeof end_tag - 1;
    bool reasoning = m->reasoning;
    size_t from = 0;
    for (size_t i = 0; i < n;) {
        const bool opens = n - i >= n_begin && memcmp(s + i, begin_tag, n_begin) == 0;
        const bool closes = n - i >= n_end && memcmp(s + i, end_tag, n_end) == 0;
        if (!opens && !closes) {
            i++;
            continue;
        }
        put_piece(m, s + from, i - from, reasoning || closes, out);
        text_append(out, s + i, opens ? n_begin : n_end);
        i += opens ? n_begin : n_end;
        from = i;
        reasoning = m->reasoning || opens;
    }
    put_piece(m, s + from, n - from, reasoning, out);
}

static void note_special(struct marker *m, const char *s, size_t n, bool whole)
{
    struct chat_marks *out = m->out;
    const bool first = whole ? out->n_special++ == 0 : out->n_part++ == 0 && out->n_special == 0;
    if (!first)
        return;
    snprintf(out->spelled, sizeof out->spelled, "%.*s", n < 60 ? (int)n : 60, s);
    if (m->message >= 0)
        snprintf(out->where, sizeof out->where, "messages[%" PRId64 "]", m->message);
    else
        snprintf(out->where, sizeof out->where, "tools, documents or variables");
}

/* Adds the parts of spellings at the ends of s[0..n), white space left out, to those found whole.
 */
static bool add_parts(struct marker *m, const char *s, size_t n, bool is_name,
                      struct range_list *found)
{
    size_t begin = 0, end = n, head = 0, tail = 0;
    bool inside = false;
    while (begin < end && is_space(s[begin]))
        begin++;
    while (end > begin && is_space(s[end - 1]))
        end--;
    tokenizer_special_edges(m->tokenizer, s + begin, end - begin, &head, &tail, &inside);
    if ((inside && !is_name && m->what == MARK_SPECIALS_INSIDE) || head + tail > end - begin)
        head = end - begin;
    const struct byte_range parts[2] = { { begin, begin + head }, { end - tail, end } };
    for (int i = 0; i < 2; i++) {
        const struct byte_range part = parts[i];
        if (part.begin == part.end || range_list_overlaps(found, part.begin, part.end))
            continue;
        note_special(m, s + part.begin, part.end - part.begin, false);
        if (!range_list_add(found, part.begin, part.end))
            return false;
        range_list_merge(found);
    }
    return true;
}

static void put_specials(struct marker *m, const char *s, size_t n, bool is_name, struct text *out)
{
    struct range_list found = { 0 };
    struct err err = { 0 };
    m->failed = m->failed || !tokenizer_find_special(m->tokenizer, s, n, &found, &err);
    for (size_t i = 0; i < found.n; i++)
        note_special(m, s + found.at[i].begin, found.at[i].end - found.at[i].begin, true);
    m->failed = m->failed || !add_parts(m, s, n, is_name, &found);
    size_t from = 0;
    for (size_t i = 0; i < found.n; i++) {
        const struct byte_range r = found.at[i];
        text_append(out, s + from, r.begin - from);
        put_piece(m, s + r.begin, r.end - r.begin, false, out);
        from = r.end;
    }
    text_append(out, s + from, n - from);
    range_list_free(&found);
}

static bool put_string(struct marker *m, const char *s, size_t n, bool is_name, struct text *out)
{
    text_clear(out);
    if (m->what == MARK_CONTENTS)
        put_parts(m, s, n, out);
    else
        put_specials(m, s, n, is_name, out);
    m->failed = m->failed || out->failed;
    return !m->failed;
}

static json_t *mark_value(struct marker *m, json_t *value, bool names);

static json_t *mark_string(struct marker *m, const json_t *value)
{
    struct text text = { 0 };
    json_t *out = NULL;
    if (put_string(m, json_string_value(value), json_string_length(value), false, &text))
        out = json_stringn(text.len > 0 ? text.data : "", text.len);
    text_free(&text);
    m->failed = m->failed || out == NULL;
    return out;
}

static json_t *mark_list(struct marker *m, json_t *value, bool names)
{
    json_t *out = json_array();
    for (size_t i = 0; out != NULL && !m->failed && i < json_array_size(value); i++) {
        json_t *item = mark_value(m, json_array_get(value, i), names);
        if (item == NULL || json_array_append_new(out, item) != 0)
            m->failed = true;
    }
    m->failed = m->failed || out == NULL;
    return out;
}

static bool is_reasoning(const char *key)
{
    return strcmp(key, "reasoning_content") == 0 || strcmp(key, "reasoning") == 0 ||
           strcmp(key, "thinking") == 0;
}

/* A member's name is marked only for what it spells of special tokens: templates look members up.
 */
static void mark_member(struct marker *m, const char *key, json_t *value, bool names, json_t *out)
{
    struct text name = { 0 };
    const bool outer = m->reasoning;
    if (names && !put_string(m, key, strlen(key), true, &name))
        return;
    m->reasoning = outer || is_reasoning(key);
    json_t *item = mark_value(m, value, names);
    m->reasoning = outer;
    if (item == NULL ||
        json_object_set_new(out, names && name.len > 0 ? name.data : key, item) != 0)
        m->failed = true;
    text_free(&name);
}

static json_t *mark_object(struct marker *m, json_t *value, bool names)
{
    json_t *out = json_object();
    const char *key = NULL;
    json_t *item = NULL;
    json_object_foreach(value, key, item)
    {
        if (out != NULL && !m->failed)
            mark_member(m, key, item, names, out);
    }
    m->failed = m->failed || out == NULL;
    return out;
}

/* A copy with marks; NULL, with m->failed set, when memory is out. */
static json_t *mark_value(struct marker *m, json_t *value, bool names)
{
    json_t *out = NULL;
    if (json_is_string(value))
        out = mark_string(m, value);
    else if (json_is_array(value))
        out = mark_list(m, value, names);
    else if (json_is_object(value))
        out = mark_object(m, value, names);
    else
        return json_incref(value);
    if (!m->failed)
        return out;
    json_decref(out);
    return NULL;
}

/* What a template compares with names of its own stays as it is. */
static bool is_structure(const char *key)
{
    return strcmp(key, "role") == 0 || strcmp(key, "type") == 0;
}

static json_t *mark_message(struct marker *m, json_t *message)
{
    json_t *out = json_object();
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(message, key, value)
    {
        if (out == NULL || m->failed)
            continue;
        if (is_structure(key))
            m->failed = json_object_set(out, key, value) != 0;
        else
            mark_member(m, key, value, m->what != MARK_CONTENTS, out);
    }
    m->failed = m->failed || out == NULL;
    return out;
}

/* {"id", "type", "function": {"name", "arguments"}}: only the function is what is said. */
static json_t *mark_calls(struct marker *m, json_t *calls)
{
    json_t *out = json_array();
    for (size_t i = 0; out != NULL && !m->failed && i < json_array_size(calls); i++) {
        json_t *call = json_copy(json_array_get(calls, i));
        json_t *function = mark_value(m, json_object_get(call, "function"), false);
        if (function == NULL || json_object_set_new(call, "function", function) != 0 ||
            json_array_append(out, call) != 0)
            m->failed = true;
        json_decref(call);
    }
    m->failed = m->failed || out == NULL;
    return out;
}

/* Only members that hold what is said: others, such as ids, are for the template to compare. */
static json_t *mark_contents(struct marker *m, json_t *message)
{
    json_t *out = json_copy(message);
    const char *key = NULL;
    json_t *value = NULL;
    m->failed = m->failed || out == NULL;
    json_object_foreach(message, key, value)
    {
        json_t *marked = NULL;
        if (m->failed)
            break;
        if (strcmp(key, "tool_calls") == 0) {
            marked = mark_calls(m, value);
        } else if (strcmp(key, "content") == 0 || is_reasoning(key)) {
            m->reasoning = is_reasoning(key);
            marked = mark_value(m, value, false);
            m->reasoning = false;
        } else {
            continue;
        }
        if (m->failed || json_object_set_new(out, key, marked) != 0)
            m->failed = true;
    }
    return out;
}

static json_t *mark_messages(struct marker *m, const struct chat *chat)
{
    json_t *out = json_array();
    for (m->message = 0; out != NULL && !m->failed && m->message < chat->n_message; m->message++) {
        json_t *message = json_array_get(chat->messages, (size_t)m->message);
        json_t *marked =
            m->what == MARK_CONTENTS ? mark_contents(m, message) : mark_message(m, message);
        if (marked == NULL || json_array_append_new(out, marked) != 0)
            m->failed = true;
    }
    m->message = -1;
    m->failed = m->failed || out == NULL;
    return out;
}

/* ---- finding them again ---- */

static bool add_mark(struct chat_marks *out, const struct chat_mark *mark)
{
    if (out->n == out->cap) {
        const int64_t cap = out->cap + out->cap / 2 + 64;
        struct chat_mark *at = realloc(out->at, (size_t)cap * sizeof *at);
        if (at == NULL)
            return false;
        out->at = at;
        out->cap = cap;
    }
    out->at[out->n++] = *mark;
    return true;
}

/* Index of the mark at s within the plane, or -1. */
static int64_t mark_at(const struct marker *m, const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n < 4 || (u[0] & 0xF8) != 0xF0)
        return -1;
    const uint32_t c = (uint32_t)(u[0] & 7) << 18 | (uint32_t)(u[1] & 0x3F) << 12 |
                       (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3F);
    return c >= m->plane && c - m->plane < 2 * (uint64_t)m->n ? (int64_t)(c - m->plane) : -1;
}

/* A mark at byte `at` of the stripped text. */
static bool take_mark(const struct marker *m, int64_t index, size_t at, int64_t *open)
{
    struct chat_marks *out = m->out;
    const int64_t k = index / 2;
    const bool closes = index % 2 == 1;
    if (closes && open[k] >= 0) {
        out->at[open[k]].end = at;
        out->at[open[k]].whole = true;
        open[k] = -1;
        return true;
    }
    const struct chat_mark mark = { .message = m->pieces[k].message,
                                    .reasoning = m->pieces[k].reasoning,
                                    .again = m->pieces[k].seen,
                                    .begin = at,
                                    .end = at };
    if (!closes)
        open[k] = out->n;
    m->pieces[k].seen = true;
    return add_mark(out, &mark);
}

/* Takes the marks out of the text; whether what is left is the plain one. */
static bool strip(const struct marker *m, const struct jinja_output *marked,
                  const struct jinja_output *plain, bool *same)
{
    int64_t *open = calloc((size_t)m->n + 1, sizeof *open);
    if (open == NULL)
        return false;
    for (int64_t k = 0; k < m->n; k++)
        open[k] = -1;
    bool ok = true;
    size_t n = 0;
    *same = true;
    for (size_t i = 0; ok && *same && i < marked->n;) {
        const int64_t index = mark_at(m, marked->text + i, marked->n - i);
        if (index >= 0) {
            ok = take_mark(m, index, n, open);
            i += 4;
        } else {
            *same = n < plain->n && marked->text[i] == plain->text[n];
            n++;
            i++;
        }
    }
    *same = *same && n == plain->n;
    free(open);
    return ok;
}

/* A private-use plane that the text has no character of; 0: neither. */
static uint32_t free_plane(const struct jinja_output *plain)
{
    bool has_15 = false, has_16 = false;
    for (size_t i = 0; i + 1 < plain->n; i++) {
        const unsigned char *u = (const unsigned char *)plain->text + i;
        has_15 = has_15 || (u[0] == 0xF3 && u[1] >= 0xB0);
        has_16 = has_16 || u[0] == 0xF4;
    }
    if (!has_15)
        return PLANE_15;
    return has_16 ? 0 : PLANE_16;
}

static bool render_marked(struct marker *m, const struct chat_template *t,
                          const struct template_input *in, const struct jinja_output *plain,
                          struct err *err)
{
    struct jinja_output marked = { 0 };
    struct err problem = { 0 };
    bool ok = true;
    if (template_render(t, in, &marked, &problem))
        ok = strip(m, &marked, plain, &m->out->same) || err_no_memory(err, "a conversation");
    else if (problem.code == ERR_NO_MEMORY)
        ok = err_no_memory(err, "a conversation");
    jinja_output_free(&marked);
    return ok;
}

static json_t *mark_if_there(struct marker *m, json_t *value)
{
    return value != NULL ? mark_value(m, value, true) : NULL;
}

bool chat_marks_find(const struct chat_plain *plain, enum chat_mark_what what,
                     struct chat_marks *out, struct err *err)
{
    const struct chat *chat = plain->chat;
    const uint32_t plane = free_plane(plain->output);
    struct marker m = { .tokenizer = plain->tokenizer,
                        .what = what,
                        .plane = plane != 0 ? plane : PLANE_15,
                        .message = -1,
                        .out = out };
    const bool everywhere = what != MARK_CONTENTS;
    json_t *messages = mark_messages(&m, chat);
    json_t *tools = everywhere ? mark_if_there(&m, chat->tools) : json_incref(chat->tools);
    json_t *documents =
        everywhere ? mark_if_there(&m, chat->documents) : json_incref(chat->documents);
    json_t *variables =
        everywhere ? mark_if_there(&m, chat->variables) : json_incref(chat->variables);
    const struct template_input in = { .messages = messages,
                                       .tools = tools,
                                       .documents = documents,
                                       .variables = variables,
                                       .add_generation_prompt = plain->add_generation_prompt };
    bool ok = !m.failed || err_no_memory(err, "a conversation");
    if (ok && everywhere && out->n_special + out->n_part == 0)
        out->same = true;
    else if (ok && plane != 0 && m.n < MAX_PIECE)
        ok = render_marked(&m, plain->template, &in, plain->output, err);
    json_decref(messages);
    json_decref(tools);
    json_decref(documents);
    json_decref(variables);
    free(m.pieces);
    return ok;
}
