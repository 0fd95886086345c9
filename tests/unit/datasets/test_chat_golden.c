/* Conversations against transformers: text, ids, mask (tests/reference/make_chat.py); and of every
 * text what must hold however the mask was found. */
#include "datasets/chat_render.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/json.h"
#include "tests/unit/datasets/scratch.h"

enum { N_CASE = 60, FIXTURE_LIMIT = 1 << 24 };

struct golden {
    json_t *fixture;
    struct scratch scratch;
};

static int setup(void **state)
{
    struct golden *g = calloc(1, sizeof *g);
    struct err err = { 0 };
    *state = g;
    if (g == NULL || scratch_open(&g->scratch) != 0)
        return -1;
    g->fixture = json_load_object("tests/fixtures/chat.json", FIXTURE_LIMIT, &err);
    return g->fixture == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    struct golden *g = *state;
    json_decref(g->fixture);
    scratch_close(&g->scratch);
    free(g);
    return 0;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* One case, rendered. */
struct rendered {
    struct tokenizer *tokenizer;
    struct chat_template *template;
    struct chat chat;
    struct chat_rendering r;
};

static void open_case(struct golden *g, const json_t *one, const struct chat_options *how,
                      struct rendered *out)
{
    const char *name = text_of(one, "template"), *folder = text_of(one, "tokenizer");
    const char *own = text_of(json_object_get(g->fixture, "templates"), name);
    const char *path = own == NULL ? name : scratch_write_text(&g->scratch, "template.jinja", own);
    const struct template_options t = { .model_dir = folder,
                                        .chosen = path,
                                        .date = text_of(g->fixture, "date") };
    struct err err = { 0 };
    *out = (struct rendered){ .tokenizer = tokenizer_open(folder, &err),
                              .template = template_open(&t, &err) };
    if (out->tokenizer == NULL || out->template == NULL)
        fail_msg("%s", err.text);
    struct chat_options options = *how;
    options.template = out->template;
    options.tokenizer = out->tokenizer;
    if (!chat_read(json_object_get(one, "record"), NULL, "case", &out->chat, &err) ||
        !chat_render(&out->chat, &options, "case", &out->r, &err))
        fail_msg("%s, %s: %s", name, folder, err.text);
}

static void close_case(struct rendered *c)
{
    chat_rendering_free(&c->r);
    chat_free(&c->chat);
    template_free(c->template);
    tokenizer_free(c->tokenizer);
}

typedef void look_at(const json_t *one, const struct rendered *c);

static void each_case(void **state, const struct chat_options *how, look_at *look)
{
    struct golden *g = *state;
    json_t *cases = json_object_get(g->fixture, "cases");
    assert_int_equal(json_array_size(cases), N_CASE);
    for (size_t i = 0; i < N_CASE; i++) {
        struct rendered c;
        const json_t *one = json_array_get(cases, i);
        open_case(g, one, how, &c);
        look(one, &c);
        close_case(&c);
    }
}

/* ---- what transformers says ---- */

static void look_at_golden(const json_t *one, const struct rendered *c)
{
    const json_t *ids = json_object_get(one, "ids"), *mask = json_object_get(one, "mask");
    assert_string_equal(c->r.text, text_of(one, "text"));
    assert_int_equal(c->r.n, json_string_length(json_object_get(one, "text")));
    assert_int_equal(json_is_array(mask), c->r.method == CHAT_GENERATION);
    if (json_is_true(json_object_get(one, "spells_special")))
        return; /* there transformers takes it for the token */
    assert_int_equal(c->r.tokens.n, json_array_size(ids));
    for (int64_t t = 0; t < c->r.tokens.n; t++) {
        assert_int_equal(c->r.tokens.ids[t], json_integer_value(json_array_get(ids, (size_t)t)));
        if (json_is_array(mask))
            assert_int_equal(c->r.trained[t], json_integer_value(json_array_get(mask, (size_t)t)));
    }
}

static void text_ids_and_generation_masks_are_those_of_transformers(void **state)
{
    each_case(state, &(struct chat_options){ 0 }, look_at_golden);
}

/* ---- what holds of every mask ---- */

static void assert_spans_cover(const struct chat_rendering *r)
{
    size_t at = 0;
    for (int64_t s = 0; s < r->n_span; s++) {
        assert_int_equal(r->spans[s].begin, at);
        assert_true(r->spans[s].end > at);
        if (s > 0)
            assert_int_not_equal(r->spans[s].train, r->spans[s - 1].train);
        at = r->spans[s].end;
    }
    assert_int_equal(at, r->n);
}

static bool is_trained(const struct chat_rendering *r, size_t byte)
{
    int64_t s = 0;
    while (r->spans[s].end <= byte)
        s++;
    return r->spans[s].train;
}

/* How often `part` is in the text; each byte of it must be trained, or none. */
static int count_part(const struct chat_rendering *r, const char *part, bool trained)
{
    int n = 0;
    for (const char *at = r->text; (at = strstr(at, part)) != NULL; at += strlen(part), n++) {
        for (size_t i = 0; i < strlen(part); i++) {
            if (is_trained(r, (size_t)(at - r->text) + i) != trained)
                fail_msg("'%s' in '%s': %s", part, r->text, trained ? "no loss" : "loss");
        }
    }
    return n;
}

static void look_at_spans(const json_t *one, const struct rendered *c)
{
    const json_t *mine = json_object_get(one, "assistant"),
                 *others = json_object_get(one, "others");
    int n = 0;
    assert_spans_cover(&c->r);
    for (size_t i = 0; i < json_array_size(mine); i++)
        n += count_part(&c->r, json_string_value(json_array_get(mine, i)), true);
    for (size_t i = 0; i < json_array_size(others); i++)
        n += count_part(&c->r, json_string_value(json_array_get(others, i)), false);
    assert_true(n > 0);
}

static void the_assistants_contents_carry_loss_and_the_others_do_not(void **state)
{
    each_case(state, &(struct chat_options){ 0 }, look_at_spans);
}

/* The text ends as the assistant's turn does: what follows its last content is trained, but for
 * white space. */
static void look_at_end(const json_t *one, const struct rendered *c)
{
    const json_t *messages = json_object_get(json_object_get(one, "record"), "messages");
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    size_t n = c->r.n;
    if (strcmp(text_of(last, "role"), "assistant") != 0 || c->r.method == CHAT_GENERATION)
        return;
    while (n > 0 && strchr(" \n", c->r.text[n - 1]) != NULL)
        n--;
    assert_true(is_trained(&c->r, n - 1));
    assert_true(n == c->r.n || !is_trained(&c->r, n));
}

static void the_end_of_a_turn_carries_loss(void **state)
{
    each_case(state, &(struct chat_options){ 0 }, look_at_end);
}

/* Of these tokenizers: all special tokens are spelled "<|...|>", and no other piece is. What the
 * model has no piece for is no spelling. */
static bool is_special(const struct tokenizer *tokenizer, int32_t id)
{
    const char *piece = tokenizer_piece(tokenizer, id);
    return text_starts_with(piece, "<|") && text_ends_with(piece, "|>") &&
           strcmp(piece, "<|unk|>") != 0;
}

static bool is_inside(const struct chat_rendering *r, const json_t *parts, size_t byte)
{
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const char *part = json_string_value(json_array_get(parts, i)), *at = r->text;
        for (; (at = strstr(at, part)) != NULL; at++) {
            if (byte >= (size_t)(at - r->text) && byte < (size_t)(at - r->text) + strlen(part))
                return true;
        }
    }
    return false;
}

static void look_at_specials(const json_t *one, const struct rendered *c)
{
    const json_t *mine = json_object_get(one, "assistant"),
                 *others = json_object_get(one, "others");
    const json_t *ids = json_object_get(one, "ids");
    if (!json_is_true(json_object_get(one, "spells_special")))
        return;
    int64_t n_special = 0, n_theirs = 0;
    for (int64_t t = 0; t < c->r.tokens.n; t++) {
        if (!is_special(c->tokenizer, c->r.tokens.ids[t]))
            continue;
        n_special++;
        assert_false(is_inside(&c->r, mine, (size_t)c->r.tokens.begin[t]));
        assert_false(is_inside(&c->r, others, (size_t)c->r.tokens.begin[t]));
    }
    for (size_t t = 0; t < json_array_size(ids); t++)
        n_theirs += is_special(c->tokenizer, (int32_t)json_integer_value(json_array_get(ids, t)));
    assert_true(n_special < n_theirs);
}

static void special_tokens_come_from_the_template_alone(void **state)
{
    each_case(state, &(struct chat_options){ 0 }, look_at_specials);
}

/* Tokens that begin in a trained span, and with {% generation %} those that reach into one. */
static void look_at_tokens(const json_t *one, const struct rendered *c)
{
    (void)one;
    for (int64_t t = 0; t < c->r.tokens.n; t++) {
        const size_t begin = (size_t)c->r.tokens.begin[t];
        const size_t end = t + 1 < c->r.tokens.n ? (size_t)c->r.tokens.begin[t + 1] : c->r.n;
        bool expected = is_trained(&c->r, begin);
        for (size_t i = begin; i < end && c->r.method == CHAT_GENERATION; i++)
            expected = expected || is_trained(&c->r, i);
        assert_int_equal(c->r.trained[t], expected);
    }
}

static void tokens_carry_loss_by_where_they_begin(void **state)
{
    each_case(state, &(struct chat_options){ 0 }, look_at_tokens);
}

/* ---- the options ---- */

static void look_at_everything(const json_t *one, const struct rendered *c)
{
    (void)one;
    assert_int_equal(c->r.n_span, 1);
    assert_true(c->r.spans[0].train);
    for (int64_t t = 0; t < c->r.tokens.n; t++)
        assert_true(c->r.trained[t]);
}

static void train_on_inputs_trains_on_everything(void **state)
{
    each_case(state, &(struct chat_options){ .train_on_inputs = true }, look_at_everything);
}

static void look_at_prompt(const json_t *one, const struct rendered *c)
{
    (void)one;
    assert_int_equal(c->r.n_span, 1);
    assert_false(c->r.spans[0].train);
    assert_int_equal(c->r.method, CHAT_NONE);
}

static void a_prompt_carries_no_loss(void **state)
{
    each_case(state, &(struct chat_options){ .add_generation_prompt = true }, look_at_prompt);
}

/* Contents of the last answers are trained, those of earlier ones are not. */
static void look_at_last_turn(const json_t *one, const struct rendered *c)
{
    const json_t *messages = json_object_get(json_object_get(one, "record"), "messages");
    size_t last = json_array_size(messages) - 1;
    while (strcmp(text_of(json_array_get(messages, last), "role"), "assistant") != 0)
        last--;
    while (strcmp(text_of(json_array_get(messages, last), "role"), "user") != 0)
        last--;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        const char *content = text_of(message, "content");
        if (content == NULL || strlen(content) < 3 || strchr(" \n<", content[0]) != NULL)
            continue; /* not in the text as it is */
        count_part(&c->r, content, strcmp(text_of(message, "role"), "assistant") == 0 && i > last);
    }
}

static void last_turn_only_trains_on_the_answers_to_the_last_question(void **state)
{
    each_case(state, &(struct chat_options){ .last_turn_only = true }, look_at_last_turn);
}

static void look_at_reasoning(const json_t *one, const struct rendered *c)
{
    static const char *const thoughts[] = { "Hm, causes.", "Aha.",    "long thought",
                                            "\nnew\n",     "<think>", "</think>" };
    static const char *const answers[] = { "Because.", "Thus.", "short answer", "fine" };
    (void)one;
    for (size_t i = 0; i < sizeof thoughts / sizeof *thoughts; i++)
        count_part(&c->r, thoughts[i], false);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        count_part(&c->r, answers[i], true);
}

static void masked_reasoning_carries_no_loss_and_the_answer_does(void **state)
{
    each_case(state, &(struct chat_options){ .mask_reasoning = true }, look_at_reasoning);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_ids_and_generation_masks_are_those_of_transformers),
        cmocka_unit_test(the_assistants_contents_carry_loss_and_the_others_do_not),
        cmocka_unit_test(the_end_of_a_turn_carries_loss),
        cmocka_unit_test(special_tokens_come_from_the_template_alone),
        cmocka_unit_test(tokens_carry_loss_by_where_they_begin),
        cmocka_unit_test(train_on_inputs_trains_on_everything),
        cmocka_unit_test(a_prompt_carries_no_loss),
        cmocka_unit_test(last_turn_only_trains_on_the_answers_to_the_last_question),
        cmocka_unit_test(masked_reasoning_carries_no_loss_and_the_answer_does),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
