/* A template shown U, then A, then V (private-use characters that no template treats specially):
 *
 *     prompt  ... U <|im_end|>\n<|im_start|>assistant\n<think>\n           add_generation_prompt
 *     open    ... U <|im_end|>\n                                           without
 *     answer  ... U <|im_end|>\n<|im_start|>assistant\n A <|im_end|>\n
 *     more    ... U <|im_end|>\n<|im_start|>assistant\n A <|im_end|>\n<|im_start|>user\n V ...
 *
 * The header is what prompt and answer (or more) have in common behind what ends U's turn (all that
 * is in `open`); the closing is what answer and more have in common behind A.
 */
#include "datasets/template_frame.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/text.h"

#define MARK_U "\xF3\xB0\x80\x80" /* U+F0000 */
#define MARK_A "\xF3\xB0\x80\x81"
#define MARK_V "\xF3\xB0\x80\x82"

void template_frame_free(struct template_frame *frame)
{
    free(frame->header);
    free(frame->past_header);
    free(frame->closing);
    free(frame->ending);
    *frame = (struct template_frame){ 0 };
}

/* The text of the first n messages of U, A, V; NULL (and no error) when the template refuses. */
static bool render(const struct chat_template *t, bool has_tools, int n, bool prompt, char **out,
                   struct err *err)
{
    json_t *messages =
        json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user", "content", MARK_U, "role",
                  "assistant", "content", MARK_A, "role", "user", "content", MARK_V);
    json_t *tools = !has_tools ? NULL
                               : json_pack("[{s:s, s:{s:s, s:s, s:{s:s, s:{}}}}]", "type",
                                           "function", "function", "name", "f", "description", "f",
                                           "parameters", "type", "object", "properties");
    *out = NULL;
    if (messages == NULL || (has_tools && tools == NULL)) {
        json_decref(messages);
        json_decref(tools);
        return err_no_memory(err, "the chat template");
    }
    while (json_array_size(messages) > (size_t)n)
        json_array_remove(messages, (size_t)n);
    const struct template_input in = { .messages = messages,
                                       .tools = tools,
                                       .add_generation_prompt = prompt };
    struct jinja_output rendered = { 0 };
    struct err problem = { 0 };
    bool ok = true;
    if (template_render(t, &in, &rendered, &problem)) {
        *out = rendered.text;
        rendered.text = NULL;
    } else if (problem.code == ERR_NO_MEMORY) {
        ok = err_no_memory(err, "the chat template");
    }
    jinja_output_free(&rendered);
    json_decref(messages);
    json_decref(tools);
    return ok;
}

/* What follows the only occurrence of a mark; "" when there is none, or more than one. */
static const char *behind(const char *text, const char *mark)
{
    const char *at = text != NULL ? strstr(text, mark) : NULL;
    if (at == NULL || strstr(at + 1, mark) != NULL)
        return "";
    return at + strlen(mark);
}

/* Where s[0..n) has an unfinished tag at its end, "<|im", it begins; else n. */
static size_t before_tag(const char *s, size_t n, char open, char close)
{
    for (size_t i = n; i > 0 && s[i - 1] != close; i--) {
        if (s[i - 1] == open)
            return i - 1;
    }
    return n;
}

/* In whole characters and tags: "<|user|>" and "<|end|>" have nothing in common. */
static size_t common_prefix(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] != '\0' && a[n] == b[n])
        n++;
    while (n > 0 && ((unsigned char)a[n] & 0xC0) == 0x80)
        n--;
    return before_tag(a, before_tag(a, n, '<', '>'), '[', ']');
}

/* Bytes of s without the white space at its end; all of them when there is nothing else. */
static size_t written(const char *s)
{
    size_t n = strlen(s);
    while (n > 0 && strchr(" \t\r\n", s[n - 1]) != NULL)
        n--;
    return n > 0 ? n : strlen(s);
}

/* What prompt and answer have in common behind U and what ends its turn. */
static char *find_header(const char *prompt, const char *open, const char *answer)
{
    const char *after_u = behind(answer, MARK_U), *end_of_u = behind(open, MARK_U);
    const size_t n = common_prefix(behind(prompt, MARK_U), after_u), n_end = strlen(end_of_u);
    if (n_end < n && strncmp(after_u, end_of_u, n_end) == 0)
        return text_copy_n(after_u + n_end, n - n_end);
    return text_copy_n(after_u, n);
}

static bool learn(const char *prompt, const char *open, const char *answer, const char *more,
                  struct template_frame *out)
{
    const char *after_a = behind(answer, MARK_A);
    out->header = find_header(prompt, open, answer);
    out->past_header = find_header(prompt, open, more);
    out->closing = text_copy_n(after_a, common_prefix(after_a, behind(more, MARK_A)));
    out->ending = text_copy(after_a);
    if (out->header == NULL || out->past_header == NULL || out->closing == NULL ||
        out->ending == NULL)
        return false;
    out->n_closing = written(out->closing);
    return true;
}

bool template_frame_learn(const struct chat_template *t, bool has_tools, struct template_frame *out,
                          struct err *err)
{
    char *prompt = NULL, *open = NULL, *answer = NULL, *more = NULL;
    bool ok =
        render(t, has_tools, 1, true, &prompt, err) && render(t, has_tools, 1, false, &open, err) &&
        render(t, has_tools, 2, false, &answer, err) && render(t, has_tools, 3, false, &more, err);
    if (ok && !learn(prompt, open, answer, more, out))
        ok = err_no_memory(err, "the chat template");
    free(prompt);
    free(open);
    free(answer);
    free(more);
    return ok;
}
