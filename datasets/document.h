/* Training documents: the records of data sets as token ids, and a target per token.
 *
 *     struct document_set set = { 0 };
 *     struct document_report report = { 0 };
 *     if (!document_load(&set, &config->train[i], &options, &report, err)) ...
 *     document d is set.ids[set.start[d] .. set.start[d + 1]), and the same range of set.targets
 *     document_set_free(&set);
 *
 * Contract: targets[t] is the label of token t + 1, or NO_TARGET; the last token of a document has
 * none, nor has the last token of a piece that a long document was cut into. So documents can be
 * laid end to end without a target ever reaching into the next one.
 */
#ifndef DATASETS_DOCUMENT_H
#define DATASETS_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/config.h"
#include "datasets/record.h"
#include "kernels/core/err.h"

struct document_options {
    struct record_options record;
    int64_t sequence_len;        /* 0: no limit */
    enum excess_strategy excess; /* pieces of a split after the first go on without BOS */
    bool keep_untargeted; /* keeps documents without a target, even without a token (evaluation) */
};

struct document_file {
    char *path;
    bool is_list;
};

/* Where a document was read: for messages, and to keep the pieces of one record together. */
struct document_origin {
    int64_t file, number; /* index in files; line or element, see datasets/source.h */
    int64_t piece;        /* 0 when whole, else 1.. */
};

struct document_set {
    int32_t *ids, *targets;         /* (n_tok) */
    int64_t *start;                 /* (n_doc + 1); NULL while n_doc is 0 */
    int64_t *n_target;              /* (n_doc): targets other than NO_TARGET */
    struct document_origin *origin; /* (n_doc) */
    struct document_file *files;
    int64_t n_tok, n_doc, n_file;
    int64_t tok_cap, doc_cap;
};

/* What was read and what became of it. Counts add up over calls; type and guessed are of the last
 * one. */
struct document_report {
    enum data_type type;
    bool guessed;
    int64_t n_record, n_blank_line;
    int64_t n_doc, n_tok, n_target; /* kept */
    int64_t longest;                /* tokens, before cutting */
    int64_t n_empty, n_too_long;    /* records dropped */
    int64_t n_untargeted; /* documents (or pieces) dropped: nothing in them carries loss */
    int64_t n_truncated, n_cut_tok; /* records, and the tokens they lost */
    int64_t n_split, n_piece;       /* records, and the pieces kept of them */
    int64_t n_cut_target;           /* targets lost at the cuts between pieces */
};

/* Appends the documents of a file or folder. On failure the set holds what came before the bad
 * record. */
bool document_load(struct document_set *set, const struct data_source *source,
                   const struct document_options *options, struct document_report *report,
                   struct err *err);
void document_set_free(struct document_set *set);

/* "quotes.jsonl:118", "quotes.json[117]", "quotes.jsonl:118 (piece 2)". */
void document_place(const struct document_set *set, int64_t doc, char *out, size_t size);

#endif
