/* An adapter's matrix folded into the frozen one: W + scale B A, rounded to W's stored type.
 *
 *     lora_merge_scratch(be, &m) bytes of arena, then for any ranges of rows, in any order:
 *     if (!lora_merge_rows(be, &m, first, n, w, out)) ...    // a value became infinite
 *
 * The arithmetic is that of merging in PEFT, bit for bit where the processor has fused
 * multiply-add: an element of B A is the chain fma(b[k], a[k], sum) over k = 0 .. rank - 1 in f32
 * (as MKL's sgemm sums up to a rank of 128), times the scale in f32, plus W in f32, rounded once to
 * nearest even. Of an embedding PEFT rounds the change itself first, so that is done here, too.
 */
#ifndef LORA_MERGE_H
#define LORA_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/backend.h"
#include "kernels/core/dtype.h"
#include "lora/adapter.h"

struct lora_merge {
    const struct lora_slot *slot;
    enum dtype dtype; /* of W: F32, BF16 or F16 */
};

/* The shape of W: (out, in) of a linear, (vocab, d_model) of the embedding. */
int64_t lora_merge_n_row(const struct lora_merge *m);
int64_t lora_merge_n_col(const struct lora_merge *m);

/* Bytes of be->scratch that lora_merge_rows takes. The backend is a CPU's. */
size_t lora_merge_scratch(const struct backend *be, const struct lora_merge *m);

/* Rows first .. first + n: w (of any alignment) and out point at row `first`. False when an element
 * of W is finite and its sum is not, in W's type; out then holds that. */
bool lora_merge_rows(struct backend *be, const struct lora_merge *m, int64_t first, int64_t n,
                     const void *w, void *out);

#endif
