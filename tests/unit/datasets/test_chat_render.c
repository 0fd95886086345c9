/* What of a conversation carries loss, by small templates; and what is said where that, or the
 * template, fails. */
#include "datasets/chat_render.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "datasets/document.h"
#include "tests/unit/datasets/scratch.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const char model[] = "recipes/quickstart/base";

struct fixture {
    struct scratch scratch;
    struct tokenizer *tokenizer;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err err = { 0 };
    *state = f;
    if (f == NULL || scratch_open(&f->scratch) != 0)
        return -1;
    f->tokenizer = tokenizer_open(model, &err);
    return f->tokenizer == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tokenizer_free(f->tokenizer);
    scratch_close(&f->scratch);
    free(f);
    return 0;
}

/* Tables are written with ' for ". */
static json_t *parse(const char *text)
{
    char json[4096];
    const size_t n = strlen(text);
    assert_true(n < sizeof json);
    for (size_t i = 0; i <= n; i++)
        json[i] = text[i] == '\'' ? '"' : text[i];
    json_t *value = json_loads(json, 0, NULL);
    if (value == NULL)
        fail_msg("%s", text);
    return value;
}

/* The text with "{" and "}" around what carries loss. */
static void show(const struct chat_rendering *r, struct text *out)
{
    for (int64_t s = 0; s < r->n_span; s++) {
        text_puts(out, r->spans[s].train ? "{" : "");
        text_append(out, r->text + r->spans[s].begin, r->spans[s].end - r->spans[s].begin);
        text_puts(out, r->spans[s].train ? "}" : "");
    }
    text_puts(out, "");
}

static bool render(struct fixture *f, const char *template, const char *record,
                   const struct chat_options *how, struct chat_rendering *r, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s", scratch_write_text(&f->scratch, "t.jinja", template));
    const struct template_options t = { .model_dir = model, .chosen = path };
    struct chat_options options = *how;
    struct chat chat = { 0 };
    json_t *json = parse(record);
    struct chat_template *opened = template_open(&t, err);
    options.template = opened;
    options.tokenizer = f->tokenizer;
    const bool ok = opened != NULL && chat_read(json, NULL, "x:1", &chat, err) &&
                    chat_render(&chat, &options, "x:1", r, err);
    chat_free(&chat);
    template_free(opened);
    json_decref(json);
    return ok;
}

static void expect(struct fixture *f, const char *template, const char *record,
                   const struct chat_options *how, enum chat_method method, const char *expected)
{
    struct chat_rendering r = { 0 };
    struct err err = { 0 };
    struct text shown = { 0 };
    if (!render(f, template, record, how, &r, &err))
        fail_msg("%s: %s", record, err.text);
    show(&r, &shown);
    assert_string_equal(shown.data, expected);
    assert_int_equal(r.method, method);
    text_free(&shown);
    chat_rendering_free(&r);
}

static void expect_refusal(struct fixture *f, const char *template, const char *record,
                           const struct chat_options *how, const char *expected)
{
    struct chat_rendering r = { 0 };
    struct err err = { 0 };
    assert_false(render(f, template, record, how, &r, &err));
    assert_string_equal(err.text, expected);
    assert_int_equal(err.code, ERR_DATA);
    assert_null(r.text);
}

/* ---- templates ---- */

#define EACH "{% for m in messages %}"
#define END "{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}A:{% endif %}"

/* Every way to the same mask. */
static const char marked[] =
    EACH "{{ m.role[0] | upper }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }};"
         "{% endgeneration %}{% else %}{{ m.content }};{% endif %}" END PROMPT;
static const char growing[] = EACH "{{ m.role[0] | upper }}:{{ m.content }};" END PROMPT;
/* A rendering of the first messages differs from the start of the whole. */
static const char counting[] =
    "{{ messages | length }}" EACH "{{ m.role[0] | upper }}:{{ m.content }};" END PROMPT;

#define TALK                                                                                       \
    "{'messages':[{'role':'user','content':'one'},{'role':'assistant','content':'two'},"           \
    "{'role':'user','content':'three'},{'role':'assistant','content':'four'},"                     \
    "{'role':'user','content':'five'}]}"
#define FLAGGED(first, second)                                                                     \
    "{'messages':[{'role':'user','content':'one'},{'role':'assistant','content':'two'" first       \
    "},{'role':'user','content':'three'},{'role':'assistant','content':'four'" second "}]}"

static void three_ways_lead_to_the_same_mask(void **state)
{
    struct fixture *f = *state;
    const struct chat_options o = { 0 };
    expect(f, marked, TALK, &o, CHAT_GENERATION, "U:one;A:{two;}U:three;A:{four;}U:five;");
    expect(f, growing, TALK, &o, CHAT_PREFIXES, "U:one;A:{two;}U:three;A:{four;}U:five;");
    expect(f, counting, TALK, &o, CHAT_MARKS, "5U:one;A:{two;}U:three;A:{four;}U:five;");
}

static void last_turn_only_is_the_answer_to_the_last_question_that_has_one(void **state)
{
    struct fixture *f = *state;
    const struct chat_options o = { .last_turn_only = true };
    expect(f, marked, TALK, &o, CHAT_GENERATION, "U:one;A:two;U:three;A:{four;}U:five;");
    expect(f, growing, TALK, &o, CHAT_PREFIXES, "U:one;A:two;U:three;A:{four;}U:five;");
    expect(f, counting, TALK, &o, CHAT_MARKS, "5U:one;A:two;U:three;A:{four;}U:five;");
    expect(f, marked,
           "{'messages':[{'role':'system','content':'s'},{'role':'assistant','content':'a'}]}", &o,
           CHAT_GENERATION, "S:s;A:{a;}");
}

static void messages_without_loss_are_left_out(void **state)
{
    struct fixture *f = *state;
    static const char *const templates[] = { marked, growing };
    const struct chat_options o = { 0 };
    for (size_t i = 0; i < COUNT(templates); i++) {
        const enum chat_method method = i == 0 ? CHAT_GENERATION : CHAT_PREFIXES;
        expect(f, templates[i], FLAGGED(",'train':false", ""), &o, method,
               "U:one;A:two;U:three;A:{four;}");
        expect(f, templates[i], FLAGGED(",'weight':1", ",'weight':0"), &o, method,
               "U:one;A:{two;}U:three;A:four;");
        expect(f, templates[i], FLAGGED(",'weight':0", ",'weight':0"), &o, CHAT_NONE,
               "U:one;A:two;U:three;A:four;");
    }
    expect(f, counting, FLAGGED(",'train':false", ""), &o, CHAT_MARKS,
           "4U:one;A:two;U:three;A:{four;}");
}

/* Two {% generation %} parts an answer: whose they are is told by the contents in them. */
static void generation_parts_are_told_apart_by_their_contents(void **state)
{
    struct fixture *f = *state;
    static const char parts[] =
        EACH "{% if m.role == 'assistant' %}{% generation %}{{ m.reasoning_content }}{% "
             "endgeneration %}|{% generation %}{{ m.content }};{% endgeneration %}{% else %}"
             "{{ m.content }}:{% endif %}" END;
    static const char counted[] =
        EACH "{% if m.role == 'assistant' %}{% generation %}{{ m.content | length }}{% "
             "endgeneration %}{% generation %};{% endgeneration %}{% endif %}" END;
    expect(f, parts,
           FLAGGED(",'train':false,'reasoning_content':'hm'", ",'reasoning_content':'ah'"),
           &(struct chat_options){ 0 }, CHAT_GENERATION, "one:hm|two;three:{ah}|{four;}");
    static const char empty[] =
        EACH "{% if m.role == 'assistant' %}{% generation %}!{% endgeneration %}{% generation %}"
             "{{ m.content }};{% endgeneration %}{% endif %}" END;
    static const char *const refused[] = { counted, empty };
    for (size_t i = 0; i < COUNT(refused); i++)
        expect_refusal(f, refused[i], FLAGGED(",'train':false", ""), &(struct chat_options){ 0 },
                       "x:1: what of the text the assistant writes cannot be found: which message "
                       "each of the template's {% generation %} parts belongs to cannot be told; "
                       "use a chat template with {% generation %}, or leave the record out");
}

/* Templates of odd shapes, by growing prefixes or by marks. */
static void a_turn_ends_where_its_own_end_is(void **state)
{
    struct fixture *f = *state;
    const struct chat_options o = { 0 };
    /* One answer ends as no other does. */
    expect(f,
           EACH "{{ m.role[0] | upper }}:{{ m.content }}{{ '!' if m.content == 'two' else ';' "
                "}}" END PROMPT,
           FLAGGED("", ""), &o, CHAT_PREFIXES, "U:one;A:{two!}U:three;A:{four;}");
    /* The prompt is longer than what it asks for. */
    expect(f,
           EACH "{{ m.role[0] | upper }}:{{ m.content }};" END
                "{% if add_generation_prompt %}A:two;U:{% endif %}",
           FLAGGED("", ""), &o, CHAT_MARKS, "U:one;A:{two;}U:three;A:{four;}");
    /* An answer is there twice: the first one counts. */
    expect(f,
           "{{ messages | length }}" EACH "{{ m.role[0] | upper }}:{{ m.content }};"
           "{{ m.content if m.role == 'assistant' }}" END PROMPT,
           FLAGGED("", ""), &o, CHAT_MARKS, "4U:one;A:{two};twoU:three;A:{four};four");
    /* Only the end of the conversation has an ending. */
    expect(f,
           "{{ messages | length }}" EACH "{{ m.role[0] | upper }}:{{ m.content }}" END PROMPT
           "{% if messages[-1].role == 'assistant' %}<eos>{% endif %}",
           FLAGGED("", ""), &o, CHAT_MARKS, "4U:oneA:{two}U:threeA:{four<eos>}");
}

static void train_on_inputs_leaves_out_only_what_the_record_says(void **state)
{
    struct fixture *f = *state;
    const struct chat_options o = { .train_on_inputs = true };
    expect(f, growing, FLAGGED("", ""), &o, CHAT_NONE, "{U:one;A:two;U:three;A:four;}");
    expect(f, growing, FLAGGED(",'train':false", ""), &o, CHAT_PREFIXES,
           "{U:one;A:}two;{U:three;A:four;}");
    expect(f, growing,
           "{'messages':[{'role':'user','content':'one','train':false},{'role':'assistant',"
           "'content':'two'}]}",
           &o, CHAT_NONE, "{U:}one{;A:two;}");
    expect_refusal(f, EACH "{{ m.content | length }}" END,
                   "{'messages':[{'role':'user','content':'one','train':false},{'role':'assistant',"
                   "'content':'two'}]}",
                   &o,
                   "x:1: where the messages without loss stand in the text cannot be found: with "
                   "marks around its contents the template renders something else; leave the "
                   "record out");
}

static void reasoning_can_be_left_out(void **state)
{
    struct fixture *f = *state;
    static const char thinking[] =
        EACH "{{ m.role[0] | upper }}:{% if m.reasoning_content %}<think>\n{{ m.reasoning_content "
             "}}\n</think>\n\n{% endif %}{{ m.content }};" END PROMPT;
    static const char bare[] =
        EACH "{{ m.role[0] | upper }}:{{ m.reasoning_content }}/{{ m.content }};" END PROMPT;
    static const char opened[] =
        EACH "{{ m.role[0] | upper }}:{{ '<think>' if m.role == "
             "'assistant' }}{{ m.content }};" END "{{ 'A:<think>' if add_generation_prompt }}";
    static const char record[] = "{'messages':[{'role':'user','content':'q'},{'role':'assistant',"
                                 "'reasoning_content':'hm','content':'a'}]}";
    static const char inside[] = "{'messages':[{'role':'user','content':'q <think>b</think>'},"
                                 "{'role':'assistant','content':'<think>hm</think>a'}]}";
    const struct chat_options all = { 0 }, masked = { .mask_reasoning = true };
    expect(f, thinking, record, &all, CHAT_PREFIXES, "U:q;A:{<think>\nhm\n</think>\n\na;}");
    expect(f, thinking, record, &masked, CHAT_PREFIXES, "U:q;A:<think>\nhm\n</think>\n\n{a;}");
    expect(f, bare, record, &masked, CHAT_PREFIXES, "U:/q;A:hm{/a;}");
    expect(f, growing, inside, &masked, CHAT_PREFIXES,
           "U:q <think>b</think>;A:<think>hm</think>{a;}");
    expect(f, opened,
           "{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'hm</think>"
           "a'}]}",
           &masked, CHAT_PREFIXES, "U:q;A:<think>hm</think>{a;}");
    expect_refusal(f,
                   EACH "{{ m.content | length }}{{ m.reasoning_content | length }}{% generation "
                        "%}{{ m.content }}{% endgeneration %}" END,
                   record, &masked,
                   "x:1: where its reasoning stands in the text cannot be found: with marks around "
                   "its contents the template renders something else; use train_on_reasoning: "
                   "true, or leave the record out");
}

static void white_space_behind_the_end_of_a_turn_carries_no_loss(void **state)
{
    struct fixture *f = *state;
    static const char lines[] =
        EACH "<{{ m.role }}>{{ m.content }}<end>\n" END "{{ '<assistant>' if "
             "add_generation_prompt }}";
    static const char spaced[] =
        EACH "{{ m.role }}: {{ m.content }}\n\n" END "{{ 'assistant: ' if add_generation_prompt }}";
    expect(f, lines, FLAGGED("", ""), &(struct chat_options){ 0 }, CHAT_PREFIXES,
           "<user>one<end>\n<assistant>{two<end>}\n<user>three<end>\n<assistant>{four<end>}\n");
    /* where it is all there is, it is the end */
    expect(f, spaced, FLAGGED("", ""), &(struct chat_options){ 0 }, CHAT_PREFIXES,
           "user: one\n\nassistant: {two\n\n}user: three\n\nassistant: {four\n\n}");
}

static void what_cannot_be_found_is_refused_with_its_reason(void **state)
{
    struct fixture *f = *state;
#define FAIL "x:1: what of the text the assistant writes cannot be found: "
#define REMEDY "; use a chat template with {% generation %}, or leave the record out"
    static const struct {
        const char *template, *expected;
    } cases[] = {
        { "{{ messages | length }}" EACH "{{ m.content | length }}{{ m.content }}" END,
          FAIL "the first 1 messages are rendered otherwise when others follow, and with marks "
               "around its contents the template renders something else" REMEDY },
        { "{{ messages | length }}" EACH "{{ m.content if m.role == 'user' }}" END, FAIL
          "the first 1 messages are rendered otherwise when others follow, and messages[1] has "
          "no place of its own in the text" REMEDY },
        { "{% if messages | length < 4 %}{{ raise_exception('short') }}{% endif %}" EACH
          "{{ m.content if m.role == 'user' }}" END,
          FAIL "the first 1 messages alone are not rendered, and messages[1] has no place of its "
               "own in the text" REMEDY },
        { "{{ messages | length }}" EACH "{{ m.role[0] | upper if messages | length < 4 }}:"
          "{{ m.content }};" END PROMPT,
          FAIL "the first 1 messages are rendered otherwise when others follow, and messages[1] is "
               "not framed as other answers are" REMEDY },
        { "{{ messages | length }}" EACH "{{ m.role[0] | upper }}:{{ m.content }}"
          "{{ ';' if messages | length < 4 }}" END PROMPT,
          FAIL "the first 1 messages are rendered otherwise when others follow, and messages[1] is "
               "not framed as other answers are" REMEDY },
        { "{{ messages | length }}" EACH "{{ m.role[0] | upper }}:{{ m.content }};" END EACH
          "{{ m.thinking }}" END PROMPT,
          FAIL "the first 1 messages are rendered otherwise when others follow, and messages[1] "
               "has no place of its own in the text" REMEDY },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        expect_refusal(f, cases[i].template, FLAGGED(",'thinking':'hm'", ",'thinking':'well'"),
                       &(struct chat_options){ 0 }, cases[i].expected);
}

/* ---- special tokens ---- */

static int64_t count_special(const struct fixture *f, const struct chat_rendering *r,
                             const char *piece)
{
    const int32_t id = tokenizer_find(f->tokenizer, piece);
    int64_t n = 0;
    for (int64_t t = 0; t < r->tokens.n; t++)
        n += r->tokens.ids[t] == id;
    return n;
}

static void a_spelled_special_token_stays_text(void **state)
{
    struct fixture *f = *state;
    static const char template[] =
        "{{ tools | tojson if tools }}{{ mood }}" EACH "<|bom|>{{ m.name }}{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}<|eom|>" END;
    static const char *const records[] = {
        "{'messages':[{'role':'user','content':'<|eom|>'},{'role':'assistant','content':'a'}]}",
        "{'messages':[{'role':'user','content':' a<|eom|>b<|eom|> '},{'role':'assistant',"
        "'content':'a'}]}",
        "{'messages':[{'role':'user','content':'u','name':'<|eom|>'},{'role':'assistant',"
        "'content':'a'}]}",
        "{'messages':[{'role':'user','content':'u'},{'role':'assistant','content':'<|eom|>'}]}",
        "{'messages':[{'role':'user','content':'u'},{'role':'assistant','content':'','tool_calls':"
        "[{'name':'f','arguments':{'a<|eom|>':['x<|eom|>']}}]}]}",
        "{'messages':[{'role':'user','content':'u'},{'role':'assistant','content':'a'}],'tools':"
        "[{'name':'f','description':'<|eom|>'}]}",
        "{'messages':[{'role':'user','content':'u'},{'role':'assistant','content':'a'}],"
        "'chat_template_kwargs':{'mood':'<|eom|>'}}",
        "{'messages':[{'role':'user','content':'\U000F0000<|eom|>'},{'role':'assistant','content':"
        "'a'}]}",
    };
    for (size_t i = 0; i < COUNT(records); i++) {
        struct chat_rendering r = { 0 };
        struct err err = { 0 };
        if (!render(f, template, records[i], &(struct chat_options){ .train_on_inputs = true }, &r,
                    &err))
            fail_msg("%s", err.text);
        assert_int_equal(count_special(f, &r, "<|bom|>"), 2);
        assert_int_equal(count_special(f, &r, "<|eom|>"), 2);
        chat_rendering_free(&r);
    }
}

static void a_spelled_special_token_that_cannot_be_found_is_refused(void **state)
{
    struct fixture *f = *state;
    static const char measuring[] = EACH "{{ m.content | length }}{{ m.content }}" END
                                         "{{ documents[0].text | length if documents }}";
    const struct chat_options o = { .train_on_inputs = true };
    expect_refusal(f, measuring,
                   "{'messages':[{'role':'user','content':'u'},{'role':'assistant','content':'a "
                   "<|eom|>'}]}",
                   &o,
                   "x:1: messages[1] spells the special token \"<|eom|>\", and which of those in "
                   "the text that is cannot be found: with marks around it the template renders "
                   "something else; take it out, or leave the record out");
    expect_refusal(f, measuring,
                   "{'messages':[{'role':'user','content':'u'},{'role':'assistant','content':'a'}],"
                   "'documents':[{'text':'<|bom|>'}]}",
                   &o,
                   "x:1: tools, documents or variables spells the special token \"<|bom|>\", and "
                   "which of those in the text that is cannot be found: with marks around it the "
                   "template renders something else; take it out, or leave the record out");
    /* no characters are left to mark with */
    expect_refusal(f, growing,
                   "{'messages':[{'role':'user','content':'\U000F0000\U00100000<|eom|>'},"
                   "{'role':'assistant','content':'a'}]}",
                   &o,
                   "x:1: messages[0] spells the special token \"<|eom|>\", and which of those in "
                   "the text that is cannot be found: with marks around it the template renders "
                   "something else; take it out, or leave the record out");
}

/* What a template and a message, or two messages, spell together. */
static void a_special_token_that_a_message_completes_stays_text(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *template, *record;
    } cases[] = {
        { EACH "<|bom|>{{ m.content }}|>" END, "{'role':'user','content':'a<|eom'}" },
        { EACH "<|bom|>{{ m.content }}om|>" END, "{'role':'user','content':'<|e'}" },
        { EACH "<|bom|>{{ m.content | trim }}|>" END, "{'role':'user','content':'a<|eom \\n'}" },
        { EACH "<|bom|><|{{ m.content }}" END, "{'role':'user','content':'eom|> b'}" },
        { EACH "<|bom|><|{{ m.content }}|>" END, "{'role':'user','content':'eom'}" },
        { EACH "<|bom|>{{ m.name }}{{ m.content }}" END,
          "{'role':'user','name':'a<|e','content':'om|> b'}" },
        { EACH "<|bom|>{{ tools[0].function.description }}|>" END,
          "{'role':'user','content':'b'}" },
        { EACH "<|bom|>{{ m.content }}|>" END, "{'role':'user','content':'<|eom|><|eom'}" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct chat_rendering r = { 0 };
        struct err err = { 0 };
        char record[512];
        snprintf(record, sizeof record,
                 "{'messages':[%s],'tools':[{'name':'f','description':'a <|eom'}]}",
                 cases[i].record);
        if (!render(f, cases[i].template, record, &(struct chat_options){ .train_on_inputs = true },
                    &r, &err))
            fail_msg("%zu: %s", i, err.text);
        assert_non_null(strstr(r.text, "<|eom|>")); /* it is spelled */
        assert_int_equal(count_special(f, &r, "<|bom|>"), 1);
        assert_int_equal(count_special(f, &r, "<|eom|>"), 0);
        chat_rendering_free(&r);
    }
}

static void what_only_looks_like_a_part_changes_nothing(void **state)
{
    struct fixture *f = *state;
    static const char *const templates[] = {
        EACH "<|bom|><|{{ m.role }}|>{{ m.content }}<|eom|>" END, /* a role is the template's */
        EACH "<|bom|><|user|>{% if m.content == 'eom' %}!{% endif %}{{ m.content }}<|eom|>" END,
    };
    static const char *const contents[] = { "a<", "|> a", ">", "<|", "eom", "user" };
    for (size_t t = 0; t < COUNT(templates); t++) {
        for (size_t i = 0; i < COUNT(contents); i++) {
            struct chat_rendering r = { 0 };
            struct err err = { 0 };
            char record[256];
            snprintf(record, sizeof record, "{'messages':[{'role':'user','content':'%s'}]}",
                     contents[i]);
            if (!render(f, templates[t], record, &(struct chat_options){ .train_on_inputs = true },
                        &r, &err))
                fail_msg("%s: %s", contents[i], err.text);
            assert_int_equal(count_special(f, &r, "<|bom|>"), 1);
            assert_int_equal(count_special(f, &r, "<|user|>"), 1);
            assert_int_equal(count_special(f, &r, "<|eom|>"), 1);
            chat_rendering_free(&r);
        }
    }
    expect_refusal(f, EACH "{{ m.content | length }}{{ m.content }}" END,
                   "{'messages':[{'role':'user','content':'a <|eo'}]}",
                   &(struct chat_options){ .train_on_inputs = true },
                   "x:1: messages[0] begins or ends with a part of a special token, \"<|eo\", and "
                   "whether the template makes it whole cannot be found: with marks around it the "
                   "template renders something else; take it out, or leave the record out");
}

static void nothing_is_put_around_the_template_s_text(void **state)
{
    struct fixture *f = *state;
    struct chat_rendering r = { 0 };
    struct err err = { 0 };
    assert_true(render(f, "{{ bos_token }}" EACH "{{ m.content }}" END, FLAGGED("", ""),
                       &(struct chat_options){ .train_on_inputs = true }, &r, &err));
    assert_int_equal(count_special(f, &r, "<|startoftext|>"), 1);
    assert_int_equal(count_special(f, &r, "<|endoftext|>"), 0);
    /* the same rendering again */
    const int64_t n = r.tokens.n;
    assert_true(render(f, "{{ bos_token }}" EACH "{{ m.content }}" END, FLAGGED("", ""),
                       &(struct chat_options){ .train_on_inputs = true }, &r, &err));
    assert_int_equal(r.tokens.n, n);
    chat_rendering_free(&r);
}

/* ---- the template's word ---- */

static void what_the_template_says_is_shown_with_the_place(void **state)
{
    struct fixture *f = *state;
    struct chat_rendering r = { 0 };
    struct err err = { 0 };
    expect_refusal(f, "{{ raise_exception('Roles must \"alternate\"') }}", TALK,
                   &(struct chat_options){ 0 },
                   "x:1: the chat template refuses it: \"Roles must \"alternate\"\"");
    assert_false(
        render(f, EACH "{{ m.content.x.y }}" END, TALK, &(struct chat_options){ 0 }, &r, &err));
    assert_true(text_starts_with(err.text, "x:1: "));
    assert_non_null(strstr(err.text, "/t.jinja:1:"));
}

/* ---- data sets ---- */

static bool load_documents(struct fixture *f, const char *records, enum data_type type,
                           const struct record_options *record, struct document_set *set,
                           struct document_report *report, struct err *err)
{
    char path[700], json[4096];
    const size_t n = strlen(records);
    for (size_t i = 0; i <= n; i++)
        json[i] = records[i] == '\'' ? '"' : records[i];
    snprintf(path, sizeof path, "%s", scratch_write_text(&f->scratch, "x.jsonl", json));
    const struct document_options options = { .record = *record };
    return document_load(set, &(struct data_source){ .path = path, .type = type }, &options, report,
                         err);
}

static void conversations_become_documents(void **state)
{
    struct fixture *f = *state;
    struct err err = { 0 };
    struct document_set set = { 0 };
    struct document_report report = { 0 };
    struct chat_template *jamba =
        template_open(&(struct template_options){ .model_dir = model, .chosen = "jamba" }, &err);
    const struct record_options record = {
        .tokenizer = f->tokenizer, .chat_template = jamba, .vocab_size = 2048, .eos = 2
    };
    assert_true(load_documents(f,
                               FLAGGED("", "") "\n" FLAGGED(",'train':false", ",'weight':0") "\n",
                               DATA_AUTO, &record, &set, &report, &err));
    assert_int_equal(report.type, DATA_CHAT);
    assert_string_equal(record_type_name(report.type), "chat");
    assert_int_equal(set.n_doc, 1);
    assert_int_equal(report.n_untargeted, 1);
    const int32_t eom = tokenizer_find(f->tokenizer, "<|eom|>");
    assert_int_equal(set.ids[0], tokenizer_bos(f->tokenizer));
    assert_int_not_equal(set.ids[1], tokenizer_bos(f->tokenizer));
    assert_int_equal(set.ids[set.n_tok - 1], eom);
    assert_int_equal(set.targets[set.n_tok - 2], eom);
    document_set_free(&set);

    report = (struct document_report){ 0 };
    assert_true(load_documents(f, "{'instruction':'do','output':'done'}", DATA_AUTO, &record, &set,
                               &report, &err));
    assert_string_equal(record_type_name(report.type), "alpaca");
    assert_int_equal(set.n_doc, 1);
    document_set_free(&set);
    template_free(jamba);
}

static void records_that_cannot_be_read_as_conversations_are_named(void **state)
{
    struct fixture *f = *state;
    struct err err = { 0 };
    struct chat_template *jamba =
        template_open(&(struct template_options){ .model_dir = model, .chosen = "jamba" }, &err);
    struct chat_template *none =
        template_open(&(struct template_options){ .model_dir = f->scratch.folder }, &err);
    const struct record_options good = { .tokenizer = f->tokenizer,
                                         .chat_template = jamba,
                                         .vocab_size = 2048 };
    struct record_options few = good, blind = good, bare = good;
    few.vocab_size = 8;
    blind.tokenizer = NULL;
    bare.chat_template = none;
    const struct {
        const struct record_options *options;
        const char *record, *expected;
    } cases[] = {
        { &good, "{'messages':[{'role':'user','content':'a'}]}",
          "x.jsonl:1: the assistant says nothing in it, so there is nothing to train on; expected "
          "a "
          "message whose role is assistant" },
        { &good, FLAGGED("", "") "\n{'messages':[{'role':'bot','content':'a'}]}",
          "x.jsonl:2: messages[0]: \"role\" is \"bot\"; expected system, user, assistant or tool" },
        { &few, FLAGGED("", ""),
          "x.jsonl:1: the tokenizer gives id 392, but the model's vocabulary ends at 7; is this "
          "tokenizer.json of this model?" },
        { &blind, FLAGGED("", ""),
          "x.jsonl:1: is a conversation, but there is no tokenizer to read it with" },
        { &bare, FLAGGED("", ""), NULL },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct document_set set = { 0 };
        struct document_report report = { 0 };
        err = (struct err){ 0 };
        assert_false(
            load_documents(f, cases[i].record, DATA_CHAT, cases[i].options, &set, &report, &err));
        if (cases[i].expected != NULL)
            assert_true(scratch_message_is(&f->scratch, err.text, cases[i].expected));
        else
            assert_non_null(strstr(err.text, "/x.jsonl:1: /"));
        document_set_free(&set);
    }
    template_free(jamba);
    template_free(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_ways_lead_to_the_same_mask),
        cmocka_unit_test(last_turn_only_is_the_answer_to_the_last_question_that_has_one),
        cmocka_unit_test(messages_without_loss_are_left_out),
        cmocka_unit_test(generation_parts_are_told_apart_by_their_contents),
        cmocka_unit_test(a_turn_ends_where_its_own_end_is),
        cmocka_unit_test(train_on_inputs_leaves_out_only_what_the_record_says),
        cmocka_unit_test(reasoning_can_be_left_out),
        cmocka_unit_test(white_space_behind_the_end_of_a_turn_carries_no_loss),
        cmocka_unit_test(what_cannot_be_found_is_refused_with_its_reason),
        cmocka_unit_test(a_spelled_special_token_stays_text),
        cmocka_unit_test(a_spelled_special_token_that_cannot_be_found_is_refused),
        cmocka_unit_test(a_special_token_that_a_message_completes_stays_text),
        cmocka_unit_test(what_only_looks_like_a_part_changes_nothing),
        cmocka_unit_test(nothing_is_put_around_the_template_s_text),
        cmocka_unit_test(what_the_template_says_is_shown_with_the_place),
        cmocka_unit_test(conversations_become_documents),
        cmocka_unit_test(records_that_cannot_be_read_as_conversations_are_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
