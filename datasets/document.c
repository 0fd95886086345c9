#include "datasets/document.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "datasets/source.h"
#include "kernels/core/text.h"

void document_set_free(struct document_set *set)
{
    free(set->ids);
    free(set->targets);
    free(set->start);
    free(set->n_target);
    free(set->origin);
    for (int64_t i = 0; i < set->n_file; i++)
        free(set->files[i].path);
    free(set->files);
    *set = (struct document_set){ 0 };
}

/* `array` with room for n elements; NULL, and `array` as it was, when memory is out. */
static void *resized(void *array, int64_t n, size_t size)
{
    size_t bytes = 0;
    return size_mul((size_t)n, size, &bytes) ? realloc(array, bytes) : NULL;
}

static bool reserve_tokens(struct document_set *set, int64_t more, struct err *err)
{
    const int64_t need = set->n_tok + more;
    if (need <= set->tok_cap && set->ids != NULL)
        return true;
    const int64_t cap = need + need / 2 + 1024;
    int32_t *ids = resized(set->ids, cap, sizeof *ids);
    if (ids == NULL)
        return err_no_memory(err, "the tokens of the data");
    set->ids = ids;
    int32_t *targets = resized(set->targets, cap, sizeof *targets);
    if (targets == NULL)
        return err_no_memory(err, "the tokens of the data");
    set->targets = targets;
    set->tok_cap = cap;
    return true;
}

static bool reserve_documents(struct document_set *set, struct err *err)
{
    if (set->n_doc < set->doc_cap)
        return true;
    const int64_t cap = set->doc_cap + set->doc_cap / 2 + 64;
    int64_t *start = resized(set->start, cap + 1, sizeof *start);
    if (start == NULL)
        return err_no_memory(err, "the documents of the data");
    start[0] = 0;
    set->start = start;
    int64_t *n_target = resized(set->n_target, cap, sizeof *n_target);
    if (n_target == NULL)
        return err_no_memory(err, "the documents of the data");
    set->n_target = n_target;
    struct document_origin *origin = resized(set->origin, cap, sizeof *origin);
    if (origin == NULL)
        return err_no_memory(err, "the documents of the data");
    set->origin = origin;
    set->doc_cap = cap;
    return true;
}

static bool add_file(struct document_set *set, const struct source *s, struct err *err)
{
    struct document_file *files = resized(set->files, set->n_file + 1, sizeof *files);
    if (files == NULL)
        return err_no_memory(err, "the list of data files");
    set->files = files;
    char *path = text_copy(source_file_path(s, source_file(s)));
    if (path == NULL)
        return err_no_memory(err, "the list of data files");
    set->files[set->n_file++] = (struct document_file){ path, source_is_list(s) };
    return true;
}

/* Appends tokens [from, to) of the document as one of its own. */
static bool append(struct document_set *set, const struct record *r, int64_t from, int64_t to,
                   const struct document_origin *origin, struct err *err)
{
    const int64_t n = to - from;
    if (!reserve_documents(set, err) || !reserve_tokens(set, n, err))
        return false;
    int64_t n_target = 0;
    for (int64_t t = 0; t < n; t++) {
        const int32_t target = t + 1 < n ? r->labels[from + t + 1] : NO_TARGET;
        set->ids[set->n_tok + t] = r->ids[from + t];
        set->targets[set->n_tok + t] = target;
        n_target += target != NO_TARGET;
    }
    set->origin[set->n_doc] = *origin;
    set->n_target[set->n_doc] = n_target;
    set->n_tok += n;
    set->n_doc++;
    set->start[set->n_doc] = set->n_tok;
    return true;
}

static bool has_target(const struct record *r, int64_t from, int64_t to)
{
    for (int64_t t = from + 1; t < to; t++) {
        if (r->labels[t] != NO_TARGET)
            return true;
    }
    return false;
}

/* One call of document_load. */
struct loader {
    struct document_set *set;
    const struct document_options *options;
    struct document_report *report;
    struct source *source;
    struct record record;
    int64_t source_file; /* the one that set->files ends with; -1 before the first */
};

static bool keep(struct loader *l, int64_t from, int64_t to, int64_t piece, struct err *err)
{
    if (!l->options->keep_untargeted && !has_target(&l->record, from, to)) {
        l->report->n_untargeted++;
        return true;
    }
    const struct document_origin origin = { l->set->n_file - 1, source_number(l->source), piece };
    if (!append(l->set, &l->record, from, to, &origin, err))
        return false;
    l->report->n_doc++;
    l->report->n_tok += to - from;
    l->report->n_target += l->set->n_target[l->set->n_doc - 1];
    l->report->n_piece += piece > 0;
    return true;
}

static bool split(struct loader *l, struct err *err)
{
    const int64_t n = l->record.n, len = l->options->sequence_len;
    l->report->n_split++;
    for (int64_t from = 0, piece = 1; from < n; from += len, piece++) {
        l->report->n_cut_target += from > 0 && l->record.labels[from] != NO_TARGET;
        if (!keep(l, from, n - from > len ? from + len : n, piece, err))
            return false;
    }
    return true;
}

static bool too_long(struct loader *l, struct err *err)
{
    const int64_t n = l->record.n, len = l->options->sequence_len;
    switch (l->options->excess) {
    case EXCESS_TRUNCATE:
        l->report->n_truncated++;
        l->report->n_cut_tok += n - len;
        return keep(l, 0, len, 0, err);
    case EXCESS_SPLIT:
        return split(l, err);
    case EXCESS_DROP:
        l->report->n_too_long++;
        return true;
    case EXCESS_RAISE:
        break;
    }
    return err_set(err, ERR_DATA,
                   "%s: has %" PRId64 " tokens, more than sequence_len %" PRId64
                   "; raise it, or set excess_length_strategy to truncate, split or drop",
                   source_place(l->source), n, len);
}

/* What was read becomes documents of the set, or a count of the report. */
static bool add_record(struct loader *l, struct err *err)
{
    const int64_t n = l->record.n;
    struct document_report *report = l->report;
    report->n_record++;
    report->longest = n > report->longest ? n : report->longest;
    if (l->record.is_empty && !l->options->keep_untargeted) {
        report->n_empty++;
        return true;
    }
    if (source_file(l->source) != l->source_file) {
        if (!add_file(l->set, l->source, err))
            return false;
        l->source_file = source_file(l->source);
    }
    if (l->options->sequence_len > 0 && n > l->options->sequence_len)
        return too_long(l, err);
    return keep(l, 0, n, 0, err);
}

static bool load(struct loader *l, struct data_source *format, struct err *err)
{
    for (;;) {
        json_t *json = NULL;
        const enum source_result result = source_next(l->source, &json, err);
        if (result != SOURCE_RECORD)
            return result == SOURCE_END;
        const char *place = source_place(l->source);
        const bool ok =
            (format->type != DATA_AUTO || record_guess(json, format, place, &format->type, err)) &&
            record_read(json, format, &l->options->record, place, &l->record, err) &&
            add_record(l, err);
        json_decref(json);
        if (!ok)
            return false;
    }
}

bool document_load(struct document_set *set, const struct data_source *source,
                   const struct document_options *options, struct document_report *report,
                   struct err *err)
{
    struct data_source format = *source; /* borrows its strings; the type may become known */
    struct loader l = { .set = set, .options = options, .report = report, .source_file = -1 };
    l.source = source_open(source->path, err);
    if (l.source == NULL)
        return false;
    const bool ok = load(&l, &format, err);
    report->type = format.type;
    report->guessed = source->type == DATA_AUTO;
    report->n_blank_line += source_n_blank(l.source);
    record_free(&l.record);
    source_close(l.source);
    return ok;
}

void document_place(const struct document_set *set, int64_t doc, char *out, size_t size)
{
    const struct document_origin *origin = &set->origin[doc];
    const struct document_file *file = &set->files[origin->file];
    const int n = snprintf(out, size, file->is_list ? "%s[%" PRId64 "]" : "%s:%" PRId64, file->path,
                           origin->number);
    if (origin->piece > 0 && n >= 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, " (piece %" PRId64 ")", origin->piece);
}
