#include "kernels/core/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json_memory.h"
#include "kernels/core/text.h"

/* About the memory that jansson 2.14 takes for the values of a text, as measured. */
static size_t memory_of(const char *bytes, size_t n)
{
    enum { LIST = 144, OBJECT = 240, MEMBER = 96, ITEM = 48, STRING = 48 };
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        switch (bytes[i]) {
        case '[':
            total += LIST;
            break;
        case '{':
            total += OBJECT;
            break;
        case ':':
            total += MEMBER;
            break;
        case ',':
            total += ITEM;
            break;
        case '"':
            total += STRING;
            for (i++; i < n && bytes[i] != '"'; i++)
                i += bytes[i] == '\\';
            break;
        default:
            break;
        }
    }
    return total;
}

json_t *json_parse(const char *bytes, size_t n, const char *place, struct err *err)
{
    if (n >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) {
        bytes += 3;
        n -= 3;
    }
    if (memory_of(bytes, n) > JSON_MAX_MEMORY) {
        err_set(err, ERR_DATA,
                "%s: has so many values that they would take more than %d MiB of memory", place,
                JSON_MAX_MEMORY >> 20);
        return NULL;
    }
    /* jansson's lexer loses one that it had to put back. */
    const char *zero = n > 0 ? memchr(bytes, '\0', n) : NULL;
    if (zero != NULL) {
        err_set(err, ERR_DATA, "%s: not valid JSON: has a zero byte, at byte %td", place,
                zero - bytes);
        return NULL;
    }
    json_error_t why;
    bool out_of_memory = false;
    json_t *value = json_memory_load(
        bytes, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why, &out_of_memory);
    if (value != NULL)
        return value;
    /* jansson leaves no text where an allocation of its own failed. */
    if (out_of_memory || json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0')
        err_no_memory(err, place);
    else if (why.line > 1)
        err_set(err, ERR_DATA, "%s: not valid JSON: line %d, column %d: %s", place, why.line,
                why.column, why.text);
    else
        err_set(err, ERR_DATA, "%s: not valid JSON: column %d: %s", place, why.column, why.text);
    return NULL;
}

char *json_to_text(const json_t *value, size_t flags)
{
    char *text = value != NULL ? json_dumps(value, flags) : NULL;
    if (!json_memory_failed())
        return text;
    free(text);
    return NULL;
}

json_t *json_load_object(const char *path, size_t limit, struct err *err)
{
    char *bytes = NULL;
    size_t n = 0;
    if (!file_read(path, limit, &bytes, &n, err))
        return NULL;
    json_t *root = json_parse(bytes, n, path, err);
    free(bytes);
    if (root != NULL && !json_is_object(root)) {
        err_set(err, ERR_DATA, "%s: is %s; expected an object", path, json_type_name(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

const char *json_type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

/* The member, or NULL when it is missing or null; *ok is false when it was required. */
static json_t *member(json_t *object, const char *key, bool required, const char *place,
                      struct err *err, bool *ok)
{
    json_t *value = json_object_get(object, key);
    if (value != NULL && json_is_null(value))
        value = NULL;
    *ok = value != NULL || !required;
    if (!*ok)
        err_set(err, ERR_DATA, "%s: \"%s\" is missing", place, key);
    return value;
}

static bool wrong_type(const json_t *value, const char *key, const char *expected,
                       const char *place, struct err *err)
{
    return err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected %s", place, key,
                   json_type_name(value), expected);
}

bool json_get_int(json_t *object, const char *key, bool required, int64_t low, int64_t high,
                  int64_t *out, const char *place, struct err *err)
{
    bool ok = false;
    const json_t *value = member(object, key, required, place, err, &ok);
    if (value == NULL)
        return ok;
    if (!json_is_integer(value))
        return wrong_type(value, key, "an integer", place, err);
    const json_int_t v = json_integer_value(value);
    if (v < low || v > high)
        return err_set(err, ERR_DATA,
                       "%s: \"%s\" is %" JSON_INTEGER_FORMAT "; expected %" PRId64 " to %" PRId64,
                       place, key, v, low, high);
    *out = v;
    return true;
}

bool json_get_real(json_t *object, const char *key, bool required, double *out, const char *place,
                   struct err *err)
{
    bool ok = false;
    const json_t *value = member(object, key, required, place, err, &ok);
    if (value == NULL)
        return ok;
    if (!json_is_number(value))
        return wrong_type(value, key, "a number", place, err);
    *out = json_number_value(value);
    return true;
}

bool json_get_bool(json_t *object, const char *key, bool required, bool *out, const char *place,
                   struct err *err)
{
    bool ok = false;
    const json_t *value = member(object, key, required, place, err, &ok);
    if (value == NULL)
        return ok;
    if (!json_is_boolean(value))
        return wrong_type(value, key, "true or false", place, err);
    *out = json_is_true(value);
    return true;
}

bool json_get_string(json_t *object, const char *key, bool required, const char **out,
                     const char *place, struct err *err)
{
    bool ok = false;
    const json_t *value = member(object, key, required, place, err, &ok);
    if (value == NULL)
        return ok;
    if (!json_is_string(value))
        return wrong_type(value, key, "a string", place, err);
    *out = json_string_value(value);
    return true;
}
