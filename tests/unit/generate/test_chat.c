/* Conversations with a tiny random model: what is carried from answer to answer, where an answer
 * ends, and answers as messages. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/chat_render.h"
#include "finetune/generate/chat.h"
#include "tests/support/tiny_checkpoint.h"

static const char tokenizer_dir[] = "tests/fixtures/tokenizers/jamba";

struct fixture {
    char *folder;
    struct engine engine;
    struct tokenizer *tokenizer;
    struct chat_template *template;
    struct end_tokens end;
};

static void require(bool ok, const struct err *err)
{
    if (!ok)
        fail_msg("%s", err->text);
}

/* A template whose answers end in `closing`. */
static void choose_template(struct fixture *f, const char *closing)
{
    struct err err = { 0 };
    char *text = text_format("{%% for m in messages %%}<{{ m.role }}>{{ m.content }}"
                             "{{ '%s' if m.role == 'assistant' else '|' }}{%% endfor %%}"
                             "{%% if add_generation_prompt %%}<assistant>{%% endif %%}",
                             closing);
    char *path = text_format("%s/template.jinja", f->folder);
    assert_true(text != NULL && path != NULL);
    tiny_file_write(f->folder, "template.jinja", text, strlen(text));
    template_free(f->template);
    f->template = template_open(&(struct template_options){ .chosen = path }, &err);
    require(f->template != NULL, &err);
    free(text);
    free(path);
}

static int open_fixture(void **state)
{
    static struct fixture f;
    struct err err = { 0 };
    f = (struct fixture){ .folder = tiny_scratch_make() };
    f.tokenizer = tokenizer_open(tokenizer_dir, &err);
    require(f.tokenizer != NULL, &err);
    struct jamba_config config = tiny_config();
    config.vocab_size = tokenizer_vocab_size(f.tokenizer);
    tiny_config_derive(&config);
    tiny_checkpoint_write(f.folder, &config, &(struct tiny_options){ .n_shard = 1 });
    const struct engine_options options = { .base_model = f.folder,
                                            .compute = { .device = COMPUTE_CPU, .threads = 1 } };
    require(engine_open(&f.engine, &options, &err), &err);
    require(engine_allocate_generation(&f.engine, 4, NULL, &err), &err);
    *state = &f;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;
    engine_close(&f->engine);
    template_free(f->template);
    tokenizer_free(f->tokenizer);
    tiny_scratch_remove(f->folder);
    return 0;
}

/* ---- sessions ---- */

static struct chat conversation(const char *messages)
{
    struct err err = { 0 };
    struct chat chat = { 0 };
    char *record = text_format("{\"messages\": %s}", messages);
    json_t *json = json_loads(record, 0, NULL);
    assert_non_null(json);
    require(chat_read(json, NULL, "talk", &chat, &err), &err);
    json_decref(json);
    free(record);
    return chat;
}

static bool collect(void *context, const char *bytes, size_t n, struct err *err)
{
    struct text *sink = context;
    (void)err;
    text_append(sink, bytes, n);
    return true;
}

static struct chat_setup setup_of(struct fixture *f, struct text *sink)
{
    return (struct chat_setup){ .engine = &f->engine,
                                .tokenizer = f->tokenizer,
                                .template = f->template,
                                .end = &f->end,
                                .sampling = { .greedy = true },
                                .max_new_tokens = 30,
                                .emit = collect,
                                .context = sink };
}

static void answer(struct chat_session *s, const char *messages, struct text *out)
{
    struct err err = { 0 };
    struct chat chat = conversation(messages);
    require(chat_session_answer(s, &chat, "talk", out, &err), &err);
    chat_free(&chat);
}

/* Of a session of its own, which also shows what it emits. */
static void answer_alone(struct fixture *f, const char *messages, struct text *out)
{
    struct chat_session s = { 0 };
    struct text sink = { 0 };
    const struct chat_setup setup = setup_of(f, &sink);
    chat_session_open(&s, &setup);
    answer(&s, messages, out);
    assert_int_equal(s.n_kept, 0);
    assert_int_equal(sink.len, out->len);
    assert_true(out->len == 0 || memcmp(sink.data, out->data, out->len) == 0);
    text_free(&sink);
    chat_session_close(&s);
}

/* The token that a greedy answer begins with, and the tokens of the prompt. */
static int32_t first_token(struct fixture *f, const char *messages, int64_t *n_prompt)
{
    struct err err = { 0 };
    struct chat chat = conversation(messages);
    struct chat_rendering r = { 0 };
    const struct chat_options options = { .template = f->template,
                                          .tokenizer = f->tokenizer,
                                          .add_generation_prompt = true };
    const int64_t vocab = f->engine.jamba.config->vocab_size;
    real *logits = test_zeros(vocab);
    struct jamba_state *state = jamba_state_new(&f->engine.jamba, &err);
    require(state != NULL && chat_render(&chat, &options, "talk", &r, &err), &err);
    require(jamba_feed(&f->engine.jamba, state, r.tokens.ids, r.tokens.n, logits, &err), &err);
    int32_t best = 0;
    for (int32_t id = 1; id < vocab; id++)
        best = logits[id] > logits[best] ? id : best;
    *n_prompt = r.tokens.n;
    jamba_state_free(state);
    test_release(logits);
    chat_rendering_free(&r);
    chat_free(&chat);
    return best;
}

#define ONE "[{\"role\": \"user\", \"content\": \"Hello\"}]"
#define THREE                                                                                      \
    "[{\"role\": \"user\", \"content\": \"Hello\"}, {\"role\": \"assistant\", \"content\": "       \
    "\"\"}, {\"role\": \"user\", \"content\": \"And you\"}]"
#define OTHER "[{\"role\": \"user\", \"content\": \"Bye\"}]"

static void only_what_is_new_is_fed(void **state)
{
    struct fixture *f = *state;
    choose_template(f, "=");
    struct text first = { 0 }, carried = { 0 }, alone = { 0 }, sink = { 0 };
    struct chat_session s = { 0 };
    struct chat_setup setup = setup_of(f, &sink);
    int64_t n_one = 0, n_three = 0;
    /* The first answer ends at once, so that what is fed is the same tokens with and without. */
    const struct end_tokens at_once = { .id = { first_token(f, ONE, &n_one) }, .n = 1 };
    first_token(f, THREE, &n_three);
    setup.end = &at_once;
    chat_session_open(&s, &setup);
    answer(&s, ONE, &first);
    assert_int_equal(first.len, 0);
    assert_int_equal(s.n_fed, n_one);
    s.setup.end = &f->end;
    answer(&s, THREE, &carried);
    assert_int_equal(s.n_kept, n_one);
    assert_int_equal(s.n_kept + s.n_fed, n_three);
    answer_alone(f, THREE, &alone);
    assert_true(alone.len > 0);
    assert_string_equal(carried.data, alone.data);
    /* Another conversation begins anew. */
    answer(&s, OTHER, &carried);
    assert_int_equal(s.n_kept, 0);
    answer_alone(f, OTHER, &alone);
    assert_string_equal(carried.data, alone.data);
    /* And so does the same one, where all of it was read. */
    answer(&s, OTHER, &carried);
    assert_int_equal(s.n_kept, 0);
    assert_string_equal(carried.data, alone.data);
    chat_session_close(&s);
    text_free(&first);
    text_free(&carried);
    text_free(&alone);
    text_free(&sink);
}

static void an_answer_that_was_cut_goes_on_being_read(void **state)
{
    struct fixture *f = *state;
    choose_template(f, "=");
    struct text text = { 0 }, sink = { 0 };
    struct chat_session s = { 0 };
    struct chat_setup setup = setup_of(f, &sink);
    int64_t n_carried = 0;
    for (int64_t most = 1; most <= 20; most++) {
        struct err err = { 0 };
        setup.max_new_tokens = most; /* its last token is not fed before the next question */
        chat_session_open(&s, &setup);
        answer(&s, ONE, &text);
        json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user",
                                     "content", "Hello", "role", "assistant", "content", text.data,
                                     "role", "user", "content", "And you");
        json_t *record = json_pack("{s:o}", "messages", messages);
        struct chat chat = { 0 };
        require(chat_read(record, NULL, "talk", &chat, &err), &err);
        const int64_t n_before = s.n_fed;
        require(chat_session_answer(&s, &chat, "talk", &text, &err), &err);
        n_carried += s.n_kept >= n_before;
        assert_true(s.n_fed > 0);
        chat_free(&chat);
        json_decref(record);
        chat_session_close(&s);
    }
    assert_true(n_carried >= 15); /* the others end inside a token of the rendering */
    text_free(&text);
    text_free(&sink);
}

static void an_answer_ends_before_the_templates_closing(void **state)
{
    struct fixture *f = *state;
    struct text whole = { 0 }, cut = { 0 };
    choose_template(f, "=");
    answer_alone(f, ONE, &whole);
    int n_case = 0;
    for (size_t i = 0; i + 3 <= whole.len; i++) {
        char closing[4] = { 0 };
        memcpy(closing, whole.data + i, 3);
        if (strspn(closing, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != 3)
            continue;
        choose_template(f, closing);
        answer_alone(f, ONE, &cut);
        const size_t n = (size_t)(strstr(whole.data, closing) - whole.data);
        assert_int_equal(cut.len, n);
        assert_memory_equal(cut.data, whole.data, n);
        n_case++;
    }
    assert_true(n_case >= 5);
    text_free(&whole);
    text_free(&cut);
}

static void what_the_template_refuses_is_told_with_its_place(void **state)
{
    struct fixture *f = *state;
    struct err err = { 0 };
    struct chat_session s = { 0 };
    struct text out = { 0 };
    struct chat chat = conversation(ONE);
    tiny_file_write(f->folder, "empty.jinja", "{# #}", 5);
    char *path = text_format("%s/empty.jinja", f->folder);
    struct chat_template *t = template_open(&(struct template_options){ .chosen = path }, &err);
    require(t != NULL, &err);
    struct chat_setup setup = setup_of(f, NULL);
    setup.template = t;
    setup.emit = NULL;
    chat_session_open(&s, &setup);
    assert_false(chat_session_answer(&s, &chat, "talk.jsonl:3", &out, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_string_equal(err.text,
                        "talk.jsonl:3: the chat template makes an empty text of it; expected one "
                        "for the model to go on from");
    chat_session_close(&s);
    template_free(t);
    chat_free(&chat);
    text_free(&out);
    free(path);
}

/* ---- messages ---- */

#define CALL(name, arguments)                                                                      \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":" arguments "}}"
#define CONTENT(text) "{\"role\":\"assistant\",\"content\":\"" text "\""

static void answers_as_messages(void **state)
{
    (void)state;
    static const struct {
        const char *answer, *message;
    } cases[] = {
        { "", CONTENT("") "}" },
        { " Yo\n", CONTENT("Yo\\n") "}" },
        { "<think>\nWell.\n</think>\n\nYes.", CONTENT("Yes.") ",\"reasoning_content\":\"Well.\"}" },
        { "Well. </think>Yes.", CONTENT("Yes.") ",\"reasoning_content\":\"Well.\"}" },
        { "</think>", CONTENT("") ",\"reasoning_content\":\"\"}" },
        { "<think>no end", CONTENT("<think>no end") "}" },
        { " <tool_calls>[\n    {\"name\": \"f\", \"arguments\": {\"a\": 1}},\n    {\"name\": "
          "\"g\", \"arguments\": {}}\n]</tool_calls>",
          CONTENT("") ",\"tool_calls\":[" CALL("f", "{\"a\":1}") "," CALL("g", "{}") "]}" },
        { "Let me look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n"
          "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>\n",
          CONTENT("Let me look.") ",\"tool_calls\":[" CALL("f", "{}") "," CALL("g", "{}") "]}" },
        /* What is no call stays content. */
        { "<tool_calls>[]</tool_calls>", CONTENT("<tool_calls>[]</tool_calls>") "}" },
        { "<tool_call>{\"name\": 1, \"arguments\": {}}</tool_call>",
          CONTENT("<tool_call>{\\\"name\\\": 1, \\\"arguments\\\": {}}</tool_call>") "}" },
        { "<tool_call>{\"name\": \"f\"}</tool_call>",
          CONTENT("<tool_call>{\\\"name\\\": \\\"f\\\"}</tool_call>") "}" },
        { "<tool_call>{\"name\"</tool_call>", CONTENT("<tool_call>{\\\"name\\\"</tool_call>") "}" },
        { "<tool_call>{\"name\": \"f\", \"arguments\": {}}",
          CONTENT("<tool_call>{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {}}") "}" },
        { "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> and so",
          CONTENT("<tool_call>{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {}}</tool_call> and "
                  "so") "}" },
        { "<tool_call><tool_call>", CONTENT("<tool_call><tool_call>") "}" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        json_t *message = chat_message(cases[i].answer, &err);
        require(message != NULL, &err);
        char *text = json_dumps(message, JSON_COMPACT);
        assert_string_equal(text, cases[i].message);
        free(text);
        json_decref(message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_new_is_fed),
        cmocka_unit_test(an_answer_that_was_cut_goes_on_being_read),
        cmocka_unit_test(an_answer_ends_before_the_templates_closing),
        cmocka_unit_test(what_the_template_refuses_is_told_with_its_place),
        cmocka_unit_test(answers_as_messages),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
