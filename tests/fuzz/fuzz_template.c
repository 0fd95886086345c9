/* tokenizer_config.json, and behind a zero byte special_tokens_map.json, for the chat template in
 * them: one that opens renders a conversation, or says why not.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "datasets/template.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "tests/fuzz/fuzz.h"

static const char talk[] = "[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
                           "\"content\":\"<s>you\"}]";
static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";

static void render(const struct chat_template *t, bool with_tools)
{
    const struct template_input in = {
        .messages = json_parse(talk, sizeof talk - 1, "talk", NULL),
        .tools = with_tools ? json_parse(tools, sizeof tools - 1, "tools", NULL) : NULL,
    };
    struct jinja_output out = { 0 };
    struct err err = { 0 };
    const bool ok = template_render(t, &in, &out, &err);
    FUZZ_CHECK(ok == (err.code == ERR_NONE) && ok == (err.text[0] == '\0'));
    FUZZ_CHECK(!ok || text_is_utf8(out.text, out.n, NULL));
    jinja_output_free(&out);
    json_decref(in.messages);
    json_decref(in.tools);
    const struct template_frame *frame = template_frame(t, with_tools);
    FUZZ_CHECK(frame->n_closing <= strlen(frame->closing));
    FUZZ_CHECK(frame->header != NULL && frame->past_header != NULL && frame->ending != NULL);
}

bool fuzz_template(const uint8_t *bytes, size_t n, struct err *err)
{
    const struct fuzz_pair in = fuzz_split(bytes, n);
    const char *folder = fuzz_folder("template");
    char path[FUZZ_PATH_SIZE];
    snprintf(path, sizeof path, "%s/special_tokens_map.json", folder);
    unlink(path);
    if (in.second != NULL)
        fuzz_write("template", "special_tokens_map.json", in.second, in.n_second, path);
    fuzz_write("template", "tokenizer_config.json", in.first, in.n_first, path);
    struct chat_template *t = template_open(&(struct template_options){ .model_dir = folder }, err);
    if (t == NULL)
        return false;
    render(t, false);
    render(t, true);
    template_free(t);
    return true;
}
