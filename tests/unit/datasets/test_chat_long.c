/* Conversations of many turns: the same mask as of short ones, without a rendering for each turn.
 */
#include "datasets/chat_render.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/text.h"
#include "tests/unit/datasets/scratch.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

enum { N_TURN = 120 };

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct scratch));
    return *state == NULL || scratch_open(*state) != 0 ? -1 : 0;
}

static int teardown(void **state)
{
    scratch_close(*state);
    free(*state);
    return 0;
}

/* Answers are taken in turn. Every text that carries loss, with the end of the turn, is put to
 * `expected`. */
static json_t *make_record(const char *const *answers, size_t n_answer, const char *end,
                           struct text *expected)
{
    json_t *messages = json_array();
    assert_non_null(messages);
    for (int t = 0; t < N_TURN; t++) {
        char question[64], answer[128];
        const char *text = answers[(size_t)t % n_answer];
        snprintf(question, sizeof question, "question %d", t);
        if (*text == '\0')
            answer[0] = '\0';
        else
            snprintf(answer, sizeof answer, "%s: %03d", text, t);
        json_t *asks = json_pack("{s:s, s:s}", "role", "user", "content", question);
        json_t *says = json_pack("{s:s, s:s}", "role", "assistant", "content", answer);
        assert_int_equal(json_array_append_new(messages, asks), 0);
        assert_int_equal(json_array_append_new(messages, says), 0);
        text_printf(expected, "[%s%s]", answer, end);
    }
    return json_pack("{s:o}", "messages", messages);
}

/* Renders it, and shows what carries loss. */
static enum chat_method show(struct scratch *scratch, const char *template, json_t *record,
                             const struct chat_options *how, struct text *shown)
{
    char path[700];
    struct err err = { 0 };
    struct chat chat = { 0 };
    struct chat_rendering r = { 0 };
    struct chat_options options = *how;
    snprintf(path, sizeof path, "%s", scratch_write_text(scratch, "t.jinja", template));
    struct chat_template *t = template_open(&(struct template_options){ .chosen = path }, &err);
    options.template = t;
    if (t == NULL || !chat_read(record, NULL, "x:1", &chat, &err) ||
        !chat_render(&chat, &options, "x:1", &r, &err))
        fail_msg("%s", err.text);
    for (int64_t s = 0; s < r.n_span; s++) {
        const struct chat_span span = r.spans[s];
        if (span.train)
            text_printf(shown, "[%.*s]", (int)(span.end - span.begin), r.text + span.begin);
    }
    const enum chat_method method = r.method;
    chat_rendering_free(&r);
    chat_free(&chat);
    template_free(t);
    return method;
}

#define EACH "{% for m in messages %}"
#define END "{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}assistant:{% endif %}"

static const char *const plain_answers[] = { "an answer", "<think>so</think>an answer", "another" };
static const char *const some_empty[] = { "an answer", "another", "" };

static void a_long_conversation_has_the_mask_of_short_ones(void **state)
{
    static const char template[] = EACH "{{ m.role }}:{{ m.content }};" END PROMPT;
    struct text expected = { 0 }, shown = { 0 };
    json_t *record = make_record(plain_answers, COUNT(plain_answers), ";", &expected);
    assert_int_equal(show(*state, template, record, &(struct chat_options){ 0 }, &shown),
                     CHAT_MARKS);
    assert_string_equal(shown.data, expected.data);
    text_free(&shown);
    /* The last turn alone needs no marks. */
    assert_int_equal(
        show(*state, template, record, &(struct chat_options){ .last_turn_only = true }, &shown),
        CHAT_PREFIXES);
    assert_string_equal(shown.data, strrchr(expected.data, '['));
    text_free(&shown);
    text_free(&expected);
    json_decref(record);
}

/* An answer of no text has no marks: its turn is found by prefixes. */
static void empty_answers_are_found_in_between(void **state)
{
    static const char template[] = EACH "{{ m.role }}:{{ m.content }};" END PROMPT;
    struct text expected = { 0 }, shown = { 0 };
    json_t *record = make_record(some_empty, COUNT(some_empty), ";", &expected);
    assert_int_equal(show(*state, template, record, &(struct chat_options){ 0 }, &shown),
                     CHAT_MARKS);
    assert_string_equal(shown.data, expected.data);
    text_free(&shown);
    text_free(&expected);
    json_decref(record);
}

/* Here the prompt of every other turn goes on where the marks see no more than another header: what
 * the prefixes say counts, of every turn. */
static void prefixes_overrule_marks_that_differ(void **state)
{
    static const char template[] =
        EACH "{{ m.role }}:{% if m.role == 'assistant' and loop.index0 % 4 == 3 %}So: {% endif %}"
             "{{ m.content }};" END
             "{% if add_generation_prompt %}assistant:{% if messages | length % 4 == 3 %}So: "
             "{% endif %}{% endif %}";
    struct text expected = { 0 }, shown = { 0 };
    json_t *record = make_record(plain_answers, 1, ";", &expected);
    assert_int_equal(show(*state, template, record, &(struct chat_options){ 0 }, &shown),
                     CHAT_PREFIXES);
    assert_string_equal(shown.data, expected.data);
    text_free(&shown);
    text_free(&expected);
    json_decref(record);
}

/* Where no prefix is rendered as it is in the whole, none can check. */
static void without_prefixes_marks_do(void **state)
{
    static const char template[] =
        "{{ messages | length }}" EACH "{{ m.role }}:{{ m.content }};" END PROMPT;
    struct text expected = { 0 }, shown = { 0 };
    json_t *record = make_record(plain_answers, COUNT(plain_answers), ";", &expected);
    assert_int_equal(show(*state, template, record, &(struct chat_options){ 0 }, &shown),
                     CHAT_MARKS);
    assert_string_equal(shown.data, expected.data);
    text_free(&shown);
    text_free(&expected);
    json_decref(record);
}

/* A template that measures its contents renders others with marks: prefixes have to do. */
static void without_marks_prefixes_do(void **state)
{
    static const char template[] = EACH "{{ m.role }} {{ m.content | length }}:{{ m.content }};" END
                                        "{% if add_generation_prompt %}assistant {% endif %}";
    struct text expected = { 0 }, shown = { 0 };
    json_t *record = make_record((const char *const[]){ "answer" }, 1, ";", &expected);
    text_clear(&expected);
    for (int t = 0; t < N_TURN; t++)
        text_printf(&expected, "[11:answer: %03d;]", t);
    assert_int_equal(show(*state, template, record, &(struct chat_options){ 0 }, &shown),
                     CHAT_PREFIXES);
    assert_string_equal(shown.data, expected.data);
    text_free(&shown);
    text_free(&expected);
    json_decref(record);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_conversation_has_the_mask_of_short_ones),
        cmocka_unit_test(empty_answers_are_found_in_between),
        cmocka_unit_test(prefixes_overrule_marks_that_differ),
        cmocka_unit_test(without_prefixes_marks_do),
        cmocka_unit_test(without_marks_prefixes_do),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
