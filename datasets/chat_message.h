/* The messages of a record: one after the other brought into the form that templates expect, and
 * checked by themselves and in their order. Parts of chat.c, which is where to look first.
 */
#ifndef DATASETS_CHAT_MESSAGE_H
#define DATASETS_CHAT_MESSAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "datasets/chat.h"
#include "datasets/config.h"
#include "kernels/core/err.h"

/* A record being read. */
struct chat_reading {
    json_t *json;
    const struct data_source *source;
    const char *place;
    struct chat *out;
    struct err *err;
    const char *list; /* name of the field with the messages */
    int64_t i;        /* the message at hand */
};

/* "place: ...", and false. */
bool chat_fail(const struct chat_reading *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool chat_no_memory(const struct chat_reading *r);

const char *chat_name_or(const char *name, const char *usual);

/* The name of an object's field: the source's, the usual one, or ShareGPT's. */
const char *chat_field_of(const json_t *object, const char *chosen, const char *usual,
                          const char *sharegpt);

/* Appends all messages of the list to the chat, which has room in `trained`. */
bool chat_read_messages(struct chat_reading *r, json_t *list);

#endif
