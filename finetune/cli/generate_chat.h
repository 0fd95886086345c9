/* `generate --chat` and `generate --json`: what is asked, and what is done with the answers. */
#ifndef FINETUNE_CLI_GENERATE_CHAT_H
#define FINETUNE_CLI_GENERATE_CHAT_H

#include <jansson.h>
#include <stdbool.h>

#include "finetune/generate/chat.h"

/* Of --chat: lists of objects, or NULL. */
struct conversation {
    json_t *messages, *tools, *documents;
};

/* system, tools (a file) and documents (a file) may be NULL. What cannot be rendered is refused. */
bool conversation_open(struct conversation *c, const char *system, const char *tools,
                       const char *documents, const struct chat_template *t, struct err *err);
void conversation_close(struct conversation *c);

/* Reads lines of stdin until it ends and prints the answers. */
bool conversation_hold(struct conversation *c, const struct chat_setup *setup, struct err *err);

/* The records of --json FILE (JSONL, a JSON list, or one object), each checked and rendered once:
 * [{"place": ..., "record": ...}]. NULL on failure. */
json_t *questions_read(const char *path, const struct chat_template *t, struct err *err);

/* Answers each by itself; as_message: one JSON object a line instead of the text. */
bool questions_answer(json_t *questions, const struct chat_setup *setup, bool as_message,
                      struct err *err);

#endif
