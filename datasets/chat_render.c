#include "datasets/chat_render.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/chat_marks.h"
#include "datasets/chat_mask.h"
#include "kernels/core/text.h"

const char *chat_method_name(enum chat_method method)
{
    static const char *const names[] = { "none", "{% generation %}", "growing prefixes",
                                         "marked contents" };
    return names[method];
}

void chat_rendering_free(struct chat_rendering *r)
{
    free(r->text);
    free(r->spans);
    free(r->trained);
    token_list_free(&r->tokens);
    *r = (struct chat_rendering){ 0 };
}

/* ---- text ---- */

static bool render(const struct chat *chat, const struct chat_options *options, const char *place,
                   struct jinja_output *out, struct err *err)
{
    const struct template_input in = { .messages = chat->messages,
                                       .tools = chat->tools,
                                       .documents = chat->documents,
                                       .variables = chat->variables,
                                       .add_generation_prompt = options->add_generation_prompt };
    if (template_render(options->template, &in, out, err))
        return true;
    if (out->raised != NULL)
        return err_set(err, ERR_DATA, "%s: the chat template refuses it: \"%.*s\"", place,
                       out->n_raised < 1000 ? (int)out->n_raised : 1000, out->raised);
    return err_prefix(err, "%s", place);
}

/* ---- spans ---- */

static void add_span(struct chat_rendering *r, size_t begin, size_t end, bool train)
{
    if (begin < end)
        r->spans[r->n_span++] = (struct chat_span){ begin, end, train };
}

/* The trained ranges, which are merged, and what is between them. */
static bool fill_spans(struct chat_rendering *r, const struct range_list *trained, struct err *err)
{
    size_t bytes = 0;
    r->spans = size_mul(2 * trained->n + 1, sizeof *r->spans, &bytes) ? malloc(bytes) : NULL;
    if (r->spans == NULL)
        return err_no_memory(err, "a conversation");
    size_t at = 0;
    for (size_t k = 0; k < trained->n; k++) {
        add_span(r, at, trained->at[k].begin, false);
        add_span(r, trained->at[k].begin, trained->at[k].end, true);
        at = trained->at[k].end;
    }
    add_span(r, at, r->n, false);
    return true;
}

/* ---- tokens ---- */

static bool refuse_spelled(const struct chat_marks *marks, const char *place, struct err *err)
{
    return err_set(err, ERR_DATA,
                   "%s: %s %s \"%s\", and %s cannot be found: with marks around it the template "
                   "renders something else; take it out, or leave the record out",
                   place, marks->where,
                   marks->n_special > 0 ? "spells the special token"
                                        : "begins or ends with a part of a special token,",
                   marks->spelled,
                   marks->n_special > 0 ? "which of those in the text that is"
                                        : "whether the template makes it whole");
}

/* All marks are there: the text is the unmarked one, and none of them lacks an end. */
static bool are_found(const struct chat_marks *marks)
{
    bool found = marks->same;
    for (int64_t k = 0; found && k < marks->n; k++)
        found = marks->at[k].whole;
    return found;
}

/* What could stand within a spelling, a word such as "user", is marked first; a template that
 * compares it with a word of its own then renders something else, and it is left as it is. */
static bool mark_specials(const struct chat_plain *plain, struct chat_marks *marks, struct err *err)
{
    if (!chat_marks_find(plain, MARK_SPECIALS_INSIDE, marks, err))
        return false;
    if (are_found(marks))
        return true;
    chat_marks_free(marks);
    return chat_marks_find(plain, MARK_SPECIALS, marks, err);
}

/* The ranges of the text that spell special tokens, or a part of one, without being some. */
static bool find_spelled(const struct chat_plain *plain, const char *place, struct range_list *out,
                         struct err *err)
{
    struct chat_marks marks = { 0 };
    bool ok = mark_specials(plain, &marks, err);
    if (ok && !are_found(&marks))
        ok = refuse_spelled(&marks, place, err);
    for (int64_t k = 0; ok && k < marks.n; k++)
        ok = range_list_add(out, marks.at[k].begin, marks.at[k].end) ||
             err_no_memory(err, "a conversation");
    range_list_merge(out);
    chat_marks_free(&marks);
    return ok;
}

/* Tokens carry loss by where they begin; with {% generation %} the token that holds the first byte
 * of a part does, too, as in transformers. */
static bool mark_tokens(struct chat_rendering *r, struct err *err)
{
    const int64_t n = r->tokens.n;
    size_t bytes = 0;
    if (n >= r->trained_cap) {
        const int64_t cap = n + n / 2 + 64;
        bool *trained =
            size_mul((size_t)cap, sizeof *trained, &bytes) ? realloc(r->trained, bytes) : NULL;
        if (trained == NULL)
            return err_no_memory(err, "a conversation's tokens");
        r->trained = trained;
        r->trained_cap = cap;
    }
    int64_t s = 0;
    for (int64_t t = 0; t < n; t++) {
        const size_t begin = (size_t)r->tokens.begin[t];
        while (s < r->n_span && r->spans[s].end <= begin)
            s++;
        while (s > 0 && r->spans[s - 1].end > begin)
            s--;
        const size_t end = t + 1 < n ? (size_t)r->tokens.begin[t + 1] : r->n;
        const bool reaches = r->method == CHAT_GENERATION && s + 1 < r->n_span &&
                             r->spans[s + 1].train && r->spans[s + 1].begin < end;
        r->trained[t] = s < r->n_span && (r->spans[s].train || reaches);
    }
    return true;
}

static bool encode(const struct chat_plain *plain, const char *place, struct chat_rendering *r,
                   struct err *err)
{
    struct range_list spelled = { 0 };
    bool ok = find_spelled(plain, place, &spelled, err);
    if (ok &&
        !tokenizer_encode_template(plain->tokenizer, r->text, r->n, &spelled, &r->tokens, err))
        ok = err_prefix(err, "%s", place);
    range_list_free(&spelled);
    return ok && mark_tokens(r, err);
}

static void clear(struct chat_rendering *r)
{
    free(r->text);
    free(r->spans);
    r->text = NULL;
    r->spans = NULL;
    r->n = 0;
    r->n_span = 0;
    r->tokens.n = 0;
}

bool chat_render(const struct chat *chat, const struct chat_options *options, const char *place,
                 struct chat_rendering *out, struct err *err)
{
    struct jinja_output output = { 0 };
    struct range_list trained = { 0 };
    const struct chat_plain plain = { .chat = chat,
                                      .template = options->template,
                                      .tokenizer = options->tokenizer,
                                      .output = &output,
                                      .add_generation_prompt = options->add_generation_prompt };
    clear(out);
    bool ok = render(chat, options, place, &output, err) &&
              chat_mask_find(&plain, options, place, &trained, &out->method, err);
    if (ok) {
        out->text = output.text;
        out->n = output.n;
        ok = fill_spans(out, &trained, err) &&
             (options->tokenizer == NULL || encode(&plain, place, out, err));
        output.text = NULL; /* is out's now */
    }
    range_list_free(&trained);
    jinja_output_free(&output);
    if (!ok)
        chat_rendering_free(out);
    return ok;
}
