/* Conversations: what records become, and what is said of those that make no sense. */
#include "datasets/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/json.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Tables are written with ' for ". */
static json_t *parse(const char *text)
{
    char json[4096];
    struct err err = { 0 };
    const size_t n = strlen(text);
    assert_true(n < sizeof json);
    for (size_t i = 0; i <= n; i++)
        json[i] = text[i] == '\'' ? '"' : text[i];
    json_t *value = json_parse(json, n, "test", &err);
    if (value == NULL)
        fail_msg("%s: %s", text, err.text);
    return value;
}

static void expect_json(const json_t *have, const char *expected)
{
    json_t *value = parse(expected);
    if (!json_equal(have, value)) {
        char *shown = json_dumps(have, JSON_ENCODE_ANY);
        print_error("have %s\nexpected %s\n", shown, expected);
        free(shown);
        fail();
    }
    json_decref(value);
}

static void expect_messages(const struct data_source *source, const char *record,
                            const char *expected)
{
    struct chat chat = { 0 };
    struct err err = { 0 };
    json_t *json = parse(record);
    if (!chat_read(json, source, "x.jsonl:1", &chat, &err))
        fail_msg("%s: %s", record, err.text);
    expect_json(chat.messages, expected);
    assert_int_equal(chat.n_message, json_array_size(chat.messages));
    chat_free(&chat);
    json_decref(json);
}

#define HI "{'role':'user','content':'hi'}"
#define YO "{'role':'assistant','content':'yo'}"
#define HI_YO "[" HI "," YO "]"
#define F "{'type':'function','function':{'name':'f','arguments':{'a':1}}}"
#define CALL "{'role':'assistant','content':null,'tool_calls':[" F "]}"

static void messages_come_out_in_one_form(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "{'messages':" HI_YO "}", HI_YO },
        { "{'conversations':[{'from':'human','value':'hi'},{'from':'gpt','value':'yo'}]}", HI_YO },
        { "{'conversations':" HI_YO "}", HI_YO },
        { "{'messages':[{'from':'human','value':'hi'},{'from':'gpt','value':'yo'}]}", HI_YO },
        { "{'messages':" HI_YO ",'system':'be'}",
          "[{'role':'system','content':'be'}," HI "," YO "]" },
        { "{'messages':" HI_YO ",'system':''}", HI_YO },
        { "{'messages':" HI_YO ",'system':null,'tools':null,'documents':null}", HI_YO },
        { "{'messages':[{'role':'user','content':[{'type':'text','text':'a'},{'type':'text',"
          "'text':'b'}]}," YO "]}",
          "[{'role':'user','content':'a\\nb'}," YO "]" },
        { "{'messages':[{'role':'user','content':[]}," YO "]}",
          "[{'role':'user','content':''}," YO "]" },
        { "{'messages':[{'role':'user','content':'hi','name':null,'tool_calls':null,'train':false},"
          "{'role':'assistant','content':'yo','tool_calls':[],'weight':1,'citations':[1]}]}",
          "[" HI ",{'role':'assistant','content':'yo','citations':[1]}]" },
        { "{'messages':[" HI ",{'role':'assistant','content':null,'tool_calls':[{'type':'function',"
          "'function':{'name':'f','arguments':'{\\'a\\': 1}'}}]},"
          "{'role':'tool','content':'r'}]}",
          "[" HI "," CALL ",{'role':'tool','content':'r'}]" },
        { "{'messages':[" HI ",{'role':'assistant','tool_calls':[{'id':'i','name':'f',"
          "'arguments':{'a':1}}]},{'role':'tool','tool_call_id':'i','content':'r'}]}",
          "[" HI
          ",{'role':'assistant','tool_calls':[{'id':'i','type':'function','function':{'name':"
          "'f','arguments':{'a':1}}}]},{'role':'tool','tool_call_id':'i','content':'r'}]" },
        { "{'messages':[" HI ",{'role':'assistant','tool_calls':[{'name':'f'},{'name':'g',"
          "'arguments':''},{'name':'h','arguments':null}]}]}",
          "[" HI ",{'role':'assistant','tool_calls':[{'type':'function','function':{'name':'f',"
          "'arguments':{}}},{'type':'function','function':{'name':'g','arguments':{}}},{'type':"
          "'function','function':{'name':'h','arguments':{}}}]}]" },
        { "{'conversations':[{'from':'human','value':'hi'},{'from':'function_call','value':'{"
          "\\'name\\': \\'f\\', \\'arguments\\': {\\'a\\': 1}}'},{'from':'observation','value':"
          "'r'},{'from':'gpt','value':'yo'}]}",
          "[" HI "," CALL ",{'role':'tool','content':'r'}," YO "]" },
        { "{'messages':[" HI ",{'role':'assistant','content':'<tool_call>{}</tool_call>'},{'role':"
          "'tool','content':'r'},{'role':'tool','content':'s'}]}",
          "[" HI ",{'role':'assistant','content':'<tool_call>{}</tool_call>'},{'role':'tool',"
          "'content':'r'},{'role':'tool','content':'s'}]" },
        { "{'messages':[{'role':'system','content':'s'}," YO "]}",
          "[{'role':'system','content':'s'}," YO "]" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        expect_messages(NULL, cases[i][0], cases[i][1]);
}

static void alpaca_is_a_question_and_its_answer(void **state)
{
    (void)state;
    const struct data_source source = { .type = DATA_ALPACA };
    expect_messages(&source, "{'instruction':'hi','output':'yo'}", HI_YO);
    expect_messages(&source, "{'instruction':'hi','input':'','output':'yo'}", HI_YO);
    expect_messages(&source, "{'instruction':'hi','input':null,'output':'yo'}", HI_YO);
    expect_messages(&source, "{'instruction':'','input':'hi','output':'yo'}", HI_YO);
    expect_messages(&source, "{'instruction':'a','input':'b','output':'yo','system':'s'}",
                    "[{'role':'system','content':'s'},{'role':'user','content':'a\\nb'}," YO "]");
}

static void fields_can_have_other_names(void **state)
{
    (void)state;
    char talk[] = "talk", who[] = "who", what[] = "what", learn[] = "learn", sys[] = "sys",
         ask[] = "ask", given[] = "given", answer[] = "answer", kit[] = "kit", notes[] = "notes";
    const struct data_source source = { .type = DATA_CHAT,
                                        .field_messages = talk,
                                        .field_role = who,
                                        .field_content = what,
                                        .field_train = learn,
                                        .field_system = sys,
                                        .field_tools = kit,
                                        .field_documents = notes };
    struct chat chat = { 0 };
    struct err err = { 0 };
    json_t *json = parse("{'talk':[{'who':'user','what':'hi'},{'who':'gpt','what':'yo','learn':"
                         "false}],'sys':'s','kit':[{'name':'f'}],'notes':[{'text':'t'}]}");
    assert_true(chat_read(json, &source, "x", &chat, &err));
    expect_json(chat.messages, "[{'role':'system','content':'s'}," HI "," YO "]");
    expect_json(chat.tools, "[{'type':'function','function':{'name':'f'}}]");
    expect_json(chat.documents, "[{'text':'t'}]");
    assert_true(chat.trained[0] && chat.trained[1] && !chat.trained[2]);
    chat_free(&chat);
    json_decref(json);
    const struct data_source alpaca = {
        .type = DATA_ALPACA, .field_instruction = ask, .field_input = given, .field_output = answer
    };
    expect_messages(&alpaca, "{'ask':'a','given':'b','answer':'yo'}",
                    "[{'role':'user','content':'a\\nb'}," YO "]");
}

static void the_rest_of_a_record_is_read(void **state)
{
    (void)state;
    struct chat chat = { 0 };
    struct err err = { 0 };
    json_t *json =
        parse("{'messages':" HI_YO ",'tools':'[{\\'name\\': \\'f\\', \\'parameters\\': {}}]',"
              "'documents':[{'title':'t'}],'chat_template_kwargs':{'enable_thinking':false}}");
    assert_true(chat_read(json, NULL, "x", &chat, &err));
    expect_json(chat.tools, "[{'type':'function','function':{'name':'f','parameters':{}}}]");
    expect_json(chat.documents, "[{'title':'t'}]");
    expect_json(chat.variables, "{'enable_thinking':false}");
    assert_int_equal(chat_role(&chat, 0), CHAT_USER);
    assert_int_equal(chat_role(&chat, 1), CHAT_ASSISTANT);
    chat_free(&chat);
    assert_null(chat.messages);
    json_decref(json);
}

static void train_and_weight_say_what_carries_loss(void **state)
{
    (void)state;
    static const struct {
        const char *member;
        bool trained;
    } cases[] = {
        { "'train':true", true },    { "'train':false", false }, { "'weight':1", true },
        { "'weight':0", false },     { "'weight':0.0", false },  { "'train':0", false },
        { "'train':null", true },    { "'weight':null", true },  { "'train':1,'weight':1", true },
        { "'weight':false", false },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char record[256];
        struct chat chat = { 0 };
        struct err err = { 0 };
        snprintf(record, sizeof record,
                 "{'messages':[" HI ",{'role':'assistant','content':'yo',%s}]}", cases[i].member);
        json_t *json = parse(record);
        assert_true(chat_read(json, NULL, "x", &chat, &err));
        assert_int_equal(chat.trained[1], cases[i].trained);
        chat_free(&chat);
        json_decref(json);
    }
}

#define M(member) "{'messages':[" HI "," member "]}"
#define CALLS(calls) M("{'role':'assistant','tool_calls':" calls "}")

static void malformed_conversations_are_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "{}", "\"messages\" is missing; each record needs it" },
        { "{'messages':'hi'}", "\"messages\" is a string; expected a list of messages" },
        { "{'conversations':{}}", "\"conversations\" is an object; expected a list of messages" },
        { "{'messages':[]}", "\"messages\" is empty; expected a question and an answer" },
        { M("'yo'"), "messages[1]: is a string; expected an object with \"role\" and \"content\"" },
        { M("{'content':'yo'}"),
          "messages[1]: \"role\" is missing; expected system, user, assistant or tool" },
        { M("{'role':1,'content':'yo'}"),
          "messages[1]: \"role\" is an integer; expected system, user, assistant or tool" },
        { M("{'role':'bot','content':'yo'}"),
          "messages[1]: \"role\" is \"bot\"; expected system, user, assistant or tool" },
        { "{'conversations':[{'from':'me','value':'hi'}]}",
          "conversations[0]: \"from\" is \"me\"; expected system, user, assistant or tool" },
        { "{'messages':[" YO "]}",
          "messages[0]: is the assistant's, and nothing comes before it; expected a system's or a "
          "user's message first" },
        { "{'messages':[{'role':'user'}," YO "]}",
          "messages[0]: \"content\" is missing; expected a string, or a list of text parts" },
        { "{'messages':[{'role':'user','content':null}," YO "]}",
          "messages[0]: \"content\" is null; expected a string, or a list of text parts" },
        { "{'messages':[{'role':'user','content':{'a':1}}," YO "]}",
          "messages[0]: \"content\" is an object; expected a string, or a list of text parts" },
        { M("{'role':'assistant','content':[{'type':'image_url','image_url':'x'}]}"),
          "messages[1]: \"content\"[0] is of type \"image_url\"; only text is read" },
        { M("{'role':'assistant','content':['a',{'type':'text'}]}"),
          "messages[1]: \"content\"[1] is no text; expected {\"type\": \"text\", \"text\": ...}" },
        { M("{'role':'assistant','content':[1]}"),
          "messages[1]: \"content\"[0] is an integer; expected {\"type\": \"text\", \"text\": "
          "...}" },
        { M("{'role':'assistant','content':null}"),
          "messages[1]: has neither \"content\" nor \"tool_calls\"; expected what the assistant "
          "says or calls" },
        { M("{'role':'assistant','content':'a','name':1}"),
          "messages[1]: \"name\" is an integer; expected a string" },
        { M("{'role':'assistant','content':'a','reasoning_content':['b']}"),
          "messages[1]: \"reasoning_content\" is a list; expected a string" },
        { M("{'role':'assistant','content':'a','train':'yes'}"),
          "messages[1]: \"train\" is a string; expected true or false" },
        { M("{'role':'assistant','content':'a','weight':0.5}"),
          "messages[1]: \"weight\" is 0.5; expected 0 or 1" },
        { M("{'role':'assistant','content':'a','train':true,'weight':0}"),
          "messages[1]: \"train\" and \"weight\" contradict each other; keep one" },
        { M("{'role':'user','content':'a','train':true}"),
          "messages[1]: \"train\" asks for loss, but only the assistant's messages carry it; "
          "train_on_inputs trains on everything" },
        { M("{'role':'user','content':'a','tool_calls':[{'name':'f'}]}"),
          "messages[1]: has \"tool_calls\"; only the assistant calls tools" },
        { CALLS("{}"), "messages[1]: \"tool_calls\" is an object; expected a list of calls" },
        { CALLS("['f']"),
          "messages[1]: \"tool_calls\"[0] is a string; expected an object with \"function\"" },
        { CALLS("[{'id':'x'}]"),
          "messages[1]: \"tool_calls\"[0] has no \"function\"; expected {\"type\": \"function\", "
          "\"function\": {\"name\": ...}}" },
        { CALLS("[{'type':'code','code':{}}]"),
          "messages[1]: \"tool_calls\"[0] has the type \"code\"; only \"function\" is read" },
        { CALLS("[{'function':'f'}]"),
          "messages[1]: \"tool_calls\"[0]: \"function\" is a string; expected an object" },
        { CALLS("[{'function':{'arguments':{}}}]"),
          "messages[1]: \"tool_calls\"[0]: \"name\" is missing; expected the function's name" },
        { CALLS("[{'name':'f'},{'name':''}]"),
          "messages[1]: \"tool_calls\"[1]: \"name\" is empty; expected the function's name" },
        { CALLS("[{'function':{'name':1}}]"),
          "messages[1]: \"tool_calls\"[0]: \"name\" is an integer; expected the function's name" },
        { CALLS("[{'name':'f','arguments':[1]}]"), "messages[1]: \"tool_calls\"[0]: \"arguments\" "
                                                   "is a list; expected an object, or its JSON "
                                                   "text" },
        { CALLS("[{'name':'f','arguments':'[1]'}]"),
          "messages[1]: \"tool_calls\"[0]: \"arguments\" is a list; expected an object, or its "
          "JSON "
          "text" },
        { CALLS("[{'name':'f','arguments':'{\\'a\\': '}]"),
          "messages[1]: \"tool_calls\"[0]: \"arguments\": not valid JSON: column 6: unexpected "
          "token "
          "near end of file; expected an object, or its JSON text" },
        { "{'conversations':[{'from':'human','value':'hi'},{'from':'function_call','value':'f()'}]"
          "}",
          "conversations[1]: \"value\": not valid JSON: column 1: invalid token near 'f'; expected "
          "a "
          "call, or a list of calls, as JSON" },
        { "{'conversations':[{'from':'human','value':'hi'},{'from':'function_call','value':{}}]}",
          "conversations[1]: \"value\" is an object; expected the call as JSON text" },
        { M("{'role':'tool','content':'r'}"), "messages[1]: is a tool's result, but no tool was "
                                              "called; expected an assistant's message "
                                              "with \"tool_calls\" before it" },
        { M(YO ",{'role':'tool','content':'r'}"), "messages[2]: is a tool's result, but no tool "
                                                  "was called; expected an assistant's message "
                                                  "with \"tool_calls\" before it" },
        { M(CALL "," HI ",{'role':'tool','content':'r'}"),
          "messages[3]: is a tool's result, but no tool was called; expected an assistant's "
          "message "
          "with \"tool_calls\" before it" },
        { M(CALL ",{'role':'tool','content':'r'},{'role':'tool','content':'s'}"),
          "messages[3]: is the result of call 2, but the assistant made only 1" },
        { M("{'role':'assistant','tool_calls':[{'id':'a','name':'f'}]},{'role':'tool',"
            "'tool_call_id':'b','content':'r'}"),
          "messages[2]: \"tool_call_id\" is \"b\", but no call before it has that \"id\"" },
        { M(CALL ",{'role':'tool'}"),
          "messages[2]: \"content\" is missing; expected a string, or a list of text parts" },
        { "{'messages':" HI_YO ",'system':1}",
          "\"system\" is an integer; expected the system message's text" },
        { "{'messages':[{'role':'system','content':'a'}," HI "],'system':'b'}",
          "has \"system\" and a system message in \"messages\"; keep one" },
        { "{'messages':" HI_YO ",'tools':{}}",
          "\"tools\" is an object; expected a list of objects" },
        { "{'messages':" HI_YO ",'tools':'nope'}",
          "\"tools\": not valid JSON: column 4: invalid token near 'nope'; expected a list of "
          "objects" },
        { "{'messages':" HI_YO ",'tools':[1]}", "\"tools\"[0] is an integer; expected an object" },
        { "{'messages':" HI_YO ",'tools':[{'function':{}}]}",
          "\"tools\"[0]: \"name\" is missing; expected the function's name" },
        { "{'messages':" HI_YO ",'tools':[{'name':'f','parameters':'none'}]}",
          "\"tools\"[0]: \"parameters\" is a string; expected a JSON schema" },
        { "{'messages':" HI_YO ",'documents':['a']}",
          "\"documents\"[0] is a string; expected an object" },
        { "{'messages':" HI_YO ",'chat_template_kwargs':[]}",
          "\"chat_template_kwargs\" is a list; expected an object" },
        { "{'messages':" HI_YO ",'chat_template_kwargs':{'tools':[]}}",
          "\"chat_template_kwargs\" has \"tools\", which is no variable of its own; expected it in "
          "the record" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct chat chat = { 0 };
        struct err err = { 0 };
        char expected[512];
        json_t *json = parse(cases[i][0]);
        snprintf(expected, sizeof expected, "x.jsonl:7: %s", cases[i][1]);
        assert_false(chat_read(json, NULL, "x.jsonl:7", &chat, &err));
        assert_int_equal(err.code, ERR_DATA);
        assert_string_equal(err.text, expected);
        assert_null(chat.messages);
        json_decref(json);
    }
}

static void malformed_alpaca_records_are_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "{'output':'a'}", "x:1: \"instruction\" is missing; each record needs it" },
        { "{'instruction':'a'}", "x:1: \"output\" is missing; each record needs it" },
        { "{'instruction':1,'output':'a'}",
          "x:1: \"instruction\" is an integer; expected a string" },
        { "{'instruction':'a','output':null}", "x:1: \"output\" is null; expected a string" },
        { "{'instruction':'a','input':[],'output':'b'}",
          "x:1: \"input\" is a list; expected a string" },
    };
    const struct data_source source = { .type = DATA_ALPACA };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct chat chat = { 0 };
        struct err err = { 0 };
        json_t *json = parse(cases[i][0]);
        assert_false(chat_read(json, &source, "x:1", &chat, &err));
        assert_string_equal(err.text, cases[i][1]);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_out_in_one_form),
        cmocka_unit_test(alpaca_is_a_question_and_its_answer),
        cmocka_unit_test(fields_can_have_other_names),
        cmocka_unit_test(the_rest_of_a_record_is_read),
        cmocka_unit_test(train_and_weight_say_what_carries_loss),
        cmocka_unit_test(malformed_conversations_are_named),
        cmocka_unit_test(malformed_alpaca_records_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
