/* The end of the model: final norm, head, cross entropy, and in training their backward at once.
 *
 * Only rows with a target are computed, a block of them at a time, so the logits of the whole
 * stream never exist; the frozen head needs no gradient of its own, so the backward of a block
 * follows its forward and nothing is kept.
 */
#ifndef FINETUNE_MODEL_HEAD_H
#define FINETUNE_MODEL_HEAD_H

#include "finetune/model/block.h"

struct head_args {
    struct weight w;       /* (vocab, d_model) */
    const real *norm;      /* (d_model) */
    const struct act *x;   /* (n_stream, d_model) */
    const int32_t *rows;   /* (n_row): stream rows with a target, ascending */
    const int32_t *target; /* (n_row) */
    int64_t n_row, block_rows;
    real *logprob;   /* (n_row) of the targets */
    real grad_scale; /* of each target's cross entropy; 0: forward only */
    struct act *dx;  /* (n_stream, d_model): rows with a target are written */
};

/* Rows of logits at a time: about 16 M values, on a device 256 M (a GEMM needs rows to run at
 * speed), at least 16 rows. */
int64_t head_block_rows(const struct backend *be, int64_t vocab, int64_t n_row);

/* b gives backend, config, adapter and dropout; its chunk is not used but for first_token, the
 * index in the step of stream row 0. */
void head_run(const struct block *b, const struct head_args *a);

/* The logits (n_row, vocab) of rows x (n_row, d_model): for generation. */
void head_logits(const struct block *b, const struct head_args *a, struct act *logits);

#endif
