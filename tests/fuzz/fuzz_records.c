/* Records of a data set, conversations included: a set that loads is token ids of the vocabulary
 * and targets that are the next token's id or none, document after document. Read as JSONL or a
 * list, with two templates and two ways of cutting.
 */
#include <string.h>

#include "datasets/document.h"
#include "tests/fuzz/fuzz.h"

static void check(const struct document_set *set, const struct document_report *report,
                  int64_t vocab_size, int64_t longest)
{
    int64_t n_target = 0;
    FUZZ_CHECK(report->n_doc == set->n_doc && report->n_tok == set->n_tok);
    FUZZ_CHECK(set->n_doc == 0 || (set->start[0] == 0 && set->start[set->n_doc] == set->n_tok));
    for (int64_t d = 0; d < set->n_doc; d++) {
        const int64_t begin = set->start[d], end = set->start[d + 1];
        int64_t mine = 0;
        FUZZ_CHECK(begin < end && end - begin <= longest);
        for (int64_t t = begin; t < end; t++) {
            const int32_t target = set->targets[t];
            FUZZ_CHECK(set->ids[t] >= 0 && set->ids[t] < vocab_size);
            FUZZ_CHECK(target == NO_TARGET || (target >= 0 && target < vocab_size));
            mine += target != NO_TARGET;
        }
        FUZZ_CHECK(set->targets[end - 1] == NO_TARGET);
        FUZZ_CHECK(mine == set->n_target[d] && mine > 0);
        n_target += mine;
        char place[128];
        document_place(set, d, place, sizeof place);
        FUZZ_CHECK(strstr(place, "x.json") != NULL);
    }
    FUZZ_CHECK(n_target == report->n_target);
}

static bool load(const char *path, struct document_options *options, struct err *err)
{
    const struct data_source source = { .path = (char *)(uintptr_t)path };
    struct document_set set = { 0 };
    struct document_report report = { 0 };
    const bool ok = document_load(&set, &source, options, &report, err);
    if (ok)
        check(&set, &report, options->record.vocab_size, options->sequence_len);
    document_set_free(&set);
    return ok;
}

bool fuzz_records(const uint8_t *bytes, size_t n, struct err *err)
{
    static struct tokenizer *tok;
    static struct chat_template *templates[2];
    static const char *const names[2] = { "chatml", "jamba" };
    for (int i = 0; i < 2 && templates[i] == NULL; i++)
        templates[i] = template_open(&(struct template_options){ .chosen = names[i] }, NULL);
    if (tok == NULL)
        tok = tokenizer_open("recipes/quickstart/base", NULL);
    FUZZ_CHECK(tok != NULL && templates[0] != NULL && templates[1] != NULL);
    char path[FUZZ_PATH_SIZE];
    fuzz_write("records", "x.jsonl", bytes, n, path);
    struct document_options options = {
        .record = { .tokenizer = tok,
                    .eos = tokenizer_eos(tok),
                    .vocab_size = tokenizer_vocab_size(tok),
                    .chat_template = templates[0] },
        .sequence_len = 48,
        .excess = EXCESS_SPLIT,
    };
    struct err other = { 0 };
    const bool ok = load(path, &options, err);
    options.record.chat_template = templates[1];
    options.record.last_turn_only = options.record.mask_reasoning = true;
    options.excess = EXCESS_TRUNCATE;
    if (!load(path, &options, &other))
        FUZZ_CHECK(other.code == ERR_DATA && other.text[0] != '\0');
    return ok;
}
