/* Order, steps, epochs, passes: which documents come when, and that nothing depends on how one got
 * there. */
#include "datasets/batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_DOC = 200, MAX_TOK = 4000 };

/* A set of documents of given lengths; token t of document d is 100 * d + t. */
struct made {
    struct document_set set;
    int32_t ids[MAX_TOK], targets[MAX_TOK];
    int64_t start[MAX_DOC + 1], n_target[MAX_DOC], docs[MAX_DOC];
    struct document_origin origin[MAX_DOC];
};

static void add_document(struct made *m, int64_t length)
{
    struct document_set *set = &m->set;
    const int64_t d = set->n_doc;
    assert_true(d < MAX_DOC && set->n_tok + length <= MAX_TOK);
    for (int64_t t = 0; t < length; t++) {
        m->ids[set->n_tok + t] = (int32_t)(100 * d + t);
        m->targets[set->n_tok + t] = t + 1 < length ? (int32_t)(100 * d + t + 1) : NO_TARGET;
    }
    set->ids = m->ids;
    set->targets = m->targets;
    set->start = m->start;
    set->n_target = m->n_target;
    set->origin = m->origin;
    m->docs[d] = d;
    m->n_target[d] = length > 0 ? length - 1 : 0;
    m->origin[d] = (struct document_origin){ .number = d + 1 };
    set->n_tok += length;
    set->n_doc++;
    m->start[d + 1] = set->n_tok;
}

static struct made *make(const int64_t *lengths, int64_t n)
{
    struct made *m = calloc(1, sizeof *m);
    assert_non_null(m);
    for (int64_t d = 0; d < n; d++)
        add_document(m, lengths[d]);
    return m;
}

/* n documents of 1 to 16 tokens. */
static struct made *make_mixed(int64_t n)
{
    struct made *m = calloc(1, sizeof *m);
    assert_non_null(m);
    for (int64_t d = 0; d < n; d++)
        add_document(m, 1 + d * d * 7 % 17);
    return m;
}

static struct data_config config_of(int64_t micro, int64_t accumulate)
{
    return (struct data_config){
        .sequence_len = 20,
        .shuffle = true,
        .micro_batch_size = micro,
        .gradient_accumulation_steps = accumulate,
        .seed = 42,
    };
}

static struct batcher open_batcher(const struct made *m, const struct data_config *config)
{
    struct batcher b = { 0 };
    struct err err = { 0 };
    if (!batcher_init(&b, &m->set, m->docs, m->set.n_doc, config, &err))
        fail_msg("%s", err.text);
    return b;
}

/* ---- validation ---- */

static void the_split_has_the_size_that_was_asked_for(void **state)
{
    (void)state;
    static const struct {
        int64_t n_doc;
        double size;
        int64_t n_validation;
    } cases[] = {
        { 10, 0, 0 },     { 10, 0.1, 1 },    { 30, 0.1, 3 },  { 31, 0.1, 4 },
        { 100, 0.07, 7 }, { 10, 1, 1 },      { 10, 9, 9 },    { 10, 1e-9, 1 },
        { 3, 0.5, 2 },    { 200, 0.05, 10 }, { 2, 0.001, 1 }, { 10, 0.9, 9 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made *m = make_mixed(cases[i].n_doc);
        struct data_config config = config_of(1, 1);
        config.val_set_size = cases[i].size;
        struct batch_split split = { 0 };
        struct err err = { 0 };
        assert_true(batch_split_validation(&m->set, &config, &split, &err));
        assert_int_equal(split.n_validation, cases[i].n_validation);
        assert_int_equal(split.n_train, cases[i].n_doc - cases[i].n_validation);
        int seen[MAX_DOC] = { 0 };
        for (int64_t k = 0; k < split.n_train; k++) {
            seen[split.train[k]]++;
            assert_true(k == 0 || split.train[k] > split.train[k - 1]);
        }
        for (int64_t k = 0; k < split.n_validation; k++) {
            seen[split.validation[k]]++;
            assert_true(k == 0 || split.validation[k] > split.validation[k - 1]);
        }
        for (int64_t d = 0; d < cases[i].n_doc; d++)
            assert_int_equal(seen[d], 1);
        batch_split_free(&split);
        free(m);
    }
}

static void the_split_depends_on_the_seed_alone(void **state)
{
    (void)state;
    struct made *m = make_mixed(100);
    struct data_config config = config_of(1, 1);
    config.val_set_size = 30;
    struct batch_split first = { 0 }, again = { 0 }, other = { 0 };
    assert_true(batch_split_validation(&m->set, &config, &first, NULL));
    config.micro_batch_size = 7;
    config.sample_packing = true;
    assert_true(batch_split_validation(&m->set, &config, &again, NULL));
    config.seed++;
    assert_true(batch_split_validation(&m->set, &config, &other, NULL));
    const size_t bytes = 30 * sizeof *first.validation;
    assert_memory_equal(first.validation, again.validation, bytes);
    assert_memory_not_equal(first.validation, other.validation, bytes);
    batch_split_free(&first);
    batch_split_free(&again);
    batch_split_free(&other);
    free(m);
}

static void pieces_of_a_record_stay_on_one_side(void **state)
{
    (void)state;
    struct made *m = make_mixed(120);
    for (int64_t d = 0; d < 120; d++) /* records of one, two and three documents; two files */
        m->origin[d] = (struct document_origin){ .file = d / 60,
                                                 .number = d % 60 / 6 * 3 + (d % 6 + 2) / 3,
                                                 .piece = d % 6 == 0 ? 0 : (d - 1) % 3 + 1 };
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct data_config config = config_of(1, 1);
        config.val_set_size = 0.5;
        config.seed = seed;
        struct batch_split split = { 0 };
        assert_true(batch_split_validation(&m->set, &config, &split, NULL));
        for (int64_t i = 0; i < split.n_train; i++) {
            for (int64_t k = 0; k < split.n_validation; k++) {
                const struct document_origin *a = &m->origin[split.train[i]],
                                             *b = &m->origin[split.validation[k]];
                assert_false(a->file == b->file && a->number == b->number);
            }
        }
        batch_split_free(&split);
    }
    free(m);
}

static void an_impossible_split_is_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t n_doc;
        double size;
        enum err_code code;
        const char *message;
    } cases[] = {
        { 0, 0, ERR_DATA, "the data sets have no document to train on" },
        { 10, 10, ERR_DATA, "val_set_size: 10 of 10 records leaves none to train on; lower it" },
        { 10, 1e300, ERR_DATA,
          "val_set_size: 1e+300 of 10 records leaves none to train on; lower it" },
        { 10, 0.95, ERR_DATA,
          "val_set_size: 0.95 of 10 records leaves none to train on; lower it" },
        { 1, 0.1, ERR_DATA, "val_set_size: 0.1 of 1 records leaves none to train on; lower it" },
        { 10, 1.5, ERR_RECIPE, "val_set_size: is 1.5; expected a fraction below 1, or a count" },
        { 10, -1, ERR_RECIPE, "val_set_size: is -1; expected a fraction below 1, or a count" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made *m = make_mixed(cases[i].n_doc);
        struct data_config config = config_of(1, 1);
        config.val_set_size = cases[i].size;
        struct batch_split split = { 0 };
        struct err err = { 0 };
        assert_false(batch_split_validation(&m->set, &config, &split, &err));
        assert_int_equal(err.code, cases[i].code);
        assert_string_equal(err.text, cases[i].message);
        batch_split_free(&split);
        free(m);
    }
}

/* ---- steps ---- */

static void every_epoch_has_each_document_once(void **state)
{
    (void)state;
    struct made *m = make_mixed(101);
    for (int packed = 0; packed < 2; packed++) {
        struct data_config config = config_of(2, 3);
        config.sample_packing = packed;
        struct batcher b = open_batcher(m, &config);
        int64_t first[2] = { 0 }, number = 0;
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            int seen[MAX_DOC] = { 0 };
            int64_t n_step = 1;
            for (int64_t i = 0; i < n_step; i++) {
                const struct batch_step step = batcher_step(&b, number++);
                assert_int_equal(step.epoch, epoch);
                assert_int_equal(step.index, i);
                n_step = step.n_step;
                int64_t n_tok = 0, n_target = 0;
                for (int64_t k = 0; k < step.n_doc; k++) {
                    seen[step.docs[k]]++;
                    n_tok += m->start[step.docs[k] + 1] - m->start[step.docs[k]];
                    n_target += m->n_target[step.docs[k]];
                }
                assert_int_equal(step.n_tok, n_tok);
                assert_int_equal(step.n_target, n_target);
                if (epoch < 2 && i == 0)
                    first[epoch] = step.docs[0] * 1000 + step.docs[1];
            }
            for (int64_t d = 0; d < 101; d++)
                assert_int_equal(seen[d], 1);
        }
        assert_true(first[0] != first[1]);
        batcher_free(&b);
    }
    free(m);
}

static void without_shuffle_documents_come_in_order(void **state)
{
    (void)state;
    struct made *m = make_mixed(10);
    struct data_config config = config_of(2, 2);
    config.shuffle = false;
    struct batcher b = open_batcher(m, &config);
    static const int64_t sizes[] = { 4, 4, 2, 4, 4, 2 };
    int64_t next = 0;
    for (int64_t s = 0; s < 6; s++) {
        const struct batch_step step = batcher_step(&b, s);
        assert_int_equal(step.n_doc, sizes[s]);
        for (int64_t k = 0; k < step.n_doc; k++)
            assert_int_equal(step.docs[k], next++ % 10);
    }
    batcher_free(&b);
    free(m);
}

static void packing_fills_a_step_in_order(void **state)
{
    (void)state;
    /* Bound: 2 * 1 * 20 = 40 tokens. 41 stands alone; zero and one-token documents fit anywhere. */
    static const int64_t lengths[] = { 20, 20, 1, 39, 1, 41, 40, 0, 1, 20, 19, 2 };
    static const int64_t ends[] = { 2, 4, 5, 6, 8, 11, 12 };
    struct made *m = make(lengths, 12);
    struct data_config config = config_of(2, 1);
    config.sample_packing = true;
    config.shuffle = false;
    struct batcher b = open_batcher(m, &config);
    for (int64_t s = 0; s < 14; s++) {
        const struct batch_step step = batcher_step(&b, s);
        assert_int_equal(step.n_step, 7);
        assert_int_equal(step.epoch, s / 7);
        assert_int_equal(step.docs[step.n_doc - 1] + 1, ends[s % 7]);
    }
    batcher_free(&b);
    free(m);
}

static void a_step_does_not_depend_on_the_way_to_it(void **state)
{
    (void)state;
    enum { STEPS = 200 };
    struct made *m = make_mixed(37);
    for (int mode = 0; mode < 4; mode++) {
        struct data_config config = config_of(1, 2);
        config.sample_packing = mode & 1;
        config.shuffle = mode & 2;
        struct batcher straight = open_batcher(m, &config), jumping = open_batcher(m, &config);
        static int64_t docs[STEPS][MAX_DOC], counts[STEPS], epochs[STEPS];
        for (int64_t s = 0; s < STEPS; s++) {
            const struct batch_step step = batcher_step(&straight, s);
            memcpy(docs[s], step.docs, (size_t)step.n_doc * sizeof *step.docs);
            counts[s] = step.n_doc;
            epochs[s] = step.epoch;
        }
        assert_true(epochs[STEPS - 1] > 5);
        for (int64_t i = 0; i < STEPS; i++) {
            const int64_t s = i * 83 % STEPS;
            const struct batch_step step = batcher_step(&jumping, s);
            assert_int_equal(step.n_doc, counts[s]);
            assert_int_equal(step.epoch, epochs[s]);
            assert_memory_equal(step.docs, docs[s], (size_t)step.n_doc * sizeof *step.docs);
        }
        batcher_free(&straight);
        batcher_free(&jumping);
    }
    free(m);
}

static void a_batch_of_the_same_size_has_the_same_documents(void **state)
{
    (void)state;
    struct made *m = make_mixed(50);
    for (int packed = 0; packed < 2; packed++) {
        struct data_config wide = config_of(6, 1), deep = config_of(1, 6);
        wide.sample_packing = deep.sample_packing = packed;
        struct batcher a = open_batcher(m, &wide), b = open_batcher(m, &deep);
        for (int64_t s = 0; s < 30; s++) {
            const struct batch_step x = batcher_step(&a, s), y = batcher_step(&b, s);
            assert_int_equal(x.n_doc, y.n_doc);
            assert_memory_equal(x.docs, y.docs, (size_t)x.n_doc * sizeof *x.docs);
        }
        batcher_free(&a);
        batcher_free(&b);
    }
    free(m);
}

static void total_steps_are_those_of_hugging_face(void **state)
{
    (void)state;
    static const struct {
        int64_t n_doc, micro, accumulate;
        double num_epochs;
        int64_t max_steps, total;
    } cases[] = {
        { 10, 1, 1, 3, 0, 30 },      { 10, 4, 1, 3, 0, 9 },
        { 10, 2, 2, 3, 0, 9 },       { 10, 2, 2, 0.5, 0, 2 },
        { 10, 3, 1, 2.5, 0, 10 },    { 10, 1, 1, 0.01, 0, 1 },
        { 10, 1, 1, 1.1, 0, 11 },    { 100, 1, 1, 0.07, 0, 8 /* 7.000000000000001 */ },
        { 10, 100, 1, 1, 0, 1 },     { 10, 1, 1, 3, 7, 7 },
        { 10, 1, 1, 0, 1000, 1000 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made *m = make_mixed(cases[i].n_doc);
        const struct data_config config = config_of(cases[i].micro, cases[i].accumulate);
        struct batcher b = open_batcher(m, &config);
        int64_t total = 0;
        assert_true(batcher_total_steps(&b, cases[i].num_epochs, cases[i].max_steps, &total, NULL));
        if (total != cases[i].total)
            fail_msg("case %zu: %d steps", i, (int)total);
        batcher_free(&b);
        free(m);
    }
}

static void total_steps_with_packing_are_counted_exactly(void **state)
{
    (void)state;
    struct made *m = make_mixed(150);
    struct data_config config = config_of(1, 2);
    config.sample_packing = true;
    struct batcher b = open_batcher(m, &config);
    int64_t total = 0, expected = 0, last = 0;
    assert_true(batcher_total_steps(&b, 12.5, 0, &total, NULL));
    bool differ = false;
    for (int64_t e = 0, s = 0; e < 13; e++) {
        const struct batch_step step = batcher_step(&b, s);
        assert_int_equal(step.epoch, e);
        assert_int_equal(step.index, 0);
        expected += e < 12 ? step.n_step : (step.n_step + 1) / 2;
        differ = differ || (e > 0 && step.n_step != last);
        last = step.n_step;
        s += step.n_step;
    }
    assert_true(differ); /* else the case shows nothing */
    assert_int_equal(total, expected);
    batcher_free(&b);
    free(m);
}

static void bounds_hold_and_are_reached(void **state)
{
    (void)state;
    static const int64_t equal[] = { 20, 20, 20, 20, 20, 20, 20 };
    for (int mode = 0; mode < 4; mode++) {
        struct made *m = mode & 2 ? make_mixed(90) : make(equal, 7);
        struct data_config config = config_of(3, 1);
        config.sample_packing = mode & 1;
        struct batcher b = open_batcher(m, &config);
        const struct batch_bounds bounds = batcher_bounds(&b);
        int64_t most_tok = 0, most_doc = 0;
        for (int64_t s = 0; s < 300; s++) {
            const struct batch_step step = batcher_step(&b, s);
            most_tok = step.n_tok > most_tok ? step.n_tok : most_tok;
            most_doc = step.n_doc > most_doc ? step.n_doc : most_doc;
        }
        assert_true(most_tok <= bounds.n_tok && most_doc <= bounds.n_doc);
        int64_t longest = 0;
        for (int64_t d = 0; d < m->set.n_doc; d++)
            longest =
                m->start[d + 1] - m->start[d] > longest ? m->start[d + 1] - m->start[d] : longest;
        assert_int_equal(bounds.longest, longest);
        if (!(mode & 2)) {
            assert_int_equal(most_tok, bounds.n_tok);
            assert_int_equal(most_doc, bounds.n_doc);
        }
        batcher_free(&b);
        free(m);
    }
}

static void impossible_steps_are_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t n_doc, micro, accumulate, sequence_len;
        bool packed;
        const char *message;
    } cases[] = {
        { 0, 1, 1, 20, false, "the data sets have no document to train on" },
        { 3, 0, 1, 20, false, "micro_batch_size: is 0; expected at least 1" },
        { 3, 1, -2, 20, false, "gradient_accumulation_steps: is -2; expected at least 1" },
        { 3, 1, 1, 0, true, "sequence_len: is 0; expected at least 1" },
        { 3, INT64_MAX, 2, 20, false,
          "micro_batch_size: a step of 9223372036854775807 x 2 documents is too large" },
        { 3, INT64_MAX / 2, 1, 20, true,
          "micro_batch_size: a step of 4611686018427387903 x 1 documents is too large" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made *m = make_mixed(cases[i].n_doc);
        struct data_config config = config_of(cases[i].micro, cases[i].accumulate);
        config.sequence_len = cases[i].sequence_len;
        config.sample_packing = cases[i].packed;
        struct batcher b = { 0 };
        struct err err = { 0 };
        assert_false(batcher_init(&b, &m->set, m->docs, m->set.n_doc, &config, &err));
        assert_string_equal(err.text, cases[i].message);
        batcher_free(&b);
        free(m);
    }
    struct made *m = make_mixed(3);
    const struct data_config config = config_of(1, 1);
    struct batcher b = open_batcher(m, &config);
    struct err err = { 0 };
    int64_t total = 0;
    assert_false(batcher_total_steps(&b, 0, 0, &total, &err));
    assert_string_equal(err.text, "num_epochs: is 0; expected above 0 and at most 1e+06");
    batcher_free(&b);
    free(m);
}

static void a_batch_larger_than_the_data_is_one_step(void **state)
{
    (void)state;
    struct made *m = make_mixed(5);
    for (int packed = 0; packed < 2; packed++) {
        struct data_config config = config_of(1 << 20, 1 << 20);
        config.sample_packing = packed;
        struct batcher b = open_batcher(m, &config);
        const struct batch_step step = batcher_step(&b, 3);
        assert_int_equal(step.n_doc, 5);
        assert_int_equal(step.epoch, 3);
        assert_int_equal(batcher_bounds(&b).n_tok, m->set.n_tok);
        assert_int_equal(batcher_bounds(&b).n_doc, 5);
        batcher_free(&b);
    }
    free(m);
}

/* ---- passes ---- */

static void passes_are_whole_documents_within_the_bound(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 3, 4, 5, 9, 1, 1, 10, 2 };
    static const struct {
        int64_t max_tokens, n_pass, start[9];
    } cases[] = {
        { 1, 8, { 0, 1, 2, 3, 4, 5, 6, 7, 8 } },
        { 7, 6, { 0, 2, 3, 4, 6, 7, 8 } },
        { 12, 3, { 0, 3, 6, 8 } },
        { 35, 1, { 0, 8 } },
    };
    struct made *m = make(lengths, 8);
    int64_t start[9];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t n = batch_split_passes(&m->set, m->docs, 8, cases[i].max_tokens, start);
        assert_int_equal(n, cases[i].n_pass);
        assert_memory_equal(start, cases[i].start, (size_t)(n + 1) * sizeof *start);
        assert_int_equal(batch_split_passes(&m->set, m->docs, 8, cases[i].max_tokens, NULL), n);
    }
    assert_int_equal(batch_split_passes(&m->set, m->docs, 0, 5, start), 0);
    assert_int_equal(start[0], 0);
    free(m);
}

static void a_stream_is_its_documents_end_to_end(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 3, 0, 4, 1, 2 };
    struct made *m = make(lengths, 5);
    int32_t ids[10], targets[10];
    int64_t doc_start[6];
    struct stream s = {
        .ids = ids, .targets = targets, .doc_start = doc_start, .tok_cap = 10, .doc_cap = 5
    };
    static const int64_t docs[] = { 2, 1, 4, 3 };
    stream_fill(&s, &m->set, docs, 4, 77);
    static const int32_t expected_ids[] = { 200, 201, 202, 203, 400, 401, 300 };
    static const int32_t expected_targets[] = {
        201, 202, 203, NO_TARGET, 401, NO_TARGET, NO_TARGET
    };
    static const int64_t expected_start[] = { 0, 4, 4, 6, 7 };
    assert_int_equal(s.n_tok, 7);
    assert_int_equal(s.n_doc, 4);
    assert_int_equal(s.n_target, 4);
    assert_int_equal(s.first_index, 77);
    assert_memory_equal(ids, expected_ids, sizeof expected_ids);
    assert_memory_equal(targets, expected_targets, sizeof expected_targets);
    assert_memory_equal(doc_start, expected_start, sizeof expected_start);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_split_has_the_size_that_was_asked_for),
        cmocka_unit_test(the_split_depends_on_the_seed_alone),
        cmocka_unit_test(pieces_of_a_record_stay_on_one_side),
        cmocka_unit_test(an_impossible_split_is_refused),
        cmocka_unit_test(every_epoch_has_each_document_once),
        cmocka_unit_test(without_shuffle_documents_come_in_order),
        cmocka_unit_test(packing_fills_a_step_in_order),
        cmocka_unit_test(a_step_does_not_depend_on_the_way_to_it),
        cmocka_unit_test(a_batch_of_the_same_size_has_the_same_documents),
        cmocka_unit_test(total_steps_are_those_of_hugging_face),
        cmocka_unit_test(total_steps_with_packing_are_counted_exactly),
        cmocka_unit_test(bounds_hold_and_are_reached),
        cmocka_unit_test(impossible_steps_are_refused),
        cmocka_unit_test(a_batch_larger_than_the_data_is_one_step),
        cmocka_unit_test(passes_are_whole_documents_within_the_bound),
        cmocka_unit_test(a_stream_is_its_documents_end_to_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
