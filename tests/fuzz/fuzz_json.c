/* json_parse and the typed reads: what is accepted is UTF-8, and written out again means the same.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

/* A read gives what is there, within its bounds, or says what it expected. */
static void read_members(json_t *object)
{
    static const char *const keys[] = { "a", "b", "vocab_size", "dtype" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct err err = { 0 };
        int64_t whole = 5;
        double number = 0;
        bool truth = false;
        const char *text = NULL;
        FUZZ_CHECK(json_get_int(object, keys[i], true, -7, 1000, &whole, "place", &err) ==
                   (err.code == ERR_NONE));
        FUZZ_CHECK(whole >= -7 && whole <= 1000);
        json_get_real(object, keys[i], true, &number, "place", &err);
        json_get_bool(object, keys[i], true, &truth, "place", &err);
        if (json_get_string(object, keys[i], true, &text, "place", &err))
            fuzz_touch(text, strlen(text));
    }
}

bool fuzz_json(const uint8_t *bytes, size_t n, struct err *err)
{
    json_t *value = json_parse((const char *)bytes, n, "fuzz", err);
    if (value == NULL)
        return false;
    FUZZ_CHECK(text_is_utf8((const char *)bytes, n, NULL) && memchr(bytes, 0, n) == NULL);
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    FUZZ_CHECK(text != NULL);
    json_t *again = json_parse(text, strlen(text), "again", err);
    FUZZ_CHECK(again != NULL && json_equal(value, again));
    if (json_is_object(value))
        read_members(value);
    json_decref(again);
    free(text);
    json_decref(value);
    return true;
}
