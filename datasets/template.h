/* The chat template that conversations are rendered with: found, parsed, and given the variables
 * that transformers gives it.
 *
 *     const struct template_options options = { .model_dir = "models/jamba" };
 *     struct chat_template *t = template_open(&options, err);
 *     struct jinja_output out = { 0 };
 *     ok = template_render(t, &(struct template_input){ .messages = messages }, &out, err);
 *     jinja_output_free(&out);
 *     template_free(t);
 *
 * Which one: the recipe's (a file, or one of ours by name), else chat_template.jinja of the
 * checkpoint, else "chat_template" of its tokenizer_config.json: a text, or several with names, of
 * which "tool_use" is for conversations with tools and "default" for the others, as transformers
 * chooses. Ours are datasets/templates/<name>.jinja, part of the program.
 *
 * What it sees: bos_token and the other special tokens of tokenizer_config.json (what that does not
 * name, of special_tokens_map.json), over them the recipe's variables, over those the record's;
 * messages, tools, documents (none where there are no such) and add_generation_prompt.
 * strftime_now() tells the recipe's date, so that a run can be repeated.
 *
 * A chat_template never changes after it is opened: threads may share one.
 */
#ifndef DATASETS_TEMPLATE_H
#define DATASETS_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "datasets/jinja.h"
#include "kernels/core/err.h"

struct chat_template;

struct template_options {
    const char *model_dir; /* the checkpoint's folder; NULL: there is none */
    const char *chosen;    /* a file, or "jamba" or "chatml"; NULL: the checkpoint's own */
    json_t *variables;     /* further ones, an object; may be NULL */
    const char *date;      /* "2025-01-01", "2025-01-01 18:30:00"; NULL: DATA_DATE */
};

/* NULL when the chosen template cannot be used, or a file of the checkpoint cannot be read. That
 * the checkpoint has none, or one that is refused, is not yet an error: only conversations need
 * it, and template_render says it. */
struct chat_template *template_open(const struct template_options *options, struct err *err);
void template_free(struct chat_template *t);

/* One rendering: lists of objects as templates expect them, read and not kept. NULL: none. */
struct template_input {
    json_t *messages, *tools, *documents;
    json_t *variables; /* the record's own, an object */
    bool add_generation_prompt;
};

/* `out` starts zeroed or freed; after a failure it may hold what the template raised (free it
 * either way). The message starts with the template's place, or says that there is no template. */
bool template_render(const struct chat_template *t, const struct template_input *in,
                     struct jinja_output *out, struct err *err);

/* The template that conversations with or without tools are rendered with has {% generation %}. */
bool template_marks_generation(const struct chat_template *t, bool has_tools);

/* How the template frames what the assistant says, learnt from a question, an answer and another
 * question. Each may be "" where it shows none, never NULL. */
struct template_frame {
    char *header; /* between the end of another's turn and the answer: "<|im_start|>assistant\n" */
    char *past_header; /* the same where a question follows: thinking may be left out there */
    char *closing;     /* behind the answer, whatever follows: "<|im_end|>\n" */
    size_t n_closing;  /* bytes of it that the assistant writes: white space at its end is not */
    char *ending;      /* behind an answer that ends the conversation: "<|im_end|>\n" */
};
const struct template_frame *template_frame(const struct chat_template *t, bool has_tools);

/* Where the template comes from, for reports: "models/jamba/chat_template.jinja", "jamba"; NULL:
 * there is none. */
const char *template_origin(const struct chat_template *t);

#endif
