/* A tiny model with a real tokenizer: what generate_text emits against the same walk done by hand,
 * end tokens, and where they are read from. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/generate/text.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

enum { N_NEW = 40 };
static const char tokenizer_dir[] = "tests/fixtures/tokenizers/jamba";

struct fixture {
    char *folder;
    struct engine engine;
    struct tokenizer *tokenizer;
    struct end_tokens end;
};

static void require(bool ok, const struct err *err)
{
    if (!ok)
        fail_msg("%s", err->text);
}

static int open_fixture(void **state)
{
    static struct fixture f;
    struct err err = { 0 };
    f = (struct fixture){ .folder = tiny_scratch_make() };
    f.tokenizer = tokenizer_open(tokenizer_dir, &err);
    require(f.tokenizer != NULL, &err);
    struct jamba_config config = tiny_config();
    config.vocab_size = tokenizer_vocab_size(f.tokenizer);
    tiny_config_derive(&config);
    tiny_checkpoint_write(f.folder, &config, &(struct tiny_options){ .n_shard = 1 });
    const struct engine_options options = { .base_model = f.folder,
                                            .compute = { .device = COMPUTE_CPU, .threads = 1 } };
    require(engine_open(&f.engine, &options, &err), &err);
    require(engine_allocate_generation(&f.engine, 4, NULL, &err), &err);
    *state = &f;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;
    engine_close(&f->engine);
    tokenizer_free(f->tokenizer);
    tiny_scratch_remove(f->folder);
    return 0;
}

/* ---- generate_text ---- */

struct sink {
    struct text text;
    int64_t n_call, fail_at;
};

static bool collect(void *context, const char *bytes, size_t n, struct err *err)
{
    struct sink *s = context;
    assert_true(n > 0 && text_is_utf8(bytes, n, NULL));
    text_append(&s->text, bytes, n);
    return ++s->n_call != s->fail_at || err_set(err, ERR_IO, "the sink is full");
}

static void encode(const struct fixture *f, const char *prompt, struct token_list *out)
{
    struct err err = { 0 };
    require(tokenizer_encode(f->tokenizer, prompt, strlen(prompt), true, out, &err), &err);
}

static struct generation generation(struct fixture *f, struct sampling how, struct sink *sink)
{
    return (struct generation){ .engine = &f->engine,
                                .tokenizer = f->tokenizer,
                                .end = &f->end,
                                .sampling = how,
                                .max_new_tokens = N_NEW,
                                .emit = collect,
                                .context = sink };
}

/* The prompt and N_NEW ids by hand. */
static void continue_by_hand(struct fixture *f, struct sampling how, struct token_list *ids)
{
    struct err err = { 0 };
    const int64_t vocab = f->engine.jamba.config->vocab_size;
    real *logits = test_zeros(vocab);
    struct sampler s = { 0 };
    struct jamba_state *state = jamba_state_new(&f->engine.jamba, &err);
    require(state != NULL && sampler_init(&s, &how, vocab, &err), &err);
    require(jamba_feed(&f->engine.jamba, state, ids->ids, ids->n, logits, &err), &err);
    for (int i = 0; i < N_NEW; i++) {
        int32_t id = -1;
        require(sampler_next(&s, logits, &id, &err), &err);
        require(jamba_feed(&f->engine.jamba, state, &id, 1, logits, &err), &err);
        assert_true(token_list_add(ids, id, 0));
    }
    sampler_free(&s);
    jamba_state_free(state);
    test_release(logits);
}

/* The text of ids[0..n_all) that the text of ids[0..n) does not have. */
static void text_between(const struct fixture *f, const int32_t *ids, int64_t n, int64_t n_all,
                         struct text *out)
{
    struct err err = { 0 };
    struct text head = { 0 };
    require(tokenizer_decode(f->tokenizer, ids, n, true, &head, &err), &err);
    struct text all = { 0 };
    require(tokenizer_decode(f->tokenizer, ids, n_all, true, &all, &err), &err);
    assert_true(all.len >= head.len &&
                (head.len == 0 || memcmp(all.data, head.data, head.len) == 0));
    text_clear(out);
    text_append(out, all.data + head.len, all.len - head.len);
    text_free(&head);
    text_free(&all);
}

static void assert_text(const struct text *a, const struct text *b)
{
    assert_int_equal(a->len, b->len);
    if (a->len > 0)
        assert_memory_equal(a->data, b->data, a->len);
}

static const struct sampling ways[] = {
    { .greedy = true },
    { .temperature = 1, .top_p = 1, .seed = 1 },
    { .temperature = 1.5, .top_k = 300, .top_p = 0.9, .seed = 2 },
    { .temperature = 4, .top_p = 1, .seed = 3 },
};
enum { N_WAY = sizeof ways / sizeof *ways };

static void what_is_emitted_is_the_text_of_the_new_tokens(void **state)
{
    struct fixture *f = *state;
    f->end = (struct end_tokens){ 0 };
    static const char *const prompts[] = { "", "Hello",
                                           "a longer prompt than a chunk, which has four",
                                           "no space at the end ", "line\n" };
    for (size_t p = 0; p < sizeof prompts / sizeof *prompts; p++) {
        for (int w = 0; w < N_WAY; w++) {
            struct err err = { 0 };
            struct token_list ids = { 0 };
            encode(f, prompts[p], &ids);
            const int64_t n = ids.n;
            struct sink sink = { .fail_at = -1 };
            struct text expected = { 0 };
            const struct generation g = generation(f, ways[w], &sink);
            require(generate_text(&g, ids.ids, n, &err), &err);
            continue_by_hand(f, ways[w], &ids);
            text_between(f, ids.ids, n, ids.n, &expected);
            assert_text(&sink.text, &expected);
            text_free(&expected);
            text_free(&sink.text);
            token_list_free(&ids);
        }
    }
}

/* Byte tokens at the prompt's end are a run that may go on: no byte of the prompt comes out, and no
 * half of a character (collect looks). */
static void a_prompt_that_ends_in_byte_tokens_is_not_shown(void **state)
{
    struct fixture *f = *state;
    f->end = (struct end_tokens){ 0 };
    for (int w = 0; w < N_WAY; w++) {
        struct err err = { 0 };
        struct token_list ids = { 0 };
        encode(f, "☃ö", &ids);
        struct sink sink = { .fail_at = -1 };
        const struct generation g = generation(f, ways[w], &sink);
        require(generate_text(&g, ids.ids, ids.n, &err), &err);
        assert_true(sink.text.len == 0 || strncmp(sink.text.data, "☃ö", strlen("☃ö")) != 0);
        text_free(&sink.text);
        token_list_free(&ids);
    }
}

static void an_end_token_ends_the_text_and_is_not_shown(void **state)
{
    struct fixture *f = *state;
    struct token_list ids = { 0 };
    encode(f, "Hello", &ids);
    const int64_t n = ids.n;
    continue_by_hand(f, ways[3], &ids);
    for (int64_t i = n; i < ids.n; i++) {
        struct err err = { 0 };
        f->end = (struct end_tokens){ .id = { 5000, ids.ids[i] }, .n = 2 };
        int64_t first = n; /* where that id comes first */
        while (ids.ids[first] != ids.ids[i])
            first++;
        struct sink sink = { .fail_at = -1 };
        struct text expected = { 0 };
        const struct generation g = generation(f, ways[3], &sink);
        require(generate_text(&g, ids.ids, n, &err), &err);
        text_between(f, ids.ids, n, first, &expected);
        assert_text(&sink.text, &expected);
        text_free(&expected);
        text_free(&sink.text);
    }
    token_list_free(&ids);
}

static void the_number_of_new_tokens_is_a_limit(void **state)
{
    struct fixture *f = *state;
    f->end = (struct end_tokens){ 0 };
    struct token_list ids = { 0 };
    encode(f, "Hello", &ids);
    const int64_t n = ids.n;
    continue_by_hand(f, ways[3], &ids);
    for (int64_t most = 1; most <= N_NEW; most++) {
        struct err err = { 0 };
        struct sink sink = { .fail_at = -1 };
        struct text expected = { 0 };
        struct generation g = generation(f, ways[3], &sink);
        g.max_new_tokens = most;
        require(generate_text(&g, ids.ids, n, &err), &err);
        text_between(f, ids.ids, n, n + most, &expected);
        assert_text(&sink.text, &expected);
        text_free(&expected);
        text_free(&sink.text);
    }
    token_list_free(&ids);
}

static void a_failing_sink_ends_the_text_with_its_error(void **state)
{
    struct fixture *f = *state;
    f->end = (struct end_tokens){ 0 };
    struct err err = { 0 };
    struct token_list ids = { 0 };
    encode(f, "Hello", &ids);
    struct sink sink = { .fail_at = 3 };
    const struct generation g = generation(f, ways[3], &sink);
    assert_false(generate_text(&g, ids.ids, ids.n, &err));
    assert_int_equal(sink.n_call, 3);
    assert_int_equal(err.code, ERR_IO);
    assert_string_equal(err.text, "the sink is full");
    text_free(&sink.text);
    token_list_free(&ids);
}

/* ---- end tokens ---- */

static void write_generation_config(const struct fixture *f, const char *text)
{
    tiny_file_write(f->folder, "generation_config.json", text, strlen(text));
}

static void end_tokens_come_from_three_files(void **state)
{
    struct fixture *f = *state;
    const int32_t eos = tokenizer_eos(f->tokenizer);
    struct jamba_config config = { .eos_token_id = { 7, 9 }, .n_eos = 2 };
    const struct {
        const char *text; /* NULL: no file; it has none yet at first */
        int64_t ids[4];
        int64_t n;
    } cases[] = {
        { NULL, { 7, 9, eos }, 3 },
        { "{}", { 7, 9, eos }, 3 },
        { "{\"eos_token_id\": null}", { 7, 9, eos }, 3 },
        { "{\"eos_token_id\": 519}", { 7, 9, eos, 519 }, 4 },
        { "{\"eos_token_id\": [9, 7]}", { 7, 9, eos }, 3 },
        { "{\"eos_token_id\": [7, 519, 519]}", { 7, 9, eos, 519 }, 4 },
        { "{\"eos_token_id\": []}", { 7, 9, eos }, 3 },
    };
    assert_true(eos >= 0 && eos != 7 && eos != 9);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        struct end_tokens end;
        if (cases[i].text != NULL)
            write_generation_config(f, cases[i].text);
        require(end_tokens_read(f->folder, &config, f->tokenizer, &end, &err), &err);
        assert_int_equal(end.n, cases[i].n);
        for (int64_t k = 0; k < end.n; k++)
            assert_int_equal(end.id[k], cases[i].ids[k]);
        assert_true(end_tokens_has(&end, 7) && !end_tokens_has(&end, 8));
    }
}

/* ---- how a text ended ---- */

struct interrupting {
    volatile sig_atomic_t raised;
    int at; /* raised in this call */
};

static bool interrupt(void *context, const char *bytes, size_t n, struct err *err)
{
    struct interrupting *i = context;
    (void)bytes, (void)n, (void)err;
    i->raised = --i->at == 0;
    return true;
}

static void a_raised_flag_ends_the_text_at_the_next_token(void **state)
{
    struct fixture *f = *state;
    for (int at = 0; at < 6; at += 5) {
        struct interrupting i = { .raised = at == 0, .at = at };
        struct token_list ids = { 0 };
        struct err err = { 0 };
        struct generation g = generation(f, (struct sampling){ .greedy = true }, NULL);
        g.emit = interrupt;
        g.context = &i;
        g.interrupt = &i.raised;
        encode(f, "Once", &ids);
        struct text_run *run = text_run_new(&g, &err);
        require(run != NULL && text_run_feed(run, ids.ids, ids.n, &err) &&
                    text_run_write(run, &err),
                &err);
        assert_int_equal(text_run_end(run), TEXT_END_STOPPED);
        /* A call may be of several tokens, and the last one comes when the text has ended. */
        assert_in_range(text_run_written(run), at, at == 0 ? 0 : N_NEW - 1);
        text_run_free(run);
        token_list_free(&ids);
    }
}

static void a_text_says_why_it_ended_and_how_long_it_is(void **state)
{
    struct fixture *f = *state;
    const struct sampling greedy = { .greedy = true };
    struct token_list ids = { 0 };
    encode(f, "Once", &ids);
    const int64_t n = ids.n;
    continue_by_hand(f, greedy, &ids);
    for (int ended = 0; ended < 2; ended++) {
        struct sink sink = { 0 };
        struct err err = { 0 };
        struct end_tokens end = { .id = { ids.ids[n] }, .n = 1 };
        struct generation g = generation(f, greedy, &sink);
        if (ended)
            g.end = &end;
        struct text_run *run = text_run_new(&g, &err);
        require(run != NULL && text_run_feed(run, ids.ids, n, &err) && text_run_write(run, &err),
                &err);
        assert_int_equal(text_run_end(run), ended ? TEXT_END_TOKEN : TEXT_END_LENGTH);
        assert_int_equal(text_run_written(run), ended ? 0 : N_NEW);
        text_run_free(run);
        text_free(&sink.text);
    }
    token_list_free(&ids);
}

/* ---- prompts ---- */

static void a_prompt_is_bos_at_least_and_open_at_its_end(void **state)
{
    struct fixture *f = *state;
    struct err err = { 0 };
    struct tokenizer *plain = tokenizer_open("tests/fixtures/tokenizers/metaspace", &err);
    require(plain != NULL, &err);
    const int32_t bos = tokenizer_bos(f->tokenizer);
    const struct end_tokens end = { .id = { 7, 8, bos }, .n = 3 };
    const struct {
        const struct tokenizer *tokenizer;
        int64_t config_bos;
        int32_t before[4], after[4];
        int64_t n_before, n_after; /* n_after 0: refused */
    } cases[] = {
        { f->tokenizer, -1, { 7, 9 }, { 7, 9 }, 2, 2 },
        { f->tokenizer, -1, { 9, 7, 8 }, { 9 }, 3, 1 },
        { f->tokenizer, -1, { bos }, { bos }, 1, 1 }, /* BOS ends nothing */
        { f->tokenizer, 5, { 0 }, { bos }, 0, 1 },
        { plain, 5, { 8 }, { 5 }, 1, 1 },
        { plain, -1, { 0 }, { 0 }, 0, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct jamba_config config = { .bos_token_id = cases[i].config_bos };
        struct token_list prompt = { 0 };
        err = (struct err){ 0 };
        for (int64_t t = 0; t < cases[i].n_before; t++)
            assert_true(token_list_add(&prompt, cases[i].before[t], 0));
        const bool ok = generate_finish_prompt(cases[i].tokenizer, &config, &end, &prompt, &err);
        assert_int_equal(ok, cases[i].n_after > 0);
        assert_int_equal(prompt.n, cases[i].n_after);
        for (int64_t t = 0; t < prompt.n; t++)
            assert_int_equal(prompt.ids[t], cases[i].after[t]);
        if (!ok)
            assert_string_equal(err.text, "the prompt is empty, and the model has no BOS token to "
                                          "begin with; give a text");
        token_list_free(&prompt);
    }
    tokenizer_free(plain);
}

/* ---- the files ---- */

static void malformed_generation_configs_are_refused(void **state)
{
    struct fixture *f = *state;
    const struct jamba_config config = { 0 };
    const struct {
        const char *text, *message;
    } cases[] = {
        { "", "DIR/generation_config.json: not valid JSON: column 0: unexpected token near end of "
              "file" },
        { "[]", "DIR/generation_config.json: is a list; expected an object" },
        { "{\"eos_token_id\": \"2\"}",
          "DIR/generation_config.json: \"eos_token_id\" has a string; expected a "
          "token id, a list of them, or null" },
        { "{\"eos_token_id\": -1}",
          "DIR/generation_config.json: \"eos_token_id\" has an integer out of range; "
          "expected a token id, a list of them, or null" },
        { "{\"eos_token_id\": 4294967298}",
          "DIR/generation_config.json: \"eos_token_id\" has an integer out of "
          "range; expected a token id, a list of them, or null" },
        { "{\"eos_token_id\": [1, [2]]}",
          "DIR/generation_config.json: \"eos_token_id\" has a list; expected a "
          "token id, a list of them, or null" },
        { "{\"eos_token_id\": [1, null]}",
          "DIR/generation_config.json: \"eos_token_id\" has null; expected a "
          "token id, a list of them, or null" },
        { "{\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}",
          "DIR/generation_config.json: \"eos_token_id\" lists 17 ids; expected at most 16" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        struct end_tokens end;
        char message[ERR_TEXT_SIZE];
        write_generation_config(f, cases[i].text);
        assert_false(end_tokens_read(f->folder, &config, f->tokenizer, &end, &err));
        assert_int_equal(err.code, ERR_DATA);
        tiny_message(message, &err, f->folder);
        assert_string_equal(message, cases[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_emitted_is_the_text_of_the_new_tokens),
        cmocka_unit_test(a_prompt_that_ends_in_byte_tokens_is_not_shown),
        cmocka_unit_test(an_end_token_ends_the_text_and_is_not_shown),
        cmocka_unit_test(the_number_of_new_tokens_is_a_limit),
        cmocka_unit_test(a_failing_sink_ends_the_text_with_its_error),
        cmocka_unit_test(a_raised_flag_ends_the_text_at_the_next_token),
        cmocka_unit_test(a_text_says_why_it_ended_and_how_long_it_is),
        cmocka_unit_test(a_prompt_is_bos_at_least_and_open_at_its_end),
        cmocka_unit_test(end_tokens_come_from_three_files),
        cmocka_unit_test(malformed_generation_configs_are_refused),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
