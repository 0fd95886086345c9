/* Chat templates: which one is taken, what it sees, what is said when there is none. */
#include "datasets/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "datasets/config.h"
#include "tests/unit/datasets/scratch.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static int setup(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    *state = s;
    return s == NULL ? -1 : scratch_open(s);
}

static int teardown(void **state)
{
    scratch_close(*state);
    free(*state);
    return 0;
}

/* Tables are written with ' for ". */
static json_t *parse(const char *text)
{
    char json[2048];
    const size_t n = strlen(text);
    assert_true(n < sizeof json);
    for (size_t i = 0; i <= n; i++)
        json[i] = text[i] == '\'' ? '"' : text[i];
    json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    return value;
}

static void write_json(struct scratch *s, const char *name, const char *text)
{
    json_t *value = parse(text);
    char *json = json_dumps(value, 0);
    assert_non_null(scratch_write_text(s, name, json));
    free(json);
    json_decref(value);
}

/* The rendering of one user's "hi", with tools or without. */
static bool render(const struct chat_template *t, bool tools, char out[512], struct err *err)
{
    json_t *messages = parse("[{'role':'user','content':'hi'}]"), *list = json_array();
    const struct template_input in = { .messages = messages, .tools = tools ? list : NULL };
    struct jinja_output output = { 0 };
    const bool ok = template_render(t, &in, &output, err);
    snprintf(out, 512, "%s", ok ? output.text : "");
    jinja_output_free(&output);
    json_decref(messages);
    json_decref(list);
    return ok;
}

static void expect_rendering(const struct template_options *o, bool tools, const char *expected)
{
    char text[512];
    struct err err = { 0 };
    struct chat_template *t = template_open(o, &err);
    if (t == NULL || !render(t, tools, text, &err))
        fail_msg("%s", err.text);
    assert_string_equal(text, expected);
    template_free(t);
}

#define CONFIG "tokenizer_config.json"

static void a_checkpoints_own_template_is_found(void **state)
{
    struct scratch *s = *state;
    const struct template_options o = { .model_dir = s->folder };
    write_json(s, CONFIG, "{'chat_template':'config {{ messages[0].content }}'}");
    expect_rendering(&o, false, "config hi");
    expect_rendering(&o, true, "config hi");
    write_json(s, CONFIG,
               "{'chat_template':[{'name':'rag','template':'rag'},{'name':'default','template':"
               "'plain'},{'name':'tool_use','template':'tools'}]}");
    expect_rendering(&o, false, "plain");
    expect_rendering(&o, true, "tools");
    write_json(s, CONFIG, "{'chat_template':[{'name':'default','template':'plain'}]}");
    expect_rendering(&o, true, "plain");
    write_json(s, CONFIG, "{'chat_template':{'default':'plain','tool_use':'tools'}}");
    expect_rendering(&o, true, "tools");
    scratch_write_text(s, "chat_template.jinja", "file {{ messages[0].role }}");
    expect_rendering(&o, false, "file user");
    expect_rendering(&o, true, "file user");
    char folder[700];
    snprintf(folder, sizeof folder, "%s", scratch_path(s, "additional_chat_templates"));
    assert_int_equal(mkdir(folder, 0700), 0);
    scratch_write_text(s, "additional_chat_templates/tool_use.jinja", "file for tools");
    expect_rendering(&o, false, "file user");
    expect_rendering(&o, true, "file for tools");
    assert_int_equal(unlink(scratch_path(s, "additional_chat_templates/tool_use.jinja")), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void the_recipes_choice_comes_first(void **state)
{
    struct scratch *s = *state;
    char path[700];
    scratch_write_text(s, "chat_template.jinja", "own");
    snprintf(path, sizeof path, "%s", scratch_write_text(s, "x.jinja", "chosen"));
    expect_rendering(&(struct template_options){ .model_dir = s->folder, .chosen = path }, false,
                     "chosen");
    expect_rendering(&(struct template_options){ .chosen = path }, false, "chosen");
    expect_rendering(&(struct template_options){ .chosen = "jamba" }, false,
                     "<|bom|><|system|> <|eom|><|bom|><|user|> hi<|eom|>");
    expect_rendering(&(struct template_options){ .model_dir = s->folder, .chosen = "chatml" },
                     false, "<|im_start|>user\nhi<|im_end|>\n");
}

static void special_tokens_and_variables_are_seen(void **state)
{
    struct scratch *s = *state;
    static const char show[] =
        "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token is defined }}|"
        "{{ additional_special_tokens | join(',') }}|{{ mood }}|{{ tools is none }}|"
        "{{ documents is none }}|{{ add_generation_prompt }}";
    struct template_options o = { .model_dir = s->folder };
    scratch_write_text(s, "chat_template.jinja", show);
    expect_rendering(&o, false, "|||False|||True|True|False");
    write_json(s, CONFIG,
               "{'bos_token':'<s>','eos_token':{'content':'</s>','lstrip':false},'unk_token':null,"
               "'additional_special_tokens':['<a>',{'content':'<b>'}]}");
    write_json(s, "special_tokens_map.json", "{'bos_token':'<other>','pad_token':'<pad>'}");
    o.variables = parse("{'mood':'calm','eos_token':'<end>'}");
    expect_rendering(&o, true, "<s>|<end>|<pad>|False|<a>,<b>|calm|False|True|False");
    json_decref(o.variables);
}

static void a_records_variables_come_before_the_recipes(void **state)
{
    struct scratch *s = *state;
    struct err err = { 0 };
    scratch_write_text(s, "chat_template.jinja", "{{ a }}{{ b }}{{ add_generation_prompt }}");
    json_t *recipe = parse("{'a':1,'b':2}"), *record = parse("{'b':3}"), *none = json_array();
    const struct template_options o = { .model_dir = s->folder, .variables = recipe };
    struct chat_template *t = template_open(&o, &err);
    const struct template_input in = { .messages = none,
                                       .variables = record,
                                       .add_generation_prompt = true };
    struct jinja_output out = { 0 };
    assert_true(template_render(t, &in, &out, &err));
    assert_string_equal(out.text, "13True");
    jinja_output_free(&out);
    template_free(t);
    json_decref(recipe);
    json_decref(record);
    json_decref(none);
}

static void the_date_is_the_recipes(void **state)
{
    struct scratch *s = *state;
    struct template_options o = { .model_dir = s->folder };
    scratch_write_text(s, "chat_template.jinja", "{{ strftime_now('%d %b %Y %H:%M:%S %A %j') }}");
    expect_rendering(&o, false, "01 Jan 2025 00:00:00 Wednesday 001");
    o.date = "2024-12-31";
    expect_rendering(&o, false, "31 Dec 2024 00:00:00 Tuesday 366");
    o.date = "2024-02-29T18:05:09";
    expect_rendering(&o, false, "29 Feb 2024 18:05:09 Thursday 060");
    o.date = "2024-02-29 18:05";
    expect_rendering(&o, false, "29 Feb 2024 18:05:00 Thursday 060");
}

static void what_is_no_date_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "2024",
                                       "2024-1-1",
                                       "2024-13-01",
                                       "2023-02-29",
                                       "2024-01-01 25:00",
                                       "2024-01-01 ",
                                       "2024-01-01 10:00:00Z",
                                       "2024-01-01 10:60",
                                       "2024-01-0x" };
    struct tm t;
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(data_date_read(bad[i], &t));
    struct err err = { 0 };
    assert_null(
        template_open(&(struct template_options){ .chosen = "jamba", .date = "soon" }, &err));
    assert_string_equal(err.text, "chat_template_date: is 'soon'; expected a date such as "
                                  "2025-01-01 or 2025-01-01 18:30:00");
}

/* Opening goes well: only conversations need the template. */
static void expect_problem(struct scratch *s, bool tools, const char *expected)
{
    char text[512];
    struct err err = { 0 };
    struct chat_template *t =
        template_open(&(struct template_options){ .model_dir = s->folder }, &err);
    if (t == NULL)
        fail_msg("%s", err.text);
    assert_false(render(t, tools, text, &err));
    if (strncmp(err.text, s->folder, strlen(s->folder)) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(err.text + strlen(s->folder), expected);
    template_free(t);
}

static void a_checkpoint_without_a_usable_template_is_a_problem_of_conversations(void **state)
{
    struct scratch *s = *state;
    static const char none[] =
        " has no chat template, neither chat_template.jinja nor \"chat_template\" in "
        "tokenizer_config.json; set chat_template to a template's file, to 'jamba' (<|bom|> ... "
        "<|eom|>) or to 'chatml' (<|im_start|> ... <|im_end|>)";
    expect_problem(s, false, none);
    write_json(s, CONFIG, "{'chat_template':null}");
    expect_problem(s, false, none);
    write_json(s, CONFIG, "{'chat_template':3}");
    expect_problem(s, false,
                   "/tokenizer_config.json: chat_template: is an integer; expected a template's "
                   "text");
    write_json(s, CONFIG, "{'chat_template':[{'name':'rag','template':'x'}]}");
    expect_problem(s, false,
                   "/tokenizer_config.json: \"chat_template\" has several templates, but none is "
                   "named 'default'; set chat_template to a file with the one to use");
    write_json(s, CONFIG, "{'chat_template':{'default':'x','tool_use':'{% include y %}'}}");
    char text[512];
    struct err err = { 0 };
    struct chat_template *t =
        template_open(&(struct template_options){ .model_dir = s->folder }, &err);
    assert_true(render(t, false, text, &err));
    assert_false(render(t, true, text, &err));
    assert_non_null(strstr(err.text, "/tokenizer_config.json: chat_template (tool_use):1:4: "));
    template_free(t);
    scratch_write_text(s, "chat_template.jinja", "{% if %}");
    err = (struct err){ 0 };
    t = template_open(&(struct template_options){ .model_dir = s->folder }, &err);
    assert_false(render(t, false, text, &err));
    assert_non_null(strstr(err.text, "/chat_template.jinja:1:"));
    template_free(t);
}

static void a_template_of_more_than_a_mebibyte_is_not_parsed(void **state)
{
    struct scratch *s = *state;
    static const char head[] = "{\"chat_template\":\"", tail[] = "\"}";
    const size_t n = (1 << 20) + 1;
    char *json = malloc(sizeof head + n + sizeof tail);
    assert_non_null(json);
    memcpy(json, head, sizeof head);
    memset(json + sizeof head - 1, 'x', n);
    memcpy(json + sizeof head - 1 + n, tail, sizeof tail);
    scratch_write_text(s, CONFIG, json);
    free(json);
    expect_problem(s, false,
                   "/tokenizer_config.json: chat_template: has 1048577 bytes; at most 1048576 are "
                   "expected of a template");
}

static void a_chosen_template_that_cannot_be_used_is_refused_at_once(void **state)
{
    struct scratch *s = *state;
    struct err err = { 0 };
    assert_null(template_open(&(struct template_options){ .chosen = "llama3" }, &err));
    assert_int_equal(err.code, ERR_RECIPE);
    assert_string_equal(err.text, "chat_template: 'llama3' is no file, and no template of ours; "
                                  "expected a path, 'jamba' or 'chatml'");
    char path[700];
    snprintf(path, sizeof path, "%s", scratch_write_text(s, "x.jinja", "{% for %}"));
    err = (struct err){ 0 };
    assert_null(template_open(&(struct template_options){ .chosen = path }, &err));
    assert_true(strncmp(err.text, path, strlen(path)) == 0);
    scratch_write_text(s, CONFIG, "{");
    err = (struct err){ 0 };
    assert_null(template_open(&(struct template_options){ .model_dir = s->folder }, &err));
    assert_non_null(strstr(err.text, "/tokenizer_config.json: "));
}

static void without_a_checkpoint_there_is_none(void **state)
{
    (void)state;
    char text[512];
    struct err err = { 0 };
    struct chat_template *t = template_open(&(struct template_options){ 0 }, &err);
    assert_non_null(t);
    assert_null(template_origin(t));
    assert_false(render(t, false, text, &err));
    assert_string_equal(err.text,
                        "there is no checkpoint to take a chat template from; set chat_template to "
                        "a template's file, to 'jamba' or to 'chatml'");
    template_free(t);
}

static void a_frame_is_learnt(void **state)
{
    struct scratch *s = *state;
    static const struct {
        const char *text, *header, *past_header, *closing, *ending;
        size_t n_closing;
    } cases[] = {
        /* ends of turns, white space behind them */
        { "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
          "<|assistant|>\n", "<|assistant|>\n", "<|end|>\n", "<|end|>\n", 7 },
        /* thinking that only the last answer opens with */
        { "{% for m in messages %}[{{ m.role }}]{{ '<think>\n\n' if m.role == 'assistant' and "
          "loop.last }}{{ m.content }}</s>{% endfor %}"
          "{{ '[assistant]<think>\n' if add_generation_prompt }}",
          "[assistant]<think>\n", "[assistant]", "</s>", "</s>", 4 },
        /* an end of the conversation, none of turns */
        { "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
          "{{ '<|assistant|>' if add_generation_prompt else '<|stop|>' }}",
          "<|assistant|>", "<|assistant|>", "", "<|stop|>", 0 },
        /* nothing at all */
        { "{% for m in messages %}{{ m.content }}{% endfor %}", "", "", "", "", 0 },
        /* a template that does not take the question */
        { "{{ raise_exception('no') }}", "", "", "", "", 0 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        scratch_write_text(s, "chat_template.jinja", cases[i].text);
        struct chat_template *t =
            template_open(&(struct template_options){ .model_dir = s->folder }, &err);
        if (t == NULL)
            fail_msg("%s", err.text);
        const struct template_frame *frame = template_frame(t, false);
        assert_string_equal(frame->header, cases[i].header);
        assert_string_equal(frame->past_header, cases[i].past_header);
        assert_string_equal(frame->closing, cases[i].closing);
        assert_string_equal(frame->ending, cases[i].ending);
        assert_int_equal(frame->n_closing, cases[i].n_closing);
        template_free(t);
    }
}

static void generation_marks_are_known(void **state)
{
    struct scratch *s = *state;
    struct err err = { 0 };
    static const char *const own[] = { "jamba", "chatml" };
    for (size_t i = 0; i < COUNT(own); i++) {
        struct chat_template *t =
            template_open(&(struct template_options){ .chosen = own[i] }, &err);
        assert_true(template_marks_generation(t, false));
        assert_string_equal(template_origin(t), own[i]);
        template_free(t);
    }
    write_json(
        s, CONFIG,
        "{'chat_template':{'default':'x','tool_use':'{% generation %}{% endgeneration %}'}}");
    struct chat_template *t =
        template_open(&(struct template_options){ .model_dir = s->folder }, &err);
    assert_false(template_marks_generation(t, false));
    assert_true(template_marks_generation(t, true));
    template_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define SCRATCH_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        SCRATCH_TEST(a_checkpoints_own_template_is_found),
        SCRATCH_TEST(the_recipes_choice_comes_first),
        SCRATCH_TEST(special_tokens_and_variables_are_seen),
        SCRATCH_TEST(a_records_variables_come_before_the_recipes),
        SCRATCH_TEST(the_date_is_the_recipes),
        SCRATCH_TEST(what_is_no_date_is_refused),
        SCRATCH_TEST(a_checkpoint_without_a_usable_template_is_a_problem_of_conversations),
        SCRATCH_TEST(a_template_of_more_than_a_mebibyte_is_not_parsed),
        SCRATCH_TEST(a_chosen_template_that_cannot_be_used_is_refused_at_once),
        SCRATCH_TEST(without_a_checkpoint_there_is_none),
        SCRATCH_TEST(a_frame_is_learnt),
        SCRATCH_TEST(generation_marks_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
