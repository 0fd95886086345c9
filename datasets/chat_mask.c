#include "datasets/chat_mask.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/chat_turns.h"

/* One conversation's mask in the making. */
struct mask {
    const struct chat_plain *plain;
    const struct chat_options *options;
    const char *place;
    struct chat_marks marks;
    struct chat_turns turns;
    enum chat_method method;     /* by which turns were found */
    struct range_list kept, cut; /* what carries loss, and what of it does not after all */
    bool *wanted;                /* (n_message) */
    struct err *err;
};

static bool no_memory(const struct mask *m)
{
    return err_no_memory(m->err, "a conversation");
}

/* ---- which messages ---- */

/* The first message of the last question that has an answer; 0 when there is none. */
static int64_t last_turn(const struct chat *chat)
{
    int64_t i = chat->n_message - 1;
    while (i >= 0 && chat_role(chat, i) != CHAT_ASSISTANT)
        i--;
    while (i > 0 && chat_role(chat, i) != CHAT_USER)
        i--;
    return i > 0 ? i : 0;
}

/* wanted[i]: the assistant's messages that carry loss, or that must not. Returns their number. */
static int64_t choose(struct mask *m, bool trained)
{
    const struct chat *chat = m->plain->chat;
    const int64_t from =
        m->options->last_turn_only && !m->options->train_on_inputs ? last_turn(chat) : 0;
    int64_t n = 0;
    for (int64_t i = 0; i < chat->n_message; i++) {
        m->wanted[i] =
            i >= from && chat_role(chat, i) == CHAT_ASSISTANT && chat->trained[i] == trained;
        n += m->wanted[i];
    }
    return n;
}

static bool find_turns(struct mask *m)
{
    chat_turns_free(&m->turns);
    if (!chat_turns_find(m->plain, m->wanted, m->place, &m->marks, &m->turns, m->err))
        return false;
    if (m->turns.n > 0)
        m->method = m->turns.method;
    return true;
}

static bool add_turns(struct mask *m, struct range_list *out)
{
    for (int64_t k = 0; k < m->turns.n; k++) {
        if (!range_list_add(out, m->turns.at[k].begin, m->turns.at[k].end))
            return no_memory(m);
    }
    return true;
}

/* ---- reasoning ---- */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The length of a tag of reasoning at the start, or with `back` at the end, of s[0..n): "<think>",
 * "</reasoning>", "[/THINK]"; 0: there is none. */
static size_t tag_length(const char *s, size_t n, bool back)
{
    enum { LONGEST = 32 };
    const char first = n == 0 ? ' ' : back ? s[n - 1] : s[0];
    const char *const pairs = back ? "><][" : "<>[]";
    const char *pair = first != '\0' ? strchr(pairs, first) : NULL;
    if (pair == NULL || (pair - pairs) % 2 != 0)
        return 0;
    for (size_t k = 1; k < n && k < LONGEST; k++) {
        const char c = back ? s[n - 1 - k] : s[k];
        if (is_space(c))
            return 0;
        if (c != pair[1])
            continue;
        char tag[LONGEST + 1];
        memcpy(tag, back ? s + n - 1 - k : s, k + 1);
        tag[k + 1] = '\0';
        const bool reasons = strstr(tag, "hink") != NULL || strstr(tag, "HINK") != NULL ||
                             strstr(tag, "eason") != NULL;
        return reasons ? k + 1 : 0;
    }
    return 0;
}

/* Reasoning with the tags around it, and the white space up to the answer. */
static bool cut_reasoning(struct mask *m, size_t begin, size_t end)
{
    const char *text = m->plain->output->text;
    const size_t n = m->plain->output->n;
    size_t low = begin, high = end;
    while (low > 0 && is_space(text[low - 1]))
        low--;
    const size_t n_open = tag_length(text, low, true);
    begin = n_open > 0 ? low - n_open : begin;
    while (high < n && is_space(text[high]))
        high++;
    const size_t n_close = tag_length(text + high, n - high, false);
    if (n_close > 0) {
        end = high + n_close;
        while (end < n && is_space(text[end]))
            end++;
    }
    return range_list_add(&m->cut, begin, end) || no_memory(m);
}

/* "<think>...</think>" spelled out in a turn, the first tag maybe in the prompt before it. */
static bool cut_tagged(struct mask *m, const struct chat_turn *turn)
{
    static const char open[] = "<think>", close[] = "</think>";
    const char *text = m->plain->output->text;
    size_t before = turn->begin;
    while (before > 0 && is_space(text[before - 1]))
        before--;
    const size_t n_open = sizeof open - 1, n_close = sizeof close - 1;
    bool inside = before >= n_open && memcmp(text + before - n_open, open, n_open) == 0;
    size_t from = turn->begin;
    for (size_t i = turn->begin; i < turn->end; i++) {
        if (turn->end - i >= n_open && memcmp(text + i, open, n_open) == 0) {
            inside = true;
            from = i + n_open;
        } else if (inside && turn->end - i >= n_close && memcmp(text + i, close, n_close) == 0) {
            inside = false;
            if (!cut_reasoning(m, from, i))
                return false;
        }
    }
    return true;
}

static bool has_reasoning(const struct chat *chat)
{
    static const char *const keys[] = { "reasoning_content", "reasoning", "thinking" };
    for (size_t i = 0; i < json_array_size(chat->messages); i++) {
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            const json_t *message = json_array_get(chat->messages, i);
            if (json_string_length(json_object_get(message, keys[k])) > 0)
                return true;
        }
    }
    return false;
}

static bool cut_all_reasoning(struct mask *m)
{
    if (!m->options->mask_reasoning)
        return true;
    if (has_reasoning(m->plain->chat)) {
        if (!chat_turns_marks(m->plain, &m->marks, m->err))
            return false;
        if (!m->marks.same)
            return err_set(m->err, ERR_DATA,
                           "%s: where its reasoning stands in the text cannot be found: with marks "
                           "around its contents the template renders something else; use "
                           "train_on_reasoning: true, or leave the record out",
                           m->place);
        for (int64_t k = 0; k < m->marks.n; k++) {
            const struct chat_mark *mark = &m->marks.at[k];
            if (mark->reasoning && mark->whole && !cut_reasoning(m, mark->begin, mark->end))
                return false;
        }
    }
    for (int64_t k = 0; k < m->turns.n; k++) {
        if (!cut_tagged(m, &m->turns.at[k]))
            return false;
    }
    return true;
}

/* ---- the two ways ---- */

static bool mask_answers(struct mask *m)
{
    return choose(m, true) == 0 || (find_turns(m) && add_turns(m, &m->kept));
}

/* Contents of the others' messages with "train": false. */
static bool cut_others(struct mask *m)
{
    const struct chat *chat = m->plain->chat;
    bool any = false;
    for (int64_t i = 0; i < chat->n_message; i++)
        any = any || (!chat->trained[i] && chat_role(chat, i) != CHAT_ASSISTANT);
    if (!any)
        return true;
    if (!chat_turns_marks(m->plain, &m->marks, m->err))
        return false;
    if (!m->marks.same)
        return err_set(
            m->err, ERR_DATA,
            "%s: where the messages without loss stand in the text cannot be found: with "
            "marks around its contents the template renders something else; leave the "
            "record out",
            m->place);
    for (int64_t k = 0; k < m->marks.n; k++) {
        const struct chat_mark *mark = &m->marks.at[k];
        if (mark->message >= 0 && !chat->trained[mark->message] &&
            !range_list_add(&m->cut, mark->begin, mark->end))
            return no_memory(m);
    }
    return true;
}

static bool mask_everything(struct mask *m)
{
    if (!range_list_add(&m->kept, 0, m->plain->output->n))
        return no_memory(m);
    if (choose(m, false) > 0 && (!find_turns(m) || !add_turns(m, &m->cut)))
        return false;
    if (!cut_others(m))
        return false;
    chat_turns_free(&m->turns);
    return !m->options->mask_reasoning || choose(m, true) == 0 || find_turns(m);
}

/* kept without cut. */
static bool subtract(struct mask *m, struct range_list *out)
{
    range_list_merge(&m->kept);
    range_list_merge(&m->cut);
    size_t c = 0;
    for (size_t k = 0; k < m->kept.n; k++) {
        size_t from = m->kept.at[k].begin;
        const size_t end = m->kept.at[k].end;
        while (c > 0 && m->cut.at[c - 1].end > from)
            c--;
        for (; c < m->cut.n && m->cut.at[c].begin < end; c++) {
            const struct byte_range cut = m->cut.at[c];
            if (cut.begin > from && !range_list_add(out, from, cut.begin))
                return no_memory(m);
            from = cut.end > from ? cut.end : from;
        }
        if (from < end && !range_list_add(out, from, end))
            return no_memory(m);
    }
    range_list_merge(out); /* a cut may be empty */
    return true;
}

bool chat_mask_find(const struct chat_plain *plain, const struct chat_options *options,
                    const char *place, struct range_list *out, enum chat_method *method,
                    struct err *err)
{
    *method = CHAT_NONE;
    if (options->add_generation_prompt)
        return true;
    struct mask m = { .plain = plain, .options = options, .place = place, .err = err };
    m.wanted = calloc((size_t)plain->chat->n_message + 1, sizeof *m.wanted);
    bool ok = m.wanted != NULL || no_memory(&m);
    ok = ok && (options->train_on_inputs ? mask_everything(&m) : mask_answers(&m)) &&
         cut_all_reasoning(&m) && subtract(&m, out);
    *method = m.method;
    chat_marks_free(&m.marks);
    chat_turns_free(&m.turns);
    range_list_free(&m.kept);
    range_list_free(&m.cut);
    free(m.wanted);
    return ok;
}
