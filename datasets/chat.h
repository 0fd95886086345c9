/* Conversations: a record brought into the one form that chat templates expect, and checked.
 *
 *     struct chat chat = { 0 };
 *     if (!chat_read(json, &source, "talk.jsonl:118", &chat, err)) ...
 *     ... chat.messages, chat.tools, chat.trained ...
 *     chat_free(&chat);
 *
 * Read are
 *
 *     {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...], "documents": [...]}
 *     {"conversations": [{"from": "human", "value": "..."}, ...]}          ShareGPT
 *     {"instruction": "...", "input": "...", "output": "..."}              Alpaca
 *
 * and what comes out is always the first: roles system, user, assistant and tool; content a string
 * (text parts are joined by line feeds, as servers join them) or null; tool calls as {"type":
 * "function", "function": {"name": ..., "arguments": {...}}}, tools as {"type": "function",
 * "function": {...}}. Members that are null and empty lists of calls are left out. Everything else
 * in a message reaches the template as it is.
 *
 * A conversation that makes no sense to any template is refused: "talk.jsonl:118: messages[2].role
 * is "bot"; expected ...". What a particular template does not take is the template's business.
 */
#ifndef DATASETS_CHAT_H
#define DATASETS_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "datasets/config.h"
#include "kernels/core/err.h"

struct chat {
    json_t *messages;  /* a list of objects */
    json_t *tools;     /* a list of objects, or NULL */
    json_t *documents; /* a list of objects, or NULL */
    json_t *variables; /* the record's "chat_template_kwargs", an object, or NULL */
    bool *trained;     /* (n_message): false where the record says "train": false */
    int64_t n_message;
};

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };

/* A record of the source's type, which is DATA_CHAT or DATA_ALPACA; source NULL: DATA_CHAT with the
 * usual names. `place` starts every message. `out` starts zeroed or freed; on failure it is freed.
 */
bool chat_read(json_t *json, const struct data_source *source, const char *place, struct chat *out,
               struct err *err);
void chat_free(struct chat *chat);

enum chat_role chat_role(const struct chat *chat, int64_t message);

#endif
