/* Conversations with a model, by its chat template.
 *
 *     struct chat_session s = { 0 };
 *     const struct chat_setup setup = { .engine = &e, .tokenizer = tok, .template = t, .end = &end,
 *                                       .sampling = how, .max_new_tokens = 256 };
 *     chat_session_open(&s, &setup);
 *     struct text answer = { 0 };
 *     while (...)                                   // chat: the messages so far, the user's last
 *         ok = chat_session_answer(&s, &chat, place, &answer, err);
 *     json_t *message = chat_message(answer.data, err);    // to be appended to the messages
 *     chat_session_close(&s);
 *
 * Between answers the state is carried: where the rendering of the longer conversation begins with
 * all that the model has read and written, only what is new is fed; else (a template that rewrites
 * earlier turns, another conversation) the whole.
 *
 * An answer ends before an end token of the checkpoint, or before what the template writes behind
 * an answer ("<|im_end|>"), whether the tokenizer has that as a token or not.
 */
#ifndef FINETUNE_GENERATE_CHAT_H
#define FINETUNE_GENERATE_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/chat.h"
#include "datasets/template.h"
#include "finetune/generate/text.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

struct chat_setup {
    struct engine *engine; /* after engine_allocate_generation */
    const struct tokenizer *tokenizer;
    const struct chat_template *template;
    const struct end_tokens *end;
    struct sampling sampling;
    int64_t max_new_tokens; /* of an answer */
    bool fresh;             /* carries nothing: every answer, and its draws, as if it were alone */
    /* Called with whole characters of the answer as soon as they are certain; may be NULL. */
    bool (*emit)(void *context, const char *bytes, size_t n, struct err *err);
    void *context;
};

struct chat_session {
    struct chat_setup setup;
    struct end_tokens end; /* the checkpoint's, and the template's end of a turn */
    struct generation generation;
    struct text_run *run;  /* NULL: nothing is fed */
    struct text shown;     /* what the run has read and written, as the template would write it */
    int64_t n_fed, n_kept; /* of the last answer: tokens fed for it, and carried from before */
    /* Of the answer at hand. */
    const char *closing; /* what ends it as text; NULL: only end tokens do */
    size_t n_closing;
    struct text written; /* by the model, the closing included */
    size_t n_answer;     /* of it: the rest is the closing and what came with it */
    size_t n_emitted;
    bool stop;
};

/* The setup's objects are borrowed. *s must stay where it is. */
void chat_session_open(struct chat_session *s, const struct chat_setup *setup);
void chat_session_close(struct chat_session *s);

/* Answers a conversation; `out` gets the text, special tokens spelled out, without what ends the
 * turn. `place` starts messages. */
bool chat_session_answer(struct chat_session *s, const struct chat *chat, const char *place,
                         struct text *out, struct err *err);

/* An answer as a message: {"role": "assistant", "content": ...}, "reasoning_content" where it
 * thinks up to a </think>, and "tool_calls" in the form of chat_read where it calls tools as
 * Jamba's and ChatML's templates write it, <tool_calls>[...]</tool_calls> or
 * <tool_call>{...}</tool_call>. Calls that are no JSON, or have no name, stay content. NULL: out of
 * memory. */
json_t *chat_message(const char *answer, struct err *err);

#endif
