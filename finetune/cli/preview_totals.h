/* What a run trains on, in numbers. */
#ifndef FINETUNE_CLI_PREVIEW_TOTALS_H
#define FINETUNE_CLI_PREVIEW_TOTALS_H

#include <jansson.h>
#include <stdint.h>

#include "finetune/train/data.h"
#include "kernels/core/text.h"

/* Documents of 2^k to 2^(k+1) - 1 tokens. */
enum { PREVIEW_BUCKETS = 32 };

struct preview_totals {
    int64_t n_doc, n_tok, n_trained; /* to train on */
    int64_t n_validation;            /* documents held out, or of files of their own */
    int64_t longest;
    int64_t length[PREVIEW_BUCKETS];
    struct document_report report; /* of `datasets`, validation split off included */
};

void preview_count(const struct train_data *data, struct preview_totals *out);

/* The first and last bucket that any document is in; false: none is. */
bool preview_bounds(const struct preview_totals *t, int *first, int *last);

/* "2 records cut to sequence_len, 31 tokens lost": the lines with something to say, one each. */
void preview_losses(const struct preview_totals *t, struct text *out);

/* NULL: out of memory. */
json_t *preview_json(const struct preview_totals *t);

#endif
