/* Renders conversations and says what of them carries loss: our side of check_masks.py and
 * make_chat.py.
 *
 *     render_chat MODEL_FOLDER TEMPLATE DATE RECORDS.jsonl [inputs] [last] [no-reasoning] [prompt]
 *
 * TEMPLATE is a file, "jamba", "chatml", or "-" for the folder's own. Each line of RECORDS.jsonl
 * gives a line of JSON: {"text", "spans": [[begin, end, train]], "ids", "begin", "trained",
 * "method"} or {"error"}.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/chat_render.h"
#include "datasets/source.h"

static json_t *numbers(const int32_t *values, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(values[i]));
    return list;
}

static json_t *rendering_of(const struct chat_rendering *r)
{
    json_t *spans = json_array(), *trained = json_array();
    for (int64_t i = 0; i < r->n_span; i++)
        json_array_append_new(spans, json_pack("[I, I, b]", (json_int_t)r->spans[i].begin,
                                               (json_int_t)r->spans[i].end, r->spans[i].train));
    for (int64_t i = 0; i < r->tokens.n; i++)
        json_array_append_new(trained, json_integer(r->trained[i]));
    return json_pack("{s:s%, s:o, s:o, s:o, s:o, s:s}", "text", r->text, r->n, "spans", spans,
                     "ids", numbers(r->tokens.ids, r->tokens.n), "begin",
                     numbers(r->tokens.begin, r->tokens.n), "trained", trained, "method",
                     chat_method_name(r->method));
}

static void print_record(json_t *json, const struct chat_options *options, const char *place)
{
    struct chat chat = { 0 };
    struct chat_rendering r = { 0 };
    struct err err = { 0 };
    struct data_source source = { .type = json_object_get(json, "instruction") != NULL
                                              ? DATA_ALPACA
                                              : DATA_CHAT };
    const bool ok = chat_read(json, &source, place, &chat, &err) &&
                    chat_render(&chat, options, place, &r, &err);
    json_t *out = ok ? rendering_of(&r) : json_pack("{s:s}", "error", err.text);
    json_dumpf(out, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(out);
    chat_rendering_free(&r);
    chat_free(&chat);
}

static bool has(int argc, char **argv, const char *word)
{
    for (int i = 5; i < argc; i++) {
        if (strcmp(argv[i], word) == 0)
            return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    struct err err = { 0 };
    if (argc < 5) {
        fprintf(stderr, "render_chat MODEL_FOLDER TEMPLATE DATE RECORDS.jsonl [...]\n");
        return EXIT_FAILURE;
    }
    const struct template_options t = { .model_dir = argv[1],
                                        .chosen = strcmp(argv[2], "-") == 0 ? NULL : argv[2],
                                        .date = argv[3] };
    struct chat_options options = { .add_generation_prompt = has(argc, argv, "prompt"),
                                    .train_on_inputs = has(argc, argv, "inputs"),
                                    .last_turn_only = has(argc, argv, "last"),
                                    .mask_reasoning = has(argc, argv, "no-reasoning") };
    struct chat_template *template = template_open(&t, &err);
    struct tokenizer *tokenizer = tokenizer_open(argv[1], &err);
    struct source *records = source_open(argv[4], &err);
    json_t *json = NULL;
    enum source_result result = SOURCE_ERROR;
    options.template = template;
    options.tokenizer = tokenizer;
    while (template != NULL && tokenizer != NULL && records != NULL &&
           (result = source_next(records, &json, &err)) == SOURCE_RECORD) {
        print_record(json, &options, source_place(records));
        json_decref(json);
    }
    if (result != SOURCE_END)
        fprintf(stderr, "%s\n", err.text);
    source_close(records);
    tokenizer_free(tokenizer);
    template_free(template);
    return result == SOURCE_END ? EXIT_SUCCESS : EXIT_FAILURE;
}
