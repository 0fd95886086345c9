#include "datasets/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/json.h"

/* A record being read: what is asked for, and where it stands. */
struct reading {
    json_t *json;
    const char *place;
    const struct record_options *options;
    enum data_type type;
    const char *text, *prompt, *completion, *input_ids, *labels; /* names of fields */
    const char *messages, *instruction, *output;
};

static const char *name_or(const char *name, const char *usual)
{
    return name != NULL ? name : usual;
}

static struct reading start(json_t *json, const struct data_source *source, const char *place)
{
    return (struct reading){
        .json = json,
        .place = place,
        .type = source->type,
        .text = name_or(source->field_text, "text"),
        .prompt = name_or(source->field_prompt, "prompt"),
        .completion = name_or(source->field_completion, "completion"),
        .input_ids = name_or(source->field_input_ids, "input_ids"),
        .labels = name_or(source->field_labels, "labels"),
        .messages = name_or(source->field_messages, "messages"),
        .instruction = name_or(source->field_instruction, "instruction"),
        .output = name_or(source->field_output, "output"),
    };
}

const char *record_type_name(enum data_type type)
{
    static const char *const names[] = {
        "auto", "text", "completion", "input_ids", "chat", "alpaca"
    };
    return names[type];
}

void record_free(struct record *r)
{
    free(r->ids);
    free(r->labels);
    token_list_free(&r->tokens);
    text_free(&r->text);
    chat_rendering_free(&r->chat);
    *r = (struct record){ 0 };
}

static bool reserve(struct record *r, int64_t n, struct err *err)
{
    if (n <= r->cap)
        return true;
    size_t bytes = 0;
    if (!size_mul((size_t)n + (size_t)n / 2, sizeof(int32_t), &bytes))
        return err_no_memory(err, "a document's tokens");
    int32_t *ids = realloc(r->ids, bytes);
    if (ids == NULL)
        return err_no_memory(err, "a document's tokens");
    r->ids = ids;
    int32_t *labels = realloc(r->labels, bytes);
    if (labels == NULL)
        return err_no_memory(err, "a document's tokens");
    r->labels = labels;
    r->cap = (int64_t)(bytes / sizeof(int32_t));
    return true;
}

/* ---- fields ---- */

static bool missing(const struct reading *in, const char *name, struct err *err)
{
    if (in->type == DATA_COMPLETION)
        return err_set(err, ERR_DATA, "%s: \"%s\" is missing; each record needs \"%s\" and \"%s\"",
                       in->place, name, in->prompt, in->completion);
    return err_set(err, ERR_DATA, "%s: \"%s\" is missing; each record needs it", in->place, name);
}

static const json_t *get_string(const struct reading *in, const char *name, struct err *err)
{
    const json_t *value = json_object_get(in->json, name);
    if (value == NULL)
        missing(in, name, err);
    else if (!json_is_string(value))
        err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected a string", in->place, name,
                json_type_name(value));
    else
        return value;
    return NULL;
}

static const json_t *get_list(const struct reading *in, const char *name, struct err *err)
{
    const json_t *value = json_object_get(in->json, name);
    if (value == NULL)
        missing(in, name, err);
    else if (!json_is_array(value))
        err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected a list of integers", in->place, name,
                json_type_name(value));
    else
        return value;
    return NULL;
}

/* ---- text ---- */

/* The tokens of the record's text, and EOS unless the post-processor put it there. */
static bool encode(const struct reading *in, struct record *out, struct err *err)
{
    const int32_t eos = in->options->eos;
    struct token_list *tokens = &out->tokens;
    tokens->n = 0;
    if (in->options->tokenizer == NULL)
        return err_set(err, ERR_DATA, "%s: is text, but there is no tokenizer to read it with",
                       in->place);
    if (!tokenizer_encode(in->options->tokenizer, out->text.len > 0 ? out->text.data : "",
                          out->text.len, true, tokens, err))
        return err_prefix(err, "%s", in->place);
    /* A first token is no end: BOS and EOS may be the same. */
    const bool has_eos = tokens->n > 1 && tokens->ids[tokens->n - 1] == eos;
    if (eos >= 0 && !has_eos && !token_list_add(tokens, eos, (int32_t)out->text.len))
        return err_no_memory(err, "a document's tokens");
    return true;
}

static bool check_id(const struct reading *in, int32_t id, struct err *err)
{
    const int64_t vocab_size = in->options->vocab_size;
    return (id >= 0 && id < vocab_size) || err_set(err, ERR_DATA,
                                                   "%s: the tokenizer gives id %" PRId32
                                                   ", but the model's vocabulary ends at %" PRId64
                                                   "; is this tokenizer.json of this model?",
                                                   in->place, id, vocab_size - 1);
}

/* Tokens that begin before byte `trained_from` carry no loss. One that lies across that edge does
 * not either: at generation the prompt ends there, and such a token is never asked for. */
static bool read_tokens(const struct reading *in, size_t trained_from, struct record *out,
                        struct err *err)
{
    const struct record_options *o = in->options;
    if (!encode(in, out, err) || !reserve(out, out->tokens.n, err))
        return false;
    out->n = out->tokens.n;
    for (int64_t t = 0; t < out->n; t++) {
        const int32_t id = out->tokens.ids[t];
        if (!check_id(in, id, err))
            return false;
        const bool trained = o->train_on_inputs || (size_t)out->tokens.begin[t] >= trained_from;
        out->ids[t] = id;
        out->labels[t] = trained ? id : NO_TARGET;
    }
    return true;
}

static bool read_text(const struct reading *in, struct record *out, struct err *err)
{
    const bool two = in->type == DATA_COMPLETION;
    const json_t *first = get_string(in, two ? in->prompt : in->text, err);
    if (first == NULL)
        return false;
    const json_t *second = two ? get_string(in, in->completion, err) : NULL;
    if (two && second == NULL)
        return false;
    text_clear(&out->text);
    text_append(&out->text, json_string_value(first), json_string_length(first));
    const size_t trained_from = two ? out->text.len : 0;
    if (two)
        text_append(&out->text, json_string_value(second), json_string_length(second));
    if (out->text.failed)
        return err_no_memory(err, "a document's text");
    out->is_empty = out->text.len == 0;
    return read_tokens(in, trained_from, out, err);
}

/* ---- conversations ---- */

static bool check_answer(const struct reading *in, const struct chat *chat, struct err *err)
{
    for (int64_t i = 0; i < chat->n_message; i++) {
        if (chat_role(chat, i) == CHAT_ASSISTANT)
            return true;
    }
    return err_set(
        err, ERR_DATA,
        "%s: the assistant says nothing in it, so there is nothing to train on; expected "
        "a message whose role is assistant",
        in->place);
}

static bool take_rendering(const struct reading *in, struct record *out, struct err *err)
{
    const struct token_list *tokens = &out->chat.tokens;
    if (!reserve(out, tokens->n, err))
        return false;
    out->n = tokens->n;
    out->is_empty = out->chat.n == 0;
    for (int64_t t = 0; t < out->n; t++) {
        if (!check_id(in, tokens->ids[t], err))
            return false;
        out->ids[t] = tokens->ids[t];
        out->labels[t] = out->chat.trained[t] ? tokens->ids[t] : NO_TARGET;
    }
    return true;
}

static bool read_chat(const struct reading *in, const struct data_source *source,
                      struct record *out, struct err *err)
{
    const struct record_options *o = in->options;
    const struct chat_options options = { .template = o->chat_template,
                                          .tokenizer = o->tokenizer,
                                          .train_on_inputs = o->train_on_inputs,
                                          .last_turn_only = o->last_turn_only,
                                          .mask_reasoning = o->mask_reasoning };
    struct chat chat = { 0 };
    if (o->tokenizer == NULL || o->chat_template == NULL)
        return err_set(err, ERR_DATA, "%s: is a conversation, but there is no %s to read it with",
                       in->place, o->tokenizer == NULL ? "tokenizer" : "chat template");
    const bool ok = chat_read(in->json, source, in->place, &chat, err) &&
                    (o->train_on_inputs || check_answer(in, &chat, err)) &&
                    chat_render(&chat, &options, in->place, &out->chat, err) &&
                    take_rendering(in, out, err);
    chat_free(&chat);
    return ok;
}

/* ---- ready-made ids ---- */

struct id_list {
    const char *name;
    const json_t *list;
    bool maskable; /* -100 is allowed too */
};

static bool read_id(const struct reading *in, const struct id_list *ids, int64_t t, int32_t *out,
                    struct err *err)
{
    const int64_t vocab_size = in->options->vocab_size;
    const json_t *value = json_array_get(ids->list, (size_t)t);
    const bool is_integer = json_is_integer(value);
    const json_int_t id = is_integer ? json_integer_value(value) : -1;
    if (is_integer && ((id >= 0 && id < vocab_size) || (ids->maskable && id == NO_TARGET))) {
        *out = (int32_t)id;
        return true;
    }
    char what[32];
    snprintf(what, sizeof what, "%" JSON_INTEGER_FORMAT, id);
    return err_set(err, ERR_DATA, "%s: \"%s\"[%" PRId64 "] is %s; expected %s0 to %" PRId64,
                   in->place, ids->name, t, is_integer ? what : json_type_name(value),
                   ids->maskable ? "-100 (no loss) or " : "", vocab_size - 1);
}

static bool check_length(const struct reading *in, const char *name, const json_t *list, int64_t n,
                         struct err *err)
{
    if ((int64_t)json_array_size(list) == n)
        return true;
    return err_set(err, ERR_DATA,
                   "%s: \"%s\" has %zu elements; expected %" PRId64 ", one for each of \"%s\"",
                   in->place, name, json_array_size(list), n, in->input_ids);
}

/* Padding would be trained on as text: nothing but the mask tells them apart. */
static bool check_mask(const struct reading *in, int64_t n, struct err *err)
{
    const json_t *mask = json_object_get(in->json, "attention_mask");
    if (!json_is_array(mask))
        return true;
    if (!check_length(in, "attention_mask", mask, n, err))
        return false;
    for (int64_t t = 0; t < n; t++) {
        const json_t *value = json_array_get(mask, (size_t)t);
        if (!json_is_integer(value) || json_integer_value(value) != 1)
            return err_set(err, ERR_DATA,
                           "%s: \"attention_mask\"[%" PRId64
                           "] is not 1; padded records are not read: leave the padding out",
                           in->place, t);
    }
    return true;
}

static bool read_ids(const struct reading *in, struct record *out, struct err *err)
{
    const struct id_list ids = { in->input_ids, get_list(in, in->input_ids, err), false };
    if (ids.list == NULL)
        return false;
    const bool has_labels = json_object_get(in->json, in->labels) != NULL;
    const struct id_list labels = { in->labels,
                                    has_labels ? get_list(in, in->labels, err) : ids.list, true };
    if (labels.list == NULL)
        return false;
    const int64_t n = (int64_t)json_array_size(ids.list);
    if (!check_length(in, labels.name, labels.list, n, err) || !check_mask(in, n, err) ||
        !reserve(out, n, err))
        return false;
    for (int64_t t = 0; t < n; t++) {
        if (!read_id(in, &ids, t, &out->ids[t], err) ||
            !read_id(in, &labels, t, &out->labels[t], err))
            return false;
    }
    out->n = n;
    out->is_empty = n == 0;
    return true;
}

bool record_read(json_t *json, const struct data_source *source,
                 const struct record_options *options, const char *place, struct record *out,
                 struct err *err)
{
    struct reading in = start(json, source, place);
    in.options = options;
    switch (in.type) {
    case DATA_INPUT_IDS:
        return read_ids(&in, out, err);
    case DATA_CHAT:
    case DATA_ALPACA:
        return read_chat(&in, source, out, err);
    default:
        return read_text(&in, out, err);
    }
}

/* ---- what kind of record ---- */

static bool cannot_guess(const struct reading *in, struct err *err)
{
    struct text names = { 0 };
    const char *key = NULL;
    json_t *value = NULL;
    int n = 0;
    json_object_foreach(in->json, key, value)
    {
        n++;
        if (n <= 8)
            text_printf(&names, "%s\"%.40s\"", n > 1 ? ", " : "fields ", key);
    }
    if (n > 8)
        text_puts(&names, ", ...");
    err_set(err, ERR_DATA,
            "%s: has %s; expected \"%s\", or \"%s\" and \"%s\", or \"%s\", or \"%s\"; set the data "
            "set's "
            "type and the names of its fields",
            in->place, names.data != NULL ? names.data : "no fields", in->text, in->prompt,
            in->completion, in->messages, in->input_ids);
    text_free(&names);
    return false;
}

bool record_guess(json_t *json, const struct data_source *source, const char *place,
                  enum data_type *type, struct err *err)
{
    const struct reading in = start(json, source, place);
    const bool fits[] = {
        [DATA_TEXT] = json_object_get(json, in.text) != NULL,
        [DATA_COMPLETION] = json_object_get(json, in.prompt) != NULL &&
                            json_object_get(json, in.completion) != NULL,
        [DATA_INPUT_IDS] = json_object_get(json, in.input_ids) != NULL,
        [DATA_CHAT] = json_object_get(json, in.messages) != NULL ||
                      json_object_get(json, "conversations") != NULL,
        [DATA_ALPACA] = json_object_get(json, in.instruction) != NULL &&
                        json_object_get(json, in.output) != NULL,
    };
    enum data_type found = DATA_AUTO;
    for (int i = DATA_TEXT; i <= DATA_ALPACA; i++) {
        if (!fits[i])
            continue;
        if (found != DATA_AUTO)
            return err_set(err, ERR_DATA, "%s: could be of type %s or %s; set the data set's type",
                           place, record_type_name(found), record_type_name((enum data_type)i));
        found = (enum data_type)i;
    }
    if (found == DATA_AUTO)
        return cannot_guess(&in, err);
    *type = found;
    return true;
}
