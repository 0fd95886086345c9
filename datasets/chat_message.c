#include "datasets/chat_message.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "datasets/chat_tools.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

#define ROLES "system, user, assistant or tool"

const char *chat_name_or(const char *name, const char *usual)
{
    return name != NULL ? name : usual;
}

bool chat_fail(const struct chat_reading *r, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(r->err, ERR_DATA, "%s: %s", r->place, text);
}

static bool fail_message(const struct chat_reading *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "place: messages[2]: ...", and false. */
static bool fail_message(const struct chat_reading *r, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(r->err, ERR_DATA, "%s: %s[%" PRId64 "]: %s", r->place, r->list, r->i, text);
}

bool chat_no_memory(const struct chat_reading *r)
{
    return err_no_memory(r->err, "a conversation");
}

/* ---- roles ---- */

struct role_name {
    const char *name;
    enum chat_role role;
    bool is_call; /* ShareGPT's call of a tool: its JSON is the content */
};

static const struct role_name role_names[] = {
    { "system", CHAT_SYSTEM, false },       { "user", CHAT_USER, false },
    { "assistant", CHAT_ASSISTANT, false }, { "tool", CHAT_TOOL, false },
    { "human", CHAT_USER, false },          { "gpt", CHAT_ASSISTANT, false },
    { "observation", CHAT_TOOL, false },    { "function_call", CHAT_ASSISTANT, true },
};

static const struct role_name *find_role(const char *name)
{
    for (size_t i = 0; i < sizeof role_names / sizeof *role_names; i++) {
        if (strcmp(role_names[i].name, name) == 0)
            return &role_names[i];
    }
    return NULL;
}

enum chat_role chat_role(const struct chat *chat, int64_t message)
{
    const json_t *object = json_array_get(chat->messages, (size_t)message);
    return find_role(json_string_value(json_object_get(object, "role")))->role;
}

const char *chat_field_of(const json_t *object, const char *chosen, const char *usual,
                          const char *sharegpt)
{
    if (chosen != NULL && strcmp(chosen, usual) != 0)
        return chosen;
    const bool is_sharegpt =
        json_object_get(object, usual) == NULL && json_object_get(object, sharegpt) != NULL;
    return is_sharegpt ? sharegpt : usual;
}

static const struct role_name *read_role(const struct chat_reading *r, const json_t *message,
                                         const char *field)
{
    const json_t *value = json_object_get(message, field);
    const struct role_name *role =
        json_is_string(value) ? find_role(json_string_value(value)) : NULL;
    if (role != NULL)
        return role;
    if (value == NULL)
        fail_message(r, "\"%s\" is missing; expected " ROLES, field);
    else if (!json_is_string(value))
        fail_message(r, "\"%s\" is %s; expected " ROLES, field, json_type_name(value));
    else
        fail_message(r, "\"%s\" is \"%.60s\"; expected " ROLES, field, json_string_value(value));
    return NULL;
}

/* ---- content ---- */

static bool append_part(const struct chat_reading *r, const json_t *part, const char *field,
                        size_t k, struct text *text)
{
    const json_t *type = json_object_get(part, "type"), *string = json_object_get(part, "text");
    if (json_is_string(type) && strcmp(json_string_value(type), "text") != 0)
        return fail_message(r, "\"%s\"[%zu] is of type \"%.60s\"; only text is read", field, k,
                            json_string_value(type));
    if (json_is_string(part))
        string = part;
    if (!json_is_string(string))
        return fail_message(r, "\"%s\"[%zu] is %s; expected {\"type\": \"text\", \"text\": ...}",
                            field, k, json_is_object(part) ? "no text" : json_type_name(part));
    if (k > 0)
        text_puts(text, "\n");
    text_append(text, json_string_value(string), json_string_length(string));
    return true;
}

/* Content as one string, or null; NULL after an error. */
static json_t *read_content(const struct chat_reading *r, json_t *value, const char *field)
{
    if (json_is_string(value) || json_is_null(value))
        return json_incref(value);
    if (!json_is_array(value)) {
        fail_message(r, "\"%s\" is %s; expected a string, or a list of text parts", field,
                     json_type_name(value));
        return NULL;
    }
    struct text text = { 0 };
    bool ok = true;
    for (size_t k = 0; ok && k < json_array_size(value); k++)
        ok = append_part(r, json_array_get(value, k), field, k, &text);
    json_t *string = NULL;
    if (ok) {
        string = text.failed ? NULL : json_stringn(text.len > 0 ? text.data : "", text.len);
        if (string == NULL)
            chat_no_memory(r);
    }
    text_free(&text);
    return string;
}

/* ---- what carries loss ---- */

/* true, false, 0 or 1 into *out; a missing field or null leaves it. */
static bool read_flag(const struct chat_reading *r, const json_t *message, const char *field,
                      const char *expected, int *out)
{
    const json_t *value = json_object_get(message, field);
    if (value == NULL || json_is_null(value))
        return true;
    const double number = json_is_number(value) ? json_number_value(value) : -1;
    if (json_is_boolean(value))
        *out = json_is_true(value);
    else if (number >= 0 && number <= 1 && number == (double)(int)number)
        *out = (int)number;
    else if (json_is_number(value))
        return fail_message(r, "\"%s\" is %g; expected %s", field, json_number_value(value),
                            expected);
    else
        return fail_message(r, "\"%s\" is %s; expected %s", field, json_type_name(value), expected);
    return true;
}

static bool read_trained(const struct chat_reading *r, const json_t *message, enum chat_role role,
                         bool *out)
{
    const char *field = chat_name_or(r->source->field_train, "train");
    int train = -1, weight = -1;
    if (!read_flag(r, message, field, "true or false", &train) ||
        !read_flag(r, message, "weight", "0 or 1", &weight))
        return false;
    if (train >= 0 && weight >= 0 && train != weight)
        return fail_message(r, "\"%s\" and \"weight\" contradict each other; keep one", field);
    const int said = train >= 0 ? train : weight;
    if (said == 1 && role != CHAT_ASSISTANT)
        return fail_message(r,
                            "\"%s\" asks for loss, but only the assistant's messages carry it; "
                            "train_on_inputs trains on everything",
                            train >= 0 ? field : "weight");
    *out = said != 0;
    return true;
}

/* ---- one message ---- */

/* Its parts under their names of here. */
struct message {
    const struct role_name *role;
    const char *role_field, *content_field;
    json_t *object; /* what is made of it */
};

static bool set(const struct chat_reading *r, json_t *object, const char *key, json_t *value)
{
    if (value == NULL)
        return false; /* said by who made it */
    return json_object_set_new(object, key, value) == 0 || chat_no_memory(r);
}

/* A value of ours, for set. */
static json_t *made(const struct chat_reading *r, json_t *value)
{
    if (value == NULL)
        chat_no_memory(r);
    return value;
}

/* ShareGPT's function_call: the content is the JSON of one call, or of a list. */
static bool read_call_content(const struct chat_reading *r, const struct message *m, json_t *value)
{
    if (!json_is_string(value))
        return fail_message(r, "\"%s\" is %s; expected the call as JSON text", m->content_field,
                            json_type_name(value));
    char what[CHAT_PLACE_SIZE];
    snprintf(what, sizeof what, "%s: %s[%" PRId64 "]: \"%.40s\"", r->place, r->list, r->i,
             m->content_field);
    json_t *calls = chat_tools_parse(value, what, "a call, or a list of calls, as JSON", r->err);
    if (calls == NULL)
        return false;
    if (!json_is_array(calls)) {
        json_t *one = json_pack("[o]", calls);
        if (one == NULL)
            return chat_no_memory(r);
        calls = one;
    }
    json_t *read = chat_tools_read_calls(calls, what, r->err);
    json_decref(calls);
    if (set(r, m->object, "content", json_null()))
        return set(r, m->object, "tool_calls", read);
    json_decref(read);
    return false;
}

static bool read_calls(const struct chat_reading *r, const struct message *m, json_t *value)
{
    char what[CHAT_PLACE_SIZE];
    snprintf(what, sizeof what, "%s: %s[%" PRId64 "]: \"tool_calls\"", r->place, r->list, r->i);
    if (json_is_array(value) && json_array_size(value) == 0)
        return true;
    if (m->role->role != CHAT_ASSISTANT)
        return fail_message(r, "has \"tool_calls\"; only the assistant calls tools");
    return set(r, m->object, "tool_calls", chat_tools_read_calls(value, what, r->err));
}

static bool read_string(const struct chat_reading *r, const struct message *m, const char *key,
                        json_t *value)
{
    if (!json_is_string(value))
        return fail_message(r, "\"%s\" is %s; expected a string", key, json_type_name(value));
    return set(r, m->object, key, json_incref(value));
}

static bool is_text_field(const char *key)
{
    static const char *const keys[] = { "name", "tool_call_id", "reasoning_content", "reasoning",
                                        "thinking" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(key, keys[i]) == 0)
            return true;
    }
    return false;
}

static bool read_member(const struct chat_reading *r, const struct message *m, const char *key,
                        json_t *value)
{
    const char *train = chat_name_or(r->source->field_train, "train");
    if (strcmp(key, m->role_field) == 0)
        return set(r, m->object, "role", made(r, json_string(role_names[m->role->role].name)));
    if (strcmp(key, m->content_field) == 0 && m->role->is_call)
        return read_call_content(r, m, value);
    if (strcmp(key, m->content_field) == 0)
        return set(r, m->object, "content", read_content(r, value, m->content_field));
    if (json_is_null(value) || strcmp(key, train) == 0 || strcmp(key, "weight") == 0)
        return true;
    if (strcmp(key, "tool_calls") == 0)
        return read_calls(r, m, value);
    if (is_text_field(key))
        return read_string(r, m, key, value);
    return set(r, m->object, key, json_incref(value));
}

static bool check_message(const struct chat_reading *r, const struct message *m)
{
    const json_t *content = json_object_get(m->object, "content");
    const bool has_calls = json_object_get(m->object, "tool_calls") != NULL;
    if (json_is_string(content))
        return true;
    if (m->role->role == CHAT_ASSISTANT && has_calls)
        return true;
    if (m->role->role == CHAT_ASSISTANT)
        return fail_message(r,
                            "has neither \"%s\" nor \"tool_calls\"; expected what the assistant "
                            "says or calls",
                            m->content_field);
    return fail_message(r, "\"%s\" is %s; expected a string, or a list of text parts",
                        m->content_field, content == NULL ? "missing" : "null");
}

static bool read_message(const struct chat_reading *r, json_t *json, const struct role_name **role)
{
    if (!json_is_object(json))
        return fail_message(r, "is %s; expected an object with \"role\" and \"content\"",
                            json_type_name(json));
    struct message m = {
        .role_field = chat_field_of(json, r->source->field_role, "role", "from"),
        .content_field = chat_field_of(json, r->source->field_content, "content", "value"),
    };
    m.role = read_role(r, json, m.role_field);
    bool trained = true;
    if (m.role == NULL || !read_trained(r, json, m.role->role, &trained))
        return false;
    m.object = json_object();
    bool ok = m.object != NULL || chat_no_memory(r);
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(json, key, value)
    {
        ok = ok && read_member(r, &m, key, value);
    }
    ok = ok && check_message(r, &m);
    if (ok && json_array_append(r->out->messages, m.object) != 0)
        ok = chat_no_memory(r);
    json_decref(m.object);
    r->out->trained[r->out->n_message] = trained;
    r->out->n_message += ok;
    *role = m.role;
    return ok;
}

/* ---- their order ---- */

/* What came before the message at hand. */
struct order {
    const json_t *calls; /* of the assistant's message before it, when only results came since */
    bool may_call;       /* that message spells a call in its content */
    size_t n_result;
};

/* A call that the template knows nothing of: written out by whoever made the data. */
static bool spells_call(const json_t *message)
{
    const char *content = json_string_value(json_object_get(message, "content"));
    return content != NULL &&
           (strstr(content, "tool_call") != NULL || strstr(content, "TOOL_CALL") != NULL ||
            strstr(content, "<function") != NULL);
}

static bool has_id(const json_t *calls, const char *id, bool *any)
{
    bool found = false;
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *its = json_object_get(json_array_get(calls, i), "id");
        *any = *any || json_is_string(its);
        found = found || (json_is_string(its) && strcmp(json_string_value(its), id) == 0);
    }
    return found;
}

static bool check_result(const struct chat_reading *r, const json_t *message, struct order *order)
{
    const size_t n = json_array_size(order->calls);
    if (n == 0 && order->may_call)
        return true;
    if (n == 0)
        return fail_message(r, "is a tool's result, but no tool was called; expected an "
                               "assistant's message with \"tool_calls\" before it");
    if (++order->n_result > n)
        return fail_message(r, "is the result of call %zu, but the assistant made only %zu",
                            order->n_result, n);
    const json_t *id = json_object_get(message, "tool_call_id");
    bool any = false;
    if (id != NULL && !has_id(order->calls, json_string_value(id), &any) && any)
        return fail_message(r,
                            "\"tool_call_id\" is \"%.60s\", but no call before it has that "
                            "\"id\"",
                            json_string_value(id));
    return true;
}

static bool check_order(const struct chat_reading *r, enum chat_role role, struct order *order)
{
    const json_t *message = json_array_get(r->out->messages, (size_t)r->out->n_message - 1);
    if (role == CHAT_TOOL)
        return check_result(r, message, order);
    if (role == CHAT_ASSISTANT && r->out->n_message == 1)
        return fail_message(r, "is the assistant's, and nothing comes before it; expected a "
                               "system's or a user's message first");
    const bool answers = role == CHAT_ASSISTANT;
    *order = (struct order){
        .calls = answers ? json_object_get(message, "tool_calls") : NULL,
        .may_call = answers && spells_call(message),
    };
    return true;
}

bool chat_read_messages(struct chat_reading *r, json_t *list)
{
    struct order order = { 0 };
    for (; r->i < (int64_t)json_array_size(list); r->i++) {
        const struct role_name *role = NULL;
        if (!read_message(r, json_array_get(list, (size_t)r->i), &role) ||
            !check_order(r, role->role, &order))
            return false;
    }
    return true;
}
