/* One record of a data set -> token ids and labels.
 *
 *     struct record r = { 0 };
 *     if (source.type == DATA_AUTO && !record_guess(json, &source, place, &source.type, err)) ...
 *     if (!record_read(json, &source, &options, place, &r, err)) ...
 *     ... r.ids, r.labels, r.n ...            // the same r for the next record
 *     record_free(&r);
 *
 * text        {text}: all of it carries loss; EOS at the end
 *
 * completion  {prompt, completion}: tokenised as one text, EOS at the end; the tokens that begin
 * inside the completion carry loss
 *
 * input_ids   {input_ids, labels?}: taken as they are
 *
 * chat        {messages, tools?, documents?}, {conversations}: rendered by the chat template, which
 * writes BOS and ends turns; what the assistant must produce carries loss
 *
 * alpaca      {instruction, input?, output}: the same, a question and its answer
 */
#ifndef DATASETS_RECORD_H
#define DATASETS_RECORD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "datasets/chat_render.h"
#include "datasets/config.h"
#include "datasets/template.h"
#include "datasets/tokenizer.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

enum { NO_TARGET = -100 };

struct record_options {
    const struct tokenizer *tokenizer; /* may be NULL where all records have input_ids */
    int32_t eos;                       /* -1: none is put at the end */
    int64_t vocab_size;                /* ids must lie below it */
    bool train_on_inputs;              /* prompts carry loss too */
    /* Conversations: see datasets/chat_render.h. */
    const struct chat_template *chat_template; /* may be NULL where there are none */
    bool last_turn_only, mask_reasoning;
};

struct record {
    int32_t *ids, *labels; /* (n); labels unshifted: the token's own id, or NO_TARGET */
    int64_t n, cap;
    bool is_empty;            /* no text, or no ids; of a text BOS and EOS are there all the same */
    struct token_list tokens; /* scratch */
    struct text text;
    struct chat_rendering chat; /* of a conversation: its text, spans and how they were found */
};

/* "text", "completion", "input_ids", "chat", "alpaca", "auto". */
const char *record_type_name(enum data_type type);

/* The type whose fields the record has; an error when it has those of none, or of two. */
bool record_guess(json_t *json, const struct data_source *source, const char *place,
                  enum data_type *type, struct err *err);

/* How to read a record: type (not AUTO) and field names (NULL: the usual one) are the source's. */
bool record_read(json_t *json, const struct data_source *source,
                 const struct record_options *options, const char *place, struct record *out,
                 struct err *err);
void record_free(struct record *r);

#endif
