/* Tools and their calls, brought into the form that chat templates expect. */
#ifndef DATASETS_CHAT_TOOLS_H
#define DATASETS_CHAT_TOOLS_H

#include <jansson.h>

#include "kernels/core/err.h"

enum { CHAT_PLACE_SIZE = 2048 }; /* bytes of a place, at most */

/* A list of calls: {"type": "function", "function": {"name", "arguments"}}, or the inner object
 * alone. Arguments become an object: JSON text of one is parsed, none is {}. `place` starts the
 * messages ("talk.jsonl:7: messages[1]: "tool_calls""). A new list, or NULL on failure. */
json_t *chat_tools_read_calls(json_t *list, const char *place, struct err *err);

/* A list of objects: the same for the schemas of tools. */
json_t *chat_tools_read(json_t *list, const char *place, struct err *err);

/* A string's JSON, or NULL; `expected` ends the message. */
json_t *chat_tools_parse(const json_t *text, const char *place, const char *expected,
                         struct err *err);

#endif
