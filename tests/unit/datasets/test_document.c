/* Records -> documents: which token carries loss, what becomes of the long and the empty ones, and
 * what is said of records that are not what they should be. */
#include "datasets/document.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/datasets/scratch.h"

/* A tokenizer small enough to tell by hand: letters, three merges, BOS in front; no "z". */
static const char tokenizer_json[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
    "{\"id\":0,\"content\":\"<unk>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true},"
    "{\"id\":1,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true},"
    "{\"id\":2,\"content\":\"</s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true}],"
    "\"normalizer\":null,\"pre_tokenizer\":null,"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
    "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}%"
    "s],"
    "\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":"
    "0}}],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]},"
    "\"</s>\":{\"id\":\"</s>\",\"ids\":[2],\"tokens\":[\"</s>\"]}}},"
    "\"decoder\":{\"type\":\"Fuse\"},"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\","
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
    "\"byte_fallback\":false,\"ignore_merges\":false,"
    "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"a\":3,\"b\":4,\"c\":5,\"d\":6,\" "
    "\":7,\"ab\":8,\"cd\":9,"
    "\" a\":10},\"merges\":[[\"a\",\"b\"],[\"c\",\"d\"],[\" \",\"a\"]]}}";

enum { UNK, BOS, EOS, A, B, C, D, SPACE, AB, CD, SPACE_A, VOCAB, NO = NO_TARGET };

struct fixture {
    struct scratch scratch;
    struct tokenizer *tokenizer;
};

static struct tokenizer *open_tokenizer(struct scratch *s, const char *tail)
{
    char json[4096];
    const char *at = strstr(tokenizer_json, "%s");
    snprintf(json, sizeof json, "%.*s%s%s", (int)(at - tokenizer_json), tokenizer_json, tail,
             at + 2);
    struct err err = { 0 };
    if (scratch_write_text(s, "tokenizer.json", json) == NULL)
        return NULL;
    struct tokenizer *tokenizer = tokenizer_open(s->folder, &err);
    unlink(scratch_path(s, "tokenizer.json"));
    if (tokenizer == NULL)
        print_error("%s\n", err.text);
    return tokenizer;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (f == NULL || scratch_open(&f->scratch) != 0)
        return -1;
    f->tokenizer = open_tokenizer(&f->scratch, "");
    return f->tokenizer == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tokenizer_free(f->tokenizer);
    scratch_close(&f->scratch);
    free(f);
    return 0;
}

/* ---- helpers ---- */

static struct document_options default_options(const struct fixture *f)
{
    return (struct document_options){
        .record = { .tokenizer = f->tokenizer, .eos = EOS, .vocab_size = VOCAB },
    };
}

struct loaded {
    bool ok;
    struct document_set set;
    struct document_report report;
    struct err err;
};

static struct loaded load(struct fixture *f, const char *text, enum data_type type,
                          const struct document_options *options)
{
    struct loaded out = { 0 };
    char path[600];
    snprintf(path, sizeof path, "%s", scratch_write_text(&f->scratch, "x.jsonl", text));
    const struct data_source source = { .path = path, .type = type };
    out.ok = document_load(&out.set, &source, options, &out.report, &out.err);
    return out;
}

static void assert_refused(struct fixture *f, struct loaded *l, const char *message)
{
    assert_false(l->ok);
    assert_int_equal(l->err.code, ERR_DATA);
    assert_true(scratch_message_is(&f->scratch, l->err.text, message));
    document_set_free(&l->set);
}

/* Expected lists end with -1. */
static void assert_document(const struct document_set *set, int64_t doc, const int32_t *ids,
                            const int32_t *targets)
{
    assert_true(doc < set->n_doc);
    const int64_t from = set->start[doc], n = set->start[doc + 1] - from;
    int64_t n_target = 0;
    for (int64_t t = 0; t < n; t++) {
        assert_int_equal(set->ids[from + t], ids[t]);
        assert_int_equal(set->targets[from + t], targets[t]);
        n_target += targets[t] != NO;
    }
    assert_int_equal(ids[n], -1);
    assert_int_equal(set->n_target[doc], n_target);
}

/* ---- targets ---- */

static void every_token_of_a_text_but_the_first_is_a_target(void **state)
{
    struct fixture *f = *state;
    const struct document_options o = default_options(f);
    struct loaded l =
        load(f, "{\"text\":\"abc\"}\n{\"text\":\"</s>\"}\n{\"text\":\"d\"}\n", DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.report.type, DATA_TEXT);
    assert_true(l.report.guessed);
    assert_int_equal(l.set.n_doc, 3);
    assert_document(&l.set, 0, (const int32_t[]){ BOS, AB, C, EOS, -1 },
                    (const int32_t[]){ AB, C, EOS, NO });
    /* The spelling of EOS in a text is text: here, five unknown characters, less what merges. */
    const int64_t n = l.set.start[2] - l.set.start[1];
    assert_int_equal(l.set.ids[l.set.start[2] - 1], EOS);
    for (int64_t t = 1; t < n - 1; t++)
        assert_int_not_equal(l.set.ids[l.set.start[1] + t], EOS);
    assert_document(&l.set, 2, (const int32_t[]){ BOS, D, EOS, -1 },
                    (const int32_t[]){ D, EOS, NO });
    assert_int_equal(l.report.n_doc, 3);
    assert_int_equal(l.report.n_tok, l.set.n_tok);
    assert_int_equal(l.report.n_target, l.set.n_tok - 3);
    document_set_free(&l.set);
}

static void an_end_by_the_post_processor_is_not_doubled(void **state)
{
    struct fixture *f = *state;
    struct tokenizer *ends =
        open_tokenizer(&f->scratch, ",{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}");
    assert_non_null(ends);
    struct document_options o = default_options(f);
    o.record.tokenizer = ends;
    struct loaded l = load(f, "{\"prompt\":\"ab\",\"completion\":\"c\"}\n", DATA_AUTO, &o);
    assert_true(l.ok);
    assert_document(&l.set, 0, (const int32_t[]){ BOS, AB, C, EOS, -1 },
                    (const int32_t[]){ NO, C, EOS, NO });
    document_set_free(&l.set);
    tokenizer_free(ends);
}

static void without_an_eos_nothing_is_added(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    o.record.eos = -1;
    struct loaded l = load(f, "{\"text\":\"abc\"}\n", DATA_TEXT, &o);
    assert_true(l.ok);
    assert_false(l.report.guessed);
    assert_document(&l.set, 0, (const int32_t[]){ BOS, AB, C, -1 }, (const int32_t[]){ AB, C, NO });
    document_set_free(&l.set);
}

static void only_tokens_that_begin_in_the_completion_carry_loss(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *prompt, *completion;
        bool train_on_inputs;
        int32_t ids[8], targets[8];
    } cases[] = {
        { "ab", "cd", false, { BOS, AB, CD, EOS, -1 }, { NO, CD, EOS, NO } },
        /* "ab" lies across the edge: it begins in the prompt. */
        { "a", "bc", false, { BOS, AB, C, EOS, -1 }, { NO, C, EOS, NO } },
        { "a", "bc", true, { BOS, AB, C, EOS, -1 }, { AB, C, EOS, NO } },
        { "c ", "a", false, { BOS, C, SPACE_A, EOS, -1 }, { NO, NO, EOS, NO } },
        { "c", " a", false, { BOS, C, SPACE_A, EOS, -1 }, { NO, SPACE_A, EOS, NO } },
        { "", "ab", false, { BOS, AB, EOS, -1 }, { AB, EOS, NO } },
        { "ab", "", false, { BOS, AB, EOS, -1 }, { NO, EOS, NO } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"prompt\":\"%s\",\"completion\":\"%s\"}", cases[i].prompt,
                 cases[i].completion);
        struct document_options o = default_options(f);
        o.record.train_on_inputs = cases[i].train_on_inputs;
        struct loaded l = load(f, text, DATA_AUTO, &o);
        assert_true(l.ok);
        assert_int_equal(l.report.type, DATA_COMPLETION);
        assert_document(&l.set, 0, cases[i].ids, cases[i].targets);
        document_set_free(&l.set);
    }
}

static void ready_made_ids_are_taken_as_they_are(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    o.record.tokenizer = NULL; /* none is needed */
    struct loaded l = load(f,
                           "{\"input_ids\":[3,4,5],\"labels\":[3,-100,5]}\n"
                           "{\"input_ids\":[1,3,2],\"attention_mask\":[1,1,1]}\n"
                           "{\"input_ids\":[3,4],\"labels\":[-100,6]}\n",
                           DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.report.type, DATA_INPUT_IDS);
    assert_int_equal(l.set.n_doc, 3);
    assert_document(&l.set, 0, (const int32_t[]){ 3, 4, 5, -1 }, (const int32_t[]){ NO, 5, NO });
    assert_document(&l.set, 1, (const int32_t[]){ 1, 3, 2, -1 }, (const int32_t[]){ 3, 2, NO });
    assert_document(&l.set, 2, (const int32_t[]){ 3, 4, -1 }, (const int32_t[]){ 6, NO });
    document_set_free(&l.set);
}

static void names_of_fields_can_be_set(void **state)
{
    struct fixture *f = *state;
    const struct document_options o = default_options(f);
    char path[600], prompt[] = "question", completion[] = "answer";
    snprintf(path, sizeof path, "%s",
             scratch_write_text(&f->scratch, "x.jsonl", "{\"question\":\"a\",\"answer\":\"c\"}"));
    const struct data_source source = { .path = path,
                                        .field_prompt = prompt,
                                        .field_completion = completion };
    struct loaded l = { 0 };
    assert_true(document_load(&l.set, &source, &o, &l.report, &l.err));
    assert_int_equal(l.report.type, DATA_COMPLETION);
    assert_document(&l.set, 0, (const int32_t[]){ BOS, A, C, EOS, -1 },
                    (const int32_t[]){ NO, C, EOS, NO });
    document_set_free(&l.set);
}

/* ---- what is dropped, what is cut ---- */

static void documents_without_a_target_are_dropped_and_counted(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "{\"input_ids\":[3,4]}\n"
                               "\n"
                               "{\"input_ids\":[]}\n"
                               "{\"input_ids\":[3]}\n"
                               "{\"input_ids\":[3,4],\"labels\":[3,-100]}\n"
                               "{\"input_ids\":[5,6]}\n";
    struct document_options o = default_options(f);
    struct loaded l = load(f, text, DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.set.n_doc, 2);
    assert_document(&l.set, 1, (const int32_t[]){ 5, 6, -1 }, (const int32_t[]){ 6, NO });
    assert_int_equal(l.report.n_record, 5);
    assert_int_equal(l.report.n_blank_line, 1);
    assert_int_equal(l.report.n_empty, 1);
    assert_int_equal(l.report.n_untargeted, 2);
    char place[600];
    document_place(&l.set, 1, place, sizeof place);
    assert_true(scratch_message_is(&f->scratch, place, "x.jsonl:6"));
    document_set_free(&l.set);

    o.keep_untargeted = true;
    l = load(f, text, DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.set.n_doc, 5);
    assert_document(&l.set, 1, (const int32_t[]){ -1 }, (const int32_t[]){ -1 });
    assert_document(&l.set, 2, (const int32_t[]){ 3, -1 }, (const int32_t[]){ NO });
    assert_document(&l.set, 3, (const int32_t[]){ 3, 4, -1 }, (const int32_t[]){ NO, NO });
    assert_int_equal(l.report.n_empty + l.report.n_untargeted, 0);
    document_set_free(&l.set);
}

static void an_empty_text_is_dropped_though_it_has_bos_and_eos(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    struct loaded l = load(f, "{\"text\":\"\"}\n{\"text\":\"a\"}\n", DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.set.n_doc, 1);
    assert_int_equal(l.report.n_empty, 1);
    document_set_free(&l.set);
    o.keep_untargeted = true;
    l = load(f, "{\"text\":\"\"}\n", DATA_AUTO, &o);
    assert_true(l.ok);
    assert_document(&l.set, 0, (const int32_t[]){ BOS, EOS, -1 }, (const int32_t[]){ EOS, NO });
    document_set_free(&l.set);
}

static const char long_text[] = "{\"text\":\"a\"}\n"
                                "{\"text\":\"acacad\"}\n"   /* 8 tokens */
                                "{\"text\":\"acacadd\"}\n"; /* 9 */

static void long_documents_are_truncated(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    o.sequence_len = 4;
    struct loaded l = load(f, long_text, DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.set.n_doc, 3);
    assert_document(&l.set, 0, (const int32_t[]){ BOS, A, EOS, -1 },
                    (const int32_t[]){ A, EOS, NO });
    assert_document(&l.set, 1, (const int32_t[]){ BOS, A, C, A, -1 },
                    (const int32_t[]){ A, C, A, NO });
    assert_int_equal(l.report.n_truncated, 2);
    assert_int_equal(l.report.n_cut_tok, 4 + 5);
    assert_int_equal(l.report.longest, 9);
    document_set_free(&l.set);
}

static void long_documents_are_split(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    o.sequence_len = 4;
    o.excess = EXCESS_SPLIT;
    struct loaded l = load(f, long_text, DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.set.n_doc, 5);
    assert_document(&l.set, 2, (const int32_t[]){ C, A, D, EOS, -1 },
                    (const int32_t[]){ A, D, EOS, NO });
    assert_document(&l.set, 4, (const int32_t[]){ C, A, D, D, -1 },
                    (const int32_t[]){ A, D, D, NO });
    assert_int_equal(l.report.n_split, 2);
    assert_int_equal(l.report.n_piece, 4);
    assert_int_equal(l.report.n_cut_target, 1 + 2);
    assert_int_equal(l.report.n_untargeted, 1); /* the last EOS, alone in its piece */
    char place[600];
    document_place(&l.set, 4, place, sizeof place);
    assert_true(scratch_message_is(&f->scratch, place, "x.jsonl:3 (piece 2)"));
    document_set_free(&l.set);
}

static void long_documents_are_dropped_or_refused(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    o.sequence_len = 8;
    o.excess = EXCESS_DROP;
    struct loaded l = load(f, long_text, DATA_AUTO, &o);
    assert_true(l.ok);
    assert_int_equal(l.set.n_doc, 2);
    assert_int_equal(l.report.n_too_long, 1);
    document_set_free(&l.set);
    o.excess = EXCESS_RAISE;
    l = load(f, long_text, DATA_AUTO, &o);
    assert_refused(f, &l,
                   "x.jsonl:3: has 9 tokens, more than sequence_len 8; raise it, or set "
                   "excess_length_strategy to truncate, split or drop");
    o.sequence_len = 9;
    l = load(f, long_text, DATA_AUTO, &o);
    assert_true(l.ok);
    document_set_free(&l.set);
}

static void several_data_sets_make_one(void **state)
{
    struct fixture *f = *state;
    const struct document_options o = default_options(f);
    struct loaded l = load(f, "{\"text\":\"a\"}\n", DATA_AUTO, &o);
    assert_true(l.ok);
    char path[600];
    snprintf(
        path, sizeof path, "%s",
        scratch_write_text(&f->scratch, "y.json", "[{\"input_ids\":[]},{\"input_ids\":[3,4]}]"));
    const struct data_source source = { .path = path };
    assert_true(document_load(&l.set, &source, &o, &l.report, &l.err));
    assert_int_equal(l.set.n_doc, 2);
    assert_int_equal(l.report.n_record, 3);
    assert_int_equal(l.report.type, DATA_INPUT_IDS);
    char place[600];
    document_place(&l.set, 0, place, sizeof place);
    assert_true(scratch_message_is(&f->scratch, place, "x.jsonl:1"));
    document_place(&l.set, 1, place, sizeof place);
    assert_true(scratch_message_is(&f->scratch, place, "y.json[1]"));
    document_set_free(&l.set);
}

/* ---- bad records ---- */

static void bad_records_are_named(void **state)
{
    struct fixture *f = *state;
    static const struct {
        enum data_type type;
        const char *text, *message;
    } cases[] = {
        { DATA_AUTO, "{}",
          "x.jsonl:1: has no fields; expected \"text\", or \"prompt\" and \"completion\", or "
          "\"messages\", or \"input_ids\"; set the data set's type and the names of its fields" },
        { DATA_AUTO, "{\"q\":\"a\",\"completion\":\"c\"}",
          "x.jsonl:1: has fields \"q\", \"completion\"; expected \"text\", or \"prompt\" and "
          "\"completion\", or \"messages\", or \"input_ids\"; set the data set's type and the "
          "names of "
          "its fields" },
        { DATA_AUTO, "{\"text\":\"a\",\"input_ids\":[1]}",
          "x.jsonl:1: could be of type text or input_ids; set the data set's type" },
        { DATA_AUTO, "{\"messages\":[]}",
          "x.jsonl:1: is a conversation, but there is no chat template to read it with" },
        { DATA_AUTO, "{\"text\":\"a\",\"messages\":[]}",
          "x.jsonl:1: could be of type text or chat; set the data set's type" },
        { DATA_AUTO, "{\"text\":\"a\"}\n{\"txt\":\"a\"}",
          "x.jsonl:2: \"text\" is missing; each record needs it" },
        { DATA_TEXT, "{\"text\":1}", "x.jsonl:1: \"text\" is an integer; expected a string" },
        { DATA_TEXT, "{\"text\":null}", "x.jsonl:1: \"text\" is null; expected a string" },
        { DATA_AUTO, "{\"prompt\":\"a\",\"completion\":\"c\"}\n{\"prompt\":\"a\"}",
          "x.jsonl:2: \"completion\" is missing; each record needs \"prompt\" and \"completion\"" },
        { DATA_COMPLETION, "{\"prompt\":[\"a\"],\"completion\":\"c\"}",
          "x.jsonl:1: \"prompt\" is a list; expected a string" },
        { DATA_INPUT_IDS, "{\"ids\":[1]}",
          "x.jsonl:1: \"input_ids\" is missing; each record needs it" },
        { DATA_INPUT_IDS, "{\"input_ids\":\"1 2\"}",
          "x.jsonl:1: \"input_ids\" is a string; expected a list of integers" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,2],\"labels\":null}",
          "x.jsonl:1: \"labels\" is null; expected a list of integers" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,11]}",
          "x.jsonl:1: \"input_ids\"[1] is 11; expected 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,-100]}",
          "x.jsonl:1: \"input_ids\"[1] is -100; expected 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,4294967297]}",
          "x.jsonl:1: \"input_ids\"[1] is 4294967297; expected 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1.0]}",
          "x.jsonl:1: \"input_ids\"[0] is a number; expected 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[[1]]}",
          "x.jsonl:1: \"input_ids\"[0] is a list; expected 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,2],\"labels\":[1]}",
          "x.jsonl:1: \"labels\" has 1 elements; expected 2, one for each of \"input_ids\"" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,2],\"labels\":[1,-1]}",
          "x.jsonl:1: \"labels\"[1] is -1; expected -100 (no loss) or 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,2],\"labels\":[1,11]}",
          "x.jsonl:1: \"labels\"[1] is 11; expected -100 (no loss) or 0 to 10" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,2],\"attention_mask\":[1,0]}",
          "x.jsonl:1: \"attention_mask\"[1] is not 1; padded records are not read: leave the "
          "padding out" },
        { DATA_INPUT_IDS, "{\"input_ids\":[1,2],\"attention_mask\":[1]}",
          "x.jsonl:1: \"attention_mask\" has 1 elements; expected 2, one for each of "
          "\"input_ids\"" },
    };
    const struct document_options o = default_options(f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct loaded l = load(f, cases[i].text, cases[i].type, &o);
        assert_refused(f, &l, cases[i].message);
    }
}

static void ids_past_the_models_vocabulary_are_refused(void **state)
{
    struct fixture *f = *state;
    struct document_options o = default_options(f);
    o.record.vocab_size = CD;
    struct loaded l = load(f, "{\"text\":\"ab\"}\n{\"text\":\"cd\"}\n", DATA_AUTO, &o);
    assert_refused(
        f, &l,
        "x.jsonl:2: the tokenizer gives id 9, but the model's vocabulary ends at 8; is this "
        "tokenizer.json of this model?");
    o.record.tokenizer = NULL;
    l = load(f, "{\"text\":\"ab\"}\n", DATA_AUTO, &o);
    assert_refused(f, &l, "x.jsonl:1: is text, but there is no tokenizer to read it with");
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(every_token_of_a_text_but_the_first_is_a_target),
        WITH_FIXTURE(an_end_by_the_post_processor_is_not_doubled),
        WITH_FIXTURE(without_an_eos_nothing_is_added),
        WITH_FIXTURE(only_tokens_that_begin_in_the_completion_carry_loss),
        WITH_FIXTURE(ready_made_ids_are_taken_as_they_are),
        WITH_FIXTURE(names_of_fields_can_be_set),
        WITH_FIXTURE(documents_without_a_target_are_dropped_and_counted),
        WITH_FIXTURE(an_empty_text_is_dropped_though_it_has_bos_and_eos),
        WITH_FIXTURE(long_documents_are_truncated),
        WITH_FIXTURE(long_documents_are_split),
        WITH_FIXTURE(long_documents_are_dropped_or_refused),
        WITH_FIXTURE(several_data_sets_make_one),
        WITH_FIXTURE(bad_records_are_named),
        WITH_FIXTURE(ids_past_the_models_vocabulary_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
