#include "datasets/batch.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"
#include "kernels/core/text.h"

static int64_t doc_length(const struct document_set *set, int64_t doc)
{
    return set->start[doc + 1] - set->start[doc];
}

static int64_t *new_indices(int64_t n, struct err *err)
{
    size_t bytes = 0;
    int64_t *out = size_mul((size_t)n + 1, sizeof *out, &bytes) ? malloc(bytes) : NULL;
    if (out == NULL)
        err_no_memory(err, "the order of the data");
    return out;
}

/* ---- training and validation ---- */

/* Whether the document begins a record: whole, or the first piece kept of it. */
static bool begins_record(const struct document_set *set, int64_t doc)
{
    const struct document_origin *now = &set->origin[doc];
    return doc == 0 || now->piece == 0 || now->file != now[-1].file ||
           now->number != now[-1].number;
}

static bool validation_count(const struct document_set *set, double size, int64_t n_record,
                             int64_t *out, struct err *err)
{
    *out = 0;
    if (!(size >= 0) || (size >= 1 && size != floor(size)))
        return err_set(err, ERR_RECIPE,
                       "val_set_size: is %g; expected a fraction below 1, or a count", size);
    if (set->n_doc == 0)
        return err_set(err, ERR_DATA, "the data sets have no document to train on");
    /* A hair off, so that a tenth of thirty is three whatever the product rounds to. */
    double n = size < 1 ? ceil(size * (double)n_record - 1e-6) : size;
    if (size > 0 && n < 1)
        n = 1;
    if (n >= (double)n_record)
        return err_set(err, ERR_DATA,
                       "val_set_size: %g of %" PRId64 " records leaves none to train on; lower it",
                       size, n_record);
    *out = (int64_t)n;
    return true;
}

bool batch_split_validation(const struct document_set *set, const struct data_config *config,
                            struct batch_split *out, struct err *err)
{
    *out = (struct batch_split){ 0 };
    int64_t n_record = 0, n_chosen = 0;
    for (int64_t d = 0; d < set->n_doc; d++)
        n_record += begins_record(set, d);
    if (!validation_count(set, config->val_set_size, n_record, &n_chosen, err))
        return false;

    bool *chosen = calloc((size_t)n_record, sizeof *chosen);
    out->train = new_indices(set->n_doc, err);
    out->validation = new_indices(set->n_doc, err);
    if (chosen == NULL || out->train == NULL || out->validation == NULL) {
        free(chosen);
        batch_split_free(out);
        return err_no_memory(err, "the order of the data");
    }
    for (int64_t i = 0; i < n_chosen; i++)
        chosen[rng_permute(config->seed, RNG_SPLIT, 0, (uint64_t)n_record, (uint64_t)i)] = true;
    for (int64_t d = 0, record = -1; d < set->n_doc; d++) {
        record += begins_record(set, d);
        if (chosen[record])
            out->validation[out->n_validation++] = d;
        else
            out->train[out->n_train++] = d;
    }
    free(chosen);
    return true;
}

void batch_split_free(struct batch_split *split)
{
    free(split->train);
    free(split->validation);
    *split = (struct batch_split){ 0 };
}

/* ---- steps ---- */

static bool check_at_least_one(const char *key, int64_t value, struct err *err)
{
    return value >= 1 ||
           err_set(err, ERR_RECIPE, "%s: is %" PRId64 "; expected at least 1", key, value);
}

bool batcher_init(struct batcher *b, const struct document_set *set, const int64_t *docs,
                  int64_t n_doc, const struct data_config *config, struct err *err)
{
    *b = (struct batcher){
        .set = set,
        .docs = docs,
        .n_doc = n_doc,
        .packed = config->sample_packing,
        .shuffle = config->shuffle,
        .seed = config->seed,
        .epoch = -1,
    };
    if (n_doc == 0)
        return err_set(err, ERR_DATA, "the data sets have no document to train on");
    if (!check_at_least_one("micro_batch_size", config->micro_batch_size, err) ||
        !check_at_least_one("gradient_accumulation_steps", config->gradient_accumulation_steps,
                            err) ||
        (b->packed && !check_at_least_one("sequence_len", config->sequence_len, err)))
        return false;
    if (__builtin_mul_overflow(config->micro_batch_size, config->gradient_accumulation_steps,
                               &b->step_docs) ||
        (b->packed && __builtin_mul_overflow(b->step_docs, config->sequence_len, &b->step_tokens)))
        return err_set(err, ERR_RECIPE,
                       "micro_batch_size: a step of %" PRId64 " x %" PRId64
                       " documents is too large",
                       config->micro_batch_size, config->gradient_accumulation_steps);
    b->order = new_indices(n_doc, err);
    b->step_start = new_indices(n_doc, err);
    if (b->order != NULL && b->step_start != NULL)
        return true;
    batcher_free(b);
    return false;
}

void batcher_free(struct batcher *b)
{
    free(b->order);
    free(b->step_start);
    *b = (struct batcher){ 0 };
}

/* End of the step that begins with order[from]. */
static int64_t step_end(const struct batcher *b, int64_t from)
{
    if (b->packed)
        return batch_pass_end(b->set, b->order, b->n_doc, from, b->step_tokens);
    return b->n_doc - from > b->step_docs ? from + b->step_docs : b->n_doc;
}

static void plan_epoch(struct batcher *b, int64_t epoch)
{
    for (int64_t i = 0; i < b->n_doc; i++) {
        const int64_t from = b->shuffle ? (int64_t)rng_permute(b->seed, RNG_ORDER, (uint64_t)epoch,
                                                               (uint64_t)b->n_doc, (uint64_t)i)
                                        : i;
        b->order[i] = b->docs[from];
    }
    b->epoch = epoch;
    b->n_step = 0;
    b->step_start[0] = 0;
    for (int64_t at = 0; at < b->n_doc;) {
        at = step_end(b, at);
        b->step_start[++b->n_step] = at;
    }
}

/* Makes the epoch of that step the one at hand. Only where packing meets shuffling do epochs differ
 * in length, and the way there leads through those before. */
static void seek(struct batcher *b, int64_t number)
{
    if (b->epoch >= 0 && number >= b->first_step && number < b->first_step + b->n_step)
        return;
    if (b->epoch < 0 || number < b->first_step) {
        plan_epoch(b, 0);
        b->first_step = 0;
    }
    if (!(b->packed && b->shuffle)) {
        const int64_t epoch = number / b->n_step;
        plan_epoch(b, epoch);
        b->first_step = epoch * b->n_step;
        return;
    }
    while (number >= b->first_step + b->n_step) {
        b->first_step += b->n_step;
        plan_epoch(b, b->epoch + 1);
    }
}

struct batch_step batcher_step(struct batcher *b, int64_t number)
{
    assert(number >= 0);
    seek(b, number);
    const int64_t index = number - b->first_step, from = b->step_start[index];
    struct batch_step step = {
        .docs = b->order + from,
        .n_doc = b->step_start[index + 1] - from,
        .epoch = b->epoch,
        .index = index,
        .n_step = b->n_step,
    };
    for (int64_t i = 0; i < step.n_doc; i++) {
        step.n_tok += doc_length(b->set, step.docs[i]);
        step.n_target += b->set->n_target[step.docs[i]];
    }
    return step;
}

bool batcher_total_steps(struct batcher *b, double num_epochs, int64_t max_steps, int64_t *out,
                         struct err *err)
{
    static const double most = 1e6; /* epochs that packing can be asked to count through */
    *out = max_steps;
    if (max_steps > 0)
        return true;
    if (!(num_epochs > 0 && num_epochs <= most))
        return err_set(err, ERR_RECIPE, "num_epochs: is %g; expected above 0 and at most %g",
                       num_epochs, most);
    plan_epoch(b, 0);
    b->first_step = 0;
    if (!(b->packed && b->shuffle)) {
        *out = (int64_t)ceil(num_epochs * (double)b->n_step);
        return true;
    }
    const double whole = floor(num_epochs);
    int64_t total = 0;
    for (int64_t e = 0; e < (int64_t)whole; e++) {
        plan_epoch(b, e);
        total += b->n_step;
    }
    if (num_epochs > whole) {
        plan_epoch(b, (int64_t)whole);
        total += (int64_t)ceil((num_epochs - whole) * (double)b->n_step);
    }
    b->epoch = -1; /* the first step of the epoch at hand was not kept */
    *out = total;
    return true;
}

struct batch_bounds batcher_bounds(const struct batcher *b)
{
    struct batch_bounds out = { 0 };
    int64_t shortest = INT64_MAX, total = 0;
    for (int64_t i = 0; i < b->n_doc; i++) {
        const int64_t n = doc_length(b->set, b->docs[i]);
        out.longest = n > out.longest ? n : out.longest;
        shortest = n < shortest ? n : shortest;
        total += n;
    }
    if (b->packed) {
        out.n_doc = shortest > 0 ? b->step_tokens / shortest : b->n_doc;
        out.n_doc = out.n_doc < 1 ? 1 : out.n_doc;
        out.n_tok = b->step_tokens > out.longest ? b->step_tokens : out.longest;
    } else {
        out.n_doc = b->step_docs;
        if (__builtin_mul_overflow(b->step_docs, out.longest, &out.n_tok))
            out.n_tok = total;
    }
    out.n_doc = out.n_doc < b->n_doc ? out.n_doc : b->n_doc;
    out.n_tok = out.n_tok < total ? out.n_tok : total;
    return out;
}

/* ---- passes ---- */

int64_t batch_pass_end(const struct document_set *set, const int64_t *docs, int64_t n_doc,
                       int64_t from, int64_t max_tokens)
{
    int64_t end = from, n_tok = 0;
    while (end < n_doc) {
        n_tok += doc_length(set, docs[end]);
        if (n_tok > max_tokens && end > from)
            break;
        end++;
    }
    return end;
}

int64_t batch_split_passes(const struct document_set *set, const int64_t *docs, int64_t n_doc,
                           int64_t max_tokens, int64_t *pass_start)
{
    int64_t n_pass = 0;
    for (int64_t at = 0; at < n_doc; n_pass++) {
        if (pass_start != NULL)
            pass_start[n_pass] = at;
        at = batch_pass_end(set, docs, n_doc, at, max_tokens);
    }
    if (pass_start != NULL)
        pass_start[n_pass] = n_doc;
    return n_pass;
}

void stream_fill(struct stream *s, const struct document_set *set, const int64_t *docs,
                 int64_t n_doc, int64_t first_index)
{
    assert(n_doc <= s->doc_cap);
    s->n_doc = n_doc;
    s->n_tok = s->n_target = 0;
    s->first_index = first_index;
    s->doc_start[0] = 0;
    for (int64_t d = 0; d < n_doc; d++) {
        const int64_t from = set->start[docs[d]], n = doc_length(set, docs[d]);
        assert(n <= s->tok_cap - s->n_tok);
        memcpy(s->ids + s->n_tok, set->ids + from, (size_t)n * sizeof *s->ids);
        memcpy(s->targets + s->n_tok, set->targets + from, (size_t)n * sizeof *s->targets);
        s->n_tok += n;
        s->n_target += set->n_target[docs[d]];
        s->doc_start[d + 1] = s->n_tok;
    }
}
