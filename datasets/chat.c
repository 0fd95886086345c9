#include "datasets/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/chat_message.h"
#include "datasets/chat_tools.h"
#include "kernels/core/json.h"
#include "kernels/core/json_memory.h"
#include "kernels/core/text.h"

static const struct data_source no_source = { .type = DATA_CHAT };

void chat_free(struct chat *chat)
{
    json_decref(chat->messages);
    json_decref(chat->tools);
    json_decref(chat->documents);
    json_decref(chat->variables);
    free(chat->trained);
    *chat = (struct chat){ 0 };
}

/* ---- the rest of the record ---- */

/* The record's own system prompt becomes the first message. */
static bool read_system(const struct chat_reading *r, const json_t *list)
{
    const char *field = chat_name_or(r->source->field_system, "system");
    json_t *value = json_object_get(r->json, field);
    if (value == NULL || json_is_null(value) ||
        (json_is_string(value) && json_string_length(value) == 0))
        return true;
    if (!json_is_string(value))
        return chat_fail(r, "\"%s\" is %s; expected the system message's text", field,
                         json_type_name(value));
    const json_t *first = json_array_get(list, 0);
    const json_t *role =
        json_object_get(first, chat_field_of(first, r->source->field_role, "role", "from"));
    if (json_is_string(role) && strcmp(json_string_value(role), "system") == 0)
        return chat_fail(r, "has \"%s\" and a system message in \"%s\"; keep one", field, r->list);
    json_t *message = json_pack("{s:s, s:O}", "role", "system", "content", value);
    if (message == NULL || json_array_append_new(r->out->messages, message) != 0)
        return chat_no_memory(r);
    r->out->trained[r->out->n_message++] = true;
    return true;
}

/* A list of objects under `field`, or nothing. A string is taken for its JSON. */
static bool read_objects(const struct chat_reading *r, const char *field, json_t **out)
{
    json_t *value = json_object_get(r->json, field);
    if (value == NULL || json_is_null(value))
        return true;
    if (json_is_string(value)) {
        char what[CHAT_PLACE_SIZE];
        snprintf(what, sizeof what, "%s: \"%.60s\"", r->place, field);
        if (json_string_length(value) == 0)
            return true;
        value = chat_tools_parse(value, what, "a list of objects", r->err);
        if (value == NULL)
            return false;
    } else {
        json_incref(value);
    }
    *out = value;
    if (!json_is_array(value))
        return chat_fail(r, "\"%s\" is %s; expected a list of objects", field,
                         json_type_name(value));
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        if (!json_is_object(item))
            return chat_fail(r, "\"%s\"[%zu] is %s; expected an object", field, i,
                             json_type_name(item));
    }
    return true;
}

static bool read_tools(const struct chat_reading *r)
{
    const char *field = chat_name_or(r->source->field_tools, "tools");
    json_t *list = NULL;
    if (!read_objects(r, field, &list)) {
        json_decref(list);
        return false;
    }
    if (list == NULL)
        return true;
    char what[CHAT_PLACE_SIZE];
    snprintf(what, sizeof what, "%s: \"%.60s\"", r->place, field);
    r->out->tools = chat_tools_read(list, what, r->err);
    json_decref(list);
    return r->out->tools != NULL;
}

static bool read_variables(const struct chat_reading *r)
{
    static const char field[] = "chat_template_kwargs";
    json_t *value = json_object_get(r->json, field);
    if (value == NULL || json_is_null(value))
        return true;
    if (!json_is_object(value))
        return chat_fail(r, "\"%s\" is %s; expected an object", field, json_type_name(value));
    const char *key = NULL;
    json_t *item = NULL;
    json_object_foreach(value, key, item)
    {
        if (data_is_reserved_variable(key))
            return chat_fail(
                r,
                "\"%s\" has \"%s\", which is no variable of its own; expected it in the "
                "record",
                field, key);
    }
    r->out->variables = json_incref(value);
    return true;
}

/* ---- kinds of record ---- */

static json_t *find_messages(struct chat_reading *r)
{
    static const char usual[] = "messages", sharegpt[] = "conversations";
    r->list = chat_field_of(r->json, r->source->field_messages, usual, sharegpt);
    json_t *list = json_object_get(r->json, r->list);
    if (list == NULL)
        chat_fail(r, "\"%s\" is missing; each record needs it", r->list);
    else if (!json_is_array(list))
        chat_fail(r, "\"%s\" is %s; expected a list of messages", r->list, json_type_name(list));
    else if (json_array_size(list) == 0)
        chat_fail(r, "\"%s\" is empty; expected a question and an answer", r->list);
    else
        return list;
    return NULL;
}

/* The text of an Alpaca field; NULL after an error. */
static const json_t *alpaca_text(const struct chat_reading *r, const char *field)
{
    const json_t *value = json_object_get(r->json, field);
    if (json_is_string(value))
        return value;
    if (value == NULL)
        chat_fail(r, "\"%s\" is missing; each record needs it", field);
    else
        chat_fail(r, "\"%s\" is %s; expected a string", field, json_type_name(value));
    return NULL;
}

/* instruction, a line feed, input -> output; NULL after an error. */
static json_t *alpaca_messages(struct chat_reading *r)
{
    const char *input_field = chat_name_or(r->source->field_input, "input");
    const json_t *instruction =
        alpaca_text(r, chat_name_or(r->source->field_instruction, "instruction"));
    if (instruction == NULL)
        return NULL;
    const json_t *output = alpaca_text(r, chat_name_or(r->source->field_output, "output"));
    if (output == NULL)
        return NULL;
    const json_t *input = json_object_get(r->json, input_field);
    if (input != NULL && !json_is_null(input) && alpaca_text(r, input_field) == NULL)
        return NULL;
    struct text question = { 0 };
    text_append(&question, json_string_value(instruction), json_string_length(instruction));
    if (json_string_length(input) > 0) {
        if (question.len > 0)
            text_puts(&question, "\n");
        text_append(&question, json_string_value(input), json_string_length(input));
    }
    json_t *list =
        question.failed
            ? NULL
            : json_pack("[{s:s, s:s%}, {s:s, s:s%}]", "role", "user", "content",
                        question.len > 0 ? question.data : "", question.len, "role", "assistant",
                        "content", json_string_value(output), json_string_length(output));
    text_free(&question);
    if (list == NULL)
        chat_no_memory(r);
    r->list = "messages";
    return list;
}

static bool read_record(struct chat_reading *r)
{
    const bool is_alpaca = r->source->type == DATA_ALPACA;
    json_t *list = is_alpaca ? alpaca_messages(r) : json_incref(find_messages(r));
    if (list == NULL)
        return false;
    struct data_source plain = no_source; /* what alpaca_messages made has the usual names */
    const struct data_source *source = r->source;
    r->out->messages = json_array();
    r->out->trained = calloc(json_array_size(list) + 1, sizeof *r->out->trained);
    bool ok = (r->out->messages != NULL && r->out->trained != NULL) || chat_no_memory(r);
    if (is_alpaca) {
        plain.field_system = source->field_system;
        r->source = &plain;
    }
    ok = ok && read_system(r, list) && chat_read_messages(r, list);
    r->source = source;
    json_decref(list);
    return ok && read_tools(r) &&
           read_objects(r, chat_name_or(source->field_documents, "documents"),
                        &r->out->documents) &&
           read_variables(r);
}

bool chat_read(json_t *json, const struct data_source *source, const char *place, struct chat *out,
               struct err *err)
{
    struct chat_reading r = { .json = json,
                              .source = source != NULL ? source : &no_source,
                              .place = place,
                              .out = out,
                              .err = err };
    /* jansson copies what there is room for, and says nothing of the rest. */
    json_memory_failed();
    const bool ok = read_record(&r);
    const bool has_memory = !json_memory_failed() || chat_no_memory(&r);
    if (ok && has_memory)
        return true;
    chat_free(out);
    return false;
}
