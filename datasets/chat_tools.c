#include "datasets/chat_tools.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "kernels/core/json.h"

/* The place of one element: "..."tool_calls"[1]". */
enum { PLACE_SIZE = CHAT_PLACE_SIZE + 32 };

/* The object with "name", which the element is or has as "function"; NULL after an error. */
static json_t *function_of(json_t *item, const char *place, struct err *err)
{
    if (!json_is_object(item)) {
        err_set(err, ERR_DATA, "%s is %s; expected an object with \"function\"", place,
                json_type_name(item));
        return NULL;
    }
    const json_t *type = json_object_get(item, "type");
    json_t *function = json_object_get(item, "function");
    if (function == NULL && json_object_get(item, "name") != NULL)
        return item;
    if (function == NULL && json_is_string(type) &&
        strcmp(json_string_value(type), "function") != 0)
        err_set(err, ERR_DATA, "%s has the type \"%.60s\"; only \"function\" is read", place,
                json_string_value(type));
    else if (function == NULL)
        err_set(err, ERR_DATA,
                "%s has no \"function\"; expected {\"type\": \"function\", "
                "\"function\": {\"name\": ...}}",
                place);
    else if (!json_is_object(function))
        err_set(err, ERR_DATA, "%s: \"function\" is %s; expected an object", place,
                json_type_name(function));
    else
        return function;
    return NULL;
}

static bool check_name(const json_t *function, const char *place, struct err *err)
{
    const json_t *name = json_object_get(function, "name");
    if (json_is_string(name) && json_string_length(name) > 0)
        return true;
    return err_set(err, ERR_DATA, "%s: \"name\" is %s; expected the function's name", place,
                   name == NULL           ? "missing"
                   : json_is_string(name) ? "empty"
                                          : json_type_name(name));
}

json_t *chat_tools_parse(const json_t *text, const char *place, const char *expected,
                         struct err *err)
{
    struct err problem = { 0 };
    json_t *value = json_parse(json_string_value(text), json_string_length(text), place, &problem);
    if (value == NULL)
        err_set(err, problem.code, "%s; expected %s", problem.text, expected);
    return value;
}

/* The arguments as an object; NULL after an error. */
static json_t *read_arguments(json_t *value, const char *place, struct err *err)
{
    static const char expected[] = "an object, or its JSON text";
    char what[PLACE_SIZE + 32];
    if (value == NULL || json_is_null(value) ||
        (json_is_string(value) && json_string_length(value) == 0)) {
        json_t *none = json_object();
        if (none == NULL)
            err_no_memory(err, "a tool's arguments");
        return none;
    }
    snprintf(what, sizeof what, "%s: \"arguments\"", place);
    value =
        json_is_string(value) ? chat_tools_parse(value, what, expected, err) : json_incref(value);
    if (value != NULL && !json_is_object(value)) {
        err_set(err, ERR_DATA, "%s is %s; expected %s", what, json_type_name(value), expected);
        json_decref(value);
        value = NULL;
    }
    return value;
}

/* The element with `function` in the place of its own. A new object. */
static json_t *wrap(json_t *item, json_t *function, bool was_wrapped)
{
    json_t *out = was_wrapped ? json_copy(item) : json_object();
    bool ok = out != NULL;
    json_t *id = was_wrapped ? NULL : json_object_get(item, "id");
    if (ok && id != NULL)
        ok = json_object_set(out, "id", id) == 0;
    if (ok && json_object_get(out, "type") == NULL)
        ok = json_object_set_new(out, "type", json_string("function")) == 0;
    ok = ok && json_object_set(out, "function", function) == 0;
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

static json_t *read_call(json_t *item, const char *place, struct err *err)
{
    json_t *found = function_of(item, place, err);
    if (found == NULL || !check_name(found, place, err))
        return NULL;
    json_t *arguments = read_arguments(json_object_get(found, "arguments"), place, err);
    if (arguments == NULL)
        return NULL;
    json_t *function = json_copy(found), *out = NULL;
    if (function != NULL && json_object_set(function, "arguments", arguments) == 0) {
        if (found == item) { /* not the function's own */
            json_object_del(function, "id");
            json_object_del(function, "type");
        }
        out = wrap(item, function, found != item);
    }
    json_decref(arguments);
    json_decref(function);
    if (out == NULL)
        err_no_memory(err, "a tool's call");
    return out;
}

static json_t *read_tool(json_t *item, const char *place, struct err *err)
{
    json_t *function = function_of(item, place, err);
    if (function == NULL || !check_name(function, place, err))
        return NULL;
    const json_t *parameters = json_object_get(function, "parameters");
    if (parameters != NULL && !json_is_object(parameters) && !json_is_null(parameters)) {
        err_set(err, ERR_DATA, "%s: \"parameters\" is %s; expected a JSON schema", place,
                json_type_name(parameters));
        return NULL;
    }
    json_t *out = function == item ? json_pack("{s:s, s:O}", "type", "function", "function", item)
                                   : wrap(item, function, true);
    if (out == NULL)
        err_no_memory(err, "a tool");
    return out;
}

static json_t *read_each(json_t *list, const char *place,
                         json_t *(*read)(json_t *item, const char *place, struct err *err),
                         struct err *err)
{
    json_t *out = json_array();
    bool ok = out != NULL || err_no_memory(err, "tools");
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        char what[PLACE_SIZE];
        snprintf(what, sizeof what, "%.*s[%zu]", CHAT_PLACE_SIZE, place, i);
        json_t *item = read(json_array_get(list, i), what, err);
        ok = item != NULL && (json_array_append_new(out, item) == 0 || err_no_memory(err, "tools"));
    }
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

json_t *chat_tools_read_calls(json_t *list, const char *place, struct err *err)
{
    if (json_is_array(list))
        return read_each(list, place, read_call, err);
    err_set(err, ERR_DATA, "%s is %s; expected a list of calls", place, json_type_name(list));
    return NULL;
}

json_t *chat_tools_read(json_t *list, const char *place, struct err *err)
{
    return read_each(list, place, read_tool, err);
}
