/* A conversation -> text, what of it carries loss, and token ids.
 *
 *     struct chat_rendering r = { 0 };
 *     const struct chat_options options = { .template = t, .tokenizer = tokenizer };
 *     if (!chat_render(&chat, &options, place, &r, err)) ...
 *     ... r.text, r.spans, r.tokens, r.trained ...         // the same r for the next one
 *     chat_rendering_free(&r);
 *
 * To answer a conversation instead, set add_generation_prompt: the text then ends where the
 * assistant goes on, and nothing carries loss.
 *
 * Contract: the spans concatenate to the text. Loss is carried by what the assistant must produce,
 * the end of its turn included: by {% generation %} where the template has it, else from renderings
 * of growing prefixes of the conversation, else from a rendering with marks around its contents. A
 * record for which none of them works is refused. The options narrow it or, train_on_inputs, widen
 * it.
 *
 * Tokens are those of transformers' apply_chat_template: nothing is put in front or behind (the
 * template writes BOS itself). But special tokens come from the template alone: where a string of
 * the conversation spells one, it stays text. A token carries loss when it begins inside a span
 * that does; with {% generation %} also when it begins before one and reaches into it, as in
 * transformers.
 */
#ifndef DATASETS_CHAT_RENDER_H
#define DATASETS_CHAT_RENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/chat.h"
#include "datasets/template.h"
#include "datasets/tokenizer.h"
#include "kernels/core/err.h"

struct chat_options {
    const struct chat_template *template;
    const struct tokenizer *tokenizer; /* NULL: text and spans only, special spellings not found */
    bool add_generation_prompt;
    bool train_on_inputs; /* everything, but messages with "train": false */
    bool last_turn_only;  /* only answers to the last user message that has any */
    bool mask_reasoning;  /* reasoning and the tags around it carry no loss */
};

/* How the spans were found. */
enum chat_method {
    CHAT_NONE,       /* nothing was looked for: a prompt, or train_on_inputs */
    CHAT_GENERATION, /* {% generation %} */
    CHAT_PREFIXES,
    CHAT_MARKS,
};

struct chat_span {
    size_t begin, end; /* bytes of the text */
    bool train;
};

struct chat_rendering {
    char *text; /* n bytes, terminated */
    size_t n;
    struct chat_span *spans; /* in order, without gaps, alternating; none is empty */
    int64_t n_span;
    struct token_list tokens; /* ids, and the byte each begins at; empty without a tokenizer */
    bool *trained;            /* (tokens.n) */
    int64_t trained_cap;
    enum chat_method method;
};

/* "generation marks", "growing prefixes", ...: for reports. */
const char *chat_method_name(enum chat_method method);

/* What a template raised is shown behind the place: `talk.jsonl:118: the chat template refuses it:
 * "Conversation roles must alternate"`. On failure `out` is as after chat_rendering_free. */
bool chat_render(const struct chat *chat, const struct chat_options *options, const char *place,
                 struct chat_rendering *out, struct err *err);
void chat_rendering_free(struct chat_rendering *r);

#endif
