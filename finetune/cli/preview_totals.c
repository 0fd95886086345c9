#include "finetune/cli/preview_totals.h"

#include <inttypes.h>

static int bucket_of(int64_t n)
{
    int k = 0;
    while (n > 1 && k + 1 < PREVIEW_BUCKETS) {
        n /= 2;
        k++;
    }
    return k;
}

void preview_count(const struct train_data *data, struct preview_totals *out)
{
    const struct document_set *set = &data->set;
    *out = (struct preview_totals){ .n_doc = data->split.n_train,
                                    .n_validation = data->n_validation,
                                    .report = data->report };
    for (int64_t i = 0; i < data->split.n_train; i++) {
        const int64_t doc = data->split.train[i], n = set->start[doc + 1] - set->start[doc];
        out->n_tok += n;
        out->n_trained += set->n_target[doc];
        out->longest = n > out->longest ? n : out->longest;
        out->length[bucket_of(n)]++;
    }
}

bool preview_bounds(const struct preview_totals *t, int *first, int *last)
{
    *first = -1;
    for (int k = 0; k < PREVIEW_BUCKETS; k++) {
        if (t->length[k] == 0)
            continue;
        if (*first < 0)
            *first = k;
        *last = k;
    }
    return *first >= 0;
}

void preview_losses(const struct preview_totals *t, struct text *out)
{
    const struct document_report *r = &t->report;
    if (r->n_truncated > 0)
        text_printf(out, "%" PRId64 " records cut to sequence_len, %" PRId64 " tokens lost\n",
                    r->n_truncated, r->n_cut_tok);
    if (r->n_split > 0)
        text_printf(out,
                    "%" PRId64 " records split at sequence_len into %" PRId64 " pieces, %" PRId64
                    " targets lost at the cuts\n",
                    r->n_split, r->n_piece, r->n_cut_target);
    if (r->n_too_long > 0)
        text_printf(out, "%" PRId64 " records dropped: longer than sequence_len\n", r->n_too_long);
    if (r->n_empty > 0)
        text_printf(out, "%" PRId64 " records dropped: empty\n", r->n_empty);
    if (r->n_untargeted > 0)
        text_printf(out, "%" PRId64 " documents dropped: nothing in them carries loss\n",
                    r->n_untargeted);
}

static json_t *lengths(const struct preview_totals *t)
{
    json_t *list = json_array();
    int first = 0, last = -1;
    if (!preview_bounds(t, &first, &last))
        return list;
    for (int k = first; list != NULL && k <= last; k++) {
        const json_int_t from = (json_int_t)1 << k;
        json_t *bucket = json_pack("{s:I, s:I, s:I}", "from", from, "to", 2 * from - 1, "documents",
                                   (json_int_t)t->length[k]);
        if (json_array_append_new(list, bucket) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

json_t *preview_json(const struct preview_totals *t)
{
    const struct document_report *r = &t->report;
    json_t *list = lengths(t);
    if (list == NULL)
        return NULL;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "records",
        (json_int_t)r->n_record, "documents", (json_int_t)t->n_doc, "validation_documents",
        (json_int_t)t->n_validation, "tokens", (json_int_t)t->n_tok, "trained_tokens",
        (json_int_t)t->n_trained, "longest", (json_int_t)t->longest, "truncated",
        (json_int_t)r->n_truncated, "tokens_cut", (json_int_t)r->n_cut_tok, "split",
        (json_int_t)r->n_split, "pieces", (json_int_t)r->n_piece, "dropped_too_long",
        (json_int_t)r->n_too_long, "dropped_empty", (json_int_t)r->n_empty, "dropped_untrained",
        (json_int_t)r->n_untargeted, "targets_cut", (json_int_t)r->n_cut_target, "lengths", list);
}
