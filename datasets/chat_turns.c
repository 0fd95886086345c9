#include "datasets/chat_turns.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

void chat_turns_free(struct chat_turns *turns)
{
    free(turns->at);
    *turns = (struct chat_turns){ 0 };
}

static bool add_turn(struct chat_turns *turns, int64_t message, size_t begin, size_t end,
                     struct err *err)
{
    if (turns->n == turns->cap) {
        const int64_t cap = turns->cap + turns->cap / 2 + 16;
        struct chat_turn *at = realloc(turns->at, (size_t)cap * sizeof *at);
        if (at == NULL)
            return err_no_memory(err, "a conversation");
        turns->at = at;
        turns->cap = cap;
    }
    turns->at[turns->n++] = (struct chat_turn){ message, begin, end };
    return true;
}

bool chat_turns_marks(const struct chat_plain *plain, struct chat_marks *marks, struct err *err)
{
    if (marks->tried)
        return true;
    marks->tried = true;
    return chat_marks_find(plain, MARK_CONTENTS, marks, err);
}

static bool is_assistant(const struct chat *chat, int64_t i)
{
    return chat_role(chat, i) == CHAT_ASSISTANT;
}

/* The outcome of one way: found, not found (and `why` says so), or memory is out. */
enum way { WAY_FOUND, WAY_CLOSED, WAY_FAILED };

/* ---- {% generation %} ---- */

static enum way all_generations(const struct jinja_output *text, struct chat_turns *out,
                                struct err *err)
{
    for (size_t k = 0; k < text->n_generation; k++) {
        if (!add_turn(out, -1, text->generation[k].start, text->generation[k].end, err))
            return WAY_FAILED;
    }
    return WAY_FOUND;
}

/* The message whose contents lie in the range, or -1. */
static int64_t message_inside(const struct chat *chat, const struct chat_marks *marks,
                              const struct jinja_range *range)
{
    for (int64_t k = 0; k < marks->n; k++) {
        const struct chat_mark *mark = &marks->at[k];
        if (mark->begin >= range->start && mark->end <= range->end && mark->message >= 0 &&
            is_assistant(chat, mark->message))
            return mark->message;
    }
    return -1;
}

/* Each range with its message: one each, or by the contents inside. */
static enum way by_generation(const struct chat_plain *plain, const bool *wanted,
                              struct chat_marks *marks, struct chat_turns *out, struct text *why,
                              struct err *err)
{
    const struct jinja_output *text = plain->output;
    const struct chat *chat = plain->chat;
    int64_t n_assistant = 0, n_wanted = 0;
    for (int64_t i = 0; i < chat->n_message; i++) {
        n_assistant += is_assistant(chat, i);
        n_wanted += wanted[i];
    }
    if (n_wanted == n_assistant)
        return all_generations(text, out, err);
    const bool one_each = (int64_t)text->n_generation == n_assistant;
    if (!one_each && !chat_turns_marks(plain, marks, err))
        return WAY_FAILED;
    int64_t message = -1;
    for (size_t k = 0; k < text->n_generation; k++) {
        const struct jinja_range *range = &text->generation[k];
        do {
            message++;
        } while (one_each && !is_assistant(chat, message));
        if (!one_each)
            message = marks->same ? message_inside(chat, marks, range) : -1;
        if (message < 0) {
            text_puts(why, "which message each of the template's {% generation %} parts belongs to "
                           "cannot be told");
            return WAY_CLOSED;
        }
        if (wanted[message] && !add_turn(out, message, range->start, range->end, err))
            return WAY_FAILED;
    }
    return WAY_FOUND;
}

/* ---- growing prefixes ---- */

/* Bytes of the rendering of the first n messages when the text begins with it. */
static enum way prefix_length(const struct chat_plain *plain, int64_t n, bool prompt,
                              size_t *length, struct text *why, struct err *err)
{
    json_t *messages = json_array();
    bool ok = messages != NULL;
    for (int64_t i = 0; ok && i < n; i++)
        ok = json_array_append(messages, json_array_get(plain->chat->messages, (size_t)i)) == 0;
    struct jinja_output out = { 0 };
    struct err problem = { 0 };
    const struct template_input in = { .messages = messages,
                                       .tools = plain->chat->tools,
                                       .documents = plain->chat->documents,
                                       .variables = plain->chat->variables,
                                       .add_generation_prompt = prompt };
    const bool rendered = ok && template_render(plain->template, &in, &out, &problem);
    json_decref(messages);
    enum way way = WAY_CLOSED;
    if (!ok || problem.code == ERR_NO_MEMORY) {
        err_no_memory(err, "a conversation");
        way = WAY_FAILED;
    } else if (rendered && out.n <= plain->output->n &&
               memcmp(out.text, plain->output->text, out.n) == 0) {
        *length = out.n;
        way = WAY_FOUND;
    } else {
        text_printf(why,
                    rendered ? "the first %" PRId64 " messages are rendered otherwise when others "
                               "follow"
                             : "the first %" PRId64 " messages alone are not rendered",
                    n);
    }
    jinja_output_free(&out);
    return way;
}

/* What the template puts behind a turn that the assistant does not write: white space at the end of
 * its closing. */
static size_t without_tail(const struct chat_plain *plain, size_t begin, size_t end)
{
    const struct template_frame *frame =
        template_frame(plain->template, plain->chat->tools != NULL);
    const size_t n = strlen(frame->closing);
    if (end - begin >= n && memcmp(plain->output->text + end - n, frame->closing, n) == 0)
        return end - (n - frame->n_closing);
    return end;
}

static enum way by_prefixes(const struct chat_plain *plain, int64_t i, struct chat_turns *out,
                            struct text *why, struct err *err)
{
    size_t begin = 0, end = plain->output->n;
    enum way way = prefix_length(plain, i, true, &begin, why, err);
    if (way == WAY_FOUND && i + 1 < plain->chat->n_message)
        way = prefix_length(plain, i + 1, false, &end, why, err);
    if (way == WAY_FOUND && end < begin) {
        text_printf(why, "messages[%" PRId64 "] is shorter than its prompt", i);
        way = WAY_CLOSED;
    }
    if (way == WAY_FOUND && !add_turn(out, i, begin, without_tail(plain, begin, end), err))
        way = WAY_FAILED;
    return way;
}

/* ---- marks ---- */

/* First or last occurrence of word[0..n) in text[begin, end); SIZE_MAX: none. */
static size_t find_word(const char *text, size_t begin, size_t end, const char *word, size_t n,
                        bool last)
{
    size_t found = SIZE_MAX;
    for (size_t i = begin; i + n <= end; i++) {
        if (memcmp(text + i, word, n) != 0)
            continue;
        found = i;
        if (!last)
            break;
    }
    return found;
}

/* Where a message's contents stand, and how far its frame may reach on both sides. */
struct extent {
    size_t low, begin, end, high;
};

/* False when it has none in the text, or another's lie between. Of what stands there twice (a
 * call's name beside its result) the first counts. */
static bool find_extent(const struct chat_plain *plain, const struct chat_marks *marks, int64_t i,
                        struct extent *x)
{
    int64_t first = -1, last = -1;
    *x = (struct extent){ .high = plain->output->n };
    for (int64_t k = 0; k < marks->n; k++) {
        const struct chat_mark *mark = &marks->at[k];
        if (mark->again)
            continue;
        if (mark->message == i) {
            if (last >= 0 && last != k - 1)
                return false;
            first = first < 0 ? k : first;
            last = k;
            x->begin = first == k ? mark->begin : x->begin;
            x->end = mark->end;
        } else if (first < 0) {
            x->low = mark->end;
        } else if (x->high == plain->output->n) {
            x->high = mark->begin;
        }
    }
    return first >= 0 && x->low <= x->begin && x->end <= x->high;
}

/* Moves *begin to the end of the last header in front of the contents. */
static bool behind_header(const char *text, const struct extent *x, const char *header,
                          size_t *begin)
{
    const size_t n = strlen(header);
    const size_t at = find_word(text, x->low, x->begin, header, n, true);
    if (n > 0 && at == SIZE_MAX)
        return false;
    *begin = n > 0 ? at + n : x->begin;
    return true;
}

/* Widens the contents to the turn: from behind the header in front of them to the end of the
 * closing behind them. */
static bool frame_extent(const struct chat_plain *plain, const struct extent *x, size_t *begin,
                         size_t *end)
{
    const char *text = plain->output->text;
    const struct template_frame *frame =
        template_frame(plain->template, plain->chat->tools != NULL);
    const size_t n_ending = strlen(frame->ending);
    *begin = x->begin;
    *end = x->end;
    if (!behind_header(text, x, frame->header, begin) &&
        !behind_header(text, x, frame->past_header, begin))
        return false;
    if (frame->n_closing > 0) {
        const size_t at = find_word(text, x->end, x->high, frame->closing, frame->n_closing, false);
        if (at == SIZE_MAX)
            return false;
        *end = at + frame->n_closing;
    } else if (n_ending > 0 && x->high == plain->output->n && x->high - x->end >= n_ending &&
               memcmp(text + x->high - n_ending, frame->ending, n_ending) == 0) {
        *end = x->high;
    }
    return true;
}

static enum way by_marks(const struct chat_plain *plain, int64_t i, struct chat_marks *marks,
                         struct chat_turns *out, struct text *why, struct err *err)
{
    struct extent x = { 0 };
    size_t begin = 0, end = 0;
    if (!chat_turns_marks(plain, marks, err))
        return WAY_FAILED;
    if (!marks->same)
        text_puts(why, "with marks around its contents the template renders something else");
    else if (!find_extent(plain, marks, i, &x))
        text_printf(why, "messages[%" PRId64 "] has no place of its own in the text", i);
    else if (!frame_extent(plain, &x, &begin, &end))
        text_printf(why, "messages[%" PRId64 "] is not framed as other answers are", i);
    else
        return add_turn(out, i, begin, end, err) ? WAY_FOUND : WAY_FAILED;
    return WAY_CLOSED;
}

/* ---- one after the other ---- */

static enum way one_by_one(const struct chat_plain *plain, const bool *wanted,
                           struct chat_marks *marks, struct chat_turns *out, struct text *why,
                           struct err *err)
{
    out->method = CHAT_PREFIXES;
    for (int64_t i = 0; i < plain->chat->n_message; i++) {
        if (!wanted[i])
            continue;
        text_clear(why);
        enum way way = by_prefixes(plain, i, out, why, err);
        if (way == WAY_CLOSED) {
            out->method = CHAT_MARKS;
            text_puts(why, ", and ");
            way = by_marks(plain, i, marks, out, why, err);
        }
        if (way != WAY_FOUND)
            return way;
    }
    return WAY_FOUND;
}

/* ---- many turns ----
 *
 * Growing prefixes take time by the square of a conversation's length. In a long one the marks, of
 * one rendering, say where the turns are, and prefixes only check them: some of every kind of turn.
 * Where they disagree the long way is gone after all. */

enum { MANY_TURNS = 32, CHECKED_OF_A_KIND = 3, CHECKED_OF_ALL = 12, N_KIND = 256 };

static bool has_text(const json_t *message, const char *key)
{
    return json_string_length(json_object_get(message, key)) > 0;
}

/* What a template may frame an answer by. */
static unsigned kind_of(const struct chat *chat, int64_t i)
{
    const json_t *message = json_array_get(chat->messages, (size_t)i);
    const char *content = json_string_value(json_object_get(message, "content"));
    const bool reasons = has_text(message, "reasoning_content") || has_text(message, "reasoning") ||
                         has_text(message, "thinking");
    const bool tagged = content != NULL && strstr(content, "think>") != NULL;
    const unsigned before = i > 0 ? (unsigned)chat_role(chat, i - 1) : 0;
    const unsigned after = i + 1 < chat->n_message ? (unsigned)chat_role(chat, i + 1) : 0;
    return before | after << 2 | (unsigned)has_text(message, "content") << 4 |
           (unsigned)(json_object_get(message, "tool_calls") != NULL) << 5 |
           (unsigned)reasons << 6 | (unsigned)tagged << 7;
}

/* checked[i]: the first and the last turns of each kind, and some in between. */
static void choose_checked(const struct chat *chat, const bool *wanted, int64_t n_wanted,
                           bool *checked)
{
    int64_t from_front[N_KIND] = { 0 }, from_back[N_KIND] = { 0 }, k = 0;
    for (int64_t i = 0; i < chat->n_message; i++) {
        const int64_t back = chat->n_message - 1 - i;
        if (wanted[i] && (from_front[kind_of(chat, i)]++ < CHECKED_OF_A_KIND ||
                          k % (n_wanted / CHECKED_OF_ALL + 1) == 0))
            checked[i] = true;
        k += wanted[i];
        if (wanted[back] && from_back[kind_of(chat, back)]++ < CHECKED_OF_A_KIND)
            checked[back] = true;
    }
}

/* Whether the turn just found is that of the prefixes, where these are a way to find it. */
static enum way check_turn(const struct chat_plain *plain, int64_t i, struct chat_turns *out,
                           struct text *why, struct err *err)
{
    const struct chat_turn found = out->at[out->n - 1];
    const enum way way = by_prefixes(plain, i, out, why, err);
    if (way != WAY_FOUND)
        return way == WAY_CLOSED ? WAY_FOUND : way;
    const struct chat_turn other = out->at[--out->n];
    return found.begin == other.begin && found.end == other.end ? WAY_FOUND : WAY_CLOSED;
}

static enum way by_checked_marks(const struct chat_plain *plain, const bool *wanted,
                                 const bool *checked, struct chat_marks *marks,
                                 struct chat_turns *out, struct text *why, struct err *err)
{
    out->method = CHAT_MARKS;
    for (int64_t i = 0; i < plain->chat->n_message; i++) {
        if (!wanted[i])
            continue;
        enum way way = by_marks(plain, i, marks, out, why, err);
        if (way == WAY_FOUND && checked[i])
            way = check_turn(plain, i, out, why, err);
        else if (way == WAY_CLOSED && marks->same)
            way = by_prefixes(plain, i, out, why, err);
        if (way != WAY_FOUND)
            return way;
    }
    return WAY_FOUND;
}

static enum way many(const struct chat_plain *plain, const bool *wanted, int64_t n_wanted,
                     struct chat_marks *marks, struct chat_turns *out, struct text *why,
                     struct err *err)
{
    bool *checked = calloc((size_t)plain->chat->n_message, sizeof *checked);
    if (checked == NULL) {
        err_no_memory(err, "a conversation");
        return WAY_FAILED;
    }
    choose_checked(plain->chat, wanted, n_wanted, checked);
    const enum way way = by_checked_marks(plain, wanted, checked, marks, out, why, err);
    free(checked);
    return way;
}

/* ---- all of them ---- */

static enum way find(const struct chat_plain *plain, const bool *wanted, struct chat_marks *marks,
                     struct chat_turns *out, struct text *why, struct err *err)
{
    const bool has_tools = plain->chat->tools != NULL;
    if (template_marks_generation(plain->template, has_tools) && !plain->output->generation_lost) {
        out->method = CHAT_GENERATION;
        return by_generation(plain, wanted, marks, out, why, err);
    }
    int64_t n_wanted = 0;
    for (int64_t i = 0; i < plain->chat->n_message; i++)
        n_wanted += wanted[i];
    if (n_wanted > MANY_TURNS) {
        const enum way way = many(plain, wanted, n_wanted, marks, out, why, err);
        if (way != WAY_CLOSED)
            return way;
        out->n = 0;
    }
    return one_by_one(plain, wanted, marks, out, why, err);
}

bool chat_turns_find(const struct chat_plain *plain, const bool *wanted, const char *place,
                     struct chat_marks *marks, struct chat_turns *out, struct err *err)
{
    struct text why = { 0 };
    const enum way way = find(plain, wanted, marks, out, &why, err);
    if (way == WAY_CLOSED && why.failed)
        err_no_memory(err, "a conversation");
    else if (way == WAY_CLOSED)
        err_set(
            err, ERR_DATA,
            "%s: what of the text the assistant writes cannot be found: %s; use a chat template "
            "with {%% generation %%}, or leave the record out",
            place, why.data);
    text_free(&why);
    return way == WAY_FOUND;
}
